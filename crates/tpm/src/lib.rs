//! Commands to a TPM 2.0 (TCG TPM 2.0 Library, Parts 1 to 3, revision 1.59): sealing a key, quotes, registers, NV memory.
//!
//! A place where code runs: it opens a device or a socket, and waits. It has the commands that this project sends and no
//! others; it judges no quote (that is the verifier's), and keeps nothing on a disk. Whatever a TPM answers is untrusted
//! bytes: lengths are checked before anything is taken, and a salted session's answers are believed only with their code.

mod address;
mod attestation;
mod commands;
mod crypto;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod marshal;
mod nv;
mod pcr;
mod public;
mod response_code;
mod sealing;
mod session;
mod transport;

pub use address::{AddressError, TpmAddress};
pub use attestation::{KeyAlgorithm, Quote};
pub use commands::{Hierarchy, Object, Tpm};
pub use error::TpmError;
pub use nv::NvPublic;
pub use pcr::{HashAlgorithm, PcrPolicy, PcrSet};
pub use public::{Public, PublicKey};
pub use response_code::ResponseCode;
pub use sealing::{ChangedPcr, Sealed, SealedError};
