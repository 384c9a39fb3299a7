//! `run`: the agent beside applications.

use std::future::Future;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::AttestArgs;
use crate::config::CdhConfig;
use crate::data::credentials::place;
use crate::error::GuestError;
use crate::image::PullOptions;
use crate::launch::{Prepared, socket_path};
use crate::placement::Placement;
use crate::serve::{
    ServeOptions, Socket, Tokens, TtrpcLimits, TtrpcService, check_listener, serve_ttrpc,
    serve_unix, serve_with,
};

/// Attest and serve http://127.0.0.1:8006/cdh/resource/... until told to stop
#[derive(clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    attest: AttestArgs,

    /// Where to serve: a loopback address, or unix:/path for a socket that only this user may open.
    #[arg(
        long,
        default_value = "127.0.0.1:8006",
        value_name = "ADDRESS|unix:PATH"
    )]
    listen: Listen,

    /// Answer those containers alone that send a token (Authorization: Bearer): the one in FILE, or each in a file of its
    /// own, which has the container's name, in DIR. DIR may change while the guest runs.
    #[arg(long, value_name = "FILE|DIR")]
    require_token: Option<PathBuf>,

    /// Offer the ttRPC services that Kata's agent and ocicrypt call as well: on guest-components' sockets below
    /// /run/confidential-containers, or below DIR [default: where cdh.toml says].
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    ttrpc: Option<Option<PathBuf>>,
}

impl RunArgs {
    /// Serves until told to stop; `take_over` is called when signals are heard here.
    ///
    /// # Errors
    /// What keeps the guest from starting.
    pub fn run(&self, json: bool, take_over: impl FnOnce()) -> anyhow::Result<()> {
        let Prepared { agent, cdh, .. } = self.attest.prepared()?;
        let tokens = self
            .require_token
            .as_deref()
            .map(Tokens::load)
            .transpose()
            .context("--require-token")?;
        let options = ServeOptions {
            tokens: tokens.map(Arc::new),
            ..ServeOptions::default()
        };
        let listener = self.listen.bind()?;
        if let Listener::Tcp(listener) = &listener {
            check_listener(listener, &options)?;
        }
        let url = listener.url()?;
        // Sockets are bound before there are threads.
        let services = self.services(&cdh)?;
        let sockets: Vec<String> = services
            .iter()
            .map(|(_, socket)| format!("unix://{}", socket.path().display()))
            .collect();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut stop = pin!(told_to_stop()?);
            take_over();
            // Programs may read these files as soon as this one is ready.
            tokio::select! {
                _ = &mut stop => return Ok(()),
                placed = place(&cdh.credentials, &agent, Placement::MemoryOnly) => placed?,
            }
            let mut out = std::io::stdout().lock();
            if json {
                let mut ready = json!({ "ready": true, "url": url, "broker": agent.broker(), "tee": agent.tee() });
                if !sockets.is_empty() {
                    ready["ttrpc"] = json!(sockets);
                }
                writeln!(out, "{ready}")?;
            } else {
                writeln!(out, "The guest (platform {}) serves {url} for the broker {}. Stop it with Ctrl-C.", agent.tee(), agent.broker())?;
                for socket in &sockets {
                    writeln!(out, "ttRPC on {socket}")?;
                }
                writeln!(out, "\nNext:\n  strongroom get kbs:///default/fraud-dataset/dataset_key --output KEYFILE --guest {url}")?;
            }
            out.flush()?;
            drop(out);
            let (told, hear) = watch::channel(false);
            let stopped = || {
                let mut hear = hear.clone();
                async move {
                    // Told, or nobody is left who could tell.
                    hear.wait_for(|told| *told).await.ok();
                }
            };
            let mut served: JoinSet<Result<(), GuestError>> = JoinSet::new();
            for (service, socket) in &services {
                let listener = socket.listener()?;
                let limits = TtrpcLimits::default();
                served.spawn(serve_ttrpc(agent.clone(), service.clone(), listener, limits, stopped()));
            }
            match &listener {
                Listener::Tcp(listener) => {
                    served.spawn(serve_with(agent, listener.try_clone()?, options, stopped()));
                }
                Listener::Unix(socket) => {
                    served.spawn(serve_unix(agent, socket.listener()?, options, stopped()));
                }
            }
            loop {
                let ended = tokio::select! {
                    _ = &mut stop, if !*told.borrow() => {
                        told.send_replace(true);
                        continue;
                    }
                    ended = served.join_next() => ended,
                };
                match ended {
                    Some(outcome) => outcome??,
                    None => return anyhow::Ok(()),
                }
            }
        })
    }

    /// What is served over ttRPC, and on which sockets.
    fn services(&self, cdh: &CdhConfig) -> anyhow::Result<Vec<(TtrpcService, Socket)>> {
        let Some(folder) = &self.ttrpc else {
            return Ok(Vec::new());
        };
        let pull = PullOptions::from_config(&cdh.image).context("cdh.toml, [image]")?;
        let wanted = [
            (
                TtrpcService::AttestationAgent,
                "aa.aa_socket",
                &cdh.aa.aa_socket,
            ),
            (TtrpcService::DataHub(Box::new(pull)), "socket", &cdh.socket),
        ];
        wanted
            .into_iter()
            .map(|(service, key, configured)| {
                let path = match (folder, configured) {
                    (Some(folder), _) => folder.join(service.socket_below()),
                    (None, Some(address)) => socket_path(key, address)?,
                    (None, None) => service.default_socket(),
                };
                Ok((service, Socket::bind_with_folder(&path)?))
            })
            .collect()
    }
}

/// Where the guest serves.
#[derive(Clone, Debug)]
enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(PathBuf::from(path))),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                "write an address and port such as 127.0.0.1:8006, or unix:/path".to_owned()
            }),
        }
    }
}

impl Listen {
    fn bind(&self) -> anyhow::Result<Listener> {
        match self {
            Self::Tcp(address) => {
                let listener = TcpListener::bind(address)
                    .with_context(|| format!("cannot listen on {address}"))?;
                Ok(Listener::Tcp(listener))
            }
            Self::Unix(path) => Ok(Listener::Unix(Socket::bind(path)?)),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(Socket),
}

impl Listener {
    fn url(&self) -> anyhow::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(format!("http://{}", listener.local_addr()?)),
            Self::Unix(socket) => Ok(format!("unix:{}", socket.path().display())),
        }
    }
}

/// Resolves when the process is told to stop, with the exit code that shells expect of one that ends by that signal.
///
/// # Errors
/// When a signal cannot be heard.
pub fn told_to_stop() -> std::io::Result<impl Future<Output = u8> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate, mut hangup, mut quit) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::quit())?,
    );
    Ok(async move {
        tokio::select! {
            _ = hangup.recv() => 129,
            _ = interrupt.recv() => 130,
            _ = quit.recv() => 131,
            _ = terminate.recv() => 143,
        }
    })
}
