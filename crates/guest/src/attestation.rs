//! The attestation agent: proves this machine to its brokers, and keeps what the proof earned.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use strongroom_attester::{AttestError, Attester, Bound, Event};
use strongroom_client::clock::Clock;
use strongroom_client::handshake::{Attested, Challenged};
use strongroom_client::session::RetryPolicy;
use strongroom_client::{ClientError, KbsClient, Released};
use strongroom_wire::initdata::Initdata;
use strongroom_wire::jwe::KeyAlgorithm;
use strongroom_wire::kbs::CompositeEvidence;
use strongroom_wire::resource::ResourceUri;
use strongroom_wire::tee::Tee;
use zeroize::Zeroizing;

use crate::brokers::{Broker, BrokerAddress, Brokers};
use crate::config::EventlogConfig;
use crate::data::resource::Source;
use crate::data::unseal::{UnsealOptions, Unsealer};
use crate::error::GuestError;

/// What an agent needs to know.
#[derive(Clone)]
pub struct AgentConfig {
    /// Where the broker is; without a URL there is none, and what would be asked of it is refused.
    pub broker: BrokerAddress,
    /// Further brokers, by the host that URIs name them with.
    pub named_brokers: BTreeMap<String, BrokerAddress>,
    /// Allows a broker at a plain `http://` address beyond this machine: nothing then proves that it is the broker, and
    /// whoever sits between can read tokens.
    pub insecure_http: bool,
    /// What makes this machine's evidence.
    pub attester: Attester,
    /// The configuration that was measured at launch, sent along with the evidence.
    pub initdata: Option<Initdata>,
    /// The key that secrets are encrypted to.
    pub key_algorithm: KeyAlgorithm,
    /// What of sealed secrets is accepted.
    pub unseal: UnsealOptions,
    /// How that stands to what the hardware holds.
    pub bound: Option<Bound>,
    /// Whether events are measured, and where.
    pub event_log: EventlogConfig,
    /// How failures of network and broker are tried again.
    pub retry: RetryPolicy,
    /// How long one call may take in all.
    pub deadline: Duration,
    /// The clock that tokens age by.
    pub clock: Clock,
}

impl AgentConfig {
    /// The defaults around what has none.
    pub fn new(broker_url: impl Into<String>, attester: Attester) -> Self {
        Self {
            broker: BrokerAddress::new(broker_url),
            named_brokers: BTreeMap::new(),
            insecure_http: false,
            attester,
            initdata: None,
            bound: None,
            key_algorithm: KeyAlgorithm::default(),
            unseal: UnsealOptions::of_a_guest(),
            event_log: EventlogConfig::default(),
            retry: RetryPolicy::default(),
            deadline: Duration::from_secs(45),
            clock: Clock::system(),
        }
    }
}

/// The agent of a guest. Clones share one token for each broker.
#[derive(Clone)]
pub struct Agent {
    brokers: Arc<Brokers>,
    attester: Arc<Attester>,
    unseal: Arc<UnsealOptions>,
    event_log: EventlogConfig,
    initdata: Option<Arc<Initdata>>,
    initdata_digest: Option<Arc<[u8]>>,
    bound: Option<Bound>,
}

impl Agent {
    /// Prepares an agent; nothing is attested yet.
    ///
    /// # Errors
    /// [`GuestError::Broker`] when an address or certificate cannot be used.
    pub fn new(config: AgentConfig) -> Result<Self, GuestError> {
        let attester = Arc::new(config.attester);
        let client = |address: &BrokerAddress, url: &str, host: Option<&str>| {
            let collector = Arc::clone(&attester);
            // Where there is another address, the first must not use up the time of all.
            let addresses = 1 + u32::try_from(address.standby_urls.len()).unwrap_or(u32::MAX - 1);
            let mut retry = config.retry;
            if addresses > 1 {
                retry.attempts = retry.attempts.min(2);
            }
            let mut builder = KbsClient::builder(url)
                .composite_evidence(attester.tee(), move |challenged| {
                    collect(&collector, challenged)
                })
                .insecure_http(config.insecure_http)
                .initdata(config.initdata.clone())
                .key_algorithm(config.key_algorithm)
                .retry(retry)
                .deadline(config.deadline / addresses)
                .clock(config.clock.clone());
            for host in host
                .into_iter()
                .chain(address.urls().filter_map(|url| authority(url)))
            {
                builder = builder.named(host);
            }
            if let Some(pem) = &address.root_certificate_pem {
                builder = builder.root_certificate_pem(pem);
            }
            builder.build()
        };
        let brokers = Brokers::new(&config.broker, &config.named_brokers, client)?;
        let digest = config.initdata.as_ref().map(Initdata::digest);
        Ok(Self {
            brokers: Arc::new(brokers),
            attester,
            unseal: Arc::new(config.unseal),
            event_log: config.event_log,
            initdata_digest: digest.map(Arc::from),
            initdata: config.initdata.map(Arc::new),
            bound: config.bound,
        })
    }

    /// Fetches a resource of the broker that the URI names.
    ///
    /// # Errors
    /// As [`KbsClient::get_resource`]; [`ClientError::Rejected`] when no broker is listed under the URI's host.
    pub async fn get_resource(&self, uri: &ResourceUri) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.release(uri).await.map(|released| released.secret)
    }

    /// As [`Self::get_resource`], with where the broker's record has the release.
    ///
    /// # Errors
    /// As [`Self::get_resource`].
    pub async fn release(&self, uri: &ResourceUri) -> Result<Released, ClientError> {
        let broker = self.brokers.of(uri)?;
        broker.ask(async |client| client.release(uri).await).await
    }

    /// Opens a sealed secret.
    ///
    /// # Errors
    /// As [`Unsealer::unseal`].
    pub async fn unseal(&self, text: &str) -> Result<Zeroizing<Vec<u8>>, GuestError> {
        let options = UnsealOptions::clone(&self.unseal);
        Unsealer::new(Source::Agent(self.clone()), options)
            .unseal(text)
            .await
    }

    /// The token in use, with the key that it names; attests when there is none.
    ///
    /// # Errors
    /// As [`KbsClient::token`].
    pub async fn token(&self) -> Result<Arc<Attested>, ClientError> {
        self.brokers
            .own()?
            .ask(async |client| client.token().await)
            .await
    }

    /// The token and its key, in the JSON form of upstream's agent.
    ///
    /// # Errors
    /// As [`Self::token`].
    pub async fn token_json(&self) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        #[derive(Serialize)]
        struct TokenAnswer<'a> {
            token: &'a str,
            tee_keypair: &'a str,
        }
        let failed = || ClientError::Crypto {
            doing: "writing the attested key",
        };
        let attested = self.token().await?;
        let key = attested.key().expose_pkcs8_pem().map_err(|_| failed())?;
        let answer = TokenAnswer {
            token: attested.token().expose(),
            tee_keypair: &key,
        };
        serde_json::to_vec(&answer)
            .map(Zeroizing::new)
            .map_err(|_| failed())
    }

    /// Measures an event into a register that can be extended while the guest runs.
    ///
    /// # Errors
    /// [`GuestError::Event`] when it is none, [`GuestError::Register`] when there is no such PCR; as
    /// [`Attester::extend`].
    pub async fn measure(
        &self,
        domain: &str,
        operation: &str,
        content: &str,
        pcr: Option<u64>,
    ) -> Result<Measured, GuestError> {
        let pcr = match pcr {
            None => self.event_log.init_pcr,
            Some(pcr) => u32::try_from(pcr)
                .ok()
                .filter(|pcr| *pcr < PCRS)
                .ok_or(GuestError::Register(pcr))?,
        };
        self.extend(Event::new(domain, operation, content)?, pcr)
            .await
    }

    /// Measures an event that an application asks for, into the configured register.
    ///
    /// # Errors
    /// As [`Self::measure`]; [`GuestError::Event`] also for one in the agent's name, and [`AttestError::EventLog`] when
    /// what is left of the log is kept for the agent.
    pub async fn measure_for_application(&self, event: Event) -> Result<Measured, GuestError> {
        self.extend(event, self.event_log.init_pcr).await
    }

    async fn extend(&self, event: Event, pcr: u32) -> Result<Measured, GuestError> {
        if !self.attester.has_runtime_registers() {
            return Ok(Measured::NotSupported);
        }
        if !self.event_log.enable_eventlog {
            return Ok(Measured::NotEnabled);
        }
        self.with_attester(move |attester| attester.extend(&event, pcr))
            .await?;
        tracing::info!(pcr, "an event was measured");
        Ok(Measured::Done)
    }

    /// The digest of the init-data that this machine was launched with, if there is one.
    pub fn initdata_digest(&self) -> Option<&[u8]> {
        self.initdata_digest.as_deref()
    }

    /// The init-data that this machine was launched with, if there is one.
    pub fn initdata(&self) -> Option<&Initdata> {
        self.initdata.as_deref()
    }

    /// The register of the hardware that holds that digest; nothing when nothing vouches for it.
    pub fn initdata_register(&self) -> Option<&'static str> {
        match self.bound {
            Some(Bound::Matches { register }) => Some(register),
            _ => None,
        }
    }

    /// Evidence of this machine over `report_data`, for whoever wants to verify it.
    ///
    /// # Errors
    /// As [`Attester::evidence`].
    pub async fn evidence(&self, report_data: Vec<u8>) -> Result<Box<RawValue>, GuestError> {
        self.with_attester(move |attester| attester.evidence(&report_data))
            .await
    }

    /// Evidence of this machine's further devices, `""` when it has none.
    ///
    /// # Errors
    /// As [`Attester::additional_evidence`].
    pub async fn additional_evidence(&self, report_data: Vec<u8>) -> Result<String, GuestError> {
        self.with_attester(move |attester| attester.additional_evidence(&report_data))
            .await
    }

    /// The platform.
    pub fn tee(&self) -> Tee {
        self.attester.tee()
    }

    /// The devices beside the TEE that make evidence of their own.
    pub fn additional_tees(&self) -> Vec<Tee> {
        self.attester.additional_tees()
    }

    /// Scheme, host and port of the broker, the address that answered last; `none` where none is named.
    pub fn broker(&self) -> &str {
        self.brokers.own().map_or("none", Broker::peer)
    }

    /// Whether a broker is named.
    pub fn has_broker(&self) -> bool {
        self.brokers.own().is_ok()
    }

    /// Devices answer when they like: they get a thread that may wait.
    async fn with_attester<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Attester) -> Result<T, AttestError> + Send + 'static,
    ) -> Result<T, GuestError> {
        let attester = Arc::clone(&self.attester);
        let outcome = tokio::task::spawn_blocking(move || work(&attester)).await;
        let aborted = || {
            GuestError::Broker(ClientError::Evidence {
                reason: "the attester panicked".to_owned(),
            })
        };
        Ok(outcome.map_err(|_| aborted())??)
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Measured {
    /// A register was extended, and the log has it.
    Done,
    /// The platform has no register that a running guest can extend.
    NotSupported,
    /// It has, and the configuration does not ask for it.
    NotEnabled,
}

/// Devices first, then the CPU's evidence over theirs.
fn collect(attester: &Attester, challenged: &Challenged) -> Result<CompositeEvidence, AttestError> {
    let additional_evidence = attester.additional_evidence(&challenged.device_report_data())?;
    let primary_evidence = attester.evidence(&challenged.report_data(&additional_evidence))?;
    Ok(CompositeEvidence {
        primary_evidence,
        additional_evidence,
    })
}

/// Host and port of a URL, as the host of a URI names them.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split('/').next().filter(|host| !host.is_empty())
}

const PCRS: u32 = 24;
