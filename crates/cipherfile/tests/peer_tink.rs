//! Our Tink streams against the `PyPI` package `tink`, in both directions.
//!
//! The interpreter is the one that `STRONGROOM_PEERS_PYTHON` names, or `.peers/venv/bin/python3` in
//! the workspace. Without one that can `import tink` a test prints SKIPPED, and fails when
//! `STRONGROOM_REQUIRE_PEERS` is 1.

#![allow(clippy::unwrap_used)]

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use strongroom_cipherfile::FileKey;
use strongroom_cipherfile::tink_stream::{Decryptor, Encryptor, SEGMENT_SIZE};

const NAME: &[u8] = b"s3://bucket/\xc3\xa9t\xc3\xa9.csv";

/// Plaintext lengths around the ends of the first segments of this size.
fn lengths(segment: usize) -> Vec<usize> {
    let (first, other) = (segment - 56, segment - 16);
    let ends = [0, first, first + other, first + 2 * other];
    let mut lengths: Vec<usize> = ends
        .iter()
        .flat_map(|end| end.saturating_sub(1)..=end + 1)
        .collect();
    lengths.dedup();
    lengths
}

fn plaintext(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 253) as u8).collect()
}

#[test]
fn tink_reads_what_we_write() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let key = FileKey::generate().unwrap();
    let mut jobs = Vec::new();
    for segment in [57, 64, 4096, SEGMENT_SIZE] {
        for length in lengths(segment) {
            let [plain, sealed, back] = names(folder.path(), segment, length);
            fs::write(&plain, plaintext(length)).unwrap();
            fs::write(&sealed, seal(&key, NAME, segment, &plaintext(length))).unwrap();
            jobs.push(job("decrypt", &key, segment, NAME, &sealed, &back));
        }
    }
    let (count, answer) = (jobs.len(), run(&python, jobs));
    assert_eq!(answer["results"], json!(vec!["ok"; count]));
    assert_eq!(
        answer["template_segment"], SEGMENT_SIZE,
        "the ready template AES256_GCM_HKDF_1MB fits"
    );
    for segment in [57, 64, 4096, SEGMENT_SIZE] {
        for length in lengths(segment) {
            let [plain, _sealed, back] = names(folder.path(), segment, length);
            assert!(
                fs::read(plain).unwrap() == fs::read(back).unwrap(),
                "{segment} {length}"
            );
        }
    }
}

#[test]
fn we_read_what_tink_writes() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let key = FileKey::generate().unwrap();
    let mut jobs = Vec::new();
    for segment in [57, 64, 4096, SEGMENT_SIZE] {
        for length in lengths(segment) {
            let [plain, sealed, _back] = names(folder.path(), segment, length);
            fs::write(&plain, plaintext(length)).unwrap();
            jobs.push(job("encrypt", &key, segment, NAME, &plain, &sealed));
        }
    }
    let (count, answer) = (jobs.len(), run(&python, jobs));
    assert_eq!(answer["results"], json!(vec!["ok"; count]));
    for segment in [57, 64, 4096, SEGMENT_SIZE] {
        for length in lengths(segment) {
            let [_plain, sealed, _back] = names(folder.path(), segment, length);
            let file = fs::File::open(sealed).unwrap();
            let mut back = Vec::new();
            Decryptor::with_segment_size(file, &key, NAME, segment)
                .unwrap()
                .read_to_end(&mut back)
                .unwrap();
            assert!(back == plaintext(length), "{segment} {length}");
        }
    }
}

#[test]
fn tink_refuses_what_we_refuse() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (key, other) = (FileKey::generate().unwrap(), FileKey::generate().unwrap());
    // The last segment is short. After a full one Tink 1.16 takes added bytes; we never do.
    let whole = seal(&key, NAME, 64, &plaintext(203));
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    let mut longer = whole.clone();
    longer.push(0);
    let mut swapped = whole.clone();
    swapped[64..192].rotate_left(64);
    let faults = [
        ("other-key", &whole[..], &other, NAME),
        ("other-name", &whole, &key, &b"another"[..]),
        ("cut-between-segments", &whole[..128], &key, NAME),
        ("cut-inside-a-segment", &whole[..150], &key, NAME),
        ("flipped", &flipped, &key, NAME),
        ("longer", &longer, &key, NAME),
        ("swapped", &swapped, &key, NAME),
    ];
    let mut jobs = Vec::new();
    for (fault, file, key, name) in faults {
        let path = folder.path().join(fault);
        fs::write(&path, file).unwrap();
        jobs.push(job(
            "decrypt",
            key,
            64,
            name,
            &path,
            &path.with_extension("back"),
        ));
        let mut reader = Decryptor::with_segment_size(file, key, name, 64).unwrap();
        assert!(
            reader.read_to_end(&mut Vec::new()).is_err(),
            "we took {fault}"
        );
    }
    let answer = run(&python, jobs);
    for ((fault, ..), result) in faults.iter().zip(answer["results"].as_array().unwrap()) {
        assert_ne!(result, "ok", "tink took {fault}");
    }
}

fn seal(key: &FileKey, name: &[u8], segment: usize, plaintext: &[u8]) -> Vec<u8> {
    let mut writer = Encryptor::with_segment_size(Vec::new(), key, name, segment).unwrap();
    writer.write_all(plaintext).unwrap();
    writer.finish().unwrap()
}

fn names(folder: &Path, segment: usize, length: usize) -> [PathBuf; 3] {
    ["plain", "sealed", "back"].map(|kind| folder.join(format!("{segment}-{length}.{kind}")))
}

fn job(verb: &str, key: &FileKey, segment: usize, name: &[u8], from: &Path, to: &Path) -> Value {
    json!({
        "do": verb,
        "key": hex(key.expose_bytes()),
        "segment": segment,
        "name": hex(name),
        "from": from,
        "to": to,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn run(python: &Path, jobs: Vec<Value>) -> Value {
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer_tink.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(Value::Array(jobs).to_string().as_bytes())
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "peer_tink.py failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An interpreter that has `tink`, or nothing after saying so.
fn python() -> Option<PathBuf> {
    let python = env::var_os("STRONGROOM_PEERS_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.peers/venv/bin/python3"),
        PathBuf::from,
    );
    let imported = Command::new(&python)
        .args(["-c", "from tink import streaming_aead"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if imported {
        return Some(python);
    }
    let required = env::var("STRONGROOM_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    assert!(
        !required,
        "no Python interpreter that can import tink at {}",
        python.display()
    );
    println!(
        "SKIPPED: no Python interpreter that can import tink at {}",
        python.display()
    );
    None
}
