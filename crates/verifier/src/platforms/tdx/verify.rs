//! The checks of TDX evidence: the quote by Intel's procedure, then what it binds.

use strongroom_wire::tee::Tee;

use super::abi::TdxEvidence;
use super::claims;
use crate::VerifyError;
use crate::binding::{Register, ReportDataForm};
use crate::check::Check;
use crate::dcap::{self, Platform};
use crate::platforms::{PlatformVerdict, Verification};

pub(crate) fn verify(
    evidence: &TdxEvidence,
    verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    let verified = dcap::verify(&evidence.quote, Platform::Tdx, verification)?;
    let report = evidence
        .quote
        .td_report()
        .ok_or_else(|| Check::QuoteTeeType.failed("a TD's report", "an enclave's"))?;
    let expected = verification.expected;
    expected.check_report_data(
        verification.steps,
        ReportDataForm::Padded64,
        &report.report_data,
    )?;
    let initdata_bound =
        expected.check_initdata(verification.steps, Register::Launch(&report.mr_config_id))?;
    let mut claims = claims::claims(&evidence.quote, report, &verified.pck);
    claims.extend(verified.tcb_claims);
    Ok(PlatformVerdict {
        tee: Tee::Tdx,
        assurance: verified.assurance,
        claims,
        report_data: hex::encode(report.report_data),
        init_data: Some(hex::encode(report.mr_config_id)),
        initdata_bound,
    })
}
