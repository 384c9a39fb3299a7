//! Public keys from the numbers that a TPM and Azure's paravisor give: a modulus and an exponent, or a point.

use const_oid::ObjectIdentifier;
use der::asn1::{AnyRef, BitString, UintRef};
use der::{Encode, Sequence};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::x509::{PublicKey, X509Error};

/// An RSA key (RFC 3279, 2.3.1) of big-endian numbers.
pub(crate) fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, X509Error> {
    if modulus.is_empty() || exponent.is_empty() {
        return Err(X509Error::Malformed("a number without bytes".to_owned()));
    }
    let spki = (|| {
        let key = RsaPublicKey {
            modulus: UintRef::new(modulus)?,
            public_exponent: UintRef::new(exponent)?,
        };
        spki(RSA, AnyRef::NULL, &key.to_der()?)
    })();
    PublicKey::from_spki(&spki.map_err(malformed)?)
}

/// A key on P-256 or P-384 (RFC 5480), by the big-endian coordinates of its point, as long as the curve's field.
pub(crate) fn curve_key(
    curve: ObjectIdentifier,
    x: &[u8],
    y: &[u8],
) -> Result<PublicKey, X509Error> {
    let point = [&[UNCOMPRESSED_POINT], x, y].concat();
    let spki = spki(EC, AnyRef::from(&curve), &point);
    PublicKey::from_spki(&spki.map_err(malformed)?)
}

fn spki(
    algorithm: ObjectIdentifier,
    parameters: AnyRef<'_>,
    key: &[u8],
) -> Result<Vec<u8>, der::Error> {
    SubjectPublicKeyInfoOwned {
        algorithm: AlgorithmIdentifierOwned {
            oid: algorithm,
            parameters: Some(parameters.into()),
        },
        subject_public_key: BitString::from_bytes(key)?,
    }
    .to_der()
}

fn malformed(error: der::Error) -> X509Error {
    X509Error::Malformed(error.to_string())
}

/// RFC 8017, A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

pub(crate) const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
pub(crate) const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// SEC 1, 2.3.3.
const UNCOMPRESSED_POINT: u8 = 4;
