//! Init-data against the value that this machine was launched with, before anything in it is used.
//!
//! A document is the host's word until the hardware says otherwise: SNP's `HOST_DATA` and TDX's `MRCONFIGID` were set at
//! launch and cannot be changed, PCR 8 of a vTPM is extended once, by whoever comes first.

use std::path::Path;
use std::{fmt, io};

use strongroom_wire::initdata::{Initdata, registers};

use crate::{AttestError, files};

/// The register of this machine that holds the digest of its init-data.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum LaunchRegister {
    /// SNP.
    HostData([u8; 32]),
    /// TDX.
    MrConfigId([u8; 48]),
    /// A TPM or vTPM: PCR 8 of the SHA-256 bank.
    Pcr8([u8; 32]),
    /// The platform has none, or shows none to this machine.
    None {
        /// Why not.
        why: &'static str,
    },
}

impl LaunchRegister {
    /// The name that the platform's maker gave it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HostData(_) => "HOST_DATA",
            Self::MrConfigId(_) => "MRCONFIGID",
            Self::Pcr8(_) => "PCR 8",
            Self::None { .. } => "no register",
        }
    }

    /// What it holds.
    pub fn value(&self) -> &[u8] {
        match self {
            Self::HostData(value) | Self::Pcr8(value) => value,
            Self::MrConfigId(value) => value,
            Self::None { .. } => &[],
        }
    }

    /// Compares the register with a document, or with there being none.
    ///
    /// # Errors
    /// [`BindingError`]: nothing of the document may be used.
    pub fn check(&self, initdata: Option<&Initdata>) -> Result<Bound, BindingError> {
        let held = self.value();
        let Some(initdata) = initdata else {
            return match self {
                // Boot loaders measure into PCR 8 too.
                Self::Pcr8(_) | Self::None { .. } => Ok(Bound::NoDocument),
                _ if held.iter().all(|byte| *byte == 0) => Ok(Bound::NoDocument),
                _ => Err(BindingError::Withheld {
                    register: self.name(),
                    held: hex::encode(held),
                }),
            };
        };
        let digest = initdata.digest();
        let wanted = registers(&digest);
        let wanted = match self {
            Self::None { why } => return Ok(Bound::Nowhere { why }),
            Self::HostData(_) => wanted.snp_host_data,
            Self::MrConfigId(_) => wanted.tdx_mrconfigid,
            Self::Pcr8(_) => wanted.vtpm_pcr8.ok_or_else(|| BindingError::Algorithm {
                algorithm: initdata.algorithm().as_str(),
                length: digest.len(),
            })?,
        };
        if held == wanted {
            return Ok(Bound::Matches {
                register: self.name(),
            });
        }
        match self {
            Self::Pcr8(held) if *held == [0; 32] => Ok(Bound::ToExtend { digest }),
            _ => Err(BindingError::Mismatch {
                register: self.name(),
                held: hex::encode(held),
                wanted: hex::encode(wanted),
                hint: match self {
                    Self::Pcr8(_) => {
                        ". A boot loader that measures into PCR 8, as GRUB does, takes it before the guest can"
                    }
                    _ => "",
                },
            }),
        }
    }
}

/// How a document stands to its register.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Bound {
    /// The register holds its digest.
    Matches {
        /// The register.
        register: &'static str,
    },
    /// The register is a PCR that nobody extended yet.
    ToExtend {
        /// With what it is to be extended.
        digest: Vec<u8>,
    },
    /// The platform has no register for it: a broker sees that it is not bound.
    Nowhere {
        /// Why not.
        why: &'static str,
    },
    /// There is no document, and the register holds none.
    NoDocument,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matches { register } => write!(f, "init-data is the one in {register}"),
            Self::ToExtend { .. } => f.write_str("init-data is to be measured into PCR 8"),
            Self::Nowhere { why } => write!(f, "init-data is bound to nothing: {why}"),
            Self::NoDocument => f.write_str("there is no init-data"),
        }
    }
}

/// What says that a document's digest was measured into a PCR since this machine started: a file in memory, with the
/// digest. It only ever makes a guest refuse to start: whoever can remove it is root in this machine already.
pub(crate) struct InitdataMark<'a> {
    path: &'a Path,
}

impl<'a> InitdataMark<'a> {
    pub(crate) fn at(path: &'a Path) -> Self {
        Self { path }
    }

    /// Leaves it. A user who may use the TPM and not this folder leaves none.
    pub(crate) fn leave(&self, digest: &[u8]) -> Result<(), BindingError> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("/"));
        let written = std::fs::create_dir_all(folder).and_then(|()| {
            let beside = self.path.with_extension("new");
            std::fs::write(&beside, hex::encode(digest))?;
            std::fs::rename(beside, self.path)
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(files::failure(self.path, &error).into()),
            Ok(()) => Ok(()),
        }
    }

    /// Refuses to start without the document that the mark is of.
    pub(crate) fn refuse(&self, held: &[u8]) -> Result<(), BindingError> {
        let digest = match files::read(self.path, MAX_MARK) {
            Ok(digest) => String::from_utf8(digest)
                .ok()
                .and_then(|digest| hex::decode(digest).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(files::failure(self.path, &error).into()),
        };
        // One of a register that has since been emptied says nothing of what it holds now.
        let of_held = |digest: &Vec<u8>| registers(digest).vtpm_pcr8.is_some_and(|pcr| pcr == held);
        match digest.as_ref().is_none_or(of_held) {
            true => Err(BindingError::Withheld {
                register: "PCR 8",
                held: hex::encode(held),
            }),
            false => Ok(()),
        }
    }
}

/// Why init-data must not be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BindingError {
    /// The document is another than the machine was launched with.
    #[error(
        "this init-data is not the one that the machine was launched with: {register} holds {held}, and this document \
         gives {wanted}; nothing of it is used. Whoever launches the machine must pass the digest of exactly these bytes \
         (strongroom initdata digest){hint}"
    )]
    Mismatch {
        /// The register.
        register: &'static str,
        /// What it holds.
        held: String,
        /// What the document would make of it.
        wanted: String,
        /// What else it may be.
        hint: &'static str,
    },
    /// The machine was launched with a document that is not there.
    #[error(
        "this machine was launched with init-data ({register} holds {held}), and none was found; a guest without its \
         configuration does not start. Give it with --initdata, or attach it as the launch did"
    )]
    Withheld {
        /// The register.
        register: &'static str,
        /// What it holds.
        held: String,
    },
    /// The document's hash does not fit a PCR.
    #[error(
        "this init-data names {algorithm}, whose digest has {length} bytes; PCR 8 is extended with 32. Write it with \
         algorithm = \"sha256\" for machines with a vTPM"
    )]
    Algorithm {
        /// The hash.
        algorithm: &'static str,
        /// The length of its digests.
        length: usize,
    },
    /// The register cannot be read or extended.
    #[error(transparent)]
    Device(#[from] AttestError),
}

const MAX_MARK: usize = 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn document(algorithm: &str) -> Initdata {
        let text = format!("version = \"0.1.0\"\nalgorithm = \"{algorithm}\"\n[data]\n");
        Initdata::parse(&text).unwrap()
    }

    fn launched(initdata: &Initdata) -> [LaunchRegister; 2] {
        let held = registers(&initdata.digest());
        [
            LaunchRegister::HostData(held.snp_host_data.try_into().unwrap()),
            LaunchRegister::MrConfigId(held.tdx_mrconfigid.try_into().unwrap()),
        ]
    }

    #[test]
    fn registers_take_the_digests_of_upstreams_binding() {
        let fixture = |name: &str| {
            let path = strongroom_testkit::fixtures::fixture(name)?;
            Some(std::fs::read_to_string(path).unwrap())
        };
        let Some(vectors) = fixture("guest/vectors/initdata-binding.json") else {
            return;
        };
        let vectors: serde_json::Value = serde_json::from_str(&vectors).unwrap();
        let mut seen = 0;
        for (name, values) in vectors["values"].as_object().unwrap() {
            let text = fixture(&format!("guest/initdata/{name}.toml")).unwrap();
            let initdata = Initdata::parse(&text).unwrap();
            let bytes = |name: &str| values[name].as_str().map(|hex| hex::decode(hex).unwrap());
            let registers = [
                LaunchRegister::HostData(bytes("snp_hostdata_32_hex").unwrap().try_into().unwrap()),
                LaunchRegister::MrConfigId(
                    bytes("tdx_mrconfigid_48_hex").unwrap().try_into().unwrap(),
                ),
            ];
            for register in registers {
                let bound = register.check(Some(&initdata)).unwrap();
                assert!(matches!(bound, Bound::Matches { .. }), "{name}");
            }
            match bytes("az_vtpm_pcr8_sha256_hex") {
                Some(pcr) => {
                    let register = LaunchRegister::Pcr8(pcr.try_into().unwrap());
                    let bound = register.check(Some(&initdata)).unwrap();
                    assert!(matches!(bound, Bound::Matches { .. }), "{name}");
                }
                None => {
                    let error = LaunchRegister::Pcr8([0; 32]).check(Some(&initdata));
                    assert!(
                        matches!(error, Err(BindingError::Algorithm { .. })),
                        "{name}"
                    );
                }
            }
            seen += 1;
        }
        assert!(seen > 5);
    }

    #[test]
    fn document_of_another_launch_is_refused_with_both_values() {
        for register in launched(&document("sha384")) {
            let error = register.check(Some(&document("sha256"))).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, BindingError::Mismatch { .. }));
            assert!(
                text.contains(register.name()) && text.contains(&hex::encode(register.value())),
                "{text}"
            );
        }
    }

    #[test]
    fn withheld_document_stops_the_guest() {
        for register in launched(&document("sha256")) {
            let error = register.check(None).unwrap_err();
            assert!(matches!(error, BindingError::Withheld { .. }), "{error}");
        }
        assert_eq!(
            LaunchRegister::HostData([0; 32]).check(None),
            Ok(Bound::NoDocument)
        );
        // A boot loader's measurements are no init-data.
        assert_eq!(
            LaunchRegister::Pcr8([7; 32]).check(None),
            Ok(Bound::NoDocument)
        );
    }

    #[test]
    fn mark_of_another_start_or_of_none_stops_no_guest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/mark");
        let mark = InitdataMark::at(&path);
        let digest = document("sha256").digest();
        let held = registers(&digest).vtpm_pcr8.unwrap();
        assert_eq!(mark.refuse(&held), Ok(()));
        mark.leave(&digest).unwrap();
        assert!(matches!(
            mark.refuse(&held),
            Err(BindingError::Withheld { .. })
        ));
        // The machine started anew, and its boot loader measured something.
        assert_eq!(mark.refuse(&[7; 32]), Ok(()));
        std::fs::write(&path, "not a digest").unwrap();
        assert!(mark.refuse(&held).is_err());
    }

    #[test]
    fn document_given_to_a_machine_launched_without_one_is_refused() {
        let document = document("sha256");
        for register in [
            LaunchRegister::HostData([0; 32]),
            LaunchRegister::MrConfigId([0; 48]),
        ] {
            assert!(matches!(
                register.check(Some(&document)),
                Err(BindingError::Mismatch { .. })
            ));
        }
    }

    #[test]
    fn pcr_is_extended_once_and_only_from_zeros() {
        let document = document("sha256");
        assert_eq!(
            LaunchRegister::Pcr8([0; 32]).check(Some(&document)),
            Ok(Bound::ToExtend {
                digest: document.digest()
            })
        );
        assert!(matches!(
            LaunchRegister::Pcr8([1; 32]).check(Some(&document)),
            Err(BindingError::Mismatch { .. })
        ));
    }
}
