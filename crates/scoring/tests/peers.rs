//! Models as scikit-learn, XGBoost and PyTorch export them, scored as onnxruntime scores them.
//!
//! `tests/peers/onnx_exports.py` trains and exports them when the test runs; PyTorch's lie beside this file.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use strongroom_scoring::model::{Bundle, Engine, Path as Lanes, Scorer};
use strongroom_scoring::tile::Tile;

/// How far a score may be from onnxruntime's.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Case {
    rows: Vec<Vec<Option<f64>>>,
    /// Nothing where a score is no number.
    scores: Vec<Option<f64>>,
    fused: bool,
}

#[test]
fn export_of_others_is_refused_or_scored_otherwise() {
    let Some(python) = peer_python() else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let exported = Command::new(python)
        .arg(root.join("../../tests/peers/onnx_exports.py"))
        .args([folder.path(), &root.join("tests/data")])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&exported.stderr);
    assert!(exported.status.success(), "{complaint}");

    let mut wrong = Vec::new();
    let mut cases = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Err(why) = check(&entry.path()) {
            wrong.push(format!("{name}: {why}"));
        }
        cases += 1;
    }
    assert!(cases > 60, "only {cases} cases were exported");
    wrong.sort();
    assert!(wrong.is_empty(), "of {cases} cases:\n{}", wrong.join("\n"));
}

fn check(folder: &Path) -> Result<(), String> {
    let case = std::fs::read(folder.join("case.json")).unwrap();
    let case: Case = serde_json::from_slice(&case).unwrap();
    let bundle = Bundle::from_dir(folder).map_err(|error| error.to_string())?;
    match (bundle.network().engine(), case.fused) {
        (Engine::General { why }, true) if Lanes::best() != Lanes::Scalar => {
            return Err(format!("not fused: {why}"));
        }
        (Engine::Fused(_), false) => return Err("fused, unlike what was expected".to_owned()),
        _ => {}
    }
    let scorers = [
        ("chosen", bundle.scorer()),
        ("general", bundle.general_scorer()),
    ];
    for (engine, scorer) in scorers {
        compare(&case, &bundle, &mut scorer.unwrap()).map_err(|why| format!("{engine}: {why}"))?;
    }
    if case.fused {
        for lanes in Lanes::ALL.into_iter().filter(|lanes| lanes.is_available()) {
            let mut scorer = bundle
                .fused_scorer(lanes)
                .map_err(|error| error.to_string())?;
            compare(&case, &bundle, &mut scorer).map_err(|why| format!("{lanes:?}: {why}"))?;
        }
    }
    Ok(())
}

fn compare(case: &Case, bundle: &Bundle, scorer: &mut Scorer<'_>) -> Result<(), String> {
    assert_eq!(case.rows.len(), case.scores.len());
    assert!(case.rows.len() >= 300);
    let mut tile = Tile::new(case.rows[0].len());
    for row in &case.rows {
        for (column, value) in row.iter().enumerate() {
            let empty = bundle.preprocessing().empty_value(column);
            let value = value.or(empty).ok_or("a value is missing")?;
            if !bundle.preprocessing().takes(column, value) {
                return Err("a value is not taken".to_owned());
            }
            tile.set(column, value);
        }
        tile.end_row();
    }
    let mut scores = Vec::new();
    scorer
        .score(&tile, &mut scores)
        .map_err(|error| error.to_string())?;
    assert_eq!(scores.len(), case.scores.len());
    let known: Vec<f64> = case.scores.iter().flatten().copied().collect();
    let distinct = known.iter().any(|score| (score - known[0]).abs() > 0.01);
    if !distinct {
        return Err("all its scores are alike, which proves nothing".to_owned());
    }
    let same = |ours: f64, theirs: Option<f64>| match theirs {
        Some(theirs) => (ours - theirs).abs() <= TOLERANCE,
        None => ours.is_nan(),
    };
    let wrong: Vec<String> = std::iter::zip(&scores, &case.scores)
        .zip(&case.rows)
        .filter(|((ours, theirs), _)| !same(f64::from(**ours), **theirs))
        .map(|((ours, theirs), row)| format!("{row:?} gets {ours}, not {theirs:?}"))
        .collect();
    match &wrong[..] {
        [] => Ok(()),
        [first, ..] => Err(format!(
            "{} of {} scores differ: {first}",
            wrong.len(),
            scores.len()
        )),
    }
}

/// Returns the Python that has the packages of `tests/peers/onnx-requirements.txt`.
fn peer_python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.peers/onnx/bin/python3");
    if python.exists() {
        return Some(python);
    }
    assert!(
        std::env::var_os("STRONGROOM_REQUIRE_PEERS").is_none_or(|value| value != "1"),
        "no .peers/onnx here, and STRONGROOM_REQUIRE_PEERS=1"
    );
    println!("SKIPPED: no .peers/onnx here; ./check makes it");
    None
}
