//! How far a job is, kept so that the next process goes on from there.
//!
//! At the end of a part the job stores the result lines since the last time, as one more piece, and
//! then its state, which names each piece that counts by its digest. Both are encrypted (Tink streams
//! under the checkpoints' key, each with a salt of its own) and bound to the job by their associated
//! data: a checkpoint of other inputs, another model or other options does not open.
//!
//! Whoever keeps the checkpoints can take them away, or bring back an older state with the pieces that
//! it names; then work is done again, and the result is the same. A piece that is gone, or one that
//! another run of the same job stored, which may have been cut at other rows, is not the one of that
//! digest: it ends the job with an error. What is handed on at the end is counted besides, and held
//! against what the job counted.
//!
//! A process that begins or goes on writes its state first, with a number that it drew for this run.
//! One that finds another's number in its way ends: the job is in other hands. So of two processes on
//! one checkpoint one goes on, and a piece of the other is not taken for its own.
//!
//! Before results are put in place, the state says which bytes they are. The process after a kill in
//! between finds them there, and the job done; or finds some of them, and puts them all anew.

use std::io::{self, Read as _, Write as _};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use strongroom_cipherfile::tink_stream::{Decryptor, Encryptor};
use strongroom_cipherfile::{CipherfileError, FileKey};
use zeroize::Zeroizing;

use super::Options;
use super::state::{Done, Placement, State};
use crate::model::Bundle;

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
pub struct Checkpoints {
    /// Where.
    pub store: Box<dyn CheckpointStore>,
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
         delete the checkpoint's folder to begin anew"
    )]
    OtherJob,
    /// One of its files does not open with the key, or was changed.
    #[error(
        "the checkpoint's file {file} does not open with this key, or was changed: give the key \
         that the job began with, or delete the checkpoint's folder to begin anew"
    )]
    Changed {
        /// Which one.
        file: String,
    },
    /// A piece of results is gone, or another one lies in its place.
    #[error(
        "the checkpoint's file {file} is not the one that the job stored: it was taken away or \
         was changed; delete the checkpoint's folder to begin anew"
    )]
    NotTheOne {
        /// Which one.
        file: String,
    },
    /// What was put together has not the rows that were handed out.
    #[error(
        "the results have {found} rows where the job handed out {expected}: delete the \
         checkpoint's folder to begin anew"
    )]
    Rows {
        /// The rows of the results.
        found: u64,
        /// Those that the job counted.
        expected: u64,
    },
    /// What was scored of a file is no longer there.
    #[error(
        "{file} is not what it was: what the job has scored of it was changed since; delete the \
         checkpoint's folder to begin anew"
    )]
    InputChanged {
        /// The file.
        file: String,
    },
    /// Another process has the job.
    #[error(
        "another process goes on with this job from the same checkpoint, or has ended it: this \
         one stops and leaves it to that one"
    )]
    OtherProcess,
    /// The files went away from under the job.
    #[error("the job has fewer files than its checkpoint has done")]
    FewerInputs,
}

impl CheckpointError {
    /// The state opens, and does not say what one says.
    pub(super) fn of_state() -> Self {
        changed(STATE)
    }
}

/// A job's use of its checkpoints.
pub struct Keeper {
    checkpoints: Checkpoints,
    job: JobDigest,
    run: Run,
    state: State,
    last: Instant,
}

/// Which job a checkpoint is of.
type JobDigest = [u8; 32];
/// Which process wrote a state: a number that it drew.
type Run = [u8; 16];

impl Keeper {
    /// Finds the state of the same job, if one was kept. Nothing is written yet.
    ///
    /// # Errors
    /// When there is one that is of another job or does not open, or the place fails.
    pub fn open(
        checkpoints: Checkpoints,
        bundle: &Bundle,
        options: &Options,
    ) -> Result<Self, CheckpointError> {
        let mut run = Run::default();
        aws_lc_rs::rand::fill(&mut run)
            .map_err(|_| failed("begun")(io::Error::other("no random bytes")))?;
        let mut keeper = Self {
            job: job_digest(&checkpoints.inputs, bundle, options),
            checkpoints,
            run,
            state: State::default(),
            last: Instant::now(),
        };
        let Some(content) = keeper.get(STATE)? else {
            return Ok(keeper);
        };
        let (job, run, sealed) = split(&content).ok_or_else(|| changed(STATE))?;
        if *job != keeper.job {
            return Err(CheckpointError::OtherJob);
        }
        let state = keeper.opened(STATE, run, sealed)?;
        keeper.state = serde_json::from_slice(&state).map_err(|_| changed(STATE))?;
        Ok(keeper)
    }

    /// What processes before this one were about to put in place. The job is done where all files of
    /// one of these are there.
    pub fn placements(&self) -> &[Placement] {
        &self.state.placements
    }

    /// Says that these results are about to be put in place.
    ///
    /// # Errors
    /// When another process has the job, or the place fails.
    pub fn place(&mut self, placement: Placement) -> Result<(), CheckpointError> {
        self.check_ours()?;
        self.state.placements.push(placement);
        self.put_state()
    }

    /// Removes the checkpoints of a job whose results are where they belong.
    ///
    /// # Errors
    /// When the place fails.
    pub fn clear(mut self) -> Result<(), CheckpointError> {
        // A process that was killed may have stored one that no state names.
        let mut count = self.state.pieces.len();
        while self.get(&piece(count))?.is_some() {
            count += 1;
        }
        // From the last one on: what a kill leaves has no gap. And the state after them: while it is
        // there, the results are known again.
        for number in (0..count).rev() {
            self.delete(&piece(number))?;
        }
        self.delete(STATE)
    }

    /// Makes the job this process's own, and says how far it is.
    pub(super) fn take_over(&mut self) -> Result<Option<Done>, CheckpointError> {
        self.put_state()?;
        self.last = Instant::now();
        Ok(self.state.done.clone())
    }

    /// Whether it is time to store, with so many bytes of results in hand.
    pub(super) fn is_due(&self, in_hand: usize) -> bool {
        in_hand >= MOST_IN_HAND || self.last.elapsed() >= self.checkpoints.every
    }

    /// Stores what was written since the last time, and how far the job is.
    pub(super) fn store(&mut self, results: &[u8], done: Done) -> Result<(), CheckpointError> {
        self.check_ours()?;
        // What a part made may be far more than is kept in hand; a piece is read as a whole.
        let mut rest = results;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(end_of_piece(rest, MOST_IN_HAND));
            let file = piece(self.state.pieces.len());
            let sealed = self.sealed(&file, &ANY_RUN, now)?;
            self.put(&file, &sealed)?;
            self.state.pieces.push(digest_of(&sealed));
            rest = later;
        }
        self.state.done = Some(done);
        self.put_state()?;
        self.last = Instant::now();
        Ok(())
    }

    /// The results that were stored, piece by piece.
    pub(super) fn results(
        &mut self,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<io::Result<()>, CheckpointError> {
        for number in 0..self.state.pieces.len() {
            let file = piece(number);
            let sealed = self.get(&file)?;
            let expected = self.state.pieces.get(number);
            let Some(sealed) = sealed.filter(|there| expected == Some(&digest_of(there))) else {
                // Who has the job now may have removed it with good reason.
                self.check_ours()?;
                return Err(CheckpointError::NotTheOne { file });
            };
            if let Err(error) = each(&self.opened(&file, &ANY_RUN, &sealed)?) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Whether the state is still one that this process wrote.
    fn check_ours(&mut self) -> Result<(), CheckpointError> {
        let content = self.get(STATE)?;
        match content.as_deref().and_then(split) {
            Some((job, run, _)) if *job == self.job && *run == self.run => Ok(()),
            _ => Err(CheckpointError::OtherProcess),
        }
    }

    fn put_state(&mut self) -> Result<(), CheckpointError> {
        let state = self.state.to_json();
        let state = state.map_err(|error| failed("written")(error.into()))?;
        let sealed = self.sealed(STATE, &self.run, &state)?;
        self.put(STATE, &[&self.job[..], &self.run, &sealed].concat())
    }

    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, CheckpointError> {
        self.checkpoints.store.get(name).map_err(failed("read"))
    }

    fn put(&mut self, name: &str, content: &[u8]) -> Result<(), CheckpointError> {
        let store = &mut self.checkpoints.store;
        store.put(name, content).map_err(failed("written"))
    }

    fn delete(&mut self, name: &str) -> Result<(), CheckpointError> {
        let store = &mut self.checkpoints.store;
        store.delete(name).map_err(failed("removed"))
    }

    fn associated_data(&self, name: &str, run: &Run) -> Vec<u8> {
        let mut data = b"strongroom-checkpoint/2\0".to_vec();
        data.extend_from_slice(&self.job);
        data.extend_from_slice(run);
        data.extend_from_slice(name.as_bytes());
        data
    }

    fn sealed(&self, name: &str, run: &Run, plaintext: &[u8]) -> Result<Vec<u8>, CheckpointError> {
        let data = self.associated_data(name, run);
        let sealed = || {
            let mut writer = Encryptor::new(Vec::new(), &self.checkpoints.key, &data)?;
            writer.write_all(plaintext)?;
            Ok::<_, CipherfileError>(writer.finish()?)
        };
        sealed().map_err(|error| failed("written")(io::Error::other(error)))
    }

    fn opened(
        &self,
        name: &str,
        run: &Run,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, CheckpointError> {
        let data = self.associated_data(name, run);
        // Longer than what is in it: memory that grows leaves copies behind.
        let mut plaintext = Zeroizing::new(Vec::with_capacity(sealed.len()));
        Decryptor::new(sealed, &self.checkpoints.key, &data)
            .map_err(|_| changed(name))?
            .read_to_end(&mut plaintext)
            .map_err(|_| changed(name))?;
        Ok(plaintext)
    }
}

/// Results in memory at most before they are stored, whatever the time.
const MOST_IN_HAND: usize = 8 << 20;

const STATE: &str = "state";

/// What pieces are sealed with: the state that names one says whose it is.
const ANY_RUN: Run = [0; 16];

fn piece(number: usize) -> String {
    format!("results-{number:08}")
}

/// The job and the run that a state is of, and the state.
fn split(content: &[u8]) -> Option<(&JobDigest, &Run, &[u8])> {
    let (job, rest) = content.split_first_chunk()?;
    let (run, sealed) = rest.split_first_chunk()?;
    Some((job, run, sealed))
}

fn digest_of(sealed: &[u8]) -> String {
    hex::encode(digest(&SHA256, sealed))
}

fn changed(file: &str) -> CheckpointError {
    let file = file.to_owned();
    CheckpointError::Changed { file }
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> CheckpointError {
    move |source| CheckpointError::Store { doing, source }
}

/// What a job is: everything that its results depend on.
/// Where a piece of about so many bytes ends: behind a whole line.
fn end_of_piece(lines: &[u8], about: usize) -> usize {
    let from = about.min(lines.len());
    let end = lines[from..].iter().position(|&byte| byte == b'\n');
    end.map_or(lines.len(), |end| from + end + 1)
}

fn job_digest(inputs: &[String], bundle: &Bundle, options: &Options) -> JobDigest {
    let threshold = options.threshold_for(bundle);
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
        "model": bundle.digest(),
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
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps files in memory, and fails once it was written to often enough.
    #[derive(Clone, Default)]
    pub(crate) struct Memory {
        pub(crate) files: BTreeMap<String, Vec<u8>>,
        pub(crate) puts_left: Option<usize>,
    }

    impl Memory {
        /// Lends it to jobs, and has back what they left.
        pub(crate) fn lend<T>(&mut self, with: impl FnOnce(&dyn Fn() -> Lent) -> T) -> T {
            let lent = Arc::new(Mutex::new(std::mem::take(self)));
            let outcome = with(&|| Lent(Arc::clone(&lent)));
            *self = std::mem::take(&mut lent.lock().unwrap());
            outcome
        }
    }

    pub(crate) struct Lent(Arc<Mutex<Memory>>);

    impl CheckpointStore for Lent {
        fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
            let mut memory = self.0.lock().unwrap();
            if let Some(left) = &mut memory.puts_left {
                *left = left.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
            }
            memory.files.insert(name.to_owned(), content.to_vec());
            Ok(())
        }

        fn get(&mut self, name: &str) -> io::Result<Option<Vec<u8>>> {
            Ok(self.0.lock().unwrap().files.get(name).cloned())
        }

        fn delete(&mut self, name: &str) -> io::Result<()> {
            self.0.lock().unwrap().files.remove(name);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pipeline::PART;
    use super::super::{Job, Results, ScoreError, Summary};
    use super::doubles::{Lent, Memory};
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

    fn checkpoints(store: Lent, key: FileKey, every: Duration) -> Checkpoints {
        Checkpoints {
            store: Box::new(store),
            key,
            every,
            inputs: vec!["a.csv, version 1".to_owned(), "b.csv".to_owned()],
        }
    }

    fn attempt(
        store: &mut Memory,
        key: FileKey,
        options: &Options,
        files: &[String],
    ) -> Result<(Summary, Vec<u8>), ScoreError> {
        let every = Duration::ZERO;
        store.lend(|store| attempt_with(checkpoints(store(), key, every), options, files))
    }

    fn attempt_with(
        checkpoints: Checkpoints,
        options: &Options,
        files: &[String],
    ) -> Result<(Summary, Vec<u8>), ScoreError> {
        let bundle = Bundle::built_in();
        let mut out = Vec::new();
        let mut keeper = Keeper::open(checkpoints, &bundle, options)?;
        let mut job = Job::begin_or_go_on(&bundle, options, &mut out, Some(&mut keeper))?;
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
    fn piece_ends_within_a_line() {
        let lines = b"aa\nbbbb\nc\n";
        let ends = |about| end_of_piece(lines, about);
        assert_eq!((ends(0), ends(2), ends(3), ends(99)), (3, 3, 8, 10));
        assert_eq!(end_of_piece(b"no end", 2), 6);
    }

    #[test]
    fn job_that_went_on_gives_another_result() {
        let whole = uninterrupted();
        let mut store = Memory::default();
        assert!(attempt(&mut store, key(), &options(), &files()).unwrap() == whole);
        // The first state, and with each piece another.
        let puts = 1 + 2 * (store.files.len() - 1);
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
        let older = cut_after(5);
        let mut store = older.clone();
        store.puts_left = Some(4);
        attempt(&mut store, key(), &options(), &files()).unwrap_err();
        store.puts_left = None;
        assert_ne!(store.files[STATE], older.files[STATE]);
        assert!(store.files.len() > older.files.len());
        store
            .files
            .insert(STATE.to_owned(), older.files[STATE].clone());
        assert!(attempt(&mut store, key(), &options(), &files()).unwrap() == uninterrupted());
    }

    #[test]
    fn checkpoint_of_another_job_is_taken() {
        let store = cut_after(7);
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
        let store = cut_after(7);
        for name in [STATE, "results-00000000", "results-00000001"] {
            let length = store.files[name].len();
            for at in [48 + 5, length / 2, length - 1] {
                let mut store = store.clone();
                store.files.get_mut(name).unwrap()[at] ^= 1;
                let error = attempt(&mut store, key(), &options(), &files()).unwrap_err();
                let error = error.to_string();
                assert!(
                    error.contains("was changed") && error.contains(name),
                    "{error}"
                );
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
        let mut store = cut_after(7);
        let [a, b] = files();
        let short = [a[..PART].to_owned(), b];
        let error = attempt(&mut store, key(), &options(), &short).unwrap_err();
        assert!(error.to_string().starts_with("a.csv: "), "{error}");
        let error = attempt(&mut store, key(), &options(), &[]).unwrap_err();
        assert!(error.to_string().contains("fewer files"), "{error}");
    }

    #[test]
    fn checkpoints_hold_plaintext_or_stay() {
        let mut store = cut_after(7);
        for (name, content) in &store.files {
            let found = content
                .windows(12)
                .any(|part| part == b"\"probability" || part == b"57.877856583");
            assert!(!found, "{name}");
        }
        // One more that no state names, as a kill leaves it.
        let piece = store.files["results-00000000"].clone();
        store.files.insert("results-00000003".to_owned(), piece);
        assert_eq!(store.files.len(), 5);
        store.lend(|store| {
            let checkpoints = checkpoints(store(), key(), Duration::ZERO);
            let keeper = Keeper::open(checkpoints, &Bundle::built_in(), &options());
            keeper.unwrap().clear().unwrap();
        });
        assert!(store.files.is_empty());
    }

    /// What a run that is cut elsewhere leaves, as one does that stores less often.
    fn cut_elsewhere() -> Memory {
        let mut store = Memory::default();
        let [a, _] = files();
        store.lend(|store| {
            let checkpoints = checkpoints(store(), key(), Duration::from_secs(3600));
            let (bundle, options) = (Bundle::built_in(), options());
            let mut out = Vec::new();
            let mut keeper = Keeper::open(checkpoints, &bundle, &options).unwrap();
            let mut job =
                Job::begin_or_go_on(&bundle, &options, &mut out, Some(&mut keeper)).unwrap();
            job.csv("a.csv", &mut a.as_bytes(), &mut |_| {}).unwrap();
            job.store(None).unwrap();
        });
        store
    }

    #[test]
    fn piece_of_another_run_of_the_job_is_taken() {
        let other = cut_elsewhere();
        assert_eq!(other.files.len(), 2);
        let whole = attempt(&mut other.clone(), key(), &options(), &files()).unwrap();
        assert!(whole == uninterrupted());
        for first in ["results-00000000", "results-00000001"] {
            let mut store = cut_after(7);
            let theirs = other.files["results-00000000"].clone();
            store.files.insert(first.to_owned(), theirs);
            let error = attempt(&mut store, key(), &options(), &files()).unwrap_err();
            let expected = format!("{first} is not the one that the job stored");
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }

    #[test]
    fn two_processes_go_on_with_one_job() {
        let (bundle, options) = (Bundle::built_in(), options());
        let [a, b] = files();
        let mut memory = cut_after(5);
        memory.lend(|store| {
            let keeper = || {
                let checkpoints = checkpoints(store(), key(), Duration::ZERO);
                Keeper::open(checkpoints, &bundle, &options).unwrap()
            };
            let (mut older, mut newer) = (keeper(), keeper());
            let (mut out, mut newer_out) = (Vec::new(), Vec::new());
            let mut older =
                Job::begin_or_go_on(&bundle, &options, &mut out, Some(&mut older)).unwrap();
            let mut newer_job =
                Job::begin_or_go_on(&bundle, &options, &mut newer_out, Some(&mut newer)).unwrap();
            let error = older.csv("a.csv", &mut a.as_bytes(), &mut |_| {});
            let error = error.unwrap_err().to_string();
            assert!(error.contains("another process goes on"), "{error}");
            for (name, csv) in [("a.csv", &a), ("b.csv", &b)] {
                newer_job
                    .csv(name, &mut csv.as_bytes(), &mut |_| {})
                    .unwrap();
            }
            let summary = newer_job.finish().unwrap();
            assert!((summary, newer_out) == uninterrupted());
        });
    }

    #[test]
    fn rows_that_were_scored_are_others_when_the_job_goes_on() {
        let [a, b] = files();
        // Of the same length, in the part that was done and in its last line.
        for at in [HEADER.len() + 1, PART - 60] {
            let mut store = cut_after(5);
            let mut other = a.clone().into_bytes();
            let digit = other[at..].iter().position(u8::is_ascii_digit).unwrap();
            other[at + digit] ^= 1;
            let other = String::from_utf8(other).unwrap();
            let error = attempt(&mut store, key(), &options(), &[other, b.clone()]).unwrap_err();
            let expected = "a.csv is not what it was";
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        // What comes behind is the job's to read.
        let mut store = cut_after(5);
        let longer = format!("{a}1,1,0,0,1\n");
        assert!(attempt(&mut store, key(), &options(), &[longer, b]).is_ok());
    }

    #[test]
    fn what_was_put_in_place_is_forgotten() {
        let mut memory = cut_after(7);
        memory.lend(|store| {
            let (bundle, options) = (Bundle::built_in(), options());
            let open = || {
                let checkpoints = checkpoints(store(), key(), Duration::ZERO);
                Keeper::open(checkpoints, &bundle, &options).unwrap()
            };
            let placement = |form: &str| Placement {
                form: form.to_owned(),
                files: Vec::new(),
                summary: uninterrupted().0,
            };
            for form in ["first", "second"] {
                let (mut keeper, mut out, [a, b]) = (open(), Vec::new(), files());
                let mut job =
                    Job::begin_or_go_on(&bundle, &options, &mut out, Some(&mut keeper)).unwrap();
                let names = [("a.csv", a), ("b.csv", b)];
                for (name, csv) in names.into_iter().skip(job.inputs_done()) {
                    job.csv(name, &mut csv.as_bytes(), &mut |_| {}).unwrap();
                }
                job.finish().unwrap();
                keeper.place(placement(form)).unwrap();
            }
            assert_eq!(
                open().placements(),
                [placement("first"), placement("second")]
            );
            let mut older = open();
            open().take_over().unwrap();
            let error = older.place(placement("third")).unwrap_err();
            assert!(matches!(error, CheckpointError::OtherProcess), "{error}");
        });
    }
}
