//! What needs `unsafe`: ioctls of drivers, and a vendor's library.

#![allow(unsafe_code)]

pub(crate) mod ioctl;
pub(crate) mod nvml;
