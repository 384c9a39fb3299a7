//! What the readers of this crate share.

use std::io::{self, Read};

/// Where a reader or writer stands. Once failed it stays so, whatever its caller does with the
/// error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    Ended,
    Failed,
}

/// Fills `buffer` from `reader` and returns how much of it, less than all only at the reader's end.
pub(crate) fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
pub(crate) mod doubles {
    use super::*;

    /// Hands out its bytes in pieces of the given sizes, over and over, with an `Interrupted`
    /// before each.
    pub(crate) struct Dribble<'a> {
        pub(crate) bytes: &'a [u8],
        pub(crate) sizes: &'a [usize],
        turn: usize,
    }

    impl<'a> Dribble<'a> {
        pub(crate) fn new(bytes: &'a [u8], sizes: &'a [usize]) -> Self {
            Self {
                bytes,
                sizes,
                turn: 0,
            }
        }
    }

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.turn += 1;
            if self.turn % 2 == 1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let size = self.sizes[self.turn / 2 % self.sizes.len()];
            let count = size.min(buffer.len()).min(self.bytes.len());
            buffer[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes = &self.bytes[count..];
            Ok(count)
        }
    }

    /// Reads to the end in pieces of the given sizes, over and over; keeps what came before an
    /// error.
    pub(crate) fn drain(reader: &mut impl Read, sizes: &[usize]) -> (Vec<u8>, Option<io::Error>) {
        let mut all = Vec::new();
        for size in sizes.iter().cycle() {
            let mut piece = vec![0; *size];
            match reader.read(&mut piece) {
                Ok(0) => return (all, None),
                Ok(count) => all.extend_from_slice(&piece[..count]),
                Err(error) => return (all, Some(error)),
            }
        }
        unreachable!("sizes are cycled")
    }
}
