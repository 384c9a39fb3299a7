//! The segments of a stream whose length is known, each opened by its place: in any order, by
//! several threads, and only those that are wanted.

use std::ops::Range;

use super::{
    HEADER_LEN, HEADER_LEN_BYTE, SEGMENT_SIZE, SegmentCipher, TAG_LEN, Unauthentic, changed,
    check_segment_size, segment_capacity,
};
use crate::{CipherfileError, FileKey};

/// Where the segments of a stream lie, and the cipher that opens each of them.
///
/// A segment opens here exactly when a [`Decryptor`](super::Decryptor) that reads the same bytes to
/// their end would take it. What was opened is what was encrypted at that place. That the file has
/// this length is proved by its last segment alone, so a caller who needs the whole of it must open
/// that one too.
///
/// ```
/// use std::io::Write;
/// use strongroom_cipherfile::FileKey;
/// use strongroom_cipherfile::tink_stream::{Encryptor, Segments};
///
/// let key = FileKey::generate()?;
/// let mut writer = Encryptor::new(Vec::new(), &key, b"rows.csv")?;
/// writer.write_all(b"distance,ratio\n")?;
/// let file = writer.finish()?;
///
/// let header = file[..Segments::HEADER_LEN].try_into()?;
/// let segments = Segments::parse(header, file.len() as u64, &key, b"rows.csv")?;
/// let place = segments.ciphertext_range(0);
/// let mut buffer = file[place.start as usize..place.end as usize].to_vec();
/// assert_eq!(segments.open_in_place(0, &mut buffer)?, b"distance,ratio\n");
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct Segments {
    cipher: SegmentCipher,
    segment_size: usize,
    /// Where the stream begins in its file.
    begin: u64,
    /// Bytes of the stream, header and all.
    len: u64,
    count: u32,
}

impl Segments {
    /// Bytes at a stream's beginning that [`parse`](Self::parse) takes.
    pub const HEADER_LEN: usize = HEADER_LEN;

    /// Takes a stream's header and length. A wrong key or name shows only when a segment is opened.
    ///
    /// # Errors
    /// When the header is of another format, or no stream has this length.
    pub fn parse(
        header: &[u8; HEADER_LEN],
        ciphertext_len: u64,
        key: &FileKey,
        associated_data: &[u8],
    ) -> Result<Self, CipherfileError> {
        Self::with_segment_size(header, ciphertext_len, key, associated_data, SEGMENT_SIZE)
    }

    /// Like [`parse`](Self::parse), for the file of a peer whose Tink key has another segment size.
    ///
    /// # Errors
    /// Also when the size is outside
    /// [`MIN_SEGMENT_SIZE`](super::MIN_SEGMENT_SIZE)`..=`[`MAX_SEGMENT_SIZE`](super::MAX_SEGMENT_SIZE).
    pub fn with_segment_size(
        header: &[u8; HEADER_LEN],
        ciphertext_len: u64,
        key: &FileKey,
        associated_data: &[u8],
        segment_size: usize,
    ) -> Result<Self, CipherfileError> {
        check_segment_size(segment_size)?;
        if header[0] != HEADER_LEN_BYTE {
            return Err(CipherfileError::NotTink { found: header[0] });
        }
        let count = count(ciphertext_len, segment_size)?;
        Ok(Self {
            cipher: SegmentCipher::new(key, header, associated_data)?,
            segment_size,
            begin: 0,
            len: ciphertext_len,
            count,
        })
    }

    /// The same segments of a stream that begins at this place in its file.
    pub(crate) fn starting_at(self, begin: u64) -> Self {
        Self { begin, ..self }
    }

    /// How many segments there are: at least one, and the last may be empty.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Length of the whole plaintext, if the last segment opens.
    #[must_use]
    pub fn plaintext_len(&self) -> u64 {
        self.plaintext_range(self.count - 1).end
    }

    /// The segment that holds this byte of the plaintext, or would if the file were longer.
    #[must_use]
    pub fn containing(&self, position: u64) -> u64 {
        position.saturating_add(HEADER_LEN as u64) / (self.segment_size - TAG_LEN) as u64
    }

    /// Where in the file segment `number` lies.
    ///
    /// # Panics
    /// When there is no such segment.
    #[must_use]
    pub fn ciphertext_range(&self, number: u32) -> Range<u64> {
        assert!(number < self.count, "one of the segments");
        let size = self.segment_size as u64;
        let start = (u64::from(number) * size).max(HEADER_LEN as u64);
        let end = ((u64::from(number) + 1) * size).min(self.len);
        self.begin + start..self.begin + end
    }

    /// Where in the plaintext the content of segment `number` lies.
    ///
    /// # Panics
    /// When there is no such segment.
    #[must_use]
    pub fn plaintext_range(&self, number: u32) -> Range<u64> {
        let Range { start, end } = self.ciphertext_range(number);
        let before = HEADER_LEN as u64 + u64::from(number) * TAG_LEN as u64;
        start - self.begin - before..end - self.begin - before - TAG_LEN as u64
    }

    /// Opens segment `number`, which `segment` holds as it lies in the file, and returns the
    /// plaintext, which takes its place. After an error what `segment` holds is nobody's plaintext.
    ///
    /// # Errors
    /// When it does not authenticate as this segment of this file.
    ///
    /// # Panics
    /// When there is no such segment, or `segment` has another length than its
    /// [`ciphertext_range`](Self::ciphertext_range).
    pub fn open_in_place<'a>(
        &self,
        number: u32,
        segment: &'a mut [u8],
    ) -> Result<&'a mut [u8], CipherfileError> {
        let Range { start, end } = self.ciphertext_range(number);
        assert_eq!(segment.len() as u64, end - start, "the whole segment");
        if number + 1 == self.count {
            let full = segment.len() == segment_capacity(self.segment_size, number);
            self.cipher.open_last(number, full, segment)?;
        } else {
            self.cipher
                .open(number, false, segment)
                .map_err(|Unauthentic| changed(number))?;
        }
        let length = segment.len() - TAG_LEN;
        Ok(&mut segment[..length])
    }
}

/// How many segments a stream of this length has. As a reader finds it: what is left for the last
/// must hold a tag.
fn count(len: u64, segment_size: usize) -> Result<u32, CipherfileError> {
    if len < HEADER_LEN as u64 {
        return Err(CipherfileError::HeaderCut {
            // Below 40, so it fits.
            found: len as usize,
            wanted: HEADER_LEN,
        });
    }
    let segments = len.div_ceil(segment_size as u64);
    let count = u32::try_from(segments).map_err(|_| CipherfileError::TooManySegments)?;
    let last_start = ((segments - 1) * segment_size as u64).max(HEADER_LEN as u64);
    let last = len - last_start;
    if last < TAG_LEN as u64 {
        return Err(CipherfileError::SegmentCut {
            number: count - 1,
            // Below 16, so it fits.
            found: last as usize,
        });
    }
    Ok(count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};

    use super::super::{Decryptor, Encryptor};
    use super::*;

    /// Room for 8 bytes in the first segment, 48 in the others.
    const SMALL: usize = 64;
    const NAME: &[u8] = b"rows.parquet";

    fn key() -> FileKey {
        FileKey::from_slice(&[7; 32]).unwrap()
    }

    fn plaintext(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i % 251) as u8).collect()
    }

    fn sealed(plaintext: &[u8]) -> Vec<u8> {
        let mut writer = Encryptor::with_segment_size(Vec::new(), &key(), NAME, SMALL).unwrap();
        writer.write_all(plaintext).unwrap();
        writer.finish().unwrap()
    }

    fn parse(file: &[u8]) -> Result<Segments, CipherfileError> {
        let mut header = [HEADER_LEN_BYTE; HEADER_LEN];
        let known = file.len().min(HEADER_LEN);
        header[..known].copy_from_slice(&file[..known]);
        Segments::with_segment_size(&header, file.len() as u64, &key(), NAME, SMALL)
    }

    fn open(segments: &Segments, file: &[u8], number: u32) -> Result<Vec<u8>, CipherfileError> {
        let place = segments.ciphertext_range(number);
        let mut buffer = file[place.start as usize..place.end as usize].to_vec();
        segments
            .open_in_place(number, &mut buffer)
            .map(|plaintext| plaintext.to_vec())
    }

    /// Every segment, the last first, put together in order; or the error of the earliest that
    /// fails.
    fn opened(file: &[u8]) -> Result<Vec<u8>, CipherfileError> {
        let segments = parse(file)?;
        let mut whole = vec![0; segments.plaintext_len() as usize];
        let mut first = None;
        for number in (0..segments.count()).rev() {
            let place = segments.plaintext_range(number);
            match open(&segments, file, number) {
                Ok(text) => {
                    whole[place.start as usize..place.end as usize].copy_from_slice(&text);
                }
                Err(error) => first = Some(error),
            }
        }
        first.map_or(Ok(whole), Err)
    }

    fn read(file: &[u8]) -> Result<Vec<u8>, CipherfileError> {
        let mut bytes = Vec::new();
        Decryptor::with_segment_size(file, &key(), NAME, SMALL)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Both readers say the same of a file. Returns whether they took it.
    #[track_caller]
    fn agree(file: &[u8]) -> bool {
        match (opened(file), read(file)) {
            (Ok(a), Ok(b)) => {
                assert_eq!(a, b);
                true
            }
            (Err(a), Err(b)) => {
                // A reader meets the segments before a last one that is too short first.
                if !matches!(a, CipherfileError::SegmentCut { .. }) {
                    assert_eq!(a.to_string(), b.to_string());
                }
                false
            }
            (a, b) => panic!("{:?} where a reader says {:?}", a.err(), b.err()),
        }
    }

    #[test]
    fn every_length_opens_as_a_reader_reads_it() {
        for length in 0..5 * SMALL {
            let file = sealed(&plaintext(length));
            assert!(agree(&file), "{length}");
            assert_eq!(opened(&file).unwrap(), plaintext(length));
        }
    }

    #[test]
    fn ranges_leave_no_gap() {
        for length in 0..5 * SMALL {
            let file = sealed(&plaintext(length));
            let segments = parse(&file).unwrap();
            let (mut cipher, mut plain) = (HEADER_LEN as u64, 0);
            for number in 0..segments.count() {
                let (a, b) = (
                    segments.ciphertext_range(number),
                    segments.plaintext_range(number),
                );
                assert_eq!((a.start, b.start), (cipher, plain));
                for position in b.clone() {
                    assert_eq!(segments.containing(position), u64::from(number));
                }
                (cipher, plain) = (a.end, b.end);
            }
            assert_eq!((cipher, plain), (file.len() as u64, length as u64));
        }
    }

    #[test]
    fn flipped_bit_anywhere_fails_where_a_reader_fails() {
        let file = sealed(&plaintext(150));
        for position in 0..file.len() {
            let mut changed = file.clone();
            changed[position] ^= 1;
            assert!(!agree(&changed), "{position}");
        }
    }

    #[test]
    fn other_segments_still_open_beside_a_changed_one() {
        let mut file = sealed(&plaintext(150));
        file[SMALL] ^= 1;
        let segments = parse(&file).unwrap();
        assert!(matches!(
            open(&segments, &file, 1),
            Err(CipherfileError::Segment { number: 1 })
        ));
        assert_eq!(open(&segments, &file, 0).unwrap(), plaintext(150)[..8]);
        assert_eq!(open(&segments, &file, 2).unwrap(), plaintext(150)[56..104]);
    }

    #[test]
    fn cut_anywhere_is_refused_as_a_reader_refuses_it() {
        for length in [150, 152, 0] {
            let file = sealed(&plaintext(length));
            for kept in 0..file.len() {
                assert!(!agree(&file[..kept]), "{length} {kept}");
            }
        }
    }

    #[test]
    fn cut_between_segments_is_called_cut() {
        let file = sealed(&plaintext(300));
        let segments = parse(&file[..2 * SMALL]).unwrap();
        assert_eq!(segments.count(), 2);
        assert!(matches!(
            open(&segments, &file[..2 * SMALL], 1),
            Err(CipherfileError::Truncated { number: 1 })
        ));
        assert!(open(&segments, &file, 0).is_ok(), "it was not touched");
    }

    #[test]
    fn added_bytes_are_refused_as_a_reader_refuses_them() {
        // The last segment is short, full, and empty.
        for length in [150, 152, 0] {
            let mut file = sealed(&plaintext(length));
            for _ in 0..2 * SMALL {
                file.push(7);
                assert!(!agree(&file), "{length}");
            }
        }
    }

    #[test]
    fn moved_segments_are_refused_in_each_other_s_place() {
        let file = sealed(&plaintext(300));
        let mut swapped = file.clone();
        swapped[SMALL..3 * SMALL].rotate_left(SMALL);
        assert!(!agree(&swapped));
        let segments = parse(&swapped).unwrap();
        for number in [1, 2] {
            assert!(open(&segments, &swapped, number).is_err());
        }
        let mut missing = file;
        missing.drain(SMALL..2 * SMALL);
        assert!(!agree(&missing));
    }

    #[test]
    fn header_of_another_file_opens_nothing() {
        let (a, b) = (sealed(&plaintext(150)), sealed(&plaintext(150)));
        let mixed = [&a[..HEADER_LEN], &b[HEADER_LEN..]].concat();
        let segments = parse(&mixed).unwrap();
        for number in 0..segments.count() {
            assert!(open(&segments, &mixed, number).is_err());
        }
    }

    #[test]
    fn wrong_key_and_wrong_name_open_nothing() {
        let file = sealed(&plaintext(150));
        let header = file[..HEADER_LEN].try_into().unwrap();
        let other = FileKey::from_slice(&[9; 32]).unwrap();
        for (key, name) in [(&other, NAME), (&key(), b"other")] {
            let len = file.len() as u64;
            let segments = Segments::with_segment_size(header, len, key, name, SMALL).unwrap();
            for number in 0..segments.count() {
                assert!(open(&segments, &file, number).is_err());
            }
        }
    }

    #[test]
    fn length_that_no_stream_has_is_refused_before_anything_is_opened() {
        let header = [HEADER_LEN_BYTE; HEADER_LEN];
        let parse = |len| Segments::parse(&header, len, &key(), NAME).err();
        assert!(matches!(
            parse(39),
            Some(CipherfileError::HeaderCut { found: 39, .. })
        ));
        assert!(matches!(
            parse(55),
            Some(CipherfileError::SegmentCut {
                number: 0,
                found: 15
            })
        ));
        assert!(matches!(
            parse(u64::MAX),
            Some(CipherfileError::TooManySegments)
        ));
        // The most that there can be, whole and one byte longer.
        let most = u64::from(u32::MAX) * SEGMENT_SIZE as u64;
        assert!(parse(most).is_none());
        assert!(matches!(
            parse(most + 16),
            Some(CipherfileError::TooManySegments)
        ));
    }

    #[test]
    fn one_set_of_segments_serves_several_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Segments>();
    }
}
