//! SGX under a library system (Gramine): an enclave's quote through files under `/dev/attestation`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::devices::Devices;
use crate::{AttestError, files};

#[derive(Serialize)]
struct SgxEvidence {
    quote: String,
}

/// The evidence of the KBS protocol's platform `sgx`.
pub(crate) fn evidence(
    devices: &Devices,
    report_data: &[u8; 64],
) -> Result<Box<RawValue>, AttestError> {
    let path = devices.enclave.join("user_report_data");
    files::write(&path, report_data).map_err(|error| files::failure(&path, &error))?;
    let path = devices.enclave.join("quote");
    let quote = files::read(&path, MAX_QUOTE).map_err(|error| files::failure(&path, &error))?;
    to_raw_value(&SgxEvidence {
        quote: STANDARD.encode(quote),
    })
    .map_err(|_| AttestError::Json)
}

const MAX_QUOTE: usize = 64 * 1024;
