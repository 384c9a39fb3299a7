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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Args as _;

    use super::*;
    use crate::config::{AaConfig, CdhConfig, Document as _};

    #[test]
    fn setting_that_loosens_is_not_in_the_list_of_those_that_do() {
        let commands = [
            RunArgs::augment_args(clap::Command::new("run")),
            attest_once::Args::augment_args(clap::Command::new("attest")),
            exec::Args::augment_args(clap::Command::new("exec")),
            unseal_volumes::Args::augment_args(clap::Command::new("unseal-volumes")),
            pull::Args::augment_args(clap::Command::new("pull")),
            scratch::Args::augment_args(clap::Command::new("scratch")),
            components::AttestationAgentArgs::augment_args(clap::Command::new("agent")),
        ];
        let mut loosening = BTreeSet::new();
        for command in &commands {
            let below = command.get_subcommands();
            for command in std::iter::once(command).chain(below) {
                let options = command.get_arguments().filter_map(clap::Arg::get_long);
                loosening.extend(
                    options
                        .filter(|name| loosens(name))
                        .map(|name| format!("--{name}")),
                );
            }
        }
        for key in AaConfig::KEYS.iter().chain(CdhConfig::KEYS) {
            let name = key.rsplit('.').next().unwrap();
            if loosens(name) {
                loosening.insert(name.to_owned());
            }
        }
        assert!(loosening.len() > 8, "{loosening:?}");
        let root = strongroom_testkit::fixtures::workspace_root();
        let text = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
        let list = text.split("## Settings that loosen").nth(1).unwrap();
        let rows: Vec<&str> = list.lines().filter(|line| line.starts_with("| ")).collect();
        for name in loosening {
            let named = rows.iter().any(|row| {
                let setting = row.split('|').nth(1).unwrap();
                let mut words = setting.split(|c: char| !(c.is_alphanumeric() || "_-".contains(c)));
                words.any(|word| word == name)
            });
            assert!(
                named,
                "{name} is in no row of SECURITY.md, \"Settings that loosen\""
            );
        }
    }

    fn loosens(name: &str) -> bool {
        let name = name.replace('-', "_");
        name.starts_with("insecure") || name.starts_with("allow_") || name.starts_with("skip_")
    }
}
