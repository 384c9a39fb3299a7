//! Evidence through the kernel's own interfaces, which the test answers system call by system call, accepted by the
//! verifiers of hardware. What hardware would sign, a development root signs.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use strongroom_attester::development::{DevelopmentRoot, sgx, snp, tdx};
use strongroom_attester::{
    AttestError, Attester, BindingError, Bound, Devices, Event, Found, LaunchRegister, Outcome,
};
use strongroom_testkit::kernel::{Kernel, Machine, Registers};
use strongroom_verifier::event_log::EventLog;
use strongroom_verifier::{
    Assurance, Check, Collateral, CollateralItem, Evidence, Expected, ExpectedInitdata,
    TrustAnchors, VerifyError, examine,
};
use strongroom_wire::initdata::{Initdata, registers};
use strongroom_wire::tee::Tee;

const NOW: u64 = 1_800_000_000;
const REPORT_DATA: [u8; 48] = [0x5a; 48];

/// A machine, the root that signs for it, and its devices.
struct Booted {
    root: DevelopmentRoot,
    machine: Machine,
    devices: Devices,
    _run: tempfile::TempDir,
}

impl Booted {
    fn boot(root: DevelopmentRoot, kernel: Kernel) -> Option<Self> {
        let machine = kernel.boot()?;
        let run = tempfile::tempdir().unwrap();
        let mut devices = Devices::under(&machine.root());
        devices.event_log = run.path().join("attestation-agent");
        Some(Self {
            root,
            machine,
            devices,
            _run: run,
        })
    }

    fn found(&self) -> Found {
        Attester::detect(&self.devices).unwrap()
    }

    fn attester(&self) -> Attester {
        self.found().attester
    }

    fn evidence(&self) -> Value {
        let json = self.attester().evidence(&REPORT_DATA).unwrap();
        serde_json::from_str(json.get()).unwrap()
    }

    /// Verifies, and gives the name of the check that failed.
    fn verdict(&self, evidence: &Value, initdata: ExpectedInitdata) -> Result<(), Check> {
        let tee = self.attester().tee();
        let evidence = Evidence::parse(tee, evidence.to_string().as_bytes()).unwrap();
        let collateral = collateral(&self.root, &evidence);
        let anchors = TrustAnchors::vendors()
            .with_development_root(&self.root.certificate_pem())
            .unwrap();
        let expected = Expected {
            report_data: Some(REPORT_DATA.to_vec()),
            initdata,
        };
        let seen = examine(evidence, &collateral, &anchors, &expected, NOW);
        match seen.error {
            None => {
                assert_eq!(seen.assurance, Assurance::Development);
                Ok(())
            }
            Some(error) => Err(VerifyError::check(&error)),
        }
    }

    /// No folder of ours is left in the report interface.
    #[track_caller]
    fn left_nothing(&self) {
        assert_eq!(self.machine.kernel().entries.len(), 0);
    }
}

fn collateral(root: &DevelopmentRoot, evidence: &Evidence) -> Collateral {
    let files: BTreeMap<_, _> = root.collateral().unwrap().into_iter().collect();
    let mut collateral = Collateral::none();
    for wanted in evidence.collateral_request().iter() {
        let Some(body) = files.get(&wanted.path()) else {
            continue;
        };
        let issuer_chain = wanted.chain_path().map_or_else(String::new, |path| {
            String::from_utf8(files[&path].clone()).unwrap()
        });
        let body = body.clone();
        collateral.insert(wanted.clone(), CollateralItem { body, issuer_chain });
    }
    collateral
}

fn tdx_kernel(root: &DevelopmentRoot) -> Kernel {
    let forge = tdx::Forge::new(root);
    let ccel = forge.event_log_bytes().unwrap();
    let rtmr = forge.report.rtmr;
    let mut kernel = Kernel::new(move |registers: &Registers, report_data| {
        let mut forge = forge.clone().with_report_data(report_data);
        forge.report.rtmr = registers.rtmr;
        forge.report.mr_config_id = registers.mrconfigid;
        forge.quote_bytes().unwrap()
    });
    kernel.provider = Some("tdx_guest");
    kernel.registers.rtmr = rtmr;
    kernel.measurement_files = true;
    // Firmware keeps its log in an area that is longer than the log.
    kernel.ccel = Some([ccel, vec![0xff; 4096]].concat());
    kernel
}

fn tdx_machine() -> Option<Booted> {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let kernel = tdx_kernel(&root);
    Booted::boot(root, kernel)
}

fn snp_kernel(root: &DevelopmentRoot, host_data: &[u8]) -> Kernel {
    let forge = snp::Forge::new(root).with_initdata(host_data);
    let mut kernel = Kernel::new(move |_: &Registers, report_data| {
        let forge = forge.clone().with_report_data(report_data);
        forge.report_bytes().unwrap()
    });
    kernel.provider = Some("sev_guest");
    kernel
}

/// The host's table of certificates (GHCB specification, 4.1.8.1).
fn certificates(root: &DevelopmentRoot) -> Vec<u8> {
    let forge = snp::Forge::new(root);
    let entries = [
        (
            "63da758de6644564adc5f4b93be8accd",
            forge.certificate_der().unwrap(),
        ),
        ("4ab7b379bbac4fe4a02f05aef327c782", forge.ask_der().unwrap()),
    ];
    let (mut table, mut body) = (Vec::new(), Vec::new());
    for (guid, certificate) in entries {
        table.extend(hex::decode(guid).unwrap());
        table.extend(u32::try_from(72 + body.len()).unwrap().to_le_bytes());
        table.extend(u32::try_from(certificate.len()).unwrap().to_le_bytes());
        body.extend(certificate);
    }
    table.resize(72, 0);
    [table, body].concat()
}

fn names(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
    names.sort();
    names
}

/// Upstream's evidence of a real machine, as the broker's end-to-end test has it.
fn upstream_snp() -> Option<Value> {
    let path = "trustee/attestation-service/tests/e2e/evidence.json";
    let path = strongroom_testkit::fixtures::fixture(path)?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

#[test]
fn tdx_evidence_through_the_report_interface_verifies() {
    let Some(booted) = tdx_machine() else { return };
    assert_eq!(booted.found().attester.tee(), Tee::Tdx);
    assert_eq!(booted.found().probes[0].outcome, Outcome::Found);
    let evidence = booted.evidence();
    assert_eq!(names(&evidence), ["cc_eventlog", "quote"]);
    booted.verdict(&evidence, ExpectedInitdata::None).unwrap();
    booted.left_nothing();
}

#[test]
fn tdx_evidence_without_an_event_log_says_null() {
    let Some(booted) = tdx_machine() else { return };
    booted.machine.kernel().ccel = None;
    booted.machine.kernel().registers.rtmr = [[0; 48]; 4];
    let evidence = booted.evidence();
    assert_eq!(evidence["cc_eventlog"], Value::Null);
    booted.verdict(&evidence, ExpectedInitdata::None).unwrap();
}

#[test]
fn snp_evidence_brings_the_hosts_certificates_and_has_upstreams_shape() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let mut kernel = snp_kernel(&root, &[]);
    kernel.aux = Some(certificates(&root));
    let Some(booted) = Booted::boot(root, kernel) else {
        return;
    };
    let evidence = booted.evidence();
    booted.verdict(&evidence, ExpectedInitdata::None).unwrap();
    assert_eq!(evidence["cert_chain"][1]["cert_type"], "ASK");
    booted.left_nothing();
    let Some(upstream) = upstream_snp() else {
        return;
    };
    assert_eq!(names(&evidence), names(&upstream));
    let (ours, theirs) = (
        &evidence["attestation_report"],
        &upstream["attestation_report"],
    );
    assert_eq!(names(ours), names(theirs));
    for member in ["reported_tcb", "committed", "signature"] {
        assert_eq!(names(&ours[member]), names(&theirs[member]), "{member}");
    }
    assert_eq!(
        names(&evidence["cert_chain"][0]),
        names(&upstream["cert_chain"][0])
    );
}

#[test]
fn snp_evidence_without_certificates_leaves_them_to_the_broker() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    for aux in [None, Some(vec![0; 4096]), Some(b"no table".to_vec())] {
        let mut kernel = snp_kernel(&root, &[]);
        kernel.aux = aux;
        let Some(booted) = Booted::boot(root.clone(), kernel) else {
            return;
        };
        let evidence = booted.evidence();
        assert_eq!(evidence["cert_chain"], Value::Null);
        booted.verdict(&evidence, ExpectedInitdata::None).unwrap();
    }
}

#[test]
fn snp_evidence_through_the_driver_verifies() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let mut kernel = snp_kernel(&root, &[]);
    kernel.provider = None;
    kernel.sev_driver = true;
    kernel.aux = Some(certificates(&root));
    let Some(booted) = Booted::boot(root, kernel) else {
        return;
    };
    let found = booted.found();
    let probe = found
        .probes
        .iter()
        .find(|probe| probe.outcome == Outcome::Found);
    assert!(probe.unwrap().path.ends_with("dev/sev-guest"));
    let evidence = booted.evidence();
    assert_eq!(evidence["cert_chain"][0]["cert_type"], "VCEK");
    booted.verdict(&evidence, ExpectedInitdata::None).unwrap();
}

#[test]
fn sgx_evidence_through_the_enclaves_files_verifies() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let forge = sgx::Forge::new(&root);
    let mut kernel = Kernel::new(move |_: &Registers, report_data| {
        forge
            .clone()
            .with_report_data(report_data)
            .quote_bytes()
            .unwrap()
    });
    kernel.enclave = Some("dcap");
    let Some(booted) = Booted::boot(root, kernel) else {
        return;
    };
    assert_eq!(booted.attester().tee(), Tee::Sgx);
    booted
        .verdict(&booted.evidence(), ExpectedInitdata::None)
        .unwrap();
    booted.machine.kernel().enclave = Some("epid");
    let error = Attester::detect(&booted.devices).unwrap_err().to_string();
    assert!(error.contains("epid"), "{error}");
}

#[test]
fn report_that_others_disturbed_is_made_again() {
    let Some(booted) = tdx_machine() else { return };
    let attester = booted.attester();
    booted.machine.kernel().made.clear();
    booted.machine.kernel().disturbances = 2;
    let evidence = attester.evidence(&REPORT_DATA).unwrap();
    let evidence = serde_json::from_str(evidence.get()).unwrap();
    booted.verdict(&evidence, ExpectedInitdata::None).unwrap();
    assert!(booted.machine.kernel().made.len() >= 3);
    booted.left_nothing();
}

#[test]
fn write_that_was_lost_when_the_file_was_closed_is_noticed() {
    let Some(booted) = tdx_machine() else { return };
    let attester = booted.attester();
    booted.machine.kernel().lost_writes = 1;
    let evidence = attester.evidence(&REPORT_DATA).unwrap();
    let evidence = serde_json::from_str(evidence.get()).unwrap();
    booted.verdict(&evidence, ExpectedInitdata::None).unwrap();
}

#[test]
fn report_that_is_always_disturbed_is_an_error_and_leaves_no_folder() {
    let Some(booted) = tdx_machine() else { return };
    let attester = booted.attester();
    booted.machine.kernel().disturbances = u32::MAX;
    let error = attester.evidence(&REPORT_DATA).unwrap_err();
    assert!(error.to_string().contains("overwritten 5 times"), "{error}");
    booted.left_nothing();
}

#[test]
fn quote_over_other_report_data_is_noticed() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let forge = tdx::Forge::new(&root);
    let mut kernel = Kernel::new(move |_: &Registers, _| forge.quote_bytes().unwrap());
    kernel.provider = Some("tdx_guest");
    let Some(booted) = Booted::boot(root, kernel) else {
        return;
    };
    let error = booted.attester().evidence(&REPORT_DATA).unwrap_err();
    assert!(error.to_string().contains("other report data"), "{error}");
}

#[test]
fn folder_of_a_killed_process_is_passed_over() {
    let Some(booted) = tdx_machine() else { return };
    let attester = booted.attester();
    let left = format!("strongroom-{}-0", std::process::id());
    booted
        .machine
        .kernel()
        .entries
        .insert(left.clone(), Default::default());
    attester.evidence(&REPORT_DATA).unwrap();
    let kernel = booted.machine.kernel();
    assert_eq!(kernel.entries.keys().collect::<Vec<_>>(), [&left]);
}

#[test]
fn guest_under_a_service_module_asks_as_the_level_it_may() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let mut kernel = snp_kernel(&root, &[]);
    kernel.privlevel_floor = Some(2);
    let Some(booted) = Booted::boot(root, kernel) else {
        return;
    };
    booted
        .verdict(&booted.evidence(), ExpectedInitdata::None)
        .unwrap();
    assert_eq!(booted.machine.kernel().privlevels, ["2"]);
    booted.machine.kernel().privlevel_floor = Some(0);
    booted.evidence();
    assert_eq!(booted.machine.kernel().privlevels, ["2"]);
}

#[test]
fn provider_that_nobody_knows_is_named() {
    let Some(booted) = tdx_machine() else { return };
    booted.machine.kernel().provider = Some("riscv_guest");
    let error = Attester::detect(&booted.devices).unwrap_err().to_string();
    assert!(error.contains("\"riscv_guest\" is not known"), "{error}");
    booted.left_nothing();
}

#[test]
fn provider_that_changed_since_is_an_error() {
    let Some(booted) = tdx_machine() else { return };
    let attester = booted.attester();
    booted.machine.kernel().provider = Some("sev_guest");
    let error = attester.evidence(&REPORT_DATA).unwrap_err().to_string();
    assert!(error.contains("sev_guest and was tdx_guest"), "{error}");
    booted.left_nothing();
}

#[test]
fn cca_is_told_and_not_taken() {
    let Some(booted) = tdx_machine() else { return };
    booted.machine.kernel().provider = Some("arm_cca_guest");
    let error = Attester::detect(&booted.devices).unwrap_err().to_string();
    assert!(
        error.contains("evidence of cca is not made here"),
        "{error}"
    );
}

#[test]
fn init_data_is_held_against_the_registers_of_the_hardware() {
    let ours = document("sha384");
    let other = document("sha256");
    let Some(td) = tdx_machine() else { return };
    td.machine.kernel().registers.mrconfigid =
        registers(&ours.digest()).tdx_mrconfigid.try_into().unwrap();
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let kernel = snp_kernel(&root, &ours.digest());
    let Some(snp) = Booted::boot(root, kernel) else {
        return;
    };
    for (booted, register) in [(td, "MRCONFIGID"), (snp, "HOST_DATA")] {
        let attester = booted.attester();
        assert_eq!(
            attester.bind_initdata(Some(&ours)),
            Ok(Bound::Matches { register })
        );
        assert!(matches!(
            attester.bind_initdata(Some(&other)),
            Err(BindingError::Mismatch { .. })
        ));
        assert!(matches!(
            attester.bind_initdata(None),
            Err(BindingError::Withheld { .. })
        ));
        let digest = ExpectedInitdata::Digest(ours.digest());
        booted.verdict(&booted.evidence(), digest).unwrap();
    }
}

/// The quote comes from the host, which could send one of another domain: the register is not read from it.
#[test]
fn register_of_a_td_is_asked_of_its_module_and_not_of_the_host() {
    let Some(booted) = tdx_machine() else { return };
    let attester = booted.attester();
    booted.machine.kernel().registers.mrconfigid = [7; 48];
    booted.machine.kernel().measurement_files = false;
    let error = attester.init_data().unwrap_err();
    assert!(
        matches!(&error, AttestError::Device { device, .. } if device.ends_with("dev/tdx_guest"))
    );
    booted.machine.kernel().tdx_driver = Some(false);
    assert_eq!(
        attester.init_data(),
        Ok(LaunchRegister::MrConfigId([7; 48]))
    );
    assert_eq!(booted.machine.kernel().made.len(), 1, "only the probe");
}

#[test]
fn events_are_in_the_register_and_in_the_log_that_the_verifier_replays() {
    let Some(booted) = tdx_machine() else { return };
    for ccel in [true, false] {
        if !ccel {
            booted.machine.kernel().ccel = None;
            booted.machine.kernel().registers.rtmr = [[0; 48]; 4];
            std::fs::remove_dir_all(&booted.devices.event_log).unwrap();
        }
        let attester = booted.attester();
        for (content, pcr) in [("sha256:1", 17), ("sha256:2", 17), ("sha256:3", 9)] {
            let event = Event::new("coco.test", "pull", content).unwrap();
            attester.extend(&event, pcr).unwrap();
        }
        let evidence = booted.evidence();
        booted.verdict(&evidence, ExpectedInitdata::None).unwrap();
        let log = log_of(&evidence);
        let own: Vec<u32> = log
            .events()
            .iter()
            .filter(|event| event.kind == 6)
            .map(|event| event.register)
            .collect();
        assert_eq!(own, [4, 4, 3]);
        assert_eq!(log.rtmrs().unwrap(), booted.machine.kernel().registers.rtmr);
        assert!(
            log.events()
                .iter()
                .filter(|event| event.kind == 6)
                .all(|event| event.digest_matches_data())
        );
    }
}

/// Each holds the lock of the log for itself, as processes do; quotes wait for whoever extends.
#[test]
fn events_and_quotes_at_once_keep_log_and_register_in_step() {
    let Some(booted) = tdx_machine() else { return };
    let attester = booted.attester();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let attester = &attester;
            let booted = &booted;
            scope.spawn(move || {
                for number in 0..4 {
                    let content = format!("{thread}/{number}");
                    let event = Event::new("coco.test", "pull", &content).unwrap();
                    attester.extend(&event, 17).unwrap();
                }
                let evidence = attester.evidence(&REPORT_DATA).unwrap();
                let evidence = serde_json::from_str(evidence.get()).unwrap();
                booted.verdict(&evidence, ExpectedInitdata::None).unwrap();
            });
        }
    });
    let log = log_of(&booted.evidence());
    let own = log.events().iter().filter(|event| event.kind == 6);
    assert_eq!(own.count(), 16);
}

#[test]
fn event_that_is_not_in_the_log_is_noticed_by_the_verifier() {
    let Some(booted) = tdx_machine() else { return };
    let event = Event::new("a", "b", "c").unwrap();
    booted.attester().extend(&event, 17).unwrap();
    std::fs::remove_file(booted.devices.event_log.join("eventlog")).unwrap();
    let refused = booted.verdict(&booted.evidence(), ExpectedInitdata::None);
    assert_eq!(refused, Err(Check::EventLogRtmrs));
}

/// A process that was killed after it extended the register left its intent: the next evidence finishes it first.
#[test]
fn evidence_after_a_kill_explains_the_register() {
    let Some(booted) = tdx_machine() else { return };
    let attester = booted.attester();
    let event = Event::new("a", "b", "c").unwrap();
    attester.extend(&event, 17).unwrap();
    let log = booted.devices.event_log.join("eventlog");
    let whole = std::fs::read(&log).unwrap();
    let after = booted.machine.kernel().registers.rtmr[3];
    let intent = [0_u64.to_be_bytes().as_slice(), &after, b"a b c"].concat();
    std::fs::write(booted.devices.event_log.join(".wal_event_entry"), intent).unwrap();
    std::fs::write(&log, &whole[..20]).unwrap();
    booted
        .verdict(&booted.evidence(), ExpectedInitdata::None)
        .unwrap();
    assert_eq!(std::fs::read(&log).unwrap(), whole);
}

#[test]
fn register_without_a_file_is_extended_through_the_driver() {
    let Some(booted) = tdx_machine() else { return };
    booted.machine.kernel().measurement_files = false;
    booted.machine.kernel().tdx_driver = Some(true);
    let event = Event::new("a", "b", "c").unwrap();
    booted.attester().extend(&event, 17).unwrap();
    booted
        .verdict(&booted.evidence(), ExpectedInitdata::None)
        .unwrap();
    // A driver without the call: nothing is extended, nothing is logged, and the kernel that can is named.
    booted.machine.kernel().tdx_driver = Some(false);
    let before = std::fs::read(booted.devices.event_log.join("eventlog")).unwrap();
    let error = booted
        .attester()
        .extend(&event, 17)
        .unwrap_err()
        .to_string();
    assert!(error.contains("since Linux 6.16"), "{error}");
    assert_eq!(
        std::fs::read(booted.devices.event_log.join("eventlog")).unwrap(),
        before
    );
    booted
        .verdict(&booted.evidence(), ExpectedInitdata::None)
        .unwrap();
}

#[test]
fn platform_without_a_register_says_so() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let kernel = snp_kernel(&root, &[]);
    let Some(booted) = Booted::boot(root, kernel) else {
        return;
    };
    let event = Event::new("a", "b", "c").unwrap();
    assert_eq!(
        booted.attester().extend(&event, 17),
        Err(AttestError::NoRegister(Tee::Snp))
    );
    let sample = Attester::named("sample").unwrap();
    assert_eq!(
        sample.extend(&event, 17),
        Err(AttestError::NoRegister(Tee::Sample))
    );
    assert!(!Path::new(&booted.devices.event_log).exists());
}

fn log_of(evidence: &Value) -> EventLog {
    use base64::Engine as _;
    let log = evidence["cc_eventlog"].as_str().unwrap();
    let log = base64::engine::general_purpose::STANDARD
        .decode(log)
        .unwrap();
    EventLog::parse(&log).unwrap()
}

fn document(algorithm: &str) -> Initdata {
    let text = format!("version = \"0.1.0\"\nalgorithm = \"{algorithm}\"\n[data]\n");
    Initdata::parse(&text).unwrap()
}

/// A library with NVML's names, which gives the report and certificates of files: a real GPU's, recorded.
const NVML: &str = r#"
#include <stdio.h>
#include <string.h>
typedef struct { unsigned environment, feature, tools; } State;
typedef struct { unsigned size, attestation_size; unsigned char chain[0x1000], attestation_chain[0x1400]; } Certificate;
typedef struct { unsigned cec, size, cec_size; unsigned char nonce[0x20], report[0x2000], cec_report[0x1000]; } Report;
static int initialised = 0;
static unsigned filled(const char *path, unsigned char *into, unsigned room) {
  FILE *file = fopen(path, "rb");
  if (!file) return 0;
  unsigned size = fread(into, 1, room, file);
  fclose(file);
  return size;
}
int nvmlInit_v2(void) { initialised++; return 0; }
int nvmlShutdown(void) { initialised--; return 0; }
const char *nvmlErrorString(int status) { return status == 3 ? "Not Supported" : "Unknown Error"; }
int nvmlSystemGetConfComputeState(State *state) { state->feature = FEATURE; return initialised > 0 ? 0 : 1; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)0x1001; return index; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned length) {
  if (device != (void *)0x1001 || length < 80) return 2;
  strcpy(text, "GPU-11111111-2222-3333-4444-555555555555");
  return 0;
}
int nvmlDeviceGetArchitecture(void *device, unsigned *architecture) { *architecture = ARCHITECTURE; return 0; }
int nvmlDeviceGetConfComputeGpuCertificate(void *device, Certificate *out) {
  out->attestation_size = filled(FOLDER "/chain", out->attestation_chain, sizeof out->attestation_chain);
  return 0;
}
int nvmlDeviceGetConfComputeGpuAttestationReport(void *device, Report *out) {
  unsigned char nonce[0x20];
  memcpy(nonce, out->nonce, sizeof nonce);
  out->size = filled(FOLDER "/report", out->report, sizeof out->report);
  /* This GPU signs one nonce. */
  return memcmp(nonce, out->report + 4, sizeof nonce) ? 3 : 0;
}
"#;

const GPU_NONCE: &str = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";

/// A TD with a GPU, whose library is compiled here.
fn gpu_machine(feature: u32, architecture: u32) -> Option<(Booted, tempfile::TempDir)> {
    let fixture = |name: &str| {
        let path = format!("trustee/deps/verifier/test_data/nvidia/{name}");
        let path = strongroom_testkit::fixtures::fixture(&path)?;
        Some(std::fs::read_to_string(path).unwrap())
    };
    let compiler = strongroom_testkit::fixtures::peer("cc")?;
    let report = fixture("hopperAttestationReport.txt")?;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("report", &hex::decode(report.trim()).unwrap());
    write("chain", fixture("hopper_cert_chain_case1.txt")?.as_bytes());
    write("nvml.c", NVML.as_bytes());
    write("nvidiactl", b"");
    let library = folder.path().join("libnvidia-ml.so.1");
    let compiled = std::process::Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(folder.path().join("nvml.c"))
        .arg(format!("-DFOLDER=\"{}\"", folder.path().display()))
        .arg(format!("-DFEATURE={feature}"))
        .arg(format!("-DARCHITECTURE={architecture}"))
        .status();
    assert!(compiled.unwrap().success());
    let mut booted = tdx_machine()?;
    booted.devices.nvidia = folder.path().join("nvidiactl");
    booted.devices.nvml = library;
    Some((booted, folder))
}

#[test]
fn gpu_beside_a_td_signs_the_nonce_and_its_evidence_verifies() {
    let Some((booted, _folder)) = gpu_machine(1, 9) else {
        return;
    };
    let attester = booted.attester();
    assert_eq!(attester.additional_tees(), [Tee::Nvidia]);
    let mut report_data = hex::decode(GPU_NONCE).unwrap();
    report_data.resize(48, 7);
    let evidence = attester.additional_evidence(&report_data).unwrap();
    let evidence: Value = serde_json::from_str(&evidence).unwrap();
    assert_eq!(names(&evidence), ["nvidia"]);
    let gpu = &evidence["nvidia"]["device_evidence_list"][0];
    assert_eq!(names(gpu), ["arch", "certificate", "evidence", "uuid"]);
    assert_eq!(gpu["arch"], "HOPPER");
    let evidence = Evidence::parse(Tee::Nvidia, evidence["nvidia"].to_string().as_bytes()).unwrap();
    let expected = Expected {
        report_data: Some(report_data),
        initdata: ExpectedInitdata::Unknown,
    };
    let seen = examine(
        evidence,
        &Collateral::none(),
        &TrustAnchors::vendors(),
        &expected,
        1_735_689_600,
    );
    assert_eq!(seen.error, None);
    assert_eq!(seen.assurance, Assurance::Hardware);
}

#[test]
fn gpu_that_refuses_is_an_error_and_not_missing_evidence() {
    let Some((booted, _folder)) = gpu_machine(1, 9) else {
        return;
    };
    let error = booted
        .attester()
        .additional_evidence(&[1; 48])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("Report failed with 3 (Not Supported)"),
        "{error}"
    );
}

#[test]
fn gpu_outside_of_confidential_mode_is_told_and_left_out() {
    let Some((booted, _folder)) = gpu_machine(0, 9) else {
        return;
    };
    let found = booted.found();
    assert!(
        found.devices[0]
            .outcome
            .to_string()
            .contains("not in confidential mode")
    );
    assert_eq!(found.attester.additional_tees(), []);
    assert_eq!(
        found.attester.additional_evidence(&[1; 48]),
        Ok(String::new())
    );
}

#[test]
fn gpu_of_an_unknown_architecture_is_named() {
    let Some((booted, _folder)) = gpu_machine(1, 42) else {
        return;
    };
    let nonce = hex::decode(GPU_NONCE).unwrap();
    let error = booted
        .attester()
        .additional_evidence(&nonce)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("GPU-11111111") && error.contains("no known architecture"),
        "{error}"
    );
}

#[test]
fn driver_without_its_library_is_told() {
    let Some((mut booted, folder)) = gpu_machine(1, 9) else {
        return;
    };
    booted.devices.nvml = folder.path().join("missing.so");
    let found = booted.found();
    assert!(found.devices[0].outcome.to_string().contains("missing.so"));
    std::fs::write(&booted.devices.nvml, "no library").unwrap();
    assert_eq!(booted.found().devices[0].outcome.word(), "unusable");
}
