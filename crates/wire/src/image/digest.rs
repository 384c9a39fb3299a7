//! Content digests (OCI image specification 1.1, "Descriptor", `digest`): `sha256:<hex>` and `sha512:<hex>`.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A digest of a blob, by an algorithm that is known here.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest {
    algorithm: Algorithm,
    /// Zeros behind a shorter value.
    value: [u8; 64],
}

/// How a blob is digested.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Digest {
    /// The SHA-256 digest of some bytes.
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// How the blob is digested.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digest's value in hex.
    pub fn hex(&self) -> String {
        hex::encode(self.value())
    }

    /// Whether these are the bytes that were digested.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish() == *self
    }

    fn value(&self) -> &[u8] {
        self.value
            .get(..self.algorithm.len())
            .unwrap_or(&self.value)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, digits) = text.split_once(':').ok_or(DigestError::Form)?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::Algorithm),
        };
        // Lower case only, as the specification demands: one digest has one name.
        let plain = digits.len() == algorithm.len() * 2
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !plain {
            return Err(DigestError::Form);
        }
        let mut value = [0; 64];
        let place = value.get_mut(..algorithm.len()).ok_or(DigestError::Form)?;
        hex::decode_to_slice(digits, place).map_err(|_| DigestError::Form)?;
        Ok(Self { algorithm, value })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A digest in the making.
#[derive(Clone)]
pub struct Hasher {
    algorithm: Algorithm,
    context: digest::Context,
}

impl Hasher {
    /// Begins.
    pub fn new(algorithm: Algorithm) -> Self {
        let context = digest::Context::new(match algorithm {
            Algorithm::Sha256 => &digest::SHA256,
            Algorithm::Sha512 => &digest::SHA512,
        });
        Self { algorithm, context }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Digest {
        let mut value = [0; 64];
        for (to, from) in value.iter_mut().zip(self.context.finish().as_ref()) {
            *to = *from;
        }
        Digest {
            algorithm: self.algorithm,
            value,
        }
    }
}

/// Why a text is no digest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Another algorithm.
    #[error("a digest must be by sha256 or sha512, as in sha256:<64 hex digits>")]
    Algorithm,
    /// Another form.
    #[error("a digest is written sha256:<64 lower-case hex digits> or sha512:<128 of them>")]
    Form,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn digest_that_no_algorithm_here_made_is_refused() {
        let good = Digest::sha256(b"abc").to_string();
        assert_eq!(
            good,
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(good.parse::<Digest>().unwrap(), Digest::sha256(b"abc"));
        for bad in [
            "",
            "sha256",
            "sha256:",
            "md5:900150983cd24fb0d6963f7d28e17f72",
            &good.to_uppercase(),
            &good.replace("ba78", "BA78"),
            good.get(..good.len() - 1).unwrap(),
            &format!("{good}0"),
            &good.replace("sha256", "sha512"),
            "sha256:../../../../../../etc/passwd",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn longer_digest_is_checked_too() {
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"abc");
        let digest: Digest = hasher.finish().to_string().parse().unwrap();
        assert!(digest.is_of(b"abc"));
        assert!(!digest.is_of(b"abd"));
    }
}
