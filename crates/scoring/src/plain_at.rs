//! The plaintext of an encrypted file, readable at any place: what a Parquet or Arrow file inside a
//! cipherfile needs.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use strongroom_cipherfile::tink_stream::Segments;
use strongroom_cipherfile::{CipherfileError, FileKey};
use zeroize::Zeroizing;

use crate::read_at::ReadAt;

/// The plaintext of a [`ReadAt`] that holds an encrypted file. A read opens the segments that it
/// touches; the last few stay open.
pub struct PlainAt {
    source: Arc<dyn ReadAt>,
    segments: Segments,
    open: Mutex<VecDeque<(u32, OpenSegment)>>,
}

type OpenSegment = Arc<Zeroizing<Vec<u8>>>;

impl PlainAt {
    /// Takes the segments of a source, and opens the last of them: after that the length that
    /// [`ReadAt::size`] tells is the one that was encrypted.
    ///
    /// # Errors
    /// When the source fails, or its last segment does not open.
    pub fn new(source: Arc<dyn ReadAt>, segments: Segments) -> Result<Self, CipherfileError> {
        let plain = Self {
            source,
            segments,
            open: Mutex::new(VecDeque::with_capacity(KEPT_OPEN)),
        };
        plain.segment(plain.segments.count() - 1)?;
        Ok(plain)
    }

    /// The plaintext of a [Tink stream](strongroom_cipherfile::tink_stream) under this key and name.
    ///
    /// # Errors
    /// As [`PlainAt::new`], and when the source is not one.
    pub fn tink(
        source: Arc<dyn ReadAt>,
        key: &FileKey,
        name: &[u8],
    ) -> Result<Self, CipherfileError> {
        let mut header = [0; Segments::HEADER_LEN];
        let size = source.size();
        if size < header.len() as u64 {
            return Err(CipherfileError::HeaderCut {
                // Below 40, so it fits.
                found: size as usize,
                wanted: header.len(),
            });
        }
        source
            .read_at(0, &mut header)
            .map_err(CipherfileError::from)?;
        let segments = Segments::parse(&header, size, key, name)?;
        Self::new(source, segments)
    }

    fn segment(&self, number: u32) -> Result<OpenSegment, CipherfileError> {
        if let Some(found) = self.kept(number) {
            return Ok(found);
        }
        // Opened outside the lock: two threads that want the same one both open it.
        let place = self.segments.ciphertext_range(number);
        // A segment is at most 16 MiB.
        let mut bytes = Zeroizing::new(vec![0; (place.end - place.start) as usize]);
        self.source.read_at(place.start, &mut bytes)?;
        let length = self.segments.open_in_place(number, &mut bytes)?.len();
        bytes.truncate(length);
        let segment = Arc::new(bytes);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= KEPT_OPEN {
            open.pop_front();
        }
        open.push_back((number, Arc::clone(&segment)));
        Ok(segment)
    }

    /// A segment that is still open. It becomes the last to be closed.
    fn kept(&self, number: u32) -> Option<OpenSegment> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let at = open.iter().position(|(kept, _)| *kept == number)?;
        let found = open.remove(at)?;
        let segment = Arc::clone(&found.1);
        open.push_back(found);
        Some(segment)
    }
}

impl ReadAt for PlainAt {
    fn size(&self) -> u64 {
        self.segments.plaintext_len()
    }

    fn version(&self) -> Option<&str> {
        self.source.version()
    }

    fn read_at(&self, offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut position = offset;
        while !buffer.is_empty() {
            // Inside the file, so there is such a segment.
            let number = self.segments.containing(position) as u32;
            let start = position - self.segments.plaintext_range(number).start;
            let segment = self.segment(number)?;
            let there = &segment[start as usize..];
            let count = there.len().min(buffer.len());
            buffer[..count].copy_from_slice(&there[..count]);
            buffer = &mut buffer[count..];
            position += count as u64;
        }
        Ok(())
    }
}

/// Segments that stay open: a few columns are read side by side, each at a place of its own.
const KEPT_OPEN: usize = 12;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use strongroom_cipherfile::tink_stream::{Encryptor, SEGMENT_SIZE};

    use super::*;
    use crate::storage::Reader;

    const NAME: &[u8] = b"rows.parquet";

    fn key() -> FileKey {
        FileKey::from_slice(&[7; 32]).unwrap()
    }

    fn plaintext(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 31 % 253) as u8).collect()
    }

    fn sealed(plaintext: &[u8]) -> Vec<u8> {
        let mut writer = Encryptor::new(Vec::new(), &key(), NAME).unwrap();
        writer.write_all(plaintext).unwrap();
        writer.finish().unwrap()
    }

    fn opened(file: Vec<u8>) -> Result<PlainAt, CipherfileError> {
        PlainAt::tink(Arc::new(Bytes::from(file)), &key(), NAME)
    }

    #[test]
    fn bytes_at_any_place_are_those_that_were_encrypted() {
        let text = plaintext(3 * SEGMENT_SIZE + 77);
        let plain = opened(sealed(&text)).unwrap();
        assert_eq!(plain.size(), text.len() as u64);
        let first = SEGMENT_SIZE - 56;
        for start in [
            0,
            1,
            first - 1,
            first,
            first + SEGMENT_SIZE - 20,
            text.len() - 5,
        ] {
            for length in [0, 1, 5, 2 * SEGMENT_SIZE] {
                let mut buffer = vec![0; length];
                let result = plain.read_at(start as u64, &mut buffer);
                match text.get(start..start + length) {
                    Some(expected) => assert!(result.is_ok() && buffer == expected),
                    None => assert!(result.is_err(), "{start} {length}"),
                }
            }
        }
    }

    #[test]
    fn whole_file_read_in_order_is_the_plaintext() {
        for length in [0, 1, SEGMENT_SIZE - 56, 2 * SEGMENT_SIZE] {
            let text = plaintext(length);
            let plain = opened(sealed(&text)).unwrap();
            let mut read = Vec::new();
            Reader::new(Arc::new(plain)).read_to_end(&mut read).unwrap();
            assert!(read == text, "{length}");
        }
    }

    #[test]
    fn cut_file_is_refused_before_a_byte_is_read() {
        let file = sealed(&plaintext(3 * SEGMENT_SIZE));
        for kept in [0, 39, 40, SEGMENT_SIZE, 2 * SEGMENT_SIZE, file.len() - 1] {
            assert!(opened(file[..kept].to_vec()).is_err(), "{kept}");
        }
        assert!(opened([&file[..], b"x"].concat()).is_err());
    }

    #[test]
    fn changed_segment_fails_when_it_is_read() {
        let mut file = sealed(&plaintext(3 * SEGMENT_SIZE));
        file[SEGMENT_SIZE + 5] ^= 1;
        let plain = opened(file).unwrap();
        plain.read_at(0, &mut [0; 100]).unwrap();
        let error = plain.read_at(SEGMENT_SIZE as u64, &mut [0; 1]).unwrap_err();
        assert!(error.to_string().contains("segment 1"), "{error}");
    }

    #[test]
    fn segment_that_was_just_read_is_decrypted_again() {
        struct Counted(Bytes, AtomicUsize);
        impl ReadAt for Counted {
            fn size(&self) -> u64 {
                self.0.size()
            }
            fn version(&self) -> Option<&str> {
                Some("7")
            }
            fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
                self.1.fetch_add(1, Ordering::Relaxed);
                self.0.read_at(offset, buffer)
            }
        }
        let source = Arc::new(Counted(
            Bytes::from(sealed(&plaintext(2 * SEGMENT_SIZE))),
            AtomicUsize::new(0),
        ));
        let plain = PlainAt::tink(Arc::clone(&source) as _, &key(), NAME).unwrap();
        let before = source.1.load(Ordering::Relaxed);
        for offset in 0..100 {
            plain.read_at(offset * 1000, &mut [0; 1000]).unwrap();
        }
        assert_eq!(source.1.load(Ordering::Relaxed), before + 1);
        assert_eq!(plain.version(), Some("7"));
    }
}
