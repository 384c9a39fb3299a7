//! A layer's tar file, unpacked; nothing of it may land outside. And what a registry's challenge asks for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_guest::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::layer(bytes);
    fuzzing::challenge(bytes);
});
