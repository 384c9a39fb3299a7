//! The `nvidia` platform: GPUs of the Hopper architecture, verified without NVIDIA's remote service.

pub(crate) mod abi;
pub(crate) mod claims;
pub(crate) mod verify;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
