//! `strongroom audit`: what was released, what was denied, and why; and whether the record is whole.

mod explain;
mod export;
mod prune;
mod report;
mod verify;

use std::path::Path;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};
use strongroom_wire::tlog::VerifierKey;

use crate::connect::{AdminArgs, block_on};
use crate::files;
use crate::outcome::{Outcome, shown};

pub(in crate::commands) use verify::{Source, verify as verify_record};

/// Read, explain and verify the broker's record of releases, denials and admin actions.
///
/// Without a command: the newest entries, newest last. The record is a transparency log (C2SP tlog-tiles): every write
/// signs the whole of it, and `strongroom audit verify` shows whether anything was changed, dropped, added or moved.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,

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

#[derive(Subcommand)]
enum Action {
    /// Tell why an event ended as it did, and what would mend it
    Explain {
        /// The event's id, as the guest was told it [default: the newest denial of a guest]
        event: Option<String>,
    },
    Verify(verify::Args),
    Export(export::Args),
    Report(report::Args),
    Prune(prune::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        None => list(args),
        Some(Action::Explain { event }) => explain::run(&args.admin.client()?, event.as_deref()),
        Some(Action::Verify(verify)) => verify::run(&args.admin, verify),
        Some(Action::Export(export)) => export::run(&args.admin, export),
        Some(Action::Report(report)) => report::run(&args.admin, report),
        Some(Action::Prune(prune)) => prune::run(&args.admin.client()?, prune),
    }
}

fn list(args: &Args) -> anyhow::Result<Outcome> {
    let client = args.admin.client()?;
    let entries = match (&args.event, args.before) {
        (Some(event), _) => {
            let entry = block_on(client.audit_event(event))??;
            let missing = || {
                format!(
                    "the record has no event {event}, or its entry was pruned: `strongroom audit verify` says from which \
                     entry on the record is there"
                )
            };
            vec![entry.with_context(missing)?]
        }
        (None, Some(before)) => block_on(client.audit_before(before, args.limit))??,
        (None, None) => block_on(client.audit(args.limit))??,
    };
    if entries.is_empty() {
        return Ok(Outcome::new(
            "Nothing is recorded here, or it was pruned.",
            json!({ "entries": [] }),
        )
        .next("strongroom audit verify    # says from which entry on the record is there"));
    }
    let text: Vec<String> = entries.iter().map(paragraph).collect();
    let denied = entries
        .iter()
        .rev()
        .find(|entry| entry["outcome"] == "denied");
    let event = denied.and_then(|entry| entry["event"].as_str());
    let outcome = Outcome::new(text.join("\n"), json!({ "entries": entries }));
    let outcome = match event {
        Some(event) => outcome.next(format!("strongroom audit explain {event}")),
        None => outcome,
    };
    Ok(outcome.next("strongroom audit verify"))
}

/// Reads the key by which the record is verified: from a file, or as it is written there; by default the one beside
/// the broker's other files.
fn verifier(admin: &AdminArgs, key: Option<&str>) -> anyhow::Result<VerifierKey> {
    let Some(key) = key else {
        let own = admin.dir.join("audit.pub");
        return named_verifier(&own.to_string_lossy()).context(
            "the key that verifies the record is needed: name the broker's audit.pub with --key",
        );
    };
    named_verifier(key)
}

/// The key that verifies a record, as it is written or in a file.
pub(in crate::commands) fn named_verifier(key: &str) -> anyhow::Result<VerifierKey> {
    let text = match key.parse::<VerifierKey>() {
        Ok(key) => return Ok(key),
        Err(_) => files::read_text(Path::new(key), MAX_KEY)?,
    };
    text.trim()
        .parse()
        .context("this is no key of a log: it looks like strongroom-audit+01234567+BASE64")
}

/// One entry: when, how it ended, what was asked and by whom; below it why, and what let it through.
fn paragraph(entry: &Value) -> String {
    let part = |name: &str| shown(entry[name].as_str().unwrap_or_default());
    let asker = match (part("admin").as_str(), part("tee").as_str()) {
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
    let loosenings: Vec<String> = entry["loosenings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(shown))
        .collect();
    if !loosenings.is_empty() {
        text.push_str(&format!("\n    let through by {}", loosenings.join(", ")));
    }
    text
}

/// A reason as a person reads it. Guests put into it what they like.
pub(crate) fn reason_line(reason: &Value) -> String {
    shown(&reason_text(reason))
}

/// As [`reason_line`], unescaped.
fn reason_text(reason: &Value) -> String {
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

const MAX_KEY: u64 = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn claim_of_a_guest_writes_to_the_terminal_what_it_likes() {
        let entry = json!({
            "outcome": "denied\u{1b}[2J", "action": "a\n", "resource": "r\r", "tee": "t\u{1b}", "event": "e\u{7}",
            "detail": "d\u{1b}]0;x", "source": "s\n", "loosenings": ["l\u{1b}"],
            "reasons": [{"rule": "r\u{1b}", "claim": "c\n", "expected": {"\u{9b}": 1}, "actual": "\u{1b}[1A\u{202e}"}],
        });
        let text = paragraph(&entry);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "{text:?}"
        );
        assert!(!text.contains('\u{202e}'));
    }

    #[test]
    fn entry_reads_as_a_line_with_its_reasons() {
        let entry = json!({
            "seq": 3, "event": "e1", "at": 0, "outcome": "denied", "action": "get resource",
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
