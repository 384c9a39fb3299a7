//! The checks of `az_vtpm` evidence.

use strongroom_wire::tee::Tee;

use super::abi::AzVtpmEvidence;
use crate::VerifyError;
use crate::platforms::{PlatformVerdict, Verification};

pub(crate) fn verify(
    _evidence: &AzVtpmEvidence,
    _verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    Err(VerifyError::PlatformNotSupported {
        tee: Tee::AzSnpVtpm,
    })
}
