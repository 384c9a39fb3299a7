//! The checks of TDX evidence: the quote by Intel's procedure, then what it binds.

use strongroom_wire::tee::Tee;

use super::abi::TdxEvidence;
use super::claims;
use crate::VerifyError;
use crate::binding::{Register, ReportDataForm};
use crate::check::{Check, Steps};
use crate::dcap::{self, Platform, TdReport};
use crate::event_log::EventLog;
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
    let event_log = check_event_log(evidence.event_log.as_deref(), report, verification.steps)?;
    let mut claims = claims::claims(&evidence.quote, report, &verified.pck, event_log.as_ref());
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

/// The event log is what a policy reads the boot from, so it must be the one that the quote's RTMRs vouch for.
fn check_event_log(
    log: Option<&[u8]>,
    report: &TdReport,
    steps: &mut Steps,
) -> Result<Option<EventLog>, VerifyError> {
    let Some(log) = log else {
        let why = "the guest sent no event log";
        steps.skip(Check::EventLogForm, why);
        steps.skip(Check::EventLogRtmrs, why);
        return Ok(None);
    };
    let log = steps.run(Check::EventLogForm, || {
        EventLog::parse(log).map_err(|e| Check::EventLogForm.failed("a CC event log", e))
    })?;
    steps.run(Check::EventLogRtmrs, || {
        let computed = log
            .rtmrs()
            .map_err(|e| Check::EventLogRtmrs.failed("a log that replays", e))?;
        let differs = (0..).zip(report.rtmrs.iter().zip(&computed));
        for (number, (quoted, computed)) in differs {
            if quoted != computed {
                return Err(Check::EventLogRtmrs.failed(
                    format!("RTMR{number} {} of the quote", hex::encode(quoted)),
                    format!("{} by the log", hex::encode(computed)),
                ));
            }
        }
        Ok(())
    })?;
    Ok(Some(log))
}
