//! `strongroom-guest`: the guest alone, small, for a guest's image.
//!
//! Static, with Debian's `musl-tools` and `rustup target add x86_64-unknown-linux-musl`:
//! `cargo build --release --target x86_64-unknown-linux-musl -p strongroom-guest --features cli`.

// Doc comments of arguments are help texts, which a terminal shows without Markdown.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{ArgAction, Parser, Subcommand};
use strongroom_guest::GuestError;
use strongroom_guest::cli::components::{
    self, ApiServerRestArgs, AttestationAgentArgs, DataHubArgs,
};
use strongroom_guest::cli::outcome::{self, Outcome};
use strongroom_guest::cli::{
    Program, RunArgs, attest_once, cleanup, exec, log, pull, scratch, unseal_volumes,
};

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

    /// Stop when this parent process ends.
    #[arg(long, global = true, hide = true, value_name = "PID")]
    exit_with_parent: Option<i32>,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<RunArgs>),
    Attest(Box<attest_once::Args>),
    Exec(exec::Args),
    UnsealVolumes(unseal_volumes::Args),
    Pull(Box<pull::Args>),
    Scratch(scratch::Args),
    AttestationAgent(Box<AttestationAgentArgs>),
    ConfidentialDataHub(DataHubArgs),
    ApiServerRest(ApiServerRestArgs),
}

fn main() -> ExitCode {
    let args = Args::parse_from(arguments());
    log::start(args.verbose);
    let json = args.json;
    match run(&args).and_then(|outcome| outcome.print(json)) {
        Ok(code) => code,
        Err(error) => {
            cleanup::hear_signals();
            outcome::print_error(&error, json);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<Outcome> {
    keep_memory_private()?;
    // Whoever links another provider in must not change ours.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("another TLS provider is already installed in this process")?;
    cleanup::install().context("signals cannot be handled here")?;
    args.exit_with_parent.map_or(Ok(()), cleanup::follow)?;
    let silent = |()| Outcome::silent();
    match &args.command {
        Command::Run(run) => run.run(args.json, cleanup::take_over).map(silent),
        Command::Attest(attest) => attest.run(Program::Guest),
        Command::Exec(exec) => exec.run(Program::Guest),
        Command::UnsealVolumes(volumes) => volumes.run(args.json),
        Command::Pull(pull) => pull.run(Arc::new(|_| {})),
        Command::Scratch(scratch) => scratch.run(Program::Guest),
        Command::AttestationAgent(agent) => agent.run(args.json).map(silent),
        Command::ConfidentialDataHub(hub) => hub.run().map(silent),
        Command::ApiServerRest(rest) => rest.run().map(silent),
    }
}

/// The arguments; under the name of one of guest-components' programs, those of that command.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    let component = name
        .and_then(OsStr::to_str)
        .and_then(components::of_program);
    if let Some(component) = component {
        arguments.splice(..1, ["strongroom-guest".into(), component.into()]);
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
