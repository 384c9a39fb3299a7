//! Evidence of the `snp` platform: its bytes.

use strongroom_wire::tee::Tee;

use crate::{CollateralRequest, VerifyError};

/// Evidence, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct SnpEvidence {}

impl SnpEvidence {
    pub(crate) fn parse(_json: &[u8]) -> Result<Self, VerifyError> {
        Err(VerifyError::PlatformNotSupported { tee: Tee::Snp })
    }

    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        CollateralRequest::default()
    }
}
