//! Reading by position, and in order.

use std::io::{self, Read};
use std::sync::Arc;

pub use crate::read_at::ReadAt;

/// Reads from the beginning to the end.
pub struct Reader {
    source: Arc<dyn ReadAt>,
    position: u64,
}

impl Reader {
    /// Reads `source` from its beginning.
    pub fn new(source: Arc<dyn ReadAt>) -> Self {
        Self {
            source,
            position: 0,
        }
    }

    /// What is read.
    pub fn source(&self) -> &Arc<dyn ReadAt> {
        &self.source
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.source.size().saturating_sub(self.position);
        let length = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let (now, _) = buffer.split_at_mut(length);
        if !now.is_empty() {
            self.source.read_at(self.position, now)?;
            self.position += length as u64;
        }
        Ok(length)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::storage::local::LocalFile;

    #[test]
    fn reader_loses_the_end_or_goes_beyond() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(100_003).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let mut reader = Reader::new(Arc::new(LocalFile::open(file.path()).unwrap()));
        let mut read = Vec::new();
        let mut piece = [0; 777];
        loop {
            let length = reader.read(&mut piece).unwrap();
            if length == 0 {
                break;
            }
            read.extend_from_slice(&piece[..length]);
        }
        assert!(read == bytes);
        assert_eq!(reader.read(&mut piece).unwrap(), 0);
    }
}
