//! `strongroom guest pull`: an image, verified against the owner's policy, decrypted and unpacked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use strongroom_guest::config::{CdhConfig, Document as _};
use strongroom_guest::image::{
    Admitted, Devices, Document, Progress, PullOptions, PulledImage, pull,
};
use strongroom_guest::{Placement, Source};
use strongroom_wire::openpgp::Sha1;

use super::scratch::parse_bytes;
use crate::connect::{block_on, read_pem};
use crate::keys::GuestArgs;
use crate::outcome::Outcome;
use crate::progress;

/// Pull an image that the owner's policy lets run, and unpack it.
///
/// The policy is a containers policy.json; without one nothing may run. It is checked on every pull: signatures in
/// cosign's form (sigstoreSigned, by key) and GPG's (signedBy). Encrypted layers are opened with keys of the broker.
/// DEST gets the image's files in rootfs and what a runtime starts it with in config.json; on any failure, nothing.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image, such as registry.example.com/fraud/app:v1
    image: String,

    /// Where to unpack it: a folder that is new or empty. Plaintext of encrypted layers will lie there.
    dest: PathBuf,

    /// Which images may run: a policy.json, as kbs:///repository/type/tag or a file.
    #[arg(long, value_name = "URI|FILE")]
    policy: Option<String>,

    /// A data hub's cdh.toml, whose table `image` gives what the options here do not.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where GPG signatures lie (containers-registries.d): kbs:///repository/type/tag or a file.
    #[arg(long, value_name = "URI|FILE")]
    sigstore_config: Option<String>,

    #[command(flatten)]
    registry: RegistryArgs,

    /// Keep layers here for the next pull. They are verified again each time.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// How much the image's files may have together, unpacked [default: what fits there, at most 256G]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_image_size: Option<u64>,

    /// Let the plaintext of encrypted layers lie on a disk, where it outlives this machine.
    #[arg(long)]
    insecure_any_filesystem: bool,

    /// Let the image bring device nodes.
    #[arg(long)]
    allow_devices: bool,

    /// Accept GPG signatures over SHA-1, with which two texts can have one signature.
    #[arg(long)]
    insecure_sha1_signatures: bool,

    #[command(flatten)]
    guest: GuestArgs,
}

/// How registries are reached.
#[derive(clap::Args, Clone)]
pub(crate) struct RegistryArgs {
    /// Logins of registries, Docker's auth.json: kbs:///repository/type/tag or a file.
    #[arg(long, env = "REGISTRY_AUTH_FILE", value_name = "URI|FILE")]
    pub(crate) registry_credentials: Option<String>,

    /// Mirrors, blocked registries, and those without TLS (registries.conf): kbs:///repository/type/tag or a file.
    #[arg(long, value_name = "URI|FILE")]
    pub(crate) registries: Option<String>,

    /// Trust these certificates (PEM) of registries besides the machine's own authorities; may be repeated.
    #[arg(long, value_name = "PEM")]
    pub(crate) registry_cert: Vec<PathBuf>,
}

impl RegistryArgs {
    pub(crate) fn roots(&self) -> anyhow::Result<Vec<String>> {
        self.registry_cert
            .iter()
            .map(|path| read_pem(path))
            .collect()
    }
}

/// A document by its name, where one is named.
pub(crate) fn document(name: Option<&String>) -> anyhow::Result<Option<Document>> {
    Ok(name.map(|name| Document::named(name)).transpose()?)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut options = options(args)?;
    let bar = progress::bytes(Some(0))?;
    let shown = bar.clone();
    options.progress = Arc::new(move |event| match event {
        Progress::Verified { bytes, .. } => shown.set_length(bytes),
        Progress::Fetched(bytes) => shown.inc(bytes),
        _ => {}
    });
    let source = Source::Rest(args.guest.api()?);
    let pulled = block_on(pull(&args.image, &args.dest, &options, Some(&source)))??;
    bar.finish_and_clear();
    Ok(outcome(&pulled, &args.dest))
}

fn options(args: &Args) -> anyhow::Result<PullOptions> {
    let config = args.config.as_deref().map(CdhConfig::load).transpose()?;
    if let Some(read) = &config {
        for key in &read.unknown {
            tracing::warn!(
                key,
                "the data hub's configuration has a key that is not known here"
            );
        }
    }
    let image = config.map(|read| read.config.image).unwrap_or_default();
    let mut options = PullOptions::from_config(&image)?;
    if let Some(policy) = document(args.policy.as_ref()).context("--policy")? {
        options.policy = Some(policy);
    }
    if let Some(places) = document(args.sigstore_config.as_ref()).context("--sigstore-config")? {
        options.sigstore_config = Some(places);
    }
    let credentials = document(args.registry.registry_credentials.as_ref());
    if let Some(credentials) = credentials.context("--registry-credentials")? {
        options.credentials = Some(credentials);
    }
    if let Some(registries) = document(args.registry.registries.as_ref()).context("--registries")? {
        options.registries = Some(registries);
    }
    options.extra_roots.extend(args.registry.roots()?);
    options.cache = args.cache.clone().or(options.cache);
    if let Some(bytes) = args.max_image_size {
        options.limits.bytes = bytes;
    }
    if args.insecure_any_filesystem {
        options.placement = Placement::InsecureAnyFilesystem;
    }
    if args.allow_devices {
        options.devices = Devices::Allow;
    }
    if args.insecure_sha1_signatures {
        options.sha1 = Sha1::InsecureAccept;
    }
    Ok(options)
}

fn outcome(pulled: &PulledImage, dest: &Path) -> Outcome {
    let mut why: Vec<String> = Vec::new();
    let mut signed_by = Vec::new();
    for admitted in &pulled.admitted {
        match admitted {
            Admitted::CosignSignature(key) => {
                why.push(format!("signed by the key {}", short(key)));
                signed_by.push(json!({ "kind": "sigstoreSigned", "key_sha256": key }));
            }
            Admitted::GpgSignature(key) => {
                why.push(format!("signed by the GPG key {}", key.to_uppercase()));
                signed_by.push(json!({ "kind": "signedBy", "fingerprint": key }));
            }
            _ => why.push("anything may run there, signatures were not looked at".to_owned()),
        }
    }
    let (encrypted, layers) = pulled.encrypted_layers;
    let event = pulled.event();
    let text = format!(
        "Pulled {} ({}) into {}.\n  policy  {}\n  layers  {layers}, {encrypted} of them encrypted",
        pulled.reference,
        pulled.manifest_digest,
        dest.display(),
        why.join("; "),
    );
    Outcome::new(
        text,
        json!({
            "image": pulled.reference.to_string(),
            "manifest_digest": pulled.manifest_digest,
            "index_digest": pulled.index_digest,
            "rootfs": pulled.rootfs,
            "signed_by": signed_by,
            "layers": layers,
            "encrypted_layers": encrypted,
            "event": { "domain": event.domain, "operation": event.operation, "content": event.content },
        }),
    )
}

fn short(hex: &str) -> &str {
    hex.get(..16).unwrap_or(hex)
}

fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "write a size such as 500M or 20G".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn options_of(more: &[&str]) -> Result<PullOptions, String> {
        let line = Line::try_parse_from([&["pull", "image", "dest"], more].concat());
        options(&line.map_err(|error| error.to_string())?.args)
            .map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn option_whose_file_is_missing_is_not_named() {
        for option in [
            "--policy",
            "--sigstore-config",
            "--registry-credentials",
            "--registries",
        ] {
            let error = options_of(&[option, "no/file"]).unwrap_err();
            assert!(
                error.contains(option) && error.contains("no/file"),
                "{error}"
            );
        }
    }

    #[test]
    fn limits_and_places_are_not_taken_from_the_options() {
        let options = options_of(&["--max-image-size", "3M"]).unwrap();
        assert_eq!(options.limits.bytes, 3 << 20);
        assert_eq!(options.placement, Placement::MemoryOnly);
        let options = options_of(&["--insecure-any-filesystem"]).unwrap();
        assert_eq!(options.placement, Placement::InsecureAnyFilesystem);
        assert!(options_of(&["--max-image-size", "much"]).is_err());
    }
}
