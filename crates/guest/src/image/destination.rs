//! The folder that an image is unpacked into: new or empty at the start, complete or empty at the end.

use std::path::{Path, PathBuf};

use super::error::ImageError;

/// A folder that goes, with all in it, unless it is kept.
pub(crate) struct Destination {
    path: PathBuf,
    /// Whether it was made here, so that it goes itself.
    made: bool,
    kept: bool,
}

impl Destination {
    /// Makes the folder, or takes one that is empty.
    pub(crate) fn prepare(path: &Path) -> Result<Self, ImageError> {
        let made = match std::fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let mut entries = std::fs::read_dir(path)
                    .map_err(ImageError::io("cannot read the folder", path))?;
                if entries.next().is_some() {
                    return Err(ImageError::DestinationNotEmpty {
                        path: path.to_owned(),
                    });
                }
                false
            }
            Err(error) => return Err(ImageError::io("cannot make the folder", path)(error)),
        };
        Ok(Self {
            path: path.to_owned(),
            made,
            kept: false,
        })
    }

    /// Everything is there: it stays.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let removed = match self.made {
            true => std::fs::remove_dir_all(&self.path),
            false => std::fs::read_dir(&self.path).and_then(|entries| {
                entries
                    .flatten()
                    .try_for_each(|entry| match entry.file_type()?.is_dir() {
                        true => std::fs::remove_dir_all(entry.path()),
                        false => std::fs::remove_file(entry.path()),
                    })
            }),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), %error, "what was unpacked of a refused image could not be removed");
        }
    }
}
