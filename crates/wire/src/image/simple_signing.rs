//! What a signature of an image signs (containers-signature(5), "Signature Payload"), by GPG and by cosign alike.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::digest::Digest;
use super::{FormatError, bounded_json};

/// What somebody signed: this manifest is that image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payload {
    /// The digest of the manifest.
    pub manifest_digest: Digest,
    /// The image's name, as its signer wrote it.
    pub docker_reference: String,
    /// The program that signed, when it says so.
    pub creator: Option<String>,
    /// When it was signed, in seconds since 1970, when it says so.
    pub timestamp: Option<i64>,
}

impl Payload {
    /// Parses the payload of a signature that has been verified. Members that are not known are refused where
    /// containers-signature(5) says so: in `critical` and everything below it.
    ///
    /// # Errors
    /// [`FormatError`] when it is another document or of another type.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let document: Document = bounded_json(WHAT, bytes, MAX_PAYLOAD)?;
        let critical = document.critical;
        if !TYPES.contains(&critical.r#type.as_str()) {
            return Err(FormatError::invalid(
                WHAT,
                format!("its type is none of {}", TYPES.join(" and ")),
            ));
        }
        if critical.identity.docker_reference.is_empty() {
            return Err(FormatError::invalid(WHAT, "it names no image"));
        }
        let optional = document.optional.unwrap_or_default();
        Ok(Self {
            manifest_digest: critical.image.docker_manifest_digest,
            docker_reference: critical.identity.docker_reference,
            creator: optional
                .get("creator")
                .and_then(Value::as_str)
                .map(str::to_owned),
            timestamp: optional.get("timestamp").and_then(Value::as_i64),
        })
    }

    /// Writes the payload that cosign signs.
    pub fn to_cosign_json(&self) -> Vec<u8> {
        json!({
            "critical": {
                "identity": { "docker-reference": self.docker_reference },
                "image": { "docker-manifest-digest": self.manifest_digest },
                "type": COSIGN,
            },
            "optional": { "creator": self.creator, "timestamp": self.timestamp },
        })
        .to_string()
        .into_bytes()
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Document {
    critical: Critical,
    optional: Option<Map<String, Value>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    r#type: String,
    image: Image,
    identity: Identity,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    docker_manifest_digest: Digest,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}

const WHAT: &str = "signature's payload";
const COSIGN: &str = "cosign container image signature";
const TYPES: [&str; 2] = ["atomic container signature", COSIGN];
const MAX_PAYLOAD: usize = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"critical":{"identity":{"docker-reference":"quay.io/a/b:c"},"image":{"docker-manifest-digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},"type":"atomic container signature"},"optional":{"creator":"x","timestamp":7}}"#;

    #[test]
    fn payload_round_trips() {
        let payload = Payload::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(payload.docker_reference, "quay.io/a/b:c");
        assert_eq!(
            (payload.creator.as_deref(), payload.timestamp),
            (Some("x"), Some(7))
        );
        assert_eq!(Payload::parse(&payload.to_cosign_json()).unwrap(), payload);
    }

    #[test]
    fn payload_of_another_type_or_with_unknown_critical_members_is_refused() {
        for (from, to) in [
            ("atomic container signature", "another signature"),
            ("\"type\"", "\"more\":1,\"type\""),
            ("\"optional\"", "\"also\""),
            ("quay.io/a/b:c", ""),
            ("sha256:ba", "sha256:b"),
            (
                "\"type\":\"atomic container signature\"",
                "\"type\":\"atomic container signature\",\"type\":\"x\"",
            ),
        ] {
            let changed = GOOD.replace(from, to);
            assert_ne!(changed, GOOD);
            assert!(Payload::parse(changed.as_bytes()).is_err(), "{changed}");
        }
        assert!(Payload::parse(&vec![b' '; MAX_PAYLOAD + 1]).is_err());
    }

    #[test]
    fn payload_may_say_nothing_optional() {
        for optional in [",\"optional\":null", ",\"optional\":{}", ""] {
            let text = GOOD.replace(r#","optional":{"creator":"x","timestamp":7}"#, optional);
            assert_eq!(
                Payload::parse(text.as_bytes()).unwrap().creator,
                None,
                "{text}"
            );
        }
    }
}
