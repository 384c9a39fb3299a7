//! Where the storage key is kept: in a file for the broker's user alone, or sealed by this machine's TPM.
//!
//! A sealed key opens on this machine only, and only while the TPM's registers have the values that it was sealed for.
//! While the broker runs the key is in its memory either way: the TPM guards the disk, not the process.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use strongroom_tpm::{
    AddressError, PcrPolicy, PcrSet, Sealed, SealedError, Tpm, TpmAddress, TpmError,
};
use zeroize::Zeroizing;

use crate::config::StoreConfig;
use crate::key_file::{read_private, read_storage_key, replace_private, write_new};
use crate::store::{SealError, StorageKey, StorageKeys};
use crate::{BrokerError, Config};

/// Reads the storage keys from where the configuration has them.
pub(crate) fn load(config: &StoreConfig) -> Result<StorageKeys, BrokerError> {
    let text = read_storage_key(&config.key_file)?;
    let read = || match &config.key_tpm {
        None if is_sealed(&text) => Err(StorageKeyError::NoTpm),
        None => Ok(StorageKeys::from_text(&text)?),
        Some(_) if !is_sealed(&text) => Err(StorageKeyError::NotSealed),
        Some(address) => SealedKeys::parse(&text)?.unseal(&mut open(address)?),
    };
    read().map_err(|source| source.at(&config.key_file))
}

/// Replaces the storage keys where the configuration has them. Sealed ones are sealed for the same registers again, with
/// the values that they had: what runs now may not be what their owner sealed them for.
pub(crate) fn save(config: &StoreConfig, keys: &StorageKeys) -> Result<(), BrokerError> {
    let path = &config.key_file;
    let Some(address) = &config.key_tpm else {
        return replace_private(path, keys.to_text().as_bytes());
    };
    let before = read_private(path)?;
    let sealed = || {
        let policy = SealedKeys::parse(&before)?.policy()?;
        SealedKeys::seal(&mut open(address)?, keys, policy)
    };
    let sealed = sealed().map_err(|source| source.at(path))?;
    replace_private(path, sealed.to_text().as_bytes())
}

/// What to seal a key for.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// The TPM.
    pub tpm: TpmAddress,
    /// The registers whose values must be what they are now; with none of them any program on this machine that may
    /// use the TPM, whatever was booted, gets the key.
    pub pcrs: PcrSet,
}

/// What a key was sealed for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SealedFor {
    /// The key's name, which says nothing about it.
    pub key: String,
    /// The registers and their values, in hex.
    pub pcrs: BTreeMap<u8, String>,
}

impl SealedFor {
    /// The registers into which nothing was measured: their value says nothing about what runs.
    pub fn unmeasured(&self) -> Vec<u8> {
        let is_empty = |value: &String| value.bytes().all(|digit| digit == b'0');
        let empty = self.pcrs.iter().filter(|(_, value)| is_empty(value));
        empty.map(|(pcr, _)| *pcr).collect()
    }
}

/// Seals a fresh storage key. Gives it in both forms: sealed, and as it is.
pub(crate) fn generate(
    sealing: &Sealing,
) -> Result<(String, Zeroizing<String>, SealedFor), StorageKeyError> {
    let keys = StorageKeys::from_text(&StorageKey::generate()?.to_text())?;
    let mut tpm = Tpm::open(&sealing.tpm)?;
    let policy = policy_now(&mut tpm, sealing.pcrs)?;
    let sealed = SealedKeys::seal(&mut tpm, &keys, policy)?;
    // What does not open here and now never will.
    sealed.unseal(&mut tpm)?;
    Ok((sealed.to_text(), keys.to_text(), sealed.sealed_for()))
}

/// Seals the storage key of a file, for registers as they are now, into the place where the configuration has it.
///
/// # Errors
/// [`BrokerError::StorageKey`]; what was there before stays.
pub fn seal_storage_key(
    config: &Config,
    from: &Path,
    pcrs: Option<PcrSet>,
) -> Result<SealedFor, BrokerError> {
    let store = &config.store;
    let path = &store.key_file;
    let at_path = |source: StorageKeyError| source.at(path);
    let address = store.key_tpm.as_ref();
    let address = address.ok_or_else(|| at_path(StorageKeyError::NoTpmNamed))?;
    let before = match path.exists() {
        true => Some(read_private(path)?),
        false => None,
    };
    let before = match before.as_ref().map(|text| SealedKeys::parse(text)) {
        None => None,
        Some(Ok(sealed)) => Some(sealed),
        // A key that is not sealed, perhaps the only copy.
        Some(Err(_)) => return Err(at_path(StorageKeyError::InTheWay)),
    };
    let text = read_private(from)?;
    let keys =
        StorageKeys::from_text(&text).map_err(|error| StorageKeyError::from(error).at(from))?;
    if let Some(before) = &before
        && let Some(wanted) = before.keys.first()
        && wanted.id != keys.current().id()
    {
        let (wanted, actual) = (wanted.id.clone(), keys.current().id());
        return Err(StorageKeyError::Stale { wanted, actual }.at(from));
    }
    let seal = || {
        let mut tpm = open(address)?;
        let pcrs = match (pcrs, &before) {
            (Some(pcrs), _) => pcrs,
            (None, Some(before)) => before
                .policy()?
                .map_or(PcrSet::NONE, |policy| policy.pcrs()),
            (None, None) => DEFAULT_PCRS,
        };
        let policy = policy_now(&mut tpm, pcrs)?;
        let sealed = SealedKeys::seal(&mut tpm, &keys, policy)?;
        sealed.unseal(&mut tpm)?;
        Ok(sealed)
    };
    let sealed = seal().map_err(at_path)?;
    replace_private(path, sealed.to_text().as_bytes())?;
    Ok(sealed.sealed_for())
}

/// Writes the storage key, as the TPM gives it back, into a file that must not be there yet. Gives the key's name.
///
/// # Errors
/// As a start of the broker, and [`BrokerError::File`].
pub fn copy_storage_key(config: &Config, to: &Path) -> Result<String, BrokerError> {
    let keys = load(&config.store)?;
    write_new(to, 0o600, keys.to_text().as_bytes())?;
    Ok(keys.current().id())
}

/// The registers that a key is sealed for unless others are named: 7 is what Secure Boot trusts, and no update of a
/// kernel moves it.
pub const DEFAULT_PCRS: PcrSet = PcrSet::SECURE_BOOT;

fn open(address: &str) -> Result<Tpm, StorageKeyError> {
    Ok(Tpm::open(&address.parse()?)?)
}

fn policy_now(tpm: &mut Tpm, pcrs: PcrSet) -> Result<Option<PcrPolicy>, TpmError> {
    match pcrs.is_empty() {
        true => Ok(None),
        false => tpm.current_policy(pcrs).map(Some),
    }
}

fn is_sealed(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// The file of sealed keys.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SealedKeys {
    /// Which form of the file it is.
    sealed_storage_key: u32,
    /// The registers of the SHA-256 bank, and what they must be.
    pcrs: BTreeMap<u8, String>,
    /// The current key first.
    keys: Vec<SealedText>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SealedText {
    id: String,
    public: String,
    private: String,
    parent: String,
}

impl SealedKeys {
    fn seal(
        tpm: &mut Tpm,
        keys: &StorageKeys,
        policy: Option<PcrPolicy>,
    ) -> Result<Self, StorageKeyError> {
        let pcrs = policy.as_ref().map(PcrPolicy::values);
        let pcrs = pcrs.into_iter().flatten();
        Ok(Self {
            sealed_storage_key: FORM,
            pcrs: pcrs
                .map(|(pcr, value)| (*pcr, hex::encode(value)))
                .collect(),
            keys: keys
                .iter()
                .map(|key| {
                    let sealed = tpm.seal(key.expose(), policy.clone())?;
                    Ok(SealedText {
                        id: key.id(),
                        public: STANDARD.encode(sealed.public),
                        private: STANDARD.encode(sealed.private),
                        parent: STANDARD.encode(sealed.parent),
                    })
                })
                .collect::<Result<_, TpmError>>()?,
        })
    }

    fn unseal(&self, tpm: &mut Tpm) -> Result<StorageKeys, StorageKeyError> {
        let policy = self.policy()?;
        let mut text = Zeroizing::new(String::new());
        for sealed in &self.keys {
            let decode = |field: &str| {
                STANDARD
                    .decode(field)
                    .map_err(|_| StorageKeyError::Form("a field is not standard base64".to_owned()))
            };
            let bytes = tpm.unseal(&Sealed {
                public: decode(&sealed.public)?,
                private: decode(&sealed.private)?,
                parent: decode(&sealed.parent)?,
                policy: policy.clone(),
            })?;
            let key = StorageKey::from_bytes(&bytes)?;
            if key.id() != sealed.id {
                return Err(StorageKeyError::Form(
                    "a key is not the one that it is called".to_owned(),
                ));
            }
            text = Zeroizing::new([text.as_str(), &key.to_text()].concat());
        }
        Ok(StorageKeys::from_text(&text)?)
    }

    fn parse(text: &str) -> Result<Self, StorageKeyError> {
        if text.len() > MAX_FILE {
            return Err(StorageKeyError::Form(format!(
                "{} bytes, at most {MAX_FILE}",
                text.len()
            )));
        }
        let sealed: Self =
            serde_json::from_str(text).map_err(|error| StorageKeyError::Form(error.to_string()))?;
        match (sealed.sealed_storage_key, sealed.keys.len()) {
            (FORM, 1..=MAX_KEYS) => Ok(sealed),
            (FORM, count) => Err(StorageKeyError::Form(format!(
                "{count} keys, 1 to {MAX_KEYS}"
            ))),
            (other, _) => Err(StorageKeyError::Form(format!(
                "form {other} is not known, form {FORM} is"
            ))),
        }
    }

    fn policy(&self) -> Result<Option<PcrPolicy>, StorageKeyError> {
        if self.pcrs.is_empty() {
            return Ok(None);
        }
        let mut values = BTreeMap::new();
        for (pcr, value) in &self.pcrs {
            let mut bytes = [0; 32];
            hex::decode_to_slice(value, &mut bytes)
                .map_err(|_| StorageKeyError::Form(format!("PCR {pcr} is not 32 bytes in hex")))?;
            values.insert(*pcr, bytes);
        }
        let policy = PcrPolicy::new(values);
        let policy = policy.ok_or_else(|| StorageKeyError::Form("a PCR beyond 23".to_owned()))?;
        Ok(Some(policy))
    }

    fn sealed_for(&self) -> SealedFor {
        SealedFor {
            key: self
                .keys
                .first()
                .map(|key| key.id.clone())
                .unwrap_or_default(),
            pcrs: self.pcrs.clone(),
        }
    }

    fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("maps of text have a JSON form");
        text.push('\n');
        text
    }
}

/// Why there is no storage key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageKeyError {
    /// The key is sealed, and the configuration names no TPM.
    #[error(
        "the storage key is sealed by a TPM, and the configuration does not say which: set store.key_tpm = \"/dev/tpmrm0\""
    )]
    NoTpm,
    /// A TPM is wanted that the configuration does not name.
    #[error(
        "there is no TPM to seal the storage key with: set store.key_tpm = \"/dev/tpmrm0\" and store.key_file to where the \
         sealed key shall be"
    )]
    NoTpmNamed,
    /// The configuration names a TPM, and the key lies open.
    #[error(
        "store.key_tpm is set, and this file has a key that is not sealed. Set store.key_file to another file and seal the \
         key into it: strongroom broker seal-key --from THIS-FILE"
    )]
    NotSealed,
    /// What is not a sealed key would be replaced by one.
    #[error(
        "this is no sealed storage key, and is not replaced by one: move it away if it is of no use, or set store.key_file \
         to another file"
    )]
    InTheWay,
    /// The key in hand is not the one in use.
    #[error(
        "its key is {actual}, and the broker's is {wanted}: the copy was made before a rotation, or is another broker's. Take \
         the newest copy"
    )]
    Stale {
        /// The name of the key in use.
        wanted: String,
        /// The name of the key that was given.
        actual: String,
    },
    /// The file of the sealed key was changed.
    #[error(
        "it is not the file of a sealed storage key: {0}. Restore it, or seal the recovery key anew: {AGAIN}"
    )]
    Form(String),
    /// The text names no TPM.
    #[error("store.key_tpm: {0}")]
    Address(#[from] AddressError),
    /// The TPM does not give the key back.
    #[error("{}", sealed_text(.0))]
    Sealed(SealedError),
    /// The key is none.
    #[error(transparent)]
    Key(#[from] SealError),
}

impl StorageKeyError {
    fn at(self, path: &Path) -> BrokerError {
        BrokerError::StorageKey {
            path: path.to_owned(),
            source: Box::new(self),
        }
    }
}

impl From<SealedError> for StorageKeyError {
    fn from(error: SealedError) -> Self {
        Self::Sealed(error)
    }
}

impl From<TpmError> for StorageKeyError {
    fn from(error: TpmError) -> Self {
        Self::Sealed(SealedError::Tpm(error))
    }
}

fn sealed_text(error: &SealedError) -> String {
    match error {
        SealedError::PcrsChanged(_) => format!(
            "the TPM does not give the storage key back, because this machine is not as it was when the key was sealed: \
             {error}. If you changed firmware, its settings or what is booted, seal the recovery key for what runs now: \
             {AGAIN}. If you did not, find out what changed before you do: the machine may not be yours any more"
        ),
        SealedError::AnotherRoot => {
            format!(
                "the TPM does not give the storage key back: {error}. With the recovery key: {AGAIN}"
            )
        }
        other => other.to_string(),
    }
}

const AGAIN: &str = "strongroom broker seal-key --from RECOVERY-KEY-FILE";
const FORM: u32 = 1;
const MAX_KEYS: usize = 16;
const MAX_FILE: usize = 64 * 1024;
