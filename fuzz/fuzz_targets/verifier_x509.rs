//! Certificates and revocation lists, as evidence and services send them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_verifier::fuzz;

fuzz_target!(|der: &[u8]| {
    fuzz::certificate(der);
    fuzz::revocation_list(der);
});
