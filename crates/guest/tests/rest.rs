//! The guest's REST API on a real socket, before a broker that misbehaves in one way per test.

#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod broker;
mod support;

use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker::{ScriptedBroker, error, page};
use serde_json::Value;
use strongroom_client::GuestApi;
use strongroom_guest::{
    Agent, AgentConfig, Exposure, Features, GuestError, Limits, Readiness, ServeOptions, Tokens,
    check_listener, serve, serve_unix,
};
use strongroom_wire::jwe::DecryptionKey;
use support::{Guest, agent, request};

const KEY: &str = "default/fraud-dataset/dataset_key";
const SECRET: &[u8] = b"0123456789abcdef\0\xff";

fn started() -> (ScriptedBroker, Guest) {
    let broker = ScriptedBroker::start().with_resource(KEY, SECRET);
    let guest = Guest::start(agent(&broker.url), support::everything());
    (broker, guest)
}

#[test]
fn resource_comes_as_its_raw_bytes() {
    let (_broker, guest) = started();
    let answer = guest.get(&format!("/cdh/resource/{KEY}"));
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, "application/octet-stream")
    );
    assert_eq!(answer.body, SECRET);
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[test]
fn stopped_broker_is_a_bad_gateway_with_the_reason() {
    let (mut broker, guest) = started();
    assert_eq!(guest.get(&format!("/cdh/resource/{KEY}")).status, 200);
    broker.stop();
    let answer = guest.get(&format!("/cdh/resource/{KEY}"));
    assert_eq!(answer.status, 502);
    assert!(
        answer.text().contains(&broker.url) && answer.text().contains("cannot be reached"),
        "{}",
        answer.text()
    );
}

#[test]
fn broker_that_comes_back_is_used_again() {
    let (mut broker, guest) = started();
    broker.stop();
    assert_eq!(guest.get(&format!("/cdh/resource/{KEY}")).status, 502);
    let address = broker.url.trim_start_matches("http://").parse().unwrap();
    let _broker =
        support::eventually(|| ScriptedBroker::try_start_at(address)).with_resource(KEY, SECRET);
    assert_eq!(guest.get(&format!("/cdh/resource/{KEY}")).status, 200);
}

#[test]
fn deleted_resource_is_not_found() {
    let (broker, guest) = started();
    broker.delete(KEY);
    let answer = guest.get(&format!("/cdh/resource/{KEY}"));
    assert_eq!(answer.status, 404);
    assert!(
        answer.text().contains(KEY) && answer.text().contains("does not exist"),
        "{}",
        answer.text()
    );
}

#[test]
fn denial_is_forbidden_and_carries_the_brokers_words() {
    let (broker, guest) = started();
    broker.on_get([error(403, "PolicyDeny")]);
    let answer = guest.get(&format!("/cdh/resource/{KEY}"));
    assert_eq!(answer.status, 403);
    assert!(
        answer.text().contains("words of PolicyDeny"),
        "{}",
        answer.text()
    );
}

#[test]
fn refused_evidence_is_forbidden_and_not_a_bad_gateway() {
    let (broker, guest) = started();
    broker.on_attest([error(401, "AttestationError")]);
    let answer = guest.get(&format!("/cdh/resource/{KEY}"));
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("evidence"), "{}", answer.text());
}

#[test]
fn proxy_in_the_way_is_a_bad_gateway_that_names_it() {
    let (broker, guest) = started();
    broker.on_get([page(403)]);
    let answer = guest.get(&format!("/cdh/resource/{KEY}"));
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("proxy"), "{}", answer.text());
}

#[test]
fn names_that_leave_the_tree_are_malformed_and_never_asked_for() {
    let (broker, guest) = started();
    for bad in [
        "a/b",
        "a/b/c/d",
        "a//c",
        "a/../c",
        "a/b/%2e%2e",
        "a%2fb/c/d",
        "a/b/.c",
        "",
        "a/b/c%00",
    ] {
        assert_eq!(
            guest.get(&format!("/cdh/resource/{bad}")).status,
            400,
            "{bad:?}"
        );
    }
    assert_eq!(guest.get("/cdh/resource").status, 400);
    assert_eq!(broker.auths(), 0);
}

#[test]
fn query_of_a_resource_is_dropped_as_upstream_drops_it() {
    let (_broker, guest) = started();
    assert_eq!(guest.get(&format!("/cdh/resource/{KEY}?x=1")).body, SECRET);
}

#[test]
fn a_hundred_applications_cost_one_attestation() {
    let (broker, guest) = started();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..100)
            .map(|_| scope.spawn(|| guest.get(&format!("/cdh/resource/{KEY}")).status))
            .collect();
        for answer in asked {
            assert_eq!(answer.join().unwrap(), 200);
        }
    });
    assert_eq!(
        (broker.auths(), broker.attests(), broker.gets()),
        (1, 1, 100)
    );
}

#[test]
fn token_comes_with_the_key_that_opens_what_it_releases() {
    let (broker, guest) = started();
    let answer = guest.get("/aa/token?token_type=kbs");
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, "application/octet-stream")
    );
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    let key = DecryptionKey::from_pkcs8_pem(json["tee_keypair"].as_str().unwrap()).unwrap();
    let released = request(
        broker.url.trim_start_matches("http://"),
        "GET",
        &format!("/kbs/v0/resource/{KEY}"),
        &[
            ("host", "b"),
            (
                "authorization",
                &format!("Bearer {}", json["token"].as_str().unwrap()),
            ),
        ],
        b"",
    );
    let jwe = serde_json::from_slice(&released.body).unwrap();
    assert_eq!(key.decrypt(&jwe).unwrap().as_slice(), SECRET);
}

#[test]
fn token_is_shared_with_resources() {
    let (broker, guest) = started();
    guest.get("/aa/token?token_type=kbs");
    guest.get(&format!("/cdh/resource/{KEY}"));
    assert_eq!(broker.auths(), 1);
}

#[test]
fn token_of_another_kind_is_not_passed_off_as_one() {
    let (broker, guest) = started();
    assert_eq!(guest.get("/aa/token?token_type=coco_as").status, 501);
    assert_eq!(guest.get("/aa/token?token_type=jwt").status, 400);
    assert_eq!(guest.get("/aa/token").status, 400);
    assert_eq!(broker.auths(), 0);
}

#[test]
fn evidence_contains_text_or_decoded_bytes() {
    let (_broker, guest) = started();
    let plain = guest.get("/aa/evidence?runtime_data=abc");
    assert_eq!(plain.text(), r#"{"report_data":"YWJj","svn":"1"}"#);
    let nonce = URL_SAFE_NO_PAD.encode([0xfb; 32]);
    let binary = guest.get(&format!(
        "/aa/evidence?runtime_data={nonce}&encoding=base64"
    ));
    let json: Value = serde_json::from_slice(&binary.body).unwrap();
    assert_eq!(
        json["report_data"],
        base64::engine::general_purpose::STANDARD.encode([0xfb; 32])
    );
}

#[test]
fn evidence_over_what_no_report_holds_is_malformed() {
    let (_broker, guest) = started();
    assert_eq!(
        guest
            .get(&format!("/aa/evidence?runtime_data={}", "a".repeat(65)))
            .status,
        400
    );
    assert_eq!(guest.get("/aa/evidence").status, 400);
    assert_eq!(
        guest.get("/aa/evidence?runtime_data=a&encoding=hex").status,
        400
    );
    assert_eq!(
        guest
            .get("/aa/evidence?runtime_data=a%3D&encoding=base64")
            .status,
        400
    );
}

#[test]
fn no_further_device_is_an_empty_answer() {
    let (_broker, guest) = started();
    let answer = guest.get("/aa/additional-evidence?runtime_data=abc");
    assert_eq!((answer.status, answer.body.len()), (200, 0));
}

#[test]
fn info_names_program_platform_and_features() {
    let (broker, guest) = started();
    let answer = guest.get("/info");
    assert_eq!(answer.header("content-type"), "application/json");
    let info: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (info["tee"].as_str(), info["feature"].as_str()),
        (Some("sample"), Some("all"))
    );
    assert!(info["version"].as_str().unwrap().starts_with("Strongroom "));
    assert_eq!(info["broker"], broker.url);
}

#[test]
fn unknown_path_and_wrong_method_are_told_apart() {
    let (_broker, guest) = started();
    assert_eq!(guest.get("/nothing").status, 404);
    assert_eq!(guest.get("/healthz").status, 200);
    for path in [
        "/info",
        "/aa/token",
        "/aa/evidence",
        &format!("/cdh/resource/{KEY}"),
    ] {
        assert_eq!(guest.request("POST", path, &[], b"x").status, 405, "{path}");
    }
}

#[test]
fn head_releases_nothing() {
    let (broker, guest) = started();
    assert_eq!(
        guest
            .request("HEAD", &format!("/cdh/resource/{KEY}"), &[], b"")
            .status,
        405
    );
    assert_eq!(
        guest
            .request("HEAD", "/aa/token?token_type=kbs", &[], b"")
            .status,
        405
    );
    assert_eq!(broker.auths(), 0);
}

#[test]
fn page_that_rebinds_its_name_to_loopback_gets_nothing() {
    let (broker, guest) = started();
    for host in [
        "evil.example",
        "evil.example:8006",
        "127.0.0.1.evil.example",
    ] {
        let answer = guest.request(
            "GET",
            &format!("/cdh/resource/{KEY}"),
            &[("host", host)],
            b"",
        );
        assert_eq!(answer.status, 403, "{host}");
    }
    assert_eq!(broker.auths(), 0);
}

#[test]
fn absolute_address_in_the_request_line_does_not_replace_the_host_header() {
    let (_broker, guest) = started();
    let answer = guest.request(
        "GET",
        "http://127.0.0.1/info",
        &[("host", "evil.example")],
        b"",
    );
    assert_ne!(answer.status, 200);
}

#[test]
fn token_with_its_key_is_given_out_unasked() {
    let broker = ScriptedBroker::start().with_resource(KEY, SECRET);
    let guest = Guest::start(agent(&broker.url), ServeOptions::default());
    let answer = guest.get("/aa/token?token_type=kbs");
    assert_eq!(answer.status, 404);
    assert!(
        answer.text().contains("--features attestation"),
        "{}",
        answer.text()
    );
    assert_eq!(guest.get(&format!("/cdh/resource/{KEY}")).status, 200);
    assert_eq!(broker.auths(), 1);
}

#[test]
fn guest_that_is_starting_is_said_to_be_well() {
    let broker = ScriptedBroker::start();
    let readiness = Readiness::starting();
    let options = ServeOptions {
        readiness: readiness.clone(),
        ..ServeOptions::default()
    };
    let guest = Guest::start(agent(&broker.url), options);
    let answer = guest.get("/healthz");
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().contains("[[credentials]]"),
        "{}",
        answer.text()
    );
    readiness.reach();
    assert_eq!(guest.get("/healthz").status, 200);
}

#[test]
fn feature_that_is_off_says_so() {
    let broker = ScriptedBroker::start().with_resource(KEY, SECRET);
    let options = |features| ServeOptions {
        features,
        ..support::everything()
    };
    let guest = Guest::start(agent(&broker.url), options(Features::Resource));
    assert_eq!(guest.get("/aa/token?token_type=kbs").status, 404);
    assert!(
        guest
            .get("/aa/evidence?runtime_data=a")
            .text()
            .contains("not enabled")
    );
    assert_eq!(guest.get(&format!("/cdh/resource/{KEY}")).status, 200);
    let guest = Guest::start(agent(&broker.url), options(Features::Attestation));
    assert_eq!(guest.get(&format!("/cdh/resource/{KEY}")).status, 404);
    assert_eq!(guest.get("/aa/evidence?runtime_data=a").status, 200);
}

#[test]
fn listening_beyond_loopback_must_be_named() {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = runtime.block_on(serve(
        agent("http://127.0.0.1:9"),
        listener,
        std::future::pending(),
    ));
    assert!(matches!(outcome, Err(GuestError::NotLoopback { .. })));
}

#[test]
fn exposure_by_name_answers_other_names() {
    let broker = ScriptedBroker::start().with_resource(KEY, SECRET);
    let options = ServeOptions {
        exposure: Exposure::InsecureNetwork,
        ..support::everything()
    };
    let guest = Guest::start_at("0.0.0.0:0", agent(&broker.url), options);
    assert_eq!(
        guest
            .request("GET", "/info", &[("host", "guest.example")], b"")
            .status,
        200
    );
}

#[test]
fn shutdown_ends_the_server_and_frees_the_port() {
    let (_broker, guest) = started();
    assert_eq!(guest.get("/healthz").status, 200);
    let address = guest.stop();
    assert!(std::net::TcpStream::connect(address).is_err());
}

fn impatient(head: Duration, connections: usize) -> ServeOptions {
    let limits = Limits {
        head,
        body: head,
        answer: head,
        grace: Duration::from_millis(50),
        connections,
    };
    ServeOptions {
        limits,
        ..support::everything()
    }
}

/// What a connection that asks for half of something gets before it is closed.
fn rest_of(mut stream: impl std::io::Read) -> usize {
    let mut rest = Vec::new();
    // A connection that is cut may end in an error, too.
    stream.read_to_end(&mut rest).unwrap_or_default()
}

const HALF: &[u8] = b"GET /info HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
const AGES: Duration = Duration::from_secs(3600);

#[test]
fn half_a_request_does_not_hold_a_connection_for_ever() {
    let broker = ScriptedBroker::start();
    let guest = Guest::start(agent(&broker.url), impatient(Duration::from_millis(50), 8));
    let mut stream = std::net::TcpStream::connect(guest.address).unwrap();
    stream.write_all(HALF).unwrap();
    rest_of(stream);
    rest_of(std::net::TcpStream::connect(guest.address).unwrap());
}

#[test]
fn answered_connection_is_not_held_open_by_silence_or_by_a_body_that_never_comes() {
    let broker = ScriptedBroker::start();
    let guest = Guest::start(agent(&broker.url), impatient(Duration::from_millis(50), 8));
    for request in [
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n",
        "POST /info HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n",
    ] {
        let mut stream = std::net::TcpStream::connect(guest.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        assert!(rest_of(stream) > 0, "{request}");
    }
}

#[test]
fn one_container_holds_every_connection_by_bodies_that_never_end() {
    let broker = ScriptedBroker::start();
    let guest = Guest::start(agent(&broker.url), impatient(Duration::from_millis(200), 4));
    let half = b"POST /aa/aael HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{";
    let mut slow: Vec<_> = (0..4)
        .map(|_| std::net::TcpStream::connect(guest.address).unwrap())
        .collect();
    for stream in &mut slow {
        stream.write_all(half).unwrap();
    }
    assert_eq!(guest.get("/healthz").status, 200);
    for mut stream in slow {
        let mut answer = Vec::new();
        // A connection that is cut may end in an error, too.
        std::io::Read::read_to_end(&mut stream, &mut answer).ok();
        assert!(
            answer.starts_with(b"HTTP/1.1 408 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

#[test]
fn one_container_holds_a_connection_by_answers_that_it_does_not_read() {
    let broker = ScriptedBroker::start();
    let guest = Guest::start(agent(&broker.url), impatient(Duration::from_millis(200), 1));
    let mut stream = std::net::TcpStream::connect(guest.address).unwrap();
    let request = "GET /no-such-path HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
    // Pipelined, until the guest, whose answers nobody takes, takes nothing more; or has cut the connection.
    stream
        .set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    while stream.write_all(request.as_bytes()).is_ok() {}
    assert_eq!(guest.get("/healthz").status, 200);
    drop(stream);
}

#[test]
fn half_a_request_does_not_keep_a_stopped_guest_alive() {
    let broker = ScriptedBroker::start();
    let guest = Guest::start(agent(&broker.url), impatient(AGES, 8));
    let mut stream = std::net::TcpStream::connect(guest.address).unwrap();
    stream.write_all(HALF).unwrap();
    // Answered on a later connection, so the earlier one has been accepted.
    assert_eq!(guest.get("/healthz").status, 200);
    guest.stop();
    rest_of(stream);
}

#[test]
fn half_a_request_does_not_keep_a_stopped_guest_alive_on_its_socket() {
    let broker = ScriptedBroker::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(HALF).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let shutdown = async {
        // A whole request on a later connection is answered first.
        let api = GuestApi::new(&format!("unix:{}", path.display())).unwrap();
        api.info().await.unwrap();
    };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    runtime.block_on(async {
        let serving = serve_unix(agent(&broker.url), listener, impatient(AGES, 8), async {
            stopped.await.unwrap();
        });
        let asking = async {
            shutdown.await;
            stop.send(()).unwrap();
        };
        tokio::join!(serving, asking).0.unwrap();
    });
    rest_of(stream);
}

#[test]
fn more_connections_than_allowed_wait_and_are_served() {
    let broker = ScriptedBroker::start();
    let guest = Guest::start(agent(&broker.url), impatient(Duration::from_millis(50), 1));
    let _first = std::net::TcpStream::connect(guest.address).unwrap();
    let _second = std::net::TcpStream::connect(guest.address).unwrap();
    assert_eq!(guest.get("/healthz").status, 200);
}

#[test]
fn listener_is_judged_before_anything_says_that_it_serves() {
    let open = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let options = support::everything();
    let error = check_listener(&open, &options).unwrap_err();
    assert!(matches!(error, GuestError::NotLoopback { .. }), "{error}");
    let own = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(check_listener(&own, &options).is_ok());
}

#[test]
fn broker_in_plain_http_beyond_this_machine_must_be_named() {
    let attester = strongroom_attester::Attester::named("sample").unwrap();
    let mut config = AgentConfig::new("http://broker.example", attester);
    assert!(Agent::new(config.clone()).is_err());
    config.insecure_http = true;
    assert!(Agent::new(config).is_ok());
}

#[test]
fn what_the_guest_says_is_not_said_again_by_its_client() {
    let (mut broker, guest) = started();
    let api = GuestApi::new(&guest.url()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let path = KEY.parse().unwrap();
    let ask = || {
        runtime
            .block_on(api.resource(&path))
            .unwrap_err()
            .to_string()
    };
    broker.delete(KEY);
    let missing = ask();
    assert_eq!(missing.matches("does not exist").count(), 1, "{missing}");
    assert_eq!(
        missing.matches("ask the broker's owner").count(),
        1,
        "{missing}"
    );
    broker.on_get([error(403, "PolicyDeny")]);
    let denied = ask();
    assert_eq!(denied.matches("is denied").count(), 1, "{denied}");
    assert!(denied.contains("30 s"), "{denied}");
    broker.stop();
    let stopped = ask();
    assert!(stopped.starts_with(&broker.url), "{stopped}");
}

#[test]
fn our_answers_say_at_least_as_much_as_upstreams() {
    let Some(recorded) = support::fixture("recorded/guest-rest.jsonl") else {
        return;
    };
    let broker = ScriptedBroker::start();
    let guest = Guest::start(agent(&broker.url), support::everything());
    for line in recorded.lines() {
        let theirs: Value = serde_json::from_str(line).unwrap();
        let path = theirs["path"].as_str().unwrap();
        let ours = guest.get(path);
        // Upstream's bare 500 for a resource that does not exist is our 404.
        let status = match theirs["status"].as_u64().unwrap() {
            500 => 404,
            other => other,
        };
        assert_eq!(u64::from(ours.status), status, "{path}");
        let body = theirs["body"].as_str().unwrap();
        if status == 200 {
            assert_eq!(
                ours.header("content-type"),
                theirs["headers"]["content-type"],
                "{path}"
            );
            assert_eq!(members(body), members(ours.text()), "{path}");
        } else {
            assert!(ours.text().len() > body.len(), "{path}: {}", ours.text());
        }
    }
}

/// The members of a JSON object that upstream has too; ours may have more.
fn members(body: &str) -> Vec<String> {
    let object = serde_json::from_str::<Value>(body)
        .ok()
        .and_then(|value| value.as_object().cloned());
    let mut names: Vec<_> = object
        .unwrap_or_default()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    names.retain(|name| name != "broker");
    names.sort();
    names
}

fn aael(guest: &Guest, body: &[u8]) -> support::Answer {
    guest.request("POST", "/aa/aael", &[], body)
}

const EVENT: &[u8] = br#"{"domain":"example.com","operation":"load","content":"model 3"}"#;

#[test]
fn platform_without_registers_says_so_in_upstreams_strings() {
    let (_broker, guest) = started();
    let answer = aael(&guest, EVENT);
    assert_eq!(
        (answer.status, answer.text()),
        (
            200,
            r#"{"success":"false","message":"The platform does not support runtime measurement"}"#
        )
    );
}

#[test]
fn event_that_is_none_is_a_bad_request_and_no_failure_of_the_guest() {
    let (_broker, guest) = started();
    for bad in [
        "",
        "{}",
        r#"{"domain":"d","operation":"o"}"#,
        r#"{"domain":"d","operation":"o","content":1}"#,
        r#"{"domain":"d d","operation":"o","content":"c"}"#,
        r#"{"domain":"d","operation":"o","content":"one\ntwo"}"#,
        r#"{"domain":"d","operation":"o","content":"c","register_index":24}"#,
    ] {
        assert_eq!(aael(&guest, bad.as_bytes()).status, 400, "{bad}");
    }
    let long = format!(
        r#"{{"domain":"d","operation":"o","content":"{}"}}"#,
        "x".repeat(600_000)
    );
    assert_eq!(aael(&guest, long.as_bytes()).status, 413);
    assert_eq!(guest.get("/aa/aael").status, 405);
}

#[test]
fn init_data_that_nothing_vouches_for_is_shown_as_measured() {
    let attester = strongroom_attester::Attester::named("sample").unwrap();
    let mut config = AgentConfig::new("http://127.0.0.1:9", attester);
    let text = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
    config.initdata = Some(strongroom_wire::initdata::Initdata::parse(text).unwrap());
    let digest = config.initdata.as_ref().unwrap().digest();
    let info = |config: AgentConfig| {
        let guest = Guest::start(Agent::new(config).unwrap(), ServeOptions::default());
        serde_json::from_slice::<Value>(&guest.get("/info").body).unwrap()
    };
    let shown = info(config.clone());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        shown["initdata"],
        serde_json::json!({ "digest": hex, "bound": null })
    );
    let register = "HOST_DATA";
    config.bound = Some(strongroom_attester::Bound::Matches { register });
    assert_eq!(info(config)["initdata"]["bound"], register);
    assert_eq!(
        info(AgentConfig::new(
            "http://127.0.0.1:9",
            strongroom_attester::Attester::named("sample").unwrap()
        ))
        .get("initdata"),
        None
    );
}

#[test]
fn web_page_measures_an_event() {
    let (_broker, guest) = started();
    let origin = [("origin", "https://evil.example")];
    let answer = guest.request("POST", "/aa/aael", &origin, EVENT);
    assert_eq!(answer.status, 403);
}

#[test]
fn container_without_its_token_is_answered() {
    let broker = ScriptedBroker::start().with_resource(KEY, SECRET);
    let folder = tempfile::tempdir().unwrap();
    let token = "0123456789abcdef0123456789abcdef";
    let path = folder.path().join("app");
    std::fs::write(&path, token).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let options = ServeOptions {
        tokens: Some(std::sync::Arc::new(Tokens::load(folder.path()).unwrap())),
        ..support::everything()
    };
    let guest = Guest::start(agent(&broker.url), options);
    let path = format!("/cdh/resource/{KEY}");
    let ask = |headers: &[(&str, &str)]| guest.request("GET", &path, headers, b"");
    let bearer = format!("Bearer {token}");
    let answer = ask(&[]);
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (401, "Bearer")
    );
    for bad in [
        token,
        "Bearer",
        "Bearer 0123456789abcdef0123456789abcdee",
        "Basic x",
    ] {
        assert_eq!(ask(&[("authorization", bad)]).status, 401, "{bad}");
    }
    let twice = [
        ("authorization", bearer.as_str()),
        ("authorization", "Bearer x"),
    ];
    assert_eq!(ask(&twice).status, 401);
    assert_eq!(broker.auths(), 0);
    assert_eq!(ask(&[("authorization", &bearer)]).body, SECRET);
    assert_eq!(guest.get("/info").status, 401);
    assert_eq!(guest.get("/healthz").status, 200);
}

#[test]
fn hundred_containers_that_ask_at_once_cost_one_attestation() {
    let (broker, guest) = started();
    let path = format!("/cdh/resource/{KEY}");
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| assert_eq!(guest.get(&path).body, SECRET));
        }
    });
    assert_eq!((broker.auths(), broker.gets()), (1, 100));
}
