//! Reference values computed from artefacts: what an SNP guest's launch measurement will be, before it is launched.
//!
//! The measurement is the launch digest that the AMD-SP keeps over every page that a hypervisor adds to a guest
//! (SEV Secure Nested Paging Firmware ABI, publication 56860, 8.17). Which pages those are, and in which order, is
//! QEMU's: the firmware image, the sections that its metadata lists, then a save area for each vCPU. Why the
//! calculation is ours: docs/decisions/0010.

mod digest;
mod direct_boot;
mod firmware;
mod save_area;
mod vcpu;

pub use direct_boot::DirectBoot;
pub use firmware::{Firmware, MAX_FIRMWARE};
pub use vcpu::VcpuSignature;

use digest::{LaunchDigest, PAGE};
use firmware::SectionKind;

/// Everything that an SNP guest's launch measurement depends on.
#[derive(Clone, Debug)]
pub struct SnpLaunch<'a> {
    /// The firmware image that is mapped below 4 GiB.
    pub firmware: &'a Firmware<'a>,
    /// The kernel that the hypervisor hands to the firmware, when it does: `kernel-hashes=on` in QEMU.
    pub direct_boot: Option<DirectBoot>,
    /// How many vCPUs the guest starts with.
    pub vcpus: u32,
    /// What they say they are.
    pub vcpu: VcpuSignature,
    /// `SEV_FEATURES` of every vCPU: [`SNP_ACTIVE`], and bit 5 besides where KVM swaps debug registers.
    pub guest_features: u64,
}

impl SnpLaunch<'_> {
    /// The launch measurement, as a report's `MEASUREMENT` has it.
    ///
    /// # Errors
    /// [`MeasureError`] when no hypervisor could launch such a guest.
    pub fn measurement(&self) -> Result<[u8; 48], MeasureError> {
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return Err(MeasureError::Vcpus {
                actual: self.vcpus,
                limit: MAX_VCPUS,
            });
        }
        let mut digest = LaunchDigest::new();
        digest.normal_pages(self.firmware.base(), self.firmware.image());
        self.add_sections(&mut digest)?;
        self.add_save_areas(&mut digest)?;
        Ok(digest.value())
    }

    /// The sections that the firmware asks for, in the order of its list.
    fn add_sections(&self, digest: &mut LaunchDigest) -> Result<(), MeasureError> {
        let mut hashes_measured = false;
        for section in self.firmware.sections() {
            match (section.kind, &self.direct_boot) {
                (SectionKind::SecMem | SectionKind::SvsmCaa, _)
                | (SectionKind::KernelHashes, None) => {
                    digest.zero_pages(section.address, section.pages);
                }
                (SectionKind::Secrets, _) => digest.secrets_page(section.address),
                (SectionKind::Cpuid, _) => digest.cpuid_page(section.address),
                (SectionKind::KernelHashes, Some(boot)) => {
                    let page = boot.page(self.firmware.hashes_table()?);
                    digest.normal_pages(section.address, &page);
                    // The section is one page, as its parser saw to.
                    hashes_measured = true;
                }
            }
        }
        match self.direct_boot.is_some() && !hashes_measured {
            true => Err(MeasureError::NoKernelHashes),
            false => Ok(()),
        }
    }

    /// The first vCPU starts at the reset vector, the others where the firmware says.
    fn add_save_areas(&self, digest: &mut LaunchDigest) -> Result<(), MeasureError> {
        let page = |start| save_area::page(start, self.vcpu, self.guest_features);
        digest.save_area(&page(save_area::RESET_VECTOR), 1);
        match self.vcpus {
            1 => {}
            more => digest.save_area(&page(self.firmware.reset_address()?), more - 1),
        }
        Ok(())
    }
}

/// Why there is no launch measurement.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// The image has a length that no firmware has.
    #[error(
        "a firmware image has whole pages of {PAGE} bytes, at most {limit} bytes; this one has {actual}"
    )]
    FirmwareLength {
        /// How long it is.
        actual: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The image is not OVMF, or one that knows nothing of SEV.
    #[error("the firmware image cannot be launched as an SNP guest: {0}")]
    Firmware(String),
    /// A kernel was given to firmware that would not look at its hash.
    #[error(
        "the firmware has no place for the hashes of a kernel (section SNP_KERNEL_HASHES), so it would start any: measure it without a kernel, or take a build for AMD SEV such as OVMF.amdsev.fd"
    )]
    NoKernelHashes,
    /// The command line cannot be handed to a kernel.
    #[error(
        "a kernel's command line has no NUL and at most {limit} bytes; this one has {actual} bytes"
    )]
    CommandLine {
        /// How long it is.
        actual: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A guest has not that many vCPUs.
    #[error("a guest has 1 to {limit} vCPUs, not {actual}")]
    Vcpus {
        /// How many were asked for.
        actual: u32,
        /// How many there may be.
        limit: u32,
    },
    /// It is no CPU model of QEMU's for AMD processors.
    #[error(
        "{name:?} is no vCPU type: write one of {known}, or FAMILY-MODEL-STEPPING in decimal such as 25-17-1"
    )]
    VcpuType {
        /// What was asked for, cut short.
        name: String,
        /// What there is.
        known: String,
    },
}

/// Bit 0 of `SEV_FEATURES`, without which a vCPU is not one of an SNP guest (AMD64 APM volume 2, appendix B).
pub const SNP_ACTIVE: u64 = 1;

/// KVM's own limit.
const MAX_VCPUS: u32 = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::firmware::tests::Image;
    use super::*;

    fn measured(image: &Image, vcpus: u32) -> String {
        let bytes = image.bytes();
        let firmware = Firmware::parse(&bytes).unwrap();
        hex::encode(launch(&firmware, vcpus).measurement().unwrap())
    }

    fn launch<'a>(firmware: &'a Firmware<'a>, vcpus: u32) -> SnpLaunch<'a> {
        SnpLaunch {
            firmware,
            direct_boot: None,
            vcpus,
            vcpu: "EPYC-v4".parse().unwrap(),
            guest_features: SNP_ACTIVE,
        }
    }

    #[test]
    fn known_measurements_are_not_reached() {
        // From the program sev-snp-measure 0.0.13 on the same image.
        assert_eq!(measured(&Image::default(), 1), KNOWN_ONE_VCPU);
        assert_eq!(measured(&Image::default(), 3), KNOWN_THREE_VCPUS);
    }

    #[test]
    fn known_measurement_with_a_kernel_is_not_reached() {
        let bytes = Image::default().bytes();
        let firmware = Firmware::parse(&bytes).unwrap();
        let mut launch = launch(&firmware, 2);
        launch.vcpu = "EPYC-Genoa".parse().unwrap();
        launch.guest_features = 0x21;
        launch.direct_boot =
            Some(DirectBoot::new(sha256(b"kernel"), Some(sha256(b"initrd")), "quiet").unwrap());
        assert_eq!(
            hex::encode(launch.measurement().unwrap()),
            KNOWN_WITH_KERNEL
        );
        launch.direct_boot = Some(DirectBoot::new(sha256(b"kernel"), None, "").unwrap());
        assert_eq!(
            hex::encode(launch.measurement().unwrap()),
            KNOWN_WITHOUT_INITRD
        );
    }

    #[test]
    fn one_changed_input_leaves_the_measurement_as_it_was() {
        let bytes = Image::default().bytes();
        let firmware = Firmware::parse(&bytes).unwrap();
        let boot = |kernel: &[u8], initrd: &[u8], line: &str| {
            DirectBoot::new(sha256(kernel), Some(sha256(initrd)), line).unwrap()
        };
        let base = || SnpLaunch {
            direct_boot: Some(boot(b"k", b"i", "c")),
            ..launch(&firmware, 2)
        };
        let mut changed = bytes.clone();
        changed[100] ^= 1;
        let other = Firmware::parse(&changed).unwrap();
        let all = [
            base(),
            SnpLaunch {
                direct_boot: Some(boot(b"K", b"i", "c")),
                ..base()
            },
            SnpLaunch {
                direct_boot: Some(boot(b"k", b"I", "c")),
                ..base()
            },
            SnpLaunch {
                direct_boot: Some(boot(b"k", b"i", "C")),
                ..base()
            },
            SnpLaunch {
                direct_boot: None,
                ..base()
            },
            SnpLaunch { vcpus: 3, ..base() },
            SnpLaunch {
                vcpu: "EPYC-Milan".parse().unwrap(),
                ..base()
            },
            SnpLaunch {
                guest_features: 0x21,
                ..base()
            },
            SnpLaunch {
                firmware: &other,
                ..base()
            },
        ];
        let count = all.len();
        let values: std::collections::BTreeSet<_> =
            all.iter().map(|one| one.measurement().unwrap()).collect();
        assert_eq!(values.len(), count);
    }

    #[test]
    fn kernel_is_measured_into_firmware_without_a_place_for_it() {
        let mut image = Image::default();
        image.sections.retain(|section| section.2 != 0x10);
        let bytes = image.bytes();
        let firmware = Firmware::parse(&bytes).unwrap();
        let launch = SnpLaunch {
            direct_boot: Some(DirectBoot::new(sha256(b"k"), None, "").unwrap()),
            ..launch(&firmware, 1)
        };
        assert_eq!(
            launch.measurement().unwrap_err(),
            MeasureError::NoKernelHashes
        );
    }

    #[test]
    fn impossible_number_of_vcpus_is_measured() {
        let bytes = Image::default().bytes();
        let firmware = Firmware::parse(&bytes).unwrap();
        for vcpus in [0, MAX_VCPUS + 1] {
            let error = launch(&firmware, vcpus).measurement().unwrap_err();
            assert!(matches!(error, MeasureError::Vcpus { .. }));
        }
    }

    #[test]
    fn second_vcpu_starts_where_no_firmware_said() {
        let image = Image {
            reset_address: None,
            ..Image::default()
        };
        let bytes = image.bytes();
        let firmware = Firmware::parse(&bytes).unwrap();
        assert!(launch(&firmware, 1).measurement().is_ok());
        let error = launch(&firmware, 2).measurement().unwrap_err();
        assert!(error.to_string().contains("SEV-ES reset"), "{error}");
    }

    fn sha256(bytes: &[u8]) -> [u8; 32] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        digest.as_ref().try_into().unwrap()
    }

    const KNOWN_ONE_VCPU: &str = "d6764b51d8290655dc90a24f7f2457ecb21012f7545ec2c39fc03bd8aeba0b9990634aec1e3abdd7645986052fd9a3ce";
    const KNOWN_THREE_VCPUS: &str = "dd81d014eea479b454d1c54dfca133c9cde23402391485685ef8ba6520d2c9daa4c82341ec8d0e8e413d35ec726a5e7b";
    const KNOWN_WITH_KERNEL: &str = "50037c4fc3ef9a6972011e2be3fc3b5814a72813b84acc190c548b7b48bb1c6f0b33f68e782772ca83c06a5dc292bbc2";
    const KNOWN_WITHOUT_INITRD: &str = "bfd1f27e55f2ccfc6919ab0ce2f69630ab0959a6e67013932f04e24ec71d8ec8dcf5f383924c9f5327062c73561900aa";
}
