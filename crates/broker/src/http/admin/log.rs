//! `GET /strongroom/v1/log/checkpoint` and `/strongroom/v1/log/tile/...`: the record as a C2SP tlog-tiles log.
//!
//! Who copies these files verifies the record anywhere, with the key in `audit.pub` and without this broker.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use strongroom_wire::tlog::{CHECKPOINT_PATH, TileKind, TilePath, append_entry, tile_to_bytes};

use super::super::error::ApiError;
use super::super::identity;
use crate::admin::Admin;
use crate::store::{Store, StoreError};
use crate::{Inner, audit};

/// Gives a file of the log. Who copies it begins with the checkpoint: that is an entry, which the next checkpoint covers.
/// Those for refusals that were only counted so far are written before.
pub(crate) async fn file(
    State(broker): State<Arc<Inner>>,
    path: Result<Path<String>, PathRejection>,
    admin: Admin,
) -> Result<Response, ApiError> {
    let Path(path) = path?;
    broker
        .blocking(move |broker| {
            if path == CHECKPOINT_PATH {
                broker.record_counted();
                let head = broker.ledger.store().head()?;
                let head = head.ok_or(ApiError::NotFound("checkpoint"))?;
                let size = format!("a copy of {} entries", head.size);
                identity::record_reading(broker, &admin, Some(&size));
                return Ok((TEXT, head.checkpoint).into_response());
            }
            let tile: TilePath = path.parse().map_err(|_| ApiError::NotFound("tile"))?;
            let bytes = tile_bytes(broker.ledger.store(), &tile)?;
            let bytes = bytes.ok_or(ApiError::NotFound("tile"))?;
            Ok((BYTES, bytes).into_response())
        })
        .await
}

/// A file of the log; nothing when the log does not reach to its end.
fn tile_bytes(store: &dyn Store, tile: &TilePath) -> Result<Option<Vec<u8>>, StoreError> {
    let width = usize::from(tile.width());
    match tile.kind() {
        TileKind::Hashes { .. } => {
            let hashes = audit::hashes(store, tile)?;
            Ok((hashes.len() == width).then(|| tile_to_bytes(&hashes)))
        }
        TileKind::Entries => {
            let entries = store.log_entries(tile.start_index(), u32::from(tile.width()))?;
            let mut bundle = Vec::new();
            for entry in &entries {
                append_entry(&mut bundle, entry.as_bytes())
                    .map_err(|error| StoreError::Damaged(error.to_string()))?;
            }
            Ok((entries.len() == width).then_some(bundle))
        }
    }
}

const TEXT: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
const BYTES: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/octet-stream")];
