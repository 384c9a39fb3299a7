//! The `tpm` platform: a quote by a TPM 2.0, and whose attestation key signed it.
//!
//! [`structures`] and [`quote`] serve every platform that brings a quote.

pub(crate) mod abi;
pub(crate) mod claims;
pub(crate) mod credential;
pub(crate) mod keys;
pub(crate) mod quote;
pub(crate) mod structures;
pub(crate) mod verify;
