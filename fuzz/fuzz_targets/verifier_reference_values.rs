//! Reference values as an administrator's tool sends them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_verifier::{ReferenceValues, Signers};

fuzz_target!(|bytes: &[u8]| {
    ReferenceValues::parse_message(bytes, 1_800_000_000, &Signers::none()).ok();
});
