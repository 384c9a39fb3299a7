//! One range of one version of an object, whatever breaks on the way.
//!
//! The first answer tells which version it is; every later one must be of the same, by its tag, else by its date and
//! size. What broke off goes on where it broke off. A byte is handed on when all of its range is there.

use std::ops::Range;

use futures_util::StreamExt as _;
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta};
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::Target;
use super::error::Cause;
use super::patience::Attempts;
use super::transport::Skip;

/// Which content of an object is read.
#[derive(Clone)]
pub(super) struct Version {
    meta: ObjectMeta,
}

impl Version {
    pub(super) fn size(&self) -> u64 {
        self.meta.size
    }

    /// What tells it from another: its tag, else its date.
    pub(super) fn name(&self) -> Option<String> {
        let date = || {
            self.has_date()
                .then(|| self.meta.last_modified.to_rfc3339())
        };
        self.meta.e_tag.clone().or_else(date)
    }

    /// Whether anything would tell it from another.
    pub(super) fn is_told(&self) -> bool {
        self.meta.e_tag.is_some() || self.has_date()
    }

    fn has_date(&self) -> bool {
        self.meta.last_modified.timestamp() != 0
    }

    fn is(&self, seen: &ObjectMeta) -> bool {
        self.meta.size == seen.size
            && self.meta.e_tag == seen.e_tag
            && (self.meta.e_tag.is_some() || self.meta.last_modified == seen.last_modified)
    }

    /// Asks the server itself to look. A weak tag is for comparing only (RFC 9110, 8.8.3.2).
    fn require(&self, options: &mut GetOptions) {
        match &self.meta.e_tag {
            Some(etag) if !etag.starts_with("W/") => options.if_match = Some(etag.clone()),
            None if self.has_date() => options.if_unmodified_since = Some(self.meta.last_modified),
            _ => {}
        }
    }
}

/// Fetches a range, of `version` when that is known. The end may lie beyond the object's.
pub(super) async fn fetch(
    target: &Target,
    range: Range<u64>,
    version: Option<Version>,
) -> Result<(Vec<u8>, Version), Cause> {
    let patience = &target.patience;
    let mut download = Download {
        target,
        range,
        version,
        bytes: Vec::new(),
    };
    let mut attempts = Attempts::new(patience);
    let deadline = Instant::now() + patience.block;
    loop {
        let attempt = async {
            match download.attempt().await {
                Err(cause) => attempts.wait_after(cause).await.map(|()| false),
                Ok(()) => Ok(true),
            }
        };
        match timeout_at(deadline, attempt).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => break,
            Ok(Err(cause)) => return Err(cause),
            Err(_) => {
                return Err(Cause::Slow {
                    got: download.bytes.len() as u64,
                    wanted: download.range.end - download.range.start,
                    limit: patience.block,
                });
            }
        }
    }
    let Download { version, bytes, .. } = download;
    version
        .map(|version| (bytes, version))
        .ok_or(Cause::NotUnderstood("it has no version"))
}

/// The version of an object that has no bytes, of which there is no range.
pub(super) async fn empty(target: &Target) -> Result<Version, Cause> {
    let mut attempts = Attempts::new(&target.patience);
    loop {
        let answer = target.objects.get_opts(&target.path, GetOptions::default());
        match answer.await {
            Ok(answer) if answer.meta.size > 0 => return Err(Cause::Changed),
            Ok(answer) => return Ok(Version { meta: answer.meta }),
            Err(error) => attempts.wait_after(target.cause(&error)).await?,
        }
    }
}

/// A range under way.
struct Download<'a> {
    target: &'a Target,
    range: Range<u64>,
    version: Option<Version>,
    bytes: Vec<u8>,
}

impl Download<'_> {
    async fn attempt(&mut self) -> Result<(), Cause> {
        let start = self.range.start + self.bytes.len() as u64;
        if start >= self.range.end {
            return Ok(());
        }
        let mut options = GetOptions {
            range: Some(GetRange::Bounded(start..self.range.end)),
            ..GetOptions::default()
        };
        if let Some(version) = &self.version {
            version.require(&mut options);
        }
        let target = self.target;
        let answer = target.objects.get_opts(&target.path, options).await;
        let answer = answer.map_err(|error| match target.cause(&error) {
            Cause::Refused { status: 412, .. } | Cause::NotFound | Cause::BeyondEnd { .. }
                if self.version.is_some() =>
            {
                Cause::Changed
            }
            cause => cause,
        })?;
        match &self.version {
            Some(version) if version.is(&answer.meta) => {}
            Some(_) => return Err(Cause::Changed),
            None => {
                self.range.end = self.range.end.min(answer.meta.size);
                self.version = Some(Version {
                    meta: answer.meta.clone(),
                });
            }
        }
        self.take_in(answer).await
    }

    async fn take_in(&mut self, answer: GetResult) -> Result<(), Cause> {
        let length = self.range.end - self.range.start;
        let wanted = usize::try_from(length).map_err(|_| Cause::TooLarge { limit: length })?;
        self.bytes.reserve_exact(wanted - self.bytes.len());
        let skip = answer.extensions.get::<Skip>().copied();
        let whole = skip.is_some();
        let mut skip = skip.map_or(0, |skip| skip.0);
        let mut body = answer.into_stream();
        let idle = self.target.patience.idle;
        while self.bytes.len() < wanted {
            let chunk = timeout(idle, body.next())
                .await
                .map_err(|_| Cause::Silent {
                    limit: idle,
                    attempts: 0,
                })?;
            let Some(chunk) = chunk else { break };
            let chunk = chunk.map_err(|_| self.cut())?;
            let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= passed as u64;
            let (_, chunk) = chunk.split_at(passed);
            let room = wanted - self.bytes.len();
            if chunk.len() > room && !whole {
                return Err(Cause::NotUnderstood("more bytes than it announced"));
            }
            let (chunk, _) = chunk.split_at(chunk.len().min(room));
            self.bytes.extend_from_slice(chunk);
        }
        if self.bytes.len() < wanted {
            return Err(self.cut());
        }
        Ok(())
    }

    fn cut(&self) -> Cause {
        Cause::Cut {
            got: self.bytes.len() as u64,
            wanted: self.range.end - self.range.start,
            attempts: 0,
        }
    }
}
