//! The public areas of keys (Part 2, 12.2): parsed, named, and the templates from which this project makes keys.

use crate::crypto::{UNCOMPRESSED_POINT, sha256};
use crate::marshal::{Reader, Unmarshalling, Writer};

/// `TPMT_PUBLIC`: a key, what it may do, and who may use it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Public {
    bytes: Vec<u8>,
    attributes: u32,
    key: PublicKey,
}

/// The public half of what a TPM holds, as far as this project uses it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PublicKey {
    /// RSA: big-endian numbers.
    Rsa {
        /// The modulus.
        modulus: Vec<u8>,
        /// The exponent.
        exponent: u32,
    },
    /// P-256: the coordinates of its point.
    P256 {
        /// The first one.
        x: [u8; 32],
        /// The second one.
        y: [u8; 32],
    },
    /// P-384.
    P384 {
        /// The first one.
        x: [u8; 48],
        /// The second one.
        y: [u8; 48],
    },
    /// Sealed data, or a key that is none of these.
    Other,
}

impl Public {
    /// Parses a `TPMT_PUBLIC` whose name is of SHA-256.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Unmarshalling> {
        let mut reader = Reader(bytes);
        let kind = reader.u16("type")?;
        let name_algorithm = reader.u16("nameAlg")?;
        if name_algorithm != ALG_SHA256 {
            return Err(Unmarshalling::Value {
                field: "nameAlg",
                wanted: "sha256",
                actual: name_algorithm.into(),
            });
        }
        let attributes = reader.u32("objectAttributes")?;
        reader.sized("authPolicy", MAX_DIGEST)?;
        let key = match kind {
            TYPE_RSA => {
                symmetric(&mut reader)?;
                scheme(&mut reader)?;
                reader.u16("keyBits")?;
                let exponent = match reader.u32("exponent")? {
                    // "the default exponent of 2^16 + 1"
                    0 => 65_537,
                    other => other,
                };
                let modulus = reader.sized("unique", MAX_RSA)?.to_vec();
                PublicKey::Rsa { modulus, exponent }
            }
            TYPE_ECC => {
                symmetric(&mut reader)?;
                scheme(&mut reader)?;
                let curve = reader.u16("curveID")?;
                if reader.u16("kdf")? != ALG_NULL {
                    reader.u16("the kdf's hash")?;
                }
                let x = reader.sized("x", MAX_ECC)?;
                let y = reader.sized("y", MAX_ECC)?;
                match curve {
                    CURVE_P256 => PublicKey::P256 {
                        x: padded("x", x)?,
                        y: padded("y", y)?,
                    },
                    CURVE_P384 => PublicKey::P384 {
                        x: padded("x", x)?,
                        y: padded("y", y)?,
                    },
                    _ => PublicKey::Other,
                }
            }
            _ => {
                reader.rest();
                PublicKey::Other
            }
        };
        reader.end("the public area")?;
        Ok(Self {
            bytes: bytes.to_vec(),
            attributes,
            key,
        })
    }

    /// `TPMT_PUBLIC`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `TPM2B_PUBLIC`, which is what enrolment of an attestation key takes.
    pub fn to_tpm2b(&self) -> Vec<u8> {
        let length = u16::try_from(self.bytes.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes(), self.bytes.as_slice()].concat()
    }

    /// Part 1, 16: the name, which covers everything here.
    pub fn name(&self) -> Vec<u8> {
        [ALG_SHA256.to_be_bytes().as_slice(), &sha256(&[&self.bytes])].concat()
    }

    /// The key itself.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The key as DER `SubjectPublicKeyInfo`; `None` for what is no key of RSA, P-256 or P-384.
    pub fn spki(&self) -> Option<Vec<u8>> {
        let point = |x: &[u8], y: &[u8]| [&[UNCOMPRESSED_POINT], x, y].concat();
        Some(match &self.key {
            PublicKey::Rsa { modulus, exponent } => {
                let key = der(
                    SEQUENCE,
                    &[unsigned(modulus), unsigned(&exponent.to_be_bytes())].concat(),
                );
                spki(RSA_ENCRYPTION, &key)
            }
            PublicKey::P256 { x, y } => spki(EC_P256, &point(x, y)),
            PublicKey::P384 { x, y } => spki(EC_P384, &point(x, y)),
            PublicKey::Other => return None,
        })
    }

    /// Whether it is a key on P-256 that protects other objects and never left its TPM: a salt can be sent to it.
    pub(crate) fn is_storage_key(&self) -> bool {
        let wanted = FIXED_TPM | FIXED_PARENT | SENSITIVE_ORIGIN | RESTRICTED | DECRYPT;
        self.attributes & (wanted | SIGN) == wanted && matches!(self.key, PublicKey::P256 { .. })
    }

    /// Whether it is a key that signs what its TPM made and nothing else.
    pub fn is_attestation_key(&self) -> bool {
        let wanted = FIXED_TPM | FIXED_PARENT | SENSITIVE_ORIGIN | RESTRICTED | SIGN;
        self.attributes & (wanted | DECRYPT) == wanted
    }
}

/// The storage root key on P-256 (TCG TPM 2.0 Provisioning Guidance, 7.5.1), as
/// `tpm2_createprimary -C o -g sha256 -G ecc256:null:aes128cfb` makes it with `noda` among its attributes.
pub(crate) fn storage_root_template() -> Writer {
    Writer::new()
        .u16(TYPE_ECC)
        .u16(ALG_SHA256)
        .u32(
            FIXED_TPM
                | FIXED_PARENT
                | SENSITIVE_ORIGIN
                | USER_WITH_AUTH
                | NO_DA
                | RESTRICTED
                | DECRYPT,
        )
        .sized(&[])
        .u16(ALG_AES)
        .u16(128)
        .u16(ALG_CFB)
        .u16(ALG_NULL)
        .u16(CURVE_P256)
        .u16(ALG_NULL)
        .sized(&[])
        .sized(&[])
}

/// An attestation key on P-256: it signs what the TPM made, with ECDSA and SHA-256.
pub(crate) fn p256_attestation_template() -> Writer {
    Writer::new()
        .u16(TYPE_ECC)
        .u16(ALG_SHA256)
        .u32(ATTESTATION)
        .sized(&[])
        .u16(ALG_NULL)
        .u16(ALG_ECDSA)
        .u16(ALG_SHA256)
        .u16(CURVE_P256)
        .u16(ALG_NULL)
        .sized(&[])
        .sized(&[])
}

/// The same of RSA-2048, with PKCS #1 v1.5 and SHA-256: what other verifiers of `tpm` evidence know.
pub(crate) fn rsa_attestation_template() -> Writer {
    Writer::new()
        .u16(TYPE_RSA)
        .u16(ALG_SHA256)
        .u32(ATTESTATION)
        .sized(&[])
        .u16(ALG_NULL)
        .u16(ALG_RSASSA)
        .u16(ALG_SHA256)
        .u16(2048)
        .u32(0)
        .sized(&[])
}

/// The endorsement key of RSA-2048 (TCG EK Credential Profile, template L-1): the TPM's maker certified it.
pub(crate) fn endorsement_template() -> Writer {
    Writer::new()
        .u16(TYPE_RSA)
        .u16(ALG_SHA256)
        .u32(FIXED_TPM | FIXED_PARENT | SENSITIVE_ORIGIN | ADMIN_WITH_POLICY | RESTRICTED | DECRYPT)
        .sized(&ENDORSEMENT_POLICY)
        .u16(ALG_AES)
        .u16(128)
        .u16(ALG_CFB)
        .u16(ALG_NULL)
        .u16(2048)
        .u32(0)
        .sized(&[0; 256])
}

/// Sealed data: opened under the policy, or by whoever may use its parent when there is none.
pub(crate) fn sealed_template(policy: Option<&[u8; 32]>) -> Writer {
    // Its password is empty: guessing it must not lock the TPM, and a locked TPM must not keep it shut.
    let attributes = FIXED_TPM | FIXED_PARENT | NO_DA;
    let (attributes, policy) = match policy {
        Some(policy) => (attributes, policy.as_slice()),
        None => (attributes | USER_WITH_AUTH, [].as_slice()),
    };
    Writer::new()
        .u16(TYPE_KEYED_HASH)
        .u16(ALG_SHA256)
        .u32(attributes)
        .sized(policy)
        .u16(ALG_NULL)
        .sized(&[])
}

fn symmetric(reader: &mut Reader<'_>) -> Result<(), Unmarshalling> {
    if reader.u16("symmetric")? != ALG_NULL {
        reader.u16("the symmetric key's length")?;
        reader.u16("the symmetric mode")?;
    }
    Ok(())
}

fn scheme(reader: &mut Reader<'_>) -> Result<(), Unmarshalling> {
    match reader.u16("scheme")? {
        ALG_NULL | ALG_RSAES => {}
        ALG_ECDAA => {
            reader.u16("the scheme's hash")?;
            reader.u16("the scheme's count")?;
        }
        _ => {
            reader.u16("the scheme's hash")?;
        }
    }
    Ok(())
}

/// A TPM may leave out leading zeros.
fn padded<const N: usize>(field: &'static str, number: &[u8]) -> Result<[u8; N], Unmarshalling> {
    let mut wide = [0; N];
    let too_long = || Unmarshalling::Length {
        field,
        limit: u64::try_from(N).unwrap_or(u64::MAX),
        actual: u64::try_from(number.len()).unwrap_or(u64::MAX),
    };
    let start = N.checked_sub(number.len()).ok_or_else(too_long)?;
    let (_, end) = wide.split_at_mut(start);
    end.copy_from_slice(number);
    Ok(wide)
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let bits = der(BIT_STRING, &[&[0], key].concat());
    der(SEQUENCE, &[algorithm, &bits].concat())
}

/// INTEGER: without leading zeros but the one that keeps it positive.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|byte| *byte != 0);
    let number = start.and_then(|start| number.get(start..));
    match number {
        Some([first, ..]) if *first < 0x80 => der(INTEGER, number.unwrap_or_default()),
        Some(number) => der(INTEGER, &[&[0], number].concat()),
        None => der(INTEGER, &[0]),
    }
}

/// A value of fewer than 65,536 bytes (X.690, 8.1.3): a public area has no more.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes();
    let head = match (high, low) {
        (0, low @ ..0x80) => vec![tag, low],
        (0, low) => vec![tag, 0x81, low],
        (high, low) => vec![tag, 0x82, high, low],
    };
    [head.as_slice(), content].concat()
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
/// `AlgorithmIdentifier`: rsaEncryption with NULL (RFC 3279, 2.3.1).
const RSA_ENCRYPTION: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
/// `AlgorithmIdentifier`: id-ecPublicKey with secp256r1 (RFC 5480, 2.1.1).
const EC_P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
/// `AlgorithmIdentifier`: id-ecPublicKey with secp384r1.
const EC_P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];

/// `TPMA_OBJECT` (Part 2, 8.3).
const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_ORIGIN: u32 = 1 << 5;
const USER_WITH_AUTH: u32 = 1 << 6;
const ADMIN_WITH_POLICY: u32 = 1 << 7;
const NO_DA: u32 = 1 << 10;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;
const ATTESTATION: u32 =
    FIXED_TPM | FIXED_PARENT | SENSITIVE_ORIGIN | USER_WITH_AUTH | NO_DA | RESTRICTED | SIGN;

/// The endorsement hierarchy's password is asked for (EK Credential Profile, B.6.2): a session that saw
/// `TPM2_PolicySecret` of it holds this digest.
const ENDORSEMENT_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];

const TYPE_RSA: u16 = 0x0001;
const TYPE_KEYED_HASH: u16 = 0x0008;
const TYPE_ECC: u16 = 0x0023;
const ALG_AES: u16 = 0x0006;
pub(crate) const ALG_SHA256: u16 = 0x000B;
pub(crate) const ALG_NULL: u16 = 0x0010;
pub(crate) const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAES: u16 = 0x0015;
pub(crate) const ALG_ECDSA: u16 = 0x0018;
const ALG_ECDAA: u16 = 0x001A;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;
const CURVE_P384: u16 = 0x0004;
const MAX_DIGEST: u16 = 64;
pub(crate) const MAX_RSA: u16 = 512;
/// P-521.
pub(crate) const MAX_ECC: u16 = 66;
/// RSA-4096 with everything beside it.
pub(crate) const MAX_PUBLIC: u16 = 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn p256(x: &[u8]) -> Vec<u8> {
        let template = p256_attestation_template().finish("test").unwrap();
        let head = &template[..template.len() - 4];
        let point = Writer::new()
            .sized(x)
            .sized(&[2; 32])
            .finish("test")
            .unwrap();
        [head, &point].concat()
    }

    #[test]
    fn coordinate_without_its_leading_zeros_is_padded() {
        let public = Public::parse(&p256(&[1; 31])).unwrap();
        let PublicKey::P256 { x, .. } = public.key() else {
            panic!("{public:?}")
        };
        assert_eq!((x[0], x[1]), (0, 1));
        assert_eq!(public.spki().unwrap().len(), 91);
        assert!(Public::parse(&p256(&[1; 33])).is_err());
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = p256(&[1; 32]);
        assert!(Public::parse(&whole).unwrap().is_attestation_key());
        for length in 0..whole.len() {
            assert!(Public::parse(&whole[..length]).is_err(), "{length}");
        }
        assert!(Public::parse(&[whole, vec![0]].concat()).is_err());
    }

    #[test]
    fn key_that_may_sign_anything_is_no_attestation_key() {
        let mut bytes = p256(&[1; 32]);
        bytes[5] &= !1;
        assert!(!Public::parse(&bytes).unwrap().is_attestation_key());
        let storage = storage_root_template().finish("test").unwrap();
        let storage = Public::parse(&storage).unwrap();
        assert!(storage.is_storage_key() && !storage.is_attestation_key());
    }
}
