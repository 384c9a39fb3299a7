//! How many rows one core scores in a second, on each path of this processor.
//!
//! `cargo bench -p strongroom-kernel` prints, for the tutorial's network (5, 32, 32, 32, 1) and a scaler before it, the
//! middle and the best round of each path and number of rows at a time, and how near that is to the multiplier's own rate.
//! Cases take turns, so that a busy machine hits all of them.
//!
//! With `--serve BATCH` it waits for lines, each the name of a path, scores 2^20 rows on it so many at a time, and answers
//! with the seconds that took: for `bench/engine`, which lets it and others take turns.

use std::hint::black_box;
use std::time::{Duration, Instant};

use strongroom_kernel::{Activation, Front, Layer, Network, Path};

const ROUNDS: usize = 25;
const ROWS_A_ROUND: usize = 1 << 17;
const BATCHES: [usize; 5] = [1, 16, 64, 1024, 65_536];
const SHAPE: [usize; 5] = [5, 32, 32, 32, 1];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--serve") {
        let batch = arguments.get(at + 1).and_then(|batch| batch.parse().ok());
        return serve(batch.expect("a number of rows after --serve"));
    }
    let mut cases = Vec::new();
    for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
        for batch in BATCHES {
            cases.push(Case::new(path, batch, false));
        }
        cases.push(Case::new(path, 1, true));
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            case.round();
        }
    }
    println!(
        "{:<10}{:>10}{:>18}{:>16}{:>12}",
        "path", "batch", "rows/s (median)", "best", "GFLOP/s"
    );
    for case in &mut cases {
        case.print();
    }
}

fn serve(batch: usize) {
    for line in std::io::stdin().lines() {
        let name = line.expect("a line");
        let path = Path::ALL.into_iter().find(|path| path.name() == name);
        let path = path.filter(|path| path.is_available());
        let Some(path) = path else {
            println!("none");
            continue;
        };
        let mut case = Case::new(path, batch, false);
        case.rows = 1 << 20;
        case.round();
        println!("{}", case.rounds[0].as_secs_f64());
    }
}

struct Case {
    network: Network,
    batch: usize,
    one_by_one: bool,
    columns: Vec<Vec<f64>>,
    scores: Vec<f32>,
    rows: usize,
    rounds: Vec<Duration>,
}

impl Case {
    fn new(path: Path, batch: usize, one_by_one: bool) -> Self {
        let layers = SHAPE.windows(2).enumerate().map(|(at, widths)| Layer {
            inputs: widths[0],
            weights: numbers(widths[0] * widths[1], 0.4).into(),
            bias: numbers(widths[1], 0.1).into(),
            activation: match at {
                3 => Activation::Sigmoid,
                _ => Activation::Relu,
            },
        });
        let front = Front {
            standardise: Some((vec![1.5; SHAPE[0]], vec![2.5; SHAPE[0]])),
            rescale: None,
        };
        let column = |at: usize| (0..batch).map(move |row| ((row * 7 + at) % 31) as f64 / 4.0);
        Self {
            network: Network::on(path, front, layers.collect()).expect("a path that is available"),
            batch,
            one_by_one,
            columns: (0..SHAPE[0]).map(|at| column(at).collect()).collect(),
            scores: vec![0.0; batch],
            // The plain twin is no path that anybody waits for.
            rows: if path == Path::Scalar {
                ROWS_A_ROUND / 8
            } else {
                ROWS_A_ROUND
            },
            rounds: Vec::new(),
        }
    }

    fn round(&mut self) {
        let columns: Vec<&[f64]> = self.columns.iter().map(Vec::as_slice).collect();
        let row: Vec<f64> = self.columns.iter().map(|column| column[0]).collect();
        let mut workspace = self.network.workspace();
        let start = Instant::now();
        for _ in 0..self.runs() {
            if self.one_by_one {
                black_box(self.network.score_row(black_box(&row), &mut workspace));
            } else {
                self.network
                    .score(black_box(&columns), &mut workspace, &mut self.scores);
                black_box(&mut self.scores);
            }
        }
        self.rounds.push(start.elapsed());
    }

    fn runs(&self) -> usize {
        self.rows.div_ceil(self.batch)
    }

    fn print(&mut self) {
        self.rounds.sort();
        let rows = (self.runs() * self.batch) as f64;
        let rate = |took: Duration| rows / took.as_secs_f64();
        let median = rate(self.rounds[ROUNDS / 2]);
        let operations: usize = SHAPE
            .windows(2)
            .map(|widths| 2 * widths[0] * widths[1])
            .sum();
        let batch = match self.one_by_one {
            true => "one row".to_owned(),
            false => self.batch.to_string(),
        };
        println!(
            "{:<10}{batch:>10}{median:>18.0}{:>16.0}{:>12.1}",
            self.network.path().name(),
            rate(self.rounds[0]),
            median * operations as f64 / 1e9,
        );
    }
}

fn numbers(count: usize, spread: f32) -> Vec<f32> {
    (0..count)
        .map(|at| ((at * 37 % 101) as f32 / 50.5 - 1.0) * spread)
        .collect()
}
