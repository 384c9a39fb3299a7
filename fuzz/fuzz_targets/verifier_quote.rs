//! DCAP quotes of TDX and SGX as their hardware gives them, without the JSON around them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_fuzz::raw_evidence;
use strongroom_wire::tee::Tee;

fuzz_target!(|quote: &[u8]| {
    raw_evidence(Tee::Tdx, quote);
    raw_evidence(Tee::Sgx, quote);
});
