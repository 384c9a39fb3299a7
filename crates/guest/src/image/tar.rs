//! Reading tar files (POSIX.1-2001 pax and ustar, GNU long names) entry by entry, under caps.
//!
//! Own code, since a layer comes from a stranger: the crate `tar` reads a long name of any stated length into memory,
//! and its raw mode does not follow a length that a pax header states. Sparse files are refused.

use std::collections::BTreeMap;
use std::io::{self, Read};

/// Reads a tar file. The content of an entry is read from the reader between one entry and the next.
pub(crate) struct TarReader<R> {
    inner: R,
    /// What is left of the entry's content, and of the padding behind it.
    content: u64,
    padding: u64,
}

/// What is said of an entry before its content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// In seconds since 1970.
    pub(crate) modified: i64,
    pub(crate) size: u64,
    pub(crate) attributes: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    File,
    Directory,
    /// Where it leads.
    Symlink(Vec<u8>),
    /// The path of the other name.
    Link(Vec<u8>),
    Fifo,
    /// Major and minor number.
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// Why a tar file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error("the tar file is damaged: {0}")]
    Damaged(&'static str),
    #[error("the tar file is not read here: {0}")]
    Unsupported(&'static str),
    #[error("the tar file ends in the middle of an entry")]
    Truncated,
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            content: 0,
            padding: 0,
        }
    }

    /// The next entry, past what is left of the one before; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut records = BTreeMap::new();
        let (mut long_name, mut long_link) = (None, None);
        for _ in 0..MAX_EXTENSIONS {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = number(field(&header, 124, 12))?;
            match byte(&header, 156) {
                b'L' => long_name = Some(self.text(size)?),
                b'K' => long_link = Some(self.text(size)?),
                b'x' => pax(&self.extension(size)?, &mut records)?,
                // A volume's label says nothing about files; what is said for all files at once (a commit's id, mostly)
                // is passed over, as container runtimes do.
                b'g' | b'V' => self.expect(size),
                _ => {
                    return self
                        .entry(&header, size, records, long_name, long_link)
                        .map(Some);
                }
            }
        }
        Err(TarError::Damaged("an entry has too many headers"))
    }

    /// Ends the reading: what is behind the last entry is read to its end, so that a digest covers it.
    pub(crate) fn drain(mut self) -> Result<R, TarError> {
        io::copy(&mut self.inner, &mut io::sink())?;
        Ok(self.inner)
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        mut records: BTreeMap<String, Vec<u8>>,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        if records.keys().any(|key| key.starts_with("GNU.sparse.")) {
            return Err(TarError::Unsupported("a sparse file"));
        }
        let path = records
            .remove("path")
            .or(long_name)
            .unwrap_or_else(|| short_name(header));
        let link = records
            .remove("linkpath")
            .or(long_link)
            .unwrap_or_else(|| until_nul(field(header, 157, 100)).to_vec());
        let stated = |key: &str, plain: u64| match records.get(key) {
            None => Ok(plain),
            Some(text) => decimal(text),
        };
        let device = || -> Result<(u32, u32), TarError> {
            let part = |at| small(number(field(header, at, 8))?);
            Ok((part(329)?, part(337)?))
        };
        let flag = byte(header, 156);
        let kind = match flag {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::Link(link),
            b'2' => Kind::Symlink(link),
            b'3' => device().map(|(major, minor)| Kind::CharacterDevice(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(TarError::Unsupported("a sparse file")),
            _ => return Err(TarError::Unsupported("an entry of an unknown type")),
        };
        let size = match kind {
            Kind::File => stated("size", size)?,
            // Some programs state a length for entries that have no content.
            _ => 0,
        };
        self.expect(size);
        Ok(Entry {
            path,
            kind,
            mode: small(number(field(header, 100, 8))? & 0o7777)?,
            uid: small(stated("uid", number(field(header, 108, 8))?)?)?,
            gid: small(stated("gid", number(field(header, 116, 8))?)?)?,
            modified: match records.get("mtime") {
                Some(text) => seconds(text)?,
                None => i64::try_from(number(field(header, 136, 12)).unwrap_or(0)).unwrap_or(0),
            },
            size,
            attributes: records
                .into_iter()
                .filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?.to_owned(), value)))
                .collect(),
        })
    }

    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut header = [0; BLOCK];
        let mut have = 0;
        while let Some(rest) = header.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                // Some programs leave the zero blocks at the end out.
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(read) => have += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stated = number(field(&header, 148, 8))?;
        let sum: u64 = (0_usize..)
            .zip(header)
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u64::from(byte)
                }
            })
            .sum();
        match sum == stated {
            true => Ok(Some(header)),
            false => Err(TarError::Damaged("a header's checksum is wrong")),
        }
    }

    fn expect(&mut self, size: u64) {
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let rest = self
            .content
            .checked_add(self.padding)
            .ok_or(TarError::Damaged("a length is too great"))?;
        (self.content, self.padding) = (0, 0);
        match io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())? == rest {
            true => Ok(()),
            false => Err(TarError::Truncated),
        }
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::Damaged("a header is longer than a mebibyte"));
        }
        self.expect(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let bytes = self.extension(size)?;
        Ok(until_nul(&bytes).to_vec())
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let Some(place) = buffer.get_mut(..most).filter(|place| !place.is_empty()) else {
            return Ok(0);
        };
        let read = self.inner.read(place)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content = self.content.saturating_sub(read as u64);
        Ok(read)
    }
}

fn field(header: &[u8; BLOCK], at: usize, length: usize) -> &[u8] {
    header
        .get(at..at.saturating_add(length))
        .unwrap_or_default()
}

fn byte(header: &[u8; BLOCK], at: usize) -> u8 {
    header.get(at).copied().unwrap_or_default()
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn short_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(field(header, 0, 100));
    let prefix = until_nul(field(header, 345, 155));
    // GNU keeps times where ustar keeps the prefix, and writes its magic without the NUL.
    let is_ustar = field(header, 257, 6) == b"ustar\0";
    match is_ustar && !prefix.is_empty() {
        true => [prefix, b"/", name].concat(),
        false => name.to_vec(),
    }
}

/// Octal digits, or a number to base 256 behind a set bit.
fn number(field: &[u8]) -> Result<u64, TarError> {
    const BAD: TarError = TarError::Damaged("a number is none");
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            // A set second bit is a sign.
            if first & 0x40 != 0 {
                return Err(BAD);
            }
            rest.iter()
                .try_fold(u64::from(first & 0x3f), |all, byte| {
                    all.checked_mul(256)?.checked_add(u64::from(*byte))
                })
                .ok_or(BAD)
        }
        _ => {
            let text = until_nul(field).trim_ascii();
            text.iter()
                .try_fold(0_u64, |all, digit| match digit {
                    b'0'..=b'7' => all.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
                    _ => None,
                })
                .ok_or(BAD)
        }
    }
}

fn small(number: u64) -> Result<u32, TarError> {
    u32::try_from(number).map_err(|_| TarError::Damaged("a number is too great"))
}

fn decimal(text: &[u8]) -> Result<u64, TarError> {
    std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or(TarError::Damaged("a pax number is none"))
}

/// Whole seconds of a time with or without a fraction.
fn seconds(text: &[u8]) -> Result<i64, TarError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.split('.').next()?.parse().ok())
        .ok_or(TarError::Damaged("a pax time is none"))
}

/// Records `length key=value\n`. An empty value takes a record back.
fn pax(mut bytes: &[u8], records: &mut BTreeMap<String, Vec<u8>>) -> Result<(), TarError> {
    const BAD: TarError = TarError::Damaged("a pax record cannot be read");
    while !bytes.is_empty() && bytes.iter().any(|byte| *byte != 0) {
        let space = bytes
            .iter()
            .position(|byte| *byte == b' ')
            .filter(|at| *at <= 8)
            .ok_or(BAD)?;
        let length = decimal(bytes.get(..space).unwrap_or_default()).map_err(|_| BAD)?;
        let length = usize::try_from(length).map_err(|_| BAD)?;
        let (record, rest) = bytes.split_at_checked(length).ok_or(BAD)?;
        let record = record
            .get(space + 1..)
            .and_then(|record| record.strip_suffix(b"\n"))
            .ok_or(BAD)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
        let (key, value) = record.split_at_checked(equals).ok_or(BAD)?;
        let key = std::str::from_utf8(key).map_err(|_| BAD)?.to_owned();
        match value.get(1..).unwrap_or_default() {
            [] => {
                records.remove(&key);
            }
            value => {
                records.insert(key, value.to_vec());
            }
        }
        if records.len() > MAX_RECORDS {
            return Err(TarError::Damaged("there are too many pax records"));
        }
        bytes = rest;
    }
    Ok(())
}

const BLOCK: usize = 512;
const XATTR: &str = "SCHILY.xattr.";
const MAX_EXTENSION: u64 = 1024 * 1024;
const MAX_EXTENSIONS: usize = 16;
const MAX_RECORDS: usize = 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// A tar file, entry by entry.
    #[derive(Default)]
    pub(crate) struct Builder(Vec<u8>);

    impl Builder {
        pub(crate) fn entry(
            &mut self,
            flag: u8,
            path: &str,
            link: &str,
            content: &[u8],
        ) -> &mut Self {
            self.full(flag, path, link, content, 0o644)
        }

        pub(crate) fn full(
            &mut self,
            flag: u8,
            path: &str,
            link: &str,
            content: &[u8],
            mode: u32,
        ) -> &mut Self {
            let mut header = [0; BLOCK];
            let mut put =
                |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
            put(0, path.as_bytes());
            put(100, format!("{mode:07o}\0").as_bytes());
            put(108, format!("{:07o}\0", 0).as_bytes());
            put(116, format!("{:07o}\0", 0).as_bytes());
            put(124, format!("{:011o}\0", content.len()).as_bytes());
            put(136, format!("{:011o}\0", 1_000_000).as_bytes());
            put(148, b"        ");
            put(156, &[flag]);
            put(157, link.as_bytes());
            put(257, b"ustar\x0000");
            put(329, b"0000001\0");
            put(337, b"0000003\0");
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            self.0.extend(header);
            self.0.extend(content);
            self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
            self
        }

        pub(crate) fn pax(&mut self, records: &[(&str, &str)]) -> &mut Self {
            let mut body = String::new();
            for (key, value) in records {
                let rest = format!(" {key}={value}\n");
                let length = (1..9)
                    .find(|digits| (rest.len() + digits).to_string().len() == *digits)
                    .unwrap();
                body += &format!("{}{rest}", rest.len() + length);
            }
            self.entry(b'x', "pax", "", body.as_bytes())
        }

        pub(crate) fn finish(&mut self) -> Vec<u8> {
            let mut all = std::mem::take(&mut self.0);
            all.extend([0; 2 * BLOCK]);
            all
        }
    }

    fn paths(bytes: &[u8]) -> Result<Vec<(String, u64)>, TarError> {
        let mut reader = TarReader::new(bytes);
        let mut all = Vec::new();
        while let Some(entry) = reader.next()? {
            all.push((
                String::from_utf8_lossy(&entry.path).into_owned(),
                entry.size,
            ));
        }
        Ok(all)
    }

    #[test]
    fn long_names_and_pax_records_belong_to_the_entry_that_follows() {
        let long = "d/".repeat(80) + "name";
        let bytes = Builder::default()
            .entry(b'L', "././@LongLink", "", format!("{long}\0").as_bytes())
            .entry(b'0', "short", "", b"abc")
            .pax(&[
                ("path", "from/pax"),
                ("mtime", "17.5"),
                ("SCHILY.xattr.user.a", "b"),
            ])
            .entry(b'0', "short", "", b"")
            .entry(b'0', "plain", "", b"x")
            .finish();
        let mut reader = TarReader::new(bytes.as_slice());
        let first = reader.next().unwrap().unwrap();
        assert_eq!((first.path.as_slice(), first.size), (long.as_bytes(), 3));
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"abc");
        let second = reader.next().unwrap().unwrap();
        assert_eq!(
            (second.path.as_slice(), second.modified),
            (&b"from/pax"[..], 17)
        );
        assert_eq!(second.attributes["user.a"], b"b");
        let third = reader.next().unwrap().unwrap();
        assert_eq!(
            (third.path.as_slice(), third.modified),
            (&b"plain"[..], 1_000_000)
        );
        assert!(third.attributes.is_empty());
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn length_in_a_pax_record_counts() {
        let bytes = Builder::default().pax(&[("size", "3")]).0.clone();
        let mut header = Builder::default();
        header.entry(b'0', "a", "", b"");
        let mut all = bytes;
        all.extend(header.0);
        all.extend(b"abc");
        all.resize(all.len().next_multiple_of(BLOCK), 0);
        all.extend(Builder::default().entry(b'0', "b", "", b"").finish());
        assert_eq!(paths(&all).unwrap(), [("a".into(), 3), ("b".into(), 0)]);
    }

    #[test]
    fn truncated_or_damaged_file_is_told() {
        let whole = Builder::default().entry(b'0', "a", "", &[1; 700]).finish();
        for end in [1, 511, 513, 1000, 1212] {
            assert!(
                matches!(paths(&whole[..end]), Err(TarError::Truncated)),
                "{end}"
            );
        }
        let mut changed = whole.clone();
        changed[0] = b'b';
        assert!(matches!(paths(&changed), Err(TarError::Damaged(_))));
        assert!(matches!(paths(&whole), Ok(all) if all.len() == 1));
    }

    #[test]
    fn header_of_any_length_is_not_read_into_memory() {
        let mut long = Builder::default();
        long.entry(b'L', "l", "", &vec![b'a'; 1024 * 1024 + 1]);
        assert!(matches!(paths(&long.finish()), Err(TarError::Damaged(_))));
        let mut many = Builder::default();
        for _ in 0..20 {
            many.pax(&[("a", "b")]);
        }
        assert!(matches!(paths(&many.finish()), Err(TarError::Damaged(_))));
    }

    #[test]
    fn sparse_file_is_refused() {
        let old = Builder::default().entry(b'S', "a", "", b"").finish();
        assert!(matches!(paths(&old), Err(TarError::Unsupported(_))));
        let new = Builder::default()
            .pax(&[("GNU.sparse.major", "1")])
            .entry(b'0', "a", "", b"")
            .finish();
        assert!(matches!(paths(&new), Err(TarError::Unsupported(_))));
    }

    #[test]
    fn numbers_beyond_eight_gibibytes_are_read() {
        assert_eq!(
            number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]).unwrap(),
            2 << 32
        );
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"        ").unwrap(), 0);
        assert!(number(&[0xff; 12]).is_err());
        assert!(number(b"00x").is_err());
    }
}
