//! `strongroom resource`: the broker's secrets, as its admin.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
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
        Action::Put { path, file } => {
            let secret = files::read_limited(file, MAX_SECRET)?;
            block_on(client.put_resource(path, &secret))??;
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
            let lines: Vec<String> = resources
                .iter()
                .map(|r| {
                    format!(
                        "{:<48} version {:<4} {:>8} bytes  {}  by {}",
                        r.path.to_uri(),
                        r.version,
                        r.size,
                        moment(r.stored_at),
                        r.stored_by
                    )
                })
                .collect();
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
