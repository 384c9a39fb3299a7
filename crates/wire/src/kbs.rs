//! The messages of the KBS attestation protocol (RCAR, version 0.4.0), and what the evidence must bind.
//!
//! Order: [`Request`] → [`Challenge`] → [`Attestation`] → [`AttestResponse`]. Outer members are kebab-case, those
//! inside `tee-evidence` are `snake_case`, as kbs-types 0.18 has them.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::b64;
use crate::canonical::{HashAlgorithm, UnknownHash, to_jcs};
use crate::jwk::TeePublicKey;
use crate::tee::Tee;

/// The one protocol version spoken.
pub const PROTOCOL_VERSION: &str = "0.4.0";

/// The cookie that names a session.
pub const SESSION_COOKIE: &str = "kbs-session-id";

/// The answer header that names the event under which the broker's record has a release. Of this project's brokers and
/// guests; upstream's peers ignore it, and send none.
pub const EVENT_HEADER: &str = "strongroom-event";

/// The answer header with the id (`jti`) of the token on which the broker released.
pub const TOKEN_ID_HEADER: &str = "strongroom-token-id";

/// The longest nonce accepted, in base64 characters. Ours have 44; Secure Execution's are documents.
const MAX_NONCE: usize = 16 * 1024;

/// What the client says first: `POST /kbs/v0/auth`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    /// The protocol version the client speaks.
    pub version: String,
    /// The client's platform.
    pub tee: Tee,
    /// Any JSON: an object here, `""` from older clients.
    pub extra_params: Value,
}

impl Request {
    /// Makes the request of this version of the protocol, offering every supported hash.
    pub fn new(tee: Tee) -> Self {
        let hashes = [
            HashAlgorithm::Sha256,
            HashAlgorithm::Sha384,
            HashAlgorithm::Sha512,
        ];
        Self {
            version: PROTOCOL_VERSION.to_owned(),
            tee,
            extra_params: serde_json::json!({ "supported-hash-algorithms": hashes }),
        }
    }
}

/// The server's answer to a [`Request`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Challenge {
    /// What the evidence must bind, once.
    pub nonce: Nonce,
    /// Any JSON; may select the hash.
    pub extra_params: Value,
}

impl Challenge {
    /// The hash that binds the runtime data: the server's choice, SHA-384 when it makes none.
    ///
    /// # Errors
    /// [`UnknownHash`] when the server chose one that is not supported.
    pub fn selected_hash(&self) -> Result<HashAlgorithm, UnknownHash> {
        match self
            .extra_params
            .get("selected-hash-algorithm")
            .and_then(Value::as_str)
        {
            None => Ok(HashAlgorithm::Sha384),
            Some(name) => name.parse(),
        }
    }
}

/// A challenge nonce: hashed and compared as the base64 text, never decoded.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
pub struct Nonce(String);

impl Nonce {
    /// Prints 32 random bytes as padded standard base64: 44 characters.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(b64::std_encode(bytes))
    }

    /// The text on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || text.len() > MAX_NONCE {
            return Err(serde::de::Error::custom(format!(
                "nonce has {} characters where 1 to {MAX_NONCE} are allowed",
                text.len()
            )));
        }
        Ok(Self(text))
    }
}

/// The client's proof: `POST /kbs/v0/attest`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attestation {
    /// The configuration that the platform measured at launch.
    #[serde(default)]
    pub init_data: Option<InitDataBody>,
    /// Nonce and key, which the evidence binds.
    pub runtime_data: RuntimeData,
    /// The evidence of the CPU and of further devices.
    pub tee_evidence: CompositeEvidence,
}

/// Init-data as it travels: the plain text, not yet compared with anything.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InitDataBody {
    /// `toml` is the one format in use.
    pub format: String,
    /// The document, byte for byte.
    pub body: String,
}

/// What the evidence binds: the nonce and the key that secrets will be encrypted to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuntimeData {
    /// The challenge's nonce, verbatim.
    pub nonce: Nonce,
    /// The key made in the TEE.
    pub tee_pubkey: TeePublicKey,
}

impl RuntimeData {
    /// The report data of the primary evidence: the hash of the canonical JSON of
    /// `additional-evidence`, `nonce` and `tee-pubkey`. The first is `""` when there are no further devices.
    pub fn primary_report_data(&self, additional_evidence: &str, hash: HashAlgorithm) -> Vec<u8> {
        hash_members(
            hash,
            serde_json::json!({
                "additional-evidence": additional_evidence, "nonce": self.nonce, "tee-pubkey": self.tee_pubkey,
            }),
        )
    }

    /// The report data of each further device: the hash of the canonical JSON of `nonce` and `tee-pubkey`.
    pub fn device_report_data(&self, hash: HashAlgorithm) -> Vec<u8> {
        hash_members(
            hash,
            serde_json::json!({ "nonce": self.nonce, "tee-pubkey": self.tee_pubkey }),
        )
    }
}

fn hash_members(hash: HashAlgorithm, members: Value) -> Vec<u8> {
    hash.digest(&to_jcs(&members).expect("a map of strings has a canonical form"))
}

/// Evidence of the CPU, and of devices as a text so that both sides hash the same bytes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CompositeEvidence {
    /// The platform's own JSON.
    pub primary_evidence: Box<RawValue>,
    /// `""`, or a JSON text mapping platform names to evidence.
    pub additional_evidence: String,
}

/// The server's answer to an [`Attestation`].
#[derive(Deserialize, Serialize)]
pub struct AttestResponse {
    /// The attestation result, a JWT.
    pub token: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rfc7517_runtime_data() -> RuntimeData {
        serde_json::from_value(serde_json::json!({
            "nonce": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "tee-pubkey": {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
        }))
        .unwrap()
    }

    #[test]
    fn report_data_vectors() {
        let data = rfc7517_runtime_data();
        assert_eq!(
            hex::encode(data.primary_report_data("", HashAlgorithm::Sha384)),
            "dfa65d498315212bdaf8857231cf0482172933db271f15856bf30db447227eb5b1dd9e29fcc1fb9076fb00792c3bb7e7"
        );
        assert_eq!(
            hex::encode(data.device_report_data(HashAlgorithm::Sha384)),
            "cc12bca78af3e46d9ddb68eb97122047abb52703f1cec34bd0adc12c5ac8c860b1ada6c8729e54f2172908b77572364a"
        );
    }

    #[test]
    fn request_prints_as_upstream_reads_it() {
        assert_eq!(
            serde_json::to_string(&Request::new(Tee::Sample)).unwrap(),
            r#"{"version":"0.4.0","tee":"sample","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512"]}}"#
        );
    }

    #[test]
    fn request_of_an_older_client_parses() {
        let request: Request =
            serde_json::from_str(r#"{"version":"0.1.1","tee":"snp","extra-params":""}"#).unwrap();
        assert_eq!(request.tee, Tee::Snp);
        assert!(serde_json::from_str::<Request>(r#"{"version":"0.4.0","tee":"snp"}"#).is_err());
    }

    #[test]
    fn nonce_is_padded_base64_of_32_bytes() {
        assert_eq!(Nonce::from_bytes(&[0; 32]).as_str().len(), 44);
        assert!(Nonce::from_bytes(&[0; 32]).as_str().ends_with('='));
    }

    #[test]
    fn huge_nonce_is_refused() {
        let json = format!("\"{}\"", "A".repeat(MAX_NONCE + 1));
        assert!(serde_json::from_str::<Nonce>(&json).is_err());
    }

    #[test]
    fn selected_hash_is_honoured_and_unknown_ones_refused() {
        let challenge = |extra: Value| Challenge {
            nonce: Nonce::from_bytes(&[1; 32]),
            extra_params: extra,
        };
        assert_eq!(
            challenge("".into()).selected_hash(),
            Ok(HashAlgorithm::Sha384)
        );
        let sha512 = serde_json::json!({"selected-hash-algorithm": "sha512"});
        assert_eq!(challenge(sha512).selected_hash(), Ok(HashAlgorithm::Sha512));
        assert!(
            challenge(serde_json::json!({"selected-hash-algorithm": "sm3"}))
                .selected_hash()
                .is_err()
        );
    }

    #[test]
    fn every_recorded_attestation_binds_what_upstream_hashed() {
        let mut seen = 0;
        for file in [
            "kbs-client.jsonl",
            "guest-get-resource.jsonl",
            "guest-unseal.jsonl",
        ] {
            let Some(log) = crate::fixtures::read(&format!("recorded/{file}")) else {
                return;
            };
            for line in String::from_utf8(log).unwrap().lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                if line["request"]["path"] != "/kbs/v0/attest" {
                    continue;
                }
                let attestation: Attestation =
                    serde_json::from_str(line["request"]["body"].as_str().unwrap()).unwrap();
                let evidence: Value =
                    serde_json::from_str(attestation.tee_evidence.primary_evidence.get()).unwrap();
                let expected = attestation.runtime_data.primary_report_data(
                    &attestation.tee_evidence.additional_evidence,
                    HashAlgorithm::Sha384,
                );
                assert_eq!(evidence["report_data"], b64::std_encode(expected));
                seen += 1;
            }
        }
        assert_eq!(seen, 9);
    }
}
