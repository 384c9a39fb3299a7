//! Why a decision was taken, what would have passed, and what would mend it: for the broker's owner, never the guest.
//!
//! Each reason becomes an advice: rule, claim, expected and actual as the record has them, the nearest value that would
//! pass, and a command; or a warning, where mending it would be giving in to an attack.

mod advice;
mod refused;

use serde::Serialize;
use serde_json::Value;
use strongroom_verifier::Decision;

use crate::Inner;
use crate::audit::{Entry, Kind, Outcome};
use crate::explain::advice::{Advice, Circumstances};
use crate::policies::ReleaseId;
use crate::rehearse::Rules;
use crate::store::StoreError;

/// The explanation of one event.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    /// The event's own entry.
    entry: Entry,
    /// Of a release: the attestation that its token came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation: Option<Entry>,
    /// One sentence.
    summary: String,
    /// What stood in the way, each with what would mend it. Nothing where nothing did.
    advice: Vec<Advice>,
    /// How the same request would end under the policies that are in force now; nothing where no policy had a say, or
    /// where the claims are not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<&'static str>,
}

/// Explains an event; nothing when there is none of that id.
pub(crate) fn explain(broker: &Inner, event: &str) -> Result<Option<Explanation>, StoreError> {
    let store = broker.ledger.store();
    let Some(entry) = store.audit_event(event)? else {
        return Ok(None);
    };
    let token = entry.record.token.as_deref();
    let claims = token
        .map(|token| store.claims(token))
        .transpose()?
        .flatten();
    let attestation = match (entry.record.kind, &claims) {
        (Kind::Release, Some(claims)) => store.audit_event(&claims.event)?,
        _ => None,
    };
    let payload = claims.and_then(|claims| serde_json::from_str(&claims.json).ok());
    let now = match (entry.record.kind, &payload, &entry.record.policy) {
        (Kind::Release, Some(payload), Some(_)) if !entry.record.query_left_out => {
            again(broker, payload, &entry)
        }
        _ => None,
    };
    let values = broker.policies.reference_values();
    let circumstances = Circumstances {
        resource: entry.record.resource.as_deref(),
        pattern: entry.record.policy_id.as_deref().and_then(pattern),
        values: &values,
        now: broker.now(),
    };
    let reasons = &entry.record.reasons;
    let mut advice: Vec<Advice> = reasons
        .iter()
        .map(|reason| Advice::of(reason, &circumstances))
        .collect();
    // A grade says that something is wrong, and the attestation's own entry says what. What it found is no matter to a
    // policy that did not look at the grade.
    if let Some(attestation) = &attestation
        && entry.record.outcome == Outcome::Denied
        && reasons.iter().any(advice::is_of_a_grade)
    {
        let findings = attestation.record.reasons.iter();
        advice.extend(findings.map(|reason| Advice::of(reason, &circumstances)));
    }
    if entry.record.outcome == Outcome::Missing {
        advice.extend(Advice::missing(&entry.record));
    }
    Ok(Some(Explanation {
        summary: summary(&entry),
        entry,
        attestation,
        advice,
        now,
    }))
}

fn again(broker: &Inner, payload: &Value, entry: &Entry) -> Option<&'static str> {
    let rules = Rules::in_force(broker);
    let (graded, _) = rules.appraise(payload, broker.now());
    Some(match rules.release(&graded, entry)? {
        Decision::Allow => "allowed",
        Decision::Deny { .. } => "denied",
    })
}

fn summary(entry: &Entry) -> String {
    let record = &entry.record;
    let of = match (&record.resource, record.kind) {
        (Some(resource), _) => format!("{} {resource}", record.action),
        (None, _) => record.action.clone(),
    };
    let by = match (&record.admin, record.tee) {
        (Some(admin), _) => format!("admin {admin}"),
        (None, Some(tee)) => format!("a {tee} guest"),
        (None, None) => "somebody who proved nothing".to_owned(),
    };
    let ended = match record.outcome {
        Outcome::Allowed => "was allowed",
        Outcome::Denied => "was denied",
        Outcome::Missing => "was allowed, and there is nothing to give",
        Outcome::Failed => "was allowed, and failed",
    };
    let policy = match (&record.policy_id, record.outcome) {
        (Some(id), Outcome::Denied) => format!(" by policy {id}"),
        _ => String::new(),
    };
    let detail = match &record.detail {
        Some(detail) => format!(": {detail}"),
        None => String::new(),
    };
    format!("{of} by {by} {ended}{policy}{detail}")
}

/// The pattern of a policy that has one.
fn pattern(id: &str) -> Option<String> {
    match id.parse() {
        Ok(ReleaseId::Pattern(pattern)) => Some(pattern.to_string()),
        Ok(ReleaseId::Root) | Err(_) => None,
    }
}
