//! `/kbs/v0/resource/{repository}/{type}/{tag}`: guests read, admins write and remove.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{OriginalUri, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use strongroom_wire::kbs::{EVENT_HEADER, TOKEN_ID_HEADER};
use strongroom_wire::resource::{ResourceError, ResourcePath};
use zeroize::Zeroizing;

use super::super::admin::resources::end_of;
use super::super::error::ApiError;
use super::super::identity;
use crate::admin::Admin;
use crate::release::Released;
use crate::store::Change;
use crate::{Inner, Moment, release};

/// Releases a resource to an attested guest, encrypted to its key. The answer says which event it is in the record.
pub(crate) async fn get(
    State(broker): State<Arc<Inner>>,
    OriginalUri(uri): OriginalUri,
    query: Result<Query<BTreeMap<String, String>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let path = path(uri.path())?;
    let Query(query) = query?;
    let asked = broker
        .moment(Moment::Short, move |broker| {
            let now = broker.now();
            let token = identity::guest_token(broker, &headers, now);
            release::resource(broker, token.as_deref(), &path, &query, now)
        })
        .await?;
    let Released { jwe, event, token } = asked.end(&broker).await?;
    let mut answer = Json(jwe).into_response();
    let token = token.filter(|id| !id.is_empty());
    let named = [
        (EVENT_HEADER, Some(event.to_string())),
        (TOKEN_ID_HEADER, token),
    ];
    for (name, value) in named {
        // Both are digits of this broker's own drawing.
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            answer.headers_mut().insert(name, value);
        }
    }
    Ok(answer)
}

/// Stores a resource as its next version. `?expires=SECONDS` is when it ends. What a source has is not hidden behind it
/// unless `?shadow=true` says so. A query with anything else is refused: a secret whose end was spelled wrong would have none.
pub(crate) async fn put(
    State(broker): State<Arc<Inner>>,
    OriginalUri(uri): OriginalUri,
    query: Result<Query<Storing>, QueryRejection>,
    admin: Admin,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = body?;
    broker
        .blocking(move |broker| {
            let now = broker.now();
            let path = path(uri.path())?;
            let Query(Storing { expires, shadow }) = query?;
            let expires = expires.map(|end| end_of(end, now)).transpose()?;
            let secret = into_secret(body);
            if secret.is_empty() {
                return Err(ApiError::EmptyBody);
            }
            let mut record = identity::admin_record(broker, &admin, now);
            record.resource = Some(path.to_string());
            match shadow {
                true => record.detail = Some("in front of every source".to_owned()),
                false => not_in_a_source(broker, &path)?,
            }
            broker.put_secret(path, secret, expires, record)?;
            Ok(())
        })
        .await?;
    Ok(EMPTY_XML.into_response())
}

/// How to store.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Storing {
    expires: Option<u64>,
    #[serde(default)]
    shadow: bool,
}

/// A query that means nothing here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoQuery {}

/// Removes a resource for good.
pub(crate) async fn delete(
    State(broker): State<Arc<Inner>>,
    OriginalUri(uri): OriginalUri,
    query: Result<Query<NoQuery>, QueryRejection>,
    admin: Admin,
) -> Result<Response, ApiError> {
    broker
        .blocking(move |broker| {
            let Query(NoQuery {}) = query?;
            let now = broker.now();
            let path = path(uri.path())?;
            let mut record = identity::admin_record(broker, &admin, now);
            record.resource = Some(path.to_string());
            match broker
                .ledger
                .commit(Change::DeleteSecret { path: path.clone() }, record.clone())
            {
                Err(crate::StoreError::NotFound) => {
                    record.outcome = crate::audit::Outcome::Missing;
                    broker.ledger.commit(Change::Nothing, record)?;
                    not_in_a_source(broker, &path)?;
                    Err(ApiError::NotFound("resource"))
                }
                other => other.map(drop).map_err(ApiError::from),
            }
        })
        .await?;
    Ok(EMPTY_XML.into_response())
}

/// Refuses what would not change what a source has, or would hide it.
fn not_in_a_source(broker: &Inner, path: &ResourcePath) -> Result<(), ApiError> {
    match broker.sources.owner(path)? {
        None => Ok(()),
        Some(source) => Err(ApiError::Shadows {
            path: path.clone(),
            source,
        }),
    }
}

/// A request that names nothing.
pub(crate) async fn unnamed() -> ApiError {
    ApiError::Path(ResourceError::Parts(0))
}

/// Reads the name from the path as it was sent: no name holds a percent sign, so nothing is decoded.
pub(crate) fn path(sent: &str) -> Result<ResourcePath, ResourceError> {
    sent.strip_prefix("/kbs/v0/resource/")
        .unwrap_or_default()
        .parse()
}

/// Takes the body over into memory that is zeroed. The bytes it came in are zeroed too when nobody shares them.
fn into_secret(body: Bytes) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(match body.try_into_mut() {
        Ok(mut unique) => {
            let secret = unique.to_vec();
            unique.fill(0);
            secret
        }
        Err(shared) => shared.to_vec(),
    })
}

/// Upstream answers writes with an empty body of this type.
const EMPTY_XML: ([(HeaderName, &str); 1], ()) = ([(CONTENT_TYPE, "text/xml")], ());

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused() {
        for name in [
            "",
            "a",
            "a/b",
            "a/b/c/d",
            "a//c",
            "/b/c",
            "a/b/",
            "../b/c",
            "a/../c",
            "a/b/..",
            "%2e%2e/b/c",
            "a/b/%2e",
            "a%2fb/c/d",
            "a/b/c%00",
            "a/.b/c",
            "a/b/c d",
            "a/b/\u{e9}",
        ] {
            assert!(path(&format!("/kbs/v0/resource/{name}")).is_err(), "{name}");
        }
        assert!(path("/kbs/v0/resource/a/b/c.d").is_ok());
    }
}
