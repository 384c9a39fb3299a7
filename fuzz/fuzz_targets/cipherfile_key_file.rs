//! A key file of `openssl enc`, and what the head of a file says it is.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| strongroom_cipherfile::fuzzing::key_file(bytes));
