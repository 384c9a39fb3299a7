//! The cipher of encrypted layers, `AES_256_CTR_HMAC_SHA256`: AES-256 in counter mode, HMAC-SHA256 over the ciphertext,
//! both under one key.
//!
//! Nothing decrypts before the MAC has been checked: a [`Decryptor`] is made by [`MacCheck::finish`] alone. So a layer
//! is read twice, once for the MAC and once for the plaintext.

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, EncryptionContext, StreamingDecryptingKey, StreamingEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroizing;

use super::digest::Digest;
use super::ocicrypt::{PrivateOptions, PublicOptions};

/// The first reading of an encrypted layer.
pub struct MacCheck {
    context: hmac::Context,
    options: PrivateOptions,
}

impl MacCheck {
    /// Begins.
    pub fn new(options: PrivateOptions) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, options.key.as_ref());
        Self {
            context: hmac::Context::with_key(&key),
            options,
        }
    }

    /// Takes the next ciphertext.
    pub fn update(&mut self, ciphertext: &[u8]) {
        self.context.update(ciphertext);
    }

    /// Compares, and gives what decrypts.
    ///
    /// # Errors
    /// [`LayerCipherError::Mac`] when the ciphertext is not the one that was encrypted under this key.
    pub fn finish(self, expected: &PublicOptions) -> Result<Decryptor, LayerCipherError> {
        verify_slices_are_equal(self.context.sign().as_ref(), &expected.hmac)
            .map_err(|_| LayerCipherError::Mac)?;
        let key = UnboundCipherKey::new(&AES_256, self.options.key.as_ref())
            .map_err(|_| LayerCipherError::Cipher)?;
        let iv = DecryptionContext::Iv128(FixedLength::from(self.options.nonce));
        Ok(Decryptor {
            key: StreamingDecryptingKey::ctr(key, iv).map_err(|_| LayerCipherError::Cipher)?,
            digest: self.options.digest,
        })
    }
}

/// The second reading of an encrypted layer.
pub struct Decryptor {
    key: StreamingDecryptingKey,
    digest: Digest,
}

impl Decryptor {
    /// The digest that the plaintext must have.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Decrypts the next ciphertext into `plaintext`, which takes its place.
    ///
    /// # Errors
    /// [`LayerCipherError::Cipher`] when the cipher fails.
    pub fn update(
        &mut self,
        ciphertext: &[u8],
        plaintext: &mut Zeroizing<Vec<u8>>,
    ) -> Result<(), LayerCipherError> {
        plaintext.clear();
        plaintext.resize(ciphertext.len().saturating_add(BLOCK), 0);
        let length = self
            .key
            .update(ciphertext, plaintext)
            .map_err(|_| LayerCipherError::Cipher)?
            .written()
            .len();
        plaintext.truncate(length);
        Ok(())
    }
}

/// Encrypts a layer under a fresh key.
pub struct Encryptor {
    key: StreamingEncryptingKey,
    mac: hmac::Context,
    secret: Zeroizing<[u8; 32]>,
    nonce: [u8; 16],
}

impl Encryptor {
    /// Draws key and nonce.
    ///
    /// # Errors
    /// [`LayerCipherError::Cipher`] when the system gives no random bytes.
    pub fn new() -> Result<Self, LayerCipherError> {
        let mut secret = Zeroizing::new([0; 32]);
        let mut nonce = [0; 16];
        let failed = |_| LayerCipherError::Cipher;
        aws_lc_rs::rand::fill(secret.as_mut()).map_err(failed)?;
        aws_lc_rs::rand::fill(&mut nonce).map_err(failed)?;
        let key = UnboundCipherKey::new(&AES_256, secret.as_ref()).map_err(failed)?;
        let iv = EncryptionContext::Iv128(FixedLength::from(nonce));
        Ok(Self {
            key: StreamingEncryptingKey::less_safe_ctr(key, iv).map_err(failed)?,
            mac: hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref())),
            secret,
            nonce,
        })
    }

    /// Encrypts the next plaintext into `ciphertext`, which takes its place.
    ///
    /// # Errors
    /// [`LayerCipherError::Cipher`] when the cipher fails.
    pub fn update(
        &mut self,
        plaintext: &[u8],
        ciphertext: &mut Vec<u8>,
    ) -> Result<(), LayerCipherError> {
        ciphertext.clear();
        ciphertext.resize(plaintext.len().saturating_add(BLOCK), 0);
        let length = self
            .key
            .update(plaintext, ciphertext)
            .map_err(|_| LayerCipherError::Cipher)?
            .written()
            .len();
        ciphertext.truncate(length);
        self.mac.update(ciphertext);
        Ok(())
    }

    /// What must be kept: in the open, and for whoever may read. `digest` is that of the plaintext.
    pub fn finish(self, digest: Digest) -> (PublicOptions, PrivateOptions) {
        let mut mac = [0; 32];
        for (to, from) in mac.iter_mut().zip(self.mac.sign().as_ref()) {
            *to = *from;
        }
        let private = PrivateOptions {
            key: self.secret,
            nonce: self.nonce,
            digest,
        };
        (PublicOptions { hmac: mac }, private)
    }
}

/// Why a layer does not decrypt.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerCipherError {
    /// The ciphertext, or its MAC, or the key.
    #[error(
        "the layer's MAC is wrong (hmac of its pubopts): it was changed after it was encrypted; nothing of it was decrypted"
    )]
    Mac,
    /// The library.
    #[error("the cipher failed")]
    Cipher,
}

const BLOCK: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn encrypt(pieces: &[&[u8]]) -> (Vec<u8>, PublicOptions, PrivateOptions) {
        let mut encryptor = Encryptor::new().unwrap();
        let (mut all, mut piece) = (Vec::new(), Vec::new());
        for plain in pieces {
            encryptor.update(plain, &mut piece).unwrap();
            all.extend_from_slice(&piece);
        }
        let (public, private) = encryptor.finish(Digest::sha256(&pieces.concat()));
        (all, public, private)
    }

    #[test]
    fn layer_round_trips_in_pieces_of_any_length() {
        let pieces: [&[u8]; 4] = [b"a", &[7; 33], b"", &[8; 4096]];
        let (ciphertext, public, private) = encrypt(&pieces);
        let mut check = MacCheck::new(private);
        ciphertext.chunks(100).for_each(|piece| check.update(piece));
        let mut decryptor = check.finish(&public).unwrap();
        let (mut all, mut piece) = (Vec::new(), Zeroizing::new(Vec::new()));
        for part in ciphertext.chunks(17) {
            decryptor.update(part, &mut piece).unwrap();
            all.extend_from_slice(&piece);
        }
        assert_eq!(all, pieces.concat());
        assert!(decryptor.digest().is_of(&all));
    }

    #[test]
    fn changed_ciphertext_or_mac_gives_nothing_that_decrypts() {
        let (mut ciphertext, mut public, private) = encrypt(&[b"layer"]);
        ciphertext[2] ^= 1;
        let mut check = MacCheck::new(PrivateOptions::parse(&private.to_json()).unwrap());
        check.update(&ciphertext);
        assert_eq!(check.finish(&public).err(), Some(LayerCipherError::Mac));
        ciphertext[2] ^= 1;
        public.hmac[0] ^= 1;
        let mut check = MacCheck::new(private);
        check.update(&ciphertext);
        assert_eq!(check.finish(&public).err(), Some(LayerCipherError::Mac));
    }
}
