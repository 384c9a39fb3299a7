//! Evidence of the `tdx` platform: its bytes.

use strongroom_wire::tee::Tee;

use crate::{CollateralRequest, VerifyError};

/// Evidence, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct TdxEvidence {}

impl TdxEvidence {
    pub(crate) fn parse(_json: &[u8]) -> Result<Self, VerifyError> {
        Err(VerifyError::PlatformNotSupported { tee: Tee::Tdx })
    }

    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        CollateralRequest::default()
    }
}
