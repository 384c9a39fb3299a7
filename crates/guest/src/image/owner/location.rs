//! Where the owner's images are: `docker://REGISTRY/NAME:TAG`, `oci:FOLDER[:TAG]`, in skopeo's spelling.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use strongroom_wire::image::reference::Reference;

/// Where an image is, or goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Location {
    /// In a registry.
    Registry(Reference),
    /// In a folder, as the OCI image layout has it.
    Layout {
        /// The folder.
        folder: PathBuf,
        /// Which of its images, where it has several.
        tag: Option<String>,
    },
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (folder, tag) = match rest.split_once(':') {
                Some((folder, tag)) => (folder, Some(tag.to_owned())),
                None => (rest, None),
            };
            if folder.is_empty() || tag.as_deref() == Some("") {
                return Err("write oci:FOLDER or oci:FOLDER:TAG".to_owned());
            }
            return Ok(Self::Layout {
                folder: folder.into(),
                tag,
            });
        }
        for other in [
            "docker-daemon:",
            "docker-archive:",
            "oci-archive:",
            "dir:",
            "containers-storage:",
        ] {
            if text.starts_with(other) {
                return Err(format!(
                    "{other} is not read here: copy it first, skopeo copy {text} oci:FOLDER:TAG"
                ));
            }
        }
        let name = text.strip_prefix("docker://").unwrap_or(text);
        name.parse::<Reference>()
            .map(|reference| Self::Registry(reference.or_latest()))
            .map_err(|error| format!("{name:?} names no image: {error}"))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::Layout { folder, tag: None } => write!(f, "oci:{}", folder.display()),
            Self::Layout {
                folder,
                tag: Some(tag),
            } => write!(f, "oci:{}:{tag}", folder.display()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_skopeo_are_read() {
        for (text, shown) in [
            ("docker://a.b/c:d", "docker://a.b/c:d"),
            ("busybox", "docker://docker.io/library/busybox:latest"),
            ("oci:some/folder:v1", "oci:some/folder:v1"),
            ("oci:folder", "oci:folder"),
        ] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), shown);
        }
        for bad in ["oci:", "oci:a:", "docker-daemon:x", "docker://", "A B"] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
    }
}
