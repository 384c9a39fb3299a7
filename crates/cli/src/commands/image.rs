//! `strongroom image`: the owner's side of images, signed and encrypted before they go to a registry.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::json;
use strongroom_guest::image::owner::{Access, Location, encrypt, sign};
use strongroom_wire::image::key_provider::{self, WrapRequest};
use strongroom_wire::image::ocicrypt::Packet;
use strongroom_wire::image::reference::Reference;
use strongroom_wire::image::signing_key::SigningKey;
use strongroom_wire::resource::{ResourcePath, ResourceUri};
use zeroize::Zeroizing;

use crate::commands::guest::{RegistryArgs, document};
use crate::connect::block_on;
use crate::files;
use crate::keys::{GuestArgs, KeySource};
use crate::outcome::{self, Outcome};
use crate::progress;

/// Sign images and encrypt their layers, for guests that verify and open them.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Sign(SignArgs),
    Encrypt(Box<EncryptArgs>),
    Keyprovider(KeyproviderArgs),
}

/// Wrap and unwrap the keys of layers for skopeo and other programs of ocicrypt, as their key provider of the kind cmd
///
/// Name it in the file that OCICRYPT_KEYPROVIDER_CONFIG names: {"key-providers": {"attestation-agent": {"cmd": {"path":
/// "/usr/bin/strongroom", "args": ["image", "keyprovider"]}}}}. Then skopeo encrypts with --encryption-key
/// provider:attestation-agent:keypath=FILE::keyid=kbs:///repository/type/tag, the key being the file's, else the broker's
/// through the guest; it decrypts with --decryption-key provider:attestation-agent, with the broker's key.
#[derive(clap::Args)]
struct KeyproviderArgs {
    #[command(flatten)]
    guest: GuestArgs,
}

/// Sign an image in a registry with a key, so that cosign and policies with sigstoreSigned accept it
///
/// What the tag names now is signed by its digest, and for an image of several platforms each of them too. The
/// signature goes to the same repository, under the tag sha256-DIGEST.sig.
#[derive(clap::Args)]
struct SignArgs {
    /// The image, such as registry.example.com/fraud/app:v1
    image: String,

    /// The private key: a P-256 key, PEM (openssl ecparam -name prime256v1 -genkey -noout -out image.key).
    #[arg(long, value_name = "PEM")]
    key: PathBuf,

    /// What the signature says that the image is, name and tag [default: the repository, as cosign says it].
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,

    #[command(flatten)]
    registry: RegistryArgs,
}

/// Encrypt an image's layers to a key that the broker releases to attested guests only
///
/// The annotations are ocicrypt's, for the key provider attestation-agent: guests of Confidential Containers open them
/// too. Places are written as skopeo does: docker://REGISTRY/NAME:TAG or oci:FOLDER:TAG. Sign the image afterwards: an
/// encrypted layer is authentic, an encrypted image is not.
#[derive(clap::Args)]
struct EncryptArgs {
    /// The image as it is.
    from: Location,

    /// Where the encrypted image goes.
    to: Location,

    /// The key: a file with 32 raw bytes (strongroom keygen), the same that the broker has under --kid.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// The key's name in the broker, kbs:///repository/type/tag
    #[arg(long, value_name = "URI")]
    kid: KeySource,

    #[command(flatten)]
    registry: RegistryArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.action {
        Action::Sign(args) => run_sign(args),
        Action::Encrypt(args) => run_encrypt(args),
        Action::Keyprovider(args) => run_keyprovider(args),
    }
}

/// One request on standard input, one answer on standard output.
fn run_keyprovider(args: &KeyproviderArgs) -> anyhow::Result<Outcome> {
    let request = files::read_limited(Path::new("-"), MAX_REQUEST)?;
    let answer = match key_provider::is_wrap(&request) {
        true => wrap(&request, &args.guest)?,
        false => {
            let packet = key_provider::parse_unwrap(&request)?;
            let uri: ResourceUri = packet
                .kid
                .parse()
                .context("the layer's key is no resource of a broker")?;
            let key = args.guest.resource(&uri)?;
            let options = packet
                .open_with(&key)
                .with_context(|| format!("the layer's key {uri}"))?;
            key_provider::unwrapped(&options)
        }
    };
    outcome::standard_output_is_taken();
    let mut out = std::io::stdout().lock();
    out.write_all(&answer)?;
    out.flush()?;
    Ok(Outcome::silent())
}

fn wrap(request: &[u8], guest: &GuestArgs) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let asked = WrapRequest::parse(request)?;
    const FORM: &str = "write --encryption-key provider:attestation-agent:keypath=FILE::keyid=kbs:///repository/type/tag";
    if let Some(other) = asked.parameter("algorithm")
        && other != "A256GCM"
    {
        bail!("algorithm={other:?}: keys are wrapped by A256GCM");
    }
    let kid = asked.parameter("keyid").context(FORM)?;
    let uri: ResourceUri = kid
        .parse()
        .with_context(|| format!("keyid={kid:?}; {FORM}"))?;
    let key = match asked.parameter("keypath") {
        Some(path) => files::read_limited(Path::new(path), MAX_KEY)?,
        None => guest.resource(&uri)?,
    };
    let packet = Packet::wrap(&uri.to_string(), &key, &asked.options)
        .with_context(|| format!("the key {uri}"))?;
    Ok(key_provider::wrapped(&packet)?)
}

fn run_sign(args: &SignArgs) -> anyhow::Result<Outcome> {
    let name = args.image.strip_prefix("docker://").unwrap_or(&args.image);
    let image: Reference = name
        .parse()
        .with_context(|| format!("{name:?} names no image"))?;
    let pem = files::read_limited(&args.key, MAX_KEY)?;
    let key = SigningKey::parse_pem(&pem).with_context(|| args.key.display().to_string())?;
    if let Some(identity) = &args.identity {
        identity
            .parse::<Reference>()
            .with_context(|| format!("--identity {identity:?} names no image"))?;
    }
    let access = access(&args.registry)?;
    let signed = block_on(sign(
        &image.or_latest(),
        &key,
        args.identity.as_deref(),
        &access,
    ))??;
    let public = key.public_pem()?;
    let text = format!(
        "Signed {} ({}), as {}.\nA policy accepts it with {{\"type\": \"sigstoreSigned\", \"keyPath\": \"kbs:///default/image-key/public\"}}, \
         where the broker has this public key:\n{}",
        signed.reference,
        signed.digest,
        signed.identity,
        public.trim_end(),
    );
    let digests: Vec<String> = signed.signed.iter().map(ToString::to_string).collect();
    let document = json!({
        "image": signed.reference.to_string(),
        "digest": signed.digest,
        "identity": signed.identity,
        "signed": digests,
        "public_key": public,
    });
    let put = format!(
        "openssl pkey -in {} -pubout -out image.pub && strongroom resource put default/image-key/public image.pub",
        args.key.display()
    );
    Ok(Outcome::new(text, document).next(put))
}

fn run_encrypt(args: &EncryptArgs) -> anyhow::Result<Outcome> {
    let KeySource::Resource(uri) = &args.kid else {
        bail!(
            "--kid {} is no resource of a broker: write kbs:///repository/type/tag",
            args.kid
        );
    };
    let kid = &uri.to_resource_path()?;
    let key = files::read_limited(&args.key, MAX_KEY)?;
    if key.len() != 32 {
        bail!(
            "the key {} has {} bytes, not 32 raw ones: make one with `strongroom keygen`",
            args.key.display(),
            key.len()
        );
    }
    let access = access(&args.registry)?;
    let bar = progress::bytes(None)?;
    let shown = bar.clone();
    let on_bytes = Arc::new(move |bytes| shown.inc(bytes));
    let encrypted = block_on(encrypt(&args.from, &args.to, uri, &key, &access, on_bytes))??;
    bar.finish_and_clear();
    let mut text = format!(
        "Encrypted {} layers of {} to {}.\n  into    {}\n  digest  {}",
        encrypted.layers, args.from, uri, args.to, encrypted.digest
    );
    if encrypted.dropped > 0 {
        text += &format!(
            "\n{} attestations about the image as it was are not taken along: they name other digests.",
            encrypted.dropped
        );
    }
    let document = json!({
        "digest": encrypted.digest,
        "layers": encrypted.layers,
        "kid": uri.to_string(),
        "dropped": encrypted.dropped,
    });
    Ok(Outcome::new(text, document)
        .next(put_key(kid, &args.key))
        .next(next_step(&args.to)))
}

fn put_key(kid: &ResourcePath, key: &Path) -> String {
    format!("strongroom resource put {kid} {}", key.display())
}

fn next_step(to: &Location) -> String {
    match to {
        Location::Registry(reference) => {
            format!("strongroom image sign {reference} --key image.key")
        }
        Location::Layout { .. } => format!("skopeo copy {to} docker://REGISTRY/NAME:TAG"),
    }
}

fn access(args: &RegistryArgs) -> anyhow::Result<Access> {
    Ok(Access {
        credentials: document(args.registry_credentials.as_ref())?,
        registries: document(args.registries.as_ref())?,
        extra_roots: args.roots()?,
        ..Access::default()
    })
}

const MAX_KEY: u64 = 64 * 1024;
const MAX_REQUEST: u64 = 256 * 1024;
