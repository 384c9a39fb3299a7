//! Collateral on disk: each piece at its place ([`Wanted::path`]), and beside it when it came and from where.
//!
//! A file is written beside its place and renamed into it, the note last: the note has the SHA-256 of the rest, so what
//! was torn or rotted shows, is dropped and is fetched again. A file without a note was put there by hand and is as old
//! as its date says. What was read stays in memory for as long as it lies there unchanged. Number and bytes are bounded: beyond, what strangers' evidence
//! brought here and was used least recently goes first.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use strongroom_verifier::{CollateralItem, RootId, Wanted};

use crate::EventId;

/// One piece of collateral as it is kept.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) item: Arc<CollateralItem>,
    pub(super) note: Note,
}

/// When and from where a piece came.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// In seconds since 1970.
    pub(super) fetched_at: u64,
    /// When its maker will have published another, as the piece itself says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next_update: Option<u64>,
    /// For how many seconds the service said that it stays the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_age: Option<u64>,
    /// The service, or how else it came.
    pub(super) source: String,
    /// Over body and chain.
    pub(super) sha256: String,
}

impl Note {
    pub(super) fn new(item: &CollateralItem, source: &str, fetched_at: u64) -> Self {
        Self {
            fetched_at,
            next_update: None,
            max_age: None,
            source: source.to_owned(),
            sha256: checksum(item),
        }
    }
}

/// A collateral folder.
pub(super) struct Cache {
    folder: PathBuf,
    bounds: Bounds,
    index: Mutex<Index>,
}

/// How much a folder may hold.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) entries: usize,
    pub(super) bytes: u64,
}

#[derive(Default)]
struct Index {
    entries: HashMap<Wanted, Entry>,
    bytes: u64,
    /// Counts uses, for their order.
    uses: u64,
}

struct Entry {
    bytes: u64,
    used: u64,
    /// What lay there when it was read, and the piece.
    read: Option<(Option<Stamp>, Kept)>,
}

/// A file that is written again, here or by another program, has another one.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Stamp {
    inode: u64,
    modified: Option<SystemTime>,
    length: u64,
}

impl Cache {
    /// Takes stock of a folder, which need not be there yet.
    pub(super) fn open(folder: &Path, roots: &[RootId], bounds: Bounds) -> Self {
        let mut index = Index::default();
        let mut found = scan(folder, roots);
        found.sort_by_key(|(wanted, _)| modified(&folder.join(wanted.path())));
        for (wanted, bytes) in found {
            index.put(wanted, bytes, None);
        }
        Self {
            folder: folder.to_owned(),
            bounds,
            index: Mutex::new(index),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is kept of this, read once, and again when somebody brought another or took it away. What is damaged is
    /// dropped.
    pub(super) fn kept(&self, wanted: &Wanted) -> Option<Kept> {
        let stamp = self.stamp(wanted);
        let known = self.index().touch(wanted, stamp);
        known.or_else(|| self.read_again(wanted))
    }

    /// As [`Self::kept`], from the disk.
    pub(super) fn read_again(&self, wanted: &Wanted) -> Option<Kept> {
        let stamp = self.stamp(wanted);
        match read(&self.folder, wanted) {
            Ok(Some(kept)) => {
                let bytes = size(&kept.item);
                let read = Some((stamp, kept.clone()));
                self.index().put(wanted.clone(), bytes, read);
                Some(kept)
            }
            Ok(None) => {
                self.index().remove(wanted);
                None
            }
            Err(damage) => {
                let path = wanted.path();
                // What has no note was put there by hand, and is whoever's that did.
                if note_path(&self.folder.join(&path)).exists() {
                    tracing::warn!(path, damage, "damaged collateral was dropped");
                    self.drop_files(wanted);
                } else {
                    tracing::warn!(path, damage, "a file in the collateral folder is of no use");
                    self.index().remove(wanted);
                }
                None
            }
        }
    }

    /// Keeps a piece, durably, before it returns. What cannot be written is kept in memory: a full disk must not make
    /// every attestation ask its service.
    pub(super) fn keep(&self, wanted: &Wanted, kept: Kept) -> std::io::Result<()> {
        let written = self.write(wanted, &kept);
        let bytes = size(&kept.item);
        let read = Some((self.stamp(wanted), kept));
        let mut index = self.index();
        index.put(wanted.clone(), bytes, read);
        let surplus = index.surplus(self.bounds, wanted);
        drop(index);
        for wanted in surplus {
            self.drop_files(&wanted);
        }
        written
    }

    fn write(&self, wanted: &Wanted, kept: &Kept) -> std::io::Result<()> {
        let place = self.folder.join(wanted.path());
        let parent = place.parent().unwrap_or(&self.folder);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)?;
        write(&place, &kept.item.body)?;
        if let Some(chain) = wanted.chain_path() {
            write(&self.folder.join(chain), kept.item.issuer_chain.as_bytes())?;
        }
        let note = serde_json::to_vec(&kept.note).map_err(std::io::Error::other)?;
        write(&note_path(&place), &note)
    }

    /// The note's, which is written last: with it all is there. Without one, the piece's own.
    fn stamp(&self, wanted: &Wanted) -> Option<Stamp> {
        let place = self.folder.join(wanted.path());
        let metadata = fs::metadata(note_path(&place)).or_else(|_| fs::metadata(&place));
        metadata.ok().map(|metadata| Stamp {
            inode: metadata.ino(),
            modified: metadata.modified().ok(),
            length: metadata.len(),
        })
    }

    /// Everything that lies in the folder now.
    pub(super) fn wanted(&self, roots: &[RootId]) -> Vec<Wanted> {
        let mut all: Vec<Wanted> = scan(&self.folder, roots)
            .into_iter()
            .map(|(wanted, _)| wanted)
            .collect();
        all.sort();
        all
    }

    fn drop_files(&self, wanted: &Wanted) {
        self.index().remove(wanted);
        let place = self.folder.join(wanted.path());
        let chain = wanted.chain_path().map(|chain| self.folder.join(chain));
        // The note first: without it the rest would pass for something put there by hand.
        let paths = [Some(note_path(&place)), chain, Some(place)];
        for path in paths.into_iter().flatten() {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a piece of collateral could not be removed");
            }
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // Each call leaves the index whole.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn touch(&mut self, wanted: &Wanted, stamp: Option<Stamp>) -> Option<Kept> {
        let entry = self.entries.get_mut(wanted)?;
        self.uses += 1;
        entry.used = self.uses;
        let (read, kept) = entry.read.as_ref()?;
        (*read == stamp).then(|| kept.clone())
    }

    fn put(&mut self, wanted: Wanted, bytes: u64, read: Option<(Option<Stamp>, Kept)>) {
        self.remove(&wanted);
        self.uses += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        let used = self.uses;
        self.entries.insert(wanted, Entry { bytes, used, read });
    }

    fn remove(&mut self, wanted: &Wanted) {
        if let Some(entry) = self.entries.remove(wanted) {
            self.bytes = self.bytes.saturating_sub(entry.bytes);
        }
    }

    /// Takes out what is too much, but never the newest.
    fn surplus(&mut self, bounds: Bounds, newest: &Wanted) -> Vec<Wanted> {
        let mut surplus = Vec::new();
        while self.entries.len() > bounds.entries || self.bytes > bounds.bytes {
            let oldest = self
                .entries
                .iter()
                .filter(|(wanted, _)| super::depends_on_the_guest(wanted) && *wanted != newest)
                .min_by_key(|(_, entry)| entry.used)
                .map(|(wanted, _)| wanted.clone());
            let Some(oldest) = oldest else { break };
            self.remove(&oldest);
            surplus.push(oldest);
        }
        surplus
    }
}

/// Reads one piece from a folder and looks at its form. An error says what is wrong with what lies there.
pub(super) fn read(folder: &Path, wanted: &Wanted) -> Result<Option<Kept>, String> {
    let place = folder.join(wanted.path());
    let Some(body) = read_bounded(&place, super::body_limit(wanted))? else {
        return Ok(None);
    };
    let chain = match wanted.chain_path() {
        Some(chain) => read_bounded(&folder.join(chain), super::MAX_CHAIN)?.unwrap_or_default(),
        None => Vec::new(),
    };
    let issuer_chain = String::from_utf8(chain).map_err(|e| e.to_string())?;
    let item = CollateralItem { body, issuer_chain };
    let next_update = item.check_form(wanted).map_err(|e| e.to_string())?;
    let note = match read_bounded(&note_path(&place), MAX_NOTE)? {
        Some(text) => parse_note(&text)?,
        None => Note::new(&item, "a file", modified(&place)),
    };
    if note.sha256 != checksum(&item) {
        return Err("it is not what was written: its SHA-256 is another".to_owned());
    }
    let note = Note {
        next_update,
        ..note
    };
    Ok(Some(Kept {
        item: Arc::new(item),
        note,
    }))
}

/// Parses the note beside a piece.
pub(super) fn parse_note(text: &[u8]) -> Result<Note, String> {
    serde_json::from_slice(text).map_err(|e| format!("its note: {e}"))
}

/// Everything in a folder that is at a place of something, and its length.
pub(super) fn scan(folder: &Path, roots: &[RootId]) -> Vec<(Wanted, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new(), 0)];
    let mut seen = 0usize;
    while let Some((folder, prefix, depth)) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            seen += 1;
            if seen > MAX_SCANNED {
                tracing::warn!(folder = %folder.display(), "the collateral folder has too many files to look at them all");
                return found;
            }
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // Follows links: a folder that was mounted elsewhere is a folder.
            let Ok(metadata) = fs::metadata(entry.path()) else {
                continue;
            };
            let path = format!("{prefix}{name}");
            if metadata.is_dir() {
                if depth < MAX_DEPTH {
                    folders.push((entry.path(), format!("{path}/"), depth + 1));
                }
            } else if let Some(wanted) = Wanted::from_path(&path, roots) {
                found.push((wanted, metadata.len()));
            } else if name.starts_with(TEMPORARY) && is_abandoned(&metadata) {
                fs::remove_file(entry.path()).ok();
            }
        }
    }
    found
}

/// Over the body, its length, and the chain.
fn checksum(item: &CollateralItem) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(
        &u64::try_from(item.body.len())
            .unwrap_or(u64::MAX)
            .to_be_bytes(),
    );
    context.update(&item.body);
    context.update(item.issuer_chain.as_bytes());
    hex::encode(context.finish())
}

fn size(item: &CollateralItem) -> u64 {
    let length = item.body.len().saturating_add(item.issuer_chain.len());
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn note_path(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".note");
    PathBuf::from(name)
}

fn modified(path: &Path) -> u64 {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_secs())
}

fn is_abandoned(metadata: &fs::Metadata) -> bool {
    metadata
        .modified()
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age.as_secs() > 3_600))
}

fn read_bounded(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, String> {
    let file = match fs::metadata(path) {
        // Opening a pipe would wait for whoever writes to it.
        Ok(metadata) if !metadata.is_file() => return Err("it is no file".to_owned()),
        _ => File::open(path),
    };
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    match bytes.len() > limit {
        true => Err(format!("it has more than {limit} bytes")),
        false => Ok(Some(bytes)),
    }
}

/// Writes a file whole or not at all.
fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_file_name(format!("{TEMPORARY}{}", EventId::fresh()));
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        fs::remove_file(&beside).ok();
    }
    written
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            entries: 4_096,
            bytes: 64 * 1024 * 1024,
        }
    }
}

const TEMPORARY: &str = ".new-";
const MAX_NOTE: usize = 4 * 1024;
const MAX_DEPTH: usize = 4;
/// Five files a piece at most.
const MAX_SCANNED: usize = 40_000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        entries: 3,
        bytes: 2_000,
    };

    fn rim(number: usize) -> Wanted {
        Wanted::NvidiaRim {
            id: number.to_string(),
        }
    }

    fn keep(cache: &Cache, wanted: &Wanted, length: usize) {
        let mut body = b"<SoftwareIdentity>".to_vec();
        body.resize(length, b' ');
        let item = CollateralItem {
            body,
            issuer_chain: String::new(),
        };
        let note = Note::new(&item, "a test", 1);
        let item = Arc::new(item);
        cache.keep(wanted, Kept { item, note }).unwrap();
    }

    fn on_disk(folder: &Path) -> usize {
        scan(folder, &[]).len()
    }

    #[test]
    fn strangers_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), &[], BOUNDS);
        for number in 0..20 {
            keep(&cache, &rim(number), 100);
            // What is in use stays.
            assert!(cache.kept(&rim(0)).is_some());
        }
        assert_eq!(on_disk(folder.path()), 3);
        assert_eq!(
            fs::read_dir(folder.path().join("nvidia/rim"))
                .unwrap()
                .count(),
            6
        );
        keep(&cache, &rim(30), 1_500);
        keep(&cache, &rim(31), 1_500);
        assert_eq!(on_disk(folder.path()), 1);
    }

    #[test]
    fn bound_is_forgotten_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), &[], BOUNDS);
        for number in 0..3 {
            keep(&cache, &rim(number), 100);
        }
        let again = Cache::open(folder.path(), &[], BOUNDS);
        keep(&again, &rim(3), 100);
        assert_eq!(on_disk(folder.path()), 3);
        assert!(again.kept(&rim(3)).is_some());
    }

    #[test]
    fn file_that_somebody_put_there_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(rim(0).path());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, "no manifest").unwrap();
        let cache = Cache::open(folder.path(), &[], BOUNDS);
        assert!(cache.kept(&rim(0)).is_none());
        assert!(place.exists());
    }

    #[test]
    fn pipe_in_the_folder_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(rim(0).path());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&place).status();
        assert!(made.unwrap().success());
        let cache = Cache::open(folder.path(), &[], BOUNDS);
        assert!(cache.kept(&rim(0)).is_none());
        assert!(read(folder.path(), &rim(0)).is_err());
    }

    #[test]
    fn folder_of_folders_is_walked_without_end() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("nvidia")).unwrap();
        assert!(scan(folder.path(), &[]).is_empty());
    }

    #[test]
    fn piece_that_cannot_be_written_is_half_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("nvidia"), "in the way").unwrap();
        let cache = Cache::open(folder.path(), &[], BOUNDS);
        let item = Arc::new(CollateralItem {
            body: b"<SoftwareIdentity>".to_vec(),
            issuer_chain: String::new(),
        });
        let note = Note::new(&item, "a test", 1);
        assert!(cache.keep(&rim(0), Kept { item, note }).is_err());
        // It is good until a restart.
        assert!(cache.kept(&rim(0)).is_some());
        let again = Cache::open(folder.path(), &[], BOUNDS);
        assert!(again.kept(&rim(0)).is_none());
    }
}
