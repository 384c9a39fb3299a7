//! A fresh storage key, while the broker serves: data keys are wrapped anew, and nothing that is sealed is touched.
//!
//! The key file has both keys until nothing is wrapped by the older one any more, so a broker that is stopped in between
//! opens everything and goes on where it stopped.

use std::sync::Arc;

use crate::audit::{Kind, Outcome, Record};
use crate::store::{Change, Rewrapped, StorageKeys, StoreError};
use crate::{BrokerError, Inner, key_file};

/// Makes a fresh key the current one, wraps every data key by it, and forgets the older keys. Gives how many data keys
/// were wrapped anew.
pub(crate) fn rotate(broker: &Inner, record: Record) -> Result<u64, RotateError> {
    if broker.shares_its_store() {
        return Err(RotateError::Shared);
    }
    let _rotating = broker.rotating.lock().map_err(|_| RotateError::Busy)?;
    let fresh = broker.storage_keys().rotated().map_err(StoreError::from)?;
    save(broker, &fresh)?;
    put_in_force(broker, fresh);
    // Whatever the older key still sealed is written before this entry, and found below.
    let mut begun = record.fresh();
    begun.detail = Some("a fresh key is in use, and data keys are wrapped anew".to_owned());
    broker.ledger.commit(Change::Nothing, begun)?;
    finish(broker, record)
}

/// Wraps what is still wrapped by older keys, if there are any.
pub(crate) fn resume(broker: &Inner) -> Result<u64, RotateError> {
    let _rotating = broker.rotating.lock().map_err(|_| RotateError::Busy)?;
    // The other brokers' key files may still need what this one's would forget.
    if !broker.storage_keys().has_older() || broker.shares_its_store() {
        return Ok(0);
    }
    let action = "rotate storage key";
    let mut record = Record::new(Kind::Admin, Outcome::Allowed, action, broker.now());
    record.detail = Some("went on with a rotation that was interrupted".to_owned());
    finish(broker, record)
}

fn finish(broker: &Inner, mut record: Record) -> Result<u64, RotateError> {
    let keys = broker.storage_keys();
    let current = keys.current().id();
    let mut wrapped = 0;
    loop {
        let others = broker.ledger.store().wrapped_by_others(&current, BATCH)?;
        if others.is_empty() {
            break;
        }
        wrapped += u64::try_from(others.len()).unwrap_or_default();
        let anew: Result<Vec<Rewrapped>, _> = others.iter().map(|one| keys.rewrap(one)).collect();
        let mut batch = record.fresh();
        batch.detail = Some(format!("{wrapped} data keys are wrapped by key {current}"));
        let change = Change::Rewrap(anew.map_err(StoreError::from)?);
        broker.ledger.commit(change, batch)?;
    }
    let retired = keys.retired();
    open_all(broker, &retired)?;
    save(broker, &retired)?;
    put_in_force(broker, retired);
    let said = record.detail.take().map(|said| format!("{said}; "));
    let said = said.unwrap_or_default();
    record.detail = Some(format!("{said}key {current} is the only one now"));
    broker.ledger.commit(Change::Nothing, record)?;
    Ok(wrapped)
}

/// Opens every version under these keys. What a row says of its key is not believed where the older key would be gone for
/// good.
fn open_all(broker: &Inner, keys: &StorageKeys) -> Result<(), StoreError> {
    let store = broker.ledger.store();
    for resource in store.resources()? {
        for version in store.resource_versions(&resource.path)? {
            // One that was removed meanwhile needs no key.
            if let Some(sealed) = store.sealed_secret(&resource.path, Some(version.version))? {
                keys.open(&resource.path, &sealed).map(drop)?;
            }
        }
    }
    Ok(())
}

fn save(broker: &Inner, keys: &StorageKeys) -> Result<(), BrokerError> {
    let path = &broker.config.store.key_file;
    key_file::replace_private(path, keys.to_text().as_bytes())
}

fn put_in_force(broker: &Inner, keys: StorageKeys) {
    let mut in_force = broker
        .storage_keys
        .write()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    *in_force = Arc::new(keys);
}

/// Why a key is not rotated, or not to the end: the key file then has all keys that are needed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    #[error(
        "the storage key is not rotated in a PostgreSQL store: the other brokers on it would go on sealing under the older \
         key, which this one would forget"
    )]
    Shared,
    #[error("a rotation before this one broke off: start the broker again, and it goes on")]
    Busy,
    #[error("the storage key file cannot be written: {0}. Every secret is still readable")]
    File(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

const BATCH: u32 = 256;
