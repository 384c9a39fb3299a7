//! Sealed secrets before an application's eyes, with the real broker and the real guest: what it sees while they are
//! down, deny, are given something bad, rotate, and are told to stop.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use strongroom_testkit::process::{Finished, Program, Running};
use tempfile::TempDir;

use support::{Place, assert_never_printed, document, printed, wait_until};

/// Secrets long enough to be torn, each with its own letter throughout.
fn secret(letter: char) -> String {
    letter.to_string().repeat(20_000)
}

/// A broker with secrets that a guest may have, a guest beside, and a folder in memory.
struct World {
    place: Place,
    memory: TempDir,
    port: u16,
    broker: Option<Running>,
    _guest: Running,
}

impl World {
    fn new() -> Option<Self> {
        let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
            println!("SKIPPED: no /dev/shm to write to");
            return None;
        };
        let place = Place::new();
        place.ok(&["broker", "init", "--insecure-accept-sample-evidence"]);
        place.ok(&["keygen", "signing.jwk", "--kind", "signing"]);
        place.ok(&["keygen", "kek"]);
        for letter in ['a', 'b', 'c', 'd'] {
            place.write(&letter.to_string(), secret(letter));
        }
        let (broker, port) = start_broker(&place, 0);
        let url = format!("https://127.0.0.1:{port}");
        let admin = |args: &[&str]| place.ok(&[args, &["--broker", &url]].concat());
        for (resource, file) in [
            ("default/secrets/a", "a"),
            ("default/secrets/b", "b"),
            ("default/secrets/c", "c"),
            ("default/secrets/d", "d"),
            ("denied/secrets/a", "a"),
            ("default/keys/kek", "kek"),
            ("default/signing-key/sealed", "signing.jwk.pub.json"),
        ] {
            admin(&["resource", "put", resource, file]);
        }
        place.allow_sample_guests(&url);
        let (guest, _) = place.start_guest(&url);
        Some(Self {
            place,
            memory,
            port,
            broker: Some(broker),
            _guest: guest,
        })
    }

    fn stop_broker(&mut self) {
        let broker = self.broker.take().unwrap();
        assert!(broker.terminate().unwrap().status.success());
    }

    fn start_broker(&mut self) {
        self.broker = Some(start_broker(&self.place, self.port).0);
    }

    fn seal(&self, resource: &str) -> String {
        let uri = format!("kbs:///{resource}");
        let args = ["seal", "--signing-key", "signing.jwk", "-r", &uri];
        self.place.ok(&args).stdout_text()
    }

    fn envelope(&self, file: &str) -> String {
        let args = ["seal", "envelope", "--signing-key", "signing.jwk"];
        let args = [&args[..], &["-k", "kbs:///default/keys/kek"]].concat();
        let args = [&args[..], &["--key", "kek", "--file", file]].concat();
        self.place.ok(&args).stdout_text()
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    fn mirror(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }

    fn guest(&self, args: &[&str]) -> Program {
        let guest = format!("unix:{}", self.place.join("guest.sock").display());
        self.place.program(args).env("STRONGROOM_GUEST", guest)
    }

    fn mirroring(&self, names: &[&str], more: &[&str]) -> Program {
        let mut program = self.guest(&["guest", "unseal-volumes"]);
        for name in names {
            program = program.arg("--from").arg(self.volume(name));
            program = program.arg("--to").arg(self.mirror(name));
        }
        program.args(more)
    }

    /// Everything in memory that an application or a thief could read.
    fn plaintext(&self) -> Vec<String> {
        let mut files = self.files();
        // The lock of a single file holds the numbers of files, and nothing of what is in them.
        files.retain(|name| match name.starts_with("..unsealing-file-") {
            true => {
                let held = fs::read(self.memory.path().join(name)).unwrap();
                let plain = |byte: &u8| byte.is_ascii_digit() || b":.\n".contains(byte);
                assert!(held.iter().all(plain), "{name}");
                false
            }
            false => true,
        });
        files
    }

    /// What lies there at all, but for folders.
    fn files(&self) -> Vec<String> {
        let mut listing = support::listing(self.memory.path());
        listing.retain(|name| !self.memory.path().join(name).is_dir());
        listing
    }
}

fn start_broker(place: &Place, port: u16) -> (Running, u16) {
    let listen = format!("127.0.0.1:{port}");
    let args = ["broker", "run", "--json", "--listen", &listen];
    let broker = place.program(&args).start().unwrap();
    let line = broker.wait_for_line("\"ready\"").unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let url = ready["url"].as_str().unwrap();
    (broker, url.rsplit(':').next().unwrap().parse().unwrap())
}

/// Puts a version of a volume in force, as the kubelet does.
fn swap(volume: &Path, version: &str, keys: &[(&str, &str)]) {
    let folder = volume.join(format!("..{version}"));
    fs::create_dir_all(&folder).unwrap();
    for (key, content) in keys {
        fs::write(folder.join(key), content).unwrap();
    }
    let before = fs::read_link(volume.join("..data")).ok();
    symlink(format!("..{version}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    for (key, _) in keys {
        symlink(format!("..data/{key}"), volume.join(key)).ok();
    }
    if let Some(before) = before {
        fs::remove_dir_all(volume.join(before)).unwrap();
    }
}

fn send(running: &Running, signal: Signal) {
    let pid = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn code(running: Running) -> ExitStatus {
    running.finished().unwrap().status
}

/// An application that reads one file all the time, and remembers what it saw.
struct Reader {
    seen: Arc<Mutex<BTreeSet<String>>>,
    last: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<u64>>,
}

impl Reader {
    fn start(file: PathBuf) -> Self {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let last = Arc::new(Mutex::new(String::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, latest, stopped) = (Arc::clone(&seen), Arc::clone(&last), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let (mut reads, mut appeared) = (0, false);
            while !stopped.load(Ordering::SeqCst) {
                let text = match fs::read(&file) {
                    Ok(bytes) => String::from_utf8(bytes).unwrap(),
                    Err(error) if appeared => format!("gone again: {error}"),
                    Err(error) => error.kind().to_string(),
                };
                appeared |= text.len() == secret('a').len();
                reads += 1;
                if *latest.lock().unwrap() != text {
                    latest.lock().unwrap().clone_from(&text);
                    theirs.lock().unwrap().insert(text);
                }
            }
            reads
        });
        Self {
            seen,
            last,
            stop,
            thread: Some(thread),
        }
    }

    fn wait_for(&self, text: &str) {
        wait_until("the application sees the new secret", || {
            *self.last.lock().unwrap() == text
        });
    }

    /// How often it read, and each different thing that it saw.
    fn finish(mut self) -> (u64, BTreeSet<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let reads = self.thread.take().unwrap().join().unwrap();
        (reads, self.seen.lock().unwrap().clone())
    }
}

#[test]
fn broker_is_down_at_the_start_and_something_appears_before_it_is_up() {
    let Some(mut world) = World::new() else {
        return;
    };
    swap(
        &world.volume("secret"),
        "1",
        &[("key", &world.seal("default/secrets/a"))],
    );
    fs::create_dir(world.volume("folder")).unwrap();
    fs::write(world.volume("folder/key"), world.envelope("b")).unwrap();
    fs::write(world.volume("folder/bytes"), [0xff, 0, 0xfe]).unwrap();
    fs::write(world.volume("sub.path"), world.seal("default/secrets/c")).unwrap();
    world.stop_broker();

    let names = ["secret", "folder", "sub.path"];
    let program = world.mirroring(&names, &["--once", "--json", "--mode", "0440"]);
    let impatient = world.mirroring(&names, &["--once", "--wait", "1", "--mode", "0440"]);
    let finished = impatient.run().unwrap();
    assert_eq!(finished.status.code(), Some(1));
    let said = finished.stderr_text();
    assert!(said.contains("gave up after 1 s"), "{said}");
    assert_eq!(world.files(), [""; 0]);

    let running = program.start().unwrap();
    running.wait_for_line("not unsealed yet").unwrap();
    assert_eq!(world.plaintext(), [""; 0]);
    world.start_broker();
    let finished = running.finished().unwrap().expect_success();
    assert_eq!(document(&finished)["volumes"][0]["state"], "current");
    assert_never_printed(&[&secret('a')[..40], &secret('b')[..40]], &finished);

    let read = |path: &str| fs::read(world.mirror(path)).unwrap();
    assert_eq!(read("secret/key"), secret('a').as_bytes());
    assert_eq!(read("folder/key"), secret('b').as_bytes());
    assert_eq!(read("folder/bytes"), [0xff, 0, 0xfe]);
    assert_eq!(read("sub.path"), secret('c').as_bytes());
    let mode = |path: &str| {
        fs::metadata(world.mirror(path))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("sub.path") & 0o777, 0o440);
    assert_eq!(mode("secret/key") & 0o777, 0o440);
    assert_eq!(mode("secret") & 0o777, 0o550);
}

#[test]
fn denial_or_one_bad_secret_of_three_lets_something_appear() {
    let Some(world) = World::new() else {
        return;
    };
    let (a, denied) = (
        world.seal("default/secrets/a"),
        world.seal("denied/secrets/a"),
    );
    swap(&world.volume("one"), "1", &[("key", &a)]);
    swap(
        &world.volume("two"),
        "1",
        &[("key", &a), ("denied", &denied)],
    );
    let refused = |more: &[&str]| -> Finished {
        let args = [&["--once"], more].concat();
        let before = Instant::now();
        let finished = world.mirroring(&["one", "two"], &args).run().unwrap();
        // What is denied is not waited for.
        assert!(before.elapsed() < Duration::from_secs(40));
        assert_eq!(finished.status.code(), Some(1), "{}", printed(&finished));
        assert_eq!(world.plaintext(), [""; 0]);
        assert_never_printed(&[&secret('a')[..40]], &finished);
        finished
    };
    let said = refused(&[]).stderr_text();
    assert!(
        said.contains("two/denied") && said.contains("denied: "),
        "{said}"
    );

    for (name, content, reason) in [
        ("changed", a.replacen("sealed.ey", "sealed.eY", 1), "header"),
        (
            "missing",
            world.seal("default/secrets/none"),
            "does not exist",
        ),
        ("quoted", format!("\"{a}\""), "stands before"),
    ] {
        swap(
            &world.volume("two"),
            name,
            &[("key", &a), ("bad", &content)],
        );
        let said = refused(&[]).stderr_text();
        assert!(
            said.contains("two/bad") && said.contains(reason),
            "{name}: {said}"
        );
    }

    // An application is not started with less than all of it, either.
    swap(
        &world.volume("two"),
        "again",
        &[("key", &a), ("denied", &denied)],
    );
    let started = world.place.join("started");
    let finished = world
        .guest(&["guest", "exec", "--from"])
        .arg(world.volume("two"))
        .arg("--to")
        .arg(world.mirror("two"))
        .args(["--", "touch"])
        .arg(&started)
        .run()
        .unwrap();
    assert_eq!(finished.status.code(), Some(1));
    assert!(!started.exists());
    assert_eq!(world.plaintext(), [""; 0]);

    // The unsigned form takes its name, and is warned of.
    let payload = a.split('.').nth(2).unwrap();
    let unsigned = format!("sealed.fakejwsheader.{payload}.fakesignature");
    swap(&world.volume("two"), "unsigned", &[("key", &unsigned)]);
    assert!(refused(&[]).stderr_text().contains("unsigned"));
    let args = ["--once", "--insecure-skip-signature"];
    let finished = world.mirroring(&["one", "two"], &args).run().unwrap();
    let finished = finished.expect_success();
    let said = finished.stderr_text();
    assert!(said.contains("anybody could have written it"), "{said}");
    assert_eq!(
        fs::read(world.mirror("two/key")).unwrap(),
        secret('a').as_bytes()
    );
}

#[test]
fn rotation_shows_the_application_a_sealed_or_torn_secret() {
    let Some(mut world) = World::new() else {
        return;
    };
    let sealed = ['a', 'b', 'c', 'd'].map(|letter| {
        let text = world.seal(&format!("default/secrets/{letter}"));
        (letter, text)
    });
    let volume = world.volume("secret");
    swap(&volume, "0", &[("key", &sealed[0].1)]);
    fs::write(world.volume("sub.path"), &sealed[0].1).unwrap();

    let readers = ["secret/key", "sub.path"].map(|path| Reader::start(world.mirror(path)));
    let status = world.place.join("status.json");
    let keeper = world
        .mirroring(&["secret", "sub.path"], &["--json", "--status"])
        .arg(&status)
        .start()
        .unwrap();
    keeper.wait_for_line("\"ready\"").unwrap();
    let rotate = |version: &str, text: &str| {
        swap(&volume, version, &[("key", text)]);
        fs::write(world.place.join("next"), text).unwrap();
        fs::rename(world.place.join("next"), world.volume("sub.path")).unwrap();
    };
    for round in 0..3 {
        for (letter, text) in &sealed {
            rotate(&format!("{round}{letter}"), text);
            for reader in &readers {
                reader.wait_for(&secret(*letter));
            }
        }
    }

    // A bad version changes nothing, and is told of.
    rotate("bad", "sealed.bad");
    let state = |at: usize| -> Option<Value> {
        let status = fs::read(&status).ok()?;
        let status: Value = serde_json::from_slice(&status).unwrap();
        Some(status["volumes"][at]["state"].clone())
    };
    wait_until("both are stale", || {
        state(0) == Some("stale".into()) && state(1) == Some("stale".into())
    });
    keeper.wait_for_line("the one before stays").unwrap();
    for reader in &readers {
        reader.wait_for(&secret('d'));
    }

    // A broker that is down changes nothing; when it is up again, all is as it should be.
    world.stop_broker();
    swap(&world.volume("secret"), "down", &[("key", &sealed[1].1)]);
    fs::write(world.place.join("next"), &sealed[1].1).unwrap();
    fs::rename(world.place.join("next"), world.volume("sub.path")).unwrap();
    let problem = |text: &str| fs::read_to_string(&status).unwrap().contains(text);
    wait_until("the failure is told of", || problem("cannot be reached"));
    world.start_broker();
    for reader in &readers {
        reader.wait_for(&secret('b'));
    }
    wait_until("both are current", || {
        state(0) == Some("current".into()) && state(1) == Some("current".into())
    });

    send(&keeper, Signal::TERM);
    assert_eq!(code(keeper).code(), Some(0));
    let whole: BTreeSet<String> = sealed.iter().map(|(letter, _)| secret(*letter)).collect();
    for reader in readers {
        let (reads, mut seen) = reader.finish();
        // Before the start there was nothing.
        seen.remove(&std::io::ErrorKind::NotFound.to_string());
        let odd: Vec<_> = seen.difference(&whole).map(|text| text.len()).collect();
        assert_eq!(seen, whole, "in {reads} reads; odd lengths: {odd:?}");
        assert!(reads > 100, "{reads}");
    }
    // What was kept stays whole for an application that is still ending.
    let names = world.plaintext();
    let shown: Vec<_> = names
        .iter()
        .filter(|name| !name.contains("..unsealed-"))
        .collect();
    assert_eq!(shown, ["secret/..data/key", "secret/key", "sub.path"]);
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(
        fs::read_to_string(world.mirror("secret/key")).unwrap(),
        secret('b')
    );
}

#[test]
fn signal_in_the_middle_leaves_something_half_written() {
    let Some(world) = World::new() else {
        return;
    };
    let (a, b) = (
        world.seal("default/secrets/a"),
        world.seal("default/secrets/b"),
    );
    let volume = world.volume("secret");
    let whole = |letters: &[char]| {
        let read = |key: &str| fs::read_to_string(world.mirror("secret").join(key)).ok();
        let (one, two) = (read("1"), read("2"));
        assert_eq!(one, two);
        one.is_some_and(|one| {
            assert!(letters.iter().any(|letter| one == secret(*letter)));
            true
        })
    };
    let versions = || {
        let entries = fs::read_dir(world.mirror("secret")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("..unsealed")).count()
    };
    swap(&volume, "0", &[("1", &a), ("2", &a)]);
    for (signal, expected) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::KILL, 137)] {
        let (mut stopped, mut finished) = (0, 0);
        for step in 0..14 {
            fs::remove_dir_all(world.mirror("secret")).ok();
            let running = world.mirroring(&["secret"], &["--once"]).start().unwrap();
            // From before it does anything to after its end.
            thread::sleep(Duration::from_millis(step * step * 2));
            send(&running, signal);
            let status = code(running);
            let shown = whole(&['a']);
            if signal == Signal::KILL {
                // Whatever was left, the next run tidies up.
                let again = world.mirroring(&["secret"], &["--once"]).run().unwrap();
                assert!(again.status.success(), "{}", printed(&again));
                assert!(whole(&['a']) && versions() == 1);
                continue;
            }
            match status.code() {
                Some(0) => {
                    assert!(shown && versions() == 1);
                    finished += 1;
                }
                code => {
                    // Before it listens to signals it ends by them.
                    let early = status.signal() == Some(signal.as_raw());
                    assert!(early || code == Some(expected), "{status}");
                    assert!(!shown && versions() == 0);
                    stopped += 1;
                }
            }
        }
        if signal != Signal::KILL {
            assert!(stopped > 0 && finished > 0, "{stopped} {finished}");
        }
    }

    // The same while it keeps: either version, but whole, and nothing beside.
    for step in 0..10 {
        swap(&volume, &format!("a{step}"), &[("1", &a), ("2", &a)]);
        let running = world.mirroring(&["secret"], &[]).start().unwrap();
        running.wait_for_line("in plaintext").unwrap();
        swap(&volume, &format!("b{step}"), &[("1", &b), ("2", &b)]);
        thread::sleep(Duration::from_millis(step * 15));
        send(&running, Signal::TERM);
        assert_eq!(code(running).code(), Some(0));
        assert!(whole(&['a', 'b']));
        assert_eq!(versions(), 1);
    }
}

/// Stands between `unseal-volumes` and the guest, and answers no more when it is told so.
struct Between {
    socket: PathBuf,
    silent: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<UnixStream>>>,
}

impl Between {
    fn start(world: &World) -> Self {
        let socket = world.place.join("between.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let guest = world.place.join("guest.sock");
        let silent = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(Vec::new()));
        let (hush, held) = (Arc::clone(&silent), Arc::clone(&open));
        thread::spawn(move || {
            for here in listener.incoming() {
                let here = here.unwrap();
                held.lock().unwrap().push(here.try_clone().unwrap());
                if hush.load(Ordering::SeqCst) {
                    continue;
                }
                let there = UnixStream::connect(&guest).unwrap();
                for (mut from, mut to) in [
                    (here.try_clone().unwrap(), there.try_clone().unwrap()),
                    (there, here),
                ] {
                    thread::spawn(move || {
                        // Ends when either side does.
                        std::io::copy(&mut from, &mut to).ok();
                        to.shutdown(Shutdown::Both).ok();
                    });
                }
            }
        });
        Self {
            socket,
            silent,
            open,
        }
    }

    /// Answers nothing from now on, and ends what was open.
    fn hush(&self) {
        self.silent.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    fn is_asked(&self) -> bool {
        !self.open.lock().unwrap().is_empty()
    }
}

#[test]
fn signal_while_a_secret_is_fetched_is_not_heard_or_shows_something() {
    let Some(world) = World::new() else {
        return;
    };
    let between = Between::start(&world);
    let guest = format!("unix:{}", between.socket.display());
    let rotate = |version: &str, letter: char| {
        let text = world.seal(&format!("default/secrets/{letter}"));
        swap(&world.volume("secret"), version, &[("key", &text)]);
    };
    rotate("1", 'a');
    let mirroring = |more: &[&str]| {
        let program = world.mirroring(&["secret"], more);
        program.env("STRONGROOM_GUEST", &guest).start().unwrap()
    };
    let keeper = mirroring(&[]);
    keeper.wait_for_line("in plaintext").unwrap();

    between.hush();
    rotate("2", 'b');
    wait_until("the new secret is asked for", || between.is_asked());
    let before = world.plaintext();
    send(&keeper, Signal::TERM);
    assert_eq!(code(keeper).code(), Some(0));
    assert_eq!(world.plaintext(), before);
    let shown = fs::read_to_string(world.mirror("secret/key")).unwrap();
    assert_eq!(shown, secret('a'));

    fs::remove_dir_all(world.mirror("secret")).unwrap();
    for (signal, expected) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        between.hush();
        let starting = mirroring(&["--once"]);
        wait_until("the first secret is asked for", || between.is_asked());
        send(&starting, signal);
        assert_eq!(code(starting).code(), Some(expected));
        assert_eq!(world.plaintext(), [""; 0]);

        between.hush();
        let app = world
            .guest(&["guest", "exec", "--from"])
            .arg(world.volume("secret"))
            .arg("--to")
            .arg(world.mirror("secret"))
            .env("STRONGROOM_GUEST", &guest)
            .args(["--", "touch", "started"])
            .start()
            .unwrap();
        wait_until("the first secret is asked for", || between.is_asked());
        send(&app, signal);
        assert_eq!(code(app).code(), Some(expected));
        assert_eq!(world.plaintext(), [""; 0]);
        assert!(!world.place.join("started").exists());
    }
}

#[test]
fn application_outlives_its_rotations_or_leaves_a_process() {
    let Some(world) = World::new() else {
        return;
    };
    let sealed = |letter: char| world.seal(&format!("default/secrets/{letter}"));
    swap(&world.volume("secret"), "1", &[("key", &sealed('a'))]);
    world.place.write("sealed.txt", sealed('c'));
    let file = format!("sealed.txt={}", world.mirror("file").display());
    let script = r#"
        test "$(cat "$1/key" | head -c 3)" = aaa
        test "$(head -c 3 "$2")" = ccc
        test "$(printf %s "$VALUE" | head -c 3)" = ddd
        echo started
        until test "$(cat "$1/key" | head -c 3)" = bbb; do sleep 0.02; done
        echo rotated
    "#;
    let running = world
        .guest(&["guest", "exec", "--watch", "--file", &file, "--from"])
        .arg(world.volume("secret"))
        .arg("--to")
        .arg(world.mirror("secret"))
        .env("VALUE", sealed('d').trim())
        .args(["--", "sh", "-euc", script, "sh"])
        .arg(world.mirror("secret"))
        .arg(world.mirror("file"))
        .start()
        .unwrap();
    running.wait_for_line("started").unwrap();
    let keeps = || {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let line = fs::read(entry.ok()?.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let ours = line.contains(world.memory.path().to_str().unwrap());
            (ours && line.contains("unseal-volumes")).then_some(line)
        });
        processes.count()
    };
    wait_until("the mirror is kept", || keeps() == 1);
    swap(&world.volume("secret"), "2", &[("key", &sealed('b'))]);
    running.wait_for_line("rotated").unwrap();
    wait_until("what kept it has ended with the application", || {
        keeps() == 0
    });
    let finished = running.finished().unwrap().expect_success();
    assert_eq!(finished.stdout_text(), "started\nrotated\n");

    // One that cannot start leaves nothing.
    fs::remove_file(world.mirror("file")).unwrap();
    let finished = world
        .guest(&["guest", "exec", "--watch", "--file", &file, "--from"])
        .arg(world.volume("secret"))
        .arg("--to")
        .arg(world.mirror("secret"))
        .args(["--", "/no/such/program"])
        .run()
        .unwrap();
    assert_eq!(finished.status.code(), Some(1));
    assert_eq!(world.plaintext(), [""; 0]);
    assert_eq!(keeps(), 0);
}

#[test]
fn upstreams_command_lines_make_something_else() {
    let Some(world) = World::new() else {
        return;
    };
    let place = &world.place;
    place.ok(&["secret", "keygen", "--kid", "mine"]);
    let seal = |more: &[&str]| {
        let args = ["secret", "seal", "--signing-kid", "mine"];
        let args = [
            &args[..],
            &["--signing-jwk-path", "mine-private.json"],
            more,
        ];
        place.run(&args.concat())
    };
    let uri = ["--resource-uri", "kbs:///default/secrets/a"];
    let sealed = seal(&[&["vault"], &uri[..], &["--provider", "kbs"]].concat());
    let sealed = sealed.expect_success();
    place.write("sealed", &sealed.stdout);

    // The key is in the guest's folder, which must be named and nobody else's to write.
    let unseal = |more: &[&str]| {
        let args = [&["secret", "unseal", "-f", "sealed"], more].concat();
        world.guest(&args).run().unwrap()
    };
    let finished = unseal(&[]);
    assert!(finished.stderr_text().contains("--signing-keys"));
    fs::create_dir(place.join("keys")).unwrap();
    fs::copy(place.join("mine-public.json"), place.join("keys/mine")).unwrap();
    let keys = ["--signing-keys", "keys"];
    fs::set_permissions(place.join("keys"), fs::Permissions::from_mode(0o777)).unwrap();
    let finished = unseal(&keys);
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stderr_text().contains("others than its owner"));
    fs::set_permissions(place.join("keys"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(unseal(&keys).status.success());
    assert_eq!(place.read("sealed.unsealed"), secret('a').as_bytes());
    assert!(unseal(&keys).stderr_text().contains("exists already"));

    let aws = ["aws", "-r", "eu-central-1", "-c", "credential.json"];
    let envelope = ["envelope", "-k", "alias/x", "-f", "a"];
    for more in [
        [&envelope[..], &aws].concat(),
        ["vault", "-r", "kbs:///a/b/c", "-p", "aliyun"].to_vec(),
    ] {
        let finished = seal(&more);
        let said = printed(&finished);
        assert!(!finished.status.success(), "{said}");
        assert!(
            said.contains("not spoken here") || said.contains("alias/x"),
            "{said}"
        );
    }

    // An envelope, by the short way and back.
    place.write("envelope", world.envelope("a"));
    let unsealed = world.guest(&["unseal", "envelope"]).run().unwrap();
    assert_eq!(unsealed.expect_success().stdout, secret('a').as_bytes());
    for (wrong, reason) in [
        (
            &["seal", "--signing-key", "signing.jwk"][..],
            "--resource-uri",
        ),
        (
            &["seal", "envelope", "--signing-key", "signing.jwk"],
            "--key-id",
        ),
        (
            &["seal", "--signing-key", "signing.jwk", "--file", "a"],
            "an envelope's",
        ),
    ] {
        assert!(place.refused(wrong).contains(reason));
    }
}

#[test]
fn mirror_on_a_disk_or_without_its_volume_is_made() {
    let Some(world) = World::new() else {
        return;
    };
    fs::create_dir(world.volume("secret")).unwrap();
    fs::write(world.volume("secret/key"), world.seal("default/secrets/a")).unwrap();
    let run = |args: &[&str]| {
        let args = [&["guest", "unseal-volumes", "--once"], args].concat();
        let finished = world.guest(&args).run().unwrap();
        (finished.status.code(), printed(&finished))
    };
    let to = world.mirror("m");
    let to = to.to_str().unwrap();
    for (args, reason) in [
        (&[][..], "--from"),
        (&["--from", "secret"], "each --from has its --to"),
        (&["--from", "none", "--to", to], "cannot be read"),
        (
            &["--from", "secret", "--to", "secret/m"],
            "lie in each other",
        ),
    ] {
        let (code, said) = run(args);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(reason), "{said}");
    }
    if rustix::fs::statfs(world.place.path()).unwrap().f_type == 0x0102_1994 {
        println!("SKIPPED: the folder for temporary files is on tmpfs itself");
        return;
    }
    let (code, said) = run(&["--from", "secret", "--to", "disk"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("on a disk"), "{said}");
    assert!(!world.place.join("disk").exists());
    let named = [
        "--from",
        "secret",
        "--to",
        "disk",
        "--insecure-any-filesystem",
    ];
    assert_eq!(run(&named).0, Some(0));
    assert_eq!(world.place.read("disk/key"), secret('a').as_bytes());
}

#[test]
fn scratch_space_does_not_say_what_it_needs() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        println!("SKIPPED: no /dev/shm to write to");
        return;
    };
    let place = Place::new();
    let args = ["guest", "scratch", "open", "disk", "--size", "64M"];
    let mount = memory.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let name = format!("strongroom-test-{}", std::process::id());
    let finished = place
        .program(&args)
        .args(["--name", &name, "--header"])
        .arg(memory.path().join("header"))
        .arg("--mount")
        .arg(&mount)
        .run()
        .unwrap();
    if !finished.status.success() {
        let said = finished.stderr_text();
        assert!(
            said.contains("scratch space needs what is missing here"),
            "{said}"
        );
        assert!(said.contains("dm-crypt") || said.contains("root") || said.contains("cryptsetup"));
        assert_eq!(place.listing(), [""; 0]);
        assert!(!memory.path().join("header").exists());
        println!("SKIPPED: no mapping can be opened here: {said}");
        return;
    }
    fs::write(mount.join("file"), secret('a')).unwrap();
    place.ok(&["guest", "scratch", "close", &name]);
    let disk = place.read("disk");
    assert!(
        !disk
            .windows(40)
            .any(|window| window == &secret('a').as_bytes()[..40])
    );
    assert_eq!(support::listing(&mount), [""; 0]);
}
