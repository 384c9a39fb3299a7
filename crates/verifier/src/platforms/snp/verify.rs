//! The checks of `snp` evidence.

use strongroom_wire::tee::Tee;

use super::abi::SnpEvidence;
use crate::VerifyError;
use crate::platforms::{PlatformVerdict, Verification};

pub(crate) fn verify(
    _evidence: &SnpEvidence,
    _verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    Err(VerifyError::PlatformNotSupported { tee: Tee::Snp })
}
