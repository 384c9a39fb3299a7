//! Release policies: whether a token may have a resource, and if not, why.
//!
//! Upstream's input shape: `input` is the token's payload, `data` has `plugin`, `resource-path` and `query`,
//! the verdict is `data.policy.allow`. Beside the payload, `input` has `assurance` (the weakest of the submodules'),
//! `init_data_claims` (of `cpu0`) and `time` (of the request, in seconds since 1970). A policy may also define `data.policy.denials`, entries of
//! `{rule, claim, expected, actual}`, which explain a denial to the owner and decide nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strongroom_rego::{self as policy, PolicyError, Rego, RegoValue};
use strongroom_wire::ear::Tier;
use strongroom_wire::resource::{ResourceError, ResourcePath, ResourcePattern};
use strongroom_wire::tee::Tee;

use crate::Assurance;
use crate::compared::{self, Comparison};

/// A parsed release policy.
#[derive(Clone, Debug)]
pub struct ReleasePolicy {
    rego: Rego,
    denials: bool,
    /// What to say of a denial that `denials` does not explain.
    comparisons: Arc<[Comparison]>,
}

impl ReleasePolicy {
    /// Parses a policy and tries it on an empty token, so that one that does not parse or does not end is
    /// refused when it is set. Errors name it by `id`.
    ///
    /// # Errors
    /// [`PolicyError`], with line and column where the text is at fault.
    pub fn compile(id: &str, rego: &str) -> Result<Self, PolicyError> {
        let mut rego = Rego::compile(id, rego, ALLOW)?;
        let policy = Self {
            denials: rego.declares(DENIALS),
            comparisons: rego
                .module()
                .map(|module| compared::comparisons(&module, "denials"))
                .unwrap_or_default()
                .into(),
            rego: rego.asked_by(ASKER)?.prepared(ASKED_ALLOW)?,
        };
        let nothing = question(policy::value(&json!({})), ["", "", ""], &BTreeMap::new());
        policy.rego.evaluation(nothing).value(ASKED_ALLOW)?;
        Ok(policy)
    }

    /// The policy that holds until the owner sets one: [`Self::DEFAULT`].
    pub fn closed_by_default() -> Self {
        Self::compile(POLICY_ID, Self::DEFAULT)
            .expect("the shipped policy compiles, as its test shows")
    }

    /// The text of the policy that ships: affirming, on hardware, init-data bound.
    pub const DEFAULT: &'static str = include_str!("policies/default_release.rego");

    /// Decides over a token's payload and the resource asked for. Only the boolean `true` allows.
    ///
    /// # Errors
    /// [`PolicyError`] when the evaluation fails; the caller owes to treat that as a denial.
    pub fn evaluate(
        &self,
        token: &Value,
        path: &ResourcePath,
        query: &BTreeMap<String, String>,
        now: u64,
    ) -> Result<Decision, PolicyError> {
        self.evaluate_for(&Subject::new(token), path, query, now)
    }

    /// As [`Self::evaluate`], for a token that is asked on more than once.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn evaluate_for(
        &self,
        subject: &Subject,
        path: &ResourcePath,
        query: &BTreeMap<String, String>,
        now: u64,
    ) -> Result<Decision, PolicyError> {
        let path_parts = [path.repo(), path.r#type(), path.tag()];
        let input = policy::with(subject.0.clone(), [("time", json!(now))]);
        let asked = question(input.clone(), path_parts, query);
        let mut evaluation = self.rego.evaluation(asked);
        let verdict = evaluation.value(ASKED_ALLOW)?;
        if verdict == Some(Value::Bool(true)) {
            return Ok(Decision::Allow);
        }
        let denials = match self.denials {
            // An explanation that fails must not hide the denial that it explains.
            true => evaluation
                .value(ASKED_DENIALS)
                .ok()
                .flatten()
                .map(|denials| reasons(DENIALS, denials))
                .unwrap_or_default(),
            false => Vec::new(),
        };
        let reasons = match denials.is_empty() {
            true => {
                let mut reasons = vec![Reason {
                    rule: ALLOW.to_owned(),
                    claim: path.to_string(),
                    expected: json!(true),
                    actual: verdict.unwrap_or_else(|| json!("undefined")),
                }];
                reasons.extend(self.unmet(&input, path_parts, query));
                reasons
            }
            false => denials,
        };
        Ok(Decision::Deny { reasons })
    }
}

impl ReleasePolicy {
    /// What the policy's text compares and what does not hold.
    fn unmet(
        &self,
        input: &RegoValue,
        path: [&str; 3],
        query: &BTreeMap<String, String>,
    ) -> Vec<Reason> {
        if self.comparisons.is_empty() {
            return Vec::new();
        }
        let Ok(input) = serde_json::to_value(input) else {
            return Vec::new();
        };
        let data = json!({"plugin": "resource", "resource-path": path, "query": query});
        compared::unmet(&self.comparisons, ALLOW, (&input, &data), MAX_REASONS - 1)
            .into_iter()
            .map(bounded)
            .collect()
    }
}

/// What release policies see of a token: its payload, `assurance` and `init_data_claims`, in the form in which they are
/// evaluated.
#[derive(Clone, Debug)]
pub struct Subject(RegoValue);

impl Subject {
    /// Reads a token's payload.
    pub fn new(token: &Value) -> Self {
        Self(policy::with(policy::value(token), beyond(token)))
    }
}

/// What a release policy says.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The resource may leave.
    Allow,
    /// It may not.
    Deny {
        /// Why, at least one.
        reasons: Vec<Reason>,
    },
}

/// One reason of a denial: which rule, which claim it looked at, what it wanted and what it found.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reason {
    /// The rule, in the policy's own words.
    pub rule: String,
    /// The claim that it looked at.
    pub claim: String,
    /// What would have passed.
    pub expected: Value,
    /// What was there.
    pub actual: Value,
}

/// One rule of a policy that nobody has to write Rego for: who may have the resources that a pattern names.
///
/// A guest passes when it meets every requirement that is set. Every submodule of its token must reach
/// `tier`, which is affirming unless lowered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Requirement {
    pattern: ResourcePattern,
    tier: Option<Tier>,
    appraisal: String,
    assurance: Option<Assurance>,
    platform: Option<Tee>,
    initdata_digest: Option<String>,
    claims: Vec<(Vec<String>, Value)>,
}

impl Requirement {
    /// Starts a rule for resources like `default/fraud-*`.
    ///
    /// # Errors
    /// [`ResourceError`] for what is no [`ResourcePattern`].
    pub fn for_resources(pattern: &str) -> Result<Self, ResourceError> {
        Ok(Self {
            pattern: pattern.parse()?,
            tier: Some(Tier::Affirming),
            appraisal: DEFAULT_APPRAISAL.to_owned(),
            assurance: None,
            platform: None,
            initdata_digest: None,
            claims: Vec::new(),
        })
    }

    /// Demands exactly this tier of every submodule.
    #[must_use]
    pub fn tier(mut self, tier: Tier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Takes the tier from these appraisal policies instead of those named `default`. The guest says by which it is graded.
    #[must_use]
    pub fn appraisal(mut self, id: &str) -> Self {
        id.clone_into(&mut self.appraisal);
        self
    }

    /// Demands no tier: the other requirements alone decide.
    #[must_use]
    pub fn insecure_any_tier(mut self) -> Self {
        self.tier = None;
        self
    }

    /// Demands this assurance of every submodule.
    #[must_use]
    pub fn assurance(mut self, assurance: Assurance) -> Self {
        self.assurance = Some(assurance);
        self
    }

    /// Demands that the platform's register holds this init-data digest.
    #[must_use]
    pub fn initdata_digest(mut self, digest: &[u8]) -> Self {
        self.initdata_digest = Some(hex::encode(digest));
        self
    }

    /// Demands that `cpu0` is of this platform.
    #[must_use]
    pub fn platform(mut self, tee: Tee) -> Self {
        self.platform = Some(tee);
        self
    }

    /// Demands a value of a claim of `cpu0`, by its path in the annotated evidence, such as
    /// `["snp", "measurement"]`.
    #[must_use]
    pub fn claim(mut self, path: &[&str], value: Value) -> Self {
        self.claims
            .push((path.iter().map(|part| (*part).to_owned()).collect(), value));
        self
    }

    /// The checks of one submodule, as Rego objects: the verdict and its explanation both read them.
    fn checks(&self) -> (Vec<String>, Vec<String>) {
        let rule = |what: &str| json!(format!("{}: {what}", self.pattern)).to_string();
        let check = |what: &str, claim: String, expected: Value, actual: String| {
            format!(
                "\t{{\"rule\": {}, \"claim\": {claim}, \"expected\": {expected}, \"found\": {actual}}},\n",
                rule(what)
            )
        };
        let claim = |name: &str| format!("sprintf(\"submods.%s.{name}\", [name])");
        let evidence = |path: &[String]| {
            let mut full = vec![json!(ANNOTATED)];
            full.extend(path.iter().map(|part| json!(part)));
            format!("found(submod, {})", Value::Array(full))
        };
        let mut every = Vec::new();
        if let Some(tier) = self.tier {
            every.push(check(
                "tier",
                claim("ear.status"),
                json!(tier),
                "found(submod, [\"ear.status\"])".to_owned(),
            ));
            every.push(check(
                "graded by",
                claim("ear.appraisal-policy-id"),
                json!(self.appraisal),
                "found(submod, [\"ear.appraisal-policy-id\"])".to_owned(),
            ));
        }
        if let Some(assurance) = self.assurance {
            let path = ["assurance".to_owned()];
            every.push(check(
                "assurance",
                claim("assurance"),
                json!(assurance.as_str()),
                evidence(&path),
            ));
        }
        let mut cpu = Vec::new();
        if let Some(tee) = self.platform {
            // A platform's claims stand under its name, and only there.
            cpu.push(check(
                "platform",
                claim("platform"),
                json!(tee.as_str()),
                format!("platform(submod, \"{tee}\")"),
            ));
        }
        if let Some(digest) = &self.initdata_digest {
            let path = ["init_data_digest".to_owned()];
            cpu.push(check(
                "init-data",
                claim("init_data_digest"),
                json!(digest),
                evidence(&path),
            ));
            let path = ["init_data_bound".to_owned()];
            cpu.push(check(
                "init-data is bound",
                claim("init_data_bound"),
                json!(true),
                evidence(&path),
            ));
        }
        for (path, value) in &self.claims {
            let name = format!(
                "sprintf(\"submods.%s.%s\", [name, {}])",
                json!(path.join("."))
            );
            cpu.push(check("claim", name, value.clone(), evidence(path)));
        }
        (every, cpu)
    }

    /// Whether a path is one of the pattern's. No name holds a character that Rego would read as anything else.
    fn condition(&self) -> String {
        match self.pattern.is_open() {
            true => format!("startswith(path, \"{}\")", self.pattern.stem()),
            false => format!("path == \"{}\"", self.pattern.stem()),
        }
    }
}

/// Writes the Rego of a policy that allows what one of `requirements` allows, and nothing else.
pub fn requiring(requirements: &[Requirement]) -> String {
    let mut text = String::from(PREAMBLE);
    if requirements
        .iter()
        .any(|requirement| requirement.platform.is_some())
    {
        let names = json!(Tee::ALL.map(Tee::as_str));
        text.push_str(PLATFORM);
        text.push_str(&format!("\nplatforms := {names}\n"));
    }
    for (number, requirement) in (1..).zip(requirements) {
        let (every, cpu) = requirement.checks();
        let pattern = &requirement.pattern;
        let condition = requirement.condition();
        // Writing to a string cannot fail.
        let _: Result<(), std::fmt::Error> = write!(
            text,
            "\n##### {pattern} #####\n\nmatches_{number} if {condition}\n\n\
             checks_{number}(name, submod) := array.concat([\n{every}], cpu_checks_{number}(name, submod))\n\n\
             default cpu_checks_{number}(_, _) := []\n\n\
             cpu_checks_{number}(name, submod) := [\n{cpu}] if name == \"cpu0\"\n\n\
             allow if {{\n\tdata.plugin == \"resource\"\n\tmatches_{number}\n\tinput.submods.cpu0\n\
             \tevery name, submod in input.submods {{\n\t\tevery check in checks_{number}(name, submod) {{\n\
             \t\t\tcheck.found == check.expected\n\t\t}}\n\t}}\n}}\n\n\
             denials contains explained(check) if {{\n\tmatches_{number}\n\tsome name, submod in input.submods\n\
             \tsome check in checks_{number}(name, submod)\n\tcheck.found != check.expected\n}}\n\n\
             covered if matches_{number}\n",
            every = every.concat(),
            cpu = cpu.concat(),
        );
    }
    text
}

/// What a policy may ask of a token beyond its own members.
fn beyond(token: &Value) -> [(&'static str, Value); 2] {
    let submods = token["submods"].as_object();
    let hardware = submods.is_some_and(|submods| {
        let named = |submod: &Value| submod[ANNOTATED]["assurance"] == Assurance::Hardware.as_str();
        !submods.is_empty() && submods.values().all(named)
    });
    let assurance = match hardware {
        true => Assurance::Hardware,
        false => Assurance::Development,
    };
    let init_data = token["submods"]["cpu0"][ANNOTATED]["init_data_claims"].clone();
    [
        ("assurance", json!(assurance.as_str())),
        ("init_data_claims", init_data),
    ]
}

/// What [`ASKER`] takes for its own input.
fn question(input: RegoValue, path: [&str; 3], query: &BTreeMap<String, String>) -> RegoValue {
    let text = |text: &str| RegoValue::String(text.into());
    let query: BTreeMap<_, _> = query.iter().map(|(k, v)| (text(k), text(v))).collect();
    let members = [
        ("input", input),
        ("plugin", text("resource")),
        ("path", RegoValue::from(path.map(text).to_vec())),
        ("query", RegoValue::from(query)),
    ];
    let members: BTreeMap<_, _> = members
        .into_iter()
        .map(|(name, value)| (text(name), value))
        .collect();
    RegoValue::from(members)
}

/// Reads what it can of the explanation; an entry of another form is shown as it is. Claims come from guests, so
/// what they can put into the record is bounded.
pub(crate) fn reasons(rule: &str, denials: Value) -> Vec<Reason> {
    let Value::Array(entries) = denials else {
        return Vec::new();
    };
    entries
        .into_iter()
        .take(MAX_REASONS)
        .map(|entry| {
            let reason = serde_json::from_value(entry.clone()).unwrap_or_else(|_| Reason {
                rule: rule.to_owned(),
                claim: String::new(),
                expected: Value::Null,
                actual: entry,
            });
            bounded(reason)
        })
        .collect()
}

/// Claims come from guests, and so does their length.
fn bounded(reason: Reason) -> Reason {
    Reason {
        rule: shorten(reason.rule),
        claim: shorten(reason.claim),
        expected: shorten_value(reason.expected),
        actual: shorten_value(reason.actual),
    }
}

fn shorten_value(value: Value) -> Value {
    let text = value.to_string();
    match text.len() > MAX_TEXT {
        true => Value::String(shorten(text)),
        false => value,
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}... ({} bytes)", &text[..at], text.len()),
        None => text,
    }
}

/// The id under which upstream's clients set and list the release policy.
pub const POLICY_ID: &str = "resource-policy";

/// What `ear.appraisal-policy-id` says when the guest asked for no other policies.
const DEFAULT_APPRAISAL: &str = "default";
/// The rule whose value decides. A reason that no rule `denials` gave names it, by itself or with the comparison in the
/// policy's text that does not hold.
pub const ALLOW: &str = "data.policy.allow";
const DENIALS: &str = "data.policy.denials";
/// Asks a policy for its rules, with upstream's `data` put in their place for one evaluation. Setting `data` on the engine
/// would have the policy analysed for each release, which takes as long as everything else about a release.
const ASKER: &str = "\
package strongroom

import rego.v1

allow := verdict if {
	asked := input
	verdict := data.policy.allow with input as asked.input with data.plugin as asked.plugin \
with data[\"resource-path\"] as asked.path with data.query as asked.query
}

denials := reasons if {
	asked := input
	reasons := data.policy.denials with input as asked.input with data.plugin as asked.plugin \
with data[\"resource-path\"] as asked.path with data.query as asked.query
}
";
const ASKED_ALLOW: &str = "data.strongroom.allow";
const ASKED_DENIALS: &str = "data.strongroom.denials";
const ANNOTATED: &str = "ear.veraison.annotated-evidence";
const MAX_REASONS: usize = 32;
const MAX_TEXT: usize = 1024;
/// What a rule that names a platform needs besides: the platform of a submodule, or what it is of instead.
const PLATFORM: &str = "
# A platform's claims stand under its name.
platform(submod, name) := name if {
	object.get(submod, [\"ear.veraison.annotated-evidence\", name], set()) != set()
} else := concat(\", \", came) if {
	came := {other | some other in platforms; object.get(submod, [\"ear.veraison.annotated-evidence\", other], set()) != set()}
	count(came) > 0
} else := \"none that has a name here\"
";
const PREAMBLE: &str = "\
# Written by strongroom from a list of requirements. What no rule below covers is denied.
package policy

import rego.v1

default allow := false

path := concat(\"/\", data[\"resource-path\"])

# What a submodule says. One that says nothing gives the empty set, which no claim and no requirement can equal:
# JSON has no sets.
found(submod, path) := object.get(submod, path, set())

explained(check) := {\"rule\": check.rule, \"claim\": check.claim, \"expected\": check.expected, \"actual\": shown(check.found)}

shown(value) := \"absent\" if value == set()

shown(value) := value if value != set()

default covered := false

denials contains {\"rule\": \"a rule covers the resource\", \"claim\": \"resource-path\", \"expected\": \"a path that a rule names\", \"actual\": path} if {
\tnot covered
}

denials contains {\"rule\": \"a token attests a CPU\", \"claim\": \"submods.cpu0\", \"expected\": \"present\", \"actual\": \"absent\"} if {
\tcovered
\tnot input.submods.cpu0
}
";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn token(status: &str, evidence: Value) -> Value {
        graded_by("default", status, evidence)
    }

    fn graded_by(id: &str, status: &str, evidence: Value) -> Value {
        json!({"submods": {"cpu0": {"ear.status": status, "ear.appraisal-policy-id": id, ANNOTATED: evidence}}})
    }

    #[test]
    fn guest_chooses_the_policy_that_grades_it() {
        let evidence = || json!({"assurance": "hardware", "init_data_bound": true});
        let written = |appraisal: Option<&str>| {
            let requirement = Requirement::for_resources("a/b/c").unwrap();
            let requirement = match appraisal {
                Some(id) => requirement.appraisal(id),
                None => requirement,
            };
            ReleasePolicy::compile(POLICY_ID, &requiring(&[requirement])).unwrap()
        };
        let lax = graded_by("lax", "affirming", evidence());
        let unnamed =
            json!({"submods": {"cpu0": {"ear.status": "affirming", ANNOTATED: evidence()}}});
        let default = token("affirming", evidence());
        for policy in [ReleasePolicy::closed_by_default(), written(None)] {
            assert_eq!(decide(&policy, &default, "a/b/c"), Decision::Allow);
            for (token, actual) in [(&lax, "lax"), (&unnamed, "absent")] {
                let reasons = reasons_of(decide(&policy, token, "a/b/c"));
                assert_eq!(reasons.len(), 1);
                assert_eq!(reasons[0].claim, "submods.cpu0.ear.appraisal-policy-id");
                assert_eq!(reasons[0].actual, json!(actual));
            }
        }
        let policy = written(Some("lax"));
        assert_eq!(decide(&policy, &lax, "a/b/c"), Decision::Allow);
        assert_ne!(decide(&policy, &default, "a/b/c"), Decision::Allow);
    }

    fn decide(policy: &ReleasePolicy, token: &Value, path: &str) -> Decision {
        policy
            .evaluate(token, &path.parse().unwrap(), &BTreeMap::new(), 50)
            .unwrap()
    }

    fn reasons_of(decision: Decision) -> Vec<Reason> {
        let Decision::Deny { reasons } = decision else {
            unreachable!("allowed")
        };
        reasons
    }

    #[test]
    fn default_allows_affirming_hardware_with_bound_initdata() {
        let policy = ReleasePolicy::closed_by_default();
        let evidence = json!({"assurance": "hardware", "init_data_bound": true});
        assert_eq!(
            decide(&policy, &token("affirming", evidence), "a/b/c"),
            Decision::Allow
        );
        assert_eq!(
            decide(
                &policy,
                &token("affirming", json!({"assurance": "hardware"})),
                "a/b/c"
            ),
            Decision::Allow
        );
    }

    #[test]
    fn default_explains_what_is_missing() {
        let policy = ReleasePolicy::closed_by_default();
        let token = token(
            "contraindicated",
            json!({"assurance": "development", "init_data_bound": false}),
        );
        let mut reasons = reasons_of(decide(&policy, &token, "a/b/c"));
        reasons.sort_by(|a, b| a.claim.cmp(&b.claim));
        let seen: Vec<_> = reasons
            .iter()
            .map(|r| (r.claim.as_str(), &r.expected, &r.actual))
            .collect();
        assert_eq!(
            seen,
            [
                (
                    "submods.cpu0.assurance",
                    &json!("hardware"),
                    &json!("development")
                ),
                (
                    "submods.cpu0.ear.status",
                    &json!("affirming"),
                    &json!("contraindicated")
                ),
                ("submods.cpu0.init_data_bound", &json!(true), &json!(false)),
            ]
        );
    }

    #[test]
    fn default_denies_a_token_without_submodules() {
        let policy = ReleasePolicy::closed_by_default();
        for token in [
            json!({}),
            json!({"submods": {}}),
            json!({"submods": null}),
            json!(null),
            json!({"submods": {"cpu0": null}}),
        ] {
            // An evaluation that fails is a denial as well, and is the caller's to treat as one.
            let outcome = policy.evaluate(&token, &"a/b/c".parse().unwrap(), &BTreeMap::new(), 50);
            assert!(!matches!(outcome, Ok(Decision::Allow)), "{token}");
        }
    }

    #[test]
    fn default_denies_when_one_of_two_submodules_falls_short() {
        let policy = ReleasePolicy::closed_by_default();
        let id = "default";
        let good = json!({"ear.status": "affirming", "ear.appraisal-policy-id": id, ANNOTATED: {"assurance": "hardware"}});
        let bad = json!({"ear.status": "warning", "ear.appraisal-policy-id": id, ANNOTATED: {"assurance": "hardware"}});
        let reasons = reasons_of(decide(
            &policy,
            &json!({"submods": {"cpu0": good, "gpu0": bad}}),
            "a/b/c",
        ));
        assert_eq!(reasons.len(), 1);
        assert_eq!(reasons[0].claim, "submods.gpu0.ear.status");
    }

    #[test]
    fn verdict_that_is_not_true_denies() {
        for verdict in ["\"true\"", "1", "null", "[true]", "{}", "false"] {
            let policy =
                ReleasePolicy::compile(POLICY_ID, &format!("package policy\n\nallow := {verdict}"))
                    .unwrap();
            assert!(
                matches!(decide(&policy, &json!({}), "a/b/c"), Decision::Deny { .. }),
                "{verdict}"
            );
        }
    }

    #[test]
    fn guest_cannot_fill_the_record_with_its_claims() {
        let text = "package policy\n\nimport rego.v1\n\ndefault allow := false\n\ndenials contains {\"rule\": \"r\", \"claim\": input.c, \"expected\": 1, \"actual\": input.c}\n\ndenials contains input.c";
        let policy = ReleasePolicy::compile(POLICY_ID, text).unwrap();
        let reasons = reasons_of(decide(
            &policy,
            &json!({"c": "\u{20ac}".repeat(100_000)}),
            "a/b/c",
        ));
        assert_eq!(reasons.len(), 2);
        assert!(serde_json::to_string(&reasons).unwrap().len() < 5 * 4 * MAX_TEXT);
    }

    #[test]
    fn undefined_verdict_denies_and_names_the_rule() {
        let policy = ReleasePolicy::compile(
            POLICY_ID,
            "package policy\n\nimport rego.v1\n\nallow if input.never",
        )
        .unwrap();
        let reasons = reasons_of(decide(&policy, &json!({}), "a/b/c"));
        assert_eq!(
            (reasons[0].rule.as_str(), &reasons[0].actual),
            (ALLOW, &json!("undefined"))
        );
    }

    #[test]
    fn denial_by_a_policy_without_denials_names_no_claim() {
        let text = "package policy\n\nimport rego.v1\n\ndefault allow := false\n\nallow if {\n\tinput.assurance == \"hardware\"\n\
                    \tinput.submods.cpu0[\"ear.status\"] == \"affirming\"\n\tinput.time < 60\n\tdata.query.purpose == \"score\"\n}";
        let policy = ReleasePolicy::compile(POLICY_ID, text).unwrap();
        let token = token("warning", json!({"assurance": "development"}));
        let reasons = reasons_of(decide(&policy, &token, "a/b/c"));
        let seen: Vec<_> = reasons
            .iter()
            .map(|r| (r.rule.as_str(), r.claim.as_str(), &r.expected, &r.actual))
            .collect();
        let compares = "data.policy.allow compares";
        assert_eq!(
            seen,
            [
                (ALLOW, "a/b/c", &json!(true), &json!(false)),
                (
                    compares,
                    "input.assurance",
                    &json!("hardware"),
                    &json!("development")
                ),
                (
                    compares,
                    "input.submods.cpu0[\"ear.status\"]",
                    &json!("affirming"),
                    &json!("warning")
                ),
                (
                    compares,
                    "data.query.purpose",
                    &json!("score"),
                    &json!("absent")
                ),
            ]
        );
    }

    #[test]
    fn written_policy_calls_the_platform_that_came_another() {
        for (came, said) in [("tdx", "tdx"), ("unheard-of", "none that has a name here")] {
            let requirement = Requirement::for_resources("a/b/c").unwrap();
            let rego = requiring(&[requirement.platform(Tee::Snp)]);
            let policy = ReleasePolicy::compile(POLICY_ID, &rego).unwrap();
            let mut evidence = json!({"assurance": "hardware"});
            evidence[came] = json!({"x": 1});
            let reasons = reasons_of(decide(&policy, &token("affirming", evidence), "a/b/c"));
            assert_eq!(
                (reasons.len(), &reasons[0].expected, &reasons[0].actual),
                (1, &json!("snp"), &json!(said))
            );
            let snp = json!({"assurance": "hardware", "snp": {"measurement": "aa"}, "tdx": {}});
            let decision = decide(&policy, &token("affirming", snp), "a/b/c");
            assert_eq!(decision, Decision::Allow);
        }
    }

    #[test]
    fn error_in_the_policy_of_a_pattern_blames_the_root() {
        let id = "resource-policy/default/fraud-*";
        for text in [
            "package policy\n\nallow := if {",
            "package policy\n\nx := 1",
        ] {
            let error = ReleasePolicy::compile(id, text).unwrap_err().to_string();
            assert!(error.contains(id), "{error}");
        }
        let error = ReleasePolicy::compile(id, "package policy\n\nallow := if {").unwrap_err();
        assert!(
            matches!(error, PolicyError::Syntax { line: 3, .. }),
            "{error}"
        );
    }

    #[test]
    fn upstream_affirming_policy_runs_unchanged() {
        let text = "package policy\n\nimport rego.v1\n\ndefault allow = false\n\nplugin = data.plugin\n\nallow if {\n\tplugin == \"resource\"\n\tcount(input.submods) > 0\n\tevery _, submod in input.submods {\n\t\tsubmod[\"ear.status\"] == \"affirming\"\n\t}\n}\n";
        let policy = ReleasePolicy::compile(POLICY_ID, text).unwrap();
        assert_eq!(
            decide(&policy, &token("affirming", json!({})), "a/b/c"),
            Decision::Allow
        );
        assert!(matches!(
            decide(&policy, &token("warning", json!({})), "a/b/c"),
            Decision::Deny { .. }
        ));
    }

    #[test]
    fn policy_sees_path_and_query() {
        let text = "package policy\n\nimport rego.v1\n\nallow if {\n\tdata[\"resource-path\"] == [\"a\", \"b\", \"c\"]\n\tdata.query.x == \"1\"\n}";
        let policy = ReleasePolicy::compile(POLICY_ID, text).unwrap();
        let query = BTreeMap::from([("x".to_owned(), "1".to_owned())]);
        assert_eq!(
            policy
                .evaluate(&json!({}), &"a/b/c".parse().unwrap(), &query, 50)
                .unwrap(),
            Decision::Allow
        );
        assert_ne!(decide(&policy, &json!({}), "a/b/c"), Decision::Allow);
    }

    #[test]
    fn one_evaluation_leaves_nothing_for_the_next() {
        let text =
            "package policy\n\nimport rego.v1\n\nallow if data[\"resource-path\"][0] == \"a\"";
        let policy = ReleasePolicy::compile(POLICY_ID, text).unwrap();
        assert_eq!(decide(&policy, &json!({}), "a/b/c"), Decision::Allow);
        assert_ne!(decide(&policy, &json!({}), "x/b/c"), Decision::Allow);
        assert_eq!(decide(&policy, &json!({}), "a/b/c"), Decision::Allow);
    }

    #[test]
    fn rules_and_functions_behind_the_verdict_see_another_request() {
        let text = "package policy\n\nimport rego.v1\n\nallow if {\n\tplaces[input.place]\n\tfits(\"b\")\n\tnot refused\n}\n\n\
                    places contains place if place := data[\"resource-path\"][0]\n\n\
                    fits(name) if data[\"resource-path\"][1] == name\n\n\
                    refused if data.query.refuse == \"1\"\n\n\
                    denials contains {\"rule\": \"r\", \"claim\": \"c\", \"expected\": input.place, \"actual\": place} if some place in places";
        let policy = ReleasePolicy::compile(POLICY_ID, text).unwrap();
        let token = json!({"place": "a"});
        assert_eq!(decide(&policy, &token, "a/b/c"), Decision::Allow);
        assert_ne!(decide(&policy, &token, "a/x/c"), Decision::Allow);
        let Decision::Deny { reasons } = decide(&policy, &token, "x/b/c") else {
            unreachable!("another place was allowed")
        };
        assert_eq!(
            (&reasons[0].expected, &reasons[0].actual),
            (&json!("a"), &json!("x"))
        );
        let query = BTreeMap::from([("refuse".to_owned(), "1".to_owned())]);
        let path = "a/b/c".parse().unwrap();
        assert_ne!(
            policy.evaluate(&token, &path, &query, 0).unwrap(),
            Decision::Allow
        );
    }

    #[test]
    fn policy_that_asks_who_asks_it_allows_something() {
        for rule in [
            "allow := data.strongroom.allow",
            "allow := true if not data.strongroom.allow",
            "allow := count(data.strongroom) > 0",
        ] {
            let text = format!("package policy\n\nimport rego.v1\n\n{rule}");
            let Ok(policy) = ReleasePolicy::compile(POLICY_ID, &text) else {
                continue;
            };
            let path = "a/b/c".parse().unwrap();
            let outcome = policy.evaluate(&json!({}), &path, &BTreeMap::new(), 0);
            assert!(!matches!(outcome, Ok(Decision::Allow)), "{rule}");
        }
    }

    #[test]
    fn deep_policy_overflows_the_stack_when_it_is_set_or_asked() {
        let mut text = String::from("package policy\n\nimport rego.v1\n\nx0 := [0]\n\n");
        for number in 1..200 {
            text.push_str(&format!("x{number} := [[[[[[x{}]]]]]]\n\n", number - 1));
        }
        text.push_str("allow if {\n\tinput.submods\n\tcount(x199) == 1\n}\n");
        let policy = ReleasePolicy::compile(POLICY_ID, &text).unwrap();
        let token = token("affirming", json!({}));
        assert_eq!(decide(&policy, &token, "a/b/c"), Decision::Allow);
        let set = text.replace("count(x199) == 1", "false") + "\ndenials contains x199\n";
        let policy = ReleasePolicy::compile(POLICY_ID, &set).unwrap();
        assert_eq!(reasons_of(decide(&policy, &token, "a/b/c")).len(), 1);
    }

    #[test]
    fn policy_that_does_not_end_is_set() {
        let digits = "[0,1,2,3,4,5,6,7,8,9]";
        let text = format!(
            "package policy\n\nimport rego.v1\n\nd := {digits}\n\nallow if {{\n count([1 | some a in d; some b in d; some c in d; some e in d; some f in d; some g in d; some h in d; some i in d; some j in d]) > 0\n}}"
        );
        assert!(matches!(
            ReleasePolicy::compile(POLICY_ID, &text),
            Err(PolicyError::TimeLimit { .. })
        ));
    }

    fn fraud() -> ReleasePolicy {
        let requirement = Requirement::for_resources("default/fraud-*/*")
            .unwrap()
            .initdata_digest(&[0xab; 4]);
        ReleasePolicy::compile(POLICY_ID, &requiring(&[requirement])).unwrap()
    }

    fn fraud_evidence() -> Value {
        json!({"init_data_digest": "abababab", "init_data_bound": true, "assurance": "development"})
    }

    #[test]
    fn written_policy_allows_what_meets_it() {
        let token = token("affirming", fraud_evidence());
        assert_eq!(
            decide(&fraud(), &token, "default/fraud-dataset/key"),
            Decision::Allow
        );
    }

    #[test]
    fn written_policy_names_expected_and_actual_initdata() {
        let mut evidence = fraud_evidence();
        evidence["init_data_digest"] = json!("cdcdcdcd");
        let reasons = reasons_of(decide(
            &fraud(),
            &token("affirming", evidence),
            "default/fraud-dataset/key",
        ));
        assert_eq!(
            reasons,
            [Reason {
                rule: "default/fraud-*: init-data".into(),
                claim: "submods.cpu0.init_data_digest".into(),
                expected: json!("abababab"),
                actual: json!("cdcdcdcd"),
            }]
        );
    }

    #[test]
    fn written_policy_denies_unbound_initdata_of_the_right_digest() {
        let mut evidence = fraud_evidence();
        evidence["init_data_bound"] = json!(false);
        let reasons = reasons_of(decide(
            &fraud(),
            &token("affirming", evidence),
            "default/fraud-dataset/key",
        ));
        assert_eq!(reasons[0].claim, "submods.cpu0.init_data_bound");
    }

    #[test]
    fn written_policy_covers_no_other_path() {
        let token = token("affirming", fraud_evidence());
        for path in [
            "default/other/key",
            "xdefault/fraud-dataset/key",
            "default/afraud-x/key",
        ] {
            let reasons = reasons_of(decide(&fraud(), &token, path));
            assert_eq!(
                (reasons[0].claim.as_str(), &reasons[0].actual),
                ("resource-path", &json!(path))
            );
        }
    }

    #[test]
    fn written_policy_without_requirements_denies_everything() {
        let policy = ReleasePolicy::compile(POLICY_ID, &requiring(&[])).unwrap();
        assert_ne!(
            decide(&policy, &token("affirming", json!({})), "a/b/c"),
            Decision::Allow
        );
    }

    #[test]
    fn written_policy_denies_a_token_without_a_cpu() {
        let token = json!({"submods": {"gpu0": {"ear.status": "affirming"}}});
        let reasons = reasons_of(decide(&fraud(), &token, "default/fraud-dataset/key"));
        assert_eq!(reasons[0].claim, "submods.cpu0");
    }

    #[test]
    fn second_rule_lets_in_what_the_first_refuses() {
        let policy = requiring(&[
            Requirement::for_resources("a/b/*")
                .unwrap()
                .claim(&["snp", "measurement"], json!("00")),
            Requirement::for_resources("a/b/c.d")
                .unwrap()
                .tier(Tier::Warning)
                .assurance(Assurance::Hardware),
        ]);
        let policy = ReleasePolicy::compile(POLICY_ID, &policy).unwrap();
        let token = token("warning", json!({"assurance": "hardware"}));
        assert_eq!(decide(&policy, &token, "a/b/c.d"), Decision::Allow);
        assert_ne!(decide(&policy, &token, "a/b/cxd"), Decision::Allow);
    }

    fn demanding(value: Value) -> ReleasePolicy {
        let requirement = Requirement::for_resources("a/b/c")
            .unwrap()
            .claim(&["sample", "x"], value);
        ReleasePolicy::compile(POLICY_ID, &requiring(&[requirement])).unwrap()
    }

    #[test]
    fn claim_that_is_absent_meets_no_demand_not_even_for_the_word_absent() {
        for expected in [
            json!("absent"),
            json!(null),
            json!([]),
            json!({}),
            json!(""),
        ] {
            for evidence in [json!({}), json!({"sample": {}}), json!({"sample": null})] {
                let policy = demanding(expected.clone());
                let outcome = policy.evaluate(
                    &token("affirming", evidence.clone()),
                    &"a/b/c".parse().unwrap(),
                    &BTreeMap::new(),
                    50,
                );
                assert!(
                    !matches!(outcome, Ok(Decision::Allow)),
                    "{expected} {evidence}"
                );
            }
            let present = json!({"sample": {"x": expected}});
            let decision = decide(&demanding(expected), &token("affirming", present), "a/b/c");
            assert_eq!(decision, Decision::Allow);
        }
    }

    #[test]
    fn absent_claim_is_called_absent_in_the_denial() {
        let decision = decide(
            &demanding(json!("1")),
            &token("affirming", json!({})),
            "a/b/c",
        );
        let reasons = reasons_of(decision);
        assert_eq!(
            (reasons.len(), reasons[0].claim.as_str(), &reasons[0].actual),
            (1, "submods.cpu0.sample.x", &json!("absent"))
        );
    }

    #[test]
    fn claim_that_is_an_object_must_be_equal_in_each_member() {
        let expected = json!({"a": 1, "b": {"c": [true, "`%s"]}});
        let policy = demanding(expected.clone());
        let said = |value: Value| token("affirming", json!({"sample": {"x": value}}));
        assert_eq!(
            decide(&policy, &said(expected.clone()), "a/b/c"),
            Decision::Allow
        );
        let mut longer = expected.clone();
        longer["d"] = json!(0);
        let mut other = expected.clone();
        other["b"]["c"][0] = json!(false);
        for value in [longer, other, json!({"a": 1}), json!({})] {
            let reasons = reasons_of(decide(&policy, &said(value.clone()), "a/b/c"));
            assert_eq!(
                (&reasons[0].expected, &reasons[0].actual),
                (&expected, &value)
            );
        }
    }

    #[test]
    fn policy_sees_assurance_initdata_and_time_beside_the_payload() {
        let rego = "package policy\n\nimport rego.v1\n\nallow if {\n input.assurance == \"hardware\"\n \
                    input.init_data_claims.workload == \"batch\"\n input.time < 60\n}";
        let policy = ReleasePolicy::compile(POLICY_ID, rego).unwrap();
        let token = |assurance: &str, gpu: Value| {
            let evidence =
                json!({"assurance": assurance, "init_data_claims": {"workload": "batch"}});
            json!({"time": 1, "assurance": "hardware", "submods": {
                "cpu0": {ANNOTATED: evidence}, "gpu0": {ANNOTATED: gpu},
            }})
        };
        let allowed = |token: &Value, now| {
            let path = "a/b/c".parse().unwrap();
            policy
                .evaluate(token, &path, &BTreeMap::new(), now)
                .unwrap()
                == Decision::Allow
        };
        let hardware = json!({"assurance": "hardware"});
        assert!(allowed(&token("hardware", hardware.clone()), 59));
        assert!(!allowed(&token("hardware", hardware.clone()), 60));
        assert!(!allowed(&token("development", hardware), 59));
        assert!(!allowed(&token("hardware", json!({})), 59));
        assert!(!allowed(&json!({"assurance": "hardware"}), 59));
    }

    #[test]
    fn pattern_cannot_carry_rego() {
        for pattern in [
            "a/b", "a/b/c/d", "a//c", "a/b/`", "a/b/c|d", "a/*b/c", "a/b/..", "a/b/\n", "a/b/\"",
            "a/b/\"*", "",
        ] {
            assert!(Requirement::for_resources(pattern).is_err(), "{pattern:?}");
        }
        assert!(Requirement::for_resources("*/*/*").is_ok());
    }
}
