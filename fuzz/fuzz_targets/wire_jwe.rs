//! A JWE from a broker, opened with a fixed key; and one made for a key that a guest sent.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use strongroom_wire::jwe::{DecryptionKey, Jwe, encrypt};
use strongroom_wire::jwk::TeePublicKey;

static KEY: LazyLock<DecryptionKey> =
    LazyLock::new(|| DecryptionKey::from_p256_scalar(&[7; 32]).expect("a scalar of the curve"));

fuzz_target!(|bytes: &[u8]| {
    if let Ok(jwe) = serde_json::from_slice::<Jwe>(bytes) {
        jwe.unverified_header().ok();
        KEY.decrypt(&jwe).ok();
    }
    if let Ok(recipient) = serde_json::from_slice::<TeePublicKey>(bytes) {
        recipient.thumbprint();
        encrypt(&recipient, b"plaintext").ok();
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        DecryptionKey::from_pkcs8_pem(text).ok();
    }
});
