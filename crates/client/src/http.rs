//! The one driver of this crate that speaks HTTP.
//!
//! It bounds time and length, follows no redirect, takes no proxy from the environment unless asked, and trusts the
//! roots it is given and no others. It knows nothing of what is asked for; `kbs`, `admin` and `guest_api` do.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use rustls_platform_verifier::BuilderVerifierExt;
use serde::de::DeserializeOwned;
use strongroom_wire::kbs::{EVENT_HEADER, TOKEN_ID_HEADER};
use zeroize::Zeroizing;

use crate::error::{Cause, ClientError, Refusal, one_line, refusal};

/// How an endpoint is reached. The default is the strict choice.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// Whose certificates count.
    pub roots: Roots,
    /// Which way requests take.
    pub route: Route,
    /// How long a connection may take to stand.
    pub connect_timeout: Duration,
    /// How long one request may take in all.
    pub timeout: Duration,
    /// The longest answer that is read, in bytes.
    pub max_body: usize,
    /// Connect to this Unix socket, whatever host the address names.
    pub socket: Option<PathBuf>,
    /// Allow a plain `http://` address beyond this machine.
    pub insecure_http: bool,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            roots: Roots::Platform,
            route: Route::Direct,
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(30),
            max_body: 16 * 1024 * 1024,
            socket: None,
            insecure_http: false,
        }
    }
}

/// Whose certificates count in TLS.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Roots {
    /// The machine's own certificate authorities.
    #[default]
    Platform,
    /// These certificates (PEM), and no others.
    Only(String),
}

impl From<Option<String>> for Roots {
    fn from(pem: Option<String>) -> Self {
        pem.map_or(Self::Platform, Self::Only)
    }
}

/// Which way requests take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Route {
    /// Straight to the host that the address names.
    #[default]
    Direct,
    /// Through the proxy that `HTTPS_PROXY` and its kin name.
    ProxyFromEnvironment,
}

/// One server that requests go to.
#[derive(Clone)]
pub struct Endpoint {
    client: reqwest::Client,
    base: Url,
    peer: String,
    trusted: &'static str,
    timeout: Duration,
    max_body: usize,
}

/// What somebody answers who was only asked whether they are there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probed {
    /// The status.
    pub status: u16,
    /// The time that the other side gives (the `Date` header, RFC 9110 6.6.1), if it gives one.
    pub date: Option<String>,
}

impl Endpoint {
    /// Prepares an endpoint; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`] when the address is not `https://host[:port][/prefix]`, or `http://` on loopback (beyond it
    /// with [`EndpointOptions::insecure_http`] only, and warned about); [`ClientError::BadRoots`] when the certificates cannot be used.
    pub fn new(url: &str, options: EndpointOptions) -> Result<Self, ClientError> {
        let base = parse_base(url)?;
        let peer = match &options.socket {
            Some(socket) => format!("unix:{}", socket.display()),
            None => base.origin().ascii_serialization(),
        };
        let plain = base.scheme() == "http";
        if plain && !is_loopback(&base) {
            if !options.insecure_http {
                return Err(ClientError::BadUrl {
                    url: one_line(base.as_str(), 200),
                    reason: "http:// beyond this machine is not encrypted and proves nothing about the other side; \
                             write https://, or name --insecure-http where the command has it"
                        .to_owned(),
                });
            }
            tracing::warn!(%peer, "this connection is not encrypted and proves nothing about the other side; use https");
        }
        let tls = tls(plain, &options.roots)?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(!plain)
            .redirect(Policy::none())
            .referer(false)
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout);
        if options.route == Route::Direct {
            builder = builder.no_proxy();
        }
        if let Some(socket) = options.socket {
            builder = builder.unix_socket(socket);
        }
        let client = builder.build().map_err(|error| ClientError::BadRoots {
            reason: innermost(&error),
        })?;
        Ok(Self {
            client,
            base,
            peer,
            trusted: match options.roots {
                Roots::Platform => {
                    "this machine's own authorities are trusted, for no certificate was given: give the broker's own"
                }
                Roots::Only(_) => {
                    "only the certificate that was given is trusted: if the broker was made anew, it has another one \
                     now; give that one"
                }
            },
            timeout: options.timeout,
            max_body: options.max_body,
        })
    }

    /// Scheme, host and port: how the other side is named in errors and logs.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Asks for the address itself, whatever the answer: whether somebody is there who proves to be whom it names. What is
    /// answered is not read.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::UntrustedPeer`].
    pub async fn probe(&self) -> Result<Probed, ClientError> {
        let asked = self.client.get(self.base.clone()).send().await;
        let answer = asked.map_err(|error| self.failure(&error))?;
        let date = answer.headers().get(reqwest::header::DATE);
        let date = date.and_then(|date| date.to_str().ok());
        Ok(Probed {
            status: answer.status().as_u16(),
            date: date.map(|date| one_line(date, 40)),
        })
    }

    /// Sends one request and reads its whole answer, whatever the status.
    pub(crate) async fn send(&self, outgoing: Outgoing<'_>) -> Result<Answer, ClientError> {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}{}",
            self.base.path().trim_end_matches('/'),
            outgoing.path
        ));
        url.set_query(outgoing.query);
        let mut headers = HeaderMap::new();
        if let Some(bearer) = outgoing.bearer {
            headers.insert(AUTHORIZATION, sensitive(&format!("Bearer {bearer}"))?);
        }
        if let Some(cookie) = outgoing.cookie {
            headers.insert(COOKIE, sensitive(cookie)?);
        }
        let mut request = self.client.request(outgoing.method, url).headers(headers);
        if let Some((content_type, body)) = outgoing.body {
            request = request.header(CONTENT_TYPE, content_type).body(body);
        }
        let mut response = request.send().await.map_err(|error| self.failure(&error))?;
        let status = response.status().as_u16();
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map_or_else(|| "no content type".to_owned(), |value| one_line(value, 80));
        let set_cookies = response
            .headers()
            .get_all(SET_COOKIE)
            .iter()
            .map(|value| value.as_bytes().to_vec())
            .collect();
        let word = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            is_word(value).then(|| value.to_owned())
        };
        let release = Release {
            event: word(EVENT_HEADER),
            token: word(TOKEN_ID_HEADER),
        };
        let too_large = || ClientError::TooLarge {
            peer: self.peer.clone(),
            limit: self.max_body,
        };
        let announced = response
            .content_length()
            .map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced > self.max_body {
            return Err(too_large());
        }
        let mut body = Zeroizing::new(Vec::with_capacity(announced.min(PREALLOCATED)));
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.failure(&error))?
        {
            if body.len() + chunk.len() > self.max_body {
                return Err(too_large());
            }
            append(&mut body, &chunk);
        }
        Ok(Answer {
            peer: self.peer.clone(),
            status,
            content_type,
            set_cookies,
            release,
            body,
        })
    }

    fn failure(&self, error: &reqwest::Error) -> ClientError {
        let peer = self.peer.clone();
        if let Some(tls) = find_tls_error(error) {
            return match tls {
                rustls::Error::InvalidMessage(_) => ClientError::Protocol {
                    peer,
                    reason: "it does not answer in TLS; is it an http:// address?".to_owned(),
                },
                other => ClientError::UntrustedPeer {
                    peer,
                    reason: one_line(&other.to_string(), 400),
                    trusted: self.trusted,
                },
            };
        }
        if self.base.scheme() == "http" && is_parse_error(error) {
            return ClientError::Protocol {
                peer,
                reason: "it does not speak plain HTTP; try https://".to_owned(),
            };
        }
        let reason = if error.is_timeout() {
            format!("no answer within {} s", self.timeout.as_secs_f32())
        } else {
            innermost(error)
        };
        ClientError::Unreachable { peer, reason }
    }
}

/// One request.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) bearer: Option<&'a str>,
    pub(crate) cookie: Option<&'a str>,
    pub(crate) body: Option<(&'static str, Vec<u8>)>,
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(method: Method, path: &'a str) -> Self {
        Self {
            method,
            path,
            query: None,
            bearer: None,
            cookie: None,
            body: None,
        }
    }
}

/// One answer, read whole.
pub(crate) struct Answer {
    peer: String,
    pub(crate) status: u16,
    content_type: String,
    set_cookies: Vec<Vec<u8>>,
    pub(crate) release: Release,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Answer {
    pub(crate) fn set_cookies(&self) -> impl Iterator<Item = &[u8]> {
        self.set_cookies.iter().map(Vec::as_slice)
    }

    /// The answer itself when it is a success, else what its error body says.
    pub(crate) fn success(self) -> Result<Self, Refused> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        match refusal(self.status, &self.body) {
            Some(refusal) => Err(Refused::ByBroker(self.peer, self.status, refusal)),
            None => {
                let excerpt = one_line(&String::from_utf8_lossy(&self.body), EXCERPT);
                Err(Refused::Otherwise(ClientError::NotTheBroker {
                    peer: self.peer,
                    status: self.status,
                    content_type: self.content_type,
                    excerpt,
                }))
            }
        }
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, expected: &str) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            // Position and category only: serde's own text may quote the answer.
            let place = format!("line {} column {}", error.line(), error.column());
            self.protocol(format!(
                "its answer is not {expected} (JSON {:?} error at {place})",
                error.classify()
            ))
        })
    }

    pub(crate) fn protocol(&self, reason: String) -> ClientError {
        ClientError::Protocol {
            peer: self.peer.clone(),
            reason,
        }
    }
}

/// Where a broker's record has a release, as far as its answer says. A broker that is none of this project's says nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Release {
    /// The event's id.
    pub event: Option<String>,
    /// The id of the token on which it was released.
    pub token: Option<String>,
}

/// A secret, and where the broker's record has its release.
pub struct Released {
    /// The secret.
    pub secret: Zeroizing<Vec<u8>>,
    /// Its release.
    pub release: Release,
}

/// Whether a header's value is an id: it goes into logs and receipts.
fn is_word(value: &str) -> bool {
    let fits = (1..=MAX_WORD).contains(&value.len());
    fits && value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// An answer that is not a success.
pub(crate) enum Refused {
    /// In the protocol's own form: peer, status, what it says.
    ByBroker(String, u16, Refusal),
    /// In another form.
    Otherwise(ClientError),
}

impl Refused {
    /// What the refusal means where `what` was asked for, outside the handshake.
    pub(crate) fn into_error(self, what: &str) -> ClientError {
        let (peer, status, refusal) = match self {
            Self::ByBroker(peer, status, refusal) => (peer, status, refusal),
            Self::Otherwise(error) => return error,
        };
        let (what, detail) = (what.to_owned(), refusal.detail);
        match refusal.cause {
            Cause::NotFound => ClientError::NotFound { what, detail },
            Cause::Denied => ClientError::Denied { what, detail },
            Cause::Unauthenticated => ClientError::NotAttested { detail },
            Cause::Unavailable => ClientError::Unavailable {
                peer,
                status,
                detail,
            },
            Cause::Rejected => ClientError::Rejected {
                what,
                status,
                detail,
            },
        }
    }
}

pub(crate) fn parse_base(url: &str) -> Result<Url, ClientError> {
    let base = Url::parse(url).map_err(|error| ClientError::BadUrl {
        url: one_line(url, 200),
        reason: match url.contains("://") {
            true => format!("{error}; write it as https://host:port"),
            false => "it does not begin with https://; write it as https://host:port".to_owned(),
        },
    })?;
    let mut shown = base.clone();
    // Fails only for addresses that cannot have a user, which then have nothing to hide.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    let bad = |reason: &str| ClientError::BadUrl {
        url: one_line(shown.as_str(), 200),
        reason: reason.to_owned(),
    };
    if !matches!(base.scheme(), "https" | "http") {
        return Err(bad(match url.contains("://") {
            true => "only https:// and http:// are spoken here",
            // `localhost:8080` is read as the scheme `localhost`.
            false => "it does not begin with https://; write it as https://host:port",
        }));
    }
    if base.host_str().is_none() {
        return Err(bad("it names no host"));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(bad(
            "it carries a user name or password, which would end up in logs",
        ));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(bad(
            "it carries a query or a fragment; only scheme, host, port and a path prefix belong here",
        ));
    }
    Ok(base)
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The one TLS configuration: aws-lc-rs named explicitly, so that no other provider in the process is taken. For a
/// `plain` address, which it is not used for, the machine's own authorities are not asked for.
///
/// # Errors
/// [`ClientError::BadRoots`] when a certificate is damaged, or there is nobody to trust.
pub fn tls(plain: bool, roots: &Roots) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let bad = |reason: String| ClientError::BadRoots { reason };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?;
    let store = match roots {
        Roots::Only(pem) => parse_roots(pem)?,
        Roots::Platform if plain => RootCertStore::empty(),
        Roots::Platform => {
            let verified = builder.with_platform_verifier().map_err(|error| {
                bad(format!("this machine has none of its own ({error}); give the broker's certificate as a PEM file"))
            })?;
            return Ok(verified.with_no_client_auth());
        }
    };
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// A TLS configuration that trusts the machine's own authorities and, besides them, some certificates (PEM).
///
/// # Errors
/// [`ClientError::BadRoots`] when a certificate is damaged, or there is nobody to trust.
pub fn tls_with_extra_roots(pems: &[String]) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let bad = |reason: String| ClientError::BadRoots { reason };
    let mut extra = Vec::new();
    for pem in pems {
        // Adding them to a store tells a damaged one before it is silently left out.
        parse_roots(pem)?;
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            extra.push(certificate.map_err(|error| bad(error.to_string()))?);
        }
    }
    let verifier =
        rustls_platform_verifier::Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
            .map_err(|error| bad(error.to_string()))?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

fn parse_roots(pem: &str) -> Result<RootCertStore, ClientError> {
    let bad = |reason: String| ClientError::BadRoots { reason };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate =
            certificate.map_err(|error| bad(format!("the PEM text is damaged: {error}")))?;
        store
            .add(certificate)
            .map_err(|error| bad(format!("a certificate in the PEM text is damaged: {error}")))?;
    }
    if store.is_empty() {
        return Err(bad(
            "the text given holds no \"BEGIN CERTIFICATE\" block (PEM)".to_owned(),
        ));
    }
    Ok(store)
}

fn sensitive(text: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| ClientError::Crypto {
        doing: "writing a token into a header",
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Grows by copying into fresh memory, so that the old copy is wiped and none stays behind.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    let needed = body.len() + chunk.len();
    if body.capacity() < needed {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
        larger.extend_from_slice(body);
        *body = larger;
    }
    body.extend_from_slice(chunk);
}

/// An `io::Error` does not name what it wraps as its source, so both ways are looked down.
fn find_tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    match wrapped {
        Some(inner) => find_tls_error(inner),
        None => error.source().and_then(find_tls_error),
    }
}

/// Whether what came back is not HTTP.
fn is_parse_error(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The words of the deepest cause, which alone says what happened.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    one_line(&deepest.to_string(), 200)
}

const PREALLOCATED: usize = 1024 * 1024;
const EXCERPT: usize = 120;
const MAX_WORD: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, ClientError> {
        Endpoint::new(url, EndpointOptions::default())
    }

    #[test]
    fn password_in_an_address_is_refused_and_not_repeated() {
        let error = endpoint("http://user:hunter2@127.0.0.1:1").err().unwrap();
        assert!(matches!(error, ClientError::BadUrl { .. }));
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn address_without_scheme_is_explained() {
        let error = endpoint("127.0.0.1:8080").err().unwrap();
        assert!(error.to_string().contains("https://host:port"), "{error}");
    }

    #[test]
    fn other_schemes_and_queries_are_refused() {
        assert!(endpoint("ftp://host").is_err());
        assert!(endpoint("http://127.0.0.1/?token=x").is_err());
    }

    #[test]
    fn text_that_is_no_certificate_is_refused() {
        let options = EndpointOptions {
            roots: Roots::Only("hello".to_owned()),
            ..EndpointOptions::default()
        };
        assert!(matches!(
            Endpoint::new("https://127.0.0.1:1", options),
            Err(ClientError::BadRoots { .. })
        ));
    }

    #[test]
    fn damaged_certificate_is_refused() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        let options = EndpointOptions {
            roots: Roots::Only(pem),
            ..EndpointOptions::default()
        };
        assert!(matches!(
            Endpoint::new("https://127.0.0.1:1", options),
            Err(ClientError::BadRoots { .. })
        ));
    }

    #[test]
    fn plain_http_beyond_this_machine_must_be_named() {
        let error = endpoint("http://broker.example:8080").err().unwrap();
        assert!(error.to_string().contains("https://"), "{error}");
        let options = EndpointOptions {
            insecure_http: true,
            ..EndpointOptions::default()
        };
        assert!(Endpoint::new("http://broker.example:8080", options).is_ok());
        assert!(endpoint("http://127.0.0.1:8080").is_ok());
    }

    #[test]
    fn loopback_is_told_from_its_lookalikes() {
        let loopback = |url| is_loopback(&Url::parse(url).unwrap());
        assert!(
            loopback("http://127.0.0.1:8006")
                && loopback("http://[::1]:8006")
                && loopback("http://localhost")
        );
        assert!(
            !loopback("http://127.0.0.1.evil.example")
                && !loopback("http://localhost.evil.example")
        );
    }

    #[test]
    fn growth_keeps_every_byte() {
        let mut body = Zeroizing::new(Vec::new());
        for chunk in [b"abc".as_slice(), b"", b"defgh", b"i"] {
            append(&mut body, chunk);
        }
        assert_eq!(body.as_slice(), b"abcdefghi");
    }
}
