//! The OpenAPI document: the one that is kept, the one that is served, and the routes that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use strongroom_broker::Broker;

use crate::support::{Answer, Running};

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
