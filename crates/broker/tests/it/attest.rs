//! Handshakes that must fail, and what must hold of those that do not.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::StatusCode;
use serde_json::{Value, json};
use strongroom_broker::audit::{Kind, Outcome};
use strongroom_verifier::release_policy::{Requirement, requiring};
use strongroom_wire::kbs::Nonce;

use crate::support::{AFFIRMING, Guest, Running};

#[tokio::test]
async fn honest_handshake_gives_a_token_and_the_secret() {
    let broker = Running::development().await;
    broker.put("default/key/1", "secret").await;
    let guest = Guest::new();
    let (cookie, token) = broker.attest(&guest).await;
    assert_eq!(
        guest.decrypt(broker.get_with_cookie("default/key/1", &cookie).await),
        b"secret"
    );
    assert_eq!(
        guest.decrypt(broker.get_with_token("default/key/1", &token).await),
        b"secret"
    );
}

#[tokio::test]
async fn sample_evidence_is_refused_unless_a_setting_says_otherwise() {
    let broker = Running::strict().await;
    let (cookie, nonce) = broker.auth().await;
    let answer = broker
        .post(
            "/kbs/v0/attest",
            Some(&cookie),
            &Guest::new().attestation(&nonce),
        )
        .await;
    let detail = broker.refused_because(&answer).await;
    assert!(
        detail.contains("development evidence proves nothing"),
        "{detail}"
    );
    let entry = broker.last_entry().await;
    assert_eq!(
        (entry.record.kind, entry.record.outcome),
        (Kind::Attestation, Outcome::Denied)
    );
    assert_eq!(entry.record.reasons[0].actual, json!("development"));
}

#[tokio::test]
async fn replayed_attestation_is_refused() {
    let broker = Running::development().await;
    let guest = Guest::new();
    let (cookie, nonce) = broker.auth().await;
    let message = guest.attestation(&nonce);
    broker
        .post("/kbs/v0/attest", Some(&cookie), &message)
        .await
        .expect(StatusCode::OK);
    let again = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    assert!(
        again
            .refused(StatusCode::UNAUTHORIZED, "AttestationError")
            .contains("nonce")
    );
}

/// What a session is attested with is final: new evidence wants a new handshake, and the old token is not an answer
/// to evidence that nobody looked at.
#[tokio::test]
async fn new_evidence_on_an_attested_session_is_refused_and_not_answered_with_the_old_token() {
    let broker = Running::development().await;
    broker.put("default/key/1", "secret").await;
    let guest = Guest::new();
    let (cookie, nonce) = broker.auth().await;
    let first = broker
        .post("/kbs/v0/attest", Some(&cookie), &guest.attestation(&nonce))
        .await
        .expect(StatusCode::OK);
    let token = first.json()["token"].as_str().unwrap().to_owned();
    let (_, unused) = broker.auth().await;
    for (other, nonce) in [
        (Guest::new(), &nonce),
        (Guest::new(), &unused),
        (guest, &unused),
    ] {
        let answer = broker
            .post("/kbs/v0/attest", Some(&cookie), &other.attestation(nonce))
            .await;
        let detail = answer.refused(StatusCode::UNAUTHORIZED, "AttestationError");
        assert!(detail.contains("nonce of this session is used"), "{detail}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(&token));
    }
    broker
        .get_with_cookie("default/key/1", &cookie)
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn record_says_which_claim_and_which_reference_value_spoil_the_grade() {
    let broker = Running::accepting_sample().await;
    broker
        .set_policy(&requiring(&[Requirement::for_resources("*/*/*").unwrap()]))
        .await;
    let (_, token) = broker.attest(&Guest::new()).await;
    let attested = broker.last_entry().await.record;
    assert_eq!(
        attested.detail.as_deref(),
        Some("status contraindicated: executables 33, hardware 97")
    );
    let svn = attested
        .reasons
        .iter()
        .find(|reason| reason.claim == "sample.svn")
        .unwrap();
    assert_eq!(
        (&svn.expected, &svn.actual),
        (
            &json!("a reference value svn, and none is registered"),
            &json!("1")
        )
    );
    broker
        .get_with_token("a/b/c", &token)
        .await
        .refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let denied = broker.last_entry().await.record;
    let claims: Vec<_> = denied
        .reasons
        .iter()
        .map(|reason| reason.claim.as_str())
        .collect();
    assert_eq!(
        claims,
        [
            "submods.cpu0.ear.status",
            "submods.cpu0.executables",
            "submods.cpu0.hardware"
        ]
    );
    assert_eq!(denied.reasons[2].actual, json!(97));
}

#[tokio::test]
async fn nonce_of_another_session_is_refused() {
    let broker = Running::development().await;
    let guest = Guest::new();
    let (_, other_nonce) = broker.auth().await;
    let (cookie, _) = broker.auth().await;
    let answer = broker
        .post(
            "/kbs/v0/attest",
            Some(&cookie),
            &guest.attestation(&other_nonce),
        )
        .await;
    let detail = broker.refused_because(&answer).await;
    assert!(detail.contains("another nonce"), "{detail}");
}

#[tokio::test]
async fn refused_evidence_uses_the_nonce_up() {
    let broker = Running::development().await;
    let guest = Guest::new();
    let (cookie, nonce) = broker.auth().await;
    let mut message = guest.attestation(&nonce);
    let good = message["tee-evidence"]["primary_evidence"]["report_data"].take();
    message["tee-evidence"]["primary_evidence"]["report_data"] = json!("YWJj");
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    let detail = broker.refused_because(&answer).await;
    assert!(detail.contains("report data"), "{detail}");
    message["tee-evidence"]["primary_evidence"]["report_data"] = good;
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    answer.refused(StatusCode::UNAUTHORIZED, "AttestationError");
}

#[tokio::test]
async fn message_that_does_not_parse_leaves_the_nonce_alone() {
    let broker = Running::development().await;
    let guest = Guest::new();
    let (cookie, nonce) = broker.auth().await;
    let answer = broker
        .post(
            "/kbs/v0/attest",
            Some(&cookie),
            &json!({"runtime-data": {}}),
        )
        .await;
    answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
    let mut bad_initdata = guest.attestation(&nonce);
    bad_initdata["init-data"] = json!({"format": "toml", "body": "not toml"});
    let answer = broker
        .post("/kbs/v0/attest", Some(&cookie), &bad_initdata)
        .await;
    answer.refused(StatusCode::BAD_REQUEST, "AttestationError");
    bad_initdata["init-data"]["format"] = json!("json");
    let answer = broker
        .post("/kbs/v0/attest", Some(&cookie), &bad_initdata)
        .await;
    answer.refused(StatusCode::BAD_REQUEST, "AttestationError");
    let answer = broker
        .post("/kbs/v0/attest", Some(&cookie), &guest.attestation(&nonce))
        .await;
    answer.expect(StatusCode::OK);
}

#[tokio::test]
async fn expired_session_is_refused() {
    let broker = Running::development().await;
    let (cookie, nonce) = broker.auth().await;
    broker.pass(300);
    let answer = broker
        .post(
            "/kbs/v0/attest",
            Some(&cookie),
            &Guest::new().attestation(&nonce),
        )
        .await;
    answer.refused(StatusCode::UNAUTHORIZED, "AttestationError");
}

#[tokio::test]
async fn expired_attested_session_has_no_token() {
    let broker = Running::development().await;
    broker.put("default/key/1", "secret").await;
    let (cookie, token) = broker.attest(&Guest::new()).await;
    broker.pass(300);
    let answer = broker.get_with_cookie("default/key/1", &cookie).await;
    answer.refused(StatusCode::UNAUTHORIZED, "TokenNotFound");
    let answer = broker.get_with_token("default/key/1", &token).await;
    let detail = answer.refused(StatusCode::UNAUTHORIZED, "TokenVerifierError");
    assert!(detail.contains("expired"), "{detail}");
}

#[tokio::test]
async fn attestation_without_a_session_is_refused() {
    let broker = Running::development().await;
    let (_, nonce) = broker.auth().await;
    let message = Guest::new().attestation(&nonce);
    for cookie in [
        None,
        Some("kbs-session-id=00000000000000000000000000000000"),
        Some("kbs-session-id=x"),
    ] {
        let answer = broker.post("/kbs/v0/attest", cookie, &message).await;
        answer.refused(StatusCode::UNAUTHORIZED, "AttestationError");
    }
}

#[tokio::test]
async fn new_handshake_verifies_the_new_evidence() {
    let broker = Running::development().await;
    let guest = Guest::new();
    let (cookie, token) = broker.attest(&guest).await;
    // The client's cookie jar still shows the attested session when it starts anew.
    let answer = broker
        .post(
            "/kbs/v0/auth",
            Some(&cookie),
            &json!({"version": "0.4.0", "tee": "sample", "extra-params": ""}),
        )
        .await
        .expect(StatusCode::OK);
    let nonce: Nonce = serde_json::from_value(answer.json()["nonce"].clone()).unwrap();
    let fresh = answer.cookie.unwrap();
    assert_ne!(fresh, cookie);
    let mut message = guest.attestation(&nonce);
    message["tee-evidence"]["primary_evidence"]["report_data"] = json!("YWJj");
    let answer = broker.post("/kbs/v0/attest", Some(&fresh), &message).await;
    answer.refused(StatusCode::FORBIDDEN, "AttestationError");
    let (_, next) = broker.attest(&guest).await;
    assert_ne!(next, token);
}

#[tokio::test]
async fn of_two_concurrent_attestations_exactly_one_succeeds() {
    let broker = Running::development().await;
    for _ in 0..10 {
        let guest = Guest::new();
        let (cookie, nonce) = broker.auth().await;
        let message = guest.attestation(&nonce);
        let post = || broker.post("/kbs/v0/attest", Some(&cookie), &message);
        let (one, two) = tokio::join!(post(), post());
        let (won, lost) = if one.status == StatusCode::OK {
            (one, two)
        } else {
            (two, one)
        };
        won.expect(StatusCode::OK);
        lost.refused(StatusCode::UNAUTHORIZED, "AttestationError");
        assert_eq!(
            broker.get_with_cookie("a/b/c", &cookie).await.status,
            StatusCode::NOT_FOUND
        );
    }
}

#[tokio::test]
async fn key_that_the_evidence_does_not_bind_is_refused() {
    let broker = Running::development().await;
    let (cookie, nonce) = broker.auth().await;
    let mut message = Guest::new().attestation(&nonce);
    message["runtime-data"]["tee-pubkey"] = json!(Guest::new().key.public());
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    let detail = broker.refused_because(&answer).await;
    assert!(detail.contains("report data"), "{detail}");
}

fn sample_device(report_data: &[u8]) -> String {
    let evidence = json!({"svn": "2", "report_data": STANDARD.encode(report_data)});
    json!({"sampledevice": evidence}).to_string()
}

#[tokio::test]
async fn device_is_a_submodule_of_its_own() {
    let broker = Running::development().await;
    let (cookie, nonce) = broker.auth().await;
    let message = Guest::new().composite_attestation(&nonce, sample_device);
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    let token = answer.expect(StatusCode::OK).json()["token"].clone();
    let payload = token.as_str().unwrap().split('.').nth(1).unwrap();
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let names: Vec<&String> = payload["submods"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["cpu0", "gpu0"]);
    let gpu = &payload["submods"]["gpu0"];
    assert_eq!(gpu["ear.status"], "contraindicated");
    let evidence = &gpu["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["sampledevice"]["svn"], "2");
    assert_eq!(evidence["assurance"], "development");
}

#[tokio::test]
async fn device_that_the_cpu_does_not_bind_is_refused() {
    let broker = Running::development().await;
    let (cookie, nonce) = broker.auth().await;
    let mut message = Guest::new().attestation(&nonce);
    message["tee-evidence"]["additional_evidence"] = json!(sample_device(&[0; 48]));
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    let detail = broker.refused_because(&answer).await;
    assert!(detail.contains("report data"), "{detail}");
}

#[tokio::test]
async fn device_with_the_report_data_of_the_cpu_is_refused() {
    let broker = Running::development().await;
    let (cookie, nonce) = broker.auth().await;
    let message = Guest::new().composite_attestation(&nonce, |_| sample_device(&[7; 48]));
    let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    let detail = broker.refused_because(&answer).await;
    assert!(detail.contains("report data"), "{detail}");
}

#[tokio::test]
async fn unsupported_device_is_refused_and_not_ignored() {
    let broker = Running::development().await;
    for (devices, said) in [
        (
            json!({"hygondcu": {}}),
            "platform hygondcu is not supported",
        ),
        (json!({"snp": {}}), "platform snp is not supported"),
        (json!({}), "at least one device"),
        (json!([]), "a map from platform to evidence"),
    ] {
        let (cookie, nonce) = broker.auth().await;
        let message = Guest::new().composite_attestation(&nonce, |_| devices.to_string());
        let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
        let detail = broker.refused_because(&answer).await;
        assert!(detail.contains(said), "{detail}");
    }
}

#[tokio::test]
async fn unsupported_platform_is_named() {
    let broker = Running::development().await;
    let answer = broker
        .post(
            "/kbs/v0/auth",
            None,
            &json!({"version": "0.4.0", "tee": "cca", "extra-params": ""}),
        )
        .await
        .expect(StatusCode::OK);
    let nonce: Nonce = serde_json::from_value(answer.json()["nonce"].clone()).unwrap();
    let message = Guest::new().attestation(&nonce);
    let answer = broker
        .post("/kbs/v0/attest", answer.cookie.as_deref(), &message)
        .await;
    let detail = broker.refused_because(&answer).await;
    assert!(detail.contains("platform cca is not supported"), "{detail}");
}

#[tokio::test]
async fn other_protocol_version_is_told_the_one_spoken() {
    let broker = Running::strict().await;
    for version in ["0.1.1", "0.2.0", "0.4.1", "1.0.0", ""] {
        // Old clients had other members too: the version is what they must hear about.
        let answer = broker
            .post("/kbs/v0/auth", None, &json!({"version": version, "tee": 7}))
            .await;
        let detail = answer.refused(StatusCode::BAD_REQUEST, "ProtocolVersion");
        assert!(detail.contains("0.4.0"), "{detail}");
    }
}

#[tokio::test]
async fn extra_params_may_be_any_json() {
    let broker = Running::strict().await;
    for extra in [
        json!(""),
        json!(null),
        json!(7),
        json!([1, [2]]),
        json!({"a": {"b": []}}),
        json!(true),
    ] {
        let message = json!({"version": "0.4.0", "tee": "sample", "extra-params": extra});
        let answer = broker
            .post("/kbs/v0/auth", None, &message)
            .await
            .expect(StatusCode::OK);
        assert_eq!(answer.json()["nonce"].as_str().unwrap().len(), 44);
        assert_eq!(answer.json()["extra-params"], json!(""));
    }
}

#[tokio::test]
async fn malformed_auth_is_refused() {
    let broker = Running::strict().await;
    for message in [
        json!({}),
        json!([]),
        json!({"version": "0.4.0"}),
        json!({"version": "0.4.0", "tee": "sev", "extra-params": ""}),
        json!({"version": 4, "tee": "sample", "extra-params": ""}),
    ] {
        let answer = broker.post("/kbs/v0/auth", None, &message).await;
        answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
    }
}

#[tokio::test]
async fn cookie_is_out_of_reach_of_scripts_and_other_sites() {
    let broker = Running::strict().await;
    let message = json!({"version": "0.4.0", "tee": "sample", "extra-params": ""});
    let answer = broker.post("/kbs/v0/auth", None, &message).await;
    let cookie = answer.set_cookie.unwrap();
    for attribute in [
        "; Path=/kbs;",
        "; Max-Age=300;",
        "; HttpOnly;",
        "; SameSite=Strict",
        "; Secure",
        " GMT;",
    ] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
}

const INITDATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n\n[data]\n\"aa.toml\" = '''\n[token_configs.kbs]\nurl = \"https://b\"\n'''\n\"policy.rego\" = \"package agent_policy\"\n";

fn evidence_in(token: &str) -> Value {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(payload).unwrap();
    let payload: Value = serde_json::from_slice(&bytes).unwrap();
    payload["submods"]["cpu0"]["ear.veraison.annotated-evidence"].clone()
}

#[tokio::test]
async fn bound_initdata_is_in_the_token() {
    let broker = Running::development().await;
    let guest = Guest::with_initdata(INITDATA);
    let (_, token) = broker.attest(&guest).await;
    let evidence = evidence_in(&token);
    assert_eq!(
        evidence["init_data"],
        json!(hex::encode(guest.initdata.unwrap().digest()))
    );
    assert_eq!(evidence["init_data_bound"], json!(true));
    assert_eq!(
        evidence["init_data_claims"]["aa.toml"]["token_configs"]["kbs"]["url"],
        json!("https://b")
    );
    assert_eq!(
        evidence["init_data_claims"]["policy.rego"],
        json!("package agent_policy")
    );
    assert_eq!(evidence["assurance"], json!("development"));
}

#[tokio::test]
async fn unbound_initdata_is_marked_and_spoils_the_grade() {
    let broker = Running::development().await;
    let mut guest = Guest::with_initdata(INITDATA);
    guest.register = None;
    let (cookie, token) = broker.attest(&guest).await;
    assert_eq!(evidence_in(&token)["init_data_bound"], json!(false));
    broker.put("a/b/c", "secret").await;
    broker
        .get_with_cookie("a/b/c", &cookie)
        .await
        .refused(StatusCode::FORBIDDEN, "PolicyDeny");
}

#[tokio::test]
async fn initdata_that_the_register_does_not_hold_is_refused() {
    let broker = Running::development().await;
    let mut swapped = Guest::with_initdata(INITDATA);
    swapped.register = Some(vec![7; 48]);
    let mut hidden = Guest::with_initdata(INITDATA);
    hidden.initdata = None;
    for guest in [swapped, hidden] {
        let (cookie, nonce) = broker.auth().await;
        let answer = broker
            .post("/kbs/v0/attest", Some(&cookie), &guest.attestation(&nonce))
            .await;
        let detail = broker.refused_because(&answer).await;
        assert!(detail.contains("register"), "{detail}");
        let entry = broker.last_entry().await;
        assert_eq!(entry.record.reasons[0].claim, "init_data");
        assert_eq!(
            entry.record.reasons[0].expected,
            json!(hex::encode(guest.register.unwrap()))
        );
    }
}

#[tokio::test]
async fn sessions_and_nonces_do_not_repeat() {
    let broker = Running::strict().await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..50 {
        let (cookie, nonce) = broker.auth().await;
        assert!(seen.insert(cookie) && seen.insert(nonce.as_str().to_owned()));
    }
}

#[tokio::test]
async fn token_of_a_restarted_broker_is_still_good_and_its_sessions_are_gone() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let guest = Guest::new();
    let (cookie, token) = broker.attest(&guest).await;
    let broker = broker.restart(|config| config).await;
    assert_eq!(
        guest.decrypt(broker.get_with_token("a/b/c", &token).await),
        b"secret"
    );
    broker
        .get_with_cookie("a/b/c", &cookie)
        .await
        .refused(StatusCode::UNAUTHORIZED, "TokenNotFound");
}

#[tokio::test]
async fn policies_and_reference_values_outlive_a_restart() {
    let broker = Running::development().await.restart(|config| config).await;
    broker.put("a/b/c", "secret").await;
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    assert_eq!(
        guest.decrypt(broker.get_with_token("a/b/c", &token).await),
        b"secret"
    );
    let text = broker
        .admin(
            reqwest::Method::GET,
            "/strongroom/v1/policy/resource-policy",
            "",
        )
        .await;
    assert_eq!(text.expect(StatusCode::OK).json()["text"], AFFIRMING);
}

#[tokio::test]
async fn initdata_bomb_is_refused() {
    let broker = Running::development().await;
    let document =
        |data: &str| format!("version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n{data}");
    for (data, status) in [
        // Larger than a document may be
        (
            format!("a = \"{}\"", "x".repeat(1024 * 1024)),
            StatusCode::BAD_REQUEST,
        ),
        // Deeper than a parser may go
        (
            format!("{}a = 1", "a.".repeat(200_000)),
            StatusCode::BAD_REQUEST,
        ),
        (
            format!("a = {}", "[".repeat(200_000)),
            StatusCode::BAD_REQUEST,
        ),
        // A document, and a token that no request could carry
        (
            format!("a = \"{}\"", "x".repeat(300 * 1024)),
            StatusCode::FORBIDDEN,
        ),
    ] {
        let (cookie, nonce) = broker.auth().await;
        let mut message = Guest::new().attestation(&nonce);
        message["init-data"] = json!({"format": "toml", "body": document(&data)});
        let answer = broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
        answer.refused(status, "AttestationError");
    }
    broker.attest(&Guest::new()).await;
}

#[tokio::test]
async fn largest_token_fits_into_a_request() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let body = "x".repeat(180 * 1024);
    let guest = Guest::with_initdata(&format!(
        "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\na = \"{body}\"\n"
    ));
    let (_, token) = broker.attest(&guest).await;
    assert!(token.len() > 240 * 1024);
    assert_eq!(
        guest.decrypt(broker.get_with_token("a/b/c", &token).await),
        b"secret"
    );
}
