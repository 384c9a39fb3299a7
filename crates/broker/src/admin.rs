//! Who may administer: short-lived JWTs signed with `EdDSA` or ES256 by a key that the configuration names.
//!
//! The algorithm comes from the configured key, never from the token. There is no admin until `init` or the
//! operator writes one down.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use strongroom_wire::admin::{AUDIENCE, AdminClaims, MAX_LIFETIME_SECONDS};

use crate::config::{AdminConfig, Role};

/// The admins of one broker.
pub(crate) struct Admins {
    known: RwLock<Arc<[KnownAdmin]>>,
    /// The ids of the tokens that were used and have not expired: until when each is remembered.
    used: Mutex<HashMap<(String, String), u64>>,
}

/// An admin whose key was read.
pub(crate) struct KnownAdmin {
    name: String,
    role: Role,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// An admin who proved to be one. Only [`Admins::verify`] makes it.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    name: String,
}

impl Admin {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Admins {
    pub(crate) fn new(configured: &[AdminConfig]) -> Result<Self, AdminKeyError> {
        Ok(Self {
            known: RwLock::new(KnownAdmin::all(configured)?),
            used: Mutex::default(),
        })
    }

    /// Puts other admins in the place of those there are. What was used stays used.
    pub(crate) fn replace(&self, known: Arc<[KnownAdmin]>) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Believes a token whose subject is an admin, which that admin's key signed, and which is for a broker, for
    /// the admin's role, for now and not for long. Each token is believed once.
    pub(crate) fn verify(&self, presented: Option<&str>, now: u64) -> Result<Admin, AdminError> {
        let presented = presented.ok_or(AdminError::NoToken)?;
        let known = Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner));
        if known.is_empty() {
            return Err(AdminError::NoAdmins);
        }
        if presented.len() > MAX_TOKEN {
            return Err(AdminError::Malformed);
        }
        // The subject picks the key, as a key id would; the signature is then checked by that key alone.
        let unverified: AdminClaims = jsonwebtoken::dangerous::insecure_decode_claims(presented)
            .map_err(|_| AdminError::Malformed)?;
        let admin = known
            .iter()
            .find(|admin| admin.name == unverified.sub)
            .ok_or(AdminError::Unknown)?;
        let claims = admin.claims(presented)?;
        if claims.aud != AUDIENCE {
            return Err(AdminError::Audience);
        }
        if claims.role != admin.role.as_str() {
            return Err(AdminError::Role);
        }
        if now >= claims.exp {
            return Err(AdminError::Expired);
        }
        if claims.iat > now.saturating_add(MAX_SKEW) {
            return Err(AdminError::NotYetValid);
        }
        if claims.exp.saturating_sub(claims.iat) > MAX_LIFETIME_SECONDS {
            return Err(AdminError::Lifetime);
        }
        self.use_up(&admin.name, claims, now)?;
        Ok(Admin {
            name: admin.name.clone(),
        })
    }
}

impl Admins {
    /// Remembers a token's id until the token expires. What is remembered is never dropped to make room.
    fn use_up(&self, name: &str, claims: AdminClaims, now: u64) -> Result<(), AdminError> {
        if claims.jti.is_empty() || claims.jti.len() > MAX_ID {
            return Err(AdminError::Malformed);
        }
        // Each call leaves the map whole.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= MAX_USED {
            used.retain(|_, expires| *expires > now);
        }
        let full = used.len() >= MAX_USED;
        match used.entry((name.to_owned(), claims.jti)) {
            Entry::Occupied(_) => Err(AdminError::Replayed),
            Entry::Vacant(_) if full => Err(AdminError::Busy),
            Entry::Vacant(place) => {
                place.insert(claims.exp);
                Ok(())
            }
        }
    }
}

impl KnownAdmin {
    /// Reads the keys of a configuration.
    pub(crate) fn all(configured: &[AdminConfig]) -> Result<Arc<[Self]>, AdminKeyError> {
        let known = configured.iter().map(|admin| {
            let (algorithm, key) = public_key(&admin.public_key).ok_or_else(|| AdminKeyError {
                name: admin.name.clone(),
            })?;
            Ok(Self {
                name: admin.name.clone(),
                role: admin.role,
                algorithm,
                key,
            })
        });
        known.collect()
    }

    /// The claims of a token that this admin's key signed with this admin's algorithm. Times and audience are
    /// left to the caller, who has the clock.
    fn claims(&self, presented: &str) -> Result<AdminClaims, AdminError> {
        let mut validation = Validation::new(self.algorithm);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<AdminClaims>(presented, &self.key, &validation)
            .map(|token| token.claims)
            .map_err(|_| AdminError::Signature)
    }
}

/// Reads a public key as PEM `SubjectPublicKeyInfo`: Ed25519 or P-256, by the one DER prefix that each has.
fn public_key(pem: &str) -> Option<(Algorithm, DecodingKey)> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).ok()?;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    if let Some(key) = der.strip_prefix(&ED25519_PREFIX) {
        let key = <&[u8; 32]>::try_from(key).ok()?;
        return Some((
            Algorithm::EdDSA,
            DecodingKey::from_ed_components(&encode(key)).ok()?,
        ));
    }
    let point = <&[u8; 64]>::try_from(der.strip_prefix(&P256_PREFIX)?).ok()?;
    let (x, y) = point.split_at(32);
    Some((
        Algorithm::ES256,
        DecodingKey::from_ec_components(&encode(x), &encode(y)).ok()?,
    ))
}

/// An admin whose key is of no use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("admin {name:?}: public_key is not an Ed25519 or P-256 public key in PEM")]
pub struct AdminKeyError {
    name: String,
}

/// Why a request is not an admin's. The text goes to whoever asked, so it says nothing about other admins.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("this wants an admin token in the Authorization header")]
    NoToken,
    #[error(
        "this broker has no admin: run `strongroom broker init`, or name an [[admin]] in its configuration"
    )]
    NoAdmins,
    #[error("the admin token is malformed, or lacks one of sub, role, aud, iat, exp, jti")]
    Malformed,
    #[error("the admin token is not signed by a key of this broker's configuration")]
    Unknown,
    #[error("the admin token is not signed by a key of this broker's configuration")]
    Signature,
    #[error("the admin token is for another audience")]
    Audience,
    #[error("the admin token asks for a role that its key does not have")]
    Role,
    #[error("the admin token has expired")]
    Expired,
    #[error("the admin token was issued in the future: compare the clocks")]
    NotYetValid,
    #[error("the admin token lives longer than {MAX_LIFETIME_SECONDS} s")]
    Lifetime,
    #[error("the admin token was used before: each request wants a fresh one")]
    Replayed,
    #[error("too many admin tokens were used lately: wait until some have expired")]
    Busy,
}

const MAX_TOKEN: usize = 8 * 1024;
const MAX_ID: usize = 128;
/// A few hundred requests a second for as long as a token lives.
const MAX_USED: usize = 65_536;
const MAX_SKEW: u64 = 60;
/// RFC 8410, 4: the DER of an Ed25519 public key up to its 32 bytes.
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// RFC 5480, 2.1.1: the DER of an uncompressed P-256 public key up to its 64 bytes.
const P256_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 3, 1, 7, 3, 0x42, 0, 4,
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};

    use super::*;

    const NOW: u64 = 1_000_000;

    fn claims() -> AdminClaims {
        AdminClaims {
            sub: "alice".into(),
            role: "admin".into(),
            aud: AUDIENCE.into(),
            iat: NOW,
            exp: NOW + 60,
            jti: "1".into(),
        }
    }

    struct Key {
        pair: rcgen::KeyPair,
        algorithm: Algorithm,
    }

    impl Key {
        fn ed25519() -> Self {
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            Self {
                pair,
                algorithm: Algorithm::EdDSA,
            }
        }

        fn p256() -> Self {
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            Self {
                pair,
                algorithm: Algorithm::ES256,
            }
        }

        fn admins(&self) -> Admins {
            Admins::new(&[AdminConfig {
                name: "alice".into(),
                role: Role::Admin,
                public_key: self.pair.public_key_pem(),
            }])
            .unwrap()
        }

        fn sign(&self, claims: &impl serde::Serialize) -> String {
            let pem = self.pair.serialize_pem();
            let key = match self.algorithm {
                Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
                _ => EncodingKey::from_ec_pem(pem.as_bytes()),
            };
            jsonwebtoken::encode(&Header::new(self.algorithm), claims, &key.unwrap()).unwrap()
        }
    }

    fn refusal(change: impl FnOnce(&mut AdminClaims)) -> AdminError {
        let key = Key::ed25519();
        let mut claims = claims();
        change(&mut claims);
        key.admins()
            .verify(Some(&key.sign(&claims)), NOW)
            .unwrap_err()
    }

    #[test]
    fn both_kinds_of_key_are_accepted() {
        for key in [Key::ed25519(), Key::p256()] {
            let admin = key
                .admins()
                .verify(Some(&key.sign(&claims())), NOW)
                .unwrap();
            assert_eq!(admin.name(), "alice");
        }
    }

    #[test]
    fn token_is_believed_once() {
        let key = Key::ed25519();
        let (admins, token) = (key.admins(), key.sign(&claims()));
        admins.verify(Some(&token), NOW).unwrap();
        let again = admins.verify(Some(&token), NOW + 59).unwrap_err();
        assert_eq!(again, AdminError::Replayed);
        // Other claims under the same id are a replay too.
        let mut other = claims();
        other.exp += 1;
        let again = admins.verify(Some(&key.sign(&other)), NOW).unwrap_err();
        assert_eq!(again, AdminError::Replayed);
    }

    #[test]
    fn refused_token_does_not_use_up_an_id() {
        let key = Key::ed25519();
        let admins = key.admins();
        let forged = Key::ed25519().sign(&claims());
        admins.verify(Some(&forged), NOW).unwrap_err();
        admins.verify(Some(&key.sign(&claims())), NOW).unwrap();
    }

    #[test]
    fn full_memory_of_tokens_refuses_and_forgets_only_the_expired() {
        let key = Key::ed25519();
        let admins = key.admins();
        let id = |number: usize| ("alice".to_owned(), format!("old-{number}"));
        let filled = (0..MAX_USED).map(|number| (id(number), NOW + 10));
        *admins.used.lock().unwrap() = filled.collect();
        let token = key.sign(&claims());
        let refused = admins.verify(Some(&token), NOW).unwrap_err();
        assert_eq!(refused, AdminError::Busy);
        assert_eq!(admins.used.lock().unwrap().len(), MAX_USED);
        admins.verify(Some(&token), NOW + 10).unwrap();
        assert_eq!(admins.used.lock().unwrap().len(), 1);
    }

    #[test]
    fn id_that_is_empty_or_endless_is_refused() {
        assert_eq!(refusal(|c| c.jti.clear()), AdminError::Malformed);
        assert_eq!(
            refusal(|c| c.jti = "x".repeat(MAX_ID + 1)),
            AdminError::Malformed
        );
    }

    #[test]
    fn no_token_is_refused() {
        assert_eq!(
            Key::p256().admins().verify(None, NOW).unwrap_err(),
            AdminError::NoToken
        );
    }

    #[test]
    fn broker_without_admins_refuses_everything() {
        let token = Key::p256().sign(&claims());
        assert_eq!(
            Admins::new(&[])
                .unwrap()
                .verify(Some(&token), NOW)
                .unwrap_err(),
            AdminError::NoAdmins
        );
    }

    #[test]
    fn expired_token_is_refused() {
        assert_eq!(refusal(|c| c.exp = NOW), AdminError::Expired);
    }

    #[test]
    fn token_of_the_future_is_refused() {
        assert_eq!(
            refusal(|c| (c.iat, c.exp) = (NOW + 61, NOW + 100)),
            AdminError::NotYetValid
        );
    }

    #[test]
    fn token_that_lives_too_long_is_refused() {
        assert_eq!(
            refusal(|c| c.exp = NOW + MAX_LIFETIME_SECONDS + 1),
            AdminError::Lifetime
        );
    }

    #[test]
    fn wrong_audience_is_refused() {
        assert_eq!(refusal(|c| c.aud = "kbs".into()), AdminError::Audience);
    }

    #[test]
    fn wrong_role_is_refused() {
        assert_eq!(refusal(|c| c.role = "auditor".into()), AdminError::Role);
    }

    #[test]
    fn unknown_subject_is_refused() {
        assert_eq!(refusal(|c| c.sub = "bob".into()), AdminError::Unknown);
    }

    #[test]
    fn missing_claim_is_refused() {
        let key = Key::p256();
        for claim in ["sub", "role", "aud", "iat", "exp", "jti"] {
            let mut claims = serde_json::to_value(claims()).unwrap();
            claims.as_object_mut().unwrap().remove(claim);
            let outcome = key.admins().verify(Some(&key.sign(&claims)), NOW);
            assert_eq!(outcome.unwrap_err(), AdminError::Malformed, "{claim}");
        }
    }

    #[test]
    fn token_of_another_key_is_refused() {
        let token = Key::ed25519().sign(&claims());
        assert_eq!(
            Key::ed25519()
                .admins()
                .verify(Some(&token), NOW)
                .unwrap_err(),
            AdminError::Signature
        );
        assert_eq!(
            Key::p256().admins().verify(Some(&token), NOW).unwrap_err(),
            AdminError::Signature
        );
    }

    #[test]
    fn algorithm_none_is_refused() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let body = encode(&serde_json::to_string(&claims()).unwrap());
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"None","typ":"JWT"}"#, "{}"] {
            for signature in ["", "AAAA"] {
                let token = format!("{}.{body}.{signature}", encode(header));
                assert!(
                    Key::p256().admins().verify(Some(&token), NOW).is_err(),
                    "{header}"
                );
            }
        }
    }

    #[test]
    fn public_key_used_as_an_hmac_secret_is_refused() {
        let key = Key::p256();
        for secret in [
            key.pair.public_key_pem().into_bytes(),
            key.pair.public_key_raw().to_vec(),
        ] {
            let secret = EncodingKey::from_secret(&secret);
            let token =
                jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap();
            assert_eq!(
                key.admins().verify(Some(&token), NOW).unwrap_err(),
                AdminError::Signature
            );
        }
    }

    #[test]
    fn changed_claims_are_refused() {
        let key = Key::ed25519();
        let token = key.sign(&claims());
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let mut longer = claims();
        longer.exp += 1;
        parts[1] = URL_SAFE_NO_PAD.encode(serde_json::to_string(&longer).unwrap());
        assert_eq!(
            key.admins()
                .verify(Some(&parts.join(".")), NOW)
                .unwrap_err(),
            AdminError::Signature
        );
    }

    #[test]
    fn text_that_is_no_token_is_refused_without_a_panic() {
        for text in ["", ".", "..", "a.b.c", "é.é.é", &"x".repeat(MAX_TOKEN + 1)] {
            assert_eq!(
                Key::p256().admins().verify(Some(text), NOW).unwrap_err(),
                AdminError::Malformed
            );
        }
    }

    #[test]
    fn p384_or_private_key_in_the_configuration_is_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        for public_key in [
            p384.public_key_pem(),
            Key::p256().pair.serialize_pem(),
            String::new(),
        ] {
            let admin = AdminConfig {
                name: "alice".into(),
                role: Role::Admin,
                public_key,
            };
            assert!(Admins::new(&[admin]).is_err());
        }
    }
}
