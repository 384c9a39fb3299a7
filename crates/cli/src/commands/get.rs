//! `strongroom get`: one resource, through the guest that has attested.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::files::{Existing, Output};
use crate::keys::{GuestArgs, KeySource};
use crate::outcome::Outcome;

/// Fetch one resource through a running guest.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// kbs:///repository/type/tag, or kbs://HOST/repository/type/tag of a broker that the guest's configuration lists
    uri: KeySource,

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
    let KeySource::Resource(uri) = &args.uri else {
        anyhow::bail!(
            "{} is no resource: write kbs:///repository/type/tag",
            args.uri
        );
    };
    let secret = args.guest.resource(uri)?;
    hand_over("Wrote", &secret, &args.output, args.force)
}

/// Writes a secret where it was asked for, readable by this user alone.
pub(crate) fn hand_over(
    done: &str,
    secret: &[u8],
    target: &Path,
    force: bool,
) -> anyhow::Result<Outcome> {
    let mut output = Output::create(target, Existing::from_force(force), 0o600)?;
    output.write_all(secret)?;
    output.commit()?;
    if target.as_os_str() == "-" {
        return Ok(Outcome::silent());
    }
    let text = format!("{done} {} bytes to {}.", secret.len(), target.display());
    Ok(Outcome::new(
        text,
        json!({ "output": target, "bytes": secret.len() }),
    ))
}
