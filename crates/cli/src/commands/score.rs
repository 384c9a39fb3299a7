//! `strongroom score`: a batch in, counts to the log, sealed results to the owner.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::json;
use strongroom_cipherfile::sealed::Sealer;
use strongroom_scoring::DEFAULT_DATA;
use strongroom_scoring::batch::{self, Options, Results, Summary};
use strongroom_scoring::model::Bundle;

use crate::commands::model::ModelArgs;
use crate::commands::workshop;
use crate::files::{Existing, Output};
use crate::input::{OpenArgs, Opened, bound_name};
use crate::keys::KeySource;
use crate::outcome::Outcome;
use crate::progress;

/// Score a batch of transactions.
///
/// Rows are decrypted, parsed and scored in memory, one tile at a time; nothing is written in plaintext. The log has
/// counts, not rows. Results are encrypted to their owner, who opens them with `strongroom decrypt --identity`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The transactions, CSV with a header, encrypted or not; - for standard input [default: built-in rows].
    input: Option<PathBuf>,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    model: ModelArgs,

    /// Flag rows above this probability [default: the model's own threshold].
    #[arg(long, value_name = "P")]
    threshold: Option<f64>,

    /// Count rows that cannot be read instead of stopping at the first.
    #[arg(long)]
    skip_bad_rows: bool,

    /// Where to write the results, encrypted.
    #[arg(long, value_name = "FILE", requires = "results_to")]
    results: Option<PathBuf>,

    /// Whom the results are for: the public key as a kbs:/// URI, or a file.
    #[arg(long, value_name = "URI|FILE", requires = "results")]
    results_to: Option<KeySource>,

    /// Which rows the owner gets
    #[arg(long, value_enum, default_value_t = ResultsArg::Flagged, requires = "results")]
    results_kind: ResultsArg,

    /// Replace existing results.
    #[arg(long)]
    force: bool,

    /// Take the settings of the workshop's container from its environment variables (DECRYPTION_KEY_PATH,
    /// SAS_TOKEN_PATH, AZURE_STORAGE_NAME, CONTAINER_NAME, BLOB_NAME, TRESHOLD_PREDICTION, INPUT_FOLDER).
    #[arg(long, conflicts_with_all = ["input", "results", "threshold", "key", "identity"])]
    workshop: bool,

    /// With --workshop: print a line for every row, as the container does. Logs are read by who runs the cluster.
    #[arg(long, requires = "workshop")]
    insecure_print_rows: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum ResultsArg {
    /// Those above the threshold, and the summary
    Flagged,
    /// Every row, and the summary
    All,
    /// The summary alone
    Summary,
}

impl From<ResultsArg> for Results {
    fn from(results: ResultsArg) -> Self {
        match results {
            ResultsArg::All => Self::All,
            ResultsArg::Flagged => Self::Flagged,
            ResultsArg::Summary => Self::Summary,
        }
    }
}

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<Outcome> {
    let bundle = args.model.load()?;
    if args.workshop {
        return workshop::run(
            &bundle,
            &args.model.guest,
            args.skip_bad_rows,
            args.insecure_print_rows,
            json,
        );
    }
    let (label, opened) = match &args.input {
        Some(path) => (
            path.display().to_string(),
            args.open.open(path, &args.model.guest)?,
        ),
        None => ("built-in rows".to_owned(), built_in()),
    };
    for warning in &opened.warnings {
        eprintln!("warning: {warning}");
    }
    let options = Options {
        threshold: args.threshold,
        skip_bad_rows: args.skip_bad_rows,
        results: args.results_kind.into(),
        file_name: label,
        ..Options::default()
    };
    let length = args.input.as_deref().and_then(progress::length_of);
    let scored = match (&args.results, &args.results_to) {
        (Some(target), Some(recipient)) => {
            if let KeySource::File(path) = recipient {
                eprintln!(
                    "warning: the results go to the key in {}; whoever controls this machine's files chose it. Keep the key at the broker to be sure",
                    path.display()
                );
            }
            let recipient = args.model.guest.recipient(recipient)?;
            let output = Output::create(target, Existing::from_force(args.force), 0o644)?;
            let mut sealer = Sealer::new(output, &recipient, bound_name(target)?.as_bytes())?;
            let scored = score(opened.reader, &bundle, &options, &mut sealer, length)?;
            sealer
                .finish()
                .context("cannot write the results")?
                .commit()?;
            scored
        }
        _ => score(
            opened.reader,
            &bundle,
            &Options {
                results: Results::Summary,
                ..options
            },
            &mut std::io::sink(),
            length,
        )?,
    };
    Ok(report(args, &scored, opened.encrypted))
}

fn report(args: &Args, scored: &Scored, encrypted: bool) -> Outcome {
    let (counts, rate) = (scored.summary.counts(), scored.rows_per_second());
    let mut text = format!(
        "{counts} (threshold {}), {} rows/s",
        scored.summary.threshold,
        thousands(rate)
    );
    for (reason, count) in &scored.summary.bad_rows_by_reason {
        text.push_str(&format!("\n  skipped {count}: {reason}"));
    }
    let document = json!({
        "rows": counts.rows, "flagged": counts.flagged, "bad_rows": counts.bad_rows,
        "bad_rows_by_reason": scored.summary.bad_rows_by_reason, "threshold": scored.summary.threshold,
        "seconds": scored.seconds, "rows_per_second": rate, "model_digest": scored.summary.model_digest,
        "encrypted_input": encrypted, "results": args.results,
    });
    if counts.rows == 0 {
        text.push_str("\nThere is a header and no row below it.");
    }
    let outcome = Outcome::new(text, document);
    match &args.results {
        Some(results) => outcome.next(format!("strongroom decrypt {} --identity OWNER.pem --output -", results.display())),
        // Which rows were flagged goes to their owner alone.
        None => outcome.next(format!(
            "strongroom score {}{} --results results.jsonl.enc --results-to OWNER.pub.json   # for the flagged rows, sealed to their owner",
            args.input.as_deref().unwrap_or_else(|| std::path::Path::new("DATA.csv.enc")).display(),
            args.open.key.as_ref().map(|key| format!(" --key {key}")).unwrap_or_default(),
        )),
    }
}

fn built_in() -> Opened {
    Opened {
        reader: Box::new(DEFAULT_DATA),
        encrypted: false,
        warnings: Vec::new(),
    }
}

/// A finished batch.
pub(crate) struct Scored {
    pub(crate) summary: Summary,
    seconds: f64,
}

impl Scored {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rate for people"
    )]
    fn rows_per_second(&self) -> u64 {
        (self.summary.rows as f64 / self.seconds.max(1e-9)) as u64
    }
}

/// Scores with a progress bar, when somebody is looking. `length` is the input's, so encrypted bytes at most.
pub(crate) fn score(
    mut input: Box<dyn Read + Send>,
    bundle: &Bundle,
    options: &Options,
    out: &mut (dyn Write + Send),
    length: Option<u64>,
) -> anyhow::Result<Scored> {
    let bar = progress::bytes(length)?;
    let started = Instant::now();
    let summary = batch::score(&mut input, bundle, options, out, &mut |progress| {
        bar.set_position(progress.bytes);
        bar.set_message(format!("{} rows", thousands(progress.rows)));
    });
    bar.finish_and_clear();
    Ok(Scored {
        summary: summary?,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Prints 1234567 as 1,234,567.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
