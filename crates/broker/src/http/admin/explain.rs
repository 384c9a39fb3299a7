//! `GET /strongroom/v1/explain/{event}` and `POST /strongroom/v1/rehearse`: why, and what if.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};

use super::super::error::ApiError;
use super::super::identity;
use crate::admin::Admin;
use crate::explain::{Explanation, explain};
use crate::rehearse::{Changes, Rehearsal, rehearse};
use crate::{Inner, StoreError};

/// Explains an event.
pub(crate) async fn event(
    State(broker): State<Arc<Inner>>,
    event: Result<Path<String>, PathRejection>,
    admin: Admin,
) -> Result<Json<Explanation>, ApiError> {
    let Path(event) = event?;
    broker
        .blocking(move |broker| {
            broker.record_counted();
            let explanation = explain(broker, &event)?;
            match explanation {
                Some(explanation) => {
                    identity::record_reading(broker, &admin, Some(&format!("event {event}")));
                    Ok(Json(explanation))
                }
                None => Err(match broker.ledger.store().head()? {
                    Some(head) if head.minimum > 0 => ApiError::NoEvent {
                        first: head.minimum + 1,
                    },
                    _ => ApiError::NotFound("event"),
                }),
            }
        })
        .await
}

/// Takes past decisions again under changed policies or reference values, and tells which would have ended otherwise.
/// Nothing is changed by it.
pub(crate) async fn what_if(
    State(broker): State<Arc<Inner>>,
    admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Rehearsal>, ApiError> {
    let body = body?;
    let permit = Arc::clone(&broker.rehearsing).try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::Rehearsing)?;
    // Dropped with this future: when it has its answer, when its time is over and when the client goes away.
    let waiting = Arc::new(());
    let waits = Arc::downgrade(&waiting);
    let rehearsed = broker
        .blocking(move |broker| {
            let _permit = permit;
            let changes: Changes = serde_json::from_slice(&body)?;
            let nobody_waits = || waits.strong_count() == 0;
            let rehearsed =
                rehearse(broker, &changes, &nobody_waits).map_err(|error| match error {
                    crate::policies::LoadError::Store(StoreError::NotFound) => {
                        ApiError::NotFound("policy")
                    }
                    other => other.into(),
                })?;
            let names = changes
                .policies
                .keys()
                .chain(changes.reference_values.keys());
            let names: Vec<&str> = names.map(String::as_str).collect();
            identity::record_reading(broker, &admin, Some(&names.join(", ")));
            Ok(Json(rehearsed))
        })
        .await;
    drop(waiting);
    rehearsed
}
