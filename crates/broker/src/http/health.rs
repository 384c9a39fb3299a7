//! `/healthz` and `/readyz`, for whoever starts and stops brokers; `/metrics`, on a listener of its own.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::Inner;
use crate::health::Health;

/// The process answers.
pub(super) async fn healthz() {}

/// Whether the broker can do its work, and if not, what is amiss, in a word.
pub(super) async fn readyz(State(broker): State<Arc<Inner>>) -> Response {
    let reasons = Health::reasons(&broker).await;
    let status = match reasons.is_empty() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = json!({ "ready": reasons.is_empty(), "reasons": reasons });
    (status, Json(body)).into_response()
}

/// The routes of the second listener.
pub(crate) fn metrics_router(broker: Arc<Inner>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(broker)
}

async fn metrics(State(broker): State<Arc<Inner>>) -> Response {
    match broker.metrics.render(&broker) {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
