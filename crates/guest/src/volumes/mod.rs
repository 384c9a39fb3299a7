//! Mounted volumes with sealed secrets in them, mirrored with plaintext in their place, and kept so while they change.
//!
//! An application is pointed at the mirror and never sees a sealed pointer: at the start all volumes appear, each whole,
//! or none does; later a volume's new version appears when all of it is unsealed, and until then the one before stays.
//! Files that are not sealed are copied, so that the mirror is the whole volume.

mod mirror;
mod source;
mod watch;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use strongroom_client::jitter;
use strongroom_client::session::RetryPolicy;
use strongroom_wire::sealed_secret::is_sealed;
use zeroize::Zeroizing;

use crate::data::unseal::Unsealer;
use crate::error::GuestError;
use crate::placement::{OnPlace, Placement, warn_of_swap};

pub use mirror::Access;

use mirror::{Mirror, Staged, volume_error};
use source::{Files, Stamp};
use watch::Watch;

/// A mounted volume, and where it is mirrored. Both are folders, or both are files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Volume {
    /// The folder or file that may hold sealed secrets.
    pub from: PathBuf,
    /// The folder or file for the plaintext.
    pub to: PathBuf,
}

/// Volumes and their mirrors, which no other process keeps meanwhile.
pub struct Volumes {
    kept: Vec<Kept>,
    placement: Placement,
}

impl Volumes {
    /// Opens the mirrors; nothing is unsealed yet.
    ///
    /// # Errors
    /// [`GuestError::Volume`] when a volume is not there, two of them have one mirror, a mirror lies in a volume, is
    /// kept by another process or belongs to something else; [`GuestError::NotInMemory`] when it lies on a disk.
    pub fn open(
        volumes: Vec<Volume>,
        access: Access,
        placement: Placement,
    ) -> Result<Self, GuestError> {
        let mut kept: Vec<Kept> = Vec::with_capacity(volumes.len());
        check_places(&volumes)?;
        for volume in volumes {
            let Volume { from, to } = &volume;
            let is_folder = from
                .metadata()
                .map_err(|error| volume_error(from, format!("the volume cannot be read: {error}")))?
                .is_dir();
            let mirror = if is_folder {
                Mirror::of_folder(to, access, placement)?
            } else {
                Mirror::of_file(to, access, placement)?
            };
            kept.push(Kept::new(volume, mirror));
        }
        Ok(Self { kept, placement })
    }

    /// Unseals everything, then shows it: all volumes or, when anything fails, none that was not shown before.
    ///
    /// # Errors
    /// The first failure, naming the file. What earlier runs have shown stays as it was.
    pub async fn start(
        &mut self,
        unsealer: &Unsealer,
        on_place: &mut OnPlace<'_>,
    ) -> Result<(), GuestError> {
        let unsealed = self.unseal(unsealer).await?;
        self.show(unsealed, on_place)
    }

    /// The first half of [`Self::start`]: everything is unsealed, and nothing written.
    ///
    /// # Errors
    /// The first failure, naming the file.
    pub async fn unseal(&self, unsealer: &Unsealer) -> Result<Unsealed, GuestError> {
        let mut all = Vec::with_capacity(self.kept.len());
        for kept in &self.kept {
            all.push(kept.unsealed(unsealer).await?);
        }
        Ok(Unsealed(all))
    }

    /// The second half: everything is shown.
    ///
    /// # Errors
    /// [`GuestError::Volume`] when a mirror cannot be written; then none is changed.
    pub fn show(
        &mut self,
        Unsealed(all): Unsealed,
        on_place: &mut OnPlace<'_>,
    ) -> Result<(), GuestError> {
        let mut staged: Vec<Staged<'_>> = Vec::with_capacity(all.len());
        for (kept, (files, _)) in self.kept.iter().zip(&all) {
            staged.push(kept.mirror.stage(files, on_place)?);
        }
        let mut placed = Vec::with_capacity(all.len());
        for staged in staged {
            match staged.place(on_place) {
                Ok(done) => placed.push(done),
                Err(error) => {
                    for done in placed {
                        done.revert();
                    }
                    return Err(error);
                }
            }
        }
        for done in placed {
            done.keep();
        }
        for (kept, (_, stamp)) in self.kept.iter_mut().zip(all) {
            kept.stamp = Some(stamp);
            kept.updated = Some(SystemTime::now());
        }
        if self.placement == Placement::MemoryOnly && !self.kept.is_empty() {
            warn_of_swap();
        }
        Ok(())
    }

    /// Keeps the mirrors as the volumes are, until `stop`.
    ///
    /// A version that does not unseal is reported through `on_status` and the log, and tried again; until it does, the
    /// one before stays. When `stop` resolves, whatever is under way is dropped before anything of it is written, or
    /// finished.
    pub async fn keep(
        &mut self,
        unsealer: &Unsealer,
        pace: Pace,
        on_status: &mut dyn FnMut(&[VolumeStatus]),
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = pin!(stop);
        let watch = Watch::new();
        on_status(&self.status());
        // What changed since the start is found at once.
        let mut wait = Duration::ZERO;
        loop {
            for kept in &self.kept {
                watch.add(&kept.volume.from);
            }
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = watch.changed(wait) => {}
            }
            let mut changed = false;
            for kept in &mut self.kept {
                if !kept.is_due(pace) {
                    continue;
                }
                let outcome = tokio::select! {
                    biased;
                    () = &mut stop => return,
                    outcome = kept.unsealed(unsealer) => outcome,
                };
                changed |= kept.update(outcome);
            }
            if changed {
                on_status(&self.status());
            }
            wait = self.next_look(pace);
        }
    }

    /// What became of each volume, in the order in which they were given.
    pub fn status(&self) -> Vec<VolumeStatus> {
        self.kept.iter().map(Kept::status).collect()
    }

    /// Lets another process keep the mirrors from now on.
    pub fn unlock(&self) {
        for kept in &self.kept {
            kept.mirror.unlock();
        }
    }

    /// Removes all plaintext from the mirrors.
    pub fn clear(&self) {
        for kept in &self.kept {
            kept.mirror.clear();
        }
    }

    fn next_look(&self, pace: Pace) -> Duration {
        let now = Instant::now();
        let due = self.kept.iter().filter_map(|kept| kept.retry_at);
        due.map(|at| at.saturating_duration_since(now))
            .chain(pace.refresh)
            .fold(pace.poll, Duration::min)
    }
}

/// What volumes hold in plaintext, not written yet.
pub struct Unsealed(Vec<(Files, Stamp)>);

/// How often volumes are looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// Where the kernel gives no notice of a change.
    pub poll: Duration,
    /// When what sealed secrets point to is fetched again although they have not changed, if ever.
    pub refresh: Option<Duration>,
}

impl Default for Pace {
    /// Every ten seconds, and no refresh.
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(10),
            refresh: None,
        }
    }
}

/// What became of a volume.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VolumeStatus {
    /// The volume.
    pub volume: Volume,
    /// When the plaintext in force was unsealed.
    pub updated: Option<SystemTime>,
    /// Why the volume's newest version is not in force; the one before is.
    pub problem: Option<String>,
}

struct Kept {
    volume: Volume,
    mirror: Mirror,
    /// The volume when it was last read.
    stamp: Option<Stamp>,
    updated: Option<SystemTime>,
    looked: Instant,
    problem: Option<String>,
    failed: u32,
    retry_at: Option<Instant>,
}

impl Kept {
    fn new(volume: Volume, mirror: Mirror) -> Self {
        Self {
            volume,
            mirror,
            stamp: None,
            updated: None,
            looked: Instant::now(),
            problem: None,
            failed: 0,
            retry_at: None,
        }
    }

    async fn unsealed(&self, unsealer: &Unsealer) -> Result<(Files, Stamp), GuestError> {
        let from = &self.volume.from;
        let (mut files, stamp) = source::read(from)?;
        for (path, content) in &mut files {
            if is_sealed(content) {
                let opened = unsealed(unsealer, content).await;
                *content = opened.map_err(|error| GuestError::File {
                    path: if path == Path::new("") {
                        from.clone()
                    } else {
                        from.join(path)
                    },
                    source: Box::new(error),
                })?;
            }
        }
        Ok((files, stamp))
    }

    fn is_due(&self, pace: Pace) -> bool {
        let now = Instant::now();
        self.retry_at.is_some_and(|at| now >= at)
            || pace
                .refresh
                .is_some_and(|refresh| now.saturating_duration_since(self.looked) >= refresh)
            || source::stamp(&self.volume.from) != self.stamp
    }

    /// Takes a new version into force, or notes why not. Returns whether there is news.
    fn update(&mut self, outcome: Result<(Files, Stamp), GuestError>) -> bool {
        self.looked = Instant::now();
        // Of what could not be read there is no stamp, so that it is looked at again when it can be.
        let stamp = match &outcome {
            Ok((_, stamp)) => Some(stamp.clone()),
            Err(_) => source::stamp(&self.volume.from),
        };
        if stamp != self.stamp {
            self.failed = 0;
        }
        self.stamp = stamp;
        let shown = outcome.and_then(|(files, _)| self.show(&files));
        let (from, to) = (self.volume.from.display(), self.volume.to.display());
        match shown {
            Ok(shown) => {
                let news = shown || self.problem.is_some();
                (self.failed, self.retry_at, self.problem) = (0, None, None);
                if news {
                    tracing::info!(%from, %to, "the volume's new version is unsealed");
                }
                news
            }
            Err(error) => {
                self.failed = self.failed.saturating_add(1);
                let pace = if error.may_pass() { SOON } else { LATER };
                let delay = pace.delay(self.failed, jitter()).unwrap_or(pace.cap);
                self.retry_at = self.looked.checked_add(delay);
                let problem = Some(error.to_string());
                let news = problem != self.problem;
                if news {
                    tracing::error!(%from, %to, %error, "the volume's new version is not unsealed; the one before stays");
                }
                self.problem = problem;
                news
            }
        }
    }

    /// Shows files unless they are shown already.
    fn show(&mut self, files: &Files) -> Result<bool, GuestError> {
        if self.mirror.holds(files) {
            return Ok(false);
        }
        let run: &mut OnPlace<'_> = &mut |_, step| step();
        self.mirror.stage(files, run)?.place(run)?.keep();
        self.updated = Some(SystemTime::now());
        Ok(true)
    }

    fn status(&self) -> VolumeStatus {
        VolumeStatus {
            volume: self.volume.clone(),
            updated: self.updated,
            problem: self.problem.clone(),
        }
    }
}

async fn unsealed(unsealer: &Unsealer, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, GuestError> {
    let text = std::str::from_utf8(sealed).map_err(|_| {
        GuestError::UnusablePlaintext("it begins as a sealed secret does, and is not UTF-8")
    })?;
    unsealer.unseal(text).await
}

/// The path with its links followed, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(whole) = path.canonicalize() {
        return whole;
    }
    let around = match path.parent() {
        Some(around) if around != Path::new("") => around,
        _ => Path::new("."),
    };
    let around = around.canonicalize().unwrap_or_else(|_| around.to_owned());
    match path.file_name() {
        Some(name) => around.join(name),
        None => around,
    }
}

/// Plaintext among sealed files would be mirrored itself, and be seen where nobody expects it.
fn check_places(volumes: &[Volume]) -> Result<(), GuestError> {
    let mut mirrors: Vec<PathBuf> = Vec::with_capacity(volumes.len());
    for Volume { to, .. } in volumes {
        let mirror = resolved(to);
        if mirrors.contains(&mirror) {
            return Err(volume_error(to, "it is the mirror of two volumes"));
        }
        let nested = |other: &PathBuf| mirror.starts_with(other) || other.starts_with(&mirror);
        if mirrors.iter().any(nested) {
            return Err(volume_error(
                to,
                "two mirrors lie in each other: choose another folder for one",
            ));
        }
        for Volume { from, .. } in volumes {
            let from = resolved(from);
            if mirror.starts_with(&from) || from.starts_with(&mirror) {
                return Err(volume_error(
                    to,
                    "a mirror and a volume lie in each other: choose a folder elsewhere",
                ));
            }
        }
        mirrors.push(mirror);
    }
    Ok(())
}

/// After the way to the broker failed.
const SOON: RetryPolicy = RetryPolicy {
    attempts: u32::MAX,
    base: Duration::from_secs(1),
    cap: Duration::from_secs(30),
};
/// After a refusal: its reason may be mended at the broker, and no change of the volume would tell.
const LATER: RetryPolicy = RetryPolicy {
    attempts: u32::MAX,
    base: Duration::from_secs(10),
    cap: Duration::from_secs(300),
};
