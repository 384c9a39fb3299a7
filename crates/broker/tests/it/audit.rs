//! The record: complete, chained, without secrets.

use std::os::unix::fs::PermissionsExt;

use reqwest::{Method, StatusCode};
use strongroom_broker::audit::{Kind, Outcome};
use strongroom_broker::{Broker, BrokerError, Config, LogError, StoreError};

use crate::support::{Answer, Guest, Running};

#[tokio::test]
async fn whole_story_is_one_log() {
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
    assert_eq!(broker.verified_entries().await, entries.len());
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
    assert_eq!(entries[4].record.measurement.as_deref(), Some("abcde"));
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
    assert_eq!(broker.verified_entries().await, entries.len());
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
            "CREATE TRIGGER full BEFORE INSERT ON log_entry WHEN NEW.entry LIKE '%get resource%'
             BEGIN SELECT RAISE(ABORT, 'disk full'); END;",
        )
        .unwrap();
    drop(database);
    let broker = broker.start_again();
    let answer = broker.get_with_token("a/b/c", &token).await;
    answer.refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
}

/// A stopped broker with a few entries, its database changed by SQL, and how it starts then.
async fn start_after(sql: &str) -> Result<(), BrokerError> {
    let mut broker = Running::strict().await;
    for tag in ["1", "2", "3"] {
        broker.put(&format!("a/b/{tag}"), "x").await;
    }
    broker.stop().await;
    let database = rusqlite::Connection::open(broker.store()).unwrap();
    database.execute_batch(sql).unwrap();
    drop(database);
    Broker::open(Config::load(&broker.summary.config).unwrap()).map(drop)
}

#[tokio::test]
async fn broker_does_not_start_on_a_record_that_was_changed() {
    const UNLOCK: &str = "DROP TRIGGER log_update_refused; DROP TRIGGER log_delete_refused;";
    start_after("").await.unwrap();
    for (sql, expected) in [
        (
            "UPDATE log_entry SET entry = replace(entry, 'allowed', 'denied') WHERE seq = 2",
            LogError::Altered { seq: 2 },
        ),
        (
            "UPDATE log_entry SET entry = '{}' WHERE seq = 2",
            LogError::Altered { seq: 2 },
        ),
        (
            "DELETE FROM log_entry WHERE seq = 3",
            LogError::Edge { size: 4 },
        ),
        (
            "DELETE FROM log_entry WHERE seq = 4",
            LogError::Missing { seq: 4 },
        ),
        (
            "UPDATE log_entry SET leaf = zeroblob(32) WHERE seq = 1",
            LogError::Altered { seq: 1 },
        ),
        (
            "UPDATE log_head SET edge = zeroblob(32)",
            LogError::Edge { size: 4 },
        ),
    ] {
        let error = start_after(&format!("{UNLOCK} {sql}")).await.unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, BrokerError::Record { source, .. } if source == expected),
            "{sql}: {text}"
        );
        assert!(
            text.contains("strongroom.sqlite") && text.contains("restore"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn broker_whose_store_is_gone_does_not_start_with_an_empty_one() {
    let mut broker = Running::strict().await;
    broker.stop().await;
    std::fs::remove_file(broker.store()).unwrap();
    let error = Broker::open(Config::load(&broker.summary.config).unwrap())
        .err()
        .unwrap();
    assert!(
        matches!(error, BrokerError::Store(StoreError::Gone { .. })),
        "{error}"
    );
    assert!(!broker.store().exists());
}

#[tokio::test]
async fn flood_of_strangers_is_one_entry_a_second_and_none_is_lost() {
    let broker = Running::strict().await;
    for number in 0..60 {
        let request = broker.request(Method::GET, "/kbs/v0/resource/a/b/c");
        let answer = Answer::of(request.bearer_auth("forged").send().await.unwrap()).await;
        answer.refused(StatusCode::UNAUTHORIZED, "TokenVerifierError");
        let request = broker.request(Method::PUT, "/kbs/v0/resource/a/b/c");
        let answer = Answer::of(request.send().await.unwrap()).await;
        answer.refused(StatusCode::UNAUTHORIZED, "AdminAuthAccess");
        if number == 29 {
            broker.pass(1);
        }
    }
    let entries = broker.audit().await;
    assert_eq!(broker.verified_entries().await, entries.len());
    for action in ["get resource", "put resource"] {
        let counts: Vec<_> = entries
            .iter()
            .filter(|entry| entry.record.action == action)
            .map(|entry| {
                assert_eq!(entry.record.outcome, Outcome::Denied);
                entry.record.suppressed
            })
            .collect();
        assert_eq!(counts, [None, Some(29), Some(28)], "{action}");
    }
}

#[tokio::test]
async fn counted_refusals_are_written_at_the_end() {
    let mut broker = Running::strict().await;
    for _ in 0..5 {
        let request = broker.request(Method::GET, "/kbs/v0/resource/a/b/c");
        request.send().await.unwrap();
    }
    broker.stop().await;
    let broker = broker.start_again();
    let entries = broker.audit().await;
    let last = &entries[entries.len() - 2].record;
    assert_eq!(
        (last.kind, last.suppressed),
        (Kind::Release, Some(3)),
        "{last:?}"
    );
}

#[tokio::test]
async fn refusals_of_the_attested_are_an_entry_each() {
    let broker = Running::accepting_sample().await;
    let (_, token) = broker.attest(&Guest::new()).await;
    for _ in 0..5 {
        broker
            .get_with_token("a/b/c", &token)
            .await
            .refused(StatusCode::FORBIDDEN, "PolicyDeny");
    }
    let entries = broker.audit().await;
    let denied = entries
        .iter()
        .filter(|entry| entry.record.kind == Kind::Release && entry.record.suppressed.is_none());
    assert_eq!(denied.count(), 5);
}

#[tokio::test]
async fn bad_token_and_bad_session_stand_in_the_record() {
    let broker = Running::development().await;
    let last = async |kind: Kind, detail: &str| {
        broker.pass(1);
        let record = broker.last_entry().await.record;
        assert_eq!((record.kind, record.outcome), (kind, Outcome::Denied));
        let said = record.detail.unwrap();
        assert!(said.contains(detail), "{said}");
        record.resource
    };
    broker.get_with_token("a/b/c", "forged").await;
    let resource = last(Kind::Release, "token").await;
    assert_eq!(resource.as_deref(), Some("a/b/c"));
    broker.get_with_token("a/b/c", "").await;
    last(Kind::Release, "Token not found").await;
    let (cookie, nonce) = broker.auth().await;
    let mut message = Guest::new().attestation(&nonce);
    broker
        .post("/kbs/v0/attest", Some(&cookie), &message)
        .await
        .expect(StatusCode::OK);
    broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    last(Kind::Attestation, "nonce").await;
    broker.post("/kbs/v0/attest", None, &message).await;
    last(Kind::Attestation, "no such session").await;
    message["init-data"] = serde_json::json!({"format": "toml", "body": "not toml"});
    broker.post("/kbs/v0/attest", Some(&cookie), &message).await;
    last(Kind::Attestation, "").await;
}

#[tokio::test]
async fn old_entry_is_found_by_its_event_and_by_its_number() {
    let broker = Running::strict().await;
    for tag in ["1", "2", "3"] {
        broker.put(&format!("a/b/{tag}"), "x").await;
    }
    let all = broker.audit().await;
    let get = async |query: &str| {
        let path = format!("/strongroom/v1/audit?{query}");
        broker.admin(Method::GET, &path, "").await
    };
    let found = get(&format!("event={}", all[1].record.event)).await;
    assert_eq!(found.json(), serde_json::json!([all[1]]));
    assert_eq!(
        get("event=0000000000000000").await.json(),
        serde_json::json!([])
    );
    let page = get("before=4&limit=2").await;
    assert_eq!(page.json(), serde_json::json!(all[1..3]));
    assert_eq!(get("before=1").await.json(), serde_json::json!([]));
    let most = get(&format!("before={}&limit=1000", u64::MAX)).await;
    assert_eq!(most.json(), serde_json::json!(all));
    get("event=x&limit=1")
        .await
        .refused(StatusCode::BAD_REQUEST, "SerdeError");
}

#[tokio::test]
async fn record_signed_by_another_key_is_not_started_on() {
    let mut broker = Running::strict().await;
    broker.stop().await;
    let key = broker.store().with_file_name("audit.key");
    let other = Running::strict().await;
    std::fs::copy(other.store().with_file_name("audit.key"), &key).unwrap();
    let error = Broker::open(Config::load(&broker.summary.config).unwrap());
    let error = error.err().unwrap();
    assert!(
        matches!(
            &error,
            BrokerError::Record {
                source: LogError::Checkpoint { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn record_is_not_for_strangers() {
    let broker = Running::strict().await;
    for path in ["checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"] {
        let path = format!("/strongroom/v1/log/{path}");
        let answer = broker.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let answer = broker.admin(Method::GET, &path, "").await;
        answer.expect(StatusCode::OK);
    }
    for path in [
        "tile/0/001",
        "tile/9/000",
        "tile/entries/000.p/77",
        "x",
        "tile/0/../0/000",
    ] {
        let answer = broker
            .admin(Method::GET, &format!("/strongroom/v1/log/{path}"), "")
            .await;
        assert!(answer.status.is_client_error(), "{path}");
    }
}

const MONTH: &str = "[audit]\nkeep_days = 30\n";
const DAY: u64 = 86_400;

/// A broker with two bundles of entries and some more, all from the time at which it started.
async fn with_entries(edit: impl FnOnce(String) -> String) -> Running {
    let broker = Running::start(edit).await;
    for number in 0..520 {
        // Of somebody who proved nothing, an entry a second.
        broker.pass(1);
        let path = format!("/strongroom/v1/policy/{number}");
        let answer = broker.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
    broker
}

async fn prune(broker: &Running, query: &str) -> Answer {
    let path = format!("/strongroom/v1/audit/prune{query}");
    broker.admin(Method::POST, &path, "").await
}

#[tokio::test]
async fn entries_that_the_configuration_keeps_are_pruned() {
    let broker = with_entries(|config| config.replace("[audit]\n", MONTH)).await;
    let nothing = serde_json::json!({"entries": 0, "first": 1});
    assert_eq!(prune(&broker, "").await.json(), nothing);
    let all = broker.audit().await;
    broker.pass(31 * DAY);
    let young = format!("?before={}", broker.now() - 29 * DAY);
    let detail = prune(&broker, &young)
        .await
        .refused(StatusCode::CONFLICT, "AuditRetention");
    assert!(detail.contains("30 days"), "{detail}");
    // As of when the first bundle ended.
    let until = format!("?before={}", all[256].record.at);
    let one = serde_json::json!({"entries": 256, "first": 257});
    assert_eq!(prune(&broker, &until).await.json(), one);
    let other = serde_json::json!({"entries": 256, "first": 513});
    assert_eq!(prune(&broker, "").await.json(), other);

    let entry = broker.last_entry().await;
    let record = &entry.record;
    assert_eq!(record.action, "prune audit log");
    assert_eq!(
        (record.minimum_index, record.admin.as_deref()),
        (Some(512), Some("admin"))
    );
    let get = async |path: &str| {
        let path = format!("/strongroom/v1/{path}");
        broker.admin(Method::GET, &path, "").await
    };
    let gone = &all[3].record.event;
    let explained = get(&format!("explain/{gone}")).await;
    let detail = explained.refused(StatusCode::NOT_FOUND, "ResourceNotFound");
    assert!(detail.contains("from entry 513 on"), "{detail}");
    let empty = serde_json::json!([]);
    assert_eq!(get("audit?before=513").await.json(), empty);
    assert_eq!(get(&format!("audit?event={gone}")).await.json(), empty);
    for (path, there) in [
        ("tile/entries/000", false),
        ("tile/entries/001", false),
        ("tile/0/000", true),
        ("tile/0/001", true),
        ("tile/1/000.p/2", true),
        ("checkpoint", true),
    ] {
        let status = get(&format!("log/{path}")).await.status;
        assert_eq!(status == StatusCode::OK, there, "{path}");
    }
    let broker = broker.restart(|config| config).await;
    broker.put("a/b/c", "x").await;
}

#[tokio::test]
async fn record_that_is_kept_for_good_is_pruned() {
    let broker = Running::strict().await;
    broker.pass(100 * 365 * DAY);
    let detail = prune(&broker, "?before=1")
        .await
        .refused(StatusCode::CONFLICT, "AuditRetention");
    assert!(detail.contains("keep_days in [audit]"), "{detail}");
    for query in ["?before=x", "?before=-1", "?until=1"] {
        let answer = prune(&broker, query).await;
        answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
    }
}

#[tokio::test]
async fn broker_does_not_prune_by_itself() {
    let broker = with_entries(|config| config).await;
    broker.pass(31 * DAY);
    let broker = broker
        .restart(|config| config.replace("[audit]\n", MONTH))
        .await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while broker.audit().await[0].seq == 1 {
        assert!(std::time::Instant::now() < deadline, "it never prunes");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let entries = broker.audit().await;
    assert_eq!(entries[0].seq, 513);
    let mut told = entries
        .iter()
        .filter(|entry| entry.record.minimum_index.is_some());
    let told = &told.next().unwrap().record;
    assert_eq!((told.minimum_index, &told.admin), (Some(512), &None));
}

#[tokio::test]
async fn store_of_before_records_were_signed_takes_the_place_of_a_signed_one() {
    let mut broker = Running::strict().await;
    broker.put("a/b/c", "x").await;
    broker.stop().await;
    for file in [
        "strongroom.sqlite",
        "strongroom.sqlite-wal",
        "strongroom.sqlite-shm",
    ] {
        std::fs::remove_file(broker.store().with_file_name(file)).unwrap_or_default();
    }
    let older = rusqlite::Connection::open(broker.store()).unwrap();
    for step in [
        include_str!("../../src/store/schema/0001.sql"),
        include_str!("../../src/store/schema/0002.sql"),
        "PRAGMA user_version = 2",
    ] {
        older.execute_batch(step).unwrap();
    }
    drop(older);
    std::fs::set_permissions(broker.store(), PermissionsExt::from_mode(0o600)).unwrap();
    let path = &broker.summary.config;
    let error = Broker::open(Config::load(path).unwrap()).err().unwrap();
    let said = error.to_string();
    assert!(
        said.contains("signed no record") && said.contains("audit.key"),
        "{said}"
    );
    let version = rusqlite::Connection::open(broker.store()).unwrap();
    let version = version.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    assert_eq!(version.unwrap(), 2);
    let checked = strongroom_broker::check(path, &strongroom_broker::Overrides::none());
    assert!(checked.problems.contains(&said), "{:?}", checked.problems);
    // What the message says.
    for file in ["audit.key", "audit.pub"] {
        std::fs::remove_file(broker.store().with_file_name(file)).unwrap();
    }
    let broker = broker.start_again();
    broker.put("a/b/c", "x").await;
    assert_eq!(broker.verified_entries().await, 2);
}

#[tokio::test]
async fn admin_looks_into_the_record_and_leaves_no_trace() {
    let broker = Running::development().await;
    let before = broker.audit().await;
    let event = before[0].record.event.to_string();
    for (method, path, body) in [
        (Method::GET, format!("explain/{event}"), ""),
        (Method::POST, "rehearse".to_owned(), "{}"),
        (Method::GET, "log/checkpoint".to_owned(), ""),
        (Method::GET, "log/tile/entries/000.p/1".to_owned(), ""),
        (Method::GET, "resource".to_owned(), ""),
    ] {
        let path = format!("/strongroom/v1/{path}");
        let answer = broker.admin(method, &path, body).await;
        answer.expect(StatusCode::OK);
    }
    let missing = broker
        .admin(Method::GET, "/strongroom/v1/explain/0000", "")
        .await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let entries = broker.audit().await;
    let told: Vec<_> = entries[before.len()..]
        .iter()
        .map(|entry| {
            let record = &entry.record;
            (
                (record.kind, record.outcome),
                (record.admin.as_deref(), record.action.as_str()),
                record.detail.clone().unwrap_or_default(),
            )
        })
        .collect();
    let allowed = (Kind::Admin, Outcome::Allowed);
    let copied = before.len() + 2;
    assert_eq!(
        told,
        [
            (
                allowed,
                (Some("admin"), "explain event"),
                format!("event {event}")
            ),
            (allowed, (Some("admin"), "rehearse"), String::new()),
            (
                allowed,
                (Some("admin"), "read the log"),
                format!("a copy of {copied} entries")
            ),
        ]
    );
}
