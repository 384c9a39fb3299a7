//! The broker from outside: real TLS over loopback, real requests, an injected clock.
#![allow(clippy::unwrap_used)]

mod admin;
mod attest;
mod attestation_service;
mod audit;
mod checklist;
mod collateral;
mod development;
mod govern;
mod hostile;
mod identity_provider;
mod limits;
mod openapi;
mod operation;
mod postgres;
mod recorded;
mod release;
mod replay;
mod roles;
mod selector;
mod sources;
mod storage_key;
mod support;
mod tpm;
mod vault;
