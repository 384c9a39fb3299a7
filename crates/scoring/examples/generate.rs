//! Writes generated transactions as CSV to standard output; `models/fraud/train.py` reads them.
//!
//! `cargo run --release -p strongroom-scoring --example generate -- ROWS SEED [--label] [--all]`

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use strongroom_scoring::generate::{Columns, Generator};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(generator) = generator(&arguments) else {
        eprintln!("usage: generate ROWS SEED [--label] [--all]");
        return ExitCode::FAILURE;
    };
    let mut out = BufWriter::new(io::stdout().lock());
    match generator.write_to(&mut out).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("generate: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generator(arguments: &[String]) -> Option<Generator> {
    let [rows, seed, options @ ..] = arguments else {
        return None;
    };
    let mut generator = Generator {
        rows: rows.parse().ok()?,
        seed: seed.parse().ok()?,
        label: false,
        columns: Columns::Model,
    };
    for option in options {
        match option.as_str() {
            "--label" => generator.label = true,
            "--all" => generator.columns = Columns::All,
            _ => return None,
        }
    }
    Some(generator)
}
