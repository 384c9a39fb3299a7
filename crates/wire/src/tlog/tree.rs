//! The Merkle tree of RFC 9162, section 2.1.1 (the same as RFC 6962's), and its right edge, from which it grows.

use std::fmt;

use aws_lc_rs::digest;

use super::tile::FULL_WIDTH;
use crate::b64;

/// The largest tree: sizes stay below 2^63, as in the other implementations of the format.
pub const MAX_TREE_SIZE: u64 = u64::MAX >> 1;

/// A Merkle Tree Hash: SHA-256 of a leaf, of two nodes, or of nothing. `Display` is base64, as checkpoints print it.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hash([u8; Self::BYTES]);

impl Hash {
    /// How long a hash is.
    pub const BYTES: usize = 32;

    /// Takes the hash from its bytes.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The hash's bytes.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    fn of(bytes: &[u8]) -> Self {
        Self::from_digest(&digest::digest(&digest::SHA256, bytes))
    }

    fn from_digest(digest: &digest::Digest) -> Self {
        Self(
            digest
                .as_ref()
                .try_into()
                .expect("SHA-256 has 32 bytes whatever it hashes"),
        )
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&b64::std_encode(self.0))
    }
}

/// Hashes an entry: `SHA-256(0x00 || entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[0x00]);
    context.update(entry);
    Hash::from_digest(&context.finish())
}

/// Hashes two nodes: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut node = [0x01; 1 + 2 * Hash::BYTES];
    let (_, children) = node.split_at_mut(1);
    let (first, second) = children.split_at_mut(Hash::BYTES);
    first.copy_from_slice(&left.0);
    second.copy_from_slice(&right.0);
    Hash::of(&node)
}

/// The root of the tree over these leaf hashes, or over the hashes of a run of complete subtrees of one height.
pub fn root_of(hashes: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    for hash in hashes {
        frontier.push(*hash);
    }
    frontier.root()
}

/// The right edge of a tree: the roots of the complete subtrees it consists of, largest first, one for each 1 in the
/// binary form of its size. That is all that a tree needs to grow and to know its root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The tree without leaves.
    pub fn new() -> Self {
        Self {
            size: 0,
            peaks: Vec::new(),
        }
    }

    /// Takes up a tree again from its size and its peaks. Whether they belong to the tree that was signed shows when
    /// [`Self::root`] is compared with the last checkpoint; the caller owes that.
    ///
    /// # Errors
    /// [`TreeError`] when so many peaks are not those of a tree of that size.
    pub fn resume(size: u64, peaks: Vec<Hash>) -> Result<Self, TreeError> {
        if size > MAX_TREE_SIZE {
            return Err(TreeError::TooLarge(size));
        }
        if u64::try_from(peaks.len()) != Ok(u64::from(size.count_ones())) {
            return Err(TreeError::Peaks {
                size,
                expected: size.count_ones(),
                actual: peaks.len(),
            });
        }
        Ok(Self { size, peaks })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its complete subtrees, largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The root of the tree; of the tree without leaves, the hash of nothing.
    pub fn root(&self) -> Hash {
        self.peaks
            .iter()
            .rev()
            .copied()
            .reduce(|right, left| node_hash(&left, &right))
            .unwrap_or_else(|| Hash::of(b""))
    }

    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        self.push_with(leaf, |_| ());
    }

    /// Appends a leaf hash, and names each hash that now has its place in a tile: the leaf itself, then the roots of
    /// the tiles that it completes, level by level.
    pub fn push_with(&mut self, leaf: Hash, mut stored: impl FnMut(TileHash)) {
        let position = self.size;
        let mut hash = leaf;
        let mut height = 0_u8;
        stored(TileHash {
            level: 0,
            position,
            hash,
        });
        // A subtree of this height stands at the right end as long as the bit is 1: the leaf completes the next one.
        while (position >> height) & 1 == 1 {
            let left = self
                .peaks
                .pop()
                .expect("there is a peak for each 1 in the size");
            hash = node_hash(&left, &hash);
            height += 1;
            if height.is_multiple_of(TILE_HEIGHT) {
                stored(TileHash {
                    level: height / TILE_HEIGHT,
                    position: position >> height,
                    hash,
                });
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }
}

impl Default for Frontier {
    fn default() -> Self {
        Self::new()
    }
}

/// A hash and its place in the tiles.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TileHash {
    /// The level of its tile.
    pub level: u8,
    /// Its number among the hashes of that level.
    pub position: u64,
    /// The hash.
    pub hash: Hash,
}

impl TileHash {
    /// The number of its tile within the level.
    pub fn tile_index(&self) -> u64 {
        self.position / u64::from(FULL_WIDTH)
    }

    /// Its place within the tile.
    pub fn offset(&self) -> u8 {
        self.position.to_le_bytes()[0]
    }
}

/// Why a tree cannot be taken up again.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// No log has so many entries.
    #[error("a tree of {0} entries is larger than any log: the stored size is damaged")]
    TooLarge(u64),
    /// The stored peaks do not belong to the stored size.
    #[error(
        "a tree of {size} entries has {expected} peaks, and {actual} are stored: rebuild them from the tiles"
    )]
    Peaks {
        /// The tree's size.
        size: u64,
        /// How many peaks a tree of that size has.
        expected: u32,
        /// How many there are.
        actual: usize,
    },
}

/// How many levels of the tree one tile holds.
pub(super) const TILE_HEIGHT: u8 = 8;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::twin;
    use super::*;

    #[test]
    fn roots_of_certificate_transparency() {
        let mut frontier = Frontier::new();
        assert_eq!(hex::encode(frontier.root().as_bytes()), twin::CT_EMPTY_ROOT);
        for (entry, root) in twin::ct_entries().iter().zip(twin::CT_ROOTS) {
            frontier.push(leaf_hash(entry));
            assert_eq!(hex::encode(frontier.root().as_bytes()), root);
        }
    }

    #[test]
    fn a_frontier_that_differs_from_the_recursive_definition() {
        let leaves = twin::leaves(600);
        let mut frontier = Frontier::new();
        for size in 0..=leaves.len() {
            let expected = twin::root(&leaves[..size]);
            assert_eq!(frontier.root(), expected, "size {size}");
            assert_eq!(root_of(&leaves[..size]), expected, "size {size}");
            if let Some(leaf) = leaves.get(size) {
                // Resumed at each step, as a writer does after each restart.
                frontier = Frontier::resume(frontier.size(), frontier.peaks().to_vec()).unwrap();
                frontier.push(*leaf);
            }
        }
    }

    #[test]
    fn a_hash_that_is_stored_at_another_place() {
        let leaves = twin::leaves(256 * 256 + 300);
        let mut frontier = Frontier::new();
        let mut levels: Vec<Vec<Hash>> = vec![Vec::new(); 3];
        for leaf in &leaves {
            frontier.push_with(*leaf, |stored| {
                let level = &mut levels[usize::from(stored.level)];
                assert_eq!(stored.position, level.len() as u64);
                assert_eq!(stored.tile_index(), stored.position / 256);
                assert_eq!(u64::from(stored.offset()), stored.position % 256);
                level.push(stored.hash);
            });
        }
        assert_eq!(levels[0], leaves);
        assert_eq!(levels[1].len(), 257);
        assert_eq!(levels[2].len(), 1);
        assert_eq!(levels[1][256], twin::root(&leaves[65536..65536 + 256]));
        assert_eq!(levels[2][0], twin::root(&leaves[..65536]));
    }

    #[test]
    fn peaks_of_another_size_are_refused() {
        let peaks = vec![leaf_hash(b""); 2];
        assert_eq!(
            Frontier::resume(7, peaks.clone()),
            Err(TreeError::Peaks {
                size: 7,
                expected: 3,
                actual: 2
            })
        );
        assert_eq!(
            Frontier::resume(u64::MAX, peaks),
            Err(TreeError::TooLarge(u64::MAX))
        );
    }
}
