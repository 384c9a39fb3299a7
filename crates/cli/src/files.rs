//! Output files: whole or not at all, never over an existing one unless told, private keys for their owner alone.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context as _, bail};
pub(crate) use strongroom_scoring::storage::Existing;
use strongroom_scoring::storage::{Partial, Upload};

use crate::{cleanup, outcome};

/// Where a command writes: a file or an object that appears when it is complete, or standard output.
pub(crate) enum Output {
    File(BufWriter<Partial>),
    Remote {
        upload: Option<Upload>,
        location: String,
        abort: cleanup::Abort,
    },
    Stdout(io::Stdout),
}

impl Output {
    /// Opens `target`, `-` being standard output. `mode` is the file's, such as `0o600`.
    pub(crate) fn create(target: &Path, existing: Existing, mode: u32) -> anyhow::Result<Self> {
        if target == Path::new("-") {
            outcome::standard_output_is_taken();
            return Ok(Self::Stdout(io::stdout()));
        }
        let shown = target.display();
        let partial = cleanup::make(|| {
            let partial = Partial::create(target, existing, mode)?;
            let temporary = partial.temporary().to_owned();
            Ok((partial, temporary))
        });
        match partial {
            Ok(partial) => Ok(Self::File(BufWriter::new(partial))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{shown} exists already: choose another name, or replace it with --force")
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                bail!("{shown}: {error}, or - for standard output")
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot write in the folder of {shown}"))
            }
        }
    }

    /// Takes over what is being written to a storage.
    pub(crate) fn remote(upload: Upload, location: String) -> Self {
        let abort = cleanup::on_signal(upload.aborter());
        Self::Remote {
            upload: Some(upload),
            location,
            abort,
        }
    }

    /// Makes the file appear under its name, once everything is on the disk.
    pub(crate) fn commit(mut self) -> anyhow::Result<()> {
        self.flush()?;
        match &mut self {
            Self::File(file) => {
                let partial = file.get_mut();
                partial.sync()?;
                let temporary = partial.temporary().to_owned();
                cleanup::finish(&temporary, || partial.appear()).with_context(|| {
                    format!(
                        "cannot name the finished file {}",
                        partial.target().display()
                    )
                })?;
            }
            Self::Remote {
                upload, location, ..
            } => {
                if let Some(upload) = upload.take() {
                    upload
                        .finish()
                        .with_context(|| format!("cannot finish {location}"))?;
                }
            }
            Self::Stdout(_) => {}
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Remote { upload, .. } => match upload {
                Some(upload) => upload.write(bytes),
                None => Err(io::ErrorKind::BrokenPipe.into()),
            },
            Self::Stdout(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Remote { upload, .. } => upload.as_mut().map_or(Ok(()), Write::flush),
            Self::Stdout(out) => out.flush(),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        match self {
            Self::File(file) if !file.get_ref().has_appeared() => {
                cleanup::discard(file.get_ref().temporary());
            }
            Self::Remote { abort, .. } => cleanup::forget(*abort),
            _ => {}
        }
    }
}

/// Writes a whole file.
pub(crate) fn write(
    target: &Path,
    existing: Existing,
    mode: u32,
    bytes: &[u8],
) -> anyhow::Result<()> {
    let mut output = Output::create(target, existing, mode)?;
    output.write_all(bytes)?;
    output.commit()
}

/// Opens a file to read, `-` being standard input.
pub(crate) fn open(source: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
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
pub(crate) fn read_limited(
    source: &Path,
    limit: u64,
) -> anyhow::Result<zeroize::Zeroizing<Vec<u8>>> {
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
pub(crate) fn read_text(source: &Path, limit: u64) -> anyhow::Result<String> {
    String::from_utf8(read_limited(source, limit)?.to_vec())
        .with_context(|| format!("{} is not UTF-8 text", source.display()))
}

/// A file's name without its folder: what an encrypted file is bound to unless a name is given.
pub(crate) fn base_name(path: &Path) -> anyhow::Result<String> {
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
