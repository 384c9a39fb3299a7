//! Two brokers as processes of their own on one PostgreSQL server, behind a plain round robin: one is killed in the middle
//! of a guest's handshake, and the storage key is changed under both.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use strongroom_testkit::postgres::Cluster;
use strongroom_testkit::process::Running;
use support::{Place, assert_never_printed, document, printed, wait_until};

const PASSWORD: &str = "correct-horse-battery-staple";

/// A server that wants TLS and a password, a broker's folder on it, and a copy of that for a second broker. Without TLS
/// towards guests, so that what stands between can tell requests apart.
fn pair() -> Option<(Cluster, Place)> {
    let place = Place::new();
    place.ok(&["broker", "init", "server"]);
    let of_server = |file: &str| String::from_utf8(place.read(&format!("server/{file}"))).unwrap();
    let cluster = Cluster::guarded(PASSWORD, &of_server("tls.crt"), &of_server("tls.key"))?;
    private(&place, "password", PASSWORD);
    let url = cluster.database_over_tls("brokers", "localhost");
    place.ok(&[
        "broker",
        "init",
        "one",
        "--postgres",
        &url,
        "--postgres-password",
        "password",
        "--postgres-certificate",
        "server/tls.crt",
        "--insecure-accept-sample-evidence",
    ]);
    let config = String::from_utf8(place.read("one/broker.toml")).unwrap();
    let (before, rest) = config.split_once("[tls]").unwrap();
    let after = rest.split_once("\n# Secrets").unwrap().1;
    let plain = format!("insecure_http = true\n{before}\n# Secrets{after}");
    place.write("one/broker.toml", plain);
    fs::create_dir(place.join("two")).unwrap();
    for file in fs::read_dir(place.join("one")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), place.join("two").join(file.file_name())).unwrap();
    }
    Some((cluster, place))
}

fn private(place: &Place, name: &str, content: &str) {
    place.write(name, content);
    fs::set_permissions(place.join(name), fs::Permissions::from_mode(0o600)).unwrap();
}

fn start(place: &Place, folder: &str) -> (Running, SocketAddr) {
    let args = [
        "broker",
        "run",
        folder,
        "--json",
        "-v",
        "--listen",
        "127.0.0.1:0",
    ];
    let running = place.program(&args).start().unwrap();
    let ready: Value = serde_json::from_str(&running.wait_for_line("\"ready\"").unwrap()).unwrap();
    let url = ready["url"].as_str().unwrap().strip_prefix("http://");
    let address = url.unwrap().trim_end_matches('/').parse().unwrap();
    (running, address)
}

/// Hands each request to the next broker, and to the one behind it when that one is not there.
struct RoundRobin {
    address: SocketAddr,
    /// Whose process number to kill when the handshake has begun there.
    armed: Arc<Mutex<Option<[u32; 2]>>>,
    served: Arc<[AtomicUsize; 2]>,
}

impl RoundRobin {
    fn between(brokers: [SocketAddr; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let robin = Self {
            address: listener.local_addr().unwrap(),
            armed: Arc::default(),
            served: Arc::default(),
        };
        let (armed, served) = (Arc::clone(&robin.armed), Arc::clone(&robin.served));
        std::thread::spawn(move || {
            let mut next = 0;
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = message(&mut stream) else {
                    continue;
                };
                let asked = [next % 2, (next + 1) % 2].into_iter().find_map(|at| {
                    let answer = ask(brokers[at], &request)?;
                    Some((at, answer))
                });
                next += 1;
                let Some((at, answer)) = asked else { continue };
                served[at].fetch_add(1, Ordering::SeqCst);
                if request.starts_with(b"POST /kbs/v0/auth ")
                    && let Some(pids) = armed.lock().unwrap().take()
                {
                    let pid = Pid::from_raw(pids[at].try_into().unwrap()).unwrap();
                    kill_process(pid, Signal::KILL).unwrap();
                }
                stream.write_all(&answer).unwrap_or_default();
            }
        });
        robin
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn served(&self, at: usize) -> usize {
        self.served[at].load(Ordering::SeqCst)
    }
}

/// A request with its body, told to close the connection behind its answer.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).unwrap();
    let length = text.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    let head = text.trim_end_matches("\r\n");
    Some(
        [
            format!("{head}\r\nconnection: close\r\n\r\n").as_bytes(),
            &body,
        ]
        .concat(),
    )
}

/// The whole answer, which says that the connection ends; nothing where nobody is.
fn ask(broker: SocketAddr, request: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(broker).ok()?;
    stream.write_all(request).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

#[test]
fn broker_that_is_killed_in_a_handshake_takes_the_guest_with_it() {
    let Some((_cluster, place)) = pair() else {
        return;
    };
    let (one, first) = start(&place, "one");
    let (two, second) = start(&place, "two");
    let pids = [one.id(), two.id()];
    let robin = RoundRobin::between([first, second]);
    let urls = [first, second].map(|address| format!("http://{address}"));
    let admin = |at: usize, args: &[&str]| {
        let folder = ["one", "two"][at];
        place.ok(&[&["--json"], args, &["--dir", folder, "--broker", &urls[at]]].concat())
    };
    place.write("secret", "what the guest is to get");
    place.write("policy.rego", "package policy\n\ndefault allow := true\n");
    admin(0, &["resource", "put", "default/key/one", "secret"]);
    admin(1, &["policy", "set", "policy.rego"]);

    // A guest whose handshake goes round, and then one whose broker is killed between challenge and evidence.
    let guest = || {
        let url = robin.url();
        let args = [
            "guest",
            "run",
            "--json",
            "--platform",
            "sample",
            "--listen",
            "127.0.0.1:0",
            "--broker",
            &url,
        ];
        let guest = place.program(&args).start().unwrap();
        let line = guest.wait_for_line("\"ready\"").unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap();
        let at = ready["url"].as_str().unwrap().to_owned();
        (guest, at)
    };
    let get = |at: &str| {
        let got = place.ok(&["get", "kbs:///default/key/one", "--guest", at]);
        assert_eq!(got.stdout, b"what the guest is to get");
    };
    let (running, at) = guest();
    get(&at);
    running.terminate().unwrap();
    assert!(robin.served(0) > 0 && robin.served(1) > 0);

    let (running, at) = guest();
    *robin.armed.lock().unwrap() = Some(pids);
    get(&at);
    assert!(robin.armed.lock().unwrap().is_none());
    running.terminate().unwrap();
    let mut left = [Some(one), Some(two)];
    let is_killed = |at: usize| TcpStream::connect([first, second][at]).is_err();
    wait_until("one is killed", || is_killed(0) || is_killed(1));
    let (killed, alive) = match is_killed(0) {
        true => (0, 1),
        false => (1, 0),
    };
    let ended = left[killed].take().unwrap().finished().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended.status),
        Some(9)
    );

    // Nothing is half done: the record verifies, and the one that was killed starts where it was.
    let verified = document(&admin(
        alive,
        &["audit", "verify", "--key", "one/audit.pub"],
    ));
    assert_eq!(verified["holds"], true);
    let (again, _) = start(&place, ["one", "two"][killed]);
    let (running, at) = guest();
    get(&at);
    running.terminate().unwrap();

    let finished = [left[alive].take().unwrap(), again].map(|broker| broker.terminate().unwrap());
    for broker in [&ended, &finished[0], &finished[1]] {
        assert_never_printed(&[PASSWORD], broker);
    }
}

#[test]
fn storage_key_is_changed_before_its_file_is_copied() {
    let Some((_cluster, place)) = pair() else {
        return;
    };
    let (one, first) = start(&place, "one");
    let (two, second) = start(&place, "two");
    let urls = [first, second].map(|address| format!("http://{address}"));
    let at_first = ["--dir", "one", "--broker", &urls[0]];
    place.write("secret", "s");
    place.ok(&[
        &["resource", "put", "default/key/one", "secret"],
        &at_first[..],
    ]
    .concat());
    let rotate = [&["broker", "rotate-key"], &at_first[..]].concat();
    let refused = place.run(&rotate);
    let said = printed(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("Copy the key file to each of them"), "{said}");
    assert!(said.contains(&second.to_string()), "{said}");
    fs::copy(place.join("one/storage.key"), place.join("two/storage.key")).unwrap();
    let rotated = place.ok(&[&["--json"], &rotate[..]].concat());
    assert_eq!(document(&rotated)["rewrapped"], 1);
    wait_until("both have the one key", || {
        let files = ["one", "two"].map(|folder| place.read(&format!("{folder}/storage.key")));
        files[0] == files[1] && files[0].len() == 65
    });
    for broker in [one, two] {
        let finished = broker.terminate().unwrap();
        assert!(finished.status.success());
        assert_never_printed(&[PASSWORD], &finished);
    }
}

#[test]
fn password_of_the_database_is_in_what_is_said_of_it() {
    let Some((_cluster, place)) = pair() else {
        return;
    };
    let said = |name: &str, content: &str| {
        private(&place, name, content);
        let path = place.join(name);
        let variable = "STRONGROOM_BROKER__STORE__POSTGRES_PASSWORD_FILE";
        for args in [
            &["broker", "check-config", "one"][..],
            &["broker", "run", "one", "-vv", "--listen", "127.0.0.1:0"],
        ] {
            let refused = place.program(args).env(variable, &path).run().unwrap();
            assert_eq!(refused.status.code(), Some(1));
            assert_never_printed(&[PASSWORD, "hunter2-hunter2"], &refused);
            let said = printed(&refused);
            assert!(said.contains("password authentication failed"), "{said}");
        }
    };
    said("other", "hunter2-hunter2");
    said("longer", &format!("{PASSWORD}-and-more"));
    fs::set_permissions(place.join("password"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = place.run(&["broker", "check-config", "one"]);
    assert_never_printed(&[PASSWORD], &refused);
    assert!(printed(&refused).contains("chmod 600"));
}
