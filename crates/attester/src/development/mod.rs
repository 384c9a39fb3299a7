//! Evidence in the platforms' real formats, signed under a root that its owner made: the development platform.
//!
//! It proves that formats, signatures, chains and bindings are right, and nothing about a machine. A verifier takes it
//! only when [`DevelopmentRoot::certificate_pem`] was given to it as a development root, and then says so.
//! Each platform has a `Forge` whose fields are all public and honest, so that a test changes the one it is about.

mod attester;
pub mod az_vtpm;
mod der;
mod folder;
pub mod intel;
mod root;
pub mod sgx;
pub mod snp;
pub mod tdx;
pub mod tpm;

pub use attester::DevelopmentAttester;
pub use root::DevelopmentRoot;

pub(crate) use attester::{PLATFORMS, platform};

use std::path::PathBuf;

/// Why nothing can be forged, or a root cannot be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevelopmentError {
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The folder is there, and it is not one that was written whole.
    #[error(
        "{} is no development root: {why}; remove it, or name another folder, and a new one is made",
        path.display()
    )]
    NotARoot {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong.
        why: String,
    },
    /// Others on this machine can read the keys.
    #[error("{} can be read by others (mode {mode:o}): chmod 600 it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A certificate, list or signature cannot be made of these fields.
    #[error("cannot be signed: {0}")]
    Signing(String),
    /// A field does not fit where it goes.
    #[error("{field} has {actual} bytes and must have {expected}")]
    Length {
        /// The field.
        field: &'static str,
        /// How many bytes it has.
        actual: usize,
        /// What fits.
        expected: &'static str,
    },
}

impl From<rcgen::Error> for DevelopmentError {
    fn from(error: rcgen::Error) -> Self {
        Self::Signing(error.to_string())
    }
}

impl From<aws_lc_rs::error::Unspecified> for DevelopmentError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Signing("the cryptographic library refused".to_owned())
    }
}

/// Bits to turn after signing: a byte's offset and the mask that turns it. An offset beyond the end is ignored.
pub type Tampering = Vec<(usize, u8)>;

pub(crate) fn tamper(bytes: &mut [u8], tampering: &[(usize, u8)]) {
    for (offset, mask) in tampering {
        if let Some(byte) = bytes.get_mut(*offset) {
            *byte ^= mask;
        }
    }
}

/// Fits a digest into a field of `N` bytes: padded with zeros at its end, or without its end.
pub(crate) fn fitted<const N: usize>(digest: &[u8]) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(digest) {
        *to = *from;
    }
    field
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    fitted(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref())
}

pub(crate) fn sha384(bytes: &[u8]) -> [u8; 48] {
    fitted(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, bytes).as_ref())
}
