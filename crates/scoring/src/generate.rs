//! Transactions by the law of the public credit card fraud data set: seven features, independent of
//! one another, and a label that is a step function of them. No row of the public set is in here.
//!
//! The same seed gives the same bytes on every platform: xoshiro256++ seeded through `SplitMix64`
//! supplies the bits, and logarithms, exponentials and cosines come from the pure-Rust `libm`, not
//! from the system. A test pins the digest of the first thousand rows.

use std::io::{self, Read, Write};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// A stream of generated transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generator {
    /// How many rows.
    pub rows: u64,
    /// Rows of two seeds have nothing in common; rows of one seed are always the same.
    pub seed: u64,
    /// Whether a last column `fraud` holds the true answer.
    pub label: bool,
    /// Which features are printed; the label follows from all of them either way.
    pub columns: Columns,
}

impl Generator {
    /// The rows themselves.
    pub fn transactions(&self) -> impl Iterator<Item = Transaction> + use<> {
        let mut law = Law::new(self.seed);
        (0..self.rows).map(move |_| law.next_transaction())
    }

    /// The rows as a CSV with a header, made as they are read: nothing is held but one row.
    pub fn into_reader(self) -> GeneratedCsv {
        let mut text = Vec::with_capacity(256);
        self.print_header(&mut text);
        GeneratedCsv {
            law: Law::new(self.seed),
            generator: self,
            left: self.rows,
            text,
            taken: 0,
        }
    }

    /// Writes the CSV, header first.
    ///
    /// # Errors
    /// Whatever `out` fails with.
    pub fn write_to(self, out: &mut dyn Write) -> io::Result<()> {
        let mut law = Law::new(self.seed);
        let mut text = Vec::with_capacity(CHUNK + 256);
        self.print_header(&mut text);
        for _ in 0..self.rows {
            self.print_row(&law.next_transaction(), &mut text);
            if text.len() >= CHUNK {
                out.write_all(&text)?;
                text.clear();
            }
        }
        out.write_all(&text)
    }

    fn print_header(&self, text: &mut Vec<u8>) {
        let features: &[&str] = match self.columns {
            Columns::All => &FEATURES,
            Columns::Model => &MODEL_FEATURES,
        };
        text.extend_from_slice(features.join(",").as_bytes());
        if self.label {
            text.push(b',');
            text.extend_from_slice(LABEL.as_bytes());
        }
        text.push(b'\n');
    }

    fn print_row(&self, row: &Transaction, text: &mut Vec<u8>) {
        if self.columns == Columns::All {
            print_float(row.distance_from_home, text);
            text.push(b',');
        }
        print_float(row.distance_from_last_transaction, text);
        text.push(b',');
        print_float(row.ratio_to_median_purchase_price, text);
        if self.columns == Columns::All {
            print_flag(row.repeat_retailer, text);
        }
        print_flag(row.used_chip, text);
        print_flag(row.used_pin_number, text);
        print_flag(row.online_order, text);
        if self.label {
            print_flag(row.is_fraud(), text);
        }
        text.push(b'\n');
    }
}

/// Which features a generated file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// All seven, as in the public data set.
    All,
    /// The five that the tutorial's model reads, as in the workshop's data sets.
    Model,
}

/// The features of the public data set, in its order.
pub const FEATURES: [&str; 7] = [
    "distance_from_home",
    "distance_from_last_transaction",
    "ratio_to_median_purchase_price",
    "repeat_retailer",
    "used_chip",
    "used_pin_number",
    "online_order",
];

/// The features that the tutorial's model reads, in its order.
pub const MODEL_FEATURES: [&str; 5] = [
    "distance_from_last_transaction",
    "ratio_to_median_purchase_price",
    "used_chip",
    "used_pin_number",
    "online_order",
];

/// The column that holds the true answer.
pub const LABEL: &str = "fraud";

/// One generated transaction.
#[derive(Clone, Copy, PartialEq)]
pub struct Transaction {
    /// How far from home it took place: log-normal around 10.
    pub distance_from_home: f64,
    /// How far from the transaction before it: log-normal around 1.
    pub distance_from_last_transaction: f64,
    /// Its price over the median price: log-normal around 1.
    pub ratio_to_median_purchase_price: f64,
    /// Whether the retailer was known, which in this law is a matter of the distance from home.
    pub repeat_retailer: bool,
    /// Whether a chip was used.
    pub used_chip: bool,
    /// Whether a PIN was entered.
    pub used_pin_number: bool,
    /// Whether it was an order over the Internet.
    pub online_order: bool,
}

impl Transaction {
    /// The label by the law: the sum of what speaks for fraud and against it, cut at five.
    pub fn is_fraud(&self) -> bool {
        let points = 3 * i32::from(self.distance_from_home > 100.0)
            + 3 * i32::from(self.distance_from_last_transaction > 50.0)
            + 4 * i32::from(self.ratio_to_median_purchase_price > 4.0)
            + i32::from(!self.repeat_retailer)
            - i32::from(self.used_chip)
            - 4 * i32::from(self.used_pin_number)
            + 2 * i32::from(self.online_order);
        points >= 5
    }

    /// The values of [`MODEL_FEATURES`].
    pub fn model_features(&self) -> [f64; 5] {
        let flag = |set: bool| f64::from(u8::from(set));
        [
            self.distance_from_last_transaction,
            self.ratio_to_median_purchase_price,
            flag(self.used_chip),
            flag(self.used_pin_number),
            flag(self.online_order),
        ]
    }
}

/// The bytes of a generated CSV, made on demand.
pub struct GeneratedCsv {
    generator: Generator,
    law: Law,
    left: u64,
    text: Vec<u8>,
    taken: usize,
}

impl Read for GeneratedCsv {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.text.len() {
            self.text.clear();
            self.taken = 0;
            while self.left > 0 && self.text.len() < CHUNK {
                self.left -= 1;
                self.generator
                    .print_row(&self.law.next_transaction(), &mut self.text);
            }
        }
        let count = buffer.len().min(self.text.len() - self.taken);
        buffer[..count].copy_from_slice(&self.text[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

/// The distribution of the features. Every row takes exactly eight draws.
struct Law {
    random: Xoshiro256PlusPlus,
}

impl Law {
    fn new(seed: u64) -> Self {
        Self {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    fn next_transaction(&mut self) -> Transaction {
        let (home, last) = self.two_normals();
        let (ratio, _) = self.two_normals();
        let distance_from_home = libm::exp(HOME_MEDIAN_LN + 1.40 * home);
        let _spare = self.uniform();
        Transaction {
            distance_from_home,
            distance_from_last_transaction: libm::exp(1.80 * last),
            ratio_to_median_purchase_price: libm::exp(1.10 * ratio),
            repeat_retailer: distance_from_home > 1.9,
            used_chip: self.uniform() < 0.35,
            used_pin_number: self.uniform() < 0.10,
            online_order: self.uniform() < 0.65,
        }
    }

    /// Box and Muller's transform: exact, and the same number of draws each time.
    fn two_normals(&mut self) -> (f64, f64) {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * self.uniform());
        (radius * cosine, radius * sine)
    }

    /// A multiple of 2^-53 in [0, 1).
    fn uniform(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.random.next_u64() >> 11) as f64 * STEP
    }
}

/// ln 10.
const HOME_MEDIAN_LN: f64 = std::f64::consts::LN_10;

/// How much text is made at a time.
const CHUNK: usize = 64 * 1024;

/// The shortest decimal that reads back as the same number.
fn print_float(value: f64, text: &mut Vec<u8>) {
    write!(text, "{value:?}").expect("writing to a Vec never fails");
}

fn print_flag(set: bool, text: &mut Vec<u8>) {
    text.extend_from_slice(if set { b",1.0" } else { b",0.0" });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELLED: Generator = Generator {
        rows: 1000,
        seed: 42,
        label: true,
        columns: Columns::All,
    };

    fn csv_of(generator: Generator) -> Vec<u8> {
        let mut text = Vec::new();
        generator.write_to(&mut text).unwrap();
        text
    }

    #[test]
    fn another_version_or_platform_makes_other_rows() {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &csv_of(LABELLED));
        assert_eq!(
            hex::encode(digest),
            "6ba7f9e15f469ac8797b487116a4d7a7b6b8bd2fbc2d4bb2b9c3c8f4f7ecffc8"
        );
    }

    #[test]
    fn reader_and_writer_disagree() {
        for columns in [Columns::All, Columns::Model] {
            for label in [false, true] {
                let generator = Generator {
                    rows: 3000,
                    seed: 7,
                    label,
                    columns,
                };
                let mut read = Vec::new();
                generator.into_reader().read_to_end(&mut read).unwrap();
                assert_eq!(read, csv_of(generator));
            }
        }
    }

    #[test]
    fn seeds_share_rows() {
        assert_ne!(
            csv_of(LABELLED),
            csv_of(Generator {
                seed: 43,
                ..LABELLED
            })
        );
    }

    #[test]
    fn printed_floats_read_back_as_another_number() {
        let text = String::from_utf8(csv_of(LABELLED)).unwrap();
        for (line, row) in text.lines().skip(1).zip(LABELLED.transactions()) {
            let mut fields = line.split(',');
            let mut number = || fields.next().unwrap().parse::<f64>().unwrap();
            assert_eq!(number().to_bits(), row.distance_from_home.to_bits());
            assert_eq!(
                number().to_bits(),
                row.distance_from_last_transaction.to_bits()
            );
            assert_eq!(
                number().to_bits(),
                row.ratio_to_median_purchase_price.to_bits()
            );
        }
    }

    #[test]
    fn label_breaks_the_law() {
        let text = String::from_utf8(csv_of(Generator {
            rows: 50_000,
            ..LABELLED
        }))
        .unwrap();
        let mismatches = text
            .lines()
            .skip(1)
            .filter(|line| {
                let f: Vec<f64> = line
                    .split(',')
                    .map(|field| field.parse().unwrap())
                    .collect();
                let step = |condition: bool| f64::from(u8::from(condition));
                let points = 3.0 * step(f[0] > 100.0)
                    + 3.0 * step(f[1] > 50.0)
                    + 4.0 * step(f[2] > 4.0)
                    + (1.0 - f[3])
                    - f[4]
                    - 4.0 * f[5]
                    + 2.0 * f[6];
                step(points >= 5.0) != f[7] || step(f[0] > 1.9) != f[3]
            })
            .count();
        assert_eq!(mismatches, 0);
    }

    /// The figures that the law gives and the public data set shows.
    #[test]
    fn statistics_leave_the_public_data_set() {
        let rows = 400_000_u32;
        let all: Vec<Transaction> = Generator {
            rows: rows.into(),
            ..LABELLED
        }
        .transactions()
        .collect();
        let share = |holds: fn(&Transaction) -> bool| {
            all.iter().filter(|row| holds(row)).count() as f64 / f64::from(rows)
        };
        let near = |value: f64, expected: f64, tolerance: f64| {
            assert!(
                (value - expected).abs() < tolerance,
                "{value} is not near {expected}"
            );
        };
        near(share(Transaction::is_fraud), 0.0875, 0.0015);
        near(share(|row| row.repeat_retailer), 0.8822, 0.002);
        near(share(|row| row.used_chip), 0.35, 0.003);
        near(share(|row| row.used_pin_number), 0.10, 0.002);
        near(share(|row| row.online_order), 0.65, 0.003);

        let mean_and_median = |feature: fn(&Transaction) -> f64| {
            let mut values: Vec<f64> = all.iter().map(feature).collect();
            values.sort_by(f64::total_cmp);
            (
                values.iter().sum::<f64>() / f64::from(rows),
                values[values.len() / 2],
            )
        };
        let (mean, median) = mean_and_median(|row| row.distance_from_home);
        near(mean, 26.6, 0.5);
        near(median, 10.0, 0.1);
        let (mean, median) = mean_and_median(|row| row.distance_from_last_transaction);
        near(mean, 5.05, 0.25);
        near(median, 1.0, 0.02);
        let (mean, median) = mean_and_median(|row| row.ratio_to_median_purchase_price);
        near(mean, 1.83, 0.03);
        near(median, 1.0, 0.01);
    }
}
