//! Small files: read whole within a limit, written whole or not at all.

use std::fs::{File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

/// Reads a small file whole, refusing more than `limit` bytes.
///
/// # Errors
/// When it cannot be read, is a folder, or longer.
pub fn read_limited(source: &Path, limit: u64) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let failed = || format!("cannot read {}", source.display());
    let file = File::open(source).with_context(failed)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        bail!("{} is a folder where a file is expected", source.display());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(failed)?;
    if bytes.len() as u64 > limit {
        bail!(
            "{} is larger than the {limit} bytes that are read here",
            source.display()
        );
    }
    Ok(bytes)
}

/// Reads a small text file whole.
///
/// # Errors
/// As [`read_limited`], and when it is no text.
pub fn read_text(source: &Path, limit: u64) -> anyhow::Result<String> {
    String::from_utf8(read_limited(source, limit)?.to_vec())
        .with_context(|| format!("{} is not UTF-8 text", source.display()))
}

/// Writes a whole file in the place of one that may be there.
///
/// # Errors
/// When its folder cannot be written.
pub fn replace(target: &Path, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = target.parent().filter(|folder| *folder != Path::new(""));
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder.unwrap_or_else(|| Path::new(".")))
        .with_context(|| format!("cannot write in the folder of {}", target.display()))?;
    file.write_all(bytes)?;
    // The process's own mask must not decide who reads it.
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.persist(target)
        .with_context(|| format!("cannot name the finished file {}", target.display()))?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn longer_file_is_read_or_another_one_stays_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        replace(&path, 0o644, b"one").unwrap();
        replace(&path, 0o640, b"three").unwrap();
        assert_eq!(**read_limited(&path, 5).unwrap(), *b"three");
        assert_eq!(read_text(&path, 5).unwrap(), "three");
        assert!(read_limited(&path, 4).is_err());
        assert!(read_limited(folder.path(), 4).is_err());
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}
