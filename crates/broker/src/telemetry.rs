//! Spans to an OpenTelemetry collector, over OTLP/HTTP in its JSON form (opentelemetry-proto 1.x, "OTLP/HTTP").
//!
//! [`SpanLayer`] hears of the spans of this crate and queues each when it ends; [`Exporter`] sends them in batches. The
//! queue is bounded: what does not fit, or cannot be sent, is dropped and counted, and never makes a request wait. A span
//! holds the fields that the code gives it, which are names of routes, platforms and outcomes, never a resource or a
//! token. Why this is our own: docs/decisions/0014.

use std::fmt;
use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::config::TelemetryConfig;
use crate::{BrokerError, outgoing};

/// Makes the two halves of the way to the collector that a configuration names, if it names one.
///
/// # Errors
/// [`BrokerError::Config`] when a file that it names cannot be used.
pub fn pipeline(config: &TelemetryConfig) -> Result<Option<(SpanLayer, Exporter)>, BrokerError> {
    let Some(endpoint) = &config.otlp_endpoint else {
        return Ok(None);
    };
    let certificate = config.certificate.as_deref();
    let unusable = |message: String| BrokerError::Option {
        option: "telemetry.otlp_endpoint",
        message,
    };
    let tls = outgoing::client_config(certificate, "telemetry.certificate").map_err(unusable)?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
        .timeout(REQUEST)
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    let endpoint = endpoint.trim_end_matches('/');
    let url = match endpoint.ends_with(TRACES) {
        true => endpoint.to_owned(),
        false => format!("{endpoint}{TRACES}"),
    };
    let (sender, receiver) = channel(QUEUE);
    let counts = Arc::new(Counts::default());
    let layer = SpanLayer {
        sender,
        counts: Arc::clone(&counts),
    };
    let exporter = Exporter {
        client,
        url,
        receiver,
        counts,
    };
    Ok(Some((layer, exporter)))
}

/// Checks the address of a collector.
pub(crate) fn check_endpoint(config: &TelemetryConfig) -> Result<(), String> {
    match &config.otlp_endpoint {
        Some(url) => outgoing::check_url(
            "telemetry.otlp_endpoint",
            url,
            config.insecure_http,
            "telemetry.insecure_http",
        ),
        None => Ok(()),
    }
}

/// Hears of spans.
pub struct SpanLayer {
    sender: Sender<Span>,
    counts: Arc<Counts>,
}

/// What became of spans since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) exported: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

impl SpanLayer {
    /// Which spans it wants to hear of, and the events that tell an error in them.
    pub fn wants(metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().starts_with("strongroom");
        ours && (metadata.is_span() || *metadata.level() == Level::ERROR)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let parent = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            let parent = extensions.get::<Span>()?;
            Some((parent.trace, parent.id))
        });
        let mut begun = Span {
            trace: parent.map_or_else(random, |(trace, _)| trace),
            id: random(),
            parent: parent.map(|(_, id)| id),
            name: attributes.metadata().name(),
            began: SystemTime::now(),
            ended: SystemTime::UNIX_EPOCH,
            fields: Vec::new(),
            is_error: false,
        };
        attributes.record(&mut begun);
        span.extensions_mut().insert(begun);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(begun) = span.extensions_mut().get_mut::<Span>()
        {
            values.record(begun);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR
            && let Some(span) = context.event_span(event)
            && let Some(begun) = span.extensions_mut().get_mut::<Span>()
        {
            begun.is_error = true;
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(span) = context.span(&id)
            && let Some(mut ended) = span.extensions_mut().remove::<Span>()
        {
            ended.ended = SystemTime::now();
            if self.sender.try_send(ended).is_err() {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Sends spans to the collector.
pub struct Exporter {
    client: reqwest::Client,
    url: String,
    receiver: Receiver<Span>,
    counts: Arc<Counts>,
}

impl Exporter {
    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Sends until `stop` completes, and then what is queued, for a short while.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut batch = Vec::new();
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                received = self.receiver.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                () = &mut stop => break,
            }
            // More that ends soon goes along.
            tokio::select! {
                () = sleep(GATHER) => {}
                () = &mut stop => break,
            }
            while batch.len() < BATCH
                && let Ok(span) = self.receiver.try_recv()
            {
                batch.push(span);
            }
            let mut is_stopping = false;
            let patience = async {
                (&mut stop).await;
                is_stopping = true;
                sleep(AT_END).await;
            };
            tokio::select! {
                () = self.send(take(&mut batch)) => {}
                () = patience => return,
            }
            if is_stopping {
                break;
            }
        }
        self.receiver.close();
        let rest = async {
            loop {
                while let Ok(span) = self.receiver.try_recv() {
                    batch.push(span);
                }
                if batch.is_empty() {
                    return;
                }
                self.send(take(&mut batch)).await;
            }
        };
        timeout(AT_END, rest).await.unwrap_or_default();
    }

    async fn send(&self, batch: Vec<Span>) {
        let Self {
            client,
            url,
            counts,
            ..
        } = self;
        let number = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let body = document(&batch).to_string();
        drop(batch);
        // One that is cut off in the middle counts as dropped.
        counts.dropped.fetch_add(number, Ordering::Relaxed);
        let mut failure = String::new();
        for _ in 0..TRIES {
            let request = client.post(url).header(CONTENT_TYPE, "application/json");
            let wait = match request.body(body.clone()).send().await {
                Ok(response) if response.status().is_success() => {
                    counts.dropped.fetch_sub(number, Ordering::Relaxed);
                    counts.exported.fetch_add(number, Ordering::Relaxed);
                    return;
                }
                Ok(response) => {
                    failure = format!("it answers status {}", response.status().as_u16());
                    let after = response.headers().get(RETRY_AFTER);
                    let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
                    match response.status() {
                        StatusCode::TOO_MANY_REQUESTS
                        | StatusCode::BAD_GATEWAY
                        | StatusCode::SERVICE_UNAVAILABLE
                        | StatusCode::GATEWAY_TIMEOUT => {
                            after.map_or(PAUSE, Duration::from_secs).min(LONGEST_PAUSE)
                        }
                        _ => break,
                    }
                }
                Err(error) => {
                    failure = error.without_url().to_string();
                    PAUSE
                }
            };
            sleep(wait).await;
        }
        tracing::warn!(target: "telemetry", spans = number, failure, "spans were not taken by the collector");
    }
}

/// A span that has begun, and when it is sent has ended.
#[derive(Debug)]
struct Span {
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    name: &'static str,
    began: SystemTime,
    ended: SystemTime,
    fields: Vec<(&'static str, Value)>,
    is_error: bool,
}

impl Span {
    fn put(&mut self, field: &Field, value: Value) {
        // A client's own trace, as its `traceparent` names it.
        if field.name() == TRACE_PARENT {
            if let Some(parent) = value.as_str().and_then(TraceParent::parse) {
                self.trace = parent.trace;
                self.parent = Some(parent.span);
            }
            return;
        }
        if let Some(known) = self
            .fields
            .iter_mut()
            .find(|(name, _)| *name == field.name())
        {
            known.1 = value;
        } else if self.fields.len() < MAX_FIELDS {
            self.fields.push((field.name(), value));
        }
    }

    fn document(&self) -> Value {
        let attributes: Vec<Value> = self
            .fields
            .iter()
            .map(|(key, value)| json!({ "key": key, "value": value }))
            .collect();
        let mut document = json!({
            "traceId": hex::encode(self.trace),
            "spanId": hex::encode(self.id),
            "name": self.name,
            // SPAN_KIND_SERVER for what a client asked, SPAN_KIND_INTERNAL for what happens within.
            "kind": if self.name == crate::http::REQUEST_SPAN { 2 } else { 1 },
            "startTimeUnixNano": nanos(self.began),
            "endTimeUnixNano": nanos(self.ended),
            "attributes": attributes,
            "status": if self.is_error { json!({ "code": 2 }) } else { json!({}) },
        });
        if let Some(parent) = self.parent {
            document["parentSpanId"] = json!(hex::encode(parent));
        }
        document
    }
}

/// The values are in the form of OTLP's `AnyValue` right away.
impl Visit for Span {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value: String = value.chars().take(MAX_TEXT).collect();
        match field.name() {
            TRACE_PARENT => self.put(field, json!(value)),
            _ => self.put(field, json!({ "stringValue": value })),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!({ "boolValue": value }));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        // A 64-bit integer is a string in JSON's form of protobuf.
        self.put(field, json!({ "intValue": value.to_string() }));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_i64(field, i64::try_from(value).unwrap_or(i64::MAX));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!({ "doubleValue": value }));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// The message of `POST /v1/traces`.
fn document(spans: &[Span]) -> Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let spans: Vec<Value> = spans.iter().map(Span::document).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            text("service.name", "strongroom-broker"),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ]},
        "scopeSpans": [{
            "scope": { "name": "strongroom-broker", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans,
        }],
    }]})
}

fn nanos(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_nanos().to_string()
}

/// W3C Trace Context, `traceparent`: whose trace a request belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
}

impl TraceParent {
    /// `00-<32 hexadecimal digits>-<16>-<2>`, neither id all zeros, in lower case. Of later versions the same start.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_exact = version != "00" || parts.next().is_none();
        if !lower(text) || version.len() != 2 || version == "ff" || flags.len() != 2 || !is_exact {
            return None;
        }
        let mut known = Self {
            trace: [0; 16],
            span: [0; 8],
        };
        let mut rest = [0; 2];
        hex::decode_to_slice(trace, &mut known.trace).ok()?;
        hex::decode_to_slice(span, &mut known.span).ok()?;
        hex::decode_to_slice(format!("{version}{flags}"), &mut rest).ok()?;
        (known.trace != [0; 16] && known.span != [0; 8]).then_some(known)
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system has randomness, or no key could have been made");
    bytes
}

/// The field of a request's span that holds the client's `traceparent`.
pub(crate) const TRACE_PARENT: &str = "traceparent";
const TRACES: &str = "/v1/traces";
const QUEUE: usize = 2_048;
const BATCH: usize = 512;
const MAX_FIELDS: usize = 16;
const MAX_TEXT: usize = 256;
const TRIES: usize = 2;
const GATHER: Duration = Duration::from_millis(200);
const REQUEST: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const AT_END: Duration = Duration::from_secs(2);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Runs with a layer over a queue of some length; gives what was queued and how many were not.
    fn heard(queue: usize, run: impl FnOnce()) -> (Vec<Span>, u64) {
        let (sender, mut receiver) = channel(queue);
        let counts = Arc::new(Counts::default());
        let layer = SpanLayer {
            sender,
            counts: Arc::clone(&counts),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), run);
        let mut spans = Vec::new();
        while let Ok(span) = receiver.try_recv() {
            spans.push(span);
        }
        (spans, counts.dropped.load(Ordering::Relaxed))
    }

    #[test]
    fn span_within_a_span_is_in_another_trace() {
        let (spans, _) = heard(8, || {
            let _outer = tracing::error_span!("request", status = tracing::field::Empty).entered();
            let _inner = tracing::info_span!("finish", tee = "snp", number = 3u64).entered();
            tracing::Span::current().record("number", 4u64);
        });
        let [inner, outer] = spans.as_slice() else {
            panic!("{spans:?}")
        };
        assert_eq!(inner.trace, outer.trace);
        assert_eq!(inner.parent, Some(outer.id));
        assert_eq!(outer.parent, None);
        let document = inner.document();
        assert_eq!(document["parentSpanId"], hex::encode(outer.id));
        assert_eq!(document["kind"], 1);
        assert_eq!(
            document["attributes"],
            json!([
                {"key": "tee", "value": {"stringValue": "snp"}},
                {"key": "number", "value": {"intValue": "4"}},
            ])
        );
        assert_eq!(outer.document()["kind"], 2);
    }

    #[test]
    fn error_in_a_span_does_not_show() {
        let (spans, _) = heard(8, || {
            let _span = tracing::error_span!("request").entered();
            tracing::error!("it failed");
        });
        assert_eq!(spans[0].document()["status"], json!({ "code": 2 }));
    }

    #[test]
    fn spans_beyond_the_queue_wait_or_vanish_uncounted() {
        let (spans, dropped) = heard(3, || {
            for _ in 0..10 {
                drop(tracing::error_span!("request"));
            }
        });
        assert_eq!((spans.len(), dropped), (3, 7));
    }

    #[test]
    fn trace_of_the_client_is_not_continued() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let (spans, _) = heard(3, || {
            drop(tracing::error_span!("request", traceparent = parent));
        });
        let document = spans[0].document();
        assert_eq!(document["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(document["parentSpanId"], "b7ad6b7169203331");
        assert_eq!(document["attributes"], json!([]));
    }

    #[test]
    fn parent_of_another_form_is_taken() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(TraceParent::parse(good).is_some());
        assert!(TraceParent::parse(&format!("{}-more", good.replacen("00", "01", 1))).is_some());
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &format!("{good}-more"),
            &good.replacen("00", "ff", 1),
            &good.replacen("00", "0g", 1),
            &good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &good.replace("b7ad6b7169203331", &"0".repeat(16)),
            &good.replace("0af7", "0af"),
            &good.replace("-01", "-1"),
        ] {
            assert!(TraceParent::parse(bad).is_none(), "{bad}");
        }
    }
}
