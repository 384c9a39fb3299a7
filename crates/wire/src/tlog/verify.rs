//! Verifies a whole stored log against a signed checkpoint, from its files alone.
//!
//! It goes from the root down. The tiles at the right edge give the root that was signed; each hash in a tile vouches
//! for a tile below it, and each leaf hash for an entry. So what does not fit is known to be what was changed, and an
//! entry is handed on only when the signature reaches down to it. At most one tile of each level and one bundle are
//! in memory.

use std::fmt;

use super::bundle::{self, BundleError};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::note::VerifierKey;
use super::tile::{FULL_WIDTH, LEVELS, TileKind, TilePath, hashes_at, tile_from_bytes};
use super::tree::{Frontier, Hash, TILE_HEIGHT, leaf_hash, root_of};

/// Verifies that the files of a log are those of the tree that a checkpoint signs: every tile, every entry, from
/// `minimum_index` on (0: all of it; a log whose oldest entries were removed names the first one that it keeps).
///
/// `read` answers a file's bytes, `None` when there is none; it should cap what it reads at [`TilePath::max_bytes`].
/// It is asked for the full tile where a partial one is missing, as a log that grew may keep that one only. `each` gets
/// the entries that were verified, in order, with their numbers from 0.
///
/// That the log is the newest one this does not show: who holds an older checkpoint compares with
/// [`Checkpoint::extends`], and a log that was set back to an older signed state fails that.
///
/// # Errors
/// [`LogFault`], the first one in the order of the entries. Entries before it were handed to `each`, unless not even
/// the right edge is what was signed; then none were.
pub fn verify_log<E: fmt::Display>(
    note: &[u8],
    keys: &[VerifierKey],
    minimum_index: u64,
    read: impl FnMut(&TilePath) -> Result<Option<Vec<u8>>, E>,
    each: impl FnMut(u64, &[u8]),
) -> Result<VerifiedLog, LogFault<E>> {
    let checkpoint = Checkpoint::open(note, keys)?;
    let size = checkpoint.size();
    if minimum_index > size {
        return Err(LogFault::MinimumIndex {
            minimum_index,
            size,
        });
    }
    let mut walk = Walk {
        read,
        each,
        minimum_index,
        signed: false,
        entries: 0,
    };
    let edge = walk.right_edge(size)?;
    let root = root_of_edge(size, &edge);
    walk.signed = root == *checkpoint.root();
    for (path, hashes) in &edge {
        walk.tile(path, hashes)?;
    }
    if !walk.signed {
        return Err(LogFault::OtherRoot { size, actual: root });
    }
    Ok(VerifiedLog {
        first_entry: size - walk.entries,
        entries: walk.entries,
        checkpoint,
    })
}

/// What [`verify_log`] found to be in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedLog {
    /// The checkpoint, its signature verified.
    pub checkpoint: Checkpoint,
    /// The first entry that was verified, from 0; the entries before it were not asked for.
    pub first_entry: u64,
    /// How many were verified.
    pub entries: u64,
}

struct Walk<R, F> {
    read: R,
    each: F,
    minimum_index: u64,
    /// Whether the right edge is what was signed, so that each tile reached from it is, too. If it is not, the walk
    /// only looks for the first two files that contradict each other.
    signed: bool,
    entries: u64,
}

impl<E, R, F> Walk<R, F>
where
    R: FnMut(&TilePath) -> Result<Option<Vec<u8>>, E>,
    F: FnMut(u64, &[u8]),
{
    /// The tiles that no tile above vouches for: the partial ones, from the highest level down, which is also from the
    /// oldest entries to the newest.
    fn right_edge(&mut self, size: u64) -> Result<Vec<(TilePath, Vec<Hash>)>, LogFault<E>> {
        let full = u64::from(FULL_WIDTH);
        let mut edge = Vec::new();
        for level in (0..LEVELS).rev() {
            let hashes = hashes_at(level, size);
            let width = u16::try_from(hashes % full).expect("it is below the width of a tile");
            if width > 0 {
                let path = TilePath::of_tree(TileKind::Hashes { level }, hashes / full, width);
                edge.push((path, self.hashes(&path)?));
            }
        }
        Ok(edge)
    }

    /// Verifies what lies below a tile. It calls itself once for each level below, so at most eight times.
    fn tile(&mut self, path: &TilePath, hashes: &[Hash]) -> Result<(), LogFault<E>> {
        let level = match path.kind() {
            TileKind::Hashes { level } if level > 0 => level - 1,
            _ => return self.entries(path, hashes),
        };
        for (offset, hash) in (0_u64..).zip(hashes) {
            // The tree has that many tiles, so this cannot overflow.
            let index = path.index() * u64::from(FULL_WIDTH) + offset;
            let below = TilePath::of_tree(TileKind::Hashes { level }, index, FULL_WIDTH);
            if below.end_index() <= self.minimum_index {
                continue;
            }
            let hashes = self.hashes(&below)?;
            if root_of(&hashes) != *hash {
                return Err(if self.signed {
                    LogFault::TileAltered { path: below }
                } else {
                    LogFault::Contradiction {
                        above: *path,
                        below,
                        index: below.start_index(),
                    }
                });
            }
            self.tile(&below, &hashes)?;
        }
        Ok(())
    }

    /// Verifies the entries that a tile of leaf hashes stands for.
    fn entries(&mut self, tile: &TilePath, leaves: &[Hash]) -> Result<(), LogFault<E>> {
        let path = TilePath::of_tree(TileKind::Entries, tile.index(), tile.width());
        let file = self.file(&path)?;
        let first = path.start_index();
        let mut entries = bundle::split(&file.bytes);
        for (index, leaf) in (first..).zip(leaves) {
            let entry = match entries.next() {
                Some(Ok(entry)) => entry,
                Some(Err(error)) => return Err(LogFault::Bundle { path, index, error }),
                None => return Err(LogFault::EntryMissing { path, index }),
            };
            let actual = leaf_hash(entry);
            if actual != *leaf {
                return Err(if self.signed {
                    wrong_entry(path, index, leaves, &actual)
                } else {
                    LogFault::Contradiction {
                        above: *tile,
                        below: path,
                        index,
                    }
                });
            }
            if self.signed {
                (self.each)(index, entry);
            }
            self.entries += 1;
        }
        // A full bundle that stands for a partial one goes on with entries that this checkpoint does not sign.
        if file.is_exact && entries.next().is_some() {
            return Err(LogFault::SurplusEntries { path });
        }
        Ok(())
    }

    fn hashes(&mut self, path: &TilePath) -> Result<Vec<Hash>, LogFault<E>> {
        let file = self.file(path)?;
        let path = *path;
        let fault = LogFault::TileLength {
            path,
            length: file.bytes.len(),
        };
        match tile_from_bytes(&file.bytes) {
            Ok(mut hashes) if hashes.len() == usize::from(file.width) => {
                hashes.truncate(usize::from(path.width()));
                Ok(hashes)
            }
            _ => Err(fault),
        }
    }

    fn file(&mut self, path: &TilePath) -> Result<File, LogFault<E>> {
        let fault = |path, error| LogFault::Read { path, error };
        let mut found = (self.read)(path).map_err(|error| fault(*path, error))?;
        let mut width = path.width();
        if found.is_none() && path.is_partial() {
            let full = path.to_full();
            found = (self.read)(&full).map_err(|error| fault(full, error))?;
            width = full.width();
        }
        Ok(File {
            bytes: found.ok_or(LogFault::FileMissing { path: *path })?,
            width,
            is_exact: width == path.width(),
        })
    }
}

/// A file that was found for a tile.
struct File {
    bytes: Vec<u8>,
    /// The width that it should have.
    width: u16,
    /// Whether it is the one that was asked for, not the full one instead of a partial one.
    is_exact: bool,
}

/// Says of an entry that is not what was signed whether it only stands in another's place.
fn wrong_entry<E>(path: TilePath, index: u64, leaves: &[Hash], actual: &Hash) -> LogFault<E> {
    match (path.start_index()..)
        .zip(leaves)
        .find(|(_, leaf)| *leaf == actual)
    {
        Some((belongs_at, _)) => LogFault::EntryMoved {
            path,
            index,
            belongs_at,
        },
        None => LogFault::EntryAltered { path, index },
    }
}

/// The root of the tree with this right edge: each 1 in the size is a complete subtree within one of its tiles.
fn root_of_edge(size: u64, edge: &[(TilePath, Vec<Hash>)]) -> Hash {
    let mut peaks = Vec::new();
    for (_, hashes) in edge {
        let mut rest = hashes.as_slice();
        for height in (0..TILE_HEIGHT).rev() {
            let count = 1 << height;
            if hashes.len() & count != 0
                && let Some((subtree, behind)) = rest.split_at_checked(count)
            {
                peaks.push(root_of(subtree));
                rest = behind;
            }
        }
    }
    Frontier::resume(size, peaks)
        .expect("the widths of the edge's tiles are the digits of the size")
        .root()
}

/// The first thing in a stored log that does not fit.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LogFault<E> {
    /// The checkpoint is not one, or not signed by the log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Nothing of the log was asked for.
    #[error("entries from {minimum_index} on are asked for, and the checkpoint signs {size}")]
    MinimumIndex {
        /// The first entry that was asked for.
        minimum_index: u64,
        /// The log's size.
        size: u64,
    },
    /// A file cannot be read.
    #[error("{path} cannot be read: {error}")]
    Read {
        /// The file.
        path: TilePath,
        /// What the reader says.
        error: E,
    },
    /// A file is not there.
    #[error("{path} is missing: it holds what the checkpoint signs of entries {} on", .path.start_index())]
    FileMissing {
        /// The file.
        path: TilePath,
    },
    /// A tile has not the hashes that it should have.
    #[error("{path} has {length} bytes, which are not its {} hashes: it was cut or replaced", .path.width())]
    TileLength {
        /// The tile.
        path: TilePath,
        /// Its length.
        length: usize,
    },
    /// A tile is not the one that was signed.
    #[error("{path}, of entries {} to {}, is not the tile that was signed: it was altered", .path.start_index(), .path.end_index() - 1)]
    TileAltered {
        /// The tile.
        path: TilePath,
    },
    /// An entry is not the one that was signed.
    #[error("entry {index}, in {path}, is not the one that was signed: it was altered or replaced")]
    EntryAltered {
        /// The bundle.
        path: TilePath,
        /// The entry, from 0.
        index: u64,
    },
    /// An entry stands in another's place.
    #[error(
        "entry {index}, in {path}, was signed as entry {belongs_at}: entries were reordered or taken out"
    )]
    EntryMoved {
        /// The bundle.
        path: TilePath,
        /// Where it stands, from 0.
        index: u64,
        /// Where it was when it was signed.
        belongs_at: u64,
    },
    /// The bundle ends before an entry.
    #[error("{path} ends before entry {index}, which was signed: it was cut off")]
    EntryMissing {
        /// The bundle.
        path: TilePath,
        /// The first entry that is missing, from 0.
        index: u64,
    },
    /// The bundle goes on behind its last entry.
    #[error("{path} holds more than the entries that were signed")]
    SurplusEntries {
        /// The bundle.
        path: TilePath,
    },
    /// The bundle cannot be parsed.
    #[error("{path} cannot be parsed at entry {index}: {error}")]
    Bundle {
        /// The bundle.
        path: TilePath,
        /// The entry, from 0.
        index: u64,
        /// Why.
        error: BundleError,
    },
    /// Two files contradict each other, and the signature reaches neither.
    #[error(
        "{below} and {above} contradict each other from entry {index} on, and the signed root vouches for neither: one of them was altered"
    )]
    Contradiction {
        /// The tile of hashes.
        above: TilePath,
        /// The tile or bundle that it has the hashes of.
        below: TilePath,
        /// The first entry that it concerns, from 0.
        index: u64,
    },
    /// The files agree with each other, and not with the signature.
    #[error(
        "the log's files agree with each other, but their root is {actual}, not the one that was signed for {size} entries: the log was rewritten, or the checkpoint is of another copy"
    )]
    OtherRoot {
        /// The log's size.
        size: u64,
        /// The root of the files.
        actual: Hash,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use zeroize::Zeroizing;

    use super::super::bundle::{append_entry, parse_bundle};
    use super::super::note::{NoteError, SignerKey, sign_note};
    use super::super::proof::{ProofError, prove_consistency};
    use super::super::tile::{tile_to_bytes, tiles_added};
    use super::super::twin;
    use super::*;

    const ORIGIN: &str = "broker.example/audit";

    fn signer() -> SignerKey {
        SignerKey::from_seed(ORIGIN, Zeroizing::new([9; 32])).unwrap()
    }

    fn entry(number: u64) -> Vec<u8> {
        format!("entry number {number}").into_bytes()
    }

    /// A log in memory, written as a broker writes one.
    #[derive(Clone)]
    struct Log {
        files: BTreeMap<String, Vec<u8>>,
        checkpoint: String,
    }

    impl Log {
        fn of(size: u64) -> Self {
            Self::with((0..size).map(entry))
        }

        fn with(entries: impl Iterator<Item = Vec<u8>>) -> Self {
            let entries: Vec<_> = entries.collect();
            let mut frontier = Frontier::new();
            let mut levels = vec![Vec::new(); usize::from(LEVELS)];
            for entry in &entries {
                frontier.push_with(leaf_hash(entry), |stored| {
                    levels[usize::from(stored.level)].push(stored.hash);
                });
            }
            let size = frontier.size();
            let mut files = BTreeMap::new();
            for path in tiles_added(0, size) {
                let first = path.index() as usize * 256;
                let range = first..first + usize::from(path.width());
                let mut bytes = Vec::new();
                match path.kind() {
                    TileKind::Hashes { level } => {
                        bytes = tile_to_bytes(&levels[usize::from(level)][range]);
                    }
                    TileKind::Entries => {
                        for entry in &entries[range] {
                            append_entry(&mut bytes, entry).unwrap();
                        }
                    }
                }
                files.insert(path.to_string(), bytes);
            }
            let checkpoint = Checkpoint::new(ORIGIN, size, frontier.root()).unwrap();
            Self {
                files,
                checkpoint: checkpoint.sign(&[&signer()]).unwrap(),
            }
        }

        fn file(&mut self, path: &str) -> &mut Vec<u8> {
            self.files.get_mut(path).unwrap()
        }

        /// Rewrites a bundle's entries.
        fn edit(&mut self, path: &str, edit: impl FnOnce(&mut Vec<Vec<u8>>)) {
            let file = self.file(path);
            let mut entries: Vec<_> = parse_bundle(file)
                .unwrap()
                .iter()
                .map(|e| e.to_vec())
                .collect();
            edit(&mut entries);
            file.clear();
            for entry in entries {
                append_entry(file, &entry).unwrap();
            }
        }

        fn verify_from(
            &self,
            minimum_index: u64,
        ) -> (Result<VerifiedLog, LogFault<Infallible>>, Vec<u64>) {
            let mut seen = Vec::new();
            let result = verify_log(
                self.checkpoint.as_bytes(),
                &[signer().verifier().clone()],
                minimum_index,
                |path| Ok(self.files.get(&path.to_string()).cloned()),
                |index, bytes| {
                    assert_eq!(bytes, entry(index), "an entry that nobody signed");
                    seen.push(index);
                },
            );
            (result, seen)
        }

        /// The fault, and that all entries before it and none behind it were handed on.
        fn fault(&self, handed_on: u64) -> LogFault<Infallible> {
            let (result, seen) = self.verify_from(0);
            assert!(seen.iter().copied().eq(0..handed_on), "{seen:?}");
            result.unwrap_err()
        }
    }

    fn bundle(index: u64, width: u16) -> TilePath {
        TilePath::entries(index, width).unwrap()
    }

    fn tile(level: u8, index: u64, width: u16) -> TilePath {
        TilePath::hashes(level, index, width).unwrap()
    }

    #[test]
    fn logs_of_all_forms_verify_to_the_last_entry() {
        for size in (0..20).chain([255, 256, 257, 511, 512, 513, 700]) {
            let (result, seen) = Log::of(size).verify_from(0);
            let verified = result.unwrap();
            assert_eq!(verified.checkpoint.size(), size);
            assert_eq!((verified.first_entry, verified.entries), (0, size));
            assert!(seen.into_iter().eq(0..size));
        }
    }

    #[test]
    fn a_log_with_three_levels_of_tiles() {
        let log = Log::of(70_000);
        assert_eq!(log.files.len(), 551);
        let (result, seen) = log.verify_from(0);
        assert_eq!(result.unwrap().entries, 70_000);
        assert!(seen.into_iter().eq(0..70_000));

        let mut altered = log.clone();
        altered.edit("tile/entries/200", |entries| entries[7][0] ^= 1);
        assert_eq!(
            altered.fault(200 * 256 + 7),
            LogFault::EntryAltered {
                path: bundle(200, 256),
                index: 51_207
            }
        );
        let mut altered = log.clone();
        altered.file("tile/1/000")[0] ^= 1;
        assert_eq!(
            altered.fault(0),
            LogFault::TileAltered {
                path: tile(1, 0, 256)
            }
        );
        assert_eq!(
            altered.fault(0).to_string(),
            "tile/1/000, of entries 0 to 65535, is not the tile that was signed: it was altered"
        );
        let mut altered = log;
        altered.file("tile/0/272")[0] ^= 1;
        assert_eq!(
            altered.fault(272 * 256),
            LogFault::TileAltered {
                path: tile(0, 272, 256)
            }
        );
    }

    #[test]
    fn a_log_that_grew_and_dropped_the_partial_files_that_are_full_now() {
        let mut log = Log::of(300);
        log.files.extend(Log::of(600).files);
        for partial in ["tile/0/001.p/44", "tile/entries/001.p/44"] {
            log.files.remove(partial).unwrap();
        }
        assert_eq!(log.verify_from(0).0.unwrap().entries, 300);
    }

    #[test]
    fn an_entry_that_was_altered() {
        for index in [0, 255, 256, 400, 599] {
            let mut log = Log::of(600);
            let (number, offset) = (index / 256, (index % 256) as usize);
            let path = bundle(number, if number == 2 { 88 } else { 256 });
            log.edit(&path.to_string(), |entries| entries[offset][0] ^= 1);
            assert_eq!(log.fault(index), LogFault::EntryAltered { path, index });
        }
    }

    #[test]
    fn entries_that_were_exchanged() {
        let mut log = Log::of(600);
        log.edit("tile/entries/001", |entries| entries.swap(3, 9));
        assert_eq!(
            log.fault(259),
            LogFault::EntryMoved {
                path: bundle(1, 256),
                index: 259,
                belongs_at: 265
            }
        );
        // Across bundles it is another entry.
        let mut log = Log::of(600);
        let (first, second) = (
            log.file("tile/entries/000").clone(),
            log.file("tile/entries/001").clone(),
        );
        *log.file("tile/entries/000") = second;
        *log.file("tile/entries/001") = first;
        assert_eq!(
            log.fault(0),
            LogFault::EntryAltered {
                path: bundle(0, 256),
                index: 0
            }
        );
    }

    #[test]
    fn an_entry_that_was_taken_out() {
        let mut log = Log::of(600);
        log.edit("tile/entries/001", |entries| {
            entries.remove(9);
        });
        assert_eq!(
            log.fault(265),
            LogFault::EntryMoved {
                path: bundle(1, 256),
                index: 265,
                belongs_at: 266
            }
        );
        let mut log = Log::of(600);
        log.edit("tile/entries/002.p/88", |entries| {
            entries.pop();
        });
        assert_eq!(
            log.fault(599),
            LogFault::EntryMissing {
                path: bundle(2, 88),
                index: 599
            }
        );
    }

    #[test]
    fn an_entry_that_was_put_in() {
        let mut log = Log::of(600);
        log.edit("tile/entries/000", |entries| {
            entries.insert(5, b"new".to_vec());
        });
        assert_eq!(
            log.fault(5),
            LogFault::EntryAltered {
                path: bundle(0, 256),
                index: 5
            }
        );
        let mut log = Log::of(600);
        log.edit("tile/entries/002.p/88", |entries| entries.push(entry(600)));
        assert_eq!(
            log.fault(600),
            LogFault::SurplusEntries {
                path: bundle(2, 88)
            }
        );
        // Half an entry behind the last one is as much too much.
        let mut log = Log::of(600);
        log.file("tile/entries/002.p/88").push(0);
        assert!(matches!(log.fault(600), LogFault::SurplusEntries { .. }));
    }

    #[test]
    fn a_bundle_that_was_cut_within_an_entry() {
        let mut log = Log::of(600);
        log.file("tile/entries/002.p/88").pop();
        assert_eq!(
            log.fault(599),
            LogFault::Bundle {
                path: bundle(2, 88),
                index: 599,
                error: BundleError::Truncated { number: 87 }
            }
        );
    }

    #[test]
    fn files_that_were_deleted() {
        let whole = Log::of(600);
        for name in whole.files.keys() {
            let mut log = whole.clone();
            log.files.remove(name);
            let path: TilePath = name.parse().unwrap();
            // The right edge is read first, and what it vouches for in order.
            let handed_on = if path.is_partial() && path.kind() != TileKind::Entries {
                0
            } else {
                path.start_index()
            };
            assert_eq!(log.fault(handed_on), LogFault::FileMissing { path });
        }
    }

    #[test]
    fn a_tile_that_was_cut_or_extended() {
        for (name, length) in [
            ("tile/0/001", 8191),
            ("tile/0/001", 8224),
            ("tile/0/002.p/88", 2784),
            ("tile/1/000.p/2", 0),
        ] {
            let mut log = Log::of(600);
            log.file(name).resize(length, 0);
            let path: TilePath = name.parse().unwrap();
            let handed_on = if path.is_partial() { 0 } else { 256 };
            assert_eq!(log.fault(handed_on), LogFault::TileLength { path, length });
        }
    }

    #[test]
    fn a_tile_that_disagrees_with_its_entries() {
        // A full one: the signed root reaches the hash above it.
        let mut log = Log::of(600);
        log.file("tile/0/001")[40] ^= 1;
        assert_eq!(
            log.fault(256),
            LogFault::TileAltered {
                path: tile(0, 1, 256)
            }
        );
        // Those at the right edge: nothing says which side was altered, and nothing is handed on.
        let mut log = Log::of(600);
        log.file("tile/0/002.p/88")[40] ^= 1;
        assert_eq!(
            log.fault(0),
            LogFault::Contradiction {
                above: tile(0, 2, 88),
                below: bundle(2, 88),
                index: 513
            }
        );
        let mut log = Log::of(600);
        log.file("tile/1/000.p/2")[40] ^= 1;
        assert_eq!(
            log.fault(0),
            LogFault::Contradiction {
                above: tile(1, 0, 2),
                below: tile(0, 1, 256),
                index: 256
            }
        );
    }

    /// Everything is made anew from the altered entry on, as by an attacker who has the disk but not the key.
    #[test]
    fn a_tail_that_was_rewritten_throughout() {
        let whole = Log::of(600);
        for from in [599, 300, 0] {
            let mut log = Log::with((0..600).map(|number| {
                if number < from {
                    entry(number)
                } else {
                    format!("another {number}").into_bytes()
                }
            }));
            log.checkpoint.clone_from(&whole.checkpoint);
            let fault = log.fault(0);
            assert!(
                matches!(fault, LogFault::OtherRoot { size: 600, .. }),
                "{fault}"
            );
        }
    }

    #[test]
    fn a_tail_that_was_cut_off() {
        let whole = Log::of(600);
        // With the signed checkpoint in its place, the files are missing.
        let mut log = Log::of(590);
        log.checkpoint.clone_from(&whole.checkpoint);
        assert_eq!(
            log.fault(0),
            LogFault::FileMissing {
                path: tile(0, 2, 88)
            }
        );
        // Cut within its files, they are too short.
        let mut log = whole.clone();
        log.edit("tile/entries/002.p/88", |entries| entries.truncate(78));
        assert_eq!(
            log.fault(590),
            LogFault::EntryMissing {
                path: bundle(2, 88),
                index: 590
            }
        );
        // Set back to an older signed state, the log verifies, and only who kept the newer checkpoint knows.
        let older = Log::of(590).verify_from(0).0.unwrap().checkpoint;
        let newer = whole.verify_from(0).0.unwrap().checkpoint;
        let leaves: Vec<_> = (0..600).map(|number| leaf_hash(&entry(number))).collect();
        let proof = prove_consistency(590, 600, |path| {
            Ok::<_, Infallible>(twin::tile(&leaves, path))
        })
        .unwrap();
        newer.extends(&older, &proof).unwrap();
        assert_eq!(
            older.extends(&newer, &proof),
            Err(CheckpointError::Proof(ProofError::Shrank {
                older: 600,
                newer: 590
            }))
        );
    }

    #[test]
    fn a_checkpoint_that_was_altered_or_signed_by_another() {
        let mut log = Log::of(600);
        log.checkpoint = log.checkpoint.replace("\n600\n", "\n599\n");
        assert_eq!(
            log.fault(0),
            LogFault::Checkpoint(CheckpointError::Note(NoteError::Signature(
                ORIGIN.to_owned()
            )))
        );
        let mut log = Log::of(600);
        let text = log.verify_from(0).0.unwrap().checkpoint.to_string();
        let other = SignerKey::generate(ORIGIN).unwrap();
        log.checkpoint = sign_note(&text, &[&other]).unwrap();
        assert!(matches!(
            log.fault(0),
            LogFault::Checkpoint(CheckpointError::Note(NoteError::NoKnownKey { .. }))
        ));
    }

    #[test]
    fn entries_that_were_removed_for_their_age() {
        let whole = Log::of(70_000);
        for (minimum_index, first_entry) in [
            (0, 0),
            (255, 0),
            (256, 256),
            (300, 256),
            (65_536, 65_536),
            (69_999, 69_888),
            (70_000, 69_888),
        ] {
            let mut log = whole.clone();
            log.files.retain(|name, _| {
                let path: TilePath = name.parse().unwrap();
                path.is_partial() || path.end_index() > minimum_index
            });
            let (result, seen) = log.verify_from(minimum_index);
            let verified = result.unwrap();
            assert_eq!(verified.first_entry, first_entry);
            assert_eq!(verified.entries, 70_000 - first_entry);
            assert!(seen.into_iter().eq(first_entry..70_000));
            if first_entry > 0 {
                assert!(matches!(log.fault(0), LogFault::FileMissing { .. }));
            }
        }
        assert_eq!(
            Log::of(3).verify_from(4).0,
            Err(LogFault::MinimumIndex {
                minimum_index: 4,
                size: 3
            })
        );
    }

    #[test]
    fn a_file_that_cannot_be_read() {
        let log = Log::of(3);
        let result = verify_log(
            log.checkpoint.as_bytes(),
            &[signer().verifier().clone()],
            0,
            |_| Err("no permission"),
            |_, _| panic!("no entry was read"),
        );
        assert_eq!(
            result,
            Err(LogFault::Read {
                path: tile(0, 0, 3),
                error: "no permission"
            })
        );
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_file() {
        let whole = Log::of(259);
        for (name, bytes) in &whole.files {
            for at in (0..bytes.len()).step_by(if bytes.len() > 200 { 61 } else { 1 }) {
                let mut log = whole.clone();
                log.file(name)[at] ^= 1 << (at % 8);
                assert!(log.verify_from(0).0.is_err(), "{name}, byte {at}");
            }
        }
    }
}
