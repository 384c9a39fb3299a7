//! A group of changes and their records, in one transaction.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use strongroom_wire::resource::ResourcePath;
use strongroom_wire::tlog::{Frontier, Hash, leaf_hash, tile_to_bytes};

use super::super::{
    Change, Committed, Rewrapped, Seal, SealedVersion, StoreError, may_prune, may_set_admin,
};
use super::read;
use crate::audit::{Entry, LogError, LogKey, Record, Resumed};

/// Applies a group. What fails for one change alone is that change's outcome; what fails for the database undoes all.
pub(super) fn group(
    connection: &mut Connection,
    group: Vec<(Change, Record)>,
    key: &LogKey,
) -> Result<Vec<Committed>, StoreError> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut log = Log::read(&transaction, key)?;
    if group.iter().any(|(change, _)| change.governs()) {
        log.governing_is_signed(&transaction)?;
    }
    let mut committed = Vec::with_capacity(group.len());
    for (change, mut record) in group {
        log.governs |= change.governs();
        // A savepoint costs two statements, and these changes cannot fail alone.
        let applied = match &change {
            Change::Nothing | Change::KeepClaims { .. } => {
                apply(&transaction, change, &mut record)?;
                Ok(())
            }
            _ => {
                let savepoint = transaction.savepoint()?;
                let applied = apply(&savepoint, change, &mut record);
                if applied.is_ok() {
                    savepoint.commit()?;
                }
                applied
            }
        };
        committed.push(match applied {
            Ok(()) => Ok(log.record(&transaction, record)?),
            Err(error) => Err(error),
        });
    }
    let checkpoint = log.write(&transaction, key)?;
    transaction.commit()?;
    key.remember(checkpoint, &log.frontier, log.governing);
    Ok(committed)
}

fn apply(at: &Connection, change: Change, record: &mut Record) -> Result<(), StoreError> {
    match change {
        Change::Nothing => Ok(()),
        Change::PutSecret {
            path,
            seal,
            expires,
            keep,
        } => put_secret(at, &path, seal, expires, keep, record),
        Change::DeleteSecret { path } => delete_secret(at, &path, record),
        Change::Rewrap(rewrapped) => rewrap(at, &rewrapped),
        Change::SetPolicy { id, text } => set_policy(at, &id, text.as_deref(), record),
        Change::MergeReferenceValues { values } => {
            for (name, value) in values.iter() {
                let json = serde_json::to_string(value)
                    .map_err(|e| StoreError::Damaged(format!("reference value {name:?}: {e}")))?;
                set_reference_value(at, name, Some(&json), record)?;
            }
            Ok(())
        }
        Change::RemoveReferenceValue { name } => {
            let known = read::reference_value_versions(at, &name)?;
            match known.last() {
                Some(newest) if newest.value.is_some() => {
                    set_reference_value(at, &name, None, record)
                }
                _ => Err(StoreError::NotFound),
            }
        }
        Change::SetAdmin {
            name,
            key,
            keep_one,
        } => set_admin(at, &name, key.as_ref(), keep_one, record),
        Change::KeepClaims { token, claims } => {
            at.prepare_cached(
                "INSERT INTO claims (token, event, at, claims) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![token, record.event.as_str(), record.at, claims])?;
            Ok(())
        }
        Change::ForgetClaims { before } => {
            at.prepare_cached("DELETE FROM claims WHERE at < ?1")?
                .execute([before])?;
            Ok(())
        }
        Change::PruneLog { minimum } => prune_log(at, minimum, record),
        // One broker has a file, and its key file says which.
        Change::UseStorageKey { .. } => Err(StoreError::NotFound),
    }
}

fn put_secret(
    at: &Connection,
    path: &ResourcePath,
    seal: Seal,
    expires: Option<u64>,
    keep: u64,
    record: &mut Record,
) -> Result<(), StoreError> {
    let name = path.to_string();
    let version: u64 = at
        .prepare_cached(
            "INSERT INTO secret_counter (path, last_version) VALUES (?1, 1)
             ON CONFLICT (path) DO UPDATE SET last_version = last_version + 1 RETURNING last_version",
        )?
        .query_row([&name], |row| row.get(0))?;
    let sealed: SealedVersion = seal(version)?;
    at.prepare_cached("DELETE FROM secret WHERE path = ?1 AND version <= ?2")?
        .execute(params![name, version.saturating_sub(keep.max(1))])?;
    let digest = sealed.digest();
    at.prepare_cached(
        "INSERT INTO secret (path, version, wrapped_key, key_id, nonce, ciphertext, size, digest, stored_at,
                             stored_by, expires)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        name,
        version,
        sealed.wrapped_key,
        sealed.key_id,
        sealed.nonce,
        sealed.ciphertext,
        sealed.size(),
        digest,
        record.at,
        record.admin.as_deref().unwrap_or_default(),
        expires,
    ])?;
    record.version = Some(version);
    record.digest = Some(digest);
    Ok(())
}

fn delete_secret(
    at: &Connection,
    path: &ResourcePath,
    record: &mut Record,
) -> Result<(), StoreError> {
    let name = path.to_string();
    record.version = at.query_row(
        "SELECT max(version) FROM secret WHERE path = ?1",
        [&name],
        |row| row.get(0),
    )?;
    at.execute(
        "INSERT INTO secret_deleted
         SELECT path, version, size, digest, stored_at, stored_by, expires, ?2, ?3 FROM secret WHERE path = ?1",
        params![name, record.at, record.admin.as_deref().unwrap_or_default()],
    )?;
    match at.execute("DELETE FROM secret WHERE path = ?1", [&name])? {
        0 => Err(StoreError::NotFound),
        _ => Ok(()),
    }
}

fn rewrap(at: &Connection, rewrapped: &[Rewrapped]) -> Result<(), StoreError> {
    let mut statement = at.prepare_cached(
        "UPDATE secret SET wrapped_key = ?3, key_id = ?4
         WHERE path = ?1 AND version = ?2 AND wrapped_key = ?5",
    )?;
    for Rewrapped {
        old,
        wrapped_key,
        key_id,
    } in rewrapped
    {
        statement.execute(params![
            old.path.to_string(),
            old.version,
            wrapped_key,
            key_id,
            old.wrapped_key
        ])?;
    }
    Ok(())
}

fn set_policy(
    at: &Connection,
    id: &str,
    text: Option<&str>,
    record: &mut Record,
) -> Result<(), StoreError> {
    if text.is_none() && !read::policies(at)?.iter().any(|policy| policy.id == id) {
        return Err(StoreError::NotFound);
    }
    let version = at
        .prepare_cached(
            "INSERT INTO policy_version (id, version, text, set_at, set_by)
             SELECT ?1, coalesce(max(version), 0) + 1, ?2, ?3, ?4 FROM policy_version WHERE id = ?1
             RETURNING version",
        )?
        .query_row(
            params![
                id,
                text,
                record.at,
                record.admin.as_deref().unwrap_or_default()
            ],
            |row| row.get(0),
        )?;
    record.version = Some(version);
    Ok(())
}

fn set_admin(
    at: &Connection,
    name: &str,
    key: Option<&(String, String)>,
    keep_one: bool,
    record: &mut Record,
) -> Result<(), StoreError> {
    may_set_admin(&read::admins(at)?, name, key.is_some(), keep_one)?;
    let version = at
        .prepare_cached(
            "INSERT INTO admin_version (name, version, role, public_key, set_at, set_by)
             SELECT ?1, coalesce(max(version), 0) + 1, ?2, ?3, ?4, ?5 FROM admin_version WHERE name = ?1
             RETURNING version",
        )?
        .query_row(
            params![
                name,
                key.map(|(role, _)| role),
                key.map(|(_, public_key)| public_key),
                record.at,
                record.admin.as_deref().unwrap_or_default()
            ],
            |row| row.get(0),
        )?;
    record.version = Some(version);
    Ok(())
}

/// The head says first what may go.
fn prune_log(at: &Connection, minimum: u64, record: &mut Record) -> Result<(), StoreError> {
    may_prune(read::head(at)?.as_ref(), minimum)?;
    for statement in [
        "UPDATE log_head SET minimum = ?1 WHERE id = 1",
        "DELETE FROM claims WHERE event IN (SELECT event FROM log_entry WHERE seq <= ?1)",
        "INSERT INTO log_node (level, position, hash) SELECT 0, seq - 1, leaf FROM log_entry WHERE seq <= ?1",
        "DELETE FROM log_entry WHERE seq <= ?1",
    ] {
        at.execute(statement, [minimum])?;
    }
    record.minimum_index = Some(minimum);
    Ok(())
}

fn set_reference_value(
    at: &Connection,
    name: &str,
    json: Option<&str>,
    record: &Record,
) -> Result<(), StoreError> {
    at.prepare_cached(
        "INSERT INTO reference_value_version (name, version, value, set_at, set_by)
         SELECT ?1, coalesce(max(version), 0) + 1, ?2, ?3, ?4 FROM reference_value_version WHERE name = ?1",
    )?
    .execute(params![
        name,
        json,
        record.at,
        record.admin.as_deref().unwrap_or_default()
    ])?;
    Ok(())
}

/// The record's tree, for as long as a transaction lasts.
pub(super) struct Log {
    frontier: Frontier,
    /// The digest of what governs, as the head has it signed.
    governing: Option<Hash>,
    /// Whether that changes.
    governs: bool,
}

impl Log {
    /// The record of a store that has none yet.
    pub(super) fn new() -> Self {
        Self {
            frontier: Frontier::new(),
            governing: None,
            governs: false,
        }
    }

    fn read(transaction: &Connection, key: &LogKey) -> Result<Self, StoreError> {
        let (size, edge, checkpoint) = read::edge(transaction)?.ok_or(LogError::NoHead)?;
        let Resumed {
            frontier,
            governing,
        } = key.resume(size, edge, &checkpoint)?;
        Ok(Self {
            frontier,
            // What an older version did not sign is signed from now on.
            governs: governing.is_none(),
            governing,
        })
    }

    /// Nothing that was changed past the broker is signed with what it changes.
    fn governing_is_signed(&self, at: &Connection) -> Result<(), StoreError> {
        match self.governing {
            Some(signed) if signed != read::governing(at)?.digest() => {
                Err(LogError::Governing.into())
            }
            _ => Ok(()),
        }
    }

    /// Gives a record its number and appends it.
    fn record(&mut self, at: &Connection, record: Record) -> Result<Entry, StoreError> {
        let (entry, text) = Entry::numbered(self.frontier.size() + 1, record)
            .map_err(|e| StoreError::Damaged(format!("audit record: {e}")))?;
        self.append(at, entry.record.event.as_str(), &text)?;
        if entry.record.minimum_index.is_some() {
            at.execute(
                "UPDATE log_head SET pruned_by = ?1 WHERE id = 1",
                [entry.seq],
            )?;
        }
        Ok(entry)
    }

    pub(super) fn append(
        &mut self,
        at: &Connection,
        event: &str,
        entry: &str,
    ) -> Result<(), StoreError> {
        let leaf = leaf_hash(entry.as_bytes());
        let seq = self.frontier.size() + 1;
        at.prepare_cached(
            "INSERT INTO log_entry (seq, event, leaf, entry) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![seq, event, leaf.as_bytes(), entry])?;
        let mut above = Vec::new();
        self.frontier.push_with(leaf, |hash| above.push(hash));
        let mut statement =
            at.prepare_cached("INSERT INTO log_node (level, position, hash) VALUES (?1, ?2, ?3)")?;
        for hash in above.iter().filter(|hash| hash.level > 0) {
            statement.execute(params![hash.level, hash.position, hash.hash.as_bytes()])?;
        }
        Ok(())
    }

    /// Signs what is appended so far, and writes the head.
    pub(super) fn write(
        &mut self,
        at: &Transaction<'_>,
        key: &LogKey,
    ) -> Result<String, StoreError> {
        if self.governs {
            self.governing = Some(read::governing(at)?.digest());
        }
        let checkpoint = key.checkpoint(&self.frontier, self.governing.as_ref())?;
        let edge = tile_to_bytes(self.frontier.peaks());
        at.prepare_cached(
            "INSERT INTO log_head (id, size, edge, checkpoint) VALUES (1, ?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET size = ?1, edge = ?2, checkpoint = ?3",
        )?
        .execute(params![self.frontier.size(), edge, checkpoint])?;
        Ok(checkpoint)
    }
}
