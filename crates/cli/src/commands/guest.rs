//! `strongroom guest`: the agent beside applications, and the start of an application that needs unsealed values.

use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::json;
use strongroom_attester::Attester;
use strongroom_client::guest_api::GuestApi;
use strongroom_guest::exec::{Placement, SealedFile, prepare};
use strongroom_guest::{Agent, AgentConfig, Source};
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

    /// Where to serve; loopback only.
    #[arg(long, default_value = "127.0.0.1:8006", value_name = "ADDRESS")]
    listen: SocketAddr,

    #[command(flatten)]
    parent: ParentArgs,
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

    /// The platform, when it is not to be looked for. `sample` proves nothing and must be named.
    #[arg(long, value_name = "NAME")]
    platform: Option<String>,
}

impl AttestArgs {
    /// Finds platform, broker and certificate.
    pub(crate) fn agent(&self) -> anyhow::Result<Agent> {
        let initdata = self.initdata.as_deref().map(initdata::read).transpose()?;
        let measured = initdata.as_ref().map(measured_broker).transpose()?.unwrap_or_default();
        let Some(broker) = self.broker.clone().or(measured.url) else {
            bail!("no broker is named: use --broker URL, or --initdata with a document that names one (strongroom initdata new)");
        };
        let mut attester = match &self.platform {
            Some(name) => Attester::named(name)?,
            None => Attester::detect()?,
        };
        if let Some(initdata) = &initdata {
            attester = attester.with_initdata(initdata);
        }
        let mut config = AgentConfig::new(broker, attester);
        config.root_certificate_pem = match &self.broker_cert {
            Some(path) => Some(read_pem(path)?),
            None => measured.certificate,
        };
        config.initdata = initdata;
        Ok(Agent::new(config)?)
    }
}

/// Ends a server with the process that started it.
#[derive(clap::Args, Clone)]
pub(crate) struct ParentArgs {
    /// Stop when this parent process ends.
    #[arg(long, hide = true, value_name = "PID")]
    exit_with_parent: Option<i32>,
}

impl ParentArgs {
    pub(crate) fn follow(&self) -> anyhow::Result<()> {
        if let Some(parent) = self.exit_with_parent {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
            // The parent may have ended before the line above.
            let now = rustix::process::getppid().map(rustix::process::Pid::as_raw_nonzero).map(std::num::NonZero::get);
            anyhow::ensure!(now == Some(parent), "the parent process has ended");
        }
        Ok(())
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
    text.parse().map_err(|error: strongroom_guest::GuestError| error.to_string())
}

pub(crate) fn run(args: Args, json: bool) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Run(args) => serve(&args, json),
        Action::Exec(args) => exec(&args),
    }
}

fn serve(args: &RunArgs, json: bool) -> anyhow::Result<Outcome> {
    args.parent.follow()?;
    let agent = args.attest.agent()?;
    let listener = TcpListener::bind(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    let url = format!("http://{}", listener.local_addr()?);
    crate::cleanup::take_over();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = told_to_stop()?;
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", json!({ "ready": true, "url": url, "broker": agent.broker(), "tee": agent.tee() }))?;
        } else {
            writeln!(out, "The guest (platform {}) serves {url} for the broker {}. Stop it with Ctrl-C.", agent.tee(), agent.broker())?;
            writeln!(out, "\nNext:\n  curl {url}/cdh/resource/default/fraud-dataset/dataset_key")?;
        }
        out.flush()?;
        drop(out);
        anyhow::Ok(strongroom_guest::serve(agent, listener, stop).await?)
    })?;
    Ok(Outcome::silent())
}

fn exec(args: &ExecArgs) -> anyhow::Result<Outcome> {
    let source = Source::Rest(GuestApi::new(&args.guest.guest)?);
    let placement = if args.insecure_any_filesystem { Placement::InsecureAnyFilesystem } else { Placement::MemoryOnly };
    let prepared = block_on(prepare(&source, std::env::vars_os(), &args.file, placement))?.context("the application was not started")?;
    let (program, arguments) = args.app.split_first().context("say which application to start, after --")?;
    // Returns only when the application could not be started; then `prepared` removes the files again.
    let error = prepared.command(program, arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.to_string_lossy()))
}

/// Resolves when the process is told to stop.
pub(crate) fn told_to_stop() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The broker that init-data names. What was measured at launch cannot be redirected by who starts the guest.
#[derive(Default)]
struct MeasuredBroker {
    url: Option<String>,
    certificate: Option<String>,
}

fn measured_broker(initdata: &Initdata) -> anyhow::Result<MeasuredBroker> {
    let Some(text) = initdata.data().get("aa.toml") else {
        return Ok(MeasuredBroker::default());
    };
    let table: toml::Table = text.parse().context("aa.toml in the init-data is not TOML")?;
    let kbs = table.get("token_configs").and_then(|configs| configs.get("kbs"));
    let member = |name: &str| kbs.and_then(|kbs| kbs.get(name)?.as_str()).filter(|text| !text.is_empty()).map(str::to_owned);
    Ok(MeasuredBroker { url: member("url"), certificate: member("cert") })
}
