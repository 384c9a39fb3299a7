//! Files of this machine: read by position, and written whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::read::ReadAt;

/// A file, read by position; many threads may.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    size: u64,
}

impl LocalFile {
    /// Opens a regular file.
    ///
    /// # Errors
    /// When there is none, or it is something else: a pipe has no positions.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file, which alone can be read by position",
            ));
        }
        Ok(Self {
            file,
            size: metadata.len(),
        })
    }
}

impl ReadAt for LocalFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn version(&self) -> Option<&str> {
        None
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// Whether what is there may be replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// It stays, and the writing fails.
    Refuse,
    /// It goes.
    Replace,
}

impl Existing {
    /// What an option such as `--force` says.
    pub fn from_force(force: bool) -> Self {
        if force { Self::Replace } else { Self::Refuse }
    }
}

/// A file in the making, beside the place where it will appear: whole, or not at all.
#[derive(Debug)]
pub struct Partial {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    existing: Existing,
    kept: bool,
}

impl Partial {
    /// Begins a file. `mode` is the permissions that it will have, such as `0o600`.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when something is at the target that may not be replaced; a folder, a pipe or a
    /// link never may.
    pub fn create(target: &Path, existing: Existing, mode: u32) -> io::Result<Self> {
        // A link is looked at itself: it is what would be replaced.
        match target.symlink_metadata() {
            Ok(there) if !there.is_file() => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it exists and is no regular file: choose another name",
                ));
            }
            Ok(_) if existing == Existing::Refuse => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            _ => {}
        }
        let name = target
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
        let temporary = target.with_file_name(format!(
            ".{}.{}.partial",
            name.to_string_lossy(),
            std::process::id()
        ));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        Ok(Self {
            file,
            temporary,
            target: target.to_owned(),
            existing,
            kept: false,
        })
    }

    /// Where it is until it is whole.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Where it will appear.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whether it is in its place.
    pub fn has_appeared(&self) -> bool {
        self.kept
    }

    /// Brings everything to the disk, which takes a while and can be given up.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Makes the file appear under its name.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when the name was taken meanwhile and may not be replaced.
    pub fn appear(&mut self) -> io::Result<()> {
        match self.existing {
            Existing::Replace => std::fs::rename(&self.temporary, &self.target)?,
            // A hard link fails where another process has made the name meanwhile.
            Existing::Refuse => {
                std::fs::hard_link(&self.temporary, &self.target)?;
                std::fs::remove_file(&self.temporary)?;
            }
        }
        self.kept = true;
        // That the name lasts is the folder's matter; a file system that has no such thing keeps it anyway.
        let folder = self
            .target
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        if let Ok(folder) = File::open(folder.unwrap_or_else(|| Path::new("."))) {
            folder.sync_all().ok();
        }
        Ok(())
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            std::fs::remove_file(&self.temporary).ok();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read_past_its_end_or_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = LocalFile::open(&path).unwrap();
        assert_eq!(file.size(), 10);
        let mut buffer = [0; 4];
        file.read_at(3, &mut buffer).unwrap();
        assert_eq!(&buffer, b"3456");
        let error = file.read_at(8, &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(LocalFile::open(folder.path()).is_err());
    }

    #[test]
    fn half_a_file_appears_or_stays_behind() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let mut partial = Partial::create(&target, Existing::Refuse, 0o600).unwrap();
        partial.write_all(b"half").unwrap();
        assert!(!target.exists() && partial.temporary().exists());
        drop(partial);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn name_taken_meanwhile_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let mut partial = Partial::create(&target, Existing::Refuse, 0o600).unwrap();
        partial.write_all(b"ours").unwrap();
        std::fs::write(&target, b"theirs").unwrap();
        assert_eq!(
            partial.appear().unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        drop(partial);
        assert_eq!(std::fs::read(&target).unwrap(), b"theirs");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(Partial::create(&target, Existing::Refuse, 0o600).is_err());
        let mut partial = Partial::create(&target, Existing::Replace, 0o600).unwrap();
        partial.write_all(b"ours").unwrap();
        partial.appear().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"ours");
    }
}
