//! What every store must do, whatever it is made of.
#![allow(clippy::unwrap_used)]

use serde_json::json;
use strongroom_verifier::{Provenance, ReferenceValue, ReferenceValues};
use strongroom_wire::resource::ResourcePath;

use super::{Change, MemoryStore, SealError, StorageKey, Store, StoreError};
use crate::audit::{Kind, Outcome, Record, verify_chain};

#[test]
fn memory_store_conforms() {
    suite(&MemoryStore::default());
}

/// Runs every check on an empty store.
pub(crate) fn suite(store: &dyn Store) {
    empty_store_has_nothing(store);
    put_then_read_then_replace(store);
    failed_seal_leaves_no_trace(store);
    deleted_secret_is_gone_and_its_number_is_not_reused(store);
    deleting_nothing_leaves_no_trace(store);
    policies_are_replaced(store);
    reference_values_are_merged(store);
    audit_is_one_chain_and_limit_takes_the_newest(store);
}

fn record(admin: &str) -> Record {
    let mut record = Record::new(Kind::Admin, Outcome::Allowed, "test", 42);
    record.admin = Some(admin.to_owned());
    record
}

fn path() -> ResourcePath {
    "a/b/c".parse().unwrap()
}

fn put(store: &dyn Store, key: &StorageKey, secret: &[u8]) -> Option<u64> {
    let path = path();
    let seal = |version| key.seal(&path, version, secret);
    store
        .commit(
            Change::PutSecret {
                path: &path,
                seal: &seal,
            },
            record("alice"),
        )
        .unwrap()
        .record
        .version
}

fn empty_store_has_nothing(store: &dyn Store) {
    assert!(store.sealed_secret(&path()).unwrap().is_none());
    assert!(store.resources().unwrap().is_empty());
    assert!(store.policy("resource-policy").unwrap().is_none());
    assert_eq!(
        store.reference_values().unwrap(),
        ReferenceValues::default()
    );
    assert!(store.audit(10, None).unwrap().is_empty());
}

fn put_then_read_then_replace(store: &dyn Store) {
    let key = StorageKey::generate().unwrap();
    assert_eq!(put(store, &key, b"first"), Some(1));
    assert_eq!(put(store, &key, b"second"), Some(2));
    let sealed = store.sealed_secret(&path()).unwrap().unwrap();
    assert_eq!(key.open(&path(), &sealed).unwrap().expose(), b"second");
    let listed = store.resources().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].version, listed[0].size, listed[0].stored_at),
        (2, 6, 42)
    );
    assert_eq!(listed[0].stored_by, "alice");
}

fn failed_seal_leaves_no_trace(store: &dyn Store) {
    let before = (
        store.sealed_secret(&path()).unwrap(),
        store.audit(100, None).unwrap(),
    );
    let path = path();
    let seal = |_| Err(SealError::Crypto);
    let outcome = store.commit(
        Change::PutSecret {
            path: &path,
            seal: &seal,
        },
        record("alice"),
    );
    assert!(matches!(outcome, Err(StoreError::Seal(SealError::Crypto))));
    assert_eq!(
        before,
        (
            store.sealed_secret(&path).unwrap(),
            store.audit(100, None).unwrap()
        )
    );
}

fn deleted_secret_is_gone_and_its_number_is_not_reused(store: &dyn Store) {
    let entry = store
        .commit(Change::DeleteSecret { path: &path() }, record("alice"))
        .unwrap();
    assert_eq!(entry.record.version, Some(2));
    assert!(store.sealed_secret(&path()).unwrap().is_none());
    assert!(store.resources().unwrap().is_empty());
    assert_eq!(
        put(store, &StorageKey::generate().unwrap(), b"third"),
        Some(3)
    );
}

fn deleting_nothing_leaves_no_trace(store: &dyn Store) {
    let before = store.audit(100, None).unwrap();
    let other = "x/y/z".parse().unwrap();
    let outcome = store.commit(Change::DeleteSecret { path: &other }, record("alice"));
    assert!(matches!(outcome, Err(StoreError::NotFound)));
    assert_eq!(before, store.audit(100, None).unwrap());
}

fn policies_are_replaced(store: &dyn Store) {
    for text in ["one", "two"] {
        store
            .commit(Change::SetPolicy { id: "p", text }, record("bob"))
            .unwrap();
    }
    assert_eq!(store.policy("p").unwrap().as_deref(), Some("two"));
}

fn reference_values_are_merged(store: &dyn Store) {
    let values = |entries: &[(&str, i64)]| -> ReferenceValues {
        let value = |number: i64| ReferenceValue {
            provenance: Provenance {
                message_type: Some("sample".into()),
                registered: Some(7),
                registered_by: Some("bob".into()),
                signer: (number == 3).then(|| "key".into()),
            },
            ..ReferenceValue::new(json!([number, "x"]), 9)
        };
        entries
            .iter()
            .map(|(name, number)| ((*name).to_owned(), value(*number)))
            .collect()
    };
    for entries in [&[("a", 1), ("b", 2)], &[("b", 3), ("c", 4)]] {
        let values = values(entries);
        store
            .commit(
                Change::MergeReferenceValues { values: &values },
                record("bob"),
            )
            .unwrap();
    }
    assert_eq!(
        store.reference_values().unwrap(),
        values(&[("a", 1), ("b", 3), ("c", 4)])
    );
}

fn audit_is_one_chain_and_limit_takes_the_newest(store: &dyn Store) {
    let all = store.audit(1000, None).unwrap();
    verify_chain(&all).unwrap();
    assert_eq!(all.first().unwrap().seq, 1);
    let newest = store.audit(2, None).unwrap();
    assert_eq!(newest, all[all.len() - 2..]);
    let (first, last) = (&all[0], &all[all.len() - 1]);
    let before = store.audit(2, Some(last.seq)).unwrap();
    assert_eq!(before, all[all.len() - 3..all.len() - 1]);
    assert!(store.audit(2, Some(first.seq)).unwrap().is_empty());
    let found = store.audit_event(first.record.event.as_str()).unwrap();
    assert_eq!(found.as_ref(), Some(first));
    assert!(store.audit_event("0000").unwrap().is_none());
}
