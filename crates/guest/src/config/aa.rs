//! `aa.toml`: to whom this machine attests, and whether events are logged.

use serde::Deserialize;
use strongroom_wire::jwe::KeyAlgorithm;

use super::{Document, Log, NamedBroker, trimmed};

/// The attestation agent's settings.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct AaConfig {
    /// Who issues tokens.
    pub token_configs: TokenConfigs,
    /// Further brokers, by the host that URIs name them with; not of upstream.
    pub brokers: Vec<NamedBroker>,
    /// The event log.
    pub eventlog_config: EventlogConfig,
    /// The log.
    pub log: Log,
}

/// Who issues tokens.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct TokenConfigs {
    /// The broker.
    pub kbs: Option<Kbs>,
    /// An attestation service beside it.
    pub coco_as: Option<CocoAs>,
}

/// The broker.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Kbs {
    /// Where it is.
    pub url: String,
    /// The certificate (PEM) that alone is trusted for it.
    #[serde(default)]
    pub cert: Option<String>,
    /// The key that secrets are encrypted to; see [`Self::key_algorithm`].
    #[serde(default)]
    pub tee_key_algorithm: Option<String>,
    /// Where the same broker is as well, in the order in which they are tried when nobody answers; not of upstream.
    #[serde(default)]
    pub standby_urls: Vec<String>,
}

impl Kbs {
    /// A broker with one URL.
    pub fn new(url: String, cert: Option<String>) -> Self {
        Self {
            url,
            cert,
            tee_key_algorithm: None,
            standby_urls: Vec::new(),
        }
    }

    /// The key that secrets are encrypted to.
    ///
    /// # Errors
    /// A sentence that names those that there are.
    pub fn key_algorithm(&self) -> Result<KeyAlgorithm, String> {
        match self.tee_key_algorithm.as_deref() {
            None => Ok(KeyAlgorithm::default()),
            Some("ECDH-ES+A256KW-P256") => Ok(KeyAlgorithm::EcdhP256),
            Some("ECDH-ES+A256KW-P521") => Ok(KeyAlgorithm::EcdhP521),
            Some("RSA-OAEP-256") => Ok(KeyAlgorithm::RsaOaep256),
            Some(other) => Err(format!(
                "token_configs.kbs.tee_key_algorithm is {:?}; ECDH-ES+A256KW-P256, ECDH-ES+A256KW-P521 and RSA-OAEP-256 \
                 are known",
                other.chars().take(64).collect::<String>()
            )),
        }
    }
}

/// An attestation service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct CocoAs {
    /// Where it is.
    pub url: String,
}

/// The event log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct EventlogConfig {
    /// The PCR, or the register that stands for it, of events that name none.
    pub init_pcr: u32,
    /// Whether events are logged.
    pub enable_eventlog: bool,
}

impl Default for EventlogConfig {
    fn default() -> Self {
        Self {
            init_pcr: 17,
            enable_eventlog: false,
        }
    }
}

impl Document for AaConfig {
    const KEYS: &'static [&'static str] = &[
        "token_configs.kbs.url",
        "token_configs.kbs.cert",
        "token_configs.kbs.tee_key_algorithm",
        "token_configs.kbs.standby_urls",
        "token_configs.coco_as.url",
        "brokers.*.host",
        "brokers.*.url",
        "brokers.*.cert",
        "brokers.*.standby_urls",
        "eventlog_config.init_pcr",
        "eventlog_config.enable_eventlog",
        "log.level",
    ];

    fn checked(mut self) -> Result<Self, String> {
        if let Some(kbs) = &mut self.token_configs.kbs {
            kbs.key_algorithm()?;
            kbs.cert = trimmed(kbs.cert.take());
        }
        NamedBroker::check(&mut self.brokers)?;
        match self.eventlog_config.init_pcr {
            0..=23 => Ok(self),
            pcr => Err(format!(
                "eventlog_config.init_pcr is {pcr}; PCRs go from 0 to 23"
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn upstream(name: &str) -> Option<AaConfig> {
        let path = format!("guest/guest-components/attestation-agent/attestation-agent/{name}");
        let path = strongroom_testkit::fixtures::fixture(&path)?;
        let read = AaConfig::load(&path).unwrap();
        assert_eq!(read.unknown, Vec::<String>::new(), "{name}");
        Some(read.config)
    }

    #[test]
    fn upstreams_files_mean_what_they_say() {
        let read = |number: u32| upstream(&format!("test/config{number}.toml"));
        let Some(all) = read(1) else { return };
        let url = |url: &str| {
            Some(CocoAs {
                url: url.to_owned(),
            })
        };
        assert_eq!(all.token_configs.coco_as, url("http://127.0.0.1:8000"));
        assert_eq!(all.token_configs.kbs.unwrap().cert.unwrap(), "cert");
        assert_eq!(all.log.level, Some(super::super::Level::Warn));
        assert_eq!(read(2).unwrap().token_configs.coco_as, None);
        assert_eq!(read(3).unwrap().token_configs.kbs.unwrap().cert, None);
        for number in [4, 5, 6] {
            let read = read(number).unwrap();
            assert_eq!(read.token_configs, TokenConfigs::default(), "{number}");
            assert_eq!(read.eventlog_config.init_pcr, 17);
            assert!(!read.eventlog_config.enable_eventlog);
        }
    }

    #[test]
    fn upstreams_toml_and_json_examples_are_the_same_configuration() {
        let Some(toml) = upstream("config.example.toml") else {
            return;
        };
        assert_eq!(toml, upstream("config.example.json").unwrap());
        let kbs = toml.token_configs.kbs.unwrap();
        assert_eq!(kbs.key_algorithm(), Ok(KeyAlgorithm::EcdhP256));
        assert!(kbs.cert.unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    }

    #[test]
    fn key_that_cannot_be_made_is_refused_at_the_start() {
        let text =
            "[token_configs.kbs]\nurl = 'https://b'\ntee_key_algorithm = 'ML-KEM-768+A192KW'\n";
        let error = AaConfig::parse(text).unwrap_err();
        assert!(
            error.contains("ML-KEM-768") && error.contains("RSA-OAEP-256"),
            "{error}"
        );
    }

    #[test]
    fn pcr_that_no_tpm_has_is_refused() {
        let error = AaConfig::parse("[eventlog_config]\ninit_pcr = 24\n").unwrap_err();
        assert!(error.contains("init_pcr is 24"), "{error}");
    }
}
