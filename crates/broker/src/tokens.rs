//! Attestation tokens: issued only from an appraisal, believed only when this broker's key signed them.
//!
//! A guest shows its token for each resource. What was believed lately is remembered by the token's digest, so that the
//! signature is checked and the claims are read once; that a token has not expired is looked at each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, EllipticCurveKeyParameters,
    EllipticCurveKeyType, Jwk, KeyAlgorithm, PublicKeyUse, ThumbprintHash,
};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use strongroom_verifier::{AppraisedClaims, Assurance, Subject};
use strongroom_wire::ear::{
    self, EarClaims, EarError, EarSigner, MAX_TOKEN, SignedEar, Submod, UnverifiedEar, VerifierId,
};
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::tee::Tee;
use zeroize::Zeroizing;

use crate::audit::fresh_id;

/// The broker's signing key and what it writes into tokens.
pub(crate) struct Issuer {
    signing: EarSigner,
    verifying: DecodingKey,
    jwk: Jwk,
    kid: String,
    name: String,
    lifetime: u64,
    believed: Mutex<Believed>,
}

/// A token as it was issued.
pub(crate) struct IssuedToken {
    pub(crate) jwt: String,
    pub(crate) id: String,
    /// Its payload, as JSON.
    pub(crate) claims: String,
}

impl Issuer {
    /// Takes the P-256 key pair, as PKCS#8 PEM, and its certificate chain, leaf first.
    pub(crate) fn new(
        private_key_pem: &str,
        chain: &[CertificateDer<'_>],
        name: String,
        lifetime: u64,
    ) -> Result<Self, TokenKeyError> {
        let pair = rcgen::KeyPair::from_pem(private_key_pem).map_err(|_| TokenKeyError::NotP256)?;
        let (x, y) = p256_point(&pair).ok_or(TokenKeyError::NotP256)?;
        let leaf = chain.first().ok_or(TokenKeyError::NoCertificate)?;
        // The key's point stands in its certificate's SubjectPublicKeyInfo and nowhere else by chance.
        if !leaf
            .windows(pair.public_key_raw().len())
            .any(|bytes| bytes == pair.public_key_raw())
        {
            return Err(TokenKeyError::OtherCertificate);
        }
        let jwk = Jwk {
            common: CommonParameters {
                key_algorithm: Some(KeyAlgorithm::ES256),
                x509_chain: Some(chain.iter().map(|der| STANDARD.encode(der)).collect()),
                ..CommonParameters::default()
            },
            algorithm: AlgorithmParameters::EllipticCurve(EllipticCurveKeyParameters {
                key_type: EllipticCurveKeyType::EC,
                curve: EllipticCurve::P256,
                x: x.clone(),
                y: y.clone(),
            }),
        };
        let kid = jwk
            .thumbprint(ThumbprintHash::SHA256)
            .map_err(|_| TokenKeyError::NotP256)?;
        let pkcs8 = Zeroizing::new(pair.serialize_der());
        Ok(Self {
            signing: EarSigner::new(&pkcs8, jwk.clone(), &kid)
                .map_err(|_| TokenKeyError::NotP256)?,
            verifying: DecodingKey::from_ec_components(&x, &y)
                .map_err(|_| TokenKeyError::NotP256)?,
            kid,
            jwk,
            name,
            lifetime,
            believed: Mutex::default(),
        })
    }

    /// Signs what an appraisal found. A token that would not fit into a request's head is not issued: its
    /// guest could never show it.
    pub(crate) fn issue(
        &self,
        appraised: &AppraisedClaims,
        audience: Option<&str>,
        now: u64,
    ) -> Result<IssuedToken, IssueError> {
        let id = hex::encode(fresh_id::<16>());
        let submods = appraised
            .submods()
            .iter()
            .map(|appraisal| {
                let submod = Submod {
                    status: appraisal.trust_vector().status(),
                    trust_vector: *appraisal.trust_vector(),
                    policy_id: Some(appraisal.policy_id().to_owned()),
                    annotated_evidence: appraisal.annotated_evidence().clone(),
                    extensions: appraisal.extensions().clone().into_iter().collect(),
                };
                (appraisal.name().to_owned(), submod)
            })
            .collect();
        let claims = EarClaims {
            eat_profile: ear::PROFILE.to_owned(),
            iat: now,
            verifier_id: VerifierId {
                developer: "strongroom".to_owned(),
                build: concat!("strongroom-broker ", env!("CARGO_PKG_VERSION")).to_owned(),
            },
            submods,
            exp: now.saturating_add(self.lifetime),
            iss: self.name.clone(),
            jti: Some(id.clone()),
            aud: audience.map(str::to_owned),
        };
        let SignedEar { jwt, payload } = self.signing.sign(&claims)?;
        if jwt.len() > MAX_TOKEN {
            return Err(IssueError::TooLong { actual: jwt.len() });
        }
        // Its guest shows it next. Claims that nothing can be released on are refused then, as those of any token.
        if let Ok(token) = VerifiedToken::from_claims(claims) {
            self.remember(&jwt, Arc::new(token));
        }
        Ok(IssuedToken {
            jwt,
            id,
            claims: payload,
        })
    }

    /// The signing key's thumbprint.
    pub(crate) fn key_id(&self) -> &str {
        &self.kid
    }

    /// The keys by which anybody verifies the tokens, as a JWK set (RFC 7517).
    pub(crate) fn jwks(&self) -> Value {
        let mut jwk = self.jwk.clone();
        jwk.common.key_id = Some(self.kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        json!({ "keys": [jwk] })
    }

    /// Whether the key signs what it then verifies.
    pub(crate) fn can_sign(&self, now: u64) -> bool {
        let claims = serde_json::json!({ "exp": now });
        let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
        validation.validate_exp = false;
        self.signing.sign(&claims).is_ok_and(|token| {
            jsonwebtoken::decode::<Value>(token.jwt, &self.verifying, &validation).is_ok()
        })
    }

    /// Believes a token that this key signed for a guest of this broker, and that has not expired. The key that a token
    /// brings along is never looked at. A token with an audience was made for others, from evidence whose freshness this
    /// broker knows nothing of.
    pub(crate) fn verify(
        &self,
        presented: &str,
        now: u64,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        let digest = digest_of(presented);
        if let Some(token) = self.believed().get(&digest)
            && token.issued <= now
            && now < token.expires
        {
            return Ok(token);
        }
        let token = UnverifiedEar::parse(presented)?;
        if token.kid() != Some(&self.kid) {
            return Err(TokenError::OtherIssuer);
        }
        let token = VerifiedToken::from_claims(token.verify(&self.verifying, now)?)?;
        let token = Arc::new(token);
        self.remember(presented, Arc::clone(&token));
        Ok(token)
    }

    fn remember(&self, jwt: &str, token: Arc<VerifiedToken>) {
        self.believed().insert(digest_of(jwt), token, jwt.len());
    }

    fn believed(&self) -> std::sync::MutexGuard<'_, Believed> {
        // Each call leaves it whole.
        self.believed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tokens believed lately, in two generations: when the younger one is full, the older one is forgotten. A token that
/// is shown again is young again.
#[derive(Default)]
struct Believed {
    young: HashMap<Digest, (Arc<VerifiedToken>, usize)>,
    old: HashMap<Digest, (Arc<VerifiedToken>, usize)>,
    young_bytes: usize,
}

impl Believed {
    fn get(&mut self, digest: &Digest) -> Option<Arc<VerifiedToken>> {
        if let Some((token, _)) = self.young.get(digest) {
            return Some(Arc::clone(token));
        }
        let (token, bytes) = self.old.remove(digest)?;
        self.insert(*digest, Arc::clone(&token), bytes);
        Some(token)
    }

    /// Remembers a token whose text has so many bytes; its claims take several times as many.
    fn insert(&mut self, digest: Digest, token: Arc<VerifiedToken>, bytes: usize) {
        if bytes > MAX_REMEMBERED / 8 {
            return;
        }
        if self.young_bytes.saturating_add(bytes) > MAX_REMEMBERED {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(digest, (token, bytes));
    }
}

/// SHA-256 over a token's text.
type Digest = [u8; 32];

fn digest_of(token: &str) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    bytes
}

/// A token that this broker issued. Only [`Issuer::verify`] makes it.
pub(crate) struct VerifiedToken {
    tee_key: TeePublicKey,
    tee: Option<Tee>,
    development: Vec<Option<Tee>>,
    id: String,
    issued: u64,
    expires: u64,
    payload: Value,
    subject: Subject,
}

impl VerifiedToken {
    fn from_claims(claims: EarClaims) -> Result<Self, TokenError> {
        // Here, and so for every token that is believed: what was issued is remembered as well.
        if claims.aud.is_some() {
            return Err(TokenError::ForOthers);
        }
        let evidence = &claims
            .submods
            .get("cpu0")
            .ok_or(TokenError::NoKey)?
            .annotated_evidence;
        let tee_key = evidence
            .get("runtime_data_claims")
            .and_then(|claims| claims.get("tee-pubkey"))
            .and_then(|key| serde_json::from_value(key.clone()).ok())
            .ok_or(TokenError::NoKey)?;
        let hardware = |submod: &Submod| {
            submod
                .annotated_evidence
                .get("assurance")
                .and_then(Value::as_str)
                == Some(Assurance::Hardware.as_str())
        };
        let platform = |submod: &Submod| {
            submod
                .annotated_evidence
                .keys()
                .find_map(|n| n.parse().ok())
        };
        let development = claims
            .submods
            .values()
            .filter(|submod| !hardware(submod))
            .map(platform)
            .collect();
        let tee = evidence.keys().find_map(|name| name.parse().ok());
        let id = claims.jti.clone().unwrap_or_default();
        let payload = serde_json::to_value(&claims).map_err(|_| TokenError::NoKey)?;
        Ok(Self {
            tee_key,
            tee,
            development,
            id,
            issued: claims.iat,
            expires: claims.exp,
            subject: Subject::new(&payload),
            payload,
        })
    }

    /// The one key that anything released on this token is encrypted to.
    pub(crate) fn tee_key(&self) -> &TeePublicKey {
        &self.tee_key
    }

    pub(crate) fn tee(&self) -> Option<Tee> {
        self.tee
    }

    /// The platform of each piece of evidence that rests on no hardware's maker; anything that does not say so
    /// counts as development.
    pub(crate) fn development(&self) -> &[Option<Tee>] {
        &self.development
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What a release policy sees of it.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The payload.
    pub(crate) fn payload(&self) -> &Value {
        &self.payload
    }
}

/// Why a token is not issued.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum IssueError {
    #[error(transparent)]
    Ear(#[from] EarError),
    #[error("the token would have {actual} bytes, at most {MAX_TOKEN}: make the init-data smaller")]
    TooLong { actual: usize },
}

/// Why a token is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(transparent)]
    Ear(#[from] EarError),
    #[error("the attestation token is not of this broker: attest here first")]
    OtherIssuer,
    #[error(
        "the attestation token came from the attestation service, for relying parties other than this broker: attest \
         here first"
    )]
    ForOthers,
    #[error("the attestation token binds no key")]
    NoKey,
}

/// Why a key cannot sign tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenKeyError {
    /// It is another kind of key.
    #[error("the token key is not a P-256 private key in PKCS#8 PEM")]
    NotP256,
    /// The chain file has no certificate.
    #[error("the token certificate chain holds no certificate")]
    NoCertificate,
    /// The chain's first certificate is for another key.
    #[error("the first certificate of the token chain is not of the token key")]
    OtherCertificate,
}

/// The coordinates of a P-256 public key, base64url.
fn p256_point(pair: &rcgen::KeyPair) -> Option<(String, String)> {
    let point = pair.public_key_raw();
    if pair.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 || point.len() != 65 {
        return None;
    }
    let (x, y) = point.get(1..)?.split_at(32);
    Some((URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y)))
}

/// Of tokens' texts, in one generation: a hundred tokens or so, and their claims take a megabyte.
const MAX_REMEMBERED: usize = 256 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn key() -> (String, CertificateDer<'static>) {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = rcgen::CertificateParams::new(vec![]).unwrap();
        let certificate = params.self_signed(&pair).unwrap();
        (pair.serialize_pem(), certificate.der().clone())
    }

    fn claims(evidence: Value) -> EarClaims {
        let Value::Object(annotated_evidence) = evidence else {
            unreachable!()
        };
        let submod = Submod {
            status: ear::Tier::Affirming,
            trust_vector: ear::TrustVector::default(),
            policy_id: None,
            annotated_evidence,
            extensions: BTreeMap::new(),
        };
        EarClaims {
            eat_profile: ear::PROFILE.to_owned(),
            iat: 1_000,
            verifier_id: VerifierId {
                developer: String::new(),
                build: String::new(),
            },
            submods: BTreeMap::from([("cpu0".to_owned(), submod)]),
            exp: 2_000,
            iss: String::new(),
            jti: Some("id".to_owned()),
            aud: None,
        }
    }

    fn evidence() -> Value {
        let x = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
        let y = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
        let key = json!({"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": x, "y": y});
        json!({"sample": {}, "assurance": "hardware", "runtime_data_claims": {"tee-pubkey": key}})
    }

    #[test]
    fn certificate_of_another_key_is_refused() {
        let ((pem, own), (_, other)) = (key(), key());
        let issuer =
            |chain: &[CertificateDer<'_>]| Issuer::new(&pem, chain, String::new(), 1).err();
        assert_eq!(issuer(&[other]), Some(TokenKeyError::OtherCertificate));
        assert_eq!(issuer(&[]), Some(TokenKeyError::NoCertificate));
        assert_eq!(issuer(&[own]), None);
    }

    #[test]
    fn key_of_another_kind_is_refused() {
        let (_, certificate) = key();
        for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384] {
            let pem = rcgen::KeyPair::generate_for(algorithm)
                .unwrap()
                .serialize_pem();
            let issuer = Issuer::new(&pem, std::slice::from_ref(&certificate), String::new(), 1);
            assert_eq!(issuer.err(), Some(TokenKeyError::NotP256));
        }
    }

    #[test]
    fn token_brings_its_key_id_and_certificate_and_is_believed_by_its_issuer_alone() {
        let ((pem, certificate), (other_pem, other_certificate)) = (key(), key());
        let issuer =
            Issuer::new(&pem, std::slice::from_ref(&certificate), String::new(), 1).unwrap();
        let other = Issuer::new(&other_pem, &[other_certificate], String::new(), 1).unwrap();
        let jwt = issuer.signing.sign(&claims(evidence())).unwrap().jwt;
        let token = UnverifiedEar::parse(&jwt).unwrap();
        let jwk = token.unverified_jwk().unwrap();
        assert_eq!(
            jwk.common.x509_chain.as_deref(),
            Some([STANDARD.encode(&certificate)].as_slice())
        );
        assert_eq!(jwk.common.key_algorithm, Some(KeyAlgorithm::ES256));
        assert_eq!(
            token.kid(),
            Some(jwk.thumbprint(ThumbprintHash::SHA256).unwrap().as_str())
        );
        let verified = issuer.verify(&jwt, 1_500).unwrap();
        assert_eq!(
            (verified.id(), verified.tee(), verified.development()),
            ("id", Some(Tee::Sample), [].as_slice())
        );
        assert_eq!(
            other.verify(&jwt, 1_500).err(),
            Some(TokenError::OtherIssuer)
        );
        assert!(matches!(
            issuer.verify(&jwt, 2_000).err(),
            Some(TokenError::Ear(EarError::Expired { .. }))
        ));
    }

    #[test]
    fn token_for_others_is_believed_by_its_issuer() {
        let (pem, certificate) = key();
        let issuer = Issuer::new(&pem, &[certificate], String::new(), 1).unwrap();
        let signed = |aud: Option<&str>| {
            let mut claims = claims(evidence());
            claims.aud = aud.map(str::to_owned);
            issuer.signing.sign(&claims).unwrap().jwt
        };
        assert!(issuer.verify(&signed(None), 1_500).is_ok());
        for audience in [ear::ANY_RELYING_PARTY, "", "strongroom"] {
            let refused = issuer.verify(&signed(Some(audience)), 1_500).err();
            assert_eq!(refused, Some(TokenError::ForOthers));
        }
    }

    #[test]
    fn remembered_token_outlives_its_expiry() {
        let (pem, certificate) = key();
        let issuer =
            Issuer::new(&pem, std::slice::from_ref(&certificate), String::new(), 1).unwrap();
        let claims = claims(evidence());
        let jwt = issuer.signing.sign(&claims).unwrap().jwt;
        let first = issuer.verify(&jwt, 1_500).unwrap();
        assert!(Arc::ptr_eq(&first, &issuer.verify(&jwt, 1_999).unwrap()));
        assert!(matches!(
            issuer.verify(&jwt, 2_000).err(),
            Some(TokenError::Ear(EarError::Expired { .. }))
        ));
        assert!(matches!(
            issuer.verify(&jwt, 900).err(),
            Some(TokenError::Ear(EarError::NotYetValid { .. }))
        ));
    }

    #[test]
    fn token_that_is_changed_passes_for_the_one_that_was_remembered() {
        let (pem, certificate) = key();
        let issuer =
            Issuer::new(&pem, std::slice::from_ref(&certificate), String::new(), 1).unwrap();
        let claims = claims(evidence());
        let jwt = issuer.signing.sign(&claims).unwrap().jwt;
        issuer.verify(&jwt, 1_500).unwrap();
        let (body, signature) = jwt.rsplit_once('.').unwrap();
        let turned = if signature.starts_with('A') { "B" } else { "A" };
        let other = format!("{body}.{turned}{}", &signature[1..]);
        assert_eq!(
            issuer.verify(&other, 1_500).err(),
            Some(TokenError::Ear(EarError::Signature))
        );
    }

    #[test]
    fn many_tokens_take_memory_without_end() {
        let token = Arc::new(VerifiedToken::from_claims(claims(evidence())).unwrap());
        let mut believed = Believed::default();
        let digest = |number: usize| digest_of(&number.to_string());
        let most = MAX_REMEMBERED / 1024;
        for number in 0..10 * most {
            believed.insert(digest(number), Arc::clone(&token), 1024);
            assert!(believed.get(&digest(0)).is_some(), "{number}");
        }
        assert!(believed.young.len() + believed.old.len() <= 2 * most);
        assert!(believed.get(&digest(1)).is_none());
        believed.insert(digest(1), token, MAX_REMEMBERED / 8 + 1);
        assert!(believed.get(&digest(1)).is_none());
    }

    #[test]
    fn token_that_does_not_say_hardware_is_development() {
        for assurance in [
            json!("development"),
            json!("Hardware"),
            json!(true),
            Value::Null,
        ] {
            let mut evidence = evidence();
            evidence["assurance"] = assurance;
            let token = VerifiedToken::from_claims(claims(evidence)).unwrap();
            assert_eq!(token.development(), [Some(Tee::Sample)]);
        }
    }

    #[test]
    fn one_development_submodule_makes_the_token_development() {
        let mut claims = claims(evidence());
        let mut gpu = claims.submods["cpu0"].clone();
        gpu.annotated_evidence.remove("assurance");
        gpu.annotated_evidence.remove("sample");
        claims.submods.insert("gpu0".to_owned(), gpu);
        let token = VerifiedToken::from_claims(claims).unwrap();
        assert_eq!(token.development(), [None]);
    }

    #[test]
    fn token_without_a_key_is_refused() {
        let mut without = evidence();
        without["runtime_data_claims"] = json!({"tee-pubkey": {"kty": "EC"}});
        assert_eq!(
            VerifiedToken::from_claims(claims(without)).err(),
            Some(TokenError::NoKey)
        );
        let mut elsewhere = claims(evidence());
        let cpu = elsewhere.submods.remove("cpu0").unwrap();
        elsewhere.submods.insert("gpu0".to_owned(), cpu);
        assert_eq!(
            VerifiedToken::from_claims(elsewhere).err(),
            Some(TokenError::NoKey)
        );
    }
}
