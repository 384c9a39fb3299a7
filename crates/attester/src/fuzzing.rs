//! One entry point per decoder of bytes that a host or a driver gave, for fuzz targets. None may panic, whatever the bytes.

use strongroom_wire::canonical::HashAlgorithm;

use crate::az_vtpm::HclReport;
use crate::event_log::{self, Intent};
use crate::snp::{self, Answer};
use crate::tdx::TdReport;

/// What drivers answer: TD reports, SNP reports and the host's certificates beside them.
pub fn driver_answers(data: &[u8]) {
    TdReport::parse(data);
    drop(snp::report_json(data));
    let (response, certificates) = data.split_at(data.len() / 2);
    if let Ok(answer) = Answer::parse(response, certificates) {
        drop(snp::report_json(&answer.report));
    }
    for signer in ["VCEK", "VLEK"] {
        drop(snp::certificates(data, signer));
    }
}

/// The HCL report that Azure's paravisor keeps in a vTPM.
pub fn hcl_report(data: &[u8]) {
    drop(HclReport::parse(data));
}

/// The firmware's event log, and what a killed process left behind.
///
/// # Panics
/// When the events are no part of the area.
pub fn event_log(data: &[u8]) {
    if let Some(events) = event_log::whole_events(data) {
        assert!(data.starts_with(events));
    }
    drop(Intent::parse(data, HashAlgorithm::Sha384));
    drop(Intent::parse(data, HashAlgorithm::Sha256));
}
