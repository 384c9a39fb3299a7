//! A throw-away PostgreSQL server for one test: Debian's own binaries, on a loopback port and a socket in a folder that
//! goes with it.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::fixtures::missing_peer;

/// A running server. It ends, and its files go, when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    binaries: PathBuf,
    port: u16,
    as_user: Option<String>,
}

/// What keeps strangers out of a server.
struct Guard<'a> {
    password: &'a str,
    certificate: &'a str,
    key: &'a str,
}

impl Cluster {
    /// Starts a server, or says that the test is skipped when there is none on this machine.
    ///
    /// # Panics
    /// When it is there and does not start, or it is missing and peers are required.
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// Starts a server that wants a password (SCRAM) and TLS of whoever comes over loopback, and shows this certificate
    /// (PEM, with its key).
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn guarded(password: &str, certificate: &str, key: &str) -> Option<Self> {
        Self::start_with(Some(Guard {
            password,
            certificate,
            key,
        }))
    }

    fn start_with(guard: Option<Guard<'_>>) -> Option<Self> {
        let Some(binaries) = binaries() else {
            missing_peer("no PostgreSQL server here (Debian: postgresql)");
            return None;
        };
        let free = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        // Short: a socket's path has 107 bytes at most. Named by the port, which nobody else has.
        let folder = PathBuf::from(format!("/tmp/strongroom-pg-{}-{port}", std::process::id()));
        fs::create_dir(&folder).expect("nobody else has a folder of this name");
        // The server refuses to run as root.
        let as_user = rustix::process::geteuid().is_root().then(|| {
            let chown = Command::new("chown").arg("postgres").arg(&folder).status();
            assert!(
                chown.is_ok_and(|status| status.success()),
                "there is no user postgres"
            );
            "postgres".to_owned()
        });
        let cluster = Self {
            folder,
            binaries,
            port,
            as_user,
        };
        let data = cluster.data();
        let mut initdb = cluster.program("initdb");
        if let Some(guard) = &guard {
            initdb.arg("--auth-host=scram-sha-256");
            initdb
                .arg("--pwfile")
                .arg(cluster.private("password", guard.password));
        }
        initdb
            .args([
                "--auth-local=trust",
                "--username=strongroom",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg("-D")
            .arg(&data);
        match &guard {
            None => {
                initdb.arg("--auth-host=trust");
                run(initdb);
            }
            Some(guard) => {
                run(initdb);
                let certificate = cluster.private("server.crt", guard.certificate);
                let key = cluster.private("server.key", guard.key);
                let mut settings = fs::OpenOptions::new()
                    .append(true)
                    .open(data.join("postgresql.conf"))
                    .expect("initdb wrote it");
                writeln!(
                    settings,
                    "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'",
                    certificate.display(),
                    key.display()
                )
                .expect("there is room for three lines");
                let admitted = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
                fs::write(data.join("pg_hba.conf"), admitted).expect("initdb wrote it");
            }
        }
        cluster.resume();
        Some(cluster)
    }

    /// Writes a file that the server's user alone may read.
    fn private(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, content).expect("the folder is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        if let Some(user) = &self.as_user {
            let chown = Command::new("chown").arg(user).arg(&path).status();
            assert!(chown.is_ok_and(|status| status.success()), "chown {user}");
        }
        path
    }

    /// Makes an empty database and gives its address over loopback.
    pub fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        format!(
            "postgres://strongroom@127.0.0.1:{}/{name}?sslmode=disable",
            self.port
        )
    }

    /// Makes an empty database and gives its address over TLS, under a name of this machine.
    pub fn database_over_tls(&self, name: &str, host: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        format!(
            "postgres://strongroom@{host}:{}/{name}?sslmode=verify-full",
            self.port
        )
    }

    /// The same over the Unix socket.
    pub fn socket_address(&self, name: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://strongroom@{folder}:{}/{name}", self.port)
    }

    /// Runs statements as the server's owner; gives what they print.
    ///
    /// # Panics
    /// When one fails.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let mut psql = self.program("psql");
        psql.args([
            "--quiet",
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "strongroom",
        ])
        .arg("-h")
        .arg(&self.folder)
        .args([
            "-p",
            &self.port.to_string(),
            "-d",
            database,
            "-c",
            statements,
        ]);
        run(psql)
    }

    /// Ends the server at once, without a shutdown of its own, as a power cut would.
    ///
    /// # Panics
    /// When it does not end.
    pub fn crash(&self) {
        let mut stop = self.program("pg_ctl");
        stop.args(["-w", "-m", "immediate", "stop", "-D"])
            .arg(self.data());
        run(stop);
    }

    /// Starts the server again.
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&self) {
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c shared_buffers=16MB -c \
             max_connections=60",
            self.port,
            self.folder.display()
        );
        let mut start = self.program("pg_ctl");
        start
            .args(["-w", "-t", "60", "start", "-o", &options, "-l"])
            .arg(self.folder.join("log"))
            .arg("-D")
            .arg(self.data());
        run(start);
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let path = self.binaries.join(name);
        let mut command = match &self.as_user {
            None => Command::new(path),
            Some(user) => {
                let mut command = Command::new("runuser");
                command.args(["-u", user, "--"]).arg(path);
                command
            }
        };
        command.current_dir(&self.folder).stdin(Stdio::null());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.data().join("postmaster.pid")).ok();
        let pid = pid.and_then(|text| text.lines().next()?.trim().parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // Its children end with it; nothing of it is kept.
            kill_process(pid, Signal::QUIT).ok();
            for _ in 0..200 {
                if !self.data().join("postmaster.pid").exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Runs a program to its end. The server that it may leave behind must not hold on to a pipe of ours.
fn run(mut command: Command) -> String {
    let [out, complaints] = [(); 2].map(|()| tempfile());
    let status = command
        .stdout(out.try_clone().expect("a file can be shared"))
        .stderr(complaints.try_clone().expect("a file can be shared"))
        .status();
    let (out, complaints) = (text(out), text(complaints));
    assert!(
        status.as_ref().is_ok_and(|status| status.success()),
        "{command:?}: {status:?}\n{out}{complaints}"
    );
    out
}

/// A file without a name.
fn tempfile() -> fs::File {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("/tmp/strongroom-out-{}-{number}", std::process::id());
    let mut open = fs::OpenOptions::new();
    let file = open.read(true).append(true).create_new(true).open(&name);
    fs::remove_file(&name).ok();
    file.expect("a file of that name is new")
}

fn text(mut file: fs::File) -> String {
    use std::io::{Read as _, Seek as _};
    let mut text = String::new();
    file.flush().ok();
    file.rewind().ok();
    file.read_to_string(&mut text).ok();
    text
}

/// The newest server that Debian installed, or one on the path.
fn binaries() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok();
    let versions = versions.into_iter().flatten().flatten();
    let installed = versions
        .filter_map(|version| {
            let number: u32 = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin")))
        })
        .max()
        .map(|(_, folder)| folder);
    let on_the_path = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).find(|folder| folder.join("initdb").is_file())
    };
    installed
        .filter(|folder| has_all(folder))
        .or_else(on_the_path)
        .filter(|folder| has_all(folder))
}

fn has_all(folder: &Path) -> bool {
    ["initdb", "pg_ctl", "psql"]
        .iter()
        .all(|name| folder.join(name).is_file())
}
