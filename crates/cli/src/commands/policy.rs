//! `strongroom policy`: who gets what.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use strongroom_client::admin::{PolicySummary, Rehearse};
use strongroom_verifier::release_policy::{ReleasePolicy, Requirement, requiring};
use strongroom_verifier::{AppraisalPolicy, Assurance, measurement_claim};
use strongroom_wire::ear::Tier;
use strongroom_wire::resource::ResourcePattern;
use strongroom_wire::tee::Tee;

use crate::commands::audit::{moment, reason_line};
use crate::commands::initdata;
use crate::connect::{AdminArgs, block_on};
use crate::files;
use crate::outcome::Outcome;

const MAX_POLICY: u64 = 1024 * 1024;

/// How a release policy is written, for those who write one.
const LANGUAGE: &str = "\
What a policy is:
  Rego, with `package policy` and a rule `allow`. Only `true` lets the resource leave.

What it sees:
  input.submods           what the guest attested: cpu0, and gpu0 and so on for devices. Each has
                            [\"ear.status\"]: affirming, warning, contraindicated or none
                            [\"ear.veraison.annotated-evidence\"]: what the evidence proved, under the
                            platform's name: .snp.measurement, .tdx.quote.body.mr_td
  input.assurance         hardware, or development: what the weakest of these rests on
  input.init_data_claims  the init-data that cpu0 was started with, such as [\"aa.toml\"]
  input.time              when the guest asks, in seconds since 1970
  data.plugin             \"resource\"
  data[\"resource-path\"]   what is asked for: [\"default\", \"fraud-dataset\", \"key\"]
  data.query              the query of the request, such as data.query.purpose

What it may say:
  denials                 a set of {\"rule\", \"claim\", \"expected\", \"actual\"}: why not. It decides
                          nothing, and is what `strongroom audit explain` tells. Without it,
                          that tells which comparisons in the policy's text do not hold.
";

/// A policy that uses each of them.
const EXAMPLE: &str = r#"
A policy that uses each of them:
  package policy

  import rego.v1

  default allow := false

  allow if count(denials) == 0

  denials contains why("real hardware", "assurance", "hardware", input.assurance) if {
    input.assurance != "hardware"
  }

  denials contains why("measurements are affirmed", name, "affirming", submod["ear.status"]) if {
    some name, submod in input.submods
    submod["ear.status"] != "affirming"
  }

  denials contains why("a CPU with init-data", "init_data_claims", "there", "absent") if {
    not input.init_data_claims["aa.toml"]
  }

  denials contains why("until 2030", "time", "before 1893456000", input.time) if {
    input.time >= 1893456000
  }

  denials contains why("for scoring", "query.purpose", "score", purpose) if purpose != "score"

  denials contains why("the fraud team's", "resource-path", "default/fraud-*", path) if {
    not startswith(path, "default/fraud-")
  }

  purpose := object.get(data.query, "purpose", "absent")

  path := concat("/", data["resource-path"])

  why(rule, claim, expected, actual) := {
    "rule": rule, "claim": claim, "expected": expected, "actual": actual,
  }

Examples:
  strongroom policy set everything.rego                       where no pattern decides
  strongroom policy set fraud.rego 'default/fraud-*'          for what this pattern covers
"#;

const TEST_EXAMPLES: &str = "
Examples:
  strongroom policy test fraud.rego 'default/fraud-*'             does it compile
  strongroom policy test fraud.rego 'default/fraud-*' --replay    which past decisions would flip
  strongroom policy test --reference-value snp_launch_measurement=null --replay
`strongroom policy set --help` has a policy that uses all of it.
";

const ALLOW_EXAMPLES: &str = "
What is written is such a policy: of every submodule it demands the status and the assurance, of
cpu0 what the options name, and its `denials` has an entry for each. It is shown when it is set; with
--dry-run it is only shown, to be kept as a file, changed, and set with `strongroom policy set`.

Examples:
  strongroom policy allow 'default/fraud-*' --initdata initdata.toml
  strongroom policy allow default/fraud-dataset/key --platform snp --measurement 4f1c… --dry-run
  strongroom policy allow 'default/gpu-*' --claim snp.vmpl=0
";

/// Decide which attested machines get which secrets.
///
/// Until a policy is set, only machines on real hardware whose every measurement is affirmed get anything. A policy is
/// for the resources that a pattern names, such as default/fraud-*, or for everything that no pattern covers: its id is
/// then resource-policy. Of all patterns that cover a resource the narrowest decides, and it decides alone.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Write a policy from a few requirements, for each of these patterns, and set it
    Allow(AllowArgs),
    /// Set a policy written in Rego: package policy, rule allow
    #[command(after_long_help = [LANGUAGE, EXAMPLE].concat())]
    Set {
        /// The Rego file, - for standard input.
        file: PathBuf,
        /// What it is for: a pattern such as default/fraud-*, or what no pattern covers
        #[arg(default_value = "resource-policy", value_name = "ID|PATTERN")]
        id: String,
    },
    /// Set the appraisal policy of a class of platforms, such as default_cpu
    SetAppraisal {
        /// The policy's id.
        id: String,
        /// The Rego file, - for standard input.
        file: PathBuf,
    },
    /// List the policies in force
    List,
    /// Show the policy in force, or another version of it
    Show {
        /// Its id, or a pattern.
        #[arg(default_value = "resource-policy", value_name = "ID|PATTERN")]
        id: String,
        /// This version instead of the one in force.
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Tell who set which version of a policy, and when
    History {
        /// Its id, or a pattern.
        #[arg(default_value = "resource-policy", value_name = "ID|PATTERN")]
        id: String,
    },
    /// Put an older version in force again
    Rollback {
        /// Its id, or a pattern.
        #[arg(value_name = "ID|PATTERN")]
        id: String,
        /// The version whose text is to hold again.
        #[arg(long, value_name = "N")]
        to: u64,
    },
    /// Take a policy out of force: what covers its resources more widely decides then
    Remove {
        /// Its id, or a pattern.
        #[arg(value_name = "ID|PATTERN")]
        id: String,
    },
    /// Try a changed policy or reference value without setting it
    Test(TestArgs),
}

#[derive(clap::Args)]
#[command(after_long_help = [LANGUAGE, TEST_EXAMPLES].concat())]
struct TestArgs {
    /// The Rego file, - for standard input.
    file: Option<PathBuf>,

    /// What it is for: a pattern such as default/fraud-*, an id such as default_cpu, or what no pattern covers
    #[arg(default_value = "resource-policy", value_name = "ID|PATTERN")]
    id: String,

    /// A reference value to change: NAME=VALUE, where VALUE is JSON or plain text, and null removes it
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair, requires = "replay")]
    reference_value: Vec<(String, Value)>,

    /// Take past decisions again, and tell which would have ended otherwise.
    #[arg(long)]
    replay: bool,

    /// How many of the newest decisions to take again.
    #[arg(long, default_value_t = 1_000, requires = "replay")]
    limit: u32,
}

#[derive(clap::Args)]
#[command(after_long_help = [LANGUAGE, ALLOW_EXAMPLES].concat())]
struct AllowArgs {
    /// The resources: repository/type/tag, or what it begins with and *, such as default/fraud-*
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<ResourcePattern>,

    /// The init-data that the machine must have measured.
    #[arg(long, visible_alias = "init-data", value_name = "FILE")]
    initdata: Option<PathBuf>,

    /// The platform that the evidence must be of, such as snp or az-tdx-vtpm
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Tee>,

    /// The launch measurement that the machine must have, in hexadecimal; needs --platform
    #[arg(long, value_name = "HEX", requires = "platform")]
    measurement: Option<String>,

    /// A claim the evidence must hold: PATH=VALUE, such as sample.launch_digest=abcde.
    #[arg(long, value_name = "PATH=VALUE")]
    claim: Vec<String>,

    /// The appraisal policies that must have graded the machine, by their id in attestation.policy_ids: it chooses among them.
    #[arg(long, value_name = "ID", default_value = "default")]
    appraisal: String,

    /// The assurance that is enough
    #[arg(long, value_enum, default_value_t = AssuranceArg::Hardware)]
    assurance: AssuranceArg,

    /// Show the policy without setting it.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum AssuranceArg {
    /// Real hardware only
    Hardware,
    /// Development evidence only; the broker must have been told to accept it
    Development,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Allow(allow) => run_allow(args, allow),
        Action::Set { file, id } => {
            let id = named(id);
            if !is_release(&id) {
                bail!(
                    "{id:?} is no pattern of resources, such as 'default/fraud-*': an appraisal policy is set with \
                     `strongroom policy set-appraisal`"
                );
            }
            let rego = files::read_text(file, MAX_POLICY)?;
            ReleasePolicy::compile(&id, &rego)
                .with_context(|| format!("{} is not a release policy", file.display()))?;
            let set = block_on(args.admin.client()?.set_policy(&id, &rego))??;
            Ok(Outcome::new(in_force(&set), json!({ "set": set }))
                .next(format!("strongroom policy show {}", shown(&set.id))))
        }
        Action::SetAppraisal { id, file } => {
            let rego = files::read_text(file, MAX_POLICY)?;
            let set = block_on(args.admin.client()?.set_policy(id, &rego))??;
            Ok(Outcome::new(in_force(&set), json!({ "set": set })))
        }
        Action::List => {
            let policies = block_on(args.admin.client()?.policies())??;
            let lines: Vec<String> = policies.iter().map(line).collect();
            Ok(
                Outcome::new(lines.join("\n"), json!({ "policies": policies }))
                    .next("strongroom policy show ID"),
            )
        }
        Action::Show { id, version } => {
            let id = named(id);
            let policy = block_on(args.admin.client()?.policy(&id, *version))??;
            let text = policy
                .text
                .clone()
                .unwrap_or_else(|| "It was removed.".to_owned());
            Ok(Outcome::new(text, json!(policy)))
        }
        Action::History { id } => {
            let id = named(id);
            let policy = block_on(args.admin.client()?.policy(&id, None));
            // What was removed has a history and no text.
            let versions = policy??.versions;
            let lines: Vec<String> = versions.iter().map(line).collect();
            let text = match lines.is_empty() {
                true => format!("{} was never set: what ships is in force.", shown(&id)),
                false => lines.join("\n"),
            };
            Ok(Outcome::new(text, json!({ "versions": versions }))
                .next(format!("strongroom policy rollback {} --to N", shown(&id))))
        }
        Action::Rollback { id, to } => {
            let set = block_on(args.admin.client()?.rollback_policy(&named(id), *to))??;
            Ok(Outcome::new(in_force(&set), json!({ "set": set })))
        }
        Action::Remove { id } => {
            let id = named(id);
            let removed = block_on(args.admin.client()?.remove_policy(&id))??;
            let text = match id == ROOT {
                true => "The policy that ships is in force again.".to_owned(),
                false => format!(
                    "{} is out of force: what covers these resources more widely decides now.",
                    shown(&id)
                ),
            };
            Ok(Outcome::new(text, json!({ "removed": removed })).next("strongroom policy list"))
        }
        Action::Test(test) => run_test(args, test),
    }
}

fn run_allow(args: &Args, allow: &AllowArgs) -> anyhow::Result<Outcome> {
    let policies = allow
        .patterns
        .iter()
        .map(|pattern| Ok((pattern, requiring(&[requirement(allow, pattern)?]))))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let texts: Vec<&str> = policies.iter().map(|(_, rego)| rego.as_str()).collect();
    let text = texts.join("\n");
    let ids: Vec<String> = allow.patterns.iter().map(id_of).collect();
    let document = json!({ "policy": text, "ids": ids, "set": !allow.dry_run });
    if allow.dry_run {
        // Rego and nothing else, so that it can be kept as a file.
        return Ok(Outcome::new(text, document));
    }
    let client = args.admin.client()?;
    for ((_, rego), id) in policies.iter().zip(&ids) {
        block_on(client.set_policy(id, rego))??;
    }
    let first = shown(ids.first().map_or(ROOT, String::as_str)).into_owned();
    let written: Vec<String> = policies
        .iter()
        .map(|(pattern, rego)| format!("The policy of '{pattern}':\n\n{}\n", indented(rego)))
        .collect();
    let text = format!("{}\n{}", written.join("\n"), summary(allow)?);
    Ok(Outcome::new(text, document)
        .next(format!("strongroom policy show {first}"))
        .next("strongroom audit --limit 5"))
}

fn run_test(args: &Args, test: &TestArgs) -> anyhow::Result<Outcome> {
    let id = named(&test.id);
    let rego = test
        .file
        .as_deref()
        .map(|file| files::read_text(file, MAX_POLICY))
        .transpose()?;
    if rego.is_none() && test.reference_value.is_empty() {
        bail!("nothing to try: name a Rego file, or --replay --reference-value NAME=VALUE");
    }
    if let Some(rego) = &rego {
        match is_release(&id) {
            true => ReleasePolicy::compile(&id, rego).map(drop),
            false => AppraisalPolicy::compile(&id, rego).map(drop),
        }
        .with_context(|| format!("it cannot be put in force as {}", shown(&id)))?;
    }
    if !test.replay {
        let text = format!("It could be put in force as {}.", shown(&id));
        return Ok(Outcome::new(text, json!({ "compiles": true }))
            .next(format!("{} --replay", with_file("test", test, &id))));
    }
    let next = match (&rego, is_release(&id)) {
        (None, _) => "strongroom reference-value set NAME=VALUE".to_owned(),
        (Some(_), true) => with_file("set", test, &id),
        (Some(_), false) => format!("strongroom policy set-appraisal {id} {}", file_of(test)),
    };
    let changes = Rehearse {
        policies: rego.map(|rego| (id, Some(rego))).into_iter().collect(),
        reference_values: test.reference_value.iter().cloned().collect(),
        limit: Some(test.limit),
    };
    let rehearsal = block_on(args.admin.client()?.rehearse(&changes))??;
    let flips = rehearsal["flips"].as_array().cloned().unwrap_or_default();
    let mut text = format!(
        "Of {} past decisions, {} would end otherwise by this change.",
        rehearsal["decisions"],
        flips.len()
    );
    for flip in &flips {
        text.push_str(&flip_line(flip));
    }
    if let Some(forgotten) = rehearsal["forgotten"].as_u64().filter(|count| *count > 0) {
        text.push_str(&format!(
            "\n{forgotten} could not be taken again: the claims behind them, or a long query, are not kept."
        ));
    }
    let already = rehearsal["otherwise_already"].as_u64();
    if let Some(already) = already.filter(|count| *count > 0) {
        text.push_str(&format!(
            "\n{already} end otherwise than they did by what is in force already, with this change and without it."
        ));
    }
    Ok(Outcome::new(text, rehearsal).next(next))
}

/// The command that goes on with the file that was tried, for what it was tried for.
fn with_file(command: &str, test: &TestArgs, id: &str) -> String {
    let file = file_of(test);
    match id == ROOT {
        true => format!("strongroom policy {command} {file}"),
        false => format!("strongroom policy {command} {file} {}", shown(id)),
    }
}

fn file_of(test: &TestArgs) -> String {
    let file = test.file.as_deref().map(|file| file.display().to_string());
    let file = file.filter(|file| file != "-");
    let plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    match file {
        None => "FILE".to_owned(),
        Some(file) if file.chars().all(plain) => file,
        Some(file) => format!("'{}'", file.replace('\'', r"'\''")),
    }
}

/// A text as a block of its own.
fn indented(text: &str) -> String {
    let line = |line: &str| match line.is_empty() {
        true => "\n".to_owned(),
        false => format!("    {line}\n"),
    };
    text.lines().map(line).collect()
}

fn flip_line(flip: &Value) -> String {
    let part = |name: &str| flip[name].as_str().unwrap_or_default();
    // What is in force may have changed since.
    let now = match part("now") == part("was") {
        true => String::new(),
        false => format!(", is {} now", part("now").to_uppercase()),
    };
    let mut text = format!(
        "\n{}  {} {}: was {}{now}, would be {}  event {}",
        moment(flip["at"].as_u64().unwrap_or_default()),
        part("kind"),
        part("resource"),
        part("was").to_uppercase(),
        part("would_be").to_uppercase(),
        part("event"),
    );
    for reason in flip["reasons"].as_array().into_iter().flatten() {
        text.push_str(&format!("\n    {}", reason_line(reason)));
    }
    text
}

/// A line of a list or a history.
fn line(policy: &PolicySummary) -> String {
    let digest = policy.digest.as_deref().and_then(|digest| digest.get(..16));
    let set = match policy.version {
        0 => "as it ships".to_owned(),
        _ => format!("{}  by {}", moment(policy.set_at), policy.set_by),
    };
    format!(
        "{:<36} version {:<4} {:<16}  {set}",
        shown(&policy.id),
        policy.version,
        digest.unwrap_or("removed"),
    )
}

fn in_force(set: &PolicySummary) -> String {
    format!("In force: {}, version {}.", shown(&set.id), set.version)
}

/// People name a policy by its pattern.
fn named(id: &str) -> String {
    match id.parse::<ResourcePattern>() {
        Ok(pattern) if !id.starts_with(ROOT) => id_of(&pattern),
        _ => id.to_owned(),
    }
}

/// Whether an id is one of a policy that decides over resources.
fn is_release(id: &str) -> bool {
    let beneath = id.strip_prefix(ROOT);
    beneath.is_some_and(|rest| {
        rest.is_empty()
            || rest
                .strip_prefix('/')
                .is_some_and(|pattern| pattern.parse::<ResourcePattern>().is_ok())
    })
}

fn id_of(pattern: &ResourcePattern) -> String {
    format!("{ROOT}/{pattern}")
}

/// An id as people write it, ready for a shell.
fn shown(id: &str) -> std::borrow::Cow<'_, str> {
    match id
        .strip_prefix(ROOT)
        .and_then(|rest| rest.strip_prefix('/'))
    {
        Some(pattern) => format!("'{pattern}'").into(),
        None => id.into(),
    }
}

/// What is now allowed.
fn summary(allow: &AllowArgs) -> anyhow::Result<String> {
    let mut wanted = vec![match allow.assurance {
        AssuranceArg::Hardware => "real hardware".to_owned(),
        AssuranceArg::Development => "development evidence".to_owned(),
    }];
    wanted.push("every measurement affirmed".to_owned());
    if let Some(path) = &allow.initdata {
        let digest = hex::encode(initdata::read(path)?.digest());
        wanted.push(format!("init-data {}…", start_of(&digest)));
    }
    wanted.extend(allow.platform.map(|tee| format!("platform {tee}")));
    let measurement = allow.measurement.as_deref();
    wanted.extend(measurement.map(|hex| format!("measurement {}…", start_of(hex))));
    wanted.extend(allow.claim.iter().cloned());
    let patterns: Vec<String> = allow
        .patterns
        .iter()
        .map(|pattern| format!("  {pattern}"))
        .collect();
    Ok(format!(
        "In force: to machines with {}, and to no others, the broker releases\n{}\nwhere no narrower pattern decides. What was set for these patterns before is replaced (`strongroom policy history`). A guest that was denied asks again after 30 s.",
        wanted.join(", "),
        patterns.join("\n"),
    ))
}

fn start_of(text: &str) -> &str {
    text.get(..16).unwrap_or(text)
}

fn requirement(allow: &AllowArgs, pattern: &ResourcePattern) -> anyhow::Result<Requirement> {
    let mut requirement = Requirement::for_resources(&pattern.to_string())?
        .tier(Tier::Affirming)
        .appraisal(&allow.appraisal)
        .assurance(match allow.assurance {
            AssuranceArg::Hardware => Assurance::Hardware,
            AssuranceArg::Development => Assurance::Development,
        });
    if let Some(path) = &allow.initdata {
        requirement = requirement.initdata_digest(&initdata::read(path)?.digest());
    }
    if let Some(tee) = allow.platform {
        requirement = requirement.platform(tee);
    }
    if let (Some(tee), Some(measurement)) = (allow.platform, &allow.measurement) {
        let (path, value) = measured(tee, measurement)?;
        let path: Vec<&str> = [tee.as_str()]
            .into_iter()
            .chain(path.iter().copied())
            .collect();
        requirement = requirement.claim(&path, value);
    }
    for claim in &allow.claim {
        let (path, value) = claim.split_once('=').context("write --claim PATH=VALUE")?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        requirement = requirement.claim(&path.split('.').collect::<Vec<_>>(), value);
    }
    Ok(requirement)
}

/// The claim of a platform that holds its launch measurement, and how the claim spells it.
fn measured(tee: Tee, measurement: &str) -> anyhow::Result<(&'static [&'static str], Value)> {
    let bytes = hex::decode(measurement).context("--measurement is hexadecimal")?;
    let hex = Value::String(hex::encode(&bytes));
    let long = match tee {
        Tee::Sgx => 32,
        _ => 48,
    };
    let claim = match measurement_claim(tee) {
        Some(claim) if tee == Tee::AzSnpVtpm => (claim, Value::String(STANDARD.encode(&bytes))),
        // What `sample` says of itself is no measurement.
        Some(claim) if tee != Tee::Sample => (claim, hex),
        _ => bail!("{tee} has no launch measurement: name a claim of it with --claim"),
    };
    if bytes.len() != long {
        bail!(
            "--measurement has {} bytes, and a launch measurement of {tee} has {long}: write all {} hexadecimal digits",
            bytes.len(),
            2 * long
        );
    }
    Ok(claim)
}

/// A value that is no JSON is a text; a single text or number becomes a list of one, as policies expect lists.
fn parse_pair(text: &str) -> anyhow::Result<(String, Value)> {
    super::reference_value::parse_pair(text)
}

/// The policy that decides where no pattern's does.
const ROOT: &str = "resource-policy";
