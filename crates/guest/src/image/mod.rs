//! Images: pulled from a registry, checked against the owner's policy, decrypted with the broker's keys, unpacked.
//!
//! [`pull`] verifies on every call, whatever is in the cache: the cache knows blobs by digest and nothing else. Nothing
//! of an image is decompressed before its digest is right, and nothing decrypted before its MAC is.
//! The owner's side, [`owner`], signs and encrypts.

mod blobs;
mod bundle;
mod destination;
mod error;
pub(crate) mod fuzzing;
mod layer;
mod measured;
mod options;
pub mod owner;
mod registry;
mod tar;
mod unpack;
mod verify;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use strongroom_wire::image::FormatError;
use strongroom_wire::image::credentials::Credentials;
use strongroom_wire::image::digest::Digest;
use strongroom_wire::image::lookaside::Lookaside;
use strongroom_wire::image::manifest::{
    Descriptor, Document as OciDocument, ImageConfig, MAX_DOCUMENT, Manifest,
};
use strongroom_wire::image::reference::Reference;
use strongroom_wire::image::registries::{Place, Registries};
use strongroom_wire::image_policy::Policy;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::data::resource::Source;
use crate::placement::{Placement, is_private};
use blobs::{Blob, Blobs};
use destination::Destination;
use layer::Opening;
use registry::Registry;
use unpack::Unpacker;
use verify::{Candidate, Verifier};

pub use error::{ImageError, LayerError};
pub use layer::unwrap_key;
pub use measured::{MeasuredPullError, pull_and_measure};
pub use options::{Document, Progress, PullOptions};
pub use registry::Proxies;
pub use unpack::{Devices, Limits};
pub use verify::Admitted;

/// An image that was pulled.
#[derive(Clone, Debug)]
pub struct PulledImage {
    /// As it was asked for.
    pub asked: String,
    /// In its long form.
    pub reference: Reference,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    /// The digest of the index that it was picked from.
    pub index_digest: Option<Digest>,
    /// How it came to be allowed, one entry for each requirement of the policy.
    pub admitted: Vec<Admitted>,
    /// What it starts with.
    pub config: ImageConfig,
    /// How many of its layers were encrypted, of how many.
    pub encrypted_layers: (usize, usize),
    /// Where its files are.
    pub rootfs: PathBuf,
}

/// What the attestation agent measures of a pull (`ExtendRuntimeMeasurement`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PullEvent {
    /// Whose word it is.
    pub domain: &'static str,
    /// What was done.
    pub operation: &'static str,
    /// To what.
    pub content: String,
}

impl PulledImage {
    /// The event of this pull, as guest-components writes it.
    pub fn event(&self) -> PullEvent {
        PullEvent {
            domain: "github.com/confidential-containers",
            operation: "PullImage",
            // Its spaces are part of what others compare; a name that parsed has no character to escape.
            content: format!(
                r#"{{"image":"{}", "digest":"{}"}}"#,
                self.asked, self.manifest_digest
            ),
        }
    }
}

/// Pulls an image into `dest`, a folder that is new or empty: its files into `rootfs`, what a runtime starts it with into
/// `config.json`. On failure nothing is left there.
///
/// # Errors
/// [`ImageError`]: the policy rejects it, the registry does not have it, or a byte of it is not what was signed.
pub async fn pull(
    image: &str,
    dest: &Path,
    options: &PullOptions,
    source: Option<&Source>,
) -> Result<PulledImage, ImageError> {
    let asked = parse(image)?.or_latest();
    let (policy, lookaside, registries) = decisions(&asked, options, source).await?;
    let registry = {
        let credentials = read_credentials(options.credentials.as_ref(), source).await?;
        Arc::new(Registry::new(
            credentials,
            &options.extra_roots,
            &options.proxies,
        )?)
    };
    let verifier = Verifier {
        policy: &policy,
        lookaside: &lookaside,
        registry: &registry,
        source,
        sha1: options.sha1,
        now: now(),
    };
    verifier.check_name(&asked)?;
    let found = resolve(&asked, &registries, &registry, options).await?;
    let admitted = verifier
        .verify(&Candidate {
            asked: &asked,
            place: &found.place,
            digests: &found.digests(),
        })
        .await?;
    let config = image_config(&asked, &found, &registry).await?;
    let new = Destination::prepare(dest)?;
    let encrypted = fetch_and_unpack(&found, &config, &registry, dest, options, source).await?;
    let json = bundle::runtime_config(&config).to_string();
    let path = dest.join("config.json");
    // New, so that no link is followed that somebody else put there meanwhile.
    File::create_new(&path)
        .and_then(|mut file| file.write_all(json.as_bytes()))
        .map_err(ImageError::io("cannot write", &path))?;
    let rootfs = dest.join(bundle::ROOT);
    new.keep();
    Ok(PulledImage {
        asked: image.to_owned(),
        reference: asked,
        manifest_digest: found.manifest_digest,
        index_digest: found.index_digest,
        admitted,
        encrypted_layers: (encrypted, found.manifest.layers.len()),
        config,
        rootfs,
    })
}

fn parse(image: &str) -> Result<Reference, ImageError> {
    image.parse().map_err(|reason| ImageError::Reference {
        given: image
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect(),
        reason,
    })
}

/// What decides about images; without a policy nothing runs.
async fn decisions(
    asked: &Reference,
    options: &PullOptions,
    source: Option<&Source>,
) -> Result<(Policy, Lookaside, Registries), ImageError> {
    let policy = options
        .policy
        .as_ref()
        .ok_or_else(|| ImageError::NoPolicy {
            image: asked.to_string(),
        })?;
    let bytes = policy.read("the image policy", source).await?;
    let policy = Policy::parse(&bytes).map_err(document("the image policy", policy))?;
    let lookaside = match &options.sigstore_config {
        None => Lookaside::default(),
        Some(place) => {
            let what = "the places of signatures";
            let bytes = place.read(what, source).await?;
            text(&bytes)
                .and_then(Lookaside::parse)
                .map_err(document(what, place))?
        }
    };
    let registries = read_registries(options.registries.as_ref(), source).await?;
    Ok((policy, lookaside, registries))
}

async fn read_registries(
    place: Option<&Document>,
    source: Option<&Source>,
) -> Result<Registries, ImageError> {
    let what = "the configuration of registries";
    let Some(place) = place else {
        return Ok(Registries::default());
    };
    let bytes = place.read(what, source).await?;
    let registries = text(&bytes)
        .and_then(Registries::parse)
        .map_err(document(what, place))?;
    for member in registries.ignored() {
        tracing::warn!(
            member,
            "the configuration of registries has a member that is not followed here"
        );
    }
    Ok(registries)
}

async fn read_credentials(
    place: Option<&Document>,
    source: Option<&Source>,
) -> Result<Credentials, ImageError> {
    let what = "the registry credentials";
    match place {
        None => Ok(Credentials::none()),
        Some(place) => {
            let bytes = place.read(what, source).await?;
            Credentials::parse(&bytes).map_err(document(what, place))
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, FormatError> {
    std::str::from_utf8(bytes).map_err(|_| FormatError::Invalid {
        what: "document",
        reason: "it is not UTF-8".to_owned(),
    })
}

fn document(what: &'static str, place: &Document) -> impl FnOnce(FormatError) -> ImageError {
    let at = place.place();
    move |source| ImageError::Document { what, at, source }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// An image, found in a registry.
pub(crate) struct Found {
    pub(crate) place: Place,
    pub(crate) manifest: Manifest,
    pub(crate) manifest_digest: Digest,
    pub(crate) index_digest: Option<Digest>,
}

impl Found {
    fn digests(&self) -> Vec<Digest> {
        std::iter::once(self.manifest_digest)
            .chain(self.index_digest)
            .collect()
    }
}

/// Looks for an image in the places where it may be, mirrors first.
async fn resolve(
    asked: &Reference,
    registries: &Registries,
    registry: &Registry,
    options: &PullOptions,
) -> Result<Found, ImageError> {
    let places = registries
        .places(asked.repository())
        .map_err(|source| ImageError::Document {
            what: "the configuration of registries",
            at: None,
            source,
        })?;
    let mut failures = Vec::new();
    for place in places {
        match resolve_at(asked, place, registry, options).await {
            Ok(found) => return Ok(found),
            Err(error) => failures.push(error),
        }
    }
    match failures.len() {
        1 => Err(failures.remove(0)),
        _ => Err(ImageError::NoPlace {
            image: asked.to_string(),
            reasons: failures.iter().map(ToString::to_string).collect(),
        }),
    }
}

async fn resolve_at(
    asked: &Reference,
    place: Place,
    registry: &Registry,
    options: &PullOptions,
) -> Result<Found, ImageError> {
    let fetched = match asked.digest() {
        Some(digest) => registry.manifest_by_digest(&place, digest).await?,
        None => {
            registry
                .manifest(&place, asked.tag().unwrap_or("latest"))
                .await?
        }
    };
    let format = |source| ImageError::Format {
        image: asked.to_string(),
        source,
    };
    let index = match OciDocument::parse(&fetched.bytes).map_err(format)? {
        OciDocument::Manifest(manifest) => {
            return Ok(Found {
                place,
                manifest: *manifest,
                manifest_digest: fetched.digest,
                index_digest: None,
            });
        }
        OciDocument::Index(index) => index,
        _ => {
            return Err(ImageError::Unusable(format!(
                "image {asked} is of a kind that is not known"
            )));
        }
    };
    let wanted = &options.platform;
    let picked = index
        .for_platform(wanted)
        .ok_or_else(|| ImageError::Platform {
            image: asked.to_string(),
            wanted: format!("{}/{}", wanted.os, wanted.architecture),
            has: index.platforms().join(", "),
        })?;
    let inner = registry.manifest_by_digest(&place, &picked.digest).await?;
    if inner.bytes.len() as u64 != picked.size {
        return Err(ImageError::Length {
            what: format!("the manifest of {asked}"),
            expected: picked.size,
            actual: inner.bytes.len() as u64,
        });
    }
    match OciDocument::parse(&inner.bytes).map_err(format)? {
        OciDocument::Manifest(manifest) => Ok(Found {
            place,
            manifest: *manifest,
            manifest_digest: inner.digest,
            index_digest: Some(fetched.digest),
        }),
        _ => Err(ImageError::Unusable(format!(
            "image {asked} is an index of indexes, which is not read here"
        ))),
    }
}

async fn image_config(
    asked: &Reference,
    found: &Found,
    registry: &Registry,
) -> Result<ImageConfig, ImageError> {
    let bytes = registry
        .small_blob(
            &found.place,
            &found.manifest.config,
            "the image's configuration",
            MAX_DOCUMENT,
        )
        .await?;
    let config = ImageConfig::parse(&bytes).map_err(|source| ImageError::Format {
        image: asked.to_string(),
        source,
    })?;
    let (layers, diff_ids) = (found.manifest.layers.len(), config.rootfs.diff_ids.len());
    match layers == diff_ids {
        true => Ok(config),
        false => Err(ImageError::Unusable(format!(
            "image {asked} has {layers} layers, and its configuration knows {diff_ids}: it is an artifact, or damaged"
        ))),
    }
}

/// Fetches the layers side by side and unpacks each as soon as those below it are unpacked. Gives how many were encrypted.
async fn fetch_and_unpack(
    found: &Found,
    config: &ImageConfig,
    registry: &Arc<Registry>,
    dest: &Path,
    options: &PullOptions,
    source: Option<&Source>,
) -> Result<usize, ImageError> {
    let layers = &found.manifest.layers;
    let total = layers
        .iter()
        .fold(0_u64, |all, layer| all.saturating_add(layer.size));
    (options.progress)(Progress::Verified {
        layers: layers.len(),
        bytes: total,
    });
    // Keys first: an image that cannot be opened is not worth its bytes.
    let mut openings = Vec::new();
    let mut encrypted = 0;
    for (number, layer) in (1..).zip(layers) {
        let opening = Opening::of(layer, source)
            .await
            .map_err(|error| ImageError::layer(number, &layer.digest, error))?;
        encrypted += usize::from(opening.is_encrypted());
        openings.push(opening);
    }
    check_place(dest, encrypted > 0, options.placement)?;
    // Without a cache the layers lie beside the files, and go with this folder.
    let temporary = match &options.cache {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix(".layers-")
                .tempdir_in(dest)
                .map_err(ImageError::io("cannot write in", dest))?,
        ),
    };
    let blobs = match (&options.cache, &temporary) {
        (Some(cache), _) => Blobs::open(cache)?,
        (None, Some(temporary)) => Blobs::temporary(temporary.path()),
        (None, None) => Blobs::temporary(dest),
    };
    let blobs = Arc::new(blobs);
    let rootfs = dest.join(bundle::ROOT);
    std::fs::create_dir(&rootfs).map_err(ImageError::io("cannot make the folder", &rootfs))?;
    let limits = options
        .limits
        .within(&rootfs)
        .map_err(ImageError::io("cannot see how much room is in", &rootfs))?;
    let mut unpacker = Unpacker::new(&rootfs, limits, options.devices)
        .map_err(|error| ImageError::Unusable(format!("{}: {error}", rootfs.display())))?;

    let concurrency = options.concurrency.clamp(1, MAX_CONCURRENCY);
    let permits = Arc::new(Semaphore::new(concurrency));
    // Dropped with this function, which ends what is still running.
    let mut fetches = JoinSet::new();
    let fetch = |fetches: &mut JoinSet<_>, number: usize, layer: Descriptor| {
        let (permits, blobs, registry) = (
            Arc::clone(&permits),
            Arc::clone(&blobs),
            Arc::clone(registry),
        );
        let (place, progress) = (found.place.clone(), Arc::clone(&options.progress));
        fetches.spawn(async move {
            // Never closed; should it be, nothing is limited.
            let _permit = permits.acquire().await.ok();
            let what = format!("layer {number} ({})", layer.digest);
            let (cached, wanted) = (Arc::clone(&blobs), layer.clone());
            if let Ok(Some(blob)) = tokio::task::spawn_blocking(move || cached.find(&wanted)).await
            {
                progress(Progress::Fetched(layer.size));
                return Ok((number, blob));
            }
            let on_bytes = |bytes| progress(Progress::Fetched(bytes));
            let blob = registry
                .blob(&place, &layer, &what, &blobs, &on_bytes)
                .await?;
            Ok::<_, ImageError>((number, blob))
        });
    };
    let mut waiting = (1_usize..).zip(layers.iter().cloned()).peekable();
    let mut here: BTreeMap<usize, Blob> = BTreeMap::new();
    let parts = layers.iter().zip(openings).zip(&config.rootfs.diff_ids);
    for (number, ((layer, opening), diff_id)) in (1_usize..).zip(parts) {
        // Downloads that run ahead of unpacking would fill the place with layers.
        let ahead = number.saturating_add(concurrency.saturating_mul(2));
        while let Some((next, layer)) = waiting.next_if(|(next, _)| *next < ahead) {
            fetch(&mut fetches, next, layer);
        }
        let blob = loop {
            if let Some(blob) = here.remove(&number) {
                break blob;
            }
            let ended =
                || ImageError::Unusable("a layer's download ended without a word".to_owned());
            let (number, blob) = fetches
                .join_next()
                .await
                .ok_or_else(ended)?
                .map_err(|_| ended())??;
            here.insert(number, blob);
        };
        let diff_id = *diff_id;
        let unpacked = tokio::task::spawn_blocking(move || {
            opening
                .unpack(&blob, &diff_id, &mut unpacker)
                .map(|()| unpacker)
        });
        unpacker = unpacked
            .await
            .map_err(|_| ImageError::Unusable("the thread that unpacks layers ended".to_owned()))?
            .map_err(|error| ImageError::layer(number, &layer.digest, error))?;
        (options.progress)(Progress::Unpacked);
    }
    unpacker
        .finish()
        .map_err(|error| ImageError::Unusable(format!("{}: {error}", rootfs.display())))?;
    Ok(encrypted)
}

/// Verified files on a disk of the host's can be changed afterwards, and plaintext there stays.
fn check_place(dest: &Path, is_encrypted: bool, placement: Placement) -> Result<(), ImageError> {
    let at = File::open(dest).map_err(ImageError::io("cannot open the folder", dest))?;
    let is_private = is_private(&at).map_err(ImageError::io("cannot look at", dest))?;
    match (is_private, is_encrypted, placement) {
        (true, ..) => {}
        (false, true, Placement::MemoryOnly) => {
            return Err(ImageError::NotPrivate {
                path: dest.to_owned(),
            });
        }
        _ => tracing::warn!(
            path = %dest.display(),
            "the image's files lie on a disk that is not encrypted here: whoever has the disk reads them, and can change them \
             after they were verified"
        ),
    }
    Ok(())
}

const MAX_CONCURRENCY: usize = 16;
