//! Whether an image may run: the policy's requirements, checked against the signatures that a registry has.
//!
//! Every requirement of the deciding scope must be met, on each pull. A signature counts when a named key made it, it
//! is over this image's digest (its manifest's, or that of the index it was picked from), and it states a name that
//! `signedIdentity` accepts for the one that was asked for, never for a mirror's.

use std::path::Path;

use strongroom_wire::image::FormatError;
use strongroom_wire::image::digest::Digest;
use strongroom_wire::image::lookaside::Lookaside;
use strongroom_wire::image::manifest::{Document, Index, Manifest, media_type};
use strongroom_wire::image::reference::Reference;
use strongroom_wire::image::registries::Place;
use strongroom_wire::image::signing_key::PublicKey;
use strongroom_wire::image::simple_signing::Payload;
use strongroom_wire::image_policy::{KeySource, Policy, Requirement, SignedIdentity};
use strongroom_wire::openpgp::{Keyring, OpenPgpError, Sha1};
use zeroize::Zeroizing;

use super::error::ImageError;
use super::options::{fetch, is_resource, read_capped};
use super::registry::Registry;
use crate::data::resource::Source;

/// An image whose signatures are to be checked.
pub(crate) struct Candidate<'a> {
    /// As it was asked for.
    pub(crate) asked: &'a Reference,
    /// Where it was found.
    pub(crate) place: &'a Place,
    /// The digest of its manifest, and of the index it was picked from.
    pub(crate) digests: &'a [Digest],
}

/// What decides.
pub(crate) struct Verifier<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) lookaside: &'a Lookaside,
    pub(crate) registry: &'a Registry,
    pub(crate) source: Option<&'a Source>,
    pub(crate) sha1: Sha1,
    /// In seconds since 1970.
    pub(crate) now: u64,
}

/// How an image came to be allowed.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Admitted {
    /// The policy lets anything run there.
    Anything,
    /// By a signature, with the key that made it.
    GpgSignature(String),
    /// By a cosign-format signature, with the SHA-256 of the key that made it.
    CosignSignature(String),
}

impl Verifier<'_> {
    /// Refuses an image that the policy rejects whatever its signatures are, before anything is fetched.
    pub(crate) fn check_name(&self, asked: &Reference) -> Result<(), ImageError> {
        let (scope, requirements) = self.policy.requirements_for(asked);
        match requirements.contains(&Requirement::Reject) {
            true => Err(ImageError::Rejected {
                image: asked.to_string(),
                scope: scope.to_string(),
                reason: "the policy rejects every image there (reject)".to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// Checks every requirement.
    pub(crate) async fn verify(&self, image: &Candidate<'_>) -> Result<Vec<Admitted>, ImageError> {
        self.check_name(image.asked)?;
        let (scope, requirements) = self.policy.requirements_for(image.asked);
        let mut admitted = Vec::new();
        for requirement in requirements {
            let outcome = match requirement {
                Requirement::InsecureAcceptAnything => Ok(Admitted::Anything),
                Requirement::SigstoreSigned { keys, identity } => {
                    let keys = self.public_keys(keys).await?;
                    self.cosign(image, &keys, identity).await?
                }
                Requirement::SignedBy { keys, identity } => {
                    let keys = self.keyring(keys).await?;
                    self.simple_signing(image, &keys, identity).await?
                }
                _ => Err("the policy demands what is not known here".to_owned()),
            };
            admitted.push(outcome.map_err(|reason| ImageError::Rejected {
                image: image.asked.to_string(),
                scope: scope.to_string(),
                reason,
            })?);
        }
        match admitted.is_empty() {
            // A policy has no empty list; should one ever come to be, it lets nothing run.
            true => Err(ImageError::Rejected {
                image: image.asked.to_string(),
                scope: scope.to_string(),
                reason: "nothing is required there, so nothing is met".to_owned(),
            }),
            false => Ok(admitted),
        }
    }

    async fn cosign(
        &self,
        image: &Candidate<'_>,
        keys: &[PublicKey],
        identity: &SignedIdentity,
    ) -> Result<Result<Admitted, String>, ImageError> {
        let mut best = Failure::None;
        for digest in image.digests {
            let tag = format!("{}.sig", digest.to_string().replace(':', "-"));
            let tagged = match self.registry.manifest(image.place, &tag).await {
                Ok(fetched) => vec![fetched.bytes],
                Err(ImageError::NotFound { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            if let Some(admitted) = self
                .any_of(image, &tagged, keys, identity, &mut best)
                .await?
            {
                return Ok(Ok(admitted));
            }
            let (referring, has_bundle) = self.referring(image.place, digest).await?;
            if has_bundle {
                best = best.max(Failure::Bundle);
            }
            if let Some(admitted) = self
                .any_of(image, &referring, keys, identity, &mut best)
                .await?
            {
                return Ok(Ok(admitted));
            }
        }
        Ok(Err(best.cosign_text(image)))
    }

    /// The first of some sets of signatures in which one counts.
    async fn any_of(
        &self,
        image: &Candidate<'_>,
        documents: &[Vec<u8>],
        keys: &[PublicKey],
        identity: &SignedIdentity,
        best: &mut Failure,
    ) -> Result<Option<Admitted>, ImageError> {
        for bytes in documents {
            // A document that cannot be read is no signature; another may be.
            let Ok(Document::Manifest(manifest)) = Document::parse(bytes) else {
                continue;
            };
            let admitted = self
                .cosign_manifest(image, &manifest, keys, identity, best)
                .await?;
            if admitted.is_some() {
                return Ok(admitted);
            }
        }
        Ok(None)
    }

    /// The signatures that refer to a digest, and whether there is one in cosign 3's own form.
    async fn referring(
        &self,
        place: &Place,
        digest: &Digest,
    ) -> Result<(Vec<Vec<u8>>, bool), ImageError> {
        let Some(index) = self.registry.referrers(place, digest).await? else {
            return Ok((Vec::new(), false));
        };
        let Ok(Document::Index(index)) = Document::parse(&index) else {
            return Ok((Vec::new(), false));
        };
        let Index { manifests, .. } = *index;
        let is_kind =
            |kind: Option<&str>, wanted: &str| kind.is_some_and(|kind| kind.starts_with(wanted));
        let has_bundle = manifests.iter().any(|artifact| {
            is_kind(
                artifact.artifact_type.as_deref(),
                media_type::SIGSTORE_BUNDLE,
            )
        });
        let mut found = Vec::new();
        let signatures = manifests.iter().filter(|artifact| {
            is_kind(
                artifact.artifact_type.as_deref(),
                media_type::COSIGN_SIGNATURE,
            )
        });
        for artifact in signatures.take(MAX_SIGNATURES) {
            let fetched = self
                .registry
                .manifest_by_digest(place, &artifact.digest)
                .await?;
            found.push(fetched.bytes);
        }
        Ok((found, has_bundle))
    }

    async fn cosign_manifest(
        &self,
        image: &Candidate<'_>,
        manifest: &Manifest,
        keys: &[PublicKey],
        identity: &SignedIdentity,
        best: &mut Failure,
    ) -> Result<Option<Admitted>, ImageError> {
        let signatures = manifest
            .layers
            .iter()
            .filter(|layer| layer.media_type == media_type::SIMPLE_SIGNING)
            .take(MAX_SIGNATURES);
        for layer in signatures {
            let Some(signature) = layer.annotations.get(SIGNATURE) else {
                continue;
            };
            let payload = match self
                .registry
                .small_blob(image.place, layer, "signature's payload", MAX_PAYLOAD)
                .await
            {
                Ok(payload) => payload,
                Err(
                    ImageError::NotFound { .. }
                    | ImageError::Digest { .. }
                    | ImageError::Length { .. }
                    | ImageError::Unusable(_),
                ) => continue,
                Err(error) => return Err(error),
            };
            let Some(key) = keys.iter().find(|key| key.verifies(&payload, signature)) else {
                *best = std::mem::replace(best, Failure::None).max(Failure::Key);
                continue;
            };
            match check_payload(image, identity, &payload) {
                Ok(()) => return Ok(Some(Admitted::CosignSignature(key.fingerprint()))),
                Err(failure) => *best = std::mem::replace(best, Failure::None).max(failure),
            }
        }
        Ok(None)
    }

    async fn simple_signing(
        &self,
        image: &Candidate<'_>,
        keys: &Keyring,
        identity: &SignedIdentity,
    ) -> Result<Result<Admitted, String>, ImageError> {
        let mut best = Failure::None;
        if self.lookaside.base(image.asked).is_none() {
            return Ok(Err("a GPG signature is required, and nothing says where its signatures lie: give the guest a \
                           sigstore config (sigstore_config_uri) with default-docker or this registry"
                .to_owned()));
        }
        for digest in image.digests {
            for number in 1..=MAX_SIGNATURES {
                let Some(place) = self.lookaside.signature(image.asked, digest, number) else {
                    break;
                };
                let message = match place.strip_prefix("file://") {
                    Some(path) if Path::new(path).exists() => {
                        Some(read_capped(Path::new(path))?.to_vec())
                    }
                    Some(_) => None,
                    None => self.registry.signature(&place).await?,
                };
                let Some(message) = message else { break };
                let failure = match keys.verify(&message, self.now, self.sha1) {
                    Ok(signed) => match check_payload(image, identity, &signed.content) {
                        Ok(()) => return Ok(Ok(Admitted::GpgSignature(signed.fingerprint))),
                        Err(failure) => failure,
                    },
                    Err(error) => Failure::Gpg(error),
                };
                best = best.max(failure);
            }
        }
        Ok(Err(best.gpg_text(image)))
    }

    async fn public_keys(&self, sources: &[KeySource]) -> Result<Vec<PublicKey>, ImageError> {
        let mut keys = Vec::new();
        for source in sources {
            let bytes = self.key(source).await?;
            let key = PublicKey::parse(&bytes).map_err(|source_error| ImageError::Key {
                what: format!("the public key of the image policy {}", shown(source)),
                source: source_error,
            })?;
            keys.push(key);
        }
        Ok(keys)
    }

    async fn keyring(&self, sources: &[KeySource]) -> Result<Keyring, ImageError> {
        let mut keys = Keyring::default();
        for source in sources {
            let bytes = self.key(source).await?;
            let ring = Keyring::parse(&bytes).map_err(|error| ImageError::Document {
                what: "the GPG keys of the image policy",
                at: Some(shown(source)),
                source: FormatError::Invalid {
                    what: "keyring",
                    reason: error.to_string(),
                },
            })?;
            keys.extend(ring);
        }
        Ok(keys)
    }

    async fn key(&self, source: &KeySource) -> Result<Zeroizing<Vec<u8>>, ImageError> {
        match source {
            KeySource::Data(bytes) => Ok(Zeroizing::new(bytes.clone())),
            KeySource::Path(path) if is_resource(path) => {
                let uri = path.parse().map_err(|error| {
                    ImageError::Unusable(format!("keyPath {path:?} of the image policy: {error}"))
                })?;
                fetch("a key of the image policy", &uri, self.source).await
            }
            KeySource::Path(path) => {
                read_capped(Path::new(path.strip_prefix("file://").unwrap_or(path)))
            }
        }
    }
}

fn shown(source: &KeySource) -> String {
    match source {
        KeySource::Path(path) => path.clone(),
        KeySource::Data(_) => "(keyData)".to_owned(),
    }
}

/// What a signature that verified states, against what was asked for.
fn check_payload(
    image: &Candidate<'_>,
    identity: &SignedIdentity,
    payload: &[u8],
) -> Result<(), Failure> {
    let payload = Payload::parse(payload).map_err(|error| Failure::Payload(error.to_string()))?;
    if !image.digests.contains(&payload.manifest_digest) {
        return Err(Failure::OtherDigest(payload.manifest_digest));
    }
    identity
        .check(image.asked, &payload.docker_reference)
        .map_err(|error| Failure::Identity(error.to_string()))
}

/// Why no signature counts; of several, the one that came nearest.
#[derive(Debug)]
enum Failure {
    None,
    Bundle,
    Key,
    Gpg(OpenPgpError),
    Payload(String),
    OtherDigest(Digest),
    Identity(String),
}

impl Failure {
    fn rank(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Bundle => 1,
            Self::Key | Self::Gpg(OpenPgpError::UnknownKey(_)) => 2,
            Self::Gpg(_) => 3,
            Self::Payload(_) => 4,
            Self::OtherDigest(_) => 5,
            Self::Identity(_) => 6,
        }
    }

    fn max(self, other: Self) -> Self {
        match other.rank() >= self.rank() {
            true => other,
            false => self,
        }
    }

    fn cosign_text(&self, image: &Candidate<'_>) -> String {
        let digest = digests(image);
        match self {
            Self::None => format!(
                "a signature was required, but no signature exists for {digest}: the image was never signed, or was \
                 changed after it was (sign it with `strongroom image sign` or `cosign sign --key`)"
            ),
            Self::Bundle => format!(
                "no matching signatures: {digest} is signed in cosign 3's bundle form only, which is not read here; sign \
                 it with --new-bundle-format=false, or with `strongroom image sign`"
            ),
            Self::Key | Self::Gpg(_) => format!(
                "no matching signatures: {digest} is signed, but by none of the policy's keys (cryptographic signature verification failed)"
            ),
            other => other.common_text(&digest),
        }
    }

    fn gpg_text(&self, image: &Candidate<'_>) -> String {
        let digest = digests(image);
        match self {
            Self::None => format!(
                "a signature was required, but no signature exists for {digest} at the place of its signatures"
            ),
            Self::Gpg(error) => format!("no valid signature for {digest}: {error}"),
            other => other.common_text(&digest),
        }
    }

    fn common_text(&self, digest: &str) -> String {
        match self {
            Self::Payload(reason) => format!("the signature of {digest} signs no image: {reason}"),
            Self::OtherDigest(signed) => format!(
                "the signature found for {digest} is one of another manifest ({signed}): the manifest was changed, or the signature moved"
            ),
            Self::Identity(reason) => format!("match reference failed: {reason}"),
            other => format!("{other:?}"),
        }
    }
}

fn digests(image: &Candidate<'_>) -> String {
    let name = image.asked.repository();
    let all: Vec<String> = image
        .digests
        .iter()
        .map(|digest| format!("{name}@{digest}"))
        .collect();
    all.join(" or ")
}

/// Where cosign writes a signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const MAX_SIGNATURES: usize = 64;
const MAX_PAYLOAD: usize = 64 * 1024;
