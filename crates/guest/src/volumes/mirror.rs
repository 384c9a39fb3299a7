//! The plaintext side of a volume: written whole beside what is in force, then put in force by one rename.
//!
//! A folder has the layout of the kubelet's volumes, so that applications which follow its updates follow these:
//! `NAME -> ..data/NAME`, `..data -> ..unsealed-…`, and that folder holds one whole version. A single file is
//! replaced by rename. Nothing is written to what an application may have open.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid, flock, openat, renameat,
    renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::source::{DATA, Files, first};
use crate::error::GuestError;
use crate::placement::{OnPlace, Placement, check_filesystem};

/// Who may read the plaintext.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    /// The mode of plaintext files. Who may read a file may enter its folders.
    pub mode: u32,
    /// User and group that own it; those of this process otherwise.
    pub owner: Option<(u32, u32)>,
}

impl Default for Access {
    /// This process's user alone.
    fn default() -> Self {
        Self {
            mode: 0o600,
            owner: None,
        }
    }
}

impl Access {
    fn of_folders(self) -> Mode {
        Mode::from_raw_mode(self.mode | 0o100 | (self.mode & 0o444) >> 2)
    }

    fn grant(self, on: &OwnedFd, mode: Mode) -> rustix::io::Result<()> {
        if let Some((user, group)) = self.owner {
            rustix::fs::fchown(on, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        // After the change of owner, which would take bits away.
        rustix::fs::fchmod(on, mode)
    }
}

/// Where the plaintext of one volume goes.
pub(super) struct Mirror {
    /// The folder itself, or the one around the file.
    at: OwnedFd,
    /// Its path.
    folder: PathBuf,
    /// A single file's name in it.
    file: Option<OsString>,
    /// The lock of a single file, which says which files under its name were put there by mirrors.
    record: Option<File>,
    access: Access,
}

impl Mirror {
    /// Opens the mirror of a folder, making an empty one where there is none, and keeps others from it.
    pub(super) fn of_folder(
        to: &Path,
        access: Access,
        placement: Placement,
    ) -> Result<Self, GuestError> {
        let wrong = |reason: String| volume_error(to, reason);
        if !to.exists() {
            // Asked of what it will lie on, so that nothing is made there in vain.
            open_folder(parent(to), placement)?;
            DirBuilder::new()
                .mode(0o700)
                .create(to)
                .map_err(|error| wrong(format!("cannot make the folder: {error}")))?;
            let made = open_folder(to, placement)?;
            access
                .grant(&made, access.of_folders())
                .map_err(|error| wrong(format!("cannot set its mode and owner: {error}")))?;
        }
        let at = open_folder(to, placement)?;
        match flock(&at, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(wrong("another process keeps this mirror already".into()));
            }
            Err(error) => return Err(wrong(format!("cannot be locked: {error}"))),
        }
        let mirror = Self {
            at,
            folder: to.to_owned(),
            file: None,
            record: None,
            access,
        };
        mirror.check_is_ours()?;
        mirror.remove_leftovers();
        Ok(mirror)
    }

    /// Opens the mirror of a single file.
    pub(super) fn of_file(
        to: &Path,
        access: Access,
        placement: Placement,
    ) -> Result<Self, GuestError> {
        let Some(name) = to.file_name() else {
            return Err(volume_error(to, "it names no file"));
        };
        if to.is_dir() {
            return Err(volume_error(
                to,
                "it is a folder, and what is to be unsealed there is a file",
            ));
        }
        let at = open_folder(parent(to), placement)?;
        let wrong = |error: Errno| volume_error(to, format!("its lock cannot be opened: {error}"));
        let kept = || volume_error(to, "another process keeps this mirror already");
        let lock = lock_name(name);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let record = openat(&at, &lock, flags, Mode::RUSR | Mode::WUSR).map_err(wrong)?;
        match flock(&record, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(kept()),
            Err(error) => return Err(wrong(error)),
        }
        // Its keeper may have removed it meanwhile, and somebody else made another one.
        if !is_named(&at, &lock, &record) {
            return Err(kept());
        }
        let mirror = Self {
            at,
            folder: parent(to).to_owned(),
            file: Some(name.to_owned()),
            record: Some(File::from(record)),
            access,
        };
        mirror.check_file_is_ours(name)?;
        mirror.remove_leftovers();
        Ok(mirror)
    }

    /// A file that no mirror put there is not overwritten.
    fn check_file_is_ours(&self, name: &OsStr) -> Result<(), GuestError> {
        let Some(there) = self.identity(name) else {
            return Ok(());
        };
        let mut recorded = String::new();
        if let Some(record) = &self.record {
            record
                .take(MAX_RECORD)
                .read_to_string(&mut recorded)
                .map_err(|error| self.error(format!("its lock cannot be read: {error}")))?;
        }
        match recorded.lines().any(|line| line == there) {
            true => Ok(()),
            false => Err(self.error(
                "something else lies where the plaintext is to appear: remove it, or choose another place",
            )),
        }
    }

    /// Notes which files may be found under the name from now on: before one is put there, and the one before it with it.
    fn note(&self, names: &[&OsStr]) -> io::Result<()> {
        let Some(mut record) = self.record.as_ref() else {
            return Ok(());
        };
        let lines: Vec<String> = names
            .iter()
            .filter_map(|name| self.identity(name))
            .collect();
        record.set_len(0)?;
        record.seek(SeekFrom::Start(0))?;
        record.write_all(lines.join("\n").as_bytes())
    }

    /// Which file has a name in this folder: a number alone is given to another when a file is gone.
    fn identity(&self, name: &OsStr) -> Option<String> {
        let stat = rustix::fs::statat(&self.at, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let written = (stat.st_mtime, stat.st_mtime_nsec);
        Some(format!(
            "{}:{}:{}.{}",
            stat.st_dev, stat.st_ino, written.0, written.1
        ))
    }

    /// Lets another process keep this mirror from now on.
    pub(super) fn unlock(&self) {
        // It would fail for a descriptor that is none.
        match &self.record {
            Some(record) => flock(record, FlockOperation::Unlock).ok(),
            None => flock(&self.at, FlockOperation::Unlock).ok(),
        };
    }

    /// Writes a version beside the one in force, where no application looks.
    pub(super) fn stage(
        &self,
        files: &Files,
        on_place: &mut OnPlace<'_>,
    ) -> Result<Staged<'_>, GuestError> {
        let staged = Staged {
            mirror: self,
            name: unused_name(self.file.as_deref()),
            top: files
                .keys()
                .filter_map(|path| first(path))
                .map(OsStr::to_owned)
                .collect(),
            done: false,
        };
        staged.check_names()?;
        let path = self.folder.join(&staged.name);
        on_place(&path, &mut || staged.write(files))
            .map_err(|error| self.error(format!("cannot write the plaintext: {error}")))?;
        Ok(staged)
    }

    /// Whether what is in force is exactly this.
    pub(super) fn holds(&self, files: &Files) -> bool {
        let path = match &self.file {
            None => self.folder.clone(),
            Some(name) => self.folder.join(name),
        };
        super::source::read(&path).is_ok_and(|(held, _)| held == *files)
    }

    /// Removes all plaintext and every name of it.
    pub(super) fn clear(&self) {
        let result = match &self.file {
            Some(name) => unlinkat(&self.at, name, AtFlags::empty()).map_err(io::Error::from),
            None => self.clear_folder(),
        };
        if let Err(error) = result
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %self.folder.display(), %error, "plaintext could not be removed");
        }
    }

    fn clear_folder(&self) -> io::Result<()> {
        for name in self.links()? {
            unlinkat(&self.at, &name, AtFlags::empty())?;
        }
        if self.in_force()?.is_some() {
            unlinkat(&self.at, DATA, AtFlags::empty())?;
        }
        self.remove_leftovers();
        Ok(())
    }

    /// The version that `..data` shows.
    fn in_force(&self) -> io::Result<Option<OsString>> {
        match rustix::fs::readlinkat(&self.at, DATA, Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The names that show what is in the version in force.
    fn links(&self) -> io::Result<Vec<OsString>> {
        let mut links = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.at)? {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if self.is_link(&name) {
                links.push(name);
            }
        }
        Ok(links)
    }

    fn is_link(&self, name: &OsStr) -> bool {
        rustix::fs::readlinkat(&self.at, name, Vec::new())
            .is_ok_and(|target| target.to_bytes() == shown_by(name).as_bytes())
    }

    /// A folder that something else keeps, such as the kubelet, must not be taken over.
    fn check_is_ours(&self) -> Result<(), GuestError> {
        match self.in_force() {
            Ok(None) => Ok(()),
            Ok(Some(version)) if is_version(&version) => Ok(()),
            _ => Err(self.error(
                "its ..data was made by something else, such as a Kubernetes volume: choose an empty folder",
            )),
        }
    }

    /// Removes what a process that was killed has left: versions that are not in force.
    fn remove_leftovers(&self) {
        let in_force = self.in_force().ok().flatten();
        let ending = self.file.as_deref().map(ending);
        let Ok(entries) = rustix::fs::Dir::read_from(&self.at) else {
            return;
        };
        for entry in entries.flatten() {
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            let ours = match &ending {
                Some(ending) => name.as_bytes().ends_with(ending.as_bytes()),
                None => Some(&name) != in_force.as_ref(),
            };
            if is_version(&name) && ours {
                self.remove_version(&name);
            }
        }
    }

    fn remove_version(&self, name: &OsStr) {
        let path = self.folder.join(name);
        let removed = match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => Err(error),
        };
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(path = %path.display(), %error, "plaintext could not be removed");
        }
    }

    fn put_in_force(&self, version: &OsStr, on_place: &mut OnPlace<'_>) -> io::Result<()> {
        // One that a killed process has left.
        unlinkat(&self.at, DATA_TMP, AtFlags::empty()).ok();
        on_place(&self.folder.join(DATA), &mut || {
            symlinkat(version, &self.at, DATA_TMP)?;
            Ok(renameat(&self.at, DATA_TMP, &self.at, DATA)?)
        })
    }

    /// Makes the names those of the version in force: first the new ones, then away with the old.
    fn name(&self, wanted: &BTreeSet<OsString>, on_place: &mut OnPlace<'_>) -> io::Result<()> {
        for name in wanted {
            if !self.is_link(name) {
                on_place(&self.folder.join(name), &mut || {
                    Ok(symlinkat(shown_by(name), &self.at, name)?)
                })?;
            }
        }
        for name in self.links()? {
            if !wanted.contains(&name) {
                unlinkat(&self.at, &name, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    fn error(&self, reason: impl Into<String>) -> GuestError {
        match &self.file {
            None => volume_error(&self.folder, reason),
            Some(name) => volume_error(&self.folder.join(name), reason),
        }
    }
}

impl Drop for Mirror {
    /// Where no plaintext lies, no lock has to say whose it is.
    fn drop(&mut self) {
        let (Some(name), Some(record)) = (&self.file, &self.record) else {
            return;
        };
        let lock = lock_name(name);
        // Another process may keep it by now.
        let is_kept = flock(record, FlockOperation::NonBlockingLockExclusive).is_ok();
        let says_nothing = record.metadata().is_ok_and(|metadata| metadata.len() == 0)
            || self.identity(name).is_none();
        if is_kept && says_nothing && is_named(&self.at, &lock, record) {
            unlinkat(&self.at, &lock, AtFlags::empty()).ok();
        }
    }
}

/// A version that is written and not in force. Dropping it removes it.
pub(super) struct Staged<'a> {
    mirror: &'a Mirror,
    name: OsString,
    top: BTreeSet<OsString>,
    done: bool,
}

impl<'a> Staged<'a> {
    /// What lies under a name that plaintext is to have, and is not plaintext, is not overwritten.
    fn check_names(&self) -> Result<(), GuestError> {
        let mirror = self.mirror;
        if mirror.file.is_some() {
            return Ok(());
        }
        for name in &self.top {
            let there = rustix::fs::statat(&mirror.at, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
            if there && !mirror.is_link(name) {
                return Err(volume_error(
                    &mirror.folder.join(name),
                    "something else lies where the plaintext is to appear: choose an empty folder",
                ));
            }
        }
        Ok(())
    }

    fn write(&self, files: &Files) -> io::Result<()> {
        let Mirror { at, access, .. } = self.mirror;
        if self.mirror.file.is_some() {
            let content = files.values().next().map_or(&[][..], |content| content);
            return self.write_file(at, &self.name, content);
        }
        rustix::fs::mkdirat(at, &self.name, Mode::RWXU)?;
        let version = openat(at, &self.name, FOLDER, Mode::empty())?;
        let mut folders = BTreeSet::new();
        for (path, content) in files {
            // Shorter paths first, as they lie in each other.
            let mut around: Vec<&Path> = path.ancestors().skip(1).collect();
            around.reverse();
            for folder in around {
                if folder != Path::new("") && folders.insert(folder) {
                    rustix::fs::mkdirat(&version, folder, Mode::RWXU)?;
                }
            }
            self.write_file(&version, path.as_os_str(), content)?;
        }
        // Deepest first, and the whole last: until then only this process's user can enter.
        for folder in folders.iter().rev() {
            let folder = openat(&version, *folder, FOLDER, Mode::empty())?;
            access.grant(&folder, access.of_folders())?;
        }
        access.grant(&version, access.of_folders())?;
        Ok(())
    }

    fn write_file(&self, at: &OwnedFd, name: &OsStr, content: &[u8]) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(at, name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(content)?;
        let access = self.mirror.access;
        access.grant(&OwnedFd::from(file), Mode::from_raw_mode(access.mode))?;
        Ok(())
    }

    /// Puts it in force: from here on applications see it, and it alone.
    pub(super) fn place(mut self, on_place: &mut OnPlace<'_>) -> Result<Placed<'a>, GuestError> {
        let mirror = self.mirror;
        let wrong = |error: io::Error| {
            mirror.error(format!("cannot put the plaintext in its place: {error}"))
        };
        if let Some(file) = &mirror.file {
            let before = self.place_file(file, on_place).map_err(wrong)?;
            self.done = true;
            return Ok(Placed { mirror, before });
        }
        let before = mirror.in_force().map_err(wrong)?;
        let names = mirror.links().map_err(wrong)?.into_iter().collect();
        let placed = Placed {
            mirror,
            before: before.map_or(Before::Nothing, |version| Before::Version(version, names)),
        };
        self.done = true;
        let named = mirror
            .put_in_force(&self.name, on_place)
            .and_then(|()| mirror.name(&self.top, on_place));
        match named {
            Ok(()) => Ok(placed),
            Err(error) => {
                placed.revert();
                Err(wrong(error))
            }
        }
    }

    fn place_file(&self, file: &OsStr, on_place: &mut OnPlace<'_>) -> io::Result<Before> {
        let mirror = self.mirror;
        let at = &mirror.at;
        let mut before = Before::Nothing;
        mirror.note(&[file, &self.name])?;
        on_place(&mirror.folder.join(file), &mut || {
            // The file before takes the new one's name: it can come back.
            match renameat_with(at, &self.name, at, file, RenameFlags::EXCHANGE) {
                Ok(()) => {
                    before = Before::File(self.name.clone());
                    Ok(())
                }
                // There is none, or the file system cannot exchange.
                Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {
                    Ok(renameat(at, &self.name, at, file)?)
                }
                Err(error) => Err(error.into()),
            }
        })?;
        Ok(before)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.mirror.remove_version(&self.name);
        }
    }
}

/// A version in force, and the one before, until it is decided which stays.
pub(super) struct Placed<'a> {
    mirror: &'a Mirror,
    before: Before,
}

enum Before {
    Nothing,
    Version(OsString, BTreeSet<OsString>),
    File(OsString),
}

impl Placed<'_> {
    /// Removes the version before.
    pub(super) fn keep(self) {
        match self.before {
            Before::Nothing => {}
            Before::Version(version, _) => {
                // Who has read the link a moment ago is still on the way to the file.
                std::thread::sleep(GRACE);
                self.mirror.remove_version(&version);
            }
            Before::File(file) => self.mirror.remove_version(&file),
        }
    }

    /// Puts the version before in force again.
    pub(super) fn revert(self) {
        let mirror = self.mirror;
        let reverted = match (&self.before, &mirror.file) {
            (Before::Version(version, names), _) => {
                let run: &mut OnPlace<'_> = &mut |_, step| step();
                mirror
                    .put_in_force(version, run)
                    .and_then(|()| mirror.name(names, run))
                    .map(|()| mirror.remove_leftovers())
            }
            (Before::File(before), Some(file)) => {
                renameat(&mirror.at, before, &mirror.at, file).map_err(io::Error::from)
            }
            _ => {
                mirror.clear();
                Ok(())
            }
        };
        if let Err(error) = reverted {
            tracing::error!(path = %mirror.folder.display(), %error, "the version before could not be put back");
        }
    }
}

/// What the link of a name says.
fn shown_by(name: &OsStr) -> OsString {
    Path::new(DATA).join(name).into_os_string()
}

fn is_version(name: &OsStr) -> bool {
    name.as_bytes().starts_with(VERSION_PREFIX.as_bytes()) || name == DATA_TMP
}

/// A name that no version of this mirror has: versions are made with `O_EXCL`, so that one taken is an error. Several
/// files may be mirrored into one folder; the end of the name tells whose version it is.
fn unused_name(file: Option<&OsStr>) -> OsString {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = format!("{VERSION_PREFIX}{now}-{}-{count}", std::process::id());
    name.push_str(&file.map(ending).unwrap_or_default());
    name.into()
}

/// A file's name may fill all that a name may have, so it is not written out.
fn ending(file: &OsStr) -> String {
    let mut hasher = DefaultHasher::new();
    file.hash(&mut hasher);
    format!("-file-{:016x}", hasher.finish())
}

fn lock_name(file: &OsStr) -> String {
    format!("{LOCK_PREFIX}{}", ending(file))
}

/// Whether this very file still has the name.
fn is_named(at: &OwnedFd, name: &str, file: impl AsFd) -> bool {
    let there = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
    let (Ok(there), Ok(held)) = (there, rustix::fs::fstat(file)) else {
        return false;
    };
    (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn open_folder(path: &Path, placement: Placement) -> Result<OwnedFd, GuestError> {
    let folder = rustix::fs::open(path, FOLDER.difference(OFlags::NOFOLLOW), Mode::empty())
        .map_err(|error| volume_error(path, format!("cannot open the folder: {error}")))?;
    check_filesystem(&folder, path, placement)?;
    Ok(folder)
}

pub(super) fn volume_error(path: &Path, reason: impl Into<String>) -> GuestError {
    GuestError::Volume {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

const FOLDER: OFlags = OFlags::DIRECTORY
    .union(OFlags::RDONLY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const VERSION_PREFIX: &str = "..unsealed-";
const LOCK_PREFIX: &str = "..unsealing";
const MAX_RECORD: u64 = 4096;
const DATA_TMP: &str = "..data_tmp";
/// Far longer than a path takes from its link to its file.
const GRACE: Duration = Duration::from_millis(50);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use zeroize::Zeroizing;

    use super::*;

    const ANYWHERE: Placement = Placement::InsecureAnyFilesystem;

    fn open(to: &Path) -> Result<Mirror, GuestError> {
        Mirror::of_folder(to, Access::default(), ANYWHERE)
    }

    fn files(pairs: &[(&str, &str)]) -> Files {
        pairs
            .iter()
            .map(|(path, text)| (path.into(), Zeroizing::new(text.as_bytes().to_vec())))
            .collect()
    }

    fn step() -> impl FnMut(&Path, &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        |_, step| step()
    }

    fn place(mirror: &Mirror, files: &Files) {
        let staged = mirror.stage(files, &mut step()).unwrap();
        staged.place(&mut step()).unwrap().keep();
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(LOCK_PREFIX))
            .map(|name| match name.starts_with(VERSION_PREFIX) {
                true => "(version)".to_owned(),
                false => name,
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn layout_is_not_that_of_the_kubelet() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("made");
        let mirror = open(&to).unwrap();
        place(&mirror, &files(&[("a", "1"), ("deep/er/b", "2")]));
        assert_eq!(names(&to), ["(version)", "..data", "a", "deep"]);
        assert_eq!(fs::read_link(to.join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::read(to.join("deep/er/b")).unwrap(), b"2");
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("a"), mode("deep/er/b")), (0o600, 0o600));
        assert_eq!(
            (mode(""), mode("..data"), mode("deep")),
            (0o700, 0o700, 0o700)
        );
    }

    #[test]
    fn named_mode_is_not_that_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("made");
        let access = Access {
            mode: 0o440,
            owner: None,
        };
        let mirror = Mirror::of_folder(&to, access, ANYWHERE).unwrap();
        place(&mirror, &files(&[("a", "1"), ("deep/b", "2")]));
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().mode() & 0o7777;
        assert_eq!((mode("a"), mode("deep")), (0o440, 0o550));
    }

    #[test]
    fn update_leaves_a_name_or_a_version_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = open(folder.path()).unwrap();
        place(&mirror, &files(&[("a", "1"), ("b", "1")]));
        place(&mirror, &files(&[("b", "2"), ("c", "2")]));
        assert_eq!(names(folder.path()), ["(version)", "..data", "b", "c"]);
        assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"2");
        assert!(mirror.holds(&files(&[("b", "2"), ("c", "2")])));
        assert!(!mirror.holds(&files(&[("b", "2")])));
    }

    #[test]
    fn version_that_is_dropped_or_reverted_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = open(folder.path()).unwrap();
        drop(mirror.stage(&files(&[("a", "1")]), &mut step()).unwrap());
        assert_eq!(names(folder.path()), [""; 0]);
        let placed = |text| {
            let staged = mirror.stage(&files(&[(text, text)]), &mut step()).unwrap();
            staged.place(&mut step()).unwrap()
        };
        placed("new").revert();
        assert_eq!(names(folder.path()), [""; 0]);
        placed("old").keep();
        placed("new").revert();
        assert_eq!(names(folder.path()), ["(version)", "..data", "old"]);
        assert_eq!(fs::read(folder.path().join("old")).unwrap(), b"old");
        mirror.clear();
        assert_eq!(names(folder.path()), [""; 0]);
    }

    #[test]
    fn what_a_killed_process_left_stays() {
        let folder = tempfile::tempdir().unwrap();
        place(&open(folder.path()).unwrap(), &files(&[("a", "1")]));
        let left = folder.path().join("..unsealed-half");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("a"), "half").unwrap();
        symlink("..unsealed-half", folder.path().join(DATA_TMP)).unwrap();
        open(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["(version)", "..data", "a"]);
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"1");
    }

    #[test]
    fn what_a_killed_process_left_of_a_file_stays_or_that_of_another_goes() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            let left = folder.path().join(unused_name(Some(name.as_ref())));
            fs::write(left, name).unwrap();
        }
        let to = folder.path().join("a");
        Mirror::of_file(&to, Access::default(), ANYWHERE).unwrap();
        let left = fs::read_dir(folder.path()).unwrap();
        let left: Vec<_> = left
            .map(|left| fs::read(left.unwrap().path()).unwrap())
            .filter(|content| !content.is_empty())
            .collect();
        assert_eq!(left, [b"b"]);
    }

    #[test]
    fn something_of_others_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "theirs").unwrap();
        let mirror = open(folder.path()).unwrap();
        let refused = mirror.stage(&files(&[("a", "1")]), &mut step()).err();
        assert!(refused.unwrap().to_string().contains("something else lies"));
        assert_eq!(names(folder.path()), ["a"]);

        let kubelets = tempfile::tempdir().unwrap();
        fs::create_dir(kubelets.path().join("..2026")).unwrap();
        symlink("..2026", kubelets.path().join("..data")).unwrap();
        let refused = open(kubelets.path()).err().unwrap().to_string();
        assert!(refused.contains("Kubernetes"), "{refused}");
    }

    #[test]
    fn two_processes_keep_one_mirror() {
        let folder = tempfile::tempdir().unwrap();
        let first = open(folder.path()).unwrap();
        let refused = open(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("another process"), "{refused}");
        first.unlock();
        assert!(open(folder.path()).is_ok());
    }

    #[test]
    fn single_file_of_others_is_overwritten_or_kept_by_two_processes() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("key");
        let open = || Mirror::of_file(&to, Access::default(), ANYWHERE);
        let place = |mirror: &Mirror, text: &str| {
            let staged = mirror.stage(&files(&[("", text)]), &mut step()).unwrap();
            staged.place(&mut step()).unwrap().keep();
        };
        fs::write(&to, "theirs").unwrap();
        let refused = open().err().unwrap().to_string();
        assert!(refused.contains("something else lies"), "{refused}");
        assert_eq!(fs::read(&to).unwrap(), b"theirs");
        fs::remove_file(&to).unwrap();
        let first = open().unwrap();
        let refused = open().err().unwrap().to_string();
        assert!(refused.contains("another process"), "{refused}");
        place(&first, "1");
        place(&first, "2");
        drop(first);
        // What an earlier run wrote is ours; what took its place is not.
        place(&open().unwrap(), "3");
        fs::write(folder.path().join("theirs"), "theirs").unwrap();
        fs::rename(folder.path().join("theirs"), &to).unwrap();
        assert!(open().is_err());
        assert_eq!(fs::read(&to).unwrap(), b"theirs");
    }

    #[test]
    fn single_file_is_replaced_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("key");
        let mirror = Mirror::of_file(&to, Access::default(), ANYWHERE).unwrap();
        let placed = |text| {
            let staged = mirror.stage(&files(&[("", text)]), &mut step()).unwrap();
            staged.place(&mut step()).unwrap()
        };
        placed("1").revert();
        assert_eq!(names(folder.path()), [""; 0]);
        placed("1").keep();
        placed("2").revert();
        assert_eq!(fs::read(&to).unwrap(), b"1");
        placed("2").keep();
        assert_eq!(fs::read(&to).unwrap(), b"2");
        assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["key"]);
        assert!(mirror.holds(&files(&[("", "2")])));
    }

    #[test]
    fn failed_step_leaves_half_a_version() {
        let folder = tempfile::tempdir().unwrap();
        let mirror = open(folder.path()).unwrap();
        place(&mirror, &files(&[("a", "1")]));
        // Fails at each step in turn, after it was done.
        for failing in 0..4 {
            let mut at = 0;
            let mut fail = |_: &Path, step: &mut dyn FnMut() -> io::Result<()>| {
                step()?;
                at += 1;
                match at > failing {
                    true => Err(io::Error::other("no more")),
                    false => Ok(()),
                }
            };
            let outcome = mirror
                .stage(&files(&[("b", "2"), ("c", "2")]), &mut fail)
                .and_then(|staged| staged.place(&mut fail).map(Placed::revert));
            assert!(outcome.is_err(), "step {failing}");
            assert_eq!(
                names(folder.path()),
                ["(version)", "..data", "a"],
                "{failing}"
            );
            assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"1");
        }
    }
}
