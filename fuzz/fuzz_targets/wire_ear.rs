//! An attestation token, before and after its signature is looked at.
#![no_main]

use jsonwebtoken::DecodingKey;
use libfuzzer_sys::fuzz_target;
use strongroom_wire::ear::{EarClaims, UnverifiedEar, insecure_expiry};

fuzz_target!(|text: &str| {
    insecure_expiry(text).ok();
    if let Ok(token) = UnverifiedEar::parse(text) {
        token.kid();
        if let Some(key) = token
            .unverified_jwk()
            .and_then(|jwk| DecodingKey::from_jwk(jwk).ok())
        {
            token.verify(&key, 1_800_000_000).ok();
        }
    }
    if let Ok(claims) = serde_json::from_str::<EarClaims>(text) {
        for submod in claims.submods.values() {
            submod.trust_vector.status();
        }
    }
});
