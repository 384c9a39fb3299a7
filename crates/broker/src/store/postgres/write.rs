//! A group of changes and their records, in one transaction.
//!
//! The record's head is locked first, so brokers write one after the other and their entries form one log. What a group
//! appends is sent at its end in a few statements, however large the group is.

use strongroom_wire::resource::ResourcePath;
use strongroom_wire::tlog::{Frontier, Hash, leaf_hash, tile_to_bytes};

use super::super::{
    Change, Committed, Rewrapped, Seal, SealedVersion, StoreError, may_prune, may_set_admin,
};
use super::members;
use super::pool::Session;
use super::read::{self, clamped, column, count};
use crate::audit::{Entry, LogError, LogKey, Record, Resumed};

/// Begins a transaction and locks the record's head.
pub(super) fn begin(session: &mut Session, key: &LogKey) -> Result<Group, StoreError> {
    session.batch("BEGIN")?;
    let head = session.row(
        "SELECT size, edge, governed, checkpoint FROM log_head WHERE id = 1 FOR UPDATE",
        &[],
    );
    let begun = head.and_then(|row| {
        let row = row.ok_or(LogError::NoHead)?;
        let (size, edge) = (count(&row, 0)?, read::edge(column(&row, 1)?)?);
        let Resumed {
            frontier,
            governing,
        } = key.resume(size, edge, column(&row, 3)?)?;
        Ok(Group {
            frontier,
            // What an older version did not sign is signed from now on.
            governs: governing.is_none(),
            governing,
            governed: count(&row, 2)?,
            pruned_by: None,
            entries: Entries::default(),
            nodes: Nodes::default(),
            claims: NewClaims::default(),
        })
    });
    if begun.is_err() {
        session.rollback();
    }
    begun
}

/// A transaction that holds the record's head.
pub(super) struct Group {
    frontier: Frontier,
    /// The digest of what governs, as the head has it signed.
    governing: Option<Hash>,
    /// Whether that changes.
    governs: bool,
    governed: u64,
    /// The number of an entry of this group that says what was pruned.
    pruned_by: Option<u64>,
    entries: Entries,
    nodes: Nodes,
    claims: NewClaims,
}

/// Rows to insert, by column.
#[derive(Default)]
struct Entries {
    seqs: Vec<i64>,
    events: Vec<String>,
    leaves: Vec<Vec<u8>>,
    texts: Vec<String>,
}

#[derive(Default)]
struct Nodes {
    levels: Vec<i32>,
    positions: Vec<i64>,
    hashes: Vec<Vec<u8>>,
}

#[derive(Default)]
struct NewClaims {
    tokens: Vec<String>,
    events: Vec<String>,
    times: Vec<i64>,
    texts: Vec<String>,
}

impl Group {
    /// Applies the changes and ends the transaction. What fails for one change alone is that change's outcome; what fails
    /// for the database undoes all.
    pub(super) fn commit(
        self,
        session: &mut Session,
        changes: Vec<(Change, Record)>,
        key: &LogKey,
    ) -> Result<Vec<Committed>, StoreError> {
        let written = self.write(session, changes, key);
        if written.is_err() {
            session.rollback();
        }
        written
    }

    fn write(
        mut self,
        session: &mut Session,
        changes: Vec<(Change, Record)>,
        key: &LogKey,
    ) -> Result<Vec<Committed>, StoreError> {
        if let Some(signed) = self.governing
            && changes.iter().any(|(change, _)| change.governs())
            && read::governing(session)?.digest() != signed
        {
            // Nothing that was changed past the brokers is signed with what they change.
            return Err(LogError::Governing.into());
        }
        let mut committed = Vec::with_capacity(changes.len());
        for (change, mut record) in changes {
            let governs = change.governs();
            self.governs |= governs;
            let applied = match change {
                Change::Nothing => Ok(()),
                Change::KeepClaims { token, claims } => {
                    self.claims.keep(token, claims, &record);
                    Ok(())
                }
                change => {
                    self.claims.write(session)?;
                    session.batch("SAVEPOINT change")?;
                    let applied = apply(session, change, &mut record);
                    match &applied {
                        Ok(()) => session.batch("RELEASE change")?,
                        // On a connection that broke this fails too, and with it the group.
                        Err(_) => session.batch("ROLLBACK TO change; RELEASE change")?,
                    }
                    applied
                }
            };
            committed.push(match applied {
                Ok(()) => {
                    let entry = self.record(record)?;
                    if governs {
                        self.governed = entry.seq;
                    }
                    Ok(entry)
                }
                Err(error) => Err(error),
            });
        }
        self.claims.write(session)?;
        self.entries.write(session)?;
        self.nodes.write(session)?;
        if self.governs {
            self.governing = Some(read::governing(session)?.digest());
        }
        let checkpoint = key.checkpoint(&self.frontier, self.governing.as_ref())?;
        session.execute(
            "UPDATE log_head SET size = $1, edge = $2, checkpoint = $3, governed = $4, pruned_by = coalesce($5, pruned_by)
             WHERE id = 1",
            &[
                &clamped(self.frontier.size()),
                &tile_to_bytes(self.frontier.peaks()),
                &checkpoint,
                &clamped(self.governed),
                &self.pruned_by.map(clamped),
            ],
        )?;
        session.batch("COMMIT")?;
        key.remember(checkpoint, &self.frontier, self.governing);
        Ok(committed)
    }

    /// Gives a record its number and appends it.
    fn record(&mut self, record: Record) -> Result<Entry, StoreError> {
        let (entry, text) = Entry::numbered(self.frontier.size() + 1, record)
            .map_err(|e| StoreError::Damaged(format!("audit record: {e}")))?;
        let leaf = leaf_hash(text.as_bytes());
        if entry.record.minimum_index.is_some() {
            self.pruned_by = Some(entry.seq);
        }
        self.entries.seqs.push(clamped(entry.seq));
        self.entries
            .events
            .push(entry.record.event.as_str().to_owned());
        self.entries.leaves.push(leaf.as_bytes().to_vec());
        self.entries.texts.push(text);
        let nodes = &mut self.nodes;
        self.frontier.push_with(leaf, |above| {
            if above.level > 0 {
                nodes.levels.push(i32::from(above.level));
                nodes.positions.push(clamped(above.position));
                nodes.hashes.push(above.hash.as_bytes().to_vec());
            }
        });
        Ok(entry)
    }
}

impl Entries {
    fn write(&self, session: &mut Session) -> Result<(), StoreError> {
        if self.seqs.is_empty() {
            return Ok(());
        }
        session.execute(
            "INSERT INTO log_entry (seq, event, leaf, entry)
             SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::text[]) AS new (seq, event, leaf, entry)
             ORDER BY seq",
            &[&self.seqs, &self.events, &self.leaves, &self.texts],
        )?;
        Ok(())
    }
}

impl Nodes {
    fn write(&self, session: &mut Session) -> Result<(), StoreError> {
        if self.levels.is_empty() {
            return Ok(());
        }
        session.execute(
            "INSERT INTO log_node (level, position, hash)
             SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bytea[])",
            &[&self.levels, &self.positions, &self.hashes],
        )?;
        Ok(())
    }
}

impl NewClaims {
    fn keep(&mut self, token: String, claims: String, record: &Record) {
        self.tokens.push(token);
        self.events.push(record.event.as_str().to_owned());
        self.times.push(clamped(record.at));
        self.texts.push(claims);
    }

    /// Writes what came so far, so that a change sees what came before it.
    fn write(&mut self, session: &mut Session) -> Result<(), StoreError> {
        if self.tokens.is_empty() {
            return Ok(());
        }
        let new = std::mem::take(self);
        session.execute(
            "INSERT INTO claims (token, event, at, claims)
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])",
            &[&new.tokens, &new.events, &new.times, &new.texts],
        )?;
        Ok(())
    }
}

fn apply(session: &mut Session, change: Change, record: &mut Record) -> Result<(), StoreError> {
    match change {
        // The group's own.
        Change::Nothing | Change::KeepClaims { .. } => Ok(()),
        Change::PutSecret {
            path,
            seal,
            expires,
            keep,
        } => put_secret(session, &path, seal, expires, keep, record),
        Change::DeleteSecret { path } => delete_secret(session, &path, record),
        Change::Rewrap(rewrapped) => rewrap(session, &rewrapped),
        Change::SetPolicy { id, text } => set_policy(session, &id, text.as_deref(), record),
        Change::MergeReferenceValues { values } => {
            for (name, value) in values.iter() {
                let json = serde_json::to_string(value)
                    .map_err(|e| StoreError::Damaged(format!("reference value {name:?}: {e}")))?;
                set_reference_value(session, name, Some(&json), record)?;
            }
            Ok(())
        }
        Change::RemoveReferenceValue { name } => {
            let known = read::reference_value_versions(session, &name)?;
            match known.last() {
                Some(newest) if newest.value.is_some() => {
                    set_reference_value(session, &name, None, record)
                }
                _ => Err(StoreError::NotFound),
            }
        }
        Change::SetAdmin {
            name,
            key,
            keep_one,
        } => set_admin(session, &name, key.as_ref(), keep_one, record),
        Change::ForgetClaims { before } => {
            session.execute("DELETE FROM claims WHERE at < $1", &[&clamped(before)])?;
            Ok(())
        }
        Change::PruneLog { minimum } => prune_log(session, minimum, record),
        Change::UseStorageKey { id } => members::use_storage_key(session, &id),
    }
}

fn put_secret(
    session: &mut Session,
    path: &ResourcePath,
    seal: Seal,
    expires: Option<u64>,
    keep: u64,
    record: &mut Record,
) -> Result<(), StoreError> {
    let name = path.to_string();
    let row = session.row(
        "INSERT INTO secret_counter AS known (path, last_version) VALUES ($1, 1)
         ON CONFLICT (path) DO UPDATE SET last_version = known.last_version + 1 RETURNING last_version",
        &[&name],
    )?;
    let row = row.ok_or_else(|| StoreError::Damaged(format!("the counter of {name}")))?;
    let version = count(&row, 0)?;
    let sealed: SealedVersion = seal(version)?;
    // Whoever changes this holds the record's head, as we do.
    if members::storage_key_in_use(session)?.is_some_and(|key| key != sealed.key_id) {
        return Err(StoreError::KeyMoved);
    }
    session.execute(
        "DELETE FROM secret WHERE path = $1 AND version <= $2",
        &[&name, &clamped(version.saturating_sub(keep.max(1)))],
    )?;
    let digest = sealed.digest();
    session.execute(
        "INSERT INTO secret (path, version, wrapped_key, key_id, nonce, ciphertext, size, digest, stored_at,
                             stored_by, expires)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        &[
            &name,
            &clamped(version),
            &sealed.wrapped_key,
            &sealed.key_id,
            &sealed.nonce,
            &sealed.ciphertext,
            &clamped(sealed.size()),
            &digest,
            &clamped(record.at),
            &record.admin.as_deref().unwrap_or_default(),
            &expires.map(clamped),
        ],
    )?;
    record.version = Some(version);
    record.digest = Some(digest);
    Ok(())
}

fn delete_secret(
    session: &mut Session,
    path: &ResourcePath,
    record: &mut Record,
) -> Result<(), StoreError> {
    session.execute(
        "INSERT INTO secret_deleted
         SELECT path, version, size, digest, stored_at, stored_by, expires, $2::bigint, $3::text FROM secret WHERE path = $1",
        &[
            &path.to_string(),
            &clamped(record.at),
            &record.admin.as_deref().unwrap_or_default(),
        ],
    )?;
    let removed = session.query(
        "DELETE FROM secret WHERE path = $1 RETURNING version",
        &[&path.to_string()],
    )?;
    let versions: Result<Vec<u64>, StoreError> = removed.iter().map(|row| count(row, 0)).collect();
    record.version = versions?.into_iter().max();
    match record.version {
        None => Err(StoreError::NotFound),
        Some(_) => Ok(()),
    }
}

fn rewrap(session: &mut Session, rewrapped: &[Rewrapped]) -> Result<(), StoreError> {
    for Rewrapped {
        old,
        wrapped_key,
        key_id,
    } in rewrapped
    {
        session.execute(
            "UPDATE secret SET wrapped_key = $3, key_id = $4
             WHERE path = $1 AND version = $2 AND wrapped_key = $5",
            &[
                &old.path.to_string(),
                &clamped(old.version),
                wrapped_key,
                key_id,
                &old.wrapped_key,
            ],
        )?;
    }
    Ok(())
}

fn set_policy(
    session: &mut Session,
    id: &str,
    text: Option<&str>,
    record: &mut Record,
) -> Result<(), StoreError> {
    if text.is_none()
        && !read::policies(session)?
            .iter()
            .any(|policy| policy.id == id)
    {
        return Err(StoreError::NotFound);
    }
    let row = session.row(
        "INSERT INTO policy_version (id, version, text, set_at, set_by)
         SELECT $1::text, coalesce(max(version), 0) + 1, $2::text, $3::bigint, $4::text FROM policy_version WHERE id = $1
         RETURNING version",
        &[
            &id,
            &text,
            &clamped(record.at),
            &record.admin.as_deref().unwrap_or_default(),
        ],
    )?;
    record.version = row.map(|row| count(&row, 0)).transpose()?;
    Ok(())
}

/// The head says first what may go.
fn prune_log(session: &mut Session, minimum: u64, record: &mut Record) -> Result<(), StoreError> {
    may_prune(read::head(session)?.as_ref(), minimum)?;
    for statement in [
        "UPDATE log_head SET minimum = $1 WHERE id = 1",
        "DELETE FROM claims WHERE event IN (SELECT event FROM log_entry WHERE seq <= $1)",
        "INSERT INTO log_node (level, position, hash) SELECT 0, seq - 1, leaf FROM log_entry WHERE seq <= $1",
        "DELETE FROM log_entry WHERE seq <= $1",
    ] {
        session.execute(statement, &[&clamped(minimum)])?;
    }
    record.minimum_index = Some(minimum);
    Ok(())
}

fn set_reference_value(
    session: &mut Session,
    name: &str,
    json: Option<&str>,
    record: &Record,
) -> Result<(), StoreError> {
    session.execute(
        "INSERT INTO reference_value_version (name, version, value, set_at, set_by)
         SELECT $1::text, coalesce(max(version), 0) + 1, $2::text, $3::bigint, $4::text
         FROM reference_value_version WHERE name = $1",
        &[
            &name,
            &json,
            &clamped(record.at),
            &record.admin.as_deref().unwrap_or_default(),
        ],
    )?;
    Ok(())
}

fn set_admin(
    session: &mut Session,
    name: &str,
    key: Option<&(String, String)>,
    keep_one: bool,
    record: &mut Record,
) -> Result<(), StoreError> {
    may_set_admin(&read::admins(session)?, name, key.is_some(), keep_one)?;
    let row = session.row(
        "INSERT INTO admin_version (name, version, role, public_key, set_at, set_by)
         SELECT $1::text, coalesce(max(version), 0) + 1, $2::text, $3::text, $4::bigint, $5::text
         FROM admin_version WHERE name = $1
         RETURNING version",
        &[
            &name,
            &key.map(|(role, _)| role),
            &key.map(|(_, public_key)| public_key),
            &clamped(record.at),
            &record.admin.as_deref().unwrap_or_default(),
        ],
    )?;
    record.version = row.map(|row| count(&row, 0)).transpose()?;
    Ok(())
}
