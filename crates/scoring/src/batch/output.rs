//! Writes the results as they come: the JSON lines that `crate::results` reads.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::Summary;
use crate::results::{Header, InputSummary, Line};

/// A result file that is being written. Without [`ResultWriter::finish`] it has no summary, and the
/// owner's reader takes it for cut, as it should after an error.
pub(super) struct ResultWriter<'a> {
    out: BufWriter<&'a mut (dyn Write + Send)>,
}

impl<'a> ResultWriter<'a> {
    pub(super) fn begin(out: &'a mut (dyn Write + Send), header: &Header) -> io::Result<Self> {
        let mut writer = Self {
            out: BufWriter::with_capacity(BUFFER, out),
        };
        writer.line(&Line::<_, Nothing, Nothing, Nothing>::Header(header))?;
        Ok(writer)
    }

    pub(super) fn row(&mut self, row: &RowRef<'_>) -> io::Result<()> {
        self.line(&Line::<Nothing, _, Nothing, Nothing>::Row(row))
    }

    pub(super) fn input(&mut self, input: &InputSummary) -> io::Result<()> {
        self.line(&Line::<Nothing, Nothing, _, Nothing>::Input(input))
    }

    pub(super) fn finish(mut self, summary: &Summary) -> io::Result<()> {
        self.line(&Line::<Nothing, Nothing, Nothing, _>::Summary(summary))?;
        self.out.flush()
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
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
