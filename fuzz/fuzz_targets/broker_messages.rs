//! What strangers send to a broker: the two bodies of the handshake, a path, a cookie, the headers that name a
//! request, a trace and a client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_broker::fuzz;

fuzz_target!(|bytes: &[u8]| {
    fuzz::auth_body(bytes);
    fuzz::attest_body(bytes);
    fuzz::cookie(bytes);
    fuzz::request_context(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        fuzz::resource_path(text);
    }
});
