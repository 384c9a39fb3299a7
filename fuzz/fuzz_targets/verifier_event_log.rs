//! Boot event logs: parsed, told as claims, and replayed to RTMRs and PCRs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_verifier::event_log::{DigestAlgorithm, EventLog};

fuzz_target!(|log: &[u8]| {
    let Ok(log) = EventLog::parse(log) else {
        return;
    };
    log.claims();
    log.rtmrs().ok();
    log.pcrs(DigestAlgorithm::Sha256).ok();
});
