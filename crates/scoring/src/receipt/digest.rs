//! SHA-256 over what is read from storage and what is written there, as it passes.
//!
//! A digest is of the very bytes that were handed on: who serves the storage could answer a second reading otherwise.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
    /// The digest of everything; `None` when nothing was read this way.
    ///
    /// # Errors
    /// When the stream was not read to its end: a part of a file has no digest.
    pub fn finish(self) -> io::Result<Option<Digest>> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (state.ended, state.bytes) {
            (true, _) => Ok(Some(state.digest())),
            (false, 0) => Ok(None),
            (false, _) => Err(not_to_its_end()),
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

/// Hashes what several threads read through it, in whatever order, and sees to it that the bytes that were handed out are
/// those of the digest.
///
/// Where places are read in turn, as the segments of a stream are, each byte is hashed when it is read. What is read
/// ahead waits until what lies before it was read, and the beginning may be read again, to look at a file's form before its
/// contents. Where a file is read at many places, or not all of it, it is read once from its beginning to its end for the digest;
/// what was handed out before must have been the same, and what is handed out behind that is held against the digests of its pieces.
pub struct DigestingAt {
    inner: Arc<dyn ReadAt>,
    ordered: Mutex<Ordered>,
    pinned: OnceLock<Pinned>,
}

impl DigestingAt {
    /// Around a source.
    pub fn new(inner: Arc<dyn ReadAt>) -> Self {
        Self {
            inner,
            ordered: Mutex::new(Ordered {
                state: State::new(),
                beginning: Vec::new(),
                ahead: BTreeMap::new(),
                held: 0,
            }),
            pinned: OnceLock::new(),
        }
    }

    /// The digest of everything.
    ///
    /// # Errors
    /// When the source fails, or is no longer what was read.
    pub fn finish(&self) -> io::Result<Digest> {
        let mut ordered = self.ordered();
        match self.pinned.get() {
            Some(pinned) => Ok(pinned.digest.clone()),
            None if ordered.state.bytes == self.inner.size() => Ok(ordered.state.digest()),
            None => Ok(self.pin(&mut ordered)?.digest.clone()),
        }
    }

    fn pin(&self, ordered: &mut Ordered) -> io::Result<&Pinned> {
        let pinned = Pinned::new(&*self.inner, ordered)?;
        ordered.ahead.clear();
        Ok(self.pinned.get_or_init(|| pinned))
    }

    fn ordered(&self) -> MutexGuard<'_, Ordered> {
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner)
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
        if self.pinned.get().is_none() {
            self.inner.read_at(offset, buffer)?;
            let mut ordered = self.ordered();
            if self.pinned.get().is_none() {
                if ordered.takes(offset, buffer)? {
                    return Ok(());
                }
                self.pin(&mut ordered)?;
            }
        }
        match self.pinned.get() {
            Some(pinned) => pinned.read_at(&*self.inner, offset, buffer),
            None => Err(changed()),
        }
    }
}

/// What was read in turn.
struct Ordered {
    state: State,
    /// The first of it.
    beginning: Vec<u8>,
    /// What was read ahead, by its place.
    ahead: BTreeMap<u64, Vec<u8>>,
    /// The bytes in there.
    held: usize,
}

impl Ordered {
    /// Takes what was read, if it can be hashed in turn; otherwise nothing has changed.
    fn takes(&mut self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let end = offset.saturating_add(bytes.len() as u64);
        let overlaps = |(start, kept): (&u64, &Vec<u8>)| start + kept.len() as u64 > offset;
        if self.ahead.range(..end).next_back().is_some_and(overlaps) {
            return Ok(false);
        }
        if offset > self.state.bytes {
            if self.held.saturating_add(bytes.len()) > MAX_AHEAD {
                return Ok(false);
            }
            self.held += bytes.len();
            self.ahead.insert(offset, bytes.to_vec());
            return Ok(true);
        }
        let known = usize::try_from(self.state.bytes - offset)
            .map_or(bytes.len(), |known| known.min(bytes.len()));
        let (again, new) = bytes.split_at(known);
        if !again.is_empty() {
            let place = usize::try_from(offset).ok();
            let before =
                place.and_then(|start| self.beginning.get(start..start.checked_add(known)?));
            match before {
                None => return Ok(false),
                Some(before) if before != again => return Err(changed()),
                Some(_) => {}
            }
        }
        self.update(new);
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() != self.state.bytes {
                break;
            }
            let kept = entry.remove();
            self.held -= kept.len();
            self.update(&kept);
        }
        Ok(true)
    }

    fn update(&mut self, bytes: &[u8]) {
        let room = BEGINNING.saturating_sub(self.beginning.len());
        let first = bytes.get(..room).unwrap_or(bytes);
        self.beginning.extend_from_slice(first);
        self.state.update(bytes);
    }
}

/// The digests of a file's pieces, and of all of it.
struct Pinned {
    pieces: Vec<[u8; 32]>,
    digest: Digest,
}

impl Pinned {
    /// Reads a file from its beginning to its end, and compares it with what was handed out already.
    fn new(source: &dyn ReadAt, before: &Ordered) -> io::Result<Self> {
        let size = source.size();
        let mut state = State::new();
        let mut pieces = Vec::new();
        let mut buffer = vec![0; PIECE];
        while state.bytes < size {
            let start = state.bytes;
            let length = usize::try_from(size - start).map_or(PIECE, |left| left.min(PIECE));
            let (piece, end) = (&mut buffer[..length], start + length as u64);
            source.read_at(start, piece)?;
            pieces.push(sha256(piece));
            if (start + 1..=end).contains(&before.state.bytes) {
                let (handed_out, rest) = piece.split_at(place(before.state.bytes - start)?);
                state.update(handed_out);
                if state.digest() != before.state.digest() {
                    return Err(changed());
                }
                state.update(rest);
            } else {
                state.update(piece);
            }
            for (at, kept) in before.ahead.range(..end) {
                let (from, to) = (start.max(*at), end.min(at + kept.len() as u64));
                if from < to
                    && kept[place(from - at)?..place(to - at)?]
                        != piece[place(from - start)?..place(to - start)?]
                {
                    return Err(changed());
                }
            }
        }
        Ok(Self {
            pieces,
            digest: state.digest(),
        })
    }

    /// Fills a buffer, with whole pieces read and compared.
    fn read_at(&self, source: &dyn ReadAt, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(buffer.len() as u64);
        let (size, mut at, mut whole) = (self.digest.bytes, offset, Vec::new());
        if end > size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while at < end {
            let number = at / PIECE as u64;
            let start = number * PIECE as u64;
            let stop = size.min(start + PIECE as u64);
            whole.resize(place(stop - start)?, 0);
            source.read_at(start, &mut whole)?;
            if self.pieces.get(place(number)?) != Some(&sha256(&whole)) {
                return Err(changed());
            }
            let until = stop.min(end);
            buffer[place(at - offset)?..place(until - offset)?]
                .copy_from_slice(&whole[place(at - start)?..place(until - start)?]);
            at = until;
        }
        Ok(())
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref());
    out
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
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

fn changed() -> io::Error {
    io::Error::other("it was changed while it was read, so no digest is of what was used")
}

/// Threads that take segments in turn stay below this.
const MAX_AHEAD: usize = 32 << 20;
/// What may be read again without another reading of the whole: the first segment of a file.
const BEGINNING: usize = 2 << 20;
/// What is read at once of a file that is read at many places.
const PIECE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

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
        assert_eq!(digest.finish().unwrap(), Some(of(&content)));
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
        let content: Vec<u8> = content().repeat(30);
        let source = || DigestingAt::new(Arc::new(Bytes::from(content.clone())));
        let read = |source: &DigestingAt, offset: usize, length: usize| {
            let mut buffer = vec![0; length];
            source.read_at(offset as u64, &mut buffer).unwrap();
            assert!(buffer == content[offset..offset + length], "{offset}");
        };
        // The form is looked at first, and its header and first segment once more.
        let segments = source();
        read(&segments, 0, 64);
        read(&segments, 0, 500_100);
        for segment in [2, 0, 1, 4, 3] {
            read(&segments, 100 + segment * 500_000, 500_000);
        }
        read(&segments, 2_500_100, content.len() - 2_500_100);
        assert!(segments.pinned.get().is_none(), "it is read once more");
        assert_eq!(segments.finish().unwrap(), of(&content));
        // At many places, some of them twice and others not at all.
        let columns = source();
        for (offset, length) in [
            (content.len() - 8, 8),
            (0, 4),
            (content.len() - 5_000, 5_000),
            (1_048_570, 12),
            (700_000, 3_000_000),
            (5_000_000, 1),
            (700_000, 3_000_000),
        ] {
            read(&columns, offset, length);
        }
        assert_eq!(columns.finish().unwrap(), of(&content));
        assert_eq!(source().finish().unwrap(), of(&content));
        let mut beyond = [0; 2];
        assert!(
            columns
                .read_at(content.len() as u64 - 1, &mut beyond)
                .is_err()
        );
    }

    /// A storage that answers otherwise from some reading on.
    struct Turning {
        before: Vec<u8>,
        after: Vec<u8>,
        left: AtomicUsize,
    }

    impl ReadAt for Turning {
        fn size(&self) -> u64 {
            self.before.len() as u64
        }

        fn version(&self) -> Option<&str> {
            None
        }

        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let left = self.left.load(Ordering::SeqCst);
            self.left.store(left.saturating_sub(1), Ordering::SeqCst);
            let bytes = if left > 0 { &self.before } else { &self.after };
            let offset = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&bytes[offset..offset + buffer.len()]);
            Ok(())
        }
    }

    #[test]
    fn storage_that_answers_otherwise_later_gets_the_digest_that_it_likes() {
        let after = content().repeat(10);
        let mut before = after.clone();
        for place in [10, 1_500_000, 2_999_999] {
            before[place] ^= 1;
        }
        let whole = [(0, 3_000_000)];
        let plans: [&[(u64, usize)]; 4] = [
            // The header, and then all of it.
            &[(0, 64), (0, 3_000_000)],
            // A segment far ahead, and then not all of the rest.
            &[(2_900_000, 100_000)],
            &[(1_400_000, 200_000), (1_450_000, 100_000)],
            // All of it, and the middle once more.
            &[(0, 3_000_000), (2_500_000, 500_000)],
        ];
        for plan in plans {
            let source = DigestingAt::new(Arc::new(Turning {
                before: before.clone(),
                after: after.clone(),
                left: AtomicUsize::new(1),
            }));
            let read =
                |(offset, length): &(u64, usize)| source.read_at(*offset, &mut vec![0; *length]);
            let all = plan.iter().try_for_each(read);
            let digest = all.and_then(|()| source.finish());
            assert!(digest.is_err(), "{plan:?}");
        }
        let honest = DigestingAt::new(Arc::new(Turning {
            before: before.clone(),
            after,
            left: AtomicUsize::new(usize::MAX),
        }));
        for (offset, length) in whole {
            honest.read_at(offset, &mut vec![0; length]).unwrap();
        }
        assert_eq!(honest.finish().unwrap(), of(&before));
    }
}
