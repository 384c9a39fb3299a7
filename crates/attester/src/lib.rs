//! Evidence from this machine's TEE device.
