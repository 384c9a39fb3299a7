//! The schema's history: one step a version, forward only. Steps that have shipped are never edited.

use aws_lc_rs::digest;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::super::StoreError;
use super::write;
use crate::audit::LogKey;

pub(super) fn schema_version(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// The version that this program brings a schema to.
pub(super) fn newest() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// Brings the schema forward: all missing steps or none.
pub(super) fn migrate(connection: &mut Connection, key: &LogKey) -> Result<(), StoreError> {
    forward(connection, key, newest())
}

/// Makes the steps up to a version as an older program did.
#[cfg(test)]
pub(super) fn migrate_to(
    connection: &mut Connection,
    key: &LogKey,
    until: i64,
) -> Result<(), StoreError> {
    forward(connection, key, until)
}

fn forward(connection: &mut Connection, key: &LogKey, until: i64) -> Result<(), StoreError> {
    let known = newest();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    let version = schema_version(&transaction)?;
    if version > known {
        return Err(StoreError::Schema {
            actual: version,
            known,
        });
    }
    for (number, step) in (1i64..).zip(STEPS) {
        if (version + 1..=until).contains(&number) {
            transaction.execute_batch(step.sql)?;
            (step.then)(&transaction, key)?;
            transaction.pragma_update(None, "user_version", number)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Statements, and what no statement can do.
struct Step {
    sql: &'static str,
    then: fn(&Transaction<'_>, &LogKey) -> Result<(), StoreError>,
}

/// The first version whose record is signed.
pub(super) const SIGNED: i64 = 3;

const STEPS: [Step; 6] = [
    Step {
        sql: include_str!("../schema/0001.sql"),
        then: |_, _| Ok(()),
    },
    Step {
        sql: include_str!("../schema/0002.sql"),
        then: |_, _| Ok(()),
    },
    Step {
        sql: include_str!("../schema/0003.sql"),
        then: chain_to_log,
    },
    Step {
        sql: include_str!("../schema/0004.sql"),
        then: |_, _| Ok(()),
    },
    Step {
        sql: include_str!("../schema/0005.sql"),
        then: |_, _| Ok(()),
    },
    Step {
        sql: include_str!("../schema/0006.sql"),
        then: |_, _| Ok(()),
    },
];

/// Takes the entries of the hash chain into the log, byte for byte as they stand, and digests what is sealed.
fn chain_to_log(transaction: &Transaction<'_>, key: &LogKey) -> Result<(), StoreError> {
    let mut log = write::Log::new();
    let mut entries = transaction.prepare("SELECT event, entry FROM audit ORDER BY seq")?;
    let mut rows = entries.query([])?;
    while let Some(row) = rows.next()? {
        let (event, entry): (String, String) = (row.get(0)?, row.get(1)?);
        log.append(transaction, &event, &entry)?;
    }
    drop(rows);
    drop(entries);
    log.write(transaction, key)?;
    transaction.execute_batch("DROP TABLE audit;")?;
    transaction.execute_batch(APPEND_ONLY)?;
    let mut secrets = transaction.prepare("SELECT rowid, nonce, ciphertext FROM secret")?;
    let mut digests = transaction.prepare("UPDATE secret SET digest = ?2 WHERE rowid = ?1")?;
    let mut rows = secrets.query([])?;
    while let Some(row) = rows.next()? {
        let (id, nonce, ciphertext): (i64, Vec<u8>, Vec<u8>) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&nonce);
        context.update(&ciphertext);
        digests.execute((id, hex::encode(context.finish())))?;
    }
    Ok(())
}

/// The record refuses everything but its next entry.
const APPEND_ONLY: &str = "
CREATE TRIGGER log_update_refused BEFORE UPDATE ON log_entry
BEGIN
    SELECT RAISE(ABORT, 'the audit record is append-only');
END;
CREATE TRIGGER log_delete_refused BEFORE DELETE ON log_entry
BEGIN
    SELECT RAISE(ABORT, 'the audit record is append-only');
END;
-- Also catches INSERT OR REPLACE, whose implied delete fires no trigger.
CREATE TRIGGER log_insert_in_order BEFORE INSERT ON log_entry
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM log_entry)
BEGIN
    SELECT RAISE(ABORT, 'an audit entry has the next number');
END;
-- A repeated event id would replace under OR REPLACE as well.
CREATE TRIGGER log_event_unused BEFORE INSERT ON log_entry
WHEN EXISTS (SELECT 1 FROM log_entry WHERE event = NEW.event)
BEGIN
    SELECT RAISE(ABORT, 'an audit event has an id of its own');
END;";
