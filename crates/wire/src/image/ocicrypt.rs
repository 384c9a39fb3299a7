//! Annotations of an encrypted layer (ocicrypt; the `attestation-agent` key provider of Confidential Containers).
//!
//! A layer carries `org.opencontainers.image.enc.pubopts`, which says how it is encrypted, and for each key provider
//! an annotation with packets, base64 with commas between. A packet (version 1, or 2 that adds provider and version)
//! is the private options (`PLBCO`: key, nonce, digest of the plain layer) wrapped by a key that the broker holds.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::digest::Digest;
use super::{FormatError, bounded_json};
use crate::b64;

/// What says how a layer is encrypted.
pub const PUBLIC_OPTIONS: &str = "org.opencontainers.image.enc.pubopts";
/// What precedes the name of a key provider.
pub const PROVIDER_PREFIX: &str = "org.opencontainers.image.enc.keys.provider.";
/// The key provider of Confidential Containers.
pub const PROVIDER: &str = "org.opencontainers.image.enc.keys.provider.attestation-agent";

/// How a layer is encrypted, in the open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicOptions {
    /// HMAC-SHA256 of the ciphertext.
    pub hmac: [u8; 32],
}

impl PublicOptions {
    /// Parses the value of the annotation.
    ///
    /// # Errors
    /// [`FormatError`] when it is none, or names another cipher.
    pub fn parse(annotation: &str) -> Result<Self, FormatError> {
        let json = decode(annotation, "public options of a layer")?;
        let raw: RawPublicOptions = bounded_json("public options of a layer", &json, MAX_PACKET)?;
        if raw.cipher != CIPHER {
            return Err(FormatError::invalid(
                "public options of a layer",
                format!("the cipher must be {CIPHER}"),
            ));
        }
        let hmac = b64::std_decode(&raw.hmac)
            .ok()
            .and_then(|hmac| hmac.try_into().ok());
        let hmac = hmac.ok_or_else(|| {
            FormatError::invalid(
                "public options of a layer",
                "the hmac is not 32 bytes in base64",
            )
        })?;
        Ok(Self { hmac })
    }

    /// Writes the value of the annotation.
    pub fn to_annotation(&self) -> String {
        let json = serde_json::json!({
            "cipher": CIPHER,
            "hmac": b64::std_encode(self.hmac),
            "cipheroptions": {},
        });
        b64::std_encode(json.to_string())
    }
}

/// How a layer is encrypted, for whoever holds the key.
pub struct PrivateOptions {
    /// The key of cipher and MAC.
    pub key: Zeroizing<[u8; 32]>,
    /// Where the counter begins.
    pub nonce: [u8; 16],
    /// The digest of the layer before it was encrypted.
    pub digest: Digest,
}

impl fmt::Debug for PrivateOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateOptions")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl PrivateOptions {
    /// Parses what a packet protected.
    ///
    /// # Errors
    /// [`FormatError`] when a member is missing or of another length.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "private options of a layer";
        let raw: RawPrivateOptions = bounded_json(WHAT, json, MAX_PACKET)?;
        let symkey = Zeroizing::new(raw.symkey);
        let bytes = Zeroizing::new(b64::std_decode(&symkey).unwrap_or_default());
        let key: [u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| FormatError::invalid(WHAT, "the key is not 32 bytes in base64"))?;
        let nonce = b64::std_decode(&raw.cipheroptions.nonce)
            .ok()
            .and_then(|nonce| nonce.try_into().ok())
            .ok_or_else(|| FormatError::invalid(WHAT, "the nonce is not 16 bytes in base64"))?;
        Ok(Self {
            key: Zeroizing::new(key),
            nonce,
            digest: raw.digest,
        })
    }

    /// Writes what a packet is to protect.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let key = Zeroizing::new(b64::std_encode(self.key.as_ref()));
        Zeroizing::new(
            format!(
                r#"{{"symkey":"{}","digest":"{}","cipheroptions":{{"nonce":"{}"}}}}"#,
                *key,
                self.digest,
                b64::std_encode(self.nonce)
            )
            .into_bytes(),
        )
    }
}

/// Private options, wrapped by a key that a provider holds.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Packet {
    /// `0.1.0` in a packet of version 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which key unwraps it.
    pub kid: String,
    /// Who holds the key; `kbs` where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Settings of the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_settings: Option<Map<String, Value>>,
    /// What is wrapped, base64.
    pub wrapped_data: String,
    /// The nonce of the wrapping, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iv: Option<String>,
    /// The cipher of the wrapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrap_type: Option<String>,
    /// Notes for the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Map<String, Value>>,
}

impl Packet {
    /// Parses a packet of either version.
    ///
    /// # Errors
    /// [`FormatError`] when a member is missing, or the version is neither.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        let packet: Self = bounded_json(WHAT, json, MAX_PACKET)?;
        if packet
            .version
            .as_deref()
            .is_some_and(|version| version != VERSION)
        {
            return Err(FormatError::invalid(
                WHAT,
                format!("its version must be {VERSION}"),
            ));
        }
        Ok(packet)
    }

    /// Every packet of a layer, of any provider.
    ///
    /// # Errors
    /// [`FormatError`] when there is none, or one cannot be read.
    pub fn of_layer(annotations: &BTreeMap<String, String>) -> Result<Vec<Self>, FormatError> {
        let mut packets = Vec::new();
        let values = annotations
            .iter()
            .filter(|(name, _)| name.starts_with(PROVIDER_PREFIX))
            .flat_map(|(_, value)| value.split(','));
        for value in values {
            if packets.len() >= MAX_PACKETS {
                return Err(FormatError::invalid(
                    WHAT,
                    format!("there are more than {MAX_PACKETS} of them"),
                ));
            }
            packets.push(Self::parse(&decode(value, WHAT)?)?);
        }
        if packets.is_empty() {
            let other = annotations.keys().any(|name| name.starts_with(KEYS_PREFIX));
            return Err(FormatError::invalid(
                WHAT,
                match other {
                    true => {
                        "there is none: the layer is encrypted to a key file (jwe, pkcs7 or pgp), not to a key that \
                             a broker holds; encrypt it with `strongroom image encrypt`, or with the provider attestation-agent"
                    }
                    false => "there is none, so nothing says whose key opens the layer",
                },
            ));
        }
        Ok(packets)
    }

    /// Wraps private options in a packet of version 2.
    ///
    /// # Errors
    /// [`WrapError`] when the key is not 32 bytes.
    pub fn wrap(kid: &str, kek: &[u8], options: &PrivateOptions) -> Result<Self, WrapError> {
        let mut iv = [0; 12];
        aws_lc_rs::rand::fill(&mut iv).map_err(|_| WrapError::Random)?;
        let mut data = options.to_json();
        // Room for the tag, so that the plaintext is not left behind in a smaller piece of memory.
        let mut sealed = Zeroizing::new(Vec::with_capacity(data.len() + AES_256_GCM.tag_len()));
        sealed.append(&mut data);
        key(kek)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(iv), Aad::empty(), &mut *sealed)
            .map_err(|_| WrapError::Cipher)?;
        Ok(Self {
            version: Some(VERSION.to_owned()),
            kid: kid.to_owned(),
            provider: Some(KBS.to_owned()),
            provider_settings: Some(Map::new()),
            wrapped_data: b64::std_encode(&*sealed),
            iv: Some(b64::std_encode(iv)),
            wrap_type: Some(WRAP_TYPE.to_owned()),
            annotations: Some(Map::new()),
        })
    }

    /// Whether a broker of this protocol holds the key.
    pub fn is_for_kbs(&self) -> bool {
        self.provider
            .as_deref()
            .is_none_or(|provider| provider == KBS)
    }

    /// Unwraps the private options.
    ///
    /// # Errors
    /// As [`Self::open_with`], or [`WrapError::Options`] when something else was wrapped.
    pub fn unwrap_with(&self, kek: &[u8]) -> Result<PrivateOptions, WrapError> {
        Ok(PrivateOptions::parse(&self.open_with(kek)?)?)
    }

    /// Unwraps the bytes that were wrapped.
    ///
    /// # Errors
    /// [`WrapError`]: the key is not 32 bytes, the wrapping is another one, or the key is not the one that wrapped.
    pub fn open_with(&self, kek: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrapError> {
        if self.wrap_type.as_deref() != Some(WRAP_TYPE) {
            return Err(WrapError::Type);
        }
        let key = key(kek)?;
        let iv = b64::std_decode(self.iv.as_deref().unwrap_or_default())
            .map_err(|_| WrapError::Encoding)?;
        let nonce = Nonce::try_assume_unique_for_key(&iv).map_err(|_| WrapError::Encoding)?;
        let wrapped = b64::std_decode(&self.wrapped_data).map_err(|_| WrapError::Encoding)?;
        let mut data = Zeroizing::new(wrapped);
        let length = key
            .open_in_place(nonce, Aad::empty(), &mut data)
            .map_err(|_| WrapError::Opened)?
            .len();
        data.truncate(length);
        Ok(data)
    }

    /// Writes the value of the annotation.
    ///
    /// # Errors
    /// [`WrapError::Encoding`] when a member cannot be JSON.
    pub fn to_annotation(&self) -> Result<String, WrapError> {
        let json = serde_json::to_vec(self).map_err(|_| WrapError::Encoding)?;
        Ok(b64::std_encode(json))
    }
}

/// Why a packet cannot be wrapped or unwrapped.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WrapError {
    /// The key.
    #[error(
        "the key has {0} bytes, and a key that wraps layers has 32: store the bytes themselves, not their base64 or hex"
    )]
    KeyLength(usize),
    /// Another key, or another packet.
    #[error("the packet does not open: it was wrapped with another key, or has been changed")]
    Opened,
    /// The wrapping.
    #[error("the packet's wrap_type must be A256GCM")]
    Type,
    /// Base64 or a length.
    #[error("wrapped_data is not base64, or iv is not 12 bytes of it")]
    Encoding,
    /// What is wrapped.
    #[error(transparent)]
    Options(#[from] FormatError),
    /// The system.
    #[error("the system gives no random bytes")]
    Random,
    /// The cipher.
    #[error("the cipher failed")]
    Cipher,
}

fn key(kek: &[u8]) -> Result<LessSafeKey, WrapError> {
    UnboundKey::new(&AES_256_GCM, kek)
        .map(LessSafeKey::new)
        .map_err(|_| WrapError::KeyLength(kek.len()))
}

fn decode(annotation: &str, what: &'static str) -> Result<Vec<u8>, FormatError> {
    if annotation.len() > MAX_PACKET {
        return Err(FormatError::TooLong {
            what,
            limit: MAX_PACKET,
        });
    }
    b64::std_decode(annotation.trim()).map_err(|_| FormatError::invalid(what, "it is not base64"))
}

#[derive(Deserialize)]
struct RawPublicOptions {
    cipher: String,
    hmac: String,
}

#[derive(Deserialize)]
struct RawPrivateOptions {
    symkey: String,
    digest: Digest,
    cipheroptions: CipherOptions,
}

#[derive(Deserialize)]
struct CipherOptions {
    nonce: String,
}

const WHAT: &str = "annotation packet";
const KEYS_PREFIX: &str = "org.opencontainers.image.enc.keys.";
const CIPHER: &str = "AES_256_CTR_HMAC_SHA256";
const WRAP_TYPE: &str = "A256GCM";
const KBS: &str = "kbs";
const VERSION: &str = "0.1.0";
const MAX_PACKET: usize = 64 * 1024;
const MAX_PACKETS: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options() -> PrivateOptions {
        PrivateOptions {
            key: Zeroizing::new([1; 32]),
            nonce: [2; 16],
            digest: Digest::sha256(b"layer"),
        }
    }

    #[test]
    fn upstream_packet_of_version_1_opens() {
        let folder = "guest/guest-components/ocicrypt-rs/data/sample_kbc_annotation.json";
        let (Some(packet), Some(vector)) = (
            crate::fixtures::read(folder),
            crate::fixtures::json("guest/vectors/ocicrypt-unwrap.json"),
        ) else {
            return;
        };
        let kek = hex::decode(vector["kek_hex"].as_str().unwrap()).unwrap();
        let options = Packet::parse(&packet).unwrap().unwrap_with(&kek).unwrap();
        assert_eq!(
            options.to_json().as_slice(),
            hex::decode(vector["plaintext_hex"].as_str().unwrap()).unwrap()
        );
    }

    #[test]
    fn upstream_packet_with_an_odd_kid_still_parses() {
        let path = "guest/guest-components/confidential-data-hub/hub/src/image/test/v1.json";
        let Some(packet) = crate::fixtures::read(path) else {
            return;
        };
        let packet = Packet::parse(&packet).unwrap();
        assert_eq!(packet.kid, "kbs:///kbs:///default/key/1");
        assert!(packet.is_for_kbs());
        assert!(matches!(
            packet.unwrap_with(&[0; 32]),
            Err(WrapError::Opened)
        ));
    }

    #[test]
    fn packet_opens_with_its_key_alone() {
        let packet = Packet::wrap("kbs:///a/b/c", &[7; 32], &options()).unwrap();
        let annotations = BTreeMap::from([(PROVIDER.to_owned(), packet.to_annotation().unwrap())]);
        let read = Packet::of_layer(&annotations).unwrap();
        assert_eq!(read.as_slice(), std::slice::from_ref(&packet));
        assert_eq!(
            read[0].unwrap_with(&[7; 32]).unwrap().to_json(),
            options().to_json()
        );
        assert_eq!(read[0].unwrap_with(&[8; 32]).err(), Some(WrapError::Opened));
        assert_eq!(
            read[0].unwrap_with(&[7; 31]).err(),
            Some(WrapError::KeyLength(31))
        );
        let other = Packet {
            wrap_type: Some("A256CTR".into()),
            ..packet
        };
        assert_eq!(other.unwrap_with(&[7; 32]).err(), Some(WrapError::Type));
    }

    #[test]
    fn layer_for_a_key_file_says_so() {
        let annotations = BTreeMap::from([(
            "org.opencontainers.image.enc.keys.jwe".to_owned(),
            "x".to_owned(),
        )]);
        assert!(
            Packet::of_layer(&annotations)
                .unwrap_err()
                .to_string()
                .contains("jwe")
        );
        assert!(Packet::of_layer(&BTreeMap::new()).is_err());
        let many = BTreeMap::from([(PROVIDER.to_owned(), "e30=,".repeat(20))]);
        assert!(Packet::of_layer(&many).is_err());
    }

    #[test]
    fn public_options_of_another_cipher_are_refused() {
        let good = PublicOptions { hmac: [9; 32] };
        assert_eq!(PublicOptions::parse(&good.to_annotation()).unwrap(), good);
        for json in [
            r#"{"cipher":"AES_256_CTR","hmac":"","cipheroptions":{}}"#,
            r#"{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"","cipheroptions":{}}"#,
            r#"{"cipher":"AES_256_CTR_HMAC_SHA256"}"#,
        ] {
            assert!(
                PublicOptions::parse(&b64::std_encode(json)).is_err(),
                "{json}"
            );
        }
    }

    #[test]
    fn key_shows_in_no_error_and_no_debug_text() {
        let json = r#"{"symkey":"c2VjcmV0","digest":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad","cipheroptions":{"nonce":""}}"#;
        let error = PrivateOptions::parse(json.as_bytes()).unwrap_err();
        assert!(!format!("{error}{error:?}").contains("c2VjcmV0"));
        assert!(!format!("{:?}", options()).contains("AQEB"));
    }
}
