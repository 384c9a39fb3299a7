//! Azure's confidential VMs: the vTPM's quote, and the hardware's report that vouches for the vTPM's key.
//!
//! The paravisor keeps the HCL report at the vTPM's index 0x01400001 and makes it anew with 64 bytes of the guest's own
//! once they are written to 0x01400002 (Azure guest attestation). The evidence is that of upstream's version 2.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use strongroom_tpm::{Tpm, TpmError};

use crate::devices::Devices;
use crate::{AttestError, imds, tpm};

/// The hardware below a VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Hardware {
    Snp,
    Tdx,
}

#[derive(Serialize)]
struct Evidence {
    hcl_report: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    td_quote: Option<String>,
    tpm_quote: TpmQuote,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcek: Option<String>,
    version: u8,
}

#[derive(Serialize)]
struct TpmQuote {
    message: String,
    pcrs: Vec<String>,
    signature: String,
}

/// Which hardware is below this VM; `None` on a machine whose TPM has no HCL report, or cannot be opened, which whoever
/// looks for a TPM tells.
pub(crate) fn probe(path: &Path) -> Result<Option<Hardware>, AttestError> {
    let failed = |error: TpmError| tpm::failure(path, &error);
    let Ok(mut tpm) = Tpm::open(&tpm::address(path)) else {
        return Ok(None);
    };
    match tpm.read_nv(HCL_REPORT) {
        Ok(bytes) => HclReport::parse(&bytes)
            .map(|report| Some(report.hardware))
            .map_err(|reason| refused(path, reason)),
        Err(error) if error.code().is_some_and(|code| code.is_missing()) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The evidence of the KBS protocol's platforms `az-snp-vtpm` and `az-tdx-vtpm`.
pub(crate) fn evidence(
    devices: &Devices,
    hardware: Hardware,
    report_data: &[u8],
) -> Result<Box<RawValue>, AttestError> {
    // The index for the guest's own bytes is one for the whole machine.
    static INDEX: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INDEX.lock().unwrap_or_else(PoisonError::into_inner);
    let (path, mut tpm) = tpm::open(&devices.tpm)?;
    let failed = |error: TpmError| tpm::failure(path, &error);
    let bytes = report_over(path, &mut tpm, report_data)?;
    let report = HclReport::parse(&bytes).map_err(|reason| refused(path, reason))?;
    if report.hardware != hardware {
        return Err(refused(
            path,
            "the HCL report is of other hardware than it was when the platform was looked for"
                .to_owned(),
        ));
    }
    let key = tpm.read_public(ATTESTATION_KEY).map_err(failed)?;
    let (quote, pcrs) = tpm::quote(&mut tpm, &key, report_data).map_err(failed)?;
    let signature = rsa_signature(&quote.signature).ok_or_else(|| {
        refused(
            path,
            format!("the key at {ATTESTATION_KEY:#010x} does not sign with RSASSA and SHA-256"),
        )
    })?;
    let (vcek, td_quote) = match hardware {
        Hardware::Snp => (Some(imds::vcek(&devices.imds)?), None),
        Hardware::Tdx => (None, Some(imds::td_quote(&devices.imds, report.td_report)?)),
    };
    let evidence = Evidence {
        hcl_report: URL_SAFE.encode(&bytes),
        td_quote: td_quote.map(|quote| URL_SAFE.encode(quote)),
        tpm_quote: TpmQuote {
            message: hex::encode(quote.message),
            pcrs,
            signature: hex::encode(signature),
        },
        vcek: vcek.map(|der| URL_SAFE.encode(der)),
        version: 2,
    };
    to_raw_value(&evidence).map_err(|_| AttestError::Json)
}

/// Has the paravisor make a report with these bytes, padded with zeros to 64.
fn report_over(path: &Path, tpm: &mut Tpm, report_data: &[u8]) -> Result<Vec<u8>, AttestError> {
    let failed = |error: TpmError| tpm::failure(path, &error);
    let wanted: [u8; 64] = crate::development::fitted(report_data);
    match tpm.nv_public(USER_DATA) {
        Ok(_) => {}
        Err(error) if error.code().is_some_and(|code| code.is_missing()) => {
            tpm.define_nv(USER_DATA, 64).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    tpm.write_nv(USER_DATA, &wanted).map_err(failed)?;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        let bytes = tpm.read_nv(HCL_REPORT).map_err(failed)?;
        let report = HclReport::parse(&bytes).map_err(|reason| refused(path, reason))?;
        if report.user_data.as_deref() == Some(wanted.as_slice()) {
            return Ok(bytes);
        }
    }
    Err(refused(
        path,
        format!(
            "the HCL report does not hold the 64 bytes that were written to {USER_DATA:#010x}: another process writes \
             there, or the paravisor is too old"
        ),
    ))
}

/// What an attester needs to know of an HCL report. It is passed on as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HclReport<'a> {
    pub(crate) hardware: Hardware,
    /// Of TDX, the report that the host quotes.
    pub(crate) td_report: &'a [u8],
    pub(crate) user_data: Option<Vec<u8>>,
}

impl<'a> HclReport<'a> {
    /// Little-endian: a header of 32 bytes, 1184 of the hardware's report, a runtime header of 20, the variable data.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct VariableData {
            #[serde(default, rename = "user-data")]
            user_data: Option<String>,
        }
        if !bytes.starts_with(b"HCLA") {
            return Err("the HCL report does not begin with HCLA".to_owned());
        }
        let word = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk());
            bytes.map(|bytes| u32::from_le_bytes(*bytes))
        };
        let cut = || "the HCL report is cut".to_owned();
        let hardware = match word(RUNTIME + 8).ok_or_else(cut)? {
            2 => Hardware::Snp,
            4 => Hardware::Tdx,
            other => {
                return Err(format!(
                    "the HCL report is of hardware {other}, which is neither SNP nor TDX"
                ));
            }
        };
        let length = word(RUNTIME + 16).and_then(|length| usize::try_from(length).ok());
        let variable_data = bytes
            .get(RUNTIME + 20..)
            .zip(length)
            .and_then(|(rest, length)| rest.get(..length))
            .ok_or_else(cut)?;
        let parsed: VariableData = serde_json::from_slice(variable_data)
            .map_err(|error| format!("the HCL report's variable data: {error}"))?;
        Ok(Self {
            hardware,
            td_report: bytes.get(HEADER..HEADER + TD_REPORT).ok_or_else(cut)?,
            user_data: parsed.user_data.and_then(|text| hex::decode(text).ok()),
        })
    }
}

/// The signature in a `TPMT_SIGNATURE` of RSASSA with SHA-256.
fn rsa_signature(signature: &[u8]) -> Option<&[u8]> {
    let rest = signature.strip_prefix(&[0, 0x14, 0, 0x0b])?;
    let (length, rest) = rest.split_first_chunk()?;
    (rest.len() == usize::from(u16::from_be_bytes(*length))).then_some(rest)
}

fn refused(path: &Path, reason: String) -> AttestError {
    AttestError::Device {
        device: path.display().to_string(),
        reason,
    }
}

const HCL_REPORT: u32 = 0x0140_0001;
const USER_DATA: u32 = 0x0140_0002;
const ATTESTATION_KEY: u32 = 0x8100_0003;
const HEADER: usize = 32;
const TD_REPORT: usize = 1024;
const RUNTIME: usize = HEADER + 1184;
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn report(kind: u32, variable_data: &str) -> Vec<u8> {
        let mut bytes = b"HCLA".to_vec();
        bytes.resize(RUNTIME, 0);
        let length = u32::try_from(variable_data.len()).unwrap();
        for word in [length + 20, 1, kind, 1, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(variable_data.as_bytes());
        bytes
    }

    #[test]
    fn hardware_and_the_guests_own_bytes_are_read() {
        let bytes = report(4, r#"{"keys":[],"user-data":"00FF"}"#);
        let parsed = HclReport::parse(&bytes).unwrap();
        assert_eq!(parsed.hardware, Hardware::Tdx);
        assert_eq!(parsed.user_data, Some(vec![0, 0xff]));
        for length in 0..bytes.len() {
            assert!(HclReport::parse(&bytes[..length]).is_err(), "{length}");
        }
        assert!(HclReport::parse(&report(3, "{}")).is_err());
    }

    #[test]
    fn upstreams_report_of_a_real_machine_parses() {
        for (name, hardware) in [
            ("az-snp-vtpm", Hardware::Snp),
            ("az-tdx-vtpm", Hardware::Tdx),
        ] {
            let path = format!("trustee/deps/verifier/test_data/{name}/hcl-report.bin");
            let Some(path) = strongroom_testkit::fixtures::fixture(&path) else {
                return;
            };
            let bytes = std::fs::read(path).unwrap();
            assert_eq!(HclReport::parse(&bytes).unwrap().hardware, hardware);
        }
    }

    #[test]
    fn signature_of_another_scheme_or_length_is_none() {
        assert_eq!(
            rsa_signature(&[0, 0x14, 0, 0x0b, 0, 2, 7, 8]),
            Some(&[7, 8][..])
        );
        for wrong in [
            &[0, 0x18, 0, 0x0b, 0, 2, 7, 8][..],
            &[0, 0x14, 0, 0x0c, 0, 2, 7, 8],
            &[0, 0x14, 0, 0x0b, 0, 3, 7, 8],
            &[0, 0x14, 0, 0x0b],
        ] {
            assert_eq!(rsa_signature(wrong), None);
        }
    }
}
