//! `GET /strongroom/v1/resource`: what is stored, by name, without contents.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::store::ResourceMetadata;

/// Lists resources by path.
pub(crate) async fn list(
    State(broker): State<Arc<Inner>>,
    headers: HeaderMap,
) -> Result<Json<Vec<ResourceMetadata>>, ApiError> {
    broker
        .blocking(move |broker| {
            identity::admin(broker, &headers, "list resources", broker.now())?;
            Ok(Json(broker.store.resources()?))
        })
        .await
}
