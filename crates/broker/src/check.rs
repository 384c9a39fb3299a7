//! Whether a broker would start: everything that its configuration names is read and checked, and nothing is written.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::admin::{KnownAdmin, check_provider};
use crate::audit::LogKey;
use crate::collateral::Collaterals;
use crate::config::{Config, NEXT_PROBLEM, Overrides};
use crate::key_file::{read_certificates, read_private};
use crate::policies::{LoadError, Policies};
use crate::sources::Sources;
use crate::store::{PostgresStore, SqliteStore, Store};
use crate::tokens::Issuer;
use crate::{BrokerError, Clock, anchors, signers, storage_key, system_clock, telemetry, tls};

/// What there is to say of a configuration.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Checked {
    /// The configuration, when it can be read.
    pub config: Option<Config>,
    /// Why a broker would not start with it, or would be of no use.
    pub problems: Vec<String>,
    /// What its owner may want to know.
    pub notes: Vec<String>,
}

/// Reads a configuration and everything that it names: keys, certificates, anchors, the store's policies.
pub fn check(path: &Path, overrides: &Overrides) -> Checked {
    let mut checked = Checked::default();
    let config = match Config::load_with(path, overrides) {
        Ok(config) => config,
        Err(BrokerError::Config { message, .. }) => {
            let problems = message.split(NEXT_PROBLEM).map(str::to_owned);
            checked.problems.extend(problems);
            return checked;
        }
        Err(error) => {
            checked.problems.push(error.to_string());
            return checked;
        }
    };
    let now = system_clock();
    checked.tls(&config, now);
    checked.token(&config, now);
    checked.store(&config);
    for admin in &config.admin {
        checked.takes(KnownAdmin::all(std::slice::from_ref(admin)));
    }
    for provider in &config.identity_provider {
        checked.takes(check_provider(provider));
    }
    if config.admin.is_empty() && config.identity_provider.is_empty() {
        let note = "there is no [[admin]]: nobody can store a secret or set a policy";
        checked.notes.push(note.to_owned());
    }
    checked.takes(anchors::trust_anchors(&config));
    let clock: Clock = Arc::new(system_clock);
    checked.takes(Collaterals::open(&config, Arc::clone(&clock)));
    checked.takes(Sources::open(&config, clock));
    checked.takes(telemetry::pipeline(&config.telemetry));
    checked.config = Some(config);
    checked
}

impl Checked {
    fn takes<T>(&mut self, outcome: Result<T, impl std::fmt::Display>) -> Option<T> {
        outcome
            .map_err(|error| self.problems.push(error.to_string()))
            .ok()
    }

    fn tls(&mut self, config: &Config, now: u64) {
        let Some(files) = &config.tls else { return };
        if self.takes(tls::server_config(files)).is_some()
            && let Ok(certificates) = read_certificates(&files.certificate)
        {
            self.validity(&files.certificate, certificates.first(), now);
        }
    }

    fn token(&mut self, config: &Config, now: u64) {
        let token = &config.token;
        let key = self.takes(read_private(&token.signing_key));
        let chain = self.takes(read_certificates(&token.certificate_chain));
        let (Some(key), Some(chain)) = (key, chain) else {
            return;
        };
        let lifetime = token.lifetime_seconds;
        let issuer = Issuer::new(&key, &chain, token.issuer.clone(), lifetime);
        let files = [&token.signing_key, &token.certificate_chain];
        let [key, certificates] = files.map(|path| path.display());
        let issuer = issuer.map_err(|error| format!("{key} and {certificates}: {error}"));
        if let Some(issuer) = self.takes(issuer) {
            if !issuer.can_sign(now) {
                self.problems.push(format!("{key} does not sign"));
            }
            self.validity(&token.certificate_chain, chain.first(), now);
        }
    }

    fn store(&mut self, config: &Config) {
        self.takes(storage_key::load(&config.store));
        let Some(signers) = self.takes(signers::signers(config)) else {
            return;
        };
        let store = match config.store.postgres_url {
            None => SqliteStore::open_for_reading(&config.store.path)
                .map(|store| store.map(|store| Box::new(store) as Box<dyn Store>))
                .map_err(BrokerError::from),
            Some(_) => PostgresStore::open_for_reading(&config.store)
                .map(|store| store.map(|store| Box::new(store) as Box<dyn Store>)),
        };
        match store {
            Ok(Some(store)) => {
                let Some(key) = self.audit_key(config) else {
                    return;
                };
                self.takes(
                    Policies::load(&*store, key.verifier(), &signers).map_err(
                        |error| match error {
                            LoadError::Store(error) => error.to_string(),
                            LoadError::Policy(error) => {
                                format!("a stored policy cannot be put in force: {error}")
                            }
                        },
                    ),
                );
            }
            Ok(None) => {
                let (path, key) = (&config.store.path, config.audit.signing_key(&config.store));
                let is_file = config.store.postgres_url.is_none();
                if is_file
                    && key.exists()
                    && SqliteStore::is_older_than_audit_keys(path).is_ok_and(|older| older)
                {
                    self.problems
                        .push(BrokerError::unsigned(config).to_string());
                }
                self.notes.push(format!(
                    "{} was made by an older version: its policies are checked when a start has brought it forward",
                    config.store.name()
                ));
            }
            Err(error) => self.problems.push(error.to_string()),
        }
    }

    /// The key of the record. A store of an older version has none yet.
    fn audit_key(&mut self, config: &Config) -> Option<LogKey> {
        let path = config.audit.signing_key(&config.store);
        let text = self.takes(read_private(&path))?;
        let key = LogKey::from_text(&text);
        self.takes(key.map_err(|error| format!("{}: {error}", path.display())))
    }

    /// A certificate that has ended is of no use to anybody; one that ends soon wants another.
    fn validity(&mut self, path: &Path, certificate: Option<&CertificateDer<'_>>, now: u64) {
        let Some((begins, ends)) = certificate.and_then(tls::validity) else {
            return;
        };
        let path = path.display();
        if now < begins {
            self.problems
                .push(format!("{path} is not valid before {}", date(begins)));
        } else if now >= ends {
            self.problems
                .push(format!("{path} has ended on {}", date(ends)));
        } else if ends - now < SOON {
            self.notes.push(format!("{path} ends on {}", date(ends)));
        }
    }
}

fn date(seconds: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds.min(LATEST));
    time::OffsetDateTime::from(at).date().to_string()
}

/// A month to get another certificate.
const SOON: u64 = 30 * 86_400;
/// The end of the year 9999, beyond which no certificate goes.
const LATEST: u64 = 253_402_300_799;
