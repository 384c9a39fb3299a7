//! Evidence of an Azure confidential VM: a TPM of others (`swtpm`) behind a paravisor, which the test is, and a metadata
//! service beside it. The verifiers of hardware accept it.
//!
//! Without the programs a test prints SKIPPED, and fails when `STRONGROOM_REQUIRE_PEERS` is 1.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use strongroom_attester::development::{DevelopmentRoot, snp, tdx};
use strongroom_attester::{Attester, Bound, Devices, Event, LaunchRegister, Outcome};
use strongroom_testkit::swtpm::Swtpm;
use strongroom_tpm::{PublicKey, Tpm};
use strongroom_verifier::{
    Assurance, Collateral, CollateralItem, Evidence, Expected, ExpectedInitdata, TrustAnchors,
    examine,
};
use strongroom_wire::initdata::Initdata;
use strongroom_wire::tee::Tee;

const NOW: u64 = 1_800_000_000;
const REPORT_DATA: [u8; 48] = [0x5a; 48];

const HCL_REPORT: u32 = 0x0140_0001;
const USER_DATA: u32 = 0x0140_0002;

#[derive(Clone, Copy, Eq, PartialEq)]
enum Below {
    Snp,
    Tdx,
}

/// What stands between the guest and its TPM.
struct Paravisor {
    below: Below,
    root: DevelopmentRoot,
    /// The vTPM's attestation key, as it stands in the report.
    key: Value,
    /// The index for the guest's own bytes, once it is defined.
    user_data: Option<[u8; 64]>,
    /// Whether reports follow what the guest writes.
    is_stale: bool,
}

impl Paravisor {
    fn variable_data(&self) -> Vec<u8> {
        let user_data = self.user_data.filter(|_| !self.is_stale).unwrap_or([0; 64]);
        json!({
            "keys": [self.key],
            "vm-configuration": { "secure-boot": true, "tpm-enabled": true },
            "user-data": hex::encode_upper(user_data),
        })
        .to_string()
        .into_bytes()
    }

    fn bound(&self) -> [u8; 32] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.variable_data());
        digest.as_ref().try_into().unwrap()
    }

    fn hcl_report(&self) -> Vec<u8> {
        let mut report = b"HCLA".to_vec();
        report.resize(32, 0);
        let kind: u32 = match self.below {
            Below::Snp => {
                let forge = self.snp().with_report_data(&self.bound());
                report.extend(forge.report_bytes().unwrap());
                2
            }
            Below::Tdx => {
                report.extend(self.td_report());
                4
            }
        };
        report.resize(32 + 1184, 0);
        let variable_data = self.variable_data();
        let length = u32::try_from(variable_data.len()).unwrap();
        for word in [length + 20, 1, kind, 1, length] {
            report.extend(word.to_le_bytes());
        }
        report.extend(variable_data);
        report.resize(2600, 0);
        report
    }

    fn snp(&self) -> snp::Forge {
        let mut forge = snp::Forge::new(&self.root);
        forge.certificate.issuer = snp::CertificateIssuer::Root;
        forge
    }

    /// What the host is to quote: this test's host knows it by its bytes.
    fn td_report(&self) -> Vec<u8> {
        let mut report = vec![0x81; 992];
        report.extend(self.bound());
        report
    }

    fn td_quote(&self, report: &[u8]) -> Vec<u8> {
        assert_eq!(report, self.td_report());
        let mut forge = tdx::Forge::new(&self.root)
            .with_event_log(Vec::new())
            .with_report_data(&self.bound());
        forge.event_log = None;
        forge.quote_bytes().unwrap()
    }

    /// Answers what is the paravisor's; `None` for the TPM's own.
    fn answer(&mut self, command: &[u8]) -> Option<Vec<u8>> {
        let word = |at: usize| u32::from_be_bytes(command[at..at + 4].try_into().unwrap());
        let content = |paravisor: &Self, index| match index {
            HCL_REPORT => Some(paravisor.hcl_report()),
            USER_DATA => paravisor.user_data.map(Vec::from),
            _ => None,
        };
        match word(6) {
            NV_READ_PUBLIC => {
                let size = content(self, word(10))?.len();
                // OWNERWRITE, AUTHWRITE, OWNERREAD, AUTHREAD, WRITTEN.
                let mut public = word(10).to_be_bytes().to_vec();
                public.extend([0, 0x0b]);
                public.extend(0x2006_0006_u32.to_be_bytes());
                public.extend([0, 0]);
                public.extend(u16::try_from(size).unwrap().to_be_bytes());
                let mut body = sized(&public);
                body.extend(sized(&[0; 34]));
                Some(response(0x8001, &body))
            }
            NV_READ => {
                let content = content(self, word(14))?;
                let [.., a, b, c, d] = *command else {
                    return None;
                };
                let length = usize::from(u16::from_be_bytes([a, b]));
                let offset = usize::from(u16::from_be_bytes([c, d]));
                Some(in_session(&sized(&content[offset..offset + length])))
            }
            NV_WRITE if word(14) == USER_DATA => {
                let after = 22 + usize::try_from(word(18)).unwrap();
                self.user_data = Some(command[after + 2..after + 66].try_into().unwrap());
                Some(in_session(&[]))
            }
            NV_DEFINE_SPACE
                if command
                    .windows(4)
                    .any(|part| part == USER_DATA.to_be_bytes()) =>
            {
                self.user_data = Some([0; 64]);
                Some(in_session(&[]))
            }
            _ => None,
        }
    }
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

fn response(tag: u16, body: &[u8]) -> Vec<u8> {
    let mut out = tag.to_be_bytes().to_vec();
    out.extend(u32::try_from(10 + body.len()).unwrap().to_be_bytes());
    out.extend([0; 4]);
    out.extend(body);
    out
}

fn in_session(parameters: &[u8]) -> Vec<u8> {
    let mut body = u32::try_from(parameters.len())
        .unwrap()
        .to_be_bytes()
        .to_vec();
    body.extend(parameters);
    body.extend([0, 0, 1, 0, 0]);
    response(0x8002, &body)
}

const NV_READ_PUBLIC: u32 = 0x169;
const NV_READ: u32 = 0x14e;
const NV_WRITE: u32 = 0x137;
const NV_DEFINE_SPACE: u32 = 0x12a;

/// One command or answer.
fn message(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut message = vec![0; 10];
    stream.read_exact(&mut message).ok()?;
    let length = u32::from_be_bytes(message[2..6].try_into().unwrap());
    message.resize(usize::try_from(length).unwrap(), 0);
    stream.read_exact(&mut message[10..]).ok()?;
    Some(message)
}

/// An Azure VM.
struct Vm {
    paravisor: Arc<Mutex<Paravisor>>,
    folder: tempfile::TempDir,
    imds: String,
    _tpm: Swtpm,
}

impl Vm {
    fn boot(below: Below) -> Option<Self> {
        let tpm = Swtpm::start()?;
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
        let scheme = "rsa2048:rsassa-sha256:null";
        tpm.tool(
            "tpm2_createprimary",
            &[
                "-Q", "-C", "e", "-G", scheme, "-a", attributes, "-c", "ak.ctx",
            ],
        );
        tpm.tool(
            "tpm2_evictcontrol",
            &["-Q", "-C", "o", "-c", "ak.ctx", "0x81000003"],
        );
        tpm.tool("tpm2_flushcontext", &["-t"]);
        let key = Tpm::open(&tpm.address().parse().unwrap())
            .unwrap()
            .read_public(0x8100_0003)
            .unwrap();
        let PublicKey::Rsa { modulus, .. } = key.public().key() else {
            panic!("an RSA key was made");
        };
        let key = json!({
            "kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": "AQAB",
            "n": URL_SAFE_NO_PAD.encode(modulus),
        });
        let paravisor = Arc::new(Mutex::new(Paravisor {
            below,
            root: DevelopmentRoot::generate(NOW).unwrap(),
            key,
            user_data: None,
            is_stale: false,
        }));
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("tpm")).unwrap();
        let (address, shared) = (tpm.address(), Arc::clone(&paravisor));
        thread::spawn(move || {
            for guest in listener.incoming() {
                let (mut guest, mut tpm) = (guest.unwrap(), None);
                while let Some(command) = message(&mut guest) {
                    let own = shared.lock().unwrap().answer(&command);
                    let answer = own.unwrap_or_else(|| {
                        let tpm = tpm.get_or_insert_with(|| UnixStream::connect(&address).unwrap());
                        tpm.write_all(&command).unwrap();
                        message(tpm).unwrap()
                    });
                    guest.write_all(&answer).unwrap();
                }
            }
        });
        let imds = metadata_service(Arc::clone(&paravisor));
        Some(Self {
            paravisor,
            folder,
            imds,
            _tpm: tpm,
        })
    }

    fn devices(&self) -> Devices {
        let mut devices = Devices::under(self.folder.path());
        devices.tpm = vec![self.folder.path().join("tpm")];
        devices.imds.clone_from(&self.imds);
        devices
    }

    fn attester(&self) -> Attester {
        Attester::detect(&self.devices()).unwrap().attester
    }

    fn evidence(&self) -> Value {
        let json = self.attester().evidence(&REPORT_DATA).unwrap();
        serde_json::from_str(json.get()).unwrap()
    }

    #[track_caller]
    fn accepted(&self, evidence: &Value, initdata: ExpectedInitdata) {
        let tee = self.attester().tee();
        let evidence = Evidence::parse(tee, evidence.to_string().as_bytes()).unwrap();
        let root = &self.paravisor.lock().unwrap().root;
        let anchors = TrustAnchors::vendors()
            .with_development_root(&root.certificate_pem())
            .unwrap();
        let expected = Expected {
            report_data: Some(REPORT_DATA.to_vec()),
            initdata,
        };
        let seen = examine(
            evidence.clone(),
            &collateral(root, &evidence),
            &anchors,
            &expected,
            NOW,
        );
        assert_eq!(seen.error, None);
        assert_eq!(seen.assurance, Assurance::Development);
    }
}

fn collateral(root: &DevelopmentRoot, evidence: &Evidence) -> Collateral {
    let files: BTreeMap<_, _> = root.collateral().unwrap().into_iter().collect();
    let mut collateral = Collateral::none();
    for wanted in evidence.collateral_request().iter() {
        let Some(body) = files.get(&wanted.path()).cloned() else {
            continue;
        };
        let issuer_chain = wanted.chain_path().map_or_else(String::new, |path| {
            String::from_utf8(files[&path].clone()).unwrap()
        });
        collateral.insert(wanted.clone(), CollateralItem { body, issuer_chain });
    }
    collateral
}

/// The host's service, which answers with what the paravisor's hardware would have.
fn metadata_service(paravisor: Arc<Mutex<Paravisor>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            let head = String::from_utf8(request).unwrap().to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
            stream.read_exact(&mut body).unwrap();
            let paravisor = paravisor.lock().unwrap();
            let answer = if !head.contains("metadata: true") {
                None
            } else if head.starts_with("get /metadata/thim/amd/certification ") {
                let vcek = paravisor.snp().certificate_pem().unwrap();
                Some(json!({ "vcekCert": vcek, "tcbm": "", "certificateChain": "" }))
            } else if head.starts_with("post /acc/tdquote ") {
                let body: Value = serde_json::from_slice(&body).unwrap();
                let report = URL_SAFE_NO_PAD
                    .decode(body["report"].as_str().unwrap())
                    .unwrap();
                Some(json!({ "quote": URL_SAFE.encode(paravisor.td_quote(&report)) }))
            } else {
                None
            };
            let (status, body) = match answer {
                Some(answer) => ("200 OK", answer.to_string()),
                None => ("400 Bad Request", String::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    format!("http://{address}")
}

fn names(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
    names.sort();
    names
}

fn upstream(name: &str) -> Option<Value> {
    let path = format!("trustee/deps/verifier/test_data/{name}");
    let path = strongroom_testkit::fixtures::fixture(&path)?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

#[test]
fn evidence_on_snp_verifies_and_has_upstreams_shape() {
    let Some(vm) = Vm::boot(Below::Snp) else {
        return;
    };
    assert_eq!(vm.attester().tee(), Tee::AzSnpVtpm);
    let evidence = vm.evidence();
    vm.accepted(&evidence, ExpectedInitdata::Unknown);
    // Another session's bytes take the place of the first one's.
    vm.accepted(&vm.evidence(), ExpectedInitdata::Unknown);
    let Some(upstream) = upstream("az-snp-vtpm/evidence-v2.json") else {
        return;
    };
    assert_eq!(names(&evidence), names(&upstream));
    assert_eq!(names(&evidence["tpm_quote"]), names(&upstream["tpm_quote"]));
    for member in ["signature", "message"] {
        let length = |evidence: &Value| evidence["tpm_quote"][member].as_str().unwrap().len();
        let difference = length(&evidence).abs_diff(length(&upstream));
        // A name of a key has 34 bytes, whoever holds it; only the clock's and firmware's numbers are others.
        assert_eq!(difference, 0, "{member}");
    }
}

#[test]
fn evidence_on_tdx_brings_the_quote_of_the_metadata_service_and_verifies() {
    let Some(vm) = Vm::boot(Below::Tdx) else {
        return;
    };
    let found = Attester::detect(&vm.devices()).unwrap();
    assert_eq!(found.attester.tee(), Tee::AzTdxVtpm);
    let evidence = vm.evidence();
    assert_eq!(
        names(&evidence),
        ["hcl_report", "td_quote", "tpm_quote", "version"]
    );
    vm.accepted(&evidence, ExpectedInitdata::Unknown);
    // The TPM is passed over: the platform below it proves more.
    let tpm = found.probes.iter().find(|probe| probe.tee == Tee::Tpm);
    assert_eq!(tpm.unwrap().outcome, Outcome::PassedOver);
}

#[test]
fn init_data_is_measured_once_and_an_event_goes_beside_it() {
    let Some(vm) = Vm::boot(Below::Snp) else {
        return;
    };
    let text = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
    let initdata = Initdata::parse(text).unwrap();
    for _ in 0..2 {
        let bound = vm.attester().bind_initdata(Some(&initdata)).unwrap();
        assert!(matches!(bound, Bound::Matches { .. }), "{bound:?}");
    }
    assert!(matches!(
        vm.attester().init_data(),
        Ok(LaunchRegister::Pcr8(_))
    ));
    let event = Event::new("a", "b", "c").unwrap();
    vm.attester().extend(&event, 17).unwrap();
    let evidence = vm.evidence();
    vm.accepted(&evidence, ExpectedInitdata::Digest(initdata.digest()));
    assert_ne!(evidence["tpm_quote"]["pcrs"][23], "00".repeat(32));
    let other = Initdata::parse(&format!("{text}\n")).unwrap();
    assert!(vm.attester().bind_initdata(Some(&other)).is_err());
}

#[test]
fn report_that_does_not_follow_the_guest_is_refused() {
    let Some(vm) = Vm::boot(Below::Snp) else {
        return;
    };
    vm.paravisor.lock().unwrap().is_stale = true;
    let error = vm
        .attester()
        .evidence(&REPORT_DATA)
        .unwrap_err()
        .to_string();
    assert!(error.contains("does not hold the 64 bytes"), "{error}");
}

#[test]
fn metadata_service_that_is_away_or_refuses_is_named() {
    let Some(vm) = Vm::boot(Below::Snp) else {
        return;
    };
    let mut devices = vm.devices();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (imds, words) in [
        (format!("http://{free}"), "refused"),
        ("https://127.0.0.1".to_owned(), "must begin with http://"),
    ] {
        devices.imds = imds;
        let attester = Attester::detect(&devices).unwrap().attester;
        let error = attester.evidence(&REPORT_DATA).unwrap_err().to_string();
        assert!(
            error.contains("/metadata/THIM/amd/certification") && error.contains(words),
            "{error}"
        );
    }
}
