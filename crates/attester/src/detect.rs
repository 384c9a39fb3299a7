//! Looking for a TEE: which files were looked for, which are there, and what that means for this build.

use std::fmt;
use std::path::Path;

use crate::Attester;

/// The devices in the order in which guest-components tries them (attestation-agent's `detect_tee_type`).
const DEVICES: [(&str, &str); 6] = [
    (
        "Intel TDX or AMD SEV-SNP, through the kernel's report interface",
        "sys/kernel/config/tsm/report",
    ),
    ("Intel TDX", "dev/tdx_guest"),
    ("AMD SEV-SNP", "dev/sev-guest"),
    ("Intel SGX", "dev/sgx_enclave"),
    ("IBM Secure Execution", "sys/firmware/uv/prot_virt_guest"),
    ("a TPM 2.0, Azure's vTPM included", "dev/tpmrm0"),
];

/// Looks for a TEE below a root folder. This build speaks no hardware, so all it can find is what it cannot use.
pub(crate) fn under(root: &Path) -> Result<Attester, NoTee> {
    let probes = DEVICES
        .into_iter()
        .map(|(platform, path)| Probe {
            platform,
            path: format!("/{path}"),
            present: root.join(path).exists(),
        })
        .collect();
    Err(NoTee { probes })
}

/// One file that was looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// What the file would mean.
    pub platform: &'static str,
    /// The file.
    pub path: String,
    /// Whether it is there.
    pub present: bool,
}

/// No TEE that this build can use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoTee {
    /// What was looked for.
    pub probes: Vec<Probe>,
}

impl fmt::Display for NoTee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |present: bool| {
            let found = self.probes.iter().filter(|probe| probe.present == present);
            found
                .map(|probe| format!("{} ({})", probe.path, probe.platform))
                .collect::<Vec<_>>()
                .join(", ")
        };
        if self.probes.iter().any(|probe| probe.present) {
            write!(
                f,
                "a TEE device is here that this build cannot use yet: {}; so no evidence can be made for it",
                list(true)
            )?;
        } else {
            write!(
                f,
                "no TEE was found on this machine: none of {} exists",
                list(false)
            )?;
        }
        f.write_str(
            "; for development, name a platform that proves nothing: `--platform sample` (a broker refuses it unless it \
             was told to accept sample evidence), or `--platform development` with a root of yours that the broker was \
             given",
        )
    }
}

impl std::error::Error for NoTee {}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn machine_without_tee_never_becomes_sample() {
        let root = tempfile::tempdir().unwrap();
        let text = under(root.path()).unwrap_err().to_string();
        assert!(
            text.contains("no TEE was found")
                && text.contains("/dev/sev-guest")
                && text.contains("--platform sample")
        );
    }

    #[test]
    fn device_this_build_cannot_use_is_named_instead_of_denied() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/sev-guest"), "").unwrap();
        let text = under(root.path()).unwrap_err().to_string();
        assert!(
            text.contains("/dev/sev-guest") && !text.contains("/dev/tdx_guest"),
            "{text}"
        );
    }
}
