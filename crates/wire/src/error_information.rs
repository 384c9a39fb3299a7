//! `ErrorInformation`, the body of every error answer of a KBS (KBS attestation protocol, "Error handling").

use serde::{Deserialize, Serialize};

const PREFIX: &str = "https://github.com/confidential-containers/kbs/errors/";
const MAX_DETAIL: usize = 4096;

/// Why a request failed: a type URI that programs compare, a sentence that people read.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ErrorInformation {
    /// The type URI; its last segment is the kind.
    #[serde(rename = "type")]
    pub r#type: String,
    /// A sentence for people.
    pub detail: String,
}

impl ErrorInformation {
    /// Makes the error of a kind, such as `PolicyDeny`.
    pub fn new(kind: &str, detail: impl Into<String>) -> Self {
        Self {
            r#type: format!("{PREFIX}{kind}"),
            detail: detail.into(),
        }
    }

    /// Reads an error body; `None` when the body is not one, as when a proxy answered.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let mut parsed: Self = serde_json::from_slice(body).ok()?;
        if let Some((at, _)) = parsed.detail.char_indices().nth(MAX_DETAIL) {
            parsed.detail.truncate(at);
        }
        Some(parsed)
    }

    /// The kind: the last segment of the type URI.
    pub fn kind(&self) -> &str {
        self.r#type.rsplit('/').next().unwrap_or(&self.r#type)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_upstream_wrote() {
        let body = br#"{"type":"https://github.com/confidential-containers/kbs/errors/TokenNotFound","detail":"Attestation Token not found"}"#;
        let error = ErrorInformation::parse(body).unwrap();
        assert_eq!(error.kind(), "TokenNotFound");
        assert_eq!(serde_json::to_vec(&error).unwrap(), body);
    }

    #[test]
    fn a_proxy_page_is_not_an_error_body() {
        assert_eq!(ErrorInformation::parse(b"<html>502</html>"), None);
    }
}
