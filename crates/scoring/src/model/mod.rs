//! The model bundle: `model.onnx`, and the `preprocessing.json` without which it means nothing.

mod budget;
mod bundle;
mod fused;
mod graph;
mod onnx;
mod preprocessing;
mod rowwise;
mod scorer;
mod tract;
mod trees;

use std::io;
use std::path::PathBuf;

pub use bundle::Bundle;
pub use graph::Element;
pub(crate) use onnx::read_unbound;
pub use onnx::{Engine, Network};
pub use preprocessing::{Preprocessing, UnknownColumns};
pub use scorer::Scorer;
pub use strongroom_kernel::Path;

/// The one other file that weights may lie in.
const WEIGHTS_BESIDE: &str = "model.onnx.data";

/// Why a bundle is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of the bundle could not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A bundle lacks one of its files.
    #[error(
        "the bundle has no {0}; it holds model.onnx and preprocessing.json, which docs/model.md describes"
    )]
    Missing(&'static str),
    /// Something is longer than it may be.
    #[error("{what} is longer than {limit} bytes")]
    TooLarge {
        /// Which file.
        what: &'static str,
        /// The most that is read.
        limit: usize,
    },
    /// The tar form of a bundle is not one.
    #[error("this is no packed model (`strongroom model pack` makes one): {0}")]
    Tar(String),
    /// `preprocessing.json` says something that cannot be.
    #[error("preprocessing.json: {0}")]
    Preprocessing(String),
    /// `metrics.json` is not a JSON object.
    #[error("metrics.json: {0}")]
    Metrics(String),
    /// `profile.json` says something that cannot be.
    #[error("profile.json: {0}")]
    Profile(String),
    /// `model.onnx` is not a model that is understood.
    #[error("model.onnx: {0}")]
    Onnx(String),
    /// The graph and `preprocessing.json` speak of different numbers of columns.
    #[error("model.onnx takes {graph} columns, preprocessing.json names {preprocessing}")]
    WidthMismatch {
        /// Columns of the graph's input.
        graph: usize,
        /// Columns that `preprocessing.json` names.
        preprocessing: usize,
    },
}
