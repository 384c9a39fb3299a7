//! The loop over layers in AVX-512: 8 outputs for 48 rows in 24 of the 32 registers.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m512, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm256_storeu_ps,
    _mm512_add_epi32, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtpd_ps,
    _mm512_cvtps_epi32, _mm512_div_pd, _mm512_div_ps, _mm512_fmadd_ps, _mm512_loadu_pd,
    _mm512_loadu_ps, _mm512_mask_mul_ps, _mm512_mask_sub_ps, _mm512_max_ps, _mm512_min_ps,
    _mm512_mul_ps, _mm512_roundscale_ps, _mm512_set1_epi32, _mm512_set1_pd, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_sub_pd, _mm512_sub_ps,
};

use crate::lanes::over_rows;

over_rows!("avx512f,avx2,fma", 16, [3 => 48, 2 => 32, 1 => 16]);

type Vector = __m512;

#[target_feature(enable = "avx512f,avx2,fma")]
fn eight<const V: usize, const R: usize>(
    input: &[[f32; R]],
    weights: &[[f32; 8]],
    bias: &[f32; 8],
    activation: Activation,
    output: &mut [[f32; R]; 8],
) {
    panel::<V, R, 8, 8, 0>(input, weights, bias, activation, output);
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn enter(values: &[f64; LANES], scaler: Option<(f64, f64)>, place: &mut [f32; LANES]) {
    let halves = place.as_chunks_mut::<8>().0.iter_mut();
    for (place, values) in halves.zip(values.as_chunks::<8>().0) {
        // SAFETY: an unaligned load of 8 f64 from an array of 8.
        let mut vector = unsafe { _mm512_loadu_pd(values.as_ptr()) };
        if let Some((mean, scale)) = scaler {
            vector = _mm512_div_pd(
                _mm512_sub_pd(vector, _mm512_set1_pd(mean)),
                _mm512_set1_pd(scale),
            );
        }
        // SAFETY: an unaligned store of 8 f32 into an array of 8.
        unsafe { _mm256_storeu_ps(place.as_mut_ptr(), _mm512_cvtpd_ps(vector)) };
    }
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn load(values: &[f32; LANES]) -> Vector {
    // SAFETY: an unaligned load of 16 f32 from an array of 16.
    unsafe { _mm512_loadu_ps(values.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn store(vector: Vector, place: &mut [f32; LANES]) {
    // SAFETY: an unaligned store of 16 f32 into an array of 16.
    unsafe { _mm512_storeu_ps(place.as_mut_ptr(), vector) }
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn splat(value: f32) -> Vector {
    _mm512_set1_ps(value)
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn fma(a: Vector, b: Vector, c: Vector) -> Vector {
    _mm512_fmadd_ps(a, b, c)
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn add(a: Vector, b: Vector) -> Vector {
    _mm512_add_ps(a, b)
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn sub(a: Vector, b: Vector) -> Vector {
    _mm512_sub_ps(a, b)
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn mul(a: Vector, b: Vector) -> Vector {
    _mm512_mul_ps(a, b)
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn div(a: Vector, b: Vector) -> Vector {
    _mm512_div_ps(a, b)
}

/// The instruction gives its second operand when one is not a number.
#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn relu(x: Vector) -> Vector {
    _mm512_max_ps(_mm512_setzero_ps(), x)
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn leaky(x: Vector, slope: Vector) -> Vector {
    let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
    _mm512_mask_mul_ps(x, below, x, slope)
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn negated_below_zero(x: Vector, y: Vector) -> Vector {
    let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
    _mm512_mask_sub_ps(y, below, _mm512_setzero_ps(), y)
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn clamp(x: Vector, bound: f32) -> Vector {
    _mm512_max_ps(splat(-bound), _mm512_min_ps(splat(bound), x))
}

#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn round(x: Vector) -> Vector {
    _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
}

/// `2^n` of whole numbers within f32's exponents: their bits are the exponent's.
#[target_feature(enable = "avx512f,avx2,fma")]
#[inline]
fn power_of_two(n: Vector) -> Vector {
    let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
}
