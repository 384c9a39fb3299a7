//! The checks of TDX evidence: the quote by Intel's procedure, then what it binds.

use strongroom_wire::tee::Tee;

use super::abi::TdxEvidence;
use super::claims;
use crate::VerifyError;
use crate::binding::{Register, ReportDataForm};
use crate::check::{Check, Steps};
use crate::dcap::{self, Platform, TdReport};
use crate::event_log::{DigestAlgorithm, EventLog};
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
    // Digests of other algorithms are whatever the sender says.
    Ok(Some(log.with_bank_alone(DigestAlgorithm::Sha384)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dcap::Quote;
    use crate::dcap::tests::recorded;

    fn refusal(log: &str, change: impl FnOnce(&mut TdReport)) -> Option<String> {
        let quote = recorded("verifier/test_data/tdx_quote_4.dat")?;
        let log = recorded(log)?;
        let mut report = Quote::parse(&quote).unwrap().td_report().unwrap().clone();
        change(&mut report);
        let error = check_event_log(Some(&log), &report, &mut Steps::default()).unwrap_err();
        assert_eq!(error.check(), Check::EventLogRtmrs);
        Some(error.to_string())
    }

    fn register(text: &str) -> [u8; 48] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn log_of_another_machine_is_refused_with_both_values() {
        let Some(error) = refusal("verifier/test_data/CCEL_data", |_| ()) else {
            return;
        };
        assert!(error.contains("RTMR0 e940da7c2712d279"), "{error}");
        assert!(error.contains("2dc712306a963ead"), "{error}");
    }

    #[test]
    fn register_that_differs_in_its_last_digit_is_refused() {
        let computed = "3300980705adf09d28b707b79699d9874892164280832be2c386a715b6e204e0897fb564a064f810659207ba862b304f";
        let Some(error) = refusal("eventlog/test_data/CCEL_data_gcp", |report| {
            report.rtmrs[0] = register(&computed.replace("304f", "304d"));
        }) else {
            return;
        };
        assert!(error.contains(computed), "{error}");
    }

    #[test]
    fn second_register_that_differs_is_named() {
        let Some(error) = refusal("eventlog/test_data/CCEL_data", |report| {
            report.rtmrs[0] = register(
                "2dc712306a963eadb894ad47dbaa17df44814151555aee11cbb843becca88950ffd079664902e6f22c66f7c8213543f4",
            );
            report.rtmrs[1] = register(
                "2fa3be56af61208bbd179dc7b124988eb929319154663c539d6f46445ecac2fec287075047ff7bd1922829fec28cd3cf",
            );
        }) else {
            return;
        };
        assert!(error.contains("RTMR1 2fa3be56"), "{error}");
        assert!(error.contains("0fa3be56af61208b"), "{error}");
    }

    /// The RTMRs vouch for SHA-384 digests alone: a log may declare further banks and write into them what it likes.
    #[test]
    fn digest_of_a_bank_that_was_not_replayed_is_no_claim() {
        let Some(quote) = recorded("verifier/test_data/tdx_quote_4.dat") else {
            return;
        };
        let mut header = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
        header.extend(2_u32.to_le_bytes());
        for (algorithm, size) in [(0x0c_u16, 48_u16), (0x0b, 32)] {
            header.extend(algorithm.to_le_bytes());
            header.extend(size.to_le_bytes());
        }
        header.push(0);
        let mut log = [0_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat();
        log.extend([0; 20]);
        log.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
        log.extend(header);
        for word in [2_u32, 0x8000_0003, 2] {
            log.extend(word.to_le_bytes());
        }
        log.extend([&[0x0c, 0][..], &[1; 48], &[0x0b, 0], &[2; 32], &[0; 4]].concat());
        let mut report = Quote::parse(&quote).unwrap().td_report().unwrap().clone();
        report.rtmrs = crate::event_log::replay_rtmrs(&log).unwrap();
        let log = check_event_log(Some(&log), &report, &mut Steps::default()).unwrap();
        assert_eq!(
            log.unwrap().claims()[0]["digests"],
            serde_json::json!([{"alg": "SHA-384", "digest": "01".repeat(48)}])
        );
    }
}
