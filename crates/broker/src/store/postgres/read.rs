//! What is asked of the store.

use strongroom_verifier::{ReferenceValue, ReferenceValues};
use strongroom_wire::resource::ResourcePath;
use strongroom_wire::tlog::{Hash, tile_from_bytes};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::super::{
    AdminVersion, Claims, Deletion, Governing, Head, PolicyVersion, ReferenceValueVersion,
    ResourceMetadata, SealedVersion, StoreError, Wrapped,
};
use super::pool::{Session, failed};
use crate::audit::{Entry, LogError};

pub(super) fn sealed_secret(
    session: &mut Session,
    path: &ResourcePath,
    version: Option<u64>,
) -> Result<Option<SealedVersion>, StoreError> {
    let version = version.map(i64::try_from).transpose();
    let Ok(version) = version else {
        return Ok(None);
    };
    let row = session.row(
        "SELECT version, wrapped_key, key_id, nonce, ciphertext, expires FROM secret
         WHERE path = $1 AND version = coalesce($2::bigint, version) ORDER BY version DESC LIMIT 1",
        &[&path.to_string(), &version],
    )?;
    row.map(|row| {
        Ok(SealedVersion {
            version: count(&row, 0)?,
            wrapped_key: column(&row, 1)?,
            key_id: column(&row, 2)?,
            nonce: column(&row, 3)?,
            ciphertext: column(&row, 4)?,
            expires: perhaps_count(&row, 5)?,
        })
    })
    .transpose()
}

pub(super) fn resources(session: &mut Session) -> Result<Vec<ResourceMetadata>, StoreError> {
    let rows = session.query(
        "SELECT DISTINCT ON (path) path, version, size, digest, stored_at, stored_by, expires FROM secret
         ORDER BY path, version DESC",
        &[],
    )?;
    rows.iter().map(metadata).collect()
}

pub(super) fn resource_versions(
    session: &mut Session,
    path: &ResourcePath,
) -> Result<Vec<ResourceMetadata>, StoreError> {
    let rows = session.query(
        "SELECT path, version, size, digest, stored_at, stored_by, expires FROM secret
         WHERE path = $1 ORDER BY version",
        &[&path.to_string()],
    )?;
    rows.iter().map(metadata).collect()
}

fn metadata(row: &Row) -> Result<ResourceMetadata, StoreError> {
    Ok(ResourceMetadata {
        path: path(row)?,
        version: count(row, 1)?,
        size: count(row, 2)?,
        digest: column(row, 3)?,
        stored_at: count(row, 4)?,
        stored_by: column(row, 5)?,
        expires: perhaps_count(row, 6)?,
        deleted: None,
    })
}

pub(super) fn deleted_versions(
    session: &mut Session,
    path: &ResourcePath,
) -> Result<Vec<ResourceMetadata>, StoreError> {
    let rows = session.query(
        "SELECT path, version, size, digest, stored_at, stored_by, expires, deleted_at, deleted_by
         FROM secret_deleted WHERE path = $1 ORDER BY version",
        &[&path.to_string()],
    )?;
    let deleted = |row: &Row| {
        let deleted = Deletion {
            deleted_at: count(row, 7)?,
            deleted_by: column(row, 8)?,
        };
        Ok(ResourceMetadata {
            deleted: Some(deleted),
            ..metadata(row)?
        })
    };
    rows.iter().map(deleted).collect()
}

/// The path in the first column.
fn path(row: &Row) -> Result<ResourcePath, StoreError> {
    let text: &str = column(row, 0)?;
    text.parse()
        .map_err(|_| StoreError::Damaged(format!("path {text:?}")))
}

pub(super) fn wrapped_by_others(
    session: &mut Session,
    key_id: &str,
    most: u32,
) -> Result<Vec<Wrapped>, StoreError> {
    let rows = session.query(
        "SELECT path, version, wrapped_key, key_id FROM secret WHERE key_id <> $1 LIMIT $2",
        &[&key_id, &i64::from(most)],
    )?;
    rows.iter()
        .map(|row| {
            Ok(Wrapped {
                path: path(row)?,
                version: count(row, 1)?,
                wrapped_key: column(row, 2)?,
                key_id: column(row, 3)?,
            })
        })
        .collect()
}

pub(super) fn policies(session: &mut Session) -> Result<Vec<PolicyVersion>, StoreError> {
    let rows = session.query(
        "SELECT id, version, text, set_at, set_by FROM policy_version AS newest
         WHERE text IS NOT NULL
           AND version = (SELECT max(version) FROM policy_version WHERE id = newest.id)
         ORDER BY id",
        &[],
    )?;
    rows.iter().map(policy).collect()
}

pub(super) fn policy_versions(
    session: &mut Session,
    id: &str,
) -> Result<Vec<PolicyVersion>, StoreError> {
    let rows = session.query(
        "SELECT id, version, text, set_at, set_by FROM policy_version WHERE id = $1 ORDER BY version",
        &[&id],
    )?;
    rows.iter().map(policy).collect()
}

fn policy(row: &Row) -> Result<PolicyVersion, StoreError> {
    Ok(PolicyVersion {
        id: column(row, 0)?,
        version: count(row, 1)?,
        text: column(row, 2)?,
        set_at: count(row, 3)?,
        set_by: column(row, 4)?,
    })
}

pub(super) fn reference_values(session: &mut Session) -> Result<ReferenceValues, StoreError> {
    let rows = session.query(
        "SELECT name, value FROM reference_value_version AS newest
         WHERE value IS NOT NULL
           AND version = (SELECT max(version) FROM reference_value_version WHERE name = newest.name)",
        &[],
    )?;
    rows.iter()
        .map(|row| {
            let (name, json): (String, &str) = (column(row, 0)?, column(row, 1)?);
            let value = reference_value(&name, json)?;
            Ok((name, value))
        })
        .collect()
}

pub(super) fn reference_value_versions(
    session: &mut Session,
    name: &str,
) -> Result<Vec<ReferenceValueVersion>, StoreError> {
    let rows = session.query(
        "SELECT version, value, set_at, set_by FROM reference_value_version
         WHERE name = $1 ORDER BY version",
        &[&name],
    )?;
    rows.iter()
        .map(|row| {
            let json: Option<&str> = column(row, 1)?;
            Ok(ReferenceValueVersion {
                version: count(row, 0)?,
                value: json.map(|json| reference_value(name, json)).transpose()?,
                set_at: count(row, 2)?,
                set_by: column(row, 3)?,
            })
        })
        .collect()
}

fn reference_value(name: &str, json: &str) -> Result<ReferenceValue, StoreError> {
    serde_json::from_str(json).map_err(|_| StoreError::Damaged(format!("reference value {name:?}")))
}

pub(super) fn admins(session: &mut Session) -> Result<Vec<AdminVersion>, StoreError> {
    let rows = session.query(
        "SELECT name, version, role, public_key, set_at, set_by FROM admin_version AS newest
         WHERE role IS NOT NULL
           AND version = (SELECT max(version) FROM admin_version WHERE name = newest.name)
         ORDER BY name",
        &[],
    )?;
    rows.iter().map(admin).collect()
}

pub(super) fn admin_versions(
    session: &mut Session,
    name: &str,
) -> Result<Vec<AdminVersion>, StoreError> {
    let rows = session.query(
        "SELECT name, version, role, public_key, set_at, set_by FROM admin_version
         WHERE name = $1 ORDER BY version",
        &[&name],
    )?;
    rows.iter().map(admin).collect()
}

fn admin(row: &Row) -> Result<AdminVersion, StoreError> {
    let (role, public_key): (Option<String>, Option<String>) = (column(row, 2)?, column(row, 3)?);
    Ok(AdminVersion {
        name: column(row, 0)?,
        version: count(row, 1)?,
        key: role.zip(public_key),
        set_at: count(row, 4)?,
        set_by: column(row, 5)?,
    })
}

pub(super) fn claims(session: &mut Session, token: &str) -> Result<Option<Claims>, StoreError> {
    let row = session.row(
        "SELECT event, claims FROM claims WHERE token = $1",
        &[&token],
    )?;
    row.map(|row| {
        Ok(Claims {
            event: column(&row, 0)?,
            json: column(&row, 1)?,
        })
    })
    .transpose()
}

pub(super) fn oldest_claims(session: &mut Session) -> Result<Option<u64>, StoreError> {
    let row = session.row("SELECT min(at) FROM claims", &[])?;
    row.map_or(Ok(None), |row| perhaps_count(&row, 0))
}

pub(super) fn audit(
    session: &mut Session,
    limit: u32,
    before: Option<u64>,
) -> Result<Vec<Entry>, StoreError> {
    let rows = session.query(
        "SELECT seq, event, entry FROM log_entry WHERE seq < $2 ORDER BY seq DESC LIMIT $1",
        &[&i64::from(limit), &clamped(before.unwrap_or(u64::MAX))],
    )?;
    rows.iter().rev().map(entry).collect()
}

pub(super) fn audit_event(session: &mut Session, event: &str) -> Result<Option<Entry>, StoreError> {
    let row = session.row(
        "SELECT seq, event, entry FROM log_entry WHERE event = $1",
        &[&event],
    )?;
    row.as_ref().map(entry).transpose()
}

/// A row of the record, whose columns must say what its entry says.
fn entry(row: &Row) -> Result<Entry, StoreError> {
    let (seq, event, text): (u64, &str, &str) = (count(row, 0)?, column(row, 1)?, column(row, 2)?);
    let entry: Entry = serde_json::from_str(text).map_err(|_| LogError::Altered { seq })?;
    match entry.seq == seq && entry.record.event.as_str() == event {
        true => Ok(entry),
        false => Err(LogError::Altered { seq }.into()),
    }
}

/// What decides, as this connection sees it.
pub(super) fn governing(session: &mut Session) -> Result<Governing, StoreError> {
    Ok(Governing {
        policies: policies(session)?,
        reference_values: reference_values(session)?,
        admins: admins(session)?,
    })
}

pub(super) fn head(session: &mut Session) -> Result<Option<Head>, StoreError> {
    let row = session.row(
        "SELECT size, edge, checkpoint, minimum, pruned_by FROM log_head WHERE id = 1",
        &[],
    )?;
    row.map(|row| {
        Ok(Head {
            size: count(&row, 0)?,
            edge: edge(column(&row, 1)?)?,
            checkpoint: column(&row, 2)?,
            minimum: count(&row, 3)?,
            pruned_by: count(&row, 4)?,
        })
    })
    .transpose()
}

pub(super) fn edge(bytes: &[u8]) -> Result<Vec<Hash>, StoreError> {
    match bytes.is_empty() {
        true => Ok(Vec::new()),
        false => tile_from_bytes(bytes)
            .map_err(|_| StoreError::Damaged("the edge of the record".to_owned())),
    }
}

pub(super) fn log_entries(
    session: &mut Session,
    first: u64,
    count: u32,
) -> Result<Vec<String>, StoreError> {
    let rows = session.query(
        "SELECT entry FROM log_entry WHERE seq > $1 AND seq <= $2 ORDER BY seq",
        &[&clamped(first), &clamped(end(first, count))],
    )?;
    rows.iter().map(|row| column(row, 0)).collect()
}

pub(super) fn log_hashes(
    session: &mut Session,
    level: u8,
    first: u64,
    count: u32,
) -> Result<Vec<Hash>, StoreError> {
    let (first, end) = (clamped(first), clamped(end(first, count)));
    let mut rows = session.query(
        "SELECT hash FROM log_node WHERE level = $3 AND position >= $1 AND position < $2 ORDER BY position",
        &[&first, &end, &i32::from(level)],
    )?;
    // The hash of an entry is beside it for as long as it is there.
    if level == 0 {
        rows.extend(session.query(
            "SELECT leaf FROM log_entry WHERE seq > $1 AND seq <= $2 ORDER BY seq",
            &[&first, &end],
        )?);
    }
    rows.iter()
        .map(|row| {
            let bytes: &[u8] = column(row, 0)?;
            <[u8; Hash::BYTES]>::try_from(bytes)
                .map(Hash::from_bytes)
                .map_err(|_| StoreError::Damaged("a hash of the record".to_owned()))
        })
        .collect()
}

/// Behind the last of so many positions.
fn end(first: u64, count: u32) -> u64 {
    first.saturating_add(u64::from(count))
}

/// At what size of the record policies or reference values changed last.
pub(super) fn governed(session: &mut Session) -> Result<u64, StoreError> {
    let row = session.row("SELECT governed FROM log_head WHERE id = 1", &[])?;
    row.map_or(Ok(0), |row| count(&row, 0))
}

pub(super) fn column<'r, T: FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, StoreError> {
    row.try_get(at).map_err(|error| failed(&error))
}

/// A number that is never negative.
pub(super) fn count(row: &Row, at: usize) -> Result<u64, StoreError> {
    let number: i64 = column(row, at)?;
    u64::try_from(number).map_err(|_| StoreError::Damaged(format!("the number {number}")))
}

fn perhaps_count(row: &Row, at: usize) -> Result<Option<u64>, StoreError> {
    let number: Option<i64> = column(row, at)?;
    number
        .map(|number| {
            u64::try_from(number).map_err(|_| StoreError::Damaged(format!("the number {number}")))
        })
        .transpose()
}

/// A number as the database has them. What is beyond is beyond everything that is stored.
pub(super) fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
