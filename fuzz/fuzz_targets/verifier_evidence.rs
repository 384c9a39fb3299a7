//! Composite evidence: sample, with a map of devices.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_verifier::Evidence;
use strongroom_wire::tee::Tee;

fuzz_target!(|input: (&[u8], &str)| {
    let (json, additional) = input;
    for tee in Tee::ALL {
        Evidence::parse_composite(tee, json, additional).ok();
    }
    strongroom_fuzz::evidence(Tee::Sample, json);
    strongroom_fuzz::evidence(Tee::Sampledevice, json);
});
