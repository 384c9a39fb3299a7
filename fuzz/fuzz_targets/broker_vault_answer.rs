//! What a Vault answers: a secret, an error, a renewed token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_broker::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::vault_answer(bytes);
});
