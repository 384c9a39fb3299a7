//! Where keys come from: a file, or a resource that a running guest fetches after it has attested.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use clap::Args;
use strongroom_cipherfile::FileKey;
use strongroom_client::guest_api::GuestApi;
use strongroom_scoring::receipt::ReleasedKey;
use strongroom_wire::jwe::DecryptionKey;
use strongroom_wire::jwk::TeePublicKey;
use strongroom_wire::resource::{ResourcePath, ResourceUri};
use zeroize::Zeroizing;

use crate::connect::block_on;
use crate::files;

const MAX_KEY: u64 = 64 * 1024;

/// A file, or `kbs:///repository/type/tag`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum KeySource {
    File(PathBuf),
    Resource(ResourcePath),
}

impl FromStr for KeySource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with("kbs:") && !text.starts_with("kbs+") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let uri: ResourceUri = text.parse().map_err(|error| format!("{error}"))?;
        uri.to_resource_path()
            .map(Self::Resource)
            .map_err(|error| error.to_string())
    }
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Resource(path) => f.write_str(&path.to_uri()),
        }
    }
}

/// The guest that fetches `kbs:///` keys.
#[derive(Args, Clone, Default)]
pub(crate) struct GuestArgs {
    /// The running guest that fetches kbs:/// keys (see `strongroom guest run`).
    #[arg(long, env = "STRONGROOM_GUEST", default_value = GuestApi::DEFAULT_URL, value_name = "URL")]
    pub(crate) guest: String,

    /// The file with this container's token, for a guest that asks for one (`guest run --require-token`).
    #[arg(long, env = "STRONGROOM_GUEST_TOKEN_FILE", value_name = "FILE")]
    pub(crate) guest_token: Option<PathBuf>,

    /// What was released so far, for a receipt.
    #[arg(skip)]
    released: Released,
}

/// What a guest fetched for this process, in order. Clones share it.
#[derive(Clone, Default)]
struct Released(Arc<Mutex<Vec<ReleasedKey>>>);

impl GuestArgs {
    /// The guest's client.
    pub(crate) fn api(&self) -> anyhow::Result<GuestApi> {
        let api = GuestApi::new(&self.guest)?;
        if let Some(socket) = self.guest.strip_prefix("unix:") {
            check_owner(Path::new(socket))?;
        }
        let Some(path) = &self.guest_token else {
            return Ok(api);
        };
        let bytes = files::read_limited(path, MAX_KEY)?;
        check_private(path)?;
        let token = std::str::from_utf8(&bytes)
            .with_context(|| format!("{} holds no token", path.display()))?;
        Ok(api.token(Zeroizing::new(token.trim().to_owned())))
    }

    /// Fetches a resource through the guest.
    pub(crate) fn resource(&self, path: &ResourcePath) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let guest = self.api()?;
        let released = block_on(guest.release(path))?.with_context(|| {
            format!(
                "cannot fetch {} from the guest at {}",
                path.to_uri(),
                self.guest
            )
        })?;
        let mut all = self
            .released
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.push(ReleasedKey {
            resource: path.to_uri(),
            event: released.release.event,
            token: released.release.token,
        });
        Ok(released.secret)
    }

    /// What was fetched so far, in order.
    pub(crate) fn released(&self) -> Vec<ReleasedKey> {
        let all = self.released.0.lock();
        all.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads a key from where it is.
    pub(crate) fn bytes(&self, source: &KeySource) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        match source {
            KeySource::File(path) => files::read_limited(path, MAX_KEY),
            KeySource::Resource(path) => self.resource(path),
        }
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

/// A socket that another user made is not the guest's: whoever answers there would hear the token and say what a secret is.
fn check_owner(socket: &Path) -> anyhow::Result<()> {
    // One that is not there is said to be missing when it is asked.
    let Ok(metadata) = socket.metadata() else {
        return Ok(());
    };
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        bail!(
            "the socket {} belongs to the user {}, who is neither root nor this one: a guest is asked that runs as either",
            socket.display(),
            metadata.uid()
        );
    }
    Ok(())
}

/// A token that others may read is theirs as well, and one that they may change is not this container's.
fn check_private(path: &Path) -> anyhow::Result<()> {
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?;
    // The group may read it: that is how a mounted Secret reaches a container's user (fsGroup).
    if metadata.is_file() && metadata.permissions().mode() & 0o027 != 0 {
        bail!(
            "the token in {} may be read by others or changed by its group: chmod 600 (or defaultMode: 0440 of the mounted Secret)",
            path.display()
        );
    }
    Ok(())
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
            Ok(KeySource::Resource("a/b/c".parse().unwrap()))
        );
    }

    #[test]
    fn socket_of_another_user_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        let api = || {
            let args = GuestArgs {
                guest: format!("unix:{}", path.display()),
                guest_token: None,
                released: Released::default(),
            };
            args.api().map(drop).map_err(|error| format!("{error:#}"))
        };
        api().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        api().unwrap();
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give a file away");
            return;
        }
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let error = api().unwrap_err();
        assert!(error.contains("neither root"), "{error}");
    }

    #[test]
    fn token_that_others_may_read_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let api = |mode: u32, guest: &str| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let args = GuestArgs {
                guest: guest.to_owned(),
                guest_token: Some(path.clone()),
                released: Released::default(),
            };
            args.api().map(drop).map_err(|error| format!("{error:#}"))
        };
        let here = GuestApi::DEFAULT_URL;
        for mode in [0o600, 0o400, 0o440, 0o640] {
            api(mode, here).unwrap();
        }
        for mode in [0o644, 0o604, 0o660, 0o666] {
            let error = api(mode, here).unwrap_err();
            assert!(error.contains("chmod 600"), "{mode:o}: {error}");
        }
        // Nor does it leave this machine.
        for elsewhere in ["http://10.0.0.1:8006", "https://guest.example"] {
            assert!(api(0o600, elsewhere).is_err(), "{elsewhere}");
        }
    }

    #[test]
    fn malformed_uri_is_no_file_name() {
        assert!("kbs:///a/b".parse::<KeySource>().is_err());
        assert!("kbs+pkcs11:///a/b/c".parse::<KeySource>().is_err());
    }
}
