//! The TEE's public key as a JSON Web Key (RFC 7517), with exactly the members the protocol hashes.
//!
//! Both sides hash the key after parsing it, so a member that is not listed here would be dropped by
//! one side only: parsing refuses none, printing emits none.

use serde::{Deserialize, Serialize};

use crate::b64;
use crate::canonical::HashAlgorithm;

/// RSA keys outside this range of modulus bytes are refused: 2,048 to 8,192 bits.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// A key that secrets are encrypted to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "RawJwk", into = "RawJwk")]
pub enum TeePublicKey {
    /// An elliptic curve key for ECDH-ES+A256KW.
    Ec {
        /// The curve.
        crv: EcCurve,
        /// Big-endian coordinate, as long as the curve's field.
        x: Vec<u8>,
        /// Big-endian coordinate, as long as the curve's field.
        y: Vec<u8>,
    },
    /// An RSA key for RSA-OAEP-256.
    Rsa {
        /// Big-endian modulus without leading zeros.
        n: Vec<u8>,
        /// Big-endian public exponent without leading zeros.
        e: Vec<u8>,
    },
}

impl TeePublicKey {
    /// The RFC 7638 thumbprint: SHA-256 over the required members, base64url.
    pub fn thumbprint(&self) -> String {
        // In order, and none of these strings holds what JSON escapes: this is the canonical form.
        let jcs = match self {
            Self::Ec { crv, x, y } => format!(
                r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#,
                crv.as_str(),
                b64::url_encode(x),
                b64::url_encode(y),
            ),
            Self::Rsa { n, e } => format!(
                r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#,
                b64::url_encode(e),
                b64::url_encode(n),
            ),
        };
        b64::url_encode(HashAlgorithm::Sha256.digest(jcs.as_bytes()))
    }
}

/// The curves the protocol knows (RFC 7518, 6.2.1.1). There is no P-384.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum EcCurve {
    /// NIST P-256.
    #[serde(rename = "P-256")]
    P256,
    /// NIST P-521.
    #[serde(rename = "P-521")]
    P521,
}

impl EcCurve {
    /// The name on the wire.
    fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of one coordinate.
    pub fn field_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P521 => 66,
        }
    }
}

/// The members as they are printed, in upstream's order.
#[derive(Clone, Deserialize, Serialize)]
struct RawJwk {
    kty: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<EcCurve>,
    alg: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
}

impl TryFrom<RawJwk> for TeePublicKey {
    type Error = JwkError;

    fn try_from(raw: RawJwk) -> Result<Self, JwkError> {
        match (raw.kty.as_str(), raw.alg.as_str()) {
            ("EC", "ECDH-ES+A256KW") => {
                let crv = raw.crv.ok_or(JwkError::Missing("crv"))?;
                let coordinate = |name, text: Option<String>| {
                    let text = text.ok_or(JwkError::Missing(name))?;
                    let bytes = b64::url_decode(&text).map_err(|_| JwkError::Encoding(name))?;
                    if bytes.len() == crv.field_bytes() {
                        Ok(bytes)
                    } else {
                        Err(JwkError::Length {
                            member: name,
                            actual: bytes.len(),
                            expected: crv.field_bytes(),
                        })
                    }
                };
                Ok(Self::Ec {
                    crv,
                    x: coordinate("x", raw.x)?,
                    y: coordinate("y", raw.y)?,
                })
            }
            ("RSA", "RSA-OAEP-256") => {
                let number = |name, text: Option<String>| {
                    let text = text.ok_or(JwkError::Missing(name))?;
                    let bytes = b64::url_decode(&text).map_err(|_| JwkError::Encoding(name))?;
                    match bytes.first() {
                        None | Some(0) => Err(JwkError::Encoding(name)),
                        Some(_) => Ok(bytes),
                    }
                };
                let n = number("n", raw.n)?;
                let e = number("e", raw.e)?;
                if !RSA_MODULUS_BYTES.contains(&n.len()) {
                    return Err(JwkError::Length {
                        member: "n",
                        actual: n.len(),
                        expected: *RSA_MODULUS_BYTES.start(),
                    });
                }
                if e.len() > 8 {
                    return Err(JwkError::Length {
                        member: "e",
                        actual: e.len(),
                        expected: 3,
                    });
                }
                Ok(Self::Rsa { n, e })
            }
            _ => Err(JwkError::Unsupported {
                kty: raw.kty.chars().take(16).collect(),
                alg: raw.alg.chars().take(32).collect(),
            }),
        }
    }
}

impl From<TeePublicKey> for RawJwk {
    fn from(key: TeePublicKey) -> Self {
        let empty = Self {
            kty: String::new(),
            crv: None,
            alg: String::new(),
            x: None,
            y: None,
            n: None,
            e: None,
        };
        match key {
            TeePublicKey::Ec { crv, x, y } => Self {
                kty: "EC".to_owned(),
                crv: Some(crv),
                alg: "ECDH-ES+A256KW".to_owned(),
                x: Some(b64::url_encode(x)),
                y: Some(b64::url_encode(y)),
                ..empty
            },
            TeePublicKey::Rsa { n, e } => Self {
                kty: "RSA".to_owned(),
                alg: "RSA-OAEP-256".to_owned(),
                n: Some(b64::url_encode(n)),
                e: Some(b64::url_encode(e)),
                ..empty
            },
        }
    }
}

/// Why a JWK is no key for this protocol.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JwkError {
    /// A member is not base64url without padding, or starts with a zero where none may stand.
    #[error("JWK member {0:?} is not a base64url number without padding (RFC 7518, 6.2 and 6.3)")]
    Encoding(&'static str),
    /// A member has the wrong length.
    #[error("JWK member {member:?} has {actual} bytes where {expected} are expected")]
    Length {
        /// Which member.
        member: &'static str,
        /// Its length in bytes.
        actual: usize,
        /// The length the key type demands.
        expected: usize,
    },
    /// A required member is absent.
    #[error("JWK member {0:?} is missing")]
    Missing(&'static str),
    /// Another kind of key.
    #[error(
        "JWK of type {kty:?} with algorithm {alg:?} is not supported: use EC with ECDH-ES+A256KW (P-256, P-521) or RSA with RSA-OAEP-256"
    )]
    Unsupported {
        /// `kty` as received, cut short.
        kty: String,
        /// `alg` as received, cut short.
        alg: String,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const P256: &str = r#"{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    #[test]
    fn prints_exactly_the_listed_members() {
        let key: TeePublicKey = serde_json::from_str(P256).unwrap();
        assert_eq!(serde_json::to_string(&key).unwrap(), P256);
    }

    #[test]
    fn unknown_members_are_dropped_before_hashing() {
        let with_kid = P256.replacen('{', r#"{"kid":"a","use":"enc","#, 1);
        let key: TeePublicKey = serde_json::from_str(&with_kid).unwrap();
        assert_eq!(serde_json::to_string(&key).unwrap(), P256);
    }

    #[test]
    fn p384_is_refused() {
        assert!(serde_json::from_str::<TeePublicKey>(&P256.replace("P-256", "P-384")).is_err());
    }

    #[test]
    fn short_coordinate_is_refused() {
        let error = serde_json::from_str::<TeePublicKey>(
            &P256.replace("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "AAAA"),
        );
        assert!(error.unwrap_err().to_string().contains("3 bytes where 32"));
    }

    #[test]
    fn deprecated_rsa1_5_is_refused() {
        let jwk = format!(
            r#"{{"kty":"RSA","alg":"RSA1_5","n":"{}","e":"AQAB"}}"#,
            b64::url_encode([1; 256])
        );
        assert!(
            serde_json::from_str::<TeePublicKey>(&jwk)
                .unwrap_err()
                .to_string()
                .contains("RSA1_5")
        );
    }

    #[test]
    fn rfc7638_thumbprint() {
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let key: TeePublicKey = serde_json::from_value(
            serde_json::json!({"kty": "RSA", "alg": "RSA-OAEP-256", "n": n, "e": "AQAB"}),
        )
        .unwrap();
        assert_eq!(
            key.thumbprint(),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }
}
