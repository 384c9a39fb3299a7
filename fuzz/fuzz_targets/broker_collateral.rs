//! What the vendors' services answer, and what lies in a collateral folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_broker::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::collateral(bytes);
});
