//! What an identity provider publishes (JWK sets, discovery documents), and the heads of tokens.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_broker::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::identity_provider(bytes);
});
