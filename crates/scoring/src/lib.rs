//! Batch scoring: a model bundle, rows in as CSV, results out as JSON lines for their owner.
//!
//! Bytes come in through a `Read` and go out through a `Write`, both streaming: decryption before
//! and encryption after are the caller's, and so are clocks. Files and networks are those of
//! [`storage`]. No row, no feature
//! and no score reaches an error text or a log from here; file names, column names and row numbers
//! may.

pub mod batch;
pub mod columns;
pub mod decompress;
pub mod detect;
#[doc(hidden)]
pub mod fuzzing;
pub mod generate;
pub mod model;
pub mod plain_at;
pub mod profile;
pub mod read_at;
pub mod report;
pub mod results;
pub mod storage;
pub mod tile;

/// The data set that is scored when none is named: 300 generated rows of the five columns that the
/// built-in model reads.
pub const DEFAULT_DATA: &[u8] = include_bytes!("../data/default.csv");

/// Text of others for an error message: escaped and cut, so that it can neither break a terminal
/// nor flood a log.
fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Columns, Generator};

    #[test]
    fn default_data_does_not_come_from_the_generator() {
        let generator = Generator {
            rows: 300,
            seed: 300,
            label: false,
            columns: Columns::Model,
        };
        let mut generated = Vec::new();
        generator.write_to(&mut generated).unwrap();
        assert!(
            DEFAULT_DATA == generated,
            "remake it: … --example generate -- 300 300"
        );
    }

    #[test]
    fn control_characters_reach_a_terminal() {
        assert_eq!(shown("a\x1b[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(shown(&"x".repeat(65)), format!("{}…", "x".repeat(64)));
    }
}
