//! What a checkpoint holds: how far a job is, which pieces of results count, and what it was putting
//! in place. None of it is shown: the begun line is a row's plaintext.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{BadReason, BadRow, InputSummary, Summary};
use crate::profile::Outside;
use crate::results::HISTOGRAM_BINS;

/// A job's state, as it is stored.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// The digest of each piece of results as it lies there, in hexadecimal digits. Which pieces
    /// count, and in which order, is said here alone.
    pub(super) pieces: Vec<String>,
    /// What was about to be put in place, once for each time that it was.
    pub(super) placements: Vec<Placement>,
    /// How far the job is; nothing is done where there is none.
    pub(super) done: Option<Done>,
}

/// A job between two parts.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Done {
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
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Within {
    pub(super) next_part: u64,
    pub(super) input: InputSummary,
    pub(super) lines: u64,
    /// The begun line, in hexadecimal digits.
    pub(super) carry: Zeroizing<String>,
    /// The digest of what is done of a file that is read front to back, in hexadecimal digits: it
    /// is read again to go on. Empty where the file is bound by its identity alone.
    pub(super) digest: String,
}

/// Results that are whole and about to be put in place, by which they are known again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// What they are written in, and for whom.
    pub form: String,
    /// Their files, in the order in which they are put in place.
    pub files: Vec<PlacedFile>,
    /// The whole data set in numbers.
    pub summary: Summary,
}

/// A file of results, as it lies there: encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacedFile {
    /// Its bytes.
    pub bytes: u64,
    /// Their SHA-256, in hexadecimal digits.
    pub sha256: String,
}

impl State {
    /// As JSON. Its length is found out first: memory that grows leaves copies behind.
    pub(super) fn to_json(&self) -> serde_json::Result<Zeroizing<Vec<u8>>> {
        let mut length = Length(0);
        serde_json::to_writer(&mut length, self)?;
        let mut json = Zeroizing::new(Vec::with_capacity(length.0));
        serde_json::to_writer(&mut *json, self)?;
        Ok(json)
    }
}

/// Takes bytes for their number alone.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_comes_back_another_or_grows_in_memory() {
        let state = State {
            pieces: vec!["00".repeat(32); 100],
            done: Some(Done {
                within: Some(Within {
                    carry: Zeroizing::new("a0".repeat(1000)),
                    ..Within::default()
                }),
                sum: f64::MIN_POSITIVE.to_bits(),
                ..Done::default()
            }),
            ..State::default()
        };
        let json = state.to_json().unwrap();
        assert_eq!(json.len(), json.capacity());
        let back: State = serde_json::from_slice(&json).unwrap();
        assert!(back == state);
    }
}
