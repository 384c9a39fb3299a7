//! Results as a table: CSV or Parquet, one row for each scored row that the owner gets. What JSON
//! lines say in their header and their summary stands beside the table, in a [`Manifest`].
//!
//! | column | what |
//! |---|---|
//! | `file` | the file that the row is from |
//! | `row` | its number among the data rows of that file, the first being 1 |
//! | `key` | the text of the key column, where one was named |
//! | `probability` | the probability of fraud |
//! | the features | under their names, where they are wanted; `feature_…` where a name is taken |
//!
//! Equal rows give equal bytes. A Parquet file under a key is the exception, as it must be.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use aws_lc_rs::digest;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::encryption::encrypt::FileEncryptionProperties;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What a table is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableFormat {
    /// RFC 4180, with a header row and `\n` at the end of each line.
    Csv,
    /// Apache Parquet, compressed by snappy.
    Parquet,
}

/// How a table is written.
#[derive(Debug, Clone)]
pub struct TableOptions {
    /// What it is written in.
    pub format: TableFormat,
    /// Whether it has a column of keys.
    pub keys: bool,
    /// The names of the features that it has columns for.
    pub features: Vec<String>,
    /// Encrypts a Parquet file by Parquet Modular Encryption. A CSV is encrypted by what it is
    /// written to.
    pub encryption: Option<TableKey>,
}

/// The key of an encrypted Parquet file, footer and columns alike.
#[derive(Clone)]
pub struct TableKey {
    /// 16 or 32 raw bytes.
    pub key: Zeroizing<Vec<u8>>,
    /// What the file calls the key, for whoever must find it.
    pub name: String,
    /// What the file is encrypted as. It is in the file too, so a reader need not know it, and one
    /// that gives it is not handed another file.
    pub file_name: String,
}

impl std::fmt::Debug for TableKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableKey")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A row of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TableRow<'a> {
    /// The file that it is from.
    pub file: &'a str,
    /// Its number in the file.
    pub row: u64,
    /// The text of the key column.
    pub key: Option<&'a str>,
    /// The probability of fraud.
    pub probability: f64,
    /// The features that [`TableOptions::features`] names, in that order.
    pub features: &'a [f64],
}

/// A whole table, as a [`Manifest`](super::Manifest) names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableDigest {
    /// What it is written in.
    pub format: TableFormat,
    /// Its rows.
    pub rows: u64,
    /// Its bytes, before what it is written to encrypts them.
    pub bytes: u64,
    /// Their SHA-256, as `sha256:` and hexadecimal digits.
    pub digest: String,
}

/// Writes a table. Without [`TableWriter::finish`] no manifest names it, and no reader takes it.
pub struct TableWriter<W: Write + Send> {
    form: Form<W>,
    format: TableFormat,
    rows: u64,
}

enum Form<W: Write + Send> {
    Csv {
        out: Digested<W>,
        line: String,
        keys: bool,
    },
    Parquet(Box<Columns<W>>),
}

impl<W: Write + Send> TableWriter<W> {
    /// Begins a table.
    ///
    /// # Errors
    /// When `out` fails, or the key is none of Parquet's.
    pub fn begin(out: W, options: &TableOptions) -> io::Result<Self> {
        let out = Digested::new(out);
        let mut form = match options.format {
            TableFormat::Csv => Form::Csv {
                out,
                line: String::new(),
                keys: options.keys,
            },
            TableFormat::Parquet => Form::Parquet(Box::new(Columns::begin(out, options)?)),
        };
        if let Form::Csv { out, line, .. } = &mut form {
            for (at, name) in column_names(options.keys, &options.features)
                .iter()
                .enumerate()
            {
                if at > 0 {
                    line.push(',');
                }
                quoted(name, line);
            }
            line.push('\n');
            out.write_all(line.as_bytes())?;
        }
        Ok(Self {
            form,
            format: options.format,
            rows: 0,
        })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// When what is written to fails.
    ///
    /// # Panics
    /// When a row has other features than the table.
    pub fn row(&mut self, row: &TableRow<'_>) -> io::Result<()> {
        self.rows += 1;
        match &mut self.form {
            Form::Csv { out, line, keys } => {
                line.clear();
                csv_row(row, *keys, line);
                out.write_all(line.as_bytes())
            }
            Form::Parquet(columns) => columns.row(row),
        }
    }

    /// Ends the table and hands back what it was written to.
    ///
    /// # Errors
    /// When what is written to fails.
    pub fn finish(self) -> io::Result<(W, TableDigest)> {
        let mut out = match self.form {
            Form::Csv { out, .. } => out,
            Form::Parquet(columns) => columns.finish()?,
        };
        out.flush()?;
        let digest = TableDigest {
            format: self.format,
            rows: self.rows,
            bytes: out.bytes,
            digest: shown_digest(out.digest.finish()),
        };
        Ok((out.inner, digest))
    }
}

/// The names of a table's columns.
pub(super) fn column_names(keys: bool, features: &[String]) -> Vec<String> {
    let mut names = vec!["file".to_owned(), "row".to_owned()];
    if keys {
        names.push("key".to_owned());
    }
    names.push("probability".to_owned());
    for feature in features {
        let mut name = feature.clone();
        while RESERVED.contains(&name.as_str()) || names.contains(&name) {
            name.insert_str(0, "feature_");
        }
        names.push(name);
    }
    names
}

/// A digest as files show it.
pub(super) fn shown_digest(digest: digest::Digest) -> String {
    format!("sha256:{}", hex::encode(digest))
}

const RESERVED: [&str; 4] = ["file", "row", "key", "probability"];

fn csv_row(row: &TableRow<'_>, keys: bool, line: &mut String) {
    quoted(row.file, line);
    let written = write!(line, ",{}", row.row);
    debug_assert!(written.is_ok(), "a string grows");
    if keys {
        line.push(',');
        quoted(row.key.unwrap_or_default(), line);
    }
    for value in std::iter::once(&row.probability).chain(row.features) {
        // The shortest text that is read back as the same number.
        let written = write!(line, ",{value:?}");
        debug_assert!(written.is_ok(), "a string grows");
    }
    line.push('\n');
}

fn quoted(text: &str, line: &mut String) {
    if text.contains(['"', ',', '\n', '\r']) {
        line.push('"');
        line.push_str(&text.replace('"', "\"\""));
        line.push('"');
    } else {
        line.push_str(text);
    }
}

/// The rows of a Parquet file, gathered column by column.
struct Columns<W: Write + Send> {
    out: ArrowWriter<Digested<W>>,
    schema: SchemaRef,
    files: StringBuilder,
    rows: Int64Builder,
    keys: Option<StringBuilder>,
    numbers: Vec<Float64Builder>,
    gathered: usize,
}

impl<W: Write + Send> Columns<W> {
    fn begin(out: Digested<W>, options: &TableOptions) -> io::Result<Self> {
        let names = column_names(options.keys, &options.features);
        let fields = names.into_iter().enumerate().map(|(at, name)| {
            let (kind, nullable) = match (at, options.keys) {
                (0, _) => (DataType::Utf8, false),
                (1, _) => (DataType::Int64, false),
                (2, true) => (DataType::Utf8, true),
                _ => (DataType::Float64, false),
            };
            Field::new(name, kind, nullable)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .set_created_by("strongroom".to_owned());
        if let Some(TableKey {
            key,
            name,
            file_name,
        }) = &options.encryption
        {
            if !matches!(key.len(), 16 | 32) {
                let why = format!(
                    "the key of an encrypted Parquet file has 16 or 32 bytes; this one has {}",
                    key.len()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            let encryption = FileEncryptionProperties::builder(key.to_vec())
                .with_footer_key_metadata(name.clone().into_bytes())
                .with_aad_prefix(file_name.clone().into_bytes())
                .with_aad_prefix_storage(true)
                .build()
                .map_err(failed)?;
            properties = properties.with_file_encryption_properties(encryption);
        }
        let writer = ArrowWriterOptions::new()
            .with_properties(properties.build())
            .with_skip_arrow_metadata(true);
        Ok(Self {
            out: ArrowWriter::try_new_with_options(out, Arc::clone(&schema), writer)
                .map_err(failed)?,
            schema,
            files: StringBuilder::new(),
            rows: Int64Builder::new(),
            keys: options.keys.then(StringBuilder::new),
            numbers: (0..=options.features.len())
                .map(|_| Float64Builder::new())
                .collect(),
            gathered: 0,
        })
    }

    fn row(&mut self, row: &TableRow<'_>) -> io::Result<()> {
        assert_eq!(
            row.features.len() + 1,
            self.numbers.len(),
            "the table's features"
        );
        self.files.append_value(row.file);
        // No file has 2^63 rows.
        self.rows.append_value(row.row.cast_signed());
        if let Some(keys) = &mut self.keys {
            keys.append_option(row.key);
        }
        let numbers = std::iter::once(&row.probability).chain(row.features);
        for (column, &number) in self.numbers.iter_mut().zip(numbers) {
            column.append_value(number);
        }
        self.gathered += 1;
        if self.gathered == GATHERED {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.gathered = 0;
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(self.files.finish()), Arc::new(self.rows.finish())];
        if let Some(keys) = &mut self.keys {
            columns.push(Arc::new(keys.finish()));
        }
        for column in &mut self.numbers {
            columns.push(Arc::new(column.finish()));
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .expect("columns of the schema, each as long as the others");
        self.out.write(&batch).map_err(failed)
    }

    fn finish(mut self) -> io::Result<Digested<W>> {
        if self.gathered > 0 {
            self.flush()?;
        }
        self.out.into_inner().map_err(failed)
    }
}

/// What the library says, or else what it was written to.
fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    }
}

/// Rows that are gathered before they are encoded.
const GATHERED: usize = 4096;

/// Rows of a row group, which is in memory, encoded, until it is written.
pub(super) const ROW_GROUP: usize = 1 << 16;

/// Counts and digests what passes through.
struct Digested<W> {
    inner: W,
    digest: digest::Context,
    bytes: u64,
}

impl<W> Digested<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            digest: digest::Context::new(&digest::SHA256),
            bytes: 0,
        }
    }
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(format: TableFormat) -> TableOptions {
        TableOptions {
            format,
            keys: true,
            features: vec!["row".to_owned(), "x".to_owned()],
            encryption: None,
        }
    }

    fn row<'a>(file: &'a str, key: Option<&'a str>) -> TableRow<'a> {
        TableRow {
            file,
            row: 3,
            key,
            probability: 0.1,
            features: &[1e300, -0.0],
        }
    }

    fn written(options: &TableOptions, rows: &[TableRow<'_>]) -> (Vec<u8>, TableDigest) {
        let mut writer = TableWriter::begin(Vec::new(), options).unwrap();
        for row in rows {
            writer.row(row).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn text_breaks_out_of_its_field() {
        let rows = [row("a.csv", Some("tx,\"1\"")), row("b\n.csv", None)];
        let (bytes, digest) = written(&options(TableFormat::Csv), &rows);
        let text = String::from_utf8(bytes.clone()).unwrap();
        let expected = "file,row,key,probability,feature_row,x\n\
            a.csv,3,\"tx,\"\"1\"\"\",0.1,1e300,-0.0\n\"b\n.csv\",3,,0.1,1e300,-0.0\n";
        assert_eq!(text, expected);
        assert_eq!((digest.rows, digest.bytes), (2, bytes.len() as u64));
        let expected = shown_digest(digest::digest(&digest::SHA256, &bytes));
        assert_eq!(digest.digest, expected);
    }

    #[test]
    fn equal_rows_give_other_bytes() {
        let rows = vec![row("a.csv", Some("k")); 2 * GATHERED + 7];
        for format in [TableFormat::Csv, TableFormat::Parquet] {
            let (a, b) = (
                written(&options(format), &rows),
                written(&options(format), &rows),
            );
            assert!(a == b, "{format:?}");
            assert_eq!(a.1.rows, rows.len() as u64);
        }
    }

    #[test]
    fn key_of_a_length_that_no_reader_takes() {
        let mut options = options(TableFormat::Parquet);
        options.encryption = Some(TableKey {
            key: Zeroizing::new(vec![7; 24]),
            name: "kbs:///a/b/c".to_owned(),
            file_name: "results.parquet".to_owned(),
        });
        let error = TableWriter::begin(Vec::new(), &options).err().unwrap();
        assert!(error.to_string().contains("this one has 24"), "{error}");
    }

    #[test]
    fn full_disk_passes_for_success() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for format in [TableFormat::Csv, TableFormat::Parquet] {
            let result = TableWriter::begin(Full, &options(format)).and_then(|mut writer| {
                writer.row(&row("a.csv", None))?;
                writer.finish().map(|(_, digest)| digest)
            });
            assert!(result.is_err(), "{format:?}");
        }
    }

    #[test]
    fn features_that_are_called_alike_share_a_column() {
        let names = ["key", "feature_row", "row", "probability"].map(str::to_owned);
        assert_eq!(
            column_names(false, &names)[3..],
            [
                "feature_key",
                "feature_row",
                "feature_feature_row",
                "feature_probability"
            ]
        );
    }
}
