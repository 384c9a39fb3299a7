//! What each stage of a batch costs on one core, and what the whole costs against their sum:
//! `cargo bench -p strongroom-scoring --bench batch`. `ROWS` says how many rows (1,000,000).
//!
//! Encrypted CSV lies in memory and only counts come out, so that no disk is measured. Every figure
//! is the best of five.

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use strongroom_cipherfile::FileKey;
use strongroom_cipherfile::tink_stream::{Encryptor, Segments};
use strongroom_scoring::batch::{Job, Options, Results};
use strongroom_scoring::generate::{Columns, Generator};
use strongroom_scoring::model::Bundle;
use strongroom_scoring::tile::{TILE, Tile};

fn main() {
    let rows =
        std::env::var("ROWS").map_or(1_000_000, |rows| rows.parse().expect("ROWS is a number"));
    let mut csv = Vec::new();
    let generator = Generator {
        rows,
        seed: 1,
        label: true,
        columns: Columns::All,
    };
    generator.write_to(&mut csv).expect("memory takes it");
    let key = FileKey::generate().expect("random numbers");
    let mut encryptor = Encryptor::new(Vec::new(), &key, b"rows.csv").expect("random numbers");
    encryptor.write_all(&csv).expect("memory takes it");
    let sealed = Bytes::from(encryptor.finish().expect("memory takes it"));
    println!("{rows} rows, {} bytes of CSV", csv.len());

    let bundle = Bundle::built_in();
    let show = |what: &str, took: Duration| {
        let nanoseconds = took.as_secs_f64() * 1e9 / rows as f64;
        println!(
            "{what:<34}{nanoseconds:>8.1} ns a row, {:>7.2} M rows/s",
            1e3 / nanoseconds
        );
        took
    };

    let decrypt = show(
        "decrypt",
        best(|| {
            let segments = segments(&sealed, &key);
            let mut buffer = Vec::new();
            for segment in 0..segments.count() {
                let place = segments.ciphertext_range(segment);
                buffer.clear();
                buffer.extend_from_slice(&sealed[place.start as usize..place.end as usize]);
                black_box(
                    segments
                        .open_in_place(segment, &mut buffer)
                        .expect("our own file"),
                );
            }
        }),
    );
    let score = show(
        "score",
        best(|| {
            let mut scorer = bundle.scorer().expect("a scorer");
            let mut tile = Tile::new(bundle.preprocessing().columns().len());
            for at in 0..TILE {
                for column in 0..tile.width() {
                    tile.set(column, (at % 7 + column) as f64);
                }
                tile.end_row();
            }
            let mut scores = Vec::new();
            for _ in 0..rows.div_ceil(TILE as u64) {
                scores.clear();
                scorer.score(&tile, &mut scores).expect("scores");
                black_box(&scores);
            }
        }),
    );
    let plain = show(
        "parse and score, 1 thread",
        best(|| run(&bundle, 1, Results::Summary, Input::Plain(&csv))),
    );
    let whole = show(
        "all of it, 1 thread",
        best(|| run(&bundle, 1, Results::Summary, Input::Sealed(&sealed, &key))),
    );
    show(
        "all of it, 2 threads",
        best(|| run(&bundle, 2, Results::Summary, Input::Sealed(&sealed, &key))),
    );
    show(
        "all of it, flagged rows, 2 threads",
        best(|| run(&bundle, 2, Results::Flagged, Input::Sealed(&sealed, &key))),
    );
    show(
        "all of it, all rows, 2 threads",
        best(|| run(&bundle, 2, Results::All, Input::Sealed(&sealed, &key))),
    );
    let parse = plain.saturating_sub(score);
    println!(
        "parsing alone, by subtraction: {:.1} ns a row; the whole takes {:.0} % of the stages' sum",
        parse.as_secs_f64() * 1e9 / rows as f64,
        whole.as_secs_f64() / (decrypt + plain).as_secs_f64() * 100.0,
    );
}

enum Input<'a> {
    Plain(&'a [u8]),
    Sealed(&'a Bytes, &'a FileKey),
}

fn run(bundle: &Bundle, threads: usize, results: Results, input: Input<'_>) {
    let options = Options {
        threads: threads.try_into().ok(),
        results,
        ..Options::default()
    };
    let mut out = std::io::sink();
    let mut job = Job::begin(bundle, &options, &mut out).expect("a sink takes it");
    match input {
        Input::Plain(mut csv) => job.csv("rows.csv", &mut csv, &mut |_| {}),
        Input::Sealed(sealed, key) => {
            job.csv_segments("rows.csv", sealed, &segments(sealed, key), &mut |_| {})
        }
    }
    .expect("our own rows");
    black_box(job.finish().expect("a sink takes it"));
}

fn segments(sealed: &Bytes, key: &FileKey) -> Segments {
    let header = sealed.first_chunk().expect("our own file");
    Segments::parse(header, sealed.len() as u64, key, b"rows.csv").expect("our own file")
}

fn best(mut work: impl FnMut()) -> Duration {
    (0..5)
        .map(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed()
        })
        .min()
        .unwrap_or_default()
}
