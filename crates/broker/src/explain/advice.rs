//! What to do about one reason: the nearest value that would pass, the command that would mend it, or why to leave it.
//!
//! A command does what it says when it is run as it is printed, and no more: it is made from the values that are in force
//! when it is asked for, not from those of the event. It never gives up what an owner has tightened since.

use serde::Serialize;
use serde_json::Value;
use strongroom_verifier::{Check, Reason, ReferenceValues, release_policy};

use super::refused;
use crate::audit::Record;

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

/// What an advice depends on beside its reason.
pub(super) struct Circumstances<'a> {
    /// The resource that was asked for.
    pub(super) resource: Option<&'a str>,
    /// The pattern whose policy decided.
    pub(super) pattern: Option<String>,
    /// The reference values in force now.
    pub(super) values: &'a ReferenceValues,
    pub(super) now: u64,
}

impl Advice {
    /// What to do about one reason. Reasons are recognised by the claim that they name, which is the field's own term.
    pub(super) fn of(reason: &Reason, circumstances: &Circumstances<'_>) -> Self {
        let remedy = remedy(reason, circumstances);
        Self {
            rule: reason.rule.clone(),
            claim: reason.claim.clone(),
            expected: reason.expected.clone(),
            actual: reason.actual.clone(),
            nearest: remedy
                .nearest
                .unwrap_or_else(|| nearest(&reason.expected, &reason.actual)),
            command: remedy.command,
            warning: remedy.warning,
        }
    }

    /// That a resource is not there.
    pub(super) fn missing(record: &Record) -> Option<Self> {
        let resource = record.resource.as_deref()?;
        Some(Self {
            rule: "the resource is there".to_owned(),
            claim: resource.to_owned(),
            expected: Value::from("a version that has not expired"),
            actual: Value::from(
                record
                    .detail
                    .as_deref()
                    .unwrap_or("nothing under that name"),
            ),
            nearest: None,
            command: Some(format!("strongroom resource put {resource} FILE")),
            warning: None,
        })
    }
}

/// Whether a reason says that a policy looked at the grade of the evidence.
pub(super) fn is_of_a_grade(reason: &Reason) -> bool {
    let members = ["ear.status", "ear.trustworthiness-vector"];
    members.iter().any(|member| reason.claim.contains(member)) || reason.rule.ends_with(": tier")
}

#[derive(Default)]
struct Remedy {
    /// Where it is another than what the reason expected.
    nearest: Option<Option<Value>>,
    command: Option<String>,
    warning: Option<String>,
}

impl Remedy {
    fn leave(warning: impl Into<String>) -> Self {
        Self {
            warning: Some(warning.into()),
            ..Self::default()
        }
    }

    fn run(command: String, warning: impl Into<String>) -> Self {
        Self {
            command: Some(command),
            ..Self::leave(warning)
        }
    }
}

fn remedy(reason: &Reason, circumstances: &Circumstances<'_>) -> Remedy {
    let claim = reason.claim.as_str();
    if let Some((_, name)) = reason.rule.split_once(": at least reference value ") {
        return bounded(name, reason, circumstances);
    }
    if let Some((_, name)) = reason.rule.split_once(": reference value ") {
        return registered(name, reason, circumstances);
    }
    if reason.rule == release_policy::ALLOW {
        return Remedy {
            nearest: Some(None),
            ..Remedy::leave(
                "The policy does not say why: it has no rule `denials` that speaks of this. What follows are the claims \
                 that its text compares and that do not hold, as far as they can be read off it. `strongroom policy set \
                 --help` shows how to write `denials`.",
            )
        };
    }
    if reason.rule.starts_with(release_policy::ALLOW) {
        return Remedy {
            nearest: Some(None),
            ..Remedy::leave(
                "The policy asks for this in its own text: change the policy, or what the guest runs.",
            )
        };
    }
    let by_check = Check::ALL.iter().find(|check| check.name() == claim);
    if let Some(check) = by_check {
        return Remedy::leave(refused::advice(*check));
    }
    match claim.rsplit('.').next().unwrap_or(claim) {
        "nonce" | "report_data" => Remedy::leave(refused::advice(Check::ReportData)),
        "init_data" => Remedy::leave(refused::advice(Check::InitData)),
        "appraisal-policy" => Remedy::leave(
            "No guest of this class of platforms gets a token until an appraisal policy can be evaluated: `strongroom \
             policy list` names those in force, `strongroom policy rollback ID --to N` puts an older version back.",
        ),
        "token" => Remedy::leave(
            "The claims do not fit into a token: a shorter init-data, boot log or policy `extensions` makes it shorter.",
        ),
        "broker" => Remedy::leave(
            "The broker itself failed: its log has the cause, under this event's time.",
        ),
        "resource-path" => allowing(
            circumstances.resource,
            circumstances,
            "initdata.toml",
            "Do so only if guests are meant to have this resource.",
        ),
        "assurance" => Remedy::leave(
            "This evidence was made up by a program and not by hardware. For trying things out there are \
             `strongroom policy allow ... --assurance development` and the reference value \
             accept_development_assurance; no real secret belongs into such a broker.",
        ),
        "init_data_digest" => allowing(
            circumstances.pattern.as_deref().or(circumstances.resource),
            circumstances,
            "NEW-INITDATA.toml",
            "The machine was started with another init-data than the policy names. If you changed it, allow the \
             new one; if you did not, somebody else did.",
        ),
        "init_data_bound" => Remedy::leave(
            "Nothing in the evidence vouches for the init-data that the guest sent: start the guest with its \
             digest in HOSTDATA, MRCONFIGID or PCR 8.",
        ),
        "platform" => Remedy::leave(
            "The machine is of another platform than the policy names. Whoever allows both gives up what only one of \
             them has.",
        ),
        "cpu0" => Remedy::leave(
            "A device by itself proves nothing about the machine that it is in: leave it denied.",
        ),
        "status" | "tier" => {
            Remedy::leave("A trust claim is not affirming; what follows says which and why.")
        }
        "policy_debug_allowed" | "debug" => {
            Remedy::leave("Whoever may debug a machine reads all of its memory: leave it denied.")
        }
        "policy_migrate_ma" => {
            Remedy::leave("A migration agent may take this machine elsewhere: leave it denied.")
        }
        "tcb_status" => Remedy::run(
            "strongroom reference-value set tcb_tolerance_days=30".to_owned(),
            "The platform lacks patches whose advisories are in its claims. Have it patched; tolerate it for some \
             days only knowingly, and for every machine at once.",
        ),
        "ak_anchored" => Remedy::leave(
            "Any program can make a TPM key. Name the key's maker in `[anchors] tpm_roots`, or this key in \
             `[anchors] attestation_keys`, of the broker's configuration.",
        ),
        "tee_type" | "vendor_id" => {
            Remedy::leave("A genuine quote of this platform has no other value: leave it denied.")
        }
        "collateral_expiration_status" => Remedy::leave(
            "What Intel says of the platform has expired: `strongroom broker collateral fetch` brings it anew.",
        ),
        "measurements" => Remedy::leave(
            "The device's measurements were compared with nothing: NVIDIA's reference manifests are missing (`strongroom \
             broker collateral fetch`), or an object from index to digest as reference value allowed_gpu_measurements.",
        ),
        _ if reason.rule.starts_with("a trust claim is to blame") => {
            Remedy::leave("The findings of the attestation, below, say what to mend.")
        }
        _ => Remedy::default(),
    }
}

/// The policy of a pattern, written anew.
fn allowing(
    pattern: Option<&str>,
    circumstances: &Circumstances<'_>,
    initdata: &str,
    warning: &str,
) -> Remedy {
    let Some(pattern) = pattern else {
        return Remedy::leave(warning);
    };
    let replaced = match &circumstances.pattern {
        Some(replaced) if replaced == pattern => format!(
            " It replaces the policy of '{pattern}' as a whole: repeat what else that demands (`strongroom policy show \
             '{pattern}'`)."
        ),
        _ => format!(
            " From then on a policy of its own decides over '{pattern}', and nothing wider: add what else is to be \
             demanded, such as --platform and --measurement."
        ),
    };
    Remedy::run(
        format!(
            "strongroom policy allow {} --initdata {initdata}",
            shell(pattern)
        ),
        format!("{warning}{replaced}"),
    )
}

/// About a claim that is none of the values registered under a name.
fn registered(name: &str, reason: &Reason, circumstances: &Circumstances<'_>) -> Remedy {
    if let Some(hopeless) = hopeless(name, &reason.actual) {
        return hopeless;
    }
    let in_force = circumstances.values.value(name, circumstances.now);
    let member = reason.claim.rsplit('.').next().unwrap_or_default();
    let (value, more) = match in_force {
        None => {
            let more = match circumstances.values.value(name, 0) {
                Some(_) => {
                    " What was registered has expired and is not part of it: register it again if it is still good."
                }
                None => "",
            };
            (reason.actual.clone(), more)
        }
        Some(Value::Object(members)) => {
            let mut members = members.clone();
            let widened = match members.get(member) {
                Some(known) if accepts(known, &reason.actual) => return passes_now(known),
                Some(known) => with(known, &reason.actual),
                None => reason.actual.clone(),
            };
            members.insert(member.to_owned(), widened);
            (Value::Object(members), "")
        }
        Some(known) if accepts(known, &reason.actual) => return passes_now(known),
        Some(known @ Value::Array(_)) => (with(known, &reason.actual), ""),
        Some(known) => (
            with(known, &reason.actual),
            " One value was accepted, and both are from then on: the shipped policies read a list, one of your own that \
             compares with == does not. To accept the new one alone, name it alone.",
        ),
    };
    Remedy {
        nearest: Some(in_force.and_then(|known| nearest(known, &reason.actual))),
        ..Remedy::run(
            setting(name, &value),
            format!(
                "Do so only if you know where this value comes from: `strongroom reference-value measure` computes what \
                 your own firmware, kernel and command line give.{more}"
            ),
        )
    }
}

/// About a number that is lower than the bound registered under a name.
fn bounded(name: &str, reason: &Reason, circumstances: &Circumstances<'_>) -> Remedy {
    if let Some(hopeless) = hopeless(name, &reason.actual) {
        return hopeless;
    }
    let Some(actual) = reason.actual.as_f64() else {
        return Remedy::leave(
            "The claim is no number, and only numbers are compared with a bound.",
        );
    };
    let in_force = circumstances.values.value(name, circumstances.now);
    let warning = match in_force {
        Some(bound) if bound.as_f64().is_some_and(|bound| bound <= actual) => {
            return passes_now(bound);
        }
        Some(bound) if bound.is_number() => format!(
            "This lowers a floor, from {bound} to {actual}, for every machine: whatever was mended in between counts for \
             nothing again. Better have the machine updated.",
            actual = reason.actual,
        ),
        _ => format!(
            "This registers a floor of {}: machines at it and above it pass from then on.",
            reason.actual
        ),
    };
    Remedy {
        nearest: Some(in_force.filter(|bound| bound.is_number()).cloned()),
        ..Remedy::run(setting(name, &reason.actual), warning)
    }
}

/// Where no value that could be registered would help.
fn hopeless(name: &str, actual: &Value) -> Option<Remedy> {
    // The record cuts long values.
    let cut = |text: &str| text.contains("... (") && text.ends_with(" bytes)");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let why = match actual {
        Value::Null => Some(ABSENT),
        Value::String(text) if text == "absent" => Some(ABSENT),
        Value::String(text) if cut(text) => {
            Some("The claim is longer than the record keeps: read it off the guest's own evidence.")
        }
        _ if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) => {
            Some("The rule names no reference value that could be registered.")
        }
        _ => None,
    };
    why.map(|why| Remedy {
        nearest: Some(None),
        ..Remedy::leave(why)
    })
}

fn passes_now(known: &Value) -> Remedy {
    Remedy {
        nearest: Some(Some(known.clone())),
        ..Remedy::leave(
            "The reference values that are in force now accept this: the guest passes when it attests again.",
        )
    }
}

fn accepts(known: &Value, actual: &Value) -> bool {
    match known {
        Value::Array(known) => known.contains(actual),
        known => known == actual,
    }
}

/// What is accepted, and one more.
fn with(known: &Value, actual: &Value) -> Value {
    let mut accepted = match known {
        Value::Array(known) => known.clone(),
        known => vec![known.clone()],
    };
    accepted.push(actual.clone());
    Value::Array(accepted)
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

fn setting(name: &str, value: &Value) -> String {
    let value = shell(&value.to_string());
    format!("strongroom reference-value set {name}={value}")
}

/// As one word of a shell: claims come from guests.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

const ABSENT: &str =
    "The evidence does not have this claim: no value that could be registered would match it.";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;
    use strongroom_verifier::ReferenceValue;

    use super::*;

    const NOW: u64 = 50;

    fn advice_under(values: &[(&str, Value, u64)], reason: (&str, &str, Value, Value)) -> Advice {
        let values: ReferenceValues = values
            .iter()
            .map(|(name, value, expires)| {
                let value = ReferenceValue::new(value.clone(), *expires);
                ((*name).to_owned(), value)
            })
            .collect();
        let (rule, claim, expected, actual) = reason;
        let reason = Reason {
            rule: rule.to_owned(),
            claim: claim.to_owned(),
            expected,
            actual,
        };
        let circumstances = Circumstances {
            resource: Some("default/fraud-model/key"),
            pattern: Some("default/fraud-*".to_owned()),
            values: &values,
            now: NOW,
        };
        Advice::of(&reason, &circumstances)
    }

    fn advice(rule: &str, claim: &str, expected: Value, actual: Value) -> Advice {
        advice_under(&[], (rule, claim, expected, actual))
    }

    fn measurement(in_force: Value, then: Value, actual: Value) -> Advice {
        advice_under(
            &[("snp_launch_measurement", in_force, 100)],
            (MEASUREMENT, "snp.measurement", then, actual),
        )
    }

    const MEASUREMENT: &str = "executables: reference value snp_launch_measurement";

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
        let advice = measurement(json!(["aa"]), json!(["aa"]), json!("bb"));
        let command = r#"strongroom reference-value set snp_launch_measurement='["aa","bb"]'"#;
        assert_eq!(advice.command.as_deref(), Some(command));
        assert!(advice.warning.unwrap().contains("reference-value measure"));
    }

    #[test]
    fn measurement_that_was_removed_since_is_let_in_again_by_the_command_for_another() {
        let advice = measurement(json!(["cc"]), json!(["aa", "cc"]), json!("bb"));
        let command = r#"strongroom reference-value set snp_launch_measurement='["cc","bb"]'"#;
        assert_eq!(advice.command.as_deref(), Some(command));
        assert_eq!(advice.nearest, Some(json!("cc")));
    }

    #[test]
    fn value_that_has_expired_is_registered_again_in_passing() {
        let advice = advice_under(
            &[("snp_launch_measurement", json!(["aa"]), NOW)],
            (MEASUREMENT, "snp.measurement", json!(["aa"]), json!("bb")),
        );
        let command = r#"strongroom reference-value set snp_launch_measurement='"bb"'"#;
        assert_eq!(advice.command.as_deref(), Some(command));
        assert!(advice.warning.unwrap().contains("has expired"));
    }

    #[test]
    fn single_value_that_is_in_force_is_dropped_by_the_command() {
        let reason = (
            "hardware: reference value major_version",
            "sample.platform_version.major",
            json!(7),
            json!(1),
        );
        let advice = advice_under(&[("major_version", json!(7), 100)], reason);
        let command = "strongroom reference-value set major_version='[7,1]'";
        assert_eq!(advice.command.as_deref(), Some(command));
        assert!(advice.warning.unwrap().contains("both are from then on"));
    }

    #[test]
    fn floor_is_lowered_without_a_word_or_becomes_a_list() {
        let rule = "hardware: at least reference value minimum_minor_version";
        let claim = "sample.platform_version.minor";
        let reason = |bound: u64| (rule, claim, json!(format!("at least {bound}")), json!(3));
        let lowered = advice_under(&[("minimum_minor_version", json!(5), 100)], reason(5));
        assert_eq!(
            lowered.command.as_deref(),
            Some("strongroom reference-value set minimum_minor_version='3'")
        );
        assert_eq!(lowered.nearest, Some(json!(5)));
        let warning = lowered.warning.unwrap();
        assert!(warning.contains("lowers a floor, from 5 to 3"), "{warning}");
        let passes = advice_under(&[("minimum_minor_version", json!(2), 100)], reason(5));
        assert_eq!(passes.command, None);
        let text = (rule, claim, json!("at least 5"), json!("3"));
        let text = advice_under(&[("minimum_minor_version", json!(5), 100)], text);
        assert_eq!(text.command, None);
    }

    #[test]
    fn value_that_is_accepted_by_now_is_added_a_second_time() {
        for in_force in [json!(["bb", "aa"]), json!("bb")] {
            let advice = measurement(in_force, json!(["aa"]), json!("bb"));
            assert_eq!(advice.command, None);
            assert!(advice.warning.unwrap().contains("attests again"));
        }
    }

    #[test]
    fn absent_or_shortened_claim_is_registered() {
        let long = format!("{}... (2000 bytes)", "a".repeat(100));
        for actual in [json!("absent"), json!(null), json!(long)] {
            let advice = measurement(json!(["aa"]), json!(["aa"]), actual.clone());
            assert_eq!(advice.command, None, "{actual}");
            assert!(advice.warning.is_some(), "{actual}");
        }
    }

    #[test]
    fn measurements_of_a_device_are_replaced_by_one_of_them() {
        let rule = "executables: reference value allowed_gpu_measurements";
        let reason = |index: u64, expected: Value| {
            let claim = format!("nvidia.measurements.{index}");
            let values = [(
                "allowed_gpu_measurements",
                json!({"1": "aa", "2": ["bb"]}),
                100,
            )];
            advice_under(&values, (rule, &claim, expected, json!("cc")))
                .command
                .unwrap()
        };
        let set = "strongroom reference-value set allowed_gpu_measurements=";
        assert_eq!(
            reason(1, json!("aa")),
            format!(r#"{set}'{{"1":["aa","cc"],"2":["bb"]}}'"#)
        );
        assert_eq!(
            reason(2, json!(["bb"])),
            format!(r#"{set}'{{"1":"aa","2":["bb","cc"]}}'"#)
        );
        let nothing_compared =
            "executables: the maker's manifests, or reference value allowed_gpu_measurements";
        let advice = advice(
            nothing_compared,
            "nvidia.measurements",
            json!("the manifests"),
            json!("not compared"),
        );
        assert_eq!(advice.command, None);
        assert!(advice.warning.is_some());
    }

    #[test]
    fn value_from_a_guest_stays_one_word_of_the_command() {
        let actual = json!("x'; rm -rf / #");
        let none = json!("a reference value snp_launch_measurement, and none is registered");
        let hostile = advice(MEASUREMENT, "snp.measurement", none, actual);
        let command = hostile.command.unwrap();
        assert!(command.ends_with(r#"='"x'\''; rm -rf / #"'"#), "{command}");
        // No sentence passes for a value.
        assert_eq!(hostile.nearest, None);
        for name in ["", "-h", "x y", "x;rm"] {
            let rule = format!("executables: reference value {name}");
            let unnamed = advice(&rule, "snp.measurement", json!(null), json!("x"));
            assert_eq!(unnamed.command, None, "{name}");
        }
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
    fn other_initdata_asks_who_changed_it_and_what_the_policy_demands_besides() {
        let claim = "submods.cpu0.init_data_digest";
        let advice = advice(
            "default/fraud-*: init-data",
            claim,
            json!("ab"),
            json!("cd"),
        );
        assert!(advice.command.unwrap().contains("'default/fraud-*'"));
        let warning = advice.warning.unwrap();
        assert!(
            warning.contains("somebody else did") && warning.contains("replaces the policy"),
            "{warning}"
        );
    }

    #[test]
    fn check_that_refuses_evidence_has_neither_command_nor_warning() {
        let mut said = std::collections::BTreeMap::<String, Vec<&str>>::new();
        for check in Check::ALL {
            let advice = advice(check.sentence(), check.name(), json!("1"), json!("2"));
            let warning = advice.warning.unwrap_or_default();
            assert!(
                advice.command.is_none() && !warning.is_empty(),
                "{}",
                check.name()
            );
            said.entry(warning).or_default().push(check.name());
        }
        // What has nothing to do with each other is not told the same.
        for (one, other) in [
            ("ReportData", "SnpSignature"),
            ("SnpRevocation", "TcbInfoCurrent"),
            ("InitData", "Structure"),
            ("SnpChain", "SnpSignature"),
        ] {
            let both = |checks: &Vec<&str>| checks.contains(&one) && checks.contains(&other);
            assert!(!said.values().any(both), "{one} {other}");
        }
        for claim in ["nonce", "report_data", "ReportData"] {
            let advice = advice("", claim, json!("the session's"), json!("another"));
            let warning = advice.warning.unwrap();
            assert!(
                warning.contains("replay") && warning.contains("relay"),
                "{warning}"
            );
        }
    }
}
