//! Evidence in, appraised claims out: pure functions of bytes, time and trust anchors.
//!
//! The order is fixed by types whose fields are private: [`Evidence::parse`] → [`verify`] →
//! [`appraise`]. Each step's output is the next step's only input, and nothing else makes it. There is no IO, no
//! clock and no environment here; the one reading of time is regorus's own limit on a policy's run.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

mod appraise;
mod binding;
mod platforms;
mod policy;
mod reference_value;
pub mod release_policy;

use serde_json::{Map, Value, json};
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::tee::Tee;

pub use appraise::{AppraisalPolicy, AppraiseError, AppraisedClaims, DEFAULT_CPU_ID, appraise};
pub use binding::Binding;
pub use policy::PolicyError;
pub use reference_value::{
    DEFAULT_LIFE_SECONDS, ReferenceValue, ReferenceValueError, ReferenceValues,
};
pub use release_policy::{Decision, Reason, ReleasePolicy};

use platforms::{PlatformEvidence, PlatformVerdict};

/// Evidence of one platform, parsed and not believed.
#[derive(Clone, Debug)]
pub struct Evidence(PlatformEvidence);

impl Evidence {
    /// Parses the JSON that a platform's attester writes. Never panics, whatever the bytes.
    ///
    /// # Errors
    /// [`VerifyError::PlatformNotSupported`], [`VerifyError::Malformed`].
    pub fn parse(tee: Tee, json: &[u8]) -> Result<Self, VerifyError> {
        PlatformEvidence::parse(tee, json).map(Self)
    }

    /// The platform.
    pub fn tee(&self) -> Tee {
        self.0.tee()
    }

    /// What must be fetched before this can be verified.
    pub fn collateral_request(&self) -> CollateralRequest {
        match &self.0 {
            PlatformEvidence::Sample(_) => CollateralRequest { _private: () },
        }
    }
}

/// What a verification needs that the evidence does not carry. The supported platforms need nothing yet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CollateralRequest {
    _private: (),
}

impl CollateralRequest {
    /// Whether nothing has to be fetched.
    pub fn is_empty(&self) -> bool {
        true
    }
}

/// What answers a [`CollateralRequest`].
#[derive(Clone, Debug, Default)]
pub struct Collateral {
    _private: (),
}

impl Collateral {
    /// The answer to an empty request.
    pub fn none() -> Self {
        Self::default()
    }
}

/// The roots that a platform's signatures must lead to. The supported platforms sign nothing yet.
#[derive(Clone, Debug, Default)]
pub struct TrustAnchors {
    _private: (),
}

impl TrustAnchors {
    /// No roots at all.
    pub fn none() -> Self {
        Self::default()
    }
}

/// Verifies evidence: its signatures and their anchors, and that it binds nonce, key and init-data.
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
    if binding.has_devices() {
        return Err(VerifyError::AdditionalEvidence);
    }
    let tee = evidence.tee();
    let verdict = evidence.0.verify(collateral, anchors, binding, now)?;
    Ok(VerifiedEvidence::new(tee, verdict, binding))
}

/// Evidence whose checks all passed. Only [`verify`] makes it.
#[derive(Clone, Debug)]
pub struct VerifiedEvidence {
    tee: Tee,
    tee_key: TeePublicKey,
    assurance: Assurance,
    claims: Map<String, Value>,
    bound: Map<String, Value>,
}

impl VerifiedEvidence {
    fn new(tee: Tee, verdict: PlatformVerdict, binding: &Binding) -> Self {
        let mut bound = Map::new();
        bound.insert("report_data".into(), json!(verdict.report_data));
        bound.insert(
            "runtime_data_claims".into(),
            binding.runtime_data_claims().clone(),
        );
        if let (Some(held), Some((digest, claims))) =
            (verdict.initdata_bound, binding.initdata_claims())
        {
            bound.insert("init_data".into(), json!(digest));
            bound.insert("init_data_claims".into(), claims.clone());
            bound.insert("init_data_bound".into(), json!(held));
        }
        Self {
            tee,
            tee_key: binding.tee_key().clone(),
            assurance: verdict.assurance,
            claims: verdict.claims,
            bound,
        }
    }

    /// The platform.
    pub fn tee(&self) -> Tee {
        self.tee
    }

    /// What the evidence rests on.
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// The platform's own claims.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// A policy's input: the claims under the platform's name, beside what the evidence binds.
    fn policy_input(&self) -> Map<String, Value> {
        let mut input = self.bound.clone();
        input.insert(
            self.tee.as_str().to_owned(),
            Value::Object(self.claims.clone()),
        );
        input.insert("assurance".to_owned(), json!(self.assurance.as_str()));
        input
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
    #[error("platform {tee} is not supported; this version verifies: sample")]
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
    /// Evidence of further devices came along, which is not verified and therefore not ignored.
    #[error("additional evidence of devices is not supported")]
    AdditionalEvidence,
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
