//! `strongroom report`: results opened by their owner, as a page and as a few lines.

use std::fmt::Write as _;
use std::io::{Cursor, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use strongroom_scoring::batch::Results;
use strongroom_scoring::columns::ParquetKeys;
use strongroom_scoring::detect::Format;
use strongroom_scoring::plain_at::PlainAt;
use strongroom_scoring::report::{Confusion, GroupedBy, Labels, Options, Report, Side, TopRow};
use strongroom_scoring::results::{Manifest, ResultReader};
use strongroom_scoring::storage::ReadAt;
use zeroize::Zeroizing;

use crate::commands::model::ModelArgs;
use crate::files::{Existing, Output};
use crate::input::{OpenArgs, bound_name};
use crate::keys::KeySource;
use crate::outcome::{self, Outcome, shown};
use crate::progress::{self, thousands};
use crate::results::manifest_of;
use crate::rows::head;
use crate::storage::{self, StorageArgs};

/// Look at results as their owner: scores, counts, the most suspicious rows, and how good the scores are.
///
/// The results are decrypted in memory. With --output they become one HTML page that needs no network and that runs
/// nothing but its own slider for the threshold. It holds rows in plaintext: it is readable by you alone, and is yours
/// to keep or delete. Without --output no row and no feature leaves the program, unless --show-rows asks for them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The results that `strongroom score` wrote, JSON lines or a table: a path or a storage's URL, - for standard input.
    results: PathBuf,

    #[command(flatten)]
    open: OpenArgs,

    /// The manifest of a table, opened as the table is [default: NAME.manifest.json.enc beside it].
    #[arg(long, value_name = "FILE|URL")]
    manifest: Option<PathBuf>,

    /// Where to write the page, in plaintext; - for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Replace an existing page.
    #[arg(long)]
    force: bool,

    /// How many of the most suspicious rows are shown.
    #[arg(long, default_value_t = 25, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    top: u32,

    /// Print the most suspicious rows here too, with their features.
    #[arg(long)]
    show_rows: bool,

    /// What became of the rows: a CSV with a label of 1 or 0, and the rows' numbers in a column row (and their files in
    /// a column file). Without numbers each line is a row, so the data set itself will do when it has its labels.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,

    /// The column that holds the label [default: label, or fraud].
    #[arg(long, value_name = "NAME", requires = "labels")]
    label_column: Option<String>,

    /// The key of encrypted labels.
    #[arg(long, value_name = "FILE|URI", requires = "labels")]
    labels_key: Option<KeySource>,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    storage: StorageArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    for place in args
        .labels
        .iter()
        .chain(&args.manifest)
        .chain([&args.results])
    {
        storage::check(place)?;
    }
    anyhow::ensure!(
        args.output
            .as_ref()
            .is_none_or(|output| !output.display().to_string().contains("://")),
        "the page holds rows in plaintext: write it to a file of this machine"
    );
    let output = args
        .output
        .as_ref()
        .map(|path| Output::create(path, Existing::from_force(args.force), 0o600))
        .transpose()?;
    let bundle = args.model.load()?;
    let labels = args.labels()?;
    let options = Options {
        top: usize::try_from(args.top)?,
        labels: labels.as_ref(),
        bundle: Some(&bundle),
    };
    let report = args.read(&options)?;
    anyhow::ensure!(
        args.model.model.is_none() || report.was_scored_by(&bundle),
        "{} was scored by the model {}, and the one given is {}: name the other with --model, or leave it out",
        args.results.display(),
        shown(&report.header.model_digest),
        bundle.digest()
    );
    if let Some(mut output) = output {
        output.write_all(report.page()?.as_bytes())?;
        output.commit()?;
    }
    Ok(outcome(args, &report))
}

impl Args {
    /// Reads the results in whatever form they are; a table only together with its manifest.
    fn read(&self, options: &Options<'_>) -> anyhow::Result<Report> {
        let unread = || format!("cannot read {}", self.results.display());
        let guest = &self.model.guest;
        let source = self.storage.open(&self.results, guest)?;
        let name = bound_name(&self.results)?;
        if let Some(at) = source.at.clone()
            && let Some((at, keys)) = self.parquet(at, &source.label, &name)?
        {
            let manifest = self.manifest(true)?;
            let reader = ResultReader::open_parquet(at, &keys, &manifest);
            let reader = reader.with_context(unread)?;
            return Report::of(reader, options).with_context(unread);
        }
        let bar = progress::bytes(source.length)?;
        let opened = self.open.open_source(source, &name, guest)?;
        for warning in &opened.warnings {
            outcome::warn(warning);
        }
        let mut reader = bar.wrap_read(opened.reader);
        let mut head = Vec::new();
        let length = u64::try_from(Format::DETECT_LEN.max(TABLE.len()))?;
        let read = reader.by_ref().take(length).read_to_end(&mut head);
        read.with_context(unread)?;
        anyhow::ensure!(
            !Format::detect(&head).needs_random_access(),
            "{} is a table in Parquet, which is read at many places: name it as a file or in a storage",
            self.results.display()
        );
        let is_table = head.starts_with(TABLE);
        let reader = Cursor::new(head).chain(reader);
        let report = if is_table {
            let manifest = self.manifest(opened.encrypted)?;
            let reader = ResultReader::open_csv(reader, &manifest).with_context(unread)?;
            Report::of(reader, options)
        } else {
            Report::read(reader, options)
        };
        bar.finish_and_clear();
        report.with_context(unread)
    }

    /// A table in Parquet, with what opens it: the file's own encryption, or what is around it.
    fn parquet(
        &self,
        at: Arc<dyn ReadAt>,
        label: &str,
        name: &str,
    ) -> anyhow::Result<Option<(Arc<dyn ReadAt>, ParquetKeys)>> {
        let guest = &self.model.guest;
        let unread = || format!("cannot read {label}");
        if head(&*at).with_context(unread)? == Format::Parquet {
            let key = self.open.key.as_ref().map(|key| guest.bytes(key));
            let footer = key.transpose()?;
            // What it is encrypted as is what binds it to its name.
            let named = self.open.name.as_deref().unwrap_or(name);
            let aad_prefix = footer.as_ref().map(|_| named.as_bytes().to_vec());
            let keys = ParquetKeys {
                footer,
                aad_prefix,
                ..ParquetKeys::default()
            };
            return Ok(Some((at, keys)));
        }
        let Some(segments) = self.open.segments(&at, label, name, guest)? else {
            return Ok(None);
        };
        let plain = PlainAt::new(at, segments);
        let plain = plain.with_context(|| format!("cannot decrypt {label}"))?;
        let is_parquet = head(&plain).with_context(unread)? == Format::Parquet;
        Ok(is_parquet.then(|| (Arc::new(plain) as Arc<dyn ReadAt>, ParquetKeys::default())))
    }

    /// What belongs to the table. Without it nothing says that the table is whole.
    fn manifest(&self, encrypted: bool) -> anyhow::Result<Manifest> {
        let guest = &self.model.guest;
        let beside = || match (encrypted, manifest_of(&self.results)) {
            // Of a table that was decrypted, the manifest was too.
            (false, Ok(path)) => Ok(path.with_extension("")),
            (_, found) => found,
        };
        let path = self.manifest.clone().map_or_else(beside, Ok)?;
        let source = self.storage.open(&path, guest).with_context(|| {
            format!(
                "{} is a table, and says nothing without its manifest: name that with --manifest",
                self.results.display()
            )
        })?;
        let table = self.open.name.as_deref();
        let open = OpenArgs {
            name: table.map(|name| format!("{name}.manifest.json")),
            ..self.open.clone()
        };
        let opened = open.open_source(source, &bound_name(&path)?, guest)?;
        let most = u64::try_from(Manifest::MAX_BYTES)? + 1;
        let mut json = Zeroizing::new(Vec::new());
        let read = opened.reader.take(most).read_to_end(&mut json);
        read.with_context(|| format!("cannot read {}", path.display()))?;
        Manifest::parse(&json).with_context(|| format!("cannot use {}", path.display()))
    }

    fn labels(&self) -> anyhow::Result<Option<Labels>> {
        let Some(path) = &self.labels else {
            return Ok(None);
        };
        let open = OpenArgs {
            key: self.labels_key.clone(),
            ..OpenArgs::default()
        };
        let guest = &self.model.guest;
        let source = self.storage.open(path, guest)?;
        let opened = open.open_source(source, &bound_name(path)?, guest)?;
        let labels = Labels::read(opened.reader, self.label_column.as_deref())
            .with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Some(labels))
    }
}

fn outcome(args: &Args, report: &Report) -> Outcome {
    let page = args.output.as_deref();
    if page.is_some_and(|page| page.as_os_str() == "-") {
        return Outcome::silent();
    }
    let mut document = report.numbers();
    document["output"] = json!(page);
    document["holds_plaintext"] = json!(page.is_some());
    if args.show_rows {
        let rows = report.top.iter().map(|top| {
            json!({ "row": top.row, "label": top.label,
                "deviations": top.deviations.iter().map(|d| d.deviations).collect::<Vec<_>>() })
        });
        document["top"] = rows.collect();
    }
    let mut text = in_short(report);
    if args.show_rows {
        text.push_str(&rows(report));
    }
    match page {
        Some(page) => {
            text.push_str(&format!(
                "\nWrote {} (readable by you alone). It holds rows in plaintext: keep it as you keep the data.\n",
                page.display()
            ));
            Outcome::new(text, document)
        }
        None => Outcome::new(text, document).next(format!(
            "strongroom report {}{} --output report.html   # a page with the most suspicious rows, in plaintext",
            args.results.display(),
            args.open.identity.as_ref().map(|pem| format!(" --identity {}", pem.display())).unwrap_or_default(),
        )),
    }
}

/// Counts, bars and what labels say: no row.
fn in_short(report: &Report) -> String {
    let (header, summary) = (&report.header, &report.summary);
    let mut text = format!(
        "{}: {} rows, {} flagged above {} ({}), {} skipped\n",
        shown(&header.input),
        thousands(summary.rows),
        thousands(summary.flagged),
        header.threshold,
        percent(summary.flagged, summary.scored()),
        thousands(summary.bad_rows),
    );
    for (reason, count) in &summary.bad_rows_by_reason {
        writeln!(text, "  skipped {}: {reason}", thousands(*count)).ok();
    }
    if let Some(outside) = summary.rows_outside_training_range.filter(|rows| *rows > 0) {
        writeln!(
            text,
            "  {} outside the range that the model was trained on",
            thousands(outside)
        )
        .ok();
        for (column, count) in &summary.outside_training_range {
            writeln!(text, "    {} in {}", thousands(*count), shown(column)).ok();
        }
    }
    text.push_str(&bars(report));
    if let Some(groups) = report
        .groups
        .as_ref()
        .filter(|groups| groups.groups.len() > 1)
    {
        writeln!(
            text,
            "\nMost flagged by {}",
            groups.by.heading().to_lowercase()
        )
        .ok();
        let mut most: Vec<_> = groups.groups.iter().collect();
        most.sort_by_key(|group| std::cmp::Reverse(group.flagged));
        for group in most.iter().take(5) {
            let of = match (header.results, groups.by) {
                (Results::All, _) | (_, GroupedBy::File) => {
                    format!(" of {}", thousands(group.rows))
                }
                _ => String::new(),
            };
            writeln!(
                text,
                "  {:>11}{of}  {}",
                thousands(group.flagged),
                shown(&group.name)
            )
            .ok();
        }
    }
    if let Some(evaluation) = &report.evaluation {
        let number = |value: Option<f64>| {
            value.map_or_else(|| "not known".to_owned(), |v| format!("{v:.4}"))
        };
        write!(
            text,
            "\nLabels: {} fraud, {} honest{}\n  ROC AUC {}, average precision {}\n",
            thousands(evaluation.frauds),
            thousands(evaluation.honest),
            match evaluation.unlabelled {
                0 => String::new(),
                rows => format!(", {} rows without", thousands(rows)),
            },
            number(evaluation.roc_auc),
            number(evaluation.average_precision),
        )
        .ok();
        if let Some(hits) = report
            .at_its_threshold()
            .and_then(|threshold| threshold.hits)
        {
            let at = Confusion::new(hits, evaluation);
            write!(
                text,
                "  above {}: {} caught, {} missed, {} false alarms\n  precision {}, recall {}\n",
                header.threshold,
                thousands(at.caught),
                thousands(at.missed),
                thousands(at.false_alarms),
                number(at.precision()),
                number(at.recall()),
            )
            .ok();
        }
    }
    text
}

/// The histogram, with bars whose length is logarithmic: most scores are near zero.
fn bars(report: &Report) -> String {
    const WIDEST: f64 = 40.0;
    let histogram = &report.summary.histogram;
    let most = histogram.iter().copied().max().unwrap_or(0);
    let mut text = "\nRows by score (the bars are logarithmic)\n".to_owned();
    for (bin, &count) in histogram.iter().enumerate() {
        let edge = |bin: usize| bin as f64 / histogram.len() as f64;
        let length = match count {
            0 => 0.0,
            _ => (1.0 + count as f64).ln() / (1.0 + most as f64).ln() * WIDEST,
        };
        writeln!(
            text,
            "  {:.2} to {:.2}  {:>13}  {}",
            edge(bin),
            edge(bin + 1),
            thousands(count),
            "█".repeat(length.ceil() as usize)
        )
        .ok();
    }
    text
}

fn rows(report: &Report) -> String {
    let mut text = "\nThe most suspicious rows\n".to_owned();
    if report.header.columns.is_empty() {
        text.push_str("  (without their features: score with --results-features to have them)\n");
    }
    for top in &report.top {
        let row = &top.row;
        let file = row.file.as_ref().map(|file| format!("{} ", shown(file)));
        let key = row.key.as_ref().map(|key| format!(" key {}", shown(key)));
        let label = top
            .label
            .map(|fraud| if fraud { " fraud" } else { " honest" });
        writeln!(
            text,
            "  {}row {}{}  {:.6}{}",
            file.unwrap_or_default(),
            row.row,
            key.unwrap_or_default(),
            row.probability,
            label.unwrap_or_default(),
        )
        .ok();
        for line in features(top, &report.header.columns) {
            writeln!(text, "    {line}").ok();
        }
    }
    text
}

fn features(top: &TopRow, columns: &[String]) -> Vec<String> {
    let named = columns.iter().zip(&top.row.features).enumerate();
    let line = |(at, (column, value)): (usize, (&String, &f64))| {
        let far = top.deviations.get(at).map(|deviation| {
            let outside = match deviation.outside {
                Some(Side::Above) => ", above the training range",
                Some(Side::Below) => ", below the training range",
                None => "",
            };
            format!("  ({:+.1} deviations{outside})", deviation.deviations)
        });
        format!("{} {value}{}", shown(column), far.unwrap_or_default())
    };
    named.map(line).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(part: u64, whole: u64) -> String {
    format!("{:.2} %", 100.0 * part as f64 / whole.max(1) as f64)
}

/// How the header of a table in CSV begins.
const TABLE: &[u8] = b"file,row,";
