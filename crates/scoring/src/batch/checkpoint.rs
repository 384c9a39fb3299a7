//! How far a job is, kept so that the next process goes on from there.
//!
//! At the end of a part the job stores the result lines since the last time, as one more piece, and
//! then its state, which names how many pieces count. Both are encrypted (Tink streams under the
//! checkpoints' key, each with a salt of its own) and bound to the job by their associated data: a
//! checkpoint of other inputs, another model or other options does not open. Whoever keeps the
//! checkpoints can take them away or bring back older ones; then work is done again, and the result
//! is the same.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use strongroom_cipherfile::tink_stream::{Decryptor, Encryptor};
use strongroom_cipherfile::{CipherfileError, FileKey};
use zeroize::Zeroizing;

use super::{BadReason, BadRow, InputSummary, Options};
use crate::profile::Outside;
use crate::results::HISTOGRAM_BINS;

/// Where checkpoints are kept: a few small files, each written as a whole.
pub trait CheckpointStore: Send {
    /// Writes a file, in place of one of the same name. After a crash there is the old content or
    /// the new.
    ///
    /// # Errors
    /// Whatever the place fails by.
    fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()>;

    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// Whatever the place fails by.
    fn get(&mut self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// Whatever the place fails by.
    fn delete(&mut self, name: &str) -> io::Result<()>;
}

/// Where, under which key and how often a job keeps how far it is.
pub struct Checkpoints<'a> {
    /// Where.
    pub store: &'a mut dyn CheckpointStore,
    /// What they are encrypted under. The same key is needed to go on.
    pub key: FileKey,
    /// The time from one to the next; zero for one after every part.
    pub every: Duration,
    /// What tells the job's inputs from others: a line for each of its files, in their order.
    pub inputs: Vec<String>,
}

/// Why a job cannot go on from its checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The checkpoints cannot be read or written.
    #[error("the checkpoint cannot be {doing}: {source}")]
    Store {
        /// What was tried.
        doing: &'static str,
        /// What the place says.
        source: io::Error,
    },
    /// It is of a job with other files, another model or other options.
    #[error(
        "the checkpoint is of another job: a file, the model or an option changed since; \
         start anew without it"
    )]
    OtherJob,
    /// It does not open with the key, or was changed.
    #[error("the checkpoint does not open with this key, or was changed")]
    Changed,
    /// The files went away from under the job.
    #[error("the job has fewer files than its checkpoint has done")]
    FewerInputs,
}

/// Removes the checkpoints of a job whose result is where it belongs.
///
/// # Errors
/// When the place fails.
pub fn clear_checkpoints(store: &mut dyn CheckpointStore) -> Result<(), CheckpointError> {
    // The state goes first: pieces without it are nothing.
    store.delete(STATE).map_err(failed("removed"))?;
    for name in (0..).map(piece) {
        if store.get(&name).map_err(failed("read"))?.is_none() {
            break;
        }
        store.delete(&name).map_err(failed("removed"))?;
    }
    Ok(())
}

/// A job's state between two parts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Pieces of results that were stored.
    pub(super) pieces: u32,
    /// Files that are done.
    pub(super) inputs_done: usize,
    /// The file that is not.
    pub(super) within: Option<Within>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) first_bad: Vec<BadRow>,
    pub(super) scored: u64,
    pub(super) flagged: u64,
    pub(super) bad: BTreeMap<BadReason, u64>,
    pub(super) histogram: [u64; HISTOGRAM_BINS],
    /// The floats by their bits: none may come back another.
    pub(super) max: u64,
    pub(super) sum: u64,
    pub(super) outside: Outside,
}

/// Where in a file a job is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Within {
    pub(super) next_part: u64,
    pub(super) input: InputSummary,
    pub(super) lines: u64,
    /// The begun line, in hexadecimal digits.
    pub(super) carry: String,
}

/// A job's use of its checkpoints.
pub(super) struct Keeper<'a> {
    checkpoints: Checkpoints<'a>,
    job: [u8; 32],
    pieces: u32,
    last: Instant,
}

impl<'a> Keeper<'a> {
    /// Finds the state of the same job, if one was kept.
    pub(super) fn open(
        checkpoints: Checkpoints<'a>,
        model_digest: &str,
        threshold: f64,
        options: &Options,
    ) -> Result<(Self, Option<State>), CheckpointError> {
        let mut keeper = Self {
            job: job_digest(&checkpoints.inputs, model_digest, threshold, options),
            checkpoints,
            pieces: 0,
            last: Instant::now(),
        };
        let Some(content) = keeper.get(STATE)? else {
            return Ok((keeper, None));
        };
        let Some((job, sealed)) = content.split_first_chunk::<32>() else {
            return Err(CheckpointError::Changed);
        };
        if *job != keeper.job {
            return Err(CheckpointError::OtherJob);
        }
        let state = keeper.opened(STATE, sealed)?;
        let state: State = serde_json::from_slice(&state).map_err(|_| CheckpointError::Changed)?;
        keeper.pieces = state.pieces;
        Ok((keeper, Some(state)))
    }

    /// Whether it is time to store, with so many bytes of results in hand.
    pub(super) fn is_due(&self, in_hand: usize) -> bool {
        in_hand >= MOST_IN_HAND || self.last.elapsed() >= self.checkpoints.every
    }

    /// Stores what was written since the last time, and the state, of which the pieces are counted
    /// here.
    pub(super) fn store(
        &mut self,
        results: &[u8],
        mut state: State,
    ) -> Result<(), CheckpointError> {
        if !results.is_empty() {
            let name = piece(self.pieces);
            let sealed = self.sealed(&name, results)?;
            self.put(&name, &sealed)?;
            self.pieces += 1;
        }
        state.pieces = self.pieces;
        let state = serde_json::to_vec(&state).map_err(|error| CheckpointError::Store {
            doing: "written",
            source: error.into(),
        })?;
        let mut content = self.job.to_vec();
        content.extend(self.sealed(STATE, &state)?);
        self.put(STATE, &content)?;
        self.last = Instant::now();
        Ok(())
    }

    /// The results that were stored, piece by piece.
    pub(super) fn results(
        &mut self,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>, CheckpointError> {
        for number in 0..self.pieces {
            let name = piece(number);
            let sealed = self.get(&name)?.ok_or(CheckpointError::Changed)?;
            if let Err(error) = each(&self.opened(&name, &sealed)?) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        self.checkpoints.store.get(name).map_err(failed("read"))
    }

    fn put(&mut self, name: &str, content: &[u8]) -> Result<(), CheckpointError> {
        let store = &mut self.checkpoints.store;
        store.put(name, content).map_err(failed("written"))
    }

    fn associated_data(&self, name: &str) -> Vec<u8> {
        let mut data = b"strongroom-checkpoint/1\0".to_vec();
        data.extend_from_slice(&self.job);
        data.extend_from_slice(name.as_bytes());
        data
    }

    fn sealed(&self, name: &str, plaintext: &[u8]) -> Result<Vec<u8>, CheckpointError> {
        let data = self.associated_data(name);
        let sealed = || {
            let mut writer = Encryptor::new(Vec::new(), &self.checkpoints.key, &data)?;
            writer.write_all(plaintext)?;
            Ok::<_, CipherfileError>(writer.finish()?)
        };
        sealed().map_err(|error| failed("written")(io::Error::other(error)))
    }

    fn opened(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CheckpointError> {
        let data = self.associated_data(name);
        let mut plaintext = Zeroizing::new(Vec::new());
        Decryptor::new(sealed, &self.checkpoints.key, &data)
            .map_err(|_| CheckpointError::Changed)?
            .read_to_end(&mut plaintext)
            .map_err(|_| CheckpointError::Changed)?;
        Ok(plaintext)
    }
}

/// Results in memory at most before they are stored, whatever the time.
const MOST_IN_HAND: usize = 8 << 20;

const STATE: &str = "state";

fn piece(number: u32) -> String {
    format!("results-{number:08}")
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> CheckpointError {
    move |source| CheckpointError::Store { doing, source }
}

/// What a job is: everything that its results depend on.
fn job_digest(
    inputs: &[String],
    model_digest: &str,
    threshold: f64,
    options: &Options,
) -> [u8; 32] {
    let Options {
        threshold: _,
        skip_bad_rows,
        results,
        features,
        file_name,
        name_files,
        key_column,
        header_row,
        // The same results on however many threads.
        threads: _,
    } = options;
    let job = serde_json::json!({
        "inputs": inputs,
        "model": model_digest,
        "threshold": threshold.to_bits(),
        "skip_bad_rows": skip_bad_rows,
        "results": results,
        "features": format!("{features:?}"),
        "file_name": file_name,
        "name_files": name_files,
        "key_column": key_column,
        "header_row": format!("{header_row:?}"),
        "part": super::pipeline::PART,
    });
    let digest = digest(&SHA256, job.to_string().as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

#[cfg(test)]
pub(super) mod doubles {
    use super::*;

    /// Keeps files in memory, and fails once it was written to often enough.
    #[derive(Clone, Default)]
    pub(crate) struct Memory {
        pub(crate) files: BTreeMap<String, Vec<u8>>,
        pub(crate) puts_left: Option<usize>,
    }

    impl CheckpointStore for Memory {
        fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
            if let Some(left) = &mut self.puts_left {
                *left = left.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
            }
            self.files.insert(name.to_owned(), content.to_vec());
            Ok(())
        }

        fn get(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
            Ok(self.files.get(name).cloned())
        }

        fn delete(&mut self, name: &str) -> io::Result<()> {
            self.files.remove(name);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pipeline::PART;
    use super::super::{Job, Results, ScoreError, Summary};
    use super::doubles::Memory;
    use super::*;
    use crate::model::Bundle;

    const HEADER: &str = "distance_from_last_transaction,ratio_to_median_purchase_price,\
        used_chip,used_pin_number,online_order\n";

    /// Rows of which some are flagged and some are bad, in two files.
    fn files() -> [String; 2] {
        let rows = |count: usize| {
            let row = |at: usize| match at % 9 {
                0 => "100.0,5.0,0.0,0.0,1.0\n",
                1 => "x\n",
                2 => "0.123456789012345,1e0,1,0,1\r\n",
                _ => "57.87785658389723,0.3111400080477545,1.0,0.0,1.0\n",
            };
            HEADER.to_owned() + &(0..count).map(row).collect::<String>()
        };
        [rows(3 * PART / 48), rows(PART / 30)]
    }

    fn options() -> Options {
        Options {
            skip_bad_rows: true,
            results: Results::All,
            name_files: true,
            threads: 2.try_into().ok(),
            ..Options::default()
        }
    }

    fn key() -> FileKey {
        FileKey::from_slice(&[7; 32]).unwrap()
    }

    fn attempt(
        store: &mut Memory,
        key: FileKey,
        options: &Options,
        files: &[String],
    ) -> Result<(Summary, Vec<u8>), ScoreError> {
        let bundle = Bundle::built_in();
        let mut out = Vec::new();
        let checkpoints = Checkpoints {
            store,
            key,
            every: Duration::ZERO,
            inputs: vec!["a.csv, version 1".to_owned(), "b.csv".to_owned()],
        };
        let mut job = Job::begin_or_go_on(&bundle, options, &mut out, Some(checkpoints))?;
        let names = ["a.csv", "b.csv"].into_iter().zip(files);
        for (name, csv) in names.skip(job.inputs_done()) {
            job.csv(name, &mut csv.as_bytes(), &mut |_| {})?;
        }
        let summary = job.finish()?;
        Ok((summary, out))
    }

    fn uninterrupted() -> (Summary, Vec<u8>) {
        let (bundle, options) = (Bundle::built_in(), options());
        let mut out = Vec::new();
        let mut job = Job::begin(&bundle, &options, &mut out).unwrap();
        for (name, csv) in ["a.csv", "b.csv"].into_iter().zip(files()) {
            job.csv(name, &mut csv.as_bytes(), &mut |_| {}).unwrap();
        }
        (job.finish().unwrap(), out)
    }

    /// What is there after the job could store so many files and no more.
    fn cut_after(puts: usize) -> Memory {
        let mut store = Memory {
            puts_left: Some(puts),
            ..Memory::default()
        };
        let error = attempt(&mut store, key(), &options(), &files()).unwrap_err();
        assert!(
            error.to_string().contains("checkpoint cannot be written"),
            "{error}"
        );
        store.puts_left = None;
        store
    }

    #[test]
    fn job_that_went_on_gives_another_result() {
        let whole = uninterrupted();
        let mut store = Memory::default();
        assert!(attempt(&mut store, key(), &options(), &files()).unwrap() == whole);
        let puts = 2 * (store.files.len() - 1);
        assert!(puts >= 10, "{puts}");
        for cut in 0..puts {
            let mut store = cut_after(cut);
            let resumed = attempt(&mut store, key(), &options(), &files());
            let resumed = resumed.unwrap_or_else(|error| panic!("cut after {cut}: {error}"));
            assert!(resumed == whole, "cut after {cut}");
        }
    }

    #[test]
    fn older_checkpoint_gives_another_result() {
        let older = cut_after(4);
        let mut store = cut_after(8);
        store
            .files
            .insert(STATE.to_owned(), older.files[STATE].clone());
        assert!(attempt(&mut store, key(), &options(), &files()).unwrap() == uninterrupted());
    }

    #[test]
    fn checkpoint_of_another_job_is_taken() {
        let store = cut_after(6);
        let other = [
            Options {
                results: Results::Flagged,
                ..options()
            },
            Options {
                skip_bad_rows: false,
                ..options()
            },
            Options {
                threshold: Some(0.5),
                ..options()
            },
            Options {
                name_files: false,
                ..options()
            },
        ];
        for options in other {
            let error = attempt(&mut store.clone(), key(), &options, &files()).unwrap_err();
            assert!(error.to_string().contains("is of another job"), "{error}");
        }
        let threads = Options {
            threads: None,
            ..options()
        };
        assert!(attempt(&mut store.clone(), key(), &threads, &files()).is_ok());
    }

    #[test]
    fn changed_checkpoint_is_taken() {
        let store = cut_after(6);
        for name in [STATE, "results-00000000", "results-00000001"] {
            let length = store.files[name].len();
            for at in [32 + 5, length / 2, length - 1] {
                let mut store = store.clone();
                store.files.get_mut(name).unwrap()[at] ^= 1;
                let error = attempt(&mut store, key(), &options(), &files()).unwrap_err();
                assert!(error.to_string().contains("was changed"), "{name}: {error}");
            }
        }
        let mut lost = store.clone();
        lost.files.remove("results-00000001");
        let error = attempt(&mut lost, key(), &options(), &files()).unwrap_err();
        assert!(error.to_string().contains("was changed"), "{error}");
        let mut swapped = store.clone();
        let first = swapped.files["results-00000000"].clone();
        swapped.files.insert("results-00000001".to_owned(), first);
        let error = attempt(&mut swapped, key(), &options(), &files()).unwrap_err();
        assert!(error.to_string().contains("was changed"), "{error}");
        let other = FileKey::from_slice(&[8; 32]).unwrap();
        let error = attempt(&mut store.clone(), other, &options(), &files()).unwrap_err();
        assert!(error.to_string().contains("does not open"), "{error}");
    }

    #[test]
    fn file_that_got_shorter_is_taken_for_whole() {
        let mut store = cut_after(6);
        let [a, b] = files();
        let short = [a[..PART].to_owned(), b];
        let error = attempt(&mut store, key(), &options(), &short).unwrap_err();
        assert!(error.to_string().starts_with("a.csv: "), "{error}");
        let error = attempt(&mut store, key(), &options(), &[]).unwrap_err();
        assert!(error.to_string().contains("fewer files"), "{error}");
    }

    #[test]
    fn checkpoints_hold_plaintext_or_stay() {
        let mut store = cut_after(6);
        for (name, content) in &store.files {
            let found = content
                .windows(12)
                .any(|part| part == b"\"probability" || part == b"57.877856583");
            assert!(!found, "{name}");
        }
        clear_checkpoints(&mut store).unwrap();
        assert!(store.files.is_empty());
    }
}
