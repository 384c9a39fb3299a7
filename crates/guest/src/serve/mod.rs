//! Serving the agent to the applications of this machine.

mod paced;
mod rest;
mod socket;
mod tokens;
pub(crate) mod ttrpc;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::attestation::Agent;
use crate::error::GuestError;

use paced::Paced;
pub use rest::{is_loopback_host, router};
pub use socket::Socket;
pub use tokens::Tokens;
pub use ttrpc::{TtrpcLimits, TtrpcService, serve_ttrpc};

/// Serves the REST API on loopback until `shutdown` resolves.
///
/// # Errors
/// [`GuestError::NotLoopback`] when the listener can be reached by others.
pub async fn serve(
    agent: Agent,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), GuestError> {
    serve_with(agent, listener, ServeOptions::default(), shutdown).await
}

/// Serves the REST API as the options say, until `shutdown` resolves. Requests that are being answered then have
/// [`Limits::grace`] to end.
///
/// # Errors
/// As [`check_listener`].
pub async fn serve_with(
    agent: Agent,
    listener: TcpListener,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), GuestError> {
    let address = check_listener(&listener, &options)?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "the guest's API listens beyond loopback: whoever reaches it gets the secrets");
    }
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    tracing::info!(%address, broker = agent.broker(), tee = %agent.tee(), "the guest is ready");
    let limits = options.limits;
    let app = router(agent, options);
    let app = |peer: SocketAddr| app.clone().layer(Extension(ConnectInfo(peer)));
    serve_connections(listener, app, limits, shutdown).await;
    Ok(())
}

/// Checks that no other machine can reach a listener unless the options name that: for a caller that says it is ready
/// before it serves.
///
/// # Errors
/// [`GuestError::NotLoopback`] when others can reach it, [`GuestError::Serve`] when it has no address.
pub fn check_listener(
    listener: &TcpListener,
    options: &ServeOptions,
) -> Result<SocketAddr, GuestError> {
    let address = listener.local_addr().map_err(failed)?;
    match options.exposure {
        Exposure::LoopbackOnly if !address.ip().is_loopback() => {
            Err(GuestError::NotLoopback { address })
        }
        _ => Ok(address),
    }
}

/// Serves the REST API on a Unix socket until `shutdown` resolves. Who may connect is the socket file's mode to say;
/// nothing that listens to the network can hear it.
///
/// # Errors
/// [`GuestError::Serve`] when the socket cannot be used.
pub async fn serve_unix(
    agent: Agent,
    listener: UnixListener,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), GuestError> {
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
    tracing::info!(broker = agent.broker(), tee = %agent.tee(), "the guest is ready on its socket");
    let limits = options.limits;
    let app = router(agent, options).layer(Extension(rest::UnixPeer));
    serve_connections(listener, |_| app.clone(), limits, shutdown).await;
    Ok(())
}

/// The one loop over connections. `axum::serve` bounds neither how long a request's head may take or an answer may lie
/// unread, nor how many connections there are, nor how long the end may take. [`rest`] bounds how long a body may take.
async fn serve_connections<L: Listener>(
    mut listener: L,
    app: impl Fn(L::Addr) -> Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, (stream, peer)) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        while connections.try_join_next().is_some() {}
        let service = TowerToHyperService::new(app(peer));
        let stream = Paced::new(stream, limits.answer);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        let mut stopped = stopped.clone();
        connections.spawn(async move {
            let _slot = slot;
            let mut connection = pin!(connection);
            let outcome = tokio::select! {
                outcome = connection.as_mut() => outcome,
                _ = stopped.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = outcome {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    drop(listener);
    stop.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, all_ended).await.is_err() {
        tracing::warn!(
            open = connections.len(),
            "connections that did not end by themselves were cut"
        );
    }
}

fn failed(error: std::io::Error) -> GuestError {
    GuestError::Serve {
        reason: error.to_string(),
    }
}

/// How the API is served. The default is the strict choice.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Which parts of the API exist.
    pub features: Features,
    /// Who may ask.
    pub exposure: Exposure,
    /// The tokens of the containers that may ask; without it, every process that reaches the API may.
    pub tokens: Option<Arc<Tokens>>,
    /// How much of it clients may hold up.
    pub limits: Limits,
    /// What `/healthz` says.
    pub readiness: Readiness,
}

/// Whether the guest is ready: what applications rely on lies in its place. It is, unless it is said to be starting.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Of a guest that is starting.
    pub fn starting() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// It is ready from now on.
    pub fn reach(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is.
    pub fn is_reached(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

/// What bounds how much clients hold up, whatever they send or do not send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How long the head of a request may take, and how long a connection may stay idle.
    pub head: Duration,
    /// How long the body of a request may take.
    pub body: Duration,
    /// How long an answer may lie unread.
    pub answer: Duration,
    /// How long connections may take to end when the guest is told to stop.
    pub grace: Duration,
    /// How many connections are served at a time; further ones wait.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            connections: 1024,
        }
    }
}

/// Which parts of the API exist, in upstream's words.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Features {
    /// `/cdh/resource` only.
    #[default]
    Resource,
    /// `/aa/...` only.
    Attestation,
    /// Both.
    All,
}

impl FromStr for Features {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Resource, Self::Attestation, Self::All]
            .into_iter()
            .find(|features| features.as_str() == text)
            .ok_or_else(|| "the parts are resource, attestation and all".to_owned())
    }
}

impl Features {
    /// The name in `/info`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resource => "resource",
            Self::Attestation => "attestation",
            Self::All => "all",
        }
    }

    fn resource(self) -> bool {
        self != Self::Attestation
    }

    fn attestation(self) -> bool {
        self != Self::Resource
    }
}

/// Who may ask.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Exposure {
    /// Processes of this network namespace, under a loopback name.
    #[default]
    LoopbackOnly,
    /// Whoever reaches the port, under any name. Nothing then guards the secrets.
    InsecureNetwork,
}
