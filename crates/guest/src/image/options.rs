//! What a pull is told: policy, credentials, registries, limits; and the `[image]` section of a data hub's `cdh.toml`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use strongroom_wire::image::FormatError;
use strongroom_wire::image::manifest::Platform;
use strongroom_wire::openpgp::Sha1;
use strongroom_wire::resource::ResourceUri;
use zeroize::Zeroizing;

use super::error::ImageError;
use super::registry::Proxies;
use super::unpack::{Devices, Limits};
use crate::data::resource::Source;

/// What a pull is told. The default lets nothing run: it names no policy.
#[derive(Clone)]
pub struct PullOptions {
    /// Which images may run (`policy.json`).
    pub policy: Option<Document>,
    /// Where GPG signatures lie.
    pub sigstore_config: Option<Document>,
    /// Logins of registries, Docker's `auth.json`.
    pub credentials: Option<Document>,
    /// Mirrors, blocked and insecure registries, `registries.conf`.
    pub registries: Option<Document>,
    /// Certificate authorities besides the machine's own, PEM.
    pub extra_roots: Vec<String>,
    /// Proxies on the way.
    pub proxies: Proxies,
    /// For which machine; this one by default.
    pub platform: Platform,
    /// Where layers are kept for the next pull. Without it they go when the image is unpacked.
    pub cache: Option<PathBuf>,
    /// How many layers are fetched at once.
    pub concurrency: usize,
    /// How much an image may be.
    pub limits: Limits,
    /// Whether it may bring device nodes.
    pub devices: Devices,
    /// Whether GPG signatures over SHA-1 count.
    pub sha1: Sha1,
    /// Told what happens.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullOptions")
            .field("policy", &self.policy)
            .field("sigstore_config", &self.sigstore_config)
            .field("credentials", &self.credentials)
            .field("registries", &self.registries)
            .field("platform", &self.platform)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            policy: None,
            sigstore_config: None,
            credentials: None,
            registries: None,
            extra_roots: Vec::new(),
            proxies: Proxies::default(),
            platform: this_machine(),
            cache: None,
            concurrency: 3,
            limits: Limits::default(),
            devices: Devices::Refuse,
            sha1: Sha1::Refuse,
            progress: Arc::new(|_| {}),
        }
    }
}

/// What happens during a pull.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// The image may run; so many layers of so many bytes are fetched.
    Verified {
        /// How many.
        layers: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// So many more bytes have come.
    Fetched(u64),
    /// A layer has been unpacked.
    Unpacked,
}

/// A document that decides about images: its text, or where the broker has it.
#[derive(Clone, Eq, PartialEq)]
pub enum Document {
    /// In the broker.
    Resource(ResourceUri),
    /// Here. It may hold passwords.
    Text(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(uri) => write!(f, "Resource({uri})"),
            Self::Text(_) => f.write_str("Text(..)"),
        }
    }
}

impl Document {
    /// Names a document: a `kbs:///` URI, or a file, read at once.
    ///
    /// # Errors
    /// [`ImageError`] when the URI is none or the file cannot be read.
    pub fn named(name: &str) -> Result<Self, ImageError> {
        if is_resource(name) {
            return name
                .parse()
                .map(Self::Resource)
                .map_err(|error| ImageError::Unusable(format!("{name}: {error}")));
        }
        let path = Path::new(name.strip_prefix("file://").unwrap_or(name));
        let bytes = read_capped(path)?;
        Ok(Self::Text(bytes))
    }

    /// Its bytes, from wherever they are.
    pub(crate) async fn read(
        &self,
        what: &'static str,
        source: Option<&Source>,
    ) -> Result<Zeroizing<Vec<u8>>, ImageError> {
        match self {
            Self::Text(bytes) => Ok(bytes.clone()),
            Self::Resource(uri) => fetch(what, uri, source).await,
        }
    }

    /// Where it is, for an error.
    pub(crate) fn place(&self) -> Option<String> {
        match self {
            Self::Resource(uri) => Some(uri.to_string()),
            Self::Text(_) => None,
        }
    }
}

/// Fetches a resource of the broker.
pub(crate) async fn fetch(
    what: &str,
    uri: &ResourceUri,
    source: Option<&Source>,
) -> Result<Zeroizing<Vec<u8>>, ImageError> {
    let source = source.ok_or_else(|| ImageError::NoBroker {
        what: what.to_owned(),
        uri: uri.to_string(),
    })?;
    source
        .resource(uri)
        .await
        .map_err(|source| ImageError::Broker {
            what: what.to_owned(),
            uri: uri.to_string(),
            source: Box::new(source),
        })
}

/// Whether a name is one of the broker's resources.
pub(crate) fn is_resource(name: &str) -> bool {
    name.starts_with("kbs:") || name.starts_with("kbs+")
}

pub(crate) fn read_capped(path: &Path) -> Result<Zeroizing<Vec<u8>>, ImageError> {
    use std::io::Read as _;
    let failed = |error| ImageError::io("cannot read", path)(error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match bytes.len() as u64 > MAX_DOCUMENT {
        true => Err(ImageError::Unusable(format!(
            "{} has more than {MAX_DOCUMENT} bytes",
            path.display()
        ))),
        false => Ok(bytes),
    }
}

/// The `[image]` section of `cdh.toml`, as guest-components has it. Keys that are not known are refused.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ImageSection {
    /// Where layers are kept.
    pub work_dir: Option<PathBuf>,
    /// How many layers are fetched at once.
    pub max_concurrent_layer_downloads_per_image: Option<usize>,
    /// Where the broker has the policy.
    pub image_security_policy_uri: Option<String>,
    /// The policy itself.
    pub image_security_policy: Option<String>,
    /// Where the broker has the places of signatures.
    pub sigstore_config_uri: Option<String>,
    /// The places of signatures themselves.
    pub sigstore_config: Option<String>,
    /// Where the broker has the logins.
    pub authenticated_registry_credentials_uri: Option<String>,
    /// Where the broker has the configuration of registries.
    pub registry_configuration_uri: Option<String>,
    /// The configuration of registries itself: a table, or its text.
    pub registry_config: Option<toml::Value>,
    /// Certificate authorities besides the machine's own.
    #[serde(default)]
    pub extra_root_certificates: Vec<String>,
    /// Proxies on the way.
    #[serde(default)]
    pub image_pull_proxy: Proxies,
    /// Accepts GPG signatures over SHA-1.
    #[serde(default)]
    pub insecure_sha1_signatures: bool,
    /// Lets images bring device nodes.
    #[serde(default)]
    pub allow_devices: bool,
}

impl ImageSection {
    /// The options that it states.
    ///
    /// # Errors
    /// [`ImageError::Document`] when a URI is none; [`ImageError::Io`] when a file that one names cannot be read.
    pub fn options(&self) -> Result<PullOptions, ImageError> {
        let document =
            |what: &'static str, uri: &Option<String>, text: Option<&str>| match (uri, text) {
                (None, None) => Ok(None),
                // As guest-components has it, the URI counts where both are there.
                (Some(uri), _) => Document::named(uri).map(Some).map_err(|error| match error {
                    ImageError::Unusable(reason) => invalid(what, reason),
                    other => other,
                }),
                (None, Some(text)) => Ok(Some(Document::Text(Zeroizing::new(
                    text.as_bytes().to_vec(),
                )))),
            };
        let registry_config = match &self.registry_config {
            Some(toml::Value::String(text)) => Some(text.clone()),
            Some(toml::Value::Table(table)) => Some(table.to_string()),
            Some(_) => {
                return Err(invalid(
                    "registry_config",
                    "it is neither a table nor text".to_owned(),
                ));
            }
            None => None,
        };
        let defaults = PullOptions::default();
        Ok(PullOptions {
            policy: document(
                "image_security_policy",
                &self.image_security_policy_uri,
                self.image_security_policy.as_deref(),
            )?,
            sigstore_config: document(
                "sigstore_config",
                &self.sigstore_config_uri,
                self.sigstore_config.as_deref(),
            )?,
            credentials: document(
                "authenticated_registry_credentials_uri",
                &self.authenticated_registry_credentials_uri,
                None,
            )?,
            registries: document(
                "registry_config",
                &self.registry_configuration_uri,
                registry_config.as_deref(),
            )?,
            extra_roots: self.extra_root_certificates.clone(),
            proxies: self.image_pull_proxy.clone(),
            cache: self.work_dir.clone(),
            concurrency: self
                .max_concurrent_layer_downloads_per_image
                .filter(|count| *count > 0)
                .unwrap_or(defaults.concurrency),
            devices: match self.allow_devices {
                true => Devices::Allow,
                false => Devices::Refuse,
            },
            sha1: match self.insecure_sha1_signatures {
                true => Sha1::InsecureAccept,
                false => Sha1::Refuse,
            },
            ..defaults
        })
    }
}

fn invalid(what: &'static str, reason: String) -> ImageError {
    ImageError::Document {
        what,
        at: None,
        source: FormatError::Invalid {
            what: "image section",
            reason,
        },
    }
}

/// In Go's words, as images state it.
fn this_machine() -> Platform {
    Platform {
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned(),
        os: "linux".to_owned(),
        ..Platform::default()
    }
}

const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn upstream_configuration_states_the_options() {
        let path = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/fixtures/guest/guest-components/confidential-data-hub/example.config.toml"
        ));
        let Ok(text) = std::fs::read_to_string(path) else {
            println!("SKIPPED: no example.config.toml beside this checkout");
            return;
        };
        let table: toml::Table = text.parse().unwrap();
        let section: ImageSection = table["image"].clone().try_into().unwrap();
        let options = section.options().unwrap();
        assert!(options.policy.is_some(), "{section:?}");
        let inline = ImageSection {
            registry_configuration_uri: None,
            ..section
        };
        let Some(Document::Text(text)) = inline.options().unwrap().registries else {
            panic!("the table is lost");
        };
        let text = std::str::from_utf8(&text).unwrap();
        strongroom_wire::image::registries::Registries::parse(text).unwrap();
    }

    #[test]
    fn misspelt_key_is_refused_and_a_uri_counts_before_text() {
        assert!(toml::from_str::<ImageSection>("image_security_policy_url = \"x\"").is_err());
        let both = "image_security_policy = \"{}\"\nimage_security_policy_uri = \"kbs:///a/b/c\"";
        let both: ImageSection = toml::from_str(both).unwrap();
        assert!(matches!(
            both.options().unwrap().policy,
            Some(Document::Resource(_))
        ));
        let neither: ImageSection = toml::from_str("").unwrap();
        assert!(neither.options().unwrap().policy.is_none());
        let bad: ImageSection =
            toml::from_str("image_security_policy_uri = \"kbs:///a b\"").unwrap();
        assert!(matches!(bad.options(), Err(ImageError::Document { .. })));
    }
}
