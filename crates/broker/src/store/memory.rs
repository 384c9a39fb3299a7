//! A store that forgets: for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use strongroom_verifier::ReferenceValues;
use strongroom_wire::resource::ResourcePath;

use super::{Change, ResourceMetadata, SealedVersion, Store, StoreError};
use crate::audit::{Entry, Record};

/// Keeps everything in memory.
#[derive(Default)]
pub(crate) struct MemoryStore(Mutex<State>);

#[derive(Default)]
struct State {
    secrets: BTreeMap<ResourcePath, (SealedVersion, u64, String)>,
    last_versions: BTreeMap<ResourcePath, u64>,
    policies: BTreeMap<String, String>,
    reference_values: ReferenceValues,
    audit: Vec<Entry>,
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn commit(&self, change: Change<'_>, mut record: Record) -> Result<Entry, StoreError> {
        let mut state = self.state();
        let by = record.admin.clone().unwrap_or_default();
        let last = state
            .audit
            .last()
            .map(|entry| (entry.seq, entry.hash.clone()));
        // Everything that can fail comes before the first change.
        let sealed = match &change {
            Change::PutSecret { path, seal } => {
                let version = state.last_versions.get(path).map_or(1, |last| last + 1);
                record.version = Some(version);
                Some(seal(version)?)
            }
            Change::DeleteSecret { path } => {
                let (sealed, ..) = state.secrets.get(path).ok_or(StoreError::NotFound)?;
                record.version = Some(sealed.version);
                None
            }
            _ => None,
        };
        let at = record.at;
        let entry = Entry::after(last, record).map_err(|e| StoreError::Damaged(e.to_string()))?;
        match (change, sealed) {
            (Change::PutSecret { path, .. }, Some(sealed)) => {
                state.last_versions.insert(path.clone(), sealed.version);
                state.secrets.insert(path.clone(), (sealed, at, by));
            }
            (Change::DeleteSecret { path }, _) => {
                state.secrets.remove(path);
            }
            (Change::SetPolicy { id, text }, _) => {
                state.policies.insert(id.to_owned(), text.to_owned());
            }
            (Change::MergeReferenceValues { values }, _) => {
                state.reference_values.merge(values.clone())
            }
            _ => {}
        }
        state.audit.push(entry.clone());
        Ok(entry)
    }

    fn sealed_secret(&self, path: &ResourcePath) -> Result<Option<SealedVersion>, StoreError> {
        Ok(self
            .state()
            .secrets
            .get(path)
            .map(|(sealed, ..)| sealed.clone()))
    }

    fn resources(&self) -> Result<Vec<ResourceMetadata>, StoreError> {
        let state = self.state();
        let metadata = state
            .secrets
            .iter()
            .map(|(path, (sealed, at, by))| ResourceMetadata {
                path: path.clone(),
                version: sealed.version,
                size: sealed.size(),
                stored_at: *at,
                stored_by: by.clone(),
            });
        Ok(metadata.collect())
    }

    fn policy(&self, id: &str) -> Result<Option<String>, StoreError> {
        Ok(self.state().policies.get(id).cloned())
    }

    fn reference_values(&self) -> Result<ReferenceValues, StoreError> {
        Ok(self.state().reference_values.clone())
    }

    fn audit(&self, limit: u32, before: Option<u64>) -> Result<Vec<Entry>, StoreError> {
        let state = self.state();
        let end = state
            .audit
            .partition_point(|entry| before.is_none_or(|before| entry.seq < before));
        let skip = end.saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(state.audit[skip..end].to_vec())
    }

    fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn audit_event(&self, event: &str) -> Result<Option<Entry>, StoreError> {
        let state = self.state();
        let mut entries = state.audit.iter();
        Ok(entries
            .find(|entry| entry.record.event.as_str() == event)
            .cloned())
    }
}
