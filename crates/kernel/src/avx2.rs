//! The loop over layers in AVX2 with FMA: 4 outputs for 16 rows in 8 of the 16 registers, as many sums as the two
//! multipliers need to be busy. And one row by itself, its outputs across the lanes.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm_storeu_ps,
    _mm256_add_epi32, _mm256_add_ps, _mm256_blendv_ps, _mm256_castsi256_ps, _mm256_cmp_ps,
    _mm256_cvtpd_ps, _mm256_cvtps_epi32, _mm256_div_pd, _mm256_div_ps, _mm256_fmadd_ps,
    _mm256_loadu_pd, _mm256_loadu_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_round_ps,
    _mm256_set1_epi32, _mm256_set1_pd, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps, _mm256_sub_pd, _mm256_sub_ps,
};

use crate::lanes::over_rows;

over_rows!("avx2,fma", 8, [2 => 16, 1 => 8]);

type Vector = __m256;

#[target_feature(enable = "avx2,fma")]
fn eight<const V: usize, const R: usize>(
    input: &[[f32; R]],
    weights: &[[f32; 8]],
    bias: &[f32; 8],
    activation: Activation,
    output: &mut [[f32; R]; 8],
) {
    if let [low, high] = output.as_chunks_mut::<4>().0 {
        panel::<V, R, 8, 4, 0>(input, weights, bias, activation, low);
        panel::<V, R, 8, 4, 4>(input, weights, bias, activation, high);
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn enter(values: &[f64; LANES], scaler: Option<(f64, f64)>, place: &mut [f32; LANES]) {
    let halves = place.as_chunks_mut::<4>().0.iter_mut();
    for (place, values) in halves.zip(values.as_chunks::<4>().0) {
        // SAFETY: an unaligned load of 4 f64 from an array of 4.
        let mut vector = unsafe { _mm256_loadu_pd(values.as_ptr()) };
        if let Some((mean, scale)) = scaler {
            vector = _mm256_div_pd(
                _mm256_sub_pd(vector, _mm256_set1_pd(mean)),
                _mm256_set1_pd(scale),
            );
        }
        // SAFETY: an unaligned store of 4 f32 into an array of 4.
        unsafe { _mm_storeu_ps(place.as_mut_ptr(), _mm256_cvtpd_ps(vector)) };
    }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn load(values: &[f32; LANES]) -> Vector {
    // SAFETY: an unaligned load of 8 f32 from an array of 8.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn store(vector: Vector, place: &mut [f32; LANES]) {
    // SAFETY: an unaligned store of 8 f32 into an array of 8.
    unsafe { _mm256_storeu_ps(place.as_mut_ptr(), vector) }
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn splat(value: f32) -> Vector {
    _mm256_set1_ps(value)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn fma(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm256_fmadd_ps(a, b, c)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn add(a: Vector, b: Vector) -> Vector {
    _mm256_add_ps(a, b)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn sub(a: Vector, b: Vector) -> Vector {
    _mm256_sub_ps(a, b)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn mul(a: Vector, b: Vector) -> Vector {
    _mm256_mul_ps(a, b)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn div(a: Vector, b: Vector) -> Vector {
    _mm256_div_ps(a, b)
}

/// The instruction gives its second operand when one is not a number.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn relu(x: Vector) -> Vector {
    _mm256_max_ps(_mm256_setzero_ps(), x)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn leaky(x: Vector, slope: Vector) -> Vector {
    let below = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_setzero_ps());
    _mm256_blendv_ps(x, _mm256_mul_ps(x, slope), below)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn negated_below_zero(x: Vector, y: Vector) -> Vector {
    let below = _mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_setzero_ps());
    _mm256_blendv_ps(y, _mm256_sub_ps(_mm256_setzero_ps(), y), below)
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn clamp(x: Vector, bound: f32) -> Vector {
    _mm256_max_ps(splat(-bound), _mm256_min_ps(splat(bound), x))
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn round(x: Vector) -> Vector {
    _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
}

/// `2^n` of whole numbers within f32's exponents: their bits are the exponent's.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn power_of_two(n: Vector) -> Vector {
    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

/// One row by itself: 32 outputs at a time where there are so many, for each of which an input is loaded once. Sums are
/// split, because one after the other they would wait for each other.
pub(crate) mod row {
    use super::{Vector, activate, add, fma, load, splat, store};
    use crate::lanes::Left;
    use crate::network::{Activation, Front, Workspace};
    use crate::packed::{Packed, PackedLayer};
    use crate::scalar;

    #[target_feature(enable = "avx2,fma")]
    pub(crate) fn score(
        packed: &Packed,
        front: &Front,
        row: &[f64],
        workspace: &mut Workspace,
    ) -> f32 {
        let mut here = workspace.here.as_mut_slice();
        let mut there = workspace.there.as_mut_slice();
        for (column, (&value, place)) in row.iter().zip(here.iter_mut()).enumerate() {
            *place = scalar::first(front, column, value);
        }
        for layer in &packed.layers {
            all(layer, &here[..layer.inputs], &mut there[..layer.outputs]);
            std::mem::swap(&mut here, &mut there);
        }
        here[0]
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn all(layer: &PackedLayer, input: &[f32], output: &mut [f32]) {
        let mut left = Left {
            inputs: layer.inputs,
            weights: layer.weights.as_slice(),
            bias: layer.bias.as_slice(),
            output: output.as_chunks_mut::<1>().0,
        };
        let activation = layer.activation;
        while left.bias.len() >= 32 {
            let (Some(a), Some(b), Some(c), Some(d)) = (
                left.next::<8>(),
                left.next::<8>(),
                left.next::<8>(),
                left.next::<8>(),
            ) else {
                break;
            };
            let sums = thirty_two(input, [a.0, b.0, c.0, d.0], [a.1, b.1, c.1, d.1]);
            for (sums, output) in sums.into_iter().zip([a.2, b.2, c.2, d.2]) {
                if let Some(place) = output.as_flattened_mut().first_chunk_mut() {
                    store(activate(activation, sums), place);
                }
            }
        }
        while let Some((weights, bias, output)) = left.next::<8>() {
            let sums = eight(input, weights, load(bias));
            if let Some(place) = output.as_flattened_mut().first_chunk_mut() {
                store(activate(activation, sums), place);
            }
        }
        while let Some((weights, bias, output)) = left.next::<4>() {
            few(input, weights, bias, activation, output.as_flattened_mut());
        }
        while let Some((weights, bias, output)) = left.next::<2>() {
            few(input, weights, bias, activation, output.as_flattened_mut());
        }
        while let Some((weights, bias, output)) = left.next::<1>() {
            let sum = one(input, weights.as_flattened(), bias[0]);
            output[0][0] = activated(activation, sum);
        }
    }

    /// Four panels of eight outputs.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn thirty_two(input: &[f32], weights: [&[[f32; 8]]; 4], bias: [&[f32; 8]; 4]) -> [Vector; 4] {
        let [a, b, c, d] = bias;
        let mut even = [load(a), load(b), load(c), load(d)];
        let mut odd = [splat(0.0); 4];
        let (pairs, last) = input.as_chunks::<2>();
        let [a, b, c, d] = weights.map(|weights| weights.as_chunks::<2>());
        for ((((values, a), b), c), d) in pairs.iter().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
            let (first, second) = (splat(values[0]), splat(values[1]));
            for ((even, odd), weights) in even.iter_mut().zip(&mut odd).zip([a, b, c, d]) {
                *even = fma(first, load(&weights[0]), *even);
                *odd = fma(second, load(&weights[1]), *odd);
            }
        }
        if let ([value], [a], [b], [c], [d]) = (last, a.1, b.1, c.1, d.1) {
            for (even, weights) in even.iter_mut().zip([a, b, c, d]) {
                *even = fma(splat(*value), load(weights), *even);
            }
        }
        for (even, odd) in even.iter_mut().zip(odd) {
            *even = add(*even, odd);
        }
        even
    }

    /// Eight outputs.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn eight(input: &[f32], weights: &[[f32; 8]], bias: Vector) -> Vector {
        let mut sums = [bias, splat(0.0), splat(0.0), splat(0.0)];
        let (inputs, last_inputs) = input.as_chunks::<4>();
        let (weights, last_weights) = weights.as_chunks::<4>();
        for (values, weights) in inputs.iter().zip(weights) {
            for ((sum, &value), weights) in sums.iter_mut().zip(values).zip(weights) {
                *sum = fma(splat(value), load(weights), *sum);
            }
        }
        for ((sum, &value), weights) in sums.iter_mut().zip(last_inputs).zip(last_weights) {
            *sum = fma(splat(value), load(weights), *sum);
        }
        add(add(sums[0], sums[1]), add(sums[2], sums[3]))
    }

    /// Four or two outputs: rare enough to be written plainly.
    #[target_feature(enable = "avx2,fma")]
    fn few<const P: usize>(
        input: &[f32],
        weights: &[[f32; P]],
        bias: &[f32; P],
        activation: Activation,
        output: &mut [f32],
    ) {
        let mut sums = *bias;
        for (value, weights) in input.iter().zip(weights) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = value.mul_add(*weight, *sum);
            }
        }
        for (sum, place) in sums.iter().zip(output) {
            *place = activated(activation, *sum);
        }
    }

    /// One output, its inputs across the lanes.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn one(input: &[f32], weights: &[f32], bias: f32) -> f32 {
        let (inputs, last_inputs) = input.as_chunks::<8>();
        let (weights, last_weights) = weights.as_chunks::<8>();
        let mut sums = splat(0.0);
        for (values, weights) in inputs.iter().zip(weights) {
            sums = fma(load(values), load(weights), sums);
        }
        let mut parts = [0.0; 8];
        store(sums, &mut parts);
        let [a, b, c, d, e, f, g, h] = parts;
        let mut sum = bias + (((a + e) + (b + f)) + ((c + g) + (d + h)));
        for (value, weight) in last_inputs.iter().zip(last_weights) {
            sum = value.mul_add(*weight, sum);
        }
        sum
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn activated(activation: Activation, sum: f32) -> f32 {
        let mut lanes = [0.0; 8];
        store(activate(activation, splat(sum)), &mut lanes);
        lanes[0]
    }
}
