//! `strongroom verify`: what was recorded, checked again, offline.

mod evidence;
mod lines;
mod receipt;
mod record;
mod token;

use clap::Subcommand;

use crate::outcome::Outcome;

/// Check what was recorded, offline: numbered steps, each with the clause it comes from.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Evidence(Box<evidence::VerifyEvidence>),
    Receipt(Box<receipt::VerifyReceipt>),
    Token(token::VerifyToken),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Evidence(args) => evidence::run(args),
        Action::Receipt(args) => receipt::run(args),
        Action::Token(args) => token::run(args),
    }
}
