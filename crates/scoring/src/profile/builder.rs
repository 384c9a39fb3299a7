//! Statistics of rows as they pass, a tile at a time. Parts of a data set merge into the whole.

use serde::Serialize;

use super::drift::Drift;
use super::sketch::Sketch;
use super::{ColumnProfile, Outside, Profile, Quantile, TrainingRange};
use crate::model::{ModelError, Preprocessing};
use crate::results::BadReason;
use crate::tile::Tile;

/// Takes the rows of a data set and keeps what they add up to.
#[derive(Debug, Clone)]
pub struct ProfileBuilder {
    rows: u64,
    bad_rows: u64,
    columns: Vec<Column>,
    training: Option<Training>,
}

impl ProfileBuilder {
    /// Nothing seen yet of the columns that a model reads. With a training profile, which must be
    /// that model's, the rows are held against it.
    pub fn new(preprocessing: &Preprocessing, training: Option<&Profile>) -> Self {
        let names = preprocessing.columns();
        Self {
            rows: 0,
            bad_rows: 0,
            columns: names
                .iter()
                .map(|name| Column::new(name, names.len()))
                .collect(),
            training: training.map(|profile| Training {
                range: profile.range(),
                outside: Outside::default(),
                columns: profile
                    .columns()
                    .iter()
                    .map(|column| TrainingColumn {
                        edges: column.edges.clone(),
                        trained: column.counts.clone(),
                        here: vec![0; column.counts.len()],
                    })
                    .collect(),
            }),
        }
    }

    /// Takes rows that could be read.
    ///
    /// # Panics
    /// When the tile has other columns than the model.
    pub fn add(&mut self, tile: &Tile) {
        assert_eq!(tile.width(), self.columns.len(), "the model's columns");
        self.rows += tile.rows() as u64;
        for (at, column) in self.columns.iter_mut().enumerate() {
            column.add(tile.column(at));
        }
        if let Some(training) = &mut self.training {
            training.outside.add(&training.range, tile);
            for (at, column) in training.columns.iter_mut().enumerate() {
                for value in tile.column(at).iter().filter(|value| !value.is_nan()) {
                    column.here[column.edges.partition_point(|edge| edge <= value)] += 1;
                }
            }
        }
    }

    /// Takes a row that could not be read, by the column at fault where one is. Its other columns
    /// are not looked at.
    pub fn add_bad(&mut self, column: Option<usize>, reason: BadReason) {
        self.rows += 1;
        self.bad_rows += 1;
        if let Some(column) = column.and_then(|at| self.columns.get_mut(at)) {
            match reason {
                BadReason::Empty => column.nulls += 1,
                _ => column.bad += 1,
            }
        }
    }

    /// Adds what was seen of another part of the same data set.
    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.bad_rows += other.bad_rows;
        for (column, other) in self.columns.iter_mut().zip(other.columns) {
            column.merge(other);
        }
        if let (Some(training), Some(other)) = (&mut self.training, other.training) {
            training.outside.merge(&other.outside);
            for (column, other) in training.columns.iter_mut().zip(other.columns) {
                column
                    .here
                    .iter_mut()
                    .zip(other.here)
                    .for_each(|(n, m)| *n += m);
            }
        }
    }

    /// What was seen, in numbers.
    pub fn finish(self) -> Statistics {
        let mut columns: Vec<ColumnStatistics> =
            self.columns.into_iter().map(Column::finish).collect();
        if let Some(training) = &self.training {
            for (at, (column, trained)) in columns.iter_mut().zip(&training.columns).enumerate() {
                let outside = training.outside.by_column.get(at);
                column.outside_training_range = Some(outside.copied().unwrap_or(0));
                column.drift = Drift::between(&trained.trained, &trained.here);
            }
        }
        Statistics {
            rows: self.rows,
            bad_rows: self.bad_rows,
            rows_outside_training_range: self.training.map(|training| training.outside.rows),
            columns,
        }
    }
}

/// A data set in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// Rows, good and bad.
    pub rows: u64,
    /// Rows that could not be read.
    pub bad_rows: u64,
    /// Rows with a value outside the training range; none without a training profile.
    pub rows_outside_training_range: Option<u64>,
    /// The columns, in the model's order.
    pub columns: Vec<ColumnStatistics>,
}

/// A column in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnStatistics {
    /// What it is called.
    pub name: String,
    /// How many numbers it has.
    pub values: u64,
    /// In how many rows nothing is in it.
    pub nulls: u64,
    /// In how many rows something is in it that is no number for the model.
    pub bad: u64,
    /// Range, mean and deviation; none without values, or when they are withheld.
    #[serde(flatten)]
    pub moments: Option<Moments>,
    /// Values below which shares of all values lie, to a thousandth of themselves or so.
    pub quantiles: Vec<Quantile>,
    /// Values outside the training range; none without a training profile.
    pub outside_training_range: Option<u64>,
    /// How far it has moved since training; none without a training profile, or values.
    pub drift: Option<Drift>,
    /// Where its bins meet.
    #[serde(skip)]
    edges: Vec<f64>,
    /// How many values are in each bin.
    #[serde(skip)]
    counts: Vec<u64>,
}

/// Where the values of a column lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moments {
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The standard deviation, over all of them.
    pub std: f64,
}

impl Statistics {
    /// Below so many values, a column's numbers say too much of single rows.
    pub const FEW: u64 = 20;

    /// Takes out the numbers of columns that have so few values that single rows could be read off
    /// them. Gives how many columns that were.
    pub fn withhold_few(&mut self) -> usize {
        let few = |column: &&mut ColumnStatistics| (1..Self::FEW).contains(&column.values);
        let mut withheld = 0;
        for column in self.columns.iter_mut().filter(few) {
            column.moments = None;
            column.quantiles.clear();
            withheld += 1;
        }
        withheld
    }

    /// The greatest drift of any column.
    pub fn drift(&self) -> Option<super::DriftLevel> {
        let levels = self.columns.iter().filter_map(|column| column.drift);
        levels.map(|drift| drift.level).max()
    }

    /// The form that lies beside a model.
    ///
    /// # Errors
    /// When a column has no value, or its numbers were withheld.
    pub fn to_profile(&self) -> Result<Profile, ModelError> {
        let columns = self.columns.iter().map(|column| {
            let Moments {
                min,
                max,
                mean,
                std,
            } = column.moments.ok_or_else(|| {
                let name = crate::shown(&column.name);
                ModelError::Profile(format!("column \"{name}\" has no values, or too few"))
            })?;
            Ok(ColumnProfile {
                name: column.name.clone(),
                values: column.values,
                nulls: column.nulls,
                bad: column.bad,
                min,
                max,
                mean,
                std,
                quantiles: column.quantiles.clone(),
                edges: column.edges.clone(),
                counts: column.counts.clone(),
            })
        });
        Ok(Profile {
            rows: self.rows,
            columns: columns.collect::<Result<_, ModelError>>()?,
        })
    }
}

/// Shares whose quantiles are shown.
const QUANTILES: [f64; 9] = [0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999];

/// Bins of a profile's histogram, at most: each holds a twentieth of the values where they differ.
const BINS: u32 = 20;

#[derive(Debug, Clone)]
struct Training {
    range: TrainingRange,
    outside: Outside,
    columns: Vec<TrainingColumn>,
}

#[derive(Debug, Clone)]
struct TrainingColumn {
    edges: Vec<f64>,
    trained: Vec<u64>,
    here: Vec<u64>,
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    nulls: u64,
    bad: u64,
    values: u64,
    min: f64,
    max: f64,
    mean: f64,
    /// The sum of the squares of the distances from the mean.
    squares: f64,
    sketch: Sketch,
}

impl Column {
    /// One of so many columns.
    fn new(name: &str, columns: usize) -> Self {
        Self {
            name: name.to_owned(),
            nulls: 0,
            bad: 0,
            values: 0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            mean: 0.0,
            squares: 0.0,
            sketch: Sketch::of_columns(columns),
        }
    }

    /// Values of which those that are missing are no numbers.
    fn add(&mut self, values: &[f64]) {
        let numbers = || values.iter().copied().filter(|value| !value.is_nan());
        let there = numbers().count();
        self.nulls += (values.len() - there) as u64;
        if there == 0 {
            return;
        }
        let count = there as f64;
        let mean = numbers().map(|value| value / count).sum::<f64>();
        let squares = numbers().map(|value| (value - mean).powi(2)).sum();
        self.merge_moments(there as u64, mean, squares);
        for value in numbers() {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.sketch.add(value);
        }
    }

    fn merge(&mut self, other: Self) {
        self.nulls += other.nulls;
        self.bad += other.bad;
        self.merge_moments(other.values, other.mean, other.squares);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sketch.merge(other.sketch);
    }

    /// The update of Chan, Golub and others: no sum of squares that large values drown in.
    fn merge_moments(&mut self, values: u64, mean: f64, squares: f64) {
        let total = self.values + values;
        if total == 0 {
            return;
        }
        let share = values as f64 / total as f64;
        let apart = mean - self.mean;
        self.mean += apart * share;
        self.squares += squares + apart * apart * share * self.values as f64;
        self.values = total;
    }

    fn finish(self) -> ColumnStatistics {
        let sorted = self.sketch.sorted();
        let value_at = |share: f64| {
            let value = sorted.quantile(share)?;
            Some(value.clamp(self.min, self.max))
        };
        let quantiles = QUANTILES.iter().filter_map(|&at| {
            let value = value_at(at)?;
            Some(Quantile { at, value })
        });
        let mut edges: Vec<f64> = (1..BINS)
            .filter_map(|at| sorted.quantile(f64::from(at) / f64::from(BINS)))
            .filter(|edge| *edge > self.min)
            .collect();
        edges.dedup();
        // What overflows is no number that JSON could hold.
        let std = rounded((self.squares / self.values as f64).sqrt());
        let moments = Moments {
            min: self.min,
            max: self.max,
            mean: match rounded(self.mean) {
                mean if mean.is_nan() => self.min / 2.0 + self.max / 2.0,
                mean => mean.clamp(self.min, self.max.max(self.min)),
            },
            std: if std.is_finite() { std } else { f64::MAX },
        };
        ColumnStatistics {
            values: self.values,
            nulls: self.nulls,
            bad: self.bad,
            moments: (self.values > 0).then_some(moments),
            quantiles: quantiles.collect(),
            outside_training_range: None,
            drift: None,
            counts: sorted.counts(&edges),
            edges,
            name: self.name,
        }
    }
}

/// Twelve digits that count: how the rows were cut into tiles, and merged, shows in later ones.
fn rounded(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::super::DriftLevel;
    use super::*;
    use crate::generate::{Columns, Generator};
    use crate::model::Bundle;
    use crate::tile::TILE;

    fn tiles(rows: u64, seed: u64) -> Vec<Tile> {
        let generator = Generator {
            rows,
            seed,
            label: false,
            columns: Columns::Model,
        };
        let mut tiles = vec![Tile::new(5)];
        for transaction in generator.transactions() {
            if tiles.last().unwrap().rows() == TILE {
                tiles.push(Tile::new(5));
            }
            let tile = tiles.last_mut().unwrap();
            for (at, value) in transaction.model_features().into_iter().enumerate() {
                tile.set(at, value);
            }
            tile.end_row();
        }
        tiles
    }

    fn builder(training: Option<&Profile>) -> ProfileBuilder {
        ProfileBuilder::new(Bundle::built_in().preprocessing(), training)
    }

    fn statistics(tiles: &[Tile], training: Option<&Profile>) -> Statistics {
        let mut builder = builder(training);
        tiles.iter().for_each(|tile| builder.add(tile));
        builder.finish()
    }

    #[test]
    fn numbers_are_others_than_by_sorting() {
        let tiles = tiles(5000, 9);
        let statistics = statistics(&tiles, None);
        for (at, column) in statistics.columns.iter().enumerate() {
            let mut values: Vec<f64> = tiles.iter().flat_map(|t| t.column(at).to_vec()).collect();
            values.sort_by(f64::total_cmp);
            let mean = values.iter().sum::<f64>() / 5000.0;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 5000.0;
            let moments = column.moments.unwrap();
            assert_eq!((moments.min, moments.max), (values[0], values[4999]));
            assert!((moments.mean - mean).abs() < 1e-9 * mean.abs());
            assert!((moments.std - variance.sqrt()).abs() < 1e-9 * moments.std);
            for quantile in &column.quantiles {
                let exact = values[(quantile.at * 5000.0).ceil() as usize - 1];
                assert!(
                    (quantile.value - exact).abs() <= exact.abs() * 0.01,
                    "{}: {} for {exact}",
                    quantile.at,
                    quantile.value
                );
            }
            let below: Vec<u64> = column
                .edges
                .iter()
                .map(|edge| values.partition_point(|value| value < edge) as u64)
                .collect();
            let mut sum = 0;
            for (count, below) in column.counts.iter().zip(below) {
                sum += count;
                assert_eq!(sum, below);
            }
            assert_eq!(column.counts.iter().sum::<u64>(), 5000);
        }
        assert_eq!(statistics.columns[2].edges, [1.0]);
        assert_eq!(statistics.columns[0].edges.len(), 19);
    }

    #[test]
    fn parts_of_a_data_set_merge_into_another() {
        let tiles = tiles(4000, 3);
        let profile = statistics(&tiles, None).to_profile().unwrap();
        let whole = statistics(&tiles, Some(&profile));
        let mut parts = builder(Some(&profile));
        for tile in &tiles {
            let mut part = builder(Some(&profile));
            part.add(tile);
            parts.merge(part);
        }
        let parts = parts.finish();
        assert_eq!(parts.columns.len(), whole.columns.len());
        for (part, whole) in parts.columns.iter().zip(&whole.columns) {
            assert_eq!(part.counts, whole.counts);
            assert_eq!(part.quantiles, whole.quantiles);
            assert_eq!(part.drift, whole.drift);
            let (part, whole) = (part.moments.unwrap(), whole.moments.unwrap());
            assert!((part.mean - whole.mean).abs() < 1e-9);
            assert!((part.std - whole.std).abs() < 1e-9);
        }
    }

    #[test]
    fn own_profile_is_refused_or_shows_drift() {
        let tiles = tiles(30_000, 5);
        let profile = statistics(&tiles, None).to_profile().unwrap();
        let bundle = Bundle::built_in();
        let names = bundle.preprocessing().columns();
        assert_eq!(Profile::parse(&profile.to_json(), names).unwrap(), profile);
        let again = statistics(&tiles, Some(&profile));
        assert_eq!(again.rows_outside_training_range, Some(0));
        assert_eq!(again.drift(), Some(DriftLevel::Stable));
        for column in &again.columns {
            assert!(column.drift.unwrap().psi < 1e-9);
        }
    }

    #[test]
    fn moved_column_goes_unnoticed() {
        let mut moved = tiles(3000, 6);
        for tile in &mut moved {
            let mut other = Tile::new(5);
            for row in 0..tile.rows() {
                for (at, value) in tile.row(row).enumerate() {
                    other.set(at, if at == 1 { value * 3.0 + 1e6 } else { value });
                }
                other.end_row();
            }
            *tile = other;
        }
        let profile = statistics(&tiles(30_000, 5), None).to_profile().unwrap();
        let statistics = statistics(&moved, Some(&profile));
        assert_eq!(statistics.rows_outside_training_range, Some(3000));
        assert_eq!(statistics.columns[1].outside_training_range, Some(3000));
        let levels: Vec<_> = statistics
            .columns
            .iter()
            .map(|c| c.drift.unwrap().level)
            .collect();
        assert_eq!(levels[1], DriftLevel::Strong);
        assert!(
            levels
                .iter()
                .enumerate()
                .all(|(at, l)| at == 1 || *l == DriftLevel::Stable)
        );
        assert_eq!(statistics.drift(), Some(DriftLevel::Strong));
    }

    #[test]
    fn bad_rows_are_taken_for_values() {
        let mut builder = builder(None);
        builder.add_bad(Some(2), BadReason::Empty);
        builder.add_bad(Some(2), BadReason::NotANumber);
        builder.add_bad(None, BadReason::ShortRow);
        let statistics = builder.finish();
        assert_eq!((statistics.rows, statistics.bad_rows), (3, 3));
        let chip = &statistics.columns[2];
        assert_eq!((chip.values, chip.nulls, chip.bad), (0, 1, 1));
        assert_eq!(chip.moments, None);
        assert!(chip.quantiles.is_empty());
        assert!(statistics.to_profile().is_err());
    }

    #[test]
    fn missing_values_are_taken_for_numbers() {
        let mut tile = Tile::new(5);
        for value in [1.0, f64::NAN, 3.0] {
            (0..5).for_each(|at| tile.set(at, value));
            tile.end_row();
        }
        let profile = statistics(&tiles(3000, 5), None).to_profile().unwrap();
        let statistics = statistics(&[tile], Some(&profile));
        let column = &statistics.columns[0];
        assert_eq!((column.values, column.nulls), (2, 1));
        assert_eq!(column.moments.unwrap().mean, 2.0);
        assert_eq!(statistics.columns[2].outside_training_range, Some(1));
        assert_eq!(statistics.rows_outside_training_range, Some(1));
    }

    #[test]
    fn few_rows_are_shown() {
        for (rows, withheld) in [(1, 5), (19, 5), (20, 0), (0, 0)] {
            let mut statistics = statistics(&tiles(rows, 1), None);
            assert_eq!(statistics.withhold_few(), withheld, "{rows}");
            let shown = serde_json::to_value(&statistics).unwrap();
            let column = &shown["columns"][0];
            assert_eq!(column.get("min").is_some(), rows >= 20, "{rows}");
            assert_eq!(
                column["quantiles"].as_array().unwrap().is_empty(),
                rows < 20
            );
            assert_eq!(statistics.to_profile().is_ok(), rows >= 20);
        }
    }

    #[test]
    fn huge_values_are_no_json() {
        let mut tile = Tile::new(5);
        for value in [f64::MAX, f64::MIN] {
            (0..5).for_each(|at| tile.set(at, value));
            tile.end_row();
        }
        let profile = statistics(&[tile], None).to_profile().unwrap();
        let bundle = Bundle::built_in();
        let names = bundle.preprocessing().columns();
        Profile::parse(&profile.to_json(), names).unwrap();
    }
}
