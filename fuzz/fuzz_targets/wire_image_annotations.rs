//! The annotations of an encrypted layer: public options, packets, and what packets protect.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use strongroom_wire::image::key_provider::{WrapRequest, is_wrap, parse_unwrap, unwrapped};
use strongroom_wire::image::layer_cipher::MacCheck;
use strongroom_wire::image::ocicrypt::{PROVIDER, Packet, PrivateOptions, PublicOptions};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Packet::parse(bytes) {
        assert!(
            packet.unwrap_with(&[7; 32]).is_err(),
            "a packet opened that nobody wrapped"
        );
    }
    parse_unwrap(bytes).ok();
    is_wrap(bytes);
    WrapRequest::parse(bytes).ok();
    unwrapped(bytes);
    if let Ok(private) = PrivateOptions::parse(bytes) {
        let mut check = MacCheck::new(private);
        check.update(bytes);
        assert!(
            check.finish(&PublicOptions { hmac: [0; 32] }).is_err(),
            "a MAC of zeros passed"
        );
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        PublicOptions::parse(text).ok();
        Packet::of_layer(&BTreeMap::from([(PROVIDER.to_owned(), text.to_owned())])).ok();
    }
});
