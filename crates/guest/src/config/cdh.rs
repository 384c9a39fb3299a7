//! `cdh.toml`: where the data hub gets secrets and images from.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;
use strongroom_wire::resource::ResourceUri;

use super::{Document, Log, NamedBroker, trimmed};

/// The data hub's settings.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct CdhConfig {
    /// Where the data hub listens.
    pub socket: Option<String>,
    /// Opens sealed secrets without looking at their signature.
    pub skip_sealed_secret_verification: bool,
    /// The log.
    pub log: Log,
    /// The attestation agent.
    pub aa: AaSocket,
    /// The broker.
    pub kbc: Option<Kbc>,
    /// Further brokers, by the host that URIs name them with; not of upstream.
    pub brokers: Vec<NamedBroker>,
    /// What is fetched and put into files before the hub serves.
    pub credentials: Vec<Credential>,
    /// Images.
    pub image: ImageConfig,
}

/// The attestation agent.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct AaSocket {
    /// Where it listens.
    pub aa_socket: Option<String>,
}

/// Where secrets come from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Kbc {
    /// In which way.
    pub name: KbcName,
    /// Where the broker is.
    #[serde(default)]
    pub url: String,
    /// The certificate (PEM) that alone is trusted for it.
    #[serde(default)]
    pub kbs_cert: Option<String>,
}

/// The way to secrets.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum KbcName {
    /// A broker, after attestation.
    CcKbc,
    /// Files of the image.
    OfflineFsKbc,
}

/// A resource that is put into a file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Credential {
    /// The file.
    pub path: PathBuf,
    /// The resource.
    pub resource_uri: String,
}

/// How images are pulled.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct ImageConfig {
    /// Where layers are kept.
    pub work_dir: Option<PathBuf>,
    /// How many layers of an image are fetched at once.
    pub max_concurrent_layer_downloads_per_image: MaxDownloads,
    /// Where the policy for images is.
    pub image_security_policy_uri: Option<String>,
    /// The policy itself. Nothing, where a URI is given: it comes first.
    pub image_security_policy: Option<String>,
    /// Where the places of simple signatures are written.
    pub sigstore_config_uri: Option<String>,
    /// The places themselves. Nothing, where a URI is given.
    pub sigstore_config: Option<String>,
    /// Where the credentials for registries are.
    pub authenticated_registry_credentials_uri: Option<String>,
    /// Where registries are mirrored, blocked and renamed.
    pub registry_configuration_uri: Option<String>,
    /// The same, as a table or as the text of one.
    pub registry_config: Option<Value>,
    /// Further authorities (PEM) for registries and proxies.
    pub extra_root_certificates: Vec<String>,
    /// Proxies.
    pub image_pull_proxy: ImagePullProxy,
    /// Accepts GPG signatures of images over SHA-1; not of upstream.
    pub insecure_sha1_signatures: bool,
    /// Lets images bring device nodes; not of upstream.
    pub allow_devices: bool,
    /// Lets the plaintext of encrypted images lie on any disk; not of upstream.
    pub insecure_any_filesystem: bool,
    /// How many bytes an image's files may have, unpacked; not of upstream.
    pub max_image_size: Option<u64>,
}

/// A number of downloads, three unless it is said.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(transparent)]
pub struct MaxDownloads(pub u32);

impl Default for MaxDownloads {
    fn default() -> Self {
        Self(3)
    }
}

/// Proxies.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct ImagePullProxy {
    /// For `https:`.
    pub https_proxy: Option<String>,
    /// For `http:`.
    pub http_proxy: Option<String>,
    /// Hosts that are reached without.
    pub no_proxy: Option<String>,
}

impl Document for CdhConfig {
    const KEYS: &'static [&'static str] = &[
        "socket",
        "skip_sealed_secret_verification",
        "log.level",
        "aa.aa_socket",
        "kbc.name",
        "kbc.url",
        "kbc.kbs_cert",
        "brokers.*.host",
        "brokers.*.url",
        "brokers.*.cert",
        "brokers.*.standby_urls",
        "credentials.*.path",
        "credentials.*.resource_uri",
        "image.work_dir",
        "image.max_concurrent_layer_downloads_per_image",
        "image.image_security_policy_uri",
        "image.image_security_policy",
        "image.sigstore_config_uri",
        "image.sigstore_config",
        "image.authenticated_registry_credentials_uri",
        "image.registry_configuration_uri",
        "image.registry_config.unqualified-search-registries",
        "image.registry_config.short-name-mode",
        "image.registry_config.aliases.**",
        "image.registry_config.registry.*.prefix",
        "image.registry_config.registry.*.location",
        "image.registry_config.registry.*.blocked",
        "image.registry_config.registry.*.insecure",
        "image.registry_config.registry.*.mirror-by-digest-only",
        "image.registry_config.registry.*.mirror.*.location",
        "image.registry_config.registry.*.mirror.*.insecure",
        "image.registry_config.registry.*.mirror.*.pull-from-mirror",
        "image.extra_root_certificates",
        "image.image_pull_proxy.https_proxy",
        "image.image_pull_proxy.http_proxy",
        "image.image_pull_proxy.no_proxy",
        "image.insecure_sha1_signatures",
        "image.allow_devices",
        "image.insecure_any_filesystem",
        "image.max_image_size",
    ];

    fn checked(mut self) -> Result<Self, String> {
        for credential in &self.credentials {
            credential.check()?;
        }
        if let Some(kbc) = &mut self.kbc {
            kbc.kbs_cert = trimmed(kbc.kbs_cert.take());
        }
        NamedBroker::check(&mut self.brokers)?;
        let image = &mut self.image;
        for pem in &mut image.extra_root_certificates {
            *pem = pem.trim().to_owned();
        }
        if image.image_security_policy_uri.is_some() {
            image.image_security_policy = None;
        }
        if image.sigstore_config_uri.is_some() {
            image.sigstore_config = None;
        }
        match image.max_concurrent_layer_downloads_per_image {
            MaxDownloads(0) => Err(
                "image.max_concurrent_layer_downloads_per_image is 0: nothing could be pulled"
                    .to_owned(),
            ),
            _ => Ok(self),
        }
    }
}

impl Credential {
    pub(super) fn check(&self) -> Result<(), String> {
        let shown = self.path.display();
        // `Path` passes over a `.`, so the bytes are looked at.
        let written = self.path.as_os_str().as_encoded_bytes();
        let plain = written
            .split(|byte| *byte == b'/')
            .all(|part| part != b"." && part != b"..");
        let below = self.path.strip_prefix(CREDENTIALS);
        let below = below.is_ok_and(|rest| !rest.as_os_str().is_empty());
        if !plain || !below {
            return Err(format!(
                "credentials.path is {shown}: it must lie below {CREDENTIALS}, without . and .."
            ));
        }
        self.resource_uri
            .parse::<ResourceUri>()
            .map(drop)
            .map_err(|error| format!("credentials.resource_uri for {shown}: {error}"))
    }
}

/// Where credentials may be written.
const CREDENTIALS: &str = "/run/confidential-containers/cdh/kbs";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::Read;
    use super::*;

    fn upstream(name: &str) -> Option<Read<CdhConfig>> {
        let path = format!("guest/guest-components/confidential-data-hub/{name}");
        let path = strongroom_testkit::fixtures::fixture(&path)?;
        Some(CdhConfig::load(&path).unwrap())
    }

    /// In upstream's example two settings follow the table of a mirror, and TOML gives them to it: they are not in force.
    #[test]
    fn settings_of_upstreams_example_that_toml_gives_to_a_mirror_are_named() {
        let Some(toml) = upstream("example.config.toml") else {
            return;
        };
        let mirror = "image.registry_config.registry.*.mirror.*";
        let mut lost = toml.unknown;
        lost.sort();
        assert_eq!(
            lost,
            [
                format!("{mirror}.extra_root_certificates"),
                format!("{mirror}.work_dir")
            ]
        );
    }

    #[test]
    fn upstreams_toml_and_json_examples_are_else_the_same_configuration() {
        let (Some(toml), Some(json)) = (
            upstream("example.config.toml"),
            upstream("example.config.json"),
        ) else {
            return;
        };
        assert_eq!(json.unknown, Vec::<String>::new());
        let (mut toml, mut json) = (toml.config, json.config);
        assert_eq!(json.image.extra_root_certificates.len(), 1);
        assert_eq!(json.image.work_dir, Some("/run/image-rs".into()));
        assert!(toml.image.registry_config.is_some());
        for config in [&mut toml, &mut json] {
            config.image.extra_root_certificates = Vec::new();
            config.image.work_dir = None;
            config.image.registry_config = None;
        }
        assert!(toml == json);
        assert_eq!(toml.credentials.len(), 2);
        assert_eq!(toml.kbc.unwrap().name, KbcName::CcKbc);
    }

    #[test]
    fn upstreams_offline_configuration_is_read() {
        let Some(Read { config, .. }) = upstream("hub/tests/cdh.toml") else {
            return;
        };
        assert_eq!(config.kbc.unwrap().name, KbcName::OfflineFsKbc);
        assert_eq!(
            config.image.max_concurrent_layer_downloads_per_image,
            MaxDownloads(4)
        );
    }

    #[test]
    fn without_a_file_the_defaults_are_upstreams() {
        let config = CdhConfig::parse("").unwrap().config;
        assert_eq!(config, CdhConfig::default());
        assert_eq!(
            config.image.max_concurrent_layer_downloads_per_image,
            MaxDownloads(3)
        );
        assert!(!config.skip_sealed_secret_verification);
    }

    #[test]
    fn credential_outside_its_folder_is_refused() {
        for path in [
            "/etc/passwd",
            "/run/confidential-containers/cdh/kbs",
            "/run/confidential-containers/cdh/kbs/../x",
            "/run/confidential-containers/cdh/kbs/./x",
            "/run/confidential-containers/cdh/kbs/a/.",
            "/run/confidential-containers/cdh/kbsx",
            "run/confidential-containers/cdh/kbs/x",
        ] {
            let text = format!("[[credentials]]\npath = '{path}'\nresource_uri = 'kbs:///a/b/c'\n");
            let error = CdhConfig::parse(&text).unwrap_err();
            assert!(error.contains("must lie below"), "{path}: {error}");
        }
        let text = "[[credentials]]\npath = '/run/confidential-containers/cdh/kbs/a'\nresource_uri = 'x'\n";
        assert!(CdhConfig::parse(text).unwrap_err().contains("resource_uri"));
    }

    #[test]
    fn unknown_way_to_secrets_is_refused() {
        let error = CdhConfig::parse("[kbc]\nname = 'sample_kbc'\n").unwrap_err();
        assert!(error.contains("cc_kbc"), "{error}");
    }
}
