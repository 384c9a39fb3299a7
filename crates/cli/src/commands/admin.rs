//! `strongroom admin`: who administers a broker, and as what.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use strongroom_client::admin::AdminSummary;
use strongroom_wire::admin::MAX_SESSION_MINUTES;

use crate::commands::audit::moment;
use crate::commands::keygen::write_pair;
use crate::connect::{AdminArgs, block_on};
use crate::files::{self, Existing};
use crate::outcome::Outcome;

/// Say who administers the broker, and what each admin may do.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Subcommand)]
enum Action {
    /// Make an admin's key pair: Ed25519, the private half for its owner alone
    Keygen {
        /// The file to write. The public half goes beside it, as FILE.pub.pem.
        file: PathBuf,
        /// Replace existing files.
        #[arg(long)]
        force: bool,
    },
    /// Add an admin, who may act at once
    Add {
        /// Letters, digits and . _ @ + -
        name: String,
        /// What the admin may do.
        #[arg(long, value_enum)]
        role: Role,
        /// The public key, PEM: Ed25519 or P-256.
        #[arg(long, value_name = "FILE")]
        public_key: PathBuf,
    },
    /// List the admins with a key; those of an identity provider are known to it alone
    List,
    /// Tell who added or revoked an admin, and when
    History {
        /// The admin's name.
        name: String,
    },
    /// Write a token for a client that sends the same one with each request, such as upstream's kbs-client
    ///
    /// The client takes the file: `kbs-client config --admin-token-file FILE`. The broker takes the token until it expires,
    /// and only where `[admin_tokens] reusable_minutes` in its configuration is as long. Who sees it can use it: keep it short.
    Token {
        /// The file to write, readable by you alone; - for standard output
        file: PathBuf,
        /// How long it lives.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MAX_SESSION_MINUTES))]
        minutes: u64,
    },
    /// Revoke an admin: the key's tokens are refused from now on
    Revoke {
        /// The admin's name.
        name: String,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Role {
    /// Everything
    Admin,
    /// Policies and reference values, with rehearsals and explanations
    Policy,
    /// Storing, listing, rolling back and deleting secrets, and nothing else
    Secrets,
    /// Reading the record and every list, and changing nothing
    Auditor,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Policy => "policy",
            Self::Secrets => "secrets",
            Self::Auditor => "auditor",
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Keygen { file, force } => keygen(file, *force),
        Action::Add {
            name,
            role,
            public_key,
        } => {
            let pem = files::read_text(public_key, MAX_PEM)?;
            anyhow::ensure!(
                !pem.contains("PRIVATE KEY"),
                "{} holds a private key, which stays with its owner: name the public half",
                public_key.display()
            );
            let role = role.as_str();
            block_on(args.admin.client()?.add_admin(name, role, &pem))??;
            let text = format!("Added {name}, who may act as {role} from now on.");
            Ok(
                Outcome::new(text, json!({ "added": name, "role": role })).next(format!(
                    "strongroom resource list --admin {name} --admin-role {role} --admin-key KEY"
                )),
            )
        }
        Action::List => {
            let admins = block_on(args.admin.client()?.list_admins())??;
            let lines: Vec<String> = admins.iter().map(line).collect();
            Ok(Outcome::new(lines.join("\n"), json!({ "admins": admins }))
                .next("strongroom admin add NAME --role ROLE --public-key FILE"))
        }
        Action::History { name } => {
            let versions = block_on(args.admin.client()?.admin_history(name))??;
            let line = |version: &Value| {
                format!(
                    "version {:<4} {}  by {}: {}",
                    version["version"],
                    moment(version["set_at"].as_u64().unwrap_or_default()),
                    version["set_by"].as_str().unwrap_or_default(),
                    version["role"].as_str().unwrap_or("revoked"),
                )
            };
            let lines: Vec<String> = versions.iter().map(line).collect();
            let document = json!({ "name": name, "versions": versions });
            Ok(Outcome::new(lines.join("\n"), document))
        }
        Action::Token { file, minutes } => {
            let token = args.admin.key()?.session_token(minutes * 60)?;
            // Some clients send the file as it is, so it ends without a new line.
            files::write(file, Existing::Replace, 0o600, token.as_bytes())?;
            if file == Path::new("-") {
                return Ok(Outcome::silent());
            }
            let text = format!(
                "Wrote {} (readable by you alone): good for {minutes} minutes of requests to a broker whose \n\
                 configuration has [admin_tokens] reusable_minutes = {minutes} or more.",
                file.display()
            );
            let document = json!({ "token": file, "minutes": minutes });
            Ok(Outcome::new(text, document).next(format!(
                "kbs-client --url URL config --admin-token-file {} COMMAND",
                file.display()
            )))
        }
        Action::Revoke { name } => {
            block_on(args.admin.client()?.revoke_admin(name))??;
            Ok(Outcome::new(
                format!("Revoked {name}: the key's tokens are refused from now on."),
                json!({ "revoked": name }),
            )
            .next("strongroom admin list"))
        }
    }
}

fn keygen(file: &PathBuf, force: bool) -> anyhow::Result<Outcome> {
    let (private, public_pem) = strongroom_broker::admin_key_pair()?;
    let public = PathBuf::from(format!("{}.pub.pem", file.display()));
    write_pair(
        Existing::from_force(force),
        (file, private.as_bytes()),
        (&public, public_pem.as_bytes()),
    )?;
    let text = format!(
        "Wrote the private key to {} (readable by you alone)\nand the public key to {}.",
        file.display(),
        public.display()
    );
    Ok(
        Outcome::new(text, json!({ "private": file, "public": public })).next(format!(
            "strongroom admin add NAME --role ROLE --public-key {}",
            public.display()
        )),
    )
}

/// A line of the list.
fn line(admin: &AdminSummary) -> String {
    let since = match (&admin.set_by, admin.set_at) {
        (Some(by), Some(at)) => format!("{}  by {by}", moment(at)),
        _ => format!("in the {}", admin.source),
    };
    let key: String = admin.key.chars().take(16).collect();
    format!("{:<24} {:<8} key {key}  {since}", admin.name, admin.role)
}

const MAX_PEM: u64 = 4 * 1024;
