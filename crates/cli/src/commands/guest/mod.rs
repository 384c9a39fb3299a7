//! `strongroom guest`: the agent beside applications, the start of an application that needs unsealed values, images and
//! disks. The commands are those of the guest's own program.

mod pull;

use clap::Subcommand;
use strongroom_guest::cli::{Program, RunArgs, exec, scratch, unseal_volumes};

use crate::outcome::Outcome;

pub(crate) use strongroom_guest::cli::AttestArgs;
pub(crate) use strongroom_guest::cli::pull::{RegistryArgs, document};
pub(crate) use strongroom_guest::cli::unsealing::UnsealArgs;

/// Run the guest: attests and serves secrets to applications beside it.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Run(Box<RunArgs>),
    Exec(exec::Args),
    Pull(Box<strongroom_guest::cli::pull::Args>),
    UnsealVolumes(unseal_volumes::Args),
    Scratch(scratch::Args),
}

pub(crate) fn run(args: Args, json: bool) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Run(args) => {
            args.run(json, crate::cleanup::take_over)?;
            Ok(Outcome::silent())
        }
        Action::Exec(args) => args.run(Program::Strongroom),
        Action::Pull(args) => pull::run(&args),
        Action::Scratch(args) => args.run(Program::Strongroom),
        Action::UnsealVolumes(args) => args.run(json),
    }
}
