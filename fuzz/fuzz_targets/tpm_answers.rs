//! A hostile TPM: whatever it answers to whatever it is asked.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| strongroom_tpm::fuzzing::answers(bytes));
