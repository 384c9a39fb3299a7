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

use super::ScoreError;
use super::csv::Lines;
use super::part::{Part, Sink};
use super::record::MAX_LINE;

/// Bytes of a part. Its size decides where sums are rounded, so it is the same on every machine.
pub(super) const PART: usize = 1 << 20;

/// What hands out the parts of a file, in order, to whoever asks next.
pub(super) trait Parts: Send {
    /// Reads the next part into `buffer`, which is cleared first; false at the end of the file.
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool>;
}

/// The parts of a stream.
pub(super) struct StreamParts<'a> {
    pub(super) input: &'a mut (dyn Read + Send),
}

impl Parts for StreamParts<'_> {
    fn next(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        buffer.clear();
        let input: &mut (dyn Read + Send) = &mut *self.input;
        let read = input.take(PART as u64).read_to_end(buffer)?;
        Ok(read > 0)
    }
}

/// What becomes of the parts, in their order.
pub(super) trait Commit: Send {
    /// The next part.
    fn part(&mut self, part: CsvPart) -> Result<(), ScoreError>;
}

/// A part of a CSV file, once read.
#[derive(Default)]
pub(super) struct CsvPart {
    /// Up to and with the first line end, or all of it when there is none.
    pub(super) head: Vec<u8>,
    /// Whether `head` ends with a line end.
    pub(super) head_ends: bool,
    /// The rows that are whole.
    pub(super) body: Part,
    /// Behind the last line end.
    pub(super) tail: Vec<u8>,
    /// A line of the body that no row could need: it ended the part.
    pub(super) has_long_line: bool,
    /// Bytes of the part.
    pub(super) bytes: u64,
}

/// What each thread has of its own.
pub(super) struct Worker<'a> {
    pub(super) lines: Lines<'a>,
    pub(super) sink: Sink<'a>,
}

/// Reads, scores and commits all parts; gives the rest behind the last line end to the caller
/// through `commit`.
pub(super) fn run(
    parts: &mut dyn Parts,
    workers: Vec<Worker<'_>>,
    commit: &mut dyn Commit,
    file: &str,
) -> Result<(), ScoreError> {
    let window = 2 * workers.len();
    let source = Mutex::new(Source { parts, next: 0 });
    let order = Order {
        state: Mutex::new(State {
            next: 0,
            waiting: BTreeMap::new(),
            commit,
            ended: None,
        }),
        moved: Condvar::new(),
        window,
    };
    std::thread::scope(|scope| {
        let mut workers = workers.into_iter();
        let own = workers.next();
        for worker in workers {
            scope.spawn(|| work(worker, &source, &order, file));
        }
        if let Some(worker) = own {
            work(worker, &source, &order, file);
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

struct Source<'a> {
    parts: &'a mut dyn Parts,
    next: u64,
}

fn work(mut worker: Worker<'_>, source: &Mutex<Source<'_>>, order: &Order<'_>, file: &str) {
    // A panic of one thread would leave the others waiting for its part.
    let _ends_the_rest = EndOnPanic(order);
    let mut buffer = Vec::with_capacity(PART);
    loop {
        let (number, read) = {
            let mut source = lock(source);
            if order.has_ended() {
                return;
            }
            let number = source.next;
            let read = source.parts.next(&mut buffer);
            source.next += 1;
            (number, read)
        };
        let part = match read {
            Ok(true) => worker.part(&buffer),
            Ok(false) => return,
            Err(source) => Err(ScoreError::Read {
                file: file.to_owned(),
                source,
            }),
        };
        let failed = part.is_err();
        order.put(number, part);
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
        part.head
            .extend_from_slice(&head[..head.len().min(MAX_LINE + 2)]);
        part.tail
            .extend_from_slice(&tail[..tail.len().min(MAX_LINE + 2)]);
        part.has_long_line = self.lines.read(body, &mut self.sink).is_err();
        part.body = self.sink.finish()?;
        Ok(part)
    }
}

/// Puts parts into their order.
struct Order<'a> {
    state: Mutex<State<'a>>,
    moved: Condvar,
    window: usize,
}

struct State<'a> {
    next: u64,
    waiting: BTreeMap<u64, Result<CsvPart, ScoreError>>,
    commit: &'a mut dyn Commit,
    /// How it ended, once it did before the end of the file.
    ended: Option<Result<(), ScoreError>>,
}

impl Order<'_> {
    fn has_ended(&self) -> bool {
        lock(&self.state).ended.is_some()
    }

    /// Takes a part, commits all that are next, and waits while too many are ahead of the next.
    fn put(&self, number: u64, part: Result<CsvPart, ScoreError>) {
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
        while state.ended.is_none() && state.waiting.len() >= self.window {
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct EndOnPanic<'a, 'b>(&'a Order<'b>);

impl Drop for EndOnPanic<'_, '_> {
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
