//! Tink's AES256-GCM-HKDF streaming AEAD, byte for byte
//! (<https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming>).
//!
//! | bytes | what |
//! |---|---|
//! | 1 | header length, 40 |
//! | 32 | salt, random |
//! | 7 | nonce prefix, random |
//! | rest | segments: AES-256-GCM ciphertext ‖ 16-byte tag, each [`SEGMENT_SIZE`] bytes but the first, which is shorter by the 40-byte header, and the last, which is as short as its plaintext |
//!
//! Segments' key = HKDF-SHA256(input key = file key, salt = salt, info = associated data), 32 bytes. Segment *i*'s nonce =
//! prefix ‖ *i* as big-endian `u32` ‖ 1 for the last segment, else 0; its GCM associated data is empty. An empty file
//! is one segment that is only a tag.
//!
//! The associated data is the file's name: it is not in the file, and a reader must know it. So a changed, moved,
//! missing or added segment, a cut end, a changed header and a renamed file all fail, and an [`Encryptor`] that was
//! dropped before [`finish`](Encryptor::finish) leaves a file that no one takes for whole.
//!
//! For a peer: Tink's ready template `AES256_GCM_HKDF_1MB` has exactly these parameters.

use std::io::{self, BufRead, Read, Write};
use std::ops::Range;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use zeroize::Zeroizing;

use crate::stream::{State, read_full};
use crate::{CipherfileError, FileKey};

/// Bytes of ciphertext in a segment; why this many: `docs/decisions/0004-file-segments.md`.
pub const SEGMENT_SIZE: usize = 1 << 20;

/// The smallest segment: a first one with one byte of plaintext.
pub const MIN_SEGMENT_SIZE: usize = HEADER_LEN + 1 + TAG_LEN;

/// The largest segment that this crate will hold in memory.
pub const MAX_SEGMENT_SIZE: usize = 1 << 24;

pub(crate) const HEADER_LEN_BYTE: u8 = 40;

const SALT_LEN: usize = 32;
const PREFIX_LEN: usize = 7;
const HEADER_LEN: usize = 1 + SALT_LEN + PREFIX_LEN;
const TAG_LEN: usize = 16;

/// Encrypts what is written to it.
///
/// The caller must call [`finish`](Self::finish): without it the file has no end and no reader accepts it. After an
/// error every later call fails.
pub struct Encryptor<W: Write> {
    inner: W,
    segments: SegmentCipher,
    segment_size: usize,
    /// Plaintext of the segment `number`, sealed in place when it is full and more follows, or at the end.
    buffer: Zeroizing<Vec<u8>>,
    number: u32,
    state: State,
}

impl<W: Write> Encryptor<W> {
    /// Begins a file: draws salt and nonce prefix and writes the header to `inner`.
    ///
    /// # Errors
    /// When the random generator or `inner` fails.
    pub fn new(inner: W, key: &FileKey, associated_data: &[u8]) -> Result<Self, CipherfileError> {
        Self::with_segment_size(inner, key, associated_data, SEGMENT_SIZE)
    }

    /// Like [`new`](Self::new), for a peer whose Tink key has another segment size. The file does not record it.
    ///
    /// # Errors
    /// Also when the size is outside [`MIN_SEGMENT_SIZE`]`..=`[`MAX_SEGMENT_SIZE`].
    pub fn with_segment_size(
        inner: W,
        key: &FileKey,
        associated_data: &[u8],
        segment_size: usize,
    ) -> Result<Self, CipherfileError> {
        let mut header = [HEADER_LEN_BYTE; HEADER_LEN];
        rand::fill(&mut header[1..]).map_err(|_| CipherfileError::Random)?;
        Self::with_header(inner, key, associated_data, segment_size, header)
    }

    fn with_header(
        mut inner: W,
        key: &FileKey,
        associated_data: &[u8],
        segment_size: usize,
        header: [u8; HEADER_LEN],
    ) -> Result<Self, CipherfileError> {
        check_segment_size(segment_size)?;
        let segments = SegmentCipher::new(key, &header, associated_data)?;
        inner.write_all(&header)?;
        Ok(Self {
            inner,
            segments,
            segment_size,
            buffer: Zeroizing::new(Vec::with_capacity(segment_size)),
            number: 0,
            state: State::Open,
        })
    }

    /// Seals the last segment, flushes, and returns the writer underneath.
    ///
    /// # Errors
    /// When an earlier write failed, or the writer underneath fails now.
    pub fn finish(mut self) -> io::Result<W> {
        self.check_open()?;
        self.seal(true)?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn check_open(&self) -> Result<(), CipherfileError> {
        match self.state {
            State::Open => Ok(()),
            State::Ended | State::Failed => Err(CipherfileError::AlreadyFailed),
        }
    }

    fn room(&self) -> usize {
        segment_capacity(self.segment_size, self.number) - TAG_LEN - self.buffer.len()
    }

    fn seal(&mut self, last: bool) -> Result<(), CipherfileError> {
        // The buffer holds ciphertext from here on: a failure must not lead to it being sealed again under this nonce.
        self.state = State::Failed;
        let next = if last {
            self.number
        } else {
            next_segment(self.number)?
        };
        self.segments.seal(self.number, last, &mut self.buffer)?;
        self.inner.write_all(&self.buffer)?;
        self.buffer.clear();
        self.number = next;
        self.state = State::Open;
        Ok(())
    }
}

impl<W: Write> Write for Encryptor<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.check_open()?;
        // A full segment waits for the next byte: only then is it known not to be the last.
        if !data.is_empty() && self.room() == 0 {
            self.seal(false)?;
        }
        let count = data.len().min(self.room());
        self.buffer.extend_from_slice(&data[..count]);
        Ok(count)
    }

    /// Flushes the writer underneath. An unfinished segment stays here: segments have one size.
    fn flush(&mut self) -> io::Result<()> {
        self.check_open()?;
        self.inner.flush()
    }
}

/// Decrypts what it reads, one whole segment at a time: no byte is handed on before its segment has authenticated.
///
/// Only the end of file (`Ok(0)`) says that the file was whole, so a caller must not act finally on its content before.
/// After an error every later call fails. It also implements [`BufRead`], which saves a copy.
pub struct Decryptor<R: Read> {
    inner: R,
    segments: SegmentCipher,
    segment_size: usize,
    /// One segment and the byte after it, which tells whether the segment is the last.
    buffer: Zeroizing<Vec<u8>>,
    /// The part of `buffer` that is verified plaintext and not handed on yet.
    plaintext: Range<usize>,
    /// The first byte of segment `number`, read with the segment before.
    lookahead: Option<u8>,
    number: u32,
    state: State,
}

impl<R: Read> Decryptor<R> {
    /// Reads the header. A wrong key or name shows only when the first segment is read.
    ///
    /// # Errors
    /// When `inner` fails, ends inside the header, or begins with another format.
    pub fn new(inner: R, key: &FileKey, associated_data: &[u8]) -> Result<Self, CipherfileError> {
        Self::with_segment_size(inner, key, associated_data, SEGMENT_SIZE)
    }

    /// Like [`new`](Self::new), for the file of a peer whose Tink key has another segment size.
    ///
    /// # Errors
    /// Also when the size is outside [`MIN_SEGMENT_SIZE`]`..=`[`MAX_SEGMENT_SIZE`].
    pub fn with_segment_size(
        mut inner: R,
        key: &FileKey,
        associated_data: &[u8],
        segment_size: usize,
    ) -> Result<Self, CipherfileError> {
        check_segment_size(segment_size)?;
        let mut header = [0; HEADER_LEN];
        let found = read_full(&mut inner, &mut header)?;
        if found > 0 && header[0] != HEADER_LEN_BYTE {
            return Err(CipherfileError::NotTink { found: header[0] });
        }
        if found < HEADER_LEN {
            return Err(CipherfileError::HeaderCut {
                found,
                wanted: HEADER_LEN,
            });
        }
        Ok(Self {
            inner,
            segments: SegmentCipher::new(key, &header, associated_data)?,
            segment_size,
            buffer: Zeroizing::new(vec![0; segment_size + 1]),
            plaintext: 0..0,
            lookahead: None,
            number: 0,
            state: State::Open,
        })
    }

    /// Reads and opens segment `number`; afterwards `plaintext` is what it held, and `state` tells whether it was the last.
    fn next_segment(&mut self) -> Result<(), CipherfileError> {
        self.state = State::Failed;
        let capacity = segment_capacity(self.segment_size, self.number);
        let carried = usize::from(self.lookahead.is_some());
        if let Some(byte) = self.lookahead.take() {
            self.buffer[0] = byte;
        }
        let found = carried + read_full(&mut self.inner, &mut self.buffer[carried..=capacity])?;
        let last = found <= capacity;
        let length = found.min(capacity);
        if length < TAG_LEN {
            return Err(CipherfileError::SegmentCut {
                number: self.number,
                found: length,
            });
        }
        if last {
            self.open_last(length)?;
            self.state = State::Ended;
        } else {
            let next = next_segment(self.number)?;
            self.lookahead = Some(self.buffer[capacity]);
            self.segments
                .open(self.number, false, &mut self.buffer[..length])
                .map_err(|Unauthentic| changed(self.number))?;
            self.number = next;
            self.state = State::Open;
        }
        self.plaintext = 0..length - TAG_LEN;
        Ok(())
    }

    /// Opens the last segment. A full one that opens only as "not the last" tells a cut file from a changed one.
    fn open_last(&mut self, length: usize) -> Result<(), CipherfileError> {
        let full = length == segment_capacity(self.segment_size, self.number);
        let mut copy = full.then(|| Zeroizing::new(self.buffer[..length].to_vec()));
        let Err(Unauthentic) = self
            .segments
            .open(self.number, true, &mut self.buffer[..length])
        else {
            return Ok(());
        };
        if let Some(copy) = &mut copy
            && self.segments.open(self.number, false, copy).is_ok()
        {
            return Err(CipherfileError::Truncated {
                number: self.number,
            });
        }
        Err(changed(self.number))
    }
}

impl<R: Read> BufRead for Decryptor<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.plaintext.is_empty() {
            match self.state {
                State::Open => self.next_segment()?,
                State::Ended => break,
                State::Failed => return Err(CipherfileError::AlreadyFailed.into()),
            }
        }
        Ok(&self.buffer[self.plaintext.clone()])
    }

    fn consume(&mut self, amount: usize) {
        self.plaintext.start = self
            .plaintext
            .end
            .min(self.plaintext.start.saturating_add(amount));
    }
}

impl<R: Read> Read for Decryptor<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

/// Length of the file that a plaintext of this length becomes, or nothing if it has too many segments.
#[must_use]
pub fn ciphertext_len(plaintext_len: u64) -> Option<u64> {
    let per_segment = (SEGMENT_SIZE - TAG_LEN) as u64;
    let with_header = plaintext_len.checked_add(HEADER_LEN as u64)?;
    let segments = with_header.div_ceil(per_segment);
    (segments <= u64::from(u32::MAX)).then(|| with_header + segments * TAG_LEN as u64)
}

/// Length of the plaintext in a file of this length, or nothing if no file has it.
///
/// For progress bars and the like; only reading the file to its end proves its length.
#[must_use]
pub fn plaintext_len(ciphertext_len: u64) -> Option<u64> {
    let segments = ciphertext_len.div_ceil(SEGMENT_SIZE as u64);
    let overhead = HEADER_LEN as u64 + segments * TAG_LEN as u64;
    let length = ciphertext_len.checked_sub(overhead)?;
    (self::ciphertext_len(length) == Some(ciphertext_len)).then_some(length)
}

/// The cipher of one file's segments, each of which can be opened without the others.
struct SegmentCipher {
    key: LessSafeKey,
    prefix: [u8; PREFIX_LEN],
}

struct Unauthentic;

impl SegmentCipher {
    fn new(
        key: &FileKey,
        header: &[u8; HEADER_LEN],
        associated_data: &[u8],
    ) -> Result<Self, CipherfileError> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &header[1..=SALT_LEN]);
        let prk = salt.extract(key.expose_bytes());
        let info = [associated_data];
        let derived = prk
            .expand(&info, &AES_256_GCM)
            .map_err(|_| CipherfileError::Library {
                operation: "derive a key",
            })?;
        let mut prefix = [0; PREFIX_LEN];
        prefix.copy_from_slice(&header[1 + SALT_LEN..]);
        Ok(Self {
            key: LessSafeKey::new(UnboundKey::from(derived)),
            prefix,
        })
    }

    fn seal(&self, number: u32, last: bool, segment: &mut Vec<u8>) -> Result<(), CipherfileError> {
        self.key
            .seal_in_place_append_tag(self.nonce(number, last), Aad::empty(), segment)
            .map_err(|_| CipherfileError::Library {
                operation: "encrypt a segment",
            })
    }

    fn open(&self, number: u32, last: bool, segment: &mut [u8]) -> Result<(), Unauthentic> {
        match self
            .key
            .open_in_place(self.nonce(number, last), Aad::empty(), segment)
        {
            Ok(_plaintext) => Ok(()),
            Err(_) => Err(Unauthentic),
        }
    }

    fn nonce(&self, number: u32, last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..PREFIX_LEN].copy_from_slice(&self.prefix);
        nonce[PREFIX_LEN..NONCE_LEN - 1].copy_from_slice(&number.to_be_bytes());
        nonce[NONCE_LEN - 1] = last.into();
        Nonce::assume_unique_for_key(nonce)
    }
}

fn segment_capacity(segment_size: usize, number: u32) -> usize {
    if number == 0 {
        segment_size - HEADER_LEN
    } else {
        segment_size
    }
}

/// The number after this one. Like Tink, a file has no segment `u32::MAX`.
fn next_segment(number: u32) -> Result<u32, CipherfileError> {
    match number.checked_add(1) {
        Some(next) if next < u32::MAX => Ok(next),
        _ => Err(CipherfileError::TooManySegments),
    }
}

fn changed(number: u32) -> CipherfileError {
    match number {
        0 => CipherfileError::FirstSegment,
        number => CipherfileError::Segment { number },
    }
}

fn check_segment_size(found: usize) -> Result<(), CipherfileError> {
    if (MIN_SEGMENT_SIZE..=MAX_SEGMENT_SIZE).contains(&found) {
        Ok(())
    } else {
        Err(CipherfileError::SegmentSize {
            found,
            min: MIN_SEGMENT_SIZE,
            max: MAX_SEGMENT_SIZE,
        })
    }
}
