//! What a network is, what fits, and how it is called.

use zeroize::Zeroizing;

use crate::aligned::Aligned;
use crate::packed::Packed;
use crate::path::Path;
use crate::scalar;

/// What happens to a column before the first layer.
///
/// `(value - mean) / scale` in f64, then cast to f32, then `(value - centre) * factor` in f32. Both are optional; each
/// vector has a member for each column.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// Means and scales of a scaler that stands before the network.
    pub standardise: Option<(Vec<f64>, Vec<f64>)>,
    /// Centres and factors of a scaler that is part of the network. Folded into the first layer they would cost digits
    /// wherever a centre is large beside its spread.
    pub rescale: Option<(Vec<f32>, Vec<f32>)>,
}

/// `activation(weights * input + bias)`.
pub struct Layer {
    /// How many numbers it takes.
    pub inputs: usize,
    /// Output by output, [`Layer::inputs`] each.
    pub weights: Zeroizing<Vec<f32>>,
    /// One for each output.
    pub bias: Zeroizing<Vec<f32>>,
    /// What follows.
    pub activation: Activation,
}

/// What a layer ends with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// The number itself.
    None,
    /// The number or zero, whichever is greater.
    Relu,
    /// The number, or a multiple of it where it is below zero.
    LeakyRelu(f32),
    /// The hyperbolic tangent, to 1e-7.
    Tanh,
    /// `1 / (1 + exp(-x))`, to 1e-7.
    Sigmoid,
}

/// Why layers are not a network for this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is no layer.
    #[error("it has no layer")]
    Empty,
    /// A layer's numbers are not as many as it says, or not what the layer before it gives.
    #[error("its layers do not fit each other")]
    Shape,
    /// The last layer gives more than one number, or none.
    #[error("it does not end in one number")]
    Outputs,
    /// A layer is wider than the crate is made for.
    #[error("a layer is wider than {}", Network::WIDEST)]
    Wide,
    /// The processor does not have that path.
    #[error("the processor has no such instructions")]
    Path,
}

/// A network, packed for one path.
pub struct Network {
    pub(crate) front: Front,
    inputs: usize,
    weights: Weights,
}

enum Weights {
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "no vectors there")
    )]
    Panels(Packed, Vectors),
    Plain(Vec<Layer>),
}

/// Proof that the processor has the instructions.
enum Vectors {
    Avx512,
    Avx2,
}

impl Network {
    /// The widest layer that is taken. Beyond it a row's numbers leave the first cache and a blocked product is faster.
    pub const WIDEST: usize = 512;

    /// Packs a network for the fastest path of this processor.
    ///
    /// # Errors
    /// When the layers are not one network.
    pub fn new(front: Front, layers: Vec<Layer>) -> Result<Self, Unfit> {
        Self::on(Path::best(), front, layers)
    }

    /// Packs a network for a path.
    ///
    /// # Errors
    /// As [`Network::new`], and when the path is not available.
    pub fn on(path: Path, front: Front, layers: Vec<Layer>) -> Result<Self, Unfit> {
        let inputs = layers.first().ok_or(Unfit::Empty)?.inputs;
        let mut width = inputs;
        for layer in &layers {
            let outputs = layer.bias.len();
            if layer.inputs != width || outputs.checked_mul(width) != Some(layer.weights.len()) {
                return Err(Unfit::Shape);
            }
            if width > Self::WIDEST || outputs > Self::WIDEST {
                return Err(Unfit::Wide);
            }
            width = outputs;
        }
        if width != 1 || inputs == 0 || layers.iter().any(|layer| layer.bias.is_empty()) {
            return Err(Unfit::Outputs);
        }
        let fits = |one: usize, other: usize| one == inputs && other == inputs;
        let Front {
            standardise,
            rescale,
        } = &front;
        if standardise
            .as_ref()
            .is_some_and(|(a, b)| !fits(a.len(), b.len()))
            || rescale
                .as_ref()
                .is_some_and(|(a, b)| !fits(a.len(), b.len()))
        {
            return Err(Unfit::Shape);
        }
        if !path.is_available() {
            return Err(Unfit::Path);
        }
        let weights = match path {
            Path::Avx512 => Weights::Panels(Packed::new(&layers), Vectors::Avx512),
            Path::Avx2 => Weights::Panels(Packed::new(&layers), Vectors::Avx2),
            Path::Scalar => Weights::Plain(layers),
        };
        Ok(Self {
            front,
            inputs,
            weights,
        })
    }

    /// How many columns it takes.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// What it is computed with.
    pub fn path(&self) -> Path {
        match &self.weights {
            Weights::Panels(_, Vectors::Avx512) => Path::Avx512,
            Weights::Panels(_, Vectors::Avx2) => Path::Avx2,
            Weights::Plain(_) => Path::Scalar,
        }
    }

    /// What one thread needs to compute it.
    pub fn workspace(&self) -> Workspace {
        let widest = match &self.weights {
            Weights::Panels(packed, _) => packed.widest(),
            Weights::Plain(layers) => scalar::widest(layers),
        };
        // 48 rows are the most that any path takes at a time.
        let room = widest * 48;
        Workspace {
            here: Aligned::zeros(room),
            there: Aligned::zeros(room),
        }
    }

    /// Scores rows that come column by column, one slice for each input, each as long as `scores`.
    ///
    /// # Panics
    /// When there are other columns than that, or the workspace is another network's.
    pub fn score(&self, columns: &[&[f64]], workspace: &mut Workspace, scores: &mut [f32]) {
        assert_eq!(columns.len(), self.inputs, "a column for each input");
        assert!(
            columns.iter().all(|column| column.len() == scores.len()),
            "columns as long as the scores"
        );
        match &self.weights {
            #[cfg(target_arch = "x86_64")]
            Weights::Panels(packed, vectors) => {
                run(vectors, packed, &self.front, columns, workspace, scores);
            }
            #[cfg(not(target_arch = "x86_64"))]
            Weights::Panels(..) => unreachable!("no path of this processor has vectors"),
            Weights::Plain(layers) => scalar::score(layers, &self.front, columns, scores),
        }
    }

    /// Scores one row, as fast as one row can be: its sums are added up in another order than in
    /// [`Network::score`], so the two may differ in the last digits.
    ///
    /// # Panics
    /// As [`Network::score`].
    pub fn score_row(&self, row: &[f64], workspace: &mut Workspace) -> f32 {
        assert_eq!(row.len(), self.inputs, "a value for each input");
        match &self.weights {
            #[cfg(target_arch = "x86_64")]
            Weights::Panels(packed, _) => run_row(packed, &self.front, row, workspace),
            #[cfg(not(target_arch = "x86_64"))]
            Weights::Panels(..) => unreachable!("no path of this processor has vectors"),
            Weights::Plain(layers) => scalar::score_row(layers, &self.front, row.iter().copied()),
        }
    }
}

/// One thread's memory for what rows become between the layers. Wiped when it is dropped.
pub struct Workspace {
    pub(crate) here: Aligned,
    pub(crate) there: Aligned,
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn run(
    vectors: &Vectors,
    packed: &Packed,
    front: &Front,
    columns: &[&[f64]],
    workspace: &mut Workspace,
    scores: &mut [f32],
) {
    match vectors {
        // SAFETY: the function is safe but for needing AVX-512F, AVX2 and FMA. `Vectors::Avx512` is made in one place,
        // after `Path::Avx512.is_available()` asked the processor for all three.
        Vectors::Avx512 => unsafe {
            crate::avx512::score(packed, front, columns, workspace, scores)
        },
        // SAFETY: likewise, with AVX2 and FMA.
        Vectors::Avx2 => unsafe { crate::avx2::score(packed, front, columns, workspace, scores) },
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn run_row(packed: &Packed, front: &Front, row: &[f64], workspace: &mut Workspace) -> f32 {
    // SAFETY: the function is safe but for needing AVX2 and FMA. A network has panels only on a path that was available,
    // and both paths with vectors ask the processor for these two.
    unsafe { crate::avx2::row::score(packed, front, row, workspace) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(inputs: usize, outputs: usize) -> Layer {
        Layer {
            inputs,
            weights: vec![0.5; inputs * outputs].into(),
            bias: vec![0.25; outputs].into(),
            activation: Activation::Relu,
        }
    }

    fn unfit(layers: Vec<Layer>) -> Unfit {
        let network = Network::on(Path::Scalar, Front::default(), layers);
        network.err().expect("taken for a network")
    }

    #[test]
    fn layers_that_do_not_fit_are_computed() {
        assert_eq!(unfit(vec![]), Unfit::Empty);
        assert_eq!(unfit(vec![layer(3, 2), layer(3, 1)]), Unfit::Shape);
        let mut short = layer(3, 1);
        short.weights.pop();
        assert_eq!(unfit(vec![short]), Unfit::Shape);
        assert_eq!(unfit(vec![layer(3, 2)]), Unfit::Outputs);
        assert_eq!(unfit(vec![layer(3, 0)]), Unfit::Outputs);
        assert_eq!(unfit(vec![layer(0, 1)]), Unfit::Outputs);
        assert_eq!(unfit(vec![layer(513, 1)]), Unfit::Wide);
        assert_eq!(unfit(vec![layer(3, 513), layer(513, 1)]), Unfit::Wide);
    }

    #[test]
    fn scaler_of_another_width() {
        for front in [
            Front {
                standardise: Some((vec![0.0; 3], vec![1.0; 2])),
                ..Front::default()
            },
            Front {
                rescale: Some((vec![0.0; 2], vec![1.0; 2])),
                ..Front::default()
            },
        ] {
            let network = Network::on(Path::Scalar, front, vec![layer(3, 1)]);
            assert_eq!(network.err(), Some(Unfit::Shape));
        }
    }

    #[test]
    #[should_panic(expected = "columns as long as the scores")]
    fn column_shorter_than_the_others_is_read_past_its_end() {
        let network = Network::new(Front::default(), vec![layer(2, 1)]).unwrap();
        let mut workspace = network.workspace();
        network.score(&[&[1.0, 2.0], &[1.0]], &mut workspace, &mut [0.0; 2]);
    }

    #[test]
    fn network_cannot_be_shared_by_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Network>();
    }
}
