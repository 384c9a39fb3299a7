//! Files of `openssl enc -aes-256-cfb|-aes-256-cbc -pbkdf2 -kfile FILE`, which others made. **They have no integrity.**
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `Salted__` |
//! | 8 | salt |
//! | rest | CFB128 without padding, or CBC with PKCS#7 padding |
//!
//! Key ‖ IV = PBKDF2-HMAC-SHA256(passphrase, salt, 10,000 iterations), 48 bytes. Nothing in the file tells CFB from CBC or
//! protects a byte of it: whoever holds the file can change it, and decryption "succeeds". So the types say
//! `Unauthenticated`, and every reader has a [warning](UnauthenticatedDecryptor::warning) for its caller to show.
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
    /// Takes what `openssl enc -kfile` would take from a file with this content, and says what it would leave.
    ///
    /// As in `apps/enc.c`, in this order: at most 127 bytes, up to the first newline (`fgets`); up to the first NUL (`strlen`); without
    /// the carriage returns and newlines at its end; and not if fewer than two bytes remain. So a random binary key loses
    /// its tail more often than one would think (a fifth of all 32-byte keys), and 128-byte keys always do.
    ///
    /// # Errors
    /// [`CipherfileError::KeyFileUnreadable`] and [`CipherfileError::KeyFileZeroLength`] where `openssl` refuses the file.
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

/// A part of a key file that `openssl` leaves unused, so that the passphrase is weaker than its owner thinks.
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
            "openssl reads only the first {used} of the key file's {length} bytes, up to {why}: the file is protected by those alone"
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
            "{} files of `openssl enc` are not authenticated: whoever stored this one could have changed it unnoticed, \
             and a wrong key may give garbage instead of an error",
            self.cipher
        )
    }
}

/// Decrypts what it reads, **without any proof that it is what was encrypted**.
///
/// A wrong key, a wrong cipher or a changed file gives other bytes; at most CBC's last block notices. After an error every
/// later call fails.
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

/// Encrypts what is written to it as `openssl enc` would, **without integrity**: for peers that read nothing else.
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
    /// CFB128 plaintext is ciphertext xor the block cipher's *encryption* of the ciphertext one block earlier. All of that
    /// is known beforehand, so it goes through ECB in bulk, several times faster than the library's CFB, which goes
    /// block by block (`benches/throughput.rs`).
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

    /// Decrypts a chunk, which stands behind the ciphertext block before it, and returns how much it wrote to `out`.
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
