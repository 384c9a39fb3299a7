//! Where keys come from: a file, or a resource that a running guest fetches after it has attested.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, bail};
use clap::Args;
use strongroom_cipherfile::FileKey;
use strongroom_client::guest_api::GuestApi;
use strongroom_scoring::receipt::{KeyFrom, ReleasedKey};
use strongroom_wire::jwe::DecryptionKey;
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::resource::ResourceUri;
use zeroize::Zeroizing;

use crate::connect::block_on;
use crate::files;

const MAX_KEY: u64 = 64 * 1024;

/// A file, or `kbs:///repository/type/tag`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum KeySource {
    File(PathBuf),
    /// Of the guest's own broker, or of the one that is listed under the URI's host.
    Resource(ResourceUri),
}

impl KeySource {
    /// Where the key comes from, as a receipt says it.
    pub(crate) fn origin(&self) -> KeyFrom {
        match self {
            Self::File(_) => KeyFrom::File,
            Self::Resource(_) => KeyFrom::Broker,
        }
    }
}

impl FromStr for KeySource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with("kbs:") && !text.starts_with("kbs+") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let uri: ResourceUri = text.parse().map_err(|error| format!("{error}"))?;
        // The guest asks for resources alone.
        let path = uri.to_resource_path();
        path.map(|_| Self::Resource(uri))
            .map_err(|error| error.to_string())
    }
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Resource(uri) => uri.fmt(f),
        }
    }
}

/// The guest that fetches `kbs:///` keys.
#[derive(Args, Clone, Default)]
#[group(skip)]
pub(crate) struct GuestArgs {
    #[command(flatten)]
    asked: strongroom_guest::cli::GuestArgs,

    /// What was released so far, for a receipt.
    #[arg(skip)]
    released: Released,
}

/// What a guest fetched for this process. Clones share it.
#[derive(Clone, Default)]
struct Released(Arc<Mutex<Fetched>>);

impl Released {
    fn lock(&self) -> MutexGuard<'_, Fetched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Fetched {
    /// In the order in which they were released.
    releases: Vec<ReleasedKey>,
    /// The secrets themselves: a job over ten thousand files under one key has that released once.
    secrets: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl GuestArgs {
    /// The guest's client.
    pub(crate) fn api(&self) -> anyhow::Result<GuestApi> {
        self.asked.api()
    }

    /// The guest's address.
    pub(crate) fn url(&self) -> &str {
        self.asked.url()
    }

    /// Fetches a resource through the guest, once.
    pub(crate) fn resource(&self, uri: &ResourceUri) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let resource = uri.to_string();
        if let Some(secret) = self.released.lock().secrets.get(&resource) {
            return Ok(secret.clone());
        }
        let guest = self.api()?;
        let released = block_on(guest.release_at(uri))?
            .with_context(|| format!("cannot fetch {uri} from the guest at {}", self.url()))?;
        let mut fetched = self.released.lock();
        fetched
            .secrets
            .insert(resource.clone(), released.secret.clone());
        fetched.releases.push(ReleasedKey {
            resource,
            event: released.release.event,
            token: released.release.token,
        });
        Ok(released.secret)
    }

    /// What was fetched so far, in order.
    pub(crate) fn released(&self) -> Vec<ReleasedKey> {
        self.released.lock().releases.clone()
    }

    /// Reads a key from where it is.
    pub(crate) fn bytes(&self, source: &KeySource) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        match source {
            KeySource::File(path) => files::read_limited(path, MAX_KEY),
            KeySource::Resource(uri) => self.resource(uri),
        }
    }

    /// Reads what a storage is asked with. Whoever gives the secret itself in place of its file must not find it in a log.
    pub(crate) fn credential(
        &self,
        option: &str,
        source: &KeySource,
    ) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let KeySource::File(path) = source else {
            return self.bytes(source).with_context(|| option.to_owned());
        };
        if let Err(error) = std::fs::metadata(path) {
            bail!(
                "{option} names no file that can be read: {error}. What was given is not repeated here: the option takes the name of a file with the secret, or kbs:///repository/type/tag, not the secret itself"
            );
        }
        self.bytes(source).with_context(|| option.to_owned())
    }

    /// Reads a data key: 32 raw bytes.
    pub(crate) fn file_key(&self, source: &KeySource) -> anyhow::Result<FileKey> {
        let bytes = self.bytes(source)?;
        if bytes.len() != 32 {
            bail!(
                "the key {source} has {} bytes, not the 32 raw bytes of a data key: make one with `strongroom keygen`{}",
                bytes.len(),
                if bytes.len() > 32 {
                    "; for a passphrase file of `openssl enc`, name the cipher with --openssl-cipher"
                } else {
                    ""
                }
            );
        }
        Ok(FileKey::from_slice(&bytes)?)
    }

    /// Reads a recipient's public key: a JWK.
    pub(crate) fn recipient(&self, source: &KeySource) -> anyhow::Result<TeePublicKey> {
        let bytes = self.bytes(source)?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{source} is not a recipient's public key (a JWK, from `strongroom keygen --kind recipient`)"))
    }
}

/// Reads a recipient's private key: PKCS#8 PEM.
pub(crate) fn identity(path: &Path) -> anyhow::Result<DecryptionKey> {
    let pem = files::read_limited(path, MAX_KEY)?;
    let pem = std::str::from_utf8(&pem).ok();
    pem.and_then(|pem| DecryptionKey::from_pkcs8_pem(pem).ok())
        .with_context(|| format!("{} is not a recipient's private key (PEM, from `strongroom keygen --kind recipient`)", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn resource_uri_and_file_name_are_told_apart() {
        assert_eq!(
            "k/ey.bin".parse(),
            Ok(KeySource::File(PathBuf::from("k/ey.bin")))
        );
        assert_eq!(
            "kbs:///a/b/c".parse(),
            Ok(KeySource::Resource("kbs:///a/b/c".parse().unwrap()))
        );
    }

    #[test]
    fn host_of_a_uri_is_forgotten_on_the_way() {
        let named: KeySource = "kbs://models/a/b/c".parse().unwrap();
        assert_eq!(named.to_string(), "kbs://models/a/b/c");
    }

    #[test]
    fn malformed_uri_is_no_file_name() {
        assert!("kbs:///a/b".parse::<KeySource>().is_err());
        assert!("kbs+pkcs11:///a/b/c".parse::<KeySource>().is_err());
    }
}
