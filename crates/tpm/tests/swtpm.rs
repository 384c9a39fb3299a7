//! Commands to a TPM of others (`swtpm`), beside the tools of others (`tpm2-tools`).
//!
//! Without the programs a test prints SKIPPED, and fails when `STRONGROOM_REQUIRE_PEERS` is 1.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use strongroom_testkit::swtpm::Swtpm;
use strongroom_tpm::{
    HashAlgorithm, KeyAlgorithm, PcrSet, Sealed, SealedError, Tpm, TpmAddress, TpmError,
};
use strongroom_verifier::{AttestationKey, EndorsementKey};

fn open(swtpm: &Swtpm) -> Tpm {
    Tpm::open(&swtpm.address().parse().unwrap()).unwrap()
}

/// Nothing loaded, no session open.
fn left_nothing_behind(tpm: &mut Tpm) {
    // Transient objects, sessions in the TPM, sessions outside of it.
    for first in [0x8000_0000, 0x0200_0000, 0x0300_0000] {
        assert_eq!(tpm.handles(first).unwrap(), [0; 0], "{first:#x}");
    }
}

const PCR_7: [u8; 1] = [7];
const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";

fn pcr_7() -> PcrSet {
    PcrSet::of(PCR_7).unwrap()
}

#[test]
fn emulator_on_a_port_answers() {
    let Some(swtpm) = Swtpm::start_on_tcp() else {
        return;
    };
    let mut tpm = open(&swtpm);
    tpm.start_up().unwrap();
    assert_ne!(tpm.random(32).unwrap(), tpm.random(32).unwrap());
    // TPM_PT_FAMILY_INDICATOR.
    assert_eq!(
        tpm.property(0x100).unwrap(),
        Some(u32::from_be_bytes(*b"2.0\0"))
    );
    assert!(tpm.has_bank(HashAlgorithm::Sha256).unwrap());
}

#[test]
fn registers_are_those_that_the_tools_read() {
    let Some(swtpm) = Swtpm::start() else { return };
    {
        let mut tpm = open(&swtpm);
        tpm.extend_pcr(HashAlgorithm::Sha256, 8, &[0x11; 32])
            .unwrap();
        tpm.extend_pcr(HashAlgorithm::Sha384, 8, &[0x22; 48])
            .unwrap();
        let refused = tpm.extend_pcr(HashAlgorithm::Sha256, 8, &[0x11; 48]);
        assert!(matches!(refused, Err(TpmError::Argument { .. })));
    }
    for (bank, name) in [
        (HashAlgorithm::Sha256, "sha256:all"),
        (HashAlgorithm::Sha384, "sha384:all"),
    ] {
        let ours: Vec<u8> = open(&swtpm)
            .read_pcrs(bank, PcrSet::ALL)
            .unwrap()
            .into_values()
            .flatten()
            .collect();
        swtpm.tool("tpm2_pcrread", &[name, "-o", "pcrs"]);
        assert_eq!(ours, fs::read(swtpm.path("pcrs")).unwrap(), "{name}");
    }
}

#[test]
fn sealed_secret_comes_back_until_a_register_changes() {
    let Some(mut swtpm) = Swtpm::start() else {
        return;
    };
    let policy = open(&swtpm).current_policy(pcr_7()).unwrap();
    let sealed = open(&swtpm).seal(SECRET, Some(policy.clone())).unwrap();
    assert!(
        !sealed
            .private
            .windows(8)
            .any(|part| SECRET.starts_with(part))
    );
    let mut tpm = open(&swtpm);
    assert_eq!(*tpm.unseal(&sealed).unwrap(), SECRET);
    // Another register is not asked for.
    tpm.extend_pcr(HashAlgorithm::Sha256, 8, &[1; 32]).unwrap();
    assert_eq!(*tpm.unseal(&sealed).unwrap(), SECRET);
    tpm.extend_pcr(HashAlgorithm::Sha256, 7, &[1; 32]).unwrap();
    let Err(SealedError::PcrsChanged(changed)) = tpm.unseal(&sealed) else {
        panic!("it came back")
    };
    let now = tpm.current_policy(pcr_7()).unwrap();
    assert_eq!((changed[0].pcr, changed.len()), (7, 1));
    assert_eq!(changed[0].sealed, policy.values()[&7]);
    assert_eq!(changed[0].now, now.values()[&7]);
    left_nothing_behind(&mut tpm);
    // The policy is the TPM's to enforce: another one in its place is of no use.
    let lied = Sealed {
        policy: Some(now),
        ..sealed.clone()
    };
    let Err(SealedError::Tpm(refused)) = tpm.unseal(&lied) else {
        panic!("it came back")
    };
    assert_eq!(
        refused.code().unwrap().name(),
        Some("TPM_RC_POLICY_FAIL"),
        "{refused}"
    );
    let none = Sealed {
        policy: None,
        ..sealed.clone()
    };
    assert!(tpm.unseal(&none).is_err());
    left_nothing_behind(&mut tpm);
    drop(tpm);
    swtpm.restart();
    assert_eq!(*open(&swtpm).unseal(&sealed).unwrap(), SECRET);
}

#[test]
fn secret_can_be_sealed_for_registers_as_they_will_be() {
    let Some(swtpm) = Swtpm::start() else { return };
    let mut tpm = open(&swtpm);
    let extended = {
        tpm.extend_pcr(HashAlgorithm::Sha256, 16, &[9; 32]).unwrap();
        tpm.current_policy(PcrSet::of([16]).unwrap()).unwrap()
    };
    drop(tpm);
    swtpm.tool("tpm2_pcrreset", &["16"]);
    let mut tpm = open(&swtpm);
    let sealed = tpm.seal(SECRET, Some(extended)).unwrap();
    assert!(matches!(
        tpm.unseal(&sealed),
        Err(SealedError::PcrsChanged(_))
    ));
    tpm.extend_pcr(HashAlgorithm::Sha256, 16, &[9; 32]).unwrap();
    assert_eq!(*tpm.unseal(&sealed).unwrap(), SECRET);
}

#[test]
fn secret_without_a_policy_comes_back_from_this_tpm_alone() {
    let (Some(swtpm), Some(other)) = (Swtpm::start(), Swtpm::start()) else {
        return;
    };
    let mut tpm = open(&swtpm);
    let sealed = tpm.seal(SECRET, None).unwrap();
    assert_eq!(*tpm.unseal(&sealed).unwrap(), SECRET);
    let mut elsewhere = open(&other);
    assert!(matches!(
        elsewhere.unseal(&sealed),
        Err(SealedError::AnotherRoot)
    ));
    left_nothing_behind(&mut elsewhere);
    let mut changed = sealed.clone();
    changed.private[40] ^= 1;
    let Err(SealedError::Tpm(refused)) = tpm.unseal(&changed) else {
        panic!("it came back")
    };
    assert_eq!(
        refused.code().unwrap().name(),
        Some("TPM_RC_INTEGRITY"),
        "{refused}"
    );
    left_nothing_behind(&mut tpm);
    assert!(matches!(
        tpm.seal(&[0; 129], None),
        Err(TpmError::Argument { .. })
    ));
    let longest = tpm.seal(&[7; 128], None).unwrap();
    assert_eq!(*tpm.unseal(&longest).unwrap(), [7; 128]);
}

#[test]
fn cleared_tpm_does_not_open_what_it_sealed() {
    let Some(swtpm) = Swtpm::start() else { return };
    let sealed = open(&swtpm).seal(SECRET, None).unwrap();
    swtpm.tool("tpm2_clear", &[]);
    assert!(matches!(
        open(&swtpm).unseal(&sealed),
        Err(SealedError::AnotherRoot)
    ));
}

#[test]
fn storage_root_key_is_the_one_that_the_tools_make() {
    let Some(swtpm) = Swtpm::start() else { return };
    let sealed = open(&swtpm).seal(SECRET, None).unwrap();
    let attributes =
        "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
    let make = [
        "-C",
        "o",
        "-g",
        "sha256",
        "-G",
        "ecc256:null:aes128cfb",
        "-a",
        attributes,
        "-c",
        "srk.ctx",
    ];
    swtpm.tool("tpm2_createprimary", &make);
    swtpm.tool(
        "tpm2_readpublic",
        &["-c", "srk.ctx", "-f", "tss", "-o", "srk.pub"],
    );
    swtpm.tool("tpm2_flushcontext", &["-t"]);
    let public = fs::read(swtpm.path("srk.pub")).unwrap();
    assert_eq!(public[2..], sealed.parent);
    // Where it is kept, the owner's password is not needed.
    swtpm.tool(
        "tpm2_evictcontrol",
        &["-C", "o", "-c", "srk.ctx", "0x81000001"],
    );
    swtpm.tool("tpm2_flushcontext", &["-t"]);
    swtpm.tool("tpm2_changeauth", &["-c", "owner", "a password"]);
    let mut tpm = open(&swtpm);
    assert_eq!(*tpm.unseal(&sealed).unwrap(), SECRET);
    let sealed = tpm.seal(SECRET, None).unwrap();
    assert_eq!(*tpm.unseal(&sealed).unwrap(), SECRET);
    left_nothing_behind(&mut tpm);
}

#[test]
fn owner_with_a_password_is_named_in_the_refusal() {
    let Some(swtpm) = Swtpm::start() else { return };
    swtpm.tool("tpm2_changeauth", &["-c", "owner", "a password"]);
    let refused = open(&swtpm).seal(SECRET, None).unwrap_err().to_string();
    assert!(
        refused.contains("TPM_RC_BAD_AUTH") && refused.contains("0x81000001"),
        "{refused}"
    );
}

#[test]
fn quote_is_one_that_the_tools_and_the_verifier_check() {
    let Some(swtpm) = Swtpm::start() else { return };
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Rsa2048] {
        let quote = {
            let mut tpm = open(&swtpm);
            let key = tpm.attestation_key(algorithm).unwrap();
            assert!(key.public().is_attestation_key());
            let spki = key.public().spki().unwrap();
            let theirs = AttestationKey::parse(&key.public().to_tpm2b()).unwrap();
            assert_eq!(
                (theirs.spki(), theirs.name()),
                (spki.as_slice(), key.public().name().as_slice())
            );
            let body = base64(&spki);
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
            fs::write(swtpm.path("ak.pem"), pem).unwrap();
            let quote = tpm
                .quote(&key, HashAlgorithm::Sha256, PcrSet::ALL, b"nonce")
                .unwrap();
            tpm.flush_object(&key).unwrap();
            left_nothing_behind(&mut tpm);
            quote
        };
        fs::write(swtpm.path("message"), &quote.message).unwrap();
        fs::write(swtpm.path("signature"), &quote.signature).unwrap();
        let nonce = hex::encode("nonce");
        let check = [
            "-u",
            "ak.pem",
            "-m",
            "message",
            "-s",
            "signature",
            "-g",
            "sha256",
            "-q",
            &nonce,
        ];
        swtpm.tool("tpm2_checkquote", &check);
    }
}

#[test]
fn attestation_key_is_enrolled_by_its_endorsement_key() {
    let (Some(swtpm), Some(other)) = (Swtpm::start(), Swtpm::start()) else {
        return;
    };
    let mut tpm = open(&swtpm);
    let endorsement = tpm.endorsement_key().unwrap();
    let key = tpm.attestation_key(KeyAlgorithm::P256).unwrap();
    let verifiers =
        EndorsementKey::dangerous_unverified(&endorsement.public().spki().unwrap()).unwrap();
    let ak = AttestationKey::parse(&key.public().to_tpm2b()).unwrap();
    let challenge = verifiers.challenge(&ak, SECRET, &[0x77; 32]).unwrap();
    let (blob, secret) = (&challenge.credential_blob, &challenge.encrypted_secret);
    let given_back = tpm
        .activate_credential(&key, &endorsement, blob, secret)
        .unwrap();
    assert_eq!(*given_back, SECRET);
    // For another TPM's key.
    let mut elsewhere = open(&other);
    let endorsement = elsewhere.endorsement_key().unwrap();
    let key = elsewhere.attestation_key(KeyAlgorithm::P256).unwrap();
    assert!(
        elsewhere
            .activate_credential(&key, &endorsement, blob, secret)
            .is_err()
    );
}

#[test]
fn index_longer_than_one_command_is_read_whole() {
    let Some(swtpm) = Swtpm::start() else { return };
    let index = 0x0140_0002;
    let mut tpm = open(&swtpm);
    let missing = tpm.read_nv(index).unwrap_err();
    assert!(missing.code().unwrap().is_missing(), "{missing}");
    // What libtpms has room for at most.
    let data: Vec<u8> = (0..2048_u32).map(|n| n.to_be_bytes()[3]).collect();
    tpm.define_nv(index, 2048).unwrap();
    assert_eq!(tpm.nv_public(index).unwrap().size, 2048);
    let empty = tpm.read_nv(index).unwrap_err();
    assert!(empty.to_string().contains("never written"), "{empty}");
    tpm.write_nv(index, &data).unwrap();
    assert_eq!(tpm.read_nv(index).unwrap(), data);
    assert!(matches!(
        tpm.write_nv(index, &[0; 2049]),
        Err(TpmError::Argument { .. })
    ));
    drop(tpm);
    swtpm.tool("tpm2_nvread", &["-C", "o", "0x01400002", "-o", "nv"]);
    assert_eq!(fs::read(swtpm.path("nv")).unwrap(), data);
    // The index itself has no password where the owner has one.
    swtpm.tool("tpm2_changeauth", &["-c", "owner", "a password"]);
    assert_eq!(open(&swtpm).read_nv(index).unwrap(), data);
}

/// A bus between this program and the TPM: it writes down what passes, and may change answers.
struct Bus {
    address: std::path::PathBuf,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Bus {
    fn before(swtpm: &Swtpm, change: impl Fn(u32, &mut Vec<u8>) + Send + 'static) -> Self {
        let address = swtpm.path("bus");
        drop(fs::remove_file(&address));
        let listener = UnixListener::bind(&address).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (writes, target) = (Arc::clone(&heard), swtpm.address());
        std::thread::spawn(move || {
            let (mut ours, _) = listener.accept().unwrap();
            let mut theirs = UnixStream::connect(target).unwrap();
            while let Some(command) = message(&mut ours) {
                theirs.write_all(&command).unwrap();
                let mut answer = message(&mut theirs).unwrap();
                writes
                    .lock()
                    .unwrap()
                    .extend([command.as_slice(), &answer].concat());
                let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
                change(code, &mut answer);
                if ours.write_all(&answer).is_err() {
                    return;
                }
            }
        });
        Self { address, heard }
    }

    fn open(&self) -> Tpm {
        Tpm::open(&TpmAddress::Path(self.address.clone())).unwrap()
    }

    fn heard(&self, secret: &[u8]) -> bool {
        let heard = self.heard.lock().unwrap();
        heard
            .windows(8)
            .any(|window| secret.windows(8).any(|part| part == window))
    }
}

fn message(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut header = [0; 10];
    stream.read_exact(&mut header).ok()?;
    let length = u32::from_be_bytes(header[2..6].try_into().unwrap());
    let mut rest = vec![0; usize::try_from(length).unwrap() - 10];
    stream.read_exact(&mut rest).ok()?;
    Some([header.as_slice(), &rest].concat())
}

#[test]
fn listener_on_the_bus_does_not_hear_the_secret() {
    let Some(swtpm) = Swtpm::start() else { return };
    let bus = Bus::before(&swtpm, |_, _| {});
    let mut tpm = bus.open();
    let policy = tpm.current_policy(pcr_7()).unwrap();
    let sealed = tpm.seal(SECRET, Some(policy)).unwrap();
    assert_eq!(*tpm.unseal(&sealed).unwrap(), SECRET);
    assert!(!bus.heard(SECRET));
    assert!(bus.heard(&sealed.private), "nothing was heard at all");
}

#[test]
fn answer_that_the_bus_changed_is_refused() {
    let Some(swtpm) = Swtpm::start() else { return };
    let sealed = open(&swtpm).seal(SECRET, None).unwrap();
    // One bit of the secret, encrypted as it is.
    let bus = Bus::before(&swtpm, |code, answer| {
        if code == 0x15E {
            answer[20] ^= 1;
        }
    });
    let refused = bus.open().unseal(&sealed).unwrap_err();
    assert!(
        matches!(
            refused,
            SealedError::Tpm(TpmError::Integrity {
                command: "TPM2_Unseal"
            })
        ),
        "{refused}"
    );
}

#[test]
fn key_that_answers_in_the_storage_root_keys_place_gets_no_session() {
    let (Some(swtpm), Some(attackers)) = (Swtpm::start(), Swtpm::start()) else {
        return;
    };
    let sealed = open(&swtpm).seal(SECRET, None).unwrap();
    // The attacker's own key, as its own TPM describes it.
    let theirs = open(&attackers).seal(SECRET, None).unwrap().parent;
    let honest = sealed.parent.clone();
    let bus = Bus::before(&swtpm, move |code, answer| {
        if code == 0x131 {
            let found = answer.windows(honest.len()).position(|part| part == honest);
            let place = found.unwrap();
            answer.splice(place..place + honest.len(), theirs.iter().copied());
        }
    });
    let refused = bus.open().unseal(&sealed).unwrap_err();
    assert!(matches!(refused, SealedError::AnotherRoot), "{refused}");
}

/// A character device in front of the TPM: the far end of a terminal that changes nothing.
fn device(swtpm: &Swtpm) -> std::path::PathBuf {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let mut modes = tcgetattr(&ours).unwrap();
    modes.make_raw();
    tcsetattr(&ours, OptionalActions::Now, &modes).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
    let mut theirs = UnixStream::connect(swtpm.address()).unwrap();
    std::thread::spawn(move || {
        let mut ours = fs::File::from(ours);
        while let Some(command) = message(&mut ours) {
            theirs.write_all(&command).unwrap();
            ours.write_all(&message(&mut theirs).unwrap()).unwrap();
        }
    });
    name.into()
}

#[test]
fn character_device_takes_a_command_in_one_write_and_answers_in_one_read() {
    let Some(swtpm) = Swtpm::start() else { return };
    let address = TpmAddress::Path(device(&swtpm));
    let mut tpm = Tpm::open(&address).unwrap();
    let policy = tpm.current_policy(pcr_7()).unwrap();
    let sealed = tpm.seal(SECRET, Some(policy)).unwrap();
    assert_eq!(*tpm.unseal(&sealed).unwrap(), SECRET);
    left_nothing_behind(&mut tpm);
}

#[test]
fn missing_device_is_named_with_what_to_do() {
    let missing = Tpm::open(&"/nowhere/tpmrm0".parse().unwrap()).unwrap_err();
    assert!(
        missing.to_string().contains("firmware's setup"),
        "{missing}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let plain = Tpm::open(&TpmAddress::Path(file.path().to_owned())).unwrap_err();
    assert!(
        plain.to_string().contains("neither a device nor a socket"),
        "{plain}"
    );
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
