//! Batch scoring.
pub mod generate;
