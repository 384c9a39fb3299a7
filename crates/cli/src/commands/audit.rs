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

/// One entry: a line, and one more for each reason.
fn paragraph(entry: &Value) -> String {
    let mut text = one_line(entry);
    for reason in entry["reasons"].as_array().into_iter().flatten() {
        text.push_str(&format!("\n    {}", reason_line(reason)));
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

/// The scalar members of a document, in their order.
pub(crate) fn one_line(document: &Value) -> String {
    let members = document.as_object().into_iter().flatten();
    let shown = members.filter_map(|(name, value)| match value {
        Value::Number(seconds) if name == "at" => Some(moment(seconds.as_u64()?)),
        // The chain's hashes are for programs.
        _ if name == "hash" || name == "previous" => None,
        Value::String(text) if !text.is_empty() => Some(format!("{name}={text}")),
        Value::Number(_) | Value::Bool(_) => Some(format!("{name}={value}")),
        _ => None,
    });
    shown.collect::<Vec<_>>().join("  ")
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
            "seq": 3, "event": "e1", "at": 0, "outcome": "denied", "hash": "ab",
            "reasons": [{"rule": "r", "claim": "c", "expected": "x", "actual": ["y"]}],
        });
        let text = paragraph(&entry);
        assert!(
            text.contains("1970-01-01T00:00:00Z")
                && text.contains("outcome=denied")
                && !text.contains("hash")
        );
        assert!(text.ends_with("rule r: c should be x, is [\"y\"]"));
    }
}
