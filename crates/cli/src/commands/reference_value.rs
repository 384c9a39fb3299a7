//! `strongroom reference-value`: the measurements that count as good.

mod diff;
mod list;
mod measure;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::commands::audit::moment;
use crate::connect::{AdminArgs, block_on};
use crate::files;
use crate::outcome::Outcome;

/// Tell the broker which measurements are good.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Set values: NAME=VALUE, where VALUE is JSON (a list, a number, quoted text) or else plain text
    Set {
        /// Such as launch_digest=abcde or svn='["1","2"]'.
        #[arg(required_unless_present = "file", value_name = "NAME=VALUE", value_parser = parse_pair)]
        values: Vec<(String, Value)>,
        /// A JSON map from names to values, as `strongroom reference-value measure --output` writes it.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Show one value
    Get {
        /// The value's name.
        name: String,
    },
    /// Tell who registered which version of a value, and when
    History {
        /// The value's name.
        name: String,
    },
    /// Remove a value: what needs it is not affirmed any more
    Remove {
        /// The value's name.
        name: String,
    },
    /// List every value with its end and origin, and the names that the shipped policies ask for in vain
    List,
    /// Compute values from init-data, from the firmware and kernel of an SNP guest, from a boot event log
    Measure(measure::Args),
    /// Explain which claims drifted between two evidences, and which reference values that concerns
    Diff(diff::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Set { values, file } => {
            let mut all = file
                .as_deref()
                .map_or_else(|| Ok(BTreeMap::new()), read_map)?;
            all.extend(values.iter().cloned());
            let values = all;
            block_on(args.admin.client()?.put_reference_values(&values))??;
            let lines: Vec<String> = values
                .iter()
                .map(|(name, value)| stored(name, value))
                .collect();
            let text = format!(
                "Set, in force for guests that attest from now on (one that was denied asks again after 30 s):\n{}",
                lines.join("\n")
            );
            Ok(
                Outcome::new(text, json!({ "set": values }))
                    .next("strongroom reference-value list"),
            )
        }
        Action::List => list::run(&args.admin.client()?),
        Action::Measure(args) => measure::run(args),
        Action::Diff(args) => diff::run(args),
        Action::History { name } => {
            let versions = block_on(args.admin.client()?.reference_value_history(name))??;
            let line = |version: &Value| {
                let value = match &version["value"] {
                    Value::Null => "removed".to_owned(),
                    known => format!(
                        "{} until {}",
                        known["value"],
                        moment(known["expires"].as_u64().unwrap_or_default())
                    ),
                };
                format!(
                    "version {:<4} {}  by {}: {value}",
                    version["version"],
                    moment(version["set_at"].as_u64().unwrap_or_default()),
                    version["set_by"].as_str().unwrap_or_default(),
                )
            };
            let lines: Vec<String> = versions.iter().map(line).collect();
            Ok(Outcome::new(
                lines.join("\n"),
                json!({ "name": name, "versions": versions }),
            ))
        }
        Action::Remove { name } => {
            block_on(args.admin.client()?.remove_reference_value(name))??;
            Ok(Outcome::new(
                format!("Removed {name}. What needs it is not affirmed any more."),
                json!({ "removed": name }),
            )
            .next(format!("strongroom reference-value history {name}")))
        }
        Action::Get { name } => {
            let value = block_on(args.admin.client()?.get_reference_value(name))??;
            Ok(Outcome::new(
                format!("{name} = {value}"),
                json!({ "name": name, "value": value }),
            ))
        }
    }
}

/// What a name now holds, with a word on numbers: evidence spells many of them as text.
fn stored(name: &str, value: &Value) -> String {
    let number = value
        .as_array()
        .and_then(|list| list.first())
        .filter(|first| first.is_number());
    match number {
        Some(first) => format!(
            "  {name} = {value}   (a number; if the evidence has text there, write {name}='\"{first}\"')"
        ),
        None => format!("  {name} = {value}"),
    }
}

/// The file that `measure --output` writes.
fn read_map(path: &Path) -> anyhow::Result<BTreeMap<String, Value>> {
    serde_json::from_str(&files::read_text(path, MAX_MAP)?)
        .with_context(|| format!("{} is no JSON map from names to values", path.display()))
}

/// A value that is no JSON is a text; a single value becomes a list of one, as policies expect lists, but for bounds
/// and tolerances.
pub(crate) fn parse_pair(text: &str) -> anyhow::Result<(String, Value)> {
    let (name, value) = text.split_once('=').context("write NAME=VALUE")?;
    anyhow::ensure!(!name.is_empty(), "write NAME=VALUE");
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    let plain = ["minimum_", "accept_"].iter().any(|p| name.starts_with(p))
        || ["major_version", "tcb_tolerance_days"].contains(&name);
    let value = if value.is_array() || value.is_object() || value.is_null() || plain {
        value
    } else {
        json!([value])
    };
    Ok((name.to_owned(), value))
}

/// What a broker takes in one message.
const MAX_MAP: u64 = 1024 * 1024;
