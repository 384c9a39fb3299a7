//! The one place where a storage's HTTP leaves this process: TLS, limits, and what an answer means.
//!
//! `object_store` signs requests and reads the storages' XML; it sends them through here. Failures are told by
//! [`Cause`], so that no text of a server or of a library, which may hold the address with its token, is handed on.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, IF_NONE_MATCH, RANGE, RETRY_AFTER,
};
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};
use strongroom_client::http::{Roots, tls};
use tokio::time::timeout;

use super::error::Cause;
use super::patience::Patience;

/// What a server without ranges may have of an object: each block of it costs the way from its beginning.
pub(super) const WHOLE: u64 = 16 * 1024 * 1024;

/// A server answered a request for a range with all of it: so much of the body comes before the range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skip(pub(super) u64);

/// How requests to one place are sent.
#[derive(Clone)]
pub(super) struct Transport {
    client: reqwest::Client,
    patience: Patience,
    /// Finish a multipart upload only where nothing is yet.
    pub(super) only_if_new: bool,
}

impl Transport {
    /// Prepares requests to `url`; nothing is sent. Where nothing else is known of a location than its address, and no
    /// credential goes with it, redirects to other `https://` addresses are followed.
    pub(super) fn new(
        url: &Url,
        roots: &Roots,
        patience: Patience,
        redirects: bool,
    ) -> Result<Self, Cause> {
        let plain = url.scheme() == "http";
        let tls = tls(plain, roots).map_err(|error| Cause::Settings(error.to_string()))?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(!plain)
            .referer(false)
            // Ranges in flight at once want connections of their own.
            .http1_only()
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(patience.connect)
            .redirect(if redirects && !plain {
                Policy::custom(|attempt| {
                    if attempt.url().scheme() == "https" && attempt.previous().len() <= 5 {
                        attempt.follow()
                    } else {
                        attempt.stop()
                    }
                })
            } else {
                Policy::none()
            });
        if plain {
            // It is on this machine, or somebody insisted.
            builder = builder.no_proxy();
        }
        let client = builder
            .build()
            .map_err(|_| Cause::Settings("TLS cannot be set up on this machine".to_owned()))?;
        Ok(Self {
            client,
            patience,
            only_if_new: false,
        })
    }

    async fn answer(&self, mut request: HttpRequest) -> Result<HttpResponse, Cause> {
        let wanted = wanted_range(request.headers());
        let is_upload = matches!(*request.method(), Method::PUT | Method::POST);
        if self.only_if_new && is_completion(&request) {
            let headers = request.headers_mut();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        let asked = request.uri().to_string();
        let limit = if is_upload {
            self.patience.part
        } else {
            self.patience.answer
        };
        let response = timeout(limit, HttpService::call(&self.client, request))
            .await
            .map_err(|_| Cause::Silent { limit, attempts: 0 })?
            .map_err(|error| self.sending_failed(&error))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(Cause::Redirected {
                status: status.as_u16(),
            });
        }
        if !status.is_success() {
            return Err(refused(response, &asked).await);
        }
        match wanted {
            Some(wanted) => within(response, &wanted),
            None => Ok(limited(response)),
        }
    }

    fn sending_failed(&self, error: &HttpError) -> Cause {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        let mut innermost = String::new();
        while let Some(error) = cause {
            if let Some(tls) = find_tls(error) {
                return Cause::Untrusted {
                    reason: one_line(&tls.to_string()),
                };
            }
            innermost = one_line(&error.to_string());
            cause = error.source();
        }
        match error.kind() {
            HttpErrorKind::Timeout => Cause::Silent {
                limit: self.patience.connect,
                attempts: 0,
            },
            _ => Cause::Unreachable {
                reason: innermost,
                attempts: 0,
            },
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl HttpConnector for Transport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Transport {
    fn call<'life, 'future>(
        &'life self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            let answer = self.answer(request).await;
            // Whether it is tried again is decided elsewhere, by the cause: for the library it is final.
            answer.map_err(|cause| HttpError::new(HttpErrorKind::Unknown, cause))
        })
    }
}

/// Why a call of the library failed.
pub(super) fn cause_of(error: &object_store::Error) -> Cause {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    let mut in_transit = false;
    while let Some(error) = next {
        if let Some(cause) = error.downcast_ref::<Cause>() {
            return cause.clone();
        }
        in_transit |= error.is::<HttpError>();
        next = error.source();
    }
    if in_transit {
        return Cause::Cut {
            got: 0,
            wanted: 0,
            attempts: 0,
        };
    }
    Cause::NotUnderstood(match error {
        object_store::Error::NotFound { .. } => return Cause::NotFound,
        object_store::Error::AlreadyExists { .. } => return Cause::Exists,
        object_store::Error::InvalidPath { .. } => "a name in it is none",
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            "it cannot do this"
        }
        _ => "its headers or its XML",
    })
}

/// The range that a request asks for: `bytes=first-last`, as the library writes it.
fn wanted_range(headers: &HeaderMap) -> Option<Range<u64>> {
    let (first, last) = headers
        .get(RANGE)?
        .to_str()
        .ok()?
        .strip_prefix("bytes=")?
        .split_once('-')?;
    Some(first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
}

/// The request that makes a multipart upload appear: S3's and Google's `POST ?uploadId=`, Azure's `PUT ?comp=blocklist`.
fn is_completion(request: &HttpRequest) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let has = |wanted: &str| query.split('&').any(|pair| pair.starts_with(wanted));
    match *request.method() {
        Method::POST => has("uploadId="),
        Method::PUT => has("comp=blocklist"),
        _ => false,
    }
}

/// Holds an answer against the range that was asked for.
fn within(mut response: HttpResponse, wanted: &Range<u64>) -> Result<HttpResponse, Cause> {
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let given = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok());
        let wrong = || Cause::WrongRange {
            wanted: shown_range(wanted),
            got: given.map_or("nothing", plain_range).to_owned(),
        };
        let (range, size) = given.and_then(content_range).ok_or_else(wrong)?;
        if range.start != wanted.start || range.end != wanted.end.min(size) {
            return Err(wrong());
        }
        let length = HeaderValue::from(range.end - range.start);
        if *response
            .headers_mut()
            .entry(CONTENT_LENGTH)
            .or_insert_with(|| length.clone())
            != length
        {
            return Err(Cause::NotUnderstood("its length is not that of the range"));
        }
        return Ok(response);
    }
    if response.status() != StatusCode::OK {
        return Err(Cause::Refused {
            status: response.status().as_u16(),
            code: None,
            retry_after: None,
            attempts: 0,
        });
    }
    // The server knows no ranges and sends everything. What is small enough is taken from it all the same.
    let size: u64 = response
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or(Cause::NoLength)?;
    if size > WHOLE {
        return Err(Cause::NoRanges { size });
    }
    if wanted.start >= size {
        return Err(Cause::BeyondEnd { size: Some(size) });
    }
    let end = wanted.end.min(size);
    let range = format!("bytes {}-{}/{size}", wanted.start, end - 1);
    let range = HeaderValue::from_str(&range).expect("digits make a header");
    response.headers_mut().insert(CONTENT_RANGE, range);
    response.extensions_mut().insert(Skip(wanted.start));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    Ok(response)
}

/// `bytes first-last/size` (RFC 9110, 14.4).
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let size = size.parse().ok()?;
    let range = first..last.checked_add(1)?;
    (range.start < range.end && range.end <= size).then_some((range, size))
}

/// What is not data is short: a listing's page, a receipt.
fn limited(response: HttpResponse) -> HttpResponse {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).map_err(|_| {
        HttpError::new(
            HttpErrorKind::Unknown,
            Cause::Cut {
                got: 0,
                wanted: 0,
                attempts: 0,
            },
        )
    });
    HttpResponse::from_parts(parts, HttpResponseBody::new(body))
}

/// What a refusal says, as far as it may be told.
async fn refused(response: HttpResponse, asked: &str) -> Cause {
    let status = response.status();
    let headers = response.headers();
    if status == StatusCode::RANGE_NOT_SATISFIABLE {
        let size = headers.get(CONTENT_RANGE).and_then(|value| {
            let size = value.to_str().ok()?.trim().strip_prefix("bytes */")?;
            size.parse().ok()
        });
        return Cause::BeyondEnd { size };
    }
    let retry_after = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let header = headers
        .get("x-ms-error-code")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let code = match header {
        Some(code) => Some(code),
        None => code_in(response).await,
    };
    let code = code.filter(|code| is_plain_code(code) && !asked.contains(code.as_str()));
    let status = status.as_u16();
    match status {
        404 => Cause::NotFound,
        _ => Cause::Refused {
            status,
            code,
            retry_after,
            attempts: 0,
        },
    }
}

/// The `<Code>` of an error in S3's and Azure's form.
async fn code_in(response: HttpResponse) -> Option<String> {
    let body = Limited::new(response.into_body(), MAX_REFUSAL).collect();
    let body = timeout(REFUSAL_TAKES, body).await.ok()?.ok()?.to_bytes();
    let text = std::str::from_utf8(&body).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    Some(code.to_owned())
}

/// A word such as `AuthenticationFailed`; nothing that could be a key.
fn is_plain_code(code: &str) -> bool {
    (3..=64).contains(&code.len()) && code.chars().all(|c| c.is_ascii_alphabetic())
}

/// An `io::Error` does not name what it wraps as its source.
fn find_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    let wrapped = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref)?;
    find_tls(wrapped)
}

/// A range in an error's text is one, and nothing else that a server may have put in its place.
fn plain_range(given: &str) -> &str {
    let rest = given.strip_prefix("bytes ").unwrap_or(given);
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '-' | '/' | '*');
    if given.len() <= 64 && rest.chars().all(plain) {
        given
    } else {
        "something else"
    }
}

fn shown_range(range: &Range<u64>) -> String {
    format!("{} to {}", range.start, range.end.saturating_sub(1))
}

fn one_line(text: &str) -> String {
    crate::shown(text)
}

const MAX_ANSWER: usize = 32 * 1024 * 1024;
const MAX_REFUSAL: usize = 16 * 1024;
const REFUSAL_TAKES: Duration = Duration::from_secs(5);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn response(status: u16, headers: &[(&str, &str)]) -> HttpResponse {
        let mut response = HttpResponse::new(HttpResponseBody::from(Vec::new()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).unwrap();
            let value = HeaderValue::from_str(value).unwrap();
            response.headers_mut().insert(name, value);
        }
        response
    }

    #[test]
    fn range_that_was_not_asked_for_is_taken() {
        let held = |range: &str| within(response(206, &[("content-range", range)]), &(100..200));
        assert!(held("bytes 100-199/1000").is_ok());
        assert!(held("bytes 100-149/150").is_ok());
        for range in [
            "bytes 0-99/1000",
            "bytes 100-198/1000",
            "bytes 100-200/1000",
            "bytes 101-199/1000",
            "bytes 100-199/150",
            "bytes 100-199/*",
            "bytes 100-18446744073709551615/18446744073709551615",
            "bytes 199-100/1000",
            "pages 100-199/1000",
            "",
        ] {
            let error = held(range).err();
            assert!(matches!(error, Some(Cause::WrongRange { .. })), "{range}");
        }
        assert!(matches!(
            within(response(206, &[]), &(0..1)),
            Err(Cause::WrongRange { .. })
        ));
    }

    #[test]
    fn whole_answer_passes_for_the_range() {
        let held = |size: &str, wanted| within(response(200, &[("content-length", size)]), &wanted);
        let taken = held("150", 100..200).unwrap();
        assert_eq!(taken.status(), 206);
        assert_eq!(taken.headers()[CONTENT_RANGE], "bytes 100-149/150");
        assert_eq!(taken.extensions().get::<Skip>().unwrap().0, 100);
        assert!(matches!(
            held("150", 150..200),
            Err(Cause::BeyondEnd { .. })
        ));
        let large = (WHOLE + 1).to_string();
        assert!(matches!(held(&large, 0..1), Err(Cause::NoRanges { .. })));
        assert!(matches!(held("x", 0..1), Err(Cause::NoLength)));
    }

    #[test]
    fn code_that_may_be_a_key_is_repeated() {
        assert!(is_plain_code("AuthorizationPermissionMismatch"));
        for code in ["", "ab", "a b", "c2lnbmF0dXJl=", "x1", &"a".repeat(65)] {
            assert!(!is_plain_code(code), "{code}");
        }
    }

    #[test]
    fn request_that_completes_nothing_is_made_conditional() {
        let request = |method: Method, uri: &str| {
            let mut request = HttpRequest::new(object_store::client::HttpRequestBody::empty());
            *request.method_mut() = method;
            *request.uri_mut() = uri.parse().unwrap();
            is_completion(&request)
        };
        assert!(request(Method::POST, "http://h/b/k?uploadId=x"));
        assert!(request(Method::PUT, "http://h/a/c/k?comp=blocklist&sig=x"));
        assert!(!request(Method::POST, "http://h/b/k?uploads"));
        assert!(!request(
            Method::PUT,
            "http://h/b/k?partNumber=1&uploadId=x"
        ));
        assert!(!request(Method::PUT, "http://h/a/c/k?comp=block&blockid=x"));
        assert!(!request(Method::DELETE, "http://h/b/k?uploadId=x"));
    }
}
