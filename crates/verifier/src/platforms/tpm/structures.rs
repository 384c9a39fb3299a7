//! The structures of a quote as a TPM marshals them (TPM 2.0 Library Part 2, 10.12 and 11.3): big-endian, no padding.
//!
//! Parsed only; [`super::quote`] judges. Every length is checked against what is there and against what the
//! specification allows before anything is copied.

use std::fmt;

/// `TPMS_ATTEST` (10.12): what a TPM signs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Attest {
    pub(crate) magic: u32,
    /// `TPMI_ST_ATTEST`: what kind of attestation it is.
    pub(crate) kind: u16,
    /// `TPM2B_NAME` of the signing key, with those of its parents.
    pub(crate) qualified_signer: Vec<u8>,
    /// The caller's own data.
    pub(crate) extra_data: Vec<u8>,
    pub(crate) clock: ClockInfo,
    pub(crate) firmware_version: u64,
    /// `None` when the attestation is of another kind: its body is then not looked at.
    pub(crate) quote: Option<QuoteInfo>,
}

impl Attest {
    /// Parses an attestation to its last byte.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Unmarshalling> {
        let mut reader = Reader(bytes);
        let magic = reader.u32("magic")?;
        let kind = reader.u16("type")?;
        let mut attest = Self {
            magic,
            kind,
            qualified_signer: reader.sized("qualifiedSigner", MAX_NAME)?.to_vec(),
            extra_data: reader.sized("extraData", MAX_EXTRA_DATA)?.to_vec(),
            clock: ClockInfo::parse(&mut reader)?,
            firmware_version: reader.u64("firmwareVersion")?,
            quote: None,
        };
        if kind == ST_ATTEST_QUOTE {
            attest.quote = Some(QuoteInfo::parse(&mut reader)?);
            reader.end("the quote")?;
        }
        Ok(attest)
    }
}

/// `TPMS_CLOCK_INFO` (10.11): when, by the TPM's own count.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ClockInfo {
    /// Milliseconds that the TPM was powered, over all its life.
    pub(crate) clock: u64,
    /// How often it was reset.
    pub(crate) reset_count: u32,
    /// How often it was restarted or resumed since.
    pub(crate) restart_count: u32,
    /// Whether no greater value of `clock` was reported before.
    pub(crate) safe: bool,
}

impl ClockInfo {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, Unmarshalling> {
        Ok(Self {
            clock: reader.u64("clock")?,
            reset_count: reader.u32("resetCount")?,
            restart_count: reader.u32("restartCount")?,
            safe: match reader.u8("safe")? {
                0 => false,
                1 => true,
                other => {
                    return Err(Unmarshalling::Value {
                        field: "safe",
                        wanted: "0 or 1",
                        actual: other.into(),
                    });
                }
            },
        })
    }
}

/// `TPMS_QUOTE_INFO` (10.12): which PCRs, and their digest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct QuoteInfo {
    pub(crate) selections: Vec<PcrSelection>,
    pub(crate) pcr_digest: Vec<u8>,
}

impl QuoteInfo {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, Unmarshalling> {
        let count = reader.u32("the count of PCR selections")?;
        if count > MAX_SELECTIONS {
            return Err(Unmarshalling::Length {
                field: "the list of PCR selections",
                limit: u64::from(MAX_SELECTIONS),
                actual: u64::from(count),
            });
        }
        let selections = (0..count)
            .map(|_| PcrSelection::parse(reader))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            selections,
            pcr_digest: reader.sized("pcrDigest", MAX_DIGEST)?.to_vec(),
        })
    }
}

/// `TPMS_PCR_SELECTION` (10.6): a bank, and which of its PCRs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PcrSelection {
    /// `TPMI_ALG_HASH`: the bank.
    pub(crate) bank: u16,
    /// The numbers of the selected PCRs, in their order.
    pub(crate) indices: Vec<u8>,
}

impl PcrSelection {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, Unmarshalling> {
        let bank = reader.u16("a PCR selection's bank")?;
        let length = reader.u8("sizeofSelect")?;
        if length > MAX_SELECT {
            return Err(Unmarshalling::Length {
                field: "pcrSelect",
                limit: MAX_SELECT.into(),
                actual: length.into(),
            });
        }
        let bitmap = reader.bytes("pcrSelect", length.into())?;
        // Bit 0 of byte 0 is PCR 0, bit 0 of byte 1 is PCR 8.
        let indices = (0..8 * length)
            .zip(
                bitmap
                    .iter()
                    .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)),
            )
            .filter_map(|(index, selected)| selected.then_some(index))
            .collect();
        Ok(Self { bank, indices })
    }
}

/// `TPMT_SIGNATURE` (11.3.4): the scheme, its hash and the numbers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Signature {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa { hash: u16, signature: Vec<u8> },
    /// ECDSA: two big-endian numbers, which a TPM may send without their leading zeros.
    Ecdsa { hash: u16, r: Vec<u8>, s: Vec<u8> },
    /// A scheme that nothing here verifies, by its `TPM_ALG_ID`.
    Other(u16),
}

impl Signature {
    /// Parses a signature to its last byte.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Unmarshalling> {
        let mut reader = Reader(bytes);
        let signature = match reader.u16("sigAlg")? {
            ALG_RSASSA => Self::RsaSsa {
                hash: reader.u16("the signature's hash")?,
                signature: reader.sized("the RSA signature", MAX_RSA)?.to_vec(),
            },
            ALG_ECDSA => Self::Ecdsa {
                hash: reader.u16("the signature's hash")?,
                r: reader.sized("signatureR", MAX_ECC)?.to_vec(),
                s: reader.sized("signatureS", MAX_ECC)?.to_vec(),
            },
            other => return Ok(Self::Other(other)),
        };
        reader.end("the signature")?;
        Ok(signature)
    }

    /// `TPM_ALG_ID` of the scheme and of its hash.
    pub(crate) fn algorithms(&self) -> (u16, Option<u16>) {
        match self {
            Self::RsaSsa { hash, .. } => (ALG_RSASSA, Some(*hash)),
            Self::Ecdsa { hash, .. } => (ALG_ECDSA, Some(*hash)),
            Self::Other(scheme) => (*scheme, None),
        }
    }
}

/// The name of a `TPM_ALG_ID`, as `tpm2-tools` and policies spell it.
pub(crate) fn algorithm_name(id: u16) -> String {
    match id {
        0x0004 => "sha1".to_owned(),
        ALG_SHA256 => "sha256".to_owned(),
        ALG_SHA384 => "sha384".to_owned(),
        0x000D => "sha512".to_owned(),
        ALG_RSASSA => "rsassa".to_owned(),
        0x0016 => "rsapss".to_owned(),
        ALG_ECDSA => "ecdsa".to_owned(),
        other => format!("TPM_ALG_ID {other:#06x}"),
    }
}

/// Why bytes are not the structure that they should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unmarshalling {
    #[error("{field} is cut short: {wanted} bytes wanted, {actual} left")]
    Short {
        field: &'static str,
        wanted: usize,
        actual: usize,
    },
    #[error("{field} has the length {actual}, at most {limit}")]
    Length {
        field: &'static str,
        limit: u64,
        actual: u64,
    },
    #[error("{field} is {actual}, wanted {wanted}")]
    Value {
        field: &'static str,
        wanted: &'static str,
        actual: u64,
    },
    #[error("{count} bytes follow {field}")]
    Trailing { field: &'static str, count: usize },
}

/// Takes big-endian fields off the front of a slice.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], Unmarshalling> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Unmarshalling::Short {
                field,
                wanted: length,
                actual: self.0.len(),
            })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Unmarshalling> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(field, N)?);
        Ok(array)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, Unmarshalling> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, Unmarshalling> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, Unmarshalling> {
        self.array(field).map(u32::from_be_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, Unmarshalling> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// `TPM2B_*` (10.4): a length of two bytes, then as many.
    pub(crate) fn sized(
        &mut self,
        field: &'static str,
        limit: u16,
    ) -> Result<&'a [u8], Unmarshalling> {
        let length = self.u16(field)?;
        if length > limit {
            return Err(Unmarshalling::Length {
                field,
                limit: limit.into(),
                actual: length.into(),
            });
        }
        self.bytes(field, length.into())
    }

    pub(crate) fn end(&self, field: &'static str) -> Result<(), Unmarshalling> {
        match self.0.len() {
            0 => Ok(()),
            count => Err(Unmarshalling::Trailing { field, count }),
        }
    }
}

impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", algorithm_name(self.bank))?;
        for (position, index) in self.indices.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma}{index}")?;
        }
        Ok(())
    }
}

/// `TPM_GENERATED_VALUE` (6.2): no key that signs attestations signs anything else that begins so.
pub(crate) const GENERATED: u32 = 0xFF54_4347;
/// `TPM_ST_ATTEST_QUOTE` (6.9).
pub(crate) const ST_ATTEST_QUOTE: u16 = 0x8018;
/// `TPM_ALG_ID` (6.3).
pub(crate) const ALG_SHA256: u16 = 0x000B;
pub(crate) const ALG_SHA384: u16 = 0x000C;
pub(crate) const ALG_RSASSA: u16 = 0x0014;
pub(crate) const ALG_ECDSA: u16 = 0x0018;

/// A hash algorithm's number, then a digest.
const MAX_NAME: u16 = 2 + MAX_DIGEST;
/// `TPM2B_DATA` is as long as `TPMT_HA`.
const MAX_EXTRA_DATA: u16 = 2 + MAX_DIGEST;
const MAX_DIGEST: u16 = 64;
const MAX_RSA: u16 = 512;
/// P-521.
const MAX_ECC: u16 = 66;
/// No TPM has so many banks.
const MAX_SELECTIONS: u32 = 16;
/// 32 PCRs; a PC's TPM has 24.
const MAX_SELECT: u8 = 4;
