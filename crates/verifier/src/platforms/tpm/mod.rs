//! The `tpm` platform.

pub(crate) mod abi;
pub(crate) mod claims;
pub(crate) mod verify;
