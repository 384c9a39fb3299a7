//! The checks of `sgx` evidence.

use strongroom_wire::tee::Tee;

use super::abi::SgxEvidence;
use crate::VerifyError;
use crate::platforms::{PlatformVerdict, Verification};

pub(crate) fn verify(
    _evidence: &SgxEvidence,
    _verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    Err(VerifyError::PlatformNotSupported { tee: Tee::Sgx })
}
