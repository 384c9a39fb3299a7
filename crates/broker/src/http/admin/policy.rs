//! `/strongroom/v1/policy`: every policy in force, with its text and its history.
//!
//! Ids are upstream's, `resource-policy`, `default_cpu`, `default_gpu`; and `resource-policy/PATTERN` for what decides
//! over the resources of a pattern alone.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::admin::Admin;
use crate::audit::{Entry, Record};
use crate::policies::{APPRAISAL_IDS, AppraisalId, LoadError, ReleaseId, text_digest};
use crate::store::PolicyVersion;

/// Lists what is in force, the shipped policies too.
pub(crate) async fn list(
    State(broker): State<Arc<Inner>>,
    _admin: Admin,
) -> Result<Json<Vec<Summary>>, ApiError> {
    broker
        .blocking(move |broker| {
            let stored = broker.ledger.store().policies()?;
            let root = ReleaseId::Root.to_string();
            let shipped = [root.as_str()]
                .into_iter()
                .chain(APPRAISAL_IDS.map(|(id, _)| id));
            let unset = shipped.filter(|id| !stored.iter().any(|policy| policy.id == *id));
            let mut listed = unset
                .map(|id| Ok(Summary::of(&shipped_version(id)?)))
                .collect::<Result<Vec<_>, ApiError>>()?;
            listed.extend(stored.iter().map(Summary::of));
            listed.sort_by(|one, other| one.id.cmp(&other.id));
            Ok(Json(listed))
        })
        .await
}

/// Gives a policy's text and history; with `?version=N`, the text of that version.
pub(crate) async fn show(
    State(broker): State<Arc<Inner>>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<Selection>, QueryRejection>,
    _admin: Admin,
) -> Result<Json<Policy>, ApiError> {
    broker
        .blocking(move |broker| {
            let id = named(id)?;
            let Query(Selection { version }) = query?;
            Ok(Json(found(broker, &id, version)?))
        })
        .await
}

/// Sets a policy: the body is its Rego. It is in force when this answers.
pub(crate) async fn set(
    State(broker): State<Arc<Inner>>,
    id: Result<Path<String>, PathRejection>,
    admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Summary>, ApiError> {
    let body = body?;
    broker
        .blocking(move |broker| {
            let record = identity::admin_record(broker, &admin, broker.now());
            let text = std::str::from_utf8(&body)
                .map_err(|_| ApiError::Malformed("a policy is UTF-8 text".to_owned()))?;
            Ok(Json(put(broker, &named(id)?, Some(text), record)?))
        })
        .await
}

/// Takes a policy out of force: over its resources decides what covers them more widely, and the shipped policy in the
/// end.
pub(crate) async fn remove(
    State(broker): State<Arc<Inner>>,
    id: Result<Path<String>, PathRejection>,
    admin: Admin,
) -> Result<Json<Summary>, ApiError> {
    broker
        .blocking(move |broker| {
            let record = identity::admin_record(broker, &admin, broker.now());
            Ok(Json(put(broker, &named(id)?, None, record)?))
        })
        .await
}

/// Puts the text of an older version in force again, as the newest version.
pub(crate) async fn rollback(
    State(broker): State<Arc<Inner>>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<Selection>, QueryRejection>,
    admin: Admin,
) -> Result<Json<Summary>, ApiError> {
    broker
        .blocking(move |broker| {
            let mut record = identity::admin_record(broker, &admin, broker.now());
            let id = named(id)?;
            let Query(Selection { version }) = query?;
            let version = version
                .ok_or_else(|| ApiError::Malformed("which version? Add ?version=N".to_owned()))?;
            let older = found(broker, &id, Some(version))?;
            record.detail = Some(format!("to what version {version} says"));
            Ok(Json(put(broker, &id, older.text.as_deref(), record)?))
        })
        .await
}

/// Which version; the one in force when there is none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selection {
    version: Option<u64>,
}

/// What is known of one version of a policy without its text. Version 0 is the policy that ships.
#[derive(Serialize)]
pub(crate) struct Summary {
    id: String,
    version: u64,
    /// The text's SHA-256, as the record names it; nothing where the policy was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    set_at: u64,
    set_by: String,
}

impl Summary {
    fn of(policy: &PolicyVersion) -> Self {
        Self {
            id: policy.id.clone(),
            version: policy.version,
            digest: policy.text.as_deref().map(text_digest),
            set_at: policy.set_at,
            set_by: policy.set_by.clone(),
        }
    }
}

/// A policy with its text and every version it had, oldest first.
#[derive(Serialize)]
pub(crate) struct Policy {
    #[serde(flatten)]
    summary: Summary,
    text: Option<String>,
    versions: Vec<Summary>,
}

fn found(broker: &Inner, id: &str, version: Option<u64>) -> Result<Policy, ApiError> {
    let versions = broker.ledger.store().policy_versions(id)?;
    let wanted = match version {
        Some(0) => shipped_version(id)?,
        Some(number) => {
            let known = versions.iter().find(|known| known.version == number);
            known.cloned().ok_or(ApiError::NotFound("version"))?
        }
        None => match (versions.last(), shipped_version(id)) {
            (Some(newest), _) if newest.text.is_some() => newest.clone(),
            (_, Ok(shipped)) => shipped,
            // What was removed, and ships nowhere, has a history still.
            (Some(removed), Err(_)) => removed.clone(),
            (None, Err(unknown)) => return Err(unknown),
        },
    };
    Ok(Policy {
        summary: Summary::of(&wanted),
        text: wanted.text,
        versions: versions.iter().map(Summary::of).collect(),
    })
}

/// What ships under an id, as version 0. What decides over a pattern ships nowhere.
fn shipped_version(id: &str) -> Result<PolicyVersion, ApiError> {
    let text = match id.parse() {
        Ok(ReleaseId::Root) => Some(strongroom_verifier::ReleasePolicy::DEFAULT),
        _ => AppraisalId::parse(id).and_then(|id| id.shipped()),
    };
    let text = text.ok_or(ApiError::NotFound("policy"))?;
    Ok(PolicyVersion {
        id: id.to_owned(),
        version: 0,
        text: Some(text.to_owned()),
        set_at: 0,
        set_by: "strongroom".to_owned(),
    })
}

fn put(broker: &Inner, id: &str, text: Option<&str>, record: Record) -> Result<Summary, ApiError> {
    let (policies, ledger) = (&broker.policies, &broker.ledger);
    let parsed = (id.parse::<ReleaseId>(), AppraisalId::parse(id));
    let set: Result<Entry, LoadError> = match parsed {
        (Ok(id), _) => policies.set_release(ledger, &id, text, record),
        (_, Some(id)) => policies.set_appraisal(ledger, &id, text, record),
        _ => return Err(ApiError::PolicyId(id.chars().take(64).collect())),
    };
    let entry = set.map_err(|error| match error {
        LoadError::Store(crate::StoreError::NotFound) => ApiError::NotFound("policy"),
        other => other.into(),
    })?;
    Ok(Summary {
        id: id.to_owned(),
        version: entry.record.version.unwrap_or_default(),
        digest: text.map(text_digest),
        set_at: entry.record.at,
        set_by: entry.record.admin.unwrap_or_default(),
    })
}

/// The id in its one spelling: patterns have several.
fn named(id: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let Path(id) = id?;
    Ok(id.parse::<ReleaseId>().map_or(id, |id| id.to_string()))
}
