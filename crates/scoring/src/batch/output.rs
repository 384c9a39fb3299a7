//! Writes the results as they come: the JSON lines that `crate::results` reads.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use super::Summary;
use crate::results::{Header, Line};

/// A result file that is being written. Without [`ResultWriter::finish`] it has no summary, and the
/// owner's reader takes it for cut, as it should after an error.
pub(super) struct ResultWriter<'a> {
    out: BufWriter<&'a mut dyn Write>,
}

impl<'a> ResultWriter<'a> {
    pub(super) fn begin(out: &'a mut dyn Write, header: &Header) -> io::Result<Self> {
        let mut writer = Self {
            out: BufWriter::with_capacity(BUFFER, out),
        };
        writer.line(&Line::<_, Nothing, Nothing>::Header(header))?;
        Ok(writer)
    }

    pub(super) fn row(&mut self, row: u64, probability: f64, features: &[f64]) -> io::Result<()> {
        self.line(&Line::<Nothing, _, Nothing>::Row(RowRef {
            row,
            probability,
            features,
        }))
    }

    pub(super) fn finish(mut self, summary: &Summary) -> io::Result<()> {
        self.line(&Line::<Nothing, Nothing, _>::Summary(summary))?;
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
struct RowRef<'a> {
    row: u64,
    probability: f64,
    features: &'a [f64],
}

/// Stands for the kinds of line that a line is not.
#[derive(Serialize)]
struct Nothing {}
