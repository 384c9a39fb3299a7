//! Every route of the broker.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, OriginalUri, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Json, Router};
use serde_json::Value;

use super::error::ApiError;
use super::health::{healthz, readyz};
use super::limits::{attempts, reads, refuse_oversized, within};
use super::observe::observe;
use super::{access, admin, attestation, kbs, openapi};
use crate::Inner;

/// All routes. What is not here is 404, a method that is not here is 405, both with an error body.
pub(crate) fn router(broker: Arc<Inner>) -> Router {
    let limits = broker.config.limits.clone();
    let request_time = Duration::from_secs(limits.request_seconds);
    let most = limits.body_bytes;
    let observed = Arc::clone(&broker);
    routes(Some(&broker))
        .router
        .route_layer(from_fn_with_state(Arc::clone(&broker), access::guard))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        // One layer for what surrounds every request: each costs an allocation and a copy of the request.
        .layer(from_fn(move |request, next| {
            let (broker, held) = (Arc::clone(&observed), Arc::clone(&observed));
            observe(broker, request, move |request| {
                within(request_time, refuse_oversized(held, most, request, next))
            })
        }))
        .with_state(broker)
}

/// Every route; without a broker, every one that there can be.
fn routes(broker: Option<&Arc<Inner>>) -> Routes {
    let limited = |methods: MethodRouter<Arc<Inner>>| match broker {
        Some(broker) => methods.layer(from_fn_with_state(Arc::clone(broker), attempts)),
        None => methods,
    };
    let read_often = |methods: MethodRouter<Arc<Inner>>| match broker {
        Some(broker) => methods.layer(from_fn_with_state(Arc::clone(broker), reads)),
        None => methods,
    };
    // What opens a session says little.
    let small = DefaultBodyLimit::max(OPENING_BYTES);
    let service = broker.is_none_or(|broker| broker.config.attestation_service.enabled);
    let resource = read_often(get(kbs::resource::get))
        .post(kbs::resource::put)
        .put(kbs::resource::put)
        .delete(kbs::resource::delete)
        // Without this a HEAD would release a secret to nobody.
        .head(method_not_allowed);
    let routes = Routes::default()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        // The KBS protocol, for guests
        .route("/kbs/v0/auth", limited(post(kbs::auth::auth).layer(small)))
        .route("/kbs/v0/attest", limited(post(kbs::attest::attest)))
        // One route for every name, good or bad, so that a bad one is told what is wrong with it
        .route("/kbs/v0/resource/{*path}", resource)
        .route("/kbs/v0/resource/", any(kbs::resource::unnamed))
        .route("/kbs/v0/resource", any(kbs::resource::unnamed))
        // The KBS protocol, for admins
        .route(
            "/kbs/v0/resource-policy",
            post(kbs::policy::set_release).get(kbs::policy::list_release),
        )
        .route("/kbs/v0/attestation-policy", post(kbs::policy::set_appraisal))
        .route(
            "/kbs/v0/reference-value",
            post(kbs::reference_value::register).get(kbs::reference_value::list),
        )
        .route("/kbs/v0/reference-value/{*id}", get(kbs::reference_value::get))
        // What anybody may have: what this broker speaks, and the keys that tokens verify by
        .route("/openapi.json", get(openapi::show))
        .route("/.well-known/jwks.json", get(jwks))
        // Ours, for admins
        .route("/strongroom/v1/audit", get(admin::audit::list))
        .route("/strongroom/v1/audit/prune", post(admin::audit::prune))
        .route("/strongroom/v1/explain/{event}", get(admin::explain::event))
        .route("/strongroom/v1/rehearse", post(admin::explain::what_if))
        .route("/strongroom/v1/log/{*path}", get(admin::log::file))
        .route("/strongroom/v1/resource", get(admin::resources::list))
        .route("/strongroom/v1/resource/{*path}", get(admin::resources::versions))
        .route("/strongroom/v1/policy", get(admin::policy::list))
        .route(
            "/strongroom/v1/policy/{*id}",
            get(admin::policy::show)
                .put(admin::policy::set)
                .delete(admin::policy::remove),
        )
        .route(
            "/strongroom/v1/reference-value/{*name}",
            get(kbs::reference_value::history).delete(kbs::reference_value::remove),
        )
        .route("/strongroom/v1/admin", get(admin::admins::list))
        .route(
            "/strongroom/v1/admin/{name}",
            get(admin::admins::history)
                .put(admin::admins::add)
                .delete(admin::admins::revoke),
        )
        .route("/strongroom/v1/storage-key/rotate", post(admin::storage_key::rotate))
        .route("/strongroom/v1/rollback/resource/{*path}", post(admin::resources::rollback))
        .route("/strongroom/v1/rollback/policy/{*id}", post(admin::policy::rollback));
    match service {
        // The attestation service, for whoever has evidence
        true => routes
            .route(
                "/attestation",
                limited(post(attestation::evaluate::evaluate)),
            )
            .route(
                "/challenge",
                limited(post(attestation::evaluate::challenge).layer(small)),
            )
            .route(
                "/policy",
                get(attestation::policy::list).post(attestation::policy::set),
            ),
        false => routes,
    }
}

/// A router that knows its paths: the document is held against them.
#[derive(Default)]
struct Routes {
    router: Router<Arc<Inner>>,
    paths: Vec<&'static str>,
}

impl Routes {
    fn route(mut self, path: &'static str, methods: MethodRouter<Arc<Inner>>) -> Self {
        self.router = self.router.route(path, methods);
        self.paths.push(path);
        self
    }
}

/// The path of every route, the attestation service's too.
pub(crate) fn route_paths() -> Vec<&'static str> {
    routes(None).paths
}

/// The longest body of what opens a session or asks for a nonce.
const OPENING_BYTES: usize = 16 * 1024;

/// RFC 7517, 5: a set of one key.
async fn jwks(State(broker): State<Arc<Inner>>) -> Json<Value> {
    Json(broker.issuer.jwks())
}

/// As upstream: the first segment behind `/kbs/v0/` names a plugin, unless it is one of the protocol's own.
async fn not_found(OriginalUri(uri): OriginalUri) -> ApiError {
    let beneath = uri.path().strip_prefix("/kbs/v0/").unwrap_or_default();
    let plugin = beneath.split('/').next().unwrap_or_default();
    match plugin.is_empty() || OF_THE_PROTOCOL.contains(&plugin) {
        true => ApiError::NoRoute,
        false => ApiError::NoPlugin(plugin.chars().take(MAX_PLUGIN).collect()),
    }
}

const OF_THE_PROTOCOL: [&str; 6] = [
    "auth",
    "attest",
    "resource",
    "resource-policy",
    "attestation-policy",
    "reference-value",
];
const MAX_PLUGIN: usize = 64;

async fn method_not_allowed() -> ApiError {
    ApiError::Method
}
