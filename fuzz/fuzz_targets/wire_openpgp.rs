//! OpenPGP: keyrings, and signed messages under a keyring that is there and one that is not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::openpgp::{Keyring, Sha1};

fuzz_target!(|input: (&[u8], &[u8])| {
    let (keys, message) = input;
    let now = 1_748_736_000;
    if let Ok(ring) = Keyring::parse(keys) {
        ring.verify(message, now, Sha1::InsecureAccept).ok();
    }
    assert!(
        Keyring::default()
            .verify(message, now, Sha1::InsecureAccept)
            .is_err(),
        "a message verified by no key"
    );
});
