//! Keys of Parquet Modular Encryption: which a file needs, and where they come from. What was not
//! encrypted under a key of its owner is not taken for the owner's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parquet::encryption::decrypt::FileDecryptionProperties;
use zeroize::Zeroizing;

use super::ColumnsError;
use super::footer::{ColumnKey, Encryption, Footer, Outline};
use super::key_material::{self, NamedKeys};
use crate::shown;

/// Raw bytes of a key, overwritten when they are dropped.
pub type Key = Zeroizing<Vec<u8>>;

/// How an encrypted Parquet file is opened. The default opens none.
#[derive(Clone, Default)]
pub struct ParquetKeys {
    /// The key of the footer, and of every column that has none of its own: 16 or 32 bytes.
    pub footer: Option<Key>,
    /// Keys of columns, by the name of the column.
    pub columns: BTreeMap<String, Key>,
    /// Finds the other keys by what the file says of them; without it a file names no key.
    pub named: Option<Arc<dyn NamedKeys>>,
    /// What the file was encrypted as. It replaces what the file says itself, so that another file
    /// under the same key is not taken for it.
    pub aad_prefix: Option<Vec<u8>>,
    /// Whether columns without encryption are read from an encrypted file.
    pub plain_columns: PlainColumns,
}

/// What to do with a wanted column that an encrypted file holds unencrypted. Whoever stores the file
/// can change such a column unnoticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlainColumns {
    /// Refuses the file.
    #[default]
    Refuse,
    /// Reads it.
    Allow,
}

impl fmt::Debug for ParquetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetKeys").finish_non_exhaustive()
    }
}

impl ParquetKeys {
    /// The keys that the library needs to read these columns; `None` for a plain file, which is
    /// refused when keys were given.
    pub(super) fn resolve(
        &self,
        footer: &Footer,
        wanted: &[String],
    ) -> Result<Option<Arc<FileDecryptionProperties>>, ColumnsError> {
        let readable = if footer.is_encrypted() {
            None
        } else {
            Some(footer.outline()?)
        };
        let before = footer.encryption()?;
        let encryption = before
            .as_ref()
            .or_else(|| readable.as_ref()?.encryption.as_ref());
        let Some(encryption) = encryption else {
            return if self.is_empty() {
                Ok(None)
            } else {
                Err(ColumnsError::NotEncrypted)
            };
        };
        if encryption.ctr {
            return Err(ColumnsError::Unsupported(
                "this Parquet file uses the cipher AES_GCM_CTR_V1, which does not protect pages \
                 against changes; write it with AES_GCM_V1",
            ));
        }
        let key = self.footer_key(encryption)?;
        let prefix = self.aad_prefix(encryption)?;
        let outline = match &readable {
            Some(outline) => outline,
            None => &footer.decrypted_outline(&key, prefix)?,
        };
        let mut properties = FileDecryptionProperties::builder(key.to_vec());
        if self.aad_prefix.is_some() {
            properties = properties.with_aad_prefix(prefix.to_vec());
        }
        for (column, key) in self.column_keys(outline, wanted)? {
            properties = properties.with_column_key(column, key.to_vec());
        }
        let properties = properties
            .build()
            .map_err(|_| ColumnsError::Unsupported("the keys do not fit together"))?;
        Ok(Some(properties))
    }

    fn is_empty(&self) -> bool {
        self.footer.is_none() && self.columns.is_empty() && self.named.is_none()
    }

    fn footer_key(&self, encryption: &Encryption) -> Result<Key, ColumnsError> {
        let metadata = encryption.key_metadata.as_deref();
        self.key(self.footer.as_ref(), metadata, None)
    }

    fn aad_prefix<'a>(&'a self, encryption: &'a Encryption) -> Result<&'a [u8], ColumnsError> {
        match (&self.aad_prefix, &encryption.aad_prefix) {
            (Some(prefix), _) => Ok(prefix),
            (None, _) if encryption.supply_aad_prefix => Err(ColumnsError::NeedsAadPrefix),
            (None, Some(prefix)) => Ok(prefix),
            (None, None) => Ok(&[]),
        }
    }

    /// The keys of the wanted columns that have one of their own. No other is asked for.
    fn column_keys<'a>(
        &self,
        outline: &'a Outline,
        wanted: &[String],
    ) -> Result<Vec<(&'a str, Key)>, ColumnsError> {
        let of_its_own = |name: &String| outline.column_keys.iter().any(|key| key.column == *name);
        if let Some(name) = self.columns.keys().find(|name| !of_its_own(name)) {
            return Err(ColumnsError::NoSuchColumnKey {
                column: shown(name),
            });
        }
        outline
            .column_keys
            .iter()
            .filter(|key| wanted.contains(&key.column))
            .map(|ColumnKey { column, metadata }| {
                let key = self.key(self.columns.get(column), metadata.as_deref(), Some(column))?;
                Ok((column.as_str(), key))
            })
            .collect()
    }

    /// A key that was given, or else the one that the file names.
    fn key(
        &self,
        given: Option<&Key>,
        metadata: Option<&[u8]>,
        column: Option<&str>,
    ) -> Result<Key, ColumnsError> {
        let of = Of {
            column: column.map(shown),
        };
        let key = match (given, &self.named, metadata) {
            (Some(key), _, _) => key.clone(),
            (None, Some(keys), Some(metadata)) => key_material::data_key(metadata, &**keys)
                .map_err(|why| ColumnsError::Key {
                    of: of.clone(),
                    why,
                })?,
            (None, _, _) => {
                let name = key_material::name_of(metadata);
                return Err(ColumnsError::NeedsKey { of, name });
            }
        };
        match key.len() {
            16 | 32 => Ok(key),
            24 => Err(ColumnsError::Unsupported(
                "a key of this Parquet file has 24 bytes: AES-192 is not read here, write it with \
                 a key of 16 or 32 bytes",
            )),
            found => Err(ColumnsError::KeyLength { of, found }),
        }
    }
}

/// What a key is of: the footer, or a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Of {
    column: Option<String>,
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "column \"{column}\""),
            None => f.write_str("the footer"),
        }
    }
}
