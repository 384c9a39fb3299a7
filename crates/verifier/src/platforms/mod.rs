//! One folder per platform, each with `abi` (its bytes), `verify` (its checks) and `claims` (what a policy sees).
//!
//! A platform that has no folder here is answered with [`VerifyError::PlatformNotSupported`].

pub(crate) mod az_vtpm;
pub(crate) mod nvidia;
pub(crate) mod sample;
pub(crate) mod sgx;
pub(crate) mod snp;
pub(crate) mod tdx;
pub(crate) mod tpm;

use serde_json::{Map, Value};
use strongroom_wire::tee::Tee;

use crate::binding::Expected;
use crate::check::Steps;
use crate::{Assurance, Collateral, CollateralRequest, TrustAnchors, VerifyError};

/// Parsed evidence, one variant per platform.
#[derive(Clone, Debug)]
pub(crate) enum PlatformEvidence {
    AzVtpm(Box<az_vtpm::abi::AzVtpmEvidence>),
    Nvidia(nvidia::abi::NvidiaEvidence),
    Sample(sample::abi::SampleEvidence),
    Sgx(Box<sgx::abi::SgxEvidence>),
    Snp(Box<snp::abi::SnpEvidence>),
    Tdx(Box<tdx::abi::TdxEvidence>),
    Tpm(Box<tpm::abi::TpmEvidence>),
}

impl PlatformEvidence {
    pub(crate) fn parse(tee: Tee, json: &[u8]) -> Result<Self, VerifyError> {
        match tee {
            Tee::AzSnpVtpm | Tee::AzTdxVtpm => az_vtpm::abi::AzVtpmEvidence::parse(tee, json)
                .map(Box::new)
                .map(Self::AzVtpm),
            Tee::Nvidia => nvidia::abi::NvidiaEvidence::parse(json).map(Self::Nvidia),
            Tee::Sample | Tee::Sampledevice => {
                sample::abi::SampleEvidence::parse(tee, json).map(Self::Sample)
            }
            Tee::Sgx => sgx::abi::SgxEvidence::parse(json)
                .map(Box::new)
                .map(Self::Sgx),
            Tee::Snp => snp::abi::SnpEvidence::parse(json)
                .map(Box::new)
                .map(Self::Snp),
            Tee::Tdx => tdx::abi::TdxEvidence::parse(json)
                .map(Box::new)
                .map(Self::Tdx),
            Tee::Tpm => tpm::abi::TpmEvidence::parse(json)
                .map(Box::new)
                .map(Self::Tpm),
            other => Err(VerifyError::PlatformNotSupported { tee: other }),
        }
    }

    /// Parses what the hardware gives, without JSON around it.
    pub(crate) fn parse_raw(tee: Tee, bytes: &[u8]) -> Result<Self, VerifyError> {
        match tee {
            Tee::Sgx => sgx::abi::SgxEvidence::from_quote(bytes)
                .map(Box::new)
                .map(Self::Sgx),
            Tee::Snp => snp::abi::SnpEvidence::from_report(bytes)
                .map(Box::new)
                .map(Self::Snp),
            Tee::Tdx => tdx::abi::TdxEvidence::from_quote(bytes)
                .map(Box::new)
                .map(Self::Tdx),
            other => Err(VerifyError::PlatformNotSupported { tee: other }),
        }
    }

    pub(crate) fn tee(&self) -> Tee {
        match self {
            Self::AzVtpm(evidence) => evidence.tee(),
            Self::Nvidia(_) => Tee::Nvidia,
            Self::Sample(evidence) => evidence.tee,
            Self::Sgx(_) => Tee::Sgx,
            Self::Snp(_) => Tee::Snp,
            Self::Tdx(_) => Tee::Tdx,
            Self::Tpm(_) => Tee::Tpm,
        }
    }

    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        match self {
            Self::AzVtpm(evidence) => evidence.collateral_request(),
            Self::Nvidia(evidence) => evidence.collateral_request(),
            Self::Sgx(evidence) => evidence.collateral_request(),
            Self::Snp(evidence) => evidence.collateral_request(),
            Self::Tdx(evidence) => evidence.collateral_request(),
            Self::Sample(_) | Self::Tpm(_) => CollateralRequest::default(),
        }
    }

    /// Runs the platform's checks. More than one verdict comes from evidence that lists devices, in its order.
    pub(crate) fn verify(
        self,
        verification: &mut Verification<'_>,
    ) -> Result<Vec<PlatformVerdict>, VerifyError> {
        let one = match self {
            Self::AzVtpm(evidence) => az_vtpm::verify::verify(&evidence, verification),
            Self::Nvidia(evidence) => return nvidia::verify::verify(&evidence, verification),
            Self::Sample(evidence) => sample::verify::verify(&evidence, verification),
            Self::Sgx(evidence) => sgx::verify::verify(&evidence, verification),
            Self::Snp(evidence) => snp::verify::verify(&evidence, verification),
            Self::Tdx(evidence) => tdx::verify::verify(&evidence, verification),
            Self::Tpm(evidence) => tpm::verify::verify(&evidence, verification),
        };
        one.map(|verdict| vec![verdict])
    }
}

/// What the checks of one piece of evidence go by, and where they are recorded.
pub(crate) struct Verification<'a> {
    pub(crate) collateral: &'a Collateral,
    pub(crate) anchors: &'a TrustAnchors,
    pub(crate) expected: &'a Expected,
    /// Seconds since 1970.
    pub(crate) now: u64,
    pub(crate) steps: &'a mut Steps,
}

/// What a platform's checks established.
#[derive(Clone, Debug)]
pub(crate) struct PlatformVerdict {
    pub(crate) tee: Tee,
    pub(crate) assurance: Assurance,
    /// The platform's own claims, the object under its name in the policy input.
    pub(crate) claims: Map<String, Value>,
    /// The report data as this platform spells it in claims.
    pub(crate) report_data: String,
    /// The register that holds the digest of the init-data, as this platform spells it; `None` where there is none.
    pub(crate) init_data: Option<String>,
    /// Whether that register vouches for the init-data that was sent; `None` when none was sent.
    pub(crate) initdata_bound: Option<bool>,
}
