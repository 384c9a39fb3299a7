//! The commands that the guest's own small program and `strongroom guest` have alike.

// Doc comments of arguments are help texts, which a terminal shows without Markdown.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

mod attest;
pub mod components;
pub mod log;
mod run;
mod serving;

pub use attest::AttestArgs;
pub use run::{RunArgs, told_to_stop};
