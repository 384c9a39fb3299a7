//! Arrow's IPC format, as a file (Feather version 2 too) and as a stream
//! (<https://arrow.apache.org/docs/format/Columnar.html>, "Serialization and Interprocess
//! Communication"). The messages are found here, each no larger than it may be; the `arrow-ipc` crate
//! decodes them. A record batch is a part.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::{
    Endianness, Message, MessageHeader, MetadataVersion, root_as_footer, root_as_message,
};
use arrow_schema::{DataType, Schema, SchemaRef};

use super::batch::Batch;
use super::numbers::numbers;
use super::{ARROW_BATCH, ColumnsError, Wanted, guarded};
use crate::model::Preprocessing;
use crate::read_at::ReadAt;

/// An open file or stream of record batches.
pub struct ArrowInput {
    source: Arc<dyn ReadAt>,
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
    preprocessing: Preprocessing,
    wanted: Wanted,
    /// The wanted columns' places, in rising order.
    places: Vec<usize>,
    batches: Vec<Part>,
}

/// A record batch.
struct Part {
    block: Block,
    rows: u64,
    rows_before: u64,
}

/// Where a message is: what stands before its metadata, the metadata, and the body.
#[derive(Debug, Clone, Copy)]
struct Block {
    offset: u64,
    metadata_len: u64,
    body_len: u64,
}

/// The messages of a file, found but not read.
struct Found {
    schema: Schema,
    /// The dictionary of each top-level column that has one.
    dictionary_ids: Vec<Option<i64>>,
    dictionaries: Vec<Block>,
    batches: Vec<Block>,
}

impl ArrowInput {
    /// Finds the record batches, reads the dictionaries, and finds the model's columns.
    ///
    /// # Errors
    /// As [`ColumnsInput::open`](super::ColumnsInput::open).
    pub fn open(
        source: Arc<dyn ReadAt>,
        preprocessing: &Preprocessing,
        key_column: Option<&str>,
    ) -> Result<Self, ColumnsError> {
        guarded(damaged, || {
            Self::open_unguarded(source, preprocessing, key_column)
        })
    }

    fn open_unguarded(
        source: Arc<dyn ReadAt>,
        preprocessing: &Preprocessing,
        key_column: Option<&str>,
    ) -> Result<Self, ColumnsError> {
        let mut head = [0; 8];
        if source.size() < head.len() as u64 {
            return Err(malformed("it is too short"));
        }
        source.read_at(0, &mut head)?;
        let found = if head == *FILE_MAGIC {
            Found::in_file(&*source)?
        } else {
            Found::in_stream(&*source)?
        };
        let names: Vec<String> = found
            .schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let wanted = Wanted::find(&names, preprocessing, key_column)?;
        wanted.check_types(&found.schema)?;
        let places = wanted.places();
        let ids = places
            .iter()
            .filter_map(|&place| found.dictionary_ids.get(place).copied().flatten())
            .collect();
        let mut input = Self {
            schema: Arc::new(found.schema),
            dictionaries: HashMap::new(),
            preprocessing: preprocessing.clone(),
            wanted,
            places,
            batches: Vec::with_capacity(found.batches.len()),
            source,
        };
        input.read_dictionaries(&found.dictionaries, &ids)?;
        let mut rows_before = 0_u64;
        for block in found.batches {
            let metadata = block.metadata(&*input.source)?;
            let message = metadata.message()?;
            let batch = message.header_as_record_batch().ok_or_else(damaged)?;
            let rows = u64::try_from(batch.length()).map_err(|_| damaged())?;
            input.batches.push(Part {
                block,
                rows,
                rows_before,
            });
            rows_before = rows_before.checked_add(rows).ok_or_else(damaged)?;
        }
        Ok(input)
    }

    /// How many record batches there are.
    pub fn parts(&self) -> u64 {
        self.batches.len() as u64
    }

    /// How many rows are in the record batches before this one.
    pub fn rows_before(&self, part: u64) -> u64 {
        let at = usize::try_from(part)
            .ok()
            .and_then(|part| self.batches.get(part));
        match (at, self.batches.last()) {
            (Some(part), _) => part.rows_before,
            (None, Some(last)) => last.rows_before + last.rows,
            (None, None) => 0,
        }
    }

    /// Reads a record batch, some rows at a time.
    ///
    /// # Errors
    /// When it is damaged, or `take` fails.
    pub fn read<E: From<ColumnsError>>(
        &self,
        part: u64,
        take: &mut dyn FnMut(&Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        let at = usize::try_from(part).ok();
        let Some((at, part)) = at.and_then(|at| Some((at, self.batches.get(at)?))) else {
            return Ok(());
        };
        let failed = || ColumnsError::Part {
            format: "Arrow",
            what: "record batch",
            number: at,
        };
        let whole = guarded(failed, || self.record_batch(part, &failed))?;
        let mut start = 0;
        while start < whole.num_rows() {
            let length = BATCH.min(whole.num_rows() - start);
            let batch = guarded(failed, || self.batch(&whole.slice(start, length)))?;
            take(&batch)?;
            start += length;
        }
        Ok(())
    }

    fn record_batch(
        &self,
        part: &Part,
        failed: &dyn Fn() -> ColumnsError,
    ) -> Result<RecordBatch, ColumnsError> {
        let metadata = part.block.metadata(&*self.source)?;
        let message = metadata.message()?;
        let batch = message.header_as_record_batch().ok_or_else(failed)?;
        let buffers: Vec<Range<u64>> = batch
            .buffers()
            .ok_or_else(failed)?
            .iter()
            .map(|buffer| place(buffer).ok_or_else(failed))
            .collect::<Result<_, _>>()?;
        let wanted: Vec<_> = match wanted_buffers(&self.schema, &self.places) {
            Some(wanted) => wanted
                .into_iter()
                .map(|at| buffers.get(at).cloned().ok_or_else(failed))
                .collect::<Result<_, _>>()?,
            None => std::iter::once(0..part.block.body_len).collect(),
        };
        let body = part.block.body(&*self.source, &wanted)?;
        if batch.compression().is_some() {
            check_inflated(&body, &buffers, MAX_BATCH)?;
        }
        let decoded = RecordBatchDecoder::try_new(
            &body,
            batch,
            Arc::clone(&self.schema),
            &self.dictionaries,
            &message.version(),
        )
        .and_then(|decoder| {
            decoder
                .with_projection(Some(&self.places))
                .read_record_batch()
        })
        .map_err(|_| failed())?;
        if decoded.num_rows() as u64 == part.rows {
            Ok(decoded)
        } else {
            Err(failed())
        }
    }

    fn batch(&self, read: &RecordBatch) -> Result<Batch, ColumnsError> {
        let array = |place: &usize| {
            let at = self.places.binary_search(place).map_err(|_| damaged())?;
            Ok::<_, ColumnsError>(read.column(at))
        };
        let mut batch = Batch {
            rows: read.num_rows(),
            columns: Vec::with_capacity(self.wanted.columns.len()),
            bad: Vec::new(),
            key: self.wanted.key.as_ref().map(array).transpose()?.cloned(),
        };
        for (column, place) in self.wanted.columns.iter().enumerate() {
            let values = numbers(array(place)?, column, &self.preprocessing, &mut batch.bad);
            batch.columns.push(values.ok_or_else(damaged)?);
        }
        batch.settle();
        Ok(batch)
    }

    /// The dictionaries of wanted columns; the others stay unread.
    fn read_dictionaries(
        &mut self,
        blocks: &[Block],
        ids: &HashSet<i64>,
    ) -> Result<(), ColumnsError> {
        let mut room = MAX_DICTIONARIES;
        for block in blocks {
            let metadata = block.metadata(&*self.source)?;
            let message = metadata.message()?;
            let batch = message.header_as_dictionary_batch().ok_or_else(damaged)?;
            if !ids.contains(&batch.id()) {
                continue;
            }
            let too_large = |found| ColumnsError::TooLarge {
                what: "the dictionaries of this Arrow file",
                found,
                limit: MAX_DICTIONARIES,
            };
            room = room
                .checked_sub(block.body_len)
                .ok_or_else(|| too_large(block.body_len))?;
            let body = block.body(&*self.source, std::slice::from_ref(&(0..block.body_len)))?;
            let data = batch.data().ok_or_else(damaged)?;
            if data.compression().is_some() {
                let buffers = data.buffers().ok_or_else(damaged)?.iter().map(place);
                let buffers: Option<Vec<_>> = buffers.collect();
                let inflated = check_inflated(&body, &buffers.ok_or_else(damaged)?, room)?;
                room = room.saturating_sub(inflated);
            }
            read_dictionary(
                &body,
                batch,
                &self.schema,
                &mut self.dictionaries,
                &message.version(),
            )
            .map_err(|_| damaged())?;
        }
        Ok(())
    }
}

impl Found {
    /// By the footer of a file.
    fn in_file(source: &dyn ReadAt) -> Result<Self, ColumnsError> {
        let cut = || malformed("it is cut off: it does not end as an Arrow file");
        let size = source.size();
        let mut tail = [0; 10];
        let end = size.checked_sub(tail.len() as u64).ok_or_else(cut)?;
        source.read_at(end, &mut tail)?;
        let [a, b, c, d, magic @ ..] = tail;
        if magic != FILE_MAGIC[..6] {
            return Err(cut());
        }
        let length = u64::try_from(i32::from_le_bytes([a, b, c, d])).map_err(|_| damaged())?;
        check_metadata_len(length)?;
        let start = end.checked_sub(length).ok_or_else(damaged)?;
        let mut bytes = vec![0; length as usize];
        source.read_at(start, &mut bytes)?;
        let footer = root_as_footer(&bytes).map_err(|_| damaged())?;
        let (schema, dictionary_ids) = schema(footer.schema().ok_or_else(damaged)?)?;
        let mut found = Self {
            schema,
            dictionary_ids,
            dictionaries: Vec::new(),
            batches: Vec::new(),
        };
        for block in footer.dictionaries().into_iter().flatten() {
            found.dictionaries.push(Block::in_file(block, size)?);
        }
        for block in footer.recordBatches().into_iter().flatten() {
            found.batches.push(Block::in_file(block, size)?);
        }
        Ok(found)
    }

    /// By walking the messages of a stream to its end marker.
    fn in_stream(source: &dyn ReadAt) -> Result<Self, ColumnsError> {
        let cut = || malformed("it is cut off: it has no end marker");
        let mut found: Option<Self> = None;
        let mut offset = 0_u64;
        loop {
            let mut prefix = [0; 8];
            if offset.checked_add(8).is_none_or(|end| end > source.size()) {
                return Err(cut());
            }
            source.read_at(offset, &mut prefix)?;
            let [m0, m1, m2, m3, a, b, c, d] = prefix;
            if [m0, m1, m2, m3] != CONTINUATION {
                return Err(damaged());
            }
            let length = u64::try_from(i32::from_le_bytes([a, b, c, d])).map_err(|_| damaged())?;
            if length == 0 {
                if offset + 8 != source.size() {
                    return Err(malformed("it goes on after its end marker"));
                }
                return found.ok_or_else(damaged);
            }
            check_metadata_len(length)?;
            let mut block = Block {
                offset,
                metadata_len: 8 + length,
                body_len: 0,
            };
            if offset + block.metadata_len > source.size() {
                return Err(cut());
            }
            let metadata = block.metadata(source)?;
            let message = metadata.message()?;
            block.body_len = u64::try_from(message.bodyLength()).map_err(|_| damaged())?;
            offset = block
                .end()
                .filter(|end| *end <= source.size())
                .ok_or_else(cut)?;
            match (message.header_type(), &mut found) {
                (MessageHeader::Schema, None) => {
                    let header = message.header_as_schema().ok_or_else(damaged)?;
                    let (schema, dictionary_ids) = schema(header)?;
                    found = Some(Self {
                        schema,
                        dictionary_ids,
                        dictionaries: Vec::new(),
                        batches: Vec::new(),
                    });
                }
                (MessageHeader::DictionaryBatch, Some(found)) if found.batches.is_empty() => {
                    found.dictionaries.push(block);
                }
                (MessageHeader::DictionaryBatch, Some(_)) => {
                    return Err(ColumnsError::Unsupported(
                        "this Arrow stream changes a dictionary between its record batches; write \
                         it as an Arrow file, or without dictionaries",
                    ));
                }
                (MessageHeader::RecordBatch, Some(found)) => found.batches.push(block),
                _ => return Err(damaged()),
            }
            if let Some(found) = &found
                && found.batches.len() + found.dictionaries.len() > MAX_MESSAGES
            {
                return Err(ColumnsError::TooLarge {
                    what: "the number of record batches",
                    found: found.batches.len() as u64,
                    limit: MAX_MESSAGES as u64,
                });
            }
        }
    }
}

/// The metadata of a message, as it was read.
struct Metadata(Vec<u8>);

impl Metadata {
    fn message(&self) -> Result<Message<'_>, ColumnsError> {
        let message = root_as_message(&self.0).map_err(|_| damaged())?;
        if message.version() < MetadataVersion::V4 {
            return Err(ColumnsError::Unsupported(
                "this Arrow file was written before version 1.0 of the format, which is not read",
            ));
        }
        Ok(message)
    }
}

impl Block {
    fn in_file(block: &arrow_ipc::Block, size: u64) -> Result<Self, ColumnsError> {
        let number = |number: i64| u64::try_from(number).map_err(|_| damaged());
        let block = Self {
            offset: number(block.offset())?,
            metadata_len: number(block.metaDataLength().into())?,
            body_len: number(block.bodyLength())?,
        };
        check_metadata_len(block.metadata_len)?;
        match block.end() {
            Some(end) if end <= size => Ok(block),
            _ => Err(malformed("a record batch lies outside the file")),
        }
    }

    fn end(&self) -> Option<u64> {
        self.offset
            .checked_add(self.metadata_len)?
            .checked_add(self.body_len)
    }

    fn metadata(&self, source: &dyn ReadAt) -> Result<Metadata, ColumnsError> {
        // At most MAX_METADATA and the prefix.
        let mut bytes = vec![0; self.metadata_len as usize];
        source.read_at(self.offset, &mut bytes)?;
        let prefix = if bytes.starts_with(&CONTINUATION) {
            8
        } else {
            4
        };
        if bytes.len() < prefix {
            return Err(damaged());
        }
        bytes.drain(..prefix);
        Ok(Metadata(bytes))
    }

    /// The body, of which only the wanted ranges are read; the rest is zeros that cost no memory.
    fn body(&self, source: &dyn ReadAt, wanted: &[Range<u64>]) -> Result<Buffer, ColumnsError> {
        let read = wanted
            .iter()
            .try_fold(0_u64, |sum, range| sum.checked_add(range.end - range.start))
            .ok_or_else(damaged)?;
        if read > MAX_BATCH || self.body_len > MAX_BODY {
            return Err(ColumnsError::TooLarge {
                what: ARROW_BATCH,
                found: read.max(self.body_len),
                limit: MAX_BATCH,
            });
        }
        // At most MAX_BODY.
        let mut body = MutableBuffer::from_len_zeroed(self.body_len as usize);
        let start = self.offset + self.metadata_len;
        for range in wanted {
            let into = body
                .as_slice_mut()
                .get_mut(range.start as usize..range.end as usize)
                .ok_or_else(|| malformed("a record batch is longer than it says"))?;
            source.read_at(start + range.start, into)?;
        }
        Ok(body.into())
    }
}

/// The schema, and the dictionary of each of its columns.
fn schema(schema: arrow_ipc::Schema<'_>) -> Result<(Schema, Vec<Option<i64>>), ColumnsError> {
    if schema.endianness() != Endianness::Little {
        return Err(ColumnsError::Unsupported(
            "this Arrow file was written on a big-endian machine, which is not read",
        ));
    }
    let fields = schema.fields().ok_or_else(damaged)?;
    if fields.len() > MAX_COLUMNS {
        return Err(ColumnsError::TooLarge {
            what: "the number of columns in the Arrow schema",
            found: fields.len() as u64,
            limit: MAX_COLUMNS as u64,
        });
    }
    let ids = fields
        .iter()
        .map(|field| field.dictionary().map(|dictionary| dictionary.id()))
        .collect();
    let schema = try_fb_to_schema(schema).map_err(|_| damaged())?;
    Ok((schema, ids))
}

/// Which buffers of a record batch belong to these columns. `None` where a column of the schema has
/// another number of them than its type alone says: then all are read.
fn wanted_buffers(schema: &Schema, places: &[usize]) -> Option<Vec<usize>> {
    let mut wanted = Vec::new();
    let mut next = 0;
    for (at, field) in schema.fields().iter().enumerate() {
        let count = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => 3,
            DataType::Boolean | DataType::FixedSizeBinary(_) | DataType::Dictionary(..) => 2,
            kind if kind.is_primitive() => 2,
            _ => return None,
        };
        if places.contains(&at) {
            wanted.extend(next..next + count);
        }
        next += count;
    }
    Some(wanted)
}

/// Holds what compressed buffers say that they inflate to against a limit, and returns the sum. A
/// buffer that was not read says nothing.
fn check_inflated(body: &Buffer, buffers: &[Range<u64>], limit: u64) -> Result<u64, ColumnsError> {
    let mut sum = 0_u64;
    for range in buffers {
        let start = usize::try_from(range.start).map_err(|_| damaged())?;
        let Some(length) = body.get(start..).and_then(|rest| rest.first_chunk()) else {
            continue;
        };
        // -1 says that the rest is not compressed.
        let inflated = u64::try_from(i64::from_le_bytes(*length)).unwrap_or(0);
        sum = sum.saturating_add(inflated);
    }
    if sum > limit {
        return Err(ColumnsError::TooLarge {
            what: ARROW_BATCH,
            found: sum,
            limit,
        });
    }
    Ok(sum)
}

fn place(buffer: &arrow_ipc::Buffer) -> Option<Range<u64>> {
    let start = u64::try_from(buffer.offset()).ok()?;
    let length = u64::try_from(buffer.length()).ok()?;
    Some(start..start.checked_add(length)?)
}

fn check_metadata_len(found: u64) -> Result<(), ColumnsError> {
    if found <= MAX_METADATA {
        Ok(())
    } else {
        Err(ColumnsError::TooLarge {
            what: "the metadata of this Arrow file",
            found,
            limit: MAX_METADATA,
        })
    }
}

fn malformed(why: &'static str) -> ColumnsError {
    ColumnsError::Malformed {
        format: "Arrow",
        why,
    }
}

fn damaged() -> ColumnsError {
    malformed("it is damaged, or uses what this program does not know")
}

const FILE_MAGIC: &[u8; 8] = b"ARROW1\0\0";
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Rows that are converted at once.
const BATCH: usize = 8192;

const MAX_METADATA: u64 = 32 << 20;
const MAX_COLUMNS: usize = 16_384;
const MAX_MESSAGES: usize = 1 << 20;

/// What is read of a record batch, and what comes out of it.
const MAX_BATCH: u64 = 256 << 20;

/// A record batch with the columns that are not read.
const MAX_BODY: u64 = 16 << 30;

/// All dictionaries of wanted columns.
const MAX_DICTIONARIES: u64 = 64 << 20;
