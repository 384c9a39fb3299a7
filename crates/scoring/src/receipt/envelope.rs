//! The envelope of a receipt (DSSE, <https://github.com/secure-systems-lab/dsse>): one signature, ECDSA P-256 with
//! SHA-256 in ASN.1 as `openssl dgst -verify` takes it, and in its `extension` the key and what vouches for it.
//!
//! Stricter than DSSE asks: members that this profile does not know are refused. None of them would be signed.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use strongroom_wire::jwk::{EcCurve, TeePublicKey};

use super::{Attestation, MAX_PAYLOAD, Receipt, ReceiptError, Statement, place};

/// A receipt of which nothing is believed.
pub struct UnverifiedReceipt {
    payload: Vec<u8>,
    signature: Vec<u8>,
    key: PublicKey,
    attestation: Attestation,
}

impl UnverifiedReceipt {
    /// The longest receipt: evidence with an event log, and the digests of ten thousand files.
    pub const MAX_BYTES: usize = 12 << 20;

    /// Reads an envelope. Its payload stays unread until the signature holds.
    ///
    /// # Errors
    /// When it is too long, is no envelope, or its key is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        if bytes.len() > Self::MAX_BYTES {
            let limit = Self::MAX_BYTES;
            return Err(ReceiptError::TooLong { limit });
        }
        let envelope: Envelope =
            serde_json::from_slice(bytes).map_err(|error| ReceiptError::Envelope(place(&error)))?;
        let [signature] = envelope.signatures;
        let decoded = |text: &str, what: &str| {
            let bytes = STANDARD.decode(text);
            bytes.map_err(|_| ReceiptError::Envelope(format!("{what} is not base64")))
        };
        let Ext {
            key,
            tee,
            evidence,
            initdata,
        } = signature.extension.ext;
        if key.thumbprint() != signature.keyid {
            return Err(ReceiptError::KeyId);
        }
        Ok(Self {
            payload: decoded(&envelope.payload, "payload")?,
            signature: decoded(&signature.sig, "sig")?,
            key,
            attestation: Attestation {
                tee,
                evidence,
                initdata,
            },
        })
    }

    /// Checks the signature, and only then reads what it is over.
    ///
    /// # Errors
    /// When it does not hold, or what it is over is no statement of a job.
    pub fn verify(self) -> Result<Receipt, ReceiptError> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.key.point())
            .verify(&signed_bytes(&self.payload), &self.signature)
            .map_err(|_| ReceiptError::Signature)?;
        Ok(Receipt {
            statement: Statement::parse(&self.payload)?,
            attestation: self.attestation,
            key: self.key,
        })
    }
}

/// What is signed: the payload with its type (DSSE protocol, PAE).
pub(super) fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {PAYLOAD_TYPE} {} ",
        PAYLOAD_TYPE.len(),
        payload.len()
    );
    [head.as_bytes(), payload].concat()
}

pub(super) fn print(
    payload: &[u8],
    signature: &[u8],
    key: &PublicKey,
    attestation: Attestation,
) -> Result<Vec<u8>, ReceiptError> {
    let Attestation {
        tee,
        evidence,
        initdata,
    } = attestation;
    let envelope = Envelope {
        payload: STANDARD.encode(payload),
        payload_type: PayloadType::InToto,
        signatures: [Signature {
            keyid: key.thumbprint(),
            sig: STANDARD.encode(signature),
            extension: Extension {
                kind: ExtensionKind::V1,
                ext: Ext {
                    key: key.clone(),
                    tee,
                    evidence,
                    initdata,
                },
            },
        }],
    };
    let mut bytes =
        serde_json::to_vec(&envelope).map_err(|error| ReceiptError::Envelope(place(&error)))?;
    bytes.push(b'\n');
    match bytes.len() > UnverifiedReceipt::MAX_BYTES {
        true => Err(ReceiptError::TooLong {
            limit: UnverifiedReceipt::MAX_BYTES,
        }),
        false => Ok(bytes),
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: PayloadType,
    signatures: [Signature; 1],
}

#[derive(Deserialize, Serialize)]
enum PayloadType {
    #[serde(rename = "application/vnd.in-toto+json")]
    InToto,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    keyid: String,
    sig: String,
    extension: Extension,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Extension {
    kind: ExtensionKind,
    ext: Ext,
}

#[derive(Deserialize, Serialize)]
enum ExtensionKind {
    #[serde(rename = "urn:strongroom:attested-key:1")]
    V1,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Ext {
    key: PublicKey,
    tee: String,
    evidence: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    initdata: Option<String>,
}

/// A P-256 key that verifies signatures, as a JWK (RFC 7517).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Jwk", into = "Jwk")]
pub(super) struct PublicKey {
    x: [u8; 32],
    y: [u8; 32],
}

impl PublicKey {
    /// Of an uncompressed point (SEC 1, 2.3.3).
    pub(super) fn of_point(point: &[u8]) -> Option<Self> {
        let (0x04, rest) = point.split_first()? else {
            return None;
        };
        let (x, y) = rest.split_at_checked(32)?;
        Some(Self {
            x: x.try_into().ok()?,
            y: y.try_into().ok()?,
        })
    }

    fn point(&self) -> Vec<u8> {
        [&[0x04], &self.x[..], &self.y].concat()
    }

    /// SHA-256 over the required members, which are the same whatever the key is for (RFC 7638).
    pub(super) fn thumbprint(&self) -> String {
        let key = TeePublicKey::Ec {
            crv: EcCurve::P256,
            x: self.x.to_vec(),
            y: self.y.to_vec(),
        };
        key.thumbprint()
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
}

impl TryFrom<Jwk> for PublicKey {
    type Error = &'static str;

    fn try_from(jwk: Jwk) -> Result<Self, &'static str> {
        if (jwk.kty.as_str(), jwk.crv.as_str()) != ("EC", "P-256") {
            return Err("the key is not of the curve P-256");
        }
        let coordinate = |text: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            <[u8; 32]>::try_from(bytes).ok()
        };
        match (coordinate(&jwk.x), coordinate(&jwk.y)) {
            (Some(x), Some(y)) => Ok(Self { x, y }),
            _ => Err("a coordinate of the key is not 32 bytes in base64url"),
        }
    }
}

impl From<PublicKey> for Jwk {
    fn from(key: PublicKey) -> Self {
        Self {
            kty: "EC".to_owned(),
            crv: "P-256".to_owned(),
            x: URL_SAFE_NO_PAD.encode(key.x),
            y: URL_SAFE_NO_PAD.encode(key.y),
        }
    }
}

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

// What fits into an envelope besides its payload.
const _: () = assert!(UnverifiedReceipt::MAX_BYTES > MAX_PAYLOAD / 3 * 4 + (4 << 20));
