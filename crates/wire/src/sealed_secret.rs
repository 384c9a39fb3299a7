//! Sealed secrets: a signed pointer to a secret that a Kubernetes Secret can hold in the open.
//!
//! `sealed.` followed by a JWS in compact form (RFC 7515): the header `{"b64":true,"alg":"ES256","kid":…}`, a
//! payload that says where the secret is (`vault`) or carries it wrapped (`envelope`), and an ES256 signature. The
//! key id is what the secret says of itself; the caller must fetch that key from a broker it trusts.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::b64;

/// What every sealed secret starts with.
pub const PREFIX: &str = "sealed.";

const MAX_SEALED: usize = 1024 * 1024;
const MAX_JWK: usize = 16 * 1024;
const VERSION: &str = "0.1.0";

/// Whether a value is meant to be a sealed secret, so that it must unseal or fail.
///
/// That includes `sealed.` behind white space, quotes or a byte order mark, which does not parse: an application must
/// not start with the sealed text as its password because a manifest was indented or quoted once too often.
pub fn is_sealed(value: &[u8]) -> bool {
    value.starts_with(PREFIX.as_bytes()) || is_preceded(value)
}

fn is_preceded(value: &[u8]) -> bool {
    let text = match std::str::from_utf8(value) {
        Ok(text) => text,
        Err(error) => value
            .get(..error.valid_up_to())
            .and_then(|start| std::str::from_utf8(start).ok())
            .unwrap_or_default(),
    };
    let bare = text.trim_start_matches(|c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(
                c,
                '"' | '\'' | '`' | '\u{2018}'..='\u{201f}' | '\u{feff}' | '\u{200b}'..='\u{200f}'
            )
    });
    bare.len() < text.len() && bare.starts_with(PREFIX)
}

/// A sealed secret whose signature has not been checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnverifiedSealedSecret {
    signing_input: String,
    kid: String,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl UnverifiedSealedSecret {
    /// Parses the text, white space at its end aside (a terminal's `\r`, a file's newline).
    ///
    /// # Errors
    /// [`SealedSecretError`] when the text is not `sealed.` with a JWS in three parts, or is not signed with ES256.
    pub fn parse(text: &str) -> Result<Self, SealedSecretError> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            kid: String,
            #[serde(default)]
            b64: Option<bool>,
            #[serde(default)]
            crit: Option<Vec<String>>,
        }
        let (header, payload, signature) = parts(text)?;
        if header == "fakejwsheader" {
            return Err(SealedSecretError::Unsigned);
        }
        let parsed: Header = serde_json::from_slice(&decode("header", header)?)
            .map_err(|_| SealedSecretError::Header)?;
        if parsed.alg != "ES256" {
            return Err(SealedSecretError::Algorithm(
                parsed.alg.chars().take(32).collect(),
            ));
        }
        // RFC 7797: b64=false would change what is signed; RFC 7515, 4.1.11: nothing critical is understood.
        if parsed.b64 == Some(false)
            || parsed
                .crit
                .is_some_and(|crit| crit.iter().any(|name| name != "b64"))
        {
            return Err(SealedSecretError::Header);
        }
        Ok(Self {
            signing_input: format!("{header}.{payload}"),
            kid: parsed.kid,
            payload: decode("payload", payload)?,
            signature: decode("signature", signature)?,
        })
    }

    /// The key that the secret claims to be signed with: a `kbs:` URI or a name.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Checks the signature and reads the payload.
    ///
    /// # Errors
    /// [`SealedSecretError::Signature`] when the text was changed or another key signed it;
    /// [`SealedSecretError::Payload`] when the signed payload is none of the known types.
    pub fn verify(&self, key: &VerifyingJwk) -> Result<SealedSecret, SealedSecretError> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point)
            .verify(self.signing_input.as_bytes(), &self.signature)
            .map_err(|_| SealedSecretError::Signature)?;
        SealedSecret::from_json(&self.payload)
    }
}

/// The three parts behind the prefix.
fn parts(text: &str) -> Result<(&str, &str, &str), SealedSecretError> {
    if text.len() > MAX_SEALED {
        return Err(SealedSecretError::TooLong);
    }
    if is_preceded(text.as_bytes()) {
        return Err(SealedSecretError::Preceded);
    }
    let jws = text
        .trim_end()
        .strip_prefix(PREFIX)
        .ok_or(SealedSecretError::NotSealed)?;
    let mut parts = jws.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => Ok((header, payload, signature)),
        _ => Err(SealedSecretError::Parts(jws.split('.').count())),
    }
}

fn decode(name: &'static str, part: &str) -> Result<Vec<u8>, SealedSecretError> {
    if part.ends_with('=') {
        Err(SealedSecretError::Padding(name))
    } else {
        b64::url_decode(part).map_err(|_| SealedSecretError::Encoding(name))
    }
}

/// What a sealed secret says, its signature checked or about to be made.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SealedSecret {
    version: String,
    /// Where the secret is.
    #[serde(flatten)]
    pub content: Content,
}

impl SealedSecret {
    /// Points to a resource of a broker.
    pub fn vault(resource_uri: &str) -> Self {
        Self::new(Content::Vault(VaultSecret {
            name: resource_uri.to_owned(),
            provider: "kbs".to_owned(),
            provider_settings: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }))
    }

    pub(crate) fn new(content: Content) -> Self {
        Self {
            version: VERSION.to_owned(),
            content,
        }
    }

    /// Reads a sealed secret as upstream does when its verification is switched off: header and signature are not
    /// looked at, so that anybody could have written it. The legacy form `sealed.fakejwsheader.….fakesignature` is
    /// read in this way only.
    ///
    /// # Errors
    /// As [`UnverifiedSealedSecret::parse`] for the parts, and as [`Self::from_json`].
    pub fn insecure_parse_unverified(text: &str) -> Result<Self, SealedSecretError> {
        let (_, payload, _) = parts(text)?;
        Self::from_json(&decode("payload", payload)?)
    }

    /// Reads the payload document.
    ///
    /// # Errors
    /// [`SealedSecretError::Payload`] or [`SealedSecretError::Version`].
    pub fn from_json(payload: &[u8]) -> Result<Self, SealedSecretError> {
        let secret: Self = serde_json::from_slice(payload)
            .map_err(|error| SealedSecretError::Payload(error.to_string()))?;
        if secret.version == VERSION {
            Ok(secret)
        } else {
            Err(SealedSecretError::Version(
                secret.version.chars().take(32).collect(),
            ))
        }
    }
}

/// The two types of sealed secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Content {
    /// The secret lies elsewhere; this names it.
    Vault(VaultSecret),
    /// The secret is inside, wrapped by a key that lies elsewhere.
    Envelope(EnvelopeSecret),
}

/// A pointer to a secret.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VaultSecret {
    /// The secret's name at its provider; for `kbs`, a resource URI.
    pub name: String,
    /// Who holds the secret.
    pub provider: String,
    /// Settings of that provider; empty for `kbs`.
    pub provider_settings: BTreeMap<String, Value>,
    /// Annotations for that provider; empty for `kbs`.
    pub annotations: BTreeMap<String, Value>,
}

/// A wrapped secret. Its members are kept as text; [`crate::envelope`] opens those whose key a broker holds.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EnvelopeSecret {
    /// The wrapping key's name at its provider.
    pub key_id: String,
    /// The wrapped data key, standard base64.
    pub encrypted_key: String,
    /// The encrypted secret, standard base64.
    pub encrypted_data: String,
    /// `A256GCM` or `A256CTR`.
    pub wrap_type: String,
    /// The initialisation vector, standard base64.
    pub iv: String,
    /// Who holds the wrapping key.
    pub provider: String,
    /// Settings of that provider.
    pub provider_settings: BTreeMap<String, Value>,
    /// Annotations for that provider.
    pub annotations: BTreeMap<String, Value>,
}

/// Signs a secret's payload.
///
/// # Errors
/// [`SealedSecretError::Crypto`] when the system has no randomness.
pub fn seal(
    secret: &SealedSecret,
    key: &SigningJwk,
    kid: &str,
) -> Result<String, SealedSecretError> {
    #[derive(Serialize)]
    struct Header<'a> {
        b64: bool,
        alg: &'a str,
        kid: &'a str,
    }
    let header = serde_json::to_vec(&Header {
        b64: true,
        alg: "ES256",
        kid,
    })
    .map_err(|_| SealedSecretError::Crypto)?;
    let payload = serde_json::to_vec(secret).map_err(|_| SealedSecretError::Crypto)?;
    let signing_input = format!("{}.{}", b64::url_encode(header), b64::url_encode(payload));
    let signature = key
        .pair
        .sign(&SystemRandom::new(), signing_input.as_bytes())
        .map_err(|_| SealedSecretError::Crypto)?;
    Ok(format!(
        "{PREFIX}{signing_input}.{}",
        b64::url_encode(signature)
    ))
}

/// A private P-256 key that signs sealed secrets. It has no `Debug`, `Display` or `Serialize`.
pub struct SigningJwk {
    pair: EcdsaKeyPair,
    scalar: Zeroizing<Vec<u8>>,
}

impl SigningJwk {
    /// Makes a fresh key.
    ///
    /// # Errors
    /// [`SealedSecretError::Crypto`] when the system has no randomness.
    pub fn generate() -> Result<Self, SealedSecretError> {
        use aws_lc_rs::encoding::{AsBigEndian, EcPrivateKeyBin};
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| SealedSecretError::Crypto)?;
        let scalar: EcPrivateKeyBin<'_> = pair
            .private_key()
            .as_be_bytes()
            .map_err(|_| SealedSecretError::Crypto)?;
        let scalar = Zeroizing::new(scalar.as_ref().to_vec());
        Ok(Self { pair, scalar })
    }

    /// Reads a private JWK.
    ///
    /// # Errors
    /// [`SealedSecretError::Key`] when it is not a P-256 key with a `d`.
    pub fn from_json(json: &[u8]) -> Result<Self, SealedSecretError> {
        #[derive(Deserialize)]
        struct Private {
            d: Zeroizing<String>,
        }
        let public = VerifyingJwk::from_json(json)?;
        let private: Private = serde_json::from_slice(json)
            .map_err(|_| SealedSecretError::Key("it has no private member d"))?;
        let scalar = Zeroizing::new(
            b64::url_decode(&private.d)
                .map_err(|_| SealedSecretError::Key("d is not base64url"))?,
        );
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &scalar,
            &public.point,
        )
        .map_err(|_| SealedSecretError::Key("d does not belong to x and y"))?;
        Ok(Self { pair, scalar })
    }

    /// Prints the private JWK, with `kid` as its name.
    pub fn to_json(&self, kid: &str) -> Zeroizing<String> {
        let mut jwk = self.public_jwk(kid);
        jwk["d"] = b64::url_encode(&self.scalar).into();
        Zeroizing::new(jwk.to_string())
    }

    /// Prints the public JWK, which verifies what this key signs.
    pub fn public_json(&self, kid: &str) -> String {
        self.public_jwk(kid).to_string()
    }

    fn public_jwk(&self, kid: &str) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (
            point.get(1..33).unwrap_or_default(),
            point.get(33..65).unwrap_or_default(),
        );
        serde_json::json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid,
            "x": b64::url_encode(x), "y": b64::url_encode(y),
        })
    }
}

/// A public P-256 key that verifies sealed secrets. Its `kid` is not compared with anything: real ones differ from the
/// header's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifyingJwk {
    point: Vec<u8>,
}

impl VerifyingJwk {
    /// Reads a public JWK, or the public half of a private one.
    ///
    /// # Errors
    /// [`SealedSecretError::Key`] when it is not an EC key on P-256, or says that it is for something else than ES256
    /// signatures (RFC 7517, 4.2 and 4.4), as a key for encryption does.
    pub fn from_json(json: &[u8]) -> Result<Self, SealedSecretError> {
        #[derive(Deserialize)]
        struct Jwk {
            kty: String,
            crv: String,
            x: String,
            y: String,
            alg: Option<String>,
            r#use: Option<String>,
        }
        if json.len() > MAX_JWK {
            return Err(SealedSecretError::Key("it is longer than 16 KiB"));
        }
        let jwk: Jwk = serde_json::from_slice(json)
            .map_err(|_| SealedSecretError::Key("it is not the JSON of an EC key"))?;
        if jwk.kty != "EC" || jwk.crv != "P-256" {
            return Err(SealedSecretError::Key("it is not an EC key on P-256"));
        }
        if jwk.r#use.is_some_and(|r#use| r#use != "sig") {
            return Err(SealedSecretError::Key(
                "its use is not \"sig\": it is not for signatures",
            ));
        }
        if jwk.alg.is_some_and(|alg| alg != "ES256") {
            return Err(SealedSecretError::Key(
                "its alg is not ES256: it is for something else, such as encryption",
            ));
        }
        let coordinate = |text: &str| match b64::url_decode(text) {
            Ok(bytes) if bytes.len() == 32 => Ok(bytes),
            _ => Err(SealedSecretError::Key(
                "x or y is not base64url of 32 bytes",
            )),
        };
        Ok(Self {
            point: [vec![4], coordinate(&jwk.x)?, coordinate(&jwk.y)?].concat(),
        })
    }
}

/// Why a sealed secret is not believed. Texts carry no secret and no payload.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SealedSecretError {
    /// Signed with another algorithm.
    #[error("sealed secret is signed with {0:?}; only ES256 is accepted")]
    Algorithm(String),
    /// Encrypted without an integrity check.
    #[error(
        "the sealed secret's envelope is of A256CTR, which has no integrity check: seal it again as A256GCM \
         (`strongroom seal envelope`), or allow it with --insecure-unauthenticated-envelope"
    )]
    CounterMode,
    /// The cryptographic library failed where no input can be at fault.
    #[error("the cryptographic library failed")]
    Crypto,
    /// A part is not base64url.
    #[error("sealed secret: the {0} is not base64url")]
    Encoding(&'static str),
    /// A member of an envelope.
    #[error("the sealed secret's envelope: {0}")]
    Envelope(&'static str),
    /// The header is not the expected JSON.
    #[error(
        "sealed secret: the header is not JSON with alg and kid, or asks for something critical that is not understood"
    )]
    Header,
    /// The key is not usable.
    #[error("the signing key of the sealed secret is not usable: {0}")]
    Key(&'static str),
    /// The text does not start with `sealed.`.
    #[error("this is no sealed secret: it does not start with \"sealed.\"")]
    NotSealed,
    /// A part ends in `=`.
    #[error(
        "sealed secret: the {0} is padded with '='; seal it again with a current tool, which writes base64url without padding"
    )]
    Padding(&'static str),
    /// Not three parts.
    #[error(
        "sealed secret has {0} parts after \"sealed.\" where three are expected (header.payload.signature)"
    )]
    Parts(usize),
    /// The payload is not one of the known types.
    #[error("sealed secret: the signed payload is not a vault or envelope secret: {0}")]
    Payload(String),
    /// Something that does not show stands before it.
    #[error(
        "white space, a quotation mark or a byte order mark stands before \"sealed.\"; remove it, or nothing would unseal the value"
    )]
    Preceded,
    /// The signature does not verify.
    #[error(
        "the signature of the sealed secret does not verify: the text was changed, or another key signed it"
    )]
    Signature,
    /// Longer than 1 MiB.
    #[error("sealed secret is longer than 1 MiB")]
    TooLong,
    /// The legacy form with a fake signature.
    #[error(
        "sealed secret is of the old unsigned form (fakejwsheader), which anybody could have written; seal it again with a signing key"
    )]
    Unsigned,
    /// The envelope does not open.
    #[error(
        "the sealed secret's envelope does not open with the key that it names: that key was replaced since, or the envelope was changed"
    )]
    Unwrap,
    /// Another version.
    #[error("sealed secret has version {0:?}; only \"0.1.0\" is known")]
    Version(String),
    /// The key of an envelope has a wrong length.
    #[error(
        "the key that wraps an envelope has {0} bytes, not 32 raw ones: make it with `strongroom keygen`"
    )]
    WrappingKey(usize),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const URI: &str = "kbs:///default/fraud-dataset/dataset_key";

    fn sealed() -> (String, VerifyingJwk) {
        let key = SigningJwk::generate().unwrap();
        let text = seal(
            &SealedSecret::vault(URI),
            &key,
            "kbs:///default/signing-key/sealed",
        )
        .unwrap();
        (
            text,
            VerifyingJwk::from_json(key.public_json("k").as_bytes()).unwrap(),
        )
    }

    #[test]
    fn header_and_payload_print_in_upstream_order() {
        let (text, _) = sealed();
        let part = |i: usize| {
            String::from_utf8(b64::url_decode(text.split('.').nth(i).unwrap()).unwrap()).unwrap()
        };
        assert_eq!(
            part(1),
            r#"{"b64":true,"alg":"ES256","kid":"kbs:///default/signing-key/sealed"}"#
        );
        assert_eq!(
            part(2),
            format!(
                r#"{{"version":"0.1.0","type":"vault","name":"{URI}","provider":"kbs","provider_settings":{{}},"annotations":{{}}}}"#
            )
        );
    }

    #[test]
    fn what_upstream_sealed_verifies() {
        let (Some(text), Some(jwk)) = (
            crate::fixtures::read("recorded/sealed-dataset-key.txt"),
            crate::fixtures::read("recorded/sealed-signing-public.jwk.json"),
        ) else {
            return;
        };
        let parsed = UnverifiedSealedSecret::parse(std::str::from_utf8(&text).unwrap()).unwrap();
        let secret = parsed
            .verify(&VerifyingJwk::from_json(&jwk).unwrap())
            .unwrap();
        assert_eq!(secret, SealedSecret::vault(URI));
    }

    #[test]
    fn precreated_secrets_of_kata_verify_with_a_key_of_another_kid() {
        let (Some(expected), Some(jwk)) = (
            crate::fixtures::json("guest/sealed-secrets/expected.json"),
            crate::fixtures::read("guest/sealed-secrets/kata-signing-public.jwk.json"),
        ) else {
            return;
        };
        let key = VerifyingJwk::from_json(&jwk).unwrap();
        for (file, want) in expected.as_object().unwrap() {
            let text = crate::fixtures::read(&format!("guest/sealed-secrets/{file}")).unwrap();
            let parsed =
                UnverifiedSealedSecret::parse(std::str::from_utf8(&text).unwrap()).unwrap();
            assert_eq!(parsed.kid(), want["header"]["kid"]);
            assert_eq!(
                serde_json::to_value(parsed.verify(&key).unwrap()).unwrap(),
                want["payload"]
            );
        }
    }

    #[test]
    fn upstream_payload_documents_round_trip() {
        for file in ["vault-1", "vault-2", "envelope-1"] {
            let path = format!(
                "guest/guest-components/confidential-data-hub/hub/src/secret/tests/{file}.json"
            );
            let Some(json) = crate::fixtures::read(&path) else {
                return;
            };
            let secret = SealedSecret::from_json(&json).unwrap();
            assert_eq!(
                serde_json::to_value(&secret).unwrap(),
                serde_json::from_slice::<Value>(&json).unwrap()
            );
        }
    }

    #[test]
    fn key_that_did_not_seal_upstreams_document_opens_it() {
        let folder = "guest/guest-components/confidential-data-hub/hub/src/secret/tests";
        let Some(vault) = crate::fixtures::read(&format!("{folder}/vault-1.json")) else {
            return;
        };
        let secret = SealedSecret::from_json(&vault).unwrap();
        let (key, other) = (SigningJwk::generate(), SigningJwk::generate());
        let (key, other) = (key.unwrap(), other.unwrap());
        let text = seal(&secret, &key, "k").unwrap();
        let parsed = UnverifiedSealedSecret::parse(&text).unwrap();
        let verified = |key: &SigningJwk| {
            let public = key.public_json("k");
            parsed.verify(&VerifyingJwk::from_json(public.as_bytes()).unwrap())
        };
        assert_eq!(verified(&key), Ok(secret));
        assert_eq!(verified(&other), Err(SealedSecretError::Signature));
    }

    #[test]
    fn every_changed_character_is_refused() {
        let (text, key) = sealed();
        for at in PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let outcome = UnverifiedSealedSecret::parse(&changed).and_then(|s| s.verify(&key));
            assert!(outcome.is_err(), "character {at}");
        }
    }

    #[test]
    fn another_key_is_refused() {
        let (text, _) = sealed();
        let (_, other) = sealed();
        assert_eq!(
            UnverifiedSealedSecret::parse(&text).unwrap().verify(&other),
            Err(SealedSecretError::Signature)
        );
    }

    #[test]
    fn trailing_newline_and_carriage_return_are_tolerated() {
        let (text, key) = sealed();
        assert!(
            UnverifiedSealedSecret::parse(&format!("{text}\r\n"))
                .unwrap()
                .verify(&key)
                .is_ok()
        );
    }

    #[test]
    fn unsigned_legacy_form_is_refused() {
        let text = format!(
            "sealed.fakejwsheader.{}.fakesignature",
            b64::url_encode("{}")
        );
        assert_eq!(
            UnverifiedSealedSecret::parse(&text),
            Err(SealedSecretError::Unsigned)
        );
    }

    #[test]
    fn sealed_text_behind_what_does_not_show_must_unseal_or_fail() {
        let (text, _) = sealed();
        for before in [
            "\n", " ", "\t\r\n", "\"", "'", "\u{feff}", " \"", "\u{201c}", "\u{a0}",
        ] {
            let value = format!("{before}{text}");
            assert!(is_sealed(value.as_bytes()), "{before:?}");
            assert_eq!(
                UnverifiedSealedSecret::parse(&value),
                Err(SealedSecretError::Preceded),
                "{before:?}"
            );
        }
        assert!(is_sealed(b"\"sealed.\xff"));
    }

    #[test]
    fn value_that_only_mentions_the_prefix_is_not_sealed() {
        for value in [
            "a sealed.x",
            "unsealed.x",
            "{\"sealed.\":1}",
            "",
            " ",
            "\"a\"",
        ] {
            assert!(!is_sealed(value.as_bytes()), "{value:?}");
        }
    }

    #[test]
    fn key_for_encryption_is_no_signing_key() {
        let key = SigningJwk::generate().unwrap().public_json("k");
        let with = |name: &str, value: Option<&str>| {
            let mut jwk: Value = serde_json::from_str(&key).unwrap();
            match value {
                Some(value) => jwk[name] = value.into(),
                None => drop(jwk.as_object_mut().unwrap().remove(name)),
            }
            VerifyingJwk::from_json(jwk.to_string().as_bytes())
        };
        assert!(with("alg", Some("ECDH-ES+A256KW")).is_err());
        assert!(with("use", Some("enc")).is_err());
        assert!(with("alg", None).is_ok() && with("use", None).is_ok());
    }

    #[test]
    fn recipients_key_is_no_signing_key() {
        let key = crate::jwe::DecryptionKey::generate(crate::jwe::KeyAlgorithm::EcdhP256).unwrap();
        let jwk = serde_json::to_vec(key.public()).unwrap();
        assert!(matches!(
            VerifyingJwk::from_json(&jwk),
            Err(SealedSecretError::Key(_))
        ));
    }

    #[test]
    fn unsigned_secrets_of_cococtl_are_refused() {
        let path = "guest/cococtl/pod-with-env-secret-trustee-secrets.json";
        let Some(pod) = crate::fixtures::json(path) else {
            return;
        };
        let secrets = pod["secrets"].as_array().unwrap();
        assert_eq!(secrets.len(), 2);
        for secret in secrets {
            let text = secret["sealedSecret"].as_str().unwrap();
            assert!(is_sealed(text.as_bytes()));
            assert_eq!(
                UnverifiedSealedSecret::parse(text),
                Err(SealedSecretError::Unsigned)
            );
        }
    }

    #[test]
    fn unsigned_secrets_of_cococtl_are_read_when_that_is_asked_for_by_name() {
        let path = "guest/cococtl/pod-with-env-secret-trustee-secrets.json";
        let Some(pod) = crate::fixtures::json(path) else {
            return;
        };
        for secret in pod["secrets"].as_array().unwrap() {
            let text = format!("{}\r\n", secret["sealedSecret"].as_str().unwrap());
            let read = SealedSecret::insecure_parse_unverified(&text).unwrap();
            let uri = secret["resourceUri"].as_str().unwrap();
            assert_eq!(read, SealedSecret::vault(uri));
        }
    }

    #[test]
    fn unverified_reading_takes_what_is_no_sealed_secret() {
        let (text, _) = sealed();
        assert!(SealedSecret::insecure_parse_unverified(&text).is_ok());
        let payload = text.split('.').nth(2).unwrap();
        for (bad, error) in [
            (format!("sealed.{payload}"), SealedSecretError::Parts(1)),
            (
                format!("sealed.h.{payload}==.s"),
                SealedSecretError::Padding("payload"),
            ),
            (format!(" {text}"), SealedSecretError::Preceded),
            ("x".to_owned(), SealedSecretError::NotSealed),
        ] {
            assert_eq!(SealedSecret::insecure_parse_unverified(&bad), Err(error));
        }
    }

    #[test]
    fn padding_is_explained() {
        let (text, _) = sealed();
        let header = text.split('.').nth(1).unwrap();
        let padded = format!("sealed.{header}.e30=.AAAA");
        assert_eq!(
            UnverifiedSealedSecret::parse(&padded),
            Err(SealedSecretError::Padding("payload"))
        );
    }

    #[test]
    fn none_and_hs256_are_refused() {
        for alg in ["none", "HS256", "es256"] {
            let header = b64::url_encode(format!(r#"{{"alg":"{alg}","kid":"k"}}"#));
            assert_eq!(
                UnverifiedSealedSecret::parse(&format!("sealed.{header}.e30.AAAA")),
                Err(SealedSecretError::Algorithm(alg.to_owned()))
            );
        }
    }

    #[test]
    fn other_version_and_unknown_type_are_refused() {
        let vault = serde_json::to_string(&SealedSecret::vault(URI)).unwrap();
        assert_eq!(
            SealedSecret::from_json(vault.replace("0.1.0", "0.2.0").as_bytes()),
            Err(SealedSecretError::Version("0.2.0".to_owned()))
        );
        assert!(matches!(
            SealedSecret::from_json(vault.replace("vault", "safe").as_bytes()),
            Err(SealedSecretError::Payload(_))
        ));
    }

    #[test]
    fn private_key_round_trips_and_a_foreign_d_is_refused() {
        let key = SigningJwk::generate().unwrap();
        let json = key.to_json("k");
        assert_eq!(
            SigningJwk::from_json(json.as_bytes())
                .unwrap()
                .public_json("k"),
            key.public_json("k")
        );
        let mut mixed: Value = serde_json::from_str(&json).unwrap();
        let other: Value =
            serde_json::from_str(&SigningJwk::generate().unwrap().to_json("k")).unwrap();
        mixed["d"] = other["d"].clone();
        assert!(SigningJwk::from_json(mixed.to_string().as_bytes()).is_err());
    }
}
