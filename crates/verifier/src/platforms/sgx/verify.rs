//! The checks of SGX evidence: the quote by Intel's procedure, then what it binds.

use strongroom_wire::tee::Tee;

use super::abi::SgxEvidence;
use super::claims;
use crate::VerifyError;
use crate::binding::{Register, ReportDataForm};
use crate::check::Check;
use crate::dcap::{self, Platform};
use crate::platforms::{PlatformVerdict, Verification};

pub(crate) fn verify(
    evidence: &SgxEvidence,
    verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    let verified = dcap::verify(&evidence.quote, Platform::Sgx, verification)?;
    let report = evidence
        .quote
        .enclave_report()
        .ok_or_else(|| Check::QuoteTeeType.failed("an enclave's report", "a TD's"))?;
    let expected = verification.expected;
    expected.check_report_data(
        verification.steps,
        ReportDataForm::Padded64,
        &report.report_data,
    )?;
    // Without key separation and sharing an enclave has no CONFIGID: the field is reserved.
    let register = match report.has_kss() {
        true => Register::Launch(&report.config_id),
        false => Register::None,
    };
    let initdata_bound = expected.check_initdata(verification.steps, register)?;
    let mut claims = claims::claims(&evidence.quote, report, &verified.pck);
    claims.extend(verified.tcb_claims);
    Ok(PlatformVerdict {
        tee: Tee::Sgx,
        assurance: verified.assurance,
        claims,
        report_data: hex::encode(report.report_data),
        init_data: Some(hex::encode(report.config_id)),
        initdata_bound,
    })
}
