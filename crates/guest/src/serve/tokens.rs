//! Who may ask: one bearer token for each container, known by the container's name.
//!
//! Containers of a pod share the network, so that loopback alone tells none from another. The folder is read again when
//! it has changed: containers come and go while the guest runs.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use strongroom_wire::canonical::HashAlgorithm;
use zeroize::Zeroizing;

use crate::error::GuestError;

/// The tokens of the containers that may ask.
pub struct Tokens {
    place: PathBuf,
    loaded: Mutex<Loaded>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Reads one token from a file, whose name is its holder's, or from every file of a folder. Names that begin with a
    /// dot are passed over.
    ///
    /// # Errors
    /// [`GuestError::Tokens`], naming the file that others may read or that holds no token.
    pub fn load(place: &Path) -> Result<Self, GuestError> {
        let loaded = Loaded::read(place)?;
        Ok(Self {
            place: place.to_owned(),
            loaded: Mutex::new(loaded),
        })
    }

    /// The container that a token is of.
    pub(super) fn holder(&self, presented: &str) -> Option<String> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::of(&self.place);
        if stamp.is_none() || stamp != loaded.stamp {
            match Loaded::read(&self.place) {
                Ok(now) => *loaded = now,
                // Whoever cannot be read may not ask, and nobody in their place.
                Err(error) => {
                    tracing::error!(%error, "nobody may ask until this is mended");
                    loaded.holders.clear();
                }
            }
        }
        let presented = digest(presented);
        // All are compared, so that the time says nothing of where one was found.
        loaded.holders.iter().fold(None, |found, holder| {
            match is_same(&holder.digest, &presented) {
                true => Some(holder.name.clone()),
                false => found,
            }
        })
    }
}

struct Loaded {
    stamp: Option<Stamp>,
    holders: Vec<Holder>,
}

struct Holder {
    name: String,
    digest: Vec<u8>,
}

impl Loaded {
    fn read(place: &Path) -> Result<Self, GuestError> {
        let stamp = Stamp::of(place);
        let metadata = place
            .metadata()
            .map_err(|error| wrong(place, error.to_string()))?;
        let mut holders: Vec<Holder> = Vec::new();
        let files = match metadata.is_dir() {
            false => vec![place.to_owned()],
            true => files(place)?,
        };
        for path in files {
            let holder = Holder::read(&path)?;
            if let Some(other) = holders
                .iter()
                .find(|other| is_same(&other.digest, &holder.digest))
            {
                return Err(wrong(
                    &path,
                    format!(
                        "it holds the token of {:?} as well: give each container its own",
                        other.name
                    ),
                ));
            }
            holders.push(holder);
        }
        Ok(Self { stamp, holders })
    }
}

impl Holder {
    fn read(path: &Path) -> Result<Self, GuestError> {
        let failed = |error: std::io::Error| wrong(path, error.to_string());
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|name| name.len() <= MAX_NAME && !name.contains(char::is_control))
            .ok_or_else(|| wrong(path, "its name is none for a container"))?;
        // A pipe would be waited for. Links are followed: a mounted Secret is made of them.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty());
        let file = File::from(file.map_err(|error| failed(error.into()))?);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(wrong(path, "it is no regular file"));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(wrong(
                path,
                "others than its owner may read or change it: chmod 600",
            ));
        }
        let mut text = Zeroizing::new(String::with_capacity(MAX_TOKEN));
        let limit = u64::try_from(MAX_TOKEN).unwrap_or(u64::MAX);
        file.take(limit).read_to_string(&mut text).map_err(failed)?;
        let token = text.trim();
        let fits = (MIN_TOKEN..MAX_TOKEN).contains(&token.len());
        if !fits || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong(
                path,
                format!(
                    "a token has {MIN_TOKEN} to {MAX_TOKEN} letters, digits and signs in one line: make one with \
                     `openssl rand -hex 32`"
                ),
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            digest: digest(token),
        })
    }
}

/// What changes when a token is added, taken away or exchanged, in place too.
#[derive(Eq, PartialEq)]
struct Stamp(Vec<(u64, u64, i64, i64)>);

impl Stamp {
    fn of(place: &Path) -> Option<Self> {
        let stamp = |path: &Path| {
            let metadata = path.metadata().ok()?;
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            Some((metadata.ino(), metadata.size(), changed.0, changed.1))
        };
        let mut all = vec![stamp(place)?];
        if place.is_dir() {
            for path in files(place).ok()? {
                all.push(stamp(&path)?);
            }
        }
        Some(Self(all))
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, GuestError> {
    let failed = |error: std::io::Error| wrong(folder, error.to_string());
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || entry.path().is_dir() {
            continue;
        }
        if files.len() >= MAX_HOLDERS {
            return Err(wrong(
                folder,
                format!("it has more than {MAX_HOLDERS} files"),
            ));
        }
        files.push(entry.path());
    }
    Ok(files)
}

/// Tokens are compared by their digest: how long that takes says nothing of a token.
fn digest(token: &str) -> Vec<u8> {
    HashAlgorithm::Sha256.digest(token.as_bytes())
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b));
    differences == 0 && one.len() == other.len()
}

fn wrong(path: &Path, reason: impl Into<String>) -> GuestError {
    GuestError::Tokens {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

const MIN_TOKEN: usize = 16;
const MAX_TOKEN: usize = 1024;
const MAX_NAME: usize = 255;
const MAX_HOLDERS: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn put(folder: &Path, name: &str, token: &str, mode: u32) {
        let temporary = folder.join(format!(".{name}"));
        std::fs::write(&temporary, token).unwrap();
        std::fs::set_permissions(&temporary, Permissions::from_mode(mode)).unwrap();
        std::fs::rename(temporary, folder.join(name)).unwrap();
    }

    const APP: &str = "0123456789abcdef-app";
    const SIDECAR: &str = "0123456789abcdef-sidecar";

    #[test]
    fn token_of_one_container_is_taken_for_another() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "app", &format!("{APP}\n"), 0o600);
        put(folder.path(), "sidecar", SIDECAR, 0o400);
        let tokens = Tokens::load(folder.path()).unwrap();
        assert_eq!(tokens.holder(APP).as_deref(), Some("app"));
        assert_eq!(tokens.holder(SIDECAR).as_deref(), Some("sidecar"));
        for bad in ["", "0123456789abcdef-ap", "0123456789abcdef-appx"] {
            assert_eq!(tokens.holder(bad), None, "{bad}");
        }
    }

    #[test]
    fn container_that_came_or_went_is_not_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = Tokens::load(folder.path()).unwrap();
        assert_eq!(tokens.holder(APP), None);
        put(folder.path(), "app", APP, 0o600);
        assert_eq!(tokens.holder(APP).as_deref(), Some("app"));
        // In place, of the same length.
        std::fs::write(folder.path().join("app"), APP.replace("app", "new")).unwrap();
        assert_eq!(tokens.holder(APP), None);
        assert!(tokens.holder(&APP.replace("app", "new")).is_some());
        std::fs::remove_file(folder.path().join("app")).unwrap();
        assert_eq!(tokens.holder(&APP.replace("app", "new")), None);
    }

    #[test]
    fn token_that_others_may_read_or_that_two_hold_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "app", APP, 0o644);
        let text = Tokens::load(folder.path()).unwrap_err().to_string();
        assert!(text.contains("chmod 600"), "{text}");
        put(folder.path(), "app", APP, 0o600);
        put(folder.path(), "sidecar", APP, 0o600);
        let text = Tokens::load(folder.path()).unwrap_err().to_string();
        assert!(text.contains("its own") && !text.contains(APP), "{text}");
    }

    #[test]
    fn pipe_in_the_place_of_a_token_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("app");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let text = Tokens::load(folder.path()).unwrap_err().to_string();
        assert!(text.contains("no regular file"), "{text}");
    }

    #[test]
    fn guessable_token_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        for bad in ["", "secret", "0123456789 abcdef"] {
            put(folder.path(), "app", bad, 0o600);
            assert!(Tokens::load(&folder.path().join("app")).is_err(), "{bad}");
        }
    }
}
