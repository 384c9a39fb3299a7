//! Secrets at rest: a fresh data key per version, wrapped by the key that the store never sees.
//!
//! AES-256-GCM under the data key, its associated data naming path and version, so that a row that is moved or
//! renumbered does not open; AES-256-KW (RFC 3394) of the data key under the storage key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use aws_lc_rs::{digest, hmac, rand};
use strongroom_wire::resource::ResourcePath;
use zeroize::Zeroizing;

use super::{Rewrapped, Wrapped};

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
    /// Which storage key wrapped it; empty where there was only one.
    pub(crate) key_id: String,
    pub(crate) nonce: Vec<u8>,
    pub(crate) ciphertext: Vec<u8>,
    /// From when on it is not released, in seconds since 1970.
    pub(crate) expires: Option<u64>,
}

impl SealedVersion {
    /// The length of what is sealed.
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.ciphertext.len().saturating_sub(TAG_LEN)).unwrap_or(u64::MAX)
    }

    /// The SHA-256 of what is sealed, nonce first: it names this version and says nothing about the secret.
    pub(crate) fn digest(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.nonce);
        context.update(&self.ciphertext);
        hex::encode(context.finish())
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

    /// Takes a key as it is.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0u8; KEY_LEN]);
        match bytes.len() == KEY_LEN {
            true => key.copy_from_slice(bytes),
            false => return Err(SealError::KeyFile),
        }
        Ok(Self(key))
    }

    /// The key as it is, for whoever seals it.
    pub(crate) fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The text form.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(hex::encode(self.0.as_slice()));
        text.push('\n');
        text
    }

    fn copy(&self) -> Self {
        Self(self.0.clone())
    }

    /// Its name in the store: who has the key knows it, and it says nothing about the key.
    pub(crate) fn id(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"strongroom storage key\n");
        context.update(self.0.as_slice());
        hex::encode(&context.finish().as_ref()[..8])
    }

    /// A key for another purpose, which all brokers with this storage key have.
    pub(crate) fn derived(&self, purpose: &[u8]) -> Zeroizing<[u8; KEY_LEN]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice());
        let mut derived = Zeroizing::new([0u8; KEY_LEN]);
        derived.copy_from_slice(hmac::sign(&key, purpose).as_ref());
        derived
    }

    /// Wraps a data key anew that `older` wrapped. The data key is seen by nobody else.
    pub(crate) fn rewrap(&self, older: &Self, wrapped: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut data_key = Zeroizing::new([0u8; KEY_LEN + 8]);
        let data_key = older
            .kek()?
            .unwrap(wrapped, data_key.as_mut_slice())
            .map_err(|_| SealError::Crypto)?;
        let mut again = [0u8; KEY_LEN + 8];
        self.kek()?
            .wrap(data_key, &mut again)
            .map_err(|_| SealError::Crypto)?;
        Ok(again.to_vec())
    }

    /// Seals a secret for one place and time: this path, this version, until it expires.
    pub(crate) fn seal(
        &self,
        path: &ResourcePath,
        version: u64,
        expires: Option<u64>,
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
                Aad::from(place(path, version, expires)),
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
            key_id: self.id(),
            nonce: nonce.to_vec(),
            ciphertext: buffer,
            expires,
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
        let cipher = cipher(data_key)?;
        let opened = |place: Vec<u8>| {
            let mut buffer = Zeroizing::new(sealed.ciphertext.clone());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let length = cipher
                .open_in_place(nonce, Aad::from(place), buffer.as_mut_slice())
                .ok()?
                .len();
            buffer.truncate(length);
            Some(Secret(buffer))
        };
        opened(place(path, sealed.version, sealed.expires))
            .or_else(|| opened(place_form_1(path, sealed.version)))
            .ok_or_else(refused)
    }

    fn kek(&self) -> Result<AesKek, SealError> {
        AesKek::new(&AES_256, self.0.as_slice()).map_err(|_| SealError::Crypto)
    }
}

/// The storage keys of one broker: new secrets are sealed under the current one, the others open what is theirs.
pub(crate) struct StorageKeys {
    /// Made to be the next, and not in use yet: before the current one in the file.
    newer: Vec<StorageKey>,
    current: StorageKey,
    older: Vec<StorageKey>,
}

impl StorageKeys {
    /// Reads the text form: a key a line, the newest first, which is the current one where nobody says otherwise.
    pub(crate) fn from_text(text: &str) -> Result<Self, SealError> {
        let mut keys = text.lines().map(StorageKey::from_text);
        let current = keys.next().ok_or(SealError::KeyFile)??;
        let older = keys.collect::<Result<Vec<_>, _>>()?;
        match older.len() < MAX_KEYS {
            true => Ok(Self {
                newer: Vec::new(),
                current,
                older,
            }),
            false => Err(SealError::KeyFile),
        }
    }

    /// The text form.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::new());
        for key in self.iter() {
            text.push_str(&key.to_text());
        }
        text
    }

    /// The same with a fresh key before them all, in use.
    pub(crate) fn rotated(&self) -> Result<Self, SealError> {
        Ok(Self {
            newer: Vec::new(),
            current: StorageKey::generate()?,
            older: self.iter().map(StorageKey::copy).collect(),
        })
    }

    /// The same with a fresh key before them all, not in use yet.
    pub(crate) fn with_candidate(&self) -> Result<Self, SealError> {
        let copied = self.newer.iter().map(StorageKey::copy);
        Ok(Self {
            newer: std::iter::once(StorageKey::generate()?)
                .chain(copied)
                .collect(),
            current: self.current.copy(),
            older: self.older.iter().map(StorageKey::copy).collect(),
        })
    }

    /// The id of the newest key, when that is not in use yet.
    pub(crate) fn candidate(&self) -> Option<String> {
        self.newer.first().map(StorageKey::id)
    }

    /// The same with the key of that id in use, if there is one.
    pub(crate) fn with_current(&self, id: &str) -> Option<Self> {
        let at = self.iter().position(|key| key.id() == id)?;
        let mut keys = self.iter().map(StorageKey::copy);
        Some(Self {
            newer: keys.by_ref().take(at).collect(),
            current: keys.next()?,
            older: keys.collect(),
        })
    }

    /// The same without the older ones, which nothing is sealed under any more.
    pub(crate) fn retired(&self) -> Self {
        Self {
            newer: self.newer.iter().map(StorageKey::copy).collect(),
            current: self.current.copy(),
            older: Vec::new(),
        }
    }

    /// The key that new secrets are sealed under.
    pub(crate) fn current(&self) -> &StorageKey {
        &self.current
    }

    /// Whether something may be sealed under an older key than the current one.
    pub(crate) fn has_older(&self) -> bool {
        !self.older.is_empty()
    }

    /// Whether the key of that id is among them.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.iter().any(|key| key.id() == id)
    }

    /// The ids of all, the newest first.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.iter().map(StorageKey::id).collect()
    }

    /// All of them, the newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &StorageKey> {
        let newer = self.newer.iter();
        newer
            .chain(std::iter::once(&self.current))
            .chain(&self.older)
    }

    /// Opens what one of the keys sealed for this place.
    pub(crate) fn open(
        &self,
        path: &ResourcePath,
        sealed: &SealedVersion,
    ) -> Result<Secret, SealError> {
        match self.by_id(&sealed.key_id) {
            Some(key) => key.open(path, sealed),
            None => Err(SealError::UnknownKey {
                path: path.to_string(),
                version: sealed.version,
                key: sealed.key_id.clone(),
            }),
        }
    }

    /// Wraps a data key under the current key.
    pub(crate) fn rewrap(&self, wrapped: &Wrapped) -> Result<Rewrapped, SealError> {
        let refused = || SealError::Open {
            path: wrapped.path.to_string(),
            version: wrapped.version,
        };
        let older = self.by_id(&wrapped.key_id).ok_or_else(refused)?;
        let again = self
            .current
            .rewrap(older, &wrapped.wrapped_key)
            .map_err(|_| refused())?;
        Ok(Rewrapped {
            old: wrapped.clone(),
            wrapped_key: again,
            key_id: self.current.id(),
        })
    }

    /// Rows of before there could be two keys name none: the oldest wrapped them.
    fn by_id(&self, id: &str) -> Option<&StorageKey> {
        let mut keys = self.iter();
        match id {
            "" => keys.last(),
            id => keys.find(|key| key.id() == id),
        }
    }
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| SealError::Crypto)
}

/// The associated data. Paths hold no newline, so no two places read the same.
fn place(path: &ResourcePath, version: u64, expires: Option<u64>) -> Vec<u8> {
    let expires = expires.map_or_else(|| "never".to_owned(), |at| at.to_string());
    format!("strongroom resource, form 2\n{path}\n{version}\n{expires}").into_bytes()
}

/// What was sealed by versions that did not bind the end: it stays readable, and its end can be changed in the store.
fn place_form_1(path: &ResourcePath, version: u64) -> Vec<u8> {
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
    #[error("the storage key file does not hold keys of 64 hexadecimal digits, one a line")]
    KeyFile,
    /// The storage key that wrapped the row's data key is not there.
    #[error(
        "version {version} of {path} is sealed under storage key {key}, which is not in this broker's key file: copy it \
         from another broker's, or from a copy of the file"
    )]
    UnknownKey {
        /// The path that was asked for.
        path: String,
        /// The version found there.
        version: u64,
        /// The id of the key.
        key: String,
    },
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
const MAX_KEYS: usize = 16;

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
        let sealed = key.seal(&path("a/b/c"), 3, None, b"secret").unwrap();
        assert_eq!(sealed.size(), 6);
        assert_eq!(
            key.open(&path("a/b/c"), &sealed).unwrap().expose(),
            b"secret"
        );
    }

    #[test]
    fn row_moved_to_another_path_does_not_open() {
        let key = StorageKey::generate().unwrap();
        let sealed = key.seal(&path("a/b/c"), 3, None, b"secret").unwrap();
        assert!(matches!(
            key.open(&path("a/b/d"), &sealed),
            Err(SealError::Open { version: 3, .. })
        ));
    }

    #[test]
    fn renumbered_row_does_not_open() {
        let key = StorageKey::generate().unwrap();
        let mut sealed = key.seal(&path("a/b/c"), 3, None, b"secret").unwrap();
        sealed.version = 4;
        assert!(key.open(&path("a/b/c"), &sealed).is_err());
    }

    #[test]
    fn row_of_another_storage_key_does_not_open() {
        let sealed = StorageKey::generate()
            .unwrap()
            .seal(&path("a/b/c"), 1, None, b"secret")
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
        let sealed = key.seal(&path("a/b/c"), 1, None, b"secret").unwrap();
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
    fn end_of_a_secret_is_taken_away_or_moved() {
        let key = StorageKey::generate().unwrap();
        for (expires, others) in [(Some(9), [None, Some(10)]), (None, [Some(9), Some(0)])] {
            let sealed = key.seal(&path("a/b/c"), 1, expires, b"secret").unwrap();
            assert!(key.open(&path("a/b/c"), &sealed).is_ok());
            for expires in others {
                let changed = SealedVersion {
                    expires,
                    ..sealed.clone()
                };
                assert!(key.open(&path("a/b/c"), &changed).is_err());
            }
        }
    }

    #[test]
    fn secret_of_the_first_form_is_still_read() {
        let key = StorageKey::generate().unwrap();
        let mut older = key.seal(&path("a/b/c"), 1, None, b"").unwrap();
        let data_key = {
            let mut room = [0u8; KEY_LEN + 8];
            let kek = key.kek().unwrap();
            kek.unwrap(&older.wrapped_key, &mut room).unwrap().to_vec()
        };
        let nonce = <[u8; NONCE_LEN]>::try_from(older.nonce.as_slice()).unwrap();
        older.ciphertext = b"secret".to_vec();
        cipher(&data_key)
            .unwrap()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place_form_1(&path("a/b/c"), 1)),
                &mut older.ciphertext,
            )
            .unwrap();
        let opened = key.open(&path("a/b/c"), &older).unwrap();
        assert_eq!(opened.expose(), b"secret");
    }

    #[test]
    fn truncated_row_is_refused_without_a_panic() {
        let key = StorageKey::generate().unwrap();
        let empty = SealedVersion {
            version: 1,
            wrapped_key: vec![],
            key_id: String::new(),
            nonce: vec![],
            ciphertext: vec![],
            expires: None,
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

    #[test]
    fn rotated_keys_open_what_the_older_sealed_and_the_retired_do_not() {
        let path: ResourcePath = "a/b/c".parse().unwrap();
        let keys = StorageKeys::from_text(&StorageKey::generate().unwrap().to_text()).unwrap();
        let sealed = keys.current().seal(&path, 1, None, b"secret").unwrap();
        let keys = keys.rotated().unwrap();
        let keys = StorageKeys::from_text(&keys.to_text()).unwrap();
        assert_eq!(keys.open(&path, &sealed).unwrap().expose(), b"secret");
        let wrapped = Wrapped {
            path: path.clone(),
            version: 1,
            wrapped_key: sealed.wrapped_key.clone(),
            key_id: sealed.key_id.clone(),
        };
        let again = keys.rewrap(&wrapped).unwrap();
        let moved = SealedVersion {
            wrapped_key: again.wrapped_key,
            key_id: again.key_id,
            ..sealed.clone()
        };
        let retired = keys.retired();
        assert!(!retired.has_older());
        assert_eq!(retired.open(&path, &moved).unwrap().expose(), b"secret");
        assert!(retired.open(&path, &sealed).is_err());
    }

    #[test]
    fn row_of_before_there_were_two_keys_is_the_oldest_keys() {
        let path: ResourcePath = "a/b/c".parse().unwrap();
        let keys = StorageKeys::from_text(&StorageKey::generate().unwrap().to_text()).unwrap();
        let mut sealed = keys.current().seal(&path, 1, None, b"secret").unwrap();
        sealed.key_id.clear();
        let keys = keys.rotated().unwrap().rotated().unwrap();
        assert_eq!(keys.open(&path, &sealed).unwrap().expose(), b"secret");
    }
}
