//! `GET /strongroom/v1/resource`: what there is, by name, without contents: the store's, then what sources offer.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
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

/// Lists resources: the store's by path, then those of the folders by path.
pub(crate) async fn list(
    State(broker): State<Arc<Inner>>,
    headers: HeaderMap,
) -> Result<Json<Vec<Listed>>, ApiError> {
    broker
        .blocking(move |broker| {
            identity::admin(broker, &headers, "list resources", broker.now())?;
            let (stored, offered) = (broker.store.resources()?, broker.sources.list()?);
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
