//! Writes the results as they come: the JSON lines that `crate::results` reads.

use std::borrow::Cow;
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
}

impl<'a> ResultWriter<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send), is_kept: bool) -> Self {
        Self {
            out: BufWriter::with_capacity(BUFFER, out),
            kept: is_kept.then(Zeroizing::default),
        }
    }

    /// What is not handed on yet.
    pub(super) fn kept(&mut self) -> Option<&mut Vec<u8>> {
        self.kept.as_deref_mut()
    }

    /// Hands on lines that were written before.
    pub(super) fn lines(&mut self, lines: &[u8]) -> io::Result<()> {
        self.out.write_all(lines)
    }

    pub(super) fn header(&mut self, header: &Header) -> io::Result<()> {
        self.line(&Line::<_, Nothing, Nothing, Nothing>::Header(header))
    }

    pub(super) fn row(&mut self, row: &RowRef<'_>) -> io::Result<()> {
        self.line(&Line::<Nothing, _, Nothing, Nothing>::Row(row))
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

const BUFFER: usize = 64 * 1024;

/// A `ResultRow` that is not copied.
#[derive(Serialize)]
pub(super) struct RowRef<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<&'a String>,
    pub(super) row: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<Cow<'a, str>>,
    pub(super) probability: f64,
    pub(super) features: &'a [f64],
}

/// Stands for the kinds of line that a line is not.
#[derive(Serialize)]
struct Nothing {}
