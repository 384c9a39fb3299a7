//! What can go wrong with an image. Texts name the image, the cause and the next step.

use std::path::PathBuf;

use strongroom_client::ClientError;
use strongroom_wire::image::FormatError;
use strongroom_wire::image::digest::Digest;
use strongroom_wire::image::layer_cipher::LayerCipherError;
use strongroom_wire::image::ocicrypt::WrapError;
use strongroom_wire::image::reference::ReferenceError;
use strongroom_wire::image::signing_key::KeyError;

/// Why an image is not pulled, signed or encrypted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The name.
    #[error("{given:?} names no image: {reason}")]
    Reference {
        /// What was given.
        given: String,
        /// Why not.
        reason: ReferenceError,
    },
    /// No policy.
    #[error(
        "image {image} is rejected: no image policy is set, and without one nothing may run; store one in the broker \
         (strongroom resource put default/security-policy/image --file policy.json) and name it, \
         --policy kbs:///default/security-policy/image"
    )]
    NoPolicy {
        /// The image.
        image: String,
    },
    /// The policy says no.
    #[error("image {image} is rejected by the image policy ({scope}): {reason}")]
    Rejected {
        /// The image.
        image: String,
        /// The part of the policy that decided.
        scope: String,
        /// Why.
        reason: String,
    },
    /// A document of the owner's that decides about images.
    #[error("{what}{}: {source}", at.as_ref().map(|at| format!(" ({at})")).unwrap_or_default())]
    Document {
        /// Which.
        what: &'static str,
        /// Where it was read.
        at: Option<String>,
        /// Why.
        source: FormatError,
    },
    /// Such a document, or a key, could not be fetched from the broker.
    #[error("{what} ({uri}) is not to be had from the broker: {source}")]
    Broker {
        /// Which.
        what: String,
        /// Its name.
        uri: String,
        /// Why.
        source: Box<ClientError>,
    },
    /// It is in the broker, and there is no way to one.
    #[error(
        "{what} is {uri}, and no broker was named to fetch it from: use --guest URL, or --broker URL"
    )]
    NoBroker {
        /// Which.
        what: String,
        /// Its name.
        uri: String,
    },
    /// The registry, or the way to it.
    #[error("registry {registry}: {doing}: {reason}")]
    Registry {
        /// Its domain.
        registry: String,
        /// What was asked.
        doing: String,
        /// What came of it.
        reason: String,
    },
    /// The registry does not have it.
    #[error("registry {registry} has no {what}")]
    NotFound {
        /// Its domain.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// The registry does not let us.
    #[error(
        "registry {registry} refuses {what} (HTTP {status}{}): {login}",
        if detail.is_empty() { String::new() } else { format!(", {detail}") }
    )]
    Unauthorized {
        /// Its domain.
        registry: String,
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// Its words.
        detail: String,
        /// Whether there was a login.
        login: &'static str,
    },
    /// Plaintext of encrypted layers would lie on a disk.
    #[error(
        "{} lies on a disk or network file system, where the plaintext of this encrypted image would stay: unpack it on \
         tmpfs or on encrypted scratch space (strongroom guest scratch), or allow this place with \
         --insecure-any-filesystem (cdh.toml: image.insecure_any_filesystem = true)",
        path.display()
    )]
    NotPrivate {
        /// The place.
        path: PathBuf,
    },
    /// Every place was tried.
    #[error("image {image} could not be fetched: {}", reasons.join("; "))]
    NoPlace {
        /// The image.
        image: String,
        /// What each said.
        reasons: Vec<String>,
    },
    /// Not the bytes that were asked for.
    #[error(
        "{what} is not what its digest says: expected {expected}, got {actual}; it was changed in the registry, in the cache or on the way"
    )]
    Digest {
        /// What.
        what: String,
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// Fewer or more bytes than stated.
    #[error("{what} is {}: its manifest says {expected} bytes, and {actual} came", if actual < expected { "truncated" } else { "too long" })]
    Length {
        /// What.
        what: String,
        /// As the manifest has it.
        expected: u64,
        /// As it came.
        actual: u64,
    },
    /// A manifest or configuration.
    #[error("image {image}: {source}")]
    Format {
        /// The image.
        image: String,
        /// Why.
        source: FormatError,
    },
    /// No image for this machine.
    #[error("image {image} has nothing for {wanted}: it has {has}")]
    Platform {
        /// The image.
        image: String,
        /// What was looked for.
        wanted: String,
        /// What there is.
        has: String,
    },
    /// A layer.
    #[error("layer {number} ({digest}): {source}")]
    Layer {
        /// Which, from 1.
        number: usize,
        /// Its digest.
        digest: String,
        /// Why.
        source: Box<LayerError>,
    },
    /// A key that signs.
    #[error("{what}: {source}")]
    Key {
        /// Which.
        what: String,
        /// Why.
        source: KeyError,
    },
    /// The system refused a file operation.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The destination.
    #[error("{} is there already and not empty: an image is unpacked into a new folder", path.display())]
    DestinationNotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// What was asked for cannot be done.
    #[error("{0}")]
    Unusable(String),
}

/// Why a layer is not unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// Its annotations.
    #[error("it is encrypted, and its annotations are of no use: {0}")]
    Annotations(FormatError),
    /// Its key.
    #[error("the key {kid} that opens it: {source}")]
    Key {
        /// The key's name.
        kid: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// Its key does not fit.
    #[error("the key {kid} that opens it: {source}")]
    Unwrap {
        /// The key's name.
        kid: String,
        /// Why.
        source: WrapError,
    },
    /// Its cipher.
    #[error(transparent)]
    Cipher(#[from] LayerCipherError),
    /// What is in it.
    #[error("{path:?} in it: {reason}")]
    Entry {
        /// The entry's path.
        path: String,
        /// Why it is refused.
        reason: String,
    },
    /// Its form.
    #[error("{0}")]
    Form(String),
    /// Its plain contents.
    #[error(
        "unpacked it has the digest {actual}, and the image's configuration says {expected} (diff_id)"
    )]
    DiffId {
        /// As the configuration has it.
        expected: String,
        /// As it is.
        actual: String,
    },
    /// The system.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl ImageError {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    pub(crate) fn digest(what: impl Into<String>, expected: &Digest, actual: &Digest) -> Self {
        Self::Digest {
            what: what.into(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        }
    }

    pub(crate) fn layer(number: usize, digest: &Digest, source: impl Into<LayerError>) -> Self {
        Self::Layer {
            number,
            digest: digest.to_string(),
            source: Box::new(source.into()),
        }
    }
}
