//! A guest on a real socket, and a bare HTTP/1.1 client that sends what it is told, proper or not.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use strongroom_attester::Attester;
use strongroom_client::session::RetryPolicy;
use strongroom_guest::{Agent, AgentConfig, Features, GuestError, ServeOptions, serve_with};

/// All parts of the API, which a guest offers when it is told to.
pub fn everything() -> ServeOptions {
    ServeOptions {
        features: Features::All,
        ..ServeOptions::default()
    }
}

pub fn agent(broker: &str) -> Agent {
    let mut config = AgentConfig::new(broker, Attester::named("sample").unwrap());
    config.retry = RetryPolicy {
        attempts: 2,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(1),
    };
    Agent::new(config).unwrap()
}

pub fn fixture(path: &str) -> Option<String> {
    let full = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures"
    ))
    .join(path);
    let text = std::fs::read_to_string(full).ok();
    if text.is_none() {
        assert!(
            !Path::new(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../shared/fixtures"
            ))
            .is_dir(),
            "what this test reads is missing from a folder of fixtures that is there"
        );
        println!("SKIPPED: fixture {path} is not beside this checkout");
    }
    text
}

/// Asks again until there is an answer; the test's own time limit ends it.
pub fn eventually<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        std::thread::yield_now();
    }
}

pub struct Guest {
    pub address: SocketAddr,
    shutdown: tokio::sync::oneshot::Sender<()>,
    server: std::thread::JoinHandle<Result<(), GuestError>>,
}

impl Guest {
    pub fn start(agent: Agent, options: ServeOptions) -> Self {
        Self::start_at("127.0.0.1:0", agent, options)
    }

    pub fn start_at(address: &str, agent: Agent, options: ServeOptions) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let (shutdown, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve_with(agent, listener, options, async {
                // Sent, or dropped with the test.
                let _ = stopped.await;
            }))
        });
        Self {
            address,
            shutdown,
            server,
        }
    }

    pub fn stop(self) -> SocketAddr {
        self.shutdown.send(()).unwrap();
        self.server.join().unwrap().unwrap();
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let host = self.address.to_string();
        let mut all = headers.to_vec();
        if !headers.iter().any(|(name, _)| *name == "host") {
            all.push(("host", &host));
        }
        request(&host, method, path, &all, body)
    }
}

pub fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer {
        status,
        headers,
        body: answer[end + 4..].to_vec(),
    }
}

pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

/// A field of a protobuf message that has a length.
pub fn text(number: u32, value: &[u8]) -> Vec<u8> {
    let tag = varint(number as usize * 8 + 2);
    [tag, varint(value.len()), value.to_vec()].concat()
}

/// Calls a ttRPC service, and gives the answer's frame whole: status and payload.
pub fn call(socket: &Path, service: &str, method: &str, request: &[u8]) -> Vec<u8> {
    let body = [
        text(1, service.as_bytes()),
        text(2, method.as_bytes()),
        text(3, request),
    ]
    .concat();
    let mut stream = UnixStream::connect(socket).unwrap();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let head = [&length[..], &[0, 0, 0, 1, 1, 0]].concat();
    stream.write_all(&[head, body].concat()).unwrap();
    let mut head = [0; 10];
    stream.read_exact(&mut head).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(head[..4].try_into().unwrap()) as usize];
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// What a data hub answers to a call of `GetResource`: status and payload.
pub fn get_resource(socket: &Path, uri: &str) -> Vec<u8> {
    let request = text(1, uri.as_bytes());
    call(socket, "api.GetResourceService", "GetResource", &request)
}
