//! `strongroom guest`: the agent beside applications, and the start of an application that needs unsealed values.

mod agent;
mod exec;
mod run;
mod scratch;
mod unseal_volumes;
mod unsealing;

use clap::Subcommand;

use crate::outcome::Outcome;

pub(crate) use agent::AttestArgs;
pub(crate) use unsealing::UnsealArgs;

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
    /// Unseal environment values, files and volumes, then become APP; if one fails, APP does not start
    Exec(exec::Args),
    UnsealVolumes(unseal_volumes::Args),
    Scratch(scratch::Args),
}

pub(crate) fn run(args: Args, json: bool) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Run(args) => run::run(&args, json),
        Action::Exec(args) => exec::run(&args),
        Action::Scratch(args) => scratch::run(&args),
        Action::UnsealVolumes(args) => unseal_volumes::run(&args, json),
    }
}
