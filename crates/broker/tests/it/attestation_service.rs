//! The attestation service's REST: evidence without a session, and a token that is good for others alone.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use strongroom_wire::canonical::{HashAlgorithm, to_jcs};
use strongroom_wire::ear::{EarClaims, Tier, UnverifiedEar};

use crate::support::{Answer, Guest, Running};

const ON: &str = "\n[attestation_service]\nenabled = true\n";
const SAMPLE: &str = "\n[development]\naccept_sample_evidence = true\n";

async fn service() -> Running {
    let broker = Running::start(|config| config + ON + SAMPLE).await;
    broker.register_reference_values().await;
    broker
}

fn digest(claims: &Value) -> Vec<u8> {
    HashAlgorithm::Sha384.digest(&to_jcs(claims).unwrap())
}

fn evidence(report_data: &[u8]) -> Value {
    json!({"svn": "1", "report_data": STANDARD.encode(report_data)})
}

/// One piece of sample evidence that binds these claims.
fn piece(claims: &Value) -> Value {
    json!({
        "tee": "sample",
        "evidence": URL_SAFE_NO_PAD.encode(evidence(&digest(claims)).to_string()),
        "runtime_data": {"structured": claims},
    })
}

fn request(pieces: &[Value]) -> Value {
    json!({"verification_requests": pieces, "policy_ids": ["default"]})
}

async fn evaluate(broker: &Running, request: &Value) -> Answer {
    broker.post("/attestation", None, request).await
}

async fn claims(broker: &Running, answer: Answer) -> EarClaims {
    let answer = answer.expect(StatusCode::OK);
    assert_eq!(
        answer.content_type.as_deref(),
        Some("text/plain; charset=utf-8")
    );
    let token = UnverifiedEar::parse(std::str::from_utf8(&answer.body).unwrap()).unwrap();
    let keys = broker.request(Method::GET, "/.well-known/jwks.json");
    let keys: JwkSet =
        serde_json::from_slice(&Answer::of(keys.send().await.unwrap()).await.body).unwrap();
    let key = DecodingKey::from_jwk(keys.find(token.kid().unwrap()).unwrap()).unwrap();
    token.verify(&key, broker.now()).unwrap()
}

#[tokio::test]
async fn service_is_not_there_unless_a_setting_names_it() {
    let broker = Running::accepting_sample().await;
    for path in ["/attestation", "/challenge", "/policy"] {
        let answer = broker.post(path, None, &request(&[])).await;
        answer.refused(StatusCode::NOT_FOUND, "InvalidRequestPath");
    }
}

#[tokio::test]
async fn evidence_that_binds_what_its_caller_states_gets_a_token() {
    let broker = service().await;
    let guest = Guest::new();
    let stated = json!({"nonce": "the caller's", "tee-pubkey": guest.key.public()});
    let answer = evaluate(&broker, &request(&[piece(&stated)])).await;
    let claims = claims(&broker, answer).await;
    let cpu = &claims.submods["cpu0"];
    assert_eq!(cpu.status, Tier::Affirming);
    assert_eq!(cpu.policy_id.as_deref(), Some("default"));
    assert_eq!(cpu.annotated_evidence["runtime_data_claims"], stated);
    let entry = broker.last_entry().await.record;
    assert_eq!(entry.token, claims.jti);
    assert_eq!(entry.tee_key, Some(guest.key.public().thumbprint()));
    let detail = entry.detail.unwrap();
    assert!(
        detail.ends_with("fresh is for the caller to know"),
        "{detail}"
    );
    assert!(
        entry
            .loosenings
            .contains(&"attestation_service.enabled".to_owned())
    );
}

#[tokio::test]
async fn token_of_the_service_releases_nothing_here() {
    let broker = service().await;
    broker.set_policy(crate::support::AFFIRMING).await;
    broker.put("default/db/password", "hunter2").await;
    let guest = Guest::new();
    let stated = json!({"additional-evidence": "", "nonce": "a", "tee-pubkey": guest.key.public()});
    let token = evaluate(&broker, &request(&[piece(&stated)])).await;
    let token = String::from_utf8(token.expect(StatusCode::OK).body).unwrap();
    let answer = broker.get_with_token("default/db/password", &token).await;
    let said = answer.refused(StatusCode::UNAUTHORIZED, "TokenVerifierError");
    assert!(said.contains("attest here first"), "{said}");
    // The same key, after a handshake.
    let (_, token) = broker.attest(&guest).await;
    let answer = broker.get_with_token("default/db/password", &token).await;
    assert_eq!(guest.decrypt(answer), b"hunter2");
}

#[tokio::test]
async fn evidence_that_binds_something_else_is_refused() {
    let broker = service().await;
    let mut other = piece(&json!({"nonce": "one"}));
    other["runtime_data"]["structured"]["nonce"] = json!("another");
    let answer = evaluate(&broker, &request(&[other])).await;
    let said = broker.refused_because(&answer).await;
    assert!(said.contains("report data"), "{said}");
    let entry = broker.last_entry().await.record;
    assert_eq!(entry.reasons[0].claim, "report_data");
}

#[tokio::test]
async fn hash_and_raw_report_data_are_the_callers_choice() {
    let broker = service().await;
    let stated = json!({"b": 1, "a": 2});
    let sha256 = HashAlgorithm::Sha256.digest(&to_jcs(&stated).unwrap());
    let mut named = piece(&stated);
    named["evidence"] = json!(URL_SAFE_NO_PAD.encode(evidence(&sha256).to_string()));
    let answer = evaluate(&broker, &request(&[named.clone()])).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
    named["runtime_data_hash_algorithm"] = json!("sha256");
    let answer = evaluate(&broker, &request(&[named.clone()])).await;
    answer.expect(StatusCode::OK);
    named["runtime_data"] = json!({"raw": URL_SAFE_NO_PAD.encode(&sha256)});
    let answer = evaluate(&broker, &request(&[named])).await;
    let claims = claims(&broker, answer).await;
    let evidence = &claims.submods["cpu0"].annotated_evidence;
    assert!(evidence["runtime_data_claims"].is_null());
    assert_eq!(evidence["report_data"], STANDARD.encode(sha256));
}

#[tokio::test]
async fn init_data_are_compared_whichever_way_they_come() {
    const TEXT: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"a\" = \"b\"\n";
    let broker = service().await;
    let held = HashAlgorithm::Sha256.digest(TEXT.as_bytes());
    let stated = json!({"nonce": "a"});
    let mut launched = evidence(&digest(&stated));
    launched["init_data"] = json!(STANDARD.encode(&held));
    let with = |init_data: Value| {
        let mut piece = piece(&stated);
        piece["evidence"] = json!(URL_SAFE_NO_PAD.encode(launched.to_string()));
        piece["init_data"] = init_data;
        request(&[piece])
    };
    let answer = evaluate(&broker, &with(json!({"init_data_toml": TEXT}))).await;
    let document = claims(&broker, answer).await.submods["cpu0"]
        .annotated_evidence
        .clone();
    assert_eq!(document["init_data_claims"], json!({"a": "b"}));
    let known = json!({"init_data_digest": URL_SAFE_NO_PAD.encode(&held)});
    let answer = evaluate(&broker, &with(known)).await;
    let digest = claims(&broker, answer).await.submods["cpu0"]
        .annotated_evidence
        .clone();
    assert_eq!(digest["init_data_digest"], hex::encode(&held));
    assert!(!digest.contains_key("init_data_claims"));
    let other = json!({"init_data_digest": URL_SAFE_NO_PAD.encode([0; 32])});
    for wrong in [other, Value::Null] {
        let answer = evaluate(&broker, &with(wrong)).await;
        answer.refused(StatusCode::FORBIDDEN, "AttestationError");
    }
}

#[tokio::test]
async fn devices_stand_beside_a_cpu_that_vouches_for_them() {
    let broker = service().await;
    let device_claims = json!({"nonce": "a"});
    let device = evidence(&digest(&device_claims));
    let device_piece = json!({
        "tee": "sampledevice", "evidence": URL_SAFE_NO_PAD.encode(device.to_string()),
        "runtime_data": {"structured": device_claims},
    });
    let vouching = |text: &str| piece(&json!({"additional-evidence": text, "nonce": "a"}));
    let cpu = vouching(&json!({ "sampledevice": device }).to_string());
    let answer = evaluate(&broker, &request(&[device_piece.clone(), cpu.clone()])).await;
    let claims = claims(&broker, answer).await;
    let names: Vec<_> = claims.submods.keys().map(String::as_str).collect();
    assert_eq!(names, ["cpu0", "gpu0"]);
    let unvouched = vouching("");
    let other = vouching(r#"{"sampledevice":{"svn":"1","report_data":""}}"#);
    let damaged = vouching("{");
    for pieces in [
        vec![unvouched, device_piece.clone()],
        vec![other, device_piece.clone()],
        vec![damaged],
        vec![cpu.clone()],
        vec![cpu.clone(), device_piece.clone(), device_piece.clone()],
        vec![device_piece],
        vec![cpu.clone(), cpu],
        Vec::new(),
    ] {
        let answer = evaluate(&broker, &request(&pieces)).await;
        answer.refused(StatusCode::BAD_REQUEST, "AttestationError");
    }
}

#[tokio::test]
async fn sample_evidence_is_refused_where_no_setting_lets_it_through() {
    let broker = Running::start(|config| config + ON).await;
    let answer = evaluate(&broker, &request(&[piece(&json!({}))])).await;
    let said = broker.refused_because(&answer).await;
    assert!(said.contains("development evidence"), "{said}");
}

#[tokio::test]
async fn malformed_requests_are_told_what_is_wrong() {
    let broker = service().await;
    let good = piece(&json!({}));
    let with = |member: &str, value: Value| {
        let mut piece = good.clone();
        piece[member] = value;
        request(&[piece])
    };
    let long = URL_SAFE_NO_PAD.encode([0; 65]);
    for (wrong, told) in [
        (with("evidence", json!("+")), "base64url"),
        (with("runtime_data", json!({ "raw": long })), "1 to 64"),
        (
            with("init_data", json!({"init_data_toml": "x"})),
            "init-data",
        ),
        (
            json!({"verification_requests": [good], "policy_ids": ["a", "b"]}),
            "one policy",
        ),
        (request(&vec![good.clone(); 17]), "at most 16"),
    ] {
        let answer = evaluate(&broker, &wrong).await;
        let said = answer.refused(StatusCode::BAD_REQUEST, "AttestationError");
        assert!(said.contains(told), "{said}");
    }
    for wrong in [
        json!({}),
        with("tee", json!("sev")),
        with("runtime_data_hash_algorithm", json!("sm3")),
    ] {
        let answer = evaluate(&broker, &wrong).await;
        answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
    }
}

#[tokio::test]
async fn policy_is_set_by_admins_and_chosen_by_its_id() {
    const STRICT: &str = "package policy\nimport rego.v1\ntrust_claims := {\"executables\": 33}\n";
    let broker = service().await;
    let body = json!({"policy_id": "strict_cpu", "policy": URL_SAFE_NO_PAD.encode(STRICT)});
    let answer = broker.post("/policy", None, &body).await;
    answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    let mut chosen = request(&[piece(&json!({}))]);
    chosen["policy_ids"] = json!(["strict"]);
    let answer = evaluate(&broker, &chosen).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
    let answer = broker
        .admin(Method::POST, "/policy", body.to_string())
        .await;
    answer.expect(StatusCode::OK);
    let listed = broker.request(Method::GET, "/policy");
    let listed = Answer::of(listed.send().await.unwrap()).await.json();
    let ids = ["default_cpu", "default_gpu", "strict_cpu"];
    assert_eq!(listed, json!(ids.map(|id| json!({"policy-id": id}))));
    let answer = evaluate(&broker, &chosen).await;
    let cpu = claims(&broker, answer).await.submods["cpu0"].clone();
    assert_eq!(cpu.policy_id.as_deref(), Some("strict"));
    assert_eq!(cpu.status, Tier::Warning);
    let entry = broker.last_entry().await.record;
    assert_eq!(entry.policy_id.as_deref(), Some("strict_cpu"));
    // Without a name, and without the member.
    for chosen in [json!([]), Value::Null] {
        let mut request = request(&[piece(&json!({}))]);
        match chosen.is_null() {
            true => drop(request.as_object_mut().unwrap().remove("policy_ids")),
            false => request["policy_ids"] = chosen,
        }
        let answer = evaluate(&broker, &request).await;
        let cpu = claims(&broker, answer).await.submods["cpu0"].clone();
        assert_eq!(cpu.policy_id.as_deref(), Some("default"));
    }
}

#[tokio::test]
async fn challenge_is_empty_where_a_platform_needs_none() {
    let broker = service().await;
    let body = json!({"tee": "snp", "tee_params": ""});
    let answer = broker.post("/challenge", None, &body).await;
    assert!(answer.expect(StatusCode::OK).body.is_empty());
    let body = json!({"tee": "se", "tee_params": ""});
    let answer = broker.post("/challenge", None, &body).await;
    answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
}

#[tokio::test]
async fn request_of_upstreams_attestation_agent_is_refused() {
    // Its `coco_as` token getter states no runtime data and names no policy.
    let broker = service().await;
    let evidence = URL_SAFE_NO_PAD.encode(evidence(&[0; 64]).to_string());
    let request = json!({
        "verification_requests": [{"tee": "sample", "evidence": evidence}], "policy_ids": [],
    });
    let answer = evaluate(&broker, &request).await;
    let cpu = claims(&broker, answer).await.submods["cpu0"].clone();
    assert!(cpu.annotated_evidence["runtime_data_claims"].is_null());
}
