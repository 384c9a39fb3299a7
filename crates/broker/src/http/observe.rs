//! What surrounds every request: its id, its span, its place in the metrics.
//!
//! Of a route its template is named and nothing of the path. An id of the client's is taken over when it is short and
//! plain, so that both sides' logs can be laid side by side.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use tracing::{Instrument as _, field};

use crate::Inner;
use crate::audit::EventId;
use crate::metrics::method_name;
use crate::telemetry::{TRACE_PARENT, TraceParent};

/// Answers a request within its span, and counts it.
pub(super) async fn observe<F: Future<Output = Response>>(
    broker: Arc<Inner>,
    request: Request,
    answer: impl FnOnce(Request) -> F,
) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    let route: Arc<str> = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| NO_ROUTE.into(), |path| path.as_str().into());
    let method = request.method().clone();
    // At this level the span is there whatever is logged, and so is the id in each line.
    let span = tracing::error_span!(
        REQUEST_SPAN,
        request_id = id.as_str(),
        method = method_name(&method),
        route = &*route,
        status = field::Empty,
        traceparent = field::Empty,
    );
    if let Some(parent) = trace_parent(request.headers()) {
        span.record(TRACE_PARENT, parent);
    }
    let mut response = answer(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    let took = began.elapsed();
    broker.metrics.request(&route, &method, status, took);
    span.record("status", status);
    span.in_scope(|| {
        let ms = took.as_secs_f64() * 1e3;
        let ms = format_args!("{ms:.2}");
        match PROBES.contains(&&*route) {
            // Who asks every few seconds would fill the log.
            true => tracing::debug!(ms, "answered"),
            false => tracing::info!(ms, "answered"),
        }
    });
    // An id is plain ASCII, by its making.
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).map(HeaderValue::as_bytes);
    match sent.and_then(plain_id) {
        Some(id) => id.to_owned(),
        None => EventId::fresh().to_string(),
    }
}

/// An id of 1 to 64 letters, digits, `.`, `_` and `-`.
pub(crate) fn plain_id(sent: &[u8]) -> Option<&str> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let fits = (1..=MAX_ID).contains(&sent.len()) && sent.iter().all(plain);
    fits.then(|| std::str::from_utf8(sent).ok()).flatten()
}

/// The client's trace, when it names one in the right form, once.
fn trace_parent(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all(TRACE_PARENT).iter();
    let (first, None) = (sent.next()?, sent.next()) else {
        return None;
    };
    let text = first.to_str().ok().filter(|text| text.len() <= 64)?;
    TraceParent::parse(text).map(|_| text)
}

/// The name of the span of a request.
pub(crate) const REQUEST_SPAN: &str = "request";
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const NO_ROUTE: &str = "none";
const PROBES: [&str; 2] = ["/healthz", "/readyz"];
const MAX_ID: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_that_could_break_a_line_is_taken_over() {
        for good in ["a", "0f-1.B_", &"x".repeat(64)] {
            assert_eq!(plain_id(good.as_bytes()), Some(good));
        }
        for bad in ["", "a b", "a\n", "a\"", "ä", "a;b", "{}", &"x".repeat(65)] {
            assert_eq!(plain_id(bad.as_bytes()), None, "{bad}");
        }
    }
}
