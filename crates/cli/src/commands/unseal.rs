//! `strongroom unseal`: what a sealed secret points to, through a running guest.

use std::path::PathBuf;

use strongroom_client::seal::SigningKeyWanted;

use crate::commands::get::hand_over;
use crate::files;
use crate::keys::GuestArgs;
use crate::outcome::Outcome;

/// Read what a sealed secret points to, through a running guest.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file with the sealed secret, - for standard input.
    file: PathBuf,

    /// Where to write, readable by you alone; - for standard output.
    #[arg(short, long, default_value = "-", value_name = "FILE")]
    output: PathBuf,

    /// Replace an existing file.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    guest: GuestArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let text = files::read_limited(&args.file, 1024 * 1024)?;
    let wanted = SigningKeyWanted::parse(std::str::from_utf8(&text)?)?;
    let jwk = args.guest.resource(&wanted.uri().to_resource_path()?)?;
    let wanted = wanted.on_signing_key(&jwk)?;
    let secret = args.guest.resource(&wanted.uri().to_resource_path()?)?;
    hand_over("Unsealed", &secret, &args.output, args.force)
}
