//! `strongroom audit report`: what an auditor asks for, from the verified record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use super::verify::{Source, Verified, verify};
use super::{moment, reason_text, verifier};
use crate::connect::AdminArgs;
use crate::files::{self, Existing};
use crate::outcome::{Outcome, code, shown};

/// Write the evidence pack of a period: what was released to which attested workload, what was denied and why, who
/// changed policies, reference values and secrets
///
/// Rests on the verified record alone, so it can be written from copied files.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The first day, such as 2027-01-01 (UTC).
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    from: Date,

    /// The last day, which is part of it.
    #[arg(long, value_name = "DATE", value_parser = parse_day)]
    to: Date,

    /// The folder with the copied log; without one, the broker is asked.
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,

    /// The key that verifies the record: a file, or the key itself [default: audit.pub in the broker's folder]
    #[arg(long, value_name = "FILE|KEY")]
    key: Option<String>,

    /// Where to write it, as Markdown; without it, the report goes to the terminal
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(admin: &AdminArgs, args: &Args) -> anyhow::Result<Outcome> {
    anyhow::ensure!(args.from <= args.to, "--from is after --to");
    let key = verifier(admin, args.key.as_deref())?;
    let source = match &args.log {
        Some(folder) => Source::Folder(folder.clone()),
        None => Source::Broker(Box::new(admin.client()?)),
    };
    let (first, last) = (
        args.from.midnight().assume_utc(),
        args.to.midnight().assume_utc(),
    );
    let period = first.unix_timestamp()..last.unix_timestamp() + 24 * 60 * 60;
    let mut report = Report::default();
    let verified = verify(&source, &key, &[], |_, entry| {
        if let Ok(entry) = serde_json::from_slice::<Value>(entry) {
            report.take(&entry, &period);
        }
    })?;
    let text = report.text(args, &verified, &key.to_string());
    let document = json!({
        "from": args.from.to_string(), "to": args.to.to_string(), "entries": verified.size,
        "first": verified.first,
        "root": verified.root, "releases": report.releases(), "denials": report.denials.len(),
        "changes": report.changes.len(),
    });
    match &args.output {
        Some(path) => {
            files::write(path, Existing::Replace, 0o644, text.as_bytes())?;
            Ok(Outcome::new(format!("Wrote {}.", path.display()), document)
                .next("strongroom audit export FOLDER    # the log that it rests on"))
        }
        None => Ok(Outcome::new(text, document)),
    }
}

#[derive(Default)]
struct Report {
    /// Who attested: by the guest's key, what its evidence was graded.
    workloads: BTreeMap<String, String>,
    /// By resource and version, which guests' keys it was released to, how often, and under which policy.
    released: BTreeMap<(String, u64), BTreeMap<(String, String), u64>>,
    denials: Vec<String>,
    changes: Vec<String>,
    admins: BTreeSet<String>,
    loosenings: BTreeMap<String, u64>,
    suppressed: u64,
}

impl Report {
    fn take(&mut self, entry: &Value, period: &std::ops::Range<i64>) {
        let part = |name: &str| entry[name].as_str().unwrap_or_default();
        let at = entry["at"].as_i64().unwrap_or_default();
        if part("kind") == "attestation" && part("outcome") == "allowed" {
            // One from before the period may stand behind a release in it.
            let graded = format!(
                "{}, {} (event {})",
                shown(part("tee")),
                code(part("detail")),
                shown(part("event"))
            );
            self.workloads.insert(part("tee_key").to_owned(), graded);
        }
        if !period.contains(&at) {
            return;
        }
        self.suppressed += entry["suppressed"].as_u64().unwrap_or_default();
        for name in entry["loosenings"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default().to_owned();
            *self.loosenings.entry(name).or_default() += 1;
        }
        match (part("kind"), part("outcome")) {
            ("release", "allowed") => {
                let version = entry["version"].as_u64().unwrap_or_default();
                let resource = (part("resource").to_owned(), version);
                let policy = format!("{} {}", part("policy_id"), start_of(part("policy")));
                let to = (part("tee_key").to_owned(), policy);
                *self
                    .released
                    .entry(resource)
                    .or_default()
                    .entry(to)
                    .or_default() += 1;
            }
            (_, "denied") => self.denials.push(denial(entry)),
            ("admin", "allowed") => {
                self.admins.insert(part("admin").to_owned());
                self.changes.push(change(entry));
            }
            _ => {}
        }
    }

    fn releases(&self) -> u64 {
        let by_key = self.released.values().flat_map(BTreeMap::values);
        by_key.sum()
    }

    fn text(&self, args: &Args, verified: &Verified, key: &str) -> String {
        let Verified { size, root, .. } = verified;
        let mut text = format!(
            "# What the broker released, denied and changed, {} to {}\n\nFrom a record of {size} entries, verified whole: \
             root {root}, signed by `{key}`. Written {}.\n",
            args.from,
            args.to,
            moment(u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default()),
        );
        if let Some(said) = verified.pruned() {
            text.push_str(&format!(
                "\n{said} What they say of these days is not in here.\n"
            ));
        }
        // Writing to a string cannot fail.
        let mut line = |line: String| _ = writeln!(text, "{line}");
        line(format!("\n## Released: {}\n", self.releases()));
        for ((resource, version), to) in &self.released {
            line(format!("- {} version {version}", code(resource)));
            for ((tee_key, policy), count) in to {
                let unknown = "attested before this record".to_owned();
                let workload = self.workloads.get(tee_key).unwrap_or(&unknown);
                line(format!(
                    "  - {count} times to key {}: {workload}; policy {}",
                    code(start_of(tee_key)),
                    code(policy)
                ));
            }
        }
        line(format!("\n## Denied: {}\n", self.denials.len()));
        self.denials.iter().for_each(|denial| line(denial.clone()));
        if self.suppressed > 0 {
            line(format!(
                "- and {} more like those before them",
                self.suppressed
            ));
        }
        line(format!("\n## Changed: {}\n", self.changes.len()));
        self.changes.iter().for_each(|change| line(change.clone()));
        let admins: Vec<String> = self.admins.iter().map(|name| code(name)).collect();
        line(format!("\n## Admins who acted: {}\n", admins.join(", ")));
        line("\n## Settings that let through what the default refuses\n".to_owned());
        for (name, count) in &self.loosenings {
            line(format!("- {}: {count} entries", code(name)));
        }
        if self.loosenings.is_empty() {
            line("None.".to_owned());
        }
        text
    }
}

fn denial(entry: &Value) -> String {
    let part = |name: &str| entry[name].as_str().unwrap_or_default();
    let mut text = format!(
        "- {} {} {}{} (event {})",
        moment(entry["at"].as_u64().unwrap_or_default()),
        shown(part("action")),
        code(part("resource")),
        if part("tee").is_empty() {
            String::new()
        } else {
            format!(" by a {} guest", shown(part("tee")))
        },
        shown(part("event")),
    );
    for reason in entry["reasons"].as_array().into_iter().flatten() {
        text.push_str(&format!("\n  - {}", code(&reason_text(reason))));
    }
    if !part("detail").is_empty() {
        text.push_str(&format!("\n  - {}", code(part("detail"))));
    }
    text
}

fn change(entry: &Value) -> String {
    let part = |name: &str| entry[name].as_str().unwrap_or_default();
    let version = entry["version"].as_u64();
    let of = [part("resource"), part("policy_id"), part("detail")];
    let of: Vec<&str> = of.into_iter().filter(|part| !part.is_empty()).collect();
    format!(
        "- {} {} by {}: {}{} (event {})",
        moment(entry["at"].as_u64().unwrap_or_default()),
        shown(part("action")),
        code(part("admin")),
        code(&of.join(", ")),
        version.map_or_else(String::new, |version| format!(", version {version}")),
        shown(part("event")),
    )
}

fn start_of(text: &str) -> &str {
    text.get(..16).unwrap_or(text)
}

pub(super) fn parse_day(text: &str) -> anyhow::Result<Date> {
    Date::parse(text, format_description!("[year]-[month]-[day]"))
        .context("write a date such as 2027-01-31")
}
