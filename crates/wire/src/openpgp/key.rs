//! Public keys and what keyrings say of them (RFC 9580, sections 5.5 and 10.1).

use aws_lc_rs::digest;

use super::packet::{Cursor, PRIVATE, Tag};
use super::{OpenPgpError, Sha1, Signature, packets};

/// A primary key or a subkey.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) fingerprint: [u8; 20],
    pub(super) material: Material,
    created: u64,
    /// What its newest signature says of it.
    stated: Stated,
    revoked: bool,
    /// Whether it is a primary key, or a subkey that its primary key bound.
    bound: bool,
    /// Where the primary key of a subkey is in the keyring.
    owner: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stated {
    at: u64,
    lifetime: Option<u64>,
    flags: Option<u8>,
}

/// The key itself.
#[derive(Clone, Debug)]
pub(super) enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Ecdsa {
        curve: Curve,
        point: Vec<u8>,
    },
    Ed25519 {
        point: Vec<u8>,
    },
    /// One that verifies nothing here: for encryption, or of an algorithm that is not known.
    Other,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Key {
    fn parse(body: &[u8]) -> Result<Option<Self>, OpenPgpError> {
        let mut cursor = Cursor(body);
        // Version 3 is broken, versions 5 and 6 are other formats: such keys verify nothing.
        if cursor.byte()? != 4 {
            return Ok(None);
        }
        let created = cursor.u32()?;
        let material = match cursor.byte()? {
            1 | 3 => Material::Rsa {
                n: cursor.integer()?.to_vec(),
                e: cursor.integer()?.to_vec(),
            },
            19 => {
                let length = cursor.byte()?;
                let curve = match cursor.take(usize::from(length))? {
                    [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] => Some(Curve::P256),
                    [0x2b, 0x81, 0x04, 0x00, 0x22] => Some(Curve::P384),
                    [0x2b, 0x81, 0x04, 0x00, 0x23] => Some(Curve::P521),
                    _ => None,
                };
                let point = cursor.integer()?.to_vec();
                curve.map_or(Material::Other, |curve| Material::Ecdsa { curve, point })
            }
            22 => {
                let length = cursor.byte()?;
                let oid = cursor.take(usize::from(length))?;
                let is_ed25519 = oid == [0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];
                match (is_ed25519, cursor.integer()?) {
                    (true, [0x40, point @ ..]) => Material::Ed25519 {
                        point: point.to_vec(),
                    },
                    _ => Material::Other,
                }
            }
            _ => Material::Other,
        };
        let hashed = hashed(body)?;
        let digested = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &hashed);
        let fingerprint = digested
            .as_ref()
            .try_into()
            .map_err(|_| OpenPgpError::Malformed("a fingerprint has another length"))?;
        Ok(Some(Self {
            fingerprint,
            material,
            created,
            stated: Stated::default(),
            revoked: false,
            bound: false,
            owner: None,
        }))
    }

    pub(super) fn id(&self) -> [u8; 8] {
        let [.., a, b, c, d, e, f, g, h] = self.fingerprint;
        [a, b, c, d, e, f, g, h]
    }

    /// Whether what the key signed at a moment counts now.
    pub(super) fn may_sign(&self, at: u64, now: u64) -> Result<(), OpenPgpError> {
        if self.revoked {
            return Err(OpenPgpError::Revoked);
        }
        let for_signing = self.stated.flags.is_none_or(|flags| flags & MAY_SIGN != 0);
        if !self.bound || !for_signing || at < self.created {
            return Err(OpenPgpError::NotForSigning);
        }
        let expires = self
            .stated
            .lifetime
            .map(|lifetime| self.created.saturating_add(lifetime));
        match expires.is_some_and(|expires| expires <= now) {
            true => Err(OpenPgpError::KeyExpired),
            false => Ok(()),
        }
    }

    fn state(&mut self, signature: &Signature) {
        let at = signature.created.unwrap_or_default();
        if at >= self.stated.at {
            self.stated = Stated {
                at,
                lifetime: signature.key_lifetime,
                flags: signature.key_flags,
            };
        }
    }
}

/// Every key of a keyring.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Key>, OpenPgpError> {
    let mut keys: Vec<Key> = Vec::new();
    // The primary key that what follows belongs to: where it is, and its packet.
    let mut primary: Option<(usize, Vec<u8>)> = None;
    let mut subkey: Option<(usize, Vec<u8>)> = None;
    let mut belongs = false;
    for packet in packets(bytes) {
        let (tag, body) = packet?;
        match tag {
            Tag::SECRET_KEY | Tag::SECRET_SUBKEY => return Err(PRIVATE),
            Tag::PUBLIC_KEY => {
                (primary, subkey) = (None, None);
                if let Some(key) = Key::parse(&body)? {
                    primary = Some((keys.len(), body));
                    keys.push(Key { bound: true, ..key });
                }
                belongs = primary.is_some();
            }
            Tag::PUBLIC_SUBKEY => {
                subkey = None;
                belongs = false;
                if let (Some((at, _)), Some(key)) = (&primary, Key::parse(&body)?) {
                    subkey = Some((keys.len(), body));
                    keys.push(Key {
                        owner: Some(*at),
                        ..key
                    });
                    belongs = true;
                }
            }
            Tag::USER_ID | Tag::USER_ATTRIBUTE => belongs = primary.is_some(),
            Tag::SIGNATURE if belongs => {
                // Those of strangers may be of any kind, and say nothing here.
                let Some((at, body_of_primary)) = &primary else {
                    continue;
                };
                let Ok(signature) = Signature::parse(&body) else {
                    // A revocation that cannot be read is one all the same.
                    let revoked = match revokes(&body) {
                        Some(KEY_REVOCATION) => Some(*at),
                        Some(_) => subkey.as_ref().map(|(at, _)| *at),
                        None => None,
                    };
                    if let Some(key) = revoked.and_then(|at| keys.get_mut(at)) {
                        key.revoked = true;
                    }
                    continue;
                };
                let Some(owner) = keys.get(*at).cloned() else {
                    continue;
                };
                if !signature.may_be_of(&owner) {
                    continue;
                }
                match (signature.r#type, &subkey) {
                    (CERTIFICATION_FIRST..=CERTIFICATION_LAST | DIRECT, None) => {
                        if let Some(key) = keys.get_mut(*at) {
                            key.state(&signature);
                        }
                    }
                    (KEY_REVOCATION, _) => {
                        if let Some(key) = keys.get_mut(*at) {
                            key.revoked = true;
                        }
                    }
                    (SUBKEY_REVOCATION, Some((at, _))) => {
                        if let Some(key) = keys.get_mut(*at) {
                            key.revoked = true;
                        }
                    }
                    (SUBKEY_BINDING, Some((at, body_of_subkey))) => {
                        let pieces = [hashed(body_of_primary)?, hashed(body_of_subkey)?];
                        let [first, second] = &pieces;
                        if signature
                            .verify(&owner.material, &[first, second], Sha1::Refuse)
                            .is_ok()
                            && let Some(key) = keys.get_mut(*at)
                        {
                            // A subkey that is not said to sign does not.
                            key.bound = true;
                            key.state(&signature);
                            key.stated.flags = key.stated.flags.or(Some(0));
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        if keys.len() > MAX_KEYS {
            return Err(OpenPgpError::TooLong);
        }
    }
    // A revoked or expired primary key takes its subkeys along.
    let primaries = keys.clone();
    for key in &mut keys {
        let Some(owner) = key.owner.and_then(|at| primaries.get(at)) else {
            continue;
        };
        key.revoked |= owner.revoked;
        key.stated.lifetime = match (key.stated.lifetime, remaining(owner, key)) {
            (Some(own), Some(owners)) => Some(own.min(owners)),
            (own, owners) => own.or(owners),
        };
    }
    Ok(keys)
}

/// How long a subkey lives when it dies with its primary key.
fn remaining(owner: &Key, key: &Key) -> Option<u64> {
    let expires = owner.created.saturating_add(owner.stated.lifetime?);
    Some(expires.saturating_sub(key.created).max(1))
}

/// The type of a revocation, whatever its version.
fn revokes(signature: &[u8]) -> Option<u8> {
    let r#type = match signature {
        [2 | 3, _, r#type, ..] | [_, r#type, ..] => *r#type,
        _ => return None,
    };
    matches!(r#type, KEY_REVOCATION | SUBKEY_REVOCATION).then_some(r#type)
}

/// A key as signatures over it see it.
fn hashed(body: &[u8]) -> Result<Vec<u8>, OpenPgpError> {
    let length = u16::try_from(body.len()).map_err(|_| OpenPgpError::TooLong)?;
    let mut hashed = vec![0x99];
    hashed.extend(length.to_be_bytes());
    hashed.extend_from_slice(body);
    Ok(hashed)
}

const MAY_SIGN: u8 = 0x02;
const CERTIFICATION_FIRST: u8 = 0x10;
const CERTIFICATION_LAST: u8 = 0x13;
const SUBKEY_BINDING: u8 = 0x18;
const DIRECT: u8 = 0x1f;
const KEY_REVOCATION: u8 = 0x20;
const SUBKEY_REVOCATION: u8 = 0x28;
const MAX_KEYS: usize = 1024;
