//! What a broker answers, and what a pod's environment holds, as a guest's client reads it. The first
//! byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_client::fuzzing;

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    DECODERS[usize::from(which) % DECODERS.len()](bytes);
});

const DECODERS: &[fn(&[u8])] = &[
    fuzzing::challenge,
    fuzzing::token,
    fuzzing::resource,
    fuzzing::error_body,
    fuzzing::set_cookie,
    fuzzing::sealed_secret,
];
