//! Signature packets of version 4 (RFC 9580, section 5.2), and the arithmetic behind them, which is aws-lc-rs's.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::key::{Curve, Key, Material};
use super::packet::Cursor;
use super::{OpenPgpError, Sha1};

/// A signature, not verified.
pub(super) struct Signature {
    pub(super) r#type: u8,
    pub(super) created: Option<u64>,
    pub(super) lifetime: Option<u64>,
    pub(super) key_lifetime: Option<u64>,
    pub(super) key_flags: Option<u8>,
    issuer: Option<[u8; 8]>,
    issuer_fingerprint: Option<[u8; 20]>,
    hash: Hash,
    algorithm: u8,
    /// What is digested behind the content.
    trailer: Vec<u8>,
    integers: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Signature {
    pub(super) fn parse(body: &[u8]) -> Result<Self, OpenPgpError> {
        let mut cursor = Cursor(body);
        if cursor.byte()? != 4 {
            return Err(OpenPgpError::Unsupported(
                "a signature whose version is not 4",
            ));
        }
        let r#type = cursor.byte()?;
        let algorithm = cursor.byte()?;
        let hash = match cursor.byte()? {
            2 => Hash::Sha1,
            8 => Hash::Sha256,
            9 => Hash::Sha384,
            10 => Hash::Sha512,
            _ => {
                return Err(OpenPgpError::Unsupported(
                    "a signature over MD5, SHA-224 or an unknown digest",
                ));
            }
        };
        let hashed_length = cursor.u16()?;
        let hashed = cursor.take(hashed_length)?;
        let covered = body.get(..hashed_length.saturating_add(6)).unwrap_or(body);
        let unhashed_length = cursor.u16()?;
        let unhashed = cursor.take(unhashed_length)?;
        // The first two bytes of the digest, for who is in a hurry.
        cursor.take(2)?;
        let mut integers = Vec::new();
        while !cursor.0.is_empty() {
            if integers.len() >= 2 {
                return Err(OpenPgpError::Malformed(
                    "the signature has more than two numbers",
                ));
            }
            integers.push(cursor.integer()?.to_vec());
        }
        let length = u32::try_from(covered.len()).unwrap_or(u32::MAX);
        let mut trailer = covered.to_vec();
        trailer.extend([0x04, 0xff]);
        trailer.extend(length.to_be_bytes());
        let mut signature = Self {
            r#type,
            created: None,
            lifetime: None,
            key_lifetime: None,
            key_flags: None,
            issuer: None,
            issuer_fingerprint: None,
            hash,
            algorithm,
            trailer,
            integers,
        };
        signature.read_subpackets(hashed, true)?;
        signature.read_subpackets(unhashed, false)?;
        Ok(signature)
    }

    /// Only what is hashed is signed; the rest may say who to ask, and nothing else.
    fn read_subpackets(&mut self, area: &[u8], is_hashed: bool) -> Result<(), OpenPgpError> {
        let mut area = Cursor(area);
        while !area.0.is_empty() {
            let length = match area.byte()? {
                short @ 0..192 => usize::from(short),
                long @ 192..255 => {
                    let second = area.byte()?;
                    (usize::from(long) - 192) * 256 + usize::from(second) + 192
                }
                255 => usize::try_from(area.u32()?).unwrap_or(usize::MAX),
            };
            let mut body = Cursor(area.take(length)?);
            let head = body.byte()?;
            match (head & 0x7f, is_hashed) {
                (2, true) => self.created = Some(body.u32()?),
                (3, true) => self.lifetime = Some(body.u32()?).filter(|lifetime| *lifetime > 0),
                (9, true) => self.key_lifetime = Some(body.u32()?).filter(|lifetime| *lifetime > 0),
                (27, true) => self.key_flags = Some(body.byte()?),
                (16, _) => self.issuer = body.0.try_into().ok().or(self.issuer),
                (33, _) if body.byte()? == 4 => {
                    self.issuer_fingerprint = body.0.try_into().ok().or(self.issuer_fingerprint);
                }
                // Preferences, policies, notations: they restrict nothing that is verified here.
                (known, _) if KNOWN.contains(&known) => {}
                _ if is_hashed && head & 0x80 != 0 => {
                    return Err(OpenPgpError::Unsupported(
                        "a critical part of the signature that is not known",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn may_be_of(&self, key: &Key) -> bool {
        match (self.issuer_fingerprint, self.issuer) {
            (Some(fingerprint), _) => key.fingerprint == fingerprint,
            (None, Some(id)) => key.id() == id,
            (None, None) => true,
        }
    }

    pub(super) fn issuer_hex(&self) -> String {
        match (self.issuer_fingerprint, self.issuer) {
            (Some(fingerprint), _) => hex::encode(fingerprint),
            (None, Some(id)) => hex::encode(id),
            (None, None) => "of nobody".to_owned(),
        }
    }

    /// Verifies the signature over some pieces, one behind the other.
    pub(super) fn verify(
        &self,
        key: &Material,
        pieces: &[&[u8]],
        sha1: Sha1,
    ) -> Result<(), OpenPgpError> {
        if self.hash == Hash::Sha1 && sha1 == Sha1::Refuse {
            return Err(OpenPgpError::Sha1);
        }
        let mut message = pieces.concat();
        message.extend_from_slice(&self.trailer);
        let integer = |at: usize| {
            self.integers
                .get(at)
                .map(Vec::as_slice)
                .ok_or(OpenPgpError::Bad)
        };
        match (key, self.algorithm) {
            (Material::Rsa { n, e }, 1 | 3) => {
                let parameters = match self.hash {
                    Hash::Sha1 => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
                    Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                    Hash::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
                    Hash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
                };
                let signature = padded(integer(0)?, n.len()).ok_or(OpenPgpError::Bad)?;
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, &message, &signature)
                    .map_err(|_| OpenPgpError::Bad)
            }
            (Material::Ecdsa { curve, point }, 19) => {
                let algorithm: &'static dyn VerificationAlgorithm = match (curve, self.hash) {
                    (_, Hash::Sha1) => return Err(OpenPgpError::Unsupported("ECDSA over SHA-1")),
                    (Curve::P256, Hash::Sha256) => &ECDSA_P256_SHA256_ASN1,
                    (Curve::P256, Hash::Sha384) => &ECDSA_P256_SHA384_ASN1,
                    (Curve::P256, Hash::Sha512) => &ECDSA_P256_SHA512_ASN1,
                    (Curve::P384, Hash::Sha256) => &ECDSA_P384_SHA256_ASN1,
                    (Curve::P384, Hash::Sha384) => &ECDSA_P384_SHA384_ASN1,
                    (Curve::P384, Hash::Sha512) => &ECDSA_P384_SHA512_ASN1,
                    (Curve::P521, Hash::Sha256) => &ECDSA_P521_SHA256_ASN1,
                    (Curve::P521, Hash::Sha384) => &ECDSA_P521_SHA384_ASN1,
                    (Curve::P521, Hash::Sha512) => &ECDSA_P521_SHA512_ASN1,
                };
                let signature = asn1_pair(integer(0)?, integer(1)?).ok_or(OpenPgpError::Bad)?;
                algorithm
                    .verify_sig(point, &message, &signature)
                    .map_err(|_| OpenPgpError::Bad)
            }
            (Material::Ed25519 { point }, 22) => {
                // What is signed is the digest, not the message (RFC 9580, section 5.2.3.3).
                let digested = digest::digest(
                    match self.hash {
                        Hash::Sha1 => return Err(OpenPgpError::Unsupported("Ed25519 over SHA-1")),
                        Hash::Sha256 => &digest::SHA256,
                        Hash::Sha384 => &digest::SHA384,
                        Hash::Sha512 => &digest::SHA512,
                    },
                    &message,
                );
                let half = |at: usize| padded(integer(at)?, 32).ok_or(OpenPgpError::Bad);
                let signature = [half(0)?, half(1)?].concat();
                UnparsedPublicKey::new(&ED25519, point)
                    .verify(digested.as_ref(), &signature)
                    .map_err(|_| OpenPgpError::Bad)
            }
            _ => Err(OpenPgpError::Bad),
        }
    }
}

/// A number with the zeros in front that it was written without.
fn padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let zeros = length.checked_sub(number.len())?;
    let mut padded = vec![0; zeros];
    padded.extend_from_slice(number);
    Some(padded)
}

/// `SEQUENCE { INTEGER, INTEGER }` in DER.
fn asn1_pair(r: &[u8], s: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    for number in [r, s] {
        let sign = usize::from(number.first().is_none_or(|first| *first >= 0x80));
        body.push(0x02);
        body.push(
            u8::try_from(number.len() + sign)
                .ok()
                .filter(|length| *length < 0x80)?,
        );
        body.extend(std::iter::repeat_n(0, sign));
        body.extend_from_slice(number);
    }
    let mut sequence = vec![0x30];
    match u8::try_from(body.len()).ok()? {
        short @ 0..0x80 => sequence.push(short),
        long => sequence.extend([0x81, long]),
    }
    sequence.extend(body);
    Some(sequence)
}

/// Subpackets whose meaning is known and that change nothing here.
const KNOWN: [u8; 12] = [4, 5, 7, 11, 20, 21, 22, 23, 25, 26, 28, 30];
