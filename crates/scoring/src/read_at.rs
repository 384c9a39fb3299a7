//! Bytes that can be read at any place: a file, an object in a store, a buffer.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;

/// A source of known length that several threads read at once.
pub trait ReadAt: Send + Sync {
    /// How many bytes there are.
    fn size(&self) -> u64;

    /// What tells this version of the source from another, such as an entity tag. `None` where
    /// nothing does.
    fn version(&self) -> Option<&str>;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When the source fails, ends before the buffer is full, or is no longer what it was.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for Bytes {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn version(&self) -> Option<&str> {
        None
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let place = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(buffer.len())?));
        match place.and_then(|place| self.get(place)) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Reads a [`ReadAt`] from its beginning to its end.
pub struct Sequential {
    source: Arc<dyn ReadAt>,
    position: u64,
}

impl Sequential {
    /// At the beginning of the source.
    pub fn new(source: Arc<dyn ReadAt>) -> Self {
        Self {
            source,
            position: 0,
        }
    }
}

impl Read for Sequential {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.source.size().saturating_sub(self.position);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        self.source.read_at(self.position, &mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_past_the_end_gives_what_is_there() {
        let source = Bytes::from_static(b"0123456789");
        let mut buffer = [0; 4];
        source.read_at(6, &mut buffer).unwrap();
        assert_eq!(&buffer, b"6789");
        for offset in [7, 11, u64::MAX] {
            let error = source.read_at(offset, &mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}");
        }
    }

    #[test]
    fn last_bytes_are_lost_to_a_sequential_reader() {
        let text: Vec<u8> = (0..=255).collect();
        let mut reader = Sequential::new(Arc::new(Bytes::from(text.clone())));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, text);
    }
}
