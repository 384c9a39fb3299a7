//! Evidence of the `tdx` platform, as its attester's JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::tee::Tee;

fuzz_target!(|json: &[u8]| strongroom_fuzz::evidence(Tee::Tdx, json));
