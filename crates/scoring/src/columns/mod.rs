//! Rows that are stored column by column: Parquet and Arrow files, plain or encrypted, read in
//! pieces that several threads take at once.
//!
//! A file is cut into parts. [`ColumnsInput::read`] hands a part out in batches of some thousand
//! rows, each column as f64; a value that no model can take makes its row bad and is named by its
//! column, never shown. Only the wanted columns are read, and no more than a few pages of each are
//! in memory.

mod arrow;
mod batch;
mod footer;
pub mod fuzzing;
mod key_material;
mod modular;
mod numbers;
mod pages;
mod parquet;
mod parquet_file;
mod thrift;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_schema::Schema;

pub use self::arrow::ArrowInput;
pub use self::batch::{Bad, Batch};
pub use self::key_material::NamedKeys;
pub use self::modular::{Key, Of, ParquetKeys, PlainColumns};
pub use self::parquet::ParquetInput;
pub(crate) use self::parquet_file::ParquetFile;
use crate::batch::{Field, HeaderError, Layout};
use crate::detect::Format;
use crate::model::Preprocessing;
use crate::read_at::ReadAt;
use crate::receipt::Protection;
use crate::shown;

/// An open file of columns. Several threads may read its parts.
pub enum ColumnsInput {
    /// A Parquet file.
    Parquet(ParquetInput),
    /// A file or a stream of Arrow's IPC format.
    Arrow(ArrowInput),
}

impl ColumnsInput {
    /// Opens a file of this format for the columns that `preprocessing` names and, where one is
    /// named, a column whose value names the row.
    ///
    /// # Errors
    /// When the file is damaged or too large in one of its parts, its columns do not fit the model,
    /// or its keys are not there.
    pub fn open(
        format: Format,
        source: Arc<dyn ReadAt>,
        preprocessing: &Preprocessing,
        key_column: Option<&str>,
        keys: &ParquetKeys,
    ) -> Result<Self, ColumnsError> {
        match format {
            Format::Parquet => {
                ParquetInput::open(source, preprocessing, key_column, keys).map(Self::Parquet)
            }
            Format::ArrowFile | Format::ArrowStream => {
                ArrowInput::open(source, preprocessing, key_column).map(Self::Arrow)
            }
            _ => Err(ColumnsError::Unsupported("this is no file of columns")),
        }
    }

    /// What keeps the columns that are read from being changed unnoticed: the file's own encryption, if it has one.
    pub fn protection(&self) -> Protection {
        match self {
            Self::Parquet(input) => input.protection(),
            Self::Arrow(_) => Protection::None,
        }
    }

    /// How many parts there are to read.
    pub fn parts(&self) -> u64 {
        match self {
            Self::Parquet(input) => input.parts(),
            Self::Arrow(input) => input.parts(),
        }
    }

    /// How many rows are in the parts before this one; for [`ColumnsInput::parts`], in all.
    pub fn rows_before(&self, part: u64) -> u64 {
        match self {
            Self::Parquet(input) => input.rows_before(part),
            Self::Arrow(input) => input.rows_before(part),
        }
    }

    /// Rows of the whole file, by its own account; reading proves them.
    pub fn rows(&self) -> u64 {
        self.rows_before(self.parts())
    }

    /// Reads a part, batch by batch.
    ///
    /// # Errors
    /// When the part is damaged, or `take` fails.
    pub fn read<E: From<ColumnsError>>(
        &self,
        part: u64,
        take: &mut dyn FnMut(&Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Parquet(input) => input.read(part, take),
            Self::Arrow(input) => input.read(part, take),
        }
    }
}

/// Why a file of columns is not read. No text of it holds a value of a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ColumnsError {
    /// The source fails; where it is encrypted, also that it is not what was encrypted.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The columns do not fit the model.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A wanted column holds something else than numbers.
    #[error("column \"{column}\" is of the type {kind}, and the model needs numbers")]
    NotNumbers {
        /// Which column.
        column: String,
        /// What the file calls its type.
        kind: String,
    },
    /// The key column cannot name rows.
    #[error(
        "the key column \"{column}\" is of the type {kind}; rows are named by text, whole numbers, dates or times"
    )]
    NotAKey {
        /// Which column.
        column: String,
        /// What the file calls its type.
        kind: String,
    },
    /// The file is not what its format says.
    #[error("this {format} file cannot be read: {why}")]
    Malformed {
        /// Which format.
        format: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// A part of the file could not be decoded.
    #[error(
        "{what} {number} of this {format} file cannot be decoded: it is damaged, or was changed"
    )]
    Part {
        /// Which format.
        format: &'static str,
        /// What the format calls the part.
        what: &'static str,
        /// Which part, the first being 0.
        number: usize,
    },
    /// Something is larger than it may be.
    #[error(
        "{what} is too large: {found}, and the most that is read is {limit}{}",
        advice(what)
    )]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// What the file says.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Something that the format knows and this program does not.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Keys were given for a file without encryption.
    #[error(
        "this Parquet file is not encrypted, but a key was given; leave the key out to read it as \
         it is"
    )]
    NotEncrypted,
    /// No key was given for an encrypted file.
    #[error(
        "this Parquet file is encrypted: give the key of {of}{}",
        named(name.as_deref())
    )]
    NeedsKey {
        /// What lacks a key.
        of: Of,
        /// What the file calls the key.
        name: Option<String>,
    },
    /// The key that a file names could not be had.
    #[error("the key of {of} cannot be had: {why}")]
    Key {
        /// What lacks a key.
        of: Of,
        /// What is wrong.
        why: String,
    },
    /// A key that no AES has.
    #[error("the key of {of} has {found} bytes; keys of Parquet files have 16 or 32")]
    KeyLength {
        /// What the key is of.
        of: Of,
        /// Its length.
        found: usize,
    },
    /// A key was given for a column that has none of its own.
    #[error(
        "column \"{column}\" is not encrypted under a key of its own, but one was given for it"
    )]
    NoSuchColumnKey {
        /// Which column.
        column: String,
    },
    /// The file's name must be known.
    #[error("this Parquet file was encrypted as something that is not in it: give its AAD prefix")]
    NeedsAadPrefix,
    /// The footer does not authenticate.
    #[error(
        "the footer of this Parquet file does not open: the key or the AAD prefix is wrong, or the \
         file was changed"
    )]
    FooterKey,
    /// A wanted column lies in an encrypted file without encryption.
    #[error(
        "column \"{column}\" of this encrypted Parquet file is itself not encrypted, so it may have \
         been changed; allow plain columns to read it all the same"
    )]
    PlainColumn {
        /// Which column.
        column: String,
    },
}

fn named(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(", which it calls \"{name}\""))
}

/// What to do about a part that is too large.
fn advice(what: &str) -> &'static str {
    match what {
        ARROW_BATCH => "; write it with smaller record batches (PyArrow: max_chunksize)",
        PARQUET_PAGE => "; write it with smaller pages (PyArrow: data_page_size)",
        _ => "",
    }
}

const ARROW_BATCH: &str = "a record batch of this Arrow file";
const PARQUET_PAGE: &str = "a page of this Parquet file";

/// Where the wanted columns are among those of a file.
#[derive(Debug)]
struct Wanted {
    /// The place of each column of the model, in the order of the model.
    columns: Vec<usize>,
    /// The place of the key column.
    key: Option<usize>,
}

impl Wanted {
    /// Finds them by name, with the rules of a CSV's header.
    fn find(
        names: &[String],
        preprocessing: &Preprocessing,
        key: Option<&str>,
    ) -> Result<Self, HeaderError> {
        let layout = Layout::of_names(names, preprocessing, key)?;
        let mut wanted = Self {
            columns: vec![0; preprocessing.columns().len()],
            key: None,
        };
        for (place, field) in layout.fields().iter().enumerate() {
            match *field {
                Field::Column(column) => wanted.columns[column] = place,
                Field::Key => wanted.key = Some(place),
                Field::Ignored => {}
            }
        }
        Ok(wanted)
    }

    /// Checks that the columns hold numbers, and the key what can name a row.
    fn check_types(&self, schema: &Schema) -> Result<(), ColumnsError> {
        let kind = |field: &arrow_schema::Field| shown(&field.data_type().to_string());
        for &column in &self.columns {
            let field = schema.field(column);
            if !numbers::is_number(field.data_type()) {
                return Err(ColumnsError::NotNumbers {
                    column: shown(field.name()),
                    kind: kind(field),
                });
            }
        }
        let key = self.key.map(|key| schema.field(key));
        match key.filter(|key| !batch::is_name(key.data_type())) {
            Some(field) => Err(ColumnsError::NotAKey {
                column: shown(field.name()),
                kind: kind(field),
            }),
            None => Ok(()),
        }
    }

    /// The places that are read, in rising order.
    fn places(&self) -> Vec<usize> {
        let mut places = self.columns.clone();
        places.extend(self.key);
        places.sort_unstable();
        places
    }
}

/// Runs what a library does with bytes of others. Its panics are an error like any other: nothing
/// outlives the closure but its result, so no broken state can be seen.
fn guarded<T>(
    failed: impl FnOnce() -> ColumnsError,
    work: impl FnOnce() -> Result<T, ColumnsError>,
) -> Result<T, ColumnsError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(failed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(in crate::columns) fn preprocessing(columns: &[&str], ignored: &[&str]) -> Preprocessing {
        let ones = vec![1.0; columns.len()];
        let zeros = vec![0.0; columns.len()];
        let json = serde_json::json!({"format": 1, "columns": columns, "ignored_columns": ignored,
            "scaler": {"mean": zeros, "scale": ones}, "threshold": 0.5});
        Preprocessing::parse(json.to_string().as_bytes()).unwrap()
    }

    fn find(names: &[&str], key: Option<&str>) -> Result<Wanted, String> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Wanted::find(&names, &preprocessing(&["a", "b"], &["label"]), key)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn columns_are_found_by_place() {
        let wanted = find(&["b", "label", "a"], None).unwrap();
        assert_eq!((&wanted.columns[..], wanted.key), (&[2, 0][..], None));
        assert_eq!(wanted.places(), [0, 2]);
    }

    #[test]
    fn key_column_shifts_the_others() {
        for (names, columns, key) in [
            (["id", "b", "a"], [2, 1], 0),
            (["b", "id", "a"], [2, 0], 1),
            (["b", "a", "id"], [1, 0], 2),
        ] {
            let wanted = find(&names, Some("id")).unwrap();
            assert_eq!((&wanted.columns[..], wanted.key), (&columns[..], Some(key)));
        }
    }

    #[test]
    fn key_is_an_ignored_column() {
        let wanted = find(&["label", "a", "b"], Some("label")).unwrap();
        assert_eq!(wanted.key, Some(0));
        assert_eq!(wanted.places(), [0, 1, 2]);
    }

    #[test]
    fn columns_that_do_not_fit_are_read() {
        for (names, key, why) in [
            (
                &["a", "id", "b", "labl"][..],
                Some("id"),
                "column 4 (\"labl\") is unknown; did",
            ),
            (&["a", "b"], Some("id"), "column \"id\" is missing"),
            (
                &["a", "b"],
                Some("b"),
                "column \"b\" is one that the model reads",
            ),
            (
                &["a", "id", "b", "id"],
                Some("id"),
                "column \"id\" is there twice",
            ),
            (&["a", "a", "b"], None, "column \"a\" is there twice"),
            (&["b"], None, "column \"a\" is missing"),
        ] {
            let error = find(names, key).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn panic_of_a_library_takes_the_process_down() {
        let failed = || ColumnsError::Unsupported("failed");
        let error = guarded::<()>(failed, || panic!("index out of bounds")).unwrap_err();
        assert_eq!(error.to_string(), "failed");
    }
}
