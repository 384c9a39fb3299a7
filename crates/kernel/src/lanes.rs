//! The loop over layers, with rows across the lanes of a vector: written once, compiled for each set of instructions.
//!
//! A module that expands [`over_rows`] has `Vector` and these functions of it, each with the same `target_feature`:
//! `splat`, `load`, `store`, `fma(a, b, c)` for `a * b + c` rounded once, `add`, `sub`, `mul`, `div`, `relu`, `leaky`,
//! `negated_below_zero(x, y)` for `y` or, where `x` is below zero, `-y`; `clamp(x, bound)`, `round`, `power_of_two`, and
//! `enter`, which takes f64 to f32. `relu` and `clamp` keep what is not a number. `eight` computes a panel of eight outputs in as many parts as there are registers for.

/// What of a layer's panels is left to compute, and where it goes.
pub(crate) struct Left<'a, const R: usize> {
    pub(crate) inputs: usize,
    pub(crate) weights: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) output: &'a mut [[f32; R]],
}

/// `P` outputs: for each input their weights, their biases, and where they go.
pub(crate) type Panel<'a, const R: usize, const P: usize> =
    (&'a [[f32; P]], &'a [f32; P], &'a mut [[f32; R]; P]);

impl<'a, const R: usize> Left<'a, R> {
    /// The next panel of `P` outputs, while there are so many.
    #[inline]
    pub(crate) fn next<const P: usize>(&mut self) -> Option<Panel<'a, R, P>> {
        let (bias, bias_left) = self.bias.split_first_chunk::<P>()?;
        let (weights, weights_left) = self.weights.split_at_checked(P * self.inputs)?;
        let (output, output_left) =
            std::mem::take(&mut self.output).split_first_chunk_mut::<P>()?;
        (self.bias, self.weights, self.output) = (bias_left, weights_left, output_left);
        Some((weights.as_chunks::<P>().0, bias, output))
    }
}

/// `e^r - 1` is `r + r^2 q(r)` for `|r| <= ln 2 / 2`; these are the coefficients of `q`, the constant one first: an
/// interpolation at Chebyshev's nodes, good to 1.1e-8 of `e^r`.
pub(crate) const Q: [f32; 5] = [
    0.5,
    0.166_665_76,
    0.041_666_556,
    0.008_363_179,
    0.001_392_618_4,
];
/// `ln 2` in two parts. The first has few digits, so that a whole multiple of it is exact.
pub(crate) const LN_2: [f32; 2] = [0.693_359_375, -0.000_212_194_44];
/// Beyond it `e^x` leaves f32, and `1 / (1 + e^x)` is 0 or 1 to 1e-37.
pub(crate) const SIGMOID_BOUND: f32 = 87.0;
/// Half of it is where tanh is 1 to the last digit, and more.
pub(crate) const TANH_BOUND: f32 = 40.0;

macro_rules! over_rows {
    ($features:literal, $lanes:literal, [$($vectors:literal => $rows:literal),+]) => {
        use std::f32::consts::LOG2_E;
        use zeroize::Zeroizing;
        use crate::lanes::{LN_2, Left, Q, SIGMOID_BOUND, TANH_BOUND};
        use crate::network::{Activation, Front, Workspace};
        use crate::packed::{Packed, PackedLayer};

        /// Rows in a vector.
        const LANES: usize = $lanes;

        /// Scores rows that come column by column, as many rows at a time as there are registers for.
        #[target_feature(enable = $features)]
        pub(crate) fn score(
            packed: &Packed,
            front: &Front,
            columns: &[&[f64]],
            workspace: &mut Workspace,
            scores: &mut [f32],
        ) {
            let mut from = 0;
            while from < scores.len() {
                let left = scores.len() - from;
                $(if left > $rows - LANES {
                    let taken = left.min($rows);
                    let scores = &mut scores[from..][..taken];
                    tile::<$vectors, $rows>(packed, front, columns, from, workspace, scores);
                    from += taken;
                    continue;
                })+
            }
        }

        /// Takes `R` rows through all layers; rows beyond the last one are zeros.
        #[target_feature(enable = $features)]
        fn tile<const V: usize, const R: usize>(
            packed: &Packed,
            front: &Front,
            columns: &[&[f64]],
            from: usize,
            workspace: &mut Workspace,
            scores: &mut [f32],
        ) {
            let mut here = workspace.here.as_mut_slice().as_chunks_mut::<R>().0;
            let mut there = workspace.there.as_mut_slice().as_chunks_mut::<R>().0;
            for (at, (column, place)) in columns.iter().zip(here.iter_mut()).enumerate() {
                let values = &column[from..];
                if let Some(values) = values.first_chunk::<R>() {
                    first::<R>(front, at, values, place);
                } else {
                    let mut padded = Zeroizing::new([0.0; R]);
                    padded[..values.len()].copy_from_slice(values);
                    first::<R>(front, at, &padded, place);
                }
            }
            for layer in &packed.layers {
                all::<V, R>(layer, &here[..layer.inputs], &mut there[..layer.outputs]);
                std::mem::swap(&mut here, &mut there);
            }
            scores.copy_from_slice(&here[0][..scores.len()]);
        }

        /// What the first layer sees of a column.
        #[target_feature(enable = $features)]
        #[inline]
        fn first<const R: usize>(front: &Front, column: usize, values: &[f64; R], place: &mut [f32; R]) {
            let values = values.as_chunks::<LANES>().0;
            let places = place.as_chunks_mut::<LANES>().0;
            let scaler = front.standardise.as_ref();
            let scaler = scaler.map(|(mean, scale)| (mean[column], scale[column]));
            for (place, values) in places.iter_mut().zip(values) {
                enter(values, scaler, place);
            }
            if let Some((centre, factor)) = &front.rescale {
                let (centre, factor) = (splat(centre[column]), splat(factor[column]));
                for place in places {
                    store(mul(sub(load(place), centre), factor), place);
                }
            }
        }

        /// All outputs of a layer.
        #[target_feature(enable = $features)]
        fn all<const V: usize, const R: usize>(
            layer: &PackedLayer,
            input: &[[f32; R]],
            output: &mut [[f32; R]],
        ) {
            let mut left = Left {
                inputs: layer.inputs,
                weights: layer.weights.as_slice(),
                bias: layer.bias.as_slice(),
                output,
            };
            let activation = layer.activation;
            while let Some((weights, bias, output)) = left.next::<8>() {
                eight::<V, R>(input, weights, bias, activation, output);
            }
            while let Some((weights, bias, output)) = left.next::<4>() {
                panel::<V, R, 4, 4, 0>(input, weights, bias, activation, output);
            }
            while let Some((weights, bias, output)) = left.next::<2>() {
                panel::<V, R, 2, 2, 0>(input, weights, bias, activation, output);
            }
            while let Some((weights, bias, output)) = left.next::<1>() {
                panel::<V, R, 1, 1, 0>(input, weights, bias, activation, output);
            }
        }

        /// `O` outputs for `V` vectors of rows, all sums in registers: of a panel of `P`, those from `A` on.
        #[target_feature(enable = $features)]
        #[inline]
        fn panel<const V: usize, const R: usize, const P: usize, const O: usize, const A: usize>(
            input: &[[f32; R]],
            weights: &[[f32; P]],
            bias: &[f32; P],
            activation: Activation,
            output: &mut [[f32; R]; O],
        ) {
            let mut sums = [[splat(0.0); V]; O];
            for (sums, &bias) in sums.iter_mut().zip(&bias[A..]) {
                *sums = [splat(bias); V];
            }
            for (values, weights) in input.iter().zip(weights) {
                let values = values.as_chunks::<LANES>().0;
                let mut rows = [splat(0.0); V];
                for (rows, values) in rows.iter_mut().zip(values) {
                    *rows = load(values);
                }
                for (sums, &weight) in sums.iter_mut().zip(&weights[A..]) {
                    let weight = splat(weight);
                    for (sum, &rows) in sums.iter_mut().zip(&rows) {
                        *sum = fma(weight, rows, *sum);
                    }
                }
            }
            match activation {
                Activation::None | Activation::Tanh | Activation::Sigmoid => {}
                Activation::Relu => {
                    for sum in sums.as_flattened_mut() {
                        *sum = relu(*sum);
                    }
                }
                Activation::LeakyRelu(slope) => {
                    for sum in sums.as_flattened_mut() {
                        *sum = leaky(*sum, splat(slope));
                    }
                }
            }
            for (sums, output) in sums.iter().zip(output.iter_mut()) {
                for (&sum, place) in sums.iter().zip(output.as_chunks_mut::<LANES>().0) {
                    store(sum, place);
                }
            }
            // Not in the loops above: their code for each of 24 sums would be long.
            if matches!(activation, Activation::Tanh | Activation::Sigmoid) {
                for place in output.as_flattened_mut().as_chunks_mut::<LANES>().0 {
                    store(activate(activation, load(place)), place);
                }
            }
        }

        /// A vector of a layer's sums, as they leave it.
        #[target_feature(enable = $features)]
        fn activate(activation: Activation, x: Vector) -> Vector {
            match activation {
                Activation::None => x,
                Activation::Relu => relu(x),
                Activation::LeakyRelu(slope) => leaky(x, splat(slope)),
                Activation::Tanh => tanh(x),
                Activation::Sigmoid => sigmoid(x),
            }
        }

        #[target_feature(enable = $features)]
        #[inline]
        fn sigmoid(x: Vector) -> Vector {
            let x = clamp(sub(splat(0.0), x), SIGMOID_BOUND);
            let (power, rest) = exponential(x);
            let exponential = fma(power, rest, power);
            div(splat(1.0), add(splat(1.0), exponential))
        }

        /// `(e^2x - 1) / (e^2x + 1)` of the absolute value, from `e^2x - 1`: nothing cancels near zero, nor far below it.
        #[target_feature(enable = $features)]
        #[inline]
        fn tanh(x: Vector) -> Vector {
            let size = negated_below_zero(x, x);
            let (power, rest) = exponential(clamp(add(size, size), TANH_BOUND));
            let less_one = fma(power, rest, sub(power, splat(1.0)));
            negated_below_zero(x, div(less_one, add(less_one, splat(2.0))))
        }

        /// `e^x` as `2^n` and `e^r - 1`, with `x = n ln 2 + r`.
        #[target_feature(enable = $features)]
        #[inline]
        fn exponential(x: Vector) -> (Vector, Vector) {
            let n = round(mul(x, splat(LOG2_E)));
            let r = fma(n, splat(-LN_2[0]), x);
            let r = fma(n, splat(-LN_2[1]), r);
            let mut q = splat(Q[4]);
            for coefficient in [Q[3], Q[2], Q[1], Q[0]] {
                q = fma(q, r, splat(coefficient));
            }
            (power_of_two(n), fma(mul(r, r), q, r))
        }
    };
}
pub(crate) use over_rows;
