//! Encrypting an image's layers to a key that the broker holds, as ocicrypt's provider `attestation-agent` does.
//!
//! Each layer gets a key of its own, wrapped by the broker's in an annotation packet of version 2. Configuration and
//! order stay as they are; the manifest becomes an OCI one, since Docker's has no type for encrypted layers.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use reqwest::Body;
use strongroom_wire::image::digest::{Algorithm, Digest, Hasher};
use strongroom_wire::image::layer_cipher::Encryptor;
use strongroom_wire::image::manifest::{Descriptor, Document, LayerForm, Manifest, media_type};
use strongroom_wire::image::ocicrypt::{PROVIDER, PUBLIC_OPTIONS, Packet};
use strongroom_wire::resource::ResourceUri;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::super::blobs::{Blob, Blobs};
use super::super::error::ImageError;
use super::super::registry::Registry;
use super::layout::Layout;
use super::{Access, Location, Way};
use strongroom_wire::image::registries::Place;

/// What was encrypted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Encrypted {
    /// The digest of the image as it is now: of its manifest, or of the index.
    pub digest: Digest,
    /// How many layers were encrypted, of all images.
    pub layers: usize,
    /// What an index held besides images and lost: attestations about the images as they were.
    pub dropped: usize,
}

/// Encrypts the layers of an image on its way from one place to another. `kek` is the key of 32 bytes that the broker
/// holds under `kid`. `on_bytes` is told of each piece that has been encrypted.
///
/// # Errors
/// [`ImageError`] when the image cannot be read or written, is encrypted already, or the key is not one of 32 bytes.
pub async fn encrypt(
    from: &Location,
    to: &Location,
    kid: &ResourceUri,
    kek: &[u8],
    access: &Access,
    on_bytes: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<Encrypted, ImageError> {
    let way = Way::open(access).await?;
    let scratch =
        tempfile::tempdir().map_err(ImageError::io("cannot write in", std::env::temp_dir()))?;
    let from = End::open(from, &way, scratch.path())?;
    let to_end = End::open(to, &way, scratch.path())?;
    if let End::Layout(layout, _) = &to_end {
        layout.create()?;
    }
    let mut work = Work {
        from,
        to: to_end,
        kid: kid.to_string(),
        kek: Zeroizing::new(kek.to_vec()),
        scratch: scratch.path(),
        on_bytes,
        layers: 0,
        dropped: 0,
    };
    let top = work.from.top().await?;
    let bytes = match Document::parse(&top).map_err(|source| ImageError::Format {
        image: work.from.shown(),
        source,
    })? {
        Document::Manifest(manifest) => work.image(*manifest).await?,
        Document::Index(mut index) => {
            let mut images = Vec::new();
            for image in std::mem::take(&mut index.manifests) {
                let is_image = image
                    .platform
                    .as_ref()
                    .is_none_or(|platform| platform.os != "unknown");
                if !is_image {
                    work.dropped += 1;
                    continue;
                }
                let bytes = work.from.manifest(&image).await?;
                let format = |source| ImageError::Format {
                    image: work.from.shown(),
                    source,
                };
                let Document::Manifest(manifest) = Document::parse(&bytes).map_err(format)? else {
                    return Err(ImageError::Unusable(
                        "an index of indexes is not encrypted here".to_owned(),
                    ));
                };
                let bytes = work.image(*manifest).await?;
                let digest = Digest::sha256(&bytes);
                work.to
                    .put_manifest(Some(&digest), &bytes, media_type::OCI_MANIFEST)
                    .await?;
                images.push(Descriptor {
                    media_type: media_type::OCI_MANIFEST.to_owned(),
                    digest,
                    size: bytes.len() as u64,
                    ..image
                });
            }
            index.manifests = images;
            index.media_type = Some(media_type::OCI_INDEX.to_owned());
            json(&index)?
        }
        _ => {
            return Err(ImageError::Unusable(
                "this kind of image is not known".to_owned(),
            ));
        }
    };
    let digest = Digest::sha256(&bytes);
    let kind = match Document::parse(&bytes) {
        Ok(Document::Index(_)) => media_type::OCI_INDEX,
        _ => media_type::OCI_MANIFEST,
    };
    work.to.put_manifest(None, &bytes, kind).await?;
    Ok(Encrypted {
        digest,
        layers: work.layers,
        dropped: work.dropped,
    })
}

struct Work<'a> {
    from: End,
    to: End,
    kid: String,
    kek: Zeroizing<Vec<u8>>,
    scratch: &'a Path,
    on_bytes: Arc<dyn Fn(u64) + Send + Sync>,
    layers: usize,
    dropped: usize,
}

impl Work<'_> {
    /// Encrypts one image's layers; gives its new manifest.
    async fn image(&mut self, mut manifest: Manifest) -> Result<Vec<u8>, ImageError> {
        let config = self.from.small(&manifest.config).await?;
        self.to.put_small(&config).await?;
        for layer in &mut manifest.layers {
            *layer = self.layer(layer).await?;
            self.layers += 1;
        }
        manifest.media_type = Some(media_type::OCI_MANIFEST.to_owned());
        if manifest.config.media_type == media_type::DOCKER_CONFIG {
            media_type::OCI_CONFIG.clone_into(&mut manifest.config.media_type);
        }
        json(&manifest)
    }

    async fn layer(&self, layer: &Descriptor) -> Result<Descriptor, ImageError> {
        let form = LayerForm::of(&layer.media_type).ok_or_else(|| {
            ImageError::Unusable(format!(
                "{} is no layer: this is an artifact, not an image",
                layer.media_type
            ))
        })?;
        if form.encrypted {
            return Err(ImageError::Unusable(format!(
                "the layer {} is encrypted already",
                layer.digest
            )));
        }
        let blob = self.from.blob(layer).await?;
        let file = NamedTempFile::new_in(self.scratch)
            .map_err(ImageError::io("cannot write in", self.scratch))?;
        let (digest, on_bytes) = (layer.digest, Arc::clone(&self.on_bytes));
        let work =
            tokio::task::spawn_blocking(move || cipher(&blob, digest, file, on_bytes.as_ref()));
        let done = work
            .await
            .map_err(|_| ImageError::Unusable("the thread that encrypts ended".to_owned()))??;
        let packet = Packet::wrap(&self.kid, &self.kek, &done.private).map_err(|error| {
            ImageError::Unusable(format!("the layer's key cannot be wrapped: {error}"))
        })?;
        let annotation = packet.to_annotation().map_err(|error| {
            ImageError::Unusable(format!("the layer's key cannot be wrapped: {error}"))
        })?;
        let mut annotations = layer.annotations.clone();
        annotations.insert(PROVIDER.to_owned(), annotation);
        annotations.insert(PUBLIC_OPTIONS.to_owned(), done.public.to_annotation());
        self.to
            .put_file(done.file, &done.digest, done.length)
            .await?;
        Ok(Descriptor {
            annotations,
            ..Descriptor::new(
                LayerForm {
                    encrypted: true,
                    ..form
                }
                .media_type(),
                done.digest,
                done.length,
            )
        })
    }
}

/// An encrypted layer in a file.
struct Ciphered {
    file: NamedTempFile,
    digest: Digest,
    length: u64,
    public: strongroom_wire::image::ocicrypt::PublicOptions,
    private: strongroom_wire::image::ocicrypt::PrivateOptions,
}

fn cipher(
    blob: &Blob,
    plain: Digest,
    mut file: NamedTempFile,
    on_bytes: &(dyn Fn(u64) + Send + Sync),
) -> Result<Ciphered, ImageError> {
    let failed = |error: std::io::Error| {
        ImageError::Unusable(format!("the layer {plain} could not be encrypted: {error}"))
    };
    let broken = |error| failed(std::io::Error::other(error));
    let mut encryptor = Encryptor::new().map_err(broken)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut reader = blob.reader();
    let (mut buffer, mut ciphertext) = (vec![0; BUFFER], Vec::new());
    let mut length: u64 = 0;
    loop {
        let read = reader.read(&mut buffer).map_err(failed)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        encryptor.update(bytes, &mut ciphertext).map_err(broken)?;
        hasher.update(&ciphertext);
        file.write_all(&ciphertext).map_err(failed)?;
        length = length.saturating_add(ciphertext.len() as u64);
        on_bytes(read as u64);
    }
    let (public, private) = encryptor.finish(plain);
    Ok(Ciphered {
        file,
        digest: hasher.finish(),
        length,
        public,
        private,
    })
}

/// One end of the way.
enum End {
    Registry(Arc<Registry>, Place, String, Blobs),
    Layout(Layout, Option<String>),
}

impl End {
    fn open(location: &Location, way: &Way, scratch: &Path) -> Result<Self, ImageError> {
        match location {
            Location::Layout { folder, tag } => Ok(Self::Layout(Layout::open(folder), tag.clone())),
            Location::Registry(reference) => {
                let name = match reference.digest() {
                    Some(digest) => digest.to_string(),
                    None => reference.tag().unwrap_or("latest").to_owned(),
                };
                let place = way.place(reference.repository())?;
                Ok(Self::Registry(
                    Arc::clone(&way.registry),
                    place,
                    name,
                    Blobs::open(scratch)?,
                ))
            }
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Registry(_, place, name, _) => format!("{}:{name}", place.repository),
            Self::Layout(_, tag) => tag.clone().unwrap_or_default(),
        }
    }

    async fn top(&self) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry(registry, place, name, _) => match name.parse::<Digest>() {
                Ok(digest) => registry
                    .manifest_by_digest(place, &digest)
                    .await
                    .map(|fetched| fetched.bytes),
                Err(_) => registry
                    .manifest(place, name)
                    .await
                    .map(|fetched| fetched.bytes),
            },
            Self::Layout(layout, tag) => layout.small(&layout.find(tag.as_deref())?),
        }
    }

    async fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry(registry, place, ..) => registry
                .manifest_by_digest(place, &descriptor.digest)
                .await
                .map(|fetched| fetched.bytes),
            Self::Layout(layout, _) => layout.small(descriptor),
        }
    }

    async fn small(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        match self {
            Self::Registry(registry, place, ..) => {
                registry
                    .small_blob(
                        place,
                        descriptor,
                        "the image's configuration",
                        super::super::MAX_DOCUMENT,
                    )
                    .await
            }
            Self::Layout(layout, _) => layout.small(descriptor),
        }
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<Blob, ImageError> {
        match self {
            Self::Registry(registry, place, _, blobs) => {
                let what = format!("layer {}", descriptor.digest);
                registry
                    .blob(place, descriptor, &what, blobs, &|_| {})
                    .await
            }
            Self::Layout(layout, _) => layout.blob(descriptor),
        }
    }

    async fn put_small(&self, bytes: &[u8]) -> Result<(), ImageError> {
        match self {
            Self::Registry(registry, place, ..) => {
                let digest = Digest::sha256(bytes);
                registry
                    .push_blob(place, &digest, bytes.len() as u64, || {
                        Ok(Body::from(bytes.to_vec()))
                    })
                    .await
            }
            Self::Layout(layout, _) => layout.put(bytes),
        }
    }

    async fn put_file(
        &self,
        file: NamedTempFile,
        digest: &Digest,
        length: u64,
    ) -> Result<(), ImageError> {
        match self {
            Self::Registry(registry, place, ..) => {
                let body = || {
                    let reopened = file
                        .reopen()
                        .map_err(ImageError::io("cannot read", file.path()))?;
                    Ok(Body::from(tokio::fs::File::from_std(reopened)))
                };
                registry.push_blob(place, digest, length, body).await
            }
            Self::Layout(layout, _) => layout.take(file, digest),
        }
    }

    /// Writes a manifest: under its digest, or as the image that was asked for.
    async fn put_manifest(
        &self,
        digest: Option<&Digest>,
        bytes: &[u8],
        kind: &str,
    ) -> Result<(), ImageError> {
        match self {
            Self::Registry(registry, place, name, _) => {
                let name = digest.map_or_else(|| name.clone(), ToString::to_string);
                if digest.is_none() && name.parse::<Digest>().is_ok() {
                    return Err(ImageError::Unusable(
                        "the destination names a digest, and the encrypted image will have another: name a tag".to_owned(),
                    ));
                }
                registry.push_manifest(place, &name, kind, bytes).await
            }
            Self::Layout(layout, tag) => {
                layout.put(bytes)?;
                match digest {
                    Some(_) => Ok(()),
                    None => layout.name(
                        Descriptor::new(kind, Digest::sha256(bytes), bytes.len() as u64),
                        tag.as_deref(),
                    ),
                }
            }
        }
    }
}

fn json(document: &impl serde::Serialize) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(document)
        .map_err(|_| ImageError::Unusable("the manifest cannot be written".to_owned()))
}

const BUFFER: usize = 128 * 1024;
