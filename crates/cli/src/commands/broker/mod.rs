//! `strongroom broker`: makes the trusted side's folder, and runs it.

mod collateral;
mod import;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::json;
use strongroom_broker::{Broker, Config, InitOptions};

use crate::connect::{AdminArgs, block_on, url_of};
use crate::outcome::Outcome;

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
    /// Run the broker until it is told to stop
    Run(RunArgs),
    Collateral(collateral::Args),
    Import(import::Args),
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
}

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
}

pub(crate) fn run(args: Args, json: bool) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Init(args) => init(&args),
        Action::Run(args) => serve(&args, json),
        Action::Collateral(args) => collateral::run(args),
        Action::RotateKey(args) => rotate_key(&args),
        Action::Import(args) => import::run(&args),
    }
}

fn rotate_key(args: &RotateArgs) -> anyhow::Result<Outcome> {
    let (key, rewrapped) = block_on(args.admin.client()?.rotate_storage_key())??;
    let text = format!(
        "Storage key {key} is in use, and {rewrapped} data keys are wrapped by it. Copies of the store that were made before need the key file of their time: keep it as long as them."
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
    if args.insecure_accept_sample_evidence {
        text.push_str(
            "\n\nThis broker takes evidence that anybody can make up. Put no real secret into it.",
        );
    }
    let document = json!({
        "config": summary.config, "certificate": summary.certificate,
        "admin_key": summary.admin_key, "admin": summary.admin_name,
    });
    Ok(Outcome::new(text, document)
        .next(format!("strongroom broker run {dir}"))
        .next(format!(
            "strongroom resource --dir {dir} put default/fraud-dataset/dataset_key KEYFILE"
        )))
}

fn serve(args: &RunArgs, json: bool) -> anyhow::Result<Outcome> {
    let path = if args.config.is_dir() {
        args.config.join("broker.toml")
    } else {
        args.config.clone()
    };
    if !path.exists() {
        bail!(
            "there is no broker in {}: make one first with `strongroom broker init {}`",
            args.config.display(),
            args.config.display()
        );
    }
    let mut config = Config::load(&path)
        .with_context(|| format!("the configuration {} cannot be used", path.display()))?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    if let Some(root) = &args.development_root {
        config.development.root = Some(root.clone());
    }
    let listener = TcpListener::bind(config.listen)
        .with_context(|| format!("cannot listen on {}: take another address with --listen, or see who is there with `ss -ltnp`", config.listen))?;
    config.listen = listener.local_addr()?;
    let url = url_of(&config);
    let broker = Broker::open(config)?;
    let warnings = broker.warnings();
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = super::guest::told_to_stop()?;
        crate::cleanup::take_over();
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(
                out,
                "{}",
                json!({ "ready": true, "url": url, "warnings": warnings })
            )?;
        } else {
            writeln!(out, "The broker is ready at {url}. Stop it with Ctrl-C.")?;
        }
        out.flush()?;
        drop(out);
        anyhow::Ok(broker.serve(listener, stop).await?)
    })?;
    Ok(Outcome::silent())
}
