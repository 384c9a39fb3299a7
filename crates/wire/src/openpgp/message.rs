//! A signed message (RFC 9580, section 10.3): one literal and one signature, perhaps compressed as a whole.

use std::io::Read as _;

use super::packet::{Cursor, Tag, armored};
use super::{OpenPgpError, Signature, packets};

/// The content and its signature.
pub(super) fn parse(bytes: &[u8]) -> Result<(Vec<u8>, Signature), OpenPgpError> {
    let decoded;
    let bytes = match armored(bytes, MAX_MESSAGE)? {
        Some(inner) => {
            decoded = inner;
            decoded.as_slice()
        }
        None => bytes,
    };
    if bytes.len() > MAX_MESSAGE {
        return Err(OpenPgpError::TooLong);
    }
    let outer: Vec<(Tag, Vec<u8>)> = packets(bytes).collect::<Result<_, _>>()?;
    match outer.as_slice() {
        [(Tag::COMPRESSED, body)] => {
            let inner = decompress(body)?;
            let inner: Vec<(Tag, Vec<u8>)> = packets(&inner).collect::<Result<_, _>>()?;
            signed(&inner)
        }
        outer => signed(outer),
    }
}

/// Exactly one signature, as containers/image demands: which of several counts would be a matter of taste.
fn signed(packets: &[(Tag, Vec<u8>)]) -> Result<(Vec<u8>, Signature), OpenPgpError> {
    let relevant: Vec<(Tag, &[u8])> = packets
        .iter()
        .filter(|(tag, _)| *tag != Tag::MARKER)
        .map(|(tag, body)| (*tag, body.as_slice()))
        .collect();
    let (literal, signature) = match relevant.as_slice() {
        [
            (Tag::ONE_PASS, _),
            (Tag::LITERAL, literal),
            (Tag::SIGNATURE, signature),
        ]
        | [(Tag::SIGNATURE, signature), (Tag::LITERAL, literal)] => (*literal, *signature),
        _ => {
            return Err(OpenPgpError::Malformed(
                "it is not one signed text with one signature",
            ));
        }
    };
    Ok((content(literal)?.to_vec(), Signature::parse(signature)?))
}

fn content(literal: &[u8]) -> Result<&[u8], OpenPgpError> {
    let mut cursor = Cursor(literal);
    if !matches!(cursor.byte()?, b'b' | b't' | b'u') {
        return Err(OpenPgpError::Malformed(
            "the signed text is of an unknown format",
        ));
    }
    let name = cursor.byte()?;
    cursor.take(usize::from(name))?;
    cursor.u32()?;
    Ok(cursor.0)
}

fn decompress(body: &[u8]) -> Result<Vec<u8>, OpenPgpError> {
    let mut cursor = Cursor(body);
    let algorithm = cursor.byte()?;
    let mut inner = Vec::new();
    let limit = u64::try_from(MAX_MESSAGE)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let read = match algorithm {
        0 => {
            inner.extend_from_slice(cursor.0);
            Ok(0)
        }
        1 => flate2::read::DeflateDecoder::new(cursor.0)
            .take(limit)
            .read_to_end(&mut inner),
        2 => flate2::read::ZlibDecoder::new(cursor.0)
            .take(limit)
            .read_to_end(&mut inner),
        _ => {
            return Err(OpenPgpError::Unsupported(
                "a message compressed by bzip2 or an unknown algorithm",
            ));
        }
    };
    read.map_err(|_| OpenPgpError::Malformed("it does not decompress"))?;
    match inner.len() > MAX_MESSAGE {
        true => Err(OpenPgpError::TooLong),
        false => Ok(inner),
    }
}

const MAX_MESSAGE: usize = 256 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn message_that_grows_beyond_its_bound_is_not_read_to_the_end() {
        use std::io::Write as _;
        let mut encoder = flate2::write::DeflateEncoder::new(vec![1], flate2::Compression::best());
        encoder.write_all(&vec![0; 8 * MAX_MESSAGE]).unwrap();
        assert_eq!(
            decompress(&encoder.finish().unwrap()),
            Err(OpenPgpError::TooLong)
        );
    }

    #[test]
    fn compression_within_compression_is_refused() {
        let inner = [0xc8, 0x01, 0x00];
        let mut outer = vec![0xc8, 0x04, 0x00];
        outer.extend(inner);
        assert!(parse(&outer).is_err());
    }
}
