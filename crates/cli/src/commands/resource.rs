//! `strongroom resource`: the broker's secrets, as its admin.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use strongroom_client::admin::ResourceSummary;
use strongroom_wire::resource::{ResourceError, ResourcePath};

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
    /// Store a file's bytes as a secret, replacing what was there
    Put {
        /// repository/type/tag, such as default/fraud-dataset/dataset_key
        #[arg(value_parser = path_or_uri)]
        path: ResourcePath,
        /// The file, - for standard input.
        file: PathBuf,
        /// Store it even if a folder or a vault that the broker reads has this name: this one is then released.
        #[arg(long)]
        shadow: bool,
    },
    /// Delete a secret
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
        Action::Put { path, file, shadow } => {
            let secret = files::read_limited(file, MAX_SECRET)?;
            match shadow {
                true => block_on(client.put_resource_before_sources(path, &secret))??,
                false => block_on(client.put_resource(path, &secret))??,
            }
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
    format!(
        "{:<48} version {version:<4} {:>8} bytes  {}  {origin}{shadowed}",
        resource.path.to_uri(),
        resource.size,
        moment(resource.stored_at),
    )
}
