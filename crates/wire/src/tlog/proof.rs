//! Proofs (RFC 9162, sections 2.1.3 and 2.1.4): that a tree holds a leaf, and that a tree continues an older one. They
//! are made from a log's tiles and verified from the proof alone.

use std::collections::BTreeMap;

use super::tile::{FULL_WIDTH, TileKind, TilePath, hashes_at, width_of};
use super::tree::{Frontier, Hash, MAX_TREE_SIZE, TILE_HEIGHT, node_hash, root_of};

/// That a tree holds a leaf: the hashes beside the path from the leaf to the root, from the leaf on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InclusionProof {
    path: Vec<Hash>,
}

impl InclusionProof {
    /// Takes the hashes of a proof that came from elsewhere.
    ///
    /// # Errors
    /// [`ProofError::TooLong`] when no tree has such a proof.
    pub fn from_hashes(path: Vec<Hash>) -> Result<Self, ProofError> {
        check_length(&path)?;
        Ok(Self { path })
    }

    /// The hashes, from the leaf on.
    pub fn hashes(&self) -> &[Hash] {
        &self.path
    }

    /// Verifies that the leaf is number `index`, from 0, of the tree of that size and root (RFC 9162, 2.1.3.2).
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn verify(
        &self,
        leaf: &Hash,
        index: u64,
        size: u64,
        root: &Hash,
    ) -> Result<(), ProofError> {
        // Step 1
        if index >= size {
            return Err(ProofError::NoSuchEntry { index, size });
        }
        // Steps 2 and 3
        let (mut number, mut last, mut hash) = (index, size - 1, *leaf);
        // Step 4
        for sibling in &self.path {
            if last == 0 {
                return Err(ProofError::Surplus);
            }
            if is_right_or_last(number, last) {
                hash = node_hash(sibling, &hash);
                climb_to_right_child(&mut number, &mut last);
            } else {
                hash = node_hash(&hash, sibling);
            }
            number >>= 1;
            last >>= 1;
        }
        // Step 5
        if last != 0 {
            return Err(ProofError::TooShort);
        }
        if hash == *root {
            Ok(())
        } else {
            Err(ProofError::OtherRoot)
        }
    }
}

/// That a tree continues an older one: it has the older one's leaves, unchanged, and more behind them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConsistencyProof {
    path: Vec<Hash>,
}

impl ConsistencyProof {
    /// Takes the hashes of a proof that came from elsewhere.
    ///
    /// # Errors
    /// [`ProofError::TooLong`] when no tree has such a proof.
    pub fn from_hashes(path: Vec<Hash>) -> Result<Self, ProofError> {
        check_length(&path)?;
        Ok(Self { path })
    }

    /// The hashes, in the order of RFC 9162.
    pub fn hashes(&self) -> &[Hash] {
        &self.path
    }

    /// Verifies that the newer tree continues the older one (RFC 9162, 2.1.4.2). A tree continues itself and the tree
    /// without leaves; either proof has no hashes.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn verify(
        &self,
        (older_size, older_root): (u64, &Hash),
        (newer_size, newer_root): (u64, &Hash),
    ) -> Result<(), ProofError> {
        if older_size > newer_size {
            return Err(ProofError::Shrank {
                older: older_size,
                newer: newer_size,
            });
        }
        if older_size == 0 || older_size == newer_size {
            let expected = match older_size {
                0 => Frontier::new().root(),
                _ => *newer_root,
            };
            return match (self.path.is_empty(), *older_root == expected) {
                (false, _) => Err(ProofError::Surplus),
                (true, false) => Err(ProofError::OtherOlderRoot),
                (true, true) => Ok(()),
            };
        }
        // Step 2: the root of a tree that is itself a complete subtree is not in the path.
        let mut path = older_size
            .is_power_of_two()
            .then_some(older_root)
            .into_iter()
            .chain(&self.path);
        // Steps 3 and 4
        let (mut number, mut last) = (older_size - 1, newer_size - 1);
        let complete = number.trailing_ones();
        number >>= complete;
        last >>= complete;
        // Steps 1 and 5
        let Some(first) = path.next() else {
            return Err(ProofError::TooShort);
        };
        let (mut older, mut newer) = (*first, *first);
        // Step 6
        for hash in path {
            if last == 0 {
                return Err(ProofError::Surplus);
            }
            if is_right_or_last(number, last) {
                older = node_hash(hash, &older);
                newer = node_hash(hash, &newer);
                climb_to_right_child(&mut number, &mut last);
            } else {
                newer = node_hash(&newer, hash);
            }
            number >>= 1;
            last >>= 1;
        }
        // Step 7
        if last != 0 {
            return Err(ProofError::TooShort);
        }
        if older != *older_root {
            return Err(ProofError::OtherOlderRoot);
        }
        if newer != *newer_root {
            return Err(ProofError::OtherRoot);
        }
        Ok(())
    }
}

fn check_length(path: &[Hash]) -> Result<(), ProofError> {
    if path.len() > MAX_PROOF {
        Err(ProofError::TooLong(path.len()))
    } else {
        Ok(())
    }
}

fn is_right_or_last(number: u64, last: u64) -> bool {
    number & 1 == 1 || number == last
}

/// A last node without a sibling moves up unchanged, until it is the right one of two.
fn climb_to_right_child(number: &mut u64, last: &mut u64) {
    while *number & 1 == 0 && *number != 0 {
        *number >>= 1;
        *last >>= 1;
    }
}

/// Makes the proof that entry `index`, from 0, is in the tree of that size, from the log's tiles.
///
/// `read` answers a tile's hashes; more than the path says are allowed, so that the full tile can stand for a partial
/// one. What it answers is not verified: that shows when the proof is.
///
/// # Errors
/// [`ProveError`].
pub fn prove_inclusion<E>(
    index: u64,
    size: u64,
    read: impl FnMut(&TilePath) -> Result<Vec<Hash>, E>,
) -> Result<InclusionProof, ProveError<E>> {
    if index >= size {
        return Err(ProveError::NoSuchEntry { index, size });
    }
    let mut tiles = Tiles::of(size, read)?;
    let (mut low, mut high) = (0, size);
    let mut path = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            path.push(tiles.range(middle, high)?);
            high = middle;
        } else {
            path.push(tiles.range(low, middle)?);
            low = middle;
        }
    }
    path.reverse();
    Ok(InclusionProof { path })
}

/// Makes the proof that the tree of size `newer` continues the one of size `older`, from the log's tiles.
///
/// What `read` owes and what is verified is as for [`prove_inclusion`].
///
/// # Errors
/// [`ProveError`].
pub fn prove_consistency<E>(
    older: u64,
    newer: u64,
    read: impl FnMut(&TilePath) -> Result<Vec<Hash>, E>,
) -> Result<ConsistencyProof, ProveError<E>> {
    if older > newer {
        return Err(ProveError::Shrank { older, newer });
    }
    let mut tiles = Tiles::of(newer, read)?;
    let (mut low, mut high) = (0, newer);
    let mut path = Vec::new();
    if older == 0 {
        return Ok(ConsistencyProof { path });
    }
    while high != older {
        let middle = low + split(high - low);
        if older <= middle {
            path.push(tiles.range(middle, high)?);
            high = middle;
        } else {
            path.push(tiles.range(low, middle)?);
            low = middle;
        }
    }
    // The older tree's own root is known to whoever verifies; a part of it is not.
    if low != 0 {
        path.push(tiles.range(low, high)?);
    }
    path.reverse();
    Ok(ConsistencyProof { path })
}

/// Takes up a log again from its tiles. Whether they are those that were signed shows when the root is compared with
/// the last checkpoint; the caller owes that.
///
/// # Errors
/// [`ProveError`].
pub fn frontier_from_tiles<E>(
    size: u64,
    read: impl FnMut(&TilePath) -> Result<Vec<Hash>, E>,
) -> Result<Frontier, ProveError<E>> {
    Tiles::of(size, read)?.frontier(0, size)
}

/// The largest power of two below a number of leaves: where RFC 9162 splits them.
fn split(leaves: u64) -> u64 {
    debug_assert!(leaves > 1);
    1 << (leaves - 1).ilog2()
}

/// The tiles of a tree of one size, each read once.
struct Tiles<R> {
    size: u64,
    read: R,
    seen: BTreeMap<TilePath, Vec<Hash>>,
}

impl<R, E> Tiles<R>
where
    R: FnMut(&TilePath) -> Result<Vec<Hash>, E>,
{
    fn of(size: u64, read: R) -> Result<Self, ProveError<E>> {
        if size > MAX_TREE_SIZE {
            return Err(ProveError::TooLarge(size));
        }
        Ok(Self {
            size,
            read,
            seen: BTreeMap::new(),
        })
    }

    /// The root of the tree over some leaves, of which the first is one that RFC 9162 splits at.
    fn range(&mut self, low: u64, high: u64) -> Result<Hash, ProveError<E>> {
        self.frontier(low, high).map(|frontier| frontier.root())
    }

    fn frontier(&mut self, low: u64, high: u64) -> Result<Frontier, ProveError<E>> {
        let leaves = high - low;
        let mut at = low;
        let mut peaks = Vec::new();
        for height in (0..u64::BITS).rev() {
            if (leaves >> height) & 1 == 1 {
                peaks.push(self.node(height, at >> height)?);
                at += 1 << height;
            }
        }
        Ok(Frontier::resume(leaves, peaks).expect("one peak was read for each 1 in the size"))
    }

    /// The root of a complete subtree.
    fn node(&mut self, height: u32, number: u64) -> Result<Hash, ProveError<E>> {
        let tile_height = u32::from(TILE_HEIGHT);
        let level = u8::try_from(height / tile_height).expect("a height is below 64");
        let first = number << (height % tile_height);
        let count = 1_usize << (height % tile_height);
        let offset = usize::from(first.to_le_bytes()[0]);
        let hashes = self.tile(level, first / u64::from(FULL_WIDTH))?;
        Ok(root_of(hashes.get(offset..offset + count).expect(
            "a complete subtree of the tree lies within the width of its tile",
        )))
    }

    fn tile(&mut self, level: u8, index: u64) -> Result<&[Hash], ProveError<E>> {
        let left = hashes_at(level, self.size) - index * u64::from(FULL_WIDTH);
        let path = TilePath::of_tree(TileKind::Hashes { level }, index, width_of(left));
        if !self.seen.contains_key(&path) {
            let hashes = (self.read)(&path).map_err(|error| ProveError::Read { path, error })?;
            if hashes.len() < usize::from(path.width()) {
                return Err(ProveError::Width {
                    path,
                    actual: hashes.len(),
                });
            }
            self.seen.insert(path, hashes);
        }
        Ok(self.seen.get(&path).map_or(&[], Vec::as_slice))
    }
}

/// Why a proof does not show what it was made to show.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// No tree has such a proof.
    #[error("a proof of {0} hashes is longer than that of any log")]
    TooLong(usize),
    /// The tree is not large enough to hold that entry.
    #[error("entry {index} is not in a log of {size} entries: ask for a newer checkpoint")]
    NoSuchEntry {
        /// The entry, from 0.
        index: u64,
        /// The tree's size.
        size: u64,
    },
    /// The newer tree is the smaller one.
    #[error(
        "the log shrank from {older} entries to {newer}: its end was cut off, or this is an old copy"
    )]
    Shrank {
        /// The size of the older tree.
        older: u64,
        /// The size of the newer tree.
        newer: u64,
    },
    /// There are hashes left when the root is reached.
    #[error("the proof has more hashes than a tree of that size needs")]
    Surplus,
    /// The root is not reached.
    #[error("the proof has fewer hashes than a tree of that size needs")]
    TooShort,
    /// It leads to another root.
    #[error("the proof does not lead to the root that the checkpoint signs")]
    OtherRoot,
    /// It leads to another older root.
    #[error("the older checkpoint is not of a part of this log: its entries were changed since")]
    OtherOlderRoot,
}

/// Why a proof cannot be made from the tiles.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError<E> {
    /// No log has so many entries.
    #[error("a tree of {0} entries is larger than any log")]
    TooLarge(u64),
    /// The tree is not large enough to hold that entry.
    #[error("entry {index} is not in a log of {size} entries")]
    NoSuchEntry {
        /// The entry, from 0.
        index: u64,
        /// The tree's size.
        size: u64,
    },
    /// The newer tree is the smaller one.
    #[error("the log has {newer} entries, fewer than the {older} that it is to continue")]
    Shrank {
        /// The size of the older tree.
        older: u64,
        /// The size of the newer tree.
        newer: u64,
    },
    /// A tile could not be read.
    #[error("{path} cannot be read: {error}")]
    Read {
        /// The tile.
        path: TilePath,
        /// What the reader says.
        error: E,
    },
    /// A tile has too few hashes.
    #[error("{path} has {actual} hashes: the log's files are damaged, verify it")]
    Width {
        /// The tile.
        path: TilePath,
        /// How many it has.
        actual: usize,
    },
}

/// A proof has at most one hash for each level of the tree, and one more.
const MAX_PROOF: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use super::super::tree::leaf_hash;
    use super::super::twin;
    use super::*;

    /// The tiles of a tree, cut from its leaves by the definition in tlog-tiles.
    fn tiles(leaves: &[Hash]) -> impl FnMut(&TilePath) -> Result<Vec<Hash>, Infallible> {
        move |path| Ok(twin::tile(leaves, path))
    }

    #[test]
    fn proofs_of_certificate_transparency() {
        let leaves: Vec<_> = twin::ct_entries().iter().map(|e| leaf_hash(e)).collect();
        for (index, size, expected) in twin::CT_INCLUSION {
            let proof = prove_inclusion(index, size, tiles(&leaves[..size as usize])).unwrap();
            assert_eq!(twin::in_hex(proof.hashes()), expected);
        }
        for (older, newer, expected) in twin::CT_CONSISTENCY {
            let proof = prove_consistency(older, newer, tiles(&leaves[..newer as usize])).unwrap();
            assert_eq!(twin::in_hex(proof.hashes()), expected);
        }
    }

    /// All sizes where the tree's form is small, then those around the tiles' borders.
    fn sizes() -> impl Iterator<Item = u64> {
        (1..=40).chain([63, 64, 65, 255, 256, 257, 258, 300, 511, 512, 513, 600])
    }

    #[test]
    fn inclusion_proofs_differ_from_the_recursive_definition() {
        let leaves = twin::leaves(600);
        for size in sizes() {
            let tree = &leaves[..size as usize];
            let root = twin::root(tree);
            let step = if size > 65 { 7 } else { 1 };
            for index in (0..size).step_by(step).chain([size - 1]) {
                let proof = prove_inclusion(index, size, tiles(tree)).unwrap();
                assert_eq!(proof.hashes(), twin::inclusion(tree, index as usize));
                let leaf = &tree[index as usize];
                proof.verify(leaf, index, size, &root).unwrap();
                for other in [index ^ 1, index + 1, index.wrapping_sub(1), 0, size] {
                    if other != index {
                        assert!(
                            proof.verify(leaf, other, size, &root).is_err(),
                            "entry {index} of {size} passes as {other}"
                        );
                    }
                }
                let other_leaf = leaf_hash(b"another");
                assert!(proof.verify(&other_leaf, index, size, &root).is_err());
                assert!(proof.verify(leaf, index, size, &other_leaf).is_err());
            }
        }
    }

    #[test]
    fn consistency_proofs_differ_from_the_recursive_definition() {
        let leaves = twin::leaves(600);
        for newer in sizes() {
            let tree = &leaves[..newer as usize];
            let root = twin::root(tree);
            let step = if newer > 65 { 13 } else { 1 };
            for older in (0..=newer).step_by(step).chain([256.min(newer)]) {
                let older_root = twin::root(&leaves[..older as usize]);
                let proof = prove_consistency(older, newer, tiles(tree)).unwrap();
                if older > 0 {
                    assert_eq!(proof.hashes(), twin::consistency(tree, older as usize));
                }
                proof
                    .verify((older, &older_root), (newer, &root))
                    .unwrap_or_else(|error| panic!("{older} to {newer}: {error}"));
                let other = leaf_hash(b"another");
                assert!(proof.verify((older, &other), (newer, &root)).is_err());
                if older > 0 {
                    assert!(proof.verify((older, &older_root), (newer, &other)).is_err());
                }
                if older > 0 && older + 1 < newer {
                    assert!(
                        proof
                            .verify((older + 1, &older_root), (newer, &root))
                            .is_err()
                    );
                }
            }
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_proof() {
        let leaves = twin::leaves(300);
        for (index, size) in [(0, 7), (6, 7), (5, 300), (299, 300), (256, 257), (100, 256)] {
            let tree = &leaves[..size as usize];
            let root = twin::root(tree);
            let proof = prove_inclusion(index, size, tiles(tree)).unwrap();
            for mutant in mutants(proof.hashes()) {
                let mutant = InclusionProof::from_hashes(mutant).unwrap();
                assert!(
                    mutant
                        .verify(&tree[index as usize], index, size, &root)
                        .is_err()
                );
            }
        }
        for (older, newer) in [(1, 7), (4, 7), (6, 7), (256, 300), (299, 300), (128, 256)] {
            let root = twin::root(&leaves[..newer as usize]);
            let older_root = twin::root(&leaves[..older as usize]);
            let proof = prove_consistency(older, newer, tiles(&leaves[..newer as usize])).unwrap();
            for mutant in mutants(proof.hashes()) {
                let mutant = ConsistencyProof::from_hashes(mutant).unwrap();
                assert!(mutant.verify((older, &older_root), (newer, &root)).is_err());
            }
        }
    }

    /// Each bit flipped, one hash fewer at each place, one more at each end, two exchanged.
    fn mutants(path: &[Hash]) -> Vec<Vec<Hash>> {
        let mut mutants = Vec::new();
        for at in 0..path.len() {
            for bit in 0..256 {
                let mut bytes = *path[at].as_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let mut mutant = path.to_vec();
                mutant[at] = Hash::from_bytes(bytes);
                mutants.push(mutant);
            }
            let mut shorter = path.to_vec();
            shorter.remove(at);
            mutants.push(shorter);
            if at > 0 {
                let mut exchanged = path.to_vec();
                exchanged.swap(at - 1, at);
                mutants.push(exchanged);
            }
        }
        mutants.push([path, &[leaf_hash(b"")]].concat());
        mutants.push([&[leaf_hash(b"")], path].concat());
        mutants
    }

    /// The size of a tree is not in the hashes, only in the number of them: a leaf's proof can hold in a tree of
    /// another size and the same root only if the path has another form.
    #[test]
    fn a_proof_with_another_size() {
        let leaves = twin::leaves(64);
        for size in 1..=64_u64 {
            let tree = &leaves[..size as usize];
            let root = twin::root(tree);
            for index in 0..size {
                let proof = prove_inclusion(index, size, tiles(tree)).unwrap();
                for other in [size.next_power_of_two() * 2, size / 2] {
                    if other != size && index != 0 {
                        assert!(
                            proof
                                .verify(&tree[index as usize], index, other, &root)
                                .is_err()
                        );
                    }
                }
            }
        }
        let (two, four) = (twin::root(&leaves[..2]), twin::root(&leaves[..4]));
        let proof = prove_consistency(2, 4, tiles(&leaves[..4])).unwrap();
        assert_eq!(
            proof.verify((2, &two), (5, &four)),
            Err(ProofError::TooShort)
        );
        assert_eq!(proof.verify((2, &two), (2, &two)), Err(ProofError::Surplus));
        assert_eq!(
            proof.verify((4, &four), (2, &two)),
            Err(ProofError::Shrank { older: 4, newer: 2 })
        );
    }

    /// Hashes behind the root lead somewhere, too, and not from a tree of that size.
    #[test]
    fn a_proof_that_goes_on_behind_the_root() {
        let leaves = twin::leaves(7);
        let root = twin::root(&leaves);
        let extra = leaf_hash(b"extra");
        let beyond = node_hash(&extra, &root);

        let proof = prove_inclusion(2, 7, tiles(&leaves)).unwrap();
        let longer = InclusionProof::from_hashes([proof.hashes(), &[extra]].concat()).unwrap();
        assert_eq!(
            longer.verify(&leaves[2], 2, 7, &beyond),
            Err(ProofError::Surplus)
        );

        let proof = prove_consistency(3, 7, tiles(&leaves)).unwrap();
        let longer = ConsistencyProof::from_hashes([proof.hashes(), &[extra]].concat()).unwrap();
        let older = twin::root(&leaves[..3]);
        let older_beyond = node_hash(&extra, &older);
        assert_eq!(
            longer.verify((3, &older_beyond), (7, &beyond)),
            Err(ProofError::Surplus)
        );
        assert_eq!(
            longer.verify((0, &Frontier::new().root()), (7, &root)),
            Err(ProofError::Surplus)
        );
    }

    #[test]
    fn a_frontier_read_from_tiles() {
        let leaves = twin::leaves(600);
        for size in (0..=600).step_by(17).chain([255, 256, 257, 512]) {
            let tree = &leaves[..size];
            let frontier = frontier_from_tiles(size as u64, tiles(tree)).unwrap();
            assert_eq!(frontier.root(), twin::root(tree), "size {size}");
            let mut grown = Frontier::new();
            tree.iter().for_each(|leaf| grown.push(*leaf));
            assert_eq!(frontier, grown);
        }
    }

    #[test]
    fn a_full_tile_stands_for_a_partial_one() {
        let leaves = twin::leaves(256);
        let full = |path: &TilePath| Ok::<_, Infallible>(twin::tile(&leaves, &path.to_full()));
        let proof = prove_inclusion(3, 100, full).unwrap();
        proof
            .verify(&leaves[3], 3, 100, &twin::root(&leaves[..100]))
            .unwrap();
    }

    #[test]
    fn questions_without_an_answer() {
        let leaves = twin::leaves(3);
        assert_eq!(
            prove_inclusion(3, 3, tiles(&leaves)),
            Err(ProveError::NoSuchEntry { index: 3, size: 3 })
        );
        assert_eq!(
            prove_consistency(4, 3, tiles(&leaves)),
            Err(ProveError::Shrank { older: 4, newer: 3 })
        );
        assert_eq!(
            frontier_from_tiles(u64::MAX, tiles(&leaves)),
            Err(ProveError::TooLarge(u64::MAX))
        );
        let path = TilePath::hashes(0, 0, 3).unwrap();
        assert_eq!(
            prove_inclusion(0, 3, |_| Err("no disk")),
            Err(ProveError::Read {
                path,
                error: "no disk"
            })
        );
        assert_eq!(
            prove_inclusion(0, 3, |_| Ok::<_, Infallible>(leaves[..2].to_vec())),
            Err(ProveError::Width { path, actual: 2 })
        );
        assert_eq!(
            InclusionProof::from_hashes(vec![leaves[0]; 65]),
            Err(ProofError::TooLong(65))
        );
        assert_eq!(
            ConsistencyProof::from_hashes(vec![leaves[0]; 65]),
            Err(ProofError::TooLong(65))
        );
    }
}
