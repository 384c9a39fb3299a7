//! `strongroom seal`: sealed secrets, with upstream's spelling accepted too.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde_json::json;
use strongroom_client::seal::{KeyPlace, seal_envelope, seal_vault};
use strongroom_wire::resource::ResourceUri;
use strongroom_wire::sealed_secret::SigningJwk;

use crate::files;
use crate::outcome::Outcome;

/// Make a sealed secret: a signed pointer to a broker's resource that may lie in the open, as in a Kubernetes Secret.
///
/// As a vault, the secret itself must be stored at the broker separately. As an envelope, it travels inside, under a
/// key of 32 bytes that the broker holds. The public half of the signing key must be stored at the URI that --kid
/// names.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Whether the secret lies at the broker or travels inside [default: vault].
    #[arg(value_enum, value_name = "TYPE")]
    kind: Option<Kind>,

    /// vault: the resource to point to, kbs:///repository/type/tag
    #[arg(short = 'r', long, value_name = "URI")]
    resource_uri: Option<ResourceUri>,

    /// envelope: the file to put inside, - for standard input.
    #[arg(short = 'f', long, alias = "file-path", value_name = "FILE")]
    file: Option<PathBuf>,

    /// envelope: where guests find the key around it, kbs:///repository/type/tag
    #[arg(short = 'k', long, value_name = "URI")]
    key_id: Option<ResourceUri>,

    /// envelope: that key (from `strongroom keygen`).
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// Who holds the secret, or the key around it: kbs
    #[arg(short = 'p', long, default_value = "kbs")]
    provider: String,

    /// Upstream's, which provider kbs has none of.
    #[arg(long, hide = true, value_name = "JSON")]
    provider_settings: Option<String>,

    /// Upstream's, which provider kbs has none of.
    #[arg(short = 'a', long, hide = true, value_name = "JSON")]
    annotations: Option<String>,

    /// The private key that signs (from `strongroom keygen --kind signing`).
    #[arg(long, alias = "signing-jwk-path", value_name = "JWK")]
    signing_key: PathBuf,

    /// Where guests find the public key: kbs:///repository/type/tag, or the name of a file in their folder of keys
    #[arg(
        long,
        alias = "signing-kid",
        value_name = "URI|NAME",
        default_value = "kbs:///default/signing-key/sealed"
    )]
    kid: KeyPlace,

    /// What upstream's tool is told of a cloud's key service.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    cloud: Vec<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Kind {
    /// A pointer to a resource of the broker
    Vault,
    /// The secret itself, under a key of the broker
    Envelope,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let provider = args.cloud.first().unwrap_or(&args.provider);
    if provider != "kbs" {
        bail!(
            "provider {provider:?} is not spoken here, only kbs: `strongroom seal vault --resource-uri URI` points to a \
             resource of the broker, `strongroom seal envelope --key-id URI --key FILE --file SECRET` carries the secret"
        );
    }
    for given in [&args.provider_settings, &args.annotations]
        .into_iter()
        .flatten()
    {
        let empty =
            serde_json::from_str(given).is_ok_and(|given: serde_json::Value| given == json!({}));
        if !empty {
            bail!("provider kbs has neither settings nor annotations: leave them out");
        }
    }
    let signing_key = SigningJwk::from_json(&files::read_limited(&args.signing_key, 64 * 1024)?)
        .with_context(|| format!("{} cannot sign", args.signing_key.display()))?;
    match args.kind {
        None | Some(Kind::Vault) => vault(args, &signing_key),
        Some(Kind::Envelope) => envelope(args, &signing_key),
    }
}

fn vault(args: &Args, signing_key: &SigningJwk) -> anyhow::Result<Outcome> {
    if args.file.is_some() || args.key.is_some() || args.key_id.is_some() {
        bail!("--file, --key and --key-id are an envelope's: `strongroom seal envelope`");
    }
    let uri = args
        .resource_uri
        .as_ref()
        .context("say what to point to: --resource-uri kbs:///repository/type/tag")?;
    let sealed = seal_vault(uri, signing_key, &args.kid)?;
    eprintln!(
        "The secret itself must be stored at the broker separately: strongroom resource put {} FILE",
        uri.to_resource_path()?
    );
    Ok(Outcome::new(
        sealed.clone(),
        json!({ "sealed": sealed, "resource": uri.to_string(), "kid": args.kid.to_string() }),
    ))
}

fn envelope(args: &Args, signing_key: &SigningJwk) -> anyhow::Result<Outcome> {
    if args.resource_uri.is_some() {
        bail!(
            "--resource-uri is a vault's: an envelope carries --file, and names the key around it by --key-id"
        );
    }
    let uri = args
        .key_id
        .as_ref()
        .context("say where guests find the key around it: --key-id kbs:///repository/type/tag")?;
    let key = args
        .key
        .as_ref()
        .context("the key around it is needed here, too: --key FILE (`strongroom keygen FILE`)")?;
    let file = args
        .file
        .as_ref()
        .context("say what to put inside: --file FILE, or - for standard input")?;
    if file == Path::new("-") && key == Path::new("-") {
        bail!("only one of --file and --key can be standard input");
    }
    let wrapping_key = files::read_limited(key, 64 * 1024)?;
    let secret = files::read_limited(file, MAX_SECRET)?;
    let sealed = seal_envelope(&secret, &wrapping_key, uri, signing_key, &args.kid)?;
    eprintln!(
        "The key around it must be stored at the broker: strongroom resource put {} {}",
        uri.to_resource_path()?,
        key.display()
    );
    Ok(Outcome::new(
        sealed.clone(),
        json!({ "sealed": sealed, "key": uri.to_string(), "kid": args.kid.to_string() }),
    ))
}

/// Sealed text is read up to 1 MiB, and base64 is laid around the secret twice.
const MAX_SECRET: u64 = 512 * 1024;
