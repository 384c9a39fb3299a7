//! A development root on disk: `root.pem`, `keys.json` and `collateral/` in one folder that is written whole.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::DevelopmentError;
use super::root::{DevelopmentRoot, Parts};

pub(crate) fn open_or_create(folder: &Path, now: u64) -> Result<DevelopmentRoot, DevelopmentError> {
    if !is_vacant(folder)? {
        return open(folder);
    }
    let root = DevelopmentRoot::generate(now)?;
    match save(&root, folder) {
        Ok(()) => Ok(root),
        // Somebody else was faster; then theirs is the one.
        Err(_) if !is_vacant(folder)? => open(folder),
        Err(error) => Err(error),
    }
}

pub(crate) fn open(folder: &Path) -> Result<DevelopmentRoot, DevelopmentError> {
    let not_a_root = |why: String| DevelopmentError::NotARoot {
        path: folder.to_owned(),
        why,
    };
    let path = folder.join(KEYS);
    let mode = match fs::metadata(&path) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(not_a_root(format!("it has no {KEYS}")));
        }
        Err(source) => return Err(DevelopmentError::Io { path, source }),
    };
    if mode & 0o077 != 0 {
        return Err(DevelopmentError::Exposed { path, mode });
    }
    let keys: Keys =
        serde_json::from_slice(&read(&path)?).map_err(|e| not_a_root(format!("{KEYS}: {e}")))?;
    if keys.format != FORMAT {
        return Err(not_a_root(format!(
            "{KEYS} has format {}, and this build reads {FORMAT}",
            keys.format
        )));
    }
    let decoded = keys
        .keys
        .into_iter()
        .map(|(name, text)| match STANDARD.decode(text) {
            Ok(key) => Ok((name, key)),
            Err(e) => Err(not_a_root(format!("{KEYS}: {name}: {e}"))),
        })
        .collect::<Result<BTreeMap<_, _>, _>>()?;
    let certificate = pem::parse(read(&folder.join(ROOT))?)
        .map_err(|e| not_a_root(format!("{ROOT}: {e}")))?
        .into_contents();
    DevelopmentRoot::from_parts(&Parts {
        certificate,
        created: keys.created,
        keys: decoded,
    })
    .map_err(not_a_root)
}

pub(crate) fn save(root: &DevelopmentRoot, folder: &Path) -> Result<(), DevelopmentError> {
    if !is_vacant(folder)? {
        return Err(DevelopmentError::NotARoot {
            path: folder.to_owned(),
            why: "there is something already".to_owned(),
        });
    }
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    make_folder(parent)?;
    let draft = Draft::beside(folder, parent)?;
    let parts = root.parts()?;
    let keys = Keys {
        format: FORMAT,
        created: parts.created,
        keys: parts
            .keys
            .iter()
            .map(|(name, key)| (name.clone(), STANDARD.encode(key)))
            .collect(),
    };
    let keys = serde_json::to_vec_pretty(&keys).map_err(|e| DevelopmentError::Io {
        path: draft.0.join(KEYS),
        source: io::Error::other(e),
    })?;
    write(&draft.0.join(KEYS), &keys)?;
    write(&draft.0.join(ROOT), root.certificate_pem().as_bytes())?;
    for (name, body) in root.collateral()? {
        let path = draft.0.join(COLLATERAL).join(name);
        make_folder(path.parent().unwrap_or(&draft.0))?;
        write(&path, &body)?;
    }
    // An empty folder is replaced, a folder with something in it is not.
    fs::rename(&draft.0, folder).map_err(|source| DevelopmentError::Io {
        path: folder.to_owned(),
        source,
    })?;
    // The name is on disk when its folder is.
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(|source| DevelopmentError::Io {
            path: parent.to_owned(),
            source,
        })
}

/// A folder that takes the place of another at once; what is left of it is removed.
struct Draft(PathBuf);

impl Draft {
    fn beside(folder: &Path, parent: &Path) -> Result<Self, DevelopmentError> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let path = parent.join(format!(".{name}.{}", hex::encode(random)));
        make_folder(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After the rename there is nothing under this name.
        fs::remove_dir_all(&self.0).ok();
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    format: u32,
    created: u64,
    /// PKCS#8, base64.
    keys: BTreeMap<String, String>,
}

fn is_vacant(folder: &Path) -> Result<bool, DevelopmentError> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(DevelopmentError::Io {
            path: folder.to_owned(),
            source,
        }),
    }
}

fn make_folder(path: &Path) -> Result<(), DevelopmentError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| DevelopmentError::Io {
            path: path.to_owned(),
            source,
        })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), DevelopmentError> {
    let file = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    file().map_err(|source| DevelopmentError::Io {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, DevelopmentError> {
    fs::read(path).map_err(|source| DevelopmentError::Io {
        path: path.to_owned(),
        source,
    })
}

const FORMAT: u32 = 1;
const KEYS: &str = "keys.json";
const ROOT: &str = "root.pem";
const COLLATERAL: &str = "collateral";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn second_opening_finds_the_first_ones_root() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("deep/root");
        let made = DevelopmentRoot::open_or_create(&folder, NOW).unwrap();
        assert_eq!(
            made,
            DevelopmentRoot::open_or_create(&folder, NOW + 9).unwrap()
        );
        assert_eq!(
            fs::read_to_string(folder.join(ROOT)).unwrap(),
            made.certificate_pem()
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(KEYS))), (0o700, 0o600));
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn those_who_begin_at_once_have_two_roots() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("root");
        let opened: Vec<DevelopmentRoot> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| DevelopmentRoot::open_or_create(&folder, NOW).unwrap()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(opened.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn root_is_kept_over_another() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("root");
        let kept = DevelopmentRoot::open_or_create(&folder, NOW).unwrap();
        let other = DevelopmentRoot::generate(NOW).unwrap();
        assert!(other.save(&folder).is_err());
        assert_eq!(DevelopmentRoot::open(&folder).unwrap(), kept);
    }

    #[test]
    fn half_written_folder_is_no_root() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(ROOT), "").unwrap();
        assert!(matches!(
            DevelopmentRoot::open_or_create(folder.path(), NOW),
            Err(DevelopmentError::NotARoot { .. })
        ));
    }

    #[test]
    fn keys_of_another_root_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let (one, two) = (parent.path().join("one"), parent.path().join("two"));
        DevelopmentRoot::open_or_create(&one, NOW).unwrap();
        DevelopmentRoot::open_or_create(&two, NOW).unwrap();
        fs::copy(two.join(ROOT), one.join(ROOT)).unwrap();
        let error = DevelopmentRoot::open(&one).unwrap_err();
        assert!(error.to_string().contains("two roots"), "{error}");
    }

    #[test]
    fn keys_that_others_can_read_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("root");
        DevelopmentRoot::open_or_create(&folder, NOW).unwrap();
        fs::set_permissions(folder.join(KEYS), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            DevelopmentRoot::open(&folder),
            Err(DevelopmentError::Exposed { mode: 0o640, .. })
        ));
    }
}
