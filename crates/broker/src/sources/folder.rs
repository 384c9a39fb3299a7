//! A folder in the layout of mounted Kubernetes Secrets: `<folder>/<secret>/<key>` is `default/<secret>/<key>`.
//!
//! Nothing is kept of it: each release opens the version in force and reads one file of it, so a secret that is added,
//! changed or removed is so from the next request on (docs/decisions/0013). One volume for each secret, one projected
//! volume over all of them, and plain folders all have this layout.

use std::path::{Path, PathBuf};

use strongroom_wire::resource::{ResourceError, ResourcePath};
use zeroize::Zeroizing;

use super::beneath::{self, Unusable};
use super::{Found, Offered, SourceError};
use crate::BrokerError;
use crate::store::Secret;

/// One folder.
pub(super) struct Folder {
    path: PathBuf,
    limit: usize,
}

impl Folder {
    /// Looks at the folder, which must be there and which nobody but its owner may write.
    pub(super) fn open(path: &Path, limit: usize) -> Result<Self, BrokerError> {
        let refused = |message: String| BrokerError::Config {
            path: path.to_owned(),
            message,
        };
        beneath::Folder::open(path)
            .map_err(|error| refused(format!("{error}, and sources.folder names it")))?;
        Ok(Self {
            path: path.to_owned(),
            limit,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the secret of this path, if the folder has one.
    pub(super) fn secret(&self, path: &ResourcePath) -> Result<Option<Found>, SourceError> {
        if path.repo() != REPOSITORY {
            return Ok(None);
        }
        let mut missing_in = None;
        for _ in 0..TRIES {
            let (generation, read) = self.read_once(path)?;
            match read {
                Ok(content) => {
                    return Ok(Some(Found {
                        secret: Secret::new(content),
                        version: None,
                        source: self.name(generation.as_deref()),
                        loosening: None,
                    }));
                }
                // A version that is removed while it is read lacks everything; the newest lacks what is not there.
                Err(error) if error.is_missing() => match generation.is_some() {
                    true if missing_in != generation => missing_in = generation,
                    _ => return Ok(None),
                },
                Err(error) => {
                    return Err(self.unusable(&format!("{}/{}", path.r#type(), path.tag()), &error));
                }
            }
        }
        Err(self.unusable(path.r#type(), &Unusable::Changing))
    }

    /// One reading, and the version of the folder in which it was tried.
    fn read_once(&self, path: &ResourcePath) -> Result<Reading, SourceError> {
        let root = self.root()?;
        let secret = match root.folder(path.r#type()) {
            Ok(secret) => secret,
            Err(error) => return Ok((root.generation().map(str::to_owned), Err(error))),
        };
        let read = secret.read(path.tag(), self.limit);
        Ok((secret.generation().map(str::to_owned), read))
    }

    /// Looks at everything in the folder: what it offers, and what it holds besides.
    pub(super) fn scan(&self) -> Result<Scan, SourceError> {
        let root = self.root()?;
        let mut scan = Scan::default();
        let names = root.names().map_err(|error| self.unusable("", &error))?;
        for name in names {
            let Some(name) = name.to_str() else {
                scan.skip(&self.path.join(&name), Skip::Utf8);
                continue;
            };
            let place = self.path.join(name);
            match root.folder(name) {
                Ok(secret) => self.scan_secret(&secret, name, &mut scan),
                Err(error) if error.is_missing() => {}
                Err(Unusable::NotAFolder) => scan.skip(&place, Skip::Loose),
                Err(error) => scan.skip(&place, Skip::Unusable(error)),
            }
        }
        Ok(scan)
    }

    fn scan_secret(&self, secret: &beneath::Folder, name: &str, scan: &mut Scan) {
        let place = self.path.join(name);
        let keys = match secret.names() {
            Ok(keys) => keys,
            Err(error) => return scan.skip(&place, Skip::Unusable(error)),
        };
        for key in keys {
            let file = place.join(&key);
            let Some(key) = key.to_str() else {
                scan.skip(&file, Skip::Utf8);
                continue;
            };
            let path = match ResourcePath::new(REPOSITORY, name, key) {
                Ok(path) => path,
                Err(error) => {
                    scan.skip(&file, Skip::Name(error));
                    continue;
                }
            };
            match secret.look(key, self.limit) {
                Ok(seen) => scan.offered.push(Offered {
                    path,
                    size: seen.size,
                    changed_at: seen.changed_at,
                    source: self.name(secret.generation()),
                }),
                Err(error) if error.is_missing() => {}
                Err(error) => scan.skip(&file, Skip::Unusable(error)),
            }
        }
    }

    fn root(&self) -> Result<beneath::Folder, SourceError> {
        beneath::Folder::open(&self.path).map_err(|error| self.unusable("", &error))
    }

    /// As listings and the record name it: with the version that was read, when the folder has versions.
    fn name(&self, generation: Option<&str>) -> String {
        match generation {
            None => format!("folder {}", self.path.display()),
            Some(generation) => format!("folder {} at {generation}", self.path.display()),
        }
    }

    fn unusable(&self, name: &str, error: &Unusable) -> SourceError {
        SourceError::Folder {
            file: match name {
                "" => self.path.clone(),
                name => self.path.join(name),
            },
            reason: error.to_string(),
        }
    }
}

/// What a folder holds.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) offered: Vec<Offered>,
    /// Where something lies that is no resource, and why it is none.
    pub(super) skipped: Vec<(PathBuf, String)>,
}

impl Scan {
    fn skip(&mut self, place: &Path, reason: Skip) {
        self.skipped.push((place.to_owned(), reason.to_string()));
    }
}

#[derive(Debug, thiserror::Error)]
enum Skip {
    #[error("its name is not UTF-8")]
    Utf8,
    #[error("it lies beside the secrets' folders: put it into one, as SECRET/KEY")]
    Loose,
    #[error("its name cannot be a resource's: {0}")]
    Name(ResourceError),
    #[error(transparent)]
    Unusable(Unusable),
}

type Reading = (Option<String>, Result<Zeroizing<Vec<u8>>, Unusable>);

/// Kubernetes Secrets have a namespace and a name; guests of one namespace know this repository.
const REPOSITORY: &str = "default";
const TRIES: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const LIMIT: usize = 100;

    /// Puts a version of a secret in force as the kubelet does: all of it beside the one before, then one rename.
    fn swap(secret: &Path, version: &str, keys: &BTreeMap<&str, String>) {
        let folder = secret.join(version);
        fs::create_dir_all(&folder).unwrap();
        for (key, content) in keys {
            fs::write(folder.join(key), content).unwrap();
        }
        let before = fs::read_link(secret.join("..data")).ok();
        symlink(version, secret.join("..data_tmp")).unwrap();
        fs::rename(secret.join("..data_tmp"), secret.join("..data")).unwrap();
        for key in keys.keys() {
            symlink(format!("..data/{key}"), secret.join(key)).ok();
        }
        for name in fs::read_dir(secret).unwrap() {
            let name = name.unwrap().file_name().into_string().unwrap();
            if !name.starts_with("..") && !keys.contains_key(name.as_str()) {
                fs::remove_file(secret.join(name)).unwrap();
            }
        }
        if let Some(before) = before {
            fs::remove_dir_all(secret.join(before)).unwrap();
        }
    }

    fn keys(content: &str) -> BTreeMap<&'static str, String> {
        [("a", content.to_owned()), ("b", content.to_owned())].into()
    }

    fn open(path: &Path) -> Folder {
        Folder::open(path, LIMIT).unwrap()
    }

    fn read(folder: &Folder, path: &str) -> Result<Option<(String, String)>, String> {
        let found = folder.secret(&path.parse().unwrap());
        let found = found.map_err(|error| error.to_string())?;
        Ok(found.map(|found| {
            let text = String::from_utf8(found.secret.expose().to_vec()).unwrap();
            (text, found.source)
        }))
    }

    fn content(folder: &Folder, path: &str) -> Option<String> {
        read(folder, path).unwrap().map(|(content, _)| content)
    }

    #[test]
    fn secret_that_was_added_changed_or_removed_needs_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path());
        assert_eq!(content(&folder, "default/db/a"), None);
        swap(&dir.path().join("db"), "..1", &keys("first"));
        assert_eq!(content(&folder, "default/db/a").unwrap(), "first");
        swap(&dir.path().join("db"), "..2", &keys("second"));
        let (content_now, source) = read(&folder, "default/db/a").unwrap().unwrap();
        assert_eq!(content_now, "second");
        assert_eq!(source, format!("folder {} at ..2", dir.path().display()));
        swap(
            &dir.path().join("db"),
            "..3",
            &[("b", "third".to_owned())].into(),
        );
        assert_eq!(content(&folder, "default/db/a"), None);
        fs::remove_dir_all(dir.path().join("db")).unwrap();
        assert_eq!(content(&folder, "default/db/b"), None);
        assert!(folder.scan().unwrap().offered.is_empty());
    }

    #[test]
    fn reader_during_swaps_gets_an_error_or_a_mix_of_versions() {
        let dir = tempfile::tempdir().unwrap();
        // One volume for each secret, and one over all of them.
        for secret in ["own/db", "shared"] {
            fs::create_dir_all(dir.path().join(secret)).unwrap();
        }
        let (own, shared) = (dir.path().join("own"), dir.path().join("shared"));
        let swap_both = |i: u32| {
            let version = format!("..{i}");
            swap(&own.join("db"), &version, &keys(&version));
            let all = shared.join(&version).join("db");
            fs::create_dir_all(&all).unwrap();
            for (key, content) in keys(&version) {
                fs::write(all.join(key), content).unwrap();
            }
            let before = fs::read_link(shared.join("..data")).ok();
            symlink(&version, shared.join("..data_tmp")).unwrap();
            fs::rename(shared.join("..data_tmp"), shared.join("..data")).unwrap();
            symlink("..data/db", shared.join("db")).ok();
            if let Some(before) = before {
                fs::remove_dir_all(shared.join(before)).unwrap();
            }
        };
        swap_both(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for place in [&own, &shared] {
                scope.spawn(|| {
                    let folder = open(place);
                    while !done.load(Ordering::Relaxed) {
                        for key in ["default/db/a", "default/db/b"] {
                            let (content, source) = read(&folder, key).unwrap().unwrap();
                            let expected = format!("folder {} at {content}", place.display());
                            assert_eq!(source, expected);
                        }
                        let scan = folder.scan().unwrap();
                        assert!(scan.skipped.is_empty(), "{:?}", scan.skipped);
                    }
                });
            }
            (1..=400).for_each(swap_both);
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(content(&open(&own), "default/db/a").unwrap(), "..400");
        assert_eq!(content(&open(&shared), "default/db/b").unwrap(), "..400");
    }

    #[test]
    fn file_that_is_replaced_by_renaming_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("db");
        fs::create_dir(&secret).unwrap();
        let write = |i: u32| {
            let text = i.to_string().repeat(20);
            fs::write(secret.join("new"), text).unwrap();
            fs::rename(secret.join("new"), secret.join("key")).unwrap();
        };
        write(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let folder = open(dir.path());
                while !done.load(Ordering::Relaxed) {
                    let text = content(&folder, "default/db/key").unwrap();
                    let one = &text[..text.len() / 20];
                    assert_eq!(text, one.repeat(20));
                }
            });
            (1..=1_000).for_each(write);
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn file_or_folder_that_others_may_change_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("db");
        swap(&secret, "..1", &keys("x"));
        let folder = open(dir.path());
        let version = secret.join("..1");
        let set = |path: &Path, mode: u32| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (path, good, bad) in [
            (version.join("a"), 0o644, 0o664),
            (version.join("a"), 0o440, 0o646),
            (version, 0o755, 0o775),
            (secret, 0o755, 0o757),
            (dir.path().to_owned(), 0o755, 0o777),
        ] {
            set(&path, bad);
            let said = read(&folder, "default/db/a").unwrap_err();
            assert!(said.contains("others may write it"), "{said}");
            set(&path, good);
            assert_eq!(content(&folder, "default/db/a").unwrap(), "x");
        }
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give a file away");
            return;
        }
        let file = dir.path().join("db/..1/a");
        std::os::unix::fs::chown(&file, Some(12_345), None).unwrap();
        let said = read(&folder, "default/db/a").unwrap_err();
        assert!(said.contains("number 12345"), "{said}");
        assert_eq!(content(&folder, "default/db/b").unwrap(), "x");
    }

    #[test]
    fn hidden_names_and_other_repositories_are_resources() {
        let dir = tempfile::tempdir().unwrap();
        swap(&dir.path().join("db"), "..1", &keys("x"));
        let folder = open(dir.path());
        let offered = folder.scan().unwrap().offered;
        let names: Vec<_> = offered
            .iter()
            .map(|offered| offered.path.to_string())
            .collect();
        assert_eq!(names, ["default/db/a", "default/db/b"]);
        assert_eq!(offered[0].size, 1);
        assert_eq!(content(&folder, "other/db/a"), None);
    }

    #[test]
    fn what_is_no_resource_is_released_or_stops_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        let secret = base.join("db");
        fs::create_dir_all(secret.join("folder")).unwrap();
        fs::write(dir.path().join("outside"), "not yours").unwrap();
        fs::write(base.join("loose"), "x").unwrap();
        fs::write(secret.join("good"), "good").unwrap();
        fs::write(secret.join("large"), "x".repeat(LIMIT + 1)).unwrap();
        fs::write(secret.join("empty"), "").unwrap();
        fs::write(secret.join(".dockerconfigjson"), "x").unwrap();
        fs::write(secret.join("a b"), "x").unwrap();
        symlink("../../outside", secret.join("out")).unwrap();
        symlink("/etc/hostname", secret.join("absolute")).unwrap();
        symlink("loop", secret.join("loop")).unwrap();
        symlink("gone", secret.join("dangling")).unwrap();
        symlink("..", base.join("up")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, secret.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
        let folder = open(&base);
        let scan = folder.scan().unwrap();
        let offered: Vec<_> = scan.offered.iter().map(|o| o.path.to_string()).collect();
        assert_eq!(offered, ["default/db/good"]);
        let skipped: BTreeMap<_, _> = scan.skipped.into_iter().collect();
        for (name, reason) in [
            ("loose", "beside the secrets' folders"),
            ("up", "leads out"),
            ("db/large", "more than 100 bytes"),
            ("db/empty", "it is empty"),
            ("db/.dockerconfigjson", "may hold letters"),
            ("db/a b", "may hold letters"),
            ("db/out", "leads out"),
            ("db/absolute", "leads out"),
            ("db/loop", "leads out"),
            ("db/pipe", "no regular file"),
            ("db/folder", "no regular file"),
        ] {
            let said = &skipped[&base.join(name)];
            assert!(said.contains(reason), "{name}: {said}");
        }
        assert_eq!(skipped.len(), 11, "{skipped:?}");
        assert_eq!(content(&folder, "default/db/good").unwrap(), "good");
        assert_eq!(content(&folder, "default/db/dangling"), None);
        for name in [
            "large", "empty", "out", "absolute", "loop", "pipe", "folder",
        ] {
            let said = read(&folder, &format!("default/db/{name}")).unwrap_err();
            assert!(said.contains(&format!("db/{name}: it ")), "{said}");
            assert!(!said.contains("not yours"));
        }
        assert!(
            read(&folder, "default/up/outside")
                .unwrap_err()
                .contains("leads out")
        );
        assert!(
            read(&folder, "default/loose/x")
                .unwrap_err()
                .contains("no folder")
        );
    }

    #[test]
    fn folder_that_others_may_write_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, accepted) in [
            (0o755, true),
            (0o700, true),
            (0o775, false),
            (0o1777, false),
        ] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let opened = Folder::open(dir.path(), LIMIT);
            assert_eq!(opened.is_ok(), accepted, "{mode:o}");
            if let Err(error) = opened {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
        let missing = dir.path().join("missing");
        let said = Folder::open(&missing, LIMIT).err().unwrap().to_string();
        assert!(said.contains("sources.folder"), "{said}");
    }

    #[test]
    fn versions_that_lead_nowhere_are_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("db")).unwrap();
        symlink("..gone", dir.path().join("db/..data")).unwrap();
        let said = read(&open(dir.path()), "default/db/a").unwrap_err();
        assert!(said.contains("..data leads to no folder"), "{said}");
    }
}
