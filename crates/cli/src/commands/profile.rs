//! `strongroom profile`: a data set in numbers, held against the rows that a model was trained on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use serde_json::json;
use strongroom_scoring::batch;
use strongroom_scoring::model::{Bundle, UnknownColumns};
use strongroom_scoring::plain_at::PlainAt;
use strongroom_scoring::profile::{ColumnStatistics, DriftLevel, ProfileBuilder, Statistics};
use strongroom_scoring::storage::Reader;

use crate::commands::model::ModelArgs;
use crate::commands::score::scored_by;
use crate::files::{self, Existing};
use crate::input::OpenArgs;
use crate::outcome::{self, Outcome, shown};
use crate::progress::{self, thousands};
use crate::rows::{Opening, ParquetArgs, Rows};
use crate::storage::{self, StorageArgs};

/// Look at a data set before it is scored: ranges, missing values, and how far it has drifted from what the model was
/// trained on.
///
/// Rows are read as for scoring, in memory, one tile at a time. What is printed is aggregates alone: but the least and
/// the greatest value are values of a row, and aggregates of a few rows reveal them, so a column with fewer than 20
/// values is not shown. Columns are compared with the bundle's profile.json over its own bins: by the population
/// stability index (PSI, above 0.1 moderate, above 0.25 strong) and by the distance of Kolmogorov and Smirnov (KS, above
/// 0.1 and 0.2). What so few rows show by chance is called stable.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The transactions: CSV with a header (plain, gzip or zstd), Parquet or Arrow, encrypted or not: paths or a storage's URLs, folders and patterns too; - for
    /// standard input.
    #[arg(required = true)]
    input: Vec<PathBuf>,

    #[command(flatten)]
    open: OpenArgs,

    #[command(flatten)]
    model: ModelArgs,

    /// Write the profile that belongs beside a model as profile.json, made of these rows. It is part of what the
    /// model's digest names.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Replace an existing profile.
    #[arg(long)]
    force: bool,

    /// Show columns with fewer than 20 values too.
    #[arg(long)]
    reveal_few: bool,

    /// Exit with 1 when a column has drifted this far, or farther
    #[arg(long, value_enum, value_name = "LEVEL")]
    fail_on_drift: Option<LevelArg>,

    /// Read a data set that has columns besides those of the model.
    #[arg(long)]
    ignore_unknown_columns: bool,

    #[command(flatten)]
    parquet: ParquetArgs,

    #[command(flatten)]
    storage: StorageArgs,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum LevelArg {
    /// Worth a look
    Moderate,
    /// Not what the model was trained on
    Strong,
}

impl From<LevelArg> for DriftLevel {
    fn from(level: LevelArg) -> Self {
        match level {
            LevelArg::Moderate => Self::Moderate,
            LevelArg::Strong => Self::Strong,
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    for place in &args.input {
        storage::check(place)?;
    }
    let mut bundle = args.model.load()?;
    if args.ignore_unknown_columns {
        bundle.set_unknown_columns(UnknownColumns::Ignore);
    }
    anyhow::ensure!(
        args.fail_on_drift.is_none() || bundle.profile().is_some(),
        "the model has no profile.json to compare with: make one of its training rows with `strongroom profile TRAIN.csv --model FOLDER --write FOLDER/profile.json`"
    );
    let mut builder = ProfileBuilder::new(bundle.preprocessing(), bundle.profile());
    let guest = &args.model.guest;
    for input in args.storage.expand(&args.input, guest)? {
        builder = args.read(&input, &bundle, builder)?;
    }
    let mut statistics = builder.finish();
    let withheld = if args.reveal_few {
        0
    } else {
        statistics.withhold_few()
    };
    if let Some(path) = &args.write {
        let profile = statistics.to_profile()?;
        files::write(
            path,
            Existing::from_force(args.force),
            0o600,
            &profile.to_json(),
        )?;
        if path.as_os_str() == "-" {
            return Ok(Outcome::silent());
        }
    }
    Ok(outcome(args, &statistics, withheld))
}

impl Args {
    fn read(
        &self,
        input: &Path,
        bundle: &Bundle,
        builder: ProfileBuilder,
    ) -> anyhow::Result<ProfileBuilder> {
        let guest = &self.model.guest;
        let source = self.storage.open(input, guest)?;
        let (label, bar) = (source.label.clone(), progress::bytes(source.length)?);
        let opening = Opening {
            open: &self.open,
            parquet: &self.parquet,
            guest,
            preprocessing: bundle.preprocessing(),
            key_column: None,
        };
        let opened = opening.rows(source, input)?;
        for warning in &opened.warnings {
            outcome::warn(warning);
        }
        let mut show = |progress: batch::Progress| {
            bar.set_position(progress.bytes);
            bar.set_message(format!("{} rows", thousands(progress.rows)));
        };
        let mut csv = |mut reader: Box<dyn std::io::Read + Send>, builder| {
            batch::profile(&mut reader, bundle, builder, &label, &mut show)
        };
        let read = match opened.rows {
            Rows::Stream(reader) => csv(reader, builder),
            Rows::Segments { at, segments } => {
                let plain = PlainAt::new(at, segments)?;
                csv(Box::new(Reader::new(Arc::new(plain))), builder)
            }
            Rows::Columns { input, size } => {
                batch::profile_columns(&input, bundle, builder, (&label, size), &mut show)
            }
        };
        bar.finish_and_clear();
        Ok(read?)
    }
}

fn outcome(args: &Args, statistics: &Statistics, withheld: usize) -> Outcome {
    let input: Vec<String> = args
        .input
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let input = input.join(" ");
    let mut text = format!(
        "{input}: {} rows, {} of them cannot be read\n\n{}",
        thousands(statistics.rows),
        thousands(statistics.bad_rows),
        values(statistics)
    );
    if withheld > 0 {
        text.push_str(&format!(
            "\nColumns with fewer than {} values are not shown, as they say too much of single rows; --reveal-few shows them.\n",
            Statistics::FEW
        ));
    }
    match statistics.rows_outside_training_range {
        Some(outside) => text.push_str(&format!(
            "\nAgainst the training rows: {} rows outside their range\n\n{}",
            thousands(outside),
            drift(statistics)
        )),
        None => text.push_str("\nThe model has no profile.json, so nothing is compared.\n"),
    }
    let level = statistics.drift();
    if let Some(path) = &args.write {
        text.push_str(&format!(
            "\nWrote {} (readable by you alone).\n",
            path.display()
        ));
    }
    let mut document = json!(statistics);
    document["drift"] = json!(level);
    document["withheld_columns"] = json!(withheld);
    document["written"] = json!(args.write);
    let outcome = match (&args.write, level) {
        (Some(path), _) => {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let folder =
                folder.map_or_else(|| ".".to_owned(), |folder| folder.display().to_string());
            Outcome::new(text, document)
                .next(format!("strongroom model pack {folder} --output model.tar"))
        }
        (None, _) => {
            Outcome::new(text, document).next(scored_by(&args.input, &args.model, &args.open))
        }
    };
    let failed = args
        .fail_on_drift
        .is_some_and(|wanted| level.is_some_and(|level| level >= wanted.into()));
    outcome.code(u8::from(failed))
}

fn values(statistics: &Statistics) -> String {
    let heads = [
        "column",
        "values",
        "empty",
        "bad",
        "min",
        "5 %",
        "median",
        "95 %",
        "max",
        "mean",
        "deviation",
    ];
    let line = |column: &ColumnStatistics| {
        let quantile = |at: f64| {
            let quantile = column.quantiles.iter().find(|quantile| quantile.at == at);
            number(quantile.map(|quantile| quantile.value))
        };
        let moments = column.moments;
        vec![
            shown(&column.name),
            thousands(column.values),
            thousands(column.nulls),
            thousands(column.bad),
            number(moments.map(|m| m.min)),
            quantile(0.05),
            quantile(0.5),
            quantile(0.95),
            number(moments.map(|m| m.max)),
            number(moments.map(|m| m.mean)),
            number(moments.map(|m| m.std)),
        ]
    };
    aligned(&heads, statistics.columns.iter().map(line))
}

fn drift(statistics: &Statistics) -> String {
    let line = |column: &ColumnStatistics| {
        let drift = column.drift;
        vec![
            shown(&column.name),
            thousands(column.outside_training_range.unwrap_or(0)),
            drift.map_or_else(String::new, |drift| format!("{:.4}", drift.psi)),
            drift.map_or_else(String::new, |drift| format!("{:.4}", drift.ks)),
            drift.map_or_else(|| "no values".to_owned(), |drift| drift.level.to_string()),
        ]
    };
    aligned(
        &["column", "outside range", "PSI", "KS", "drift"],
        statistics.columns.iter().map(line),
    )
}

/// Five digits that count, or a dash.
fn number(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "-".to_owned();
    };
    if value == value.trunc() && value.abs() < 1e9 {
        return format!("{value:.0}");
    }
    match value.abs() {
        v if !(1e-3..1e6).contains(&v) => format!("{value:.3e}"),
        v if v >= 1e3 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// Lines under their heads: the first column to the left, the others to the right.
fn aligned(heads: &[&str], lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut all = vec![
        heads
            .iter()
            .map(|&head| head.to_owned())
            .collect::<Vec<_>>(),
    ];
    all.extend(lines);
    let width = |at: usize| {
        all.iter()
            .map(|line| line[at].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for line in &all {
        for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
            text.push_str(&match at {
                0 => format!("  {cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            });
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
