//! SHA-256 over what is read from storage and what is written there, as it passes.
//!
//! A digest is of the very bytes that were handed on: who serves the storage could answer a second reading otherwise.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

use crate::read_at::ReadAt;

/// How many bytes there were, and their digest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Digest {
    /// The number of bytes.
    pub bytes: u64,
    /// Their SHA-256, in hex.
    pub sha256: String,
}

/// Hashes what is read through it.
pub struct Digesting<R> {
    inner: R,
    state: Arc<Mutex<State>>,
}

/// The digest of what a [`Digesting`] read.
pub struct StreamDigest(Arc<Mutex<State>>);

impl<R: Read> Digesting<R> {
    /// Around a reader; the second part gives the digest when all was read.
    pub fn new(inner: R) -> (Self, StreamDigest) {
        let state = Arc::new(Mutex::new(State::new()));
        let digest = StreamDigest(Arc::clone(&state));
        (Self { inner, state }, digest)
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (count, buffer.get(..count)) {
            (0, _) => state.ended |= !buffer.is_empty(),
            (_, Some(read)) => state.update(read),
            (_, None) => return Err(io::Error::other("a reader read more than it was asked for")),
        }
        Ok(count)
    }
}

impl StreamDigest {
    /// The digest of everything.
    ///
    /// # Errors
    /// When the stream was not read to its end: a part of a file has no digest.
    pub fn finish(self) -> io::Result<Digest> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.ended {
            true => Ok(state.digest()),
            false => Err(not_to_its_end()),
        }
    }
}

/// Hashes what is written through it, if it is asked to.
pub struct DigestingWriter<W> {
    inner: W,
    state: Option<State>,
}

impl<W: Write> DigestingWriter<W> {
    /// Around a writer. Without being asked to hash it hands on what it is given.
    pub fn new(inner: W, hashes: bool) -> Self {
        Self {
            inner,
            state: hashes.then(State::new),
        }
    }

    /// The writer underneath, and the digest of what it was given.
    pub fn finish(self) -> (W, Option<Digest>) {
        let digest = self.state.map(|state| state.digest());
        (self.inner, digest)
    }
}

impl<W: Write> Write for DigestingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        if let Some(state) = &mut self.state {
            state.update(bytes.get(..count).unwrap_or(bytes));
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes what several threads read through it, each place once, whatever the order.
///
/// What is read ahead of the digest is kept until what lies before it was read: a few segments, where threads take them
/// in turn. The beginning of a file may be read again, to look at its form before its contents.
pub struct DigestingAt {
    inner: Arc<dyn ReadAt>,
    ordered: Mutex<Ordered>,
}

impl DigestingAt {
    /// Around a source.
    pub fn new(inner: Arc<dyn ReadAt>) -> Self {
        Self {
            inner,
            ordered: Mutex::new(Ordered {
                state: State::new(),
                ahead: BTreeMap::new(),
                held: 0,
            }),
        }
    }

    /// The digest of everything.
    ///
    /// # Errors
    /// When a part was never read.
    pub fn finish(&self) -> io::Result<Digest> {
        let ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        match ordered.state.bytes == self.inner.size() {
            true => Ok(ordered.state.digest()),
            false => Err(not_to_its_end()),
        }
    }
}

impl ReadAt for DigestingAt {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn version(&self) -> Option<&str> {
        self.inner.version()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)?;
        let mut ordered = self.ordered.lock().unwrap_or_else(PoisonError::into_inner);
        ordered.take(offset, buffer)
    }
}

struct Ordered {
    state: State,
    /// What was read ahead, by its place.
    ahead: BTreeMap<u64, Vec<u8>>,
    /// The bytes in there.
    held: usize,
}

impl Ordered {
    fn take(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        if offset > self.state.bytes {
            // Nothing that is kept may reach into what this is.
            let before = self.ahead.range(..end).next_back();
            if before.is_some_and(|(start, kept)| start + kept.len() as u64 > offset) {
                return Err(read_twice());
            }
            self.held += bytes.len();
            if self.held > MAX_AHEAD {
                return Err(io::Error::other(
                    "a file is read too far out of order to be hashed as it is read",
                ));
            }
            self.ahead.insert(offset, bytes.to_vec());
            return Ok(());
        }
        if offset < self.state.bytes && end > BEGINNING && !bytes.is_empty() {
            return Err(read_twice());
        }
        let known = usize::try_from(self.state.bytes - offset).unwrap_or(usize::MAX);
        self.state.update(bytes.get(known..).unwrap_or_default());
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() > self.state.bytes {
                break;
            }
            if *entry.key() < self.state.bytes {
                return Err(read_twice());
            }
            let kept = entry.remove();
            self.held -= kept.len();
            self.state.update(&kept);
        }
        Ok(())
    }
}

struct State {
    context: Context,
    bytes: u64,
    ended: bool,
}

impl State {
    fn new() -> Self {
        Self {
            context: Context::new(&SHA256),
            bytes: 0,
            ended: false,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn digest(&self) -> Digest {
        Digest {
            bytes: self.bytes,
            sha256: hex::encode(self.context.clone().finish()),
        }
    }
}

fn not_to_its_end() -> io::Error {
    io::Error::other("it was not read to its end, so it has no digest")
}

fn read_twice() -> io::Error {
    io::Error::other(
        "a place of a file was read twice, so its digest would not be of what was used",
    )
}

/// Threads that take segments in turn stay far below this.
const MAX_AHEAD: usize = 64 << 20;
/// What may be read again.
const BEGINNING: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::digest;
    use bytes::Bytes;

    use super::*;

    fn of(bytes: &[u8]) -> Digest {
        Digest {
            bytes: bytes.len() as u64,
            sha256: hex::encode(digest(&SHA256, bytes)),
        }
    }

    fn content() -> Vec<u8> {
        (0..300_000_u32).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn digest_of_a_stream_is_of_other_bytes() {
        let content = content();
        let (mut reader, digest) = Digesting::new(&content[..]);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(digest.finish().unwrap(), of(&content));
        let mut writer = DigestingWriter::new(Vec::new(), true);
        writer.write_all(&content).unwrap();
        let (written, digest) = writer.finish();
        assert_eq!((written.len(), digest), (content.len(), Some(of(&content))));
    }

    #[test]
    fn part_of_a_stream_has_a_digest() {
        let content = content();
        let (reader, digest) = Digesting::new(&content[..]);
        let mut read = vec![0; content.len()];
        let mut reader = reader;
        reader.read_exact(&mut read).unwrap();
        assert!(digest.finish().is_err());
    }

    #[test]
    fn order_of_reading_changes_the_digest() {
        let content = content();
        let source = DigestingAt::new(Arc::new(Bytes::from(content.clone())));
        let read = |offset: usize, length: usize| {
            let mut buffer = vec![0; length];
            source.read_at(offset as u64, &mut buffer).unwrap();
            assert_eq!(buffer, content[offset..offset + length]);
        };
        // The form is looked at first, and its header once more.
        read(0, 64);
        read(0, 100);
        for segment in [2, 1, 0, 4, 3] {
            let begin = 100 + segment * 50_000;
            read(begin, 50_000);
        }
        assert!(source.finish().is_err(), "the last segment was not read");
        read(250_100, 49_900);
        assert_eq!(source.finish().unwrap(), of(&content));
    }

    #[test]
    fn place_that_is_read_twice_has_the_digest_of_the_first_reading() {
        let content = Arc::new(Bytes::from(content()));
        let mut buffer = vec![0; 100_000];
        let source = DigestingAt::new(content.clone());
        source.read_at(0, &mut buffer).unwrap();
        assert!(source.read_at(50_000, &mut buffer).is_err());
        let source = DigestingAt::new(content.clone());
        source.read_at(150_000, &mut buffer).unwrap();
        assert!(source.read_at(140_000, &mut buffer).is_err());
        assert!(source.read_at(160_000, &mut buffer).is_err());
        let source = DigestingAt::new(content);
        source.read_at(90_000, &mut buffer[..10]).unwrap();
        assert!(source.read_at(0, &mut buffer).is_err());
    }
}
