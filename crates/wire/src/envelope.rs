//! Envelope sealed secrets whose key a broker holds: the secret under a fresh data key, the data key under a wrapping
//! key of 32 bytes that is a resource of the broker.
//!
//! Upstream has envelopes for cloud key services only; provider `kbs` is this project's. Members and encodings are
//! upstream's: `encrypted_data` is AES-256-GCM without associated data, ciphertext ‖ tag, under `iv` of 12 bytes. The
//! data key in `encrypted_key` is wrapped by AES key wrap (RFC 3394), which has its own integrity check. `A256CTR` has
//! none: it is read only when asked for by name, and never written.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::b64;
use crate::sealed_secret::{Content, EnvelopeSecret, SealedSecret, SealedSecretError};

/// Whether data without an integrity check may be opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum CounterMode {
    /// `A256CTR` is refused.
    #[default]
    Refuse,
    /// `A256CTR` is opened, although nothing but the sealed secret's signature shows whether it was changed.
    InsecureAllow,
}

/// Puts a secret into an envelope under the broker's key `key_uri`, whose 32 bytes are `wrapping_key`.
///
/// # Errors
/// [`SealedSecretError::WrappingKey`] when the key has another length; [`SealedSecretError::Crypto`] when the system
/// has no randomness.
pub fn seal_envelope(
    key_uri: &str,
    wrapping_key: &[u8],
    plaintext: &[u8],
) -> Result<SealedSecret, SealedSecretError> {
    let crypto = |_| SealedSecretError::Crypto;
    let kek = kek(wrapping_key)?;
    let mut data_key = Zeroizing::new([0u8; KEY_LEN]);
    let mut iv = [0u8; NONCE_LEN];
    rand::fill(data_key.as_mut()).map_err(crypto)?;
    rand::fill(&mut iv).map_err(crypto)?;
    let mut wrapped = [0u8; WRAPPED_KEY_LEN];
    kek.wrap(data_key.as_ref(), &mut wrapped).map_err(crypto)?;
    let mut data = Vec::with_capacity(plaintext.len().saturating_add(MAX_TAG_LEN));
    data.extend_from_slice(plaintext);
    gcm(data_key.as_ref())?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(iv), Aad::empty(), &mut data)
        .map_err(crypto)?;
    Ok(SealedSecret::new(Content::Envelope(EnvelopeSecret {
        key_id: key_uri.to_owned(),
        encrypted_key: b64::std_encode(wrapped),
        encrypted_data: b64::std_encode(data),
        wrap_type: A256GCM.to_owned(),
        iv: b64::std_encode(iv),
        provider: "kbs".to_owned(),
        provider_settings: BTreeMap::new(),
        annotations: BTreeMap::new(),
    })))
}

/// An envelope of provider `kbs`, read as far as is possible without its wrapping key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Envelope {
    wrapped_key: [u8; WRAPPED_KEY_LEN],
    data: Vec<u8>,
    cipher: Cipher,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cipher {
    Gcm([u8; NONCE_LEN]),
    Ctr([u8; CTR_IV_LEN]),
}

impl Envelope {
    /// Reads the members. Never-panic entry for untrusted envelopes.
    ///
    /// # Errors
    /// [`SealedSecretError::Envelope`] naming the member that is wrong; [`SealedSecretError::CounterMode`] for
    /// `A256CTR` where it is not allowed.
    pub fn parse(secret: &EnvelopeSecret, counter: CounterMode) -> Result<Self, SealedSecretError> {
        let wrong = SealedSecretError::Envelope;
        // A setting that would change the form and is not known must not be overlooked.
        if !secret.provider_settings.is_empty() {
            return Err(wrong("provider \"kbs\" has no provider_settings"));
        }
        let decoded = |text: &str, what| b64::std_decode(text).map_err(|_| wrong(what));
        let wrapped_key = decoded(&secret.encrypted_key, "encrypted_key is not base64")?
            .try_into()
            .map_err(|_| {
                wrong("encrypted_key is not a key of 32 bytes, wrapped by AES key wrap (40 bytes)")
            })?;
        let data = decoded(&secret.encrypted_data, "encrypted_data is not base64")?;
        let iv = decoded(&secret.iv, "iv is not base64")?;
        let cipher = match secret.wrap_type.as_str() {
            A256GCM => Cipher::Gcm(
                iv.try_into()
                    .map_err(|_| wrong("iv does not have the 12 bytes of A256GCM"))?,
            ),
            A256CTR if counter == CounterMode::Refuse => {
                return Err(SealedSecretError::CounterMode);
            }
            A256CTR => Cipher::Ctr(
                iv.try_into()
                    .map_err(|_| wrong("iv does not have the 16 bytes of A256CTR"))?,
            ),
            _ => return Err(wrong("wrap_type is neither A256GCM nor A256CTR")),
        };
        if matches!(cipher, Cipher::Gcm(_)) && data.len() < MAX_TAG_LEN {
            return Err(wrong("encrypted_data is shorter than the tag of A256GCM"));
        }
        Ok(Self {
            wrapped_key,
            data,
            cipher,
        })
    }

    /// Opens the envelope with the wrapping key.
    ///
    /// # Errors
    /// [`SealedSecretError::WrappingKey`] when the key does not have 32 bytes; [`SealedSecretError::Unwrap`] when it
    /// is another key than the envelope was made with, or something was changed.
    pub fn open(mut self, wrapping_key: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealedSecretError> {
        let kek = kek(wrapping_key)?;
        // The unwrapping writes its check value, too.
        let mut unwrapped = Zeroizing::new([0u8; WRAPPED_KEY_LEN]);
        let data_key = kek
            .unwrap(&self.wrapped_key, unwrapped.as_mut())
            .map_err(|_| SealedSecretError::Unwrap)?;
        let mut data = Zeroizing::new(std::mem::take(&mut self.data));
        match self.cipher {
            Cipher::Gcm(iv) => {
                let length = gcm(data_key)?
                    .open_in_place(
                        Nonce::assume_unique_for_key(iv),
                        Aad::empty(),
                        data.as_mut_slice(),
                    )
                    .map_err(|_| SealedSecretError::Unwrap)?
                    .len();
                data.truncate(length);
            }
            Cipher::Ctr(iv) => {
                let key = UnboundCipherKey::new(&cipher::AES_256, data_key)
                    .and_then(DecryptingKey::ctr)
                    .map_err(|_| SealedSecretError::Crypto)?;
                key.decrypt(
                    data.as_mut_slice(),
                    DecryptionContext::Iv128(FixedLength::from(iv)),
                )
                .map_err(|_| SealedSecretError::Unwrap)?;
            }
        }
        Ok(data)
    }
}

fn kek(wrapping_key: &[u8]) -> Result<AesKek, SealedSecretError> {
    if wrapping_key.len() != KEY_LEN {
        return Err(SealedSecretError::WrappingKey(wrapping_key.len()));
    }
    AesKek::new(&AES_256, wrapping_key).map_err(|_| SealedSecretError::Crypto)
}

fn gcm(key: &[u8]) -> Result<LessSafeKey, SealedSecretError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| SealedSecretError::Crypto)
}

const KEY_LEN: usize = 32;
const WRAPPED_KEY_LEN: usize = KEY_LEN + 8;
const CTR_IV_LEN: usize = 16;
const A256GCM: &str = "A256GCM";
const A256CTR: &str = "A256CTR";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const URI: &str = "kbs:///default/envelope-keys/one";
    const KEK: [u8; 32] = [7; 32];

    fn envelope() -> EnvelopeSecret {
        match seal_envelope(URI, &KEK, b"plain \xff text")
            .unwrap()
            .content
        {
            Content::Envelope(envelope) => envelope,
            Content::Vault(_) => panic!("an envelope was asked for"),
        }
    }

    fn opened(secret: &EnvelopeSecret, key: &[u8]) -> Result<Vec<u8>, SealedSecretError> {
        let envelope = Envelope::parse(secret, CounterMode::Refuse)?;
        envelope.open(key).map(|plaintext| plaintext.to_vec())
    }

    fn changed(text: &str, at: usize) -> String {
        let mut bytes = b64::std_decode(text).unwrap();
        bytes[at] ^= 1;
        b64::std_encode(bytes)
    }

    #[test]
    fn sealed_bytes_come_back_whatever_they_are() {
        let secret = envelope();
        assert_eq!(
            (secret.key_id.as_str(), secret.provider.as_str()),
            (URI, "kbs")
        );
        assert_eq!(opened(&secret, &KEK).unwrap(), b"plain \xff text");
        for plaintext in [&b""[..], &[0; 100_000]] {
            let Content::Envelope(secret) = seal_envelope(URI, &KEK, plaintext).unwrap().content
            else {
                panic!("an envelope was asked for");
            };
            assert_eq!(opened(&secret, &KEK).unwrap(), plaintext);
        }
    }

    #[test]
    fn key_wrap_is_that_of_rfc_3394() {
        // RFC 3394, 4.6: 256 bits of key data with a 256-bit KEK.
        let kek = hex("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F");
        let key = hex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F");
        let wrapped =
            hex("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21");
        let mut data = b"known".to_vec();
        gcm(&key)
            .unwrap()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key([9; NONCE_LEN]),
                Aad::empty(),
                &mut data,
            )
            .unwrap();
        let mut secret = envelope();
        secret.encrypted_key = b64::std_encode(wrapped);
        secret.iv = b64::std_encode([9; NONCE_LEN]);
        secret.encrypted_data = b64::std_encode(data);
        assert_eq!(opened(&secret, &kek).unwrap(), b"known");
    }

    #[test]
    fn envelope_of_another_library_is_not_opened() {
        // Made with Python's `cryptography` under KEK; the fuzzer starts from them, too.
        for (json, counter) in [
            (
                &include_bytes!("../../../fuzz/seeds/wire_sealed_secret/envelope")[..],
                CounterMode::Refuse,
            ),
            (
                include_bytes!("../../../fuzz/seeds/wire_sealed_secret/envelope-ctr"),
                CounterMode::InsecureAllow,
            ),
        ] {
            let Content::Envelope(secret) = SealedSecret::from_json(json).unwrap().content else {
                panic!("the seed is an envelope");
            };
            let envelope = Envelope::parse(&secret, counter).unwrap();
            assert_eq!(envelope.open(&KEK).unwrap().as_slice(), b"inside");
        }
    }

    #[test]
    fn changed_member_is_opened() {
        let secret = envelope();
        for at in 0..WRAPPED_KEY_LEN {
            let mut secret = secret.clone();
            secret.encrypted_key = changed(&secret.encrypted_key, at);
            assert_eq!(opened(&secret, &KEK), Err(SealedSecretError::Unwrap));
        }
        let length = b64::std_decode(&secret.encrypted_data).unwrap().len();
        for at in 0..length {
            let mut secret = secret.clone();
            secret.encrypted_data = changed(&secret.encrypted_data, at);
            assert_eq!(opened(&secret, &KEK), Err(SealedSecretError::Unwrap));
        }
        let mut other = secret.clone();
        other.iv = changed(&other.iv, 0);
        assert_eq!(opened(&other, &KEK), Err(SealedSecretError::Unwrap));
        assert_eq!(opened(&secret, &[8; 32]), Err(SealedSecretError::Unwrap));
    }

    #[test]
    fn wrapping_key_with_a_newline_is_taken() {
        let secret = envelope();
        let with_newline = [&KEK[..], b"\n"].concat();
        for key in [&with_newline[..], &KEK[..31], b""] {
            let error = opened(&secret, key).unwrap_err();
            assert_eq!(error, SealedSecretError::WrappingKey(key.len()));
            assert!(seal_envelope(URI, key, b"x").is_err());
        }
    }

    #[test]
    fn counter_mode_is_read_without_its_name() {
        // NIST SP 800-38A, F.5.5: CTR-AES256, first block.
        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let mut wrapped = [0; WRAPPED_KEY_LEN];
        kek(&KEK).unwrap().wrap(&key, &mut wrapped).unwrap();
        let mut secret = envelope();
        secret.wrap_type = A256CTR.to_owned();
        secret.encrypted_key = b64::std_encode(wrapped);
        secret.iv = b64::std_encode(hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"));
        secret.encrypted_data = b64::std_encode(hex("601ec313775789a5b7a7f504bbf3d228"));
        assert_eq!(opened(&secret, &KEK), Err(SealedSecretError::CounterMode));
        let plaintext = Envelope::parse(&secret, CounterMode::InsecureAllow)
            .unwrap()
            .open(&KEK)
            .unwrap();
        assert_eq!(plaintext.to_vec(), hex("6bc1bee22e409f96e93d7e117393172a"));
    }

    #[test]
    fn malformed_member_is_not_named() {
        let break_ = |edit: fn(&mut EnvelopeSecret)| {
            let mut secret = envelope();
            edit(&mut secret);
            match Envelope::parse(&secret, CounterMode::InsecureAllow) {
                Err(SealedSecretError::Envelope(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        for (edit, names) in [
            (
                (|s| s.encrypted_key = "!".into()) as fn(&mut EnvelopeSecret),
                "encrypted_key",
            ),
            (|s| s.encrypted_key = b64::std_encode([0; 32]), "40 bytes"),
            (|s| s.encrypted_data = "!".into(), "encrypted_data"),
            (|s| s.encrypted_data = b64::std_encode([0; 15]), "tag"),
            (|s| s.iv = "!".into(), "iv"),
            (|s| s.iv = b64::std_encode([0; 16]), "12 bytes"),
            (|s| s.wrap_type = A256CTR.into(), "16 bytes"),
            (|s| s.wrap_type = "A128GCM".into(), "wrap_type"),
            (
                |s| drop(s.provider_settings.insert("region".into(), "x".into())),
                "provider_settings",
            ),
        ] {
            let text = break_(edit);
            assert!(text.contains(names), "{names}: {text}");
        }
    }

    #[test]
    fn placeholder_envelope_of_upstream_is_opened() {
        let path =
            "guest/guest-components/confidential-data-hub/hub/src/secret/tests/envelope-1.json";
        let Some(json) = crate::fixtures::read(path) else {
            return;
        };
        let Content::Envelope(secret) = SealedSecret::from_json(&json).unwrap().content else {
            panic!("{path} is an envelope");
        };
        assert!(matches!(
            Envelope::parse(&secret, CounterMode::InsecureAllow),
            Err(SealedSecretError::Envelope(_))
        ));
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }
}
