//! What strangers send to the attestation service, up to where evidence is parsed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_broker::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::attestation_service_body(bytes);
    fuzz::challenge_body(bytes);
});
