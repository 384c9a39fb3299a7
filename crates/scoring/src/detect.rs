//! What a data set is written in, told by how it begins.

/// A format that rows are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Text: CSV, and whatever is none of the others.
    Csv,
    /// CSV compressed by gzip.
    Gzip,
    /// CSV compressed by zstd.
    Zstd,
    /// Parquet, plain or encrypted.
    Parquet,
    /// Arrow's IPC format as a file (Feather version 2).
    ArrowFile,
    /// Arrow's IPC format as a stream.
    ArrowStream,
}

impl Format {
    /// How many bytes from the beginning [`Format::detect`] looks at.
    pub const DETECT_LEN: usize = 8;

    /// Recognises a format by the first bytes of a data set, after its decryption. Fewer than
    /// [`Format::DETECT_LEN`] are taken for the whole of it.
    ///
    /// It proves nothing: whoever holds the file chose these bytes.
    #[must_use]
    pub fn detect(head: &[u8]) -> Self {
        const MAGICS: [(&[u8], Format); 6] = [
            (b"PAR1", Format::Parquet),
            (b"PARE", Format::Parquet),
            (b"ARROW1\0\0", Format::ArrowFile),
            (b"\xff\xff\xff\xff", Format::ArrowStream),
            (b"\x1f\x8b", Format::Gzip),
            (b"\x28\xb5\x2f\xfd", Format::Zstd),
        ];
        MAGICS
            .iter()
            .find(|(magic, _)| head.starts_with(magic))
            .map_or(Self::Csv, |(_, format)| *format)
    }

    /// Whether it is read column by column at many places, rather than from front to back.
    #[must_use]
    pub fn needs_random_access(self) -> bool {
        matches!(self, Self::Parquet | Self::ArrowFile | Self::ArrowStream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_is_taken_for_text() {
        for (head, format) in [
            (&b"PAR1\x15\x04\x15\x10"[..], Format::Parquet),
            (b"PARE\0\0\0\0", Format::Parquet),
            (b"ARROW1\0\0", Format::ArrowFile),
            (b"\xff\xff\xff\xff\x78\0\0\0", Format::ArrowStream),
            (b"\x1f\x8b\x08\0\0\0\0\0", Format::Gzip),
            (b"\x28\xb5\x2f\xfd\x04\0\0\0", Format::Zstd),
        ] {
            assert_eq!(Format::detect(head), format);
        }
    }

    #[test]
    fn text_is_taken_for_a_magic() {
        for head in [
            &b""[..],
            b"P",
            b"PAR",
            b"PARTY,SI",
            b"ARROW1,x",
            b"\xef\xbb\xbfdist",
            b"\x1f",
            b"(1,2)\n",
            b"distance",
        ] {
            assert_eq!(Format::detect(head), Format::Csv, "{head:?}");
        }
    }
}
