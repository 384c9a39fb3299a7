//! The brokers that use one database: which storage keys each of them has, and which one all of them seal under.
//!
//! The database has ids of keys and never a key. A key is taken in use under the lock of the record's head, which every
//! broker takes too when it joins and when it stores a secret: so nobody seals under a key that another cannot open.

use super::super::{StorageKeys, StoreError};
use super::PostgresStore;
use super::pool::Session;
use super::read::column;

/// The ids of the storage keys that the brokers agree on.
pub(crate) struct SharedKeys {
    /// Everything new is sealed under it.
    pub(crate) current: String,
    /// It is being brought to every broker, to be the next.
    pub(crate) next: Option<String>,
}

impl PostgresStore {
    /// Takes this broker in, and gives the id of the storage key in use: that of the first broker that ever came.
    pub(crate) fn join(&self, name: &str, keys: &StorageKeys) -> Result<String, StoreError> {
        let mut session = self.session()?;
        session.batch("BEGIN")?;
        let joined = self
            .join_in(&mut session, name, keys)
            .and_then(|current| session.batch("COMMIT").map(|()| current));
        if joined.is_err() {
            session.rollback();
        }
        joined
    }

    fn join_in(
        &self,
        session: &mut Session,
        name: &str,
        keys: &StorageKeys,
    ) -> Result<String, StoreError> {
        session.row("SELECT size FROM log_head WHERE id = 1 FOR UPDATE", &[])?;
        session.execute(
            "INSERT INTO broker_key (name, key_id) VALUES ('storage key', $1) ON CONFLICT (name) DO NOTHING",
            &[&keys.current().id()],
        )?;
        let current = storage_key_in_use(session)?.unwrap_or_default();
        if !keys.has(&current) {
            return Err(StoreError::OtherKey {
                name: "storage key",
            });
        }
        session.execute(
            "DELETE FROM broker WHERE seen < now() - interval '1 day'",
            &[],
        )?;
        self.beat(session, name, keys)?;
        Ok(current)
    }

    /// Says that this broker is there and which keys it has.
    pub(crate) fn is_here(&self, name: &str, keys: &StorageKeys) -> Result<(), StoreError> {
        self.beat(&mut *self.session()?, name, keys)
    }

    fn beat(
        &self,
        session: &mut Session,
        name: &str,
        keys: &StorageKeys,
    ) -> Result<(), StoreError> {
        session.execute(
            "INSERT INTO broker (id, name, keys, seen) VALUES ($1, $2, $3, now())
             ON CONFLICT (id) DO UPDATE SET keys = excluded.keys, seen = excluded.seen
             WHERE broker.keys <> excluded.keys OR broker.seen < excluded.seen - interval '3 seconds'",
            &[&&*self.member, &name, &keys.ids()],
        )?;
        Ok(())
    }

    /// This broker ends.
    pub(crate) fn leave(&self) -> Result<(), StoreError> {
        self.session()?
            .execute("DELETE FROM broker WHERE id = $1", &[&&*self.member])?;
        Ok(())
    }

    /// What the brokers agree on now.
    pub(crate) fn shared_keys(&self) -> Result<SharedKeys, StoreError> {
        let rows = self.read(|session| {
            session.query(
                "SELECT name, key_id FROM broker_key WHERE name IN ('storage key', 'next storage key')",
                &[],
            )
        })?;
        let mut keys = SharedKeys {
            current: String::new(),
            next: None,
        };
        for row in &rows {
            let (name, id): (String, String) = (column(row, 0)?, column(row, 1)?);
            match name.as_str() {
                "storage key" => keys.current = id,
                _ => keys.next = Some(id),
            }
        }
        Ok(keys)
    }

    /// Says that a key is to be the next, unless another is that some broker has. Gives which one is.
    pub(crate) fn announce(&self, id: &str) -> Result<String, StoreError> {
        let mut session = self.session()?;
        session.execute(
            "INSERT INTO broker_key AS known (name, key_id) VALUES ('next storage key', $1)
             ON CONFLICT (name) DO UPDATE SET key_id = excluded.key_id
             WHERE NOT EXISTS (SELECT 1 FROM broker WHERE seen > now() - interval '10 seconds'
                               AND known.key_id = ANY (keys))",
            &[&id],
        )?;
        let row = session.row(
            "SELECT key_id FROM broker_key WHERE name = 'next storage key'",
            &[],
        )?;
        row.map_or(Ok(String::new()), |row| column(&row, 0))
    }

    /// The brokers that are there and do not have a key; or, those that have it.
    pub(crate) fn brokers(&self, key: &str, have_it: bool) -> Result<Vec<String>, StoreError> {
        self.read(|session| named(session, key, have_it))
    }
}

/// Under which key everything new is sealed. Nothing where no broker ever came.
pub(super) fn storage_key_in_use(session: &mut Session) -> Result<Option<String>, StoreError> {
    let row = session.row(
        "SELECT key_id FROM broker_key WHERE name = 'storage key'",
        &[],
    )?;
    row.map(|row| column(&row, 0)).transpose()
}

/// Has all brokers seal under another key, which all of them must have. The caller holds the record's head.
pub(super) fn use_storage_key(session: &mut Session, id: &str) -> Result<(), StoreError> {
    let lacking = named(session, id, false)?;
    if !lacking.is_empty() {
        return Err(StoreError::KeyLacking {
            brokers: lacking.join(", "),
        });
    }
    session.execute(
        "UPDATE broker_key SET key_id = $1 WHERE name = 'storage key'",
        &[&id],
    )?;
    session.execute(
        "DELETE FROM broker_key WHERE name = 'next storage key'",
        &[],
    )?;
    Ok(())
}

fn named(session: &mut Session, key: &str, have_it: bool) -> Result<Vec<String>, StoreError> {
    let rows = session.query(
        "SELECT name FROM broker WHERE seen > clock_timestamp() - interval '10 seconds' AND ($1 = ANY (keys)) = $2
         ORDER BY name",
        &[&key, &have_it],
    )?;
    rows.iter().map(|row| column(row, 0)).collect()
}
