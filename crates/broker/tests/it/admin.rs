//! The admin's side: closed until init, closed to everyone else, and what it answers.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use strongroom_broker::audit::{Kind, Outcome};
use strongroom_wire::admin::{AUDIENCE, AdminClaims};

use crate::support::{Answer, Guest, Running};

/// Every route that only admins may use.
const ROUTES: [(Method, &str); 11] = [
    (Method::POST, "/kbs/v0/resource/a/b/c"),
    (Method::PUT, "/kbs/v0/resource/a/b/c"),
    (Method::DELETE, "/kbs/v0/resource/a/b/c"),
    (Method::POST, "/kbs/v0/resource-policy"),
    (Method::GET, "/kbs/v0/resource-policy"),
    (Method::POST, "/kbs/v0/attestation-policy"),
    (Method::POST, "/kbs/v0/reference-value"),
    (Method::GET, "/kbs/v0/reference-value"),
    (Method::GET, "/kbs/v0/reference-value/launch_digest"),
    (Method::GET, "/strongroom/v1/audit"),
    (Method::GET, "/strongroom/v1/resource"),
];

async fn knock(broker: &Running, method: Method, path: &str, token: Option<&str>) -> Answer {
    let mut request = broker.request(method, path).body("x");
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    Answer::of(request.send().await.unwrap()).await
}

fn claims(broker: &Running) -> AdminClaims {
    AdminClaims {
        usage: None,
        sub: "admin".into(),
        role: "admin".into(),
        aud: AUDIENCE.into(),
        iat: broker.now(),
        exp: broker.now() + 60,
        jti: "1".into(),
    }
}

#[tokio::test]
async fn every_admin_route_is_closed_to_everyone_else() {
    let broker = Running::development().await;
    let (_, guest) = broker.attest(&Guest::new()).await;
    for (method, path) in ROUTES {
        for token in [None, Some("x"), Some(guest.as_str())] {
            // Strangers get one entry a second and action.
            broker.pass(1);
            let answer = knock(&broker, method.clone(), path, token).await;
            answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
        }
    }
    let refused = broker.audit().await;
    let refused = refused
        .iter()
        .filter(|e| e.record.kind == Kind::Admin && e.record.outcome == Outcome::Denied);
    assert_eq!(refused.count(), ROUTES.len() * 3);
}

#[tokio::test]
async fn replayed_admin_token_is_refused() {
    let broker = Running::strict().await;
    let token = broker.admin_token();
    let path = "/kbs/v0/resource/a/b/c";
    knock(&broker, Method::POST, path, Some(&token))
        .await
        .expect(StatusCode::OK);
    for (method, path) in [
        (Method::DELETE, path),
        (Method::GET, "/strongroom/v1/audit"),
    ] {
        let answer = knock(&broker, method, path, Some(&token)).await;
        let detail = answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
        assert!(detail.contains("used before"), "{detail}");
    }
}

#[tokio::test]
async fn release_policy_text_is_for_admins_alone() {
    let broker = Running::strict().await;
    let answer = knock(
        &broker,
        Method::GET,
        "/strongroom/v1/policy/resource-policy",
        None,
    )
    .await;
    answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
}

#[tokio::test]
async fn broker_without_an_admin_is_closed() {
    let broker =
        Running::start(|config| config.split("[[admin]]").next().unwrap().to_owned()).await;
    let token = broker.admin_token();
    for (method, path) in ROUTES {
        let answer = knock(&broker, method, path, Some(&token)).await;
        let detail = answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
        assert!(detail.contains("broker init"), "{detail}");
    }
}

#[tokio::test]
async fn admin_key_of_another_broker_is_refused() {
    let (ours, theirs) = (Running::strict().await, Running::strict().await);
    let answer = knock(
        &ours,
        Method::GET,
        "/strongroom/v1/audit",
        Some(&theirs.admin_token()),
    )
    .await;
    answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
}

#[tokio::test]
async fn admin_token_that_is_old_long_lived_or_for_something_else_is_refused() {
    let broker = Running::strict().await;
    let change: [fn(&mut AdminClaims); 6] = [
        |c| (c.iat, c.exp) = (c.iat - 100, c.iat),
        |c| c.exp += 100_000,
        |c| c.iat += 1_000,
        |c| c.aud = "kbs".into(),
        |c| c.role = "auditor".into(),
        |c| c.sub = "root".into(),
    ];
    for change in change {
        let mut claims = claims(&broker);
        change(&mut claims);
        let answer = knock(
            &broker,
            Method::GET,
            "/strongroom/v1/audit",
            Some(&broker.sign(&claims)),
        )
        .await;
        answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    }
    broker
        .admin(Method::GET, "/strongroom/v1/audit", "")
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn writes_answer_as_upstream_does() {
    let broker = Running::strict().await;
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let answer = broker
            .admin(method, "/kbs/v0/resource/a/b/c", "secret")
            .await
            .expect(StatusCode::OK);
        assert_eq!(answer.content_type.as_deref(), Some("text/xml"));
        assert!(answer.body.is_empty());
    }
    let body =
        json!({"policy": URL_SAFE_NO_PAD.encode("package policy\n\nallow := false")}).to_string();
    let answer = broker
        .admin(Method::POST, "/kbs/v0/resource-policy", body)
        .await
        .expect(StatusCode::OK);
    assert!(answer.body.is_empty());
    let answer = broker
        .admin(Method::GET, "/kbs/v0/resource-policy", "")
        .await
        .expect(StatusCode::OK);
    assert_eq!(answer.json(), json!(["resource-policy"]));
}

#[tokio::test]
async fn deleting_what_is_not_there_is_404_and_recorded() {
    let broker = Running::strict().await;
    let answer = broker
        .admin(Method::DELETE, "/kbs/v0/resource/a/b/c", "")
        .await;
    answer.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    let entry = broker.last_entry().await;
    assert_eq!(
        (entry.record.outcome, entry.record.resource.as_deref()),
        (Outcome::Missing, Some("a/b/c"))
    );
}

#[tokio::test]
async fn empty_resource_is_refused() {
    let broker = Running::strict().await;
    let answer = broker
        .admin(Method::POST, "/kbs/v0/resource/a/b/c", "")
        .await;
    answer.refused(StatusCode::BAD_REQUEST, "EmptyResource");
}

#[tokio::test]
async fn resources_are_listed_without_contents() {
    let broker = Running::strict().await;
    broker.put("b/b/b", "second").await;
    broker.put("a/a/a", "first").await;
    broker.put("a/a/a", "first again").await;
    let mut list = broker
        .admin(Method::GET, "/strongroom/v1/resource", "")
        .await
        .expect(StatusCode::OK)
        .json();
    for resource in list.as_array_mut().unwrap() {
        let digest = resource.as_object_mut().unwrap().remove("digest").unwrap();
        assert_eq!(digest.as_str().unwrap().len(), 64);
    }
    let stored_at = crate::support::START;
    assert_eq!(
        list,
        json!([
            {"path": "a/a/a", "version": 2, "size": 11, "stored_at": stored_at, "stored_by": "admin", "source": "store"},
            {"path": "b/b/b", "version": 1, "size": 6, "stored_at": stored_at, "stored_by": "admin", "source": "store"},
        ])
    );
}

#[tokio::test]
async fn policy_that_does_not_parse_is_refused_with_its_place_and_the_old_one_stays() {
    let broker = Running::strict().await;
    let before = broker
        .admin(Method::GET, "/strongroom/v1/policy/resource-policy", "")
        .await
        .body;
    let post =
        async |path: &str, body: Value| broker.admin(Method::POST, path, body.to_string()).await;
    let bad = URL_SAFE_NO_PAD.encode("package policy\n\nallow := if {");
    let detail = post("/kbs/v0/resource-policy", json!({"policy": bad}))
        .await
        .refused(StatusCode::BAD_REQUEST, "ParsePolicyError");
    assert!(detail.contains("line 3"), "{detail}");
    let body = json!({"policy_id": "default_cpu", "type": "rego", "policy": bad});
    let detail = post("/kbs/v0/attestation-policy", body)
        .await
        .refused(StatusCode::BAD_REQUEST, "ParsePolicyError");
    assert!(detail.contains("line 3"), "{detail}");
    post("/kbs/v0/resource-policy", json!({"policy": "no base64!"}))
        .await
        .refused(StatusCode::BAD_REQUEST, "SerdeError");
    post("/kbs/v0/resource-policy", json!({}))
        .await
        .refused(StatusCode::BAD_REQUEST, "SerdeError");
    assert_eq!(
        broker
            .admin(Method::GET, "/strongroom/v1/policy/resource-policy", "")
            .await
            .body,
        before
    );
}

#[tokio::test]
async fn attestation_policy_that_no_platform_would_use_is_refused() {
    let broker = Running::strict().await;
    let policy = URL_SAFE_NO_PAD.encode("package policy\n\ntrust_claims := {}");
    let body = json!({"policy_id": "default", "policy": policy}).to_string();
    let answer = broker
        .admin(Method::POST, "/kbs/v0/attestation-policy", body)
        .await;
    assert!(
        answer
            .refused(StatusCode::BAD_REQUEST, "ParsePolicyError")
            .contains("default_cpu")
    );
}

#[tokio::test]
async fn attestation_policy_grades_from_when_it_is_set() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let guest = Guest::new();
    let policy = URL_SAFE_NO_PAD.encode("package policy\n\ntrust_claims := {\"hardware\": 97}");
    let body = json!({"policy_id": "default_cpu", "type": "rego", "policy": policy}).to_string();
    broker
        .admin(Method::POST, "/kbs/v0/attestation-policy", body)
        .await
        .expect(StatusCode::OK);
    let (_, token) = broker.attest(&guest).await;
    broker
        .get_with_token("a/b/c", &token)
        .await
        .refused(StatusCode::FORBIDDEN, "PolicyDeny");
}

#[tokio::test]
async fn reference_values_are_read_back_until_they_expire() {
    let broker = Running::strict().await;
    let get = async |id: &str| {
        broker
            .admin(Method::GET, &format!("/kbs/v0/reference-value/{id}"), "")
            .await
    };
    get("svn")
        .await
        .refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    let payload = STANDARD.encode(json!({"svn": ["1", 2], "a/b": true}).to_string());
    let body = json!({"version": "0.1.0", "type": "sample", "payload": payload}).to_string();
    let answer = broker
        .admin(Method::POST, "/kbs/v0/reference-value", body)
        .await
        .expect(StatusCode::OK);
    assert_eq!(
        (answer.content_type.as_deref(), answer.body.len()),
        (Some("application/json"), 0)
    );
    assert_eq!(
        get("svn").await.expect(StatusCode::OK).json(),
        json!(["1", 2])
    );
    assert_eq!(get("a/b").await.expect(StatusCode::OK).json(), json!(true));
    let list = async || {
        let answer = broker
            .admin(Method::GET, "/kbs/v0/reference-value", "")
            .await;
        answer.expect(StatusCode::OK).json()
    };
    let listed = list().await;
    assert_eq!(
        (&listed[0]["name"], &listed[0]["value"], &listed[1]["name"]),
        (&json!("a/b"), &json!(true), &json!("svn"))
    );
    assert_eq!(
        listed[1]["expires"],
        json!(broker.now() + 365 * 24 * 60 * 60)
    );
    broker.pass(365 * 24 * 60 * 60);
    get("svn")
        .await
        .refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    // What ended is still listed: an admin wants to see why a machine is no longer affirmed.
    assert_eq!(list().await, listed);
}

#[tokio::test]
async fn reference_values_of_an_unknown_type_are_refused() {
    let broker = Running::strict().await;
    let body = json!({"version": "0.1.0", "type": "in-toto", "payload": ""}).to_string();
    let answer = broker
        .admin(Method::POST, "/kbs/v0/reference-value", body)
        .await;
    assert!(
        answer
            .refused(StatusCode::BAD_REQUEST, "RvpsError")
            .contains("in-toto")
    );
}

/// A message with the values, and its signature when there is a key.
fn reference_values(values: Value, expires: u64, key: Option<&rcgen::KeyPair>) -> Value {
    use rcgen::{PublicKeyData as _, SigningKey as _};
    let mut message = json!({
        "version": "0.1.0",
        "type": "sample",
        "payload": STANDARD.encode(values.to_string()),
        "expires": expires,
    });
    let Some(key) = key else { return message };
    let spki =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
    let signed = strongroom_wire::canonical::to_jcs(&message).unwrap();
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#);
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(signed));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(input.as_bytes()).unwrap());
    message["signature"] =
        json!({"kid": hex::encode(spki), "jws": format!("{header}..{signature}")});
    message
}

#[tokio::test]
async fn only_signed_reference_values_are_taken_where_there_are_signers() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let broker = Running::strict().await;
    let register = async |broker: &Running, message: Value| {
        let body = message.to_string();
        broker
            .admin(Method::POST, "/kbs/v0/reference-value", body)
            .await
    };
    let end = broker.now() + 1_000;
    register(&broker, reference_values(json!({"svn": [1]}), end, None))
        .await
        .expect(StatusCode::OK);

    std::fs::write(
        broker.summary.config.with_file_name("signer.pem"),
        key.public_key_pem(),
    )
    .unwrap();
    let broker = broker
        .restart(|config| format!("{config}\n[reference_values]\nsigners = [\"signer.pem\"]\n"))
        .await;
    for (message, reason) in [
        (
            reference_values(json!({"svn": [2]}), end, None),
            "not signed",
        ),
        (
            reference_values(json!({"svn": [2]}), end, Some(&other)),
            "no signer here",
        ),
        (
            reference_values(json!({"svn": [2]}), broker.now(), Some(&key)),
            "expired",
        ),
    ] {
        let refused = register(&broker, message).await;
        let detail = refused.refused(StatusCode::BAD_REQUEST, "RvpsError");
        assert!(detail.contains(reason), "{detail}");
    }
    let mut changed = reference_values(json!({"svn": [2]}), end, Some(&key));
    changed["expires"] = json!(end + 1);
    register(&broker, changed)
        .await
        .refused(StatusCode::BAD_REQUEST, "RvpsError");
    let get = async || {
        broker
            .admin(Method::GET, "/kbs/v0/reference-value/svn", "")
            .await
    };
    // Nor is what was taken before anybody had to sign, or what a key signed that is no signer's any more.
    get()
        .await
        .refused(StatusCode::NOT_FOUND, "ResourceNotFound");

    register(
        &broker,
        reference_values(json!({"svn": [3]}), end, Some(&key)),
    )
    .await
    .expect(StatusCode::OK);
    assert_eq!(get().await.expect(StatusCode::OK).json(), json!([3]));
    let broker = broker.restart(|config| config).await;
    let get = async || {
        broker
            .admin(Method::GET, "/kbs/v0/reference-value/svn", "")
            .await
    };
    assert_eq!(get().await.expect(StatusCode::OK).json(), json!([3]));
    broker.pass(1_000);
    get()
        .await
        .refused(StatusCode::NOT_FOUND, "ResourceNotFound");
}
