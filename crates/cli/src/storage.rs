//! Where data lies and what storages are asked with: the options, and inputs and outputs that may be anywhere.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use clap::Args;
use strongroom_client::http::Roots;
use strongroom_scoring::batch::CheckpointStore;
use strongroom_scoring::storage::{
    Credential, Credentials, LocalFile, Location, Options, Patience, ReadAhead, ReadAt, Storage,
    remove_abandoned,
};

use crate::connect::read_pem;
use crate::files::{self, Existing, Output};
use crate::keys::{GuestArgs, KeySource};
use crate::{outcome, progress};

/// How storages are reached. Secrets come from files or a guest, or from the variables that the storages' own tools read.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Storage (az://, s3://, gs://, https://)")]
pub(crate) struct StorageArgs {
    /// Azure's storage account: with it, az://CONTAINER/PATH is enough [env: AZURE_STORAGE_ACCOUNT].
    #[arg(long, value_name = "NAME")]
    azure_account: Option<String>,

    /// A shared access signature (SAS): a file, or kbs:///repository/type/tag. With az://ACCOUNT/CONTAINER= before it, for
    /// what begins so; may be given several times [env: AZURE_STORAGE_SAS_TOKEN, the signature itself].
    #[arg(long, value_name = "[BEGINNING=]FILE|URI")]
    azure_sas: Vec<String>,

    /// The storage account's key: a file, or kbs:///repository/type/tag [env: AZURE_STORAGE_KEY, the key itself].
    #[arg(long, value_name = "FILE|URI", conflicts_with = "azure_sas")]
    azure_key: Option<KeySource>,

    /// Where the account is, when not at Microsoft's [env: AZURE_STORAGE_ENDPOINT].
    #[arg(long, value_name = "URL")]
    azure_endpoint: Option<String>,

    /// The name of S3's access key [env: AWS_ACCESS_KEY_ID].
    #[arg(long, value_name = "ID", requires = "s3_secret_key")]
    s3_access_key_id: Option<String>,

    /// S3's secret access key: a file, or kbs:///repository/type/tag [env: AWS_SECRET_ACCESS_KEY, the key itself].
    #[arg(long, value_name = "FILE|URI", requires = "s3_access_key_id")]
    s3_secret_key: Option<KeySource>,

    /// What goes with a temporary access key: a file, or kbs:///repository/type/tag [env: AWS_SESSION_TOKEN, the token
    /// itself].
    #[arg(long, value_name = "FILE|URI", requires = "s3_secret_key")]
    s3_session_token: Option<KeySource>,

    /// Where S3 is, when not at Amazon's: MinIO, Ceph, a private one [env: AWS_ENDPOINT_URL].
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<String>,

    /// The bucket's region [env: AWS_REGION] [default: us-east-1].
    #[arg(long, value_name = "REGION")]
    s3_region: Option<String>,

    /// A service account of Google's, the JSON of its key: a file, or kbs:///repository/type/tag [env:
    /// GOOGLE_APPLICATION_CREDENTIALS, the file].
    #[arg(long, value_name = "FILE|URI")]
    gcs_credentials: Option<KeySource>,

    /// What follows the question mark of a signed https:// address: a file, or kbs:///repository/type/tag.
    #[arg(long, value_name = "FILE|URI")]
    https_query: Option<KeySource>,

    /// The certificates of the storage's authority (PEM); then no others count.
    #[arg(long, value_name = "PEM")]
    storage_ca: Option<PathBuf>,

    /// Speak http:// beyond this machine: whoever is on the way reads what is sent, credentials included.
    #[arg(long)]
    insecure_storage_http: bool,

    /// By scheme: secrets are fetched once, and connections are used again.
    #[arg(skip)]
    known: Arc<Mutex<HashMap<String, Storage>>>,
}

/// An input that was found: what is read, what it is called, and how long it is when that is known.
pub(crate) struct Source {
    pub(crate) reader: Box<dyn Read + Send>,
    /// The same, to be read at any place, where that is possible.
    pub(crate) at: Option<Arc<dyn ReadAt>>,
    pub(crate) label: String,
    pub(crate) length: Option<u64>,
}

impl Source {
    /// What this program brings along.
    pub(crate) fn of_bytes(label: &str, bytes: &'static [u8]) -> Self {
        Self {
            reader: Box::new(bytes),
            at: None,
            label: label.to_owned(),
            length: None,
        }
    }
}

impl StorageArgs {
    /// Opens an input: `-`, a path, or a location in a storage.
    pub(crate) fn open(&self, text: &Path, guest: &GuestArgs) -> anyhow::Result<Source> {
        let Some(url) = url(text) else {
            return Ok(Source {
                reader: files::open(text)?,
                at: LocalFile::open(text)
                    .ok()
                    .map(|file| Arc::new(file) as Arc<dyn ReadAt>),
                label: outcome::shown(&text.display().to_string()),
                length: progress::length_of(text),
            });
        };
        let storage = self.storage_for(url, guest)?;
        let location = storage.location(url)?;
        let reader = match location.as_path() {
            Some(path) => return self.open(path, guest),
            None if location.is_many() => bail!("{location} may mean several objects: name one"),
            None => storage.reader(&location),
        };
        let reader = reader.with_context(|| format!("cannot read {location}"))?;
        Ok(Source {
            length: Some(reader.source().size()),
            at: Some(Arc::clone(reader.source())),
            reader: Box::new(reader),
            label: location.to_string(),
        })
    }

    /// What an input is called once it is open.
    pub(crate) fn label(&self, text: &Path, guest: &GuestArgs) -> anyhow::Result<String> {
        let Some(url) = url(text) else {
            return Ok(outcome::shown(&text.display().to_string()));
        };
        let location = self.storage_for(url, guest)?.location(url)?;
        Ok(match location.as_path() {
            Some(path) => outcome::shown(&path.display().to_string()),
            None => location.to_string(),
        })
    }

    /// The inputs that are meant: of a folder its files, of a pattern those that it fits, in the order of their names.
    pub(crate) fn expand(
        &self,
        texts: &[PathBuf],
        guest: &GuestArgs,
    ) -> anyhow::Result<Vec<PathBuf>> {
        let mut inputs = Vec::new();
        for text in texts {
            let location = text.to_str().filter(|text| *text != "-");
            let Some(location) = location else {
                inputs.push(text.clone());
                continue;
            };
            let storage = match url(text) {
                Some(url) => self.storage_for(url, guest)?,
                None => self.storage(Credentials::default())?,
            };
            let location = storage.location(location)?;
            if !location.is_many() {
                inputs.push(text.clone());
                continue;
            }
            let found = storage.list(&location);
            let found = found.with_context(|| format!("cannot list {location}"))?;
            inputs.extend(
                found
                    .into_iter()
                    .map(|entry| match entry.location.as_path() {
                        Some(path) => path.to_owned(),
                        None => PathBuf::from(entry.location.to_string()),
                    }),
            );
        }
        Ok(inputs)
    }

    /// A folder, or the beginning of names in a storage, for a few small files. A folder is made with the first of them.
    pub(crate) fn small_files(
        &self,
        folder: &Path,
        guest: &GuestArgs,
    ) -> anyhow::Result<SmallFiles> {
        let text = folder
            .to_str()
            .context("the folder's name is not UTF-8 text")?;
        let storage = match url(folder) {
            Some(url) => self.storage_for(url, guest)?,
            None => self.storage(Credentials::default())?,
        };
        let folder = text.trim_end_matches('/').to_owned();
        let one = storage.location(&format!("{folder}/state"))?;
        let local = one.as_path().and_then(Path::parent).map(Path::to_owned);
        if let Some(local) = &local {
            remove_abandoned(local, is_of_checkpoint);
        }
        Ok(SmallFiles {
            storage,
            folder,
            local,
        })
    }

    /// Begins an output: `-`, a path, or a location in a storage.
    pub(crate) fn create(
        &self,
        text: &Path,
        existing: Existing,
        mode: u32,
        guest: &GuestArgs,
    ) -> anyhow::Result<Output> {
        let Some(url) = url(text) else {
            return Output::create(text, existing, mode);
        };
        let storage = self.storage_for(url, guest)?;
        let location = storage.location(url)?;
        if let Some(path) = location.as_path() {
            return Output::create(path, existing, mode);
        }
        let upload = storage.create(&location, existing, mode);
        let upload = upload.with_context(|| format!("cannot write {location}"))?;
        Ok(Output::remote(upload, location.to_string()))
    }

    /// What the container of the workshop has: one signature for everything.
    pub(crate) fn with_sas(
        &self,
        account: String,
        endpoint: Option<String>,
        sas: Credential,
    ) -> anyhow::Result<Storage> {
        let credentials = Credentials {
            azure_account: Some(account),
            azure_endpoint: endpoint,
            azure_sas: vec![(None, sas)],
            ..Credentials::default()
        };
        self.storage(credentials)
    }

    /// Only what the location needs is fetched: a secret that is not wanted need not be there.
    fn storage_for(&self, url: &str, guest: &GuestArgs) -> anyhow::Result<Storage> {
        let scheme = url.split(':').next().unwrap_or_default();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(storage) = known.get(scheme) {
            return Ok(storage.clone());
        }
        let storage = self.storage_of(scheme, guest)?;
        known.insert(scheme.to_owned(), storage.clone());
        Ok(storage)
    }

    fn storage_of(&self, scheme: &str, guest: &GuestArgs) -> anyhow::Result<Storage> {
        let secret =
            |option: &str, source: &Option<KeySource>| -> anyhow::Result<Option<Credential>> {
                let Some(source) = source else {
                    return Ok(None);
                };
                let bytes = guest.credential(option, source)?;
                Ok(Some(Credential::from_bytes(option, &bytes)?))
            };
        let mut credentials = Credentials {
            azure_account: self.azure_account.clone(),
            azure_endpoint: self.azure_endpoint.clone(),
            s3_endpoint: self.s3_endpoint.clone(),
            s3_region: self.s3_region.clone(),
            s3_access_key_id: self.s3_access_key_id.clone(),
            ..Credentials::default()
        };
        match scheme {
            "az" | "azure" => {
                for given in &self.azure_sas {
                    let (beginning, source) = scoped(given);
                    let source: KeySource = source.parse().map_err(anyhow::Error::msg)?;
                    let sas = secret("--azure-sas", &Some(source))?;
                    credentials
                        .azure_sas
                        .extend(sas.map(|sas| (beginning, sas)));
                }
                credentials.azure_key = secret("--azure-key", &self.azure_key)?;
            }
            "s3" => {
                credentials.s3_secret_key = secret("--s3-secret-key", &self.s3_secret_key)?;
                credentials.s3_session_token =
                    secret("--s3-session-token", &self.s3_session_token)?;
            }
            "gs" => {
                let variable = std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS");
                let variable = variable.filter(|path| !path.is_empty());
                let source = self.gcs_credentials.clone();
                let source = source.or_else(|| variable.map(|path| KeySource::File(path.into())));
                credentials.gcs_credentials = secret("--gcs-credentials", &source)?;
            }
            "https" | "http" => {
                credentials.https_query = secret("--https-query", &self.https_query)?;
            }
            _ => {}
        }
        self.storage(credentials.or_environment(&|name| std::env::var(name).ok())?)
    }

    fn storage(&self, credentials: Credentials) -> anyhow::Result<Storage> {
        let roots = match &self.storage_ca {
            Some(path) => Roots::Only(read_pem(path)?),
            None => Roots::Platform,
        };
        Ok(Storage::new(Options {
            credentials,
            roots,
            insecure_http: self.insecure_storage_http,
            patience: Patience::default(),
            read_ahead: ReadAhead::default(),
        }))
    }
}

/// A few small files under one name, such as a job's checkpoints.
pub(crate) struct SmallFiles {
    storage: Storage,
    folder: String,
    /// The same, on this machine.
    local: Option<PathBuf>,
}

impl SmallFiles {
    fn location(&self, name: &str) -> std::io::Result<Location> {
        let location = self.storage.location(&format!("{}/{name}", self.folder));
        location.map_err(std::io::Error::other)
    }
}

impl CheckpointStore for SmallFiles {
    fn put(&mut self, name: &str, content: &[u8]) -> std::io::Result<()> {
        let location = self.location(name)?;
        if let Some(folder) = &self.local {
            std::fs::create_dir_all(folder)?;
        }
        self.storage
            .put(&location, content)
            .map_err(std::io::Error::other)
    }

    fn get(&mut self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        let location = self.location(name)?;
        self.storage
            .get(&location, MAX_SMALL_FILE)
            .map_err(std::io::Error::other)
    }

    fn delete(&mut self, name: &str) -> std::io::Result<()> {
        let location = self.location(name)?;
        self.storage
            .delete(&location)
            .map_err(std::io::Error::other)
    }
}

/// Whether a job's checkpoint has a file of this name: the folder may be one that others use too.
fn is_of_checkpoint(name: &str) -> bool {
    let piece = name.strip_prefix("results-");
    name == "state" || piece.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Larger than any checkpoint is made.
const MAX_SMALL_FILE: u64 = 64 << 20;

/// The text of a location that is no path of this machine.
fn url(text: &Path) -> Option<&str> {
    text.to_str().filter(|text| text.contains("://"))
}

/// `az://account/container=FILE` is for what begins so; a `=` in a file's name is part of it.
fn scoped(given: &str) -> (Option<String>, &str) {
    match given.split_once('=') {
        Some((beginning, source)) if beginning.starts_with("az://") => {
            (Some(beginning.to_owned()), source)
        }
        _ => (None, given),
    }
}

/// Reads a location for its text alone, so that what is wrong with it is told before anything is fetched.
pub(crate) fn check(text: &Path) -> anyhow::Result<()> {
    if let Some(url) = url(text) {
        // With any account: whether one is needed is told later.
        Location::parse(url, None).or_else(|_| Location::parse(url, Some("account")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_with_an_equals_sign_is_taken_for_a_beginning() {
        assert_eq!(scoped("a=b.sas"), (None, "a=b.sas"));
        assert_eq!(
            scoped("az://bank/results=kbs:///a/b/c"),
            (Some("az://bank/results".to_owned()), "kbs:///a/b/c")
        );
    }

    #[test]
    fn path_is_taken_for_a_storage() {
        for path in ["a/b.csv", "-", "/x:y", "a?b=c"] {
            assert_eq!(url(Path::new(path)), None);
            assert!(check(Path::new(path)).is_ok());
        }
        assert!(check(Path::new("s3://bucket/x?sig=y")).is_err());
        assert!(check(Path::new("az://container")).is_ok());
    }
}
