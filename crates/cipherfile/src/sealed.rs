//! A file for a recipient: a [`tink_stream`] under a fresh key that is wrapped for the recipient's
//! public key.
//!
//! | bytes | what |
//! |---|---|
//! | 7 | magic: `89 53 52 53 45 41 4C` (`\x89SRSEAL`) |
//! | 1 | version, 1 |
//! | 4 | length *n* of the header, big-endian, at most 16,384 |
//! | *n* | header: JSON `{"key":JWE}`, the file key's 32 bytes as a flattened [JWE](Jwe) |
//! | rest | [`tink_stream`] with the file key and segments of [`tink_stream::SEGMENT_SIZE`] bytes |
//!
//! The stream's associated data is every byte before it (magic to header, as they are in the file)
//! followed by the file's name. The prefix tells its own length, so no two pairs of prefix and name
//! give the same associated data. The name is not in the file; a reader must know it.
//!
//! It hides the content from all but the recipient and shows changes to whoever opens it. It does
//! **not** say who sealed it: anyone can seal a file for a public key.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};
use strongroom_wire::jwe::{self, DecryptionKey, Jwe};
use strongroom_wire::jwk::TeePublicKey;
use zeroize::Zeroizing;

use crate::stream::read_full;
use crate::tink_stream::{self, Segments};
use crate::{CipherfileError, FileKey};

/// The version that this crate reads and writes.
pub(crate) const VERSION: u8 = 1;

pub(crate) const MAGIC: [u8; 7] = *b"\x89SRSEAL";

const MAX_HEADER_LEN: usize = 16 * 1024;

/// Magic, version and the header's length.
const PREFIX_LEN: usize = MAGIC.len() + 1 + 4;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    key: Jwe,
}

/// Encrypts what is written to it for one recipient.
///
/// The caller must call [`finish`](Self::finish): without it the file has no end and no reader
/// accepts it.
pub struct Sealer<W: Write>(tink_stream::Encryptor<W>);

impl<W: Write> Sealer<W> {
    /// Draws a file key, wraps it for `recipient` and writes the header to `inner`. Readers must
    /// give the same `name`.
    ///
    /// # Errors
    /// When `recipient` is not a usable key, or the random generator or `inner` fails.
    pub fn new(
        mut inner: W,
        recipient: &TeePublicKey,
        name: &[u8],
    ) -> Result<Self, CipherfileError> {
        let key = FileKey::generate()?;
        let wrapped =
            jwe::encrypt(recipient, key.expose_bytes()).map_err(CipherfileError::KeyWrap)?;
        let header =
            serde_json::to_vec(&Header { key: wrapped }).map_err(CipherfileError::HeaderJson)?;
        let mut bound = prefix(header.len())?.to_vec();
        bound.extend_from_slice(&header);
        inner.write_all(&bound)?;
        bound.extend_from_slice(name);
        tink_stream::Encryptor::new(inner, &key, &bound).map(Self)
    }

    /// Seals the end, flushes, and returns the writer underneath.
    ///
    /// # Errors
    /// When an earlier write failed, or the writer underneath fails now.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    /// Flushes the writer underneath. An unfinished segment stays here.
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Decrypts a sealed file, with all the promises of [`tink_stream::Decryptor`].
pub struct Opener<R: Read>(tink_stream::Decryptor<R>);

impl<R: Read> Opener<R> {
    /// Reads the header and unwraps the file key. A wrong name shows only when the first segment is
    /// read.
    ///
    /// # Errors
    /// When `inner` fails, is not a sealed file, or is sealed for another key.
    pub fn new(
        mut inner: R,
        recipient: &DecryptionKey,
        name: &[u8],
    ) -> Result<Self, CipherfileError> {
        let (mut bound, key) = unwrap_key(&mut inner, recipient)?;
        bound.extend_from_slice(name);
        tink_stream::Decryptor::new(inner, &key, &bound).map(Self)
    }
}

/// The segments of a sealed file of `file_len` bytes, of which `beginning` reads the first; their
/// ranges are places in that file. A wrong name shows only when a segment is opened.
///
/// # Errors
/// As [`Opener::new`], and when no sealed file has this length.
pub fn segments(
    mut beginning: impl Read,
    file_len: u64,
    recipient: &DecryptionKey,
    name: &[u8],
) -> Result<Segments, CipherfileError> {
    let (mut bound, key) = unwrap_key(&mut beginning, recipient)?;
    let begin = bound.len() as u64;
    let mut header = [0; Segments::HEADER_LEN];
    let found = read_full(&mut beginning, &mut header)?;
    let stream_len = file_len.saturating_sub(begin);
    if found < header.len() || stream_len < header.len() as u64 {
        return Err(CipherfileError::HeaderCut {
            found: bound.len() + found,
            wanted: bound.len() + header.len(),
        });
    }
    bound.extend_from_slice(name);
    Ok(Segments::parse(&header, stream_len, &key, &bound)?.starting_at(begin))
}

/// Everything before the stream, and the stream's key.
fn unwrap_key(
    inner: &mut impl Read,
    recipient: &DecryptionKey,
) -> Result<(Vec<u8>, FileKey), CipherfileError> {
    let bound = read_prefix_and_header(inner)?;
    let header: Header =
        serde_json::from_slice(&bound[PREFIX_LEN..]).map_err(CipherfileError::HeaderJson)?;
    let key: Zeroizing<Vec<u8>> = recipient
        .decrypt(&header.key)
        .map_err(CipherfileError::KeyWrap)?;
    Ok((bound, FileKey::from_slice(&key)?))
}

impl<R: Read> BufRead for Opener<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

fn prefix(header_len: usize) -> Result<[u8; PREFIX_LEN], CipherfileError> {
    let too_long = CipherfileError::HeaderTooLong {
        found: header_len,
        max: MAX_HEADER_LEN,
    };
    let length = match u32::try_from(header_len) {
        Ok(length) if header_len <= MAX_HEADER_LEN => length,
        _ => return Err(too_long),
    };
    let mut prefix = [0; PREFIX_LEN];
    prefix[..MAGIC.len()].copy_from_slice(&MAGIC);
    prefix[MAGIC.len()] = VERSION;
    prefix[MAGIC.len() + 1..].copy_from_slice(&length.to_be_bytes());
    Ok(prefix)
}

/// Everything before the stream, exactly as it is in the file. The length is checked before it is
/// allocated.
fn read_prefix_and_header(inner: &mut impl Read) -> Result<Vec<u8>, CipherfileError> {
    let mut bytes = vec![0; PREFIX_LEN];
    let found = read_full(inner, &mut bytes)?;
    if !MAGIC.starts_with(&bytes[..found.min(MAGIC.len())]) {
        return Err(CipherfileError::NotSealed);
    }
    if found < PREFIX_LEN {
        return Err(CipherfileError::HeaderCut {
            found,
            wanted: PREFIX_LEN,
        });
    }
    let (version, length) = (bytes[MAGIC.len()], &bytes[MAGIC.len() + 1..]);
    if version != VERSION {
        return Err(CipherfileError::SealedVersion { found: version });
    }
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    if length > MAX_HEADER_LEN {
        return Err(CipherfileError::HeaderTooLong {
            found: length,
            max: MAX_HEADER_LEN,
        });
    }
    bytes.resize(PREFIX_LEN + length, 0);
    let found = read_full(inner, &mut bytes[PREFIX_LEN..])?;
    if found < length {
        return Err(CipherfileError::HeaderCut {
            found: PREFIX_LEN + found,
            wanted: PREFIX_LEN + length,
        });
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use strongroom_wire::jwe::KeyAlgorithm;

    use super::*;

    const NAME: &[u8] = b"results-2024.jsonl";

    fn recipient() -> DecryptionKey {
        DecryptionKey::generate(KeyAlgorithm::EcdhP256).unwrap()
    }

    fn sealed(recipient: &DecryptionKey, plaintext: &[u8]) -> Vec<u8> {
        let mut writer = Sealer::new(Vec::new(), recipient.public(), NAME).unwrap();
        writer.write_all(plaintext).unwrap();
        writer.finish().unwrap()
    }

    fn opened(
        file: &[u8],
        recipient: &DecryptionKey,
        name: &[u8],
    ) -> Result<Vec<u8>, CipherfileError> {
        let mut bytes = Vec::new();
        Opener::new(file, recipient, name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn header_len(file: &[u8]) -> usize {
        u32::from_be_bytes(file[8..PREFIX_LEN].try_into().unwrap()) as usize
    }

    #[test]
    fn every_kind_of_recipient_opens_what_was_sealed_for_it() {
        for algorithm in [
            KeyAlgorithm::EcdhP256,
            KeyAlgorithm::EcdhP521,
            KeyAlgorithm::RsaOaep256,
        ] {
            let recipient = DecryptionKey::generate(algorithm).unwrap();
            for text in [vec![], vec![7; 1], vec![7; (2 << 20) + 5]] {
                let file = sealed(&recipient, &text);
                assert!(opened(&file, &recipient, NAME).unwrap() == text);
            }
        }
    }

    #[test]
    fn layout_is_as_documented() {
        let recipient = recipient();
        let file = sealed(&recipient, b"text");
        assert_eq!(file[..8], *b"\x89SRSEAL\x01");
        let stream = PREFIX_LEN + header_len(&file);
        let header: serde_json::Value = serde_json::from_slice(&file[PREFIX_LEN..stream]).unwrap();
        let jwe: Jwe = serde_json::from_value(header["key"].clone()).unwrap();
        let key = FileKey::from_slice(&recipient.decrypt(&jwe).unwrap()).unwrap();

        let bound = [&file[..stream], NAME].concat();
        let mut text = String::new();
        tink_stream::Decryptor::new(&file[stream..], &key, &bound)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "text");
    }

    /// Every segment of a sealed file, opened by its place.
    fn opened_by_place(file: &[u8], recipient: &DecryptionKey) -> Result<Vec<u8>, CipherfileError> {
        let segments = segments(file, file.len() as u64, recipient, NAME)?;
        let mut text = Vec::new();
        for number in 0..segments.count() {
            let place = segments.ciphertext_range(number);
            let mut buffer = file[place.start as usize..place.end as usize].to_vec();
            text.extend_from_slice(segments.open_in_place(number, &mut buffer)?);
        }
        assert_eq!(text.len() as u64, segments.plaintext_len());
        Ok(text)
    }

    #[test]
    fn segments_lie_elsewhere_than_a_reader_finds_them() {
        let recipient = recipient();
        for length in [0, 1, (2 << 20) + 5] {
            let text = vec![7; length];
            let file = sealed(&recipient, &text);
            assert!(opened_by_place(&file, &recipient).unwrap() == text);
            assert!(opened_by_place(&file[..file.len() - 1], &recipient).is_err());
            assert!(opened_by_place(&[&file[..], b"x"].concat(), &recipient).is_err());
        }
    }

    #[test]
    fn segments_of_a_changed_or_cut_header_open() {
        let recipient = recipient();
        let file = sealed(&recipient, b"text");
        for position in 0..file.len() {
            let mut changed = file.clone();
            changed[position] ^= 1;
            assert!(opened_by_place(&changed, &recipient).is_err(), "{position}");
            assert!(opened_by_place(&file[..position], &recipient).is_err());
        }
    }

    #[test]
    fn another_recipient_cannot_open() {
        let file = sealed(&recipient(), b"text");
        let error = opened(&file, &recipient(), NAME).unwrap_err();
        assert!(matches!(error, CipherfileError::KeyWrap(_)), "{error}");
    }

    #[test]
    fn renamed_file_fails() {
        let recipient = recipient();
        let file = sealed(&recipient, b"text");
        let error = opened(&file, &recipient, b"results-2023.jsonl").unwrap_err();
        assert!(matches!(error, CipherfileError::FirstSegment));
    }

    #[test]
    fn two_files_of_one_recipient_cannot_swap_their_headers() {
        let recipient = recipient();
        let (a, b) = (sealed(&recipient, b"one"), sealed(&recipient, b"two"));
        let (end_a, end_b) = (PREFIX_LEN + header_len(&a), PREFIX_LEN + header_len(&b));
        let mixed = [&a[..end_a], &b[end_b..]].concat();
        let error = opened(&mixed, &recipient, NAME).unwrap_err();
        assert!(matches!(error, CipherfileError::FirstSegment));
    }

    #[test]
    fn header_written_another_way_fails_though_its_key_is_right() {
        let recipient = recipient();
        let file = sealed(&recipient, b"text");
        let end = PREFIX_LEN + header_len(&file);
        let mut longer = prefix(header_len(&file) + 1).unwrap().to_vec();
        longer.extend_from_slice(&file[PREFIX_LEN..end]);
        longer.push(b' ');
        longer.extend_from_slice(&file[end..]);
        let error = opened(&longer, &recipient, NAME).unwrap_err();
        assert!(matches!(error, CipherfileError::FirstSegment));
    }

    #[test]
    fn flipped_bit_anywhere_is_an_error() {
        let recipient = recipient();
        let file = sealed(&recipient, b"text");
        for position in 0..file.len() {
            let mut changed = file.clone();
            changed[position] ^= 1;
            assert!(opened(&changed, &recipient, NAME).is_err(), "{position}");
        }
    }

    #[test]
    fn cut_anywhere_is_an_error() {
        let recipient = recipient();
        let file = sealed(&recipient, b"text");
        for length in 0..file.len() {
            assert!(
                opened(&file[..length], &recipient, NAME).is_err(),
                "{length}"
            );
        }
    }

    #[test]
    fn cut_header_says_how_much_is_missing() {
        let recipient = recipient();
        let file = sealed(&recipient, b"text");
        let wanted = PREFIX_LEN + header_len(&file);
        let error = opened(&file[..100], &recipient, NAME).unwrap_err();
        assert!(
            matches!(error, CipherfileError::HeaderCut { found: 100, wanted: all } if all == wanted)
        );
    }

    #[test]
    fn claimed_header_of_4_gib_is_not_allocated() {
        let mut file = b"\x89SRSEAL\x01".to_vec();
        file.extend([0xff; 4]);
        let error = opened(&file, &recipient(), NAME).unwrap_err();
        assert!(matches!(
            error,
            CipherfileError::HeaderTooLong {
                found: 0xffff_ffff,
                ..
            }
        ));
    }

    #[test]
    fn later_version_is_named() {
        let error = opened(b"\x89SRSEAL\x02\0\0\0\0", &recipient(), NAME).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sealed file of version 2; this program reads version 1"
        );
    }

    #[test]
    fn other_file_is_not_sealed() {
        for file in [&b"Salted__abcdefgh"[..], b"distance_from_home", b"("] {
            let error = opened(file, &recipient(), NAME).unwrap_err();
            assert!(matches!(error, CipherfileError::NotSealed));
        }
    }

    #[test]
    fn unknown_header_member_is_refused() {
        let recipient = recipient();
        let file = sealed(&recipient, b"text");
        let end = PREFIX_LEN + header_len(&file);
        let header = [&b"{\"alg\":\"none\","[..], &file[PREFIX_LEN + 1..end]].concat();
        let mut changed = prefix(header.len()).unwrap().to_vec();
        changed.extend_from_slice(&header);
        changed.extend_from_slice(&file[end..]);
        let error = opened(&changed, &recipient, NAME).unwrap_err();
        assert!(matches!(error, CipherfileError::HeaderJson(_)));
    }

    #[test]
    fn wrapped_key_of_the_wrong_length_is_refused() {
        let recipient = recipient();
        let key = jwe::encrypt(recipient.public(), &[7; 16]).unwrap();
        let header = serde_json::to_vec(&Header { key }).unwrap();
        let mut file = prefix(header.len()).unwrap().to_vec();
        file.extend_from_slice(&header);
        let error = opened(&file, &recipient, NAME).unwrap_err();
        assert!(matches!(error, CipherfileError::KeyLength { found: 16 }));
    }
}
