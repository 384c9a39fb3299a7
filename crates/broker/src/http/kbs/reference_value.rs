//! `/kbs/v0/reference-value`: admins register reference values, list them and read them back.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Value, json};
use strongroom_verifier::{ReferenceValue, ReferenceValues};

use super::super::error::ApiError;
use super::super::identity;
use crate::Inner;
use crate::admin::Admin;
use crate::policies::text_digest;
use crate::store::{ReferenceValueVersion, StoreError};

/// Registers the values of one message; those of the same name are replaced.
pub(crate) async fn register(
    State(broker): State<Arc<Inner>>,
    admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body?;
    broker
        .blocking(move |broker| {
            let now = broker.now();
            let values = ReferenceValues::parse_message(&body, now, &broker.signers)?
                .registered_by(admin.name());
            let mut record = identity::admin_record(broker, &admin, now);
            record.detail = Some(stated(&values));
            let all: BTreeMap<&str, &ReferenceValue> = values.iter().collect();
            record.digest = Some(text_digest(&json!(all).to_string()));
            broker
                .policies
                .merge_reference_values(&broker.ledger, values, record)?;
            Ok(())
        })
        .await?;
    Ok(([(CONTENT_TYPE, "application/json")], ()).into_response())
}

/// Lists every value with what is known of it, by name. An expired one is listed, with the time when it ended.
pub(crate) async fn list(
    State(broker): State<Arc<Inner>>,
    _admin: Admin,
) -> Result<Json<Vec<Listed>>, ApiError> {
    broker
        .blocking(move |broker| {
            let values = broker.policies.reference_values();
            let listed = values.iter().map(|(name, value)| Listed {
                name: name.to_owned(),
                value: value.clone(),
            });
            Ok(Json(listed.collect()))
        })
        .await
}

/// One value in the list: its name beside its own members.
#[derive(Serialize)]
pub(crate) struct Listed {
    name: String,
    #[serde(flatten)]
    value: ReferenceValue,
}

/// Gives every version of a value, oldest first; one without a value is its removal.
pub(crate) async fn history(
    State(broker): State<Arc<Inner>>,
    name: Result<Path<String>, PathRejection>,
    _admin: Admin,
) -> Result<Json<Vec<ReferenceValueVersion>>, ApiError> {
    let Path(name) = name?;
    broker
        .blocking(move |broker| {
            let versions = broker.ledger.store().reference_value_versions(&name)?;
            match versions.is_empty() {
                true => Err(ApiError::NotFound("reference value")),
                false => Ok(Json(versions)),
            }
        })
        .await
}

/// Removes a value. Its history stays.
pub(crate) async fn remove(
    State(broker): State<Arc<Inner>>,
    name: Result<Path<String>, PathRejection>,
    admin: Admin,
) -> Result<(), ApiError> {
    let Path(name) = name?;
    broker
        .blocking(move |broker| {
            let now = broker.now();
            let mut record = identity::admin_record(broker, &admin, now);
            record.detail = Some(name.chars().take(MAX_DETAIL).collect());
            let (policies, ledger) = (&broker.policies, &broker.ledger);
            match policies.remove_reference_value(ledger, &name, record) {
                Err(StoreError::NotFound) => Err(ApiError::NotFound("reference value")),
                other => Ok(other.map(drop)?),
            }
        })
        .await
}

/// Gives the value of a name, which may hold slashes. An expired value is not there.
pub(crate) async fn get(
    State(broker): State<Arc<Inner>>,
    name: Result<Path<String>, PathRejection>,
    _admin: Admin,
) -> Result<Json<Value>, ApiError> {
    let Path(name) = name?;
    broker
        .blocking(move |broker| {
            let now = broker.now();
            let values = broker.policies.reference_values();
            values
                .value(&name, now)
                .cloned()
                .map(Json)
                .ok_or(ApiError::NotFound("reference value"))
        })
        .await
}

/// The values as the record has them: `name = value` each, as many as there is room for, and how many more. The entry's
/// digest is over all of them.
fn stated(values: &ReferenceValues) -> String {
    let (mut text, mut left) = (String::new(), values.iter().count());
    for (name, value) in values.iter() {
        let line = format!("{name} = {}; ", value.value);
        if text.len() + line.len() > MAX_STATED {
            text.push_str(&format!("and {left} more; "));
            break;
        }
        text.push_str(&line);
        left -= 1;
    }
    text.trim_end_matches("; ").to_owned()
}

const MAX_STATED: usize = 16 * 1024;
const MAX_DETAIL: usize = 1024;
