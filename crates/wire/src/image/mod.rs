//! Formats of container images: what registries store, what owners sign and encrypt, what says whom to believe.
//!
//! OCI image specification 1.1, containers-policy.json(5), containers-signature(5), cosign's simple signing, and the
//! annotations of ocicrypt. The policy itself is [`crate::image_policy`].

pub mod credentials;
pub mod digest;
pub mod key_provider;
pub mod layer_cipher;
pub mod lookaside;
pub mod manifest;
pub mod ocicrypt;
pub mod reference;
pub mod registries;
pub mod signing_key;
pub mod simple_signing;

use serde::de::DeserializeOwned;

/// Parses JSON of a bounded length; the error says where, and never what stands there.
fn bounded_json<T: DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<T, FormatError> {
    if bytes.len() > limit {
        return Err(FormatError::TooLong { what, limit });
    }
    serde_json::from_slice(bytes).map_err(|error| FormatError::Json {
        what,
        line: error.line(),
        column: error.column(),
        kind: match error.classify() {
            serde_json::error::Category::Data => {
                "a member is missing, unknown, given twice or of another type"
            }
            _ => "it is not JSON",
        },
    })
}

/// Why a document about an image is not one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// More bytes than such a document has.
    #[error("the {what} has more than {limit} bytes")]
    TooLong {
        /// Which document.
        what: &'static str,
        /// How long it may be.
        limit: usize,
    },
    /// It is no JSON, or another JSON.
    #[error("the {what} cannot be read: {kind} (line {line} column {column})")]
    Json {
        /// Which document.
        what: &'static str,
        /// Where.
        line: usize,
        /// Where in the line.
        column: usize,
        /// Roughly why.
        kind: &'static str,
    },
    /// It is well-formed, and says something that cannot be.
    #[error("the {what} cannot be used: {reason}")]
    Invalid {
        /// Which document.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

impl FormatError {
    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            what,
            reason: reason.into(),
        }
    }
}
