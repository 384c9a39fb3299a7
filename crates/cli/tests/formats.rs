//! `score` over each format that people have, bare and inside cipherfiles: it counts what it counts of the same rows as
//! CSV. `PyArrow` (`.peers/pyarrow`) writes the files of columns.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use support::{Place, document, transactions};

/// Makes a Parquet file, plain and encrypted, and an Arrow file of a CSV.
const CONVERT: &str = r#"
import pyarrow as pa, pyarrow.csv, pyarrow.parquet as pq, pyarrow.parquet.encryption as pe
table = pyarrow.csv.read_csv("data.csv")
pq.write_table(table, "data.parquet", row_group_size=1000)
key = open("parquet.key", "rb").read()
properties = pe.create_encryption_properties(key, aad_prefix=b"november", store_aad_prefix=False)
pq.write_table(table, "sealed.parquet", encryption_properties=properties)
with pa.ipc.new_file("data.arrow", table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
    out.write_table(table, max_chunksize=700)
"#;

#[test]
fn same_rows_in_another_format_score_otherwise() {
    let Some(python) = support::pyarrow() else {
        return;
    };
    let place = Place::new();
    place.ok(&["keygen", "data.key"]);
    place.write("data.csv", transactions(5000));
    place.write("parquet.key", [b'k'; 32]);
    let converted = Command::new(python)
        .args(["-c", CONVERT])
        .current_dir(place.path())
        .status();
    assert!(converted.unwrap().success());
    for program in ["gzip", "zstd"] {
        let made = Command::new(program)
            .args(["-q", "-k", "data.csv"])
            .current_dir(place.path())
            .status();
        assert!(made.unwrap().success(), "{program}");
    }
    let counts = |args: &[&str]| {
        let document = document(&place.ok(&[&["score", "--json"], args].concat()));
        ["rows", "flagged", "bad_rows"].map(|name| document[name].as_u64().unwrap())
    };
    let expected = counts(&["data.csv"]);
    assert!(expected[0] == 5000 && expected[1] > 0);
    for file in ["data.csv.gz", "data.csv.zst", "data.parquet", "data.arrow"] {
        assert_eq!(counts(&[file]), expected, "{file}");
        place.ok(&["encrypt", file, "--key", "data.key"]);
        let sealed = format!("{file}.enc");
        assert_eq!(
            counts(&[&sealed, "--key", "data.key"]),
            expected,
            "{sealed}"
        );
    }
    // Looked at before they are scored, they are the same rows too; sums may be rounded at other places.
    let profile = |args: &[&str]| {
        let document = document(&place.ok(&[&["profile", "--json"], args].concat()));
        let column = &document["columns"][0];
        (
            document["rows"].clone(),
            column["quantiles"].clone(),
            column["moments"]["max"].clone(),
        )
    };
    let looked = profile(&["data.csv"]);
    assert_eq!(looked.0, 5000);
    for args in [
        &["data.csv.gz"][..],
        &["data.parquet"],
        &["data.arrow"],
        &["data.csv.gz.enc", "--key", "data.key"],
        &["data.parquet.enc", "--key", "data.key"],
        &[
            "sealed.parquet",
            "--key",
            "parquet.key",
            "--aad-prefix",
            "november",
        ],
    ] {
        assert_eq!(profile(args), looked, "{args:?}");
    }
    place.ok(&["encrypt", "data.csv", "--key", "data.key"]);
    assert_eq!(profile(&["data.csv.enc", "--key", "data.key"]), looked);
    let sealed = ["sealed.parquet", "--key", "parquet.key"];
    let named = [&sealed[..], &["--aad-prefix", "november"]].concat();
    assert_eq!(counts(&named), expected);

    place.ok(&["keygen", "owner.pem", "--kind", "recipient"]);
    for (args, why) in [
        (
            &["data.parquet", "--identity", "owner.pem"][..],
            "was not encrypted to a recipient",
        ),
        (&sealed, "give its AAD prefix"),
        (&["sealed.parquet"], "give the key of the footer"),
        (
            &["data.parquet", "--key", "data.key"],
            "is not encrypted, but a key was given",
        ),
        (
            &["data.arrow", "--key", "data.key"],
            "is not encrypted, but a key was given",
        ),
        (
            &["data.parquet", "--key-column", "card"],
            "\"card\" is missing",
        ),
    ] {
        let refusal = place.refused(&[&["score"], args].concat());
        assert!(refusal.contains(why), "{args:?}: {refusal}");
    }
}

#[test]
fn bomb_is_unpacked() {
    let place = Place::new();
    let header = "distance_from_last_transaction,ratio_to_median_purchase_price,used_chip,used_pin_number,online_order\n";
    // 70 MiB of blank lines, which gzip makes a thousandth of.
    place.write("bomb.csv", &(header.to_owned() + &"\n".repeat(70 << 20)));
    let made = Command::new("gzip")
        .args(["-q", "-9", "bomb.csv"])
        .current_dir(place.path())
        .status();
    assert!(made.unwrap().success());
    let refusal = place.refused(&["score", "bomb.csv.gz"]);
    assert!(
        refusal.contains("more than 500 bytes come out of each byte"),
        "{refusal}"
    );
}
