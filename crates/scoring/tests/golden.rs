//! Scores against what others computed: the tutorial's own model, two exports of its training code
//! with five and seven inputs, and what `models/fraud/train.py` measured of the model that ships.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use strongroom_scoring::batch::{Options, Results, score};
use strongroom_scoring::generate::{Columns, Generator};
use strongroom_scoring::model::{Bundle, Path as Lanes, Scorer};
use strongroom_scoring::results::{ResultReader, ResultRow};
use strongroom_scoring::tile::Tile;

#[test]
fn tutorial_model_gives_other_scores() {
    let Some(folder) = fixtures("workload") else {
        return;
    };
    let scaler = read_json(&folder.join("golden/scaler.json"));
    let bundle = bundle(
        &folder.join("rh-aiservices-bu/model.onnx"),
        &scaler,
        &["prob_f32", "prob_pct_5dp"],
    );
    assert!(bundle.network().inputs().eq(["dense_input"]));
    assert_eq!(bundle.network().output(), "dense_3");

    let csv = std::fs::read_to_string(folder.join("golden/golden.csv")).unwrap();
    let expected: Vec<f64> = csv
        .lines()
        .skip(1)
        .map(|row| row.split(',').nth(5).unwrap().parse().unwrap())
        .collect();
    assert_eq!(expected.len(), 7);
    assert_close(&all_scores(&bundle, &csv), &expected);
    assert_every_engine_close(&bundle, &csv, &expected);
}

#[test]
fn export_with_five_inputs_gives_other_scores() {
    assert_fixture("fraud5.onnx", "scaler5.json", "w5");
}

#[test]
fn export_with_seven_inputs_gives_other_scores() {
    assert_fixture("fraud7.onnx", "scaler7.json", "w7");
}

#[test]
fn shipped_model_is_not_what_its_metrics_say() {
    let bundle = Bundle::built_in();
    let metrics = bundle.metrics().unwrap();
    let figure = |name: &str| metrics[name].as_f64().unwrap();

    let generator = Generator {
        rows: 100_000,
        seed: 4,
        label: true,
        columns: Columns::Model,
    };
    let mut csv = Vec::new();
    generator.write_to(&mut csv).unwrap();
    let rows = all_rows(&bundle, std::str::from_utf8(&csv).unwrap());
    let scored: Vec<(f64, bool)> = rows
        .iter()
        .zip(generator.transactions())
        .map(|(row, transaction)| (row.probability, transaction.is_fraud()))
        .collect();
    assert_eq!(scored.len(), 100_000);

    let threshold = bundle.preprocessing().threshold();
    assert_eq!(figure("threshold"), threshold);
    let flagged = || {
        scored
            .iter()
            .filter(|(probability, _)| *probability > threshold)
    };
    let caught = flagged().filter(|(_, fraud)| *fraud).count() as f64;
    let frauds = scored.iter().filter(|(_, fraud)| *fraud).count() as f64;
    assert_near("fraud_rate", frauds / 1e5, figure("fraud_rate"), 0.003);
    assert_near(
        "precision",
        caught / flagged().count() as f64,
        figure("precision"),
        0.004,
    );
    assert_near("recall", caught / frauds, figure("recall"), 0.015);
    assert_near("roc_auc", roc_auc(scored), figure("roc_auc"), 0.004);
    assert!(figure("roc_auc") > 0.95);
    assert!(figure("roc_auc") <= metrics["best_achievable"]["roc_auc"].as_f64().unwrap());
}

/// 64 rows against onnxruntime and against exact arithmetic in f64.
fn assert_fixture(model: &str, scaler: &str, width: &str) {
    let Some(folder) = fixtures("perf") else {
        return;
    };
    let scaler = read_json(&folder.join(scaler));
    let others = ["distance_from_home", "repeat_retailer", "fraud"];
    let bundle = bundle(&folder.join(model), &scaler, &others);
    let csv = std::fs::read_to_string(folder.join("rows64.csv")).unwrap();
    let scores = all_scores(&bundle, &csv);
    let expected = &read_json(&folder.join("rows64.expected.json"))[width];
    for expected in expected.as_object().unwrap().values() {
        let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(expected.len(), 64);
        assert_close(&scores, &expected);
        assert_every_engine_close(&bundle, &csv, &expected);
    }
}

/// Each way to a score, whichever would be chosen here.
fn assert_every_engine_close(bundle: &Bundle, csv: &str, expected: &[f64]) {
    let available = Lanes::ALL.into_iter().filter(|lanes| lanes.is_available());
    let fused = available.map(|lanes| bundle.fused_scorer(lanes).unwrap());
    let scorers: Vec<Scorer<'_>> = fused.chain([bundle.general_scorer().unwrap()]).collect();
    assert!(
        scorers.len() >= 2,
        "tract and the kernel's plain twin are everywhere"
    );
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let places = bundle.preprocessing().columns().iter();
    let places: Vec<usize> = places
        .map(|name| header.iter().position(|field| field == name).unwrap())
        .collect();
    let mut tile = Tile::new(places.len());
    for line in lines {
        for (column, &at) in places.iter().enumerate() {
            tile.set(column, line[at].parse().unwrap());
        }
        tile.end_row();
    }
    for mut scorer in scorers {
        let mut scores = Vec::new();
        scorer.score(&tile, &mut scores).unwrap();
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        assert_close(&scores, expected);
    }
}

/// The model of a fixture with the constants of its scaler.
fn bundle(model: &Path, scaler: &Value, ignored: &[&str]) -> Bundle {
    let columns = scaler["features"].as_array().unwrap();
    let ignored: Vec<_> = ignored
        .iter()
        .filter(|name| !columns.contains(&json!(name)))
        .collect();
    let preprocessing = json!({
        "format": 1,
        "columns": columns,
        "ignored_columns": ignored,
        "scaler": {"mean": scaler["mean"], "scale": scaler["scale"]},
        "threshold": 0.95,
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(model, folder.path().join("model.onnx")).unwrap();
    std::fs::write(
        folder.path().join("preprocessing.json"),
        preprocessing.to_string(),
    )
    .unwrap();
    Bundle::from_dir(folder.path()).unwrap()
}

fn all_scores(bundle: &Bundle, csv: &str) -> Vec<f64> {
    all_rows(bundle, csv)
        .iter()
        .map(|row| row.probability)
        .collect()
}

fn all_rows(bundle: &Bundle, csv: &str) -> Vec<ResultRow> {
    let options = Options {
        results: Results::All,
        file_name: "fixture.csv".to_owned(),
        ..Options::default()
    };
    let mut results = Vec::new();
    score(
        &mut csv.as_bytes(),
        bundle,
        &options,
        &mut results,
        &mut |_| {},
    )
    .unwrap();
    let mut reader = ResultReader::open(&results[..]).unwrap();
    std::iter::from_fn(|| reader.next_row().unwrap()).collect()
}

/// The chance that a fraud scores above an honest row; equal scores count half (Mann and Whitney).
fn roc_auc(mut scored: Vec<(f64, bool)>) -> f64 {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut honest_below, mut frauds, mut wins) = (0.0, 0.0, 0.0);
    for equal in scored.chunk_by(|a, b| a.0 == b.0) {
        let here = equal.iter().filter(|(_, fraud)| *fraud).count() as f64;
        let honest = equal.len() as f64 - here;
        wins += here * (honest_below + honest / 2.0);
        honest_below += honest;
        frauds += here;
    }
    wins / (frauds * honest_below)
}

fn assert_close(scores: &[f64], expected: &[f64]) {
    assert_eq!(scores.len(), expected.len());
    for (at, (score, expected)) in scores.iter().zip(expected).enumerate() {
        let apart = (score - expected).abs();
        assert!(
            apart < 1e-6,
            "row {}: {score} and {expected} are {apart} apart",
            at + 1
        );
    }
}

fn assert_near(what: &str, value: f64, expected: f64, tolerance: f64) {
    assert!(
        (value - expected).abs() < tolerance,
        "{what}: {value}, recorded {expected}"
    );
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn fixtures(name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/fixtures")
        .join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(
        !Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/fixtures"
        ))
        .is_dir(),
        "what this test reads is missing from a folder of fixtures that is there"
    );
    println!("SKIPPED: the shared fixtures are not beside the workspace");
    None
}
