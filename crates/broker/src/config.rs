//! The broker's configuration: one TOML file, unknown keys refused, paths relative to its folder.
//!
//! The strict choice is the default. What loosens it is a setting of its own, which [`Config::loosenings`] names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::Deserialize;
use strongroom_wire::tee::Tee;

use crate::policies::{DEFAULT_ID, is_appraisal_name};
use crate::session::PolicyTag;
use crate::sources::{SourcesConfig, VaultConfig};
use crate::{BrokerError, key_file};

/// A broker's configuration, read and checked.
#[derive(Clone, Debug, Deserialize)]
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
    /// Where the file lies, when it was read from one.
    #[serde(skip)]
    pub(crate) folder: Option<PathBuf>,
}

/// `[tls]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM certificates, the server's first.
    pub certificate: PathBuf,
    /// PEM private key, readable by its owner alone.
    pub private_key: PathBuf,
}

/// `[store]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The SQLite file.
    pub path: PathBuf,
    /// The storage key, readable by its owner alone. Without it the store's secrets are lost.
    pub key_file: PathBuf,
}

/// `[audit]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// The key that signs the record, readable by its owner alone. By default `audit.key` beside the store.
    pub signing_key: Option<PathBuf>,
    /// For how many days the claims of tokens are kept, without which a decision is not explained in full and not
    /// rehearsed under another policy.
    pub keep_claims_days: u64,
}

impl AuditConfig {
    /// Where the key is.
    pub(crate) fn signing_key(&self, store: &StoreConfig) -> PathBuf {
        let beside = || store.path.with_file_name("audit.key");
        self.signing_key.clone().unwrap_or_else(beside)
    }
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            signing_key: None,
            keep_claims_days: 90,
        }
    }
}

/// `[secrets]`
#[derive(Clone, Debug, Deserialize)]
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
#[derive(Clone, Debug, Deserialize)]
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
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// How long a nonce, and an attested session, is good for.
    pub lifetime_seconds: u64,
    /// How many sessions are kept; beyond, the oldest makes room.
    pub max: usize,
}

/// `[limits]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The largest request body.
    pub body_bytes: usize,
    /// How long a connection may take to send a request's head, or stay idle before one.
    pub header_seconds: u64,
    /// How long a request may take from its head to its answer.
    pub request_seconds: u64,
}

/// `[[admin]]`
#[derive(Clone, Debug, Deserialize)]
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

/// What an admin may do.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// Everything.
    #[default]
    Admin,
}

impl Role {
    /// The name in the configuration and in tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
        }
    }
}

/// `[collateral]`
#[derive(Clone, Debug, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
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
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnchorsConfig {
    /// PEM certificates of makers of TPMs, or of whoever certifies their attestation keys; one in each file.
    pub tpm_roots: Vec<PathBuf>,
    /// Attestation keys of TPMs that their owner enrolled: `SubjectPublicKeyInfo` as PEM or DER, one in each file.
    pub attestation_keys: Vec<PathBuf>,
}

/// `[attestation]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttestationConfig {
    /// What a guest may send as `attestation-policy-selector`, and the id of the appraisal policies that it is then graded by:
    /// `strict` stands for `strict_cpu` and `strict_gpu`. Who sends none is graded by `default`.
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
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttestationServiceConfig {
    /// Appraise evidence for whoever sends it, at `/attestation` as an upstream attestation service does. Nobody is asked
    /// who they are, and freshness is the caller's business. Nothing is released on such a token here.
    pub enabled: bool,
}

/// `[reference_values]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceValuesConfig {
    /// PEM public keys, P-256 or Ed25519, one in each file. When there is any, a message that none of them signed is
    /// refused, whoever registers it.
    pub signers: Vec<PathBuf>,
}

/// `[development]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DevelopmentConfig {
    /// Accept `sample` evidence, which proves nothing, and release to it what the policy allows.
    pub accept_sample_evidence: bool,
    /// Accept what rests on this development root: its PEM, or the folder with its `root.pem` and `collateral`.
    pub root: Option<PathBuf>,
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
    /// `[sources.vault] insecure_http = true`
    InsecureVault,
}

impl Loosening {
    /// The setting, as the record names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::InsecureHttp => "insecure_http",
            Self::AcceptSampleEvidence => "development.accept_sample_evidence",
            Self::AcceptDevelopmentRoot => "development.root",
            Self::InsecureCollateral => "collateral.insecure_http",
            Self::AttestationService => "attestation_service.enabled",
            Self::InsecureVault => "sources.vault.insecure_http",
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
            Self::AttestationService => {
                "attestation_service.enabled = true: whoever reaches this broker gets a token for evidence, whose \
                 freshness nobody checks but the caller. This broker releases nothing on such a token; see that no \
                 other relying party does without checking what the evidence binds."
            }
            Self::InsecureVault => {
                "sources.vault.insecure_http = true: the vault's token and every secret read from it can be read and \
                 changed on the wire."
            }
        }
    }
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`BrokerError::File`] when it cannot be read, [`BrokerError::Writable`] when others may write it,
    /// [`BrokerError::Config`] when it is not a configuration.
    pub fn load(path: &Path) -> Result<Self, BrokerError> {
        let text = key_file::read_guarded(path)?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let mut config = Self::parse(&text, folder).map_err(|message| BrokerError::Config {
            path: path.to_owned(),
            message,
        })?;
        config.folder = Some(folder.to_owned());
        Ok(config)
    }

    /// Reads and checks a configuration; its paths are relative to `folder`.
    fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        let mut config: Self =
            toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
        config.check()?;
        let mut paths = vec![
            &mut config.store.path,
            &mut config.store.key_file,
            &mut config.token.signing_key,
            &mut config.token.certificate_chain,
        ];
        if let Some(tls) = &mut config.tls {
            paths.extend([&mut tls.certificate, &mut tls.private_key]);
        }
        paths.extend(&mut config.audit.signing_key);
        paths.extend(&mut config.collateral.folder);
        paths.extend(&mut config.collateral.certificate);
        paths.extend(&mut config.anchors.tpm_roots);
        paths.extend(&mut config.anchors.attestation_keys);
        paths.extend(&mut config.reference_values.signers);
        paths.extend(&mut config.development.root);
        paths.extend(config.sources.paths());
        for path in paths {
            // An absolute path replaces the folder.
            *path = folder.join(&*path);
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        match (&self.tls, self.insecure_http) {
            (None, false) => {
                return Err(
                    "there is neither [tls] nor insecure_http = true: name a certificate"
                        .to_owned(),
                );
            }
            (Some(_), true) => {
                return Err("there is both [tls] and insecure_http = true: remove one".to_owned());
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
        for (key, value, least, most) in ranges {
            if !(least..=most).contains(&value) {
                return Err(format!(
                    "{key} = {value} is out of range: {least} to {most}"
                ));
            }
        }
        let (wait, request) = (self.collateral.timeout_seconds, self.limits.request_seconds);
        if wait >= request && !self.collateral.offline {
            return Err(format!(
                "collateral.timeout_seconds = {wait} is not below limits.request_seconds = {request}: the guest would \
                 be sent away before its attestation ends"
            ));
        }
        crate::collateral::check_urls(&self.collateral)?;
        self.sources.check(self.limits.request_seconds)?;
        for (selector, id) in &self.attestation.policy_ids {
            if !is_appraisal_name(id) {
                return Err(format!(
                    "attestation.policy_ids.{selector} = {id:?} is no id of appraisal policies: letters, digits, dots and \
                     hyphens, without the class (strict for strict_cpu)"
                ));
            }
        }
        let mut names = BTreeSet::new();
        for admin in &self.admin {
            if admin.name.is_empty() || !names.insert(&admin.name) {
                return Err(format!(
                    "admin names must be distinct and not empty: {:?}",
                    admin.name
                ));
            }
        }
        Ok(())
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
        if self.attestation_service.enabled {
            loosenings.push(Loosening::AttestationService);
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
        let beside = || self.store.path.with_file_name("collateral");
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

fn five_minutes() -> u64 {
    300
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

    fn refusal(text: &str) -> String {
        Config::parse(text, Path::new("/folder")).unwrap_err()
    }

    #[test]
    fn defaults_are_the_strict_ones() {
        let config = Config::parse(MINIMAL, Path::new("/folder")).unwrap();
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
        let config = Config::parse(MINIMAL, Path::new("/folder")).unwrap();
        assert_eq!(config.store.path, Path::new("/folder/s.sqlite"));
        assert_eq!(config.tls.unwrap().private_key, Path::new("/etc/tls.key"));
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
                refusal(&format!("{MINIMAL}{line}")).contains("unknown field"),
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
        let config =
            Config::parse(&format!("insecure_http = true\n{text}"), Path::new("")).unwrap();
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
    }

    #[test]
    fn attestation_that_outlasts_its_request_is_configured() {
        let said = refusal(&format!("{MINIMAL}[collateral]\ntimeout_seconds = 30"));
        assert!(said.contains("limits.request_seconds = 30"), "{said}");
        let longer = "[collateral]\ntimeout_seconds = 60\n[limits]\nrequest_seconds = 61";
        assert!(Config::parse(&format!("{MINIMAL}{longer}"), Path::new("")).is_ok());
    }

    #[test]
    fn attestation_service_is_there_without_its_setting() {
        let config = Config::parse(MINIMAL, Path::new("")).unwrap();
        assert!(!config.attestation_service.enabled);
        let text = format!("{MINIMAL}[attestation_service]\nenabled = true");
        let config = Config::parse(&text, Path::new("")).unwrap();
        assert_eq!(config.loosenings(), [Loosening::AttestationService]);
    }

    #[test]
    fn selector_stands_for_another_policy_than_it_is_mapped_to() {
        let mapped = "[attestation]\npolicy_ids = { a = \"strict\", b = \"default\" }";
        let config = Config::parse(&format!("{MINIMAL}{mapped}"), Path::new("")).unwrap();
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
        let config = Config::parse(&text, Path::new("/folder")).unwrap();
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
        let config = Config::parse(&text, Path::new("")).unwrap();
        assert_eq!(config.development.lets_through(Tee::Tdx), None);
        assert_eq!(
            config.development.lets_through(Tee::Sample),
            Some(Loosening::AcceptSampleEvidence)
        );
    }

    #[test]
    fn collateral_over_plain_http_is_taken_silently() {
        let url = |url: &str, more: &str| {
            Config::parse(
                &format!("{MINIMAL}[collateral]\nkds_url = \"{url}\"\n{more}"),
                Path::new(""),
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
        let config = Config::parse(MINIMAL, Path::new("/folder")).unwrap();
        assert_eq!(config.collateral_folder(), Path::new("/folder/collateral"));
        let text = format!("{MINIMAL}[collateral]\nfolder = \"elsewhere\"");
        let config = Config::parse(&text, Path::new("/folder")).unwrap();
        assert_eq!(config.collateral_folder(), Path::new("/folder/elsewhere"));
    }

    #[test]
    fn unknown_role_is_refused() {
        let text = format!("{MINIMAL}[[admin]]\nname = \"a\"\nrole = \"root\"\npublic_key = \"x\"");
        assert!(refusal(&text).contains("root"));
    }
}
