//! Quotes of Intel TDX and the event log beside them, for development.
//!
//! TDX DCAP quoting library API, appendix A.3 (versions 4 and 5); the log is that of the TCG PC Client Platform
//! Firmware Profile, crypto agile, with the measurement registers of the Guest-Host Communication Interface.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::intel::{Header, PckFields, Quoting, TDX_COMPONENTS};
use super::{DevelopmentError, DevelopmentRoot, Tampering, sha384, tamper};

pub use super::intel::{Collateral, EnclaveReport, Status, TcbLevel};

/// One quote of a trust domain: honest as it is made, and every field to change.
#[derive(Clone, Debug)]
pub struct Forge {
    /// The root whose keys sign.
    pub root: DevelopmentRoot,
    /// The quote's header.
    pub header: Header,
    /// Which body, and whether the quote says so.
    pub format: Format,
    /// The body.
    pub report: TdReport,
    /// The quoting enclave's part.
    pub quoting: Quoting,
    /// The platform's certificate.
    pub pck: PckFields,
    /// The event log that is sent along. [`Self::with_event_log`] keeps the registers in step with it.
    pub event_log: Option<Vec<Event>>,
    /// Bits of the quote that are turned after it was signed.
    pub tampering: Tampering,
}

/// Version and body of a quote.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Version 4, which has the body of TDX 1.0.
    V4,
    /// Version 5 with the body of TDX 1.0.
    V5Td10,
    /// Version 5 with the body of TDX 1.5.
    V5Td15,
}

impl Forge {
    /// A quote of version 4, with an event log.
    pub fn new(root: &DevelopmentRoot) -> Self {
        Self::of(root, Format::V4)
    }

    /// A quote of that format, with an event log.
    pub fn of(root: &DevelopmentRoot, format: Format) -> Self {
        let version = match format {
            Format::V4 => 4,
            Format::V5Td10 | Format::V5Td15 => 5,
        };
        let forge = Self {
            root: root.clone(),
            header: Header::new(version, true),
            format,
            report: TdReport {
                tee_tcb_svn: TDX_COMPONENTS,
                mr_seam: sha384(b"strongroom development TDX module"),
                mr_signer_seam: [0; 48],
                seam_attributes: [0; 8],
                // SEPT_VE_DISABLE.
                td_attributes: [0, 0, 0, 0x10, 0, 0, 0, 0],
                xfam: [0xe7, 2, 6, 0, 0, 0, 0, 0],
                mr_td: sha384(b"strongroom development guest"),
                mr_config_id: [0; 48],
                mr_owner: [0; 48],
                mr_owner_config: [0; 48],
                rtmr: [[0; 48]; 4],
                report_data: [0; 64],
                tee_tcb_svn2: TDX_COMPONENTS,
                mr_service_td: [0; 48],
            },
            quoting: Quoting::new(root, true),
            pck: PckFields::new(root),
            event_log: None,
            tampering: Vec::new(),
        };
        forge.with_event_log(Event::boot())
    }

    /// The report data: at most 64 bytes, padded with zeros.
    #[must_use]
    pub fn with_report_data(mut self, report_data: &[u8]) -> Self {
        self.report.report_data = super::fitted(report_data);
        self
    }

    /// The digest of the init-data, fitted into `MRCONFIGID`.
    #[must_use]
    pub fn with_initdata(mut self, digest: &[u8]) -> Self {
        self.report.mr_config_id = super::fitted(digest);
        self
    }

    /// The events that happened: the log has them, and the registers are what they extend to.
    #[must_use]
    pub fn with_event_log(mut self, events: Vec<Event>) -> Self {
        self.report.rtmr = replay(&events);
        self.event_log = Some(events);
        self
    }

    /// The quote.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn quote_bytes(&self) -> Result<Vec<u8>, DevelopmentError> {
        let mut signed = self.header.to_bytes();
        let body = self.report.to_bytes(self.format == Format::V5Td15);
        let kind = match self.format {
            Format::V4 => None,
            Format::V5Td10 => Some(2_u16),
            Format::V5Td15 => Some(3),
        };
        if let Some(kind) = kind {
            let length = u32::try_from(body.len()).expect("a body has less than a kilobyte");
            signed.extend_from_slice(&kind.to_le_bytes());
            signed.extend_from_slice(&length.to_le_bytes());
        }
        signed.extend_from_slice(&body);
        let mut quote = self.quoting.sign(&self.root, &self.pck, signed, true)?;
        tamper(&mut quote, &self.tampering);
        Ok(quote)
    }

    /// The event log's bytes.
    pub fn event_log_bytes(&self) -> Option<Vec<u8>> {
        self.event_log.as_deref().map(event_log)
    }

    /// The evidence of the KBS protocol's platform `tdx`.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn evidence_json(&self) -> Result<String, DevelopmentError> {
        Ok(json!({
            "cc_eventlog": self.event_log_bytes().map(|log| STANDARD.encode(log)),
            "quote": STANDARD.encode(self.quote_bytes()?),
        })
        .to_string())
    }
}

/// `TDREPORT` as a quote has it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct TdReport {
    pub tee_tcb_svn: [u8; 16],
    pub mr_seam: [u8; 48],
    pub mr_signer_seam: [u8; 48],
    pub seam_attributes: [u8; 8],
    pub td_attributes: [u8; 8],
    pub xfam: [u8; 8],
    pub mr_td: [u8; 48],
    pub mr_config_id: [u8; 48],
    pub mr_owner: [u8; 48],
    pub mr_owner_config: [u8; 48],
    pub rtmr: [[u8; 48]; 4],
    pub report_data: [u8; 64],
    /// Of TDX 1.5.
    pub tee_tcb_svn2: [u8; 16],
    /// Of TDX 1.5.
    pub mr_service_td: [u8; 48],
}

impl TdReport {
    fn to_bytes(&self, tdx15: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(648);
        out.extend_from_slice(&self.tee_tcb_svn);
        out.extend_from_slice(&self.mr_seam);
        out.extend_from_slice(&self.mr_signer_seam);
        out.extend_from_slice(&self.seam_attributes);
        out.extend_from_slice(&self.td_attributes);
        out.extend_from_slice(&self.xfam);
        out.extend_from_slice(&self.mr_td);
        out.extend_from_slice(&self.mr_config_id);
        out.extend_from_slice(&self.mr_owner);
        out.extend_from_slice(&self.mr_owner_config);
        out.extend_from_slice(self.rtmr.as_flattened());
        out.extend_from_slice(&self.report_data);
        if tdx15 {
            out.extend_from_slice(&self.tee_tcb_svn2);
            out.extend_from_slice(&self.mr_service_td);
        }
        out
    }
}

/// One event of the log. Its digest is SHA-384 over its data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// The measurement register: 1 to 4 are RTMR0 to RTMR3.
    pub register: u32,
    /// The event's type.
    pub event_type: u32,
    /// What was measured.
    pub data: Vec<u8>,
}

impl Event {
    /// What a guest measures when it starts.
    pub fn boot() -> Vec<Self> {
        let separator = |register| Self {
            register,
            event_type: EV_SEPARATOR,
            data: vec![0; 4],
        };
        let ipl = |register, text: &str| Self {
            register,
            event_type: EV_IPL,
            data: [text.as_bytes(), &[0]].concat(),
        };
        vec![
            separator(1),
            separator(2),
            ipl(3, "kernel_cmdline: console=hvc0 root=/dev/vda1"),
            ipl(3, "kernel_initrd: initrd.img"),
        ]
    }

    fn digest(&self) -> [u8; 48] {
        sha384(&self.data)
    }
}

/// RTMR0 to RTMR3 after these events.
pub fn replay(events: &[Event]) -> [[u8; 48]; 4] {
    let mut registers = [[0; 48]; 4];
    for event in events {
        let number = event
            .register
            .checked_sub(1)
            .and_then(|n| usize::try_from(n).ok());
        if let Some(register) = number.and_then(|number| registers.get_mut(number)) {
            *register = sha384(&[register.as_slice(), &event.digest()].concat());
        }
    }
    registers
}

/// The header event and the events, as the firmware writes them.
fn event_log(events: &[Event]) -> Vec<u8> {
    // TCG_EfiSpecIDEvent: version 2.0, one algorithm, SHA-384 with its 48 bytes, no vendor's data.
    let mut header = b"Spec ID Event03\0".to_vec();
    header.extend_from_slice(&0_u32.to_le_bytes());
    header.extend_from_slice(&[0, 2, 0, 2]);
    header.extend_from_slice(&1_u32.to_le_bytes());
    header.extend_from_slice(&SHA384.to_le_bytes());
    header.extend_from_slice(&48_u16.to_le_bytes());
    header.push(0);
    let mut log = Vec::new();
    log.extend_from_slice(&1_u32.to_le_bytes());
    log.extend_from_slice(&EV_NO_ACTION.to_le_bytes());
    log.extend_from_slice(&[0; 20]);
    log.extend_from_slice(&length(&header));
    log.extend_from_slice(&header);
    for event in events {
        log.extend_from_slice(&event.register.to_le_bytes());
        log.extend_from_slice(&event.event_type.to_le_bytes());
        log.extend_from_slice(&1_u32.to_le_bytes());
        log.extend_from_slice(&SHA384.to_le_bytes());
        log.extend_from_slice(&event.digest());
        log.extend_from_slice(&length(&event.data));
        log.extend_from_slice(&event.data);
    }
    log
}

fn length(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap_or(u32::MAX).to_le_bytes()
}

const EV_NO_ACTION: u32 = 3;
const EV_SEPARATOR: u32 = 4;
const EV_IPL: u32 = 13;
const SHA384: u16 = 0x000c;
