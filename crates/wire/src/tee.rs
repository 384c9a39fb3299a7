//! The platforms of the KBS protocol and their names on the wire (kbs-types 0.18, `Tee`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A trusted execution environment, or a device attested beside one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Tee {
    /// AMD SEV-SNP on Azure, through its vTPM.
    AzSnpVtpm,
    /// Intel TDX on Azure, through its vTPM.
    AzTdxVtpm,
    /// Arm CCA.
    Cca,
    /// Hygon CSV.
    Csv,
    /// Hygon DCU accelerator.
    Hygondcu,
    /// NVIDIA GPU.
    Nvidia,
    /// NVIDIA `BlueField` DPU.
    #[serde(alias = "nvidiadpu")]
    NvidiaDpu,
    /// No hardware at all: for tests and development.
    Sample,
    /// A device without hardware: for tests and development.
    Sampledevice,
    /// IBM Secure Execution.
    Se,
    /// Intel SGX.
    Sgx,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// A TPM 2.0.
    Tpm,
}

impl Tee {
    /// Every platform the protocol names.
    pub const ALL: [Self; 14] = [
        Self::AzSnpVtpm,
        Self::AzTdxVtpm,
        Self::Cca,
        Self::Csv,
        Self::Hygondcu,
        Self::Nvidia,
        Self::NvidiaDpu,
        Self::Sample,
        Self::Sampledevice,
        Self::Se,
        Self::Sgx,
        Self::Snp,
        Self::Tdx,
        Self::Tpm,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AzSnpVtpm => "az-snp-vtpm",
            Self::AzTdxVtpm => "az-tdx-vtpm",
            Self::Cca => "cca",
            Self::Csv => "csv",
            Self::Hygondcu => "hygondcu",
            Self::Nvidia => "nvidia",
            Self::NvidiaDpu => "nvidia-dpu",
            Self::Sample => "sample",
            Self::Sampledevice => "sampledevice",
            Self::Se => "se",
            Self::Sgx => "sgx",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Tpm => "tpm",
        }
    }

    /// The class that names the token's submodule (`cpu0`, `gpu0`) and picks the appraisal policy.
    pub fn class(self) -> &'static str {
        match self {
            Self::Hygondcu => "dcu",
            Self::Nvidia | Self::Sampledevice => "gpu",
            Self::NvidiaDpu => "nvidia-dpu",
            _ => "cpu",
        }
    }
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tee {
    type Err = UnknownTee;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let name = if name == "nvidiadpu" {
            "nvidia-dpu"
        } else {
            name
        };
        Self::ALL
            .into_iter()
            .find(|tee| tee.as_str() == name)
            .ok_or_else(|| UnknownTee(name.chars().take(32).collect()))
    }
}

/// A platform name that the protocol does not know.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "unknown platform {0:?}: the protocol knows az-snp-vtpm, az-tdx-vtpm, cca, csv, hygondcu, nvidia, nvidia-dpu, sample, sampledevice, se, sgx, snp, tdx and tpm"
)]
pub struct UnknownTee(String);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn serde_and_display_agree() {
        for tee in Tee::ALL {
            assert_eq!(serde_json::to_value(tee).unwrap(), tee.as_str());
            assert_eq!(tee.as_str().parse::<Tee>().unwrap(), tee);
        }
    }

    #[test]
    fn old_spelling_of_the_dpu_is_accepted() {
        assert_eq!(
            serde_json::from_str::<Tee>("\"nvidiadpu\"").unwrap(),
            Tee::NvidiaDpu
        );
        assert_eq!("nvidiadpu".parse::<Tee>().unwrap(), Tee::NvidiaDpu);
    }

    #[test]
    fn unknown_platform_is_refused() {
        assert!("sev".parse::<Tee>().is_err());
        assert!(serde_json::from_str::<Tee>("\"sev\"").is_err());
    }
}
