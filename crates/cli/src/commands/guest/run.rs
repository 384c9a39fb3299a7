//! `strongroom guest run`: the agent beside applications.

use strongroom_guest::cli::RunArgs;

use crate::outcome::Outcome;

pub(crate) fn run(args: &RunArgs, json: bool) -> anyhow::Result<Outcome> {
    args.run(json, crate::cleanup::take_over)?;
    Ok(Outcome::silent())
}
