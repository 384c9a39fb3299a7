//! Files that hold keys: read only when nobody else can, written once.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use crate::BrokerError;

/// Reads a private file; one that its group or others may touch is refused.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<String>, BrokerError> {
    read_unless(path, 0o077)
}

/// Reads a file from the folder of this process's credentials. systemd lets a service in there by an access control
/// list, whose mask shows as the right of the group to read.
pub(crate) fn read_credential(path: &Path) -> Result<Zeroizing<String>, BrokerError> {
    read_unless(path, 0o037)
}

/// Reads the storage key. Where there is none, every secret is lost until it is back, and whoever starts the broker has to
/// know that another one does not help.
pub(crate) fn read_storage_key(path: &Path) -> Result<Zeroizing<String>, BrokerError> {
    read_private(path).map_err(|error| match error {
        BrokerError::File { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            BrokerError::NoStorageKey { path }
        }
        other => other,
    })
}

fn read_unless(path: &Path, refused: u32) -> Result<Zeroizing<String>, BrokerError> {
    let failed = |source| BrokerError::file(path, source);
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    let credentials = std::env::var_os(CREDENTIALS);
    if mode & refused != 0 && !is_credential(path, &metadata, credentials.as_deref()) {
        return Err(BrokerError::LooseMode {
            path: path.to_owned(),
            mode,
        });
    }
    check_owner(path, &metadata)?;
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Refuses a file of somebody else's, who could give it another mode at any time. Root, who may look at the files of any
/// broker, takes those of whoever has the folder too.
fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), BrokerError> {
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let of_folder =
        || std::fs::metadata(folder.unwrap_or_else(|| Path::new("."))).map(|it| it.uid());
    let is_folders = own == 0 && of_folder().is_ok_and(|folders| folders == owner);
    match owner == 0 || owner == own || is_folders {
        true => Ok(()),
        false => Err(BrokerError::Owner {
            path: path.to_owned(),
            owner,
        }),
    }
}

/// Whether a file is one that systemd hands to this service alone. It may be root's, with an access control list that
/// names the service's user: then the bits of the group are the list's mask, and no group of users can read it.
fn is_credential(path: &Path, metadata: &Metadata, credentials: Option<&OsStr>) -> bool {
    let is_handed = credentials.is_some_and(|folder| path.starts_with(folder));
    let of_root = metadata.uid() == 0 && metadata.gid() == 0;
    is_handed && of_root && metadata.permissions().mode() & 0o037 == 0
}

/// Reads a file that decides something; one that its group or others may write is refused.
pub(crate) fn read_guarded(path: &Path) -> Result<String, BrokerError> {
    String::from_utf8(read_guarded_bytes(path)?).map_err(|_| {
        let kind = std::io::ErrorKind::InvalidData;
        BrokerError::file(path, std::io::Error::new(kind, "it is not text"))
    })
}

/// As [`read_guarded`], whatever the file holds.
pub(crate) fn read_guarded_bytes(path: &Path) -> Result<Vec<u8>, BrokerError> {
    let failed = |source| BrokerError::file(path, source);
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(BrokerError::Writable {
            path: path.to_owned(),
            mode,
        });
    }
    check_owner(path, &metadata)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Looks at a folder whose files decide something, if it is there.
pub(crate) fn check_folder(path: &Path) -> Result<(), BrokerError> {
    let mode = match std::fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(BrokerError::file(path, source)),
    };
    match mode & 0o022 == 0 {
        true => Ok(()),
        false => Err(BrokerError::OpenFolder {
            path: path.to_owned(),
            mode,
        }),
    }
}

/// Whether a file is one of those that the service manager hands to this service: a copy, which is made anew from what
/// the manager has at each start.
pub(crate) fn is_handed(path: &Path) -> bool {
    std::env::var_os(CREDENTIALS).is_some_and(|folder| path.starts_with(folder))
}

/// Replaces a private file whole: what was there stays until what is new is on the disk.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), BrokerError> {
    let beside = path.with_extension("new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(BrokerError::file(&beside, error));
        }
        _ => {}
    }
    write_new(&beside, 0o600, bytes)?;
    std::fs::rename(&beside, path).map_err(|source| BrokerError::file(path, source))?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| BrokerError::file(folder, source))
}

/// Looks at a private file of somebody else's, if it is there; one that its group or others may touch is refused.
pub(crate) fn check_private(path: &Path) -> Result<(), BrokerError> {
    match std::fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o077 != 0 => Err(BrokerError::LooseMode {
            path: path.to_owned(),
            mode,
        }),
        _ => Ok(()),
    }
}

/// Reads the certificates of a PEM file, in order.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BrokerError> {
    let text = std::fs::read(path).map_err(|source| BrokerError::file(path, source))?;
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|e| BrokerError::Config {
            path: path.to_owned(),
            message: format!("not PEM certificates: {e}"),
        })
}

/// Writes a file that must not be there yet, and syncs it.
pub(crate) fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), BrokerError> {
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|source| BrokerError::file(path, source))
}

/// Where systemd puts a service's credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn file_of_another_user_is_believed_for_its_mode() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give a file away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("storage.key");
        write_new(&path, 0o600, b"key").unwrap();
        assert!(read_private(&path).is_ok() && read_guarded(&path).is_ok());
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        for read in [read_private(&path).map(drop), read_guarded(&path).map(drop)] {
            let said = read.unwrap_err().to_string();
            assert!(said.contains("number 12345"), "{said}");
        }
        // Root looks at a broker's folder that is another user's.
        std::os::unix::fs::chown(folder.path(), Some(12_345), None).unwrap();
        assert!(read_private(&path).is_ok() && read_guarded(&path).is_ok());
    }

    #[test]
    fn missing_storage_key_says_no_more_than_that_a_file_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("storage.key");
        let said = read_storage_key(&path).unwrap_err().to_string();
        let wanted = [path.to_str().unwrap(), "secret", "copy", "store.key_file"];
        for wanted in wanted {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
    }

    #[test]
    fn file_that_a_group_may_read_is_taken_for_a_credential() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.key");
        write_new(&path, 0o600, b"key").unwrap();
        let taken = |mode: u32, credentials: Option<&Path>| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let metadata = std::fs::metadata(&path).unwrap();
            is_credential(&path, &metadata, credentials.map(Path::as_os_str))
        };
        let here = Some(folder.path());
        let metadata = std::fs::metadata(&path).unwrap();
        let of_root = metadata.uid() == 0 && metadata.gid() == 0;
        assert_eq!(taken(0o440, here), of_root);
        for (mode, credentials) in [
            (0o440, None),
            (0o440, Some(Path::new("/run/credentials/other"))),
            (0o460, here),
            (0o444, here),
        ] {
            assert!(!taken(mode, credentials), "{mode:o}");
        }
    }

    #[test]
    fn key_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, accepted) in [
            (0o600, true),
            (0o400, true),
            (0o640, false),
            (0o604, false),
            (0o660, false),
        ] {
            let path = folder.path().join(format!("{mode:o}"));
            write_new(&path, 0o600, b"key").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_private(&path).is_ok(), accepted, "{mode:o}");
        }
    }

    #[test]
    fn existing_file_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_new(&path, 0o600, b"first").unwrap();
        assert!(write_new(&path, 0o600, b"second").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
    }
}
