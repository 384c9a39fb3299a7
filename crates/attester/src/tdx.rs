//! TDX: the quote of this trust domain with its event log, and its registers.
//!
//! The quote is made outside the domain and sent back by the host, so nothing in it is believed here: registers are read
//! where the TDX module itself gives them, from the kernel's measurement files or from a TD report.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::devices::Devices;
use crate::event_log::{self, Lock};
use crate::sys::ioctl;
use crate::tsm::{self, Provider};
use crate::{AttestError, files};

#[derive(Serialize)]
struct TdxEvidence {
    cc_eventlog: Option<String>,
    quote: String,
}

/// The evidence of the KBS protocol's platform `tdx`.
pub(crate) fn evidence(
    devices: &Devices,
    report_data: &[u8; 64],
) -> Result<Box<RawValue>, AttestError> {
    // While the quote is made nobody extends a register, or the log would not be that of the quote.
    let lock = Lock::shared(&devices.event_log)?;
    let quote = tsm::report(&devices.tsm, Provider::Tdx, report_data)?.out;
    if !quote
        .windows(report_data.len())
        .any(|part| part == report_data)
    {
        return Err(AttestError::Device {
            device: devices.tsm.display().to_string(),
            reason: "the quote holds other report data than it was asked for".to_owned(),
        });
    }
    let log = event_log::of_evidence(devices)?;
    drop(lock);
    to_raw_value(&TdxEvidence {
        cc_eventlog: log.map(|log| STANDARD.encode(log)),
        quote: STANDARD.encode(quote),
    })
    .map_err(|_| AttestError::Json)
}

/// `MRCONFIGID`: what whoever launched this domain set, and cannot change.
pub(crate) fn mrconfigid(devices: &Devices) -> Result<[u8; 48], AttestError> {
    register(devices, "mrconfigid", |report| report.mrconfigid)
}

/// What one of the four runtime registers holds.
pub(crate) fn rtmr(devices: &Devices, index: u8) -> Result<[u8; 48], AttestError> {
    let number = usize::from(index);
    register(devices, &rtmr_file(index), |report| {
        report.rtmr.get(number).copied().unwrap_or([0; 48])
    })
}

/// Extends a runtime register.
pub(crate) fn extend(devices: &Devices, index: u8, digest: &[u8; 48]) -> Result<(), AttestError> {
    let path = devices.tdx_measurements.join(rtmr_file(index));
    match files::write(&path, digest) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(files::failure(&path, &error)),
    }
    ioctl::extend_rtmr(&devices.tdx_guest, index, digest).map_err(|error| {
        AttestError::Device {
            device: devices.tdx_guest.display().to_string(),
            reason: format!(
                "{}; runtime registers are extended through {} since Linux 6.16, and this kernel has neither it nor the \
                 driver's call",
                files::reason(&error),
                path.display()
            ),
        }
    })
}

fn register(
    devices: &Devices,
    file: &str,
    of_report: impl Fn(&TdReport) -> [u8; 48],
) -> Result<[u8; 48], AttestError> {
    let path = devices.tdx_measurements.join(file);
    match files::read(&path, 64) {
        Ok(bytes) => bytes
            .try_into()
            .map_err(|bytes: Vec<u8>| AttestError::Device {
                device: path.display().to_string(),
                reason: format!("a register of {} bytes, not 48", bytes.len()),
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            ioctl::td_report(&devices.tdx_guest, &[0; 64])
                .map(|report| of_report(&report))
                .map_err(|error| files::failure(&devices.tdx_guest, &error))
        }
        Err(error) => Err(files::failure(&path, &error)),
    }
}

fn rtmr_file(index: u8) -> String {
    format!("rtmr{index}:sha384")
}

/// What a TD report says of the domain (TDX module ABI, `TDREPORT_STRUCT`): 256 bytes of MAC structure, 239 of the
/// module, 17 reserved, 512 of the domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct TdReport {
    pub(crate) mrconfigid: [u8; 48],
    pub(crate) rtmr: [[u8; 48]; 4],
}

impl TdReport {
    pub(crate) const LENGTH: usize = 1024;

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let whole: &[u8; Self::LENGTH] = bytes.try_into().ok()?;
        // The type of a TD's report, and the version of its structure, 0 or 1.
        if whole[0] != 0x81 || whole[2] > 1 {
            return None;
        }
        let register = |at: usize| whole.get(at..)?.first_chunk().copied();
        Some(Self {
            mrconfigid: register(576)?,
            rtmr: [
                register(720)?,
                register(768)?,
                register(816)?,
                register(864)?,
            ],
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_where_the_module_puts_them() {
        let mut bytes = vec![0; TdReport::LENGTH];
        bytes[0] = 0x81;
        // `TDINFO_STRUCT` from 512 on: attributes 8, XFAM 8, MRTD 48, MRCONFIGID 48, MROWNER 48, MROWNERCONFIG 48, RTMRs.
        bytes[512 + 64..512 + 112].fill(1);
        bytes[512 + 208..512 + 256].fill(2);
        bytes[512 + 352..512 + 400].fill(5);
        let report = TdReport::parse(&bytes).unwrap();
        assert_eq!(report.mrconfigid, [1; 48]);
        assert_eq!((report.rtmr[0], report.rtmr[3]), ([2; 48], [5; 48]));
    }

    #[test]
    fn report_of_another_kind_or_length_is_refused() {
        let mut bytes = vec![0; TdReport::LENGTH];
        assert_eq!(TdReport::parse(&bytes), None);
        bytes[0] = 0x81;
        assert!(TdReport::parse(&bytes).is_some());
        assert_eq!(TdReport::parse(&bytes[1..]), None);
        bytes[2] = 2;
        assert_eq!(TdReport::parse(&bytes), None);
    }

    #[test]
    fn upstreams_report_of_a_real_domain_parses() {
        let path = "guest/guest-components/attestation-agent/attester/test/tdx_report_1.bin";
        let Some(path) = strongroom_testkit::fixtures::fixture(path) else {
            return;
        };
        let report = TdReport::parse(&std::fs::read(path).unwrap()).unwrap();
        assert_ne!(report.rtmr[0], [0; 48]);
    }
}
