//! How this machine attests, and to whom: the options, and what was measured at launch, which wins.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use strongroom_attester::{Attester, Devices};
use strongroom_guest::config::{AaConfig, Document as _, Kbs, kbc_params, kbc_params_of_kernel};
use strongroom_guest::{Agent, AgentConfig, Launched, Places, UnsealOptions, UnverifiedInitdata};
use strongroom_wire::initdata::Initdata;

use crate::connect::read_pem;

/// How this machine attests, and to whom.
#[derive(clap::Args, Clone)]
pub(crate) struct AttestArgs {
    /// The broker's URL [default: the one in the init-data].
    #[arg(long, env = "STRONGROOM_BROKER", value_name = "URL")]
    broker: Option<String>,

    /// The broker's certificate, PEM [default: the one in the init-data].
    #[arg(long, env = "STRONGROOM_BROKER_CERT", value_name = "PEM")]
    broker_cert: Option<PathBuf>,

    /// The init-data that this machine was launched with [default: on a TEE, what is found on the disk or in the files
    /// that Kata and peer pods hand it over in]. Nothing of it is used unless the hardware holds its digest.
    #[arg(long, value_name = "FILE")]
    initdata: Option<PathBuf>,

    /// The attestation agent's aa.toml, for machines without init-data, which wins over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The platform, when it is not to be looked for. `sample` and `development` prove nothing and must be named.
    /// `development` signs SNP evidence under a root of yours; so does development:tdx, :sgx, :tpm, :az-snp-vtpm or
    /// :az-tdx-vtpm for its platform.
    #[arg(long, value_name = "NAME")]
    platform: Option<String>,

    /// The folder of the root that `--platform development` signs under; it is made there on first use. A broker
    /// believes its evidence only when DIR, or its root.pem and collateral, was given to it as `[development] root`.
    #[arg(long, env = "STRONGROOM_DEVELOPMENT_ROOT", value_name = "DIR")]
    development_root: Option<PathBuf>,

    /// Follow --broker and --broker-cert even where the measured init-data names another broker.
    #[arg(long)]
    insecure_override_measured_broker: bool,

    /// Speak to a broker beyond this machine without TLS. Whoever sits between can answer in its place.
    #[arg(long)]
    insecure_http: bool,
}

impl AttestArgs {
    /// Finds platform, init-data, broker and certificate.
    pub(crate) fn agent(&self) -> anyhow::Result<Agent> {
        let mut attester = self.attester()?;
        let launched = Launched::verify(&attester, self.initdata(&attester)?)?;
        for warning in &launched.warnings {
            eprintln!("warning: {warning}");
        }
        let measured = launched.aa.token_configs.kbs.as_ref();
        let configured = self.configured()?;
        let certificate = self.broker_cert.as_deref().map(read_pem).transpose()?;
        let key_algorithm = measured.or(configured.as_ref()).map(Kbs::key_algorithm);
        let Choice {
            broker,
            certificate,
        } = choose(
            measured.map(MeasuredBroker::from).unwrap_or_default(),
            self.broker
                .clone()
                .or_else(|| Some(configured.as_ref()?.url.clone())),
            certificate.or_else(|| configured.as_ref()?.cert.clone()),
            self.insecure_override_measured_broker,
        )?;
        if let Some(initdata) = &launched.initdata {
            attester = attester.with_initdata(initdata);
        }
        let mut config = AgentConfig::new(broker, attester);
        config.root_certificate_pem = certificate;
        config.insecure_http = self.insecure_http;
        config.unseal = UnsealOptions::from(&launched.cdh);
        config.initdata = launched.initdata;
        config.key_algorithm = key_algorithm
            .transpose()
            .map_err(anyhow::Error::msg)?
            .unwrap_or_default();
        Ok(Agent::new(config)?)
    }

    /// The broker and its certificate as they would be taken, while nothing vouches for the init-data: for looking into
    /// what is wrong, and for nothing else.
    pub(crate) fn unverified_broker(
        &self,
        initdata: Option<&Initdata>,
    ) -> anyhow::Result<(String, Option<String>, bool)> {
        let text = initdata.and_then(|document| document.data().get("aa.toml"));
        let aa = text.map(|text| AaConfig::parse(text)).transpose();
        let aa = aa.map_err(|reason| anyhow::anyhow!("aa.toml: {reason}"))?;
        let measured = aa.and_then(|read| read.config.token_configs.kbs);
        let configured = self.configured()?;
        let certificate = self.broker_cert.as_deref().map(read_pem).transpose()?;
        let chosen = choose(
            measured
                .as_ref()
                .map(MeasuredBroker::from)
                .unwrap_or_default(),
            self.broker
                .clone()
                .or_else(|| Some(configured.as_ref()?.url.clone())),
            certificate.or_else(|| configured.as_ref()?.cert.clone()),
            self.insecure_override_measured_broker,
        )?;
        Ok((chosen.broker, chosen.certificate, self.insecure_http))
    }

    /// The document that was named.
    pub(crate) fn initdata_file(&self) -> Option<&Path> {
        self.initdata.as_deref()
    }

    /// The platform: as named, or as found.
    pub(crate) fn attester(&self) -> anyhow::Result<Attester> {
        Ok(match &self.platform {
            Some(name) => Attester::named_with_root(name, self.development_root.as_deref())?,
            None => Attester::detect(&Devices::default())?.attester,
        })
    }

    /// The platform's name, when it is not to be looked for.
    pub(crate) fn named(&self) -> Option<&str> {
        self.platform.as_deref()
    }

    /// The document as named, or on a TEE as found.
    pub(crate) fn initdata(
        &self,
        attester: &Attester,
    ) -> anyhow::Result<Option<UnverifiedInitdata>> {
        Ok(match (&self.initdata, attester) {
            (Some(path), _) => Some(UnverifiedInitdata::read(path)?),
            (None, Attester::Hardware(_)) => UnverifiedInitdata::find(&Places::default())?,
            (None, _) => None,
        })
    }

    /// The broker that a file names, or as upstream's agent is told without one: the environment or the kernel's
    /// command line.
    fn configured(&self) -> anyhow::Result<Option<Kbs>> {
        if let Some(path) = &self.config {
            let read = AaConfig::load(path)?;
            for key in &read.unknown {
                eprintln!("warning: {}: nobody reads the key {key}", path.display());
            }
            return Ok(read.config.token_configs.kbs);
        }
        let environment = std::env::var("AA_KBC_PARAMS").ok();
        let kernel = || std::fs::read_to_string("/proc/cmdline").ok();
        let params = environment.or_else(|| kbc_params_of_kernel(&kernel()?).map(str::to_owned));
        Ok(params
            .map(|params| kbc_params(&params))
            .transpose()
            .map_err(anyhow::Error::msg)?
            .filter(|(_, url)| !url.is_empty())
            .map(|(_, url)| Kbs {
                url,
                cert: None,
                tee_key_algorithm: None,
            }))
    }
}

/// The broker to attest to, and the certificate it must prove to have.
#[derive(Debug, Eq, PartialEq)]
struct Choice {
    broker: String,
    certificate: Option<String>,
}

/// What was measured at launch wins: who starts the guest must not send it to a broker of their own, which could answer
/// with another recipient, signing key or model.
fn choose(
    measured: MeasuredBroker,
    broker: Option<String>,
    certificate: Option<String>,
    insecure_override: bool,
) -> anyhow::Result<Choice> {
    let Some(url) = measured
        .url
        .filter(|_| !insecure_override || broker.is_none())
    else {
        let broker = broker.context(
            "no broker is named: use --broker URL, or --initdata with a document that names one (strongroom initdata new)",
        )?;
        return Ok(Choice {
            broker,
            certificate: certificate.or(measured.certificate),
        });
    };
    if broker.is_some_and(|broker| broker != url) {
        bail!(
            "--broker (or STRONGROOM_BROKER) names another broker than the measured init-data, which names {url}: leave it out"
        );
    }
    let differs = |certificate: &str| Some(certificate.trim()) != measured.certificate.as_deref();
    if certificate.as_deref().is_some_and(differs) {
        bail!(
            "--broker-cert (or STRONGROOM_BROKER_CERT) is not the certificate of the measured init-data: leave it out"
        );
    }
    Ok(Choice {
        broker: url,
        certificate: measured.certificate,
    })
}

/// The broker that init-data names.
#[derive(Default)]
struct MeasuredBroker {
    url: Option<String>,
    certificate: Option<String>,
}

impl From<&Kbs> for MeasuredBroker {
    fn from(kbs: &Kbs) -> Self {
        Self {
            url: Some(kbs.url.clone()).filter(|url| !url.is_empty()),
            certificate: kbs.cert.clone(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn measured() -> MeasuredBroker {
        MeasuredBroker {
            url: Some("https://good:1".to_owned()),
            certificate: Some("good".to_owned()),
        }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn host_redirects_the_guest_to_another_broker() {
        let error = choose(measured(), some("https://evil:1"), None, false).unwrap_err();
        assert!(error.to_string().contains("https://good:1"));
        assert!(choose(measured(), None, some("evil"), false).is_err());
        assert!(choose(measured(), some("https://good:1"), some("evil"), false).is_err());
    }

    #[test]
    fn measured_broker_is_used_and_an_equal_option_changes_nothing() {
        let chosen = choose(measured(), some("https://good:1"), some("good"), false).unwrap();
        assert_eq!(chosen, choose(measured(), None, None, false).unwrap());
        assert_eq!(
            (chosen.broker.as_str(), chosen.certificate.as_deref()),
            ("https://good:1", Some("good"))
        );
    }

    #[test]
    fn named_override_is_followed() {
        let chosen = choose(measured(), some("https://other:1"), some("other"), true).unwrap();
        assert_eq!(
            (chosen.broker.as_str(), chosen.certificate.as_deref()),
            ("https://other:1", Some("other"))
        );
    }

    #[test]
    fn options_count_where_nothing_is_measured() {
        let chosen = choose(
            MeasuredBroker::default(),
            some("https://b:1"),
            some("c"),
            false,
        )
        .unwrap();
        assert_eq!(chosen.broker, "https://b:1");
        assert!(choose(MeasuredBroker::default(), None, None, false).is_err());
    }
}
