//! Where plaintext may lie: on memory file systems, unless another is allowed by name.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::GuestError;

/// Where plaintext may lie.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Placement {
    /// On tmpfs and ramfs.
    #[default]
    MemoryOnly,
    /// Anywhere, disks included, where it outlives the machine.
    InsecureAnyFilesystem,
}

/// What surrounds each step that gives plaintext a name: called with that name and the step.
pub type OnPlace<'a> = dyn FnMut(&Path, &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> + 'a;

pub(crate) fn check_filesystem(
    on: impl AsFd,
    folder: &Path,
    placement: Placement,
) -> Result<(), GuestError> {
    if placement == Placement::InsecureAnyFilesystem {
        return Ok(());
    }
    let found = rustix::fs::fstatfs(on)
        .map_err(|error| file_error(folder, io_error("asking for the file system")(error.into())))?
        .f_type;
    if found == TMPFS_MAGIC || found == RAMFS_MAGIC {
        return Ok(());
    }
    Err(GuestError::NotInMemory {
        path: folder.to_owned(),
        filesystem: format!("magic {found:#x}"),
    })
}

/// Whether what is written there reaches no disk in plaintext: it stays in memory, or dm-crypt encrypts it on the way.
pub(crate) fn is_private(on: impl AsFd) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(&on)?.f_type;
    if kind == TMPFS_MAGIC || kind == RAMFS_MAGIC {
        return Ok(true);
    }
    let device = rustix::fs::fstat(&on)?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let at = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    Ok(is_encrypted(&at, 0))
}

/// Whether a block device is encrypted, or all that it is put together from are.
fn is_encrypted(device: &Path, depth: usize) -> bool {
    let uuid = std::fs::read_to_string(device.join("dm/uuid")).unwrap_or_default();
    if ENCRYPTED.iter().any(|kind| uuid.starts_with(kind)) {
        return true;
    }
    let Ok(below) = device.join("slaves").read_dir() else {
        return false;
    };
    let below: Vec<_> = below.flatten().collect();
    depth < MAX_DEPTH
        && !below.is_empty()
        && below
            .iter()
            .all(|part| is_encrypted(&part.path(), depth.saturating_add(1)))
}

/// What tmpfs holds may be swapped out; that it may is the machine's owner's to mend.
pub(crate) fn warn_of_swap() {
    let Ok(swaps) = std::fs::read_to_string("/proc/swaps") else {
        return;
    };
    for device in swap_on_disk(&swaps) {
        tracing::warn!(
            device,
            "swap is on: plaintext on tmpfs can reach this disk; turn swap off (swapoff -a)"
        );
    }
}

/// The swap areas in `/proc/swaps` that are not compressed memory.
fn swap_on_disk(swaps: &str) -> impl Iterator<Item = &str> {
    swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !name.starts_with("/dev/zram"))
}

pub(crate) fn file_error(path: &Path, source: GuestError) -> GuestError {
    match source {
        named @ (GuestError::File { .. } | GuestError::NotInMemory { .. }) => named,
        source => GuestError::File {
            path: path.to_owned(),
            source: Box::new(source),
        },
    }
}

pub(crate) fn io_error(doing: &'static str) -> impl Fn(io::Error) -> GuestError {
    move |error| GuestError::Io {
        doing,
        reason: error.to_string(),
    }
}

/// How the UUIDs of cryptsetup's mappings begin; its integrity and verity alone encrypt nothing.
const ENCRYPTED: [&str; 4] = [
    "CRYPT-LUKS1-",
    "CRYPT-LUKS2-",
    "CRYPT-PLAIN-",
    "CRYPT-TCRYPT-",
];
const MAX_DEPTH: usize = 8;
/// linux/magic.h
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
/// linux/magic.h
const RAMFS_MAGIC: rustix::fs::FsWord = 0x8584_58f6;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn device_that_only_checks_or_is_half_encrypted_is_taken_for_encrypted() {
        let folder = tempfile::tempdir().unwrap();
        let device = |name: &str, uuid: &str, parts: &[&str]| {
            let at = folder.path().join(name);
            std::fs::create_dir_all(at.join("dm")).unwrap();
            std::fs::create_dir_all(at.join("slaves")).unwrap();
            std::fs::write(at.join("dm/uuid"), uuid).unwrap();
            for part in parts {
                let link = at.join("slaves").join(part);
                std::os::unix::fs::symlink(folder.path().join(part), link).unwrap();
            }
            at
        };
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk).unwrap();
        let crypt = device("crypt", "CRYPT-LUKS2-0123-scratch\n", &["disk"]);
        let integrity = device("integrity", "CRYPT-INTEGRITY-x\n", &["disk"]);
        let volume = device("volume", "LVM-x\n", &["crypt"]);
        let half = device("half", "LVM-y\n", &["crypt", "disk"]);
        let circle = device("circle", "LVM-z\n", &["circle"]);
        for (at, encrypted) in [
            (&crypt, true),
            (&volume, true),
            (&disk, false),
            (&integrity, false),
            (&half, false),
            (&circle, false),
        ] {
            assert_eq!(is_encrypted(at, 0), encrypted, "{}", at.display());
        }
        assert!(!is_encrypted(&folder.path().join("none"), 0));
    }

    #[test]
    fn swap_on_a_disk_is_told_from_compressed_memory() {
        let swaps = "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n/dev/sda2 partition 1 0 -2\n";
        assert_eq!(swap_on_disk(swaps).collect::<Vec<_>>(), ["/dev/sda2"]);
        assert_eq!(swap_on_disk("").count(), 0);
    }
}
