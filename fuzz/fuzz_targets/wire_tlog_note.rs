//! A checkpoint in a signed note, and the keys that an admin gives for it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use strongroom_wire::tlog::{Checkpoint, SignerKey, UnverifiedNote, VerifierKey};

static KEY: LazyLock<[VerifierKey; 1]> = LazyLock::new(|| {
    let signer = SignerKey::generate("example.com/log").expect("randomness");
    [signer.verifier().clone()]
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(note) = UnverifiedNote::parse(bytes) {
        assert!(note.verify(&*KEY).is_err(), "a signature was forged");
    }
    Checkpoint::open(bytes, &*KEY).expect_err("a signature was forged");
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(checkpoint) = Checkpoint::parse_unverified(text) {
        assert_eq!(checkpoint.to_string(), text);
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text);
    }
    if let Ok(key) = SignerKey::parse(text) {
        assert_eq!(key.to_private_text().as_str(), text);
    }
});
