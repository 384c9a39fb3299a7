//! A broker as its operator sees it: ready or not, in figures, in ids, reloaded while it runs, bounded.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use strongroom_broker::{BrokerError, Config, InitOptions, InitSummary, init};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::development::attest_with;
use crate::limits::{insecure, raw};
use crate::replay::Replay;
use crate::support::{Answer, Guest, Running};

const METRICS: &str = "\n[metrics]\nlisten = \"127.0.0.1:0\"\n";

async fn measured() -> Running {
    let broker = Running::start(|config| {
        config + METRICS + "[development]\naccept_sample_evidence = true\n"
    })
    .await;
    broker.register_reference_values().await;
    broker.set_policy(crate::support::AFFIRMING).await;
    broker
}

async fn beside(broker: &Running, path: &str) -> (StatusCode, String) {
    let url = format!("http://{}{path}", broker.metrics.unwrap());
    let answer = fetch(broker, &url).await;
    (answer.status(), answer.text().await.unwrap())
}

async fn fetch(broker: &Running, url: &str) -> reqwest::Response {
    let certificate = fs::read(&broker.summary.certificate).unwrap();
    let client = crate::support::client(&certificate);
    client.get(url).send().await.unwrap()
}

async fn metrics(broker: &Running) -> String {
    let (status, text) = beside(broker, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.ends_with("# EOF\n"));
    text
}

/// The value of a sample, by its name and labels.
fn sample(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("{name} is not in\n{metrics}"));
    line.trim().parse().unwrap()
}

async fn get(broker: &Running, path: &str) -> reqwest::Response {
    broker.request(Method::GET, path).send().await.unwrap()
}

#[tokio::test]
async fn broker_that_can_work_is_not_ready() {
    let broker = measured().await;
    let answer = Answer::of(get(&broker, "/readyz").await).await;
    let ready = answer.expect(StatusCode::OK).json();
    assert_eq!(ready, json!({ "ready": true, "reasons": [] }));
    assert_eq!(beside(&broker, "/readyz").await.0, StatusCode::OK);
    assert_eq!(beside(&broker, "/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn broker_whose_store_cannot_be_written_says_it_is_ready() {
    let broker = measured().await;
    let other = rusqlite::Connection::open(broker.store()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = Answer::of(get(&broker, "/readyz").await).await;
    let ready = answer.expect(StatusCode::SERVICE_UNAVAILABLE).json();
    assert_eq!(ready, json!({ "ready": false, "reasons": ["store"] }));
    // It lives all the same, and recovers.
    assert_eq!(get(&broker, "/healthz").await.status(), StatusCode::OK);
    other.execute_batch("ROLLBACK").unwrap();
    while get(&broker, "/readyz").await.status() != StatusCode::OK {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn broker_whose_certificate_has_ended_says_it_is_ready() {
    let broker = measured().await;
    broker.pass(20 * 365 * 86_400);
    let answer = Answer::of(get(&broker, "/readyz").await).await;
    let ready = answer.expect(StatusCode::SERVICE_UNAVAILABLE).json();
    assert_eq!(ready["reasons"], json!(["certificate"]));
}

#[tokio::test]
async fn broker_that_is_told_to_stop_says_it_is_ready() {
    let mut broker = insecure(|config| config + METRICS).await;
    // A request that is in the broker's hands and not at its end.
    let mut stream = TcpStream::connect(broker.address).await.unwrap();
    let body = r#"{"version":"0.4.0","tee":"sample","extra-params":""}"#;
    let head = format!(
        "POST /kbs/v0/auth HTTP/1.1\r\nhost: b\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0u8; 25]).await.unwrap();
    let (address, metrics) = (broker.address, broker.metrics.unwrap());
    let certificate = fs::read(&broker.summary.certificate).unwrap();
    let client = crate::support::client(&certificate);
    let watching = async {
        let url = format!("http://{metrics}/readyz");
        let ready = loop {
            let answer = client.get(&url).send().await.unwrap();
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                break answer.json::<Value>().await.unwrap();
            }
        };
        assert_eq!(ready, json!({ "ready": false, "reasons": ["stopping"] }));
        // Nobody new comes in.
        while TcpStream::connect(address).await.is_ok() {}
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let ((), answer) = tokio::join!(broker.stop(), watching);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(TcpStream::connect(metrics).await.is_err());
}

#[tokio::test]
async fn handshake_is_not_in_the_figures() {
    let broker = measured().await;
    broker.put("a/b/c", "secret").await;
    let (cookie, token) = broker.attest(&Guest::new()).await;
    broker
        .get_with_cookie("a/b/c", &cookie)
        .await
        .expect(StatusCode::OK);
    broker.get_with_token("a/b/missing", &token).await;
    broker.get_with_token("a/b/c", "no token").await;
    let (cookie, nonce) = broker.auth().await;
    let mut other = Guest::new().attestation(&nonce);
    other["runtime-data"]["nonce"] = json!(STANDARD.encode([7; 32]));
    broker.post("/kbs/v0/attest", Some(&cookie), &other).await;
    broker.post("/kbs/v0/attest", None, &other).await;
    broker
        .set_policy("package policy\n\ndefault allow := false\n")
        .await;
    broker.get_with_token("a/b/c", &token).await;

    let text = metrics(&broker).await;
    for (name, value) in [
        (
            r#"strongroom_attestations_total{tee="sample",outcome="attested"}"#,
            1.0,
        ),
        (
            r#"strongroom_attestations_total{tee="sample",outcome="refused"}"#,
            1.0,
        ),
        (
            r#"strongroom_attestations_total{tee="unknown",outcome="refused"}"#,
            1.0,
        ),
        (r#"strongroom_releases_total{outcome="released"}"#, 1.0),
        (r#"strongroom_releases_total{outcome="missing"}"#, 1.0),
        (r#"strongroom_releases_total{outcome="bad-token"}"#, 1.0),
        (r#"strongroom_releases_total{outcome="denied"}"#, 1.0),
        (
            r#"strongroom_denials_total{action="attest",class="nonce"}"#,
            1.0,
        ),
        (
            r#"strongroom_denials_total{action="attest",class="session"}"#,
            1.0,
        ),
        (
            r#"strongroom_denials_total{action="release",class="policy"}"#,
            1.0,
        ),
        (
            r#"strongroom_policy_seconds_count{policy="appraisal"}"#,
            1.0,
        ),
        (r#"strongroom_policy_seconds_count{policy="release"}"#, 3.0),
        (
            r#"strongroom_requests_total{route="/kbs/v0/resource/{*path}",method="GET",status="403"}"#,
            1.0,
        ),
        (
            r#"strongroom_request_seconds_count{route="/kbs/v0/attest",method="POST"}"#,
            3.0,
        ),
        (r#"strongroom_collateral_total{event="fetched"}"#, 0.0),
        ("strongroom_attestations_in_flight", 0.0),
    ] {
        assert_eq!(sample(&text, name), value, "{name}\n{text}");
    }
    let entries = broker.audit().await.len();
    assert_eq!(
        sample(&text, "strongroom_audit_entries_total"),
        entries as f64
    );
    let commits = sample(
        &text,
        r#"strongroom_store_commit_seconds_count{outcome="done"}"#,
    );
    assert_eq!(commits, entries as f64);
    for present in [
        r#"strongroom_sessions{kept="nonce"}"#,
        r#"strongroom_sessions{kept="token"}"#,
        "strongroom_connections",
        "strongroom_tls_certificate_not_after_seconds",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(sample(&text, present) > 0.0, "{present}\n{text}");
    }
    assert!(text.contains(concat!(
        "strongroom_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1"
    )));
}

#[tokio::test]
async fn what_a_client_sends_stands_in_a_label() {
    let broker = measured().await;
    let hostile = "hunter2";
    broker.put("hunter2/hunter2/hunter2", hostile).await;
    for path in [
        "/hunter2",
        "/kbs/v0/resource/hunter2/hunter2/hunter2",
        "/kbs/v0/resource/hunter2%0a/a/b?hunter2=hunter2",
        "/kbs/v0/reference-value/hunter2",
        "/strongroom/v1/audit?event=hunter2",
        "/kbs/v0/hunter2/hunter2",
        "/metrics/hunter2",
    ] {
        for method in ["GET", "POST", "DELETE", "HUNTER2"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let request = broker
                .request(method, path)
                .header("x-request-id", hostile)
                .header("user-agent", hostile)
                .header("cookie", "kbs-session-id=hunter2")
                .bearer_auth(hostile)
                .body(hostile);
            request.send().await.unwrap();
        }
    }
    for number in 0..200 {
        get(&broker, &format!("/hunter2/{number}")).await;
    }
    let hello = json!({"version": "0.4.0", "tee": "hunter2", "extra-params": ""});
    broker.post("/kbs/v0/auth", None, &hello).await;
    let text = metrics(&broker).await;
    assert!(!text.to_lowercase().contains(hostile), "{text}");
    let routes: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split_once("route=\"")?.1.split_once('"'))
        .map(|(route, _)| route)
        .collect();
    assert!(routes.contains("none") && routes.len() < 10, "{routes:?}");
    assert!(text.contains(r#"method="other""#));
    let event = broker.last_entry().await.record.event;
    assert!(!text.contains(event.as_str()));
}

#[tokio::test]
async fn metrics_are_on_the_guests_listener() {
    let broker = measured().await;
    assert_eq!(
        get(&broker, "/metrics").await.status(),
        StatusCode::NOT_FOUND
    );
    for path in ["/kbs/v0/resource/a/b/c", "/strongroom/v1/audit", "/"] {
        assert_eq!(beside(&broker, path).await.0, StatusCode::NOT_FOUND);
    }
    let without = Running::strict().await;
    assert_eq!(without.metrics, None);
}

#[tokio::test]
async fn answer_has_no_id_or_one_that_its_client_could_not_have_meant() {
    let broker =
        Running::start(|config| config.replace("body_bytes = 2097152", "body_bytes = 1024")).await;
    let id = async |path: &str, sent: &[&str]| {
        let mut request = broker.request(Method::POST, path).body("x".repeat(2_000));
        for sent in sent {
            request = request.header("x-request-id", *sent);
        }
        let answer = request.send().await.unwrap();
        answer.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let mut made = BTreeSet::new();
    for path in [
        "/healthz",
        "/nothing",
        "/kbs/v0/auth",
        "/kbs/v0/resource/a/b/c",
    ] {
        assert_eq!(id(path, &["from-the-client.1"]).await, "from-the-client.1");
        let long = "x".repeat(65);
        for sent in [&[][..], &["two words"], &[&long], &["a\"b"], &[""]] {
            let id = id(path, sent).await;
            assert_eq!(id.len(), 24, "{sent:?}: {id}");
            assert!(made.insert(id));
        }
    }
}

/// The status of the answer to a raw request.
fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn head_without_end_or_number_is_taken_in() {
    let broker = insecure(|config| {
        config.replace("[limits]", "[limits]\nheader_bytes = 16384\nheaders = 16")
    })
    .await;
    let head =
        |more: &str| format!("GET /healthz HTTP/1.1\r\nhost: b\r\nconnection: close\r\n{more}\r\n");
    assert_eq!(status(&raw(&broker, &head("")).await), "200");
    let many: String = (0..20).map(|number| format!("x-{number}: 1\r\n")).collect();
    assert_eq!(status(&raw(&broker, &head(&many)).await), "431");
    let long = format!("x-long: {}\r\n", "x".repeat(32_768));
    assert_eq!(status(&raw(&broker, &head(&long)).await), "431");
    let longer = format!(
        "GET /{} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n",
        "x".repeat(15_000)
    );
    assert_eq!(status(&raw(&broker, &longer).await), "404");
}

#[tokio::test]
async fn connection_that_is_one_too_many_is_served() {
    let broker =
        insecure(|config| config.replace("[limits]", "[limits]\nconnections = 4") + METRICS).await;
    let healthy = "GET /healthz HTTP/1.1\r\nhost: b\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        stream.write_all(healthy.as_bytes()).await.unwrap();
        stream.read_exact(&mut [0u8; 12]).await.unwrap();
        open.push(stream);
    }
    let mut fifth = TcpStream::connect(broker.address).await.unwrap();
    let mut answer = Vec::new();
    // It may be closed before or after the request is written.
    if fifth.write_all(healthy.as_bytes()).await.is_ok() {
        fifth.read_to_end(&mut answer).await.unwrap_or_default();
    }
    assert_eq!(answer, b"");
    let text = metrics(&broker).await;
    assert_eq!(sample(&text, "strongroom_connections"), 4.0);
    assert_eq!(
        sample(
            &text,
            r#"strongroom_turned_away_total{limit="connections"}"#
        ),
        1.0
    );
    open.pop();
    let again = "GET /healthz HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n";
    let mut tries = 0;
    loop {
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        stream.write_all(again.as_bytes()).await.unwrap_or_default();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap_or_default();
        if status(&answer) == "200" {
            break;
        }
        tries += 1;
        assert!(tries < 100, "{answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn try_auth(broker: &Running, forwarded: Option<&str>) -> reqwest::Response {
    let body = r#"{"version":"0.4.0","tee":"sample","extra-params":""}"#;
    let mut request = broker.request(Method::POST, "/kbs/v0/auth").body(body);
    if let Some(forwarded) = forwarded {
        request = request.header("x-forwarded-for", forwarded);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn source_that_tries_too_often_is_answered() {
    let broker =
        Running::start(|config| config.replace("[limits]", "[limits]\nattempts_per_minute = 5"))
            .await;
    for _ in 0..4 {
        assert_eq!(try_auth(&broker, None).await.status(), StatusCode::OK);
    }
    // An attestation is an attempt as well, whatever is in it.
    let answer = broker.post("/kbs/v0/attest", None, &json!({})).await;
    answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
    // Nothing that a client says makes it another.
    for forwarded in [None, Some("192.0.2.1"), Some("192.0.2.2")] {
        let answer = try_auth(&broker, forwarded).await;
        assert_eq!(answer.headers()["retry-after"], "12");
        let answer = Answer::of(answer).await;
        answer.refused(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests");
    }
    let long = json!({ "long": "x".repeat(1_000_000) });
    let answer = broker.post("/kbs/v0/attest", None, &long).await;
    answer.refused(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests");
    // Other requests are not attempts.
    assert_eq!(get(&broker, "/healthz").await.status(), StatusCode::OK);
    broker.put("a/b/c", "x").await;
    broker.pass(12);
    assert_eq!(try_auth(&broker, None).await.status(), StatusCode::OK);
    assert_eq!(
        try_auth(&broker, None).await.status(),
        StatusCode::TOO_MANY_REQUESTS
    );
}

#[tokio::test]
async fn clients_of_a_proxy_use_up_one_anothers_attempts() {
    let broker = Running::start(|config| {
        config.replace(
            "[limits]",
            "[limits]\nattempts_per_minute = 2\ntrusted_proxies = [\"127.0.0.0/8\"]",
        )
    })
    .await;
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"] {
        for _ in 0..2 {
            let answer = try_auth(&broker, Some(client)).await;
            assert_eq!(answer.status(), StatusCode::OK, "{client}");
        }
    }
    for client in ["192.0.2.1", "203.0.113.1, 192.0.2.1", "2001:db8::2"] {
        let answer = try_auth(&broker, Some(client)).await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS, "{client}");
    }
}

#[tokio::test]
async fn attestations_without_number_are_under_way_at_once() {
    let name = "trustee/deps/verifier/test_data/tdx_quote_6.dat";
    let Some(quote) = strongroom_testkit::fixtures::fixture(name) else {
        return;
    };
    let quote = fs::read(quote).unwrap();
    let evidence = json!({"cc_eventlog": null, "quote": STANDARD.encode(quote)});
    let service = Replay::start().await;
    service.hold();
    let url = service.url.clone();
    let broker = Running::start(|config| {
        config
            .replace("https://api.trustedservices.intel.com", &url)
            .replace("intel_kind = \"pcs\"", "intel_kind = \"pccs\"")
            .replace("kds_url", "certificate = \"tls.crt\"\nkds_url")
            .replace("[limits]", "[limits]\nattestations_in_flight = 1")
    })
    .await;
    let first = attest_with(&broker, |_| evidence.clone());
    let second = async {
        while service.count() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (cookie, nonce) = broker.auth().await;
        let message = Guest::new().attestation(&nonce);
        let request = || {
            broker
                .request(Method::POST, "/kbs/v0/attest")
                .header("cookie", &cookie)
        };
        let answer = request().body(message.to_string()).send().await.unwrap();
        assert_eq!(answer.headers()["retry-after"], "1");
        let answer = Answer::of(answer).await;
        answer.refused(StatusCode::SERVICE_UNAVAILABLE, "Busy");
        service.release();
        (cookie, message)
    };
    let ((_, first), (cookie, message)) = tokio::join!(first, second);
    first.refused(StatusCode::FORBIDDEN, "AttestationError");
    // The nonce was not used up: what is refused now is the evidence.
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
}

/// Another broker's folder: its certificate and keys.
fn other() -> (tempfile::TempDir, InitSummary) {
    let folder = tempfile::tempdir().unwrap();
    let options = InitOptions::new("127.0.0.1:0".parse().unwrap());
    let summary = init(&folder.path().join("other"), options).unwrap();
    (folder, summary)
}

fn replace(file: &Path, with: &Path) {
    let content = fs::read(with).unwrap();
    let mode = fs::metadata(file).unwrap().permissions().mode();
    let beside = file.with_extension("new");
    fs::write(&beside, content).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(beside, file).unwrap();
}

/// Whether a new connection proves this certificate.
async fn proves(broker: &Running, certificate: &Path) -> bool {
    let client = crate::support::client(&fs::read(certificate).unwrap());
    let url = format!("https://{}/healthz", broker.address);
    client.get(url).send().await.is_ok()
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came to be that {what}");
}

#[tokio::test]
async fn replaced_certificate_wants_a_restart_or_drops_connections() {
    let broker = measured().await;
    let (_folder, other) = other();
    let old = broker.folder.path().join("old.crt");
    fs::copy(&broker.summary.certificate, &old).unwrap();
    assert_eq!(get(&broker, "/healthz").await.status(), StatusCode::OK);

    // The certificate is there and its key not yet: the old pair stays.
    replace(&broker.summary.certificate, &other.certificate);
    let failed = r#"strongroom_reloads_total{outcome="failed"}"#;
    until("the half pair was looked at", async || {
        metrics(&broker).await.contains(failed)
    })
    .await;
    assert!(proves(&broker, &old).await);
    let key = |summary: &InitSummary| summary.certificate.with_extension("key");
    replace(&key(&broker.summary), &key(&other));
    until("the new pair is in force", async || {
        proves(&broker, &other.certificate).await
    })
    .await;
    assert!(!proves(&broker, &old).await);
    // This client believes the old certificate alone, so its connection is still the old one.
    assert_eq!(get(&broker, "/healthz").await.status(), StatusCode::OK);
    assert_eq!(sample(&metrics(&broker).await, failed), 1.0);
}

fn load(broker: &Running, edit: impl FnOnce(String) -> String) -> Result<Config, BrokerError> {
    let text = fs::read_to_string(&broker.summary.config).unwrap();
    fs::write(&broker.summary.config, edit(text)).unwrap();
    Config::load(&broker.summary.config)
}

#[tokio::test]
async fn admin_who_was_removed_stays_one_after_a_reload() {
    let broker = Running::strict().await;
    let token = broker.admin_token();
    let list = async |token: &str| {
        let request = broker.request(Method::GET, "/strongroom/v1/resource");
        Answer::of(request.bearer_auth(token).send().await.unwrap()).await
    };
    list(&token).await.expect(StatusCode::OK);
    let (_folder, other) = other();
    let theirs = fs::read_to_string(&other.config).unwrap();
    let theirs = theirs.split_once("[[admin]]").unwrap().1.to_owned();
    let theirs = theirs.replace("name = \"admin\"", "name = \"second\"");
    let next = load(&broker, |config| format!("{config}\n[[admin]]{theirs}")).unwrap();
    let reloaded = broker.handle.reload(next).unwrap();
    assert_eq!(reloaded.changed, ["admin: second added as admin"]);
    assert!(reloaded.restart.is_empty(), "{reloaded:?}");
    // What was used before the reload stays used.
    let detail = list(&token)
        .await
        .refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    assert!(detail.contains("used before"), "{detail}");
    let recorded = broker.audit().await;
    let reload = recorded
        .iter()
        .find(|entry| entry.record.action == "reload configuration");
    assert_eq!(
        reload.unwrap().record.detail.as_deref(),
        Some("admin: second added as admin")
    );

    let next = load(&broker, |config| {
        config.replace("name = \"admin\"", "name = \"third\"")
    })
    .unwrap();
    broker.handle.reload(next).unwrap();
    list(&broker.admin_token())
        .await
        .refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
}

#[tokio::test]
async fn reload_of_something_broken_changes_half_of_it() {
    let broker = measured().await;
    let next = load(&broker, |config| {
        config
            .replace("[limits]", "[limits]\nattempts_per_minute = 1")
            .replace("name = \"admin\"", "name = \"other\"")
    })
    .unwrap();
    let (_folder, other) = other();
    // The key does not fit the certificate.
    replace(&broker.summary.certificate, &other.certificate);
    let said = broker.handle.reload(next).unwrap_err().to_string();
    assert!(said.contains("another key"), "{said}");
    broker.put("a/b/c", "x").await;
    for _ in 0..3 {
        assert_eq!(try_auth(&broker, None).await.status(), StatusCode::OK);
    }
    let text = metrics(&broker).await;
    assert!(sample(&text, r#"strongroom_reloads_total{outcome="failed"}"#) >= 1.0);
}

#[tokio::test]
async fn setting_that_takes_a_restart_is_passed_over_silently() {
    let broker = Running::strict().await;
    let next = load(&broker, |config| {
        config
            .replace(
                "body_bytes = 2097152",
                "body_bytes = 4096\nattempts_per_minute = 3",
            )
            .replace("issuer = \"strongroom\"", "issuer = \"other\"")
            .replace("refresh_hours = 24", "refresh_hours = 12")
            + METRICS
            + "\n[attestation]\npolicy_ids = { a = \"b\" }\n[attestation_service]\nenabled = true\n"
    })
    .unwrap();
    let reloaded = broker.handle.reload(next).unwrap();
    assert_eq!(reloaded.changed, ["collateral", "limits"]);
    assert_eq!(
        reloaded.restart,
        [
            "token",
            "attestation",
            "attestation_service",
            "metrics",
            "limits"
        ]
    );
    for _ in 0..3 {
        assert_eq!(try_auth(&broker, None).await.status(), StatusCode::OK);
    }
    assert_eq!(
        try_auth(&broker, None).await.status(),
        StatusCode::TOO_MANY_REQUESTS
    );
}

#[tokio::test]
async fn reload_after_the_end_panics() {
    let mut broker = Running::strict().await;
    broker.stop().await;
    let next = load(&broker, |config| config).unwrap();
    let refused = broker.handle.reload(next);
    assert!(matches!(refused, Err(BrokerError::Stopped)));
}
