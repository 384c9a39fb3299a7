//! What an issuer publishes, and what a token's head says: RFC 7517 (JWK sets), `OpenID` Connect Discovery 1.0,
//! RFC 7515, 4.1 (heads).
//!
//! The type of a key decides which algorithms it may sign with. What a token's head says only picks among those, so no
//! head turns a public key into a secret. Keys that a head carries or points to (`jwk`, `jku`, `x5c`, `x5u`) are not
//! looked at.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// The keys that an issuer signs with.
pub(super) struct KeySet {
    keys: Vec<IssuerKey>,
}

struct IssuerKey {
    id: Option<String>,
    /// With which it may sign.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl KeySet {
    /// Reads a JWK set. Keys that sign nothing here (for encryption, symmetric, on other curves, too short) are left
    /// out; a set without any other is refused.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeysError> {
        let set: UnverifiedSet =
            serde_json::from_slice(bytes).map_err(|_| KeysError::Malformed("JWK set"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeysError::TooMany(set.keys.len()));
        }
        let keys: Vec<_> = set.keys.into_iter().filter_map(IssuerKey::parse).collect();
        match keys.is_empty() {
            true => Err(KeysError::None),
            false => Ok(Self { keys }),
        }
    }

    /// The one key that a head may mean.
    pub(super) fn pick(&self, head: &Head) -> Result<&DecodingKey, PickError> {
        let of_id = |key: &&IssuerKey| match &head.kid {
            Some(id) => key.id.as_ref() == Some(id),
            None => true,
        };
        let mut fitting = self
            .keys
            .iter()
            .filter(of_id)
            .filter(|key| key.algorithms.contains(&head.algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(&one.key),
            (Some(_), Some(_)) => Err(PickError::Ambiguous),
            (None, _) if self.keys.iter().any(|key| of_id(&key)) => Err(PickError::Algorithm),
            (None, _) => Err(PickError::Unknown),
        }
    }
}

impl IssuerKey {
    fn parse(value: Value) -> Option<Self> {
        let jwk: UnverifiedJwk = serde_json::from_value(value).ok()?;
        // A private key that everybody can read proves nothing.
        if jwk.d.is_some() || jwk.purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        if jwk
            .key_ops
            .is_some_and(|ops| !ops.iter().any(|op| op == "verify"))
        {
            return None;
        }
        let bytes = |text: &Option<String>| {
            let text = text.as_deref().filter(|text| text.len() <= MAX_NUMBER)?;
            URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
        };
        let (mut algorithms, key) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(&jwk.x)?, bytes(&jwk.y)?);
                if (x.len(), y.len()) != (32, 32) {
                    return None;
                }
                let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
                let key = DecodingKey::from_ec_components(&encode(&x), &encode(&y)).ok()?;
                (vec![Algorithm::ES256], key)
            }
            ("OKP", Some("Ed25519")) => {
                let x = bytes(&jwk.x).filter(|x| x.len() == 32)?;
                let key = DecodingKey::from_ed_components(&URL_SAFE_NO_PAD.encode(x)).ok()?;
                (vec![Algorithm::EdDSA], key)
            }
            ("RSA", _) => {
                let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
                let n = &n[n.iter().take_while(|byte| **byte == 0).count()..];
                if !RSA_BYTES.contains(&n.len()) || e.len() > MAX_EXPONENT {
                    return None;
                }
                (RSA.to_vec(), DecodingKey::from_rsa_raw_components(n, &e))
            }
            _ => return None,
        };
        if let Some(named) = &jwk.alg {
            algorithms.retain(|algorithm| algorithm_of(named) == Some(*algorithm));
        }
        (!algorithms.is_empty()).then_some(Self {
            id: jwk.kid,
            algorithms,
            key,
        })
    }
}

/// What a token's head says before anything of it is verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Head {
    pub(super) algorithm: Algorithm,
    kid: Option<String>,
}

impl Head {
    /// Reads the head of a token. One that asks for what is not understood (`crit`), or is signed with anything but
    /// the algorithms of [`KeySet`], is none.
    pub(super) fn parse(token: &str) -> Option<Self> {
        let head = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
        let head: UnverifiedHead = serde_json::from_slice(&head).ok()?;
        if head.crit.is_some() {
            return None;
        }
        Some(Self {
            algorithm: algorithm_of(&head.alg)?,
            kid: head.kid,
        })
    }
}

/// Where a discovery document says that its issuer's keys are.
pub(super) fn discovered(bytes: &[u8], issuer: &str) -> Result<String, KeysError> {
    let document: UnverifiedDiscovery =
        serde_json::from_slice(bytes).map_err(|_| KeysError::Malformed("discovery document"))?;
    match document.issuer == issuer {
        true => Ok(document.jwks_uri),
        false => Err(KeysError::Issuer),
    }
}

fn algorithm_of(name: &str) -> Option<Algorithm> {
    match name {
        "ES256" => Some(Algorithm::ES256),
        "EdDSA" => Some(Algorithm::EdDSA),
        "RS256" => Some(Algorithm::RS256),
        "RS384" => Some(Algorithm::RS384),
        "PS256" => Some(Algorithm::PS256),
        _ => None,
    }
}

#[derive(Deserialize)]
struct UnverifiedSet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct UnverifiedJwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<Value>,
}

#[derive(Deserialize)]
struct UnverifiedHead {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct UnverifiedDiscovery {
    issuer: String,
    jwks_uri: String,
}

/// Why what an issuer publishes is of no use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum KeysError {
    #[error("this is no {0}")]
    Malformed(&'static str),
    #[error("there are {0} keys, more than anybody signs with")]
    TooMany(usize),
    #[error("there is no key that signs with ES256, EdDSA, RS256, RS384 or PS256")]
    None,
    #[error("the discovery document is that of another issuer")]
    Issuer,
}

/// Why no key is picked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PickError {
    /// No key has that id.
    Unknown,
    /// There is a key, and it does not sign so.
    Algorithm,
    /// There are several.
    Ambiguous,
}

const RSA: [Algorithm; 3] = [Algorithm::RS256, Algorithm::RS384, Algorithm::PS256];
/// 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
const MAX_EXPONENT: usize = 8;
const MAX_NUMBER: usize = 2048;
const MAX_KEYS: usize = 64;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn numbers(bytes: usize) -> String {
        URL_SAFE_NO_PAD.encode(vec![0xc5; bytes])
    }

    fn ed25519() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": "e", "x": numbers(32)})
    }

    fn rsa() -> Value {
        json!({"kty": "RSA", "kid": "r", "n": numbers(256), "e": "AQAB"})
    }

    fn set(keys: &[Value]) -> Result<KeySet, KeysError> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn head(json: Value) -> Option<Head> {
        Head::parse(&format!(
            "{}.e30.",
            URL_SAFE_NO_PAD.encode(json.to_string())
        ))
    }

    #[test]
    fn key_signs_with_an_algorithm_of_another_type() {
        let set = set(&[ed25519(), rsa()]).unwrap();
        for (kid, algorithm, fits) in [
            ("e", "EdDSA", true),
            ("e", "ES256", false),
            ("e", "RS256", false),
            ("r", "RS256", true),
            ("r", "RS384", true),
            ("r", "PS256", true),
            ("r", "EdDSA", false),
        ] {
            let head = head(json!({"alg": algorithm, "kid": kid})).unwrap();
            let picked = set.pick(&head).map(drop);
            let wanted = if fits {
                Ok(())
            } else {
                Err(PickError::Algorithm)
            };
            assert_eq!(picked, wanted, "{kid} {algorithm}");
        }
    }

    #[test]
    fn key_that_names_its_algorithm_signs_with_another() {
        let mut key = rsa();
        key["alg"] = json!("RS384");
        let set = set(&[key]).unwrap();
        let of = |alg: &str| head(json!({"alg": alg, "kid": "r"})).unwrap();
        assert!(set.pick(&of("RS384")).is_ok());
        assert_eq!(set.pick(&of("RS256")).map(drop), Err(PickError::Algorithm));
    }

    #[test]
    fn key_of_no_use_here_is_taken() {
        let changed = |mut key: Value, member: &str, value: Value| {
            key[member] = value;
            key
        };
        for key in [
            json!({"kty": "oct", "k": "c2VjcmV0", "kid": "h", "alg": "HS256"}),
            changed(rsa(), "n", json!(numbers(128))),
            changed(rsa(), "n", json!(numbers(1025))),
            changed(rsa(), "n", json!("!")),
            changed(rsa(), "e", json!(numbers(9))),
            changed(rsa(), "use", json!("enc")),
            changed(rsa(), "key_ops", json!(["encrypt"])),
            changed(rsa(), "alg", json!("HS256")),
            changed(rsa(), "alg", json!("none")),
            changed(rsa(), "d", json!("AQ")),
            changed(ed25519(), "crv", json!("X25519")),
            changed(ed25519(), "x", json!(numbers(31))),
            changed(ed25519(), "kid", json!(7)),
            json!("text"),
        ] {
            assert_eq!(
                set(std::slice::from_ref(&key)).err(),
                Some(KeysError::None),
                "{key}"
            );
            // It spoils no other.
            assert!(set(&[key, ed25519()]).is_ok());
        }
    }

    #[test]
    fn two_keys_of_one_id_are_told_apart() {
        let set = set(&[ed25519(), ed25519()]).unwrap();
        for head in [
            head(json!({"alg": "EdDSA", "kid": "e"})),
            head(json!({"alg": "EdDSA"})),
        ] {
            let picked = set.pick(&head.unwrap()).map(drop);
            assert_eq!(picked, Err(PickError::Ambiguous));
        }
    }

    #[test]
    fn id_that_is_a_path_or_a_statement_names_a_key() {
        let set = set(&[ed25519()]).unwrap();
        for kid in ["", "../../dev/null", "' OR 1=1 --", "E", "e\u{0}", "*"] {
            let head = head(json!({"alg": "EdDSA", "kid": kid})).unwrap();
            assert_eq!(set.pick(&head).map(drop), Err(PickError::Unknown), "{kid}");
        }
    }

    #[test]
    fn head_without_a_known_signature_is_one() {
        for bad in [
            json!({"alg": "none"}),
            json!({"alg": "None"}),
            json!({"alg": "HS256", "kid": "r"}),
            json!({"alg": "RS512"}),
            json!({"alg": "rs256"}),
            json!({"alg": ["RS256"]}),
            json!({"alg": "RS256", "kid": ["r"]}),
            json!({"alg": "RS256", "crit": ["b64"]}),
            json!({"kid": "r"}),
            json!([]),
        ] {
            assert_eq!(head(bad.clone()), None, "{bad}");
        }
        assert!(Head::parse("").is_none() && Head::parse("..").is_none());
        let twice = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","alg":"ES256"}"#);
        assert_eq!(Head::parse(&format!("{twice}.e30.")), None);
    }

    #[test]
    fn set_that_is_empty_or_endless_is_taken() {
        assert_eq!(set(&[]).err(), Some(KeysError::None));
        let many = vec![ed25519(); MAX_KEYS + 1];
        assert_eq!(set(&many).err(), Some(KeysError::TooMany(MAX_KEYS + 1)));
        assert!(KeySet::parse(b"<html>").is_err());
        assert!(KeySet::parse(b"{\"keys\":{}}").is_err());
    }

    #[test]
    fn discovery_document_of_another_issuer_is_believed() {
        let document = json!({"issuer": "https://a", "jwks_uri": "https://a/k"}).to_string();
        let found = discovered(document.as_bytes(), "https://a");
        assert_eq!(found.unwrap(), "https://a/k");
        for other in ["https://a/", "https://b", "HTTPS://a"] {
            let found = discovered(document.as_bytes(), other);
            assert_eq!(found.unwrap_err(), KeysError::Issuer);
        }
    }
}
