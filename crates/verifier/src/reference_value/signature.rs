//! Who signed a register message: `"signature": {"kid", "jws"}`, a detached JWS (RFC 7515, appendix F) by ES256 or
//! `EdDSA` over the canonical JSON (RFC 8785) of `{version, type, payload, expires}`.
//!
//! A key's id is the SHA-256 of its `SubjectPublicKeyInfo` in hex. A signed message must have an end: without one it
//! could be sent again when its values are no longer good.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ED25519, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use const_oid::ObjectIdentifier;
use der::Decode as _;
use serde::Deserialize;
use serde_json::json;
use strongroom_wire::canonical::to_jcs;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::{Message, ReferenceValue, ReferenceValueError, malformed, shorten};

/// Whose signature a register message must carry. Without any signer none is demanded.
#[derive(Clone, Debug, Default)]
pub struct Signers(Vec<Signer>);

#[derive(Clone, Debug)]
struct Signer {
    kid: String,
    algorithm: Algorithm,
    /// The bits of the key.
    key: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Algorithm {
    Es256,
    EdDsa,
}

impl Signers {
    /// Nobody: messages need no signature, and one that has one names a signer who is not known.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds the P-256 or Ed25519 public key of a PEM text, and returns its id.
    ///
    /// # Errors
    /// [`SignerError`] when the text is not exactly one such key, or the key is there already.
    pub fn add_pem(&mut self, pem: &str) -> Result<&str, SignerError> {
        let blocks = pem::parse_many(pem).map_err(|e| SignerError(e.to_string()))?;
        let [block] = blocks.as_slice() else {
            return Err(SignerError(format!(
                "{} PEM blocks, wanted one",
                blocks.len()
            )));
        };
        if block.tag() != "PUBLIC KEY" {
            return Err(SignerError(format!(
                "a PEM block {:?} where a PUBLIC KEY should be",
                shorten(block.tag())
            )));
        }
        let signer = Signer::from_spki(block.contents())?;
        if self.0.iter().any(|known| known.kid == signer.kid) {
            return Err(SignerError(format!(
                "the key {} is there twice",
                signer.kid
            )));
        }
        self.0.push(signer);
        Ok(self.0.last().map_or("", |signer| signer.kid.as_str()))
    }

    /// Whether no signature is demanded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a value that was taken before would be taken now: one that a signer here signed, or any where nobody
    /// must sign.
    pub fn vouch_for(&self, value: &ReferenceValue) -> bool {
        let signed_by = value.provenance.signer.as_ref();
        self.is_empty() || self.0.iter().any(|signer| Some(&signer.kid) == signed_by)
    }

    /// The id of the key that signed a message; `None` when it is not signed and need not be.
    pub(super) fn check(&self, message: &Message) -> Result<Option<String>, ReferenceValueError> {
        let Some(signature) = &message.signature else {
            return match self.is_empty() {
                true => Ok(None),
                false => Err(ReferenceValueError::Unsigned),
            };
        };
        let signer = self
            .0
            .iter()
            .find(|signer| signer.kid == signature.kid)
            .ok_or_else(|| ReferenceValueError::UnknownSigner {
                kid: shorten(&signature.kid),
            })?;
        let expires = message.expires.ok_or(ReferenceValueError::NoExpiry)?;
        let signed = to_jcs(&json!({
            "version": message.version,
            "type": message.r#type,
            "payload": message.payload,
            "expires": expires,
        }))
        .map_err(malformed)?;
        signer
            .verify(&signature.jws, &signed)
            .map_err(|why| ReferenceValueError::Signature {
                kid: signer.kid.clone(),
                why,
            })?;
        Ok(Some(signer.kid.clone()))
    }
}

impl Signer {
    fn from_spki(der: &[u8]) -> Result<Self, SignerError> {
        let wrong = || SignerError("no P-256 or Ed25519 public key".to_owned());
        let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| wrong())?;
        let curve = spki
            .algorithm
            .parameters
            .and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
        let key = spki.subject_public_key.as_bytes().ok_or_else(wrong)?;
        let algorithm = match (spki.algorithm.oid, curve, key.len()) {
            (EC, Some(P256), 65) => Algorithm::Es256,
            (OID_ED25519, None, 32) => Algorithm::EdDsa,
            _ => return Err(wrong()),
        };
        Ok(Self {
            kid: hex::encode(digest::digest(&digest::SHA256, der)),
            algorithm,
            key: key.to_vec(),
        })
    }

    /// RFC 7515, 5.2, for a payload that is not in the text.
    fn verify(&self, jws: &str, payload: &[u8]) -> Result<(), &'static str> {
        let mut parts = jws.split('.');
        let (Some(header), Some(""), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("it is no detached JWS");
        };
        let decode = |text: &str| {
            URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| "a part of it is not base64url")
        };
        let decoded: Header = serde_json::from_slice(&decode(header)?)
            .map_err(|_| "its header has not just alg, and perhaps kid and typ")?;
        if decoded.alg != self.algorithm.name() {
            return Err("its algorithm is not the key's");
        }
        if decoded.kid.is_some_and(|kid| kid != self.kid) {
            return Err("its header names another key");
        }
        let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
        self.algorithm
            .verification()
            .verify_sig(&self.key, input.as_bytes(), &decode(signature)?)
            .map_err(|_| "it does not verify")
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::EdDsa => &ED25519,
        }
    }
}

/// The member `signature` of a message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signature {
    kid: String,
    jws: String,
}

/// A JWS header. One that demands more, as `crit` and `b64` do, is refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "typ")]
    _typ: Option<String>,
}

/// Why a text is no signer's key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no signer of reference values: {0}")]
pub struct SignerError(String);

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const OID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use rcgen::{PublicKeyData as _, SigningKey as _};
    use serde_json::Value;

    use super::*;
    use crate::ReferenceValues;

    const NOW: u64 = 1_000;

    fn keys() -> [(KeyPair, &'static str); 2] {
        [
            (
                KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
                "ES256",
            ),
            (KeyPair::generate_for(&PKCS_ED25519).unwrap(), "EdDSA"),
        ]
    }

    fn signers(key: &KeyPair) -> (Signers, String) {
        let mut signers = Signers::none();
        let kid = signers.add_pem(&key.public_key_pem()).unwrap().to_owned();
        (signers, kid)
    }

    fn unsigned() -> Value {
        json!({"version": "0.1.0", "type": "sample", "payload": STANDARD.encode("{\"svn\":[\"1\"]}"), "expires": 2_000})
    }

    fn jws(key: &KeyPair, header: &Value, message: &Value) -> String {
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        let payload = URL_SAFE_NO_PAD.encode(to_jcs(message).unwrap());
        let signature = key.sign(format!("{header}.{payload}").as_bytes()).unwrap();
        let signature = match header_algorithm(key) {
            "EdDSA" => signature,
            _ => fixed(&signature),
        };
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn header_algorithm(key: &KeyPair) -> &'static str {
        match key.algorithm() == &PKCS_ED25519 {
            true => "EdDSA",
            false => "ES256",
        }
    }

    /// The last 32 bytes of each of the two numbers.
    fn fixed(der: &[u8]) -> Vec<u8> {
        let all = crate::rim::forge::fixed(der);
        [&all[16..48], &all[64..96]].concat()
    }

    fn signed(key: &KeyPair, kid: &str) -> Value {
        let mut message = unsigned();
        let header = json!({"alg": header_algorithm(key), "kid": kid});
        message["signature"] = json!({"kid": kid, "jws": jws(key, &header, &unsigned())});
        message
    }

    fn parse(message: &Value, signers: &Signers) -> Result<ReferenceValues, ReferenceValueError> {
        ReferenceValues::parse_message(message.to_string().as_bytes(), NOW, signers)
    }

    #[test]
    fn signed_message_is_accepted_and_names_its_signer() {
        for (key, _) in keys() {
            let (signers, kid) = signers(&key);
            let values = parse(&signed(&key, &kid), &signers).unwrap();
            let (_, known) = values.iter().next().unwrap();
            assert_eq!(known.provenance.signer.as_deref(), Some(kid.as_str()));
            assert_eq!(known.expires, 2_000);
            assert_eq!(
                kid,
                hex::encode(digest::digest(
                    &digest::SHA256,
                    &key.subject_public_key_info()
                ))
            );
        }
    }

    #[test]
    fn unsigned_message_is_refused_where_there_are_signers() {
        let [(key, _), _] = keys();
        assert_eq!(
            parse(&unsigned(), &signers(&key).0),
            Err(ReferenceValueError::Unsigned)
        );
        parse(&unsigned(), &Signers::none()).unwrap();
    }

    #[test]
    fn key_that_is_no_signer_is_refused() {
        let [(key, _), (other, _)] = keys();
        let (_, kid) = signers(&key);
        for signers in [Signers::none(), signers(&other).0] {
            assert_eq!(
                parse(&signed(&key, &kid), &signers),
                Err(ReferenceValueError::UnknownSigner { kid: kid.clone() })
            );
        }
    }

    #[test]
    fn any_changed_member_is_refused() {
        for (key, _) in keys() {
            let (signers, kid) = signers(&key);
            for (member, value) in [
                ("payload", json!(STANDARD.encode("{\"svn\":[\"2\"]}"))),
                ("type", json!("swid")),
                ("expires", json!(2_001)),
            ] {
                let mut message = signed(&key, &kid);
                message[member] = value;
                assert!(
                    matches!(
                        parse(&message, &signers),
                        Err(ReferenceValueError::Signature {
                            why: "it does not verify",
                            ..
                        })
                    ),
                    "{member}"
                );
            }
        }
    }

    #[test]
    fn signature_with_any_character_changed_is_refused() {
        for (key, _) in keys() {
            let (signers, kid) = signers(&key);
            let message = signed(&key, &kid);
            let text = message["signature"]["jws"].as_str().unwrap().to_owned();
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                let mut changed = message.clone();
                changed["signature"]["jws"] = json!(String::from_utf8(bytes).unwrap());
                assert!(
                    matches!(
                        parse(&changed, &signers),
                        Err(ReferenceValueError::Signature { .. })
                    ),
                    "character {at}"
                );
            }
        }
    }

    #[test]
    fn signed_message_without_an_end_or_after_it_is_refused() {
        let [(key, alg), _] = keys();
        let (signers, kid) = signers(&key);
        let with = |expires: Option<u64>| {
            let mut message = unsigned();
            match expires {
                Some(expires) => message["expires"] = json!(expires),
                None => {
                    message.as_object_mut().unwrap().remove("expires");
                }
            }
            let text = jws(&key, &json!({"alg": alg}), &message);
            message["signature"] = json!({"kid": kid, "jws": text});
            parse(&message, &signers)
        };
        with(Some(NOW + 1)).unwrap();
        assert_eq!(with(None), Err(ReferenceValueError::NoExpiry));
        assert_eq!(
            with(Some(NOW)),
            Err(ReferenceValueError::Expired {
                expires: NOW,
                now: NOW
            })
        );
    }

    #[test]
    fn header_that_says_something_else_is_refused() {
        for (key, alg) in keys() {
            let (signers, kid) = signers(&key);
            for header in [
                json!({"alg": "none"}),
                json!({"alg": "HS256"}),
                json!({"alg": if alg == "EdDSA" { "ES256" } else { "EdDSA" }}),
                json!({"alg": alg, "kid": "another"}),
                json!({"alg": alg, "b64": false, "crit": ["b64"]}),
                json!({"alg": alg, "jwk": {}}),
                json!({"kid": kid}),
                json!([]),
            ] {
                let mut message = unsigned();
                let text = jws(&key, &header, &unsigned());
                message["signature"] = json!({"kid": kid, "jws": text});
                assert!(
                    matches!(
                        parse(&message, &signers),
                        Err(ReferenceValueError::Signature { .. })
                    ),
                    "{header}"
                );
            }
        }
    }

    #[test]
    fn signature_of_another_form_is_refused() {
        let [(key, _), _] = keys();
        let (signers, kid) = signers(&key);
        let good = signed(&key, &kid)["signature"]["jws"]
            .as_str()
            .unwrap()
            .to_owned();
        let attached = good.replacen("..", ".e30.", 1);
        for text in [
            "",
            ".",
            "..",
            "a.b",
            &attached,
            &format!("{good}."),
            &format!("{good}="),
            &good.replace("..", "."),
        ] {
            let mut message = unsigned();
            message["signature"] = json!({"kid": kid, "jws": text});
            assert!(
                matches!(
                    parse(&message, &signers),
                    Err(ReferenceValueError::Signature { .. })
                ),
                "{text}"
            );
        }
        for bad in [
            json!("text"),
            json!({"kid": kid}),
            json!({"jws": good}),
            json!({"kid": kid, "jws": good, "alg": "none"}),
        ] {
            let mut message = unsigned();
            message["signature"] = bad;
            assert!(matches!(
                parse(&message, &signers),
                Err(ReferenceValueError::Malformed(_))
            ));
        }
    }

    #[test]
    fn key_of_another_kind_is_no_signer() {
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let [(key, _), _] = keys();
        let pem = key.public_key_pem();
        for text in [
            "",
            "text",
            &p384.public_key_pem(),
            &key.serialize_pem(),
            &format!("{pem}{pem}"),
            "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n",
        ] {
            assert!(Signers::none().add_pem(text).is_err());
        }
        let mut signers = Signers::none();
        signers.add_pem(&pem).unwrap();
        assert!(
            signers
                .add_pem(&pem)
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
    }
}
