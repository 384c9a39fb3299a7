//! Files of this machine: read by position, and written whole or not at all.
//!
//! What is written is `.NAME.RANDOM.partial` beside its target until it is whole. Its maker holds a lock
//! on it (flock): the lock ends with the process, however that ends, and whoever writes the same target
//! next removes what nobody holds any more.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::read::ReadAt;

/// A file, read by position; many threads may.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    size: u64,
    version: String,
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
        // Whoever changes the file changes the last of these, and another file has another number.
        let version = format!(
            "{} {}.{:09} {}.{:09}",
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec()
        );
        Ok(Self {
            file,
            size: metadata.len(),
            version,
        })
    }
}

impl ReadAt for LocalFile {
    fn size(&self) -> u64 {
        self.size
    }

    /// When it was changed last, and its number in its file system.
    fn version(&self) -> Option<&str> {
        Some(&self.version)
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
        let partial = Self::create_beside_abandoned(target, existing, mode)?;
        let name = target.file_name().and_then(OsStr::to_str);
        remove_abandoned(parent(target), |of| Some(of) == name);
        Ok(partial)
    }

    /// The same, and what others left of this target stays.
    pub(super) fn create_beside_abandoned(
        target: &Path,
        existing: Existing,
        mode: u32,
    ) -> io::Result<Self> {
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
        let (file, temporary) = begin(target, &name.to_string_lossy(), mode)?;
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
        if let Ok(folder) = File::open(parent(&self.target)) {
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

/// Removes from a folder what processes left that ended before it was whole: files in the making whose target is meant, and
/// that no living process holds. What cannot be removed stays.
pub fn remove_abandoned(folder: &Path, is_meant: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let target = name.to_str().and_then(target_of);
        // Of something else by that name nothing is opened: a pipe would be waited for.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !target.is_some_and(&is_meant) {
            continue;
        }
        let file = OpenOptions::new().write(true).open(entry.path());
        if file.is_ok_and(|file| file.try_lock().is_ok()) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

/// Makes a file under a name that is nobody's, and holds it.
fn begin(target: &Path, name: &str, mode: u32) -> io::Result<(File, PathBuf)> {
    loop {
        let mut random = [0; RANDOM / 2];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random bytes"))?;
        let temporary = target.with_file_name(format!(".{name}.{}{PARTIAL}", hex::encode(random)));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        match file.try_lock() {
            // Who clears away was here between the two, and is about to remove it.
            Err(TryLockError::WouldBlock) => continue,
            // Without locks nothing is cleared away either.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        if file.metadata()?.nlink() > 0 {
            return Ok((file, temporary));
        }
    }
}

/// What a file in the making is to become, by its name.
fn target_of(name: &str) -> Option<&str> {
    let (target, random) = name
        .strip_prefix('.')?
        .strip_suffix(PARTIAL)?
        .rsplit_once('.')?;
    let is_random = random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_random.then_some(target)
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

const PARTIAL: &str = ".partial";

/// The digits that tell two of one target apart.
const RANDOM: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_process_left_stays_or_a_live_one_loses_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.csv");
        let live = Partial::create(&target, Existing::Refuse, 0o600).unwrap();
        let live_name = live.temporary().file_name().unwrap().to_owned();
        let abandoned = ".out.csv.0123456789abcdef.partial";
        let others = [
            ".out.csv.17.partial",
            ".out.csv.gz.0123456789abcdef.partial",
            ".x.out.csv.0123456789abcdef.partial",
            "out.csv.0123456789abcdef.partial",
        ];
        for name in others.iter().chain([&abandoned]) {
            std::fs::write(folder.path().join(name), b"left").unwrap();
        }
        let second = Partial::create(&target, Existing::Refuse, 0o600).unwrap();
        let left = names(folder.path());
        assert!(!left.contains(&abandoned.to_owned()), "{left:?}");
        assert_eq!(left.len(), others.len() + 2, "{left:?}");
        assert!(left.iter().any(|name| **name == *live_name), "{left:?}");
        drop(second);
        // A folder that is cleared keeps the live one too.
        remove_abandoned(folder.path(), |_| true);
        let left = names(folder.path());
        assert!(left.iter().any(|name| **name == *live_name), "{left:?}");
        assert_eq!(left.len(), 3, "{left:?}");
        drop(live);
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn file_of_the_same_length_passes_for_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let version = || {
            let file = LocalFile::open(&path).unwrap();
            file.version().unwrap().to_owned()
        };
        std::fs::write(&path, b"0123456789").unwrap();
        let first = version();
        assert_eq!(version(), first);
        // The clock of a file system ticks slower than this program.
        let mut tries = 0;
        while version() == first && tries < 1000 {
            std::fs::write(&path, b"0123456788").unwrap();
            tries += 1;
        }
        assert_ne!(version(), first);
        let (second, other) = (version(), folder.path().join("y"));
        std::fs::write(&other, b"0123456788").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(version(), second);
    }

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
