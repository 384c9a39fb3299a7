//! HashiCorp Vault and OpenBao, KV version 2: the resource `repository/type/tag` is the key `tag` of the secret
//! `<prefix>/repository/type` of one mount. Read when it is released; the token may read these secrets and no more.
//!
//! The documented HTTP API is spoken, and tested against a real OpenBao and against a server that fails in every way.
//! HashiCorp's own server could not be had for tests; the two share this part of the API.
//! <https://openbao.org/api-docs/secret/kv/kv-v2/>, <https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2>

mod answer;
mod cache;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use strongroom_wire::resource::ResourcePath;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::config::VaultConfig;
use super::{Found, SourceError};
use crate::config::Loosening;
use crate::outgoing::{check_authorities, client_config, innermost};
use crate::store::Secret;
use crate::{BrokerError, Clock, key_file};
use answer::{Lease, Unfit, Value};
use cache::Cache;

/// One engine, asked over a runtime of its own, so that whoever waits for it may be any thread that may block.
pub(super) struct Vault {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    /// `<url>/v1`
    api: String,
    mount: String,
    prefix: String,
    client: reqwest::Client,
    token_file: TokenFile,
    token: Mutex<HeaderValue>,
    timeout: Duration,
    limit: usize,
    loosening: Option<Loosening>,
    clock: Clock,
    cache: Mutex<Cache>,
    at_once: Semaphore,
    /// What it last failed of, and until when nobody waits for the same again.
    down: Mutex<Option<(u64, VaultError)>>,
}

impl Vault {
    /// Reads token and authorities. Nothing is asked yet, so a broker starts beside a Vault that is down; from now on
    /// the token is kept alive.
    pub(super) fn open(
        config: &VaultConfig,
        limit: usize,
        clock: Clock,
    ) -> Result<Self, BrokerError> {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self::with_credentials(config, credentials.as_deref(), limit, clock)
    }

    fn with_credentials(
        config: &VaultConfig,
        credentials: Option<&Path>,
        limit: usize,
        clock: Clock,
    ) -> Result<Self, BrokerError> {
        let token_file = TokenFile::of(config, credentials).ok_or_else(|| BrokerError::Option {
            option: "sources.vault.token_file",
            message: "names no file, and there is no folder of credentials to find vault-token in"
                .to_owned(),
        })?;
        let token = token_file.read()?;
        check_authorities(config.certificate.as_deref(), CERTIFICATE)?;
        let timeout = Duration::from_secs(config.timeout_seconds);
        let unusable = |reason: String| BrokerError::Option {
            option: "sources.vault",
            message: format!("cannot be asked: {reason}"),
        };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(
                client_config(config.certificate.as_deref(), CERTIFICATE).map_err(unusable)?,
            )
            // Where a standby sends us the token would go too.
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .default_headers(headers(config.namespace.as_deref()).map_err(unusable)?)
            .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .build()
            .map_err(|error| unusable(innermost(&error)))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("vault")
            .enable_all()
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let shared = Arc::new(Shared {
            api: format!("{}/v1", config.url.trim_end_matches('/')),
            mount: config.mount.clone(),
            prefix: config.prefix.clone(),
            client,
            token_file,
            token: Mutex::new(token),
            timeout,
            limit,
            loosening: config.is_loosened().then_some(Loosening::InsecureVault),
            clock,
            cache: Mutex::new(Cache::new(config.cache_seconds)),
            at_once: Semaphore::new(AT_ONCE),
            down: Mutex::default(),
        });
        runtime.spawn(keep_token(Arc::downgrade(&shared)));
        Ok(Self {
            shared,
            runtime: Some(runtime),
        })
    }

    /// Reads the secret of this path, if there is one. Blocks, for the configured time at most.
    pub(super) fn secret(&self, path: &ResourcePath) -> Result<Option<Found>, SourceError> {
        let now = (self.shared.clock)();
        let kept = self.shared.cache().fresh(path, now);
        let value = match kept {
            Some(value) => Some(value),
            None => self.ask(path).map_err(|error| SourceError::Vault {
                place: self.shared.place(path),
                reason: error.to_string(),
            })?,
        };
        Ok(value.map(|value| Found {
            secret: Secret::new(value.content),
            version: Some(value.version),
            source: format!("vault {}", self.shared.place(path)),
            loosening: self.shared.loosening,
        }))
    }

    fn ask(&self, path: &ResourcePath) -> Result<Option<Value>, VaultError> {
        let runtime = self
            .runtime
            .as_ref()
            .expect("the runtime is there until this is dropped");
        let (sender, receiver) = sync_channel(1);
        let (shared, path) = (Arc::clone(&self.shared), path.clone());
        runtime.spawn(async move {
            // Whoever asked waits longer than this takes.
            sender.try_send(shared.read(&path).await).ok();
        });
        let patience = self.shared.timeout.saturating_add(Duration::from_secs(1));
        receiver
            .recv_timeout(patience)
            .unwrap_or_else(|error| match error {
                RecvTimeoutError::Timeout => Err(self.shared.too_slow()),
                RecvTimeoutError::Disconnected => {
                    Err(VaultError::Unavailable("it panicked".to_owned()))
                }
            })
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        // Dropped in place it would wait for its thread, which asynchronous code must not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    /// Reads a path, within the configured time. When the server is not there, or not well as a whole, nobody waits for
    /// a moment: those who ask meanwhile are told of it. What fails of one path alone keeps nobody else away.
    async fn read(&self, path: &ResourcePath) -> Result<Option<Value>, VaultError> {
        let now = (self.clock)();
        if let Some((until, error)) = &*self.down()
            && (1..=PAUSE).contains(&until.saturating_sub(now))
        {
            return Err(error.clone());
        }
        let read = tokio::time::timeout(self.timeout, self.read_now(path))
            .await
            .unwrap_or_else(|_| Err(self.too_slow()));
        match &read {
            Ok(Some(value)) => self.cache().keep(path, value, now),
            Ok(None) => self.cache().forget(path),
            Err(error @ (VaultError::Unavailable(_) | VaultError::Slow(_))) => {
                *self.down() = Some((now.saturating_add(PAUSE), error.clone()));
            }
            Err(_) => {}
        }
        read
    }

    async fn read_now(&self, path: &ResourcePath) -> Result<Option<Value>, VaultError> {
        let _permit = self
            .at_once
            .acquire()
            .await
            .expect("the semaphore is never closed");
        match self.read_once(path).await {
            // It may be that the token was replaced, by a person or an agent.
            Err(VaultError::Refused(_)) if self.read_token_again() => self.read_once(path).await,
            read => read,
        }
    }

    async fn read_once(&self, path: &ResourcePath) -> Result<Option<Value>, VaultError> {
        let place = self.relative_place(path);
        // Strings in JSON, and all the keys of the secret.
        let most = self.limit.saturating_mul(4).saturating_add(64 * 1024);
        let (status, body) = self.send(Method::GET, &place, most).await?;
        match status {
            StatusCode::OK => Ok(answer::secret(&body, path.tag(), self.limit)?),
            StatusCode::NOT_FOUND => match answer::absent(&body) {
                Ok(()) => Ok(None),
                Err(said) => Err(VaultError::NoMount(said)),
            },
            _ => Err(failure(status, &body)),
        }
    }

    /// Sends a request and reads the whole answer, if it is not too long.
    async fn send(
        &self,
        method: Method,
        place: &str,
        most: usize,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), VaultError> {
        let failed = |error: reqwest::Error| match error.is_timeout() {
            true => self.too_slow(),
            false => VaultError::Unavailable(innermost(&error)),
        };
        let token = self.token().clone();
        let mut request = self
            .client
            .request(method.clone(), format!("{}/{place}", self.api))
            .header(TOKEN, token);
        if method == Method::POST {
            request = request.body("{}");
        }
        let mut response = request.send().await.map_err(failed)?;
        let announced = response.content_length().unwrap_or_default();
        let announced = usize::try_from(announced).unwrap_or(usize::MAX);
        if announced > most {
            return Err(VaultError::TooLong(most));
        }
        let mut body = Zeroizing::new(Vec::with_capacity(announced.max(FIRST_ROOM).min(most)));
        while let Some(chunk) =
            response
                .chunk()
                .await
                .map_err(|error| match error.is_timeout() {
                    true => self.too_slow(),
                    false => VaultError::Cut(innermost(&error)),
                })?
        {
            let length = body.len().saturating_add(chunk.len());
            if length <= most {
                make_room(&mut body, length);
                body.extend_from_slice(&chunk);
            }
            wipe(chunk);
            if length > most {
                return Err(VaultError::TooLong(most));
            }
        }
        Ok((response.status(), body))
    }

    /// Renews the token, and says after how long to do so again.
    async fn renew(&self, watch: &mut Watch) -> Duration {
        self.read_token_again();
        let renewed = tokio::time::timeout(
            self.timeout,
            self.send(Method::POST, "auth/token/renew-self", MAX_RENEWED),
        )
        .await
        .unwrap_or_else(|_| Err(self.too_slow()));
        let (said, pause) = match renewed {
            Ok((StatusCode::OK, body)) => match answer::lease(&body) {
                Some(lease) => {
                    let pause = watch.pause_after(lease);
                    return pause;
                }
                None => ("its answer is not that of a Vault".to_owned(), NOT_NOW),
            },
            // Root tokens too are renewed by nobody.
            Ok((StatusCode::BAD_REQUEST, _)) => {
                let sentence =
                    "is not one that can be renewed: put another into its file before it ends";
                if watch.says(sentence) {
                    tracing::info!(file = %self.token_file.path.display(), "the vault's token {sentence}");
                }
                return LOOK_AGAIN;
            }
            Ok((status, body)) => (failure(status, &body).to_string(), NOT_NOW),
            Err(error) => (error.to_string(), NOT_NOW),
        };
        if watch.says(&said) {
            let file = self.token_file.path.display();
            tracing::warn!(%file, "the vault's token was not renewed: {said}");
        }
        pause
    }

    /// Says once, when it is so, that the mount is no KV engine of version 2: one of version 1 answers every request
    /// with "not there".
    async fn look_at_mount(&self) {
        let place = format!("sys/internal/ui/mounts/{}", self.mount);
        let Ok((StatusCode::OK, body)) = self.send(Method::GET, &place, MAX_RENEWED).await else {
            return;
        };
        match answer::engine(&body) {
            Some((kind, version)) if kind != "kv" || version != "2" => tracing::warn!(
                mount = self.mount,
                kind,
                version,
                "sources.vault.mount is no KV engine of version 2, and nothing is found there"
            ),
            _ => {}
        }
    }

    /// Takes a token that was put in the place of ours. Gives whether there is one.
    fn read_token_again(&self) -> bool {
        match self.token_file.read() {
            Ok(token) => {
                let mut current = self.token();
                let is_new = *current != token;
                *current = token;
                is_new
            }
            Err(error) => {
                tracing::warn!(%error, "the vault's token cannot be read; the one from before is used");
                false
            }
        }
    }

    /// As the server knows it.
    fn relative_place(&self, path: &ResourcePath) -> String {
        let (mount, repo, r#type) = (&self.mount, path.repo(), path.r#type());
        match self.prefix.as_str() {
            "" => format!("{mount}/data/{repo}/{}", r#type),
            prefix => format!("{mount}/data/{prefix}/{repo}/{}", r#type),
        }
    }

    /// As listings and the record name it.
    fn place(&self, path: &ResourcePath) -> String {
        format!("{}/{}#{}", self.api, self.relative_place(path), path.tag())
    }

    fn too_slow(&self) -> VaultError {
        VaultError::Slow(self.timeout.as_secs())
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Each call leaves it whole, here and below.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self) -> MutexGuard<'_, HeaderValue> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn down(&self) -> MutexGuard<'_, Option<(u64, VaultError)>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews the token for as long as somebody uses it.
async fn keep_token(vault: Weak<Shared>) {
    let mut watch = Watch::default();
    if let Some(shared) = vault.upgrade() {
        shared.look_at_mount().await;
    }
    while let Some(shared) = vault.upgrade() {
        let pause = shared.renew(&mut watch).await;
        drop(shared);
        tokio::time::sleep(pause).await;
    }
}

/// What was said about the token, so that it is said once, and how long it last lived.
#[derive(Default)]
struct Watch {
    said: Option<String>,
    lease: Option<u64>,
}

impl Watch {
    fn says(&mut self, sentence: &str) -> bool {
        let is_new = self.said.as_deref() != Some(sentence);
        self.said = Some(sentence.to_owned());
        is_new
    }

    /// Half of the time that is left. A renewal that gives less than the one before has met the token's last day.
    fn pause_after(&mut self, lease: Lease) -> Duration {
        let left = lease.lease_duration;
        let ends =
            left > 0 && (!lease.renewable || self.lease.is_some_and(|before| left < before / 2));
        match ends {
            true if self.says("ends") => {
                tracing::warn!(
                    seconds = left,
                    "the vault's token ends soon: put another into its file"
                );
            }
            true => {}
            false => self.said = None,
        }
        self.lease = Some(left);
        match left {
            0 => LOOK_AGAIN,
            left => Duration::from_millis(left.saturating_mul(500)).clamp(SOONEST, LATEST),
        }
    }
}

fn headers(namespace: Option<&str>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    // Asked for by agents and proxies that keep out requests which a browser could be made to send.
    headers.insert(REQUEST, HeaderValue::from_static("true"));
    if let Some(namespace) = namespace {
        let value = HeaderValue::from_str(namespace)
            .map_err(|_| "sources.vault.namespace is no name".to_owned())?;
        headers.insert(NAMESPACE, value);
    }
    Ok(headers)
}

/// Where the token lies.
struct TokenFile {
    path: PathBuf,
    /// Whether it was put there by whoever started this process.
    is_credential: bool,
}

impl TokenFile {
    /// The file that is named, or the one in the folder of this process's credentials.
    fn of(config: &VaultConfig, credentials: Option<&Path>) -> Option<Self> {
        let named = config.token_file.clone().map(|path| Self {
            path,
            is_credential: false,
        });
        named.or_else(|| {
            Some(Self {
                path: credentials?.join(CREDENTIAL),
                is_credential: true,
            })
        })
    }

    /// Reads the token, if nobody else may.
    fn read(&self) -> Result<HeaderValue, BrokerError> {
        let text = match self.is_credential {
            true => key_file::read_credential(&self.path)?,
            false => key_file::read_private(&self.path)?,
        };
        let token = text.trim();
        let is_token = (1..=MAX_TOKEN).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        let mut value = HeaderValue::from_str(token)
            .ok()
            .filter(|_| is_token)
            .ok_or_else(|| BrokerError::Config {
                path: self.path.clone(),
                message:
                    "there is no token in it: one line, as `vault token create -field=token` prints it"
                        .to_owned(),
            })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Makes room for so many bytes in a new place, and overwrites the old one: a vector that grows leaves its content behind.
fn make_room(body: &mut Zeroizing<Vec<u8>>, length: usize) {
    if length > body.capacity() {
        let room = length.max(body.capacity().saturating_mul(2));
        let mut larger = Zeroizing::new(Vec::with_capacity(room));
        larger.extend_from_slice(body);
        *body = larger;
    }
}

/// Overwrites what a connection delivered, when nobody else holds it.
fn wipe(chunk: Bytes) {
    if let Ok(mut unique) = chunk.try_into_mut() {
        unique.fill(0);
    }
}

fn failure(status: StatusCode, body: &[u8]) -> VaultError {
    let said = answer::error(body).map_or_else(String::new, |said| format!(": {said}"));
    match status {
        StatusCode::FORBIDDEN => VaultError::Refused(said),
        StatusCode::SERVICE_UNAVAILABLE => {
            VaultError::Unavailable(format!("it is sealed or in maintenance (status 503{said})"))
        }
        _ if status.is_redirection() => VaultError::Standby(status.as_u16()),
        _ => VaultError::Status(format!("{}{said}", status.as_u16())),
    }
}

/// Why a Vault gives no secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
enum VaultError {
    #[error(
        "the token may not read it, or is good no longer (status 403{0}): allow \"read\" on this path, or put another \
         token into its file"
    )]
    Refused(String),
    #[error(
        "there is no such mount or namespace (status 404: {0}): see sources.vault.mount and namespace"
    )]
    NoMount(String),
    #[error("it answers status {0}")]
    Status(String),
    #[error(
        "it is a standby that sends elsewhere (status {0}), and the token is not taken there: name the active one, or \
         what stands before them all"
    )]
    Standby(u16),
    #[error("no answer within {0} s")]
    Slow(u64),
    #[error("{0}")]
    Unavailable(String),
    #[error("its answer was cut: {0}")]
    Cut(String),
    #[error("its answer has more than {0} bytes")]
    TooLong(usize),
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Decodes an answer as the engine's, and as every other that is understood.
pub(super) fn decode(bytes: &[u8]) -> bool {
    let lease = answer::lease(bytes).is_some() | answer::engine(bytes).is_some();
    let absent = answer::absent(bytes).is_ok() | answer::error(bytes).is_some();
    answer::secret(bytes, "key", 1 << 20).is_ok() | lease | absent
}

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
/// The file in the folder of credentials.
const CREDENTIAL: &str = "vault-token";
const CERTIFICATE: &str = "sources.vault.certificate";
const FIRST_ROOM: usize = 16 * 1024;
const MAX_TOKEN: usize = 8 * 1024;
const MAX_RENEWED: usize = 64 * 1024;
/// How many requests are under way at most; the others wait within their time.
const AT_ONCE: usize = 16;
/// For how many seconds nobody waits again after a failure.
const PAUSE: u64 = 1;
const NOT_NOW: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_secs(300);
const SOONEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(3_600);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(lines: &str) -> VaultConfig {
        let text = format!("url = \"https://127.0.0.1:1\"\n{lines}");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn token_file_goes_before_the_folder_of_credentials() {
        assert!(TokenFile::of(&config(""), None).is_none());
        let credentials = Some(Path::new("/run/c"));
        let given = TokenFile::of(&config(""), credentials).unwrap();
        assert_eq!(given.path, Path::new("/run/c/vault-token"));
        let named = TokenFile::of(&config("token_file = \"t\""), credentials).unwrap();
        assert_eq!(named.path, Path::new("t"));
    }

    #[test]
    fn credential_that_systemd_gives_is_refused_or_one_that_others_read_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CREDENTIAL);
        std::fs::write(&path, "s.first\n").unwrap();
        let given = TokenFile::of(&config(""), Some(folder.path())).unwrap();
        // The mask of an access control list shows as the group's bits.
        for (mode, accepted) in [(0o400, true), (0o440, true), (0o444, false), (0o460, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(given.read().is_ok(), accepted, "{mode:o}");
        }
    }

    #[test]
    fn token_that_ends_soon_is_not_spoken_of_or_every_time() {
        let lease = |lease_duration, renewable| Lease {
            lease_duration,
            renewable,
        };
        let mut watch = Watch::default();
        assert_eq!(watch.pause_after(lease(0, false)), LOOK_AGAIN);
        assert_eq!(watch.pause_after(lease(60, true)), Duration::from_secs(30));
        assert_eq!(watch.said, None);
        assert_eq!(watch.pause_after(lease(20, true)), Duration::from_secs(10));
        assert_eq!(watch.said.as_deref(), Some("ends"));
        assert!(!watch.says("ends"));
        assert_eq!(watch.pause_after(lease(u64::MAX, true)), LATEST);
        assert_eq!(watch.said, None);
        assert_eq!(watch.pause_after(lease(1, false)), SOONEST);
        assert_eq!(watch.said.as_deref(), Some("ends"));
    }

    #[test]
    fn body_that_grows_is_moved_without_a_trace_or_loses_bytes() {
        let mut body = Zeroizing::new(Vec::with_capacity(4));
        for i in 0..100u8 {
            make_room(&mut body, usize::from(i) + 1);
            body.push(i);
        }
        assert!(body.iter().copied().eq(0..100));
    }
}
