//! `/kbs/v0/resource-policy` and `/kbs/v0/attestation-policy`: admins set the policies in force.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use serde::Deserialize;
use strongroom_verifier::release_policy;

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::admin::Admin;
use crate::policies::{AppraisalId, ReleaseId};

/// Sets the release policy. It is in force when this answers.
pub(crate) async fn set_release(
    State(broker): State<Arc<Inner>>,
    admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<(), ApiError> {
    let body = body?;
    broker
        .blocking(move |broker| {
            let now = broker.now();
            let text = parse_release(&body)?;
            let record = identity::admin_record(broker, &admin, now);
            broker
                .policies
                .set_release(&broker.ledger, &ReleaseId::Root, Some(&text), record)?;
            Ok(())
        })
        .await
}

/// Lists the ids of release policies that upstream knows: there is one. All are at `/strongroom/v1/policy`.
pub(crate) async fn list_release(_admin: Admin) -> Json<[&'static str; 1]> {
    Json([release_policy::POLICY_ID])
}

/// Sets the appraisal policy of one class of platforms. Upstream's clients also send a `type`, which is not looked at.
pub(crate) async fn set_appraisal(
    State(broker): State<Arc<Inner>>,
    admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<(), ApiError> {
    let body = body?;
    broker
        .blocking(move |broker| {
            let now = broker.now();
            let (id, text) = parse_appraisal(&body)?;
            let record = identity::admin_record(broker, &admin, now);
            broker
                .policies
                .set_appraisal(&broker.ledger, &id, Some(&text), record)?;
            Ok(())
        })
        .await
}

/// The text of a release policy.
pub(crate) fn parse_release(body: &[u8]) -> Result<String, ApiError> {
    let message: SetReleasePolicy = serde_json::from_slice(body)?;
    decode(&message.policy)
}

/// The id and the text of an appraisal policy.
pub(crate) fn parse_appraisal(body: &[u8]) -> Result<(AppraisalId, String), ApiError> {
    let message: SetAppraisalPolicy = serde_json::from_slice(body)?;
    let id = AppraisalId::parse(&message.policy_id);
    let id = id.ok_or_else(|| ApiError::PolicyId(message.policy_id.chars().take(64).collect()))?;
    Ok((id, decode(&message.policy)?))
}

#[derive(Deserialize)]
struct SetReleasePolicy {
    policy: String,
}

#[derive(Deserialize)]
struct SetAppraisalPolicy {
    policy_id: String,
    policy: String,
}

/// Upstream's clients send base64url without padding; with padding is understood too.
fn decode(policy: &str) -> Result<String, ApiError> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &URL_SAFE,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    LENIENT
        .decode(policy)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| ApiError::Malformed("policy is not base64url of UTF-8 text".to_owned()))
}
