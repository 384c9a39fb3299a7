//! JSON lines in, a table out: what a job writes is converted as it comes, so that a job that was
//! broken off and goes on gives the same table as one that was not.

use std::io::{self, Write};

use zeroize::Zeroizing;

use super::manifest::Manifest;
use super::table::{TableFormat, TableKey, TableOptions, TableRow, TableWriter};
use super::{FileLine, Header, InputSummary, Line, MAX_LINE, Summary};

/// What a job's results are converted to.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// What the table is written in.
    pub format: TableFormat,
    /// Whether the job names rows by a key column.
    pub keys: bool,
    /// Whether the table has the rows' features.
    pub features: Features,
    /// Encrypts a Parquet file by Parquet Modular Encryption.
    pub encryption: Option<TableKey>,
}

/// Whether a table has the rows' features.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Features {
    /// It has not: whoever has the file and the row's number has them.
    #[default]
    Omit,
    /// A column for each.
    Include,
}

/// Converts the JSON lines that are written to it into a table.
///
/// The caller must call [`finish`](Self::finish): without it there is no manifest, and no reader
/// takes the table.
pub struct TableConverter<W: Write + Send> {
    options: ConvertOptions,
    /// What the table is written to, until the header says which columns it has.
    out: Option<W>,
    table: Option<TableWriter<W>>,
    header: Option<Header>,
    inputs: Vec<InputSummary>,
    summary: Option<Summary>,
    /// A line that is not whole yet.
    line: Zeroizing<Vec<u8>>,
}

impl<W: Write + Send> TableConverter<W> {
    /// Writes a table to `out`.
    pub fn new(out: W, options: ConvertOptions) -> Self {
        Self {
            options,
            out: Some(out),
            table: None,
            header: None,
            inputs: Vec::new(),
            summary: None,
            line: Zeroizing::default(),
        }
    }

    /// Ends the table, and hands back what it was written to and the manifest that belongs to it.
    ///
    /// # Errors
    /// When what is written to fails, or the results are not whole.
    pub fn finish(self) -> io::Result<(W, Manifest)> {
        let (Some(table), Some(mut header), Some(summary)) =
            (self.table, self.header, self.summary)
        else {
            return Err(no_results());
        };
        if self.options.features == Features::Omit {
            header.columns.clear();
        }
        let (out, digest) = table.finish()?;
        let manifest = Manifest::new(digest, header, self.inputs, summary);
        Ok((out, manifest))
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        match serde_json::from_slice::<FileLine>(line).map_err(|_| no_results())? {
            Line::Header(header) => {
                let options = TableOptions {
                    format: self.options.format,
                    keys: self.options.keys,
                    features: match self.options.features {
                        Features::Omit => Vec::new(),
                        Features::Include => header.columns.clone(),
                    },
                    encryption: self.options.encryption.take(),
                };
                let out = self.out.take().ok_or_else(no_results)?;
                self.table = Some(TableWriter::begin(out, &options)?);
                self.header = Some(header);
            }
            Line::Row(row) => {
                let (Some(table), Some(header)) = (&mut self.table, &self.header) else {
                    return Err(no_results());
                };
                let features = match self.options.features {
                    Features::Omit => &[],
                    Features::Include if row.features.len() == header.columns.len() => {
                        &row.features[..]
                    }
                    Features::Include => return Err(no_results()),
                };
                table.row(&TableRow {
                    // The results of one file name it once, in their header.
                    file: row.file.as_deref().unwrap_or(&header.input),
                    row: row.row,
                    key: row.key.as_deref(),
                    probability: row.probability,
                    features,
                })?;
            }
            Line::Input(input) => self.inputs.push(input),
            Line::Summary(summary) => self.summary = Some(summary),
        }
        Ok(())
    }
}

impl<W: Write + Send> Write for TableConverter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
        let last = lines
            .next_back()
            .filter(|last| !last.ends_with(b"\n"))
            .unwrap_or_default();
        for line in bytes[..bytes.len() - last.len()].split_inclusive(|&byte| byte == b'\n') {
            if self.line.is_empty() {
                self.line(line)?;
            } else {
                self.line.extend_from_slice(line);
                let whole = std::mem::take(&mut self.line);
                self.line(&whole)?;
            }
        }
        if (self.line.len() + last.len()) as u64 > MAX_LINE {
            return Err(no_results());
        }
        self.line.extend_from_slice(last);
        Ok(bytes.len())
    }

    /// Does nothing: a table is written in pieces of its own.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn no_results() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "these are no whole results of a job, so no table is made of them",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::batch::{Job, Options, Results, score};
    use crate::columns::ParquetKeys;
    use crate::model::Bundle;
    use crate::results::{ResultReader, ResultRow};

    const HEADER: &str = "id,distance_from_last_transaction,ratio_to_median_purchase_price,\
        used_chip,used_pin_number,online_order\n";
    const FRAUD: &str = "tx-1,100.0,5.0,0.0,0.0,1.0\n";
    const HONEST: &str = "tx-2,0.5,1.0,1.0,1.0,0.0\n";

    fn options() -> Options {
        Options {
            file_name: "rows.csv".to_owned(),
            key_column: Some("id".to_owned()),
            ..Options::default()
        }
    }

    fn converter(format: TableFormat, features: Features) -> TableConverter<Vec<u8>> {
        TableConverter::new(
            Vec::new(),
            ConvertOptions {
                format,
                keys: true,
                features,
                encryption: None,
            },
        )
    }

    fn read(bytes: Vec<u8>, manifest: &Manifest) -> Vec<ResultRow> {
        fn drain<R: io::Read>(mut reader: ResultReader<R>) -> Vec<ResultRow> {
            let mut rows = Vec::new();
            while let Some(row) = reader.next_row().unwrap() {
                rows.push(row);
            }
            rows
        }
        match manifest.table.format {
            TableFormat::Csv => drain(ResultReader::open_csv(&bytes[..], manifest).unwrap()),
            TableFormat::Parquet => {
                let keys = ParquetKeys::default();
                let source = Arc::new(Bytes::from(bytes));
                drain(ResultReader::open_parquet(source, &keys, manifest).unwrap())
            }
        }
    }

    #[test]
    fn table_has_other_rows_than_the_lines() {
        let bundle = Bundle::built_in();
        let csv = [HEADER, &[FRAUD, HONEST].concat().repeat(2000)].concat();
        for results in [Results::Flagged, Results::All, Results::Summary] {
            let options = Options {
                results,
                ..options()
            };
            let mut lines = Vec::new();
            let summary = score(
                &mut csv.as_bytes(),
                &bundle,
                &options,
                &mut lines,
                &mut |_| {},
            )
            .unwrap();
            let mut expected = Vec::new();
            let mut reader = ResultReader::open(&lines[..]).unwrap();
            while let Some(row) = reader.next_row().unwrap() {
                expected.push(row);
            }
            for format in [TableFormat::Csv, TableFormat::Parquet] {
                for features in [Features::Omit, Features::Include] {
                    let mut out = converter(format, features);
                    score(
                        &mut csv.as_bytes(),
                        &bundle,
                        &options,
                        &mut out,
                        &mut |_| {},
                    )
                    .unwrap();
                    let (bytes, manifest) = out.finish().unwrap();
                    assert_eq!(manifest.summary, summary);
                    let rows = read(bytes, &manifest);
                    assert_eq!(rows.len(), expected.len());
                    for (row, expected) in rows.into_iter().zip(&expected) {
                        let features = match features {
                            Features::Omit => Vec::new(),
                            Features::Include => expected.features.clone(),
                        };
                        let file = None;
                        assert_eq!(
                            row,
                            ResultRow {
                                file,
                                features,
                                ..expected.clone()
                            }
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn rows_of_several_files_lose_theirs() {
        let bundle = Bundle::built_in();
        let options = Options {
            name_files: true,
            ..options()
        };
        for format in [TableFormat::Csv, TableFormat::Parquet] {
            let mut out = converter(format, Features::Omit);
            let mut job = Job::begin(&bundle, &options, &mut out).unwrap();
            for file in ["a.csv", "b.csv"] {
                let csv = [HEADER, HONEST, FRAUD].concat();
                job.csv(file, &mut csv.as_bytes(), &mut |_| {}).unwrap();
            }
            job.finish().unwrap();
            let (bytes, manifest) = out.finish().unwrap();
            let rows = read(bytes, &manifest);
            let places = rows.iter().map(|row| (row.file.as_deref(), row.row));
            assert_eq!(
                places.collect::<Vec<_>>(),
                [(Some("a.csv"), 2), (Some("b.csv"), 2)]
            );
        }
    }

    #[test]
    fn lines_in_odd_pieces_are_other_lines() {
        let csv = [HEADER, &FRAUD.repeat(50)].concat();
        let (bundle, mut lines) = (Bundle::built_in(), Vec::new());
        score(
            &mut csv.as_bytes(),
            &bundle,
            &options(),
            &mut lines,
            &mut |_| {},
        )
        .unwrap();
        let convert = |size| {
            let mut out = converter(TableFormat::Csv, Features::Include);
            for piece in lines.chunks(size) {
                out.write_all(piece).unwrap();
            }
            out.finish().unwrap().0
        };
        let whole = convert(lines.len());
        for size in [1, 7, 100, 4096] {
            assert!(convert(size) == whole, "{size}");
        }
    }

    #[test]
    fn unfinished_results_become_a_table() {
        let csv = [HEADER, FRAUD].concat();
        let (bundle, mut lines) = (Bundle::built_in(), Vec::new());
        score(
            &mut csv.as_bytes(),
            &bundle,
            &options(),
            &mut lines,
            &mut |_| {},
        )
        .unwrap();
        for kept in 0..lines.len() - 1 {
            let mut out = converter(TableFormat::Parquet, Features::Omit);
            let written = out.write_all(&lines[..kept]);
            assert!(written.and_then(|()| out.finish()).is_err(), "{kept}");
        }
    }
}
