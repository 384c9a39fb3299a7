//! A file that is sealed to a recipient.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| strongroom_cipherfile::fuzzing::sealed(bytes));
