//! A guest's client of a broker: attests when it must, fetches resources, tries again when that can help.
//!
//! One handshake serves many secrets and all callers that wait for one. What to send is `handshake`'s business, when is
//! `session`'s; this file only carries it out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use strongroom_wire::initdata::Initdata;
use strongroom_wire::jwe::{DecryptionKey, Jwe, KeyAlgorithm};
use strongroom_wire::kbs::{AttestResponse, Challenge, CompositeEvidence};
use strongroom_wire::resource::ResourceUri;
use strongroom_wire::tee::Tee;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::error::{Cause, ClientError, one_line};
use crate::handshake::{Attested, Challenged, Handshake, HandshakeError, session_cookie};
use crate::http::{Answer, Endpoint, EndpointOptions, Outgoing, Refused, Released, Roots, Route};
use crate::session::{RetryPolicy, Session};

/// A client of one broker. Clones share one session.
#[derive(Clone)]
pub struct KbsClient(Arc<Inner>);

impl KbsClient {
    /// Describes a client of the broker at `url`.
    pub fn builder(url: impl Into<String>) -> KbsClientBuilder {
        KbsClientBuilder {
            url: url.into(),
            options: EndpointOptions::default(),
            tee: None,
            initdata: None,
            key_algorithm: KeyAlgorithm::EcdhP256,
            retry: RetryPolicy::default(),
            deadline: Duration::from_secs(60),
            clock: Clock::system(),
            names: Vec::new(),
        }
    }

    /// Fetches a resource and opens it with the attested key. Attests first when there is no usable token.
    ///
    /// A token that the broker does not accept is replaced once; what is denied or missing is not asked for again;
    /// failures of network and broker are retried within the deadline.
    ///
    /// # Errors
    /// [`ClientError::NotFound`], [`ClientError::Denied`], [`ClientError::EvidenceRefused`],
    /// [`ClientError::Unreachable`] and the other variants that name how the broker could not be spoken to.
    pub async fn get_resource(&self, uri: &ResourceUri) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        self.release(uri).await.map(|released| released.secret)
    }

    /// As [`Self::get_resource`], with where the broker's record has the release.
    ///
    /// # Errors
    /// As [`Self::get_resource`].
    pub async fn release(&self, uri: &ResourceUri) -> Result<Released, ClientError> {
        let inner = &self.0;
        inner.serves(uri)?;
        inner.within_deadline(self.release_undelayed(uri)).await
    }

    /// The token in use, after a handshake when there is none, with the key that it names.
    ///
    /// # Errors
    /// As [`Self::get_resource`], resources aside.
    pub async fn token(&self) -> Result<Arc<Attested>, ClientError> {
        self.0.within_deadline(self.attested()).await
    }

    /// Scheme, host and port of the broker.
    pub fn peer(&self) -> &str {
        self.0.endpoint.peer()
    }

    async fn release_undelayed(&self, uri: &ResourceUri) -> Result<Released, ClientError> {
        let inner = &self.0;
        let mut attested = self.attested().await?;
        let first = inner.retrying(|| inner.fetch(uri, &attested)).await;
        let outcome = match first {
            Err(ClientError::NotAttested { detail }) => {
                tracing::debug!(%detail, "the broker no longer takes the token; attesting anew");
                inner.state().session.on_not_accepted(&attested);
                attested = self.attested().await?;
                inner.retrying(|| inner.fetch(uri, &attested)).await
            }
            other => other,
        };
        match &outcome {
            Err(ClientError::Denied { .. }) => inner
                .state()
                .session
                .on_denied(&attested, inner.clock.now()),
            Err(ClientError::NotAttested { .. }) => {
                inner.state().session.on_not_accepted(&attested)
            }
            _ => {}
        }
        outcome
    }

    /// The usable token, or the outcome of the one handshake that all callers wait for.
    ///
    /// The handshake runs as a task of its own: a caller that goes away takes nothing from the others.
    async fn attested(&self) -> Result<Arc<Attested>, ClientError> {
        let mut flight = {
            let mut state = self.0.state();
            if let Some(attested) = state.session.usable(self.0.clock.now()) {
                return Ok(attested);
            }
            match state
                .flight
                .as_ref()
                .filter(|flight| flight.has_changed().is_ok())
            {
                Some(flight) => flight.clone(),
                None => {
                    let (landed, flight) = watch::channel(None);
                    state.flight = Some(flight.clone());
                    let client = self.clone();
                    tokio::spawn(async move {
                        let outcome = client.0.retrying(|| client.0.attest()).await.map(Arc::new);
                        let mut state = client.0.state();
                        if let Ok(attested) = &outcome {
                            state.session.on_attested(Arc::clone(attested));
                        }
                        state.flight = None;
                        drop(state);
                        landed.send_replace(Some(outcome));
                    });
                    flight
                }
            }
        };
        let landed = flight.wait_for(Option::is_some).await;
        match landed.as_ref().map(|outcome| outcome.as_ref()) {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(ClientError::Evidence {
                reason: "the attestation was aborted".to_owned(),
            }),
        }
    }
}

struct Inner {
    endpoint: Endpoint,
    names: Vec<String>,
    tee: Tee,
    collect: Collect,
    initdata: Option<Initdata>,
    key_algorithm: KeyAlgorithm,
    retry: RetryPolicy,
    deadline: Duration,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Session,
    flight: Option<watch::Receiver<Option<Landed>>>,
}

/// What one handshake came to, for all who wait for it.
type Landed = Result<Arc<Attested>, ClientError>;

type Collect = Arc<dyn Fn(&Challenged) -> Result<CompositeEvidence, String> + Send + Sync>;

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while the lock is held, and the state is whole after each statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A URI that names another broker must not be answered by this one.
    fn serves(&self, uri: &ResourceUri) -> Result<(), ClientError> {
        if uri.host().is_empty() || self.names.iter().any(|name| name == uri.host()) {
            return Ok(());
        }
        Err(ClientError::Rejected {
            what: uri.to_string(),
            status: 400,
            detail: format!(
                "it names another broker than {}; write kbs:///repository/type/tag",
                self.endpoint.peer()
            ),
        })
    }

    async fn within_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(self.deadline, work)
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::Unreachable {
                    peer: self.endpoint.peer().to_owned(),
                    reason: format!("no answer within {} s", self.deadline.as_secs_f32()),
                })
            })
    }

    async fn retrying<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut failed = 0;
        loop {
            let error = match attempt().await {
                Err(error) if error.is_transient() => error,
                outcome => return outcome,
            };
            failed += 1;
            let Some(delay) = self.retry.delay(failed, jitter()) else {
                return Err(error);
            };
            tracing::debug!(%error, failed, ?delay, "trying again");
            tokio::time::sleep(delay).await;
        }
    }

    /// One RCAR handshake. After a broken connection the whole of it starts anew: its nonce may be spent.
    async fn attest(&self) -> Result<Attested, ClientError> {
        let protocol = |error: HandshakeError| ClientError::Protocol {
            peer: self.endpoint.peer().to_owned(),
            reason: error.to_string(),
        };
        let key = DecryptionKey::generate(self.key_algorithm).map_err(|_| ClientError::Crypto {
            doing: "making the key that is to be attested",
        })?;
        let (handshake, request) = Handshake::new(self.tee, key);
        let answer = self
            .post("/kbs/v0/auth", &request, None)
            .await?
            .success()
            .map_err(refused_handshake)?;
        let cookie = session_cookie(answer.set_cookies()).ok_or_else(|| {
            answer.protocol("its challenge came without the cookie kbs-session-id".to_owned())
        })?;
        let challenge: Challenge = answer.json("a challenge")?;
        let challenged = handshake.on_challenge(challenge).map_err(protocol)?;
        let (challenged, evidence) = self.evidence(challenged).await?;
        let (answered, attestation) = challenged.attestation(evidence, self.initdata.as_ref());
        let answer = self
            .post("/kbs/v0/attest", &attestation, Some(&cookie))
            .await?
            .success()
            .map_err(refused_handshake)?;
        let response: AttestResponse = answer.json("an attestation result")?;
        answered
            .on_response(response, self.clock.now())
            .map_err(protocol)
    }

    /// Devices answer when they like: they get a thread that may wait.
    async fn evidence(
        &self,
        challenged: Challenged,
    ) -> Result<(Challenged, CompositeEvidence), ClientError> {
        let collect = Arc::clone(&self.collect);
        tokio::task::spawn_blocking(move || {
            let evidence = collect(&challenged)?;
            Ok((challenged, evidence))
        })
        .await
        .unwrap_or_else(|_| Err("the attester panicked".to_owned()))
        .map_err(|reason| ClientError::Evidence { reason })
    }

    async fn fetch(&self, uri: &ResourceUri, attested: &Attested) -> Result<Released, ClientError> {
        let what = uri.to_string();
        let path = format!("/kbs/v0/{}/{}", uri.plugin(), uri.segments().join("/"));
        let outgoing = Outgoing {
            query: uri.query(),
            bearer: Some(attested.token().expose()),
            ..Outgoing::new(Method::GET, &path)
        };
        let answer = self
            .endpoint
            .send(outgoing)
            .await?
            .success()
            .map_err(|refused| refused.into_error(&what))?;
        let jwe: Jwe = answer.json("an encrypted resource (JWE)")?;
        let secret = attested.key().open(&jwe);
        let secret = secret.map_err(|error| ClientError::Undecryptable {
            what,
            reason: error.to_string(),
        })?;
        Ok(Released {
            secret,
            release: answer.release,
        })
    }

    async fn post(
        &self,
        path: &str,
        message: &impl serde::Serialize,
        cookie: Option<&str>,
    ) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(message).map_err(|error| ClientError::Evidence {
            reason: format!("it has no JSON form: {error}"),
        })?;
        let outgoing = Outgoing {
            cookie,
            body: Some(("application/json", body)),
            ..Outgoing::new(Method::POST, path)
        };
        self.endpoint.send(outgoing).await
    }
}

/// Inside the handshake, a refusal speaks of the evidence or of this client, not of a token or a resource.
fn refused_handshake(refused: Refused) -> ClientError {
    match refused {
        Refused::ByBroker(_, _, refusal)
            if matches!(refusal.cause, Cause::Denied | Cause::Unauthenticated) =>
        {
            ClientError::EvidenceRefused {
                detail: refusal.detail,
            }
        }
        other => other.into_error("the attestation"),
    }
}

/// Chance between 0 and 1, for [`RetryPolicy::delay`].
pub fn jitter() -> f64 {
    let mut bytes = [0u8; 4];
    // Without randomness the wait is merely not spread.
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}

/// Describes a [`KbsClient`].
pub struct KbsClientBuilder {
    url: String,
    options: EndpointOptions,
    tee: Option<(Tee, Collect)>,
    initdata: Option<Initdata>,
    key_algorithm: KeyAlgorithm,
    retry: RetryPolicy,
    deadline: Duration,
    clock: Clock,
    names: Vec<String>,
}

impl KbsClientBuilder {
    /// Trusts these certificates (PEM) and no others; without this, the machine's own authorities.
    #[must_use]
    pub fn root_certificate_pem(mut self, pem: impl Into<String>) -> Self {
        self.options.roots = Roots::Only(pem.into());
        self
    }

    /// Allows a plain `http://` address beyond this machine, where nothing proves that the broker answers and whoever
    /// sits between can read the token.
    #[must_use]
    pub fn insecure_http(mut self, allowed: bool) -> Self {
        self.options.insecure_http = allowed;
        self
    }

    /// Sends requests through the proxy that the environment names.
    #[must_use]
    pub fn proxy_from_environment(mut self) -> Self {
        self.options.route = Route::ProxyFromEnvironment;
        self
    }

    /// How evidence is made by a platform without further devices: from the report data it must contain.
    #[must_use]
    pub fn evidence<E: std::fmt::Display>(
        self,
        tee: Tee,
        collect: impl Fn(&[u8]) -> Result<CompositeEvidence, E> + Send + Sync + 'static,
    ) -> Self {
        self.composite_evidence(tee, move |challenged| {
            let evidence =
                collect(&challenged.report_data("")).map_err(|error| error.to_string())?;
            if evidence.additional_evidence.is_empty() {
                Ok(evidence)
            } else {
                Err(
                    "the CPU's evidence does not bind the devices' (use composite_evidence)"
                        .to_owned(),
                )
            }
        })
    }

    /// How evidence is made where devices attest as well: theirs first, then the CPU's over it.
    #[must_use]
    pub fn composite_evidence<E: std::fmt::Display>(
        mut self,
        tee: Tee,
        collect: impl Fn(&Challenged) -> Result<CompositeEvidence, E> + Send + Sync + 'static,
    ) -> Self {
        self.tee = Some((
            tee,
            Arc::new(move |challenged| collect(challenged).map_err(|error| error.to_string())),
        ));
        self
    }

    /// Sends the init-data that the platform measured at launch.
    #[must_use]
    pub fn initdata(mut self, initdata: Option<Initdata>) -> Self {
        self.initdata = initdata;
        self
    }

    /// The kind of key that secrets are encrypted to; P-256 unless called.
    #[must_use]
    pub fn key_algorithm(mut self, algorithm: KeyAlgorithm) -> Self {
        self.key_algorithm = algorithm;
        self
    }

    /// How often and how soon failures of network and broker are tried again.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// How long one call may take in all, retries included.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Tells the client's time by another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Answers URIs whose host is this one as well; without this, those that name the address alone. May be repeated.
    #[must_use]
    pub fn named(mut self, host: impl Into<String>) -> Self {
        self.names.push(host.into());
        self
    }

    /// Makes the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::BadUrl`], [`ClientError::BadRoots`]; [`ClientError::Evidence`] when no platform was given.
    pub fn build(self) -> Result<KbsClient, ClientError> {
        let endpoint = Endpoint::new(&self.url, self.options)?;
        let (tee, collect) = self.tee.ok_or_else(|| ClientError::Evidence {
            reason: "no platform was named for this client".to_owned(),
        })?;
        let address = endpoint
            .peer()
            .split_once("://")
            .map_or("", |(_, host)| host)
            .to_owned();
        let mut names = self.names;
        names.push(address);
        tracing::debug!(broker = %one_line(endpoint.peer(), 200), %tee, "client ready");
        Ok(KbsClient(Arc::new(Inner {
            endpoint,
            names,
            tee,
            collect,
            initdata: self.initdata,
            key_algorithm: self.key_algorithm,
            retry: self.retry,
            deadline: self.deadline,
            clock: self.clock,
            state: Mutex::default(),
        })))
    }
}
