//! A Parquet file from anywhere, read without a key and with one.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    strongroom_scoring::columns::fuzzing::parquet(bytes);
});
