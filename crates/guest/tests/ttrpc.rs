//! The ttRPC services on a real socket: called by the crate that Kata's agent calls with, and by a client that sends what
//! it is told, proper or not.

#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod broker;
mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use broker::{ScriptedBroker, error};
use serde_json::Value;
use strongroom_guest::{Agent, GuestError, Socket, TtrpcLimits, TtrpcService, serve_ttrpc};
use strongroom_testkit::fixtures::peer;
use support::{agent, fixture};

const KEY: &str = "default/fraud-dataset/dataset_key";
const SECRET: &[u8] = b"0123456789abcdef\0\xff";
const AGENT: &str = "attestation_agent.AttestationAgentService";

struct Served {
    folder: tempfile::TempDir,
    shutdown: Option<tokio::sync::oneshot::Sender<()>>,
    server: Option<std::thread::JoinHandle<Result<(), GuestError>>>,
}

impl Served {
    fn start(agent: Agent, service: TtrpcService, limits: TtrpcLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = Socket::bind_with_folder(&folder.path().join("s/guest.sock")).unwrap();
        let (shutdown, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let listener = socket.listener().unwrap();
            runtime.block_on(serve_ttrpc(agent, service, listener, limits, async {
                // Sent, or dropped with the test.
                let _ = stopped.await;
            }))
        });
        Self {
            folder,
            shutdown: Some(shutdown),
            server: Some(server),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("s/guest.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    /// What the real client prints for a call.
    fn call(&self, client: &PathBuf, service: &str, method: &str, fields: &[&str]) -> String {
        let output = Command::new(client)
            .arg(self.path())
            .args([service, method])
            .args(fields)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn stop(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
        self.server.take().unwrap().join().unwrap().unwrap();
    }
}

fn hub(broker: &ScriptedBroker) -> Served {
    let service = TtrpcService::DataHub(Box::default());
    Served::start(agent(&broker.url), service, TtrpcLimits::default())
}

fn attestation_agent(broker: &ScriptedBroker) -> Served {
    let service = TtrpcService::AttestationAgent;
    Served::start(agent(&broker.url), service, TtrpcLimits::default())
}

fn with_key() -> ScriptedBroker {
    ScriptedBroker::start().with_resource(KEY, SECRET)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let nibble = |byte: &u8| u8::try_from((*byte as char).to_digit(16).unwrap()).unwrap();
    let pairs = text.trim().as_bytes().chunks(2);
    pairs
        .map(|pair| nibble(&pair[0]) << 4 | nibble(&pair[1]))
        .collect()
}

#[test]
fn client_of_kata_gets_a_resource() {
    let Some(client) = peer("ttrpc-client") else {
        return;
    };
    let broker = with_key();
    let hub = hub(&broker);
    let uri = format!("1=kbs:///{KEY}");
    let answer = hub.call(&client, "api.GetResourceService", "GetResource", &[&uri]);
    assert_eq!(answer, format!("1={}\n", hex(SECRET)));
}

#[test]
fn client_of_kata_cannot_tell_missing_denied_and_unreachable_apart() {
    let Some(client) = peer("ttrpc-client") else {
        return;
    };
    let mut broker = with_key();
    let hub = hub(&broker);
    let get = |path: &str| {
        let uri = format!("1=kbs:///{path}");
        hub.call(&client, "api.GetResourceService", "GetResource", &[&uri])
    };
    let missing = get("default/none/none");
    assert!(missing.starts_with("status NOT_FOUND "), "{missing}");
    broker.on_get([error(403, "PolicyDeny")]);
    let denied = get(KEY);
    assert!(
        denied.starts_with("status PERMISSION_DENIED ") && denied.contains("words of PolicyDeny"),
        "{denied}"
    );
    let malformed = get("default/../x");
    assert!(
        malformed.starts_with("status INVALID_ARGUMENT "),
        "{malformed}"
    );
    let elsewhere = hub.call(
        &client,
        "api.GetResourceService",
        "GetResource",
        &["1=kbs://evil.example/a/b/c"],
    );
    assert!(
        elsewhere.starts_with("status INVALID_ARGUMENT ")
            && elsewhere.contains("no broker is listed"),
        "{elsewhere}"
    );
    broker.stop();
    let unreachable = get(KEY);
    assert!(
        unreachable.starts_with("status UNAVAILABLE ") && unreachable.contains(&broker.url),
        "{unreachable}"
    );
}

#[test]
fn client_of_kata_asks_the_attestation_agent() {
    let Some(client) = peer("ttrpc-client") else {
        return;
    };
    let broker = with_key();
    let served = attestation_agent(&broker);
    let call = |method: &str, fields: &[&str]| served.call(&client, AGENT, method, fields);
    assert_eq!(call("GetTeeType", &[]), format!("1={}\n", hex(b"sample")));
    assert_eq!(call("GetAdditionalTees", &[]), "");
    let event = ["1=domain", "2=operation", "3=content", "4:17"];
    assert_eq!(call("ExtendRuntimeMeasurement", &event), "1:1\n");
    let bad = call("ExtendRuntimeMeasurement", &["1=a b", "2=o", "3=c"]);
    assert!(bad.starts_with("status INVALID_ARGUMENT "), "{bad}");
    let unbound = call("BindInitData", &["1=digest"]);
    assert!(
        unbound.starts_with("status FAILED_PRECONDITION "),
        "{unbound}"
    );
    let evidence = call("GetEvidence", &["1=abc"]);
    let evidence: Value =
        serde_json::from_slice(&unhex(evidence.strip_prefix("1=").unwrap())).unwrap();
    assert_eq!(evidence["report_data"], "YWJj");
    let token = call("GetToken", &["1=kbs"]);
    let token: Value = serde_json::from_slice(&unhex(token.strip_prefix("1=").unwrap())).unwrap();
    assert!(
        token["tee_keypair"]
            .as_str()
            .unwrap()
            .starts_with("-----BEGIN PRIVATE KEY-----")
    );
    for (kind, code) in [("coco_as", "UNIMPLEMENTED"), ("", "INVALID_ARGUMENT")] {
        let answer = call("GetToken", &[&format!("1={kind}")]);
        assert!(answer.starts_with(&format!("status {code} ")), "{answer}");
    }
    // Each service is on its own socket.
    let other = served.call(&client, "api.GetResourceService", "GetResource", &[]);
    assert!(other.starts_with("status UNIMPLEMENTED "), "{other}");
}

#[test]
fn ocicrypt_gets_the_key_of_upstreams_packet_and_wraps_none() {
    let (Some(client), Some(vector)) = (
        peer("ttrpc-client"),
        fixture("guest/vectors/ocicrypt-unwrap.json"),
    ) else {
        return;
    };
    let vector: Value = serde_json::from_str(&vector).unwrap();
    let kek = unhex(vector["kek_hex"].as_str().unwrap());
    let broker = ScriptedBroker::start().with_resource("default/key/1", &kek);
    let hub = hub(&broker);
    let provider = "keyprovider.KeyProviderService";
    let input = format!("1={}", vector["unwrap_request"]);
    let answer = hub.call(&client, provider, "UnWrapKey", &[&input]);
    let answer: Value = serde_json::from_slice(&unhex(answer.strip_prefix("1=").unwrap())).unwrap();
    let bytes: Vec<u8> =
        serde_json::from_value(answer["keyunwrapresults"]["optsdata"].clone()).unwrap();
    let options: Value = serde_json::from_slice(&bytes).unwrap();
    let expected = &vector["plaintext_plbco"];
    for member in ["symkey", "digest", "cipheroptions"] {
        assert_eq!(options[member], expected[member], "{member}");
    }
    broker.put("default/key/1", &[7; 32]);
    let wrong = hub.call(&client, provider, "UnWrapKey", &[&input]);
    assert!(
        wrong.starts_with("status FAILED_PRECONDITION ") && wrong.contains("another key"),
        "{wrong}"
    );
    let wrapped = hub.call(&client, provider, "WrapKey", &[&input]);
    assert!(
        wrapped.starts_with("status UNIMPLEMENTED ")
            && wrapped.contains("strongroom image encrypt"),
        "{wrapped}"
    );
}

#[test]
fn image_without_a_policy_or_a_mount_of_another_kind_is_refused_by_its_code() {
    let Some(client) = peer("ttrpc-client") else {
        return;
    };
    let broker = with_key();
    let hub = hub(&broker);
    let pull = |bundle: &str| {
        let fields = ["1=localhost:1/app:v1", bundle];
        hub.call(&client, "api.ImagePullService", "PullImage", &fields)
    };
    let answer = pull("2=/nowhere/bundle");
    assert!(
        answer.starts_with("status PERMISSION_DENIED ")
            && answer.contains("no image policy is set"),
        "{answer}"
    );
    assert!(pull("2=bundle").starts_with("status INVALID_ARGUMENT "));
    let fields = ["1=alibaba-cloud-oss", "4=/mnt"];
    let answer = hub.call(&client, "api.SecureMountService", "SecureMount", &fields);
    assert!(answer.starts_with("status UNIMPLEMENTED "), "{answer}");
}

// A client that sends what it is told.

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2], varint(value.len()).as_slice(), value].concat()
}

fn head(length: usize, stream: u32, kind: u8, flags: u8) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&length[..], &stream.to_be_bytes(), &[kind, flags]].concat()
}

fn request(stream: u32, method: &str, payload: &[u8]) -> Vec<u8> {
    let body = [
        field(1, b"api.GetResourceService"),
        field(2, method.as_bytes()),
        field(3, payload),
    ]
    .concat();
    [head(body.len(), stream, 1, 0), body].concat()
}

fn resource_request(stream: u32) -> Vec<u8> {
    let uri = format!("kbs:///{KEY}");
    request(stream, "GetResource", &field(1, uri.as_bytes()))
}

/// The stream of an answer, and its bytes.
fn read_answer(stream: &mut UnixStream) -> std::io::Result<(u32, Vec<u8>)> {
    let mut head = [0; 10];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes(head[..4].try_into().unwrap());
    let number = u32::from_be_bytes(head[4..8].try_into().unwrap());
    assert_eq!((head[8], head[9]), (2, 0));
    let mut body = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut body)?;
    Ok((number, body))
}

fn succeeded(body: &[u8]) -> bool {
    body.starts_with(b"\x0a\x00") && body.ends_with(SECRET)
}

#[test]
fn hundred_containers_over_one_connection_cost_one_attestation() {
    let broker = with_key();
    let hub = hub(&broker);
    let mut stream = hub.connect();
    let streams: Vec<u32> = (0..100).map(|n| 2 * n + 1).collect();
    for number in &streams {
        stream.write_all(&resource_request(*number)).unwrap();
    }
    let mut answered: Vec<u32> = streams
        .iter()
        .map(|_| {
            let (number, body) = read_answer(&mut stream).unwrap();
            assert!(succeeded(&body));
            number
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, streams);
    assert_eq!((broker.auths(), broker.gets()), (1, 100));
}

#[test]
fn frame_larger_than_any_is_read() {
    let broker = with_key();
    let hub = hub(&broker);
    let mut stream = hub.connect();
    stream
        .write_all(&head(4 * 1024 * 1024 + 1, 1, 1, 0))
        .unwrap();
    let (number, body) = read_answer(&mut stream).unwrap();
    let text = String::from_utf8_lossy(&body);
    assert!(number == 1 && text.contains("4194305 bytes"), "{text}");
    assert!(
        read_answer(&mut stream).is_err(),
        "the connection stays open"
    );
}

#[test]
fn malformed_call_costs_its_connection_or_the_server() {
    let broker = with_key();
    let hub = hub(&broker);
    let mut stream = hub.connect();
    let garbage = b"\xff\xff\xff";
    stream
        .write_all(&[head(garbage.len(), 1, 1, 0), garbage.to_vec()].concat())
        .unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().0, 1);
    stream.write_all(&request(3, "NoSuch", b"")).unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().0, 3);
    // A streaming call, and what belongs to it.
    let mut streaming = resource_request(5);
    streaming[9] = 2;
    stream.write_all(&streaming).unwrap();
    let (_, body) = read_answer(&mut stream).unwrap();
    assert!(String::from_utf8_lossy(&body).contains("streaming"));
    stream
        .write_all(&[head(1, 5, 3, 1), vec![0]].concat())
        .unwrap();
    stream.write_all(&resource_request(7)).unwrap();
    let (number, body) = read_answer(&mut stream).unwrap();
    assert!(number == 7 && succeeded(&body));
}

#[test]
fn what_no_client_sends_is_answered() {
    let broker = with_key();
    let hub = hub(&broker);
    for (number, kind) in [(2, 1), (0, 1), (1, 2), (1, 9)] {
        let mut bytes = resource_request(number);
        bytes[8] = kind;
        let mut stream = hub.connect();
        stream.write_all(&bytes).unwrap();
        assert!(read_answer(&mut stream).is_err(), "{number} {kind}");
    }
    assert_eq!(broker.auths(), 0);
}

#[test]
fn frame_that_never_ends_holds_its_connection() {
    let broker = with_key();
    let limits = TtrpcLimits {
        frame: Duration::from_millis(100),
        connections: 1,
        ..TtrpcLimits::default()
    };
    let service = TtrpcService::DataHub(Box::default());
    let hub = Served::start(agent(&broker.url), service, limits);
    let mut slow = hub.connect();
    slow.write_all(&resource_request(1)[..20]).unwrap();
    // It waits for the only place.
    let mut other = hub.connect();
    other.write_all(&resource_request(1)).unwrap();
    assert!(succeeded(&read_answer(&mut other).unwrap().1));
    assert!(read_answer(&mut slow).is_err());
    // Silence between frames is no fault.
    std::thread::sleep(Duration::from_millis(300));
    other.write_all(&resource_request(3)).unwrap();
    assert!(succeeded(&read_answer(&mut other).unwrap().1));
}

#[test]
fn server_that_is_told_to_stop_waits_for_silent_clients_or_leaves_its_socket() {
    let broker = with_key();
    let mut hub = hub(&broker);
    let mut silent = hub.connect();
    silent.write_all(&resource_request(1)).unwrap();
    assert!(succeeded(&read_answer(&mut silent).unwrap().1));
    hub.stop();
    assert!(read_answer(&mut silent).is_err());
    assert!(!hub.path().exists());
}

#[test]
fn client_that_does_not_read_gets_a_torn_answer_followed_by_another() {
    let large = vec![7; 3_000_000];
    let broker = ScriptedBroker::start().with_resource(KEY, &large);
    let limits = TtrpcLimits {
        frame: Duration::from_millis(200),
        ..TtrpcLimits::default()
    };
    let service = TtrpcService::DataHub(Box::default());
    let hub = Served::start(agent(&broker.url), service, limits);
    let mut stream = hub.connect();
    for number in [1, 3] {
        stream.write_all(&resource_request(number)).unwrap();
    }
    // Longer than the server waits for a reader.
    std::thread::sleep(Duration::from_secs(2));
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert!(
        received.len() < large.len(),
        "one answer, and not all of it"
    );
}
