//! The plain twin: each number after the other, nothing fused. Obviously right, and what the other paths are held to.

use zeroize::Zeroizing;

use crate::network::{Activation, Front, Layer};

/// Scores rows, one after the other.
pub(crate) fn score(layers: &[Layer], front: &Front, columns: &[&[f64]], scores: &mut [f32]) {
    for (row, score) in scores.iter_mut().enumerate() {
        *score = score_row(layers, front, columns.iter().map(|column| column[row]));
    }
}

/// Scores a row.
pub(crate) fn score_row(layers: &[Layer], front: &Front, row: impl Iterator<Item = f64>) -> f32 {
    let widest = widest(layers);
    let mut here = Zeroizing::new(Vec::with_capacity(widest));
    let mut there = Zeroizing::new(Vec::with_capacity(widest));
    here.extend(
        row.enumerate()
            .map(|(column, value)| first(front, column, value)),
    );
    for layer in layers {
        there.clear();
        let rows_of_weights = layer.weights.chunks_exact(layer.inputs);
        there.extend(
            rows_of_weights
                .zip(layer.bias.iter())
                .map(|(weights, bias)| {
                    let mut sum = *bias;
                    for (weight, value) in weights.iter().zip(here.iter()) {
                        sum += weight * value;
                    }
                    activate(layer.activation, sum)
                }),
        );
        std::mem::swap(&mut here, &mut there);
    }
    here[0]
}

/// The most numbers that a row has between two layers, or before the first.
pub(crate) fn widest(layers: &[Layer]) -> usize {
    let widths = |layer: &Layer| layer.inputs.max(layer.bias.len());
    layers.iter().map(widths).max().unwrap_or(0)
}

/// What the first layer sees of a column's value.
pub(crate) fn first(front: &Front, column: usize, value: f64) -> f32 {
    let value = match &front.standardise {
        Some((mean, scale)) => ((value - mean[column]) / scale[column]) as f32,
        None => value as f32,
    };
    match &front.rescale {
        Some((centre, factor)) => (value - centre[column]) * factor[column],
        None => value,
    }
}

/// A number that is not one stays so, in every path: a row that overflowed must not look like a score.
fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::None => x,
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::LeakyRelu(slope) => {
            if x < 0.0 {
                slope * x
            } else {
                x
            }
        }
        Activation::Tanh => f64::from(x).tanh() as f32,
        Activation::Sigmoid => (1.0 / (1.0 + (-f64::from(x)).exp())) as f32,
    }
}
