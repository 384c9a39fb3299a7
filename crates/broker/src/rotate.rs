//! A fresh storage key, while the broker serves: data keys are wrapped anew, and nothing that is sealed is touched.
//!
//! The key file has both keys until nothing is wrapped by the older one any more, so a broker that is stopped in between
//! opens everything and goes on where it stopped.
//!
//! Brokers on one database each have a key file. The fresh key is written before the others in the file of the broker that
//! was asked, and nothing is sealed under it until every broker that is there has it in its own: the operator copies the
//! file, and each broker reads it when it hears of a key that it lacks. Then all take it in use at once (`members`), data
//! keys are wrapped anew, and each broker takes the older key out of its file when nothing is wrapped by it any more.

use std::io::ErrorKind;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use strongroom_wire::resource::ResourcePath;

use crate::audit::{Kind, Outcome, Record};
use crate::config::Config;
use crate::store::{
    Change, PostgresStore, Rewrapped, SealError, SealedVersion, Secret, StorageKeys, StoreError,
};
use crate::{BrokerError, Inner, key_file, storage_key};

/// What this broker is called by the others on its database: its machine, and where it listens.
pub(crate) fn member_name(config: &Config) -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{} ({})", machine.trim(), config.listen)
}

/// Makes a fresh key the current one, wraps every data key by it, and forgets the older keys. Gives how many data keys
/// were wrapped anew.
pub(crate) fn rotate(broker: &Inner, record: Record) -> Result<u64, RotateError> {
    let _rotating = broker.rotating.lock().map_err(|_| RotateError::Busy)?;
    let mut begun = record.fresh();
    begun.detail = Some("a fresh key is in use, and data keys are wrapped anew".to_owned());
    match &broker.shared {
        None => {
            let fresh = broker.storage_keys().rotated().map_err(StoreError::from)?;
            save(broker, &fresh)?;
            put_in_force(broker, fresh);
            // Whatever the older key still sealed is written before this entry, and found below.
            broker.ledger.commit(Change::Nothing, begun)?;
        }
        Some(shared) => {
            let id = bring_to_all(broker, shared)?;
            let change = Change::UseStorageKey { id: id.clone() };
            match broker.ledger.commit(change, begun) {
                Err(StoreError::KeyLacking { brokers }) => {
                    return Err(RotateError::Lacking { key: id, brokers });
                }
                other => other?,
            };
            let keys = broker.storage_keys().with_current(&id);
            put_in_force(broker, keys.ok_or(StoreError::KeyMoved)?);
        }
    }
    finish(broker, record)
}

/// Has a fresh key announced that this broker has, and waits a moment until the others have it. Gives its id.
fn bring_to_all(broker: &Inner, shared: &PostgresStore) -> Result<String, RotateError> {
    // Its owner may have written one into the file, or copied another broker's.
    let agreed = shared.shared_keys()?;
    let mut keys = storage_key::load(&broker.config.store)?
        .with_current(&agreed.current)
        .ok_or(StoreError::OtherKey {
            name: "storage key",
        })?;
    let mut candidate = match &agreed.next {
        Some(next) if keys.has(next) => Some(next.clone()),
        Some(next) => {
            let brokers = shared.brokers(next, true)?;
            if !brokers.is_empty() {
                let (key, brokers) = (next.clone(), brokers.join(", "));
                return Err(RotateError::Elsewhere { key, brokers });
            }
            None
        }
        None => None,
    };
    candidate = candidate.or_else(|| keys.candidate());
    let id = match candidate {
        Some(id) => id,
        None => {
            keys = keys.with_candidate().map_err(StoreError::from)?;
            save(broker, &keys)?;
            keys.candidate().unwrap_or_default()
        }
    };
    let name = member_name(&broker.config);
    shared.is_here(&name, &keys)?;
    put_in_force(broker, keys);
    let announced = shared.announce(&id)?;
    if announced != id {
        let brokers = shared.brokers(&announced, true)?.join(", ");
        let key = announced;
        return Err(RotateError::Elsewhere { key, brokers });
    }
    let patience = Instant::now() + PATIENCE;
    loop {
        let lacking = shared.brokers(&id, false)?;
        if lacking.is_empty() {
            return Ok(id);
        }
        if Instant::now() >= patience {
            let brokers = lacking.join(", ");
            return Err(RotateError::Lacking { key: id, brokers });
        }
        std::thread::sleep(Duration::from_millis(100));
        // This one is there for as long as it waits.
        shared.is_here(&name, &broker.storage_keys())?;
    }
}

/// Wraps what is still wrapped by older keys, if there are any.
pub(crate) fn resume(broker: &Inner) -> Result<u64, RotateError> {
    let _rotating = broker.rotating.lock().map_err(|_| RotateError::Busy)?;
    if !broker.storage_keys().has_older() {
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
    open_all(broker, &keys.retired())?;
    let said = record.detail.take().map(|said| format!("{said}; "));
    let said = said.unwrap_or_default();
    record.detail = Some(match forget_older(broker, &keys)? {
        true => format!("{said}key {current} is the only one now"),
        false => format!(
            "{said}nothing needs another key than {current}: take the others out of the key file"
        ),
    });
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

/// Takes the older keys out of the file; not out of one that only its owner writes.
fn forget_older(broker: &Inner, keys: &StorageKeys) -> Result<bool, BrokerError> {
    let retired = keys.retired();
    match save(broker, &retired) {
        Err(BrokerError::File { path, source }) if is_read_only(&source) => {
            let path = path.display();
            tracing::warn!(%path, "nothing needs the older keys in this file any more: take them out");
            Ok(false)
        }
        saved => {
            saved?;
            put_in_force(broker, retired);
            Ok(true)
        }
    }
}

/// Follows the other brokers on the database: reads the key file when they name a key that this one lacks, seals under
/// the key that they seal under, forgets the ones that nothing needs, and says which it has. Called every second.
pub(crate) fn follow(broker: &Inner, shared: &PostgresStore) -> Result<(), StoreError> {
    let name = member_name(&broker.config);
    // Who rotates here does all this.
    let Ok(_rotating) = broker.rotating.try_lock() else {
        return shared.is_here(&name, &broker.storage_keys());
    };
    let followed = take_over(broker, shared);
    shared.is_here(&name, &broker.storage_keys())?;
    let keys = followed?;
    let older = keys.has_older() && shared.shared_keys()?.next.is_none();
    let store = broker.ledger.store();
    if older && store.wrapped_by_others(&keys.current().id(), 1)?.is_empty() {
        open_all(broker, &keys.retired())?;
        forget_older(broker, &keys).map_err(|error| StoreError::Damaged(error.to_string()))?;
    }
    Ok(())
}

/// Reads the key file when a key is missing, and seals under the one that the brokers agreed on.
fn take_over(broker: &Inner, shared: &PostgresStore) -> Result<Arc<StorageKeys>, StoreError> {
    let agreed = shared.shared_keys()?;
    let keys = broker.storage_keys();
    let has_all = |keys: &StorageKeys| {
        let has_next = agreed.next.as_ref().is_none_or(|next| keys.has(next));
        keys.has(&agreed.current) && has_next
    };
    let file = match has_all(&keys) {
        true => None,
        false => storage_key::load(&broker.config.store)
            .inspect_err(|error| tracing::error!(%error, "the storage keys cannot be read"))
            .ok()
            .filter(|file| keys.ids().iter().all(|id| file.has(id)) || has_all(file)),
    };
    let is_current = keys.current().id() == agreed.current;
    if file.is_none() && is_current {
        return Ok(keys);
    }
    let followed = file.as_ref().unwrap_or(&keys).with_current(&agreed.current);
    let Some(followed) = followed else {
        tracing::error!(
            key = agreed.current,
            "the brokers on this database seal under a storage key that is not in this one's key file: copy theirs"
        );
        return Err(StoreError::OtherKey {
            name: "storage key",
        });
    };
    put_in_force(broker, followed);
    Ok(broker.storage_keys())
}

impl Inner {
    /// Opens a version of a secret. A key that this broker lacks may be in its key file by now.
    pub(crate) fn open_sealed(
        &self,
        path: &ResourcePath,
        sealed: &SealedVersion,
    ) -> Result<Secret, StoreError> {
        let opened = self.storage_keys().open(path, sealed);
        match (&self.shared, opened) {
            (Some(shared), Err(SealError::UnknownKey { .. })) => {
                take_over(self, shared)?;
                Ok(self.storage_keys().open(path, sealed)?)
            }
            (_, opened) => Ok(opened?),
        }
    }

    /// Whether this broker has the storage key that is in use.
    pub(crate) fn has_storage_key(&self) -> Result<bool, StoreError> {
        match &self.shared {
            None => Ok(true),
            Some(shared) => Ok(self.storage_keys().has(&shared.shared_keys()?.current)),
        }
    }
}

fn save(broker: &Inner, keys: &StorageKeys) -> Result<(), BrokerError> {
    let path = &broker.config.store.key_file;
    // Written there, the key would be gone with the process.
    if key_file::is_handed(path) {
        let handed = "it is a credential, which is changed where the service manager has it";
        let source = std::io::Error::new(ErrorKind::PermissionDenied, handed);
        return Err(BrokerError::file(path, source));
    }
    storage_key::save(&broker.config.store, keys)
}

/// Whether a file is one of those that its owner writes elsewhere: a credential, a mounted secret.
fn is_read_only(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied
    )
}

fn put_in_force(broker: &Inner, keys: StorageKeys) {
    broker.sessions.know(&keys);
    let mut in_force = broker
        .storage_keys
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    *in_force = Arc::new(keys);
}

/// Why a key is not rotated, or not to the end: the key file then has all keys that are needed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    #[error(
        "storage key {key} is made and lies in this broker's key file, and nothing is sealed under it yet, because these \
         brokers on the database lack it: {brokers}. Copy the key file to each of them (or stop it), then ask again"
    )]
    Lacking { key: String, brokers: String },
    #[error(
        "a rotation to storage key {key} is under way at {brokers}: ask there, or copy that broker's key file here and ask \
         again"
    )]
    Elsewhere { key: String, brokers: String },
    #[error("a rotation before this one broke off: start the broker again, and it goes on")]
    Busy,
    #[error(
        "the storage key file cannot be written: {0}. Every secret is still readable. Where only its owner may write it, \
         that owner puts a line of 64 fresh hexadecimal digits (openssl rand -hex 32) before those in it, at every broker; \
         then a restart, or on PostgreSQL this command, goes on from there"
    )]
    File(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

const BATCH: u32 = 256;
/// For how long others may take to read their files before whoever asks is told who lacks the key.
const PATIENCE: Duration = Duration::from_secs(4);
