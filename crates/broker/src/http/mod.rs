//! The broker over HTTP: all routes on one screen, one match from error to status.

mod admin;
mod attestation;
mod error;
mod identity;
mod kbs;
mod openapi;
mod router;

pub(crate) use error::ApiError;
pub(crate) use identity::session_cookie;
pub(crate) use kbs::auth::parse as auth_body;
pub(crate) use kbs::resource::path as resource_path;
pub(crate) use openapi::DOCUMENT as OPENAPI;
pub(crate) use router::{route_paths, router};
