//! The rows of a table of results, read back and held against its manifest. Anyone can seal a file
//! for an owner, so nothing of it is taken on trust.

use std::io::{self, BufRead, BufReader, Read};
use std::iter::Peekable;
use std::sync::Arc;
use std::vec;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Schema};
use aws_lc_rs::digest;
use csv_core::ReadRecordResult;

use super::manifest::Manifest;
use super::table::{TableDigest, TableFormat, shown_digest};
use super::{FileLine, InputSummary, Line, ResultRow, ResultsError, Summary};
use crate::columns::{ColumnsError, ParquetFile, ParquetKeys};
use crate::read_at::ReadAt;
use crate::storage::Reader;

/// A table in the order of a file of JSON lines: rows, the end of each file, the summary.
pub(super) struct TableLines<R> {
    rows: Rows<R>,
    next: Option<ResultRow>,
    left: u64,
    inputs: Peekable<vec::IntoIter<InputSummary>>,
    several: bool,
    summary: Option<Summary>,
}

enum Rows<R> {
    Csv(Box<CsvRows<R>>),
    Parquet(ParquetRows),
}

impl<R: Read> TableLines<R> {
    pub(super) fn csv(input: R, manifest: &Manifest) -> Result<Self, ResultsError> {
        let rows = CsvRows::open(input, manifest)?;
        Ok(Self::new(Rows::Csv(Box::new(rows)), manifest))
    }

    pub(super) fn parquet(
        source: Arc<dyn ReadAt>,
        keys: &ParquetKeys,
        manifest: &Manifest,
    ) -> Result<Self, ResultsError> {
        let rows = ParquetRows::open(source, keys, manifest)?;
        Ok(Self::new(Rows::Parquet(rows), manifest))
    }

    fn new(rows: Rows<R>, manifest: &Manifest) -> Self {
        Self {
            rows,
            next: None,
            left: manifest.table.rows,
            several: manifest.inputs.len() > 1,
            inputs: manifest.inputs.clone().into_iter().peekable(),
            summary: Some(manifest.summary.clone()),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<FileLine>, ResultsError> {
        if self.next.is_none() {
            self.next = match &mut self.rows {
                Rows::Csv(rows) => rows.next()?,
                Rows::Parquet(rows) => rows.next()?,
            };
            match (&self.next, self.left.checked_sub(1)) {
                (Some(_), Some(left)) => self.left = left,
                (None, None) => {}
                _ => return Err(ResultsError::Disagreement("the table with its manifest")),
            }
        }
        let of_this_file = |row: &mut ResultRow| {
            let input = self.inputs.peek();
            input.is_some_and(|input| row.file.as_ref() == Some(&input.file))
        };
        if let Some(mut row) = self.next.take_if(of_this_file) {
            if !self.several {
                row.file = None;
            }
            return Ok(Some(Line::Row(row)));
        }
        // The file has no further row that is in the table.
        match (self.inputs.next(), &self.next) {
            (Some(input), _) => Ok(Some(Line::Input(input))),
            (None, Some(_)) => Err(ResultsError::Disagreement("a row with the files")),
            (None, None) => Ok(self.summary.take().map(Line::Summary)),
        }
    }
}

struct CsvRows<R> {
    input: BufReader<Digesting<R>>,
    parser: csv_core::Reader,
    content: Vec<u8>,
    ends: Vec<usize>,
    line: u64,
    keys: bool,
    table: TableDigest,
}

impl<R: Read> CsvRows<R> {
    fn open(input: R, manifest: &Manifest) -> Result<Self, ResultsError> {
        check_format(manifest, TableFormat::Csv)?;
        let digest = digest::Context::new(&digest::SHA256);
        let mut rows = Self {
            input: BufReader::new(Digesting {
                inner: input,
                digest,
                bytes: 0,
            }),
            parser: csv_core::Reader::new(),
            content: vec![0; MAX_RECORD],
            ends: vec![0; manifest.header.columns.len() + 5],
            line: 0,
            keys: false,
            table: manifest.table.clone(),
        };
        let fields = rows.record()?.ok_or(ResultsError::Line(1))?;
        let names: Option<Vec<String>> = (0..fields)
            .map(|at| Some(rows.text(at)?.to_owned()))
            .collect();
        let keys = names.and_then(|names| manifest.columns(&names));
        rows.keys = keys.ok_or(OTHER_COLUMNS)?;
        Ok(rows)
    }

    fn next(&mut self) -> Result<Option<ResultRow>, ResultsError> {
        let Some(fields) = self.record()? else {
            let read = self.input.get_ref();
            let digest = shown_digest(read.digest.clone().finish());
            return if (read.bytes, &digest) == (self.table.bytes, &self.table.digest) {
                Ok(None)
            } else {
                Err(OTHER_TABLE)
            };
        };
        self.row(fields)
            .map(Some)
            .ok_or(ResultsError::Line(self.line))
    }

    fn row(&self, fields: usize) -> Option<ResultRow> {
        let first = 2 + usize::from(self.keys);
        let number = |at| self.text(at)?.parse().ok();
        let key = self.keys.then(|| self.text(2)).flatten();
        Some(ResultRow {
            file: Some(self.text(0)?.to_owned()),
            row: self.text(1)?.parse().ok()?,
            key: key.filter(|key| !key.is_empty()).map(str::to_owned),
            probability: (first < fields).then(|| number(first))??,
            features: (first + 1..fields).map(number).collect::<Option<_>>()?,
        })
    }

    fn text(&self, at: usize) -> Option<&str> {
        let start = at
            .checked_sub(1)
            .map_or(Some(0), |at| self.ends.get(at).copied())?;
        let field = self.content.get(start..*self.ends.get(at)?)?;
        std::str::from_utf8(field).ok()
    }

    /// Reads the fields of the next record; none at the end.
    fn record(&mut self) -> Result<Option<usize>, ResultsError> {
        self.line += 1;
        let (mut written, mut fields) = (0, 0);
        loop {
            let bytes = self.input.fill_buf()?;
            let (result, read, more, ends) = self.parser.read_record(
                bytes,
                &mut self.content[written..],
                &mut self.ends[fields..],
            );
            self.input.consume(read);
            written += more;
            fields += ends;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::Record => return Ok(Some(fields)),
                ReadRecordResult::End => return Ok(None),
                _ => return Err(ResultsError::Line(self.line)),
            }
        }
    }
}

struct ParquetRows {
    file: ParquetFile,
    keys: bool,
    group: usize,
    rows: vec::IntoIter<ResultRow>,
}

impl ParquetRows {
    fn open(
        source: Arc<dyn ReadAt>,
        keys: &ParquetKeys,
        manifest: &Manifest,
    ) -> Result<Self, ResultsError> {
        check_format(manifest, TableFormat::Parquet)?;
        let mut whole = Digesting {
            inner: Reader::new(Arc::clone(&source)),
            digest: digest::Context::new(&digest::SHA256),
            bytes: 0,
        };
        io::copy(&mut whole, &mut io::sink())?;
        let digest = shown_digest(whole.digest.finish());
        if (whole.bytes, &digest) != (manifest.table.bytes, &manifest.table.digest) {
            return Err(OTHER_TABLE);
        }
        let mut has_keys = None;
        let file = ParquetFile::open(source, keys, &[], &mut |schema| {
            has_keys = columns(schema, manifest);
            Ok((0..schema.fields().len()).collect())
        })?;
        Ok(Self {
            file,
            keys: has_keys.ok_or(OTHER_COLUMNS)?,
            group: 0,
            rows: Vec::new().into_iter(),
        })
    }

    fn next(&mut self) -> Result<Option<ResultRow>, ResultsError> {
        loop {
            if let Some(row) = self.rows.next() {
                return Ok(Some(row));
            }
            let Some(group) = self.file.groups().get(self.group) else {
                return Ok(None);
            };
            if group.rows > MAX_GROUP {
                return Err(ResultsError::Disagreement(
                    "a row group with what is written",
                ));
            }
            let mut rows = Vec::new();
            self.file.read::<_, ResultsError>(
                group,
                0..group.rows,
                &|batch| Ok(batch),
                &mut |batch| {
                    for row in 0..batch.num_rows() {
                        let read = read_row(&batch, row, self.keys);
                        rows.push(read.ok_or(ResultsError::Line(row as u64))?);
                    }
                    Ok(())
                },
            )?;
            self.group += 1;
            self.rows = rows.into_iter();
        }
    }
}

/// Whether the schema is that of the manifest's table, and has a column of keys.
fn columns(schema: &Schema, manifest: &Manifest) -> Option<bool> {
    let names: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let keys = manifest.columns(&names)?;
    let fits = schema.fields().iter().enumerate().all(|(at, field)| {
        let kind = match (at, keys) {
            (0, _) | (2, true) => DataType::Utf8,
            (1, _) => DataType::Int64,
            _ => DataType::Float64,
        };
        *field.data_type() == kind
    });
    fits.then_some(keys)
}

fn read_row(batch: &RecordBatch, row: usize, keys: bool) -> Option<ResultRow> {
    let text = |column: usize| {
        let texts = batch.column(column).as_string_view_opt()?;
        texts.is_valid(row).then(|| texts.value(row).to_owned())
    };
    let number = |column: usize| {
        let numbers = batch.column(column).as_primitive_opt::<Float64Type>()?;
        numbers.is_valid(row).then(|| numbers.value(row))
    };
    let first = 2 + usize::from(keys);
    let rows = batch.column(1).as_primitive_opt::<Int64Type>()?;
    Some(ResultRow {
        file: Some(text(0)?),
        row: u64::try_from(rows.value(row)).ok()?,
        key: keys.then(|| text(2)).flatten(),
        probability: number(first)?,
        features: (first + 1..batch.num_columns())
            .map(number)
            .collect::<Option<_>>()?,
    })
}

fn check_format(manifest: &Manifest, format: TableFormat) -> Result<(), ResultsError> {
    if manifest.table.format == format {
        Ok(())
    } else {
        Err(ResultsError::Disagreement(
            "the manifest with the format of the table",
        ))
    }
}

impl From<ColumnsError> for ResultsError {
    fn from(error: ColumnsError) -> Self {
        match error {
            ColumnsError::Read(error) => Self::Read(error),
            error => Self::Table(error),
        }
    }
}

struct Digesting<R> {
    inner: R,
    digest: digest::Context,
    bytes: u64,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

const OTHER_TABLE: ResultsError =
    ResultsError::Disagreement("the table with the manifest: it is another one, or was changed");
const OTHER_COLUMNS: ResultsError =
    ResultsError::Disagreement("the columns of the table with the manifest");

/// The longest row of a CSV: as the longest line of JSON.
const MAX_RECORD: usize = 1 << 18;

/// Rows of a row group, which is read as a whole: as many as are written.
const MAX_GROUP: u64 = super::table::ROW_GROUP as u64;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use zeroize::Zeroizing;

    use super::super::table::{TableKey, TableOptions, TableRow, TableWriter};
    use super::super::{BadReason, HISTOGRAM_BINS, ResultReader, histogram_bin};
    use super::*;
    use crate::batch::Results;
    use crate::results::Header;

    const ROWS: [(&str, u64, &str, f64); 4] = [
        ("a.csv", 3, "tx-3", 0.75),
        ("a.csv", 4, "", 1.0),
        ("c,\n.csv", 1, "\"tx\"", 0.8),
        ("c,\n.csv", 2, "ü", 0.9),
    ];

    fn options(format: TableFormat) -> TableOptions {
        TableOptions {
            format,
            keys: true,
            features: vec!["x".to_owned(), "key".to_owned()],
            encryption: None,
        }
    }

    fn table_of(options: &TableOptions, rows: &[usize]) -> (Vec<u8>, Manifest) {
        let mut writer = TableWriter::begin(Vec::new(), options).unwrap();
        for &at in rows {
            let (file, row, key, probability) = ROWS[at];
            let row = TableRow {
                file,
                row,
                key: Some(key).filter(|key| !key.is_empty()),
                probability,
                features: &[0.1, 123.456_789_012_345_67],
            };
            writer.row(&row).unwrap();
        }
        let (bytes, table) = writer.finish().unwrap();
        (bytes, manifest(table))
    }

    fn table(format: TableFormat) -> (Vec<u8>, Manifest) {
        table_of(&options(format), &[0, 1, 2, 3])
    }

    fn manifest(table: TableDigest) -> Manifest {
        let mut histogram = [0; HISTOGRAM_BINS];
        for (.., probability) in ROWS {
            histogram[histogram_bin(probability)] += 1;
        }
        let input = |file: &str, rows, flagged, bad_rows| InputSummary {
            file: file.to_owned(),
            rows,
            flagged,
            bad_rows,
            bytes: 100,
        };
        let header = Header {
            format: super::super::FORMAT.to_owned(),
            input: "rows".to_owned(),
            model_digest: "sha256:0".to_owned(),
            threshold: 0.5,
            results: Results::Flagged,
            columns: vec!["x".to_owned(), "key".to_owned()],
        };
        let summary = Summary {
            rows: 7,
            bad_rows: 3,
            bad_rows_by_reason: [(BadReason::Empty, 3)].into(),
            first_bad_rows: Vec::new(),
            flagged: 4,
            threshold: 0.5,
            histogram,
            max: Some(1.0),
            mean: Some(0.8625),
            bytes: 300,
            model_digest: "sha256:0".to_owned(),
            rows_outside_training_range: None,
            outside_training_range: std::collections::BTreeMap::new(),
        };
        let inputs = vec![
            input("a.csv", 4, 2, 2),
            input("b.csv", 1, 0, 1),
            input("c,\n.csv", 2, 2, 0),
        ];
        let manifest = Manifest::new(table, header, inputs, summary);
        assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
        manifest
    }

    fn drain<R: Read>(mut reader: ResultReader<R>) -> Result<Vec<ResultRow>, ResultsError> {
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row()? {
            rows.push(row);
        }
        assert_eq!(reader.inputs().len(), 3);
        reader.finish()?;
        Ok(rows)
    }

    fn read(bytes: &[u8], manifest: &Manifest) -> Result<Vec<ResultRow>, ResultsError> {
        match manifest.table.format {
            TableFormat::Csv => drain(ResultReader::open_csv(bytes, manifest)?),
            TableFormat::Parquet => read_parquet(bytes, manifest, &ParquetKeys::default()),
        }
    }

    fn read_parquet(
        bytes: &[u8],
        manifest: &Manifest,
        keys: &ParquetKeys,
    ) -> Result<Vec<ResultRow>, ResultsError> {
        let source = Arc::new(Bytes::from(bytes.to_vec()));
        drain(ResultReader::open_parquet(source, keys, manifest)?)
    }

    fn refusal(bytes: &[u8], manifest: &Manifest) -> String {
        read(bytes, manifest).unwrap_err().to_string()
    }

    const FORMATS: [TableFormat; 2] = [TableFormat::Csv, TableFormat::Parquet];

    #[test]
    fn rows_come_back_otherwise() {
        for format in FORMATS {
            let (bytes, manifest) = table(format);
            let rows = read(&bytes, &manifest).unwrap();
            assert_eq!(rows.len(), 4, "{format:?}");
            for (row, (file, number, key, probability)) in rows.iter().zip(ROWS) {
                assert_eq!((row.file.as_deref(), row.row), (Some(file), number));
                assert_eq!(row.key.as_deref().unwrap_or_default(), key);
                assert_eq!(row.probability, probability);
                assert_eq!(row.features, [0.1, 123.456_789_012_345_67]);
            }
        }
    }

    #[test]
    fn changed_or_cut_table_is_read() {
        for format in FORMATS {
            let (bytes, manifest) = table(format);
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert!(read(&changed, &manifest).is_err(), "{format:?} {at}");
                assert!(read(&bytes[..at], &manifest).is_err(), "{format:?} {at}");
            }
        }
    }

    #[test]
    fn table_of_another_manifest_is_read() {
        for format in FORMATS {
            let (_, manifest) = table(format);
            let (other, _) = table_of(&options(format), &[0, 1, 2]);
            let error = refusal(&other, &manifest);
            assert!(error.contains("the table with"), "{format:?}: {error}");
        }
    }

    /// Tables that are what their manifest names, and yet cannot be.
    #[test]
    fn rows_that_disagree_with_the_summary_are_read() {
        for format in FORMATS {
            for (rows, why) in [
                (&[0, 1, 2][..], "the rows with their file"),
                (&[0, 2, 3, 1], "the rows with their file"),
                (&[1, 0, 2, 3], "the order of the rows"),
            ] {
                let (bytes, manifest) = table_of(&options(format), rows);
                let error = refusal(&bytes, &manifest);
                assert!(error.contains(why), "{format:?}: {error}");
            }
            let (bytes, mut manifest) = table(format);
            manifest.header.columns.pop();
            assert!(refusal(&bytes, &manifest).contains("the columns of the table"));
            let (bytes, mut manifest) = table(format);
            manifest.table.rows += 1;
            assert!(refusal(&bytes, &manifest).contains("the table with its manifest"));
        }
    }

    #[test]
    fn table_without_keys_and_features_has_them() {
        for format in FORMATS {
            let mut options = options(format);
            (options.keys, options.features) = (false, Vec::new());
            let mut writer = TableWriter::begin(Vec::new(), &options).unwrap();
            for (file, row, _, probability) in ROWS {
                let row = TableRow {
                    file,
                    row,
                    key: None,
                    probability,
                    features: &[],
                };
                writer.row(&row).unwrap();
            }
            let (bytes, table) = writer.finish().unwrap();
            let mut manifest = manifest(table);
            manifest.header.columns.clear();
            let rows = read(&bytes, &manifest).unwrap();
            assert!(
                rows.iter()
                    .all(|row| row.key.is_none() && row.features.is_empty())
            );
        }
    }

    #[test]
    fn encrypted_table_opens_without_its_key_or_as_another_file() {
        let mut options = options(TableFormat::Parquet);
        options.encryption = Some(TableKey {
            key: Zeroizing::new(vec![7; 32]),
            name: "kbs:///default/results/key".to_owned(),
            file_name: "results.parquet".to_owned(),
        });
        let (bytes, manifest) = table_of(&options, &[0, 1, 2, 3]);
        let keys = |byte, name: Option<&str>| ParquetKeys {
            footer: Some(Zeroizing::new(vec![byte; 32])),
            aad_prefix: name.map(|name| name.as_bytes().to_vec()),
            ..ParquetKeys::default()
        };
        for name in [None, Some("results.parquet")] {
            assert_eq!(
                read_parquet(&bytes, &manifest, &keys(7, name))
                    .unwrap()
                    .len(),
                4
            );
        }
        for (keys, why) in [
            (
                ParquetKeys::default(),
                "which it calls \"kbs:///default/results/key\"",
            ),
            (keys(8, None), "does not open"),
            (keys(7, Some("other.parquet")), "does not open"),
        ] {
            let error = read_parquet(&bytes, &manifest, &keys)
                .unwrap_err()
                .to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn manifest_of_another_format_is_read() {
        let (_, manifest) = table(TableFormat::Csv);
        let json = String::from_utf8(manifest.to_json()).unwrap();
        for (from, to) in [
            ("strongroom-manifest/2", "strongroom-manifest/1"),
            ("strongroom-manifest/2", "strongroom-manifest/3"),
            ("strongroom-results/1", "strongroom-results/2"),
            ("\"table\"", "\"tables\""),
        ] {
            let changed = json.replace(from, to);
            assert_ne!(changed, json);
            assert!(matches!(
                Manifest::parse(changed.as_bytes()),
                Err(ResultsError::NoManifest)
            ));
        }
    }

    #[test]
    fn manifest_names_other_sources_than_it_has_files() {
        let (_, mut manifest) = table(TableFormat::Csv);
        let source = |name: &str| {
            let digest = crate::receipt::Digest {
                bytes: 7,
                sha256: "00".repeat(32),
            };
            crate::receipt::Input::new(name, &digest)
        };
        manifest.receipt = Some("receipt.json".to_owned());
        manifest.sources = ["a.csv", "b.csv", "c,\n.csv"].map(source).to_vec();
        assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
        for change in [
            |sources: &mut Vec<_>| drop(sources.pop()),
            |sources: &mut Vec<_>| sources.swap(0, 1),
        ] {
            let mut changed = manifest.clone();
            change(&mut changed.sources);
            let refused = Manifest::parse(&changed.to_json());
            assert!(matches!(refused, Err(ResultsError::NoManifest)));
        }
    }
}
