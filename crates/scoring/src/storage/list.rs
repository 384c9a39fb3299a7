//! Several files at once: a pattern, or everything that lies directly in a folder. Sorted by name, and bounded.

use std::path::{Path as FilePath, PathBuf};

use futures_util::StreamExt as _;
use object_store::path::Path;
use tokio::time::timeout;

use super::connect::Target;
use super::error::Cause;
use super::location::{Location, Place, checked_key, is_folder};
use super::pattern;

/// A file or object that was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Where it is.
    pub location: Location,
    /// Its size, when it is known without opening it.
    pub size: Option<u64>,
}

/// What was found, with names relative to where the search began.
struct Search<'a> {
    pattern: &'a str,
    found: Vec<(String, u64)>,
    seen: usize,
    /// Whether something lies in folders below, which the pattern does not mean.
    below: bool,
}

impl Search<'_> {
    fn look_at(&mut self, name: &str, size: u64) -> Result<(), Cause> {
        self.seen += 1;
        if self.seen > MAX_SEEN {
            return Err(Cause::TooMany(format!(
                "more than {MAX_SEEN} names are there: name a folder below, or a pattern that begins with one"
            )));
        }
        let is_meant = pattern::matches(self.pattern, name)
            // Of a whole folder, what says how it was written (_SUCCESS, _metadata) is no data.
            && !(self.pattern == "*" && name.starts_with('_'));
        self.below |= name.contains('/') && !is_meant;
        if is_meant {
            self.found.push((name.to_owned(), size));
        }
        if self.found.len() > MAX_FOUND {
            return Err(Cause::TooMany(format!(
                "more than {MAX_FOUND} files are meant: give a narrower pattern"
            )));
        }
        Ok(())
    }

    fn sorted(mut self) -> Result<Vec<(String, u64)>, Cause> {
        if self.found.is_empty() {
            return Err(match self.below {
                true => Cause::OnlyBelow,
                false => Cause::NotFound,
            });
        }
        self.found.sort();
        Ok(self.found)
    }
}

/// Lists what a location in a storage means.
pub(super) async fn remote(target: &Target) -> Result<Vec<Entry>, Cause> {
    let (Place::Azure { key, .. } | Place::S3 { key, .. } | Place::Gcs { key, .. }) =
        &target.location.0
    else {
        return Err(Cause::Unsupported(
            "https:// has no listing: name each file, or use a storage that lists (az://, s3://, gs://)",
        ));
    };
    let (base, wanted) = meaning(key);
    let prefix = Path::parse(&base).map_err(|_| Cause::NotUnderstood("a name in it is none"))?;
    let mut search = Search {
        pattern: wanted,
        found: Vec::new(),
        seen: 0,
        below: false,
    };
    let mut names = target.objects.list((!base.is_empty()).then_some(&prefix));
    let limit = target.patience.answer + target.patience.idle;
    loop {
        let next = timeout(limit, names.next()).await;
        let next = next.map_err(|_| Cause::Silent { limit, attempts: 0 })?;
        let Some(next) = next else { break };
        let object = next.map_err(|error| target.cause(&error))?;
        let name = object.location.as_ref();
        if checked_key(name).is_err() {
            return Err(Cause::Name(name.to_owned()));
        }
        let below = name
            .strip_prefix(&base)
            .map(|name| name.trim_start_matches('/'));
        if let Some(below) = below.filter(|below| !below.is_empty()) {
            search.look_at(below, object.size)?;
        }
    }
    let found = search.sorted()?.into_iter();
    Ok(found
        .map(|(name, size)| Entry {
            location: target.location.with_key(&joined(&base, &name)),
            size: Some(size),
        })
        .collect())
}

/// Lists what a path of this machine means.
pub(super) fn local(path: &FilePath) -> Result<Vec<Entry>, Cause> {
    let text = path.to_string_lossy();
    let folder = path.is_dir();
    let (base, wanted) = if folder {
        (text.trim_end_matches('/').to_owned(), "*")
    } else {
        meaning(&text)
    };
    let root = match (base.as_str(), text.starts_with('/')) {
        ("", true) => PathBuf::from("/"),
        ("", false) => PathBuf::from("."),
        _ => PathBuf::from(&base),
    };
    let mut search = Search {
        pattern: wanted,
        found: Vec::new(),
        seen: 0,
        below: false,
    };
    let deepest = if wanted.contains("**") {
        MAX_DEPTH
    } else {
        wanted.split('/').count()
    };
    walk(&root, "", deepest, &mut search)?;
    let found = search.sorted()?.into_iter();
    Ok(found
        .map(|(name, size)| {
            let path = match base.as_str() {
                "" if text.starts_with('/') => root.join(&name),
                "" => PathBuf::from(&name),
                _ => root.join(&name),
            };
            Entry {
                location: Location(Place::File(path)),
                size: Some(size),
            }
        })
        .collect())
}

fn walk(
    folder: &FilePath,
    above: &str,
    deepest: usize,
    search: &mut Search<'_>,
) -> Result<(), Cause> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A name that is no text cannot be written into a manifest.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let name = joined(above, &name);
        let is_link = entry.file_type()?.is_symlink();
        // A link to a file counts as the file; one to a folder may lead round in a circle.
        let Ok(metadata) = std::fs::metadata(entry.path()) else {
            continue;
        };
        if metadata.is_file() {
            search.look_at(&name, metadata.len())?;
        } else if metadata.is_dir() && !is_link {
            if deepest > 1 {
                walk(&entry.path(), &name, deepest - 1, search)?;
            } else {
                search.below = true;
            }
        }
    }
    Ok(())
}

/// Where the search begins, and what is looked for below.
fn meaning(key: &str) -> (String, &str) {
    if is_folder(key) && !pattern::is_pattern(key) {
        (key.trim_end_matches('/').to_owned(), "*")
    } else {
        pattern::split(key)
    }
}

fn joined(above: &str, name: &str) -> String {
    if above.is_empty() {
        name.to_owned()
    } else {
        format!("{above}/{name}")
    }
}

/// How many files one location may mean.
const MAX_FOUND: usize = 100_000;
/// How many names are looked at.
const MAX_SEEN: usize = 2_000_000;
const MAX_DEPTH: usize = 32;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(path: &FilePath, root: &FilePath) -> Vec<String> {
        let entries = local(path).unwrap();
        let paths = entries
            .iter()
            .map(|entry| entry.location.as_path().unwrap());
        paths
            .map(|path| path.strip_prefix(root).unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn folder_means_more_or_less_than_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in [
            "b.csv",
            "a.csv",
            ".hidden.csv",
            "c.txt",
            "x/d.csv",
            "x/y/e.csv",
            "x/.z/f.csv",
        ] {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        std::os::unix::fs::symlink(root, root.join("x/round")).unwrap();
        std::os::unix::fs::symlink(root.join("a.csv"), root.join("link.csv")).unwrap();
        assert_eq!(names(root, root), ["a.csv", "b.csv", "c.txt", "link.csv"]);
        assert_eq!(
            names(&root.join("*.csv"), root),
            ["a.csv", "b.csv", "link.csv"]
        );
        assert_eq!(names(&root.join("*/?.csv"), root), ["x/d.csv"]);
        assert_eq!(
            names(&root.join("**/*.csv"), root),
            ["a.csv", "b.csv", "link.csv", "x/d.csv", "x/y/e.csv"]
        );
        assert_eq!(names(&root.join("x/**"), root), ["x/d.csv", "x/y/e.csv"]);
        assert_eq!(local(&root.join("*.parquet")), Err(Cause::OnlyBelow));
        assert_eq!(local(&root.join("none/*.csv")), Err(Cause::NotFound));
        assert_eq!(local(&root.join("x/y/*.parquet")), Err(Cause::NotFound));
        std::fs::write(root.join("x/y/_SUCCESS"), "").unwrap();
        assert_eq!(names(&root.join("x/y"), root), ["x/y/e.csv"]);
        assert_eq!(names(&root.join("x/y/_*"), root), ["x/y/_SUCCESS"]);
        let size = local(&root.join("x/*.csv")).unwrap();
        assert_eq!(size.first().unwrap().size, Some(7));
    }

    #[test]
    fn key_without_a_star_searches_elsewhere() {
        assert_eq!(meaning("a/b/"), ("a/b".to_owned(), "*"));
        assert_eq!(meaning(""), (String::new(), "*"));
        assert_eq!(meaning("a/*.csv"), ("a".to_owned(), "*.csv"));
        assert_eq!(meaning("a/*/"), ("a".to_owned(), "*/"));
    }

    #[test]
    fn storage_without_an_end_is_listed_for_ever() {
        let mut search = Search {
            pattern: "*",
            found: Vec::new(),
            seen: 0,
            below: false,
        };
        let last = (0..).find_map(|number: u32| search.look_at(&number.to_string(), 1).err());
        assert!(matches!(last, Some(Cause::TooMany(_))));
    }
}
