//! A sealed secret from a pod's environment, the keys that check it, and the payload behind the
//! signature.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use strongroom_wire::sealed_secret::{
    SealedSecret, SigningJwk, UnverifiedSealedSecret, VerifyingJwk, is_sealed,
};

static KEY: LazyLock<VerifyingJwk> = LazyLock::new(|| {
    let signing = SigningJwk::generate().expect("randomness");
    VerifyingJwk::from_json(signing.public_json("kid").as_bytes()).expect("our own key")
});

fuzz_target!(|bytes: &[u8]| {
    is_sealed(bytes);
    SealedSecret::from_json(bytes).ok();
    VerifyingJwk::from_json(bytes).ok();
    SigningJwk::from_json(bytes).ok();
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(secret) = UnverifiedSealedSecret::parse(text)
    {
        secret.kid();
        assert!(secret.verify(&KEY).is_err(), "a signature was forged");
    }
});
