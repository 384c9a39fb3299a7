//! Throw-away storages for one test: Azurite, moto's S3 and fake-gcs-server on loopback ports, and a web server that
//! misbehaves as it is told. `./check` installs the first three in `.peers/storage`.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::fixtures::{missing_peer, workspace_root};
use crate::process::{Program, Running};

/// A running storage. It ends when this is dropped, and keeps nothing.
#[derive(Debug)]
pub struct StorageServer {
    _running: Running,
    /// `http://127.0.0.1:port`.
    pub url: String,
}

impl StorageServer {
    /// Starts Azurite, Microsoft's own emulator, or says that the test is skipped.
    ///
    /// # Panics
    /// When it is there and does not start, or it is missing and peers are required.
    pub fn azurite() -> Option<Self> {
        let script = "node/node_modules/azurite/dist/src/blob/main.js";
        start(script, "successfully listens", |script, port| {
            Program::new("node").arg(script).args([
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
                &port.to_string(),
                "--inMemoryPersistence",
                "--skipApiVersionCheck",
                "--disableTelemetry",
            ])
        })
    }

    /// Starts moto's server, which speaks S3, or says that the test is skipped.
    ///
    /// # Panics
    /// When it is there and does not start, or it is missing and peers are required.
    pub fn moto() -> Option<Self> {
        start("venv/bin/moto_server", "Running on", |program, port| {
            Program::new(program).args(["-H", "127.0.0.1", "-p", &port.to_string()])
        })
    }

    /// Starts fake-gcs-server, or says that the test is skipped.
    ///
    /// # Panics
    /// When it is there and does not start, or it is missing and peers are required.
    pub fn fake_gcs() -> Option<Self> {
        start(
            "venv/bin/fake-gcs-server",
            "server started",
            |program, port| {
                Program::new(program).args([
                    "-scheme",
                    "http",
                    "-host",
                    "127.0.0.1",
                    "-port",
                    &port.to_string(),
                    "-backend",
                    "memory",
                ])
            },
        )
    }
}

fn start(
    name: &str,
    ready: &str,
    program: impl Fn(&std::path::Path, u16) -> Program,
) -> Option<StorageServer> {
    let path = workspace_root().join(".peers/storage").join(name);
    if !path.exists() {
        missing_peer(&format!("no .peers/storage/{name} here; ./check makes it"));
        return None;
    }
    // The port is taken by the server itself; two tests at once may pick one, and the second then tries another.
    for _ in 0..TRIES {
        let free = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        let running = program(&path, port).limit(Duration::from_secs(60)).start();
        let running = running.expect("the storage starts");
        if running.wait_for_line(ready).is_ok() {
            let url = format!("http://127.0.0.1:{port}");
            return Some(StorageServer {
                _running: running,
                url,
            });
        }
    }
    panic!("{name} does not start");
}

/// The account that Azurite has, with a key that everybody knows.
pub const AZURITE_ACCOUNT: &str = "devstoreaccount1";
/// Its key.
pub const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes a shared access signature for a container, as a portal shows it: percent-encoded, without a question mark.
pub fn azure_container_sas(container: &str, permissions: &str) -> String {
    let resource = format!("/blob/{AZURITE_ACCOUNT}/{container}");
    // Service SAS, version 2020-12-06 and later: sixteen lines.
    let lines = [
        permissions,
        "",
        EXPIRY,
        &resource,
        "",
        "",
        "",
        VERSION,
        "c",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
    ];
    let signature = signed(&lines.join("\n"));
    format!(
        "sp={permissions}&se={}&sv={VERSION}&sr=c&sig={}",
        encoded(EXPIRY),
        encoded(&signature)
    )
}

/// Makes a container, by an account's signature.
///
/// # Panics
/// When the storage does not do it.
pub fn azure_create_container(server: &StorageServer, container: &str) {
    // Account SAS, version 2020-12-06 and later: ten lines, each with its end.
    let lines = [
        AZURITE_ACCOUNT,
        "rwdlc",
        "b",
        "sco",
        "",
        EXPIRY,
        "",
        "",
        VERSION,
        "",
    ];
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{line}").expect("a string takes any text");
    }
    let signature = encoded(&signed(&text));
    let expiry = encoded(EXPIRY);
    let target = format!(
        "/{AZURITE_ACCOUNT}/{container}?restype=container&sp=rwdlc&ss=b&srt=sco&se={expiry}&sv={VERSION}&sig={signature}"
    );
    let (status, body) = request(
        &server.url,
        "PUT",
        &target,
        &[("x-ms-version", VERSION)],
        b"",
    );
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
}

fn signed(text: &str) -> String {
    let key = BASE64_STANDARD
        .decode(AZURITE_KEY)
        .expect("the key is base64");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    BASE64_STANDARD.encode(hmac::sign(&key, text.as_bytes()))
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                out.push(char::from(byte))
            }
            _ => write!(out, "%{byte:02X}").expect("a string takes any text"),
        }
    }
    out
}

/// Sends one plain request to a server on this machine and gives the status and the body.
///
/// # Panics
/// When the server does not answer in HTTP.
pub fn request(
    server: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, Vec<u8>) {
    let address = server.strip_prefix("http://").expect("a plain address");
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").expect("a string takes any text");
    }
    write!(head, "Content-Length: {}\r\n\r\n", body.len()).expect("a string takes any text");
    stream.write_all(head.as_bytes()).expect("the server reads");
    stream.write_all(body).expect("the server reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the server answers");
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("an answer has a head");
    let body = answer.split_off(end + 4);
    let head = String::from_utf8_lossy(&answer).into_owned();
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.expect("an answer has a status"), body)
}

/// A request as a web server of a test sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Counted from 0.
    pub number: usize,
    /// Such as `GET`.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Seen {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The range that is asked for: first byte and the one after the last.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1))
    }
}

/// What a web server of a test does with a connection; at the end of its steps it hangs up.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends this.
    Send(Vec<u8>),
    /// Does nothing for a while.
    Wait(Duration),
}

/// A web server on a loopback port that does as its test says. It ends when it is dropped.
#[derive(Debug)]
pub struct WebServer {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
    thread: Option<JoinHandle<()>>,
}

impl WebServer {
    /// Starts one; `answer` says what it does with each request.
    ///
    /// # Panics
    /// When no port is free.
    pub fn start(answer: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let address = listener.local_addr().expect("it is bound");
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (ending, log, answer) = (Arc::clone(&over), Arc::clone(&seen), Arc::new(answer));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if ending.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &log, &*answer));
            }
        });
        Self {
            address,
            over,
            seen,
            thread: Some(thread),
        }
    }

    /// Starts one that serves an object properly, with ranges and a version.
    pub fn of(object: Vec<u8>) -> Self {
        Self::start(move |seen| served(seen, &object, "\"one\""))
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the one that waits for connections.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// What a proper server does: the range with its `ETag`, 412 when another one is wanted.
pub fn served(seen: &Seen, object: &[u8], etag: &str) -> Vec<Step> {
    if seen.header("if-match").is_some_and(|wanted| wanted != etag) {
        return vec![Step::Send(
            b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n".to_vec(),
        )];
    }
    let Some((start, end)) = seen.range() else {
        let head = format!(
            "HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            object.len()
        );
        return vec![Step::Send([head.as_bytes(), object].concat())];
    };
    if start >= object.len() {
        let head = format!(
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\n\r\n",
            object.len()
        );
        return vec![Step::Send(head.into_bytes())];
    }
    let end = end.min(object.len());
    let mut answer = format!(
        "HTTP/1.1 206 Partial Content\r\nETag: {etag}\r\nContent-Range: bytes {start}-{}/{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        end - 1,
        object.len(),
        end - start
    )
    .into_bytes();
    answer.extend_from_slice(&object[start..end]);
    vec![Step::Send(answer)]
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Seen>>, answer: &dyn Fn(&Seen) -> Vec<Step>) {
    let Some(mut seen) = read_request(&stream) else {
        return;
    };
    {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        seen.number = log.len();
        log.push(seen.clone());
    }
    for step in answer(&seen) {
        let done = match step {
            Step::Send(bytes) => stream.write_all(&bytes),
            Step::Wait(time) => {
                thread::sleep(time);
                Ok(())
            }
        };
        // Who has read enough hangs up: that is its right.
        if done.is_err() {
            return;
        }
    }
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen {
        number: 0,
        method,
        target,
        headers,
        body,
    })
}

const TRIES: usize = 5;
const EXPIRY: &str = "2099-01-01T00:00:00Z";
const VERSION: &str = "2021-12-02";
