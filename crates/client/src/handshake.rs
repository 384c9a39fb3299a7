//! The client's side of one RCAR handshake (KBS attestation protocol 0.4.0): what to send, what an answer means.
//!
//! Each step's type is the next step's only input: [`Handshake`] → [`Challenged`] → [`Answered`] → [`Attested`].
//! Nothing here sends, waits or reads a clock; `http` and `kbs` do.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use strongroom_wire::canonical::{HashAlgorithm, UnknownHash};
use strongroom_wire::ear::MAX_TOKEN;
use strongroom_wire::initdata::Initdata;
use strongroom_wire::jwe::{DecryptionKey, Jwe, JweError};
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::kbs::{
    AttestResponse, Attestation, Challenge, CompositeEvidence, InitDataBody, Request, RuntimeData,
    SESSION_COOKIE,
};
use strongroom_wire::tee::Tee;
use zeroize::Zeroizing;

/// Step 1, Request: the platform is named, nothing is proved yet.
pub struct Handshake {
    key: TeeKeyPair,
}

impl Handshake {
    /// Starts a handshake; the request goes to `POST /kbs/v0/auth`.
    ///
    /// The key must be fresh: it is the one that secrets will be encrypted to for as long as the token lives.
    pub fn new(tee: Tee, key: DecryptionKey) -> (Self, Request) {
        (
            Self {
                key: TeeKeyPair(key),
            },
            Request::new(tee),
        )
    }

    /// Step 2, Challenge: takes the nonce and the hash that the broker selected.
    ///
    /// # Errors
    /// [`HandshakeError::Hash`] when the broker selected a hash that was not offered.
    pub fn on_challenge(self, challenge: Challenge) -> Result<Challenged, HandshakeError> {
        let hash = challenge.selected_hash()?;
        let runtime_data = RuntimeData {
            nonce: challenge.nonce,
            tee_pubkey: self.key.public().clone(),
        };
        Ok(Challenged {
            key: self.key,
            runtime_data,
            hash,
        })
    }
}

/// Step 3, Attestation: what the evidence has to bind is known.
pub struct Challenged {
    key: TeeKeyPair,
    runtime_data: RuntimeData,
    hash: HashAlgorithm,
}

impl Challenged {
    /// What each further device's evidence must contain; devices come before the CPU.
    pub fn device_report_data(&self) -> Vec<u8> {
        self.runtime_data.device_report_data(self.hash)
    }

    /// What the CPU's evidence must contain, given the devices' evidence as a text (`""` without devices).
    pub fn report_data(&self, additional_evidence: &str) -> Vec<u8> {
        self.runtime_data
            .primary_report_data(additional_evidence, self.hash)
    }

    /// Puts the attestation together; it goes to `POST /kbs/v0/attest`.
    pub fn attestation(
        self,
        evidence: CompositeEvidence,
        initdata: Option<&Initdata>,
    ) -> (Answered, Attestation) {
        let attestation = Attestation {
            init_data: initdata.map(|initdata| InitDataBody {
                format: "toml".to_owned(),
                body: initdata.as_str().to_owned(),
            }),
            runtime_data: self.runtime_data,
            tee_evidence: evidence,
        };
        (Answered { key: self.key }, attestation)
    }
}

/// Step 4, Response: the evidence is out, the token is awaited.
pub struct Answered {
    key: TeeKeyPair,
}

impl Answered {
    /// Takes the token.
    ///
    /// # Errors
    /// [`HandshakeError::Token`] when it is not a JWT with an expiry.
    pub fn on_response(
        self,
        response: AttestResponse,
        now: u64,
    ) -> Result<Attested, HandshakeError> {
        let token = Token::parse(response.token)?;
        Ok(Attested {
            token,
            key: self.key,
            received_at: now,
        })
    }
}

/// The result of one handshake: a token, and the key that what it releases is encrypted to.
pub struct Attested {
    token: Token,
    key: TeeKeyPair,
    received_at: u64,
}

impl Attested {
    /// The token that the broker issued.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The key that was attested.
    pub fn key(&self) -> &TeeKeyPair {
        &self.key
    }

    /// When the token came, in seconds since 1970 by this machine's clock.
    pub fn received_at(&self) -> u64 {
        self.received_at
    }

    /// When the token stops being used, by this machine's clock: its lifetime counted from when it came, less a margin.
    ///
    /// The broker alone decides whether a token is valid, and its clock is not ours; so a clock that is wrong here
    /// costs nothing.
    pub fn refresh_at(&self) -> u64 {
        let lifetime = match self.token.issued_at {
            Some(issued) => self.token.expires_at.saturating_sub(issued),
            None => self.token.expires_at.saturating_sub(self.received_at),
        };
        let lifetime = lifetime.min(MAX_LIFETIME);
        self.received_at
            .saturating_add(lifetime - (lifetime / 10).min(MAX_MARGIN))
    }
}

/// A token from the broker. Its holder gets the secrets that it releases, encrypted to the key that it names.
pub struct Token {
    text: Zeroizing<String>,
    issued_at: Option<u64>,
    expires_at: u64,
}

impl Token {
    /// Reads the times of a JWT whose signature is the broker's business; never-panic entry for untrusted tokens.
    ///
    /// # Errors
    /// [`HandshakeError::Token`] when it is not a JWT of a sensible size with an `exp`.
    pub fn parse(text: String) -> Result<Self, HandshakeError> {
        #[derive(Deserialize)]
        struct Times {
            exp: u64,
            iat: Option<u64>,
        }
        let text = Zeroizing::new(text);
        if text.len() > MAX_TOKEN {
            return Err(HandshakeError::Token("it is longer than 256 KiB"));
        }
        if !text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        {
            return Err(HandshakeError::Token("it has characters that no JWT has"));
        }
        let mut parts = text.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(HandshakeError::Token(
                "it is not three parts with dots between",
            ));
        };
        let payload = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| HandshakeError::Token("its payload is not base64url"))?;
        let times: Times = serde_json::from_slice(&payload)
            .map_err(|_| HandshakeError::Token("its payload has no numeric `exp`"))?;
        Ok(Self {
            text,
            issued_at: times.iat,
            expires_at: times.exp,
        })
    }

    /// The JWT, for an `Authorization` header or for the workload that asked for it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// When the broker stops accepting it, in seconds since 1970 by the broker's clock.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }
}

/// The key made here for one handshake; released secrets are encrypted to it.
pub struct TeeKeyPair(DecryptionKey);

impl TeeKeyPair {
    /// The public half, which the evidence binds.
    pub fn public(&self) -> &TeePublicKey {
        self.0.public()
    }

    /// Opens an answer that was encrypted to this key.
    ///
    /// # Errors
    /// When the answer was changed on its way or is for another key.
    pub fn open(&self, answer: &Jwe) -> Result<Zeroizing<Vec<u8>>, JweError> {
        self.0.decrypt(answer)
    }

    /// The private key as PKCS#8 PEM: for a workload in the same TEE that speaks to the broker itself.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn expose_pkcs8_pem(&self) -> Result<Zeroizing<String>, JweError> {
        self.0.to_pkcs8_pem()
    }
}

/// The cookie that carries a handshake from `/auth` to `/attest`, as `Cookie` wants it: `kbs-session-id=…`.
///
/// Never-panic entry for untrusted `Set-Cookie` headers; `None` when none of them names a session.
pub fn session_cookie<'a>(set_cookie: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    set_cookie.into_iter().find_map(|header| {
        let header = std::str::from_utf8(header).ok()?;
        let (name, value) = header.split(';').next()?.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let fits = (1..=MAX_COOKIE).contains(&value.len())
            && value
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b'\\'));
        (name == SESSION_COOKIE && fits).then(|| format!("{SESSION_COOKIE}={value}"))
    })
}

/// Why a handshake cannot go on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The broker selected a hash that was not offered.
    #[error(transparent)]
    Hash(#[from] UnknownHash),
    /// The token cannot be read.
    #[error("the broker's token cannot be used: {0}")]
    Token(&'static str),
}

const MAX_COOKIE: usize = 512;
const MAX_LIFETIME: u64 = 24 * 60 * 60;
const MAX_MARGIN: u64 = 30;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use strongroom_wire::jwe::KeyAlgorithm;
    use strongroom_wire::kbs::Nonce;

    fn started() -> Handshake {
        Handshake::new(
            Tee::Sample,
            DecryptionKey::generate(KeyAlgorithm::EcdhP256).unwrap(),
        )
        .0
    }

    fn challenge(extra_params: serde_json::Value) -> Challenge {
        Challenge {
            nonce: Nonce::from_bytes(&[7; 32]),
            extra_params,
        }
    }

    fn jwt(payload: &serde_json::Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload.to_string()))
    }

    fn attested(payload: serde_json::Value, now: u64) -> Attested {
        let challenged = started().on_challenge(challenge("".into())).unwrap();
        let evidence = CompositeEvidence {
            primary_evidence: serde_json::value::to_raw_value(&json!({})).unwrap(),
            additional_evidence: String::new(),
        };
        let (answered, _) = challenged.attestation(evidence, None);
        answered
            .on_response(
                AttestResponse {
                    token: jwt(&payload),
                },
                now,
            )
            .unwrap()
    }

    #[test]
    fn selected_hash_decides_the_report_data() {
        let sha512 = json!({"selected-hash-algorithm": "sha512"});
        assert_eq!(
            started()
                .on_challenge(challenge(sha512))
                .unwrap()
                .report_data("")
                .len(),
            64
        );
        assert_eq!(
            started()
                .on_challenge(challenge("".into()))
                .unwrap()
                .report_data("")
                .len(),
            48
        );
    }

    #[test]
    fn hash_that_was_not_offered_is_refused() {
        let sm3 = json!({"selected-hash-algorithm": "sm3"});
        assert!(matches!(
            started().on_challenge(challenge(sm3)),
            Err(HandshakeError::Hash(_))
        ));
    }

    #[test]
    fn two_handshakes_never_share_a_key() {
        assert_ne!(started().key.public(), started().key.public());
    }

    #[test]
    fn report_data_of_cpu_and_devices_differ() {
        let challenged = started().on_challenge(challenge("".into())).unwrap();
        assert_ne!(challenged.report_data(""), challenged.device_report_data());
        assert_ne!(challenged.report_data(""), challenged.report_data("{}"));
    }

    #[test]
    fn lifetime_counts_from_arrival_so_that_a_wrong_clock_costs_nothing() {
        let day_ahead = 86_400 + 1_000;
        let attested = attested(json!({"iat": 1_000, "exp": 1_300}), day_ahead);
        assert_eq!(attested.refresh_at(), day_ahead + 270);
    }

    #[test]
    fn token_without_issue_time_uses_its_expiry() {
        assert_eq!(attested(json!({"exp": 1_300}), 1_000).refresh_at(), 1_270);
    }

    #[test]
    fn token_already_expired_is_not_kept() {
        assert_eq!(attested(json!({"exp": 900}), 1_000).refresh_at(), 1_000);
    }

    #[test]
    fn token_that_never_expires_is_refreshed_daily() {
        assert_eq!(
            attested(json!({"iat": 0, "exp": u64::MAX}), 0).refresh_at(),
            86_400 - 30
        );
    }

    #[test]
    fn token_without_expiry_is_refused() {
        assert!(Token::parse(jwt(&json!({"iat": 1}))).is_err());
    }

    #[test]
    fn token_with_a_line_break_never_reaches_a_header() {
        assert!(Token::parse(format!("{}\r\nX-Evil: 1", jwt(&json!({"exp": 1})))).is_err());
    }

    #[test]
    fn huge_token_is_refused() {
        assert!(Token::parse("a".repeat(MAX_TOKEN + 1)).is_err());
    }

    #[test]
    fn session_cookie_is_found_among_others() {
        let headers: [&[u8]; 2] = [
            b"lb=1; Path=/",
            b"kbs-session-id=ab12; Expires=Sun, 22 Nov 2026 17:35:32 GMT",
        ];
        assert_eq!(session_cookie(headers).unwrap(), "kbs-session-id=ab12");
    }

    #[test]
    fn cookie_of_another_name_is_no_session() {
        assert_eq!(session_cookie([b"kbs-session-idx=ab12".as_slice()]), None);
        assert_eq!(session_cookie([b"kbs-session-id=".as_slice()]), None);
    }

    #[test]
    fn cookie_with_control_characters_is_refused() {
        assert_eq!(session_cookie([b"kbs-session-id=a\tb".as_slice()]), None);
    }
}
