//! `strongroom resource`: the broker's secrets, as its admin.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;
use strongroom_client::admin::{PutOptions, ResourceSummary};
use strongroom_wire::resource::{ResourceError, ResourcePath};
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime};

use crate::commands::audit::moment;
use crate::connect::{AdminArgs, block_on};
use crate::files;
use crate::outcome::Outcome;

/// The broker's own limit is lower or equal; this one bounds memory here.
const MAX_SECRET: u64 = 16 * 1024 * 1024;

/// Store, list and delete the broker's secrets. Nobody reads them back but attested guests.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Store a file's bytes as a secret's next version
    Put {
        /// repository/type/tag, such as default/fraud-dataset/dataset_key
        #[arg(value_parser = path_or_uri)]
        path: ResourcePath,
        /// The file, - for standard input.
        file: PathBuf,
        /// Not to be released any more from then on: a date such as 2027-01-31, or a number of days such as 90d
        #[arg(long, value_name = "DATE|DAYS", value_parser = parse_end)]
        expires: Option<u64>,
        /// Store it even if a folder or a vault that the broker reads has this name: this one is then released.
        #[arg(long)]
        shadow: bool,
    },
    /// List the versions of a secret that are kept: who stored each, and when
    History {
        /// repository/type/tag
        #[arg(value_parser = path_or_uri)]
        path: ResourcePath,
    },
    /// Make what an older version holds the newest version
    Rollback {
        /// repository/type/tag
        #[arg(value_parser = path_or_uri)]
        path: ResourcePath,
        /// The version to go back to.
        #[arg(long, value_name = "N")]
        to: u64,
    },
    /// Delete a secret for good, with all its versions
    Delete {
        /// repository/type/tag
        #[arg(value_parser = path_or_uri)]
        path: ResourcePath,
    },
    /// List names and metadata, never contents
    List,
}

/// People copy either form.
fn path_or_uri(text: &str) -> Result<ResourcePath, String> {
    let path = text.strip_prefix("kbs:///").unwrap_or(text);
    path.parse()
        .map_err(|error: ResourceError| error.to_string())
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let client = args.admin.client()?;
    match &args.action {
        Action::History { path } => {
            let versions = block_on(client.resource_versions(path))??;
            let lines: Vec<String> = versions.iter().map(line).collect();
            Ok(
                Outcome::new(lines.join("\n"), json!({ "versions": versions }))
                    .next(format!("strongroom resource rollback {path} --to N")),
            )
        }
        Action::Rollback { path, to } => {
            let version = block_on(client.rollback_resource(path, *to))??;
            let text = format!(
                "Version {version} of {} holds what version {to} does.",
                path.to_uri()
            );
            let document = json!({ "resource": path, "version": version, "as": to });
            Ok(Outcome::new(text, document).next(format!("strongroom resource history {path}")))
        }
        Action::Put {
            path,
            file,
            expires,
            shadow,
        } => {
            let secret = files::read_limited(file, MAX_SECRET)?;
            let options = PutOptions {
                expires: *expires,
                before_sources: *shadow,
            };
            block_on(client.put_resource_with(path, &secret, options))??;
            let text = format!(
                "Stored {} ({} bytes), encrypted.",
                path.to_uri(),
                secret.len()
            );
            Ok(
                Outcome::new(text, json!({ "resource": path, "bytes": secret.len() })).next(
                    format!(
                        "strongroom policy allow '{path}' --initdata initdata.toml{}",
                        args.admin.assurance_option()
                    ),
                ),
            )
        }
        Action::Delete { path } => {
            block_on(client.delete_resource(path))??;
            Ok(Outcome::new(
                format!("Deleted {}.", path.to_uri()),
                json!({ "deleted": path }),
            )
            .next("strongroom resource list"))
        }
        Action::List => {
            let resources = block_on(client.list_resources())??;
            let lines: Vec<String> = resources.iter().map(line).collect();
            let text = if lines.is_empty() {
                "No resources yet.".to_owned()
            } else {
                lines.join("\n")
            };
            Ok(Outcome::new(text, json!({ "resources": resources }))
                .next("strongroom resource put default/TYPE/TAG FILE"))
        }
    }
}

/// A line of a list or a history.
fn line(resource: &ResourceSummary) -> String {
    let version = resource
        .version
        .map_or_else(|| "-".to_owned(), |version| version.to_string());
    let by = resource.stored_by.as_deref();
    let origin = match (by, resource.source.as_str()) {
        (Some(by), "store") => format!("by {by}"),
        (_, source) => format!("from {source}"),
    };
    let shadowed = match resource.shadowed {
        true => " (not used: another of this name goes before it)",
        false => "",
    };
    let end = resource
        .expires
        .map(|end| format!("  until {}", moment(end)));
    let deleted = match (&resource.deleted_by, resource.deleted_at) {
        (Some(by), Some(at)) => format!("  deleted {} by {by}", moment(at)),
        _ => String::new(),
    };
    format!(
        "{:<48} version {version:<4} {:>8} bytes  {}  {origin}{shadowed}{}{deleted}",
        resource.path.to_uri(),
        resource.size,
        moment(resource.stored_at),
        end.unwrap_or_default(),
    )
}

/// A date at midnight UTC, or so many days from now; in seconds since 1970.
fn parse_end(text: &str) -> anyhow::Result<u64> {
    let now = OffsetDateTime::now_utc();
    let end = match text.strip_suffix('d') {
        Some(days) => {
            let days: u32 = days
                .parse()
                .context("write a number of days, such as 90d")?;
            now + Duration::days(i64::from(days))
        }
        None => Date::parse(text, format_description!("[year]-[month]-[day]"))
            .context("write a date such as 2027-01-31, or a number of days such as 90d")?
            .midnight()
            .assume_utc(),
    };
    anyhow::ensure!(end > now, "{text} has passed: a secret ends in the future");
    Ok(u64::try_from(end.unix_timestamp())?)
}
