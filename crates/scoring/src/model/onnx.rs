//! A network: read, given its columns, prepared for its engines, and tried once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use strongroom_kernel::Path;
use tract_onnx::prelude::Framework;
use zeroize::Zeroizing;

use super::fused::Fused;
use super::graph::{Element, Graph, Input, Kind};
use super::tract::Plan;
use super::{ModelError, Preprocessing, Scorer, budget};
use crate::shown;
use crate::tile::{TILE, Tile};

/// A network that was loaded and tried once.
pub struct Network {
    plan: Plan,
    fused: Result<Arc<Fused>, String>,
    inputs: Vec<Input>,
    /// For each input its columns.
    places: Vec<Vec<usize>>,
    kinds: Vec<Kind>,
    output: String,
    uses_beside: bool,
}

/// The bytes of a model: `model.onnx`, and the file of weights beside it if there is one.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) onnx: &'a [u8],
    pub(super) beside: Option<&'a [u8]>,
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(onnx: &'a [u8]) -> Self {
        Self { onnx, beside: None }
    }
}

/// What computes a network's scores.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// The fused kernel, on one of its paths.
    Fused(Path),
    /// tract, because the network is none that the kernel computes.
    General {
        /// Why it is not.
        why: String,
    },
}

impl Network {
    /// The longest `model.onnx` that is read, with the weights beside it.
    pub const MAX_BYTES: usize = 64 << 20;

    /// Decodes, checks and prepares a model, binds its preprocessing to its inputs, and tries it.
    pub(super) fn load<'a>(
        source: impl Into<Source<'a>>,
        preprocessing: &mut Preprocessing,
    ) -> Result<Self, ModelError> {
        guarded(source.into(), |source| {
            let graph = read(source, preprocessing.positive_class())?;
            let places = places(&graph, preprocessing)?;
            let mut elements = vec![Element::Float; preprocessing.columns().len()];
            for (input, columns) in graph.inputs.iter().zip(&places) {
                for &column in columns {
                    elements[column] = input.element;
                }
            }
            preprocessing.bind(elements)?;
            Self::prepare(&graph, places, preprocessing)
        })
    }

    fn prepare(
        graph: &Graph,
        places: Vec<Vec<usize>>,
        preprocessing: &Preprocessing,
    ) -> Result<Self, ModelError> {
        let fused = match Path::best() {
            Path::Scalar => Err("this processor has neither AVX-512 nor AVX2 with FMA".to_owned()),
            path => Fused::new(graph, &places, preprocessing, path).map(Arc::new),
        };
        let mut network = Self {
            plan: Plan::of(graph).map_err(|_| refused(UNPLANNED))?,
            fused,
            kinds: graph
                .inputs
                .iter()
                .map(|input| input.element.kind())
                .collect(),
            inputs: graph.inputs.clone(),
            places,
            output: graph.output.clone(),
            uses_beside: graph.uses_beside,
        };
        network.attempt(preprocessing)?;
        if let Some(fused) = network.fused() {
            let fused = Arc::clone(fused);
            if !network.agrees(fused, preprocessing)? {
                network.fused =
                    Err("its scores there are not those of the general engine".to_owned());
            }
        }
        Ok(network)
    }

    /// The trial run: what can go wrong with shapes goes wrong here and not within a batch.
    fn attempt(&self, preprocessing: &Preprocessing) -> Result<(), ModelError> {
        let width = preprocessing.columns().len();
        let mut tile = Tile::new(width);
        let mut missing = false;
        for column in 0..width {
            tile.set(column, preprocessing.average(column).0);
        }
        tile.end_row();
        for column in 0..width {
            let (average, _) = preprocessing.average(column);
            let empty = preprocessing.empty_value(column);
            missing |= empty.is_some();
            tile.set(column, empty.unwrap_or(average));
        }
        tile.end_row();
        let mut scores = Vec::new();
        Scorer::general(preprocessing, self)?.score(&tile, &mut scores)?;
        let probability = |score: f32| (0.0..=1.0).contains(&score);
        match scores[..] {
            // Without a scaler the average row is all zeros, of which a logarithm is none. Other rows tell.
            [average, _] if average.is_nan() => self.attempt_others(preprocessing),
            [average, _] if !probability(average) => Err(refused(
                "it does not give a probability for the average row; one that ends in logits is exported with a Sigmoid after \
                 them (docs/model.md)",
            )),
            [_, empty] if missing && !probability(empty) => Err(refused(
                "it does not give a probability where values are missing; leave \"missing\" out of preprocessing.json",
            )),
            _ => Ok(()),
        }
    }

    /// Fails when no row has a score.
    fn attempt_others(&self, preprocessing: &Preprocessing) -> Result<(), ModelError> {
        let tile = self.made_up_rows(preprocessing);
        let mut scores = Zeroizing::new(Vec::new());
        Scorer::general(preprocessing, self)?.score(&tile, &mut scores)?;
        if scores.iter().all(|score| score.is_nan()) {
            return Err(refused(
                "its scores are no numbers, whatever the row: what it calculates overflows",
            ));
        }
        Ok(())
    }

    /// Whether the fused kernel gives the general engine's scores on rows like those to come, and on wilder ones.
    fn agrees(&self, fused: Arc<Fused>, preprocessing: &Preprocessing) -> Result<bool, ModelError> {
        let tile = self.made_up_rows(preprocessing);
        let (mut ours, mut general) = (Zeroizing::new(Vec::new()), Zeroizing::new(Vec::new()));
        Scorer::fused(preprocessing, fused).score(&tile, &mut ours)?;
        Scorer::general(preprocessing, self)?.score(&tile, &mut general)?;
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE || (a.is_nan() && b.is_nan());
        Ok(ours.iter().zip(general.iter()).all(close))
    }

    fn made_up_rows(&self, preprocessing: &Preprocessing) -> Tile {
        let width = preprocessing.columns().len();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(SEED);
        // Between -1 and 1
        let mut random = || (random.next_u64() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0;
        let mut elements = vec![Element::Float; width];
        for (input, columns) in self.inputs.iter().zip(&self.places) {
            for &column in columns {
                elements[column] = input.element;
            }
        }
        let mut tile = Tile::new(width);
        while !tile.is_full() {
            // A few times a column's spread, and every fourth row up to a thousand times.
            let spread = if tile.rows() % 4 == 3 {
                1000.0_f64.powf(random().abs())
            } else {
                3.0
            };
            for (column, element) in elements.iter().enumerate() {
                let (mean, scale) = preprocessing.average(column);
                let value = mean + scale * spread * random();
                let value = match element {
                    Element::Float | Element::Double => value,
                    Element::Int64 | Element::Int32 => value.round(),
                    Element::Bool => f64::from(u8::from(value > 0.0)),
                };
                tile.set(column, value);
            }
            tile.end_row();
        }
        debug_assert_eq!(tile.rows(), TILE, "a tile is full");
        tile
    }

    /// The names of the graph's inputs, in its order.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(|input| input.name.as_str())
    }

    /// The name of the graph's output that holds the scores.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// How many numbers the graph takes for a row.
    pub fn width(&self) -> usize {
        self.inputs.iter().map(|input| input.width).sum()
    }

    /// What computes its scores.
    pub fn engine(&self) -> Engine {
        match &self.fused {
            Ok(fused) => Engine::Fused(fused.network.path()),
            Err(why) => Engine::General { why: why.clone() },
        }
    }

    /// Whether weights lie in the file beside the model.
    pub(super) fn uses_beside(&self) -> bool {
        self.uses_beside
    }

    pub(super) fn fused(&self) -> Option<&Arc<Fused>> {
        self.fused.as_ref().ok()
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn places(&self) -> &[Vec<usize>] {
        &self.places
    }

    pub(super) fn kinds(&self) -> &[Kind] {
        &self.kinds
    }
}

/// Fuses a model for a path, whether or not it would be chosen.
pub(super) fn fuse(
    source: Source<'_>,
    preprocessing: &Preprocessing,
    path: Path,
) -> Result<Fused, ModelError> {
    guarded(source, |source| {
        let graph = read(source, preprocessing.positive_class())?;
        let places = places(&graph, preprocessing)?;
        Fused::new(&graph, &places, preprocessing, path).map_err(refused)
    })
}

/// Reads a model without a `preprocessing.json`, its columns in the order of its inputs, and scores some rows: everything
/// that bytes of others can reach.
pub(crate) fn read_unbound(onnx: &[u8]) -> Result<(), ModelError> {
    // The same bytes beside it: what a model says of that file, it says of itself.
    let beside = Some(onnx).filter(|onnx| onnx.len() <= Network::MAX_BYTES / 2);
    let source = Source { onnx, beside };
    let graph = guarded(source, |source| {
        read(source, None).or_else(|_| read(source, Some(0)))
    })?;
    let columns: Vec<String> = (0..graph.width())
        .map(|column| format!("c{column}"))
        .collect();
    let mut left = &columns[..];
    let inputs = graph.inputs.iter().map(|input| {
        let (columns, rest) = left.split_at(input.width);
        left = rest;
        (input.name.clone(), serde_json::json!(columns))
    });
    let inputs: serde_json::Map<_, _> = inputs.collect();
    for positive in [None, Some(0)] {
        let json = serde_json::json!({
            "format": 1, "columns": columns, "inputs": inputs, "positive_class": positive, "threshold": 0.5,
        });
        let mut preprocessing = Preprocessing::parse(json.to_string().as_bytes())?;
        let Ok(network) = Network::load(source, &mut preprocessing) else {
            continue;
        };
        let tile = network.made_up_rows(&preprocessing);
        let mut scores = Vec::new();
        Scorer::new(&preprocessing, &network)?.score(&tile, &mut scores)?;
        assert_eq!(scores.len(), tile.rows(), "a score for each row");
    }
    Ok(())
}

/// The farthest that the fused kernel's scores may be from the general engine's.
const TOLERANCE: f32 = 1e-5;
const SEED: u64 = 0x5eed;

const UNPLANNED: &str = "the engine cannot plan it";

fn refused(why: impl Into<String>) -> ModelError {
    ModelError::Onnx(why.into())
}

/// Does something with a model of others.
fn guarded<T>(
    source: Source<'_>,
    load: impl FnOnce(Source<'_>) -> Result<T, ModelError>,
) -> Result<T, ModelError> {
    let length = source.onnx.len() + source.beside.map_or(0, <[u8]>::len);
    if length > Network::MAX_BYTES {
        return Err(ModelError::TooLarge {
            what: "model.onnx",
            limit: Network::MAX_BYTES,
        });
    }
    // tract plans only what was written here, yet it asserts in many places what a model ought to be, and a panic must
    // not take down a server that loads models of others. Nothing outlives the closure but its result and a
    // preprocessing that is dropped with a failure, so no broken state can be seen.
    catch_unwind(AssertUnwindSafe(|| load(source))).unwrap_or_else(|_| Err(refused(UNPLANNED)))
}

/// Decodes and checks a graph.
pub(super) fn read<'a>(
    source: impl Into<Source<'a>>,
    positive: Option<usize>,
) -> Result<Graph, ModelError> {
    let Source { mut onnx, beside } = source.into();
    budget::check(onnx).map_err(refused)?;
    let proto = tract_onnx::onnx().proto_model_for_read(&mut onnx);
    let proto = proto.map_err(|_| refused(budget::NOT_ONNX))?;
    Graph::check(&proto, beside, positive).map_err(refused)
}

/// For each input of a graph its columns.
fn places(graph: &Graph, preprocessing: &Preprocessing) -> Result<Vec<Vec<usize>>, ModelError> {
    let columns = preprocessing.columns().len();
    let Some(named) = preprocessing.inputs() else {
        let [input] = &graph.inputs[..] else {
            let names: Vec<_> = graph
                .inputs
                .iter()
                .map(|input| shown(&input.name))
                .take(8)
                .collect();
            return Err(ModelError::Preprocessing(format!(
                "the graph has {} inputs ({}); \"inputs\" says which columns each takes",
                graph.inputs.len(),
                names.join(", ")
            )));
        };
        if input.width != columns {
            return Err(ModelError::WidthMismatch {
                graph: graph.width(),
                preprocessing: columns,
            });
        }
        return Ok(vec![(0..columns).collect()]);
    };
    if let Some(unknown) = named
        .keys()
        .find(|name| graph.inputs.iter().all(|input| input.name != **name))
    {
        return Err(ModelError::Preprocessing(format!(
            "inputs: the graph has no input \"{}\"",
            shown(unknown)
        )));
    }
    graph
        .inputs
        .iter()
        .map(|input| match named.get(&input.name) {
            Some(places) if places.len() == input.width => Ok(places.clone()),
            places => Err(ModelError::Preprocessing(format!(
                "inputs: \"{}\" takes {} columns, not {}",
                shown(&input.name),
                input.width,
                places.map_or(0, Vec::len)
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MODEL: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/fraud/model.onnx"
    ));

    fn preprocessing(more: serde_json::Value) -> Preprocessing {
        let mut json = json!({"format": 1, "columns": ["a", "b", "c", "d", "e"], "threshold": 0.5});
        json.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Preprocessing::parse(json.to_string().as_bytes()).unwrap()
    }

    fn load(onnx: &[u8]) -> Result<Network, ModelError> {
        Network::load(onnx, &mut preprocessing(json!({})))
    }

    fn refusal(onnx: &[u8]) -> String {
        load(onnx).err().expect("taken for a model").to_string()
    }

    #[test]
    fn names_of_the_tutorial_are_lost() {
        let network = load(MODEL).unwrap();
        assert!(network.inputs().eq(["dense_input"]));
        assert_eq!(network.output(), "dense_3");
        assert_eq!(network.width(), 5);
    }

    #[test]
    fn tutorial_form_is_not_fused() {
        let engine = load(MODEL).unwrap().engine();
        match Path::best() {
            Path::Scalar => println!("SKIPPED: this processor has neither AVX-512 nor AVX2"),
            path => assert_eq!(engine, Engine::Fused(path)),
        }
    }

    #[test]
    fn text_is_taken_for_a_model() {
        assert_eq!(refusal(b"{}"), "model.onnx: it is not an ONNX file");
        assert!(refusal(b"").contains("model.onnx"));
    }

    #[test]
    fn file_without_end() {
        let long = vec![0; Network::MAX_BYTES + 1];
        assert_eq!(refusal(&long), "model.onnx is longer than 67108864 bytes");
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
        for at in (0..MODEL.len()).step_by(41) {
            for flip in [0x01, 0x80] {
                changed[at] ^= flip;
                let _ = load(&changed).is_ok();
                changed[at] ^= flip;
            }
        }
    }

    #[test]
    fn input_gets_the_columns_of_another() {
        let named = |inputs| Network::load(MODEL, &mut preprocessing(json!({"inputs": inputs})));
        assert!(named(json!({"dense_input": ["a", "b", "c", "d", "e"]})).is_ok());
        let error = named(json!({"dense_input": ["a", "b", "c", "d"], "more": ["e"]}));
        let error = error.err().unwrap().to_string();
        assert!(error.contains("the graph has no input \"more\""), "{error}");
    }

    /// The order in which a file names the columns of an input is the order in which it takes them.
    #[test]
    fn columns_are_in_another_order() {
        let score = |order: [&str; 5], row: [f64; 5]| {
            let mut preprocessing = preprocessing(json!({"inputs": {"dense_input": order}}));
            let network = Network::load(MODEL, &mut preprocessing).unwrap();
            let mut tile = Tile::new(5);
            for (column, value) in row.into_iter().enumerate() {
                tile.set(column, value);
            }
            tile.end_row();
            let mut scores = Vec::new();
            Scorer::new(&preprocessing, &network)
                .unwrap()
                .score(&tile, &mut scores)
                .unwrap();
            Scorer::general(&preprocessing, &network)
                .unwrap()
                .score(&tile, &mut scores)
                .unwrap();
            assert!((scores[0] - scores[1]).abs() < 1e-6);
            scores[0]
        };
        let (forward, backward) = (["a", "b", "c", "d", "e"], ["e", "d", "c", "b", "a"]);
        let (row, reversed) = ([0.5, -1.0, 2.0, 0.25, -0.75], [-0.75, 0.25, 2.0, -1.0, 0.5]);
        assert_eq!(score(forward, row), score(backward, reversed));
        assert_ne!(score(forward, row), score(forward, reversed));
    }

    #[test]
    fn padding_or_place_in_the_batch_changes_a_score() {
        let preprocessing = preprocessing(json!({}));
        let network = load(MODEL).unwrap();
        let tile = network.made_up_rows(&preprocessing);
        type Scored = fn(&Preprocessing, &Network, &Tile) -> Vec<f32>;
        let scorers: [Scored; 2] = [
            |preprocessing, network, tile| {
                let mut scores = Vec::new();
                Scorer::new(preprocessing, network)
                    .unwrap()
                    .score(tile, &mut scores)
                    .unwrap();
                scores
            },
            |preprocessing, network, tile| {
                let mut scores = Vec::new();
                Scorer::general(preprocessing, network)
                    .unwrap()
                    .score(tile, &mut scores)
                    .unwrap();
                scores
            },
        ];
        for scored in scorers {
            let together = scored(&preprocessing, &network, &tile);
            for row in (0..tile.rows()).step_by(37) {
                let mut alone = Tile::new(5);
                for (column, value) in tile.row(row).enumerate() {
                    alone.set(column, value);
                }
                alone.end_row();
                assert_eq!(scored(&preprocessing, &network, &alone), [together[row]]);
            }
        }
    }

    /// The fuzzer's seeds, each changed in some places: trees, classes, several inputs.
    #[test]
    fn changed_export_panics() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/scoring_onnx");
        let mut seeds = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let mut changed = std::fs::read(&path).unwrap();
            read_unbound(&changed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for at in (seeds..changed.len()).step_by(changed.len() / 20) {
                for flip in [0x01, 0x80] {
                    changed[at] ^= flip;
                    read_unbound(&changed).ok();
                    changed[at] ^= flip;
                }
            }
            seeds += 1;
        }
        assert!(seeds >= 10, "the seeds are not there");
    }

    #[test]
    fn kernel_that_scores_otherwise_is_used() {
        let mut ours = preprocessing(json!({}));
        let network = Network::load(MODEL, &mut ours).unwrap();
        let fuse =
            |preprocessing| Arc::new(fuse(MODEL.into(), preprocessing, Path::Scalar).unwrap());
        assert!(network.agrees(fuse(&ours), &ours).unwrap());
        let scaler = json!({"scaler": {"mean": [0, 0, 0, 0, 0.001], "scale": [1, 1, 1, 1, 1]}});
        let other = preprocessing(scaler);
        assert!(!network.agrees(fuse(&other), &ours).unwrap());
    }

    #[test]
    fn bytes_of_others_bring_down_the_fuzzers_entry() {
        read_unbound(MODEL).unwrap();
        assert!(read_unbound(b"\x3a\x00").is_err());
    }

    #[test]
    fn network_cannot_be_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Network>();
    }
}
