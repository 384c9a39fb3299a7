//! `POST /strongroom/v1/storage-key/rotate`: a fresh storage key, while guests are served.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::admin::Admin;
use crate::rotate::rotate as rotate_key;

/// Makes a fresh key and wraps every data key by it. Answers when nothing needs the older key any more.
pub(crate) async fn rotate(
    State(broker): State<Arc<Inner>>,
    admin: Admin,
) -> Result<Json<Rotated>, ApiError> {
    broker
        .blocking(move |broker| {
            let now = broker.now();
            let record = identity::admin_record(broker, &admin, now);
            let rewrapped = rotate_key(broker, record)?;
            let key = broker.storage_keys().current().id();
            Ok(Json(Rotated { key, rewrapped }))
        })
        .await
}

/// What was done.
#[derive(Serialize)]
pub(crate) struct Rotated {
    /// The id of the key that is in use now.
    key: String,
    /// How many data keys were wrapped anew.
    rewrapped: u64,
}
