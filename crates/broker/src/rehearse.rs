//! What would have happened: past decisions, taken again under other policies or reference values.
//!
//! Each is taken twice, under what is in force and under that with the changes: a change is blamed for what differs between
//! the two, and not for what others changed since.
//!
//! Evidence is not kept, so what is rehearsed begins where verification ended: with the claims that it proved. An
//! attestation that failed verification stays as it was, whatever the policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strongroom_verifier::{Decision, Reason, ReferenceValue, ReferenceValues};
use strongroom_wire::ear::{Tier, TrustVector};

use crate::Inner;
use crate::audit::{Entry, EventId, Kind, Outcome};
use crate::policies::{AppraisalId, Appraisals, DEFAULT_ID, LoadError, ReleaseId, Releases};
use crate::store::StoreError;

/// What to change for the rehearsal.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Changes {
    /// Policies by id: the text to put in force, or null to take the policy out of force.
    pub(crate) policies: BTreeMap<String, Option<String>>,
    /// Reference values by name: what to accept, or null to remove the value.
    pub(crate) reference_values: BTreeMap<String, Value>,
    /// How many of the newest decisions to take again.
    pub(crate) limit: Option<u32>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Rehearsal {
    /// How many decisions were taken again.
    decisions: u64,
    /// How many could not be, because what they were decided on is not kept: the claims, or a query that was too long.
    forgotten: u64,
    /// How many end otherwise than they did by what is in force already, whether the changes are made or not.
    otherwise_already: u64,
    /// Those that the changes would have end otherwise, oldest first.
    flips: Vec<Flip>,
}

/// A decision that the changes would have end otherwise.
#[derive(Debug, Serialize)]
pub(crate) struct Flip {
    event: EventId,
    at: u64,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    /// How it ended: an outcome of a release, a status of an attestation.
    was: String,
    /// How it would end under what is in force.
    now: String,
    /// How it would end under that with the changes.
    would_be: String,
    /// Why, where it would be worse.
    reasons: Vec<Reason>,
}

/// Everything that decides: what is in force, or what would be.
pub(crate) struct Rules {
    release: Arc<Releases>,
    appraisal: Arc<Appraisals>,
    values: Arc<ReferenceValues>,
}

impl Rules {
    /// What is in force now.
    pub(crate) fn in_force(broker: &Inner) -> Self {
        Self {
            release: broker.policies.release(),
            appraisal: broker.policies.appraisal(),
            values: broker.policies.reference_values(),
        }
    }

    /// The same with changes.
    fn with(mut self, changes: &Changes) -> Result<Self, LoadError> {
        for (id, text) in &changes.policies {
            match (id.parse::<ReleaseId>(), AppraisalId::parse(id)) {
                (Ok(id), _) => self.release = Arc::new(self.release.with(&id, text.as_deref())?),
                (_, Some(id)) => {
                    Arc::make_mut(&mut self.appraisal).set(&id, text.as_deref())?;
                }
                _ => return Err(StoreError::NotFound.into()),
            }
        }
        if !changes.reference_values.is_empty() {
            let changed = |name: &str| changes.reference_values.contains_key(name);
            let kept = self.values.iter().filter(|(name, _)| !changed(name));
            let kept = kept.map(|(name, value)| (name.to_owned(), value.clone()));
            let new = changes.reference_values.iter();
            let new = new
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), ReferenceValue::new(value.clone(), u64::MAX)));
            self.values = Arc::new(kept.chain(new).collect());
        }
        Ok(self)
    }

    /// Grades a token's claims: the payload that it would have, and why a grade is bad.
    pub(crate) fn appraise(&self, payload: &Value, at: u64) -> (Value, Vec<Reason>) {
        let mut graded = payload.clone();
        let mut reasons = Vec::new();
        let submods = graded["submods"].as_object_mut();
        for (name, submod) in submods.into_iter().flatten() {
            let Some(evidence) = submod[ANNOTATED].as_object() else {
                continue;
            };
            let id = submod["ear.appraisal-policy-id"].as_str();
            let id = id.unwrap_or(DEFAULT_ID);
            let vector = match self.grade(id, name, evidence, at) {
                Ok((vector, findings)) => {
                    reasons.extend(findings);
                    vector
                }
                Err(reason) => {
                    reasons.push(*reason);
                    TrustVector::default()
                }
            };
            submod["ear.status"] = Value::String(vector.status().as_str().to_owned());
            let claims: Map<String, Value> = vector
                .claims()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), Value::from(value)))
                .collect();
            submod["ear.trustworthiness-vector"] = Value::Object(claims);
        }
        (graded, reasons)
    }

    fn grade(
        &self,
        id: &str,
        submod: &str,
        evidence: &Map<String, Value>,
        at: u64,
    ) -> Result<(TrustVector, Vec<Reason>), Box<Reason>> {
        let class = submod.trim_end_matches(|c: char| c.is_ascii_digit());
        let failed = |text: String| {
            Box::new(Reason {
                rule: "the appraisal policy can be evaluated".to_owned(),
                claim: submod.to_owned(),
                expected: Value::Null,
                actual: Value::String(text),
            })
        };
        let policy = self.appraisal.of(id).and_then(|set| set.policies.of(class));
        let policy = policy.ok_or_else(|| failed(format!("there is no {id}_{class}")))?;
        let graded = policy.rehearse(evidence, &self.values, at);
        let graded = graded.map_err(|error| failed(error.to_string()))?;
        Ok((graded.trust_vector, graded.findings))
    }

    /// Takes the decision of an entry again over the claims that it was taken on: how it ends, and why where it ends badly.
    fn decide(&self, payload: &Value, entry: &Entry) -> Option<(String, Vec<Reason>)> {
        let (graded, findings) = self.appraise(payload, entry.record.at);
        match entry.record.kind {
            Kind::Attestation => Some((status(&graded), findings)),
            _ => Some(match self.release(&graded, entry)? {
                Decision::Allow => (ALLOWED.to_owned(), Vec::new()),
                Decision::Deny { reasons } => (DENIED.to_owned(), reasons),
            }),
        }
    }

    /// Decides over a payload as at the time of an entry.
    pub(crate) fn release(&self, payload: &Value, entry: &Entry) -> Option<Decision> {
        let path = entry.record.resource.as_deref()?.parse().ok()?;
        let policy = self.release.of(&path);
        let decided = policy
            .policy
            .evaluate(payload, &path, &entry.record.query, entry.record.at);
        Some(decided.unwrap_or_else(|error| Decision::Deny {
            reasons: vec![Reason {
                rule: "the release policy can be evaluated".to_owned(),
                claim: path.to_string(),
                expected: Value::Null,
                actual: Value::String(error.to_string()),
            }],
        }))
    }
}

/// Takes the newest decisions again.
///
/// Ends early, with what it has, when `stop` says that nobody waits for it any more.
pub(crate) fn rehearse(
    broker: &Inner,
    changes: &Changes,
    stop: &dyn Fn() -> bool,
) -> Result<Rehearsal, LoadError> {
    let in_force = Rules::in_force(broker);
    let changed = Rules::in_force(broker).with(changes)?;
    let mut rehearsal = Rehearsal {
        decisions: 0,
        forgotten: 0,
        otherwise_already: 0,
        flips: Vec::new(),
    };
    let (mut left, mut before) = (changes.limit.unwrap_or(DEFAULT).min(MOST), None);
    let mut taken = 0;
    while left > 0 && !stop() {
        let entries = broker.ledger.store().audit(BATCH, before)?;
        let Some(oldest) = entries.first() else { break };
        before = Some(oldest.seq);
        for entry in entries.iter().rev().filter(|entry| decides(entry)) {
            if stop() {
                break;
            }
            match again(broker, (&in_force, &changed), entry)? {
                Some(Again::Flips(flip)) => rehearsal.flips.push(*flip),
                Some(Again::OtherwiseAlready) => rehearsal.otherwise_already += 1,
                Some(Again::Same) => (),
                None => rehearsal.forgotten += 1,
            }
            left -= 1;
            taken += 1;
            if left == 0 {
                break;
            }
        }
    }
    rehearsal.flips.reverse();
    rehearsal.decisions = taken - rehearsal.forgotten;
    Ok(rehearsal)
}

/// Whether the policies had a say: they see only what verification let through.
fn decides(entry: &Entry) -> bool {
    let gated = entry.record.policy.is_none();
    matches!(entry.record.kind, Kind::Attestation | Kind::Release)
        && entry.record.token.is_some()
        && !gated
}

/// What a decision does when it is taken again.
enum Again {
    Same,
    OtherwiseAlready,
    Flips(Box<Flip>),
}

/// Takes a decision again under what is in force and under the changes: nothing when what it was decided on is not kept.
fn again(
    broker: &Inner,
    (in_force, changed): (&Rules, &Rules),
    entry: &Entry,
) -> Result<Option<Again>, StoreError> {
    if entry.record.query_left_out {
        return Ok(None);
    }
    let token = entry.record.token.as_deref().unwrap_or_default();
    let Some(claims) = broker.ledger.store().claims(token)? else {
        return Ok(None);
    };
    let Ok(payload) = serde_json::from_str::<Value>(&claims.json) else {
        return Err(StoreError::Damaged(format!("the claims of token {token}")));
    };
    let was = match entry.record.kind {
        Kind::Attestation => status(&payload),
        _ => outcome(entry),
    };
    let decided = (
        in_force.decide(&payload, entry),
        changed.decide(&payload, entry),
    );
    let (Some((now, _)), Some((would_be, reasons))) = decided else {
        return Ok(None);
    };
    Ok(Some(match (now == would_be, was == now) {
        (true, true) => Again::Same,
        (true, false) => Again::OtherwiseAlready,
        (false, _) => Again::Flips(Box::new(Flip {
            event: entry.record.event.clone(),
            at: entry.record.at,
            kind: entry.record.kind,
            resource: entry.record.resource.clone(),
            was,
            now,
            would_be,
            reasons,
        })),
    }))
}

/// The worst status of all submodules.
fn status(payload: &Value) -> String {
    let submods = payload["submods"].as_object().into_iter().flatten();
    let statuses = submods.filter_map(|(_, submod)| {
        serde_json::from_value::<Tier>(submod["ear.status"].clone()).ok()
    });
    let worst = statuses.max().unwrap_or(Tier::None);
    worst.as_str().to_owned()
}

/// Whether the policy allowed it: what was missing or failed, it did.
fn outcome(entry: &Entry) -> String {
    match entry.record.outcome {
        Outcome::Denied => DENIED,
        Outcome::Allowed | Outcome::Missing | Outcome::Failed => ALLOWED,
    }
    .to_owned()
}

const ANNOTATED: &str = "ear.veraison.annotated-evidence";
const ALLOWED: &str = "allowed";
const DENIED: &str = "denied";
const DEFAULT: u32 = 1_000;
const MOST: u32 = 100_000;
const BATCH: u32 = 500;
