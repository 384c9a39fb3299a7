//! Data sets and results in every form, as `docs/formats.md` says: its commands, and that each form gives the same rows.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use strongroom_scoring::columns::ParquetKeys;
use strongroom_scoring::results::{Manifest, ResultReader};
use zeroize::Zeroizing;

use support::{Place, document, transactions};

const ROWS: u64 = 3000;

fn place() -> Place {
    let place = Place::new();
    place.ok(&["keygen", "data.key"]);
    place.ok(&["keygen", "owner.pem", "--kind", "recipient"]);
    place.write("rows.csv", transactions(ROWS));
    place
}

fn gzip(path: &Path) {
    let csv = std::fs::read(path).unwrap();
    let file = std::fs::File::create(path.with_extension("csv.gz")).unwrap();
    let mut writer = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    writer.write_all(&csv).unwrap();
    writer.finish().unwrap();
}

const ALL: [&str; 4] = ["--results-kind", "all", "--force", "--json"];

#[test]
fn command_of_the_page_does_not_work_as_written() {
    let blocks = support::shell_blocks("docs/formats.md");
    assert!(blocks.len() >= 2, "{}", blocks.len());
    let place = Place::new();
    let script = format!("set -euo pipefail\n{}", blocks.concat());
    let finished = place.script(&script).run().unwrap();
    assert!(finished.status.success(), "{}", support::printed(&finished));
    let listing = place.listing();
    for name in [
        "table.csv.enc",
        "table.csv.manifest.json.enc",
        "table.parquet.manifest.json.enc",
    ] {
        assert!(listing.contains(&name.to_owned()), "{listing:?}");
    }
}

#[test]
fn compressed_or_encrypted_rows_are_counted_otherwise() {
    let place = place();
    gzip(&place.join("rows.csv"));
    let counts = |args: &[&str]| {
        let document = document(&place.ok(&[&["score", "--json"], args].concat()));
        (document["rows"].clone(), document["flagged"].clone())
    };
    let plain = counts(&["rows.csv"]);
    assert_eq!(plain.0, ROWS);
    assert_eq!(counts(&["rows.csv.gz"]), plain);
    place.ok(&["encrypt", "rows.csv.gz", "--key", "data.key"]);
    assert_eq!(counts(&["rows.csv.gz.enc", "--key", "data.key"]), plain);
    place.ok(&[
        "encrypt",
        "rows.csv.gz",
        "--to",
        "owner.pem.pub.json",
        "--output",
        "sealed.enc",
        "--name",
        "rows",
    ]);
    assert_eq!(
        counts(&["sealed.enc", "--identity", "owner.pem", "--name", "rows"]),
        plain
    );
    // Cut within the compressed stream.
    let whole = place.read("rows.csv.gz");
    place.write("cut.gz", &whole[..whole.len() / 2]);
    assert!(place.refused(&["score", "cut.gz"]).contains("cut.gz"));
}

#[test]
fn table_holds_other_rows_than_the_lines() {
    let place = place();
    let lines = [
        &[
            "score",
            "rows.csv",
            "--results",
            "lines.enc",
            "--results-to",
            "owner.pem.pub.json",
        ],
        &ALL[..],
    ];
    place.ok(&lines.concat());
    let opened = place
        .ok(&["decrypt", "lines.enc", "--identity", "owner.pem", "-o", "-"])
        .stdout;
    let mut reader = ResultReader::open(&opened[..]).unwrap();
    let mut expected = Vec::new();
    while let Some(row) = reader.next_row().unwrap() {
        expected.push((row.row, row.probability));
    }
    assert_eq!(expected.len() as u64, ROWS);

    let table = |format: &str, name: &str, whom: [&str; 2]| {
        let args = [
            "score",
            "rows.csv",
            "--results",
            name,
            "--results-format",
            format,
        ];
        place.ok(&[&args[..], &whom, &ALL].concat());
    };
    table(
        "csv",
        "table.csv.enc",
        ["--results-to", "owner.pem.pub.json"],
    );
    let open = |name: &str| {
        place
            .ok(&["decrypt", name, "--identity", "owner.pem", "-o", "-"])
            .stdout
    };
    let manifest = Manifest::parse(&open("table.csv.manifest.json.enc")).unwrap();
    let table_bytes = open("table.csv.enc");
    let mut reader = ResultReader::open_csv(&table_bytes[..], &manifest).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row().unwrap() {
        rows.push((row.row, row.probability));
    }
    assert!(rows == expected);

    table("parquet", "table.parquet", ["--results-key", "data.key"]);
    let file = place.read("table.parquet");
    assert_eq!(
        &file[..4],
        b"PARE",
        "not encrypted by Parquet's own encryption"
    );
    let manifest = place
        .ok(&[
            "decrypt",
            "table.parquet.manifest.json.enc",
            "--key",
            "data.key",
            "-o",
            "-",
        ])
        .stdout;
    let manifest = Manifest::parse(&manifest).unwrap();
    let keys = ParquetKeys {
        footer: Some(Zeroizing::new(place.read("data.key"))),
        ..ParquetKeys::default()
    };
    let mut reader =
        ResultReader::open_parquet(Arc::new(Bytes::from(file)), &keys, &manifest).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row().unwrap() {
        rows.push((row.row, row.probability));
    }
    assert!(rows == expected);
}

#[test]
fn results_of_another_run_are_written_over_or_half_of_a_table_stays() {
    let place = place();
    let args = [
        "score",
        "rows.csv",
        "--results",
        "t.csv.enc",
        "--results-key",
        "data.key",
        "--results-format",
        "csv",
    ];
    place.ok(&args);
    place.refused(&args);
    // The manifest alone is there: nothing is begun.
    std::fs::remove_file(place.join("t.csv.enc")).unwrap();
    assert!(place.refused(&args).contains("t.csv.manifest.json.enc"));
    let bad = [
        "score",
        "bad.csv",
        "--results",
        "u.csv.enc",
        "--results-key",
        "data.key",
        "--results-format",
        "csv",
    ];
    place.write("bad.csv", [&transactions(10), "x\n"].concat());
    let listing = place.listing();
    assert!(!place.run(&bad).status.success());
    assert_eq!(place.listing(), listing);
    let document: Value = document(&place.ok(&["score", "rows.csv", "--json"]));
    assert_eq!(document["results"], Value::Null);
}

#[test]
fn report_of_a_table_is_another_one_than_that_of_the_lines() {
    let place = place();
    let score = |name: &str, more: &[&str]| {
        let args = ["score", "rows.csv", "--results", name, "--force"];
        let kind = ["--results-kind", "all"];
        place.ok(&[&args[..], &kind, more].concat()).stdout_text()
    };
    let owner = ["--results-to", "owner.pem.pub.json"];
    let key = ["--results-key", "data.key"];
    score("lines.enc", &owner);
    let of = |name: &str, open: &[&str]| {
        document(&place.ok(&[&["report", name, "--json"], open].concat()))
    };
    let (identity, under) = (["--identity", "owner.pem"], ["--key", "data.key"]);
    let mut expected = of("lines.enc", &identity);
    assert_eq!(expected["summary"]["rows"], ROWS);
    expected["output"].take();
    for (name, format, whom, open) in [
        ("a.csv.enc", "csv", owner, identity),
        ("b.csv.enc", "csv", key, under),
        ("c.parquet.enc", "parquet", owner, identity),
        ("d.parquet", "parquet", key, under),
    ] {
        let said = score(name, &[&whom[..], &["--results-format", format]].concat());
        assert!(
            said.contains(&format!("strongroom report {name} ")),
            "{said}"
        );
        let mut found = of(name, &open);
        found["output"].take();
        assert_eq!(found, expected, "{name}");
    }
    // The page too.
    let page = [&["report", "d.parquet", "--output", "d.html"], &under[..]].concat();
    place.ok(&page);
    assert!(place.read("d.html").len() > 10_000);
    // As decrypted files, the manifest beside the table.
    let decrypt = |name: &str| place.ok(&["decrypt", name, "--identity", "owner.pem"]);
    decrypt("a.csv.enc");
    decrypt("a.csv.manifest.json.enc");
    assert_eq!(of("a.csv", &[])["summary"], expected["summary"]);
}

#[test]
fn report_reads_a_table_without_its_manifest_or_with_another_ones() {
    let place = place();
    let score = |input: &str, name: &str, format: &str| {
        let args = [
            "score",
            input,
            "--results",
            name,
            "--results-format",
            format,
        ];
        place.ok(&[
            &args[..],
            &["--results-key", "data.key", "--results-kind", "all"],
        ]
        .concat());
    };
    let refused = |name: &str, more: &[&str]| {
        place.refused(&[&["report", name, "--key", "data.key"], more].concat())
    };
    place.write("other.csv", transactions(10));
    for (name, other, format) in [
        ("t.csv.enc", "o.csv.enc", "csv"),
        ("t.parquet", "o.parquet", "parquet"),
    ] {
        score("rows.csv", name, format);
        score("other.csv", other, format);
        let beside = |name: &str| format!("{}.manifest.json.enc", name.trim_end_matches(".enc"));
        // Under the table's name, or it would not open.
        let renamed = ["--manifest", &beside(other)];
        let said = refused(name, &renamed);
        assert!(said.contains("the results disagree"), "{format}: {said}");
        std::fs::rename(place.join(&beside(name)), place.join("elsewhere")).unwrap();
        let said = refused(name, &[]);
        assert!(said.contains("name that with --manifest"), "{said}");
        assert!(said.contains(&beside(name)), "{said}");
        let cut = place.read(name);
        place.write("cut", &cut[..cut.len() / 2]);
        std::fs::copy(place.join("elsewhere"), place.join(&beside(name))).unwrap();
        let named = name.trim_end_matches(".enc");
        let said = refused("cut", &["--name", named, "--manifest", &beside(name)]);
        assert!(said.contains("cut"), "{said}");
        // The manifest of a table that is another file.
        std::fs::copy(place.join(other), place.join(name)).unwrap();
        let said = refused(name, &[]);
        assert!(said.contains("cannot"), "{said}");
    }
}
