//! A TPM of others (`swtpm`) and its tools (`tpm2-tools`) make the quotes that are verified here: before and after one
//! more extend.
//!
//! Without the programs a test prints SKIPPED, and fails when `STRONGROOM_REQUIRE_PEERS` is 1.

#![allow(clippy::unwrap_used)]

mod support_tpm;

use std::env;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use strongroom_verifier::{
    Assurance, AttestationKey, Check, Collateral, CredentialChallenge, EndorsementKey, Examination,
    Expected, ExpectedInitdata, TrustAnchors,
};
use strongroom_wire::tee::Tee;
use support_tpm::*;

const PROGRAMS: [&str; 8] = [
    "swtpm",
    "tpm2_startup",
    "tpm2_createek",
    "tpm2_createak",
    "tpm2_pcrextend",
    "tpm2_pcrread",
    "tpm2_quote",
    "tpm2_activatecredential",
];

/// A running TPM with a state of its own. It ends with the value.
struct Tpm {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
}

impl Tpm {
    /// `None` when a program is missing.
    fn start() -> Option<Self> {
        if let Some(missing) = PROGRAMS.into_iter().find(|program| !is_installed(program)) {
            assert!(
                env::var_os("STRONGROOM_REQUIRE_PEERS").is_none_or(|value| value != "1"),
                "no program `{missing}` here, and STRONGROOM_REQUIRE_PEERS=1"
            );
            println!("SKIPPED: no program `{missing}` here (Debian packages swtpm and tpm2-tools)");
            return None;
        }
        // Somebody else may take the ports between the search and the start: then again.
        (0..10)
            .find_map(|_| Self::start_once())
            .or_else(|| panic!("swtpm does not start"))
    }

    fn start_once() -> Option<Self> {
        let port = two_free_ports()?;
        let folder = tempfile::tempdir().unwrap();
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", folder.path().display())])
            .args([
                "--server",
                &format!("type=tcp,bindaddr=127.0.0.1,port={port}"),
            ])
            .args([
                "--ctrl",
                &format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut tpm = Self {
            process,
            folder,
            port,
        };
        tpm.answers().then_some(tpm)
    }

    /// Waits until the control channel takes connections. (The command channel takes one at a time: a probe there
    /// would be in the way.)
    fn answers(&mut self) -> bool {
        for _ in 0..10_000 {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port + 1)).is_ok() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let tpm = format!("swtpm:host=127.0.0.1,port={}", self.port);
        command
            .current_dir(self.folder.path())
            .env("TPM2TOOLS_TCTI", tpm);
        command
    }

    fn tool(&self, program: &str, arguments: &[&str]) {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Makes an attestation key: of RSA, or on a curve.
    fn make_ak(&self, algorithm: &str, scheme: &str, hash: &str) {
        self.tool(
            "tpm2_createek",
            &["-G", "rsa", "-c", "ek.ctx", "-u", "ek.der", "-f", "der"],
        );
        self.flush();
        self.tool(
            "tpm2_createak",
            &[
                "-C", "ek.ctx", "-G", algorithm, "-g", hash, "-s", scheme, "-c", "ak.ctx", "-u",
                "ak.der", "-f", "der",
            ],
        );
        self.flush();
    }

    /// Without a resource manager whoever loads something makes room again.
    fn flush(&self) {
        self.tool("tpm2_flushcontext", &["-t"]);
        self.tool("tpm2_flushcontext", &["-l"]);
        self.tool("tpm2_flushcontext", &["-s"]);
    }

    fn extend(&self, pcr: u8, digest: &[u8]) {
        self.tool(
            "tpm2_pcrextend",
            &[&format!("{pcr}:sha256={}", hex::encode(digest))],
        );
    }

    fn quote(&self, selection: &str, hash: &str, extra_data: &[u8]) {
        self.tool(
            "tpm2_quote",
            &[
                "-c",
                "ak.ctx",
                "-l",
                selection,
                "-g",
                hash,
                "-q",
                &hex::encode(extra_data),
                "-m",
                "quote.msg",
                "-s",
                "quote.sig",
            ],
        );
        self.flush();
    }

    /// The values of all PCRs of a bank, one after the other.
    fn pcrs(&self, bank: &str, length: usize) -> Vec<String> {
        self.tool("tpm2_pcrread", &[&format!("{bank}:all"), "-o", "pcrs.bin"]);
        let bytes = fs::read(self.path("pcrs.bin")).unwrap();
        assert_eq!(bytes.len(), 24 * length);
        bytes.chunks(length).map(hex::encode).collect()
    }

    /// The evidence of the last quote beside these values.
    fn evidence(&self, pcrs: &[String]) -> Value {
        let base64 = |name: &str| STANDARD.encode(fs::read(self.path(name)).unwrap());
        json!({
            "ak_public": base64("ak.der"),
            "tpm_quote": {
                "signature": base64("quote.sig"),
                "message": base64("quote.msg"),
                "pcrs": pcrs,
            },
        })
    }

    /// Whether the TPM opens a challenge; what was in it is then in the file `secret`.
    fn activates(&self, challenge: &CredentialChallenge) -> bool {
        // The tools' own file: a magic number and a version before the two structures.
        let file = [
            &0xBADC_C0DE_u32.to_be_bytes()[..],
            &1_u32.to_be_bytes(),
            &challenge.credential_blob,
            &challenge.encrypted_secret,
        ]
        .concat();
        fs::write(self.path("challenge"), file).unwrap();
        self.tool(
            "tpm2_startauthsession",
            &["--policy-session", "-S", "session.ctx"],
        );
        self.tool("tpm2_policysecret", &["-S", "session.ctx", "-c", "e"]);
        let output = self
            .command("tpm2_activatecredential")
            .args([
                "-c",
                "ak.ctx",
                "-C",
                "ek.ctx",
                "-i",
                "challenge",
                "-o",
                "secret",
            ])
            .args(["-P", "session:session.ctx"])
            .output()
            .unwrap();
        self.flush();
        output.status.success()
    }

    fn examine(&self, json: &Value, expected: &Expected) -> Examination {
        let anchors = TrustAnchors::none()
            .with_attestation_key(&fs::read(self.path("ak.der")).unwrap())
            .unwrap();
        run(Tee::Tpm, json, &Collateral::none(), &anchors, expected, NOW)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

const REPORT_DATA: [u8; 48] = [0x5A; 48];

fn one_more_extend(algorithm: &str, scheme: &str, hash: &str) {
    let Some(tpm) = Tpm::start() else { return };
    tpm.make_ak(algorithm, scheme, hash);
    let digest = vec![0x11; 32];
    tpm.extend(8, &digest);
    tpm.extend(11, &[0x22; 32]);
    let before = tpm.pcrs("sha256", 32);
    tpm.quote("sha256:all", hash, &REPORT_DATA[..32]);
    let expected = Expected {
        report_data: Some(REPORT_DATA.to_vec()),
        initdata: ExpectedInitdata::Digest(digest),
    };
    let honest = tpm.evidence(&before);
    let examination = tpm.examine(&honest, &expected);
    accepted(&examination);
    assert_eq!(examination.assurance, Assurance::Hardware);
    let claims = &examination.claims[0].1;
    assert_eq!(claims["pcr11"], before[11]);
    assert_eq!(claims["tpm_quote"]["pcr_bank"], "sha256");
    // The words of the TPM's own maker, here libtpms.
    assert_eq!(
        claims["tpm_quote"]["firmware_version"]
            .as_str()
            .unwrap()
            .len(),
        16
    );

    // The values that the quote was made over, after the PCR has moved on.
    tpm.extend(11, &[0x33; 32]);
    tpm.quote("sha256:all", hash, &REPORT_DATA[..32]);
    refused(
        &tpm.examine(&tpm.evidence(&before), &expected),
        Check::TpmPcrDigest,
    );
    let after = tpm.pcrs("sha256", 32);
    assert_ne!(before[11], after[11]);
    accepted(&tpm.examine(&tpm.evidence(&after), &expected));

    // The old quote beside the new values.
    let mut stale = honest;
    stale["tpm_quote"]["pcrs"] = json!(after);
    refused(&tpm.examine(&stale, &expected), Check::TpmPcrDigest);

    // Another session's.
    refused(
        &tpm.examine(&tpm.evidence(&after), &report_data(&[0x5B; 48])),
        Check::ReportData,
    );

    // A second extend of the register of the init-data.
    tpm.extend(8, &[0x44; 32]);
    tpm.quote("sha256:all", hash, &REPORT_DATA[..32]);
    let later = tpm.pcrs("sha256", 32);
    refused(
        &tpm.examine(&tpm.evidence(&later), &expected),
        Check::InitData,
    );
}

#[test]
fn a_pcr_that_moved_on_since_an_rsa_quote() {
    one_more_extend("rsa", "rsassa", "sha256");
}

#[test]
fn a_pcr_that_moved_on_since_a_p256_quote() {
    one_more_extend("ecc256", "ecdsa", "sha256");
}

#[test]
fn a_pcr_that_moved_on_since_a_p384_quote() {
    one_more_extend("ecc384", "ecdsa", "sha384");
}

#[test]
fn selections_that_a_real_tpm_quotes() {
    let Some(tpm) = Tpm::start() else { return };
    tpm.make_ak("ecc256", "ecdsa", "sha256");
    // The firmware's and the system's, and the one for applications; the rest is for other localities.
    for pcr in (0..=16).chain([23]) {
        tpm.extend(pcr, &[pcr; 32]);
    }
    let pcrs = tpm.pcrs("sha256", 32);
    let expected = report_data(&REPORT_DATA);

    // PCR 23 in the place of PCR 11.
    tpm.quote(
        "sha256:0,1,2,3,4,5,6,7,8,9,10,23",
        "sha256",
        &REPORT_DATA[..32],
    );
    let mut sent = pcrs.clone();
    sent[11] = pcrs[23].clone();
    let examination = tpm.examine(&tpm.evidence(&sent), &expected);
    accepted(&examination);
    let claims = &examination.claims[0].1;
    assert!(!claims.contains_key("pcr11"));
    assert_eq!(claims["pcr23"], pcrs[23]);
    let packed: Vec<String> = (0..=10).chain([23]).map(|pcr| pcrs[pcr].clone()).collect();
    refused(
        &tpm.examine(&tpm.evidence(&packed), &expected),
        Check::TpmPcrValues,
    );

    // Another bank, and two.
    tpm.quote("sha1:all", "sha256", &REPORT_DATA[..32]);
    let sha1 = tpm.pcrs("sha1", 20);
    refused(
        &tpm.examine(&tpm.evidence(&sha1), &expected),
        Check::TpmPcrBank,
    );
    tpm.quote("sha1:0+sha256:11", "sha256", &REPORT_DATA[..32]);
    refused(
        &tpm.examine(&tpm.evidence(&pcrs), &expected),
        Check::TpmPcrBank,
    );
}

#[test]
fn an_attestation_key_is_enrolled_by_its_tpms_endorsement_key() {
    let Some(tpm) = Tpm::start() else { return };
    let secret = b"what only this TPM can read, 32.";
    for (algorithm, scheme, hash) in [
        ("rsa", "rsassa", "sha256"),
        ("ecc256", "ecdsa", "sha256"),
        ("ecc384", "ecdsa", "sha384"),
    ] {
        tpm.make_ak(algorithm, scheme, hash);
        let ek = EndorsementKey::dangerous_unverified(&fs::read(tpm.path("ek.der")).unwrap());
        let ek = ek.unwrap();
        tpm.tool(
            "tpm2_readpublic",
            &["-c", "ak.ctx", "-f", "tss", "-o", "ak.pub", "-n", "ak.name"],
        );
        tpm.flush();
        let public = fs::read(tpm.path("ak.pub")).unwrap();
        let ak = AttestationKey::parse(&public).unwrap();
        assert_eq!(ak.spki(), fs::read(tpm.path("ak.der")).unwrap());
        assert_eq!(ak.name(), fs::read(tpm.path("ak.name")).unwrap());
        let challenge = ek.challenge(&ak, secret, &[0x77; 32]).unwrap();
        assert!(tpm.activates(&challenge));
        assert_eq!(fs::read(tpm.path("secret")).unwrap(), secret);

        // For a key with one attribute more (userWithAuth, noDA), and so with another name.
        let mut other = public;
        other[2 + 2 + 2 + 2] ^= 0x04;
        let other = AttestationKey::parse(&other).unwrap();
        assert_ne!(other.name(), ak.name());
        assert!(!tpm.activates(&ek.challenge(&other, secret, &[0x77; 32]).unwrap()));
    }
    // The endorsement key is no attestation key.
    tpm.tool(
        "tpm2_readpublic",
        &["-c", "ek.ctx", "-f", "tss", "-o", "ek.pub"],
    );
    AttestationKey::parse(&fs::read(tpm.path("ek.pub")).unwrap()).unwrap_err();
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder: PathBuf| Path::new(&folder).join(program).is_file())
}

/// A free port whose successor is free too, where the tools look for the control channel.
fn two_free_ports() -> Option<u16> {
    (0..100).find_map(|_| {
        let first = TcpListener::bind("127.0.0.1:0").ok()?;
        let port = first.local_addr().ok()?.port();
        TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok()?;
        Some(port)
    })
}
