//! Images against real peers: Debian's `docker-registry`, `skopeo`, `gpg`, and `cosign` where it is to be had.

#![allow(clippy::unwrap_used)]

mod encrypted;
mod faults;
mod gpg;
mod layers;
mod service;
mod signatures;
mod support;
