//! Looking for a TEE, in the order in which guest-components does, and saying what was found and why nothing else was.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use strongroom_wire::tee::Tee;

use crate::devices::Devices;
use crate::hardware::{Hardware, Platform};
use crate::tsm::{self, Provider};
use crate::{AttestError, Attester, az_vtpm, files, nvidia, snp, tpm};

/// A platform that was found, and all that was looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Found {
    /// What makes this machine's evidence.
    pub attester: Attester,
    /// What was looked for, in order.
    pub probes: Vec<Probe>,
    /// What was looked for beside it.
    pub devices: Vec<Probe>,
}

impl Found {
    /// A platform that is not looked for.
    pub(crate) fn without_probes(attester: Attester) -> Self {
        Self {
            attester,
            probes: Vec::new(),
            devices: Vec::new(),
        }
    }

    /// What is here beside the platform and makes no evidence, in sentences for whoever starts a guest: a policy that
    /// asks for it will deny.
    pub fn warnings(&self) -> Vec<String> {
        let unusable = self.devices.iter().filter_map(|probe| match &probe.outcome {
            Outcome::Unusable { reason, .. } => Some(format!(
                "{} is here ({}) and makes no evidence: {reason}. This machine attests without it, and a policy that asks \
                 for it denies",
                probe.tee, probe.path
            )),
            _ => None,
        });
        unusable.collect()
    }
}

/// One place where a platform was looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Probe {
    /// The platform.
    pub tee: Tee,
    /// How it would be asked.
    pub by: &'static str,
    /// The file.
    pub path: String,
    /// What was seen.
    pub outcome: Outcome,
}

/// What was seen at a place.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// The platform: evidence is made through this.
    Found,
    /// The platform is here too, and another one came first.
    PassedOver,
    /// Nothing is there.
    Missing {
        /// What would bring it, where this machine looks as if it could have it.
        mend: Option<&'static str>,
    },
    /// Something is there that cannot be used.
    Unusable {
        /// Why not.
        reason: String,
        /// What would change that, where it is known.
        mend: Option<&'static str>,
    },
}

impl Outcome {
    /// One word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::PassedOver => "passed over",
            Self::Missing { .. } => "missing",
            Self::Unusable { .. } => "unusable",
        }
    }

    /// What to do about it.
    pub fn mend(&self) -> Option<&'static str> {
        match self {
            Self::Found | Self::PassedOver => None,
            Self::Missing { mend } | Self::Unusable { mend, .. } => *mend,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found => f.write_str("found"),
            Self::PassedOver => f.write_str("here too, but another platform came first"),
            Self::Missing { .. } => f.write_str("not there"),
            Self::Unusable { reason, .. } => f.write_str(reason),
        }
    }
}

/// Looks for a platform.
pub(crate) fn detect(devices: &Devices) -> Result<Found, NoTee> {
    search(devices, None)
}

/// Looks for one platform, where another one may be too.
pub(crate) fn named(tee: Tee, devices: &Devices) -> Result<Found, AttestError> {
    if !SUPPORTED.contains(&tee) {
        return Err(AttestError::Unsupported(tee));
    }
    search(devices, Some(tee)).map_err(|none| AttestError::NotHere {
        tee,
        none: Box::new(none),
    })
}

fn search(devices: &Devices, only: Option<Tee>) -> Result<Found, NoTee> {
    let mut search = Search {
        devices,
        only,
        probes: Vec::new(),
        found: None,
    };
    search.all();
    let Search { probes, found, .. } = search;
    match found {
        None => Err(NoTee { probes }),
        Some(platform) => {
            let gpus = gpus(devices);
            Ok(Found {
                attester: Attester::Hardware(Hardware {
                    platform,
                    devices: Arc::new(devices.clone()),
                    nvidia: gpus.outcome == Outcome::Found,
                }),
                probes,
                devices: vec![gpus],
            })
        }
    }
}

/// A GPU that does not sign is none: a policy that wants one sees that its evidence is missing.
fn gpus(devices: &Devices) -> Probe {
    let outcome = match devices.nvidia.exists() {
        false => Outcome::Missing { mend: None },
        true => match nvidia::probe(devices) {
            Ok(()) => Outcome::Found,
            Err(AttestError::Device { reason, .. }) => Outcome::Unusable { reason, mend: None },
            Err(error) => Outcome::Unusable {
                reason: error.to_string(),
                mend: None,
            },
        },
    };
    Probe {
        tee: Tee::Nvidia,
        by: "the driver's management library",
        path: devices.nvidia.display().to_string(),
        outcome,
    }
}

struct Search<'a> {
    devices: &'a Devices,
    only: Option<Tee>,
    probes: Vec<Probe>,
    found: Option<Platform>,
}

impl Search<'_> {
    fn all(&mut self) {
        let devices = self.devices;
        let provider = match devices.tsm.exists() {
            false => None,
            true => Some(tsm::provider(&devices.tsm)),
        };
        self.report_interface(Tee::Tdx, Provider::Tdx, Platform::Tdx, &provider);
        self.tdx_driver(&provider);
        self.sgx();
        self.az_vtpm();
        self.report_interface(
            Tee::Snp,
            Provider::Sev,
            Platform::Snp(snp::Source::Tsm),
            &provider,
        );
        self.snp_driver();
        self.unsupported(
            Tee::Csv,
            "the CSV guest driver",
            &devices.csv_guest,
            devices.csv_guest.exists(),
        );
        if let Some(Ok(Provider::Cca)) = provider {
            self.unsupported(Tee::Cca, REPORT_INTERFACE, &devices.tsm, true);
        }
        let protected = files::read_text(&devices.prot_virt_guest).is_ok_and(|text| text == "1");
        self.unsupported(
            Tee::Se,
            "the ultravisor's mark",
            &devices.prot_virt_guest,
            protected,
        );
        self.tpm();
    }

    /// Both are looked for by the report that the paravisor keeps in the vTPM.
    fn az_vtpm(&mut self) {
        let devices = self.devices;
        let there = devices.tpm.iter().find(|path| path.exists());
        let Some(path) = there.or_else(|| devices.tpm.first()) else {
            return;
        };
        let probed = match there {
            None => Ok(None),
            Some(path) => az_vtpm::probe(path),
        };
        for (tee, hardware) in [
            (Tee::AzTdxVtpm, az_vtpm::Hardware::Tdx),
            (Tee::AzSnpVtpm, az_vtpm::Hardware::Snp),
        ] {
            let outcome = match &probed {
                Ok(Some(found)) if *found == hardware => {
                    self.take(tee, HCL_REPORT, path, Platform::AzVtpm(hardware));
                    continue;
                }
                Ok(_) => Outcome::Missing { mend: None },
                Err(AttestError::Device { reason, .. }) => Outcome::Unusable {
                    reason: reason.clone(),
                    mend: None,
                },
                Err(error) => Outcome::Unusable {
                    reason: error.to_string(),
                    mend: None,
                },
            };
            self.note(tee, HCL_REPORT, path, outcome);
        }
    }

    /// The last, for every other platform proves more, and many of their machines have a TPM too. Where another one is
    /// here and cannot be used, a TPM does not stand in for it: on such machines it is often the host that runs it.
    fn tpm(&mut self) {
        let devices = self.devices;
        let there = devices.tpm.iter().find(|path| path.exists());
        let Some(path) = there else {
            if let Some(path) = devices.tpm.first() {
                self.note(Tee::Tpm, A_TPM, path, Outcome::Missing { mend: None });
            }
            return;
        };
        let unusable = self
            .probes
            .iter()
            .find(|probe| matches!(probe.outcome, Outcome::Unusable { .. }));
        if let (None, None, Some(other)) = (self.found, self.only, unusable) {
            let outcome = Outcome::Unusable {
                reason: format!("{} is here ({}) and cannot be used", other.tee, other.path),
                mend: Some("mend that one, or name this one: --platform tpm"),
            };
            return self.note(Tee::Tpm, A_TPM, path, outcome);
        }
        match self.found.map_or_else(|| tpm::probe(path), |_| Ok(())) {
            Ok(()) => self.take(Tee::Tpm, A_TPM, path, Platform::Tpm),
            Err(error) => {
                let reason = match error {
                    AttestError::Device { reason, .. } => reason,
                    other => other.to_string(),
                };
                self.note(
                    Tee::Tpm,
                    A_TPM,
                    path,
                    Outcome::Unusable { reason, mend: None },
                );
            }
        }
    }

    fn report_interface(
        &mut self,
        tee: Tee,
        wanted: Provider,
        platform: Platform,
        provider: &Option<Result<Provider, AttestError>>,
    ) {
        let devices = self.devices;
        let outcome = match provider {
            None => Outcome::Missing {
                mend: self.why_no_interface(tee),
            },
            Some(Ok(found)) if *found == wanted => {
                return self.take(tee, REPORT_INTERFACE, &devices.tsm, platform);
            }
            Some(Ok(other)) => Outcome::Unusable {
                reason: format!("its provider is {}", other.name()),
                mend: None,
            },
            Some(Err(error)) => Outcome::Unusable {
                reason: error.to_string(),
                mend: Some("run as root; the guest driver (tdx_guest or sev-guest) must be loaded"),
            },
        };
        self.note(tee, REPORT_INTERFACE, &devices.tsm, outcome);
    }

    /// What brings the interface to a machine that has the driver.
    fn why_no_interface(&self, tee: Tee) -> Option<&'static str> {
        let driver = match tee {
            Tee::Tdx => self.devices.tdx_guest.exists(),
            _ => self.devices.sev_guest.exists() || self.devices.sev_guest_platform.exists(),
        };
        let configfs = self.devices.tsm.ancestors().nth(2).is_some_and(|configfs| {
            configfs.is_dir()
                && configfs
                    .read_dir()
                    .is_ok_and(|mut all| all.next().is_some())
        });
        match (driver, configfs) {
            (false, _) => None,
            (true, false) => Some("mount -t configfs none /sys/kernel/config"),
            (true, true) => Some("modprobe tsm_report (Linux 6.7 or later, CONFIG_TSM_REPORTS)"),
        }
    }

    fn tdx_driver(&mut self, provider: &Option<Result<Provider, AttestError>>) {
        let path = &self.devices.tdx_guest;
        let outcome = match (path.exists(), provider) {
            (false, _) => Outcome::Missing { mend: None },
            (true, Some(Ok(Provider::Tdx))) => Outcome::PassedOver,
            (true, _) => Outcome::Unusable {
                reason: "the driver gives TD reports, and a quote is made of one only through the kernel's report interface"
                    .to_owned(),
                mend: Some("mount -t configfs none /sys/kernel/config (Linux 6.7 or later, CONFIG_TSM_REPORTS)"),
            },
        };
        self.note(Tee::Tdx, "the TDX guest driver", path, outcome);
    }

    fn sgx(&mut self) {
        let path = self.devices.enclave.join("attestation_type");
        let outcome = match files::read_text(&path) {
            Ok(kind) if kind == "dcap" => {
                return self.take(Tee::Sgx, ENCLAVE, &path, Platform::Sgx);
            }
            Ok(kind) => Outcome::Unusable {
                reason: format!("the enclave attests by {kind:?}, not by dcap"),
                mend: Some("sgx.remote_attestation = \"dcap\" in the enclave's manifest"),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Outcome::Missing { mend: None }
            }
            Err(error) => unusable(&error),
        };
        self.note(Tee::Sgx, ENCLAVE, &path, outcome);
    }

    fn snp_driver(&mut self) {
        let path = &self.devices.sev_guest;
        match std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
        {
            Ok(_) => {
                let platform = Platform::Snp(snp::Source::Driver);
                self.take(Tee::Snp, "the SEV-SNP guest driver", path, platform);
            }
            Err(error) => {
                let platform = &self.devices.sev_guest_platform;
                let outcome = match error.kind() {
                    io::ErrorKind::NotFound if platform.exists() => Outcome::Unusable {
                        reason: format!(
                            "{} is there, and the device file is not",
                            platform.display()
                        ),
                        mend: Some("modprobe sev-guest; a container needs the device passed in"),
                    },
                    io::ErrorKind::NotFound => Outcome::Missing { mend: None },
                    _ => unusable(&error),
                };
                self.note(Tee::Snp, "the SEV-SNP guest driver", path, outcome);
            }
        }
    }

    /// A platform of upstream's for which neither evidence nor a verifier is here.
    fn unsupported(&mut self, tee: Tee, by: &'static str, path: &Path, there: bool) {
        let outcome = match there {
            false => Outcome::Missing { mend: None },
            true => Outcome::Unusable {
                reason: format!(
                    "evidence of {tee} is not made here, and this project's broker verifies none"
                ),
                mend: None,
            },
        };
        self.note(tee, by, path, outcome);
    }

    fn take(&mut self, tee: Tee, by: &'static str, path: &Path, platform: Platform) {
        let outcome = match self.found {
            Some(_) => Outcome::PassedOver,
            None if self.only.is_some_and(|only| only != tee) => Outcome::PassedOver,
            None => {
                self.found = Some(platform);
                Outcome::Found
            }
        };
        self.note(tee, by, path, outcome);
    }

    fn note(&mut self, tee: Tee, by: &'static str, path: &Path, outcome: Outcome) {
        self.probes.push(Probe {
            tee,
            by,
            path: path.display().to_string(),
            outcome,
        });
    }
}

fn unusable(error: &io::Error) -> Outcome {
    Outcome::Unusable {
        reason: error.to_string(),
        mend: match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Some("run as root, or let this user open the file (a udev rule or chmod)")
            }
            _ => None,
        },
    }
}

/// No TEE that this build can use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoTee {
    /// What was looked for.
    pub probes: Vec<Probe>,
}

impl NoTee {
    /// Whether nothing was seen at any place: this is no confidential machine, as far as it can tell.
    pub fn is_nothing_there(&self) -> bool {
        let mut probes = self.probes.iter();
        probes.all(|probe| matches!(probe.outcome, Outcome::Missing { .. }))
    }
}

impl fmt::Display for NoTee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unusable: Vec<String> = self
            .probes
            .iter()
            .filter_map(|probe| match &probe.outcome {
                Outcome::Unusable { reason, .. } => {
                    Some(format!("{} ({}): {reason}", probe.path, probe.tee))
                }
                _ => None,
            })
            .collect();
        if unusable.is_empty() {
            let list: Vec<String> = self
                .probes
                .iter()
                .map(|probe| format!("{} ({})", probe.path, probe.tee))
                .collect();
            write!(
                f,
                "no TEE was found on this machine: none of {} exists",
                list.join(", ")
            )?;
        } else {
            write!(
                f,
                "no TEE of this machine can be used: {}",
                unusable.join("; ")
            )?;
        }
        f.write_str(
            "; the command `attest --explain` says more. For development, name a platform that proves nothing: `--platform \
             sample` (a broker refuses it unless it was told to accept sample evidence), or `--platform development` with \
             a root of yours that the broker was given",
        )
    }
}

impl std::error::Error for NoTee {}

/// The platforms of which evidence is made.
pub(crate) const SUPPORTED: [Tee; 6] = [
    Tee::Tdx,
    Tee::Sgx,
    Tee::AzTdxVtpm,
    Tee::AzSnpVtpm,
    Tee::Snp,
    Tee::Tpm,
];

const REPORT_INTERFACE: &str = "the kernel's report interface";
const A_TPM: &str = "a TPM 2.0";
const HCL_REPORT: &str = "the HCL report in Azure's vTPM";
const ENCLAVE: &str = "the enclave's attestation files";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Devices) {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let devices = Devices::under(root.path());
        (root, devices)
    }

    fn outcome(probes: &[Probe], tee: Tee, path: &str) -> Outcome {
        let mut probes = probes.iter();
        let found = probes.find(|probe| probe.tee == tee && probe.path.contains(path));
        found.unwrap().outcome.clone()
    }

    #[test]
    fn machine_without_tee_never_becomes_sample() {
        let (_root, devices) = machine(&[]);
        let text = detect(&devices).unwrap_err().to_string();
        assert!(
            text.contains("no TEE was found")
                && text.contains("/dev/sev-guest")
                && text.contains("--platform sample"),
            "{text}"
        );
    }

    #[test]
    fn device_that_cannot_be_used_is_named_instead_of_denied() {
        let (_root, devices) = machine(&[("dev/tdx_guest", "")]);
        let error = detect(&devices).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/dev/tdx_guest") && !text.contains("/dev/sev-guest"),
            "{text}"
        );
        let mend = outcome(&error.probes, Tee::Tdx, "tdx_guest")
            .mend()
            .unwrap();
        assert!(mend.contains("mount -t configfs"), "{mend}");
    }

    #[test]
    fn platforms_are_looked_for_in_upstreams_order_and_the_first_wins() {
        let (_root, devices) = machine(&[
            ("dev/sev-guest", ""),
            ("dev/attestation/attestation_type", "dcap\n"),
        ]);
        let found = detect(&devices).unwrap();
        assert_eq!(found.attester.tee(), Tee::Sgx);
        assert_eq!(
            outcome(&found.probes, Tee::Snp, "sev-guest"),
            Outcome::PassedOver
        );
        let order: Vec<Tee> = found.probes.iter().map(|probe| probe.tee).collect();
        assert_eq!(
            order,
            [
                Tee::Tdx,
                Tee::Tdx,
                Tee::Sgx,
                Tee::AzTdxVtpm,
                Tee::AzSnpVtpm,
                Tee::Snp,
                Tee::Snp,
                Tee::Csv,
                Tee::Se,
                Tee::Tpm
            ]
        );
    }

    #[test]
    fn named_platform_is_taken_though_another_comes_first_and_never_another() {
        let (_root, devices) = machine(&[
            ("dev/sev-guest", ""),
            ("dev/attestation/attestation_type", "dcap\n"),
        ]);
        let found = named(Tee::Snp, &devices).unwrap();
        assert_eq!(found.attester.tee(), Tee::Snp);
        let error = named(Tee::Tdx, &devices).unwrap_err();
        assert!(matches!(error, AttestError::NotHere { tee: Tee::Tdx, .. }));
    }

    #[test]
    fn platform_without_a_verifier_is_told_and_not_taken() {
        for (path, tee) in [
            ("dev/csv-guest", Tee::Csv),
            ("sys/firmware/uv/prot_virt_guest", Tee::Se),
        ] {
            let (_root, devices) = machine(&[(path, "1\n")]);
            let error = detect(&devices).unwrap_err();
            assert_eq!(outcome(&error.probes, tee, path).word(), "unusable");
        }
        let (_root, devices) = machine(&[("sys/firmware/uv/prot_virt_guest", "0\n")]);
        let error = detect(&devices).unwrap_err();
        assert_eq!(outcome(&error.probes, Tee::Se, "uv").word(), "missing");
    }

    #[test]
    fn gpu_that_makes_no_evidence_goes_unmentioned() {
        // No library is at the place where this machine has it.
        let (_root, devices) = machine(&[("dev/sev-guest", ""), ("dev/nvidiactl", "")]);
        for found in [
            detect(&devices).unwrap(),
            Attester::find("snp", None, &devices).unwrap(),
        ] {
            let [warning] = found.warnings().try_into().unwrap();
            assert!(
                warning.contains("nvidia") && warning.contains("dev/nvidiactl"),
                "{warning}"
            );
        }
        let (_root, devices) = machine(&[("dev/sev-guest", "")]);
        assert_eq!(detect(&devices).unwrap().warnings(), Vec::<String>::new());
    }

    #[test]
    fn driver_without_its_device_file_says_what_to_load() {
        let (_root, devices) = machine(&[("sys/devices/platform/sev-guest/modalias", "")]);
        let error = detect(&devices).unwrap_err();
        let outcome = outcome(&error.probes, Tee::Snp, "dev/sev-guest");
        assert!(outcome.mend().unwrap().contains("modprobe sev-guest"));
    }
}
