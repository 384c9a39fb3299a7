//! `POST /kbs/v0/attest`: evidence in, a token out.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::http::header::SET_COOKIE;
use axum::response::{IntoResponse as _, Response};
use strongroom_wire::kbs::{AttestResponse, Attestation};

use super::super::error::ApiError;
use super::super::identity;
use crate::session::SessionError;
use crate::{Inner, attest as attestation};

/// Attests the session that the cookie names.
pub(crate) async fn attest(
    State(broker): State<Arc<Inner>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body?;
    let unknown = attestation::AttestError::Session(SessionError::Unknown);
    let session = identity::session(&headers).ok_or(unknown)?;
    let message: Attestation = serde_json::from_slice(&body)?;
    let now = broker.now();
    let cookie = identity::cookie(&broker, &session, now);
    let token = broker
        .blocking(move |broker| Ok(attestation::attest(broker, &session, &message, now)?))
        .await?;
    Ok(([(SET_COOKIE, cookie)], Json(AttestResponse { token })).into_response())
}
