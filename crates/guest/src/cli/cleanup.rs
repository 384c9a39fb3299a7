//! Ctrl-C, SIGTERM, SIGHUP and SIGQUIT leave nothing half-written and no child: what is under way is known here, and ended on the way out.
//!
//! Making, finishing and removing happen under one lock, which the cleaner takes and never gives back: nothing is made
//! behind its back.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

static UNDER_WAY: Mutex<UnderWay> = Mutex::new(UnderWay {
    paths: Vec::new(),
    children: Vec::new(),
    aborts: Vec::new(),
    numbered: 0,
    last_words: None,
});
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

struct UnderWay {
    paths: Vec<PathBuf>,
    children: Vec<Pid>,
    aborts: Vec<(Abort, Box<dyn FnOnce() + Send>)>,
    numbered: u64,
    last_words: Option<String>,
}

/// Something that is given up when the process is told to stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Abort(u64);

/// Starts the thread that waits for signals.
pub fn install() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The handlers must be in place before this returns, so that no early signal finds the default action.
    let mut signals = {
        let _guard = runtime.enter();
        Signals::new()?
    };
    let (sender, mut questions) = unbounded_channel::<SyncSender<()>>();
    QUESTIONS.get_or_init(|| sender);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                loop {
                    let (code, question) = tokio::select! {
                        code = signals.next() => (Some(code), None),
                        Some(question) = questions.recv() => {
                            (timeout(HEARING, signals.next()).await.ok(), Some(question))
                        }
                    };
                    if let Some(code) = code
                        && !TAKEN_OVER.load(Ordering::SeqCst)
                    {
                        clean_and_exit(code);
                    }
                    if let Some(question) = question {
                        question.send(()).ok();
                    }
                }
            });
        })?;
    Ok(())
}

/// Returns when no signal has arrived that is still unheard; else the process ends by it. What fails after Ctrl-C often
/// fails because of it, when a child or the other side of a pipe was faster to end.
pub fn hear_signals() {
    let (answer, answered) = sync_channel(1);
    if let Some(questions) = QUESTIONS.get()
        && questions.send(answer).is_ok()
    {
        // Without an answer there is no thread left that could hear.
        answered.recv().ok();
    }
}

static QUESTIONS: OnceLock<UnboundedSender<SyncSender<()>>> = OnceLock::new();

/// Far longer than a signal that has arrived takes to the thread that waits for it.
const HEARING: Duration = Duration::from_millis(10);

struct Signals {
    /// Never waited for: with a handler in place, a file that grows beyond the limit of its size (`ulimit -f`) is an error
    /// of the write and no end without a word.
    _file_size: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            _file_size: signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The exit code of the next one: 128 and its number, as shells have it.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.hangup.recv() => 129,
            _ = self.interrupt.recv() => 130,
            _ = self.quit.recv() => 131,
            _ = self.terminate.recv() => 143,
        }
    }
}

/// From here on the command itself ends on a signal, as servers do that finish what they are answering. It must be
/// listening already.
pub fn take_over() {
    TAKEN_OVER.store(true, Ordering::SeqCst);
}

/// Has this process told to stop when its parent ends, however that ends.
pub fn follow(parent: i32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    // The parent may have ended before the line above.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    ensure!(now == Some(parent), "the parent process has ended");
    Ok(())
}

/// Makes a file or folder that is removed when the process is told to stop.
pub fn make<T>(make: impl FnOnce() -> io::Result<(T, PathBuf)>) -> io::Result<T> {
    let mut under_way = under_way();
    let (made, path) = make()?;
    under_way.paths.push(path);
    Ok(made)
}

/// Finishes what was made at `path`: it stays.
pub fn finish(path: &Path, finish: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mut under_way = under_way();
    finish()?;
    under_way.paths.retain(|other| other != path);
    Ok(())
}

/// Removes what was made at `path`.
pub fn discard(path: &Path) {
    let mut under_way = under_way();
    remove(path);
    under_way.paths.retain(|other| other != path);
}

/// Has something given up when the process is told to stop: an upload, of which a storage would keep the parts.
pub fn on_signal(abort: Box<dyn FnOnce() + Send>) -> Abort {
    let mut under_way = under_way();
    under_way.numbered += 1;
    let number = Abort(under_way.numbered);
    under_way.aborts.push((number, abort));
    number
}

/// It is over, or has been given up.
pub fn forget(abort: Abort) {
    under_way().aborts.retain(|(other, _)| *other != abort);
}

/// What standard error is told when the process is told to stop.
pub fn say_on_signal(last_words: String) {
    under_way().last_words = Some(last_words);
}

/// Starts a child that ends when the process is told to stop.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut under_way = under_way();
    let child = command.spawn()?;
    under_way.children.push(Pid::from_child(&child));
    Ok(child)
}

/// The child has ended.
pub fn ended(child: &Child) {
    let ended = Pid::from_child(child);
    under_way().children.retain(|other| *other != ended);
}

fn under_way() -> MutexGuard<'static, UnderWay> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clean_and_exit(code: i32) -> ! {
    let mut under_way = under_way();
    for child in &under_way.children {
        // It may have ended by itself.
        let _: rustix::io::Result<()> = rustix::process::kill_process(*child, Signal::KILL);
    }
    for child in &under_way.children {
        // Until then it may still be writing. The thread that started it may wait for it, too.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) =
            rustix::process::waitid(WaitId::Pid(*child), options)
        {}
    }
    for path in &under_way.paths {
        remove(path);
    }
    for (_, abort) in std::mem::take(&mut under_way.aborts) {
        abort();
    }
    if let Some(last_words) = under_way.last_words.take() {
        writeln!(io::stderr(), "{last_words}").ok();
    }
    std::process::exit(code);
}

fn remove(path: &Path) {
    let removed = if path.is_dir() {
        remove_folder(path)
    } else {
        std::fs::remove_file(path)
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        // Nobody may be there to read it, which must not keep the process.
        let path = crate::cli::outcome::shown(&path.display().to_string());
        writeln!(io::stderr(), "could not remove {path}: {error}").ok();
    }
}

/// Removes a folder in which another thread may make one more file meanwhile.
fn remove_folder(path: &Path) -> io::Result<()> {
    let mut tries = 100;
    loop {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries > 0 => {
                tries -= 1;
            }
            result => return result,
        }
    }
}
