//! Enrolment of an attestation key: the proof that it lies in the same TPM as an endorsement key
//! (TPM 2.0 Library Part 1, 24: credential protection; `TPM2_MakeCredential` without a TPM).
//!
//! A TPM's maker certifies its endorsement key, which cannot sign. So whoever enrols sends a secret that only the TPM
//! with that endorsement key opens, and only when it also has the attestation key of this very name; the name covers
//! the key's attributes. Who sends the secret back has shown that the key is one that signs quotes and nothing else.

use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::{digest, hmac};
use const_oid::ObjectIdentifier;
use der::Decode;
use x509_cert::ext::pkix::ExtendedKeyUsage;

use super::keys::{P256, P384, curve_key, rsa_key};
use super::structures::{ALG_ECDSA, ALG_RSASSA, ALG_SHA256, ALG_SHA384, Reader, Unmarshalling};
use crate::Assurance;
use crate::anchors::{TrustAnchors, Vendor};
use crate::x509::{Certificate, KeyKind, Path, PublicKey, X509Error};

/// An attestation key as its TPM describes it, whose attributes are those of one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttestationKey {
    name: Vec<u8>,
    spki: Vec<u8>,
}

impl AttestationKey {
    /// Parses a `TPM2B_PUBLIC` (Part 2, 12.2.4) of a restricted signing key that never leaves its TPM.
    ///
    /// That such a key is in a TPM is shown by the answer to [`EndorsementKey::challenge`] only.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn parse(tpm2b_public: &[u8]) -> Result<Self, CredentialError> {
        let mut outer = Reader(tpm2b_public);
        let public = outer.sized("TPM2B_PUBLIC", MAX_PUBLIC)?;
        outer.end("TPM2B_PUBLIC")?;

        let mut reader = Reader(public);
        let kind = reader.u16("type")?;
        let name_algorithm = reader.u16("nameAlg")?;
        check_attributes(reader.u32("objectAttributes")?)?;
        reader.sized("authPolicy", MAX_POLICY)?;
        let symmetric = reader.u16("symmetric")?;
        let scheme = (reader.u16("scheme")?, reader.u16("the scheme's hash")?);
        let key = match (kind, symmetric, scheme) {
            (TYPE_RSA, ALG_NULL, (ALG_RSASSA, ALG_SHA256)) => {
                reader.u16("keyBits")?;
                let exponent = match reader.u32("exponent")? {
                    // "the default exponent of 2^16 + 1"
                    0 => 65_537,
                    other => other,
                };
                rsa_key(reader.sized("unique", MAX_RSA)?, &exponent.to_be_bytes())?
            }
            (TYPE_ECC, ALG_NULL, (ALG_ECDSA, hash)) => {
                let (curve, width) = match (reader.u16("curveID")?, hash) {
                    (CURVE_P256, ALG_SHA256) => (P256, 32),
                    (CURVE_P384, ALG_SHA384) => (P384, 48),
                    (other, _) => return Err(CredentialError::Algorithm(other)),
                };
                match reader.u16("kdf")? {
                    ALG_NULL => {}
                    other => return Err(CredentialError::Algorithm(other)),
                }
                let mut coordinate = |field| {
                    let number = reader.sized(field, width)?;
                    let mut wide = vec![0; usize::from(width).saturating_sub(number.len())];
                    wide.extend_from_slice(number);
                    Ok::<_, Unmarshalling>(wide)
                };
                curve_key(curve, &coordinate("x")?, &coordinate("y")?)?
            }
            (TYPE_RSA | TYPE_ECC, ALG_NULL, (other, _)) => {
                return Err(CredentialError::Algorithm(other));
            }
            (TYPE_RSA | TYPE_ECC, other, _) => return Err(CredentialError::Algorithm(other)),
            (other, ..) => return Err(CredentialError::Algorithm(other)),
        };
        reader.end("the public area")?;

        // Part 1, 16: nameAlg, then the digest of the public area.
        let hash = match name_algorithm {
            ALG_SHA256 => &digest::SHA256,
            ALG_SHA384 => &digest::SHA384,
            other => return Err(CredentialError::Algorithm(other)),
        };
        let mut name = name_algorithm.to_be_bytes().to_vec();
        name.extend_from_slice(digest::digest(hash, public).as_ref());
        Ok(Self {
            name,
            spki: key.to_spki()?,
        })
    }

    /// The key as DER `SubjectPublicKeyInfo`, as [`TrustAnchors::with_attestation_key`] takes it.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The key's name: `nameAlg` and the digest of its public area.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

/// The endorsement key of a TPM: RSA-2048, with AES-128-CFB and SHA-256 (TCG EK credential profile, template L-1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndorsementKey(PublicKey);

impl EndorsementKey {
    /// Verifies the certificate of an endorsement key, which comes first, up to a trusted root of a TPM maker. A root for
    /// development is none.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn verify(
        certificates: &str,
        anchors: &TrustAnchors,
        now: u64,
    ) -> Result<Self, CredentialError> {
        let chain = Certificate::from_pem_chain(certificates.as_bytes(), MAX_CERTIFICATES)?;
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(CredentialError::NoPath("no certificate".to_owned()));
        };
        let usage = leaf
            .extension(EXTENDED_KEY_USAGE)?
            .and_then(|usage| ExtendedKeyUsage::from_der(usage).ok());
        if !usage.is_some_and(|usage| usage.0.contains(&EK_CERTIFICATE)) {
            return Err(CredentialError::NoPath(
                "the certificate is not for an endorsement key".to_owned(),
            ));
        }
        let mut refusals = Vec::new();
        for root in anchors.roots(Vendor::Tpm) {
            let path = Path {
                leaf,
                intermediates,
                root: &root.certificate,
                known: &[SUBJECT_ALTERNATIVE_NAME],
            };
            match path.verify(now, &[], anchors.proven()) {
                // A key that is enrolled counts as hardware's from then on.
                Ok(()) if root.assurance == Assurance::Development => {
                    refusals.push("the root is one for development".to_owned());
                }
                Ok(()) => return Self::of(leaf.public_key()),
                Err(error) => refusals.push(error.to_string()),
            }
        }
        Err(CredentialError::NoPath(refusals.join("; ")))
    }

    /// Takes a key as DER `SubjectPublicKeyInfo` of which the caller knows by other means that it is this TPM's.
    ///
    /// # Errors
    /// [`CredentialError`] when it is no RSA key.
    pub fn dangerous_unverified(spki: &[u8]) -> Result<Self, CredentialError> {
        Self::of(PublicKey::from_spki(spki)?)
    }

    fn of(key: PublicKey) -> Result<Self, CredentialError> {
        match key.kind()? {
            KeyKind::Rsa => Ok(Self(key)),
            _ => Err(CredentialError::Algorithm(TYPE_ECC)),
        }
    }

    /// Encrypts `secret`, of at most 32 bytes, to the TPM that has this key and the attestation key.
    ///
    /// The caller still owes that `secret` and `seed` are random and were never used, and that the attestation key is
    /// enrolled only when `secret` comes back. Nothing else is random here but OAEP's own padding.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn challenge(
        &self,
        attestation_key: &AttestationKey,
        secret: &[u8],
        seed: &[u8; 32],
    ) -> Result<CredentialChallenge, CredentialError> {
        if secret.len() > MAX_SECRET {
            return Err(CredentialError::Secret {
                limit: MAX_SECRET,
                actual: secret.len(),
            });
        }
        let name = attestation_key.name();

        // Part 1, 24.4: the secret under a key that the name is part of.
        let mut identity = sized(secret)?;
        let key = kdfa(seed, "STORAGE", name, 128);
        EncryptingKey::cfb128(UnboundCipherKey::new(&AES_128, &key)?)?.less_safe_encrypt(
            &mut identity,
            EncryptionContext::Iv128(FixedLength::from([0; 16])),
        )?;

        // Part 1, 24.5: and both under a code.
        let key = hmac::Key::new(hmac::HMAC_SHA256, &kdfa(seed, "INTEGRITY", &[], 256));
        let mut code = hmac::Context::with_key(&key);
        code.update(&identity);
        code.update(name);
        let mut object = sized(code.sign().as_ref())?;
        object.extend_from_slice(&identity);

        // Part 1, B.10.4: the seed under the endorsement key, for this purpose.
        let key = OaepPublicEncryptingKey::new(
            PublicEncryptingKey::from_der(&self.0.to_spki()?)
                .map_err(|_| CredentialError::Cryptography)?,
        )?;
        let mut encrypted = vec![0; key.ciphertext_size()];
        let encrypted = key.encrypt(
            &OAEP_SHA256_MGF1SHA256,
            seed,
            &mut encrypted,
            Some(b"IDENTITY\0"),
        )?;
        Ok(CredentialChallenge {
            credential_blob: sized(&object)?,
            encrypted_secret: sized(encrypted)?,
        })
    }
}

/// What `TPM2_ActivateCredential` takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CredentialChallenge {
    /// `TPM2B_ID_OBJECT`: the secret.
    pub credential_blob: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`: the seed of the keys that protect it.
    pub encrypted_secret: Vec<u8>,
}

/// Why a key cannot be enrolled.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The public area is not one.
    #[error("malformed public area: {0}")]
    Malformed(String),
    /// The key is no attestation key.
    #[error("the key's attributes are {actual:#010x}; an attestation key has {wanted}")]
    Attributes {
        /// What is demanded.
        wanted: &'static str,
        /// What there is.
        actual: u32,
    },
    /// The key is of a kind, or for a scheme, that is not accepted, by its number.
    #[error("algorithm {0:#06x} is not accepted")]
    Algorithm(u16),
    /// The endorsement key's certificate leads to no trusted root.
    #[error("the endorsement key leads to no trusted root of a TPM maker: {0}")]
    NoPath(String),
    /// The secret is too long.
    #[error("the secret has {actual} bytes, at most {limit}")]
    Secret {
        /// How many may be.
        limit: usize,
        /// How many are.
        actual: usize,
    },
    /// The cryptographic library refused a key.
    #[error("the cryptographic library refused the key")]
    Cryptography,
}

impl From<Unmarshalling> for CredentialError {
    fn from(error: Unmarshalling) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<X509Error> for CredentialError {
    fn from(error: X509Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<aws_lc_rs::error::Unspecified> for CredentialError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Cryptography
    }
}

/// `TPMA_OBJECT` (Part 2, 8.3): the key was made in its TPM, never leaves it, and signs only what the TPM itself made.
fn check_attributes(attributes: u32) -> Result<(), CredentialError> {
    match attributes & MUST_BE_SET == MUST_BE_SET && attributes & MUST_BE_CLEAR == 0 {
        true => Ok(()),
        false => Err(CredentialError::Attributes {
            wanted: "fixedTPM, fixedParent, sensitiveDataOrigin, restricted and sign, and neither decrypt nor x509sign",
            actual: attributes,
        }),
    }
}

/// `KDFa` (Part 1, 11.4.10.2) with SHA-256, for at most as many bits as it has.
fn kdfa(key: &[u8], label: &str, context: &[u8], bits: u32) -> Vec<u8> {
    let mut code = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    code.update(&1_u32.to_be_bytes());
    code.update(label.as_bytes());
    code.update(&[0]);
    code.update(context);
    code.update(&bits.to_be_bytes());
    let mut out = code.sign().as_ref().to_vec();
    out.truncate(usize::try_from(bits / 8).unwrap_or(usize::MAX));
    out
}

/// `TPM2B_*`.
fn sized(bytes: &[u8]) -> Result<Vec<u8>, CredentialError> {
    let length = u16::try_from(bytes.len()).map_err(|_| CredentialError::Cryptography)?;
    Ok([&length.to_be_bytes(), bytes].concat())
}

/// fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign.
const MUST_BE_SET: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18;
/// decrypt, x509sign.
const MUST_BE_CLEAR: u32 = 1 << 17 | 1 << 19;
const TYPE_RSA: u16 = 0x0001;
const TYPE_ECC: u16 = 0x0023;
const ALG_NULL: u16 = 0x0010;
const CURVE_P256: u16 = 0x0003;
const CURVE_P384: u16 = 0x0004;
const MAX_PUBLIC: u16 = 1024;
const MAX_POLICY: u16 = 64;
const MAX_RSA: u16 = 512;
/// A digest of the endorsement key's nameAlg.
const MAX_SECRET: usize = 32;
const MAX_CERTIFICATES: usize = 6;
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SUBJECT_ALTERNATIVE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// tcg-kp-EKCertificate.
const EK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.1");

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HONEST: u32 = MUST_BE_SET | 1 << 6;

    fn public(attributes: u32) -> Vec<u8> {
        let mut area = Vec::new();
        for number in [TYPE_RSA, ALG_SHA256] {
            area.extend(number.to_be_bytes());
        }
        area.extend(attributes.to_be_bytes());
        area.extend(sized(&[]).unwrap());
        for number in [ALG_NULL, ALG_RSASSA, ALG_SHA256, 2048] {
            area.extend(number.to_be_bytes());
        }
        area.extend(0_u32.to_be_bytes());
        area.extend(sized(&[0xC1; 256]).unwrap());
        sized(&area).unwrap()
    }

    #[test]
    fn an_honest_attestation_key_has_its_name_and_the_default_exponent() {
        let key = AttestationKey::parse(&public(HONEST)).unwrap();
        assert_eq!(key.name().len(), 34);
        assert!(key.spki().ends_with(&[2, 3, 1, 0, 1]));
    }

    #[test]
    fn a_key_that_lacks_an_attribute_is_refused() {
        for bit in [1, 4, 5, 16, 18] {
            let error = AttestationKey::parse(&public(HONEST & !(1 << bit))).unwrap_err();
            assert!(
                matches!(error, CredentialError::Attributes { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn a_key_that_may_do_more_is_refused() {
        for bit in [17, 19] {
            let error = AttestationKey::parse(&public(HONEST | 1 << bit)).unwrap_err();
            assert!(
                matches!(error, CredentialError::Attributes { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = public(HONEST);
        for length in 0..whole.len() {
            AttestationKey::parse(&whole[..length]).unwrap_err();
            // With a length that fits.
            let cut = whole.get(2..length).unwrap_or_default();
            AttestationKey::parse(&sized(cut).unwrap()).unwrap_err();
        }
        AttestationKey::parse(&[whole, vec![0]].concat()).unwrap_err();
    }

    #[test]
    fn another_scheme_is_refused() {
        let mut bytes = public(HONEST);
        // RSAPSS.
        bytes[15] = 0x16;
        assert_eq!(
            AttestationKey::parse(&bytes).unwrap_err(),
            CredentialError::Algorithm(0x0016)
        );
    }
}
