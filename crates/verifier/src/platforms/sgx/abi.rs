//! SGX evidence as JSON: `{"quote":"<base64>"}`, as upstream's attester writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use strongroom_wire::tee::Tee;

use crate::dcap::{self, Platform, Quote};
use crate::{CollateralRequest, VerifyError};

/// Evidence, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct SgxEvidence {
    pub(crate) quote: Quote,
}

impl SgxEvidence {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, VerifyError> {
        if json.len() > MAX_JSON {
            return Err(malformed(format!(
                "{} bytes, at most {MAX_JSON}",
                json.len()
            )));
        }
        let text: Text<'_> = serde_json::from_slice(json).map_err(|e| malformed(e.to_string()))?;
        let quote = STANDARD
            .decode(text.quote)
            .map_err(|e| malformed(format!("quote is not standard base64: {e}")))?;
        Self::from_quote(&quote)
    }

    /// What the quoting enclave gives.
    pub(crate) fn from_quote(bytes: &[u8]) -> Result<Self, VerifyError> {
        let quote = Quote::parse(bytes).map_err(|e| malformed(e.to_string()))?;
        Ok(Self { quote })
    }

    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        dcap::collateral_request(&self.quote, Platform::Sgx)
    }
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    quote: &'a str,
}

fn malformed(detail: String) -> VerifyError {
    VerifyError::Malformed {
        tee: Tee::Sgx,
        detail,
    }
}

const MAX_JSON: usize = 64 * 1024;
