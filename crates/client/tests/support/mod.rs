//! A broker that follows a script: counts what it is asked, and answers as told, on a real socket.
//!
//! It runs on a runtime of its own, so that stopping it cuts every connection at once.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, missing_docs)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use strongroom_wire::error_information::ErrorInformation;
use strongroom_wire::jwe;
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::kbs::{Attestation, Request};
use tokio::sync::Semaphore;

pub const NOW: u64 = 1_800_000_000;

pub struct ScriptedBroker {
    pub url: String,
    pub script: Arc<Script>,
    runtime: Option<tokio::runtime::Runtime>,
}

pub struct Script {
    pub auths: AtomicUsize,
    pub attests: AtomicUsize,
    pub gets: AtomicUsize,
    /// Plaintext by the path below `/kbs/v0/`.
    pub resources: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Answers to the next requests of each kind, before the broker answers by itself.
    pub next_auths: Mutex<VecDeque<Scripted>>,
    pub next_attests: Mutex<VecDeque<Scripted>>,
    pub next_gets: Mutex<VecDeque<Scripted>>,
    pub challenge: Mutex<Value>,
    pub token_payload: Mutex<Value>,
    /// When set, given instead of a token made from the payload.
    pub tokens: Mutex<VecDeque<String>>,
    pub seen: Mutex<Vec<Seen>>,
    pub attest_gate: Semaphore,
    /// Encrypts to this key instead of the attested one.
    pub wrong_key: Mutex<Option<TeePublicKey>>,
    keys: Mutex<BTreeMap<String, TeePublicKey>>,
    serial: AtomicU64,
}

#[derive(Clone)]
pub struct Scripted {
    pub status: u16,
    pub content_type: &'static str,
    pub body: String,
}

#[derive(Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// An error body in the protocol's form.
pub fn error(status: u16, kind: &str) -> Scripted {
    let body =
        serde_json::to_string(&ErrorInformation::new(kind, format!("words of {kind}"))).unwrap();
    Scripted {
        status,
        content_type: "application/json",
        body,
    }
}

/// What a proxy says.
pub fn page(status: u16) -> Scripted {
    Scripted {
        status,
        content_type: "text/html",
        body: "<html><b>Bad Gateway</b></html>".to_owned(),
    }
}

impl ScriptedBroker {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap())
    }

    pub fn start_at(address: SocketAddr) -> Self {
        Self::try_start_at(address).unwrap()
    }

    /// `None` while the address is taken.
    pub fn try_start_at(address: SocketAddr) -> Option<Self> {
        let script = Arc::new(Script {
            auths: AtomicUsize::new(0),
            attests: AtomicUsize::new(0),
            gets: AtomicUsize::new(0),
            resources: Mutex::default(),
            next_auths: Mutex::default(),
            next_attests: Mutex::default(),
            next_gets: Mutex::default(),
            challenge: Mutex::new(json!({
                "nonce": "jatKDaHQ5wQH62/XVoDeoGY1EG/FY3SUd85ZOuvNj80=", "extra-params": "",
            })),
            token_payload: Mutex::new(json!({ "iat": NOW, "exp": NOW + 300 })),
            tokens: Mutex::default(),
            seen: Mutex::default(),
            attest_gate: Semaphore::new(1_000_000),
            wrong_key: Mutex::default(),
            keys: Mutex::default(),
            serial: AtomicU64::new(0),
        });
        let listener = std::net::TcpListener::bind(address).ok()?;
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&script));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
        Some(Self {
            url,
            script,
            runtime: Some(runtime),
        })
    }

    pub fn with_resource(self, path: &str, plaintext: &[u8]) -> Self {
        self.put(path, plaintext);
        self
    }

    pub fn put(&self, path: &str, plaintext: &[u8]) {
        self.script
            .resources
            .lock()
            .unwrap()
            .insert(format!("resource/{path}"), plaintext.to_vec());
    }

    pub fn delete(&self, path: &str) {
        self.script
            .resources
            .lock()
            .unwrap()
            .remove(&format!("resource/{path}"));
    }

    pub fn auths(&self) -> usize {
        self.script.auths.load(Ordering::SeqCst)
    }

    pub fn attests(&self) -> usize {
        self.script.attests.load(Ordering::SeqCst)
    }

    pub fn gets(&self) -> usize {
        self.script.gets.load(Ordering::SeqCst)
    }

    pub fn on_auth(&self, answers: impl IntoIterator<Item = Scripted>) {
        self.script.next_auths.lock().unwrap().extend(answers);
    }

    pub fn on_attest(&self, answers: impl IntoIterator<Item = Scripted>) {
        self.script.next_attests.lock().unwrap().extend(answers);
    }

    pub fn on_get(&self, answers: impl IntoIterator<Item = Scripted>) {
        self.script.next_gets.lock().unwrap().extend(answers);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.script.seen.lock().unwrap().clone()
    }

    /// Cuts every connection and frees the port.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for ScriptedBroker {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn answer(
    State(script): State<Arc<Script>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let path = uri.path().to_owned();
    script.seen.lock().unwrap().push(Seen {
        method: method.clone(),
        path: path.clone(),
        headers: headers.clone(),
        body: body.to_vec(),
    });
    match (method.as_str(), path.as_str()) {
        ("POST", "/kbs/v0/auth") => {
            script.auths.fetch_add(1, Ordering::SeqCst);
            if let Some(scripted) = script.next_auths.lock().unwrap().pop_front() {
                return print(scripted);
            }
            let request: Request = serde_json::from_slice(&body).unwrap();
            assert_eq!(request.version, "0.4.0");
            let challenge = script.challenge.lock().unwrap().to_string();
            let cookie = format!(
                "kbs-session-id={:032x}; Expires=Sun, 22 Nov 2026 17:35:32 GMT",
                7
            );
            Response::builder()
                .header("content-type", "application/json")
                .header("set-cookie", cookie)
                .body(challenge.into())
                .unwrap()
        }
        ("POST", "/kbs/v0/attest") => {
            script.attests.fetch_add(1, Ordering::SeqCst);
            script.attest_gate.acquire().await.unwrap().forget();
            if let Some(scripted) = script.next_attests.lock().unwrap().pop_front() {
                return print(scripted);
            }
            assert_eq!(headers["cookie"], format!("kbs-session-id={:032x}", 7));
            let attestation: Attestation = serde_json::from_slice(&body).unwrap();
            let token = script
                .tokens
                .lock()
                .unwrap()
                .pop_front()
                .unwrap_or_else(|| script.token());
            script
                .keys
                .lock()
                .unwrap()
                .insert(token.clone(), attestation.runtime_data.tee_pubkey);
            print(Scripted {
                status: 200,
                content_type: "application/json",
                body: json!({ "token": token }).to_string(),
            })
        }
        ("GET", _) => {
            script.gets.fetch_add(1, Ordering::SeqCst);
            if let Some(scripted) = script.next_gets.lock().unwrap().pop_front() {
                return print(scripted);
            }
            let bearer = headers["authorization"]
                .to_str()
                .unwrap()
                .strip_prefix("Bearer ")
                .unwrap()
                .to_owned();
            let Some(key) = script.keys.lock().unwrap().get(&bearer).cloned() else {
                return print(error(401, "TokenNotFound"));
            };
            let key = script.wrong_key.lock().unwrap().clone().unwrap_or(key);
            let name = path.strip_prefix("/kbs/v0/").unwrap_or_default();
            match script.resources.lock().unwrap().get(name) {
                None => print(error(404, "ResourceNotFound")),
                Some(plaintext) => print(Scripted {
                    status: 200,
                    content_type: "application/json",
                    body: serde_json::to_string(&jwe::encrypt(&key, plaintext).unwrap()).unwrap(),
                }),
            }
        }
        _ => print(error(404, "InvalidRequestPath")),
    }
}

impl Script {
    fn token(&self) -> String {
        let mut payload = self.token_payload.lock().unwrap().clone();
        payload["serial"] = self.serial.fetch_add(1, Ordering::SeqCst).into();
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload.to_string()))
    }
}

/// A redirect leads to the address in its body.
fn print(scripted: Scripted) -> Response<Body> {
    let mut response = Response::builder()
        .status(StatusCode::from_u16(scripted.status).unwrap())
        .header("content-type", scripted.content_type);
    if (300..400).contains(&scripted.status) {
        response = response.header("location", &scripted.body);
    }
    response.body(scripted.body.into()).unwrap()
}
