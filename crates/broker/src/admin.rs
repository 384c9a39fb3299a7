//! Who may administer: whoever signs short-lived JWTs with a key that the configuration or the store has, and whom a
//! configured identity provider vouches for.
//!
//! The algorithm comes from the key, never from the token. There is no admin until `init` or the operator writes one
//! down. What an admin may is told in `http/access.rs`.

mod jwks;
mod provider;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use strongroom_wire::admin::{AUDIENCE, AdminClaims, MAX_LIFETIME_SECONDS, SESSION};

use crate::BrokerError;
use crate::audit::{self, Record};
use crate::config::{AdminConfig, Config, IdentityProviderConfig, Role};
use crate::store::{AdminVersion, Change, Governing, Ledger, PostgresStore, StoreError};
use provider::IdentityProvider;
pub(crate) use provider::is_safe;

/// The admins of one broker.
pub(crate) struct Admins {
    configured: RwLock<Arc<[KnownAdmin]>>,
    /// Those of the store, without those that were revoked, and what the store said of changes by others before they
    /// were read.
    stored: RwLock<(u64, Arc<Vec<KnownAdmin>>)>,
    providers: Vec<Arc<IdentityProvider>>,
    /// By admin, or by subject and issuer where its tokens are good once, the ids of the tokens that were used and have not expired: until when each is
    /// remembered. Nobody's tokens take up another's room.
    used: Mutex<HashMap<String, HashMap<String, u64>>>,
    /// What was used before this is not remembered, so nothing older is believed once.
    started: u64,
    /// How long a token may live, in seconds, that is good for more than one request; 0 takes none.
    reusable: u64,
    writer: Mutex<()>,
    /// The store, where other brokers use it too: a token that was used at one of them is used at all.
    shared: Option<PostgresStore>,
}

/// An admin with a key.
pub(crate) struct KnownAdmin {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// The SHA-256 of the key's `SubjectPublicKeyInfo`.
    pub(crate) fingerprint: String,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// An admin who proved to be one. Only [`Admins::authenticate`] makes it.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    name: String,
    roles: Vec<Role>,
    action: &'static str,
    /// Whether the token was one for more than one request.
    reusable: bool,
}

impl Admin {
    /// Whether a setting let this through, as [`Loosening::ReusableAdminTokens`](crate::config::Loosening) says.
    pub(crate) fn is_reusable(&self) -> bool {
        self.reusable
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What is asked for, as the record names it.
    pub(crate) fn action(&self) -> &'static str {
        self.action
    }

    /// The admin, asking for something that these roles and `admin` may; or why not.
    pub(crate) fn asking_for(
        self,
        action: &'static str,
        roles: &'static [Role],
    ) -> Result<Self, WrongRole> {
        let may = |role: &Role| *role == Role::Admin || roles.contains(role);
        match self.roles.iter().any(may) {
            true => Ok(Self { action, ..self }),
            false => Err(WrongRole {
                admin: self,
                action,
                roles,
            }),
        }
    }
}

/// An admin who may not do what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{} may not {action}: it is for {}", held(&.admin.roles), wanted(.roles))]
pub(crate) struct WrongRole {
    pub(crate) admin: Admin,
    pub(crate) action: &'static str,
    roles: &'static [Role],
}

impl WrongRole {
    /// Whether it is somebody whom no role here is given: as good as a stranger.
    pub(crate) fn is_nobody(&self) -> bool {
        self.admin.roles.is_empty()
    }
}

fn held(roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    match names.is_empty() {
        true => "who has no role here".to_owned(),
        false => format!("the role {}", names.join(" and ")),
    }
}

fn wanted(roles: &[Role]) -> String {
    let names = roles.iter().map(|role| role.as_str());
    let names: Vec<&str> = names.chain([Role::Admin.as_str()]).collect();
    names.join(", ")
}

impl Admins {
    /// The admins of the configuration and of the store.
    pub(crate) fn open(config: &Config, ledger: &Ledger, now: u64) -> Result<Self, BrokerError> {
        let mut admins = Self::new(&config.admin)?;
        admins.started = now;
        admins.reusable = config.admin_tokens.reusable_minutes.saturating_mul(60);
        admins.reload(ledger)?;
        admins.not_in_both(&admins.configured())?;
        for provider in &config.identity_provider {
            let provider = IdentityProvider::open(provider, now)?;
            admins.providers.push(Arc::new(provider));
        }
        Ok(admins)
    }

    fn new(configured: &[AdminConfig]) -> Result<Self, AdminKeyError> {
        Ok(Self {
            configured: RwLock::new(KnownAdmin::all(configured)?),
            stored: RwLock::default(),
            providers: Vec::new(),
            used: Mutex::default(),
            started: 0,
            reusable: 0,
            writer: Mutex::default(),
            shared: None,
        })
    }

    /// The same with a store that other brokers use too.
    pub(crate) fn sharing(self, shared: Option<PostgresStore>) -> Self {
        Self { shared, ..self }
    }

    /// Takes over what another broker on the same store changed.
    pub(crate) fn follow(&self, ledger: &Ledger) -> Result<(), StoreError> {
        let known = self.stored.read().unwrap_or_else(PoisonError::into_inner).0;
        match ledger.store().governed()? == known {
            true => Ok(()),
            false => self.reload(ledger),
        }
    }

    /// Takes over what the store has now.
    fn reload(&self, ledger: &Ledger) -> Result<(), StoreError> {
        // Asked first: what changes from here on is read again.
        let governed = ledger.store().governed()?;
        let governing = Governing::read(ledger.store(), ledger.key().verifier())?;
        let stored = governing.admins.iter().map(KnownAdmin::stored);
        let stored = Arc::new(stored.collect::<Result<Vec<_>, _>>()?);
        *self.stored.write().unwrap_or_else(PoisonError::into_inner) = (governed, stored);
        Ok(())
    }

    /// That none of these admins of a configuration is in the store too.
    pub(crate) fn not_in_both(&self, configured: &[KnownAdmin]) -> Result<(), BrokerError> {
        let stored = self.stored();
        let both = configured
            .iter()
            .find(|admin| stored.iter().any(|stored| stored.name == admin.name));
        both.map_or(Ok(()), |admin| {
            Err(BrokerError::Option {
                option: "admin",
                message: format!(
                    "{:?} is in the configuration and in the store: take it out of the configuration, or revoke it first",
                    admin.name
                ),
            })
        })
    }

    /// Keeps admins from being added and revoked until it is dropped.
    pub(crate) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That these admins of a configuration, with those of the store, leave somebody with a key who may do everything, if
    /// there is somebody now.
    pub(crate) fn keeps_one(&self, configured: &[KnownAdmin]) -> Result<(), BrokerError> {
        let is_admin = |admin: &KnownAdmin| admin.role == Role::Admin;
        let stored = self.stored();
        let before = self.configured().iter().chain(stored.iter()).any(is_admin);
        let after = configured.iter().chain(stored.iter()).any(is_admin);
        match before && !after {
            false => Ok(()),
            true => Err(BrokerError::Option {
                option: "admin",
                message: "would leave nobody with a key of the role admin: add one first, with `strongroom admin add`"
                    .to_owned(),
            }),
        }
    }

    /// Puts other admins in the place of those that the configuration named. What was used stays used.
    pub(crate) fn replace(&self, configured: Arc<[KnownAdmin]>) {
        let mut known = self
            .configured
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = configured;
    }

    /// The admins with a key that the configuration names.
    pub(crate) fn configured(&self) -> Arc<[KnownAdmin]> {
        let known = self.configured.read();
        Arc::clone(&known.unwrap_or_else(PoisonError::into_inner))
    }

    /// The admins with a key that the store has.
    pub(crate) fn stored(&self) -> Arc<Vec<KnownAdmin>> {
        Arc::clone(&self.stored.read().unwrap_or_else(PoisonError::into_inner).1)
    }

    pub(crate) fn is_configured(&self, name: &str) -> bool {
        self.configured().iter().any(|admin| admin.name == name)
    }

    /// Adds an admin, who may act once this returns.
    pub(crate) fn add(
        &self,
        ledger: &Ledger,
        name: &str,
        role: Role,
        public_key: &str,
        mut record: Record,
    ) -> Result<audit::Entry, SetAdminError> {
        let is_name = (1..=MAX_NAME).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte));
        if !is_name {
            return Err(SetAdminError::Name);
        }
        let known = KnownAdmin::new(name, role, public_key)?;
        if self.is_configured(name) {
            return Err(SetAdminError::Configured);
        }
        record.detail = Some(format!(
            "{name}, role {}, key {}",
            role.as_str(),
            known.fingerprint
        ));
        let change = Change::SetAdmin {
            name: name.to_owned(),
            key: Some((role.as_str().to_owned(), public_key.to_owned())),
            keep_one: false,
        };
        self.set(ledger, change, record)
    }

    /// Revokes an admin, whose tokens are refused once this returns. The last one who may do everything stays.
    pub(crate) fn revoke(
        &self,
        ledger: &Ledger,
        name: &str,
        mut record: Record,
    ) -> Result<audit::Entry, SetAdminError> {
        if self.is_configured(name) {
            return Err(SetAdminError::Configured);
        }
        record.detail = Some(name.chars().take(MAX_NAME).collect());
        let is_admin = |admin: &KnownAdmin| admin.role == Role::Admin;
        let change = Change::SetAdmin {
            name: name.to_owned(),
            key: None,
            keep_one: !self.configured().iter().any(is_admin),
        };
        self.set(ledger, change, record)
    }

    fn set(
        &self,
        ledger: &Ledger,
        change: Change,
        record: Record,
    ) -> Result<audit::Entry, SetAdminError> {
        let _writing = self.writing();
        let entry = ledger.commit(change, record)?;
        self.reload(ledger)?;
        Ok(entry)
    }

    /// Believes a token of an identity provider, if it names one, or of an admin with a key.
    pub(crate) async fn authenticate(
        &self,
        presented: Option<&str>,
        action: &'static str,
        roles: &'static [Role],
        now: u64,
    ) -> Result<Result<Admin, WrongRole>, AdminError> {
        let Some((token, provider)) =
            presented.and_then(|token| Some((token, self.provider_of(token)?)))
        else {
            let (admin, once) = self.believe(presented, now)?;
            let admin = match admin.asking_for(action, roles) {
                Ok(admin) => admin,
                wrong => return Ok(wrong),
            };
            if let Some(once) = once {
                self.use_once(once, now).await?;
            }
            return Ok(Ok(admin));
        };
        let vouched = provider.verify(token, now).await?;
        let admin = Admin {
            name: vouched.name,
            roles: vouched.roles,
            action: "",
            reusable: false,
        };
        // Who may not is refused before anything is remembered of the token.
        let admin = match admin.asking_for(action, roles) {
            Ok(admin) => admin,
            wrong => return Ok(wrong),
        };
        if provider.is_single_use() {
            if vouched.issued > now {
                return Err(AdminError::NotYetValid);
            }
            let id = vouched.id.ok_or(AdminError::Claims)?;
            // The name has the issuer in it: nobody's tokens take up another's room.
            let once = Once {
                of: admin.name.clone(),
                id,
                issued: vouched.issued,
                expires: vouched.expires,
            };
            self.use_once(once, now).await?;
        }
        Ok(Ok(admin))
    }

    /// The provider that a token names, which alone may vouch for it then.
    fn provider_of(&self, token: &str) -> Option<&Arc<IdentityProvider>> {
        if self.providers.is_empty() || token.len() > MAX_TOKEN {
            return None;
        }
        let unverified: UnverifiedIssuer =
            jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
        let mut providers = self.providers.iter();
        providers.find(|provider| provider.issuer() == unverified.iss)
    }

    /// Believes a token whose subject is an admin, which that admin's key signed, and which is for a broker, for
    /// the admin's role, for now and not for long. The caller sees that it is believed once, unless its signer made it
    /// for more and the configuration takes such.
    fn believe(
        &self,
        presented: Option<&str>,
        now: u64,
    ) -> Result<(Admin, Option<Once>), AdminError> {
        let presented = presented.ok_or(AdminError::NoToken)?;
        let (configured, stored) = (self.configured(), self.stored());
        let mut known = configured.iter().chain(stored.iter()).peekable();
        if known.peek().is_none() && self.providers.is_empty() {
            return Err(AdminError::NoAdmins);
        }
        if presented.len() > MAX_TOKEN {
            return Err(AdminError::Malformed);
        }
        // The subject picks the key, as a key id would; the signature is then checked by that key alone.
        let unverified: AdminClaims = jsonwebtoken::dangerous::insecure_decode_claims(presented)
            .map_err(|_| AdminError::Malformed)?;
        let admin = known
            .find(|admin| admin.name == unverified.sub)
            .ok_or(AdminError::Unknown)?;
        let claims = admin.claims(presented)?;
        if claims.aud != AUDIENCE {
            return Err(AdminError::Audience);
        }
        if claims.role != admin.role.as_str() {
            return Err(AdminError::Role);
        }
        if now >= claims.exp {
            return Err(AdminError::Expired);
        }
        // One from the future would be believed once more by a broker that is started before its time comes.
        if claims.iat > now {
            return Err(AdminError::NotYetValid);
        }
        let lifetime = claims.exp.saturating_sub(claims.iat);
        let reusable = match claims.usage.as_deref() {
            None if lifetime > MAX_LIFETIME_SECONDS => return Err(AdminError::Lifetime),
            None => false,
            Some(SESSION) if self.reusable == 0 => return Err(AdminError::Reusable),
            Some(SESSION) if lifetime > self.reusable => return Err(AdminError::ReusableLifetime),
            Some(SESSION) => true,
            Some(_) => return Err(AdminError::Malformed),
        };
        let once = (!reusable).then(|| Once {
            of: admin.name.clone(),
            id: claims.jti,
            issued: claims.iat,
            expires: claims.exp,
        });
        let admin = Admin {
            name: admin.name.clone(),
            roles: vec![admin.role],
            action: "",
            reusable,
        };
        Ok((admin, once))
    }

    /// Remembers that a token was used, here and at the other brokers on the same store.
    async fn use_once(&self, once: Once, now: u64) -> Result<(), AdminError> {
        let (name, expires) = (once.digest(), once.expires);
        self.use_up(once, now)?;
        let Some(shared) = self.shared.clone() else {
            return Ok(());
        };
        let taking = move || shared.take_nonce(&name, expires);
        match tokio::task::spawn_blocking(taking).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(AdminError::Replayed),
            Ok(Err(error)) => {
                tracing::error!(%error, "whether a token was used cannot be told");
                Err(AdminError::Unreachable)
            }
            Err(_) => Err(AdminError::Unreachable),
        }
    }

    /// Remembers a token's id until the token expires. What is remembered is never dropped to make room.
    fn use_up(&self, once: Once, now: u64) -> Result<(), AdminError> {
        let Once {
            of,
            id,
            issued,
            expires,
        } = once;
        if id.is_empty() || id.len() > MAX_ID {
            return Err(AdminError::Malformed);
        }
        if issued < self.started {
            return Err(AdminError::BeforeStart);
        }
        // Each call leaves the map whole.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used = used.entry(of).or_default();
        if used.len() >= MAX_USED {
            used.retain(|_, expires| *expires > now);
        }
        let full = used.len() >= MAX_USED;
        match used.entry(id) {
            Entry::Occupied(_) => Err(AdminError::Replayed),
            Entry::Vacant(_) if full => Err(AdminError::Busy),
            Entry::Vacant(place) => {
                place.insert(expires);
                Ok(())
            }
        }
    }
}

/// A token that is believed once: whose it is, its id, and when it was issued and ends.
struct Once {
    of: String,
    id: String,
    issued: u64,
    expires: u64,
}

impl Once {
    /// What names it among everything that is used once.
    fn digest(&self) -> [u8; 32] {
        let named = format!("strongroom admin token\n{:?}\n{:?}", self.of, self.id);
        let mut name = [0; 32];
        name.copy_from_slice(digest::digest(&digest::SHA256, named.as_bytes()).as_ref());
        name
    }
}

/// Reads what the configuration of an identity provider names. Nothing is fetched.
pub(crate) fn check_provider(config: &IdentityProviderConfig) -> Result<(), BrokerError> {
    IdentityProvider::open(config, 0).map(drop)
}

#[derive(Deserialize)]
struct UnverifiedIssuer {
    iss: String,
}

impl KnownAdmin {
    /// Reads the keys of a configuration.
    pub(crate) fn all(configured: &[AdminConfig]) -> Result<Arc<[Self]>, AdminKeyError> {
        let known = configured
            .iter()
            .map(|admin| Self::new(&admin.name, admin.role, &admin.public_key));
        known.collect()
    }

    fn new(name: &str, role: Role, pem: &str) -> Result<Self, AdminKeyError> {
        let known = (pem.len() <= MAX_PEM).then(|| public_key(pem)).flatten();
        let (algorithm, key, fingerprint) = known.ok_or_else(|| AdminKeyError {
            name: name.to_owned(),
        })?;
        Ok(Self {
            name: name.to_owned(),
            role,
            fingerprint,
            algorithm,
            key,
        })
    }

    fn stored(version: &AdminVersion) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged(format!("admin {:?}", version.name));
        let key = version.key.as_ref().ok_or_else(damaged)?;
        let role = Role::named(&key.0).ok_or_else(damaged)?;
        Self::new(&version.name, role, &key.1).map_err(|_| damaged())
    }

    /// The claims of a token that this admin's key signed with this admin's algorithm. Times and audience are
    /// left to the caller, who has the clock.
    fn claims(&self, presented: &str) -> Result<AdminClaims, AdminError> {
        let mut validation = Validation::new(self.algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<AdminClaims>(presented, &self.key, &validation)
            .map(|token| token.claims)
            .map_err(|_| AdminError::Signature)
    }
}

/// Reads a public key as PEM `SubjectPublicKeyInfo`: Ed25519 or P-256, by the one DER prefix that each has.
fn public_key(pem: &str) -> Option<(Algorithm, DecodingKey, String)> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok()?;
    let fingerprint = hex::encode(digest::digest(&digest::SHA256, &der));
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    if let Some(key) = der.strip_prefix(&ED25519_PREFIX) {
        let key = <&[u8; 32]>::try_from(key).ok()?;
        return Some((
            Algorithm::EdDSA,
            DecodingKey::from_ed_components(&encode(key)).ok()?,
            fingerprint,
        ));
    }
    let point = <&[u8; 64]>::try_from(der.strip_prefix(&P256_PREFIX)?).ok()?;
    let (x, y) = point.split_at(32);
    Some((
        Algorithm::ES256,
        DecodingKey::from_ec_components(&encode(x), &encode(y)).ok()?,
        fingerprint,
    ))
}

/// An admin whose key is of no use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "admin {name:?}: public_key is not an Ed25519 or P-256 public key in PEM (\"BEGIN PUBLIC KEY\")"
)]
pub struct AdminKeyError {
    name: String,
}

/// Why an admin is not added or revoked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetAdminError {
    #[error("an admin's name has 1 to {MAX_NAME} letters, digits and . _ @ + -")]
    Name,
    #[error(
        "the configuration names this admin: change it there and start the broker again, or choose another name"
    )]
    Configured,
    #[error(transparent)]
    Key(#[from] AdminKeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a request is not an admin's. The text goes to whoever asked, so it says nothing about other admins.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("this wants an admin token in the Authorization header")]
    NoToken,
    #[error(
        "this broker has no admin: run `strongroom broker init`, or name an [[admin]] in its configuration"
    )]
    NoAdmins,
    #[error("the admin token is malformed, or lacks one of sub, role, aud, iat, exp, jti")]
    Malformed,
    #[error("the admin token is not signed by the key of an admin of this broker")]
    Unknown,
    #[error("the admin token is not signed by the key of an admin of this broker")]
    Signature,
    #[error("the admin token is for another audience")]
    Audience,
    #[error("the admin token asks for a role that its key does not have")]
    Role,
    #[error("the admin token has expired")]
    Expired,
    #[error("the admin token was issued in the future: compare the clocks")]
    NotYetValid,
    #[error("the admin token lives longer than {MAX_LIFETIME_SECONDS} s")]
    Lifetime,
    #[error(
        "this broker takes no admin token for more than one request: [admin_tokens] reusable_minutes in its \
         configuration says how long one may live"
    )]
    Reusable,
    #[error("the admin token lives longer than admin_tokens.reusable_minutes allows")]
    ReusableLifetime,
    #[error("the admin token was used before: each request wants a fresh one")]
    Replayed,
    #[error(
        "the admin token was issued before this broker started, and may have been used then: send a fresh one, and \
         compare the clocks"
    )]
    BeforeStart,
    #[error(
        "the token's algorithm is not one that its issuer's key signs with: ES256, EdDSA, RS256, RS384 or PS256, as its \
         type is"
    )]
    Algorithm,
    #[error("the token names a key that its issuer does not publish")]
    UnknownKey,
    #[error("the token does not say which of its issuer's keys signed it")]
    AmbiguousKey,
    #[error(
        "the token lacks one of iss, aud, iat, exp and the subject, or one of them is malformed"
    )]
    Claims,
    #[error("the token lives longer than identity_provider.max_lifetime_seconds allows")]
    IssuerLifetime,
    #[error("the keys of the token's issuer cannot be fetched now")]
    IssuerUnavailable,
    #[error("too many admin tokens were used lately: wait until some have expired")]
    Busy,
    /// The database in which used tokens are does not answer.
    #[error("whether this admin token was used before cannot be told now: try again later")]
    Unreachable,
}

const MAX_TOKEN: usize = 16 * 1024;
const MAX_NAME: usize = 64;
const MAX_PEM: usize = 1024;
const MAX_ID: usize = 128;
/// A few hundred requests a second for as long as a token lives.
const MAX_USED: usize = 65_536;
/// RFC 8410, 4: the DER of an Ed25519 public key up to its 32 bytes.
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// RFC 5480, 2.1.1: the DER of an uncompressed P-256 public key up to its 64 bytes.
const P256_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 3, 1, 7, 3, 0x42, 0, 4,
];

/// The decoder of an admin's public key, as one function of text.
pub(crate) fn decode_key(pem: &str) -> bool {
    KnownAdmin::new("name", Role::Auditor, pem).is_ok()
}

/// The decoders of what an identity provider publishes, and of a token's head, as one function of bytes.
pub(crate) fn decode_published(bytes: &[u8]) -> bool {
    let head = std::str::from_utf8(bytes).ok().and_then(jwks::Head::parse);
    let found = jwks::discovered(bytes, "https://issuer.example").is_ok();
    let keys = jwks::KeySet::parse(bytes);
    if let (Ok(keys), Some(head)) = (&keys, &head) {
        keys.pick(head).ok();
    }
    keys.is_ok() | found | head.is_some()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};

    use super::*;

    const NOW: u64 = 1_000_000;

    impl Admins {
        fn verify(&self, presented: Option<&str>, now: u64) -> Result<Admin, AdminError> {
            let (admin, once) = self.believe(presented, now)?;
            once.map_or(Ok(()), |once| self.use_up(once, now))?;
            Ok(admin)
        }
    }

    fn claims() -> AdminClaims {
        AdminClaims {
            sub: "alice".into(),
            role: "admin".into(),
            aud: AUDIENCE.into(),
            iat: NOW,
            exp: NOW + 60,
            jti: "1".into(),
            usage: None,
        }
    }

    struct Key {
        pair: rcgen::KeyPair,
        algorithm: Algorithm,
    }

    impl Key {
        fn ed25519() -> Self {
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            Self {
                pair,
                algorithm: Algorithm::EdDSA,
            }
        }

        fn p256() -> Self {
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            Self {
                pair,
                algorithm: Algorithm::ES256,
            }
        }

        fn admins(&self) -> Admins {
            Admins::new(&[AdminConfig {
                name: "alice".into(),
                role: Role::Admin,
                public_key: self.pair.public_key_pem(),
            }])
            .unwrap()
        }

        fn sign(&self, claims: &impl serde::Serialize) -> String {
            let pem = self.pair.serialize_pem();
            let key = match self.algorithm {
                Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
                _ => EncodingKey::from_ec_pem(pem.as_bytes()),
            };
            jsonwebtoken::encode(&Header::new(self.algorithm), claims, &key.unwrap()).unwrap()
        }
    }

    fn refusal(change: impl FnOnce(&mut AdminClaims)) -> AdminError {
        let key = Key::ed25519();
        let mut claims = claims();
        change(&mut claims);
        key.admins()
            .verify(Some(&key.sign(&claims)), NOW)
            .unwrap_err()
    }

    #[test]
    fn both_kinds_of_key_are_accepted() {
        for key in [Key::ed25519(), Key::p256()] {
            let admin = key
                .admins()
                .verify(Some(&key.sign(&claims())), NOW)
                .unwrap();
            assert_eq!(admin.name(), "alice");
        }
    }

    #[test]
    fn token_is_believed_once() {
        let key = Key::ed25519();
        let (admins, token) = (key.admins(), key.sign(&claims()));
        admins.verify(Some(&token), NOW).unwrap();
        let again = admins.verify(Some(&token), NOW + 59).unwrap_err();
        assert_eq!(again, AdminError::Replayed);
        // Other claims under the same id are a replay too.
        let mut other = claims();
        other.exp += 1;
        let again = admins.verify(Some(&key.sign(&other)), NOW).unwrap_err();
        assert_eq!(again, AdminError::Replayed);
    }

    #[test]
    fn token_for_more_requests_is_taken_where_the_configuration_says_so_and_no_longer() {
        let key = Key::ed25519();
        let mut admins = key.admins();
        admins.started = NOW + 30;
        let mut session = claims();
        session.usage = Some(SESSION.into());
        session.exp = NOW + 600;
        let token = key.sign(&session);
        let at = |admins: &Admins, token: &str, now| admins.verify(Some(token), now);
        assert_eq!(at(&admins, &token, NOW).unwrap_err(), AdminError::Reusable);
        admins.reusable = 600;
        // It may be used again, so one from before a start is no worse than any.
        for now in [NOW, NOW, NOW + 599] {
            assert!(at(&admins, &token, now).unwrap().is_reusable());
        }
        let late = at(&admins, &token, NOW + 600).unwrap_err();
        assert_eq!(late, AdminError::Expired);
        session.exp = NOW + 601;
        let long = at(&admins, &key.sign(&session), NOW).unwrap_err();
        assert_eq!(long, AdminError::ReusableLifetime);
        session.usage = Some("other".into());
        let other = at(&admins, &key.sign(&session), NOW).unwrap_err();
        assert_eq!(other, AdminError::Malformed);
        // Others stay good for one request.
        let mut single = claims();
        single.iat = NOW + 30;
        let single = key.sign(&single);
        assert!(!at(&admins, &single, NOW + 30).unwrap().is_reusable());
        let again = at(&admins, &single, NOW + 30).unwrap_err();
        assert_eq!(again, AdminError::Replayed);
    }

    #[test]
    fn refused_token_does_not_use_up_an_id() {
        let key = Key::ed25519();
        let admins = key.admins();
        let forged = Key::ed25519().sign(&claims());
        admins.verify(Some(&forged), NOW).unwrap_err();
        admins.verify(Some(&key.sign(&claims())), NOW).unwrap();
    }

    #[test]
    fn full_memory_of_tokens_refuses_and_forgets_only_the_expired() {
        let key = Key::ed25519();
        let admins = key.admins();
        let filled = (0..MAX_USED).map(|number| (format!("old-{number}"), NOW + 10));
        let filled = ("alice".to_owned(), filled.collect());
        *admins.used.lock().unwrap() = HashMap::from([filled]);
        let remembered = || admins.used.lock().unwrap()["alice"].len();
        let token = key.sign(&claims());
        let refused = admins.verify(Some(&token), NOW).unwrap_err();
        assert_eq!(refused, AdminError::Busy);
        assert_eq!(remembered(), MAX_USED);
        // Another's tokens are not kept out by it.
        let once = Once {
            of: "bob".to_owned(),
            id: "1".to_owned(),
            issued: NOW,
            expires: NOW + 60,
        };
        admins.use_up(once, NOW).unwrap();
        admins.verify(Some(&token), NOW + 10).unwrap();
        assert_eq!(remembered(), 1);
    }

    #[test]
    fn id_that_is_empty_or_endless_is_refused() {
        assert_eq!(refusal(|c| c.jti.clear()), AdminError::Malformed);
        assert_eq!(
            refusal(|c| c.jti = "x".repeat(MAX_ID + 1)),
            AdminError::Malformed
        );
    }

    #[test]
    fn no_token_is_refused() {
        assert_eq!(
            Key::p256().admins().verify(None, NOW).unwrap_err(),
            AdminError::NoToken
        );
    }

    #[test]
    fn broker_without_admins_refuses_everything() {
        let token = Key::p256().sign(&claims());
        assert_eq!(
            Admins::new(&[])
                .unwrap()
                .verify(Some(&token), NOW)
                .unwrap_err(),
            AdminError::NoAdmins
        );
    }

    #[test]
    fn expired_token_is_refused() {
        assert_eq!(refusal(|c| c.exp = NOW), AdminError::Expired);
    }

    #[test]
    fn token_of_the_future_is_refused() {
        for ahead in [1, 60, 61] {
            assert_eq!(
                refusal(|c| (c.iat, c.exp) = (NOW + ahead, NOW + 100)),
                AdminError::NotYetValid
            );
        }
    }

    #[test]
    fn token_that_lives_too_long_is_refused() {
        assert_eq!(
            refusal(|c| c.exp = NOW + MAX_LIFETIME_SECONDS + 1),
            AdminError::Lifetime
        );
    }

    #[test]
    fn wrong_audience_is_refused() {
        assert_eq!(refusal(|c| c.aud = "kbs".into()), AdminError::Audience);
    }

    #[test]
    fn wrong_role_is_refused() {
        assert_eq!(refusal(|c| c.role = "auditor".into()), AdminError::Role);
    }

    #[test]
    fn unknown_subject_is_refused() {
        assert_eq!(refusal(|c| c.sub = "bob".into()), AdminError::Unknown);
    }

    #[test]
    fn missing_claim_is_refused() {
        let key = Key::p256();
        for claim in ["sub", "role", "aud", "iat", "exp", "jti"] {
            let mut claims = serde_json::to_value(claims()).unwrap();
            claims.as_object_mut().unwrap().remove(claim);
            let outcome = key.admins().verify(Some(&key.sign(&claims)), NOW);
            assert_eq!(outcome.unwrap_err(), AdminError::Malformed, "{claim}");
        }
    }

    #[test]
    fn token_of_another_key_is_refused() {
        let token = Key::ed25519().sign(&claims());
        assert_eq!(
            Key::ed25519()
                .admins()
                .verify(Some(&token), NOW)
                .unwrap_err(),
            AdminError::Signature
        );
        assert_eq!(
            Key::p256().admins().verify(Some(&token), NOW).unwrap_err(),
            AdminError::Signature
        );
    }

    #[test]
    fn algorithm_none_is_refused() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let body = encode(&serde_json::to_string(&claims()).unwrap());
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"None","typ":"JWT"}"#, "{}"] {
            for signature in ["", "AAAA"] {
                let token = format!("{}.{body}.{signature}", encode(header));
                assert!(
                    Key::p256().admins().verify(Some(&token), NOW).is_err(),
                    "{header}"
                );
            }
        }
    }

    #[test]
    fn public_key_used_as_an_hmac_secret_is_refused() {
        let key = Key::p256();
        for secret in [
            key.pair.public_key_pem().into_bytes(),
            key.pair.public_key_raw().to_vec(),
        ] {
            let secret = EncodingKey::from_secret(&secret);
            let token =
                jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap();
            assert_eq!(
                key.admins().verify(Some(&token), NOW).unwrap_err(),
                AdminError::Signature
            );
        }
    }

    #[test]
    fn changed_claims_are_refused() {
        let key = Key::ed25519();
        let token = key.sign(&claims());
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let mut longer = claims();
        longer.exp += 1;
        parts[1] = URL_SAFE_NO_PAD.encode(serde_json::to_string(&longer).unwrap());
        assert_eq!(
            key.admins()
                .verify(Some(&parts.join(".")), NOW)
                .unwrap_err(),
            AdminError::Signature
        );
    }

    #[test]
    fn text_that_is_no_token_is_refused_without_a_panic() {
        for text in ["", ".", "..", "a.b.c", "é.é.é", &"x".repeat(MAX_TOKEN + 1)] {
            assert_eq!(
                Key::p256().admins().verify(Some(text), NOW).unwrap_err(),
                AdminError::Malformed
            );
        }
    }

    #[test]
    fn p384_or_private_key_in_the_configuration_is_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        for public_key in [
            p384.public_key_pem(),
            Key::p256().pair.serialize_pem(),
            String::new(),
        ] {
            let admin = AdminConfig {
                name: "alice".into(),
                role: Role::Admin,
                public_key,
            };
            assert!(Admins::new(&[admin]).is_err());
        }
    }
}
