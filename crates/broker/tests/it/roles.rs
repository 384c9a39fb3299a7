//! Who may what: each role at each route for admins, and admins that are added, revoked and raced.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, StatusCode};
use serde_json::json;
use strongroom_broker::audit::{Kind, Outcome};
use strongroom_wire::admin::{AUDIENCE, AdminClaims};

use crate::support::{Answer, Running};

/// A key pair and what it is known as.
struct Key {
    pair: rcgen::KeyPair,
    name: &'static str,
    role: &'static str,
}

impl Key {
    fn new(name: &'static str, role: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        Self { pair, name, role }
    }

    fn token(&self, broker: &Running) -> String {
        self.token_with(broker, &broker.token_id())
    }

    fn token_with(&self, broker: &Running, id: &str) -> String {
        let claims = AdminClaims {
            usage: None,
            sub: self.name.into(),
            role: self.role.into(),
            aud: AUDIENCE.into(),
            iat: broker.now(),
            exp: broker.now() + 60,
            jti: id.into(),
        };
        let key = EncodingKey::from_ed_pem(self.pair.serialize_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap()
    }

    async fn added(self, broker: &Running) -> Self {
        self.add(broker).await.expect(StatusCode::OK);
        self
    }

    async fn add(&self, broker: &Running) -> Answer {
        let body = json!({"role": self.role, "public_key": self.pair.public_key_pem()});
        let path = format!("/strongroom/v1/admin/{}", self.name);
        broker.admin(Method::PUT, &path, body.to_string()).await
    }

    async fn asks(&self, broker: &Running, method: Method, path: &str) -> Answer {
        ask(broker, &self.token(broker), method, path).await
    }
}

async fn ask(broker: &Running, token: &str, method: Method, path: &str) -> Answer {
    let request = broker.request(method, path).bearer_auth(token).body("x");
    Answer::of(request.send().await.unwrap()).await
}

/// Every route for admins, and which roles may besides `admin`: s(ecrets), p(olicy), a(uditor).
const ROUTES: [(Method, &str, &str); 30] = [
    (Method::POST, "/kbs/v0/resource/a/b/c", "s"),
    (Method::PUT, "/kbs/v0/resource/a/b/c", "s"),
    (Method::DELETE, "/kbs/v0/resource/a/b/d", "s"),
    (Method::GET, "/strongroom/v1/resource", "sa"),
    (Method::GET, "/strongroom/v1/resource/a/b/c", "sa"),
    (
        Method::POST,
        "/strongroom/v1/rollback/resource/a/b/c?version=1",
        "s",
    ),
    (Method::POST, "/kbs/v0/resource-policy", "p"),
    (Method::GET, "/kbs/v0/resource-policy", "pa"),
    (Method::POST, "/kbs/v0/attestation-policy", "p"),
    (Method::GET, "/strongroom/v1/policy", "pa"),
    (Method::GET, "/strongroom/v1/policy/resource-policy", "pa"),
    (Method::PUT, "/strongroom/v1/policy/resource-policy", "p"),
    (Method::DELETE, "/strongroom/v1/policy/resource-policy", "p"),
    (
        Method::POST,
        "/strongroom/v1/rollback/policy/resource-policy?version=0",
        "p",
    ),
    (Method::POST, "/strongroom/v1/rehearse", "p"),
    (Method::POST, "/kbs/v0/reference-value", "p"),
    (Method::GET, "/kbs/v0/reference-value", "pa"),
    (Method::GET, "/kbs/v0/reference-value/svn", "pa"),
    (Method::GET, "/strongroom/v1/reference-value/svn", "pa"),
    (Method::DELETE, "/strongroom/v1/reference-value/svn", "p"),
    (Method::GET, "/strongroom/v1/audit", "a"),
    (Method::HEAD, "/strongroom/v1/audit", "a"),
    (Method::GET, "/strongroom/v1/log/checkpoint", "a"),
    (Method::GET, "/strongroom/v1/explain/0000", "pa"),
    (Method::GET, "/strongroom/v1/admin", "a"),
    (Method::GET, "/strongroom/v1/admin/ann", "a"),
    (Method::PUT, "/strongroom/v1/admin/other", ""),
    (Method::DELETE, "/strongroom/v1/admin/other", ""),
    (Method::POST, "/strongroom/v1/storage-key/rotate", ""),
    (Method::HEAD, "/strongroom/v1/admin", "a"),
];

#[tokio::test]
async fn role_may_more_or_less_than_its_rows_say() {
    let broker = Running::strict().await;
    let keys = [
        Key::new("root", "admin").added(&broker).await,
        Key::new("sue", "secrets").added(&broker).await,
        Key::new("pat", "policy").added(&broker).await,
        Key::new("ann", "auditor").added(&broker).await,
    ];
    for (method, path, roles) in ROUTES {
        for key in &keys {
            let letter = key.role.chars().next().unwrap();
            let may = key.role == "admin"
                || roles.contains(if key.role == "auditor" { 'a' } else { letter });
            let answer = key.asks(&broker, method.clone(), path).await;
            let what = format!("{} {method} {path}", key.role);
            let forbidden = answer.status == StatusCode::FORBIDDEN;
            assert_eq!(!forbidden, may, "{what}: {}", answer.status);
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{what}");
            if forbidden && method != Method::HEAD {
                let said = answer.refused(StatusCode::FORBIDDEN, "AdminAuthAccess");
                assert!(
                    said.starts_with(&format!("the role {} may not ", key.role)),
                    "{said}"
                );
                let entry = broker.last_entry().await.record;
                assert_eq!((entry.kind, entry.outcome), (Kind::Admin, Outcome::Denied));
                assert_eq!(entry.admin.as_deref(), Some(key.name), "{what}");
                assert_eq!(entry.detail, Some(said));
            }
        }
    }
}

#[tokio::test]
async fn method_that_no_row_names_gets_through() {
    let broker = Running::strict().await;
    for (method, path) in [
        (Method::PATCH, "/strongroom/v1/policy/resource-policy"),
        (Method::POST, "/strongroom/v1/audit"),
        (Method::OPTIONS, "/strongroom/v1/admin"),
        (Method::DELETE, "/kbs/v0/resource-policy"),
        (Method::HEAD, "/kbs/v0/resource/a/b/c"),
    ] {
        let answer = broker.admin(method.clone(), path, "").await;
        assert_eq!(
            answer.status,
            StatusCode::METHOD_NOT_ALLOWED,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn added_admin_is_unknown_after_a_restart_and_revoked_one_is_back() {
    let broker = Running::strict().await;
    let ann = Key::new("ann", "auditor").added(&broker).await;
    let bob = Key::new("bob", "auditor").added(&broker).await;
    let entry = broker.last_entry().await.record;
    assert_eq!(
        (entry.action.as_str(), entry.version),
        ("add admin", Some(1))
    );
    let detail = entry.detail.unwrap();
    assert!(detail.starts_with("bob, role auditor, key "), "{detail}");
    let path = "/strongroom/v1/admin/bob";
    broker
        .admin(Method::DELETE, path, "")
        .await
        .expect(StatusCode::OK);
    let entry = broker.last_entry().await.record;
    assert_eq!(
        (entry.action.as_str(), entry.version),
        ("revoke admin", Some(2))
    );
    let audit = "/strongroom/v1/audit";
    let broker = broker.restart(|config| config).await;
    ann.asks(&broker, Method::GET, audit)
        .await
        .expect(StatusCode::OK);
    let refused = bob.asks(&broker, Method::GET, audit).await;
    refused.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
}

#[tokio::test]
async fn token_of_a_revoked_admin_is_taken_again_by_whoever_gets_the_name() {
    let broker = Running::strict().await;
    let ann = Key::new("ann", "auditor").added(&broker).await;
    let audit = "/strongroom/v1/audit";
    let (used, fresh) = (ann.token(&broker), ann.token(&broker));
    ask(&broker, &used, Method::GET, audit)
        .await
        .expect(StatusCode::OK);
    let path = "/strongroom/v1/admin/ann";
    broker
        .admin(Method::DELETE, path, "")
        .await
        .expect(StatusCode::OK);
    for token in [&used, &fresh] {
        let refused = ask(&broker, token, Method::GET, audit).await;
        refused.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    }
    // The same key again: what was used stays used.
    ann.add(&broker).await.expect(StatusCode::OK);
    let refused = ask(&broker, &used, Method::GET, audit).await;
    let said = refused.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    assert!(said.contains("used before"), "{said}");
    broker
        .admin(Method::DELETE, path, "")
        .await
        .expect(StatusCode::OK);
    // Another key: what the first signed is nothing.
    let other = Key::new("ann", "auditor").added(&broker).await;
    let refused = ask(&broker, &fresh, Method::GET, audit).await;
    refused.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    other
        .asks(&broker, Method::GET, audit)
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn token_used_before_a_restart_is_believed_again() {
    let broker = Running::strict().await;
    let token = broker.admin_token();
    let audit = "/strongroom/v1/audit";
    ask(&broker, &token, Method::GET, audit)
        .await
        .expect(StatusCode::OK);
    broker.pass(1);
    let broker = broker.restart(|config| config).await;
    let refused = ask(&broker, &token, Method::GET, audit).await;
    let said = refused.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    assert!(said.contains("before this broker started"), "{said}");
}

#[tokio::test]
async fn last_admin_is_revoked_or_one_by_two_at_once() {
    // The store's own admins, and none in the configuration.
    let broker = Running::strict().await;
    let one = Key::new("one", "admin").added(&broker).await;
    let two = Key::new("two", "admin").added(&broker).await;
    let ann = Key::new("ann", "auditor").added(&broker).await;
    let broker = broker
        .restart(|config| config.split("[[admin]]").next().unwrap().to_owned())
        .await;
    for _ in 0..10 {
        let (first, second) = tokio::join!(
            two.asks(&broker, Method::DELETE, "/strongroom/v1/admin/one"),
            one.asks(&broker, Method::DELETE, "/strongroom/v1/admin/two"),
        );
        let revoked = [&first, &second]
            .iter()
            .filter(|answer| answer.status == StatusCode::OK)
            .count();
        assert_eq!(revoked, 1, "{} {}", first.status, second.status);
        let (left, gone) = match first.status {
            StatusCode::OK => (&two, &one),
            _ => (&one, &two),
        };
        let path = format!("/strongroom/v1/admin/{}", left.name);
        let refused = left.asks(&broker, Method::DELETE, &path).await;
        let said = refused.refused(StatusCode::CONFLICT, "AdminError");
        assert!(said.contains("the last admin"), "{said}");
        let body = json!({"role": "admin", "public_key": gone.pair.public_key_pem()});
        let request = broker
            .request(Method::PUT, &format!("/strongroom/v1/admin/{}", gone.name))
            .bearer_auth(left.token(&broker))
            .body(body.to_string());
        let answer = Answer::of(request.send().await.unwrap()).await;
        answer.expect(StatusCode::OK);
    }
    // Others than admins may all go.
    let path = format!("/strongroom/v1/admin/{}", ann.name);
    one.asks(&broker, Method::DELETE, &path)
        .await
        .expect(StatusCode::OK);
}

#[tokio::test]
async fn name_or_key_that_is_of_no_use_is_added() {
    let broker = Running::strict().await;
    let pem = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap();
    let good = pem(&rcgen::PKCS_ECDSA_P256_SHA256).public_key_pem();
    let p384 = pem(&rcgen::PKCS_ECDSA_P384_SHA384).public_key_pem();
    let private = pem(&rcgen::PKCS_ED25519).serialize_pem();
    let add = async |name: &str, role: &str, key: &str| {
        let body = json!({"role": role, "public_key": key}).to_string();
        let path = format!("/strongroom/v1/admin/{name}");
        broker.admin(Method::PUT, &path, body).await
    };
    for (name, role, key, kind) in [
        ("a%20b", "admin", &good, "AdminError"),
        ("%00", "admin", &good, "AdminError"),
        (&*"a".repeat(65), "admin", &good, "AdminError"),
        ("ann", "root", &good, "SerdeError"),
        ("ann", "admin", &p384, "AdminError"),
        ("ann", "admin", &private, "AdminError"),
    ] {
        let refused = add(name, role, key).await;
        refused.refused(StatusCode::BAD_REQUEST, kind);
    }
    let said = add("admin", "admin", &good).await;
    let said = said.refused(StatusCode::CONFLICT, "AdminError");
    assert!(
        said.contains("the configuration names this admin"),
        "{said}"
    );
    let refused = broker
        .admin(Method::DELETE, "/strongroom/v1/admin/admin", "")
        .await;
    refused.refused(StatusCode::CONFLICT, "AdminError");
    let refused = broker
        .admin(Method::DELETE, "/strongroom/v1/admin/ann", "")
        .await;
    refused.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    add("ann", "secrets", &good).await.expect(StatusCode::OK);
    add("ann", "secrets", &good)
        .await
        .refused(StatusCode::CONFLICT, "AdminError");
}

#[tokio::test]
async fn broker_starts_with_two_admins_of_one_name() {
    let mut broker = Running::strict().await;
    let ann = Key::new("ann", "auditor").added(&broker).await;
    broker.stop().await;
    let more = format!(
        "\n[[admin]]\nname = \"ann\"\npublic_key = {:?}\n",
        ann.pair.public_key_pem()
    );
    let text = std::fs::read_to_string(&broker.summary.config).unwrap() + &more;
    std::fs::write(&broker.summary.config, text).unwrap();
    let config = strongroom_broker::Config::load(&broker.summary.config).unwrap();
    let said = strongroom_broker::Broker::open(config)
        .err()
        .unwrap()
        .to_string();
    assert!(
        said.contains("\"ann\" is in the configuration and in the store"),
        "{said}"
    );
}

#[tokio::test]
async fn reload_takes_a_name_that_the_store_has_or_forgets_the_stores_admins() {
    let broker = Running::strict().await;
    let root = Key::new("root", "admin").added(&broker).await;
    let load = |text: String| {
        std::fs::write(&broker.summary.config, text).unwrap();
        strongroom_broker::Config::load(&broker.summary.config).unwrap()
    };
    let text = std::fs::read_to_string(&broker.summary.config).unwrap();
    let more = format!(
        "{text}\n[[admin]]\nname = \"root\"\npublic_key = {:?}\n",
        root.pair.public_key_pem()
    );
    let said = broker.handle.reload(load(more)).unwrap_err().to_string();
    assert!(
        said.contains("in the configuration and in the store"),
        "{said}"
    );
    let itself = "/strongroom/v1/admin/root";
    // With the configuration's admin gone, the store's is the last.
    let without = text.split("[[admin]]").next().unwrap().to_owned();
    broker.handle.reload(load(without)).unwrap();
    let gone = broker.admin(Method::GET, "/strongroom/v1/admin", "").await;
    gone.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    let refused = root.asks(&broker, Method::DELETE, itself).await;
    refused.refused(StatusCode::CONFLICT, "AdminError");
    broker.handle.reload(load(text)).unwrap();
    let revoked = root.asks(&broker, Method::DELETE, itself).await;
    revoked.expect(StatusCode::OK);
}
