//! A part of a data set: what one thread scores by itself, counted from the part's own beginning.

use std::collections::BTreeMap;

use super::{BadReason, Options, Results, ScoreError, is_fraud};
use crate::model::{Bundle, ModelError, Scorer};
use crate::results::{HISTOGRAM_BINS, histogram_bin};
use crate::tile::{TILE, Tile};

/// Takes rows, scores them tile by tile, and counts.
pub(super) struct Sink<'a> {
    scorer: Scorer<'a>,
    threshold: f64,
    results: Results,
    skip_bad_rows: bool,
    tile: Tile,
    /// Where the rows of the tile are.
    places: Vec<Place>,
    /// Their keys, one after another, and where each ends.
    keys: Option<Keys>,
    scores: Vec<f32>,
    rows: u32,
    lines: u32,
    stopped: bool,
    failed: Option<ModelError>,
    outcome: Part,
}

/// What became of a part.
#[derive(Default)]
pub(super) struct Part {
    /// Data rows, good and bad.
    pub(super) rows: u64,
    /// Lines, blank ones too.
    pub(super) lines: u64,
    pub(super) tally: Tally,
    /// The rows that the owner gets.
    pub(super) scored: Vec<ScoredRow>,
    /// Their features, one row after another.
    pub(super) features: Vec<f64>,
    pub(super) keys: Keys,
    /// The first bad rows, in their order.
    pub(super) bad: Vec<BadPlace>,
    /// The first row, if any, to which the model gave what is no probability.
    pub(super) not_a_probability: Option<u64>,
}

/// A row that the owner gets.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScoredRow {
    pub(super) row: u32,
    pub(super) probability: f64,
}

/// A bad row, by its place in the part.
#[derive(Clone, Copy, Debug)]
pub(super) struct BadPlace {
    pub(super) row: u64,
    pub(super) line: u64,
    pub(super) column: Option<usize>,
    pub(super) reason: BadReason,
}

/// A row and a line of a part, each from 1. A part is far too short for more than a u32.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    row: u32,
    line: u32,
}

/// Texts, one after another.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn get(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(at)?;
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[begin..end])
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Takes back what was pushed beyond the first `count`.
    fn truncate(&mut self, count: usize) {
        self.ends.truncate(count);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }
}

impl<'a> Sink<'a> {
    pub(super) fn new(
        bundle: &'a Bundle,
        options: &Options,
        threshold: f64,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            scorer: bundle.scorer()?,
            threshold,
            results: options.results,
            skip_bad_rows: options.skip_bad_rows,
            tile: Tile::new(bundle.preprocessing().columns().len()),
            places: Vec::with_capacity(TILE),
            keys: options.key_column.is_some().then(Keys::default),
            scores: Vec::with_capacity(TILE),
            rows: 0,
            lines: 0,
            stopped: false,
            failed: None,
            outcome: Part::default(),
        })
    }

    /// A value of the row that comes next.
    #[inline]
    pub(super) fn set(&mut self, column: usize, value: f64) {
        self.tile.set(column, value);
    }

    /// The key of the row that comes next. Of what is no text only the readable part remains.
    pub(super) fn set_key(&mut self, key: &[u8]) {
        if let Some(keys) = &mut self.keys {
            keys.truncate(self.places.len());
            keys.push(&key[..key.len().min(MAX_KEY)]);
        }
    }

    /// The row's values are set.
    #[inline]
    pub(super) fn end_row(&mut self) {
        self.rows += 1;
        self.lines += 1;
        self.tile.end_row();
        self.places.push(Place {
            row: self.rows,
            line: self.lines,
        });
        if self.tile.is_full() {
            self.flush();
        }
    }

    /// A line that is no row.
    pub(super) fn blank_line(&mut self) {
        self.lines += 1;
    }

    /// The row cannot be scored.
    pub(super) fn bad_row(&mut self, column: Option<usize>, reason: BadReason) {
        self.rows += 1;
        self.lines += 1;
        if let Some(keys) = &mut self.keys {
            keys.truncate(self.places.len());
        }
        let place = Place {
            row: self.rows,
            line: self.lines,
        };
        self.bad(place, column, reason);
        if !self.skip_bad_rows {
            // A row before it may be bad in a way that only the model finds.
            self.flush();
            self.stopped = true;
        }
    }

    fn bad(&mut self, at: Place, column: Option<usize>, reason: BadReason) {
        *self.outcome.tally.bad.entry(reason).or_default() += 1;
        self.outcome.bad.push(BadPlace {
            row: at.row.into(),
            line: at.line.into(),
            column,
            reason,
        });
        if self.outcome.bad.len() >= 2 * (NAMED_BAD_ROWS + TILE) {
            self.keep_first_bad();
        }
    }

    /// Bad rows that only the model finds come later than they lie.
    fn keep_first_bad(&mut self) {
        self.outcome.bad.sort_by_key(|bad| bad.row);
        self.outcome.bad.truncate(NAMED_BAD_ROWS);
    }

    /// Whether a row was found that ends the batch.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// What became of the part; the next one begins.
    ///
    /// # Errors
    /// When the engine failed.
    pub(super) fn finish(&mut self) -> Result<Part, ScoreError> {
        self.flush();
        self.keep_first_bad();
        self.outcome.rows = self.rows.into();
        self.outcome.lines = self.lines.into();
        (self.rows, self.lines, self.stopped) = (0, 0, false);
        let outcome = std::mem::take(&mut self.outcome);
        match self.failed.take() {
            Some(error) => Err(error.into()),
            None => Ok(outcome),
        }
    }

    /// Scores the tile and empties it.
    fn flush(&mut self) {
        self.scores.clear();
        if let Err(error) = self.scorer.score(&self.tile, &mut self.scores) {
            self.failed.get_or_insert(error);
            self.stopped = true;
        }
        let mut scores = std::mem::take(&mut self.scores);
        for (at, &score) in scores.iter().enumerate() {
            self.scored(at, f64::from(score));
        }
        scores.clear();
        self.scores = scores;
        self.tile.clear();
        self.places.clear();
        if let Some(keys) = &mut self.keys {
            keys.clear();
        }
    }

    #[inline]
    fn scored(&mut self, at: usize, probability: f64) {
        let place = self.places[at];
        if !(0.0..=1.0).contains(&probability) {
            self.odd(place, probability);
            return;
        }
        let flagged = is_fraud(probability, self.threshold);
        self.outcome.tally.add(probability, flagged);
        let wanted = match self.results {
            Results::Flagged => flagged,
            Results::All => true,
            Results::Summary => false,
        };
        if wanted {
            self.outcome.scored.push(ScoredRow {
                row: place.row,
                probability,
            });
            self.outcome.features.extend(self.tile.row(at));
            if let Some(keys) = &self.keys {
                self.outcome.keys.push(keys.get(at).unwrap_or_default());
            }
        }
    }

    /// A score that is none.
    #[cold]
    fn odd(&mut self, place: Place, probability: f64) {
        if probability.is_nan() {
            self.bad(place, None, BadReason::NoScore);
            self.stopped |= !self.skip_bad_rows;
        } else {
            let row = u64::from(place.row);
            self.outcome.not_a_probability.get_or_insert(row);
            self.stopped = true;
        }
    }
}

/// Bad rows whose place the summary names.
pub(super) const NAMED_BAD_ROWS: usize = 5;

/// The longest key that is kept.
const MAX_KEY: usize = 256;

/// What is counted of rows.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) scored: u64,
    pub(super) flagged: u64,
    pub(super) bad: BTreeMap<BadReason, u64>,
    pub(super) histogram: [u64; HISTOGRAM_BINS],
    pub(super) max: f64,
    pub(super) sum: f64,
}

impl Tally {
    #[inline]
    fn add(&mut self, probability: f64, flagged: bool) {
        self.scored += 1;
        self.flagged += u64::from(flagged);
        self.histogram[histogram_bin(probability)] += 1;
        self.max = self.max.max(probability);
        self.sum += probability;
    }

    /// Adds what comes behind.
    pub(super) fn merge(&mut self, other: &Self) {
        self.scored += other.scored;
        self.flagged += other.flagged;
        for (reason, count) in &other.bad {
            *self.bad.entry(*reason).or_default() += count;
        }
        for (bin, count) in self.histogram.iter_mut().zip(&other.histogram) {
            *bin += count;
        }
        self.max = self.max.max(other.max);
        self.sum += other.sum;
    }
}
