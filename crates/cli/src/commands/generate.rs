//! `strongroom generate`: transactions without anybody's data in them.

use std::io::Write as _;
use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;
use strongroom_cipherfile::tink_stream::Encryptor;
use strongroom_scoring::generate::{Columns, Generator};

use crate::files::{self, Existing, Output};
use crate::input::bound_name;
use crate::keys::{GuestArgs, KeySource};
use crate::outcome::Outcome;
use crate::progress;

/// Make transactions that follow the law of the public credit card fraud data set. The same seed gives the same rows.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to write, - for standard output.
    #[arg(short, long, default_value = "-", value_name = "FILE")]
    output: PathBuf,

    /// How many rows.
    #[arg(long, default_value_t = 200_000)]
    rows: u64,

    /// Which rows.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Add the true answer as a last column, fraud.
    #[arg(long)]
    label: bool,

    /// Which columns
    #[arg(long, value_enum, default_value_t = ColumnsArg::Model)]
    columns: ColumnsArg,

    /// Encrypt on the way, so that no plaintext touches the disk.
    #[arg(long, value_name = "FILE|URI")]
    key: Option<KeySource>,

    /// Replace an existing file.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    guest: GuestArgs,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum ColumnsArg {
    /// The five that the model reads
    Model,
    /// All seven of the public data set
    All,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let columns = match args.columns {
        ColumnsArg::All => Columns::All,
        ColumnsArg::Model => Columns::Model,
    };
    let generator = Generator {
        rows: args.rows,
        seed: args.seed,
        label: args.label,
        columns,
    };
    let key = args
        .key
        .as_ref()
        .map(|key| args.guest.file_key(key))
        .transpose()?;
    let mut output = Output::create(&args.output, Existing::from_force(args.force), 0o600)?;
    let bar = progress::bytes(None)?;
    match key {
        None => {
            generator.write_to(&mut bar.wrap_write(&mut output))?;
            output.flush()?;
            output.commit()?;
        }
        Some(key) => {
            let name = bound_name(&args.output)?;
            let mut encryptor = Encryptor::new(output, &key, name.as_bytes())?;
            generator.write_to(&mut bar.wrap_write(&mut encryptor))?;
            encryptor.finish()?.commit()?;
        }
    }
    bar.finish_and_clear();
    if args.output.as_os_str() == "-" {
        return Ok(Outcome::silent());
    }
    let shown = args.output.display();
    let text = format!("Wrote {} transactions to {shown}.", args.rows);
    let document = json!({ "output": args.output, "rows": args.rows, "seed": args.seed, "encrypted": args.key.is_some() });
    let next = match &args.key {
        Some(key) => format!("strongroom score {shown} --key {key}"),
        None => format!(
            "strongroom encrypt {shown} --key KEY  (then delete {})",
            files::base_name(&args.output)?
        ),
    };
    Ok(Outcome::new(text, document).next(next))
}
