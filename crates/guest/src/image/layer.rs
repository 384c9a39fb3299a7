//! One layer, from the bytes of a registry to the files of an image: MAC, cipher, compression, digests, tar.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use strongroom_wire::image::digest::{Digest, Hasher};
use strongroom_wire::image::key_provider;
use strongroom_wire::image::layer_cipher::{Decryptor, MacCheck};
use strongroom_wire::image::manifest::{Compression, Descriptor, LayerForm};
use strongroom_wire::image::ocicrypt::{Packet, PrivateOptions, PublicOptions};
use zeroize::Zeroizing;

use super::blobs::{Blob, BlobReader};
use super::error::{ImageError, LayerError};
use super::options::fetch;
use super::unpack::Unpacker;
use crate::data::resource::Source;

/// How a layer is opened.
pub(crate) struct Opening {
    form: LayerForm,
    secret: Option<(PublicOptions, PrivateOptions)>,
}

impl Opening {
    /// Finds out how a layer is opened; asks the broker for its key where it has one.
    pub(crate) async fn of(
        descriptor: &Descriptor,
        source: Option<&Source>,
    ) -> Result<Self, LayerError> {
        let form = LayerForm::of(&descriptor.media_type).ok_or_else(|| {
            let shown: String = descriptor
                .media_type
                .chars()
                .filter(|c| !c.is_control())
                .take(100)
                .collect();
            LayerError::Form(format!("its media type {shown:?} is not one of a layer"))
        })?;
        if !form.encrypted {
            return Ok(Self { form, secret: None });
        }
        let annotation = descriptor
            .annotations
            .get(strongroom_wire::image::ocicrypt::PUBLIC_OPTIONS)
            .ok_or_else(|| {
                LayerError::Form(
                    "it is encrypted, and carries no pubopts annotation with its MAC".to_owned(),
                )
            })?;
        let public = PublicOptions::parse(annotation).map_err(LayerError::Annotations)?;
        let packets = Packet::of_layer(&descriptor.annotations).map_err(LayerError::Annotations)?;
        let mut failure =
            LayerError::Form("it is encrypted to no key of a broker (provider kbs)".to_owned());
        for packet in packets.iter().filter(|packet| packet.is_for_kbs()) {
            match unwrap(packet, source).await {
                Ok(private) => {
                    return Ok(Self {
                        form,
                        secret: Some((public, private)),
                    });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Whether the layer is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.form.encrypted
    }

    /// Unpacks a verified blob.
    pub(crate) fn unpack(
        self,
        blob: &Blob,
        diff_id: &Digest,
        into: &mut Unpacker,
    ) -> Result<(), LayerError> {
        let plain = match self.secret {
            None => Plain::Open(blob.reader()),
            Some((public, private)) => {
                let mut check = MacCheck::new(private);
                let mut reader = blob.reader();
                let mut buffer = vec![0; BUFFER];
                loop {
                    let read = reader.read(&mut buffer)?;
                    let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                        break;
                    };
                    check.update(bytes);
                }
                let decryptor = check.finish(&public)?;
                let hasher = Hasher::new(decryptor.digest().algorithm());
                Plain::Decrypted(Box::new(Decrypting {
                    reader: blob.reader(),
                    decryptor,
                    hasher: Some(hasher),
                    ciphertext: vec![0; BUFFER],
                    plaintext: Zeroizing::new(Vec::new()),
                    at: 0,
                }))
            }
        };
        let reader = BufReader::with_capacity(BUFFER, plain);
        let tar = match self.form.compression {
            Compression::None => Tar::Plain(reader),
            Compression::Gzip => Tar::Gzip(Box::new(MultiGzDecoder::new(reader))),
            Compression::Zstd => Tar::Zstd(Box::new(Zstd::new(reader))),
            _ => return Err(LayerError::Form("its compression is not known".to_owned())),
        };
        let hashed = into.apply(Hashing {
            inner: tar,
            hasher: Hasher::new(diff_id.algorithm()),
            left: into.most_bytes(),
        })?;
        let actual = hashed.hasher.finish();
        match actual == *diff_id {
            true => Ok(()),
            false => Err(LayerError::DiffId {
                expected: diff_id.to_string(),
                actual: actual.to_string(),
            }),
        }
    }
}

/// Answers a key provider's request (`UnWrapKey`): the private options of a layer, unwrapped by a key of the broker.
///
/// # Errors
/// [`LayerError`]: the request is none, or the broker does not give the key, or it is not the right one.
pub async fn unwrap_key(
    request: &[u8],
    source: Option<&Source>,
) -> Result<Zeroizing<Vec<u8>>, LayerError> {
    let packet = key_provider::parse_unwrap(request).map_err(LayerError::Annotations)?;
    if !packet.is_for_kbs() {
        return Err(LayerError::Form(
            "the packet is for another provider than kbs".to_owned(),
        ));
    }
    let key = key(&packet, source).await?;
    let options = packet
        .open_with(&key)
        .map_err(|source| LayerError::Unwrap {
            kid: shown(&packet),
            source,
        })?;
    Ok(key_provider::unwrapped(&options))
}

async fn unwrap(packet: &Packet, source: Option<&Source>) -> Result<PrivateOptions, LayerError> {
    let key = key(packet, source).await?;
    packet
        .unwrap_with(&key)
        .map_err(|source| LayerError::Unwrap {
            kid: shown(packet),
            source,
        })
}

/// The key that a packet names.
async fn key(packet: &Packet, source: Option<&Source>) -> Result<Zeroizing<Vec<u8>>, LayerError> {
    let failed = |source: ImageError| LayerError::Key {
        kid: shown(packet),
        source: Box::new(source),
    };
    let uri = packet.kid.parse().map_err(|error| {
        failed(ImageError::Unusable(format!(
            "it is no resource of a broker: {error}"
        )))
    })?;
    fetch("a layer's key", &uri, source).await.map_err(failed)
}

fn shown(packet: &Packet) -> String {
    packet
        .kid
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

/// The compressed layer.
enum Plain {
    Open(BlobReader),
    Decrypted(Box<Decrypting>),
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Open(reader) => reader.read(buffer),
            Self::Decrypted(reader) => reader.read(buffer),
        }
    }
}

struct Decrypting {
    reader: BlobReader,
    decryptor: Decryptor,
    hasher: Option<Hasher>,
    ciphertext: Vec<u8>,
    plaintext: Zeroizing<Vec<u8>>,
    at: usize,
}

impl Read for Decrypting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.plaintext.len() {
            let read = self.reader.read(&mut self.ciphertext)?;
            let ciphertext = self.ciphertext.get(..read).unwrap_or_default();
            if ciphertext.is_empty() {
                // At the end, and once: what the packet says of the plaintext.
                if let Some(hasher) = self.hasher.take()
                    && hasher.finish() != *self.decryptor.digest()
                {
                    return Err(io::Error::other(
                        "decrypted it does not have the digest that its packet says: the packet belongs to another layer",
                    ));
                }
                return Ok(0);
            }
            self.decryptor
                .update(ciphertext, &mut self.plaintext)
                .map_err(io::Error::other)?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.plaintext);
            }
            self.at = 0;
        }
        let rest = self.plaintext.get(self.at..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        self.at += length;
        Ok(length)
    }
}

/// The layer's tar file.
enum Tar {
    Plain(BufReader<Plain>),
    Gzip(Box<MultiGzDecoder<BufReader<Plain>>>),
    Zstd(Box<Zstd<BufReader<Plain>>>),
}

impl Read for Tar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        };
        read.map_err(|error| match error.kind() {
            // Our own words, from below.
            io::ErrorKind::Other => error,
            _ => io::Error::other(format!("it does not decompress: {error}")),
        })
    }
}

/// Frames of zstd, one behind the other, with skippable ones between (RFC 8878, section 3).
pub(crate) struct Zstd<R> {
    reader: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: io::BufRead> Zstd<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            decoder: FrameDecoder::new(),
            in_frame: false,
        }
    }

    /// Enters the next frame; false at the end.
    fn enter(&mut self) -> io::Result<bool> {
        while !self.reader.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.reader) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.reader).take(length), &mut io::sink())? != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        error.to_string(),
                    ));
                }
            }
        }
        Ok(false)
    }
}

impl<R: io::BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() && (self.in_frame || self.enter()?) {
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.reader, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| {
                        io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                    })?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.in_frame = false;
        }
        Ok(0)
    }
}

/// Digests what is read.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    /// How many more bytes there may be, behind the last entry too.
    left: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other("it unpacks to more than an image may be"))?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

const BUFFER: usize = 128 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::super::unpack::{Devices, Limits};
    use super::*;

    fn unzstd(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Zstd::new(bytes).read_to_end(&mut plain).map(|_| plain)
    }

    #[test]
    fn frames_of_zstd_follow_one_another_with_skippable_ones_between() {
        let frame = |text: &[u8]| compress_to_vec(text, CompressionLevel::Fastest);
        let skippable = [
            &0x184d_2a53_u32.to_le_bytes()[..],
            &3_u32.to_le_bytes(),
            b"xyz",
        ]
        .concat();
        let all = [
            frame(b"one "),
            skippable.clone(),
            frame(b"two"),
            skippable.clone(),
        ]
        .concat();
        assert_eq!(unzstd(&all).unwrap(), b"one two");
        assert_eq!(unzstd(b"").unwrap(), b"");
        for bad in [
            &all[..all.len() - 1],
            &all[..7],
            b"\x28\xb5\x2f",
            b"nonsense",
        ] {
            assert!(unzstd(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bomb_behind_the_last_entry_is_not_read_to_its_end() {
        let place = tempfile::tempdir().unwrap();
        let limits = Limits {
            bytes: 10,
            entries: 1,
        };
        let mut unpacker = Unpacker::new(place.path(), limits, Devices::Refuse).unwrap();
        let endless = Hashing {
            inner: io::repeat(0),
            hasher: Hasher::new(strongroom_wire::image::digest::Algorithm::Sha256),
            left: unpacker.most_bytes(),
        };
        let error = unpacker.apply(endless).err().unwrap().to_string();
        assert!(error.contains("than an image may be"), "{error}");
    }
}
