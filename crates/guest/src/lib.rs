//! The guest: secrets for applications that know nothing of attestation.
//!
//! It is both attestation agent and data hub of Confidential Containers. [`attestation`] proves the machine to one
//! broker, [`data`] fetches and unseals, [`mod@serve`] offers both on loopback, [`exec`] gives an application its
//! environment and files before it starts. It knows the broker by its wire formats only.

pub mod attestation;
pub mod config;
pub mod data;
mod error;
pub mod exec;
pub mod image;
pub mod serve;

pub use attestation::{Agent, AgentConfig};
pub use config::Config;
pub use data::resource::Source;
pub use error::GuestError;
pub use serve::{
    Exposure, Features, Limits, ServeOptions, check_listener, serve, serve_unix, serve_with,
};
