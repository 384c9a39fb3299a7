//! Brokers on one PostgreSQL database: handshakes across them, one of them gone, the server gone.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, StatusCode};
use serde_json::json;
use strongroom_broker::{Broker, Config};
use strongroom_testkit::postgres::Cluster;
use strongroom_wire::admin::{AUDIENCE, AdminClaims};

use crate::support::{AFFIRMING, Answer, Guest, Running};

/// Two brokers that let sample evidence through, and have one secret.
async fn pair(cluster: &Cluster) -> (Running, Running) {
    let first = Running::on_database(&cluster.database("shared"));
    let second = first.twin();
    first.register_reference_values().await;
    second.set_policy(AFFIRMING).await;
    first.put("default/key/one", "the secret").await;
    (first, second)
}

#[tokio::test]
async fn handshake_goes_round_the_brokers() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (first, second) = pair(&cluster).await;
    let guest = Guest::new();
    for (opens, attests) in [(&first, &second), (&second, &first), (&first, &first)] {
        let (cookie, nonce) = opens.auth().await;
        let body = guest.attestation(&nonce);
        let answer = attests
            .post("/kbs/v0/attest", Some(&cookie), &body)
            .await
            .expect(StatusCode::OK);
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        for broker in [&first, &second] {
            let by_cookie = broker.get_with_cookie("default/key/one", &cookie).await;
            assert_eq!(guest.decrypt(by_cookie), b"the secret");
            let by_token = broker.get_with_token("default/key/one", &token).await;
            assert_eq!(guest.decrypt(by_token), b"the secret");
            // The nonce is used, wherever it is shown.
            let again = broker.post("/kbs/v0/attest", Some(&cookie), &body).await;
            let detail = again.refused(StatusCode::UNAUTHORIZED, "AttestationError");
            assert!(detail.contains("is used"), "{detail}");
        }
    }
    let entries = first.verified_entries().await;
    assert!(second.verified_entries().await >= entries);
}

#[tokio::test]
async fn nonce_that_is_shown_to_both_at_once_is_taken_once() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (first, second) = pair(&cluster).await;
    let guest = Guest::new();
    for _ in 0..5 {
        let (cookie, nonce) = first.auth().await;
        let body = guest.attestation(&nonce);
        let (one, other) = tokio::join!(
            first.post("/kbs/v0/attest", Some(&cookie), &body),
            second.post("/kbs/v0/attest", Some(&cookie), &body),
        );
        let passed = [one.status, other.status].map(|status| status == StatusCode::OK);
        assert_ne!(passed[0], passed[1]);
    }
}

#[tokio::test]
async fn broker_that_dies_in_a_handshake_is_replaced_by_the_other() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (mut first, second) = pair(&cluster).await;
    let guest = Guest::new();
    let (opened, nonce) = first.auth().await;
    let (attested, _) = first.attest(&guest).await;
    first.kill().await;
    let answer = second.get_with_cookie("default/key/one", &attested).await;
    assert_eq!(guest.decrypt(answer), b"the secret");
    second
        .post("/kbs/v0/attest", Some(&opened), &guest.attestation(&nonce))
        .await
        .expect(StatusCode::OK);
    let answer = second.get_with_cookie("default/key/one", &opened).await;
    assert_eq!(guest.decrypt(answer), b"the secret");
    second.verified_entries().await;
}

#[tokio::test]
async fn what_is_set_at_one_broker_decides_at_the_other() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (first, second) = pair(&cluster).await;
    let guest = Guest::new();
    let (_, token) = first.attest(&guest).await;
    for _ in 0..3 {
        first
            .set_policy("package policy\n\ndefault allow := false\n")
            .await;
        second
            .get_with_token("default/key/one", &token)
            .await
            .refused(StatusCode::FORBIDDEN, "PolicyDeny");
        second.set_policy(AFFIRMING).await;
        let answer = first.get_with_token("default/key/one", &token).await;
        assert_eq!(guest.decrypt(answer), b"the secret");
    }
    // Read back without a decision in between: within about a second.
    let path = "/kbs/v0/reference-value";
    first.register_reference_values().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let ours = first.admin(Method::GET, path, "").await;
        let theirs = second.admin(Method::GET, path, "").await;
        if ours.expect(StatusCode::OK).body == theirs.expect(StatusCode::OK).body {
            break;
        }
        assert!(Instant::now() < deadline, "they never agree");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn database_that_is_away_is_503_and_what_was_there_comes_back() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (first, second) = pair(&cluster).await;
    let guest = Guest::new();
    let (attested, token) = first.attest(&guest).await;
    let (opened, nonce) = first.auth().await;
    let body = guest.attestation(&nonce);
    cluster.crash();
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    first
        .post("/kbs/v0/attest", Some(&opened), &body)
        .await
        .refused(unavailable, "StoreUnavailable");
    let answer = first.get_with_token("default/key/one", &token).await;
    answer.refused(unavailable, "StoreUnavailable");
    let path = "/kbs/v0/resource/default/key/two";
    let answer = second.admin(Method::POST, path, "two").await;
    answer.refused(unavailable, "StoreUnavailable");
    cluster.resume();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = second.get_with_cookie("default/key/one", &attested).await;
        if answer.status == StatusCode::OK {
            assert_eq!(guest.decrypt(answer), b"the secret");
            break;
        }
        assert!(Instant::now() < deadline, "it does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    second
        .post("/kbs/v0/attest", Some(&opened), &body)
        .await
        .expect(StatusCode::OK);
    second.put("default/key/two", "two").await;
    second.verified_entries().await;
}

#[tokio::test]
async fn broker_with_another_key_is_refused() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let first = Running::on_database(&cluster.database("keys"));
    let other = Running::strict().await;
    for (file, reason) in [
        ("storage.key", "storage key"),
        ("token.key", "token signing key"),
        ("audit.key", "checkpoint"),
    ] {
        let (_folder, summary) = first.copied();
        let theirs = other.summary.config.parent().unwrap();
        let copy = summary.config.parent().unwrap();
        std::fs::copy(theirs.join(file), copy.join(file)).unwrap();
        if file == "token.key" {
            std::fs::copy(theirs.join("token.crt"), copy.join("token.crt")).unwrap();
        }
        let config = Config::load(&summary.config).unwrap();
        let error = Broker::open(config).err().unwrap().to_string();
        assert!(error.contains(reason), "{file}: {error}");
    }
}

async fn rotate(broker: &Running) -> Answer {
    let path = "/strongroom/v1/storage-key/rotate";
    broker.admin(Method::POST, path, "").await
}

fn key_file(broker: &Running) -> PathBuf {
    broker.summary.config.with_file_name("storage.key")
}

/// The keys in a broker's file, the newest first.
fn keys(broker: &Running) -> Vec<String> {
    let text = std::fs::read_to_string(key_file(broker)).unwrap();
    text.lines().map(str::to_owned).collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn key_that_a_broker_lacks_is_taken_in_use() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (first, second) = pair(&cluster).await;
    let guest = Guest::new();
    let (_, token) = first.attest(&guest).await;
    let old = keys(&first);
    let (stale, copied) = first.copied();

    let refused = rotate(&first).await;
    let detail = refused.refused(StatusCode::CONFLICT, "StorageKeyShared");
    let other = format!("({})", second.address);
    assert!(
        detail.contains("Copy the key file to each") && detail.contains("127.0.0.1"),
        "{detail} {other}"
    );
    assert_eq!((keys(&first).len(), &keys(&first)[1]), (2, &old[0]));
    assert_eq!(keys(&second), old);
    // Everything goes on under the old one.
    first.put("default/key/two", "two").await;
    second.put("default/key/three", "three").await;
    let wrapped = "SELECT count(DISTINCT key_id) FROM secret";
    assert_eq!(cluster.sql("shared", wrapped).trim(), "1");
    let elsewhere = rotate(&second).await;
    let detail = elsewhere.refused(StatusCode::CONFLICT, "StorageKeyShared");
    assert!(detail.contains("is under way at"), "{detail}");

    // The operator copies the file, and nobody notices the change: not who stores, nor who is in a handshake.
    let (opened, nonce) = second.auth().await;
    std::fs::copy(key_file(&first), key_file(&second)).unwrap();
    let storing = async {
        for number in 0..20 {
            let path = format!("/kbs/v0/resource/default/many/{number}");
            let stored = second.admin(Method::POST, &path, "many").await;
            // It met the moment of the change.
            if stored.status == StatusCode::SERVICE_UNAVAILABLE {
                second.put(&format!("default/many/{number}"), "many").await;
            }
        }
    };
    let (rotated, ()) = tokio::join!(rotate(&first), storing);
    let rotated = rotated.expect(StatusCode::OK).json();
    assert!(rotated["rewrapped"].as_u64().unwrap() >= 3, "{rotated}");
    let key_id = rotated["key"].as_str().unwrap();
    let wrapped = "SELECT DISTINCT key_id FROM secret";
    assert_eq!(cluster.sql("shared", wrapped).trim(), key_id);
    let fresh = keys(&first);
    assert!(fresh.len() == 1 && fresh != old);
    until("the other forgets the older key", async || {
        keys(&second) == fresh
    })
    .await;
    let body = guest.attestation(&nonce);
    first
        .post("/kbs/v0/attest", Some(&opened), &body)
        .await
        .expect(StatusCode::OK);
    for broker in [&first, &second] {
        for (path, wanted) in [
            ("default/key/one", "the secret"),
            ("default/key/two", "two"),
            ("default/key/three", "three"),
            ("default/many/19", "many"),
        ] {
            let answer = broker.get_with_token(path, &token).await;
            assert_eq!(guest.decrypt(answer), wanted.as_bytes());
        }
        broker.put("default/key/four", "four").await;
        let answer = broker.get_with_cookie("default/key/four", &opened).await;
        assert_eq!(guest.decrypt(answer), b"four");
    }
    first.verified_entries().await;

    // One that was away meanwhile, and has the file of then.
    let error = Broker::open(Config::load(&copied.config).unwrap());
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("storage key") && error.contains("copy"),
        "{error}"
    );
    drop(stale);
}

#[tokio::test]
async fn rotation_that_broke_off_is_not_ended() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (mut first, mut second) = pair(&cluster).await;
    let guest = Guest::new();
    let (_, token) = first.attest(&guest).await;
    let refused = rotate(&first).await;
    let detail = refused.refused(StatusCode::CONFLICT, "StorageKeyShared");
    let id = detail.split_whitespace().nth(2).unwrap().to_owned();
    std::fs::copy(key_file(&first), key_file(&second)).unwrap();
    first.stop().await;
    second.stop().await;
    // As it is left when the power fails after all brokers agreed, and before anything was wrapped anew.
    cluster.sql(
        "shared",
        &format!(
            "UPDATE broker_key SET key_id = '{id}' WHERE name = 'storage key';
             DELETE FROM broker_key WHERE name = 'next storage key';"
        ),
    );
    let first = first.start_again();
    until("it is wrapped anew", async || keys(&first).len() == 1).await;
    let wrapped = cluster.sql("shared", "SELECT DISTINCT key_id FROM secret");
    assert_eq!(wrapped.trim(), id);
    let second = second.start_again();
    until("the other has one key", async || {
        keys(&second) == keys(&first)
    })
    .await;
    for broker in [&first, &second] {
        let answer = broker.get_with_token("default/key/one", &token).await;
        assert_eq!(guest.decrypt(answer), b"the secret");
    }
}

#[tokio::test]
async fn key_that_its_owner_wrote_is_passed_over_for_another() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (first, second) = pair(&cluster).await;
    let written = format!("{}\n{}\n", "5a".repeat(32), keys(&first)[0]);
    for broker in [&first, &second] {
        std::fs::write(key_file(broker), &written).unwrap();
    }
    rotate(&second).await.expect(StatusCode::OK);
    until("both have the one key", async || {
        [&first, &second]
            .map(keys)
            .iter()
            .all(|keys| *keys == ["5a".repeat(32)])
    })
    .await;
    first.put("default/key/two", "two").await;
}

#[tokio::test]
async fn admin_token_that_one_broker_believed_passes_at_the_other() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (first, second) = pair(&cluster).await;
    let token = first.admin_token();
    let show = async |broker: &Running| {
        let request = broker.request(Method::GET, "/strongroom/v1/resource");
        Answer::of(request.bearer_auth(&token).send().await.unwrap()).await
    };
    show(&first).await.expect(StatusCode::OK);
    for broker in [&second, &first] {
        let refused = show(broker).await;
        let detail = refused.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
        assert!(detail.contains("was used before"), "{detail}");
    }
    // Shown to both at once.
    for _ in 0..5 {
        let token = second.admin_token();
        let show = async |broker: &Running| {
            let request = broker.request(Method::GET, "/strongroom/v1/resource");
            let answer = Answer::of(request.bearer_auth(&token).send().await.unwrap()).await;
            answer.status == StatusCode::OK
        };
        let (one, other) = tokio::join!(show(&first), show(&second));
        assert_ne!(one, other);
    }
}

#[tokio::test]
async fn last_two_admins_revoke_each_other_at_two_brokers() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (first, second) = pair(&cluster).await;
    let names = ["ann", "bob"];
    let pairs = names.map(|_| strongroom_broker::admin_key_pair().unwrap());
    let new = |at: usize| json!({"role": "admin", "public_key": pairs[at].1}).to_string();
    let path = |at: usize| format!("/strongroom/v1/admin/{}", names[at]);
    for at in [0, 1] {
        let added = first.admin(Method::PUT, &path(at), new(at)).await;
        added.expect(StatusCode::OK);
    }
    // From here on the configurations name nobody.
    let without = |config: String| config.split("[[admin]]").next().unwrap().to_owned();
    let first = first.restart(without).await;
    let second = second.restart(without).await;
    let brokers = [&first, &second];
    let ask = async |broker: &Running, by: usize, method: Method, path: String, body: String| {
        let claims = AdminClaims {
            usage: None,
            sub: names[by].into(),
            role: "admin".into(),
            aud: AUDIENCE.into(),
            iat: broker.now(),
            exp: broker.now() + 60,
            jti: broker.token_id(),
        };
        let key = EncodingKey::from_ed_pem(pairs[by].0.as_bytes()).unwrap();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap();
        let request = broker.request(method, &path).bearer_auth(token).body(body);
        Answer::of(request.send().await.unwrap()).await
    };
    for _ in 0..5 {
        let revoke = |by: usize| ask(brokers[by], by, Method::DELETE, path(1 - by), String::new());
        let (by_ann, by_bob) = tokio::join!(revoke(0), revoke(1));
        let done = [&by_ann, &by_bob].map(|answer| answer.status == StatusCode::OK);
        assert!(done[0] != done[1], "{} {}", by_ann.status, by_bob.status);
        let left = usize::from(done[1]);
        // Who was first may still revoke nobody: the other is gone, and nobody is left besides.
        let last = ask(
            brokers[left],
            left,
            Method::DELETE,
            path(left),
            String::new(),
        )
        .await;
        let detail = last.refused(StatusCode::CONFLICT, "AdminError");
        assert!(detail.contains("last admin"), "{detail}");
        let again = ask(
            brokers[left],
            left,
            Method::PUT,
            path(1 - left),
            new(1 - left),
        )
        .await;
        again.expect(StatusCode::OK);
        until("the other broker knows it", async || {
            let list = "/strongroom/v1/admin".to_owned();
            let listed = ask(
                brokers[1 - left],
                1 - left,
                Method::GET,
                list,
                String::new(),
            )
            .await;
            listed.status == StatusCode::OK
        })
        .await;
    }
}

#[tokio::test]
async fn full_disk_of_the_database_is_507_and_passes() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (first, second) = pair(&cluster).await;
    let guest = Guest::new();
    let (_, token) = first.attest(&guest).await;
    let (opened, nonce) = first.auth().await;
    // What the server says when a write finds no room, said by a trigger: its disk is this machine's.
    cluster.sql(
        "shared",
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON log_entry FOR EACH ROW EXECUTE FUNCTION full_disk();
         CREATE TRIGGER full_disk BEFORE UPDATE ON log_head FOR EACH ROW EXECUTE FUNCTION full_disk();",
    );
    let full = |answer: Answer| {
        let detail = answer.refused(StatusCode::INSUFFICIENT_STORAGE, "StoreFull");
        assert!(
            detail.contains("disk") && detail.contains("full"),
            "{detail}"
        );
    };
    let path = "/kbs/v0/resource/default/key/two";
    full(second.admin(Method::POST, path, "two").await);
    full(first.get_with_token("default/key/one", &token).await);
    let body = guest.attestation(&nonce);
    full(first.post("/kbs/v0/attest", Some(&opened), &body).await);
    let ready = async || {
        let request = first.request(Method::GET, "/readyz");
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.text().await.unwrap())
    };
    until("it says that it is not ready", async || {
        let (status, text) = ready().await;
        status == StatusCode::SERVICE_UNAVAILABLE && text.contains("store-full")
    })
    .await;
    cluster.sql(
        "shared",
        "DROP TRIGGER full_disk ON log_entry; DROP TRIGGER full_disk ON log_head",
    );
    second.put("default/key/two", "two").await;
    until("it is ready again", async || {
        ready().await.0 == StatusCode::OK
    })
    .await;
    first.verified_entries().await;
}
