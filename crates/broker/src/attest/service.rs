//! Attestation without a session: a caller sends evidence and says what it must bind, as to an upstream attestation
//! service.
//!
//! It is the same path: parse, verify, appraise, issue, record. What is missing is the nonce, so freshness is the caller's,
//! and the token names an audience by which this broker's own release refuses it.

use std::collections::BTreeMap;

use serde_json::Value;
use strongroom_verifier::{
    Binding, Collateral, CollateralRequest, Evidence, is_device, verify_stated,
};
use strongroom_wire::attestation_service::{
    AttestationRequest, AttestationRequestError, IndividualRequest, MAX_REQUESTS, StatedInitData,
    StatedRuntimeData,
};
use strongroom_wire::ear::ANY_RELYING_PARTY;
use strongroom_wire::tee::Tee;

use super::{AttestError, Refusal, appraised, conclude, issue, refuse};
use crate::Inner;
use crate::audit::{Kind, Outcome, Record};
use crate::collateral::CollateralError;
use crate::config::Loosening;
use crate::policies::DEFAULT_ID;

/// A request that has the form of one: each piece decoded, the devices vouched for.
pub(crate) struct Asked {
    policy: String,
    primary: Piece,
    devices: Vec<Piece>,
}

struct Piece {
    tee: Tee,
    json: Vec<u8>,
    runtime_data: Option<StatedRuntimeData>,
    initdata: Option<StatedInitData>,
}

impl Asked {
    /// Decodes a request.
    pub(crate) fn parse(request: &AttestationRequest) -> Result<Self, RequestError> {
        let policy = match request.policy_ids.as_slice() {
            [] => DEFAULT_ID.to_owned(),
            [one] => one.clone(),
            _ => return Err(RequestError::Policies),
        };
        let asked = &request.verification_requests;
        if asked.len() > MAX_REQUESTS {
            return Err(RequestError::TooMany {
                actual: asked.len(),
            });
        }
        let pieces = asked.iter().map(Piece::decode);
        let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
        let (devices, mut cpus): (Vec<_>, Vec<_>) =
            pieces.into_iter().partition(|piece| is_device(piece.tee));
        let (Some(primary), true) = (cpus.pop(), cpus.is_empty()) else {
            return Err(RequestError::Cpu);
        };
        vouched_for(&primary, &devices)?;
        Ok(Self {
            policy,
            primary,
            devices,
        })
    }
}

impl Piece {
    fn decode(request: &IndividualRequest) -> Result<Self, AttestationRequestError> {
        Ok(Self {
            tee: request.tee,
            json: request.evidence()?,
            runtime_data: request.runtime_data()?,
            initdata: request.init_data()?,
        })
    }

    fn parse(self) -> Result<(Evidence, Binding), Refusal> {
        let evidence = Evidence::parse(self.tee, &self.json)?;
        let binding = Binding::stated(self.runtime_data.as_ref(), self.initdata.as_ref());
        Ok((evidence, binding))
    }
}

/// Whether the CPU's runtime data hold the evidence of exactly these devices, as a KBS forwards it. A device signs whatever
/// nonce it is handed, so one that the CPU does not vouch for may stand in another machine.
fn vouched_for(primary: &Piece, devices: &[Piece]) -> Result<(), RequestError> {
    let claims = primary.runtime_data.as_ref().map(|stated| &stated.claims);
    let text = claims
        .and_then(|claims| claims.get("additional-evidence"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let vouched: BTreeMap<Tee, Value> = match text {
        "" => BTreeMap::new(),
        text => serde_json::from_str(text).map_err(|_| RequestError::Devices)?,
    };
    let sent: BTreeMap<Tee, Value> = devices
        .iter()
        .map(|device| Ok((device.tee, serde_json::from_slice(&device.json)?)))
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|_| RequestError::Devices)?;
    match sent == vouched && sent.len() == devices.len() {
        true => Ok(()),
        false => Err(RequestError::Devices),
    }
}

/// Parses the evidence.
pub(crate) fn begin(broker: &Inner, asked: Asked, now: u64) -> Result<Begun, AttestError> {
    let mut record = Record::new(Kind::Attestation, Outcome::Allowed, ACTION, now);
    record.tee = Some(asked.primary.tee);
    record.loosenings = broker.connection_loosenings();
    let name = Loosening::AttestationService.name();
    record.loosenings.push(name.to_owned());
    let devices = asked.devices.into_iter().map(Piece::parse);
    let parsed = asked
        .primary
        .parse()
        .and_then(|primary| Ok((primary, devices.collect::<Result<Vec<_>, _>>()?)));
    match parsed {
        Ok((primary, devices)) => {
            record.tee_key = primary.1.tee_key().map(|key| key.thumbprint());
            Ok(Begun {
                policy: asked.policy,
                primary,
                devices,
                record,
            })
        }
        Err(refusal) => Err(refuse(broker, record, refusal)),
    }
}

/// Evidence that is parsed: what remains needs collateral.
pub(crate) struct Begun {
    policy: String,
    primary: (Evidence, Binding),
    devices: Vec<(Evidence, Binding)>,
    record: Record,
}

impl Begun {
    /// What the evidence needs, to be fetched.
    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        let mut request = self.primary.0.collateral_request();
        for (device, _) in &self.devices {
            request.extend(device.collateral_request().iter().cloned());
        }
        request
    }
}

/// Verifies, appraises, and gives a token for others.
pub(crate) fn finish(
    broker: &Inner,
    begun: Begun,
    collateral: Result<Collateral, CollateralError>,
    now: u64,
) -> Result<String, AttestError> {
    let insecure = broker.live().insecure_collateral && !begun.collateral_request().is_empty();
    let mut record = begun.record;
    if insecure {
        let name = Loosening::InsecureCollateral.name();
        record.loosenings.push(name.to_owned());
    }
    let (primary, devices) = (begun.primary, begun.devices);
    let outcome = collateral.map_err(Refusal::from).and_then(|collateral| {
        let verified = verify_stated(primary, devices, &collateral, &broker.anchors, now)?;
        let appraised = appraised(broker, verified, &begun.policy, &mut record, now)?;
        let grades = record.detail.take().unwrap_or_default();
        record.detail = Some(format!("{grades}; {FRESHNESS}"));
        issue(broker, &appraised, Some(ANY_RELYING_PARTY), now)
    });
    conclude(broker, record, outcome)
}

/// Why a request is refused before its evidence is looked at.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Form(#[from] AttestationRequestError),
    #[error("verification_requests must have the evidence of one CPU, and of devices beside it")]
    Cpu,
    #[error("verification_requests has {actual} members, at most {MAX_REQUESTS} are taken")]
    TooMany { actual: usize },
    #[error("name one policy in policy_ids: only the first would be used")]
    Policies,
    #[error(
        "the CPU's runtime_data.structured must hold the evidence of exactly the devices that are sent, as the JSON text of \
         a map from platform to evidence in its member additional-evidence"
    )]
    Devices,
}

const ACTION: &str = "appraise evidence";
const FRESHNESS: &str = "that it is fresh is for the caller to know";
