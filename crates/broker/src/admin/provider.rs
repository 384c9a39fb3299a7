//! Admins whom an identity provider vouches for: a JWT of a configured issuer, believed by the keys that it publishes.
//!
//! Keys are fetched when they are first needed, and kept: an issuer that is down keeps nobody out who has a token of a
//! key that is known, until its keys are `max_stale_hours` too old. A token that names an unknown key has them fetched anew, twice a minute at most. Requests wait
//! for a fetch as asynchronous tasks, never on a thread.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::Validation;
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use super::AdminError;
use super::jwks::{Head, KeySet, PickError, discovered};
use crate::config::{IdentityProviderConfig, Role};
use crate::outgoing::{check_authorities, client_config, innermost, is_loopback};
use crate::{BrokerError, key_file};

/// One issuer.
pub(super) struct IdentityProvider {
    config: IdentityProviderConfig,
    place: Place,
    client: reqwest::Client,
    known: Mutex<Known>,
    /// Held while keys are fetched, so that one fetch serves all who wait.
    fetching: tokio::sync::Mutex<()>,
}

/// Where the keys are.
enum Place {
    File(PathBuf),
    Keys(Url),
    Discovery(Url),
}

#[derive(Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    fetched: u64,
    tried: Option<u64>,
    /// Whether it was said already that the keys are too old.
    refused: bool,
}

/// Whom a token speaks of.
pub(super) struct Vouched {
    pub(super) name: String,
    pub(super) roles: Vec<Role>,
    pub(super) id: Option<String>,
    pub(super) issued: u64,
    pub(super) expires: u64,
}

impl IdentityProvider {
    /// Reads the authorities, and the file of keys where there is one. Nothing is fetched: a broker starts beside an
    /// issuer that is down.
    pub(super) fn open(config: &IdentityProviderConfig, now: u64) -> Result<Self, BrokerError> {
        let unusable = |reason: String| BrokerError::Option {
            option: "identity_provider",
            message: format!("{:?} cannot be used: {reason}", config.issuer),
        };
        check_authorities(config.certificate.as_deref(), CERTIFICATE)?;
        let place = match (&config.jwks_file, &config.jwks_url) {
            (Some(path), _) => Place::File(path.clone()),
            (_, Some(url)) => Place::Keys(url.parse().map_err(|_| unusable(NO_URL.into()))?),
            _ => {
                let issuer = config.issuer.trim_end_matches('/');
                let url = format!("{issuer}/.well-known/openid-configuration");
                Place::Discovery(url.parse().map_err(|_| unusable(NO_URL.into()))?)
            }
        };
        let tls = client_config(config.certificate.as_deref(), CERTIFICATE).map_err(unusable)?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            .timeout(Duration::from_secs(config.timeout_seconds))
            .build()
            .map_err(|error| unusable(innermost(&error)))?;
        let mut known = Known::default();
        if let Place::File(path) = &place {
            known.keys = Some(Arc::new(read_keys(path)?));
            known.fetched = now;
        }
        Ok(Self {
            config: config.clone(),
            place,
            client,
            known: Mutex::new(known),
            fetching: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn issuer(&self) -> &str {
        &self.config.issuer
    }

    pub(super) fn is_single_use(&self) -> bool {
        self.config.single_use
    }

    /// Believes a token that one of the issuer's keys signed, and which is for this broker, for now and not for long.
    pub(super) async fn verify(
        self: &Arc<Self>,
        presented: &str,
        now: u64,
    ) -> Result<Vouched, AdminError> {
        let head = Head::parse(presented).ok_or(AdminError::Algorithm)?;
        let keys = self.keys_for(&head, now).await?;
        let key = keys.pick(&head)?;
        let mut validation = Validation::new(head.algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Value>(presented, key, &validation)
            .map_err(|_| AdminError::Signature)?
            .claims;
        self.vouched(&claims, now)
    }

    /// What a signed token says, if it says it to this broker and for now.
    fn vouched(&self, claims: &Value, now: u64) -> Result<Vouched, AdminError> {
        let standard = StandardClaims::deserialize(claims).map_err(|_| AdminError::Claims)?;
        if standard.iss != self.config.issuer {
            return Err(AdminError::Unknown);
        }
        let is_for_us = match &standard.aud {
            OneOrMany::One(one) => *one == self.config.audience,
            OneOrMany::Many(many) => many.contains(&self.config.audience),
        };
        if !is_for_us {
            return Err(AdminError::Audience);
        }
        let expires = seconds(&standard.exp).ok_or(AdminError::Claims)?;
        let issued = seconds(&standard.iat).ok_or(AdminError::Claims)?;
        let latest = now.saturating_add(MAX_SKEW);
        let begins = match &standard.nbf {
            Some(nbf) => seconds(nbf).ok_or(AdminError::Claims)?,
            None => issued,
        };
        if now >= expires {
            return Err(AdminError::Expired);
        }
        if issued > latest || begins > latest {
            return Err(AdminError::NotYetValid);
        }
        if expires.saturating_sub(issued) > self.config.max_lifetime_seconds {
            return Err(AdminError::IssuerLifetime);
        }
        let subject = claim(claims, &self.config.subject_claim).and_then(Value::as_str);
        let subject = subject
            .filter(|subject| {
                (1..=MAX_SUBJECT).contains(&subject.len()) && !subject.contains(char::is_control)
            })
            .ok_or(AdminError::Claims)?;
        Ok(Vouched {
            name: format!("{subject} ({})", self.config.issuer),
            roles: self.roles(claims),
            id: standard.jti,
            issued,
            expires,
        })
    }

    /// The roles that the claim's value or values stand for.
    fn roles(&self, claims: &Value) -> Vec<Role> {
        let values = match claim(claims, &self.config.role_claim) {
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
            None => &[],
        };
        let named = values.iter().filter_map(Value::as_str);
        let mut roles: Vec<Role> = Vec::new();
        for role in named.filter_map(|value| self.config.roles.get(value)) {
            if !roles.contains(role) {
                roles.push(*role);
            }
        }
        roles
    }

    /// Keys among which a head's is, fetched if need be.
    async fn keys_for(self: &Arc<Self>, head: &Head, now: u64) -> Result<Arc<KeySet>, AdminError> {
        self.forget_expired(now);
        if let Some(keys) = self.kept(head) {
            if self.is_stale(now) && self.begins(now) {
                // Whoever has a good token waits for nobody.
                let provider = Arc::clone(self);
                tokio::spawn(async move {
                    let _one = provider.fetching.lock().await;
                    provider.fetch(now).await;
                });
            }
            return Ok(keys);
        }
        // A task of its own: who goes away while it is fetched takes nothing from the others.
        let (provider, wanted) = (Arc::clone(self), head.clone());
        let fetched = tokio::spawn(async move {
            let _one = provider.fetching.lock().await;
            if provider.kept(&wanted).is_none() && provider.begins(now) {
                provider.fetch(now).await;
            }
        });
        fetched.await.map_err(|error| {
            tracing::error!(%error, "fetching an issuer's keys panicked");
            AdminError::IssuerUnavailable
        })?;
        self.known()
            .keys
            .clone()
            .ok_or(AdminError::IssuerUnavailable)
    }

    /// The keys that are kept, unless the head names one that is not among them.
    fn kept(&self, head: &Head) -> Option<Arc<KeySet>> {
        let keys = self.known().keys.clone()?;
        let is_unknown = matches!(keys.pick(head), Err(PickError::Unknown));
        (!is_unknown).then_some(keys)
    }

    /// Forgets keys that could not be fetched anew for too long: an issuer that revoked one since cannot be heard.
    fn forget_expired(&self, now: u64) {
        let most = self.config.max_stale_hours.saturating_mul(3_600);
        let most = most.saturating_add(self.config.refresh_seconds);
        let mut known = self.known();
        if known.keys.is_some() && now.saturating_sub(known.fetched) > most {
            known.keys = None;
            if !std::mem::replace(&mut known.refused, true) {
                tracing::error!(
                    issuer = self.config.issuer,
                    hours = self.config.max_stale_hours,
                    "an issuer's keys could not be fetched for too long: its tokens are refused until they can"
                );
            }
        }
    }

    fn is_stale(&self, now: u64) -> bool {
        now.saturating_sub(self.known().fetched) >= self.config.refresh_seconds
    }

    /// Whether keys may be fetched now; they may not again for a while.
    fn begins(&self, now: u64) -> bool {
        let mut known = self.known();
        let may = known
            .tried
            .is_none_or(|tried| now.saturating_sub(tried) >= PAUSE);
        if may {
            known.tried = Some(now);
        }
        may
    }

    async fn fetch(&self, now: u64) {
        let fetched = match &self.place {
            Place::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_keys(&path)).await;
                match read {
                    Ok(keys) => keys.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            }
            Place::Keys(url) => self.fetch_keys(url.clone()).await,
            Place::Discovery(url) => self.discover(url.clone()).await,
        };
        match fetched {
            Ok(keys) => {
                let mut known = self.known();
                known.refused = false;
                known.keys = Some(Arc::new(keys));
                known.fetched = now;
            }
            Err(error) => {
                let issuer = &self.config.issuer;
                let kept = self.known().keys.is_some();
                tracing::warn!(issuer, error, kept, "an issuer's keys could not be fetched");
            }
        }
    }

    async fn discover(&self, url: Url) -> Result<KeySet, String> {
        let document = self.get(url).await?;
        let place = discovered(&document, &self.config.issuer).map_err(|e| e.to_string())?;
        let place: Url = place.parse().map_err(|_| NO_URL.to_owned())?;
        if !is_safe(&place) {
            return Err(
                "the discovery document names keys that do not come over https://".to_owned(),
            );
        }
        self.fetch_keys(place).await
    }

    async fn fetch_keys(&self, url: Url) -> Result<KeySet, String> {
        KeySet::parse(&self.get(url).await?).map_err(|error| error.to_string())
    }

    /// Reads an answer, no more of it than is allowed.
    async fn get(&self, url: Url) -> Result<Vec<u8>, String> {
        let said = |error: reqwest::Error| match error.is_timeout() {
            true => "it did not answer in time".to_owned(),
            false => innermost(&error),
        };
        let mut answer = self.client.get(url).send().await.map_err(said)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("it answers status {}", answer.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(said)? {
            if body.len().saturating_add(chunk.len()) > MAX_ANSWER {
                return Err(format!("its answer has more than {MAX_ANSWER} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each call leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody between can change what comes from there.
pub(crate) fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

fn read_keys(path: &std::path::Path) -> Result<KeySet, BrokerError> {
    let text = key_file::read_guarded(path)?;
    KeySet::parse(text.as_bytes()).map_err(|error| BrokerError::Config {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

/// A claim by its name, or by a JSON pointer (RFC 6901).
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    match name.starts_with('/') {
        true => claims.pointer(name),
        false => claims.get(name),
    }
}

/// RFC 7519, 2: a `NumericDate`, which may have a fraction.
fn seconds(value: &Value) -> Option<u64> {
    let fraction = || value.as_f64().filter(|number| *number >= 0.0);
    // Saturates.
    value
        .as_u64()
        .or_else(|| fraction().map(|number| number.floor() as u64))
}

#[derive(Deserialize)]
struct StandardClaims {
    iss: String,
    aud: OneOrMany,
    exp: Value,
    iat: Value,
    nbf: Option<Value>,
    jti: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<PickError> for AdminError {
    fn from(error: PickError) -> Self {
        match error {
            PickError::Unknown => Self::UnknownKey,
            PickError::Algorithm => Self::Algorithm,
            PickError::Ambiguous => Self::AmbiguousKey,
        }
    }
}

const CERTIFICATE: &str = "identity_provider.certificate";
const NO_URL: &str = "the keys are at no address";
const MAX_ANSWER: usize = 256 * 1024;
const MAX_SUBJECT: usize = 200;
const MAX_SKEW: u64 = 60;
/// For how many seconds keys are not fetched again.
const PAUSE: u64 = 30;
