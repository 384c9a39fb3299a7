//! Transparency logs in C2SP's form: a Merkle tree over entries, its tiles, and checkpoints that a key signs.
//!
//! The tree and its proofs are those of RFC 9162, section 2.1 (the same tree as RFC 6962's). Tiles and entry bundles
//! are C2SP tlog-tiles, checkpoints are tlog-checkpoint, both in the text form of signed-note with Ed25519. Nothing here
//! knows where a log lies or what its entries say: tiles come from a closure, and go to one.
//!
//! A writer keeps a [`Frontier`], stores what it names, and signs a [`Checkpoint`]. An auditor calls [`verify_log`]
//! on a copy, and [`Checkpoint::extends`] with a checkpoint that it kept from earlier.
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::convert::Infallible;
//! use strongroom_wire::tlog::{
//!     Checkpoint, Frontier, SignerKey, TileKind, append_entry, leaf_hash, tile_to_bytes, tiles_added, verify_log,
//! };
//!
//! // The writer: any store that gives hashes back by level and position will do.
//! let key = SignerKey::generate("broker.example/audit")?;
//! let entries = ["started", "released a key", "denied another"];
//! let mut hashes = BTreeMap::new();
//! let mut frontier = Frontier::new();
//! for entry in entries {
//!     frontier.push_with(leaf_hash(entry.as_bytes()), |stored| {
//!         hashes.insert((stored.level, stored.position), stored.hash);
//!     });
//! }
//! let checkpoint = Checkpoint::new("broker.example/audit", frontier.size(), frontier.root())?.sign(&[&key])?;
//!
//! // Its files: after a later checkpoint, those that `tiles_added` names from this size on.
//! let mut files = BTreeMap::new();
//! for path in tiles_added(0, frontier.size()) {
//!     let first = path.index() * 256;
//!     let positions = first..first + u64::from(path.width());
//!     let mut bytes = Vec::new();
//!     match path.kind() {
//!         TileKind::Hashes { level } => {
//!             let tile: Vec<_> = positions.map(|position| hashes[&(level, position)]).collect();
//!             bytes = tile_to_bytes(&tile);
//!         }
//!         TileKind::Entries => {
//!             for position in positions {
//!                 append_entry(&mut bytes, entries[position as usize].as_bytes())?;
//!             }
//!         }
//!     }
//!     files.insert(path, bytes);
//! }
//!
//! // The auditor, who has the files and the public key.
//! let verified = verify_log(
//!     checkpoint.as_bytes(),
//!     &[key.verifier().clone()],
//!     0,
//!     |path| Ok::<_, Infallible>(files.get(path).cloned()),
//!     |index, entry| assert_eq!(entry, entries[index as usize].as_bytes()),
//! )?;
//! assert_eq!(verified.entries, 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
