//! `strongroom audit explain`: why, what would have passed, and the command that would mend it.

use anyhow::Context as _;
use serde_json::Value;
use strongroom_client::admin::AdminClient;

use super::{moment, reason_line};
use crate::connect::block_on;
use crate::outcome::{Outcome, shown};

pub(super) fn run(client: &AdminClient, event: Option<&str>) -> anyhow::Result<Outcome> {
    let event = match event {
        Some(event) => event.to_owned(),
        None => newest_denial(client)?,
    };
    let explanation = block_on(client.explain(&event))??;
    let entry = &explanation["entry"];
    let mut text = format!(
        "{}  event {event}, entry {}\n{}.",
        moment(entry["at"].as_u64().unwrap_or_default()),
        entry["seq"],
        shown(explanation["summary"].as_str().unwrap_or_default()),
    );
    let attestation = &explanation["attestation"];
    if let Some(event) = attestation["event"].as_str() {
        let detail = shown(attestation["detail"].as_str().unwrap_or_default());
        let event = shown(event);
        text.push_str(&format!(
            "\nThe guest had attested in event {event}: {detail}."
        ));
    }
    let advice = explanation["advice"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for (number, advice) in (1..).zip(&advice) {
        text.push_str(&paragraph(number, advice));
    }
    if advice.is_empty() {
        text.push_str(match entry["outcome"].as_str() {
            Some("allowed") => "\n\nNothing stood in the way.",
            _ => "\n\nThe record has no reason beside this sentence.",
        });
    }
    if let Some(now) = explanation["now"].as_str() {
        text.push_str(&format!(
            "\n\nUnder the policies and reference values that are in force now it would be {}.",
            now.to_uppercase()
        ));
    }
    let outcome = Outcome::new(text, explanation.clone());
    let mut commands = advice
        .iter()
        .filter_map(|advice| advice["command"].as_str());
    let tried = commands.find_map(|command| command.strip_prefix(SET_VALUE));
    Ok(match tried {
        Some(pair) => outcome.next(format!(
            "strongroom policy test --reference-value {pair} --replay    # before anything is changed"
        )),
        None => outcome.next("strongroom audit"),
    })
}

fn newest_denial(client: &AdminClient) -> anyhow::Result<String> {
    let entries = block_on(client.audit(NEWEST))??;
    let denied = entries.iter().rev().find(|entry| {
        entry["outcome"] == "denied"
            && (entry["kind"] == "release" || entry["kind"] == "attestation")
    });
    let event = denied.and_then(|entry| entry["event"].as_str());
    event.map(str::to_owned).with_context(|| {
        format!("none of the newest {NEWEST} entries is a guest's denial: name an event")
    })
}

fn paragraph(number: usize, advice: &Value) -> String {
    let mut text = format!("\n\n{number}. {}", reason_line(advice));
    if !advice["nearest"].is_null() && advice["nearest"] != advice["expected"] {
        text.push_str(&format!(
            "\n   nearest that would pass: {}",
            shown(&advice["nearest"].to_string())
        ));
    }
    if let Some(command) = advice["command"].as_str() {
        text.push_str(&format!("\n   to mend it: {}", shown(command)));
    }
    if let Some(warning) = advice["warning"].as_str() {
        text.push_str(&format!("\n   {}", shown(warning)));
    }
    text
}

const SET_VALUE: &str = "strongroom reference-value set ";
const NEWEST: u32 = 10_000;
