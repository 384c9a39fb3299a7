//! Runs a checked graph through tract. Input and output are what the graph says, by position and
//! width; nothing goes by their names.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tract_onnx::prelude::{
    Framework, InferenceModelExt, IntoRunnable, IntoTValue, Tensor, TractResult,
    TypedRunnableModel, TypedSimpleState, tvec,
};

use super::ModelError;
use super::graph::DenseGraph;

/// A network that was loaded and tried once.
pub struct Network {
    plan: Arc<TypedRunnableModel>,
    input: String,
    output: String,
    width: usize,
}

impl Network {
    /// The longest `model.onnx` that is read.
    pub const MAX_BYTES: usize = 16 << 20;

    /// Decodes, checks and prepares a model, and runs it once.
    ///
    /// # Errors
    /// [`ModelError::Onnx`] says what is not understood.
    pub fn parse(onnx: &[u8]) -> Result<Self, ModelError> {
        if onnx.len() > Self::MAX_BYTES {
            return Err(ModelError::TooLarge {
                what: "model.onnx",
                limit: Self::MAX_BYTES,
            });
        }
        // The graph is checked before tract plans it, yet tract asserts in many places what a model
        // ought to be, and a panic must not take down a server that loads models of others. Nothing
        // outlives the closure but its result, so no broken state can be seen.
        catch_unwind(AssertUnwindSafe(|| Self::load(onnx)))
            .unwrap_or_else(|_| Err(refused(UNPLANNED)))
    }

    fn load(mut onnx: &[u8]) -> Result<Self, ModelError> {
        let engine = tract_onnx::onnx();
        let proto = engine
            .proto_model_for_read(&mut onnx)
            .map_err(|_| refused("it is not an ONNX file"))?;
        let graph = DenseGraph::check(proto).map_err(refused)?;
        let (input, output, width) = (graph.input.clone(), graph.output.clone(), graph.width);
        // A batch of a known size: with a symbolic one tract takes twice as long.
        let plan = engine
            .model_for_proto_model(&graph.into_proto(BATCH))
            .and_then(InferenceModelExt::into_optimized)
            .and_then(IntoRunnable::into_runnable)
            .map_err(|_| refused(UNPLANNED))?;
        let network = Self {
            plan,
            input,
            output,
            width,
        };
        network.attempt()?;
        Ok(network)
    }

    /// The trial run: what can go wrong with shapes goes wrong here and not within a batch.
    fn attempt(&self) -> Result<(), ModelError> {
        let mut scores = Vec::new();
        self.engine()?.score(&vec![0.0; self.width], &mut scores)?;
        match scores[..] {
            [score] if (0.0..=1.0).contains(&score) => Ok(()),
            _ => Err(refused(
                "it does not give a probability for the average row",
            )),
        }
    }

    /// The name of the graph's input.
    pub fn input(&self) -> &str {
        &self.input
    }

    /// The name of the graph's output.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// How many numbers the graph takes for a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// What one thread needs to run the network.
    pub(super) fn engine(&self) -> Result<Engine, ModelError> {
        let state = self.plan.spawn().map_err(|_| refused(ENGINE_FAILED))?;
        Ok(Engine {
            state,
            width: self.width,
            padded: Vec::new(),
        })
    }
}

/// Rows that the engine takes at a time. tract is fastest near this size; a rest is padded.
pub(crate) const BATCH: usize = 1024;

// tract's own texts quote tensors, and weights do not belong into an error.
const UNPLANNED: &str = "the engine cannot plan it";
const ENGINE_FAILED: &str = "the engine failed";

fn refused(why: impl Into<String>) -> ModelError {
    ModelError::Onnx(why.into())
}

/// One thread's use of a [`Network`].
pub(super) struct Engine {
    state: TypedSimpleState,
    width: usize,
    padded: Vec<f32>,
}

impl Engine {
    /// Appends one score for each row of standardised features, of which `rows` holds whole ones.
    pub(super) fn score(&mut self, rows: &[f32], scores: &mut Vec<f32>) -> Result<(), ModelError> {
        assert_eq!(rows.len() % self.width, 0, "whole rows are scored");
        for batch in rows.chunks(BATCH * self.width) {
            self.run(batch, scores)
                .map_err(|_| refused(ENGINE_FAILED))?;
        }
        Ok(())
    }

    fn run(&mut self, batch: &[f32], scores: &mut Vec<f32>) -> TractResult<()> {
        let count = batch.len() / self.width;
        let batch = if count == BATCH {
            batch
        } else {
            self.padded.clear();
            self.padded.extend_from_slice(batch);
            self.padded.resize(BATCH * self.width, 0.0);
            &self.padded
        };
        let input = Tensor::from_shape(&[BATCH, self.width], batch)?;
        let outputs = self.state.run(tvec!(input.into_tvalue()))?;
        scores.extend(outputs[0].to_plain_array_view::<f32>()?.iter().take(count));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/fraud/model.onnx"
    ));

    fn refusal(onnx: &[u8]) -> String {
        match Network::parse(onnx) {
            Ok(_) => panic!("taken for a model"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn names_of_the_tutorial_are_lost() {
        let network = Network::parse(MODEL).unwrap();
        assert_eq!(
            (network.input(), network.output()),
            ("dense_input", "dense_3")
        );
        assert_eq!(network.width(), 5);
    }

    #[test]
    fn text_is_taken_for_a_model() {
        assert_eq!(refusal(b"{}"), "model.onnx: it is not an ONNX file");
        assert!(refusal(b"").contains("model.onnx"));
    }

    #[test]
    fn file_without_end() {
        let long = vec![0; Network::MAX_BYTES + 1];
        assert_eq!(refusal(&long), "model.onnx is longer than 16777216 bytes");
    }

    #[test]
    fn cut_model_is_taken_or_panics() {
        for length in (0..MODEL.len()).step_by(97) {
            refusal(&MODEL[..length]);
        }
    }

    /// Some changes are harmless (a name, a weight); none may bring down the process.
    #[test]
    fn changed_model_panics() {
        let mut changed = MODEL.to_vec();
        for at in (0..MODEL.len()).step_by(11) {
            for flip in [0x01, 0x80] {
                changed[at] ^= flip;
                let _ = Network::parse(&changed).is_ok();
                changed[at] ^= flip;
            }
        }
    }

    #[test]
    fn padding_or_place_in_the_batch_changes_a_score() {
        let network = Network::parse(MODEL).unwrap();
        let rows: Vec<f32> = (0..(2 * BATCH + 3) * 5)
            .map(|i| (i % 17) as f32 / 4.0 - 2.0)
            .collect();
        let mut together = Vec::new();
        network
            .engine()
            .unwrap()
            .score(&rows, &mut together)
            .unwrap();
        let mut alone = Vec::new();
        let mut scorer = network.engine().unwrap();
        for row in rows.chunks(5) {
            scorer.score(row, &mut alone).unwrap();
        }
        assert_eq!(together, alone);
    }

    #[test]
    fn network_cannot_be_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Network>();
    }
}
