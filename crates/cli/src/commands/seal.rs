//! `strongroom seal`: sealed secrets, with upstream's spelling accepted too.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use strongroom_client::seal::seal_vault;
use strongroom_wire::resource::ResourceUri;
use strongroom_wire::sealed_secret::SigningJwk;

use crate::files;
use crate::outcome::Outcome;

/// Make a sealed secret: a signed pointer to a broker's resource that may lie in the open, as in a Kubernetes Secret.
///
/// The secret itself must be stored at the broker separately, and so must the public half of the signing key, at
/// the URI that --kid names.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The word "vault", as upstream's tool wants it; may be left out.
    #[arg(value_parser = ["vault"], hide = true)]
    kind: Option<String>,

    /// The resource to point to: kbs:///repository/type/tag
    #[arg(short = 'r', long, value_name = "URI")]
    resource_uri: ResourceUri,

    /// Who holds the secret
    #[arg(short = 'p', long, default_value = "kbs", value_parser = ["kbs"])]
    provider: String,

    /// The private key that signs (from `strongroom keygen --kind signing`).
    #[arg(long, alias = "signing-jwk-path", value_name = "JWK")]
    signing_key: PathBuf,

    /// Where guests find the public key: kbs:///repository/type/tag
    #[arg(
        long,
        alias = "signing-kid",
        value_name = "URI",
        default_value = "kbs:///default/signing-key/sealed"
    )]
    kid: ResourceUri,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    args.resource_uri.to_resource_path()?;
    args.kid.to_resource_path()?;
    let key = SigningJwk::from_json(&files::read_limited(&args.signing_key, 64 * 1024)?)
        .with_context(|| format!("{} cannot sign", args.signing_key.display()))?;
    let sealed = seal_vault(&args.resource_uri, &key, &args.kid)?;
    eprintln!(
        "The secret itself must be stored at the broker separately: strongroom resource put {} FILE",
        args.resource_uri.to_resource_path()?
    );
    Ok(Outcome::new(
        sealed.clone(),
        json!({ "sealed": sealed, "resource": args.resource_uri.to_string(), "kid": args.kid.to_string() }),
    ))
}
