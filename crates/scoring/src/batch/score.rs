//! The loop: fill a tile, score it, hand out what the owner wants of it, count everything.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use super::input::{Position, Rows, Table};
use super::output::ResultWriter;
use super::{BadReason, BadRow, Options, Progress, Results, ScoreError, Summary, is_fraud};
use crate::model::{Bundle, Scorer};
use crate::profile::{Outside, Profile, TrainingRange};
use crate::results::{FORMAT, HISTOGRAM_BINS, Header, histogram_bin};
use crate::tile::TILE;

/// Scores a CSV. Rows stream through: memory does not grow with their number.
///
/// The results are written as they come and are whole only when this returns `Ok`: after an error
/// the caller throws them away or leaves them to be found cut. Equal inputs give equal results, to
/// the byte. `progress` is called after every tile of a thousand rows or so.
///
/// # Errors
/// [`ScoreError`] says which row or what else; see there.
pub fn score(
    input: &mut dyn Read,
    bundle: &Bundle,
    options: &Options,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, ScoreError> {
    let threshold = options
        .threshold
        .unwrap_or_else(|| bundle.preprocessing().threshold());
    if !(0.0..=1.0).contains(&threshold) {
        return Err(ScoreError::Threshold);
    }
    let mut table = Table::open(input, bundle.preprocessing(), &options.file_name)?;
    let header = Header {
        format: FORMAT.to_owned(),
        input: options.file_name.clone(),
        model_digest: bundle.digest().to_owned(),
        threshold,
        results: options.results,
        columns: bundle.preprocessing().columns().to_vec(),
    };
    let results = ResultWriter::begin(out, &header).map_err(ScoreError::Write)?;
    let mut batch = Batch {
        options,
        threshold,
        scorer: bundle.scorer()?,
        scores: Vec::with_capacity(TILE),
        results,
        range: bundle.profile().map(Profile::range),
        outside: Outside::new(bundle.preprocessing().columns().len()),
        tally: Tally::default(),
    };
    let mut tile = Rows::new(bundle.network().width());
    loop {
        tile.clear();
        let more = batch.fill(&mut tile, &mut table)?;
        batch.score(&tile)?;
        progress(Progress {
            rows: table.rows(),
            bytes: table.bytes(),
        });
        if !more {
            break;
        }
    }
    let mut summary = batch.tally.summary(
        threshold,
        bundle.digest().to_owned(),
        table.rows(),
        table.bytes(),
    );
    if batch.range.is_some() {
        summary.say_outside(&batch.outside, bundle.preprocessing().columns());
    }
    batch.results.finish(&summary).map_err(ScoreError::Write)?;
    Ok(summary)
}

/// Bad rows whose place the summary names.
const NAMED_BAD_ROWS: usize = 5;

struct Batch<'a> {
    options: &'a Options,
    threshold: f64,
    scorer: Scorer<'a>,
    scores: Vec<f32>,
    results: ResultWriter<'a>,
    range: Option<TrainingRange>,
    outside: Outside,
    tally: Tally,
}

impl Batch<'_> {
    /// Fills the tile with good rows; false at the end of the input.
    fn fill(&mut self, tile: &mut Rows, table: &mut Table<'_>) -> Result<bool, ScoreError> {
        // Bad rows count, too: a file of nothing else must still report its progress.
        for _ in 0..TILE {
            match table.next_row(tile)? {
                None => return Ok(false),
                Some(Ok(())) => {}
                Some(Err(bad)) => self.bad(bad)?,
            }
        }
        Ok(true)
    }

    fn score(&mut self, tile: &Rows) -> Result<(), ScoreError> {
        self.scores.clear();
        self.scorer.score(&tile.values, &mut self.scores)?;
        if let Some(range) = &self.range {
            self.outside.add(range, &tile.values);
        }
        let mut features = Vec::with_capacity(tile.values.width());
        for (at, position) in tile.positions.iter().enumerate() {
            features.clear();
            features.extend(tile.values.row(at));
            self.row(*position, f64::from(self.scores[at]), &features)?;
        }
        Ok(())
    }

    fn row(&mut self, at: Position, probability: f64, features: &[f64]) -> Result<(), ScoreError> {
        if probability.is_nan() {
            let Position { row, line } = at;
            return self.bad(BadRow {
                row,
                line,
                column: None,
                reason: BadReason::NoScore,
            });
        }
        if !(0.0..=1.0).contains(&probability) {
            let file = self.options.file_name.clone();
            return Err(ScoreError::NotAProbability { file, row: at.row });
        }
        let flagged = is_fraud(probability, self.threshold);
        self.tally.add(probability, flagged);
        let wanted = match self.options.results {
            Results::Flagged => flagged,
            Results::All => true,
            Results::Summary => false,
        };
        if wanted {
            self.results
                .row(at.row, probability, features)
                .map_err(ScoreError::Write)?;
        }
        Ok(())
    }

    fn bad(&mut self, row: BadRow) -> Result<(), ScoreError> {
        if !self.options.skip_bad_rows {
            return Err(ScoreError::Row {
                file: self.options.file_name.clone(),
                row,
            });
        }
        *self.tally.bad.entry(row.reason).or_default() += 1;
        if self.tally.first_bad.len() < NAMED_BAD_ROWS {
            self.tally.first_bad.push(row);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Tally {
    scored: u64,
    flagged: u64,
    bad: BTreeMap<BadReason, u64>,
    first_bad: Vec<BadRow>,
    histogram: [u64; HISTOGRAM_BINS],
    max: f64,
    sum: f64,
}

impl Tally {
    fn add(&mut self, probability: f64, flagged: bool) {
        self.scored += 1;
        self.flagged += u64::from(flagged);
        self.histogram[histogram_bin(probability)] += 1;
        self.max = self.max.max(probability);
        self.sum += probability;
    }

    fn summary(self, threshold: f64, model_digest: String, rows: u64, bytes: u64) -> Summary {
        let any = self.scored > 0;
        Summary {
            rows,
            bad_rows: self.bad.values().sum(),
            bad_rows_by_reason: self.bad,
            first_bad_rows: self.first_bad,
            flagged: self.flagged,
            threshold,
            histogram: self.histogram,
            max: any.then_some(self.max),
            mean: any.then(|| self.sum / self.scored as f64),
            bytes,
            model_digest,
            rows_outside_training_range: None,
            outside_training_range: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::results::top;

    const HEADER: &str = "distance_from_last_transaction,ratio_to_median_purchase_price,\
        used_chip,used_pin_number,online_order\n";
    const FRAUD: &str = "100.0,5.0,0.0,0.0,1.0\n";
    const HONEST: &str = "0.5,1.0,1.0,1.0,0.0\n";

    fn options() -> Options {
        Options {
            threshold: None,
            skip_bad_rows: false,
            results: Results::Flagged,
            file_name: "rows.csv".to_owned(),
        }
    }

    fn run(csv: &[u8], options: &Options) -> Result<(Summary, Vec<u8>), ScoreError> {
        run_with(&Bundle::built_in(), csv, options)
    }

    fn run_with(
        bundle: &Bundle,
        mut csv: &[u8],
        options: &Options,
    ) -> Result<(Summary, Vec<u8>), ScoreError> {
        let mut out = Vec::new();
        let summary = score(&mut csv, bundle, options, &mut out, &mut |_| {})?;
        Ok((summary, out))
    }

    fn summary(rows: &str) -> Summary {
        run(format!("{HEADER}{rows}").as_bytes(), &options())
            .unwrap()
            .0
    }

    fn refusal(csv: impl AsRef<[u8]>) -> String {
        run(csv.as_ref(), &options()).unwrap_err().to_string()
    }

    fn row_refusal(row: &str) -> String {
        refusal(format!("{HEADER}{HONEST}{row}"))
    }

    #[test]
    fn obvious_fraud_is_missed() {
        let summary = summary(&[FRAUD, HONEST, FRAUD].concat());
        assert_eq!((summary.rows, summary.flagged, summary.bad_rows), (3, 2, 0));
    }

    #[test]
    fn probability_of_exactly_one_is_no_fraud() {
        assert!(is_fraud(1.0, 1.0));
        assert!(is_fraud(1.0, 0.999_999));
        assert!(!is_fraud(0.95, 0.95));
        let options = Options {
            threshold: Some(1.0),
            ..options()
        };
        let csv = &b"x\n0.5\n1.0\n"[..];
        let (summary, _) = run_with(&bare_bundle(&IDENTITY), csv, &options).unwrap();
        assert_eq!(
            (summary.max, summary.flagged, summary.histogram[19]),
            (Some(1.0), 1, 1)
        );
    }

    #[test]
    fn score_that_is_no_probability_is_handed_out() {
        for value in ["1.5", "-0.5"] {
            let csv = format!("x\n0.5\n{value}\n");
            let error = run_with(&bare_bundle(&IDENTITY), csv.as_bytes(), &options()).unwrap_err();
            assert_eq!(
                error.to_string(),
                "rows.csv: row 2: the model gives a score that is not between 0 and 1"
            );
        }
    }

    #[test]
    fn overflow_in_the_model_passes_for_a_score() {
        // (x + x) - (x + x): 0 for every number that does not overflow.
        let bundle = bare_bundle(&[
            ("Add", &["x", "x"], "a"),
            ("Add", &["x", "x"], "b"),
            ("Sub", &["a", "b"], "y"),
        ]);
        let options = Options {
            skip_bad_rows: true,
            ..options()
        };
        let (summary, _) = run_with(&bundle, b"x\n1.0\n3e38\n", &options).unwrap();
        assert_eq!(summary.bad_rows_by_reason, [(BadReason::NoScore, 1)].into());
        assert_eq!(
            (summary.first_bad_rows[0].row, summary.histogram[0]),
            (2, 1)
        );
    }

    type Node<'a> = (&'a str, &'a [&'a str], &'a str);

    const IDENTITY: [Node<'_>; 1] = [("Identity", &["x"], "y")];

    /// A bundle that takes one column, unscaled, and has no sigmoid.
    fn bare_bundle(nodes: &[Node<'_>]) -> Bundle {
        use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
        use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};
        use tract_onnx::pb::{TensorShapeProto, TypeProto, ValueInfoProto, type_proto};

        let value = |name: &str| {
            let dim = [7, 1].map(|size| Dimension {
                value: Some(dimension::Value::DimValue(size)),
                ..Default::default()
            });
            let shape = Some(TensorShapeProto { dim: dim.into() });
            let tensor = type_proto::Tensor {
                elem_type: 1,
                shape,
            };
            let value = Some(type_proto::Value::TensorType(tensor));
            ValueInfoProto {
                name: name.to_owned(),
                r#type: Some(TypeProto {
                    value,
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let node = |&(op_type, inputs, output): &Node<'_>| NodeProto {
            op_type: op_type.to_owned(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..Default::default()
        };
        let model = ModelProto {
            opset_import: vec![OperatorSetIdProto {
                domain: String::new(),
                version: 15,
            }],
            graph: Some(GraphProto {
                node: nodes.iter().map(node).collect(),
                input: vec![value("x")],
                output: vec![value("y")],
                ..Default::default()
            }),
            ..Default::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let write = |name, content: &[u8]| std::fs::write(folder.path().join(name), content);
        write("model.onnx", &prost::Message::encode_to_vec(&model)).unwrap();
        let preprocessing = br#"{"format":1,"columns":["x"],"scaler":{"mean":[0],"scale":[1]},
            "threshold":0.5}"#;
        write("preprocessing.json", preprocessing).unwrap();
        Bundle::from_dir(folder.path()).unwrap()
    }

    #[test]
    fn rows_outside_the_training_range_go_uncounted() {
        let far = "1e9,1e9,0.0,0.0,1.0\n1e9,1.0,0.0,0.0,2.0\n";
        let (summary, out) = run(
            format!("{HEADER}{HONEST}{far}{FRAUD}").as_bytes(),
            &options(),
        )
        .unwrap();
        assert_eq!(summary.rows_outside_training_range, Some(2));
        let by_column: Vec<_> = summary.outside_training_range.iter().collect();
        assert_eq!(
            by_column,
            [
                (&"distance_from_last_transaction".to_owned(), &2),
                (&"online_order".to_owned(), &1),
                (&"ratio_to_median_purchase_price".to_owned(), &1),
            ]
        );
        assert_eq!(top(&out[..], 1).unwrap().summary, summary);
        // A bundle without a profile knows no range.
        let (summary, _) = run_with(&bare_bundle(&IDENTITY), b"x\n0.5\n", &options()).unwrap();
        assert_eq!(summary.rows_outside_training_range, None);
    }

    #[test]
    fn columns_are_taken_by_place() {
        let csv = "online_order,fraud,used_pin_number,used_chip,distance_from_home,\
            ratio_to_median_purchase_price,distance_from_last_transaction,repeat_retailer\n\
            1.0,0.0,0.0,0.0,7.0,5.0,100.0,1.0\n";
        let (_, shuffled) = run(csv.as_bytes(), &options()).unwrap();
        let row = &top(&shuffled[..], 1).unwrap().rows[0];
        assert_eq!(row.features, [100.0, 5.0, 0.0, 0.0, 1.0]);
        let (_, straight) = run(format!("{HEADER}{FRAUD}").as_bytes(), &options()).unwrap();
        assert_eq!(top(&straight[..], 1).unwrap().rows[0], *row);
    }

    #[test]
    fn byte_order_mark_is_part_of_a_name() {
        assert!(run(format!("\u{feff}{HEADER}{FRAUD}").as_bytes(), &options()).is_ok());
    }

    #[test]
    fn windows_line_ends_are_part_of_a_number() {
        let csv = format!("{HEADER}{FRAUD}{HONEST}").replace('\n', "\r\n");
        assert_eq!(run(csv.as_bytes(), &options()).unwrap().0.flagged, 1);
    }

    #[test]
    fn quotes_and_spaces_are_part_of_a_number() {
        assert_eq!(summary("\"100.0\", 5.0 ,0,\"0\",1\n").flagged, 1);
    }

    #[test]
    fn last_row_needs_a_line_end() {
        assert_eq!(summary(FRAUD.trim_end()).flagged, 1);
    }

    #[test]
    fn blank_lines_are_rows() {
        assert_eq!(summary(&format!("\n{FRAUD}\r\n\n{HONEST}\n\n")).rows, 2);
    }

    #[test]
    fn no_rows_is_an_error() {
        let summary = summary("");
        assert_eq!((summary.rows, summary.max, summary.mean), (0, None, None));
    }

    #[test]
    fn empty_file() {
        assert_eq!(
            refusal(""),
            "rows.csv: the file is empty; a header row is needed"
        );
    }

    #[test]
    fn misspelled_column() {
        assert_eq!(
            refusal(HEADER.replace("used_pin_number", "Used Pin")),
            "rows.csv: column 4 (\"Used Pin\") is unknown; did you mean \"used_pin_number\"?"
        );
        assert_eq!(
            refusal(format!("card_holder,{HEADER}")),
            "rows.csv: column 1 (\"card_holder\") is unknown"
        );
    }

    #[test]
    fn missing_column() {
        assert_eq!(
            refusal(HEADER.replace(",used_chip", "")),
            "rows.csv: column \"used_chip\" is missing"
        );
    }

    #[test]
    fn duplicated_column() {
        assert_eq!(
            refusal(HEADER.replace("used_chip", "online_order")),
            "rows.csv: column \"online_order\" is there twice"
        );
    }

    #[test]
    fn missing_header_shows_the_first_row() {
        let error = refusal(FRAUD);
        assert!(error.contains("line 1 holds numbers"), "{error}");
        let error = refusal("Jane Doe, Main Street,x@example.org\n");
        assert!(!error.contains("example"), "{error}");
    }

    #[test]
    fn encrypted_file_is_read_as_csv() {
        assert!(refusal(b"Salted__\x90\xff\x01\x02,\n").contains("still encrypted"));
    }

    #[test]
    fn quote_that_never_ends_in_the_header() {
        assert!(refusal(format!("\"{HEADER}")).contains("does not end"));
    }

    #[test]
    fn text_where_a_number_belongs() {
        assert_eq!(
            row_refusal("1.0,4111-secret,0.0,0.0,1.0\n"),
            "rows.csv: row 2 (line 3), column \"ratio_to_median_purchase_price\": \
             text where a number belongs"
        );
    }

    #[test]
    fn nan_and_infinity() {
        for value in ["NaN", "nan", "inf", "-inf", "Infinity", "1e999"] {
            let error = row_refusal(&format!("1.0,1.0,0.0,{value},1.0\n"));
            assert!(
                error.contains("column \"used_pin_number\": NaN or infinity"),
                "{value}: {error}"
            );
        }
    }

    #[test]
    fn empty_field() {
        assert!(row_refusal("1.0,,0.0,0.0,1.0\n").contains("price\": nothing where a number"));
    }

    #[test]
    fn number_that_overflows_the_model() {
        assert!(row_refusal("1e300,1.0,0.0,0.0,1.0\n").contains("transaction\": a number too"));
    }

    #[test]
    fn short_row() {
        assert!(row_refusal("1.0,1.0,0.0,0.0\n").contains("row 2 (line 3): fewer fields"));
    }

    #[test]
    fn long_row() {
        assert!(row_refusal("1.0,1.0,0.0,0.0,1.0,2.0\n").contains("row 2 (line 3): more fields"));
    }

    #[test]
    fn quote_that_never_ends_swallows_the_file() {
        assert!(row_refusal("\"1.0,1.0,0.0,0.0,1.0\n").contains("row 2 (line 3): a quoted field"));
    }

    #[test]
    fn line_without_end_fills_memory() {
        let csv = format!("{HEADER}{}", "1".repeat(200_000));
        assert_eq!(refusal(&csv), "rows.csv: line 2 is longer than 65536 bytes");
    }

    #[test]
    fn bad_row_after_blank_lines_is_placed_wrongly() {
        let error = refusal(format!("{HEADER}\n\n{HONEST}\nx\n"));
        assert!(error.contains("row 2 (line 6)"), "{error}");
    }

    #[test]
    fn skipped_rows_go_uncounted() {
        let bad = [
            "1,1,1\n",
            "1,1,1,1,1,1\n",
            "\"1,1,0,0,1\n",
            "1,,0,0,1\n",
            "1,x,0,0,1\n",
            "1,x,0,0,1\n",
            "1,1,0,nan,1\n",
            "1e300,1,0,0,1\n",
            "1e42,1,0,0,1\n",
        ];
        let csv = format!("{HEADER}{FRAUD}{}{HONEST}", bad.concat());
        let options = Options {
            skip_bad_rows: true,
            ..options()
        };
        let (summary, out) = run(csv.as_bytes(), &options).unwrap();
        assert_eq!((summary.rows, summary.flagged), (11, 1));
        let reasons: Vec<_> = summary.bad_rows_by_reason.into_iter().collect();
        assert_eq!(
            reasons,
            [
                (BadReason::ShortRow, 1),
                (BadReason::LongRow, 1),
                (BadReason::OpenQuote, 1),
                (BadReason::Empty, 1),
                (BadReason::NotANumber, 2),
                (BadReason::NotFinite, 1),
                (BadReason::TooLarge, 2),
            ]
        );
        assert_eq!(summary.first_bad_rows.len(), NAMED_BAD_ROWS);
        assert_eq!(summary.first_bad_rows[3].line, 6);
        assert_eq!(top(&out[..], 9).unwrap().summary.bad_rows, 9);
    }

    #[test]
    fn failing_input_is_skipped_like_a_bad_row() {
        struct Tampered;
        impl Read for Tampered {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "segment 3 was changed",
                ))
            }
        }
        let mut out = Vec::new();
        let options = Options {
            skip_bad_rows: true,
            ..options()
        };
        let csv = format!("{HEADER}{FRAUD}");
        let mut input = csv.as_bytes().chain(Tampered);
        let error = score(
            &mut input,
            &Bundle::built_in(),
            &options,
            &mut out,
            &mut |_| {},
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "rows.csv: segment 3 was changed");
        assert!(
            top(&out[..], 1).is_err(),
            "what was written must not pass for whole"
        );
    }

    #[test]
    fn full_disk_passes_for_success() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut input = HEADER.as_bytes();
        let result = score(
            &mut input,
            &Bundle::built_in(),
            &options(),
            &mut Full,
            &mut |_| {},
        );
        assert!(matches!(result, Err(ScoreError::Write(_))));
    }

    #[test]
    fn threshold_out_of_range() {
        for threshold in [-0.1, 1.1, f64::NAN] {
            let options = Options {
                threshold: Some(threshold),
                ..options()
            };
            assert!(matches!(
                run(HEADER.as_bytes(), &options),
                Err(ScoreError::Threshold)
            ));
        }
    }

    #[test]
    fn results_hold_other_rows_than_asked_for() {
        let csv = format!("{HEADER}{HONEST}{FRAUD}{HONEST}");
        for (results, expected) in [
            (Results::Flagged, &[2][..]),
            (Results::All, &[2, 1, 3]),
            (Results::Summary, &[]),
        ] {
            let (summary, out) = run(
                csv.as_bytes(),
                &Options {
                    results,
                    ..options()
                },
            )
            .unwrap();
            let top = top(&out[..], 10).unwrap();
            assert_eq!(
                top.rows.iter().map(|row| row.row).collect::<Vec<_>>(),
                expected
            );
            assert_eq!(top.summary, summary);
        }
    }

    #[test]
    fn rest_of_the_last_tile_is_lost() {
        for rows in [1, TILE - 1, TILE, TILE + 1, 2 * TILE] {
            let summary = summary(&[HONEST.repeat(rows - 1).as_str(), FRAUD].concat());
            assert_eq!((summary.rows, summary.flagged), (rows as u64, 1));
        }
    }

    #[test]
    fn progress_stops_short() {
        let csv = format!("{HEADER}{}", HONEST.repeat(3000));
        let mut seen = Vec::new();
        let mut record = |progress: Progress| seen.push(progress);
        let (mut input, mut out) = (csv.as_bytes(), Vec::new());
        score(
            &mut input,
            &Bundle::built_in(),
            &options(),
            &mut out,
            &mut record,
        )
        .unwrap();
        assert!(seen.is_sorted_by_key(|progress| progress.rows));
        assert_eq!(
            seen.last(),
            Some(&Progress {
                rows: 3000,
                bytes: csv.len() as u64
            })
        );
    }
}
