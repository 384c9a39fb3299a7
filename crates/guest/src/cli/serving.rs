//! A guest that serves until it is told to stop: REST, ttRPC, and the sockets that both need.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::components::serve_rest_on_request;
use super::{files, notify, told_to_stop};
use crate::config::CdhConfig;
use crate::data::credentials::place;
use crate::error::GuestError;
use crate::image::PullOptions;
use crate::launch::{Prepared, socket_path};
use crate::placement::Placement;
use crate::serve::{
    Readiness, ServeOptions, Socket, TtrpcLimits, TtrpcService, serve_ttrpc, serve_unix, serve_with,
};

/// What is served, on listeners that are bound.
pub(super) struct Serving {
    pub(super) prepared: Prepared,
    /// The REST API.
    pub(super) rest: Option<Listener>,
    pub(super) options: ServeOptions,
    /// The ttRPC services.
    pub(super) services: Vec<(TtrpcService, Socket)>,
    /// Where the REST API is asked for by another program.
    pub(super) control: Option<Socket>,
    /// How long is tried again to fetch what must lie in its files first.
    pub(super) wait: Duration,
    pub(super) json: bool,
}

impl Serving {
    /// Serves until told to stop; `take_over` is called when signals are heard here.
    pub(super) fn run(self, take_over: impl FnOnce()) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.serve(take_over))
    }

    async fn serve(self, take_over: impl FnOnce()) -> anyhow::Result<()> {
        let mut stop = pin!(told_to_stop()?);
        take_over();
        let Prepared { agent, cdh, .. } = &self.prepared;
        let readiness = Readiness::starting();
        let options = ServeOptions {
            readiness: readiness.clone(),
            ..self.options.clone()
        };
        let (told, hear) = watch::channel(false);
        let stopped = || {
            let mut hear = hear.clone();
            async move {
                // Told, or nobody is left who could tell.
                hear.wait_for(|told| *told).await.ok();
            }
        };
        let mut served: JoinSet<Result<(), GuestError>> = JoinSet::new();
        for (service, socket) in &self.services {
            let (agent, service, listener) = (agent.clone(), service.clone(), socket.listener()?);
            let limits = TtrpcLimits::default();
            served.spawn(serve_ttrpc(agent, service, listener, limits, stopped()));
        }
        if let Some(socket) = &self.control {
            let (agent, listener) = (agent.clone(), socket.listener()?);
            let ended = hear.clone();
            served.spawn(serve_rest_on_request(
                agent,
                listener,
                options.clone(),
                ended,
            ));
        }
        match &self.rest {
            Some(Listener::Tcp(listener)) => {
                let listener = listener.try_clone()?;
                served.spawn(serve_with(agent.clone(), listener, options, stopped()));
            }
            Some(Listener::Unix(socket)) => {
                let listener = socket.listener()?;
                served.spawn(serve_unix(agent.clone(), listener, options, stopped()));
            }
            None => {}
        }
        // Programs may read these files as soon as this one is ready.
        let mut placing = pin!(place(
            &cdh.credentials,
            agent,
            Placement::MemoryOnly,
            self.wait
        ));
        let mut outcome = Ok(());
        loop {
            let ended = tokio::select! {
                _ = &mut stop, if !*told.borrow() => {
                    notify::stopping();
                    told.send_replace(true);
                    continue;
                }
                placed = &mut placing, if !readiness.is_reached() && !*told.borrow() => {
                    match placed {
                        Ok(()) => {
                            readiness.reach();
                            self.say_ready()?;
                        }
                        Err(error) => {
                            outcome = Err(error.into());
                            told.send_replace(true);
                        }
                    }
                    continue;
                }
                ended = served.join_next() => ended,
            };
            match ended {
                Some(ended) => ended??,
                None => return outcome,
            }
        }
    }

    fn say_ready(&self) -> anyhow::Result<()> {
        let agent = &self.prepared.agent;
        let url = self.rest.as_ref().map(Listener::url).transpose()?;
        let sockets: Vec<String> = self
            .services
            .iter()
            .map(|(_, socket)| format!("unix://{}", socket.path().display()))
            .collect();
        let mut out = std::io::stdout().lock();
        if self.json {
            let mut ready =
                json!({ "ready": true, "url": url, "broker": agent.broker(), "tee": agent.tee() });
            if !sockets.is_empty() {
                ready["ttrpc"] = json!(sockets);
            }
            writeln!(out, "{ready}")?;
        } else {
            let serves = url.as_deref().unwrap_or("ttRPC");
            writeln!(
                out,
                "The guest (platform {}) serves {serves} for the broker {}. Stop it with Ctrl-C.",
                agent.tee(),
                agent.broker()
            )?;
            for socket in &sockets {
                writeln!(out, "ttRPC on {socket}")?;
            }
            if let Some(url) = url {
                writeln!(
                    out,
                    "\nNext:\n  strongroom get kbs:///default/fraud-dataset/dataset_key --output KEYFILE --guest {url}"
                )?;
            }
        }
        out.flush()?;
        notify::ready("the guest serves");
        Ok(())
    }
}

/// The ttRPC services, on the sockets that are named: below a folder, by the data hub's configuration, or upstream's.
pub(super) fn services(
    cdh: &CdhConfig,
    folder: Option<&PathBuf>,
    agents: Option<&str>,
) -> anyhow::Result<Vec<(TtrpcService, Socket)>> {
    let pull = PullOptions::from_config(&cdh.image).context("cdh.toml, [image]")?;
    let of_agent = match agents {
        Some(address) => Some(("--attestation_sock", address)),
        None => cdh
            .aa
            .aa_socket
            .as_deref()
            .map(|socket| ("aa.aa_socket", socket)),
    };
    let of_hub = cdh.socket.as_deref().map(|socket| ("socket", socket));
    let wanted = [
        (TtrpcService::AttestationAgent, of_agent),
        (TtrpcService::DataHub(Box::new(pull)), of_hub),
    ];
    wanted
        .into_iter()
        .map(|(service, configured)| {
            let path = match (folder, configured) {
                (Some(folder), _) => folder.join(service.socket_below()),
                (None, Some((key, address))) => socket_path(key, address)?,
                (None, None) => service.default_socket(),
            };
            let socket = Socket::bind_with_folder(&path)?;
            if matches!(service, TtrpcService::DataHub(_)) {
                tell_ocicrypt(&path)?;
            }
            Ok((service, socket))
        })
        .collect()
}

/// Writes where ocicrypt's programs find the keys of images, in the file that upstream's data hub writes it into:
/// `cdh/ocicrypt_config.json` beside its socket.
fn tell_ocicrypt(socket: &Path) -> anyhow::Result<()> {
    let folder = socket.with_file_name("cdh");
    let path = folder.join("ocicrypt_config.json");
    let written = json!({
        "key-providers": { "attestation-agent": { "ttrpc": format!("unix://{}", socket.display()) } }
    });
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    files::replace(&path, 0o644, format!("{written:#}\n").as_bytes())
}

/// Where the guest serves.
#[derive(Clone, Debug)]
pub(super) enum Listen {
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
    pub(super) fn bind(&self) -> anyhow::Result<Listener> {
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

pub(super) enum Listener {
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
