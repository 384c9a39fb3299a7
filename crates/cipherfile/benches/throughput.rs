//! How fast files are encrypted and decrypted, on one core, memory to memory.
//!
//! `cargo bench -p strongroom-cipherfile` prints GB/s for 64 MiB: the best and the median round.
//! The variants take turns, so that a busy machine hits all of them. Decides
//! `docs/decisions/0004-file-segments.md`.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Read, Write};
use std::time::Instant;

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use strongroom_cipherfile::FileKey;
use strongroom_cipherfile::openssl_enc::{
    Cipher, Passphrase, UnauthenticatedDecryptor, UnauthenticatedEncryptor,
};
use strongroom_cipherfile::tink_stream::{Decryptor, Encryptor};

const SIZE: usize = 64 << 20;
const ROUNDS: usize = 15;

type Fallible<T> = Result<T, Box<dyn Error>>;
type Case<'a> = (String, Box<dyn Fn() -> Fallible<()> + 'a>, Vec<f64>);

fn main() -> Fallible<()> {
    let key = FileKey::generate()?;
    let (passphrase, _warnings) = Passphrase::from_key_file(b"a passphrase")?;
    let plaintext: Vec<u8> = (0..SIZE).map(|i| (i * 7 % 251) as u8).collect();
    let mut cases: Vec<Case<'_>> = Vec::new();

    for size in [4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
        let sealed = seal(&key, size, &plaintext)?;
        let kib = size >> 10;
        case(&mut cases, format!("tink {kib:5} KiB seal"), {
            let (key, plaintext) = (&key, &plaintext);
            move || {
                let mut writer = Encryptor::with_segment_size(Discard, key, b"name", size)?;
                writer.write_all(plaintext)?;
                writer.finish()?;
                Ok(())
            }
        });
        case(&mut cases, format!("tink {kib:5} KiB open, BufRead"), {
            let (key, sealed) = (&key, sealed.clone());
            move || {
                touch(Decryptor::with_segment_size(
                    &sealed[..],
                    key,
                    b"name",
                    size,
                )?)
            }
        });
        case(&mut cases, format!("tink {kib:5} KiB open, Read 64 KiB"), {
            let key = &key;
            move || {
                copy(Decryptor::with_segment_size(
                    &sealed[..],
                    key,
                    b"name",
                    size,
                )?)
            }
        });
    }
    for cipher in [Cipher::Aes256Cbc, Cipher::Aes256Cfb] {
        let mut writer = UnauthenticatedEncryptor::new(Vec::new(), &passphrase, cipher)?;
        writer.write_all(&plaintext)?;
        let encrypted = writer.finish()?;
        let passphrase = &passphrase;
        case(&mut cases, format!("openssl {cipher} decrypt"), move || {
            touch(UnauthenticatedDecryptor::new(
                &encrypted[..],
                passphrase,
                cipher,
            )?)
        });
    }
    case(
        &mut cases,
        "the library's own CFB128, 64 KiB pieces".to_owned(),
        || {
            let mut piece = vec![0; 64 << 10];
            for _ in 0..SIZE / piece.len() {
                let key = DecryptingKey::cfb128(UnboundCipherKey::new(&AES_256, &[7; 32])?)?;
                let iv = DecryptionContext::Iv128(FixedLength::from([7; 16]));
                black_box(key.decrypt(&mut piece, iv)?);
            }
            Ok(())
        },
    );

    for _ in 0..ROUNDS {
        for (_name, run, rates) in &mut cases {
            let start = Instant::now();
            run()?;
            rates.push(SIZE as f64 / start.elapsed().as_secs_f64() / 1e9);
        }
    }
    println!("{:<42}{:>8}{:>8}  GB/s", "", "best", "median");
    for (name, _run, rates) in &mut cases {
        rates.sort_by(f64::total_cmp);
        println!(
            "{name:<42}{:>8.2}{:>8.2}",
            rates[ROUNDS - 1],
            rates[ROUNDS / 2]
        );
    }
    Ok(())
}

fn case<'a>(cases: &mut Vec<Case<'a>>, name: String, run: impl Fn() -> Fallible<()> + 'a) {
    cases.push((name, Box::new(run), Vec::new()));
}

fn seal(key: &FileKey, size: usize, plaintext: &[u8]) -> Fallible<Vec<u8>> {
    let mut writer = Encryptor::with_segment_size(Vec::new(), key, b"name", size)?;
    writer.write_all(plaintext)?;
    Ok(writer.finish()?)
}

/// Takes the plaintext where it lies, as a parser would.
fn touch(mut reader: impl BufRead) -> Fallible<()> {
    loop {
        let length = black_box(reader.fill_buf()?).len();
        if length == 0 {
            return Ok(());
        }
        reader.consume(length);
    }
}

/// Copies the plaintext out.
fn copy(mut reader: impl Read) -> Fallible<()> {
    let mut piece = vec![0; 64 << 10];
    while black_box(reader.read(&mut piece)?) > 0 {}
    Ok(())
}

struct Discard;

impl Write for Discard {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        Ok(black_box(data).len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
