//! The attestation result that a broker issues: an Entity Attestation Result as a JWT signed with ES256
//! (draft-ietf-rats-ear, with Trustee's claims and profile).
//!
//! Member names and order are Trustee's. Beside them ours carry `jti` in the payload and `kid` in the header, so that
//! a token can be named in an audit record and its key found after a rotation.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::b64;

/// The profile that Trustee's relying parties know.
pub const PROFILE: &str = "tag:github.com,2024:confidential-containers/Trustee";

/// The audience of what an attestation service says of evidence whose freshness its caller vouches for. The broker that
/// issued such a token releases nothing on it.
pub const ANY_RELYING_PARTY: &str = "attestation-service";

/// The longest token, in bytes, for all who make, carry or check one: those of several GPUs reach 170 KiB.
pub const MAX_TOKEN: usize = 256 * 1024;

/// How far a token's `iat` may lie ahead of this clock.
const MAX_CLOCK_SKEW_SECONDS: u64 = 60;

/// The payload of a token.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct EarClaims {
    /// [`PROFILE`].
    pub eat_profile: String,
    /// Issued at, seconds since 1970.
    pub iat: u64,
    /// Who appraised.
    #[serde(rename = "ear.verifier-id")]
    pub verifier_id: VerifierId,
    /// One appraisal for each piece of evidence: `cpu0`, `gpu0`, ...
    pub submods: BTreeMap<String, Submod>,
    /// Expires at, seconds since 1970.
    pub exp: u64,
    /// Who issued.
    pub iss: String,
    /// The token's own id; upstream's tokens have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// For whom it is, when it is not for its issuer: [`ANY_RELYING_PARTY`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
}

/// Who appraised.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VerifierId {
    /// The developer of the verifier.
    pub developer: String,
    /// The build of the verifier.
    pub build: String,
}

/// The appraisal of one piece of evidence.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Submod {
    /// The worst tier of the vector.
    #[serde(rename = "ear.status")]
    pub status: Tier,
    /// The AR4SI vector.
    #[serde(rename = "ear.trustworthiness-vector")]
    pub trust_vector: TrustVector,
    /// The policy that appraised.
    #[serde(
        rename = "ear.appraisal-policy-id",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub policy_id: Option<String>,
    /// What the evidence said: the platform's claims, the report data and the runtime data it binds, the init-data.
    #[serde(rename = "ear.veraison.annotated-evidence", default)]
    pub annotated_evidence: Map<String, Value>,
    /// Further claims, such as `ear.trustee.identifiers`.
    #[serde(flatten)]
    pub extensions: BTreeMap<String, Value>,
}

/// A trustworthiness tier, worst last (draft-ietf-rats-ar4si, 2.3.2).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Nothing was claimed.
    None,
    /// Known to be good.
    Affirming,
    /// Not quite good.
    Warning,
    /// Known to be bad.
    Contraindicated,
}

impl Tier {
    /// The tier of one claim value.
    pub fn of(value: i8) -> Self {
        match value {
            -1..=1 => Self::None,
            -32..=31 => Self::Affirming,
            -96..=95 => Self::Warning,
            _ => Self::Contraindicated,
        }
    }

    /// The name in the token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
        }
    }
}

/// The AR4SI trustworthiness vector.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TrustVector {
    /// Is it who it says.
    pub instance_identity: i8,
    /// Is it configured safely.
    pub configuration: i8,
    /// Does it run what it should.
    pub executables: i8,
    /// Are its files what they should be.
    pub file_system: i8,
    /// Is the hardware genuine and patched.
    pub hardware: i8,
    /// Is its memory hidden from the host.
    pub runtime_opaque: i8,
    /// Is its storage hidden from the host.
    pub storage_opaque: i8,
    /// Is what it took in good.
    pub sourced_data: i8,
}

impl TrustVector {
    /// Reads what an appraisal policy answered.
    ///
    /// # Errors
    /// A sentence naming the unknown claim or the value that is no integer from -128 to 127.
    pub fn from_claims(claims: &Map<String, Value>) -> Result<Self, EarError> {
        serde_json::from_value(Value::Object(claims.clone()))
            .map_err(|error| EarError::Vector(error.to_string()))
    }

    /// The worst tier among the claims.
    pub fn status(&self) -> Tier {
        self.claims()
            .into_iter()
            .map(|(_, value)| Tier::of(value))
            .max()
            .unwrap_or(Tier::None)
    }

    /// The claims by name.
    pub fn claims(&self) -> [(&'static str, i8); 8] {
        [
            ("instance-identity", self.instance_identity),
            ("configuration", self.configuration),
            ("executables", self.executables),
            ("file-system", self.file_system),
            ("hardware", self.hardware),
            ("runtime-opaque", self.runtime_opaque),
            ("storage-opaque", self.storage_opaque),
            ("sourced-data", self.sourced_data),
        ]
    }
}

/// What signs tokens: a key, read once, and the header that all its tokens have.
pub struct EarSigner {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    header: String,
}

/// A token as it was signed.
pub struct SignedEar {
    /// The token.
    pub jwt: String,
    /// Its payload, as JSON.
    pub payload: String,
}

impl EarSigner {
    /// Takes a P-256 key pair in PKCS#8 and its public half, with the certificate chain when there is one.
    ///
    /// # Errors
    /// [`EarError::Signing`] when the key is no P-256 key.
    pub fn new(pkcs8: &[u8], jwk: Jwk, kid: &str) -> Result<Self, EarError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.to_owned());
        header.jwk = Some(jwk);
        let header = serde_json::to_vec(&header).map_err(|_| EarError::Signing)?;
        Ok(Self {
            pair: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
                .map_err(|_| EarError::Signing)?,
            random: SystemRandom::new(),
            header: b64::url_encode(header),
        })
    }

    /// Signs a token (RFC 7515, 5.1).
    ///
    /// # Errors
    /// [`EarError::Signing`] when the cryptographic library fails.
    pub fn sign(&self, claims: &impl Serialize) -> Result<SignedEar, EarError> {
        let payload = serde_json::to_string(claims).map_err(|_| EarError::Signing)?;
        let mut jwt = format!("{}.{}", self.header, b64::url_encode(&payload));
        let signature = self.pair.sign(&self.random, jwt.as_bytes());
        let signature = signature.map_err(|_| EarError::Signing)?;
        jwt.push('.');
        jwt.push_str(&b64::url_encode(signature));
        Ok(SignedEar { jwt, payload })
    }
}

/// A token whose signature has not been checked.
pub struct UnverifiedEar {
    text: String,
    header: Header,
}

impl UnverifiedEar {
    /// Parses the header; the payload stays unread until it is verified.
    ///
    /// # Errors
    /// [`EarError::Malformed`] when it is no JWT or is too long, [`EarError::Algorithm`] unless it says ES256.
    pub fn parse(text: &str) -> Result<Self, EarError> {
        if text.len() > MAX_TOKEN {
            return Err(EarError::Malformed);
        }
        let header = jsonwebtoken::decode_header(text).map_err(|_| EarError::Malformed)?;
        if header.alg != Algorithm::ES256 {
            return Err(EarError::Algorithm(format!("{:?}", header.alg)));
        }
        Ok(Self {
            text: text.to_owned(),
            header,
        })
    }

    /// The key id that the token claims to be signed with.
    pub fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// The key that the token brings along. It proves nothing unless its certificate chain leads to a trusted one.
    pub fn unverified_jwk(&self) -> Option<&Jwk> {
        self.header.jwk.as_ref()
    }

    /// Checks the signature and the times, and reads the claims.
    ///
    /// # Errors
    /// [`EarError::Signature`] when the token was changed or another key signed it, [`EarError::Expired`] and
    /// [`EarError::NotYetValid`] by `now` (seconds since 1970), [`EarError::Malformed`] when the claims are not an EAR's.
    pub fn verify(&self, key: &DecodingKey, now: u64) -> Result<EarClaims, EarError> {
        // The library would read the clock; the times are compared with `now` below instead.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<EarClaims>(&self.text, key, &validation)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::Json(_) => EarError::Malformed,
                _ => EarError::Signature,
            })?
            .claims;
        if claims.exp <= now {
            return Err(EarError::Expired {
                exp: claims.exp,
                now,
            });
        }
        if claims.iat > now.saturating_add(MAX_CLOCK_SKEW_SECONDS) {
            return Err(EarError::NotYetValid {
                iat: claims.iat,
                now,
            });
        }
        Ok(claims)
    }
}

/// Reads the expiry of a token without checking anything, to know when to ask for the next one.
///
/// # Errors
/// [`EarError::Malformed`] when the text is no JWT with an `exp`.
pub fn insecure_expiry(token: &str) -> Result<u64, EarError> {
    #[derive(Deserialize)]
    struct Expiry {
        exp: u64,
    }
    if token.len() > MAX_TOKEN {
        return Err(EarError::Malformed);
    }
    jsonwebtoken::dangerous::insecure_decode::<Expiry>(token)
        .map(|data| data.claims.exp)
        .map_err(|_| EarError::Malformed)
}

/// Why a token is not believed, or not made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EarError {
    /// Signed with another algorithm.
    #[error("attestation token is signed with {0}; only ES256 is accepted")]
    Algorithm(String),
    /// Expired.
    #[error("attestation token expired at {exp}; now it is {now} (seconds since 1970)")]
    Expired {
        /// The token's expiry.
        exp: u64,
        /// The time of the check.
        now: u64,
    },
    /// Not a token.
    #[error("attestation token is not a JWT with the claims of an attestation result")]
    Malformed,
    /// Issued in the future.
    #[error(
        "attestation token was issued at {iat}, which is ahead of this clock ({now}, seconds since 1970)"
    )]
    NotYetValid {
        /// When the token says it was issued.
        iat: u64,
        /// The time of the check.
        now: u64,
    },
    /// The signature does not verify.
    #[error(
        "the signature of the attestation token does not verify: it was changed, or another broker signed it"
    )]
    Signature,
    /// The token cannot be signed.
    #[error("the token cannot be signed: the signing key is not a P-256 private key")]
    Signing,
    /// A policy answered with an unknown claim or value.
    #[error("the trust claims are not an AR4SI vector: {0}")]
    Vector(String),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn recorded() -> Option<(UnverifiedEar, DecodingKey)> {
        let text = String::from_utf8(crate::fixtures::read("recorded/ear-token.jwt")?).unwrap();
        let token = UnverifiedEar::parse(text.trim()).unwrap();
        let key = DecodingKey::from_jwk(token.unverified_jwk().unwrap()).unwrap();
        Some((token, key))
    }

    #[test]
    fn upstream_token_verifies_at_its_own_time() {
        let Some((token, key)) = recorded() else {
            return;
        };
        let claims = token.verify(&key, 1_795_368_700).unwrap();
        assert_eq!(claims.eat_profile, PROFILE);
        let cpu = &claims.submods["cpu0"];
        assert_eq!(cpu.status, Tier::Contraindicated);
        assert_eq!(cpu.trust_vector.status(), cpu.status);
        assert_eq!(cpu.annotated_evidence["sample"]["launch_digest"], "abcde");
        assert!(cpu.extensions.contains_key("ear.trustee.identifiers"));
    }

    #[test]
    fn upstream_token_is_refused_once_expired() {
        let Some((token, key)) = recorded() else {
            return;
        };
        assert_eq!(
            token.verify(&key, 1_795_368_904),
            Err(EarError::Expired {
                exp: 1_795_368_904,
                now: 1_795_368_904
            })
        );
    }

    #[test]
    fn upstream_token_with_a_changed_payload_is_refused() {
        let Some(text) = crate::fixtures::read("recorded/ear-token.jwt") else {
            return;
        };
        let text = String::from_utf8(text).unwrap();
        let parts: Vec<&str> = text.trim().split('.').collect();
        let payload = String::from_utf8(b64::url_decode(parts[1]).unwrap()).unwrap();
        let changed = b64::url_encode(payload.replace("contraindicated", "affirming"));
        let token = UnverifiedEar::parse(&format!("{}.{changed}.{}", parts[0], parts[2])).unwrap();
        let key = DecodingKey::from_jwk(token.unverified_jwk().unwrap()).unwrap();
        assert_eq!(token.verify(&key, 1_795_368_700), Err(EarError::Signature));
    }

    #[test]
    fn token_without_a_signature_algorithm_is_refused() {
        let header = b64::url_encode(r#"{"typ":"JWT","alg":"none"}"#);
        assert!(matches!(
            UnverifiedEar::parse(&format!("{header}.e30.")),
            Err(EarError::Malformed)
        ));
        let header = b64::url_encode(r#"{"typ":"JWT","alg":"HS256"}"#);
        assert!(matches!(
            UnverifiedEar::parse(&format!("{header}.e30.AAAA")),
            Err(EarError::Algorithm(_))
        ));
    }

    #[test]
    fn tiers_follow_the_value_ranges() {
        for (value, tier) in [
            (0, Tier::None),
            (-1, Tier::None),
            (2, Tier::Affirming),
            (31, Tier::Affirming),
            (-32, Tier::Affirming),
            (32, Tier::Warning),
            (95, Tier::Warning),
            (96, Tier::Contraindicated),
            (-97, Tier::Contraindicated),
            (-128, Tier::Contraindicated),
        ] {
            assert_eq!(Tier::of(value), tier, "{value}");
        }
    }

    #[test]
    fn worst_claim_decides() {
        let vector = TrustVector {
            executables: 3,
            hardware: 97,
            ..TrustVector::default()
        };
        assert_eq!(vector.status(), Tier::Contraindicated);
    }

    #[test]
    fn unknown_claim_and_overflowing_value_are_refused() {
        let claims = |json: Value| TrustVector::from_claims(json.as_object().unwrap());
        assert!(
            claims(serde_json::json!({"executables": 3, "luck": 2}))
                .unwrap_err()
                .to_string()
                .contains("luck")
        );
        assert!(claims(serde_json::json!({"hardware": 300})).is_err());
        assert!(claims(serde_json::json!({"hardware": 2.5})).is_err());
        assert_eq!(
            claims(serde_json::json!({"hardware": 2})).unwrap().hardware,
            2
        );
    }

    #[test]
    fn expiry_of_garbage_is_an_error() {
        assert_eq!(insecure_expiry("not.a.token"), Err(EarError::Malformed));
    }
}
