//! Sessions of the KBS protocol, without IO: each call takes `now`.
//!
//! An open session is not kept anywhere: its id says when it was opened and for which platform, under this broker's
//! authentication code, and its nonce follows from the id. So a flood of requests costs the broker no memory. What is
//! kept is which nonces are used, and the tokens of attested sessions.
//!
//! A nonce is used once: the first attestation that names the session takes it, whether or not it succeeds. An attested
//! session keeps its token and is never attested again: evidence that is sent on it, with the old nonce or any other,
//! is refused, and the old token is no answer to it. New evidence wants a new session.
//!
//! Both memories are capped. When that of used nonces is full it forgets a whole second of them, and from then on no
//! session of that second or an earlier one is believed. When that of tokens is full the oldest makes room: its guest
//! shows the token itself, or attests anew.
//!
//! Brokers on one database keep both there, and know each other's sessions by a key that follows from their storage key.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{hmac, rand};
use strongroom_wire::kbs::Nonce;
use strongroom_wire::tee::Tee;

use crate::store::{PostgresStore, StorageKeys, StoreError};

/// The sessions of one broker.
pub(crate) struct Sessions {
    lifetime: u64,
    /// The first makes ids, all of them are believed.
    keys: RwLock<Arc<[hmac::Key]>>,
    kept: Kept,
}

/// Where used nonces and the tokens of attested sessions are.
enum Kept {
    /// In this broker's memory.
    Here(Box<Mutex<Held>>),
    /// With the brokers that share a database.
    Shared(PostgresStore),
}

struct Held {
    used: Used,
    attested: Attested,
}

/// The secret half of a session: who has it speaks for the session.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct SessionId([u8; ID]);

/// What an open session promised: evidence of this platform, binding this nonce.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pending {
    pub(crate) tee: Tee,
    pub(crate) nonce: Nonce,
    pub(crate) policy: PolicyTag,
}

/// By which appraisal policies a session is graded: zeros for the default ones, else a prefix of the SHA-256 of their id. It
/// travels in the session's id, so that who opened the session cannot choose again.
pub(crate) type PolicyTag = [u8; TAG];

impl Sessions {
    /// Keeps the tokens of up to `limit` attested sessions; a session lives `lifetime` seconds.
    pub(crate) fn new(lifetime: u64, limit: usize) -> Self {
        Self {
            lifetime,
            keys: RwLock::new([hmac::Key::new(hmac::HMAC_SHA256, &random::<32>())].into()),
            kept: Kept::Here(Box::new(Mutex::new(Held {
                used: Used::new(MAX_USED),
                attested: Attested::new(limit.max(1), MAX_TOKEN_BYTES),
            }))),
        }
    }

    /// Sessions that every broker on the same store believes, whichever of them opened or attested them.
    pub(crate) fn shared(lifetime: u64, keys: &StorageKeys, store: PostgresStore) -> Self {
        Self {
            lifetime,
            keys: RwLock::new(derived(keys).into()),
            kept: Kept::Shared(store),
        }
    }

    /// Takes over the storage keys that brokers on one store agreed on. What was opened under the keys before them is
    /// believed for as long as it lives.
    pub(crate) fn know(&self, storage_keys: &StorageKeys) {
        if let Kept::Here(_) = self.kept {
            return;
        }
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut keys = derived(storage_keys);
        keys.extend(known.iter().cloned());
        // Each derivation is the same again, so what is known twice goes.
        let mut codes = HashSet::new();
        keys.retain(|key| codes.insert(hmac::sign(key, b"").as_ref().to_vec()));
        keys.truncate(MAX_KEYS);
        *known = keys.into();
    }

    fn keys(&self) -> Arc<[hmac::Key]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a session and gives its nonce.
    pub(crate) fn open(&self, tee: Tee, policy: PolicyTag, now: u64) -> (SessionId, Nonce) {
        let platform = Tee::ALL.iter().position(|known| *known == tee);
        let platform = platform.and_then(|at| u8::try_from(at).ok());
        let platform = platform.expect("every platform is in the list of all, which is short");
        let mut id = [0; ID];
        let (said, code) = id.split_at_mut(SAID);
        let (opened, rest) = said.split_at_mut(OPENED);
        opened.copy_from_slice(&now.to_be_bytes());
        let (kind, rest) = rest.split_at_mut(1);
        let (tag, number) = rest.split_at_mut(TAG);
        kind.copy_from_slice(&[platform]);
        tag.copy_from_slice(&policy);
        number.copy_from_slice(&random::<NUMBER>());
        let keys = self.keys();
        let key = keys.first().expect("a broker has a key");
        code.copy_from_slice(&code_of(key, said)[..ID - SAID]);
        let id = SessionId(id);
        let nonce = nonce(key, &id);
        (id, nonce)
    }

    /// Takes the session's nonce, which nobody can take again.
    pub(crate) fn take_nonce(&self, id: &SessionId, now: u64) -> Result<Pending, SessionError> {
        let (promised, opened) = self.believe(id, now)?;
        let fresh = match &self.kept {
            Kept::Here(held) => {
                let mut held = lock(held);
                held.used.believe(opened)?;
                held.used.drop_until(now.checked_sub(self.lifetime));
                held.used.insert(opened, id.short())
            }
            Kept::Shared(store) => {
                let expires = opened.saturating_add(self.lifetime);
                store.take_nonce(&id.short(), expires).map_err(|error| {
                    tracing::error!(%error, "a nonce could not be taken");
                    match error {
                        StoreError::Full(_) => SessionError::Full,
                        _ => SessionError::Unreachable,
                    }
                })?
            }
        };
        match fresh {
            true => Ok(promised),
            false => Err(SessionError::NonceUsed),
        }
    }

    /// Keeps the token of a session whose evidence passed.
    pub(crate) fn attested(&self, id: &SessionId, token: Arc<str>, now: u64) {
        let Ok((_, opened)) = self.believe(id, now) else {
            return;
        };
        let expires = opened.saturating_add(self.lifetime);
        match &self.kept {
            Kept::Here(held) => {
                let mut held = lock(held);
                if !held.used.forgot(opened) {
                    held.attested.insert(id.short(), token, expires);
                }
            }
            Kept::Shared(store) => {
                // The guest has its token all the same, and can show it.
                if let Err(error) = store.keep_token(&id.short(), &token, expires) {
                    tracing::error!(%error, "the token of a session could not be kept");
                }
            }
        }
    }

    /// The token of an attested session.
    pub(crate) fn token(&self, id: &SessionId, now: u64) -> Option<Arc<str>> {
        let (_, opened) = self.believe(id, now).ok()?;
        match &self.kept {
            Kept::Here(held) => {
                let mut held = lock(held);
                held.used.believe(opened).ok()?;
                held.attested.drop_expired(now);
                held.attested.get(id.short())
            }
            Kept::Shared(store) => store
                .token(&id.short(), now)
                .inspect_err(|error| tracing::error!(%error, "a session could not be looked up"))
                .ok()?
                .map(Arc::from),
        }
    }

    /// How many nonces and how many tokens are kept.
    pub(crate) fn counts(&self) -> (usize, usize) {
        match &self.kept {
            Kept::Here(held) => {
                let held = lock(held);
                (held.used.count, held.attested.tokens.len())
            }
            // They are no memory of this broker.
            Kept::Shared(_) => (0, 0),
        }
    }

    #[cfg(test)]
    fn held(&self) -> MutexGuard<'_, Held> {
        match &self.kept {
            Kept::Here(held) => lock(held),
            Kept::Shared(_) => panic!("these tests have no database"),
        }
    }

    /// Takes a session's id at its word, if this broker made it and it has not expired: what it promised, and when it
    /// was opened.
    fn believe(&self, id: &SessionId, now: u64) -> Result<(Pending, u64), SessionError> {
        let (said, code) = id.0.split_at(SAID);
        let made = |key: &&hmac::Key| {
            verify_slices_are_equal(&code_of(key, said)[..ID - SAID], code).is_ok()
        };
        let keys = self.keys();
        let key = keys.iter().find(made).ok_or(SessionError::Unknown)?;
        let (opened, rest) = said
            .split_first_chunk::<OPENED>()
            .ok_or(SessionError::Unknown)?;
        let opened = u64::from_be_bytes(*opened);
        let (at, rest) = rest.split_first().ok_or(SessionError::Unknown)?;
        let tee = Tee::ALL
            .get(usize::from(*at))
            .ok_or(SessionError::Unknown)?;
        let (policy, _) = rest.split_first_chunk().ok_or(SessionError::Unknown)?;
        match now < opened.saturating_add(self.lifetime) {
            true => {
                let (tee, policy, nonce) = (*tee, *policy, nonce(key, id));
                Ok((Pending { tee, nonce, policy }, opened))
            }
            false => Err(SessionError::Unknown),
        }
    }
}

/// The keys of sessions that follow from storage keys: first that of the one in use.
fn derived(keys: &StorageKeys) -> Vec<hmac::Key> {
    let in_use = std::iter::once(keys.current());
    in_use
        .chain(keys.iter())
        .map(|key| {
            let key = key.derived(b"strongroom sessions, form 1");
            hmac::Key::new(hmac::HMAC_SHA256, key.as_slice())
        })
        .collect()
}

fn code_of(key: &hmac::Key, said: &[u8]) -> [u8; 32] {
    code(key, b"id", said)
}

fn nonce(key: &hmac::Key, id: &SessionId) -> Nonce {
    Nonce::from_bytes(&code(key, b"nonce", &id.0))
}

fn code(key: &hmac::Key, purpose: &[u8], of: &[u8]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    context.update(&[u8::try_from(purpose.len()).unwrap_or(u8::MAX)]);
    context.update(purpose);
    context.update(of);
    let mut code = [0; 32];
    code.copy_from_slice(context.sign().as_ref());
    code
}

/// The nonces that are used: of each second, the sessions that were opened in it.
struct Used {
    limit: usize,
    taken: BTreeMap<u64, HashSet<u64>>,
    count: usize,
    /// Sessions that were opened in this second or before are not believed any more.
    floor: Option<u64>,
}

/// The part of an id that is drawn: no two sessions share it.
type Short = [u8; NUMBER];

impl Used {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: BTreeMap::new(),
            count: 0,
            floor: None,
        }
    }

    /// Whether the session was new. Half of what was drawn is kept: a session that shares it with another one of its
    /// second, of which there is none in a lifetime, is refused as if it had been used.
    fn insert(&mut self, opened: u64, session: Short) -> bool {
        let (half, _) = session.split_first_chunk().expect("16 bytes have 8");
        let fresh = self.taken.entry(opened).or_default();
        if !fresh.insert(u64::from_be_bytes(*half)) {
            return false;
        }
        self.count += 1;
        if self.count > self.limit {
            let oldest = self.taken.keys().next().copied();
            self.drop_until(oldest);
        }
        true
    }

    /// Nobody knows any more whether the nonce of a session of that time is used.
    fn believe(&self, opened: u64) -> Result<(), SessionError> {
        match self.forgot(opened) {
            true => Err(SessionError::Unknown),
            false => Ok(()),
        }
    }

    fn forgot(&self, opened: u64) -> bool {
        self.floor.is_some_and(|floor| opened <= floor)
    }

    /// Forgets the sessions that were opened in this second or before, and believes none of them any more.
    fn drop_until(&mut self, second: Option<u64>) {
        let Some(second) = second.filter(|second| !self.forgot(*second)) else {
            return;
        };
        self.floor = Some(second);
        while let Some(oldest) = self.taken.first_entry()
            && *oldest.key() <= second
        {
            self.count -= oldest.remove().len();
        }
    }
}

/// The tokens of attested sessions.
struct Attested {
    limit: usize,
    byte_limit: usize,
    bytes: usize,
    tokens: HashMap<Short, (Arc<str>, u64)>,
    in_order: VecDeque<(u64, Short)>,
}

impl Attested {
    fn new(limit: usize, byte_limit: usize) -> Self {
        Self {
            limit,
            byte_limit,
            bytes: 0,
            tokens: HashMap::new(),
            in_order: VecDeque::new(),
        }
    }

    fn insert(&mut self, session: Short, token: Arc<str>, expires: u64) {
        self.bytes = self.bytes.saturating_add(token.len());
        self.in_order.push_back((expires, session));
        self.tokens.insert(session, (token, expires));
        while self.tokens.len() > self.limit || self.bytes > self.byte_limit {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    fn get(&self, session: Short) -> Option<Arc<str>> {
        self.tokens
            .get(&session)
            .map(|(token, _)| Arc::clone(token))
    }

    /// In the order of their attestation; one that outlives those behind it by a little keeps them a little longer.
    fn drop_expired(&mut self, now: u64) {
        while self
            .in_order
            .front()
            .is_some_and(|(expires, _)| *expires <= now)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some((_, session)) = self.in_order.pop_front() else {
            return false;
        };
        if let Some((token, _)) = self.tokens.remove(&session) {
            self.bytes = self.bytes.saturating_sub(token.len());
        }
        true
    }
}

impl SessionId {
    /// The text in the cookie: lower-case hexadecimal digits.
    pub(crate) fn to_text(&self) -> String {
        hex::encode(self.0)
    }

    fn short(&self) -> Short {
        let mut short = [0; NUMBER];
        short.copy_from_slice(&self.0[SAID - NUMBER..SAID]);
        short
    }
}

impl FromStr for SessionId {
    type Err = SessionError;

    fn from_str(text: &str) -> Result<Self, SessionError> {
        let mut id = [0; ID];
        let upper = |byte: u8| byte.is_ascii_uppercase();
        match hex::decode_to_slice(text, &mut id) {
            Ok(()) if !text.bytes().any(upper) => Ok(Self(id)),
            _ => Err(SessionError::Unknown),
        }
    }
}

/// Why a session cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum SessionError {
    /// There is none: never was, expired, or of a time whose nonces are forgotten.
    #[error("there is no such session, or it expired: start again with /kbs/v0/auth")]
    Unknown,
    /// An attestation took the nonce before.
    #[error("the nonce of this session is used: start again with /kbs/v0/auth")]
    NonceUsed,
    /// The database in which used nonces are does not answer.
    #[error("the broker's database does not answer: try again later")]
    Unreachable,
    /// There is no room there for one more.
    #[error("the disk under the broker's database is full")]
    Full,
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    // Each call leaves what is held whole, so a panic elsewhere does not spoil it.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system has randomness, or no key could have been made");
    bytes
}

/// When it was opened, in seconds since 1970.
const OPENED: usize = 8;
/// What is drawn.
const NUMBER: usize = 16;
/// What an id says: when, for which platform, by which policies, and a number.
const SAID: usize = OPENED + 1 + TAG + NUMBER;
/// By which policies it is graded.
const TAG: usize = 8;
/// An id: what it says, and 16 bytes of HMAC-SHA-256 over that.
const ID: usize = SAID + 16;
/// About 6 MiB, and 800 attestations a second for as long as a session lives.
const MAX_USED: usize = 262_144;
/// Keys whose sessions are believed.
const MAX_KEYS: usize = 16;
/// Of more than a thousand sessions that show CPUs, and of dozens that show GPUs.
const MAX_TOKEN_BYTES: usize = 4 * 1024 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const DEFAULT: PolicyTag = [0; TAG];

    fn token(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    #[test]
    fn nonce_is_taken_once() {
        let sessions = Sessions::new(300, 10);
        let (id, nonce) = sessions.open(Tee::Sample, DEFAULT, 0);
        let promised = Pending {
            tee: Tee::Sample,
            nonce,
            policy: DEFAULT,
        };
        assert_eq!(sessions.take_nonce(&id, 1).unwrap(), promised);
        assert_eq!(sessions.take_nonce(&id, 1), Err(SessionError::NonceUsed));
        sessions.attested(&id, token("token"), 2);
        assert_eq!(sessions.take_nonce(&id, 3), Err(SessionError::NonceUsed));
        assert_eq!(sessions.token(&id, 3).as_deref(), Some("token"));
    }

    #[test]
    fn every_platform_is_the_one_that_was_asked_for() {
        let sessions = Sessions::new(300, 10);
        for tee in Tee::ALL {
            let (id, _) = sessions.open(tee, DEFAULT, 7);
            assert_eq!(sessions.take_nonce(&id, 7).unwrap().tee, tee);
        }
    }

    #[test]
    fn policies_are_those_that_the_session_was_opened_with() {
        let sessions = Sessions::new(300, 10);
        let (id, _) = sessions.open(Tee::Sample, *b"12345678", 0);
        assert_eq!(sessions.take_nonce(&id, 0).unwrap().policy, *b"12345678");
    }

    #[test]
    fn session_without_a_verdict_has_no_token() {
        let sessions = Sessions::new(300, 10);
        let (id, _) = sessions.open(Tee::Sample, DEFAULT, 0);
        assert_eq!(sessions.token(&id, 0), None);
        sessions.take_nonce(&id, 0).unwrap();
        assert_eq!(sessions.token(&id, 0), None);
    }

    #[test]
    fn id_with_any_bit_changed_is_unknown() {
        let sessions = Sessions::new(300, 10);
        let (id, _) = sessions.open(Tee::Sample, DEFAULT, 1_000);
        sessions.attested(&id, token("token"), 1_000);
        for bit in 0..ID * 8 {
            let mut other = id.clone();
            other.0[bit / 8] ^= 1 << (bit % 8);
            let outcome = sessions.take_nonce(&other, 1_000);
            assert_eq!(outcome, Err(SessionError::Unknown), "bit {bit}");
            assert_eq!(sessions.token(&other, 1_000), None);
        }
        assert!(sessions.take_nonce(&id, 1_000).is_ok());
    }

    #[test]
    fn session_of_another_broker_is_unknown() {
        let (id, _) = Sessions::new(300, 10).open(Tee::Sample, DEFAULT, 0);
        let outcome = Sessions::new(300, 10).take_nonce(&id, 0);
        assert_eq!(outcome, Err(SessionError::Unknown));
    }

    #[test]
    fn expired_session_is_unknown() {
        let sessions = Sessions::new(300, 10);
        let (waiting, _) = sessions.open(Tee::Sample, DEFAULT, 0);
        let (attested, _) = sessions.open(Tee::Sample, DEFAULT, 0);
        sessions.take_nonce(&attested, 0).unwrap();
        sessions.attested(&attested, token("token"), 0);
        assert!(sessions.token(&attested, 299).is_some());
        assert_eq!(sessions.token(&attested, 300), None);
        let late = sessions.take_nonce(&waiting, 300);
        assert_eq!(late, Err(SessionError::Unknown));
        let (next, _) = sessions.open(Tee::Sample, DEFAULT, 300);
        sessions.take_nonce(&next, 300).unwrap();
        sessions.token(&next, 300);
        assert_eq!(sessions.counts(), (1, 0));
    }

    #[test]
    fn verdict_after_expiry_leaves_no_token() {
        let sessions = Sessions::new(300, 10);
        let (id, _) = sessions.open(Tee::Sample, DEFAULT, 0);
        sessions.take_nonce(&id, 299).unwrap();
        sessions.attested(&id, token("token"), 300);
        assert_eq!(sessions.counts().1, 0);
    }

    #[test]
    fn open_sessions_are_kept_nowhere() {
        let sessions = Sessions::new(300, 10);
        for _ in 0..1_000 {
            sessions.open(Tee::Sample, DEFAULT, 0);
        }
        assert_eq!(sessions.counts(), (0, 0));
    }

    #[test]
    fn full_memory_of_nonces_forgets_the_oldest_and_believes_them_no_more() {
        let sessions = Sessions::new(300, 10);
        sessions.held().used = Used::new(3);
        let mut opened = |second| {
            let (id, _) = sessions.open(Tee::Sample, DEFAULT, second);
            let taken = sessions.take_nonce(&id, second.max(10));
            (id, taken)
        };
        // The third that is taken was opened before the second.
        let used: Vec<_> = [10, 12, 11].into_iter().map(&mut opened).collect();
        assert!(used.iter().all(|(_, taken)| taken.is_ok()));
        assert!(opened(12).1.is_ok());
        assert_eq!(opened(10).1, Err(SessionError::Unknown));
        let again: Vec<_> = used
            .iter()
            .map(|(id, _)| sessions.take_nonce(id, 12).unwrap_err())
            .collect();
        let (unknown, taken) = (SessionError::Unknown, SessionError::NonceUsed);
        assert_eq!(again, [unknown, taken, taken]);
        assert_eq!(sessions.counts().0, 3);
    }

    #[test]
    fn full_memory_of_tokens_drops_the_oldest() {
        let sessions = Sessions::new(300, 2);
        let ids: Vec<_> = (0..3)
            .map(|_| {
                let (id, _) = sessions.open(Tee::Sample, DEFAULT, 0);
                sessions.attested(&id, token("token"), 0);
                id
            })
            .collect();
        let kept: Vec<bool> = ids
            .iter()
            .map(|id| sessions.token(id, 0).is_some())
            .collect();
        assert_eq!(kept, [false, true, true]);
    }

    #[test]
    fn tokens_take_so_many_bytes_and_no_more() {
        let sessions = Sessions::new(300, 1_000_000);
        let long = token(&"x".repeat(100_000));
        for _ in 0..200 {
            let (id, _) = sessions.open(Tee::Sample, DEFAULT, 0);
            sessions.attested(&id, Arc::clone(&long), 0);
        }
        assert!(sessions.held().attested.bytes <= MAX_TOKEN_BYTES);
        assert_eq!(sessions.counts().1, MAX_TOKEN_BYTES / 100_000);
    }

    #[test]
    fn session_id_is_nothing_but_its_hex_digits() {
        let digits = 2 * ID;
        for text in [
            "",
            "f",
            &"f".repeat(digits - 1),
            &"f".repeat(digits + 1),
            &"F".repeat(digits),
            &"é".repeat(ID),
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
        }
        assert!("0f".repeat(ID).parse::<SessionId>().is_ok());
    }
}
