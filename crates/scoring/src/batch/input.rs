//! CSV as banks export it: a header row, then one row a line, columns in any order, numbers parsed
//! to the nearest f64. RFC 4180 but for one thing: a quoted field ends on its line, so that a lost
//! quote costs one row and not the rest of the file.

use std::io::{BufRead, BufReader, Read};

use csv_core::{ReadRecordResult, Terminator};

use super::{BadReason, BadRow, ScoreError};
use crate::model::Preprocessing;
use crate::shown;
use crate::tile::{TILE, Tile};

/// The rows of a data set whose header fits the model.
pub(super) struct Table<'a> {
    lines: Lines<'a>,
    preprocessing: &'a Preprocessing,
    /// For each column of the model, the field that holds it.
    fields: Vec<usize>,
    width: usize,
    row: u64,
}

impl<'a> Table<'a> {
    /// Reads the header and finds the model's columns in it.
    pub(super) fn open(
        input: &'a mut dyn Read,
        preprocessing: &'a Preprocessing,
        file: &'a str,
    ) -> Result<Self, ScoreError> {
        let mut lines = Lines::new(input, file);
        let refused = |source| ScoreError::Header {
            file: file.to_owned(),
            source,
        };
        if !lines.next()? {
            return Err(refused(HeaderError::Empty));
        }
        let names = lines.header().map_err(refused)?;
        let width = names.len();
        let fields = find_columns(&names, preprocessing).map_err(refused)?;
        lines.record = Record::new(width);
        Ok(Self {
            lines,
            preprocessing,
            fields,
            width,
            row: 0,
        })
    }

    /// The next row, appended to the tile; `None` at the end of the file.
    pub(super) fn next_row(
        &mut self,
        tile: &mut Rows,
    ) -> Result<Option<Result<(), BadRow>>, ScoreError> {
        if !self.lines.next()? {
            return Ok(None);
        }
        self.row += 1;
        let parsed = self.parse(&mut tile.values);
        if parsed.is_ok() {
            tile.values.end_row();
            tile.positions.push(Position {
                row: self.row,
                line: self.lines.number,
            });
        }
        Ok(Some(parsed.map_err(|(column, reason)| BadRow {
            row: self.row,
            line: self.lines.number,
            column: column.map(|column| self.preprocessing.columns()[column].clone()),
            reason,
        })))
    }

    fn parse(&mut self, values: &mut Tile) -> Result<(), (Option<usize>, BadReason)> {
        let count = self.lines.split().map_err(|reason| (None, reason))?;
        if count < self.width {
            return Err((None, BadReason::ShortRow));
        }
        for (column, &field) in self.fields.iter().enumerate() {
            let fault = |reason| (Some(column), reason);
            let value = number(self.lines.record.field(field)).map_err(fault)?;
            if !self.preprocessing.takes(column, value) {
                return Err(fault(BadReason::TooLarge));
            }
            values.set(column, value);
        }
        Ok(())
    }

    pub(super) fn rows(&self) -> u64 {
        self.row
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lines.bytes
    }
}

/// Rows that are scored together, and where they are in the file.
pub(super) struct Rows {
    pub(super) positions: Vec<Position>,
    pub(super) values: Tile,
}

impl Rows {
    pub(super) fn new(width: usize) -> Self {
        Self {
            positions: Vec::with_capacity(TILE),
            values: Tile::new(width),
        }
    }

    pub(super) fn clear(&mut self) {
        self.positions.clear();
        self.values.clear();
    }
}

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) row: u64,
    pub(super) line: u64,
}

/// Why a header row does not fit the model.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not even a header.
    #[error("the file is empty; a header row is needed")]
    Empty,
    /// Something else than CSV, such as a file that is still encrypted.
    #[error("line 1 is not text; is the file still encrypted?")]
    NotText,
    /// The first row holds numbers. They are values, so they are not shown.
    #[error("line 1 holds numbers; a header row with the names of the columns is needed")]
    NoHeaderRow,
    /// Quotes that do not end.
    #[error("line 1: a quoted name does not end")]
    OpenQuote,
    /// A column that neither the model nor its list of ignored columns knows.
    #[error("column {number} ({name}) is unknown{}", suggestion_text(suggestion.as_deref()))]
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
    /// A column that is there twice, so that its value is not certain.
    #[error("column \"{name}\" is there twice")]
    DuplicatedColumn {
        /// Its name.
        name: String,
    },
}

fn suggestion_text(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| {
        format!("; did you mean \"{}\"?", shown(name))
    })
}

/// For each column of the model, its place in the header. Every name must be known.
pub(crate) fn find_columns(
    names: &[String],
    preprocessing: &Preprocessing,
) -> Result<Vec<usize>, HeaderError> {
    let known = || {
        preprocessing
            .columns()
            .iter()
            .chain(preprocessing.ignored_columns())
    };
    for (at, name) in names.iter().enumerate() {
        if !known().any(|known| known == name) {
            return Err(unknown_column(at + 1, name, known()));
        }
        if names[..at].contains(name) {
            return Err(HeaderError::DuplicatedColumn { name: shown(name) });
        }
    }
    preprocessing
        .columns()
        .iter()
        .map(|column| {
            names
                .iter()
                .position(|name| name == column)
                .ok_or_else(|| HeaderError::MissingColumn {
                    name: shown(column),
                })
        })
        .collect()
}

fn unknown_column<'a>(
    number: usize,
    name: &str,
    known: impl Iterator<Item = &'a String>,
) -> HeaderError {
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

/// A field as the nearest f64. Spaces around it are nothing.
fn number(field: &[u8]) -> Result<f64, BadReason> {
    let text = field.trim_ascii();
    if text.is_empty() {
        return Err(BadReason::Empty);
    }
    let text = std::str::from_utf8(text).map_err(|_| BadReason::NotANumber)?;
    let value: f64 = text.parse().map_err(|_| BadReason::NotANumber)?;
    if value.is_finite() {
        Ok(value)
    } else {
        Err(BadReason::NotFinite)
    }
}

/// The longest line: far more than a row needs, and what bounds the memory of a file without lines.
const MAX_LINE: u64 = 64 * 1024;
const BUFFER: usize = 128 * 1024;

/// The lines of a file that are not blank.
struct Lines<'a> {
    input: BufReader<&'a mut dyn Read>,
    file: &'a str,
    line: Vec<u8>,
    number: u64,
    bytes: u64,
    record: Record,
}

impl<'a> Lines<'a> {
    fn new(input: &'a mut dyn Read, file: &'a str) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER, input),
            file,
            line: Vec::with_capacity(256),
            number: 0,
            bytes: 0,
            record: Record::new(MAX_COLUMNS),
        }
    }

    /// Moves to the next line; false at the end of the file.
    fn next(&mut self) -> Result<bool, ScoreError> {
        loop {
            self.line.clear();
            let mut limited = self.input.by_ref().take(MAX_LINE + 1);
            let read = limited
                .read_until(b'\n', &mut self.line)
                .map_err(|source| ScoreError::Read {
                    file: self.file.to_owned(),
                    source,
                })?;
            if read == 0 {
                return Ok(false);
            }
            self.number += 1;
            self.bytes += read as u64;
            if read as u64 > MAX_LINE {
                return Err(ScoreError::LineTooLong {
                    file: self.file.to_owned(),
                    line: self.number,
                    limit: MAX_LINE,
                });
            }
            if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
                self.line.drain(..BYTE_ORDER_MARK.len());
            }
            for end in [b'\n', b'\r'] {
                if self.line.last() == Some(&end) {
                    self.line.pop();
                }
            }
            if !self.line.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Splits the line; gives the number of its fields, which are at most those of the header.
    fn split(&mut self) -> Result<usize, BadReason> {
        self.line.push(b'\n');
        self.record.split(&self.line)
    }

    fn header(&mut self) -> Result<Vec<String>, HeaderError> {
        let count = self.split().map_err(|reason| match reason {
            BadReason::OpenQuote => HeaderError::OpenQuote,
            _ => HeaderError::NotText,
        })?;
        let names = (0..count)
            .map(|at| {
                let name = std::str::from_utf8(self.record.field(at)).ok()?.trim();
                let printable = !name.chars().any(char::is_control);
                printable.then(|| name.to_owned())
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(HeaderError::NotText)?;
        if names.iter().any(|name| name.parse::<f64>().is_ok()) {
            return Err(HeaderError::NoHeaderRow);
        }
        Ok(names)
    }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Columns of a header at most: a line cannot hold more.
const MAX_COLUMNS: usize = MAX_LINE as usize;

/// The fields of one line.
struct Record {
    parser: csv_core::Reader,
    content: Vec<u8>,
    ends: Vec<usize>,
}

impl Record {
    fn new(width: usize) -> Self {
        let parser = csv_core::ReaderBuilder::new()
            .terminator(Terminator::Any(b'\n'))
            .build();
        Self {
            parser,
            content: vec![0; MAX_LINE as usize + 1],
            ends: vec![0; width],
        }
    }

    fn split(&mut self, line: &[u8]) -> Result<usize, BadReason> {
        let (result, read, _, count) =
            self.parser
                .read_record(line, &mut self.content, &mut self.ends);
        match result {
            ReadRecordResult::Record if read == line.len() => Ok(count),
            ReadRecordResult::OutputEndsFull => self.fault(BadReason::LongRow),
            _ => self.fault(BadReason::OpenQuote),
        }
    }

    fn fault(&mut self, reason: BadReason) -> Result<usize, BadReason> {
        self.parser.reset();
        Err(reason)
    }

    fn field(&self, at: usize) -> &[u8] {
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.content[begin..self.ends[at]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_not_the_nearest() {
        // Halfway cases and neighbours that a parser with one rounding too many gets wrong.
        for (text, bits) in [
            ("9007199254740993", 0x4340_0000_0000_0000_u64),
            ("9007199254740995", 0x4340_0000_0000_0002),
            ("2.2250738585072011e-308", 0x000f_ffff_ffff_ffff),
            ("0.3111400080477545", 0.311_140_008_047_754_5_f64.to_bits()),
            ("1e23", 0x44b5_2d02_c7e1_4af6),
            ("-0.0", 0x8000_0000_0000_0000),
            ("1.", 1.0_f64.to_bits()),
            ("+1e0", 1.0_f64.to_bits()),
        ] {
            assert_eq!(number(text.as_bytes()).unwrap().to_bits(), bits, "{text}");
        }
    }

    #[test]
    fn number_in_another_notation_is_guessed() {
        for text in ["1,5", "0x10", "1_000", "1 000", "true", "½", "1.0\0", "--1"] {
            assert_eq!(
                number(text.as_bytes()),
                Err(BadReason::NotANumber),
                "{text}"
            );
        }
        assert_eq!(number(b"\xff"), Err(BadReason::NotANumber));
    }

    #[test]
    fn widest_header_overflows_its_record() {
        let csv = format!("{}\n", ",".repeat(MAX_LINE as usize - 1));
        let preprocessing = Preprocessing::parse(
            br#"{"format":1,"columns":["a"],"scaler":{"mean":[0],"scale":[1]},"threshold":1}"#,
        )
        .unwrap();
        let mut input = csv.as_bytes();
        let result = Table::open(&mut input, &preprocessing, "rows.csv");
        assert!(matches!(result, Err(ScoreError::Header { .. })));
    }
}
