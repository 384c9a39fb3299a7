//! Bytes that can be read at any place: a file, an object in a store, a buffer.

use std::io;

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
}
