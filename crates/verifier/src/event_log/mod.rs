//! Boot event logs in the TCG's crypto-agile form, of TPMs and of confidential VMs (CCEL): parse them, replay them.
//!
//! TCG PC Client Platform Firmware Profile 1.06, 10.2 (events) and 10.4 (event data); UEFI 2.10, 38 (CCEL). A log is only
//! worth what its replay is: nothing in it is believed before the replay gave the registers that a quote vouches for. Even
//! then it is the digests that were measured: an event's data was only if its digest matches it.

mod details;
mod device_path;

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::cursor::Cursor;

/// The values that a TD's RTMR0 to RTMR3 have after the events of a CCEL.
///
/// # Errors
/// [`EventLogError`]: the log has another form, or an event without a SHA-384 digest.
pub fn replay_rtmrs(log: &[u8]) -> Result<[[u8; 48]; 4], EventLogError> {
    EventLog::parse(log)?.rtmrs()
}

/// The values that a TPM's PCRs have in one bank after the events of a log, for each PCR that an event extends.
///
/// # Errors
/// [`EventLogError`]: the log has another form, or an event without a digest of that bank.
pub fn replay_pcrs(
    log: &[u8],
    bank: DigestAlgorithm,
) -> Result<BTreeMap<u32, Vec<u8>>, EventLogError> {
    EventLog::parse(log)?.pcrs(bank)
}

/// An event log, parsed and not believed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventLog {
    events: Vec<Event>,
    /// The locality from which the platform's firmware was started.
    startup_locality: u8,
}

/// One event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// The PCR, or in a CCEL the measurement register, that the event extends.
    pub register: u32,
    /// The type, as TCG numbers it.
    pub kind: u32,
    /// The digest of each bank.
    pub digests: Vec<(DigestAlgorithm, Vec<u8>)>,
    /// The data: what was measured, or a description of it, or neither.
    pub data: Vec<u8>,
}

/// The algorithm of a digest, by its number in the TCG Algorithm Registry.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum DigestAlgorithm {
    /// SHA-1: read, and not replayed.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SM3 with 256 bits: read, and not replayed.
    Sm3,
}

/// Why some bytes are no event log, or why it cannot be replayed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// It is longer than any firmware's.
    #[error("an event log of {actual} bytes, at most {limit}")]
    TooLong {
        /// How long it is.
        actual: usize,
        /// How long it may be.
        limit: usize,
    },
    /// It has more events than any firmware's.
    #[error("an event log of more than {0} events")]
    TooManyEvents(usize),
    /// The first event is not the one that says how long digests are.
    #[error(
        "an event log whose first event is no Specification ID event of the crypto-agile form: {0}"
    )]
    SpecificationId(&'static str),
    /// It ends within an event.
    #[error("an event log that ends within event {event}")]
    Truncated {
        /// The event's place, from 0.
        event: usize,
    },
    /// An event has digests other than those that the log declared.
    #[error(
        "event {event} has a digest of the algorithm {algorithm:#06x}, which the log does not declare once"
    )]
    Undeclared {
        /// The event's place, from 0.
        event: usize,
        /// The algorithm's number.
        algorithm: u16,
    },
    /// Something follows the event that ends the log.
    #[error("an event log with {0} bytes after its end that are no padding")]
    Trailing(usize),
    /// An event extends a register and has no digest of the bank.
    #[error("event {event} has no {bank} digest, so that bank cannot be replayed")]
    NoDigest {
        /// The event's place, from 0.
        event: usize,
        /// The bank.
        bank: &'static str,
    },
    /// An event that takes no action has a digest, which no register ever saw (TCG PC Client Platform Firmware
    /// Profile, 10.4.1: such digests are zeros).
    #[error("event {event} takes no action and has a digest, which nothing measured")]
    Unmeasured {
        /// The event's place, from 0.
        event: usize,
    },
    /// An event extends a register that the platform does not have.
    #[error("event {event} extends the register {register}, which there is not")]
    Register {
        /// The event's place, from 0.
        event: usize,
        /// The register.
        register: u32,
    },
    /// The bank's algorithm is not computed here.
    #[error("a bank of {0}, which is not replayed")]
    Bank(&'static str),
}

impl EventLog {
    /// Parses a log. Firmware keeps it in an area of a fixed size, so zeros or ones may follow, and nothing else.
    ///
    /// # Errors
    /// [`EventLogError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EventLogError> {
        if bytes.len() > MAX_LOG {
            return Err(EventLogError::TooLong {
                actual: bytes.len(),
                limit: MAX_LOG,
            });
        }
        let mut cursor = Cursor::new(bytes);
        let declared = specification_id(&mut cursor)?;
        let mut log = Self {
            events: Vec::new(),
            startup_locality: 0,
        };
        loop {
            let event = log.events.len();
            let rest = cursor.rest();
            if ends(rest) {
                return match rest.iter().all(|byte| matches!(byte, 0 | 0xff)) {
                    true => Ok(log),
                    false => Err(EventLogError::Trailing(rest.len())),
                };
            }
            if event == MAX_EVENTS {
                return Err(EventLogError::TooManyEvents(MAX_EVENTS));
            }
            let event = read_event(&mut cursor, &declared, event)?;
            log.note_startup_locality(&event);
            log.events.push(event);
        }
    }

    /// The events after the first, which only says how long digests are.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// RTMR0 to RTMR3, which are the CC measurement registers 1 to 4 (UEFI 2.10, 38.4.1). Register 0 is MRTD, which
    /// nothing extends.
    ///
    /// # Errors
    /// [`EventLogError`]: an event without a SHA-384 digest, one for a register that there is not, or one that takes no
    /// action and has a digest all the same.
    pub fn rtmrs(&self) -> Result<[[u8; 48]; 4], EventLogError> {
        let bank = DigestAlgorithm::Sha384;
        self.check_unmeasured()?;
        let mut rtmrs = [[0; 48]; 4];
        for (position, event) in self.extending() {
            let rtmr = event
                .register
                .checked_sub(1)
                .and_then(|number| rtmrs.get_mut(usize::try_from(number).ok()?))
                .ok_or(EventLogError::Register {
                    event: position,
                    register: event.register,
                })?;
            let extended = bank.extend(rtmr, event.digest(bank, position)?)?;
            rtmr.copy_from_slice(&extended);
        }
        Ok(rtmrs)
    }

    /// The PCRs of one bank that an event extends.
    ///
    /// They start from zeros: PCR 0 from the locality that started the firmware (TCG PC Client Platform Firmware
    /// Profile, 10.4.5.3), PCRs 17 to 22 from ones.
    ///
    /// # Errors
    /// [`EventLogError`]: an event without a digest of the bank, or a PCR that there is not.
    pub fn pcrs(&self, bank: DigestAlgorithm) -> Result<BTreeMap<u32, Vec<u8>>, EventLogError> {
        let mut pcrs = BTreeMap::new();
        for (position, event) in self.extending() {
            if event.register >= PCRS {
                return Err(EventLogError::Register {
                    event: position,
                    register: event.register,
                });
            }
            let pcr = pcrs
                .entry(event.register)
                .or_insert_with(|| self.initial_pcr(event.register, bank));
            *pcr = bank.extend(pcr, event.digest(bank, position)?)?;
        }
        Ok(pcrs)
    }

    /// Whoever looks for a digest among the events must find none that no register vouches for.
    fn check_unmeasured(&self) -> Result<(), EventLogError> {
        let unmeasured = self.events.iter().position(|event| {
            let mut digests = event.digests.iter();
            event.kind == EV_NO_ACTION && digests.any(|(_, digest)| digest.iter().any(|&b| b != 0))
        });
        match unmeasured {
            None => Ok(()),
            Some(event) => Err(EventLogError::Unmeasured { event }),
        }
    }

    /// The log with the digests of one bank alone: those that the replay of that bank proved.
    #[must_use]
    pub(crate) fn with_bank_alone(mut self, bank: DigestAlgorithm) -> Self {
        for event in &mut self.events {
            event.digests.retain(|(algorithm, _)| *algorithm == bank);
        }
        self
    }

    fn initial_pcr(&self, register: u32, bank: DigestAlgorithm) -> Vec<u8> {
        let fill = match register {
            17..=22 => 0xff,
            _ => 0,
        };
        let mut pcr = vec![fill; bank.size()];
        if let (0, Some(last)) = (register, pcr.last_mut()) {
            *last = self.startup_locality;
        }
        pcr
    }

    /// The events that extend a register, and their places.
    fn extending(&self) -> impl Iterator<Item = (usize, &Event)> {
        self.events
            .iter()
            .enumerate()
            .filter(|(_, event)| event.kind != EV_NO_ACTION)
    }

    fn note_startup_locality(&mut self, event: &Event) {
        if event.kind == EV_NO_ACTION
            && event.register == 0
            && let Some([locality]) = event.data.strip_prefix(STARTUP_LOCALITY)
        {
            self.startup_locality = *locality;
        }
    }

    /// The events as upstream's claim `uefi_event_logs`.
    pub fn claims(&self) -> Value {
        self.events.iter().map(Event::claim).collect()
    }
}

impl Event {
    /// The type's name in the TCG's profile.
    pub fn name(&self) -> String {
        EVENT_NAMES
            .iter()
            .find(|(kind, _)| *kind == self.kind)
            .map_or_else(
                || format!("EV_UNKNOWN_{:#010x}", self.kind),
                |(_, name)| (*name).to_owned(),
            )
    }

    /// Whether each digest is the one of the event's data, so that the data itself was measured.
    pub fn digest_matches_data(&self) -> bool {
        !self.digests.is_empty()
            && self
                .digests
                .iter()
                .all(|(bank, digest)| bank.digest(&[&self.data]).as_ref() == Some(digest))
    }

    fn digest(&self, bank: DigestAlgorithm, event: usize) -> Result<&[u8], EventLogError> {
        self.digests
            .iter()
            .find(|(algorithm, _)| *algorithm == bank)
            .map(|(_, digest)| digest.as_slice())
            .ok_or_else(|| EventLogError::NoDigest {
                event,
                bank: bank.name(),
            })
    }

    fn claim(&self) -> Value {
        use base64::Engine as _;
        let digests: Vec<_> = self
            .digests
            .iter()
            .map(|(bank, digest)| json!({"alg": bank.name(), "digest": hex::encode(digest)}))
            .collect();
        json!({
            "details": details::details(self.kind, &self.data),
            "digest_matches_event": self.digest_matches_data(),
            "digests": digests,
            "event": base64::engine::general_purpose::STANDARD.encode(&self.data),
            "index": self.register,
            "type_name": self.name(),
        })
    }
}

impl DigestAlgorithm {
    /// The algorithm of a number in the TCG Algorithm Registry.
    fn of(number: u16) -> Option<Self> {
        match number {
            0x04 => Some(Self::Sha1),
            0x0b => Some(Self::Sha256),
            0x0c => Some(Self::Sha384),
            0x0d => Some(Self::Sha512),
            0x12 => Some(Self::Sm3),
            _ => None,
        }
    }

    /// The name, as claims spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA-256",
            Self::Sha384 => "SHA-384",
            Self::Sha512 => "SHA-512",
            Self::Sm3 => "SM3",
        }
    }

    /// How many bytes a digest has.
    pub fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sm3 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    fn digest(self, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
            Self::Sha1 | Self::Sm3 => return None,
        };
        let mut context = digest::Context::new(algorithm);
        for part in parts {
            context.update(part);
        }
        Some(context.finish().as_ref().to_vec())
    }

    /// What a register holds after one more digest.
    fn extend(self, register: &[u8], digest: &[u8]) -> Result<Vec<u8>, EventLogError> {
        self.digest(&[register, digest])
            .ok_or_else(|| EventLogError::Bank(self.name()))
    }
}

/// TCG PC Client Platform Firmware Profile, 10.4.5.1: the first event, in the form of TPM 1.2's logs, and in it the
/// algorithms of all that follow.
///
/// guest-components writes this event without its name where the machine's firmware keeps no log (docs/decisions/0021).
fn specification_id(cursor: &mut Cursor<'_>) -> Result<Vec<DigestAlgorithm>, EventLogError> {
    let malformed = EventLogError::SpecificationId;
    let cut = || malformed("it is cut");
    let _register = cursor.u32().ok_or_else(cut)?;
    if cursor.u32().ok_or_else(cut)? != EV_NO_ACTION {
        return Err(malformed("it is of another type"));
    }
    let _digest: [u8; 20] = cursor.array().ok_or_else(cut)?;
    let data = cursor.counted().ok_or_else(cut)?;
    if data == NAMELESS {
        return Ok(vec![DigestAlgorithm::Sha384, DigestAlgorithm::Sm3]);
    }
    let mut data = Cursor::new(data);
    if data.take(SIGNATURE_03.len()) != Some(SIGNATURE_03) {
        return Err(malformed("it has another signature"));
    }
    // Platform class, version and errata, and the size of an address.
    data.take(8).ok_or_else(cut)?;
    let count = data.u32().ok_or_else(cut)?;
    let mut declared = Vec::new();
    for _ in 0..count {
        let number = data.u16().ok_or_else(cut)?;
        let size = data.u16().ok_or_else(cut)?;
        let algorithm = DigestAlgorithm::of(number)
            .ok_or_else(|| malformed("it declares an unknown algorithm"))?;
        if usize::from(size) != algorithm.size() {
            return Err(malformed("it declares a digest of another size"));
        }
        if declared.contains(&algorithm) {
            return Err(malformed("it declares an algorithm twice"));
        }
        declared.push(algorithm);
    }
    let vendor = data.u8().ok_or_else(cut)?;
    data.take(usize::from(vendor)).ok_or_else(cut)?;
    match data.remaining() {
        0 => Ok(declared),
        _ => Err(malformed("it is longer than it says")),
    }
}

/// Whether no event follows: the area's padding, of zeros or of ones, has begun.
fn ends(rest: &[u8]) -> bool {
    let head = rest.get(..8).unwrap_or(rest);
    head.iter().all(|byte| *byte == 0) || head.iter().all(|byte| *byte == 0xff)
}

/// TCG PC Client Platform Firmware Profile, 10.2.2: `TCG_PCR_EVENT2`.
fn read_event(
    cursor: &mut Cursor<'_>,
    declared: &[DigestAlgorithm],
    event: usize,
) -> Result<Event, EventLogError> {
    let cut = || EventLogError::Truncated { event };
    let register = cursor.u32().ok_or_else(cut)?;
    let kind = cursor.u32().ok_or_else(cut)?;
    let count = cursor.u32().ok_or_else(cut)?;
    let mut digests: Vec<(DigestAlgorithm, Vec<u8>)> = Vec::new();
    for _ in 0..count {
        let number = cursor.u16().ok_or_else(cut)?;
        let algorithm = DigestAlgorithm::of(number)
            .filter(|algorithm| declared.contains(algorithm))
            .filter(|algorithm| digests.iter().all(|(seen, _)| seen != algorithm))
            .ok_or(EventLogError::Undeclared {
                event,
                algorithm: number,
            })?;
        let digest = cursor.take(algorithm.size()).ok_or_else(cut)?;
        digests.push((algorithm, digest.to_vec()));
    }
    let data = cursor.counted().ok_or_else(cut)?.to_vec();
    Ok(Event {
        register,
        kind,
        digests,
        data,
    })
}

/// Firmware keeps 64 KiB to 1 MiB.
const MAX_LOG: usize = 2 * 1024 * 1024;
/// Real logs have 5 to a few hundred.
const MAX_EVENTS: usize = 16_384;
const PCRS: u32 = 24;
const SIGNATURE_03: &[u8] = b"Spec ID Event03\0";
/// SHA-384 and SM3 are declared, without a name, a class or a version.
const NAMELESS: &[u8] = &{
    let mut data = [0; 37];
    data[24] = 2;
    data[28] = 0x0c;
    data[30] = 48;
    data[32] = 0x12;
    data[34] = 32;
    data
};
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";

const EV_POST_CODE: u32 = 0x01;
const EV_NO_ACTION: u32 = 0x03;
const EV_ACTION: u32 = 0x05;
const EV_EVENT_TAG: u32 = 0x06;
const EV_PLATFORM_CONFIG_FLAGS: u32 = 0x0a;
const EV_COMPACT_HASH: u32 = 0x0c;
const EV_IPL: u32 = 0x0d;
const EV_OMIT_BOOT_DEVICE_EVENTS: u32 = 0x12;
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
const EV_EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
const EV_EFI_ACTION: u32 = 0x8000_0007;
const EV_EFI_PLATFORM_FIRMWARE_BLOB2: u32 = 0x8000_000a;
const EV_EFI_HANDOFF_TABLES2: u32 = 0x8000_000b;
const EV_EFI_VARIABLE_BOOT2: u32 = 0x8000_000c;
const EV_EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;

/// TCG PC Client Platform Firmware Profile, 10.4.1.
const EVENT_NAMES: &[(u32, &str)] = &[
    (0x00, "EV_PREBOOT_CERT"),
    (EV_POST_CODE, "EV_POST_CODE"),
    (0x02, "EV_UNUSED"),
    (EV_NO_ACTION, "EV_NO_ACTION"),
    (0x04, "EV_SEPARATOR"),
    (EV_ACTION, "EV_ACTION"),
    (EV_EVENT_TAG, "EV_EVENT_TAG"),
    (0x07, "EV_S_CRTM_CONTENTS"),
    (0x08, "EV_S_CRTM_VERSION"),
    (0x09, "EV_CPU_MICROCODE"),
    (EV_PLATFORM_CONFIG_FLAGS, "EV_PLATFORM_CONFIG_FLAGS"),
    (0x0b, "EV_TABLE_OF_DEVICES"),
    (EV_COMPACT_HASH, "EV_COMPACT_HASH"),
    (EV_IPL, "EV_IPL"),
    (0x0e, "EV_IPL_PARTITION_DATA"),
    (0x0f, "EV_NONHOST_CODE"),
    (0x10, "EV_NONHOST_CONFIG"),
    (0x11, "EV_NONHOST_INFO"),
    (EV_OMIT_BOOT_DEVICE_EVENTS, "EV_OMIT_BOOT_DEVICE_EVENTS"),
    (0x8000_0000, "EV_EFI_EVENT_BASE"),
    (
        EV_EFI_VARIABLE_DRIVER_CONFIG,
        "EV_EFI_VARIABLE_DRIVER_CONFIG",
    ),
    (EV_EFI_VARIABLE_BOOT, "EV_EFI_VARIABLE_BOOT"),
    (
        EV_EFI_BOOT_SERVICES_APPLICATION,
        "EV_EFI_BOOT_SERVICES_APPLICATION",
    ),
    (0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER"),
    (0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER"),
    (0x8000_0006, "EV_EFI_GPT_EVENT"),
    (EV_EFI_ACTION, "EV_EFI_ACTION"),
    (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
    (
        EV_EFI_PLATFORM_FIRMWARE_BLOB2,
        "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    ),
    (EV_EFI_HANDOFF_TABLES2, "EV_EFI_HANDOFF_TABLES2"),
    (EV_EFI_VARIABLE_BOOT2, "EV_EFI_VARIABLE_BOOT2"),
    (0x8000_0010, "EV_EFI_HCRTM_EVENT"),
    (EV_EFI_VARIABLE_AUTHORITY, "EV_EFI_VARIABLE_AUTHORITY"),
    (0x8000_00e1, "EV_EFI_SPDM_FIRMWARE_BLOB"),
    (0x8000_00e2, "EV_EFI_SPDM_FIRMWARE_CONFIG"),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
