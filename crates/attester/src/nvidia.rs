//! NVIDIA GPUs beside a TEE: each signs the nonce that the TEE's evidence binds too.
//!
//! `{"device_evidence_list":[{"arch","uuid","evidence","certificate"}]}`, as upstream's attester writes it. Switches are
//! not asked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::AttestError;
use crate::devices::Devices;
use crate::sys::nvml;

#[derive(Serialize)]
struct NvidiaEvidence {
    device_evidence_list: Vec<GpuEvidence>,
}

#[derive(Serialize)]
struct GpuEvidence {
    arch: &'static str,
    uuid: String,
    evidence: String,
    certificate: String,
}

/// Whether GPUs are here that sign reports. The driver's library is loaded only where its device is.
pub(crate) fn probe(devices: &Devices) -> Result<(), AttestError> {
    match nvml::confidential_gpus(&devices.nvml).map_err(|reason| failed(devices, reason))? {
        0 => Err(failed(devices, "the driver has no GPU".to_owned())),
        _ => Ok(()),
    }
}

/// The evidence of the KBS protocol's device `nvidia`; the nonce is what fits of the report data.
pub(crate) fn evidence(
    devices: &Devices,
    report_data: &[u8],
) -> Result<Box<RawValue>, AttestError> {
    let nonce = crate::development::fitted(report_data);
    let gpus = nvml::collect(&devices.nvml, &nonce).map_err(|reason| failed(devices, reason))?;
    let list = gpus.into_iter().map(|gpu| {
        Ok(GpuEvidence {
            arch: architecture(gpu.architecture).ok_or_else(|| {
                failed(devices, format!("{} is of no known architecture", gpu.uuid))
            })?,
            uuid: gpu.uuid,
            evidence: STANDARD.encode(gpu.report),
            certificate: STANDARD.encode(gpu.certificates),
        })
    });
    let evidence = NvidiaEvidence {
        device_evidence_list: list.collect::<Result<_, AttestError>>()?,
    };
    to_raw_value(&evidence).map_err(|_| AttestError::Json)
}

/// `NVML_DEVICE_ARCH_HOPPER` and its successor.
fn architecture(number: u32) -> Option<&'static str> {
    match number {
        9 => Some("HOPPER"),
        10 => Some("BLACKWELL"),
        _ => None,
    }
}

fn failed(devices: &Devices, reason: String) -> AttestError {
    AttestError::Device {
        device: devices.nvidia.display().to_string(),
        reason,
    }
}
