//! `strongroom guest`: the agent beside applications, and the start of an application that needs unsealed values.

mod exec;
mod pull;
mod run;
mod scratch;
mod unseal_volumes;
mod unsealing;

use clap::Subcommand;

use strongroom_guest::cli::RunArgs;

use crate::outcome::Outcome;

pub(crate) use strongroom_guest::cli::AttestArgs;

pub(crate) use pull::{RegistryArgs, document};
pub(crate) use unsealing::UnsealArgs;

/// Run the guest: attests and serves secrets to applications beside it.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Run(Box<RunArgs>),
    /// Unseal environment values, files and volumes, then become APP; if one fails, APP does not start
    Exec(exec::Args),
    Pull(Box<pull::Args>),
    UnsealVolumes(unseal_volumes::Args),
    Scratch(scratch::Args),
}

pub(crate) fn run(args: Args, json: bool) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Run(args) => run::run(&args, json),
        Action::Exec(args) => exec::run(&args),
        Action::Pull(args) => pull::run(&args),
        Action::Scratch(args) => scratch::run(&args),
        Action::UnsealVolumes(args) => unseal_volumes::run(&args, json),
    }
}
