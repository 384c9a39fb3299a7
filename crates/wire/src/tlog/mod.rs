//! Transparency logs in C2SP's form: a Merkle tree over entries, its tiles, and checkpoints that a key signs.
//!
//! The tree and its proofs are those of RFC 9162, section 2.1 (the same tree as RFC 6962's). Tiles and entry bundles
//! are C2SP tlog-tiles, checkpoints are tlog-checkpoint, both in the text form of signed-note with Ed25519. Nothing here
//! knows where a log lies or what its entries say: tiles come from a closure, and go to one.
//!
//! A writer keeps a [`Frontier`], stores what it names, and signs a [`Checkpoint`]. An auditor calls [`verify_log`]
//! on a copy, and [`Checkpoint::extends`] with a checkpoint that it kept from earlier.

mod bundle;
mod checkpoint;
mod note;
mod proof;
mod tile;
mod tree;
mod verify;

pub use bundle::{BundleError, MAX_ENTRY, append_entry, parse_bundle};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use note::{
    KeyError, MAX_NOTE, MAX_SIGNATURES, NoteError, NoteSignature, SignerKey, UnverifiedNote,
    VerifiedNote, VerifierKey, sign_note,
};
pub use proof::{
    ConsistencyProof, InclusionProof, ProofError, ProveError, frontier_from_tiles,
    prove_consistency, prove_inclusion,
};
pub use tile::{
    CHECKPOINT_PATH, FULL_WIDTH, TileError, TileKind, TilePath, tile_from_bytes, tile_to_bytes,
    tiles_added,
};
pub use tree::{Frontier, Hash, MAX_TREE_SIZE, TileHash, TreeError, leaf_hash, node_hash, root_of};
pub use verify::{LogFault, VerifiedLog, verify_log};

#[cfg(test)]
pub(crate) mod twin;
