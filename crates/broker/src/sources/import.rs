//! What an upstream broker (Trustee) kept in plaintext, read so that it can be stored in this one.
//!
//! Two of its stores: `LocalFs`, one file for each resource, named `repository\x2Ftype\x2Ftag` with the escape spelt out
//! (older ones, and operators that mount Kubernetes Secrets, have folders instead), and `LocalJson`, one JSON object from
//! `repository/type/tag` to the content in URL-safe base64. In both the resources lie in the namespace `repository`;
//! its other namespaces hold policies, reference values and sessions, and are not read.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use strongroom_wire::resource::ResourcePath;
use zeroize::Zeroizing;

use super::beneath::{Folder, Unusable};

/// The resources that a store of upstream's holds.
pub struct Import {
    base: PathBuf,
    resources: BTreeMap<ResourcePath, Content>,
    skipped: Vec<Skipped>,
}

enum Content {
    /// The names that lead to the file from the base.
    File(Vec<String>),
    Bytes(Zeroizing<Vec<u8>>),
}

/// Something that is no resource.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Skipped {
    /// What it is called there, without control characters.
    pub name: String,
    /// Why it is none.
    pub reason: String,
}

impl Import {
    /// Looks at a `LocalFs` folder: the one that upstream's configuration names, or the `repository` folder in it.
    ///
    /// # Errors
    /// [`ImportError`] when the folder cannot be read.
    pub fn from_local_fs(dir: &Path) -> Result<Self, ImportError> {
        let failed = |error: Unusable| ImportError::Unusable {
            path: dir.to_owned(),
            reason: error.to_string(),
        };
        let given = Folder::open(dir).map_err(failed)?;
        let base = match given.is_folder(NAMESPACE) {
            true => dir.join(NAMESPACE),
            false => dir.to_owned(),
        };
        let mut import = Self::empty(base);
        let folder = Folder::open(&import.base).map_err(failed)?;
        import.walk(&folder, &mut Vec::new()).map_err(failed)?;
        Ok(import)
    }

    /// Reads a `LocalJson` file: the one called `repository` in the folder that upstream's configuration names, or that
    /// folder.
    ///
    /// # Errors
    /// [`ImportError`] when the file cannot be read, is too large, or is no such store.
    pub fn from_local_json(file: &Path) -> Result<Self, ImportError> {
        let path = match file.is_dir() {
            true => file.join(NAMESPACE),
            false => file.to_owned(),
        };
        let unusable = |reason: String| ImportError::Unusable {
            path: path.clone(),
            reason,
        };
        let opened = File::open(&path).map_err(|error| unusable(error.to_string()))?;
        let mut text = Zeroizing::new(Vec::new());
        opened
            .take(MAX_JSON.saturating_add(1))
            .read_to_end(&mut text)
            .map_err(|error| unusable(error.to_string()))?;
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_JSON) {
            return Err(unusable(format!("it has more than {MAX_JSON} bytes")));
        }
        let mut import = Self::empty(path.clone());
        import.add_json(&text).map_err(unusable)?;
        Ok(import)
    }

    fn empty(base: PathBuf) -> Self {
        Self {
            base,
            resources: BTreeMap::new(),
            skipped: Vec::new(),
        }
    }

    /// The folder or file that holds the contents.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The names of the resources, in order.
    pub fn paths(&self) -> impl Iterator<Item = &ResourcePath> {
        self.resources.keys()
    }

    /// What is no resource, and why.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The content of a resource, of `limit` bytes at most.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub fn content(&self, path: &ResourcePath, limit: usize) -> Result<Zeroizing<Vec<u8>>, String> {
        match self.resources.get(path) {
            None => Err("it is not there".to_owned()),
            Some(Content::Bytes(bytes)) if bytes.len() > limit => {
                Err(Unusable::TooLarge(limit).to_string())
            }
            Some(Content::Bytes(bytes)) => Ok(bytes.clone()),
            Some(Content::File(names)) => {
                self.read(names, limit).map_err(|error| error.to_string())
            }
        }
    }

    fn read(&self, names: &[String], limit: usize) -> Result<Zeroizing<Vec<u8>>, Unusable> {
        let mut folder = Folder::open(&self.base)?;
        let Some((file, folders)) = names.split_last() else {
            return Err(Unusable::NotAFile);
        };
        for name in folders {
            folder = folder.folder(name)?;
        }
        folder.read(file, limit)
    }

    /// Takes in a folder, and those in it down to the depth of a resource's name.
    fn walk(&mut self, folder: &Folder, names: &mut Vec<String>) -> Result<(), Unusable> {
        for name in folder.names()? {
            let Some(name) = name.to_str() else {
                self.skip(names, &name.to_string_lossy(), "its name is not UTF-8");
                continue;
            };
            if !folder.is_folder(name) {
                self.add_file(folder, names, name);
            } else if names.len() == DEEPEST {
                self.skip(names, name, "it is a folder where a file is expected");
            } else {
                let inner = folder.folder(name)?;
                names.push(name.to_owned());
                self.walk(&inner, names)?;
                names.pop();
            }
        }
        Ok(())
    }

    fn add_file(&mut self, folder: &Folder, names: &[String], name: &str) {
        let spelt = name.replace(ESCAPED_SLASH, "/");
        let full = [names, &[spelt]].concat().join("/");
        let path: ResourcePath = match full.parse() {
            Ok(path) => path,
            Err(error) => return self.skip(names, name, &format!("{error}")),
        };
        if let Err(error) = folder.look(name, usize::MAX) {
            return self.skip(names, name, &error.to_string());
        }
        if self.resources.contains_key(&path) {
            return self.skip(names, name, &format!("another file is {path} too"));
        }
        let names = [names, &[name.to_owned()]].concat();
        self.resources.insert(path, Content::File(names));
    }

    /// Takes in a `LocalJson` document.
    fn add_json(&mut self, text: &[u8]) -> Result<(), String> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let entries = deserializer.deserialize_map(Entries).and_then(|entries| {
            deserializer.end()?;
            Ok(entries)
        });
        // Not what the parser says: it may quote.
        let entries = entries
            .map_err(|error| format!("it is no JSON object of strings (line {})", error.line()))?;
        for (name, raw) in entries {
            if let Err(reason) = self.add_entry(&name, raw) {
                self.skip(&[], &name, &reason);
            }
        }
        Ok(())
    }

    fn add_entry(&mut self, name: &str, raw: &RawValue) -> Result<(), String> {
        let path: ResourcePath = name.parse().map_err(|error| format!("{error}"))?;
        let text: Zeroizing<String> =
            serde_json::from_str(raw.get()).map_err(|_| "its value is no string".to_owned())?;
        let bytes = URL_SAFE
            .decode(text.as_bytes())
            .map_err(|_| "its value is not URL-safe base64".to_owned())?;
        let bytes = Zeroizing::new(bytes);
        if bytes.is_empty() {
            return Err(Unusable::Empty.to_string());
        }
        if self.resources.contains_key(&path) {
            return Err("it is there twice, and the first is taken".to_owned());
        }
        self.resources.insert(path, Content::Bytes(bytes));
        Ok(())
    }

    fn skip(&mut self, names: &[String], name: &str, reason: &str) {
        let full = [names, &[name.to_owned()]].concat().join("/");
        let shown = full.chars().take(MAX_SHOWN);
        self.skipped.push(Skipped {
            name: shown
                .map(|c| if c.is_control() { '\u{fffd}' } else { c })
                .collect(),
            reason: reason.to_owned(),
        });
    }
}

/// Why a store of upstream's cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The folder or the file.
    #[error("{path}: {reason}", path = path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The members of an object in their order, those of one name too.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// Decodes bytes as a `LocalJson` document.
pub(crate) fn decode(bytes: &[u8]) -> bool {
    Import::empty(PathBuf::new()).add_json(bytes).is_ok()
}

/// What upstream calls the namespace of the resources.
const NAMESPACE: &str = "repository";
/// What upstream writes in file names where a resource has a slash.
const ESCAPED_SLASH: &str = "\\x2F";
/// Folders above a file: repository and type.
const DEEPEST: usize = 2;
const MAX_JSON: u64 = 256 * 1024 * 1024;
const MAX_SHOWN: usize = 300;
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(import: &Import) -> Vec<String> {
        import.paths().map(ToString::to_string).collect()
    }

    fn content(import: &Import, path: &str) -> Result<Vec<u8>, String> {
        let content = import.content(&path.parse().unwrap(), 1_000)?;
        Ok(content.to_vec())
    }

    fn reasons(import: &Import) -> BTreeMap<&str, &str> {
        let skipped = import.skipped().iter();
        skipped
            .map(|s| (s.name.as_str(), s.reason.as_str()))
            .collect()
    }

    #[test]
    fn tree_of_upstream_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repository");
        fs::create_dir_all(&repository).unwrap();
        fs::create_dir_all(dir.path().join("attestation_service_policy")).unwrap();
        fs::write(repository.join("default\\x2Ffraud\\x2Fkey"), b"k\0\n").unwrap();
        fs::write(repository.join("a\\x2Fb\\x2Fc.pem"), b"pem").unwrap();
        for given in [dir.path(), &repository] {
            let import = Import::from_local_fs(given).unwrap();
            assert_eq!(import.base(), repository);
            assert_eq!(names(&import), ["a/b/c.pem", "default/fraud/key"]);
            assert_eq!(content(&import, "default/fraud/key").unwrap(), b"k\0\n");
            assert!(import.skipped().is_empty());
        }
    }

    #[test]
    fn folders_of_mounted_secrets_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("default/db");
        fs::create_dir_all(secret.join("..2026_01")).unwrap();
        fs::write(secret.join("..2026_01/password"), b"p").unwrap();
        symlink("..2026_01", secret.join("..data")).unwrap();
        symlink("..data/password", secret.join("password")).unwrap();
        let import = Import::from_local_fs(dir.path()).unwrap();
        assert_eq!(names(&import), ["default/db/password"]);
        assert_eq!(content(&import, "default/db/password").unwrap(), b"p");
        assert!(import.skipped().is_empty());
    }

    #[test]
    fn hostile_names_lead_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, b"not yours").unwrap();
        let base = dir.path().join("base");
        fs::create_dir_all(base.join("a/b/c")).unwrap();
        fs::create_dir_all(base.join("a/empty")).unwrap();
        let write = |name: &[u8]| fs::write(base.join(OsStr::from_bytes(name)), b"x").unwrap();
        for name in [
            &b"..\\x2F..\\x2Foutside"[..],
            b"x\\x2F..\\x2Fy",
            b"x\\x2Fy\\x2Fz\\x2Fw",
            b"x\\x2Fy\\x2Fz\\x00",
            b"x\\x2fy\\x2fz",
            b"x\\x2F\\x2Fz",
            b"x\\x2Fy\\x2F\xff",
            b"x\\x2Fy\\x2Fz\n\x1b[31m",
            b"loose",
        ] {
            write(name);
        }
        symlink("../outside", base.join("l\\x2Fy\\x2Fz")).unwrap();
        symlink(&outside, base.join("m\\x2Fy\\x2Fz")).unwrap();
        symlink("/proc/self/environ", base.join("n\\x2Fy\\x2Fz")).unwrap();
        symlink("o\\x2Fy\\x2Fz", base.join("o\\x2Fy\\x2Fz")).unwrap();
        symlink("/etc", base.join("p")).unwrap();
        fs::write(base.join("a/empty/file"), b"").unwrap();
        let import = Import::from_local_fs(&base).unwrap();
        assert_eq!(names(&import), [""; 0]);
        let reasons = reasons(&import);
        for (name, reason) in [
            ("x\\x2F..\\x2Fy", "may hold letters"),
            ("x\\x2Fy\\x2Fz\\x2Fw", "has 4"),
            ("x\\x2Fy\\x2Fz\\x00", "may hold letters"),
            ("x\\x2fy\\x2fz", "has 1"),
            ("x\\x2F\\x2Fz", "is empty"),
            ("x\\x2Fy\\x2F\u{fffd}", "not UTF-8"),
            ("x\\x2Fy\\x2Fz\u{fffd}\u{fffd}[31m", "may hold letters"),
            ("loose", "has 1"),
            ("l\\x2Fy\\x2Fz", "leads out"),
            ("m\\x2Fy\\x2Fz", "leads out"),
            ("n\\x2Fy\\x2Fz", "leads out"),
            ("o\\x2Fy\\x2Fz", "leads out"),
            ("p", "has 1"),
            ("a/b/c", "is a folder"),
            ("a/empty/file", "it is empty"),
        ] {
            let said = reasons.get(name).unwrap_or_else(|| panic!("{name:?}"));
            assert!(said.contains(reason), "{name:?}: {said}");
        }
        // `..` at the start is a name that the kubelet keeps for itself, and is not spoken of.
        assert_eq!(reasons.len(), 15, "{reasons:?}");
    }

    #[test]
    fn link_that_turns_outward_after_the_look_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("outside"), b"not yours").unwrap();
        let base = dir.path().join("base");
        fs::create_dir_all(&base).unwrap();
        let file = base.join("a\\x2Fb\\x2Fc");
        fs::write(&file, b"x").unwrap();
        let import = Import::from_local_fs(&base).unwrap();
        fs::remove_file(&file).unwrap();
        symlink("../outside", &file).unwrap();
        assert!(content(&import, "a/b/c").unwrap_err().contains("leads out"));
    }

    #[test]
    fn file_larger_than_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a\\x2Fb\\x2Fc"), vec![1; 1_001]).unwrap();
        let import = Import::from_local_fs(dir.path()).unwrap();
        assert!(
            content(&import, "a/b/c")
                .unwrap_err()
                .contains("1000 bytes")
        );
    }

    #[test]
    fn json_store_of_upstream_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("repository");
        fs::write(&file, r#"{"default/fraud/key":"-_8A","a/b/c":"MTIzCg=="}"#).unwrap();
        for given in [dir.path(), &file] {
            let import = Import::from_local_json(given).unwrap();
            assert_eq!(import.base(), file);
            assert_eq!(names(&import), ["a/b/c", "default/fraud/key"]);
            assert_eq!(
                content(&import, "default/fraud/key").unwrap(),
                [0xfb, 0xff, 0]
            );
            assert_eq!(content(&import, "a/b/c").unwrap(), b"123\n");
        }
    }

    #[test]
    fn hostile_json_entries_are_taken() {
        let text = r#"{"../b/c":"MQ==","a/b/c\u0000":"MQ==","a/b":"MQ==","a/b/n":5,"a/b/s":"+/8=","a/b/e":"",
            "a/b/o":{"a/b/c":"MQ=="},"a/b/t":"MQ==","a/b/t":"Mg=="}"#;
        let mut import = Import::empty(PathBuf::new());
        import.add_json(text.as_bytes()).unwrap();
        assert_eq!(names(&import), ["a/b/t"]);
        assert_eq!(content(&import, "a/b/t").unwrap(), b"1");
        let reasons = reasons(&import);
        for (name, reason) in [
            ("../b/c", "may hold letters"),
            ("a/b/c\u{fffd}", "may hold letters"),
            ("a/b", "has 2"),
            ("a/b/n", "no string"),
            ("a/b/s", "URL-safe base64"),
            ("a/b/e", "is empty"),
            ("a/b/o", "no string"),
            ("a/b/t", "twice"),
        ] {
            assert!(reasons[name].contains(reason), "{name}: {}", reasons[name]);
        }
        assert_eq!(reasons.len(), 8);
    }

    #[test]
    fn text_that_is_no_store_is_quoted_or_taken() {
        for text in [
            "",
            "[]",
            "{\"a/b/c\":\"hunter2\"",
            "hunter2",
            "{} {}",
            "\u{0}",
        ] {
            let mut import = Import::empty(PathBuf::new());
            let said = import.add_json(text.as_bytes()).unwrap_err();
            assert!(said.contains("no JSON object"), "{said}");
            assert!(!said.contains("hunter2"));
            assert!(import.resources.is_empty());
        }
    }
}
