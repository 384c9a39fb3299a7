//! `/kbs/v0/...`: the KBS protocol.

pub(super) mod attest;
pub(crate) mod auth;
pub(super) mod policy;
pub(super) mod reference_value;
pub(crate) mod resource;
