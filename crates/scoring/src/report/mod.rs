//! A result file as its owner looks at it: read once, in bounded memory, into what one page shows.
//! The most suspicious rows are in here with their features, so keep it as the results are kept.

mod curves;
mod groups;
mod labels;
mod page;
mod plot;
mod thresholds;

use std::io::Read;

use serde_json::{Value, json};

pub use curves::Evaluation;
pub use groups::{Group, GroupedBy, Groups};
pub use labels::{Labels, LabelsError};
pub use thresholds::{Hits, Threshold};

use self::curves::Curves;
use self::groups::Grouper;
use self::thresholds::Stops;
use crate::batch::{Results, is_fraud};
use crate::model::Bundle;
use crate::results::{Header, MostSuspicious, ResultReader, ResultRow, ResultsError, Summary};

/// What a report is made with, beside the results.
#[derive(Default)]
pub struct Options<'a> {
    /// How many of the most suspicious rows it shows.
    pub top: usize,
    /// What became of the rows.
    pub labels: Option<&'a Labels>,
    /// The model that scored them, to say how far a feature is from what it was trained on. One that
    /// did not score them is not used: see [`Report::was_scored_by`].
    pub bundle: Option<&'a Bundle>,
}

/// A result file in short.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The first line of the results.
    pub header: Header,
    /// The last line of the results.
    pub summary: Summary,
    /// The rows of the greatest probability, greatest first.
    pub top: Vec<TopRow>,
    /// What would be flagged at other thresholds, in ascending order.
    pub thresholds: Vec<Threshold>,
    /// Rows by file, by hour or by their numbers; none without rows.
    pub groups: Option<Groups>,
    /// What labels say of the scores.
    pub evaluation: Option<Evaluation>,
}

/// One of the most suspicious rows.
#[derive(Debug, Clone, PartialEq)]
pub struct TopRow {
    /// The row.
    pub row: ResultRow,
    /// What became of it.
    pub label: Option<bool>,
    /// For each feature, how far it is from the training rows; none without the model.
    pub deviations: Vec<Deviation>,
}

/// How far a feature is from what the model was trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Deviation {
    /// Its distance from the mean in standard deviations.
    pub deviations: f64,
    /// Whether it is below or above every value in training.
    pub outside: Option<Side>,
}

/// A side of the training range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Below its least value.
    Below,
    /// Above its greatest value.
    Above,
}

impl Report {
    /// Reads a result file of JSON lines to its end.
    ///
    /// # Errors
    /// As [`Report::of`].
    pub fn read(input: impl Read, options: &Options<'_>) -> Result<Self, ReportError> {
        Self::of(ResultReader::open(input)?, options)
    }

    /// Reads results to their end, in whatever form they are.
    ///
    /// # Errors
    /// When they are cut or say what cannot be, or have no rows to hold labels against.
    pub fn of<R: Read>(
        mut reader: ResultReader<R>,
        options: &Options<'_>,
    ) -> Result<Self, ReportError> {
        let header = reader.header().clone();
        let scored_by = |bundle: &&Bundle| bundle.digest() == header.model_digest;
        let bundle = options.bundle.filter(scored_by);
        let labels = options.labels;
        if labels.is_some() && header.results == Results::Summary {
            return Err(ReportError::NoRows);
        }
        let mut stops = Stops::new(header.threshold, labels.is_some());
        let mut curves = labels.map(|_| Curves::new());
        let mut grouper = Grouper::new(&header);
        let mut top = MostSuspicious::new(options.top);
        let mut rows = 0_u64;
        while let Some(row) = reader.next_row()? {
            rows += 1;
            let label = labels.and_then(|labels| labels.of(row.file.as_deref(), row.row));
            stops.add(row.probability, label);
            if let Some(curves) = &mut curves {
                curves.add(row.probability, label);
            }
            grouper.add(&row, is_fraud(row.probability, header.threshold));
            top.push(row);
        }
        let inputs = reader.inputs().to_vec();
        let summary = reader.finish()?;
        if inputs.len() > 1 && labels.is_some_and(|labels| !labels.by_file()) {
            return Err(ReportError::SeveralFiles);
        }
        let evaluation = curves
            .zip(labels)
            .map(|(curves, labels)| match header.results {
                Results::All => curves.whole(),
                _ => curves.above_the_threshold(labels.frauds(), labels.honest()),
            });
        let judged = |e: &Evaluation| e.frauds + e.honest > 0 && e.unlabelled < rows.max(1);
        if labels.is_some_and(Labels::by_file) && evaluation.as_ref().is_some_and(|e| !judged(e)) {
            return Err(ReportError::OtherFiles);
        }
        let top = top.into_rows().into_iter().map(|row| TopRow {
            label: labels.and_then(|labels| labels.of(row.file.as_deref(), row.row)),
            deviations: bundle
                .map(|bundle| deviations(&row, bundle))
                .unwrap_or_default(),
            row,
        });
        Ok(Self {
            top: top.collect(),
            thresholds: stops.finish(&header, &summary),
            groups: (rows > 0 || inputs.len() > 1).then(|| grouper.finish(&inputs, &summary)),
            evaluation,
            header,
            summary,
        })
    }

    /// Whether a model is the one that scored the rows.
    pub fn was_scored_by(&self, bundle: &Bundle) -> bool {
        bundle.digest() == self.header.model_digest
    }

    /// One page of HTML that needs nothing else, neither files nor a network nor a server.
    ///
    /// # Errors
    /// When a plot cannot be drawn.
    pub fn page(&self) -> Result<String, ReportError> {
        page::page(self).map_err(ReportError::Draw)
    }

    /// The threshold of the file, with what lies above it.
    pub fn at_its_threshold(&self) -> Option<&Threshold> {
        self.thresholds
            .iter()
            .find(|t| t.at == self.header.threshold)
    }

    /// The report in numbers: counts alone, no row.
    pub fn numbers(&self) -> Value {
        let evaluation = self.evaluation.as_ref().map(|evaluation| {
            let hits = self.at_its_threshold().and_then(|threshold| threshold.hits);
            let confusion = hits.map(|hits| Confusion::new(hits, evaluation));
            json!({
                "frauds": evaluation.frauds, "honest": evaluation.honest,
                "unlabelled": evaluation.unlabelled, "whole": evaluation.whole,
                "roc_auc": evaluation.roc_auc, "roc_auc_within": evaluation.roc_auc_within,
                "average_precision": evaluation.average_precision,
                "at_threshold": confusion.map(|c| json!({
                    "caught": c.caught, "missed": c.missed, "false_alarms": c.false_alarms,
                    "honest_passed": c.honest_passed, "precision": c.precision(),
                    "recall": c.recall(), "false_alarm_rate": c.false_alarm_rate(),
                })),
            })
        });
        let groups = self.groups.as_ref().map(|groups| {
            let group = |group: &Group| json!({ "name": group.name, "rows": group.rows, "flagged": group.flagged });
            json!({
                "by": match groups.by {
                    GroupedBy::File => "file".to_owned(),
                    GroupedBy::Hours(hours) => format!("{hours} hours"),
                    GroupedBy::Rows(rows) => format!("{rows} rows"),
                },
                "groups": groups.groups.iter().map(group).collect::<Vec<_>>(),
                "rows_of_other_files": groups.others,
            })
        });
        json!({
            "input": self.header.input, "model_digest": self.header.model_digest,
            "results": self.header.results, "summary": self.summary,
            "groups": groups, "evaluation": evaluation,
        })
    }
}

/// What flagging at a threshold does, by the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confusion {
    /// Fraud that is flagged.
    pub caught: u64,
    /// Fraud that is not.
    pub missed: u64,
    /// Honest rows that are flagged.
    pub false_alarms: u64,
    /// Honest rows that are not.
    pub honest_passed: u64,
}

impl Confusion {
    /// The flagged rows and, of all that are labelled, the rest.
    pub fn new(hits: Hits, evaluation: &Evaluation) -> Self {
        Self {
            caught: hits.caught,
            missed: evaluation.frauds.saturating_sub(hits.caught),
            false_alarms: hits.false_alarms,
            honest_passed: evaluation.honest.saturating_sub(hits.false_alarms),
        }
    }

    /// How many of the flagged rows are fraud; none when none are flagged.
    pub fn precision(&self) -> Option<f64> {
        share(self.caught, self.false_alarms)
    }

    /// How much of the fraud is flagged.
    pub fn recall(&self) -> Option<f64> {
        share(self.caught, self.missed)
    }

    /// How many of the honest rows are flagged.
    pub fn false_alarm_rate(&self) -> Option<f64> {
        share(self.false_alarms, self.honest_passed)
    }
}

fn share(part: u64, rest: u64) -> Option<f64> {
    let whole = part as f64 + rest as f64;
    (whole > 0.0).then(|| part as f64 / whole)
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The results are not whole, or not results.
    #[error(transparent)]
    Results(#[from] ResultsError),
    /// Labels, and a file without rows.
    #[error(
        "the file holds a summary and no rows, so labels have nothing to be held against: score with --results-kind all"
    )]
    NoRows,
    /// Rows of several files have the same numbers, and labels go by numbers alone.
    #[error(
        "the results are of several files, so the labels need a column \"file\" beside \"row\""
    )]
    SeveralFiles,
    /// Labels by file that fit no row.
    #[error(
        "the labels name files, and no row of the results is in one of them: their column \"file\" must hold the names in the results"
    )]
    OtherFiles,
    /// A plot failed.
    #[error("a plot cannot be drawn: {0}")]
    Draw(String),
}

fn deviations(row: &ResultRow, bundle: &Bundle) -> Vec<Deviation> {
    let columns = bundle.profile().map(crate::profile::Profile::columns);
    let one = |(at, &value): (usize, &f64)| {
        let trained = columns.and_then(|columns| columns.get(at));
        let outside = trained.and_then(|trained| match value {
            value if value < trained.min => Some(Side::Below),
            value if value > trained.max => Some(Side::Above),
            _ => None,
        });
        let deviations = match trained {
            Some(trained) if trained.std > 0.0 => (value - trained.mean) / trained.std,
            // A column that never varied is as far as it is outside.
            Some(_) => 0.0,
            None => f64::from(bundle.preprocessing().standardise(at, value)),
        };
        Deviation {
            deviations,
            outside,
        }
    };
    let width = bundle.preprocessing().columns().len();
    row.features
        .iter()
        .take(width)
        .enumerate()
        .map(one)
        .collect()
}
