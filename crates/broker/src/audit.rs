//! The record of what the broker did: every attestation, release, denial and admin action, refused ones too.
//!
//! Entries form a transparency log (C2SP tlog-tiles, over the Merkle tree of RFC 6962): every write signs the whole of
//! it, so an entry that is changed, dropped, added or moved shows. A store appends and refuses everything else. No entry
//! holds a secret, evidence or a token.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use strongroom_verifier::Reason;
use strongroom_wire::tee::Tee;
use strongroom_wire::tlog::{
    Checkpoint, FULL_WIDTH, Frontier, Hash, ProveError, SignerKey, TileKind, TilePath, VerifierKey,
    frontier_from_tiles, leaf_hash, prove_inclusion, root_of,
};
use zeroize::Zeroizing;

use crate::store::{Head, Store, StoreError};

/// The name by which a guest, an admin and the record speak of one decision.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct EventId(String);

impl EventId {
    /// Draws a fresh id.
    pub(crate) fn fresh() -> Self {
        Self(hex::encode(fresh_id::<12>()))
    }

    /// The id as text: 24 hexadecimal digits, in the order of time.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An id that nobody had: the time, in steps of 65.5 microseconds, and then what is drawn. So an index over ids grows at
/// its end, and writing one changes pages that are at hand, where one that is all drawn changes any page there is.
pub(crate) fn fresh_id<const N: usize>() -> [u8; N] {
    let mut id = [0; N];
    rand::fill(&mut id).expect("the system has randomness, or no key could have been made");
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let steps = since.map_or(0, |since| since.as_nanos() >> 16);
    // The lowest six bytes of sixteen: enough until the year 2554.
    let time = steps.to_be_bytes();
    id.iter_mut()
        .zip(&time[10..])
        .for_each(|(byte, of_time)| *byte = *of_time);
    id
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

/// One decision, before it has its number.
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
    /// Of an attestation: what was launched, as the platform measured it and as its claim spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurement: Option<String>,
    /// Of an attestation: the digest of the init-data that the evidence binds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_data: Option<String>,
    /// The id of the token issued or shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// What the guest asked beside the path, for policies that look at it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// Whether the guest asked more than the record keeps: such a decision cannot be taken again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub query_left_out: bool,
    /// The version of the resource that was stored or released, or of the policy that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Where the resource was found, when that was not the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The SHA-256 of the sealed version that was stored: it says nothing about the secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The id of the policy that decided, or that was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_id: Option<String>,
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
    /// Of a pruning: the first entry that was kept, counted from 0. Without such an entry no other may be missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_index: Option<u64>,
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
            measurement: None,
            init_data: None,
            token: None,
            resource: None,
            query: BTreeMap::new(),
            query_left_out: false,
            version: None,
            source: None,
            digest: None,
            policy_id: None,
            policy: None,
            reasons: Vec::new(),
            detail: None,
            loosenings: Vec::new(),
            suppressed: None,
            minimum_index: None,
        }
    }

    /// The same of another event: for work that takes more than one entry.
    pub(crate) fn fresh(&self) -> Self {
        Self {
            event: EventId::fresh(),
            ..self.clone()
        }
    }
}

/// A record with its number.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Entry {
    /// Its number, from 1 and without gaps. In the log its position is one less.
    pub seq: u64,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
}

impl Entry {
    /// Gives a record its number, and the bytes that the log hashes. An entry that the log has no room for loses its
    /// reasons, and says so.
    pub(crate) fn numbered(seq: u64, record: Record) -> Result<(Self, String), serde_json::Error> {
        let mut entry = Self { seq, record };
        let mut text = serde_json::to_string(&entry)?;
        if text.len() > MAX_ENTRY {
            let count = entry.record.reasons.len();
            entry.record.reasons.clear();
            let detail = entry.record.detail.get_or_insert_default();
            detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
            detail.push_str(&format!(" [{count} reasons were too long for the record]"));
            text = serde_json::to_string(&entry)?;
        }
        Ok((entry, text))
    }
}

/// The key that signs the record's checkpoints, and the name under which it does.
pub(crate) struct LogKey {
    signer: SignerKey,
    is_fresh: bool,
    last: Mutex<Option<Signed>>,
}

/// A checkpoint that this process signed and saw committed, or found and believed.
struct Signed {
    note: String,
    size: u64,
    root: Hash,
    governing: Option<Hash>,
}

/// A tree that a store's head stands for, as it was signed.
pub(crate) struct Resumed {
    pub(crate) frontier: Frontier,
    /// The digest of what governs; nothing where an older version signed.
    pub(crate) governing: Option<Hash>,
}

impl LogKey {
    /// Draws a fresh key.
    pub(crate) fn generate() -> Result<Self, StoreError> {
        let signer = SignerKey::generate(ORIGIN).map_err(sign)?;
        Ok(Self {
            is_fresh: true,
            ..Self::new(signer)
        })
    }

    /// Reads the text form of a signer's key.
    pub(crate) fn from_text(text: &str) -> Result<Self, StoreError> {
        SignerKey::parse(text.trim_end())
            .map(Self::new)
            .map_err(sign)
    }

    /// The same key each time, as another process has it.
    #[cfg(test)]
    pub(crate) fn generate_for_tests() -> Self {
        static KEY: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
            let key = LogKey::generate().expect("the system has randomness");
            key.to_text().as_str().to_owned()
        });
        Self::from_text(&KEY).expect("it was printed so")
    }

    fn new(signer: SignerKey) -> Self {
        Self {
            signer,
            is_fresh: false,
            last: Mutex::default(),
        }
    }

    /// The text form, which is secret.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        self.signer.to_private_text()
    }

    /// Whether it was made just now, and can have signed nothing before.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// The key by which anybody verifies the record.
    pub(crate) fn verifier(&self) -> &VerifierKey {
        self.signer.verifier()
    }

    /// Signs the record as it stands, and what governs.
    pub(crate) fn checkpoint(
        &self,
        frontier: &Frontier,
        governing: Option<&Hash>,
    ) -> Result<String, StoreError> {
        let (name, size) = (self.verifier().name(), frontier.size());
        let mut checkpoint = Checkpoint::new(name, size, frontier.root()).map_err(sign)?;
        if let Some(governing) = governing {
            let line = format!("{GOVERNING}{governing}");
            checkpoint = checkpoint.with_extension(&line).map_err(sign)?;
        }
        checkpoint.sign(&[&self.signer]).map_err(sign)
    }

    /// The tree to append to: that of a store's head, if this key signed it and it is none that this process saw surpassed.
    ///
    /// Nothing is signed over what was not: who changes the tree in the database would have the next entry vouch for it.
    pub(crate) fn resume(
        &self,
        size: u64,
        edge: Vec<Hash>,
        note: &str,
    ) -> Result<Resumed, StoreError> {
        let fault = || LogError::Edge { size };
        let frontier = Frontier::resume(size, edge).map_err(|_| fault())?;
        let root = frontier.root();
        let mut last = self.last();
        if last.as_ref().is_none_or(|last| last.note != note) {
            let checkpoint = open_checkpoint(note, size, self.verifier())?;
            if let Some(last) = &*last {
                let (found, known) = (checkpoint.size(), last.size);
                if found < known || (found == known && *checkpoint.root() != last.root) {
                    return Err(LogError::SetBack { known, found }.into());
                }
            }
            *last = Some(Signed {
                note: note.to_owned(),
                size: checkpoint.size(),
                root: *checkpoint.root(),
                governing: governing(&checkpoint),
            });
        }
        match &*last {
            Some(last) if (last.size, last.root) == (size, root) => Ok(Resumed {
                frontier,
                governing: last.governing,
            }),
            _ => Err(fault().into()),
        }
    }

    /// Keeps in mind what was signed, once it is durable.
    pub(crate) fn remember(&self, note: String, frontier: &Frontier, governing: Option<Hash>) {
        *self.last() = Some(Signed {
            note,
            size: frontier.size(),
            root: frontier.root(),
            governing,
        });
    }

    fn last(&self) -> MutexGuard<'_, Option<Signed>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks a store's record: the newest `most` entries against their hashes, all hashes that stand for others against
/// these, the right edge against them all, and the checkpoint's signature over the edge.
///
/// # Errors
/// [`StoreError::Record`], naming what does not fit.
pub(crate) fn verify_newest(
    store: &dyn Store,
    key: &VerifierKey,
    most: u64,
) -> Result<(), StoreError> {
    let head = store.head()?.ok_or(LogError::NoHead)?;
    verify_entries(store, &head, most)?;
    let root = root(store, head.size, most)?;
    let stored = Frontier::resume(head.size, head.edge.clone())
        .map_err(|_| LogError::Edge { size: head.size })?;
    if stored.root() != root {
        return Err(LogError::Edge { size: head.size }.into());
    }
    let checkpoint = open_checkpoint(&head.checkpoint, head.size, key)?;
    match checkpoint.size() == head.size && checkpoint.root() == &root {
        true => verify_pruning(store, &head, &checkpoint),
        false => Err(LogError::OtherHead {
            signed: checkpoint.size(),
            found: head.size,
        }
        .into()),
    }
}

/// The checkpoint over `size` entries, if this key signed it.
pub(crate) fn open_checkpoint(
    note: &str,
    size: u64,
    key: &VerifierKey,
) -> Result<Checkpoint, LogError> {
    Checkpoint::open(note.as_bytes(), std::slice::from_ref(key)).map_err(|error| {
        LogError::Checkpoint {
            size,
            reason: error.to_string(),
        }
    })
}

/// The digest of what governed when a checkpoint was signed.
pub(crate) fn governing(checkpoint: &Checkpoint) -> Option<Hash> {
    let mut lines = checkpoint.extensions().iter();
    let digest = lines.find_map(|line| line.strip_prefix(GOVERNING))?;
    let bytes = STANDARD.decode(digest).ok()?;
    Some(Hash::from_bytes(bytes.try_into().ok()?))
}

/// That what is missing at the beginning was pruned: an entry under the signed root says so.
fn verify_pruning(
    store: &dyn Store,
    head: &Head,
    checkpoint: &Checkpoint,
) -> Result<(), StoreError> {
    if head.size > head.minimum && store.log_entries(head.minimum, 1)?.is_empty() {
        let seq = head.minimum + 1;
        return Err(LogError::Missing { seq }.into());
    }
    if head.minimum == 0 {
        return Ok(());
    }
    let fault = || LogError::Pruned { seq: head.minimum };
    let at = head.pruned_by.checked_sub(1).ok_or_else(fault)?;
    let text = store.log_entries(at, 1)?.pop().ok_or_else(fault)?;
    let proof = prove_inclusion(at, head.size, |path| hashes(store, path));
    let proof = proof.map_err(|error| match error {
        ProveError::Read { error, .. } => error,
        _ => fault().into(),
    })?;
    checkpoint
        .includes(at, &leaf_hash(text.as_bytes()), &proof)
        .map_err(|_| fault())?;
    let entry: Entry = serde_json::from_str(&text).map_err(|_| fault())?;
    match entry.record.minimum_index == Some(head.minimum) {
        true => Ok(()),
        false => Err(fault().into()),
    }
}

fn verify_entries(store: &dyn Store, head: &Head, most: u64) -> Result<(), StoreError> {
    let size = head.size;
    let mut position = size.saturating_sub(most).max(head.minimum);
    while position < size {
        let count = u32::try_from(size - position).map_or(BATCH, |left| left.min(BATCH));
        let entries = store.log_entries(position, count)?;
        let hashes = store.log_hashes(0, position, count)?;
        if entries.len() != hashes.len() || entries.is_empty() {
            return Err(LogError::Missing { seq: position + 1 }.into());
        }
        for (seq, (entry, hash)) in (position + 1..).zip(entries.iter().zip(&hashes)) {
            if leaf_hash(entry.as_bytes()) != *hash {
                return Err(LogError::Altered { seq }.into());
            }
        }
        position += u64::try_from(entries.len()).unwrap_or_else(|_| u64::from(BATCH));
    }
    // A row behind the end would be one that the tree does not know, unless another broker wrote meanwhile.
    let more = !store.log_entries(size, 1)?.is_empty();
    let grown = || Ok::<_, StoreError>(store.head()?.is_some_and(|head| head.size > size));
    match !more || grown()? {
        true => Ok(()),
        false => Err(LogError::Missing { seq: size + 1 }.into()),
    }
}

/// The root of the tree over what is stored. A full tile is taken at its hash, and that of the newest is recomputed.
fn root(store: &dyn Store, size: u64, most: u64) -> Result<Hash, StoreError> {
    let fault = || LogError::Edge { size };
    let (mut level, mut full, mut recent) = (0u8, size / TILE, most / TILE + 1);
    while full > 0 {
        for tile in full.saturating_sub(recent)..full {
            let under = store.log_hashes(level, tile * TILE, u32::from(FULL_WIDTH))?;
            let above = store.log_hashes(level + 1, tile, 1)?;
            if under.len() != usize::from(FULL_WIDTH) || above != [root_of(&under)] {
                return Err(fault().into());
            }
        }
        (level, full, recent) = (level + 1, full / TILE, recent / TILE + 1);
    }
    let tile = |path: &TilePath| hashes(store, path);
    let edge = frontier_from_tiles(size, tile).map_err(|error| match error {
        ProveError::Read { error, .. } => error,
        _ => fault().into(),
    })?;
    Ok(edge.root())
}

/// The hashes of a tile.
pub(crate) fn hashes(store: &dyn Store, path: &TilePath) -> Result<Vec<Hash>, StoreError> {
    match path.kind() {
        TileKind::Hashes { level } => {
            let first = path.index().saturating_mul(TILE);
            store.log_hashes(level, first, u32::from(path.width()))
        }
        TileKind::Entries => Ok(Vec::new()),
    }
}

/// Where the record does not hold.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// An entry does not have the hash under which it was written.
    #[error("audit entry {seq} was altered: its hash does not match its content")]
    Altered {
        /// Its number.
        seq: u64,
    },
    /// An entry is not where it should be.
    #[error("audit entry {seq} is not where it should be: one was dropped or added")]
    Missing {
        /// Its number.
        seq: u64,
    },
    /// The record has no newest checkpoint, which every store has from its beginning.
    #[error(
        "the record has no checkpoint: it was emptied past the broker. Keep the store for the investigation, and restore \
         it from a copy"
    )]
    NoHead,
    /// The store became an older one while this broker had it open.
    #[error(
        "the record has {found} audit entries and had {known}: it was set back while this broker ran. Nothing is written \
         to it before a restart"
    )]
    SetBack {
        /// How many entries there were.
        known: u64,
        /// How many there are.
        found: u64,
    },
    /// Policies, reference values or admins are others than the newest checkpoint signs.
    #[error(
        "policies, reference values or admins in the store are not those that the newest checkpoint signs: they were \
         changed past the broker. Keep the store for the investigation, and restore it from a copy"
    )]
    Governing,
    /// Entries are gone, and no entry says that they were pruned.
    #[error(
        "audit entries up to {seq} are not there, and no entry under the signature says that they were pruned"
    )]
    Pruned {
        /// The number of the last that is gone.
        seq: u64,
    },
    /// The hashes over the entries do not fit together.
    #[error(
        "the hashes over the first {size} audit entries do not fit together: some were altered, dropped or moved"
    )]
    Edge {
        /// How many entries there are.
        size: u64,
    },
    /// The newest checkpoint is not signed by this broker's key, or is malformed.
    #[error("the checkpoint over {size} audit entries does not hold: {reason}")]
    Checkpoint {
        /// How many entries there are.
        size: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The newest checkpoint speaks of another record than the one that is there.
    #[error(
        "the newest checkpoint is of {signed} audit entries, and there are {found}: the end was dropped or rewritten"
    )]
    OtherHead {
        /// How many entries were signed.
        signed: u64,
        /// How many there are.
        found: u64,
    },
}

fn sign(error: impl std::fmt::Display) -> StoreError {
    StoreError::Sign(error.to_string())
}

/// The name of the record in its checkpoints.
const ORIGIN: &str = "strongroom-audit";
/// Begins a checkpoint's line with the digest of what governs.
const GOVERNING: &str = "governing sha256 ";
const BATCH: u32 = 1_024;
const TILE: u64 = 256;
/// What an entry bundle's length field can say.
const MAX_ENTRY: usize = 65_535;
const MAX_DETAIL: usize = 4_096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::{Change, Ledger, SqliteStore};

    fn record(at: u64) -> Record {
        Record::new(Kind::Release, Outcome::Denied, "get resource", at)
    }

    fn ledger(entries: u64) -> Ledger {
        let key = LogKey::generate().unwrap();
        let ledger = Ledger::new(Box::new(SqliteStore::in_memory(&key).unwrap()), key);
        let group = (0..entries).map(|at| (Change::Nothing, record(at)));
        ledger
            .store()
            .commit(group.collect(), ledger.key())
            .unwrap();
        ledger
    }

    fn verified(ledger: &Ledger) -> Result<(), StoreError> {
        verify_newest(ledger.store(), ledger.key().verifier(), 10_000)
    }

    #[test]
    fn honest_record_holds_at_every_size_around_a_tile() {
        for entries in [0, 1, 2, 255, 256, 257, 511, 512, 700] {
            let ledger = ledger(entries);
            verified(&ledger).unwrap();
            ledger.commit(Change::Nothing, record(9)).unwrap();
            verified(&ledger).unwrap();
        }
    }

    #[test]
    fn record_signed_by_another_key_is_refused() {
        let ledger = ledger(3);
        let other = LogKey::generate().unwrap();
        let outcome = verify_newest(ledger.store(), other.verifier(), 10);
        assert!(
            matches!(
                outcome,
                Err(StoreError::Record(LogError::Checkpoint { size: 3, .. }))
            ),
            "{outcome:?}"
        );
    }

    #[test]
    fn key_survives_its_text() {
        let key = LogKey::generate().unwrap();
        let again = LogKey::from_text(&key.to_text()).unwrap();
        let mut frontier = Frontier::new();
        frontier.push(Hash::from_bytes([1; 32]));
        let governs = Hash::from_bytes([2; 32]);
        let note = again.checkpoint(&frontier, Some(&governs)).unwrap();
        let opened = open_checkpoint(&note, 1, key.verifier()).unwrap();
        assert_eq!((opened.size(), governing(&opened)), (1, Some(governs)));
    }

    #[test]
    fn ids_that_are_drawn_one_after_the_other_are_out_of_order_or_the_same() {
        let ids: Vec<[u8; 12]> = (0..1_000).map(|_| fresh_id()).collect();
        assert!(ids.windows(2).all(|pair| pair[0][..6] <= pair[1][..6]));
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
    }

    #[test]
    fn entry_that_is_too_long_loses_its_reasons_and_says_so() {
        let mut long = record(1);
        let reason = Reason {
            rule: "r".repeat(40_000),
            claim: "c".into(),
            expected: serde_json::json!(1.5),
            actual: serde_json::json!([1, {"b": null}]),
        };
        long.reasons = vec![reason.clone(), reason];
        let (entry, text) = Entry::numbered(1, long).unwrap();
        assert!(text.len() < MAX_ENTRY && entry.record.reasons.is_empty());
        let detail = entry.record.detail.clone().unwrap();
        assert!(detail.contains("2 reasons were too long"), "{detail}");
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }
}
