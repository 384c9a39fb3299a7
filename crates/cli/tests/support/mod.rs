//! What the tests of the whole program share: the program, folders of their own, and questions about what it left.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use strongroom_scoring::generate::{Columns, Generator};
use strongroom_testkit::fixtures::workspace_root;
use strongroom_testkit::leak::Scanner;
use strongroom_testkit::process::{Finished, Program, Running};
use tempfile::TempDir;

/// The header of what the built-in model reads.
pub(crate) const HEADER: &str = "distance_from_last_transaction,ratio_to_median_purchase_price,used_chip,used_pin_number,online_order\n";

/// The program under test.
pub(crate) fn strongroom() -> Program {
    Program::new(binary()).limit(Duration::from_secs(120))
}

/// Where the program under test is.
pub(crate) fn binary() -> PathBuf {
    let named = std::env::var_os("STRONGROOM_BIN");
    let named = named.unwrap_or_else(|| env!("CARGO_BIN_EXE_strongroom").into());
    workspace_root().join(named)
}

/// A folder of the test's own, and the program in it.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The program in this folder with these arguments.
    pub(crate) fn program(&self, args: &[&str]) -> Program {
        strongroom().folder(self.path()).args(args)
    }

    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        self.program(args).run().unwrap()
    }

    /// Runs what must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> Finished {
        self.run(args).expect_success()
    }

    /// Starts the broker of the folder `broker`, and gives its URL.
    pub(crate) fn start_broker(&self) -> (Running, String) {
        let broker = self
            .program(&["broker", "run", "--json", "--listen", "127.0.0.1:0"])
            .start()
            .unwrap();
        let line = broker.wait_for_line("\"ready\"").unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let url = ready["url"].as_str().unwrap().to_owned();
        (broker, url)
    }

    /// Has the broker at `url` release `default/*/*` to guests of the platform `sample`.
    pub(crate) fn allow_sample_guests(&self, url: &str) {
        let admin = |args: &[&str]| self.ok(&[args, &["--broker", url]].concat());
        admin(&[
            "reference-value",
            "set",
            "launch_digest=abcde",
            "svn=\"1\"",
            "major_version=1",
            "minimum_minor_version=1",
            "accept_development_assurance=true",
        ]);
        admin(&[
            "policy",
            "allow",
            "default/*/*",
            "--assurance",
            "development",
        ]);
    }

    /// Starts a guest of the platform `sample` of the broker at `url`, and gives the socket that it serves.
    pub(crate) fn start_guest(&self, url: &str) -> (Running, String) {
        let socket = format!("unix:{}", self.join("guest.sock").display());
        let guest = self
            .program(&["guest", "run", "--platform", "sample", "--json"])
            .args(["--broker", url, "--broker-cert", "broker/tls.crt"])
            .args(["--listen", &socket])
            .start()
            .unwrap();
        guest.wait_for_line("\"ready\"").unwrap();
        (guest, socket)
    }

    /// Runs what must fail: exit code 1, an error, and no file more or less than before. Returns what it printed.
    #[track_caller]
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let before = self.listing();
        let finished = self.run(args);
        let printed = printed(&finished);
        assert_eq!(finished.status.code(), Some(1), "{args:?}: {printed}");
        assert!(
            finished.stderr_text().contains("error: "),
            "{args:?}: {printed}"
        );
        assert_eq!(self.listing(), before, "{args:?}");
        printed
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.join(name)).unwrap()
    }

    /// The names of everything in the folder.
    pub(crate) fn listing(&self) -> Vec<String> {
        listing(self.path())
    }
}

/// The names of everything under a folder.
pub(crate) fn listing(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut left = vec![folder.to_path_buf()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.strip_prefix(folder).unwrap().display().to_string());
            if path.is_dir() {
                left.push(path);
            }
        }
    }
    names.sort();
    names
}

/// Both streams.
pub(crate) fn printed(finished: &Finished) -> String {
    finished.stdout_text() + &finished.stderr_text()
}

/// The one JSON document that is all of the standard output.
#[track_caller]
pub(crate) fn document(finished: &Finished) -> Value {
    let stdout = finished.stdout_text();
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout:?}"))
}

/// Fails unless none of the needles was printed, in any form.
#[track_caller]
pub(crate) fn assert_never_printed(needles: &[&str], finished: &Finished) {
    let named = needles.iter().map(|needle| (*needle, needle.as_bytes()));
    let scanner = Scanner::new(named).unwrap();
    for (name, stream) in [("stdout", &finished.stdout), ("stderr", &finished.stderr)] {
        scanner.scan_bytes(name, stream).assert_clean(1);
    }
}

/// Transactions as CSV.
pub(crate) fn transactions(rows: u64) -> String {
    let mut csv = String::new();
    let generator = Generator {
        rows,
        seed: 7,
        label: false,
        columns: Columns::Model,
    };
    generator.into_reader().read_to_string(&mut csv).unwrap();
    csv
}

/// Makes a model that gives its one column, `x`, as the probability. (The engine's sigmoid never quite reaches 1.)
pub(crate) fn write_identity_model(folder: &Path) {
    // Fields of a protobuf message (onnx.proto), each shorter than 128 bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[number << 3 | 2, length], content].concat()
    }
    let value = |name: &[u8]| {
        let shape = [field(1, &field(2, b"N")), field(1, &[1 << 3, 1])].concat();
        let tensor = [vec![1 << 3, 1], field(2, &shape)].concat();
        [field(1, name), field(2, &field(1, &tensor))].concat()
    };
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Identity")].concat();
    let graph = [
        field(1, &node),
        field(2, b"identity"),
        field(11, &value(b"x")),
        field(12, &value(b"y")),
    ];
    let opset = field(8, &[2 << 3, 15]);
    let model = [vec![1 << 3, 8], field(7, &graph.concat()), opset].concat();
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("model.onnx"), model).unwrap();
    let preprocessing = r#"{"format": 1, "columns": ["x"], "scaler": {"mean": [0], "scale": [1]}, "threshold": 0.5}"#;
    fs::write(folder.join("preprocessing.json"), preprocessing).unwrap();
}

/// Makes a named pipe.
pub(crate) fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

/// Asks until the answer is yes; fails the test when it is not within half a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// An interpreter that has `pyarrow`, or nothing after saying so.
pub(crate) fn pyarrow() -> Option<PathBuf> {
    let python = std::env::var_os("STRONGROOM_PEERS_PYARROW").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.peers/pyarrow/bin/python3"),
        PathBuf::from,
    );
    let imported = std::process::Command::new(&python)
        .args(["-c", "import pyarrow.parquet.encryption"])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if imported {
        return Some(python);
    }
    let required = std::env::var("STRONGROOM_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    let why = format!(
        "no Python interpreter that can import pyarrow at {}",
        python.display()
    );
    assert!(!required, "{why}");
    println!("SKIPPED: {why}");
    None
}

/// The shell blocks of a document of the project, in their order.
pub(crate) fn shell_blocks(document: &str) -> Vec<String> {
    let text = fs::read_to_string(workspace_root().join(document)).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

/// The beginning of a script that stands for a reader's hands: the servers of other terminals, and waiting until they
/// are ready.
pub(crate) const SERVERS: &str = r#"
set -euo pipefail
server() { # starts a command of another terminal and waits for its first line
  local log=$1; shift
  "$@" >"$log" 2>&1 &
  pids+=($!)
  for _ in $(seq 600); do
    grep -q 'ready at\|serves' "$log" && return 0
    kill -0 $! 2>/dev/null || break
    sleep 0.05
  done
  cat "$log" >&2; return 1
}
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait' EXIT
"#;

impl Place {
    /// A script in this folder that finds the program under test by its name.
    pub(crate) fn script(&self, script: &str) -> Program {
        let folder = binary().parent().unwrap().display().to_string();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
        Program::new("bash")
            .args(["-c", script])
            .folder(self.path())
            .env("PATH", path)
    }
}
