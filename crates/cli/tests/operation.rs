//! A broker as a service manager, a container and an operator have it: signals, settings from outside, logs, spans.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use strongroom_testkit::process::{Program, Running};

use support::{Place, document, printed, wait_until};

const LONG: Duration = Duration::from_secs(30);

/// A broker's folder, without TLS, so that a test can speak to it byte by byte.
fn insecure() -> Place {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    edit(&place, |config| {
        let (before, rest) = config.split_once("[tls]").unwrap();
        let after = rest.split_once("\n# Secrets").unwrap().1;
        format!("insecure_http = true\n{before}\n# Secrets{after}")
    });
    place
}

fn edit(place: &Place, edit: impl FnOnce(String) -> String) {
    let config = place.join("broker/broker.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, edit(text)).unwrap();
}

fn run(place: &Place, more: &[&str]) -> Program {
    let args = [
        &[
            "broker",
            "run",
            "broker",
            "--listen",
            "127.0.0.1:0",
            "--json",
        ],
        more,
    ]
    .concat();
    place
        .program(&args)
        .env("STRONGROOM_BROKER__METRICS__LISTEN", "127.0.0.1:0")
}

struct Served {
    running: Running,
    address: SocketAddr,
    metrics: SocketAddr,
}

fn start(program: &Program) -> Served {
    let running = program.start().unwrap();
    let ready: Value = serde_json::from_str(&running.wait_for_line("\"ready\"").unwrap()).unwrap();
    let address = |url: &Value| {
        let url = url.as_str().unwrap();
        let (_, rest) = url.split_once("://").unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    };
    Served {
        address: address(&ready["url"]),
        metrics: address(&ready["metrics"]),
        running,
    }
}

fn send(running: &Running, signal: Signal) {
    let pid = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn ask(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{head}\r\nhost: b\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1"))
}

fn reloads(served: &Served, outcome: &str) -> u64 {
    let text = get(served.metrics, "/metrics");
    let name = format!("strongroom_reloads_total{{outcome=\"{outcome}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn hangup_ends_the_broker_or_changes_nothing() {
    let place = insecure();
    let served = start(&run(&place, &["-v"]));
    edit(&place, |config| {
        config.replace("[limits]", "[limits]\nattempts_per_minute = 1")
    });
    send(&served.running, Signal::HUP);
    wait_until("it has reloaded", || reloads(&served, "done") == 1);
    served
        .running
        .wait_for_line("the configuration was reloaded")
        .unwrap();
    let body = r#"{"version":"0.4.0","tee":"sample","extra-params":""}"#;
    let auth = || {
        let mut stream = TcpStream::connect(served.address).unwrap();
        let head = "POST /kbs/v0/auth HTTP/1.1\r\nhost: b\r\nconnection: close";
        write!(
            stream,
            "{head}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(auth().starts_with("HTTP/1.1 200 "));
    let refused = auth();
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("retry-after: 60\r\n"), "{refused}");

    // What is broken is said, and the old stays.
    edit(&place, |config| {
        config.replace("attempts_per_minute", "attempt_per_minute")
    });
    send(&served.running, Signal::HUP);
    wait_until("it has tried", || reloads(&served, "failed") == 1);
    let said = served.running.wait_for_line("was not reloaded").unwrap();
    assert!(
        said.contains("did you mean `attempts_per_minute`?"),
        "{said}"
    );
    assert!(auth().starts_with("HTTP/1.1 429 "));

    // What takes a restart is named.
    edit(&place, |config| {
        config
            .replace("attempt_per_minute", "attempts_per_minute")
            .replace("issuer = \"strongroom\"", "issuer = \"other\"")
    });
    send(&served.running, Signal::HUP);
    let said = served.running.wait_for_line("take a restart").unwrap();
    assert!(said.contains("[\"token\"]"), "{said}");
    assert!(served.running.terminate().unwrap().status.success());
}

#[test]
fn request_in_flight_is_cut_off_by_sigterm() {
    let place = insecure();
    let served = start(&run(&place, &[]));
    let body = r#"{"version":"0.4.0","tee":"sample","extra-params":""}"#;
    let mut stream = TcpStream::connect(served.address).unwrap();
    let head = "POST /kbs/v0/auth HTTP/1.1\r\nhost: b\r\nexpect: 100-continue";
    write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
    stream.read_exact(&mut [0; 25]).unwrap();
    send(&served.running, Signal::TERM);
    wait_until("it takes nobody in", || {
        TcpStream::connect(served.address).is_err()
    });
    assert!(get(served.metrics, "/readyz").contains("\"stopping\""));
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(served.running.finished().unwrap().status.code(), Some(0));
}

#[test]
fn service_manager_hears_nothing() {
    let place = insecure();
    let name = format!("strongroom-{}", std::process::id());
    let abstract_name = UnixAddress::from_abstract_name(&name).unwrap();
    let path = place.join("notify");
    for (socket, address) in [
        (
            UnixDatagram::bind_addr(&abstract_name).unwrap(),
            format!("@{name}"),
        ),
        (
            UnixDatagram::bind(&path).unwrap(),
            path.display().to_string(),
        ),
    ] {
        socket.set_read_timeout(Some(LONG)).unwrap();
        let heard = || {
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let served = start(&run(&place, &[]).env("NOTIFY_SOCKET", address));
        assert!(heard().starts_with("READY=1\nSTATUS=Serving http://127.0.0.1:"));
        send(&served.running, Signal::HUP);
        let reloading = heard();
        let since = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        assert!(since.parse::<u64>().unwrap() > 0);
        assert_eq!(heard(), "READY=1\nSTATUS=Reloaded");
        send(&served.running, Signal::TERM);
        assert_eq!(heard(), "STOPPING=1");
        assert!(served.running.finished().unwrap().status.success());
    }
}

#[test]
fn log_line_does_not_name_the_request_it_belongs_to() {
    let place = insecure();
    let served = start(&run(&place, &["-v", "--log-format", "json"]));
    ask(
        served.address,
        "GET /kbs/v0/resource/hunter2/b/c HTTP/1.1\r\nx-request-id: from-a-client",
    );
    let line = served.running.wait_for_line("\"answered\"").unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["level"], "INFO");
    let span = &line["spans"][0];
    assert_eq!(span["request_id"], "from-a-client");
    assert_eq!(span["route"], "/kbs/v0/resource/{*path}");
    assert_eq!(
        (&span["method"], &span["status"]),
        (&json!("GET"), &json!(401))
    );
    assert!(line["ms"].as_str().unwrap().parse::<f64>().unwrap() > 0.0);
    // Who is refused stands under the same id, with the event that the record knows.
    let refused = served.running.wait_for_line("\"refused\"").unwrap();
    assert!(
        refused.contains("from-a-client") && refused.contains("\"event\""),
        "{refused}"
    );
    let finished = served.running.terminate().unwrap();
    for line in finished
        .stderr_text()
        .lines()
        .filter(|line| !line.starts_with("warning: "))
    {
        serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}"));
    }
}

#[test]
fn settings_of_the_log_are_passed_over() {
    let place = insecure();
    edit(&place, |config| {
        config + "\n[log]\nformat = \"json\"\nfilter = \"info\"\n"
    });
    let served = start(&run(&place, &[]));
    get(served.address, "/healthz");
    get(served.address, "/nothing");
    let line = served.running.wait_for_line("answered").unwrap();
    assert!(line.starts_with('{'), "{line}");
    // Probes would fill the log.
    assert!(line.contains("\"route\":\"none\""), "{line}");
    served.running.terminate().unwrap();
    let served = start(&run(&place, &["--log-format", "text"]).env("STRONGROOM_LOG", "warn"));
    get(served.address, "/nothing");
    let finished = served.running.terminate().unwrap();
    assert!(!finished.stderr_text().contains("answered"));
}

#[test]
fn broken_configuration_passes_the_check() {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    let good = place.ok(&["broker", "check-config", "broker"]);
    let said = good.stdout_text();
    assert!(said.contains("broker/broker.toml is good."), "{said}");
    assert!(said.contains("body_bytes = 2097152"), "{said}");
    assert!(said.contains("attempts_per_minute = 6000"), "{said}");

    edit(&place, |config| {
        config
            .replace("body_bytes", "body_byte")
            .replace("refresh_hours = 24", "refresh_hours = \"often\"")
    });
    let bad = place.run(&["broker", "check-config", "broker/broker.toml"]);
    let said = printed(&bad);
    assert_eq!(bad.status.code(), Some(1), "{said}");
    assert!(
        said.contains("in [limits]: unknown key `body_byte`, did you mean `body_bytes`?"),
        "{said}"
    );
    assert!(
        said.contains("in [collateral]: refresh_hours: invalid type"),
        "{said}"
    );
    let refused = place.run(&["broker", "run", "broker"]);
    assert!(
        printed(&refused).contains("did you mean `body_bytes`?"),
        "{}",
        printed(&refused)
    );
}

#[test]
fn files_that_a_configuration_names_are_not_looked_at() {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    let whole = || place.run(&["broker", "check-config", "broker", "--json"]);
    let before = place.listing();
    let good = document(&whole());
    assert_eq!(good["good"], true, "{good}");
    assert_eq!(good["in_force"]["limits"]["connections"], 1024);
    let left: Vec<String> = place.listing();
    let kept = |name: &String| name.ends_with("-wal") || name.ends_with("-shm");
    assert_eq!(
        left.into_iter()
            .filter(|name| !kept(name))
            .collect::<Vec<_>>(),
        before
    );

    // Each spoiled alone, then all at once.
    let spoil: [(&str, &str); 5] = [
        ("tls.key", "tls.key"),
        ("token.crt", "token.crt"),
        ("storage.key", "storage.key"),
        ("tls.crt", "tls.crt"),
        ("strongroom.sqlite", "strongroom.sqlite"),
    ];
    let mut originals = Vec::new();
    for (file, named) in spoil {
        let path = place.join("broker").join(file);
        let original = fs::read(&path).unwrap();
        fs::write(&path, "nonsense").unwrap();
        let checked = whole();
        assert_eq!(checked.status.code(), Some(1), "{file}");
        let problems = document(&checked)["problems"].as_array().unwrap().clone();
        assert_eq!(problems.len(), 1, "{file}: {problems:?}");
        assert!(
            problems[0].as_str().unwrap().contains(named),
            "{file}: {problems:?}"
        );
        fs::write(&path, &original).unwrap();
        originals.push((path, original));
    }
    for (path, _) in &originals {
        fs::write(path, "nonsense").unwrap();
    }
    let problems = document(&whole())["problems"].as_array().unwrap().clone();
    assert_eq!(problems.len(), 4, "{problems:?}");
    for (path, original) in originals {
        fs::write(path, original).unwrap();
    }

    // A key that others may read, an admin without a key, a loosening.
    edit(&place, |config| {
        config.replace("-----BEGIN PUBLIC KEY-----", "-----BEGIN NOTHING-----")
            + "[development]\naccept_sample_evidence = true\n"
    });
    let checked = document(&whole());
    assert!(
        checked["problems"][0]
            .as_str()
            .unwrap()
            .contains("public_key"),
        "{checked}"
    );
    assert_eq!(
        checked["loosenings"][0]["setting"],
        "development.accept_sample_evidence"
    );
}

#[test]
fn check_beside_a_running_broker_disturbs_it() {
    let place = insecure();
    let served = start(&run(&place, &[]));
    let checked = place.ok(&["broker", "check-config", "broker"]);
    let said = checked.stdout_text();
    assert!(
        said.contains("Looser than the default:\n  insecure_http = true"),
        "{said}"
    );
    assert!(get(served.address, "/readyz").starts_with("HTTP/1.1 200 "));
    assert!(served.running.terminate().unwrap().status.success());
}

#[test]
fn setting_from_the_environment_is_not_seen() {
    let place = insecure();
    let program = run(&place, &["-v"]).env("STRONGROOM_BROKER__LIMITS__HEADERS", "20");
    let served = start(&program);
    served
        .running
        .wait_for_line("STRONGROOM_BROKER__LIMITS__HEADERS")
        .unwrap();
    let many: String = (0..30).map(|number| format!("\r\nx-{number}: 1")).collect();
    let answer = ask(served.address, &format!("GET /healthz HTTP/1.1{many}"));
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    served.running.terminate().unwrap();
    let check = || place.program(&["broker", "check-config", "broker"]);
    let said = check()
        .env("STRONGROOM_BROKER__LIMITS__HEADERS", "20")
        .run()
        .unwrap();
    let said = said.expect_success().stdout_text();
    assert!(
        said.contains("limits.headers (STRONGROOM_BROKER__LIMITS__HEADERS)"),
        "{said}"
    );
    assert!(said.contains("headers = 20"), "{said}");
    for (variable, meant) in [
        (
            "STRONGROOM_BROKER__LIMITS__HEADER",
            "STRONGROOM_BROKER__LIMITS__HEADERS",
        ),
        ("STRONGROOM_BROKER_LISTEN", "STRONGROOM_BROKER__LISTEN"),
    ] {
        for program in [check(), place.program(&["broker", "run", "broker"])] {
            let refused = program.env(variable, "20").run().unwrap();
            let said = printed(&refused);
            assert_eq!(refused.status.code(), Some(1), "{said}");
            assert!(said.contains(meant), "{said}");
        }
    }
}

#[test]
fn broker_that_is_not_there_is_healthy() {
    let place = insecure();
    let served = start(&run(&place, &[]));
    let health = |listen: &str| {
        let program = place.program(&["broker", "health", "broker"]);
        program
            .env("STRONGROOM_BROKER__METRICS__LISTEN", listen)
            .run()
            .unwrap()
    };
    let metrics = served.metrics.to_string();
    assert!(health(&metrics).status.success());
    let anywhere = format!("0.0.0.0:{}", served.metrics.port());
    assert!(health(&anywhere).status.success());
    served.running.terminate().unwrap();
    assert_eq!(health(&metrics).status.code(), Some(1));
    let said = place.refused(&["broker", "health", "broker"]);
    assert!(said.contains("[metrics] listen"), "{said}");
}

/// A collector that answers as it is told, and hands on what it is sent: the head and the document.
fn collector(
    mut answer: impl FnMut() -> &'static str + Send + 'static,
) -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if reader.read_line(&mut head).unwrap() == 0 {
                    break;
                }
            }
            let head = head.to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let status = answer();
            let mut stream = reader.into_inner();
            write!(
                stream,
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
            )
            .unwrap();
            if sender
                .send((head, serde_json::from_slice(&body).unwrap()))
                .is_err()
            {
                return;
            }
        }
    });
    (url, receiver)
}

fn attribute(span: &Value, key: &str) -> Value {
    let attributes = span["attributes"].as_array().unwrap();
    let found = attributes.iter().find(|attribute| attribute["key"] == key);
    found.map_or(Value::Null, |found| found["value"].clone())
}

#[test]
fn spans_do_not_reach_the_collector_in_its_form() {
    let place = insecure();
    let mut answers = ["503 Service Unavailable"].into_iter();
    let (url, sent) = collector(move || answers.next().unwrap_or("200 OK"));
    let program = run(&place, &[]).env("STRONGROOM_BROKER__TELEMETRY__OTLP_ENDPOINT", &url);
    let served = start(&program);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let head = format!("GET /kbs/v0/resource/hunter2/b/c HTTP/1.1\r\ntraceparent: {parent}");
    ask(served.address, &head);
    let (first, second) = (
        sent.recv_timeout(LONG).unwrap(),
        sent.recv_timeout(LONG).unwrap(),
    );
    // A collector that is busy is asked again, with the same.
    assert_eq!(first.1, second.1);
    let (head, document) = second;
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert!(
        head.contains("content-type: application/json\r\n"),
        "{head}"
    );
    assert!(!document.to_string().contains("hunter2"), "{document}");
    let resource = &document["resourceSpans"][0];
    let service = attribute(&resource["resource"], "service.name");
    assert_eq!(service, json!({ "stringValue": "strongroom-broker" }));
    let scope = &resource["scopeSpans"][0];
    assert_eq!(scope["scope"]["name"], "strongroom-broker");
    let spans = scope["spans"].as_array().unwrap();
    let span = spans.iter().find(|span| span["name"] == "request").unwrap();
    assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(span["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(span["spanId"].as_str().unwrap().len(), 16);
    assert_eq!(span["kind"], 2);
    let time = |key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(time("startTimeUnixNano") < time("endTimeUnixNano"));
    assert_eq!(
        attribute(span, "route"),
        json!({ "stringValue": "/kbs/v0/resource/{*path}" })
    );
    assert_eq!(attribute(span, "status"), json!({ "intValue": "401" }));

    // What is not sent yet when the broker stops is sent then.
    wait_until("the batch is counted", || {
        get(served.metrics, "/metrics").contains("strongroom_spans_total{outcome=\"exported\"} 1\n")
    });
    get(served.address, "/nowhere");
    assert!(served.running.terminate().unwrap().status.success());
    let (_, last) = sent.recv_timeout(LONG).unwrap();
    let span = &last["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(attribute(span, "route"), json!({ "stringValue": "none" }));
}

#[test]
fn collector_that_is_not_there_holds_requests_up() {
    let place = insecure();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let program = run(&place, &[]).env("STRONGROOM_BROKER__TELEMETRY__OTLP_ENDPOINT", &url);
    let served = start(&program);
    // More than the queue holds.
    for _ in 0..3_000 {
        get(served.address, "/healthz");
    }
    let text = get(served.metrics, "/metrics");
    let dropped = text
        .lines()
        .find_map(|line| line.strip_prefix("strongroom_spans_total{outcome=\"dropped\"} "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() > 400, "{text}");
    assert!(served.running.terminate().unwrap().status.success());
}

#[test]
fn collector_beyond_this_machine_without_tls_is_taken() {
    let place = insecure();
    for (endpoint, said) in [
        ("http://collector.example:4318", "telemetry.insecure_http"),
        (
            "https://user:hunter2@collector.example",
            "user name or password",
        ),
        ("collector.example", "is no address"),
    ] {
        let program = place
            .program(&["broker", "check-config", "broker"])
            .env("STRONGROOM_BROKER__TELEMETRY__OTLP_ENDPOINT", endpoint);
        let refused = program.run().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        let printed = printed(&refused);
        assert!(
            printed.contains(said) && !printed.contains("hunter2"),
            "{printed}"
        );
    }
}
