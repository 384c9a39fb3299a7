//! Where resources, policies, reference values and the audit record are kept.
//!
//! One trait, one conformance suite, two implementations: [`sqlite`] for real, [`memory`] for tests. A store
//! sees secrets sealed, never the key (`sealing`). Every change comes with its audit record, and both are
//! there or neither is.

#[cfg(test)]
mod conformance;
mod memory;
mod metered;
mod sealing;
mod sqlite;

use serde::Serialize;
use strongroom_verifier::ReferenceValues;
use strongroom_wire::resource::ResourcePath;

use crate::audit::{ChainError, Entry, Record};

pub(crate) use memory::MemoryStore;
pub(crate) use metered::Metered;
pub use sealing::SealError;
pub(crate) use sealing::{SealedVersion, StorageKey};
pub(crate) use sqlite::SqliteStore;

/// What a broker keeps. All calls block; an implementation is shared between threads.
pub(crate) trait Store: Send + Sync {
    /// Applies `change` and appends `record`: atomically, and durably once this returns.
    ///
    /// `record.version` is filled in where the change makes or removes a version. A change to something that
    /// does not exist is [`StoreError::NotFound`] and leaves no trace.
    fn commit(&self, change: Change<'_>, record: Record) -> Result<Entry, StoreError>;

    /// The newest version of a secret, still sealed.
    fn sealed_secret(&self, path: &ResourcePath) -> Result<Option<SealedVersion>, StoreError>;

    /// Every resource, by path, without contents.
    fn resources(&self) -> Result<Vec<ResourceMetadata>, StoreError>;

    /// The text of a policy, when one was set.
    fn policy(&self, id: &str) -> Result<Option<String>, StoreError>;

    /// Every reference value, the expired ones too.
    fn reference_values(&self) -> Result<ReferenceValues, StoreError>;

    /// The last `limit` audit entries, or the last `limit` of those before number `before`; oldest first.
    fn audit(&self, limit: u32, before: Option<u64>) -> Result<Vec<Entry>, StoreError>;

    /// Whether the store can be read and written now: writes something that changes nothing, durably.
    fn probe(&self) -> Result<(), StoreError>;

    /// The audit entry of an event.
    fn audit_event(&self, event: &str) -> Result<Option<Entry>, StoreError>;
}

/// A change to make together with its audit record.
pub(crate) enum Change<'a> {
    /// None: only the record is appended.
    Nothing,
    /// Stores a secret under the version number that `seal` is given: one more than the path ever had.
    PutSecret {
        path: &'a ResourcePath,
        seal: &'a dyn Fn(u64) -> Result<SealedVersion, SealError>,
    },
    /// Removes a secret for good: all its versions, and the bytes they took.
    DeleteSecret { path: &'a ResourcePath },
    /// Sets a policy's text.
    SetPolicy { id: &'a str, text: &'a str },
    /// Adds reference values; those of the same name are replaced.
    MergeReferenceValues { values: &'a ReferenceValues },
}

/// What may be known about a resource without being allowed to read it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ResourceMetadata {
    /// Its path.
    pub path: ResourcePath,
    /// Its version: 1 for the first ever stored under this path, even if that was deleted.
    pub version: u64,
    /// The length of the secret in bytes.
    pub size: u64,
    /// When it was stored, in seconds since 1970.
    pub stored_at: u64,
    /// Who stored it.
    pub stored_by: String,
}

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is nothing under that name.
    #[error("there is nothing under that name")]
    NotFound,
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
    /// The record does not hold.
    #[error(transparent)]
    Record(#[from] ChainError),
    /// The database failed.
    #[error("the store failed: {0}")]
    Database(#[from] rusqlite::Error),
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
}
