//! The end of a Parquet file, looked at before the library sees it: how long it is, whether it is
//! encrypted and under which keys, and that its schema and row groups are no larger than they can be
//! (<https://github.com/apache/parquet-format/blob/master/Encryption.md>, clauses 5.3 and 5.4).

use aws_lc_rs::aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::ColumnsError;
use super::thrift::{Kind, Malformed, Reader};
use crate::read_at::ReadAt;

/// The last bytes of a file, metadata and all.
pub(super) struct Footer {
    /// What stands before the length: metadata, or what tells how to decrypt it and then metadata.
    bytes: Vec<u8>,
    encrypted: bool,
}

/// How a file is encrypted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Encryption {
    pub(super) ctr: bool,
    pub(super) aad_prefix: Option<Vec<u8>>,
    /// The reader must know the prefix: it is not in the file.
    pub(super) supply_aad_prefix: bool,
    pub(super) aad_file_unique: Vec<u8>,
    /// What the writer says of the footer's key.
    pub(super) key_metadata: Option<Vec<u8>>,
}

/// What the metadata says before it is believed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    /// The encryption of a file whose footer is readable.
    pub(super) encryption: Option<Encryption>,
    /// Columns with a key of their own.
    pub(super) column_keys: Vec<ColumnKey>,
}

/// A column with a key of its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ColumnKey {
    /// The column's name; of one inside another, both with a dot between.
    pub(super) column: String,
    /// What the writer says of the key.
    pub(super) metadata: Option<Vec<u8>>,
}

impl Footer {
    /// Reads it from the end of a file.
    pub(super) fn read(source: &dyn ReadAt) -> Result<Self, ColumnsError> {
        let size = source.size();
        if size < MIN_FILE {
            return Err(malformed("it is too short"));
        }
        let mut tail = [0; 8];
        source.read_at(size - 8, &mut tail)?;
        let [a, b, c, d, magic @ ..] = tail;
        let encrypted = match &magic {
            b"PAR1" => false,
            b"PARE" => true,
            _ => {
                return Err(malformed(
                    "it is cut off, or is none: it does not end as one",
                ));
            }
        };
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        if length > MAX_FOOTER {
            return Err(ColumnsError::TooLarge {
                what: "the Parquet footer",
                found: length,
                limit: MAX_FOOTER,
            });
        }
        let Some(start) = (size - 8).checked_sub(length).filter(|start| *start >= 4) else {
            return Err(malformed("its footer is longer than the file"));
        };
        // At most MAX_FOOTER.
        let mut bytes = vec![0; length as usize];
        source.read_at(start, &mut bytes)?;
        Ok(Self { bytes, encrypted })
    }

    /// The encryption that stands before an encrypted footer; `None` when the footer is readable.
    pub(super) fn encryption(&self) -> Result<Option<Encryption>, ColumnsError> {
        if !self.encrypted {
            return Ok(None);
        }
        let (encryption, _) = self.crypto_metadata()?;
        Ok(Some(encryption))
    }

    /// Whether the whole footer is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Looks through a readable footer.
    pub(super) fn outline(&self) -> Result<Outline, ColumnsError> {
        outline(&self.bytes)
    }

    /// Decrypts an encrypted footer and looks through it.
    pub(super) fn decrypted_outline(
        &self,
        key: &[u8],
        aad_prefix: &[u8],
    ) -> Result<Outline, ColumnsError> {
        let (encryption, rest) = self.crypto_metadata()?;
        // Length, nonce, ciphertext and tag; the module's type, 0, ends the associated data.
        let (length, sealed) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| malformed("its encrypted footer is cut"))?;
        if usize::try_from(u32::from_le_bytes(*length)).ok() != Some(sealed.len()) {
            return Err(malformed("its encrypted footer has another length"));
        }
        let aad = [aad_prefix, &encryption.aad_file_unique, &[0]].concat();
        let metadata = open(key, sealed, &aad).ok_or(ColumnsError::FooterKey)?;
        outline(&metadata)
    }

    fn crypto_metadata(&self) -> Result<(Encryption, &[u8]), ColumnsError> {
        let mut reader = Reader::new(&self.bytes);
        let (mut encryption, mut key_metadata) = (None, None);
        reader
            .structure(|reader, id, kind| {
                match id {
                    1 => encryption = Some(algorithm(reader, kind)?),
                    2 => key_metadata = Some(reader.binary(kind)?.to_vec()),
                    _ => return Ok(false),
                }
                Ok(true)
            })
            .map_err(|Malformed| malformed("its encryption is not described as it should be"))?;
        let mut encryption =
            encryption.ok_or_else(|| malformed("it does not say how it is encrypted"))?;
        encryption.key_metadata = key_metadata;
        Ok((encryption, reader.rest()))
    }
}

/// Opens what AES-GCM sealed: nonce, ciphertext, tag. The key's length says which AES.
pub(super) fn open(key: &[u8], sealed: &[u8], aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let algorithm = match key.len() {
        16 => &AES_128_GCM,
        24 => &AES_192_GCM,
        32 => &AES_256_GCM,
        _ => return None,
    };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
    let (nonce, sealed) = sealed.split_first_chunk::<12>()?;
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let mut text = Zeroizing::new(sealed.to_vec());
    let length = key
        .open_in_place(nonce, Aad::from(aad), &mut text)
        .ok()?
        .len();
    text.truncate(length);
    Some(text)
}

/// `FileMetaData`: walked as a whole, and of it what the checks need.
fn outline(metadata: &[u8]) -> Result<Outline, ColumnsError> {
    let mut outline = Outline::default();
    let mut schema = Schema::default();
    let (mut chunks, mut signing_key) = (0_usize, None);
    let walked = Reader::new(metadata).structure(|reader, id, kind| {
        match id {
            2 => {
                let count = reader.structures(kind, |reader| schema.element(reader))?;
                schema.elements = count;
            }
            4 => {
                reader.structures(kind, |reader| {
                    row_group(reader, &mut chunks, &mut outline.column_keys)
                })?;
            }
            8 => outline.encryption = Some(algorithm(reader, kind)?),
            9 => signing_key = Some(reader.binary(kind)?.to_vec()),
            _ => return Ok(false),
        }
        Ok(true)
    });
    walked.map_err(|Malformed| malformed("its footer is damaged"))?;
    if let Some(encryption) = &mut outline.encryption {
        encryption.key_metadata = signing_key;
    }
    schema.check()?;
    if chunks > MAX_CHUNKS {
        return Err(ColumnsError::TooLarge {
            what: "the number of row groups times columns",
            found: chunks as u64,
            limit: MAX_CHUNKS as u64,
        });
    }
    Ok(outline)
}

/// The schema is a tree, written as a list in which each node tells how many follow under it.
#[derive(Default)]
struct Schema {
    elements: usize,
    /// How many children each open group still waits for.
    open: Vec<i64>,
    faulty: bool,
}

impl Schema {
    fn element(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let mut children = 0;
        reader.structure(|reader, id, kind| {
            if id == 5 {
                children = reader.number(kind)?;
                return Ok(true);
            }
            Ok(false)
        })?;
        while self.open.last() == Some(&0) {
            self.open.pop();
        }
        if let Some(waiting) = self.open.last_mut() {
            *waiting -= 1;
        }
        self.faulty |= !(0..=MAX_ELEMENTS as i64).contains(&children);
        if children > 0 && self.open.len() <= MAX_SCHEMA_DEPTH {
            self.open.push(children);
        }
        self.faulty |= self.open.len() > MAX_SCHEMA_DEPTH;
        Ok(())
    }

    fn check(&self) -> Result<(), ColumnsError> {
        if self.elements > MAX_ELEMENTS {
            return Err(ColumnsError::TooLarge {
                what: "the number of columns in the Parquet schema",
                found: self.elements as u64,
                limit: MAX_ELEMENTS as u64,
            });
        }
        if self.faulty {
            return Err(malformed("its schema is nested too deep, or is none"));
        }
        Ok(())
    }
}

fn row_group(
    reader: &mut Reader<'_>,
    chunks: &mut usize,
    keys: &mut Vec<ColumnKey>,
) -> Result<(), Malformed> {
    // The keys of a column are those of its first chunk. One that has others later will not open.
    let first = *chunks == 0;
    reader.structure(|reader, id, kind| {
        if id != 1 {
            return Ok(false);
        }
        *chunks += reader.structures(kind, |reader| {
            reader.structure(|reader, id, kind| match id {
                8 if kind == Kind::Struct && first => {
                    if let Some(key) = column_key(reader)? {
                        keys.push(key);
                    }
                    Ok(true)
                }
                _ => Ok(false),
            })
        })?;
        Ok(true)
    })
}

/// `ColumnCryptoMetaData`: nothing for a column under the footer's key.
fn column_key(reader: &mut Reader<'_>) -> Result<Option<ColumnKey>, Malformed> {
    let mut found = None;
    reader.structure(|reader, id, kind| {
        if id != 2 || kind != Kind::Struct {
            return Ok(false);
        }
        let (mut path, mut metadata) = (Vec::new(), None);
        reader.structure(|reader, id, kind| {
            match id {
                1 => {
                    let (element, count) = reader.list(kind)?;
                    for _ in 0..count {
                        let part = std::str::from_utf8(reader.binary(element)?);
                        path.push(part.map_err(|_| Malformed)?);
                    }
                }
                2 => metadata = Some(reader.binary(kind)?.to_vec()),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        found = Some(ColumnKey {
            column: path.join("."),
            metadata,
        });
        Ok(true)
    })?;
    Ok(found)
}

/// `EncryptionAlgorithm`, a union of two structures of the same fields.
fn algorithm(reader: &mut Reader<'_>, kind: Kind) -> Result<Encryption, Malformed> {
    if kind != Kind::Struct {
        return Err(Malformed);
    }
    let mut found = None;
    reader.structure(|reader, id, kind| {
        if !matches!(id, 1 | 2) || kind != Kind::Struct {
            return Err(Malformed);
        }
        let mut encryption = Encryption {
            ctr: id == 2,
            aad_prefix: None,
            supply_aad_prefix: false,
            aad_file_unique: Vec::new(),
            key_metadata: None,
        };
        reader.structure(|reader, id, kind| {
            match id {
                1 => encryption.aad_prefix = Some(reader.binary(kind)?.to_vec()),
                2 => encryption.aad_file_unique = reader.binary(kind)?.to_vec(),
                3 => {
                    encryption.supply_aad_prefix = kind == Kind::True;
                    return Ok(false);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        found = Some(encryption);
        Ok(true)
    })?;
    found.ok_or(Malformed)
}

fn malformed(why: &'static str) -> ColumnsError {
    ColumnsError::Malformed {
        format: "Parquet",
        why,
    }
}

/// Magic, footer length, magic.
const MIN_FILE: u64 = 12;

/// Far more than the metadata of a million columns of rows.
const MAX_FOOTER: u64 = 32 << 20;

const MAX_ELEMENTS: usize = 16_384;
const MAX_SCHEMA_DEPTH: usize = 32;

/// Row groups times columns: the library keeps about half a KiB for each.
const MAX_CHUNKS: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn footer(metadata: &[u8], magic: &[u8]) -> Result<Footer, ColumnsError> {
        let length = (metadata.len() as u32).to_le_bytes();
        Footer::read(&Bytes::from([b"PAR1", metadata, &length, magic].concat()))
    }

    fn refusal(metadata: &[u8]) -> String {
        let footer = footer(metadata, b"PAR1").unwrap();
        footer.outline().unwrap_err().to_string()
    }

    /// A footer whose schema has these numbers of children, and nothing else.
    fn schema(children: &[u8]) -> Vec<u8> {
        // Field 2, a list of structures whose only field is the fifth.
        let mut bytes = vec![0x29, 0xfc];
        let mut count = children.len();
        while count >= 0x80 {
            bytes.push(count as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        for &children in children {
            bytes.extend([0x55, children * 2, 0]);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn footer_longer_than_the_file_is_read() {
        for (length, why) in [
            (5_u32, "longer than the file"),
            (u32::MAX, "footer is too large"),
        ] {
            let file = [b"PAR1abcd", &length.to_le_bytes()[..], b"PAR1"].concat();
            let error = Footer::read(&Bytes::from(file)).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn file_cut_at_its_end_is_read() {
        for file in [&b"PAR1"[..], b"", b"PAR1\0\0\0\0PAR2"] {
            assert!(Footer::read(&Bytes::from_static(file)).is_err());
        }
    }

    #[test]
    fn schema_nested_without_end_overflows_the_stack() {
        assert!(
            footer(&schema(&[1, 1, 1, 0]), b"PAR1")
                .unwrap()
                .outline()
                .is_ok()
        );
        assert!(refusal(&schema(&[1; 10_000])).contains("nested too deep"));
    }

    #[test]
    fn wide_schema_is_taken_for_a_deep_one() {
        let mut flat = vec![0; 61];
        flat[0] = 60;
        assert!(footer(&schema(&flat), b"PAR1").unwrap().outline().is_ok());
        // Groups that are full close: forty of two leaves each.
        let mut groups = vec![40];
        groups.extend([2, 0, 0].repeat(40));
        assert!(footer(&schema(&groups), b"PAR1").unwrap().outline().is_ok());
    }

    #[test]
    fn number_of_children_that_cannot_be_is_allocated() {
        // 2^30 children of the root.
        let bytes = b"\x29\x1c\x55\x80\x80\x80\x80\x08\x00\x00";
        assert!(refusal(bytes).contains("nested too deep, or is none"));
    }

    #[test]
    fn more_columns_than_allowed_are_read() {
        let error = refusal(&schema(&vec![0; MAX_ELEMENTS + 1]));
        assert!(error.contains("16385"), "{error}");
    }

    #[test]
    fn damaged_footer_is_read() {
        assert!(refusal(b"\x29\xfc\xff").contains("damaged"));
        let encrypted = footer(b"\x1c\x00", b"PARE").unwrap();
        assert!(encrypted.encryption().is_err());
    }

    #[test]
    fn way_of_encryption_is_read_wrongly() {
        // {1: {1: {1: "pre", 2: "unique", 3: true}}, 2: "key"} and an empty rest.
        let bytes = b"\x1c\x1c\x18\x03pre\x18\x06unique\x11\x00\x00\x18\x03key\x00";
        let footer = footer(bytes, b"PARE").unwrap();
        let expected = Encryption {
            ctr: false,
            aad_prefix: Some(b"pre".to_vec()),
            supply_aad_prefix: true,
            aad_file_unique: b"unique".to_vec(),
            key_metadata: Some(b"key".to_vec()),
        };
        assert_eq!(footer.encryption().unwrap(), Some(expected));
        let error = footer.decrypted_outline(&[0; 16], b"pre").unwrap_err();
        assert!(error.to_string().contains("footer is cut"), "{error}");
    }

    #[test]
    fn sealed_bytes_open_under_another_key_or_name() {
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).unwrap());
        let mut sealed = b"text".to_vec();
        let nonce = Nonce::assume_unique_for_key([9; 12]);
        key.seal_in_place_append_tag(nonce, Aad::from(b"name"), &mut sealed)
            .unwrap();
        let sealed = [&[9; 12][..], &sealed].concat();
        assert_eq!(**open(&[7; 16], &sealed, b"name").unwrap(), *b"text");
        assert!(open(&[8; 16], &sealed, b"name").is_none());
        assert!(open(&[7; 16], &sealed, b"other").is_none());
        assert!(open(&[7; 16], &sealed[..11], b"name").is_none());
        assert!(open(&[7; 15], &sealed, b"name").is_none());
    }
}
