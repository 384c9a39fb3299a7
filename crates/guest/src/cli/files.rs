//! Output files: whole or not at all, never over an existing one unless told, private keys for their owner alone.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{cleanup, outcome};

/// Whether an existing file may be replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// It stays, and nothing is written.
    Refuse,
    /// It makes room.
    Replace,
}

impl Existing {
    /// What `--force` says.
    pub fn from_force(force: bool) -> Self {
        if force { Self::Replace } else { Self::Refuse }
    }
}

/// Where a command writes: a file that appears when it is complete, or standard output.
pub struct Output(Place);

enum Place {
    File {
        file: BufWriter<File>,
        temporary: PathBuf,
        target: PathBuf,
        existing: Existing,
        keep: bool,
    },
    Stdout(io::Stdout),
}

impl Output {
    /// Opens `target`, `-` being standard output. `mode` is the file's, such as `0o600`.
    pub fn create(target: &Path, existing: Existing, mode: u32) -> anyhow::Result<Self> {
        if target == Path::new("-") {
            outcome::standard_output_is_taken();
            return Ok(Self(Place::Stdout(io::stdout())));
        }
        // A link is looked at itself: it is what would be replaced.
        match target.symlink_metadata() {
            Ok(there) if !there.is_file() => bail!(
                "{} exists and is no regular file: choose another name, or - for standard output",
                target.display()
            ),
            Ok(_) if existing == Existing::Refuse => bail!(
                "{} exists already: choose another name, or replace it with --force",
                target.display()
            ),
            _ => {}
        }
        let name = target
            .file_name()
            .with_context(|| format!("{} names no file", target.display()))?;
        let temporary = target.with_file_name(format!(
            ".{}.{}.partial",
            name.to_string_lossy(),
            std::process::id()
        ));
        let file = cleanup::make(|| {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&temporary)?;
            Ok((file, temporary.clone()))
        });
        let file =
            file.with_context(|| format!("cannot write in the folder of {}", target.display()))?;
        Ok(Self(Place::File {
            file: BufWriter::new(file),
            temporary,
            target: target.to_owned(),
            existing,
            keep: false,
        }))
    }

    /// Makes the file appear under its name, once everything is on the disk.
    pub fn commit(mut self) -> anyhow::Result<()> {
        self.flush()?;
        if let Place::File {
            file,
            temporary,
            target,
            existing,
            keep,
        } = &mut self.0
        {
            file.get_ref().sync_all()?;
            let named = cleanup::finish(temporary, || match existing {
                Existing::Replace => std::fs::rename(&*temporary, &*target),
                // A hard link fails where another process has made the name meanwhile.
                Existing::Refuse => std::fs::hard_link(&*temporary, &*target)
                    .and_then(|()| std::fs::remove_file(&*temporary)),
            });
            named.with_context(|| format!("cannot name the finished file {}", target.display()))?;
            *keep = true;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Place::File { file, .. } => file.write(bytes),
            Place::Stdout(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Place::File { file, .. } => file.flush(),
            Place::Stdout(out) => out.flush(),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Place::File {
            temporary,
            keep: false,
            ..
        } = &self.0
        {
            cleanup::discard(temporary);
        }
    }
}

/// Writes a whole file.
pub fn write(target: &Path, existing: Existing, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = Output::create(target, existing, mode)?;
    output.write_all(bytes)?;
    output.commit()
}

/// Opens a file to read, `-` being standard input.
pub fn open(source: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    if source == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        bail!("{} is a folder where a file is expected", source.display());
    }
    Ok(Box::new(file))
}

/// Reads a small file whole, refusing more than `limit` bytes.
pub fn read_limited(source: &Path, limit: u64) -> anyhow::Result<zeroize::Zeroizing<Vec<u8>>> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    open(source)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", source.display()))?;
    if bytes.len() as u64 > limit {
        bail!(
            "{} is larger than the {limit} bytes that are read here",
            source.display()
        );
    }
    Ok(bytes)
}

/// Reads a small text file whole.
pub fn read_text(source: &Path, limit: u64) -> anyhow::Result<String> {
    String::from_utf8(read_limited(source, limit)?.to_vec())
        .with_context(|| format!("{} is not UTF-8 text", source.display()))
}

/// A file's name without its folder: what an encrypted file is bound to unless a name is given.
pub fn base_name(path: &Path) -> anyhow::Result<String> {
    let name = path
        .file_name()
        .with_context(|| format!("{} names no file", path.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn dropped_output_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let mut output = Output::create(&target, Existing::Refuse, 0o600).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn existing_file_is_kept_unless_forced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        write(&target, Existing::Refuse, 0o600, b"one").unwrap();
        assert!(
            write(&target, Existing::Refuse, 0o600, b"two")
                .unwrap_err()
                .to_string()
                .contains("--force")
        );
        write(&target, Existing::Replace, 0o600, b"two").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"two");
    }

    #[test]
    fn name_taken_while_writing_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        let output = Output::create(&target, Existing::Refuse, 0o600).unwrap();
        std::fs::write(&target, b"other").unwrap();
        assert!(output.commit().is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"other");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn private_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("key");
        write(&target, Existing::Refuse, 0o600, b"k").unwrap();
        assert_eq!(
            std::fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
