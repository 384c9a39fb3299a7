//! What one thread needs to score rows: preprocessing before the engine, column by column.

use std::sync::Arc;

use strongroom_kernel::Workspace;
use zeroize::Zeroize;

use super::fused::Fused;
use super::graph::Kind;
use super::onnx::Network;
use super::tract::{BATCH, Plan, Rows, Run};
use super::{ModelError, Preprocessing};
use crate::tile::Tile;

/// One thread's use of a bundle's model.
pub struct Scorer<'a> {
    preprocessing: &'a Preprocessing,
    engine: Engine,
}

/// The two ways to a score.
enum Engine {
    Fused {
        fused: Arc<Fused>,
        workspace: Workspace,
    },
    General(General),
}

impl<'a> Scorer<'a> {
    pub(super) fn new(
        preprocessing: &'a Preprocessing,
        network: &Network,
    ) -> Result<Self, ModelError> {
        match network.fused() {
            Some(fused) => Ok(Self::fused(preprocessing, Arc::clone(fused))),
            None => Self::general(preprocessing, network),
        }
    }

    pub(super) fn fused(preprocessing: &'a Preprocessing, fused: Arc<Fused>) -> Self {
        let workspace = fused.network.workspace();
        Self {
            preprocessing,
            engine: Engine::Fused { fused, workspace },
        }
    }

    pub(super) fn general(
        preprocessing: &'a Preprocessing,
        network: &Network,
    ) -> Result<Self, ModelError> {
        let general = General::new(network.plan(), network.places(), network.kinds())?;
        Ok(Self {
            preprocessing,
            engine: Engine::General(general),
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
        match &mut self.engine {
            Engine::Fused { fused, workspace } => {
                let before = scores.len();
                scores.resize(before + tile.rows(), 0.0);
                let columns: Vec<&[f64]> = fused
                    .columns
                    .iter()
                    .map(|&column| tile.column(column))
                    .collect();
                fused
                    .network
                    .score(&columns, workspace, &mut scores[before..]);
                Ok(())
            }
            Engine::General(general) => general.score(tile, self.preprocessing, scores),
        }
    }
}

/// tract, which takes rows one after the other.
struct General {
    run: Run,
    places: Vec<Vec<usize>>,
    inputs: Vec<Rows>,
}

impl General {
    fn new(plan: &Plan, places: &[Vec<usize>], kinds: &[Kind]) -> Result<Self, ModelError> {
        let run = plan.run().map_err(|_| failed())?;
        let inputs = places.iter().zip(kinds).map(|(columns, kind)| match kind {
            Kind::Float => Rows::Single(vec![0.0; columns.len() * BATCH]),
            Kind::Double | Kind::Whole | Kind::Truth => {
                Rows::Double(vec![0.0; columns.len() * BATCH])
            }
        });
        Ok(Self {
            run,
            places: places.to_vec(),
            inputs: inputs.collect(),
        })
    }

    fn score(
        &mut self,
        tile: &Tile,
        preprocessing: &Preprocessing,
        scores: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let mut from = 0;
        while from < tile.rows() {
            let count = BATCH.min(tile.rows() - from);
            for (columns, rows) in self.places.iter().zip(&mut self.inputs) {
                let width = columns.len();
                for (at, &column) in columns.iter().enumerate() {
                    let values = &tile.column(column)[from..][..count];
                    match rows {
                        Rows::Single(rows) => {
                            let places = rows.iter_mut().skip(at).step_by(width);
                            for (place, &value) in places.zip(values) {
                                *place = preprocessing.standardise(column, value);
                            }
                        }
                        Rows::Double(rows) => {
                            let places = rows.iter_mut().skip(at).step_by(width);
                            for (place, &value) in places.zip(values) {
                                *place = preprocessing.scale(column, value);
                            }
                        }
                    }
                }
            }
            self.run
                .score(&self.inputs, count, scores)
                .map_err(|_| failed())?;
            from += count;
        }
        Ok(())
    }
}

impl Drop for General {
    fn drop(&mut self) {
        for rows in &mut self.inputs {
            match rows {
                Rows::Single(rows) => rows.zeroize(),
                Rows::Double(rows) => rows.zeroize(),
            }
        }
    }
}

// tract's own texts quote tensors, and rows do not belong into an error.
fn failed() -> ModelError {
    ModelError::Onnx("the engine failed".to_owned())
}
