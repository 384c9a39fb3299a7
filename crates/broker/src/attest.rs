//! Attestation, start to end: the one place where evidence becomes a token.
//!
//! The nonce is taken first and for good. Then each step's output is the next one's input: parse, verify,
//! appraise, issue. The record is written before the token leaves.

pub(crate) mod service;

use std::sync::Arc;

use strongroom_verifier::{
    AppraiseError, AppraisedClaims, AppraisedSubmod, Binding, Check, Collateral, CollateralRequest,
    Evidence, Reason, VerifiedEvidence, VerifyError, appraise, verify,
};
use strongroom_wire::ear::{Tier, TrustVector};
use strongroom_wire::initdata::{Initdata, InitdataError};
use strongroom_wire::kbs::{Attestation, InitDataBody};

use crate::audit::{EventId, Kind, Outcome, Record};
use crate::collateral::CollateralError;
use crate::config::Loosening;
use crate::http::ApiError;
use crate::policies::DEFAULT_ID;
use crate::session::{Pending, SessionError, SessionId};
use crate::store::{Change, StoreError};
use crate::strangers::PER_SECOND;
use crate::tokens::{IssueError, IssuedToken};
use crate::{Inner, Moment, NotLetThrough};

/// Takes the nonce of the session, once and for good, and parses what was sent with it. What does not parse as a
/// message never was an attestation and takes none.
pub(crate) fn begin(
    broker: &Inner,
    session: Option<SessionId>,
    attestation: Attestation,
    now: u64,
) -> Result<Begun, Ended> {
    let (session, pending, initdata) = take_nonce(broker, session, &attestation, now)
        .map_err(|error| Ended::NotBegun { error, at: now })?;
    let mut record = Record::new(Kind::Attestation, Outcome::Allowed, ACTION, now);
    record.tee = Some(pending.tee);
    record.tee_key = Some(attestation.runtime_data.tee_pubkey.thumbprint());
    record.loosenings = broker.connection_loosenings();
    let policy = broker.config.attestation.selected(&pending.policy);
    let Some(policy) = policy.map(str::to_owned) else {
        let error = SessionError::Unknown.into();
        return Err(Ended::NotBegun { error, at: now });
    };
    match parse(&pending, &attestation) {
        Ok(evidence) => Ok(Begun {
            policy,
            session,
            attestation,
            initdata,
            evidence,
            record,
        }),
        Err(refusal) => Err(Ended::refused(record, refusal)),
    }
}

/// An attestation whose nonce is taken and whose evidence is parsed: what remains needs collateral.
pub(crate) struct Begun {
    /// The id of the policies that the session was opened for.
    policy: String,
    session: SessionId,
    attestation: Attestation,
    initdata: Option<Initdata>,
    evidence: Evidence,
    record: Record,
}

impl Begun {
    /// What the evidence needs, to be fetched.
    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        self.evidence.collateral_request()
    }
}

/// Verifies and appraises what a session sent and signs its token, which nobody gets before it is recorded.
pub(crate) fn finish(
    broker: &Inner,
    begun: Begun,
    collateral: Result<Collateral, CollateralError>,
    now: u64,
) -> Result<Judged, Ended> {
    broker
        .follow()
        .map_err(|error| Ended::Failed(error.into()))?;
    let mut record = begun.record;
    let session = begun.session;
    if broker.live().insecure_collateral && !begun.evidence.collateral_request().is_empty() {
        let name = Loosening::InsecureCollateral.name();
        record.loosenings.push(name.to_owned());
    }
    let binding = Binding::new(
        &begun.attestation.runtime_data,
        &begun.attestation.tee_evidence.additional_evidence,
        begun.initdata.as_ref(),
    );
    let outcome = collateral.map_err(Refusal::from).and_then(|collateral| {
        let anchors = &broker.anchors;
        let verified = verify(begun.evidence, &collateral, anchors, &binding, now)?;
        let appraised = appraised(broker, verified, &begun.policy, &mut record, now)?;
        issue(broker, &appraised, None, now)
    });
    match outcome {
        Ok(token) => {
            let (token, kept) = earned(broker, token, &mut record);
            Ok(Judged {
                session,
                token,
                kept,
                record,
            })
        }
        Err(refusal) => Err(Ended::refused(record, refusal)),
    }
}

/// An attestation that earned a token.
#[must_use = "a token that is not recorded goes to nobody"]
pub(crate) struct Judged {
    session: SessionId,
    token: String,
    kept: Change,
    record: Record,
}

impl Judged {
    /// Records the attestation and gives its token, once.
    pub(crate) async fn issue(self, broker: &Arc<Inner>, now: u64) -> Result<String, ApiError> {
        let recorded = broker.ledger.committed(self.kept, self.record).await;
        recorded.map_err(AttestError::from)?;
        let (session, shown) = (self.session, Arc::from(self.token.as_str()));
        let keep = move |broker: &Inner| broker.sessions().attested(&session, shown, now);
        broker.moment(Moment::Short, keep).await?;
        Ok(self.token)
    }
}

/// An attestation that earned no token. A refusal is not recorded yet.
#[must_use = "a refusal that is dropped leaves no record"]
pub(crate) enum Ended {
    /// There was no nonce to take, or none was taken.
    NotBegun { error: AttestError, at: u64 },
    /// The evidence was refused.
    Refused {
        record: Box<Record>,
        refusal: Refusal,
    },
    /// Nothing was decided.
    Failed(AttestError),
}

impl Ended {
    fn refused(mut record: Record, refusal: Refusal) -> Self {
        record.outcome = Outcome::Denied;
        record.detail = Some(refusal.to_string());
        record.reasons = refusal.reasons();
        Self::Refused {
            record: Box::new(record),
            refusal,
        }
    }

    /// Records a refusal, and gives what the guest may know. Blocks.
    pub(crate) fn record(self, broker: &Inner) -> AttestError {
        match self {
            Self::NotBegun { error, at } => {
                let mut record = Record::new(Kind::Attestation, Outcome::Denied, ACTION, at);
                record.detail = Some(error.to_string().chars().take(MAX_DETAIL).collect());
                let class = match &error {
                    AttestError::Session(_) => "session",
                    _ => "init-data",
                };
                broker.metrics.attestation_refused(None, class);
                broker.record_stranger(record, PER_SECOND);
                error
            }
            Self::Refused { record, refusal } => recorded(broker, *record, refusal),
            Self::Failed(error) => error,
        }
    }
}

fn take_nonce(
    broker: &Inner,
    session: Option<SessionId>,
    attestation: &Attestation,
    now: u64,
) -> Result<(SessionId, Pending, Option<Initdata>), AttestError> {
    let session = session.ok_or(SessionError::Unknown)?;
    let initdata = attestation
        .init_data
        .as_ref()
        .map(parse_initdata)
        .transpose()?;
    let pending = broker.sessions().take_nonce(&session, now)?;
    Ok((session, pending, initdata))
}

fn parse(pending: &Pending, attestation: &Attestation) -> Result<Evidence, Refusal> {
    if attestation.runtime_data.nonce != pending.nonce {
        return Err(Refusal::Nonce);
    }
    let composite = &attestation.tee_evidence;
    Ok(Evidence::parse_composite(
        pending.tee,
        composite.primary_evidence.get().as_bytes(),
        &composite.additional_evidence,
    )?)
}

/// Writes the record; the token leaves after it.
fn conclude(
    broker: &Inner,
    mut record: Record,
    outcome: Result<IssuedToken, Refusal>,
) -> Result<String, AttestError> {
    match outcome {
        Ok(token) => {
            let (token, kept) = earned(broker, token, &mut record);
            broker.ledger.commit(kept, record)?;
            Ok(token)
        }
        Err(refusal) => Err(refuse(broker, record, refusal)),
    }
}

/// The token that evidence earned, and what is kept of it.
fn earned(broker: &Inner, token: IssuedToken, record: &mut Record) -> (String, Change) {
    record.token = Some(token.id.clone());
    broker.metrics.attested(record.tee);
    let kept = match broker.keeps_claims(token.claims.len()) {
        true => Change::KeepClaims {
            token: token.id,
            claims: token.claims,
        },
        false => {
            let grades = record.detail.take().unwrap_or_default();
            record.detail = Some(format!("{grades}; {CLAIMS_NOT_KEPT}"));
            Change::Nothing
        }
    };
    (token.jwt, kept)
}

fn issue(
    broker: &Inner,
    appraised: &AppraisedClaims,
    audience: Option<&str>,
    now: u64,
) -> Result<IssuedToken, Refusal> {
    broker
        .issuer
        .issue(appraised, audience, now)
        .map_err(|error| match error {
            IssueError::TooLong { .. } => Refusal::TokenTooLong(error),
            IssueError::Ear(error) => Refusal::Internal(error.to_string()),
        })
}

fn appraised(
    broker: &Inner,
    verified: VerifiedEvidence,
    policy: &str,
    record: &mut Record,
    now: u64,
) -> Result<AppraisedClaims, Refusal> {
    let tee = verified.tee();
    broker
        .let_through(verified.development().map(Some), record)
        .map_err(|NotLetThrough| Refusal::Development)?;
    let appraisals = broker.policies.appraisal();
    let appraisals = appraisals.of(policy).ok_or_else(|| Refusal::NoPolicy {
        id: policy.to_owned(),
    })?;
    record.policy_id = (policy != DEFAULT_ID).then(|| format!("{policy}_{}", tee.class()));
    record.policy = appraisals.digest(tee.class());
    let values = broker.policies.reference_values();
    let appraise = || appraise(verified, &values, &appraisals.policies, now);
    let appraised = broker.metrics.evaluated("appraisal", appraise)?;
    if let Some(guest) = appraised.submods().first() {
        record.measurement = guest.measurement().map(str::to_owned);
        record.init_data = guest.init_data().map(str::to_owned);
    }
    let grades: Vec<String> = appraised.submods().iter().map(grade).collect();
    record.detail = Some(grades.join("; ").chars().take(MAX_DETAIL).collect());
    record.reasons = appraised
        .submods()
        .iter()
        .flat_map(|submod| submod.findings().iter().cloned())
        .take(MAX_REASONS)
        .collect();
    Ok(appraised)
}

/// The status, and the claims that are to blame when it is a bad one: `status warning: hardware 32`. A device's
/// stands after its name.
fn grade(submod: &AppraisedSubmod) -> String {
    match submod.name() {
        "cpu0" => grade_of(submod.trust_vector()),
        device => format!("{device} {}", grade_of(submod.trust_vector())),
    }
}

fn grade_of(vector: &TrustVector) -> String {
    let mut text = format!("status {}", vector.status().as_str());
    let mut separator = ": ";
    for (name, value) in vector.claims() {
        if Tier::of(value) > Tier::Affirming {
            text.push_str(&format!("{separator}{name} {value}"));
            separator = ", ";
        }
    }
    text
}

pub(crate) fn parse_initdata(body: &InitDataBody) -> Result<Initdata, AttestError> {
    if body.format != "toml" {
        return Err(AttestError::InitdataFormat);
    }
    Ok(Initdata::parse(&body.body)?)
}

/// Records why, and gives what the guest may know. Blocks.
fn refuse(broker: &Inner, record: Record, refusal: Refusal) -> AttestError {
    Ended::refused(record, refusal).record(broker)
}

fn recorded(broker: &Inner, record: Record, refusal: Refusal) -> AttestError {
    broker
        .metrics
        .attestation_refused(record.tee, refusal.class());
    // A refusal that cannot be recorded is a refusal all the same.
    let event = broker.record_stranger(record, REFUSED_PER_SECOND);
    match refusal {
        Refusal::Internal(_) => AttestError::Internal(event),
        Refusal::Collateral(error) if error.may_pass() => AttestError::Later { event },
        _ => AttestError::Refused { event },
    }
}

/// Why evidence earned no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the evidence is for another nonce than this session's")]
    Nonce,
    #[error(
        "development evidence proves nothing about hardware, and this broker does not accept it"
    )]
    Development,
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Collateral(#[from] CollateralError),
    #[error(transparent)]
    Appraise(#[from] AppraiseError),
    #[error("there is no appraisal policy {id}_cpu: an admin sets it")]
    NoPolicy { id: String },
    #[error(transparent)]
    TokenTooLong(IssueError),
    #[error("{0}")]
    Internal(String),
}

impl Refusal {
    /// What kind of rule refused, in a word, for those who count.
    fn class(&self) -> &'static str {
        match self {
            Self::Nonce => "nonce",
            Self::Development => "development",
            Self::Verify(error) => error.check().name(),
            Self::Collateral(_) => "collateral",
            Self::Appraise(_) | Self::NoPolicy { .. } => "policy-failed",
            Self::TokenTooLong(_) => "token-too-long",
            Self::Internal(_) => "internal",
        }
    }

    fn reasons(&self) -> Vec<Reason> {
        let reason = |claim: &str, expected: &str, actual: &str| Reason {
            rule: self.to_string(),
            claim: claim.to_owned(),
            expected: expected.into(),
            actual: actual.into(),
        };
        match self {
            Self::Development => vec![reason("assurance", "hardware", "development")],
            Self::Nonce => vec![reason("nonce", "the session's", "another")],
            Self::Verify(VerifyError::ReportData { expected, actual }) => {
                vec![reason("report_data", expected, actual)]
            }
            Self::Verify(VerifyError::Initdata { expected, actual }) => {
                vec![reason("init_data", expected, actual)]
            }
            Self::Verify(VerifyError::Failed {
                check,
                expected,
                actual,
            }) => vec![reason(check.name(), expected, actual)],
            Self::Verify(error) => {
                let check = error.check();
                vec![reason(check.name(), check.sentence(), &error.to_string())]
            }
            Self::Collateral(error) => {
                let check = Check::Collateral;
                vec![reason(check.name(), check.sentence(), &error.to_string())]
            }
            Self::Appraise(_) | Self::NoPolicy { .. } => vec![reason(
                "appraisal-policy",
                "one that can be evaluated",
                &self.to_string(),
            )],
            Self::TokenTooLong(error) => {
                vec![reason("token", "one that fits", &error.to_string())]
            }
            Self::Internal(cause) => vec![reason("broker", "no failure", cause)],
        }
    }
}

/// Why there is no token, as the guest may know it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttestError {
    #[error("init-data must have the format \"toml\"")]
    InitdataFormat,
    #[error(transparent)]
    Initdata(#[from] InitdataError),
    #[error(transparent)]
    Service(#[from] service::RequestError),
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Which check, and why, is in the record: a guest that hears it learns what to forge.
    #[error("the evidence was refused; the broker's owner can explain event {event}")]
    Refused { event: EventId },
    /// No refusal: the same evidence may pass later, in a new session.
    #[error(
        "what the platform's maker says of it cannot be had now: try again later; the broker's owner can explain event {event}"
    )]
    Later { event: EventId },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the broker failed; its owner can explain event {0}")]
    Internal(EventId),
}

const ACTION: &str = "attest";
const CLAIMS_NOT_KEPT: &str = "its claims are not kept: audit.claims_megabytes_per_day is used up";
const MAX_DETAIL: usize = 512;
/// Enough for every finding of a CPU and eight GPUs.
const MAX_REASONS: usize = 256;
/// Evidence that is refused took a handshake, and its guest is told an event. A fleet that is started with the wrong
/// configuration should find an entry each; a flood should not fill the disk.
const REFUSED_PER_SECOND: u32 = 20;
