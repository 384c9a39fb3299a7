//! The REST API of guest-components (api-server-rest), with honest statuses.
//!
//! Paths are not percent-decoded, as upstream; error bodies are plain text that names cause and next step. All routes
//! and the one mapping from error to status are on this screen.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::body::Body as _;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use strongroom_attester::{AttestError, Event, EventError};
use strongroom_client::session::DENIED_TOKEN_AGE;
use strongroom_client::{ClientError, Released};
use strongroom_wire::kbs::{EVENT_HEADER, TOKEN_ID_HEADER};
use strongroom_wire::resource::{ResourcePath, ResourceUri};
use strongroom_wire::tee::Tee;
use zeroize::Zeroizing;

use crate::attestation::{Agent, Measured};
use crate::error::GuestError;
use crate::serve::{Exposure, ServeOptions, Tokens};

/// All routes. The service must be made with the peer's address as connect info.
pub fn router(agent: Agent, options: ServeOptions) -> Router {
    // A HEAD would release a secret to nobody.
    let resource = get(resource).head(wrong_method);
    Router::new()
        .route("/cdh/resource", resource.clone())
        .route("/cdh/resource/", resource.clone())
        .route("/cdh/resource/{*path}", resource)
        .route(
            "/cdh/resource-of/{*path}",
            get(resource_of).head(wrong_method),
        )
        .route("/aa/token", get(token).head(wrong_method))
        .route("/aa/evidence", get(evidence))
        .route("/aa/additional-evidence", get(additional_evidence))
        .route("/aa/initdata", get(initdata))
        .route("/aa/aael", post(aael))
        .route("/info", get(info))
        .route("/healthz", get(healthz))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(options.clone(), admit))
        .with_state(Guest {
            agent,
            options,
            quotas: Arc::default(),
        })
}

/// Marks a request that came through a Unix socket, so from this machine.
#[derive(Clone, Copy)]
pub(super) struct UnixPeer;

#[derive(Clone)]
struct Guest {
    agent: Agent,
    options: ServeOptions,
    quotas: Arc<Quotas>,
}

/// How much of the event log each container that is known by its token has used. Where none is known, all share what the
/// log has for applications.
#[derive(Default)]
struct Quotas(Mutex<HashMap<String, usize>>);

impl Quotas {
    fn take(&self, container: Option<&str>, size: usize) -> Result<(), Failure> {
        let Some(container) = container else {
            return Ok(());
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let used = all.entry(container.to_owned()).or_default();
        match used.checked_add(size).filter(|sum| *sum <= EACH) {
            Some(sum) => {
                *used = sum;
                Ok(())
            }
            None => Err(Failure::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!(
                    "this container's events fill the {EACH} bytes of the log that each container has"
                ),
            )),
        }
    }

    fn give_back(&self, container: Option<&str>, size: usize) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = container.and_then(|container| all.get_mut(container)) {
            *used = used.saturating_sub(size);
        }
    }
}

/// Only processes of this machine, and only under a loopback name: a web page that rebinds its own name to 127.0.0.1
/// still sends that name.
async fn admit(
    State(options): State<ServeOptions>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    if options.exposure == Exposure::LoopbackOnly {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let local = request.extensions().get::<UnixPeer>().is_some()
            || peer.is_some_and(|ConnectInfo(address)| address.ip().to_canonical().is_loopback());
        if !local {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                "this API answers processes of its own machine only",
            ));
        }
        if !host(request.headers(), request.uri()).is_some_and(is_loopback_host) {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                "the Host header does not name this machine's loopback; ask http://127.0.0.1:8006 or http://localhost:8006",
            ));
        }
    }
    let path = request.uri().path();
    let Some(tokens) = options.tokens.as_deref().filter(|_| path != "/healthz") else {
        return Ok(next.run(whole(request, options.limits.body).await?).await);
    };
    let container = Container(holder(tokens, request.headers())?);
    let path = path.to_owned();
    let mut request = whole(request, options.limits.body).await?;
    request.extensions_mut().insert(container.clone());
    let answer = next.run(request).await;
    let Container(container) = container;
    tracing::info!(container, path, status = answer.status().as_u16(), "asked");
    Ok(answer)
}

/// The container that asks, as a handler sees it; nothing where every process may.
#[derive(Clone)]
struct Container(String);

/// The request with all of its body, which nobody may send for longer than that.
async fn whole(request: Request, limit: Duration) -> Result<Request, Failure> {
    // What is sent with another request is not read.
    if request.method() != Method::POST || request.body().is_end_stream() {
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    match tokio::time::timeout(limit, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(head, Body::from(bytes))),
        Ok(Err(_)) => Err(Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body broke off, or has more than {MAX_BODY} bytes"),
        )),
        Err(_) => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body took longer than {} s", limit.as_secs()),
        )),
    }
}

/// The container that asks, by its token.
fn holder(tokens: &Tokens, headers: &HeaderMap) -> Result<String, Failure> {
    let refused = |text: &str| Err(Failure::new(StatusCode::UNAUTHORIZED, text));
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (given.next(), given.next()) else {
        return refused(
            "this guest answers containers that it knows: send the container's token, Authorization: Bearer TOKEN",
        );
    };
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match token.and_then(|token| tokens.holder(token)) {
        Some(container) => Ok(container),
        None => refused("the token is of no container that this guest knows"),
    }
}

async fn resource(State(guest): State<Guest>, uri: Uri) -> Result<Response, Failure> {
    guest.needs(guest.options.features.resource(), "resource")?;
    let path = uri
        .path()
        .strip_prefix("/cdh/resource")
        .unwrap_or_default()
        .trim_start_matches('/');
    let path: ResourcePath = path.parse().map_err(|error| {
        Failure::new(
            StatusCode::BAD_REQUEST,
            format!("{error}; ask /cdh/resource/repository/type/tag"),
        )
    })?;
    released(&guest, &path.into()).await
}

/// A resource of the broker that is listed under a host, `kbs://HOST/repository/type/tag`. Not of upstream, which has no
/// such path and so never answers with its own broker's resource of the same name.
async fn resource_of(State(guest): State<Guest>, uri: Uri) -> Result<Response, Failure> {
    guest.needs(guest.options.features.resource(), "resource")?;
    let rest = uri.path().strip_prefix("/cdh/resource-of/");
    let asked = format!("kbs://{}", rest.unwrap_or_default()).parse::<ResourceUri>();
    let wrong = |reason: String| {
        Failure::new(
            StatusCode::BAD_REQUEST,
            format!(
                "{reason}; ask /cdh/resource-of/HOST/repository/type/tag, of a HOST in [[brokers]]"
            ),
        )
    };
    let asked = asked.map_err(|error| wrong(error.to_string()))?;
    let path = asked.to_resource_path();
    path.map_err(|error| wrong(error.to_string()))?;
    if asked.host().is_empty() {
        return Err(wrong("no host is named".to_owned()));
    }
    released(&guest, &asked).await
}

/// What was released, and where the broker's record has it.
async fn released(guest: &Guest, uri: &ResourceUri) -> Result<Response, Failure> {
    let released = guest.agent.release(uri).await;
    let Released { secret, release } = released.map_err(GuestError::from)?;
    let mut answer = octets(secret);
    let named = [
        (EVENT_HEADER, release.event),
        (TOKEN_ID_HEADER, release.token),
    ];
    for (name, value) in named {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            answer.headers_mut().insert(name, value);
        }
    }
    Ok(answer)
}

async fn healthz(State(guest): State<Guest>) -> Result<&'static str, Failure> {
    match guest.options.readiness.is_reached() {
        true => Ok("ok\n"),
        false => Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "starting: what cdh.toml wants in files ([[credentials]]) is being fetched",
        )),
    }
}

#[derive(Deserialize)]
struct TokenQuery {
    token_type: Option<String>,
}

async fn token(
    State(guest): State<Guest>,
    query: Result<Query<TokenQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    guest.needs(guest.options.features.attestation(), "attestation")?;
    match parsed(query)?.token_type.as_deref() {
        Some("kbs") => {}
        Some("coco_as") => {
            return Err(Failure::new(
                StatusCode::NOT_IMPLEMENTED,
                "token_type=coco_as: tokens straight from an attestation service ([token_configs.coco_as]) are not made here, \
                 for upstream's carry no nonce and no init-data; ask for token_type=kbs",
            ));
        }
        _ => {
            return Err(Failure::new(
                StatusCode::BAD_REQUEST,
                "name the token: /aa/token?token_type=kbs",
            ));
        }
    }
    let json = guest.agent.token_json().await.map_err(GuestError::from)?;
    Ok(octets(json))
}

#[derive(Deserialize)]
struct EvidenceQuery {
    runtime_data: Option<String>,
    encoding: Option<String>,
}

impl EvidenceQuery {
    fn into_bytes(self) -> Result<Vec<u8>, Failure> {
        let bad = |text| Failure::new(StatusCode::BAD_REQUEST, text);
        let data = self.runtime_data.ok_or_else(|| {
            bad("name what the evidence shall contain: ?runtime_data=TEXT, or base64url with &encoding=base64")
        })?;
        match self.encoding.as_deref() {
            None => Ok(data.into_bytes()),
            Some("base64") => URL_SAFE_NO_PAD.decode(data).map_err(|_| {
                bad("runtime_data is not base64url without padding, as encoding=base64 says")
            }),
            Some(_) => Err(bad(
                "the only encoding is base64 (base64url without padding)",
            )),
        }
    }
}

/// The document that this machine was launched with; not of upstream. It is measured, not secret: whoever launched the
/// machine had it.
async fn initdata(State(guest): State<Guest>) -> Result<Response, Failure> {
    guest.needs(guest.options.features.attestation(), "attestation")?;
    let none = || {
        Failure::new(
            StatusCode::NOT_FOUND,
            "this guest was started without init-data",
        )
    };
    let document = guest.agent.initdata().ok_or_else(none)?;
    let headers = [(CONTENT_TYPE, "application/toml")];
    Ok((headers, document.as_str().to_owned()).into_response())
}

type EvidenceQueryResult = Result<Query<EvidenceQuery>, QueryRejection>;

async fn evidence(
    State(guest): State<Guest>,
    query: EvidenceQueryResult,
) -> Result<Response, Failure> {
    guest.needs(guest.options.features.attestation(), "attestation")?;
    let evidence = guest.agent.evidence(parsed(query)?.into_bytes()?).await?;
    Ok(octets(Zeroizing::new(evidence.get().as_bytes().to_vec())))
}

async fn additional_evidence(
    State(guest): State<Guest>,
    query: EvidenceQueryResult,
) -> Result<Response, Failure> {
    guest.needs(guest.options.features.attestation(), "attestation")?;
    let evidence = guest
        .agent
        .additional_evidence(parsed(query)?.into_bytes()?)
        .await?;
    Ok(octets(Zeroizing::new(evidence.into_bytes())))
}

#[derive(Deserialize)]
struct EventBody {
    domain: String,
    operation: String,
    content: String,
    /// Other registers are the boot's and the init-data's: an application that could extend them could make its
    /// neighbours' evidence worthless.
    #[serde(default)]
    register_index: Option<IgnoredAny>,
}

/// Upstream's answers are strings, and a platform without registers is no failure of the request.
async fn aael(
    State(guest): State<Guest>,
    container: Option<Extension<Container>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    #[derive(Serialize)]
    struct EventAnswer {
        success: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'static str>,
    }
    guest.needs(guest.options.features.attestation(), "attestation")?;
    // A web page may send this without reading the answer; no program beside the guest has an origin.
    if headers.contains_key(ORIGIN) {
        return Err(Failure::new(
            StatusCode::FORBIDDEN,
            "web pages measure nothing here",
        ));
    }
    let body = body.map_err(|error| Failure::new(error.status(), error.body_text()))?;
    let event: EventBody = serde_json::from_slice(&body).map_err(|error| {
        Failure::new(
            StatusCode::BAD_REQUEST,
            format!(
                "{error}; send {{\"domain\":\"example.com\",\"operation\":\"load\",\"content\":\"model 3\"}}, all of them strings"
            ),
        )
    })?;
    if event.register_index.is_some() {
        return Err(Failure::new(
            StatusCode::BAD_REQUEST,
            "register_index is not taken here: events of applications go to the register that aa.toml names (eventlog_config.init_pcr)",
        ));
    }
    let event = Event::of_application(&event.domain, &event.operation, &event.content)
        .map_err(GuestError::from)?;
    let size = event.size();
    let container = container.map(|Extension(Container(name))| name);
    guest.quotas.take(container.as_deref(), size)?;
    let measured = guest.agent.measure_for_application(event).await;
    if !matches!(measured, Ok(Measured::Done)) {
        guest.quotas.give_back(container.as_deref(), size);
    }
    let measured = measured?;
    let (success, message) = match measured {
        Measured::Done => ("true", None),
        Measured::NotSupported => (
            "false",
            Some("The platform does not support runtime measurement"),
        ),
        Measured::NotEnabled => (
            "false",
            Some("Attestation Agent does not enable eventlog recording"),
        ),
    };
    Ok(axum::Json(EventAnswer { success, message }).into_response())
}

async fn info(State(guest): State<Guest>) -> Response {
    #[derive(Serialize)]
    struct Info<'a> {
        version: &'static str,
        tee: Tee,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        additional_tees: Vec<Tee>,
        feature: &'static str,
        broker: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        initdata: Option<Initdata>,
    }
    #[derive(Serialize)]
    struct Initdata {
        digest: String,
        /// The register that holds it; nothing when nothing vouches for it.
        bound: Option<&'static str>,
    }
    let initdata = guest.agent.initdata_digest().map(|digest| Initdata {
        digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        bound: guest.agent.initdata_register(),
    });
    axum::Json(Info {
        version: concat!("Strongroom ", env!("CARGO_PKG_VERSION")),
        tee: guest.agent.tee(),
        additional_tees: guest.agent.additional_tees(),
        feature: guest.options.features.as_str(),
        broker: guest.agent.broker(),
        initdata,
    })
    .into_response()
}

async fn unknown() -> Failure {
    Failure::new(
        StatusCode::NOT_FOUND,
        "no such path; there are /cdh/resource/repository/type/tag, /aa/token, /aa/evidence, /aa/additional-evidence, \
         /aa/initdata, /aa/aael, /info and /healthz",
    )
}

async fn wrong_method(uri: Uri) -> Failure {
    let text = match uri.path() {
        "/aa/aael" => "events are sent with POST",
        _ => "this path is read with GET",
    };
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, text)
}

impl Guest {
    fn needs(&self, enabled: bool, feature: &str) -> Result<(), Failure> {
        if enabled {
            return Ok(());
        }
        let text = format!(
            "the feature {feature:?} is not enabled here; start the guest with --features {feature}, or with --features all"
        );
        Err(Failure::new(StatusCode::NOT_FOUND, text))
    }
}

/// An error answer: status and one line of plain text.
struct Failure {
    status: StatusCode,
    text: String,
}

impl Failure {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        let mut text = error.to_string();
        if matches!(error, GuestError::Broker(ClientError::Denied { .. })) {
            text += &format!(
                "; if that has to do with this machine's evidence and its owner mends it, the guest attests anew after \
                 at most {DENIED_TOKEN_AGE} s"
            );
        }
        Self {
            status: status(&error),
            text,
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        tracing::debug!(status = self.status.as_u16(), text = %self.text, "refused");
        let mut answer = (
            self.status,
            [(CONTENT_TYPE, "text/plain; charset=utf-8")],
            self.text + "\n",
        )
            .into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let headers = answer.headers_mut();
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

/// The one mapping from error to status: what the broker decided is the caller's answer, what kept the guest from
/// asking it is a bad gateway.
fn status(error: &GuestError) -> StatusCode {
    match error {
        GuestError::Broker(error) => match error {
            ClientError::NotFound { .. } => StatusCode::NOT_FOUND,
            ClientError::Denied { .. } | ClientError::EvidenceRefused { .. } => {
                StatusCode::FORBIDDEN
            }
            ClientError::Evidence { .. } | ClientError::Crypto { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            _ => StatusCode::BAD_GATEWAY,
        },
        GuestError::Event(EventError::Reserved) => StatusCode::FORBIDDEN,
        GuestError::Attester(AttestError::EventLog { .. }) => StatusCode::INSUFFICIENT_STORAGE,
        GuestError::Attester(AttestError::ReportData { .. })
        | GuestError::Event(_)
        | GuestError::Register(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Raw bytes, wiped when they are sent, and kept by no cache.
fn octets(bytes: Zeroizing<Vec<u8>>) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::from(Bytes::from_owner(bytes))).into_response()
}

fn parsed<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    query
        .map(|Query(query)| query)
        .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))
}

fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let mut named = headers.get_all(HOST).iter();
    match (named.next(), named.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, None) => uri.authority().map(axum::http::uri::Authority::as_str),
        _ => None,
    }
}

/// Whether a Host header names loopback: `localhost`, `127.x.y.z` or `[::1]`, with any port. Never-panic entry for
/// untrusted Host headers.
pub fn is_loopback_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address, port.strip_prefix(':')),
            None => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// An event has at most 64 KiB, and JSON may spell each character in six.
const MAX_BODY: usize = 512 * 1024;
const EACH: usize = 128 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_that_only_look_like_loopback_are_refused() {
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil",
            "[::1",
            "",
            "8.8.8.8:8006",
            "[::2]",
            "localhost:x",
            "127.0.0.1:99999",
        ] {
            assert!(!is_loopback_host(bad), "{bad:?}");
        }
    }

    #[test]
    fn every_spelling_of_loopback_is_taken() {
        for good in [
            "localhost",
            "LocalHost:8006",
            "127.0.0.1",
            "127.0.0.1:8006",
            "127.1.2.3:1",
            "[::1]",
            "[::1]:8006",
        ] {
            assert!(is_loopback_host(good), "{good:?}");
        }
    }

    #[test]
    fn refused_evidence_is_no_bad_gateway() {
        let error = ClientError::EvidenceRefused {
            detail: String::new(),
        };
        assert_eq!(status(&error.into()), StatusCode::FORBIDDEN);
    }

    #[test]
    fn two_host_headers_name_nothing() {
        let mut headers = HeaderMap::new();
        headers.append(HOST, "localhost".parse().unwrap());
        headers.append(HOST, "evil.example".parse().unwrap());
        assert_eq!(host(&headers, &Uri::from_static("/info")), None);
    }
}
