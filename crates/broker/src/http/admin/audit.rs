//! `GET /strongroom/v1/audit?limit=N&before=SEQ`: the newest entries of the record, or the newest before an entry,
//! oldest first. `?event=ID`: the one entry of an event. `POST /strongroom/v1/audit/prune?before=SECONDS`: removes what
//! is older than the configuration keeps.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::admin::Admin;
use crate::audit::Entry;
use crate::retention;
use crate::store::{Store, StoreError};

/// Lists entries. Reading leaves no entry of its own, but writes those for refusals that were only counted so far,
/// so that who reads the record reads all of it.
pub(crate) async fn list(
    State(broker): State<Arc<Inner>>,
    _admin: Admin,
    query: Result<Query<Selection>, QueryRejection>,
) -> Result<Json<Vec<Entry>>, ApiError> {
    broker
        .blocking(move |broker| {
            let Query(query) = query?;
            broker.record_counted();
            let entries = match query {
                Selection {
                    event: Some(event),
                    before: None,
                    limit: None,
                } => broker
                    .ledger
                    .store()
                    .audit_event(&event)?
                    .into_iter()
                    .collect(),
                Selection { event: Some(_), .. } => {
                    return Err(ApiError::Malformed(
                        "event names one entry: leave out limit and before".to_owned(),
                    ));
                }
                Selection { limit, before, .. } => page(
                    broker.ledger.store(),
                    limit.unwrap_or(DEFAULT).min(MOST),
                    before,
                )?,
            };
            Ok(Json(entries))
        })
        .await
}

/// The newest entries before one, oldest first: fewer than asked for when they are long, and one at least.
fn page(store: &dyn Store, limit: u32, before: Option<u64>) -> Result<Vec<Entry>, StoreError> {
    let (mut left, mut before) = (limit, before);
    let (mut newest_first, mut bytes) = (Vec::new(), 0usize);
    while left > 0 {
        let asked = left.min(AT_ONCE);
        let entries = store.audit(asked, before)?;
        let Some(oldest) = entries.first() else { break };
        before = Some(oldest.seq);
        left -= asked;
        for entry in entries.into_iter().rev() {
            let length = serde_json::to_string(&entry).map_or(0, |text| text.len());
            bytes = bytes.saturating_add(length);
            if bytes > MOST_BYTES && !newest_first.is_empty() {
                left = 0;
                break;
            }
            newest_first.push(entry);
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// Removes entries that are older than the configuration keeps; with `before`, only those that are older than that too.
pub(crate) async fn prune(
    State(broker): State<Arc<Inner>>,
    admin: Admin,
    query: Result<Query<Until>, QueryRejection>,
) -> Result<Json<Pruned>, ApiError> {
    broker
        .blocking(move |broker| {
            let Query(Until { before }) = query?;
            let record = identity::admin_record(broker, &admin, broker.now());
            let pruned = retention::prune(broker, before, &record)?;
            Ok(Json(Pruned {
                entries: pruned.entries,
                first: pruned.first,
            }))
        })
        .await
}

/// Until when.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Until {
    before: Option<u64>,
}

/// What was removed.
#[derive(Serialize)]
pub(crate) struct Pruned {
    /// How many entries.
    entries: u64,
    /// The number of the first that is there.
    first: u64,
}

/// Which entries.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selection {
    limit: Option<u32>,
    before: Option<u64>,
    event: Option<String>,
}

const DEFAULT: u32 = 100;
const MOST: u32 = 10_000;
/// An entry has up to 64 KiB.
const MOST_BYTES: usize = 16 * 1024 * 1024;
const AT_ONCE: u32 = 200;
