//! An object that is read by position, with what comes next already on its way.
//!
//! The object is cut into blocks. Some are in memory or under way, never more than the window has; a block leaves it
//! when it was read to its end, or when another one needs the place. Reading in order keeps the window full of what
//! comes next, so that a link with a long way is kept busy; jumping about fetches what is asked for and no more.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::bridge::wait_on;
use super::connect::Target;
use super::error::{Cause, StorageError};
use super::fetch::{Version, empty, fetch};
use super::read::ReadAt;

/// How much is fetched ahead.
#[derive(Clone, Copy, Debug)]
pub struct ReadAhead {
    /// The bytes of a block: what one request brings.
    pub block: usize,
    /// How many blocks are in memory or under way at most, for each object that is read.
    pub blocks: usize,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self {
            block: 2 * 1024 * 1024,
            blocks: 6,
        }
    }
}

/// An open object of a storage.
pub(super) struct RemoteObject {
    shared: Arc<Shared>,
    handle: Handle,
    ahead: ReadAhead,
}

struct Shared {
    target: Target,
    version: Version,
    version_name: Option<String>,
    window: Mutex<Window>,
    changed: Condvar,
}

#[derive(Default)]
struct Window {
    blocks: BTreeMap<u64, Block>,
    /// The highest block that was asked for in order, so that order is told from jumping.
    newest: Option<u64>,
    /// Counts up: who was touched last.
    clock: u64,
    /// The object has changed: nothing is read any more.
    ended: Option<Cause>,
}

struct Block {
    state: State,
    touched: u64,
    waiting: usize,
    /// How many of its bytes were handed out.
    read: usize,
}

enum State {
    UnderWay(AbortHandle),
    Here(Arc<Vec<u8>>),
    Failed(Cause),
}

impl RemoteObject {
    /// Opens an object by fetching its first block.
    pub(super) fn open(target: Target, handle: Handle, ahead: ReadAhead) -> Result<Self, Cause> {
        let ahead = ReadAhead {
            block: ahead.block.max(1),
            blocks: ahead.blocks.max(1),
        };
        let length = ahead.block as u64;
        let (target, first) = wait_on(&handle, async move {
            let first = first_block(&target, length).await;
            Ok((target, first))
        })?;
        let (bytes, version) = first?;
        if version.size() > length && !version.is_told() {
            return Err(Cause::NoVersion);
        }
        let mut window = Window::default();
        if !bytes.is_empty() {
            window.blocks.insert(
                0,
                Block {
                    state: State::Here(Arc::new(bytes)),
                    touched: 0,
                    waiting: 0,
                    read: 0,
                },
            );
        }
        Ok(Self {
            shared: Arc::new(Shared {
                target,
                version_name: version.name(),
                version,
                window: Mutex::new(window),
                changed: Condvar::new(),
            }),
            handle,
            ahead,
        })
    }

    /// Hands out the part of one block that is wanted.
    fn block(&self, number: u64) -> Result<Arc<Vec<u8>>, Cause> {
        let mut window = self.shared.window();
        self.want(&mut window, number);
        loop {
            if let Some(cause) = &window.ended {
                return Err(cause.clone());
            }
            let clock = window.tick();
            match window.blocks.get_mut(&number) {
                Some(block) => match &block.state {
                    State::Here(bytes) => {
                        block.touched = clock;
                        return Ok(Arc::clone(bytes));
                    }
                    State::Failed(cause) => {
                        let cause = cause.clone();
                        window.blocks.remove(&number);
                        return Err(cause);
                    }
                    State::UnderWay(_) => block.waiting += 1,
                },
                // Somebody else has read it, or needed its place.
                None => {
                    self.start(&mut window, number);
                    continue;
                }
            }
            window = self
                .shared
                .changed
                .wait(window)
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(block) = window.blocks.get_mut(&number) {
                block.waiting = block.waiting.saturating_sub(1);
            }
        }
    }

    /// Counts what was read of a block; a block that was read to its end makes place.
    fn was_read(&self, number: u64, bytes: usize, of: usize) {
        let mut window = self.shared.window();
        if let Some(block) = window.blocks.get_mut(&number) {
            block.read = block.read.saturating_add(bytes);
            if block.read >= of && block.waiting == 0 {
                window.blocks.remove(&number);
                self.go_on(&mut window);
            }
        }
    }

    /// Sees to it that a block comes, and, when blocks are asked for in order, those after it.
    fn want(&self, window: &mut Window, number: u64) {
        let in_order = match window.newest {
            None => number == 0,
            // Threads that share the work ask a little out of order.
            Some(newest) => number <= newest + 1 && number + self.ahead.blocks as u64 > newest,
        };
        if !window.blocks.contains_key(&number) {
            self.start(window, number);
        }
        if in_order {
            window.newest = window.newest.max(Some(number));
            self.go_on(window);
        } else {
            window.newest = Some(number);
        }
    }

    /// Starts blocks after the newest, as far as there is place.
    fn go_on(&self, window: &mut Window) {
        let Some(newest) = window.newest else { return };
        let mut next = newest + 1;
        let count = self.count();
        while next < count
            && next <= newest + self.ahead.blocks as u64
            && window.ended.is_none()
            && (window.blocks.contains_key(&next) || self.has_place(window, newest))
        {
            if !window.blocks.contains_key(&next) {
                self.start(window, next);
            }
            next += 1;
        }
    }

    /// Whether one more block may be fetched ahead; what lies far behind goes for it.
    fn has_place(&self, window: &mut Window, newest: u64) -> bool {
        if window.blocks.len() < self.ahead.blocks {
            return true;
        }
        let behind = newest.saturating_sub(self.ahead.blocks as u64);
        let far = window
            .blocks
            .iter()
            .find(|(number, block)| block.waiting == 0 && **number < behind)
            .map(|(number, _)| *number);
        far.is_some_and(|number| {
            window.drop_block(number);
            true
        })
    }

    /// Starts a block that somebody waits for: it gets a place in any case, that of the one longest untouched.
    fn start(&self, window: &mut Window, number: u64) {
        while window.blocks.len() >= self.ahead.blocks {
            let idle = window
                .blocks
                .iter()
                .filter(|(_, block)| block.waiting == 0)
                .min_by_key(|(_, block)| block.touched)
                .map(|(number, _)| *number);
            let Some(idle) = idle else { break };
            window.drop_block(idle);
        }
        let start = number * self.ahead.block as u64;
        let end = (start + self.ahead.block as u64).min(self.size());
        let shared = Arc::clone(&self.shared);
        let task = self.handle.spawn(async move {
            let version = shared.version.clone();
            let fetched = fetch(&shared.target, start..end, Some(version)).await;
            let mut window = shared.window();
            if let Err(Cause::Changed) = fetched {
                window.ended.get_or_insert(Cause::Changed);
            }
            if let Some(block) = window.blocks.get_mut(&number) {
                block.state = match fetched {
                    Ok((bytes, _)) => State::Here(Arc::new(bytes)),
                    Err(cause) => State::Failed(cause),
                };
            }
            drop(window);
            shared.changed.notify_all();
        });
        let touched = window.tick();
        window.blocks.insert(
            number,
            Block {
                state: State::UnderWay(task.abort_handle()),
                touched,
                waiting: 0,
                read: 0,
            },
        );
    }

    fn count(&self) -> u64 {
        self.size().div_ceil(self.ahead.block as u64)
    }

    fn error(&self, cause: Cause) -> io::Error {
        StorageError::new(&self.shared.target.location, cause).into()
    }
}

impl ReadAt for RemoteObject {
    fn size(&self) -> u64 {
        self.shared.version.size()
    }

    fn version(&self) -> Option<&str> {
        self.shared.version_name.as_deref()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let number = at / self.ahead.block as u64;
            let bytes = self.block(number).map_err(|cause| self.error(cause))?;
            let within = at - number * self.ahead.block as u64;
            let there = usize::try_from(within).ok().and_then(|at| bytes.get(at..));
            let there = there.unwrap_or_default();
            let length = there.len().min(rest.len());
            if length == 0 {
                return Err(self.error(Cause::NotUnderstood("a block is too short")));
            }
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(there.split_at(length).0);
            self.was_read(number, length, bytes.len());
            at += length as u64;
            rest = later;
        }
        Ok(())
    }
}

impl Drop for RemoteObject {
    fn drop(&mut self) {
        let mut window = self.shared.window();
        window.ended = Some(Cause::Stopped);
        let numbers: Vec<u64> = window.blocks.keys().copied().collect();
        for number in numbers {
            window.drop_block(number);
        }
    }
}

impl Shared {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn drop_block(&mut self, number: u64) {
        if let Some(Block {
            state: State::UnderWay(task),
            ..
        }) = self.blocks.remove(&number)
        {
            task.abort();
        }
    }
}

/// The first block, or the nothing that an empty object has.
async fn first_block(target: &Target, length: u64) -> Result<(Vec<u8>, Version), Cause> {
    match fetch(target, 0..length, None).await {
        Err(Cause::BeyondEnd {
            size: None | Some(0),
        }) => empty(target).await.map(|version| (Vec::new(), version)),
        other => other,
    }
}
