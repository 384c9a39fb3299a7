//! Serving the agent to the applications of this machine.

mod rest;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use axum::Extension;
use serde::Deserialize;

use crate::attestation::Agent;
use crate::error::GuestError;

pub use rest::{is_loopback_host, router};

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

/// Serves the REST API as the options say, until `shutdown` resolves.
///
/// # Errors
/// [`GuestError::NotLoopback`] when the listener can be reached by others and the options do not name that.
pub async fn serve_with(
    agent: Agent,
    listener: TcpListener,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), GuestError> {
    let failed = |error: std::io::Error| GuestError::Serve {
        reason: error.to_string(),
    };
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback() {
        if options.exposure == Exposure::LoopbackOnly {
            return Err(GuestError::NotLoopback { address });
        }
        tracing::warn!(%address, "the guest's API listens beyond loopback: whoever reaches it gets the secrets");
    }
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    tracing::info!(%address, broker = agent.broker(), tee = %agent.tee(), "the guest is ready");
    let app = router(agent, options).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(failed)
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
    let failed = |error: std::io::Error| GuestError::Serve {
        reason: error.to_string(),
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
    tracing::info!(broker = agent.broker(), tee = %agent.tee(), "the guest is ready on its socket");
    let app = router(agent, options).layer(Extension(rest::UnixPeer));
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown)
        .await
        .map_err(failed)
}

/// How the API is served. The default is the strict choice.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServeOptions {
    /// Which parts of the API exist.
    pub features: Features,
    /// Who may ask.
    pub exposure: Exposure,
}

/// Which parts of the API exist, in upstream's words.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Features {
    /// `/cdh/resource` only.
    Resource,
    /// `/aa/...` only.
    Attestation,
    /// Both.
    #[default]
    All,
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
