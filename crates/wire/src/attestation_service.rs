//! The messages of the attestation service's REST (Trustee's `restful-as`): whoever has evidence asks what it is worth.
//!
//! There is no session and no challenge of the service's own: the caller says what the evidence must bind. Members are
//! `snake_case`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::b64;
use crate::canonical::{HashAlgorithm, to_jcs};
use crate::initdata::{Initdata, InitdataError};
use crate::tee::Tee;

/// The most pieces of evidence under one token: a CPU and each further platform once, with room.
pub const MAX_REQUESTS: usize = 16;

/// What is asked: `POST /attestation`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AttestationRequest {
    /// One for each piece of evidence.
    pub verification_requests: Vec<IndividualRequest>,
    /// By which appraisal policies; `default` when there is none.
    #[serde(default)]
    pub policy_ids: Vec<String>,
}

/// One piece of evidence, and what it must bind.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct IndividualRequest {
    /// The platform.
    pub tee: Tee,
    /// The platform's JSON, in base64url without padding.
    pub evidence: String,
    /// What the report data must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_data: Option<RuntimeDataInput>,
    /// The configuration that the platform was launched with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_data: Option<InitDataInput>,
    /// The hash over structured runtime data; SHA-384 when it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_data_hash_algorithm: Option<HashAlgorithm>,
}

/// Runtime data, as the caller has it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeDataInput {
    /// The report data itself, in base64url without padding.
    Raw(String),
    /// JSON whose canonical form (RFC 8785) is hashed.
    Structured(Value),
}

/// Init-data, as the caller has it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InitDataInput {
    /// Its digest, in base64url without padding.
    InitDataDigest(String),
    /// The document, byte for byte.
    InitDataToml(String),
}

/// What must be bound, decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct StatedRuntimeData {
    /// The report data, before a platform pads or cuts it.
    pub report_data: Vec<u8>,
    /// The JSON that was hashed; null when the caller gave the report data itself.
    pub claims: Value,
}

/// Init-data, decoded.
#[derive(Clone, Debug)]
pub enum StatedInitData {
    /// Only its digest is known.
    Digest(Vec<u8>),
    /// The document.
    Document(Initdata),
}

impl IndividualRequest {
    /// The platform's JSON.
    ///
    /// # Errors
    /// [`AttestationRequestError::Base64`].
    pub fn evidence(&self) -> Result<Vec<u8>, AttestationRequestError> {
        decode(&self.evidence, "evidence")
    }

    /// What the evidence must bind; nothing when the caller does not say.
    ///
    /// # Errors
    /// [`AttestationRequestError`] when it is not base64url, or raw and not of 1 to 64 bytes: a longer one would be cut to the
    /// platform's field, and what is behind the cut would be bound by nothing.
    pub fn runtime_data(&self) -> Result<Option<StatedRuntimeData>, AttestationRequestError> {
        let Some(input) = &self.runtime_data else {
            return Ok(None);
        };
        let (report_data, claims) = match input {
            RuntimeDataInput::Raw(text) => (field(text, "runtime_data.raw")?, Value::Null),
            RuntimeDataInput::Structured(claims) => {
                let hash = self.runtime_data_hash_algorithm;
                let canonical = to_jcs(claims).map_err(|_| AttestationRequestError::Canonical)?;
                let hash = hash.unwrap_or(HashAlgorithm::Sha384);
                (hash.digest(&canonical), claims.clone())
            }
        };
        Ok(Some(StatedRuntimeData {
            report_data,
            claims,
        }))
    }

    /// The init-data that the caller states.
    ///
    /// # Errors
    /// [`AttestationRequestError`] when it is not base64url of 1 to 64 bytes, or not a document.
    pub fn init_data(&self) -> Result<Option<StatedInitData>, AttestationRequestError> {
        match &self.init_data {
            None => Ok(None),
            Some(InitDataInput::InitDataDigest(text)) => Ok(Some(StatedInitData::Digest(field(
                text,
                "init_data.init_data_digest",
            )?))),
            Some(InitDataInput::InitDataToml(text)) => {
                Ok(Some(StatedInitData::Document(Initdata::parse(text)?)))
            }
        }
    }
}

/// What a platform's challenge is asked for with: `POST /challenge`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ChallengeRequest {
    /// The platform.
    pub tee: Tee,
    /// What the platform needs to know; a text.
    pub tee_params: String,
}

/// One appraisal policy in a list: `GET /policy`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyEntry {
    /// Its id, with its class: `default_cpu`.
    pub policy_id: String,
}

/// Why a request is refused before anything is verified.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestationRequestError {
    /// A member is not base64url.
    #[error("{member} is not base64url without padding")]
    Base64 {
        /// Which.
        member: &'static str,
    },
    /// A field is empty, or longer than any platform's.
    #[error("{member} has {actual} bytes where 1 to {MAX_FIELD} fit into a platform's register")]
    Field {
        /// Which.
        member: &'static str,
        /// Its length.
        actual: usize,
    },
    /// The runtime data have no canonical form.
    #[error("runtime_data.structured has no canonical form (RFC 8785)")]
    Canonical,
    /// The init-data are not a document.
    #[error(transparent)]
    Initdata(#[from] InitdataError),
}

fn field(text: &str, member: &'static str) -> Result<Vec<u8>, AttestationRequestError> {
    let bytes = decode(text, member)?;
    match bytes.len() {
        1..=MAX_FIELD => Ok(bytes),
        actual => Err(AttestationRequestError::Field { member, actual }),
    }
}

fn decode(text: &str, member: &'static str) -> Result<Vec<u8>, AttestationRequestError> {
    b64::url_decode(text).map_err(|_| AttestationRequestError::Base64 { member })
}

/// The report data of SNP, TDX and SGX, and SGX's register for init-data: no platform has a longer field.
const MAX_FIELD: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(members: Value) -> IndividualRequest {
        let mut request = json!({"tee": "sample", "evidence": "e30"});
        let more = members.as_object().unwrap().clone();
        request.as_object_mut().unwrap().extend(more);
        serde_json::from_value(request).unwrap()
    }

    #[test]
    fn structured_runtime_data_are_hashed_in_their_canonical_form() {
        // Upstream's own vector.
        let data = json!({"b": 1, "a": "test", "c": {"d": "e"}});
        let stated = request(json!({"runtime_data": {"structured": data}}));
        let stated = stated.runtime_data().unwrap().unwrap();
        assert_eq!(
            hex::encode(stated.report_data),
            "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c4597480a186427c813ca941da78870c3"
        );
        assert_eq!(stated.claims, data);
    }

    #[test]
    fn hash_is_the_one_that_was_named() {
        let stated = request(json!({
            "runtime_data": {"structured": {}}, "runtime_data_hash_algorithm": "sha256",
        }));
        let report_data = stated.runtime_data().unwrap().unwrap().report_data;
        assert_eq!(report_data, HashAlgorithm::Sha256.digest(b"{}"));
        let unknown =
            json!({"tee": "sample", "evidence": "", "runtime_data_hash_algorithm": "sm3"});
        assert!(serde_json::from_value::<IndividualRequest>(unknown).is_err());
    }

    #[test]
    fn raw_runtime_data_of_another_length_than_a_register_are_refused() {
        for (length, accepted) in [(0, false), (1, true), (64, true), (65, false)] {
            let raw = b64::url_encode(vec![7; length]);
            let outcome = request(json!({"runtime_data": {"raw": raw}})).runtime_data();
            assert_eq!(outcome.is_ok(), accepted, "{length}");
            let outcome = request(json!({"init_data": {"init_data_digest": raw}})).init_data();
            assert_eq!(outcome.is_ok(), accepted, "{length}");
        }
    }

    #[test]
    fn padded_or_standard_base64_is_refused() {
        for text in ["AA==", "+/+/", "A"] {
            let outcome = request(json!({"evidence": text})).evidence();
            assert!(outcome.is_err(), "{text}");
        }
    }

    #[test]
    fn policies_are_named_as_upstream_names_them() {
        let entry = PolicyEntry {
            policy_id: "default_cpu".into(),
        };
        assert_eq!(
            serde_json::to_string(&entry).unwrap(),
            r#"{"policy-id":"default_cpu"}"#
        );
    }
}
