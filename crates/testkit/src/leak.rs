//! A search for secrets where none may be: files, folders, logs, databases, packet captures.
//!
//! Each needle is looked for as it is, as hex in both cases, and as standard and URL-safe base64 at
//! each of the three places where it can begin within a larger base64 text. Files are streamed.
//! Compressed or encrypted copies are not found: what is compressed must be scanned unpacked.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Looks for a fixed set of needles.
pub struct Scanner {
    automaton: AhoCorasick,
    patterns: Vec<Pattern>,
}

impl Scanner {
    /// Prepares the search. A needle is a name for the report and the bytes to look for.
    ///
    /// # Errors
    /// When there is no needle, or one that is so short that it would be found by chance.
    pub fn new<N, B>(needles: impl IntoIterator<Item = (N, B)>) -> Result<Self, LeakError>
    where
        N: Into<String>,
        B: AsRef<[u8]>,
    {
        let mut patterns = Vec::new();
        for (name, bytes) in needles {
            patterns.extend(forms(&name.into(), bytes.as_ref())?);
        }
        if patterns.is_empty() {
            return Err(LeakError::NoNeedles);
        }
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(patterns.iter().map(|pattern| &pattern.bytes))
            .map_err(|error| LeakError::TooManyNeedles(error.to_string()))?;
        Ok(Self {
            automaton,
            patterns,
        })
    }

    /// Searches files and whole folders, and their names. Symbolic links are not followed; sockets
    /// and other things without contents are passed over.
    ///
    /// # Errors
    /// When something cannot be read. A file that goes away meanwhile is not an error.
    pub fn scan<P: AsRef<Path>>(
        &self,
        places: impl IntoIterator<Item = P>,
    ) -> Result<Report, LeakError> {
        let mut report = Report::default();
        let mut left: Vec<PathBuf> = places
            .into_iter()
            .map(|place| place.as_ref().to_path_buf())
            .collect();
        for place in &left {
            fs::symlink_metadata(place).map_err(|source| unreadable(place, source))?;
        }
        while let Some(path) = left.pop() {
            self.scan_reader(path.as_os_str().as_encoded_bytes(), &path, &mut report)?;
            match self.scan_one(&path, &mut left, &mut report) {
                Err(LeakError::Unreadable { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(report)
    }

    /// Searches bytes that are already in memory; `name` stands for them in the report.
    pub fn scan_bytes(&self, name: &str, bytes: &[u8]) -> Report {
        let mut report = Report::default();
        report.count(bytes.len() as u64);
        self.scan_reader(bytes, Path::new(name), &mut report)
            .expect("reading a slice does not fail");
        report
    }

    fn scan_one(
        &self,
        path: &Path,
        left: &mut Vec<PathBuf>,
        report: &mut Report,
    ) -> Result<(), LeakError> {
        let unreadable = |source| unreadable(path, source);
        let metadata = fs::symlink_metadata(path).map_err(unreadable)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(path).map_err(unreadable)? {
                left.push(entry.map_err(unreadable)?.path());
            }
        } else if metadata.is_file() {
            report.count(metadata.len());
            let file = File::open(path).map_err(unreadable)?;
            self.scan_reader(file, path, report)?;
        }
        Ok(())
    }

    fn scan_reader(
        &self,
        reader: impl Read,
        path: &Path,
        report: &mut Report,
    ) -> Result<(), LeakError> {
        for found in self.automaton.stream_find_iter(reader) {
            let found = found.map_err(|source| unreadable(path, source))?;
            let pattern = &self.patterns[found.pattern().as_usize()];
            report.hits.push(Hit {
                needle: pattern.needle.clone(),
                form: pattern.form,
                file: path.to_path_buf(),
                offset: found.start() as u64,
            });
        }
        Ok(())
    }
}

/// What a search went through, and what it found.
#[derive(Debug, Default)]
#[must_use]
pub struct Report {
    /// How many files were read.
    pub files: usize,
    /// How many bytes they had.
    pub bytes: u64,
    /// Each place where a needle was found.
    pub hits: Vec<Hit>,
}

impl Report {
    /// Fails the test unless nothing was found in at least `least_files` files. A search that went
    /// through nothing finds nothing, hence the number.
    ///
    /// # Panics
    /// With every hit, or with the number of files.
    pub fn assert_clean(&self, least_files: usize) {
        assert!(
            self.files >= least_files,
            "only {} files searched, {least_files} expected",
            self.files
        );
        let hits: Vec<String> = self.hits.iter().map(Hit::to_string).collect();
        assert!(hits.is_empty(), "secrets found:\n{}", hits.join("\n"));
    }

    /// Returns the names of the needles that were found.
    pub fn needles(&self) -> BTreeSet<&str> {
        self.hits.iter().map(|hit| hit.needle.as_str()).collect()
    }

    fn count(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// One place where a needle was found. It names the needle and never shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The name that the needle was given.
    pub needle: String,
    /// How it was written there.
    pub form: Form,
    /// In which file, or in whose name.
    pub file: PathBuf,
    /// At which byte.
    pub offset: u64,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            needle,
            form,
            file,
            offset,
        } = self;
        write!(f, "{needle} as {form} in {} at {offset}", file.display())
    }
}

/// How a needle was written where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As base64, standard or URL-safe.
    Base64,
    /// As hexadecimal digits, in either case.
    Hex,
    /// As it is.
    Raw,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base64 => "base64",
            Self::Hex => "hex",
            Self::Raw => "plain bytes",
        })
    }
}

/// Why a search could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeakError {
    /// Nothing to look for.
    #[error("there is nothing to look for")]
    NoNeedles,
    /// Too short to mean anything where it is found.
    #[error("needle `{name}` has {length} bytes; below {MIN_NEEDLE} it is found by chance")]
    ShortNeedle {
        /// The name that the needle was given.
        name: String,
        /// Its length.
        length: usize,
    },
    /// The automaton would be too large.
    #[error("too many needles: {0}")]
    TooManyNeedles(String),
    /// A file or folder could not be read.
    #[error("cannot search {}", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

struct Pattern {
    needle: String,
    form: Form,
    bytes: Vec<u8>,
}

fn forms(name: &str, needle: &[u8]) -> Result<Vec<Pattern>, LeakError> {
    if needle.len() < MIN_NEEDLE {
        return Err(LeakError::ShortNeedle {
            name: name.to_owned(),
            length: needle.len(),
        });
    }
    let mut texts = BTreeSet::from([
        (0, needle.to_vec()),
        (1, hex::encode(needle).into_bytes()),
        (1, hex::encode_upper(needle).into_bytes()),
    ]);
    for before in 0..3 {
        texts.insert((2, within_base64(&STANDARD_NO_PAD, needle, before)));
        texts.insert((2, within_base64(&URL_SAFE_NO_PAD, needle, before)));
    }
    Ok(texts
        .into_iter()
        .map(|(form, bytes)| Pattern {
            needle: name.to_owned(),
            form: [Form::Raw, Form::Hex, Form::Base64][form],
            bytes,
        })
        .collect())
}

/// Returns the base64 characters that depend on the needle alone when `before` bytes (0 to 2) stand
/// before it in its group of three and anything follows it.
fn within_base64(engine: &impl base64::Engine, needle: &[u8], before: usize) -> Vec<u8> {
    let mut bytes = vec![0; before];
    bytes.extend_from_slice(needle);
    let text = engine.encode(&bytes).into_bytes();
    let first = (before * 8).div_ceil(6);
    let last = bytes.len() * 8 / 6;
    text[first..last].to_vec()
}

/// Shorter needles are refused. Within a larger base64 text 8 bytes leave 10 characters, 60 bits: a
/// gigabyte of random bytes holds them by chance once in a billion searches.
const MIN_NEEDLE: usize = 8;

fn unreadable(path: &Path, source: io::Error) -> LeakError {
    LeakError::Unreadable {
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;

    use super::*;

    const KEY: &[u8] = b"\x00\xff\xfe key bytes \x80\x81\x3e\x3f";

    fn scanner() -> Scanner {
        Scanner::new([("key", KEY), ("row", b"57.877856,0.311140")]).unwrap()
    }

    fn found_in(haystack: &[u8]) -> Vec<(String, Form, u64)> {
        let report = scanner().scan_bytes("memory", haystack);
        report
            .hits
            .into_iter()
            .map(|hit| (hit.needle, hit.form, hit.offset))
            .collect()
    }

    #[test]
    fn a_needle_is_found_as_it_is() {
        let hay = [b"before ", KEY, b" after"].concat();
        assert_eq!(found_in(&hay), [("key".to_owned(), Form::Raw, 7)]);
    }

    #[test]
    fn a_needle_is_found_as_hex_in_both_cases() {
        for text in [hex::encode(KEY), hex::encode_upper(KEY)] {
            assert_eq!(
                found_in(format!("x{text}").as_bytes()),
                [("key".to_owned(), Form::Hex, 1)]
            );
        }
    }

    #[test]
    fn a_needle_is_found_within_base64_wherever_it_begins() {
        for before in 0..7 {
            for after in 0..4 {
                let inner = [&vec![b'a'; before][..], KEY, &vec![b'z'; after][..]].concat();
                for text in [
                    STANDARD_NO_PAD.encode(&inner),
                    URL_SAFE_NO_PAD.encode(&inner),
                ] {
                    let found = found_in(text.as_bytes());
                    assert_eq!(found.len(), 1, "{before} before, {after} after: {text}");
                    assert_eq!(found[0].1, Form::Base64);
                }
            }
        }
    }

    #[test]
    fn a_needle_across_two_reads_is_found() {
        struct Drip<'a>(&'a [u8]);
        impl Read for Drip<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = self.0.len().min(buffer.len()).min(3);
                buffer[..length].copy_from_slice(&self.0[..length]);
                self.0 = &self.0[length..];
                Ok(length)
            }
        }
        let hay = [&[b'.'; 100_000][..], KEY].concat();
        let mut report = Report::default();
        scanner()
            .scan_reader(Drip(&hay), Path::new("drip"), &mut report)
            .unwrap();
        assert_eq!(report.hits.len(), 1);
        assert_eq!(report.hits[0].offset, 100_000);
    }

    #[test]
    fn folders_are_searched_to_the_bottom_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        fs::write(folder.path().join("clean"), b"nothing").unwrap();
        fs::write(deep.join("dirty"), [b"..", KEY].concat()).unwrap();
        let report = scanner().scan([folder.path()]).unwrap();
        assert_eq!((report.files, report.hits.len()), (2, 1));
        assert_eq!(report.bytes, 7 + 2 + KEY.len() as u64);
        assert_eq!(report.hits[0].file, deep.join("dirty"));
        assert_eq!(report.needles(), BTreeSet::from(["key"]));
    }

    #[test]
    fn a_needle_in_a_file_name_is_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(hex::encode(KEY)), b"").unwrap();
        let report = scanner().scan([folder.path()]).unwrap();
        assert_eq!(report.hits.len(), 1);
    }

    #[test]
    fn a_link_out_of_the_folder_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("dirty"), KEY).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        scanner().scan([folder.path()]).unwrap().assert_clean(0);
    }

    #[test]
    fn a_place_that_is_missing_is_not_a_clean_place() {
        let folder = tempfile::tempdir().unwrap();
        let error = scanner().scan([folder.path().join("gone")]).unwrap_err();
        assert!(matches!(error, LeakError::Unreadable { .. }), "{error}");
    }

    #[test]
    #[should_panic(expected = "only 0 files searched, 1 expected")]
    fn an_empty_search_is_not_a_clean_one() {
        let folder = tempfile::tempdir().unwrap();
        scanner().scan([folder.path()]).unwrap().assert_clean(1);
    }

    #[test]
    fn a_needle_that_chance_would_find_is_refused() {
        let error = Scanner::new([("pin", b"0.31114")]).err().unwrap();
        assert!(
            matches!(error, LeakError::ShortNeedle { length: 7, .. }),
            "{error}"
        );
    }

    #[test]
    fn no_needle_at_all_is_refused() {
        let none: [(&str, &[u8]); 0] = [];
        assert!(matches!(Scanner::new(none), Err(LeakError::NoNeedles)));
    }

    #[test]
    fn a_hit_names_the_needle_and_does_not_show_it() {
        let report = scanner().scan_bytes("log", b"row: 57.877856,0.311140");
        assert_eq!(report.hits[0].to_string(), "row as plain bytes in log at 5");
    }
}
