//! A table of results with its manifest, as their owner opens them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    strongroom_scoring::fuzzing::table(bytes);
});
