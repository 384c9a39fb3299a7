//! `POST /attestation`: evidence in, a token out; and `POST /challenge`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use strongroom_wire::attestation_service::{AttestationRequest, ChallengeRequest};
use strongroom_wire::tee::Tee;

use super::super::error::ApiError;
use crate::Inner;
use crate::attest::AttestError;
use crate::attest::service::{self, Asked};

/// Appraises evidence.
pub(crate) async fn evaluate(
    State(broker): State<Arc<Inner>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let asked = parse(&body?)?;
    let now = broker.now();
    let begun = broker
        .blocking(move |broker| Ok(service::begin(broker, asked, now)?))
        .await?;
    let request = begun.collateral_request();
    let collateral = broker.live().collaterals.answer(&request).await;
    let token = broker
        .blocking(move |broker| Ok(service::finish(broker, begun, collateral, now)?))
        .await?;
    Ok((TEXT, token).into_response())
}

/// What a platform's attester needs before it makes evidence: nothing, for every platform that is verified here. What the
/// evidence binds, a nonce among it, is the caller's.
pub(crate) async fn challenge(body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    let request: ChallengeRequest = serde_json::from_slice(&body?)?;
    match request.tee {
        Tee::Se => Err(ApiError::Malformed(
            "evidence of the platform se is not verified here".to_owned(),
        )),
        _ => Ok((TEXT, "").into_response()),
    }
}

pub(crate) fn parse(body: &[u8]) -> Result<Asked, ApiError> {
    let request: AttestationRequest = serde_json::from_slice(body)?;
    Ok(Asked::parse(&request).map_err(AttestError::from)?)
}

/// Upstream's answers are texts.
const TEXT: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
