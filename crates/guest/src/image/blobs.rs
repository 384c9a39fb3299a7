//! Blobs on disk, by digest only, and never believed.
//!
//! The disk may be the host's. A blob is digested when it comes from the registry or is found in the cache, and in the
//! same pass each piece of it separately, in memory: whoever reads it later gets only pieces that still have the digest
//! they had then, however often the disk changes its mind.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use strongroom_wire::image::digest::{Algorithm, Digest, Hasher};
use strongroom_wire::image::manifest::Descriptor;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::error::ImageError;

/// A folder of blobs.
pub(crate) struct Blobs {
    folder: PathBuf,
    /// Whether they have names, by which they are found again. Without one, a blob's room is free when it is unpacked.
    named: bool,
}

/// A blob whose bytes had the right digest.
#[derive(Clone)]
pub(crate) struct Blob {
    file: Arc<File>,
    length: u64,
    /// The digest of each piece, the last one shorter.
    pieces: Arc<[Digest]>,
}

impl Blobs {
    /// Opens the folder, and makes it where it is not there.
    pub(crate) fn open(folder: &Path) -> Result<Self, ImageError> {
        let folder = folder.join("blobs");
        std::fs::create_dir_all(&folder)
            .map_err(ImageError::io("cannot make the folder", &folder))?;
        Ok(Self {
            folder,
            named: true,
        })
    }

    /// Blobs of one pull, which nobody finds again.
    pub(crate) fn temporary(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            named: false,
        }
    }

    /// A blob that is here already; `None` when it is not, or is not what it was.
    pub(crate) fn find(&self, descriptor: &Descriptor) -> Option<Blob> {
        if !self.named {
            return None;
        }
        let path = self.path(&descriptor.digest);
        // A pipe would be waited for, and a link leads where nobody verified anything.
        let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&path, flags, Mode::empty()).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        match Blob::examine(file, &descriptor.digest, descriptor.size) {
            Ok(Some(blob)) => Some(blob),
            Ok(None) | Err(_) => {
                tracing::warn!(digest = %descriptor.digest, "a cached layer is not what its digest says; it is fetched again");
                drop(std::fs::remove_file(&path));
                None
            }
        }
    }

    /// Begins to write a blob: what is sent is written, and digested on the way.
    pub(crate) fn write(&self, descriptor: &Descriptor, what: &str) -> Result<Writer, ImageError> {
        let temporary = NamedTempFile::new_in(&self.folder)
            .map_err(ImageError::io("cannot write in", &self.folder))?;
        let (sender, mut receiver) = mpsc::channel::<Bytes>(QUEUE);
        let (folder, path) = (self.folder.clone(), self.path(&descriptor.digest));
        let named = self.named;
        let (expected, size, what) = (descriptor.digest, descriptor.size, what.to_owned());
        let task = tokio::task::spawn_blocking(move || {
            let mut digesting = Digesting::new(expected.algorithm());
            let mut file = temporary.as_file();
            while let Some(bytes) = receiver.blocking_recv() {
                if digesting.length.saturating_add(bytes.len() as u64) > size {
                    return Err(ImageError::Length {
                        what,
                        expected: size,
                        actual: digesting.length.saturating_add(bytes.len() as u64),
                    });
                }
                file.write_all(&bytes)
                    .map_err(ImageError::io("cannot write in", &folder))?;
                digesting.update(&bytes);
            }
            let (length, actual, pieces) = digesting.finish();
            if length != size {
                return Err(ImageError::Length {
                    what,
                    expected: size,
                    actual: length,
                });
            }
            if actual != expected {
                return Err(ImageError::digest(what, &expected, &actual));
            }
            let file = match named {
                true => temporary
                    .persist(&path)
                    .map_err(|error| ImageError::io("cannot write", path)(error.error))?,
                false => temporary.into_file(),
            };
            Ok(Blob {
                file: Arc::new(file),
                length,
                pieces: pieces.into(),
            })
        });
        Ok(Writer { sender, task })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        // A parsed digest is hex behind a known name: no path of anybody else's.
        self.folder.join(digest.to_string().replace(':', "-"))
    }
}

/// A blob that is being written.
pub(crate) struct Writer {
    sender: mpsc::Sender<Bytes>,
    task: tokio::task::JoinHandle<Result<Blob, ImageError>>,
}

impl Writer {
    /// Takes the next bytes; false when the writer has given up and [`Self::finish`] says why.
    pub(crate) async fn send(&self, bytes: Bytes) -> bool {
        self.sender.send(bytes).await.is_ok()
    }

    /// The blob, when it is what it should be.
    pub(crate) async fn finish(self) -> Result<Blob, ImageError> {
        drop(self.sender);
        self.task
            .await
            .map_err(|_| ImageError::Unusable("the thread that writes layers ended".to_owned()))?
    }
}

impl Blob {
    /// Digests a file; `None` when it is not what it should be.
    pub(crate) fn examine(
        mut file: File,
        expected: &Digest,
        size: u64,
    ) -> io::Result<Option<Self>> {
        let mut digesting = Digesting::new(expected.algorithm());
        let mut buffer = vec![0; PIECE];
        let mut limited = (&mut file).take(size.saturating_add(1));
        loop {
            let read = limited.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            digesting.update(bytes);
        }
        let (length, actual, pieces) = digesting.finish();
        Ok((length == size && actual == *expected).then(|| Self {
            file: Arc::new(file),
            length,
            pieces: pieces.into(),
        }))
    }

    /// Reads it from the start.
    pub(crate) fn reader(&self) -> BlobReader {
        BlobReader {
            blob: self.clone(),
            next: 0,
            piece: Vec::new(),
            at: 0,
        }
    }
}

/// Reads a blob, piece by verified piece.
pub(crate) struct BlobReader {
    blob: Blob,
    next: usize,
    piece: Vec<u8>,
    at: usize,
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.piece.len() {
            let Some(expected) = self.blob.pieces.get(self.next) else {
                return Ok(0);
            };
            let start = (self.next as u64).saturating_mul(PIECE as u64);
            let length = self.blob.length.saturating_sub(start).min(PIECE as u64);
            self.piece
                .resize(usize::try_from(length).unwrap_or(PIECE), 0);
            self.at = 0;
            self.blob.file.read_exact_at(&mut self.piece, start)?;
            if !expected.is_of(&self.piece) {
                self.piece.clear();
                return Err(io::Error::other(
                    "the layer was changed on the disk after it was verified",
                ));
            }
            self.next += 1;
        }
        let rest = self.piece.get(self.at..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        self.at += length;
        Ok(length)
    }
}

/// A digest of the whole and of each piece.
struct Digesting {
    whole: Hasher,
    piece: Hasher,
    in_piece: usize,
    pieces: Vec<Digest>,
    length: u64,
}

impl Digesting {
    fn new(algorithm: Algorithm) -> Self {
        Self {
            whole: Hasher::new(algorithm),
            piece: Hasher::new(Algorithm::Sha256),
            in_piece: 0,
            pieces: Vec::new(),
            length: 0,
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        self.length = self.length.saturating_add(bytes.len() as u64);
        while !bytes.is_empty() {
            let room = PIECE - self.in_piece;
            let (now, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.piece.update(now);
            self.in_piece += now.len();
            if self.in_piece == PIECE {
                self.end_piece();
            }
            bytes = rest;
        }
    }

    fn end_piece(&mut self) {
        let piece = std::mem::replace(&mut self.piece, Hasher::new(Algorithm::Sha256));
        self.pieces.push(piece.finish());
        self.in_piece = 0;
    }

    fn finish(mut self) -> (u64, Digest, Vec<Digest>) {
        if self.in_piece > 0 {
            self.end_piece();
        }
        (self.length, self.whole.finish(), self.pieces)
    }
}

/// 32 bytes of memory for each mebibyte of a layer.
const PIECE: usize = 1024 * 1024;
const QUEUE: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn descriptor(content: &[u8]) -> Descriptor {
        Descriptor::new("x", Digest::sha256(content), content.len() as u64)
    }

    async fn write(
        blobs: &Blobs,
        descriptor: &Descriptor,
        content: &[u8],
    ) -> Result<Blob, ImageError> {
        let writer = blobs.write(descriptor, "layer 1").unwrap();
        for piece in content.chunks(300_000) {
            if !writer.send(Bytes::copy_from_slice(piece)).await {
                break;
            }
        }
        writer.finish().await
    }

    fn content() -> Vec<u8> {
        (0..3 * PIECE + 17).map(|at| (at / 7) as u8).collect()
    }

    #[tokio::test]
    async fn blob_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let content = content();
        write(&blobs, &descriptor(&content), &content)
            .await
            .unwrap();
        let found = blobs.find(&descriptor(&content)).unwrap();
        let mut read = Vec::new();
        found.reader().read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        assert!(blobs.find(&descriptor(b"other")).is_none());
    }

    #[tokio::test]
    async fn changed_truncated_or_longer_download_is_told_apart_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let content = content();
        let descriptor = descriptor(&content);
        let mut changed = content.clone();
        changed[PIECE + 5] ^= 1;
        let error = write(&blobs, &descriptor, &changed).await.err().unwrap();
        assert!(matches!(error, ImageError::Digest { .. }), "{error}");
        let error = write(&blobs, &descriptor, &content[1..])
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("truncated"), "{error}");
        changed.push(0);
        let error = write(&blobs, &descriptor, &changed)
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("too long"), "{error}");
        assert_eq!(
            std::fs::read_dir(folder.path().join("blobs"))
                .unwrap()
                .count(),
            0
        );
    }

    #[tokio::test]
    async fn pipe_or_link_in_the_place_of_a_cached_blob_is_waited_for_or_followed() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let content = content();
        let descriptor = descriptor(&content);
        let path = blobs.path(&descriptor.digest);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(blobs.find(&descriptor).is_none());
        std::fs::remove_file(&path).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, &content).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(blobs.find(&descriptor).is_none());
    }

    #[tokio::test]
    async fn layer_of_one_pull_stays_on_the_disk_after_it_was_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::temporary(folder.path());
        let content = content();
        let blob = write(&blobs, &descriptor(&content), &content)
            .await
            .unwrap();
        // It has no name, so that the last reader's end is its own.
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        let mut read = Vec::new();
        blob.reader().read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
        assert!(blobs.find(&descriptor(&content)).is_none());
    }

    #[tokio::test]
    async fn cached_blob_that_somebody_changed_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let content = content();
        let descriptor = descriptor(&content);
        write(&blobs, &descriptor, &content).await.unwrap();
        let path = blobs.path(&descriptor.digest);
        let mut changed = content.clone();
        changed[0] ^= 1;
        std::fs::write(&path, changed).unwrap();
        assert!(blobs.find(&descriptor).is_none());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn disk_that_changes_a_blob_after_it_was_verified_is_caught() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let content = content();
        let descriptor = descriptor(&content);
        let blob = write(&blobs, &descriptor, &content).await.unwrap();
        let file = File::options()
            .write(true)
            .open(blobs.path(&descriptor.digest))
            .unwrap();
        file.write_all_at(b"!", 2 * PIECE as u64).unwrap();
        let mut read = Vec::new();
        let error = blob.reader().read_to_end(&mut read).unwrap_err();
        assert!(error.to_string().contains("changed on the disk"));
        assert_eq!(read.len(), 2 * PIECE);
    }
}
