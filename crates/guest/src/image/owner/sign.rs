//! Signing an image in cosign's form: a payload that names it, signed by a key, under the tag `sha256-<digest>.sig`.

use reqwest::Body;
use serde_json::json;
use strongroom_wire::image::digest::Digest;
use strongroom_wire::image::manifest::{Descriptor, Document, Manifest, media_type};
use strongroom_wire::image::reference::Reference;
use strongroom_wire::image::registries::Place;
use strongroom_wire::image::signing_key::{KeyError, SigningKey};
use strongroom_wire::image::simple_signing::Payload;

use super::super::error::ImageError;
use super::super::registry::Registry;
use super::{Access, Way};

/// What was signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signed {
    /// The image.
    pub reference: Reference,
    /// Its digest.
    pub digest: Digest,
    /// What the signature says that it is.
    pub identity: String,
    /// The digests that have a signature now: the image's, and those of the images in an index.
    pub signed: Vec<Digest>,
}

/// Signs an image of a registry: what its tag names now, and for an index each image in it, so that a verifier finds a
/// signature whichever of both it looks at. `identity` is what the signature states; by default the repository, as
/// cosign does.
///
/// # Errors
/// [`ImageError`] when the registry does not have it or does not take a signature.
pub async fn sign(
    reference: &Reference,
    key: &SigningKey,
    identity: Option<&str>,
    access: &Access,
) -> Result<Signed, ImageError> {
    let way = Way::open(access).await?;
    let place = way.place(reference.repository())?;
    let registry = way.registry.as_ref();
    let fetched = match reference.digest() {
        Some(digest) => registry.manifest_by_digest(&place, digest).await?,
        None => {
            registry
                .manifest(&place, reference.tag().unwrap_or("latest"))
                .await?
        }
    };
    let mut digests = vec![fetched.digest];
    let format = |source| ImageError::Format {
        image: reference.to_string(),
        source,
    };
    if let Document::Index(index) = Document::parse(&fetched.bytes).map_err(format)? {
        digests.extend(index.manifests.iter().map(|image| image.digest));
    }
    let identity = identity.map_or_else(|| reference.repository().to_string(), str::to_owned);
    for digest in &digests {
        sign_digest(registry, &place, digest, &identity, key).await?;
    }
    Ok(Signed {
        reference: reference.clone(),
        digest: fetched.digest,
        identity,
        signed: digests,
    })
}

async fn sign_digest(
    registry: &Registry,
    place: &Place,
    digest: &Digest,
    identity: &str,
    key: &SigningKey,
) -> Result<(), ImageError> {
    let failed = |source: KeyError| ImageError::Key {
        what: "the image could not be signed".to_owned(),
        source,
    };
    let payload = Payload {
        manifest_digest: *digest,
        docker_reference: identity.to_owned(),
        creator: None,
        timestamp: None,
    }
    .to_cosign_json();
    let mut layer = Descriptor::new(
        media_type::SIMPLE_SIGNING,
        Digest::sha256(&payload),
        payload.len() as u64,
    );
    layer
        .annotations
        .insert(SIGNATURE.to_owned(), key.sign(&payload).map_err(failed)?);

    let tag = format!("{}.sig", digest.to_string().replace(':', "-"));
    let mut layers = match registry.manifest(place, &tag).await {
        Ok(fetched) => match Document::parse(&fetched.bytes) {
            Ok(Document::Manifest(manifest)) => manifest.layers,
            // What is under the tag is no set of signatures; it makes way for one.
            _ => Vec::new(),
        },
        Err(ImageError::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error),
    };
    // One signature of a key over a payload is enough: its older one goes.
    let public = key.public_pem().map_err(failed)?;
    let verifier =
        strongroom_wire::image::signing_key::PublicKey::parse(public.as_bytes()).map_err(failed)?;
    layers.retain(|other| {
        let is_ours = other.digest == layer.digest
            && other
                .annotations
                .get(SIGNATURE)
                .is_some_and(|signature| verifier.verifies(&payload, signature));
        !is_ours
    });
    push(registry, place, &payload).await?;
    layers.push(layer);

    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.digest).collect();
    let config = json!({
        "architecture": "",
        "created": "0001-01-01T00:00:00Z",
        "history": layers.iter().map(|_| json!({ "created": "0001-01-01T00:00:00Z" })).collect::<Vec<_>>(),
        "os": "",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "config": {},
    })
    .to_string();
    push(registry, place, config.as_bytes()).await?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::new(
            media_type::OCI_CONFIG,
            Digest::sha256(config.as_bytes()),
            config.len() as u64,
        ),
        layers,
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|_| ImageError::Unusable("the signature cannot be written".to_owned()))?;
    registry
        .push_manifest(place, &tag, media_type::OCI_MANIFEST, &bytes)
        .await
}

async fn push(registry: &Registry, place: &Place, bytes: &[u8]) -> Result<(), ImageError> {
    let digest = Digest::sha256(bytes);
    registry
        .push_blob(place, &digest, bytes.len() as u64, || {
            Ok(Body::from(bytes.to_vec()))
        })
        .await
}

/// Where cosign writes a signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
