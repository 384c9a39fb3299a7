//! Upstream's interface documents, read: each call and field of its `.proto` files against what the sockets answer, each
//! path of its `OpenAPI` document against what the REST API does.

#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/support/mod.rs"]
mod broker;
mod support;

use std::collections::BTreeMap;

use broker::ScriptedBroker;
use serde_json::Value;
use strongroom_guest::{Socket, TtrpcLimits, TtrpcService, serve_ttrpc};
use support::{Guest, agent, call, everything, fixture, text, varint};

const KEY: &str = "default/key/one";

#[derive(Debug, Default)]
struct Proto {
    /// By name: type, name and number of each field.
    messages: BTreeMap<String, Vec<(String, String, u32)>>,
    /// Service with its package, call, request, answer.
    calls: Vec<(String, String, String, String)>,
}

impl Proto {
    fn parse(text: &str) -> Self {
        let mut proto = Self::default();
        let (mut package, mut message, mut service) = (String::new(), None, None);
        for line in text.lines() {
            let line = line.split("//").next().unwrap().trim();
            let words: Vec<&str> = line
                .split(|c: char| c.is_whitespace() || "(){};=".contains(c))
                .filter(|word| !word.is_empty())
                .collect();
            match words.as_slice() {
                ["package", name] => package = (*name).to_owned(),
                ["message", name] => {
                    proto.messages.insert((*name).to_owned(), Vec::new());
                    message = Some((*name).to_owned()).filter(|_| !line.ends_with("{}"));
                }
                ["service", name] => service = Some(format!("{package}.{name}")),
                ["enum", _] => message = None,
                ["rpc", call, request, "returns", answer] => proto.calls.push((
                    service.clone().unwrap(),
                    (*call).to_owned(),
                    (*request).to_owned(),
                    (*answer).to_owned(),
                )),
                [.., kind, name, number] => {
                    if let (Some(message), Ok(number)) = (&message, number.parse()) {
                        let field = ((*kind).to_owned(), (*name).to_owned(), number);
                        proto.messages.get_mut(message).unwrap().push(field);
                    }
                }
                _ => {}
            }
        }
        proto
    }
}

fn number(number: u32, value: usize) -> Vec<u8> {
    [varint(number as usize * 8), varint(value)].concat()
}

fn has(answer: &[u8], words: &str) -> bool {
    answer
        .windows(words.len())
        .any(|window| window == words.as_bytes())
}

/// What makes a call get as far as to its other fields.
fn valid(message: &str, field: &str) -> Option<Vec<u8>> {
    let entry = |name: &str, value: &str| {
        let entry = [text(1, name.as_bytes()), text(2, value.as_bytes())].concat();
        text(2, &entry)
    };
    match (message, field) {
        ("SecureMountRequest", "volume_type") => Some(text(1, b"block-device")),
        ("SecureMountRequest", "options") => Some(
            [
                entry("sourceType", "empty"),
                entry("devicePath", "/nowhere/disk"),
            ]
            .concat(),
        ),
        ("SecureMountRequest", "mount_point") => Some(text(4, b"/nowhere/mount")),
        ("ImagePullRequest", "bundle_path") => Some(text(2, b"/nowhere/bundle")),
        ("ImagePullRequest", "image_url") => Some(text(1, b"registry.invalid/a:b")),
        ("ExtendRuntimeMeasurementRequest", "Domain") => Some(text(1, b"example.com")),
        ("ExtendRuntimeMeasurementRequest", "Operation") => Some(text(2, b"load")),
        ("ExtendRuntimeMeasurementRequest", "Content") => Some(text(3, b"x")),
        _ => None,
    }
}

struct Sockets {
    folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Sockets {
    fn start(broker: &ScriptedBroker) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for (name, service) in [
            ("attestation_agent", TtrpcService::AttestationAgent),
            ("hub", TtrpcService::DataHub(Box::default())),
        ] {
            let socket = Socket::bind(&folder.path().join(name)).unwrap();
            let agent = agent(&broker.url);
            runtime.spawn(async move {
                let listener = socket.listener().unwrap();
                let never = std::future::pending();
                serve_ttrpc(agent, service, listener, TtrpcLimits::default(), never).await
            });
        }
        Self {
            folder,
            _runtime: runtime,
        }
    }

    fn of(&self, service: &str) -> std::path::PathBuf {
        let name = match service.starts_with("attestation_agent.") {
            true => "attestation_agent",
            false => "hub",
        };
        self.folder.path().join(name)
    }
}

#[test]
fn call_or_field_of_upstreams_protos_is_not_read() {
    let broker = ScriptedBroker::start();
    let sockets = Sockets::start(&broker);
    let (mut calls, mut fields) = (0, 0);
    for name in [
        "attestation-agent/attestation-agent",
        "confidential-data-hub/api",
        "confidential-data-hub/keyprovider",
    ] {
        let path = format!("guest/guest-components/protos/protos/{name}.proto");
        let Some(source) = fixture(&path) else {
            return;
        };
        let proto = Proto::parse(&source);
        for (service, method, request, answer) in &proto.calls {
            calls += 1;
            let socket = sockets.of(service);
            let empty = call(&socket, service, method, &[]);
            let unimplemented = has(&empty, "no such");
            assert!(
                !unimplemented,
                "{service} {method}: {}",
                String::from_utf8_lossy(&empty)
            );
            // The owner encrypts images, and no guest: it says so.
            if method == "WrapKey" {
                assert!(has(&empty, "image encrypt"));
                continue;
            }
            for (kind, field, at) in &proto.messages[request] {
                fields += 1;
                let others = proto.messages[request].iter();
                let mut sent: Vec<u8> = others
                    .filter(|(_, other, _)| other != field)
                    .filter_map(|(_, other, _)| valid(request, other))
                    .flatten()
                    .collect();
                // As no sender writes it: who reads this field under this number says that its type is another.
                sent.extend(match kind.as_str() {
                    "uint64" => text(*at, b"x"),
                    _ => number(*at, 1),
                });
                let refused = call(&socket, service, method, &sent);
                assert!(
                    has(&refused, &format!("field {at} has another type")),
                    "{service} {method} {field}: {}",
                    String::from_utf8_lossy(&refused)
                );
            }
            // Each answer has one field at most, the first.
            let numbers: Vec<u32> = proto.messages[answer].iter().map(|field| field.2).collect();
            assert!(numbers.is_empty() || numbers == [1], "{answer}");
        }
    }
    assert_eq!(
        (calls, fields),
        (13, 17),
        "the documents were not read whole"
    );
    let tee = call(
        &sockets.of("attestation_agent."),
        "attestation_agent.AttestationAgentService",
        "GetTeeType",
        &[],
    );
    let payload = text(2, &text(1, b"sample"));
    assert!(tee.ends_with(&payload), "{tee:?}");
    let unknown = call(
        &sockets.of("api."),
        "api.GetResourceService",
        "GetResources",
        &[],
    );
    assert!(
        has(&unknown, "no such"),
        "{}",
        String::from_utf8_lossy(&unknown)
    );
}

/// What a request to a path of the document is, with its parameters.
fn example(path: &str, parameter: Option<&str>) -> Option<&'static str> {
    match (path, parameter) {
        (_, Some("runtime_data")) => Some("runtime_data=YWJj"),
        (_, Some("encoding")) => Some("encoding=base64"),
        (_, Some("token_type")) => Some("token_type=kbs"),
        ("/aa/aael", None) => Some(r#"{"domain":"a","operation":"b","content":"c"}"#),
        _ => None,
    }
}

#[test]
fn path_of_upstreams_openapi_document_answers_otherwise() {
    let Some(text) = fixture("guest/guest-components/api-server-rest/openapi/api.json") else {
        return;
    };
    let document: Value = serde_json::from_str(&text).unwrap();
    let broker = ScriptedBroker::start().with_resource(KEY, b"secret");
    let guest = Guest::start(agent(&broker.url), everything());
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 6);
    for (path, methods) in paths {
        let (method, described) = methods.as_object().unwrap().iter().next().unwrap();
        let method = method.to_uppercase();
        let at = path.replace("{repository}/{type}/{tag}", KEY);
        let parameters: Vec<&Value> = described["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let query = |parameters: &[&Value]| {
            let pairs: Vec<&str> = parameters
                .iter()
                .map(|parameter| example(path, parameter["name"].as_str()).unwrap())
                .collect();
            if pairs.is_empty() {
                at.clone()
            } else {
                format!("{at}?{}", pairs.join("&"))
            }
        };
        let body = if described["requestBody"].is_null() {
            ""
        } else {
            example(path, None).unwrap()
        };
        let request = |at: &str, body: &str| guest.request(&method, at, &[], body.as_bytes());
        let answer = request(&query(&parameters), body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let content = &described["responses"]["200"]["content"];
        let kinds: Vec<&String> = content
            .as_object()
            .into_iter()
            .flatten()
            .map(|(kind, _)| kind)
            .collect();
        let expected = kinds
            .first()
            .map_or("application/json", |kind| kind.as_str());
        assert_eq!(answer.header("content-type"), expected, "{path}");
        // Without any one that is required.
        for missing in parameters.iter().filter(|one| one["required"] == true) {
            let others: Vec<&Value> = parameters
                .iter()
                .filter(|one| *one != missing)
                .copied()
                .collect();
            assert_eq!(
                request(&query(&others), body).status,
                400,
                "{path} {missing}"
            );
        }
        if !body.is_empty() {
            assert_eq!(request(&at, "{}").status, 400, "{path}");
        }
        let other = if method == "GET" { "POST" } else { "GET" };
        assert_eq!(
            guest.request(other, &at, &[], b"").status,
            405,
            "{other} {path}"
        );
    }
}
