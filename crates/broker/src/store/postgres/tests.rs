#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;
use std::time::Instant;

use strongroom_testkit::postgres::Cluster;

use super::*;
use crate::audit::{Kind, Outcome, verify_newest};
use crate::store::{Ledger, StorageKey, conformance};

static KEY: LazyLock<String> =
    LazyLock::new(|| LogKey::generate().unwrap().to_text().as_str().to_owned());

fn key() -> LogKey {
    LogKey::from_text(&KEY).unwrap()
}

fn config(url: String) -> StoreConfig {
    StoreConfig {
        path: "".into(),
        postgres_url: Some(url),
        postgres_password_file: None,
        postgres_certificate: None,
        insecure_postgres: false,
        key_file: "storage.key".into(),
        key_tpm: None,
    }
}

fn new(cluster: &Cluster, name: &str) -> (StoreConfig, PostgresStore) {
    let config = config(cluster.database(name));
    PostgresStore::create(&config, &key()).unwrap();
    let store = PostgresStore::open(&config, &key()).unwrap();
    (config, store)
}

fn record(action: &str) -> Record {
    Record::new(Kind::Admin, Outcome::Allowed, action, 7)
}

fn ledger(store: &PostgresStore) -> Ledger {
    Ledger::new(Box::new(store.clone()), key())
}

fn put(ledger: &Ledger, storage_key: &StorageKey, secret: &'static [u8]) -> Entry {
    let key = StorageKey::from_text(&storage_key.to_text()).unwrap();
    let path: ResourcePath = "a/b/c".parse().unwrap();
    let place = path.clone();
    let change = Change::PutSecret {
        path,
        seal: Box::new(move |version| key.seal(&place, version, None, secret)),
        expires: None,
        keep: 1,
    };
    ledger.commit(change, record("put resource")).unwrap()
}

#[test]
fn conforms() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (_, store) = new(&cluster, "conforms");
    conformance::suite(Box::new(store), key());
    // Over the socket too.
    cluster.sql("postgres", "CREATE DATABASE socket");
    let config = config(cluster.socket_address("socket"));
    PostgresStore::create(&config, &key()).unwrap();
    let store = PostgresStore::open(&config, &key()).unwrap();
    conformance::suite(Box::new(store), key());
}

#[test]
fn two_brokers_that_write_at_once_write_one_log() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (config, first) = new(&cluster, "pair");
    let second = PostgresStore::open(&config, &key()).unwrap();
    let ledgers = [ledger(&first), ledger(&second)];
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let ledger = &ledgers[writer % 2];
            scope.spawn(move || {
                for number in 0..40 {
                    let action = format!("{writer}/{number}");
                    let entry = ledger.commit(Change::Nothing, record(&action)).unwrap();
                    assert_eq!(entry.record.action, action);
                }
            });
        }
        // Whoever starts meanwhile finds a record that holds.
        for _ in 0..5 {
            verify_newest(&second, key().verifier(), 1_000).unwrap();
        }
    });
    for store in [&first, &second] {
        verify_newest(store, key().verifier(), 1_000).unwrap();
        assert_eq!(store.head().unwrap().unwrap().size, 320);
    }
}

#[test]
fn server_that_ends_is_said_to_be_away_and_nothing_is_lost() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (_, store) = new(&cluster, "away");
    let ledger = ledger(&store);
    let storage_key = StorageKey::generate().unwrap();
    put(&ledger, &storage_key, b"before");
    cluster.crash();
    for _ in 0..3 {
        let error = ledger
            .commit(Change::Nothing, record("while away"))
            .unwrap_err();
        assert!(matches!(error, StoreError::Away(_)), "{error}");
        let error = store.policies().unwrap_err();
        assert!(matches!(error, StoreError::Away(_)), "{error}");
    }
    // Nobody waits for a server that was away a moment ago.
    let asked = Instant::now();
    while store.pool.again_in().is_none_or(|wait| wait.is_zero()) {
        store.policies().unwrap_err();
        assert!(asked.elapsed() < Duration::from_secs(20));
    }
    cluster.resume();
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = store.policies() {
        assert!(matches!(error, StoreError::Away(_)), "{error}");
        assert!(Instant::now() < deadline, "it is not found again");
        std::thread::yield_now();
    }
    let sealed = store
        .sealed_secret(&"a/b/c".parse().unwrap(), None)
        .unwrap();
    let opened = storage_key.open(&"a/b/c".parse().unwrap(), &sealed.unwrap());
    assert_eq!(opened.unwrap().expose(), b"before");
    // One that broke while idle is replaced unnoticed.
    cluster.crash();
    cluster.resume();
    put(&ledger, &storage_key, b"after");
    assert_eq!(store.audit(10, None).unwrap().len(), 2);
    verify_newest(&store, key().verifier(), 1_000).unwrap();
}

#[test]
fn stores_of_all_older_versions_come_forward() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    for version in 1..migrate::NEWEST {
        let name = format!("older{version}");
        let config = config(cluster.database(&name));
        let older = PostgresStore::connect(&config).unwrap();
        migrate::create_older(&mut older.session().unwrap(), &key(), version).unwrap();
        let storage_key = StorageKey::generate().unwrap();
        let path: ResourcePath = "a/b/c".parse().unwrap();
        let sealed = storage_key.seal(&path, 4, None, b"secret").unwrap();
        let hex = |bytes: &[u8]| hex::encode(bytes);
        cluster.sql(
            &name,
            &format!(
                "INSERT INTO secret VALUES ('a/b/c', 4, '\\x{}', '{}', '\\x{}', '\\x{}', 6, '{}', 7, 'alice', NULL);
                 INSERT INTO secret_counter VALUES ('a/b/c', 4);
                 INSERT INTO policy_version VALUES ('resource-policy', 1, 'package policy', 7, 'alice');",
                hex(&sealed.wrapped_key),
                sealed.key_id,
                hex(&sealed.nonce),
                hex(&sealed.ciphertext),
                sealed.digest(),
            ),
        );
        drop(older);
        // Two at once.
        let stores = std::thread::scope(|scope| {
            let open = || PostgresStore::open(&config, &key()).unwrap();
            [scope.spawn(open), scope.spawn(open)].map(|opening| opening.join().unwrap())
        });
        let store = &stores[0];
        let found = store.sealed_secret(&path, None).unwrap().unwrap();
        assert_eq!(storage_key.open(&path, &found).unwrap().expose(), b"secret");
        assert_eq!(store.policies().unwrap().len(), 1);
        let entry = put(&ledger(store), &storage_key, b"next");
        assert_eq!((entry.seq, entry.record.version), (1, Some(5)));
        verify_newest(&stores[1], key().verifier(), 10).unwrap();
        cluster.sql(&name, "INSERT INTO broker_schema VALUES (99)");
        let newer = PostgresStore::open(&config, &key()).err().unwrap();
        assert!(newer.to_string().contains("schema version 99"), "{newer}");
    }
}

#[test]
fn log_refuses_everything_but_its_next_entry() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (_, store) = new(&cluster, "log");
    let ledger = ledger(&store);
    for _ in 0..3 {
        ledger.commit(Change::Nothing, record("test")).unwrap();
    }
    for statement in [
        "UPDATE log_entry SET entry = '{}' WHERE seq = 2",
        "DELETE FROM log_entry WHERE seq = 2",
        "TRUNCATE log_entry",
        "INSERT INTO log_entry SELECT 2, 'x', leaf, entry FROM log_entry WHERE seq = 1 ON CONFLICT (seq) DO UPDATE \
         SET entry = '{}'",
        "INSERT INTO log_entry SELECT 9, 'x', leaf, entry FROM log_entry WHERE seq = 1",
    ] {
        let outcome = store.session().unwrap().batch(statement);
        assert!(
            matches!(outcome, Err(StoreError::Postgres(_))),
            "{statement}"
        );
    }
    verify_newest(&store, key().verifier(), 10).unwrap();
    cluster.sql(
        "log",
        "ALTER TABLE log_entry DISABLE TRIGGER ALL;
         UPDATE log_entry SET entry = replace(entry, 'allowed', 'denied') WHERE seq = 2",
    );
    let error = verify_newest(&store, key().verifier(), 10).unwrap_err();
    assert!(error.to_string().contains("entry 2 was altered"), "{error}");
}

#[test]
fn what_was_changed_past_the_brokers_is_signed() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let names = std::cell::Cell::new(0);
    let name = |number: u32| format!("forged{number}");
    let new = || {
        names.set(names.get() + 1);
        let config = config(cluster.database(&name(names.get())));
        let key = LogKey::generate_for_tests();
        PostgresStore::create(&config, &key).unwrap();
        Box::new(PostgresStore::open(&config, &key).unwrap()) as Box<dyn Store>
    };
    let statements = |sql: &str| {
        let sql = format!("SET session_replication_role = replica; {sql}");
        cluster.sql(&name(names.get()), &sql);
    };
    let bytes = |bytes: &[u8]| format!("'\\x{}'", hex::encode(bytes));
    conformance::forgers(&new, &statements, &bytes);
}

#[test]
fn deletion_passes_for_a_pruning() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (_, store) = new(&cluster, "pruned");
    let key = key();
    let group = (0..700).map(|_| (Change::Nothing, record("test")));
    store.commit(group.collect(), &key).unwrap();
    let ledger = ledger(&store);
    let prune = Change::PruneLog { minimum: 256 };
    ledger.commit(prune, record("prune")).unwrap();
    verify_newest(&store, key.verifier(), 100).unwrap();
    for statement in [
        "DELETE FROM log_entry WHERE seq = 257",
        "UPDATE log_head SET minimum = 0",
        "UPDATE log_entry SET entry = '{}' WHERE seq = 257",
    ] {
        let outcome = store.session().unwrap().batch(statement);
        assert!(
            matches!(outcome, Err(StoreError::Postgres(_))),
            "{statement}"
        );
    }
    cluster.sql(
        "pruned",
        "ALTER TABLE log_entry DISABLE TRIGGER ALL;
         INSERT INTO log_node SELECT 0, seq - 1, leaf FROM log_entry WHERE seq <= 512;
         DELETE FROM log_entry WHERE seq <= 512;",
    );
    let error = verify_newest(&store, key.verifier(), 100).unwrap_err();
    assert!(error.to_string().contains("entry 257 is not"), "{error}");
    cluster.sql("pruned", "UPDATE log_head SET minimum = 512");
    let error = verify_newest(&store, key.verifier(), 100).unwrap_err();
    assert!(error.to_string().contains("up to 512 are not"), "{error}");
}

#[test]
fn full_and_read_only_databases_fail_as_anything_else() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (config, store) = new(&cluster, "full");
    let ledger = ledger(&store);
    // What the server says when a write finds no room, said by a trigger: its disk is this machine's.
    cluster.sql(
        "full",
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER full_disk BEFORE UPDATE ON log_head FOR EACH ROW EXECUTE FUNCTION full_disk();",
    );
    let error = ledger.commit(Change::Nothing, record("test")).unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    let error = store.probe().unwrap_err();
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    cluster.sql("full", "DROP TRIGGER full_disk ON log_head");
    ledger.commit(Change::Nothing, record("test")).unwrap();
    cluster.sql(
        "postgres",
        "ALTER DATABASE \"full\" SET default_transaction_read_only = on",
    );
    // In force for connections that begin now.
    let fresh = PostgresStore::connect(&config).unwrap();
    let error = fresh.probe().unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly(_)), "{error}");
}

#[test]
fn change_that_the_database_refuses_spoils_no_other_of_its_group() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (_, store) = new(&cluster, "groups");
    let set = |text: &str| Change::SetPolicy {
        id: "p".to_owned(),
        text: Some(text.to_owned()),
    };
    let keep = |token: &str| Change::KeepClaims {
        token: token.to_owned(),
        claims: "{}".to_owned(),
    };
    let changes = [keep("one"), set("one\0two"), set("three"), keep("two")];
    let group = changes.map(|change| (change, record("test"))).into();
    let key = key();
    let committed = store.commit(group, &key).unwrap();
    let numbers: Vec<Option<u64>> = committed
        .iter()
        .map(|outcome| outcome.as_ref().ok().map(|entry| entry.seq))
        .collect();
    assert_eq!(numbers, [Some(1), None, Some(2), Some(3)]);
    assert_eq!(store.governed().unwrap(), 2);
    assert_eq!(store.policies().unwrap()[0].version, 1);
    assert!(store.claims("two").unwrap().is_some());
    let other = LogKey::generate().unwrap();
    let group = vec![(set("four"), record("test"))];
    assert!(store.commit(group, &other).is_err());
    assert_eq!(store.audit(10, None).unwrap().len(), 3);
    assert_eq!(store.policies().unwrap()[0].version, 1);
    verify_newest(&store, key.verifier(), 10).unwrap();
}

#[test]
fn unfit_database_is_refused_with_the_reason() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let empty = config(cluster.database("empty"));
    let error = PostgresStore::open(&empty, &key()).err().unwrap();
    assert!(error.to_string().contains("it is empty"), "{error}");
    PostgresStore::create(&empty, &key()).unwrap();
    let error = PostgresStore::create(&empty, &key()).err().unwrap();
    assert!(error.to_string().contains("already"), "{error}");
    cluster.sql(
        "postgres",
        "ALTER DATABASE empty SET synchronous_commit = off",
    );
    let store = PostgresStore::open(&empty, &key()).unwrap();
    let row = store
        .session()
        .unwrap()
        .row("SHOW synchronous_commit", &[])
        .unwrap();
    assert_eq!(row.unwrap().get::<_, String>(0), "on");
    cluster.sql(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0",
    );
    let latin = empty
        .postgres_url
        .clone()
        .unwrap()
        .replace("/empty", "/latin");
    let error = PostgresStore::open(&config(latin), &key()).err().unwrap();
    assert!(error.to_string().contains("UTF8"), "{error}");
    cluster.sql("postgres", "ALTER SYSTEM SET fsync = off");
    cluster.sql("postgres", "SELECT pg_reload_conf()");
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = loop {
        match PostgresStore::open(&empty, &key()) {
            Err(error) => break error,
            Ok(_) => assert!(Instant::now() < deadline, "fsync = off is taken"),
        }
    };
    assert!(error.to_string().contains("fsync is off"), "{error}");
}

#[test]
fn handshakes_are_shared_and_swept() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (config, first) = new(&cluster, "handshakes");
    let second = PostgresStore::open(&config, &key()).unwrap();
    assert!(first.take_nonce(b"one", 100).unwrap());
    assert!(!second.take_nonce(b"one", 100).unwrap());
    for (at, session) in [b"one", b"two", b"six"].into_iter().enumerate() {
        let expires = 100 + u64::try_from(at).unwrap();
        first.keep_token(session, "token", expires).unwrap();
    }
    assert_eq!(second.token(b"one", 99).unwrap().as_deref(), Some("token"));
    assert_eq!(second.token(b"one", 100).unwrap(), None);
    second.sweep(99, 1).unwrap();
    let kept = [b"one", b"two", b"six"].map(|session| first.token(session, 99).unwrap().is_some());
    assert_eq!(kept, [false, false, true]);
    // Another broker's clock may be behind.
    second.sweep(101, 10).unwrap();
    assert!(!first.take_nonce(b"one", 100).unwrap());
    second.sweep(700, 10).unwrap();
    assert!(first.take_nonce(b"one", 100).unwrap());
    first.agree_on_key("storage key", "mine").unwrap();
    second.agree_on_key("storage key", "mine").unwrap();
    let error = second.agree_on_key("storage key", "another").unwrap_err();
    assert!(matches!(error, StoreError::OtherKey { .. }), "{error}");
}

/// A certificate for these names and its key, and the authority that vouches for it.
fn certified(names: &[&str]) -> [String; 3] {
    let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let params = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rcgen::CertificateParams::new(names).unwrap()
    };
    let (mut authority, authority_key, server_key) = (params(&[]), key(), key());
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let server = params(names).signed_by(&server_key, &issuer).unwrap();
    [server.pem(), server_key.serialize_pem(), root]
}

#[test]
fn server_with_another_certificate_or_password_is_spoken_to() {
    const PASSWORD: &str = "correct horse battery staple";
    let [certificate, private, root] = certified(&["localhost"]);
    let Some(cluster) = Cluster::guarded(PASSWORD, &certificate, &private) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        key_file::write_new(&path, 0o600, text.as_bytes()).unwrap();
        Some(path)
    };
    let good = StoreConfig {
        postgres_password_file: file("password", &format!("{PASSWORD}\n")),
        postgres_certificate: file("root.pem", &root),
        ..config(cluster.database_over_tls("guarded", "localhost"))
    };
    PostgresStore::create(&good, &key()).unwrap();
    let store = PostgresStore::open(&good, &key()).unwrap();
    let sessions = "SELECT ssl::text, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                    WHERE application_name = 'strongroom' LIMIT 1";
    let seen = cluster.sql("guarded", sessions);
    assert!(seen.starts_with("true|TLSv1.3"), "{seen}");
    conformance::suite(Box::new(store), key());

    let url = good.postgres_url.clone().unwrap();
    let address = |of: &str, to: &str| Some(url.replace(of, to));
    let other_root = certified(&["localhost"])[2].clone();
    let bad = [
        (
            "another password",
            StoreConfig {
                postgres_password_file: file("other", "hunter2"),
                ..good.clone()
            },
            "password authentication failed for user \"strongroom\"",
        ),
        (
            "no password",
            StoreConfig {
                postgres_password_file: None,
                ..good.clone()
            },
            "password missing",
        ),
        (
            "another authority",
            StoreConfig {
                postgres_certificate: file("other.pem", &other_root),
                ..good.clone()
            },
            "invalid peer certificate",
        ),
        (
            "this machine's authorities",
            StoreConfig {
                postgres_certificate: None,
                ..good.clone()
            },
            "certificate",
        ),
        (
            "another name",
            StoreConfig {
                postgres_url: address("localhost", "127.0.0.1"),
                ..good.clone()
            },
            "not valid for name",
        ),
        (
            // Upstream's word for less: here it is as much as verify-full.
            "another name, required",
            StoreConfig {
                postgres_url: url
                    .replace("localhost", "127.0.0.1")
                    .replace("verify-full", "require")
                    .into(),
                ..good.clone()
            },
            "not valid for name",
        ),
        (
            "no TLS",
            StoreConfig {
                postgres_url: address("verify-full", "disable"),
                ..good.clone()
            },
            "no encryption",
        ),
    ];
    for (what, config, reason) in &bad {
        let error = PostgresStore::open(config, &key()).err().unwrap();
        let said = format!("{error} {error:?}");
        assert!(said.contains(reason), "{what}: {said}");
        for password in [PASSWORD, "hunter2"] {
            assert!(!said.contains(password), "{what}: {said}");
        }
    }

    // And a server that has no TLS is not spoken to without it.
    let Some(plain) = Cluster::start() else {
        return;
    };
    let url = plain.database("plain").replace("disable", "verify-full");
    let config = StoreConfig {
        postgres_url: Some(url),
        ..good
    };
    let error = PostgresStore::open(&config, &key()).err().unwrap();
    assert!(
        error.to_string().contains("does not support TLS"),
        "{error}"
    );
}

#[test]
fn only_this_machine_is_spoken_to_without_tls() {
    let parse = |url: &str, loosened: bool| {
        let config = StoreConfig {
            insecure_postgres: loosened,
            ..config(url.to_owned())
        };
        Target::parse(&config).map(|target| (target.tls, target.is_loosened()))
    };
    for (url, wanted) in [
        ("postgres://u@localhost/d", (false, false)),
        ("postgres://u@127.0.0.1:5433/d", (false, false)),
        ("postgres://u@%2Frun%2Fpostgresql/d", (false, false)),
        ("postgres://u@localhost/d?sslmode=require", (true, false)),
        ("postgres://u@db.example/d", (true, false)),
        ("postgresql://u@db.example/d?sslmode=prefer", (true, false)),
        (
            "postgres://u@db.example/d?sslmode=verify-full",
            (true, false),
        ),
        ("postgres://u@localhost,db.example/d", (true, false)),
        ("postgres://u@localhost/d?hostaddr=192.0.2.1", (true, false)),
    ] {
        assert_eq!(parse(url, false), Ok(wanted), "{url}");
    }
    let plain = "postgres://u@db.example/d?sslmode=disable";
    let refused = parse(plain, false).unwrap_err();
    assert!(refused.contains("sslmode=verify-full"), "{refused}");
    assert_eq!(parse(plain, true), Ok((false, true)));
}

#[test]
fn address_with_a_password_is_refused_and_not_repeated() {
    for (url, reason) in [
        ("postgres://u:hunter2@localhost/d", "postgres_password_file"),
        (
            "postgres://u@localhost/d?password=hunter2",
            "postgres_password_file",
        ),
        ("postgres://u:hunter2@localhost:port/d", "is no address"),
        ("host=localhost password=hunter2", "is no address"),
        ("postgres:///d", "names no host"),
    ] {
        let error = Target::parse(&config(url.to_owned())).err().unwrap();
        assert!(error.contains(reason), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
