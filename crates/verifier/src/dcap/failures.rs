//! The checks that `dcap-qvl` makes and the texts by which it tells that one failed.
//!
//! Its errors are texts only. Each text here has a test that brings it about, so that one which changes is noticed; any
//! other, such as a date that is none in what Intel signed, fails [`Check::DcapProcedure`]: refused, if not by name.

use super::Platform;
use crate::VerifyError;
use crate::check::{Check, Steps};

/// Records what `dcap-qvl` found: the checks before the one that failed passed, and none is said to have run after it.
pub(super) fn record<T>(
    platform: Platform,
    outcome: Result<T, String>,
    steps: &mut Steps,
) -> Result<T, VerifyError> {
    let made = FAILURES
        .iter()
        .filter(|failure| platform.is_tdx() || !failure.of_a_td);
    let error = match outcome {
        Ok(value) => {
            for failure in made {
                steps.run(failure.check, || Ok(()))?;
            }
            return Ok(value);
        }
        Err(error) => error,
    };
    let Some(failed) = FAILURES.iter().find(|failure| failure.tells(&error)) else {
        return steps.run(Check::DcapProcedure, || {
            Err(Check::DcapProcedure.failed("no objection", &error))
        });
    };
    for passed in made.take_while(|failure| failure.check != failed.check) {
        steps.run(passed.check, || Ok(()))?;
    }
    steps.run(failed.check, || {
        Err(failed.check.failed(failed.expected, &error))
    })
}

struct Failure {
    check: Check,
    expected: &'static str,
    /// Parts of texts, each of which no other check's texts have.
    texts: &'static [&'static str],
    of_a_td: bool,
}

impl Failure {
    fn tells(&self, error: &str) -> bool {
        self.texts.iter().any(|text| error.contains(text))
    }
}

const fn failure(check: Check, expected: &'static str, texts: &'static [&'static str]) -> Failure {
    Failure {
        check,
        expected,
        texts,
        of_a_td: false,
    }
}

const fn of_a_td(failure: Failure) -> Failure {
    Failure {
        of_a_td: true,
        ..failure
    }
}

/// In the order in which `dcap-qvl` makes them.
const FAILURES: &[Failure] = &[
    failure(
        Check::TcbInfoForm,
        "a TCB info of the PCS's form",
        &["Failed to decode TcbInfo"],
    ),
    failure(
        Check::TcbInfoCurrent,
        "a time from issueDate to nextUpdate",
        &["TCBInfo issue date is in the future", "TCBInfo expired"],
    ),
    failure(
        Check::TcbInfoSignature,
        "a signature by the TCB info's signer",
        &["Signature is invalid for tcb_info"],
    ),
    failure(
        Check::QeIdentityForm,
        "a QE identity of the PCS's form, for this platform's quoting enclave",
        &[
            "Failed to decode QeIdentity",
            "Unsupported QE Identity id/version",
        ],
    ),
    failure(
        Check::QeIdentityCurrent,
        "a time from issueDate to nextUpdate",
        &[
            "QE Identity issue date is in the future",
            "QE Identity expired",
        ],
    ),
    failure(
        Check::QeIdentitySignature,
        "a signature by the QE identity's signer",
        &["Signature is invalid for qe_identity"],
    ),
    failure(
        Check::QeAuthenticationData,
        "32 bytes",
        &["Invalid QE auth data length"],
    ),
    failure(
        Check::QeIdentityMatch,
        "what the QE identity says",
        &[
            "QE MRSIGNER mismatch",
            "QE report validation failed",
            "QE ISVPRODID mismatch",
            "QE MISCSELECT mismatch",
            "QE ATTRIBUTES mismatch",
        ],
    ),
    failure(
        Check::QeTcbLevel,
        "a level that the quoting enclave's ISVSVN meets",
        &["from QE Identity", "in QE Identity"],
    ),
    failure(
        Check::TcbInfoPlatform,
        "a TCB info for the PCK certificate's platform",
        &["Fmspc mismatch", "TCB info in the collateral"],
    ),
    failure(
        Check::TcbLevel,
        "a level that the platform's SVNs meet",
        &[
            "No matching TCB level found",
            "TDRelaunchAdvised in TCB Info",
            "TDRelaunchAdvisedConfigurationNeeded in TCB Info",
        ],
    ),
    of_a_td(failure(
        Check::TdxModule,
        "the module, and a level of it, that the TCB info says",
        &["TDX module"],
    )),
    failure(
        Check::TcbNotRevoked,
        "a level that is not revoked",
        &["TCB status is invalid: Revoked"],
    ),
    of_a_td(failure(
        Check::ServiceTd,
        "no service TD",
        &["SERVTD_EXT is enabled", "Invalid MR service TD"],
    )),
    of_a_td(failure(
        Check::TdAttributes,
        "no reserved bit, no migration, and SEPT_VE_DISABLE",
        &[
            "Reserved bits in TD attributes are set",
            "TD migration is enabled",
            "SEPT_VE_DISABLE is not enabled",
        ],
    )),
];
