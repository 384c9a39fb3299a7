//! Events over REST on a TDX guest whose kernel the test answers: measured into a register and logged, when the
//! configuration asks for it.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use strongroom_attester::development::{DevelopmentRoot, tdx};
use strongroom_attester::{Attester, Devices};
use strongroom_guest::{Agent, AgentConfig, Measured, ServeOptions, Tokens};
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
    Guest::start(agent(machine, enabled, log), support::everything())
}

fn agent(machine: &Machine, enabled: bool, log: &Path) -> Agent {
    let mut devices = Devices::under(&machine.root());
    devices.event_log = log.to_owned();
    let attester = Attester::detect(&devices).unwrap().attester;
    let mut config = AgentConfig::new("http://127.0.0.1:9", attester);
    config.event_log.enable_eventlog = enabled;
    Agent::new(config).unwrap()
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
}

#[test]
fn container_extends_a_boot_register_or_speaks_for_the_agent() {
    let Some(machine) = tdx_machine() else { return };
    let before = machine.kernel().registers.rtmr;
    let folder = tempfile::tempdir().unwrap();
    let guest = guest(&machine, true, folder.path());
    let post = |body: &[u8]| guest.request("POST", "/aa/aael", &[], body);
    for register in ["1", "8", "17", "null"] {
        let named = format!(
            r#"{{"domain":"d","operation":"o","content":"c","register_index":{register}}}"#
        );
        let answer = post(named.as_bytes());
        let refused = answer.status == 400 && answer.text().contains("register_index");
        // A null is no register.
        assert_eq!(refused, register != "null", "{}", answer.text());
    }
    let rtmr = machine.kernel().registers.rtmr;
    assert_eq!(rtmr[..3], before[..3]);
    let forged = br#"{"domain":"github.com/confidential-containers","operation":"PullImage","content":"{}"}"#;
    let answer = post(forged);
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(machine.kernel().registers.rtmr, rtmr);
}

#[test]
fn container_fills_the_log_so_that_an_image_cannot_be_measured() {
    let Some(machine) = tdx_machine() else { return };
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(&machine, true, folder.path());
    let tokens = tempfile::tempdir().unwrap();
    for name in ["app", "sidecar"] {
        let path = tokens.path().join(name);
        std::fs::write(&path, format!("0123456789abcdef-{name}")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
    }
    let options = ServeOptions {
        tokens: Some(Tokens::load(tokens.path()).unwrap().into()),
        ..support::everything()
    };
    let guest = Guest::start(agent.clone(), options);
    let long = "x".repeat(60_000);
    let body = format!(r#"{{"domain":"d","operation":"o","content":"{long}"}}"#);
    let post = |name: &str| {
        let token = format!("Bearer 0123456789abcdef-{name}");
        let headers = [("authorization", token.as_str())];
        guest.request("POST", "/aa/aael", &headers, body.as_bytes())
    };
    assert_eq!([post("app").status, post("app").status], [200, 200]);
    let answer = post("app");
    assert_eq!(answer.status, 429, "{}", answer.text());
    assert_eq!(post("sidecar").status, 200);

    // However many containers there are, the agent has room.
    let log = folder.path().join("eventlog");
    std::fs::write(&log, vec![0; 768 * 1024]).unwrap();
    let answer = post("sidecar");
    assert_eq!(answer.status, 507, "{}", answer.text());
    assert!(
        answer.text().contains("kept for the agent"),
        "{}",
        answer.text()
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let domain = "github.com/confidential-containers";
    let measured = runtime.block_on(agent.measure(domain, "PullImage", "{}", None));
    assert_eq!(measured.unwrap(), Measured::Done);
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
