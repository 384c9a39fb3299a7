//! The 32 bytes that a file is encrypted under.

use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::CipherfileError;

/// The secret key of a file: 32 bytes, overwritten with zeros when dropped, never printed.
///
/// A key file holds exactly these bytes, raw: no text form, no passphrase, nothing to cut short.
#[derive(Clone)]
pub struct FileKey(Zeroizing<[u8; Self::LEN]>);

impl FileKey {
    /// Length of a key in bytes.
    pub const LEN: usize = 32;

    /// Makes a key from the system's random generator.
    ///
    /// # Errors
    /// [`CipherfileError::Random`] when the generator fails.
    pub fn generate() -> Result<Self, CipherfileError> {
        let mut key = Zeroizing::new([0; Self::LEN]);
        rand::fill(key.as_mut_slice()).map_err(|_| CipherfileError::Random)?;
        Ok(Self(key))
    }

    /// Takes the raw bytes of a key file or resource.
    ///
    /// # Errors
    /// [`CipherfileError::KeyLength`] when there are not exactly 32 of them.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, CipherfileError> {
        if bytes.len() != Self::LEN {
            return Err(CipherfileError::KeyLength { found: bytes.len() });
        }
        let mut key = Zeroizing::new([0; Self::LEN]);
        key.copy_from_slice(bytes);
        Ok(Self(key))
    }

    /// A key for another purpose, which says nothing of this one: HKDF-SHA256 (RFC 5869) with the
    /// purpose as its info.
    ///
    #[must_use]
    pub fn derive(&self, purpose: &[u8]) -> Self {
        const FITS: &str = "HKDF gives 32 bytes for any info";
        let mut key = Zeroizing::new([0; Self::LEN]);
        let info = [purpose];
        Salt::new(HKDF_SHA256, &[])
            .extract(self.0.as_slice())
            .expand(&info, HKDF_SHA256)
            .and_then(|expanded| expanded.fill(key.as_mut_slice()))
            .expect(FITS);
        Self(key)
    }

    /// Exposes the secret bytes, to store or to send them encrypted.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn key_with_a_trailing_newline_is_refused_with_its_length() {
        let error = FileKey::from_slice(&[7; 33]).err().unwrap();
        assert!(matches!(error, CipherfileError::KeyLength { found: 33 }));
        assert_eq!(
            error.to_string(),
            "a file key is 32 raw bytes; this one has 33"
        );
    }

    #[test]
    fn short_key_is_refused() {
        assert!(matches!(
            FileKey::from_slice(&[7; 31]),
            Err(CipherfileError::KeyLength { found: 31 })
        ));
    }

    #[test]
    fn two_generated_keys_differ() {
        let (a, b) = (FileKey::generate().unwrap(), FileKey::generate().unwrap());
        assert_ne!(a.expose_bytes(), b.expose_bytes());
    }

    #[test]
    fn keys_of_two_purposes_are_alike() {
        let key = FileKey::from_slice(&[7; 32]).unwrap();
        let derived = key.derive(b"checkpoints");
        assert_eq!(
            derived.expose_bytes(),
            key.derive(b"checkpoints").expose_bytes()
        );
        assert_ne!(
            derived.expose_bytes(),
            key.derive(b"results").expose_bytes()
        );
        assert_ne!(derived.expose_bytes(), key.expose_bytes());
    }
}
