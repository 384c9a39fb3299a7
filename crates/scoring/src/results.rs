//! What a batch hands to its owner, as JSON lines: a header, rows, and a summary that closes them.
//! Or as a table, and what the table does not hold in a manifest beside it.
//!
//! The reader takes nothing on trust: a file without its summary was cut, and one whose rows and
//! summary disagree was put together from two. Keep what is in here inside the TEE or with the
//! owner: it holds features and scores. [`Summary::counts`] is what may be logged.

mod convert;
mod manifest;
mod rows;
mod table;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::convert::{ConvertOptions, Features, TableConverter};
pub use self::manifest::Manifest;
use self::rows::TableLines;
pub use self::table::{TableDigest, TableFormat, TableKey, TableOptions, TableRow, TableWriter};
use crate::batch::{Results, is_fraud};
use crate::columns::{ColumnsError, ParquetKeys};
use crate::profile::Outside;
use crate::read_at::ReadAt;

/// The first line: what the rows below it mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Always [`FORMAT`].
    pub format: String,
    /// What the data set was called.
    pub input: String,
    /// The bundle that scored it.
    pub model_digest: String,
    /// A row is fraud above this, and at a probability of exactly 1.
    pub threshold: f64,
    /// Which rows follow.
    pub results: Results,
    /// The names of the features, in the order of the rows; none when the rows have none.
    pub columns: Vec<String>,
}

/// A scored row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultRow {
    /// The file that it is from, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its number among the data rows of the file, the first being 1.
    pub row: u64,
    /// The text of the key column, where one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The probability of fraud.
    pub probability: f64,
    /// Its features, in the order of [`Header::columns`]; none where that names none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<f64>,
}

/// The line behind the rows of a file: the file in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSummary {
    /// What the file was called.
    pub file: String,
    /// Data rows in it, good and bad.
    pub rows: u64,
    /// Rows that count as fraud.
    pub flagged: u64,
    /// Rows that were skipped.
    pub bad_rows: u64,
    /// Its bytes as CSV.
    pub bytes: u64,
}

impl InputSummary {
    /// Of a file of which nothing was read.
    pub(crate) fn of(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            ..Self::default()
        }
    }
}

/// The last line: the whole data set in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Data rows in the input, good and bad.
    pub rows: u64,
    /// Rows that were skipped.
    pub bad_rows: u64,
    /// How many of them for which reason.
    pub bad_rows_by_reason: BTreeMap<BadReason, u64>,
    /// Where the first of them are.
    pub first_bad_rows: Vec<BadRow>,
    /// Rows that count as fraud.
    pub flagged: u64,
    /// The threshold they were flagged by.
    pub threshold: f64,
    /// How many probabilities lie in each twentieth of 0 to 1.
    pub histogram: [u64; HISTOGRAM_BINS],
    /// The greatest probability; none without rows.
    pub max: Option<f64>,
    /// The mean probability; none without rows.
    pub mean: Option<f64>,
    /// Bytes of the input as CSV.
    pub bytes: u64,
    /// The bundle that scored it.
    pub model_digest: String,
    /// Rows that could be read and hold a value outside the range that the model was trained on;
    /// none when the bundle has no profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_outside_training_range: Option<u64>,
    /// How many of them in which column. A row may be outside in several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outside_training_range: BTreeMap<String, u64>,
}

impl Summary {
    /// Says how many rows lie outside the training range.
    pub(crate) fn say_outside(&mut self, outside: &Outside, columns: &[String]) {
        self.rows_outside_training_range = Some(outside.rows);
        let by_column = columns
            .iter()
            .cloned()
            .zip(outside.by_column.iter().copied());
        self.outside_training_range = by_column.filter(|(_, count)| *count > 0).collect();
    }

    /// Rows that have a score.
    pub fn scored(&self) -> u64 {
        self.rows - self.bad_rows
    }

    /// The part that says nothing of any row or score.
    pub fn counts(&self) -> Counts {
        Counts {
            rows: self.rows,
            flagged: self.flagged,
            bad_rows: self.bad_rows,
        }
    }

    /// What must hold between the numbers themselves.
    fn check(&self) -> Result<(), ResultsError> {
        let in_bins = sum(&self.histogram);
        let by_reason = sum(self.bad_rows_by_reason.values());
        let scored = self.rows.checked_sub(self.bad_rows);
        let holds = scored.is_some()
            && in_bins == scored
            && by_reason == Some(self.bad_rows)
            && scored >= Some(self.flagged)
            && (scored == Some(0)) == self.max.is_none()
            && self.max.is_some() == self.mean.is_some()
            && self.outside_holds();
        if holds {
            Ok(())
        } else {
            Err(ResultsError::Disagreement("the summary with itself"))
        }
    }
}

impl Summary {
    fn outside_holds(&self) -> bool {
        let Some(rows) = self.rows_outside_training_range else {
            return self.outside_training_range.is_empty();
        };
        let by_column = self.outside_training_range.values();
        rows <= self.rows
            && by_column.clone().all(|&count| count <= rows)
            && sum(by_column).is_some_and(|sum| sum >= rows)
    }
}

/// The numbers of a batch that may be logged. They print as a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Data rows in the input.
    pub rows: u64,
    /// Rows that count as fraud.
    pub flagged: u64,
    /// Rows that were skipped.
    pub bad_rows: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rows,
            flagged,
            bad_rows,
        } = self;
        write!(f, "{rows} rows, {flagged} flagged, {bad_rows} skipped")
    }
}

/// Why a row has no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BadReason {
    /// Fewer fields than the header.
    ShortRow,
    /// More fields than the header.
    LongRow,
    /// A quoted field without its closing quote on the same line.
    OpenQuote,
    /// Nothing where a number belongs.
    Empty,
    /// Text where a number belongs.
    NotANumber,
    /// NaN or infinite.
    NotFinite,
    /// A number so large that the model cannot take it.
    TooLarge,
    /// The model overflowed and gave no number.
    NoScore,
    /// A whole number with more digits than a 64-bit float holds.
    NotExact,
}

impl fmt::Display for BadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ShortRow => "fewer fields than the header has",
            Self::LongRow => "more fields than the header has",
            Self::OpenQuote => "a quoted field that does not end on its line",
            Self::Empty => "nothing where a number belongs",
            Self::NotANumber => "text where a number belongs",
            Self::NotFinite => "NaN or infinity where a number belongs",
            Self::TooLarge => "a number too large for the model",
            Self::NoScore => "the model gives no number for it",
            Self::NotExact => "a whole number that a 64-bit float cannot hold",
        })
    }
}

/// Where a bad row is: never what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BadRow {
    /// The file that it is in, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its number among the data rows, the first being 1.
    pub row: u64,
    /// Its line in the file; the header is on line 1. 0 where the file has no lines.
    pub line: u64,
    /// The column at fault, where one is.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: BadReason,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}, ", crate::shown(file))?;
        }
        write!(f, "row {}", self.row)?;
        if self.line > 0 {
            write!(f, " (line {})", self.line)?;
        }
        if let Some(column) = &self.column {
            write!(f, ", column \"{}\"", crate::shown(column))?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// The format of the header's `format` member.
pub const FORMAT: &str = "strongroom-results/1";

/// Bins of a [`Summary`]'s histogram.
pub const HISTOGRAM_BINS: usize = 20;

/// The bin of a probability; 1 belongs to the last.
pub(crate) fn histogram_bin(probability: f64) -> usize {
    ((probability * HISTOGRAM_BINS as f64) as usize).min(HISTOGRAM_BINS - 1)
}

/// A line of a result file.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Line<H, R, I, S> {
    Header(H),
    Row(R),
    Input(I),
    Summary(S),
}

/// Reads a result file, row by row.
pub struct ResultReader<R> {
    lines: Source<R>,
    header: Header,
    seen: Seen,
    inputs: Vec<InputSummary>,
    summary: Option<Summary>,
}

impl<R: Read> ResultReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When the first line is not the header of this format.
    pub fn open(input: R) -> Result<Self, ResultsError> {
        let mut lines = Lines {
            input: BufReader::new(input),
            number: 0,
            line: Vec::new(),
        };
        let Some(Line::Header(header)) = lines.next()? else {
            return Err(ResultsError::NoHeader);
        };
        if header.format != FORMAT {
            return Err(ResultsError::NoHeader);
        }
        Ok(Self::of(Source::Lines(lines), header))
    }

    /// Reads a table in CSV whose manifest this is.
    ///
    /// # Errors
    /// When its columns are not those that the manifest tells.
    pub fn open_csv(input: R, manifest: &Manifest) -> Result<Self, ResultsError> {
        let lines = TableLines::csv(input, manifest)?;
        let source = Source::Table(Box::new(lines));
        Ok(Self::of(source, manifest.header.clone()))
    }

    fn of(lines: Source<R>, header: Header) -> Self {
        Self {
            lines,
            header,
            seen: Seen::default(),
            inputs: Vec::new(),
            summary: None,
        }
    }

    /// What the rows mean.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next row; `None` once the summary was read and agrees with every row before it. Until
    /// then the rows are those of a file that may yet turn out to be cut.
    ///
    /// # Errors
    /// When the file ends without a summary, or what it says cannot be.
    pub fn next_row(&mut self) -> Result<Option<ResultRow>, ResultsError> {
        if self.summary.is_some() {
            return Ok(None);
        }
        loop {
            match self.lines.next()? {
                Some(Line::Input(input)) => {
                    self.seen.end_input(&input, self.header.results)?;
                    if self.inputs.len() < MAX_INPUTS {
                        self.inputs.push(input);
                    }
                }
                Some(line) => return self.line(line),
                None => return Err(ResultsError::Cut),
            }
        }
    }

    fn line(&mut self, line: FileLine) -> Result<Option<ResultRow>, ResultsError> {
        match line {
            Line::Row(row) => {
                self.seen.add(&row, &self.header)?;
                Ok(Some(row))
            }
            Line::Summary(summary) => {
                summary.check()?;
                self.seen.check(&summary, &self.header)?;
                if self.lines.next()?.is_some() {
                    return Err(ResultsError::AfterSummary);
                }
                self.summary = Some(summary);
                Ok(None)
            }
            Line::Header(_) => Err(ResultsError::Disagreement("two headers")),
            Line::Input(_) => Err(ResultsError::Disagreement("the order of the files")),
        }
    }

    /// The files whose rows were read to their end, the first [`MAX_INPUTS`] of them.
    pub fn inputs(&self) -> &[InputSummary] {
        &self.inputs
    }

    /// Reads what is left and hands out the summary.
    ///
    /// # Errors
    /// As [`ResultReader::next_row`].
    pub fn finish(mut self) -> Result<Summary, ResultsError> {
        while self.next_row()?.is_some() {}
        self.summary.ok_or(ResultsError::Cut)
    }
}

impl ResultReader<io::Empty> {
    /// Reads a table in Parquet whose manifest this is.
    ///
    /// # Errors
    /// When it is another than the manifest names, or lacks a key.
    pub fn open_parquet(
        source: Arc<dyn ReadAt>,
        keys: &ParquetKeys,
        manifest: &Manifest,
    ) -> Result<Self, ResultsError> {
        let lines = TableLines::parquet(source, keys, manifest)?;
        let source = Source::Table(Box::new(lines));
        Ok(Self::of(source, manifest.header.clone()))
    }
}

/// A result file in short: its header, its summary, and its most suspicious rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Top {
    /// The first line.
    pub header: Header,
    /// The last line.
    pub summary: Summary,
    /// The rows of the greatest probability, greatest first, and the earlier row first among equals.
    pub rows: Vec<ResultRow>,
}

/// Reads a whole result file and keeps at most `count` of its rows in memory.
///
/// # Errors
/// As [`ResultReader::next_row`].
pub fn top(input: impl Read, count: usize) -> Result<Top, ResultsError> {
    let mut reader = ResultReader::open(input)?;
    let mut kept = MostSuspicious::new(count);
    while let Some(row) = reader.next_row()? {
        kept.push(row);
    }
    Ok(Top {
        header: reader.header.clone(),
        summary: reader.finish()?,
        rows: kept.into_rows(),
    })
}

/// The rows of the greatest probability among those that it was given.
pub(crate) struct MostSuspicious {
    most: usize,
    kept: BinaryHeap<LeastSuspiciousFirst>,
}

impl MostSuspicious {
    /// Keeps at most so many.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            kept: BinaryHeap::new(),
        }
    }

    pub(crate) fn push(&mut self, row: ResultRow) {
        self.kept.push(LeastSuspiciousFirst(row));
        if self.kept.len() > self.most {
            self.kept.pop();
        }
    }

    /// Greatest first, and the earlier row first among equals.
    pub(crate) fn into_rows(self) -> Vec<ResultRow> {
        let sorted = self.kept.into_sorted_vec().into_iter();
        sorted.map(|LeastSuspiciousFirst(row)| row).collect()
    }
}

/// Why a result file is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// It could not be read, or not be decrypted.
    #[error("the results cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It does not begin as one.
    #[error("not a result file of the format {FORMAT}")]
    NoHeader,
    /// A line is not one of a result file.
    #[error("line {0} is not one of a result file")]
    Line(u64),
    /// It ends before its summary.
    #[error("the results are cut: they have no summary line")]
    Cut,
    /// It goes on after its summary.
    #[error("the results go on after their summary line")]
    AfterSummary,
    /// Two parts of it cannot both be true.
    #[error("the results disagree: {0}")]
    Disagreement(&'static str),
    /// What should be a table's manifest is none.
    #[error("not a manifest of results of the format strongroom-manifest/2")]
    NoManifest,
    /// A table in Parquet that cannot be read.
    #[error("the results cannot be read: {0}")]
    Table(#[source] ColumnsError),
}

/// Files of which a reader keeps what their summary says.
pub const MAX_INPUTS: usize = 10_000;

type FileLine = Line<Header, ResultRow, InputSummary, Summary>;

enum Source<R> {
    Lines(Lines<R>),
    Table(Box<TableLines<R>>),
}

impl<R: Read> Source<R> {
    fn next(&mut self) -> Result<Option<FileLine>, ResultsError> {
        match self {
            Self::Lines(lines) => lines.next(),
            Self::Table(lines) => lines.next(),
        }
    }
}

/// The longest line that is read: 4,096 features at their longest fit.
const MAX_LINE: u64 = 1 << 18;

struct Lines<R> {
    input: BufReader<R>,
    number: u64,
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    fn next(&mut self) -> Result<Option<FileLine>, ResultsError> {
        self.line.clear();
        self.number += 1;
        self.input
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') {
            return Err(match self.line.len() as u64 {
                MAX_LINE => ResultsError::Line(self.number),
                _ => ResultsError::Cut,
            });
        }
        serde_json::from_slice(&self.line)
            .map(Some)
            .map_err(|_| ResultsError::Line(self.number))
    }
}

/// What the rows add up to, to be held against the summary.
#[derive(Default)]
struct Seen {
    rows: u64,
    flagged: u64,
    last_row: u64,
    max: Option<f64>,
    histogram: [u64; HISTOGRAM_BINS],
    /// What the files that ended add up to.
    ended: InputSummary,
    /// Rows and flagged rows that were seen before the file that is being read.
    before: (u64, u64),
}

impl Seen {
    fn end_input(&mut self, input: &InputSummary, results: Results) -> Result<(), ResultsError> {
        let disagreement = Err(ResultsError::Disagreement("the rows with their file"));
        let (rows, flagged) = (self.rows - self.before.0, self.flagged - self.before.1);
        let Some(scored) = input.rows.checked_sub(input.bad_rows) else {
            return disagreement;
        };
        let agrees = match results {
            Results::Flagged => rows == input.flagged && flagged == input.flagged,
            Results::All => rows == scored && flagged == input.flagged,
            Results::Summary => rows == 0,
        };
        if !agrees || self.last_row > input.rows || input.flagged > scored {
            return disagreement;
        }
        let sums = [
            (&mut self.ended.rows, input.rows),
            (&mut self.ended.flagged, input.flagged),
            (&mut self.ended.bad_rows, input.bad_rows),
            (&mut self.ended.bytes, input.bytes),
        ];
        for (sum, more) in sums {
            let Some(more) = sum.checked_add(more) else {
                return disagreement;
            };
            *sum = more;
        }
        self.before = (self.rows, self.flagged);
        self.last_row = 0;
        Ok(())
    }

    fn add(&mut self, row: &ResultRow, header: &Header) -> Result<(), ResultsError> {
        if row.row <= self.last_row {
            return Err(ResultsError::Disagreement("the order of the rows"));
        }
        if row.features.len() != header.columns.len() {
            return Err(ResultsError::Disagreement(
                "a row with the columns of the header",
            ));
        }
        if !(0.0..=1.0).contains(&row.probability) {
            return Err(ResultsError::Disagreement("a probability with its range"));
        }
        self.last_row = row.row;
        self.rows += 1;
        self.flagged += u64::from(is_fraud(row.probability, header.threshold));
        self.max = Some(
            self.max
                .map_or(row.probability, |max| max.max(row.probability)),
        );
        self.histogram[histogram_bin(row.probability)] += 1;
        Ok(())
    }

    fn check(&self, summary: &Summary, header: &Header) -> Result<(), ResultsError> {
        if summary.model_digest != header.model_digest || summary.threshold != header.threshold {
            return Err(ResultsError::Disagreement("the summary with the header"));
        }
        let agrees = match header.results {
            Results::Flagged => self.rows == summary.flagged && self.flagged == summary.flagged,
            Results::All => {
                self.rows == summary.scored()
                    && self.flagged == summary.flagged
                    && self.histogram == summary.histogram
                    && self.max == summary.max
            }
            Results::Summary => self.rows == 0,
        };
        let inputs = (
            self.ended.rows,
            self.ended.flagged,
            self.ended.bad_rows,
            self.ended.bytes,
        );
        let whole = (
            summary.rows,
            summary.flagged,
            summary.bad_rows,
            summary.bytes,
        );
        if inputs != whole {
            return Err(ResultsError::Disagreement("the files with the summary"));
        }
        if !agrees || self.last_row > 0 {
            return Err(ResultsError::Disagreement("the rows with the summary"));
        }
        Ok(())
    }
}

fn sum<'a>(counts: impl IntoIterator<Item = &'a u64>) -> Option<u64> {
    counts
        .into_iter()
        .try_fold(0_u64, |sum, &count| sum.checked_add(count))
}

/// The order of a heap that gives up its least suspicious row.
struct LeastSuspiciousFirst(ResultRow);

impl Ord for LeastSuspiciousFirst {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = other.0.probability.total_cmp(&self.0.probability);
        let by_place = (&self.0.file, self.0.row).cmp(&(&other.0.file, other.0.row));
        by_score.then(by_place)
    }
}

impl PartialOrd for LeastSuspiciousFirst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for LeastSuspiciousFirst {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for LeastSuspiciousFirst {}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn header(results: &str) -> Value {
        json!({"kind": "header", "format": FORMAT, "input": "a.csv", "model_digest": "sha256:0",
            "threshold": 0.5, "results": results, "columns": ["x", "y"]})
    }

    fn row(number: u64, probability: f64) -> Value {
        json!({"kind": "row", "row": number, "probability": probability, "features": [0.1, 2.0]})
    }

    /// Five rows, of which one is bad, two are flagged (0.75 and 1.0) and two are not (0.25, 0.5).
    fn summary() -> Value {
        let mut histogram = [0; HISTOGRAM_BINS];
        for bin in [5, 10, 15, 19] {
            histogram[bin] = 1;
        }
        json!({"kind": "summary", "rows": 5, "bad_rows": 1, "bad_rows_by_reason": {"short_row": 1},
            "first_bad_rows": [{"row": 2, "line": 3, "column": null, "reason": "short_row"}],
            "flagged": 2, "threshold": 0.5, "histogram": histogram, "max": 1.0, "mean": 0.625,
            "bytes": 100, "model_digest": "sha256:0", "rows_outside_training_range": 2,
            "outside_training_range": {"x": 1, "y": 1}})
    }

    fn input(rows: u64, flagged: u64, bad_rows: u64, bytes: u64) -> Value {
        json!({"kind": "input", "file": "a.csv", "rows": rows, "flagged": flagged, "bad_rows": bad_rows,
            "bytes": bytes})
    }

    fn flagged() -> Vec<Value> {
        let input = input(5, 2, 1, 100);
        vec![
            header("flagged"),
            row(3, 0.75),
            row(5, 1.0),
            input,
            summary(),
        ]
    }

    fn all() -> Vec<Value> {
        vec![
            header("all"),
            row(1, 0.25),
            row(3, 0.75),
            row(4, 0.5),
            row(5, 1.0),
            input(5, 2, 1, 100),
            summary(),
        ]
    }

    fn text(lines: &[Value]) -> String {
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn read(text: &str) -> Result<Top, ResultsError> {
        top(text.as_bytes(), 10)
    }

    /// The refusal after one member of one line was replaced.
    fn refusal(mut lines: Vec<Value>, line: usize, pointer: &str, value: Value) -> String {
        *lines[line].pointer_mut(pointer).unwrap() = value;
        read(&text(&lines)).unwrap_err().to_string()
    }

    #[test]
    fn whole_results_are_refused() {
        assert_eq!(read(&text(&flagged())).unwrap().rows.len(), 2);
        assert_eq!(read(&text(&all())).unwrap().rows.len(), 4);
        let summary = read(&text(&[header("summary"), input(5, 2, 1, 100), summary()]))
            .unwrap()
            .summary;
        assert_eq!(summary.counts().to_string(), "5 rows, 2 flagged, 1 skipped");
    }

    #[test]
    fn cut_between_lines() {
        let whole = flagged();
        for kept in 1..whole.len() {
            assert!(matches!(
                read(&text(&whole[..kept])),
                Err(ResultsError::Cut)
            ));
        }
    }

    #[test]
    fn cut_within_a_line() {
        let whole = text(&flagged());
        for kept in 1..whole.len() {
            let error = read(&whole[..kept]).unwrap_err();
            assert!(matches!(error, ResultsError::Cut), "{kept}: {error}");
        }
    }

    #[test]
    fn empty_file() {
        assert!(matches!(read(""), Err(ResultsError::NoHeader)));
    }

    #[test]
    fn later_format() {
        let error = refusal(flagged(), 0, "/format", json!("strongroom-results/2"));
        assert!(error.contains("not a result file"));
    }

    #[test]
    fn rows_without_header() {
        assert!(matches!(
            read(&text(&flagged()[1..])),
            Err(ResultsError::NoHeader)
        ));
    }

    #[test]
    fn two_headers() {
        let mut lines = flagged();
        lines.insert(1, header("flagged"));
        assert!(
            read(&text(&lines))
                .unwrap_err()
                .to_string()
                .contains("two headers")
        );
    }

    #[test]
    fn row_left_out() {
        for lines in [flagged(), all()] {
            let mut lines = lines;
            lines.remove(1);
            let error = read(&text(&lines)).unwrap_err().to_string();
            assert!(error.contains("the rows with their file"), "{error}");
        }
    }

    #[test]
    fn row_put_in_twice() {
        let mut lines = flagged();
        lines.insert(1, row(3, 0.75));
        assert!(
            read(&text(&lines))
                .unwrap_err()
                .to_string()
                .contains("order")
        );
    }

    #[test]
    fn summary_of_an_older_version_is_refused() {
        let mut lines = flagged();
        let summary = lines[4].as_object_mut().unwrap();
        summary.remove("rows_outside_training_range");
        summary.remove("outside_training_range");
        assert_eq!(
            read(&text(&lines))
                .unwrap()
                .summary
                .rows_outside_training_range,
            None
        );
    }

    #[test]
    fn unflagged_row_among_the_flagged() {
        assert!(refusal(flagged(), 1, "/probability", json!(0.5)).contains("with their file"));
    }

    #[test]
    fn score_changed_within_its_side_of_the_threshold() {
        assert!(refusal(all(), 1, "/probability", json!(0.35)).contains("with the summary"));
    }

    #[test]
    fn rows_in_a_summary_only_file() {
        assert!(refusal(flagged(), 0, "/results", json!("summary")).contains("with their file"));
    }

    #[test]
    fn row_past_the_end() {
        assert!(refusal(flagged(), 2, "/row", json!(6)).contains("with their file"));
    }

    #[test]
    fn rows_counted_for_another_file() {
        // Two files of which one row was moved to the other: the sums agree.
        let of = |rows, flagged, bad, bytes, last: Value| {
            let mut lines = vec![header("flagged"), row(3, 0.75)];
            lines.extend([
                input(rows, flagged, bad, bytes),
                row(1, 1.0),
                last,
                summary(),
            ]);
            read(&text(&lines))
        };
        let read = of(4, 1, 1, 60, input(1, 1, 0, 40)).unwrap();
        assert_eq!(read.rows.len(), 2);
        for moved in [
            of(4, 2, 1, 60, input(1, 0, 0, 40)),
            of(2, 1, 1, 60, input(3, 1, 0, 40)),
            of(4, 1, 2, 60, input(1, 1, 0, 40)),
            of(4, 1, 1, 61, input(1, 1, 0, 40)),
            of(4, 1, 1, u64::MAX, input(1, 1, 0, u64::MAX)),
        ] {
            let error = moved.unwrap_err().to_string();
            assert!(error.contains("file"), "{error}");
        }
    }

    #[test]
    fn probability_out_of_range() {
        assert!(refusal(flagged(), 1, "/probability", json!(1.5)).contains("its range"));
    }

    #[test]
    fn row_of_another_width() {
        assert!(refusal(flagged(), 1, "/features", json!([1.0])).contains("columns"));
    }

    #[test]
    fn summary_of_another_model() {
        assert!(refusal(flagged(), 4, "/model_digest", json!("sha256:1")).contains("the header"));
    }

    #[test]
    fn summary_of_another_threshold() {
        assert!(refusal(flagged(), 4, "/threshold", json!(0.6)).contains("the header"));
    }

    #[test]
    fn summary_that_contradicts_itself() {
        for (pointer, value) in [
            ("/rows", json!(6)),
            ("/bad_rows", json!(2)),
            ("/bad_rows", json!(6)),
            ("/bad_rows_by_reason/short_row", json!(2)),
            ("/histogram/0", json!(1)),
            ("/histogram/0", json!(u64::MAX)),
            ("/max", json!(null)),
            ("/mean", json!(null)),
            ("/rows_outside_training_range", json!(6)),
            ("/rows_outside_training_range", json!(3)),
            ("/rows_outside_training_range", json!(null)),
            ("/outside_training_range/x", json!(3)),
        ] {
            let error = refusal(flagged(), 4, pointer, value);
            assert!(error.contains("with itself"), "{pointer}: {error}");
        }
    }

    #[test]
    fn text_after_the_summary() {
        let mut lines = flagged();
        lines.push(row(6, 0.9));
        assert!(matches!(
            read(&text(&lines)),
            Err(ResultsError::AfterSummary)
        ));
    }

    #[test]
    fn unknown_member() {
        for line in 0..5 {
            let mut lines = flagged();
            lines[line]["more"] = json!(1);
            let error = read(&text(&lines)).unwrap_err().to_string();
            assert!(error.contains("not"), "{error}");
        }
    }

    #[test]
    fn refused_line_is_quoted() {
        let error = refusal(flagged(), 1, "/features/0", json!("4111-1111"));
        assert_eq!(error, "line 2 is not one of a result file");
    }

    #[test]
    fn line_without_end() {
        let long = format!(
            "{}{}",
            text(&flagged()[..1]),
            " ".repeat(2 * MAX_LINE as usize)
        );
        assert!(matches!(read(&long), Err(ResultsError::Line(2))));
    }

    #[test]
    fn top_takes_the_least_suspicious_or_the_later_of_equals() {
        let lines = [
            header("flagged"),
            row(1, 0.75),
            row(3, 0.9),
            row(4, 0.75),
            row(5, 0.8),
            input(5, 4, 1, 100),
            {
                let mut summary = summary();
                summary["flagged"] = json!(4);
                summary
            },
        ];
        let top = top(text(&lines).as_bytes(), 3).unwrap();
        assert_eq!(
            top.rows.iter().map(|row| row.row).collect::<Vec<_>>(),
            [3, 5, 1]
        );
    }

    #[test]
    fn numbers_come_back_one_bit_off() {
        let mut lines = flagged();
        lines[1]["features"][0] = json!(123.456_789_012_345_67_f64);
        lines[1]["probability"] = json!(f64::from(0.752_345_7_f32));
        let rows = read(&text(&lines)).unwrap().rows;
        assert_eq!(
            rows[1].features[0].to_bits(),
            123.456_789_012_345_67_f64.to_bits()
        );
        assert_eq!(
            rows[1].probability.to_bits(),
            f64::from(0.752_345_7_f32).to_bits()
        );
    }
}
