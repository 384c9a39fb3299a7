//! Signed messages of `OpenPGP` (RFC 4880, RFC 6637, RFC 9580), as far as simple signing of images uses them.
//!
//! A message is one literal in one binary signature of version 4, perhaps compressed, by RSA, ECDSA on a NIST curve or
//! Ed25519. Nothing is encrypted and nothing is written. What a keyring says of its own keys (expiry, what they may
//! sign) is taken as it stands, because the keyring itself comes from whoever decides; a subkey must be bound to its
//! primary key by a signature that verifies.

mod key;
mod message;
mod packet;
mod signature;

use key::Key;
use packet::{Packets, Tag};
use signature::Signature;

/// Public keys that may sign.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: Vec<Key>,
}

/// Whether signatures over SHA-1 count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sha1 {
    /// They do not: two texts with one SHA-1 can be made.
    #[default]
    Refuse,
    /// They do, for images that were signed long ago and cannot be signed again.
    InsecureAccept,
}

/// A message whose signature verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedMessage {
    /// What was signed.
    pub content: Vec<u8>,
    /// The fingerprint of the key that signed, in hex.
    pub fingerprint: String,
    /// When it was signed, in seconds since 1970.
    pub created: u64,
}

impl Keyring {
    /// Parses public keys: binary as `gpg --export` writes them, or in ASCII armor.
    ///
    /// # Errors
    /// [`OpenPgpError`] when it is no keyring or holds private keys.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpenPgpError> {
        let decoded;
        let bytes = match packet::armored(bytes, MAX_KEYRING)? {
            Some(inner) => {
                decoded = inner;
                decoded.as_slice()
            }
            None => bytes,
        };
        if bytes.len() > MAX_KEYRING {
            return Err(OpenPgpError::TooLong);
        }
        let keys = key::parse(bytes)?;
        match keys.is_empty() {
            true => Err(OpenPgpError::Malformed("there is no public key in it")),
            false => Ok(Self { keys }),
        }
    }

    /// Adds the keys of another keyring.
    pub fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
    }

    /// Verifies a signed message at a moment, in seconds since 1970.
    ///
    /// # Errors
    /// [`OpenPgpError`]: it is another kind of message, its key is not here or may not sign any more, or the signature is
    /// wrong. Nothing of the content is handed on.
    pub fn verify(
        &self,
        message: &[u8],
        now: u64,
        sha1: Sha1,
    ) -> Result<SignedMessage, OpenPgpError> {
        let (content, signature) = message::parse(message)?;
        if signature.r#type != BINARY {
            return Err(OpenPgpError::Unsupported(
                "a signature that is not over binary data",
            ));
        }
        let created = signature
            .created
            .ok_or(OpenPgpError::Malformed("the signature has no time"))?;
        if created > now.saturating_add(CLOCK_SKEW) {
            return Err(OpenPgpError::Future);
        }
        if signature
            .lifetime
            .is_some_and(|lifetime| created.saturating_add(lifetime) < now)
        {
            return Err(OpenPgpError::SignatureExpired);
        }
        let mut outcome = OpenPgpError::UnknownKey(signature.issuer_hex());
        for key in self.keys.iter().filter(|key| signature.may_be_of(key)) {
            let verified = key
                .may_sign(created, now)
                .and_then(|()| signature.verify(&key.material, &[&content], sha1));
            match verified {
                Ok(()) => {
                    return Ok(SignedMessage {
                        content,
                        fingerprint: hex::encode(key.fingerprint),
                        created,
                    });
                }
                Err(error) => outcome = error,
            }
        }
        Err(outcome)
    }
}

/// Why a message or a keyring is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenPgpError {
    /// The bytes.
    #[error("the OpenPGP data cannot be read: {0}")]
    Malformed(&'static str),
    /// Something of `OpenPGP` that is not verified here.
    #[error("not verified here: {0}")]
    Unsupported(&'static str),
    /// More bytes than there can be.
    #[error("the OpenPGP data is longer than it may be")]
    TooLong,
    /// Somebody else signed.
    #[error(
        "the signature is by the key {0}, which is not in the keyring (gpg would say: No public key)"
    )]
    UnknownKey(String),
    /// The signature.
    #[error("the GPG signature is wrong (gpg would say: BAD signature)")]
    Bad,
    /// The key.
    #[error("the key that signed has been revoked")]
    Revoked,
    /// The key.
    #[error(
        "the key that signed has expired: extend it (gpg --quick-set-expire) and give the broker its new export"
    )]
    KeyExpired,
    /// The key.
    #[error("the key that signed is not one for signatures")]
    NotForSigning,
    /// The signature.
    #[error("the signature has expired: sign the image again")]
    SignatureExpired,
    /// A clock.
    #[error("the signature is from the future: the clock here, or of who signed, is wrong")]
    Future,
    /// The digest.
    #[error(
        "the signature is over SHA-1, with which two texts can have one signature: sign the image again \
         (gpg --digest-algo SHA256), or allow it with insecure_sha1_signatures"
    )]
    Sha1,
}

/// The packets of some bytes, or why they cannot be told apart.
fn packets(bytes: &[u8]) -> impl Iterator<Item = Result<(Tag, Vec<u8>), OpenPgpError>> + '_ {
    Packets::new(bytes).take(MAX_PACKETS)
}

const BINARY: u8 = 0x00;
const CLOCK_SKEW: u64 = 600;
const MAX_KEYRING: usize = 1024 * 1024;
const MAX_PACKETS: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FOLDER: &str = "guest/guest-components/image-rs/test_data/signature";
    /// A day in 2021 on which the fixtures were good.
    const THEN: u64 = 1_634_600_000;

    fn fixtures() -> Option<(Keyring, Vec<u8>)> {
        let ring = crate::fixtures::read(&format!("{FOLDER}/pubring.gpg"))?;
        let message = crate::fixtures::read(&format!("{FOLDER}/signatures/signature-1"))?;
        Some((Keyring::parse(&ring).unwrap(), message))
    }

    #[test]
    fn upstream_signature_verifies_where_sha1_is_accepted_by_name() {
        let Some((ring, message)) = fixtures() else {
            return;
        };
        assert_eq!(
            ring.verify(&message, THEN, Sha1::Refuse),
            Err(OpenPgpError::Sha1)
        );
        let signed = ring.verify(&message, THEN, Sha1::InsecureAccept).unwrap();
        let payload = crate::image::simple_signing::Payload::parse(&signed.content).unwrap();
        assert_eq!(
            payload.docker_reference,
            "quay.io/ali_os_security/alpine:latest"
        );
        assert_eq!(payload.creator.as_deref(), Some("atomic 2.0.0"));
        assert_eq!(payload.timestamp, Some(1_634_533_638));
        assert_eq!(
            payload.manifest_digest.to_string(),
            "sha256:69704ef328d05a9f806b6b8502915e6a0a4faa4d72018dc42343f511490daf8a"
        );
        assert!(signed.fingerprint.ends_with("7efd4c926f9311e2"));
    }

    #[test]
    fn changed_byte_anywhere_verifies_nothing() {
        let Some((ring, message)) = fixtures() else {
            return;
        };
        let good = ring.verify(&message, THEN, Sha1::InsecureAccept).unwrap();
        for at in 0..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 1;
            // A packet's framing and the literal's date are not signed; what was signed is.
            if let Ok(signed) = ring.verify(&changed, THEN, Sha1::InsecureAccept) {
                assert_eq!(signed, good, "byte {at}");
            }
        }
        for end in 0..message.len() {
            assert!(
                ring.verify(&message[..end], THEN, Sha1::InsecureAccept)
                    .is_err(),
                "{end}"
            );
        }
    }

    #[test]
    fn signature_of_a_key_that_is_not_here_names_it() {
        let path = "guest/guest-components/image-rs/test_data/simple-signing-scheme/pubkey.gpg";
        let (Some((_, message)), Some(other)) = (fixtures(), crate::fixtures::read(path)) else {
            return;
        };
        let other = Keyring::parse(&other).unwrap();
        assert_eq!(
            other.verify(&message, THEN, Sha1::InsecureAccept),
            Err(OpenPgpError::UnknownKey("7efd4c926f9311e2".to_owned()))
        );
    }

    #[test]
    fn clock_before_the_signature_is_told() {
        let Some((ring, message)) = fixtures() else {
            return;
        };
        assert_eq!(
            ring.verify(&message, THEN - 1_000_000, Sha1::InsecureAccept),
            Err(OpenPgpError::Future)
        );
    }

    #[test]
    fn what_is_no_keyring_is_refused() {
        for bad in [
            &b""[..],
            b"nonsense",
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n",
            b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n-----END PGP PRIVATE KEY BLOCK-----\n",
            &[0x99, 0xff, 0xff],
        ] {
            assert!(Keyring::parse(bad).is_err());
        }
    }
}
