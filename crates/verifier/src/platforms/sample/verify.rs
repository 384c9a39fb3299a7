//! The checks that sample evidence allows: the report data and, when present, the stand-in register.
//!
//! Nothing is signed, so whatever passes is [`Assurance::Development`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{abi::SampleEvidence, claims};
use crate::binding::{Register, ReportDataForm};
use crate::platforms::{PlatformVerdict, Verification};
use crate::{Assurance, VerifyError};

pub(crate) fn verify(
    evidence: &SampleEvidence,
    verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    let expected = verification.expected;
    expected.check_report_data(
        verification.steps,
        ReportDataForm::Exact,
        &evidence.report_data,
    )?;
    let register = evidence
        .init_data
        .as_deref()
        .map_or(Register::None, Register::Plain);
    let initdata_bound = expected.check_initdata(verification.steps, register)?;
    Ok(PlatformVerdict {
        tee: evidence.tee,
        assurance: Assurance::Development,
        claims: claims::claims(evidence),
        report_data: STANDARD.encode(&evidence.report_data),
        init_data: evidence.init_data.as_deref().map(hex::encode),
        initdata_bound,
    })
}
