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
                Selection { limit, before, .. } => broker
                    .ledger
                    .store()
                    .audit(limit.unwrap_or(DEFAULT).min(MOST), before)?,
            };
            Ok(Json(entries))
        })
        .await
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
