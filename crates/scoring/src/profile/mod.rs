//! What the columns of a data set look like in numbers: made of rows as they pass, kept beside a
//! model as `profile.json`, and held against what comes in later. Aggregates only, yet the least and
//! the greatest value of a column are values of a row, and a few rows can be read off their mean.

mod builder;
mod drift;
mod sketch;

use serde::{Deserialize, Serialize};

pub use builder::{ColumnStatistics, Moments, ProfileBuilder, Statistics};
pub use drift::{Drift, DriftLevel};

use crate::model::ModelError;
use crate::shown;
use crate::tile::{TILE, Tile};

/// The checked content of `profile.json`: the rows that a model was trained on, column by column.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    rows: u64,
    columns: Vec<ColumnProfile>,
}

/// A column of a [`Profile`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnProfile {
    /// What the column is called.
    pub name: String,
    /// How many numbers it has.
    pub values: u64,
    /// In how many rows there is nothing in it.
    pub nulls: u64,
    /// In how many rows there is something in it that is no number for the model.
    pub bad: u64,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// The mean of the values.
    pub mean: f64,
    /// Their standard deviation, as scikit-learn's scaler takes it: over all, not all but one.
    pub std: f64,
    /// Values below which a share of all values lies.
    pub quantiles: Vec<Quantile>,
    /// Where the bins of the histogram meet; below the first and from the last on are bins too.
    pub edges: Vec<f64>,
    /// How many values are in each bin.
    pub counts: Vec<u64>,
}

/// A value below which a share of all values lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantile {
    /// The share.
    pub at: f64,
    /// The value.
    pub value: f64,
}

impl Profile {
    /// The longest `profile.json` that is read.
    pub const MAX_BYTES: usize = 8 << 20;

    /// Parses and checks the file. `columns` are those of the model, and the profile's must be they.
    ///
    /// # Errors
    /// [`ModelError::Profile`] says what is wrong with it.
    pub fn parse(json: &[u8], columns: &[String]) -> Result<Self, ModelError> {
        if json.len() > Self::MAX_BYTES {
            return Err(ModelError::TooLarge {
                what: "profile.json",
                limit: Self::MAX_BYTES,
            });
        }
        let unchecked: UncheckedProfile = serde_json::from_slice(json)
            // The parser's own words may quote a value.
            .map_err(|e| {
                refused(format!(
                    "line {}, column {}: not a profile of this format",
                    e.line(),
                    e.column()
                ))
            })?;
        if unchecked.format != FORMAT {
            return Err(refused(format!(
                "format {}; this program reads format {FORMAT}",
                unchecked.format
            )));
        }
        let names = unchecked.columns.iter().map(|column| &column.name);
        if !names.eq(columns) {
            return Err(refused(
                "its columns are not those of preprocessing.json, in their order",
            ));
        }
        for column in &unchecked.columns {
            check(column, unchecked.rows)
                .map_err(|why| refused(format!("column \"{}\": {why}", shown(&column.name))))?;
        }
        Ok(Self {
            rows: unchecked.rows,
            columns: unchecked.columns,
        })
    }

    /// The file, a column a line. Equal profiles give equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| serde_json::to_string(column).expect("finite numbers and names are JSON"))
            .collect();
        format!(
            "{{\"format\":{FORMAT},\"rows\":{},\"columns\":[\n{}\n]}}\n",
            self.rows,
            columns.join(",\n")
        )
        .into_bytes()
    }

    /// How many rows were trained on, good and bad.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The columns, in the model's order.
    pub fn columns(&self) -> &[ColumnProfile] {
        &self.columns
    }

    /// Between which values each column lay.
    pub fn range(&self) -> TrainingRange {
        TrainingRange {
            ranges: self.columns.iter().map(|c| (c.min, c.max)).collect(),
        }
    }
}

/// Between which values each column of the training rows lay.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingRange {
    ranges: Vec<(f64, f64)>,
}

impl TrainingRange {
    /// Whether a value of a column lies outside. A missing value does not, and neither does any of a
    /// column that is not the model's.
    pub fn outside(&self, column: usize, value: f64) -> bool {
        self.ranges
            .get(column)
            .is_some_and(|range| is_outside(*range, value))
    }
}

fn is_outside((min, max): (f64, f64), value: f64) -> bool {
    // Not "not within": NaN is neither.
    (value < min) | (value > max)
}

/// How many rows lie outside a [`TrainingRange`], and in which columns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outside {
    /// Rows with a value outside in at least one column.
    pub rows: u64,
    /// For each column, the rows whose value in it is outside; empty while nothing was counted.
    pub by_column: Vec<u64>,
}

impl Outside {
    /// Counts the rows of a tile.
    pub fn add(&mut self, range: &TrainingRange, tile: &Tile) {
        let mut is_out = [false; TILE];
        let mut any = false;
        self.by_column.resize(tile.width(), 0);
        let columns = self.by_column.iter_mut().zip(&range.ranges);
        for (at, (count, &range)) in columns.enumerate() {
            let values = tile.column(at);
            // Hardly ever is one outside, and to know just that costs next to nothing.
            let none = |all, value: &f64| all | is_outside(range, *value);
            if !values.iter().fold(false, none) {
                continue;
            }
            any = true;
            for (row, &value) in is_out.iter_mut().zip(values) {
                let outside = is_outside(range, value);
                *count += u64::from(outside);
                *row |= outside;
            }
        }
        if any {
            self.rows += is_out.iter().map(|&out| u64::from(out)).sum::<u64>();
        }
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        let columns = self.by_column.len().max(other.by_column.len());
        self.by_column.resize(columns, 0);
        for (count, more) in self.by_column.iter_mut().zip(&other.by_column) {
            *count += more;
        }
    }
}

const FORMAT: u32 = 1;
const MOST_EDGES: usize = 256;
const MOST_QUANTILES: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UncheckedProfile {
    format: u32,
    rows: u64,
    columns: Vec<ColumnProfile>,
}

fn refused(why: impl Into<String>) -> ModelError {
    ModelError::Profile(why.into())
}

/// What must hold between the numbers of a column. (JSON has no number that is not finite.)
fn check(column: &ColumnProfile, rows: u64) -> Result<(), &'static str> {
    let ColumnProfile {
        values,
        nulls,
        bad,
        min,
        max,
        mean,
        std,
        quantiles,
        edges,
        counts,
        ..
    } = column;
    let sum = |counts: &[u64]| counts.iter().try_fold(0_u64, |sum, n| sum.checked_add(*n));
    let sorted = |values: &mut dyn Iterator<Item = f64>| values.is_sorted();
    if *values == 0 {
        return Err("no values");
    }
    if sum(&[*values, *nulls, *bad]).is_none_or(|seen| seen > rows) {
        return Err("more values than rows");
    }
    if !(min <= mean && mean <= max && *std >= 0.0) {
        return Err("a mean outside its range, or a deviation below zero");
    }
    if quantiles.len() > MOST_QUANTILES
        || !quantiles
            .iter()
            .all(|q| (0.0..=1.0).contains(&q.at) && (min..=max).contains(&&q.value))
        || !sorted(&mut quantiles.iter().map(|q| q.at))
        || !sorted(&mut quantiles.iter().map(|q| q.value))
    {
        return Err("quantiles that are out of order");
    }
    if edges.len() > MOST_EDGES || !edges.is_sorted_by(|a, b| a < b) {
        return Err("edges that are out of order");
    }
    if counts.len() != edges.len() + 1 || sum(counts) != Some(*values) {
        return Err("counts that do not add up");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({"format": 1, "rows": 10, "columns": [{"name": "x", "values": 8, "nulls": 1, "bad": 1,
            "min": -1.0, "max": 4.0, "mean": 1.0, "std": 2.0,
            "quantiles": [{"at": 0.25, "value": 0.0}, {"at": 0.5, "value": 1.5}],
            "edges": [0.0, 2.0], "counts": [2, 3, 3]}]})
    }

    fn parse(json: &Value) -> Result<Profile, ModelError> {
        Profile::parse(json.to_string().as_bytes(), &["x".to_owned()])
    }

    fn refusal(pointer: &str, value: Value) -> String {
        let mut json = good();
        *json.pointer_mut(pointer).unwrap() = value;
        parse(&json).unwrap_err().to_string()
    }

    #[test]
    fn file_comes_back_changed() {
        let profile = parse(&good()).unwrap();
        let again = Profile::parse(&profile.to_json(), &["x".to_owned()]).unwrap();
        assert_eq!(again, profile);
        assert_eq!(
            serde_json::from_slice::<Value>(&profile.to_json()).unwrap(),
            good()
        );
    }

    #[test]
    fn contradiction_is_believed() {
        for (pointer, value, why) in [
            ("/format", json!(2), "format 2"),
            ("/columns/0/name", json!("y"), "columns are not those"),
            ("/columns", json!([]), "columns are not those"),
            ("/columns/0/values", json!(0), "no values"),
            ("/columns/0/values", json!(9), "more values than rows"),
            ("/columns/0/nulls", json!(u64::MAX), "more values than rows"),
            ("/columns/0/mean", json!(5.0), "a mean outside"),
            ("/columns/0/std", json!(-0.5), "below zero"),
            ("/columns/0/min", json!(3.0), "a mean outside"),
            ("/columns/0/quantiles/0/value", json!(2.0), "quantiles"),
            ("/columns/0/quantiles/0/value", json!(-2.0), "quantiles"),
            ("/columns/0/quantiles/0/at", json!(0.75), "quantiles"),
            ("/columns/0/quantiles/0/at", json!(-0.1), "quantiles"),
            ("/columns/0/edges/0", json!(2.0), "edges"),
            ("/columns/0/counts/0", json!(3), "add up"),
            ("/columns/0/counts", json!([8]), "add up"),
            ("/columns/0/counts/0", json!(u64::MAX), "add up"),
            (
                "/columns/0/edges",
                json!((0..300).collect::<Vec<_>>()),
                "edges",
            ),
            ("/columns/0/min", json!("4111-1111"), "not a profile"),
        ] {
            let error = refusal(pointer, value);
            assert!(error.contains(why), "{pointer}: {error}");
            assert!(
                error.starts_with("profile.json: ") && !error.contains("4111"),
                "{error}"
            );
        }
        let mut more = good();
        more["columns"][0]["more"] = json!(1);
        assert!(
            parse(&more)
                .unwrap_err()
                .to_string()
                .contains("not a profile")
        );
    }

    #[test]
    fn file_without_end() {
        let long = vec![b' '; Profile::MAX_BYTES + 1];
        assert!(matches!(
            Profile::parse(&long, &[]),
            Err(ModelError::TooLarge { .. })
        ));
    }

    #[test]
    fn edge_of_the_range_or_another_column_is_outside() {
        let range = parse(&good()).unwrap().range();
        for (value, outside) in [
            (-1.0, false),
            (4.0, false),
            (-1.000_001, true),
            (4.000_001, true),
            (f64::NAN, false),
        ] {
            assert_eq!(range.outside(0, value), outside, "{value}");
        }
        assert!(!range.outside(1, 100.0));
    }

    #[test]
    fn row_that_is_outside_twice_is_two_rows() {
        let range = TrainingRange {
            ranges: vec![(0.0, 1.0), (0.0, 1.0)],
        };
        let mut tile = Tile::new(2);
        for row in [[0.5, 0.5], [2.0, -1.0], [1.0, 1.1]] {
            row.into_iter()
                .enumerate()
                .for_each(|(at, value)| tile.set(at, value));
            tile.end_row();
        }
        let mut outside = Outside::default();
        outside.add(&range, &tile);
        outside.merge(&outside.clone());
        assert_eq!((outside.rows, &outside.by_column[..]), (4, &[2, 4][..]));
    }
}
