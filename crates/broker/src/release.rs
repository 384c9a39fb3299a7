//! Authorisation and release: the only way from a token to a secret.
//!
//! [`authorize`] makes a [`Grant`] for one path and one key. [`release`] uses it up: it alone opens a secret, and
//! the answer leaves by [`Asked::end`], after its entry is in the record, or not at all. A guest that is denied does not learn
//! whether the resource exists.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use strongroom_verifier::{Assurance, Decision, Reason};
use strongroom_wire::ear::{Tier, TrustVector};
use strongroom_wire::jwe::{self, Jwe, JweError};
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::resource::ResourcePath;

use crate::Inner;
use crate::audit::{EventId, Kind, Outcome, Record};
use crate::http::ApiError;
use crate::sources::SourceError;
use crate::store::{Change, Secret, StoreError};
use crate::strangers::PER_SECOND;
use crate::tokens::{TokenError, VerifiedToken};

/// Decides over a presented token, and encrypts what the store has. Nothing leaves before [`Asked::end`] recorded it.
pub(crate) fn resource(
    broker: &Inner,
    presented: Option<&str>,
    path: &ResourcePath,
    query: &BTreeMap<String, String>,
    now: u64,
) -> Asked {
    let token = presented
        .ok_or(ReleaseError::NoToken)
        .and_then(|presented| Ok(broker.issuer.verify(presented, now)?));
    let token = match token {
        Ok(token) => token,
        Err(error) => {
            let mut record = Record::new(Kind::Release, Outcome::Denied, ACTION, now);
            record.resource = Some(path.to_string());
            record.detail = Some(error.to_string());
            return Asked::Stranger {
                record: Box::new(record),
                error,
            };
        }
    };
    if let Err(error) = broker.follow() {
        return Asked::Failed(error.into());
    }
    match authorize(broker, &token, path, query, now) {
        Ok(grant) => release(broker, grant),
        Err(denial) => Asked::Denied(denial),
    }
}

/// A request that is decided, and how far its answer is.
#[must_use = "what is not recorded is not answered"]
pub(crate) enum Asked {
    /// It has an answer, or there is none to have.
    Decided {
        record: Box<Record>,
        answer: Box<Result<Jwe, ReleaseError>>,
    },
    /// It is allowed, and the store has nothing. A source may.
    Elsewhere(Box<Grant>),
    /// It is denied.
    Denied(Denial),
    /// Whoever asks showed no token of this broker's.
    Stranger {
        record: Box<Record>,
        error: ReleaseError,
    },
    /// Nothing could be decided.
    Failed(ReleaseError),
}

impl Asked {
    /// Records how it ended, and gives the answer.
    pub(crate) async fn end(self, broker: &Arc<Inner>) -> Result<Released, ApiError> {
        let ended = self.recorded(broker).await;
        broker.metrics.release(match &ended {
            Ok(_) => "released",
            Err(ApiError::Release(error)) => error.outcome(),
            Err(_) => "failed",
        });
        ended
    }

    async fn recorded(self, broker: &Arc<Inner>) -> Result<Released, ApiError> {
        let (record, answer) = match self {
            Self::Decided { record, answer } => (record, *answer),
            Self::Elsewhere(grant) => {
                let sought = broker.blocking(move |broker| Ok(from_a_source(broker, *grant)));
                sought.await?
            }
            Self::Denied(denial) => {
                let recorded = broker.blocking(move |broker| Err(denial.record(broker).into()));
                return recorded.await;
            }
            Self::Stranger { record, error } => {
                let recorded = broker.blocking(move |broker| {
                    broker.record_stranger(*record, PER_SECOND);
                    Err(error.into())
                });
                return recorded.await;
            }
            Self::Failed(error) => return Err(error.into()),
        };
        let (event, token) = (record.event.clone(), record.token.clone());
        let committed = broker.ledger.committed(Change::Nothing, *record).await;
        committed.map_err(ReleaseError::from)?;
        Ok(Released {
            jwe: answer?,
            event,
            token,
        })
    }
}

/// What was released, and where the record has it.
pub(crate) struct Released {
    pub(crate) jwe: Jwe,
    pub(crate) event: EventId,
    /// The id of the token that was shown.
    pub(crate) token: Option<String>,
}

/// The right to release one resource to one key, once.
#[must_use = "a grant that is not used leaves no record"]
pub(crate) struct Grant {
    path: ResourcePath,
    recipient: TeePublicKey,
    record: Record,
}

/// A refusal that is not recorded yet.
#[must_use = "a denial that is dropped leaves no record"]
pub(crate) struct Denial {
    record: Box<Record>,
}

/// Asks the hard gate and then the policy in force.
pub(crate) fn authorize(
    broker: &Inner,
    token: &VerifiedToken,
    path: &ResourcePath,
    query: &BTreeMap<String, String>,
    now: u64,
) -> Result<Grant, Denial> {
    let policies = broker.policies.release();
    let policy = policies.of(path);
    let mut record = Record::new(Kind::Release, Outcome::Allowed, ACTION, now);
    record.tee = token.tee();
    record.tee_key = Some(token.tee_key().thumbprint());
    record.token = Some(token.id().to_owned());
    record.resource = Some(path.to_string());
    let asked: usize = query
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    match asked <= MAX_QUERY {
        true => record.query = query.clone(),
        false => record.query_left_out = true,
    }
    record.policy_id = Some(policy.id.clone());
    record.policy = Some(policy.digest.clone());
    record.loosenings = broker.connection_loosenings();
    let rehearsed = token.development().iter().copied();
    if broker.let_through(rehearsed, &mut record).is_err() {
        (record.policy_id, record.policy) = (None, None);
        return Err(Denial::new(record, vec![development()]));
    }
    let evaluate = || {
        let subject = token.subject();
        policy.policy.evaluate_for(subject, path, query, now)
    };
    match broker.metrics.evaluated("release", evaluate) {
        Ok(Decision::Allow) => Ok(Grant {
            path: path.clone(),
            recipient: token.tee_key().clone(),
            record,
        }),
        Ok(Decision::Deny { mut reasons }) => {
            if reasons
                .iter()
                .any(|reason| reason.claim.contains("ear.status"))
            {
                reasons.extend(bad_claims(token.payload()));
            }
            Err(Denial::new(record, reasons))
        }
        Err(error) => {
            record.detail = Some(error.to_string());
            Err(Denial::new(record, Vec::new()))
        }
    }
}

/// Uses a grant up: opens what the store has, and encrypts it to the grant's key.
fn release(broker: &Inner, grant: Grant) -> Asked {
    let sealed = match broker.ledger.store().sealed_secret(&grant.path, None) {
        Ok(Some(sealed)) => sealed,
        Ok(None) => return Asked::Elsewhere(Box::new(grant)),
        Err(error) => return Asked::Failed(error.into()),
    };
    let Grant {
        path,
        recipient,
        mut record,
    } = grant;
    record.version = Some(sealed.version);
    // What the store has goes before every source, expired or not.
    let (record, answer) = match sealed.expires.is_some_and(|end| end <= record.at) {
        true => {
            record.detail = Some("this version has expired".to_owned());
            missing(record)
        }
        false => {
            let opened = broker.open_sealed(&path, &sealed);
            let opened = opened.map_err(ReleaseError::Store);
            encrypted(record, &recipient, opened)
        }
    };
    let answer = Box::new(answer);
    Asked::Decided { record, answer }
}

/// Uses a grant up on what a source has. Blocks.
fn from_a_source(broker: &Inner, grant: Grant) -> (Box<Record>, Result<Jwe, ReleaseError>) {
    let Grant {
        path,
        recipient,
        mut record,
    } = grant;
    let secret = match broker.sources.secret(&path) {
        Ok(Some(found)) => {
            record.version = found.version;
            record.source = Some(found.source);
            let loosening = found.loosening.map(|loosening| loosening.name().to_owned());
            record.loosenings.extend(loosening);
            Ok(found.secret)
        }
        Ok(None) => return missing(record),
        Err(error) => Err(ReleaseError::Source {
            event: record.event.clone(),
            error,
        }),
    };
    encrypted(record, &recipient, secret)
}

fn encrypted(
    mut record: Record,
    recipient: &TeePublicKey,
    secret: Result<Secret, ReleaseError>,
) -> (Box<Record>, Result<Jwe, ReleaseError>) {
    let answer = secret
        .and_then(|secret| jwe::encrypt(recipient, secret.expose()).map_err(ReleaseError::from));
    if let Err(error) = &answer {
        record.outcome = Outcome::Failed;
        record.detail = Some(match error {
            // The guest is told less.
            ReleaseError::Source { error, .. } => error.to_string(),
            other => other.to_string(),
        });
    }
    (Box::new(record), answer)
}

/// There is nothing to release.
fn missing(mut record: Record) -> (Box<Record>, Result<Jwe, ReleaseError>) {
    record.outcome = Outcome::Missing;
    (Box::new(record), Err(ReleaseError::Missing))
}

impl Denial {
    fn new(mut record: Record, reasons: Vec<Reason>) -> Self {
        record.outcome = Outcome::Denied;
        record.reasons = reasons;
        Self {
            record: Box::new(record),
        }
    }

    /// Records why, and gives what the guest may know.
    fn record(self, broker: &Inner) -> ReleaseError {
        let class = match (&self.record.policy, self.record.reasons.is_empty()) {
            (None, _) => "development",
            (Some(_), true) => "policy-failed",
            (Some(_), false) => "policy",
        };
        broker.metrics.denied("release", class);
        let event = broker.record_denial(*self.record);
        ReleaseError::Denied { event }
    }
}

/// The trust claims behind a status that is not affirming: a tier alone does not say what to mend.
fn bad_claims(payload: &Value) -> Vec<Reason> {
    let submods = payload["submods"].as_object().into_iter().flatten();
    submods
        .filter_map(|(submod, members)| {
            let vector = members["ear.trustworthiness-vector"].as_object()?;
            let vector = TrustVector::from_claims(vector).ok()?;
            Some(vector.claims().map(|(name, value)| (submod, name, value)))
        })
        .flatten()
        .filter(|(_, _, value)| Tier::of(*value) > Tier::Affirming)
        .map(|(submod, name, value)| Reason {
            rule: "a trust claim is to blame; the attestation's entry says why".to_owned(),
            claim: format!("submods.{submod}.{name}"),
            expected: json!("2 to 31"),
            actual: json!(value),
        })
        .collect()
}

/// The gate in front of every policy: rehearsal is not proof.
fn development() -> Reason {
    Reason {
        rule: "development evidence meets no policy".to_owned(),
        claim: "assurance".to_owned(),
        expected: json!(Assurance::Hardware.as_str()),
        actual: json!(Assurance::Development.as_str()),
    }
}

/// Why nothing is released, as the guest may know it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    #[error("Attestation Token not found")]
    NoToken,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("denied by policy; the broker's owner can explain event {event}")]
    Denied { event: EventId },
    #[error("there is no such resource")]
    Missing,
    #[error("the key of the token cannot be encrypted to: {0}")]
    Key(#[from] JweError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "what keeps this resource does not give it now; the broker's owner can explain event {event}"
    )]
    Source { event: EventId, error: SourceError },
}

impl ReleaseError {
    /// In a word, for those who count.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::NoToken => "no-token",
            Self::Token(_) => "bad-token",
            Self::Denied { .. } => "denied",
            Self::Missing => "missing",
            Self::Key(_) => "bad-key",
            Self::Store(_) => "failed",
            Self::Source { .. } => "source",
        }
    }
}

const ACTION: &str = "get resource";
/// A guest cannot fill the record with its questions.
const MAX_QUERY: usize = 512;
