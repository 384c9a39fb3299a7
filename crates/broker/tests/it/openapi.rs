//! The `OpenAPI` document: the one that is kept, the one that is served, and the routes that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use strongroom_broker::Broker;
use strongroom_broker::audit::Outcome;

use crate::support::{AFFIRMING, Answer, Guest, Running};

fn document() -> Value {
    serde_json::from_str(Broker::openapi()).unwrap()
}

/// The methods of each path in the document.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let document = document();
    let methods = |item: &Value| {
        let members = item.as_object().unwrap().keys();
        let methods = members.filter(|member| *member != "parameters");
        methods.map(|method| method.to_uppercase()).collect()
    };
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .map(|(path, item)| (path.clone(), methods(item)))
        .collect()
}

/// A path that has every parameter filled in.
fn filled(path: &str) -> String {
    let mut filled = String::new();
    for part in path.split('/').skip(1) {
        filled.push('/');
        filled.push_str(match part.strip_prefix('{') {
            Some(_) => "a",
            None => part,
        });
    }
    filled
}

#[test]
fn document_that_is_kept_is_another() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    if std::env::var_os("STRONGROOM_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, Broker::openapi()).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == Broker::openapi(),
        "docs/openapi.json is not what the broker serves: run this test with STRONGROOM_UPDATE_SNAPSHOTS=1 and read the diff"
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_used() {
    let document = document();
    let text = Broker::openapi();
    for (name, _) in document["components"]["schemas"].as_object().unwrap() {
        let used = format!("\"$ref\": \"#/components/schemas/{name}\"");
        assert!(text.contains(&used), "{name} is not used");
    }
    for part in text.split("\"$ref\": \"#").skip(1) {
        let pointer = part.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    let mut ids = BTreeSet::new();
    for part in text.split("\"operationId\": \"").skip(1) {
        assert!(ids.insert(part.split('"').next().unwrap()));
    }
}

#[tokio::test]
async fn document_is_served_to_anybody() {
    let broker = Running::strict().await;
    let answer = broker.request(Method::GET, "/openapi.json");
    let answer = Answer::of(answer.send().await.unwrap()).await;
    assert_eq!(answer.content_type.as_deref(), Some("application/json"));
    assert_eq!(
        answer.expect(StatusCode::OK).body,
        Broker::openapi().as_bytes()
    );
}

#[tokio::test]
async fn every_route_is_documented_and_every_documented_route_is_there() {
    let service = "\n[attestation_service]\nenabled = true\n";
    let broker = Running::start(|config| config + service).await;
    let documented = documented();
    let mut left: BTreeSet<&String> = documented.keys().collect();
    for route in Broker::route_paths() {
        // Any method there is told that it named nothing.
        if ["/kbs/v0/resource", "/kbs/v0/resource/"].contains(&route) {
            continue;
        }
        let path = match route {
            "/kbs/v0/resource/{*path}" => "/kbs/v0/resource/{repository}/{type}/{tag}".to_owned(),
            other => other.replace("{*", "{"),
        };
        let methods = documented
            .get(&path)
            .unwrap_or_else(|| panic!("{path} is not documented"));
        left.retain(|known| **known != path);
        let mut there = BTreeSet::new();
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let asked = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = broker.request(asked, &filled(&path)).send().await.unwrap();
            let answer = Answer::of(answer).await;
            let text = String::from_utf8_lossy(&answer.body);
            assert!(!text.contains("there is nothing at this path"), "{path}");
            if answer.status != StatusCode::METHOD_NOT_ALLOWED {
                there.insert(method.to_owned());
            }
        }
        assert_eq!(&there, methods, "{path}");
    }
    assert!(left.is_empty(), "documented, and not there: {left:?}");
}

/// What schemathesis makes up from the document: requests that fit it and requests that do not.
///
/// It comes with `./check` (`tests/peers/requirements.txt`) or from `STRONGROOM_PEERS_SCHEMATHESIS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_to_a_made_up_request_is_not_in_the_document() {
    let Some(program) = schemathesis() else {
        return;
    };
    let more =
        "\n[attestation_service]\nenabled = true\n[development]\naccept_sample_evidence = true\n";
    let broker = Running::start(|config| config + more).await;
    broker.register_reference_values().await;
    broker.set_policy(AFFIRMING).await;
    let (_, guest) = broker.attest(&Guest::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let document = folder.path().join("openapi.json");
    std::fs::write(&document, Broker::openapi()).unwrap();
    let mut command = tokio::process::Command::new(program);
    command
        .current_dir(folder.path())
        .env("SCHEMATHESIS_HOOKS", "schemathesis_admin")
        .env(
            "PYTHONPATH",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers"),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("STRONGROOM_ADMIN_KEY", &broker.summary.admin_key)
        .env("STRONGROOM_GUEST_TOKEN", guest)
        .env("STRONGROOM_NOW", broker.now().to_string())
        .args(["--no-color", "run", "--phases", "coverage,fuzzing"])
        .args(["--checks", CHECKS, "--max-examples", "40", "--seed", "1"])
        .args(["--generation-database", "none", "--warnings", "off"])
        .args(["--request-timeout", "10", "--continue-on-failure"])
        .arg("--tls-verify")
        .arg(&broker.summary.certificate)
        .args(["--url", &format!("https://{}", broker.address)])
        .arg(&document)
        .kill_on_drop(true);
    let ran = tokio::time::timeout(Duration::from_secs(180), command.output()).await;
    let ran = ran.expect("schemathesis ends in three minutes").unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    println!("{said}");
    // It was let in: an admin's requests did what they ask for.
    let entries = broker.audit().await;
    let done: BTreeSet<&str> = entries
        .iter()
        .filter(|entry| entry.record.admin.is_some() && entry.record.outcome == Outcome::Allowed)
        .map(|entry| entry.record.action.as_str())
        .collect();
    for action in ["put resource", "delete resource", "rotate storage key"] {
        assert!(done.contains(action), "{action} is not among {done:?}");
    }
    broker.verified_entries().await;
}

fn schemathesis() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("STRONGROOM_PEERS_SCHEMATHESIS") {
        return Some(named.into());
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.peers/venv/bin/schemathesis");
    if program.exists() {
        return Some(program);
    }
    let required = std::env::var_os("STRONGROOM_REQUIRE_PEERS").is_some_and(|value| value == "1");
    let why = "no schemathesis here; ./check installs it";
    assert!(!required, "{why}, and STRONGROOM_REQUIRE_PEERS=1");
    println!("SKIPPED: {why}");
    None
}

/// Not whether a request that fits the document is taken: the document does not say what Rego is, or which evidence holds.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth";
