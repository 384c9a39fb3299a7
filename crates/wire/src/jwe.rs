//! Encrypted answers: JSON Web Encryption in flattened JSON form (RFC 7516, 7.2.2), content under A256GCM.
//!
//! Key management is ECDH-ES+A256KW on P-256 or P-521 (RFC 7518, 4.6) or RSA-OAEP-256 (4.3). Upstream's
//! guest re-serialises the protected header to recompute the authenticated data, so the header is printed
//! compact: `alg`, `enc`, then the other members in alphabetical order. Reading authenticates the header
//! exactly as received (RFC 7516, 5.2 step 14).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::encoding::{
    AsBigEndian, AsDer, EcPublicKeyUncompressedBin, Pkcs8V1Der, PublicKeyX509Der,
};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::{digest, rand};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::b64;
use crate::jwk::{EcCurve, TeePublicKey};

/// The largest protected header that is read: an RSA or P-521 header takes under 400 bytes.
const MAX_HEADER: usize = 4096;
const KEY_BYTES: usize = 32;
const WRAPPED_KEY_BYTES: usize = KEY_BYTES + 8;
const ECDH_ES: &str = "ECDH-ES+A256KW";
const RSA_OAEP: &str = "RSA-OAEP-256";
const A256GCM: &str = "A256GCM";

/// A JWE in flattened JSON form. It is not yet decrypted, so nothing in it is proven.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Jwe {
    protected: String,
    #[serde(with = "b64::url")]
    encrypted_key: Vec<u8>,
    #[serde(with = "b64::url")]
    iv: Vec<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aad: Option<String>,
    #[serde(with = "b64::url")]
    ciphertext: Vec<u8>,
    #[serde(with = "b64::url")]
    tag: Vec<u8>,
}

impl Jwe {
    /// Reads the protected header, which names the algorithms but proves nothing.
    ///
    /// # Errors
    /// [`JweError::Malformed`] when the header is not base64url of a JSON object or is too long.
    pub fn unverified_header(&self) -> Result<ProtectedHeader, JweError> {
        if self.protected.len() > MAX_HEADER {
            return Err(JweError::Malformed(
                "the protected header is longer than 4096 characters",
            ));
        }
        let json = b64::url_decode(&self.protected)
            .map_err(|_| JweError::Malformed("the protected header is not base64url"))?;
        serde_json::from_slice(&json)
            .map_err(|_| JweError::Malformed("the protected header is not the expected JSON"))
    }

    /// RFC 7516, 5.1 step 14: the header, and the `aad` member when there is one.
    fn authenticated_data(&self) -> String {
        match &self.aad {
            None => self.protected.clone(),
            Some(aad) => format!("{}.{aad}", self.protected),
        }
    }
}

/// The protected header, in the order it is printed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProtectedHeader {
    /// How the content key is encrypted.
    pub alg: String,
    /// How the content is encrypted.
    pub enc: String,
    /// The sender's ephemeral key, with ECDH-ES.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epk: Option<EphemeralKey>,
}

/// The `epk` header member (RFC 7518, 4.6.1.1).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EphemeralKey {
    crv: EcCurve,
    kty: EcKeyType,
    #[serde(with = "b64::url")]
    x: Vec<u8>,
    #[serde(with = "b64::url")]
    y: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
enum EcKeyType {
    #[serde(rename = "EC")]
    Ec,
}

/// Encrypts `plaintext` so that only the holder of `recipient`'s private key reads it.
///
/// # Errors
/// [`JweError::InvalidKey`] when `recipient` is not a point on its curve or not a usable RSA key.
pub fn encrypt(recipient: &TeePublicKey, plaintext: &[u8]) -> Result<Jwe, JweError> {
    let mut content_key = Zeroizing::new([0u8; KEY_BYTES]);
    rand::fill(content_key.as_mut())?;
    let (header, encrypted_key) = match recipient {
        TeePublicKey::Ec { crv, x, y } => {
            let ephemeral = PrivateKey::generate(ecdh(*crv))?;
            let epk = ephemeral_key(*crv, &ephemeral)?;
            let kek = shared_kek(*crv, &ephemeral, x, y)?;
            let mut wrapped = [0u8; WRAPPED_KEY_BYTES];
            AesKek::new(&AES_256, kek.as_ref())?.wrap(content_key.as_ref(), &mut wrapped)?;
            (
                ProtectedHeader {
                    alg: ECDH_ES.to_owned(),
                    enc: A256GCM.to_owned(),
                    epk: Some(epk),
                },
                wrapped.to_vec(),
            )
        }
        TeePublicKey::Rsa { n, e } => {
            let key = rsa_encrypting_key(n, e)?;
            let mut wrapped = vec![0u8; key.ciphertext_size()];
            let written = key
                .encrypt(
                    &OAEP_SHA256_MGF1SHA256,
                    content_key.as_ref(),
                    &mut wrapped,
                    None,
                )?
                .len();
            wrapped.truncate(written);
            (
                ProtectedHeader {
                    alg: RSA_OAEP.to_owned(),
                    enc: A256GCM.to_owned(),
                    epk: None,
                },
                wrapped,
            )
        }
    };
    let header = serde_json::to_vec(&header).map_err(|_| JweError::Crypto)?;
    let mut iv = [0u8; NONCE_LEN];
    rand::fill(&mut iv)?;
    let mut jwe = Jwe {
        protected: b64::url_encode(header),
        encrypted_key,
        iv: iv.to_vec(),
        aad: None,
        ciphertext: plaintext.to_vec(),
        tag: Vec::new(),
    };
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, content_key.as_ref())?);
    let tag = key.seal_in_place_separate_tag(
        Nonce::assume_unique_for_key(iv),
        Aad::from(jwe.authenticated_data().as_bytes()),
        &mut jwe.ciphertext,
    )?;
    jwe.tag = tag.as_ref().to_vec();
    Ok(jwe)
}

/// Which key pair to make.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyAlgorithm {
    /// P-256: made in a fraction of a millisecond.
    #[default]
    EcdhP256,
    /// P-521.
    EcdhP521,
    /// RSA-3072: takes tens of milliseconds to make.
    RsaOaep256,
}

/// The private half of a [`TeePublicKey`]. It has no `Debug`, `Display` or `Serialize`.
pub struct DecryptionKey {
    private: PrivateHalf,
    public: TeePublicKey,
}

enum PrivateHalf {
    Ec(EcCurve, PrivateKey),
    Rsa(Box<OaepPrivateDecryptingKey>, Zeroizing<Vec<u8>>),
}

impl DecryptionKey {
    /// Makes a fresh key pair.
    ///
    /// # Errors
    /// [`JweError::Crypto`] when the system has no randomness.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, JweError> {
        match algorithm {
            KeyAlgorithm::EcdhP256 => {
                Self::from_ec(EcCurve::P256, PrivateKey::generate(&agreement::ECDH_P256)?)
            }
            KeyAlgorithm::EcdhP521 => {
                Self::from_ec(EcCurve::P521, PrivateKey::generate(&agreement::ECDH_P521)?)
            }
            KeyAlgorithm::RsaOaep256 => {
                Self::from_rsa(PrivateDecryptingKey::generate(KeySize::Rsa3072)?)
            }
        }
    }

    /// Reads a P-256 private scalar, 32 bytes big-endian, as a JWK's `d` holds it.
    ///
    /// # Errors
    /// [`JweError::InvalidKey`] when it is not one.
    pub fn from_p256_scalar(scalar: &[u8]) -> Result<Self, JweError> {
        let key = PrivateKey::from_private_key(&agreement::ECDH_P256, scalar)
            .map_err(|_| JweError::InvalidKey)?;
        Self::from_ec(EcCurve::P256, key)
    }

    /// Reads the PKCS#8 PEM that [`Self::to_pkcs8_pem`] writes: P-256, P-521 or RSA.
    ///
    /// # Errors
    /// [`JweError::InvalidKey`] for anything else.
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, JweError> {
        let block = pem::parse(text).map_err(|_| JweError::InvalidKey)?;
        let der = Zeroizing::new(block.into_contents());
        if let Ok(key) = PrivateKey::from_private_key_der(&agreement::ECDH_P256, &der) {
            return Self::from_ec(EcCurve::P256, key);
        }
        if let Ok(key) = PrivateKey::from_private_key_der(&agreement::ECDH_P521, &der) {
            return Self::from_ec(EcCurve::P521, key);
        }
        Self::from_rsa(PrivateDecryptingKey::from_pkcs8(&der).map_err(|_| JweError::InvalidKey)?)
    }

    /// Prints the private key as PKCS#8 PEM, the form upstream's `tee_keypair` has.
    ///
    /// # Errors
    /// [`JweError::Crypto`] when the key cannot be encoded.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, JweError> {
        let der = match &self.private {
            PrivateHalf::Ec(_, key) => {
                let der: Pkcs8V1Der<'static> = key.as_der()?;
                Zeroizing::new(der.as_ref().to_vec())
            }
            PrivateHalf::Rsa(_, der) => der.clone(),
        };
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        Ok(Zeroizing::new(pem::encode_config(
            &pem::Pem::new("PRIVATE KEY", der.to_vec()),
            config,
        )))
    }

    /// The public half, which the evidence binds.
    pub fn public(&self) -> &TeePublicKey {
        &self.public
    }

    /// Decrypts an answer that was encrypted to this key.
    ///
    /// # Errors
    /// [`JweError::WrongAlgorithm`] when the header names another key type, [`JweError::Malformed`] when a member
    /// has an impossible form, [`JweError::Decryption`] when the answer was changed or is for another key.
    pub fn decrypt(&self, jwe: &Jwe) -> Result<Zeroizing<Vec<u8>>, JweError> {
        let header = jwe.unverified_header()?;
        if header.enc != A256GCM {
            return Err(JweError::WrongAlgorithm {
                expected: A256GCM,
                actual: header.enc.chars().take(32).collect(),
            });
        }
        let content_key = self.unwrap_key(&header, &jwe.encrypted_key)?;
        let iv = <[u8; NONCE_LEN]>::try_from(jwe.iv.as_slice())
            .map_err(|_| JweError::Malformed("the iv does not have 12 bytes"))?;
        if jwe.tag.len() != MAX_TAG_LEN {
            return Err(JweError::Malformed("the tag does not have 16 bytes"));
        }
        let mut buffer = Zeroizing::new(Vec::with_capacity(jwe.ciphertext.len() + MAX_TAG_LEN));
        buffer.extend_from_slice(&jwe.ciphertext);
        buffer.extend_from_slice(&jwe.tag);
        let key = LessSafeKey::new(
            UnboundKey::new(&AES_256_GCM, &content_key).map_err(|_| JweError::Decryption)?,
        );
        let length = key
            .open_in_place(
                Nonce::assume_unique_for_key(iv),
                Aad::from(jwe.authenticated_data().as_bytes()),
                buffer.as_mut_slice(),
            )
            .map_err(|_| JweError::Decryption)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }

    fn unwrap_key(
        &self,
        header: &ProtectedHeader,
        encrypted: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, JweError> {
        let expected = match &self.private {
            PrivateHalf::Ec(..) => ECDH_ES,
            PrivateHalf::Rsa(..) => RSA_OAEP,
        };
        if header.alg != expected {
            return Err(JweError::WrongAlgorithm {
                expected,
                actual: header.alg.chars().take(32).collect(),
            });
        }
        match &self.private {
            PrivateHalf::Ec(crv, key) => {
                let epk = header
                    .epk
                    .as_ref()
                    .ok_or(JweError::Malformed("the header has no epk"))?;
                if epk.crv != *crv {
                    return Err(JweError::Malformed(
                        "the epk is on another curve than the key",
                    ));
                }
                if encrypted.len() != WRAPPED_KEY_BYTES {
                    return Err(JweError::Malformed(
                        "the encrypted key does not have 40 bytes",
                    ));
                }
                let kek = shared_kek(*crv, key, &epk.x, &epk.y)?;
                let mut content_key = Zeroizing::new(vec![0u8; WRAPPED_KEY_BYTES]);
                let length = AesKek::new(&AES_256, kek.as_ref())?
                    .unwrap(encrypted, content_key.as_mut_slice())
                    .map_err(|_| JweError::Decryption)?
                    .len();
                content_key.truncate(length);
                Ok(content_key)
            }
            PrivateHalf::Rsa(key, _) => {
                let mut content_key = Zeroizing::new(vec![0u8; key.min_output_size()]);
                let length = key
                    .decrypt(
                        &OAEP_SHA256_MGF1SHA256,
                        encrypted,
                        content_key.as_mut_slice(),
                        None,
                    )
                    .map_err(|_| JweError::Decryption)?
                    .len();
                content_key.truncate(length);
                Ok(content_key)
            }
        }
    }

    fn from_ec(crv: EcCurve, private: PrivateKey) -> Result<Self, JweError> {
        let (x, y) = coordinates(crv, &private)?;
        Ok(Self {
            private: PrivateHalf::Ec(crv, private),
            public: TeePublicKey::Ec { crv, x, y },
        })
    }

    fn from_rsa(private: PrivateDecryptingKey) -> Result<Self, JweError> {
        let pkcs8: Pkcs8V1Der<'static> = private.as_der()?;
        let pkcs8 = Zeroizing::new(pkcs8.as_ref().to_vec());
        let spki: PublicKeyX509Der<'static> = private.public_key().as_der()?;
        let public =
            aws_lc_rs::rsa::PublicKey::from_der(spki.as_ref()).map_err(|_| JweError::InvalidKey)?;
        let public = TeePublicKey::Rsa {
            n: public.modulus().big_endian_without_leading_zero().to_vec(),
            e: public.exponent().big_endian_without_leading_zero().to_vec(),
        };
        let private = Box::new(OaepPrivateDecryptingKey::new(private)?);
        Ok(Self {
            private: PrivateHalf::Rsa(private, pkcs8),
            public,
        })
    }
}

fn ecdh(crv: EcCurve) -> &'static agreement::Algorithm {
    match crv {
        EcCurve::P256 => &agreement::ECDH_P256,
        EcCurve::P521 => &agreement::ECDH_P521,
    }
}

fn coordinates(crv: EcCurve, private: &PrivateKey) -> Result<(Vec<u8>, Vec<u8>), JweError> {
    let public = private.compute_public_key()?;
    let point: EcPublicKeyUncompressedBin<'_> = public.as_be_bytes()?;
    let (x, y) = point
        .as_ref()
        .get(1..)
        .ok_or(JweError::Crypto)?
        .split_at(crv.field_bytes());
    Ok((x.to_vec(), y.to_vec()))
}

fn ephemeral_key(crv: EcCurve, private: &PrivateKey) -> Result<EphemeralKey, JweError> {
    let (x, y) = coordinates(crv, private)?;
    Ok(EphemeralKey {
        crv,
        kty: EcKeyType::Ec,
        x,
        y,
    })
}

/// Agrees on Z and derives the key-encryption key from it (RFC 7518, 4.6.2, with empty party information).
fn shared_kek(
    crv: EcCurve,
    private: &PrivateKey,
    x: &[u8],
    y: &[u8],
) -> Result<Zeroizing<[u8; 32]>, JweError> {
    if x.len() != crv.field_bytes() || y.len() != crv.field_bytes() {
        return Err(JweError::InvalidKey);
    }
    let point = [&[4u8], x, y].concat();
    let peer = UnparsedPublicKey::new(ecdh(crv), &point);
    agreement::agree(private, peer, JweError::InvalidKey, |z| Ok(concat_kdf(z)))
}

/// One round of the Concat KDF (NIST SP 800-56A, 5.8.1): SHA-256 gives all 256 bits at once.
fn concat_kdf(z: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&1u32.to_be_bytes());
    hash.update(z);
    hash.update(&14u32.to_be_bytes());
    hash.update(ECDH_ES.as_bytes());
    hash.update(&0u32.to_be_bytes());
    hash.update(&0u32.to_be_bytes());
    hash.update(&256u32.to_be_bytes());
    let mut key = Zeroizing::new([0u8; 32]);
    key.copy_from_slice(hash.finish().as_ref());
    key
}

fn rsa_encrypting_key(n: &[u8], e: &[u8]) -> Result<OaepPublicEncryptingKey, JweError> {
    let pkcs1 = der_sequence(&[der_integer(n), der_integer(e)].concat());
    let public = aws_lc_rs::rsa::PublicKey::from_der(&pkcs1).map_err(|_| JweError::InvalidKey)?;
    let spki: PublicKeyX509Der<'static> = public.as_der()?;
    let public = PublicEncryptingKey::from_der(spki.as_ref()).map_err(|_| JweError::InvalidKey)?;
    Ok(OaepPublicEncryptingKey::new(public)?)
}

/// `RSAPublicKey` of RFC 8017, A.1.1, is a sequence of two integers.
fn der_sequence(content: &[u8]) -> Vec<u8> {
    der_value(0x30, content)
}

fn der_integer(magnitude: &[u8]) -> Vec<u8> {
    let sign: &[u8] = if magnitude.first().is_some_and(|b| b & 0x80 != 0) {
        &[0]
    } else {
        &[]
    };
    der_value(0x02, &[sign, magnitude].concat())
}

fn der_value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length
        .iter()
        .position(|b| *b != 0)
        .unwrap_or(length.len() - 1)..];
    let mut out = vec![tag];
    match significant {
        [short @ 0..=0x7f] => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).expect("a length has at most 8 bytes"));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

/// Why an answer cannot be encrypted or decrypted. Never says anything about keys or plaintext.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum JweError {
    /// The cryptographic library failed where no input can be at fault.
    #[error("the cryptographic library failed")]
    Crypto,
    /// The answer was changed on its way, or is encrypted to another key.
    #[error("the answer does not decrypt: it was changed on its way, or it is for another key")]
    Decryption,
    /// The key is not a valid one of its kind.
    #[error("the key is not a valid P-256, P-521 or RSA key")]
    InvalidKey,
    /// A member has an impossible form.
    #[error("the answer is not a JWE of this protocol: {0}")]
    Malformed(&'static str),
    /// The header names an algorithm that this key does not use.
    #[error("the answer uses {actual:?} where this key needs {expected}")]
    WrongAlgorithm {
        /// What this key uses.
        expected: &'static str,
        /// What the header says, cut short.
        actual: String,
    },
}

impl From<aws_lc_rs::error::Unspecified> for JweError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Crypto
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key() -> DecryptionKey {
        DecryptionKey::generate(KeyAlgorithm::EcdhP256).unwrap()
    }

    #[test]
    fn every_algorithm_round_trips_through_json_and_pem() {
        for algorithm in [
            KeyAlgorithm::EcdhP256,
            KeyAlgorithm::EcdhP521,
            KeyAlgorithm::RsaOaep256,
        ] {
            let key = DecryptionKey::generate(algorithm).unwrap();
            let json = serde_json::to_string(&encrypt(key.public(), b"a secret").unwrap()).unwrap();
            let again = DecryptionKey::from_pkcs8_pem(&key.to_pkcs8_pem().unwrap()).unwrap();
            assert_eq!(again.public(), key.public());
            assert_eq!(
                again
                    .decrypt(&serde_json::from_str(&json).unwrap())
                    .unwrap()
                    .as_slice(),
                b"a secret"
            );
        }
    }

    #[test]
    fn header_is_compact_with_alg_and_enc_first() {
        let jwe = encrypt(key().public(), b"x").unwrap();
        let header = String::from_utf8(b64::url_decode(&jwe.protected).unwrap()).unwrap();
        assert!(header.starts_with(
            r#"{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":""#
        ));
    }

    #[test]
    fn upstream_answer_decrypts_with_the_known_key() {
        let (Some(known), Some(log)) = (
            crate::fixtures::json("recorded/jwe-known-key.json"),
            crate::fixtures::read("recorded/kbs-client.jsonl"),
        ) else {
            return;
        };
        let scalar = hex::decode(known["tee_scalar_hex"].as_str().unwrap()).unwrap();
        let key = DecryptionKey::from_p256_scalar(&scalar).unwrap();
        assert_eq!(
            serde_json::to_value(key.public()).unwrap()["x"],
            known["tee_public"]["x"]
        );
        let log = String::from_utf8(log).unwrap();
        let line: serde_json::Value = serde_json::from_str(log.lines().nth(9).unwrap()).unwrap();
        let jwe: Jwe = serde_json::from_str(line["response"]["body"].as_str().unwrap()).unwrap();
        assert_eq!(
            key.decrypt(&jwe).unwrap().as_slice(),
            known["plaintext"].as_str().unwrap().as_bytes()
        );
    }

    #[test]
    fn kbs_types_vectors_parse() {
        let Some(vectors) = crate::fixtures::json("guest/vectors/jwe-response.json") else {
            return;
        };
        for case in vectors["cases"].as_array().unwrap() {
            let jwe: Jwe = serde_json::from_value(case["in"].clone()).unwrap();
            let header = jwe.unverified_header().unwrap();
            assert_eq!(header.alg, case["alg"]);
            assert_eq!(header.enc, case["enc"]);
            assert_eq!(jwe.aad.as_deref(), case["aad"].as_str());
        }
        let header = ProtectedHeader {
            alg: "fakealg".to_owned(),
            enc: "fakeenc".to_owned(),
            epk: None,
        };
        let printed = b64::url_encode(serde_json::to_vec(&header).unwrap());
        assert_eq!(printed, vectors["generate_aad"]["aad_ascii"]);
    }

    #[test]
    fn answer_for_another_key_is_refused() {
        let jwe = encrypt(key().public(), b"x").unwrap();
        assert_eq!(key().decrypt(&jwe).unwrap_err(), JweError::Decryption);
    }

    #[test]
    fn each_changed_member_is_refused() {
        let key = key();
        let jwe = encrypt(key.public(), b"some secret").unwrap();
        let flip = |bytes: &mut Vec<u8>| bytes[0] ^= 1;
        let mut changed = [jwe.clone(), jwe.clone(), jwe.clone(), jwe.clone()];
        flip(&mut changed[0].encrypted_key);
        flip(&mut changed[1].iv);
        flip(&mut changed[2].ciphertext);
        flip(&mut changed[3].tag);
        for jwe in changed {
            assert_eq!(key.decrypt(&jwe).unwrap_err(), JweError::Decryption);
        }
        let mut with_aad = jwe;
        with_aad.aad = Some("bmV3".to_owned());
        assert_eq!(key.decrypt(&with_aad).unwrap_err(), JweError::Decryption);
    }

    #[test]
    fn header_spelled_differently_is_refused() {
        let key = key();
        let mut jwe = encrypt(key.public(), b"x").unwrap();
        let spaced = String::from_utf8(b64::url_decode(&jwe.protected).unwrap()).unwrap() + " ";
        jwe.protected = b64::url_encode(spaced);
        assert_eq!(key.decrypt(&jwe).unwrap_err(), JweError::Decryption);
    }

    #[test]
    fn point_off_the_curve_is_refused() {
        let mut public = key().public().clone();
        if let TeePublicKey::Ec { x, .. } = &mut public {
            x[31] ^= 1;
        }
        assert_eq!(encrypt(&public, b"x").unwrap_err(), JweError::InvalidKey);
    }

    #[test]
    fn rsa_header_for_an_ec_key_is_refused() {
        let rsa = DecryptionKey::generate(KeyAlgorithm::RsaOaep256).unwrap();
        let jwe = encrypt(rsa.public(), b"x").unwrap();
        assert!(matches!(
            key().decrypt(&jwe),
            Err(JweError::WrongAlgorithm {
                expected: ECDH_ES,
                ..
            })
        ));
    }

    #[test]
    fn short_iv_and_tag_are_malformed() {
        let key = key();
        let jwe = encrypt(key.public(), b"x").unwrap();
        let (mut short_iv, mut short_tag) = (jwe.clone(), jwe);
        short_iv.iv.pop();
        short_tag.tag.pop();
        assert!(matches!(
            key.decrypt(&short_iv),
            Err(JweError::Malformed(_))
        ));
        assert!(matches!(
            key.decrypt(&short_tag),
            Err(JweError::Malformed(_))
        ));
    }
}
