//! The broker's configuration: one TOML file, unknown keys refused, paths relative to its folder.
//!
//! The strict choice is the default. What loosens it is a setting of its own, which [`Config::loosenings`] names.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use strongroom_tpm::TpmAddress;
use strongroom_wire::admin::MAX_SESSION_MINUTES;
use strongroom_wire::tee::Tee;

use crate::client::Network;
use crate::policies::{DEFAULT_ID, is_appraisal_name};
use crate::session::PolicyTag;
use crate::sources::{SourcesConfig, VaultConfig};
use crate::store::Target;
use crate::{BrokerError, key_file};

pub use read::{Overridden, Overrides};

/// A broker's configuration, read and checked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Speak HTTP without TLS. Everything but secrets, which stay encrypted to the guest's key, is then readable
    /// on the wire, admin tokens and resources being stored among it.
    #[serde(default)]
    pub insecure_http: bool,
    /// The server's certificate; required unless `insecure_http` is set.
    pub tls: Option<TlsConfig>,
    /// Where things are kept.
    pub store: StoreConfig,
    /// How the record is signed, and for how long what explains it is kept.
    #[serde(default)]
    pub audit: AuditConfig,
    /// How many versions of a secret are kept.
    #[serde(default)]
    pub secrets: SecretsConfig,
    /// How tokens are signed.
    pub token: TokenConfig,
    /// How long a handshake may take, and how many there may be.
    #[serde(default)]
    pub session: SessionConfig,
    /// How much a client may send, and how slowly.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Who may administer.
    #[serde(default)]
    pub admin: Vec<AdminConfig>,
    /// How long an admin's token may live that is good for more than one request.
    #[serde(default)]
    pub admin_tokens: AdminTokensConfig,
    /// Who else says who administers.
    #[serde(default)]
    pub identity_provider: Vec<IdentityProviderConfig>,
    /// Where the vendors' certificates and revocation lists come from.
    #[serde(default)]
    pub collateral: CollateralConfig,
    /// Whom to trust besides the makers of the platforms.
    #[serde(default)]
    pub anchors: AnchorsConfig,
    /// By which appraisal policies guests may ask to be graded.
    #[serde(default)]
    pub attestation: AttestationConfig,
    /// Whether whoever has evidence may ask what it is worth.
    #[serde(default)]
    pub attestation_service: AttestationServiceConfig,
    /// Which reference values are taken.
    #[serde(default)]
    pub reference_values: ReferenceValuesConfig,
    /// Where secrets come from besides the API.
    #[serde(default)]
    pub sources: SourcesConfig,
    /// What a development broker accepts beyond real evidence.
    #[serde(default)]
    pub development: DevelopmentConfig,
    /// Where to say how it goes.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// What is logged, and how.
    #[serde(default)]
    pub log: LogConfig,
    /// Where spans go.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// Where the file lies, when it was read from one.
    #[serde(skip)]
    pub(crate) folder: Option<PathBuf>,
    /// What came from the environment.
    #[serde(skip)]
    pub(crate) overridden: Vec<Overridden>,
}

/// `[tls]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM certificates, the server's first.
    pub certificate: PathBuf,
    /// PEM private key, readable by its owner alone.
    pub private_key: PathBuf,
}

/// `[store]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The SQLite file, unless `postgres_url` is set.
    #[serde(default)]
    pub path: PathBuf,
    /// A PostgreSQL database instead, which several brokers can share: `postgres://user@host/database`. Beyond this
    /// machine it is spoken to under TLS, its certificate and name verified.
    pub postgres_url: Option<String>,
    /// The file with the password for it, readable by its owner alone.
    pub postgres_password_file: Option<PathBuf>,
    /// PEM of the authorities that vouch for it, instead of this machine's own.
    pub postgres_certificate: Option<PathBuf>,
    /// Take `sslmode=disable` beyond this machine. Whoever is on the wire then reads and changes what is stored.
    #[serde(default)]
    pub insecure_postgres: bool,
    /// The storage key, readable by its owner alone. Without it the store's secrets are lost.
    pub key_file: PathBuf,
    /// The TPM that sealed what is in `key_file`: `/dev/tpmrm0`. A socket, or `tcp:127.0.0.1:PORT`, is an emulator's.
    pub key_tpm: Option<String>,
}

impl StoreConfig {
    /// A file beside the store: beside its key where the store is no file.
    fn beside(&self, name: &str) -> PathBuf {
        match &self.postgres_url {
            None => self.path.with_file_name(name),
            Some(_) => self.key_file.with_file_name(name),
        }
    }

    /// What the store is called in errors.
    pub(crate) fn name(&self) -> String {
        match &self.postgres_url {
            None => self.path.display().to_string(),
            Some(_) => Target::parse(self).map_or_else(|reason| reason, |target| target.name()),
        }
    }

    fn check(&self) -> Result<(), String> {
        if let Some(Err(error)) = self.key_tpm.as_deref().map(str::parse::<TpmAddress>) {
            return Err(format!("store.key_tpm: {error}"));
        }
        match (self.path.as_os_str().is_empty(), &self.postgres_url) {
            (true, None) => Err("[store] has neither path nor postgres_url: name one".to_owned()),
            (false, Some(_)) => {
                Err("[store] has both path and postgres_url: remove one".to_owned())
            }
            (false, None) if self.postgres_password_file.is_some() => Err(
                "store.postgres_password_file is of no use without store.postgres_url".to_owned(),
            ),
            (false, None) => Ok(()),
            (true, Some(_)) => Target::parse(self).map(drop),
        }
    }

    fn is_loosened(&self) -> bool {
        self.postgres_url.is_some() && Target::parse(self).is_ok_and(|target| target.is_loosened())
    }
}

/// `[audit]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// The key that signs the record, readable by its owner alone. By default `audit.key` beside the store.
    pub signing_key: Option<PathBuf>,
    /// For how many days the claims of tokens are kept, without which a decision is not explained in full and not
    /// rehearsed under another policy.
    pub keep_claims_days: u64,
    /// How many megabytes of claims are kept in a day, beyond which tokens are given and recorded without theirs.
    pub claims_megabytes_per_day: u64,
    /// For how many days entries of the record are kept. Without it, for good. Those that are older go in bundles of 256,
    /// with an entry that says so; the hashes of all of them stay.
    pub keep_days: Option<u64>,
}

impl AuditConfig {
    /// Where the key is.
    pub(crate) fn signing_key(&self, store: &StoreConfig) -> PathBuf {
        let beside = || store.beside("audit.key");
        self.signing_key.clone().unwrap_or_else(beside)
    }
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            signing_key: None,
            keep_claims_days: 90,
            claims_megabytes_per_day: 4_096,
            keep_days: None,
        }
    }
}

/// `[secrets]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// How many versions of each secret are kept, the newest among them.
    pub keep_versions: u64,
}

impl Default for SecretsConfig {
    fn default() -> Self {
        Self { keep_versions: 10 }
    }
}

/// `[token]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// PKCS#8 PEM of a P-256 key, readable by its owner alone.
    pub signing_key: PathBuf,
    /// PEM certificates, the signing key's first; they go into each token's header.
    pub certificate_chain: PathBuf,
    /// How long a token is good for.
    #[serde(default = "five_minutes")]
    pub lifetime_seconds: u64,
    /// The `iss` claim.
    #[serde(default = "default_issuer")]
    pub issuer: String,
}

/// `[session]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// How long a nonce, and an attested session, is good for.
    pub lifetime_seconds: u64,
    /// How many sessions are kept; beyond, the oldest makes room.
    pub max: usize,
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The largest request body.
    pub body_bytes: usize,
    /// How long a connection may take to send a request's head, or stay idle before one.
    pub header_seconds: u64,
    /// How long a request may take from its head to its answer.
    pub request_seconds: u64,
    /// The longest head of a request. It carries the token, of up to 256 KiB.
    pub header_bytes: usize,
    /// How many headers a request may have.
    pub headers: usize,
    /// How many connections are open at once; beyond, the newest is closed.
    pub connections: usize,
    /// How many attestations are under way at once; beyond, a guest is told to come back.
    pub attestations_in_flight: usize,
    /// How many handshakes and attestations one address may begin in a minute; 0 is without end. Of IPv6 a /64 is one
    /// address.
    pub attempts_per_minute: u32,
    /// How often one address may ask for resources in a minute; 0 is without end.
    pub reads_per_minute: u32,
    /// How many connections one address has open at once; beyond, its newest is closed. Those of `trusted_proxies` may
    /// have more.
    pub connections_per_source: usize,
    /// How much memory the bodies of requests under way take in all, a quarter of it for one address; beyond, a client is
    /// told to come back. Bodies of up to 16 KiB do not count; four of `body_bytes` are let in always.
    pub bodies_bytes: usize,
    /// Addresses and networks of proxies, whose `X-Forwarded-For` is believed: `["10.0.0.7", "fd00::/64"]`.
    pub trusted_proxies: Vec<Network>,
}

/// `[[admin]]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// The name in the record and in the `sub` of tokens.
    pub name: String,
    /// What the admin may do.
    #[serde(default)]
    pub role: Role,
    /// PEM of an Ed25519 or P-256 public key.
    pub public_key: String,
}

/// `[admin_tokens]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminTokensConfig {
    /// For how many minutes at most a token may live that its admin signed for more than one request, for clients that send
    /// the same token each time. 0 takes none, 60 is the most. Who sees such a token can use it until it expires.
    pub reusable_minutes: u64,
}

/// What an admin may do; in full in `http/access.rs`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// Everything.
    #[default]
    Admin,
    /// Policies and reference values, with rehearsals and explanations.
    Policy,
    /// Storing, listing, rolling back and deleting secrets, and nothing else.
    Secrets,
    /// Reading the record and every list, and changing nothing.
    Auditor,
}

impl Role {
    /// The name in the configuration and in tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Policy => "policy",
            Self::Secrets => "secrets",
            Self::Auditor => "auditor",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Self> {
        let mut roles = Self::ALL.into_iter();
        roles.find(|role| role.as_str() == name)
    }

    /// Every role.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Policy, Self::Secrets, Self::Auditor];
}

/// `[[identity_provider]]`: who else says who administers. Its tokens are JWTs signed with ES256, `EdDSA`, RS256,
/// RS384 or PS256.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IdentityProviderConfig {
    /// The `iss` of its tokens, letter by letter.
    pub issuer: String,
    /// What must be in the `aud` of its tokens.
    pub audience: String,
    /// Where its keys are, as a JWK set.
    pub jwks_url: Option<String>,
    /// A file with its keys, as a JWK set.
    pub jwks_file: Option<PathBuf>,
    /// Ask `<issuer>/.well-known/openid-configuration` where its keys are.
    #[serde(default)]
    pub discovery: bool,
    /// The claim with the role or roles: a name, or a JSON pointer such as `/realm_access/roles`.
    #[serde(default = "default_role_claim")]
    pub role_claim: String,
    /// Which role a value of that claim stands for. Other values stand for none.
    pub roles: BTreeMap<String, Role>,
    /// The claim with the name that goes into the record, followed by the issuer.
    #[serde(default = "default_subject_claim")]
    pub subject_claim: String,
    /// The longest time between `iat` and `exp`.
    #[serde(default = "one_hour")]
    pub max_lifetime_seconds: u64,
    /// Believe each token once, by its `jti`.
    #[serde(default)]
    pub single_use: bool,
    /// PEM of the authorities that vouch for the server, instead of this machine's own.
    pub certificate: Option<PathBuf>,
    /// How long a fetch of keys may take; less than `limits.request_seconds`.
    #[serde(default = "five_seconds")]
    pub timeout_seconds: u64,
    /// After how long keys are fetched anew.
    #[serde(default = "ten_minutes")]
    pub refresh_seconds: u64,
    /// For how long keys are believed that could not be fetched anew.
    #[serde(default = "one_day_of_hours")]
    pub max_stale_hours: u64,
}

impl IdentityProviderConfig {
    fn check(&self, request_seconds: u64) -> Result<(), String> {
        let bad = |reason: String| Err(format!("identity_provider {:?}: {reason}", self.issuer));
        let places = [
            self.jwks_url.is_some(),
            self.jwks_file.is_some(),
            self.discovery,
        ];
        if places.into_iter().filter(|place| *place).count() != 1 {
            return bad("name one of jwks_url, jwks_file and discovery = true".to_owned());
        }
        for (key, text) in [
            ("issuer", &self.issuer),
            ("audience", &self.audience),
            ("role_claim", &self.role_claim),
            ("subject_claim", &self.subject_claim),
        ] {
            if text.is_empty() {
                return bad(format!("{key} is empty"));
            }
        }
        if self.roles.is_empty() {
            return bad("roles is empty, so that nobody may anything".to_owned());
        }
        let url = self.jwks_url.as_deref();
        for (key, url) in [
            ("jwks_url", url),
            ("issuer", self.discovery.then_some(self.issuer.as_str())),
        ] {
            let Some(url) = url else { continue };
            let is_url = reqwest::Url::parse(url).is_ok_and(|url| {
                let bare = url.username().is_empty() && url.password().is_none();
                crate::admin::is_safe(&url) && bare && url.fragment().is_none()
            });
            if !is_url {
                return bad(format!(
                    "{key} is no https:// address, or carries a user name: whoever is on the wire would say who \
                     administers"
                ));
            }
        }
        let most = request_seconds.saturating_sub(1).max(1);
        for (key, value, least, most) in [
            (
                "max_lifetime_seconds",
                self.max_lifetime_seconds,
                60,
                86_400,
            ),
            ("timeout_seconds", self.timeout_seconds, 1, most),
            ("refresh_seconds", self.refresh_seconds, 30, 86_400),
            ("max_stale_hours", self.max_stale_hours, 1, 8_760),
        ] {
            if !(least..=most).contains(&value) {
                return bad(format!(
                    "{key} = {value} is out of range: {least} to {most}"
                ));
            }
        }
        Ok(())
    }
}

/// `[collateral]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CollateralConfig {
    /// Where collateral is kept. By default `collateral` beside the store.
    pub folder: Option<PathBuf>,
    /// Ask no service: what is not in the folder is not there.
    pub offline: bool,
    /// AMD's key distribution service, or a mirror of it.
    pub kds_url: String,
    /// Intel's provisioning certification service, or a caching service (PCCS).
    pub intel_url: String,
    /// Which of both `intel_url` is.
    pub intel_kind: IntelKind,
    /// Where Intel's own service publishes the revocation list of the root. A PCCS has it under `intel_url`.
    pub intel_root_crl_url: String,
    /// NVIDIA's service for reference integrity manifests.
    pub rim_url: String,
    /// PEM of the authorities that vouch for these services, instead of this machine's own.
    pub certificate: Option<PathBuf>,
    /// Take `http://` beyond this machine. All collateral is signed, so nothing false is believed for it; but who is on
    /// the wire can hold back what is new, and sees which machines attest.
    pub insecure_http: bool,
    /// After how long revocation lists, TCB info and QE identities are fetched anew.
    pub refresh_hours: u64,
    /// For how long after that they are still used when their service does not answer.
    pub stale_grace_hours: u64,
    /// How long one attestation waits for collateral, in all; less than `limits.request_seconds`.
    pub timeout_seconds: u64,
}

/// Which service answers for Intel.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum IntelKind {
    /// Intel's own (PCS).
    #[default]
    Pcs,
    /// A caching service (PCCS).
    Pccs,
}

/// `[anchors]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnchorsConfig {
    /// PEM certificates of makers of TPMs, or of whoever certifies their attestation keys; one in each file.
    pub tpm_roots: Vec<PathBuf>,
    /// Attestation keys of TPMs that their owner enrolled: `SubjectPublicKeyInfo` as PEM or DER, one in each file.
    pub attestation_keys: Vec<PathBuf>,
}

/// `[attestation]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttestationConfig {
    /// What a guest may send as `attestation-policy-selector`, and the id of the appraisal policies that it is then graded by:
    /// `strict` stands for `strict_cpu` and `strict_gpu`. Who sends none is graded by `default`. The guest chooses, so whoever
    /// starts it chooses the weakest policy that is named here: each policy must be as good as its release policies take it
    /// for. The release policy that ships, and those that `policy allow` writes without `--appraisal`, take `default` alone.
    pub policy_ids: BTreeMap<String, String>,
}

impl AttestationConfig {
    /// What a session's id says of the policies that a selector stands for.
    pub(crate) fn select(&self, selector: &str) -> Option<PolicyTag> {
        self.policy_ids.get(selector).map(|id| policy_tag(id))
    }

    /// The id of the policies that a session's id speaks of. None when this configuration maps nothing to it.
    pub(crate) fn selected(&self, tag: &PolicyTag) -> Option<&str> {
        if *tag == PolicyTag::default() {
            return Some(DEFAULT_ID);
        }
        let mut ids = self.policy_ids.values().map(String::as_str);
        ids.find(|id| policy_tag(id) == *tag)
    }
}

/// `[attestation_service]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttestationServiceConfig {
    /// Appraise evidence for whoever sends it, at `/attestation` as an upstream attestation service does. Nobody is asked
    /// who they are, and freshness is the caller's business. Nothing is released on such a token here.
    pub enabled: bool,
}

/// `[reference_values]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceValuesConfig {
    /// PEM public keys, P-256 or Ed25519, one in each file. When there is any, a message that none of them signed is
    /// refused, whoever registers it.
    pub signers: Vec<PathBuf>,
}

/// `[development]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DevelopmentConfig {
    /// Accept `sample` evidence, which proves nothing, and release to it what the policy allows.
    pub accept_sample_evidence: bool,
    /// Accept what rests on this development root: its PEM, or the folder with its `root.pem` and `collateral`.
    pub root: Option<PathBuf>,
}

/// `[metrics]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// The address of a second listener, without TLS, that answers `/metrics`, `/healthz` and `/readyz`. Nothing
    /// listens when it is not set.
    pub listen: Option<SocketAddr>,
}

/// `[log]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Lines for people, or a JSON object a line.
    pub format: LogFormat,
    /// What is logged: `info`, or by part `warn,strongroom_broker=debug`.
    pub filter: Option<String>,
}

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("a log has the format text or json".to_owned()),
        }
    }
}

/// `[telemetry]`
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// The OpenTelemetry collector to send spans to, over OTLP/HTTP: `https://collector.example:4318`.
    pub otlp_endpoint: Option<String>,
    /// PEM of the authorities that vouch for it, instead of this machine's own.
    pub certificate: Option<PathBuf>,
    /// Take `http://` beyond this machine. Spans hold no secret, but who is on the wire sees who attests and when.
    pub insecure_http: bool,
}

impl DevelopmentConfig {
    /// The setting that lets through evidence of a platform that no maker's root vouches for.
    pub(crate) fn lets_through(&self, tee: Tee) -> Option<Loosening> {
        match tee {
            Tee::Sample | Tee::Sampledevice => self
                .accept_sample_evidence
                .then_some(Loosening::AcceptSampleEvidence),
            _ => self
                .root
                .is_some()
                .then_some(Loosening::AcceptDevelopmentRoot),
        }
    }
}

/// A setting that lets through what the default refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Loosening {
    /// `insecure_http = true`
    InsecureHttp,
    /// `[development] accept_sample_evidence = true`
    AcceptSampleEvidence,
    /// `[development] root`
    AcceptDevelopmentRoot,
    /// `[collateral] insecure_http = true`
    InsecureCollateral,
    /// `[attestation_service] enabled = true`
    AttestationService,
    /// `[telemetry] insecure_http = true`
    InsecureTelemetry,
    /// `[sources.vault] insecure_http = true`
    InsecureVault,
    /// `[store] insecure_postgres = true`
    InsecurePostgres,
    /// `[admin_tokens] reusable_minutes`
    ReusableAdminTokens,
}

impl Loosening {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::InsecureHttp,
        Self::AcceptSampleEvidence,
        Self::AcceptDevelopmentRoot,
        Self::InsecureCollateral,
        Self::AttestationService,
        Self::InsecureTelemetry,
        Self::InsecureVault,
        Self::InsecurePostgres,
        Self::ReusableAdminTokens,
    ];

    /// The setting, as the record names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InsecureHttp => "insecure_http",
            Self::AcceptSampleEvidence => "development.accept_sample_evidence",
            Self::AcceptDevelopmentRoot => "development.root",
            Self::InsecureCollateral => "collateral.insecure_http",
            Self::AttestationService => "attestation_service.enabled",
            Self::InsecureTelemetry => "telemetry.insecure_http",
            Self::InsecureVault => "sources.vault.insecure_http",
            Self::InsecurePostgres => "store.insecure_postgres",
            Self::ReusableAdminTokens => "admin_tokens.reusable_minutes",
        }
    }

    /// What it means, for whoever starts the broker.
    pub fn warning(self) -> &'static str {
        match self {
            Self::InsecureHttp => {
                "insecure_http = true: there is no TLS. Secrets stay encrypted to the guest, but admin tokens, \
                 resources being stored and session cookies can be read and changed on the wire."
            }
            Self::AcceptSampleEvidence => {
                "development.accept_sample_evidence = true: `sample` evidence is accepted, which any program can \
                 make up. Put no real secret into this broker."
            }
            Self::AcceptDevelopmentRoot => {
                "development.root is set: evidence is accepted that whoever has the development root's key can make \
                 up. Put no real secret into this broker."
            }
            Self::InsecureCollateral => {
                "collateral.insecure_http = true: revocation lists and the like come over a wire on which somebody can \
                 hold back what is new, and can see which machines attest."
            }
            Self::InsecurePostgres => {
                "store.insecure_postgres = true: policies, reference values and the record can be read and changed on the \
                 wire to the database. Secrets stay sealed there."
            }
            Self::ReusableAdminTokens => {
                "admin_tokens.reusable_minutes is set: who sees a token that an admin signed for more than one request can \
                 use it until it expires."
            }
            Self::AttestationService => {
                "attestation_service.enabled = true: whoever reaches this broker gets a token for evidence, whose \
                 freshness nobody checks but the caller. This broker releases nothing on such a token; see that no \
                 other relying party does without checking what the evidence binds."
            }
            Self::InsecureTelemetry => {
                "telemetry.insecure_http = true: spans leave over a wire on which somebody can see who attests and when."
            }
            Self::InsecureVault => {
                "sources.vault.insecure_http = true: the vault's token and every secret read from it can be read and \
                 changed on the wire."
            }
        }
    }
}

impl Config {
    /// Reads and checks a configuration file, without looking at the environment.
    ///
    /// # Errors
    /// [`BrokerError::File`] when it cannot be read, [`BrokerError::Writable`] when others may write it,
    /// [`BrokerError::Config`] when it is not a configuration.
    pub fn load(path: &Path) -> Result<Self, BrokerError> {
        Self::load_with(path, &Overrides::none())
    }

    /// As [`Self::load`], with settings from elsewhere that go before those of the file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(path: &Path, overrides: &Overrides) -> Result<Self, BrokerError> {
        let text = key_file::read_guarded(path)?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let mut config =
            Self::parse(&text, overrides, folder).map_err(|problems| BrokerError::Config {
                path: path.to_owned(),
                message: problems.join(NEXT_PROBLEM),
            })?;
        config.folder = Some(folder.to_owned());
        Ok(config)
    }

    /// Reads and checks a configuration; its paths are relative to `folder`.
    fn parse(text: &str, overrides: &Overrides, folder: &Path) -> Result<Self, Vec<String>> {
        let mut config = read::read(text, overrides)?;
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut paths = vec![
            &mut config.store.key_file,
            &mut config.token.signing_key,
            &mut config.token.certificate_chain,
        ];
        if let Some(tls) = &mut config.tls {
            paths.extend([&mut tls.certificate, &mut tls.private_key]);
        }
        if config.store.postgres_url.is_none() {
            paths.push(&mut config.store.path);
        }
        paths.extend(&mut config.store.postgres_password_file);
        paths.extend(&mut config.store.postgres_certificate);
        paths.extend(&mut config.audit.signing_key);
        paths.extend(&mut config.collateral.folder);
        paths.extend(&mut config.collateral.certificate);
        paths.extend(&mut config.anchors.tpm_roots);
        paths.extend(&mut config.anchors.attestation_keys);
        paths.extend(&mut config.reference_values.signers);
        paths.extend(&mut config.development.root);
        paths.extend(&mut config.telemetry.certificate);
        paths.extend(config.sources.paths());
        for provider in &mut config.identity_provider {
            paths.extend(&mut provider.jwks_file);
            paths.extend(&mut provider.certificate);
        }
        for path in paths {
            // An absolute path replaces the folder.
            *path = folder.join(&*path);
        }
        Ok(config)
    }

    /// What was set by the environment and not by the file.
    pub fn overridden(&self) -> &[Overridden] {
        &self.overridden
    }

    /// What is wrong with the settings, beside their form.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match (&self.tls, self.insecure_http) {
            (None, false) => problems.push(
                "there is neither [tls] nor insecure_http = true: name a certificate".to_owned(),
            ),
            (Some(_), true) => {
                problems.push("there is both [tls] and insecure_http = true: remove one".to_owned())
            }
            _ => {}
        }
        let ranges = [
            (
                "token.lifetime_seconds",
                self.token.lifetime_seconds,
                1,
                86_400,
            ),
            (
                "admin_tokens.reusable_minutes",
                self.admin_tokens.reusable_minutes,
                0,
                MAX_SESSION_MINUTES,
            ),
            (
                "session.lifetime_seconds",
                self.session.lifetime_seconds,
                1,
                86_400,
            ),
            ("session.max", as_u64(self.session.max), 1, 10_000_000),
            (
                "limits.body_bytes",
                as_u64(self.limits.body_bytes),
                1_024,
                1 << 30,
            ),
            (
                "limits.header_seconds",
                self.limits.header_seconds,
                1,
                3_600,
            ),
            (
                "limits.request_seconds",
                self.limits.request_seconds,
                1,
                3_600,
            ),
            (
                "limits.header_bytes",
                as_u64(self.limits.header_bytes),
                16_384,
                1 << 20,
            ),
            ("limits.headers", as_u64(self.limits.headers), 16, 1_000),
            (
                "limits.connections",
                as_u64(self.limits.connections),
                1,
                1_000_000,
            ),
            (
                "limits.connections_per_source",
                as_u64(self.limits.connections_per_source),
                1,
                1_000_000,
            ),
            (
                "limits.bodies_bytes",
                as_u64(self.limits.bodies_bytes),
                1 << 20,
                1 << 40,
            ),
            (
                "audit.claims_megabytes_per_day",
                self.audit.claims_megabytes_per_day,
                1,
                1 << 20,
            ),
            (
                "limits.attestations_in_flight",
                as_u64(self.limits.attestations_in_flight),
                1,
                100_000,
            ),
            (
                "collateral.refresh_hours",
                self.collateral.refresh_hours,
                1,
                720,
            ),
            (
                "collateral.stale_grace_hours",
                self.collateral.stale_grace_hours,
                0,
                8_760,
            ),
            (
                "collateral.timeout_seconds",
                self.collateral.timeout_seconds,
                1,
                300,
            ),
        ];
        let keep_days = self.audit.keep_days;
        let optional = keep_days.map(|days| ("audit.keep_days", days, 1, 36_500));
        for (key, value, least, most) in ranges.into_iter().chain(optional) {
            if !(least..=most).contains(&value) {
                problems.push(format!(
                    "{key} = {value} is out of range: {least} to {most}"
                ));
            }
        }
        let (wait, request) = (self.collateral.timeout_seconds, self.limits.request_seconds);
        if wait >= request && !self.collateral.offline {
            problems.push(format!(
                "collateral.timeout_seconds = {wait} is not below limits.request_seconds = {request}: the guest would \
                 be sent away before its attestation ends"
            ));
        }
        problems.extend(self.store.check().err());
        problems.extend(crate::collateral::check_urls(&self.collateral).err());
        problems.extend(crate::telemetry::check_endpoint(&self.telemetry).err());
        if let Some(filter) = &self.log.filter
            && let Err(error) = tracing_subscriber::EnvFilter::try_new(filter)
        {
            problems.push(format!("log.filter {filter:?} is no filter: {error}"));
        }
        problems.extend(self.sources.check(self.limits.request_seconds).err());
        for (selector, id) in &self.attestation.policy_ids {
            if !is_appraisal_name(id) {
                problems.push(format!(
                    "attestation.policy_ids.{selector} = {id:?} is no id of appraisal policies: letters, digits, dots and \
                     hyphens, without the class (strict for strict_cpu)"
                ));
            }
        }
        let mut names = BTreeSet::new();
        for admin in &self.admin {
            if admin.name.is_empty() || !names.insert(&admin.name) {
                problems.push(format!(
                    "admin names must be distinct and not empty: {:?}",
                    admin.name
                ));
            }
        }
        let mut issuers = BTreeSet::new();
        for provider in &self.identity_provider {
            problems.extend(provider.check(self.limits.request_seconds).err());
            if !issuers.insert(&provider.issuer) {
                problems.push(format!(
                    "identity_provider {:?} is there twice",
                    provider.issuer
                ));
            }
        }
        problems
    }

    /// The settings that let through what the default refuses.
    pub fn loosenings(&self) -> Vec<Loosening> {
        let mut loosenings = Vec::new();
        if self.insecure_http {
            loosenings.push(Loosening::InsecureHttp);
        }
        if self.development.accept_sample_evidence {
            loosenings.push(Loosening::AcceptSampleEvidence);
        }
        if self.development.root.is_some() {
            loosenings.push(Loosening::AcceptDevelopmentRoot);
        }
        if self.collateral.insecure_http {
            loosenings.push(Loosening::InsecureCollateral);
        }
        if self.store.is_loosened() {
            loosenings.push(Loosening::InsecurePostgres);
        }
        if self.admin_tokens.reusable_minutes > 0 {
            loosenings.push(Loosening::ReusableAdminTokens);
        }
        if self.attestation_service.enabled {
            loosenings.push(Loosening::AttestationService);
        }
        if self.telemetry.insecure_http {
            loosenings.push(Loosening::InsecureTelemetry);
        }
        if self
            .sources
            .vault
            .as_ref()
            .is_some_and(VaultConfig::is_loosened)
        {
            loosenings.push(Loosening::InsecureVault);
        }
        loosenings
    }

    /// Where collateral is kept.
    pub fn collateral_folder(&self) -> PathBuf {
        let beside = || self.store.beside("collateral");
        self.collateral.folder.clone().unwrap_or_else(beside)
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            lifetime_seconds: five_minutes(),
            max: 10_000,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            body_bytes: 2 * 1024 * 1024,
            header_seconds: 30,
            request_seconds: 30,
            header_bytes: 320 * 1024,
            headers: 64,
            connections: 1_024,
            attestations_in_flight: 256,
            attempts_per_minute: 6_000,
            reads_per_minute: 60_000,
            connections_per_source: 256,
            bodies_bytes: 128 * 1024 * 1024,
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for CollateralConfig {
    fn default() -> Self {
        Self {
            folder: None,
            offline: false,
            kds_url: "https://kdsintf.amd.com".to_owned(),
            intel_url: "https://api.trustedservices.intel.com".to_owned(),
            intel_kind: IntelKind::Pcs,
            intel_root_crl_url: "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
                .to_owned(),
            rim_url: "https://rim.attestation.nvidia.com".to_owned(),
            certificate: None,
            insecure_http: false,
            refresh_hours: 24,
            stale_grace_hours: 72,
            timeout_seconds: 20,
        }
    }
}

/// Never zeros for an id that anybody finds: those are the default policies.
fn policy_tag(id: &str) -> PolicyTag {
    let mut tag = PolicyTag::default();
    if id != DEFAULT_ID {
        let hash = digest::digest(&digest::SHA256, id.as_bytes());
        let (prefix, _) = hash.as_ref().split_at(tag.len());
        tag.copy_from_slice(prefix);
    }
    tag
}
/// What stands between two problems in one message.
pub(crate) const NEXT_PROBLEM: &str = "\n  ";

fn one_day_of_hours() -> u64 {
    24
}

fn five_minutes() -> u64 {
    300
}

fn five_seconds() -> u64 {
    5
}

fn ten_minutes() -> u64 {
    600
}

fn one_hour() -> u64 {
    3_600
}

fn default_role_claim() -> String {
    "role".to_owned()
}

fn default_subject_claim() -> String {
    "sub".to_owned()
}

fn default_issuer() -> String {
    "strongroom".to_owned()
}

fn as_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MINIMAL: &str = "listen = \"127.0.0.1:8080\"\n\
        [tls]\ncertificate = \"tls.crt\"\nprivate_key = \"/etc/tls.key\"\n\
        [store]\npath = \"s.sqlite\"\nkey_file = \"s.key\"\n\
        [token]\nsigning_key = \"t.key\"\ncertificate_chain = \"t.crt\"\n";

    fn parse(text: &str, folder: &str) -> Result<Config, String> {
        let read = Config::parse(text, &Overrides::none(), Path::new(folder));
        read.map_err(|problems| problems.join("\n"))
    }

    fn refusal(text: &str) -> String {
        parse(text, "/folder").unwrap_err()
    }

    #[test]
    fn defaults_are_the_strict_ones() {
        let config = parse(MINIMAL, "/folder").unwrap();
        assert!(config.loosenings().is_empty());
        assert!(config.admin.is_empty());
        assert_eq!(
            (config.token.lifetime_seconds, config.session.max),
            (300, 10_000)
        );
        assert_eq!(config.limits.body_bytes, 2_097_152);
    }

    #[test]
    fn paths_are_relative_to_the_folder() {
        let config = parse(MINIMAL, "/folder").unwrap();
        assert_eq!(config.store.path, Path::new("/folder/s.sqlite"));
        assert_eq!(config.tls.unwrap().private_key, Path::new("/etc/tls.key"));
    }

    #[test]
    fn store_is_a_file_or_a_database_and_not_both() {
        let with = |store: &str| MINIMAL.replace("path = \"s.sqlite\"", store);
        let url = "postgres_url = \"postgres://u@localhost/d\"";
        for (store, reason) in [
            ("", "neither path nor postgres_url"),
            (
                &format!("path = \"s\"\n{url}"),
                "both path and postgres_url",
            ),
            (
                "path = \"s\"\npostgres_password_file = \"p\"",
                "of no use without",
            ),
            (
                "postgres_url = \"postgres://u@db.example/d?sslmode=disable\"",
                "insecure_postgres",
            ),
        ] {
            let refused = refusal(&with(store));
            assert!(refused.contains(reason), "{store}: {refused}");
        }
        let text = with(&format!("{url}\npostgres_password_file = \"p\""));
        let config = parse(&text, "/folder").unwrap();
        let password = config.store.postgres_password_file.as_deref();
        assert_eq!(password, Some(Path::new("/folder/p")));
        let beside = |name: &str| Path::new("/folder").join(name);
        assert_eq!(config.audit.signing_key(&config.store), beside("audit.key"));
        assert_eq!(config.collateral_folder(), beside("collateral"));
        assert!(config.loosenings().is_empty());
        let plain = "postgres_url = \"postgres://u@db.example/d?sslmode=disable\"\ninsecure_postgres = true";
        let config = parse(&with(plain), "/folder").unwrap();
        assert_eq!(config.loosenings(), [Loosening::InsecurePostgres]);
    }

    #[test]
    fn tpm_of_another_machine_is_no_place_for_a_key() {
        let with = |tpm: &str| MINIMAL.replace("key_file", &format!("key_tpm = {tpm:?}\nkey_file"));
        let config = parse(&with("/dev/tpmrm0"), "/folder").unwrap();
        assert_eq!(config.store.key_tpm.as_deref(), Some("/dev/tpmrm0"));
        for wrong in ["", "tpmrm0", "tcp:192.0.2.1:2321"] {
            let refused = refusal(&with(wrong));
            assert!(refused.contains("store.key_tpm"), "{refused}");
        }
    }

    #[test]
    fn configuration_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        std::fs::write(&path, MINIMAL).unwrap();
        for (mode, accepted) in [(0o600, true), (0o644, true), (0o660, false), (0o602, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let outcome = Config::load(&path);
            assert_eq!(outcome.is_ok(), accepted, "{mode:o}");
            if let Err(error) = outcome {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
    }

    #[test]
    fn unknown_key_is_refused_anywhere() {
        for line in [
            "[development]\naccept_sample = true",
            "[limits]\nbody_byte = 1",
            "[sessions]\nmax = 1",
            "[reference_values]\nsigner = [\"a.pem\"]",
            "[[admin]]\nname = \"a\"\npublic_key = \"\"\nroles = \"admin\"",
        ] {
            assert!(
                refusal(&format!("{MINIMAL}{line}")).contains("unknown key"),
                "{line}"
            );
        }
    }

    #[test]
    fn neither_tls_nor_a_loosening_is_refused() {
        let text: String = MINIMAL
            .lines()
            .filter(|l| !l.contains("tls"))
            .map(|l| format!("{l}\n"))
            .collect();
        assert!(refusal(&text).contains("neither [tls] nor insecure_http"));
        let config = parse(&format!("insecure_http = true\n{text}"), "").unwrap();
        assert_eq!(config.loosenings(), [Loosening::InsecureHttp]);
    }

    #[test]
    fn tls_and_insecure_http_together_are_refused() {
        assert!(refusal(&format!("insecure_http = true\n{MINIMAL}")).contains("both"));
    }

    #[test]
    fn zero_and_absurd_limits_are_refused() {
        assert!(refusal(&format!("{MINIMAL}[session]\nmax = 0")).contains("session.max"));
        assert!(
            refusal(&format!("{MINIMAL}lifetime_seconds = 99999999"))
                .contains("token.lifetime_seconds")
        );
        let kept = |days: u64| format!("{MINIMAL}[audit]\nkeep_days = {days}");
        assert!(refusal(&kept(0)).contains("audit.keep_days"));
        assert!(parse(&kept(400), "").is_ok());
    }

    #[test]
    fn attestation_that_outlasts_its_request_is_configured() {
        let said = refusal(&format!("{MINIMAL}[collateral]\ntimeout_seconds = 30"));
        assert!(said.contains("limits.request_seconds = 30"), "{said}");
        let longer = "[collateral]\ntimeout_seconds = 60\n[limits]\nrequest_seconds = 61";
        assert!(parse(&format!("{MINIMAL}{longer}"), "").is_ok());
    }

    #[test]
    fn attestation_service_is_there_without_its_setting() {
        let config = parse(MINIMAL, "").unwrap();
        assert!(!config.attestation_service.enabled);
        let text = format!("{MINIMAL}[attestation_service]\nenabled = true");
        let config = parse(&text, "").unwrap();
        assert_eq!(config.loosenings(), [Loosening::AttestationService]);
    }

    #[test]
    fn selector_stands_for_another_policy_than_it_is_mapped_to() {
        let mapped = "[attestation]\npolicy_ids = { a = \"strict\", b = \"default\" }";
        let config = parse(&format!("{MINIMAL}{mapped}"), "").unwrap();
        let attestation = &config.attestation;
        let selected = |selector| attestation.selected(&attestation.select(selector)?);
        assert_eq!(selected("a"), Some("strict"));
        assert_eq!(selected("b"), Some("default"));
        assert_eq!(selected("strict"), None);
        assert_eq!(attestation.selected(&[0; 8]), Some("default"));
        // A session of a time when the configuration was another.
        assert_eq!(attestation.selected(&policy_tag("gone")), None);
        let text = format!("{MINIMAL}[attestation]\npolicy_ids = {{ a = \"strict_cpu\" }}");
        assert!(refusal(&text).contains("without the class"));
    }

    #[test]
    fn two_admins_of_one_name_are_refused() {
        let admin = "[[admin]]\nname = \"a\"\npublic_key = \"x\"\n";
        assert!(refusal(&format!("{MINIMAL}{admin}{admin}")).contains("distinct"));
    }

    #[test]
    fn development_root_lets_sample_evidence_through() {
        let text = format!("{MINIMAL}[development]\nroot = \"dev\"");
        let config = parse(&text, "/folder").unwrap();
        assert_eq!(config.loosenings(), [Loosening::AcceptDevelopmentRoot]);
        let development = &config.development;
        assert_eq!(development.root.as_deref(), Some(Path::new("/folder/dev")));
        assert_eq!(
            development.lets_through(Tee::Snp),
            Some(Loosening::AcceptDevelopmentRoot)
        );
        assert_eq!(development.lets_through(Tee::Sample), None);
        assert_eq!(development.lets_through(Tee::Sampledevice), None);
    }

    #[test]
    fn sample_setting_lets_a_development_root_through() {
        let text = format!("{MINIMAL}[development]\naccept_sample_evidence = true");
        let config = parse(&text, "").unwrap();
        assert_eq!(config.development.lets_through(Tee::Tdx), None);
        assert_eq!(
            config.development.lets_through(Tee::Sample),
            Some(Loosening::AcceptSampleEvidence)
        );
    }

    #[test]
    fn collateral_over_plain_http_is_taken_silently() {
        let url = |url: &str, more: &str| {
            parse(
                &format!("{MINIMAL}[collateral]\nkds_url = \"{url}\"\n{more}"),
                "",
            )
        };
        assert!(url("http://127.0.0.1:1", "").is_ok());
        for bad in [
            "http://kds.example",
            "http://127.0.0.1.example",
            "ftp://kds.example",
            "kds.example",
            "https://user:hunter2@kds.example",
            "https://kds.example/?a=b",
        ] {
            let said = url(bad, "").unwrap_err();
            assert!(said.contains("collateral.kds_url"), "{said}");
            assert!(!said.contains("hunter2"));
        }
        let config = url("http://kds.example", "insecure_http = true").unwrap();
        assert_eq!(config.loosenings(), [Loosening::InsecureCollateral]);
    }

    #[test]
    fn collateral_lies_beside_the_store_or_where_it_is_told() {
        let config = parse(MINIMAL, "/folder").unwrap();
        assert_eq!(config.collateral_folder(), Path::new("/folder/collateral"));
        let text = format!("{MINIMAL}[collateral]\nfolder = \"elsewhere\"");
        let config = parse(&text, "/folder").unwrap();
        assert_eq!(config.collateral_folder(), Path::new("/folder/elsewhere"));
    }

    #[test]
    fn unknown_role_is_refused() {
        let text = format!("{MINIMAL}[[admin]]\nname = \"a\"\nrole = \"root\"\npublic_key = \"x\"");
        assert!(refusal(&text).contains("root"));
    }

    #[test]
    fn identity_provider_that_anybody_could_speak_for_is_configured() {
        let parse = |issuer: &str, lines: &str| {
            let text = format!(
                "{MINIMAL}[[identity_provider]]\nissuer = \"{issuer}\"\naudience = \"strongroom\"\n{lines}\n"
            );
            Config::parse(&text, &Overrides::none(), Path::new("/folder"))
                .map_err(|problems| problems.join("\n"))
        };
        let roles = "roles = { a = \"auditor\" }\n";
        let good = format!("{roles}jwks_file = \"keys.json\"");
        let config = parse("https://issuer.example", &good).unwrap();
        let provider = &config.identity_provider[0];
        assert_eq!(
            provider.jwks_file.as_deref(),
            Some(Path::new("/folder/keys.json"))
        );
        assert_eq!(provider.roles["a"], Role::Auditor);
        assert_eq!(
            (provider.max_lifetime_seconds, provider.single_use),
            (3_600, false)
        );
        for (lines, reason) in [
            ("", "name one of"),
            ("discovery = true\njwks_file = \"k\"", "name one of"),
            ("jwks_url = \"http://issuer.example/keys\"", "no https://"),
            (
                "jwks_url = \"https://u:p@issuer.example/keys\"",
                "no https://",
            ),
            ("jwks_url = \"issuer.example\"", "no https://"),
            (
                "discovery = true\nmax_lifetime_seconds = 86401",
                "out of range",
            ),
            ("discovery = true\ntimeout_seconds = 30", "out of range"),
            ("discovery = true\nrefresh_seconds = 1", "out of range"),
            ("discovery = true\nrole_claim = \"\"", "role_claim is empty"),
            ("discovery = true\nalgorithm = \"HS256\"", "unknown key"),
        ] {
            let said = parse("https://issuer.example", &format!("{roles}{lines}")).unwrap_err();
            assert!(said.contains(reason), "{lines}: {said}");
        }
        let said = parse("http://issuer.example", &format!("{roles}discovery = true")).unwrap_err();
        assert!(said.contains("no https://"), "{said}");
        let said = parse("https://i", "discovery = true\nroles = {}").unwrap_err();
        assert!(said.contains("nobody may anything"), "{said}");
        let said = parse("https://i", "discovery = true\nroles = { a = \"root\" }").unwrap_err();
        assert!(said.contains("root"), "{said}");
        let twice = format!(
            "{good}\n[[identity_provider]]\nissuer = \"https://i\"\naudience = \"other\"\n{good}"
        );
        assert!(
            parse("https://i", &twice)
                .unwrap_err()
                .contains("there twice")
        );
    }

    #[test]
    fn loosening_is_not_in_the_table_of_what_each_gives_up() {
        let text = include_str!("../../../SECURITY.md");
        let (_, table) = text.split_once("## Settings that loosen").unwrap();
        let table = table.split("\n## ").next().unwrap();
        for loosening in Loosening::ALL {
            let (heading, key) = match loosening.name().rsplit_once('.') {
                Some((table, key)) => (format!("[{table}] "), key),
                None => (String::new(), loosening.name()),
            };
            let cell = format!("| `{heading}{key} = ");
            assert!(table.contains(&cell), "SECURITY.md lacks {cell}");
        }
    }
}
