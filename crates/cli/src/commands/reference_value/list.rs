//! `strongroom reference-value list`: what the broker holds, and what its shipped policies ask for besides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use strongroom_client::admin::{AdminClient, ListedReferenceValue};
use strongroom_verifier::AppraisalPolicies;

use crate::commands::audit::moment;
use crate::connect::block_on;
use crate::outcome::Outcome;

pub(super) fn run(client: &AdminClient) -> anyhow::Result<Outcome> {
    let listed = block_on(client.list_reference_values())??;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let unregistered = unregistered(&listed, now);
    let document = json!({
        "reference_values": listed,
        "unregistered": unregistered,
    });
    let mut text = match listed.is_empty() {
        true => "No reference value is registered.".to_owned(),
        false => listed
            .iter()
            .map(|value| line(value, now))
            .collect::<Vec<_>>()
            .join("\n"),
    };
    if !unregistered.is_empty() {
        text.push_str("\n\nThe shipped policies ask for these too, and nobody registered them:");
        for (platform, names) in &unregistered {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            text.push_str(&format!("\n  {platform:<12} {}", names.join(", ")));
        }
        text.push_str("\nOnly the platforms that your machines have matter.");
    }
    Ok(Outcome::new(text, document)
        .next("strongroom reference-value measure --help   # computes values from artefacts")
        .next("strongroom reference-value set NAME=VALUE"))
}

fn line(value: &ListedReferenceValue, now: u64) -> String {
    let mut line = format!(
        "{} = {}\n    {} {}",
        value.name,
        value.value,
        if value.expires <= now {
            "EXPIRED"
        } else {
            "until"
        },
        moment(value.expires),
    );
    let origin = value.more.get("provenance").and_then(Value::as_object);
    for (what, said) in origin.into_iter().flatten() {
        let said = match said {
            Value::Null => continue,
            Value::String(said) => said.clone(),
            Value::Number(at) if what == "registered" => moment(at.as_u64().unwrap_or_default()),
            said => said.to_string(),
        };
        line.push_str(&format!(", {} {said}", what.replace('_', " ")));
    }
    if origin.is_some_and(|origin| !origin.contains_key("signer")) {
        line.push_str(", not signed");
    }
    line
}

/// The names that a shipped policy asks for and that have no value in force, by the platform whose claims they are for.
fn unregistered(listed: &[ListedReferenceValue], now: u64) -> BTreeMap<String, BTreeSet<String>> {
    let known: BTreeSet<&str> = listed
        .iter()
        .filter(|value| now < value.expires)
        .map(|value| value.name.as_str())
        .collect();
    let mut unregistered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, claims) in asked() {
        if known.contains(name.as_str()) {
            continue;
        }
        let platforms: BTreeSet<&str> = claims
            .iter()
            .filter_map(|claim| claim.split('.').next())
            .collect();
        for platform in platforms {
            unregistered
                .entry(platform.to_owned())
                .or_default()
                .insert(name.clone());
        }
    }
    unregistered
}

/// The reference values that the shipped policies ask for, each with the claims that it is compared with.
pub(super) fn asked() -> BTreeMap<String, BTreeSet<String>> {
    let shipped = AppraisalPolicies::shipped();
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for policy in ["cpu", "gpu"]
        .into_iter()
        .filter_map(|class| shipped.of(class))
    {
        for (name, claims) in policy.asked_reference_values() {
            asked.entry(name).or_default().extend(claims);
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str, expires: u64) -> ListedReferenceValue {
        serde_json::from_value(json!({
            "name": name, "value": ["x"], "expires": expires, "provenance": {"signer": "ann"},
        }))
        .expect("it has the members of one")
    }

    #[test]
    fn expired_value_counts_as_registered() {
        let listed = [value("svn", 10), value("launch_digest", 11)];
        let missing = unregistered(&listed, 10);
        let sample = missing.get("sample").expect("sample has names left");
        assert!(
            sample.contains("svn") && !sample.contains("launch_digest"),
            "{sample:?}"
        );
        assert!(line(&listed[0], 10).contains("EXPIRED 1970-01-01T00:00:10Z"));
    }

    #[test]
    fn what_the_broker_says_besides_is_left_out() {
        assert!(line(&value("svn", 9), 1).ends_with(", signer ann"));
    }
}
