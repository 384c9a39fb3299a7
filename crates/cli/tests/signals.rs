//! Ctrl-C, SIGTERM and SIGKILL in the middle of something: what is left of it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal};
use strongroom_testkit::process::{Program, Running};

use support::{HEADER, Place, binary, transactions, wait_until};

/// The signals that are asked politely, and the exit codes that shells expect of them.
const SIGNALS: [(Signal, i32); 4] = [
    (Signal::INT, 130),
    (Signal::TERM, 143),
    (Signal::HUP, 129),
    (Signal::QUIT, 131),
];

/// The program with its standard input from a file.
fn reading(place: &Place, input: &str, args: &[&str]) -> Program {
    Program::new("/bin/sh")
        .args(["-c", "input=$1; shift; exec \"$0\" \"$@\" < \"$input\""])
        .arg(binary())
        .arg(input)
        .args(args)
        .folder(place.path())
        .env("TMPDIR", place.path())
}

fn send(running: &Running, signal: Signal) {
    let pid = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits for the end of the program alone. (The test kit ends what a program leaves, which is what is asked for here.)
fn wait_for_end(running: &Running) {
    wait_until("the program has ended", || state(running.id()) == 'Z');
}

/// The state of a process: `Z` has ended, a blank is nowhere.
fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    state.chars().next().unwrap_or(' ')
}

/// Every process that has the folder in its command line.
fn processes_with(folder: &Path) -> Vec<(u32, String)> {
    let folder = folder.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        // One that has ended meanwhile has none.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (line.contains(folder) && state(pid) != 'Z').then_some((pid, line))
    });
    processes.collect()
}

fn partial(place: &Place) -> bool {
    place
        .listing()
        .iter()
        .any(|name| name.ends_with(".partial"))
}

fn code(running: Running) -> ExitStatus {
    running.finished().unwrap().status
}

#[test]
fn encrypting_leaves_a_file() {
    for (signal, expected) in SIGNALS {
        let place = Place::new();
        place.ok(&["keygen", "data.key"]);
        let args = ["encrypt", "-", "-o", "endless.enc", "--key", "data.key"];
        let running = reading(&place, "/dev/zero", &args).start().unwrap();
        wait_until("it writes", || partial(&place));
        send(&running, signal);
        assert_eq!(code(running).code(), Some(expected));
        assert_eq!(place.listing(), ["data.key"]);
    }
}

#[test]
fn forced_encrypting_loses_the_old_file() {
    let place = Place::new();
    place.ok(&["keygen", "data.key"]);
    place.write("endless.enc", "old");
    let args = ["encrypt", "-", "-o", "endless.enc", "--key", "data.key"];
    let args = [&args[..], &["--force"]].concat();
    let running = reading(&place, "/dev/zero", &args).start().unwrap();
    wait_until("it writes", || partial(&place));
    assert_eq!(place.read("endless.enc"), b"old");
    assert_eq!(running.interrupt().unwrap().status.code(), Some(130));
    assert_eq!(place.read("endless.enc"), b"old");
    assert_eq!(place.listing(), ["data.key", "endless.enc"]);
}

#[test]
fn scoring_leaves_results() {
    for (signal, expected) in SIGNALS {
        let place = Place::new();
        place.ok(&["keygen", "owner.pem", "--kind", "recipient"]);
        let pipe = place.join("rows");
        support::fifo(&pipe);
        let before = place.listing();
        let args = ["score", "-", "--results", "results.enc", "--results-to"];
        let args = [&args[..], &["owner.pem.pub.json"]].concat();
        let running = reading(&place, "rows", &args).start().unwrap();
        // The rows come slowly: some, and then no more for the time being.
        let mut rows = File::options().write(true).open(&pipe).unwrap();
        rows.write_all(transactions(3000).as_bytes()).unwrap();
        wait_until("it has begun", || partial(&place));
        send(&running, signal);
        assert_eq!(code(running).code(), Some(expected));
        assert_eq!(place.listing(), before);
        drop(rows);
    }
}

#[test]
fn input_that_ends_with_the_signal_leaves_half_a_file() {
    // Whoever is first, the results are whole or not there.
    for _ in 0..10 {
        let place = Place::new();
        place.ok(&["keygen", "data.key"]);
        let pipe = place.join("rows");
        support::fifo(&pipe);
        let args = ["encrypt", "-", "-o", "rows.enc", "--key", "data.key"];
        let running = reading(&place, "rows", &args).start().unwrap();
        let mut rows = File::options().write(true).open(&pipe).unwrap();
        rows.write_all(HEADER.as_bytes()).unwrap();
        wait_until("it has begun", || partial(&place));
        drop(rows);
        send(&running, Signal::TERM);
        let code = code(running).code();
        assert!([Some(0), Some(143)].contains(&code), "{code:?}");
        assert!(!partial(&place));
        if place.listing().contains(&"rows.enc".to_owned()) {
            place.ok(&["decrypt", "rows.enc", "-o", "back", "--key", "data.key"]);
            assert_eq!(place.read("back"), HEADER.as_bytes());
        } else {
            assert_eq!(code, Some(143));
        }
    }
}

/// A demo in a folder of its own, at the moment when a file of that name has appeared in it.
fn demo_at(place: &Place, rows: &str, moment: &str) -> Running {
    let demo = place.program(&["demo", "--rows", rows]);
    let running = demo.env("TMPDIR", place.path()).start().unwrap();
    wait_until(&format!("the demo has made {moment}"), || {
        // The folder may change while it is read.
        let mut found = false;
        let mut left = vec![place.path().to_path_buf()];
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                found |= entry.file_name().to_string_lossy().contains(moment);
                left.push(entry.path());
            }
        }
        found
    });
    running
}

/// Moments of a demo: while the owner encrypts, with a broker, with a guest, in the scorer's work, at the end.
const MOMENTS: [(&str, &str); 5] = [
    ("5000000", "transactions.csv.enc"),
    ("1000", "broker.log"),
    ("1000", "guest.sock"),
    ("300000", ".partial"),
    ("1000", "tampered-guest.log"),
];

#[test]
fn interrupted_demo_leaves_a_process_or_a_file() {
    for (rows, moment) in MOMENTS {
        let place = Place::new();
        let running = demo_at(&place, rows, moment);
        send(&running, Signal::INT);
        wait_for_end(&running);
        assert_eq!(processes_with(place.path()), [], "{moment}");
        assert_eq!(place.listing(), [""; 0], "{moment}");
        assert_eq!(code(running).code(), Some(130), "{moment}");
    }
}

#[test]
fn terminated_demo_leaves_a_process_or_a_file() {
    for (rows, moment) in MOMENTS {
        let place = Place::new();
        let running = demo_at(&place, rows, moment);
        send(&running, Signal::TERM);
        wait_for_end(&running);
        assert_eq!(processes_with(place.path()), [], "{moment}");
        assert_eq!(place.listing(), [""; 0], "{moment}");
        assert_eq!(code(running).code(), Some(143), "{moment}");
    }
}

#[test]
fn ctrl_c_to_all_of_the_demo_leaves_something() {
    // As a terminal sends it: to the children as well.
    for (rows, moment) in MOMENTS {
        let place = Place::new();
        let running = demo_at(&place, rows, moment);
        let group = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process_group(group, Signal::INT).unwrap();
        wait_for_end(&running);
        assert_eq!(processes_with(place.path()), [], "{moment}");
        assert_eq!(place.listing(), [""; 0], "{moment}");
        assert_eq!(code(running).code(), Some(130), "{moment}");
    }
}

#[test]
fn killed_demo_leaves_its_children_running() {
    for (rows, moment) in [("1000", "guest.sock"), ("300000", ".partial")] {
        let place = Place::new();
        let running = demo_at(&place, rows, moment);
        let children = processes_with(place.path());
        assert!(children.len() >= 2, "{moment}: {children:?}");
        send(&running, Signal::KILL);
        wait_for_end(&running);
        wait_until("the children have ended", || {
            processes_with(place.path()).is_empty()
        });
        assert!(!partial(&place), "{:?}", place.listing());
        assert!(code(running).code().is_none());
    }
}

#[test]
fn server_outlives_a_signal_to_stop() {
    let place = Place::new();
    let program = |args: &[&str]| Program::new(binary()).args(args).folder(place.path());
    drop(
        program(&["broker", "init", "broker"])
            .run()
            .unwrap()
            .expect_success(),
    );
    // SIGHUP has it read its configuration again.
    for (signal, _) in SIGNALS
        .into_iter()
        .filter(|(signal, _)| *signal != Signal::HUP)
    {
        let broker = program(&[
            "broker",
            "run",
            "broker",
            "--listen",
            "127.0.0.1:0",
            "--json",
        ])
        .start()
        .unwrap();
        broker.wait_for_line("\"ready\"").unwrap();
        send(&broker, signal);
        // A server that was told to stop has done what it was asked.
        assert!(code(broker).success(), "{signal:?}");
    }
}
