//! Telling the formats apart by how a file begins.

use crate::{openssl_enc, sealed, tink_stream};

/// What the first bytes of a file say that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A [`tink_stream`]. Its only mark is its first byte, 40 (`(`), so this is a guess until its
    /// first segment opens.
    Tink,
    /// `Salted__`: a file of `openssl enc`, see [`openssl_enc`].
    OpensslSalted,
    /// A file for a recipient, see [`sealed`].
    Sealed,
    /// None of these: plaintext, perhaps.
    Unknown,
}

impl Format {
    /// How many bytes from a file's beginning [`Self::detect`] looks at.
    pub const DETECT_LEN: usize = 8;

    /// Recognises a format by the first bytes of a file. Fewer than [`Self::DETECT_LEN`] are taken
    /// for the whole file.
    ///
    /// It proves nothing: whoever holds the file chose these bytes.
    #[must_use]
    pub fn detect(head: &[u8]) -> Self {
        if head.starts_with(&openssl_enc::MAGIC) {
            Self::OpensslSalted
        } else if head.starts_with(&sealed::MAGIC) {
            Self::Sealed
        } else if head.len() >= Self::DETECT_LEN && head[0] == tink_stream::HEADER_LEN_BYTE {
            Self::Tink
        } else {
            Self::Unknown
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::FileKey;

    #[test]
    fn openssl_file_is_told_by_its_magic() {
        assert_eq!(Format::detect(b"Salted__abcdefgh"), Format::OpensslSalted);
    }

    #[test]
    fn tink_file_is_told_by_its_header_length() {
        let key = FileKey::generate().unwrap();
        let mut writer = tink_stream::Encryptor::new(Vec::new(), &key, b"").unwrap();
        writer.write_all(b"x").unwrap();
        assert_eq!(Format::detect(&writer.finish().unwrap()), Format::Tink);
    }

    #[test]
    fn csv_is_unknown() {
        assert_eq!(Format::detect(b"distance_from_home,"), Format::Unknown);
    }

    #[test]
    fn empty_and_short_files_are_unknown() {
        assert_eq!(Format::detect(b""), Format::Unknown);
        assert_eq!(Format::detect(b"Salted_"), Format::Unknown);
        assert_eq!(Format::detect(b"(1)\n"), Format::Unknown);
    }
}
