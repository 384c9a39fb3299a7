//! `strongroom broker`: makes the trusted side's folder, and runs it.

mod check;
mod collateral;
mod health;
mod import;
mod storage_key;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use serde_json::json;
use strongroom_broker::{
    Broker, BrokerError, Config, Handle, InitOptions, LogFormat, Overrides, telemetry,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::connect::{AdminArgs, block_on, url_of};
use crate::notify;
use crate::outcome::{self, Outcome};

/// Run the trusted side: key broker, attestation service, reference values.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make the broker's folder: certificate, keys, configuration, and the first admin's key. Works once
    Init(InitArgs),
    Run(RunArgs),
    CheckConfig(check::Args),
    Health(health::Args),
    Collateral(collateral::Args),
    Import(import::Args),
    SealKey(storage_key::SealArgs),
    RecoveryKey(storage_key::RecoveryArgs),
    /// Make a fresh storage key and wrap every secret's data key by it, while the broker serves
    RotateKey(RotateArgs),
}

#[derive(clap::Args)]
struct RotateArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(clap::Args)]
struct InitArgs {
    /// The folder to make.
    #[arg(default_value = "broker")]
    dir: PathBuf,

    /// Where the broker will listen.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,

    /// A further name or address for the certificate, as guests will write it.
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,

    /// The first admin's name.
    #[arg(long, default_value = "admin")]
    admin: String,

    /// Take evidence that anybody can make up (platform `sample`): for trying things out, never for real secrets.
    #[arg(long)]
    insecure_accept_sample_evidence: bool,

    /// Keep everything in this PostgreSQL database, which further brokers can share, instead of in a file:
    /// `postgres://user@host/database`. It must be empty, and the address holds no password.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,

    /// The file with the password for the database.
    #[arg(long, value_name = "FILE", requires = "postgres")]
    postgres_password: Option<PathBuf>,

    /// The authorities that vouch for the database (PEM), instead of this machine's own.
    #[arg(long, value_name = "PEM", requires = "postgres")]
    postgres_certificate: Option<PathBuf>,

    #[command(flatten)]
    seal: storage_key::InitSeal,
}

/// Run the broker until it is told to stop
///
/// SIGHUP has it read its configuration again: certificate, admins, collateral, and how often a source may try change at
/// once; what else has changed is named in the log and takes a restart. A certificate that is replaced is read by itself.
///
/// Every setting can come from the environment, and goes before the file's: STRONGROOM_BROKER__LISTEN=0.0.0.0:8080,
/// STRONGROOM_BROKER__LIMITS__BODY_BYTES=4096 (two underscores before each key; the value is TOML, or a plain string).
#[derive(clap::Args)]
struct RunArgs {
    /// The folder that `broker init` made, or a configuration file.
    #[arg(default_value = "broker")]
    config: PathBuf,

    /// Listen here instead of where the configuration says; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Accept evidence under this development root too, which whoever has its key can make up: its folder, or its
    /// certificate in PEM. For trying things out, never for real secrets.
    #[arg(long, value_name = "DIR|PEM")]
    development_root: Option<PathBuf>,

    /// Log lines for people (text), or a JSON object each (json) [default: as the configuration says].
    #[arg(long, value_name = "text|json")]
    log_format: Option<LogFormat>,
}

impl Args {
    /// Whether this is `broker run`.
    pub(crate) fn is_run(&self) -> bool {
        matches!(self.action, Action::Run(_))
    }
}

pub(crate) fn run(args: Args, json: bool, verbose: u8) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Init(args) => init(&args),
        Action::Run(args) => serve(args, json, verbose),
        Action::CheckConfig(args) => check::run(&args),
        Action::Health(args) => health::run(&args),
        Action::Collateral(args) => collateral::run(args),
        Action::RotateKey(args) => rotate_key(&args),
        Action::Import(args) => import::run(&args),
        Action::SealKey(args) => storage_key::seal(&args),
        Action::RecoveryKey(args) => storage_key::recovery(&args),
    }
}

fn rotate_key(args: &RotateArgs) -> anyhow::Result<Outcome> {
    let (key, rewrapped) = block_on(args.admin.client()?.rotate_storage_key())??;
    let text = format!(
        "Storage key {key} is in use, and {rewrapped} data keys are wrapped by it. Copies of the store that were made before need the key file of their time: keep it as long as them. A recovery key of before does not open what is stored now: make another (strongroom broker recovery-key)."
    );
    Ok(
        Outcome::new(text, json!({ "key": key, "rewrapped": rewrapped }))
            .next("strongroom resource list"),
    )
}

fn init(args: &InitArgs) -> anyhow::Result<Outcome> {
    let mut options = InitOptions::new(args.listen);
    options.dns_names.clone_from(&args.name);
    options.admin_name.clone_from(&args.admin);
    options.accept_sample_evidence = args.insecure_accept_sample_evidence;
    options.postgres_url.clone_from(&args.postgres);
    options
        .postgres_password_file
        .clone_from(&args.postgres_password);
    options
        .postgres_certificate
        .clone_from(&args.postgres_certificate);
    args.seal.apply(&mut options)?;
    let summary = strongroom_broker::init(&args.dir, options)?;
    let dir = args.dir.display();
    let mut text = format!(
        "Made the broker's folder {dir}:\n  configuration  {}\n  certificate    {}  (give it to guests)\n  admin's key    {}  (keep it with the admin, not on the broker)",
        summary.config.display(),
        summary.certificate.display(),
        summary.admin_key.display(),
    );
    if args.postgres.is_some() {
        text.push_str(
            "\n\nFor a further broker on the same database, copy this folder to its machine, with a certificate of its \
             own: all of them need the same storage, token and audit keys.",
        );
    }
    if let Some(sealed_for) = &summary.sealed_for {
        text.push_str("\n\n");
        text.push_str(&args.seal.told(sealed_for));
    }
    if args.insecure_accept_sample_evidence {
        text.push_str(
            "\n\nThis broker takes evidence that anybody can make up. Put no real secret into it.",
        );
    }
    let document = json!({
        "config": summary.config, "certificate": summary.certificate,
        "admin_key": summary.admin_key, "admin": summary.admin_name,
        "sealed": summary.sealed_for.as_ref().map(storage_key::document),
    });
    Ok(Outcome::new(text, document)
        .next(format!("strongroom broker run {dir}"))
        .next(format!(
            "strongroom resource --dir {dir} put default/fraud-dataset/dataset_key KEYFILE"
        )))
}

/// The configuration file that a folder or a file stands for.
fn config_path(named: &Path) -> anyhow::Result<PathBuf> {
    let path = match named.is_dir() {
        true => named.join("broker.toml"),
        false => named.to_owned(),
    };
    ensure!(
        path.exists(),
        "there is no broker in {0}: make one first with `strongroom broker init {0}`",
        named.display()
    );
    Ok(path)
}

impl RunArgs {
    /// The configuration as the file, the environment and the command line have it, in rising order.
    fn read(&self, path: &Path, overrides: &Overrides) -> Result<Config, BrokerError> {
        let mut config = Config::load_with(path, overrides)?;
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(root) = &self.development_root {
            config.development.root = Some(root.clone());
        }
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
        Ok(config)
    }
}

fn serve(args: RunArgs, json: bool, verbose: u8) -> anyhow::Result<Outcome> {
    let path = config_path(&args.config)?;
    let overrides = Overrides::from_environment().map_err(anyhow::Error::msg)?;
    let mut config = args
        .read(&path, &overrides)
        .with_context(|| format!("the configuration {} cannot be used", path.display()))?;
    let (spans, exporter) = telemetry::pipeline(&config.telemetry)?.unzip();
    crate::log::start(verbose, &config.log, spans);
    for one in config.overridden() {
        tracing::info!(
            key = one.key,
            variable = one.variable,
            "set by the environment"
        );
    }
    let asked = Asked::of(&config);
    let listener = bind(config.listen, "take another address with --listen")?;
    config.listen = listener.local_addr()?;
    let metrics = config
        .metrics
        .listen
        .map(|address| bind(address, "set metrics.listen to another address"))
        .transpose()?;
    if let Some(metrics) = &metrics {
        config.metrics.listen = Some(metrics.local_addr()?);
    }
    let bound = Asked::of(&config);
    open_enough_files(config.limits.connections);
    let url = url_of(&config);
    let metrics_url = bound
        .metrics
        .map(|address| format!("http://{address}/metrics"));
    let mut broker = Broker::open(config)?;
    if let Some(metrics) = metrics {
        broker = broker.with_metrics_on(metrics);
    }
    if let Some(exporter) = exporter {
        broker = broker.with_exporter(exporter);
    }
    let warnings = broker.warnings();
    for warning in &warnings {
        outcome::warn(warning);
    }
    let handle = broker.handle();
    let read_again = move || {
        let mut next = args.read(&path, &overrides)?;
        // A port that was left to the system is no change.
        if next.listen == asked.listen {
            next.listen = bound.listen;
        }
        if next.metrics.listen == asked.metrics {
            next.metrics.listen = bound.metrics;
        }
        Ok(next)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let stop = told_to_stop()?;
        let hangup = signal(SignalKind::hangup())?;
        let reloading = tokio::spawn(reload_when_told(hangup, handle, Arc::new(read_again)));
        crate::cleanup::take_over();
        let mut out = std::io::stdout().lock();
        if json {
            let document = json!({
                "ready": true, "url": url, "metrics": metrics_url, "warnings": warnings,
            });
            writeln!(out, "{document}")?;
        } else {
            writeln!(out, "The broker is ready at {url}. Stop it with Ctrl-C.")?;
        }
        out.flush()?;
        drop(out);
        notify::ready(&format!("Serving {url}"));
        let stop = async {
            stop.await;
            notify::stopping();
        };
        let served = broker.serve(listener, stop).await;
        reloading.abort();
        anyhow::Ok(served?)
    });
    // What still works for somebody who has gone is not waited for.
    runtime.shutdown_timeout(END);
    served?;
    Ok(Outcome::silent())
}

/// The addresses of a configuration's listeners.
#[derive(Clone, Copy)]
struct Asked {
    listen: SocketAddr,
    metrics: Option<SocketAddr>,
}

impl Asked {
    fn of(config: &Config) -> Self {
        Self {
            listen: config.listen,
            metrics: config.metrics.listen,
        }
    }
}

fn bind(address: SocketAddr, otherwise: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| {
        format!("cannot listen on {address}: {otherwise}, or see who is there with `ss -ltnp`")
    })
}

/// Each connection is an open file, and shells allow a thousand.
fn open_enough_files(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = u64::try_from(connections).map_or(u64::MAX, |most| most.saturating_add(FILES));
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = Rlimit {
        current: Some(raised),
        maximum: limit.maximum,
    };
    let is_raised = setrlimit(Resource::Nofile, raised).is_ok();
    if !is_raised || raised.current < Some(wanted) {
        eprintln!(
            "warning: this process may not open {wanted} files, which limits.connections = {connections} would take."
        );
    }
}

/// Reads the configuration again at each SIGHUP, one after the other.
async fn reload_when_told(
    mut hangup: Signal,
    handle: Handle,
    read: Arc<dyn Fn() -> Result<Config, BrokerError> + Send + Sync>,
) {
    while hangup.recv().await.is_some() {
        notify::reloading();
        let (handle, read) = (handle.clone(), Arc::clone(&read));
        let reloading = tokio::task::spawn_blocking(move || handle.reload_from(|| read()));
        // How it went is in the log and in the metrics.
        let status = match reloading.await {
            Ok(Ok(_)) => "Reloaded",
            _ => "A reload failed, and the old configuration is in force: see the log",
        };
        notify::ready(status);
    }
}

/// Resolves when the process is told to stop. SIGHUP does not: it has the configuration read again.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let (mut interrupt, mut terminate, mut quit) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::quit())?,
    );
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = quit.recv() => {}
        }
    })
}

/// What is open besides connections: the store, the log, requests to other services.
const END: Duration = Duration::from_secs(1);
const FILES: u64 = 128;
