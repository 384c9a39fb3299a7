//! Writing: what is written appears whole, when it is finished, or not at all.
//!
//! On this machine that is a file beside the target, renamed. In a storage, what fits into one part is put at once; the
//! rest goes in parts, a few on their way while the next is filled, and appears with a last request. Where nothing may be
//! replaced, the storage itself is asked to see to it (If-None-Match), as far as it can.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::multipart::PartId;
use object_store::{GetOptions, MultipartId, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::Storage;
use super::bridge::wait_on;
use super::connect::Target;
use super::error::{Cause, StorageError};
use super::local::{Existing, Partial};
use super::patience::Attempts;

/// Something that is being written. Dropped before [`Upload::finish`], it leaves nothing.
pub struct Upload(Sink);

enum Sink {
    Local {
        file: BufWriter<Partial>,
        location: String,
    },
    Remote {
        upload: RemoteUpload,
        // What it is written through ends after it.
        _storage: Storage,
    },
}

impl Upload {
    pub(super) fn local(partial: Partial, location: String) -> Self {
        Self(Sink::Local {
            file: BufWriter::with_capacity(1 << 16, partial),
            location,
        })
    }

    pub(super) fn remote(
        target: Target,
        existing: Existing,
        handle: Handle,
        storage: Storage,
    ) -> Result<Self, StorageError> {
        let location = target.location.to_string();
        let parts = target.parts.is_some();
        let upload = RemoteUpload {
            shared: Arc::new(Shared {
                target,
                existing,
                started: Mutex::new(Started::Not),
                parts: Mutex::default(),
            }),
            handle,
            filling: Vec::new(),
            on_their_way: VecDeque::new(),
            done: Vec::new(),
            written: 0,
            failed: None,
        };
        if !parts {
            return Err(StorageError::new(
                location,
                Cause::Unsupported("this cannot be written to"),
            ));
        }
        upload
            .refuse_early()
            .map_err(|cause| StorageError::new(location, cause))?;
        Ok(Self(Sink::Remote {
            upload,
            _storage: storage,
        }))
    }

    /// Makes it appear.
    ///
    /// # Errors
    /// [`Cause::Exists`] when something is there that may not be replaced; whatever else went wrong. Nothing has appeared
    /// then.
    pub fn finish(self) -> Result<(), StorageError> {
        match self.0 {
            Sink::Local { file, location } => {
                let finished = file
                    .into_inner()
                    .map_err(io::IntoInnerError::into_error)
                    .and_then(|mut partial| {
                        partial.sync()?;
                        partial.appear()
                    });
                finished.map_err(|error| StorageError::new(location, error.into()))
            }
            Sink::Remote { mut upload, .. } => {
                let location = upload.shared.target.location.to_string();
                upload
                    .finish()
                    .map_err(|cause| StorageError::new(location, cause))
            }
        }
    }

    /// What ends it from outside, as on a signal: nothing of it stays behind.
    pub fn aborter(&self) -> Box<dyn FnOnce() + Send> {
        match &self.0 {
            Sink::Local { file, .. } => {
                let temporary = file.get_ref().temporary().to_owned();
                Box::new(move || drop(std::fs::remove_file(temporary)))
            }
            Sink::Remote { upload, .. } => {
                let (shared, handle) = (Arc::clone(&upload.shared), upload.handle.clone());
                Box::new(move || shared.abort(&handle))
            }
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Sink::Local { file, .. } => file.write(bytes),
            Sink::Remote { upload, .. } => upload
                .write(bytes)
                .map_err(|cause| StorageError::new(&upload.shared.target.location, cause).into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Sink::Local { file, .. } => file.flush(),
            // A part is sent when it is full: nothing of it shows before the end in any case.
            Sink::Remote { .. } => Ok(()),
        }
    }
}

struct RemoteUpload {
    shared: Arc<Shared>,
    handle: Handle,
    filling: Vec<u8>,
    on_their_way: VecDeque<Receiver<Result<PartId, Cause>>>,
    done: Vec<PartId>,
    written: u64,
    /// What was lost once stays lost.
    failed: Option<Cause>,
}

struct Shared {
    target: Target,
    existing: Existing,
    started: Mutex<Started>,
    /// Parts on their way: an upload that is given up while one arrives may keep it.
    parts: Mutex<Vec<AbortHandle>>,
}

/// A multipart upload at the storage.
enum Started {
    Not,
    /// The storage was asked for one, and may have begun it.
    Asked,
    Yes(MultipartId),
    /// Finished or aborted.
    Over,
}

impl RemoteUpload {
    /// Tells before the work, rather than after it, that something is there.
    fn refuse_early(&self) -> Result<(), Cause> {
        if self.shared.existing == Existing::Replace {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        wait_on(&self.handle, async move { shared.refuse_existing().await })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Cause> {
        if let Some(cause) = &self.failed {
            return Err(cause.clone());
        }
        if self.filling.len() >= PART {
            let part = std::mem::take(&mut self.filling);
            self.send(part)
                .inspect_err(|cause| self.failed = Some(cause.clone()))?;
        }
        if self.filling.capacity() == 0 {
            self.filling.reserve_exact(bytes.len().clamp(1 << 16, PART));
        }
        let room = PART - self.filling.len();
        let (now, _) = bytes.split_at(bytes.len().min(room));
        self.filling.extend_from_slice(now);
        self.written += now.len() as u64;
        Ok(now.len())
    }

    /// Sends a part, when the earlier ones leave room.
    fn send(&mut self, part: Vec<u8>) -> Result<(), Cause> {
        let number = self.done.len() + self.on_their_way.len();
        if number >= MAX_PARTS {
            return Err(Cause::TooMany(format!(
                "more than {} GiB in one object are not written here: write several",
                (MAX_PARTS * PART) >> 30
            )));
        }
        if number == 0 {
            let shared = Arc::clone(&self.shared);
            wait_on(&self.handle, async move { shared.start().await })?;
        }
        while self.on_their_way.len() >= PARTS_ON_THEIR_WAY {
            self.await_one()?;
        }
        let (sender, receiver) = sync_channel(1);
        let shared = Arc::clone(&self.shared);
        let task = self.handle.spawn(async move {
            let sent = shared.part(number, Bytes::from(part)).await;
            sender.send(sent).ok();
        });
        let mut parts = self.shared.parts();
        parts.retain(|part| !part.is_finished());
        parts.push(task.abort_handle());
        self.on_their_way.push_back(receiver);
        Ok(())
    }

    fn await_one(&mut self) -> Result<(), Cause> {
        if let Some(next) = self.on_their_way.pop_front() {
            let part = next.recv().unwrap_or(Err(Cause::Stopped))?;
            self.done.push(part);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Cause> {
        if let Some(cause) = self.failed.take() {
            return Err(cause);
        }
        let last = std::mem::take(&mut self.filling);
        let shared = Arc::clone(&self.shared);
        if self.done.is_empty() && self.on_their_way.is_empty() {
            return wait_on(&self.handle, async move {
                shared.put_whole(Bytes::from(last)).await
            });
        }
        if !last.is_empty() {
            self.send(last)?;
        }
        while !self.on_their_way.is_empty() {
            self.await_one()?;
        }
        let (parts, size) = (std::mem::take(&mut self.done), self.written);
        wait_on(
            &self.handle,
            async move { shared.complete(parts, size).await },
        )
    }
}

impl Drop for RemoteUpload {
    fn drop(&mut self) {
        self.shared.abort(&self.handle);
    }
}

impl Shared {
    async fn start(&self) -> Result<(), Cause> {
        *self.started() = Started::Asked;
        let begun = self.begun().await;
        let (started, outcome) = match begun {
            Ok(id) => (Started::Yes(id), Ok(())),
            Err(cause) => (Started::Not, Err(cause)),
        };
        *self.started() = started;
        outcome
    }

    async fn begun(&self) -> Result<MultipartId, Cause> {
        let store = self.target.parts.as_ref().ok_or(Cause::Stopped)?;
        let mut attempts = Attempts::new(&self.target.patience);
        loop {
            match store.create_multipart(&self.target.path).await {
                Ok(id) => return Ok(id),
                Err(error) => attempts.wait_after(self.target.cause(&error)).await?,
            }
        }
    }

    async fn part(&self, number: usize, bytes: Bytes) -> Result<PartId, Cause> {
        let store = self.target.parts.as_ref().ok_or(Cause::Stopped)?;
        let id = self.id()?;
        let mut attempts = Attempts::new(&self.target.patience);
        loop {
            let payload = PutPayload::from(bytes.clone());
            match store
                .put_part(&self.target.path, &id, number, payload)
                .await
            {
                Ok(part) => return Ok(part),
                Err(error) => attempts.wait_after(self.target.cause(&error)).await?,
            }
        }
    }

    async fn complete(&self, parts: Vec<PartId>, size: u64) -> Result<(), Cause> {
        let store = self.target.parts.as_ref().ok_or(Cause::Stopped)?;
        let id = self.id()?;
        if self.existing == Existing::Refuse && !self.target.refuses_existing {
            self.refuse_existing().await?;
        }
        let mut attempts = Attempts::new(&self.target.patience);
        let mut ambiguous = false;
        loop {
            let completed = store.complete_multipart(&self.target.path, &id, parts.clone());
            let cause = match completed.await {
                Ok(_) => break,
                Err(error) => self.target.cause(&error),
            };
            // The answer to an earlier attempt got lost, and the upload is over: this is what it made.
            let over = matches!(cause, Cause::NotFound) || is_conflict(&cause);
            if ambiguous && over && self.size_there().await? == Some(size) {
                break;
            }
            if is_conflict(&cause) && self.existing == Existing::Refuse {
                return Err(Cause::Exists);
            }
            ambiguous |= cause.is_ambiguous();
            attempts.wait_after(cause).await?;
        }
        *self.started() = Started::Over;
        Ok(())
    }

    /// Puts what fits into one request.
    async fn put_whole(&self, bytes: Bytes) -> Result<(), Cause> {
        put(&self.target, bytes, self.existing).await?;
        *self.started() = Started::Over;
        Ok(())
    }

    /// Fails when something is there. Who may write need not be allowed to look: then the storage tells at the end.
    async fn refuse_existing(&self) -> Result<(), Cause> {
        match self.size_there().await {
            Ok(Some(_)) => Err(Cause::Exists),
            Ok(None) | Err(Cause::Denied { .. }) => Ok(()),
            Err(cause) => Err(cause),
        }
    }

    async fn size_there(&self) -> Result<Option<u64>, Cause> {
        let mut attempts = Attempts::new(&self.target.patience);
        loop {
            let head = GetOptions {
                head: true,
                ..GetOptions::default()
            };
            let cause = match self.target.objects.get_opts(&self.target.path, head).await {
                Ok(there) => return Ok(Some(there.meta.size)),
                Err(error) => self.target.cause(&error),
            };
            if cause == Cause::NotFound {
                return Ok(None);
            }
            attempts.wait_after(cause).await?;
        }
    }

    /// Gives up an upload, within a short time: a storage that does not answer keeps parts that nobody sees.
    fn abort(self: &Arc<Self>, handle: &Handle) {
        let limit = Instant::now() + ABORT_TAKES;
        // What was asked for has no name yet by which it could be given up.
        while matches!(*self.started(), Started::Asked) && Instant::now() < limit {
            std::thread::sleep(ABORT_LOOKS_AGAIN);
        }
        let Started::Yes(id) = std::mem::replace(&mut *self.started(), Started::Over) else {
            return;
        };
        for part in self.parts().drain(..) {
            part.abort();
        }
        let shared = Arc::clone(self);
        let aborted = wait_on(handle, async move {
            let Some(store) = shared.target.parts.as_ref() else {
                return Ok(());
            };
            // The parts that were given up took their connections along: the first attempt may meet one of those.
            let abort = async {
                let mut attempts = Attempts::new(&shared.target.patience);
                loop {
                    match store.abort_multipart(&shared.target.path, &id).await {
                        Ok(()) => return Ok(()),
                        Err(error) => attempts.wait_after(shared.target.cause(&error)).await?,
                    }
                }
            };
            timeout(ABORT_TAKES, abort)
                .await
                .unwrap_or(Err(Cause::Stopped))
        });
        // Nobody is left to be told; storages remove such parts by a rule of theirs.
        drop(aborted);
    }

    fn id(&self) -> Result<MultipartId, Cause> {
        match &*self.started() {
            Started::Yes(id) => Ok(id.clone()),
            Started::Not | Started::Asked | Started::Over => Err(Cause::Stopped),
        }
    }

    fn started(&self) -> MutexGuard<'_, Started> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a small object, which appears whole.
pub(super) async fn put(target: &Target, bytes: Bytes, existing: Existing) -> Result<(), Cause> {
    let mut attempts = Attempts::new(&target.patience);
    let mut ambiguous = false;
    loop {
        let options = PutOptions::from(match existing {
            Existing::Refuse => PutMode::Create,
            Existing::Replace => PutMode::Overwrite,
        });
        let payload = PutPayload::from(bytes.clone());
        let put = target.objects.put_opts(&target.path, payload, options);
        let cause = match put.await {
            Ok(_) => return Ok(()),
            Err(error) => target.cause(&error),
        };
        if existing == Existing::Refuse && (is_conflict(&cause) || cause == Cause::Exists) {
            // It may be what an earlier attempt wrote whose answer got lost.
            if ambiguous && holds(target, &bytes).await {
                return Ok(());
            }
            return Err(Cause::Exists);
        }
        ambiguous |= cause.is_ambiguous();
        attempts.wait_after(cause).await?;
    }
}

/// Removes an object.
pub(super) async fn delete(target: &Target) -> Result<(), Cause> {
    let mut attempts = Attempts::new(&target.patience);
    loop {
        match target.objects.delete(&target.path).await {
            Ok(()) => return Ok(()),
            Err(error) => attempts.wait_after(target.cause(&error)).await?,
        }
    }
}

/// Whether exactly these bytes are there.
async fn holds(target: &Target, bytes: &Bytes) -> bool {
    match target.objects.get(&target.path).await {
        Ok(there) if there.meta.size == bytes.len() as u64 => {
            there.bytes().await.is_ok_and(|there| there == *bytes)
        }
        _ => false,
    }
}

/// The storage's words for "something is there": 412, 409 and S3's 304.
fn is_conflict(cause: &Cause) -> bool {
    match cause {
        Cause::Refused { status: 412, .. } | Cause::Redirected { status: 304 } | Cause::Exists => {
            true
        }
        Cause::Refused { status: 409, .. } => !cause.may_pass(),
        _ => false,
    }
}

/// One part. S3 wants 5 MiB at least.
const PART: usize = 8 * 1024 * 1024;
/// As many parts as S3 takes.
const MAX_PARTS: usize = 10_000;
const PARTS_ON_THEIR_WAY: usize = 2;
const ABORT_TAKES: Duration = Duration::from_secs(10);
const ABORT_LOOKS_AGAIN: Duration = Duration::from_millis(10);
