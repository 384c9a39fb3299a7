//! How this machine attests, and to whom: the options.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use strongroom_attester::{Attester, Devices, Found};
use strongroom_wire::initdata::Initdata;

use crate::attestation::Agent;
use crate::brokers::BrokerAddress;
use crate::config::{AaConfig, CdhConfig, Document, Surroundings};
use crate::initdata::{Launched, Places, UnverifiedInitdata};
use crate::launch::{Prepared, Wanted};

/// How this machine attests, and to whom.
#[derive(clap::Args, Clone)]
pub struct AttestArgs {
    /// Start without a broker, too.
    #[arg(skip)]
    pub(super) broker_is_optional: bool,

    /// The broker's URL [default: the one in the init-data].
    #[arg(long, env = "STRONGROOM_BROKER", value_name = "URL")]
    broker: Option<String>,

    /// The broker's certificate, PEM [default: the one in the init-data].
    #[arg(long, env = "STRONGROOM_BROKER_CERT", value_name = "PEM")]
    broker_cert: Option<PathBuf>,

    /// The init-data that this machine was launched with [default: on a TEE, what is found on the disk or in the files
    /// that Kata and peer pods hand it over in]. Nothing of it is used unless the hardware holds its digest.
    #[arg(long, value_name = "FILE")]
    pub(super) initdata: Option<PathBuf>,

    /// The attestation agent's aa.toml, for machines without init-data, which wins over it.
    #[arg(long, value_name = "FILE")]
    pub(super) aa_config: Option<PathBuf>,

    /// The data hub's cdh.toml, for machines without init-data, which wins over it.
    #[arg(long, value_name = "FILE")]
    pub(super) cdh_config: Option<PathBuf>,

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

    /// Follow init-data on a platform that has no register for it (SGX). Whoever can change the file chooses broker, keys
    /// and image policy.
    #[arg(long)]
    insecure_unbound_initdata: bool,

    /// Speak to a broker beyond this machine without TLS. Whoever sits between can answer in its place.
    #[arg(long)]
    insecure_http: bool,
}

impl AttestArgs {
    /// Finds platform, init-data, broker and certificate.
    ///
    /// # Errors
    /// As [`Self::prepared`].
    pub fn agent(&self) -> anyhow::Result<Agent> {
        self.prepared().map(|prepared| prepared.agent)
    }

    /// The agent, and what else a guest is told. Says what somebody should know.
    ///
    /// # Errors
    /// What [`Launched::verify`] and [`Wanted::prepare`] say, and what keeps a file from being read.
    pub fn prepared(&self) -> anyhow::Result<Prepared> {
        let found = self.found()?;
        let missed = found.warnings();
        let attester = found.attester;
        let initdata = self.initdata(&attester)?;
        let launched = match self.insecure_unbound_initdata {
            true => Launched::insecure_verify_even_unbound(&attester, initdata)?,
            false => Launched::verify(&attester, initdata)?,
        };
        let prepared = self.wanted()?.prepare(attester, launched)?;
        for warning in missed.iter().chain(&prepared.warnings) {
            eprintln!("warning: {warning}");
        }
        Ok(prepared)
    }

    fn wanted(&self) -> anyhow::Result<Wanted> {
        Ok(Wanted {
            broker: self.broker.clone(),
            certificate: self
                .broker_cert
                .as_deref()
                .map(read_pem)
                .transpose()
                .context("--broker-cert (or STRONGROOM_BROKER_CERT)")?,
            aa: loaded::<AaConfig>(self.aa_config.as_deref())?,
            cdh: loaded::<CdhConfig>(self.cdh_config.as_deref())?,
            insecure_override_measured_broker: self.insecure_override_measured_broker,
            insecure_http: self.insecure_http,
            broker_is_optional: self.broker_is_optional,
            surroundings: Surroundings::of_this_machine(),
        })
    }

    /// The broker as it would be taken, while nothing vouches for the init-data, and whether it may be spoken to without
    /// TLS: for looking into what is wrong, and for nothing else.
    ///
    /// # Errors
    /// As [`Self::prepared`].
    pub fn unverified_broker(
        &self,
        document: Option<&Initdata>,
    ) -> anyhow::Result<(BrokerAddress, bool)> {
        let document = document.map(|document| UnverifiedInitdata::new(document.clone()));
        let launched = Launched::insecure_unverified(document)?;
        Ok((self.wanted()?.broker(launched)?, self.insecure_http))
    }

    /// The document that was named.
    pub fn initdata_file(&self) -> Option<&Path> {
        self.initdata.as_deref()
    }

    /// The platform: as named, or as found.
    ///
    /// # Errors
    /// [`strongroom_attester::NoTee`] and [`strongroom_attester::AttestError`].
    pub fn attester(&self) -> anyhow::Result<Attester> {
        Ok(self.found()?.attester)
    }

    /// The platform, and what was seen on this machine.
    fn found(&self) -> anyhow::Result<Found> {
        let devices = self.devices()?;
        Ok(match &self.platform {
            Some(name) => Attester::find(name, self.development_root.as_deref(), &devices)?,
            None => Attester::detect(&devices)?,
        })
    }

    /// This machine's devices, a TPM as upstream's environment names it.
    ///
    /// # Errors
    /// When a variable of it is none.
    pub fn devices(&self) -> anyhow::Result<Devices> {
        let surroundings = Surroundings::of_this_machine();
        let mut devices = Devices::default();
        if let Some(path) = surroundings.tpm_device() {
            devices.tpm = vec![path.into()];
        }
        let handle = surroundings.tpm_ak_handle().map_err(anyhow::Error::msg)?;
        devices.tpm_ak = handle.unwrap_or(devices.tpm_ak);
        Ok(devices)
    }

    /// Whether a broker is named.
    pub(super) fn names_a_broker(&self) -> bool {
        self.broker.is_some()
    }

    /// The platform's name, when it is not to be looked for.
    pub fn named(&self) -> Option<&str> {
        self.platform.as_deref()
    }

    /// The document as named, or on a TEE as found.
    ///
    /// # Errors
    /// [`crate::GuestError::Initdata`].
    pub fn initdata(&self, attester: &Attester) -> anyhow::Result<Option<UnverifiedInitdata>> {
        Ok(match (&self.initdata, attester) {
            (Some(path), _) => Some(UnverifiedInitdata::read(path)?),
            (None, Attester::Hardware(_)) => UnverifiedInitdata::find(&Places::default())?,
            (None, _) => None,
        })
    }
}

fn loaded<T: Document>(path: Option<&Path>) -> anyhow::Result<Option<T>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let read = T::load(path)?;
    for key in &read.unknown {
        eprintln!("warning: {}: nobody reads the key {key}", path.display());
    }
    Ok(Some(read.config))
}

fn read_pem(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PEM + 1).read_to_string(&mut text))
        .with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(
        text.len() as u64 <= MAX_PEM,
        "{} is too large for a certificate",
        path.display()
    );
    Ok(text)
}

const MAX_PEM: u64 = 1024 * 1024;
