//! guest-components' three programs, by their names and arguments, for images whose agent or service manager starts them.
//!
//! There is one guest: `attestation-agent` is it, with the sockets of both daemons. `confidential-data-hub` waits until
//! its socket answers, and stays. `api-server-rest` asks the guest for the REST API, over a socket that only the guest's
//! user may open, and the API goes when it ends, so that its arguments alone decide whether there is one.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::serving::{Serving, services};
use super::{AttestArgs, cleanup, log, told_to_stop};
use crate::attestation::Agent;
use crate::config::{CdhConfig, Document as _};
use crate::error::GuestError;
use crate::launch::socket_path;
use crate::serve::{Features, ServeOptions, Socket, TtrpcService, check_listener, serve_with};

/// The command that answers to a program's name, if it is one of guest-components'.
pub fn of_program(name: &str) -> Option<&'static str> {
    match name {
        // The other one of upstream's images, which has the attester of NVIDIA's devices.
        "attestation-agent" | "attestation-agent-nv" => Some("attestation-agent"),
        "confidential-data-hub" => Some("confidential-data-hub"),
        "api-server-rest" => Some("api-server-rest"),
        _ => None,
    }
}

/// Serve as guest-components' attestation-agent does, and as its data hub, to whom kata-agent starts
#[derive(clap::Args)]
pub struct AttestationAgentArgs {
    /// Where the attestation agent's ttRPC socket is.
    #[arg(
        short = 'a',
        long = "attestation_sock",
        default_value = "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock",
        value_name = "URI"
    )]
    attestation_sock: String,

    /// aa.toml. The cdh.toml that lies beside it is the data hub's.
    #[arg(short = 'c', long, value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// The init-data that this machine was launched with.
    #[arg(short = 't', long, value_name = "FILE")]
    initdata_toml: Option<PathBuf>,

    /// The digest that the init-data must have, standard base64.
    #[arg(short = 'i', long, value_name = "BASE64")]
    initdata_digest: Option<String>,

    #[command(flatten)]
    attest: AttestArgs,
}

impl AttestationAgentArgs {
    /// Serves until told to stop.
    ///
    /// # Errors
    /// What keeps the guest from starting.
    pub fn run(&self, json: bool) -> anyhow::Result<()> {
        let mut attest = self.attest.clone();
        attest.broker_is_optional = true;
        if let Some(path) = &self.config_file {
            let beside = path.with_file_name("cdh.toml");
            if attest.cdh_config.is_none() && beside.exists() {
                attest.cdh_config = Some(beside);
            }
            attest.aa_config = Some(path.clone());
        }
        if let Some(path) = &self.initdata_toml {
            attest.initdata = Some(path.clone());
        }
        let prepared = attest.prepared()?;
        log::follow(&prepared);
        if let Some(digest) = &self.initdata_digest {
            let digest = STANDARD.decode(digest);
            ensure!(
                digest.is_ok_and(|digest| prepared.agent.initdata_digest() == Some(&*digest)),
                "--initdata-digest is not the digest of the init-data here: hand the document over with --initdata-toml"
            );
        }
        let services = services(&prepared.cdh, None, Some(&self.attestation_sock))?;
        let control = control_of(&socket_path("--attestation_sock", &self.attestation_sock)?);
        let serving = Serving {
            prepared,
            rest: None,
            options: ServeOptions::default(),
            services,
            control: Some(Socket::bind_with_folder(&control)?),
            wait: PATIENCE,
            json,
        };
        serving.run(cleanup::take_over)
    }
}

/// Wait until the data hub's socket answers, which attestation-agent serves, and stay
#[derive(clap::Args)]
pub struct DataHubArgs {
    /// cdh.toml. Only where its socket is counts here: attestation-agent reads the one beside its aa.toml.
    #[arg(short = 'c', long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl DataHubArgs {
    /// Stays until told to stop.
    ///
    /// # Errors
    /// When nothing answers at the socket, or nothing does any more.
    pub fn run(&self) -> anyhow::Result<()> {
        let config = self.config.as_deref().map(CdhConfig::load).transpose()?;
        let socket = config.and_then(|read| read.config.socket);
        let path = match socket {
            Some(address) => socket_path("socket", &address)?,
            None => TtrpcService::DataHub(Box::default()).default_socket(),
        };
        stay(async || {
            let mut stream = connect(&path).await?;
            println!("The data hub answers on unix://{}.", path.display());
            Ok(async move { ended(&mut stream).await })
        })
    }
}

/// Have the guest serve its REST API as guest-components' api-server-rest does, for as long as this runs
#[derive(clap::Args)]
pub struct ApiServerRestArgs {
    /// Where to serve: a loopback address.
    #[arg(
        short = 'b',
        long,
        default_value = "127.0.0.1:8006",
        value_name = "ADDRESS"
    )]
    bind: SocketAddr,

    /// Which parts: resource, attestation or all.
    #[arg(short = 'f', long, default_value = "resource", value_name = "FEATURES")]
    features: Features,

    /// The attestation agent's socket.
    #[arg(
        short = 'a',
        long = "aa_addr",
        default_value = "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock",
        value_name = "URI"
    )]
    aa_addr: String,

    /// The data hub's socket, which is not needed: the attestation agent is the same program.
    #[arg(short = 'c', long = "cdh_addr", value_name = "URI")]
    cdh_addr: Option<String>,
}

impl ApiServerRestArgs {
    /// Stays until told to stop.
    ///
    /// # Errors
    /// When the guest cannot be asked, refuses, or has ended.
    pub fn run(&self) -> anyhow::Result<()> {
        let control = control_of(&socket_path("--aa_addr", &self.aa_addr)?);
        let asked = Asked {
            bind: self.bind,
            features: self.features.as_str().to_owned(),
        };
        stay(async || {
            let mut stream = connect(&control).await?;
            let line = format!("{}\n", serde_json::to_string(&asked)?);
            stream.write_all(line.as_bytes()).await?;
            let mut answer = String::new();
            let mut reader = BufReader::new((&mut stream).take(MAX_LINE));
            reader.read_line(&mut answer).await?;
            match serde_json::from_str(&answer).context("the guest's answer")? {
                Answer::Url(url) => println!("The guest serves {url}."),
                Answer::Error(error) => bail!("the guest does not serve its REST API: {error}"),
            }
            Ok(async move { ended(&mut stream).await })
        })
    }
}

/// What the guest is asked for, a line of JSON.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    bind: SocketAddr,
    features: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Url(String),
    Error(String),
}

/// Serves the REST API for each program that asks for it and as long as that runs.
pub(super) async fn serve_rest_on_request(
    agent: Agent,
    listener: UnixListener,
    options: ServeOptions,
    mut told: watch::Receiver<bool>,
) -> Result<(), GuestError> {
    let failed = |error: std::io::Error| GuestError::Serve {
        reason: error.to_string(),
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
    let mut asking = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = told.wait_for(|told| *told) => break,
            accepted = listener.accept() => accepted,
        };
        while asking.try_join_next().is_some() {}
        let Ok((stream, _)) = accepted else {
            // Out of files, most likely: others may be closed meanwhile.
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let (agent, options, told) = (agent.clone(), options.clone(), told.clone());
        asking.spawn(async move {
            if let Err(error) = serve_rest(agent, stream, options, told).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the REST API was asked for in vain"
                );
            }
        });
    }
    while asking.join_next().await.is_some() {}
    Ok(())
}

async fn serve_rest(
    agent: Agent,
    mut stream: UnixStream,
    options: ServeOptions,
    mut told: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new((&mut stream).take(MAX_LINE));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let bound = bind(&line, options);
    let answer = match &bound {
        Ok((listener, _)) => Answer::Url(format!("http://{}", listener.local_addr()?)),
        Err(error) => Answer::Error(format!("{error:#}")),
    };
    let answer = format!("{}\n", serde_json::to_string(&answer)?);
    stream.write_all(answer.as_bytes()).await?;
    let (listener, options) = bound?;
    let until = async move {
        tokio::select! {
            _ = ended(&mut stream) => {}
            _ = told.wait_for(|told| *told) => {}
        }
    };
    Ok(serve_with(agent, listener, options, until).await?)
}

fn bind(line: &str, options: ServeOptions) -> anyhow::Result<(TcpListener, ServeOptions)> {
    let Asked { bind, features } = serde_json::from_str(line).context("what was asked")?;
    let options = ServeOptions {
        features: features.parse().map_err(anyhow::Error::msg)?,
        ..options
    };
    let listener = TcpListener::bind(bind).with_context(|| format!("cannot listen on {bind}"))?;
    check_listener(&listener, &options)?;
    Ok((listener, options))
}

/// Where the guest is asked for its REST API: beside the attestation agent's socket.
fn control_of(socket: &Path) -> PathBuf {
    socket.with_file_name("api-server-rest.sock")
}

/// Runs until told to stop, or until what was `begun` has ended.
fn stay<F>(begin: impl AsyncFnOnce() -> anyhow::Result<F>) -> anyhow::Result<()>
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut stop = pin!(told_to_stop()?);
        cleanup::take_over();
        let begun = tokio::select! {
            _ = &mut stop => return Ok(()),
            begun = begin() => begun?,
        };
        tokio::select! {
            _ = &mut stop => Ok(()),
            () = begun => bail!("the guest (attestation-agent) has ended"),
        }
    })
}

async fn connect(path: &Path) -> anyhow::Result<UnixStream> {
    let since = Instant::now();
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if since.elapsed() > PATIENCE => {
                return Err(error).with_context(|| {
                    format!(
                        "nothing answers on {} within {} s: attestation-agent serves it, with the cdh.toml of the init-data \
                         or the one beside its aa.toml",
                        path.display(),
                        PATIENCE.as_secs()
                    )
                });
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Resolves when the other side is gone: it sends nothing.
async fn ended(stream: &mut UnixStream) {
    let mut byte = [0];
    // Whatever comes, or its end: the connection is over.
    let _read = stream.read(&mut byte).await;
}

const PATIENCE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(20);
const MAX_LINE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_another_program_is_one_of_upstreams() {
        for other in ["strongroom-guest", "attestation-agent2", "", "api-server"] {
            assert_eq!(of_program(other), None, "{other}");
        }
        assert_eq!(
            of_program("attestation-agent-nv"),
            Some("attestation-agent")
        );
    }

    #[test]
    fn rest_api_is_opened_to_the_network_or_with_parts_that_are_none() {
        let asked = |line: &str| bind(line, ServeOptions::default()).map(drop);
        for (line, said) in [
            (
                r#"{"bind":"0.0.0.0:0","features":"all"}"#,
                "not a loopback address",
            ),
            (
                r#"{"bind":"127.0.0.1:0","features":"any"}"#,
                "resource, attestation and all",
            ),
            (r#"{"bind":"127.0.0.1:0"}"#, "what was asked"),
            ("", "what was asked"),
        ] {
            let error = asked(line).map_err(|error| format!("{error:#}"));
            assert!(
                error.as_ref().is_err_and(|error| error.contains(said)),
                "{line}: {error:?}"
            );
        }
        assert!(asked(r#"{"bind":"127.0.0.1:0","features":"all"}"#).is_ok());
    }
}
