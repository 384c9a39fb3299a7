//! `GET /strongroom/v1/audit?limit=N`: the newest entries of the record, oldest first.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::audit::Entry;

/// Lists entries. Reading the record leaves no entry in it.
pub(crate) async fn list(
    State(broker): State<Arc<Inner>>,
    headers: HeaderMap,
    query: Result<Query<Limit>, QueryRejection>,
) -> Result<Json<Vec<Entry>>, ApiError> {
    broker
        .blocking(move |broker| {
            identity::admin(broker, &headers, "list audit entries", broker.now())?;
            let Query(query) = query.map_err(|e| ApiError::Malformed(e.body_text()))?;
            Ok(Json(broker.store.audit(query.limit.min(MOST))?))
        })
        .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    #[serde(default = "default_limit")]
    limit: u32,
}

fn default_limit() -> u32 {
    100
}

const MOST: u32 = 10_000;
