//! Unsealing, carried out: `client::seal` says what to fetch, this fetches it.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use strongroom_client::seal::{KeyName, KeyPlace, SecretWanted, SigningKeyWanted};
use strongroom_wire::sealed_secret::is_sealed;
use zeroize::Zeroizing;

use crate::config::CdhConfig;
use crate::data::patience::{Patience, patiently};
use crate::data::resource::Source;
use crate::error::GuestError;

pub use strongroom_client::seal::CounterMode;

/// Opens sealed secrets.
#[derive(Clone)]
pub struct Unsealer {
    source: Source,
    options: UnsealOptions,
    patience: Option<Patience>,
}

impl Unsealer {
    /// Opens with what `source` gives; fails at once when that gives nothing.
    pub fn new(source: Source, options: UnsealOptions) -> Self {
        Self {
            source,
            options,
            patience: None,
        }
    }

    /// Tries again, from now on for this long in all, while the way to the broker fails. A denial is never tried again.
    #[must_use]
    pub fn waiting(mut self, patience: Duration) -> Self {
        self.patience = Patience::from_now(patience);
        self
    }

    /// Opens a sealed secret: its signing key first, then what it points to.
    ///
    /// # Errors
    /// [`GuestError::Seal`] when text or signature is at fault, [`GuestError::SigningKey`],
    /// [`GuestError::SigningKeyFile`] and [`GuestError::SealedResource`] when what it points to is not had;
    /// [`GuestError::GaveUp`] after having waited.
    pub async fn unseal(&self, text: &str) -> Result<Zeroizing<Vec<u8>>, GuestError> {
        let unseal = || self.unseal_once(text);
        patiently(self.patience, "not unsealed yet; trying again", unseal).await
    }

    async fn unseal_once(&self, text: &str) -> Result<Zeroizing<Vec<u8>>, GuestError> {
        let counter = self.options.counter_mode;
        let wanted = match self.options.signature {
            Signature::Required => {
                let wanted = SigningKeyWanted::parse(text)?;
                let key = self.signing_key(wanted.place()).await?;
                wanted.on_signing_key(&key, counter)?
            }
            Signature::InsecureSkip => {
                let wanted = SecretWanted::insecure_parse_unverified(text, counter)?;
                tracing::warn!(
                    points_to = %wanted.uri(),
                    "the signature of a sealed secret is not checked: anybody could have written it"
                );
                wanted
            }
        };
        let resource = self.source.resource(wanted.uri()).await;
        let plaintext = wanted.on_resource(resource.map_err(GuestError::SealedResource)?)?;
        // An application that is promised plaintext must not be handed a pointer, whoever put it there.
        if is_sealed(&plaintext) {
            return Err(GuestError::UnusablePlaintext(
                "what the sealed secret points to is a sealed secret itself: put the plaintext into the broker",
            ));
        }
        Ok(plaintext)
    }

    async fn signing_key(&self, place: &KeyPlace) -> Result<Zeroizing<Vec<u8>>, GuestError> {
        match (place, &self.options.signing_keys) {
            (KeyPlace::Broker(uri), _) => {
                let key = self.source.resource(uri).await;
                key.map_err(GuestError::SigningKey)
            }
            (KeyPlace::Folder(name), Some(folder)) => {
                read_key(folder, name).map_err(|reason| GuestError::SigningKeyFile {
                    path: folder.join(name.as_str()),
                    reason: reason.to_string(),
                })
            }
            (KeyPlace::Folder(name), None) => Err(GuestError::NoSigningKeys {
                name: name.as_str().to_owned(),
            }),
        }
    }
}

/// What of sealed secrets is accepted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct UnsealOptions {
    /// Whether signatures are checked.
    pub signature: Signature,
    /// Whether envelopes without an integrity check are opened.
    pub counter_mode: CounterMode,
    /// The folder with the signing keys that sealed secrets name without a URI. Whoever can write to it can sign.
    pub signing_keys: Option<PathBuf>,
}

impl UnsealOptions {
    /// What a guest accepts whose own file system holds the folder of signing keys, as upstream's does.
    pub fn of_a_guest() -> Self {
        Self {
            signing_keys: Some(SIGNING_KEYS.into()),
            ..Self::default()
        }
    }
}

impl From<&CdhConfig> for UnsealOptions {
    /// What a guest accepts whose data hub is configured so.
    fn from(config: &CdhConfig) -> Self {
        let signature = match config.skip_sealed_secret_verification {
            true => Signature::InsecureSkip,
            false => Signature::Required,
        };
        Self {
            signature,
            ..Self::of_a_guest()
        }
    }
}

/// Whether the signatures of sealed secrets are checked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Signature {
    /// They are, and unsigned ones are refused.
    #[default]
    Required,
    /// They are not: whoever can change a sealed text chooses which of the broker's resources the guest takes for it.
    InsecureSkip,
}

/// Reads a key that nobody but the folder's owner can have put there.
fn read_key(folder: &Path, name: &KeyName) -> io::Result<Zeroizing<Vec<u8>>> {
    let folder = rustix::fs::open(
        folder,
        OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, name.as_str(), flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(io::Error::other("it is no regular file"));
    }
    if (stat.st_mode | rustix::fs::fstat(&folder)?.st_mode) & 0o022 != 0 {
        return Err(io::Error::other(
            "others than its owner may write to it or to its folder, and could sign with a key of theirs",
        ));
    }
    let mut key = Zeroizing::new(Vec::new());
    std::fs::File::from(file)
        .take(MAX_KEY + 1)
        .read_to_end(&mut key)?;
    if key.len() as u64 > MAX_KEY {
        return Err(io::Error::other("it is longer than a key can be (16 KiB)"));
    }
    Ok(key)
}

/// Where upstream's data hub looks for the keys that sealed secrets name without a URI.
pub const SIGNING_KEYS: &str = "/run/confidential-containers/cdh/sealed-secret";
const MAX_KEY: u64 = 16 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use strongroom_client::GuestApi;
    use strongroom_wire::sealed_secret::{SealedSecret, SigningJwk, seal};

    use super::*;

    fn named(kid: &str, folder: Option<&Path>) -> GuestError {
        let key = SigningJwk::generate().unwrap();
        let secret = SealedSecret::vault("kbs:///a/b/c");
        let text = seal(&secret, &key, kid).unwrap();
        // Nothing listens there: who gets so far has the key.
        let source = Source::Rest(GuestApi::new("unix:/none/guest").unwrap());
        let options = UnsealOptions {
            signing_keys: folder.map(Path::to_owned),
            ..UnsealOptions::default()
        };
        if let Some(folder) = folder
            && !folder.join(kid).exists()
        {
            std::fs::write(folder.join(kid), key.public_json("any")).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let unsealed = runtime.block_on(Unsealer::new(source, options).unseal(&text));
        unsealed.unwrap_err()
    }

    #[test]
    fn signatures_are_skipped_without_the_configurations_word() {
        let mut config = CdhConfig::default();
        assert_eq!(UnsealOptions::from(&config), UnsealOptions::of_a_guest());
        config.skip_sealed_secret_verification = true;
        let options = UnsealOptions::from(&config);
        assert_eq!(options.signature, Signature::InsecureSkip);
        assert_eq!(options.counter_mode, CounterMode::Refuse);
    }

    #[test]
    fn key_in_the_folder_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let error = named("sealed-signing", Some(folder.path()));
        assert!(matches!(error, GuestError::SealedResource(_)), "{error}");
    }

    #[test]
    fn key_of_a_folder_that_nobody_named_is_looked_for() {
        let text = named("sealed-signing", None).to_string();
        assert!(text.contains("--signing-keys"), "{text}");
    }

    #[test]
    fn key_that_others_could_have_put_there_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let opened = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(folder.path(), opened(0o777)).unwrap();
        let text = named("k", Some(folder.path())).to_string();
        assert!(text.contains("others than its owner"), "{text}");
        std::fs::set_permissions(folder.path(), opened(0o755)).unwrap();
        std::fs::set_permissions(folder.path().join("k"), opened(0o664)).unwrap();
        let text = named("k", Some(folder.path())).to_string();
        assert!(text.contains("others than its owner"), "{text}");
    }

    #[test]
    fn link_in_the_folder_is_followed() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = elsewhere.path().join("key");
        std::fs::write(&key, "{}").unwrap();
        symlink(&key, folder.path().join("k")).unwrap();
        let error = named("k", Some(folder.path()));
        assert!(
            matches!(error, GuestError::SigningKeyFile { .. }),
            "{error}"
        );
    }
}
