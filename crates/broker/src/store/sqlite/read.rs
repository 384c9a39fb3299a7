//! What is asked of the store.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use strongroom_verifier::{ReferenceValue, ReferenceValues};
use strongroom_wire::resource::{ResourceError, ResourcePath};
use strongroom_wire::tlog::{Hash, tile_from_bytes};

use super::super::{
    AdminVersion, Claims, Deletion, Governing, Head, PolicyVersion, ReferenceValueVersion,
    ResourceMetadata, SealedVersion, StoreError, Wrapped,
};
use crate::audit::{Entry, LogError};

pub(super) fn sealed_secret(
    connection: &Connection,
    path: &ResourcePath,
    version: Option<u64>,
) -> Result<Option<SealedVersion>, StoreError> {
    let sealed = connection
        .prepare_cached(
            "SELECT version, wrapped_key, key_id, nonce, ciphertext, expires FROM secret
             WHERE path = ?1 AND version = coalesce(?2, version) ORDER BY version DESC LIMIT 1",
        )?
        .query_row(params![path.to_string(), version], |row| {
            Ok(SealedVersion {
                version: row.get(0)?,
                wrapped_key: row.get(1)?,
                key_id: row.get(2)?,
                nonce: row.get(3)?,
                ciphertext: row.get(4)?,
                expires: row.get(5)?,
            })
        })
        .optional()?;
    Ok(sealed)
}

pub(super) fn resources(connection: &Connection) -> Result<Vec<ResourceMetadata>, StoreError> {
    // With max(), SQLite takes the other columns from the row that has the maximum.
    let mut statement = connection.prepare_cached(
        "SELECT path, max(version), size, digest, stored_at, stored_by, expires FROM secret
         GROUP BY path ORDER BY path",
    )?;
    Ok(statement
        .query_map([], metadata)?
        .collect::<Result<_, _>>()?)
}

pub(super) fn resource_versions(
    connection: &Connection,
    path: &ResourcePath,
) -> Result<Vec<ResourceMetadata>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT path, version, size, digest, stored_at, stored_by, expires FROM secret
         WHERE path = ?1 ORDER BY version",
    )?;
    let rows = statement.query_map([path.to_string()], metadata)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn metadata(row: &Row<'_>) -> rusqlite::Result<ResourceMetadata> {
    Ok(ResourceMetadata {
        path: path(row)?,
        version: row.get(1)?,
        size: row.get(2)?,
        digest: row.get(3)?,
        stored_at: row.get(4)?,
        stored_by: row.get(5)?,
        expires: row.get(6)?,
        deleted: None,
    })
}

pub(super) fn deleted_versions(
    connection: &Connection,
    path: &ResourcePath,
) -> Result<Vec<ResourceMetadata>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT path, version, size, digest, stored_at, stored_by, expires, deleted_at, deleted_by
         FROM secret_deleted WHERE path = ?1 ORDER BY version",
    )?;
    let rows = statement.query_map([path.to_string()], |row| {
        let deleted = Deletion {
            deleted_at: row.get(7)?,
            deleted_by: row.get(8)?,
        };
        Ok(ResourceMetadata {
            deleted: Some(deleted),
            ..metadata(row)?
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The path in the first column.
fn path(row: &Row<'_>) -> rusqlite::Result<ResourcePath> {
    let text: String = row.get(0)?;
    text.parse().map_err(|error: ResourceError| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error))
    })
}

pub(super) fn wrapped_by_others(
    connection: &Connection,
    key_id: &str,
    most: u32,
) -> Result<Vec<Wrapped>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT path, version, wrapped_key, key_id FROM secret WHERE key_id <> ?1 LIMIT ?2",
    )?;
    let wrapped = |row: &Row<'_>| {
        Ok(Wrapped {
            path: path(row)?,
            version: row.get(1)?,
            wrapped_key: row.get(2)?,
            key_id: row.get(3)?,
        })
    };
    let rows = statement.query_map(params![key_id, most], wrapped)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn policies(connection: &Connection) -> Result<Vec<PolicyVersion>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, version, text, set_at, set_by FROM policy_version AS newest
         WHERE text IS NOT NULL
           AND version = (SELECT max(version) FROM policy_version WHERE id = newest.id)
         ORDER BY id",
    )?;
    Ok(statement.query_map([], policy)?.collect::<Result<_, _>>()?)
}

pub(super) fn policy_versions(
    connection: &Connection,
    id: &str,
) -> Result<Vec<PolicyVersion>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT id, version, text, set_at, set_by FROM policy_version WHERE id = ?1 ORDER BY version",
    )?;
    Ok(statement
        .query_map([id], policy)?
        .collect::<Result<_, _>>()?)
}

fn policy(row: &Row<'_>) -> rusqlite::Result<PolicyVersion> {
    Ok(PolicyVersion {
        id: row.get(0)?,
        version: row.get(1)?,
        text: row.get(2)?,
        set_at: row.get(3)?,
        set_by: row.get(4)?,
    })
}

pub(super) fn reference_values(connection: &Connection) -> Result<ReferenceValues, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT name, value FROM reference_value_version AS newest
         WHERE value IS NOT NULL
           AND version = (SELECT max(version) FROM reference_value_version WHERE name = newest.name)",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.map(|row| {
        let (name, json): (String, String) = row?;
        let value = reference_value(&name, &json)?;
        Ok((name, value))
    })
    .collect()
}

pub(super) fn reference_value_versions(
    connection: &Connection,
    name: &str,
) -> Result<Vec<ReferenceValueVersion>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT version, value, set_at, set_by FROM reference_value_version
         WHERE name = ?1 ORDER BY version",
    )?;
    let rows = statement.query_map([name], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    rows.map(|row| {
        let (version, json, set_at, set_by): (_, Option<String>, _, _) = row?;
        let value = json.map(|json| reference_value(name, &json)).transpose()?;
        Ok(ReferenceValueVersion {
            version,
            value,
            set_at,
            set_by,
        })
    })
    .collect()
}

fn reference_value(name: &str, json: &str) -> Result<ReferenceValue, StoreError> {
    serde_json::from_str(json).map_err(|_| StoreError::Damaged(format!("reference value {name:?}")))
}

pub(super) fn admins(connection: &Connection) -> Result<Vec<AdminVersion>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT name, version, role, public_key, set_at, set_by FROM admin_version AS newest
         WHERE role IS NOT NULL
           AND version = (SELECT max(version) FROM admin_version WHERE name = newest.name)
         ORDER BY name",
    )?;
    Ok(statement.query_map([], admin)?.collect::<Result<_, _>>()?)
}

pub(super) fn admin_versions(
    connection: &Connection,
    name: &str,
) -> Result<Vec<AdminVersion>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT name, version, role, public_key, set_at, set_by FROM admin_version
         WHERE name = ?1 ORDER BY version",
    )?;
    Ok(statement
        .query_map([name], admin)?
        .collect::<Result<_, _>>()?)
}

fn admin(row: &Row<'_>) -> rusqlite::Result<AdminVersion> {
    let (role, public_key): (Option<String>, Option<String>) = (row.get(2)?, row.get(3)?);
    Ok(AdminVersion {
        name: row.get(0)?,
        version: row.get(1)?,
        key: role.zip(public_key),
        set_at: row.get(4)?,
        set_by: row.get(5)?,
    })
}

pub(super) fn claims(connection: &Connection, token: &str) -> Result<Option<Claims>, StoreError> {
    let claims = connection
        .prepare_cached("SELECT event, claims FROM claims WHERE token = ?1")?
        .query_row([token], |row| {
            Ok(Claims {
                event: row.get(0)?,
                json: row.get(1)?,
            })
        })
        .optional()?;
    Ok(claims)
}

pub(super) fn oldest_claims(connection: &Connection) -> Result<Option<u64>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT min(at) FROM claims")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

pub(super) fn audit(
    connection: &Connection,
    limit: u32,
    before: Option<u64>,
) -> Result<Vec<Entry>, StoreError> {
    let before = before
        .and_then(|before| i64::try_from(before).ok())
        .unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(
        "SELECT seq, event, entry FROM log_entry WHERE seq < ?2 ORDER BY seq DESC LIMIT ?1",
    )?;
    let rows = statement.query_map(params![limit, before], EntryRow::read)?;
    let mut entries = rows
        .map(|row| row?.entry())
        .collect::<Result<Vec<_>, StoreError>>()?;
    entries.reverse();
    Ok(entries)
}

pub(super) fn audit_event(
    connection: &Connection,
    event: &str,
) -> Result<Option<Entry>, StoreError> {
    connection
        .prepare_cached("SELECT seq, event, entry FROM log_entry WHERE event = ?1")?
        .query_row([event], EntryRow::read)
        .optional()?
        .map(EntryRow::entry)
        .transpose()
}

/// A row of the record, whose columns must say what its entry says.
struct EntryRow {
    seq: u64,
    event: String,
    entry: String,
}

impl EntryRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            event: row.get(1)?,
            entry: row.get(2)?,
        })
    }

    fn entry(self) -> Result<Entry, StoreError> {
        let seq = self.seq;
        let entry: Entry =
            serde_json::from_str(&self.entry).map_err(|_| LogError::Altered { seq })?;
        match entry.seq == seq && entry.record.event.as_str() == self.event {
            true => Ok(entry),
            false => Err(LogError::Altered { seq }.into()),
        }
    }
}

pub(super) fn head(connection: &Connection) -> Result<Option<Head>, StoreError> {
    let head = connection
        .prepare_cached(
            "SELECT size, edge, checkpoint, minimum, pruned_by FROM log_head WHERE id = 1",
        )?
        .query_row([], |row| {
            let edge: Vec<u8> = row.get(1)?;
            let head = Head {
                size: row.get(0)?,
                edge: Vec::new(),
                checkpoint: row.get(2)?,
                minimum: row.get(3)?,
                pruned_by: row.get(4)?,
            };
            Ok((head, edge))
        })
        .optional()?;
    head.map(|(head, edge)| {
        Ok(Head {
            edge: edge_from_bytes(&edge)?,
            ..head
        })
    })
    .transpose()
}

/// What decides, as this connection sees it.
pub(super) fn governing(connection: &Connection) -> Result<Governing, StoreError> {
    Ok(Governing {
        policies: policies(connection)?,
        reference_values: reference_values(connection)?,
        admins: admins(connection)?,
    })
}

/// The record's size, right edge and newest checkpoint, as every write wants them.
pub(super) fn edge(
    connection: &Connection,
) -> Result<Option<(u64, Vec<Hash>, String)>, StoreError> {
    let edge = connection
        .prepare_cached("SELECT size, edge, checkpoint FROM log_head WHERE id = 1")?
        .query_row([], |row| {
            Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?))
        })
        .optional()?;
    edge.map(|(size, edge, checkpoint)| Ok((size, edge_from_bytes(&edge)?, checkpoint)))
        .transpose()
}

fn edge_from_bytes(bytes: &[u8]) -> Result<Vec<Hash>, StoreError> {
    match bytes.is_empty() {
        true => Ok(Vec::new()),
        false => tile_from_bytes(bytes).map_err(|_| damaged_record()),
    }
}

pub(super) fn log_entries(
    connection: &Connection,
    first: u64,
    count: u32,
) -> Result<Vec<String>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT entry FROM log_entry WHERE seq > ?1 AND seq <= ?2 ORDER BY seq")?;
    Ok(statement
        .query_map(range(first, count), |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

pub(super) fn log_hashes(
    connection: &Connection,
    level: u8,
    first: u64,
    count: u32,
) -> Result<Vec<Hash>, StoreError> {
    let (first, end) = range(first, count);
    let mut rows: Vec<[u8; Hash::BYTES]> = connection
        .prepare_cached(
            "SELECT hash FROM log_node WHERE level = ?3 AND position >= ?1 AND position < ?2 ORDER BY position",
        )?
        .query_map(params![first, end, level], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    // The hash of an entry is beside it for as long as it is there.
    if level == 0 {
        let mut statement = connection.prepare_cached(
            "SELECT leaf FROM log_entry WHERE seq > ?1 AND seq <= ?2 ORDER BY seq",
        )?;
        for row in statement.query_map(params![first, end], |row| row.get(0))? {
            rows.push(row?);
        }
    }
    Ok(rows.into_iter().map(Hash::from_bytes).collect())
}

/// Positions as the database has numbers: from the first on, and behind the last.
fn range(first: u64, count: u32) -> (i64, i64) {
    let number = |of: u64| i64::try_from(of).unwrap_or(i64::MAX);
    (
        number(first),
        number(first.saturating_add(u64::from(count))),
    )
}

fn damaged_record() -> StoreError {
    StoreError::Damaged("the edge of the record".to_owned())
}
