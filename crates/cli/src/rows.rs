//! Opens a data set: decrypts it, decompresses it, and tells CSV from Parquet and Arrow by how it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use strongroom_cipherfile::tink_stream::Segments;
use strongroom_scoring::columns::{ColumnsInput, NamedKeys, ParquetKeys, PlainColumns};
use strongroom_scoring::decompress::{Decompressor, Limits};
use strongroom_scoring::detect::Format;
use strongroom_scoring::model::Preprocessing;
use strongroom_scoring::plain_at::PlainAt;
use strongroom_scoring::receipt::{KeyFrom, Protection};
use strongroom_scoring::storage::{ReadAt, Reader};
use strongroom_wire::resource::ResourceUri;
use zeroize::Zeroizing;

use crate::input::{OpenArgs, bound_name};
use crate::keys::{GuestArgs, KeySource};
use crate::storage::Source;

/// How a Parquet file with encryption of its own is opened. Its footer's key is `--key`.
#[derive(Args, Clone, Default)]
#[command(
    next_help_heading = "Encrypted Parquet (Parquet Modular Encryption; the footer's key is --key)"
)]
pub(crate) struct ParquetArgs {
    /// The key of a column: its name, and a file or kbs:///repository/type/tag. May be given several times.
    #[arg(long, value_name = "COLUMN=FILE|URI")]
    column_key: Vec<String>,

    /// Fetch the keys that the file names itself, when their names begin so, such as kbs:///bank/parquet/. A name that is
    /// no URI, as PyArrow's and Spark's key tools write, is looked for behind it.
    #[arg(long, value_name = "URI")]
    keys_named_below: Option<String>,

    /// What the file was encrypted as: its AAD prefix, so that another file under the same key is refused.
    #[arg(long, value_name = "TEXT")]
    pub(crate) aad_prefix: Option<String>,

    /// Read columns that an encrypted file holds unencrypted, which whoever stores the file can change.
    #[arg(long)]
    pub(crate) insecure_plain_columns: bool,
}

/// A data set that was opened.
pub(crate) struct Opened {
    pub(crate) rows: Rows,
    /// What kept others from changing it unnoticed.
    pub(crate) protection: Protection,
    /// Where the keys came from that opened it.
    pub(crate) keys: BTreeSet<KeyFrom>,
    pub(crate) warnings: Vec<String>,
}

impl Opened {
    /// What a cipherfile around it adds to what the file itself has.
    fn new(rows: Rows, around: Protection, key: Option<KeyFrom>, own: &ParquetArgs) -> Self {
        let mut keys = BTreeSet::new();
        let inside = match &rows {
            Rows::Columns { input, .. } => input.protection(),
            Rows::Stream(_) | Rows::Segments { .. } => Protection::None,
        };
        if inside > Protection::None {
            keys.extend(own.origins());
        }
        if inside.max(around) > Protection::None {
            keys.extend(key);
        }
        Self {
            rows,
            protection: inside.max(around),
            keys,
            warnings: Vec::new(),
        }
    }
}

/// Rows, by how they are read.
pub(crate) enum Rows {
    /// CSV, from front to back.
    Stream(Box<dyn Read + Send>),
    /// CSV in segments that all threads decrypt.
    Segments {
        at: Arc<dyn ReadAt>,
        segments: Segments,
    },
    /// Parquet or Arrow, of so many bytes.
    Columns { input: Box<ColumnsInput>, size: u64 },
}

/// What is opened, and for which columns.
pub(crate) struct Opening<'a> {
    pub(crate) open: &'a OpenArgs,
    pub(crate) parquet: &'a ParquetArgs,
    pub(crate) guest: &'a GuestArgs,
    pub(crate) preprocessing: &'a Preprocessing,
    pub(crate) key_column: Option<&'a str>,
}

impl Opening<'_> {
    /// Opens a source that was named `path`.
    pub(crate) fn rows(&self, source: Source, path: &Path) -> anyhow::Result<Opened> {
        let name = bound_name(path)?;
        let Some(at) = source.at.clone() else {
            return self.stream(source, &name);
        };
        let label = source.label.clone();
        if let Some(segments) = self.open.segments(&at, &label, &name, self.guest)? {
            let first = FirstSegment::read(at, &segments);
            let (at, format) = first.with_context(|| format!("cannot decrypt {label}"))?;
            let rows = if format == Format::Csv {
                Rows::Segments { at, segments }
            } else {
                let plain = PlainAt::new(at, segments);
                let plain = plain.with_context(|| format!("cannot decrypt {label}"))?;
                self.by_position(Arc::new(plain), format, &label, Key::Spent)?
            };
            let (key, own) = (self.open.key_from(), self.parquet);
            return Ok(Opened::new(rows, Protection::Authenticated, key, own));
        }
        let format = head(&*at).with_context(|| format!("cannot read {label}"))?;
        if format.needs_random_access() {
            self.check_bare(format, &label)?;
            let rows = self.by_position(at, format, &label, Key::OfTheFooter)?;
            let (key, own) = (self.open.key_from(), self.parquet);
            return Ok(Opened::new(rows, Protection::None, key, own));
        }
        self.stream(source, &name)
    }

    /// Checks that nothing asked for a decryption that a file of columns without a cipherfile around it does not have.
    fn check_bare(&self, format: Format, label: &str) -> anyhow::Result<()> {
        if self.open.identity.is_some() {
            bail!("{label} was not encrypted to a recipient: leave --identity out");
        }
        if self.open.openssl_cipher.is_some() && !self.open.also_protected_forms {
            bail!("{label} was not made by `openssl enc`: it does not start with \"Salted__\"");
        }
        if format != Format::Parquet && self.open.key.is_some() {
            bail!(
                "{label} is not encrypted, but a key was given; leave --key out to read it as it is"
            );
        }
        Ok(())
    }

    /// Of what is read from front to back, or is in a form that is.
    fn stream(&self, source: Source, name: &str) -> anyhow::Result<Opened> {
        let label = source.label.clone();
        let opened = self.open.open_source(source, name, self.guest)?;
        let mut reader = opened.reader;
        let mut head = Vec::new();
        let length = u64::try_from(Format::DETECT_LEN)?;
        reader
            .by_ref()
            .take(length)
            .read_to_end(&mut head)
            .with_context(|| format!("cannot read {label}"))?;
        let format = Format::detect(&head);
        let stream: Box<dyn Read + Send> = Box::new(Cursor::new(head).chain(reader));
        let rows = if format.needs_random_access() {
            let mut bytes = Vec::new();
            stream
                .take(MOST_IN_MEMORY + 1)
                .read_to_end(&mut bytes)
                .with_context(|| format!("cannot read {label}"))?;
            if bytes.len() as u64 > MOST_IN_MEMORY {
                bail!(
                    "{label} holds Parquet or Arrow, which is read at many places, and comes from front to back: up to {} MiB fit into memory. Encrypt it with `strongroom encrypt`, or read it from a file or a storage",
                    MOST_IN_MEMORY >> 20
                );
            }
            self.by_position(Arc::new(Bytes::from(bytes)), format, &label, Key::Spent)?
        } else {
            Rows::Stream(decompressed(stream, format)?)
        };
        let (key, own) = (self.open.key_from(), self.parquet);
        Ok(Opened {
            warnings: opened.warnings,
            ..Opened::new(rows, opened.protection, key, own)
        })
    }

    fn by_position(
        &self,
        at: Arc<dyn ReadAt>,
        format: Format,
        label: &str,
        key: Key,
    ) -> anyhow::Result<Rows> {
        if !format.needs_random_access() {
            let reader = Box::new(Reader::new(at));
            return Ok(Rows::Stream(decompressed(reader, format)?));
        }
        let size = at.size();
        let keys = self.parquet_keys(key)?;
        let input = ColumnsInput::open(format, at, self.preprocessing, self.key_column, &keys);
        let input = input.with_context(|| label.to_owned())?;
        Ok(Rows::Columns {
            input: Box::new(input),
            size,
        })
    }

    fn parquet_keys(&self, key: Key) -> anyhow::Result<ParquetKeys> {
        let mut columns = BTreeMap::new();
        for given in &self.parquet.column_key {
            let Some((column, source)) = given.split_once('=') else {
                bail!(
                    "--column-key {given}: write COLUMN=FILE or COLUMN=kbs:///repository/type/tag"
                );
            };
            let source: KeySource = source.parse().map_err(anyhow::Error::msg)?;
            columns.insert(column.to_owned(), self.guest.bytes(&source)?);
        }
        let footer = match (key, &self.open.key) {
            (Key::OfTheFooter, Some(key)) => Some(self.guest.bytes(key)?),
            _ => None,
        };
        let named = self.parquet.keys_named_below.as_ref().map(|below| {
            Arc::new(KeysBelow {
                below: below.clone(),
                guest: self.guest.clone(),
            }) as Arc<dyn NamedKeys>
        });
        Ok(ParquetKeys {
            footer,
            columns,
            named,
            aad_prefix: self
                .parquet
                .aad_prefix
                .as_ref()
                .map(|text| text.clone().into_bytes()),
            plain_columns: if self.parquet.insecure_plain_columns {
                PlainColumns::Allow
            } else {
                PlainColumns::Refuse
            },
        })
    }
}

/// What `--key` opens.
#[derive(Clone, Copy)]
enum Key {
    /// The footer of the Parquet file.
    OfTheFooter,
    /// The cipherfile around the file of columns, if anything: it is not one of the file's own.
    Spent,
}

impl ParquetArgs {
    /// What is taken of an encrypted file, and as which: rows that were read laxly are not those of a stricter job.
    pub(crate) fn strictness(&self) -> String {
        format!("{} {:?}", self.insecure_plain_columns, self.aad_prefix)
    }

    /// Where the keys come from that these options name.
    fn origins(&self) -> impl Iterator<Item = KeyFrom> {
        let columns = self.column_key.iter().filter_map(|given| {
            let (_, source) = given.split_once('=')?;
            Some(source.parse::<KeySource>().ok()?.origin())
        });
        let named = self.keys_named_below.as_ref().map(|_| KeyFrom::Broker);
        columns.chain(named)
    }
}

/// Keys of a broker whose names begin as the caller said: a file does not choose freely what is asked.
struct KeysBelow {
    below: String,
    guest: GuestArgs,
}

impl NamedKeys for KeysBelow {
    fn key(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        let uri = if name.starts_with("kbs:") {
            name.to_owned()
        } else {
            format!("{}{name}", self.below)
        };
        if !uri.starts_with(&self.below) {
            return Err(format!("its name does not begin with {}", self.below));
        }
        let uri: ResourceUri = uri.parse().map_err(|error| format!("{error}"))?;
        self.guest
            .resource(&uri)
            .map_err(|error| format!("{error:#}"))
    }
}

/// What a data set that does not come by position may have in memory.
const MOST_IN_MEMORY: u64 = 512 << 20;

/// A cipherfile of which the first segment was read for its format, and is not read again.
struct FirstSegment {
    file: Arc<dyn ReadAt>,
    begin: u64,
    bytes: Vec<u8>,
}

impl FirstSegment {
    fn read(
        file: Arc<dyn ReadAt>,
        segments: &Segments,
    ) -> anyhow::Result<(Arc<dyn ReadAt>, Format)> {
        let place = segments.ciphertext_range(0);
        let mut bytes = vec![0; usize::try_from(place.end - place.start)?];
        file.read_at(place.start, &mut bytes)?;
        let mut opened = Zeroizing::new(bytes.clone());
        let format = Format::detect(segments.open_in_place(0, &mut opened)?);
        let first = Self {
            file,
            begin: place.start,
            bytes,
        };
        Ok((Arc::new(first), format))
    }
}

impl ReadAt for FirstSegment {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn version(&self) -> Option<&str> {
        self.file.version()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        if offset == self.begin && buffer.len() == self.bytes.len() {
            buffer.copy_from_slice(&self.bytes);
            return Ok(());
        }
        self.file.read_at(offset, buffer)
    }
}

/// What a file is, by how it begins.
pub(crate) fn head(at: &dyn ReadAt) -> std::io::Result<Format> {
    let length = usize::try_from(at.size()).unwrap_or(usize::MAX);
    let mut head = vec![0; length.min(Format::DETECT_LEN)];
    at.read_at(0, &mut head)?;
    Ok(Format::detect(&head))
}

fn decompressed(
    stream: Box<dyn Read + Send>,
    format: Format,
) -> anyhow::Result<Box<dyn Read + Send>> {
    Ok(match format {
        Format::Gzip => Box::new(Decompressor::gzip(stream, Limits::default())),
        Format::Zstd => Box::new(Decompressor::zstd(stream, Limits::default())?),
        _ => stream,
    })
}
