//! The body of a file made by `openssl enc`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| strongroom_cipherfile::fuzzing::openssl_enc(bytes));
