//! `strongroom score --workshop`: the settings of the workshop's fraud-detection container, from its environment.
//!
//! The same variables and the same messages. Different on purpose: files are decrypted in memory and never written,
//! rows are printed only when asked for, a probability of exactly 1 counts as fraud, nothing sleeps between rows or
//! at the end, and no storage token is built in.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;
use strongroom_scoring::DEFAULT_DATA;
use strongroom_scoring::batch::{Options, Results};
use strongroom_scoring::model::Bundle;
use strongroom_scoring::storage::{Credential, Location, Storage};

use crate::commands::score::{MostBadRows, score};
use crate::files;
use crate::input::{OpenArgs, OpensslCipher, bound_name};
use crate::keys::GuestArgs;
use crate::outcome::{self, Outcome};
use crate::storage::StorageArgs;

pub(crate) fn run(
    bundle: &Bundle,
    guest: &GuestArgs,
    storage: &StorageArgs,
    (skip_bad_rows, max_bad_rows): (bool, MostBadRows),
    print_rows: bool,
    json: bool,
) -> anyhow::Result<Outcome> {
    let settings = Settings::from_environment(|name| std::env::var(name).ok())?;
    let say = |line: &str| {
        if !json {
            outcome::say(line);
        }
    };
    let mut totals = Totals::default();
    for source in settings.sources(&say)? {
        let (name, opened) = source.open(&settings, guest, storage, &say)?;
        let options = Options {
            threshold: Some(settings.threshold),
            skip_bad_rows,
            results: if print_rows {
                Results::All
            } else {
                Results::Summary
            },
            file_name: name,
            ..Options::default()
        };
        let mut rows = RowPrinter {
            first: totals.rows,
            threshold: settings.threshold,
            line: Vec::new(),
        };
        let scored = if print_rows && !json {
            say("#### Inspecting credit card transactions:");
            score(opened, bundle, &options, &mut rows, None)?
        } else {
            score(opened, bundle, &options, &mut io::sink(), None)?
        };
        max_bad_rows.check(&scored.summary)?;
        totals.rows += scored.summary.rows;
        totals.flagged += scored.summary.flagged;
        totals.bad_rows += scored.summary.bad_rows;
    }
    say(&format!("\n#### Loaded {} transactions", totals.rows));
    let text = format!(
        "#### Done processing data: {} of {} transactions look fraudulent ({} skipped)",
        totals.flagged, totals.rows, totals.bad_rows
    );
    let document = json!({ "rows": totals.rows, "flagged": totals.flagged, "bad_rows": totals.bad_rows, "threshold": settings.threshold });
    Ok(Outcome::new(text, document))
}

#[derive(Default)]
struct Totals {
    rows: u64,
    flagged: u64,
    bad_rows: u64,
}

/// The container's variables.
struct Settings {
    key: Option<String>,
    sas_path: Option<PathBuf>,
    account: String,
    container: String,
    blob: String,
    endpoint: Option<String>,
    folder: Option<PathBuf>,
    threshold: f64,
}

impl Settings {
    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let threshold = match set("TRESHOLD_PREDICTION") {
            None => 0.999_999,
            Some(text) => text
                .trim()
                .parse()
                .with_context(|| format!("TRESHOLD_PREDICTION is {text:?}, not a number"))?,
        };
        Ok(Self {
            key: set("DECRYPTION_KEY_PATH"),
            sas_path: set("SAS_TOKEN_PATH").map(PathBuf::from),
            account: set("AZURE_STORAGE_NAME").unwrap_or_else(|| "encrypteddatasets".to_owned()),
            container: set("CONTAINER_NAME").unwrap_or_else(|| "data".to_owned()),
            blob: set("BLOB_NAME").unwrap_or_else(|| "dataset1.csv.enc".to_owned()),
            endpoint: set("AZURE_STORAGE_ENDPOINT"),
            folder: set("INPUT_FOLDER").map(PathBuf::from),
            threshold,
        })
    }

    /// A folder when one is named, else the blob in encrypted mode, else the built-in rows.
    fn sources(&self, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Source>> {
        match (&self.folder, &self.key) {
            (Some(folder), _) => {
                say(&format!("\n#### Loading data from {}", folder.display()));
                let entries = std::fs::read_dir(folder).with_context(|| {
                    format!("cannot read the folder INPUT_FOLDER={}", folder.display())
                })?;
                let mut paths = entries
                    .map(|entry| Ok(entry?.path()))
                    .collect::<io::Result<Vec<_>>>()?;
                paths.retain(|path| path.is_file());
                paths.sort();
                if paths.is_empty() {
                    bail!("there is no file in INPUT_FOLDER={}", folder.display());
                }
                Ok(paths.into_iter().map(Source::File).collect())
            }
            (None, Some(_)) => {
                say("#### Decryption key path set; downloading encrypted blob");
                Ok(vec![Source::Blob])
            }
            (None, None) => {
                say("#### No decryption key path set; using default plaintext dataset");
                say("  Using default dataset: default.csv");
                Ok(vec![Source::BuiltIn])
            }
        }
    }

    fn open_args(&self) -> anyhow::Result<OpenArgs> {
        let key = self
            .key
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(anyhow::Error::msg)
            .context("DECRYPTION_KEY_PATH")?;
        Ok(OpenArgs {
            key,
            openssl_cipher: Some(OpensslCipher::Cfb),
            also_protected_forms: true,
            ..OpenArgs::default()
        })
    }

    /// Where the blob is, and what it is read with.
    fn blob(&self, storage: &StorageArgs) -> anyhow::Result<(Storage, Location)> {
        let Some(path) = &self.sas_path else {
            bail!(
                "ERROR: No SAS token found. SAS token path: '' (set SAS_TOKEN_PATH to the file with the token; none is built in)"
            );
        };
        let sas = files::read_limited(path, 16 * 1024).context("SAS token file not found")?;
        let sas = Credential::from_bytes("SAS_TOKEN_PATH", &sas)?;
        let text = format!("az://{}/{}/{}", self.account, self.container, self.blob);
        let location = Location::parse(&text, None)
            .context("AZURE_STORAGE_NAME, CONTAINER_NAME and BLOB_NAME name no blob")?;
        let storage = storage.with_sas(self.account.clone(), self.endpoint.clone(), sas)?;
        Ok((storage, location))
    }
}

enum Source {
    BuiltIn,
    File(PathBuf),
    Blob,
}

impl Source {
    fn open(
        &self,
        settings: &Settings,
        guest: &GuestArgs,
        storage: &StorageArgs,
        say: &dyn Fn(&str),
    ) -> anyhow::Result<(String, Box<dyn Read + Send>)> {
        let (name, opened) = match self {
            Self::BuiltIn => return Ok(("default.csv".to_owned(), Box::new(DEFAULT_DATA))),
            Self::File(path) => {
                let name = path.display().to_string();
                if path.extension().is_some_and(|extension| extension == "enc") {
                    say(&format!("  Found an encrypted file: {name}"));
                    anyhow::ensure!(
                        settings.key.is_some(),
                        "{name} is encrypted, but DECRYPTION_KEY_PATH is not set"
                    );
                    (name, settings.open_args()?.open(path, guest)?)
                } else {
                    (name, OpenArgs::default().open(path, guest)?)
                }
            }
            Self::Blob => {
                let name = format!(
                    "Azure:///{}/{}/{}",
                    settings.account, settings.container, settings.blob
                );
                say(&format!("  Downloading blob: {name}"));
                let (storage, location) = settings.blob(storage)?;
                let stream = storage
                    .reader(&location)
                    .with_context(|| format!("cannot download {name}"))?;
                let bound = bound_name(Path::new(&settings.blob))?;
                let opened =
                    settings
                        .open_args()?
                        .open_stream(Box::new(stream), &name, &bound, guest)?;
                (name, opened)
            }
        };
        for warning in opened.warnings {
            outcome::warn(warning);
        }
        Ok((name, opened.reader))
    }
}

/// Prints the container's line for each row as it is scored.
struct RowPrinter {
    first: u64,
    threshold: f64,
    line: Vec<u8>,
}

impl Write for RowPrinter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            // Header and summary lines are no rows and do not parse as one.
            if let Ok(row) = serde_json::from_slice::<RowLine>(&self.line) {
                let hit = strongroom_scoring::batch::is_fraud(row.probability, self.threshold);
                let verdict = if hit {
                    "\u{1b}[31mTRUE\u{1b}[0m"
                } else {
                    "FALSE"
                };
                writeln!(
                    io::stdout(),
                    "Is query {} fraudulent? {verdict}. Likelyhood of fraud: {:.5}%{}",
                    self.first + row.row - 1,
                    row.probability * 100.0,
                    if hit { "\n" } else { "" }
                )?;
            }
            self.line.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What of a row's line is printed.
#[derive(serde::Deserialize)]
struct RowLine {
    row: u64,
    probability: f64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> anyhow::Result<Settings> {
        Settings::from_environment(|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_are_the_containers() {
        let settings = settings(&[]).unwrap();
        assert_eq!(
            (
                settings.account.as_str(),
                settings.container.as_str(),
                settings.blob.as_str()
            ),
            ("encrypteddatasets", "data", "dataset1.csv.enc")
        );
        assert!((settings.threshold - 0.999_999).abs() < f64::EPSILON);
        assert!(settings.key.is_none());
    }

    #[test]
    fn misspelt_threshold_is_the_api() {
        assert!(
            (settings(&[("TRESHOLD_PREDICTION", "0.5")])
                .unwrap()
                .threshold
                - 0.5)
                .abs()
                < f64::EPSILON
        );
        assert!(settings(&[("TRESHOLD_PREDICTION", "high")]).is_err());
    }

    fn blob(pairs: &[(&str, &str)]) -> anyhow::Result<Location> {
        let (_, location) = settings(pairs)?.blob(&StorageArgs::default())?;
        Ok(location)
    }

    #[test]
    fn missing_sas_token_is_named_and_none_is_built_in() {
        let error = blob(&[("DECRYPTION_KEY_PATH", "/k")])
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("ERROR: No SAS token found. SAS token path: ''"));
    }

    #[test]
    fn variables_name_another_blob() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sas");
        std::fs::write(&path, "?sp=r&sig=a%2Bb\n").unwrap();
        let sas = ("SAS_TOKEN_PATH", path.to_str().unwrap());
        let location = blob(&[sas, ("BLOB_NAME", "x.csv.enc")]).unwrap();
        assert_eq!(
            location.to_string(),
            "az://encrypteddatasets/data/x.csv.enc"
        );
        assert!(blob(&[sas, ("AZURE_STORAGE_NAME", "not a host name")]).is_err());
    }
}
