//! TDX evidence as JSON: `{"quote":"<base64>","cc_eventlog":"<base64>"|null}`, as upstream's attester writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use strongroom_wire::tee::Tee;

use crate::dcap::{self, Platform, Quote};
use crate::{CollateralRequest, VerifyError};

/// Evidence, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct TdxEvidence {
    pub(crate) quote: Quote,
    /// The CC event log (CCEL) of the firmware, if the guest sent it.
    pub(crate) event_log: Option<Vec<u8>>,
}

impl TdxEvidence {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, VerifyError> {
        if json.len() > MAX_JSON {
            return Err(malformed(format!(
                "{} bytes, at most {MAX_JSON}",
                json.len()
            )));
        }
        let text: Text<'_> = serde_json::from_slice(json).map_err(|e| malformed(e.to_string()))?;
        let evidence = Self::from_quote(&decode("quote", text.quote)?)?;
        let event_log = text
            .cc_eventlog
            .filter(|log| !log.is_empty())
            .map(|log| decode("cc_eventlog", log))
            .transpose()?;
        Ok(Self {
            event_log,
            ..evidence
        })
    }

    /// What the TD's module gives: a quote without an event log.
    pub(crate) fn from_quote(bytes: &[u8]) -> Result<Self, VerifyError> {
        Ok(Self {
            quote: Quote::parse(bytes).map_err(|e| malformed(e.to_string()))?,
            event_log: None,
        })
    }

    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        dcap::collateral_request(&self.quote, Platform::Tdx)
    }
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    quote: &'a str,
    #[serde(borrow, default)]
    cc_eventlog: Option<&'a str>,
}

fn decode(member: &str, text: &str) -> Result<Vec<u8>, VerifyError> {
    STANDARD
        .decode(text)
        .map_err(|e| malformed(format!("{member} is not standard base64: {e}")))
}

fn malformed(detail: String) -> VerifyError {
    VerifyError::Malformed {
        tee: Tee::Tdx,
        detail,
    }
}

/// Firmware keeps a log area of up to 1 MiB.
const MAX_JSON: usize = 3 * 1024 * 1024;
