//! An OCI image layout (image specification 1.1, "Image Layout"): `oci-layout`, `index.json` and blobs by digest.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, json};
use strongroom_wire::image::digest::Digest;
use strongroom_wire::image::manifest::{Descriptor, Document, Index, MAX_DOCUMENT, media_type};
use tempfile::NamedTempFile;

use super::super::blobs::Blob;
use super::super::error::ImageError;

/// A layout in a folder.
pub(super) struct Layout {
    folder: PathBuf,
}

impl Layout {
    pub(super) fn open(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The image of a tag; the only one where no tag is given.
    pub(super) fn find(&self, tag: Option<&str>) -> Result<Descriptor, ImageError> {
        let index = self.index()?;
        let fits = |descriptor: &&Descriptor| match tag {
            Some(tag) => descriptor
                .annotations
                .get(NAME)
                .is_some_and(|name| name == tag),
            None => true,
        };
        let mut found = index.manifests.iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one.clone()),
            (None, _) => Err(ImageError::Unusable(format!(
                "{} has no image {}",
                self.folder.display(),
                tag.unwrap_or_default()
            ))),
            (Some(_), Some(_)) => Err(ImageError::Unusable(format!(
                "{} has several images: name one, oci:{0}:TAG",
                self.folder.display()
            ))),
        }
    }

    /// A small blob, whole.
    pub(super) fn small(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let path = self.blob_path(&descriptor.digest);
        let file = File::open(&path).map_err(ImageError::io("cannot read", &path))?;
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(ImageError::io("cannot read", &path))?;
        match bytes.len() <= MAX_DOCUMENT && descriptor.digest.is_of(&bytes) {
            true => Ok(bytes),
            false => Err(ImageError::digest(
                path.display().to_string(),
                &descriptor.digest,
                &Digest::sha256(&bytes),
            )),
        }
    }

    /// A blob, verified.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<Blob, ImageError> {
        let path = self.blob_path(&descriptor.digest);
        let file = File::open(&path).map_err(ImageError::io("cannot read", &path))?;
        Blob::examine(file, &descriptor.digest, descriptor.size)
            .map_err(ImageError::io("cannot read", &path))?
            .ok_or_else(|| {
                ImageError::Unusable(format!("{} is not what its name says", path.display()))
            })
    }

    /// Makes the folder a layout where it is none.
    pub(super) fn create(&self) -> Result<(), ImageError> {
        let blobs = self.folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(ImageError::io("cannot make the folder", &blobs))?;
        let marker = self.folder.join("oci-layout");
        if !marker.exists() {
            self.replace(
                "oci-layout",
                json!({ "imageLayoutVersion": "1.0.0" })
                    .to_string()
                    .as_bytes(),
            )?;
            self.write_index(&Index {
                schema_version: 2,
                media_type: Some(media_type::OCI_INDEX.to_owned()),
                manifests: Vec::new(),
                others: Map::new(),
            })?;
        }
        Ok(())
    }

    /// Writes a small blob.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<(), ImageError> {
        let digest = Digest::sha256(bytes);
        self.replace(&format!("blobs/sha256/{}", digest.hex()), bytes)
    }

    /// Takes a file as a blob.
    pub(super) fn take(&self, file: NamedTempFile, digest: &Digest) -> Result<(), ImageError> {
        let path = self.blob_path(digest);
        let mut from = file
            .reopen()
            .map_err(ImageError::io("cannot read", file.path()))?;
        let folder = self.folder.join("blobs/sha256");
        let mut to =
            NamedTempFile::new_in(&folder).map_err(ImageError::io("cannot write in", &folder))?;
        std::io::copy(&mut from, &mut to).map_err(ImageError::io("cannot write", &path))?;
        persist(to, &path)
    }

    /// Names an image; the one that had the tag loses it.
    pub(super) fn name(
        &self,
        mut descriptor: Descriptor,
        tag: Option<&str>,
    ) -> Result<(), ImageError> {
        let mut index = self.index()?;
        let tag = tag.unwrap_or("latest");
        index
            .manifests
            .retain(|other| other.annotations.get(NAME).is_none_or(|name| name != tag));
        descriptor
            .annotations
            .insert(NAME.to_owned(), tag.to_owned());
        index.manifests.push(descriptor);
        self.write_index(&index)
    }

    fn index(&self) -> Result<Index, ImageError> {
        let path = self.folder.join("index.json");
        let bytes = super::super::options::read_capped(&path)?;
        match Document::parse(&bytes) {
            Ok(Document::Index(index)) => Ok(*index),
            _ => Err(ImageError::Unusable(format!(
                "{} is no OCI image layout (index.json)",
                self.folder.display()
            ))),
        }
    }

    fn write_index(&self, index: &Index) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(index)
            .map_err(|_| ImageError::Unusable("the index cannot be written".to_owned()))?;
        self.replace("index.json", &bytes)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.folder.join(name);
        let parent = path.parent().unwrap_or(&self.folder);
        let mut file =
            NamedTempFile::new_in(parent).map_err(ImageError::io("cannot write in", parent))?;
        file.write_all(bytes)
            .map_err(ImageError::io("cannot write", &path))?;
        persist(file, &path)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder
            .join("blobs")
            .join(digest.to_string().replace(':', "/"))
    }
}

/// A layout is made to be read by others.
fn persist(file: NamedTempFile, path: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt as _;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))
        .map_err(ImageError::io("cannot write", path))?;
    file.persist(path)
        .map(drop)
        .map_err(|error| ImageError::io("cannot write", path)(error.error))
}

/// What an image of a layout is called.
const NAME: &str = "org.opencontainers.image.ref.name";
