//! Our reading and writing of `openssl enc` files against the real program, in both directions.
//!
//! Without an `openssl` program a test prints SKIPPED, and fails when `STRONGROOM_REQUIRE_PEERS` is
//! 1.

#![allow(clippy::unwrap_used)]

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output};

use strongroom_cipherfile::CipherfileError;
use strongroom_cipherfile::openssl_enc::{
    Cipher, Passphrase, UnauthenticatedDecryptor, UnauthenticatedEncryptor,
};

const CIPHERS: [Cipher; 2] = [Cipher::Aes256Cbc, Cipher::Aes256Cfb];

/// Key files that the program takes, each with a quirk.
fn key_files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("raw 32 bytes", (100..132).collect()),
        ("text", b"correct horse".to_vec()),
        ("text line", b"correct horse\n".to_vec()),
        ("text line of DOS", b"correct horse\r\n".to_vec()),
        ("several line ends", b"correct horse\r\r\n\r\n".to_vec()),
        ("newline inside", b"corre\nct horse".to_vec()),
        ("carriage return inside", b"corre\rct horse".to_vec()),
        ("carriage return first", b"\rcorrect".to_vec()),
        ("NUL inside", b"corre\0ct horse".to_vec()),
        ("line end, then NUL", b"correct\r\0horse".to_vec()),
        ("NUL, then newline", b"corre\0ct\nhorse".to_vec()),
        ("newline, then NUL", b"corre\n\0".to_vec()),
        ("high bytes", vec![0xff; 40]),
        ("two bytes", b"AB".to_vec()),
        ("127 bytes", vec![b'x'; 127]),
        ("128 bytes", vec![b'x'; 128]),
        ("newline as byte 127", [&[b'x'; 126][..], b"\nyy"].concat()),
        (
            "line end across the limit",
            [&[b'x'; 126][..], b"\r\nyy"].concat(),
        ),
        ("newline as byte 128", [&[b'x'; 127][..], b"\nyy"].concat()),
        ("newline as byte 129", [&[b'x'; 128][..], b"\nyy"].concat()),
    ]
}

/// Key files that the program refuses, and what it says.
fn refused_key_files() -> Vec<(&'static [u8], &'static str)> {
    vec![
        (b"", "Can't read key from"),
        (b"\0abc", "Can't read key from"),
        (b"\nabc", "zero length password"),
        (b"\r\nabc", "zero length password"),
        (b"\r\r", "zero length password"),
        (b"A", "zero length password"),
        (b"A\n", "zero length password"),
        (b"A\r\n", "zero length password"),
        (b"A\0bc", "zero length password"),
    ]
}

fn plaintext(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 253) as u8).collect()
}

fn lengths(index: usize) -> &'static [usize] {
    // Key derivation is slow by design: all lengths once, the odd key files with one length.
    if index == 0 {
        &[0, 1, 15, 16, 17, 65_535, 65_536, 65_537, 300_000]
    } else {
        &[1000]
    }
}

#[test]
fn we_read_what_openssl_writes() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [key, plain, file] = ["key", "plain", "file"].map(|name| folder.path().join(name));
    for (index, (quirk, key_file)) in key_files().into_iter().enumerate() {
        fs::write(&key, &key_file).unwrap();
        let (passphrase, _warnings) = Passphrase::from_key_file(&key_file).unwrap();
        for &length in lengths(index) {
            fs::write(&plain, plaintext(length)).unwrap();
            for cipher in CIPHERS {
                let output = openssl(cipher, &["-e"], &key, &plain, &file);
                assert!(output.status.success(), "{quirk}: {output:?}");
                let mut back = Vec::new();
                let file = fs::File::open(&file).unwrap();
                UnauthenticatedDecryptor::new(file, &passphrase, cipher)
                    .unwrap()
                    .read_to_end(&mut back)
                    .unwrap();
                assert!(back == plaintext(length), "{quirk} {cipher} {length}");
            }
        }
    }
}

#[test]
fn openssl_reads_what_we_write() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [key, file, back] = ["key", "file", "back"].map(|name| folder.path().join(name));
    for (index, (quirk, key_file)) in key_files().into_iter().enumerate() {
        fs::write(&key, &key_file).unwrap();
        let (passphrase, _warnings) = Passphrase::from_key_file(&key_file).unwrap();
        for &length in lengths(index) {
            for cipher in CIPHERS {
                let target = fs::File::create(&file).unwrap();
                let mut writer =
                    UnauthenticatedEncryptor::new(target, &passphrase, cipher).unwrap();
                writer.write_all(&plaintext(length)).unwrap();
                writer.finish().unwrap();
                let output = openssl(cipher, &["-d"], &key, &file, &back);
                assert!(output.status.success(), "{quirk}: {output:?}");
                assert!(
                    fs::read(&back).unwrap() == plaintext(length),
                    "{quirk} {cipher} {length}"
                );
            }
        }
    }
}

#[test]
fn we_refuse_the_key_files_that_openssl_refuses() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [key, plain, file] = ["key", "plain", "file"].map(|name| folder.path().join(name));
    fs::write(&plain, b"text").unwrap();
    for (key_file, message) in refused_key_files() {
        fs::write(&key, key_file).unwrap();
        let output = openssl(Cipher::Aes256Cfb, &["-e"], &key, &plain, &file);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(message),
            "{key_file:?}: {said}"
        );
        match Passphrase::from_key_file(key_file).err().unwrap() {
            CipherfileError::KeyFileUnreadable => assert_eq!(message, "Can't read key from"),
            CipherfileError::KeyFileZeroLength => assert_eq!(message, "zero length password"),
            other => panic!("{key_file:?}: {other}"),
        }
    }
}

#[test]
fn cut_cbc_file_fails_in_both() {
    if missing() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [key, file, back] = ["key", "file", "back"].map(|name| folder.path().join(name));
    fs::write(&key, b"correct horse").unwrap();
    let (passphrase, _warnings) = Passphrase::from_key_file(b"correct horse").unwrap();
    let mut writer =
        UnauthenticatedEncryptor::new(Vec::new(), &passphrase, Cipher::Aes256Cbc).unwrap();
    writer.write_all(&plaintext(100)).unwrap();
    let whole = writer.finish().unwrap();
    for kept in [16, 17, whole.len() - 1] {
        fs::write(&file, &whole[..kept]).unwrap();
        assert!(
            !openssl(Cipher::Aes256Cbc, &["-d"], &key, &file, &back)
                .status
                .success()
        );
        let mut reader =
            UnauthenticatedDecryptor::new(&whole[..kept], &passphrase, Cipher::Aes256Cbc).unwrap();
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
    }
}

fn openssl(cipher: Cipher, direction: &[&str], key: &Path, from: &Path, to: &Path) -> Output {
    Command::new("openssl")
        .arg("enc")
        .arg(format!("-{cipher}"))
        .args(direction)
        .arg("-pbkdf2")
        .arg("-kfile")
        .arg(key)
        .arg("-in")
        .arg(from)
        .arg("-out")
        .arg(to)
        .output()
        .unwrap()
}

/// Whether there is no `openssl` program, after saying so.
fn missing() -> bool {
    let found = Command::new("openssl").arg("version").output();
    if found.is_ok_and(|output| output.status.success()) {
        return false;
    }
    let required = env::var("STRONGROOM_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    assert!(!required, "no openssl program");
    println!("SKIPPED: no openssl program");
    true
}
