//! What admins send to a broker: the bodies of `POST` policy and rehearse, the ids of policies, and whom to add with which
//! key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_broker::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::release_policy_body(bytes);
    fuzz::appraisal_policy_body(bytes);
    fuzz::rehearse_body(bytes);
    fuzz::admin_body(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        fuzz::policy_id(text);
        fuzz::policy_text(text);
    }
});
