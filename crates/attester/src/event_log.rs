//! The attestation agent's event log (AAEL): what happens in a guest after its boot, measured into a register.
//!
//! The file `eventlog` holds entries of the TCG's crypto-agile form (TCG PC Client Platform Firmware Profile 1.06, 10.2.2),
//! little-endian, of type `EV_EVENT_TAG`. The file `.wal_event_entry` says what is being done: the offset of the entry
//! (64 bits, big-endian), the register's value once it is extended, the event's text. It is written before the register
//! is extended and removed after the entry is appended, so whoever comes next knows whether the register was. Starting
//! writes nothing and extends nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use strongroom_wire::canonical::HashAlgorithm;

use crate::devices::Devices;
use crate::{AttestError, files};

/// Something that happened, as it is measured.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    text: String,
    /// Whether it may use up what the log keeps for the agent.
    is_agents: bool,
}

impl Event {
    /// An event of three parts. A space ends the first two, so neither may hold one.
    ///
    /// # Errors
    /// [`EventError`], naming the part.
    pub fn new(domain: &str, operation: &str, content: &str) -> Result<Self, EventError> {
        for (part, text) in [("domain", domain), ("operation", operation)] {
            if text.is_empty() {
                return Err(EventError::Empty(part));
            }
            if text.contains(char::is_whitespace) {
                return Err(EventError::Space(part));
            }
        }
        if content.contains('\n') {
            return Err(EventError::NewLine);
        }
        let text = format!("{domain} {operation} {content}");
        match text.len() > MAX_TEXT {
            true => Err(EventError::Long(text.len())),
            false => Ok(Self {
                text,
                is_agents: true,
            }),
        }
    }

    /// An event that an application asks for: not in the name of the agent, and not in the log's last room.
    ///
    /// # Errors
    /// As [`Self::new`]; [`EventError::Reserved`].
    pub fn of_application(
        domain: &str,
        operation: &str,
        content: &str,
    ) -> Result<Self, EventError> {
        let plain = domain.to_ascii_lowercase();
        let below = plain.strip_prefix(AGENTS_DOMAIN);
        if below.is_some_and(|below| below.is_empty() || below.starts_with('/')) {
            return Err(EventError::Reserved);
        }
        Ok(Self {
            is_agents: false,
            ..Self::new(domain, operation, content)?
        })
    }

    /// How much of the log it takes.
    pub fn size(&self) -> usize {
        self.text.len().saturating_add(OVERHEAD)
    }

    /// The tagged event that is measured: tag, length, text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = TAG.to_le_bytes().to_vec();
        bytes.extend_from_slice(&length(&self.text));
        bytes.extend_from_slice(self.text.as_bytes());
        bytes
    }

    /// What the register is extended with: the hash over the whole tagged event.
    pub fn digest(&self, algorithm: HashAlgorithm) -> Vec<u8> {
        algorithm.digest(&self.to_bytes())
    }

    /// The entry in the log, for a measurement register as that log numbers it.
    pub fn entry(&self, register: u32, algorithm: HashAlgorithm) -> Vec<u8> {
        let event = self.to_bytes();
        let mut entry = Vec::new();
        entry.extend_from_slice(&register.to_le_bytes());
        entry.extend_from_slice(&EV_EVENT_TAG.to_le_bytes());
        entry.extend_from_slice(&1_u32.to_le_bytes());
        entry.extend_from_slice(&tcg_number(algorithm).to_le_bytes());
        entry.extend_from_slice(&algorithm.digest(&event));
        entry.extend_from_slice(&length(&event));
        entry.extend_from_slice(&event);
        entry
    }
}

/// Why something is no event.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// A part that must say something says nothing.
    #[error("the event's {0} is empty")]
    Empty(&'static str),
    /// A part that ends at a space holds one.
    #[error("the event's {0} holds white space, which would end it")]
    Space(&'static str),
    /// The content has more than one line.
    #[error("the event's content holds a line break")]
    NewLine,
    /// It is too long.
    #[error("the event has {0} bytes, and the log takes at most {MAX_TEXT}")]
    Long(usize),
    /// It claims to be the agent's.
    #[error(
        "events of {AGENTS_DOMAIN} are the agent's own, such as the images that it pulled: name a domain of yours"
    )]
    Reserved,
}

/// A register that can be extended while the guest runs.
pub(crate) trait Register {
    /// Its number in the log.
    fn number(&self) -> u32;
    /// The hash of its bank.
    fn algorithm(&self) -> HashAlgorithm;
    /// What it holds.
    fn read(&self) -> Result<Vec<u8>, AttestError>;
    /// Extends it.
    fn extend(&self, digest: &[u8]) -> Result<(), AttestError>;
}

/// Measures an event and appends it to the log. Both happened when this returns; a process that is killed meanwhile
/// leaves behind what the next call needs to finish it.
pub(crate) fn extend(
    folder: &Path,
    registers: &[Box<dyn Register>],
    number: u32,
    event: &Event,
) -> Result<(), AttestError> {
    let register = registers
        .iter()
        .find(|register| register.number() == number)
        .ok_or_else(|| failed(folder, format!("there is no register {number} to extend")))?;
    std::fs::create_dir_all(folder).map_err(|error| files::failure(folder, &error))?;
    let lock = Lock::exclusive(folder)?;
    recover(folder, registers)?;
    let algorithm = register.algorithm();
    let log = folder.join(LOG);
    let offset = match log.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(files::failure(&log, &error)),
    };
    let entry = event.entry(number, algorithm);
    let end = offset.saturating_add(u64::try_from(entry.len()).unwrap_or(u64::MAX));
    if end > MAX_LOG {
        return Err(failed(
            &log,
            format!("the log is full: it takes {MAX_LOG} bytes"),
        ));
    }
    if !event.is_agents && end > MAX_LOG - KEPT {
        return Err(failed(
            &log,
            format!(
                "the log is full for applications: its last {KEPT} bytes are kept for the agent's own events"
            ),
        ));
    }
    let before = register.read()?;
    let digest = event.digest(algorithm);
    let intent = Intent {
        offset,
        after: algorithm.digest(&[before.as_slice(), &digest].concat()),
        text: event.text.clone(),
    };
    intent.write(folder)?;
    if let Err(error) = register.extend(&digest) {
        // The register may have been extended all the same; only then is there something to finish.
        recover(folder, registers)?;
        return Err(error);
    }
    if register.read()? != intent.after {
        Intent::remove(folder)?;
        return Err(failed(
            folder,
            format!(
                "register {number} does not hold what this event makes of it: another process extends it, and the log \
                 does not explain it any more"
            ),
        ));
    }
    append(&log, offset, &entry)?;
    Intent::remove(folder)?;
    drop(lock);
    Ok(())
}

/// Finishes what a killed process began: an event whose register was extended gets its entry, another one is dropped.
pub(crate) fn settle(folder: &Path, registers: &[Box<dyn Register>]) -> Result<(), AttestError> {
    if !folder.join(INTENT).exists() {
        return Ok(());
    }
    let lock = Lock::exclusive(folder)?;
    recover(folder, registers)?;
    drop(lock);
    Ok(())
}

fn recover(folder: &Path, registers: &[Box<dyn Register>]) -> Result<(), AttestError> {
    let path = folder.join(INTENT);
    let bytes = match files::read(&path, MAX_INTENT) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(files::failure(&path, &error)),
    };
    for register in registers {
        let algorithm = register.algorithm();
        let Some(intent) = Intent::parse(&bytes, algorithm) else {
            break;
        };
        if register.read()? == intent.after {
            let event = Event {
                text: intent.text,
                is_agents: true,
            };
            let entry = event.entry(register.number(), algorithm);
            append(&folder.join(LOG), intent.offset, &entry)?;
            return Intent::remove(folder);
        }
    }
    // No register holds the value: it was not extended, or the bytes were cut, which happens before it is. What was
    // appended after it would have been, was not either.
    Intent::remove(folder)
}

/// What is about to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Intent {
    offset: u64,
    after: Vec<u8>,
    text: String,
}

impl Intent {
    pub(crate) fn parse(bytes: &[u8], algorithm: HashAlgorithm) -> Option<Self> {
        let (offset, rest) = bytes.split_first_chunk()?;
        let (after, text) = rest.split_at_checked(algorithm.digest(&[]).len())?;
        let text = String::from_utf8(text.to_vec()).ok()?;
        Some(Self {
            offset: u64::from_be_bytes(*offset),
            after: after.to_vec(),
            text,
        })
        .filter(|intent| !intent.text.is_empty() && intent.text.len() <= MAX_TEXT)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.offset.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.after);
        bytes.extend_from_slice(self.text.as_bytes());
        bytes
    }

    fn write(&self, folder: &Path) -> Result<(), AttestError> {
        let path = folder.join(INTENT);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(&self.to_bytes())?;
                file.sync_all()
            });
        written.map_err(|error| files::failure(&path, &error))
    }

    fn remove(folder: &Path) -> Result<(), AttestError> {
        let path = folder.join(INTENT);
        std::fs::remove_file(&path).map_err(|error| files::failure(&path, &error))
    }
}

/// Appends at an offset, in place of what a process that was killed may have written there.
fn append(log: &Path, offset: u64, entry: &[u8]) -> Result<(), AttestError> {
    let file = OpenOptions::new().append(true).create(true).open(log);
    let mut file = file.map_err(|error| files::failure(log, &error))?;
    let length = file
        .metadata()
        .map_err(|error| files::failure(log, &error))?
        .len();
    if length < offset {
        return Err(failed(
            log,
            format!(
                "it has {length} bytes and had {offset}: it was cut, and no longer explains the registers"
            ),
        ));
    }
    file.set_len(offset)
        .and_then(|()| file.write_all(entry))
        .and_then(|()| file.sync_all())
        .map_err(|error| files::failure(log, &error))
}

/// The log that goes with a quote: the firmware's events, then the agent's, then the mark of the end. `None` where
/// neither is there.
pub(crate) fn of_evidence(devices: &Devices) -> Result<Option<Vec<u8>>, AttestError> {
    let there = |path: &Path, limit| match files::read(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(files::failure(path, &error)),
    };
    let firmware = there(&devices.ccel, MAX_CCEL)?;
    let log = devices.event_log.join(LOG);
    let agent = there(&log, usize::try_from(MAX_LOG).unwrap_or(usize::MAX))?.unwrap_or_default();
    let mut all = match firmware {
        None if agent.is_empty() => return Ok(None),
        None => HEADER.to_vec(),
        Some(firmware) => match whole_events(&firmware) {
            Some(events) => events.to_vec(),
            // Nothing can be appended to what has no end. The broker says what it thinks of it.
            None if agent.is_empty() => return Ok(Some(firmware)),
            None => {
                return Err(failed(
                    &devices.ccel,
                    "the firmware's event log cannot be read, so no event can follow it".to_owned(),
                ));
            }
        },
    };
    all.extend_from_slice(&agent);
    all.extend_from_slice(&END);
    Ok(Some(all))
}

/// The events of a log that firmware keeps in an area of a fixed size, without what pads the area; `None` when an event
/// is cut.
pub(crate) fn whole_events(area: &[u8]) -> Option<&[u8]> {
    // The first event has the form of TPM 1.2's logs, and names the algorithms of all others.
    let (head, rest) = area.split_at_checked(28)?;
    let (size, rest) = rest.split_first_chunk()?;
    let (specification, mut rest) =
        rest.split_at_checked(usize::try_from(u32::from_le_bytes(*size)).ok()?)?;
    if !specification.starts_with(b"Spec ID Event03\0") || head.get(4..8)? != [3, 0, 0, 0] {
        return None;
    }
    let count = u32::from_le_bytes(*specification.get(24..)?.first_chunk()?);
    let mut algorithms = Vec::new();
    let mut list = specification.get(28..)?;
    for _ in 0..count.min(MAX_ALGORITHMS) {
        let ([a, b, c, d], after) = list.split_first_chunk()?;
        algorithms.push((
            u16::from_le_bytes([*a, *b]),
            usize::from(u16::from_le_bytes([*c, *d])),
        ));
        list = after;
    }
    loop {
        let ends = match rest.first_chunk::<8>() {
            None => true,
            Some(next) => *next == END || *next == [0; 8],
        };
        if ends {
            return area.get(..area.len().checked_sub(rest.len())?);
        }
        let (_, after) = rest.split_at_checked(8)?;
        let (count, mut after) = after.split_first_chunk()?;
        let count = u32::from_le_bytes(*count);
        if count > MAX_ALGORITHMS {
            return None;
        }
        for _ in 0..count {
            let (algorithm, next) = after.split_first_chunk()?;
            let algorithm = u16::from_le_bytes(*algorithm);
            let (_, size) = algorithms.iter().find(|(known, _)| *known == algorithm)?;
            (_, after) = next.split_at_checked(*size)?;
        }
        let (size, after) = after.split_first_chunk()?;
        (_, rest) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*size)).ok()?)?;
    }
}

/// Keeps log, registers and quotes in step between processes.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Nobody extends while it is held. `None` where there is no log to wait for.
    pub(crate) fn shared(folder: &Path) -> Result<Option<Self>, AttestError> {
        match File::open(folder.join(LOCK)) {
            Ok(file) => Self::taken(folder, file, FlockOperation::LockShared).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(files::failure(&folder.join(LOCK), &error)),
        }
    }

    fn exclusive(folder: &Path) -> Result<Self, AttestError> {
        let path = folder.join(LOCK);
        // Whoever may open it may hold it, and keep this machine from making evidence.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| files::failure(&path, &error))?;
        Self::taken(folder, file, FlockOperation::LockExclusive)
    }

    fn taken(folder: &Path, file: File, how: FlockOperation) -> Result<Self, AttestError> {
        rustix::fs::flock(&file, how)
            .map_err(|error| files::failure(&folder.join(LOCK), &error.into()))?;
        Ok(Self { _file: file })
    }
}

fn failed(path: &Path, reason: String) -> AttestError {
    AttestError::EventLog {
        path: PathBuf::from(path),
        reason,
    }
}

fn length(bytes: impl AsRef<[u8]>) -> [u8; 4] {
    u32::try_from(bytes.as_ref().len())
        .unwrap_or(u32::MAX)
        .to_le_bytes()
}

/// TCG Algorithm Registry.
fn tcg_number(algorithm: HashAlgorithm) -> u16 {
    match algorithm {
        HashAlgorithm::Sha256 => 0x0b,
        HashAlgorithm::Sha384 => 0x0c,
        HashAlgorithm::Sha512 => 0x0d,
    }
}

const LOG: &str = "eventlog";
const INTENT: &str = ".wal_event_entry";
const LOCK: &str = ".lock";
const EV_EVENT_TAG: u32 = 6;
/// `AAEL`, read as a number.
const TAG: u32 = 0x4141_454c;
const MAX_TEXT: usize = 64 * 1024;
const MAX_INTENT: usize = MAX_TEXT + 8 + 64;
const MAX_LOG: u64 = 1024 * 1024;
/// What applications leave of it: an image that is pulled when they have filled theirs is measured all the same.
const KEPT: u64 = 256 * 1024;
/// More than an entry has beside its text.
const OVERHEAD: usize = 128;
/// Whose events are the agent's, in upstream's words.
const AGENTS_DOMAIN: &str = "github.com/confidential-containers";
/// Verifiers take two MiB, the agent's events included.
const MAX_CCEL: usize = 1024 * 1024;
const MAX_ALGORITHMS: u32 = 16;
const END: [u8; 8] = [0xff; 8];
/// The first event of a log that has no firmware's before it, as guest-components writes it: 37 bytes of a Specification
/// ID event without its name, which declare SHA-384 (48 bytes) and SM3 (32).
const HEADER: [u8; 69] = {
    let mut header = [0; 69];
    header[4] = 3;
    header[28] = 37;
    header[56] = 2;
    header[60] = 0x0c;
    header[62] = 48;
    header[64] = 0x12;
    header[66] = 32;
    header
};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// A register in memory, which can be told to fail as a killed process would find it.
    struct Memory {
        number: u32,
        value: Rc<RefCell<Vec<u8>>>,
        /// Whether it is extended before it fails, or not at all.
        fails: Option<bool>,
    }

    impl Register for Memory {
        fn number(&self) -> u32 {
            self.number
        }

        fn algorithm(&self) -> HashAlgorithm {
            HashAlgorithm::Sha384
        }

        fn read(&self) -> Result<Vec<u8>, AttestError> {
            Ok(self.value.borrow().clone())
        }

        fn extend(&self, digest: &[u8]) -> Result<(), AttestError> {
            if self.fails != Some(false) {
                let extended = [self.value.borrow().as_slice(), digest].concat();
                *self.value.borrow_mut() = self.algorithm().digest(&extended);
            }
            match self.fails {
                None => Ok(()),
                Some(_) => Err(AttestError::Json),
            }
        }
    }

    struct Machine {
        folder: tempfile::TempDir,
        value: Rc<RefCell<Vec<u8>>>,
    }

    impl Machine {
        fn new() -> Self {
            Self {
                folder: tempfile::tempdir().unwrap(),
                value: Rc::new(RefCell::new(vec![0; 48])),
            }
        }

        fn registers(&self, fails: Option<bool>) -> Vec<Box<dyn Register>> {
            let other = Memory {
                number: 3,
                value: Rc::default(),
                fails: None,
            };
            let value = Rc::clone(&self.value);
            let ours = Memory {
                number: 4,
                value,
                fails,
            };
            vec![Box::new(other), Box::new(ours)]
        }

        fn extend(&self, text: &str, fails: Option<bool>) -> Result<(), AttestError> {
            let event = Event::new("d", "o", text).unwrap();
            extend(self.folder.path(), &self.registers(fails), 4, &event)
        }

        fn log(&self) -> Vec<u8> {
            std::fs::read(self.folder.path().join(LOG)).unwrap_or_default()
        }

        fn expected(&self, texts: &[&str]) -> (Vec<u8>, Vec<u8>) {
            let (mut log, mut value) = (Vec::new(), vec![0; 48]);
            for text in texts {
                let event = Event::new("d", "o", text).unwrap();
                log.extend(event.entry(4, HashAlgorithm::Sha384));
                value.extend(event.digest(HashAlgorithm::Sha384));
                value = HashAlgorithm::Sha384.digest(&value);
            }
            (log, value)
        }

        #[track_caller]
        fn holds(&self, texts: &[&str]) {
            let (log, value) = self.expected(texts);
            assert_eq!(self.log(), log);
            assert_eq!(*self.value.borrow(), value);
            assert!(!self.folder.path().join(INTENT).exists());
        }
    }

    #[test]
    fn entries_and_digests_are_upstreams() {
        let Some(path) = strongroom_testkit::fixtures::fixture("guest/vectors/aael.json") else {
            return;
        };
        let vectors: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        for vector in vectors["unit"].as_array().unwrap() {
            let part = |name: &str| text(&vector[name]);
            let event = Event::new(&part("domain"), &part("operation"), &part("content")).unwrap();
            let algorithm: HashAlgorithm = part("alg").parse().unwrap();
            assert_eq!(hex::encode(event.to_bytes()), part("event_hex"));
            assert_eq!(hex::encode(event.digest(algorithm)), part("digest_hex"));
            for register in [4, 23] {
                assert_eq!(
                    hex::encode(event.entry(register, algorithm)),
                    part(&format!("tcg2_entry_mr{register}_hex"))
                );
            }
        }
        for real in vectors["real_entries_in_CCEL_AAEL_alibabacloud"]
            .as_array()
            .unwrap()
        {
            let event = Event {
                text: text(&real["text"]),
                is_agents: true,
            };
            let digest = event.digest(HashAlgorithm::Sha384);
            assert_eq!(hex::encode(digest), text(&real["digest_sha384"]));
        }
        assert_eq!(hex::encode(HEADER), text(&vectors["el_header_69_hex"]));
        assert_eq!(hex::encode(END), text(&vectors["el_terminator_hex"]));
    }

    #[test]
    fn event_that_reads_as_another_is_refused() {
        for (domain, operation, content, error) in [
            ("a b", "c", "d", EventError::Space("domain")),
            ("a", "b c", "d", EventError::Space("operation")),
            ("a", "b\n", "d", EventError::Space("operation")),
            ("", "b", "d", EventError::Empty("domain")),
            ("a", "", "d", EventError::Empty("operation")),
            ("a", "b", "c\nd", EventError::NewLine),
        ] {
            assert_eq!(Event::new(domain, operation, content), Err(error));
        }
        assert!(Event::new("a", "b", "").is_ok());
        assert!(Event::new("a", "b", &"c".repeat(MAX_TEXT)).is_err());
    }

    #[test]
    fn application_in_the_agents_name_or_in_the_logs_last_room() {
        for reserved in [
            "github.com/confidential-containers",
            "GitHub.com/Confidential-Containers",
            "github.com/confidential-containers/guest",
        ] {
            let event = Event::of_application(reserved, "PullImage", "{}");
            assert_eq!(event, Err(EventError::Reserved));
        }
        assert!(
            Event::of_application("github.com/confidential-containers-of-mine", "o", "c").is_ok()
        );
        assert!(Event::new("github.com/confidential-containers", "PullImage", "{}").is_ok());

        let machine = Machine::new();
        let log = machine.folder.path().join(LOG);
        let extend =
            |event: &Event| extend(machine.folder.path(), &machine.registers(None), 4, event);
        let filled = usize::try_from(MAX_LOG - KEPT).unwrap();
        std::fs::write(&log, vec![0; filled]).unwrap();
        let before = machine.value.borrow().clone();
        let error = extend(&Event::of_application("d", "o", "c").unwrap()).unwrap_err();
        assert!(error.to_string().contains("kept for the agent"), "{error}");
        assert_eq!(*machine.value.borrow(), before);
        extend(&Event::new("d", "o", "c").unwrap()).unwrap();
        assert!(machine.log().len() > filled);
    }

    #[test]
    fn event_takes_more_of_the_log_than_it_says() {
        let event = Event::new("d", "o", "c").unwrap();
        for algorithm in [
            HashAlgorithm::Sha256,
            HashAlgorithm::Sha384,
            HashAlgorithm::Sha512,
        ] {
            assert!(event.entry(4, algorithm).len() <= event.size());
        }
    }

    #[test]
    fn start_after_start_extends_nothing() {
        let machine = Machine::new();
        machine.extend("one", None).unwrap();
        for _ in 0..3 {
            settle(machine.folder.path(), &machine.registers(None)).unwrap();
        }
        machine.extend("two", None).unwrap();
        machine.holds(&["one", "two"]);
    }

    #[test]
    fn killed_after_the_register_was_extended_the_entry_is_still_written() {
        let machine = Machine::new();
        machine.extend("one", None).unwrap();
        let (log, _) = machine.expected(&["one"]);
        // As it was killed: the register is extended, half of the entry is written, the intent is there.
        let event = Event::new("d", "o", "two").unwrap();
        let digest = event.digest(HashAlgorithm::Sha384);
        let after = [machine.value.borrow().as_slice(), &digest].concat();
        let intent = Intent {
            offset: u64::try_from(log.len()).unwrap(),
            after: HashAlgorithm::Sha384.digest(&after),
            text: "d o two".to_owned(),
        };
        intent.write(machine.folder.path()).unwrap();
        *machine.value.borrow_mut() = intent.after.clone();
        let half = &event.entry(4, HashAlgorithm::Sha384)[..17];
        std::fs::write(machine.folder.path().join(LOG), [&log, half].concat()).unwrap();
        settle(machine.folder.path(), &machine.registers(None)).unwrap();
        machine.holds(&["one", "two"]);
        settle(machine.folder.path(), &machine.registers(None)).unwrap();
        machine.holds(&["one", "two"]);
    }

    #[test]
    fn killed_before_the_register_was_extended_the_event_did_not_happen() {
        let machine = Machine::new();
        let intent = Intent {
            offset: 0,
            after: vec![9; 48],
            text: "d o never".to_owned(),
        };
        intent.write(machine.folder.path()).unwrap();
        machine.extend("one", None).unwrap();
        machine.holds(&["one"]);
    }

    #[test]
    fn intent_that_was_cut_is_dropped() {
        let machine = Machine::new();
        for length in [0, 7, 20, 56] {
            std::fs::write(machine.folder.path().join(INTENT), vec![1; length]).unwrap();
            settle(machine.folder.path(), &machine.registers(None)).unwrap();
            machine.holds(&[]);
        }
    }

    #[test]
    fn register_that_refuses_leaves_the_log_as_the_register_is() {
        let machine = Machine::new();
        assert!(machine.extend("no", Some(false)).is_err());
        machine.holds(&[]);
        assert!(machine.extend("yes", Some(true)).is_err());
        machine.holds(&["yes"]);
    }

    #[test]
    fn log_that_was_cut_is_not_continued() {
        let machine = Machine::new();
        let intent = Intent {
            offset: 10,
            after: vec![0; 48],
            text: "d o x".to_owned(),
        };
        intent.write(machine.folder.path()).unwrap();
        let error = machine.extend("one", None).unwrap_err().to_string();
        assert!(error.contains("was cut"), "{error}");
    }

    #[test]
    fn register_that_is_not_there_is_named() {
        let machine = Machine::new();
        let event = Event::new("d", "o", "x").unwrap();
        let error = extend(machine.folder.path(), &machine.registers(None), 9, &event);
        assert!(error.unwrap_err().to_string().contains("no register 9"));
    }

    #[test]
    fn padding_of_the_firmwares_log_is_left_out() {
        let events = [
            HEADER_OF_FIRMWARE,
            &Event::new("a", "b", "c")
                .unwrap()
                .entry(3, HashAlgorithm::Sha384),
        ]
        .concat();
        for padding in [0x00, 0xff] {
            let area = [events.as_slice(), &[padding; 100]].concat();
            assert_eq!(whole_events(&area), Some(events.as_slice()));
        }
        assert_eq!(whole_events(&events), Some(events.as_slice()));
        // Cut within the event. With less than eight bytes of it, only the end of the area can be meant.
        for length in HEADER_OF_FIRMWARE.len() + 8..events.len() {
            assert_eq!(whole_events(&events[..length]), None, "{length}");
        }
    }

    #[test]
    fn without_the_firmwares_log_and_without_events_there_is_no_log() {
        let root = tempfile::tempdir().unwrap();
        let devices = Devices::under(root.path());
        assert_eq!(of_evidence(&devices).unwrap(), None);
    }

    const HEADER_OF_FIRMWARE: &[u8] = b"\x01\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x21\0\0\0Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0c\0\x30\0\0";
}
