//! Tiles (C2SP tlog-tiles): which there are for a tree, what they are called, and their bytes.

use std::fmt;
use std::str::FromStr;

use super::bundle::MAX_ENTRY;
use super::tree::{Hash, TILE_HEIGHT};

/// How many hashes a full tile has, and how many entries a full bundle.
pub const FULL_WIDTH: u16 = 256;

/// Where a log's checkpoint lies, beside its tiles.
pub const CHECKPOINT_PATH: &str = "checkpoint";

/// What a file of a log holds.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TileKind {
    /// Hashes of the tree.
    Hashes {
        /// 0 for leaf hashes; above, each hash is the root of a full tile one level below.
        level: u8,
    },
    /// The entries themselves: an entry bundle.
    Entries,
}

/// The name of a tile or an entry bundle: `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TilePath {
    kind: TileKind,
    index: u64,
    width: u16,
}

impl TilePath {
    /// Names a tile of hashes.
    ///
    /// # Errors
    /// [`TileError`] when the level is above 63 or the width is none of 1 to 256.
    pub fn hashes(level: u8, index: u64, width: u16) -> Result<Self, TileError> {
        if level > MAX_LEVEL {
            return Err(TileError::Level(level));
        }
        Self::new(TileKind::Hashes { level }, index, width)
    }

    /// Names an entry bundle.
    ///
    /// # Errors
    /// [`TileError::Width`] when the width is none of 1 to 256.
    pub fn entries(index: u64, width: u16) -> Result<Self, TileError> {
        Self::new(TileKind::Entries, index, width)
    }

    fn new(kind: TileKind, index: u64, width: u16) -> Result<Self, TileError> {
        if (1..=FULL_WIDTH).contains(&width) {
            Ok(Self { kind, index, width })
        } else {
            Err(TileError::Width(width))
        }
    }

    /// Names a tile whose level and width the caller took from a tree.
    pub(super) fn of_tree(kind: TileKind, index: u64, width: u16) -> Self {
        debug_assert!((1..=FULL_WIDTH).contains(&width));
        Self { kind, index, width }
    }

    /// What it holds.
    pub fn kind(&self) -> TileKind {
        self.kind
    }

    /// Its number among those of its kind.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes or entries it holds.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether it holds fewer than a full one.
    pub fn is_partial(&self) -> bool {
        self.width < FULL_WIDTH
    }

    /// The full tile of the same place, which a log may keep instead of its partial ones.
    #[must_use]
    pub fn to_full(&self) -> Self {
        Self {
            width: FULL_WIDTH,
            ..*self
        }
    }

    /// The first entry that it stands for.
    pub fn start_index(&self) -> u64 {
        self.index.saturating_mul(self.span())
    }

    /// The first entry behind those that the full tile of this place stands for.
    pub fn end_index(&self) -> u64 {
        self.start_index().saturating_add(self.span())
    }

    /// The most bytes that its file can have: what a reader caps its buffer at.
    pub fn max_bytes(&self) -> usize {
        usize::from(self.width)
            * match self.kind {
                TileKind::Hashes { .. } => Hash::BYTES,
                TileKind::Entries => 2 + MAX_ENTRY,
            }
    }

    fn span(&self) -> u64 {
        let level = match self.kind {
            TileKind::Hashes { level } => level,
            TileKind::Entries => 0,
        };
        u64::from(FULL_WIDTH).saturating_pow(u32::from(level) + 1)
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Hashes { level } => write!(f, "tile/{level}")?,
            TileKind::Entries => f.write_str("tile/entries")?,
        }
        let mut groups = Vec::with_capacity(MAX_GROUPS);
        let mut rest = self.index;
        loop {
            groups.push(rest % 1000);
            rest /= 1000;
            if rest == 0 {
                break;
            }
        }
        for (number, group) in groups.iter().enumerate().rev() {
            let mark = if number == 0 { "" } else { "x" };
            write!(f, "/{mark}{group:03}")?;
        }
        if self.is_partial() {
            write!(f, ".p/{}", self.width)?;
        }
        Ok(())
    }
}

impl FromStr for TilePath {
    type Err = TileError;

    fn from_str(text: &str) -> Result<Self, TileError> {
        if text.len() > MAX_PATH {
            return Err(TileError::Path);
        }
        parse_path(text)
            // Signs, leading zeros and empty groups all print otherwise than they were written.
            .filter(|path| path.to_string() == text)
            .ok_or(TileError::Path)
    }
}

fn parse_path(text: &str) -> Option<TilePath> {
    let (kind, rest) = text.strip_prefix("tile/")?.split_once('/')?;
    let (index, width) = match rest.split_once(".p/") {
        Some((index, width)) => (index, width.parse().ok()?),
        None => (rest, FULL_WIDTH),
    };
    let index = index.split('/').try_fold(0_u64, |index, group| {
        let group: u64 = group.strip_prefix('x').unwrap_or(group).parse().ok()?;
        index.checked_mul(1000)?.checked_add(group)
    })?;
    if kind == "entries" {
        TilePath::entries(index, width).ok()
    } else {
        TilePath::hashes(kind.parse().ok()?, index, width).ok()
    }
}

/// The tiles and bundles of a tree of size `newer` that a tree of size `older` does not have in the same form: what a
/// writer stores before it signs a checkpoint of the larger tree. From 0, all that a tree has. Bundles come first,
/// then hashes from the leaves up, each from left to right.
pub fn tiles_added(older: u64, newer: u64) -> impl Iterator<Item = TilePath> {
    let of_kind = move |kind, level: u8| {
        let (older, newer) = (hashes_at(level, older), hashes_at(level, newer));
        let width = u64::from(FULL_WIDTH);
        let first = if older < newer {
            older / width
        } else {
            newer.div_ceil(width)
        };
        (first..newer.div_ceil(width)).map(move |index| {
            TilePath::of_tree(kind, index, width_of(newer.saturating_sub(index * width)))
        })
    };
    of_kind(TileKind::Entries, 0)
        .chain((0..LEVELS).flat_map(move |level| of_kind(TileKind::Hashes { level }, level)))
}

/// How many hashes a level has in a tree of this size.
pub(super) fn hashes_at(level: u8, size: u64) -> u64 {
    size.checked_shr(u32::from(TILE_HEIGHT) * u32::from(level))
        .unwrap_or(0)
}

/// The width of a tile when so many hashes are left from its first one on.
pub(super) fn width_of(left: u64) -> u16 {
    u16::try_from(left).map_or(FULL_WIDTH, |left| left.min(FULL_WIDTH))
}

/// The bytes of a tile.
pub fn tile_to_bytes(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(Hash::as_bytes).copied().collect()
}

/// Parses a tile's bytes.
///
/// # Errors
/// [`TileError::Length`] when they are not 1 to 256 hashes.
pub fn tile_from_bytes(bytes: &[u8]) -> Result<Vec<Hash>, TileError> {
    let (hashes, rest) = bytes.as_chunks();
    if hashes.is_empty() || hashes.len() > usize::from(FULL_WIDTH) || !rest.is_empty() {
        return Err(TileError::Length(bytes.len()));
    }
    Ok(hashes.iter().copied().map(Hash::from_bytes).collect())
}

/// Why something is not a tile.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TileError {
    /// No tree is so high.
    #[error("a tile of level {0}: the highest is {MAX_LEVEL}")]
    Level(u8),
    /// A tile holds something, and no more than a full one.
    #[error("a tile of width {0}: it is 1 to {FULL_WIDTH}")]
    Width(u16),
    /// The path is written otherwise than the format writes it.
    #[error(
        "not the path of a tile: it is tile/<level>/<index> or tile/entries/<index>, with .p/<width> when partial"
    )]
    Path,
    /// The bytes are not whole hashes, or too many.
    #[error("{0} bytes are not a tile: it is 1 to {FULL_WIDTH} hashes of 32 bytes")]
    Length(usize),
}

/// The highest level that a path can name.
const MAX_LEVEL: u8 = 63;
/// The levels that trees of up to [`super::MAX_TREE_SIZE`] entries have.
pub(super) const LEVELS: u8 = 8;
/// 2^64 has 20 digits, which is seven groups of three.
const MAX_GROUPS: usize = 7;
/// `tile/entries`, seven groups of up to five characters, `.p/255`, and some more.
const MAX_PATH: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_specification() {
        for (path, text) in [
            (TilePath::hashes(0, 1_234_067, 256), "tile/0/x001/x234/067"),
            (
                TilePath::entries(1_234_067, 8),
                "tile/entries/x001/x234/067.p/8",
            ),
            (TilePath::hashes(0, 0, 256), "tile/0/000"),
            (TilePath::hashes(63, 999, 255), "tile/63/999.p/255"),
            (TilePath::hashes(1, 1000, 1), "tile/1/x001/000.p/1"),
            (
                TilePath::entries(u64::MAX, 256),
                "tile/entries/x018/x446/x744/x073/x709/x551/615",
            ),
        ] {
            assert_eq!(path.clone().unwrap().to_string(), text);
            assert_eq!(text.parse(), path, "{text}");
        }
    }

    #[test]
    fn a_path_that_the_format_writes_otherwise() {
        for text in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/1000",
            "tile/0/x000/001",
            "tile/0/x001",
            "tile/0/001/002",
            "tile/0/x01/002",
            "tile/0/+01",
            "tile/00/001",
            "tile/+0/001",
            "tile/64/001",
            "tile/256/001",
            "tile/-1/001",
            "tile/0/001.p/0",
            "tile/0/001.p/256",
            "tile/0/001.p/007",
            "tile/0/001.p/",
            "tile/0/001.p",
            "tile/0/001.p/1/",
            "tile/0/001.p/1.p/1",
            "tile/data/001",
            "tile/entries/001\n",
            "/tile/0/001",
            "tile/0/../0/001",
            "tile/entries/x018/x446/x744/x073/x709/x551/616",
            "tile/entries/x001/x000/x000/x000/x000/x000/x000/000",
            "tile/0/xx01",
            "tile/0/\u{664}01",
        ] {
            assert_eq!(text.parse::<TilePath>(), Err(TileError::Path), "{text}");
        }
        let long = format!("tile/entries/{}", "x000/".repeat(1000));
        assert_eq!(long.parse::<TilePath>(), Err(TileError::Path));
    }

    #[test]
    fn widths_and_levels_that_no_tile_has() {
        assert_eq!(TilePath::hashes(0, 0, 0), Err(TileError::Width(0)));
        assert_eq!(TilePath::entries(0, 257), Err(TileError::Width(257)));
        assert_eq!(TilePath::hashes(64, 0, 1), Err(TileError::Level(64)));
    }

    #[test]
    fn tiles_of_the_specifications_trees() {
        let tiles: Vec<_> = tiles_added(0, 70_000).collect();
        let of = |kind, partial| {
            tiles
                .iter()
                .filter(|tile| tile.kind() == kind && tile.is_partial() == partial)
                .collect::<Vec<_>>()
        };
        for kind in [TileKind::Entries, TileKind::Hashes { level: 0 }] {
            assert_eq!(of(kind, false).len(), 273);
            assert_eq!(of(kind, true)[0].width(), 112);
        }
        let level = |level| TileKind::Hashes { level };
        assert_eq!(of(level(1), false).len(), 1);
        assert_eq!(of(level(1), true)[0].width(), 17);
        assert_eq!(of(level(2), true)[0].width(), 1);
        assert_eq!(tiles.len(), 2 * 274 + 2 + 1);

        let small: Vec<_> = tiles_added(0, 256).map(|tile| tile.to_string()).collect();
        assert_eq!(small, ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]);
        assert_eq!(tiles_added(0, 0).count(), 0);
    }

    #[test]
    fn a_writer_stores_only_what_grew() {
        let added = |older, newer| {
            tiles_added(older, newer)
                .map(|tile| tile.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            added(255, 257),
            [
                "tile/entries/000",
                "tile/entries/001.p/1",
                "tile/0/000",
                "tile/0/001.p/1",
                "tile/1/000.p/1"
            ]
        );
        assert_eq!(added(257, 258), ["tile/entries/001.p/2", "tile/0/001.p/2"]);
        assert_eq!(added(256, 257), ["tile/entries/001.p/1", "tile/0/001.p/1"]);
        assert!(added(300, 300).is_empty());
        assert!(added(300, 10).is_empty());
        assert!(added(600, 256).is_empty());
    }

    #[test]
    fn a_tree_of_the_largest_size_has_levels_enough() {
        assert!(hashes_at(LEVELS - 1, super::super::MAX_TREE_SIZE) > 0);
        assert_eq!(hashes_at(LEVELS, u64::MAX), 0);
        assert_eq!(hashes_at(MAX_LEVEL, u64::MAX), 0);
    }

    #[test]
    fn what_a_tile_stands_for() {
        let tile = TilePath::hashes(1, 2, 3).unwrap();
        assert_eq!((tile.start_index(), tile.end_index()), (131_072, 196_608));
        let bundle = TilePath::entries(2, 3).unwrap();
        assert_eq!((bundle.start_index(), bundle.end_index()), (512, 768));
        let far = TilePath::hashes(63, u64::MAX, 1).unwrap();
        assert_eq!(far.end_index(), u64::MAX);
        assert_eq!(tile.max_bytes(), 96);
        assert_eq!(bundle.max_bytes(), 3 * 65_537);
    }

    #[test]
    fn bytes_that_are_not_whole_hashes() {
        for length in [0, 1, 31, 33, 8191, 8193, 8224] {
            assert_eq!(
                tile_from_bytes(&vec![7; length]),
                Err(TileError::Length(length))
            );
        }
        for length in [32, 64, 8192] {
            let bytes = vec![7; length];
            assert_eq!(tile_to_bytes(&tile_from_bytes(&bytes).unwrap()), bytes);
        }
    }
}
