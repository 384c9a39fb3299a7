//! What a pull is told: policy, credentials, registries, limits, from a data hub's configuration or otherwise.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom_wire::image::FormatError;
use strongroom_wire::image::manifest::Platform;
use strongroom_wire::openpgp::Sha1;
use strongroom_wire::resource::ResourceUri;
use zeroize::Zeroizing;

use super::error::ImageError;
use super::registry::Proxies;
use super::unpack::{Devices, Limits};
use crate::config::ImageConfig;
use crate::data::resource::Source;
use crate::placement::Placement;

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
    /// Where the plaintext of encrypted layers may lie, besides encrypted disks.
    pub placement: Placement,
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
            placement: Placement::MemoryOnly,
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

impl PullOptions {
    /// What the `[image]` section of a data hub's configuration states.
    ///
    /// # Errors
    /// [`ImageError::Document`] when a URI is none; [`ImageError::Io`] when a file that one names cannot be read.
    pub fn from_config(image: &ImageConfig) -> Result<Self, ImageError> {
        let document =
            |what: &'static str, uri: Option<&String>, text: Option<String>| match (uri, text) {
                (None, None) => Ok(None),
                // As guest-components has it, the URI counts where both are there.
                (Some(uri), _) => Document::named(uri).map(Some).map_err(|error| match error {
                    ImageError::Unusable(reason) => invalid(what, reason),
                    other => other,
                }),
                (None, Some(text)) => Ok(Some(Document::Text(Zeroizing::new(text.into_bytes())))),
            };
        let registries =
            image
                .registry_config
                .as_ref()
                .map(|registries| match registries.as_str() {
                    Some(text) => text.to_owned(),
                    None => registries.to_string(),
                });
        let proxies = &image.image_pull_proxy;
        let concurrency = image.max_concurrent_layer_downloads_per_image.0;
        Ok(Self {
            policy: document(
                "image_security_policy",
                image.image_security_policy_uri.as_ref(),
                image.image_security_policy.clone(),
            )?,
            sigstore_config: document(
                "sigstore_config",
                image.sigstore_config_uri.as_ref(),
                image.sigstore_config.clone(),
            )?,
            credentials: document(
                "authenticated_registry_credentials_uri",
                image.authenticated_registry_credentials_uri.as_ref(),
                None,
            )?,
            registries: document(
                "registry_config",
                image.registry_configuration_uri.as_ref(),
                registries,
            )?,
            extra_roots: image.extra_root_certificates.clone(),
            proxies: Proxies {
                https: proxies.https_proxy.clone().unwrap_or_default(),
                http: proxies.http_proxy.clone().unwrap_or_default(),
                none_for: proxies.no_proxy.clone().unwrap_or_default(),
            },
            cache: image.work_dir.clone(),
            concurrency: usize::try_from(concurrency).unwrap_or(usize::MAX),
            devices: match image.allow_devices {
                true => Devices::Allow,
                false => Devices::Refuse,
            },
            placement: match image.insecure_any_filesystem {
                true => Placement::InsecureAnyFilesystem,
                false => Placement::MemoryOnly,
            },
            limits: Limits {
                bytes: image
                    .max_image_size
                    .unwrap_or_else(|| Limits::default().bytes),
                ..Limits::default()
            },
            sha1: match image.insecure_sha1_signatures {
                true => Sha1::InsecureAccept,
                false => Sha1::Refuse,
            },
            ..Self::default()
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
    use strongroom_testkit::fixtures::fixture;
    use strongroom_wire::image::registries::Registries;

    use super::*;
    use crate::config::{CdhConfig, Document as _};

    #[test]
    fn upstream_configuration_states_the_options() {
        for name in ["example.config.toml", "example.config.json"] {
            let Some(path) = fixture(&format!(
                "guest/guest-components/confidential-data-hub/{name}"
            )) else {
                return;
            };
            let mut image = CdhConfig::load(&path).unwrap().config.image;
            let options = PullOptions::from_config(&image).unwrap();
            assert!(
                matches!(options.policy, Some(Document::Resource(_))),
                "the URI counts before the text"
            );
            assert_eq!(options.concurrency, 3);
            assert_eq!(options.proxies.https, "http://127.0.0.1:5432");
            image.registry_configuration_uri = None;
            let Some(Document::Text(text)) = PullOptions::from_config(&image).unwrap().registries
            else {
                panic!("the table is lost");
            };
            let registries = Registries::parse(std::str::from_utf8(&text).unwrap()).unwrap();
            assert!(
                registries
                    .places(&"example.com/banned/x".parse().unwrap())
                    .is_err()
            );
        }
    }

    #[test]
    fn nothing_stated_lets_nothing_run_and_a_bad_uri_is_told() {
        let mut image = ImageConfig::default();
        assert!(PullOptions::from_config(&image).unwrap().policy.is_none());
        image.image_security_policy_uri = Some("kbs:///a b".to_owned());
        assert!(matches!(
            PullOptions::from_config(&image),
            Err(ImageError::Document { .. })
        ));
    }
}
