//! Where resources, policies, reference values and the audit record are kept.
//!
//! One trait and one conformance suite for every implementation. A store sees secrets sealed, never the key
//! (`sealing`). Every change comes with its audit record, and both are there or neither is. [`Ledger`] is the one way
//! to change anything: it commits what comes in at the same time together.

#[cfg(test)]
mod conformance;
mod governing;
mod ledger;
mod postgres;
mod sealing;
mod sqlite;

use rusqlite::ErrorCode;
use serde::Serialize;
use strongroom_verifier::{ReferenceValue, ReferenceValues};
use strongroom_wire::resource::ResourcePath;
use strongroom_wire::tlog::{FULL_WIDTH, Hash};

use crate::audit::{Entry, LogError, LogKey, Record};
use crate::config::Role;

pub(crate) use governing::Governing;
pub(crate) use ledger::Ledger;
pub(crate) use postgres::{PostgresStore, Target};
pub use sealing::SealError;
pub(crate) use sealing::{SealedVersion, Secret, StorageKey, StorageKeys};
pub(crate) use sqlite::SqliteStore;

/// What a broker keeps. All calls block; an implementation is shared between threads.
pub(crate) trait Store: Send + Sync {
    /// Applies each change and appends its record, in order, to what `key` signed before: the group is durable once this returns, or none of it is
    /// there. A change that fails leaves no trace and spoils no other.
    ///
    /// `record.version` and `record.digest` are filled in where a change makes or removes a version. A change to
    /// something that does not exist is [`StoreError::NotFound`].
    fn commit(
        &self,
        group: Vec<(Change, Record)>,
        key: &LogKey,
    ) -> Result<Vec<Committed>, StoreError>;

    /// A version of a secret, still sealed; the newest when none is named.
    fn sealed_secret(
        &self,
        path: &ResourcePath,
        version: Option<u64>,
    ) -> Result<Option<SealedVersion>, StoreError>;

    /// The newest version of every resource, by path, without contents.
    fn resources(&self) -> Result<Vec<ResourceMetadata>, StoreError>;

    /// Every version of one resource that is kept, oldest first, without contents.
    fn resource_versions(&self, path: &ResourcePath) -> Result<Vec<ResourceMetadata>, StoreError>;

    /// Every version of one resource that was deleted, oldest first: what is known of it still.
    fn deleted_versions(&self, path: &ResourcePath) -> Result<Vec<ResourceMetadata>, StoreError>;

    /// Up to `most` sealed versions that another storage key wrapped, to be wrapped anew.
    fn wrapped_by_others(&self, key_id: &str, most: u32) -> Result<Vec<Wrapped>, StoreError>;

    /// The policies in force, by id. One that was removed is not among them.
    fn policies(&self) -> Result<Vec<PolicyVersion>, StoreError>;

    /// Every version of a policy, oldest first, removals included.
    fn policy_versions(&self, id: &str) -> Result<Vec<PolicyVersion>, StoreError>;

    /// Every reference value in force, the expired ones too.
    fn reference_values(&self) -> Result<ReferenceValues, StoreError>;

    /// Every version of a reference value, oldest first, removals included.
    fn reference_value_versions(
        &self,
        name: &str,
    ) -> Result<Vec<ReferenceValueVersion>, StoreError>;

    /// The admins with a key, by name. One who was revoked is not among them.
    fn admins(&self) -> Result<Vec<AdminVersion>, StoreError>;

    /// Every version of an admin, oldest first, revocations included.
    fn admin_versions(&self, name: &str) -> Result<Vec<AdminVersion>, StoreError>;

    /// The claims of the token of that id.
    fn claims(&self, token: &str) -> Result<Option<Claims>, StoreError>;

    /// When the oldest claims were kept that still are.
    fn oldest_claims(&self) -> Result<Option<u64>, StoreError>;

    /// The last `limit` audit entries, or the last `limit` of those before number `before`; oldest first.
    fn audit(&self, limit: u32, before: Option<u64>) -> Result<Vec<Entry>, StoreError>;

    /// Whether the store can be read and written now: writes something that changes nothing, durably.
    fn probe(&self) -> Result<(), StoreError>;

    /// The audit entry of an event.
    fn audit_event(&self, event: &str) -> Result<Option<Entry>, StoreError>;

    /// The record's size, right edge and newest checkpoint; nothing in a store that never had an entry.
    fn head(&self) -> Result<Option<Head>, StoreError>;

    /// Those of the `count` entries from position `first`, counted from 0, that are there, as they were hashed. Pruned
    /// ones are not.
    fn log_entries(&self, first: u64, count: u32) -> Result<Vec<String>, StoreError>;

    /// Up to `count` hashes of a level of tiles from position `first`: at level 0 of entries, pruned ones too, at each
    /// other of full tiles one level below.
    fn log_hashes(&self, level: u8, first: u64, count: u32) -> Result<Vec<Hash>, StoreError>;

    /// A number that is another one after each change of policies or reference values that somebody else may have made;
    /// where nobody else writes, always the same.
    fn governed(&self) -> Result<u64, StoreError>;
}

/// What a token says, and the event of the attestation that it was issued for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Claims {
    pub(crate) event: String,
    /// The token's payload.
    pub(crate) json: String,
}

/// What became of one change of a group.
pub(crate) type Committed = Result<Entry, StoreError>;

/// The end of the record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Head {
    pub(crate) size: u64,
    pub(crate) edge: Vec<Hash>,
    pub(crate) checkpoint: String,
    /// The first entry that is kept, counted from 0: those before it were pruned.
    pub(crate) minimum: u64,
    /// The number of the entry that says so; 0 where nothing was pruned.
    pub(crate) pruned_by: u64,
}

/// A change to make together with its audit record.
pub(crate) enum Change {
    /// None: only the record is appended.
    Nothing,
    /// Stores a secret under the version number that `seal` is given: one more than the path ever had. Of older
    /// versions the newest `keep - 1` stay.
    PutSecret {
        path: ResourcePath,
        seal: Seal,
        expires: Option<u64>,
        keep: u64,
    },
    /// Removes a secret for good: all its versions, and the bytes they took.
    DeleteSecret { path: ResourcePath },
    /// Replaces the wrapped data keys of secrets that are still as they were when they were read.
    Rewrap(Vec<Rewrapped>),
    /// Sets a policy's text, or removes the policy.
    SetPolicy { id: String, text: Option<String> },
    /// Adds reference values; those of the same name are replaced.
    MergeReferenceValues { values: ReferenceValues },
    /// Removes a reference value.
    RemoveReferenceValue { name: String },
    /// Adds an admin with a key, whose name nobody in force has, or revokes one. With `keep_one`, the last one of the
    /// role `admin` stays.
    SetAdmin {
        name: String,
        key: Option<(String, String)>,
        keep_one: bool,
    },
    /// Keeps the claims of a token that is being issued, for whoever asks later why.
    KeepClaims { token: String, claims: String },
    /// Forgets the claims of tokens that were issued before a time.
    ForgetClaims { before: u64 },
    /// Has every broker on the database seal under another storage key: [`StoreError::KeyLacking`] where one that is there
    /// lacks it. Only brokers that share a database have to agree.
    UseStorageKey { id: String },
    /// Removes the entries before position `minimum`, counted from 0, and the claims that they issued; their hashes stay.
    /// `record.minimum_index` is filled in. [`StoreError::NotFound`] when they are gone already.
    PruneLog { minimum: u64 },
}

impl Change {
    /// Whether it changes what decides.
    pub(crate) fn governs(&self) -> bool {
        matches!(
            self,
            Self::SetPolicy { .. }
                | Self::SetAdmin { .. }
                | Self::MergeReferenceValues { .. }
                | Self::RemoveReferenceValue { .. }
        )
    }

    /// Whether bytes are removed that must not be found in the store's files afterwards.
    pub(crate) fn removes(&self) -> bool {
        matches!(
            self,
            Self::PutSecret { .. }
                | Self::DeleteSecret { .. }
                | Self::Rewrap(_)
                | Self::PruneLog { .. }
        )
    }
}

/// Seals a secret for the version number that it gets.
pub(crate) type Seal = Box<dyn FnOnce(u64) -> Result<SealedVersion, SealError> + Send>;

/// What may be known about a version of a resource without being allowed to read it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ResourceMetadata {
    /// Its path.
    pub path: ResourcePath,
    /// Its version: 1 for the first ever stored under this path, even if that was deleted.
    pub version: u64,
    /// The length of the secret in bytes.
    pub size: u64,
    /// The SHA-256 of the sealed version, as the audit entry of its storing names it.
    pub digest: String,
    /// When it was stored, in seconds since 1970.
    pub stored_at: u64,
    /// Who stored it.
    pub stored_by: String,
    /// From when on it is not released any more, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// When it was deleted, if it was, and by whom.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Deletion>,
}

/// Who deleted a version of a resource.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Deletion {
    /// When, in seconds since 1970.
    pub deleted_at: u64,
    /// Who.
    pub deleted_by: String,
}

/// One version of a policy.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct PolicyVersion {
    pub(crate) id: String,
    pub(crate) version: u64,
    /// Its Rego; nothing where the policy was removed.
    pub(crate) text: Option<String>,
    pub(crate) set_at: u64,
    pub(crate) set_by: String,
}

/// One version of a reference value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ReferenceValueVersion {
    pub(crate) version: u64,
    /// What was registered; nothing where the value was removed.
    pub(crate) value: Option<ReferenceValue>,
    pub(crate) set_at: u64,
    pub(crate) set_by: String,
}

/// One version of an admin with a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AdminVersion {
    pub(crate) name: String,
    pub(crate) version: u64,
    /// Role and public key, PEM; nothing where the admin was revoked.
    pub(crate) key: Option<(String, String)>,
    pub(crate) set_at: u64,
    pub(crate) set_by: String,
}

/// A wrapped data key and whose it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Wrapped {
    pub(crate) path: ResourcePath,
    pub(crate) version: u64,
    pub(crate) wrapped_key: Vec<u8>,
    pub(crate) key_id: String,
}

/// A data key, wrapped anew.
pub(crate) struct Rewrapped {
    pub(crate) old: Wrapped,
    pub(crate) wrapped_key: Vec<u8>,
    pub(crate) key_id: String,
}

/// Whether an admin may be added, or revoked with `keep_one` set where the configuration names nobody with the role admin.
/// `in_force` is what the transaction sees that is going to write it.
pub(crate) fn may_set_admin(
    in_force: &[AdminVersion],
    name: &str,
    adds: bool,
    keep_one: bool,
) -> Result<(), StoreError> {
    let (of_name, others): (Vec<_>, Vec<_>) = in_force.iter().partition(|admin| admin.name == name);
    let is_admin = |admin: &&AdminVersion| {
        let role = admin.key.as_ref().map(|(role, _)| role.as_str());
        role == Some(Role::Admin.as_str())
    };
    match (adds, of_name.first()) {
        (true, Some(_)) => Err(StoreError::Exists),
        (false, None) => Err(StoreError::NotFound),
        (false, Some(admin)) if keep_one && is_admin(admin) && !others.iter().any(is_admin) => {
            Err(StoreError::LastAdmin)
        }
        _ => Ok(()),
    }
}

/// Whether the entries before a position may go: whole bundles of a log that has more, and that still has them.
pub(crate) fn may_prune(head: Option<&Head>, minimum: u64) -> Result<(), StoreError> {
    let (size, kept_from) = head.map_or((0, 0), |head| (head.size, head.minimum));
    let whole = minimum.is_multiple_of(u64::from(FULL_WIDTH));
    match minimum > kept_from && minimum < size && whole {
        true => Ok(()),
        false => Err(StoreError::NotFound),
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is nothing under that name.
    #[error("there is nothing under that name")]
    NotFound,
    /// There is something under that name, and it is not replaced.
    #[error("there is one of that name: revoke it first, or choose another name")]
    Exists,
    /// Nobody would be left who may do everything.
    #[error("this is the last admin of the role admin: add another first")]
    LastAdmin,
    /// Another process has the store open.
    #[error("{path} is in use by another broker")]
    InUse {
        /// The store's file.
        path: String,
    },
    /// The store was written by a newer version.
    #[error(
        "the store has schema version {actual}, and this version knows up to {known}: use the newer strongroom"
    )]
    Schema {
        /// The version found.
        actual: i64,
        /// The newest version known.
        known: i64,
    },
    /// The store's record was never signed, and a key that signed records is there.
    #[error("{path} is of a version that signed no record, and there is a key that signs records")]
    Unsigned {
        /// The store's file.
        path: String,
    },
    /// There is no store where one should be.
    #[error(
        "{path} is not there: restore it from a copy, or make a new broker in another folder with \
         `strongroom broker init`"
    )]
    Gone {
        /// The store's file.
        path: String,
    },
    /// The file has no tables: only `init` makes them.
    #[error(
        "{path} is not a broker's store: it is empty. Restore it from a copy, or make a new broker in another \
         folder with `strongroom broker init`"
    )]
    Empty {
        /// The store's file.
        path: String,
    },
    /// Others may write the store's file, and with it decide who gets what.
    #[error("{path} has mode {mode:03o}, and only its owner may write it: chmod 600 {path}")]
    LooseMode {
        /// The store's file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The file cannot be used as a database.
    #[error("{path} cannot be opened: {source}")]
    Unusable {
        /// The store's file.
        path: String,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The database has a broker's tables already.
    #[error(
        "{name} holds a broker's store already: for a further broker on it copy that broker's folder, for another broker \
         make another database"
    )]
    Used {
        /// Which database.
        name: String,
    },
    /// The database does not answer, or cannot now.
    #[error("the database does not answer: {0}")]
    Away(String),
    /// There is no room for what was to be written, and nothing of it was.
    #[error("the disk under the store is full: {0}")]
    Full(String),
    /// What was to be written may not be, and nothing of it was.
    #[error("the store cannot be written: {0}")]
    ReadOnly(String),
    /// The database refused.
    #[error("the database refused: {0}")]
    Postgres(String),
    /// The database, or the way to it, is not fit for a broker's store.
    #[error("the database cannot be used: {0}")]
    Unfit(String),
    /// Brokers on one database have different keys.
    #[error(
        "the {name} of this broker is not the one that the other brokers on this database have: copy their file"
    )]
    OtherKey {
        /// Which key.
        name: &'static str,
    },
    /// The brokers took another storage key in use a moment ago.
    #[error("the storage key was changed meanwhile: try again")]
    KeyMoved,
    /// A storage key cannot be taken in use.
    #[error("these brokers do not have the storage key: {brokers}")]
    KeyLacking {
        /// Their names.
        brokers: String,
    },
    /// The record does not hold.
    #[error(transparent)]
    Record(#[from] LogError),
    /// The database failed.
    #[error("the store failed: {0}")]
    Database(#[source] rusqlite::Error),
    /// A file of the store could not be made or opened.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row does not hold what was written there.
    #[error("the store holds a damaged row: {0}")]
    Damaged(String),
    /// A secret could not be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The write that this one was grouped with failed.
    #[error("{0}")]
    Group(String),
    /// The record could not be signed.
    #[error("the record could not be signed: {0}")]
    Sign(String),
}

impl StoreError {
    /// The same for another whose write was in the group that failed.
    fn again(&self) -> Self {
        match self {
            Self::Away(why) => Self::Away(why.clone()),
            Self::Full(why) => Self::Full(why.clone()),
            Self::ReadOnly(why) => Self::ReadOnly(why.clone()),
            other => Self::Group(other.to_string()),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error
            .sqlite_error()
            .map(|said| (said.code, said.extended_code));
        match code {
            Some((ErrorCode::DiskFull, _) | (_, IOERR_SHMSIZE)) => Self::Full(error.to_string()),
            Some((ErrorCode::ReadOnly, _)) => Self::ReadOnly(error.to_string()),
            _ => Self::Database(error),
        }
    }
}

/// `SQLITE_IOERR_SHMSIZE`: the index of the write-ahead log could not grow.
const IOERR_SHMSIZE: i32 = 10 | (19 << 8);
