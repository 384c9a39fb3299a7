//! A mounted volume as it is now: every file in it, read whole, from one version of it.
//!
//! Three forms: a folder as the kubelet keeps it, entered through its `..data` link, which is swapped from one complete
//! version to the next; a plain folder; and a single file, as a `subPath` mounts it. No link leads out of a folder
//! (`openat2(2)`), and nothing but regular files is read.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::error::GuestError;

/// The files by their paths in the volume; a volume that is a single file has one with an empty path.
pub(super) type Files = BTreeMap<PathBuf, Zeroizing<Vec<u8>>>;

/// Reads a volume, and its stamp from before.
pub(super) fn read(from: &Path) -> Result<(Files, Stamp), GuestError> {
    for _ in 0..TRIES {
        let mut files = Files::new();
        let mut left = MAX_BYTES;
        let looked = look(from, &mut |path, file, seen| {
            left = left.checked_sub(seen.size).ok_or(Unusable::Because(
                "all its files together are larger than 64 MiB",
            ))?;
            files.insert(path, whole(file, seen)?);
            Ok(())
        });
        match looked {
            Ok(stamp) => return Ok((files, stamp)),
            Err(Unusable::Changed) => {}
            Err(error) => return Err(error.of(from)),
        }
    }
    Err(Unusable::Because("it is changed all the time").of(from))
}

/// Looks at a volume without reading it; what cannot be looked at has no stamp.
pub(super) fn stamp(from: &Path) -> Option<Stamp> {
    look(from, &mut |_, _, _| Ok(())).ok()
}

/// What differs when something in a volume was changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Stamp {
    version: Option<OsString>,
    files: Vec<(PathBuf, Seen)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seen {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64, i64, i64),
}

type Visit<'a> = dyn FnMut(PathBuf, OwnedFd, Seen) -> Result<(), Unusable> + 'a;

fn look(from: &Path, visit: &mut Visit<'_>) -> Result<Stamp, Unusable> {
    let root = rustix::fs::open(from, ANYTHING, Mode::empty())?;
    if let Some(seen) = seen(&root)? {
        visit(PathBuf::new(), root, seen)?;
        return Ok(Stamp {
            version: None,
            files: vec![(PathBuf::new(), seen)],
        });
    }
    let (inside, version) = enter_version(&root)?;
    let entered = identity(&inside)?;
    let mut walk = Walk {
        versioned: version.is_some(),
        root: inside,
        entries: 0,
        files: Vec::new(),
        visit,
    };
    let walked = walk.folder(Path::new(""), 0);
    let files = walk.files;
    // The kubelet empties a version once another is in force: one that was listed meanwhile lacks files without a sign.
    if version.is_some() {
        match enter_version(&root) {
            Ok((now, named)) if named == version && identity(&now)? == entered => {}
            Ok(_) => return Err(Unusable::Changed),
            Err(error) => return Err(error),
        }
    }
    walked?;
    Ok(Stamp { version, files })
}

/// Which folder it is, whatever its name.
fn identity(folder: &OwnedFd) -> Result<(u64, u64), Unusable> {
    let stat = rustix::fs::fstat(folder)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Stands in the version in force, when the folder has versions.
fn enter_version(folder: &OwnedFd) -> Result<(OwnedFd, Option<OsString>), Unusable> {
    let target = match rustix::fs::readlinkat(folder, DATA, Vec::new()) {
        Ok(target) => target,
        // No versions; or a copy, in which `..data` is a folder like any other hidden one.
        Err(Errno::NOENT | Errno::INVAL) => {
            let same = folder
                .try_clone()
                .map_err(|error| Unusable::Io(error.to_string()))?;
            return Ok((same, None));
        }
        Err(error) => return Err(error.into()),
    };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    match rustix::fs::openat2(folder, target.as_c_str(), flags, Mode::empty(), RESOLVE) {
        Ok(version) => Ok((version, Some(OsString::from_vec(target.into_bytes())))),
        // It was swapped in between, and the version before it removed.
        Err(Errno::NOENT) => Err(Unusable::Changed),
        Err(error) => Err(error.into()),
    }
}

struct Walk<'a, 'v> {
    root: OwnedFd,
    versioned: bool,
    entries: usize,
    files: Vec<(PathBuf, Seen)>,
    visit: &'a mut Visit<'v>,
}

impl Walk<'_, '_> {
    fn folder(&mut self, at: &Path, depth: usize) -> Result<(), Unusable> {
        if depth > MAX_DEPTH {
            return Err(Unusable::Because(
                "its folders lie more than 8 deep in each other",
            ));
        }
        for name in self.names(at)? {
            let path = at.join(name);
            let entry =
                match rustix::fs::openat2(&self.root, &path, ANYTHING, Mode::empty(), RESOLVE) {
                    Ok(entry) => entry,
                    // A version that lacks what it listed is being removed.
                    Err(Errno::NOENT) if self.versioned => return Err(Unusable::Changed),
                    // A link that leads nowhere shows an application nothing, either.
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(Unusable::At(path, error)),
                };
            match seen(&entry) {
                Ok(Some(seen)) => {
                    self.files.push((path.clone(), seen));
                    (self.visit)(path, entry, seen)?;
                }
                Ok(None) => self.folder(&path, depth + 1)?,
                Err(_) => return Err(Unusable::NotAFile(path)),
            }
        }
        Ok(())
    }

    /// The names in a folder, sorted; at the top, those that begin with two dots are the volume's own business.
    fn names(&mut self, at: &Path) -> Result<Vec<OsString>, Unusable> {
        let here = if at == Path::new("") {
            Path::new(".")
        } else {
            at
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        // A version that is being removed ends here, too.
        let removed = |error: Errno| match error {
            Errno::NOENT if self.versioned => Unusable::Changed,
            error => error.into(),
        };
        let folder = rustix::fs::openat2(&self.root, here, flags, Mode::empty(), RESOLVE)
            .map_err(removed)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(removed)? {
            let name = entry.map_err(removed)?.file_name().to_bytes().to_vec();
            let hidden = at == Path::new("") && name.starts_with(b"..");
            if name == b"." || name == b".." || hidden {
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Unusable::Because("it has more than 4096 entries"));
            }
            names.push(OsString::from_vec(name));
        }
        names.sort();
        Ok(names)
    }
}

/// What is seen of a regular file; `None` is a folder.
fn seen(file: impl AsFd) -> Result<Option<Seen>, Unusable> {
    let stat = rustix::fs::fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Some(Seen {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            changed: (
                stat.st_mtime,
                i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
                stat.st_ctime,
                i64::try_from(stat.st_ctime_nsec).unwrap_or(0),
            ),
        })),
        FileType::Directory => Ok(None),
        _ => Err(Unusable::Because("it is neither a file nor a folder")),
    }
}

/// Reads a file that nobody writes to meanwhile.
fn whole(file: OwnedFd, before: Seen) -> Result<Zeroizing<Vec<u8>>, Unusable> {
    let length = usize::try_from(before.size).map_err(|_| Unusable::Changed)?;
    // Room for the reader's look at the end, so that nothing is moved and left behind.
    let mut content = Zeroizing::new(Vec::with_capacity(length.saturating_add(SLACK)));
    let mut file = File::from(file);
    (&mut file)
        .take(before.size.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|error| Unusable::Io(error.to_string()))?;
    if content.len() == length && seen(&file)? == Some(before) {
        Ok(content)
    } else {
        Err(Unusable::Changed)
    }
}

enum Unusable {
    /// It was changed while it was read: the next try may find it whole.
    Changed,
    Because(&'static str),
    Io(String),
    At(PathBuf, Errno),
    NotAFile(PathBuf),
}

impl Unusable {
    fn of(self, from: &Path) -> GuestError {
        let (path, reason) = match self {
            Self::Changed => (
                from.to_owned(),
                "it was changed while it was read".to_owned(),
            ),
            Self::Because(reason) => (from.to_owned(), reason.to_owned()),
            Self::Io(reason) => (from.to_owned(), format!("it cannot be read: {reason}")),
            Self::At(path, Errno::XDEV) => (
                from.join(path),
                "this link leads out of the volume and is not followed".to_owned(),
            ),
            Self::At(path, error) => (from.join(path), format!("it cannot be read: {error}")),
            Self::NotAFile(path) => (
                from.join(path),
                "it is neither a file nor a folder".to_owned(),
            ),
        };
        GuestError::Volume { path, reason }
    }
}

impl From<Errno> for Unusable {
    fn from(error: Errno) -> Self {
        Self::Io(error.to_string())
    }
}

/// The link through which a folder with versions shows the one in force.
pub(super) const DATA: &str = "..data";
/// Opening a named pipe must not wait for its writer.
const ANYTHING: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
const TRIES: usize = 16;
const MAX_DEPTH: usize = 8;
const MAX_ENTRIES: usize = 4096;
const MAX_BYTES: u64 = 64 * 1024 * 1024;
const SLACK: usize = 32;

/// The first name of a path in a volume.
pub(super) fn first(path: &Path) -> Option<&OsStr> {
    path.iter().next()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(files: &Files) -> Vec<&str> {
        files.keys().map(|path| path.to_str().unwrap()).collect()
    }

    fn refused(from: &Path) -> String {
        read(from).unwrap_err().to_string()
    }

    #[test]
    fn folder_of_the_kubelet_is_read_beside_its_version() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        for (version, text) in [("..old", "old"), ("..new", "new")] {
            fs::create_dir_all(at.join(version).join("deep")).unwrap();
            fs::write(at.join(version).join("a"), text).unwrap();
            fs::write(at.join(version).join("deep/b"), text).unwrap();
        }
        symlink("..new", at.join("..data")).unwrap();
        symlink("..data/a", at.join("a")).unwrap();
        symlink("..data/gone", at.join("gone")).unwrap();
        let (files, stamp) = read(at).unwrap();
        assert_eq!(names(&files), ["a", "deep/b"]);
        assert!(files.values().all(|content| content.as_slice() == b"new"));
        assert_eq!(stamp.version.as_deref(), Some(OsStr::new("..new")));
    }

    #[test]
    fn swapped_version_has_the_same_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        for version in ["..1", "..2"] {
            fs::create_dir(at.join(version)).unwrap();
        }
        symlink("..1", at.join("..data")).unwrap();
        let before = stamp(at).unwrap();
        assert_eq!(stamp(at).unwrap(), before);
        fs::remove_file(at.join("..data")).unwrap();
        symlink("..2", at.join("..data")).unwrap();
        assert_ne!(stamp(at).unwrap(), before);
    }

    #[test]
    fn version_that_is_emptied_while_it_is_listed_lacks_secrets_without_a_sign() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        for (version, names) in [
            ("..old", ["deep/x", "deep/y"]),
            ("..new", ["deep/x", "deep/y"]),
        ] {
            fs::create_dir_all(at.join(version).join("deep")).unwrap();
            fs::write(at.join(version).join("a"), version).unwrap();
            for name in names {
                fs::write(at.join(version).join(name), version).unwrap();
            }
        }
        symlink("..old", at.join("..data")).unwrap();
        // As the kubelet does while `a` is read: the other version is in force, then this one is emptied.
        let swap = || {
            symlink("..new", at.join("..data_tmp")).unwrap();
            fs::rename(at.join("..data_tmp"), at.join("..data")).unwrap();
            fs::remove_file(at.join("..old/deep/x")).unwrap();
        };
        let mut seen = Vec::new();
        let looked = look(at, &mut |path, _, _| {
            if path == Path::new("a") {
                swap();
            }
            seen.push(path);
            Ok(())
        });
        assert!(matches!(looked, Err(Unusable::Changed)), "{seen:?}");
        assert!(!seen.contains(&PathBuf::from("deep/x")));
        let (files, _) = read(at).unwrap();
        assert_eq!(names(&files), ["a", "deep/x", "deep/y"]);
        assert!(files.values().all(|content| content.as_slice() == b"..new"));

        // Swapped, and swapped back to another folder of the same name.
        let look_at = |act: &dyn Fn()| {
            look(at, &mut |path, _, _| {
                if path == Path::new("a") {
                    act();
                }
                Ok(())
            })
        };
        let anew = || {
            fs::rename(at.join("..new"), at.join("..gone")).unwrap();
            fs::create_dir(at.join("..new")).unwrap();
        };
        assert!(matches!(look_at(&anew), Err(Unusable::Changed)));
    }

    #[test]
    fn plain_folder_and_single_file_are_read_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::write(at.join("bytes"), [0xff, 0x00]).unwrap();
        fs::write(at.join(OsStr::from_bytes(b"\xff")), "odd name").unwrap();
        symlink("bytes", at.join("link")).unwrap();
        symlink("nowhere", at.join("dangling")).unwrap();
        let (files, _) = read(at).unwrap();
        assert_eq!(files.len(), 3);
        assert_eq!(files[Path::new("link")].as_slice(), [0xff, 0x00]);
        let (file, _) = read(&at.join("bytes")).unwrap();
        assert_eq!(file[Path::new("")].as_slice(), [0xff, 0x00]);
    }

    #[test]
    fn link_out_of_the_volume_is_followed() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("x"), "x").unwrap();
        symlink(elsewhere.path().join("x"), folder.path().join("x")).unwrap();
        let text = refused(folder.path());
        assert!(text.contains("leads out of the volume"), "{text}");
    }

    #[test]
    fn pipe_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        let text = refused(folder.path());
        assert!(text.contains("neither a file nor a folder"), "{text}");
        assert!(read(&pipe).is_err());
    }

    #[test]
    fn loop_of_links_and_endless_folders_come_to_no_end() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        symlink("../a", folder.path().join("a/again")).unwrap();
        let text = refused(folder.path());
        assert!(text.contains("more than 8 deep"), "{text}");
    }

    #[test]
    fn written_file_has_the_same_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "1").unwrap();
        let before = stamp(folder.path());
        fs::write(&file, "22").unwrap();
        assert_ne!(stamp(folder.path()), before);
        fs::remove_dir_all(folder.path()).unwrap();
        assert_eq!(stamp(folder.path()), None);
    }
}
