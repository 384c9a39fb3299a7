//! Who gets a resource, who does not, and what each learns.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, StatusCode};
use serde_json::json;
use strongroom_broker::audit::{Kind, Outcome};
use strongroom_verifier::release_policy::{Requirement, requiring};
use strongroom_wire::jwe::Jwe;

use crate::support::{Answer, Guest, Running};

#[tokio::test]
async fn default_policy_releases_nothing_to_sample_evidence() {
    let broker = Running::accepting_sample().await;
    broker.register_reference_values().await;
    broker.put("a/b/c", "secret").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    let answer = broker.get_with_token("a/b/c", &token).await;
    let detail = answer.refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let entry = broker.last_entry().await;
    assert_eq!(
        (entry.record.kind, entry.record.outcome),
        (Kind::Release, Outcome::Denied)
    );
    assert_eq!(
        detail,
        format!(
            "denied by policy; the broker's owner can explain event {}",
            entry.record.event
        )
    );
    let reason = &entry.record.reasons[0];
    assert_eq!(reason.claim, "submods.cpu0.assurance");
    assert_eq!(
        (&reason.expected, &reason.actual),
        (&json!("hardware"), &json!("development"))
    );
}

#[tokio::test]
async fn denied_guest_does_not_learn_what_exists() {
    let broker = Running::accepting_sample().await;
    broker.put("a/b/there", "secret").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    let mut details = Vec::new();
    for path in ["a/b/there", "a/b/missing"] {
        let detail = broker
            .get_with_token(path, &token)
            .await
            .refused(StatusCode::FORBIDDEN, "PolicyDeny");
        details.push(detail.rsplit_once(' ').unwrap().0.to_owned());
    }
    assert_eq!(details[0], details[1]);
}

#[tokio::test]
async fn allowed_guest_learns_that_a_resource_is_missing() {
    let broker = Running::development().await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker
        .get_with_token("a/b/c", &token)
        .await
        .refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    assert_eq!(broker.last_entry().await.record.outcome, Outcome::Missing);
}

#[tokio::test]
async fn guest_without_a_token_is_told_to_attest() {
    let broker = Running::development().await;
    let answer = Answer::of(
        broker
            .request(Method::GET, "/kbs/v0/resource/a/b/c")
            .send()
            .await
            .unwrap(),
    )
    .await;
    answer.refused(StatusCode::UNAUTHORIZED, "TokenNotFound");
    let (waiting, _) = broker.auth().await;
    broker
        .get_with_cookie("a/b/c", &waiting)
        .await
        .refused(StatusCode::UNAUTHORIZED, "TokenNotFound");
}

#[tokio::test]
async fn token_of_another_broker_is_refused() {
    let (ours, theirs) = (Running::development().await, Running::development().await);
    ours.put("a/b/c", "secret").await;
    let (_, token) = theirs.attest(&Guest::new()).await;
    let detail = ours
        .get_with_token("a/b/c", &token)
        .await
        .refused(StatusCode::UNAUTHORIZED, "TokenVerifierError");
    assert!(detail.contains("not of this broker"), "{detail}");
}

#[tokio::test]
async fn token_of_another_broker_under_our_key_id_is_refused() {
    let (ours, theirs) = (Running::development().await, Running::development().await);
    ours.put("a/b/c", "secret").await;
    let (_, good) = ours.attest(&Guest::new()).await;
    let (_, bad) = theirs.attest(&Guest::new()).await;
    let header = |token: &str| {
        let bytes = URL_SAFE_NO_PAD
            .decode(token.split('.').next().unwrap())
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
    };
    // The forger keeps its own jwk, which verifies the token, and claims our kid.
    let mut forged_header = header(&bad);
    forged_header["kid"] = header(&good)["kid"].clone();
    let body = bad.split('.').nth(1).unwrap();
    let signing_input = format!(
        "{}.{body}",
        URL_SAFE_NO_PAD.encode(forged_header.to_string())
    );
    let pem = std::fs::read(theirs.folder.path().join("broker/token.key")).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ec_pem(&pem).unwrap();
    let signature = jsonwebtoken::crypto::sign(
        signing_input.as_bytes(),
        &key,
        jsonwebtoken::Algorithm::ES256,
    )
    .unwrap();
    let forged = format!("{signing_input}.{signature}");
    let answer = ours.get_with_token("a/b/c", &forged).await;
    answer.refused(StatusCode::UNAUTHORIZED, "TokenVerifierError");
}

#[tokio::test]
async fn changed_token_is_refused() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    let parts: Vec<&str> = token.split('.').collect();
    let mut payload: serde_json::Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    payload["exp"] = json!(broker.now() + 100_000);
    let longer = format!(
        "{}.{}.{}",
        parts[0],
        URL_SAFE_NO_PAD.encode(payload.to_string()),
        parts[2]
    );
    let none = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        parts[1]
    );
    for bad in [
        longer,
        none,
        "x".into(),
        "a.b.c".into(),
        format!("{token}x"),
    ] {
        broker
            .get_with_token("a/b/c", &bad)
            .await
            .refused(StatusCode::UNAUTHORIZED, "TokenVerifierError");
    }
}

#[tokio::test]
async fn answer_is_for_the_key_that_was_attested_and_no_other() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let (guest, thief) = (Guest::new(), Guest::new());
    let (_, stolen) = broker.attest(&guest).await;
    let answer = broker
        .get_with_token("a/b/c", &stolen)
        .await
        .expect(StatusCode::OK);
    let jwe: Jwe = serde_json::from_slice(&answer.body).unwrap();
    assert!(thief.key.decrypt(&jwe).is_err());
    assert_eq!(guest.key.decrypt(&jwe).unwrap().as_slice(), b"secret");
}

#[tokio::test]
async fn development_token_is_worth_nothing_once_the_setting_is_gone() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    broker.set_policy("package policy\n\nallow := true").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker
        .get_with_token("a/b/c", &token)
        .await
        .expect(StatusCode::OK);
    let broker = broker
        .restart(|config| config.replace("accept_sample_evidence = true", ""))
        .await;
    broker
        .get_with_token("a/b/c", &token)
        .await
        .refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let entry = broker.last_entry().await;
    assert_eq!(
        entry.record.reasons[0].rule,
        "development evidence meets no policy"
    );
}

#[tokio::test]
async fn every_entry_that_a_loosening_let_through_names_it() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker
        .get_with_token("a/b/c", &token)
        .await
        .expect(StatusCode::OK);
    let entries = broker.audit().await;
    for kind in [Kind::Start, Kind::Attestation, Kind::Release] {
        let entry = entries
            .iter()
            .find(|entry| entry.record.kind == kind)
            .unwrap();
        assert_eq!(
            entry.record.loosenings,
            ["development.accept_sample_evidence"],
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn written_policy_releases_by_initdata_and_names_expected_and_actual() {
    let broker = Running::development().await;
    broker.put("default/fraud-dataset/key", "secret").await;
    let document = |body: &str| {
        format!("version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\na = \"{body}\"\n")
    };
    let good = Guest::with_initdata(&document("good"));
    let expected = good.initdata.as_ref().unwrap().digest();
    let requirement = Requirement::for_resources("default/fraud-*/*")
        .unwrap()
        .initdata_digest(&expected);
    broker.set_policy(&requiring(&[requirement])).await;
    let (_, token) = broker.attest(&good).await;
    assert_eq!(
        good.decrypt(
            broker
                .get_with_token("default/fraud-dataset/key", &token)
                .await
        ),
        b"secret"
    );

    let tampered = Guest::with_initdata(&document("tampered"));
    let (_, token) = broker.attest(&tampered).await;
    let answer = broker
        .get_with_token("default/fraud-dataset/key", &token)
        .await;
    answer.refused(StatusCode::FORBIDDEN, "PolicyDeny");
    let reasons = broker.last_entry().await.record.reasons;
    assert_eq!(reasons.len(), 1);
    assert_eq!(reasons[0].claim, "submods.cpu0.init_data_digest");
    assert_eq!(reasons[0].expected, json!(hex::encode(expected)));
    assert_eq!(
        reasons[0].actual,
        json!(hex::encode(tampered.initdata.unwrap().digest()))
    );
}

#[tokio::test]
async fn policy_that_fails_at_its_work_denies() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let policy = "package policy\n\nimport rego.v1\n\nallow := true if input.submods\n\nallow := false if input.submods";
    broker.set_policy(policy).await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker
        .get_with_token("a/b/c", &token)
        .await
        .refused(StatusCode::FORBIDDEN, "PolicyDeny");
    assert!(broker.last_entry().await.record.detail.is_some());
}

#[tokio::test]
async fn bad_resource_names_are_refused() {
    let broker = Running::development().await;
    let (_, token) = broker.attest(&Guest::new()).await;
    for name in [
        "a",
        "a/b",
        "a/b/c/d",
        "a//c",
        "a/b/",
        "a/.b/c",
        "a/b/c%2fd",
        "a/b/%00",
        "a%2e/b/c",
        "a/b/c%20",
    ] {
        broker
            .get_with_token(name, &token)
            .await
            .refused(StatusCode::BAD_REQUEST, "InvalidRequestPath");
        let answer = broker
            .admin(Method::POST, &format!("/kbs/v0/resource/{name}"), "x")
            .await;
        answer.refused(StatusCode::BAD_REQUEST, "InvalidRequestPath");
    }
}

#[tokio::test]
async fn replaced_secret_is_the_one_released_and_deleted_secret_is_gone() {
    let broker = Running::development().await;
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    for secret in ["first", "second"] {
        broker.put("a/b/c", secret).await;
        assert_eq!(
            guest.decrypt(broker.get_with_token("a/b/c", &token).await),
            secret.as_bytes()
        );
    }
    broker
        .admin(Method::DELETE, "/kbs/v0/resource/a/b/c", "")
        .await
        .expect(StatusCode::OK);
    broker
        .get_with_token("a/b/c", &token)
        .await
        .refused(StatusCode::NOT_FOUND, "ResourceNotFound");
}

#[tokio::test]
async fn binary_and_large_secrets_come_back_as_they_were() {
    let broker = Running::development().await;
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    let secret: Vec<u8> = (0..1_000_000u32).map(|i| i.to_le_bytes()[0]).collect();
    broker
        .admin(Method::PUT, "/kbs/v0/resource/a/b/c", secret.clone())
        .await
        .expect(StatusCode::OK);
    assert_eq!(
        guest.decrypt(broker.get_with_token("a/b/c", &token).await),
        secret
    );
}

#[tokio::test]
async fn row_swapped_in_the_file_is_noticed_and_not_released() {
    let mut broker = Running::development().await;
    broker.put("a/b/public", "anyone may have this").await;
    broker.put("a/b/secret", "nobody may have this").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker.stop().await;
    let database = rusqlite::Connection::open(broker.store()).unwrap();
    database
        .execute_batch("DELETE FROM secret WHERE path = 'a/b/public'; UPDATE secret SET path = 'a/b/public' WHERE path = 'a/b/secret';")
        .unwrap();
    drop(database);
    let broker = broker.start_again();
    let answer = broker.get_with_token("a/b/public", &token).await;
    answer.refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    assert_eq!(broker.last_entry().await.record.outcome, Outcome::Failed);
}

#[tokio::test]
async fn secret_is_nowhere_in_the_brokers_folder() {
    let broker = Running::development().await;
    let secret = "plaintext-0123456789abcdef";
    broker.put("a/b/c", secret).await;
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    assert_eq!(
        guest.decrypt(broker.get_with_token("a/b/c", &token).await),
        secret.as_bytes()
    );
    for file in std::fs::read_dir(broker.folder.path().join("broker")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            !bytes.windows(16).any(|w| w == &secret.as_bytes()[..16]),
            "{path:?}"
        );
        assert!(
            !bytes.windows(32).any(|w| w == &token.as_bytes()[..32]),
            "{path:?}"
        );
    }
}
