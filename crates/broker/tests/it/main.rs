//! The broker from outside: real TLS over loopback, real requests, an injected clock.
#![allow(clippy::unwrap_used)]

mod admin;
mod attest;
mod audit;
mod collateral;
mod development;
mod govern;
mod identity_provider;
mod limits;
mod operation;
mod postgres;
mod recorded;
mod release;
mod replay;
mod roles;
mod sources;
mod storage_key;
mod support;
mod vault;
