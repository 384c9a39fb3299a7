//! `strongroom policy`: who gets what.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use strongroom_verifier::Assurance;
use strongroom_verifier::release_policy::{ReleasePolicy, Requirement, requiring};
use strongroom_wire::ear::Tier;

use crate::commands::initdata;
use crate::connect::{AdminArgs, block_on};
use crate::files;
use crate::outcome::Outcome;

const MAX_POLICY: u64 = 1024 * 1024;

/// Decide which attested machines get which secrets.
///
/// Until a policy is set, only machines on real hardware whose every measurement is affirmed get anything.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Write a policy from a few requirements and set it, in the place of the one before
    Allow(AllowArgs),
    /// Set a policy written in Rego: package policy, rule allow
    Set {
        /// The Rego file, - for standard input.
        file: PathBuf,
    },
    /// Set the appraisal policy of a class of platforms, such as default_cpu
    SetAppraisal {
        /// The policy's id.
        id: String,
        /// The Rego file, - for standard input.
        file: PathBuf,
    },
    /// Show the policy in force
    Show,
}

#[derive(clap::Args)]
struct AllowArgs {
    /// Resources the rule is for: repository/type/tag, each part may end in *
    #[arg(required = true, value_name = "PATTERN")]
    patterns: Vec<String>,

    /// The init-data that the machine must have measured.
    #[arg(long, value_name = "FILE")]
    initdata: Option<PathBuf>,

    /// A claim the evidence must hold: PATH=VALUE, such as sample.launch_digest=abcde.
    #[arg(long, value_name = "PATH=VALUE")]
    claim: Vec<String>,

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
        Action::Allow(allow) => {
            let rego = rego(allow)?;
            let document = json!({ "policy": rego, "set": !allow.dry_run });
            if allow.dry_run {
                return Ok(Outcome::new(rego, document)
                    .next("strongroom policy allow ... without --dry-run"));
            }
            block_on(args.admin.client()?.set_resource_policy(&rego))??;
            Ok(Outcome::new(summary(allow)?, document)
                .next("strongroom policy show")
                .next("strongroom audit --limit 5"))
        }
        Action::Set { file } => {
            let rego = files::read_text(file, MAX_POLICY)?;
            ReleasePolicy::compile(&rego)
                .with_context(|| format!("{} is not a release policy", file.display()))?;
            block_on(args.admin.client()?.set_resource_policy(&rego))??;
            Ok(Outcome::new(
                "The policy is in force, in the place of the one before.",
                json!({ "set": true }),
            )
            .next("strongroom policy show"))
        }
        Action::SetAppraisal { id, file } => {
            let rego = files::read_text(file, MAX_POLICY)?;
            block_on(args.admin.client()?.set_attestation_policy(id, &rego))??;
            Ok(Outcome::new(
                format!("The appraisal policy {id} is in force."),
                json!({ "set": id }),
            ))
        }
        Action::Show => {
            let rego = block_on(args.admin.client()?.resource_policy())??;
            Ok(Outcome::new(rego.clone(), json!({ "policy": rego })))
        }
    }
}

/// What is now allowed, and that nothing else is.
fn summary(allow: &AllowArgs) -> anyhow::Result<String> {
    let mut wanted = vec![match allow.assurance {
        AssuranceArg::Hardware => "real hardware".to_owned(),
        AssuranceArg::Development => "development evidence".to_owned(),
    }];
    wanted.push("every measurement affirmed".to_owned());
    if let Some(path) = &allow.initdata {
        let digest = hex::encode(initdata::read(path)?.digest());
        wanted.push(format!(
            "init-data {}…",
            digest.get(..16).unwrap_or(&digest)
        ));
    }
    wanted.extend(allow.claim.iter().cloned());
    let patterns: Vec<String> = allow
        .patterns
        .iter()
        .map(|pattern| format!("  {pattern}"))
        .collect();
    Ok(format!(
        "In force: to machines with {}, the broker releases\n{}\nand nothing else: this takes the place of the policy before. A guest that was denied asks again after 30 s.",
        wanted.join(", "),
        patterns.join("\n"),
    ))
}

fn rego(allow: &AllowArgs) -> anyhow::Result<String> {
    let initdata = allow.initdata.as_deref().map(initdata::read).transpose()?;
    let mut requirements = Vec::new();
    for pattern in &allow.patterns {
        let mut requirement = Requirement::for_resources(pattern)?
            .tier(Tier::Affirming)
            .assurance(match allow.assurance {
                AssuranceArg::Hardware => Assurance::Hardware,
                AssuranceArg::Development => Assurance::Development,
            });
        if let Some(initdata) = &initdata {
            requirement = requirement.initdata_digest(&initdata.digest());
        }
        for claim in &allow.claim {
            let (path, value) = claim.split_once('=').context("write --claim PATH=VALUE")?;
            let value =
                serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            requirement = requirement.claim(&path.split('.').collect::<Vec<_>>(), value);
        }
        requirements.push(requirement);
    }
    Ok(requiring(&requirements))
}
