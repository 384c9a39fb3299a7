//! `strongroom broker check-config`: whether a broker would start, and with which settings.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};
use strongroom_broker::{Config, Overrides};

use super::config_path;
use crate::outcome::Outcome;

/// Check a broker's configuration and all that it names, and print the settings in force
///
/// Reads what `broker run` would read, from the file and from the environment: keys, certificates, anchors, the stored
/// policies. Writes nothing, and may be run beside the broker. Ends with 1 when a broker would not start with it.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder that `broker init` made, or a configuration file.
    #[arg(default_value = "broker", value_name = "DIR|FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let path = config_path(&args.config)?;
    let overrides = Overrides::from_environment().map_err(anyhow::Error::msg)?;
    let checked = strongroom_broker::check(&path, &overrides);
    let config = checked.config.as_ref();
    let good = checked.problems.is_empty();
    let mut text = match good {
        true => format!("{} is good.", path.display()),
        false => format!("{} cannot be used:", path.display()),
    };
    list(&mut text, &checked.problems);
    if let Some(config) = config {
        let settings = toml::to_string(config).context("the settings cannot be shown")?;
        let settings = settings.trim_end().lines();
        section(&mut text, "In force:", settings.map(str::to_owned));
        section(&mut text, "From the environment:", environment(config));
        let loosenings = config.loosenings().into_iter();
        let loosenings = loosenings.map(|one| one.warning().to_owned());
        section(&mut text, "Looser than the default:", loosenings);
    }
    section(&mut text, "Notes:", checked.notes.iter().cloned());
    let loosenings: Vec<Value> = config
        .into_iter()
        .flat_map(Config::loosenings)
        .map(|one| json!({ "setting": one.name(), "warning": one.warning() }))
        .collect();
    let document = json!({
        "config": path, "good": good, "problems": checked.problems, "notes": checked.notes,
        "loosenings": loosenings, "in_force": config,
        "environment": config.map(|config| environment(config).collect::<Vec<_>>()),
    });
    let outcome = Outcome::new(text, document).code(u8::from(!good));
    Ok(match good {
        true => outcome.next(format!("strongroom broker run {}", args.config.display())),
        false => outcome,
    })
}

/// Keys and variables; a value may be long.
fn environment(config: &Config) -> impl Iterator<Item = String> {
    let overridden = config.overridden().iter();
    overridden.map(|one| format!("{} ({})", one.key, one.variable))
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.collect();
    if !lines.is_empty() {
        text.push_str(&format!("\n\n{title}"));
        list(text, &lines);
    }
}

fn list(text: &mut String, lines: &[String]) {
    for line in lines {
        text.push_str("\n  ");
        text.push_str(line);
    }
}
