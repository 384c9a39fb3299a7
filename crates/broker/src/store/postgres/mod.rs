//! The store in a PostgreSQL database, for several brokers: one log, one set of policies, handshakes across all of them.
//!
//! Every write locks the record's head, so there is one writer at a time among all brokers. What a broker keeps in its
//! memory otherwise (used nonces, tokens of attested sessions) is in tables here.

mod members;
mod migrate;
mod pool;
mod read;
mod tls;
mod write;

use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use strongroom_verifier::ReferenceValues;
use strongroom_wire::resource::ResourcePath;
use strongroom_wire::tlog::Hash;
use tokio_postgres::config::{Host, SslMode};

use super::{
    AdminVersion, Change, Claims, Committed, Head, PolicyVersion, ReferenceValueVersion,
    ResourceMetadata, SealedVersion, Store, StoreError, Wrapped,
};
use crate::audit::{Entry, EventId, LogKey, Record};
use crate::config::StoreConfig;
use crate::{BrokerError, key_file, outgoing};
use pool::{Lease, Pool};
use read::{clamped, column};
use tls::Tls;

/// A store in a database. Copies share their connections.
#[derive(Clone)]
pub(crate) struct PostgresStore {
    pool: Arc<Pool>,
    /// What tells this broker from the others.
    member: Arc<str>,
}

impl PostgresStore {
    /// Makes the tables in a database that has none. Only `init` does this, as with a file.
    pub(crate) fn create(config: &StoreConfig, key: &LogKey) -> Result<(), BrokerError> {
        let store = Self::connect(config)?;
        migrate::create(&mut *store.session()?, key, &config.name())?;
        Ok(())
    }

    /// Opens a store that is there and brings its schema forward.
    pub(crate) fn open(config: &StoreConfig, key: &LogKey) -> Result<Self, BrokerError> {
        let store = Self::connect(config)?;
        migrate::migrate(&mut *store.session()?, key, &config.name())?;
        Ok(store)
    }

    /// Opens a store as it is, to read from; nothing where it was made by an older version.
    pub(crate) fn open_for_reading(config: &StoreConfig) -> Result<Option<Self>, BrokerError> {
        let store = Self::connect(config)?;
        let is_newest = migrate::is_newest(&mut *store.session()?, &config.name())?;
        Ok(is_newest.then_some(store))
    }

    fn connect(config: &StoreConfig) -> Result<Self, BrokerError> {
        let target = Target::parse(config).map_err(StoreError::Unfit)?;
        let tls = match target.tls {
            true => {
                let (authorities, setting) = (
                    config.postgres_certificate.as_deref(),
                    "store.postgres_certificate",
                );
                outgoing::check_authorities(authorities, setting)?;
                let client =
                    outgoing::client_config(authorities, setting).map_err(StoreError::Unfit)?;
                Some(Tls::new(client))
            }
            false => None,
        };
        let mut target = target.config;
        if let Some(file) = &config.postgres_password_file {
            target.password(key_file::read_private(file)?.trim_end_matches(['\r', '\n']));
        }
        let pool = Arc::new(Pool::new(target, tls)?);
        let member = EventId::fresh().as_str().into();
        Ok(Self { pool, member })
    }

    fn session(&self) -> Result<Lease<'_>, StoreError> {
        self.pool.session()
    }

    /// Reads on a connection, and once more on another when the first turns out to be broken.
    fn read<T>(
        &self,
        ask: impl Fn(&mut pool::Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match ask(&mut *self.session()?) {
            Err(StoreError::Away(_)) => ask(&mut *self.session()?),
            answer => answer,
        }
    }

    /// Sees that this broker has the same key as the others. The first that comes says which.
    pub(crate) fn agree_on_key(&self, name: &'static str, key_id: &str) -> Result<(), StoreError> {
        let mut session = self.session()?;
        session.execute(
            "INSERT INTO broker_key (name, key_id) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
            &[&name, &key_id],
        )?;
        let row = session.row("SELECT key_id FROM broker_key WHERE name = $1", &[&name])?;
        let agreed: Option<String> = row.map(|row| column(&row, 0)).transpose()?;
        match agreed.as_deref() == Some(key_id) {
            true => Ok(()),
            false => Err(StoreError::OtherKey { name }),
        }
    }

    /// Takes a nonce, which nobody can take again. Whether it was free.
    pub(crate) fn take_nonce(&self, session: &[u8], expires: u64) -> Result<bool, StoreError> {
        let taken = self.session()?.execute(
            "INSERT INTO used_nonce (session, expires) VALUES ($1, $2) ON CONFLICT (session) DO NOTHING",
            &[&session, &clamped(expires)],
        )?;
        Ok(taken == 1)
    }

    /// Keeps the token of an attested session.
    pub(crate) fn keep_token(
        &self,
        session: &[u8],
        token: &str,
        expires: u64,
    ) -> Result<(), StoreError> {
        self.session()?.execute(
            "INSERT INTO attested (session, token, expires) VALUES ($1, $2, $3) ON CONFLICT (session) DO NOTHING",
            &[&session, &token, &clamped(expires)],
        )?;
        Ok(())
    }

    /// The token of an attested session.
    pub(crate) fn token(&self, session: &[u8], now: u64) -> Result<Option<String>, StoreError> {
        self.read(|connection| {
            let row = connection.row(
                "SELECT token FROM attested WHERE session = $1 AND expires > $2",
                &[&session, &clamped(now)],
            )?;
            row.map(|row| column(&row, 0)).transpose()
        })
    }

    /// Removes what has expired, and of the tokens the oldest beyond `most`.
    pub(crate) fn sweep(&self, now: u64, most: usize) -> Result<(), StoreError> {
        let mut session = self.session()?;
        session.execute(
            "DELETE FROM used_nonce WHERE expires <= $1",
            &[&clamped(now.saturating_sub(SKEW.as_secs()))],
        )?;
        session.execute("DELETE FROM attested WHERE expires <= $1", &[&clamped(now)])?;
        session.execute(
            "DELETE FROM attested
             WHERE number <= (SELECT number FROM attested ORDER BY number DESC OFFSET $1 LIMIT 1)",
            &[&i64::try_from(most).unwrap_or(i64::MAX)],
        )?;
        Ok(())
    }
}

impl Store for PostgresStore {
    fn commit(
        &self,
        group: Vec<(Change, Record)>,
        key: &LogKey,
    ) -> Result<Vec<Committed>, StoreError> {
        let mut session = self.session()?;
        let begun = match write::begin(&mut session, key) {
            // The connection broke while nobody used it; nothing of the group was sent.
            Err(StoreError::Away(_)) => {
                drop(session);
                session = self.session()?;
                write::begin(&mut session, key)?
            }
            begun => begun?,
        };
        begun.commit(&mut session, group, key)
    }

    fn sealed_secret(
        &self,
        path: &ResourcePath,
        version: Option<u64>,
    ) -> Result<Option<SealedVersion>, StoreError> {
        self.read(|session| read::sealed_secret(session, path, version))
    }

    fn resources(&self) -> Result<Vec<ResourceMetadata>, StoreError> {
        self.read(read::resources)
    }

    fn resource_versions(&self, path: &ResourcePath) -> Result<Vec<ResourceMetadata>, StoreError> {
        self.read(|session| read::resource_versions(session, path))
    }

    fn deleted_versions(&self, path: &ResourcePath) -> Result<Vec<ResourceMetadata>, StoreError> {
        self.read(|session| read::deleted_versions(session, path))
    }

    fn wrapped_by_others(&self, key_id: &str, most: u32) -> Result<Vec<Wrapped>, StoreError> {
        self.read(|session| read::wrapped_by_others(session, key_id, most))
    }

    fn policies(&self) -> Result<Vec<PolicyVersion>, StoreError> {
        self.read(read::policies)
    }

    fn policy_versions(&self, id: &str) -> Result<Vec<PolicyVersion>, StoreError> {
        self.read(|session| read::policy_versions(session, id))
    }

    fn reference_values(&self) -> Result<ReferenceValues, StoreError> {
        self.read(read::reference_values)
    }

    fn reference_value_versions(
        &self,
        name: &str,
    ) -> Result<Vec<ReferenceValueVersion>, StoreError> {
        self.read(|session| read::reference_value_versions(session, name))
    }

    fn admins(&self) -> Result<Vec<AdminVersion>, StoreError> {
        self.read(read::admins)
    }

    fn admin_versions(&self, name: &str) -> Result<Vec<AdminVersion>, StoreError> {
        self.read(|session| read::admin_versions(session, name))
    }

    fn claims(&self, token: &str) -> Result<Option<Claims>, StoreError> {
        self.read(|session| read::claims(session, token))
    }

    fn oldest_claims(&self) -> Result<Option<u64>, StoreError> {
        self.read(read::oldest_claims)
    }

    fn audit(&self, limit: u32, before: Option<u64>) -> Result<Vec<Entry>, StoreError> {
        self.read(|session| read::audit(session, limit, before))
    }

    fn audit_event(&self, event: &str) -> Result<Option<Entry>, StoreError> {
        self.read(|session| read::audit_event(session, event))
    }

    fn head(&self) -> Result<Option<Head>, StoreError> {
        self.read(read::head)
    }

    fn log_entries(&self, first: u64, count: u32) -> Result<Vec<String>, StoreError> {
        self.read(|session| read::log_entries(session, first, count))
    }

    fn log_hashes(&self, level: u8, first: u64, count: u32) -> Result<Vec<Hash>, StoreError> {
        self.read(|session| read::log_hashes(session, level, first, count))
    }

    fn probe(&self) -> Result<(), StoreError> {
        self.session()?
            .execute("UPDATE log_head SET size = size WHERE id = 1", &[])?;
        Ok(())
    }

    fn governed(&self) -> Result<u64, StoreError> {
        self.read(read::governed)
    }
}

/// Where a database is, and whether the way there is under TLS.
pub(crate) struct Target {
    config: tokio_postgres::Config,
    tls: bool,
    /// Whether all of it is on this machine.
    here: bool,
}

impl Target {
    /// Reads an address. TLS is verified always; without it only this machine is spoken to, or where a setting says so.
    pub(crate) fn parse(config: &StoreConfig) -> Result<Self, String> {
        let bad = |reason: &str| format!("store.postgres_url {reason}");
        let url = config.postgres_url.as_deref().unwrap_or_default();
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(bad("is no address: write postgres://user@host/database"));
        }
        // A certificate is always verified in full, so these two are one.
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        let query: Vec<&str> = query
            .split('&')
            .map(|part| match part {
                "sslmode=verify-full" | "sslmode=verify-ca" => "sslmode=require",
                part => part,
            })
            .collect();
        // What the library says of an address can hold the password in it.
        let parsed = tokio_postgres::Config::from_str(&format!("{place}?{}", query.join("&")));
        let mut target = parsed.map_err(|_| {
            bad("is no address: write postgres://user@host/database?sslmode=verify-full")
        })?;
        if target.get_password().is_some() {
            return Err(bad(
                "holds a password, which others could read: write it to a file and name that in \
                 store.postgres_password_file",
            ));
        }
        if target.get_hosts().is_empty() && target.get_hostaddrs().is_empty() {
            return Err(bad("names no host"));
        }
        let here = target.get_hosts().iter().all(is_here)
            && target.get_hostaddrs().iter().all(IpAddr::is_loopback);
        let tls = match (target.get_ssl_mode(), here) {
            (SslMode::Require, _) => true,
            (SslMode::Disable, false) if !config.insecure_postgres => {
                return Err(bad(
                    "says sslmode=disable beyond this machine, where anybody on the wire reads and changes what is \
                     stored: write sslmode=verify-full, or store.insecure_postgres = true",
                ));
            }
            (SslMode::Disable, _) | (_, true) => false,
            _ => true,
        };
        target
            .ssl_mode(match tls {
                true => SslMode::Require,
                false => SslMode::Disable,
            })
            .application_name("strongroom")
            .connect_timeout(Duration::from_secs(5))
            .tcp_user_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5));
        Ok(Self {
            config: target,
            tls,
            here,
        })
    }

    /// The address without what is private.
    pub(crate) fn name(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let database = self.config.get_dbname().unwrap_or_default();
        format!("the database {database:?} at {host}")
    }

    /// Whether anybody on the wire can read what is stored.
    pub(crate) fn is_loosened(&self) -> bool {
        !self.tls && !self.here
    }
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
    }
}

/// The clocks of brokers on one database differ by less.
const SKEW: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
