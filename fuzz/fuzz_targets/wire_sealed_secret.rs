//! A sealed secret from a pod's environment, the keys that check it, the payload behind the signature,
//! and the envelope in it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use strongroom_wire::envelope::{CounterMode, Envelope};
use strongroom_wire::sealed_secret::{
    Content, SealedSecret, SigningJwk, UnverifiedSealedSecret, VerifyingJwk, is_sealed,
};

static KEY: LazyLock<VerifyingJwk> = LazyLock::new(|| {
    let signing = SigningJwk::generate().expect("randomness");
    VerifyingJwk::from_json(signing.public_json("kid").as_bytes()).expect("our own key")
});

fuzz_target!(|bytes: &[u8]| {
    is_sealed(bytes);
    if let Ok(secret) = SealedSecret::from_json(bytes)
        && let Content::Envelope(envelope) = secret.content
    {
        Envelope::parse(&envelope, CounterMode::Refuse).ok();
        if let Ok(envelope) = Envelope::parse(&envelope, CounterMode::InsecureAllow) {
            envelope.open(&[7; 32]).ok();
        }
    }
    VerifyingJwk::from_json(bytes).ok();
    SigningJwk::from_json(bytes).ok();
    let text = std::str::from_utf8(bytes);
    if let Ok(text) = text {
        SealedSecret::insecure_parse_unverified(text).ok();
    }
    if let Ok(text) = text
        && let Ok(secret) = UnverifiedSealedSecret::parse(text)
    {
        secret.kid();
        assert!(secret.verify(&KEY).is_err(), "a signature was forged");
    }
});
