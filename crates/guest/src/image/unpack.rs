//! Unpacking layers into a folder, so that nothing leads out of it.
//!
//! Every name is resolved by `openat2(2)` in the folder as if it were the root (`RESOLVE_IN_ROOT`): links of the image
//! mean what they will mean when it runs, and none reaches the machine. The last part of a name is never followed. What
//! is refused: absolute names, `..`, device nodes unless allowed, and more than the [`Limits`].
//!
//! Layers are applied in their order, with the whiteouts of the OCI image specification ("Representing Changes"). As
//! root, owners are set, and setuid, setgid and file capabilities kept, since they are then the image's own; otherwise
//! everything belongs to who unpacks, and a setuid bit would be somebody else's: it is left out.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, StatVfs, Timespec, Timestamps,
    Uid, XattrFlags,
};
use rustix::io::Errno;

use super::error::LayerError;
use super::tar::{Entry, Kind, TarError, TarReader};

/// How much an image may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// The bytes of all files of all layers, unpacked.
    pub bytes: u64,
    /// The entries of all layers.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 * 1024 * 1024 * 1024,
            entries: 4_000_000,
        }
    }
}

impl Limits {
    /// No more than could fit into a folder: twice the room there, since what a later layer replaces counts too. It bounds
    /// the memory that an image's mere names take.
    pub(crate) fn within(self, folder: &Path) -> std::io::Result<Self> {
        Ok(self.within_free(&rustix::fs::statvfs(folder)?))
    }

    fn within_free(self, free: &StatVfs) -> Self {
        // No blocks at all: a tmpfs without a size, or ramfs. No inodes: they are made as they are needed.
        let bytes = match free.f_blocks {
            0 => u64::MAX,
            _ => free.f_bavail.saturating_mul(free.f_frsize),
        };
        let entries = match free.f_files {
            0 => u64::MAX,
            _ => free.f_favail,
        };
        Self {
            bytes: self.bytes.min(bytes.saturating_mul(2)),
            entries: self.entries.min(entries.saturating_mul(2)),
        }
    }
}

/// Whether an image may bring device nodes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Devices {
    /// It may not: a runtime makes those that a container needs.
    #[default]
    Refuse,
    /// It may, where the system lets this process make them.
    Allow,
}

/// A folder that layers are unpacked into.
pub(crate) struct Unpacker {
    root: OwnedFd,
    limits: Limits,
    devices: Devices,
    is_root: bool,
    /// Folders whose permissions and times are set when nothing is put into them any more.
    folders: Folders,
    /// The folder of the last entry: the next is often in it.
    last: Option<(Vec<u8>, OwnedFd)>,
}

struct Folder {
    mode: u32,
    modified: i64,
}

/// Folders by their paths, up to so many bytes of paths: deep ones could take a hundred times what they take in a layer.
#[derive(Default)]
struct Folders {
    all: BTreeMap<Vec<u8>, Folder>,
    bytes: usize,
}

impl Folders {
    fn insert(&mut self, path: Vec<u8>, folder: Folder) -> Result<(), Refused> {
        let length = path.len().saturating_add(AROUND_A_FOLDER);
        if self.all.insert(path, folder).is_none() {
            self.bytes = self.bytes.saturating_add(length);
        }
        match self.bytes > MOST_OF_FOLDERS {
            true => Err(Refused::Because(format!(
                "the names of the image's folders have more than {MOST_OF_FOLDERS} bytes together"
            ))),
            false => Ok(()),
        }
    }

    fn remove(&mut self, path: &[u8]) {
        if self.all.remove(path).is_some() {
            let length = path.len().saturating_add(AROUND_A_FOLDER);
            self.bytes = self.bytes.saturating_sub(length);
        }
    }
}

impl Unpacker {
    /// Begins in an empty folder.
    pub(crate) fn new(root: &Path, limits: Limits, devices: Devices) -> Result<Self, LayerError> {
        let root = rustix::fs::openat(CWD, root, FOLDER | OFlags::NOFOLLOW, Mode::empty())
            .map_err(std::io::Error::from)?;
        Ok(Self {
            root,
            limits,
            devices,
            is_root: rustix::process::geteuid().is_root(),
            folders: Folders::default(),
            last: None,
        })
    }

    /// How many bytes a layer's tar file may have: its files, and what surrounds them.
    pub(crate) fn most_bytes(&self) -> u64 {
        let around = self.limits.entries.saturating_mul(AROUND_AN_ENTRY);
        self.limits
            .bytes
            .saturating_add(around)
            .saturating_add(PADDING)
    }

    /// Applies one layer: a plain tar file. Gives the reader back, read to its end.
    pub(crate) fn apply<R: Read>(&mut self, layer: R) -> Result<R, LayerError> {
        let mut reader = TarReader::new(layer);
        let mut written = Written::default();
        self.last = None;
        while let Some(entry) = reader.next().map_err(form)? {
            self.limits.entries = self.limits.entries.checked_sub(1).ok_or_else(|| {
                LayerError::Form("the image has more entries than an image may have".to_owned())
            })?;
            let shown = || {
                String::from_utf8_lossy(&entry.path)
                    .chars()
                    .take(200)
                    .collect::<String>()
            };
            self.place(&entry, &mut reader, &mut written).map_err(|refused| match refused {
                Refused::Layer(error) => error,
                Refused::Because(reason) => LayerError::Entry { path: shown(), reason },
                Refused::System(errno) => LayerError::Entry {
                    path: shown(),
                    reason: match errno {
                        Errno::XDEV | Errno::LOOP => "a link in its path leads in a circle or out of the image".to_owned(),
                        Errno::NOSYS => "this kernel has no openat2: Linux 5.6 or newer is needed to unpack safely".to_owned(),
                        Errno::PERM | Errno::ACCESS => format!("{errno}: this user may not; unpack as root, or another image"),
                        Errno::NOSPC => "no space is left where the image is unpacked".to_owned(),
                        other => other.to_string(),
                    },
                },
            })?;
        }
        self.last = None;
        reader.drain().map_err(form)
    }

    /// Sets the permissions and times of folders, the deepest first.
    pub(crate) fn finish(mut self) -> Result<(), LayerError> {
        self.last = None;
        for (path, folder) in std::mem::take(&mut self.folders.all).into_iter().rev() {
            let at = match path.is_empty() {
                true => rustix::io::dup(&self.root),
                false => self.open(&path, FOLDER | OFlags::NOFOLLOW),
            };
            // One that a later layer removed or replaced is not there any more.
            let Ok(at) = at else { continue };
            let set = rustix::fs::fchmod(&at, Mode::from_raw_mode(folder.mode))
                .and_then(|()| rustix::fs::futimens(&at, &times(folder.modified)));
            set.map_err(std::io::Error::from)?;
        }
        Ok(())
    }

    fn place<R: Read>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R>,
        written: &mut Written,
    ) -> Result<(), Refused> {
        let parts = parts(&entry.path)?;
        let Some((name, above)) = parts.split_last() else {
            // The root itself.
            if entry.kind == Kind::Directory {
                self.own(self.root.as_fd(), entry)?;
                self.folders.insert(
                    Vec::new(),
                    Folder {
                        mode: self.mode(entry),
                        modified: entry.modified,
                    },
                )?;
            }
            return Ok(());
        };
        let parent_path = above.join(&b'/');
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.white_out(&parent_path, hidden, written);
        }
        let path = parts.join(&b'/');
        let parent = self.parent(&parent_path)?;
        let is_folder = entry.kind == Kind::Directory;
        match rustix::fs::statat(&parent, *name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat)
                if is_folder && FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            Ok(_) => remove(parent.as_fd(), name, 0)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match &entry.kind {
            Kind::Directory => {
                match rustix::fs::mkdirat(&parent, *name, OWNER_ONLY) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let at =
                    rustix::fs::openat(&parent, *name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
                self.own(at.as_fd(), entry)?;
                self.attributes(at.as_fd(), entry)?;
                self.folders.insert(
                    path.clone(),
                    Folder {
                        mode: self.mode(entry),
                        modified: entry.modified,
                    },
                )?;
            }
            Kind::File => self.file(parent.as_fd(), name, entry, reader)?,
            Kind::Symlink(target) => {
                check_target(target)?;
                rustix::fs::symlinkat(target.as_slice(), &parent, *name)?;
                if self.is_root {
                    rustix::fs::chownat(
                        &parent,
                        *name,
                        uid(entry),
                        gid(entry),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                }
                rustix::fs::utimensat(
                    &parent,
                    *name,
                    &times(entry.modified),
                    AtFlags::SYMLINK_NOFOLLOW,
                )?;
            }
            Kind::Link(target) => {
                let parts = crate::image::unpack::parts(target)?;
                let (last, above) = parts
                    .split_last()
                    .ok_or_else(|| Refused::Because("it is a hard link to the root".to_owned()))?;
                let folder = self.open(&above.join(&b'/'), FOLDER)?;
                // Without AT_SYMLINK_FOLLOW a link to a link is another name of the link.
                rustix::fs::linkat(&folder, *last, &parent, *name, AtFlags::empty())?;
            }
            Kind::Fifo => {
                let mode = Mode::from_raw_mode(entry.mode & PERMISSIONS);
                rustix::fs::mknodat(&parent, *name, FileType::Fifo, mode, 0)?;
                if self.is_root {
                    rustix::fs::chownat(
                        &parent,
                        *name,
                        uid(entry),
                        gid(entry),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                }
            }
            Kind::CharacterDevice(0, 0) => {
                return Err(Refused::Because(
                    "it is a character device 0/0, which overlay file systems take for a deletion"
                        .to_owned(),
                ));
            }
            Kind::CharacterDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                if self.devices == Devices::Refuse {
                    return Err(Refused::Because(
                        "it is a device node, and an image may bring none: allow them with --allow-devices".to_owned(),
                    ));
                }
                let kind = match entry.kind {
                    Kind::BlockDevice(..) => FileType::BlockDevice,
                    _ => FileType::CharacterDevice,
                };
                let mode = Mode::from_raw_mode(entry.mode & PERMISSIONS);
                rustix::fs::mknodat(
                    &parent,
                    *name,
                    kind,
                    mode,
                    rustix::fs::makedev(*major, *minor),
                )?;
                if self.is_root {
                    rustix::fs::chownat(
                        &parent,
                        *name,
                        uid(entry),
                        gid(entry),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                }
            }
        }
        if !is_folder {
            self.folders.remove(&path);
        }
        written.add(&path)
    }

    fn file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), Refused> {
        self.limits.bytes = self.limits.bytes.checked_sub(entry.size).ok_or_else(|| {
            Refused::Because("the image's files are larger than an image may be".to_owned())
        })?;
        let at = rustix::fs::openat(parent, name, NEW_FILE, OWNER_ONLY)?;
        let mut file = std::fs::File::from(at);
        let mut buffer = vec![0; COPY];
        loop {
            let read = reader
                .read(&mut buffer)
                .map_err(|error| Refused::Layer(form(error.into())))?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            file.write_all(bytes)
                .map_err(|error| match Errno::from_io_error(&error) {
                    Some(errno) => Refused::System(errno),
                    None => Refused::Layer(error.into()),
                })?;
        }
        // The owner first: changing it clears what the mode sets.
        self.own(file.as_fd(), entry)?;
        self.attributes(file.as_fd(), entry)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode(entry)))?;
        rustix::fs::futimens(&file, &times(entry.modified))?;
        Ok(())
    }

    fn white_out(
        &mut self,
        parent: &[u8],
        hidden: &[u8],
        written: &Written,
    ) -> Result<(), Refused> {
        let folder = match parent.is_empty() {
            true => rustix::io::dup(&self.root)?,
            false => match self.open(parent, FOLDER) {
                Ok(folder) => folder,
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                Err(error) => return Err(error.into()),
            },
        };
        self.last = None;
        let joined = |name: &[u8]| match parent.is_empty() {
            true => name.to_vec(),
            false => [parent, b"/", name].concat(),
        };
        if hidden == OPAQUE {
            return remove_older(folder.as_fd(), parent, written, 0);
        }
        // What aufs kept for itself.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Refused::Because("it is a whiteout of no name".to_owned()));
        }
        // A whiteout hides what lower layers brought, never what its own layer does.
        if written.has(&joined(hidden)) {
            return match rustix::fs::openat(
                &folder,
                hidden,
                FOLDER | OFlags::NOFOLLOW,
                Mode::empty(),
            ) {
                Ok(below) => remove_older(below.as_fd(), &joined(hidden), written, 0),
                Err(_) => Ok(()),
            };
        }
        match rustix::fs::statat(&folder, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => {
                self.folders.remove(&joined(hidden));
                remove(folder.as_fd(), hidden, 0)
            }
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder that an entry lies in; made where no entry made it.
    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd, Refused> {
        if let Some((_, at)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(rustix::io::dup(at)?);
        }
        let at = match path.is_empty() {
            true => rustix::io::dup(&self.root)?,
            false => match self.open(path, FOLDER) {
                Ok(at) => at,
                Err(Errno::NOENT) => self.make(path)?,
                Err(error) => return Err(error.into()),
            },
        };
        self.last = Some((path.to_vec(), rustix::io::dup(&at)?));
        Ok(at)
    }

    fn make(&self, path: &[u8]) -> Result<OwnedFd, Refused> {
        let mut at = rustix::io::dup(&self.root)?;
        let mut length = 0_usize;
        for part in path.split(|byte| *byte == b'/') {
            length = length.saturating_add(part.len());
            let so_far = path.get(..length).unwrap_or(path);
            length = length.saturating_add(1);
            at = match self.open(so_far, FOLDER) {
                Ok(next) => next,
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))?;
                    self.open(so_far, FOLDER)?
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(at)
    }

    /// Opens a name as the image itself will see it.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return rustix::io::dup(&self.root);
        }
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // Somebody renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    fn own(&self, at: BorrowedFd<'_>, entry: &Entry) -> Result<(), Refused> {
        if self.is_root {
            rustix::fs::fchown(at, uid(entry), gid(entry))?;
        }
        Ok(())
    }

    fn mode(&self, entry: &Entry) -> u32 {
        match self.is_root {
            true => entry.mode & (PERMISSIONS | SET_IDS | STICKY),
            false => entry.mode & (PERMISSIONS | STICKY),
        }
    }

    /// Users' attributes; capabilities as setuid. None of those that file systems keep for themselves.
    fn attributes(&self, at: BorrowedFd<'_>, entry: &Entry) -> Result<(), Refused> {
        for (name, value) in &entry.attributes {
            let kept = name.starts_with("user.") || (self.is_root && name == "security.capability");
            if !kept {
                continue;
            }
            match rustix::fs::fsetxattr(at, name.as_str(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // tmpfs keeps none of users'; an application that needs them asks for another file system.
                Err(Errno::OPNOTSUPP) if name.starts_with("user.") => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// What a layer has brought so far, by a hash under a random key: a whiteout must tell its own layer's from lower ones'.
#[derive(Default)]
struct Written {
    hashes: HashSet<u64>,
    state: RandomState,
}

impl Written {
    /// With every folder above it, which the layer then holds too.
    fn add(&mut self, path: &[u8]) -> Result<(), Refused> {
        let mut rest = path;
        loop {
            if !self.hashes.insert(self.state.hash_one(rest)) {
                return Ok(());
            }
            if self.hashes.len() > MOST_NAMES {
                return Err(Refused::Because(format!(
                    "the layer brings more than {MOST_NAMES} names, the folders around them included"
                )));
            }
            match rest
                .iter()
                .rposition(|byte| *byte == b'/')
                .and_then(|slash| rest.get(..slash))
            {
                Some(above) => rest = above,
                None => return Ok(()),
            }
        }
    }

    fn has(&self, path: &[u8]) -> bool {
        self.hashes.contains(&self.state.hash_one(path))
    }
}

/// Why an entry is not placed.
enum Refused {
    Because(String),
    System(Errno),
    Layer(LayerError),
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

fn form(error: TarError) -> LayerError {
    match error {
        TarError::Io(error) => LayerError::Io(error),
        other => LayerError::Form(other.to_string()),
    }
}

/// The parts of a name in an image.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Refused> {
    let because = |reason: &str| Err(Refused::Because(reason.to_owned()));
    if path.starts_with(b"/") {
        return because("its path is absolute, which would lead out of the image");
    }
    if path.len() > MAX_PATH {
        return because("its path is longer than a path may be");
    }
    if path.contains(&0) {
        return because("its path has a NUL in it");
    }
    let parts: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .collect();
    if parts.contains(&b"..".as_slice()) {
        return because("its path has .. in it, which would lead out of the image");
    }
    if parts.len() > MAX_DEPTH {
        return because("its path is deeper than a path may be");
    }
    if parts.iter().any(|part| part.len() > 255) {
        return because("a part of its path is longer than 255 bytes");
    }
    Ok(parts)
}

fn check_target(target: &[u8]) -> Result<(), Refused> {
    match target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
        true => Err(Refused::Because("it is a link to no path".to_owned())),
        false => Ok(()),
    }
}

/// Removes a name and, if it is a folder, all below. Links are removed, never followed.
fn remove(folder: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<(), Refused> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if depth > MAX_DEPTH {
        return Err(Refused::Because(
            "what it replaces is deeper than a path may be".to_owned(),
        ));
    }
    let at = rustix::fs::openat(folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    for name in names(at.as_fd())? {
        remove(at.as_fd(), &name, depth + 1)?;
    }
    Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}

/// Removes what lower layers brought below a folder.
fn remove_older(
    folder: BorrowedFd<'_>,
    path: &[u8],
    written: &Written,
    depth: usize,
) -> Result<(), Refused> {
    if depth > MAX_DEPTH {
        return Err(Refused::Because(
            "what it hides is deeper than a path may be".to_owned(),
        ));
    }
    for name in names(folder)? {
        let path = match path.is_empty() {
            true => name.clone(),
            false => [path, b"/", &name].concat(),
        };
        if !written.has(&path) {
            remove(folder, &name, depth)?;
        } else if let Ok(below) =
            rustix::fs::openat(folder, &name, FOLDER | OFlags::NOFOLLOW, Mode::empty())
        {
            remove_older(below.as_fd(), &path, written, depth + 1)?;
        }
    }
    Ok(())
}

fn names(folder: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Refused> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

fn uid(entry: &Entry) -> Option<Uid> {
    Some(Uid::from_raw(entry.uid))
}

fn gid(entry: &Entry) -> Option<Gid> {
    Some(Gid::from_raw(entry.gid))
}

fn times(modified: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: modified,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

const WHITEOUT: &[u8] = b".wh.";
/// Behind the prefix of a whiteout: all that lower layers brought here.
const OPAQUE: &[u8] = b".wh..opq";
const PERMISSIONS: u32 = 0o777;
const SET_IDS: u32 = 0o6000;
const STICKY: u32 = 0o1000;
const OWNER_ONLY: Mode = Mode::RWXU;
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// A header, the padding, and a longer name.
const AROUND_AN_ENTRY: u64 = 4096;
/// What programs write behind the last entry.
const PADDING: u64 = 1024 * 1024;
/// Of paths that are kept until the end; a hundred thousand folders of usual names take a third of it.
const MOST_OF_FOLDERS: usize = 32 * 1024 * 1024;
const AROUND_A_FOLDER: usize = 64;
/// Of one layer; each takes some 16 bytes.
const MOST_NAMES: usize = 4_000_000;
const MAX_PATH: usize = 4095;
const MAX_DEPTH: usize = 256;
const COPY: usize = 128 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::super::tar::tests::Builder;
    use super::*;

    /// A root with a neighbour that nothing may reach.
    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("root")).unwrap();
            fs::create_dir(folder.path().join("outside")).unwrap();
            fs::write(folder.path().join("outside/file"), "untouched").unwrap();
            Self { folder }
        }

        fn root(&self) -> std::path::PathBuf {
            self.folder.path().join("root")
        }

        fn apply_with(
            &self,
            limits: Limits,
            devices: Devices,
            layers: &[Vec<u8>],
        ) -> Result<(), LayerError> {
            let mut unpacker = Unpacker::new(&self.root(), limits, devices)?;
            for layer in layers {
                unpacker.apply(layer.as_slice())?;
            }
            unpacker.finish()
        }

        fn apply(&self, layers: &[Vec<u8>]) -> Result<(), LayerError> {
            self.apply_with(Limits::default(), Devices::Refuse, layers)
        }

        fn refused(&self, layers: &[Vec<u8>], why: &str) {
            let error = self.apply(layers).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
            self.check_outside();
        }

        fn check_outside(&self) {
            let outside = self.folder.path().join("outside");
            assert_eq!(
                fs::read_to_string(outside.join("file")).unwrap(),
                "untouched"
            );
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
            assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 2);
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.root().join(path)).unwrap()
        }

        fn has(&self, path: &str) -> bool {
            self.root().join(path).symlink_metadata().is_ok()
        }
    }

    fn layer(build: impl FnOnce(&mut Builder) -> &mut Builder) -> Vec<u8> {
        let mut builder = Builder::default();
        build(&mut builder);
        builder.finish()
    }

    #[test]
    fn names_of_folders_take_a_hundred_times_what_they_take_in_a_layer() {
        let deep = vec!["d".repeat(200); 19].join("/");
        let mut folders = Folders::default();
        let folder = || Folder {
            mode: 0o755,
            modified: 0,
        };
        let mut insert = |number: usize| {
            let path = format!("{deep}/{number:08}").into_bytes();
            folders.insert(path, folder())
        };
        let most = MOST_OF_FOLDERS / (deep.len() + 9 + AROUND_A_FOLDER);
        for number in 0..most {
            assert!(insert(number).is_ok(), "{number}");
        }
        // One that is there already takes nothing more.
        assert!(insert(0).is_ok());
        assert!(insert(most).is_err());
        folders.remove(format!("{deep}/{:08}", most).as_bytes());
        folders.remove(format!("{deep}/{:08}", 0).as_bytes());
        assert!(folders.insert(b"d".to_vec(), folder()).is_ok());
    }

    #[test]
    fn image_may_have_more_than_there_is_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits::default().within(folder.path()).unwrap();
        let free = rustix::fs::statvfs(folder.path()).unwrap();
        assert!(limits.bytes <= Limits::default().bytes);
        assert!(limits.bytes / 4 <= free.f_bavail.saturating_mul(free.f_frsize));
        // A memory file system without a size has no blocks, and all the room there is.
        let mut endless = free;
        (
            endless.f_blocks,
            endless.f_bavail,
            endless.f_files,
            endless.f_favail,
        ) = (0, 0, 0, 0);
        assert_eq!(Limits::default().within_free(&endless), Limits::default());
        let none = Limits {
            bytes: 7,
            entries: 7,
        };
        assert_eq!(none.within(folder.path()).unwrap(), none);
    }

    #[test]
    fn root_that_is_a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/", folder.path().join("root")).unwrap();
        let opened = Unpacker::new(
            &folder.path().join("root"),
            Limits::default(),
            Devices::Refuse,
        );
        assert!(opened.is_err());
    }

    #[test]
    fn files_folders_and_links_are_placed() {
        let place = Place::new();
        let tar = layer(|b| {
            b.full(b'5', "./", "", b"", 0o755)
                .full(b'5', "d/", "", b"", 0o555)
                .full(b'0', "./d/f", "", b"content", 0o640)
                .entry(b'2', "l", "d/f", b"")
                .entry(b'1', "h", "d/f", b"")
                .entry(b'0', "made/on/the/way", "", b"x")
                .entry(b'6', "pipe", "", b"")
        });
        place.apply(&[tar]).unwrap();
        assert_eq!(place.read("d/f"), "content");
        assert_eq!(place.read("l"), "content");
        assert_eq!(place.read("made/on/the/way"), "x");
        let meta = |path: &str| place.root().join(path).symlink_metadata().unwrap();
        assert_eq!(meta("h").ino(), meta("d/f").ino());
        assert_eq!(meta("d/f").permissions().mode() & 0o7777, 0o640);
        assert_eq!(meta("d").permissions().mode() & 0o7777, 0o555);
        assert_eq!(
            (meta("d").mtime(), meta("d/f").mtime()),
            (1_000_000, 1_000_000)
        );
    }

    #[test]
    fn absolute_and_climbing_names_are_refused() {
        for name in [
            "/etc/passwd",
            "../outside/file",
            "a/../../outside/file",
            "..",
            "a/..",
        ] {
            let place = Place::new();
            place.refused(
                &[layer(|b| b.entry(b'0', name, "", b"evil"))],
                "lead out of the image",
            );
            place.refused(
                &[layer(|b| b.entry(b'1', "h", name, b""))],
                "lead out of the image",
            );
        }
    }

    #[test]
    fn link_out_of_the_image_leads_nowhere() {
        let outside = |place: &Place| {
            place
                .folder
                .path()
                .join("outside")
                .to_str()
                .unwrap()
                .to_owned()
        };
        for relative in [true, false] {
            let place = Place::new();
            let target = if relative {
                "../outside".to_owned()
            } else {
                outside(&place)
            };
            let tar = layer(|b| {
                b.entry(b'2', "l", &target, b"")
                    .entry(b'0', "l/file", "", b"evil")
            });
            // The link means a folder of the image, which is made or missing; never the one outside.
            drop(place.apply(&[tar]));
            place.check_outside();
        }
    }

    #[test]
    fn last_part_of_a_name_is_never_followed() {
        let place = Place::new();
        let target = place.folder.path().join("outside/file");
        symlink(&target, place.root().join("l")).unwrap();
        place
            .apply(&[layer(|b| b.entry(b'0', "l", "", b"mine"))])
            .unwrap();
        place.check_outside();
        assert!(
            !place
                .root()
                .join("l")
                .symlink_metadata()
                .unwrap()
                .is_symlink()
        );
        assert_eq!(place.read("l"), "mine");
    }

    #[test]
    fn hard_link_to_a_link_is_no_way_out() {
        let place = Place::new();
        let target = place.folder.path().join("outside/file");
        let tar = layer(|b| {
            b.entry(b'2', "l", target.to_str().unwrap(), b"")
                .entry(b'1', "h", "l", b"")
                .entry(b'0', "h", "", b"evil")
        });
        place.apply(&[tar]).unwrap();
        place.check_outside();
    }

    #[test]
    fn folder_in_place_of_a_link_replaces_it() {
        let place = Place::new();
        let tar = layer(|b| {
            b.entry(b'2', "d", "../outside", b"")
                .full(b'5', "d/", "", b"", 0o755)
                .entry(b'0', "d/file", "", b"mine")
        });
        place.apply(&[tar]).unwrap();
        place.check_outside();
        assert_eq!(place.read("d/file"), "mine");
    }

    #[test]
    fn links_of_the_image_are_followed_within_it() {
        let place = Place::new();
        let lower = layer(|b| {
            b.full(b'5', "usr/lib", "", b"", 0o755)
                .entry(b'2', "lib", "/usr/lib", b"")
        });
        let upper = layer(|b| b.entry(b'0', "lib/x", "", b"so"));
        place.apply(&[lower, upper]).unwrap();
        assert_eq!(place.read("usr/lib/x"), "so");
    }

    #[test]
    fn whiteouts_hide_lower_layers_and_not_their_own() {
        let place = Place::new();
        let lower = layer(|b| {
            b.entry(b'0', "a", "", b"1")
                .entry(b'0', "d/x", "", b"1")
                .entry(b'0', "d/y/z", "", b"1")
                .entry(b'0', "e/x", "", b"1")
        });
        let upper = layer(|b| {
            b.entry(b'0', ".wh.a", "", b"")
                .entry(b'0', "d/new", "", b"2")
                .entry(b'0', "d/y/new", "", b"2")
                .entry(b'0', "d/.wh..wh..opq", "", b"")
                .entry(b'0', "e/new", "", b"2")
                .entry(b'0', ".wh.e", "", b"")
                .entry(b'0', "gone/.wh.x", "", b"")
        });
        place.apply(&[lower, upper]).unwrap();
        for gone in [
            "a",
            "d/x",
            "d/y/z",
            "e/x",
            ".wh.a",
            "d/.wh..wh..opq",
            "gone",
        ] {
            assert!(!place.has(gone), "{gone}");
        }
        for (new, _) in [("d/new", ()), ("d/y/new", ()), ("e/new", ())] {
            assert_eq!(place.read(new), "2");
        }
    }

    #[test]
    fn whiteout_through_a_link_removes_nothing_outside() {
        let place = Place::new();
        let target = place.folder.path().join("outside");
        let tar = layer(|b| {
            b.entry(b'2', "l", target.to_str().unwrap(), b"")
                .entry(b'0', "l/.wh.file", "", b"")
                .entry(b'0', "l/.wh..wh..opq", "", b"")
        });
        let lower = layer(|b| b.entry(b'2', "m", "../outside", b""));
        drop(place.apply(&[lower, tar, layer(|b| b.entry(b'0', ".wh.m", "", b""))]));
        place.check_outside();
        place.refused(
            &[layer(|b| b.entry(b'0', ".wh...", "", b""))],
            "whiteout of no name",
        );
    }

    #[test]
    fn device_nodes_are_refused_and_a_deletion_in_disguise_always() {
        let place = Place::new();
        for flag in [b'3', b'4'] {
            place.refused(
                &[layer(|b| b.entry(flag, "dev/x", "", b""))],
                "--allow-devices",
            );
        }
        let mut zero = Entry {
            path: b"x".to_vec(),
            kind: Kind::CharacterDevice(0, 0),
            mode: 0,
            uid: 0,
            gid: 0,
            modified: 0,
            size: 0,
            attributes: BTreeMap::new(),
        };
        let mut unpacker = Unpacker::new(&place.root(), Limits::default(), Devices::Allow).unwrap();
        for path in ["x", "d/x"] {
            zero.path = path.as_bytes().to_vec();
            let refused = unpacker.place(
                &zero,
                &mut TarReader::new(&b""[..]),
                &mut Written::default(),
            );
            assert!(matches!(refused, Err(Refused::Because(_))));
        }
    }

    #[test]
    fn setuid_is_kept_only_with_its_owner() {
        let place = Place::new();
        place
            .apply(&[layer(|b| b.full(b'0', "su", "", b"x", 0o4755))])
            .unwrap();
        let meta = place.root().join("su").metadata().unwrap();
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(meta.mode() & 0o7777, if is_root { 0o4755 } else { 0o755 });
    }

    #[test]
    fn image_larger_than_its_limits_is_refused() {
        let tar = layer(|b| {
            b.entry(b'0', "a", "", &[0; 600])
                .entry(b'0', "b", "", &[0; 600])
        });
        for limits in [
            Limits {
                bytes: 1000,
                ..Limits::default()
            },
            Limits {
                entries: 1,
                ..Limits::default()
            },
        ] {
            let place = Place::new();
            let error = place
                .apply_with(limits, Devices::Refuse, std::slice::from_ref(&tar))
                .unwrap_err();
            assert!(error.to_string().contains("than an image may"), "{error}");
        }
        let exact = Limits {
            bytes: 1200,
            entries: 2,
        };
        Place::new()
            .apply_with(exact, Devices::Refuse, std::slice::from_ref(&tar))
            .unwrap();
        let deep = "d/".repeat(300) + "f";
        let tar = layer(|b| b.pax(&[("path", &deep)]).entry(b'0', "x", "", b""));
        Place::new().refused(&[tar], "deeper");
    }

    #[test]
    fn entry_replaces_what_was_there_whatever_it_was() {
        let place = Place::new();
        let lower = layer(|b| b.entry(b'0', "a/b/c", "", b"1").entry(b'0', "f", "", b"1"));
        let upper = layer(|b| b.entry(b'0', "a", "", b"2").entry(b'0', "f/g", "", b"2"));
        let error = place
            .apply(&[lower.clone(), upper])
            .unwrap_err()
            .to_string();
        assert!(error.contains("\"f/g\""), "{error}");
        assert_eq!(place.read("a"), "2");
        let folder = layer(|b| {
            b.full(b'5', "f", "", b"", 0o755)
                .entry(b'0', "f/g", "", b"2")
        });
        let place = Place::new();
        place.apply(&[lower, folder]).unwrap();
        assert_eq!(place.read("f/g"), "2");
    }
}
