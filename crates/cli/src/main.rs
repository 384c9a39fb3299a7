//! The `strongroom` binary: the composition root. Each command is one file in `commands/`.

// Doc comments of arguments are help texts, which a terminal shows without Markdown.
#![allow(clippy::doc_markdown, rustdoc::bare_urls)]

mod commands;
mod connect;
mod evidence;
mod files;
mod input;
mod keys;
mod log;
mod placed;
mod progress;
mod receipt;
mod results;
mod rows;
mod storage;

use std::process::ExitCode;

use clap::Parser;
use strongroom_broker::LogConfig;
use strongroom_guest::cli::{cleanup, notify, outcome};

use crate::commands::Command;

/// Strongroom scores data that stays encrypted until the machine that will read it has proved what it is.
///
/// Start with `strongroom demo`: the whole story on this machine, in seconds, nothing installed.
#[derive(Parser)]
#[command(
    name = "strongroom",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
struct Args {
    #[command(subcommand)]
    command: Command,

    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    json: bool,

    /// Say more in the log: -v for what happens, every request to a broker among it, -vv for how.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    /// Stop when this parent process ends.
    #[arg(long, global = true, hide = true, value_name = "PID")]
    exit_with_parent: Option<i32>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A broker's configuration says how it logs.
    if !args.command.starts_its_own_log() {
        log::start(args.verbose, &LogConfig::default(), None);
    }
    if let Err(error) = keep_memory_private() {
        eprintln!("error: this process cannot be kept out of core files: {error}");
        return ExitCode::FAILURE;
    }
    // Whoever links another provider in must not change ours.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("error: another TLS provider is already installed in this process");
        return ExitCode::FAILURE;
    }
    if let Err(error) = cleanup::install() {
        eprintln!("error: signals cannot be handled here: {error}");
        return ExitCode::FAILURE;
    }
    let json = args.json;
    let followed = args.exit_with_parent.map_or(Ok(()), cleanup::follow);
    match followed
        .and_then(|()| args.command.run(json, args.verbose))
        .and_then(|outcome| outcome.print(json))
    {
        Ok(code) => code,
        Err(error) => {
            cleanup::hear_signals();
            outcome::print_error(&error, json);
            ExitCode::FAILURE
        }
    }
}

/// No core file and no debugger of the same user sees keys, rows or weights: a crash must not write them to a disk.
fn keep_memory_private() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit};
    let limit = rustix::process::getrlimit(Resource::Core);
    rustix::process::setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: limit.maximum,
        },
    )?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    /// What the broker's explanations put between backticks, and what is made into a command there.
    const EXPLANATIONS: [&str; 2] = [
        include_str!("../../broker/src/explain/advice.rs"),
        include_str!("../../broker/src/explain/refused.rs"),
    ];

    #[test]
    fn explanation_names_a_command_or_an_option_that_is_not_there() {
        let mut seen = 0;
        for text in EXPLANATIONS {
            // A text goes on behind a backslash at the end of a line.
            let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
            let text = lines.join("\n").replace("\\\n", "");
            for quoted in text.split('`').skip(1).step_by(2) {
                let Some(command) = quoted.strip_prefix("strongroom ") else {
                    continue;
                };
                let words = command
                    .split_whitespace()
                    .filter(|word| *word != "...")
                    .map(|word| match word.trim_matches('\'') {
                        // Numbers and patterns are made of what the reader has.
                        "N" => "1".to_owned(),
                        "PATTERN" | "{pattern}" => "default/fraud-*".to_owned(),
                        other => other.to_owned(),
                    });
                let words = std::iter::once("strongroom".to_owned()).chain(words);
                seen += 1;
                if let Err(error) = Args::try_parse_from(words) {
                    // A command that is only mentioned is mentioned without what it is about.
                    assert!(
                        matches!(
                            error.kind(),
                            ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelp
                        ),
                        "{command}: {error}"
                    );
                }
            }
        }
        assert!(seen > 10, "{seen}");
    }
}
