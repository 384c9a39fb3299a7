//! A Parquet file as the library reads it, plain or encrypted, with what the library does not bound
//! by itself looked at before (`footer.rs`, `pages.rs`).

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

use super::footer::Footer;
use super::modular::{ParquetKeys, PlainColumns};
use super::pages::{Chunk, Pages, Window};
use super::{ColumnsError, guarded};
use crate::read_at::ReadAt;
use crate::receipt::Protection;
use crate::shown;

/// An open file, of which some columns are read.
pub(crate) struct ParquetFile {
    source: Arc<dyn ReadAt>,
    metadata: ArrowReaderMetadata,
    /// The places of the columns that are read, in rising order.
    places: Vec<usize>,
    groups: Vec<Group>,
    protection: Protection,
}

/// A row group that has rows.
pub(crate) struct Group {
    index: usize,
    pub(crate) rows: u64,
}

impl ParquetFile {
    /// Reads the footer, decrypts it where it must, and lets `choose` say by the schema which
    /// columns are read. They must be leaves. `names` are the columns whose keys may be asked for.
    ///
    /// # Errors
    /// When the file is damaged, is larger in a part than it may be, or lacks a key.
    pub(crate) fn open(
        source: Arc<dyn ReadAt>,
        keys: &ParquetKeys,
        names: &[String],
        choose: &mut dyn FnMut(&Schema) -> Result<Vec<usize>, ColumnsError>,
    ) -> Result<Self, ColumnsError> {
        guarded(damaged, || {
            Self::open_unguarded(source, keys, names, choose)
        })
    }

    fn open_unguarded(
        source: Arc<dyn ReadAt>,
        keys: &ParquetKeys,
        names: &[String],
        choose: &mut dyn FnMut(&Schema) -> Result<Vec<usize>, ColumnsError>,
    ) -> Result<Self, ColumnsError> {
        let footer = Footer::read(&*source)?;
        let decryption = keys.resolve(&footer, names)?;
        drop(footer);
        let metadata = Arc::new(decode(&*source, decryption.clone())?);
        let encrypted = decryption.is_some();
        let mut options = ArrowReaderOptions::new()
            // The schema that a writer embeds is one more thing to decode, and says nothing needed.
            .with_skip_arrow_metadata(true)
            .with_page_index_policy(PageIndexPolicy::Skip);
        if let Some(decryption) = decryption {
            options = options.with_file_decryption_properties(decryption);
        }
        let arrow = ArrowReaderMetadata::try_new(Arc::clone(&metadata), options.clone())
            .map_err(|_| damaged())?;
        let mut places = choose(arrow.schema())?;
        places.sort_unstable();
        let options = options.with_schema(Arc::new(text_as_views(arrow.schema(), &places)));
        let arrow =
            ArrowReaderMetadata::try_new(Arc::clone(&metadata), options).map_err(|_| damaged())?;
        let mut file = Self {
            groups: groups(&metadata)?,
            source,
            metadata: arrow,
            places,
            protection: Protection::None,
        };
        file.protection = file.check_columns(encrypted, keys)?;
        Ok(file)
    }

    /// What keeps the columns that are read from being changed unnoticed.
    pub(crate) fn protection(&self) -> Protection {
        self.protection
    }

    /// The row groups that have rows.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The place of a column among those of a batch.
    pub(crate) fn in_batch(&self, place: usize) -> Option<usize> {
        self.places.binary_search(&place).ok()
    }

    /// Reads some rows of a row group, batch by batch, each converted as `convert` does.
    ///
    /// # Errors
    /// When the row group is damaged or has other rows than the footer says, or `take` fails.
    pub(crate) fn read<T, E: From<ColumnsError>>(
        &self,
        group: &Group,
        rows: Range<u64>,
        convert: &dyn Fn(RecordBatch) -> Result<T, ColumnsError>,
        take: &mut dyn FnMut(T) -> Result<(), E>,
    ) -> Result<(), E> {
        let pages = Pages::new(Arc::clone(&self.source), self.chunks(group.index)?);
        let refused = pages.refused();
        let failed = || {
            let mut refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.take().unwrap_or(ColumnsError::Part {
                format: "Parquet",
                what: "row group",
                number: group.index,
            })
        };
        let mut reader = guarded(failed, || {
            let reader = self.reader(pages, group.index, &rows);
            reader.map_err(|()| failed())
        })?;
        let mut read = 0;
        loop {
            // What `take` does stays outside: its panics are its own.
            let batch = guarded(failed, || match reader.next() {
                None => Ok(None),
                Some(Ok(batch)) => {
                    read += batch.num_rows() as u64;
                    convert(batch).map(Some)
                }
                Some(Err(_)) => Err(failed()),
            })?;
            match batch {
                Some(batch) => take(batch)?,
                None if read == rows.end - rows.start => return Ok(()),
                None => return Err(malformed("a row group has fewer rows than it says").into()),
            }
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
        let mask =
            ProjectionMask::roots(self.metadata.parquet_schema(), self.places.iter().copied());
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

    /// Checks once what each row group says of the wanted columns.
    fn check_columns(
        &self,
        encrypted: bool,
        keys: &ParquetKeys,
    ) -> Result<Protection, ColumnsError> {
        let mut protection = match encrypted {
            true if keys.aad_prefix.is_some() => Protection::Authenticated,
            true => Protection::Unbound,
            false => Protection::None,
        };
        let metadata = self.metadata.metadata();
        for group in &self.groups {
            for (column, chunk) in self.wanted_chunks(metadata, group.index) {
                if encrypted && chunk.crypto_metadata().is_none() {
                    if keys.plain_columns == PlainColumns::Refuse {
                        return Err(ColumnsError::PlainColumn {
                            column: shown(column),
                        });
                    }
                    protection = Protection::PlainColumns;
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
        Ok(protection)
    }

    fn wanted_chunks<'a>(
        &'a self,
        metadata: &'a ParquetMetaData,
        group: usize,
    ) -> impl Iterator<Item = (&'a str, &'a ColumnChunkMetaData)> {
        let schema = metadata.file_metadata().schema_descr();
        let columns = metadata.row_group(group).columns();
        columns.iter().enumerate().filter_map(move |(leaf, chunk)| {
            // The roots that are read are leaves: their types were checked.
            self.in_batch(schema.get_column_root_idx(leaf))?;
            Some((schema.get_column_root(leaf).name(), chunk))
        })
    }

    /// Where the wanted columns of a row group lie.
    fn chunks(&self, group: usize) -> Result<Vec<Chunk>, ColumnsError> {
        let metadata = self.metadata.metadata();
        let size = self.source.size();
        let outside = || malformed("a column lies outside the file, or within another");
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
    let groups = metadata.row_groups().iter().enumerate();
    let groups = groups.map(|(index, group)| {
        let rows = u64::try_from(group.num_rows()).map_err(|_| damaged())?;
        Ok(Group { index, rows })
    });
    groups
        .filter(|group| !matches!(group, Ok(Group { rows: 0, .. })))
        .collect()
}

/// Text as views into its pages: a long one that many rows share is there once.
fn text_as_views(schema: &Schema, places: &[usize]) -> Schema {
    let view = |(at, field): (usize, &Arc<Field>)| match field.data_type() {
        DataType::Utf8 if places.binary_search(&at).is_ok() => {
            Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View))
        }
        _ => Arc::clone(field),
    };
    let fields: Vec<_> = schema.fields().iter().enumerate().map(view).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

fn malformed(why: &'static str) -> ColumnsError {
    ColumnsError::Malformed {
        format: "Parquet",
        why,
    }
}

fn damaged() -> ColumnsError {
    malformed("it is damaged, or uses what this program does not know")
}

/// Rows that are decoded at once: some tiles.
const BATCH: usize = 8192;
