//! The policies and reference values in force: compiled once a version, swapped when an admin sets another.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aws_lc_rs::digest;
use strongroom_verifier::{
    AppraisalPolicy, DEFAULT_CPU_ID, PolicyError, ReferenceValues, ReleasePolicy, release_policy,
};

use crate::audit::{Entry, Record};
use crate::store::{Change, Store, StoreError};

/// A policy in force, with its text and the text's SHA-256.
#[derive(Clone)]
pub(crate) struct InForce<P> {
    pub(crate) policy: P,
    pub(crate) text: String,
    pub(crate) digest: String,
}

impl<P> InForce<P> {
    fn new(text: &str, policy: P) -> Self {
        let digest = hex::encode(digest::digest(&digest::SHA256, text.as_bytes()));
        Self {
            policy,
            text: text.to_owned(),
            digest,
        }
    }
}

/// What is in force now. Readers take a snapshot; writers go one at a time, the store first.
pub(crate) struct Policies {
    release: RwLock<Arc<InForce<ReleasePolicy>>>,
    appraisal: RwLock<Arc<InForce<AppraisalPolicy>>>,
    reference_values: RwLock<Arc<ReferenceValues>>,
    writer: Mutex<()>,
}

impl Policies {
    /// Compiles what the store has, and the shipped policies where it has none.
    pub(crate) fn load(store: &dyn Store) -> Result<Self, LoadError> {
        let release = match store.policy(release_policy::POLICY_ID)? {
            Some(text) => InForce::new(&text, ReleasePolicy::compile(&text)?),
            None => InForce::new(ReleasePolicy::DEFAULT, ReleasePolicy::closed_by_default()),
        };
        let appraisal = match store.policy(DEFAULT_CPU_ID)? {
            Some(text) => InForce::new(&text, AppraisalPolicy::compile(DEFAULT_CPU_ID, &text)?),
            None => InForce::new(AppraisalPolicy::DEFAULT_CPU, AppraisalPolicy::default_cpu()),
        };
        Ok(Self {
            release: RwLock::new(Arc::new(release)),
            appraisal: RwLock::new(Arc::new(appraisal)),
            reference_values: RwLock::new(Arc::new(store.reference_values()?)),
            writer: Mutex::new(()),
        })
    }

    pub(crate) fn release(&self) -> Arc<InForce<ReleasePolicy>> {
        Arc::clone(&self.release.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn appraisal(&self) -> Arc<InForce<AppraisalPolicy>> {
        Arc::clone(
            &self
                .appraisal
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(crate) fn reference_values(&self) -> Arc<ReferenceValues> {
        Arc::clone(
            &self
                .reference_values
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Puts a release policy in force.
    pub(crate) fn set_release(
        &self,
        store: &dyn Store,
        text: &str,
        policy: ReleasePolicy,
        record: Record,
    ) -> Result<Entry, StoreError> {
        let change = Change::SetPolicy {
            id: release_policy::POLICY_ID,
            text,
        };
        self.swap(
            store,
            change,
            record,
            &self.release,
            Arc::new(InForce::new(text, policy)),
        )
    }

    /// Puts an appraisal policy for CPU platforms in force.
    pub(crate) fn set_appraisal(
        &self,
        store: &dyn Store,
        text: &str,
        policy: AppraisalPolicy,
        record: Record,
    ) -> Result<Entry, StoreError> {
        let change = Change::SetPolicy {
            id: DEFAULT_CPU_ID,
            text,
        };
        self.swap(
            store,
            change,
            record,
            &self.appraisal,
            Arc::new(InForce::new(text, policy)),
        )
    }

    /// Adds reference values.
    pub(crate) fn merge_reference_values(
        &self,
        store: &dyn Store,
        newer: &ReferenceValues,
        record: Record,
    ) -> Result<Entry, StoreError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = store.commit(Change::MergeReferenceValues { values: newer }, record)?;
        let mut values = ReferenceValues::clone(&self.reference_values());
        values.merge(newer.clone());
        *self
            .reference_values
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(values);
        Ok(entry)
    }

    fn swap<T>(
        &self,
        store: &dyn Store,
        change: Change<'_>,
        mut record: Record,
        place: &RwLock<Arc<InForce<T>>>,
        next: Arc<InForce<T>>,
    ) -> Result<Entry, StoreError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        record.policy = Some(next.digest.clone());
        let entry = store.commit(change, record)?;
        *place.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(entry)
    }
}

/// Why what is stored cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
}
