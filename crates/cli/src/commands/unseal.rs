//! `strongroom unseal`: what a sealed secret points to, through a running guest.

use std::io::Write as _;
use std::path::PathBuf;

use serde_json::json;
use strongroom_client::seal::SigningKeyWanted;

use crate::files::{self, Existing, Output};
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
    let mut output = Output::create(&args.output, Existing::from_force(args.force), 0o600)?;
    output.write_all(&secret)?;
    output.commit()?;
    if args.output.as_os_str() == "-" {
        return Ok(Outcome::silent());
    }
    let text = format!(
        "Unsealed {} bytes to {}.",
        secret.len(),
        args.output.display()
    );
    Ok(Outcome::new(
        text,
        json!({ "output": args.output, "bytes": secret.len() }),
    ))
}
