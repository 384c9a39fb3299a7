//! A batch: rows in as CSV, in any order of columns, results out, a few parts of it in memory.

mod checkpoint;
mod columns;
mod csv;
mod header;
mod number;
mod output;
mod part;
mod pipeline;
mod profile;
mod record;
mod score;
mod state;

use std::io;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

pub use checkpoint::{CheckpointError, CheckpointStore, Checkpoints, Keeper};
pub(crate) use header::{Field, Layout};
pub use header::{HeaderError, header_names};
pub(crate) use part::MAX_KEY;
pub use profile::{profile, profile_columns};
pub use score::{Job, score};
pub use state::{PlacedFile, Placement};

use crate::columns::ColumnsError;
use crate::model::{Bundle, ModelError};
pub use crate::results::{BadReason, BadRow, Counts, InputSummary, Summary};

/// How a batch is scored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Flags above this instead of the bundle's threshold.
    pub threshold: Option<f64>,
    /// Counts bad rows instead of stopping at the first. What is wrong with the file as a whole
    /// (its header, its encryption) stops the batch either way.
    pub skip_bad_rows: bool,
    /// Which rows the owner gets.
    pub results: Results,
    /// What to call the data set in errors and in the results.
    pub file_name: String,
    /// Whether rows in the results have the values that the model was shown.
    pub features: HandedOut,
    /// Whether rows in the results say which file they are from.
    pub name_files: bool,
    /// The column whose text names a row in the results, beside its number.
    pub key_column: Option<String>,
    /// Whether the first row names the columns.
    pub header_row: HeaderRow,
    /// How many threads at most; else as many as the machine has.
    pub threads: Option<NonZeroUsize>,
}

impl Options {
    /// Above what a row is flagged.
    pub(crate) fn threshold_for(&self, bundle: &Bundle) -> f64 {
        let own = || bundle.preprocessing().threshold();
        self.threshold.unwrap_or_else(own)
    }

    /// Whether rows are handed out with their features.
    pub(crate) fn hands_out_features(&self) -> bool {
        match self.features {
            HandedOut::IfFew => self.results != Results::All,
            HandedOut::Always => true,
            HandedOut::Never => false,
        }
    }
}

/// Whether rows are handed out with their features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HandedOut {
    /// With flagged rows, and not with all: their owner has them, and they are most of the bytes.
    #[default]
    IfFew,
    /// With every row.
    Always,
    /// With none.
    Never,
}

/// Whether the first row of CSV names the columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderRow {
    /// It does, and they may come in any order.
    #[default]
    Present,
    /// Every row is data: the model's columns and no other, in the model's order.
    Absent,
}

/// Which rows go into the results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Results {
    /// Those that count as fraud.
    #[default]
    Flagged,
    /// Every row that has a score.
    All,
    /// None: the summary alone.
    Summary,
}

/// How far a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Data rows read.
    pub rows: u64,
    /// Bytes of CSV read.
    pub bytes: u64,
}

/// Whether a probability counts as fraud: above the threshold, and at exactly 1 whatever the
/// threshold, so that 1 as a threshold leaves the certain cases. (The workshop's container takes a
/// probability of exactly 1 for no fraud; that is a fault, and not kept.)
pub fn is_fraud(probability: f64, threshold: f64) -> bool {
    probability > threshold || probability >= 1.0
}

/// Why a batch stopped. No text of it holds a value of a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// The input could not be read; where it is encrypted, also that it is not what was encrypted.
    #[error("{file}: {source}")]
    Read {
        /// The data set.
        file: String,
        /// What the reader says.
        source: io::Error,
    },
    /// A file of columns is damaged, does not fit the model, or does not open.
    #[error("{file}: {source}")]
    Columns {
        /// The data set.
        file: String,
        /// What is wrong with it.
        source: ColumnsError,
    },
    /// The header row does not fit the model.
    #[error("{file}: {source}")]
    Header {
        /// The data set.
        file: String,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// A row that cannot be scored, and bad rows are not skipped.
    #[error(
        "{}{row}; mend it, or count such rows and go on with --skip-bad-rows",
        before(file, row)
    )]
    Row {
        /// The data set.
        file: String,
        /// Where and why.
        row: BadRow,
    },
    /// A line that no row could need.
    #[error("{file}: line {line} is longer than {limit} bytes")]
    LineTooLong {
        /// The data set.
        file: String,
        /// Which line.
        line: u64,
        /// The most that is read.
        limit: u64,
    },
    /// Nothing tells in which column the rows' keys are.
    #[error("a key column needs a header row that names it")]
    KeyWithoutHeader,
    /// The threshold is not a probability.
    #[error("the threshold must lie between 0 and 1")]
    Threshold,
    /// The model gave a number that is not a probability.
    #[error(
        "{file}: row {row}: the model gives a score that is not between 0 and 1; one that ends in logits is exported with a Sigmoid after them (docs/model.md)"
    )]
    NotAProbability {
        /// The data set.
        file: String,
        /// Which row.
        row: u64,
    },
    /// The job cannot go on from where it was, or not keep where it is.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The engine failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The results could not be written.
    #[error("the results cannot be written: {0}")]
    Write(#[source] io::Error),
}

/// What a row's place does not say itself.
fn before(file: &str, row: &BadRow) -> String {
    match row.file {
        Some(_) => String::new(),
        None => format!("{file}: "),
    }
}

/// A line that no row could need.
#[derive(Debug)]
struct LineTooLong;
