//! The policies and reference values in force: compiled once a version, swapped when an admin sets another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aws_lc_rs::digest;
use strongroom_verifier::{
    AppraisalPolicies, AppraisalPolicy, DEFAULT_CPU_ID, DEFAULT_GPU_ID, PolicyError,
    ReferenceValues, ReleasePolicy, Signers, release_policy,
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
        Self {
            policy,
            text: text.to_owned(),
            digest: text_digest(text),
        }
    }
}

/// The appraisal policies in force, one for each class of platforms.
#[derive(Clone)]
pub(crate) struct Appraisals {
    pub(crate) policies: AppraisalPolicies,
    /// The SHA-256 of each class's text.
    digests: BTreeMap<String, String>,
}

impl Appraisals {
    /// The SHA-256 of the text by which a class is graded.
    pub(crate) fn digest(&self, class: &str) -> Option<String> {
        self.digests.get(class).cloned()
    }

    fn insert(&mut self, text: &str, policy: AppraisalPolicy) -> String {
        let digest = text_digest(text);
        self.digests
            .insert(policy.class().to_owned(), digest.clone());
        self.policies.insert(policy);
        digest
    }
}

/// What is in force now. Readers take a snapshot; writers go one at a time, the store first.
pub(crate) struct Policies {
    release: RwLock<Arc<InForce<ReleasePolicy>>>,
    appraisal: RwLock<Arc<Appraisals>>,
    reference_values: RwLock<Arc<ReferenceValues>>,
    /// The names of values that are stored and not used, because none of the signers signed them.
    unsigned: Vec<String>,
    writer: Mutex<()>,
}

impl Policies {
    /// Compiles what the store has, and the shipped policies where it has none. A reference value that none of the
    /// signers signed is as absent as an expired one.
    pub(crate) fn load(store: &dyn Store, signers: &Signers) -> Result<Self, LoadError> {
        let release = match store.policy(release_policy::POLICY_ID)? {
            Some(text) => InForce::new(&text, ReleasePolicy::compile(&text)?),
            None => InForce::new(ReleasePolicy::DEFAULT, ReleasePolicy::closed_by_default()),
        };
        let mut appraisal = Appraisals {
            policies: AppraisalPolicies::shipped(),
            digests: BTreeMap::new(),
        };
        for (id, shipped) in APPRAISAL_IDS {
            let stored = store.policy(id)?;
            let text = stored.as_deref().unwrap_or(shipped);
            appraisal.insert(text, AppraisalPolicy::compile(id, text)?);
        }
        let stored = store.reference_values()?;
        let (signed, unsigned): (Vec<_>, Vec<_>) = stored
            .iter()
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .partition(|(_, value)| signers.vouch_for(value));
        Ok(Self {
            release: RwLock::new(Arc::new(release)),
            appraisal: RwLock::new(Arc::new(appraisal)),
            reference_values: RwLock::new(Arc::new(signed.into_iter().collect())),
            unsigned: unsigned.into_iter().map(|(name, _)| name).collect(),
            writer: Mutex::new(()),
        })
    }

    /// The names of the values that were stored at the start and are not used.
    pub(crate) fn unsigned(&self) -> &[String] {
        &self.unsigned
    }

    pub(crate) fn release(&self) -> Arc<InForce<ReleasePolicy>> {
        Arc::clone(&self.release.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn appraisal(&self) -> Arc<Appraisals> {
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
        mut record: Record,
    ) -> Result<Entry, StoreError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(InForce::new(text, policy));
        let change = Change::SetPolicy {
            id: release_policy::POLICY_ID,
            text,
        };
        record.policy = Some(next.digest.clone());
        let entry = store.commit(change, record)?;
        *self.release.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(entry)
    }

    /// Puts the appraisal policy of one class of platforms in force.
    pub(crate) fn set_appraisal(
        &self,
        store: &dyn Store,
        id: &str,
        text: &str,
        policy: AppraisalPolicy,
        mut record: Record,
    ) -> Result<Entry, StoreError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Appraisals::clone(&self.appraisal());
        record.policy = Some(next.insert(text, policy));
        let entry = store.commit(Change::SetPolicy { id, text }, record)?;
        *self
            .appraisal
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(entry)
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
}

/// Why what is stored cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

fn text_digest(text: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// The appraisal policies that can be set, and the text of each that ships.
pub(crate) const APPRAISAL_IDS: [(&str, &str); 2] = [
    (DEFAULT_CPU_ID, AppraisalPolicy::DEFAULT_CPU),
    (DEFAULT_GPU_ID, AppraisalPolicy::DEFAULT_GPU),
];
