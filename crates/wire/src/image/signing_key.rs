//! Keys of cosign-format signatures: ECDSA on P-256, P-384 and P-521, Ed25519 and RSA, as PEM files.
//!
//! A public key is a `SubjectPublicKeyInfo`; where a policy carries it, it may stand as PEM or as base64 of the PEM. A
//! signature is over the payload's bytes, ECDSA's in ASN.1, RSA's by PKCS #1 version 1.5.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA512_ASN1, ED25519, EcdsaKeyPair,
    KeyPair as _, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::b64;

/// A public key that signatures of images are verified with.
#[derive(Clone)]
pub struct PublicKey {
    /// By each digest that this kind of key signs with: cosign took SHA-256 for every curve until it took the curve's own.
    algorithms: &'static [&'static dyn VerificationAlgorithm],
    spki: Vec<u8>,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint())
    }
}

impl PublicKey {
    /// Parses a key: PEM, or base64 of PEM.
    ///
    /// # Errors
    /// [`KeyError`] when it is neither, or a key of another kind.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() > MAX_KEY {
            return Err(KeyError::Form);
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|_| KeyError::Form)?
            .trim();
        let decoded;
        let pem = if text.contains("-----BEGIN") {
            text
        } else {
            decoded = b64::std_decode(text)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or(KeyError::Form)?;
            &decoded
        };
        let block = pem::parse(pem).map_err(|_| KeyError::Form)?;
        if block.tag() != "PUBLIC KEY" {
            return Err(KeyError::Form);
        }
        let spki = block.into_contents();
        let kinds: [&'static [&'static dyn VerificationAlgorithm]; 5] =
            [P256, P384, P521, EDWARDS, RSA];
        // Each algorithm takes a key of its own kind only; the first of a kind stands for all of it.
        let fits = |kind: &&'static [&'static dyn VerificationAlgorithm]| match kind {
            k if std::ptr::eq(*k, P256) => {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &spki).is_ok()
            }
            k if std::ptr::eq(*k, P384) => {
                ParsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, &spki).is_ok()
            }
            k if std::ptr::eq(*k, P521) => {
                ParsedPublicKey::new(&ECDSA_P521_SHA512_ASN1, &spki).is_ok()
            }
            k if std::ptr::eq(*k, EDWARDS) => ParsedPublicKey::new(&ED25519, &spki).is_ok(),
            _ => ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &spki).is_ok(),
        };
        let algorithms = kinds.into_iter().find(fits).ok_or(KeyError::Kind)?;
        Ok(Self { algorithms, spki })
    }

    /// Whether the key made a signature, given in base64, over a payload.
    pub fn verifies(&self, payload: &[u8], signature: &str) -> bool {
        let Ok(signature) = STANDARD.decode(signature.trim()) else {
            return false;
        };
        self.algorithms.iter().any(|algorithm| {
            algorithm
                .verify_sig(&self.spki, payload, &signature)
                .is_ok()
        })
    }

    /// The SHA-256 of the `SubjectPublicKeyInfo`, in hex.
    pub fn fingerprint(&self) -> String {
        super::digest::Digest::sha256(&self.spki).hex()
    }
}

/// A private key that signs images: ECDSA on P-256.
pub struct SigningKey(EcdsaKeyPair);

impl SigningKey {
    /// Parses a PEM file: PKCS #8, or SEC 1 as `openssl ecparam` writes it.
    ///
    /// # Errors
    /// [`KeyError`] when it is encrypted, or a key of another kind.
    pub fn parse_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(pem).map_err(|_| KeyError::Form)?;
        // openssl puts the curve's parameters in a block of their own before the key.
        let blocks = pem::parse_many(text).map_err(|_| KeyError::Form)?;
        let block = blocks
            .iter()
            .find(|block| block.tag() != "EC PARAMETERS")
            .ok_or(KeyError::Form)?;
        match block.tag() {
            "ENCRYPTED SIGSTORE PRIVATE KEY" | "ENCRYPTED COSIGN PRIVATE KEY" => {
                return Err(KeyError::EncryptedCosign);
            }
            "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
            "PRIVATE KEY" | "EC PRIVATE KEY" => {}
            _ => return Err(KeyError::NotPrivate),
        }
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, block.contents())
            .map(Self)
            .map_err(|_| KeyError::NotP256)
    }

    /// Signs a payload; the signature is base64.
    ///
    /// # Errors
    /// [`KeyError::Random`] when the system gives no random bytes.
    pub fn sign(&self, payload: &[u8]) -> Result<String, KeyError> {
        let signature = self
            .0
            .sign(&SystemRandom::new(), payload)
            .map_err(|_| KeyError::Random)?;
        Ok(b64::std_encode(signature.as_ref()))
    }

    /// The public key, as PEM.
    ///
    /// # Errors
    /// [`KeyError::Form`] when the library does not give it.
    pub fn public_pem(&self) -> Result<String, KeyError> {
        use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().map_err(|_| KeyError::Form)?;
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        Ok(pem::encode_config(
            &pem::Pem::new("PUBLIC KEY", der.as_ref()),
            config,
        ))
    }
}

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No key at all.
    #[error("the key is neither one PEM block (BEGIN PUBLIC KEY) nor base64 of one")]
    Form,
    /// Another kind of public key.
    #[error(
        "the public key is none of ECDSA on P-256, P-384 or P-521, Ed25519, and RSA of 2048 bits or more"
    )]
    Kind,
    /// Encrypted by cosign.
    #[error(
        "the key is encrypted by cosign (scrypt and secretbox), which is not read here: sign with cosign itself, which \
         guests accept alike, or with a plain P-256 key of its own, \
         openssl ecparam -name prime256v1 -genkey -noout -out image.key"
    )]
    EncryptedCosign,
    /// Encrypted.
    #[error("the key is encrypted: decrypt it first, openssl pkcs8 -in KEY -out PLAIN")]
    Encrypted,
    /// A public key, or something else.
    #[error("the PEM file holds no private key (BEGIN PRIVATE KEY or BEGIN EC PRIVATE KEY)")]
    NotPrivate,
    /// Another kind of private key.
    #[error("the private key is not one of ECDSA on P-256, the kind that cosign makes")]
    NotP256,
    /// The system.
    #[error("the system gives no random bytes")]
    Random,
}

static P256: &[&dyn VerificationAlgorithm] = &[&ECDSA_P256_SHA256_ASN1];
static P384: &[&dyn VerificationAlgorithm] = &[&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1];
static P521: &[&dyn VerificationAlgorithm] = &[&ECDSA_P521_SHA512_ASN1, &ECDSA_P521_SHA256_ASN1];
static EDWARDS: &[&dyn VerificationAlgorithm] = &[&ED25519];
static RSA: &[&dyn VerificationAlgorithm] = &[&RSA_PKCS1_2048_8192_SHA256];
const MAX_KEY: usize = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pair() -> (SigningKey, PublicKey) {
        let pkcs8 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let der = pkcs8.to_pkcs8v1().unwrap();
        let pem = pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref()));
        let signing = SigningKey::parse_pem(pem.as_bytes()).unwrap();
        let public = PublicKey::parse(signing.public_pem().unwrap().as_bytes()).unwrap();
        (signing, public)
    }

    #[test]
    fn signature_is_verified_by_its_key_over_its_payload() {
        let (signing, public) = pair();
        let signature = signing.sign(b"payload").unwrap();
        assert!(public.verifies(b"payload", &signature));
        assert!(!public.verifies(b"Payload", &signature));
        assert!(!pair().1.verifies(b"payload", &signature));
        assert!(!public.verifies(b"payload", ""));
        assert!(!public.verifies(b"payload", "!"));
    }

    #[test]
    fn key_in_a_policy_is_pem_or_base64_of_it() {
        let (signing, public) = pair();
        let pem = signing.public_pem().unwrap();
        for text in [pem.clone(), b64::std_encode(&pem), format!("\n{pem}\n")] {
            assert_eq!(
                PublicKey::parse(text.as_bytes()).unwrap().fingerprint(),
                public.fingerprint()
            );
        }
        for bad in [
            "",
            "bm9uc2Vuc2U=",
            "nonsense",
            &pem.replace("PUBLIC", "PRIVATE"),
            &pem.replace("MFkw", "MFkx"),
        ] {
            assert!(PublicKey::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn upstream_cosign_keys_parse() {
        for name in ["cosign1.pub", "cosign2.pub", "cosign3.pub", "nv.pub"] {
            let path = format!("guest/guest-components/image-rs/test_data/signature/cosign/{name}");
            let Some(pem) = crate::fixtures::read(&path) else {
                return;
            };
            PublicKey::parse(&pem).unwrap();
        }
    }

    #[test]
    fn encrypted_key_of_cosign_is_explained() {
        let pem = pem::encode(&pem::Pem::new("ENCRYPTED SIGSTORE PRIVATE KEY", "{}"));
        let error = SigningKey::parse_pem(pem.as_bytes()).err().unwrap();
        assert!(error.to_string().contains("sign with cosign itself"));
    }
}
