//! Sealing a secret, and the steps of unsealing one: what to fetch first, what to check, what to fetch next.
//!
//! A core: it fetches nothing. Order: [`seal_vault`] or [`seal_envelope`] on the owner's side; [`SigningKeyWanted`] →
//! [`SecretWanted`] → plaintext on the guest's. The key id is the sealed secret's own word, so the key it names must
//! come from the broker or from a folder that only the guest fills: a key from anywhere else would let whoever wrote
//! the sealed text sign it as well.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

use std::fmt;
use std::str::FromStr;

use strongroom_wire::envelope::{self, Envelope};
use strongroom_wire::resource::{ResourceError, ResourceUri};
use strongroom_wire::sealed_secret::{
    Content, SealedSecret, SealedSecretError, SigningJwk, UnverifiedSealedSecret, VerifyingJwk,
    seal,
};
use zeroize::Zeroizing;

pub use strongroom_wire::envelope::CounterMode;

/// Seals a pointer to a resource of the broker. The secret itself must be put into the broker separately.
///
/// # Errors
/// [`SealError::SigningKey`] or [`SealError::Name`] when a URI is not one that a guest could fetch.
pub fn seal_vault(
    resource: &ResourceUri,
    signing_key: &SigningJwk,
    kid: impl Into<KeyPlace>,
) -> Result<String, SealError> {
    let kid = kid.into();
    check_uris(resource, &kid)?;
    let secret = SealedSecret::vault(&resource.to_string());
    Ok(seal(&secret, signing_key, &kid.to_string())?)
}

/// Seals the secret itself, under a key of 32 bytes that the broker holds at `wrapping_key_uri`.
///
/// # Errors
/// As [`seal_vault`]; [`SealError::Secret`] when the wrapping key has another length.
pub fn seal_envelope(
    plaintext: &[u8],
    wrapping_key: &[u8],
    wrapping_key_uri: &ResourceUri,
    signing_key: &SigningJwk,
    kid: impl Into<KeyPlace>,
) -> Result<String, SealError> {
    let kid = kid.into();
    check_uris(wrapping_key_uri, &kid)?;
    let secret = envelope::seal_envelope(&wrapping_key_uri.to_string(), wrapping_key, plaintext)?;
    Ok(seal(&secret, signing_key, &kid.to_string())?)
}

fn check_uris(named: &ResourceUri, kid: &KeyPlace) -> Result<(), SealError> {
    fetchable(named).map_err(|reason| SealError::Name {
        uri: named.to_string(),
        reason,
    })?;
    match kid {
        KeyPlace::Broker(uri) => signing_key(uri).map_err(|reason| SealError::SigningKey {
            kid: uri.to_string(),
            reason,
        }),
        KeyPlace::Folder(_) => Ok(()),
    }
}

/// Unsealing, step 1 and 2: the text is parsed, not believed; its signing key is to be fetched.
pub struct SigningKeyWanted {
    secret: UnverifiedSealedSecret,
    place: KeyPlace,
}

impl SigningKeyWanted {
    /// Parses a sealed secret; white space at its end is tolerated. Never-panic entry for untrusted sealed text.
    ///
    /// # Errors
    /// [`SealError::Secret`] when the text is no signed sealed secret, [`SealError::SigningKey`] when the key it names
    /// is neither a resource of the broker nor a plain name.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let secret = UnverifiedSealedSecret::parse(text)?;
        let place = secret.kid().parse()?;
        Ok(Self { secret, place })
    }

    /// Where the signing key is: take it from there and from nowhere else.
    pub fn place(&self) -> &KeyPlace {
        &self.place
    }

    /// Step 3: verifies the signature with the key found there, and reads where the secret is.
    ///
    /// # Errors
    /// [`SealError::Secret`] when the key is none or the signature does not verify; [`SealError::Unsupported`] when
    /// the secret is with a provider that is not spoken here.
    pub fn on_signing_key(
        self,
        jwk: &[u8],
        counter: CounterMode,
    ) -> Result<SecretWanted, SealError> {
        SecretWanted::new(self.secret.verify(&VerifyingJwk::from_json(jwk)?)?, counter)
    }
}

/// Where the key that verifies a sealed secret is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyPlace {
    /// At the broker.
    Broker(ResourceUri),
    /// In the guest's own folder of signing keys.
    Folder(KeyName),
}

impl FromStr for KeyPlace {
    type Err = SealError;

    fn from_str(kid: &str) -> Result<Self, SealError> {
        if let Some(name) = KeyName::parse(kid) {
            return Ok(Self::Folder(name));
        }
        let refuse = |reason| SealError::SigningKey {
            kid: shortened(kid),
            reason,
        };
        let uri: ResourceUri = kid
            .parse()
            .map_err(|error: ResourceError| refuse(error.to_string()))?;
        signing_key(&uri).map_err(refuse)?;
        Ok(Self::Broker(uri))
    }
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker(uri) => uri.fmt(f),
            Self::Folder(name) => f.write_str(name.as_str()),
        }
    }
}

impl From<&Self> for KeyPlace {
    fn from(place: &Self) -> Self {
        place.clone()
    }
}

impl From<&ResourceUri> for KeyPlace {
    fn from(uri: &ResourceUri) -> Self {
        Self::Broker(uri.clone())
    }
}

/// The name of a file in the guest's folder of signing keys; it leads nowhere else.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyName(String);

impl KeyName {
    fn parse(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=MAX_KEY_NAME).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(plain);
        fits.then(|| Self(name.to_owned()))
    }

    /// The file's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Unsealing, step 4: the signature holds; the broker's answer for this URI is the plaintext, or the key that opens it.
#[derive(Debug)]
pub struct SecretWanted {
    uri: ResourceUri,
    envelope: Option<Envelope>,
}

impl SecretWanted {
    /// Reads a sealed secret whose signature nobody checks: whoever can write it chooses which of the broker's
    /// resources the guest takes.
    ///
    /// # Errors
    /// As [`SigningKeyWanted::on_signing_key`], signature aside.
    pub fn insecure_parse_unverified(text: &str, counter: CounterMode) -> Result<Self, SealError> {
        Self::new(SealedSecret::insecure_parse_unverified(text)?, counter)
    }

    fn new(secret: SealedSecret, counter: CounterMode) -> Result<Self, SealError> {
        let (what, provider) = match &secret.content {
            Content::Vault(vault) => ("vault", vault.provider.as_str()),
            Content::Envelope(envelope) => ("envelope", envelope.provider.as_str()),
            _ => ("unknown", ""),
        };
        let (name, envelope) = match &secret.content {
            Content::Vault(vault) if provider == "kbs" => (&vault.name, None),
            Content::Envelope(envelope) if provider == "kbs" => {
                (&envelope.key_id, Some(Envelope::parse(envelope, counter)?))
            }
            _ => {
                return Err(SealError::Unsupported {
                    what,
                    provider: shortened(provider),
                });
            }
        };
        let refuse = |reason| SealError::Name {
            uri: shortened(name),
            reason,
        };
        let uri: ResourceUri = name
            .parse()
            .map_err(|error: ResourceError| refuse(error.to_string()))?;
        fetchable(&uri).map_err(refuse)?;
        Ok(Self { uri, envelope })
    }

    /// Where the plaintext is, or the key of the envelope around it.
    pub fn uri(&self) -> &ResourceUri {
        &self.uri
    }

    /// Step 5: the plaintext, from what the broker gave.
    ///
    /// # Errors
    /// [`SealError::Secret`] when an envelope does not open.
    pub fn on_resource(
        self,
        resource: Zeroizing<Vec<u8>>,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        match self.envelope {
            None => Ok(resource),
            Some(envelope) => Ok(envelope.open(&resource)?),
        }
    }
}

/// What is signed may lie at any broker that the guest's measured configuration lists under the URI's host.
fn fetchable(uri: &ResourceUri) -> Result<(), String> {
    uri.to_resource_path()
        .map(drop)
        .map_err(|error| error.to_string())
}

/// A signing key is the guest's own broker's: who writes a sealed secret names the key, and must not choose whose word it is.
fn signing_key(uri: &ResourceUri) -> Result<(), String> {
    if !uri.host().is_empty() {
        return Err(format!(
            "it names the broker {:?}; write kbs:///repository/type/tag",
            shortened(uri.host())
        ));
    }
    fetchable(uri)
}

fn shortened(text: &str) -> String {
    crate::error::one_line(text, 200)
}

/// Why a secret cannot be sealed or unsealed. Texts carry names, never the secret.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The text, its signing key or its signature is at fault.
    #[error(transparent)]
    Secret(#[from] SealedSecretError),
    /// The signing key is nothing that could be looked up.
    #[error(
        "the sealed secret names the signing key {kid:?}, which is neither a resource of the broker nor the plain name of \
         a file: {reason}"
    )]
    SigningKey {
        /// The name in the header, cut short.
        kid: String,
        /// Why it is not fetched.
        reason: String,
    },
    /// The secret's name is not a resource of the broker.
    #[error("the sealed secret names the resource {uri:?}, which cannot be fetched: {reason}")]
    Name {
        /// The name in the payload, cut short.
        uri: String,
        /// Why it is not fetched.
        reason: String,
    },
    /// With a provider that is known and not spoken here.
    #[error(
        "the sealed secret (type \"{what}\") is with provider {provider:?}, which is not spoken here: put it into the \
         broker and seal it with provider \"kbs\" (`strongroom seal vault`, or `strongroom seal envelope` for what is to \
         travel inside)"
    )]
    Unsupported {
        /// The type.
        what: &'static str,
        /// The provider, cut short.
        provider: String,
    },
}

const MAX_KEY_NAME: usize = 128;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SECRET: &str = "kbs:///default/fraud-dataset/dataset_key";
    const KEY: &str = "kbs:///default/sealed-signing-key/jwk_public";
    const KEK: [u8; 32] = [7; 32];
    const STRICT: CounterMode = CounterMode::Refuse;

    fn uri(text: &str) -> ResourceUri {
        text.parse().unwrap()
    }

    fn sealed() -> (String, Vec<u8>) {
        let key = SigningJwk::generate().unwrap();
        let text = seal_vault(&uri(SECRET), &key, &uri(KEY)).unwrap();
        (text, key.public_json("any").into_bytes())
    }

    fn signed(edit: impl FnOnce(&mut SealedSecret), kid: &str) -> (String, Vec<u8>) {
        let key = SigningJwk::generate().unwrap();
        let mut secret = SealedSecret::vault(SECRET);
        edit(&mut secret);
        (
            seal(&secret, &key, kid).unwrap(),
            key.public_json("any").into_bytes(),
        )
    }

    fn refused(edit: impl FnOnce(&mut SealedSecret)) -> SealError {
        let (text, jwk) = signed(edit, KEY);
        SigningKeyWanted::parse(&text)
            .unwrap()
            .on_signing_key(&jwk, STRICT)
            .unwrap_err()
    }

    #[test]
    fn key_is_wanted_first_and_the_secret_after_it() {
        let (text, jwk) = sealed();
        let wanted = SigningKeyWanted::parse(&text).unwrap();
        assert_eq!(wanted.place(), &KeyPlace::Broker(uri(KEY)));
        let wanted = wanted.on_signing_key(&jwk, STRICT).unwrap();
        assert_eq!(wanted.uri().to_string(), SECRET);
        let resource = Zeroizing::new(b"plain".to_vec());
        assert_eq!(wanted.on_resource(resource).unwrap().as_slice(), b"plain");
    }

    #[test]
    fn newline_and_carriage_return_at_the_end_are_tolerated() {
        let (text, jwk) = sealed();
        assert!(
            SigningKeyWanted::parse(&format!("{text} \r\n"))
                .unwrap()
                .on_signing_key(&jwk, STRICT)
                .is_ok()
        );
    }

    #[test]
    fn key_of_another_signer_is_refused() {
        let ((text, _), (_, other)) = (sealed(), sealed());
        let error = SigningKeyWanted::parse(&text)
            .unwrap()
            .on_signing_key(&other, STRICT)
            .unwrap_err();
        assert_eq!(error, SealError::Secret(SealedSecretError::Signature));
    }

    #[test]
    fn every_flipped_character_is_refused() {
        let (text, jwk) = sealed();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let outcome = SigningKeyWanted::parse(&changed)
                .and_then(|wanted| wanted.on_signing_key(&jwk, STRICT));
            assert!(outcome.is_err(), "character {at}");
        }
    }

    #[test]
    fn signing_key_outside_broker_and_folder_is_never_looked_up() {
        for kid in [
            "",
            ".",
            "..",
            ".key",
            "../key",
            "a/b",
            "/key",
            "a\0b",
            "a b",
            &"k".repeat(MAX_KEY_NAME + 1),
            "https://evil/key",
            "kbs+pkcs11:///a/b/c",
            "kbs:///a/b",
        ] {
            let (text, _) = signed(|_| (), kid);
            assert!(
                matches!(
                    SigningKeyWanted::parse(&text),
                    Err(SealError::SigningKey { .. })
                ),
                "{kid}"
            );
        }
    }

    #[test]
    fn signing_key_of_another_broker_is_refused() {
        let (text, _) = signed(|_| (), "kbs://evil.example/default/key/k");
        assert!(matches!(
            SigningKeyWanted::parse(&text),
            Err(SealError::SigningKey { .. })
        ));
    }

    #[test]
    fn secret_at_another_listed_broker_loses_its_host() {
        let named = uri("kbs://models/default/key/k");
        let key = SigningJwk::generate().unwrap();
        let text = seal_vault(&named, &key, &uri(KEY)).unwrap();
        let wanted = SigningKeyWanted::parse(&text).unwrap();
        let public = key.public_json("any");
        let wanted = wanted.on_signing_key(public.as_bytes(), STRICT).unwrap();
        assert_eq!(*wanted.uri(), named);
    }

    #[test]
    fn unsigned_legacy_form_is_refused() {
        let (text, _) = sealed();
        let payload = text.split('.').nth(2).unwrap();
        let legacy = format!("sealed.fakejwsheader.{payload}.fakesignature");
        assert!(matches!(
            SigningKeyWanted::parse(&legacy),
            Err(SealError::Secret(SealedSecretError::Unsigned))
        ));
    }

    #[test]
    fn plain_name_is_looked_up_at_the_broker() {
        for kid in ["sealed-signing", "key.jwk", "K_1"] {
            let (text, jwk) = signed(|_| (), kid);
            let wanted = SigningKeyWanted::parse(&text).unwrap();
            assert!(
                matches!(wanted.place(), KeyPlace::Folder(name) if name.as_str() == kid),
                "{kid}"
            );
            assert!(wanted.on_signing_key(&jwk, STRICT).is_ok());
        }
    }

    #[test]
    fn unsigned_form_needs_more_than_its_name() {
        let (text, _) = sealed();
        let payload = text.split('.').nth(2).unwrap();
        let legacy = format!("sealed.fakejwsheader.{payload}.fakesignature\n");
        let wanted = SecretWanted::insecure_parse_unverified(&legacy, STRICT).unwrap();
        assert_eq!(wanted.uri().to_string(), SECRET);
    }

    #[test]
    fn envelope_opens_with_the_brokers_key_and_no_other() {
        let key = SigningJwk::generate().unwrap();
        let text = seal_envelope(b"inside", &KEK, &uri(SECRET), &key, &uri(KEY)).unwrap();
        let wanted = || {
            let wanted = SigningKeyWanted::parse(&text).unwrap();
            let jwk = key.public_json("any");
            wanted.on_signing_key(jwk.as_bytes(), STRICT).unwrap()
        };
        assert_eq!(wanted().uri().to_string(), SECRET);
        let opened = |kek: &[u8]| wanted().on_resource(Zeroizing::new(kek.to_vec()));
        assert_eq!(opened(&KEK).unwrap().as_slice(), b"inside");
        assert_eq!(
            opened(&[8; 32]),
            Err(SealError::Secret(SealedSecretError::Unwrap))
        );
        assert_eq!(
            opened(b"short"),
            Err(SealError::Secret(SealedSecretError::WrappingKey(5)))
        );
    }

    #[test]
    fn envelope_of_a_cloud_is_answered_otherwise_than_by_what_to_do_instead() {
        for provider in ["aliyun", "aws", "ehsm"] {
            let error = refused(|secret| {
                secret.content = sealed_envelope();
                if let Content::Envelope(envelope) = &mut secret.content {
                    envelope.provider = provider.into();
                }
            });
            let text = error.to_string();
            assert!(
                text.contains("not spoken here") && text.contains("strongroom seal envelope"),
                "{text}"
            );
            assert!(matches!(error, SealError::Unsupported { provider: p, .. } if p == provider));
        }
    }

    #[test]
    fn envelope_whose_key_no_guest_could_fetch_is_refused() {
        let error = refused(|secret| {
            secret.content = sealed_envelope();
            if let Content::Envelope(envelope) = &mut secret.content {
                envelope.key_id = "kbs:///a/b".into();
            }
        });
        assert!(matches!(error, SealError::Name { .. }), "{error}");
        let key = SigningJwk::generate().unwrap();
        assert!(seal_envelope(b"", &KEK, &uri("kbs:///a/b"), &key, &uri(KEY)).is_err());
        assert!(seal_envelope(b"", b"short", &uri(SECRET), &key, &uri(KEY)).is_err());
    }

    fn sealed_envelope() -> Content {
        envelope::seal_envelope(SECRET, &KEK, b"inside")
            .unwrap()
            .content
    }

    #[test]
    fn vault_of_another_provider_is_refused() {
        let error = refused(|secret| {
            if let Content::Vault(vault) = &mut secret.content {
                vault.provider = "aws".into();
            }
        });
        assert!(matches!(error, SealError::Unsupported { provider, .. } if provider == "aws"));
    }

    #[test]
    fn name_that_leaves_the_resource_tree_is_refused() {
        let error = refused(|secret| {
            if let Content::Vault(vault) = &mut secret.content {
                vault.name = "kbs:///default/../admin".into();
            }
        });
        assert!(matches!(error, SealError::Name { .. }));
    }

    #[test]
    fn an_html_page_is_no_signing_key() {
        let (text, _) = sealed();
        let error = SigningKeyWanted::parse(&text)
            .unwrap()
            .on_signing_key(b"<html>", STRICT)
            .unwrap_err();
        assert!(matches!(
            error,
            SealError::Secret(SealedSecretError::Key(_))
        ));
    }

    #[test]
    fn a_secret_no_guest_could_fetch_is_not_sealed() {
        let key = SigningJwk::generate().unwrap();
        assert!(seal_vault(&uri("kbs:///a/b"), &key, &uri(KEY)).is_err());
        assert!(seal_vault(&uri(SECRET), &key, &uri("kbs://other/a/b/c")).is_err());
    }
}
