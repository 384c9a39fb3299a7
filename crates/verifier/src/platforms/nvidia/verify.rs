//! The checks of `nvidia` evidence.

use strongroom_wire::tee::Tee;

use super::abi::NvidiaEvidence;
use crate::VerifyError;
use crate::platforms::{PlatformVerdict, Verification};

pub(crate) fn verify(
    _evidence: &NvidiaEvidence,
    _verification: &mut Verification<'_>,
) -> Result<Vec<PlatformVerdict>, VerifyError> {
    Err(VerifyError::PlatformNotSupported { tee: Tee::Nvidia })
}
