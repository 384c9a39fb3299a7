//! The checks that sample evidence allows: the report data and, when present, the stand-in register.
//!
//! Nothing is signed, so whatever passes is [`Assurance::Development`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{abi::SampleEvidence, claims};
use crate::platforms::PlatformVerdict;
use crate::{Assurance, VerifyError, binding::Binding};

pub(crate) fn verify(
    evidence: &SampleEvidence,
    binding: &Binding,
) -> Result<PlatformVerdict, VerifyError> {
    binding.check_report_data(&evidence.report_data)?;
    let initdata_bound = binding.check_initdata_digest(evidence.init_data.as_deref())?;
    Ok(PlatformVerdict {
        assurance: Assurance::Development,
        claims: claims::claims(evidence),
        report_data: STANDARD.encode(&evidence.report_data),
        initdata_bound,
    })
}
