//! The schema's history: one step a version, forward only. Steps that have shipped are never edited.
//!
//! Brokers that start at the same time bring it forward one after the other: each holds an advisory lock meanwhile.

use strongroom_wire::tlog::Frontier;

use super::super::StoreError;
use super::pool::Session;
use crate::audit::LogKey;

/// Makes the tables in a database that has none.
pub(super) fn create(session: &mut Session, key: &LogKey, name: &str) -> Result<(), StoreError> {
    in_transaction(session, |session| match version(session)? {
        None => forward(session, key, 0, STEPS.len()),
        Some(_) => Err(StoreError::Used {
            name: name.to_owned(),
        }),
    })
}

/// Brings the schema forward: all missing steps or none.
pub(super) fn migrate(session: &mut Session, key: &LogKey, name: &str) -> Result<(), StoreError> {
    in_transaction(session, |session| {
        let done = known_version(session, name)?;
        forward(session, key, done, STEPS.len())
    })
}

/// Whether there is nothing to bring forward.
pub(super) fn is_newest(session: &mut Session, name: &str) -> Result<bool, StoreError> {
    Ok(known_version(session, name)? == STEPS.len())
}

/// How many steps were made, if these are that many.
fn known_version(session: &mut Session, name: &str) -> Result<usize, StoreError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    match version(session)? {
        None => Err(StoreError::Empty {
            path: name.to_owned(),
        }),
        Some(actual) if actual > known => Err(StoreError::Schema { actual, known }),
        Some(actual) => Ok(usize::try_from(actual).unwrap_or_default()),
    }
}

fn in_transaction(
    session: &mut Session,
    work: impl FnOnce(&mut Session) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    session.batch("BEGIN; SET LOCAL lock_timeout = 0;")?;
    let done = session
        .query("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .and_then(|_| work(session))
        .and_then(|()| session.batch("COMMIT"));
    if done.is_err() {
        session.rollback();
    }
    done
}

fn version(session: &mut Session) -> Result<Option<i64>, StoreError> {
    let table = session.row("SELECT to_regclass('broker_schema')::text", &[])?;
    let table: Option<String> = table.and_then(|row| row.get(0));
    if table.is_none() {
        return Ok(None);
    }
    let row = session.row("SELECT max(version) FROM broker_schema", &[])?;
    Ok(row.and_then(|row| row.get(0)))
}

fn forward(
    session: &mut Session,
    key: &LogKey,
    done: usize,
    until: usize,
) -> Result<(), StoreError> {
    for (number, step) in (1i64..).zip(STEPS).take(until).skip(done) {
        if number == 1 {
            session.batch("CREATE TABLE broker_schema (version bigint PRIMARY KEY)")?;
        }
        session.batch(step)?;
        if number == 1 {
            let empty = Frontier::new();
            let checkpoint = key.checkpoint(&empty, None)?;
            session.execute(
                "INSERT INTO log_head (id, size, edge, checkpoint) VALUES (1, 0, '', $1)",
                &[&checkpoint],
            )?;
        }
        session.execute(
            "INSERT INTO broker_schema (version) VALUES ($1)",
            &[&number],
        )?;
    }
    Ok(())
}

/// How many steps there are.
#[cfg(test)]
pub(super) const NEWEST: usize = STEPS.len();

/// Makes the tables as an older version did.
#[cfg(test)]
pub(super) fn create_older(
    session: &mut Session,
    key: &LogKey,
    version: usize,
) -> Result<(), StoreError> {
    in_transaction(session, |session| forward(session, key, 0, version))
}

const STEPS: [&str; 6] = [
    include_str!("../schema/postgres/0001.sql"),
    include_str!("../schema/postgres/0002.sql"),
    include_str!("../schema/postgres/0003.sql"),
    include_str!("../schema/postgres/0004.sql"),
    include_str!("../schema/postgres/0005.sql"),
    include_str!("../schema/postgres/0006.sql"),
];

/// "strongrm" as a number.
const LOCK: i64 = 0x7374_726f_6e67_726d;
