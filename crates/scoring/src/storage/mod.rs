//! Storage: data where it lies (Azure, S3 and what speaks like it, Google's, a web server, a file), by its URL alone.
//!
//! Nothing else of a job names a provider: the same job with another URL runs elsewhere. Reading is by position
//! ([`ReadAt`]) or in order ([`Reader`]), with what comes next already on its way; writing appears whole or not at all
//! ([`Upload`]). Storages are not trusted with anything: what they hold is ciphertext, and an object that is replaced
//! while it is read is an error. No credential reaches an error, a log or an argument (docs/decisions/0028-storage.md).

mod bridge;
mod connect;
mod credentials;
mod error;
mod fetch;
mod list;
mod local;
mod location;
mod patience;
mod pattern;
mod read;
mod remote;
mod transport;
mod upload;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use strongroom_client::http::Roots;

pub use credentials::{Credential, Credentials};
pub use error::{Cause, StorageError};
pub use list::Entry;
pub use local::{Existing, LocalFile, Partial, remove_abandoned};
pub use location::{Location, LocationError};
pub use patience::Patience;
pub use read::{ReadAt, Reader};
pub use remote::ReadAhead;
pub use upload::Upload;

use bridge::Bridge;
use connect::{Connections, Use};
use fetch::fetch;
use location::Place;
use remote::RemoteObject;

/// How storages are reached. The default is the strict choice.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What they are asked with.
    pub credentials: Credentials,
    /// Whose certificates count.
    pub roots: Roots,
    /// Allow `http://` beyond this machine.
    pub insecure_http: bool,
    /// How long they are waited for.
    pub patience: Patience,
    /// How much is fetched ahead.
    pub read_ahead: ReadAhead,
}

/// The storages, reached by [`Location`]. Clones share connections.
///
/// Everything here waits; call it from threads that may.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    connections: Connections,
    read_ahead: ReadAhead,
    bridge: Bridge,
}

impl Storage {
    /// Prepares access; nothing is sent yet.
    pub fn new(options: Options) -> Self {
        Self(Arc::new(Inner {
            connections: Connections::new(
                options.credentials,
                options.roots,
                options.insecure_http,
                options.patience,
            ),
            read_ahead: options.read_ahead,
            bridge: Bridge::default(),
        }))
    }

    /// Reads the text of a location, with the storage account that is known.
    ///
    /// # Errors
    /// [`LocationError`].
    pub fn location(&self, text: &str) -> Result<Location, LocationError> {
        let account = self.0.connections.credentials.azure_account.as_deref();
        Location::parse(text, account)
    }

    /// Opens what is at a location for reading by position.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn open(&self, location: &Location) -> Result<Arc<dyn ReadAt>, StorageError> {
        let opened = match &location.0 {
            Place::File(path) => LocalFile::open(path)
                .map(|file| Arc::new(file) as Arc<dyn ReadAt>)
                .map_err(Cause::from),
            _ => self.open_remote(location),
        };
        opened.map_err(|cause| StorageError::new(location, cause))
    }

    fn open_remote(&self, location: &Location) -> Result<Arc<dyn ReadAt>, Cause> {
        let target = self.0.connections.target(location, Use::Read)?;
        let object = RemoteObject::open(target, self.0.bridge.handle()?, self.0.read_ahead)?;
        // The runtime that fetches lives as long as what it fetches for.
        Ok(Arc::new(Kept {
            object,
            _storage: self.clone(),
        }))
    }

    /// Opens what is at a location for reading in order.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn reader(&self, location: &Location) -> Result<Reader, StorageError> {
        self.open(location).map(Reader::new)
    }

    /// The files that a location means, sorted by name: those that a pattern fits, those directly in a folder, or the
    /// one of that name, which need not be there then.
    ///
    /// # Errors
    /// [`StorageError`]; [`Cause::NotFound`] when a pattern or folder means no file.
    pub fn list(&self, location: &Location) -> Result<Vec<Entry>, StorageError> {
        if !location.is_many() {
            return Ok(vec![Entry {
                location: location.clone(),
                size: None,
            }]);
        }
        let listed = match &location.0 {
            Place::File(path) => list::local(path),
            _ => self
                .0
                .connections
                .target(location, Use::Read)
                .and_then(|target| {
                    self.0
                        .bridge
                        .wait(async move { list::remote(&target).await })
                }),
        };
        listed.map_err(|cause| StorageError::new(location, cause))
    }

    /// Begins to write what appears at a location when it is finished. A file gets `mode` as its permissions.
    ///
    /// # Errors
    /// [`StorageError`]; [`Cause::Exists`] already here, when that can be seen.
    pub fn create(
        &self,
        location: &Location,
        existing: Existing,
        mode: u32,
    ) -> Result<Upload, StorageError> {
        let fail = |cause| StorageError::new(location, cause);
        if let Place::File(path) = &location.0 {
            let partial = Partial::create(path, existing, mode);
            let partial = partial.map_err(|error| fail(error.into()))?;
            return Ok(Upload::local(partial, location.to_string()));
        }
        if location.is_many() {
            return Err(fail(Cause::Unsupported(
                "what is written has one name, and no pattern",
            )));
        }
        let replace = existing == Existing::Replace;
        let target = self.0.connections.target(location, Use::Write { replace });
        let handle = self.0.bridge.handle().map_err(fail)?;
        Upload::remote(target.map_err(fail)?, existing, handle, self.clone())
    }

    /// Reads a small object whole, or says that there is none.
    ///
    /// # Errors
    /// [`StorageError`]; [`Cause::TooLarge`] when it has more than `limit` bytes.
    pub fn get(&self, location: &Location, limit: u64) -> Result<Option<Vec<u8>>, StorageError> {
        match self.get_there(location, limit) {
            Err(Cause::NotFound) => Ok(None),
            other => other
                .map(Some)
                .map_err(|cause| StorageError::new(location, cause)),
        }
    }

    fn get_there(&self, location: &Location, limit: u64) -> Result<Vec<u8>, Cause> {
        if let Place::File(path) = &location.0 {
            return get_file(path, limit);
        }
        let target = self.0.connections.target(location, Use::Read)?;
        self.0.bridge.wait(async move {
            let beyond = limit.saturating_add(1);
            match fetch(&target, 0..beyond, None).await {
                Ok((_, version)) if version.size() > limit => Err(Cause::TooLarge { limit }),
                Ok((bytes, _)) => Ok(bytes),
                Err(Cause::BeyondEnd {
                    size: None | Some(0),
                }) => fetch::empty(&target).await.map(|_| Vec::new()),
                Err(cause) => Err(cause),
            }
        })
    }

    /// Writes a small object, whatever was there. It appears whole.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn put(&self, location: &Location, bytes: &[u8]) -> Result<(), StorageError> {
        let fail = |cause| StorageError::new(location, cause);
        if let Place::File(path) = &location.0 {
            let partial = Partial::create_beside_abandoned(path, Existing::Replace, 0o600);
            let written = partial.and_then(|mut partial| {
                io::Write::write_all(&mut partial, bytes)?;
                partial.sync()?;
                partial.appear()
            });
            return written.map_err(|error| fail(error.into()));
        }
        let target = self
            .0
            .connections
            .target(location, Use::Write { replace: true });
        let (target, bytes) = (target.map_err(fail)?, Bytes::copy_from_slice(bytes));
        let put = async move { upload::put(&target, bytes, Existing::Replace).await };
        self.0.bridge.wait(put).map_err(fail)
    }

    /// Removes an object. That there is none is as good.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn delete(&self, location: &Location) -> Result<(), StorageError> {
        let deleted = match &location.0 {
            Place::File(path) => std::fs::remove_file(path).map_err(Cause::from),
            _ => self
                .0
                .connections
                .target(location, Use::Write { replace: true })
                .and_then(|target| {
                    self.0
                        .bridge
                        .wait(async move { upload::delete(&target).await })
                }),
        };
        match deleted {
            Ok(()) | Err(Cause::NotFound) => Ok(()),
            Err(cause) => Err(StorageError::new(location, cause)),
        }
    }
}

/// An open object, and what it is read through.
struct Kept {
    // Ends before its runtime does.
    object: RemoteObject,
    _storage: Storage,
}

impl ReadAt for Kept {
    fn size(&self) -> u64 {
        self.object.size()
    }

    fn version(&self) -> Option<&str> {
        self.object.version()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.object.read_at(offset, buffer)
    }
}

fn get_file(path: &Path, limit: u64) -> Result<Vec<u8>, Cause> {
    let file = LocalFile::open(path)?;
    if file.size() > limit {
        return Err(Cause::TooLarge { limit });
    }
    let length = usize::try_from(file.size()).map_err(|_| Cause::TooLarge { limit })?;
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}
