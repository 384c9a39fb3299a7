//! `ATTESTATION_REPORT`: 1184 bytes, of which the first 672 are signed (SEV-SNP Firmware ABI, 56860, section 7.3).
//!
//! The bytes are kept, because they are what was signed; the fields are read from them once. Every byte that the
//! specification reserves must be zero, so that no two texts mean the same report.

use std::fmt;

use strongroom_wire::tee::Tee;

use crate::VerifyError;
use crate::collateral::{SnpProduct, VcekTcb, Wanted};
use crate::x509::Certificate;

/// A report that was parsed, and of which nothing is believed.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    bytes: Vec<u8>,
    pub(crate) version: u32,
    pub(crate) guest_svn: u32,
    pub(crate) policy: Policy,
    pub(crate) family_id: [u8; 16],
    pub(crate) image_id: [u8; 16],
    pub(crate) vmpl: u32,
    pub(crate) signature_algorithm: u32,
    pub(crate) current_tcb: VcekTcb,
    pub(crate) platform_info: PlatformInfo,
    pub(crate) key_info: KeyInfo,
    pub(crate) report_data: [u8; 64],
    pub(crate) measurement: [u8; 48],
    pub(crate) host_data: [u8; 32],
    pub(crate) id_key_digest: [u8; 48],
    pub(crate) author_key_digest: [u8; 48],
    pub(crate) report_id: [u8; 32],
    pub(crate) report_id_ma: [u8; 32],
    pub(crate) reported_tcb: VcekTcb,
    /// Family, model and stepping, since version 3.
    pub(crate) cpuid: [u8; 3],
    /// 64 bytes; on Turin 8 and zeros. All zeros when the host masks it.
    pub(crate) chip_id: [u8; 64],
    pub(crate) committed_tcb: VcekTcb,
    pub(crate) current: FirmwareVersion,
    pub(crate) committed: FirmwareVersion,
    pub(crate) launch_tcb: VcekTcb,
    /// Which mitigations were on at launch and are on now, since version 5.
    pub(crate) mitigations: Option<(u64, u64)>,
}

impl Report {
    /// The bytes of a report.
    pub(crate) const LENGTH: usize = 1184;
    /// The bytes of it that its signature covers.
    pub(crate) const SIGNED: usize = 0x2A0;

    /// Parses a report: exactly 1184 bytes.
    ///
    /// Every version parses, so that a later step can say which one it does not accept. Up to version 2 the report
    /// does not name its product, and its TCB versions are read in the order that Milan and Genoa have.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, VerifyError> {
        let whole: &[u8; Self::LENGTH] = bytes.try_into().map_err(|_| {
            malformed(format!(
                "a report has {} bytes, not {}",
                Self::LENGTH,
                bytes.len()
            ))
        })?;
        let version = u32::from_le_bytes(peek(whole, VERSION_AT)?);
        let cpuid = match version {
            ..=2 => [0; 3],
            _ => peek(whole, CPUID_AT)?,
        };
        let product = product(cpuid);
        let mut fields = Fields(whole);
        let report = Self {
            bytes: whole.to_vec(),
            version: fields.u32()?,
            guest_svn: fields.u32()?,
            policy: Policy(fields.u64()?),
            family_id: fields.take()?,
            image_id: fields.take()?,
            vmpl: fields.u32()?,
            signature_algorithm: fields.u32()?,
            current_tcb: fields.tcb(product)?,
            platform_info: PlatformInfo(fields.u64()?),
            key_info: KeyInfo(fields.u32()?),
            report_data: {
                fields.reserved::<4>("after KEY_INFO")?;
                fields.take()?
            },
            measurement: fields.take()?,
            host_data: fields.take()?,
            id_key_digest: fields.take()?,
            author_key_digest: fields.take()?,
            report_id: fields.take()?,
            report_id_ma: fields.take()?,
            reported_tcb: fields.tcb(product)?,
            cpuid: {
                match version {
                    ..=2 => fields.reserved::<3>("after REPORTED_TCB")?,
                    _ => drop(fields.take::<3>()?),
                }
                cpuid
            },
            chip_id: {
                fields.reserved::<21>("before CHIP_ID")?;
                fields.take()?
            },
            committed_tcb: fields.tcb(product)?,
            current: fields.firmware()?,
            committed: fields.firmware()?,
            launch_tcb: fields.tcb(product)?,
            mitigations: match version {
                ..=4 => {
                    fields.reserved::<16>("after LAUNCH_TCB")?;
                    None
                }
                _ => Some((fields.u64()?, fields.u64()?)),
            },
        };
        match version {
            ..=5 => fields.reserved::<152>("before SIGNATURE")?,
            _ => drop(fields.take::<152>()?),
        }
        fields.take::<{ 2 * SCALAR }>()?;
        fields.reserved::<368>("after the signature's R and S")?;
        Ok(report)
    }

    /// The product line, by the processor's family and model. `None` for a report that does not name them, and for
    /// lines that are not known here.
    pub(crate) fn product(&self) -> Option<SnpProduct> {
        product(self.cpuid)
    }

    /// The signed bytes.
    pub(crate) fn signed(&self) -> &[u8] {
        self.bytes.get(..Self::SIGNED).unwrap_or_default()
    }

    /// The signature as 2 × 48 big-endian bytes. The report has 2 × 72 little-endian ones, of which a P-384 scalar
    /// fills the first 48 (56860, chapter 10).
    pub(crate) fn signature(&self) -> Result<[u8; 96], VerifyError> {
        let fields = self.bytes.get(Self::SIGNED..).unwrap_or_default();
        let mut out = [0; 96];
        for (half, scalar) in out.chunks_exact_mut(48).zip(fields.chunks_exact(SCALAR)) {
            let (low, high) = scalar
                .split_at_checked(48)
                .expect("a chunk has 72 bytes, which is more than 48");
            if high.iter().any(|byte| *byte != 0) {
                return Err(malformed(
                    "a scalar of the signature has over 384 bits".to_owned(),
                ));
            }
            for (to, from) in half.iter_mut().zip(low.iter().rev()) {
                *to = *from;
            }
        }
        Ok(out)
    }

    /// The chip's id as its VCEK certificate has it: on Turin the 8 bytes that are not padding.
    pub(crate) fn hardware_id(&self) -> &[u8] {
        match self.product() {
            Some(SnpProduct::Turin) => self.chip_id.first_chunk::<8>().map_or(&[], |id| id),
            _ => &self.chip_id,
        }
    }

    /// What a verification of this report needs when nobody sent a certificate along, and what it could use.
    pub(crate) fn wanted(&self, certificate_sent: bool) -> impl Iterator<Item = Wanted> {
        let product = self.product();
        let vcek = product
            // There is no service that gives out a VLEK certificate, nor one for a chip that hides its name.
            .filter(|_| {
                !certificate_sent
                    && self.key_info.signer() == Some(Signer::Vcek)
                    && self.chip_id != [0; 64]
            })
            .map(|product| self.wanted_vcek(product));
        let crl = product.map(|product| Wanted::AmdCrl { product });
        vcek.into_iter().chain(crl)
    }

    /// The certificate of the key that signed this report, when it is a VCEK.
    pub(crate) fn wanted_vcek(&self, product: SnpProduct) -> Wanted {
        Wanted::AmdVcek {
            product,
            chip_id: self.hardware_id().to_vec(),
            tcb: self.reported_tcb,
        }
    }
}

/// The guest's policy, which its owner set at launch (56860, section 4.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Policy(pub(crate) u64);

impl Policy {
    pub(crate) fn abi_minor(self) -> u8 {
        self.0.to_le_bytes()[0]
    }
    pub(crate) fn abi_major(self) -> u8 {
        self.0.to_le_bytes()[1]
    }
    pub(crate) fn smt_allowed(self) -> bool {
        bit(self.0, 16)
    }
    pub(crate) fn migrate_ma(self) -> bool {
        bit(self.0, 18)
    }
    pub(crate) fn debug_allowed(self) -> bool {
        bit(self.0, 19)
    }
    pub(crate) fn single_socket(self) -> bool {
        bit(self.0, 20)
    }
    pub(crate) fn cxl_allowed(self) -> bool {
        bit(self.0, 21)
    }
    pub(crate) fn mem_aes_256_xts(self) -> bool {
        bit(self.0, 22)
    }
    pub(crate) fn rapl_disabled(self) -> bool {
        bit(self.0, 23)
    }
    pub(crate) fn ciphertext_hiding(self) -> bool {
        bit(self.0, 24)
    }
    pub(crate) fn page_swap_disabled(self) -> bool {
        bit(self.0, 25)
    }
}

/// `PLATFORM_INFO`: how the host is set up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PlatformInfo(pub(crate) u64);

impl PlatformInfo {
    pub(crate) fn smt_enabled(self) -> bool {
        bit(self.0, 0)
    }
    pub(crate) fn tsme_enabled(self) -> bool {
        bit(self.0, 1)
    }
    pub(crate) fn ecc_enabled(self) -> bool {
        bit(self.0, 2)
    }
    pub(crate) fn rapl_disabled(self) -> bool {
        bit(self.0, 3)
    }
    pub(crate) fn ciphertext_hiding(self) -> bool {
        bit(self.0, 4)
    }
    pub(crate) fn alias_check_complete(self) -> bool {
        bit(self.0, 5)
    }
    pub(crate) fn tio_enabled(self) -> bool {
        bit(self.0, 7)
    }
}

/// `KEY_INFO`: which key signed, and whether whoever launched the guest signed for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct KeyInfo(pub(crate) u32);

impl KeyInfo {
    /// The digest of the author's key is part of the report.
    pub(crate) fn author_key(self) -> bool {
        bit(self.0.into(), 0)
    }
    /// The host does not let the chip's own key sign.
    pub(crate) fn mask_chip_key(self) -> bool {
        bit(self.0.into(), 1)
    }
    /// The three bits `SIGNING_KEY`.
    pub(crate) fn signing_key(self) -> u32 {
        (self.0 >> 2) & 7
    }
    /// What they mean; `None` for a report that nothing signed, and for reserved values.
    pub(crate) fn signer(self) -> Option<Signer> {
        match self.signing_key() {
            0 => Some(Signer::Vcek),
            1 => Some(Signer::Vlek),
            _ => None,
        }
    }
}

/// The two kinds of key that sign reports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Signer {
    /// The chip's, derived from its fuses and its TCB version.
    Vcek,
    /// A cloud provider's, which AMD gives out for a TCB version: it names no chip.
    Vlek,
}

impl Signer {
    /// Which kind of key a certificate certifies (57230, chapters 3 and 4: the subject's common name).
    pub(super) fn of(certificate: &Certificate) -> Option<Self> {
        match certificate.common_name().as_deref() {
            Some("SEV-VCEK") => Some(Self::Vcek),
            Some("SEV-VLEK") => Some(Self::Vlek),
            _ => None,
        }
    }

    /// Whether an authority of this name certifies this kind of key: the product line's ASK, or its ASVK (57230, 2).
    pub(super) fn is_certified_by(self, authority: &Certificate, product: SnpProduct) -> bool {
        let name = match self {
            Self::Vcek => format!("SEV-{product}"),
            Self::Vlek => format!("SEV-VLEK-{product}"),
        };
        authority.common_name() == Some(name)
    }

    /// The claim's value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
        }
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vcek => "a VCEK",
            Self::Vlek => "a VLEK",
        })
    }
}

/// A version of the SNP firmware: major, minor, build.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct FirmwareVersion {
    pub(crate) major: u8,
    pub(crate) minor: u8,
    pub(crate) build: u8,
}

impl fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// 56860, section 2.2, `TCB_VERSION`: Turin put the FMC first and moved the others up. Of a product that is not known
/// here the layout is not known either, and a later check refuses it.
fn parse_tcb(bytes: [u8; 8], product: Option<SnpProduct>) -> Result<VcekTcb, VerifyError> {
    let (tcb, reserved) = match (product, bytes) {
        (Some(SnpProduct::Turin), [fmc, bootloader, tee, snp, a, b, c, microcode]) => (
            VcekTcb {
                fmc: Some(fmc),
                bootloader,
                tee,
                snp,
                microcode,
            },
            [a, b, c, 0],
        ),
        (_, [bootloader, tee, a, b, c, d, snp, microcode]) => (
            VcekTcb {
                fmc: None,
                bootloader,
                tee,
                snp,
                microcode,
            },
            [a, b, c, d],
        ),
    };
    match product.is_none() || reserved == [0; 4] {
        true => Ok(tcb),
        false => Err(malformed(
            "reserved bytes of a TCB version are not zero".to_owned(),
        )),
    }
}

/// The bytes that [`parse_tcb`] reads. `None` when the product's layout has no room for an FMC version, or wants one.
pub(super) fn tcb_bytes(tcb: VcekTcb, product: Option<SnpProduct>) -> Option<[u8; 8]> {
    let VcekTcb {
        fmc,
        bootloader,
        tee,
        snp,
        microcode,
    } = tcb;
    match (product, fmc) {
        (Some(SnpProduct::Turin) | None, Some(fmc)) => {
            Some([fmc, bootloader, tee, snp, 0, 0, 0, microcode])
        }
        (Some(SnpProduct::Milan | SnpProduct::Genoa) | None, None) => {
            Some([bootloader, tee, 0, 0, 0, 0, snp, microcode])
        }
        (Some(SnpProduct::Turin), None)
        | (Some(SnpProduct::Milan | SnpProduct::Genoa), Some(_)) => None,
    }
}

/// The product line of a processor: `CPUID_FAM_ID` and `CPUID_MOD_ID` are family and model as CPUID extends them.
pub(super) fn product([family, model, _]: [u8; 3]) -> Option<SnpProduct> {
    match (family, model) {
        (0x19, 0x00..=0x0F) => Some(SnpProduct::Milan),
        (0x19, 0x10..=0x1F | 0xA0..=0xAE) => Some(SnpProduct::Genoa),
        (0x1A, 0x00..=0x11) => Some(SnpProduct::Turin),
        _ => None,
    }
}

pub(super) fn malformed(detail: String) -> VerifyError {
    VerifyError::Malformed {
        tee: Tee::Snp,
        detail,
    }
}

fn bit(word: u64, number: u32) -> bool {
    (word >> number) & 1 == 1
}

/// The fields that are left, read one after another.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], VerifyError> {
        let (field, rest) = self
            .0
            .split_first_chunk()
            .ok_or_else(|| malformed("the report ends within a field".to_owned()))?;
        self.0 = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, VerifyError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, VerifyError> {
        self.take().map(u64::from_le_bytes)
    }

    fn tcb(&mut self, product: Option<SnpProduct>) -> Result<VcekTcb, VerifyError> {
        parse_tcb(self.take()?, product)
    }

    fn firmware(&mut self) -> Result<FirmwareVersion, VerifyError> {
        let [build, minor, major] = self.take()?;
        self.reserved::<1>("after a firmware version")?;
        Ok(FirmwareVersion {
            major,
            minor,
            build,
        })
    }

    fn reserved<const N: usize>(&mut self, place: &str) -> Result<(), VerifyError> {
        match self.take::<N>()?.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(malformed(format!("reserved bytes {place} are not zero"))),
        }
    }
}

fn peek<const N: usize>(bytes: &[u8; Report::LENGTH], at: usize) -> Result<[u8; N], VerifyError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .ok_or_else(|| malformed("the report ends within a field".to_owned()))
}

const VERSION_AT: usize = 0;
const CPUID_AT: usize = 0x188;
/// The bytes of each of a signature's two numbers.
const SCALAR: usize = 72;
