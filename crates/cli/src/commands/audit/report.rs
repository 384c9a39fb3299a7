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

/// Write the evidence pack of a period: who could read what, what was released to which measured workload, what was denied and
/// why, who changed policies, reference values and secrets
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

/// Which workloads got a resource, and under which policy: how often, and the event of the first attestation behind it.
type Recipients = BTreeMap<(String, String), (u64, String)>;

#[derive(Default)]
struct Report {
    /// Who attested: by the token that was given for it, what was measured and how it was graded, and the event.
    workloads: BTreeMap<String, (String, String)>,
    /// The release policies in force when the period begins, and when it ends: by pattern.
    begins: BTreeMap<String, Policy>,
    ends: BTreeMap<String, Policy>,
    /// By resource and version, to whom it was released.
    released: BTreeMap<(String, u64), Recipients>,
    denials: Vec<String>,
    changes: Vec<String>,
    admins: BTreeSet<String>,
    /// By admin and action, how often one looked.
    readings: BTreeMap<(String, String), u64>,
    loosenings: BTreeMap<String, u64>,
    suppressed: u64,
}

/// A release policy as the record has it: its text is in the broker, `strongroom policy get ID --version N`.
#[derive(Clone)]
struct Policy {
    version: u64,
    digest: String,
    /// When it was set, and by whom; the broker's own has nobody.
    set: Option<(u64, String)>,
}

impl Policy {
    fn said(&self, id: &str) -> String {
        let of = match id.strip_prefix(ROOT) {
            Some("") => "everything that no pattern below is for".to_owned(),
            Some(pattern) => code(pattern.trim_start_matches('/')),
            None => code(id),
        };
        let set = match &self.set {
            Some((at, by)) => format!(
                "version {}, set {} by {}",
                self.version,
                moment(*at),
                shown(by)
            ),
            None => "as the broker was started with".to_owned(),
        };
        format!("- {of}: {set}, policy {}", shown(start_of(&self.digest)))
    }
}

impl Report {
    /// Follows which release policies are in force.
    fn follow(&mut self, entry: &Value, period: &std::ops::Range<i64>) {
        let part = |name: &str| entry[name].as_str().unwrap_or_default();
        let at = entry["at"].as_i64().unwrap_or_default();
        let (id, digest) = (part("policy_id"), part("policy"));
        let policy = |set| Policy {
            version: entry["version"].as_u64().unwrap_or_default(),
            digest: digest.to_owned(),
            set,
        };
        let change = match (part("kind"), part("outcome")) {
            // What the root was before anybody set it.
            ("start", _) if !self.ends.contains_key(ROOT) && !digest.is_empty() => {
                (ROOT, Some(policy(None)))
            }
            ("admin", "allowed") if is_release(id) => {
                let set = (
                    u64::try_from(at).unwrap_or_default(),
                    part("admin").to_owned(),
                );
                (id, (!digest.is_empty()).then(|| policy(Some(set))))
            }
            _ => return,
        };
        for (until, policies) in [
            (period.start, &mut self.begins),
            (period.end, &mut self.ends),
        ] {
            if at < until {
                match change.1.clone() {
                    Some(policy) => policies.insert(change.0.to_owned(), policy),
                    None => policies.remove(change.0),
                };
            }
        }
    }

    fn take(&mut self, entry: &Value, period: &std::ops::Range<i64>) {
        let part = |name: &str| entry[name].as_str().unwrap_or_default();
        let at = entry["at"].as_i64().unwrap_or_default();
        self.follow(entry, period);
        if part("kind") == "attestation" && part("outcome") == "allowed" {
            // One from before the period may stand behind a release in it.
            let measured = [("measurement", "measurement"), ("init_data", "init-data")];
            let measured: String = measured
                .iter()
                .filter(|(name, _)| !part(name).is_empty())
                .map(|(name, said)| format!("{said} {}, ", code(part(name))))
                .collect();
            let graded = format!("{}, {measured}{}", shown(part("tee")), code(part("detail")));
            let attested = (graded, shown(part("event")).to_string());
            self.workloads.insert(part("token").to_owned(), attested);
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
                let unknown = || {
                    (
                        "a guest that attested before this record".to_owned(),
                        String::new(),
                    )
                };
                let attested = self.workloads.get(part("token")).cloned();
                let (workload, event) = attested.unwrap_or_else(unknown);
                let to = self.released.entry(resource).or_default();
                to.entry((workload, policy)).or_insert((0, event)).0 += 1;
            }
            (_, "denied") => self.denials.push(denial(entry)),
            ("admin", "allowed") if READINGS.contains(&part("action")) => {
                let reading = (part("admin").to_owned(), part("action").to_owned());
                *self.readings.entry(reading).or_default() += 1;
            }
            ("admin", "allowed") => {
                self.admins.insert(part("admin").to_owned());
                self.changes.push(change(entry));
            }
            _ => {}
        }
    }

    fn releases(&self) -> u64 {
        let counts = self.released.values().flat_map(BTreeMap::values);
        counts.map(|(count, _)| count).sum()
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
                "\n{said} What they say of these days, and which policies they put in force, is not in here.\n"
            ));
        }
        // Writing to a string cannot fail.
        let mut line = |line: String| _ = writeln!(text, "{line}");
        for (when, policies) in [
            ("at the beginning", &self.begins),
            ("at the end", &self.ends),
        ] {
            line(format!("\n## Who could read what, {when}\n"));
            policies
                .iter()
                .for_each(|(id, policy)| line(policy.said(id)));
            if policies.is_empty() {
                line("Nobody, or the record does not say: no policy is in it.".to_owned());
            }
        }
        line(format!("\n## Released: {}\n", self.releases()));
        for ((resource, version), to) in &self.released {
            line(format!("- {} version {version}", code(resource)));
            for ((workload, policy), (count, event)) in to {
                let first = match event.as_str() {
                    "" => String::new(),
                    event => format!(", attested first in event {event}"),
                };
                line(format!(
                    "  - {count} times to {workload}; policy {}{first}",
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
        line("\n## Who looked at the record\n".to_owned());
        for ((admin, action), count) in &self.readings {
            line(format!(
                "- {}: {}, {count} times",
                code(admin),
                shown(action)
            ));
        }
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

fn is_release(id: &str) -> bool {
    id.strip_prefix(ROOT)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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

/// The policy that decides where no pattern's does; those of patterns have it before the pattern.
const ROOT: &str = "resource-policy";
/// What an admin does that changes nothing.
const READINGS: [&str; 3] = ["explain event", "rehearse", "read the log"];
