//! Where this machine's devices are: every path and address that an attester opens, in one place.

use std::path::{Path, PathBuf};

/// Where the devices are. [`Self::default`] is a machine as Linux lays it out.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Devices {
    /// The kernel's report interface (Documentation/ABI/testing/configfs-tsm-report).
    pub tsm: PathBuf,
    /// The TDX guest driver.
    pub tdx_guest: PathBuf,
    /// The TDX measurement registers (Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest, Linux 6.16).
    pub tdx_measurements: PathBuf,
    /// The firmware's event log of a confidential VM (ACPI 6.5, CCEL).
    pub ccel: PathBuf,
    /// The SEV-SNP guest driver.
    pub sev_guest: PathBuf,
    /// What the kernel shows of the SEV-SNP guest driver.
    pub sev_guest_platform: PathBuf,
    /// The attestation files of the library systems that run enclaves (Gramine).
    pub enclave: PathBuf,
    /// The Hygon CSV guest driver.
    pub csv_guest: PathBuf,
    /// `1` in a guest of IBM Secure Execution.
    pub prot_virt_guest: PathBuf,
    /// TPM devices, the one to try first at the head.
    pub tpm: Vec<PathBuf>,
    /// Where the attestation key lies when the TPM's owner made one persistent.
    pub tpm_ak: u32,
    /// The attestation key's certificate and those above it, in PEM, where there are any.
    pub tpm_ak_certificates: PathBuf,
    /// The instance metadata service of Azure: scheme, host and port.
    pub imds: String,
    /// NVIDIA's control device: where it is missing, no library is loaded.
    pub nvidia: PathBuf,
    /// NVIDIA's management library: a name that the dynamic linker looks for, or a path.
    pub nvml: PathBuf,
    /// The folder of the attestation agent's event log.
    pub event_log: PathBuf,
    /// Where a guest that measured init-data into a PCR leaves the digest, until the machine starts anew.
    pub initdata_mark: PathBuf,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            nvml: PathBuf::from("libnvidia-ml.so.1"),
            ..Self::under(Path::new("/"))
        }
    }
}

impl Devices {
    /// The same below another folder.
    pub fn under(root: &Path) -> Self {
        Self {
            tsm: root.join("sys/kernel/config/tsm/report"),
            tdx_guest: root.join("dev/tdx_guest"),
            tdx_measurements: root.join("sys/devices/virtual/misc/tdx_guest/measurements"),
            ccel: root.join("sys/firmware/acpi/tables/data/CCEL"),
            sev_guest: root.join("dev/sev-guest"),
            sev_guest_platform: root.join("sys/devices/platform/sev-guest"),
            enclave: root.join("dev/attestation"),
            csv_guest: root.join("dev/csv-guest"),
            prot_virt_guest: root.join("sys/firmware/uv/prot_virt_guest"),
            tpm: vec![root.join("dev/tpmrm0"), root.join("dev/tpm0")],
            tpm_ak: UPSTREAMS_AK,
            tpm_ak_certificates: root.join("etc/strongroom/tpm-ak.pem"),
            imds: "http://169.254.169.254".to_owned(),
            nvidia: root.join("dev/nvidiactl"),
            nvml: root.join("usr/lib/libnvidia-ml.so.1"),
            event_log: root.join("run/attestation-agent"),
            initdata_mark: root.join("run/strongroom/initdata-digest"),
        }
    }
}

/// Where guest-components looks for the attestation key.
const UPSTREAMS_AK: u32 = 0x8101_0002;
