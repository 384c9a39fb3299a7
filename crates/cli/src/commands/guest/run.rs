//! `strongroom guest run`: the agent beside applications.

use std::future::Future;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context as _;
use serde_json::json;
use strongroom_guest::ServeOptions;

use crate::commands::guest::agent::AttestArgs;
use crate::outcome::Outcome;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    attest: AttestArgs,

    /// Where to serve: a loopback address, or unix:/path for a socket that only this user may open.
    #[arg(
        long,
        default_value = "127.0.0.1:8006",
        value_name = "ADDRESS|unix:PATH"
    )]
    listen: Listen,
}

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<Outcome> {
    let agent = args.attest.agent()?;
    let listener = args.listen.bind()?;
    if let Listener::Tcp(listener) = &listener {
        strongroom_guest::check_listener(listener, ServeOptions::default())?;
    }
    let url = listener.url()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = told_to_stop()?;
        let stop = async {
            stop.await;
        };
        crate::cleanup::take_over();
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", json!({ "ready": true, "url": url, "broker": agent.broker(), "tee": agent.tee() }))?;
        } else {
            writeln!(out, "The guest (platform {}) serves {url} for the broker {}. Stop it with Ctrl-C.", agent.tee(), agent.broker())?;
            writeln!(out, "\nNext:\n  strongroom get kbs:///default/fraud-dataset/dataset_key --output KEYFILE --guest {url}")?;
        }
        out.flush()?;
        drop(out);
        match listener {
            Listener::Tcp(listener) => strongroom_guest::serve(agent, listener, stop).await?,
            Listener::Unix(socket) => strongroom_guest::serve_unix(agent, socket.listener.try_clone()?, ServeOptions::default(), stop).await?,
        }
        anyhow::Ok(())
    })?;
    Ok(Outcome::silent())
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
            Self::Unix(path) => Socket::bind(path).map(Listener::Unix),
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
            Self::Unix(socket) => Ok(format!("unix:{}", socket.path.display())),
        }
    }
}

/// A listening socket whose file goes when it is dropped.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds with mode 0600. A socket that a killed process left behind is replaced; one in use, or another file, is not.
    fn bind(path: &Path) -> anyhow::Result<Self> {
        let stale = path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.file_type().is_socket())
            && UnixStream::connect(path)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        if stale {
            std::fs::remove_file(path)?;
        }
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(mask);
        let listener =
            bound.with_context(|| format!("cannot listen on the socket {}", path.display()))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// Resolves when the process is told to stop, with the exit code that shells expect of one that ends by that signal.
pub(crate) fn told_to_stop() -> std::io::Result<impl Future<Output = u8> + Send + 'static> {
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
