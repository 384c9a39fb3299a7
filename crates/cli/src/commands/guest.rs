//! `strongroom guest`: the agent beside applications, and the start of an application that needs unsealed values.

use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::json;
use strongroom_attester::{Attester, Devices};
use strongroom_client::guest_api::GuestApi;
use strongroom_guest::exec::{Placement, SealedFile, prepare};
use strongroom_guest::{Agent, AgentConfig, ServeOptions, Source};
use strongroom_wire::initdata::Initdata;

use crate::commands::initdata;
use crate::connect::{block_on, read_pem};
use crate::keys::GuestArgs;
use crate::outcome::Outcome;

/// Run the guest: attests and serves secrets to applications beside it.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Attest and serve http://127.0.0.1:8006/cdh/resource/... until told to stop
    Run(RunArgs),
    /// Unseal environment values and files, then become APP; if one fails, APP does not start
    Exec(ExecArgs),
}

#[derive(clap::Args)]
struct RunArgs {
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

/// How this machine attests, and to whom.
#[derive(clap::Args, Clone)]
pub(crate) struct AttestArgs {
    /// The broker's URL [default: the one in the init-data].
    #[arg(long, env = "STRONGROOM_BROKER", value_name = "URL")]
    broker: Option<String>,

    /// The broker's certificate, PEM [default: the one in the init-data].
    #[arg(long, env = "STRONGROOM_BROKER_CERT", value_name = "PEM")]
    broker_cert: Option<PathBuf>,

    /// The init-data that this machine measured at launch.
    #[arg(long, value_name = "FILE")]
    initdata: Option<PathBuf>,

    /// The platform, when it is not to be looked for. `sample` and `development` prove nothing and must be named.
    /// `development` signs SNP evidence under a root of yours; so does development:tdx, :sgx, :tpm, :az-snp-vtpm or
    /// :az-tdx-vtpm for its platform.
    #[arg(long, value_name = "NAME")]
    platform: Option<String>,

    /// The folder of the root that `--platform development` signs under; it is made there on first use. A broker
    /// believes its evidence only when DIR, or its root.pem and collateral, was given to it as `[development] root`.
    #[arg(long, env = "STRONGROOM_DEVELOPMENT_ROOT", value_name = "DIR")]
    development_root: Option<PathBuf>,

    /// Follow --broker and --broker-cert even where the measured init-data names another broker.
    #[arg(long)]
    insecure_override_measured_broker: bool,

    /// Speak to a broker beyond this machine without TLS. Whoever sits between can answer in its place.
    #[arg(long)]
    insecure_http: bool,
}

impl AttestArgs {
    /// Finds platform, broker and certificate.
    pub(crate) fn agent(&self) -> anyhow::Result<Agent> {
        let initdata = self.initdata.as_deref().map(initdata::read).transpose()?;
        let measured = initdata
            .as_ref()
            .map(measured_broker)
            .transpose()?
            .unwrap_or_default();
        let mut attester = match &self.platform {
            Some(name) => Attester::named_with_root(name, self.development_root.as_deref())?,
            None => Attester::detect(&Devices::default())?.attester,
        };
        let certificate = self.broker_cert.as_deref().map(read_pem).transpose()?;
        let Choice {
            broker,
            certificate,
        } = choose(
            measured,
            self.broker.clone(),
            certificate,
            self.insecure_override_measured_broker,
        )?;
        if let Some(initdata) = &initdata {
            attester = attester.with_initdata(initdata);
        }
        let mut config = AgentConfig::new(broker, attester);
        config.root_certificate_pem = certificate;
        config.insecure_http = self.insecure_http;
        config.initdata = initdata;
        Ok(Agent::new(config)?)
    }
}

#[derive(clap::Args)]
struct ExecArgs {
    /// A sealed file and the place of its plaintext, which must lie on tmpfs; may be repeated.
    #[arg(long, value_name = "SEALED=PLAINTEXT", value_parser = parse_file)]
    file: Vec<SealedFile>,

    /// Allow plaintext files on any file system, disks included.
    #[arg(long)]
    insecure_any_filesystem: bool,

    #[command(flatten)]
    guest: GuestArgs,

    /// The application and its arguments, after --
    #[arg(last = true, required = true, value_name = "APP")]
    app: Vec<OsString>,
}

fn parse_file(text: &str) -> Result<SealedFile, String> {
    text.parse()
        .map_err(|error: strongroom_guest::GuestError| error.to_string())
}

pub(crate) fn run(args: Args, json: bool) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Run(args) => serve(&args, json),
        Action::Exec(args) => exec(&args),
    }
}

fn serve(args: &RunArgs, json: bool) -> anyhow::Result<Outcome> {
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

fn exec(args: &ExecArgs) -> anyhow::Result<Outcome> {
    let source = Source::Rest(GuestApi::new(&args.guest.guest)?);
    let placement = if args.insecure_any_filesystem {
        Placement::InsecureAnyFilesystem
    } else {
        Placement::MemoryOnly
    };
    let mut on_place = |path: &Path, place: &mut dyn FnMut() -> std::io::Result<()>| {
        crate::cleanup::make(|| Ok((place()?, path.to_owned())))
    };
    let prepared = block_on(prepare(
        &source,
        std::env::vars_os(),
        &args.file,
        placement,
        &mut on_place,
    ))?
    .context("the application was not started")?;
    let (program, arguments) = args
        .app
        .split_first()
        .context("say which application to start, after --")?;
    // Returns only when the application could not be started; then `prepared` removes the files again.
    let error = prepared.command(program, arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.to_string_lossy()))
}

/// Resolves when the process is told to stop.
pub(crate) fn told_to_stop() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate, mut hangup, mut quit) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::quit())?,
    );
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    })
}

/// The broker to attest to, and the certificate it must prove to have.
#[derive(Debug, Eq, PartialEq)]
struct Choice {
    broker: String,
    certificate: Option<String>,
}

/// What was measured at launch wins: who starts the guest must not send it to a broker of their own, which could answer
/// with another recipient, signing key or model.
fn choose(
    measured: MeasuredBroker,
    broker: Option<String>,
    certificate: Option<String>,
    insecure_override: bool,
) -> anyhow::Result<Choice> {
    let Some(url) = measured
        .url
        .filter(|_| !insecure_override || broker.is_none())
    else {
        let broker = broker.context(
            "no broker is named: use --broker URL, or --initdata with a document that names one (strongroom initdata new)",
        )?;
        return Ok(Choice {
            broker,
            certificate: certificate.or(measured.certificate),
        });
    };
    if broker.is_some_and(|broker| broker != url) {
        bail!(
            "--broker (or STRONGROOM_BROKER) names another broker than the measured init-data, which names {url}: leave it out"
        );
    }
    if certificate.is_some() && certificate != measured.certificate {
        bail!(
            "--broker-cert (or STRONGROOM_BROKER_CERT) is not the certificate of the measured init-data: leave it out"
        );
    }
    Ok(Choice {
        broker: url,
        certificate: measured.certificate,
    })
}

/// The broker that init-data names.
#[derive(Default)]
struct MeasuredBroker {
    url: Option<String>,
    certificate: Option<String>,
}

fn measured_broker(initdata: &Initdata) -> anyhow::Result<MeasuredBroker> {
    let Some(text) = initdata.data().get("aa.toml") else {
        return Ok(MeasuredBroker::default());
    };
    let table: toml::Table = text
        .parse()
        .context("aa.toml in the init-data is not TOML")?;
    let kbs = table
        .get("token_configs")
        .and_then(|configs| configs.get("kbs"));
    let member = |name: &str| {
        kbs.and_then(|kbs| kbs.get(name)?.as_str())
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    Ok(MeasuredBroker {
        url: member("url"),
        certificate: member("cert"),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn measured() -> MeasuredBroker {
        MeasuredBroker {
            url: Some("https://good:1".to_owned()),
            certificate: Some("good".to_owned()),
        }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn host_redirects_the_guest_to_another_broker() {
        let error = choose(measured(), some("https://evil:1"), None, false).unwrap_err();
        assert!(error.to_string().contains("https://good:1"));
        assert!(choose(measured(), None, some("evil"), false).is_err());
        assert!(choose(measured(), some("https://good:1"), some("evil"), false).is_err());
    }

    #[test]
    fn measured_broker_is_used_and_an_equal_option_changes_nothing() {
        let chosen = choose(measured(), some("https://good:1"), some("good"), false).unwrap();
        assert_eq!(chosen, choose(measured(), None, None, false).unwrap());
        assert_eq!(
            (chosen.broker.as_str(), chosen.certificate.as_deref()),
            ("https://good:1", Some("good"))
        );
    }

    #[test]
    fn named_override_is_followed() {
        let chosen = choose(measured(), some("https://other:1"), some("other"), true).unwrap();
        assert_eq!(
            (chosen.broker.as_str(), chosen.certificate.as_deref()),
            ("https://other:1", Some("other"))
        );
    }

    #[test]
    fn options_count_where_nothing_is_measured() {
        let chosen = choose(
            MeasuredBroker::default(),
            some("https://b:1"),
            some("c"),
            false,
        )
        .unwrap();
        assert_eq!(chosen.broker, "https://b:1");
        assert!(choose(MeasuredBroker::default(), None, None, false).is_err());
    }
}
