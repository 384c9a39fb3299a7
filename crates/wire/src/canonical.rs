//! Canonical JSON (RFC 8785) and the hash algorithms that run over it.

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

/// Prints a value as canonical JSON: keys sorted, no blanks, UTF-8 (RFC 8785).
///
/// # Errors
/// Fails when the value has no JSON form, such as a map whose keys are not strings.
pub fn to_jcs(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    serde_json_canonicalizer::to_vec(value)
}

/// A hash algorithm that both sides of the protocol know by name.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HashAlgorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes: the protocol's default.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl HashAlgorithm {
    /// The name in `supported-hash-algorithms` and in init-data.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Hashes `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }
}

impl std::str::FromStr for HashAlgorithm {
    type Err = UnknownHash;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "sha256" => Ok(Self::Sha256),
            "sha384" => Ok(Self::Sha384),
            "sha512" => Ok(Self::Sha512),
            other => Err(UnknownHash(other.chars().take(32).collect())),
        }
    }
}

/// A hash algorithm that is unknown, or known upstream and not supported here (`sm3`).
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "hash algorithm {0:?} is not supported: use sha256, sha384 or sha512 (lower case, no hyphen)"
)]
pub struct UnknownHash(String);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn upstream_vector_for_structured_runtime_data() {
        let Some(vector) = crate::fixtures::json("guest/vectors/runtime-data-jcs.json") else {
            return;
        };
        let jcs = to_jcs(&vector["runtime_data"]).unwrap();
        assert_eq!(std::str::from_utf8(&jcs).unwrap(), vector["jcs"]);
        assert_eq!(
            hex::encode(HashAlgorithm::Sha384.digest(&jcs)),
            vector["sha384_hex"]
        );
    }

    #[test]
    fn keys_sort_by_utf16_units() {
        let jcs =
            to_jcs(&serde_json::json!({"\u{20ac}": 1, "\r": 2, "1": 4, "\u{1F600}": 5})).unwrap();
        assert_eq!(
            std::str::from_utf8(&jcs).unwrap(),
            "{\"\\r\":2,\"1\":4,\"\u{20ac}\":1,\"\u{1F600}\":5}"
        );
    }

    #[test]
    fn hyphenated_name_is_refused() {
        assert!(
            "sha-256"
                .parse::<HashAlgorithm>()
                .unwrap_err()
                .to_string()
                .contains("no hyphen")
        );
    }
}
