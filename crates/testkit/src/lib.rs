//! For tests only: foreign fixtures and peer programs, child processes that never outlive a test,
//! captures of loopback, and a scanner that looks for secrets where none may be.
//!
//! Nothing here is linked into the `strongroom` binary. Tests of the house itself, such as the
//! direction of dependencies, live in this crate's `tests/`.

pub mod capture;
pub mod fixtures;
pub mod kernel;
pub mod kernel_files;
pub mod leak;
pub mod postgres;
pub mod process;
pub mod registry;
pub mod storage;
pub mod swtpm;
