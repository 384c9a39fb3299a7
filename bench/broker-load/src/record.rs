//! The broker's record, read and checked by the program that ships: `strongroom audit`.

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::server::{Broker, Server};

/// What is compared of an entry.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) kind: String,
    pub(crate) outcome: String,
    pub(crate) action: String,
    #[serde(default)]
    pub(crate) token: Option<String>,
    #[serde(default)]
    pub(crate) resource: Option<String>,
    #[serde(default)]
    pub(crate) version: Option<u64>,
}

impl Entry {
    pub(crate) fn is(&self, kind: &str, action: &str) -> bool {
        self.kind == kind && self.action == action && self.outcome == "allowed"
    }
}

/// Has the whole record verified, and that it begins with what the last call found: so nothing that was there then has
/// been changed or dropped since.
pub(crate) fn verify(broker: &Broker, server: &Server) -> anyhow::Result<()> {
    let checkpoint = broker.beside("checkpoint");
    let path = checkpoint.to_str().context("a folder without a name")?;
    let mut words = vec!["audit", "verify", "--keep", path];
    if checkpoint.exists() {
        words.extend(["--since", path]);
    }
    let verified = broker.ask(server, &words)?;
    ensure!(
        verified["holds"] == true,
        "the record does not hold: {verified}"
    );
    Ok(())
}

/// The entries after number `seq`, oldest first and without a gap.
pub(crate) fn entries_after(
    broker: &Broker,
    server: &Server,
    seq: u64,
) -> anyhow::Result<Vec<Entry>> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let before = all.last().map(|entry| entry.seq.to_string());
        let mut words = vec!["audit", "--limit", PAGE];
        if let Some(before) = &before {
            words.extend(["--before", before]);
        }
        let page = broker.ask(server, &words)?;
        let page: Vec<Entry> = serde_json::from_value(page["entries"].clone())
            .context("the record has entries of another form")?;
        for entry in page.into_iter().rev() {
            if let Some(newer) = all.last() {
                ensure!(
                    entry.seq + 1 == newer.seq,
                    "the record has no entry {}",
                    newer.seq - 1
                );
            }
            if entry.seq <= seq {
                all.reverse();
                return Ok(all);
            }
            all.push(entry);
        }
        if all.last().is_none_or(|entry| entry.seq == 1) {
            all.reverse();
            return Ok(all);
        }
    }
}

const PAGE: &str = "10000";
