//! Evidence from this machine's TEE device, one variant per kind of device.
//!
//! Devices are files probed at run time. A machine without a TEE is an error that says so: `sample`, which proves
//! nothing, is taken only when it is named. The platform's own evidence formats are those of the KBS protocol
//! (kbs-types 0.18); this build makes `sample`.

mod detect;
pub mod development;
mod sample;

use serde_json::value::RawValue;
use strongroom_wire::initdata::Initdata;
use strongroom_wire::tee::Tee;

pub use detect::{NoTee, Probe};

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
}

impl Attester {
    /// Looks for a TEE on this machine.
    ///
    /// # Errors
    /// [`NoTee`], naming what was looked for, what was found and what to do. Never falls to `sample`.
    pub fn detect() -> Result<Self, NoTee> {
        detect::under(std::path::Path::new("/"))
    }

    /// Takes the platform of that name.
    ///
    /// # Errors
    /// [`AttestError::Unsupported`] when this build has no attester for it, [`AttestError::Unknown`] when there is no
    /// such platform.
    pub fn named(name: &str) -> Result<Self, AttestError> {
        match name.parse::<Tee>() {
            Ok(Tee::Sample) => Ok(Self::Sample {
                initdata_digest: None,
            }),
            Ok(tee) => Err(AttestError::Unsupported(tee)),
            Err(error) => Err(AttestError::Unknown(error.to_string())),
        }
    }

    /// Measures init-data into the platform, where the platform has no launch measurement of its own.
    #[must_use]
    pub fn with_initdata(self, initdata: &Initdata) -> Self {
        match self {
            Self::Sample { .. } => Self::Sample {
                initdata_digest: Some(initdata.digest()),
            },
        }
    }

    /// The platform.
    pub fn tee(&self) -> Tee {
        match self {
            Self::Sample { .. } => Tee::Sample,
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
        }
    }

    /// Evidence of further devices, as the JSON text that the CPU's evidence binds; `""` when there are none.
    ///
    /// # Errors
    /// As [`Self::evidence`].
    pub fn additional_evidence(&self, _report_data: &[u8]) -> Result<String, AttestError> {
        match self {
            Self::Sample { .. } => Ok(String::new()),
        }
    }
}

/// Why a machine's evidence cannot be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The platform is known to the protocol and not to this build.
    #[error("this build makes no evidence for platform {0}; it makes it for: sample")]
    Unsupported(Tee),
    /// There is no such platform.
    #[error("{0}")]
    Unknown(String),
    /// More bytes than a report holds.
    #[error("report data has {actual} bytes, and a report holds at most {limit}; hash it first")]
    ReportData {
        /// How many bytes were given.
        actual: usize,
        /// How many fit.
        limit: usize,
    },
    /// The evidence has no JSON form.
    #[error("the evidence has no JSON form")]
    Json,
}

/// The report data field of SNP and TDX reports; what is longer must be hashed by the caller on every platform.
const MAX_REPORT_DATA: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hardware_by_name_is_refused_by_a_build_that_has_none() {
        assert_eq!(
            Attester::named("tdx"),
            Err(AttestError::Unsupported(Tee::Tdx))
        );
    }

    #[test]
    fn misspelt_platform_is_no_sample() {
        assert!(matches!(
            Attester::named("Sample"),
            Err(AttestError::Unknown(_))
        ));
        assert!(matches!(Attester::named(""), Err(AttestError::Unknown(_))));
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
}
