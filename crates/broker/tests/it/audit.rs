//! The record: complete, chained, without secrets.

use reqwest::{Method, StatusCode};
use strongroom_broker::audit::{Kind, Outcome};
use strongroom_broker::verify_chain;

use crate::support::{Guest, Running};

#[tokio::test]
async fn whole_story_is_one_chain() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret-in-no-entry").await;
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    guest.decrypt(broker.get_with_token("a/b/c", &token).await);
    broker.get_with_token("a/b/missing", &token).await;
    broker
        .admin(Method::DELETE, "/kbs/v0/resource/a/b/c", "")
        .await
        .expect(StatusCode::OK);
    let entries = broker.audit().await;
    verify_chain(&entries).unwrap();
    let story: Vec<_> = entries
        .iter()
        .map(|entry| {
            (
                entry.record.kind,
                entry.record.outcome,
                entry.record.action.as_str(),
            )
        })
        .collect();
    assert_eq!(
        story,
        [
            (Kind::Start, Outcome::Allowed, "start broker"),
            (Kind::Admin, Outcome::Allowed, "register reference values"),
            (Kind::Admin, Outcome::Allowed, "set release policy"),
            (Kind::Admin, Outcome::Allowed, "put resource"),
            (Kind::Attestation, Outcome::Allowed, "attest"),
            (Kind::Release, Outcome::Allowed, "get resource"),
            (Kind::Release, Outcome::Missing, "get resource"),
            (Kind::Admin, Outcome::Allowed, "delete resource"),
        ]
    );
    let release = &entries[5].record;
    assert_eq!(
        release.tee_key.as_deref(),
        Some(guest.key.public().thumbprint().as_str())
    );
    assert_eq!(release.token, entries[4].record.token);
    assert_eq!(
        (release.version, release.policy.as_ref()),
        (Some(1), entries[2].record.policy.as_ref())
    );
    let text = serde_json::to_string(&entries).unwrap();
    assert!(!text.contains("secret-in-no-entry") && !text.contains(&token));
}

#[tokio::test]
async fn limit_takes_the_newest_and_anything_else_is_refused() {
    let broker = Running::strict().await;
    for tag in ["1", "2", "3"] {
        broker.put(&format!("a/b/{tag}"), "x").await;
    }
    let answer = broker
        .admin(Method::GET, "/strongroom/v1/audit?limit=2", "")
        .await
        .expect(StatusCode::OK);
    let resources: Vec<_> = answer
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["resource"].clone())
        .collect();
    assert_eq!(resources, ["a/b/2", "a/b/3"]);
    for query in ["limit=-1", "limit=x", "limit=99999999999", "limits=1"] {
        let answer = broker
            .admin(Method::GET, &format!("/strongroom/v1/audit?{query}"), "")
            .await;
        answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
    }
}

#[tokio::test]
async fn chain_goes_on_after_a_restart() {
    let broker = Running::strict().await;
    broker.put("a/b/c", "x").await;
    let broker = broker.restart(|config| config).await;
    broker.put("a/b/c", "y").await;
    let entries = broker.audit().await;
    verify_chain(&entries).unwrap();
    assert_eq!(
        entries
            .iter()
            .filter(|e| e.record.kind == Kind::Start)
            .count(),
        2
    );
    assert_eq!(entries.last().unwrap().seq, 4);
}

#[tokio::test]
async fn entry_that_cannot_be_written_means_nothing_is_released() {
    let mut broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let (_, token) = broker.attest(&Guest::new()).await;
    broker.stop().await;
    let database = rusqlite::Connection::open(broker.store()).unwrap();
    database
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON audit WHEN NEW.entry LIKE '%get resource%'
             BEGIN SELECT RAISE(ABORT, 'disk full'); END;",
        )
        .unwrap();
    drop(database);
    let broker = broker.start_again();
    let answer = broker.get_with_token("a/b/c", &token).await;
    answer.refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
}
