//! Public areas, quotes and lists of registers as a TPM answers them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| strongroom_tpm::fuzzing::structures(bytes));
