//! Device files: opened as they are, read up to a bound, and errors that name the file and the next step.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::AttestError;

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    match bytes.len() > limit {
        false => Ok(bytes),
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes"),
        )),
    }
}

/// Reads a short text, without the white space around it.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read(path, 256)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"))?;
    Ok(text.trim().to_owned())
}

/// Writes to a file that is there, in one call.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    match file.write(bytes)? {
        length if length == bytes.len() => Ok(()),
        length => Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("{length} of {} bytes were taken", bytes.len()),
        )),
    }
}

/// What a device said, with what to do where that is known.
pub(crate) fn failure(path: &Path, error: &io::Error) -> AttestError {
    AttestError::Device {
        device: path.display().to_string(),
        reason: reason(error),
    }
}

/// The system's words, and the next step.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{error}: run the guest as root, or let its user open the file")
        }
        _ => error.to_string(),
    }
}
