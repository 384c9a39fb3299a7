//! `attestation-policy-selector`: a guest asks at `/auth` by which policies it is to be graded, and cannot ask again.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use strongroom_wire::kbs::Nonce;

use crate::support::{Answer, Guest, Running};

async fn broker() -> Running {
    let more = "\n[attestation]\npolicy_ids = { fraud = \"strict\", plain = \"default\" }\n\
        [development]\naccept_sample_evidence = true\n";
    let broker = Running::start(|config| config + more).await;
    broker.register_reference_values().await;
    broker
}

async fn auth(broker: &Running, extra: Value) -> Answer {
    let request = json!({"version": "0.4.0", "tee": "sample", "extra-params": extra});
    broker.post("/kbs/v0/auth", None, &request).await
}

async fn attest(broker: &Running, challenge: Answer) -> Answer {
    let challenge = challenge.expect(StatusCode::OK);
    let nonce: Nonce = serde_json::from_value(challenge.json()["nonce"].clone()).unwrap();
    let attestation = Guest::new().attestation(&nonce);
    broker
        .post("/kbs/v0/attest", challenge.cookie.as_deref(), &attestation)
        .await
}

fn graded_by(answer: Answer) -> String {
    let token = answer.expect(StatusCode::OK).json()["token"].clone();
    let payload = token
        .as_str()
        .unwrap()
        .split('.')
        .nth(1)
        .unwrap()
        .to_owned();
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let id = &payload["submods"]["cpu0"]["ear.appraisal-policy-id"];
    id.as_str().unwrap().to_owned()
}

async fn set_strict(broker: &Running) {
    let rego = "package policy\nimport rego.v1\ntrust_claims := {\"executables\": 3}\n";
    let body = json!({"policy_id": "strict_cpu", "policy": URL_SAFE_NO_PAD.encode(rego)});
    let path = "/kbs/v0/attestation-policy";
    let answer = broker.admin(Method::POST, path, body.to_string()).await;
    answer.expect(StatusCode::OK);
}

#[tokio::test]
async fn selector_decides_by_which_policy_a_session_is_graded() {
    let broker = broker().await;
    set_strict(&broker).await;
    for (extra, id) in [
        (json!({"attestation-policy-selector": "fraud"}), "strict"),
        (json!({"attestation-policy-selector": "plain"}), "default"),
        (json!({"supported-hash-algorithms": ["sha384"]}), "default"),
        (json!(""), "default"),
    ] {
        let challenge = auth(&broker, extra).await;
        assert_eq!(graded_by(attest(&broker, challenge).await), id);
    }
}

#[tokio::test]
async fn unmapped_selector_is_refused_and_not_graded_by_default() {
    let broker = broker().await;
    // The id itself is no selector: only what the configuration maps is.
    for selector in ["strict", "", "Fraud", "default"] {
        let answer = auth(&broker, json!({"attestation-policy-selector": selector})).await;
        let said = answer.refused(StatusCode::BAD_REQUEST, "PolicySelector");
        assert!(said.contains("attestation.policy_ids"), "{said}");
    }
    let answer = auth(&broker, json!({"attestation-policy-selector": 1})).await;
    answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
}

#[tokio::test]
async fn selected_policy_that_nobody_set_grades_nothing() {
    let broker = broker().await;
    let challenge = auth(&broker, json!({"attestation-policy-selector": "fraud"})).await;
    let answer = attest(&broker, challenge).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
    let detail = broker.last_entry().await.record.detail.unwrap();
    assert!(detail.contains("strict_cpu"), "{detail}");
}

#[tokio::test]
async fn selection_cannot_be_changed_after_auth() {
    let broker = broker().await;
    set_strict(&broker).await;
    let strict = auth(&broker, json!({"attestation-policy-selector": "fraud"})).await;
    let plain = auth(&broker, json!("")).await;
    // The tag of the other session in this one's id.
    let (strict_cookie, plain_cookie) = (strict.cookie.clone().unwrap(), plain.cookie.unwrap());
    let start = "kbs-session-id=".len() + 18;
    let mut forged = strict_cookie.clone();
    forged.replace_range(start..start + 16, &plain_cookie[start..start + 16]);
    assert_ne!(forged, strict_cookie);
    let forged = Answer {
        cookie: Some(forged),
        ..strict
    };
    let answer = attest(&broker, forged).await;
    answer.refused(StatusCode::UNAUTHORIZED, "AttestationError");
}

#[tokio::test]
async fn policy_of_an_own_id_is_read_back_removed_and_rehearsed() {
    let broker = broker().await;
    set_strict(&broker).await;
    let challenge = auth(&broker, json!({"attestation-policy-selector": "fraud"})).await;
    graded_by(attest(&broker, challenge).await);
    let path = "/strongroom/v1/policy/strict_cpu";
    let shown = broker.admin(Method::GET, path, "").await;
    let shown = shown.expect(StatusCode::OK).json();
    assert_eq!(shown["version"], 1);
    let worse = "package policy\nimport rego.v1\ntrust_claims := {\"executables\": 96}\n";
    let changes = json!({"policies": {"strict_cpu": worse}}).to_string();
    let rehearsed = broker
        .admin(Method::POST, "/strongroom/v1/rehearse", changes)
        .await;
    let flips = rehearsed.expect(StatusCode::OK).json()["flips"].clone();
    assert_eq!(flips[0]["would_be"], "contraindicated", "{flips}");
    let removed = broker.admin(Method::DELETE, path, "").await;
    removed.expect(StatusCode::OK);
    let challenge = auth(&broker, json!({"attestation-policy-selector": "fraud"})).await;
    let answer = attest(&broker, challenge).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
    let broker = broker.restart(|config| config).await;
    let listed = broker.admin(Method::GET, "/strongroom/v1/policy", "").await;
    assert_eq!(
        listed
            .expect(StatusCode::OK)
            .json()
            .as_array()
            .unwrap()
            .len(),
        3
    );
}
