//! A platform of this machine that was found, and what it is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::tee::Tee;

use crate::binding::LaunchRegister;
use crate::devices::Devices;
use crate::event_log::{self, Event, Register};
use crate::{AttestError, az_vtpm, nvidia, sgx, snp, tdx, tpm};

/// A platform, and the devices through which it answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hardware {
    pub(crate) platform: Platform,
    pub(crate) devices: Arc<Devices>,
    /// Whether GPUs that sign are beside it.
    pub(crate) nvidia: bool,
}

/// What was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Platform {
    Tdx,
    Sgx,
    Snp(snp::Source),
    Tpm,
    AzVtpm(az_vtpm::Hardware),
}

impl Hardware {
    pub(crate) fn tee(&self) -> Tee {
        match self.platform {
            Platform::Tdx => Tee::Tdx,
            Platform::Sgx => Tee::Sgx,
            Platform::Snp(_) => Tee::Snp,
            Platform::Tpm => Tee::Tpm,
            Platform::AzVtpm(az_vtpm::Hardware::Snp) => Tee::AzSnpVtpm,
            Platform::AzVtpm(az_vtpm::Hardware::Tdx) => Tee::AzTdxVtpm,
        }
    }

    /// `report_data` has at most 64 bytes.
    pub(crate) fn evidence(&self, report_data: &[u8]) -> Result<Box<RawValue>, AttestError> {
        event_log::settle(&self.devices.event_log, &self.registers())?;
        let padded = crate::development::fitted(report_data);
        match self.platform {
            Platform::Tdx => tdx::evidence(&self.devices, &padded),
            Platform::Sgx => sgx::evidence(&self.devices, &padded),
            Platform::Snp(source) => snp::evidence(&self.devices, source, &padded),
            Platform::Tpm => tpm::evidence(&self.devices, &padded),
            Platform::AzVtpm(hardware) => az_vtpm::evidence(&self.devices, hardware, report_data),
        }
    }

    /// Evidence of the devices beside it, as one JSON object by their names; `""` without any.
    pub(crate) fn additional_evidence(&self, report_data: &[u8]) -> Result<String, AttestError> {
        if !self.nvidia {
            return Ok(String::new());
        }
        let nvidia = nvidia::evidence(&self.devices, report_data)?;
        let all = BTreeMap::from([(Tee::Nvidia.as_str(), nvidia)]);
        serde_json::to_string(&all).map_err(|_| AttestError::Json)
    }

    /// What whoever launched this machine set.
    pub(crate) fn launch_register(&self) -> Result<LaunchRegister, AttestError> {
        Ok(match self.platform {
            Platform::Tdx => LaunchRegister::MrConfigId(tdx::mrconfigid(&self.devices)?),
            Platform::Snp(source) => {
                LaunchRegister::HostData(snp::host_data(&self.devices, source)?)
            }
            Platform::Sgx => LaunchRegister::None {
                why: "an enclave does not see its CONFIGID through a library system's files",
            },
            Platform::Tpm | Platform::AzVtpm(_) => {
                LaunchRegister::Pcr8(self.pcr(INITDATA_PCR).value()?)
            }
        })
    }

    /// Measures the digest of init-data where the guest itself does that.
    pub(crate) fn extend_initdata(&self, digest: &[u8]) -> Result<(), AttestError> {
        self.pcr(INITDATA_PCR).extend_by(digest)
    }

    fn pcr(&self, number: u8) -> tpm::Pcr {
        let tpm = self.devices.tpm.clone();
        tpm::Pcr { tpm, number }
    }

    /// Measures an event into the register that stands for a PCR.
    pub(crate) fn extend(&self, event: &Event, pcr: u32) -> Result<(), AttestError> {
        let number = match self.platform {
            Platform::Tdx => ccmr_of_tdx(pcr),
            Platform::Tpm | Platform::AzVtpm(_) => tpm::register_for(pcr).into(),
            Platform::Sgx | Platform::Snp(_) => return Err(AttestError::NoRegister(self.tee())),
        };
        let registers = self.registers();
        event_log::extend(&self.devices.event_log, &registers, number, event)
    }

    pub(crate) fn has_registers(&self) -> bool {
        match self.platform {
            Platform::Tdx | Platform::Tpm | Platform::AzVtpm(_) => true,
            Platform::Sgx | Platform::Snp(_) => false,
        }
    }

    /// The registers that the event log measures into.
    fn registers(&self) -> Vec<Box<dyn Register>> {
        match self.platform {
            Platform::Tdx => (0..4)
                .map(|index| {
                    let devices = Arc::clone(&self.devices);
                    Box::new(Rtmr { devices, index }) as Box<dyn Register>
                })
                .collect(),
            Platform::Tpm | Platform::AzVtpm(_) => (0..24)
                .map(|number| Box::new(self.pcr(number)) as Box<dyn Register>)
                .collect(),
            Platform::Sgx | Platform::Snp(_) => Vec::new(),
        }
    }
}

/// The measurement register of TDX that stands for a PCR (UEFI 2.10, 38.4.1). What has none goes where applications
/// measure: register 4, which is RTMR3.
fn ccmr_of_tdx(pcr: u32) -> u32 {
    match pcr {
        1 | 7 => 1,
        2..=6 => 2,
        8..=15 => 3,
        _ => 4,
    }
}

/// Where the guest extends the digest of its init-data.
const INITDATA_PCR: u8 = 8;

struct Rtmr {
    devices: Arc<Devices>,
    index: u8,
}

impl Register for Rtmr {
    fn number(&self) -> u32 {
        u32::from(self.index).saturating_add(1)
    }

    fn algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::Sha384
    }

    fn read(&self) -> Result<Vec<u8>, AttestError> {
        tdx::rtmr(&self.devices, self.index).map(Vec::from)
    }

    fn extend(&self, digest: &[u8]) -> Result<(), AttestError> {
        tdx::extend(
            &self.devices,
            self.index,
            &crate::development::fitted(digest),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcrs_go_to_upstreams_registers() {
        let registers: Vec<u32> = (0..24).map(ccmr_of_tdx).collect();
        assert_eq!(
            registers,
            [
                4, 1, 2, 2, 2, 2, 2, 1, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4
            ]
        );
    }
}
