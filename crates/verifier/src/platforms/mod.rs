//! One folder per platform, each with `abi` (its bytes), `verify` (its checks) and `claims` (what a policy sees).
//!
//! A platform that has no folder here is answered with [`VerifyError::PlatformNotSupported`].

pub(crate) mod sample;

use strongroom_wire::tee::Tee;

use crate::{Collateral, TrustAnchors, VerifyError, binding::Binding};

/// Parsed evidence, one variant per platform.
#[derive(Clone, Debug)]
pub(crate) enum PlatformEvidence {
    Sample(sample::abi::SampleEvidence),
}

impl PlatformEvidence {
    pub(crate) fn parse(tee: Tee, json: &[u8]) -> Result<Self, VerifyError> {
        match tee {
            Tee::Sample => sample::abi::SampleEvidence::parse(json).map(Self::Sample),
            other => Err(VerifyError::PlatformNotSupported { tee: other }),
        }
    }

    pub(crate) fn tee(&self) -> Tee {
        match self {
            Self::Sample(_) => Tee::Sample,
        }
    }

    pub(crate) fn verify(
        self,
        _collateral: &Collateral,
        _anchors: &TrustAnchors,
        binding: &Binding,
        _now: u64,
    ) -> Result<PlatformVerdict, VerifyError> {
        match self {
            Self::Sample(evidence) => sample::verify::verify(&evidence, binding),
        }
    }
}

/// What a platform's checks established.
#[derive(Clone, Debug)]
pub(crate) struct PlatformVerdict {
    pub(crate) assurance: crate::Assurance,
    /// The platform's own claims, the object under its name in the policy input.
    pub(crate) claims: serde_json::Map<String, serde_json::Value>,
    /// The report data as this platform spells it in claims.
    pub(crate) report_data: String,
    /// Whether a register of the platform vouches for the init-data that was sent; `None` when none was sent.
    pub(crate) initdata_bound: Option<bool>,
}
