//! `strongroom audit`: what was released, what was denied, and why.

use anyhow::Context as _;
use serde_json::{Value, json};
use strongroom_broker::{Entry, verify_chain};

use crate::connect::{AdminArgs, block_on};
use crate::outcome::Outcome;

/// Read the broker's record of releases, denials and admin actions, newest last.
///
/// The entries form a chain: each holds the hash of the one before. What is read is verified, and a changed, dropped or
/// moved entry is an error.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many entries.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,

    /// Only those before this number, to page backwards.
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,

    /// Only this event, however old.
    #[arg(long, value_name = "ID", conflicts_with_all = ["before", "limit"])]
    event: Option<String>,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let client = args.admin.client()?;
    let entries = match (&args.event, args.before) {
        (Some(event), _) => {
            let entry = block_on(client.audit_event(event))??;
            vec![entry.with_context(|| format!("the record has no event {event}"))?]
        }
        (None, Some(before)) => block_on(client.audit_before(before, args.limit))??,
        (None, None) => block_on(client.audit(args.limit))??,
    };
    verify(&entries)?;
    if entries.is_empty() {
        return Ok(Outcome::new(
            "Nothing is recorded here.",
            json!({ "entries": [] }),
        ));
    }
    let text: Vec<String> = entries.iter().map(paragraph).collect();
    let text = format!(
        "{}\n\nThe chain holds over these {} entries.",
        text.join("\n"),
        entries.len()
    );
    let denied = entries
        .iter()
        .rev()
        .find(|entry| entry["outcome"] == "denied");
    let next = match (
        &args.event,
        denied.and_then(|entry| entry["event"].as_str()),
    ) {
        (None, Some(event)) => format!("strongroom audit --event {event}"),
        _ => "strongroom policy show".to_owned(),
    };
    Ok(Outcome::new(text, json!({ "entries": entries, "chain": "holds" })).next(next))
}

/// Checks each hash and each link of a run of entries.
fn verify(entries: &[Value]) -> anyhow::Result<()> {
    let parsed: Result<Vec<Entry>, _> = entries
        .iter()
        .cloned()
        .map(serde_json::from_value)
        .collect();
    let parsed = parsed
        .context("the broker's record has an entry of a form that this version does not know")?;
    verify_chain(&parsed)
        .context("the broker's record was changed: keep a copy of its folder for the investigation")
}

/// One entry: when, how it ended, what was asked and by whom; below it why, and what let it through.
fn paragraph(entry: &Value) -> String {
    let part = |name: &str| entry[name].as_str().unwrap_or_default();
    let asker = match (part("admin"), part("tee")) {
        ("", "") => "a stranger".to_owned(),
        ("", tee) => format!("a {tee} guest"),
        (admin, _) => format!("admin {admin}"),
    };
    let mut text = format!(
        "{}  {:<8} {}{}{}  by {asker}  event {}",
        moment(entry["at"].as_u64().unwrap_or_default()),
        part("outcome").to_uppercase(),
        part("action"),
        if part("resource").is_empty() { "" } else { " " },
        part("resource"),
        part("event"),
    );
    for reason in entry["reasons"].as_array().into_iter().flatten() {
        text.push_str(&format!("\n    {}", reason_line(reason)));
    }
    if !part("detail").is_empty() {
        text.push_str(&format!("\n    {}", part("detail")));
    }
    if !part("source").is_empty() {
        text.push_str(&format!("\n    from {}", part("source")));
    }
    if let Some(suppressed) = entry["suppressed"].as_u64() {
        text.push_str(&format!("\n    and {suppressed} more like it"));
    }
    let loosenings: Vec<&str> = entry["loosenings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !loosenings.is_empty() {
        text.push_str(&format!("\n    let through by {}", loosenings.join(", ")));
    }
    text
}

/// A reason as a person reads it.
pub(crate) fn reason_line(reason: &Value) -> String {
    let part = |name: &str| match &reason[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    format!(
        "rule {}: {} should be {}, is {}",
        part("rule"),
        part("claim"),
        part("expected"),
        part("actual")
    )
}

/// A time as people write it, in UTC.
pub(crate) fn moment(seconds: u64) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let moment =
        time::OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap_or(i64::MAX))
            .ok()
            .and_then(|moment| moment.format(format).ok());
    moment.unwrap_or_else(|| seconds.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn changed_entry_is_shown_as_if_it_were_true() {
        let entry = json!({
            "seq": 1, "event": "e1", "at": 0, "kind": "release", "outcome": "allowed", "action": "get resource",
            "previous": "0".repeat(64), "hash": "0".repeat(64),
        });
        let error = verify(&[entry]).unwrap_err();
        assert!(error.to_string().contains("was changed"), "{error}");
    }

    #[test]
    fn entry_reads_as_a_line_with_its_reasons() {
        let entry = json!({
            "seq": 3, "event": "e1", "at": 0, "outcome": "denied", "action": "get resource", "hash": "ab",
            "resource": "a/b/c", "tee": "sample", "loosenings": ["x"],
            "reasons": [{"rule": "r", "claim": "c", "expected": "x", "actual": ["y"]}],
        });
        let text = paragraph(&entry);
        assert_eq!(
            text,
            "1970-01-01T00:00:00Z  DENIED   get resource a/b/c  by a sample guest  event e1
    rule r: c should be x, is [\"y\"]
    let through by x"
        );
    }
}
