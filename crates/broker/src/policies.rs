//! The policies and reference values in force: compiled once a version, swapped when an admin sets another.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aws_lc_rs::digest;
use strongroom_verifier::{
    AppraisalPolicies, AppraisalPolicy, DEFAULT_CPU_ID, DEFAULT_GPU_ID, PolicyError,
    ReferenceValues, ReleasePolicy, Signers, release_policy,
};
use strongroom_wire::resource::{ResourceError, ResourcePath, ResourcePattern};
use strongroom_wire::tlog::VerifierKey;

use crate::audit::{Entry, Record};
use crate::store::{Change, Governing, Ledger, Store, StoreError};

/// A policy in force, with its text's SHA-256.
#[derive(Clone)]
pub(crate) struct InForce<P> {
    pub(crate) id: String,
    pub(crate) policy: P,
    pub(crate) digest: String,
}

impl<P> InForce<P> {
    fn new(id: &str, text: &str, policy: P) -> Self {
        Self {
            id: id.to_owned(),
            policy,
            digest: text_digest(text),
        }
    }
}

/// The release policies in force: one for each pattern that has its own, and the root for what none covers.
///
/// The narrowest pattern that covers a path decides alone: whoever writes a policy for `default/fraud-*` knows that
/// nothing wider loosens or tightens it.
#[derive(Clone)]
pub(crate) struct Releases {
    root: Arc<InForce<ReleasePolicy>>,
    by_pattern: BTreeMap<ResourcePattern, Arc<InForce<ReleasePolicy>>>,
}

impl Releases {
    /// The policy that decides over a path.
    pub(crate) fn of(&self, path: &ResourcePath) -> &InForce<ReleasePolicy> {
        // Patterns are ordered, the narrower before the wider.
        let mut narrowest = self.by_pattern.iter();
        narrowest
            .find(|(pattern, _)| pattern.covers(path))
            .map_or(&*self.root, |(_, policy)| policy)
    }

    /// The policy of the root.
    pub(crate) fn root(&self) -> &InForce<ReleasePolicy> {
        &self.root
    }

    /// The same with a policy set, or removed: the root is then the shipped one.
    pub(crate) fn with(&self, id: &ReleaseId, text: Option<&str>) -> Result<Self, PolicyError> {
        let mut next = self.clone();
        match (id, text) {
            (ReleaseId::Root, None) => next.root = Arc::new(shipped_release()),
            (ReleaseId::Root, Some(text)) => next.root = Arc::new(compiled(id, text)?),
            (ReleaseId::Pattern(pattern), None) => {
                next.by_pattern.remove(pattern);
            }
            (ReleaseId::Pattern(pattern), Some(text)) => {
                let policy = Arc::new(compiled(id, text)?);
                next.by_pattern.insert(pattern.clone(), policy);
            }
        }
        Ok(next)
    }
}

fn compiled(id: &ReleaseId, text: &str) -> Result<InForce<ReleasePolicy>, PolicyError> {
    let id = id.to_string();
    let policy = ReleasePolicy::compile(&id, text)?;
    Ok(InForce::new(&id, text, policy))
}

fn shipped_release() -> InForce<ReleasePolicy> {
    let policy = ReleasePolicy::closed_by_default();
    InForce::new(release_policy::POLICY_ID, ReleasePolicy::DEFAULT, policy)
}

/// The id of a release policy: `resource-policy`, or that and a pattern, as `resource-policy/default/fraud-*`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ReleaseId {
    /// Upstream's one policy: it decides over what no pattern covers.
    Root,
    /// The policy of what a pattern covers.
    Pattern(ResourcePattern),
}

impl FromStr for ReleaseId {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        match text.strip_prefix(release_policy::POLICY_ID) {
            Some("") => Ok(Self::Root),
            Some(rest) => rest
                .strip_prefix('/')
                .unwrap_or_default()
                .parse()
                .map(Self::Pattern),
            None => Err(ResourceError::Parts(0)),
        }
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str(release_policy::POLICY_ID),
            Self::Pattern(pattern) => write!(f, "{}/{pattern}", release_policy::POLICY_ID),
        }
    }
}

/// The appraisal policies in force, by id: `default`, and what an admin set beside it. What grades under an id that is
/// not there, or has no policy for a class of platforms, is an error and never the default.
#[derive(Clone)]
pub(crate) struct Appraisals(BTreeMap<String, Appraisal>);

/// The appraisal policies of one id, one for each class of platforms.
#[derive(Clone)]
pub(crate) struct Appraisal {
    pub(crate) policies: AppraisalPolicies,
    /// The SHA-256 of each class's text.
    digests: BTreeMap<String, String>,
}

impl Appraisals {
    /// The policies of an id.
    pub(crate) fn of(&self, id: &str) -> Option<&Appraisal> {
        self.0.get(id)
    }

    /// Every policy, by its id with its class.
    pub(crate) fn ids(&self) -> impl Iterator<Item = String> {
        let classes = |(id, set): (&String, &Appraisal)| {
            let id = id.clone();
            let classes: Vec<String> = set.digests.keys().cloned().collect();
            classes
                .into_iter()
                .map(move |class| format!("{id}_{class}"))
        };
        self.0.iter().flat_map(classes)
    }

    /// Puts a policy in force, or, without a text, the shipped one, or none where none ships. Gives the SHA-256 of
    /// the text that is in force.
    pub(crate) fn set(
        &mut self,
        id: &AppraisalId,
        text: Option<&str>,
    ) -> Result<Option<String>, PolicyError> {
        let Some(text) = text.or_else(|| id.shipped()) else {
            if let Some(set) = self.0.get_mut(&id.id) {
                set.digests.remove(id.class);
                if !set.policies.remove(id.class) {
                    self.0.remove(&id.id);
                }
            }
            return Ok(None);
        };
        let policy = AppraisalPolicy::compile(&id.to_string(), text)?;
        let digest = text_digest(text);
        let set = self.0.entry(id.id.clone()).or_insert_with(|| Appraisal {
            policies: AppraisalPolicies::none(),
            digests: BTreeMap::new(),
        });
        set.digests.insert(id.class.to_owned(), digest.clone());
        set.policies.insert(policy);
        Ok(Some(digest))
    }
}

impl Appraisal {
    /// The SHA-256 of the text by which a class is graded.
    pub(crate) fn digest(&self, class: &str) -> Option<String> {
        self.digests.get(class).cloned()
    }
}

/// The id of an appraisal policy with its class: `default_cpu`, `strict_gpu`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AppraisalId {
    id: String,
    class: &'static str,
}

impl AppraisalId {
    /// Reads one: a name of letters, digits, dots and hyphens, an underscore, a class of platforms that has evidence here.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, class) = text.split_once('_')?;
        let class = CLASSES.into_iter().find(|known| *known == class)?;
        is_appraisal_name(id).then(|| Self {
            id: id.to_owned(),
            class,
        })
    }

    /// The text that ships under this id.
    pub(crate) fn shipped(&self) -> Option<&'static str> {
        let id = self.to_string();
        let mut shipped = APPRAISAL_IDS.into_iter();
        shipped.find_map(|(known, text)| (known == id).then_some(text))
    }
}

impl fmt::Display for AppraisalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.id, self.class)
    }
}

/// Whether appraisal policies can have this id, without a class.
pub(crate) fn is_appraisal_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(allowed)
}

/// What is in force now. Readers take a snapshot; writers go one at a time, the store first.
pub(crate) struct Policies {
    release: RwLock<Arc<Releases>>,
    appraisal: RwLock<Arc<Appraisals>>,
    reference_values: RwLock<Arc<ReferenceValues>>,
    /// The names of values that are stored and not used, because none of the signers signed them.
    unsigned: Vec<String>,
    /// What the store said of changes by others when these were read.
    governed: AtomicU64,
    writer: Mutex<()>,
}

impl Policies {
    /// Compiles what the store has, and the shipped policies where it has none. A reference value that none of the
    /// signers signed is as absent as an expired one.
    pub(crate) fn load(
        store: &dyn Store,
        key: &VerifierKey,
        signers: &Signers,
    ) -> Result<Self, LoadError> {
        // Asked first: what changes from here on is read again.
        let governed = store.governed()?;
        let governing = Governing::read(store, key)?;
        let mut release = Releases {
            root: Arc::new(shipped_release()),
            by_pattern: BTreeMap::new(),
        };
        let mut appraisal = Appraisals(BTreeMap::new());
        for id in APPRAISAL_IDS.map(|(id, _)| AppraisalId::parse(id)) {
            appraisal.set(&id.expect("the ids that ship are ids"), None)?;
        }
        for stored in governing.policies {
            let text = stored.text.unwrap_or_default();
            match (stored.id.parse(), AppraisalId::parse(&stored.id)) {
                (Ok(id), _) => release = release.with(&id, Some(&text))?,
                (_, Some(id)) => {
                    appraisal.set(&id, Some(&text))?;
                }
                _ => return Err(StoreError::Damaged(format!("policy {:?}", stored.id)).into()),
            }
        }
        let stored = governing.reference_values;
        let (signed, unsigned): (Vec<_>, Vec<_>) = stored
            .iter()
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .partition(|(_, value)| signers.vouch_for(value));
        Ok(Self {
            release: RwLock::new(Arc::new(release)),
            appraisal: RwLock::new(Arc::new(appraisal)),
            reference_values: RwLock::new(Arc::new(signed.into_iter().collect())),
            unsigned: unsigned.into_iter().map(|(name, _)| name).collect(),
            governed: AtomicU64::new(governed),
            writer: Mutex::new(()),
        })
    }

    /// Reads everything anew if another broker on the same store changed something: what is decided from here on is
    /// decided by what was in force when this was called, or later.
    pub(crate) fn follow(
        &self,
        store: &dyn Store,
        key: &VerifierKey,
        signers: &Signers,
    ) -> Result<(), LoadError> {
        if store.governed()? == self.governed.load(Ordering::Acquire) {
            return Ok(());
        }
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if store.governed()? == self.governed.load(Ordering::Acquire) {
            return Ok(());
        }
        let newer = Self::load(store, key, signers)?;
        *self.release.write().unwrap_or_else(PoisonError::into_inner) = newer.release();
        *self
            .appraisal
            .write()
            .unwrap_or_else(PoisonError::into_inner) = newer.appraisal();
        let values = &self.reference_values;
        *values.write().unwrap_or_else(PoisonError::into_inner) = newer.reference_values();
        let governed = newer.governed.load(Ordering::Acquire);
        self.governed.store(governed, Ordering::Release);
        Ok(())
    }

    /// The names of the values that were stored at the start and are not used.
    pub(crate) fn unsigned(&self) -> &[String] {
        &self.unsigned
    }

    pub(crate) fn release(&self) -> Arc<Releases> {
        read(&self.release)
    }

    pub(crate) fn appraisal(&self) -> Arc<Appraisals> {
        read(&self.appraisal)
    }

    pub(crate) fn reference_values(&self) -> Arc<ReferenceValues> {
        read(&self.reference_values)
    }

    /// Puts a release policy in force, or, without a text, takes it out of force.
    pub(crate) fn set_release(
        &self,
        ledger: &Ledger,
        id: &ReleaseId,
        text: Option<&str>,
        mut record: Record,
    ) -> Result<Entry, LoadError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.release().with(id, text)?;
        let change = set(&id.to_string(), text);
        record.policy_id = Some(id.to_string());
        record.policy = text.map(text_digest);
        let entry = ledger.commit(change, record)?;
        replace(&self.release, next);
        Ok(entry)
    }

    /// Puts an appraisal policy in force; without a text, the shipped one, or none where none ships.
    pub(crate) fn set_appraisal(
        &self,
        ledger: &Ledger,
        id: &AppraisalId,
        text: Option<&str>,
        mut record: Record,
    ) -> Result<Entry, LoadError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Appraisals::clone(&self.appraisal());
        record.policy_id = Some(id.to_string());
        record.policy = next.set(id, text)?;
        let entry = ledger.commit(set(&id.to_string(), text), record)?;
        replace(&self.appraisal, next);
        Ok(entry)
    }

    /// Adds reference values.
    pub(crate) fn merge_reference_values(
        &self,
        ledger: &Ledger,
        newer: ReferenceValues,
        record: Record,
    ) -> Result<Entry, StoreError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let values = newer.clone();
        let entry = ledger.commit(Change::MergeReferenceValues { values }, record)?;
        let mut values = ReferenceValues::clone(&self.reference_values());
        values.merge(newer);
        replace(&self.reference_values, values);
        Ok(entry)
    }

    /// Removes a reference value.
    pub(crate) fn remove_reference_value(
        &self,
        ledger: &Ledger,
        name: &str,
        record: Record,
    ) -> Result<Entry, StoreError> {
        let _writing = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let change = Change::RemoveReferenceValue {
            name: name.to_owned(),
        };
        let entry = ledger.commit(change, record)?;
        let known = self.reference_values();
        let left = known.iter().filter(|(known, _)| *known != name);
        let left = left.map(|(name, value)| (name.to_owned(), value.clone()));
        replace(&self.reference_values, left.collect());
        Ok(entry)
    }
}

fn read<T>(in_force: &RwLock<Arc<T>>) -> Arc<T> {
    Arc::clone(&in_force.read().unwrap_or_else(PoisonError::into_inner))
}

fn replace<T>(in_force: &RwLock<Arc<T>>, next: T) {
    *in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
}

fn set(id: &str, text: Option<&str>) -> Change {
    Change::SetPolicy {
        id: id.to_owned(),
        text: text.map(str::to_owned),
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

pub(crate) fn text_digest(text: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// The id of the policies that grade when nobody names others.
pub(crate) const DEFAULT_ID: &str = "default";
/// The classes of the platforms that are verified here.
const CLASSES: [&str; 2] = ["cpu", "gpu"];
const MAX_NAME: usize = 64;
/// The appraisal policies that ship, and the text of each.
pub(crate) const APPRAISAL_IDS: [(&str, &str); 2] = [
    (DEFAULT_CPU_ID, AppraisalPolicy::DEFAULT_CPU),
    (DEFAULT_GPU_ID, AppraisalPolicy::DEFAULT_GPU),
];
