//! The client against a broker on a real socket that misbehaves in one way per test.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use strongroom_client::clock::Clock;
use strongroom_client::session::RetryPolicy;
use strongroom_client::{ClientError, KbsClient};
use strongroom_wire::jwe::{DecryptionKey, KeyAlgorithm};
use strongroom_wire::kbs::CompositeEvidence;
use strongroom_wire::resource::ResourceUri;
use strongroom_wire::tee::Tee;
use support::{NOW, Scripted, ScriptedBroker, error, page};

const KEY: &str = "default/fraud-dataset/dataset_key";

fn broker() -> ScriptedBroker {
    ScriptedBroker::start().with_resource(KEY, b"0123456789abcdef")
}

fn uri() -> ResourceUri {
    format!("kbs:///{KEY}").parse().unwrap()
}

fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 3,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(2),
    }
}

fn sample(report_data: &[u8]) -> Result<CompositeEvidence, String> {
    let evidence = json!({ "svn": "1", "length": report_data.len() });
    Ok(CompositeEvidence {
        primary_evidence: serde_json::value::to_raw_value(&evidence)
            .map_err(|error| error.to_string())?,
        additional_evidence: String::new(),
    })
}

fn client_at(broker: &ScriptedBroker, clock: Clock) -> KbsClient {
    KbsClient::builder(&broker.url)
        .evidence(Tee::Sample, sample)
        .retry(quick())
        .clock(clock)
        .build()
        .unwrap()
}

fn client(broker: &ScriptedBroker) -> KbsClient {
    client_at(broker, Clock::from_fn(|| NOW))
}

#[tokio::test]
async fn one_handshake_serves_many_secrets() {
    let broker = broker().with_resource("a/b/c", b"second");
    let client = client(&broker);
    assert_eq!(
        client.get_resource(&uri()).await.unwrap().as_slice(),
        b"0123456789abcdef"
    );
    assert_eq!(
        client
            .get_resource(&"kbs:///a/b/c".parse().unwrap())
            .await
            .unwrap()
            .as_slice(),
        b"second"
    );
    assert_eq!((broker.auths(), broker.attests(), broker.gets()), (1, 1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_callers_at_once_cost_one_handshake() {
    let broker = broker();
    let client = client(&broker);
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(
                async move { client.get_resource(&uri()).await.map(|secret| secret.len()) },
            )
        })
        .collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Ok(16));
    }
    assert_eq!(broker.auths(), 1);
}

#[tokio::test]
async fn a_hundred_callers_with_bad_evidence_cost_one_handshake_too() {
    let broker = broker();
    broker.on_attest([error(401, "AttestationError")]);
    let client = client(&broker);
    // All of them are in flight before the one answer comes.
    broker.script.attest_gate.forget_permits(1_000_000);
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get_resource(&uri()).await })
        })
        .collect();
    while broker.attests() == 0 {
        tokio::task::yield_now().await;
    }
    broker.script.attest_gate.add_permits(1_000_000);
    for caller in callers {
        assert!(matches!(
            caller.await.unwrap(),
            Err(ClientError::EvidenceRefused { .. })
        ));
    }
    assert_eq!((broker.auths(), broker.attests()), (1, 1));
}

#[tokio::test]
async fn caller_that_goes_away_takes_nothing_from_the_others() {
    let broker = broker();
    broker.script.attest_gate.forget_permits(1_000_000);
    let client = client(&broker);
    let [first, second] = [client.clone(), client]
        .map(|client| tokio::spawn(async move { client.get_resource(&uri()).await }));
    while broker.attests() == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    broker.script.attest_gate.add_permits(10);
    assert!(second.await.unwrap().is_ok());
    assert_eq!(broker.auths(), 1);
}

#[tokio::test]
async fn token_near_its_end_is_replaced_before_it_fails() {
    let broker = broker();
    let now = Arc::new(AtomicU64::new(NOW));
    let client = client_at(
        &broker,
        Clock::from_fn({
            let now = Arc::clone(&now);
            move || now.load(Ordering::SeqCst)
        }),
    );
    client.get_resource(&uri()).await.unwrap();
    now.store(NOW + 269, Ordering::SeqCst);
    client.get_resource(&uri()).await.unwrap();
    assert_eq!(broker.auths(), 1);
    now.store(NOW + 271, Ordering::SeqCst);
    client.get_resource(&uri()).await.unwrap();
    assert_eq!(broker.auths(), 2);
}

#[tokio::test]
async fn token_the_broker_forgot_is_replaced_once() {
    let broker = broker();
    let client = client(&broker);
    client.get_resource(&uri()).await.unwrap();
    broker.on_get([error(401, "TokenVerifierError")]);
    assert!(client.get_resource(&uri()).await.is_ok());
    assert_eq!(broker.auths(), 2);
}

#[tokio::test]
async fn broker_that_never_takes_a_token_is_not_asked_for_ever() {
    let broker = broker();
    broker.on_get(vec![error(401, "TokenNotFound"); 10]);
    let outcome = client(&broker).get_resource(&uri()).await;
    assert!(matches!(outcome, Err(ClientError::NotAttested { .. })));
    assert_eq!((broker.auths(), broker.gets()), (2, 2));
}

#[tokio::test]
async fn denial_is_final() {
    let broker = broker();
    broker.on_get([error(403, "PolicyDeny")]);
    let outcome = client(&broker).get_resource(&uri()).await;
    assert!(matches!(outcome, Err(ClientError::Denied { .. })));
    assert_eq!((broker.auths(), broker.gets()), (1, 1));
}

#[tokio::test]
async fn upstreams_denial_by_401_does_not_attest_four_times() {
    let broker = broker();
    broker.on_get([error(401, "PolicyDeny")]);
    let outcome = client(&broker).get_resource(&uri()).await;
    assert!(matches!(outcome, Err(ClientError::Denied { .. })));
    assert_eq!((broker.auths(), broker.gets()), (1, 1));
}

#[tokio::test]
async fn upstreams_missing_resource_by_401_is_missing() {
    let broker = broker();
    broker.on_get([error(401, "PluginInternalError")]);
    let outcome = client(&broker).get_resource(&uri()).await;
    assert!(matches!(outcome, Err(ClientError::NotFound { .. })));
    assert_eq!(broker.auths(), 1);
}

#[tokio::test]
async fn missing_resource_is_asked_for_once() {
    let broker = ScriptedBroker::start();
    let outcome = client(&broker).get_resource(&uri()).await;
    assert!(matches!(outcome, Err(ClientError::NotFound { .. })));
    assert_eq!(broker.gets(), 1);
}

#[tokio::test]
async fn refused_evidence_is_final_and_tells_the_brokers_words() {
    let broker = broker();
    broker.on_attest([error(401, "AttestationError")]);
    let error = client(&broker).get_resource(&uri()).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::EvidenceRefused { detail } if detail == "words of AttestationError")
    );
    assert_eq!(broker.attests(), 1);
}

#[tokio::test]
async fn broker_that_stumbles_is_asked_again() {
    let broker = broker();
    broker.on_auth([error(503, "Busy")]);
    broker.on_get([page(502), error(500, "StorageBackend")]);
    assert!(client(&broker).get_resource(&uri()).await.is_ok());
    assert_eq!((broker.auths(), broker.gets()), (2, 3));
}

#[tokio::test]
async fn attestation_that_fails_halfway_starts_with_a_new_challenge() {
    let broker = broker();
    broker.on_attest([error(500, "Internal")]);
    assert!(client(&broker).get_resource(&uri()).await.is_ok());
    assert_eq!((broker.auths(), broker.attests()), (2, 2));
}

#[tokio::test]
async fn retries_end() {
    let broker = broker();
    broker.on_get(vec![error(503, "Busy"); 10]);
    let outcome = client(&broker).get_resource(&uri()).await;
    assert!(matches!(
        outcome,
        Err(ClientError::Unavailable { status: 503, .. })
    ));
    assert_eq!(broker.gets(), 3);
}

#[tokio::test]
async fn stopped_broker_is_unreachable_and_not_missing() {
    let mut broker = broker();
    let client = client(&broker);
    client.get_resource(&uri()).await.unwrap();
    broker.stop();
    let error = client.get_resource(&uri()).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1"));
}

#[tokio::test]
async fn proxys_page_is_reported_as_such() {
    let broker = broker();
    broker.on_get([page(403)]);
    let error = client(&broker).get_resource(&uri()).await.unwrap_err();
    assert!(
        matches!(error, ClientError::NotTheBroker { status: 403, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("proxy") && error.to_string().contains("text/html"));
}

#[tokio::test]
async fn login_page_with_status_200_is_no_secret() {
    let broker = broker();
    broker.on_get([page(200)]);
    let error = client(&broker).get_resource(&uri()).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    assert!(!error.to_string().contains("<html>"));
}

#[tokio::test]
async fn redirect_does_not_carry_the_token_away() {
    let (broker, elsewhere) = (broker(), broker());
    broker.on_get([Scripted {
        status: 307,
        content_type: "text/plain",
        body: elsewhere.url.clone(),
    }]);
    assert!(client(&broker).get_resource(&uri()).await.is_err());
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn answer_for_another_key_does_not_open() {
    let broker = broker();
    let other = DecryptionKey::generate(KeyAlgorithm::EcdhP256).unwrap();
    *broker.script.wrong_key.lock().unwrap() = Some(other.public().clone());
    let outcome = client(&broker).get_resource(&uri()).await;
    assert!(matches!(outcome, Err(ClientError::Undecryptable { .. })));
    assert_eq!(broker.gets(), 1);
}

#[tokio::test]
async fn huge_answer_is_not_read_to_its_end() {
    let broker = broker();
    broker.on_get([Scripted {
        status: 200,
        content_type: "application/json",
        body: "x".repeat(17 * 1024 * 1024),
    }]);
    assert!(matches!(
        client(&broker).get_resource(&uri()).await,
        Err(ClientError::TooLarge { .. })
    ));
}

#[tokio::test]
async fn challenge_without_session_cookie_is_explained() {
    let broker = broker();
    let challenge = broker.script.challenge.lock().unwrap().to_string();
    broker.on_auth([Scripted {
        status: 200,
        content_type: "application/json",
        body: challenge,
    }]);
    let error = client(&broker).get_resource(&uri()).await.unwrap_err();
    assert!(error.to_string().contains("kbs-session-id"), "{error}");
}

#[tokio::test]
async fn selected_hash_reaches_the_evidence() {
    let broker = broker();
    broker.script.challenge.lock().unwrap()["extra-params"] =
        json!({ "selected-hash-algorithm": "sha512" });
    client(&broker).get_resource(&uri()).await.unwrap();
    let attest = broker
        .seen()
        .into_iter()
        .find(|seen| seen.path.ends_with("/attest"))
        .unwrap();
    let attestation: serde_json::Value = serde_json::from_slice(&attest.body).unwrap();
    assert_eq!(
        attestation["tee-evidence"]["primary_evidence"]["length"],
        64
    );
}

#[tokio::test]
async fn hash_that_was_not_offered_ends_the_handshake() {
    let broker = broker();
    broker.script.challenge.lock().unwrap()["extra-params"] =
        json!({ "selected-hash-algorithm": "sm3" });
    let outcome = client(&broker).get_resource(&uri()).await;
    assert!(matches!(outcome, Err(ClientError::Protocol { .. })));
    assert_eq!(broker.attests(), 0);
}

#[tokio::test]
async fn every_handshake_has_a_key_of_its_own() {
    let broker = broker();
    let client = client(&broker);
    broker.on_get([error(401, "TokenNotFound")]);
    client.get_resource(&uri()).await.unwrap();
    let keys: Vec<_> = broker
        .seen()
        .into_iter()
        .filter(|seen| seen.path.ends_with("/attest"))
        .map(|seen| serde_json::from_slice::<serde_json::Value>(&seen.body).unwrap()["runtime-data"]["tee-pubkey"].clone())
        .collect();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn requests_name_program_and_hashes() {
    let broker = broker();
    client(&broker).get_resource(&uri()).await.unwrap();
    let auth = &broker.seen()[0];
    assert_eq!(
        auth.headers["user-agent"],
        concat!("strongroom/", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        std::str::from_utf8(&auth.body).unwrap(),
        r#"{"version":"0.4.0","tee":"sample","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512"]}}"#
    );
}

#[tokio::test]
async fn uri_of_another_broker_is_not_asked_of_this_one() {
    let broker = broker();
    let foreign: ResourceUri = format!("kbs://other.example/{KEY}").parse().unwrap();
    assert!(matches!(
        client(&broker).get_resource(&foreign).await,
        Err(ClientError::Rejected { .. })
    ));
    assert!(broker.seen().is_empty());
    let own: ResourceUri = format!("kbs://{}/{KEY}", broker.url.trim_start_matches("http://"))
        .parse()
        .unwrap();
    assert!(client(&broker).get_resource(&own).await.is_ok());
}

#[tokio::test]
async fn attester_that_fails_is_this_machines_fault() {
    let broker = broker();
    let client = KbsClient::builder(&broker.url)
        .evidence(Tee::Sample, |_: &[u8]| {
            Err::<CompositeEvidence, _>("the device is busy")
        })
        .retry(quick())
        .build()
        .unwrap();
    let error = client.get_resource(&uri()).await.unwrap_err();
    assert_eq!(
        error,
        ClientError::Evidence {
            reason: "the device is busy".to_owned()
        }
    );
}

#[tokio::test]
async fn attester_that_panics_does_not_hang_the_callers() {
    let broker = broker();
    let client = KbsClient::builder(&broker.url)
        .evidence(
            Tee::Sample,
            |_: &[u8]| -> Result<CompositeEvidence, String> { panic!("bug") },
        )
        .build()
        .unwrap();
    assert!(matches!(
        client.get_resource(&uri()).await,
        Err(ClientError::Evidence { .. })
    ));
}

#[tokio::test]
async fn prefix_of_a_reverse_proxy_is_kept() {
    let broker = broker();
    let client = KbsClient::builder(format!("{}/trust/", broker.url))
        .evidence(Tee::Sample, sample)
        .build()
        .unwrap();
    assert!(client.get_resource(&uri()).await.is_err());
    assert_eq!(broker.seen()[0].path, "/trust/kbs/v0/auth");
}

/// Runs itself again with a proxy in the environment that would break every request.
#[tokio::test]
async fn proxy_from_the_environment_is_not_taken_unasked() {
    const AGAIN: &str = "STRONGROOM_TEST_WITH_PROXY";
    if std::env::var_os(AGAIN).is_some() {
        let broker = broker();
        client(&broker).get_resource(&uri()).await.unwrap();
        return;
    }
    let dead = "http://127.0.0.1:9";
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "proxy_from_the_environment_is_not_taken_unasked"])
        .envs([
            (AGAIN, "1"),
            ("HTTP_PROXY", dead),
            ("http_proxy", dead),
            ("ALL_PROXY", dead),
            ("NO_PROXY", ""),
        ])
        .status()
        .unwrap();
    assert!(status.success());
}
