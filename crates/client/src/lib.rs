//! The guest's and the owner's side of the broker's protocols.
//!
//! [`handshake`], [`session`] and [`seal`] are cores: no clock, no environment, no network; `now` and jitter come in
//! as arguments. [`http`] is the one place that speaks HTTP; [`kbs`], [`admin`] and [`guest_api`] say what is sent.

pub mod admin;
pub mod clock;
pub mod error;
pub mod fuzzing;
pub mod guest_api;
pub mod handshake;
pub mod http;
pub mod kbs;
pub mod seal;
pub mod session;

pub use admin::{AdminClient, AdminKey};
pub use error::ClientError;
pub use guest_api::GuestApi;
pub use http::{Release, Released};
pub use kbs::{KbsClient, jitter};
