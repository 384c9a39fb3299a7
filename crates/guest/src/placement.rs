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

/// linux/magic.h
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
/// linux/magic.h
const RAMFS_MAGIC: rustix::fs::FsWord = 0x8584_58f6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_on_a_disk_is_told_from_compressed_memory() {
        let swaps = "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n/dev/sda2 partition 1 0 -2\n";
        assert_eq!(swap_on_disk(swaps).collect::<Vec<_>>(), ["/dev/sda2"]);
        assert_eq!(swap_on_disk("").count(), 0);
    }
}
