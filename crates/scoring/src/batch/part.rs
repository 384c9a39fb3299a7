//! A part of a data set: what one thread scores by itself, counted from the part's own beginning.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{BadReason, Options, Results, ScoreError, is_fraud};
use crate::model::{Bundle, ModelError, Scorer};
use crate::profile::{Outside, Profile, ProfileBuilder, TrainingRange};
use crate::results::{HISTOGRAM_BINS, histogram_bin};
use crate::tile::{TILE, Tile};

/// Takes rows, scores them tile by tile, and counts.
pub(super) struct Sink<'a> {
    scorer: Scorer<'a>,
    threshold: f64,
    results: Results,
    skip_bad_rows: bool,
    features: bool,
    tile: Tile,
    /// Where the rows of the tile are.
    places: Vec<Place>,
    /// Their keys, one after another, and where each ends.
    keys: Option<Texts>,
    scores: Vec<f32>,
    rows: u32,
    lines: u32,
    stopped: bool,
    failed: Option<ModelError>,
    range: Option<TrainingRange>,
    /// Takes the rows instead of the model.
    profile: Option<ProfileBuilder>,
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
    pub(super) handed_out: Vec<u32>,
    /// What their lines say behind the row's number, which only the whole file tells.
    pub(super) lines_behind: Texts,
    /// The first bad rows, in their order.
    pub(super) bad: Vec<BadPlace>,
    /// The first row, if any, to which the model gave what is no probability.
    pub(super) not_a_probability: Option<u64>,
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
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Texts {
    fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.end();
    }

    /// What was written since the last one is a text.
    fn end(&mut self) {
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
            features: options.hands_out_features(),
            tile: Tile::new(bundle.preprocessing().columns().len()),
            places: Vec::with_capacity(TILE),
            keys: options.key_column.is_some().then(Texts::default),
            scores: Vec::with_capacity(TILE),
            rows: 0,
            lines: 0,
            stopped: false,
            failed: None,
            range: bundle.profile().map(Profile::range),
            profile: None,
            outcome: Part::default(),
        })
    }

    /// One that scores nothing: what its rows look like is in the builder.
    pub(super) fn of_profile(
        bundle: &'a Bundle,
        options: &Options,
        profile: ProfileBuilder,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            profile: Some(profile),
            ..Self::new(bundle, options, bundle.preprocessing().threshold())?
        })
    }

    /// The builder, with all rows in it that were finished.
    pub(super) fn into_profile(self) -> Option<ProfileBuilder> {
        self.profile
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

    /// Good rows that come column by column, and what each is called.
    pub(super) fn columns<'b>(
        &mut self,
        columns: &[&[f64]],
        key: &dyn Fn(usize) -> Option<Cow<'b, str>>,
    ) {
        let rows = columns.first().map_or(0, |column| column.len());
        let mut done = 0;
        let mut rest = columns.to_vec();
        while done < rows && !self.stopped {
            let taken = self.tile.extend(&rest);
            for row in done..done + taken {
                if self.keys.is_some() {
                    let key = key(row);
                    self.set_key(key.as_deref().unwrap_or_default().as_bytes());
                }
                self.rows += 1;
                self.lines += 1;
                self.places.push(Place {
                    row: self.rows,
                    line: self.lines,
                });
            }
            if self.tile.is_full() {
                self.flush();
            }
            done += taken;
            for column in &mut rest {
                *column = &column[taken..];
            }
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
        if let Some(profile) = &mut self.profile {
            profile.add_bad(column, reason);
        }
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
        if let Some(profile) = &mut self.profile {
            profile.add(&self.tile);
        } else {
            self.score();
        }
        self.tile.clear();
        self.places.clear();
        if let Some(keys) = &mut self.keys {
            keys.clear();
        }
    }

    fn score(&mut self) {
        if let Some(range) = &self.range {
            self.outcome.tally.outside.add(range, &self.tile);
        }
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
            self.hand_out(at, place.row, probability);
        }
    }

    /// Writes what the row's line says behind its number: as [`ResultRow`](crate::results::ResultRow)
    /// is written.
    fn hand_out(&mut self, at: usize, row: u32, probability: f64) {
        const WRITES: &str = "memory takes it";
        let lines = &mut self.outcome.lines_behind;
        let text = &mut lines.bytes;
        if let Some(keys) = &self.keys {
            let key = String::from_utf8_lossy(keys.get(at).unwrap_or_default());
            text.extend_from_slice(b",\"key\":");
            serde_json::to_writer(&mut *text, &key).expect(WRITES);
        }
        text.extend_from_slice(b",\"probability\":");
        serde_json::to_writer(&mut *text, &probability).expect(WRITES);
        if self.features {
            for (column, value) in self.tile.row(at).enumerate() {
                let before: &[u8] = if column == 0 {
                    b",\"features\":["
                } else {
                    b","
                };
                text.extend_from_slice(before);
                serde_json::to_writer(&mut *text, &value).expect(WRITES);
            }
            text.push(b']');
        }
        text.extend_from_slice(b"}\n");
        lines.end();
        self.outcome.handed_out.push(row);
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
pub(crate) const MAX_KEY: usize = 256;

/// What is counted of rows.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) scored: u64,
    pub(super) flagged: u64,
    pub(super) bad: BTreeMap<BadReason, u64>,
    pub(super) histogram: [u64; HISTOGRAM_BINS],
    pub(super) max: f64,
    pub(super) sum: f64,
    pub(super) outside: Outside,
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
        self.outside.merge(&other.outside);
    }
}
