//! Who may ask for what: one table of every route and method, and the guard that no route gets around.
//!
//! A request that no row stands for is answered as one that no route stands for. Admins are told apart here and nowhere
//! else: a handler is handed the [`Admin`] who asks, and decides nothing about roles.

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::error::ApiError;
use super::identity;
use super::limits::take_in;
use crate::Inner;
use crate::admin::Admin;
use crate::config::Role;

/// Who may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Access {
    /// Anybody; what is asked for may still hang on a guest's token.
    Anyone,
    /// Admins of these roles, and of the role `admin`, for an action that the record names so.
    Admins(&'static str, &'static [Role]),
}

use Access::{Admins, Anyone};

const SECRETS: &[Role] = &[Role::Secrets];
const SECRETS_READ: &[Role] = &[Role::Secrets, Role::Auditor];
const POLICY: &[Role] = &[Role::Policy];
const POLICY_READ: &[Role] = &[Role::Policy, Role::Auditor];
const AUDITOR: &[Role] = &[Role::Auditor];
const ADMIN: &[Role] = &[];

/// Every route, by method. `HEAD` is asked of the row of `GET`; `*` is every method.
#[rustfmt::skip]
pub(super) const TABLE: &[(&str, &str, Access)] = &[
    ("GET",    "/healthz",                             Anyone),
    ("GET",    "/readyz",                             Anyone),
    ("POST",   "/kbs/v0/auth",                         Anyone),
    ("POST",   "/kbs/v0/attest",                       Anyone),
    ("GET",    "/.well-known/jwks.json",               Anyone),
    ("GET",    "/openapi.json",                        Anyone),
    // The attestation service
    ("POST",   "/attestation",                         Anyone),
    ("POST",   "/challenge",                           Anyone),
    ("GET",    "/policy",                              Anyone),
    ("POST",   "/policy",                              Admins("set attestation policy",   POLICY)),
    // Secrets. A guest reads by its token.
    ("GET",    "/kbs/v0/resource/{*path}",             Anyone),
    ("POST",   "/kbs/v0/resource/{*path}",             Admins("put resource",             SECRETS)),
    ("PUT",    "/kbs/v0/resource/{*path}",             Admins("put resource",             SECRETS)),
    ("DELETE", "/kbs/v0/resource/{*path}",             Admins("delete resource",          SECRETS)),
    ("*",      "/kbs/v0/resource/",                    Anyone),
    ("*",      "/kbs/v0/resource",                     Anyone),
    ("GET",    "/strongroom/v1/resource",              Admins("list resources",           SECRETS_READ)),
    ("GET",    "/strongroom/v1/resource/{*path}",      Admins("list versions",            SECRETS_READ)),
    ("POST",   "/strongroom/v1/rollback/resource/{*path}", Admins("roll back resource",   SECRETS)),
    // Policies
    ("POST",   "/kbs/v0/resource-policy",              Admins("set release policy",       POLICY)),
    ("GET",    "/kbs/v0/resource-policy",              Admins("list release policies",    POLICY_READ)),
    ("POST",   "/kbs/v0/attestation-policy",           Admins("set attestation policy",   POLICY)),
    ("GET",    "/strongroom/v1/policy",                Admins("list policies",            POLICY_READ)),
    ("GET",    "/strongroom/v1/policy/{*id}",          Admins("read policy",              POLICY_READ)),
    ("PUT",    "/strongroom/v1/policy/{*id}",          Admins("set policy",               POLICY)),
    ("DELETE", "/strongroom/v1/policy/{*id}",          Admins("remove policy",            POLICY)),
    ("POST",   "/strongroom/v1/rollback/policy/{*id}", Admins("roll back policy",         POLICY)),
    ("POST",   "/strongroom/v1/rehearse",              Admins("rehearse",                 POLICY)),
    // Reference values
    ("POST",   "/kbs/v0/reference-value",              Admins("register reference values", POLICY)),
    ("GET",    "/kbs/v0/reference-value",              Admins("list reference values",    POLICY_READ)),
    ("GET",    "/kbs/v0/reference-value/{*id}",        Admins("get reference value",      POLICY_READ)),
    ("GET",    "/strongroom/v1/reference-value/{*name}", Admins("read reference value",   POLICY_READ)),
    ("DELETE", "/strongroom/v1/reference-value/{*name}", Admins("remove reference value", POLICY)),
    // The record
    ("GET",    "/strongroom/v1/audit",                 Admins("list audit entries",       AUDITOR)),
    ("POST",   "/strongroom/v1/audit/prune",           Admins("prune audit log",          ADMIN)),
    ("GET",    "/strongroom/v1/log/{*path}",           Admins("read the log",             AUDITOR)),
    ("GET",    "/strongroom/v1/explain/{event}",       Admins("explain event",            POLICY_READ)),
    // The broker itself
    ("GET",    "/strongroom/v1/admin",                 Admins("list admins",              AUDITOR)),
    ("GET",    "/strongroom/v1/admin/{name}",          Admins("read admin",               AUDITOR)),
    ("PUT",    "/strongroom/v1/admin/{name}",          Admins("add admin",                ADMIN)),
    ("DELETE", "/strongroom/v1/admin/{name}",          Admins("revoke admin",             ADMIN)),
    ("POST",   "/strongroom/v1/storage-key/rotate",    Admins("rotate storage key",       ADMIN)),
];

/// The row of a route and a method.
pub(super) fn access(method: &Method, template: &str) -> Option<Access> {
    let method = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    let mut rows = TABLE.iter();
    rows.find(|(asked, route, _)| *route == template && (*asked == method || *asked == "*"))
        .map(|(_, _, access)| *access)
}

/// Lets through what the table lets through, and hands the handler the admin.
pub(super) async fn guard(
    State(broker): State<Arc<Inner>>,
    mut request: Request,
    next: Next,
) -> Response {
    let template = request.extensions().get::<MatchedPath>();
    let access = template.and_then(|template| access(request.method(), template.as_str()));
    let admitted = match access {
        Some(Anyone) => return next.run(request).await,
        None => Err(ApiError::Method),
        Some(Admins(action, roles)) => {
            identity::admin(&broker, request.headers(), action, roles).await
        }
    };
    match admitted {
        Ok(admin) => {
            request.extensions_mut().insert(admin);
            next.run(request).await
        }
        Err(error) => {
            let most = broker.config.limits.body_bytes;
            take_in(request, most).await;
            error.into_response()
        }
    }
}

/// The admin whom the guard let through.
impl FromRequestParts<Arc<Inner>> for Admin {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        _: &Arc<Inner>,
    ) -> Result<Self, Self::Rejection> {
        parts.extensions.get().cloned().ok_or_else(|| {
            tracing::error!("a handler for admins stands in a row for anyone");
            ApiError::Panicked
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn route_has_no_row_or_row_has_no_route() {
        let routes = super::super::route_paths();
        assert!(routes.len() > 15, "{routes:?}");
        for route in &routes {
            assert!(
                TABLE.iter().any(|(_, known, _)| known == route),
                "{route} is in no row, so nobody gets there"
            );
        }
        for (_, route, _) in TABLE {
            assert!(routes.contains(route), "{route} is not routed");
        }
    }

    #[test]
    fn two_rows_stand_for_one_route_and_method() {
        for (number, (method, route, _)) in TABLE.iter().enumerate() {
            let mut others = TABLE.iter().skip(number + 1);
            assert!(
                !others.any(|(m, r, _)| m == method && r == route),
                "{method} {route}"
            );
        }
    }

    #[test]
    fn route_without_a_row_is_open() {
        assert_eq!(access(&Method::GET, "/strongroom/v1/other"), None);
        assert_eq!(access(&Method::PATCH, "/kbs/v0/resource/{*path}"), None);
        assert_eq!(access(&Method::HEAD, "/healthz"), Some(Anyone));
        assert_eq!(access(&Method::HEAD, "/readyz"), Some(Anyone));
    }

    #[test]
    fn path_for_admins_is_open_to_anyone() {
        for (method, route, access) in TABLE {
            let ours = route.starts_with("/strongroom/");
            assert!(!ours || *access != Anyone, "{method} {route}");
        }
    }

    #[test]
    fn auditor_may_change_something() {
        for (method, route, access) in TABLE {
            if let Admins(_, roles) = access
                && roles.contains(&Role::Auditor)
            {
                assert_eq!(*method, "GET", "{route}");
            }
        }
    }
}
