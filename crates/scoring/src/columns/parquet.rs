//! Rows of Parquet files, plain or encrypted by Parquet Modular Encryption.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;

use super::batch::Batch;
use super::modular::ParquetKeys;
use super::numbers::numbers;
use super::parquet_file::{Group, ParquetFile};
use super::{ColumnsError, Wanted};
use crate::model::Preprocessing;
use crate::read_at::ReadAt;
use crate::receipt::Protection;

/// An open Parquet file.
pub struct ParquetInput {
    file: ParquetFile,
    preprocessing: Preprocessing,
    /// The places of the wanted columns in a batch that the library reads.
    columns: Vec<usize>,
    key: Option<usize>,
    /// For each row group, the rows and the parts before it.
    before: Vec<Before>,
    rows: u64,
    parts: u64,
}

struct Before {
    rows: u64,
    parts: u64,
}

impl ParquetInput {
    /// Reads the footer, decrypts it where it must, and finds the model's columns.
    ///
    /// # Errors
    /// As [`ColumnsInput::open`](super::ColumnsInput::open).
    pub fn open(
        source: Arc<dyn ReadAt>,
        preprocessing: &Preprocessing,
        key_column: Option<&str>,
        keys: &ParquetKeys,
    ) -> Result<Self, ColumnsError> {
        let mut names = preprocessing.columns().to_vec();
        names.extend(key_column.map(str::to_owned));
        let mut wanted = None;
        let file = ParquetFile::open(source, keys, &names, &mut |schema| {
            let names: Vec<_> = schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect();
            let found = Wanted::find(&names, preprocessing, key_column)?;
            found.check_types(schema)?;
            let places = found.places();
            wanted = Some(found);
            Ok(places)
        })?;
        let wanted = wanted.ok_or_else(damaged)?;
        let in_batch = |place: &usize| file.in_batch(*place);
        let mut input = Self {
            columns: wanted.columns.iter().filter_map(in_batch).collect(),
            key: wanted.key.as_ref().and_then(in_batch),
            file,
            preprocessing: preprocessing.clone(),
            before: Vec::new(),
            rows: 0,
            parts: 0,
        };
        for group in input.file.groups() {
            input.before.push(Before {
                rows: input.rows,
                parts: input.parts,
            });
            input.rows = input.rows.checked_add(group.rows).ok_or_else(damaged)?;
            input.parts += group.rows.div_ceil(PART);
        }
        Ok(input)
    }

    /// What keeps the columns that are read from being changed unnoticed.
    pub fn protection(&self) -> Protection {
        self.file.protection()
    }

    /// How many parts there are: row groups, the large ones cut.
    pub fn parts(&self) -> u64 {
        self.parts
    }

    /// How many rows are in the parts before this one.
    pub fn rows_before(&self, part: u64) -> u64 {
        match self.part(part) {
            Some((before, _, rows)) => before.rows + rows.start,
            None => self.rows,
        }
    }

    /// Reads a part, batch by batch.
    ///
    /// # Errors
    /// When the part is damaged or has other rows than the footer says, or `take` fails.
    pub fn read<E: From<ColumnsError>>(
        &self,
        part: u64,
        take: &mut dyn FnMut(&Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some((_, group, rows)) = self.part(part) else {
            return Ok(());
        };
        let convert = |read: RecordBatch| self.batch(&read);
        self.file
            .read(group, rows, &convert, &mut |batch| take(&batch))
    }

    fn batch(&self, read: &RecordBatch) -> Result<Batch, ColumnsError> {
        let mut batch = Batch {
            rows: read.num_rows(),
            columns: Vec::with_capacity(self.columns.len()),
            bad: Vec::new(),
            key: self.key.map(|key| Arc::clone(read.column(key))),
        };
        for (column, &place) in self.columns.iter().enumerate() {
            let array = read.column(place);
            let values = numbers(array, column, &self.preprocessing, &mut batch.bad);
            batch.columns.push(values.ok_or_else(damaged)?);
        }
        batch.settle();
        Ok(batch)
    }

    /// The row group of a part, and which of its rows the part has.
    fn part(&self, part: u64) -> Option<(&Before, &Group, Range<u64>)> {
        let after = self.before.partition_point(|before| before.parts <= part);
        let at = after.checked_sub(1)?;
        let (before, group) = (self.before.get(at)?, self.file.groups().get(at)?);
        let start = (part - before.parts).checked_mul(PART)?;
        let end = start.checked_add(PART)?.min(group.rows);
        (start < group.rows).then_some((before, group, start..end))
    }
}

fn damaged() -> ColumnsError {
    ColumnsError::Malformed {
        format: "Parquet",
        why: "it is damaged, or uses what this program does not know",
    }
}

/// Rows of a part. A row group of more is cut, so that several threads share it; the pages before
/// a part are passed over without being decoded.
const PART: u64 = 1 << 19;
