//! A ttRPC frame of a client's: header, call, request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_guest::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::ttrpc(bytes));
