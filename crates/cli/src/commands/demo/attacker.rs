//! What somebody sees who reads every disk and every log: a search for what must not be there.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use strongroom_scoring::generate::{Columns, Generator};
use strongroom_scoring::model::Bundle;

/// What is searched for: rows, keys in every spelling, and weights of the model.
pub(crate) struct Needles(Vec<Vec<u8>>);

impl Needles {
    /// Takes the first rows of the data set, the keys, and pieces of the model's bytes.
    pub(crate) fn new(
        seed: u64,
        rows: u64,
        keys: &[&[u8]],
        model: &Bundle,
    ) -> anyhow::Result<Self> {
        let mut csv = String::new();
        let sample = Generator {
            rows: rows.min(200),
            seed,
            label: false,
            columns: Columns::Model,
        };
        sample.into_reader().read_to_string(&mut csv)?;
        let mut needles: Vec<Vec<u8>> = csv.lines().map(|line| line.as_bytes().to_vec()).collect();
        for key in keys {
            needles.push(key.to_vec());
            needles.push(hex::encode(key).into_bytes());
            needles.push(STANDARD.encode(key).into_bytes());
            needles.push(URL_SAFE_NO_PAD.encode(key).into_bytes());
        }
        // Weights are the longest run of the file; a piece from its middle is one of them.
        let tar = model.to_tar();
        let middle = tar.len() / 3;
        needles.push(
            tar.get(middle..middle + 64)
                .context("the model is too small to search for")?
                .to_vec(),
        );
        Ok(Self(needles))
    }

    /// How many things are searched for.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Searches every file under the folders; returns files, bytes and hits.
    pub(crate) fn search(&self, folders: &[&Path]) -> anyhow::Result<Findings> {
        let automaton = AhoCorasick::new(&self.0)?;
        let mut findings = Findings::default();
        let mut pending: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                for entry in std::fs::read_dir(&path)? {
                    pending.push(entry?.path());
                }
                continue;
            }
            if !path.is_file() {
                continue;
            }
            let file =
                File::open(&path).with_context(|| format!("cannot search {}", path.display()))?;
            findings.files += 1;
            findings.bytes += file.metadata()?.len();
            for hit in automaton.stream_find_iter(BufReader::new(file)) {
                let hit = hit?;
                findings
                    .hits
                    .push(format!("{} at byte {}", path.display(), hit.start()));
            }
        }
        Ok(findings)
    }
}

/// What a search found.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) hits: Vec<String>,
}

/// The first bytes of a file as a hex dump shows them.
pub(crate) fn head(path: &Path) -> anyhow::Result<String> {
    let mut bytes = [0u8; 24];
    File::open(path)?
        .read_exact(&mut bytes)
        .with_context(|| format!("{} is shorter than a header", path.display()))?;
    let text: String = bytes
        .iter()
        .map(|byte| {
            if byte.is_ascii_graphic() {
                char::from(*byte)
            } else {
                '.'
            }
        })
        .collect();
    Ok(format!("{}  |{text}|", hex::encode(bytes)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn planted_row_and_key_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let needles = Needles::new(1, 10, &[&[7; 32]], &Bundle::built_in()).unwrap();
        assert!(needles.search(&[folder.path()]).unwrap().hits.is_empty());
        std::fs::create_dir(folder.path().join("inner")).unwrap();
        std::fs::write(
            folder.path().join("inner/log"),
            format!("key={}", STANDARD.encode([7; 32])),
        )
        .unwrap();
        let mut csv = Vec::new();
        Generator {
            rows: 1,
            seed: 1,
            label: false,
            columns: Columns::Model,
        }
        .write_to(&mut csv)
        .unwrap();
        std::fs::write(folder.path().join("plain.csv"), csv).unwrap();
        assert_eq!(needles.search(&[folder.path()]).unwrap().hits.len(), 3);
    }

    #[test]
    fn planted_model_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let needles = Needles::new(1, 1, &[], &Bundle::built_in()).unwrap();
        std::fs::write(folder.path().join("model"), &*Bundle::built_in().to_tar()).unwrap();
        assert_eq!(needles.search(&[folder.path()]).unwrap().hits.len(), 1);
    }
}
