//! The data hub: resources of the broker, and sealed secrets that point to them.

pub mod credentials;
mod patience;
pub mod resource;
pub mod unseal;
