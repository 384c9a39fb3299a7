//! The checks of `tdx` evidence.

use strongroom_wire::tee::Tee;

use super::abi::TdxEvidence;
use crate::VerifyError;
use crate::platforms::{PlatformVerdict, Verification};

pub(crate) fn verify(
    _evidence: &TdxEvidence,
    _verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    Err(VerifyError::PlatformNotSupported { tee: Tee::Tdx })
}
