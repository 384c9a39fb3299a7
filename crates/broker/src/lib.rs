//! The trusted side: key broker, attestation service and reference values in one process.
//!
//! [`init`] makes a broker's folder once; [`Broker::open`] reads its configuration; [`Broker::serve`] answers. The
//! path that matters is `http/kbs/*` → `session` → `attest` → `tokens` → `release` → `audit`.

mod admin;
mod anchors;
mod attempts;
mod attest;
pub mod audit;
mod check;
mod client;
pub mod collateral;
mod config;
mod connections;
mod explain;
mod health;
mod holdings;
mod http;
mod init;
mod key_file;
mod metrics;
mod outgoing;
mod policies;
mod rehearse;
mod release;
mod reload;
mod retention;
mod rotate;
mod serve;
mod session;
mod signers;
pub mod sources;
mod storage_key;
mod store;
mod strangers;
pub mod telemetry;
mod tls;
mod tokens;

use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use axum_server::tls_rustls::RustlsConfig;
use strongroom_verifier::{Signers, TrustAnchors};
use strongroom_wire::resource::ResourcePath;
use strongroom_wire::tee::Tee;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

pub use admin::AdminKeyError;
pub use audit::{Entry, EventId, LogError};
pub use check::{Checked, check};
pub use client::{Network, NetworkError};
pub use config::{
    AdminConfig, AdminTokensConfig, AnchorsConfig, AttestationConfig, AttestationServiceConfig,
    AuditConfig, CollateralConfig, Config, DevelopmentConfig, IdentityProviderConfig, IntelKind,
    LimitsConfig, LogConfig, LogFormat, Loosening, MetricsConfig, Overridden, Overrides,
    ReferenceValuesConfig, Role, SecretsConfig, SessionConfig, StoreConfig, TelemetryConfig,
    TlsConfig, TokenConfig,
};
pub use init::{InitOptions, InitSummary, admin_key_pair, init};
pub use reload::{Handle, Reloaded};
pub use storage_key::{
    DEFAULT_PCRS, SealedFor, Sealing, StorageKeyError, copy_storage_key, seal_storage_key,
};
pub use store::{Deletion, ResourceMetadata, SealError, StoreError};
pub use strongroom_tpm::{PcrSet, TpmAddress};
pub use tokens::TokenKeyError;

use admin::Admins;
use attempts::Attempts;
use audit::{Kind, LogKey, Outcome, Record};
use collateral::Collaterals;
use connections::Connections;
use health::Health;
use holdings::Holdings;
use metrics::Metrics;
use policies::{LoadError, Policies};
use reload::{Live, Reloadable};
use session::Sessions;
use sources::Sources;
use store::{Change, Ledger, PostgresStore, SqliteStore, StorageKeys};
use strangers::{DENIALS_PER_MINUTE, Strangers};
use telemetry::Exporter;
use tokens::Issuer;

/// Gives the time, in seconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A broker, ready to serve.
pub struct Broker {
    inner: Arc<Inner>,
    metrics_listener: Option<TcpListener>,
    exporter: Option<Exporter>,
}

/// What every request shares.
pub(crate) struct Inner {
    config: Config,
    clock: Clock,
    ledger: Ledger,
    storage_keys: Arc<RwLock<Arc<StorageKeys>>>,
    /// Held while the storage key is rotated.
    rotating: Mutex<()>,
    issuer: Issuer,
    admins: Admins,
    policies: Policies,
    sessions: Sessions,
    /// The store, where other brokers use it too.
    shared: Option<PostgresStore>,
    anchors: TrustAnchors,
    signers: Signers,
    strangers: Mutex<Strangers>,
    sources: Sources,
    reloadable: Reloadable,
    metrics: Arc<Metrics>,
    health: Health,
    connections: Connections,
    attempts: Mutex<Attempts>,
    reads: Mutex<Attempts>,
    /// The memory that bodies of requests take.
    bodies: Holdings,
    /// Open connections by source.
    peers: Holdings,
    /// The day, and how many bytes of claims were kept in it.
    claims_kept: Mutex<(u64, u64)>,
    /// Held while something is rehearsed.
    rehearsing: Arc<Semaphore>,
    attesting: Arc<Semaphore>,
}

impl Broker {
    /// Reads the keys, opens the store, checks its record and compiles the policies that a configuration names.
    ///
    /// Of the record the newest 10,000 entries are checked and every link between them; older ones are for whoever
    /// reads them to check, with `strongroom audit verify`.
    ///
    /// # Errors
    /// [`BrokerError`], naming the file or the setting at fault.
    pub fn open(config: Config) -> Result<Self, BrokerError> {
        Self::open_with_clock(config, Arc::new(system_clock))
    }

    /// As [`Self::open`], with a clock of the caller's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_clock(config: Config, clock: Clock) -> Result<Self, BrokerError> {
        let key = audit_key(&config)?;
        if config.store.postgres_url.is_none() {
            let store = SqliteStore::open(&config.store.path, &key);
            let store = store.map_err(|error| match error {
                StoreError::Unsigned { .. } => BrokerError::unsigned(&config),
                other => other.into(),
            })?;
            return Self::assemble(config, clock, Ledger::new(Box::new(store), key), None);
        }
        let store = PostgresStore::open(&config.store, &key)?;
        let ledger = Ledger::new(Box::new(store.clone()), key);
        Self::assemble(config, clock, ledger, Some(store))
    }

    /// As [`Self::open_with_clock`], with a store that forgets: for tests.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in_memory(config: Config, clock: Clock) -> Result<Self, BrokerError> {
        let key = LogKey::generate()?;
        let ledger = Ledger::new(Box::new(SqliteStore::in_memory(&key)?), key);
        Self::assemble(config, clock, ledger, None)
    }

    /// `shared` is the store, where other brokers use it too.
    fn assemble(
        config: Config,
        clock: Clock,
        ledger: Ledger,
        shared: Option<PostgresStore>,
    ) -> Result<Self, BrokerError> {
        let verifier = ledger.key().verifier();
        audit::verify_newest(ledger.store(), verifier, CHECKED_AT_START).map_err(|error| {
            match error {
                StoreError::Record(source) => BrokerError::Record {
                    path: config.store.name().into(),
                    source,
                },
                other => other.into(),
            }
        })?;
        let metrics = Arc::new(Metrics::new());
        let tls = config.tls.as_ref().map(tls::server_config).transpose()?;
        let mut storage_keys = storage_key::load(&config.store)?;
        let issuer = Issuer::new(
            &key_file::read_private(&config.token.signing_key)?,
            &key_file::read_certificates(&config.token.certificate_chain)?,
            config.token.issuer.clone(),
            config.token.lifetime_seconds,
        )?;
        let admins = Admins::open(&config, &ledger, clock())?.sharing(shared.clone());
        let signers = signers::signers(&config)?;
        let policies =
            Policies::load(ledger.store(), ledger.key().verifier(), &signers).map_err(|error| {
                match error {
                    LoadError::Store(error) => BrokerError::Store(error),
                    LoadError::Policy(error) => BrokerError::Policy(error),
                }
            })?;
        let (lifetime, most) = (config.session.lifetime_seconds, config.session.max);
        let sessions = match &shared {
            None => Sessions::new(lifetime, most),
            Some(store) => {
                let in_use = store.join(&rotate::member_name(&config), &storage_keys)?;
                storage_keys = storage_keys
                    .with_current(&in_use)
                    .ok_or(StoreError::KeyMoved)?;
                store.agree_on_key("token signing key", issuer.key_id())?;
                Sessions::shared(lifetime, &storage_keys, store.clone())
            }
        };
        let collaterals = Collaterals::open(&config, Arc::clone(&clock))?;
        let anchors = anchors::trust_anchors(&config)?;
        let ends = tls.as_ref().and_then(|tls| tls.ends);
        let certificate = tls.as_ref().map(|tls| tls.digest);
        let live = Live::new(&config, collaterals, ends, certificate);
        let tls = tls.map(|tls| RustlsConfig::from_config(tls.config));
        let sources = Sources::open(&config, Arc::clone(&clock))?;
        let inner = Inner {
            reloadable: Reloadable::new(config.clone(), live, tls),
            health: Health::default(),
            connections: Connections::new(),
            attempts: Mutex::new(Attempts::new()),
            reads: Mutex::new(Attempts::new()),
            bodies: Holdings::default(),
            peers: Holdings::default(),
            claims_kept: Mutex::default(),
            rehearsing: Arc::new(Semaphore::new(1)),
            attesting: Arc::new(Semaphore::new(config.limits.attestations_in_flight)),
            config,
            clock,
            anchors,
            signers,
            ledger: ledger.watched(Arc::clone(&metrics)),
            metrics,
            storage_keys: Arc::new(RwLock::new(Arc::new(storage_keys))),
            rotating: Mutex::default(),
            issuer,
            admins,
            policies,
            sessions,
            shared,
            strangers: Mutex::default(),
            sources,
        };
        inner.record_start()?;
        Ok(Self {
            inner: Arc::new(inner),
            metrics_listener: None,
            exporter: None,
        })
    }

    /// What whoever starts this broker must know: every setting that lets through what the default refuses, and an
    /// admin's key that still lies where `init` made it; and what is stored and not used.
    pub fn warnings(&self) -> Vec<String> {
        let loosenings = self.inner.config.loosenings();
        let mut warnings: Vec<String> = loosenings
            .into_iter()
            .map(|loosening| loosening.warning().to_owned())
            .collect();
        let folder = self.inner.config.folder.as_deref();
        let key = folder.map(|folder| folder.join(init::ADMIN_KEY));
        if let Some(key) = key.filter(|key| key.exists()) {
            warnings.push(format!(
                "{} lies beside the broker, and who takes one takes the other: move it to the admin's machine.",
                key.display()
            ));
        }
        let unsigned = self.inner.policies.unsigned();
        if let Some(first) = unsigned.first() {
            warnings.push(format!(
                "{} stored reference values, such as {first:?}, were signed by none of reference_values.signers and are \
                 not used: register them again, signed.",
                unsigned.len()
            ));
        }
        warnings
    }

    /// The `OpenAPI` document of every route, as `/openapi.json` gives it.
    pub fn openapi() -> &'static str {
        http::OPENAPI.as_str()
    }

    /// The path of every route, in the router's own words; the attestation service's too.
    pub fn route_paths() -> Vec<&'static str> {
        http::route_paths()
    }

    /// The routes, to be called without a network.
    pub fn router(&self) -> axum::Router {
        http::router(Arc::clone(&self.inner))
    }
}

impl Inner {
    pub(crate) fn now(&self) -> u64 {
        (self.clock)()
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Whether other brokers write to the same store.
    pub(crate) fn shares_its_store(&self) -> bool {
        self.shared.is_some()
    }

    /// Takes over what other brokers on the same store put in force. Called before every decision: what an admin
    /// was told is in force is in force everywhere, and without the store nothing is decided.
    pub(crate) fn follow(&self) -> Result<(), StoreError> {
        if !self.shares_its_store() {
            return Ok(());
        }
        let followed = self.policies.follow(
            self.ledger.store(),
            self.ledger.key().verifier(),
            &self.signers,
        );
        followed.map_err(|error| match error {
            LoadError::Store(error) => error,
            LoadError::Policy(error) => StoreError::Damaged(format!("a policy: {error}")),
        })
    }

    /// Follows, in admins too, and removes what has expired from the tables of sessions.
    fn tend(&self) -> Result<(), StoreError> {
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        rotate::follow(self, shared)?;
        self.follow()?;
        self.admins.follow(&self.ledger)?;
        shared.sweep(self.now(), self.config.session.max)
    }

    /// The settings that every answer over this listener rests on.
    pub(crate) fn connection_loosenings(&self) -> Vec<String> {
        match self.config.insecure_http {
            true => vec![Loosening::InsecureHttp.name().to_owned()],
            false => Vec::new(),
        }
    }

    /// Lets development evidence of these platforms through where a setting says so by name, and records by which.
    /// A platform that is not known is none that a setting names.
    pub(crate) fn let_through(
        &self,
        development: impl Iterator<Item = Option<Tee>>,
        record: &mut Record,
    ) -> Result<(), NotLetThrough> {
        for tee in development {
            let loosening = tee
                .and_then(|tee| self.config.development.lets_through(tee))
                .ok_or(NotLetThrough)?;
            let name = loosening.name().to_owned();
            if !record.loosenings.contains(&name) {
                record.loosenings.push(name);
            }
        }
        Ok(())
    }

    /// Stores a secret as the next version under its path.
    pub(crate) fn put_secret(
        &self,
        path: ResourcePath,
        secret: Zeroizing<Vec<u8>>,
        expires: Option<u64>,
        record: Record,
    ) -> Result<Entry, StoreError> {
        if let Some(shared) = &self.shared {
            rotate::follow(self, shared)?;
        }
        let (keys, place) = (Arc::clone(&self.storage_keys), path.clone());
        // The key that is current when it is written: one that was current before may be gone by then.
        let seal = move |version| {
            let keys = Arc::clone(&keys.read().unwrap_or_else(PoisonError::into_inner));
            keys.current().seal(&place, version, expires, &secret)
        };
        let change = Change::PutSecret {
            path,
            seal: Box::new(seal),
            expires,
            keep: self.config.secrets.keep_versions,
        };
        self.ledger.commit(change, record)
    }

    /// The keys that secrets are sealed under.
    pub(crate) fn storage_keys(&self) -> Arc<StorageKeys> {
        let keys = self.storage_keys.read();
        Arc::clone(&keys.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is room today for the claims of one more token. Every attestation leaves some, and a guest that attests
    /// without end must not fill the disk with them.
    pub(crate) fn keeps_claims(&self, bytes: usize) -> bool {
        let today = self.now() / DAY.as_secs();
        let most = self
            .config
            .audit
            .claims_megabytes_per_day
            .saturating_mul(1_000_000);
        let mut kept = self
            .claims_kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.0 != today {
            *kept = (today, 0);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        match kept.1.checked_add(bytes).filter(|kept| *kept <= most) {
            Some(bytes) => {
                kept.1 = bytes;
                true
            }
            None => false,
        }
    }

    /// Records a refusal. Nothing hangs on the entry but the record, so failing to write it is logged and the
    /// refusal stands.
    pub(crate) fn record(&self, record: Record) {
        let event = record.event.clone();
        if let Err(error) = self.ledger.commit(Change::Nothing, record) {
            tracing::error!(%event, %error, "a refusal could not be recorded");
        }
    }

    /// Records the refusal of somebody who proved nothing, or counts it when such refusals come faster than
    /// `per_second`. Gives the event under which it stands in the record.
    pub(crate) fn record_stranger(&self, record: Record, per_second: u32) -> EventId {
        let (event, record) = self.strangers().admit(record, per_second);
        if let Some(record) = record {
            let (action, resource) = (&record.action, record.resource.as_deref());
            tracing::warn!(%event, action, resource, suppressed = record.suppressed, "refused");
            self.record(record);
        }
        event
    }

    /// Records a refusal of a guest that attested, or counts it when one key is refused by one policy without end. Gives
    /// the event under which it stands in the record.
    pub(crate) fn record_denial(&self, record: Record) -> EventId {
        let (event, record) = self.strangers().admit_denial(record, DENIALS_PER_MINUTE);
        if let Some(record) = record {
            let (resource, suppressed) = (record.resource.as_deref(), record.suppressed);
            tracing::warn!(%event, resource, suppressed, "a release was denied");
            self.record(record);
        }
        event
    }

    /// Writes an entry for the refusals that were counted and have none yet.
    pub(crate) fn record_counted(&self) {
        let counted = self.strangers().counted();
        counted.into_iter().for_each(|record| self.record(record));
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        // Each call leaves the counts whole.
        self.strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the claims of tokens that are older than the configuration says.
    fn forget_claims(&self) -> Result<(), StoreError> {
        let days = self.config.audit.keep_claims_days;
        let before = self
            .now()
            .saturating_sub(days.saturating_mul(DAY.as_secs()));
        if self
            .ledger
            .store()
            .oldest_claims()?
            .is_none_or(|oldest| oldest >= before)
        {
            return Ok(());
        }
        let mut record = Record::new(Kind::Admin, Outcome::Allowed, "forget claims", self.now());
        record.detail = Some(format!("those of tokens that are older than {days} days"));
        self.ledger
            .commit(Change::ForgetClaims { before }, record)
            .map(drop)
    }

    /// Removes the audit entries that are older than the configuration keeps, if it says anything.
    fn prune_log(&self) -> Result<(), retention::RetentionError> {
        if self.config.audit.keep_days.is_none() {
            return Ok(());
        }
        let action = retention::ACTION;
        let record = Record::new(Kind::Admin, Outcome::Allowed, action, self.now());
        retention::prune(self, None, &record).map(drop)
    }

    fn record_start(&self) -> Result<(), StoreError> {
        let mut record = Record::new(Kind::Start, Outcome::Allowed, "start broker", self.now());
        record.detail = Some(format!("strongroom-broker {}", env!("CARGO_PKG_VERSION")));
        record.policy = Some(self.policies.release().root().digest.clone());
        record.loosenings = self
            .config
            .loosenings()
            .into_iter()
            .map(|loosening| loosening.name().to_owned())
            .collect();
        self.ledger.commit(Change::Nothing, record).map(drop)
    }

    /// Runs what takes a moment of a core and waits for nothing: at once when it is a short one, for handing it to another
    /// thread costs more than many a decision. What may wait, as everything does that asks a shared store, is run on
    /// a thread that may.
    pub(crate) async fn moment<T: Send + 'static>(
        self: &Arc<Self>,
        takes: Moment,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, http::ApiError> {
        if takes == Moment::Long || self.shares_its_store() || self.metrics.evaluates_slowly() {
            return self.blocking(|broker| Ok(work(broker))).await;
        }
        catch_unwind(AssertUnwindSafe(|| work(self))).map_err(|_| {
            tracing::error!("a request panicked");
            http::ApiError::Panicked
        })
    }

    /// Runs what blocks, on a thread that may.
    pub(crate) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, http::ApiError> + Send + 'static,
    ) -> Result<T, http::ApiError> {
        let broker = Arc::clone(self);
        let span = tracing::Span::current();
        tokio::task::spawn_blocking(move || span.in_scope(|| work(&broker)))
            .await
            .unwrap_or_else(|error| {
                tracing::error!(%error, "a request panicked");
                Err(http::ApiError::Panicked)
            })
    }
}

/// How long work that waits for nothing keeps a core busy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Moment {
    /// A millisecond or two at most.
    Short,
    /// Nobody knows.
    Long,
}

impl Moment {
    /// For whatever grows with what was sent.
    pub(crate) fn of_bytes(sent: usize) -> Self {
        match sent <= SHORT_BYTES {
            true => Self::Short,
            false => Self::Long,
        }
    }
}

/// No setting lets this development evidence through.
#[derive(Debug)]
pub(crate) struct NotLetThrough;

/// Why a broker cannot be made, opened or served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// `init` found something in its folder.
    #[error(
        "{dir} is not empty. If it is a broker's folder, start that one: strongroom broker run {dir}. \
         Its keys are not made twice; for another broker name another folder"
    )]
    AlreadyInitialised {
        /// The folder.
        dir: PathBuf,
    },
    /// An option of `init` is of no use.
    #[error("{option} {message}")]
    Option {
        /// Which option.
        option: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A configuration, or a file that it names, does not hold what it should.
    #[error("{path}: {message}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read a private file.
    #[error("{path} has mode {mode:03o}, and only its owner may read it: chmod 600 {path}")]
    LooseMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file is somebody else's.
    #[error(
        "{path} is the user's with the number {owner}, who can change it at any time: chown it to the broker's user or to root"
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others may write a file that decides who administers, or who is trusted.
    #[error(
        "{path} has mode {mode:03o}, and whoever writes it says whom this broker trusts: chmod go-w {path}"
    )]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others may write a folder whose files decide what is known to be revoked.
    #[error(
        "{path} has mode {mode:03o}, and whoever writes there can hold back what was revoked: chmod go-w {path}, or \
         name another folder"
    )]
    OpenFolder {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The storage key is not where it should be.
    #[error(
        "{path} is not there: it holds the storage key, without which no secret in the store can be read, and another key \
         opens none of them. Restore it from its copy (or name where it lies with store.key_file), with mode 0600; if it \
         is lost, the secrets are, and have to be stored anew in a new broker"
    )]
    NoStorageKey {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The storage key is of no use, or the TPM does not give it back.
    #[error("{path}: {source}")]
    StorageKey {
        /// The file, in the open or sealed.
        path: PathBuf,
        /// What is wrong.
        source: Box<StorageKeyError>,
    },
    /// The token key is of no use.
    #[error(transparent)]
    TokenKey(#[from] TokenKeyError),
    /// An admin's key is of no use.
    #[error(transparent)]
    AdminKey(#[from] AdminKeyError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record was changed behind the broker's back.
    #[error(
        "{path}: {source}. A broker does not start on a record that was changed: keep a copy of this file for \
         the investigation, then restore the newest good copy, or make a new broker in another folder with \
         `strongroom broker init`"
    )]
    Record {
        /// The store's file.
        path: PathBuf,
        /// What does not hold, and at which entry.
        source: LogError,
    },
    /// A store whose record was never signed, beside a key that signs records.
    #[error(
        "{store} is of a version that signed no record, and {key} lies beside it, which signs records: whoever put this \
         store in the place of a newer one would have its record signed unseen. Restore the newest good copy of the store. \
         Only if this is the first start of a newer strongroom, and the start before it broke off: remove {key} and the .pub \
         beside it, and start again"
    )]
    UnsignedRecord {
        /// The store's file.
        store: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A stored policy cannot be put in force.
    #[error("a stored policy cannot be put in force: {0}")]
    Policy(strongroom_verifier::PolicyError),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// A key or certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
    /// Nothing is there any more to be told anything.
    #[error("the broker has stopped")]
    Stopped,
    /// The listener failed.
    #[error("the listener failed: {0}")]
    Serve(std::io::Error),
}

impl BrokerError {
    fn unsigned(config: &Config) -> Self {
        Self::UnsignedRecord {
            store: config.store.path.clone(),
            key: config.audit.signing_key(&config.store),
        }
    }

    fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// The decoders that strangers reach, as functions of bytes that never panic: the entries for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    /// The name in a request's path, as it was sent.
    pub fn resource_path(sent: &str) -> bool {
        crate::http::resource_path(sent).is_ok()
    }

    /// The body of `POST /kbs/v0/auth`.
    pub fn auth_body(body: &[u8]) -> bool {
        crate::http::auth_body(body).is_ok()
    }

    /// The body of `POST /kbs/v0/attest`, its init-data too.
    pub fn attest_body(body: &[u8]) -> bool {
        let message: Result<strongroom_wire::kbs::Attestation, _> = serde_json::from_slice(body);
        message.is_ok_and(|message| {
            message
                .init_data
                .is_none_or(|body| crate::attest::parse_initdata(&body).is_ok())
        })
    }

    /// The body of `POST /attestation`.
    pub fn attestation_service_body(body: &[u8]) -> bool {
        crate::http::evaluate_body(body).is_ok()
    }

    /// The body of `POST /challenge`.
    pub fn challenge_body(body: &[u8]) -> bool {
        serde_json::from_slice::<strongroom_wire::attestation_service::ChallengeRequest>(body)
            .is_ok()
    }

    /// The body of `POST /kbs/v0/resource-policy`, its Rego too.
    pub fn release_policy_body(body: &[u8]) -> bool {
        crate::http::release_policy_body(body).is_ok_and(|text| policy_text(&text))
    }

    /// The body of `POST /kbs/v0/attestation-policy` and of `POST /policy`.
    pub fn appraisal_policy_body(body: &[u8]) -> bool {
        crate::http::appraisal_policy_body(body).is_ok()
    }

    /// The body of `PUT /strongroom/v1/policy/{id}`.
    pub fn policy_text(text: &str) -> bool {
        strongroom_verifier::ReleasePolicy::compile("resource-policy", text).is_ok()
    }

    /// The id of a policy.
    pub fn policy_id(text: &str) -> bool {
        text.parse::<crate::policies::ReleaseId>().is_ok()
            || crate::policies::AppraisalId::parse(text).is_some()
    }

    /// The body of `PUT /strongroom/v1/admin/{name}`, the key in it too.
    pub fn admin_body(body: &[u8]) -> bool {
        crate::http::admin_body(body).is_ok_and(|(_, pem)| crate::admin::decode_key(&pem))
    }

    /// The body of `POST /strongroom/v1/rehearse`.
    pub fn rehearse_body(body: &[u8]) -> bool {
        serde_json::from_slice::<crate::rehearse::Changes>(body).is_ok()
    }

    /// What a collateral folder and the vendors' services hold besides what the verifier parses.
    pub fn collateral(bytes: &[u8]) -> bool {
        crate::collateral::decode(bytes)
    }

    /// What a request says of whom it is for and from: `X-Request-Id`, `traceparent`, `X-Forwarded-For`.
    pub fn request_context(value: &[u8]) -> bool {
        let forwarded = axum::http::HeaderValue::from_bytes(value);
        if let (Ok(forwarded), Ok(proxy)) = (forwarded, "10.0.0.0/8".parse()) {
            let headers = [(crate::client::FORWARDED_FOR, forwarded)];
            let peer = std::net::Ipv4Addr::new(10, 0, 0, 1).into();
            crate::client::behind(peer, &headers.into_iter().collect(), &[proxy]);
        }
        let traced = std::str::from_utf8(value)
            .is_ok_and(|text| crate::telemetry::TraceParent::parse(text).is_some());
        crate::http::plain_id(value).is_some() || traced
    }

    /// The file of an upstream broker's `LocalJson` store.
    pub fn local_json(bytes: &[u8]) -> bool {
        crate::sources::import::decode(bytes)
    }

    /// What a Vault answers.
    pub fn vault_answer(bytes: &[u8]) -> bool {
        crate::sources::decode_vault_answer(bytes)
    }

    /// What an identity provider publishes.
    pub fn identity_provider(bytes: &[u8]) -> bool {
        crate::admin::decode_published(bytes)
    }

    /// A `Cookie` header.
    pub fn cookie(value: &[u8]) -> bool {
        crate::http::session_cookie(value)
    }
}

/// Reads the key that signs the record. A store of before there was one gets it now, and none that was signed does.
fn audit_key(config: &Config) -> Result<LogKey, BrokerError> {
    let path = config.audit.signing_key(&config.store);
    let in_a_file = config.store.postgres_url.is_none();
    if in_a_file && !path.exists() && SqliteStore::is_older_than_audit_keys(&config.store.path)? {
        return init::write_audit_key(&path);
    }
    Ok(LogKey::from_text(&key_file::read_private(&path)?)?)
}

/// What a broker does beside answering: it goes on with a rotation that was interrupted, and once a day forgets what
/// is older than the configuration keeps.
async fn housekeeping(broker: Arc<Inner>) {
    let mut days = tokio::time::interval(DAY);
    let mut first = true;
    loop {
        days.tick().await;
        let resume = std::mem::take(&mut first);
        let worked = broker.blocking(move |broker| {
            if resume && let Err(error) = rotate::resume(broker) {
                tracing::error!(%error, "the storage key could not be rotated to the end");
            }
            if let Err(error) = broker.prune_log() {
                tracing::error!(%error, "audit entries that are too old could not be removed");
            }
            Ok(broker.forget_claims()?)
        });
        if worked.await.is_err() {
            tracing::error!("claims that are too old could not be forgotten");
        }
    }
}

/// What a broker that shares its store does every second.
async fn tending(broker: Arc<Inner>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        seconds.tick().await;
        let tended = broker.blocking(|broker| Ok(broker.tend()?)).await;
        if tended.is_err() {
            tracing::warn!("what other brokers changed could not be read");
        }
    }
}

fn system_clock() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Reports and quotes without their boot logs are shorter.
const SHORT_BYTES: usize = 32 * 1024;
/// As many as are checked in well under a second.
const CHECKED_AT_START: u64 = 10_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
