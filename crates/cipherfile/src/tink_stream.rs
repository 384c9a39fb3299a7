//! Tink's AES256-GCM-HKDF streaming AEAD, byte for byte
//! (<https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming>).
//!
//! | bytes | what |
//! |---|---|
//! | 1 | header length, 40 |
//! | 32 | salt, random |
//! | 7 | nonce prefix, random |
//! | rest | segments, each AES-256-GCM ciphertext ‖ 16-byte tag |
//!
//! A segment has [`SEGMENT_SIZE`] bytes, except that the first is shorter by the header and the
//! last is as short as its plaintext. An empty file is one segment that is only a tag.
//!
//! The segments' key = HKDF-SHA256(input key = file key, salt, info = associated data), 32 bytes.
//! Segment *i*'s nonce = prefix ‖ *i* as big-endian `u32` ‖ 1 for the last segment, else 0; its GCM
//! associated data is empty.
//!
//! The stream's associated data is the file's name: it is not in the file, and a reader must know
//! it. So a changed, moved, missing or added segment, a cut end, a changed header and a renamed
//! file all fail, and an [`Encryptor`] that was dropped before [`finish`](Encryptor::finish) leaves
//! a file that no one takes for whole. Nothing may follow the last segment, which Tink's own reader
//! (1.16) overlooks when that segment is full.
//!
//! For a peer: Tink's ready template `AES256_GCM_HKDF_1MB` has exactly these parameters.

mod segments;

use std::io::{self, BufRead, Read, Write};
use std::ops::Range;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use zeroize::Zeroizing;

pub use segments::Segments;

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
/// The caller must call [`finish`](Self::finish): without it the file has no end and no reader
/// accepts it. After an error every later call fails.
pub struct Encryptor<W: Write> {
    inner: W,
    segments: SegmentCipher,
    segment_size: usize,
    /// Plaintext of the segment `number`, sealed in place when it is full and more follows, or at
    /// the end.
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

    /// Like [`new`](Self::new), for a peer whose Tink key has another segment size. The file does
    /// not record it.
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
        // The buffer holds ciphertext from here on: a failure must not lead to it being sealed
        // again under this nonce.
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

/// Decrypts what it reads, one whole segment at a time: no byte is handed on before its segment has
/// authenticated.
///
/// Only the end of file (`Ok(0)`) says that the file was whole, so a caller must not act finally on
/// its content before. After an error every later call fails. It also implements [`BufRead`], which
/// saves a copy.
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

    /// Reads and opens segment `number`. Afterwards `plaintext` is what it held, and `state` tells
    /// whether it was the last.
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
            let full = length == capacity;
            self.segments
                .open_last(self.number, full, &mut self.buffer[..length])?;
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

/// Length of the file that a plaintext of this length becomes, or nothing if it has too many
/// segments.
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

    /// Opens the last segment. A full one that opens only as "not the last" tells a cut file from a
    /// changed one.
    fn open_last(
        &self,
        number: u32,
        full: bool,
        segment: &mut [u8],
    ) -> Result<(), CipherfileError> {
        let copy = full.then(|| Zeroizing::new(segment.to_vec()));
        let Err(Unauthentic) = self.open(number, true, segment) else {
            return Ok(());
        };
        if let Some(mut copy) = copy
            && self.open(number, false, &mut copy).is_ok()
        {
            return Err(CipherfileError::Truncated { number });
        }
        Err(changed(number))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::stream::doubles::{Dribble, drain};

    /// The least of Tink's that leaves room to see a segment: 8 bytes in the first, 48 in the
    /// others.
    const SMALL: usize = 64;
    const NAME: &[u8] = b"kbs:///default/fraud-dataset/dataset_key";

    fn key() -> FileKey {
        FileKey::from_slice(&std::array::from_fn::<u8, 32, _>(|i| i as u8)).unwrap()
    }

    fn plaintext(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i % 251) as u8).collect()
    }

    fn sealed(plaintext: &[u8]) -> Vec<u8> {
        let mut writer = Encryptor::with_segment_size(Vec::new(), &key(), NAME, SMALL).unwrap();
        writer.write_all(plaintext).unwrap();
        writer.finish().unwrap()
    }

    /// What came out before the end or the error.
    fn opened(file: &[u8], key: &FileKey, name: &[u8]) -> (Vec<u8>, Option<CipherfileError>) {
        match Decryptor::with_segment_size(file, key, name, SMALL) {
            Ok(mut reader) => {
                let (bytes, error) = drain(&mut reader, &[7]);
                (bytes, error.map(CipherfileError::from))
            }
            Err(error) => (Vec::new(), Some(error)),
        }
    }

    fn opened_as_made(file: &[u8]) -> (Vec<u8>, Option<CipherfileError>) {
        opened(file, &key(), NAME)
    }

    /// Where segment `number` lies in a file of [`SMALL`] segments.
    fn segment(number: usize) -> Range<usize> {
        number.max(1) * SMALL - if number == 0 { SMALL - HEADER_LEN } else { 0 }
            ..(number + 1) * SMALL
    }

    #[test]
    fn file_made_by_tink_opens() {
        // PyPI tink 1.16.1: key 00..1f, associated data "name", segments of 64 bytes.
        let file = hex(
            "2816319a95aa0669c0bd0dd3f41d5a6c0247e2fad39ba6c6a61fca0e7d49c7d0e78eaf611465bf94\
             1637732d4c545023f6827a4a73d07610067588ec0c95110c877a1ff0fc391d17ce234d94e422f534\
             fead87b1b73867fc83dc0be7c070f7d2ca645c7dd47b03dd08a6655b6092b21bc4209a57018fe0d2\
             3bccd914610256ece62690ef9419c021da2bb318e8fc1d43eb456b402927e753d7696db451",
        );
        let text = "twelve bytes and then some more than two segments of text, in all 120";
        let (bytes, error) = opened(&file, &key(), b"name");
        assert!(error.is_none());
        assert_eq!(bytes, text.as_bytes());
    }

    #[test]
    fn empty_file_made_by_tink_opens() {
        let file = hex(
            "281f9921dd5253e2dbede44b9770febd40c18d2f091fdfcc3c728218112100be24f01dac428a4d10\
             fc754e5a47a600dd676726a56ace7e1e",
        );
        let (bytes, error) = opened(&file, &key(), b"name");
        assert!(error.is_none() && bytes.is_empty());
    }

    #[test]
    fn same_header_and_plaintext_give_what_tink_gave() {
        let file = hex(
            "28ad1299535a65114eb3dd714f93594c717194fe1787974e8e80ca13ad55c2025c9ac5e028e4d533\
             27e9ce271299a34b574481257d89a345fd917181825d631e3c31b613d028b299ef194af4b2feb5c9\
             6e8b09da34f282e48ba3dd239ae411c5ecaabe24ecc90f51c142b936fb6b46a7ddb7fab9fb760386\
             6c6904115d3fd81941eb30ddd4d958ed22e7955d09bc447793e4aa2acd38bbe7e71326d86f",
        );
        let header = file[..HEADER_LEN].try_into().unwrap();
        let mut writer = Encryptor::with_header(Vec::new(), &key(), b"name", 57, header).unwrap();
        writer
            .write_all(b"twelve bytes and then some more than two segments of text, in all 120")
            .unwrap();
        assert_eq!(writer.finish().unwrap(), file);
    }

    #[test]
    fn every_length_around_small_segments_comes_back() {
        for length in 0..5 * SMALL {
            let (bytes, error) = opened_as_made(&sealed(&plaintext(length)));
            assert!(error.is_none(), "{length}: {error:?}");
            assert_eq!(bytes, plaintext(length), "{length}");
        }
    }

    #[test]
    fn lengths_around_real_segments_come_back() {
        let first = SEGMENT_SIZE - HEADER_LEN - TAG_LEN;
        let other = SEGMENT_SIZE - TAG_LEN;
        for length in [
            0,
            1,
            first - 1,
            first,
            first + 1,
            first + other - 1,
            first + other,
            first + other + 1,
        ] {
            let text = plaintext(length);
            let mut writer = Encryptor::new(Vec::new(), &key(), NAME).unwrap();
            writer.write_all(&text).unwrap();
            let file = writer.finish().unwrap();
            assert_eq!(ciphertext_len(length as u64), Some(file.len() as u64));
            assert_eq!(plaintext_len(file.len() as u64), Some(length as u64));
            let mut back = Vec::new();
            let mut reader = Decryptor::new(&file[..], &key(), NAME).unwrap();
            reader.read_to_end(&mut back).unwrap();
            assert!(back == text, "{length}");
        }
    }

    #[test]
    fn odd_pieces_and_interruptions_change_nothing() {
        let text = plaintext(1000);
        let file = sealed(&text);
        for sizes in [&[1][..], &[63, 64, 65], &[7, 1, 300], &[1000, 1]] {
            let dribble = Dribble::new(&file, sizes);
            let mut reader = Decryptor::with_segment_size(dribble, &key(), NAME, SMALL).unwrap();
            let (bytes, error) = drain(&mut reader, sizes);
            assert!(error.is_none(), "{error:?}");
            assert_eq!(bytes, text);
        }
    }

    #[test]
    fn written_in_odd_pieces_it_is_the_same_file() {
        let text = plaintext(1000);
        let file = sealed(&text);
        let header = file[..HEADER_LEN].try_into().unwrap();
        for size in [1, 8, 47, 48, 49, 333] {
            let mut writer =
                Encryptor::with_header(Vec::new(), &key(), NAME, SMALL, header).unwrap();
            for piece in text.chunks(size) {
                writer.write_all(piece).unwrap();
                writer.write_all(b"").unwrap();
                writer.flush().unwrap();
            }
            assert_eq!(writer.finish().unwrap(), file, "{size}");
        }
    }

    #[test]
    fn two_files_of_the_same_plaintext_share_nothing() {
        let (a, b) = (sealed(&plaintext(100)), sealed(&plaintext(100)));
        assert_ne!(a[1..HEADER_LEN], b[1..HEADER_LEN]);
        assert_ne!(a[HEADER_LEN..], b[HEADER_LEN..]);
    }

    #[test]
    fn wrong_key_fails_at_segment_0() {
        let other = FileKey::from_slice(&[9; 32]).unwrap();
        let (bytes, error) = opened(&sealed(&plaintext(300)), &other, NAME);
        assert!(matches!(error, Some(CipherfileError::FirstSegment)));
        assert!(bytes.is_empty());
    }

    #[test]
    fn wrong_name_fails_at_segment_0() {
        let (bytes, error) = opened(&sealed(&plaintext(300)), &key(), b"another name");
        assert!(matches!(error, Some(CipherfileError::FirstSegment)));
        assert!(bytes.is_empty());
    }

    #[test]
    fn flipped_bit_anywhere_hands_on_no_byte_of_its_segment() {
        let text = plaintext(150);
        let file = sealed(&text);
        for position in 0..file.len() {
            let mut changed = file.clone();
            changed[position] ^= 0x10;
            let (bytes, error) = opened_as_made(&changed);
            let verified = match position / SMALL {
                0 => 0,
                number => 8 + (number - 1) * 48,
            };
            assert_eq!(bytes, text[..verified], "{position}");
            match (position, position / SMALL) {
                (0, _) => assert!(matches!(
                    error,
                    Some(CipherfileError::NotTink { found: 0x38 })
                )),
                (_, 0) => assert!(matches!(error, Some(CipherfileError::FirstSegment))),
                (_, hit) => assert!(
                    matches!(error, Some(CipherfileError::Segment { number }) if number as usize == hit)
                ),
            }
        }
    }

    #[test]
    fn cut_between_segments_is_called_cut() {
        let file = sealed(&plaintext(300));
        for kept in 0..3 {
            let (bytes, error) = opened_as_made(&file[..segment(kept).end]);
            assert!(
                matches!(error, Some(CipherfileError::Truncated { number }) if number as usize == kept),
                "{error:?}"
            );
            assert_eq!(
                bytes.len(),
                (kept * 48).saturating_sub(40),
                "the cut segment stays unread"
            );
        }
    }

    #[test]
    fn cut_anywhere_is_an_error() {
        let file = sealed(&plaintext(300));
        for length in 0..file.len() {
            let (bytes, error) = opened_as_made(&file[..length]);
            let error =
                error.unwrap_or_else(|| panic!("{length} bytes were taken for a whole file"));
            assert!(plaintext(300).starts_with(&bytes));
            match length {
                0..HEADER_LEN => assert!(
                    matches!(error, CipherfileError::HeaderCut { found, wanted: 40 } if found == length)
                ),
                _ if length % SMALL == 0 => {
                    assert!(matches!(error, CipherfileError::Truncated { .. }))
                }
                _ if length < SMALL => assert!(matches!(
                    error,
                    CipherfileError::FirstSegment | CipherfileError::SegmentCut { number: 0, .. }
                )),
                _ if length % SMALL < TAG_LEN => assert!(
                    matches!(error, CipherfileError::SegmentCut { found, .. } if found == length % SMALL)
                ),
                _ => assert!(matches!(error, CipherfileError::Segment { .. })),
            }
        }
    }

    #[test]
    fn swapped_segments_fail_at_the_first_of_them() {
        let mut file = sealed(&plaintext(300));
        let (a, b) = (segment(1), segment(2));
        let first = file[a.clone()].to_vec();
        file.copy_within(b.clone(), a.start);
        file[b].copy_from_slice(&first);
        let (bytes, error) = opened_as_made(&file);
        assert!(matches!(
            error,
            Some(CipherfileError::Segment { number: 1 })
        ));
        assert_eq!(bytes, plaintext(8));
    }

    #[test]
    fn missing_segment_fails_where_it_is_missing() {
        let mut file = sealed(&plaintext(300));
        file.drain(segment(2));
        let (_bytes, error) = opened_as_made(&file);
        assert!(matches!(
            error,
            Some(CipherfileError::Segment { number: 2 })
        ));
    }

    #[test]
    fn segment_of_another_file_under_the_same_key_fails() {
        let (mut file, other) = (sealed(&plaintext(300)), sealed(&plaintext(300)));
        file[segment(1)].copy_from_slice(&other[segment(1)]);
        let (_bytes, error) = opened_as_made(&file);
        assert!(matches!(
            error,
            Some(CipherfileError::Segment { number: 1 })
        ));
    }

    #[test]
    fn trailing_garbage_of_any_length_fails() {
        // A short last segment (108 = 8 + 48 + 48 + 4) and a full one.
        for length in [108, 104] {
            let file = sealed(&plaintext(length));
            for garbage in [1, 15, 16, 17, 64, 200] {
                let mut longer = file.clone();
                longer.resize(file.len() + garbage, 0);
                let (bytes, error) = opened_as_made(&longer);
                assert!(error.is_some(), "{length} + {garbage}");
                assert!(bytes.len() < length, "the last segment must not come out");
            }
        }
    }

    #[test]
    fn two_files_one_after_the_other_are_not_one() {
        let mut file = sealed(&plaintext(104));
        file.extend(sealed(&plaintext(104)));
        let (bytes, error) = opened_as_made(&file);
        assert!(matches!(
            error,
            Some(CipherfileError::Segment { number: 2 })
        ));
        assert_eq!(bytes, plaintext(56));
    }

    #[test]
    fn other_segment_size_fails() {
        let file = sealed(&plaintext(300));
        let mut reader = Decryptor::new(&file[..], &key(), NAME).unwrap();
        let error = reader.read(&mut [0; 16]).unwrap_err();
        assert!(matches!(error.into(), CipherfileError::FirstSegment));
    }

    #[test]
    fn an_error_sticks() {
        let mut file = sealed(&plaintext(300));
        file[segment(1).start] ^= 1;
        let mut reader = Decryptor::with_segment_size(&file[..], &key(), NAME, SMALL).unwrap();
        let (bytes, first) = drain(&mut reader, &[7]);
        assert_eq!(bytes, plaintext(8));
        assert!(matches!(
            first.unwrap().into(),
            CipherfileError::Segment { number: 1 }
        ));
        for _ in 0..3 {
            let again = reader.read(&mut [0; 7]).unwrap_err();
            assert!(matches!(again.into(), CipherfileError::AlreadyFailed));
        }
    }

    #[test]
    fn a_failing_disk_is_not_taken_for_the_end() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let file = sealed(&plaintext(300));
        let cut = file[..segment(1).end].chain(Broken);
        let mut reader = Decryptor::with_segment_size(cut, &key(), NAME, SMALL).unwrap();
        let (bytes, error) = drain(&mut reader, &[64]);
        assert_eq!(bytes, plaintext(8));
        assert_eq!(error.unwrap().kind(), io::ErrorKind::ConnectionReset);
        let again = reader.read(&mut [0; 1]).unwrap_err();
        assert!(matches!(again.into(), CipherfileError::AlreadyFailed));
    }

    #[test]
    fn after_the_end_there_is_only_the_end() {
        let file = sealed(&plaintext(10));
        let mut reader = Decryptor::with_segment_size(&file[..], &key(), NAME, SMALL).unwrap();
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        assert!(reader.fill_buf().unwrap().is_empty());
    }

    #[test]
    fn file_that_was_not_finished_is_not_whole() {
        let mut written = Vec::new();
        let mut writer = Encryptor::with_segment_size(&mut written, &key(), NAME, SMALL).unwrap();
        writer.write_all(&plaintext(104)).unwrap();
        drop(writer);
        let (bytes, error) = opened_as_made(&written);
        assert!(matches!(
            error,
            Some(CipherfileError::Truncated { number: 1 })
        ));
        assert_eq!(bytes, plaintext(8));
    }

    #[test]
    fn failed_write_is_not_sealed_again_under_the_same_nonce() {
        /// Takes the header and one segment, then fails once, then takes everything.
        struct Hiccup(Vec<u8>, bool);
        impl Write for Hiccup {
            fn write(&mut self, data: &[u8]) -> io::Result<usize> {
                if self.0.len() == SMALL && !self.1 {
                    self.1 = true;
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.0.extend_from_slice(data);
                Ok(data.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut disk = Hiccup(Vec::new(), false);
        let mut writer = Encryptor::with_segment_size(&mut disk, &key(), NAME, SMALL).unwrap();
        let first = writer.write_all(&plaintext(300)).unwrap_err();
        assert_eq!(first.kind(), io::ErrorKind::StorageFull);
        let again = writer.write_all(b"more").unwrap_err();
        assert!(matches!(again.into(), CipherfileError::AlreadyFailed));
        assert!(writer.flush().is_err());
        assert!(writer.finish().is_err());
        assert_eq!(disk.0.len(), SMALL, "nothing came after the failure");
    }

    #[test]
    fn last_countable_segment_is_written_and_read_and_no_further() {
        let header = [HEADER_LEN_BYTE; HEADER_LEN];
        let at_the_end = |extra: usize| {
            let mut writer =
                Encryptor::with_header(Vec::new(), &key(), NAME, SMALL, header).unwrap();
            writer.number = u32::MAX - 2;
            let result = writer.write_all(&plaintext(96 + extra));
            (writer, result)
        };
        let (writer, result) = at_the_end(0);
        result.unwrap();
        let file = writer.finish().unwrap();

        let mut reader = Decryptor::with_segment_size(&file[..], &key(), NAME, SMALL).unwrap();
        reader.number = u32::MAX - 2;
        let (bytes, error) = drain(&mut reader, &[50]);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(bytes, plaintext(96));

        let (writer, result) = at_the_end(1);
        assert!(matches!(
            result.unwrap_err().into(),
            CipherfileError::TooManySegments
        ));
        assert!(writer.finish().is_err());
    }

    #[test]
    fn reader_does_not_count_past_the_last_segment() {
        let file = sealed(&plaintext(300));
        let mut reader = Decryptor::with_segment_size(&file[..], &key(), NAME, SMALL).unwrap();
        reader.number = u32::MAX - 1;
        let error = reader.read(&mut [0; 1]).unwrap_err();
        assert!(matches!(error.into(), CipherfileError::TooManySegments));
    }

    #[test]
    fn segment_sizes_that_no_file_can_have_are_refused() {
        for size in [0, MIN_SEGMENT_SIZE - 1, MAX_SEGMENT_SIZE + 1, usize::MAX] {
            let writer = Encryptor::with_segment_size(Vec::new(), &key(), NAME, size);
            assert!(matches!(
                writer.err(),
                Some(CipherfileError::SegmentSize { .. })
            ));
            let reader = Decryptor::with_segment_size(&b"("[..], &key(), NAME, size);
            assert!(matches!(
                reader.err(),
                Some(CipherfileError::SegmentSize { .. })
            ));
        }
    }

    #[test]
    fn plaintext_is_refused_by_its_first_byte() {
        let (_bytes, error) = opened_as_made(b"distance_from_home,ratio");
        assert!(matches!(
            error,
            Some(CipherfileError::NotTink { found: b'd' })
        ));
    }

    #[test]
    fn length_that_no_file_has_is_nothing() {
        for length in [0, 39, 55] {
            assert_eq!(plaintext_len(length), None);
        }
        // One whole segment and fewer bytes than a tag.
        for extra in 1..TAG_LEN as u64 {
            assert_eq!(plaintext_len(SEGMENT_SIZE as u64 + extra), None, "{extra}");
        }
        assert_eq!(plaintext_len(u64::MAX), None);
        assert_eq!(ciphertext_len(u64::MAX), None);
        assert_eq!(ciphertext_len(1 << 52), None);
    }

    #[test]
    fn lengths_are_each_other_s_inverse() {
        for length in (0..1 << 22).step_by(997).chain([1 << 30, (1 << 40) + 3]) {
            let ciphertext = ciphertext_len(length).unwrap();
            assert_eq!(plaintext_len(ciphertext), Some(length));
        }
    }

    fn hex(text: &str) -> Vec<u8> {
        let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
        text.as_bytes()
            .chunks(2)
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    }
}
