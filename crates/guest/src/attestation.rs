//! The attestation agent: proves this machine to one broker, and keeps what the proof earned.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use strongroom_attester::{AttestError, Attester};
use strongroom_client::clock::Clock;
use strongroom_client::handshake::{Attested, Challenged};
use strongroom_client::session::RetryPolicy;
use strongroom_client::{ClientError, KbsClient};
use strongroom_wire::initdata::Initdata;
use strongroom_wire::kbs::CompositeEvidence;
use strongroom_wire::resource::ResourceUri;
use strongroom_wire::tee::Tee;
use zeroize::Zeroizing;

use crate::data::resource::Source;
use crate::data::unseal::unseal;
use crate::error::GuestError;

/// What an agent needs to know.
#[derive(Clone)]
pub struct AgentConfig {
    /// Where the broker is.
    pub broker_url: String,
    /// The certificate (PEM) that alone is trusted for it; the machine's own authorities without one.
    pub root_certificate_pem: Option<String>,
    /// What makes this machine's evidence.
    pub attester: Attester,
    /// The configuration that was measured at launch, sent along with the evidence.
    pub initdata: Option<Initdata>,
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
            broker_url: broker_url.into(),
            root_certificate_pem: None,
            attester,
            initdata: None,
            retry: RetryPolicy::default(),
            deadline: Duration::from_secs(45),
            clock: Clock::system(),
        }
    }
}

/// The agent of one broker. Clones share one token.
#[derive(Clone)]
pub struct Agent {
    client: KbsClient,
    attester: Arc<Attester>,
}

impl Agent {
    /// Prepares an agent; nothing is attested yet.
    ///
    /// # Errors
    /// [`GuestError::Broker`] when address or certificate cannot be used.
    pub fn new(config: AgentConfig) -> Result<Self, GuestError> {
        let attester = Arc::new(config.attester);
        let collector = Arc::clone(&attester);
        let mut builder = KbsClient::builder(config.broker_url)
            .composite_evidence(attester.tee(), move |challenged| {
                collect(&collector, challenged)
            })
            .initdata(config.initdata)
            .retry(config.retry)
            .deadline(config.deadline)
            .clock(config.clock);
        if let Some(pem) = config.root_certificate_pem {
            builder = builder.root_certificate_pem(pem);
        }
        Ok(Self {
            client: builder.build()?,
            attester,
        })
    }

    /// Fetches a resource of the broker.
    ///
    /// # Errors
    /// As [`KbsClient::get_resource`].
    pub async fn get_resource(&self, uri: &ResourceUri) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.client.get_resource(uri).await
    }

    /// Opens a sealed secret.
    ///
    /// # Errors
    /// [`GuestError::Seal`] when text or signature is at fault, [`GuestError::SigningKey`] and
    /// [`GuestError::SealedResource`] when the broker does not give what it points to.
    pub async fn unseal(&self, text: &str) -> Result<Zeroizing<Vec<u8>>, GuestError> {
        unseal(&Source::Agent(self.clone()), text).await
    }

    /// The token in use, with the key that it names; attests when there is none.
    ///
    /// # Errors
    /// As [`KbsClient::token`].
    pub async fn token(&self) -> Result<Arc<Attested>, ClientError> {
        self.client.token().await
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

    /// Scheme, host and port of the broker.
    pub fn broker(&self) -> &str {
        self.client.peer()
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

/// Devices first, then the CPU's evidence over theirs.
fn collect(attester: &Attester, challenged: &Challenged) -> Result<CompositeEvidence, AttestError> {
    let additional_evidence = attester.additional_evidence(&challenged.device_report_data())?;
    let primary_evidence = attester.evidence(&challenged.report_data(&additional_evidence))?;
    Ok(CompositeEvidence {
        primary_evidence,
        additional_evidence,
    })
}
