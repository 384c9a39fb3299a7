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
use tracing::{Instrument as _, info_span};

use super::super::error::ApiError;
use super::super::identity;
use crate::attest::Ended;
use crate::{Inner, Moment, attest as attestation};

/// Attests the session that the cookie names.
pub(crate) async fn attest(
    State(broker): State<Arc<Inner>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body?;
    let Ok(attesting) = Arc::clone(&broker.attesting).try_acquire_owned() else {
        broker.metrics.turned_away("attestations");
        return Err(ApiError::Busy);
    };
    let message: Attestation = serde_json::from_slice(&body)?;
    let now = broker.now();
    let session = identity::session(&headers);
    let cookie = session
        .as_ref()
        .map(|session| [(SET_COOKIE, identity::cookie(&broker, session, now))]);
    // A guest that hangs up is judged all the same: its nonce is used, and the record says how it ended.
    let takes = Moment::of_bytes(body.len());
    let attested = async move {
        let _attesting = attesting;
        let begun = broker
            .moment(takes, move |broker| {
                attestation::begin(broker, session, message, now)
            })
            .instrument(info_span!("begin attestation"))
            .await?;
        let begun = match begun {
            Ok(begun) => begun,
            Err(ended) => return refuse(&broker, ended).await,
        };
        let request = begun.collateral_request();
        let collateral = broker
            .live()
            .collaterals
            .answer(&request)
            .instrument(info_span!("answer collateral request"))
            .await;
        let judged = broker
            .moment(takes, move |broker| {
                attestation::finish(broker, begun, collateral, now)
            })
            .instrument(info_span!("finish attestation"))
            .await?;
        match judged {
            Ok(judged) => judged.issue(&broker, now).await,
            Err(ended) => refuse(&broker, ended).await,
        }
    };
    let token = tokio::spawn(attested.in_current_span())
        .await
        .unwrap_or_else(|error| {
            tracing::error!(%error, "a request panicked");
            Err(ApiError::Panicked)
        })?;
    Ok((cookie, Json(AttestResponse { token })).into_response())
}

async fn refuse(broker: &Arc<Inner>, ended: Ended) -> Result<String, ApiError> {
    broker
        .blocking(move |broker| Err(ended.record(broker).into()))
        .await
}
