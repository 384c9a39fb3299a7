//! Events over REST on a TDX guest whose kernel the test answers: measured into a register and logged, when the
//! configuration asks for it.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use strongroom_attester::development::{DevelopmentRoot, tdx};
use strongroom_attester::{Attester, Devices};
use strongroom_guest::{Agent, AgentConfig};
use strongroom_testkit::kernel::{Kernel, Machine, Registers};
use support::Guest;

const NOW: u64 = 1_800_000_000;
const EVENT: &[u8] = br#"{"domain":"example.com","operation":"load","content":"model 3"}"#;

fn tdx_machine() -> Option<Machine> {
    let forge = tdx::Forge::new(&DevelopmentRoot::generate(NOW).unwrap());
    let rtmr = forge.report.rtmr;
    let mut kernel = Kernel::new(move |registers: &Registers, report_data| {
        let mut forge = forge.clone().with_report_data(report_data);
        forge.report.rtmr = registers.rtmr;
        forge.quote_bytes().unwrap()
    });
    kernel.provider = Some("tdx_guest");
    kernel.registers.rtmr = rtmr;
    kernel.measurement_files = true;
    kernel.boot()
}

fn guest(machine: &Machine, enabled: bool, log: &Path) -> Guest {
    let mut devices = Devices::under(&machine.root());
    devices.event_log = log.to_owned();
    let attester = Attester::detect(&devices).unwrap().attester;
    let mut config = AgentConfig::new("http://127.0.0.1:9", attester);
    config.event_log.enable_eventlog = enabled;
    Guest::start(Agent::new(config).unwrap(), support::everything())
}

fn measure(guest: &Guest, body: &[u8]) -> String {
    let answer = guest.request("POST", "/aa/aael", &[], body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().to_owned()
}

#[test]
fn event_is_not_measured_into_the_configured_register_and_logged() {
    let Some(machine) = tdx_machine() else { return };
    let before = machine.kernel().registers.rtmr;
    let folder = tempfile::tempdir().unwrap();
    let guest = guest(&machine, true, folder.path());
    assert_eq!(measure(&guest, EVENT), r#"{"success":"true"}"#);
    let after = machine.kernel().registers.rtmr;
    // PCR 17 is RTMR3's.
    assert_eq!(after[..3], before[..3]);
    assert_ne!(after[3], before[3]);
    let log = std::fs::read(folder.path().join("eventlog")).unwrap();
    assert!(log.ends_with(b"example.com load model 3"));
    let named = br#"{"domain":"d","operation":"o","content":"c","register_index":8}"#;
    measure(&guest, named);
    assert_ne!(machine.kernel().registers.rtmr[2], before[2]);
}

#[test]
fn event_that_the_configuration_does_not_ask_for_is_measured() {
    let Some(machine) = tdx_machine() else { return };
    let before = machine.kernel().registers.rtmr;
    let folder = tempfile::tempdir().unwrap();
    let guest = guest(&machine, false, folder.path());
    assert_eq!(
        measure(&guest, EVENT),
        r#"{"success":"false","message":"Attestation Agent does not enable eventlog recording"}"#
    );
    assert_eq!(machine.kernel().registers.rtmr, before);
}
