//! `/strongroom/v1/resource`: what is stored, by name and version, without contents; and an older version made the
//! newest again.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use strongroom_wire::resource::ResourcePath;
use zeroize::Zeroizing;

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::store::{ResourceMetadata, StoreError};

/// Lists resources by path, each with its newest version.
pub(crate) async fn list(
    State(broker): State<Arc<Inner>>,
    headers: HeaderMap,
) -> Result<Json<Vec<ResourceMetadata>>, ApiError> {
    broker
        .blocking(move |broker| {
            identity::admin(broker, &headers, "list resources", broker.now())?;
            Ok(Json(broker.ledger.store().resources()?))
        })
        .await
}

/// Lists the versions of one resource that are kept, oldest first.
pub(crate) async fn versions(
    State(broker): State<Arc<Inner>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Json<Vec<ResourceMetadata>>, ApiError> {
    broker
        .blocking(move |broker| {
            identity::admin(broker, &headers, "list versions", broker.now())?;
            let versions = broker.ledger.store().resource_versions(&named(path)?)?;
            match versions.is_empty() {
                true => Err(ApiError::NotFound("resource")),
                false => Ok(Json(versions)),
            }
        })
        .await
}

/// Stores what an older version holds as the newest version. The older one stays.
pub(crate) async fn rollback(
    State(broker): State<Arc<Inner>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Version>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Json<Stored>, ApiError> {
    broker
        .blocking(move |broker| {
            let (action, now) = ("roll back resource", broker.now());
            let admin = identity::admin(broker, &headers, action, now)?;
            let path = named(path)?;
            let Query(Version { version }) =
                query.map_err(|e| ApiError::Malformed(e.body_text()))?;
            let older = broker.ledger.store().sealed_secret(&path, Some(version))?;
            let older = older.ok_or(ApiError::NotFound("version"))?;
            let secret = broker.storage_keys().open(&path, &older);
            let secret = secret.map_err(StoreError::from)?;
            let mut record = identity::admin_record(broker, &admin, action, now);
            record.resource = Some(path.to_string());
            record.detail = Some(format!("to what version {version} holds"));
            let secret = Zeroizing::new(secret.expose().to_vec());
            let entry = broker.put_secret(path, secret, None, record)?;
            let version = entry.record.version.unwrap_or_default();
            Ok(Json(Stored { version }))
        })
        .await
}

/// Which version.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Version {
    version: u64,
}

/// The version that was made.
#[derive(serde::Serialize)]
pub(crate) struct Stored {
    version: u64,
}

fn named(path: Result<Path<String>, PathRejection>) -> Result<ResourcePath, ApiError> {
    let Path(path) = path.map_err(|e| ApiError::Malformed(e.body_text()))?;
    Ok(path.parse::<ResourcePath>()?)
}
