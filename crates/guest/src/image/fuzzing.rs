//! What the crate's `fuzzing` reaches of this module.

use super::registry::parameters;
use super::unpack::{Devices, Limits, Unpacker};

/// Unpacks a tar file beside a folder that must stay as it is.
pub(crate) fn layer(data: &[u8]) {
    let Ok(place) = tempfile::tempdir() else {
        return;
    };
    let (root, outside) = (place.path().join("root"), place.path().join("outside"));
    if std::fs::create_dir(&root).is_err() || std::fs::write(&outside, "untouched").is_err() {
        return;
    }
    let limits = Limits {
        bytes: 1024 * 1024,
        entries: 200,
    };
    if let Ok(mut unpacker) = Unpacker::new(&root, limits, Devices::Refuse) {
        drop(unpacker.apply(data));
        drop(unpacker.finish());
    }
    let names = std::fs::read_dir(place.path()).map_or(0, Iterator::count);
    assert_eq!(names, 2, "a layer made something outside its folder");
    assert!(
        std::fs::read(&outside).is_ok_and(|content| content == b"untouched"),
        "a layer changed something outside its folder"
    );
}

/// Reads a challenge.
pub(crate) fn challenge(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        for scheme in ["bearer", "basic"] {
            drop(parameters(text, scheme));
        }
    }
}
