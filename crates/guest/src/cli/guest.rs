//! The guest that runs beside a command, and how it is asked.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use strongroom_client::GuestApi;
use zeroize::Zeroizing;

use super::files;

/// The guest that fetches `kbs:///` keys.
#[derive(clap::Args, Clone)]
pub struct GuestArgs {
    /// The running guest that fetches kbs:/// keys (see the command `run`).
    #[arg(long, env = "STRONGROOM_GUEST", default_value = GuestApi::DEFAULT_URL, value_name = "URL")]
    guest: String,

    /// The file with this container's token, for a guest that asks for one (`run --require-token`).
    #[arg(long, env = "STRONGROOM_GUEST_TOKEN_FILE", value_name = "FILE")]
    guest_token: Option<PathBuf>,
}

impl Default for GuestArgs {
    fn default() -> Self {
        Self::new(GuestApi::DEFAULT_URL, None)
    }
}

impl GuestArgs {
    /// These.
    pub(super) fn new(url: &str, token: Option<PathBuf>) -> Self {
        Self {
            guest: url.to_owned(),
            guest_token: token,
        }
    }

    /// The guest's client.
    ///
    /// # Errors
    /// When the address is none of this machine, its socket another user's, or the token cannot be read, or by others too.
    pub fn api(&self) -> anyhow::Result<GuestApi> {
        let api = GuestApi::new(&self.guest)?;
        if let Some(socket) = self.guest.strip_prefix("unix:") {
            check_owner(Path::new(socket))?;
        }
        let Some(path) = &self.guest_token else {
            return Ok(api);
        };
        let bytes = files::read_limited(path, MAX_TOKEN)?;
        check_private(path)?;
        let token = std::str::from_utf8(&bytes)
            .with_context(|| format!("{} holds no token", path.display()))?;
        Ok(api.token(Zeroizing::new(token.trim().to_owned())))
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.guest
    }

    /// These options on another command line.
    pub(super) fn arguments(&self) -> Vec<PathBuf> {
        let mut arguments = vec!["--guest".into(), PathBuf::from(&self.guest)];
        if let Some(token) = &self.guest_token {
            arguments.extend(["--guest-token".into(), token.clone()]);
        }
        arguments
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

const MAX_TOKEN: u64 = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn socket_of_another_user_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest");
        let api = || {
            let args = GuestArgs::new(&format!("unix:{}", path.display()), None);
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
            let args = GuestArgs::new(guest, Some(path.clone()));
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
}
