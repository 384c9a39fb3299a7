//! Evidence of the `sgx` platform: its bytes.

use strongroom_wire::tee::Tee;

use crate::{CollateralRequest, VerifyError};

/// Evidence, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct SgxEvidence {}

impl SgxEvidence {
    pub(crate) fn parse(_json: &[u8]) -> Result<Self, VerifyError> {
        Err(VerifyError::PlatformNotSupported { tee: Tee::Sgx })
    }

    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        CollateralRequest::default()
    }
}
