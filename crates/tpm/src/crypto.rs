//! The key derivations and the cipher of sessions (Part 1, 11.4.10 and 21; C.6.1), by aws-lc-rs.

use aws_lc_rs::agreement::{self, ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey};
use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use crate::error::TpmError;

/// `KDFa` of SHA-256 for at most one block of it.
pub(crate) fn kdfa(key: &[u8], label: &str, contexts: [&[u8]; 2]) -> Zeroizing<[u8; BLOCK]> {
    let mut code = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    code.update(&1_u32.to_be_bytes());
    code.update(label.as_bytes());
    code.update(&[0]);
    for context in contexts {
        code.update(context);
    }
    code.update(&256_u32.to_be_bytes());
    let mut out = Zeroizing::new([0; BLOCK]);
    out.copy_from_slice(code.sign().as_ref());
    out
}

/// `KDFe` of SHA-256: one block from the x coordinate of a shared point.
fn kdfe(shared: &[u8], label: &str, party_u: &[u8], party_v: &[u8]) -> Zeroizing<[u8; BLOCK]> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&1_u32.to_be_bytes());
    context.update(shared);
    context.update(label.as_bytes());
    context.update(&[0]);
    context.update(party_u);
    context.update(party_v);
    let mut out = Zeroizing::new([0; BLOCK]);
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// A secret that only the TPM with this key on P-256 can derive too.
pub(crate) struct Salt {
    pub(crate) secret: Zeroizing<[u8; BLOCK]>,
    /// The point from which the TPM derives it.
    pub(crate) x: Vec<u8>,
    pub(crate) y: Vec<u8>,
}

impl Salt {
    /// Part 1, C.6.1, for the purpose `SECRET`.
    pub(crate) fn for_key(x: &[u8; 32], y: &[u8; 32]) -> Result<Self, TpmError> {
        let ours = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())?;
        let public = ours.compute_public_key()?;
        let Some((&UNCOMPRESSED_POINT, coordinates)) = public.as_ref().split_first() else {
            return Err(TpmError::Crypto);
        };
        let (our_x, our_y) = coordinates.split_at(coordinates.len() / 2);
        let point = [&[UNCOMPRESSED_POINT], x.as_slice(), y.as_slice()].concat();
        let theirs = UnparsedPublicKey::new(&ECDH_P256, point);
        let secret = agreement::agree_ephemeral(ours, theirs, TpmError::Crypto, |shared| {
            Ok(kdfe(shared, "SECRET", our_x, x))
        })?;
        Ok(Self {
            secret,
            x: our_x.to_vec(),
            y: our_y.to_vec(),
        })
    }
}

/// AES-128-CFB under the key and the start value that a session has for one parameter of one message.
pub(crate) struct ParameterCipher(Zeroizing<[u8; BLOCK]>);

impl ParameterCipher {
    /// Part 1, 21.3: the nonces of the message, the newer one first.
    pub(crate) fn new(session_key: &[u8], newer: &[u8], older: &[u8]) -> Self {
        Self(kdfa(session_key, "CFB", [newer, older]))
    }

    pub(crate) fn encrypt(&self, parameter: &mut [u8]) -> Result<(), TpmError> {
        let (key, start) = self.parts()?;
        EncryptingKey::cfb128(key)?
            .less_safe_encrypt(parameter, EncryptionContext::Iv128(start))
            .map(drop)?;
        Ok(())
    }

    pub(crate) fn decrypt(&self, parameter: &mut [u8]) -> Result<(), TpmError> {
        let (key, start) = self.parts()?;
        DecryptingKey::cfb128(key)?
            .decrypt(parameter, DecryptionContext::Iv128(start))
            .map(drop)?;
        Ok(())
    }

    fn parts(&self) -> Result<(UnboundCipherKey, FixedLength<16>), TpmError> {
        let (key, start) = self.0.split_at(16);
        let start: [u8; 16] = start.try_into().map_err(|_| TpmError::Crypto)?;
        Ok((
            UnboundCipherKey::new(&AES_128, key)?,
            FixedLength::from(start),
        ))
    }
}

pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; BLOCK] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; BLOCK];
    out.copy_from_slice(context.finish().as_ref());
    out
}

const BLOCK: usize = 32;
/// SEC 1, 2.3.3.
pub(crate) const UNCOMPRESSED_POINT: u8 = 4;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parameter_opens_under_its_own_nonces_only() {
        let secret = b"longer than one block of the cipher is";
        let mut parameter = secret.to_vec();
        let cipher = ParameterCipher::new(b"key", b"newer", b"older");
        cipher.encrypt(&mut parameter).unwrap();
        assert_ne!(parameter, secret);
        let mut swapped = parameter.clone();
        ParameterCipher::new(b"key", b"older", b"newer")
            .decrypt(&mut swapped)
            .unwrap();
        assert_ne!(swapped, secret);
        cipher.decrypt(&mut parameter).unwrap();
        assert_eq!(parameter, secret);
    }

    #[test]
    fn point_that_is_not_on_the_curve_gets_no_salt() {
        assert!(Salt::for_key(&[1; 32], &[1; 32]).is_err());
    }
}
