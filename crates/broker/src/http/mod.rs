//! The broker over HTTP: all routes on one screen, one match from error to status.

mod access;
mod admin;
mod error;
mod health;
mod identity;
mod kbs;
mod limits;
mod observe;
mod router;

pub(crate) use error::ApiError;
pub(crate) use health::metrics_router;
pub(crate) use identity::session_cookie;
pub(crate) use kbs::auth::parse as auth_body;
pub(crate) use kbs::resource::path as resource_path;
pub(crate) use observe::{REQUEST_SPAN, plain_id};
pub(crate) use router::router;
