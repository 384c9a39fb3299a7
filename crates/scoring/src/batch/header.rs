//! Which field of a row is which column of the model: by the names in a header row, or by order.

use super::record::Record;
use crate::model::{Preprocessing, UnknownColumns};
use crate::results::BadReason;
use crate::shown;

/// What each field of a row is, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    fields: Vec<Field>,
}

/// What one field of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    /// A column that nobody asked for.
    Ignored,
    /// The column of the model with this place.
    Column(usize),
    /// What the owner calls the row by.
    Key,
}

impl Layout {
    /// Reads a header row, without its line end.
    pub(super) fn of_header(
        line: &[u8],
        preprocessing: &Preprocessing,
        key: Option<&str>,
    ) -> Result<Self, HeaderError> {
        let mut record = Record::new(MAX_COLUMNS);
        let count = record.split(line).map_err(|reason| match reason {
            BadReason::OpenQuote => HeaderError::OpenQuote,
            _ => HeaderError::NotText,
        })?;
        let names = (0..count)
            .map(|at| {
                let name = std::str::from_utf8(record.field(at)).ok()?.trim();
                let printable = !name.chars().any(|c| c.is_control() && c != '\t');
                printable.then(|| name.to_owned())
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(HeaderError::NotText)?;
        if names.iter().any(|name| name.parse::<f64>().is_ok()) {
            return Err(HeaderError::NoHeaderRow);
        }
        Self::of_names(&names, preprocessing, key)
    }

    /// Finds the columns of the model among `names`. Every name must be known.
    pub(crate) fn of_names(
        names: &[String],
        preprocessing: &Preprocessing,
        key: Option<&str>,
    ) -> Result<Self, HeaderError> {
        let known = || {
            preprocessing
                .columns()
                .iter()
                .chain(preprocessing.ignored_columns())
        };
        let mut fields = Vec::with_capacity(names.len());
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(HeaderError::DuplicatedColumn { name: shown(name) });
            }
            let column = preprocessing
                .columns()
                .iter()
                .position(|column| column == name);
            fields.push(if let Some(column) = column {
                Field::Column(column)
            } else if key == Some(name) {
                Field::Key
            } else if preprocessing.ignored_columns().contains(name)
                || preprocessing.unknown_columns() == UnknownColumns::Ignore
            {
                Field::Ignored
            } else {
                return Err(unknown_column(at + 1, name, known()));
            });
        }
        let missing = |name: &str| HeaderError::MissingColumn { name: shown(name) };
        for (column, name) in preprocessing.columns().iter().enumerate() {
            if !fields.contains(&Field::Column(column)) {
                return Err(missing(name));
            }
        }
        if let Some(key) = key {
            if preprocessing.columns().iter().any(|column| column == key) {
                return Err(HeaderError::KeyIsAColumn { name: shown(key) });
            }
            if !fields.contains(&Field::Key) {
                return Err(missing(key));
            }
        }
        Ok(Self { fields })
    }

    /// The fields of a row.
    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// Columns of a header at most: a line cannot hold more.
const MAX_COLUMNS: usize = super::record::MAX_LINE;

/// Why a header row does not fit the model.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not even a header.
    #[error("the file is empty; a header row is needed")]
    Empty,
    /// Something else than CSV, such as a file that is still encrypted.
    #[error(
        "line 1 is not text: the file is still encrypted, or packed or encoded otherwise (CSV in UTF-8, plain or packed by gzip or zstd, is read; so are Parquet and Arrow)"
    )]
    NotText,
    /// The first row holds numbers. They are values, so they are not shown.
    #[error(
        "line 1 holds numbers; a header row with the names of the columns is needed (or --no-header, where the file has the model's columns and no other, in the model's order)"
    )]
    NoHeaderRow,
    /// Quotes that do not end.
    #[error("line 1: a quoted name does not end")]
    OpenQuote,
    /// A column that neither the model nor its list of ignored columns knows.
    #[error("column {number} ({name}) is unknown{}", next_step(name, suggestion.as_deref()))]
    UnknownColumn {
        /// The place of the column, the first being 1.
        number: usize,
        /// Its name in quotes, unless it looks like anything but a name.
        name: String,
        /// A known column that is spelled alike.
        suggestion: Option<String>,
    },
    /// A column that the model needs.
    #[error("column \"{name}\" is missing")]
    MissingColumn {
        /// Its name.
        name: String,
    },
    /// The rows' key is one of the model's columns: a number is no name.
    #[error("column \"{name}\" is one that the model reads: it cannot be the rows' key as well")]
    KeyIsAColumn {
        /// Its name.
        name: String,
    },
    /// A column that is there twice, so that its value is not certain.
    #[error("column \"{name}\" is there twice")]
    DuplicatedColumn {
        /// Its name.
        name: String,
    },
}

fn next_step(name: &str, suggestion: Option<&str>) -> String {
    match suggestion {
        Some(suggestion) => format!("; did you mean \"{}\"?", shown(suggestion)),
        None if name == SEPARATED_OTHERWISE => {
            ": it holds several names, and CSV separates them by commas".to_owned()
        }
        None => ": the model does not read it and does not list it as ignored_columns; --ignore-unknown-columns reads the file without it".to_owned(),
    }
}

/// Stands for the name of a column that is no name but several.
const SEPARATED_OTHERWISE: &str = "separated by semicolons or tabs";

fn unknown_column<'a>(
    number: usize,
    name: &str,
    known: impl Iterator<Item = &'a String>,
) -> HeaderError {
    if name.contains([';', '\t']) {
        return HeaderError::UnknownColumn {
            number,
            name: SEPARATED_OTHERWISE.to_owned(),
            suggestion: None,
        };
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_name) {
        let name = "its name is not shown".to_owned();
        return HeaderError::UnknownColumn {
            number,
            name,
            suggestion: None,
        };
    }
    let spelled = |name: &str| name.to_ascii_lowercase().replace(['-', '.', ' '], "_");
    let suggestion = known
        .map(|known| (strsim::jaro_winkler(&spelled(known), &spelled(name)), known))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known.clone());
    HeaderError::UnknownColumn {
        number,
        name: format!("\"{name}\""),
        suggestion,
    }
}
