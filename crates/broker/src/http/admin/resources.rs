//! `/strongroom/v1/resource`: what there is, by name and version, without contents, the store's and what sources offer;
//! and an older version made the newest again.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use strongroom_wire::resource::ResourcePath;
use zeroize::Zeroizing;

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::admin::Admin;
use crate::sources::Offered;
use crate::store::ResourceMetadata;

/// One line of the list.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Listed {
    Stored {
        #[serde(flatten)]
        resource: ResourceMetadata,
        source: &'static str,
    },
    Offered {
        #[serde(flatten)]
        resource: Offered,
        /// Whether another of this path goes before it, so that it is not released.
        shadowed: bool,
    },
}

/// Lists resources: the store's by path, each with its newest version, then those of the folders by path.
pub(crate) async fn list(
    State(broker): State<Arc<Inner>>,
    _admin: Admin,
) -> Result<Json<Vec<Listed>>, ApiError> {
    broker
        .blocking(move |broker| {
            let stored = broker.ledger.store().resources()?;
            let offered = broker.sources.list()?;
            let mut taken: BTreeSet<_> = stored.iter().map(|stored| stored.path.clone()).collect();
            let mut listed: Vec<Listed> = Vec::new();
            listed.extend(stored.into_iter().map(|resource| Listed::Stored {
                resource,
                source: "store",
            }));
            listed.extend(offered.into_iter().map(|resource| Listed::Offered {
                shadowed: !taken.insert(resource.path.clone()),
                resource,
            }));
            Ok(Json(listed))
        })
        .await
}

/// Lists the versions of one resource that are kept and those that were deleted, oldest first.
pub(crate) async fn versions(
    State(broker): State<Arc<Inner>>,
    path: Result<Path<String>, PathRejection>,
    _admin: Admin,
) -> Result<Json<Vec<ResourceMetadata>>, ApiError> {
    broker
        .blocking(move |broker| {
            let (path, store) = (named(path)?, broker.ledger.store());
            // Numbers are not used twice, so what was deleted lies before what is kept.
            let mut versions = store.deleted_versions(&path)?;
            versions.extend(store.resource_versions(&path)?);
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
    query: Result<Query<Back>, QueryRejection>,
    admin: Admin,
) -> Result<Json<Stored>, ApiError> {
    broker
        .blocking(move |broker| {
            let now = broker.now();
            let path = named(path)?;
            let Query(Back { version, expires }) = query?;
            let older = broker.ledger.store().sealed_secret(&path, Some(version))?;
            let older = older.ok_or(ApiError::NotFound("version"))?;
            let secret = broker.open_sealed(&path, &older)?;
            let mut record = identity::admin_record(broker, &admin, now);
            record.resource = Some(path.to_string());
            record.detail = Some(format!("to what version {version} holds"));
            let secret = Zeroizing::new(secret.expose().to_vec());
            let expires = match expires {
                Some(expires) => Some(end_of(expires, now)?),
                // What it said of its end holds again.
                None if older.expires.is_some_and(|end| end <= now) => {
                    return Err(ApiError::Malformed(format!(
                        "version {version} has expired: say with ?expires=SECONDS until when it is to be released again"
                    )));
                }
                None => older.expires,
            };
            if let Some(end) = expires {
                let detail = record.detail.take().unwrap_or_default();
                record.detail = Some(format!("{detail}, until {end}"));
            }
            let entry = broker.put_secret(path, secret, expires, record)?;
            let version = entry.record.version.unwrap_or_default();
            Ok(Json(Stored { version }))
        })
        .await
}

/// Which version, and when what it holds ends now.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Back {
    version: u64,
    expires: Option<u64>,
}

/// A time to come that the store can hold.
pub(crate) fn end_of(end: u64, now: u64) -> Result<u64, ApiError> {
    match end > now && i64::try_from(end).is_ok() {
        true => Ok(end),
        false => Err(ApiError::Malformed(
            "expires is a time to come, in seconds since 1970".to_owned(),
        )),
    }
}

/// The version that was made.
#[derive(Serialize)]
pub(crate) struct Stored {
    version: u64,
}

fn named(path: Result<Path<String>, PathRejection>) -> Result<ResourcePath, ApiError> {
    let Path(path) = path?;
    Ok(path.parse::<ResourcePath>()?)
}
