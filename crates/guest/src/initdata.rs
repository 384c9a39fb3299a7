//! The configuration that this machine was launched with: found, held against the hardware, and only then read.
//!
//! It comes on a disk of its own (Kata), in a file that Kata's agent or cloud-init wrote (peer pods), or by name.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use strongroom_attester::{Attester, BindingError, Bound, LaunchRegister};
use strongroom_wire::initdata::{self as wire, Initdata};

use crate::agent_policy::AgentPolicy;
use crate::config::{AaConfig, CdhConfig, Document, Read};
use crate::error::GuestError;

/// Where init-data is looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Places {
    /// The folder of block devices. Those whose names begin as virtual disks' do are looked at.
    pub devices: PathBuf,
    /// Files, in order.
    pub files: Vec<PathBuf>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            devices: PathBuf::from("/dev"),
            files: [
                "/run/confidential-containers/initdata/initdata.toml",
                "/run/peerpod/initdata",
            ]
            .map(PathBuf::from)
            .to_vec(),
        }
    }
}

/// A document that was found. The hardware has not been asked about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnverifiedInitdata {
    initdata: Initdata,
    from: PathBuf,
}

impl UnverifiedInitdata {
    /// A document that is no file.
    pub fn new(initdata: Initdata) -> Self {
        Self {
            initdata,
            from: "init-data".into(),
        }
    }

    /// Looks for a document: disks first, then files.
    ///
    /// # Errors
    /// [`GuestError::Initdata`], when one is there that cannot be read.
    pub fn find(places: &Places) -> Result<Option<Self>, GuestError> {
        for path in disks(&places.devices) {
            // A disk that this user may not read is none of init-data's: Kata makes that one readable.
            let Ok(disk) = File::open(&path) else {
                continue;
            };
            let text = match wire::text_on_disk(disk) {
                Ok(Some(text)) => text,
                Err(error) if begins(&path) => return Err(wrong(&path, error.to_string())),
                // Another disk, or one without a medium, which nothing can be read from.
                Ok(None) | Err(_) => continue,
            };
            let initdata =
                Initdata::parse(&text).map_err(|error| wrong(&path, error.to_string()))?;
            return Ok(Some(Self {
                initdata,
                from: path,
            }));
        }
        for path in &places.files {
            if path.exists() {
                return Self::read(path).map(Some);
            }
        }
        Ok(None)
    }

    /// Reads the document of a file: the document, its annotation, its gzip, or its disk.
    ///
    /// # Errors
    /// [`GuestError::Initdata`].
    pub fn read(path: &Path) -> Result<Self, GuestError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .map_err(|error| wrong(path, error.to_string()))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
            return Err(wrong(path, format!("it is larger than {MAX_FILE} bytes")));
        }
        let initdata =
            Initdata::from_file(&bytes).map_err(|error| wrong(path, error.to_string()))?;
        Ok(Self {
            initdata,
            from: path.to_owned(),
        })
    }

    /// Compares it with a register, and changes nothing.
    ///
    /// # Errors
    /// As [`LaunchRegister::check`].
    pub fn check(&self, register: &LaunchRegister) -> Result<Bound, BindingError> {
        register.check(Some(&self.initdata))
    }

    /// Where it was found.
    pub fn from(&self) -> &Path {
        &self.from
    }
}

/// What this machine was launched with: the document, if there is one, and the settings in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Launched {
    /// The document that the evidence is sent with.
    pub initdata: Option<Initdata>,
    /// Where it was found.
    pub from: Option<PathBuf>,
    /// What the hardware says of it.
    pub bound: Bound,
    /// `aa.toml`.
    pub aa: AaConfig,
    /// `cdh.toml`.
    pub cdh: CdhConfig,
    /// `policy.rego`.
    pub policy: Option<String>,
    /// What somebody should know: keys that nobody reads, files that nobody knows, a document that nothing vouches for.
    pub warnings: Vec<String>,
}

impl Launched {
    /// Holds what was found against the hardware, then reads it. Settings without a document are the defaults.
    ///
    /// # Errors
    /// [`GuestError::Binding`], when the machine was launched with another document, or with one that was not found: the
    /// guest must not start. [`GuestError::Launch`], when the hardware has no register that could vouch for the document.
    /// [`GuestError::Initdata`], when a file in it cannot be read.
    pub fn verify(
        attester: &Attester,
        found: Option<UnverifiedInitdata>,
    ) -> Result<Self, GuestError> {
        let bound = attester.bind_initdata(found.as_ref().map(|found| &found.initdata))?;
        if let (Bound::Nowhere { why }, Attester::Hardware(_), Some(found)) =
            (&bound, attester, &found)
        {
            return Err(GuestError::Launch(format!(
                "nothing vouches for the init-data of {}, and nothing of it is used: {why}. Say what it says by options \
                 (--broker, --broker-cert), which the host chooses as well, or let it decide with \
                 --insecure-unbound-initdata",
                found.from.display()
            )));
        }
        Self::read(bound, found, matches!(attester, Attester::Hardware(_)))
    }

    /// The same, and follows a document that no register of the hardware can vouch for: whoever can change the file chooses
    /// broker, keys and image policy.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn insecure_verify_even_unbound(
        attester: &Attester,
        found: Option<UnverifiedInitdata>,
    ) -> Result<Self, GuestError> {
        let bound = attester.bind_initdata(found.as_ref().map(|found| &found.initdata))?;
        Self::read(bound, found, matches!(attester, Attester::Hardware(_)))
    }

    /// Reads what nothing was held against: for looking into what is wrong, and for nothing else.
    ///
    /// # Errors
    /// [`GuestError::Initdata`], when a file in it cannot be read.
    pub fn insecure_unverified(found: Option<UnverifiedInitdata>) -> Result<Self, GuestError> {
        let why = "it was not held against the hardware";
        Self::read(Bound::Nowhere { why }, found, false)
    }

    fn read(
        bound: Bound,
        found: Option<UnverifiedInitdata>,
        is_hardware: bool,
    ) -> Result<Self, GuestError> {
        let mut launched = Self {
            initdata: None,
            from: None,
            bound,
            aa: AaConfig::default(),
            cdh: CdhConfig::default(),
            policy: None,
            warnings: Vec::new(),
        };
        let Some(UnverifiedInitdata { initdata, from }) = found else {
            return Ok(launched);
        };
        if let (Bound::Nowhere { why }, true) = (&launched.bound, is_hardware) {
            launched.warnings.push(format!(
                "nothing vouches for the init-data of {}: {why}",
                from.display()
            ));
        }
        for (name, text) in initdata.data() {
            let failed = |reason: String| wrong(&from, format!("{name}: {reason}"));
            match name.as_str() {
                "aa.toml" => {
                    let read = AaConfig::parse(text).map_err(failed)?;
                    launched.aa = known(read, name, &mut launched.warnings);
                }
                "cdh.toml" => {
                    let read = CdhConfig::parse(text).map_err(failed)?;
                    launched.cdh = known(read, name, &mut launched.warnings);
                }
                "policy.rego" => {
                    if let Err(error) = AgentPolicy::load(text) {
                        launched
                            .warnings
                            .push(format!("Kata's agent cannot use policy.rego: {error}"));
                    }
                    launched.policy = Some(text.clone());
                }
                other => launched.warnings.push(format!(
                    "nobody reads {:?} of the init-data",
                    other.chars().take(64).collect::<String>()
                )),
            }
        }
        if launched.cdh.skip_sealed_secret_verification {
            launched.warnings.push(
                "cdh.toml: skip_sealed_secret_verification is set: whoever can change a sealed secret chooses which of \
                 the broker's resources takes its place"
                    .to_owned(),
            );
        }
        launched.initdata = Some(initdata);
        launched.from = Some(from);
        Ok(launched)
    }
}

fn known<T>(read: Read<T>, name: &str, warnings: &mut Vec<String>) -> T {
    warnings.extend(
        read.unknown
            .into_iter()
            .map(|key| format!("{name}: nobody reads the key {key}")),
    );
    read.config
}

/// Virtual disks by name, in order.
fn disks(folder: &Path) -> Vec<PathBuf> {
    let mut disks: Vec<PathBuf> = folder
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            name.starts_with(b"vd") || name.starts_with(b"sd")
        })
        .map(|entry| entry.path())
        .collect();
    disks.sort();
    disks
}

/// Whether a disk begins as one of init-data does.
fn begins(path: &Path) -> bool {
    let mut head = [0; 8];
    let read = File::open(path).and_then(|mut disk| match disk.read(&mut head)? {
        8 => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    });
    read.is_ok() && &head == b"initdata"
}

fn wrong(path: &Path, reason: String) -> GuestError {
    GuestError::Initdata {
        path: path.to_owned(),
        reason,
    }
}

const MAX_FILE: u64 = 4 * 1024 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = '''\n[token_configs.kbs]\nurl = \"https://broker:8080\"\nurll = 1\n'''\n\"policy.rego\" = \"package agent_policy\"\n\"x\" = \"\"\n";

    fn machine() -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("dev")).unwrap();
        let places = Places {
            devices: folder.path().join("dev"),
            files: vec![folder.path().join("one"), folder.path().join("two")],
        };
        (folder, places)
    }

    fn sample() -> Attester {
        Attester::named("sample").unwrap()
    }

    #[test]
    fn disk_of_init_data_is_found_among_others_and_comes_before_files() {
        let (folder, places) = machine();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        };
        assert_eq!(UnverifiedInitdata::find(&places), Ok(None));
        let other = DOCUMENT.replace("broker", "other");
        write("two", other.as_bytes());
        let found = UnverifiedInitdata::find(&places).unwrap().unwrap();
        assert_eq!(found.from(), folder.path().join("two"));
        let disk = Initdata::parse(DOCUMENT).unwrap().to_disk();
        write("dev/vda", &[0; 4096]);
        write("dev/sdb", b"short");
        write("dev/null", &disk);
        write("dev/vdc", &disk);
        let found = UnverifiedInitdata::find(&places).unwrap().unwrap();
        assert_eq!(found.from(), folder.path().join("dev/vdc"));
        assert_eq!(found.initdata.as_str(), DOCUMENT);
    }

    #[test]
    fn disk_of_init_data_that_cannot_be_read_stops_the_guest() {
        let (folder, places) = machine();
        let mut disk = Initdata::parse(DOCUMENT).unwrap().to_disk();
        disk.truncate(40);
        std::fs::write(folder.path().join("dev/vda"), &disk).unwrap();
        let error = UnverifiedInitdata::find(&places).unwrap_err().to_string();
        assert!(
            error.contains("vda") && error.contains("are there"),
            "{error}"
        );
    }

    #[test]
    fn what_cloud_init_leaves_is_read_packed_or_not() {
        let (folder, places) = machine();
        let document = Initdata::parse(DOCUMENT).unwrap();
        for form in [document.to_annotation(), DOCUMENT.to_owned()] {
            std::fs::write(folder.path().join("one"), form).unwrap();
            let found = UnverifiedInitdata::find(&places).unwrap().unwrap();
            assert_eq!(found.initdata, document);
        }
    }

    #[test]
    fn settings_of_the_document_are_handed_on_and_what_nobody_reads_is_told() {
        let found = UnverifiedInitdata {
            initdata: Initdata::parse(DOCUMENT).unwrap(),
            from: PathBuf::from("/dev/vdb"),
        };
        let launched = Launched::verify(&sample(), Some(found)).unwrap();
        assert_eq!(
            launched.aa.token_configs.kbs.unwrap().url,
            "https://broker:8080"
        );
        assert_eq!(launched.policy.as_deref(), Some("package agent_policy"));
        let told = launched.warnings.join("\n");
        for part in ["token_configs.kbs.urll", "\"x\""] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn signatures_are_skipped_silently() {
        let text = DOCUMENT.replace(
            "[data]\n",
            "[data]\n\"cdh.toml\" = \"skip_sealed_secret_verification = true\"\n",
        );
        let found = UnverifiedInitdata {
            initdata: Initdata::parse(&text).unwrap(),
            from: PathBuf::from("/dev/vdb"),
        };
        let launched = Launched::verify(&sample(), Some(found)).unwrap();
        let told = launched.warnings.join("\n");
        assert!(told.contains("skip_sealed_secret_verification"), "{told}");
    }

    #[test]
    fn policy_that_nobody_can_load_is_told() {
        let warnings = |text: &str| {
            let found = UnverifiedInitdata {
                initdata: Initdata::parse(text).unwrap(),
                from: PathBuf::from("/dev/vdb"),
            };
            let launched = Launched::verify(&sample(), Some(found)).unwrap();
            launched.warnings.join("\n")
        };
        assert!(!warnings(DOCUMENT).contains("policy.rego"));
        let other = DOCUMENT.replace("package agent_policy", "package policy");
        assert!(warnings(&other).contains("Kata's agent cannot use policy.rego"));
    }

    #[test]
    fn file_in_the_document_that_cannot_be_read_is_named() {
        let text = DOCUMENT.replace("urll = 1", "urll =");
        let found = UnverifiedInitdata {
            initdata: Initdata::parse(&text).unwrap(),
            from: PathBuf::from("/dev/vdb"),
        };
        let error = Launched::verify(&sample(), Some(found))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/dev/vdb") && error.contains("aa.toml"),
            "{error}"
        );
    }

    #[test]
    fn without_a_document_the_settings_are_the_defaults() {
        let launched = Launched::verify(&sample(), None).unwrap();
        assert_eq!(launched.aa, AaConfig::default());
        assert_eq!(launched.bound, Bound::NoDocument);
    }
}
