//! `strongroom unseal`: what a sealed secret holds or points to, through a running guest.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::commands::get::hand_over;
use crate::commands::guest::UnsealArgs;
use crate::connect::block_on;
use crate::files;
use crate::outcome::Outcome;

/// Read what a sealed secret points to or holds, through a running guest.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file with the sealed secret, - for standard input.
    pub(super) file: PathBuf,

    /// Where to write, readable by you alone; - for standard output.
    #[arg(short, long, default_value = "-", value_name = "FILE")]
    pub(super) output: PathBuf,

    /// Replace an existing file.
    #[arg(long)]
    pub(super) force: bool,

    #[command(flatten)]
    pub(super) unsealing: UnsealArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let text = files::read_limited(&args.file, 1024 * 1024)?;
    let text = std::str::from_utf8(&text)
        .with_context(|| format!("{} is not a sealed secret", args.file.display()))?;
    let unsealer = args.unsealing.unsealer()?;
    let secret = block_on(unsealer.unseal(text))??;
    hand_over("Unsealed", &secret, &args.output, args.force)
}
