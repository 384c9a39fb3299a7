//! Sockets that only their owner may open.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::error::GuestError;

/// A listening socket whose file goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Binds with mode 0600. A socket that a killed process left behind is replaced; one in use, or another file, is not.
    /// To be called before there are further threads: what files may be is said for the whole process.
    ///
    /// # Errors
    /// [`GuestError::Socket`].
    pub fn bind(path: &Path) -> Result<Self, GuestError> {
        let failed = |error: io::Error| GuestError::Socket {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let stale = path
            .symlink_metadata()
            .is_ok_and(|metadata| metadata.file_type().is_socket())
            && UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if stale {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(mask);
        Ok(Self {
            listener: bound.map_err(failed)?,
            path: path.to_owned(),
        })
    }

    /// As [`Self::bind`], with the folders above it.
    ///
    /// # Errors
    /// [`GuestError::Socket`].
    pub fn bind_with_folder(path: &Path) -> Result<Self, GuestError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| GuestError::Socket {
                path: folder.to_owned(),
                reason: error.to_string(),
            })?;
        }
        Self::bind(path)
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, for a server.
    ///
    /// # Errors
    /// [`GuestError::Socket`].
    pub fn listener(&self) -> Result<UnixListener, GuestError> {
        self.listener
            .try_clone()
            .map_err(|error| GuestError::Socket {
                path: self.path.clone(),
                reason: error.to_string(),
            })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn socket_in_use_is_taken_from_its_owner_or_a_stale_one_is_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.sock");
        let socket = Socket::bind_with_folder(&path).unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Socket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("b.sock"), "{error}");
        drop(socket);
        assert!(!path.exists());
        // As after a kill: the file stays, nobody listens.
        let stale = folder.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        drop(Socket::bind(&stale).unwrap());
        assert!(!stale.exists());
    }

    #[test]
    fn file_that_is_no_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "data").unwrap();
        assert!(Socket::bind(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }
}
