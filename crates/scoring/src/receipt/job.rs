//! What a job says of itself: its options, the files that it read, how they were protected, and where keys came from.

use serde::{Deserialize, Serialize};

use super::Digest;
use crate::batch::{HeaderRow, Results};

/// The model that scored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelUsed {
    /// The bundle's digest: weights, preprocessing and the model's own threshold.
    pub digest: String,
}

/// How the batch was scored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OptionsUsed {
    /// Which rows the owner gets.
    pub results: Results,
    /// What they are written in.
    pub results_format: ResultsFormat,
    /// Who can open them.
    pub results_for: ResultsFor,
    /// Where the key came from, a recipient's or the results' own.
    pub results_key: KeyFrom,
    /// Whether bad rows were counted instead of ending the job.
    pub skip_bad_rows: bool,
    /// Whether the first row names the columns.
    pub header_row: HeaderRow,
    /// The column whose text names a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_column: Option<String>,
    /// Whether columns were passed over that the model does not know.
    pub ignore_unknown_columns: bool,
    /// Whether columns would have been read that an encrypted file holds unencrypted.
    pub insecure_plain_columns: bool,
    /// Whether the job said what its Parquet files were encrypted as, instead of believing them.
    pub aad_prefix: bool,
}

/// The options of a job that its batch does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Handling {
    /// What the results are written in.
    pub results_format: ResultsFormat,
    /// Who can open them.
    pub results_for: ResultsFor,
    /// Where the key for them came from.
    pub results_key: KeyFrom,
    /// Whether columns are passed over that the model does not know.
    pub ignore_unknown_columns: bool,
    /// Whether columns are read that an encrypted file holds unencrypted.
    pub insecure_plain_columns: bool,
    /// Whether the job says what its Parquet files were encrypted as.
    pub aad_prefix: bool,
}

/// What results are written in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultsFormat {
    /// JSON lines.
    Jsonl,
    /// A table in CSV, and its manifest.
    Csv,
    /// A table in Parquet, and its manifest.
    Parquet,
}

impl ResultsFormat {
    /// The files that such results are.
    pub(super) fn files(self) -> usize {
        match self {
            Self::Jsonl => 1,
            Self::Csv | Self::Parquet => 2,
        }
    }
}

/// Who can open the results.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultsFor {
    /// Whoever has the private key to the public one that they were sealed to.
    Recipient,
    /// Whoever has the key that they were encrypted under.
    Key,
}

/// A file that was read, as it lay in storage: where it is encrypted, its ciphertext.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// What it was called.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
    /// What kept others from changing it unnoticed before it was read.
    pub protection: Protection,
    /// Where the keys that opened it came from, each origin once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyFrom>,
}

impl Input {
    /// A file and its digest. Without [`Input::opened`] it is one that nothing protected.
    pub fn new(name: impl Into<String>, digest: &Digest) -> Self {
        Self {
            name: name.into(),
            bytes: digest.bytes,
            sha256: digest.sha256.clone(),
            protection: Protection::None,
            keys: Vec::new(),
        }
    }

    /// How it was opened.
    #[must_use]
    pub fn opened(self, protection: Protection, keys: impl IntoIterator<Item = KeyFrom>) -> Self {
        let mut keys: Vec<KeyFrom> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        Self {
            protection,
            keys,
            ..self
        }
    }

    /// Whether it is the same file, however it was opened.
    pub fn is_file(&self, digest: &Digest) -> bool {
        (self.bytes, &self.sha256) == (digest.bytes, &digest.sha256)
    }

    /// Whether its keys fit its protection, and stand in their order.
    pub(super) fn holds(&self) -> bool {
        super::is_name(&self.name)
            && super::is_sha256(&self.sha256)
            && (self.protection == Protection::None) == self.keys.is_empty()
            && self.keys.is_sorted_by(|before, after| before < after)
    }
}

/// What kept others from changing a file unnoticed, the least first.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    /// Nothing: it was not encrypted.
    #[default]
    None,
    /// Nothing: it was encrypted by `openssl enc`, which does not tell changed bytes.
    Unauthenticated,
    /// Its encryption, except for columns that were read and lie unencrypted in it.
    PlainColumns,
    /// Its encryption, though nothing held it to a name: another file under the same key would have been read (Parquet
    /// without an AAD prefix that the job gives).
    Unbound,
    /// Its encryption: a changed byte, or another file under the same key, is refused.
    Authenticated,
}

impl Protection {
    /// As receipts write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unauthenticated => "unauthenticated",
            Self::PlainColumns => "plain_columns",
            Self::Unbound => "unbound",
            Self::Authenticated => "authenticated",
        }
    }
}

/// Where a key came from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyFrom {
    /// A broker released it after an attestation.
    Broker,
    /// A file of the machine that the job ran on.
    File,
}

impl KeyFrom {
    /// As receipts write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::File => "file",
        }
    }
}
