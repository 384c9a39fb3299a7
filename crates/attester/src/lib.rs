//! Evidence from this machine's TEE device, one variant per kind of device.
//!
//! Devices are files probed at run time. A machine without a TEE is an error that says so: `sample`, which proves
//! nothing, is taken only when it is named, and so is `development`, which signs the real formats under a root of its
//! owner's. The evidence formats are those of the KBS protocol (kbs-types 0.18).

mod az_vtpm;
mod binding;
mod detect;
pub mod development;
mod devices;
mod event_log;
mod files;
pub mod fuzzing;
mod hardware;
mod imds;
mod nvidia;
mod sample;
mod sgx;
mod snp;
mod sys;
mod tdx;
mod tpm;
mod tsm;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;
use strongroom_wire::initdata::Initdata;
use strongroom_wire::tee::Tee;

use binding::InitdataMark;
pub use binding::{BindingError, Bound, LaunchRegister};
pub use detect::{Found, NoTee, Outcome, Probe};
pub use devices::Devices;
pub use event_log::{Event, EventError};
pub use hardware::Hardware;

use development::{DevelopmentAttester, DevelopmentRoot};

/// The device that makes this machine's evidence.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Attester {
    /// No hardware: evidence that anybody can write. Brokers refuse it unless told otherwise by name.
    Sample {
        /// The digest that stands for the register in which hardware keeps the init-data's; `None` leaves it out, as
        /// upstream does.
        initdata_digest: Option<Vec<u8>>,
    },
    /// No hardware: evidence in a platform's real format, under a root for development. Brokers refuse it unless that
    /// root was given to them for development.
    Development(DevelopmentAttester),
    /// A TEE of this machine.
    Hardware(Hardware),
}

impl Attester {
    /// Looks for a TEE on this machine.
    ///
    /// # Errors
    /// [`NoTee`], naming what was looked for, what was found and what to do. Never falls to `sample` or `development`.
    pub fn detect(devices: &Devices) -> Result<Found, NoTee> {
        detect::detect(devices)
    }

    /// Takes the platform of that name, which is none of development.
    ///
    /// # Errors
    /// As [`Self::named_with_root`].
    pub fn named(name: &str) -> Result<Self, AttestError> {
        Self::named_with_root(name, None)
    }

    /// Takes the platform of that name: `sample`; `development` (which is `development:snp`), `development:tdx` and so
    /// on; `tdx`, `snp` and so on when this machine is one, even where another platform would come first. The root of development platforms is kept in the folder `development_root`, and made on first use.
    ///
    /// # Errors
    /// [`AttestError::Unsupported`] when this build has no attester for it, [`AttestError::Unknown`] when there is no
    /// such platform; [`AttestError::NoDevelopmentRoot`] and [`AttestError::Development`] for development platforms.
    pub fn named_with_root(
        name: &str,
        development_root: Option<&Path>,
    ) -> Result<Self, AttestError> {
        Self::find(name, development_root, &Devices::default()).map(|found| found.attester)
    }

    /// As [`Self::named_with_root`], on a machine whose devices are elsewhere, and with what was seen on it.
    ///
    /// # Errors
    /// The same.
    pub fn find(
        name: &str,
        development_root: Option<&Path>,
        devices: &Devices,
    ) -> Result<Found, AttestError> {
        if let Some(platform) = development::platform(name) {
            let platform = platform?;
            let folder = development_root.ok_or(AttestError::NoDevelopmentRoot)?;
            // A clock before 1970 makes certificates that nobody believes.
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs());
            let root = DevelopmentRoot::open_or_create(folder, now)?;
            let attester = Self::Development(DevelopmentAttester::new(platform, root)?);
            return Ok(Found::without_probes(attester));
        }
        match name.parse::<Tee>() {
            Ok(Tee::Sample) => Ok(Found::without_probes(Self::Sample {
                initdata_digest: None,
            })),
            Ok(tee) => detect::named(tee, devices),
            Err(_) => Err(AttestError::Unknown(name.chars().take(64).collect())),
        }
    }

    /// Measures init-data into the platform, where the platform has no launch measurement of its own.
    #[must_use]
    pub fn with_initdata(self, initdata: &Initdata) -> Self {
        match self {
            Self::Sample { .. } => Self::Sample {
                initdata_digest: Some(initdata.digest()),
            },
            Self::Development(attester) => {
                Self::Development(attester.with_initdata_digest(initdata.digest()))
            }
            Self::Hardware(hardware) => Self::Hardware(hardware),
        }
    }

    /// The platform.
    pub fn tee(&self) -> Tee {
        match self {
            Self::Sample { .. } => Tee::Sample,
            Self::Development(attester) => attester.tee(),
            Self::Hardware(hardware) => hardware.tee(),
        }
    }

    /// Makes evidence that contains `report_data`. May wait for the device.
    ///
    /// # Errors
    /// [`AttestError::ReportData`] when the platform has no room for that many bytes.
    pub fn evidence(&self, report_data: &[u8]) -> Result<Box<RawValue>, AttestError> {
        if report_data.len() > MAX_REPORT_DATA {
            return Err(AttestError::ReportData {
                actual: report_data.len(),
                limit: MAX_REPORT_DATA,
            });
        }
        match self {
            Self::Sample { initdata_digest } => {
                sample::evidence(report_data, initdata_digest.as_deref())
            }
            Self::Development(attester) => attester.evidence(report_data),
            Self::Hardware(hardware) => hardware.evidence(report_data),
        }
    }

    /// Evidence of further devices, as the JSON text that the CPU's evidence binds; `""` when there are none.
    ///
    /// # Errors
    /// As [`Self::evidence`].
    pub fn additional_evidence(&self, report_data: &[u8]) -> Result<String, AttestError> {
        match self {
            Self::Sample { .. } | Self::Development(_) => Ok(String::new()),
            Self::Hardware(hardware) => hardware.additional_evidence(report_data),
        }
    }

    /// The devices beside the TEE that make evidence of their own.
    pub fn additional_tees(&self) -> Vec<Tee> {
        match self {
            Self::Hardware(hardware) if hardware.nvidia => vec![Tee::Nvidia],
            _ => Vec::new(),
        }
    }

    /// The register that holds the digest of the init-data that this machine was launched with.
    ///
    /// # Errors
    /// [`AttestError::Device`], when the platform has one and it cannot be read.
    pub fn init_data(&self) -> Result<LaunchRegister, AttestError> {
        match self {
            Self::Sample { .. } | Self::Development(_) => Ok(LaunchRegister::None {
                why: "the platform is no hardware: its evidence says what this process tells it to",
            }),
            Self::Hardware(hardware) => hardware.launch_register(),
        }
    }

    /// Holds init-data, or its absence, against what this machine was launched with. Where the register is one that the
    /// guest itself extends (PCR 8) and nobody has yet, it is extended; once it was, the same document passes again.
    ///
    /// # Errors
    /// [`BindingError`]: nothing of the document may be used, and the guest must not start.
    pub fn bind_initdata(&self, initdata: Option<&Initdata>) -> Result<Bound, BindingError> {
        let register = self.init_data()?;
        let mut bound = register.check(initdata)?;
        let Self::Hardware(hardware) = self else {
            return Ok(bound);
        };
        let LaunchRegister::Pcr8(held) = register else {
            return Ok(bound);
        };
        // Boot loaders measure into this register too: what it holds does not say whether it is a document's digest.
        let mark = InitdataMark::at(&hardware.devices.initdata_mark);
        match (&bound, initdata) {
            (Bound::NoDocument, _) if held != [0; 32] => mark.refuse(&held)?,
            (Bound::ToExtend { digest }, _) => {
                mark.leave(digest)?;
                hardware.extend_initdata(digest)?;
                // Somebody else may have been first.
                bound = self.init_data()?.check(initdata)?;
            }
            (Bound::Matches { .. }, Some(initdata)) => mark.leave(&initdata.digest())?,
            _ => {}
        }
        Ok(bound)
    }

    /// Whether the platform has registers that can be extended while the guest runs.
    pub fn has_runtime_registers(&self) -> bool {
        match self {
            Self::Sample { .. } | Self::Development(_) => false,
            Self::Hardware(hardware) => hardware.has_registers(),
        }
    }

    /// Measures an event into the register that stands for a PCR, and appends it to the event log. May wait for another
    /// process that does the same.
    ///
    /// # Errors
    /// [`AttestError::NoRegister`] where the platform has none; [`AttestError::Device`] and [`AttestError::EventLog`].
    pub fn extend(&self, event: &Event, pcr: u32) -> Result<(), AttestError> {
        match self {
            Self::Sample { .. } | Self::Development(_) => Err(AttestError::NoRegister(self.tee())),
            Self::Hardware(hardware) => hardware.extend(event, pcr),
        }
    }
}

/// Why a machine's evidence cannot be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The platform is known to the protocol and not to this build.
    #[error(
        "this build makes no evidence for platform {0}; it makes it for: {hardware}, sample, {list}",
        hardware = detect::SUPPORTED.map(Tee::as_str).join(", "),
        list = development::PLATFORMS.map(|tee| format!("development:{tee}")).join(", ")
    )]
    Unsupported(Tee),
    /// The platform was named, and this machine is none.
    #[error("platform {tee} was named, and this machine is none: {none}")]
    NotHere {
        /// The platform.
        tee: Tee,
        /// What was looked for.
        none: Box<NoTee>,
    },
    /// A development platform without the folder of its root.
    #[error(
        "platform development signs under a root of yours: say in which folder it is kept (--development-root DIR or \
         STRONGROOM_DEVELOPMENT_ROOT, or `development_root` in a guest's configuration); it is made there on first use"
    )]
    NoDevelopmentRoot,
    /// The development root cannot be used, or cannot sign what it was asked to.
    #[error("development root: {0}")]
    Development(String),
    /// There is no such platform.
    #[error(
        "there is no platform {0:?}; this build makes evidence for: {hardware}, sample, development, {list}",
        hardware = detect::SUPPORTED.map(Tee::as_str).join(", "),
        list = development::PLATFORMS.map(|tee| format!("development:{tee}")).join(", ")
    )]
    Unknown(String),
    /// More bytes than a report holds.
    #[error("report data has {actual} bytes, and a report holds at most {limit}; hash it first")]
    ReportData {
        /// How many bytes were given.
        actual: usize,
        /// How many fit.
        limit: usize,
    },
    /// A device that is there did not do what it was asked.
    #[error("{device}: {reason}")]
    Device {
        /// The file or address.
        device: String,
        /// What it said, and what would mend it.
        reason: String,
    },
    /// The platform has no register for what happens while a guest runs.
    #[error(
        "platform {0} has no register that a running guest can extend, so events cannot be measured on it; TDX and \
         machines with a TPM or vTPM have"
    )]
    NoRegister(Tee),
    /// The event log does not go with its registers, or takes no more.
    #[error("event log {}: {reason}", path.display())]
    EventLog {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The evidence has no JSON form.
    #[error("the evidence has no JSON form")]
    Json,
}

impl From<development::DevelopmentError> for AttestError {
    fn from(error: development::DevelopmentError) -> Self {
        Self::Development(error.to_string())
    }
}

/// The report data field of SNP and TDX reports; what is longer must be hashed by the caller on every platform.
const MAX_REPORT_DATA: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hardware_by_name_is_looked_for_and_not_made_up() {
        for name in ["tdx", "snp", "sgx"] {
            let outcome = Attester::named(name);
            assert!(
                matches!(
                    outcome,
                    Ok(Attester::Hardware(_)) | Err(AttestError::NotHere { .. })
                ),
                "{outcome:?}"
            );
        }
        assert_eq!(
            Attester::named("cca"),
            Err(AttestError::Unsupported(Tee::Cca))
        );
    }

    #[test]
    fn misspelt_platform_is_no_sample() {
        assert!(matches!(
            Attester::named("Sample"),
            Err(AttestError::Unknown(_))
        ));
        assert!(matches!(Attester::named(""), Err(AttestError::Unknown(_))));
        let text = Attester::named("smple").unwrap_err().to_string();
        for name in [
            "\"smple\"",
            "snp",
            "sample",
            "development, ",
            "development:tdx",
        ] {
            assert!(text.contains(name), "{text}");
        }
        // Known to the protocol, and of no use to whoever has to name one.
        assert!(!text.contains("hygon") && !text.contains("cca"), "{text}");
    }

    #[test]
    fn report_data_longer_than_a_report_holds_is_refused() {
        let sample = Attester::named("sample").unwrap();
        assert!(sample.evidence(&[0; 64]).is_ok());
        assert!(matches!(
            sample.evidence(&[0; 65]),
            Err(AttestError::ReportData {
                actual: 65,
                limit: 64
            })
        ));
    }

    #[test]
    fn development_without_a_folder_makes_no_root_anywhere() {
        assert_eq!(
            Attester::named("development"),
            Err(AttestError::NoDevelopmentRoot)
        );
        let folder = tempfile::tempdir().unwrap();
        for name in ["development:", "development:sample", "development:se"] {
            assert!(
                Attester::named_with_root(name, Some(folder.path())).is_err(),
                "{name}"
            );
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn development_platform_goes_by_the_name_of_what_it_forges() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("root");
        for (name, tee) in [
            ("development", Tee::Snp),
            ("development:snp", Tee::Snp),
            ("development:tdx", Tee::Tdx),
            ("development:sgx", Tee::Sgx),
            ("development:tpm", Tee::Tpm),
            ("development:az-snp-vtpm", Tee::AzSnpVtpm),
            ("development:az-tdx-vtpm", Tee::AzTdxVtpm),
        ] {
            let attester = Attester::named_with_root(name, Some(&folder)).unwrap();
            assert_eq!(attester.tee(), tee);
            assert!(attester.evidence(&[7; 48]).unwrap().get().starts_with('{'));
        }
    }
}
