//! `strongroom audit`: what was released, what was denied, and why.

use serde_json::{Value, json};

use crate::connect::{AdminArgs, block_on};
use crate::outcome::Outcome;

/// Read the broker's record of releases, denials and admin actions, newest last.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many entries.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,

    /// Only this event.
    #[arg(long, value_name = "ID")]
    event: Option<String>,

    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let limit = if args.event.is_some() {
        1000
    } else {
        args.limit
    };
    let mut entries = block_on(args.admin.client()?.audit(limit))??;
    if let Some(event) = &args.event {
        entries.retain(|entry| entry["event"] == event.as_str());
        anyhow::ensure!(
            !entries.is_empty(),
            "no event {event} among the newest {limit} entries"
        );
    }
    let text = if entries.is_empty() {
        "Nothing has happened yet.".to_owned()
    } else {
        entries.iter().map(paragraph).collect::<Vec<_>>().join("\n")
    };
    Ok(Outcome::new(text, json!({ "entries": entries })).next("strongroom policy show"))
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
mod tests {
    use super::*;

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
