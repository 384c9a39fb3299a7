//! What would have happened: past decisions, taken again under other policies or reference values.
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
    /// How many could not be, because the claims behind them are not kept any more.
    forgotten: u64,
    /// Those that ended otherwise, oldest first.
    flips: Vec<Flip>,
}

/// A decision that would have ended otherwise.
#[derive(Debug, Serialize)]
pub(crate) struct Flip {
    event: EventId,
    at: u64,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<String>,
    /// How it ended: an outcome of a release, a status of an attestation.
    was: String,
    /// How it would have ended.
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
    let rules = Rules::in_force(broker).with(changes)?;
    let mut rehearsal = Rehearsal {
        decisions: 0,
        forgotten: 0,
        flips: Vec::new(),
    };
    let (mut left, mut before) = (changes.limit.unwrap_or(DEFAULT).min(MOST), None);
    while left > 0 && !stop() {
        let entries = broker.ledger.store().audit(BATCH, before)?;
        let Some(oldest) = entries.first() else { break };
        before = Some(oldest.seq);
        for entry in entries.iter().rev().filter(|entry| decides(entry)) {
            if stop() {
                break;
            }
            match again(broker, &rules, entry)? {
                Some(flip) => {
                    rehearsal.decisions += 1;
                    rehearsal.flips.extend(flip);
                }
                None => rehearsal.forgotten += 1,
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    rehearsal.flips.reverse();
    Ok(rehearsal)
}

/// Whether the policies had a say: they see only what verification let through.
fn decides(entry: &Entry) -> bool {
    let gated = entry.record.policy.is_none();
    matches!(entry.record.kind, Kind::Attestation | Kind::Release)
        && entry.record.token.is_some()
        && !gated
}

/// Takes a decision again: nothing when its claims are not kept any more; else the flip, if it is one.
fn again(broker: &Inner, rules: &Rules, entry: &Entry) -> Result<Option<Option<Flip>>, StoreError> {
    let token = entry.record.token.as_deref().unwrap_or_default();
    let Some(claims) = broker.ledger.store().claims(token)? else {
        return Ok(None);
    };
    let Ok(payload) = serde_json::from_str::<Value>(&claims.json) else {
        return Err(StoreError::Damaged(format!("the claims of token {token}")));
    };
    let (graded, findings) = rules.appraise(&payload, entry.record.at);
    let (was, would_be, reasons) = match entry.record.kind {
        Kind::Attestation => (status(&payload), status(&graded), findings),
        _ => match rules.release(&graded, entry) {
            Some(Decision::Allow) => (outcome(entry), ALLOWED.to_owned(), Vec::new()),
            Some(Decision::Deny { reasons }) => (outcome(entry), DENIED.to_owned(), reasons),
            None => return Ok(None),
        },
    };
    Ok(Some((was != would_be).then(|| Flip {
        event: entry.record.event.clone(),
        at: entry.record.at,
        kind: entry.record.kind,
        resource: entry.record.resource.clone(),
        was,
        would_be,
        reasons,
    })))
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
