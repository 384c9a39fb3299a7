//! Evidence of Azure's confidential VMs: its bytes.

use strongroom_wire::tee::Tee;

use crate::{CollateralRequest, VerifyError};

/// Evidence, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct AzVtpmEvidence {
    tee: Tee,
}

impl AzVtpmEvidence {
    pub(crate) fn parse(tee: Tee, _json: &[u8]) -> Result<Self, VerifyError> {
        Err(VerifyError::PlatformNotSupported { tee })
    }

    pub(crate) fn tee(&self) -> Tee {
        self.tee
    }

    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        CollateralRequest::default()
    }
}
