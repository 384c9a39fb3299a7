//! A store whose commits are counted and timed.

use std::sync::Arc;

use strongroom_verifier::ReferenceValues;
use strongroom_wire::resource::ResourcePath;

use super::{Change, ResourceMetadata, SealedVersion, Store, StoreError};
use crate::audit::{Entry, Record};
use crate::metrics::Metrics;

/// Another store, watched.
pub(crate) struct Metered {
    pub(crate) store: Box<dyn Store>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Store for Metered {
    fn commit(&self, change: Change<'_>, record: Record) -> Result<Entry, StoreError> {
        self.metrics.committed(|| self.store.commit(change, record))
    }

    fn sealed_secret(&self, path: &ResourcePath) -> Result<Option<SealedVersion>, StoreError> {
        self.store.sealed_secret(path)
    }

    fn resources(&self) -> Result<Vec<ResourceMetadata>, StoreError> {
        self.store.resources()
    }

    fn policy(&self, id: &str) -> Result<Option<String>, StoreError> {
        self.store.policy(id)
    }

    fn reference_values(&self) -> Result<ReferenceValues, StoreError> {
        self.store.reference_values()
    }

    fn audit(&self, limit: u32, before: Option<u64>) -> Result<Vec<Entry>, StoreError> {
        self.store.audit(limit, before)
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.store.probe()
    }

    fn audit_event(&self, event: &str) -> Result<Option<Entry>, StoreError> {
        self.store.audit_event(event)
    }
}
