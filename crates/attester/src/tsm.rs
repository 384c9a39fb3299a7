//! The kernel's report interface: a folder is made, its files are written and read, and the folder is removed.
//!
//! Documentation/ABI/testing/configfs-tsm-report of Linux 6.7 and later. `inblob` is committed when it is closed, where
//! an error is lost; `generation` alone says whether it was taken, and whether somebody else wrote meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::process;

use rustix::io::Errno;

use crate::AttestError;
use crate::files;

/// Who answers in the report interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Provider {
    Tdx,
    Sev,
    Cca,
}

impl Provider {
    fn parse(name: &str) -> Option<Self> {
        [Self::Tdx, Self::Sev, Self::Cca]
            .into_iter()
            .find(|provider| provider.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tdx => "tdx_guest",
            Self::Sev => "sev_guest",
            Self::Cca => "arm_cca_guest",
        }
    }
}

/// What the provider made of the report data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    /// The report or quote.
    pub(crate) out: Vec<u8>,
    /// What comes with it: of SNP the host's certificates.
    pub(crate) aux: Vec<u8>,
}

/// Asks who answers.
pub(crate) fn provider(interface: &Path) -> Result<Provider, AttestError> {
    Entry::create(interface)?.provider()
}

/// Has a report made over 64 bytes. A report that somebody disturbed is made again, in a folder of its own.
pub(crate) fn report(
    interface: &Path,
    wanted: Provider,
    report_data: &[u8; 64],
) -> Result<Answer, AttestError> {
    for _ in 0..ATTEMPTS {
        let mut entry = Entry::create(interface)?;
        let provider = entry.provider()?;
        if provider != wanted {
            return Err(entry.failed(format!(
                "the provider is {} and was {} when the platform was looked for",
                provider.name(),
                wanted.name()
            )));
        }
        entry.lower_privilege()?;
        entry.write("inblob", report_data)?;
        if let Some(answer) = entry.answer()? {
            return Ok(answer);
        }
    }
    Err(AttestError::Device {
        device: interface.display().to_string(),
        reason: format!(
            "the report was overwritten {ATTEMPTS} times while it was made: another process writes into folders that are not its own"
        ),
    })
}

/// A folder of ours in the interface, gone when it is dropped.
struct Entry {
    path: PathBuf,
    /// The generation that the files have when nobody but us wrote.
    generation: u64,
}

impl Entry {
    fn create(interface: &Path) -> Result<Self, AttestError> {
        for number in 0..NAMES {
            let path = interface.join(format!("strongroom-{}-{number}", process::id()));
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    let mut entry = Self {
                        path,
                        generation: 0,
                    };
                    entry.generation = entry.current_generation()?;
                    return Ok(entry);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(files::failure(&path, &error)),
            }
        }
        Err(AttestError::Device {
            device: interface.display().to_string(),
            reason: format!(
                "{NAMES} folders strongroom-* are there, left by processes that were killed: remove them with rmdir"
            ),
        })
    }

    fn provider(&self) -> Result<Provider, AttestError> {
        let name = files::read_text(&self.path.join("provider"))
            .map_err(|error| files::failure(&self.path.join("provider"), &error))?;
        Provider::parse(&name).ok_or_else(|| {
            self.failed(format!(
                "the provider {name:?} is not known here: tdx_guest, sev_guest and arm_cca_guest are"
            ))
        })
    }

    /// A guest under a service module may not ask as the most privileged level: the kernel says from which on.
    fn lower_privilege(&mut self) -> Result<(), AttestError> {
        let floor = match files::read_text(&self.path.join("privlevel_floor")) {
            Ok(floor) => floor,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(files::failure(&self.path.join("privlevel_floor"), &error)),
        };
        match floor.parse::<u8>() {
            Ok(0) => Ok(()),
            Ok(floor) => self.write("privlevel", floor.to_string().as_bytes()),
            Err(_) => Err(self.failed(format!("privlevel_floor is {floor:?}, which is no level"))),
        }
    }

    /// The answer; `None` when it is not, or may not be, the answer to what was written here.
    fn answer(&self) -> Result<Option<Answer>, AttestError> {
        if self.current_generation()? != self.generation {
            return Ok(None);
        }
        let out = match files::read(&self.path.join("outblob"), MAX_BLOB) {
            Ok(out) => out,
            // The kernel's word for a generation that moved while it made the report.
            Err(error) if disturbed(&error) => return Ok(None),
            Err(error) => return Err(files::failure(&self.path.join("outblob"), &error)),
        };
        let aux = match files::read(&self.path.join("auxblob"), MAX_BLOB) {
            Ok(aux) => aux,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) if disturbed(&error) => return Ok(None),
            Err(error) => return Err(files::failure(&self.path.join("auxblob"), &error)),
        };
        if self.current_generation()? != self.generation {
            return Ok(None);
        }
        match out.is_empty() {
            false => Ok(Some(Answer { out, aux })),
            true => Err(self.failed("the report is empty".to_owned())),
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), AttestError> {
        let path = self.path.join(name);
        files::write(&path, bytes).map_err(|error| files::failure(&path, &error))?;
        self.generation = self.generation.saturating_add(1);
        Ok(())
    }

    fn current_generation(&self) -> Result<u64, AttestError> {
        let path = self.path.join("generation");
        let text = files::read_text(&path).map_err(|error| files::failure(&path, &error))?;
        text.parse()
            .map_err(|_| self.failed(format!("generation is {text:?}, which is no number")))
    }

    fn failed(&self, reason: String) -> AttestError {
        AttestError::Device {
            device: self.path.display().to_string(),
            reason,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // What cannot be removed is met again by name, and passed over.
        std::fs::remove_dir(&self.path).ok();
    }
}

fn disturbed(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AGAIN | Errno::BUSY)
    )
}

/// A quote with its certificates has some 5 KiB, the host's certificates at most 16.
const MAX_BLOB: usize = 1024 * 1024;
const ATTEMPTS: usize = 5;
const NAMES: u32 = 64;
