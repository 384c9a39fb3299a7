//! The bytes of a row group's wanted columns, as the Parquet library asks for them, with a look at
//! every page of an unencrypted column before the library has it.
//!
//! The library allocates what a page's header says its content has, and inflates gzip for as long as
//! something comes out. So here the sizes that a header tells are held against each other and
//! against a limit, and gzip is tried before. The pages of encrypted columns were made under a key
//! of the owner; their headers cannot be read here.

use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use parquet::basic::{Compression, Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::thrift::{Kind, Malformed, Reader};
use super::{ColumnsError, PARQUET_PAGE};
use crate::read_at::ReadAt;

/// The wanted column chunks of a row group.
pub(super) struct Pages {
    source: Arc<dyn ReadAt>,
    chunks: Vec<Chunk>,
    /// What was refused, for the library's error says less.
    refused: Arc<Mutex<Option<ColumnsError>>>,
}

/// A column of a row group.
pub(super) struct Chunk {
    /// Where it lies.
    pub(super) place: Range<u64>,
    /// Whether its pages are encrypted.
    pub(super) encrypted: bool,
    pub(super) compression: Compression,
    pub(super) kind: Type,
    /// What was read of it last.
    pub(super) window: Mutex<Window>,
}

#[derive(Default)]
pub(super) struct Window {
    start: u64,
    bytes: Bytes,
    page: Option<Page>,
}

/// The page whose header was looked at last.
#[derive(Clone, Copy)]
struct Page {
    /// Where its content begins.
    content: u64,
    uncompressed: u64,
    /// Bytes of the content before what is compressed.
    levels: u64,
    is_compressed: bool,
    is_empty: bool,
}

impl Pages {
    pub(super) fn new(source: Arc<dyn ReadAt>, chunks: Vec<Chunk>) -> Self {
        Self {
            source,
            chunks,
            refused: Arc::default(),
        }
    }

    /// Where the reason is put when a page is refused or the source fails.
    pub(super) fn refused(&self) -> Arc<Mutex<Option<ColumnsError>>> {
        Arc::clone(&self.refused)
    }

    fn told<T>(&self, result: Result<T, ColumnsError>) -> Result<T, ParquetError> {
        result.map_err(|error| {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.get_or_insert(error);
            ParquetError::General("refused".to_owned())
        })
    }

    fn chunk(&self, start: u64) -> Result<&Chunk, ColumnsError> {
        self.chunks
            .iter()
            .find(|chunk| chunk.place.contains(&start))
            .ok_or_else(|| malformed("it asks for bytes outside its columns"))
    }

    /// A window on the chunk from `start` on.
    fn window(&self, chunk: &Chunk, window: &mut Window, start: u64) -> io::Result<Bytes> {
        let at = start.checked_sub(window.start);
        let inside = at.and_then(|at| usize::try_from(at).ok());
        let wanted = (chunk.place.end - start).min(LEAST_HEADER);
        if let Some(at) = inside
            && let Some(rest) = window.bytes.get(at..)
            && rest.len() as u64 >= wanted
        {
            return Ok(window.bytes.slice(at..));
        }
        let length = (chunk.place.end - start).min(WINDOW);
        // At most WINDOW.
        let mut bytes = vec![0; length as usize];
        self.source.read_at(start, &mut bytes)?;
        window.start = start;
        window.bytes = Bytes::from(bytes);
        Ok(window.bytes.clone())
    }

    fn header(&self, start: u64) -> Result<Bytes, ColumnsError> {
        let chunk = self.chunk(start)?;
        let mut window = chunk.window.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.window(chunk, &mut window, start)?;
        if chunk.encrypted {
            // The library allocates what the length says.
            let length = bytes
                .first_chunk()
                .map(|length| u64::from(u32::from_le_bytes(*length)));
            return match length {
                Some(length) if length <= bytes.len() as u64 - 4 => Ok(bytes),
                _ => Err(malformed("the encrypted header of a page has no end")),
            };
        }
        // The library comes here again, for its content, when it looked at a page before. After a
        // page without content the next header is what stands there.
        let again = |page: Page| page.content == start && !page.is_empty;
        if !window.page.is_some_and(again) {
            let (header, length) = PageHeader::parse(&bytes)
                .map_err(|Malformed| malformed("the header of a page is damaged"))?;
            window.page = Some(header.check(chunk, start + length)?);
        }
        Ok(bytes)
    }

    fn content(&self, start: u64, length: usize) -> Result<Bytes, ColumnsError> {
        let chunk = self.chunk(start)?;
        if length as u64 > MAX_PAGE {
            return Err(ColumnsError::TooLarge {
                what: PARQUET_PAGE,
                found: length as u64,
                limit: MAX_PAGE,
            });
        }
        if length as u64 > chunk.place.end - start {
            return Err(malformed("a page is longer than its column"));
        }
        let window = chunk.window.lock().unwrap_or_else(PoisonError::into_inner);
        let at = start
            .checked_sub(window.start)
            .and_then(|at| usize::try_from(at).ok());
        let there = at.and_then(|at| window.bytes.get(at..)).unwrap_or_default();
        let bytes = if there.len() >= length {
            window.bytes.slice_ref(&there[..length])
        } else {
            let mut bytes = vec![0; length];
            let (front, back) = bytes.split_at_mut(there.len());
            front.copy_from_slice(there);
            self.source.read_at(start + front.len() as u64, back)?;
            Bytes::from(bytes)
        };
        if !chunk.encrypted && matches!(chunk.compression, Compression::GZIP(_)) {
            let page = window.page.filter(|page| page.content == start);
            let page = page.ok_or_else(|| malformed("it asks for a page before its header"))?;
            page.try_gzip(&bytes)?;
        }
        Ok(bytes)
    }
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.source.size()
    }
}

impl ChunkReader for Pages {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        self.told(self.header(start)).map(Cursor::new)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.told(self.content(start, length))
    }
}

/// What counts of `PageHeader`.
#[derive(Default)]
struct PageHeader {
    uncompressed: i64,
    compressed: i64,
    dictionary_values: Option<i64>,
    levels: i64,
    is_compressed: bool,
    encoding: i64,
}

impl PageHeader {
    /// The header at the front of these bytes, and its length.
    fn parse(bytes: &[u8]) -> Result<(Self, u64), Malformed> {
        let mut header = Self {
            is_compressed: true,
            ..Self::default()
        };
        let mut reader = Reader::new(bytes);
        reader.structure(|reader, id, kind| {
            match id {
                2 => header.uncompressed = reader.number(kind)?,
                3 => header.compressed = reader.number(kind)?,
                5 | 7 | 8 if kind == Kind::Struct => {
                    reader.structure(|reader, inner, kind| {
                        match (id, inner) {
                            (7, 1) => header.dictionary_values = Some(reader.number(kind)?),
                            (5, 2) | (8, 4) => header.encoding = reader.number(kind)?,
                            (8, 5 | 6) => {
                                let length = reader.number(kind)?;
                                header.levels =
                                    header.levels.checked_add(length).ok_or(Malformed)?;
                            }
                            (8, 7) => {
                                header.is_compressed = kind == Kind::True;
                                return Ok(false);
                            }
                            _ => return Ok(false),
                        }
                        Ok(true)
                    })?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok((header, (bytes.len() - reader.rest().len()) as u64))
    }

    fn check(&self, chunk: &Chunk, content: u64) -> Result<Page, ColumnsError> {
        let number = |number: i64| {
            u64::try_from(number)
                .map_err(|_| malformed("the header of a page tells a negative size"))
        };
        let uncompressed = number(self.uncompressed)?;
        if uncompressed > MAX_PAGE {
            return Err(ColumnsError::TooLarge {
                what: PARQUET_PAGE,
                found: uncompressed,
                limit: MAX_PAGE,
            });
        }
        let compressed = number(self.compressed)?;
        let levels = number(self.levels)?;
        if levels > uncompressed {
            return Err(malformed("the levels of a page are longer than the page"));
        }
        if let Some(values) = self.dictionary_values {
            // What a value has at the least: text its length.
            let width = match chunk.kind {
                Type::INT64 | Type::DOUBLE => 8,
                Type::INT96 => 12,
                Type::BOOLEAN | Type::FIXED_LEN_BYTE_ARRAY => 1,
                Type::INT32 | Type::FLOAT | Type::BYTE_ARRAY => 4,
            };
            if number(values)?.saturating_mul(width) > uncompressed {
                return Err(malformed(
                    "a dictionary has more values than bytes for them",
                ));
            }
        } else if chunk.kind == Type::BYTE_ARRAY && matches!(self.encoding, 6 | 7) {
            return Err(ColumnsError::Unsupported(
                "a column of text in this Parquet file has a delta encoding, which is read from \
                 encrypted files only; write it with PLAIN or dictionary encoding",
            ));
        }
        Ok(Page {
            content,
            uncompressed,
            levels,
            is_compressed: self.is_compressed,
            is_empty: compressed == 0,
        })
    }
}

impl Page {
    /// Inflates once without keeping anything: the library inflates without a limit.
    fn try_gzip(self, bytes: &[u8]) -> Result<(), ColumnsError> {
        if !self.is_compressed {
            return Ok(());
        }
        let levels = usize::try_from(self.levels).unwrap_or(usize::MAX);
        let compressed = bytes
            .get(levels..)
            .ok_or_else(|| malformed("the levels of a page are longer than the page"))?;
        let most = self.uncompressed - self.levels;
        if most == 0 {
            return Ok(());
        }
        let mut decoder = MultiGzDecoder::new(compressed).take(most + 1);
        let found =
            io::copy(&mut decoder, &mut io::sink()).map_err(|_| malformed("a page is damaged"))?;
        if found > most {
            return Err(malformed("a page inflates to more than its header says"));
        }
        Ok(())
    }
}

fn malformed(why: &'static str) -> ColumnsError {
    ColumnsError::Malformed {
        format: "Parquet",
        why,
    }
}

/// What is read of a column at once, where a page is shorter.
const WINDOW: u64 = 256 << 10;

/// What must be there of a header: its numbers, and the least and greatest value of a page of
/// numbers.
const LEAST_HEADER: u64 = 16 << 10;

/// The largest page: writers aim at 1 MiB, and some make one page of a whole column of a row group.
const MAX_PAGE: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    fn chunk(compression: Compression, kind: Type) -> Chunk {
        Chunk {
            place: 0..u64::MAX,
            encrypted: false,
            compression,
            kind,
            window: Mutex::default(),
        }
    }

    fn pages(bytes: Vec<u8>, chunk: Chunk) -> Pages {
        let place = 0..bytes.len() as u64;
        Pages::new(Arc::new(Bytes::from(bytes)), vec![Chunk { place, ..chunk }])
    }

    fn varint(mut number: u64, bytes: &mut Vec<u8>) {
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
    }

    /// Type, uncompressed and compressed size, and a dictionary header with so many values.
    fn header(uncompressed: u64, compressed: u64, values: Option<u64>) -> Vec<u8> {
        let mut bytes = vec![0x15, 0x04, 0x15];
        varint(uncompressed << 1, &mut bytes);
        bytes.push(0x15);
        varint(compressed << 1, &mut bytes);
        if let Some(values) = values {
            bytes.extend([0x4c, 0x15]);
            varint(values << 1, &mut bytes);
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    fn refusal(pages: &Pages, result: Result<impl Sized, ParquetError>) -> String {
        assert!(result.is_err());
        pages.refused().lock().unwrap().take().unwrap().to_string()
    }

    #[test]
    fn claimed_page_of_a_gigabyte_is_allocated() {
        let bytes = header(1 << 30, 10, None);
        let pages = pages(bytes, chunk(Compression::SNAPPY, Type::DOUBLE));
        let error = refusal(&pages, pages.get_read(0));
        assert!(error.contains("write it with smaller pages"), "{error}");
    }

    #[test]
    fn dictionary_of_more_values_than_bytes_is_allocated() {
        let plain = |kind| chunk(Compression::UNCOMPRESSED, kind);
        let at_the_most = pages(header(800, 800, Some(100)), plain(Type::DOUBLE));
        assert!(at_the_most.get_read(0).is_ok());
        let pages = pages(header(800, 800, Some(101)), plain(Type::DOUBLE));
        let error = refusal(&pages, pages.get_read(0));
        assert!(error.contains("more values than bytes"), "{error}");
    }

    #[test]
    fn gzip_that_inflates_further_is_inflated() {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(9));
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        let content = encoder.finish().unwrap();
        for (claimed, good) in [(1 << 20, true), (1000, false)] {
            let mut bytes = header(claimed, content.len() as u64, None);
            let start = bytes.len() as u64;
            bytes.extend_from_slice(&content);
            let chunk = chunk(Compression::GZIP(Default::default()), Type::DOUBLE);
            let pages = pages(bytes, chunk);
            pages.get_read(0).unwrap();
            let result = pages.get_bytes(start, content.len());
            if good {
                assert_eq!(result.unwrap(), content);
            } else {
                let error = refusal(&pages, result);
                assert!(error.contains("more than its header says"), "{error}");
            }
        }
    }

    #[test]
    fn encrypted_header_of_4_gib_is_allocated() {
        let chunk = Chunk {
            encrypted: true,
            ..chunk(Compression::SNAPPY, Type::DOUBLE)
        };
        let pages = pages(b"\xff\xff\xff\xffnonce".to_vec(), chunk);
        let error = refusal(&pages, pages.get_read(0));
        assert!(error.contains("has no end"), "{error}");
    }

    #[test]
    fn bytes_outside_the_columns_are_read() {
        let pages = pages(header(8, 8, None), chunk(Compression::SNAPPY, Type::DOUBLE));
        let end = pages.len();
        assert!(refusal(&pages, pages.get_read(end)).contains("outside its columns"));
        assert!(refusal(&pages, pages.get_bytes(0, 1000)).contains("longer than its column"));
    }

    #[test]
    fn page_longer_than_a_window_loses_its_middle() {
        let length = 2 * WINDOW as usize + 5;
        let mut bytes = header(length as u64, length as u64, None);
        let start = bytes.len();
        bytes.extend((0..length).map(|at| (at % 251) as u8));
        let all = bytes.clone();
        let pages = pages(bytes, chunk(Compression::UNCOMPRESSED, Type::DOUBLE));
        let mut head = [0; 4];
        pages.get_read(0).unwrap().read_exact(&mut head).unwrap();
        assert_eq!(head, all[..4]);
        let read = pages.get_bytes(start as u64, length).unwrap();
        assert!(read == all[start..]);
        // Again, as when the header was looked at before.
        assert!(pages.get_read(start as u64).is_ok());
    }

    #[test]
    fn header_after_an_empty_page_is_not_looked_at() {
        let mut bytes = header(0, 0, Some(0));
        let start = bytes.len() as u64;
        bytes.extend(header(1 << 30, 10, None));
        let pages = pages(bytes, chunk(Compression::SNAPPY, Type::DOUBLE));
        pages.get_read(0).unwrap();
        let error = refusal(&pages, pages.get_read(start));
        assert!(error.contains("write it with smaller pages"), "{error}");
    }

    #[test]
    fn delta_lengths_of_text_are_allocated() {
        // A data page (field 5) whose encoding is 7.
        let bytes = b"\x15\x00\x15\x10\x15\x10\x2c\x15\x02\x15\x0e\x00\x00".to_vec();
        let pages = pages(bytes, chunk(Compression::SNAPPY, Type::BYTE_ARRAY));
        assert!(refusal(&pages, pages.get_read(0)).contains("delta encoding"));
    }
}
