//! `GET /strongroom/v1/audit?limit=N&before=SEQ`: the newest entries of the record, or the newest before an entry,
//! oldest first. `?event=ID`: the one entry of an event.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;

use super::super::error::ApiError;
use crate::Inner;
use crate::admin::Admin;
use crate::audit::Entry;

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
