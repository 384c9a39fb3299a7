//! Sealing a secret, and the steps of unsealing one: what to fetch first, what to check, what to fetch next.
//!
//! A core: it fetches nothing. Order: [`seal_vault`] on the owner's side; [`SigningKeyWanted`] → [`SecretWanted`] →
//! plaintext on the guest's. The key id is the sealed secret's own word, so the key it names must come from the broker:
//! a key from anywhere else would let whoever wrote the sealed text sign it as well.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

use strongroom_wire::resource::{ResourceError, ResourceUri};
use strongroom_wire::sealed_secret::{
    Content, SealedSecret, SealedSecretError, SigningJwk, UnverifiedSealedSecret, VerifyingJwk,
    seal,
};

/// Seals a pointer to a resource of the broker. The secret itself must be put into the broker separately.
///
/// # Errors
/// [`SealError::SigningKey`] or [`SealError::Name`] when a URI is not one that a guest could fetch.
pub fn seal_vault(
    resource: &ResourceUri,
    signing_key: &SigningJwk,
    signing_key_uri: &ResourceUri,
) -> Result<String, SealError> {
    fetchable(resource).map_err(|reason| SealError::Name {
        uri: resource.to_string(),
        reason,
    })?;
    fetchable(signing_key_uri).map_err(|reason| SealError::SigningKey {
        kid: signing_key_uri.to_string(),
        reason,
    })?;
    let secret = SealedSecret::vault(&resource.to_string());
    Ok(seal(&secret, signing_key, &signing_key_uri.to_string())?)
}

/// Unsealing, step 1 and 2: the text is parsed, not believed; its signing key is to be fetched.
pub struct SigningKeyWanted {
    secret: UnverifiedSealedSecret,
    uri: ResourceUri,
}

impl SigningKeyWanted {
    /// Parses a sealed secret; white space at its end is tolerated. Never-panic entry for untrusted sealed text.
    ///
    /// # Errors
    /// [`SealError::Secret`] when the text is no signed sealed secret, [`SealError::SigningKey`] when the key it names
    /// is not a resource of the broker.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let secret = UnverifiedSealedSecret::parse(text)?;
        let refuse = |reason| SealError::SigningKey {
            kid: shortened(secret.kid()),
            reason,
        };
        let uri: ResourceUri = secret
            .kid()
            .parse()
            .map_err(|error: ResourceError| refuse(error.to_string()))?;
        fetchable(&uri).map_err(refuse)?;
        Ok(Self { secret, uri })
    }

    /// Where the signing key is: fetch it from the broker and from nowhere else.
    pub fn uri(&self) -> &ResourceUri {
        &self.uri
    }

    /// Step 3: verifies the signature with the key that the broker gave, and reads where the secret is.
    ///
    /// # Errors
    /// [`SealError::Secret`] when the key is none or the signature does not verify; [`SealError::Unsupported`] when
    /// the secret is of a form that this build does not unseal.
    pub fn on_signing_key(self, jwk: &[u8]) -> Result<SecretWanted, SealError> {
        let secret = self.secret.verify(&VerifyingJwk::from_json(jwk)?)?;
        let vault = match secret.content {
            Content::Vault(vault) => vault,
            Content::Envelope(envelope) => {
                return Err(SealError::Unsupported {
                    what: "type \"envelope\"",
                    provider: shortened(&envelope.provider),
                });
            }
            _ => {
                return Err(SealError::Unsupported {
                    what: "an unknown type",
                    provider: String::new(),
                });
            }
        };
        if vault.provider != "kbs" {
            return Err(SealError::Unsupported {
                what: "type \"vault\"",
                provider: shortened(&vault.provider),
            });
        }
        let refuse = |reason| SealError::Name {
            uri: shortened(&vault.name),
            reason,
        };
        let uri: ResourceUri = vault
            .name
            .parse()
            .map_err(|error: ResourceError| refuse(error.to_string()))?;
        fetchable(&uri).map_err(refuse)?;
        Ok(SecretWanted { uri })
    }
}

/// Unsealing, step 4: the signature holds; what the broker gives for this URI is the plaintext.
#[derive(Debug)]
pub struct SecretWanted {
    uri: ResourceUri,
}

impl SecretWanted {
    /// Where the plaintext is.
    pub fn uri(&self) -> &ResourceUri {
        &self.uri
    }
}

/// The broker that a guest speaks to is the only one: a URI naming a host could mean another.
fn fetchable(uri: &ResourceUri) -> Result<(), String> {
    if !uri.host().is_empty() {
        return Err(format!(
            "it names the broker {:?}; write kbs:///repository/type/tag",
            shortened(uri.host())
        ));
    }
    uri.to_resource_path()
        .map(drop)
        .map_err(|error| error.to_string())
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
    /// The signing key is not a resource of the broker.
    #[error(
        "the sealed secret names the signing key {kid:?}, which is not fetched from the broker: {reason}"
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
    /// A form that is known and not unsealed by this build.
    #[error(
        "sealed secrets of {what} with provider {provider:?} are not supported by this build: \
         seal it as a vault secret with provider \"kbs\" (`strongroom seal`)"
    )]
    Unsupported {
        /// The type.
        what: &'static str,
        /// The provider, cut short.
        provider: String,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use strongroom_wire::sealed_secret::EnvelopeSecret;

    const SECRET: &str = "kbs:///default/fraud-dataset/dataset_key";
    const KEY: &str = "kbs:///default/sealed-signing-key/jwk_public";

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
            .on_signing_key(&jwk)
            .unwrap_err()
    }

    #[test]
    fn key_is_wanted_first_and_the_secret_after_it() {
        let (text, jwk) = sealed();
        let wanted = SigningKeyWanted::parse(&text).unwrap();
        assert_eq!(wanted.uri().to_string(), KEY);
        assert_eq!(
            wanted.on_signing_key(&jwk).unwrap().uri().to_string(),
            SECRET
        );
    }

    #[test]
    fn newline_and_carriage_return_at_the_end_are_tolerated() {
        let (text, jwk) = sealed();
        assert!(
            SigningKeyWanted::parse(&format!("{text} \r\n"))
                .unwrap()
                .on_signing_key(&jwk)
                .is_ok()
        );
    }

    #[test]
    fn key_of_another_signer_is_refused() {
        let ((text, _), (_, other)) = (sealed(), sealed());
        let error = SigningKeyWanted::parse(&text)
            .unwrap()
            .on_signing_key(&other)
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
            let outcome =
                SigningKeyWanted::parse(&changed).and_then(|wanted| wanted.on_signing_key(&jwk));
            assert!(outcome.is_err(), "character {at}");
        }
    }

    #[test]
    fn signing_key_outside_the_broker_is_never_looked_up() {
        for kid in [
            "sealed-signing",
            "../key",
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
    fn envelope_is_answered_by_what_to_do_instead() {
        let error = refused(|secret| {
            secret.content = Content::Envelope(EnvelopeSecret {
                key_id: "k".into(),
                encrypted_key: String::new(),
                encrypted_data: String::new(),
                wrap_type: "A256GCM".into(),
                iv: String::new(),
                provider: "aliyun".into(),
                provider_settings: BTreeMap::new(),
                annotations: BTreeMap::new(),
            });
        });
        assert!(
            error.to_string().contains("not supported by this build"),
            "{error}"
        );
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
            .on_signing_key(b"<html>")
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
