//! Sessions of the KBS protocol, without IO: each call takes `now`.
//!
//! A nonce is used once: the first attestation that names the session takes it, whether or not it succeeds.
//! An attested session keeps its token and is never attested again: evidence that is sent on it, with the old nonce
//! or any other, is refused, and the old token is no answer to it. New evidence wants a new session. The number
//! of sessions is capped: the oldest that still waits makes room, then the oldest attested. So a flood of
//! requests costs an attacker one request for each session it displaces, and costs the broker no memory.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use aws_lc_rs::rand;
use strongroom_wire::kbs::Nonce;
use strongroom_wire::tee::Tee;

/// The sessions of one broker.
pub(crate) struct Sessions {
    lifetime: u64,
    limit: usize,
    next: u64,
    by_id: HashMap<SessionId, Session>,
    waiting: BTreeMap<u64, SessionId>,
    attested: BTreeMap<u64, SessionId>,
}

/// The secret half of a session: who has it speaks for the session.
#[derive(Clone, Eq, Hash, PartialEq)]
pub(crate) struct SessionId(String);

/// What a waiting session promised: evidence of this platform, binding this nonce.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pending {
    pub(crate) tee: Tee,
    pub(crate) nonce: Nonce,
}

struct Session {
    order: u64,
    expires: u64,
    state: State,
}

enum State {
    Waiting(Pending),
    /// The nonce is used and the verdict is not there yet.
    Attesting,
    Attested(String),
}

impl Sessions {
    /// Makes room for `limit` sessions that live `lifetime` seconds each.
    pub(crate) fn new(lifetime: u64, limit: usize) -> Self {
        Self {
            lifetime,
            limit: limit.max(1),
            next: 0,
            by_id: HashMap::new(),
            waiting: BTreeMap::new(),
            attested: BTreeMap::new(),
        }
    }

    /// How many are kept.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Opens a session and draws its nonce.
    pub(crate) fn open(&mut self, tee: Tee, now: u64) -> (SessionId, Nonce) {
        self.drop_expired(now);
        while self.by_id.len() >= self.limit {
            let Some(oldest) = self.oldest() else { break };
            self.remove(&oldest);
        }
        let (id, nonce) = (SessionId::fresh(), Nonce::from_bytes(&random()));
        let order = self.next;
        self.next += 1;
        self.waiting.insert(order, id.clone());
        let state = State::Waiting(Pending {
            tee,
            nonce: nonce.clone(),
        });
        let expires = now.saturating_add(self.lifetime);
        self.by_id.insert(
            id.clone(),
            Session {
                order,
                expires,
                state,
            },
        );
        (id, nonce)
    }

    /// Takes the session's nonce, which nobody can take again.
    pub(crate) fn take_nonce(&mut self, id: &SessionId, now: u64) -> Result<Pending, SessionError> {
        self.drop_expired(now);
        let session = self.by_id.get_mut(id).ok_or(SessionError::Unknown)?;
        match std::mem::replace(&mut session.state, State::Attesting) {
            State::Waiting(pending) => Ok(pending),
            used => {
                session.state = used;
                Err(SessionError::NonceUsed)
            }
        }
    }

    /// Keeps the token of a session whose evidence passed.
    pub(crate) fn attested(&mut self, id: &SessionId, token: String, now: u64) {
        self.drop_expired(now);
        if let Some(session) = self.by_id.get_mut(id) {
            session.state = State::Attested(token);
            self.waiting.remove(&session.order);
            self.attested.insert(session.order, id.clone());
        }
    }

    /// Ends a session whose evidence did not pass.
    pub(crate) fn end(&mut self, id: &SessionId) {
        self.remove(id);
    }

    /// The token of an attested session.
    pub(crate) fn token(&mut self, id: &SessionId, now: u64) -> Option<String> {
        self.drop_expired(now);
        match &self.by_id.get(id)?.state {
            State::Attested(token) => Some(token.clone()),
            State::Waiting(_) | State::Attesting => None,
        }
    }

    fn oldest(&self) -> Option<SessionId> {
        self.waiting
            .values()
            .next()
            .or_else(|| self.attested.values().next())
            .cloned()
    }

    fn remove(&mut self, id: &SessionId) {
        if let Some(session) = self.by_id.remove(id) {
            self.waiting.remove(&session.order);
            self.attested.remove(&session.order);
        }
    }

    /// All sessions live equally long, so the oldest expire first.
    fn drop_expired(&mut self, now: u64) {
        loop {
            let oldest = [self.waiting.values().next(), self.attested.values().next()];
            let expired = oldest.into_iter().flatten().find(|id| {
                self.by_id
                    .get(*id)
                    .is_none_or(|session| session.expires <= now)
            });
            let Some(id) = expired.cloned() else { return };
            self.remove(&id);
        }
    }
}

impl SessionId {
    fn fresh() -> Self {
        Self(hex::encode(&random()[..16]))
    }

    /// The text in the cookie: 32 lower-case hexadecimal digits, as upstream's.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = SessionError;

    fn from_str(text: &str) -> Result<Self, SessionError> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.len() == 32 && text.bytes().all(digit) {
            true => Ok(Self(text.to_owned())),
            false => Err(SessionError::Unknown),
        }
    }
}

/// Why a session cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum SessionError {
    /// There is none: never was, expired, displaced, or ended by a refusal.
    #[error("there is no such session, or it expired: start again with /kbs/v0/auth")]
    Unknown,
    /// An attestation took the nonce before.
    #[error("the nonce of this session is used: start again with /kbs/v0/auth")]
    NonceUsed,
}

fn random() -> [u8; 32] {
    let mut bytes = [0u8; 32];
    rand::fill(&mut bytes).expect("the system has randomness, or no key could have been made");
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nonce_is_taken_once() {
        let mut sessions = Sessions::new(300, 10);
        let (id, nonce) = sessions.open(Tee::Sample, 0);
        assert_eq!(
            sessions.take_nonce(&id, 1).unwrap(),
            Pending {
                tee: Tee::Sample,
                nonce
            }
        );
        assert_eq!(sessions.take_nonce(&id, 1), Err(SessionError::NonceUsed));
        sessions.attested(&id, "token".into(), 2);
        assert_eq!(sessions.take_nonce(&id, 3), Err(SessionError::NonceUsed));
        assert_eq!(sessions.token(&id, 3).as_deref(), Some("token"));
    }

    #[test]
    fn refused_session_is_over() {
        let mut sessions = Sessions::new(300, 10);
        let (id, _) = sessions.open(Tee::Sample, 0);
        sessions.take_nonce(&id, 1).unwrap();
        sessions.end(&id);
        assert_eq!(sessions.take_nonce(&id, 1), Err(SessionError::Unknown));
        assert_eq!(sessions.token(&id, 1), None);
    }

    #[test]
    fn session_without_a_verdict_has_no_token() {
        let mut sessions = Sessions::new(300, 10);
        let (id, _) = sessions.open(Tee::Sample, 0);
        assert_eq!(sessions.token(&id, 0), None);
        sessions.take_nonce(&id, 0).unwrap();
        assert_eq!(sessions.token(&id, 0), None);
    }

    #[test]
    fn expired_session_is_unknown() {
        let mut sessions = Sessions::new(300, 10);
        let (waiting, _) = sessions.open(Tee::Sample, 0);
        let (attested, _) = sessions.open(Tee::Sample, 0);
        sessions.take_nonce(&attested, 0).unwrap();
        sessions.attested(&attested, "token".into(), 0);
        assert!(sessions.token(&attested, 299).is_some());
        assert_eq!(sessions.token(&attested, 300), None);
        assert_eq!(
            sessions.take_nonce(&waiting, 300),
            Err(SessionError::Unknown)
        );
        assert!(
            sessions.by_id.is_empty()
                && sessions.waiting.is_empty()
                && sessions.attested.is_empty()
        );
    }

    #[test]
    fn verdict_after_expiry_leaves_no_session() {
        let mut sessions = Sessions::new(300, 10);
        let (id, _) = sessions.open(Tee::Sample, 0);
        sessions.take_nonce(&id, 299).unwrap();
        sessions.attested(&id, "token".into(), 300);
        assert_eq!(sessions.token(&id, 300), None);
    }

    #[test]
    fn flood_displaces_the_waiting_before_the_attested() {
        let mut sessions = Sessions::new(300, 3);
        let (attested, _) = sessions.open(Tee::Sample, 0);
        sessions.take_nonce(&attested, 0).unwrap();
        sessions.attested(&attested, "token".into(), 0);
        let (first, _) = sessions.open(Tee::Sample, 0);
        for _ in 0..100 {
            sessions.open(Tee::Sample, 0);
        }
        assert_eq!(sessions.by_id.len(), 3);
        assert_eq!(sessions.waiting.len() + sessions.attested.len(), 3);
        assert!(sessions.token(&attested, 0).is_some());
        assert_eq!(sessions.take_nonce(&first, 0), Err(SessionError::Unknown));
    }

    #[test]
    fn full_of_attested_sessions_still_opens_new_ones() {
        let mut sessions = Sessions::new(300, 2);
        for _ in 0..3 {
            let (id, _) = sessions.open(Tee::Sample, 0);
            sessions.take_nonce(&id, 0).unwrap();
            sessions.attested(&id, "token".into(), 0);
            assert!(sessions.token(&id, 0).is_some());
        }
        assert_eq!(sessions.by_id.len(), 2);
    }

    #[test]
    fn session_id_is_nothing_but_32_hex_digits() {
        for text in [
            "",
            "f",
            &"f".repeat(31),
            &"f".repeat(33),
            &"F".repeat(32),
            &"é".repeat(16),
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
        }
        assert!("0f".repeat(16).parse::<SessionId>().is_ok());
    }
}
