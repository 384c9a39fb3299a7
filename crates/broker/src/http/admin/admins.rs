//! `/strongroom/v1/admin`: who administers with a key, who is added and who is revoked.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::admin::{Admin, KnownAdmin};
use crate::config::Role;
use crate::store::AdminVersion;

/// Lists the admins with a key, those of the configuration first. Whom an identity provider vouches for is not known
/// before a token comes.
pub(crate) async fn list(
    State(broker): State<Arc<Inner>>,
    _admin: Admin,
) -> Result<Json<Vec<Listed>>, ApiError> {
    broker
        .blocking(move |broker| {
            let stored = broker.ledger.store().admins()?;
            let of = |known: &KnownAdmin, source| {
                let version = stored.iter().find(|version| version.name == known.name);
                Listed {
                    name: known.name.clone(),
                    role: known.role.as_str(),
                    key: known.fingerprint.clone(),
                    source,
                    set_at: version.map(|version| version.set_at),
                    set_by: version.map(|version| version.set_by.clone()),
                }
            };
            let configured = broker.admins.configured();
            let configured = configured.iter().map(|known| of(known, "configuration"));
            let mut listed: Vec<_> = configured.collect();
            let known = broker.admins.stored();
            listed.extend(known.iter().map(|known| of(known, "store")));
            Ok(Json(listed))
        })
        .await
}

/// One admin in the list.
#[derive(Serialize)]
pub(crate) struct Listed {
    name: String,
    role: &'static str,
    /// The SHA-256 of the key's `SubjectPublicKeyInfo`.
    key: String,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_by: Option<String>,
}

/// Gives every version of an admin of the store, oldest first; one without a role is a revocation.
pub(crate) async fn history(
    State(broker): State<Arc<Inner>>,
    name: Result<Path<String>, PathRejection>,
    _admin: Admin,
) -> Result<Json<Vec<Version>>, ApiError> {
    let Path(name) = name?;
    broker
        .blocking(move |broker| {
            let versions = broker.ledger.store().admin_versions(&name)?;
            match versions.is_empty() {
                true => Err(ApiError::NotFound("admin")),
                false => Ok(Json(versions.into_iter().map(Version::from).collect())),
            }
        })
        .await
}

/// One version of an admin.
#[derive(Serialize)]
pub(crate) struct Version {
    version: u64,
    role: Option<String>,
    public_key: Option<String>,
    set_at: u64,
    set_by: String,
}

impl From<AdminVersion> for Version {
    fn from(version: AdminVersion) -> Self {
        let (role, public_key) = version.key.unzip();
        Self {
            version: version.version,
            role,
            public_key,
            set_at: version.set_at,
            set_by: version.set_by,
        }
    }
}

/// Adds an admin, who may act when this answers.
pub(crate) async fn add(
    State(broker): State<Arc<Inner>>,
    name: Result<Path<String>, PathRejection>,
    admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Done>, ApiError> {
    let Path(name) = name?;
    let body = body?;
    broker
        .blocking(move |broker| {
            let (role, public_key) = new_admin(&body)?;
            let record = identity::admin_record(broker, &admin, broker.now());
            let (admins, ledger) = (&broker.admins, &broker.ledger);
            let entry = admins.add(ledger, &name, role, &public_key, record)?;
            let version = entry.record.version.unwrap_or_default();
            Ok(Json(Done { name, version }))
        })
        .await
}

/// Reads whom to add. Whether the key is one is looked at when the name is known.
pub(crate) fn new_admin(body: &[u8]) -> serde_json::Result<(Role, String)> {
    let New { role, public_key } = serde_json::from_slice(body)?;
    Ok((role, public_key))
}

/// Revokes an admin, whose tokens are refused when this answers.
pub(crate) async fn revoke(
    State(broker): State<Arc<Inner>>,
    name: Result<Path<String>, PathRejection>,
    admin: Admin,
) -> Result<Json<Done>, ApiError> {
    let Path(name) = name?;
    broker
        .blocking(move |broker| {
            let record = identity::admin_record(broker, &admin, broker.now());
            let entry = broker.admins.revoke(&broker.ledger, &name, record)?;
            let version = entry.record.version.unwrap_or_default();
            Ok(Json(Done { name, version }))
        })
        .await
}

/// Whom to add.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    role: Role,
    public_key: String,
}

/// What was done.
#[derive(Serialize)]
pub(crate) struct Done {
    name: String,
    version: u64,
}
