//! `pull`: an image, verified against the owner's policy, decrypted, unpacked and measured.
//!
//! What was measured at launch wins: who starts a pull must not choose another policy than the one in the init-data.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use strongroom_attester::NoTee;
use strongroom_client::GuestApi;
use strongroom_wire::openpgp::Sha1;

use super::outcome::Outcome;
use super::scratch::parse_bytes;
use super::{AttestArgs, GuestArgs, block_on, files};
use crate::attestation::Measured;
use crate::config::{CdhConfig, Document as _, ImageConfig};
use crate::data::resource::Source;
use crate::image::{
    Admitted, Devices, Document, Progress, PullOptions, PulledImage, pull, pull_and_measure,
};
use crate::launch::Prepared;
use crate::placement::Placement;

/// Pull an image that the owner's policy lets run, and unpack it.
///
/// The policy is a containers policy.json; without one nothing may run. It is checked on every pull: signatures in
/// cosign's form (sigstoreSigned, by key) and GPG's (signedBy). Encrypted layers are opened with keys of the broker.
/// DEST gets the image's files in rootfs and what a runtime starts it with in config.json; on any failure, nothing.
/// Where the measured init-data has a cdh.toml, its table image decides, and options that say otherwise are refused.
/// The event log gets the image where aa.toml asks for one. Resources come from the guest at --guest; without that from
/// the broker that is named or measured, else from a guest at http://127.0.0.1:8006.
#[derive(clap::Args)]
pub struct Args {
    /// The image, such as registry.example.com/fraud/app:v1
    image: String,

    /// Where to unpack it: a folder that is new or empty. Plaintext of encrypted layers will lie there.
    dest: PathBuf,

    /// Which images may run: a policy.json, as kbs:///repository/type/tag or a file.
    #[arg(long, value_name = "URI|FILE")]
    policy: Option<String>,

    /// A data hub's cdh.toml, whose table `image` gives what the options here do not.
    #[arg(long, value_name = "FILE", conflicts_with = "cdh_config")]
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

    /// The running guest that fetches kbs:/// resources (see the command `run`).
    #[arg(long, env = "STRONGROOM_GUEST", value_name = "URL")]
    guest: Option<String>,

    /// The file with this container's token, for a guest that asks for one (`run --require-token`).
    #[arg(long, env = "STRONGROOM_GUEST_TOKEN_FILE", value_name = "FILE")]
    guest_token: Option<PathBuf>,

    #[command(flatten)]
    attest: AttestArgs,
}

/// How registries are reached.
#[derive(clap::Args, Clone)]
pub struct RegistryArgs {
    /// Logins of registries, Docker's auth.json: kbs:///repository/type/tag or a file.
    #[arg(long, env = "REGISTRY_AUTH_FILE", value_name = "URI|FILE")]
    pub registry_credentials: Option<String>,

    /// Mirrors, blocked registries, and those without TLS (registries.conf): kbs:///repository/type/tag or a file.
    #[arg(long, value_name = "URI|FILE")]
    pub registries: Option<String>,

    /// Trust these certificates (PEM) of registries besides the machine's own authorities; may be repeated.
    #[arg(long, value_name = "PEM")]
    pub registry_cert: Vec<PathBuf>,
}

impl RegistryArgs {
    /// The certificates.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn roots(&self) -> anyhow::Result<Vec<String>> {
        self.registry_cert
            .iter()
            .map(|path| files::read_text(path, MAX_PEM))
            .collect()
    }
}

/// A document by its name, where one is named.
///
/// # Errors
/// As [`Document::named`].
pub fn document(name: Option<&String>) -> anyhow::Result<Option<Document>> {
    Ok(name.map(|name| Document::named(name)).transpose()?)
}

impl Args {
    /// Pulls, `progress` being told what happens.
    ///
    /// # Errors
    /// When the policy does not let it run, or the image is not what was signed, or options contradict what was measured.
    pub fn run(&self, progress: Arc<dyn Fn(Progress) + Send + Sync>) -> anyhow::Result<Outcome> {
        let prepared = self.prepared()?;
        let mut options = match &prepared {
            Some(prepared) => self.options(&prepared.cdh.image, prepared.cdh_measured)?,
            None => self.options(&self.unmeasured()?, false)?,
        };
        options.progress = progress;
        let source = self.source(prepared.as_ref())?;
        let (image, dest) = (&self.image, &self.dest);
        let (pulled, measured) = block_on(async {
            anyhow::Ok(match &prepared {
                Some(Prepared { agent, .. }) => {
                    let (pulled, measured) =
                        pull_and_measure(agent, image, dest, &options, &source).await?;
                    (pulled, Some(measured))
                }
                None => (pull(image, dest, &options, Some(&source)).await?, None),
            })
        })??;
        Ok(outcome(&pulled, dest, measured))
    }

    /// What this machine was launched with; nothing, on a machine without a TEE when none was named.
    fn prepared(&self) -> anyhow::Result<Option<Prepared>> {
        let mut attest = self.attest.clone();
        attest.broker_is_optional = true;
        attest.cdh_config = attest.cdh_config.or_else(|| self.config.clone());
        match attest.prepared() {
            Ok(prepared) => Ok(Some(prepared)),
            Err(error) if error.downcast_ref().is_some_and(NoTee::is_nothing_there) => {
                // What is named needs a platform.
                let is_named = self.attest.initdata.is_some()
                    || (self.guest.is_none() && self.attest.names_a_broker());
                match is_named {
                    true => Err(error),
                    false => Ok(None),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn unmeasured(&self) -> anyhow::Result<ImageConfig> {
        let path = self.config.as_ref().or(self.attest.cdh_config.as_ref());
        let Some(read) = path.map(|path| CdhConfig::load(path)).transpose()? else {
            return Ok(ImageConfig::default());
        };
        for key in &read.unknown {
            tracing::warn!(
                key,
                "the data hub's configuration has a key that is not known here"
            );
        }
        Ok(read.config.image)
    }

    fn source(&self, prepared: Option<&Prepared>) -> anyhow::Result<Source> {
        if let (None, Some(prepared)) = (&self.guest, prepared)
            && prepared.agent.has_broker()
        {
            return Ok(Source::Agent(prepared.agent.clone()));
        }
        let url = self.guest.as_deref().unwrap_or(GuestApi::DEFAULT_URL);
        let guest = GuestArgs::new(url, self.guest_token.clone());
        Ok(Source::Rest(guest.api()?))
    }

    fn options(&self, image: &ImageConfig, measured: bool) -> anyhow::Result<PullOptions> {
        let mut options = PullOptions::from_config(image)?;
        let policy = document(self.policy.as_ref()).context("--policy")?;
        ensure!(
            !measured || policy.is_none() || policy == options.policy,
            contradicts("--policy")
        );
        options.policy = policy.or(options.policy);
        for (name, given, slot) in [
            (
                "--sigstore-config",
                &self.sigstore_config,
                &mut options.sigstore_config,
            ),
            (
                "--registry-credentials (or REGISTRY_AUTH_FILE)",
                &self.registry.registry_credentials,
                &mut options.credentials,
            ),
            (
                "--registries",
                &self.registry.registries,
                &mut options.registries,
            ),
        ] {
            let Some(given) = document(given.as_ref()).context(name)? else {
                continue;
            };
            if measured && slot.as_ref().is_some_and(|measured| *measured != given) {
                bail!(contradicts(name));
            }
            *slot = Some(given);
        }
        options.extra_roots.extend(self.registry.roots()?);
        if let Some(cache) = &self.cache {
            let other = options.cache.as_ref().is_some_and(|there| there != cache);
            ensure!(!(measured && other), contradicts("--cache"));
            options.cache = Some(cache.clone());
        }
        if let Some(bytes) = self.max_image_size {
            let other = image.max_image_size.is_some_and(|there| there != bytes);
            ensure!(!(measured && other), contradicts("--max-image-size"));
            options.limits.bytes = bytes;
        }
        if self.insecure_any_filesystem {
            let allowed = options.placement == Placement::InsecureAnyFilesystem;
            ensure!(
                !measured || allowed,
                contradicts("--insecure-any-filesystem")
            );
            options.placement = Placement::InsecureAnyFilesystem;
        }
        if self.allow_devices {
            let allowed = options.devices == Devices::Allow;
            ensure!(!measured || allowed, contradicts("--allow-devices"));
            options.devices = Devices::Allow;
        }
        if self.insecure_sha1_signatures {
            let accepted = options.sha1 == Sha1::InsecureAccept;
            ensure!(
                !measured || accepted,
                contradicts("--insecure-sha1-signatures")
            );
            options.sha1 = Sha1::InsecureAccept;
        }
        Ok(options)
    }
}

fn contradicts(option: &str) -> String {
    format!(
        "{option} says otherwise than the measured init-data, whose cdh.toml ([image]) is in force: leave it out"
    )
}

fn outcome(pulled: &PulledImage, dest: &Path, measured: Option<Measured>) -> Outcome {
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
    let (log, word) = match measured {
        Some(Measured::Done) => ("it has the image", "done"),
        Some(Measured::NotEnabled) => ("aa.toml asks for none", "not enabled"),
        Some(Measured::NotSupported) => ("the platform has no register for it", "not supported"),
        None => ("there is no platform here", "no platform"),
    };
    let text = format!(
        "Pulled {} ({}) into {}.\n  policy  {}\n  layers  {layers}, {encrypted} of them encrypted\n  events  {log}",
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
            "event": {
                "domain": event.domain,
                "operation": event.operation,
                "content": event.content,
                "measured": word,
            },
        }),
    )
}

fn short(hex: &str) -> &str {
    hex.get(..16).unwrap_or(hex)
}

fn size(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "write a size such as 500M or 20G".to_owned())
}

const MAX_PEM: u64 = 256 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        pull: Args,
    }

    fn options(arguments: &[&str], image: &str, measured: bool) -> Result<PullOptions, String> {
        let line = Line::try_parse_from([&["pull", "image", "dest"], arguments].concat());
        let line = line.map_err(|error| error.to_string())?;
        let image = CdhConfig::parse(image).unwrap().config.image;
        let options = line.pull.options(&image, measured);
        options.map_err(|error| format!("{error:#}"))
    }

    const MEASURED: &str = "[image]\nwork_dir = '/run/a'\nimage_security_policy_uri = 'kbs:///a/policy/a'\n\
                            sigstore_config_uri = 'kbs:///a/sigstore/a'\n\
                            authenticated_registry_credentials_uri = 'kbs:///a/credential/a'\n\
                            registry_configuration_uri = 'kbs:///a/registries/a'\n";

    /// Each option alone, as it contradicts and as it says the same.
    const OPTIONS: [(&str, &str, &str); 5] = [
        ("--policy", "kbs:///b/b/b", "kbs:///a/policy/a"),
        ("--sigstore-config", "kbs:///b/b/b", "kbs:///a/sigstore/a"),
        (
            "--registry-credentials",
            "kbs:///b/b/b",
            "kbs:///a/credential/a",
        ),
        ("--registries", "kbs:///b/b/b", "kbs:///a/registries/a"),
        ("--cache", "/run/b", "/run/a"),
    ];

    #[test]
    fn who_starts_a_pull_chooses_another_policy_than_the_measured_one() {
        for (name, other, same) in OPTIONS {
            let error = options(&[name, other], MEASURED, true).unwrap_err();
            assert!(
                error.contains(name) && error.contains("measured"),
                "{name}: {error}"
            );
            let kept = options(&[name, same], MEASURED, true).unwrap();
            let alone = options(&[], MEASURED, true).unwrap();
            assert_eq!(format!("{kept:?}"), format!("{alone:?}"));
            let file = options(&[name, other], MEASURED, false).unwrap();
            assert_ne!(format!("{file:?}"), format!("{alone:?}"), "{name}");
        }
        for name in [
            "--allow-devices",
            "--insecure-sha1-signatures",
            "--insecure-any-filesystem",
        ] {
            assert!(options(&[name], MEASURED, true).unwrap_err().contains(name));
            assert!(options(&[name], MEASURED, false).is_ok());
        }
        let loose = "[image]\nallow_devices = true\n";
        assert!(options(&["--allow-devices"], loose, true).is_ok());
        let loose = "[image]\ninsecure_any_filesystem = true\n";
        assert!(options(&["--insecure-any-filesystem"], loose, true).is_ok());
        let small = "[image]\nmax_image_size = 3145728\n";
        let error = options(&["--max-image-size", "4M"], small, true).unwrap_err();
        assert!(error.contains("--max-image-size"), "{error}");
        assert!(options(&["--max-image-size", "3M"], small, true).is_ok());
    }

    #[test]
    fn measured_silence_about_policies_lets_the_command_line_name_one() {
        let error = options(&["--policy", "kbs:///b/b/b"], "[image]\n", true).unwrap_err();
        assert!(error.contains("--policy"), "{error}");
    }

    #[test]
    fn option_whose_file_is_missing_is_not_named() {
        for option in [
            "--policy",
            "--sigstore-config",
            "--registry-credentials",
            "--registries",
        ] {
            let error = options(&[option, "no/file"], "", false).unwrap_err();
            assert!(
                error.contains(option) && error.contains("no/file"),
                "{error}"
            );
        }
    }

    #[test]
    fn limits_and_places_are_not_taken_from_the_options() {
        let large = options(&["--max-image-size", "3M"], "", false).unwrap();
        assert_eq!(large.limits.bytes, 3 << 20);
        assert_eq!(large.placement, Placement::MemoryOnly);
        let anywhere = options(&["--insecure-any-filesystem"], "", false).unwrap();
        assert_eq!(anywhere.placement, Placement::InsecureAnyFilesystem);
        assert!(options(&["--max-image-size", "much"], "", false).is_err());
    }
}
