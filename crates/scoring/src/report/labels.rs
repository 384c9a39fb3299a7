//! What became of the rows: true labels from a CSV, by row number and, where it names them, by file.
//! Two bits a row in memory, and a limit on what a file can make of that.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};

use csv_core::{ReadRecordResult, Terminator};

use crate::shown;

/// The true labels of a data set.
#[derive(Debug, Default)]
pub struct Labels {
    /// The files that it names; row numbers of a list without files are those of the data set.
    files: HashMap<String, u32>,
    by_file: bool,
    /// 64 rows each: which have a label, and which of these are fraud.
    rows: HashMap<(u32, u64), (u64, u64)>,
    frauds: u64,
    honest: u64,
}

impl Labels {
    /// Reads a CSV with a header: a column `row` with the numbers of the rows, the first being 1, or
    /// none where each line is a row of the data set in its order; a column `file` where the data
    /// set has several; and the label, 1 or 0, in the named column, or in `label` or `fraud`. A row
    /// without a label has none.
    ///
    /// # Errors
    /// [`LabelsError`] says which line or what else. No value is quoted.
    pub fn read(input: impl Read, column: Option<&str>) -> Result<Self, LabelsError> {
        let mut lines = Lines::new(input);
        if !lines.next()? {
            return Err(LabelsError::NoColumn("label"));
        }
        let names: Vec<String> = lines.fields().map(|name| name.trim().to_owned()).collect();
        let find = |name: &str| names.iter().position(|other| other == name);
        let label = match column {
            Some(name) => find(name).ok_or_else(|| LabelsError::NoSuchColumn(shown(name)))?,
            None => find("label")
                .or_else(|| find("fraud"))
                .ok_or(LabelsError::NoColumn("label"))?,
        };
        let (row, file) = (find("row"), find("file"));
        let mut labels = Self {
            by_file: file.is_some(),
            ..Self::default()
        };
        let mut counted = HashMap::new();
        while lines.next()? {
            let at_fault = LabelsError::Line(lines.number);
            let mut fields: Vec<&str> = lines.fields().collect();
            fields.iter_mut().for_each(|field| *field = field.trim());
            let field = |at: usize| fields.get(at).copied();
            let in_file = match file {
                Some(at) => labels.file(field(at).ok_or(LabelsError::Line(lines.number))?)?,
                None => 0,
            };
            let number = match row {
                Some(at) => field(at).and_then(|text| text.parse().ok()),
                None => {
                    let counted: &mut u64 = counted.entry(in_file).or_default();
                    *counted += 1;
                    Some(*counted)
                }
            };
            let Some(number @ 1..) = number else {
                return Err(at_fault);
            };
            match field(label).map(parse) {
                Some(Ok(Some(is_fraud))) => {
                    if !labels.add(in_file, number, is_fraud)? {
                        return Err(LabelsError::Twice(lines.number));
                    }
                }
                Some(Ok(None)) => {}
                _ => return Err(at_fault),
            }
        }
        Ok(labels)
    }

    /// What became of a row; none when nobody said.
    pub(super) fn of(&self, file: Option<&str>, row: u64) -> Option<bool> {
        let in_file = match (self.by_file, file) {
            (true, Some(name)) => *self.files.get(name)?,
            (true, None) => return None,
            (false, _) => 0,
        };
        let (labelled, frauds) = self.rows.get(&(in_file, row / 64))?;
        let bit = 1 << (row % 64);
        (labelled & bit != 0).then_some(frauds & bit != 0)
    }

    /// Whether rows are told apart by the names of their files.
    pub(super) fn by_file(&self) -> bool {
        self.by_file
    }

    /// Rows labelled as fraud.
    pub fn frauds(&self) -> u64 {
        self.frauds
    }

    /// Rows labelled as honest.
    pub fn honest(&self) -> u64 {
        self.honest
    }

    fn file(&mut self, name: &str) -> Result<u32, LabelsError> {
        if let Some(file) = self.files.get(name) {
            return Ok(*file);
        }
        let next = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        if next >= MOST_FILES {
            return Err(LabelsError::TooMany);
        }
        self.files.insert(name.to_owned(), next);
        Ok(next)
    }

    /// Adds a label; false when the row has one already.
    fn add(&mut self, file: u32, row: u64, is_fraud: bool) -> Result<bool, LabelsError> {
        let (labelled, frauds) = self.rows.entry((file, row / 64)).or_default();
        let bit = 1 << (row % 64);
        if *labelled & bit != 0 {
            return Ok(false);
        }
        *labelled |= bit;
        if is_fraud {
            *frauds |= bit;
            self.frauds += 1;
        } else {
            self.honest += 1;
        }
        match self.rows.len() > MOST_CHUNKS {
            true => Err(LabelsError::TooMany),
            false => Ok(true),
        }
    }
}

/// Why labels are refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabelsError {
    /// They could not be read, or not be decrypted.
    #[error("the labels cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The header names no label.
    #[error(
        "the labels' header has no column \"{0}\" or \"fraud\"; name the column with --label-column"
    )]
    NoColumn(&'static str),
    /// The header does not have the named column.
    #[error("the labels' header has no column \"{0}\"")]
    NoSuchColumn(String),
    /// A line without a row number or without a label of 0 or 1.
    #[error("line {0} of the labels: a row number and a label of 1 or 0 are needed")]
    Line(u64),
    /// A row with two labels.
    #[error("line {0} of the labels: the row has a label already")]
    Twice(u64),
    /// Row numbers so far apart, or so many files, that they do not fit into memory.
    #[error("the labels are spread over more rows or files than fit into memory")]
    TooMany,
}

/// 64 rows each, so about a billion rows in their order.
const MOST_CHUNKS: usize = 1 << 24;
const MOST_FILES: u32 = 1 << 16;
const MAX_LINE: u64 = 64 * 1024;

/// A label; none where nobody knows.
fn parse(text: &str) -> Result<Option<bool>, ()> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<f64>() {
        Ok(1.0) => Ok(Some(true)),
        Ok(0.0) => Ok(Some(false)),
        Ok(_) => Err(()),
        Err(_) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
        Err(_) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
        Err(_) => Err(()),
    }
}

/// The lines of a CSV that are not blank, as text.
struct Lines<R> {
    input: BufReader<R>,
    parser: csv_core::Reader,
    line: Vec<u8>,
    content: Vec<u8>,
    ends: Vec<usize>,
    count: usize,
    number: u64,
}

impl<R: Read> Lines<R> {
    fn new(input: R) -> Self {
        Self {
            input: BufReader::new(input),
            parser: csv_core::ReaderBuilder::new()
                .terminator(Terminator::Any(b'\n'))
                .build(),
            line: Vec::new(),
            content: vec![0; MAX_LINE as usize + 1],
            ends: vec![0; MAX_LINE as usize + 1],
            count: 0,
            number: 0,
        }
    }

    /// Moves to the next line; false at the end.
    fn next(&mut self) -> Result<bool, LabelsError> {
        loop {
            self.line.clear();
            let mut limited = self.input.by_ref().take(MAX_LINE);
            if limited.read_until(b'\n', &mut self.line)? == 0 {
                return Ok(false);
            }
            self.number += 1;
            if self.line.len() as u64 == MAX_LINE {
                return Err(LabelsError::Line(self.number));
            }
            if self.number == 1 && self.line.starts_with(b"\xef\xbb\xbf") {
                self.line.drain(..3);
            }
            while self.line.last().is_some_and(|end| b"\r\n".contains(end)) {
                self.line.pop();
            }
            if !self.line.is_empty() {
                break;
            }
        }
        self.line.push(b'\n');
        let (result, read, _, count) =
            self.parser
                .read_record(&self.line, &mut self.content, &mut self.ends);
        if !matches!(result, ReadRecordResult::Record) || read != self.line.len() {
            return Err(LabelsError::Line(self.number));
        }
        self.count = count;
        Ok(true)
    }

    /// The fields of the line; what is no text is an empty field.
    fn fields(&self) -> impl Iterator<Item = &str> {
        let begins = [0].into_iter().chain(self.ends.iter().copied());
        let places = begins.zip(self.ends[..self.count].iter().copied());
        places.map(|(begin, end)| {
            let field = self.content.get(begin..end).unwrap_or_default();
            std::str::from_utf8(field).unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(csv: &str) -> Result<Labels, LabelsError> {
        Labels::read(csv.as_bytes(), None)
    }

    fn refusal(csv: &str) -> String {
        read(csv).unwrap_err().to_string()
    }

    #[test]
    fn rows_get_the_labels_of_others() {
        let labels = read("row,label\n1,0\n64,1\n65,0.0\n\n200,true\n201,\n").unwrap();
        let of = |row| labels.of(Some("any.csv"), row);
        assert_eq!(
            [1, 64, 65, 200].map(of),
            [false, true, false, true].map(Some)
        );
        assert_eq!([2, 63, 201, 202, 10_000].map(of), [None; 5]);
        assert_eq!((labels.frauds(), labels.honest()), (2, 2));
    }

    #[test]
    fn lines_without_numbers_are_not_counted() {
        let labels = read("\u{feff}amount,fraud\r\n3.5,0.0\r\n\"2\",1.0\r\n").unwrap();
        assert_eq!(
            [0, 1, 2, 3].map(|row| labels.of(None, row)),
            [None, Some(false), Some(true), None]
        );
        let named = Labels::read(&b"a,b\n0,1\n"[..], Some("b")).unwrap();
        assert_eq!(named.of(None, 1), Some(true));
    }

    #[test]
    fn files_share_their_labels() {
        let labels = read("file,row,label\na.csv,1,1\nb.csv,1,0\n").unwrap();
        assert_eq!(labels.of(Some("a.csv"), 1), Some(true));
        assert_eq!(labels.of(Some("b.csv"), 1), Some(false));
        assert_eq!(labels.of(Some("c.csv"), 1), None);
        assert_eq!(labels.of(None, 1), None);
        let counted = read("file,label\na.csv,1\nb.csv,0\na.csv,0\n").unwrap();
        assert_eq!(counted.of(Some("a.csv"), 2), Some(false));
    }

    #[test]
    fn fault_is_taken_for_a_label_or_quoted() {
        for (csv, why) in [
            ("", "--label-column"),
            ("row,class\n", "--label-column"),
            ("row,label\n0,1\n", "line 2"),
            ("row,label\n1,1\nx4111,1\n", "line 3"),
            ("row,label\n1,4111\n", "line 2"),
            ("row,label\n1,x4111\n", "line 2"),
            ("row,label\n1\n", "line 2"),
            (
                "row,label\n1,1\n1,0\n",
                "line 3 of the labels: the row has a label already",
            ),
            ("row,label\n\"1,0\n", "line 2"),
            ("row,label\n18446744073709551616,0\n", "line 2"),
        ] {
            let error = refusal(csv);
            assert!(
                error.contains(why) && !error.contains("4111"),
                "{csv}: {error}"
            );
        }
        let error = Labels::read(&b"a\n"[..], Some("b")).unwrap_err();
        assert!(error.to_string().contains("no column \"b\""));
        let long = format!("row,label\n{}", "1".repeat(100_000));
        assert!(refusal(&long).contains("line 2"));
    }
}
