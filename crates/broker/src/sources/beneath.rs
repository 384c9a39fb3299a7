//! Opening what lies in a folder, so that no link leads out of it and nothing but a whole regular file is read.
//!
//! Every name is resolved by `openat2(2)` beneath a folder that is open already. A folder as the kubelet's
//! `AtomicWriter` keeps it is entered through its `..data` link, which is swapped from one complete version to the
//! next: who stands in a version sees that version only.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// An open folder, and the version of it that was entered when it has versions.
pub(super) struct Folder {
    at: OwnedFd,
    generation: Option<String>,
}

impl Folder {
    /// Opens a folder by its path and enters its version.
    pub(super) fn open(path: &Path) -> Result<Self, Unusable> {
        let at = rustix::fs::open(path, FOLDER, Mode::empty())?;
        Self {
            at,
            generation: None,
        }
        .guarded()?
        .enter_version()
    }

    /// Opens a folder in this one and enters its version.
    pub(super) fn folder(&self, name: &str) -> Result<Self, Unusable> {
        let at = rustix::fs::openat2(&self.at, name, FOLDER, Mode::empty(), RESOLVE)?;
        let generation = self.generation.clone();
        Self { at, generation }.guarded()?.enter_version()
    }

    /// The name of the version that was entered.
    pub(super) fn generation(&self) -> Option<&str> {
        self.generation.as_deref()
    }

    fn enter_version(self) -> Result<Self, Unusable> {
        for _ in 0..TRIES {
            let target = match rustix::fs::readlinkat(&self.at, DATA, Vec::new()) {
                Ok(target) => target,
                // No versions; or a copy, in which `..data` is a folder like any other hidden one.
                Err(Errno::NOENT | Errno::INVAL) => return Ok(self),
                Err(error) => return Err(error.into()),
            };
            match rustix::fs::openat2(&self.at, target.as_c_str(), FOLDER, Mode::empty(), RESOLVE) {
                Ok(at) => {
                    let generation = Some(target.to_string_lossy().into_owned());
                    return Self { at, generation }.guarded();
                }
                // It was swapped in between, and the version before it removed.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Unusable::NoVersion)
    }

    /// The names in it, sorted; those that begin with two dots are the folder's own business.
    pub(super) fn names(&self) -> Result<Vec<OsString>, Unusable> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.at)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name.starts_with(b"..") {
                continue;
            }
            if names.len() >= MAX_NAMES {
                return Err(Unusable::TooMany);
            }
            names.push(OsString::from_vec(name.to_vec()));
        }
        names.sort();
        Ok(names)
    }

    /// Whether a name in it is a folder, links followed.
    pub(super) fn is_folder(&self, name: &str) -> bool {
        rustix::fs::openat2(&self.at, name, FOLDER, Mode::empty(), RESOLVE).is_ok()
    }

    /// Refuses a folder into which somebody else may put something.
    fn guarded(self) -> Result<Self, Unusable> {
        guard(&self.at)?;
        Ok(self)
    }

    /// What can be said of a file without reading it; that it may be read is part of it.
    pub(super) fn look(&self, name: &str, limit: usize) -> Result<Seen, Unusable> {
        let file = rustix::fs::openat2(&self.at, name, FILE, Mode::empty(), RESOLVE)?;
        let seen = Seen::of(&file, limit)?;
        guard(&file)?;
        Ok(seen)
    }

    /// Reads a whole file. One that is written over meanwhile is read again, a few times.
    pub(super) fn read(&self, name: &str, limit: usize) -> Result<Zeroizing<Vec<u8>>, Unusable> {
        for _ in 0..TRIES {
            let file = rustix::fs::openat2(&self.at, name, FILE, Mode::empty(), RESOLVE)?;
            let before = Seen::of(&file, limit)?;
            guard(&file)?;
            let mut file = File::from(file);
            // Room for all of it and for the reader's look at the end, so that nothing is moved and left behind.
            let length = usize::try_from(before.size).map_err(|_| Unusable::TooLarge(limit))?;
            let mut content = Zeroizing::new(Vec::with_capacity(length.saturating_add(SLACK)));
            let most = before.size.saturating_add(1);
            (&mut file).take(most).read_to_end(&mut content)?;
            if content.len() == length && Seen::of(&file, limit)? == before {
                return Ok(content);
            }
        }
        Err(Unusable::Changing)
    }
}

/// Refuses what somebody else than this process' user and root may change, and decide with it what guests are given. A volume
/// that is mounted read-only, as the kubelet mounts Secrets, is open to all by its mode and to nobody by its mount.
fn guard(file: &impl AsFd) -> Result<(), Unusable> {
    let stat = rustix::fs::fstat(file)?;
    let owners = [0, rustix::process::geteuid().as_raw()];
    let open = stat.st_mode & 0o022 != 0;
    let foreign = !owners.contains(&stat.st_uid);
    if !open && !foreign {
        return Ok(());
    }
    match rustix::fs::fstatvfs(file)?
        .f_flag
        .contains(StatVfsMountFlags::RDONLY)
    {
        true => Ok(()),
        false if foreign => Err(Unusable::Foreign(stat.st_uid)),
        false => Err(Unusable::Open),
    }
}

/// What is known of a file that is not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    pub(super) size: u64,
    /// In seconds since 1970.
    pub(super) changed_at: u64,
    inode: u64,
    changed: (i64, u64, i64, u64),
}

impl Seen {
    fn of(file: &impl AsFd, limit: usize) -> Result<Self, Unusable> {
        let stat = rustix::fs::fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Unusable::NotAFile);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        match usize::try_from(size) {
            Ok(0) => Err(Unusable::Empty),
            Ok(size) if size <= limit => Ok(()),
            _ => Err(Unusable::TooLarge(limit)),
        }?;
        #[allow(
            clippy::useless_conversion,
            reason = "their width depends on the machine"
        )]
        Ok(Self {
            size,
            changed_at: u64::try_from(stat.st_mtime).unwrap_or(0),
            inode: stat.st_ino.into(),
            changed: (
                stat.st_mtime.into(),
                stat.st_mtime_nsec.into(),
                stat.st_ctime.into(),
                stat.st_ctime_nsec.into(),
            ),
        })
    }
}

/// Why a file gives no secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it has more than {0} bytes")]
    TooLarge(usize),
    #[error("it is empty, and a resource has at least one byte")]
    Empty,
    #[error("it is no regular file")]
    NotAFile,
    #[error("it is no folder")]
    NotAFolder,
    #[error("its ..data leads to no folder")]
    NoVersion,
    #[error("it holds more than {MAX_NAMES} names")]
    TooMany,
    #[error("this kernel has no openat2: Linux 5.6 or newer is needed to read folders safely")]
    Kernel,
    #[error("it is being written to: put a new one in its place by renaming")]
    Changing,
    #[error("it is a link that leads out of its folder")]
    LeadsOut,
    #[error(
        "others may write it, and with it decide what guests are given: chmod go-w, or mount it read-only"
    )]
    Open,
    #[error(
        "it is the user's with the number {0}, who decides with it what guests are given: chown it to the broker's user or to \
         root, or mount it read-only"
    )]
    Foreign(u32),
    #[error("it cannot be read: {0}")]
    Io(io::Error),
}

impl From<Errno> for Unusable {
    fn from(error: Errno) -> Self {
        match error {
            Errno::XDEV | Errno::LOOP => Self::LeadsOut,
            // Somebody renames while a link's `..` is followed.
            Errno::AGAIN => Self::Changing,
            Errno::NOTDIR => Self::NotAFolder,
            Errno::NOSYS => Self::Kernel,
            other => Self::Io(other.into()),
        }
    }
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Unusable {
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Where the kubelet keeps the version in force.
const DATA: &str = "..data";
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// A pipe of that name must not keep us waiting.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
/// A swap takes microseconds and comes once a minute: more than one in a row is no swap.
const TRIES: usize = 16;
/// More than `read_to_end` wants to see free.
const SLACK: usize = 64;
const MAX_NAMES: usize = 100_000;
