//! The file of an upstream broker's `LocalJson` store, as an import reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_broker::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::local_json(bytes);
});
