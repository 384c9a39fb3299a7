//! `strongroom secret`: sealed secrets by the command lines of upstream's tool `secret`, so that old documents work.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;
use strongroom_wire::sealed_secret::SigningJwk;

use crate::commands::guest::UnsealArgs;
use crate::commands::{keygen, seal, unseal};
use crate::files::Existing;
use crate::outcome::Outcome;

/// Make and open sealed secrets by the command lines of upstream's tool.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Seal(Box<seal::Args>),
    Unseal(UnsealSecretArgs),
    Keygen(KeygenArgs),
}

/// Write what a sealed secret points to into FILE.unsealed, through a running guest.
#[derive(clap::Args)]
struct UnsealSecretArgs {
    /// The file with the sealed secret.
    #[arg(short = 'f', long, value_name = "SEALED")]
    file_path: PathBuf,

    #[command(flatten)]
    unsealing: UnsealArgs,
}

/// Make a key pair that signs sealed secrets: KID-private.json and KID-public.json.
#[derive(clap::Args)]
struct KeygenArgs {
    /// The key's name
    #[arg(long, default_value = "sealed-signing")]
    kid: String,

    /// The folder for both files
    #[arg(long, default_value = ".")]
    output_dir: PathBuf,
}

pub(crate) fn run(args: Args) -> anyhow::Result<Outcome> {
    match args.action {
        Action::Seal(args) => seal::run(&args),
        Action::Unseal(args) => {
            let mut output = args.file_path.clone().into_os_string();
            output.push(".unsealed");
            unseal::run(&unseal::Args {
                file: args.file_path,
                output: output.into(),
                force: false,
                unsealing: args.unsealing,
            })
        }
        Action::Keygen(args) => make_key(&args),
    }
}

fn make_key(args: &KeygenArgs) -> anyhow::Result<Outcome> {
    let file = |half: &str| {
        let name = format!("{}-{half}.json", args.kid);
        let names_a_file = Path::new(&name).file_name() == Some(name.as_ref());
        names_a_file.then(|| args.output_dir.join(name))
    };
    let (private, public) = file("private")
        .zip(file("public"))
        .context("--kid must be good for a file's name")?;
    let key = SigningJwk::generate()?;
    keygen::write_pair(
        Existing::Refuse,
        (&private, key.to_json(&args.kid).as_bytes()),
        (&public, key.public_json(&args.kid).as_bytes()),
    )?;
    Ok(Outcome::new(
        format!("Wrote {} and {}.", private.display(), public.display()),
        json!({ "private": private, "public": public }),
    )
    .next(format!(
        "strongroom resource put default/signing-key/sealed {}",
        public.display()
    )))
}
