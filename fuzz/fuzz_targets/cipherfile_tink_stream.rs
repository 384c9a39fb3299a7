//! A file in Tink's streaming form.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| strongroom_cipherfile::fuzzing::tink_stream(bytes));
