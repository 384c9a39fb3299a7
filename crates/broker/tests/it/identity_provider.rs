//! Admins of an identity provider: what its keys sign is believed, and nothing that only looks so; and an issuer that
//! rotates keys, is slow, cut, too long, down.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::replay::{Replay, Reply};
use crate::support::{Answer, Running};

const ISSUER: &str = "https://login.example/realm";
const KEYS: &str = "/keys";
const AUDIT: &str = "/strongroom/v1/audit";

/// A key of the issuer.
struct Key {
    id: &'static str,
    pair: rcgen::KeyPair,
    algorithm: Algorithm,
}

impl Key {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::EdDSA => rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Algorithm::ES256 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            _ => rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
        };
        Self {
            id,
            pair: pair.unwrap(),
            algorithm,
        }
    }

    fn jwk(&self) -> Value {
        let raw = rcgen::PublicKeyData::der_bytes(&self.pair);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self.algorithm {
            Algorithm::EdDSA => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": encode(raw)})
            }
            Algorithm::ES256 => {
                let (x, y) = raw[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": self.id, "x": encode(x), "y": encode(y)})
            }
            // SEQUENCE, INTEGER of 257 bytes whose first is zero, INTEGER 65537.
            _ => {
                let n = &raw[9..9 + 256];
                json!({"kty": "RSA", "kid": self.id, "use": "sig", "n": encode(n), "e": "AQAB"})
            }
        }
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(self.algorithm, claims)
    }

    fn sign_as(&self, algorithm: Algorithm, claims: &Value) -> String {
        let pem = self.pair.serialize_pem();
        let key = match self.algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        let mut header = Header::new(algorithm);
        header.kid = Some(self.id.to_owned());
        jsonwebtoken::encode(&header, claims, &key.unwrap()).unwrap()
    }
}

fn published(keys: &[&Key]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// A broker beside an issuer that publishes one key.
struct Bench {
    issuer: Replay,
    key: Key,
    broker: Running,
}

impl Bench {
    async fn new(more: &str) -> Self {
        Self::with(Key::new("one", Algorithm::ES256), more).await
    }

    async fn with(key: Key, more: &str) -> Self {
        let issuer = Replay::start().await;
        issuer.answers(KEYS, [Reply::ok(published(&[&key]))]);
        let url = format!("jwks_url = \"{}{KEYS}\"", issuer.url);
        let broker = Running::start(|config| config + &settings(ISSUER, &format!("{url}\n{more}")));
        Self {
            broker: broker.await,
            issuer,
            key,
        }
    }

    fn claims(&self) -> Value {
        claims(&self.broker)
    }

    async fn reads(&self, token: &str) -> Answer {
        reads(&self.broker, token).await
    }

    #[track_caller]
    fn asked(&self, times: usize) {
        assert_eq!(self.issuer.heads(KEYS).len(), times);
    }
}

fn settings(issuer: &str, more: &str) -> String {
    format!(
        "\n[[identity_provider]]\nissuer = \"{issuer}\"\naudience = \"strongroom\"\ntimeout_seconds = 1\n\
         roles = {{ readers = \"auditor\", owners = \"admin\" }}\n{more}\n"
    )
}

fn claims(broker: &Running) -> Value {
    json!({
        "iss": ISSUER, "aud": "strongroom", "sub": "ann", "role": "readers",
        "iat": broker.now(), "exp": broker.now() + 300,
    })
}

async fn reads(broker: &Running, token: &str) -> Answer {
    let request = broker.request(Method::GET, AUDIT).bearer_auth(token);
    Answer::of(request.send().await.unwrap()).await
}

#[track_caller]
fn refused(answer: Answer, reason: &str) {
    let said = answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    assert!(said.contains(reason), "{reason}: {said}");
}

#[tokio::test]
async fn token_of_an_issuer_is_refused_or_believed_once() {
    for algorithm in [
        Algorithm::ES256,
        Algorithm::EdDSA,
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::PS256,
    ] {
        let bench = Bench::with(Key::new("one", algorithm), "").await;
        let token = bench.key.sign(&bench.claims());
        for _ in 0..2 {
            bench.reads(&token).await.expect(StatusCode::OK);
        }
        bench.asked(1);
    }
}

#[tokio::test]
async fn role_of_the_issuer_is_more_than_its_table_says() {
    let bench = Bench::new("").await;
    let mut claims = bench.claims();
    let put = async |claims: &Value| {
        let request = bench
            .broker
            .request(Method::POST, "/kbs/v0/resource/a/b/c")
            .bearer_auth(bench.key.sign(claims))
            .body("x");
        Answer::of(request.send().await.unwrap()).await
    };
    for value in [
        json!("readers"),
        json!("admin"),
        json!("nobody"),
        json!(["readers", "others"]),
        json!({"owners": true}),
        json!("Owners"),
        Value::Null,
    ] {
        claims["role"] = value;
        put(&claims)
            .await
            .refused(StatusCode::FORBIDDEN, "AdminAuthAccess");
    }
    let entry = bench.broker.last_entry().await.record;
    assert_eq!(entry.admin, Some(format!("ann ({ISSUER})")));
    assert_eq!(
        entry.detail.as_deref(),
        Some("who has no role here may not put resource: it is for secrets, admin")
    );
    claims["role"] = json!(["readers", "owners"]);
    put(&claims).await.expect(StatusCode::OK);
    let entry = bench.broker.last_entry().await.record;
    assert_eq!(entry.admin, Some(format!("ann ({ISSUER})")));
}

#[tokio::test]
async fn role_claim_or_subject_claim_is_not_where_it_is_told_to_be() {
    let more = "role_claim = \"/realm_access/roles\"\nsubject_claim = \"email\"";
    let bench = Bench::new(more).await;
    let mut claims = bench.claims();
    claims["realm_access"] = json!({"roles": ["x", "owners"]});
    refused(bench.reads(&bench.key.sign(&claims)).await, "lacks one of");
    claims["email"] = json!("ann@example");
    let request = bench
        .broker
        .request(Method::POST, "/kbs/v0/resource/a/b/c")
        .bearer_auth(bench.key.sign(&claims))
        .body("x");
    Answer::of(request.send().await.unwrap())
        .await
        .expect(StatusCode::OK);
    let entry = bench.broker.last_entry().await.record;
    assert_eq!(entry.admin, Some(format!("ann@example ({ISSUER})")));
}

#[tokio::test]
async fn claims_that_are_wrong_in_one_way_are_believed() {
    let bench = Bench::new("").await;
    let now = bench.broker.now();
    for (member, value, reason) in [
        ("exp", json!(now), "has expired"),
        ("exp", json!(now - 1), "has expired"),
        ("exp", Value::Null, "lacks one of"),
        ("exp", json!("never"), "lacks one of"),
        ("exp", json!(-1), "lacks one of"),
        ("exp", json!(now + 3_601), "max_lifetime_seconds"),
        ("exp", json!(1e300), "max_lifetime_seconds"),
        ("iat", json!(now + 61), "in the future"),
        ("iat", json!(now - 3_301), "max_lifetime_seconds"),
        ("iat", Value::Null, "lacks one of"),
        ("nbf", json!(now + 61), "in the future"),
        ("nbf", json!("soon"), "lacks one of"),
        ("aud", json!("other"), "another audience"),
        ("aud", json!(["other", "strongroom2"]), "another audience"),
        ("aud", Value::Null, "lacks one of"),
        ("sub", Value::Null, "lacks one of"),
        ("sub", json!(""), "lacks one of"),
        ("sub", json!("a\nb"), "lacks one of"),
        ("sub", json!("a".repeat(201)), "lacks one of"),
        // Another issuer's tokens are nobody's.
        ("iss", json!(format!("{ISSUER}/")), "malformed"),
        ("iss", json!("https://login.example"), "malformed"),
    ] {
        let mut claims = bench.claims();
        claims[member] = value;
        refused(bench.reads(&bench.key.sign(&claims)).await, reason);
    }
    for (member, value) in [
        ("aud", json!(["other", "strongroom"])),
        ("nbf", json!(now + 60)),
        ("iat", json!(now + 60)),
        ("exp", json!(now as f64 + 100.5)),
    ] {
        let mut claims = bench.claims();
        claims[member] = value;
        let answer = bench.reads(&bench.key.sign(&claims)).await;
        answer.expect(StatusCode::OK);
    }
    let token = bench.key.sign(&bench.claims());
    bench.broker.pass(300);
    refused(bench.reads(&token).await, "has expired");
}

fn forged(header: &Value, claims: &Value, signature: &str) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", encode(header), encode(claims))
}

#[tokio::test]
async fn token_without_the_issuers_signature_is_believed() {
    let bench = Bench::with(Key::new("one", Algorithm::RS256), "").await;
    let claims = bench.claims();
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "None", "kid": "one"}),
        json!({"alg": "", "kid": "one"}),
        json!({"kid": "one"}),
    ] {
        for signature in ["", "AAAA"] {
            let token = forged(&header, &claims, signature);
            refused(bench.reads(&token).await, "algorithm");
        }
    }
    // The public key, in every form that it has, as the secret of an HMAC.
    let jwk = bench.key.jwk();
    let n = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
    for secret in [
        bench.key.pair.public_key_pem().into_bytes(),
        rcgen::PublicKeyData::der_bytes(&bench.key.pair).to_vec(),
        rcgen::PublicKeyData::subject_public_key_info(&bench.key.pair),
        jwk.to_string().into_bytes(),
        n,
    ] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let mut header = Header::new(algorithm);
            header.kid = Some("one".to_owned());
            let key = EncodingKey::from_secret(&secret);
            let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
            refused(bench.reads(&token).await, "algorithm");
        }
    }
    // Another key of the same name; and an algorithm of the key's type that is not taken.
    let other = Key::new("one", Algorithm::RS256);
    refused(bench.reads(&other.sign(&claims)).await, "not signed by");
    let token = bench.key.sign_as(Algorithm::RS512, &claims);
    refused(bench.reads(&token).await, "algorithm");
    let elliptic = Key::new("one", Algorithm::ES256);
    refused(bench.reads(&elliptic.sign(&claims)).await, "algorithm");
    // What was changed after signing.
    let token = bench.key.sign(&claims);
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut more = claims.clone();
    more["role"] = json!("owners");
    parts[1] = URL_SAFE_NO_PAD.encode(more.to_string());
    refused(bench.reads(&parts.join(".")).await, "not signed by");
    bench.reads(&token).await.expect(StatusCode::OK);
    bench.asked(1);
}

#[tokio::test]
async fn head_brings_or_points_to_a_key_of_its_own() {
    let bench = Bench::new("").await;
    let evil = Replay::start().await;
    let own = Key::new("one", Algorithm::ES256);
    evil.answers_otherwise(Reply::ok(published(&[&own])));
    let signed = own.sign(&bench.claims());
    let pem = own.pair.serialize_pem();
    let key = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
    for (member, value) in [
        ("jku", json!(evil.url)),
        ("x5u", json!(evil.url)),
        ("jwk", own.jwk()),
        ("x5c", json!(["AAAA"])),
        ("kid", json!(format!("{}/keys", evil.url))),
        ("kid", json!("../../../../dev/null")),
        ("kid", json!("one' OR '1'='1")),
        ("crit", json!(["exp"])),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "one"});
        header[member] = value;
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(&header), encode(&bench.claims()));
        let signature = jsonwebtoken::crypto::sign(input.as_bytes(), &key, Algorithm::ES256);
        let token = format!("{input}.{}", signature.unwrap());
        let answer = bench.reads(&token).await;
        answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
    }
    refused(bench.reads(&signed).await, "not signed by");
    assert_eq!(evil.count(), 0);
}

#[tokio::test]
async fn token_that_is_for_one_use_is_believed_twice() {
    let bench = Bench::new("single_use = true").await;
    let mut claims = bench.claims();
    refused(bench.reads(&bench.key.sign(&claims)).await, "lacks one of");
    claims["jti"] = json!("1");
    let token = bench.key.sign(&claims);
    bench.reads(&token).await.expect(StatusCode::OK);
    refused(bench.reads(&token).await, "used before");
    claims["jti"] = json!("2");
    let answer = bench.reads(&bench.key.sign(&claims)).await;
    answer.expect(StatusCode::OK);
}

#[tokio::test]
async fn rotated_key_needs_a_restart_or_unknown_ones_flood_the_issuer() {
    let bench = Bench::new("").await;
    let next = Key::new("two", Algorithm::EdDSA);
    let claims = bench.claims();
    let (old, new) = (bench.key.sign(&claims), next.sign(&claims));
    bench.reads(&old).await.expect(StatusCode::OK);
    bench.asked(1);
    bench
        .issuer
        .answers(KEYS, [Reply::ok(published(&[&bench.key, &next]))]);
    // The keys were fetched just now.
    for _ in 0..5 {
        refused(bench.reads(&new).await, "does not publish");
    }
    bench.asked(1);
    bench.broker.pass(30);
    bench.reads(&new).await.expect(StatusCode::OK);
    bench.reads(&old).await.expect(StatusCode::OK);
    bench.asked(2);
    // The old one is withdrawn: it goes with the next refresh, beside which nobody waits.
    bench.issuer.answers(KEYS, [Reply::ok(published(&[&next]))]);
    bench.broker.pass(200);
    let claims = self::claims(&bench.broker);
    let (old, new) = (bench.key.sign(&claims), next.sign(&claims));
    bench.reads(&old).await.expect(StatusCode::OK);
    bench.asked(2);
    bench.broker.pass(400);
    let claims = self::claims(&bench.broker);
    let fresh_old = bench.key.sign(&claims);
    bench
        .reads(&next.sign(&claims))
        .await
        .expect(StatusCode::OK);
    bench.issuer.until(KEYS, 3).await;
    // The answer is on its way when the issuer was asked.
    while bench.reads(&fresh_old).await.status == StatusCode::OK {
        tokio::task::yield_now().await;
    }
    refused(bench.reads(&old).await, "does not publish");
    refused(bench.reads(&new).await, "has expired");
}

#[tokio::test]
async fn issuer_that_fails_is_believed_or_keeps_out_who_is_known() {
    let bench = Bench::new("").await;
    let unavailable = |answer: Answer| {
        answer.refused(StatusCode::SERVICE_UNAVAILABLE, "AdminAuthAccess");
    };
    let good = published(&[&bench.key]);
    let failures = || {
        [
            Reply::status(500),
            Reply::status(302).with("location", "http://127.0.0.1:1/"),
            Reply::Silent,
            Reply::Cut(b"{\"keys\":".to_vec()),
            Reply::Announced(1 << 30),
            Reply::Endless,
            Reply::ok("<html>"),
            Reply::ok("{\"keys\":[]}"),
            Reply::ok(format!("{good}{}", " ".repeat(300 * 1024))),
        ]
    };
    for failure in failures() {
        bench.issuer.answers(KEYS, [failure]);
        let token = bench.key.sign(&claims(&bench.broker));
        let before = bench.issuer.count();
        unavailable(bench.reads(&token).await);
        // It is not asked again at once.
        unavailable(bench.reads(&token).await);
        assert_eq!(bench.issuer.count(), before + 1);
        bench.broker.pass(30);
    }
    bench.issuer.answers(KEYS, [Reply::ok(good.clone())]);
    let token = bench.key.sign(&claims(&bench.broker));
    bench.reads(&token).await.expect(StatusCode::OK);
    // From now on it may fail as it likes.
    for failure in failures() {
        bench.issuer.answers(KEYS, [failure]);
        bench.broker.pass(600);
        let before = bench.issuer.heads(KEYS).len();
        let token = bench.key.sign(&claims(&bench.broker));
        bench.reads(&token).await.expect(StatusCode::OK);
        bench.issuer.until(KEYS, before + 1).await;
        bench.reads(&token).await.expect(StatusCode::OK);
    }
}

#[tokio::test]
async fn slow_issuer_holds_up_guests_or_key_admins() {
    let bench = Bench::new("").await;
    bench.issuer.hold();
    let token = bench.key.sign(&bench.claims());
    let waiting = bench.reads(&token);
    let others = async {
        bench.issuer.until(KEYS, 1).await;
        for _ in 0..20 {
            bench.broker.auth().await;
            let answer = bench.broker.admin(Method::GET, AUDIT, "").await;
            answer.expect(StatusCode::OK);
        }
        bench.issuer.release();
    };
    let (answer, ()) = tokio::join!(waiting, others);
    answer.expect(StatusCode::OK);
    bench.asked(1);
}

#[tokio::test]
async fn discovery_leads_to_another_issuer_or_out_of_tls() {
    let issuer = Replay::start().await;
    let key = Key::new("one", Algorithm::EdDSA);
    issuer.answers(KEYS, [Reply::ok(published(&[&key]))]);
    let place = "/.well-known/openid-configuration";
    let name = issuer.url.clone();
    let broker = Running::start(|config| config + &settings(&name, "discovery = true")).await;
    let token = || {
        let mut claims = claims(&broker);
        claims["iss"] = json!(name);
        key.sign(&claims)
    };
    for (iss, keys) in [
        ("https://other.example".to_owned(), format!("{name}{KEYS}")),
        (name.clone(), "http://login.example/keys".to_owned()),
        (name.clone(), "file:///etc/passwd".to_owned()),
        (name.clone(), "keys".to_owned()),
    ] {
        let document = json!({"issuer": iss, "jwks_uri": keys}).to_string();
        issuer.answers(place, [Reply::ok(document)]);
        let answer = reads(&broker, &token()).await;
        answer.refused(StatusCode::SERVICE_UNAVAILABLE, "AdminAuthAccess");
        broker.pass(30);
    }
    assert!(issuer.heads(KEYS).is_empty());
    let document = json!({"issuer": name, "jwks_uri": format!("{name}{KEYS}")});
    issuer.answers(place, [Reply::ok(document.to_string())]);
    reads(&broker, &token()).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn file_of_keys_is_read_once_or_taken_from_anybody() {
    let (one, two) = (
        Key::new("one", Algorithm::ES256),
        Key::new("two", Algorithm::ES256),
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, published(&[&one])).unwrap();
    let more = format!("jwks_file = {path:?}");
    let broker = Running::start(|config| config + &settings(ISSUER, &more)).await;
    reads(&broker, &one.sign(&claims(&broker)))
        .await
        .expect(StatusCode::OK);
    std::fs::write(&path, published(&[&two])).unwrap();
    reads(&broker, &two.sign(&claims(&broker)))
        .await
        .expect(StatusCode::OK);
    refused(
        reads(&broker, &one.sign(&claims(&broker))).await,
        "does not publish",
    );
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_are_believed_without_end() {
    let bench = Bench::new("max_stale_hours = 2").await;
    let token = || bench.key.sign(&claims(&bench.broker));
    bench.reads(&token()).await.expect(StatusCode::OK);
    bench.issuer.answers(KEYS, [Reply::status(500)]);
    for _ in 0..2 {
        bench.broker.pass(3_600);
        bench.reads(&token()).await.expect(StatusCode::OK);
    }
    bench.broker.pass(3_600);
    let answer = bench.reads(&token()).await;
    answer.refused(StatusCode::SERVICE_UNAVAILABLE, "AdminAuthAccess");
    bench
        .issuer
        .answers(KEYS, [Reply::ok(published(&[&bench.key]))]);
    bench.broker.pass(60);
    bench.reads(&token()).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn who_has_no_role_here_fills_the_record_or_uses_up_tokens() {
    let bench = Bench::new("single_use = true").await;
    let mut claims = bench.claims();
    claims["jti"] = json!("1");
    let owner = bench.key.sign(&claims);
    claims["role"] = json!("nobody");
    for number in 0..20 {
        claims["sub"] = json!(format!("guest{number}"));
        let answer = bench.reads(&bench.key.sign(&claims)).await;
        answer.refused(StatusCode::FORBIDDEN, "AdminAuthAccess");
    }
    let entries = bench.broker.audit().await;
    let refused: Vec<_> = entries
        .iter()
        .filter(|entry| entry.record.action == "list audit entries")
        .collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    let all = refused
        .iter()
        .map(|entry| 1 + entry.record.suppressed.unwrap_or(0));
    assert_eq!(all.sum::<u64>(), 20);
    // The ids that they used are nobody else's.
    bench.reads(&owner).await.expect(StatusCode::OK);
    claims["role"] = json!("readers");
    bench
        .reads(&bench.key.sign(&claims))
        .await
        .expect(StatusCode::OK);
    let again = bench.reads(&owner).await;
    self::refused(again, "used before");
}
