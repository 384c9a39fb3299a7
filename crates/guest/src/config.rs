//! The guest's configuration file: TOML, unknown keys refused, paths relative to the file's folder.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use strongroom_attester::{Attester, Devices};
use strongroom_wire::initdata::Initdata;

use crate::attestation::AgentConfig;
use crate::error::GuestError;
use crate::serve::{Exposure, Features, ServeOptions};

/// Where guests listen unless told otherwise.
pub const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8006);

/// What a guest is told.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the broker is.
    pub broker: String,
    /// The broker's certificate, a PEM file; without one the machine's own authorities are trusted.
    pub broker_certificate: Option<PathBuf>,
    /// Allows a broker at a plain `http://` address beyond this machine.
    #[serde(default)]
    pub insecure_http: bool,
    /// The platform by name; without one it is looked for, and neither `sample` nor `development` is ever found.
    pub platform: Option<String>,
    /// The folder of the root that platform `development` signs under; it is made there on first use.
    pub development_root: Option<PathBuf>,
    /// The init-data that was measured at launch, a TOML file.
    pub initdata: Option<PathBuf>,
    /// Where the REST API listens.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Which parts of the REST API exist.
    #[serde(default)]
    pub features: Features,
    /// Who may ask.
    #[serde(default)]
    pub exposure: Exposure,
}

impl Config {
    /// The defaults around a broker.
    pub fn new(broker: impl Into<String>) -> Self {
        Self {
            broker: broker.into(),
            broker_certificate: None,
            insecure_http: false,
            platform: None,
            development_root: None,
            initdata: None,
            listen: DEFAULT_LISTEN,
            features: Features::default(),
            exposure: Exposure::default(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`GuestError::Config`], naming the line of an unknown key or a wrong value.
    pub fn load(path: &Path) -> Result<Self, GuestError> {
        let wrong = |reason: String| GuestError::Config {
            path: path.to_owned(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        for file in [
            &mut config.broker_certificate,
            &mut config.development_root,
            &mut config.initdata,
        ]
        .into_iter()
        .flatten()
        {
            *file = folder.join(&*file);
        }
        Ok(config)
    }

    /// Reads the files that the configuration names and finds the platform.
    ///
    /// # Errors
    /// [`GuestError::Config`] naming the file; [`GuestError::NoTee`] or [`GuestError::Attester`] for the platform.
    pub fn agent(&self) -> Result<AgentConfig, GuestError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| GuestError::Config {
                path: path.to_owned(),
                reason: error.to_string(),
            })
        };
        let attester = match &self.platform {
            Some(name) => Attester::named_with_root(name, self.development_root.as_deref())?,
            None => Attester::detect(&Devices::default())?.attester,
        };
        let mut agent = AgentConfig::new(&self.broker, attester);
        agent.insecure_http = self.insecure_http;
        agent.root_certificate_pem = self.broker_certificate.as_deref().map(read).transpose()?;
        if let Some(path) = &self.initdata {
            let initdata = Initdata::parse(&read(path)?).map_err(|error| GuestError::Config {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            agent.attester = agent.attester.with_initdata(&initdata);
            agent.initdata = Some(initdata);
        }
        Ok(agent)
    }

    /// How the REST API is served.
    pub fn serve_options(&self) -> ServeOptions {
        ServeOptions {
            features: self.features,
            exposure: self.exposure,
            ..ServeOptions::default()
        }
    }
}

fn default_listen() -> SocketAddr {
    DEFAULT_LISTEN
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn load(text: &str) -> (tempfile::TempDir, Result<Config, GuestError>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest.toml");
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path);
        (folder, config)
    }

    #[test]
    fn broker_alone_is_enough() {
        let (_folder, config) = load("broker = \"https://b:8080\"");
        assert_eq!(config.unwrap(), Config::new("https://b:8080"));
    }

    #[test]
    fn misspelt_key_is_named_with_its_line() {
        let (_folder, config) = load("broker = \"https://b\"\nbroker_cert = \"x\"\n");
        let text = config.unwrap_err().to_string();
        assert!(
            text.contains("broker_cert") && text.contains("line 2"),
            "{text}"
        );
    }

    #[test]
    fn paths_are_relative_to_the_file_and_not_to_the_process() {
        let (folder, config) =
            load("broker = \"https://b\"\nbroker_certificate = \"b.pem\"\nplatform = \"sample\"");
        let config = config.unwrap();
        assert_eq!(
            config.broker_certificate.as_deref(),
            Some(folder.path().join("b.pem").as_path())
        );
        assert!(config.agent().err().unwrap().to_string().contains("b.pem"));
    }

    #[test]
    fn sample_is_never_taken_without_its_name() {
        assert!(!matches!(
            Config::new("https://b").agent(),
            Ok(AgentConfig {
                attester: Attester::Sample { .. },
                ..
            })
        ));
    }

    #[test]
    fn development_is_never_taken_without_its_root() {
        let config = Config {
            platform: Some("development".into()),
            ..Config::new("https://b")
        };
        let error = config.agent().err().unwrap().to_string();
        assert!(error.contains("development_root"), "{error}");
        let (folder, config) = load(
            "broker = \"https://b\"\nplatform = \"development:tdx\"\ndevelopment_root = \"root\"",
        );
        let agent = config.unwrap().agent().unwrap();
        assert_eq!(agent.attester.tee().as_str(), "tdx");
        assert!(folder.path().join("root/root.pem").is_file());
    }

    #[test]
    fn exposure_beyond_loopback_must_be_spelt_out() {
        let (_folder, config) = load("broker = \"https://b\"\nexposure = \"network\"");
        assert!(config.is_err());
        let (_folder, config) = load("broker = \"https://b\"\nexposure = \"insecure-network\"");
        assert_eq!(config.unwrap().exposure, Exposure::InsecureNetwork);
    }

    #[test]
    fn initdata_is_sent_and_measured_alike() {
        let folder = tempfile::tempdir().unwrap();
        let text = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n";
        std::fs::write(folder.path().join("i.toml"), text).unwrap();
        let config = Config {
            platform: Some("sample".into()),
            initdata: Some(folder.path().join("i.toml")),
            ..Config::new("https://b")
        };
        let agent = config.agent().unwrap();
        let digest = agent.initdata.unwrap().digest();
        assert_eq!(
            agent.attester,
            Attester::Sample {
                initdata_digest: Some(digest)
            }
        );
    }
}
