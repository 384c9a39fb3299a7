//! A file or a stream of Arrow's IPC format from anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    strongroom_scoring::columns::fuzzing::arrow(bytes);
});
