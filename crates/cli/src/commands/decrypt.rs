//! `strongroom decrypt`: the whole file verified, or an error and no file.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use crate::files::Existing;
use crate::input::{OpenArgs, bound_name};
use crate::keys::GuestArgs;
use crate::outcome::{self, Outcome};
use crate::progress;
use crate::storage::{self, StorageArgs};

/// Decrypt a file.
///
/// The output appears only when every byte is verified. To standard output, verified parts are written as they come
/// and the exit code says whether the end was reached.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to decrypt: a path or a storage's URL, - for standard input.
    input: PathBuf,

    /// Where to write [default: INPUT without ".enc"]: a path or a storage's URL, - for standard output.
    #[arg(short, long, value_name = "FILE|URL")]
    output: Option<PathBuf>,

    /// Replace an existing file.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    guest: GuestArgs,

    #[command(flatten)]
    storage: StorageArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let input = args.input.display().to_string();
    let target = match (&args.output, input.strip_suffix(".enc")) {
        (Some(target), _) => target.clone(),
        (None, _) if input == "-" => PathBuf::from("-"),
        (None, Some(stem)) => PathBuf::from(stem),
        (None, None) => {
            anyhow::bail!("say where to write with --output FILE: {input} does not end in .enc")
        }
    };
    storage::check(&target)?;
    let source = args.storage.open(&args.input, &args.guest)?;
    let bar = progress::bytes(source.length)?;
    let default_name = bound_name(&args.input)?;
    let mut opened = args.open.open_source(source, &default_name, &args.guest)?;
    anyhow::ensure!(opened.encrypted, "{input} is not encrypted in a known form");
    for warning in &opened.warnings {
        outcome::warn(warning);
    }
    let existing = Existing::from_force(args.force);
    let mut output = args.storage.create(&target, existing, 0o600, &args.guest)?;
    let bytes = io::copy(&mut bar.wrap_read(&mut opened.reader), &mut output)
        .with_context(|| format!("cannot decrypt {input}"))?;
    bar.finish_and_clear();
    output.commit()?;
    if target == Path::new("-") {
        return Ok(Outcome::silent());
    }
    let document = json!({ "output": target, "bytes": bytes, "warnings": opened.warnings });
    Ok(Outcome::new(
        format!(
            "Decrypted {bytes} bytes to {} (readable by you alone).",
            target.display()
        ),
        document,
    ))
}
