//! The attestation agent: proves this machine to one broker, and keeps what the proof earned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;
use strongroom_attester::{AttestError, Attester};
use strongroom_client::clock::Clock;
use strongroom_client::handshake::{Attested, Challenged};
use strongroom_client::session::RetryPolicy;
use strongroom_client::{ClientError, KbsClient};
use strongroom_wire::initdata::Initdata;
use strongroom_wire::jwe::KeyAlgorithm;
use strongroom_wire::kbs::CompositeEvidence;
use strongroom_wire::resource::ResourceUri;
use strongroom_wire::tee::Tee;
use zeroize::Zeroizing;

use crate::data::resource::Source;
use crate::data::unseal::{UnsealOptions, Unsealer};
use crate::error::GuestError;

/// What an agent needs to know.
#[derive(Clone)]
pub struct AgentConfig {
    /// Where the broker is.
    pub broker_url: String,
    /// The certificate (PEM) that alone is trusted for it; the machine's own authorities without one.
    pub root_certificate_pem: Option<String>,
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
            insecure_http: false,
            attester,
            initdata: None,
            key_algorithm: KeyAlgorithm::default(),
            unseal: UnsealOptions::of_a_guest(),
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
    unseal: Arc<UnsealOptions>,
    reachability: Arc<Reachability>,
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
            .insecure_http(config.insecure_http)
            .initdata(config.initdata)
            .key_algorithm(config.key_algorithm)
            .retry(config.retry)
            .deadline(config.deadline)
            .clock(config.clock);
        if let Some(pem) = config.root_certificate_pem {
            builder = builder.root_certificate_pem(pem);
        }
        Ok(Self {
            client: builder.build()?,
            attester,
            unseal: Arc::new(config.unseal),
            reachability: Arc::default(),
        })
    }

    /// Fetches a resource of the broker.
    ///
    /// # Errors
    /// As [`KbsClient::get_resource`].
    pub async fn get_resource(&self, uri: &ResourceUri) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.noted(self.client.get_resource(uri).await)
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
        self.noted(self.client.token().await)
    }

    /// Logs when the broker ceases to answer and when it answers again, once each.
    fn noted<T>(&self, outcome: Result<T, ClientError>) -> Result<T, ClientError> {
        match self.reachability.change(outcome.as_ref().err()) {
            Some(Change::Lost(error)) => tracing::warn!(%error, "the broker is not reached"),
            Some(Change::Back) => {
                tracing::warn!(broker = self.broker(), "the broker is reached again");
            }
            None => {}
        }
        outcome
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

/// Whether the broker answered when it was last asked.
#[derive(Default)]
struct Reachability {
    lost: AtomicBool,
}

#[derive(Debug, Eq, PartialEq)]
enum Change<'a> {
    Lost(&'a ClientError),
    Back,
}

impl Reachability {
    /// What an outcome changes. A denial or a missing resource is an answer; what failed on this machine says nothing.
    fn change<'a>(&self, error: Option<&'a ClientError>) -> Option<Change<'a>> {
        let lost = match error {
            Some(
                error @ (ClientError::Unreachable { .. }
                | ClientError::UntrustedPeer { .. }
                | ClientError::Unavailable { .. }
                | ClientError::NotTheBroker { .. }
                | ClientError::TooLarge { .. }
                | ClientError::Protocol { .. }),
            ) => Some(error),
            None
            | Some(
                ClientError::NotFound { .. }
                | ClientError::Denied { .. }
                | ClientError::EvidenceRefused { .. }
                | ClientError::NotAttested { .. },
            ) => None,
            Some(_) => return None,
        };
        let before = self.lost.swap(lost.is_some(), Ordering::Relaxed);
        match lost {
            Some(error) if !before => Some(Change::Lost(error)),
            None if before => Some(Change::Back),
            _ => None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_broker_is_told_once_and_so_is_its_return() {
        let unreachable = ClientError::Unreachable {
            peer: "https://b".into(),
            reason: "refused".into(),
        };
        let denied = ClientError::Denied {
            what: "x".into(),
            detail: "no".into(),
        };
        let broker = Reachability::default();
        assert_eq!(broker.change(None), None);
        assert_eq!(
            broker.change(Some(&unreachable)),
            Some(Change::Lost(&unreachable))
        );
        assert_eq!(broker.change(Some(&unreachable)), None);
        assert_eq!(broker.change(Some(&denied)), Some(Change::Back));
        assert_eq!(broker.change(None), None);
    }
}
