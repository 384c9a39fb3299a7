//! `strongroom-guest`: the guest alone, small, for a guest's image.
//!
//! Static, with Debian's `musl-tools` and `rustup target add x86_64-unknown-linux-musl`:
//! `cargo build --release --target x86_64-unknown-linux-musl -p strongroom-guest --features cli`.

// Doc comments of arguments are help texts, which a terminal shows without Markdown.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{ArgAction, Parser, Subcommand};
use serde_json::json;
use strongroom_guest::cli::components::{
    self, ApiServerRestArgs, AttestationAgentArgs, DataHubArgs,
};
use strongroom_guest::cli::{AttestArgs, RunArgs, log};
use strongroom_guest::image::{PullOptions, pull};
use strongroom_guest::launch::Prepared;
use strongroom_guest::{GuestError, Source};

/// Secrets, verified images and measured configuration for applications that know nothing of attestation.
#[derive(Parser)]
#[command(
    name = "strongroom-guest",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Args {
    #[command(subcommand)]
    command: Command,

    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    json: bool,

    /// Say more in the log: -v for what happens, -vv for how.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<RunArgs>),
    /// Attest to a broker once
    Attest(Box<AttestArgs>),
    AttestationAgent(Box<AttestationAgentArgs>),
    ConfidentialDataHub(DataHubArgs),
    ApiServerRest(ApiServerRestArgs),
    /// Pull an image that the owner's policy lets run (cdh.toml, [image]), and unpack it
    Pull(Box<PullArgs>),
}

#[derive(clap::Args)]
struct PullArgs {
    /// The image, such as registry.example.com/fraud/app:v1
    image: String,

    /// Where to unpack it: a folder that is new or empty. Plaintext of encrypted layers will lie there.
    dest: PathBuf,

    #[command(flatten)]
    attest: AttestArgs,
}

fn main() -> ExitCode {
    let args = Args::parse_from(arguments());
    log::start(args.verbose);
    match keep_memory_private().and_then(|()| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    // Whoever links another provider in must not change ours.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("another TLS provider is already installed in this process")?;
    match &args.command {
        Command::Run(run) => run.run(args.json, || {}),
        Command::Attest(attest) => {
            let agent = attest.agent()?;
            block_on(async { Ok(agent.token().await?) })?;
            match args.json {
                true => println!(
                    "{}",
                    json!({ "broker": agent.broker(), "tee": agent.tee() })
                ),
                false => println!(
                    "The broker {} believes this machine's evidence (platform {}).",
                    agent.broker(),
                    agent.tee()
                ),
            }
            Ok(())
        }
        Command::AttestationAgent(agent) => agent.run(args.json),
        Command::ConfidentialDataHub(hub) => hub.run(),
        Command::ApiServerRest(rest) => rest.run(),
        Command::Pull(wanted) => pull_image(wanted, args.json),
    }
}

fn pull_image(args: &PullArgs, json: bool) -> anyhow::Result<()> {
    let Prepared { agent, cdh, .. } = args.attest.prepared()?;
    let options = PullOptions::from_config(&cdh.image).context("cdh.toml, [image]")?;
    let source = Source::Agent(agent);
    let pulled = block_on(async {
        Ok::<_, anyhow::Error>(pull(&args.image, &args.dest, &options, Some(&source)).await?)
    })?;
    match json {
        true => println!(
            "{}",
            json!({ "image": pulled.reference.to_string(), "manifest_digest": pulled.manifest_digest, "rootfs": pulled.rootfs })
        ),
        false => println!(
            "Pulled {} ({}) into {}.",
            pulled.reference,
            pulled.manifest_digest,
            args.dest.display()
        ),
    }
    Ok(())
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// The arguments; under the name of one of guest-components' programs, those of that command.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    let component = name
        .and_then(OsStr::to_str)
        .and_then(components::of_program);
    if let Some(component) = component {
        arguments.insert(1, component.into());
    }
    arguments
}

/// No core file and no debugger of the same user sees keys: a crash must not write them to a disk.
fn keep_memory_private() -> anyhow::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit};
    let limit = rustix::process::getrlimit(Resource::Core);
    let none = Rlimit {
        current: Some(0),
        maximum: limit.maximum,
    };
    let kept = rustix::process::setrlimit(Resource::Core, none)
        .and_then(|()| rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
    kept.map_err(|error| GuestError::Io {
        doing: "keeping this process out of core files",
        reason: error.to_string(),
    })?;
    Ok(())
}
