//! When a volume may have changed: the kernel says so (inotify(7)), and a clock, for file systems that are changed from
//! elsewhere. Neither is believed: who is woken looks at the volume's stamp.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

/// Waits for changes of some folders and files.
pub(super) struct Watch {
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl Watch {
    /// Watches nothing yet. Where the kernel gives no notice, the clock alone wakes.
    #[allow(deprecated)]
    pub(super) fn new() -> Self {
        // Deprecated for descriptors that are borrowed or can be replaced; an `OwnedFd` is neither, and what replaces it
        // is unsafe.
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(std::io::Error::from)
            .and_then(AsyncFd::new);
        match inotify {
            Ok(inotify) => Self {
                inotify: Some(inotify),
            },
            Err(error) => {
                tracing::warn!(%error, "no notice of changes here: volumes are looked at by the clock alone");
                Self { inotify: None }
            }
        }
    }

    /// Watches what lies at a path now, a file's folder as well. Adding it again changes nothing.
    pub(super) fn add(&self, path: &Path) {
        let Some(inotify) = &self.inotify else {
            return;
        };
        let around = path.parent().filter(|_| !path.is_dir());
        for path in [Some(path), around].into_iter().flatten() {
            // What is missing now is found by the clock.
            if let Err(error) = add_watch(inotify.get_ref(), path, CHANGES) {
                tracing::debug!(path = %path.display(), %error, "not watched");
            }
        }
    }

    /// Returns when something may have changed, at the latest after `most`.
    pub(super) async fn changed(&self, most: Duration) {
        let Some(inotify) = &self.inotify else {
            return tokio::time::sleep(most).await;
        };
        if let Ok(Ok(mut ready)) = tokio::time::timeout(most, inotify.readable()).await {
            // What writes a folder file by file gets to its end, mostly.
            tokio::time::sleep(SETTLING).await;
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut events = Reader::new(inotify.get_ref(), &mut buffer);
            while events.next().is_ok() {}
            ready.clear_ready();
        }
    }
}

const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ATTRIB);
const SETTLING: Duration = Duration::from_millis(50);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Instant;

    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn change_is_not_noticed_before_the_clock() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::new();
        watch.add(folder.path());
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
            watch.changed(NEVER).await;
        }
        // What was noticed is not noticed again.
        let before = Instant::now();
        watch.changed(Duration::from_millis(20)).await;
        assert!(before.elapsed() >= Duration::from_millis(20));
    }

    #[tokio::test]
    async fn file_that_is_replaced_is_not_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, "x").unwrap();
        let watch = Watch::new();
        watch.add(&file);
        std::fs::write(folder.path().join("b"), "y").unwrap();
        std::fs::rename(folder.path().join("b"), &file).unwrap();
        watch.changed(NEVER).await;
    }

    #[tokio::test]
    async fn clock_alone_wakes_where_nothing_can_be_watched() {
        let watch = Watch { inotify: None };
        watch.add(Path::new("/none"));
        watch.changed(Duration::from_millis(1)).await;
        let watch = Watch::new();
        watch.add(Path::new("/none"));
        watch.changed(Duration::from_millis(1)).await;
    }
}
