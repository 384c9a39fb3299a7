//! NVIDIA's service for reference integrity manifests: `GET /v1/rim/{id}`, a JSON with the manifest in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::service::{Ask, Service};

/// The request for one manifest. Its id holds nothing but what may stand in a path.
pub(super) fn ask(base: &str, id: &str) -> Ask {
    Ask {
        service: Service::NvidiaRim,
        url: format!("{}/v1/rim/{id}", base.trim_end_matches('/')),
        limit: super::MAX_RIM_ANSWER,
        chain_headers: &[],
    }
}

/// The manifest in an answer.
pub(super) fn manifest(body: &[u8]) -> Result<Vec<u8>, String> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|e| format!("its answer is not a JSON with a rim (line {})", e.line()))?;
    STANDARD
        .decode(answer.rim)
        .map_err(|_| "the rim in its answer is not base64".to_owned())
}

/// What else it holds is of no use here.
#[derive(Deserialize)]
struct Answer {
    rim: String,
}
