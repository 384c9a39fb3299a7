//! The `snp` platform: AMD SEV-SNP, on Milan, Genoa and Turin.
//!
//! What the Azure platform needs of it is [`Report`] and [`verify_report`].

pub(crate) mod abi;
pub(crate) mod claims;
mod report;
pub(crate) mod verify;

pub(crate) use report::Report;
pub(crate) use verify::{VerifiedReport, verify_report};
