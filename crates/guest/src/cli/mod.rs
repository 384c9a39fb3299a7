//! The commands that the guest's own small program and `strongroom guest` have alike.

// Doc comments of arguments are help texts, which a terminal shows without Markdown.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

mod attest;
pub mod attest_once;
pub mod cleanup;
pub mod components;
pub mod exec;
pub mod files;
mod guest;
pub mod log;
pub mod notify;
pub mod outcome;
pub mod pull;
mod run;
pub mod scratch;
mod serving;
pub mod unseal_volumes;
pub mod unsealing;

pub use attest::AttestArgs;
pub use guest::GuestArgs;
pub use run::{RunArgs, told_to_stop};

/// The program that has these commands: for what it starts of itself, and for what it tells people to type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// `strongroom`, which has them below `guest`.
    Strongroom,
    /// `strongroom-guest`.
    Guest,
}

impl Program {
    /// The words before a command.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Self::Strongroom => &["guest"],
            Self::Guest => &[],
        }
    }

    /// What is typed before a command.
    pub fn command(self) -> &'static str {
        match self {
            Self::Strongroom => "strongroom guest",
            Self::Guest => "strongroom-guest",
        }
    }

    fn attest(self) -> &'static str {
        match self {
            Self::Strongroom => "strongroom attest",
            Self::Guest => "strongroom-guest attest",
        }
    }
}

/// Runs one asynchronous piece of a synchronous command.
fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future))
}
