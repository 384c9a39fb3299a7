//! Evidence of Azure's confidential VMs, as JSON: SNP inside, then TDX inside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::tee::Tee;

fuzz_target!(|json: &[u8]| {
    strongroom_fuzz::evidence(Tee::AzSnpVtpm, json);
    strongroom_fuzz::evidence(Tee::AzTdxVtpm, json);
});
