//! The bytes of a DCAP quote: version 3 and 4 (Intel SGX ECDSA Quote Library Reference DCAP API, appendix A.4; Intel TDX DCAP
//! Quoting Library API, appendix A.3), and version 5 with the bodies of TDX 1.0, 1.5 and 1.5 with TDX Connect (the
//! latter's appendix A.4).
//!
//! Read by its lengths, from the front. A field that changes what is verified is not judged here: that is a check.

use crate::cursor::Cursor;

/// A quote, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct Quote {
    /// The quote without what follows it.
    raw: Vec<u8>,
    signed: usize,
    pub(crate) header: Header,
    pub(crate) body: Body,
    /// The body descriptor of version 5: its type and its size.
    pub(crate) descriptor: Option<(u16, u32)>,
    pub(crate) signature: SignatureData,
}

/// The quote header: 48 bytes.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) version: u16,
    pub(crate) att_key_type: u16,
    pub(crate) tee_type: u32,
    /// In version 3 the SVNs of quoting enclave and PCE, 2 bytes each.
    pub(crate) reserved: [u8; 4],
    pub(crate) vendor_id: [u8; 16],
    pub(crate) user_data: [u8; 20],
}

/// What the quote vouches for.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// An SGX enclave's report.
    Enclave(Box<EnclaveReport>),
    /// A TD's report.
    Td(Box<TdReport>),
}

/// The report of a TD: 584 bytes (TDX 1.0), 648 (TDX 1.5), or 885 (TDX 1.5 with TDX Connect).
#[derive(Clone, Debug)]
pub(crate) struct TdReport {
    pub(crate) tcb_svn: [u8; 16],
    pub(crate) mr_seam: [u8; 48],
    pub(crate) mrsigner_seam: [u8; 48],
    pub(crate) seam_attributes: [u8; 8],
    pub(crate) td_attributes: [u8; 8],
    pub(crate) xfam: [u8; 8],
    pub(crate) mr_td: [u8; 48],
    pub(crate) mr_config_id: [u8; 48],
    pub(crate) mr_owner: [u8; 48],
    pub(crate) mr_owner_config: [u8; 48],
    pub(crate) rtmrs: [[u8; 48]; 4],
    pub(crate) report_data: [u8; 64],
    /// `TEE_TCB_SVN_2` and `MRSERVICETD` of TDX 1.5.
    pub(crate) tdx15: Option<([u8; 16], [u8; 48])>,
}

impl TdReport {
    /// Bits 0 to 7 of the TD's attributes, the group TUD (TD under debug): by any of them its host sees into it, whether
    /// to read and write its memory (bit 0) or to profile it (bits 4 to 6). `dcap-qvl` lets them all pass where it is
    /// told to let debug TDs pass.
    pub(crate) fn is_debug(&self) -> bool {
        u64::from_le_bytes(self.td_attributes) & 0xff != 0
    }
}

/// The report of an SGX enclave: 384 bytes (Intel SDM, table 40-21; the fields of KSS by their names there).
#[derive(Clone, Debug)]
pub(crate) struct EnclaveReport {
    pub(crate) cpu_svn: [u8; 16],
    pub(crate) misc_select: [u8; 4],
    pub(crate) reserved1: [u8; 12],
    pub(crate) isv_ext_prod_id: [u8; 16],
    pub(crate) attributes_flags: [u8; 8],
    pub(crate) attributes_xfrm: [u8; 8],
    pub(crate) mr_enclave: [u8; 32],
    pub(crate) reserved2: [u8; 32],
    pub(crate) mr_signer: [u8; 32],
    pub(crate) reserved3: [u8; 32],
    pub(crate) config_id: [u8; 64],
    pub(crate) isv_prod_id: [u8; 2],
    pub(crate) isv_svn: [u8; 2],
    pub(crate) config_svn: [u8; 2],
    pub(crate) reserved4: [u8; 42],
    pub(crate) isv_family_id: [u8; 16],
    pub(crate) report_data: [u8; 64],
}

impl EnclaveReport {
    /// ATTRIBUTES.DEBUG: its host can read and write the enclave's memory.
    pub(crate) fn is_debug(&self) -> bool {
        u64::from_le_bytes(self.attributes_flags) & 0x02 != 0
    }

    /// ATTRIBUTES.KSS: the fields of key separation and sharing, CONFIGID among them, are in use.
    pub(crate) fn has_kss(&self) -> bool {
        u64::from_le_bytes(self.attributes_flags) & 0x80 != 0
    }
}

/// The ECDSA signature data that follows what is signed.
#[derive(Clone, Debug)]
pub(crate) struct SignatureData {
    pub(crate) signature: [u8; 64],
    pub(crate) attestation_key: [u8; 64],
    pub(crate) qe_report: [u8; 384],
    pub(crate) qe_report_signature: [u8; 64],
    pub(crate) qe_authentication_data: Vec<u8>,
    pub(crate) certification_type: u16,
    pub(crate) certification_data: Vec<u8>,
}

impl SignatureData {
    /// The report data of the quoting enclave's own report: its last 64 bytes.
    pub(crate) fn qe_report_data(&self) -> &[u8] {
        self.qe_report.last_chunk::<64>().map_or(&[], |data| data)
    }
}

/// Why some bytes are no quote.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum QuoteError {
    #[error("a quote of {actual} bytes, at most {limit}")]
    TooLong { actual: usize, limit: usize },
    #[error("a quote that ends within its {0}")]
    Truncated(&'static str),
    #[error("a quote of version {0}, which has no layout here")]
    Version(u16),
    #[error("a quote of the TEE type {0:#x}, which has no body here")]
    TeeType(u32),
    #[error(
        "a body of type {kind} and {size} bytes, wanted type 1 of 384, 2 of 584, 3 of 648 or 4 of 885"
    )]
    BodyType { kind: u16, size: u32 },
    #[error("certification data of type {0} where type 6 must be")]
    OuterCertification(u16),
    #[error("{0} bytes that no length accounts for")]
    Trailing(usize),
}

impl Quote {
    /// Parses a quote. Platforms hand it out in a buffer of a fixed size, so zeros may follow it, and nothing else.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, QuoteError> {
        if bytes.len() > MAX_QUOTE {
            return Err(QuoteError::TooLong {
                actual: bytes.len(),
                limit: MAX_QUOTE,
            });
        }
        let mut cursor = Cursor::new(bytes);
        let header = Header::read(&mut cursor).ok_or(QuoteError::Truncated("header"))?;
        let (descriptor, body) = match header.version {
            3 => (None, BodyKind::Enclave),
            4 => match header.tee_type {
                TEE_SGX => (None, BodyKind::Enclave),
                TEE_TDX => (None, BodyKind::Td10),
                other => return Err(QuoteError::TeeType(other)),
            },
            5 => {
                let read = |cursor: &mut Cursor<'_>| Some((cursor.u16()?, cursor.u32()?));
                let (kind, size) =
                    read(&mut cursor).ok_or(QuoteError::Truncated("body descriptor"))?;
                let body = match (kind, size) {
                    (1, 384) => BodyKind::Enclave,
                    (2, 584) => BodyKind::Td10,
                    (3, 648) => BodyKind::Td15,
                    (4, 885) => BodyKind::Td15Connect,
                    (kind, size) => return Err(QuoteError::BodyType { kind, size }),
                };
                (Some((kind, size)), body)
            }
            other => return Err(QuoteError::Version(other)),
        };
        let body = Body::read(&mut cursor, body).ok_or(QuoteError::Truncated("body"))?;
        let signed = bytes.len().saturating_sub(cursor.remaining());
        let signature = cursor
            .counted()
            .ok_or(QuoteError::Truncated("signature data"))?;
        let signature = match header.version {
            3 => SignatureData::read_v3(signature)?,
            _ => SignatureData::read_v4(signature)?,
        };
        let padding = cursor.rest();
        if padding.iter().any(|byte| *byte != 0) {
            return Err(QuoteError::Trailing(padding.len()));
        }
        let length = bytes.len().saturating_sub(padding.len());
        Ok(Self {
            raw: bytes.get(..length).unwrap_or_default().to_vec(),
            signed,
            header,
            body,
            descriptor,
            signature,
        })
    }

    /// The quote, without what follows it.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// What the attestation key signed: header, body descriptor and body.
    pub(crate) fn signed_bytes(&self) -> &[u8] {
        self.raw.get(..self.signed).unwrap_or_default()
    }

    /// The TD's report, when it is one's.
    pub(crate) fn td_report(&self) -> Option<&TdReport> {
        match &self.body {
            Body::Td(report) => Some(report),
            Body::Enclave(_) => None,
        }
    }

    /// The enclave's report, when it is one's.
    pub(crate) fn enclave_report(&self) -> Option<&EnclaveReport> {
        match &self.body {
            Body::Enclave(report) => Some(report),
            Body::Td(_) => None,
        }
    }
}

impl Header {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        Some(Self {
            version: cursor.u16()?,
            att_key_type: cursor.u16()?,
            tee_type: cursor.u32()?,
            reserved: cursor.array()?,
            vendor_id: cursor.array()?,
            user_data: cursor.array()?,
        })
    }
}

#[derive(Clone, Copy)]
enum BodyKind {
    Enclave,
    Td10,
    Td15,
    Td15Connect,
}

impl Body {
    fn read(cursor: &mut Cursor<'_>, kind: BodyKind) -> Option<Self> {
        match kind {
            BodyKind::Enclave => EnclaveReport::read(cursor).map(|r| Self::Enclave(Box::new(r))),
            BodyKind::Td10 => TdReport::read(cursor).map(|report| Self::Td(Box::new(report))),
            BodyKind::Td15 | BodyKind::Td15Connect => {
                let mut report = TdReport::read(cursor)?;
                report.tdx15 = Some((cursor.array()?, cursor.array()?));
                if let BodyKind::Td15Connect = kind {
                    // The TD's identity over its life and its devices: signed, and no claim.
                    cursor.take(237)?;
                }
                Some(Self::Td(Box::new(report)))
            }
        }
    }
}

impl TdReport {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        Some(Self {
            tcb_svn: cursor.array()?,
            mr_seam: cursor.array()?,
            mrsigner_seam: cursor.array()?,
            seam_attributes: cursor.array()?,
            td_attributes: cursor.array()?,
            xfam: cursor.array()?,
            mr_td: cursor.array()?,
            mr_config_id: cursor.array()?,
            mr_owner: cursor.array()?,
            mr_owner_config: cursor.array()?,
            rtmrs: [
                cursor.array()?,
                cursor.array()?,
                cursor.array()?,
                cursor.array()?,
            ],
            report_data: cursor.array()?,
            tdx15: None,
        })
    }
}

impl EnclaveReport {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        Some(Self {
            cpu_svn: cursor.array()?,
            misc_select: cursor.array()?,
            reserved1: cursor.array()?,
            isv_ext_prod_id: cursor.array()?,
            attributes_flags: cursor.array()?,
            attributes_xfrm: cursor.array()?,
            mr_enclave: cursor.array()?,
            reserved2: cursor.array()?,
            mr_signer: cursor.array()?,
            reserved3: cursor.array()?,
            config_id: cursor.array()?,
            isv_prod_id: cursor.array()?,
            isv_svn: cursor.array()?,
            config_svn: cursor.array()?,
            reserved4: cursor.array()?,
            isv_family_id: cursor.array()?,
            report_data: cursor.array()?,
        })
    }
}

impl SignatureData {
    fn read_v3(bytes: &[u8]) -> Result<Self, QuoteError> {
        let mut cursor = Cursor::new(bytes);
        let data = Self::read_key(&mut cursor)
            .and_then(|(signature, key)| Self::read_qe(&mut cursor, signature, key))
            .ok_or(QuoteError::Truncated("signature data"))?;
        data.ended_by(cursor)
    }

    /// From version 4 on, the quoting enclave's part is certification data of type 6.
    fn read_v4(bytes: &[u8]) -> Result<Self, QuoteError> {
        const CUT: QuoteError = QuoteError::Truncated("signature data");
        let mut cursor = Cursor::new(bytes);
        let (signature, key) = Self::read_key(&mut cursor).ok_or(CUT)?;
        match cursor.u16().ok_or(CUT)? {
            QE_REPORT_CERTIFICATION => {}
            other => return Err(QuoteError::OuterCertification(other)),
        }
        let mut inner = Cursor::new(cursor.counted().ok_or(CUT)?);
        let data = Self::read_qe(&mut inner, signature, key).ok_or(CUT)?;
        data.ended_by(inner)?.ended_by(cursor)
    }

    fn read_key(cursor: &mut Cursor<'_>) -> Option<([u8; 64], [u8; 64])> {
        Some((cursor.array()?, cursor.array()?))
    }

    fn read_qe(cursor: &mut Cursor<'_>, signature: [u8; 64], key: [u8; 64]) -> Option<Self> {
        let qe_report = cursor.array()?;
        let qe_report_signature = cursor.array()?;
        let authentication = usize::from(cursor.u16()?);
        let qe_authentication_data = cursor.take(authentication)?.to_vec();
        let certification_type = cursor.u16()?;
        let certification_data = cursor.counted()?.to_vec();
        Some(Self {
            signature,
            attestation_key: key,
            qe_report,
            qe_report_signature,
            qe_authentication_data,
            certification_type,
            certification_data,
        })
    }

    fn ended_by(self, cursor: Cursor<'_>) -> Result<Self, QuoteError> {
        match cursor.remaining() {
            0 => Ok(self),
            rest => Err(QuoteError::Trailing(rest)),
        }
    }
}

/// The TEE type of SGX.
pub(crate) const TEE_SGX: u32 = 0x00;
/// The TEE type of TDX.
pub(crate) const TEE_TDX: u32 = 0x81;
/// Real quotes have 4.7 to 5 kilobytes; the buffers that they come in have up to 16.
pub(crate) const MAX_QUOTE: usize = 32 * 1024;
const QE_REPORT_CERTIFICATION: u16 = 6;
