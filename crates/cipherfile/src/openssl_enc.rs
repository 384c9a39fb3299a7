//! Files of `openssl enc -aes-256-cfb|-aes-256-cbc -pbkdf2 -kfile FILE`, which others made. **They
//! have no integrity.**
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `Salted__` |
//! | 8 | salt |
//! | rest | CFB128 without padding, or CBC with PKCS#7 padding |
//!
//! Key ‖ IV = PBKDF2-HMAC-SHA256(passphrase, salt, 10,000 iterations), 48 bytes. Nothing in the
//! file tells CFB from CBC or protects a byte of it: whoever holds the file can change it, and
//! decryption "succeeds". So the types say `Unauthenticated`, and every reader has a
//! [warning](UnauthenticatedDecryptor::warning) for its caller to show.
//!
//! `-kfile` reads a *passphrase*, not a key: see [`Passphrase::from_key_file`].

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::num::NonZeroU32;
use std::ops::Range;

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, EncryptionContext, StreamingDecryptingKey, StreamingEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{pbkdf2, rand};
use zeroize::Zeroizing;

use crate::CipherfileError;
use crate::stream::{State, read_full};

pub(crate) const MAGIC: [u8; 8] = *b"Salted__";

const SALT_LEN: usize = 8;
const KEY_LEN: usize = 32;
const BLOCK: usize = 16;
const ITERATIONS: NonZeroU32 = NonZeroU32::new(10_000).expect("10,000 is not 0");

/// `char buf[128]` of `openssl enc`, less its terminating NUL.
const KEY_FILE_MAX: usize = 127;

/// Ciphertext handled at a time: a multiple of the block that stays in a core's cache.
const CHUNK: usize = 64 * 1024;

/// The cipher that `openssl enc` was called with. Only its user knows: the file does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cipher {
    /// `-aes-256-cbc`: KServe's encrypted models.
    Aes256Cbc,
    /// `-aes-256-cfb`: the workshop's data sets.
    Aes256Cfb,
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes256Cbc => "aes-256-cbc",
            Self::Aes256Cfb => "aes-256-cfb",
        })
    }
}

/// What `openssl enc` takes from a key file. Overwritten with zeros when dropped, never printed.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes what `openssl enc -kfile` would take from a file with this content, and says what it
    /// would leave.
    ///
    /// As in `apps/enc.c`, in this order: at most 127 bytes, up to the first newline (`fgets`); up
    /// to the first NUL (`strlen`); without the carriage returns and newlines at its end; and not
    /// if fewer than two bytes remain. So a random binary key loses its tail more often than one
    /// would think (a fifth of all 32-byte keys), and 128-byte keys always do.
    ///
    /// # Errors
    /// [`CipherfileError::KeyFileUnreadable`] and [`CipherfileError::KeyFileZeroLength`] where
    /// `openssl` refuses the file.
    pub fn from_key_file(content: &[u8]) -> Result<(Self, Vec<KeyFileWarning>), CipherfileError> {
        let read = &content[..content.len().min(KEY_FILE_MAX)];
        let line = match read.iter().position(|byte| *byte == b'\n') {
            Some(newline) => &read[..=newline],
            None => read,
        };
        let string = match line.iter().position(|byte| *byte == 0) {
            Some(nul) => &line[..nul],
            None => line,
        };
        if string.is_empty() {
            return Err(CipherfileError::KeyFileUnreadable);
        }
        let stripped = string
            .iter()
            .rposition(|byte| !matches!(byte, b'\r' | b'\n'))
            .map_or(0, |last| last + 1);
        if stripped < 2 {
            return Err(CipherfileError::KeyFileZeroLength);
        }
        let cut = if string.len() < line.len() {
            Some(KeyFileCut::Nul)
        } else if line.len() < read.len() {
            Some(KeyFileCut::Newline)
        } else if read.len() < content.len() {
            Some(KeyFileCut::Length)
        } else {
            None
        };
        let warnings = cut
            .map(|cut| KeyFileWarning {
                cut,
                used: stripped,
                length: content.len(),
            })
            .into_iter()
            .collect();
        Ok((Self(Zeroizing::new(string[..stripped].to_vec())), warnings))
    }

    fn derive(&self, salt: &[u8; SALT_LEN]) -> KeyAndIv {
        let mut derived = KeyAndIv(Zeroizing::new([0; KEY_LEN + BLOCK]));
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            ITERATIONS,
            salt,
            &self.0,
            derived.0.as_mut_slice(),
        );
        derived
    }
}

/// A part of a key file that `openssl` leaves unused, so that the passphrase is weaker than its
/// owner thinks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyFileWarning {
    /// Why it stops reading.
    pub cut: KeyFileCut,
    /// Bytes that it uses.
    pub used: usize,
    /// Bytes that the file has.
    pub length: usize,
}

/// Why `openssl` stops reading a key file before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyFileCut {
    /// A newline with more after it.
    Newline,
    /// A NUL byte.
    Nul,
    /// More than 127 bytes.
    Length,
}

impl fmt::Display for KeyFileWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cut, used, length } = self;
        let why = match cut {
            KeyFileCut::Newline => "a newline",
            KeyFileCut::Nul => "a NUL byte",
            KeyFileCut::Length => "its limit of 127 bytes",
        };
        write!(
            f,
            "openssl reads only the first {used} of the key file's {length} bytes, up to {why}: \
             the file is protected by those alone"
        )
    }
}

/// That a file could have been changed by anyone, and nobody would know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnauthenticatedWarning {
    /// The cipher in use.
    pub cipher: Cipher,
}

impl fmt::Display for UnauthenticatedWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} files of `openssl enc` are not authenticated: whoever stored this one could have \
             changed it unnoticed, and a wrong key may give garbage instead of an error",
            self.cipher
        )
    }
}

/// Decrypts what it reads, **without any proof that it is what was encrypted**.
///
/// A wrong key, a wrong cipher or a changed file gives other bytes; at most CBC's last block
/// notices. After an error every later call fails.
pub struct UnauthenticatedDecryptor<R: Read> {
    inner: R,
    cipher: Cipher,
    body: Body,
    /// The ciphertext block before the chunk (at first the IV), then the chunk.
    ciphertext: Vec<u8>,
    /// A chunk, and the block that CBC held back from the one before.
    plaintext: Zeroizing<Vec<u8>>,
    /// The part of `plaintext` that is not handed on yet.
    ready: Range<usize>,
    body_len: u64,
    state: State,
}

impl<R: Read> UnauthenticatedDecryptor<R> {
    /// Reads the salt and derives the key, which takes some milliseconds by design.
    ///
    /// # Errors
    /// When `inner` fails, ends inside the header, or does not begin with `Salted__`.
    pub fn new(
        mut inner: R,
        passphrase: &Passphrase,
        cipher: Cipher,
    ) -> Result<Self, CipherfileError> {
        let salt = read_header(&mut inner)?;
        Self::with_key(inner, &passphrase.derive(&salt), cipher)
    }

    /// Without header and key derivation, which would be most of a fuzz target's time.
    pub(crate) fn with_key(
        inner: R,
        key: &KeyAndIv,
        cipher: Cipher,
    ) -> Result<Self, CipherfileError> {
        let mut ciphertext = vec![0; BLOCK + CHUNK];
        ciphertext[..BLOCK].copy_from_slice(&key.iv());
        Ok(Self {
            inner,
            cipher,
            body: Body::new(key, cipher).map_err(|Unspecified| library("start decrypting"))?,
            ciphertext,
            plaintext: Zeroizing::new(vec![0; CHUNK + BLOCK]),
            ready: 0..0,
            body_len: 0,
            state: State::Open,
        })
    }

    /// What the caller should tell its user.
    #[must_use]
    pub fn warning(&self) -> UnauthenticatedWarning {
        UnauthenticatedWarning {
            cipher: self.cipher,
        }
    }

    fn next_chunk(&mut self) -> Result<(), CipherfileError> {
        self.state = State::Failed;
        let found = read_full(&mut self.inner, &mut self.ciphertext[BLOCK..])?;
        let last = found < CHUNK;
        self.body_len += found as u64;
        if last && self.cipher == Cipher::Aes256Cbc && !is_padded_length(self.body_len) {
            return Err(CipherfileError::CbcLength {
                found: self.body_len,
            });
        }
        let chunk = &self.ciphertext[..BLOCK + found];
        let written = self.body.decrypt(chunk, last, &mut self.plaintext)?;
        self.ciphertext.copy_within(CHUNK.., 0);
        self.ready = 0..written;
        self.state = if last { State::Ended } else { State::Open };
        Ok(())
    }
}

impl<R: Read> BufRead for UnauthenticatedDecryptor<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.ready.is_empty() {
            match self.state {
                State::Open => self.next_chunk()?,
                State::Ended => break,
                State::Failed => return Err(CipherfileError::AlreadyFailed.into()),
            }
        }
        Ok(&self.plaintext[self.ready.clone()])
    }

    fn consume(&mut self, amount: usize) {
        self.ready.start = self.ready.end.min(self.ready.start.saturating_add(amount));
    }
}

impl<R: Read> Read for UnauthenticatedDecryptor<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

/// Encrypts what is written to it as `openssl enc` would, **without integrity**: for peers that
/// read nothing else.
///
/// The caller must call [`finish`](Self::finish). After an error every later call fails.
pub struct UnauthenticatedEncryptor<W: Write> {
    inner: W,
    key: StreamingEncryptingKey,
    ciphertext: Vec<u8>,
    state: State,
}

impl<W: Write> UnauthenticatedEncryptor<W> {
    /// Begins a file: draws the salt, derives the key, writes the header to `inner`.
    ///
    /// # Errors
    /// When the random generator or `inner` fails.
    pub fn new(inner: W, passphrase: &Passphrase, cipher: Cipher) -> Result<Self, CipherfileError> {
        let mut salt = [0; SALT_LEN];
        rand::fill(&mut salt).map_err(|_| CipherfileError::Random)?;
        Self::with_salt(inner, passphrase, cipher, salt)
    }

    fn with_salt(
        mut inner: W,
        passphrase: &Passphrase,
        cipher: Cipher,
        salt: [u8; SALT_LEN],
    ) -> Result<Self, CipherfileError> {
        let derived = passphrase.derive(&salt);
        let iv = EncryptionContext::Iv128(FixedLength::from(derived.iv()));
        let key = derived
            .key()
            .and_then(|key| match cipher {
                Cipher::Aes256Cbc => StreamingEncryptingKey::less_safe_cbc_pkcs7(key, iv),
                Cipher::Aes256Cfb => StreamingEncryptingKey::less_safe_cfb128(key, iv),
            })
            .map_err(|Unspecified| library("start encrypting"))?;
        inner.write_all(&MAGIC)?;
        inner.write_all(&salt)?;
        Ok(Self {
            inner,
            key,
            ciphertext: vec![0; CHUNK + BLOCK],
            state: State::Open,
        })
    }

    /// Writes what remains, flushes, and returns the writer underneath.
    ///
    /// # Errors
    /// When an earlier write failed, or the writer underneath fails now.
    pub fn finish(mut self) -> io::Result<W> {
        self.check_open()?;
        let (_context, rest) = self
            .key
            .finish(&mut self.ciphertext)
            .map_err(|Unspecified| library("encrypt the last block"))?;
        self.inner.write_all(rest.written())?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn check_open(&self) -> Result<(), CipherfileError> {
        match self.state {
            State::Open => Ok(()),
            State::Ended | State::Failed => Err(CipherfileError::AlreadyFailed),
        }
    }
}

impl<W: Write> Write for UnauthenticatedEncryptor<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.check_open()?;
        self.state = State::Failed;
        let count = data.len().min(CHUNK);
        let update = self
            .key
            .update(&data[..count], &mut self.ciphertext)
            .map_err(|Unspecified| library("encrypt"))?;
        self.inner.write_all(update.written())?;
        self.state = State::Open;
        Ok(count)
    }

    /// Flushes the writer underneath. A block that is not full stays here.
    fn flush(&mut self) -> io::Result<()> {
        self.check_open()?;
        self.inner.flush()
    }
}

/// What PBKDF2 gives: 32 bytes of key, then 16 of IV.
pub(crate) struct KeyAndIv(Zeroizing<[u8; KEY_LEN + BLOCK]>);

impl KeyAndIv {
    /// The same known value every time.
    pub(crate) fn for_fuzzing() -> Self {
        Self(Zeroizing::new([0x5a; KEY_LEN + BLOCK]))
    }

    fn key(&self) -> Result<UnboundCipherKey, Unspecified> {
        UnboundCipherKey::new(&AES_256, &self.0[..KEY_LEN])
    }

    fn iv(&self) -> [u8; BLOCK] {
        std::array::from_fn(|i| self.0[KEY_LEN + i])
    }
}

/// The decryption of everything after the salt.
enum Body {
    /// [`None`] once the padding was taken off.
    Cbc(Option<StreamingDecryptingKey>),
    /// CFB128 plaintext is ciphertext xor the block cipher's *encryption* of the ciphertext one
    /// block earlier. All of that is known beforehand, so it goes through ECB in bulk, several
    /// times faster than the library's CFB, which goes block by block (`benches/throughput.rs`).
    Cfb(StreamingEncryptingKey),
}

impl Body {
    fn new(derived: &KeyAndIv, cipher: Cipher) -> Result<Self, Unspecified> {
        let key = derived.key()?;
        Ok(match cipher {
            Cipher::Aes256Cbc => {
                let iv = DecryptionContext::Iv128(FixedLength::from(derived.iv()));
                Self::Cbc(Some(StreamingDecryptingKey::cbc_pkcs7(key, iv)?))
            }
            Cipher::Aes256Cfb => Self::Cfb(StreamingEncryptingKey::ecb_pkcs7(key)?),
        })
    }

    /// Decrypts a chunk, which stands behind the ciphertext block before it, and returns how much
    /// it wrote to `out`.
    fn decrypt(
        &mut self,
        previous_and_chunk: &[u8],
        last: bool,
        out: &mut [u8],
    ) -> Result<usize, CipherfileError> {
        let chunk = &previous_and_chunk[BLOCK..];
        match self {
            Self::Cbc(key) => {
                let mut decrypting = key.take().ok_or(CipherfileError::AlreadyFailed)?;
                let update = decrypting
                    .update(chunk, out)
                    .map_err(|Unspecified| library("decrypt"))?;
                let written = update.written().len();
                if last {
                    let rest = decrypting
                        .finish(&mut out[written..])
                        .map_err(|Unspecified| CipherfileError::CbcPadding)?;
                    return Ok(written + rest.written().len());
                }
                *key = Some(decrypting);
                Ok(written)
            }
            Self::Cfb(ecb) => {
                let blocks = chunk.len().next_multiple_of(BLOCK);
                ecb.update(&previous_and_chunk[..blocks], out)
                    .map_err(|Unspecified| library("decrypt"))?;
                for (byte, ciphertext) in out.iter_mut().zip(chunk) {
                    *byte ^= ciphertext;
                }
                Ok(chunk.len())
            }
        }
    }
}

fn read_header(inner: &mut impl Read) -> Result<[u8; SALT_LEN], CipherfileError> {
    let mut header = [0; MAGIC.len() + SALT_LEN];
    let found = read_full(inner, &mut header)?;
    let (magic, salt) = header.split_at(MAGIC.len());
    if !MAGIC.starts_with(&magic[..found.min(MAGIC.len())]) {
        return Err(CipherfileError::NotOpenssl);
    }
    if found < header.len() {
        return Err(CipherfileError::HeaderCut {
            found,
            wanted: header.len(),
        });
    }
    Ok(std::array::from_fn(|i| salt[i]))
}

/// PKCS#7 always adds something, so even an empty file has a block.
fn is_padded_length(length: u64) -> bool {
    length > 0 && length.is_multiple_of(BLOCK as u64)
}

fn library(operation: &'static str) -> CipherfileError {
    CipherfileError::Library { operation }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::stream::doubles::{Dribble, drain};

    const BOTH: [Cipher; 2] = [Cipher::Aes256Cbc, Cipher::Aes256Cfb];

    fn passphrase(key_file: &[u8]) -> Vec<u8> {
        Passphrase::from_key_file(key_file).unwrap().0.0.to_vec()
    }

    fn warnings(key_file: &[u8]) -> Vec<KeyFileWarning> {
        Passphrase::from_key_file(key_file).unwrap().1
    }

    fn refusal(key_file: &[u8]) -> CipherfileError {
        Passphrase::from_key_file(key_file).err().unwrap()
    }

    fn some_passphrase() -> Passphrase {
        Passphrase::from_key_file(b"correct horse").unwrap().0
    }

    fn plaintext(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i % 251) as u8).collect()
    }

    fn encrypted(plaintext: &[u8], cipher: Cipher) -> Vec<u8> {
        let mut writer =
            UnauthenticatedEncryptor::new(Vec::new(), &some_passphrase(), cipher).unwrap();
        writer.write_all(plaintext).unwrap();
        writer.finish().unwrap()
    }

    fn decrypted(file: &[u8], cipher: Cipher) -> Result<Vec<u8>, CipherfileError> {
        let mut reader = UnauthenticatedDecryptor::new(file, &some_passphrase(), cipher)?;
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn every_vector_of_the_real_program_decrypts() {
        let folder = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/fixtures/workload/openssl-vectors"
        ));
        let Ok(plain) = fs::read(folder.join("plain.csv")) else {
            assert!(
                !Path::new(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../../../shared/fixtures"
                ))
                .is_dir(),
                "what this test reads is missing from a folder of fixtures that is there"
            );
            println!("SKIPPED: the fixtures' folder workload/openssl-vectors is not here");
            return;
        };
        let mut count = 0;
        for (name, warned) in [
            ("clean32", None),
            ("newline_at_5", Some(KeyFileCut::Newline)),
            ("nul_at_7", Some(KeyFileCut::Nul)),
            ("long128", Some(KeyFileCut::Length)),
            ("text_trailing_nl", None),
        ] {
            let key_file = fs::read(folder.join(format!("{name}.key"))).unwrap();
            let (passphrase, warnings) = Passphrase::from_key_file(&key_file).unwrap();
            let cuts: Vec<_> = warnings.iter().map(|warning| warning.cut).collect();
            assert_eq!(cuts, Vec::from_iter(warned), "{name}");
            for cipher in BOTH {
                let file = fs::read(folder.join(format!("plain.csv.{name}.{cipher}.enc"))).unwrap();
                let mut reader =
                    UnauthenticatedDecryptor::new(&file[..], &passphrase, cipher).unwrap();
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                assert!(bytes == plain, "{name} {cipher}");
                count += 1;
            }
        }
        let encrypted_files = fs::read_dir(folder)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension() == Some("enc".as_ref()))
            .count();
        assert_eq!(count, encrypted_files, "a vector is left out");
    }

    #[test]
    fn raw_key_of_32_bytes_is_taken_whole() {
        assert_eq!(passphrase(&[7; 32]), [7; 32]);
        assert!(warnings(&[7; 32]).is_empty());
    }

    #[test]
    fn key_file_ends_at_its_first_newline() {
        assert_eq!(passphrase(b"abcde\nfghi"), b"abcde");
        let warning = &warnings(b"abcde\nfghi")[0];
        assert_eq!(
            (warning.cut, warning.used, warning.length),
            (KeyFileCut::Newline, 5, 10)
        );
        assert_eq!(
            warning.to_string(),
            "openssl reads only the first 5 of the key file's 10 bytes, up to a newline: \
             the file is protected by those alone"
        );
    }

    #[test]
    fn line_end_of_a_text_file_is_no_part_of_the_passphrase_and_no_warning() {
        for key_file in [&b"secret\n"[..], b"secret\r\n", b"secret\r\r\n", b"secret"] {
            assert_eq!(passphrase(key_file), b"secret");
            assert!(warnings(key_file).is_empty());
        }
    }

    #[test]
    fn carriage_return_inside_stays() {
        assert_eq!(passphrase(b"\rab\rc\n"), b"\rab\rc");
    }

    #[test]
    fn key_file_ends_at_its_first_nul() {
        assert_eq!(passphrase(b"abcdefg\0hij"), b"abcdefg");
        assert_eq!(warnings(b"abcdefg\0hij")[0].cut, KeyFileCut::Nul);
    }

    #[test]
    fn line_end_before_a_nul_is_stripped_too() {
        // strlen() comes before the stripping, so this carriage return is at the end.
        assert_eq!(passphrase(b"abc\r\0def"), b"abc");
    }

    #[test]
    fn nul_after_a_newline_is_never_read() {
        assert_eq!(passphrase(b"abc\n\0"), b"abc");
        assert_eq!(warnings(b"abc\n\0")[0].cut, KeyFileCut::Newline);
    }

    #[test]
    fn byte_128_is_never_read() {
        let mut key_file = [b'x'; 128];
        key_file[127] = b'y';
        assert_eq!(passphrase(&key_file), [b'x'; 127]);
        assert_eq!(warnings(&key_file)[0].cut, KeyFileCut::Length);
        assert_eq!(passphrase(&key_file[..127]), [b'x'; 127]);
        assert!(warnings(&key_file[..127]).is_empty());
    }

    #[test]
    fn line_end_across_the_limit_is_stripped_as_far_as_it_is_read() {
        let key_file = [&[b'x'; 126][..], b"\r\nyy"].concat();
        assert_eq!(passphrase(&key_file), [b'x'; 126]);
    }

    #[test]
    fn empty_key_file_and_leading_nul_are_unreadable() {
        assert!(matches!(refusal(b""), CipherfileError::KeyFileUnreadable));
        assert!(matches!(
            refusal(b"\0abc"),
            CipherfileError::KeyFileUnreadable
        ));
    }

    #[test]
    fn leading_newline_is_a_zero_length_password() {
        for key_file in [&b"\nabc"[..], b"\n", b"\r\nabc", b"\r\r\n"] {
            assert!(matches!(
                refusal(key_file),
                CipherfileError::KeyFileZeroLength
            ));
        }
    }

    #[test]
    fn passphrase_of_one_byte_is_refused_as_openssl_refuses_it() {
        for key_file in [&b"A"[..], b"A\n", b"A\r\n", b"A\0bc"] {
            assert!(matches!(
                refusal(key_file),
                CipherfileError::KeyFileZeroLength
            ));
        }
        assert_eq!(passphrase(b"AB"), b"AB");
    }

    #[test]
    fn every_length_around_blocks_and_chunks_comes_back() {
        let around_chunks = [CHUNK, 2 * CHUNK]
            .into_iter()
            .flat_map(|at| at - 17..=at + 17);
        let key = KeyAndIv::for_fuzzing();
        for length in (0..70).chain(around_chunks) {
            let text = plaintext(length);
            for cipher in BOTH {
                // One key derivation for all: take the header off and give the body its key.
                let body = body_under(&key, &text, cipher);
                let mut reader =
                    UnauthenticatedDecryptor::with_key(&body[..], &key, cipher).unwrap();
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                assert!(bytes == text, "{cipher} {length}");
            }
        }
    }

    fn body_under(key: &KeyAndIv, plaintext: &[u8], cipher: Cipher) -> Vec<u8> {
        let iv = EncryptionContext::Iv128(FixedLength::from(key.iv()));
        let mut encrypting = match cipher {
            Cipher::Aes256Cbc => {
                StreamingEncryptingKey::less_safe_cbc_pkcs7(key.key().unwrap(), iv)
            }
            Cipher::Aes256Cfb => StreamingEncryptingKey::less_safe_cfb128(key.key().unwrap(), iv),
        }
        .unwrap();
        let mut body = vec![0; plaintext.len() + 2 * BLOCK];
        let written = encrypting
            .update(plaintext, &mut body)
            .unwrap()
            .written()
            .len();
        let (_context, rest) = encrypting.finish(&mut body[written..]).unwrap();
        let length = written + rest.written().len();
        body.truncate(length);
        body
    }

    #[test]
    fn odd_pieces_and_interruptions_change_nothing() {
        let text = plaintext(CHUNK + 1000);
        for cipher in BOTH {
            let file = encrypted(&text, cipher);
            for sizes in [&[1, 15, 17][..], &[63, 64, 65], &[70_000, 1]] {
                let mut reader = UnauthenticatedDecryptor::new(
                    Dribble::new(&file, sizes),
                    &some_passphrase(),
                    cipher,
                )
                .unwrap();
                let (bytes, error) = drain(&mut reader, sizes);
                assert!(error.is_none(), "{error:?}");
                assert!(bytes == text, "{cipher}");
            }
        }
    }

    #[test]
    fn written_in_odd_pieces_it_is_the_same_file() {
        let text = plaintext(1000);
        for cipher in BOTH {
            let whole = encrypted_with_salt(&text, cipher, 1000);
            for size in [1, 15, 16, 17, 333] {
                assert_eq!(encrypted_with_salt(&text, cipher, size), whole);
            }
        }
    }

    fn encrypted_with_salt(text: &[u8], cipher: Cipher, piece: usize) -> Vec<u8> {
        let passphrase = some_passphrase();
        let mut writer =
            UnauthenticatedEncryptor::with_salt(Vec::new(), &passphrase, cipher, *b"saltsalt")
                .unwrap();
        for piece in text.chunks(piece) {
            writer.write_all(piece).unwrap();
            writer.flush().unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn file_that_is_not_salted_is_refused() {
        for file in [
            &b"distance_from_home,ratio"[..],
            b"salted__abcdefgh",
            b"(",
            b"Saltes",
        ] {
            let error = decrypted(file, Cipher::Aes256Cfb).unwrap_err();
            assert!(matches!(error, CipherfileError::NotOpenssl));
        }
    }

    #[test]
    fn file_cut_inside_its_header_says_so() {
        let file = encrypted(b"", Cipher::Aes256Cfb);
        for length in 0..16 {
            let error = decrypted(&file[..length], Cipher::Aes256Cfb).unwrap_err();
            assert!(
                matches!(error, CipherfileError::HeaderCut { found, wanted: 16 } if found == length)
            );
        }
    }

    #[test]
    fn cbc_file_cut_inside_a_block_says_so() {
        let file = encrypted(&plaintext(100), Cipher::Aes256Cbc);
        for body in [0, 1, 15, 17, 111] {
            let error = decrypted(&file[..16 + body], Cipher::Aes256Cbc).unwrap_err();
            assert!(matches!(error, CipherfileError::CbcLength { found } if found == body as u64));
        }
    }

    #[test]
    fn cbc_padding_of_a_changed_last_block_is_refused() {
        let mut file = encrypted(&plaintext(100), Cipher::Aes256Cbc);
        // The last byte of the block before the last: flips the padding's length byte, 12, to 140.
        let at = file.len() - BLOCK - 1;
        file[at] ^= 0x80;
        let error = decrypted(&file, Cipher::Aes256Cbc).unwrap_err();
        assert!(matches!(error, CipherfileError::CbcPadding));
    }

    #[test]
    fn an_error_sticks() {
        let file = encrypted(&plaintext(100), Cipher::Aes256Cbc);
        let mut reader = UnauthenticatedDecryptor::new(
            &file[..file.len() - 1],
            &some_passphrase(),
            Cipher::Aes256Cbc,
        )
        .unwrap();
        let first = reader.read(&mut [0; 7]).unwrap_err();
        assert!(matches!(first.into(), CipherfileError::CbcLength { .. }));
        let again = reader.read(&mut [0; 7]).unwrap_err();
        assert!(matches!(again.into(), CipherfileError::AlreadyFailed));
    }

    #[test]
    fn after_the_end_there_is_only_the_end() {
        for cipher in BOTH {
            let file = encrypted(&plaintext(100), cipher);
            let mut reader =
                UnauthenticatedDecryptor::new(&file[..], &some_passphrase(), cipher).unwrap();
            io::copy(&mut reader, &mut io::sink()).unwrap();
            assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        }
    }

    /// The fault of the format, not of its reader: this is why there is a warning.
    #[test]
    fn changed_cfb_file_decrypts_without_an_error() {
        let text = plaintext(100);
        let mut file = encrypted(&text, Cipher::Aes256Cfb);
        file[16 + 40] ^= 1;
        let bytes = decrypted(&file, Cipher::Aes256Cfb).unwrap();
        assert_eq!(bytes[40], text[40] ^ 1, "the attacker's bit");
        assert_eq!(bytes.len(), text.len());
    }

    #[test]
    fn warning_names_the_cipher_and_the_danger() {
        let file = encrypted(b"", Cipher::Aes256Cfb);
        let reader =
            UnauthenticatedDecryptor::new(&file[..], &some_passphrase(), Cipher::Aes256Cfb)
                .unwrap();
        let text = reader.warning().to_string();
        assert!(
            text.contains("aes-256-cfb") && text.contains("not authenticated"),
            "{text}"
        );
    }

    #[test]
    fn two_files_under_one_passphrase_have_two_salts() {
        let (a, b) = (encrypted(b"x", BOTH[1]), encrypted(b"x", BOTH[1]));
        assert_ne!(a[8..16], b[8..16]);
    }

    #[test]
    fn failed_write_closes_the_writer() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                let count = data.len().min(self.0);
                self.0 -= count;
                if count == 0 {
                    Err(io::ErrorKind::StorageFull.into())
                } else {
                    Ok(count)
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer =
            UnauthenticatedEncryptor::new(Full(30), &some_passphrase(), Cipher::Aes256Cfb).unwrap();
        assert!(writer.write_all(&plaintext(100)).is_err());
        let again = writer.write_all(b"x").unwrap_err();
        assert!(matches!(again.into(), CipherfileError::AlreadyFailed));
        assert!(writer.finish().is_err());
    }
}
