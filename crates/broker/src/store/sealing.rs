//! Secrets at rest: a fresh data key per version, wrapped by the key that the store never sees.
//!
//! AES-256-GCM under the data key, its associated data naming path and version, so that a row that is moved or
//! renumbered does not open; AES-256-KW (RFC 3394) of the data key under the storage key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use aws_lc_rs::rand;
use strongroom_wire::resource::ResourcePath;
use zeroize::Zeroizing;

/// A resource's content, zeroed when dropped. It has no `Debug`, `Display` or `Serialize`.
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over what a source outside the store gave.
    pub(crate) fn new(content: Zeroizing<Vec<u8>>) -> Self {
        Self(content)
    }

    /// The content, for the one function that encrypts it to its recipient.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// One sealed version of a secret, as a store keeps it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SealedVersion {
    pub(crate) version: u64,
    pub(crate) wrapped_key: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
    pub(crate) ciphertext: Vec<u8>,
}

impl SealedVersion {
    /// The length of what is sealed.
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.ciphertext.len().saturating_sub(TAG_LEN)).unwrap_or(u64::MAX)
    }
}

/// The key-encryption key: it wraps data keys and touches no data. Has no `Debug` of its content.
pub(crate) struct StorageKey(Zeroizing<[u8; KEY_LEN]>);

impl StorageKey {
    /// Draws a fresh key.
    pub(crate) fn generate() -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0u8; KEY_LEN]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| SealError::Crypto)?;
        Ok(Self(bytes))
    }

    /// Reads the text form: 64 hexadecimal digits and a newline.
    pub(crate) fn from_text(text: &str) -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new([0u8; KEY_LEN]);
        hex::decode_to_slice(text.trim_end(), bytes.as_mut_slice())
            .map_err(|_| SealError::KeyFile)?;
        Ok(Self(bytes))
    }

    /// The text form.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(hex::encode(self.0.as_slice()));
        text.push('\n');
        text
    }

    /// Seals a secret for one place: this path and this version.
    pub(crate) fn seal(
        &self,
        path: &ResourcePath,
        version: u64,
        secret: &[u8],
    ) -> Result<SealedVersion, SealError> {
        let mut data_key = Zeroizing::new([0u8; KEY_LEN]);
        rand::fill(data_key.as_mut_slice()).map_err(|_| SealError::Crypto)?;
        let mut nonce = [0u8; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError::Crypto)?;
        // Sized for the tag, so that no reallocation leaves plaintext behind; it is ciphertext from the next line on.
        let mut buffer = Vec::with_capacity(secret.len() + TAG_LEN);
        buffer.extend_from_slice(secret);
        cipher(data_key.as_slice())?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place(path, version)),
                &mut buffer,
            )
            .map_err(|_| SealError::Crypto)?;
        let mut wrapped_key = [0u8; KEY_LEN + 8];
        self.kek()?
            .wrap(data_key.as_slice(), &mut wrapped_key)
            .map_err(|_| SealError::Crypto)?;
        Ok(SealedVersion {
            version,
            wrapped_key: wrapped_key.to_vec(),
            nonce: nonce.to_vec(),
            ciphertext: buffer,
        })
    }

    /// Opens what was sealed for this place.
    pub(crate) fn open(
        &self,
        path: &ResourcePath,
        sealed: &SealedVersion,
    ) -> Result<Secret, SealError> {
        let refused = || SealError::Open {
            path: path.to_string(),
            version: sealed.version,
        };
        let mut data_key = Zeroizing::new([0u8; KEY_LEN + 8]);
        let data_key = self
            .kek()?
            .unwrap(&sealed.wrapped_key, data_key.as_mut_slice())
            .map_err(|_| refused())?;
        let nonce = <[u8; NONCE_LEN]>::try_from(sealed.nonce.as_slice()).map_err(|_| refused())?;
        let mut buffer = Zeroizing::new(sealed.ciphertext.clone());
        let length = cipher(data_key)?
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place(path, sealed.version)),
                buffer.as_mut_slice(),
            )
            .map_err(|_| refused())?
            .len();
        buffer.truncate(length);
        Ok(Secret(buffer))
    }

    fn kek(&self) -> Result<AesKek, SealError> {
        AesKek::new(&AES_256, self.0.as_slice()).map_err(|_| SealError::Crypto)
    }
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| SealError::Crypto)
}

/// The associated data. Paths hold no newline, so no two places read the same.
fn place(path: &ResourcePath, version: u64) -> Vec<u8> {
    format!("strongroom resource, form 1\n{path}\n{version}").into_bytes()
}

/// Why a secret could not be sealed or opened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
    /// The key file does not hold a key.
    #[error("the storage key file does not hold 64 hexadecimal digits")]
    KeyFile,
    /// The row was changed or moved, or belongs to another storage key.
    #[error(
        "version {version} of {path} does not open: its row was changed or moved, or the storage key is another"
    )]
    Open {
        /// The path that was asked for.
        path: String,
        /// The version found there.
        version: u64,
    },
}

const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> ResourcePath {
        text.parse().unwrap()
    }

    #[test]
    fn sealed_secret_opens_where_it_was_sealed_for() {
        let key = StorageKey::generate().unwrap();
        let sealed = key.seal(&path("a/b/c"), 3, b"secret").unwrap();
        assert_eq!(sealed.size(), 6);
        assert_eq!(
            key.open(&path("a/b/c"), &sealed).unwrap().expose(),
            b"secret"
        );
    }

    #[test]
    fn row_moved_to_another_path_does_not_open() {
        let key = StorageKey::generate().unwrap();
        let sealed = key.seal(&path("a/b/c"), 3, b"secret").unwrap();
        assert!(matches!(
            key.open(&path("a/b/d"), &sealed),
            Err(SealError::Open { version: 3, .. })
        ));
    }

    #[test]
    fn renumbered_row_does_not_open() {
        let key = StorageKey::generate().unwrap();
        let mut sealed = key.seal(&path("a/b/c"), 3, b"secret").unwrap();
        sealed.version = 4;
        assert!(key.open(&path("a/b/c"), &sealed).is_err());
    }

    #[test]
    fn row_of_another_storage_key_does_not_open() {
        let sealed = StorageKey::generate()
            .unwrap()
            .seal(&path("a/b/c"), 1, b"secret")
            .unwrap();
        assert!(
            StorageKey::generate()
                .unwrap()
                .open(&path("a/b/c"), &sealed)
                .is_err()
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = StorageKey::generate().unwrap();
        let sealed = key.seal(&path("a/b/c"), 1, b"secret").unwrap();
        let parts: [fn(&mut SealedVersion) -> &mut Vec<u8>; 3] = [
            |s| &mut s.wrapped_key,
            |s| &mut s.nonce,
            |s| &mut s.ciphertext,
        ];
        for part in parts {
            for bit in 0..part(&mut sealed.clone()).len() * 8 {
                let mut changed = sealed.clone();
                part(&mut changed)[bit / 8] ^= 1 << (bit % 8);
                assert!(key.open(&path("a/b/c"), &changed).is_err());
            }
        }
    }

    #[test]
    fn truncated_row_is_refused_without_a_panic() {
        let key = StorageKey::generate().unwrap();
        let empty = SealedVersion {
            version: 1,
            wrapped_key: vec![],
            nonce: vec![],
            ciphertext: vec![],
        };
        assert!(key.open(&path("a/b/c"), &empty).is_err());
    }

    #[test]
    fn key_file_that_is_cut_or_carries_more_is_refused() {
        let text = StorageKey::generate().unwrap().to_text();
        assert!(StorageKey::from_text(&text).is_ok());
        assert!(StorageKey::from_text(&text[..62]).is_err());
        assert!(StorageKey::from_text(&format!("{}00\n", text.trim_end())).is_err());
        assert!(StorageKey::from_text("").is_err());
    }
}
