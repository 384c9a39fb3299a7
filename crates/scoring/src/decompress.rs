//! CSV compressed by gzip (RFC 1952, several members too) or zstd (RFC 8878, several frames too), as
//! a stream that a bomb does not get through.

use std::fmt;
use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;

/// How much may come out of a compressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes for each byte of the file. It is not asked below [`Limits::ALWAYS`].
    pub ratio: u64,
    /// Bytes in all.
    pub bytes: u64,
}

impl Limits {
    /// What comes out of any file, however short: a table of one value shrinks a lot.
    pub const ALWAYS: u64 = 64 << 20;
}

impl Default for Limits {
    /// Tables shrink to a third or so; gzip cannot do better than 1032, zstd can.
    fn default() -> Self {
        Self {
            ratio: 500,
            bytes: u64::MAX,
        }
    }
}

/// Decompresses what it reads. Its end (`Ok(0)`) says that the file was whole.
pub struct Decompressor<R: Read> {
    codec: Codec<R>,
    limits: Limits,
    out: u64,
}

enum Codec<R: Read> {
    Gzip(MultiGzDecoder<Counted<R>>),
    Zstd(zstd::Decoder<'static, BufReader<Counted<R>>>),
}

impl<R: Read> Decompressor<R> {
    /// Of a file of gzip.
    pub fn gzip(inner: R, limits: Limits) -> Self {
        let codec = Codec::Gzip(MultiGzDecoder::new(Counted { inner, bytes: 0 }));
        Self {
            codec,
            limits,
            out: 0,
        }
    }

    /// Of a file of zstd.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn zstd(inner: R, limits: Limits) -> io::Result<Self> {
        let mut decoder = zstd::Decoder::new(Counted { inner, bytes: 0 })?;
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        Ok(Self {
            codec: Codec::Zstd(decoder),
            limits,
            out: 0,
        })
    }

    /// Bytes of the compressed file that were read.
    pub fn compressed_bytes(&self) -> u64 {
        match &self.codec {
            Codec::Gzip(decoder) => decoder.get_ref().bytes,
            Codec::Zstd(decoder) => decoder.get_ref().get_ref().bytes,
        }
    }

    fn check(&self) -> io::Result<()> {
        let Limits { ratio, bytes } = self.limits;
        let by_ratio = self.compressed_bytes().saturating_mul(ratio);
        let exceeded = if self.out > bytes {
            Exceeded::Bytes(bytes)
        } else if self.out > by_ratio.max(Limits::ALWAYS) {
            Exceeded::Ratio(ratio)
        } else {
            return Ok(());
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, exceeded))
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.codec {
            Codec::Gzip(decoder) => decoder.read(buffer).map_err(|error| told(error, "gzip"))?,
            Codec::Zstd(decoder) => decoder.read(buffer).map_err(|error| told(error, "zstd"))?,
        };
        self.out += count as u64;
        self.check()?;
        Ok(count)
    }
}

/// The limit that a file went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exceeded {
    Ratio(u64),
    Bytes(u64),
}

impl std::error::Error for Exceeded {}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ratio(ratio) => write!(
                f,
                "more than {ratio} bytes come out of each byte of this compressed file, as of one \
                 that is made to fill memory; if it is meant, raise the limit or decompress it first"
            ),
            Self::Bytes(bytes) => write!(
                f,
                "more than the {bytes} bytes that are allowed come out of this compressed file"
            ),
        }
    }
}

/// Says which codec fails. What the reader underneath says stays as it is.
fn told(error: io::Error, codec: &'static str) -> io::Error {
    // The codecs' own errors are plain text; those of a reader underneath hold an error of its type.
    let window = error.to_string().contains("too much memory");
    match error.kind() {
        _ if window => io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the {codec} file looks back further than {} MiB: compress it without --long and \
                 --ultra",
                (1_u64 << MAX_WINDOW_LOG) >> 20
            ),
        ),
        io::ErrorKind::UnexpectedEof => io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the {codec} file is cut off"),
        ),
        io::ErrorKind::InvalidInput | io::ErrorKind::Other | io::ErrorKind::InvalidData
            if error.get_ref().is_none_or(|inner| !inner.is::<Foreign>()) =>
        {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the {codec} file is damaged, or bytes were added to it"),
            )
        }
        _ => match error.downcast::<Foreign>() {
            Ok(Foreign(error)) | Err(error) => error,
        },
    }
}

/// Windows of levels up to 19 fit.
const MAX_WINDOW_LOG: u32 = 23;

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(count) => {
                self.bytes += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            // Marked, so that it is told from what the codec finds.
            Err(error) => Err(io::Error::other(Foreign(error))),
        }
    }
}

/// An error of the reader underneath.
#[derive(Debug)]
struct Foreign(io::Error);

impl std::error::Error for Foreign {}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const CSV: &[u8] = b"distance,ratio\n1.5,0.25\n";

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).unwrap()
    }

    fn read(mut reader: impl Read) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        match reader.read_to_end(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(error.to_string()),
        }
    }

    fn read_gzip(file: &[u8]) -> Result<Vec<u8>, String> {
        read(Decompressor::gzip(file, Limits::default()))
    }

    fn read_zstd(file: &[u8]) -> Result<Vec<u8>, String> {
        read(Decompressor::zstd(file, Limits::default()).unwrap())
    }

    #[test]
    fn second_member_or_frame_is_not_read() {
        let twice = CSV.repeat(2);
        assert_eq!(read_gzip(&gzip(CSV).repeat(2)).unwrap(), twice);
        assert_eq!(read_zstd(&zstd(CSV).repeat(2)).unwrap(), twice);
    }

    #[test]
    fn cut_anywhere_passes_for_whole() {
        let (gz, zst) = (gzip(CSV), zstd(CSV));
        for kept in 1..gz.len() {
            assert_eq!(
                read_gzip(&gz[..kept]).unwrap_err(),
                "the gzip file is cut off"
            );
        }
        for kept in 1..zst.len() {
            assert_eq!(
                read_zstd(&zst[..kept]).unwrap_err(),
                "the zstd file is cut off"
            );
        }
    }

    #[test]
    fn bytes_after_the_end_are_skipped() {
        let added = |file: Vec<u8>| [&file[..], b"more of it"].concat();
        assert!(
            read_gzip(&added(gzip(CSV)))
                .unwrap_err()
                .contains("bytes were added")
        );
        assert!(
            read_zstd(&added(zstd(CSV)))
                .unwrap_err()
                .contains("bytes were added")
        );
    }

    #[test]
    fn changed_content_passes_its_checksum() {
        let mut file = gzip(CSV);
        let at = file.len() - 6;
        file[at] ^= 1;
        assert!(read_gzip(&file).unwrap_err().contains("damaged"));
    }

    #[test]
    fn bomb_is_unpacked() {
        let zeros = vec![0; Limits::ALWAYS as usize + (8 << 20)];
        let error = read_zstd(&zstd(&zeros)).unwrap_err();
        assert!(
            error.contains("more than 500 bytes come out of each"),
            "{error}"
        );
        let error = read_gzip(&gzip(&zeros)).unwrap_err();
        assert!(
            error.contains("more than 500 bytes come out of each"),
            "{error}"
        );
        let limits = Limits {
            ratio: 100_000,
            ..Limits::default()
        };
        assert!(read(Decompressor::gzip(&gzip(&zeros)[..], limits)).is_ok());
    }

    #[test]
    fn more_bytes_than_allowed_come_out() {
        let limits = Limits {
            bytes: 10,
            ..Limits::default()
        };
        let error = read(Decompressor::gzip(&gzip(CSV)[..], limits)).unwrap_err();
        assert!(error.contains("more than the 10 bytes"), "{error}");
    }

    #[test]
    fn window_of_a_gigabyte_is_allocated() {
        // A frame of one raw block whose header asks for a window of 2^30 bytes.
        let frame = b"\x28\xb5\x2f\xfd\x00\xa0\x09\x00\x00x";
        let error = read_zstd(frame).unwrap_err();
        assert!(error.contains("further than 8 MiB"), "{error}");
    }

    #[test]
    fn error_of_the_source_is_taken_for_damage() {
        struct Tampered;
        impl Read for Tampered {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "segment 3 was changed",
                ))
            }
        }
        let (gz, zst) = (gzip(CSV), zstd(CSV));
        let limits = Limits::default();
        let error = read(Decompressor::gzip(gz[..12].chain(Tampered), limits)).unwrap_err();
        assert_eq!(error, "segment 3 was changed");
        let reader = Decompressor::zstd(zst[..6].chain(Tampered), limits).unwrap();
        assert_eq!(read(reader).unwrap_err(), "segment 3 was changed");
    }

    #[test]
    fn progress_counts_what_came_out() {
        let file = gzip(&CSV.repeat(100));
        let mut reader = Decompressor::gzip(&file[..], Limits::default());
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.compressed_bytes(), file.len() as u64);
    }
}
