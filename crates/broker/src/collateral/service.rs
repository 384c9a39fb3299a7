//! One request to a vendor's service, bounded in time and length, and what its answer means.
//!
//! Knows nothing of what is asked for; `kds`, `pcs` and `rim` do.

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::rand;
use reqwest::header::{CACHE_CONTROL, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use time::PrimitiveDateTime;
use time::macros::format_description;

use crate::config::CollateralConfig;
use crate::outgoing::{client_config, innermost};

/// Who is asked.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Service {
    AmdKds,
    Intel,
    IntelRootCrl,
    NvidiaRim,
}

impl Service {
    pub(super) const ALL: [Self; 4] = [
        Self::AmdKds,
        Self::Intel,
        Self::IntelRootCrl,
        Self::NvidiaRim,
    ];
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AmdKds => "AMD's key distribution service",
            Self::Intel => "Intel's certification service",
            Self::IntelRootCrl => "Intel's certificate site",
            Self::NvidiaRim => "NVIDIA's RIM service",
        })
    }
}

/// One request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Ask {
    pub(super) service: Service,
    pub(super) url: String,
    /// The longest body that is read.
    pub(super) limit: usize,
    /// The header that carries the issuer chain, by its names.
    pub(super) chain_headers: &'static [&'static str],
}

/// A whole answer of status 200.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Vec<u8>,
    /// As sent: URL-encoded PEM.
    pub(super) chain: Option<String>,
    /// For how many seconds it stays the same.
    pub(super) max_age: Option<u64>,
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// It does not know what was asked for.
    NotKnown(u16),
    /// It wants to be left alone, for so many seconds if it says so.
    Throttled(Option<u64>),
    /// It is not there, or not well.
    Unavailable(String),
    /// It answered with something else.
    Unfit(String),
}

/// Sends requests.
pub(super) struct Fetcher {
    timeout: Duration,
    certificate: Option<PathBuf>,
    /// Made when it is needed first: a machine without authorities of its own may never ask anybody.
    client: OnceLock<Result<reqwest::Client, String>>,
}

impl Fetcher {
    pub(super) fn new(config: &CollateralConfig) -> Self {
        Self {
            timeout: Duration::from_secs(config.timeout_seconds),
            certificate: config.certificate.clone(),
            client: OnceLock::new(),
        }
    }

    /// Asks, and again at most twice when the service says that it failed.
    pub(super) async fn fetch(&self, ask: &Ask, now: u64) -> Result<Answer, Failure> {
        let all = async {
            let mut pause = FIRST_PAUSE;
            for _ in 0..RETRIES {
                match self.once(ask, now).await {
                    Err(Failed::Retry(_)) => {}
                    Err(Failed::Final(failure)) => return Err(failure),
                    Ok(answer) => return Ok(answer),
                }
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2);
            }
            self.once(ask, now).await.map_err(Failed::into_failure)
        };
        tokio::time::timeout(self.timeout, all)
            .await
            .unwrap_or_else(|_| Err(self.too_slow()))
    }

    async fn once(&self, ask: &Ask, now: u64) -> Result<Answer, Failed> {
        let client = self
            .client
            .get_or_init(|| self.build())
            .as_ref()
            .map_err(|reason| Failure::Unavailable(reason.clone()))?;
        let response = client
            .get(&ask.url)
            .send()
            .await
            .map_err(|error| self.failure(&error))?;
        let status = response.status();
        match status {
            StatusCode::OK => Ok(self.whole(ask, response).await?),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Throttled(retry_after(response.headers(), now)).into())
            }
            StatusCode::SERVICE_UNAVAILABLE if response.headers().contains_key(RETRY_AFTER) => {
                Err(Failure::Throttled(retry_after(response.headers(), now)).into())
            }
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::GONE => {
                Err(Failure::NotKnown(status.as_u16()).into())
            }
            _ if status.is_server_error() => Err(Failed::Retry(status.as_u16())),
            _ if status.is_redirection() => Err(Failure::Unavailable(format!(
                "it sends to another host (status {})",
                status.as_u16()
            ))
            .into()),
            _ => Err(Failure::Unavailable(format!("it answers status {}", status.as_u16())).into()),
        }
    }

    /// Reads the whole body, if it is not too long.
    async fn whole(&self, ask: &Ask, mut response: Response) -> Result<Answer, Failure> {
        let too_long = || Failure::Unfit(format!("its answer has more than {} bytes", ask.limit));
        let announced = response
            .content_length()
            .map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced > ask.limit {
            return Err(too_long());
        }
        let chain = ask
            .chain_headers
            .iter()
            .find_map(|name| response.headers().get(*name))
            .map(|value| match value.to_str() {
                Ok(text) if text.len() <= super::MAX_CHAIN => Ok(text.to_owned()),
                _ => Err(Failure::Unfit(
                    "its issuer chain is too long, or no text".to_owned(),
                )),
            })
            .transpose()?;
        let max_age = max_age(response.headers());
        let mut body = Vec::with_capacity(announced);
        while let Some(chunk) =
            response
                .chunk()
                .await
                .map_err(|error| match error.is_timeout() {
                    true => self.too_slow(),
                    false => Failure::Unfit(format!("its answer was cut: {}", innermost(&error))),
                })?
        {
            if body.len().saturating_add(chunk.len()) > ask.limit {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            body,
            chain,
            max_age,
        })
    }

    fn failure(&self, error: &reqwest::Error) -> Failure {
        match error.is_timeout() {
            true => self.too_slow(),
            false => Failure::Unavailable(innermost(error)),
        }
    }

    fn too_slow(&self) -> Failure {
        Failure::Unavailable(format!("no answer within {} s", self.timeout.as_secs()))
    }

    fn build(&self) -> Result<reqwest::Client, String> {
        reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(self.certificate.as_deref(), CERTIFICATE)?)
            .redirect(Policy::custom(|attempt| {
                let here = attempt.previous().last().map(Url::origin);
                match here == Some(attempt.url().origin()) && attempt.previous().len() <= 3 {
                    true => attempt.follow(),
                    false => attempt.stop(),
                }
            }))
            .referer(false)
            .no_proxy()
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.timeout.min(CONNECT))
            .timeout(self.timeout.min(REQUEST))
            .pool_max_idle_per_host(2)
            .build()
            .map_err(|error| innermost(&error))
    }
}

enum Failed {
    /// A status of the kind that may pass.
    Retry(u16),
    Final(Failure),
}

impl Failed {
    fn into_failure(self) -> Failure {
        match self {
            Self::Retry(status) => Failure::Unavailable(format!("it answers status {status}")),
            Self::Final(failure) => failure,
        }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

/// For how long a service is left alone after failures. Takes the time as an argument.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: u64,
}

impl Backoff {
    /// How many seconds it still lasts. One that lasts longer than any was begun before the clock was set back.
    pub(super) fn remaining(&self, now: u64) -> Option<u64> {
        let left = self.until.checked_sub(now)?;
        (1..=LONGEST_ASKED + LONGEST_ASKED / 2)
            .contains(&left)
            .then_some(left)
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Twice as long each time, with a random half more, so that brokers do not come back all at once; at least as
    /// long as the service says. The other requests that were under way fail with the first, and say nothing new.
    pub(super) fn failed(&mut self, asked: Option<u64>, now: u64) {
        let lasting = self.remaining(now);
        if asked.is_none() && lasting.is_some() {
            return;
        }
        let doubled = 1u64.checked_shl(self.failures).unwrap_or(LONGEST_BACKOFF);
        let pause = match asked {
            Some(seconds) => seconds.clamp(1, LONGEST_ASKED),
            None => doubled.min(LONGEST_BACKOFF),
        };
        self.failures = self.failures.saturating_add(1);
        let until = now.saturating_add(pause).saturating_add(jitter(pause / 2));
        self.until = match lasting {
            Some(_) => self.until.max(until),
            None => until,
        };
    }
}

/// RFC 9110, 10.2.3: seconds or a date.
fn retry_after(headers: &HeaderMap, now: u64) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = PrimitiveDateTime::parse(text, format).ok()?.assume_utc();
    let at = u64::try_from(date.unix_timestamp()).ok()?;
    Some(at.saturating_sub(now))
}

/// RFC 9111, 5.2.2.1.
fn max_age(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CACHE_CONTROL)?.to_str().ok()?;
    text.split(',')
        .find_map(|directive| directive.trim().strip_prefix("max-age=")?.parse().ok())
}

/// A number from 0 to `most`.
fn jitter(most: u64) -> u64 {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).expect("the system has randomness, or no key could have been made");
    u64::from_be_bytes(bytes) % most.saturating_add(1)
}

/// The setting that names the services' authorities.
pub(super) const CERTIFICATE: &str = "collateral.certificate";
const RETRIES: usize = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_secs(5);
const REQUEST: Duration = Duration::from_secs(10);
const LONGEST_BACKOFF: u64 = 300;
const LONGEST_ASKED: u64 = 3_600;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn after(text: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        retry_after(&headers, 1_795_368_900)
    }

    #[test]
    fn retry_after_as_a_date_is_not_understood() {
        assert_eq!(after("120"), Some(120));
        assert_eq!(after("Sun, 22 Nov 2026 17:35:03 GMT"), Some(3));
        assert_eq!(after("Sun, 22 Nov 2026 17:34:00 GMT"), Some(0));
        assert_eq!(after("soon"), None);
        assert_eq!(after("-1"), None);
    }

    #[test]
    fn backoff_does_not_grow_or_grows_without_end() {
        let mut backoff = Backoff::default();
        let mut longest = 0;
        for _ in 0..80 {
            let now = backoff.until;
            backoff.failed(None, now);
            let pause = backoff.remaining(now).unwrap();
            assert!(pause <= LONGEST_BACKOFF + LONGEST_BACKOFF / 2);
            longest = longest.max(pause);
        }
        assert!(longest >= LONGEST_BACKOFF);
        backoff.succeeded();
        assert_eq!(backoff.remaining(0), None);
    }

    #[test]
    fn service_keeps_us_away_for_ever_or_not_at_all() {
        let mut backoff = Backoff::default();
        backoff.failed(Some(u64::MAX), 0);
        assert!(backoff.remaining(0).unwrap() <= LONGEST_ASKED + LONGEST_ASKED / 2);
        let mut backoff = Backoff::default();
        backoff.failed(Some(0), 0);
        assert!(backoff.remaining(0).is_some());
    }

    #[test]
    fn one_blip_counts_once_for_each_request_under_way() {
        let mut backoff = Backoff::default();
        for _ in 0..8 {
            backoff.failed(None, 100);
        }
        assert!(backoff.remaining(100).unwrap() <= 2);
    }

    #[test]
    fn clock_that_was_set_back_keeps_us_away_for_ever() {
        let mut backoff = Backoff::default();
        backoff.failed(None, 1_000_000);
        assert_eq!(backoff.remaining(10), None);
        backoff.failed(None, 10);
        assert!(backoff.remaining(10).is_some_and(|left| left < 10));
    }

    #[test]
    fn shorter_backoff_replaces_a_longer_one() {
        let mut backoff = Backoff::default();
        backoff.failed(Some(600), 0);
        backoff.failed(None, 1);
        assert!(backoff.remaining(500).is_some());
    }

    #[test]
    fn age_is_found_among_other_directives() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, "public, max-age=86400".parse().unwrap());
        assert_eq!(max_age(&headers), Some(86_400));
    }
}
