//! All cores over one file: parts are taken in order, read and scored each by one thread, and put
//! together again in order. So the outcome is that of one thread, to the byte, and memory is that of
//! the parts under way.
//!
//! A part of CSV begins and ends anywhere. Its thread scores the lines that are whole in it; the
//! pieces before the first line end and after the last are joined with their neighbours' pieces here.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use strongroom_cipherfile::tink_stream::Segments;
use zeroize::Zeroizing;

use super::ScoreError;
use super::csv::Lines;
use super::part::{Part, Sink};
use super::record::MAX_LINE;
use crate::read_at::ReadAt;

/// Bytes of a part. Its size decides where sums are rounded, so it is the same on every machine.
pub(super) const PART: usize = 1 << 20;

/// Memory of a part, encrypted or not. It does not grow: that would leave a copy behind.
const CAPACITY: usize = PART + 64;

/// Where the bytes of a file come from.
pub(super) enum Source<'a> {
    /// A reader that hands out plaintext; one thread at a time reads.
    Stream(&'a mut (dyn Read + Send)),
    /// A cipherfile whose segments are the parts; each thread reads and opens its own.
    Segments {
        file: &'a dyn ReadAt,
        segments: &'a Segments,
    },
}

/// The parts of a file, handed out in order to whoever asks next.
pub(super) struct Parts<'a> {
    source: Source<'a>,
    /// The first part, which was read for its header, and where its rows begin.
    first: Option<Zeroizing<Vec<u8>>>,
    next: u64,
    /// Whether what is read is digested, and the digest of the first part.
    digests: bool,
    first_digest: Option<PartDigest>,
}

/// The SHA-256 of a part. Those of all parts make up that of the file, so that each thread digests
/// its own.
pub(super) type PartDigest = [u8; 32];

/// The digest of what was read before, and of the part behind it.
pub(super) fn digest_on(before: &PartDigest, part: &PartDigest) -> PartDigest {
    digest_of(&[&before[..], part].concat())
}

fn digest_of(bytes: &[u8]) -> PartDigest {
    let mut out = PartDigest::default();
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

impl<'a> Parts<'a> {
    /// Reads the first part. With `digests`, what comes from a reader is digested: nothing else tells
    /// it from what the reader hands out another time.
    pub(super) fn begin(source: Source<'a>, digests: bool) -> io::Result<Self> {
        let mut parts = Self {
            digests: digests && matches!(source, Source::Stream(_)),
            source,
            first: None,
            next: 0,
            first_digest: None,
        };
        let mut first = Zeroizing::new(Vec::with_capacity(CAPACITY));
        let claim = parts.claim(&mut first);
        if claim.read? {
            claim.open.map_or(Ok(()), |open| open.into(&mut first))?;
        }
        parts.first_digest = parts.digests.then(|| digest_of(&first));
        parts.first = Some(first);
        parts.next = 0;
        Ok(parts)
    }

    /// The bytes of the first part.
    pub(super) fn first(&self) -> &[u8] {
        self.first.as_ref().map_or(&[], |first| first.as_slice())
    }

    /// Goes on with a later part, before which there are so many bytes of plaintext. Gives the digest
    /// of them, where they are digested.
    pub(super) fn go_on_with(&mut self, part: u64, before: u64) -> io::Result<Option<PartDigest>> {
        if part == 0 {
            return Ok(None);
        }
        let mut buffer = self.first.take().unwrap_or_default();
        self.next = part;
        match &mut self.source {
            Source::Stream(input) => {
                let mut digest = PartDigest::default();
                if let Some(first) = self.first_digest.take() {
                    digest = digest_on(&digest, &first);
                }
                let mut done = buffer.len() as u64;
                while done < before {
                    buffer.clear();
                    let input: &mut (dyn Read + Send) = &mut **input;
                    let length = (before - done).min(PART as u64);
                    let read = input.take(length).read_to_end(&mut buffer)?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    if self.digests {
                        digest = digest_on(&digest, &digest_of(&buffer));
                    }
                    done += read as u64;
                }
                Ok(self.digests.then_some(digest))
            }
            Source::Segments { segments, .. } if part <= u64::from(segments.count()) => Ok(None),
            Source::Segments { .. } => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Takes off what is no row.
    pub(super) fn skip(&mut self, bytes: usize) {
        if let Some(first) = &mut self.first {
            let bytes = bytes.min(first.len());
            first.drain(..bytes);
        }
    }

    /// Takes the next part for the caller. Of a stream it is in `buffer` then.
    fn claim(&mut self, buffer: &mut Zeroizing<Vec<u8>>) -> Claim<'a> {
        let number = self.next;
        self.next += 1;
        if let Some(first) = self.first.take() {
            *buffer = first;
            return Claim {
                number,
                read: Ok(true),
                open: None,
                digest: self.first_digest.take(),
                digests: false,
            };
        }
        match &mut self.source {
            Source::Stream(input) => {
                buffer.clear();
                let input: &mut (dyn Read + Send) = &mut **input;
                let read = input.take(PART as u64).read_to_end(buffer);
                Claim {
                    number,
                    read: read.map(|read| read > 0),
                    open: None,
                    digest: None,
                    digests: self.digests,
                }
            }
            Source::Segments { file, segments } => {
                let (file, segments) = (*file, *segments);
                let segment = u32::try_from(number)
                    .ok()
                    .filter(|at| *at < segments.count());
                Claim {
                    number,
                    read: Ok(segment.is_some()),
                    open: segment.map(|segment| Open {
                        file,
                        segments,
                        segment,
                    }),
                    digest: None,
                    digests: false,
                }
            }
        }
    }
}

/// A part that belongs to one thread.
struct Claim<'a> {
    number: u64,
    /// Whether there is such a part.
    read: io::Result<bool>,
    /// What is left to do to have its bytes.
    open: Option<Open<'a>>,
    /// Its digest, or whether it is still to be digested.
    digest: Option<PartDigest>,
    digests: bool,
}

/// A segment that is still to be read and opened.
struct Open<'a> {
    file: &'a dyn ReadAt,
    segments: &'a Segments,
    segment: u32,
}

impl Open<'_> {
    fn into(self, buffer: &mut Zeroizing<Vec<u8>>) -> io::Result<()> {
        let place = self.segments.ciphertext_range(self.segment);
        let length = usize::try_from(place.end - place.start).map_err(io::Error::other)?;
        buffer.resize(length, 0);
        self.file.read_at(place.start, buffer)?;
        let opened = self.segments.open_in_place(self.segment, buffer)?.len();
        buffer.truncate(opened);
        Ok(())
    }
}

/// What becomes of the parts, in their order.
pub(super) trait Commit<T>: Send {
    /// The next part.
    fn part(&mut self, part: T) -> Result<(), ScoreError>;
}

/// A part of a CSV file, once read.
#[derive(Default)]
pub(super) struct CsvPart {
    /// Up to and with the first line end, or all of it when there is none.
    pub(super) head: Zeroizing<Vec<u8>>,
    /// Whether `head` ends with a line end.
    pub(super) head_ends: bool,
    /// The rows that are whole.
    pub(super) body: Part,
    /// Behind the last line end.
    pub(super) tail: Zeroizing<Vec<u8>>,
    /// A line of the body that no row could need: it ended the part.
    pub(super) has_long_line: bool,
    /// Bytes of the part.
    pub(super) bytes: u64,
    /// Their digest, where they are digested.
    pub(super) digest: Option<PartDigest>,
}

/// What each thread has of its own.
pub(super) struct Worker<'a> {
    pub(super) lines: Lines<'a>,
    pub(super) sink: Sink<'a>,
}

/// Reads, scores and commits all parts; gives the rest behind the last line end to the caller
/// through `commit`.
pub(super) fn run(
    parts: Parts<'_>,
    workers: Vec<Worker<'_>>,
    commit: &mut dyn Commit<CsvPart>,
    file: &str,
) -> Result<(), ScoreError> {
    let first = parts.next;
    let parts = Mutex::new(parts);
    in_order(first, workers, commit, |worker, order| {
        work(worker, &parts, order, file);
    })
}

/// Lets each worker do its work on a thread of its own, and commits what they put in its order,
/// from the part with the number `first` on.
pub(super) fn in_order<W: Send, T: Send>(
    first: u64,
    workers: Vec<W>,
    commit: &mut dyn Commit<T>,
    work: impl Fn(W, &Order<'_, T>) + Sync,
) -> Result<(), ScoreError> {
    let window = 2 * workers.len();
    let order = Order {
        state: Mutex::new(State {
            next: first,
            waiting: BTreeMap::new(),
            commit,
            ended: None,
        }),
        moved: Condvar::new(),
        window,
    };
    let guarded = |worker| {
        // A panic of one thread would leave the others waiting for its part.
        let _ends_the_rest = EndOnPanic(&order);
        work(worker, &order);
    };
    std::thread::scope(|scope| {
        let mut workers = workers.into_iter();
        let own = workers.next();
        for worker in workers {
            scope.spawn(|| guarded(worker));
        }
        if let Some(worker) = own {
            guarded(worker);
        }
    });
    let state = order
        .state
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    state.ended.unwrap_or(Ok(()))
}

/// How many threads a machine has for this.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn work(mut worker: Worker<'_>, parts: &Mutex<Parts<'_>>, order: &Order<'_, CsvPart>, file: &str) {
    let mut buffer = Zeroizing::new(Vec::with_capacity(CAPACITY));
    loop {
        let claim = {
            let mut parts = lock(parts);
            if order.has_ended() {
                return;
            }
            parts.claim(&mut buffer)
        };
        let (digest, digests) = (claim.digest, claim.digests);
        let opened = match (claim.read, claim.open) {
            (Ok(false), _) => return,
            (Ok(true), Some(open)) => open.into(&mut buffer),
            (Ok(true), None) => Ok(()),
            (Err(error), _) => Err(error),
        };
        let part = opened
            .map_err(|source| ScoreError::Read {
                file: file.to_owned(),
                source,
            })
            .and_then(|()| worker.part(&buffer))
            .map(|part| CsvPart {
                digest: digest.or_else(|| digests.then(|| digest_of(&buffer))),
                ..part
            });
        let failed = part.is_err();
        order.put(claim.number, part);
        if failed {
            return;
        }
    }
}

impl Worker<'_> {
    fn part(&mut self, bytes: &[u8]) -> Result<CsvPart, ScoreError> {
        let mut part = CsvPart {
            bytes: bytes.len() as u64,
            ..CsvPart::default()
        };
        let first = bytes.iter().position(|&byte| byte == b'\n');
        let last = bytes.iter().rposition(|&byte| byte == b'\n');
        let (head, body, tail) = match (first, last) {
            (Some(first), Some(last)) => {
                part.head_ends = true;
                (
                    &bytes[..=first],
                    &bytes[first + 1..last + 1],
                    &bytes[last + 1..],
                )
            }
            _ => (bytes, &[][..], &[][..]),
        };
        // Pieces of a line that is too long in any case need not be kept whole.
        part.head = Zeroizing::new(head[..head.len().min(MAX_LINE + 2)].to_vec());
        part.tail = Zeroizing::new(tail[..tail.len().min(MAX_LINE + 2)].to_vec());
        part.has_long_line = self.lines.read(body, &mut self.sink).is_err();
        part.body = self.sink.finish()?;
        Ok(part)
    }
}

/// Puts parts into their order.
pub(super) struct Order<'a, T> {
    state: Mutex<State<'a, T>>,
    moved: Condvar,
    window: usize,
}

struct State<'a, T> {
    next: u64,
    waiting: BTreeMap<u64, Result<T, ScoreError>>,
    commit: &'a mut dyn Commit<T>,
    /// How it ended, once it did before the end of the file.
    ended: Option<Result<(), ScoreError>>,
}

impl<T> Order<'_, T> {
    pub(super) fn has_ended(&self) -> bool {
        lock(&self.state).ended.is_some()
    }

    /// Takes a part, commits all that are next, and waits while too many are ahead of the next. Who
    /// goes on with the next one does not wait.
    pub(super) fn put(&self, number: u64, part: Result<T, ScoreError>) {
        let mut state = lock(&self.state);
        state.waiting.insert(number, part);
        while state.ended.is_none()
            && let next = state.next
            && let Some(part) = state.waiting.remove(&next)
        {
            state.next += 1;
            let committed = part.and_then(|part| state.commit.part(part));
            if committed.is_err() {
                state.ended = Some(committed);
            }
        }
        self.moved.notify_all();
        while state.ended.is_none()
            && state.waiting.len() >= self.window
            && state.next != number + 1
        {
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct EndOnPanic<'a, 'b, T>(&'a Order<'b, T>);

impl<T> Drop for EndOnPanic<'_, '_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.state).ended.get_or_insert(Ok(()));
            self.0.moved.notify_all();
        }
    }
}

/// A thread that panicked while it held the lock is reported by the scope.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
