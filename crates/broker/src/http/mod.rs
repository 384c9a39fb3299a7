//! The broker over HTTP: all routes on one screen, one match from error to status.

mod access;
mod admin;
mod attestation;
mod error;
mod health;
mod identity;
mod kbs;
mod limits;
mod observe;
mod openapi;
mod router;

pub(crate) use admin::admins::new_admin as admin_body;
pub(crate) use attestation::evaluate::parse as evaluate_body;
pub(crate) use error::ApiError;
pub(crate) use health::metrics_router;
pub(crate) use identity::session_cookie;
pub(crate) use kbs::auth::parse as auth_body;
pub(crate) use kbs::policy::{
    parse_appraisal as appraisal_policy_body, parse_release as release_policy_body,
};
pub(crate) use kbs::resource::path as resource_path;
pub(crate) use observe::{REQUEST_SPAN, plain_id};
pub(crate) use openapi::DOCUMENT as OPENAPI;
pub(crate) use router::{route_paths, router};
