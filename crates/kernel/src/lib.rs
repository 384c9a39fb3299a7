//! Dense networks over rows: standardise, multiply, add, activate, all layers while a few rows are in the first cache.
//!
//! Rows lie across the lanes of a vector, so columns come in as they are and nothing is transposed. The loop over layers
//! is written once (`lanes.rs`) and compiled for AVX-512 and for AVX2 with FMA; which of them runs is decided when a
//! [`Network`] is made, by what the processor has. The plain twin in `scalar.rs` says what all of them must compute.
//!
//! A row's score depends on the row alone: not on the rows beside it, nor on its place among them.

mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod network;
mod packed;
mod path;
mod scalar;

pub use network::{Activation, Front, Layer, Network, Unfit, Workspace};
pub use path::Path;
