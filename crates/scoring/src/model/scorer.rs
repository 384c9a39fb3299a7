//! What one thread needs to score rows: preprocessing before the engine, column by column.

use super::onnx::{self, Network};
use super::{ModelError, Preprocessing};
use crate::tile::Tile;

/// One thread's use of a bundle's model.
pub struct Scorer<'a> {
    preprocessing: &'a Preprocessing,
    engine: onnx::Engine,
    standardised: Vec<f32>,
}

impl<'a> Scorer<'a> {
    pub(super) fn new(
        preprocessing: &'a Preprocessing,
        network: &Network,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            preprocessing,
            engine: network.engine()?,
            standardised: Vec::new(),
        })
    }

    /// Appends one score for each row of the tile, in their order. A score that is not a number
    /// means that the model overflowed on that row.
    ///
    /// # Errors
    /// When the engine fails, which the trial run at loading makes unlikely.
    ///
    /// # Panics
    /// When the tile has another number of columns than the model.
    pub fn score(&mut self, tile: &Tile, scores: &mut Vec<f32>) -> Result<(), ModelError> {
        let width = self.preprocessing.columns().len();
        assert_eq!(tile.width(), width, "a tile of the model's columns");
        self.standardised.clear();
        self.standardised.resize(tile.rows() * width, 0.0);
        for column in 0..width {
            let places = self.standardised.iter_mut().skip(column).step_by(width);
            for (place, &value) in places.zip(tile.column(column)) {
                *place = self.preprocessing.standardise(column, value);
            }
        }
        self.engine.score(&self.standardised, scores)
    }
}
