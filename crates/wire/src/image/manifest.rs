//! Manifests, indexes and configurations of images (OCI image specification 1.1; Docker image manifest version 2,
//! schema 2), as a registry hands them out: parsed, bounded, believed by nobody until their digest is checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::digest::Digest;
use super::{FormatError, bounded_json};

/// A blob by its digest, and what it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What else is said of it.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Where an image of an index runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What an artifact is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Members that mean nothing here and are kept.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl Descriptor {
    /// A blob with nothing else said of it.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
            others: Map::new(),
        }
    }
}

/// What an image runs on.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Platform {
    /// The processor, in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// The system, in Go's words.
    #[serde(default)]
    pub os: String,
    /// The version of the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Members that mean nothing here and are kept.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// A document that a registry hands out by a tag or a digest.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// One image for each of several platforms.
    Index(Box<Index>),
}

/// One image, or an artifact.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What the document is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What an artifact is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image's configuration.
    pub config: Descriptor,
    /// What the image is made of, the lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
    /// What this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// What else is said of it.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// One image for each of several platforms, or the artifacts about an image.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What the document is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The images.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
    /// Members that mean nothing here and are kept.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl Document {
    /// Parses what a registry handed out. Only its own words count: what a header called it does not.
    ///
    /// # Errors
    /// [`FormatError`] when it is neither, is both, or has more members than an image has.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let shape: Shape = bounded_json(WHAT, bytes, MAX_DOCUMENT)?;
        if shape.schema_version != 2 {
            return Err(FormatError::invalid(
                WHAT,
                format!(
                    "schemaVersion is {}, and only 2 is read: push the image again with a newer program",
                    shape.schema_version
                ),
            ));
        }
        // What one program takes for an image and another for an index is two things under one signature.
        let is_index = match (
            shape.manifests.is_some(),
            shape.layers.is_some() || shape.config.is_some(),
        ) {
            (true, false) => true,
            (false, true) => false,
            (true, true) => {
                return Err(FormatError::invalid(
                    WHAT,
                    "it is both an image and an index",
                ));
            }
            (false, false) => {
                return Err(FormatError::invalid(
                    WHAT,
                    "it is neither an image nor an index",
                ));
            }
        };
        let expected = if is_index {
            INDEX_TYPES
        } else {
            MANIFEST_TYPES
        };
        if let Some(named) = shape
            .media_type
            .as_deref()
            .filter(|named| !expected.contains(named))
        {
            return Err(FormatError::invalid(
                WHAT,
                format!(
                    "its mediaType {:?} is not that of what it holds",
                    shorten(named)
                ),
            ));
        }
        if is_index {
            let index: Index = bounded_json(WHAT, bytes, MAX_DOCUMENT)?;
            check_count("images", index.manifests.len(), MAX_IMAGES)?;
            Ok(Self::Index(Box::new(index)))
        } else {
            let manifest: Manifest = bounded_json(WHAT, bytes, MAX_DOCUMENT)?;
            check_count("layers", manifest.layers.len(), MAX_LAYERS)?;
            Ok(Self::Manifest(Box::new(manifest)))
        }
    }
}

impl Index {
    /// The image for a platform.
    pub fn for_platform(&self, wanted: &Platform) -> Option<&Descriptor> {
        let fits = |descriptor: &&Descriptor| {
            descriptor.platform.as_ref().is_some_and(|platform| {
                platform.os == wanted.os && platform.architecture == wanted.architecture
            })
        };
        let exactly = |descriptor: &&Descriptor| {
            descriptor
                .platform
                .as_ref()
                .is_some_and(|p| p.variant == wanted.variant)
        };
        let mut images = self.manifests.iter().filter(fits);
        images.clone().find(exactly).or_else(|| images.next())
    }

    /// The platforms that it has an image for, as `os/architecture`.
    pub fn platforms(&self) -> Vec<String> {
        self.manifests
            .iter()
            .filter_map(|descriptor| descriptor.platform.as_ref())
            .map(|platform| shorten(&format!("{}/{}", platform.os, platform.architecture)))
            .collect()
    }
}

/// What an image starts with, and what its layers hold.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct ImageConfig {
    /// The system.
    #[serde(default)]
    pub os: String,
    /// The processor.
    #[serde(default)]
    pub architecture: String,
    /// How its program is started.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: Start,
    /// The digests of the layers, unpacked and decrypted.
    pub rootfs: RootFs,
}

/// How an image's program is started.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "PascalCase")]
pub struct Start {
    /// Who it runs as.
    #[serde(default, deserialize_with = "null_is_default")]
    pub user: String,
    /// Its environment, `NAME=value`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The program, with arguments that stay.
    #[serde(default, deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// Arguments that may be replaced; the program itself where there is no entrypoint.
    #[serde(default, deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// The folder it starts in.
    #[serde(default, deserialize_with = "null_is_default")]
    pub working_dir: String,
}

/// The digests of the layers' plain contents.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct RootFs {
    /// One for each layer, the lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses an image's configuration.
    ///
    /// # Errors
    /// [`FormatError`] when it is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let config: Self = bounded_json("image's configuration", bytes, MAX_DOCUMENT)?;
        check_count("layers", config.rootfs.diff_ids.len(), MAX_LAYERS)?;
        Ok(config)
    }
}

/// Media types.
pub mod media_type {
    /// An OCI image.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A Docker image.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// An OCI image's configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A Docker image's configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// What cosign signs: the payload of a signature.
    pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
    /// The type of cosign's signatures among the artifacts about an image.
    pub const COSIGN_SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
    /// What cosign 3 writes, and key-only simple signing does not.
    pub const SIGSTORE_BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
}

/// What a layer's bytes are, by its media type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LayerForm {
    /// How the tar file is compressed.
    pub compression: Compression,
    /// Whether the whole is encrypted.
    pub encrypted: bool,
}

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Compression {
    /// A plain tar file.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl LayerForm {
    /// What a layer of a media type is; `None` for a type that is no layer's.
    pub fn of(media_type: &str) -> Option<Self> {
        let (plain, encrypted) = match media_type.strip_suffix(ENCRYPTED) {
            Some(plain) => (plain, true),
            None => (media_type, false),
        };
        let compression = match plain {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
            _ => return None,
        };
        Some(Self {
            compression,
            encrypted,
        })
    }

    /// The media type of a layer of this form.
    pub fn media_type(self) -> String {
        let compression = match self.compression {
            Compression::None => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
        };
        let encrypted = if self.encrypted { ENCRYPTED } else { "" };
        format!("application/vnd.oci.image.layer.v1.tar{compression}{encrypted}")
    }
}

fn check_count(what: &str, count: usize, limit: usize) -> Result<(), FormatError> {
    match count <= limit {
        true => Ok(()),
        false => Err(FormatError::invalid(
            WHAT,
            format!("it has {count} {what}, more than {limit}"),
        )),
    }
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// Go writes an empty list as `null`.
fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// The longest manifest, index or configuration that is read, in bytes: registries refuse longer ones.
pub const MAX_DOCUMENT: usize = 4 * 1024 * 1024;
const WHAT: &str = "manifest";
const ENCRYPTED: &str = "+encrypted";
const MAX_LAYERS: usize = 512;
const MAX_IMAGES: usize = 1024;
const MANIFEST_TYPES: &[&str] = &[media_type::OCI_MANIFEST, media_type::DOCKER_MANIFEST];
const INDEX_TYPES: &[&str] = &[media_type::OCI_INDEX, media_type::DOCKER_LIST];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest() -> String {
        Digest::sha256(b"").to_string()
    }

    fn descriptor() -> Value {
        json!({ "mediaType": "x", "digest": digest(), "size": 1 })
    }

    fn parse(value: &Value) -> Result<Document, FormatError> {
        Document::parse(value.to_string().as_bytes())
    }

    #[test]
    fn image_and_index_are_told_apart_by_what_they_hold() {
        let manifest = json!({ "schemaVersion": 2, "config": descriptor(), "layers": null });
        assert!(matches!(parse(&manifest), Ok(Document::Manifest(_))));
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor()] });
        assert!(matches!(parse(&index), Ok(Document::Index(_))));
    }

    #[test]
    fn document_that_can_be_read_in_two_ways_is_refused() {
        for bad in [
            json!({ "schemaVersion": 2, "config": descriptor(), "layers": [], "manifests": [] }),
            json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "config": descriptor(), "layers": [] }),
            json!({ "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "manifests": [] }),
            json!({ "schemaVersion": 1, "config": descriptor(), "layers": [] }),
            json!({ "schemaVersion": 2 }),
            json!({ "schemaVersion": 2, "config": descriptor(), "layers": vec![descriptor(); 513] }),
            json!({ "schemaVersion": 2, "config": { "mediaType": "x", "digest": "sha256:0", "size": 1 }, "layers": [] }),
            json!({ "schemaVersion": 2, "config": { "mediaType": "x", "digest": digest(), "size": -1 }, "layers": [] }),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
        let twice = format!(
            r#"{{"schemaVersion":2,"config":{0},"layers":[],"layers":[{0}]}}"#,
            descriptor()
        );
        assert!(Document::parse(twice.as_bytes()).is_err());
    }

    #[test]
    fn platform_picks_its_image_and_an_attestation_manifest_is_none() {
        let entry = |os: &str, architecture: &str, variant: Option<&str>, size: u64| {
            let mut entry = descriptor();
            entry["size"] = size.into();
            entry["platform"] =
                json!({ "os": os, "architecture": architecture, "variant": variant });
            entry
        };
        let index = json!({ "schemaVersion": 2, "manifests": [
            descriptor(),
            entry("unknown", "unknown", None, 2),
            entry("linux", "arm64", Some("v8"), 3),
            entry("linux", "amd64", None, 4),
        ]});
        let Ok(Document::Index(index)) = parse(&index) else {
            panic!("no index");
        };
        let pick = |architecture: &str, variant: Option<&str>| {
            let wanted = Platform {
                os: "linux".into(),
                architecture: architecture.into(),
                variant: variant.map(str::to_owned),
                others: Map::new(),
            };
            index.for_platform(&wanted).map(|found| found.size)
        };
        assert_eq!(pick("amd64", None), Some(4));
        assert_eq!(pick("arm64", None), Some(3));
        assert_eq!(pick("arm64", Some("v8")), Some(3));
        assert_eq!(pick("riscv64", None), None);
    }

    #[test]
    fn layer_types_say_compression_and_encryption() {
        for (text, compression, encrypted) in [
            (
                "application/vnd.oci.image.layer.v1.tar",
                Compression::None,
                false,
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                Compression::Gzip,
                true,
            ),
            (
                "application/vnd.oci.image.layer.v1.tar+zstd",
                Compression::Zstd,
                false,
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Compression::Gzip,
                false,
            ),
            (
                "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted",
                Compression::Gzip,
                true,
            ),
        ] {
            let form = LayerForm::of(text).unwrap();
            assert_eq!(
                (form.compression, form.encrypted),
                (compression, encrypted),
                "{text}"
            );
            assert_eq!(LayerForm::of(&form.media_type()), Some(form));
        }
        for other in [
            "",
            "text/plain",
            "+encrypted",
            "application/vnd.oci.image.layer.v1.tar+encrypted+gzip",
        ] {
            assert_eq!(LayerForm::of(other), None, "{other}");
        }
    }

    #[test]
    fn what_means_nothing_here_survives_a_round_trip() {
        let text = json!({ "schemaVersion": 2, "manifests": [
            { "mediaType": "x", "digest": digest(), "size": 1, "urls": ["u"], "platform": { "os": "linux", "architecture": "a", "os.version": "1" } },
        ], "annotations": { "a": "b" } });
        let Ok(Document::Index(index)) = parse(&text) else {
            panic!("no index");
        };
        assert_eq!(serde_json::to_value(&*index).unwrap(), text);
    }
}
