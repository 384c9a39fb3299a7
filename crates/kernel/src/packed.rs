//! Weights in the order in which the vector paths read them: panels of eight outputs, then of four, two and one.
//!
//! Within a panel the outputs of one input lie side by side: the paths over rows spread each over a vector, the path of
//! one row takes eight as a vector.

use crate::aligned::Aligned;
use crate::network::{Activation, Layer};

/// A network's layers as panels.
pub(crate) struct Packed {
    pub(crate) layers: Vec<PackedLayer>,
}

/// One layer.
pub(crate) struct PackedLayer {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) activation: Activation,
    /// Panel after panel.
    pub(crate) weights: Aligned,
    /// Output after output.
    pub(crate) bias: Aligned,
}

impl Packed {
    /// Packs layers whose shapes were checked.
    pub(crate) fn new(layers: &[Layer]) -> Self {
        Self {
            layers: layers.iter().map(PackedLayer::new).collect(),
        }
    }

    /// The most numbers that a row has between two layers, or before the first.
    pub(crate) fn widest(&self) -> usize {
        let widths = |layer: &PackedLayer| layer.inputs.max(layer.outputs);
        self.layers.iter().map(widths).max().unwrap_or(0)
    }
}

impl PackedLayer {
    fn new(layer: &Layer) -> Self {
        let (inputs, outputs) = (layer.inputs, layer.bias.len());
        let mut weights = Aligned::zeros(layer.weights.len());
        let mut places = weights.as_mut_slice().iter_mut();
        let mut first = 0;
        for panel in PANELS {
            while outputs - first >= panel {
                for input in 0..inputs {
                    for output in first..first + panel {
                        if let Some(place) = places.next() {
                            *place = layer.weights[output * inputs + input];
                        }
                    }
                }
                first += panel;
            }
        }
        Self {
            inputs,
            outputs,
            activation: layer.activation,
            weights,
            bias: Aligned::copy_of(&layer.bias),
        }
    }
}

/// How many outputs a panel has, in the order in which they come.
const PANELS: [usize; 4] = [8, 4, 2, 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_out_of_order() {
        let layer = Layer {
            inputs: 2,
            weights: (0..22).map(|at| at as f32).collect::<Vec<_>>().into(),
            bias: (0..11).map(|at| at as f32).collect::<Vec<_>>().into(),
            activation: Activation::None,
        };
        let packed = PackedLayer::new(&layer);
        let expected = [
            0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 16, 18, 17, 19, 20, 21,
        ];
        assert_eq!(packed.weights.as_slice(), expected.map(|at| at as f32));
        assert_eq!(packed.bias.as_slice(), &layer.bias[..]);
    }
}
