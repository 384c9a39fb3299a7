//! Where secrets come from besides the API: folders in the layout of mounted Kubernetes Secrets, and a Vault.
//!
//! One order, always: the store, then the folders as the configuration lists them, then the Vault. What the store has
//! goes before what a source has, so an admin who stores what a source has already is refused, unless they say that
//! they want it so. [`import`] takes over what an upstream broker kept.

mod beneath;
mod config;
mod folder;
pub mod import;
mod vault;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde::Serialize;
use strongroom_wire::resource::ResourcePath;

pub use config::{Folders, SourcesConfig, VaultConfig};

use crate::config::{Config, Loosening};
use crate::store::Secret;
use crate::{BrokerError, Clock};
use folder::Folder;
use vault::Vault;

/// The sources of a configuration.
pub(crate) struct Sources {
    folders: Arc<Vec<Folder>>,
    vault: Option<Vault>,
    /// Dropped with this, and then the thread that looks over the folders ends.
    _watch: Option<Sender<()>>,
}

/// A secret, and where it was found.
pub(crate) struct Found {
    pub(crate) secret: Secret,
    /// Its version, where the source counts them.
    pub(crate) version: Option<u64>,
    /// The source, as listings and the record name it.
    pub(crate) source: String,
    /// The setting without which it would not have been read.
    pub(crate) loosening: Option<Loosening>,
}

/// A resource that a source has, without its content.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Offered {
    pub(crate) path: ResourcePath,
    pub(crate) size: u64,
    /// In seconds since 1970.
    #[serde(rename = "stored_at")]
    pub(crate) changed_at: u64,
    pub(crate) source: String,
}

impl Sources {
    /// Opens what the configuration names, and from now on says in the log what lies in a folder and is no resource.
    ///
    /// # Errors
    /// [`BrokerError`], naming the file or the setting at fault.
    pub(crate) fn open(config: &Config, clock: Clock) -> Result<Self, BrokerError> {
        let limit = config.limits.body_bytes;
        let (sources, mut folders) = (&config.sources, Vec::new());
        for path in &sources.folder.0 {
            folders.push(Folder::open(path, limit)?);
        }
        let vault = sources.vault.as_ref();
        let vault = vault
            .map(|vault| Vault::open(vault, limit, clock))
            .transpose()?;
        let folders = Arc::new(folders);
        let watch = match folders.is_empty() {
            true => None,
            false => Some(watch(Arc::clone(&folders))?),
        };
        Ok(Self {
            folders,
            vault,
            _watch: watch,
        })
    }

    /// The secret under this path in the first source that has it. Blocks.
    ///
    /// # Errors
    /// [`SourceError`] when a source cannot say what it has; those after it are not asked then.
    pub(crate) fn secret(&self, path: &ResourcePath) -> Result<Option<Found>, SourceError> {
        for folder in &*self.folders {
            if let Some(found) = folder.secret(path)? {
                return Ok(Some(found));
            }
        }
        self.vault
            .as_ref()
            .map_or(Ok(None), |vault| vault.secret(path))
    }

    /// The source that has this path, if one does. Blocks.
    ///
    /// # Errors
    /// As [`Self::secret`].
    pub(crate) fn owner(&self, path: &ResourcePath) -> Result<Option<String>, SourceError> {
        Ok(self.secret(path)?.map(|found| found.source))
    }

    /// What the folders have, by path. A Vault is not listed: the token needs no right to, and it keeps its own lists.
    ///
    /// # Errors
    /// [`SourceError`] when a folder cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<Offered>, SourceError> {
        let mut offered: Vec<Offered> = Vec::new();
        for folder in &*self.folders {
            offered.extend(folder.scan()?.offered);
        }
        // Of one path, the first folder's comes first.
        offered.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(offered)
    }
}

/// Why a source does not say what it has. For the record and the log, never for a guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SourceError {
    #[error("{}: {reason}", file.display())]
    Folder { file: PathBuf, reason: String },
    #[error("{place}: {reason}")]
    Vault { place: String, reason: String },
}

/// Looks over the folders now and then, for the log alone: nothing waits for it.
fn watch(folders: Arc<Vec<Folder>>) -> Result<Sender<()>, BrokerError> {
    let mut said = BTreeSet::new();
    log_news(&folders, &mut said);
    let (sender, stopped) = channel();
    let looking = move || {
        while stopped.recv_timeout(LOOK_OVER) == Err(RecvTimeoutError::Timeout) {
            log_news(&folders, &mut said);
        }
    };
    std::thread::Builder::new()
        .name("sources".to_owned())
        .spawn(looking)
        .map_err(|error| BrokerError::Option {
            option: "sources.folder",
            message: format!("cannot be looked over: {error}"),
        })?;
    Ok(sender)
}

/// Says what is wrong in the folders, once for as long as it is so.
fn log_news(folders: &[Folder], said: &mut BTreeSet<String>) {
    let wrong = complaints(folders);
    for sentence in wrong.difference(said) {
        tracing::warn!("{sentence}");
    }
    *said = wrong;
}

fn complaints(folders: &[Folder]) -> BTreeSet<String> {
    let mut sentences = BTreeSet::new();
    let mut paths = BTreeSet::new();
    for folder in folders {
        let scan = match folder.scan() {
            Ok(scan) => scan,
            Err(error) => {
                sentences.insert(error.to_string());
                continue;
            }
        };
        for (place, reason) in scan.skipped {
            sentences.insert(format!("{} is skipped: {reason}", place.display()));
        }
        for offered in scan.offered {
            if paths.contains(&offered.path) {
                sentences.insert(format!(
                    "{} in {} is never used: a folder that is named before has it too",
                    offered.path,
                    folder.path().display()
                ));
            }
            paths.insert(offered.path);
        }
    }
    sentences
}

/// Decodes bytes as an answer of a Vault.
pub(crate) fn decode_vault_answer(bytes: &[u8]) -> bool {
    vault::decode(bytes)
}

const LOOK_OVER: Duration = Duration::from_secs(60);
