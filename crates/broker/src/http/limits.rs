//! What turns a client away before anything is done for it: too much, too often, too slow.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::error::ApiError;
use crate::{Inner, client};

/// Refuses a body that says it is too large, and takes in a bounded part of it first: a connection that is closed
/// with bytes unread is reset, and the client would not see the answer. A body without a length is cut where it is
/// read.
pub(super) async fn refuse_oversized(
    broker: Arc<Inner>,
    most: usize,
    request: Request,
    next: Next,
) -> Response {
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let oversized = length.is_some_and(|length| usize::try_from(length).is_ok_and(|l| l > most));
    if !oversized {
        return bodies(broker, request, next).await;
    }
    take_in(request, most.saturating_mul(2)).await;
    ApiError::TooLarge.into_response()
}

/// Refuses a client that comes more often than the configuration allows. Where there is no connection there is no limit.
pub(super) async fn attempts(
    State(broker): State<Arc<Inner>>,
    request: Request,
    next: Next,
) -> Response {
    let taken = source(&broker, &request).map_or(Ok(()), |client| {
        let most = broker.live().attempts_per_minute;
        let mut attempts = broker
            .attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        attempts.take(client, most, broker.now())
    });
    match taken {
        Ok(()) => next.run(request).await,
        Err(seconds) => {
            broker.metrics.turned_away("attempts");
            take_in(request, broker.config.limits.body_bytes).await;
            ApiError::TooOften { seconds }.into_response()
        }
    }
}

/// Refuses a client that asks for resources more often than the configuration allows.
pub(super) async fn reads(
    State(broker): State<Arc<Inner>>,
    request: Request,
    next: Next,
) -> Response {
    let taken = source(&broker, &request).map_or(Ok(()), |client| {
        let most = broker.live().reads_per_minute;
        let mut reads = broker.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.take(client, most, broker.now())
    });
    match taken {
        Ok(()) => next.run(request).await,
        Err(seconds) => {
            broker.metrics.turned_away("reads");
            ApiError::TooOften { seconds }.into_response()
        }
    }
}

/// Refuses a large body while others take what room there is. What a body says of its length is what it may take; one that
/// says nothing may take all that is allowed.
async fn bodies(broker: Arc<Inner>, request: Request, next: Next) -> Response {
    let limits = &broker.config.limits;
    let hint = request.body().size_hint();
    let most = hint.upper().and_then(|most| usize::try_from(most).ok());
    let most = most.unwrap_or(limits.body_bytes).min(limits.body_bytes);
    if most <= SMALL_BODY {
        return next.run(request).await;
    }
    let room = limits.bodies_bytes.max(limits.body_bytes.saturating_mul(4));
    let client = source(&broker, &request);
    let Some(held) = broker.bodies.take(client, most, room) else {
        broker.metrics.turned_away("bodies");
        take_in(request, limits.body_bytes).await;
        return ApiError::Crowded.into_response();
    };
    let response = next.run(request).await;
    drop(held);
    response
}

/// The client behind a request, where there is a connection.
fn source(broker: &Inner, request: &Request) -> Option<client::Client> {
    let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
    let proxies = &broker.live().trusted_proxies;
    Some(client::behind(peer.ip(), request.headers(), proxies))
}

/// Bounds a request's time, reading its body included, and forbids caches.
pub(super) async fn within(limit: Duration, answer: impl Future<Output = Response>) -> Response {
    let mut response = match tokio::time::timeout(limit, answer).await {
        Ok(response) => response,
        Err(_) => ApiError::Timeout.into_response(),
    };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Takes in a bounded part of a body that nobody will read.
pub(super) async fn take_in(request: Request, most: usize) {
    // Who waits for a `100 Continue` has not sent the body.
    if !request.headers().contains_key(header::EXPECT) {
        let drained = drain(request.into_body(), most);
        tokio::time::timeout(DRAIN, drained)
            .await
            .unwrap_or_default();
    }
}

async fn drain(mut body: Body, most: usize) {
    let mut taken = 0usize;
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        taken = taken.saturating_add(frame.data_ref().map_or(0, |data| data.len()));
        if taken > most {
            return;
        }
    }
}

/// Every connection may have a body of this length under way.
const SMALL_BODY: usize = 16 * 1024;
const DRAIN: Duration = Duration::from_secs(1);
