//! The record of what the broker did: every attestation, release, denial and admin action, refused ones too.
//!
//! Entries form a chain: each names the SHA-256 of the one before it, over canonical JSON (RFC 8785), so an
//! entry that is changed, dropped or moved shows. A store appends and refuses everything else. No entry holds
//! a secret, evidence or a token.

use aws_lc_rs::{digest, rand};
use serde::{Deserialize, Serialize};
use strongroom_verifier::Reason;
use strongroom_wire::canonical::to_jcs;
use strongroom_wire::tee::Tee;

use crate::store::{Store, StoreError};

/// The name by which a guest, an admin and the record speak of one decision.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct EventId(String);

impl EventId {
    /// Draws a fresh id.
    pub(crate) fn fresh() -> Self {
        let mut bytes = [0u8; 8];
        rand::fill(&mut bytes).expect("the system has randomness, or no key could have been made");
        Self(hex::encode(bytes))
    }

    /// The id as text: 16 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// The broker started.
    Start,
    /// A guest sent evidence.
    Attestation,
    /// A guest asked for a resource.
    Release,
    /// An admin, or somebody who is none, asked for something that only admins may.
    Admin,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Outcome {
    /// It was done.
    Allowed,
    /// It was refused; `reasons` or `detail` says why.
    Denied,
    /// It was allowed, and what was asked for is not there.
    Missing,
    /// It was allowed, and failed; `detail` says how.
    Failed,
}

/// One decision, before it has its place in the chain.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// The event's id.
    pub event: EventId,
    /// When, in seconds since 1970.
    pub at: u64,
    /// What it is about.
    pub kind: Kind,
    /// How it ended.
    pub outcome: Outcome,
    /// What was asked for, in words: `put resource`.
    pub action: String,
    /// The admin's name, when one was established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// The guest's platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tee: Option<Tee>,
    /// The thumbprint of the guest's key (RFC 7638).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tee_key: Option<String>,
    /// The id of the token issued or shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The version of the resource that was stored or released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Where the resource was found, when that was not the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The SHA-256 of the policy that decided, or that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Why it was denied; of an attestation, why it was graded as it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// A sentence more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The settings without which this would have been refused, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loosenings: Vec<String>,
    /// How many refusals of the same action this entry stands for besides its own: those of strangers that came
    /// too fast to get an entry each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
}

impl Record {
    /// Starts a record with a fresh event id.
    pub(crate) fn new(kind: Kind, outcome: Outcome, action: &str, at: u64) -> Self {
        Self {
            event: EventId::fresh(),
            at,
            kind,
            outcome,
            action: action.to_owned(),
            admin: None,
            tee: None,
            tee_key: None,
            token: None,
            resource: None,
            version: None,
            source: None,
            policy: None,
            reasons: Vec::new(),
            detail: None,
            loosenings: Vec::new(),
            suppressed: None,
        }
    }
}

/// A record with its place in the chain.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Entry {
    /// Its number, from 1 and without gaps.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
    /// The hash of the entry before it; 64 zeros before the first.
    pub previous: String,
    /// The SHA-256 of this entry's canonical JSON without this member, in hex.
    pub hash: String,
}

impl Entry {
    /// Puts a record behind the last entry.
    pub(crate) fn after(
        last: Option<(u64, String)>,
        record: Record,
    ) -> Result<Self, serde_json::Error> {
        let (seq, previous) =
            last.map_or_else(|| (1, GENESIS.to_owned()), |(seq, hash)| (seq + 1, hash));
        let mut entry = Self {
            seq,
            record,
            previous,
            hash: String::new(),
        };
        entry.hash = entry.digest()?;
        Ok(entry)
    }

    fn digest(&self) -> Result<String, serde_json::Error> {
        let mut value = serde_json::to_value(self)?;
        if let Some(members) = value.as_object_mut() {
            members.remove("hash");
        }
        Ok(hex::encode(digest::digest(
            &digest::SHA256,
            &to_jcs(&value)?,
        )))
    }
}

/// Checks a run of entries, oldest first: each hash, each link, no gap. A run may start anywhere, and one that
/// starts at number 1 must start from nothing.
///
/// # Errors
/// [`ChainError`], naming the first entry that does not fit.
pub fn verify_chain(entries: &[Entry]) -> Result<(), ChainError> {
    let mut last: Option<&Entry> = None;
    for entry in entries {
        if entry.digest().ok().as_deref() != Some(entry.hash.as_str()) {
            return Err(ChainError::Altered { seq: entry.seq });
        }
        let follows = match last {
            Some(last) => entry.seq == last.seq + 1 && entry.previous == last.hash,
            None => entry.seq != 1 || entry.previous == GENESIS,
        };
        if !follows {
            return Err(ChainError::Broken { seq: entry.seq });
        }
        last = Some(entry);
    }
    Ok(())
}

/// Checks the newest `most` entries of a store's record, newest first and a batch at a time: each hash, each
/// link, no gap, and that a record whose end is reached begins with number 1.
///
/// # Errors
/// [`StoreError::Record`], naming the entry that does not fit.
pub(crate) fn verify_newest(store: &dyn Store, most: u32) -> Result<(), StoreError> {
    let (mut left, mut oldest) = (most, None::<Entry>);
    while left > 0 {
        let before = oldest.as_ref().map(|entry| entry.seq);
        let mut run = store.audit(left.min(BATCH), before)?;
        if run.is_empty() {
            return match oldest {
                Some(entry) if entry.seq != 1 => Err(ChainError::Broken { seq: entry.seq }.into()),
                _ => Ok(()),
            };
        }
        left = left.saturating_sub(BATCH);
        // The entry that the batch before began with: its link is checked here.
        run.extend(oldest);
        verify_chain(&run)?;
        oldest = run.into_iter().next();
    }
    Ok(())
}

/// Where a chain of entries does not hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// An entry does not have the hash that it names.
    #[error("audit entry {seq} was altered: its hash does not match its content")]
    Altered {
        /// Its number.
        seq: u64,
    },
    /// An entry does not follow the one before it.
    #[error(
        "audit entry {seq} does not follow the entry before it: one was dropped, added or moved"
    )]
    Broken {
        /// Its number.
        seq: u64,
    },
}

const BATCH: u32 = 1_000;
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chain() -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for at in 0..4 {
            let last = entries.last().map(|e| (e.seq, e.hash.clone()));
            let mut record = Record::new(Kind::Release, Outcome::Denied, "get resource", at);
            record.reasons.push(Reason {
                rule: "r".into(),
                claim: "c".into(),
                expected: serde_json::json!(1.5),
                actual: serde_json::json!([1, {"b": null}]),
            });
            entries.push(Entry::after(last, record).unwrap());
        }
        entries
    }

    #[test]
    fn honest_chain_holds_and_survives_json() {
        let text = serde_json::to_string(&chain()).unwrap();
        verify_chain(&serde_json::from_str::<Vec<Entry>>(&text).unwrap()).unwrap();
        verify_chain(&chain()[2..]).unwrap();
    }

    #[test]
    fn altered_entry_shows() {
        let mut entries = chain();
        entries[1].record.outcome = Outcome::Allowed;
        assert_eq!(verify_chain(&entries), Err(ChainError::Altered { seq: 2 }));
    }

    #[test]
    fn entry_altered_together_with_its_hash_shows_at_the_next() {
        let mut entries = chain();
        entries[1].record.outcome = Outcome::Allowed;
        entries[1].hash = entries[1].digest().unwrap();
        assert_eq!(verify_chain(&entries), Err(ChainError::Broken { seq: 3 }));
    }

    #[test]
    fn dropped_entry_shows() {
        let mut entries = chain();
        entries.remove(1);
        assert_eq!(verify_chain(&entries), Err(ChainError::Broken { seq: 3 }));
    }

    #[test]
    fn swapped_entries_show() {
        let mut entries = chain();
        entries.swap(1, 2);
        assert_eq!(verify_chain(&entries), Err(ChainError::Broken { seq: 3 }));
    }

    fn stored(entries: usize) -> crate::store::MemoryStore {
        let store = crate::store::MemoryStore::default();
        for at in 0..entries {
            let at = u64::try_from(at).unwrap();
            let record = Record::new(Kind::Release, Outcome::Denied, "get resource", at);
            store.commit(crate::store::Change::Nothing, record).unwrap();
        }
        store
    }

    #[test]
    fn honest_record_holds_over_more_than_one_batch() {
        for entries in [0, 1, 999, 1_000, 1_001, 2_500] {
            verify_newest(&stored(entries), 10_000).unwrap();
        }
        verify_newest(&stored(2_500), 1_500).unwrap();
    }

    #[test]
    fn first_entry_that_names_a_predecessor_shows() {
        let mut entries = chain();
        entries[0].previous = "ff".repeat(32);
        entries[0].hash = entries[0].digest().unwrap();
        assert_eq!(
            verify_chain(&entries[..1]),
            Err(ChainError::Broken { seq: 1 })
        );
    }
}
