//! The path of a tile, and the tiles between two sizes of a tree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::tlog::{TilePath, tiles_added};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(path) = text.parse::<TilePath>()
    {
        assert_eq!(path.to_string(), text);
        assert!(path.start_index() <= path.end_index());
        assert!(path.max_bytes() > 0);
    }
    if let Some((older, rest)) = bytes.split_first_chunk()
        && let Some(newer) = rest.first_chunk()
    {
        let (older, newer) = (u64::from_le_bytes(*older), u64::from_le_bytes(*newer));
        for path in tiles_added(older, newer).take(1000) {
            assert_eq!(path.to_string().parse(), Ok(path));
            assert!(path.start_index() < newer);
        }
    }
});
