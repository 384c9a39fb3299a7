//! The one error of this crate.

use std::io;

/// Why a file could not be encrypted or decrypted.
///
/// Readers and writers return it inside an [`io::Error`] of kind
/// [`InvalidData`](io::ErrorKind::InvalidData) (or [`UnexpectedEof`](io::ErrorKind::UnexpectedEof)
/// for a file that ends too early); `CipherfileError::from(io_error)` takes it out again. It never
/// holds key or plaintext bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CipherfileError {
    /// The reader or writer underneath failed.
    #[error(transparent)]
    Io(io::Error),

    /// The stream failed before; what it said then is the cause, and it stays closed.
    #[error("this stream failed before and stays closed")]
    AlreadyFailed,

    /// A key of the wrong length.
    #[error("a file key is 32 raw bytes; this one has {found}")]
    KeyLength {
        /// Bytes given.
        found: usize,
    },

    /// The system's random generator failed.
    #[error("the system's random generator failed")]
    Random,

    /// The cryptographic library refused an operation that should always succeed.
    #[error("the cryptographic library failed to {operation}")]
    Library {
        /// What was tried.
        operation: &'static str,
    },

    /// The file is shorter than its format's header.
    #[error("the file ends inside its header: it has {found} of the header's {wanted} bytes")]
    HeaderCut {
        /// Header bytes found.
        found: usize,
        /// Header bytes that the format has.
        wanted: usize,
    },

    /// The first byte is not a Tink header's.
    #[error(
        "not a Tink stream with a 256-bit key: its first byte is {found:#04x} where 0x28 belongs; \
         it is another format, or the header was changed"
    )]
    NotTink {
        /// The first byte.
        found: u8,
    },

    /// A segment size that no file can have.
    #[error("a segment of {found} bytes is outside {min}..={max}")]
    SegmentSize {
        /// Bytes asked for.
        found: usize,
        /// The least: header, one byte and tag.
        min: usize,
        /// The most that this crate will hold in memory.
        max: usize,
    },

    /// The first segment did not authenticate, so nothing is known of the file yet.
    #[error(
        "segment 0 failed authentication: the key or the name is wrong (a renamed file opens with --name and its old name), \
         or the file was changed or cut"
    )]
    FirstSegment,

    /// A later segment did not authenticate. The segments before it did: key and name are right.
    #[error(
        "segment {number} failed authentication: the file was changed there, by an altered, moved, \
         missing or added part (the key and the name are right)"
    )]
    Segment {
        /// The segment, counted from 0.
        number: u32,
    },

    /// The file was cut between two segments.
    #[error("the file was cut off: it ends after segment {number}, which is not its last")]
    Truncated {
        /// The last segment that is there, counted from 0.
        number: u32,
    },

    /// What remains of the file is too short to be a segment.
    #[error(
        "the file ends {found} bytes into segment {number}, fewer than its 16-byte tag: \
         it was cut off, or bytes were added"
    )]
    SegmentCut {
        /// The segment, counted from 0.
        number: u32,
        /// Bytes of it that are there.
        found: usize,
    },

    /// More segments than the format can count.
    #[error("too long: a Tink stream holds at most 4294967295 segments")]
    TooManySegments,

    /// The file does not begin with `Salted__`.
    #[error("not a salted file of `openssl enc`: it does not begin with \"Salted__\"")]
    NotOpenssl,

    /// A CBC body that no encryption makes.
    #[error(
        "wrong final block length: the encrypted part has {found} bytes, AES-CBC makes a multiple \
         of 16 and at least 16; the file was cut off, or it is a CFB file"
    )]
    CbcLength {
        /// Bytes after the salt.
        found: u64,
    },

    /// A CBC padding that does not fit. `openssl` says "bad decrypt".
    #[error("bad padding at the end: the key file or the cipher is wrong, or the file was changed")]
    CbcPadding,

    /// The key file is empty or begins with a NUL. `openssl` says "Can't read key from".
    #[error("the key file is empty or begins with a NUL byte: openssl cannot read a key from it")]
    KeyFileUnreadable,

    /// The key file's first line has fewer than two bytes. `openssl` says "zero length password".
    #[error(
        "zero length password: openssl uses a key file's first line without its line end, \
         and refuses one of fewer than two bytes"
    )]
    KeyFileZeroLength,

    /// The file does not begin with the magic of a sealed file.
    #[error("not a sealed file: it does not begin with the right magic")]
    NotSealed,

    /// A sealed file of a version that this program does not know.
    #[error(
        "sealed file of version {found}; this program reads version {}",
        crate::sealed::VERSION
    )]
    SealedVersion {
        /// The version byte.
        found: u8,
    },

    /// A sealed header longer than allowed.
    #[error("a sealed header of {found} bytes is longer than the {max} allowed")]
    HeaderTooLong {
        /// The length that the file claims, or that was to be written.
        found: usize,
        /// The most.
        max: usize,
    },

    /// A sealed header that is not the JSON it should be.
    #[error("the sealed header is malformed: {0}")]
    HeaderJson(serde_json::Error),

    /// The file key in a sealed header could not be wrapped or unwrapped.
    #[error(
        "the file key could not be wrapped or unwrapped (is the file sealed for this key?): {0}"
    )]
    KeyWrap(strongroom_wire::jwe::JweError),
}

impl From<io::Error> for CipherfileError {
    fn from(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Io)
    }
}

impl From<CipherfileError> for io::Error {
    fn from(error: CipherfileError) -> Self {
        match error {
            CipherfileError::Io(error) => error,
            CipherfileError::HeaderCut { .. }
            | CipherfileError::Truncated { .. }
            | CipherfileError::SegmentCut { .. }
            | CipherfileError::CbcLength { .. } => Self::new(io::ErrorKind::UnexpectedEof, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
