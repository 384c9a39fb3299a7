//! A model of others. One that is accepted scores some rows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_scoring::fuzzing::onnx;

fuzz_target!(|bytes: &[u8]| onnx(bytes));
