//! `POST /kbs/v0/auth`: a session and its nonce.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use strongroom_wire::kbs::{Challenge, PROTOCOL_VERSION, Request};

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;

/// Opens a session. `extra-params` may be any JSON; of its members one is looked at, `attestation-policy-selector`. SHA-384
/// is the only hash in use.
pub(crate) async fn auth(
    State(broker): State<Arc<Inner>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let request = parse(&body?)?;
    let now = broker.now();
    let policy = match selector(&request.extra_params)? {
        None => Default::default(),
        Some(selector) => broker
            .config
            .attestation
            .select(&selector)
            .ok_or(ApiError::Selector(selector))?,
    };
    let (id, nonce) = broker.sessions().open(request.tee, policy, now);
    let challenge = Challenge {
        nonce,
        extra_params: Value::String(String::new()),
    };
    let cookie = identity::cookie(&broker, &id, now);
    Ok(([(SET_COOKIE, cookie)], Json(challenge)).into_response())
}

/// Looks at the version first, so that a message of another version is told so and not that it is malformed.
pub(crate) fn parse(body: &[u8]) -> Result<Request, ApiError> {
    let value: Value = serde_json::from_slice(body)?;
    match value.get("version").and_then(Value::as_str) {
        Some(PROTOCOL_VERSION) => Ok(serde_json::from_value(value)?),
        Some(other) => Err(ApiError::Version(other.chars().take(32).collect())),
        None => Err(ApiError::Malformed("the body has no version".to_owned())),
    }
}

/// By which appraisal policies the guest asks to be graded: a name that this broker's configuration maps to an id.
fn selector(extra_params: &Value) -> Result<Option<String>, ApiError> {
    match extra_params.get(SELECTOR) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(selector)) => Ok(Some(selector.chars().take(64).collect())),
        Some(_) => Err(ApiError::Malformed(format!("{SELECTOR} is not a text"))),
    }
}

const SELECTOR: &str = "attestation-policy-selector";
