//! Appraisal: verified evidence and reference values in, an AR4SI trust vector out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};
use strongroom_rego::{self as policy, PolicyError, Rego, RegoValue};
use strongroom_wire::ear::{Tier, TrustVector};
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::tee::Tee;

use crate::release_policy::{Reason, reasons};
use crate::{Assurance, ReferenceValues, VerifiedEvidence};

/// A policy that grades evidence: package `policy`, rule `trust_claims`, and perhaps `extensions` and `findings`.
///
/// `findings` is ours: entries of `{rule, claim, expected, actual}` that say why a grade is bad. They decide nothing.
#[derive(Clone, Debug)]
pub struct AppraisalPolicy {
    rego: Rego,
    extensions: bool,
    findings: bool,
}

/// Answers `query_reference_value(name)` from `values`: null when absent or expired.
fn queried(
    values: Arc<ReferenceValues>,
    now: u64,
) -> impl FnMut(Option<&RegoValue>) -> RegoValue + Clone + Send + Sync + 'static {
    move |name| {
        let known = match name {
            Some(RegoValue::String(name)) => values.value(name, now),
            _ => None,
        };
        known.map_or(RegoValue::Null, policy::value)
    }
}

struct Graded {
    vector: TrustVector,
    extensions: Map<String, Value>,
    findings: Vec<Reason>,
}

impl AppraisalPolicy {
    /// Parses a policy and tries it on empty input, so that one that does not parse, does not end, or
    /// returns claims that do not exist is refused when it is set and not when a guest waits.
    ///
    /// # Errors
    /// [`PolicyError`], with line and column where the text is at fault.
    pub fn compile(id: &str, rego: &str) -> Result<Self, PolicyError> {
        let rego = Rego::compile(id, rego, TRUST_CLAIMS)?.prepared(TRUST_CLAIMS)?;
        let policy = Self {
            extensions: rego.declares(EXTENSIONS),
            findings: rego.declares(FINDINGS),
            rego,
        };
        match policy.evaluate(&Map::new(), Arc::default(), 0) {
            Ok(_) | Err(PolicyError::NoClaims { .. }) => Ok(policy),
            Err(error) => Err(error),
        }
    }

    /// The policy for CPU platforms that ships: [`Self::DEFAULT_CPU`].
    pub fn default_cpu() -> Self {
        Self::compile(DEFAULT_CPU_ID, Self::DEFAULT_CPU)
            .expect("the shipped policy compiles, as its test shows")
    }

    /// The text of the policy for CPU platforms that ships.
    pub const DEFAULT_CPU: &'static str = include_str!("policies/default_cpu.rego");

    /// The text of the policy for GPUs that ships.
    pub const DEFAULT_GPU: &'static str = include_str!("policies/default_gpu.rego");

    /// The policy's id, as `ear.appraisal-policy-id` has it: without the platform class.
    pub fn id(&self) -> &str {
        let full = self.rego.id();
        full.split_once('_').map_or(full, |(id, _class)| id)
    }

    /// The class of platforms that it grades, from the end of its id; `cpu` when the id names none.
    pub fn class(&self) -> &str {
        self.rego
            .id()
            .rsplit_once('_')
            .map_or("cpu", |(_id, class)| class)
    }

    /// The reference values that the policy's rule `all_requirements` names, each with the claims that it is for, such as
    /// `snp.measurement`. A policy without that rule, which the shipped ones have, gives none.
    pub fn asked_reference_values(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let table = self
            .rego
            .evaluation(policy::object(&Map::new()))
            .with_function(QUERY, |_| RegoValue::Null)
            .and_then(|mut evaluation| evaluation.value(REQUIREMENTS));
        let Ok(Some(Value::Object(table))) = table else {
            return asked;
        };
        for (platform, requirements) in &table {
            for requirement in requirements.as_array().into_iter().flatten() {
                let name = |member: &str| requirement.get(member)?.as_str();
                let Some(name) = name("reference").or_else(|| name("at_least")) else {
                    continue;
                };
                let claim = requirement.get("claim").and_then(Value::as_array);
                let claim = claim.into_iter().flatten().filter_map(Value::as_str);
                let path: Vec<&str> = [platform.as_str()].into_iter().chain(claim).collect();
                let claims = asked.entry(name.to_owned()).or_default();
                claims.insert(path.join("."));
            }
        }
        asked
    }

    /// Grades evidence that was verified before, as a token carries it: what this policy would have said. Nothing is
    /// issued from it.
    ///
    /// # Errors
    /// [`PolicyError`] when the evaluation fails.
    pub fn rehearse(
        &self,
        annotated_evidence: &Map<String, Value>,
        values: &Arc<ReferenceValues>,
        now: u64,
    ) -> Result<Rehearsed, PolicyError> {
        let graded = self.evaluate(annotated_evidence, Arc::clone(values), now)?;
        Ok(Rehearsed {
            trust_vector: graded.vector,
            findings: graded.findings,
        })
    }

    fn evaluate(
        &self,
        input: &Map<String, Value>,
        values: Arc<ReferenceValues>,
        now: u64,
    ) -> Result<Graded, PolicyError> {
        let mut evaluation = self
            .rego
            .evaluation(policy::object(input))
            .with_function(QUERY, queried(values, now))?;
        let vector = self.trust_vector(evaluation.value(TRUST_CLAIMS)?)?;
        let extensions = match self.extensions {
            true => evaluation
                .value(EXTENSIONS)?
                .map(|list| self.extensions(list))
                .transpose()?,
            false => None,
        };
        let findings = match self.findings && vector.status() > Tier::Affirming {
            // An explanation that fails must not hide the grade that it explains.
            true => evaluation.value(FINDINGS).ok().flatten(),
            false => None,
        };
        Ok(Graded {
            vector,
            extensions: extensions.unwrap_or_default(),
            findings: findings
                .map(|findings| reasons(FINDINGS, findings))
                .unwrap_or_default(),
        })
    }

    fn trust_vector(&self, claims: Option<Value>) -> Result<TrustVector, PolicyError> {
        let policy = || self.rego.id().to_owned();
        let Some(Value::Object(claims)) = claims else {
            return Err(PolicyError::NoClaims { policy: policy() });
        };
        let mut vector = TrustVector::default();
        for (name, value) in claims {
            let Some(tier) = value.as_i64().and_then(|number| i8::try_from(number).ok()) else {
                return Err(PolicyError::ClaimValue {
                    policy: policy(),
                    name,
                    value: value.to_string(),
                });
            };
            let slot = match name.as_str() {
                "instance-identity" => &mut vector.instance_identity,
                "configuration" => &mut vector.configuration,
                "executables" => &mut vector.executables,
                "file-system" => &mut vector.file_system,
                "hardware" => &mut vector.hardware,
                "runtime-opaque" => &mut vector.runtime_opaque,
                "storage-opaque" => &mut vector.storage_opaque,
                "sourced-data" => &mut vector.sourced_data,
                _ => {
                    return Err(PolicyError::UnknownClaim {
                        policy: policy(),
                        name,
                    });
                }
            };
            *slot = tier;
        }
        Ok(vector)
    }

    /// Upstream's form of an extension is `{name, key, value}`; the token carries name and value.
    fn extensions(&self, list: Value) -> Result<Map<String, Value>, PolicyError> {
        let malformed = || PolicyError::Evaluation {
            policy: self.rego.id().to_owned(),
            message: "`extensions` must be an array of objects with `name`, `key` and `value`"
                .to_owned(),
        };
        let Value::Array(list) = list else {
            return Err(malformed());
        };
        list.into_iter()
            .map(|extension| {
                let Value::Object(mut members) = extension else {
                    return Err(malformed());
                };
                match (members.remove("name"), members.remove("value")) {
                    (Some(Value::String(name)), Some(value))
                        if !RESERVED.contains(&name.as_str()) =>
                    {
                        Ok((name, value))
                    }
                    _ => Err(malformed()),
                }
            })
            .collect()
    }
}

/// What a policy says of evidence that was verified before.
#[derive(Clone, Debug, PartialEq)]
pub struct Rehearsed {
    /// The grades.
    pub trust_vector: TrustVector,
    /// Why a grade is bad.
    pub findings: Vec<Reason>,
}

/// The policy of each class of platform: `cpu`, `gpu`.
#[derive(Clone, Debug)]
pub struct AppraisalPolicies(BTreeMap<String, Arc<AppraisalPolicy>>);

impl AppraisalPolicies {
    /// The policies that ship.
    pub fn shipped() -> Self {
        let shipped = [
            (DEFAULT_CPU_ID, AppraisalPolicy::DEFAULT_CPU),
            (DEFAULT_GPU_ID, AppraisalPolicy::DEFAULT_GPU),
        ];
        let mut policies = Self(BTreeMap::new());
        for (id, rego) in shipped {
            let policy = AppraisalPolicy::compile(id, rego);
            policies.insert(policy.expect("the shipped policy compiles, as its test shows"));
        }
        policies
    }

    /// Puts a policy in force for the class that its id names: `default_cpu`, `default_gpu`.
    pub fn insert(&mut self, policy: AppraisalPolicy) {
        self.0.insert(policy.class().to_owned(), Arc::new(policy));
    }

    /// Policies for no class yet.
    pub fn none() -> Self {
        Self(BTreeMap::new())
    }

    /// Takes the policy of a class out of force; tells whether any is left.
    pub fn remove(&mut self, class: &str) -> bool {
        self.0.remove(class);
        !self.0.is_empty()
    }

    /// The policy of a class.
    pub fn of(&self, class: &str) -> Option<&Arc<AppraisalPolicy>> {
        self.0.get(class)
    }
}

/// Grades verified evidence, each piece by the policy of its class.
///
/// # Errors
/// [`AppraiseError`] when a policy fails or there is none; evidence that it grades badly is no error but a bad grade.
pub fn appraise(
    verified: VerifiedEvidence,
    values: &Arc<ReferenceValues>,
    policies: &AppraisalPolicies,
    now: u64,
) -> Result<AppraisedClaims, AppraiseError> {
    let tee = verified.tee();
    let assurance = verified.assurance();
    let submods = verified
        .submods
        .into_iter()
        .map(|submod| {
            let class = submod.tee.class();
            let policy = policies.of(class).ok_or_else(|| AppraiseError::NoPolicy {
                class: class.to_owned(),
            })?;
            let (name, tee) = (submod.name.clone(), submod.tee);
            let annotated_evidence = submod.into_policy_input();
            let graded = policy.evaluate(&annotated_evidence, Arc::clone(values), now)?;
            Ok(AppraisedSubmod {
                name,
                tee,
                trust_vector: graded.vector,
                annotated_evidence,
                extensions: graded.extensions,
                findings: graded.findings,
                policy_id: policy.id().to_owned(),
            })
        })
        .collect::<Result<_, AppraiseError>>()?;
    Ok(AppraisedClaims {
        tee,
        tee_key: verified.tee_key,
        assurance,
        submods,
    })
}

/// What an appraisal found: the only thing from which a token is issued.
#[derive(Clone, Debug)]
pub struct AppraisedClaims {
    tee: Tee,
    tee_key: Option<TeePublicKey>,
    assurance: Assurance,
    submods: Vec<AppraisedSubmod>,
}

impl AppraisedClaims {
    /// The platform of the primary evidence.
    pub fn tee(&self) -> Tee {
        self.tee
    }

    /// The key that the evidence binds: whatever is released is encrypted to it. Evidence of a session always binds one.
    pub fn tee_key(&self) -> Option<&TeePublicKey> {
        self.tee_key.as_ref()
    }

    /// What the weakest piece of evidence rests on.
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// The pieces, the CPU's first.
    pub fn submods(&self) -> &[AppraisedSubmod] {
        &self.submods
    }
}

/// What an appraisal found of one piece of evidence.
#[derive(Clone, Debug)]
pub struct AppraisedSubmod {
    name: String,
    tee: Tee,
    trust_vector: TrustVector,
    annotated_evidence: Map<String, Value>,
    extensions: Map<String, Value>,
    findings: Vec<Reason>,
    policy_id: String,
}

/// The claims below the platform's own name that hold the launch measurement: of a TPM what its registers hold together. None
/// of a platform that has none.
pub fn measurement_claim(tee: Tee) -> Option<&'static [&'static str]> {
    match tee {
        Tee::Snp | Tee::AzSnpVtpm => Some(&["measurement"]),
        Tee::Tdx | Tee::AzTdxVtpm => Some(&["quote", "body", "mr_td"]),
        Tee::Sgx => Some(&["body", "mr_enclave"]),
        Tee::Sample => Some(&["launch_digest"]),
        _ => None,
    }
}

/// The claims below the platform's own name that tell apart what was launched: the launch measurement, and what the
/// default policies grade executables by, such as the registers that hold a kernel. Two machines of which all are equal
/// run the same.
pub fn launched_claims(tee: Tee) -> &'static [&'static [&'static str]] {
    match tee {
        Tee::Snp => &[&["measurement"]],
        Tee::AzSnpVtpm => &[&["measurement"], &["tpm", "pcr11"]],
        Tee::Tdx => &[
            &["quote", "body", "mr_td"],
            &["quote", "body", "rtmr_0"],
            &["quote", "body", "rtmr_1"],
            &["quote", "body", "rtmr_2"],
        ],
        Tee::AzTdxVtpm => &[&["quote", "body", "mr_td"], &["tpm", "pcr11"]],
        Tee::Sgx => &[&["body", "mr_enclave"]],
        Tee::Tpm => &[&["pcr11"], &["ak_public"]],
        Tee::Sample => &[&["launch_digest"]],
        _ => &[],
    }
}

impl AppraisedSubmod {
    /// What was launched, as the platform measured it, in the spelling of its claim.
    pub fn measurement(&self) -> Option<&str> {
        let claims = self.annotated_evidence.get(self.tee.as_str())?;
        let mut path = measurement_claim(self.tee)?.iter();
        path.try_fold(claims, |claims, name| claims.get(name))?
            .as_str()
    }

    /// The digest of the init-data that was sent and that the evidence binds; else what the platform's register holds.
    pub fn init_data(&self) -> Option<&str> {
        let claims = &self.annotated_evidence;
        let name = match claims.get("init_data_bound") {
            Some(Value::Bool(true)) => "init_data_digest",
            _ => "init_data",
        };
        claims.get(name)?.as_str()
    }

    /// Its name in the token: `cpu0`, `gpu0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The platform.
    pub fn tee(&self) -> Tee {
        self.tee
    }

    /// The grades.
    pub fn trust_vector(&self) -> &TrustVector {
        &self.trust_vector
    }

    /// The policy's input, which the token carries as `ear.veraison.annotated-evidence`.
    pub fn annotated_evidence(&self) -> &Map<String, Value> {
        &self.annotated_evidence
    }

    /// Further members of the token's submodule that the policy asked for.
    pub fn extensions(&self) -> &Map<String, Value> {
        &self.extensions
    }

    /// Why a grade is bad, in the policy's own words, when it says so. They are for the record, not for the token.
    pub fn findings(&self) -> &[Reason] {
        &self.findings
    }

    /// The policy that graded.
    pub fn policy_id(&self) -> &str {
        &self.policy_id
    }
}

/// Why evidence could not be graded.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AppraiseError {
    /// The policy failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// There is no policy for a class of platforms.
    #[error(
        "there is no appraisal policy for the class {class:?}: set one whose id ends in _{class}"
    )]
    NoPolicy {
        /// The class.
        class: String,
    },
}

/// The id under which the policy for CPU platforms is stored and set.
pub const DEFAULT_CPU_ID: &str = "default_cpu";

/// The id under which the policy for GPUs is stored and set.
pub const DEFAULT_GPU_ID: &str = "default_gpu";

const TRUST_CLAIMS: &str = "data.policy.trust_claims";
const EXTENSIONS: &str = "data.policy.extensions";
const FINDINGS: &str = "data.policy.findings";
/// The function by which a policy asks for reference values.
const QUERY: &str = "query_reference_value";
const REQUIREMENTS: &str = "data.policy.all_requirements";
/// Members of a submodule that no extension may replace.
const RESERVED: [&str; 4] = [
    "ear.status",
    "ear.trustworthiness-vector",
    "ear.appraisal-policy-id",
    "ear.veraison.annotated-evidence",
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ReferenceValue;

    fn grade(input: Value, values: &[(&str, Value)]) -> TrustVector {
        appraise_with(input, values).vector
    }

    fn appraise_with(input: Value, values: &[(&str, Value)]) -> Graded {
        let values = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), ReferenceValue::new(value.clone(), 100)))
            .collect();
        AppraisalPolicy::default_cpu()
            .evaluate(input.as_object().unwrap(), Arc::new(values), 50)
            .unwrap()
    }

    /// What the findings say, without their rules.
    fn findings(input: Value, values: &[(&str, Value)]) -> Vec<(String, Value, Value)> {
        let findings = appraise_with(input, values).findings;
        let mut findings: Vec<_> = findings
            .into_iter()
            .map(|found| (found.claim, found.expected, found.actual))
            .collect();
        findings.sort_by(|a, b| a.0.cmp(&b.0));
        findings
    }

    fn sample() -> Value {
        json!({"assurance": "hardware", "sample": {"svn": "1", "launch_digest": "abcde", "debug": false, "platform_version": {"major": 1, "minor": 4}}})
    }

    #[test]
    fn claim_that_executables_are_graded_by_is_not_compared() {
        let policy = include_str!("policies/default_cpu.rego");
        let mut seen = 0;
        for section in policy.split("requirements(\"").skip(1) {
            let Some((platform, rules)) = section.split_once("\") := [") else {
                continue;
            };
            let tee: Tee = serde_json::from_value(platform.into()).unwrap();
            for line in rules.lines().take_while(|line| *line != "]") {
                let Some(rule) = line
                    .trim()
                    .strip_suffix(',')
                    .filter(|it| it.starts_with('{'))
                else {
                    continue;
                };
                let rule: Value = serde_json::from_str(rule).unwrap();
                if rule["grade"] != "executables" {
                    continue;
                }
                let path: Vec<&str> = rule["claim"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|name| name.as_str().unwrap())
                    .collect();
                assert!(
                    launched_claims(tee).contains(&&path[..]),
                    "{platform}: {path:?}"
                );
                seen += 1;
            }
        }
        assert!(seen >= 9, "{seen}");
    }

    #[test]
    fn platform_without_requirements_is_not_graded_well() {
        let accepted = [("accept_development_assurance", json!(true))];
        for tee in ["sgx", "cca", "unheard-of"] {
            let input = json!({"assurance": "hardware", tee: {"tcb_status": "UpToDate"}});
            let vector = grade(input, &accepted);
            assert_eq!(vector.status(), Tier::Contraindicated, "{tee}");
            assert_eq!((vector.hardware, vector.configuration), (97, 36), "{tee}");
        }
    }

    fn reference_values() -> Vec<(&'static str, Value)> {
        vec![
            ("launch_digest", json!(["abcde"])),
            ("svn", json!(["1"])),
            ("major_version", json!(1)),
            ("minimum_minor_version", json!(1)),
        ]
    }

    #[test]
    fn reference_value_that_the_shipped_policy_asks_for_is_not_listed() {
        let asked = AppraisalPolicy::default_cpu().asked_reference_values();
        for (name, claim) in [
            ("snp_launch_measurement", "snp.measurement"),
            ("minimum_minor_version", "sample.platform_version.minor"),
            ("rtmr_1", "tdx.quote.body.rtmr_1"),
            ("mr_td", "az-tdx-vtpm.quote.body.mr_td"),
        ] {
            assert!(asked[name].contains(claim), "{name}: {asked:?}");
        }
        let own = AppraisalPolicy::compile(
            "own_cpu",
            "package policy\ntrust_claims := {\"hardware\": 2}\nrequirements := [1]\n",
        );
        assert!(own.unwrap().asked_reference_values().is_empty());
    }

    #[test]
    fn sample_that_meets_every_reference_value_is_affirming() {
        let vector = grade(sample(), &reference_values());
        assert_eq!(
            (vector.executables, vector.hardware, vector.configuration),
            (3, 2, 2)
        );
        assert_eq!(vector.status(), Tier::Affirming);
    }

    #[test]
    fn good_grade_has_no_findings() {
        assert_eq!(findings(sample(), &reference_values()), []);
    }

    #[test]
    fn each_bad_claim_is_found_with_expected_and_actual() {
        let mut values = reference_values();
        values[1].1 = json!([1]);
        assert_eq!(
            findings(sample(), &values),
            [("sample.svn".to_owned(), json!([1]), json!("1"))]
        );
        for (pointer, claim, bad, expected) in [
            (
                "launch_digest",
                "sample.launch_digest",
                json!("other"),
                json!(["abcde"]),
            ),
            ("debug", "sample.debug", json!(true), json!(false)),
            (
                "platform_version",
                "sample.platform_version.major",
                json!({"major": 2, "minor": 4}),
                json!(1),
            ),
            (
                "platform_version",
                "sample.platform_version.minor",
                json!({"major": 1, "minor": 0}),
                json!("at least 1"),
            ),
        ] {
            let mut input = sample();
            input["sample"][pointer] = bad;
            let found = findings(input, &reference_values());
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].0.as_str(), &found[0].1), (claim, &expected));
        }
        let mut input = sample();
        input["init_data_bound"] = json!(false);
        assert_eq!(
            findings(input, &reference_values()),
            [("init_data_bound".to_owned(), json!(true), json!(false))]
        );
    }

    #[test]
    fn reference_value_that_nobody_registered_is_named() {
        let found = findings(sample(), &[]);
        let claims: Vec<&str> = found.iter().map(|(claim, ..)| claim.as_str()).collect();
        assert_eq!(
            claims,
            [
                "sample.launch_digest",
                "sample.platform_version.major",
                "sample.platform_version.minor",
                "sample.svn",
            ]
        );
        assert_eq!(
            found[3].1,
            json!("a reference value svn, and none is registered")
        );
    }

    #[test]
    fn missing_claims_are_found_as_absent() {
        let found = findings(
            json!({"assurance": "hardware", "sample": {}}),
            &reference_values(),
        );
        assert_eq!(found.len(), 5, "{found:?}");
        assert!(found.iter().all(|(.., actual)| actual == "absent"));
    }

    /// What each platform's verifier claims on a good day, and the reference values that go with it.
    fn good(platform: &str) -> (Value, Vec<(&'static str, Value)>) {
        let (claims, values) = match platform {
            "snp" => (
                json!({"measurement": "aa", "reported_tcb_bootloader": 3, "reported_tcb_microcode": 72,
                    "reported_tcb_snp": 8, "reported_tcb_tee": 0, "policy_debug_allowed": false,
                    "policy_migrate_ma": false, "platform_smt_enabled": true, "platform_tsme_enabled": false,
                    "policy_abi_major": 0, "policy_abi_minor": 0, "policy_single_socket": false,
                    "policy_smt_allowed": true}),
                vec![
                    ("snp_launch_measurement", json!(["aa"])),
                    ("snp_bootloader", json!([3])),
                    ("snp_microcode", json!([72])),
                    ("snp_snp_svn", json!([8])),
                    ("snp_tee_svn", json!([0])),
                    ("snp_smt_enabled", json!(true)),
                    ("snp_tsme_enabled", json!(false)),
                    ("snp_guest_abi_major", json!(0)),
                    ("snp_guest_abi_minor", json!(0)),
                    ("snp_single_socket", json!(false)),
                    ("snp_smt_allowed", json!(true)),
                ],
            ),
            "tdx" => (
                json!({"quote": {"header": {"tee_type": "81000000", "vendor_id": "939a7233f79c4ca9940a0db3957f0607"},
                    "body": {"rtmr_1": "r1", "rtmr_2": "r2", "mr_td": "td", "xfam": "x"}},
                    "td_attributes": {"debug": false}, "tcb_status": "UpToDate",
                    "collateral_expiration_status": "0",
                    "uefi_event_logs": [
                        {"type_name": "EV_EFI_BOOT_SERVICES_APPLICATION", "details": {"device_paths": ["File(kernel)"]},
                         "digests": [{"digest": "k"}]},
                        {"type_name": "EV_EVENT_TAG", "details": {"string": "LOADED_IMAGE::LoadOptions"},
                         "digests": [{"digest": "p"}]}]}),
                vec![
                    ("rtmr_1", json!(["r1"])),
                    ("rtmr_2", json!(["r2"])),
                    ("mr_td", json!(["td"])),
                    ("xfam", json!(["x"])),
                    ("tdvfkernel", json!("k")),
                    ("tdvfkernelparams", json!("p")),
                ],
            ),
            "az-snp-vtpm" => (
                json!({"measurement": "qg==", "tpm": {"pcr11": "11"}, "reported_tcb_bootloader": "3",
                    "reported_tcb_microcode": "72", "reported_tcb_snp": "8", "reported_tcb_tee": "0",
                    "policy_debug_allowed": "false", "policy_migrate_ma": "false",
                    "platform_smt_enabled": "true", "platform_tsme_enabled": "false", "policy_abi_major": "0",
                    "policy_abi_minor": "0", "policy_single_socket": "false", "policy_smt_allowed": "true"}),
                vec![
                    ("measurement", json!(["qg=="])),
                    ("snp_pcr11", json!(["11"])),
                    ("tcb_bootloader", json!(["3"])),
                    ("tcb_microcode", json!(["72"])),
                    ("tcb_snp", json!(["8"])),
                    ("tcb_tee", json!(["0"])),
                    ("smt_enabled", json!(["true"])),
                    ("tsme_enabled", json!(["false"])),
                    ("abi_major", json!(["0"])),
                    ("abi_minor", json!(["0"])),
                    ("single_socket", json!(["false"])),
                    ("smt_allowed", json!(["true"])),
                ],
            ),
            "az-tdx-vtpm" => (
                json!({"quote": {"header": {"tee_type": "81000000", "vendor_id": "939a7233f79c4ca9940a0db3957f0607"},
                    "body": {"mr_td": "td", "xfam": "x"}}, "tpm": {"pcr11": "11"},
                    "td_attributes": {"debug": false}, "tcb_status": "UpToDate",
                    "collateral_expiration_status": "0"}),
                vec![
                    ("tdx_pcr11", json!(["11"])),
                    ("mr_td", json!(["td"])),
                    ("xfam", json!(["x"])),
                ],
            ),
            "tpm" => (
                json!({"pcr11": "11", "ak_public": "ak", "ak_anchored": true}),
                vec![("tpm_pcr11", json!(["11"])), ("trusted_aks", json!(["ak"]))],
            ),
            other => unreachable!("{other}"),
        };
        (json!({"assurance": "hardware", platform: claims}), values)
    }

    /// Turin's TCB version has a part that the other product lines do not have. It ages like the others.
    #[test]
    fn fmc_of_turin_is_compared_where_there_is_one() {
        for (platform, name, old, newest) in [
            ("snp", "snp_fmc", json!(1), json!(2)),
            ("az-snp-vtpm", "tcb_fmc", json!("1"), json!("2")),
        ] {
            let (without, mut values) = good(platform);
            assert_eq!(grade(without.clone(), &values).hardware, 2, "{platform}");
            let mut turin = without;
            turin[platform]["reported_tcb_fmc"] = newest.clone();
            assert_eq!(grade(turin.clone(), &values).hardware, 97, "{platform}");
            values.push((name, json!([newest])));
            assert_eq!(grade(turin.clone(), &values).hardware, 2, "{platform}");
            turin[platform]["reported_tcb_fmc"] = old.clone();
            assert_eq!(grade(turin.clone(), &values).hardware, 97, "{platform}");
            assert_eq!(
                findings(turin, &values),
                [(format!("{platform}.reported_tcb_fmc"), json!([newest]), old)]
            );
        }
    }

    const PLATFORMS: [&str; 5] = ["snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm", "tpm"];

    /// The pointers to every leaf below a value, arrays aside.
    fn leaves(at: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => members
                .iter()
                .for_each(|(name, value)| leaves(&format!("{at}/{name}"), value, found)),
            Value::Array(_) => {}
            _ => found.push(at.to_owned()),
        }
    }

    #[test]
    fn good_evidence_of_each_platform_is_affirming_without_findings() {
        for platform in PLATFORMS {
            let (input, values) = good(platform);
            let graded = appraise_with(input, &values);
            assert_eq!(
                graded.vector.status(),
                Tier::Affirming,
                "{platform}: {:?}",
                graded.vector
            );
            assert_eq!(graded.findings, [], "{platform}");
            let wanted = match platform {
                "tpm" => (3, 2, 0),
                _ => (3, 2, 2),
            };
            let vector = graded.vector;
            assert_eq!(
                (vector.executables, vector.hardware, vector.configuration),
                wanted,
                "{platform}"
            );
        }
    }

    #[test]
    fn any_claim_of_another_value_spoils_the_grade_and_is_found() {
        for platform in PLATFORMS {
            let (input, values) = good(platform);
            let mut pointers = Vec::new();
            leaves("", &input, &mut pointers);
            for pointer in pointers {
                for bad in [json!("bad"), json!(99), json!(true), Value::Null] {
                    let mut input = input.clone();
                    let claim = input.pointer_mut(&pointer).unwrap();
                    if *claim == bad {
                        continue;
                    }
                    *claim = bad.clone();
                    let graded = appraise_with(input, &values);
                    // What only decides between good and best is no finding.
                    if graded.vector.status() <= Tier::Affirming {
                        assert!(
                            platform == "snp" && graded.vector.configuration == 3,
                            "{pointer} = {bad}"
                        );
                        continue;
                    }
                    let name = pointer.trim_start_matches('/').replace('/', ".");
                    assert!(
                        graded.findings.iter().any(|found| found.claim == name),
                        "{pointer} = {bad}: {:?}",
                        graded.findings
                    );
                }
            }
        }
    }

    #[test]
    fn each_reference_value_that_nobody_registered_spoils_the_best_grade() {
        for platform in PLATFORMS {
            let (input, values) = good(platform);
            let best = grade(input.clone(), &values);
            for (missing, _) in &values {
                let fewer: Vec<_> = values
                    .iter()
                    .filter(|(name, _)| name != missing)
                    .cloned()
                    .collect();
                assert_ne!(
                    grade(input.clone(), &fewer),
                    best,
                    "{platform} without {missing}"
                );
            }
        }
    }

    #[test]
    fn development_evidence_is_contraindicated_until_its_owner_says_so_by_name() {
        for platform in PLATFORMS {
            let (mut input, mut values) = good(platform);
            input["assurance"] = json!("development");
            assert_eq!(grade(input.clone(), &values).hardware, 97, "{platform}");
            values.push(("accept_development_assurance", json!(true)));
            assert_eq!(grade(input, &values).hardware, 2, "{platform}");
        }
    }

    #[test]
    fn patch_level_is_tolerated_by_status_and_by_days_and_never_when_revoked() {
        for platform in ["tdx", "az-tdx-vtpm"] {
            let hardware = |status: &str, days: u64, extra: &[(&'static str, Value)]| {
                let (mut input, mut values) = good(platform);
                input[platform]["tcb_status"] = json!(status);
                input[platform]["tcb_age_days"] = json!(days);
                values.extend(extra.iter().cloned());
                grade(input, &values).hardware
            };
            let days = [("tcb_tolerance_days", json!(30))];
            let statuses = [("tcb_statuses", json!(["SWHardeningNeeded", "Revoked"]))];
            assert_eq!(hardware("OutOfDate", 1, &[]), 97);
            assert_eq!(hardware("OutOfDate", 30, &days), 2);
            assert_eq!(hardware("OutOfDate", 31, &days), 97);
            assert_eq!(hardware("SWHardeningNeeded", 1, &days), 97);
            assert_eq!(hardware("SWHardeningNeeded", 1, &statuses), 2);
            assert_eq!(hardware("Revoked", 1, &statuses), 97);
        }
    }

    /// What policies for the `CoCo` attestation service are made of: membership in a reference value that may be null,
    /// `else`, bracketed platform names, iteration over events, extensions built by comprehension and union.
    const IN_THE_STYLE_OF_OTHERS: &str = r#"package policy

import rego.v1

default executables := 33

default hardware := 97

default configuration := 36

trust_claims := {
	"executables": executables,
	"hardware": hardware,
	"configuration": configuration,
	"file-system": 0,
	"instance-identity": 0,
	"runtime-opaque": 0,
	"storage-opaque": 0,
	"sourced-data": 0,
}

executables := 3 if {
	input["az-snp-vtpm"]
	input["az-snp-vtpm"].measurement in query_reference_value("measurement")
}

configuration := 2 if {
	input["az-snp-vtpm"].policy_smt_allowed in query_reference_value("smt_allowed")
}

else := 3 if {
	input["az-snp-vtpm"]
}

hardware := 2 if {
	event := input["az-snp-vtpm"].events[_]
	event.type_name == "KERNEL"
	digest := event.digests[_]
	digest.digest == query_reference_value("kernel")
}

extensions := [{"name": "ear.trustee.identifiers", "key": -18, "value": {"validated": validated}}]

validated := object.union_n([images, users])

image_names := [image | image := input["init_data_claims"]["containers"][_]["image"]]

images := {"container_images": image_names} if {
	count(image_names) > 0
} else := {}

users := {"container_uids": []} if {
	input["az-snp-vtpm"].users
} else := {}
"#;

    #[test]
    fn policy_written_for_another_service_runs_unchanged() {
        let policy = AppraisalPolicy::compile(DEFAULT_CPU_ID, IN_THE_STYLE_OF_OTHERS).unwrap();
        let input = json!({
            "az-snp-vtpm": {"measurement": "m", "policy_smt_allowed": "true",
                "events": [{"type_name": "OTHER"}, {"type_name": "KERNEL", "digests": [{"digest": "k"}]}]},
            "init_data_claims": {"containers": [{"image": "a"}, {"image": "b"}]},
        });
        let values = |list: &[(&str, Value)]| {
            let value = |(name, value): &(&str, Value)| {
                ((*name).to_owned(), ReferenceValue::new(value.clone(), 100))
            };
            Arc::new(list.iter().map(value).collect::<ReferenceValues>())
        };
        let known = values(&[("measurement", json!(["m"])), ("kernel", json!("k"))]);
        let graded = policy
            .evaluate(input.as_object().unwrap(), known, 50)
            .unwrap();
        let vector = graded.vector;
        assert_eq!(
            (vector.executables, vector.hardware, vector.configuration),
            (3, 2, 3)
        );
        assert_eq!(
            graded.extensions["ear.trustee.identifiers"],
            json!({"validated": {"container_images": ["a", "b"]}})
        );
        // A name that nobody registered is null, and nothing is in it.
        let graded = policy
            .evaluate(input.as_object().unwrap(), values(&[]), 50)
            .unwrap();
        assert_eq!(
            (graded.vector.executables, graded.vector.hardware),
            (33, 97)
        );
    }

    #[test]
    fn unbound_initdata_spoils_every_platform() {
        for platform in PLATFORMS {
            let (mut input, values) = good(platform);
            input["init_data_bound"] = json!(false);
            assert_eq!(grade(input, &values).configuration, 36, "{platform}");
        }
    }

    #[test]
    fn empty_input_is_contraindicated() {
        let vector = grade(json!({}), &reference_values());
        assert_eq!(
            (vector.executables, vector.hardware, vector.configuration),
            (33, 97, 36)
        );
        assert_eq!(vector.status(), Tier::Contraindicated);
    }

    #[test]
    fn each_missing_reference_value_spoils_the_grade() {
        for missing in [
            "launch_digest",
            "svn",
            "major_version",
            "minimum_minor_version",
        ] {
            let values: Vec<_> = reference_values()
                .into_iter()
                .filter(|(name, _)| *name != missing)
                .collect();
            assert_ne!(
                grade(sample(), &values).status(),
                Tier::Affirming,
                "{missing}"
            );
        }
    }

    #[test]
    fn null_launch_digest_does_not_match_an_absent_reference_value() {
        let mut input = sample();
        input["sample"]["launch_digest"] = Value::Null;
        let values: Vec<_> = reference_values().into_iter().skip(1).collect();
        assert_eq!(grade(input, &values).executables, 33);
    }

    #[test]
    fn debug_sample_keeps_the_contraindicated_configuration() {
        let mut input = sample();
        input["sample"]["debug"] = json!(true);
        assert_eq!(grade(input, &reference_values()).configuration, 36);
    }

    #[test]
    fn unbound_initdata_keeps_the_contraindicated_configuration() {
        let mut input = sample();
        input["init_data_bound"] = json!(false);
        assert_eq!(grade(input.clone(), &reference_values()).configuration, 36);
        input["init_data_bound"] = json!(true);
        assert_eq!(grade(input, &reference_values()).configuration, 2);
    }

    #[test]
    fn claim_that_ar4si_does_not_know_is_refused_when_the_policy_is_set() {
        let error =
            AppraisalPolicy::compile("p", "package policy\n\ntrust_claims := {\"hardwear\": 2}")
                .unwrap_err();
        assert_eq!(
            error,
            PolicyError::UnknownClaim {
                policy: "p".into(),
                name: "hardwear".into()
            }
        );
    }

    #[test]
    fn claim_that_is_no_small_integer_is_refused() {
        for value in ["\"2\"", "2.5", "128", "-129", "null", "true"] {
            let text = format!("package policy\n\ntrust_claims := {{\"hardware\": {value}}}");
            let outcome = AppraisalPolicy::compile("p", &text);
            assert!(
                matches!(outcome, Err(PolicyError::ClaimValue { .. })),
                "{value}: {outcome:?}"
            );
        }
    }

    #[test]
    fn extension_cannot_replace_the_verdict() {
        let text = "package policy\n\ntrust_claims := {}\n\nextensions := [{\"name\": \"ear.status\", \"key\": 1, \"value\": \"affirming\"}]";
        assert!(matches!(
            AppraisalPolicy::compile("p", text),
            Err(PolicyError::Evaluation { .. })
        ));
    }

    #[test]
    fn upstream_style_extension_is_carried() {
        let text = "package policy\n\ntrust_claims := {\"hardware\": 2}\n\nextensions := [{\"name\": \"ear.trustee.identifiers\", \"key\": -18, \"value\": {\"validated\": {}}}]";
        let policy = AppraisalPolicy::compile("p", text).unwrap();
        let graded = policy.evaluate(&Map::new(), Arc::default(), 0).unwrap();
        assert_eq!(
            graded.extensions["ear.trustee.identifiers"],
            json!({"validated": {}})
        );
    }

    fn grade_device(input: Value, values: &[(&str, Value)]) -> Graded {
        let values = values
            .iter()
            .map(|(name, value)| {
                let value = ReferenceValue::new(value.clone(), 100);
                ((*name).to_owned(), value)
            })
            .collect();
        AppraisalPolicies::shipped()
            .of("gpu")
            .unwrap()
            .evaluate(input.as_object().unwrap(), Arc::new(values), 50)
            .unwrap()
    }

    fn grades(graded: &Graded) -> (i8, i8, i8) {
        let vector = &graded.vector;
        (vector.executables, vector.hardware, vector.configuration)
    }

    fn gpu() -> (Value, Vec<(&'static str, Value)>) {
        let claims = json!({"assurance": "hardware", "nvidia": {
            "verifier": "local", "arch": "Hopper", "rim_checked": false,
            "config": {"driver_version": "550", "vbios_version": "96", "fwid": "f5"},
            "measurements": {"1": "aa", "2": "bb", "3": "cc"},
        }});
        let values = vec![
            ("allowed_driver_versions", json!(["550", "560"])),
            ("allowed_vbios_versions", json!(["96"])),
            ("allowed_gpu_fwids", json!(["f5"])),
            (
                "allowed_gpu_measurements",
                json!({"1": "aa", "2": ["b0", "bb"]}),
            ),
        ];
        (claims, values)
    }

    #[test]
    fn gpu_that_meets_every_reference_value_is_affirming() {
        let (input, values) = gpu();
        let graded = grade_device(input, &values);
        assert_eq!(grades(&graded), (3, 2, 2));
        assert_eq!(graded.findings, []);
    }

    #[test]
    fn measurements_that_the_makers_manifests_list_need_no_reference_value() {
        let (mut input, mut values) = gpu();
        values.pop();
        assert_eq!(grades(&grade_device(input.clone(), &values)), (33, 2, 2));
        input["nvidia"]["measurements_match"] = json!(true);
        assert_eq!(grades(&grade_device(input.clone(), &values)).0, 33);
        input["nvidia"]["rim_checked"] = json!(true);
        let graded = grade_device(input, &values);
        assert_eq!(grades(&graded), (3, 2, 2));
        assert_eq!(graded.findings, []);
    }

    #[test]
    fn each_bad_claim_of_a_gpu_is_not_affirmed_and_is_found() {
        for (pointer, bad, wanted, claim) in [
            ("/assurance", json!("development"), (3, 97, 2), "assurance"),
            ("/assurance", Value::Null, (3, 97, 2), "assurance"),
            (
                "/nvidia/verifier",
                json!("remote"),
                (3, 97, 2),
                "nvidia.verifier",
            ),
            (
                "/nvidia/config/driver_version",
                json!("540"),
                (3, 2, 36),
                "nvidia.config.driver_version",
            ),
            (
                "/nvidia/config/vbios_version",
                json!("95"),
                (3, 2, 36),
                "nvidia.config.vbios_version",
            ),
            (
                "/nvidia/config/fwid",
                Value::Null,
                (3, 2, 36),
                "nvidia.config.fwid",
            ),
            (
                "/nvidia/measurements/1",
                json!("ab"),
                (33, 2, 2),
                "nvidia.measurements.1",
            ),
            (
                "/nvidia/measurements/2",
                json!("b1"),
                (33, 2, 2),
                "nvidia.measurements.2",
            ),
            (
                "/nvidia/measurements/2",
                json!(["bb"]),
                (33, 2, 2),
                "nvidia.measurements.2",
            ),
        ] {
            let (mut input, values) = gpu();
            *input.pointer_mut(pointer).unwrap() = bad;
            let graded = grade_device(input, &values);
            assert_eq!(grades(&graded), wanted, "{pointer}");
            assert_ne!(graded.vector.status(), Tier::Affirming, "{pointer}");
            let found: Vec<&str> = graded.findings.iter().map(|f| f.claim.as_str()).collect();
            assert_eq!(found, [claim], "{pointer}");
        }
    }

    #[test]
    fn each_missing_reference_value_of_a_gpu_spoils_its_grade() {
        let (input, values) = gpu();
        for (missing, _) in &values {
            let rest: Vec<_> = values
                .iter()
                .filter(|(name, _)| name != missing)
                .cloned()
                .collect();
            let graded = grade_device(input.clone(), &rest);
            assert_ne!(graded.vector.status(), Tier::Affirming, "{missing}");
            assert_eq!(graded.findings.len(), 1, "{missing}");
            assert!(
                graded.findings[0].expected.to_string().contains(missing),
                "{:?}",
                graded.findings
            );
        }
    }

    #[test]
    fn measurements_of_a_gpu_are_not_accepted_from_a_reference_value_of_another_form() {
        for bad in [
            json!({}),
            json!([]),
            json!(["aa"]),
            json!("aa"),
            json!({"1": []}),
            json!({"1": null}),
            json!({"64": "aa"}),
            json!({"1": "aa", "9": "aa"}),
        ] {
            let (input, mut values) = gpu();
            values[3].1 = bad.clone();
            assert_eq!(grades(&grade_device(input, &values)), (33, 2, 2), "{bad}");
        }
    }

    #[test]
    fn sample_device_has_only_its_svn_to_show() {
        let input = |assurance: &str| json!({"assurance": assurance, "sampledevice": {"svn": "2"}});
        let values = [("device_svn", json!(["2"]))];
        let accepted = [
            ("device_svn", json!(["2"])),
            ("accept_development_assurance", json!(true)),
        ];
        assert_eq!(
            grades(&grade_device(input("hardware"), &values)),
            (33, 2, 36)
        );
        assert_eq!(
            grades(&grade_device(input("development"), &values)),
            (33, 97, 36)
        );
        assert_eq!(
            grades(&grade_device(input("development"), &accepted)),
            (33, 2, 36)
        );
        assert_eq!(grades(&grade_device(input("hardware"), &[])), (33, 97, 36));
        assert_eq!(grades(&grade_device(json!({}), &accepted)), (33, 97, 36));
    }
}
