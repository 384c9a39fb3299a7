//! The `sample` platform: no hardware and no proof, for tests and development only.

pub(crate) mod abi;
pub(crate) mod claims;
pub(crate) mod verify;
