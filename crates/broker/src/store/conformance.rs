//! What every store must do, whatever it is made of.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use strongroom_verifier::{Provenance, ReferenceValue, ReferenceValues};
use strongroom_wire::resource::ResourcePath;
use strongroom_wire::tlog::{
    Checkpoint, Frontier, TilePath, leaf_hash, prove_consistency, tile_to_bytes,
};

use super::{Change, Governing, Ledger, Rewrapped, SealError, StorageKey, Store, StoreError};
use crate::audit::{Entry, Kind, LogError, LogKey, Outcome, Record, verify_newest};

/// Runs every check on an empty store.
pub(crate) fn suite(store: Box<dyn Store>, key: LogKey) {
    let ledger = Ledger::new(store, key);
    empty_store_has_nothing(&ledger);
    put_then_read_then_replace(&ledger);
    only_so_many_versions_are_kept(&ledger);
    secret_that_expires_says_when(&ledger);
    failed_seal_leaves_no_trace(&ledger);
    data_key_is_replaced_only_as_it_was_read(&ledger);
    deleted_secret_is_gone_and_its_number_is_not_reused(&ledger);
    deleting_nothing_leaves_no_trace(&ledger);
    policies_have_versions(&ledger);
    reference_values_have_versions(&ledger);
    admins_have_versions_and_one_stays(&ledger);
    claims_are_kept_until_they_are_forgotten(&ledger);
    audit_is_one_log_and_limit_takes_the_newest(&ledger);
    pruned_entries_are_gone_and_their_hashes_stay(&ledger);
}

fn record(admin: &str) -> Record {
    let mut record = Record::new(Kind::Admin, Outcome::Allowed, "test", 42);
    record.admin = Some(admin.to_owned());
    record
}

fn path() -> ResourcePath {
    "a/b/c".parse().unwrap()
}

fn put(ledger: &Ledger, key: &StorageKey, secret: &[u8], keep: u64) -> Entry {
    let key = StorageKey::from_text(&key.to_text()).unwrap();
    let (path, place, secret) = (path(), path(), secret.to_vec());
    let seal = Box::new(move |version| key.seal(&place, version, None, &secret));
    let change = Change::PutSecret {
        path,
        seal,
        expires: None,
        keep,
    };
    ledger.commit(change, record("alice")).unwrap()
}

fn empty_store_has_nothing(ledger: &Ledger) {
    let store = ledger.store();
    assert!(store.sealed_secret(&path(), None).unwrap().is_none());
    assert!(store.resources().unwrap().is_empty());
    assert!(store.resource_versions(&path()).unwrap().is_empty());
    assert!(store.policies().unwrap().is_empty());
    assert!(store.policy_versions("resource-policy").unwrap().is_empty());
    let none = ReferenceValues::default();
    assert_eq!(store.reference_values().unwrap(), none);
    assert!(store.admins().unwrap().is_empty());
    assert!(store.admin_versions("ann").unwrap().is_empty());
    assert!(store.claims("token").unwrap().is_none());
    assert!(store.audit(10, None).unwrap().is_empty());
}

fn put_then_read_then_replace(ledger: &Ledger) {
    let (store, key) = (ledger.store(), StorageKey::generate().unwrap());
    let first = put(ledger, &key, b"first", 10);
    let second = put(ledger, &key, b"second", 10);
    assert_eq!(
        (first.record.version, second.record.version),
        (Some(1), Some(2))
    );
    for (version, secret) in [(None, "second"), (Some(2), "second"), (Some(1), "first")] {
        let sealed = store.sealed_secret(&path(), version).unwrap().unwrap();
        let opened = key.open(&path(), &sealed).unwrap();
        assert_eq!(opened.expose(), secret.as_bytes());
    }
    assert!(store.sealed_secret(&path(), Some(3)).unwrap().is_none());
    let listed = store.resources().unwrap();
    assert_eq!(listed.len(), 1);
    let newest = &listed[0];
    assert_eq!((newest.version, newest.size, newest.stored_at), (2, 6, 42));
    assert_eq!((newest.stored_by.as_str(), newest.expires), ("alice", None));
    let sealed = store.sealed_secret(&path(), None).unwrap().unwrap();
    assert_eq!(newest.digest, sealed.digest());
    assert_eq!(second.record.digest.as_ref(), Some(&newest.digest));
    let versions = store.resource_versions(&path()).unwrap();
    assert_eq!(versions.len(), 2);
    assert_eq!((versions[0].version, &versions[1]), (1, newest));
}

fn only_so_many_versions_are_kept(ledger: &Ledger) {
    let (store, key) = (ledger.store(), StorageKey::generate().unwrap());
    put(ledger, &key, b"third", 2);
    let versions = store.resource_versions(&path()).unwrap();
    let numbers: Vec<u64> = versions.iter().map(|version| version.version).collect();
    assert_eq!(numbers, [2, 3]);
    // Nobody means to keep none.
    put(ledger, &key, b"fourth", 0);
    assert_eq!(store.resource_versions(&path()).unwrap().len(), 1);
}

fn secret_that_expires_says_when(ledger: &Ledger) {
    let place: ResourcePath = "a/b/expiring".parse().unwrap();
    let (path, key) = (place.clone(), StorageKey::generate().unwrap());
    let seal = Box::new(move |version| key.seal(&path, version, Some(99), b"secret"));
    let change = Change::PutSecret {
        path: place.clone(),
        seal,
        expires: Some(99),
        keep: 1,
    };
    ledger.commit(change, record("alice")).unwrap();
    let store = ledger.store();
    let sealed = store.sealed_secret(&place, None).unwrap().unwrap();
    let listed = store.resource_versions(&place).unwrap();
    assert_eq!((sealed.expires, listed[0].expires), (Some(99), Some(99)));
    let delete = Change::DeleteSecret { path: place };
    ledger.commit(delete, record("alice")).unwrap();
}

fn failed_seal_leaves_no_trace(ledger: &Ledger) {
    let store = ledger.store();
    let state = || {
        (
            store.sealed_secret(&path(), None).unwrap(),
            store.audit(100, None).unwrap(),
        )
    };
    let before = state();
    let change = Change::PutSecret {
        path: path(),
        seal: Box::new(|_| Err(SealError::Crypto)),
        expires: None,
        keep: 1,
    };
    let outcome = ledger.commit(change, record("alice"));
    assert!(matches!(outcome, Err(StoreError::Seal(SealError::Crypto))));
    assert_eq!(before, state());
}

fn data_key_is_replaced_only_as_it_was_read(ledger: &Ledger) {
    let (store, key) = (ledger.store(), StorageKey::generate().unwrap());
    assert!(store.wrapped_by_others(&key.id(), 0).unwrap().is_empty());
    let others = store.wrapped_by_others(&key.id(), 10).unwrap();
    assert_eq!(others.len(), 1);
    assert!(
        store
            .wrapped_by_others(&others[0].key_id, 10)
            .unwrap()
            .is_empty()
    );
    let rewrap = |old: super::Wrapped, wrapped_key: &[u8]| {
        let rewrapped = Rewrapped {
            old,
            wrapped_key: wrapped_key.to_vec(),
            key_id: "another".to_owned(),
        };
        let change = Change::Rewrap(vec![rewrapped]);
        ledger.commit(change, record("alice")).unwrap();
        store.sealed_secret(&path(), None).unwrap().unwrap()
    };
    let mut stale = others[0].clone();
    stale.wrapped_key = b"what it was before".to_vec();
    assert_eq!(rewrap(stale, b"new").wrapped_key, others[0].wrapped_key);
    let moved = rewrap(others[0].clone(), b"new");
    assert_eq!(
        (moved.wrapped_key.as_slice(), moved.key_id.as_str()),
        (b"new".as_slice(), "another")
    );
}

fn deleted_secret_is_gone_and_its_number_is_not_reused(ledger: &Ledger) {
    let store = ledger.store();
    let delete = Change::DeleteSecret { path: path() };
    let entry = ledger.commit(delete, record("alice")).unwrap();
    assert_eq!(entry.record.version, Some(4));
    assert!(store.sealed_secret(&path(), None).unwrap().is_none());
    assert!(store.resources().unwrap().is_empty());
    assert!(store.resource_versions(&path()).unwrap().is_empty());
    let told = store.deleted_versions(&path()).unwrap();
    let told = told.last().unwrap();
    let deleted = told.deleted.as_ref().unwrap();
    assert_eq!(told.version, 4);
    assert_eq!(
        (deleted.deleted_by.as_str(), deleted.deleted_at),
        ("alice", entry.record.at)
    );
    let again = put(ledger, &StorageKey::generate().unwrap(), b"fifth", 1);
    assert_eq!(again.record.version, Some(5));
}

fn deleting_nothing_leaves_no_trace(ledger: &Ledger) {
    let before = ledger.store().audit(100, None).unwrap();
    let missing = [
        Change::DeleteSecret {
            path: "x/y/z".parse().unwrap(),
        },
        Change::SetPolicy {
            id: "resource-policy".to_owned(),
            text: None,
        },
        Change::RemoveReferenceValue {
            name: "nothing".to_owned(),
        },
    ];
    for change in missing {
        let outcome = ledger.commit(change, record("alice"));
        assert!(matches!(outcome, Err(StoreError::NotFound)));
    }
    assert_eq!(before, ledger.store().audit(100, None).unwrap());
}

fn policies_have_versions(ledger: &Ledger) {
    let set = |text: Option<&str>| {
        let change = Change::SetPolicy {
            id: "p".to_owned(),
            text: text.map(str::to_owned),
        };
        ledger.commit(change, record("bob")).unwrap().record.version
    };
    assert_eq!((set(Some("one")), set(Some("two"))), (Some(1), Some(2)));
    let in_force = ledger.store().policies().unwrap();
    assert_eq!(in_force.len(), 1);
    assert_eq!(
        (in_force[0].version, in_force[0].text.as_deref()),
        (2, Some("two"))
    );
    assert_eq!(set(None), Some(3));
    assert!(ledger.store().policies().unwrap().is_empty());
    let versions = ledger.store().policy_versions("p").unwrap();
    let texts: Vec<Option<&str>> = versions.iter().map(|v| v.text.as_deref()).collect();
    assert_eq!(texts, [Some("one"), Some("two"), None]);
    assert!(versions.iter().all(|v| v.set_by == "bob" && v.set_at == 42));
    assert_eq!(set(Some("four")), Some(4));
}

fn reference_values_have_versions(ledger: &Ledger) {
    let store = ledger.store();
    let value = |number: i64| ReferenceValue {
        provenance: Provenance {
            message_type: Some("sample".into()),
            registered: Some(7),
            registered_by: Some("bob".into()),
            signer: (number == 3).then(|| "key".into()),
        },
        ..ReferenceValue::new(json!([number, "x"]), 9)
    };
    let values = |entries: &[(&str, i64)]| -> ReferenceValues {
        let entries = entries.iter();
        entries
            .map(|(name, number)| ((*name).to_owned(), value(*number)))
            .collect()
    };
    for entries in [&[("a", 1), ("b", 2)], &[("b", 3), ("c", 4)]] {
        let values = values(entries);
        let change = Change::MergeReferenceValues { values };
        ledger.commit(change, record("bob")).unwrap();
    }
    let all = values(&[("a", 1), ("b", 3), ("c", 4)]);
    assert_eq!(store.reference_values().unwrap(), all);
    let remove = Change::RemoveReferenceValue {
        name: "b".to_owned(),
    };
    ledger.commit(remove, record("eve")).unwrap();
    let left = values(&[("a", 1), ("c", 4)]);
    assert_eq!(store.reference_values().unwrap(), left);
    let versions = store.reference_value_versions("b").unwrap();
    let (first, last) = (&versions[0], &versions[2]);
    assert_eq!(first.value, Some(value(2)));
    assert_eq!(versions[1].value, Some(value(3)));
    assert_eq!(
        (&last.value, last.version, last.set_by.as_str()),
        (&None, 3, "eve")
    );
    let again = Change::RemoveReferenceValue {
        name: "b".to_owned(),
    };
    let outcome = ledger.commit(again, record("eve"));
    assert!(matches!(outcome, Err(StoreError::NotFound)));
}

fn admins_have_versions_and_one_stays(ledger: &Ledger) {
    let store = ledger.store();
    let set = |name: &str, role: Option<&str>, keep_one| {
        let change = Change::SetAdmin {
            name: name.to_owned(),
            key: role.map(|role| (role.to_owned(), format!("key of {name}"))),
            keep_one,
        };
        let entry = ledger.commit(change, record("eve"))?;
        Ok::<_, StoreError>(entry.record.version)
    };
    assert!(matches!(set("ann", None, false), Err(StoreError::NotFound)));
    assert_eq!(set("ann", Some("admin"), false).unwrap(), Some(1));
    let again = set("ann", Some("auditor"), false);
    assert!(matches!(again, Err(StoreError::Exists)));
    assert_eq!(set("bob", Some("auditor"), false).unwrap(), Some(1));
    let last = set("ann", None, true);
    assert!(matches!(last, Err(StoreError::LastAdmin)));
    assert_eq!(set("bob", None, true).unwrap(), Some(2));
    assert_eq!(set("bob", Some("admin"), true).unwrap(), Some(3));
    assert_eq!(set("ann", None, true).unwrap(), Some(2));
    let in_force = store.admins().unwrap();
    assert_eq!(in_force.len(), 1);
    let bob = &in_force[0];
    assert_eq!((bob.name.as_str(), bob.version), ("bob", 3));
    let key = ("admin".to_owned(), "key of bob".to_owned());
    assert_eq!(bob.key, Some(key));
    let versions = store.admin_versions("ann").unwrap();
    assert_eq!((versions.len(), &versions[1].key), (2, &None));
    assert!(versions.iter().all(|v| v.set_by == "eve" && v.set_at == 42));
    assert_eq!(set("bob", None, false).unwrap(), Some(4));
    assert!(store.admins().unwrap().is_empty());
}

fn claims_are_kept_until_they_are_forgotten(ledger: &Ledger) {
    let mut events = Vec::new();
    for (token, at) in [("old", 10), ("new", 20)] {
        let change = Change::KeepClaims {
            token: token.to_owned(),
            claims: format!("claims of {token}"),
        };
        let mut record = record("alice");
        record.at = at;
        events.push(record.event.to_string());
        ledger.commit(change, record).unwrap();
    }
    let claims = |token| ledger.store().claims(token).unwrap();
    let old = claims("old").unwrap();
    assert_eq!(
        (old.json.as_str(), &old.event),
        ("claims of old", &events[0])
    );
    assert_eq!(ledger.store().oldest_claims().unwrap(), Some(10));
    let forget = Change::ForgetClaims { before: 20 };
    ledger.commit(forget, record("alice")).unwrap();
    assert_eq!(claims("old"), None);
    assert_eq!(ledger.store().oldest_claims().unwrap(), Some(20));
    assert_eq!(claims("new").unwrap().json, "claims of new");
}

fn audit_is_one_log_and_limit_takes_the_newest(ledger: &Ledger) {
    let store = ledger.store();
    let all = store.audit(1000, None).unwrap();
    verify_newest(store, ledger.key().verifier(), 1000).unwrap();
    assert!((1u64..).zip(&all).all(|(seq, entry)| entry.seq == seq));
    let newest = store.audit(2, None).unwrap();
    assert_eq!(newest, all[all.len() - 2..]);
    let (first, last) = (&all[0], &all[all.len() - 1]);
    let before = store.audit(2, Some(last.seq)).unwrap();
    assert_eq!(before, all[all.len() - 3..all.len() - 1]);
    assert!(store.audit(2, Some(first.seq)).unwrap().is_empty());
    let found = store.audit_event(first.record.event.as_str()).unwrap();
    assert_eq!(found.as_ref(), Some(first));
    assert!(store.audit_event("0000").unwrap().is_none());
    let texts = store.log_entries(1, 2).unwrap();
    let parsed = texts.iter().map(|text| serde_json::from_str(text).unwrap());
    assert_eq!(parsed.collect::<Vec<Entry>>(), all[1..3]);
}

fn pruned_entries_are_gone_and_their_hashes_stay(ledger: &Ledger) {
    let store = ledger.store();
    let key = ledger.key();
    let keep = |number: u64| Change::KeepClaims {
        token: format!("pruned {number}"),
        claims: "{}".to_owned(),
    };
    let group = (0..700).map(|number| (keep(number), record("alice")));
    store.commit(group.collect(), key).unwrap();
    let before = store.head().unwrap().unwrap();
    assert_eq!((before.minimum, before.pruned_by), (0, 0));
    let older = Checkpoint::open(before.checkpoint.as_bytes(), &[key.verifier().clone()]).unwrap();
    let hashes = store.log_hashes(0, 0, 512).unwrap();
    let kept = store.log_entries(512, 10).unwrap();
    let all = store.audit(1_000, None).unwrap();
    let is_gone = |seq: usize| {
        let record = &all[seq - 1].record;
        store.audit_event(record.event.as_str()).unwrap().is_none()
    };

    // Not all, not a part of a bundle, and not nothing.
    for minimum in [0, 1, 300, before.size / 256 * 256 + 256, u64::MAX] {
        let outcome = ledger.commit(Change::PruneLog { minimum }, record("alice"));
        assert!(matches!(outcome, Err(StoreError::NotFound)), "{minimum}");
    }
    assert!(!is_gone(1));
    for minimum in [256, 512] {
        let entry = ledger.commit(Change::PruneLog { minimum }, record("alice"));
        let entry = entry.unwrap();
        assert_eq!(entry.record.minimum_index, Some(minimum));
        let head = store.head().unwrap().unwrap();
        assert_eq!((head.minimum, head.pruned_by), (minimum, entry.seq));
        verify_newest(store, key.verifier(), 1_000).unwrap();
        let again = ledger.commit(Change::PruneLog { minimum }, record("alice"));
        assert!(matches!(again, Err(StoreError::NotFound)));
    }
    assert!(store.log_entries(0, 512).unwrap().is_empty());
    assert_eq!(store.log_entries(500, 22).unwrap(), kept);
    assert_eq!(store.log_entries(512, 10).unwrap(), kept);
    assert_eq!(store.log_hashes(0, 0, 512).unwrap(), hashes);
    assert!(is_gone(1) && is_gone(512) && !is_gone(513));
    assert!(store.audit(10, Some(513)).unwrap().is_empty());
    // Claims go with the entry of their attestation.
    let first = all
        .iter()
        .position(|entry| entry.record.event == all[512].record.event);
    let claims_of = |at: usize| {
        let number = at + 700 - all.len();
        store.claims(&format!("pruned {number}")).unwrap()
    };
    assert!(claims_of(511).is_none() && claims_of(first.unwrap()).is_some());
    // What was signed before is still the beginning.
    let head = store.head().unwrap().unwrap();
    let newest = Checkpoint::open(head.checkpoint.as_bytes(), &[key.verifier().clone()]).unwrap();
    for size in [older.size(), 1, 255, 300, 512] {
        let tile = |path: &TilePath| crate::audit::hashes(store, path);
        let proof = prove_consistency(size, head.size, tile).unwrap();
        if size == older.size() {
            newest.extends(&older, &proof).unwrap();
        }
    }
    ledger.commit(Change::Nothing, record("alice")).unwrap();
    verify_newest(store, key.verifier(), 1_000).unwrap();
}

/// What somebody does to an empty store past the broker, who can write to the database and has no key. `statements` runs
/// SQL with nothing in its way, `bytes` prints a literal.
pub(crate) fn forgers(
    stores: &dyn Fn() -> Box<dyn Store>,
    statements: &dyn Fn(&str),
    bytes: &dyn Fn(&[u8]) -> String,
) {
    let set = |text: &str| Change::SetPolicy {
        id: "resource-policy".to_owned(),
        text: Some(text.to_owned()),
    };
    let commit = |store: &dyn Store, key: &LogKey, change| {
        store.commit(vec![(change, record("alice"))], key).map(drop)
    };
    let broken = |outcome: Result<(), StoreError>| match outcome {
        Err(StoreError::Record(error)) => error,
        other => panic!("{other:?}"),
    };

    // An entry is replaced and the tree over it made to fit: the next entry must not vouch for that.
    for remembers in [true, false] {
        let (store, key) = (stores(), LogKey::generate_for_tests());
        for text in ["one", "two", "three"] {
            commit(&*store, &key, set(text)).unwrap();
        }
        let mut texts = store.log_entries(0, 3).unwrap();
        texts[0] = texts[0].replace("alice", "mallory");
        let mut forged = Frontier::new();
        texts
            .iter()
            .for_each(|text| forged.push(leaf_hash(text.as_bytes())));
        let (leaf, edge) = (
            leaf_hash(texts[0].as_bytes()),
            tile_to_bytes(forged.peaks()),
        );
        statements(&format!(
            "UPDATE log_entry SET entry = '{}', leaf = {} WHERE seq = 1; UPDATE log_head SET edge = {}",
            texts[0],
            bytes(leaf.as_bytes()),
            bytes(&edge)
        ));
        let key = if remembers {
            key
        } else {
            LogKey::generate_for_tests()
        };
        let error = broken(commit(&*store, &key, Change::Nothing));
        assert!(matches!(error, LogError::Edge { size: 3 }), "{error}");
        let error = broken(verify_newest(&*store, key.verifier(), 10));
        assert!(matches!(error, LogError::OtherHead { .. }), "{error}");
    }

    // The whole store is set back while the broker runs.
    let (store, key) = (stores(), LogKey::generate_for_tests());
    commit(&*store, &key, set("one")).unwrap();
    let head = store.head().unwrap().unwrap();
    commit(&*store, &key, set("two")).unwrap();
    statements(&format!(
        "DELETE FROM log_entry WHERE seq = 2; DELETE FROM policy_version WHERE version = 2;
             UPDATE log_head SET size = 1, edge = {}, checkpoint = '{}'",
        bytes(&tile_to_bytes(&head.edge)),
        head.checkpoint
    ));
    let error = broken(commit(&*store, &key, Change::Nothing));
    assert!(
        matches!(error, LogError::SetBack { known: 2, found: 1 }),
        "{error}"
    );

    // The record is emptied.
    let (store, key) = (stores(), LogKey::generate_for_tests());
    commit(&*store, &key, set("one")).unwrap();
    statements("DELETE FROM log_entry; DELETE FROM log_node; DELETE FROM log_head");
    let error = broken(verify_newest(&*store, key.verifier(), 10));
    assert!(matches!(error, LogError::NoHead), "{error}");
    let error = broken(commit(&*store, &key, Change::Nothing));
    assert!(matches!(error, LogError::NoHead), "{error}");

    // What decides is changed, and neither believed nor signed along with what changes next.
    for statement in [
        "UPDATE policy_version SET text = 'other'",
        "DELETE FROM policy_version WHERE version = 2",
        "UPDATE policy_version SET version = 3 WHERE version = 1",
        "INSERT INTO policy_version VALUES ('resource-policy/a/*', 1, 'package policy', 7, 'alice')",
        "INSERT INTO admin_version VALUES ('mallory', 1, 'admin', 'PEM', 7, 'alice')",
        "INSERT INTO reference_value_version VALUES ('svn', 1, '{\"value\": [\"9\"], \"expires\": 9, \"provenance\": {}}', 7, 'alice')",
    ] {
        let (store, key) = (stores(), LogKey::generate_for_tests());
        for text in ["one", "two"] {
            commit(&*store, &key, set(text)).unwrap();
        }
        Governing::read(&*store, key.verifier()).unwrap();
        statements(statement);
        let believed = || Governing::read(&*store, key.verifier()).map(drop);
        assert!(
            matches!(broken(believed()), LogError::Governing),
            "{statement}"
        );
        commit(&*store, &key, Change::Nothing).unwrap();
        assert!(
            matches!(broken(believed()), LogError::Governing),
            "{statement}"
        );
        let error = broken(commit(&*store, &key, set("three")));
        assert!(matches!(error, LogError::Governing), "{statement}");
        assert!(
            matches!(broken(believed()), LogError::Governing),
            "{statement}"
        );
    }
}
