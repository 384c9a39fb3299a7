//! `GET /strongroom/v1/resource-policy`: the Rego of the release policy in force.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;

/// Gives the text, that of the shipped policy when none was set.
pub(crate) async fn text(
    State(broker): State<Arc<Inner>>,
    headers: HeaderMap,
) -> Result<String, ApiError> {
    broker
        .blocking(move |broker| {
            identity::admin(broker, &headers, "read release policy", broker.now())?;
            Ok(broker.policies.release().text.clone())
        })
        .await
}
