//! A batch as the command line runs it: rows that nobody holds, through the public API alone.

#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};

use strongroom_scoring::DEFAULT_DATA;
use strongroom_scoring::batch::{Options, Progress, Results, ScoreError, Summary, score};
use strongroom_scoring::generate::{Columns, Generator};
use strongroom_scoring::model::Bundle;
use strongroom_scoring::results::top;

fn options(results: Results) -> Options {
    Options {
        results,
        file_name: "stream.csv".to_owned(),
        ..Options::default()
    }
}

fn score_into(
    input: &mut (dyn Read + Send),
    options: &Options,
    out: &mut (dyn Write + Send),
) -> Result<Summary, ScoreError> {
    score(input, &Bundle::built_in(), options, out, &mut |_| {})
}

/// 300,000 rows from the generator through a pipe of the system, and back through another.
#[test]
fn rows_get_lost_in_a_pipe() {
    let rows = 300_000;
    let generator = Generator {
        rows,
        seed: 11,
        label: true,
        columns: Columns::All,
    };
    let (mut csv_out, csv_in) = io::pipe().unwrap();
    let (results_out, mut results_in) = io::pipe().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut csv_in = csv_in;
            generator.write_to(&mut csv_in).unwrap();
        });
        let owner = scope.spawn(move || top(results_out, 10).unwrap());
        let mut last = Progress { rows: 0, bytes: 0 };
        let bundle = Bundle::built_in();
        let summary = score(
            &mut csv_out,
            &bundle,
            &options(Results::Flagged),
            &mut results_in,
            &mut |progress| last = progress,
        )
        .unwrap();
        drop(results_in);
        let top = owner.join().unwrap();

        assert_eq!((summary.rows, summary.bad_rows), (rows, 0));
        assert_eq!(
            last,
            Progress {
                rows,
                bytes: summary.bytes
            }
        );
        assert_eq!(summary.histogram.iter().sum::<u64>(), rows);
        let share = summary.flagged as f64 / rows as f64;
        assert!(
            (0.062..0.070).contains(&share),
            "{share} of the rows flagged"
        );
        assert_eq!(top.summary, summary);
        assert_eq!(top.rows.len(), 10);
        assert_eq!(top.header.model_digest, bundle.digest());
        assert!(top.rows.iter().all(|row| row.probability > 0.99));
    });
}

#[test]
fn same_rows_give_other_results() {
    let results = || {
        let generator = Generator {
            rows: 5000,
            seed: 5,
            label: false,
            columns: Columns::Model,
        };
        let mut out = Vec::new();
        score_into(
            &mut generator.into_reader(),
            &options(Results::All),
            &mut out,
        )
        .unwrap();
        out
    };
    assert_eq!(results(), results());
}

#[test]
fn default_data_shows_no_fraud() {
    let mut out = Vec::new();
    let summary = score_into(&mut &DEFAULT_DATA[..], &options(Results::Flagged), &mut out).unwrap();
    assert_eq!((summary.rows, summary.bad_rows), (300, 0));
    assert!(
        (10..40).contains(&summary.flagged),
        "{} flagged",
        summary.flagged
    );
}

/// A million bad rows: what is kept of them does not grow.
#[test]
fn bad_rows_fill_memory() {
    let header = DEFAULT_DATA
        .split_inclusive(|&byte| byte == b'\n')
        .next()
        .unwrap();
    let mut input = header.chain(Repeat {
        row: b"1,2,3\n",
        left: 1_000_000,
        taken: 0,
    });
    let mut out = Vec::new();
    let options = Options {
        skip_bad_rows: true,
        ..options(Results::All)
    };
    let summary = score_into(&mut input, &options, &mut out).unwrap();
    assert_eq!(
        (summary.rows, summary.bad_rows, summary.scored()),
        (1_000_000, 1_000_000, 0)
    );
    assert!(out.len() < 4096);
}

#[test]
fn error_text_holds_a_value() {
    let marker = "8765.4321";
    let header = std::str::from_utf8(DEFAULT_DATA)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    for row in [
        format!("{marker},1,0,0"),
        format!("{marker},1,0,0,1,1"),
        format!("x{marker},1,0,0,1"),
        format!("\"{marker},1,0,0,1"),
        format!("{marker}e999,1,0,0,1"),
        format!("{marker}e50,1,0,0,1"),
    ] {
        let csv = format!("{header}\n{row}\n");
        let mut out = Vec::new();
        let strict = options(Results::All);
        let error = score_into(&mut csv.as_bytes(), &strict, &mut out).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("4321"), "{error:?}");
        let lenient = Options {
            skip_bad_rows: true,
            ..strict
        };
        let summary = score_into(&mut csv.as_bytes(), &lenient, &mut out).unwrap();
        assert!(!serde_json::to_string(&summary).unwrap().contains("4321"));
    }
    for header in [
        marker.to_owned(),
        format!("x={marker}"),
        format!("a,{marker},b"),
    ] {
        let mut out = Vec::new();
        let error = score_into(&mut header.as_bytes(), &options(Results::All), &mut out);
        assert!(!error.unwrap_err().to_string().contains("4321"), "{header}");
    }
}

struct Repeat {
    row: &'static [u8],
    left: u64,
    taken: usize,
}

impl Read for Repeat {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() && self.left > 0 {
            let rest = &self.row[self.taken..];
            let count = rest.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
            self.taken += count;
            if self.taken == self.row.len() {
                (self.taken, self.left) = (0, self.left - 1);
            }
        }
        Ok(filled)
    }
}
