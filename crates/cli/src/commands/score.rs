//! `strongroom score`: a batch in, counts to the log, sealed results to the owner.

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;
use strongroom_cipherfile::FileKey;
use strongroom_scoring::DEFAULT_DATA;
use strongroom_scoring::batch::{
    self, Checkpoints, HeaderRow, Job, Keeper, Options, Placement, Results, Summary,
};
use strongroom_scoring::model::{Bundle, UnknownColumns};
use strongroom_scoring::receipt::{Handling, Protection};
use strongroom_wire::image::digest::Digest;

use crate::cleanup;
use crate::commands::model::ModelArgs;
use crate::commands::workshop;
use crate::files;
use crate::input::OpenArgs;
use crate::keys::KeySource;
use crate::outcome::{self, Outcome, quoted};
use crate::placed::Placed;
use crate::progress::{RowsBar, thousands};
use crate::receipt::Receipting;
use crate::results::{ReceiptedAs, ResultsArgs, RowsArg};
use crate::rows::{Opening, ParquetArgs, Rows};
use crate::storage::{self, Source, StorageArgs};

/// Score a batch of transactions.
///
/// Rows are decrypted, parsed and scored in memory, one tile at a time; nothing is written in plaintext. The log has
/// counts, not rows. Results are encrypted to their owner, who opens them with `strongroom decrypt --identity`.
///
/// Input and results may lie in a storage: az://ACCOUNT/CONTAINER/PATH, s3://BUCKET/KEY, gs://BUCKET/NAME, https:// (read
/// only). The same command with another URL runs at another provider.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The transactions: CSV with a header (plain, gzip or zstd), Parquet or Arrow, encrypted or not. Paths or a storage's URLs, folders (with a slash behind
    /// them) and patterns (`*`, `?`, `**`) too; - for standard input [default: built-in rows].
    input: Vec<PathBuf>,

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

    /// With --skip-bad-rows: when more rows than this cannot be read, the job fails and has no results. A number, or a
    /// share such as 1%.
    #[arg(
        long,
        value_name = "N|P%",
        default_value = "50%",
        requires = "skip_bad_rows"
    )]
    max_bad_rows: MostBadRows,

    /// Read a data set that has columns besides those of the model; without it, one whose name the model does not list is
    /// refused.
    #[arg(long)]
    ignore_unknown_columns: bool,

    /// The column whose text names a row in the results, beside its number.
    #[arg(long, value_name = "COLUMN")]
    key_column: Option<String>,

    /// The rows have no header: they are the model's columns and no other, in the model's order.
    #[arg(long, conflicts_with = "key_column")]
    no_header: bool,

    /// Keep how far the job is in this folder (a path or a storage's URL), encrypted, and go on from there if the job was
    /// killed. The result is that of a job that was not.
    #[arg(long, value_name = "FOLDER|URL", requires = "results")]
    checkpoint: Option<PathBuf>,

    /// What checkpoints are encrypted under: 32 raw bytes, a file or kbs:///repository/type/tag [default: derived from
    /// --key].
    #[arg(long, value_name = "FILE|URI", requires = "checkpoint")]
    checkpoint_key: Option<KeySource>,

    /// Seconds from one checkpoint to the next.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, requires = "checkpoint", value_parser = parse_seconds)]
    checkpoint_every: f64,

    /// Threads at most [default: as many as there are cores].
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,

    /// Memory for rows under way, at most: fewer threads where it is short. In MiB, 4 for each thread. A batch of Arrow, and
    /// Parquet or Arrow through a pipe, come on top: they are held whole.
    #[arg(long, value_name = "MIB")]
    memory: Option<NonZeroUsize>,

    /// Write a receipt of the job: which model scored which bytes into which results, signed by a key that the guest's
    /// evidence vouches for. `strongroom verify receipt` checks it.
    #[arg(
        long,
        value_name = "FILE",
        requires = "results",
        conflicts_with = "checkpoint"
    )]
    receipt: Option<PathBuf>,

    /// Take the settings of the workshop's container from its environment variables (DECRYPTION_KEY_PATH,
    /// SAS_TOKEN_PATH, AZURE_STORAGE_NAME, CONTAINER_NAME, BLOB_NAME, TRESHOLD_PREDICTION, INPUT_FOLDER).
    #[arg(long, conflicts_with_all = ["input", "results", "threshold", "key", "identity"])]
    workshop: bool,

    /// With --workshop: print a line for every row, as the container does. Logs are read by who runs the cluster.
    #[arg(long, requires = "workshop")]
    insecure_print_rows: bool,

    // Groups with a heading come last: what follows one would stand under it.
    #[command(flatten)]
    results: ResultsArgs,

    #[command(flatten)]
    parquet: ParquetArgs,

    #[command(flatten)]
    storage: StorageArgs,
}

impl From<RowsArg> for Results {
    fn from(rows: RowsArg) -> Self {
        match rows {
            RowsArg::All => Self::All,
            RowsArg::Flagged => Self::Flagged,
            RowsArg::Summary => Self::Summary,
        }
    }
}

pub(crate) fn run(args: &Args, json: bool) -> anyhow::Result<Outcome> {
    for place in args
        .input
        .iter()
        .chain(&args.results.results)
        .chain(&args.checkpoint)
    {
        storage::check(place)?;
    }
    // Before any work: a guest that does not attest is found out now.
    let existing = args.results.existing();
    let mut receipting = match &args.receipt {
        Some(path) => Some(Receipting::begin(path, existing, &args.model.guest)?),
        None => None,
    };
    let mut bundle = args.model.load()?;
    if args.ignore_unknown_columns {
        bundle.set_unknown_columns(UnknownColumns::Ignore);
    }
    if args.workshop {
        return workshop::run(
            &bundle,
            &args.model.guest,
            &args.storage,
            (args.skip_bad_rows, args.max_bad_rows),
            args.insecure_print_rows,
            json,
        );
    }
    let guest = &args.model.guest;
    let inputs = args.storage.expand(&args.input, guest)?;
    if inputs.len() > 1 && args.open.name.is_some() {
        bail!(
            "--name names one file: leave it out, and each of the {} files is opened by its own name",
            inputs.len()
        );
    }
    let options = Options {
        threshold: args.threshold,
        skip_bad_rows: args.skip_bad_rows,
        results: if args.results.results.is_some() {
            args.results.results_kind.into()
        } else {
            Results::Summary
        },
        features: args.results.features(),
        file_name: called(&inputs),
        name_files: inputs.len() > 1,
        key_column: args.key_column.clone(),
        header_row: if args.no_header {
            HeaderRow::Absent
        } else {
            HeaderRow::Present
        },
        threads: args.threads(),
    };
    let handling = args.handling();
    if receipting.is_some() {
        Receipting::check(&args.names(&inputs)?, &args.results.names()?)?;
    }
    let mut job = Files {
        args,
        bundle: &bundle,
        options: &options,
        inputs: &inputs,
        receipting: receipting.as_mut(),
    };
    let mut keeper = job.keeper()?;
    let mut ours = Vec::new();
    if let Some(there) = &keeper {
        match Placed::find(there.placements(), &args.results, &args.storage, guest)? {
            Placed::All(summary) => {
                args.max_bad_rows.check(&summary)?;
                eprintln!(
                    "The job was done, and its results are in place. Its checkpoint is removed."
                );
                keeper.take().map_or(Ok(()), Keeper::clear)?;
                return Ok(report(
                    args,
                    &Scored::before(*summary),
                    args.open.is_asked(),
                ));
            }
            Placed::Some(files) => ours = files,
        }
    }
    let keys = args.key_column.is_some();
    let hashes = args.receipt.is_some() || args.checkpoint.is_some();
    let Some(mut results) = args
        .results
        .begin(&args.storage, guest, keys, hashes, &ours)?
    else {
        let (scored, encrypted) = job.score(&mut std::io::sink(), None)?;
        return Ok(report(args, &scored, encrypted));
    };
    let (scored, encrypted) = job.score(&mut results, keeper.as_mut())?;
    let read = receipting.as_mut().map(Receipting::take_inputs);
    let read = read.transpose()?;
    let mut results = results.finish(match (&args.receipt, &read) {
        (Some(receipt), Some(inputs)) => Some(ReceiptedAs {
            name: files::base_name(receipt)?,
            inputs,
        }),
        _ => None,
    })?;
    let receipt = match (receipting, results.subjects.take(), read) {
        (Some(receipting), Some(subjects), Some(inputs)) => {
            let options = (&options, &handling);
            Some(receipting.sign(subjects, inputs, &scored.summary, options)?)
        }
        _ => None,
    };
    // What is killed between here and the end finds its results by this.
    if let Some(keeper) = &mut keeper {
        keeper.place(Placement {
            form: args.results.form(),
            files: results.files(),
            summary: scored.summary.clone(),
        })?;
    }
    results.commit()?;
    if let Some(receipt) = receipt {
        receipt.commit()?;
    }
    // Only now: what is killed before goes on from them once more.
    if let Some(keeper) = keeper {
        keeper.clear()?;
    }
    Ok(report(args, &scored, encrypted))
}

/// What to call all inputs together.
fn called(inputs: &[PathBuf]) -> String {
    match inputs {
        [] => "built-in rows".to_owned(),
        [input] => input.display().to_string(),
        [first, rest @ ..] => format!("{} and {} more", first.display(), rest.len()),
    }
}

impl Args {
    fn threads(&self) -> Option<NonZeroUsize> {
        let cores = std::thread::available_parallelism().ok();
        let most = self.threads.or(cores).map_or(1, NonZeroUsize::get);
        let fitting = self
            .memory
            .map_or(most, |memory| memory.get() / MIB_OF_A_THREAD);
        NonZeroUsize::new(most.min(fitting).max(1))
    }

    /// What a receipt says of the job beside its batch's options.
    fn handling(&self) -> Handling {
        let (results_format, results_for, results_key) = self.results.written();
        Handling {
            results_format,
            results_for,
            results_key,
            ignore_unknown_columns: self.ignore_unknown_columns,
            insecure_plain_columns: self.parquet.insecure_plain_columns,
            aad_prefix: self.parquet.aad_prefix.is_some(),
        }
    }

    /// What the inputs will be called.
    fn names(&self, inputs: &[PathBuf]) -> anyhow::Result<Vec<String>> {
        if inputs.is_empty() {
            return Ok(vec![called(inputs)]);
        }
        let label = |path: &PathBuf| self.storage.label(path, &self.model.guest);
        inputs.iter().map(label).collect()
    }

    fn checkpoint_key(&self) -> anyhow::Result<FileKey> {
        let guest = &self.model.guest;
        match (&self.checkpoint_key, &self.open.key) {
            (Some(key), _) => guest.file_key(key),
            (None, Some(key)) if self.open.openssl_cipher.is_none() => Ok(guest
                .file_key(key)?
                .derive(b"strongroom checkpoints of a scoring job")),
            (None, _) => bail!(
                "checkpoints hold rows, so they are encrypted: give --checkpoint-key FILE or kbs:///repository/type/tag (`strongroom keygen` makes one)"
            ),
        }
    }
}

/// How many rows may be bad before it is the data set that is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MostBadRows {
    Rows(u64),
    Percent(f64),
}

impl FromStr for MostBadRows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "a number of rows, or a share such as 1%".to_owned();
        let Some(percent) = text.strip_suffix('%') else {
            return text.parse().map(Self::Rows).map_err(|_| wanted());
        };
        let percent = percent.trim_end().parse().map_err(|_| wanted())?;
        match (0.0..=100.0).contains(&percent) {
            true => Ok(Self::Percent(percent)),
            false => Err(wanted()),
        }
    }
}

impl MostBadRows {
    pub(crate) fn check(self, summary: &Summary) -> anyhow::Result<()> {
        let (bad, all) = (summary.bad_rows, summary.rows);
        let (holds, most) = match self {
            Self::Rows(most) => (bad <= most, thousands(most)),
            Self::Percent(most) => (bad as f64 * 100.0 <= most * all as f64, format!("{most} %")),
        };
        if holds {
            return Ok(());
        }
        let reasons = summary.bad_rows_by_reason.iter();
        let reasons: Vec<String> = reasons
            .map(|(reason, count)| format!("{}: {reason}", thousands(*count)))
            .collect();
        let first = summary.first_bad_rows.first();
        let first = first.map_or_else(String::new, |row| format!("; the first is {row}"));
        bail!(
            "{} of {} rows cannot be read, more than the {most} of --max-bad-rows, so there are no results ({}{first}). `strongroom profile` shows which columns are at fault",
            thousands(bad),
            thousands(all),
            reasons.join(", ")
        )
    }
}

/// Memory that a thread of a batch takes: a part of the file, its rows, and parts that wait for their turn.
const MIB_OF_A_THREAD: usize = 4;

/// A batch over the files that were named.
struct Files<'a> {
    args: &'a Args,
    bundle: &'a Bundle,
    options: &'a Options,
    inputs: &'a [PathBuf],
    receipting: Option<&'a mut Receipting>,
}

impl Files<'_> {
    /// How far the job is, where it is to be kept.
    fn keeper(&self) -> anyhow::Result<Option<Keeper>> {
        let Some(folder) = &self.args.checkpoint else {
            return Ok(None);
        };
        let (key, inputs) = (self.args.checkpoint_key()?, self.identities()?);
        let store = self
            .args
            .storage
            .small_files(folder, &self.args.model.guest)?;
        let checkpoints = Checkpoints {
            store: Box::new(store),
            key,
            every: Duration::from_secs_f64(self.args.checkpoint_every),
            inputs,
        };
        let keeper = Keeper::open(checkpoints, self.bundle, self.options);
        let keeper = keeper.with_context(|| format!("--checkpoint {}", folder.display()))?;
        cleanup::say_on_signal(format!(
            "stopped: the same command goes on from the last checkpoint in {}",
            folder.display()
        ));
        Ok(Some(keeper))
    }

    /// Scores all of them; says too whether one was encrypted.
    fn score<'s>(
        &'s mut self,
        out: &'s mut (dyn Write + Send),
        keeper: Option<&'s mut Keeper>,
    ) -> anyhow::Result<(Scored, bool)> {
        let started = Instant::now();
        let mut job = Job::begin_or_go_on(self.bundle, self.options, out, keeper)?;
        if job.rows_done() > 0 {
            eprintln!("Going on behind row {}.", thousands(job.rows_done()));
        }
        if let Some(receipting) = &mut self.receipting {
            receipting.key_was_fetched()?;
        }
        let rows_before = job.rows_done();
        let mut encrypted = false;
        if self.inputs.is_empty() && job.inputs_done() == 0 {
            let label = &self.options.file_name;
            let source = self.hashed(Source::of_bytes(label, DEFAULT_DATA));
            job.csv(label, &mut { source.reader }, &mut |_| {})?;
        }
        let inputs = self.inputs;
        for path in &inputs[job.inputs_done().min(inputs.len())..] {
            encrypted |= self.score_file(&mut job, path)?;
        }
        let summary = job.finish()?;
        self.args.max_bad_rows.check(&summary)?;
        Ok((
            Scored {
                summary,
                rows_before,
                seconds: started.elapsed().as_secs_f64(),
            },
            encrypted,
        ))
    }

    /// Has what is read from storage hashed, where a receipt is to name it.
    fn hashed(&mut self, source: Source) -> Source {
        match &mut self.receipting {
            Some(receipting) => receipting.input(source),
            None => source,
        }
    }

    fn score_file(&mut self, job: &mut Job<'_>, path: &Path) -> anyhow::Result<bool> {
        let guest = &self.args.model.guest;
        let source = self.hashed(self.args.storage.open(path, guest)?);
        let label = source.label.clone();
        let what = match self.inputs.len() {
            0 | 1 => label.clone(),
            all => format!("{label} ({} of {all})", job.inputs_done() + 1),
        };
        let mut bar = RowsBar::new(what, source.length)?;
        let opening = Opening {
            open: &self.args.open,
            parquet: &self.args.parquet,
            guest,
            preprocessing: self.bundle.preprocessing(),
            key_column: self.options.key_column.as_deref(),
        };
        let opened = opening.rows(source, path)?;
        for warning in &opened.warnings {
            outcome::warn(warning);
        }
        if let Some(receipting) = &mut self.receipting {
            receipting.opened(opened.protection, &opened.keys);
            receipting.key_was_fetched()?;
        }
        let mut show = |progress| bar.show(progress);
        match opened.rows {
            Rows::Stream(mut reader) => job.csv(&label, &mut *reader, &mut show)?,
            Rows::Segments { at, segments } => {
                job.csv_segments(&label, &*at, &segments, &mut show)?;
            }
            Rows::Columns { input, size } => job.columns(&label, &input, size, &mut show)?,
        }
        bar.finish();
        Ok(opened.protection > Protection::None)
    }

    /// What tells the inputs from others of the same names. An encrypted file that is opened segment by segment is told by
    /// how it begins, which is drawn anew each time that it is made and which no other file's segments open with. Another
    /// file is told by its beginning and its end, where Parquet and Arrow have their metadata, and by its version: the tag
    /// or date of a storage, the times and number of a file of this machine. Where there is no version, by all of it.
    fn identities(&self) -> anyhow::Result<Vec<String>> {
        let guest = &self.args.model.guest;
        // How files are opened is part of what is read of them.
        let columns = self.args.ignore_unknown_columns;
        let mut identities = vec![format!("{columns} {}", self.args.parquet.strictness())];
        for path in self.inputs {
            let source = self.args.storage.open(path, guest)?;
            let (Some(at), label) = (&source.at, &source.label) else {
                bail!(
                    "{} cannot be read twice, so a job over it cannot go on where it was killed: leave --checkpoint out",
                    source.label
                );
            };
            let size = at.size();
            let digest = |range: Range<u64>| {
                let length = usize::try_from(range.end - range.start)?;
                let mut bytes = vec![0; length];
                at.read_at(range.start, &mut bytes)
                    .with_context(|| format!("cannot read {label}"))?;
                let is_in_segments = range.start == 0 && self.args.open.is_in_segments(&bytes);
                anyhow::Ok((Digest::sha256(&bytes), is_in_segments))
            };
            let (beginning, is_in_segments) = digest(0..size.min(EDGE))?;
            let mut identity = format!("{label} {size} {beginning}");
            if !is_in_segments {
                let from = match at.version() {
                    Some(version) => {
                        identity.push_str(&format!(" {version}"));
                        size.saturating_sub(EDGE)
                    }
                    None => 0,
                };
                for start in (from..size).step_by(STEP) {
                    let (piece, _) = digest(start..size.min(start + STEP as u64))?;
                    identity.push_str(&format!(" {piece}"));
                }
            }
            identities.push(identity);
        }
        Ok(identities)
    }
}

/// How much of a file's beginning and end goes into what tells it from others: more than any head of an encrypted file.
const EDGE: u64 = 64 << 10;

/// How much of a file is in memory at once to tell it from others.
const STEP: usize = 1 << 20;

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("between 0 and 86400 seconds".to_owned())
    }
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
    // Which columns they are outside in goes to the owner, with the results.
    let outside = scored.summary.rows_outside_training_range;
    if let Some(rows) = outside.filter(|rows| *rows > 0) {
        text.push_str(&format!(
            "\n  outside the range that the model was trained on: {rows}"
        ));
    }
    let document = json!({
        "rows": counts.rows, "flagged": counts.flagged, "bad_rows": counts.bad_rows,
        "bad_rows_by_reason": scored.summary.bad_rows_by_reason, "rows_outside_training_range": outside, "threshold": scored.summary.threshold,
        "seconds": scored.seconds, "rows_per_second": rate, "model_digest": scored.summary.model_digest,
        "encrypted_input": encrypted, "results": args.results.results, "receipt": args.receipt,
    });
    if counts.rows == 0 {
        text.push_str("\nThere is a header and no row below it.");
    }
    let outcome = Outcome::new(text, document);
    let outcome = match (&args.receipt, args.results.compared_by()) {
        (Some(receipt), Some(results)) => outcome.next(format!(
            "strongroom verify receipt {} {results}",
            receipt.display()
        )),
        _ => outcome,
    };
    match (args.results.opened_by(), args.results.reported_by()) {
        (Some(opened), Some(reported)) => outcome.next(reported).next(opened),
        (Some(opened), None) => outcome.next(opened),
        // Which rows were flagged goes to their owner alone.
        (None, _) => outcome.next(format!(
            "{} --results results.jsonl.enc --results-to OWNER.pub.json   # for the flagged rows, sealed to their owner",
            again(args),
        )),
    }
}

/// The command that scores the same rows by the same model once more.
fn again(args: &Args) -> String {
    let mut words = vec![scored_by(&args.input, &args.model, &args.open)];
    if let Some(threshold) = args.threshold {
        words.push(format!("--threshold {threshold}"));
    }
    for (given, option) in [
        (args.skip_bad_rows, "--skip-bad-rows"),
        (args.no_header, "--no-header"),
        (args.ignore_unknown_columns, "--ignore-unknown-columns"),
    ] {
        if given {
            words.push(option.to_owned());
        }
    }
    words.join(" ")
}

/// The command that scores these inputs, so opened, by this model.
pub(crate) fn scored_by(inputs: &[PathBuf], model: &ModelArgs, open: &OpenArgs) -> String {
    let mut words = vec!["strongroom score".to_owned()];
    let inputs = inputs.iter().map(|input| input.display().to_string());
    words.extend(inputs.map(|input| quoted(&input)));
    if words.len() == 1 {
        words.push("DATA.csv.enc".to_owned());
    }
    words.extend([model.asked(), open.asked()]);
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// A finished batch.
pub(crate) struct Scored {
    pub(crate) summary: Summary,
    /// Rows that an earlier process had done.
    rows_before: u64,
    seconds: f64,
}

impl Scored {
    /// One that an earlier process finished.
    fn before(summary: Summary) -> Self {
        Self {
            rows_before: summary.rows,
            summary,
            seconds: 0.0,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rate for people"
    )]
    fn rows_per_second(&self) -> u64 {
        ((self.summary.rows - self.rows_before) as f64 / self.seconds.max(1e-9)) as u64
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
    let mut bar = RowsBar::new(options.file_name.clone(), length)?;
    let started = Instant::now();
    let summary = batch::score(&mut input, bundle, options, out, &mut |progress| {
        bar.show(progress);
    });
    bar.finish();
    Ok(Scored {
        summary: summary?,
        rows_before: 0,
        seconds: started.elapsed().as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn broken_feed_passes() {
        let check = |most: &str, bad_rows, rows| {
            let summary = Summary {
                rows,
                bad_rows,
                bad_rows_by_reason: BTreeMap::new(),
                first_bad_rows: Vec::new(),
                flagged: 0,
                threshold: 0.5,
                histogram: [0; 20],
                max: None,
                mean: None,
                bytes: 0,
                model_digest: String::new(),
                rows_outside_training_range: None,
                outside_training_range: BTreeMap::new(),
            };
            most.parse::<MostBadRows>().unwrap().check(&summary).is_ok()
        };
        assert!(check("50%", 1, 2) && !check("50%", 2, 3) && check("50%", 0, 0));
        assert!(check("2", 2, 3) && !check("1", 2, 3) && check("100%", 3, 3));
        for text in ["", "-1", "x%", "101%", "NaN%"] {
            assert!(text.parse::<MostBadRows>().is_err(), "{text}");
        }
    }
}
