//! Writes the results as they come: the JSON lines that `crate::results` reads.

use std::io::{self, BufWriter, Write};

use serde::Serialize;
use zeroize::Zeroizing;

use super::Summary;
use crate::results::{Header, InputSummary, Line};

/// A result file that is being written. Without [`ResultWriter::summary`] it is taken for cut by the
/// owner's reader, as it should be after an error.
pub(super) struct ResultWriter<'a> {
    out: BufWriter<&'a mut (dyn Write + Send)>,
    /// Lines that are not handed on yet, of a job that keeps how far it is.
    kept: Option<Zeroizing<Vec<u8>>>,
    /// Rows that were handed on.
    rows: u64,
}

impl<'a> ResultWriter<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send), is_kept: bool) -> Self {
        Self {
            out: BufWriter::with_capacity(BUFFER, out),
            kept: is_kept.then(|| Zeroizing::new(Vec::with_capacity(KEPT))),
            rows: 0,
        }
    }

    /// What is not handed on yet.
    pub(super) fn kept(&mut self) -> Option<&mut Vec<u8>> {
        self.kept.as_deref_mut()
    }

    /// Hands on lines that were written before, and counts the rows in them.
    pub(super) fn lines(&mut self, lines: &[u8]) -> io::Result<()> {
        let rows = lines
            .split_inclusive(|&byte| byte == b'\n')
            .filter(|line| line.starts_with(BEGIN_OF_ROW));
        self.rows += rows.count() as u64;
        self.out.write_all(lines)
    }

    /// How many rows were handed on.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn header(&mut self, header: &Header) -> io::Result<()> {
        self.line(&Line::<_, Nothing, Nothing, Nothing>::Header(header))
    }

    /// Where rows of a file begin: their lines up to the row's number.
    pub(super) fn begin_of_rows(file: Option<&str>) -> Vec<u8> {
        let mut begin = BEGIN_OF_ROW.to_vec();
        if let Some(file) = file {
            begin.extend_from_slice(b"\"file\":");
            begin.extend_from_slice(serde_json::Value::from(file).to_string().as_bytes());
            begin.push(b',');
        }
        begin.extend_from_slice(b"\"row\":");
        begin
    }

    /// A row: its line's begin, its number, and what stands behind it.
    pub(super) fn row(&mut self, begin: &[u8], row: u64, behind: &[u8]) -> io::Result<()> {
        let mut number = itoa::Buffer::new();
        let parts = [begin, number.format(row).as_bytes(), behind];
        match &mut self.kept {
            Some(kept) => {
                for part in parts {
                    kept.extend_from_slice(part);
                }
            }
            None => {
                self.rows += 1;
                for part in parts {
                    self.out.write_all(part)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn input(&mut self, input: &InputSummary) -> io::Result<()> {
        self.line(&Line::<Nothing, Nothing, _, Nothing>::Input(input))
    }

    /// The last line.
    pub(super) fn summary(&mut self, summary: &Summary) -> io::Result<()> {
        self.line(&Line::<Nothing, Nothing, Nothing, _>::Summary(summary))
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        match &mut self.kept {
            Some(kept) => {
                serde_json::to_writer(&mut **kept, line)?;
                kept.push(b'\n');
            }
            None => {
                serde_json::to_writer(&mut self.out, line)?;
                self.out.write_all(b"\n")?;
            }
        }
        Ok(())
    }
}

const BEGIN_OF_ROW: &[u8] = b"{\"kind\":\"row\",";

/// Room for what is not handed on yet: more than is ever in hand, as a rule, for memory that grows leaves copies behind.
const KEPT: usize = 12 << 20;

const BUFFER: usize = 64 * 1024;

/// Stands for the kinds of line that a line is not.
#[derive(Serialize)]
struct Nothing {}
