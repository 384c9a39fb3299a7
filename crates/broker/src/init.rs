//! Makes a broker's folder: keys, certificates, configuration, and the first admin's key. Works once.
//!
//! The folder is built beside its place and renamed into it, so it is there complete or not at all.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::audit::LogKey;
use crate::key_file::write_new;
use crate::storage_key::{self, SealedFor, Sealing};
use crate::store::{PostgresStore, SqliteStore, StorageKey};
use crate::{BrokerError, EventId};

/// What `init` may be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InitOptions {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Names and addresses for the certificate, beside `localhost`, `127.0.0.1` and `::1`.
    pub dns_names: Vec<String>,
    /// The first admin's name.
    pub admin_name: String,
    /// Write `[development] accept_sample_evidence = true`.
    pub accept_sample_evidence: bool,
    /// Keep everything in this PostgreSQL database, and make its tables, instead of in a file.
    pub postgres_url: Option<String>,
    /// The file with the password for it.
    pub postgres_password_file: Option<PathBuf>,
    /// PEM of the authorities that vouch for it.
    pub postgres_certificate: Option<PathBuf>,
    /// Have the storage key sealed by a TPM, instead of lying in a file.
    pub sealing: Option<Sealing>,
    /// Where to write a copy of the sealed storage key that needs no TPM. Not into the broker's folder.
    pub recovery_key: Option<PathBuf>,
}

impl InitOptions {
    /// The strict choices.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            dns_names: Vec::new(),
            admin_name: "admin".to_owned(),
            accept_sample_evidence: false,
            postgres_url: None,
            postgres_password_file: None,
            postgres_certificate: None,
            sealing: None,
            recovery_key: None,
        }
    }
}

/// Where `init` put things.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InitSummary {
    /// The configuration to start the broker with.
    pub config: PathBuf,
    /// The certificate that clients must be given.
    pub certificate: PathBuf,
    /// The first admin's private key, PKCS#8 PEM. It belongs to the admin and not beside the broker.
    pub admin_key: PathBuf,
    /// The first admin's name.
    pub admin_name: String,
    /// The certificate whose key signs tokens, for those who verify them elsewhere.
    pub token_certificate: PathBuf,
    /// The store's file, empty; nothing is there when the store is a database.
    pub store: PathBuf,
    /// What the storage key was sealed for.
    pub sealed_for: Option<SealedFor>,
}

/// Makes a broker in `dir`, which must be empty or absent.
///
/// # Errors
/// [`BrokerError::AlreadyInitialised`] when something is there, [`BrokerError::File`] when it cannot be written.
pub fn init(dir: &Path, options: InitOptions) -> Result<InitSummary, BrokerError> {
    refuse_if_used(dir)?;
    check(&options, dir)?;
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(|source| BrokerError::file(parent, source))?;
    let building = Building::beside(dir, parent)?;
    let sealed = write_files(&building.0, &options)?;
    building.rename_to(dir)?;
    let sealed_for = sealed.map(|(sealed_for, recovery_copy)| {
        recovery_copy.keep();
        sealed_for
    });
    Ok(InitSummary {
        config: dir.join(CONFIG),
        certificate: dir.join(TLS_CERTIFICATE),
        admin_key: dir.join(ADMIN_KEY),
        admin_name: options.admin_name,
        token_certificate: dir.join(TOKEN_CERTIFICATE),
        store: dir.join(STORE),
        sealed_for,
    })
}

fn refuse_if_used(dir: &Path) -> Result<(), BrokerError> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(BrokerError::AlreadyInitialised {
                dir: dir.to_owned(),
            }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(BrokerError::file(dir, source)),
    }
}

fn check(options: &InitOptions, dir: &Path) -> Result<(), BrokerError> {
    if let Some(copy) = &options.recovery_key {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let refused = |message: &str| {
            Err(BrokerError::Option {
                option: "recovery key",
                message: message.to_owned(),
            })
        };
        if options.sealing.is_none() {
            return refused(
                "is of no use without a TPM: the storage key is then a file, copy that",
            );
        }
        if absolute(copy).starts_with(absolute(dir)) {
            return refused(
                "would lie in the broker's folder, where it undoes what the TPM is for: name another place",
            );
        }
    }
    let name = &options.admin_name;
    let plain = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(BrokerError::Option {
            option: "admin name",
            message: format!("{name:?}: use 1 to 64 letters, digits and . _ @ -"),
        });
    }
    Ok(())
}

fn write_files(
    dir: &Path,
    options: &InitOptions,
) -> Result<Option<(SealedFor, RecoveryCopy)>, BrokerError> {
    let tls = self_signed(
        "strongroom broker",
        names(options),
        ExtendedKeyUsagePurpose::ServerAuth,
    )?;
    write_new(
        &dir.join(TLS_KEY),
        0o600,
        tls.key.serialize_pem().as_bytes(),
    )?;
    write_new(
        &dir.join(TLS_CERTIFICATE),
        0o644,
        tls.certificate.as_bytes(),
    )?;
    let token = self_signed(
        "strongroom tokens",
        Vec::new(),
        ExtendedKeyUsagePurpose::Any,
    )?;
    write_new(
        &dir.join(TOKEN_KEY),
        0o600,
        token.key.serialize_pem().as_bytes(),
    )?;
    write_new(
        &dir.join(TOKEN_CERTIFICATE),
        0o644,
        token.certificate.as_bytes(),
    )?;
    let sealed = write_storage_key(dir, options)?;
    let admin = admin_key()?;
    write_new(
        &dir.join(ADMIN_KEY),
        0o600,
        admin.serialize_pem().as_bytes(),
    )?;
    let audit_key = write_audit_key(&dir.join(AUDIT_KEY))?;
    let config = config_text(options, &admin.public_key_pem());
    write_new(&dir.join(CONFIG), 0o600, config.as_bytes())?;
    if postgres(options).is_none() {
        SqliteStore::create(&dir.join(STORE), &audit_key)?;
    }
    // Last: what is made there cannot be removed with the folder.
    if postgres(options).is_some() {
        PostgresStore::create(&crate::Config::load(&dir.join(CONFIG))?.store, &audit_key)?;
    }
    Ok(sealed)
}

/// Makes the storage key, and the copy of one that a TPM sealed.
fn write_storage_key(
    dir: &Path,
    options: &InitOptions,
) -> Result<Option<(SealedFor, RecoveryCopy)>, BrokerError> {
    let path = dir.join(storage_key_name(options));
    let Some(sealing) = &options.sealing else {
        let key = StorageKey::generate().map_err(crate::StoreError::from)?;
        write_new(&path, 0o600, key.to_text().as_bytes())?;
        return Ok(None);
    };
    let (sealed, key, sealed_for) =
        storage_key::generate(sealing).map_err(|error| BrokerError::StorageKey {
            path: sealing.tpm.to_string().into(),
            source: Box::new(error),
        })?;
    write_new(&path, 0o600, sealed.as_bytes())?;
    let copy = RecoveryCopy::write(options.recovery_key.as_deref(), &key)?;
    Ok(Some((sealed_for, copy)))
}

fn storage_key_name(options: &InitOptions) -> &'static str {
    match options.sealing {
        None => STORAGE_KEY,
        Some(_) => SEALED_STORAGE_KEY,
    }
}

/// The settings of a database, where there is to be one.
fn postgres(options: &InitOptions) -> Option<String> {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let url = options.postgres_url.as_deref()?;
    let mut settings = format!("postgres_url = {}", quoted(url));
    for (key, file) in [
        ("postgres_password_file", &options.postgres_password_file),
        ("postgres_certificate", &options.postgres_certificate),
    ] {
        if let Some(file) = file {
            // The configuration's paths are relative to its folder, and this one to where the command runs.
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            settings.push_str(&format!("\n{key} = {}", quoted(&file.to_string_lossy())));
        }
    }
    Some(settings)
}

/// Makes the key that signs the record, and beside it the one by which anybody verifies the record.
pub(crate) fn write_audit_key(path: &Path) -> Result<LogKey, BrokerError> {
    let key = LogKey::generate()?;
    write_new(path, 0o600, key.to_text().as_bytes())?;
    let public = format!("{}\n", key.verifier());
    write_new(&path.with_extension("pub"), 0o644, public.as_bytes())?;
    Ok(key)
}

struct SelfSigned {
    key: KeyPair,
    certificate: String,
}

fn self_signed(
    common_name: &str,
    names: Vec<String>,
    purpose: ExtendedKeyUsagePurpose,
) -> Result<SelfSigned, BrokerError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if purpose != ExtendedKeyUsagePurpose::Any {
        params.extended_key_usages = vec![purpose];
    }
    let now = OffsetDateTime::from(SystemTime::now());
    params.not_before = now - Duration::days(1);
    params.not_after = now + LIFETIME;
    let certificate = params.self_signed(&key)?.pem();
    Ok(SelfSigned { key, certificate })
}

fn names(options: &InitOptions) -> Vec<String> {
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    names.extend(
        options
            .dns_names
            .iter()
            .filter(|name| !BUILT_IN.contains(&name.as_str()))
            .cloned(),
    );
    names
}

/// Makes a key pair for an admin: the private half, PKCS#8 in PEM, and the public half in PEM.
///
/// # Errors
/// [`BrokerError::Crypto`] when the cryptographic library fails.
pub fn admin_key_pair() -> Result<(Zeroizing<String>, String), BrokerError> {
    let pair = admin_key()?;
    Ok((Zeroizing::new(pair.serialize_pem()), pair.public_key_pem()))
}

/// Ed25519 as PKCS#8 version 1, which every OpenSSL reads; version 2 is refused by some.
fn admin_key() -> Result<KeyPair, BrokerError> {
    let document = aws_lc_rs::signature::Ed25519KeyPair::generate()
        .and_then(|pair| pair.to_pkcs8v1())
        .map_err(|_| BrokerError::Crypto)?;
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(
        &document.as_ref().into(),
        &rcgen::PKCS_ED25519,
    )?)
}

fn config_text(options: &InitOptions, admin_public_key: &str) -> String {
    let InitOptions {
        listen,
        admin_name,
        accept_sample_evidence,
        ..
    } = options;
    let development = match accept_sample_evidence {
        true => {
            "\n# `sample` evidence proves nothing: put no real secret into this broker.\n[development]\naccept_sample_evidence = true\n"
        }
        false => "",
    };
    let store = postgres(options).unwrap_or_else(|| format!("path = \"{STORE}\""));
    let (key_file, keep) = match &options.sealing {
        None => (
            format!("key_file = \"{STORAGE_KEY}\""),
            "keep a copy of it apart from copies of the store",
        ),
        Some(Sealing { tpm, .. }) => (
            format!(
                "key_file = \"{SEALED_STORAGE_KEY}\"\nkey_tpm = {}",
                toml::Value::from(tpm.to_string())
            ),
            "only this machine's TPM opens it, so keep its recovery key\n# far from here (strongroom broker recovery-key)",
        ),
    };
    format!(
        r#"# A strongroom broker. Unknown keys are refused; paths are relative to this file.
listen = "{listen}"

[tls]
certificate = "{TLS_CERTIFICATE}"
private_key = "{TLS_KEY}"

# Secrets are sealed under the storage key: {keep}.
[store]
{store}
{key_file}

# Every write signs the whole record. Who has audit.pub verifies it: give auditors a copy.
[audit]
signing_key = "{AUDIT_KEY}"

[token]
signing_key = "{TOKEN_KEY}"
certificate_chain = "{TOKEN_CERTIFICATE}"
lifetime_seconds = 300
issuer = "strongroom"

[session]
lifetime_seconds = 300
max = 10000

[limits]
body_bytes = 2097152

# Certificates and revocation lists of the platforms' makers. Fetched when evidence needs them, kept in the folder.
# Without a network: `offline = true`, and `strongroom broker collateral import` brings them in.
# An Intel PCCS instead of Intel's own service: intel_url = "https://pccs.example:8081", intel_kind = "pccs", and
# certificate = "pccs.pem" when no public authority vouches for it.
[collateral]
folder = "{COLLATERAL}"
offline = false
kds_url = "https://kdsintf.amd.com"
intel_url = "https://api.trustedservices.intel.com"
intel_kind = "pcs"
rim_url = "https://rim.attestation.nvidia.com"
refresh_hours = 24
# For this long after that, when a service does not answer, the old ones are used.
stale_grace_hours = 72
# How long one attestation waits for them.
timeout_seconds = 20
{development}
[[admin]]
name = "{admin_name}"
role = "admin"
public_key = """
{admin_public_key}"""
"#
    )
}

/// A copy of the storage key that is removed again unless the broker that it is for was made.
struct RecoveryCopy(Option<PathBuf>);

impl RecoveryCopy {
    fn write(path: Option<&Path>, key: &str) -> Result<Self, BrokerError> {
        if let Some(path) = path {
            write_new(path, 0o600, key.as_bytes())?;
        }
        Ok(Self(path.map(Path::to_owned)))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RecoveryCopy {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "the recovery key of an unfinished broker could not be removed");
        }
    }
}

/// A folder that is removed again unless it is renamed into place.
struct Building(PathBuf);

impl Building {
    fn beside(dir: &Path, parent: &Path) -> Result<Self, BrokerError> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let path = parent.join(format!(".{name}.init-{}", EventId::fresh()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|source| BrokerError::file(&path, source))?;
        Ok(Self(path))
    }

    /// Renaming onto an empty folder replaces it; onto anything else it fails.
    fn rename_to(self, dir: &Path) -> Result<(), BrokerError> {
        std::fs::rename(&self.0, dir).map_err(|source| match source.kind() {
            std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists => {
                BrokerError::AlreadyInitialised {
                    dir: dir.to_owned(),
                }
            }
            _ => BrokerError::file(dir, source),
        })
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // After the rename there is nothing under this name; before it, what is left must go.
        if self.0.exists()
            && let Err(error) = std::fs::remove_dir_all(&self.0)
        {
            tracing::warn!(path = %self.0.display(), %error, "an unfinished broker folder could not be removed");
        }
    }
}

const CONFIG: &str = "broker.toml";
const TLS_CERTIFICATE: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const TOKEN_CERTIFICATE: &str = "token.crt";
const TOKEN_KEY: &str = "token.key";
const STORAGE_KEY: &str = "storage.key";
const SEALED_STORAGE_KEY: &str = "storage.sealed";
pub(crate) const ADMIN_KEY: &str = "admin.key";
const STORE: &str = "strongroom.sqlite";
const AUDIT_KEY: &str = "audit.key";
const COLLATERAL: &str = "collateral";
const BUILT_IN: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Clients are given these certificates by hand, so they end when their owner replaces them, not before.
const LIFETIME: Duration = Duration::days(3650);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::Config;

    fn options() -> InitOptions {
        InitOptions::new("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn what_it_writes_is_a_configuration_without_loosenings() {
        let folder = tempfile::tempdir().unwrap();
        let summary = init(&folder.path().join("b"), options()).unwrap();
        let config = Config::load(&summary.config).unwrap();
        assert!(config.loosenings().is_empty());
        assert_eq!(config.admin.len(), 1);
        assert_eq!(config.store.path, summary.store);
    }

    #[test]
    fn private_files_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("b");
        init(&dir, options()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        for name in [TLS_KEY, TOKEN_KEY, STORAGE_KEY, ADMIN_KEY, CONFIG] {
            assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn second_init_is_refused_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("b");
        let summary = init(&dir, options()).unwrap();
        let before = std::fs::read(&summary.admin_key).unwrap();
        let error = init(&dir, options()).unwrap_err();
        assert!(matches!(error, BrokerError::AlreadyInitialised { .. }));
        assert!(
            error.to_string().contains("strongroom broker run"),
            "{error}"
        );
        assert_eq!(std::fs::read(&summary.admin_key).unwrap(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn folder_with_anything_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), "").unwrap();
        assert!(matches!(
            init(folder.path(), options()),
            Err(BrokerError::AlreadyInitialised { .. })
        ));
    }

    #[test]
    fn empty_folder_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("b");
        std::fs::create_dir(&dir).unwrap();
        assert!(init(&dir, options()).unwrap().config.exists());
    }

    #[test]
    fn refused_option_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["", "a\"b", "a\nb"] {
            let options = InitOptions {
                admin_name: name.into(),
                ..options()
            };
            assert!(init(&folder.path().join("b"), options).is_err());
        }
        let options = InitOptions {
            dns_names: vec!["naïve".into()],
            ..options()
        };
        assert!(init(&folder.path().join("b"), options).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn broker_warns_while_the_admin_key_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let summary = init(&folder.path().join("b"), options()).unwrap();
        let warnings = || {
            let config = Config::load(&summary.config).unwrap();
            crate::Broker::open(config).unwrap().warnings()
        };
        assert!(warnings()[0].contains("move it to the admin's machine"));
        std::fs::remove_file(&summary.admin_key).unwrap();
        assert_eq!(warnings(), [""; 0]);
    }

    #[test]
    fn names_given_twice_stand_once_in_the_certificate() {
        let options = InitOptions {
            dns_names: vec!["localhost".into(), "b.example".into()],
            ..options()
        };
        assert_eq!(
            names(&options),
            ["localhost", "127.0.0.1", "::1", "b.example"]
        );
    }
}
