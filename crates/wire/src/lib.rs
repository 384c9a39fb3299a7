//! Formats that others also speak: parse and print, nothing else.
//!
//! One file per format: the KBS protocol's messages, its JWE answers, tokens, sealed secrets,
//! init-data, resource names and transparency logs. This crate has no IO, no clock and no environment; randomness
//! is drawn only where a format needs a fresh key or nonce.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

pub mod admin;
pub mod attestation_service;
mod b64;
pub mod bounded_toml;
pub mod canonical;
pub mod ear;
pub mod envelope;
pub mod error_information;
pub mod image;
pub mod image_policy;
pub mod initdata;
pub mod jwe;
pub mod jwk;
pub mod kbs;
pub mod openpgp;
pub mod resource;
pub mod sealed_secret;
pub mod tee;
pub mod tlog;

#[cfg(test)]
pub(crate) mod fixtures;
