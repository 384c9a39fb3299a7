//! Encrypted files, streaming, with bounded memory.
//!
//! | module | format | integrity |
//! |---|---|---|
//! | [`tink_stream`] | Tink's AES256-GCM-HKDF streaming AEAD; what this project writes | every segment, their order, the end, the name |
//! | [`sealed`] | a [`tink_stream`] under a fresh key that only a recipient can unwrap | the same, and the header |
//! | [`openssl_enc`] | `openssl enc -aes-256-{cfb,cbc} -pbkdf2`, for files that others made | **none** |
//!
//! Everything here works on a [`Read`](std::io::Read) or [`Write`](std::io::Write) that the caller
//! opened: no file, clock or environment is touched. Plaintext buffers are overwritten with zeros
//! when they are dropped.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]

mod error;
mod format;
pub mod fuzzing;
mod key;
pub mod openssl_enc;
pub mod sealed;
mod stream;
pub mod tink_stream;

pub use error::CipherfileError;
pub use format::Format;
pub use key::FileKey;
