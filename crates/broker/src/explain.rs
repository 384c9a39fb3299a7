//! Why a decision was taken, what would have passed, and what would mend it: for the broker's owner, never the guest.
//!
//! Each reason becomes an advice: rule, claim, expected and actual as the record has them, the nearest value that would
//! pass, and a command; or a warning, where mending it would be giving in to an attack.

use serde::Serialize;
use serde_json::Value;
use strongroom_verifier::{Decision, Reason};

use crate::Inner;
use crate::audit::{Entry, Kind, Outcome};
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

/// One thing that stood in the way.
#[derive(Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Advice {
    rule: String,
    claim: String,
    expected: Value,
    actual: Value,
    /// Of what would have passed, what comes nearest to what was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<Value>,
    /// The command that would mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    /// When to leave it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
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
        (Kind::Release, Some(payload), Some(_)) => again(broker, payload, &entry),
        _ => None,
    };
    let resource = entry.record.resource.as_deref();
    let denied = entry.record.outcome == Outcome::Denied;
    let mut advice: Vec<Advice> = entry
        .record
        .reasons
        .iter()
        .map(|reason| advise(reason, resource))
        .collect();
    // A grade says that something is wrong, and the attestation's own entry says what.
    if denied && let Some(attestation) = &attestation {
        let findings = attestation.record.reasons.iter();
        advice.extend(findings.map(|reason| advise(reason, resource)));
    }
    if let (true, Some(resource)) = (entry.record.outcome == Outcome::Missing, resource) {
        advice.push(missing(resource, entry.record.detail.as_deref()));
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

/// What to do about one reason. Reasons are recognised by the claim that they name, which is the field's own term.
fn advise(reason: &Reason, resource: Option<&str>) -> Advice {
    let claim = reason.claim.as_str();
    let leaf = claim.rsplit('.').next().unwrap_or(claim);
    let pattern = resource.unwrap_or("PATTERN");
    let reference = reason
        .rule
        .split_once("reference value ")
        .map(|(_, name)| name);
    let (command, warning) = match leaf {
        _ if claim == "resource-path" => (
            Some(format!("strongroom policy allow '{pattern}' --initdata initdata.toml")),
            Some("Do so only if guests are meant to have this resource.".to_owned()),
        ),
        "assurance" => (
            None,
            Some(
                "This evidence was made up by a program and not by hardware. For trying things out there are \
                 `strongroom policy allow ... --assurance development` and the reference value \
                 accept_development_assurance; no real secret belongs into such a broker."
                    .to_owned(),
            ),
        ),
        "init_data_digest" => (
            Some(format!("strongroom policy allow '{pattern}' --initdata NEW-INITDATA.toml")),
            Some(
                "The machine was started with another init-data than the policy names. If you changed it, allow the \
                 new one; if you did not, somebody else did."
                    .to_owned(),
            ),
        ),
        "init_data_bound" => (
            None,
            Some(
                "Nothing in the evidence vouches for the init-data that the guest sent: start the guest with its \
                 digest in HOSTDATA, MRCONFIGID or PCR 8."
                    .to_owned(),
            ),
        ),
        "ear.status" | "tier" => (
            None,
            Some("A trust claim is not affirming; what follows says which and why.".to_owned()),
        ),
        "policy_debug_allowed" | "debug" => (
            None,
            Some("Whoever may debug a machine reads all of its memory: leave it denied.".to_owned()),
        ),
        "policy_migrate_ma" => (
            None,
            Some("A migration agent may take this machine elsewhere: leave it denied.".to_owned()),
        ),
        "tcb_status" => (
            Some("strongroom reference-value set tcb_tolerance_days 30".to_owned()),
            Some(
                "The platform lacks patches whose advisories are in its claims. Have it patched; tolerate it for some \
                 days only knowingly."
                    .to_owned(),
            ),
        ),
        "ak_anchored" => (
            None,
            Some(
                "Any program can make a TPM key. Name the key's maker in `[anchors] tpm_roots`, or this key in \
                 `[anchors] attestation_keys`, of the broker's configuration."
                    .to_owned(),
            ),
        ),
        _ => match reference {
            Some(name) => (
                Some(format!(
                    "strongroom reference-value set {name} {}",
                    shell(&widened(&reason.expected, &reason.actual))
                )),
                Some(
                    "Do so only if you know where this value comes from: `strongroom reference-value measure` \
                     computes what your own firmware, kernel and command line give."
                        .to_owned(),
                ),
            ),
            None => (None, None),
        },
    };
    Advice {
        rule: reason.rule.clone(),
        claim: reason.claim.clone(),
        expected: reason.expected.clone(),
        actual: reason.actual.clone(),
        nearest: nearest(&reason.expected, &reason.actual),
        command,
        warning,
    }
}

fn missing(resource: &str, detail: Option<&str>) -> Advice {
    Advice {
        rule: "the resource is there".to_owned(),
        claim: resource.to_owned(),
        expected: Value::from("a version that has not expired"),
        actual: Value::from(detail.unwrap_or("nothing under that name")),
        nearest: None,
        command: Some(format!("strongroom resource put {resource} FILE")),
        warning: None,
    }
}

/// Of a list of accepted values the one that is nearest to what was there: the nearest number, or of texts the one that
/// begins most alike.
fn nearest(expected: &Value, actual: &Value) -> Option<Value> {
    let Value::Array(accepted) = expected else {
        return (!expected.is_null()).then(|| expected.clone());
    };
    let alike = |one: &str, other: &str| {
        one.bytes()
            .zip(other.bytes())
            .take_while(|(one, other)| one == other)
            .count()
    };
    match actual {
        Value::Number(actual) => {
            let actual = actual.as_f64()?;
            let distance = |value: &&Value| value.as_f64().map(|value| (value - actual).abs());
            let numbers = accepted.iter().filter(|value| value.is_number());
            numbers
                .min_by(|one, other| {
                    let (one, other) = (distance(one), distance(other));
                    one.partial_cmp(&other).unwrap_or(std::cmp::Ordering::Equal)
                })
                .cloned()
        }
        Value::String(actual) => accepted
            .iter()
            .max_by_key(|value| value.as_str().map_or(0, |value| alike(value, actual)))
            .cloned(),
        _ => accepted.first().cloned(),
    }
}

/// What is accepted now, and what was there besides.
fn widened(expected: &Value, actual: &Value) -> Value {
    let mut accepted = match expected {
        Value::Array(accepted) => accepted.clone(),
        // A sentence says that nothing is registered.
        _ => Vec::new(),
    };
    accepted.push(actual.clone());
    Value::Array(accepted)
}

/// As one word of a shell: JSON of claims, which come from guests.
fn shell(value: &Value) -> String {
    format!("'{}'", value.to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn advice(rule: &str, claim: &str, expected: Value, actual: Value) -> Advice {
        let reason = Reason {
            rule: rule.to_owned(),
            claim: claim.to_owned(),
            expected,
            actual,
        };
        advise(&reason, Some("default/fraud-model/key"))
    }

    #[test]
    fn nearest_is_the_nearest_number_and_the_text_that_begins_alike() {
        for (expected, actual, wanted) in [
            (json!([3, 7, 20]), json!(8), Some(json!(7))),
            (json!([]), json!(8), None),
            (
                json!(["abcd", "abff", "zz"]),
                json!("abfe"),
                Some(json!("abff")),
            ),
            (
                json!("hardware"),
                json!("development"),
                Some(json!("hardware")),
            ),
            (json!(false), json!(true), Some(json!(false))),
            (Value::Null, json!(1), None),
            (json!([1, "x"]), json!(null), Some(json!(1))),
        ] {
            assert_eq!(nearest(&expected, &actual), wanted, "{expected} {actual}");
        }
    }

    #[test]
    fn measurement_that_is_not_registered_is_added_to_those_that_are() {
        let rule = "executables: reference value snp_launch_measurement";
        let advice = advice(rule, "snp.measurement", json!(["aa"]), json!("bb"));
        let command = r#"strongroom reference-value set snp_launch_measurement '["aa","bb"]'"#;
        assert_eq!(advice.command.as_deref(), Some(command));
        assert!(advice.warning.unwrap().contains("reference-value measure"));
    }

    #[test]
    fn value_from_a_guest_stays_one_word_of_the_command() {
        let rule = "executables: reference value snp_launch_measurement";
        let actual = json!("x'; rm -rf / #");
        let advice = advice(rule, "snp.measurement", json!("none is registered"), actual);
        let command = advice.command.unwrap();
        assert!(command.ends_with(r#"'["x'\''; rm -rf / #"]'"#), "{command}");
    }

    #[test]
    fn nobody_is_told_how_to_let_a_debugged_machine_in() {
        for claim in [
            "snp.policy_debug_allowed",
            "tdx.td_attributes.debug",
            "snp.policy_migrate_ma",
        ] {
            let advice = advice("configuration: required", claim, json!(false), json!(true));
            assert_eq!(advice.command, None, "{claim}");
            assert!(
                advice.warning.unwrap().contains("leave it denied"),
                "{claim}"
            );
        }
    }

    #[test]
    fn other_initdata_asks_who_changed_it() {
        let claim = "submods.cpu0.init_data_digest";
        let advice = advice("default/*: init-data", claim, json!("ab"), json!("cd"));
        assert!(
            advice
                .command
                .unwrap()
                .contains("'default/fraud-model/key'")
        );
        assert!(advice.warning.unwrap().contains("somebody else did"));
    }
}
