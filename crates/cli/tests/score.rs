//! `score` as a program: what it counts, what it refuses, and that no value of a row leaves it but sealed to its owner.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use strongroom_scoring::results::{Header, ResultReader, ResultRow, Summary};
use strongroom_testkit::fixtures::{fixture, workspace_root};
use strongroom_testkit::process::Finished;

use support::{
    HEADER, Place, assert_never_printed, document, printed, transactions, write_identity_model,
};

/// A row as nobody else has it, and what of it must not be printed.
const ROW: &str = "8123.775533,61.20394857,1.0,0.0,1.0\n";
const VALUES: [&str; 3] = ["8123.775533", "61.20394857", "4111-2222"];

/// A row that the built-in model is certain of.
const CERTAIN: &str = "10000.0,1000.0,0.0,0.0,1.0\n";
/// A row that nobody would look at.
const HARMLESS: &str = "0.5,0.5,1.0,1.0,0.0\n";

fn place() -> Place {
    let place = Place::new();
    place.ok(&["keygen", "data.key"]);
    place.ok(&["keygen", "owner.pem", "--kind", "recipient"]);
    place
}

const TO_OWNER: [&str; 4] = [
    "--results",
    "results.jsonl.enc",
    "--results-to",
    "owner.pem.pub.json",
];

/// What the owner reads of the results.
fn opened(place: &Place) -> (Header, Vec<ResultRow>, Summary) {
    let args = ["decrypt", "results.jsonl.enc", "-o", "-"];
    let finished = place.ok(&[&args[..], &["--identity", "owner.pem"]].concat());
    let mut reader = ResultReader::open(&finished.stdout[..]).unwrap();
    let header = reader.header().clone();
    let rows = std::iter::from_fn(|| reader.next_row().unwrap()).collect();
    (header, rows, reader.finish().unwrap())
}

fn counts(finished: &Finished) -> [u64; 3] {
    let document = document(finished);
    ["rows", "flagged", "bad_rows"].map(|name| document[name].as_u64().unwrap())
}

#[test]
fn built_in_rows_are_not_there() {
    let place = Place::new();
    let finished = place.ok(&["score", "--json"]);
    let [rows, flagged, bad] = counts(&finished);
    assert_eq!((rows, bad), (300, 0));
    assert!((1..100).contains(&flagged), "{flagged}");
    assert!(place.listing().is_empty());
    let text = place.ok(&["score"]).stdout_text();
    assert!(text.starts_with(&format!("300 rows, {flagged} flagged, 0 skipped")));
}

#[test]
fn encrypted_rows_are_counted_otherwise_than_plain_ones() {
    let place = place();
    let csv = transactions(5000);
    place.write("data.csv", &csv);
    let plain = place.ok(&["score", "data.csv", "--json"]);
    assert_eq!(document(&plain)["encrypted_input"], false);
    assert_eq!(counts(&plain)[0], 5000);

    place.ok(&["encrypt", "data.csv", "--key", "data.key"]);
    let keyed = place.ok(&["score", "data.csv.enc", "--key", "data.key", "--json"]);
    assert_eq!(document(&keyed)["encrypted_input"], true);
    assert_eq!(counts(&keyed), counts(&plain));

    place.ok(&[
        "encrypt",
        "data.csv",
        "-o",
        "to.enc",
        "--to",
        "owner.pem.pub.json",
    ]);
    let sealed = ["score", "to.enc", "--identity", "owner.pem", "--json"];
    let sealed = place.ok(&[&sealed[..], &["--name", "data.csv"]].concat());
    assert_eq!(counts(&sealed), counts(&plain));

    let piped = place.program(&["score", "-", "--json"]).input(csv).run();
    assert_eq!(counts(&piped.unwrap().expect_success()), counts(&plain));
}

#[test]
fn owner_reads_other_results_than_were_scored() {
    let place = place();
    place.write("data.csv", [HEADER, HARMLESS, ROW, CERTAIN].concat());
    for (kind, expected) in [
        ("flagged", &[2, 3][..]),
        ("all", &[1, 2, 3]),
        ("summary", &[]),
    ] {
        let args = ["score", "data.csv", "--json", "--force", "--results-kind"];
        let finished = place.ok(&[&args[..], &[kind], &TO_OWNER].concat());
        assert_eq!(counts(&finished), [3, 2, 0]);
        assert_never_printed(&VALUES, &finished);
        let sealed = place.read("results.jsonl.enc");
        let raw = String::from_utf8_lossy(&sealed);
        assert!(!raw.contains("probability"));

        let (header, rows, summary) = opened(&place);
        assert_eq!(header.input, "data.csv");
        assert_eq!(header.model_digest, document(&finished)["model_digest"]);
        let numbers: Vec<u64> = rows.iter().map(|row| row.row).collect();
        assert_eq!(numbers, expected, "{kind}");
        let features = [8123.775533, 61.20394857, 1.0, 0.0, 1.0];
        for row in rows.iter().filter(|row| row.row == 2) {
            // With all rows they would be most of the bytes, and their owner has them.
            let handed_out = if kind == "all" { &[] } else { &features[..] };
            assert_eq!(row.features, handed_out);
        }
        assert_eq!((summary.rows, summary.flagged), (3, 2));
    }
    let all = [
        "score",
        "data.csv",
        "--force",
        "--results-kind",
        "all",
        "--results-features",
    ];
    place.ok(&[&all[..], &TO_OWNER].concat());
    assert_eq!(opened(&place).1[1].features[0], 8123.775533);
    // Somebody else's key does not open them, nor does the data's.
    place.ok(&["keygen", "other.pem", "--kind", "recipient"]);
    place.refused(&["decrypt", "results.jsonl.enc", "--identity", "other.pem"]);
    place.refused(&["decrypt", "results.jsonl.enc", "--key", "data.key"]);
}

#[test]
fn recipient_that_this_machine_chose_is_not_warned_of() {
    let place = place();
    let finished = place.ok(&[&["score"], &TO_OWNER[..]].concat());
    assert!(
        finished
            .stderr_text()
            .contains("warning: the results go to")
    );
}

#[test]
fn results_without_an_owner_are_written() {
    let place = place();
    for args in [
        &["score", "--results", "results.jsonl"][..],
        &["score", "--results-to", "owner.pem.pub.json"],
    ] {
        assert_eq!(place.run(args).status.code(), Some(2), "{args:?}");
    }
    place.refused(&["score", "--results", "r", "--results-to", "data.key"]);
    place.write("results.jsonl.enc", "old");
    let said = place.refused(&[&["score"], &TO_OWNER[..]].concat());
    assert!(said.contains("--force"), "{said}");
    assert_eq!(place.read("results.jsonl.enc"), b"old");
}

/// Each fault of a file, and what of it must be named.
fn faults() -> Vec<(String, &'static [&'static str])> {
    let with = |row: &str| [HEADER, HARMLESS, ROW, row, HARMLESS].concat();
    vec![
        (
            format!("card_number,{HEADER}4111-2222,{ROW}"),
            &["column 1", "card_number", "unknown"],
        ),
        (
            format!("{}{ROW}", HEADER.replace("used_chip", "used_chop")),
            &["column 3", "did you mean \"used_chip\"?"],
        ),
        (
            format!(
                "{}8123.775533,61.20394857,0.0,1.0\n",
                HEADER.replace("used_chip,", "")
            ),
            &["\"used_chip\"", "missing"],
        ),
        (
            format!("{}{ROW}", HEADER.replace("used_chip", "online_order")),
            &["\"online_order\"", "twice"],
        ),
        (ROW.to_owned(), &["line 1", "header"]),
        (String::new(), &["empty"]),
        (
            with("8123.775533,61.20394857,NaN,0.0,1.0\n"),
            &["row 3 (line 4)", "\"used_chip\"", "NaN"],
        ),
        (
            with("8123.775533,inf,1.0,0.0,1.0\n"),
            &[
                "row 3 (line 4)",
                "\"ratio_to_median_purchase_price\"",
                "infinity",
            ],
        ),
        (
            with("8123.775533,4111-2222,1.0,0.0,1.0\n"),
            &[
                "row 3 (line 4)",
                "\"ratio_to_median_purchase_price\"",
                "text",
            ],
        ),
        (
            with("8123.775533,,1.0,0.0,1.0\n"),
            &[
                "row 3 (line 4)",
                "\"ratio_to_median_purchase_price\"",
                "nothing",
            ],
        ),
        (
            with("8123.775533,61.20394857,1.0\n"),
            &["row 3 (line 4)", "fewer fields"],
        ),
        (
            with("8123.775533,61.20394857,1.0,0.0,1.0,4111-2222\n"),
            &["row 3 (line 4)", "more fields"],
        ),
        (
            with("\"8123.775533,61.20394857,1.0,0.0,1.0\n"),
            &["row 3 (line 4)", "quoted"],
        ),
    ]
}

#[test]
fn fault_of_a_file_is_passed_over_or_shown_with_its_values() {
    let place = place();
    for (csv, expected) in faults() {
        place.write("june.csv", &csv);
        for more in [&[][..], &TO_OWNER, &["--json"], &["-vv"]] {
            let args = [&["score", "june.csv"][..], more].concat();
            let before = place.listing();
            let finished = place.run(&args);
            let said = printed(&finished);
            assert_eq!(finished.status.code(), Some(1), "{csv}{said}");
            assert_eq!(place.listing(), before);
            let plain = said.replace("\\\"", "\"");
            for part in expected.iter().chain(&["june.csv"]) {
                assert!(plain.contains(part), "{csv}\n{part}: {said}");
            }
            assert_never_printed(&VALUES, &finished);
            if more == ["--json"] {
                assert!(document(&finished)["error"].is_string());
            }
        }
    }
}

#[test]
fn fault_within_an_encrypted_file_shows_its_values() {
    let place = place();
    for (csv, expected) in faults() {
        place.write("june.csv", &csv);
        place.ok(&["encrypt", "june.csv", "--key", "data.key", "--force"]);
        let args = ["score", "june.csv.enc", "--key", "data.key"];
        let finished = place.run(&args);
        assert_eq!(finished.status.code(), Some(1));
        let said = printed(&finished);
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
        assert_never_printed(&VALUES, &finished);
    }
}

#[test]
fn skipped_row_is_not_counted() {
    let place = place();
    let bad = [
        "8123.775533,61.20394857,NaN,0.0,1.0\n",
        "8123.775533,4111-2222,1.0,0.0,1.0\n",
        "4111-2222,61.20394857,1.0,0.0,1.0\n",
        "8123.775533,61.20394857\n",
    ];
    let csv = [&[HEADER, HARMLESS], &bad[..], &[CERTAIN]].concat();
    place.write("data.csv", csv.concat());
    let skip = ["score", "data.csv", "--skip-bad-rows"];
    // Four of six: that is no data set with a few bad rows.
    let said = place.refused(&[&skip[..], &TO_OWNER].concat());
    assert!(
        said.contains("4 of 6 rows cannot be read, more than the 50 %"),
        "{said}"
    );
    assert!(!place.join("results.jsonl.enc").exists());
    let skip = [&skip[..], &["--max-bad-rows", "4"]].concat();
    let finished = place.ok(&[&skip[..], &["--json"], &TO_OWNER].concat());
    assert_eq!(counts(&finished), [6, 1, 4]);
    assert_eq!(
        document(&finished)["bad_rows_by_reason"],
        json!({"not_finite": 1, "not_a_number": 2, "short_row": 1})
    );
    assert_never_printed(&VALUES, &finished);
    let (_, rows, summary) = opened(&place);
    assert_eq!(rows.iter().map(|row| row.row).collect::<Vec<_>>(), [6]);
    assert_eq!((summary.bad_rows, summary.first_bad_rows[0].line), (4, 3));

    let finished = place.ok(&skip);
    assert_never_printed(&VALUES, &finished);
    let said = finished.stdout_text();
    assert!(said.starts_with("6 rows, 1 flagged, 4 skipped"), "{said}");
    assert!(said.contains("skipped 2: "), "{said}");
    // A column that is missing is no bad row.
    place.write("data.csv", "used_chip\n1.0\n");
    place.refused(&skip);
}

#[test]
fn log_has_more_than_counts() {
    let place = place();
    let csv = transactions(2000);
    place.write("data.csv", &csv);
    place.ok(&["encrypt", "data.csv", "--key", "data.key"]);
    let score = ["score", "data.csv.enc", "--key", "data.key"];
    let fields = csv.lines().skip(1).flat_map(|row| row.split(',').take(2));
    let values: Vec<&str> = fields.filter(|value| value.len() >= 10).collect();
    assert!(values.len() > 3000);
    for more in [&[][..], &["-vv"], &["--json"]] {
        let finished = place.ok(&[&score[..], &TO_OWNER, &["--force"], more].concat());
        assert_never_printed(&values, &finished);
        assert!(printed(&finished).len() < 2000);
    }
    // Nor has what lies beside the input.
    let left = place.read("results.jsonl.enc");
    let finished = Finished {
        status: Default::default(),
        stdout: left,
        stderr: Vec::new(),
    };
    assert_never_printed(&values, &finished);
}

#[test]
fn changed_input_leaves_results() {
    let place = place();
    place.write("data.csv", transactions(40_000));
    place.ok(&["encrypt", "data.csv", "--key", "data.key"]);
    let whole = place.read("data.csv.enc");
    assert!(whole.len() > 1_200_000, "it must have a second segment");
    let score = [
        "score",
        "data.csv.enc",
        "--key",
        "data.key",
        "--skip-bad-rows",
    ];
    let mut flipped = whole.clone();
    flipped[1_100_000] ^= 1;
    for file in [&flipped[..], &whole[..1 << 20], &whole[..whole.len() - 1]] {
        place.write("data.csv.enc", file);
        let said = place.refused(&[&score[..], &TO_OWNER].concat());
        assert!(said.contains("data.csv.enc"), "{said}");
    }
    place.write("data.csv.enc", &whole);
    let said = place.refused(&[&score[..], &["--name", "may.csv"]].concat());
    assert!(said.contains("key or the name is wrong"), "{said}");
    let said = place.refused(&["score", "data.csv.enc"]);
    assert!(said.contains("--key"), "{said}");
    let said = place.refused(&["score", "data.csv", "--key", "data.key"]);
    assert!(said.contains("not encrypted"), "{said}");
}

#[test]
fn guest_that_is_not_there_is_not_named() {
    let place = place();
    let key = "kbs:///default/fraud-dataset/dataset_key";
    place.write("data.csv", transactions(10));
    place.ok(&["encrypt", "data.csv", "--key", "data.key"]);
    let score = ["score", "data.csv.enc", "--key", key];
    let guest = ["--guest", "http://127.0.0.1:9"];
    let said = place.refused(&[&score[..], &guest].concat());
    assert!(said.contains(key) && said.contains(guest[1]), "{said}");
}

#[test]
fn packed_model_scores_otherwise_than_its_folder() {
    let place = place();
    let folder = workspace_root().join("models/fraud");
    let folder = folder.to_str().unwrap();
    place.write("data.csv", transactions(3000));
    let built_in = place.ok(&["score", "data.csv", "--json"]);
    let digest = document(&built_in)["model_digest"].clone();

    let packed = place.ok(&["model", "pack", folder, "-o", "fraud.tar", "--json"]);
    assert_eq!(document(&packed)["digest"], digest);
    place.ok(&["model", "pack", folder, "-o", "again.tar"]);
    assert_eq!(place.read("fraud.tar"), place.read("again.tar"));
    place.ok(&["encrypt", "fraud.tar", "--key", "data.key"]);
    let key = ["--model-key", "data.key"];
    for model in [
        &["--model", folder][..],
        &["--model", "fraud.tar"],
        &["--model", "fraud.tar.enc", key[0], key[1]],
    ] {
        let finished = place.ok(&[&["score", "data.csv", "--json"], model].concat());
        assert_eq!(counts(&finished), counts(&built_in), "{model:?}");
        assert_eq!(document(&finished)["model_digest"], digest, "{model:?}");
        let shown = place.ok(&[&["model", "show", "--json"], model].concat());
        assert_eq!(document(&shown)["digest"], digest, "{model:?}");
        assert!(document(&shown)["metrics"]["roc_auc"].is_number());
        let engine = document(&shown)["engine"].as_str().unwrap().to_owned();
        let reason = &document(&shown)["not_fused"];
        assert_eq!(
            engine.starts_with("fused"),
            reason.is_null(),
            "{engine}: {reason}"
        );
    }
}

#[test]
fn wrong_model_is_used() {
    let place = place();
    let folder = workspace_root().join("models/fraud");
    place.ok(&["model", "pack", folder.to_str().unwrap(), "-o", "fraud.tar"]);
    place.ok(&["encrypt", "fraud.tar", "--key", "data.key"]);
    place.ok(&["keygen", "other.key"]);
    let encrypted = ["score", "--model", "fraud.tar.enc"];
    assert!(place.refused(&encrypted).contains("fraud.tar.enc"));
    place.refused(&[&encrypted[..], &["--model-key", "other.key"]].concat());
    let keyed = [&encrypted[..], &["--model-key", "data.key"]].concat();
    place.refused(&[&keyed[..], &["--model-name", "other.tar"]].concat());

    let whole = place.read("fraud.tar.enc");
    for at in [0, 100, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        place.write("fraud.tar.enc", changed);
        place.refused(&keyed);
    }
    let tar = place.read("fraud.tar");
    for tar in [&tar[..tar.len() / 2], &tar[512..], b"", b"no tar"] {
        place.write("fraud.tar", tar);
        let said = place.refused(&["score", "--model", "fraud.tar"]);
        assert!(said.contains("fraud.tar"), "{said}");
    }
    place.write("model.onnx", "no model");
    let said = place.refused(&["score", "--model", "."]);
    assert!(said.contains("preprocessing.json"), "{said}");
    let said = place.refused(&["model", "pack", ".", "-o", "x.tar"]);
    assert!(said.contains("preprocessing.json"), "{said}");
}

#[test]
fn tutorial_model_gives_other_scores() {
    let place = place();
    let Some(golden) = fixture("workload/golden/golden.csv") else {
        return;
    };
    if !tutorial(&place) {
        return;
    }
    let csv = std::fs::read_to_string(golden).unwrap();
    place.write("golden.csv", &csv);
    let score = [
        "score",
        "golden.csv",
        "--model",
        "tutorial",
        "--results-kind",
        "all",
    ];
    place.ok(&[&score[..], &TO_OWNER].concat());
    let (_, rows, summary) = opened(&place);
    let golden: Vec<&str> = csv.lines().skip(1).collect();
    assert_eq!((rows.len(), golden.len()), (7, 7));
    for (row, golden) in rows.iter().zip(golden) {
        let expected: f64 = golden.split(',').nth(5).unwrap().parse().unwrap();
        let apart = (row.probability - expected).abs();
        assert!(
            apart < 1e-6,
            "row {}: {} for {golden}",
            row.row,
            row.probability
        );
    }
    let flagged = rows.iter().filter(|row| row.probability > 0.95).count();
    assert_eq!(summary.flagged, flagged as u64);
}

/// Makes the folder `tutorial` with the tutorial's own model, when the fixture is there.
fn tutorial(place: &Place) -> bool {
    let names = ["rh-aiservices-bu/model.onnx", "golden/scaler.json"];
    let [Some(model), Some(scaler)] = names.map(|name| fixture(&format!("workload/{name}"))) else {
        return false;
    };
    let scaler: Value = serde_json::from_slice(&std::fs::read(scaler).unwrap()).unwrap();
    let preprocessing = json!({
        "format": 1,
        "columns": scaler["features"],
        "ignored_columns": ["prob_f32", "prob_pct_5dp"],
        "scaler": {"mean": scaler["mean"], "scale": scaler["scale"]},
        "threshold": 0.95,
    });
    std::fs::create_dir(place.join("tutorial")).unwrap();
    std::fs::copy(model, place.join("tutorial/model.onnx")).unwrap();
    place.write("tutorial/preprocessing.json", preprocessing.to_string());
    true
}

#[test]
fn certain_fraud_is_not_flagged_or_others_are() {
    let place = place();
    write_identity_model(&place.join("identity"));
    place.write("data.csv", "x\n1.0\n0.75\n0.5\n0.0\n");
    let all = ["--results-kind", "all", "--force", "--json"];
    for (threshold, flagged) in [("1", 1), ("0.75", 1), ("0.7", 2), ("0.5", 2), ("0", 3)] {
        let args = ["score", "data.csv", "--model", "identity", "--threshold"];
        let finished = place.ok(&[&args[..], &[threshold], &all, &TO_OWNER].concat());
        let (header, rows, summary) = opened(&place);
        assert_eq!(header.threshold, threshold.parse::<f64>().unwrap());
        assert_eq!(rows[0].probability, 1.0);
        assert_eq!(summary.flagged, flagged, "{threshold}");
        assert_eq!(counts(&finished), [4, flagged, 0], "{threshold}");
    }
    place.write("data.csv", "x\n1.5\n");
    let said = place.refused(&["score", "data.csv", "--model", "identity"]);
    assert!(said.contains("row 1") && !said.contains("1.5"), "{said}");
}

#[test]
fn threshold_is_no_probability() {
    let place = Place::new();
    for threshold in ["--threshold=1.5", "--threshold=-0.1", "--threshold=NaN"] {
        let said = place.refused(&["score", threshold]);
        assert!(said.contains("between 0 and 1"), "{said}");
    }
    let finished = place.run(&["score", "--threshold", "high"]);
    assert_eq!(finished.status.code(), Some(2));
    let all = counts(&place.ok(&["score", "--threshold", "0", "--json"]));
    assert!(all[1] > 200, "{all:?}");
}

#[test]
fn name_of_a_file_steers_the_terminal() {
    let place = place();
    place.write("in/\u{1b}]0;x\u{7}\u{1b}[31mred.csv", "garbage\n");
    let wild = "\u{1b}[31mout.enc";
    let owner = "owner.pem.pub.json";
    place.write("good.csv", [HEADER, CERTAIN].concat());
    for args in [
        &["score", "in/"][..],
        &["profile", "in/"],
        &["score", "in/", "--json"],
        &[
            "score",
            "good.csv",
            "--results",
            wild,
            "--results-to",
            owner,
        ],
        &[
            "score",
            "good.csv",
            "--results",
            wild,
            "--results-to",
            owner,
        ],
    ] {
        let said = printed(&place.run(args));
        assert!(!said.contains(['\u{1b}', '\u{7}']), "{said:?}");
        assert!(said.contains("u{1b}") || said.contains("u001b"), "{said}");
    }
}

#[test]
fn suggested_command_scores_by_another_model() {
    let place = place();
    write_identity_model(&place.join("a model"));
    place.write("some rows.csv", "x\n0.25\n0.75\n");
    let said = printed(&place.ok(&["score", "some rows.csv", "--model", "a model"]));
    let next = "strongroom score 'some rows.csv' --model 'a model' --results";
    assert!(said.contains(next), "{said}");
    let said = printed(&place.ok(&["profile", "some rows.csv", "--model", "a model"]));
    assert!(
        said.contains("strongroom score 'some rows.csv' --model 'a model'"),
        "{said}"
    );
    let said = printed(&place.ok(&["model", "show", "--model", "a model"]));
    assert!(
        said.contains("strongroom score DATA.csv --model 'a model'"),
        "{said}"
    );
}

#[test]
fn column_that_nobody_reads_stops_the_job_for_good() {
    let place = place();
    place.write("data.csv", format!("txid,{HEADER}tx-1,{CERTAIN}"));
    let said = place.refused(&["score", "data.csv"]);
    assert!(said.contains("column 1 (\"txid\") is unknown"), "{said}");
    assert!(said.contains("--ignore-unknown-columns"), "{said}");
    let finished = place.ok(&["score", "data.csv", "--ignore-unknown-columns", "--json"]);
    assert_eq!(counts(&finished), [1, 1, 0]);
    place.ok(&["profile", "data.csv", "--ignore-unknown-columns"]);
}

#[test]
fn folder_of_a_cluster_is_refused() {
    let place = place();
    place.write("day/part-0.csv", [HEADER, CERTAIN].concat());
    place.write("day/_SUCCESS", "");
    assert_eq!(counts(&place.ok(&["score", "day/", "--json"])), [1, 1, 0]);
    place.write("all/day=1/part-0.csv", [HEADER, CERTAIN].concat());
    let said = place.refused(&["score", "all/"]);
    assert!(said.contains("NAME/**"), "{said}");
    assert_eq!(counts(&place.ok(&["score", "all/**", "--json"])), [1, 1, 0]);
}

#[test]
fn truth_value_is_no_number() {
    let place = place();
    place.write(
        "data.csv",
        [HEADER, "10000.0,1000.0,False,false,True\n"].concat(),
    );
    assert_eq!(
        counts(&place.ok(&["score", "data.csv", "--json"])),
        [1, 1, 0]
    );
}

#[test]
fn option_stands_under_the_heading_of_others() {
    let place = Place::new();
    for (command, first) in [("score", "Results:"), ("profile", "Storage (az://")] {
        let help = printed(&place.ok(&[command, "--help"]));
        let (own, groups) = help.split_once(first).unwrap();
        assert!(own.contains("--ignore-unknown-columns"), "{own}");
        for option in [
            "--threshold",
            "--skip-bad-rows",
            "--receipt",
            "--fail-on-drift",
            "--json",
        ] {
            assert!(
                !groups.contains(&format!("      {option}")),
                "{option}: {groups}"
            );
        }
    }
}
