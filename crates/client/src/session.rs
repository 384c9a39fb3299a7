//! When a token is used again, when a new handshake is due, and when a failed request is tried again.
//!
//! A core: time comes in as `now`, chance as `jitter`. One token serves many secrets until shortly before it expires;
//! a refusal is never retried.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

use std::sync::Arc;
use std::time::Duration;

use crate::handshake::Attested;

/// The token in use, if there is one.
#[derive(Default)]
pub struct Session {
    attested: Option<Arc<Attested>>,
}

impl Session {
    /// The token to use now; `None` means that a handshake is due.
    pub fn usable(&self, now: u64) -> Option<Arc<Attested>> {
        self.attested
            .as_ref()
            .filter(|attested| now < attested.refresh_at())
            .cloned()
    }

    /// Takes a new token into use.
    pub fn on_attested(&mut self, attested: Arc<Attested>) {
        self.attested = Some(attested);
    }

    /// The broker did not accept this token: it is dropped, unless a newer one has taken its place already.
    pub fn on_not_accepted(&mut self, rejected: &Arc<Attested>) {
        if self
            .attested
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, rejected))
        {
            self.attested = None;
        }
    }

    /// The broker denied a resource under this token. The denial stands; but it rests on an appraisal that the broker's
    /// owner may mend at any moment, so a token older than [`DENIED_TOKEN_AGE`] is not used for the next request.
    pub fn on_denied(&mut self, denied: &Arc<Attested>, now: u64) {
        if now.saturating_sub(denied.received_at()) >= DENIED_TOKEN_AGE {
            self.on_not_accepted(denied);
        }
    }
}

/// The least age in seconds at which a denied token is replaced: bounds what a workload that asks in a loop can cost.
pub const DENIED_TOKEN_AGE: u64 = 30;

/// How often and how soon a request is tried again after the network or the broker failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RetryPolicy {
    /// Tries in all, the first included.
    pub attempts: u32,
    /// The longest wait before the second try; doubles with each further one.
    pub base: Duration,
    /// No wait is longer than this.
    pub cap: Duration,
}

impl RetryPolicy {
    /// No second try.
    pub const NONE: Self = Self {
        attempts: 1,
        base: Duration::ZERO,
        cap: Duration::ZERO,
    };

    /// How long to wait after the `failed`-th failure in a row (from 1); `None` when it is time to give up.
    ///
    /// `jitter` in `0.0..1.0` spreads the wait between half and the whole of the exponential step, so that many guests
    /// which lost one broker do not come back at once.
    pub fn delay(&self, failed: u32, jitter: f64) -> Option<Duration> {
        if failed >= self.attempts {
            return None;
        }
        let step = self
            .base
            .saturating_mul(2u32.saturating_pow(failed.saturating_sub(1)))
            .min(self.cap);
        Some(step.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }
}

impl Default for RetryPolicy {
    /// Four tries within about two seconds: longer outages are the caller's to wait out.
    fn default() -> Self {
        Self {
            attempts: 4,
            base: Duration::from_millis(250),
            cap: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::handshake::Handshake;
    use strongroom_wire::jwe::{DecryptionKey, KeyAlgorithm};
    use strongroom_wire::kbs::{AttestResponse, Challenge, CompositeEvidence, Nonce};
    use strongroom_wire::tee::Tee;

    /// A token that lives from 1000 to 1300.
    fn attested() -> Arc<Attested> {
        let (handshake, _) = Handshake::new(
            Tee::Sample,
            DecryptionKey::generate(KeyAlgorithm::EcdhP256).unwrap(),
        );
        let challenge = Challenge {
            nonce: Nonce::from_bytes(&[0; 32]),
            extra_params: "".into(),
        };
        let evidence = CompositeEvidence {
            primary_evidence: serde_json::value::to_raw_value("").unwrap(),
            additional_evidence: String::new(),
        };
        let (answered, _) = handshake
            .on_challenge(challenge)
            .unwrap()
            .attestation(evidence, None);
        // {"iat":1000,"exp":1300}
        let token = "e30.eyJpYXQiOjEwMDAsImV4cCI6MTMwMH0.c2ln".to_owned();
        Arc::new(
            answered
                .on_response(AttestResponse { token }, 1_000)
                .unwrap(),
        )
    }

    fn session(attested: &Arc<Attested>) -> Session {
        let mut session = Session::default();
        session.on_attested(Arc::clone(attested));
        session
    }

    #[test]
    fn token_is_not_used_in_its_last_seconds() {
        let session = session(&attested());
        assert!(session.usable(1_269).is_some());
        assert!(session.usable(1_270).is_none());
    }

    #[test]
    fn rejected_token_is_dropped() {
        let attested = attested();
        let mut session = session(&attested);
        session.on_not_accepted(&attested);
        assert!(session.usable(1_000).is_none());
    }

    #[test]
    fn late_rejection_of_an_old_token_leaves_the_new_one() {
        let (old, new) = (attested(), attested());
        let mut session = session(&old);
        session.on_attested(Arc::clone(&new));
        session.on_not_accepted(&old);
        assert!(Arc::ptr_eq(&session.usable(1_000).unwrap(), &new));
    }

    #[test]
    fn denial_of_a_fresh_token_does_not_attest_again() {
        let attested = attested();
        let mut session = session(&attested);
        session.on_denied(&attested, 1_000 + DENIED_TOKEN_AGE - 1);
        assert!(session.usable(1_100).is_some());
    }

    #[test]
    fn denial_of_an_old_token_lets_the_next_request_attest_anew() {
        let attested = attested();
        let mut session = session(&attested);
        session.on_denied(&attested, 1_000 + DENIED_TOKEN_AGE);
        assert!(session.usable(1_100).is_none());
    }

    #[test]
    fn waits_double_up_to_the_cap_and_then_end() {
        let policy = RetryPolicy {
            attempts: 4,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(3),
        };
        let waits: Vec<_> = (1..=4).map(|failed| policy.delay(failed, 1.0)).collect();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(waits, [seconds(1), seconds(2), seconds(3), None]);
    }

    #[test]
    fn jitter_halves_a_wait_at_most() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay(1, 0.0), Some(Duration::from_millis(125)));
        assert_eq!(policy.delay(1, 7.0), Some(Duration::from_millis(250)));
    }

    #[test]
    fn absurd_count_of_failures_does_not_overflow() {
        let policy = RetryPolicy {
            attempts: u32::MAX,
            ..RetryPolicy::default()
        };
        assert_eq!(policy.delay(u32::MAX - 1, 1.0), Some(policy.cap));
    }
}
