//! What upstream's own programs sent and got, replayed against this broker.
//!
//! A replay swaps what must differ between two runs and nothing else: nonce (and with it `report_data`), cookie and
//! token. Upstream's KBS was recorded with its admin routes open, so requests to those get our admin's token here.
//! The statuses must be upstream's, but for 404 where it says 401 for something that is missing.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::DecodingKey;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use strongroom_testkit::fixtures::fixture;
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::ear::{EarError, UnverifiedEar};
use strongroom_wire::jwe::DecryptionKey;
use strongroom_wire::kbs::{Attestation, RuntimeData};

use crate::support::{Answer, Running};

fn read(name: &str) -> Option<String> {
    let path = fixture(&format!("recorded/{name}"))?;
    Some(std::fs::read_to_string(path).unwrap())
}

fn exchanges(name: &str) -> Option<Vec<Value>> {
    Some(
        read(name)?
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    )
}

#[test]
fn report_data_of_every_recorded_attestation_is_recomputed() {
    let mut seen = 0;
    for name in [
        "kbs-client.jsonl",
        "guest-get-resource.jsonl",
        "guest-unseal.jsonl",
    ] {
        let Some(exchanges) = exchanges(name) else {
            return;
        };
        for exchange in exchanges
            .iter()
            .filter(|e| e["request"]["path"] == "/kbs/v0/attest")
        {
            let message: Attestation =
                serde_json::from_str(exchange["request"]["body"].as_str().unwrap()).unwrap();
            let additional = &message.tee_evidence.additional_evidence;
            let wanted = message
                .runtime_data
                .primary_report_data(additional, HashAlgorithm::Sha384);
            let evidence: Value =
                serde_json::from_str(message.tee_evidence.primary_evidence.get()).unwrap();
            assert_eq!(evidence["report_data"], json!(STANDARD.encode(wanted)));
            seen += 1;
        }
    }
    assert_eq!(seen, 9);
}

#[test]
fn recorded_token_verifies_by_its_own_key_and_is_expired() {
    let Some(text) = read("ear-token.jwt") else {
        return;
    };
    let token = UnverifiedEar::parse(text.trim_end()).unwrap();
    let key = DecodingKey::from_jwk(token.unverified_jwk().unwrap()).unwrap();
    let issued_at = 1_795_368_632;
    let claims = token.verify(&key, issued_at + 10).unwrap();
    assert_eq!(claims.exp - claims.iat, 300);
    assert!(claims.submods.contains_key("cpu0"));
    assert!(matches!(
        token.verify(&key, claims.exp),
        Err(EarError::Expired { .. })
    ));
    assert!(matches!(
        token.verify(&key, claims.exp + 86_400),
        Err(EarError::Expired { .. })
    ));
}

#[tokio::test]
async fn recorded_token_is_refused_here() {
    let Some(text) = read("ear-token.jwt") else {
        return;
    };
    let broker = Running::development().await;
    let answer = broker.get_with_token("a/b/c", text.trim_end()).await;
    answer.refused(StatusCode::UNAUTHORIZED, "TokenVerifierError");
}

#[tokio::test]
async fn kbs_client_is_answered_as_upstream_answers_it() {
    let Some(exchanges) = exchanges("kbs-client.jsonl") else {
        return;
    };
    let broker = Running::accepting_sample().await;
    let mut replay = Replay::on(&broker);
    for exchange in &exchanges {
        replay.play(exchange).await;
    }
    assert_eq!(replay.played, exchanges.len());
}

#[tokio::test]
async fn known_key_of_the_recording_opens_our_answer_too() {
    let (Some(exchanges), Some(known)) =
        (exchanges("kbs-client.jsonl"), read("jwe-known-key.json"))
    else {
        return;
    };
    let known: Value = serde_json::from_str(&known).unwrap();
    let scalar = hex::decode(known["tee_scalar_hex"].as_str().unwrap()).unwrap();
    let key = DecryptionKey::from_p256_scalar(&scalar).unwrap();
    let broker = Running::accepting_sample().await;
    let mut replay = Replay::on(&broker);
    let mut opened = 0;
    for exchange in &exchanges {
        let answer = replay.play(exchange).await;
        if answer.status == StatusCode::OK && exchange["request"]["method"] == "GET" {
            let ours = serde_json::from_slice(&answer.body)
                .ok()
                .and_then(|jwe| key.decrypt(&jwe).ok());
            let theirs = serde_json::from_str(exchange["response"]["body"].as_str().unwrap())
                .ok()
                .and_then(|jwe| key.decrypt(&jwe).ok());
            assert_eq!(ours.is_some(), theirs.is_some());
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                assert_eq!(ours, theirs);
                assert_eq!(
                    ours.as_slice(),
                    known["plaintext"].as_str().unwrap().as_bytes()
                );
                opened += 1;
            }
        }
    }
    assert_eq!(opened, 1);
}

#[tokio::test]
async fn guest_components_are_answered_as_upstream_answers_them() {
    for name in ["guest-get-resource.jsonl", "guest-unseal.jsonl"] {
        let (Some(guest), Some(admin), Some(signing_key)) = (
            exchanges(name),
            exchanges("kbs-client.jsonl"),
            read("sealed-signing-public.jwk.json"),
        ) else {
            return;
        };
        let broker = Running::accepting_sample().await;
        broker
            .put("default/sealed-signing-key/jwk_public", &signing_key)
            .await;
        let mut replay = Replay::on(&broker);
        // The first two exchanges of the admin's recording store the resource and set the policy.
        for exchange in admin[..2].iter().chain(&guest) {
            replay.play(exchange).await;
        }
        assert_eq!(replay.played, 2 + guest.len());
    }
}

/// Plays exchanges in order, and remembers what of ours stands for what was recorded.
struct Replay<'a> {
    broker: &'a Running,
    cookies: HashMap<String, String>,
    nonces: HashMap<String, String>,
    token: Option<String>,
    played: usize,
}

impl<'a> Replay<'a> {
    fn on(broker: &'a Running) -> Self {
        Self {
            broker,
            cookies: HashMap::new(),
            nonces: HashMap::new(),
            token: None,
            played: 0,
        }
    }

    async fn play(&mut self, exchange: &Value) -> Answer {
        let (recorded, wanted) = (&exchange["request"], &exchange["response"]);
        let path = recorded["path"].as_str().unwrap();
        let method: Method = recorded["method"].as_str().unwrap().parse().unwrap();
        let mut request = self.broker.request(method.clone(), path);
        for (name, value) in recorded["headers"].as_object().unwrap() {
            let value = value.as_str().unwrap();
            request = match name.as_str() {
                "cookie" => request.header(name, &self.cookies[value]),
                "authorization" => request.bearer_auth(self.token.as_ref().unwrap()),
                _ => request.header(name, value),
            };
        }
        if is_admins(&method, path) {
            request = request.bearer_auth(self.broker.admin_token());
        }
        let body = recorded["body"].as_str().unwrap();
        let body = if path == "/kbs/v0/attest" {
            self.with_our_nonce(body)
        } else {
            body.to_owned()
        };
        let answer = Answer::of(request.body(body).send().await.unwrap()).await;
        self.compare(path, wanted, &answer);
        self.remember(wanted, &answer);
        self.played += 1;
        answer
    }

    /// Swaps the nonce and what hashes it; every other byte that the hash covers stays.
    fn with_our_nonce(&self, body: &str) -> String {
        let mut message: Value = serde_json::from_str(body).unwrap();
        let nonce = &mut message["runtime-data"]["nonce"];
        *nonce = json!(self.nonces[nonce.as_str().unwrap()]);
        let runtime_data: RuntimeData =
            serde_json::from_value(message["runtime-data"].clone()).unwrap();
        let report_data = runtime_data.primary_report_data("", HashAlgorithm::Sha384);
        message["tee-evidence"]["primary_evidence"]["report_data"] =
            json!(STANDARD.encode(report_data));
        message.to_string()
    }

    fn compare(&self, path: &str, wanted: &Value, answer: &Answer) {
        let body = wanted["body"].as_str().unwrap();
        let context = format!(
            "{path}: {} for {body}",
            String::from_utf8_lossy(&answer.body)
        );
        let status = wanted["status"].as_u64().unwrap();
        if status != 200 {
            let missing =
                body.contains("PluginInternalError") || body.contains("No reference value found");
            assert_eq!(answer.status, if missing { 404 } else { 401 }, "{context}");
            let error: Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(
                shape(&error),
                shape(&serde_json::from_str(body).unwrap()),
                "{context}"
            );
            return;
        }
        assert_eq!(answer.status, 200, "{context}");
        if let Some(kind) = wanted["headers"]["content-type"].as_str() {
            assert_eq!(answer.content_type.as_deref(), Some(kind), "{context}");
        }
        let recorded_cookie = wanted["headers"]["set-cookie"].as_str();
        assert_eq!(
            answer.set_cookie.is_some(),
            recorded_cookie.is_some(),
            "{context}"
        );
        match serde_json::from_str::<Value>(body) {
            Err(_) => assert_eq!(answer.body, body.as_bytes(), "{context}"),
            Ok(recorded) => {
                assert_eq!(shape(&answer.json()), shape(&recorded), "{context}");
                // A JWE of the same key type and plaintext is as long as upstream's, to the byte.
                if recorded.get("protected").is_some() && path.ends_with("dataset_key") {
                    assert_eq!(answer.body.len(), body.len(), "{context}");
                }
            }
        }
    }

    fn remember(&mut self, wanted: &Value, answer: &Answer) {
        if let (Some(theirs), Some(ours)) =
            (wanted["headers"]["set-cookie"].as_str(), &answer.cookie)
        {
            self.cookies
                .insert(theirs.split(';').next().unwrap().to_owned(), ours.clone());
        }
        let Ok(recorded) = serde_json::from_str::<Value>(wanted["body"].as_str().unwrap()) else {
            return;
        };
        let Ok(ours) = serde_json::from_slice::<Value>(&answer.body) else {
            return;
        };
        if let (Some(theirs), Some(ours)) = (recorded["nonce"].as_str(), ours["nonce"].as_str()) {
            self.nonces.insert(theirs.to_owned(), ours.to_owned());
        }
        if let Some(token) = ours["token"].as_str() {
            self.token = Some(token.to_owned());
        }
    }
}

fn is_admins(method: &Method, path: &str) -> bool {
    let guests = ["/kbs/v0/auth", "/kbs/v0/attest"];
    let reads = *method == Method::GET && path.starts_with("/kbs/v0/resource/");
    !guests.contains(&path) && !reads
}

/// The form of a JSON value: its member names and the kinds of its values. Arrays stand for themselves.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), shape(value)))
            .collect(),
        Value::Array(items) => json!(items),
        Value::String(_) => json!("a string"),
        Value::Number(_) => json!("a number"),
        other => other.clone(),
    }
}
