//! A throw-away TPM 2.0 for one test: `swtpm`, on a socket in a folder that goes with it, and `tpm2-tools` beside it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::fixtures::peer;

/// A running TPM with a state of its own. It ends, and its files go, when this is dropped.
#[derive(Debug)]
pub struct Swtpm {
    folder: PathBuf,
    tcp_port: Option<u16>,
    process: Child,
}

impl Swtpm {
    /// Starts a TPM, or says that the test is skipped when the programs are not on this machine.
    ///
    /// # Panics
    /// When they are there and it does not start, or they are missing and peers are required.
    pub fn start() -> Option<Self> {
        Self::start_on(false)
    }

    /// The same on a port of loopback. (The tools cannot be used beside it.)
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_on_tcp() -> Option<Self> {
        Self::start_on(true)
    }

    fn start_on(tcp: bool) -> Option<Self> {
        peer("swtpm")?;
        peer("tpm2_getcap")?;
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        // Short: a socket's path has 107 bytes at most.
        let folder = PathBuf::from(format!(
            "/tmp/strongroom-tpm-{}-{number}",
            std::process::id()
        ));
        fs::create_dir(&folder).expect("nobody else has a folder of this name");
        // Somebody else may take the port between the search and the start: then again.
        (0..10)
            .find_map(|_| {
                let port = tcp.then(free_port);
                let mut process = spawn(&folder, port);
                is_up(&folder, port, &mut process).then_some((port, process))
            })
            .map(|(tcp_port, process)| Self {
                folder,
                tcp_port,
                process,
            })
            .or_else(|| panic!("swtpm does not start"))
    }

    /// Where the TPM takes commands, as `strongroom` is told.
    pub fn address(&self) -> String {
        match self.tcp_port {
            Some(port) => format!("tcp:127.0.0.1:{port}"),
            None => self.socket().display().to_string(),
        }
    }

    /// Ends the TPM and starts it again on the same state, as a restart of its machine does: its registers are as after
    /// a reset, and what was loaded is gone.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.stop();
        for socket in [self.socket(), control(&self.folder)] {
            match fs::remove_file(&socket) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    panic!("{}: {error}", socket.display())
                }
                _ => {}
            }
        }
        self.process = spawn(&self.folder, self.tcp_port);
        let is_up = is_up(&self.folder, self.tcp_port, &mut self.process);
        assert!(is_up, "swtpm starts again");
    }

    /// Ends the TPM.
    pub fn stop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }

    /// Runs one of the `tpm2_*` programs in the TPM's folder; gives what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(&self.folder)
            .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.address()))
            .output()
            .expect("the tools are installed with tpm2_getcap");
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A file in the folder in which the tools run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn spawn(folder: &Path, tcp_port: Option<u16>) -> Child {
    let server = match tcp_port {
        Some(port) => format!("type=tcp,bindaddr=127.0.0.1,port={port}"),
        None => format!("type=unixio,path={}", folder.join("s").display()),
    };
    Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .args(["--tpmstate", &format!("dir={}", folder.display())])
        .args(["--server", &server])
        .args([
            "--ctrl",
            &format!("type=unixio,path={}", control(folder).display()),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm is installed")
}

/// Where the tools look for it.
fn control(folder: &Path) -> PathBuf {
    folder.join("s.ctrl")
}

/// Waits until both channels take connections. (The command channel takes one at a time: the probe's is closed at once.)
fn is_up(folder: &Path, tcp_port: Option<u16>, process: &mut Child) -> bool {
    let limit = Instant::now() + Duration::from_secs(20);
    while Instant::now() < limit {
        if process.try_wait().is_ok_and(|ended| ended.is_some()) {
            return false;
        }
        let commands = match tcp_port {
            Some(port) => TcpStream::connect(("127.0.0.1", port)).is_ok(),
            None => UnixStream::connect(folder.join("s")).is_ok(),
        };
        if commands && UnixStream::connect(control(folder)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    free.local_addr().expect("it is bound").port()
}
