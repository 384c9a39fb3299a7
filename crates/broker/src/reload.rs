//! What changes while a broker runs: its certificate, its admins, where collateral comes from, how often a source may try.
//!
//! A reload is all or nothing: what the new configuration names is read and checked first, and when anything of it is of
//! no use the old one stays in force, whole. What else changed in the file is named, and waits for a restart.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use axum_server::tls_rustls::RustlsConfig;

use crate::admin::KnownAdmin;
use crate::audit::{Kind, Outcome, Record};
use crate::client::Network;
use crate::collateral::Collaterals;
use crate::config::{AdminConfig, Config, LimitsConfig, TlsConfig};
use crate::store::Change;
use crate::{BrokerError, Inner, Loosening, tls};

/// What is in force now and may be replaced.
pub(crate) struct Live {
    pub(crate) collaterals: Collaterals,
    pub(crate) insecure_collateral: bool,
    pub(crate) attempts_per_minute: u32,
    pub(crate) reads_per_minute: u32,
    pub(crate) trusted_proxies: Vec<Network>,
    /// The end of the server's certificate, in seconds since 1970.
    pub(crate) certificate_ends: Option<u64>,
    /// The SHA-256 of the server's certificates.
    pub(crate) certificate: Option<[u8; 32]>,
}

impl Live {
    pub(crate) fn new(
        config: &Config,
        collaterals: Collaterals,
        certificate_ends: Option<u64>,
        certificate: Option<[u8; 32]>,
    ) -> Self {
        Self {
            collaterals,
            insecure_collateral: config.collateral.insecure_http,
            attempts_per_minute: config.limits.attempts_per_minute,
            reads_per_minute: config.limits.reads_per_minute,
            trusted_proxies: config.limits.trusted_proxies.clone(),
            certificate_ends,
            certificate,
        }
    }
}

/// The replaceable part of a broker, and what it was made from.
pub(crate) struct Reloadable {
    live: RwLock<Arc<Live>>,
    /// The configuration whose replaceable settings are in force. Held for as long as a reload takes.
    config: Mutex<Config>,
    pub(crate) tls: Option<RustlsConfig>,
}

impl Reloadable {
    pub(crate) fn new(config: Config, live: Live, tls: Option<RustlsConfig>) -> Self {
        Self {
            live: RwLock::new(Arc::new(live)),
            config: Mutex::new(config),
            tls,
        }
    }

    fn replace(&self, live: Live) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
    }
}

/// A broker that runs, to be told things.
#[derive(Clone)]
pub struct Handle(pub(crate) Weak<Inner>);

impl Handle {
    /// Puts the replaceable settings of another configuration in force. Blocks while it reads files.
    ///
    /// # Errors
    /// [`BrokerError`] naming what is of no use; then nothing has changed. [`BrokerError::Stopped`] when the broker has.
    pub fn reload(&self, next: Config) -> Result<Reloaded, BrokerError> {
        self.reload_from(|| Ok(next))
    }

    /// As [`Self::reload`], of a configuration that is yet to be read.
    ///
    /// # Errors
    /// As [`Self::reload`], and what `read` says.
    pub fn reload_from(
        &self,
        read: impl FnOnce() -> Result<Config, BrokerError>,
    ) -> Result<Reloaded, BrokerError> {
        let broker = self.0.upgrade().ok_or(BrokerError::Stopped)?;
        let reloaded = read().and_then(|next| broker.reload(next));
        match &reloaded {
            Ok(reloaded) => {
                broker.metrics.reloaded("done");
                tracing::info!(changed = ?reloaded.changed, "the configuration was reloaded");
                if !reloaded.restart.is_empty() {
                    tracing::warn!(
                        settings = ?reloaded.restart,
                        "these settings have changed, and take a restart to be in force"
                    );
                }
            }
            Err(error) => {
                broker.metrics.reloaded("failed");
                tracing::error!(%error, "the configuration was not reloaded: the old one stays in force");
            }
        }
        reloaded
    }
}

/// What a reload did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Reloaded {
    /// What is in force now and was not before.
    pub changed: Vec<String>,
    /// What has changed in the file and takes a restart.
    pub restart: Vec<&'static str>,
}

impl Inner {
    pub(crate) fn live(&self) -> Arc<Live> {
        let live = self.reloadable.live.read();
        Arc::clone(&live.unwrap_or_else(PoisonError::into_inner))
    }

    fn reload(&self, next: Config) -> Result<Reloaded, BrokerError> {
        let mut config = self
            .reloadable
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let live = self.live();
        let restart = restart_only(&self.config, &next);
        let mut changed = Vec::new();

        let server = match (&self.reloadable.tls, &next.tls) {
            (Some(_), Some(files)) => Some(tls::server_config(files)?),
            _ => None,
        };
        let certificate_ends = match &server {
            Some(server) => server.ends,
            None => live.certificate_ends,
        };
        let certificate = server.as_ref().map(|server| server.digest);
        if certificate.is_some() && certificate != live.certificate {
            changed.push("tls".to_owned());
        }
        let admins = KnownAdmin::all(&next.admin)?;
        // Nobody is revoked between what is looked at here and what is put in force.
        let writing = self.admins.writing();
        self.admins.not_in_both(&admins)?;
        self.admins.keeps_one(&admins)?;
        if next.admin != config.admin {
            changed.push(format!(
                "admin: {}",
                admin_changes(&config.admin, &next.admin)
            ));
        }
        let collaterals = if next.collateral == config.collateral {
            live.collaterals.clone()
        } else {
            changed.push("collateral".to_owned());
            live.collaterals.reopened(&next)?
        };
        let limits = |of: &Config| {
            (
                of.limits.attempts_per_minute,
                of.limits.reads_per_minute,
                of.limits.trusted_proxies.clone(),
            )
        };
        if limits(&next) != limits(&config) {
            changed.push("limits".to_owned());
        }

        let mut record = Record::new(Kind::Admin, Outcome::Allowed, ACTION, self.now());
        record.detail = Some(changed.join(", "));
        record.loosenings = match next.collateral.insecure_http {
            true => vec![Loosening::InsecureCollateral.name().to_owned()],
            false => Vec::new(),
        };
        self.ledger.commit(Change::Nothing, record)?;
        // From here on nothing fails.
        if let (Some(slot), Some(server)) = (&self.reloadable.tls, server) {
            slot.reload_from_config(server.config);
        }
        self.admins.replace(admins);
        drop(writing);
        let certificate = certificate.or(live.certificate);
        self.reloadable
            .replace(Live::new(&next, collaterals, certificate_ends, certificate));
        *config = next;
        Ok(Reloaded { changed, restart })
    }

    /// Reads the certificate again where it lies now.
    fn reload_certificate(&self, files: &TlsConfig) -> Result<(), BrokerError> {
        let _reloading = self
            .reloadable
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let server = tls::server_config(files)?;
        let Some(slot) = &self.reloadable.tls else {
            return Ok(());
        };
        slot.reload_from_config(server.config);
        let live = self.live();
        self.reloadable.replace(Live {
            collaterals: live.collaterals.clone(),
            trusted_proxies: live.trusted_proxies.clone(),
            certificate_ends: server.ends,
            certificate: Some(server.digest),
            ..*live
        });
        Ok(())
    }

    fn certificate_files(&self) -> Option<TlsConfig> {
        let config = self.reloadable.config.lock();
        config.unwrap_or_else(PoisonError::into_inner).tls.clone()
    }
}

/// Reads the certificate again whenever its files have changed, until the broker is gone. Files that do not fit together,
/// as when only one of both is written yet, leave the old certificate in force.
pub(crate) async fn watch_certificate(broker: Weak<Inner>) {
    let mut seen = broker
        .upgrade()
        .and_then(|broker| broker.certificate_files())
        .map(|files| Stamp::of(&files));
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(broker) = broker.upgrade() else {
            return;
        };
        let looked = tokio::task::spawn_blocking(move || {
            let files = broker.certificate_files()?;
            let now = Stamp::of(&files);
            if Some(&now) == seen.as_ref() {
                return seen;
            }
            let reloaded = broker.reload_certificate(&files);
            if Stamp::of(&files) != now {
                // Written while they were read: what was read may be half of it, and the next look says more.
                return None;
            }
            match reloaded {
                Ok(()) => {
                    broker.metrics.reloaded("done");
                    tracing::info!("the certificate was reloaded");
                }
                Err(error) => {
                    broker.metrics.reloaded("failed");
                    tracing::error!(%error, "the certificate has changed and is of no use: the old one stays in force");
                }
            }
            Some(now)
        });
        seen = looked.await.unwrap_or_default();
    }
}

/// By which a change of files shows: another file, or another time or length.
#[derive(Debug, Eq, PartialEq)]
struct Stamp([Option<OneStamp>; 2]);

#[derive(Debug, Eq, PartialEq)]
struct OneStamp {
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    length: u64,
}

impl Stamp {
    fn of(files: &TlsConfig) -> Self {
        Self([&files.certificate, &files.private_key].map(|path| Self::of_one(path)))
    }

    /// Links are followed, so that a folder of links that are swapped shows as well.
    fn of_one(path: &Path) -> Option<OneStamp> {
        let file = fs::metadata(path).ok()?;
        Some(OneStamp {
            device: file.dev(),
            inode: file.ino(),
            modified: (file.mtime(), file.mtime_nsec()),
            length: file.size(),
        })
    }
}

/// Who is new, who is gone, and whose key or role is another.
fn admin_changes(before: &[AdminConfig], after: &[AdminConfig]) -> String {
    let of = |list: &[AdminConfig], name: &str| list.iter().find(|one| one.name == name).cloned();
    let mut said: Vec<String> = Vec::new();
    for one in after {
        match of(before, &one.name) {
            None => said.push(format!("{} added as {}", one.name, one.role.as_str())),
            Some(old) if old != *one => {
                let key = match old.public_key == one.public_key {
                    true => "",
                    false => " with another key",
                };
                said.push(format!("{} is {} now{key}", one.name, one.role.as_str()));
            }
            Some(_) => {}
        }
    }
    let gone = before.iter().filter(|one| of(after, &one.name).is_none());
    said.extend(gone.map(|one| format!("{} removed", one.name)));
    said.join(", ")
}

/// The settings that differ and are looked at only when a broker starts.
fn restart_only(running: &Config, next: &Config) -> Vec<&'static str> {
    let fixed = |limits: &LimitsConfig| LimitsConfig {
        attempts_per_minute: 0,
        reads_per_minute: 0,
        trusted_proxies: Vec::new(),
        ..limits.clone()
    };
    // Every table by its name, so that a new one is not forgotten. The first five are in force after a reload.
    let Config {
        tls: _,
        admin: _,
        collateral: _,
        folder: _,
        overridden: _,
        listen,
        insecure_http,
        store,
        admin_tokens,
        identity_provider,
        secrets,
        sources,
        audit,
        token,
        session,
        anchors,
        attestation,
        attestation_service,
        reference_values,
        development,
        metrics,
        log,
        telemetry,
        limits,
    } = next;
    let differs = [
        ("listen", running.listen != *listen),
        ("insecure_http", running.insecure_http != *insecure_http),
        ("store", running.store != *store),
        ("admin_tokens", running.admin_tokens != *admin_tokens),
        (
            "identity_provider",
            running.identity_provider != *identity_provider,
        ),
        ("secrets", running.secrets != *secrets),
        ("sources", running.sources != *sources),
        ("audit", running.audit != *audit),
        ("token", running.token != *token),
        ("session", running.session != *session),
        ("anchors", running.anchors != *anchors),
        ("attestation", running.attestation != *attestation),
        (
            "attestation_service",
            running.attestation_service != *attestation_service,
        ),
        (
            "reference_values",
            running.reference_values != *reference_values,
        ),
        ("development", running.development != *development),
        ("metrics", running.metrics != *metrics),
        ("log", running.log != *log),
        ("telemetry", running.telemetry != *telemetry),
        ("limits", fixed(&running.limits) != fixed(limits)),
    ];
    let differing = differs.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(name, _)| name).collect()
}

const ACTION: &str = "reload configuration";
const EVERY: Duration = Duration::from_secs(2);
