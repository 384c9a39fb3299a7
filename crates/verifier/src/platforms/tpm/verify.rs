//! The checks of `tpm` evidence.

use strongroom_wire::tee::Tee;

use super::abi::TpmEvidence;
use crate::VerifyError;
use crate::platforms::{PlatformVerdict, Verification};

pub(crate) fn verify(
    _evidence: &TpmEvidence,
    _verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    Err(VerifyError::PlatformNotSupported { tee: Tee::Tpm })
}
