//! Evidence in, appraised claims out: pure functions of bytes, time and trust anchors.
//!
//! The order is fixed by types whose fields are private: [`Evidence::parse`] → [`verify`] →
//! [`appraise`]. Each step's output is the next step's only input, and nothing else makes it. There is no IO, no
//! clock and no environment here; the one reading of time is regorus's own limit on a policy's run.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

mod anchors;
mod appraise;
mod binding;
mod check;
mod collateral;
mod compared;
mod cursor;
mod dcap;
pub mod event_log;
pub mod measure;
mod platforms;
mod reference_value;
pub mod release_policy;
mod rim;
mod x509;
mod xml;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::tee::Tee;

pub use anchors::{AnchorError, TrustAnchors};
pub use appraise::{
    AppraisalPolicies, AppraisalPolicy, AppraiseError, AppraisedClaims, AppraisedSubmod,
    DEFAULT_CPU_ID, DEFAULT_GPU_ID, Rehearsed, appraise, launched_claims, measurement_claim,
};
pub use binding::{Binding, Expected, ExpectedInitdata};
pub use check::{Check, Step, StepOutcome};
pub use collateral::{
    Collateral, CollateralFormError, CollateralItem, CollateralRequest, RootId, SnpProduct,
    VcekTcb, Wanted,
};
pub use platforms::tpm::credential::{
    AttestationKey, CredentialChallenge, CredentialError, EndorsementKey,
};
pub use reference_value::{
    DEFAULT_LIFE_SECONDS, Provenance, ReferenceValue, ReferenceValueError, ReferenceValues,
    SignerError, Signers,
};
pub use release_policy::{Decision, Reason, ReleasePolicy, Subject};
pub use strongroom_rego::PolicyError;

use check::Steps;
use platforms::{PlatformEvidence, PlatformVerdict, Verification};

/// Evidence of a CPU platform and perhaps of devices beside it, parsed and not believed.
#[derive(Clone, Debug)]
pub struct Evidence {
    primary: PlatformEvidence,
    /// By platform, so that their order is the same whatever order they were sent in.
    devices: Vec<PlatformEvidence>,
    /// The digest of the text that the devices were parsed from.
    devices_digest: [u8; 32],
}

impl Evidence {
    /// Parses the JSON that a platform's attester writes. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// [`VerifyError::PlatformNotSupported`], [`VerifyError::Malformed`].
    pub fn parse(tee: Tee, json: &[u8]) -> Result<Self, VerifyError> {
        Self::parse_composite(tee, json, "")
    }

    /// Parses what the hardware itself gives: a report or a quote, without the JSON around it.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_raw(tee: Tee, bytes: &[u8]) -> Result<Self, VerifyError> {
        Ok(Self {
            primary: PlatformEvidence::parse_raw(tee, bytes)?,
            devices: Vec::new(),
            devices_digest: binding::devices_digest(""),
        })
    }

    /// As [`Self::parse`], with the evidence of further devices: `""`, or a JSON text that maps platforms to
    /// evidence (KBS protocol 0.4.0, `additional_evidence`).
    ///
    /// # Errors
    /// As [`Self::parse`], for each device too.
    pub fn parse_composite(tee: Tee, json: &[u8], additional: &str) -> Result<Self, VerifyError> {
        let primary = PlatformEvidence::parse(tee, json)?;
        let mut devices = Vec::new();
        if !additional.is_empty() {
            if additional.len() > MAX_ADDITIONAL {
                return Err(Check::Devices
                    .failed(format!("at most {MAX_ADDITIONAL} bytes"), additional.len()));
            }
            let DeviceMap(map) = serde_json::from_str(additional)
                .map_err(|e| Check::Devices.failed("a map from platform to evidence", e))?;
            for (tee, evidence) in map {
                if !is_device(tee) {
                    return Err(VerifyError::PlatformNotSupported { tee });
                }
                devices.push(PlatformEvidence::parse(tee, evidence.get().as_bytes())?);
            }
            if devices.is_empty() {
                return Err(Check::Devices.failed("at least one device", "an empty map"));
            }
        }
        Ok(Self {
            primary,
            devices,
            devices_digest: binding::devices_digest(additional),
        })
    }

    /// The platform of the primary evidence.
    pub fn tee(&self) -> Tee {
        self.primary.tee()
    }

    /// What must, or could, be fetched before this is verified.
    pub fn collateral_request(&self) -> CollateralRequest {
        let mut request = self.primary.collateral_request();
        for device in &self.devices {
            request.extend(device.collateral_request().iter().cloned());
        }
        request
    }

    /// Runs every check in its order: the primary evidence's, then each device's.
    fn check(
        self,
        collateral: &Collateral,
        anchors: &TrustAnchors,
        (primary, device): (&Expected, &Expected),
        now: u64,
        steps: &mut Steps,
    ) -> Result<Vec<PlatformVerdict>, VerifyError> {
        let mut verification = Verification {
            collateral,
            anchors,
            expected: primary,
            now,
            steps,
        };
        let mut verdicts = self.primary.verify(&mut verification)?;
        verification.expected = device;
        for evidence in self.devices {
            verdicts.extend(evidence.verify(&mut verification)?);
        }
        Ok(verdicts)
    }
}

/// Verifies evidence: its signatures and their anchors, and that it binds nonce, key and init-data.
///
/// The devices must be those that the binding covers, and stand beside a CPU's evidence.
///
/// The caller still owes that the binding's nonce is its own and fresh. Never panics, whatever the evidence.
///
/// # Errors
/// [`VerifyError`], naming the check and what it expected and found.
pub fn verify(
    evidence: Evidence,
    collateral: &Collateral,
    anchors: &TrustAnchors,
    binding: &Binding,
    now: u64,
) -> Result<VerifiedEvidence, VerifyError> {
    if binding.devices_digest() != evidence.devices_digest {
        return Err(VerifyError::AdditionalEvidence);
    }
    // A device signs whatever nonce its owner hands it, wherever the key of the session lies.
    if is_device(evidence.tee()) {
        return Err(Check::Devices.failed("a device beside the evidence of a CPU", evidence.tee()));
    }
    let mut steps = Steps::default();
    let expected = (binding.primary(), binding.device());
    let verdicts = evidence.check(collateral, anchors, expected, now, &mut steps)?;
    Ok(VerifiedEvidence::new(verdicts, binding, steps.into_list()))
}

/// Verifies pieces of evidence each against its own binding, for a caller who states what they must bind: the CPU's first,
/// then each device's.
///
/// The caller still owes everything that a session gives: that the report data are fresh, and that the CPU's evidence
/// vouches for the devices.
///
/// # Errors
/// [`VerifyError`] of the first piece that fails.
pub fn verify_stated(
    primary: (Evidence, Binding),
    devices: Vec<(Evidence, Binding)>,
    collateral: &Collateral,
    anchors: &TrustAnchors,
    now: u64,
) -> Result<VerifiedEvidence, VerifyError> {
    let (evidence, binding) = primary;
    let mut verified = verify(evidence, collateral, anchors, &binding, now)?;
    for (evidence, binding) in devices {
        if !is_device(evidence.tee()) {
            return Err(Check::Devices.failed("one CPU, and devices", evidence.tee()));
        }
        let mut steps = Steps::default();
        let expected = (binding.primary(), binding.device());
        let verdicts = evidence.check(collateral, anchors, expected, now, &mut steps)?;
        verified.join(verdicts, &binding, steps.into_list());
    }
    Ok(verified)
}

/// Whether a platform is verified beside a CPU's, and never in its place.
pub fn is_device(tee: Tee) -> bool {
    matches!(tee, Tee::Nvidia | Tee::Sampledevice)
}

/// Devices by their platform, each platform once: of two readers one might look at the first and one at the last.
struct DeviceMap<'a>(BTreeMap<Tee, &'a RawValue>);

impl<'de> Deserialize<'de> for DeviceMap<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = DeviceMap<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from platform to evidence")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut devices = BTreeMap::new();
                while let Some((tee, evidence)) = members.next_entry::<Tee, &RawValue>()? {
                    if devices.insert(tee, evidence).is_some() {
                        return Err(A::Error::custom(format!("{tee} is there twice")));
                    }
                }
                Ok(DeviceMap(devices))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Runs the same checks over evidence that somebody kept, and tells how each ended. Nothing is believed for it: no
/// token can be made from an [`Examination`].
pub fn examine(
    evidence: Evidence,
    collateral: &Collateral,
    anchors: &TrustAnchors,
    expected: &Expected,
    now: u64,
) -> Examination {
    let mut steps = Steps::default();
    let both = (expected, expected);
    let outcome = evidence.check(collateral, anchors, both, now, &mut steps);
    let steps = steps.into_list();
    match outcome {
        Ok(verdicts) => Examination {
            assurance: weakest(verdicts.iter().map(|verdict| verdict.assurance)),
            claims: verdicts
                .into_iter()
                .map(|verdict| (verdict.tee, verdict.claims))
                .collect(),
            steps,
            error: None,
        },
        Err(error) => Examination {
            assurance: Assurance::Development,
            claims: Vec::new(),
            steps,
            error: Some(error),
        },
    }
}

/// How the checks over one evidence ended.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The checks, in the order in which they ran. After one that failed none follows.
    pub steps: Vec<Step>,
    /// The claims of each platform, when no check failed.
    pub claims: Vec<(Tee, Map<String, Value>)>,
    /// What it rests on; development when a check failed.
    pub assurance: Assurance,
    /// Why it was refused.
    pub error: Option<VerifyError>,
}

/// Evidence whose checks all passed. Only [`verify`] makes it.
#[derive(Clone, Debug)]
pub struct VerifiedEvidence {
    tee_key: Option<TeePublicKey>,
    submods: Vec<VerifiedSubmod>,
    steps: Vec<Step>,
}

/// One piece of verified evidence: the CPU's, or a device's.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedSubmod {
    /// The name in the token: `cpu0`, `gpu0`, `gpu1`.
    pub(crate) name: String,
    pub(crate) tee: Tee,
    pub(crate) assurance: Assurance,
    claims: Map<String, Value>,
    bound: Map<String, Value>,
}

impl VerifiedEvidence {
    fn new(verdicts: Vec<PlatformVerdict>, binding: &Binding, steps: Vec<Step>) -> Self {
        let mut verified = Self {
            tee_key: binding.tee_key().cloned(),
            submods: Vec::new(),
            steps: Vec::new(),
        };
        verified.join(verdicts, binding, steps);
        verified
    }

    /// Adds further pieces, each under the next free name of its class.
    fn join(&mut self, verdicts: Vec<PlatformVerdict>, binding: &Binding, steps: Vec<Step>) {
        for verdict in verdicts {
            let class = verdict.tee.class();
            let alike = self
                .submods
                .iter()
                .filter(|known| known.tee.class() == class);
            let name = format!("{class}{}", alike.count());
            let first = self.submods.is_empty();
            let submod = VerifiedSubmod::new(name, verdict, binding, first);
            self.submods.push(submod);
        }
        self.steps.extend(steps);
    }

    /// The platform of the primary evidence.
    pub fn tee(&self) -> Tee {
        self.primary().tee
    }

    /// What the weakest piece of evidence rests on.
    pub fn assurance(&self) -> Assurance {
        weakest(self.submods.iter().map(|submod| submod.assurance))
    }

    /// The platform of each piece of evidence that no maker's root vouches for.
    pub fn development(&self) -> impl Iterator<Item = Tee> {
        self.submods
            .iter()
            .filter(|submod| submod.assurance == Assurance::Development)
            .map(|submod| submod.tee)
    }

    /// The primary platform's own claims.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.primary().claims
    }

    /// The checks that were made, and those that were skipped.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    fn primary(&self) -> &VerifiedSubmod {
        self.submods
            .first()
            .expect("the primary evidence gives a verdict")
    }
}

impl VerifiedSubmod {
    fn new(name: String, verdict: PlatformVerdict, binding: &Binding, primary: bool) -> Self {
        let mut bound = Map::new();
        bound.insert("report_data".into(), json!(verdict.report_data));
        bound.insert(
            "runtime_data_claims".into(),
            binding.runtime_data_claims(primary).clone(),
        );
        if let Some(register) = verdict.init_data {
            bound.insert("init_data".into(), json!(register));
        }
        if let (Some(held), Some((digest, claims))) =
            (verdict.initdata_bound, binding.initdata_claims())
            && primary
        {
            bound.insert("init_data_digest".into(), json!(digest));
            if let Some(claims) = claims {
                bound.insert("init_data_claims".into(), claims.clone());
            }
            bound.insert("init_data_bound".into(), json!(held));
        }
        Self {
            name,
            tee: verdict.tee,
            assurance: verdict.assurance,
            claims: verdict.claims,
            bound,
        }
    }

    /// A policy's input: the claims under the platform's name, beside what the evidence binds.
    pub(crate) fn into_policy_input(self) -> Map<String, Value> {
        let mut input = self.bound;
        input.insert(self.tee.as_str().to_owned(), Value::Object(self.claims));
        input.insert("assurance".to_owned(), json!(self.assurance.as_str()));
        input
    }
}

/// Evidence is worth what its weakest piece is worth.
fn weakest(mut assurances: impl Iterator<Item = Assurance>) -> Assurance {
    match assurances.all(|assurance| assurance == Assurance::Hardware) {
        true => Assurance::Hardware,
        false => Assurance::Development,
    }
}

/// What evidence rests on: the difference between proof and rehearsal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Assurance {
    /// Hardware whose maker's root signed for it.
    Hardware,
    /// A development root, or nothing: meets no policy unless a setting says so by name.
    Development,
}

impl Assurance {
    /// The claim's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Development => "development",
        }
    }
}

/// Why evidence was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is no verifier for this platform.
    #[error(
        "platform {tee} is not supported; this version verifies az-snp-vtpm, az-tdx-vtpm, nvidia, sample, sampledevice, sgx, snp, tdx and tpm"
    )]
    PlatformNotSupported {
        /// The platform.
        tee: Tee,
    },
    /// The evidence is not what the platform's attester writes.
    #[error("{tee} evidence is malformed: {detail}")]
    Malformed {
        /// The platform.
        tee: Tee,
        /// What is wrong with it.
        detail: String,
    },
    /// The evidence of further devices that was parsed is not the one that the binding covers.
    #[error("the evidence of further devices is not the one that the primary evidence binds")]
    AdditionalEvidence,
    /// A check did not hold.
    #[error("{check}: expected {expected}, actual {actual}")]
    Failed {
        /// Which one.
        check: Check,
        /// What it expected.
        expected: String,
        /// What it found.
        actual: String,
    },
    /// Collateral without which the evidence cannot be verified was not given.
    #[error("{wanted} is needed to verify this evidence, and was not given")]
    MissingCollateral {
        /// What is needed.
        wanted: Box<Wanted>,
    },
    /// The report data does not bind this nonce and this key.
    #[error(
        "report data does not bind the nonce and key of this session: expected {expected}, actual {actual}"
    )]
    ReportData {
        /// The hash of the runtime data, in hex.
        expected: String,
        /// What the evidence carries, in hex.
        actual: String,
    },
    /// The platform's register does not hold the digest of the init-data that was sent.
    #[error("init-data does not match the platform's register: register {expected}, sent {actual}")]
    Initdata {
        /// The register, in hex.
        expected: String,
        /// The digest of what was sent, in hex, or that nothing was.
        actual: String,
    },
}

impl VerifyError {
    /// The check that refused the evidence.
    pub fn check(&self) -> Check {
        match self {
            Self::PlatformNotSupported { .. } | Self::Malformed { .. } => Check::Structure,
            Self::AdditionalEvidence => Check::Devices,
            Self::Failed { check, .. } => *check,
            Self::MissingCollateral { .. } => Check::Collateral,
            Self::ReportData { .. } => Check::ReportData,
            Self::Initdata { .. } => Check::InitData,
        }
    }
}

/// Reports of eight GPUs with their chains have less than 1 MiB.
const MAX_ADDITIONAL: usize = 2 * 1024 * 1024;

/// Decoders that strangers reach and that are not public, as functions of bytes: the entries for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    use crate::x509::{Certificate, Crl, SignatureCache};

    /// A certificate: parsed, and verified under its own key.
    pub fn certificate(der: &[u8]) -> bool {
        Certificate::from_der(der).is_ok_and(|certificate| {
            let proven = SignatureCache::default();
            certificate.check_signed_by(&certificate, &proven).is_ok()
        })
    }

    /// A revocation list.
    pub fn revocation_list(der: &[u8]) -> bool {
        Crl::from_der(der).is_ok()
    }
}
