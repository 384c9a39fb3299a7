//! Speaking to registries (OCI distribution specification 1.1): manifests, blobs and referrers, fetched and pushed.
//!
//! A registry is spoken to by TLS; without it only where its configuration names it `insecure` or it is on this
//! machine. A login goes to the registry and to the token service that it names, never along with a redirect.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, RANGE,
    WWW_AUTHENTICATE,
};
use reqwest::redirect::Policy;
use reqwest::{Body, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use strongroom_client::http::tls_with_extra_roots;
use strongroom_wire::image::credentials::{Credentials, Login};
use strongroom_wire::image::digest::Digest;
use strongroom_wire::image::manifest::{Descriptor, MAX_DOCUMENT, media_type};
use strongroom_wire::image::registries::Place;
use zeroize::Zeroizing;

use super::blobs::{Blob, Blobs};
use super::error::ImageError;

/// A client of registries.
pub(crate) struct Registry {
    http: reqwest::Client,
    credentials: Credentials,
    /// What a registry let us in with, by registry, repository and what was to be done.
    admitted: Mutex<HashMap<String, HeaderValue>>,
    /// Whether a registry speaks TLS, where it need not.
    schemes: Mutex<HashMap<String, &'static str>>,
}

/// Proxies on the way to registries; an empty text is none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Proxies {
    /// For `https://` registries.
    pub https: String,
    /// For `http://` registries.
    pub http: String,
    /// Hosts that are reached without one, with commas between.
    pub none_for: String,
}

/// A document as a registry has it.
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
}

/// What is to be done in a repository.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Action {
    Pull,
    Push,
}

impl Registry {
    pub(crate) fn new(
        credentials: Credentials,
        extra_roots: &[String],
        proxies: &Proxies,
    ) -> Result<Self, ImageError> {
        let failed = |reason: String| {
            ImageError::Unusable(format!(
                "the way to registries cannot be prepared: {reason}"
            ))
        };
        let tls = tls_with_extra_roots(extra_roots).map_err(|error| failed(error.to_string()))?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .referer(false)
            .no_proxy()
            .dns_resolver(Arc::new(NotHere))
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(READ);
        let around = || reqwest::NoProxy::from_string(&proxies.none_for);
        let bad = |_| failed("a proxy's address is no URL".to_owned());
        if !proxies.https.is_empty() {
            let proxy = reqwest::Proxy::https(&proxies.https).map_err(bad)?;
            builder = builder.proxy(proxy.no_proxy(around()));
        }
        if !proxies.http.is_empty() {
            let proxy = reqwest::Proxy::http(&proxies.http).map_err(bad)?;
            builder = builder.proxy(proxy.no_proxy(around()));
        }
        Ok(Self {
            http: builder.build().map_err(|error| failed(error.to_string()))?,
            credentials,
            admitted: Mutex::default(),
            schemes: Mutex::default(),
        })
    }

    /// Fetches a manifest or index by tag or digest.
    pub(crate) async fn manifest(&self, place: &Place, name: &str) -> Result<Fetched, ImageError> {
        let path = format!("manifests/{name}");
        let what = format!("manifest {}:{name}", place.repository.path());
        let response = self
            .send(
                place,
                Action::Pull,
                &what,
                |url| self.http.get(url).header(ACCEPT, MANIFESTS.join(", ")),
                &path,
            )
            .await?;
        let bytes = self.body(place, response, &what, MAX_DOCUMENT).await?;
        Ok(Fetched {
            digest: Digest::sha256(&bytes),
            bytes,
        })
    }

    /// Fetches a manifest that must have a digest.
    pub(crate) async fn manifest_by_digest(
        &self,
        place: &Place,
        digest: &Digest,
    ) -> Result<Fetched, ImageError> {
        let fetched = self.manifest(place, &digest.to_string()).await?;
        if !digest.is_of(&fetched.bytes) {
            return Err(ImageError::digest(
                format!("the manifest of {}", place.repository),
                digest,
                &fetched.digest,
            ));
        }
        Ok(Fetched {
            digest: *digest,
            ..fetched
        })
    }

    /// Fetches a small blob whole.
    pub(crate) async fn small_blob(
        &self,
        place: &Place,
        descriptor: &Descriptor,
        what: &str,
        limit: usize,
    ) -> Result<Vec<u8>, ImageError> {
        if usize::try_from(descriptor.size).map_or(true, |size| size > limit) {
            return Err(ImageError::Unusable(format!(
                "{what} has {} bytes, more than {limit}",
                descriptor.size
            )));
        }
        let response = self.get_blob(place, descriptor, what, None).await?;
        let bytes = self.body(place, response, what, limit).await?;
        if bytes.len() as u64 != descriptor.size {
            return Err(ImageError::Length {
                what: what.to_owned(),
                expected: descriptor.size,
                actual: bytes.len() as u64,
            });
        }
        match descriptor.digest.is_of(&bytes) {
            true => Ok(bytes),
            false => Err(ImageError::digest(
                what,
                &descriptor.digest,
                &Digest::sha256(&bytes),
            )),
        }
    }

    /// Fetches a layer onto the disk. A connection that breaks is taken up where it broke.
    pub(crate) async fn blob(
        &self,
        place: &Place,
        descriptor: &Descriptor,
        what: &str,
        blobs: &Blobs,
        on_bytes: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Blob, ImageError> {
        let writer = blobs.write(descriptor, what)?;
        let mut received: u64 = 0;
        let mut tries = 0;
        while received < descriptor.size {
            let outcome = match self.get_blob(place, descriptor, what, Some(received)).await {
                Ok(mut response) => loop {
                    match response.chunk().await {
                        Ok(Some(chunk)) => {
                            received = received.saturating_add(chunk.len() as u64);
                            on_bytes(chunk.len() as u64);
                            tries = 0;
                            if !writer.send(chunk).await {
                                return writer.finish().await;
                            }
                        }
                        // A body of the length that was announced, and still too short, is what the registry has.
                        Ok(None) => return writer.finish().await,
                        Err(error) => {
                            break self.failure(place, &format!("reading {what}"), &error);
                        }
                    }
                },
                Err(error @ ImageError::Registry { .. }) => error,
                Err(error) => return Err(error),
            };
            tries += 1;
            if tries >= TRIES {
                return Err(outcome);
            }
            tokio::time::sleep(PAUSE * tries).await;
        }
        writer.finish().await
    }

    /// The artifacts about a manifest: by the API, or by the tag that stands in for it.
    pub(crate) async fn referrers(
        &self,
        place: &Place,
        digest: &Digest,
    ) -> Result<Option<Vec<u8>>, ImageError> {
        let what = format!("referrers of {digest}");
        let api = self
            .send(
                place,
                Action::Pull,
                &what,
                |url| self.http.get(url).header(ACCEPT, media_type::OCI_INDEX),
                &format!("referrers/{digest}"),
            )
            .await;
        match api {
            Ok(response) => self
                .body(place, response, &what, MAX_DOCUMENT)
                .await
                .map(Some),
            // A registry that does not know the API says so in one way or another.
            Err(ImageError::NotFound { .. } | ImageError::Registry { .. }) => {
                match self
                    .manifest(place, &digest.to_string().replace(':', "-"))
                    .await
                {
                    Ok(fetched) => Ok(Some(fetched.bytes)),
                    Err(ImageError::NotFound { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Fetches a GPG signature from its place; `None` when there is none of this number.
    pub(crate) async fn signature(&self, url: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let refused =
            |reason: &str| ImageError::Unusable(format!("the place of signatures {url}: {reason}"));
        let parsed = Url::parse(url).map_err(|_| refused("it is no URL"))?;
        if parsed.scheme() != "https" && !is_loopback(&parsed) {
            return Err(refused("only https:// and file:// are read"));
        }
        let failed = |error: &reqwest::Error| refused(&innermost(error));
        let mut response = self
            .http
            .get(parsed)
            .send()
            .await
            .map_err(|error| failed(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            other => return Err(refused(&format!("it answers HTTP {}", other.as_u16()))),
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
            if bytes.len() + chunk.len() > MAX_SIGNATURE {
                return Err(refused(
                    "a signature there is longer than a signature may be",
                ));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// Whether a blob is there.
    pub(crate) async fn has_blob(
        &self,
        place: &Place,
        digest: &Digest,
    ) -> Result<bool, ImageError> {
        let outcome = self
            .send(
                place,
                Action::Push,
                "a blob",
                |url| self.http.head(url),
                &format!("blobs/{digest}"),
            )
            .await;
        match outcome {
            Ok(_) => Ok(true),
            Err(ImageError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Pushes a blob in one piece.
    pub(crate) async fn push_blob(
        &self,
        place: &Place,
        digest: &Digest,
        length: u64,
        body: impl Fn() -> Result<Body, ImageError>,
    ) -> Result<(), ImageError> {
        if self.has_blob(place, digest).await? {
            return Ok(());
        }
        let what = format!("push to {}", place.repository);
        let response = self
            .send(
                place,
                Action::Push,
                &what,
                |url| self.http.post(url).header(CONTENT_LENGTH, 0),
                "blobs/uploads/",
            )
            .await?;
        let base = response.url().clone();
        let to = response
            .headers()
            .get(LOCATION)
            .and_then(|to| to.to_str().ok())
            .and_then(|to| base.join(to).ok())
            .ok_or_else(|| self.protocol(place, &what, "its answer names no place to upload to"))?;
        let mut to = to;
        self.follow(place, &response, &to, &what, "it wants an upload to")?;
        to.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let mut request = self
            .http
            .put(to.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length)
            .body(body()?);
        if same_origin(&to, &base)
            && let Some(admitted) = self.admitted(&key(place, Action::Push))
        {
            request = request.header(AUTHORIZATION, admitted);
        }
        let response = request
            .send()
            .await
            .map_err(|error| self.failure(place, &what, &error))?;
        self.check(place, response, &what).await.map(drop)
    }

    /// Pushes a manifest under a tag or its digest.
    pub(crate) async fn push_manifest(
        &self,
        place: &Place,
        name: &str,
        kind: &str,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let what = format!("push of manifest {}:{name}", place.repository.path());
        self.send(
            place,
            Action::Push,
            &what,
            |url| {
                self.http
                    .put(url)
                    .header(CONTENT_TYPE, kind)
                    .body(bytes.to_vec())
            },
            &format!("manifests/{name}"),
        )
        .await
        .map(drop)
    }

    /// A blob's answer, redirects followed, from an offset on.
    async fn get_blob(
        &self,
        place: &Place,
        descriptor: &Descriptor,
        what: &str,
        from: Option<u64>,
    ) -> Result<Response, ImageError> {
        let from = from.filter(|from| *from > 0);
        let range = |request: RequestBuilder| match from {
            Some(from) => request.header(RANGE, format!("bytes={from}-")),
            None => request,
        };
        let path = format!("blobs/{}", descriptor.digest);
        let mut response = self
            .send(
                place,
                Action::Pull,
                what,
                |url| range(self.http.get(url)),
                &path,
            )
            .await?;
        for _ in 0..REDIRECTS {
            if !response.status().is_redirection() {
                if from.is_some() && response.status() != StatusCode::PARTIAL_CONTENT {
                    return Err(self.protocol(
                        place,
                        what,
                        "the connection broke, and it does not go on where it broke",
                    ));
                }
                return Ok(response);
            }
            let base = response.url().clone();
            let to = response
                .headers()
                .get(LOCATION)
                .and_then(|to| to.to_str().ok())
                .and_then(|to| base.join(to).ok())
                .ok_or_else(|| self.protocol(place, what, "it redirects to nowhere"))?;
            // The login stays here.
            self.follow(place, &response, &to, what, "it redirects to")?;
            let next = range(self.http.get(to))
                .send()
                .await
                .map_err(|error| self.failure(place, what, &error))?;
            response = match next.status().is_redirection() {
                true => next,
                false => self.check(place, next, what).await?,
            };
        }
        Err(self.protocol(place, what, "it redirects in a circle"))
    }

    /// Sends a request to a repository; logs in where it is told to.
    async fn send(
        &self,
        place: &Place,
        action: Action,
        what: &str,
        request: impl Fn(Url) -> RequestBuilder,
        path: &str,
    ) -> Result<Response, ImageError> {
        let url = self.url(place, path).await?;
        let key = key(place, action);
        let with = |admitted: Option<HeaderValue>| match admitted {
            Some(admitted) => request(url.clone()).header(AUTHORIZATION, admitted),
            None => request(url.clone()),
        };
        let send = |request: RequestBuilder| async move {
            request
                .send()
                .await
                .map_err(|error| self.failure(place, what, &error))
        };
        let mut response = send(with(self.admitted(&key))).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(admitted) = self.log_in(place, action, &response, what).await?
        {
            self.admit(key, admitted.clone());
            response = send(with(Some(admitted))).await?;
        }
        self.check(place, response, what).await
    }

    /// Whether an answer may send us on to another place.
    fn follow(
        &self,
        place: &Place,
        response: &Response,
        to: &Url,
        what: &str,
        doing: &str,
    ) -> Result<(), ImageError> {
        may_lead(response.url(), response.remote_addr(), to)
            .map_err(|why| self.protocol(place, what, &format!("{doing} {why}")))
    }

    /// What a registry's challenge is answered with; `None` when there is nothing to answer.
    async fn log_in(
        &self,
        place: &Place,
        action: Action,
        response: &Response,
        what: &str,
    ) -> Result<Option<HeaderValue>, ImageError> {
        let login = self.credentials.for_repository(&place.repository);
        let challenges: Vec<&str> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        for challenge in &challenges {
            let Some(parameters) = parameters(challenge, "bearer") else {
                continue;
            };
            let find = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.as_str())
            };
            let realm = find("realm")
                .and_then(|realm| Url::parse(realm).ok())
                .ok_or_else(|| {
                    self.protocol(
                        place,
                        what,
                        "it wants a token, and names no place to get one",
                    )
                })?;
            // What a token service answers is sent to the registry: it must not be what this machine's own say to us.
            self.follow(place, response, &realm, what, "it wants a token from")?;
            let scope = format!(
                "repository:{}:{}",
                place.repository.path(),
                match action {
                    Action::Pull => "pull",
                    Action::Push => "pull,push",
                }
            );
            let mut url = realm;
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = find("service") {
                    query.append_pair("service", service);
                }
                query.append_pair("scope", &scope);
            }
            let mut request = self.http.get(url);
            if let Some(Login { user, password }) = login {
                request = request.basic_auth(user, Some(password.as_str()));
            }
            let doing = format!("token for {what}");
            let response = request
                .send()
                .await
                .map_err(|error| self.failure(place, &doing, &error))?;
            let response = self.check(place, response, &doing).await?;
            let body = Zeroizing::new(self.body(place, response, &doing, MAX_TOKEN).await?);
            let token: Token = serde_json::from_slice(&body)
                .map_err(|_| self.protocol(place, &doing, "its answer is no token"))?;
            let token = token
                .token
                .or(token.access_token)
                .map(Zeroizing::new)
                .ok_or_else(|| self.protocol(place, &doing, "its answer holds no token"))?;
            return Ok(Some(sensitive(&format!("Bearer {}", token.as_str()))?));
        }
        let wants_basic = challenges
            .iter()
            .any(|challenge| parameters(challenge, "basic").is_some());
        match login.filter(|_| wants_basic) {
            Some(Login { user, password }) => {
                use base64::Engine as _;
                let pair = Zeroizing::new(format!("{user}:{}", password.as_str()));
                let encoded = Zeroizing::new(
                    base64::engine::general_purpose::STANDARD.encode(pair.as_bytes()),
                );
                sensitive(&format!("Basic {}", encoded.as_str())).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The answer when it is a success or a redirect, else what it means.
    async fn check(
        &self,
        place: &Place,
        response: Response,
        what: &str,
    ) -> Result<Response, ImageError> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let registry = place.repository.domain().to_owned();
        let is_head = response.content_length() == Some(0);
        let detail = match is_head {
            true => String::new(),
            false => self.detail(response).await,
        };
        Err(match status {
            StatusCode::NOT_FOUND => ImageError::NotFound {
                registry,
                what: what.to_owned(),
            },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ImageError::Unauthorized {
                registry,
                what: what.to_owned(),
                status: status.as_u16(),
                detail,
                login: match self.credentials.for_repository(&place.repository) {
                    Some(_) => "the login for it is not accepted; look at the registry credentials",
                    None => {
                        "there is no login for it; give the guest registry credentials (authenticated_registry_credentials_uri)"
                    }
                },
            },
            other => ImageError::Registry {
                registry,
                doing: what.to_owned(),
                reason: match detail.is_empty() {
                    true => format!("it answers HTTP {}", other.as_u16()),
                    false => format!("it answers HTTP {}: {detail}", other.as_u16()),
                },
            },
        })
    }

    /// The registry's own words, where they are in the specification's form.
    async fn detail(&self, mut response: Response) -> String {
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_TOKEN {
                return String::new();
            }
        }
        let errors: Option<Errors> = serde_json::from_slice(&bytes).ok();
        let text = errors
            .and_then(|errors| errors.errors.into_iter().next())
            .map(|error| format!("{} {}", error.code, error.message))
            .unwrap_or_default();
        one_line(&text)
    }

    async fn body(
        &self,
        place: &Place,
        mut response: Response,
        what: &str,
        limit: usize,
    ) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.failure(place, what, &error))?
        {
            if bytes.len() + chunk.len() > limit {
                return Err(self.protocol(
                    place,
                    what,
                    &format!("its answer has more than {limit} bytes"),
                ));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    async fn url(&self, place: &Place, path: &str) -> Result<Url, ImageError> {
        let domain = match place.repository.domain() {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let scheme = self.scheme(place, domain).await?;
        let text = format!("{scheme}://{domain}/v2/{}/{path}", place.repository.path());
        Url::parse(&text).map_err(|_| self.protocol(place, "its address", "it is no URL"))
    }

    /// TLS always; where it need not be, what the registry speaks.
    async fn scheme(&self, place: &Place, domain: &str) -> Result<&'static str, ImageError> {
        let on_this_machine =
            Url::parse(&format!("http://{domain}/")).is_ok_and(|url| is_loopback(&url));
        if !place.insecure && !on_this_machine {
            return Ok("https");
        }
        let known = |schemes: &Mutex<HashMap<String, &'static str>>| {
            schemes
                .lock()
                .ok()
                .and_then(|known| known.get(domain).copied())
        };
        if let Some(scheme) = known(&self.schemes) {
            return Ok(scheme);
        }
        let probe = self.http.get(format!("https://{domain}/v2/")).send().await;
        let scheme = match probe {
            Ok(_) => "https",
            Err(error) if error.is_connect() || error.is_request() => "http",
            Err(error) => return Err(self.failure(place, "its version", &error)),
        };
        if let Ok(mut known) = self.schemes.lock() {
            known.insert(domain.to_owned(), scheme);
        }
        Ok(scheme)
    }

    fn admitted(&self, key: &str) -> Option<HeaderValue> {
        self.admitted.lock().ok()?.get(key).cloned()
    }

    fn admit(&self, key: String, admitted: HeaderValue) {
        if let Ok(mut all) = self.admitted.lock() {
            all.insert(key, admitted);
        }
    }

    fn failure(&self, place: &Place, doing: &str, error: &reqwest::Error) -> ImageError {
        self.protocol(place, doing, &innermost(error))
    }

    fn protocol(&self, place: &Place, doing: &str, reason: &str) -> ImageError {
        ImageError::Registry {
            registry: place.repository.domain().to_owned(),
            doing: doing.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

fn key(place: &Place, action: Action) -> String {
    format!("{} {action:?}", place.repository)
}

fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

/// Whether a place may send us on to another: never out of TLS, never to this machine itself, and to addresses of its own
/// network only from there.
fn may_lead(from: &Url, peer: Option<SocketAddr>, to: &Url) -> Result<(), &'static str> {
    if same_origin(from, to) {
        return Ok(());
    }
    match to.scheme() {
        "https" => {}
        "http" if from.scheme() == "http" => {}
        "http" => return Err("a place without TLS"),
        _ => return Err("something that is not HTTP"),
    }
    let literal = |url: &Url| {
        let host = url.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().ok()
    };
    let to_host = to.host_str().unwrap_or_default().trim_end_matches('.');
    if is_local_name(to_host) || literal(to).is_some_and(is_here) {
        return Err("this machine itself");
    }
    let from_inside = literal(from)
        .or_else(|| peer.map(|peer| peer.ip()))
        .is_some_and(|address| is_private(address) || is_here(address));
    match literal(to).is_some_and(is_private) && !from_inside {
        true => Err("an address of a private network, which it is not in itself"),
        false => Ok(()),
    }
}

fn is_local_name(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Whether an address is this machine's own, or one that only its neighbours have, as metadata services do.
fn is_here(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.segments()[0] & 0xffc0 == 0xfe80
        }
    }
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        // RFC 1918, and the addresses that carriers and clusters share (RFC 6598).
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.segments()[0] & 0xfe00 == 0xfc00,
    }
}

/// Names as the system knows them, without those by which somebody else's name leads to this machine.
struct NotHere;

impl Resolve for NotHere {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let mut usable = found
                .filter(|address| is_local_name(&host) || !is_here(address.ip()))
                .peekable();
            match usable.peek() {
                Some(_) => {
                    let usable: Vec<SocketAddr> = usable.collect();
                    Ok(Box::new(usable.into_iter()) as Addrs)
                }
                None => Err("its name leads to this machine itself".into()),
            }
        })
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The parameters of a challenge of a scheme (RFC 9110, section 11.6.1); `None` for another scheme.
pub(crate) fn parameters(challenge: &str, scheme: &str) -> Option<Vec<(String, String)>> {
    let (name, mut rest) = challenge
        .trim()
        .split_once(' ')
        .unwrap_or_else(|| (challenge.trim(), ""));
    if !name.eq_ignore_ascii_case(scheme) {
        return None;
    }
    let mut parameters = Vec::new();
    while let Some((key, value)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',', '\t']).to_owned();
        let value = value.trim_start();
        let (value, next) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_once(',').unwrap_or((value, "")),
        };
        parameters.push((key, value.trim().to_owned()));
        rest = next;
    }
    Some(parameters)
}

fn sensitive(text: &str) -> Result<HeaderValue, ImageError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        ImageError::Unusable(
            "a registry's token or login cannot be sent: it has a line break in it".to_owned(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The words of the deepest cause, which alone says what happened.
fn innermost(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    one_line(&deepest.to_string())
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

const MANIFESTS: [&str; 4] = [
    media_type::OCI_MANIFEST,
    media_type::OCI_INDEX,
    media_type::DOCKER_MANIFEST,
    media_type::DOCKER_LIST,
];
const CONNECT: Duration = Duration::from_secs(10);
/// Between two pieces of an answer: a large layer may take as long as it likes while it moves.
const READ: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(300);
const TRIES: u32 = 5;
const REDIRECTS: usize = 5;
const MAX_TOKEN: usize = 256 * 1024;
const MAX_SIGNATURE: usize = 256 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn challenge_is_read_with_and_without_quotes() {
        let bearer = parameters(
            r#"Bearer realm="https://auth.example/token",service="r,s" , scope=repository:a/b:pull"#,
            "bearer",
        )
        .unwrap();
        assert_eq!(
            bearer[0],
            ("realm".into(), "https://auth.example/token".into())
        );
        assert_eq!(bearer[1], ("service".into(), "r,s".into()));
        assert_eq!(bearer[2], ("scope".into(), "repository:a/b:pull".into()));
        assert!(parameters("Basic realm=\"x\"", "bearer").is_none());
        assert!(parameters("Basic", "basic").unwrap().is_empty());
        assert!(parameters("Bearer realm=\"x", "bearer").is_none());
    }

    #[tokio::test]
    async fn name_that_leads_to_this_machine_is_looked_up() {
        let found = async |name: &str| NotHere.resolve(name.parse().unwrap()).await.is_ok();
        assert!(found("localhost").await);
        // As somebody else's name would resolve.
        assert!(!found("127.0.0.1").await && !found("169.254.169.254").await);
    }

    #[test]
    fn registry_that_sends_the_guest_to_its_own_machine() {
        let url = |text: &str| Url::parse(text).unwrap();
        let lead = |from: &str, to: &str| may_lead(&url(from), None, &url(to));
        let here = "this machine itself";
        for to in [
            "https://127.0.0.1:8006/aa/token?token_type=kbs",
            "https://127.1/x",
            "https://localhost:8006/x",
            "https://LOCALHOST./x",
            "https://a.localhost/x",
            "https://[::1]:8006/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://0.0.0.0:8006/x",
            "https://169.254.169.254/metadata",
            "https://[fe80::1]/x",
        ] {
            assert_eq!(lead("https://registry.example/v2/", to), Err(here), "{to}");
        }
        // A registry on this machine is no exception, but for itself.
        assert_eq!(
            lead(
                "http://127.0.0.1:5000/v2/",
                "http://127.0.0.1:8006/aa/token"
            ),
            Err(here)
        );
        assert_eq!(
            lead("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5000/token"),
            Ok(())
        );
        let lead_private = |from: &str, peer: &str| {
            let to = url("https://10.0.0.7/token");
            may_lead(&url(from), peer.parse().ok(), &to).is_ok()
        };
        assert!(!lead_private(
            "https://registry.example/v2/",
            "93.184.216.34:443"
        ));
        assert!(!lead_private("https://registry.example/v2/", ""));
        assert!(lead_private("https://registry.example/v2/", "10.0.0.5:443"));
        assert!(lead_private("https://10.0.0.5/v2/", ""));
        assert_eq!(
            lead("https://registry.example/", "http://auth.example/"),
            Err("a place without TLS")
        );
        assert_eq!(
            lead("http://registry.example/", "http://auth.example/"),
            Ok(())
        );
        assert_eq!(
            lead("https://registry.example/", "https://auth.example/"),
            Ok(())
        );
        assert_eq!(
            lead("https://registry.example/", "file:///x"),
            Err("something that is not HTTP")
        );
    }
}
