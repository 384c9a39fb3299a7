//! `/strongroom/v1/...`: what an admin wants to see and upstream does not show.

pub(super) mod admins;
pub(super) mod audit;
pub(super) mod explain;
pub(super) mod log;
pub(super) mod policy;
pub(super) mod resources;
pub(super) mod storage_key;
