//! Evidence of a TPM of others (`swtpm`), accepted by the verifier once its attestation key is enrolled.
//!
//! Without the programs a test prints SKIPPED, and fails when `STRONGROOM_REQUIRE_PEERS` is 1.
#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use strongroom_attester::{
    AttestError, Attester, BindingError, Bound, Devices, Event, LaunchRegister, Outcome,
};
use strongroom_testkit::swtpm::Swtpm;
use strongroom_verifier::{
    Assurance, Check, Collateral, Evidence, Examination, Expected, ExpectedInitdata, TrustAnchors,
    VerifyError, examine,
};
use strongroom_wire::initdata::Initdata;
use strongroom_wire::tee::Tee;

const NOW: u64 = 1_800_000_000;
const REPORT_DATA: [u8; 48] = [0x5a; 48];

struct Machine {
    tpm: Swtpm,
    folder: tempfile::TempDir,
}

impl Machine {
    fn boot() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        Swtpm::start().map(|tpm| Self { tpm, folder })
    }

    fn devices(&self) -> Devices {
        let mut devices = Devices::under(self.folder.path());
        devices.tpm = vec![self.tpm.address().into()];
        devices
    }

    fn attester(&self) -> Attester {
        let found = Attester::detect(&self.devices()).unwrap();
        assert_eq!(found.attester.tee(), Tee::Tpm);
        found.attester
    }

    fn evidence(&self) -> Value {
        let json = self.attester().evidence(&REPORT_DATA).unwrap();
        serde_json::from_str(json.get()).unwrap()
    }

    fn pcr(&self, number: usize) -> String {
        self.evidence()["tpm_quote"]["pcrs"][number]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn ak(evidence: &Value) -> Vec<u8> {
    STANDARD
        .decode(evidence["ak_public"].as_str().unwrap())
        .unwrap()
}

fn examined(evidence: &Value, anchors: &TrustAnchors, initdata: ExpectedInitdata) -> Examination {
    let evidence = Evidence::parse(Tee::Tpm, evidence.to_string().as_bytes()).unwrap();
    let expected = Expected {
        report_data: Some(REPORT_DATA.to_vec()),
        initdata,
    };
    examine(evidence, &Collateral::none(), anchors, &expected, NOW)
}

#[track_caller]
fn accepted(evidence: &Value, initdata: ExpectedInitdata) {
    let anchors = TrustAnchors::none()
        .with_attestation_key(&ak(evidence))
        .unwrap();
    let seen = examined(evidence, &anchors, initdata);
    assert!(seen.error.is_none(), "{:?}", seen.error);
    assert_eq!(seen.assurance, Assurance::Hardware);
}

#[test]
fn quote_is_accepted_once_its_key_is_enrolled_and_the_key_is_the_same_after_a_restart() {
    let Some(mut machine) = Machine::boot() else {
        return;
    };
    let first = machine.evidence();
    accepted(&first, ExpectedInitdata::Unknown);
    let seen = examined(&first, &TrustAnchors::none(), ExpectedInitdata::Unknown);
    assert_eq!(seen.assurance, Assurance::Development);
    machine.tpm.restart();
    let second = machine.evidence();
    assert_eq!(ak(&first), ak(&second));
    assert_ne!(
        first["tpm_quote"]["signature"],
        second["tpm_quote"]["signature"]
    );
    // Not the guest's registers, and not another guest's quote.
    let mut stale = second.clone();
    stale["tpm_quote"]["pcrs"][11] = Value::from("11".repeat(32));
    let seen = examined(&stale, &TrustAnchors::none(), ExpectedInitdata::Unknown);
    assert_eq!(
        VerifyError::check(&seen.error.unwrap()),
        Check::TpmPcrDigest
    );
}

#[test]
fn many_quotes_leave_nothing_in_the_tpm() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    for _ in 0..8 {
        machine.evidence();
    }
    assert_eq!(
        machine
            .tpm
            .tool("tpm2_getcap", &["handles-transient"])
            .trim(),
        ""
    );
    assert_eq!(
        machine
            .tpm
            .tool("tpm2_getcap", &["handles-loaded-session"])
            .trim(),
        ""
    );
}

#[test]
fn persistent_key_of_the_owners_signs_and_another_kind_of_key_does_not() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let tool = |program: &str, arguments: &[&str]| {
        machine.tpm.tool(program, arguments);
        machine.tpm.tool("tpm2_flushcontext", &["-t"]);
        machine.tpm.tool("tpm2_flushcontext", &["-l"]);
        machine.tpm.tool("tpm2_flushcontext", &["-s"]);
    };
    tool("tpm2_createek", &["-G", "rsa", "-c", "ek.ctx"]);
    tool(
        "tpm2_createak",
        &[
            "-C", "ek.ctx", "-G", "rsa", "-g", "sha256", "-s", "rsassa", "-c", "ak.ctx", "-u",
            "ak.der", "-f", "der",
        ],
    );
    tool(
        "tpm2_evictcontrol",
        &["-C", "o", "-c", "ak.ctx", "0x81010002"],
    );
    let evidence = machine.evidence();
    assert_eq!(
        ak(&evidence),
        std::fs::read(machine.tpm.path("ak.der")).unwrap()
    );
    accepted(&evidence, ExpectedInitdata::Unknown);

    tool(
        "tpm2_createprimary",
        &["-C", "o", "-G", "ecc256", "-c", "storage.ctx"],
    );
    tool(
        "tpm2_evictcontrol",
        &["-C", "o", "-c", "storage.ctx", "0x81010003"],
    );
    let mut devices = machine.devices();
    devices.tpm_ak = 0x8101_0003;
    let attester = Attester::detect(&devices).unwrap().attester;
    let refused = attester.evidence(&REPORT_DATA).unwrap_err().to_string();
    assert!(
        refused.contains("0x81010003 is no attestation key"),
        "{refused}"
    );
}

#[test]
fn certificate_beside_the_tpm_goes_with_the_quote() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    assert_eq!(machine.evidence().get("ak_certificates"), None);
    let path = machine.devices().tpm_ak_certificates;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----").unwrap();
    assert_eq!(
        machine.evidence()["ak_certificates"],
        "-----BEGIN CERTIFICATE-----"
    );
    std::fs::remove_file(&path).unwrap();

    // An index that is defined, with another key's certificate.
    std::fs::write(
        machine.tpm.path("other"),
        [&[0x30, 0x82, 0, 16][..], &[7; 16]].concat(),
    )
    .unwrap();
    machine
        .tpm
        .tool("tpm2_nvdefine", &["-C", "o", "-s", "20", "0x01c101d0"]);
    machine
        .tpm
        .tool("tpm2_nvwrite", &["-C", "o", "-i", "other", "0x01c101d0"]);
    let evidence = machine.evidence();
    assert_eq!(evidence.get("ak_certificates"), None);
    // And with this key's.
    let spki = ak(&evidence);
    let length = u16::try_from(spki.len()).unwrap();
    let sequence = [&[0x30, 0x82][..], &length.to_be_bytes(), &spki].concat();
    std::fs::write(
        machine.tpm.path("ours"),
        [&sequence[..], &[0xff; 9]].concat(),
    )
    .unwrap();
    machine
        .tpm
        .tool("tpm2_nvundefine", &["-C", "o", "0x01c101d0"]);
    let size = (sequence.len() + 9).to_string();
    machine
        .tpm
        .tool("tpm2_nvdefine", &["-C", "o", "-s", &size, "0x01c101d0"]);
    machine
        .tpm
        .tool("tpm2_nvwrite", &["-C", "o", "-i", "ours", "0x01c101d0"]);
    let pem = machine.evidence()["ak_certificates"]
        .as_str()
        .unwrap()
        .replace("\r\n", "\n");
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(STANDARD.decode(body).unwrap(), sequence);
}

#[test]
fn init_data_is_measured_once_and_another_document_is_refused() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let document = |content: &str| {
        let text = format!(
            "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = \"{content}\"\n"
        );
        Initdata::parse(&text).unwrap()
    };
    let (ours, other) = (document("ours"), document("other"));
    let attester = machine.attester();
    assert_eq!(attester.init_data().unwrap(), LaunchRegister::Pcr8([0; 32]));
    assert_eq!(attester.bind_initdata(None).unwrap(), Bound::NoDocument);
    for _ in 0..3 {
        let bound = attester.bind_initdata(Some(&ours)).unwrap();
        assert!(
            matches!(bound, Bound::Matches { register: "PCR 8" }),
            "{bound}"
        );
    }
    let refused = attester.bind_initdata(Some(&other)).unwrap_err();
    assert!(
        matches!(refused, BindingError::Mismatch { .. }),
        "{refused}"
    );
    // The register alone does not tell a document from a boot loader's measurements: the mark does.
    let withheld = attester.bind_initdata(None).unwrap_err();
    assert!(
        matches!(withheld, BindingError::Withheld { .. }),
        "{withheld}"
    );
    let evidence = machine.evidence();
    accepted(&evidence, ExpectedInitdata::Digest(ours.digest()));
    let seen = examined(
        &evidence,
        &TrustAnchors::none(),
        ExpectedInitdata::Digest(other.digest()),
    );
    assert_eq!(VerifyError::check(&seen.error.unwrap()), Check::InitData);
}

#[test]
fn event_is_measured_into_its_register_and_the_log_explains_it() {
    let Some(machine) = Machine::boot() else {
        return;
    };
    let attester = machine.attester();
    assert!(attester.has_runtime_registers());
    let zero = "00".repeat(32);
    for (asked, measured) in [(14, 14), (8, 23), (17, 23)] {
        let before = machine.pcr(measured);
        let event = Event::new("test", "start", &asked.to_string()).unwrap();
        attester.extend(&event, asked).unwrap();
        let digest = event.digest(strongroom_wire::canonical::HashAlgorithm::Sha256);
        let both = [hex::decode(before).unwrap(), digest].concat();
        let after = strongroom_wire::canonical::HashAlgorithm::Sha256.digest(&both);
        assert_eq!(machine.pcr(measured), hex::encode(after));
    }
    assert_eq!(machine.pcr(8), zero);
    let log = std::fs::read(machine.devices().event_log.join("eventlog")).unwrap();
    let registers: Vec<u8> = log
        .windows(5)
        .filter(|entry| entry[1..] == [0, 0, 0, 6])
        .map(|entry| entry[0])
        .collect();
    assert_eq!(registers, [14, 23, 23]);
}

#[test]
fn tpm_that_cannot_be_used_is_told_and_never_becomes_sample() {
    let folder = tempfile::tempdir().unwrap();
    let mut devices = Devices::under(folder.path());
    let plain = folder.path().join("tpmrm0");
    std::fs::write(&plain, "").unwrap();
    devices.tpm = vec![folder.path().join("missing"), plain];
    let none = Attester::detect(&devices).unwrap_err();
    let probe = none
        .probes
        .iter()
        .find(|probe| probe.tee == Tee::Tpm)
        .unwrap();
    assert!(
        matches!(&probe.outcome, Outcome::Unusable { reason, .. } if reason.contains("neither a device nor a socket")),
        "{probe:?}"
    );
    let Some(mut machine) = Machine::boot() else {
        return;
    };
    let attester = machine.attester();
    machine.tpm.stop();
    let refused = attester.evidence(&REPORT_DATA).unwrap_err();
    assert!(matches!(refused, AttestError::Device { .. }), "{refused}");
}
