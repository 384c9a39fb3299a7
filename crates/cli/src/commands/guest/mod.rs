//! `strongroom guest`: the agent beside applications, and the start of an application that needs unsealed values.

mod agent;
mod exec;
mod pull;
mod run;

use clap::Subcommand;

use crate::outcome::Outcome;

pub(crate) use agent::AttestArgs;
pub(crate) use pull::{RegistryArgs, document};

/// Run the guest: attests and serves secrets to applications beside it.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Attest and serve http://127.0.0.1:8006/cdh/resource/... until told to stop
    Run(run::Args),
    /// Unseal environment values and files, then become APP; if one fails, APP does not start
    Exec(exec::Args),
    Pull(Box<pull::Args>),
}

pub(crate) fn run(args: Args, json: bool) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Run(args) => run::run(&args, json),
        Action::Exec(args) => exec::run(&args),
        Action::Pull(args) => pull::run(&args),
    }
}
