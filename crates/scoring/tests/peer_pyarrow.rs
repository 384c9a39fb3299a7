//! Our readers and writers of columns against `PyArrow`, in both directions.
//!
//! The interpreter is `.peers/pyarrow/bin/python3` in the workspace, or the one that
//! `STRONGROOM_PEERS_PYARROW` names. Without one that can `import pyarrow` a test prints SKIPPED, and
//! fails when `STRONGROOM_REQUIRE_PEERS` is 1.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::{env, fs};

use bytes::Bytes;
use serde_json::{Value, json};
use strongroom_scoring::batch::{HandedOut, Options, Results, score};
use strongroom_scoring::columns::{
    ColumnsError, ColumnsInput, NamedKeys, ParquetKeys, PlainColumns,
};
use strongroom_scoring::detect::Format;
use strongroom_scoring::model::{Bundle, Preprocessing};
use strongroom_scoring::receipt::Protection;
use strongroom_scoring::results::{
    BadReason, ConvertOptions, Features, TableConverter, TableFormat, TableKey, top,
};
use zeroize::Zeroizing;

const ROWS: usize = 2500;
const COLUMNS: [&str; 8] = ["x", "k", "s", "u", "b", "f", "h", "d"];

/// What `peer_pyarrow.py` puts into a row, in the order of [`COLUMNS`].
fn expected(row: usize) -> [f64; 8] {
    let number = row as f64;
    [
        number * 0.25 - 100.0,
        number * 1_000_003.0,
        (row % 7) as f64 - 3.0,
        4e9 + number,
        f64::from(u8::from(row.is_multiple_of(3))),
        number * 0.5,
        (row % 100) as f64 * 0.5,
        format!("{row}e-2").parse().unwrap(),
    ]
}

/// The whole of a file: each row's values and name, and its fault.
fn open(path: &Path, keys: &ParquetKeys) -> Result<ColumnsInput, ColumnsError> {
    let file = Bytes::from(fs::read(path).unwrap());
    let format = Format::detect(&file);
    let zeros = [0.0; COLUMNS.len()];
    let ones = [1.0; COLUMNS.len()];
    let preprocessing = json!({"format": 1, "columns": COLUMNS,
        "ignored_columns": ["note"], "scaler": {"mean": zeros, "scale": ones}, "threshold": 0.5});
    let preprocessing = Preprocessing::parse(preprocessing.to_string().as_bytes()).unwrap();
    ColumnsInput::open(format, Arc::new(file), &preprocessing, Some("id"), keys)
}

fn read(path: &Path, keys: &ParquetKeys) -> Result<Vec<Row>, ColumnsError> {
    let input = open(path, keys)?;
    let mut rows = Vec::new();
    for part in 0..input.parts() {
        assert_eq!(input.rows_before(part), rows.len() as u64);
        input.read(part, &mut |batch| {
            for row in 0..batch.rows() {
                let fault = batch.bad().iter().find(|bad| bad.row == row);
                rows.push(Row {
                    values: std::array::from_fn(|column| batch.column(column)[row]),
                    name: batch.key(row).unwrap().into_owned(),
                    fault: fault.map(|bad| (bad.column, bad.reason)),
                });
            }
            Ok::<_, ColumnsError>(())
        })?;
    }
    assert_eq!(input.rows(), rows.len() as u64);
    Ok(rows)
}

struct Row {
    values: [f64; 8],
    name: String,
    fault: Option<(usize, BadReason)>,
}

/// Every value is the one that was written, and nulls are where they were.
#[track_caller]
fn check(name: &str, rows: &[Row], nulls: bool) {
    assert_eq!(rows.len(), ROWS, "{name}");
    for (at, row) in rows.iter().enumerate() {
        let expected = expected(at);
        assert_eq!(row.name, format!("tx-{at}"), "{name}");
        if nulls && at % 97 == 13 {
            assert_eq!(row.fault, Some((0, BadReason::Empty)), "{name}");
            assert_eq!(row.values[1..], expected[1..], "{name}");
        } else {
            assert_eq!((row.fault, row.values), (None, expected), "{name} {at}");
        }
    }
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.parquet"))
}

fn footer_key(length: usize) -> ParquetKeys {
    ParquetKeys {
        footer: Some(Zeroizing::new(vec![b'k'; length])),
        ..ParquetKeys::default()
    }
}

/// The broker's part: master keys by name.
struct Broker;

impl NamedKeys for Broker {
    fn key(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
        match name {
            "default/parquet/footer" => Ok(Zeroizing::new(vec![b'F'; 32])),
            "default/parquet/columns" => Ok(Zeroizing::new(vec![b'C'; 16])),
            _ => Err("no such resource".to_owned()),
        }
    }
}

fn named() -> ParquetKeys {
    ParquetKeys {
        named: Some(Arc::new(Broker)),
        ..ParquetKeys::default()
    }
}

#[test]
fn plain_parquet_in_every_compression_and_encoding() {
    let Some(folder) = written() else { return };
    for compression in ["none", "snappy", "gzip", "zstd", "lz4"] {
        for page in ["1.0", "2.0"] {
            for dictionary in ["True", "False"] {
                let name = format!("plain-{compression}-{page}-{dictionary}");
                let rows = read(&file(folder, &name), &ParquetKeys::default());
                check(&name, &rows.unwrap(), true);
            }
        }
    }
    for name in ["pages", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"] {
        let rows = read(&file(folder, name), &ParquetKeys::default());
        check(name, &rows.unwrap(), false);
    }
}

#[test]
fn times_name_rows() {
    let Some(folder) = written() else { return };
    for unit in ["s-none", "ms-zone", "us-none", "us-zone", "ns-none"] {
        for ending in ["parquet", "arrow"] {
            let path = folder.join(format!("times-{unit}.{ending}"));
            let rows = read(&path, &ParquetKeys::default()).unwrap();
            let zone = if unit.ends_with("zone") { "Z" } else { "" };
            assert_eq!(
                rows[61].name,
                format!("1970-01-01T00:01:01{zone}"),
                "{unit}"
            );
            assert_eq!(rows.len(), ROWS);
        }
    }
}

#[test]
fn parquet_under_one_key() {
    let Some(folder) = written() else { return };
    for (name, length) in [
        ("uniform-128", 16),
        ("uniform-256", 32),
        ("readable-footer", 16),
        ("prefix-stored", 16),
    ] {
        let rows = read(&file(folder, name), &footer_key(length));
        check(name, &rows.unwrap(), false);
    }
    for name in ["prefix-stored", "prefix-supplied"] {
        let keys = ParquetKeys {
            aad_prefix: Some(b"rows-2026-11".to_vec()),
            ..footer_key(16)
        };
        check(name, &read(&file(folder, name), &keys).unwrap(), false);
    }
}

#[test]
fn parquet_whose_keys_are_wrapped() {
    let Some(folder) = written() else { return };
    for name in [
        "named-double",
        "named-single",
        "named-256",
        "columns-all",
        "columns-readable-footer",
    ] {
        check(name, &read(&file(folder, name), &named()).unwrap(), false);
    }
}

#[test]
fn plain_columns_of_an_encrypted_file_are_read_only_on_demand() {
    let Some(folder) = written() else { return };
    let path = file(folder, "columns-some");
    let error = read(&path, &named()).err().unwrap().to_string();
    assert!(
        error.starts_with("column \"s\" of this encrypted Parquet file is itself not encrypted"),
        "{error}"
    );
    let keys = ParquetKeys {
        plain_columns: PlainColumns::Allow,
        ..named()
    };
    check("columns-some", &read(&path, &keys).unwrap(), false);
    // What a receipt says of such a file is what was read, not what was allowed.
    let protection = |name: &str| open(&file(folder, name), &keys).unwrap().protection();
    assert_eq!(protection("columns-some"), Protection::PlainColumns);
    assert_eq!(protection("columns-all"), Protection::Unbound);
    let keys = ParquetKeys {
        aad_prefix: Some(b"rows-2026-11".to_vec()),
        ..footer_key(16)
    };
    let held = open(&file(folder, "prefix-stored"), &keys).unwrap();
    assert_eq!(held.protection(), Protection::Authenticated);
}

#[test]
fn wrong_keys_and_names_open_nothing() {
    let Some(folder) = written() else { return };
    let refusal = |name: &str, keys: &ParquetKeys| {
        let result = read(&file(folder, name), keys);
        result.err().unwrap().to_string()
    };
    let none = ParquetKeys::default();
    let other = ParquetKeys {
        footer: Some(Zeroizing::new(vec![b'x'; 16])),
        ..ParquetKeys::default()
    };
    let prefix = ParquetKeys {
        aad_prefix: Some(b"rows-2026-10".to_vec()),
        ..footer_key(16)
    };
    for (name, keys, why) in [
        (
            "uniform-128",
            &none,
            "is encrypted: give the key of the footer",
        ),
        (
            "named-double",
            &none,
            "which it calls \"default/parquet/footer\"",
        ),
        (
            "uniform-128",
            &other,
            "does not open: the key or the AAD prefix is wrong",
        ),
        (
            "readable-footer",
            &other,
            "does not open: the key or the AAD prefix is wrong",
        ),
        (
            "prefix-stored",
            &prefix,
            "does not open: the key or the AAD prefix is wrong",
        ),
        ("prefix-supplied", &footer_key(16), "give its AAD prefix"),
        (
            "plain-none-1.0-True",
            &footer_key(16),
            "is not encrypted, but a key was given",
        ),
        ("ctr", &footer_key(16), "AES_GCM_CTR_V1"),
        ("uniform-192", &footer_key(24), "AES-192 is not read"),
        ("uniform-128", &footer_key(15), "has 15 bytes"),
    ] {
        let error = refusal(name, keys);
        assert!(error.contains(why), "{name}: {error}");
    }
    // A key for a column that lies under the footer's key.
    let mut keys = footer_key(16);
    keys.columns
        .insert("x".to_owned(), Zeroizing::new(vec![0; 16]));
    assert!(refusal("uniform-128", &keys).contains("not encrypted under a key of its own"));
}

#[test]
fn changed_encrypted_parquet_gives_no_rows_of_its_own() {
    let Some(folder) = written() else { return };
    for name in ["uniform-128", "readable-footer"] {
        let whole = fs::read(file(folder, name)).unwrap();
        let changed = tempfile::tempdir().unwrap();
        let path = changed.path().join("changed.parquet");
        // Among pages of wanted and unwanted columns, and in the footer.
        let mut refused = 0;
        for at in (4..whole.len() - 8).step_by(whole.len() / 150) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x20;
            fs::write(&path, bytes).unwrap();
            match read(&path, &footer_key(16)) {
                Err(_) => refused += 1,
                Ok(rows) => check(name, &rows, false),
            }
        }
        assert!(refused > 50, "{name}: {refused}");
    }
}

#[test]
fn arrow_files_and_streams() {
    let Some(folder) = written() else { return };
    for compression in ["None", "lz4", "zstd"] {
        for (kind, nulls) in [("holes", true), ("encoded", false), ("views", false)] {
            for ending in ["arrow", "arrows"] {
                let name = format!("{kind}-{compression}.{ending}");
                let rows = read(&folder.join(&name), &ParquetKeys::default());
                check(&name, &rows.unwrap(), nulls);
            }
        }
    }
}

#[test]
fn cut_files_are_refused() {
    let Some(folder) = written() else { return };
    let cut = tempfile::tempdir().unwrap();
    let path = cut.path().join("cut");
    for name in [
        "plain-snappy-1.0-True.parquet",
        "uniform-128.parquet",
        "holes-None.arrow",
        "holes-zstd.arrows",
    ] {
        let whole = fs::read(folder.join(name)).unwrap();
        let keys = if name.starts_with("uniform") {
            footer_key(16)
        } else {
            ParquetKeys::default()
        };
        for kept in (8..whole.len()).step_by(whole.len() / 40) {
            fs::write(&path, &whole[..kept]).unwrap();
            assert!(read(&path, &keys).is_err(), "{name} {kept}");
        }
    }
}

#[test]
fn pyarrow_reads_our_results() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::built_in();
    let csv = "id,distance_from_last_transaction,ratio_to_median_purchase_price,used_chip,\
        used_pin_number,online_order\n\"tx, \"\"1\"\"\",100.0,5.0,0.0,0.0,1.0\n\
        tx-2,0.5,1.0,1.0,1.0,0.0\ntx-3,1e2,0.30000000000000004,0.0,0.0,1.0\n";
    let job = Options {
        file_name: "rows.csv".to_owned(),
        key_column: Some("id".to_owned()),
        results: Results::All,
        features: HandedOut::Always,
        ..Options::default()
    };
    let mut lines = Vec::new();
    score(&mut csv.as_bytes(), &bundle, &job, &mut lines, &mut |_| {}).unwrap();
    let expected = top(&lines[..], 10).unwrap().rows;
    assert_eq!(expected.len(), 3);

    let encrypted = |length| {
        Some(TableKey {
            key: Zeroizing::new(vec![b'r'; length]),
            name: "kbs:///default/results/key".to_owned(),
            file_name: "results.parquet".to_owned(),
        })
    };
    let mut jobs = Vec::new();
    for (name, format, encryption) in [
        ("results.csv", TableFormat::Csv, None),
        ("plain.parquet", TableFormat::Parquet, None),
        ("128.parquet", TableFormat::Parquet, encrypted(16)),
        ("256.parquet", TableFormat::Parquet, encrypted(32)),
    ] {
        let key = encryption.as_ref().map(|TableKey { key, .. }| {
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            hex
        });
        let format_name = if format == TableFormat::Csv {
            "csv"
        } else {
            "parquet"
        };
        let options = ConvertOptions {
            format,
            keys: true,
            features: Features::Include,
            encryption,
        };
        let mut table = TableConverter::new(Vec::new(), options);
        table.write_all(&lines).unwrap();
        let path = folder.path().join(name);
        fs::write(&path, table.finish().unwrap().0).unwrap();
        jobs.push(json!({"path": path, "key": key, "format": format_name}));
    }
    // Under another key it reads nothing.
    let other = folder.path().join("256.parquet");
    jobs.push(json!({"path": other, "key": "00".repeat(32), "format": "parquet"}));

    let answers = asked(&python, &Value::Array(jobs));
    let (last, good) = answers.as_array().unwrap().split_last().unwrap();
    assert!(last["error"].is_string(), "{last}");
    for answer in good {
        let columns = bundle.preprocessing().columns();
        let mut names = vec!["file", "row", "key", "probability"];
        names.extend(columns.iter().map(String::as_str));
        assert_eq!(answer["columns"], json!(names), "{answer}");
        let rows = answer["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 3);
        for row in rows {
            let ours = expected.iter().find(|ours| ours.row == row["row"]).unwrap();
            assert_eq!(row["file"], "rows.csv");
            assert_eq!(row["key"], json!(ours.key));
            assert_eq!(row["probability"].as_f64(), Some(ours.probability));
            for (name, value) in columns.iter().zip(&ours.features) {
                assert_eq!(row[name].as_f64(), Some(*value), "{name}");
            }
        }
    }
}

/// What `PyArrow` finds in some files.
fn asked(python: &Path, jobs: &Value) -> Value {
    let mut child = Command::new(python)
        .args([SCRIPT, "read"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(jobs.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "peer_pyarrow.py failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The folder that `PyArrow` filled, once for all tests of this process.
fn written() -> Option<&'static Path> {
    static FOLDER: LazyLock<Option<tempfile::TempDir>> = LazyLock::new(|| {
        let python = python()?;
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new(python)
            .args([SCRIPT, "write"])
            .arg(folder.path())
            .status();
        assert!(status.unwrap().success(), "peer_pyarrow.py failed");
        Some(folder)
    });
    FOLDER.as_ref().map(tempfile::TempDir::path)
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer_pyarrow.py");

/// An interpreter that has `pyarrow`, or nothing after saying so.
fn python() -> Option<PathBuf> {
    let python = env::var_os("STRONGROOM_PEERS_PYARROW").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.peers/pyarrow/bin/python3"),
        PathBuf::from,
    );
    let imported = Command::new(&python)
        .args(["-c", "import pyarrow.parquet.encryption, cryptography"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if imported {
        return Some(python);
    }
    let required = env::var("STRONGROOM_REQUIRE_PEERS").is_ok_and(|value| value == "1");
    let why = format!(
        "no Python interpreter that can import pyarrow at {}",
        python.display()
    );
    assert!(!required, "{why}");
    println!("SKIPPED: {why}");
    None
}
