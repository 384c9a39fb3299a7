//! Brokers on one PostgreSQL database: handshakes across them, one of them gone, the server gone.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use strongroom_broker::{Broker, Config};
use strongroom_testkit::postgres::Cluster;

use crate::support::{AFFIRMING, Guest, Running};

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
        let ours = first.admin(reqwest::Method::GET, path, "").await;
        let theirs = second.admin(reqwest::Method::GET, path, "").await;
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
    let answer = second.admin(reqwest::Method::POST, path, "two").await;
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

#[tokio::test]
async fn storage_key_is_not_rotated_under_the_other_brokers() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let broker = Running::on_database(&cluster.database("rotation"));
    let key = broker.summary.config.with_file_name("storage.key");
    let before = std::fs::read(&key).unwrap();
    let path = "/strongroom/v1/storage-key/rotate";
    let answer = broker.admin(reqwest::Method::POST, path, "").await;
    let detail = answer.refused(StatusCode::CONFLICT, "StorageKeyShared");
    assert!(detail.contains("other brokers"), "{detail}");
    assert_eq!(std::fs::read(&key).unwrap(), before);
}
