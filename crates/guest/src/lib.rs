//! The guest: secrets for applications that know nothing of attestation.
//!
//! It is both attestation agent and data hub of Confidential Containers. [`attestation`] proves the machine to one
//! broker, [`data`] fetches and unseals, [`mod@serve`] offers both on loopback, [`exec`] gives an application its
//! environment and files before it starts, [`volumes`] keeps mounted volumes unsealed while it runs, [`scratch`]
//! encrypts a disk; [`initdata`] is the configuration that the machine was launched with. It knows the broker by its
//! wire formats only.

pub mod agent_policy;
pub mod attestation;
pub mod brokers;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod data;
mod error;
pub mod exec;
pub mod fuzzing;
pub mod image;
pub mod initdata;
pub mod launch;
mod placement;
pub mod scratch;
pub mod serve;
pub mod volumes;

pub use attestation::{Agent, AgentConfig, Measured};
pub use brokers::BrokerAddress;
pub use config::{AaConfig, CdhConfig};
pub use data::resource::Source;
pub use data::unseal::{UnsealOptions, Unsealer};
pub use error::GuestError;
pub use initdata::{Launched, Places, UnverifiedInitdata};
pub use placement::{OnPlace, Placement};
pub use serve::{
    Exposure, Features, Limits, Readiness, ServeOptions, Socket, Tokens, TtrpcLimits, TtrpcService,
    check_listener, serve, serve_ttrpc, serve_unix, serve_with,
};
