//! Parquet files, plain or encrypted by Parquet Modular Encryption. The `parquet` crate decodes
//! them; what it does not bound by itself is looked at before (`footer.rs`, `pages.rs`).

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::DecodeResult;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::encryption::decrypt::FileDecryptionProperties;
use parquet::file::metadata::{
    ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataPushDecoder,
};

use super::batch::{Batch, is_name};
use super::footer::Footer;
use super::modular::{ParquetKeys, PlainColumns};
use super::numbers::{is_number, numbers};
use super::pages::{Chunk, Pages, Window};
use super::{ColumnsError, Wanted, guarded};
use crate::model::Preprocessing;
use crate::read_at::ReadAt;
use crate::shown;

/// An open Parquet file.
pub struct ParquetInput {
    source: Arc<dyn ReadAt>,
    metadata: ArrowReaderMetadata,
    preprocessing: Preprocessing,
    wanted: Wanted,
    /// The places of the wanted columns in a batch that the library reads.
    in_batch: InBatch,
    groups: Vec<Group>,
}

struct InBatch {
    columns: Vec<usize>,
    key: Option<usize>,
}

/// A row group that has rows.
struct Group {
    index: usize,
    rows: u64,
    rows_before: u64,
    parts_before: u64,
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
        guarded(damaged, || {
            Self::open_unguarded(source, preprocessing, key_column, keys)
        })
    }

    fn open_unguarded(
        source: Arc<dyn ReadAt>,
        preprocessing: &Preprocessing,
        key_column: Option<&str>,
        keys: &ParquetKeys,
    ) -> Result<Self, ColumnsError> {
        let footer = Footer::read(&*source)?;
        let mut names = preprocessing.columns().to_vec();
        names.extend(key_column.map(str::to_owned));
        let decryption = keys.resolve(&footer, &names)?;
        drop(footer);
        let metadata = Arc::new(decode(&*source, decryption.clone())?);

        let mut options = ArrowReaderOptions::new()
            // The schema that a writer embeds is one more thing to decode, and says nothing needed.
            .with_skip_arrow_metadata(true)
            .with_page_index_policy(PageIndexPolicy::Skip);
        if let Some(decryption) = decryption.clone() {
            options = options.with_file_decryption_properties(decryption);
        }
        let arrow = ArrowReaderMetadata::try_new(Arc::clone(&metadata), options.clone())
            .map_err(|_| damaged())?;
        let fields = arrow.schema().fields();
        let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
        let wanted = Wanted::find(&names, preprocessing, key_column)?;
        check_types(arrow.schema(), &wanted)?;
        let arrow = match wanted.key {
            Some(key) => ArrowReaderMetadata::try_new(
                Arc::clone(&metadata),
                options.with_schema(Arc::new(text_as_views(arrow.schema(), key))),
            )
            .map_err(|_| damaged())?,
            None => arrow,
        };

        let places = wanted.places();
        let in_batch = |column: &usize| places.binary_search(column).ok();
        let in_batch = InBatch {
            columns: wanted.columns.iter().filter_map(in_batch).collect(),
            key: wanted.key.as_ref().and_then(in_batch),
        };
        let input = Self {
            groups: groups(&metadata)?,
            source,
            metadata: arrow,
            preprocessing: preprocessing.clone(),
            wanted,
            in_batch,
        };
        input.check_columns(decryption.is_some(), keys.plain_columns)?;
        Ok(input)
    }

    /// How many parts there are: row groups, the large ones cut.
    pub fn parts(&self) -> u64 {
        self.groups
            .last()
            .map_or(0, |group| group.parts_before + group.parts())
    }

    /// How many rows are in the parts before this one.
    pub fn rows_before(&self, part: u64) -> u64 {
        match self.group(part) {
            Some((group, rows)) => group.rows_before + rows.start,
            None => self
                .groups
                .last()
                .map_or(0, |group| group.rows_before + group.rows),
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
        let Some((group, rows)) = self.group(part) else {
            return Ok(());
        };
        let pages = Pages::new(Arc::clone(&self.source), self.chunks(group.index)?);
        let refused = pages.refused();
        let failed = || {
            let refused = refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            refused.unwrap_or(ColumnsError::Part {
                format: "Parquet",
                what: "row group",
                number: group.index,
            })
        };
        let mut reader = guarded(failed, || {
            self.reader(pages, group.index, &rows)
                .map_err(|()| failed())
        })?;
        let mut read = 0;
        loop {
            // What `take` does stays outside: its panics are its own.
            let batch = guarded(failed, || match reader.next() {
                None => Ok(None),
                Some(Ok(batch)) => self.batch(&batch).map(Some),
                Some(Err(_)) => Err(failed()),
            })?;
            let Some(batch) = batch else { break };
            read += batch.rows() as u64;
            take(&batch)?;
        }
        if read == rows.end - rows.start {
            Ok(())
        } else {
            Err(ColumnsError::Malformed {
                format: "Parquet",
                why: "a row group has fewer rows than the footer says",
            }
            .into())
        }
    }

    fn reader(
        &self,
        pages: Pages,
        group: usize,
        rows: &Range<u64>,
    ) -> Result<ParquetRecordBatchReader, ()> {
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(pages, self.metadata.clone());
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), self.wanted.places());
        let number = |rows: u64| usize::try_from(rows).map_err(drop);
        builder
            .with_projection(mask)
            .with_row_groups(vec![group])
            .with_offset(number(rows.start)?)
            .with_limit(number(rows.end - rows.start)?)
            .with_batch_size(BATCH)
            .build()
            .map_err(drop)
    }

    fn batch(&self, read: &RecordBatch) -> Result<Batch, ColumnsError> {
        let mut batch = Batch {
            rows: read.num_rows(),
            columns: Vec::with_capacity(self.in_batch.columns.len()),
            bad: Vec::new(),
            key: self.in_batch.key.map(|key| Arc::clone(read.column(key))),
        };
        for (column, &place) in self.in_batch.columns.iter().enumerate() {
            let array = read.column(place);
            let values = numbers(array, column, &self.preprocessing, &mut batch.bad);
            batch.columns.push(values.ok_or_else(damaged)?);
        }
        batch.settle();
        Ok(batch)
    }

    /// The group of a part, and which of the group's rows the part has.
    fn group(&self, part: u64) -> Option<(&Group, Range<u64>)> {
        let after = self
            .groups
            .partition_point(|group| group.parts_before <= part);
        let group = self.groups.get(after.checked_sub(1)?)?;
        let start = (part - group.parts_before).checked_mul(PART)?;
        let end = start.checked_add(PART)?.min(group.rows);
        (start < group.rows).then_some((group, start..end))
    }

    /// Checks once what each row group says of the wanted columns.
    fn check_columns(&self, encrypted: bool, plain: PlainColumns) -> Result<(), ColumnsError> {
        let metadata = self.metadata.metadata();
        for group in &self.groups {
            for (column, chunk) in self.wanted_chunks(metadata, group.index) {
                if encrypted && plain == PlainColumns::Refuse && chunk.crypto_metadata().is_none() {
                    return Err(ColumnsError::PlainColumn {
                        column: shown(column),
                    });
                }
                if chunk.file_path().is_some() {
                    return Err(ColumnsError::Unsupported(
                        "this Parquet file says that its columns lie in other files, which are \
                         not read",
                    ));
                }
                if matches!(chunk.compression(), Compression::LZ4 | Compression::LZO)
                    || matches!(chunk.compression(), Compression::BROTLI(_))
                {
                    return Err(ColumnsError::Unsupported(
                        "a column of this Parquet file is compressed by LZO, Brotli or the old \
                         LZ4, which are not read; write it with snappy, gzip, zstd or LZ4_RAW",
                    ));
                }
            }
            self.chunks(group.index)?;
        }
        Ok(())
    }

    fn wanted_chunks<'a>(
        &'a self,
        metadata: &'a ParquetMetaData,
        group: usize,
    ) -> impl Iterator<Item = (&'a str, &'a ColumnChunkMetaData)> {
        let schema = metadata.file_metadata().schema_descr();
        let places = self.wanted.places();
        let columns = metadata.row_group(group).columns();
        columns.iter().enumerate().filter_map(move |(leaf, chunk)| {
            // Wanted roots are leaves: their types were checked.
            places
                .binary_search(&schema.get_column_root_idx(leaf))
                .ok()?;
            Some((schema.get_column_root(leaf).name(), chunk))
        })
    }

    /// Where the wanted columns of a row group lie.
    fn chunks(&self, group: usize) -> Result<Vec<Chunk>, ColumnsError> {
        let metadata = self.metadata.metadata();
        let size = self.source.size();
        let outside = || ColumnsError::Malformed {
            format: "Parquet",
            why: "a column lies outside the file, or within another",
        };
        let mut chunks = Vec::new();
        for (_, chunk) in self.wanted_chunks(metadata, group) {
            let first = chunk
                .dictionary_page_offset()
                .unwrap_or_else(|| chunk.data_page_offset());
            let start = u64::try_from(first).map_err(|_| outside())?;
            let length = u64::try_from(chunk.compressed_size()).map_err(|_| outside())?;
            let end = start.checked_add(length).filter(|end| *end <= size);
            chunks.push(Chunk {
                place: start..end.ok_or_else(outside)?,
                encrypted: chunk.crypto_metadata().is_some(),
                compression: chunk.compression(),
                kind: chunk.column_type(),
                window: Mutex::new(Window::default()),
            });
        }
        chunks.sort_unstable_by_key(|chunk| chunk.place.start);
        // What is looked at as one column's page must not be read as another's.
        if chunks
            .windows(2)
            .any(|pair| pair[0].place.end > pair[1].place.start)
        {
            return Err(outside());
        }
        Ok(chunks)
    }
}

impl Group {
    fn parts(&self) -> u64 {
        self.rows.div_ceil(PART)
    }
}

/// Decodes the footer. Its length and shape were looked at before.
fn decode(
    source: &dyn ReadAt,
    decryption: Option<Arc<FileDecryptionProperties>>,
) -> Result<ParquetMetaData, ColumnsError> {
    let signed = decryption.is_some();
    // The library's own texts quote what it found, and among it what a signature ought to be.
    let failed = |_| {
        if signed {
            ColumnsError::FooterKey
        } else {
            damaged()
        }
    };
    let mut decoder = ParquetMetaDataPushDecoder::try_new(source.size())
        .map_err(|_| damaged())?
        .with_page_index_policy(PageIndexPolicy::Skip)
        .with_file_decryption_properties(decryption);
    loop {
        match decoder.try_decode().map_err(failed)? {
            DecodeResult::Data(metadata) => return Ok(metadata),
            DecodeResult::Finished => return Err(damaged()),
            DecodeResult::NeedsData(ranges) => {
                let mut buffers = Vec::with_capacity(ranges.len());
                for range in &ranges {
                    let length = usize::try_from(range.end.saturating_sub(range.start));
                    let mut bytes = vec![0; length.map_err(|_| damaged())?];
                    source.read_at(range.start, &mut bytes)?;
                    buffers.push(Bytes::from(bytes));
                }
                decoder
                    .push_ranges(ranges, buffers)
                    .map_err(|_| damaged())?;
            }
        }
    }
}

fn groups(metadata: &ParquetMetaData) -> Result<Vec<Group>, ColumnsError> {
    let mut groups = Vec::new();
    let (mut rows_before, mut parts_before) = (0_u64, 0_u64);
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let rows = u64::try_from(group.num_rows()).map_err(|_| damaged())?;
        if rows == 0 {
            continue;
        }
        let group = Group {
            index,
            rows,
            rows_before,
            parts_before,
        };
        rows_before = rows_before.checked_add(rows).ok_or_else(damaged)?;
        parts_before += group.parts();
        groups.push(group);
    }
    Ok(groups)
}

fn check_types(schema: &Schema, wanted: &Wanted) -> Result<(), ColumnsError> {
    let kind = |field: &Field| shown(&field.data_type().to_string());
    for &column in &wanted.columns {
        let field = schema.field(column);
        if !is_number(field.data_type()) {
            return Err(ColumnsError::NotNumbers {
                column: shown(field.name()),
                kind: kind(field),
            });
        }
    }
    if let Some(key) = wanted.key {
        let field = schema.field(key);
        if !is_name(field.data_type()) {
            return Err(ColumnsError::NotAKey {
                column: shown(field.name()),
                kind: kind(field),
            });
        }
    }
    Ok(())
}

/// The key column's text as views into its pages: a long text that many rows share is there once.
fn text_as_views(schema: &Schema, key: usize) -> Schema {
    let view = |(at, field): (usize, &Arc<Field>)| match field.data_type() {
        DataType::Utf8 if at == key => {
            Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View))
        }
        _ => Arc::clone(field),
    };
    let fields: Vec<_> = schema.fields().iter().enumerate().map(view).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn damaged() -> ColumnsError {
    ColumnsError::Malformed {
        format: "Parquet",
        why: "it is damaged, or uses what this program does not know",
    }
}

/// Rows that are decoded at once: some tiles.
const BATCH: usize = 8192;

/// Rows of a part. A row group of more is cut, so that several threads share it; the pages before
/// a part are passed over without being decoded.
const PART: u64 = 1 << 19;
