//! One entry point per decoder of untrusted bytes, for fuzz targets. None may panic, whatever the bytes.

use std::sync::LazyLock;

use strongroom_wire::jwe::{DecryptionKey, Jwe, KeyAlgorithm};
use strongroom_wire::kbs::{AttestResponse, Challenge};
use strongroom_wire::sealed_secret::SigningJwk;
use strongroom_wire::tee::Tee;
use zeroize::Zeroizing;

use crate::error::refusal;
use crate::handshake::{Handshake, Token, session_cookie};
use crate::seal::{CounterMode, SecretWanted, SigningKeyWanted};

/// The answer to `/auth`, up to the report data that it asks for.
pub fn challenge(data: &[u8]) {
    let Ok(challenge) = serde_json::from_slice::<Challenge>(data) else {
        return;
    };
    if let Ok(key) = DecryptionKey::generate(KeyAlgorithm::EcdhP256)
        && let Ok(challenged) = Handshake::new(Tee::Sample, key).0.on_challenge(challenge)
    {
        assert!(matches!(challenged.report_data("").len(), 32 | 48 | 64));
    }
}

/// The answer to `/attest`, as JSON and as the bare token.
pub fn token(data: &[u8]) {
    if let Ok(response) = serde_json::from_slice::<AttestResponse>(data) {
        drop(Token::parse(response.token));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        drop(Token::parse(text.to_owned()));
    }
}

/// The answer to a request for a resource.
///
/// # Panics
/// When something opened that was not encrypted to the key.
pub fn resource(data: &[u8]) {
    static KEY: LazyLock<Option<DecryptionKey>> =
        LazyLock::new(|| DecryptionKey::generate(KeyAlgorithm::EcdhP256).ok());
    if let (Ok(jwe), Some(key)) = (serde_json::from_slice::<Jwe>(data), KEY.as_ref()) {
        assert!(key.decrypt(&jwe).is_err(), "an answer for nobody opened");
    }
}

/// The body of an error, under each status that is told apart.
///
/// # Panics
/// When a control character gets through.
pub fn error_body(data: &[u8]) {
    for status in [400, 401, 403, 404, 413, 429, 500, 503] {
        if let Some(refusal) = refusal(status, data) {
            assert!(!refusal.detail.chars().any(char::is_control));
        }
    }
}

/// A `Set-Cookie` header.
///
/// # Panics
/// When what comes out would end a header.
pub fn set_cookie(data: &[u8]) {
    if let Some(cookie) = session_cookie([data]) {
        assert!(cookie.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

/// A sealed secret, and the key to verify it with.
///
/// # Panics
/// When a text verified that nobody signed.
pub fn sealed_secret(data: &[u8]) {
    static JWK: LazyLock<Option<String>> = LazyLock::new(|| {
        SigningJwk::generate()
            .ok()
            .map(|key| key.public_json("fuzz"))
    });
    let wanted = || SigningKeyWanted::parse(std::str::from_utf8(data).ok()?).ok();
    if let (Some(wanted), Some(jwk)) = (wanted(), JWK.as_ref()) {
        assert!(
            wanted
                .on_signing_key(jwk.as_bytes(), CounterMode::InsecureAllow)
                .is_err(),
            "an unsigned secret verified"
        );
    }
    if let Some(wanted) = wanted() {
        drop(wanted.on_signing_key(data, CounterMode::InsecureAllow));
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(wanted) =
            SecretWanted::insecure_parse_unverified(text, CounterMode::InsecureAllow)
    {
        drop(wanted.on_resource(Zeroizing::new(vec![7; 32])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_take_anything() {
        let samples: [&[u8]; 6] = [
            b"",
            b"{}",
            b"\xff",
            b"sealed.e30.e30.e30",
            b"kbs-session-id=a",
            b"e30.eyJleHAiOjF9.c2ln",
        ];
        for sample in samples {
            for entry in [
                challenge,
                token,
                resource,
                error_body,
                set_cookie,
                sealed_secret,
            ] {
                entry(sample);
            }
        }
    }
}
