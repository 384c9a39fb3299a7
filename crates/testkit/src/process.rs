//! The built `strongroom` program, and other programs, as children of a test.
//!
//! A child runs in a process group of its own, which is killed when its handle is dropped: no test
//! leaves a process behind. Waiting is for an event with a limit, never for a length of time.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, io};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::fixtures::workspace_root;

/// A program to start, with its arguments.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    input: Vec<u8>,
    limit: Duration,
}

impl Program {
    /// The program at a path, or of that name in `PATH`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            input: Vec::new(),
            limit: Duration::from_secs(60),
        }
    }

    /// The built `strongroom` program: `STRONGROOM_BIN`, else the newer one of
    /// `target/{release,debug}`.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn strongroom() -> Result<Self, ProcessError> {
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let target = workspace_root().join(target);
        match env::var_os("STRONGROOM_BIN") {
            Some(named) => {
                let path = workspace_root().join(named);
                let there = path.is_file();
                there
                    .then(|| Self::new(&path))
                    .ok_or(ProcessError::NotBuilt(path))
            }
            None => {
                newest(["release", "debug"].map(|profile| target.join(profile).join("strongroom")))
                    .map(Self::new)
                    .ok_or(ProcessError::NotBuilt(target))
            }
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter();
        self.arguments
            .extend(arguments.map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the folder that it runs in.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().to_path_buf());
        self
    }

    /// Sets what it reads from its standard input; without this, nothing.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Sets how long any one wait for it may take; without this, a minute.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended within the limit; then it is killed.
    pub fn run(&self) -> Result<Finished, ProcessError> {
        self.start()?.finished()
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<Running, ProcessError> {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let mut child = command.spawn().map_err(|source| ProcessError::Start {
            program: self.path.clone(),
            source,
        })?;
        let said = Arc::new(Said::default());
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        let input = self.input.clone();
        let pid = Pid::from_child(&child);
        let mut threads = vec![
            Said::listen(&said, stdout, Stream::Out),
            Said::listen(&said, stderr, Stream::Err),
        ];
        // A program that does not read its input ends the pipe: that is its right.
        threads.push(thread::spawn(move || drop(stdin.write_all(&input))));
        let ended = Arc::clone(&said);
        threads.push(thread::spawn(move || {
            // The child is left as it is, so that its number stays its own until `wait`.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while let Err(rustix::io::Errno::INTR) =
                rustix::process::waitid(WaitId::Pid(pid), options)
            {}
            ended.change(|state| state.ended = true);
        }));
        Ok(Running {
            child,
            pid,
            said,
            threads,
            program: self.path.clone(),
            limit: self.limit,
        })
    }
}

/// A program that runs. Dropping this kills it and what it started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pid: Pid,
    said: Arc<Said>,
    threads: Vec<JoinHandle<()>>,
    program: PathBuf,
    limit: Duration,
}

impl Running {
    /// The process number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line with `text` was printed on either stream, and returns that line.
    ///
    /// # Errors
    /// When the program ends before, or the limit passes; both tell what it printed.
    pub fn wait_for_line(&self, text: &str) -> Result<String, ProcessError> {
        let line = self.wait_until(|state| {
            let lines = [&state.out, &state.err].map(|bytes| String::from_utf8_lossy(bytes));
            let line = lines
                .iter()
                .flat_map(|stream| stream.split_inclusive('\n'))
                .find(|line| line.ends_with('\n') && line.contains(text))
                .map(|line| line.trim_end().to_owned());
            match line {
                Some(line) => Some(Some(line)),
                None if state.ended && state.open_streams == 0 => Some(None),
                None => None,
            }
        })?;
        line.ok_or_else(|| ProcessError::EndedEarly {
            program: self.program.clone(),
            wanted: text.to_owned(),
            printed: self.said.printed(),
        })
    }

    /// Sends Ctrl-C to the program alone and waits for its end.
    ///
    /// # Errors
    /// When it has not ended within the limit; then it is killed.
    pub fn interrupt(self) -> Result<Finished, ProcessError> {
        self.signal(Signal::INT)
    }

    /// Sends SIGTERM, as a service manager does, and waits for its end.
    ///
    /// # Errors
    /// When it has not ended within the limit; then it is killed.
    pub fn terminate(self) -> Result<Finished, ProcessError> {
        self.signal(Signal::TERM)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended within the limit; then it is killed.
    pub fn finished(mut self) -> Result<Finished, ProcessError> {
        self.wait_until(|state| state.ended.then_some(()))?;
        // What it started and left behind would keep the streams open.
        self.kill_group();
        self.wait_until(|state| (state.open_streams == 0).then_some(()))?;
        let status = self.child.wait().map_err(|source| ProcessError::Start {
            program: self.program.clone(),
            source,
        })?;
        for thread in self.threads.drain(..) {
            thread.join().expect("a listener does not panic");
        }
        let state = self.said.state();
        Ok(Finished {
            status,
            stdout: state.out.clone(),
            stderr: state.err.clone(),
        })
    }

    fn signal(self, signal: Signal) -> Result<Finished, ProcessError> {
        // It may have ended by itself: then there is nobody to tell.
        rustix::process::kill_process(self.pid, signal).ok();
        self.finished()
    }

    fn kill_group(&self) {
        rustix::process::kill_process_group(self.pid, Signal::KILL).ok();
    }

    fn wait_until<T>(&self, look: impl Fn(&State) -> Option<T>) -> Result<T, ProcessError> {
        let deadline = Instant::now() + self.limit;
        let mut state = self.said.state();
        loop {
            if let Some(found) = look(&state) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                return Err(ProcessError::TimedOut {
                    program: self.program.clone(),
                    limit: self.limit,
                    printed: self.said.printed(),
                });
            }
            state = self
                .said
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.kill_group();
            // Reaped, so that not even a zombie stays; a killed child ends at once.
            self.child.wait().ok();
        }
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: Vec<u8>,
    /// What it complained.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Its output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its complaints as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Fails the test unless it ended with exit code 0.
    ///
    /// # Panics
    /// With what it printed.
    #[must_use]
    pub fn expect_success(self) -> Self {
        assert!(
            self.status.success(),
            "{}\n{}{}",
            self.status,
            self.stdout_text(),
            self.stderr_text()
        );
        self
    }
}

/// Why a program could not be run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// It ended before it said what was waited for.
    #[error("{} ended before it printed `{wanted}`; it printed:\n{printed}", .program.display())]
    EndedEarly {
        /// Which.
        program: PathBuf,
        /// What was waited for.
        wanted: String,
        /// All of both streams.
        printed: String,
    },
    /// The program under test is not there.
    #[error("no strongroom program at {}; build it with `cargo build --release`", .0.display())]
    NotBuilt(PathBuf),
    /// It could not be started.
    #[error("cannot run {}", .program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("{} took longer than {limit:?}; it printed:\n{printed}", .program.display())]
    TimedOut {
        /// Which.
        program: PathBuf,
        /// How long it had.
        limit: Duration,
        /// All of both streams.
        printed: String,
    },
}

/// What a child has said so far, and a bell that rings when there is more.
#[derive(Debug, Default)]
struct Said {
    state: Mutex<State>,
    changed: Condvar,
}

impl Said {
    fn listen(
        said: &Arc<Self>,
        stream: impl Read + Send + 'static,
        which: Stream,
    ) -> JoinHandle<()> {
        said.change(|state| state.open_streams += 1);
        let said = Arc::clone(said);
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            loop {
                let mut line = Vec::new();
                match stream.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => said.change(|state| state.stream(which).append(&mut line)),
                }
            }
            said.change(|state| state.open_streams -= 1);
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn printed(&self) -> String {
        let state = self.state();
        [&state.out, &state.err]
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .concat()
    }
}

#[derive(Debug, Default)]
struct State {
    out: Vec<u8>,
    err: Vec<u8>,
    open_streams: usize,
    ended: bool,
}

impl State {
    fn stream(&mut self, which: Stream) -> &mut Vec<u8> {
        match which {
            Stream::Err => &mut self.err,
            Stream::Out => &mut self.out,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Err,
    Out,
}

fn newest(paths: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    let built = |path: &PathBuf| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    paths
        .into_iter()
        .filter_map(|path| Some((built(&path)?, path)))
        .max()
        .map(|(_, path)| path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").args(["-c", script])
    }

    #[test]
    fn both_streams_and_the_exit_code_are_kept() {
        let finished = shell("cat; echo complaint >&2; exit 3")
            .input("heard\n")
            .run()
            .unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stdout_text(), "heard\n");
        assert_eq!(finished.stderr_text(), "complaint\n");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let mut running = shell("sleep 1000 & echo started; wait").start().unwrap();
        running.wait_for_line("started").unwrap();
        let said = Arc::clone(&running.said);
        running.limit = Duration::from_millis(100);
        let error = running.finished().unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error}");
        // The child holds the streams too, so they close when it has died.
        let open = |state: &mut State| state.open_streams > 0;
        let limit = Duration::from_secs(30);
        let waited = said
            .changed
            .wait_timeout_while(said.state(), limit, open)
            .unwrap();
        assert!(!waited.1.timed_out(), "the child still runs");
    }

    #[test]
    fn a_line_is_waited_for_on_either_stream() {
        let running = shell("echo one; echo listening on 7 >&2; cat")
            .start()
            .unwrap();
        assert_eq!(
            running.wait_for_line("listening").unwrap(),
            "listening on 7"
        );
    }

    #[test]
    fn half_a_line_is_not_a_line() {
        let running = shell("printf 'listening on 80'; exec sleep 1000")
            .limit(Duration::from_millis(200))
            .start()
            .unwrap();
        let error = running.wait_for_line("listening").unwrap_err();
        assert!(matches!(error, ProcessError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn a_program_that_ends_early_tells_what_it_printed() {
        let running = shell("echo no such key >&2; exit 1").start().unwrap();
        let error = running.wait_for_line("listening").unwrap_err();
        assert!(matches!(error, ProcessError::EndedEarly { .. }), "{error}");
        assert!(error.to_string().contains("no such key"));
    }

    #[test]
    fn an_interrupted_program_can_end_in_its_own_way() {
        let running =
            shell("trap 'echo bye; exit 7' INT; echo ready; while :; do sleep 0.01; done")
                .start()
                .unwrap();
        running.wait_for_line("ready").unwrap();
        let finished = running.interrupt().unwrap();
        assert_eq!(finished.status.code(), Some(7));
        assert_eq!(finished.stdout_text(), "ready\nbye\n");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_its_name() {
        let error = Program::new("/no/such/program").run().unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
    }

    #[test]
    fn the_newer_build_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        for (path, age) in [(&old, 100), (&new, 10)] {
            let file = fs::File::create(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age))
                .unwrap();
        }
        assert_eq!(newest([new.clone(), old]), Some(new));
        assert_eq!(newest([folder.path().join("neither")]), None);
    }
}
