//! The demo as an end-to-end test: its document, and what a thief of every disk, log and packet would find.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use strongroom_scoring::generate::{Columns, Generator};
use strongroom_scoring::model::Bundle;
use strongroom_testkit::capture::{Capture, CaptureError};
use strongroom_testkit::fixtures::skip;
use strongroom_testkit::leak::Scanner;
use strongroom_testkit::process::{Program, Running};

const ROWS: u64 = 20_000;

#[test]
fn every_step_holds_and_its_document_says_so() {
    let finished = strongroom()
        .args(["demo", "--json", "--rows", "3000"])
        .run()
        .unwrap()
        .expect_success();
    let document: Value = serde_json::from_str(&finished.stdout_text()).unwrap();
    assert_eq!(document["ok"], true);
    assert_eq!(document["rows"], 3000);
    let steps: Vec<&str> = document["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    assert_eq!(
        steps,
        [
            "encrypt", "broker", "policy", "attest", "score", "results", "receipt", "attacker",
            "denial"
        ]
    );
    let details = |name: &str| {
        document["steps"]
            .as_array()
            .unwrap()
            .iter()
            .find(|step| step["step"] == name)
            .unwrap()["details"]
            .clone()
    };
    assert_eq!(details("broker")["stranger"], 401);
    assert_eq!(details("attest")["assurance"], "development");
    assert_eq!(details("score")["encrypted_input"], true);
    assert_eq!(details("score")["flagged"], details("results")["flagged"]);
    assert_eq!(details("receipt")["verdict"], "verified");
    assert_eq!(details("receipt")["assurance"], "development");
    assert_eq!(details("attacker")["hits"], 0);
    let reason = &details("denial")["reasons"][0];
    assert_eq!(reason["expected"], details("policy")["initdata"]);
    assert_ne!(reason["actual"], reason["expected"]);
}

#[test]
fn nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let program = strongroom()
        .args(["demo", "--json", "--rows", "1000"])
        .env("TMPDIR", folder.path());
    drop(program.run().unwrap().expect_success());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Rows, keys and weights are searched for in everything that the demo wrote, printed, and sent over loopback.
#[test]
fn plaintext_key_or_weight_reaches_a_disk_a_log_or_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let (files, packets) = (
        folder.path().join("demo"),
        folder.path().join("loopback.pcap"),
    );
    let capture = match Capture::start(&packets, &[]) {
        Ok(capture) => Some(capture),
        Err(CaptureError::Refused(why)) => {
            skip(&format!("no packet capture here: {why}"));
            None
        }
        Err(other) => {
            skip(&format!("no packet capture here: {other}"));
            None
        }
    };
    let rows = ROWS.to_string();
    let told = strongroom()
        .args(["demo", "--rows", &rows, "--keep"])
        .arg(&files)
        .run()
        .unwrap()
        .expect_success();
    let captured = capture.map(|capture| capture.stop().unwrap());
    assert!(
        captured.is_none_or(|bytes| bytes > 50_000),
        "the capture is too short to be the demo's: {captured:?}"
    );

    let keys = keys_from(&files);
    let scanner = Scanner::new(needles(&keys)).unwrap();
    let mut places = vec![files.clone()];
    if captured.is_some() {
        places.push(packets);
    }
    scanner.scan(&places).unwrap().assert_clean(12);
    // The owner is shown five rows on the terminal, their features rounded; nothing else may be there.
    scanner
        .scan_bytes("what the demo printed", told.stdout_text().as_bytes())
        .assert_clean(1);

    // The search finds what is there: the same needles in a planted file.
    std::fs::write(files.join("planted"), &keys[0]).unwrap();
    assert_eq!(scanner.scan([&files]).unwrap().needles().len(), 1);
}

fn needles(keys: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let mut csv = Vec::new();
    Generator {
        rows: ROWS,
        seed: 1,
        label: false,
        columns: Columns::Model,
    }
    .write_to(&mut csv)
    .unwrap();
    let lines: Vec<&[u8]> = csv
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .collect();
    let mut needles: Vec<(String, Vec<u8>)> = lines
        .iter()
        .step_by(97)
        .enumerate()
        .map(|(at, line)| (format!("row {at}"), line.to_vec()))
        .collect();
    // The first two numbers of a row, each with its fifteen digits, are enough to know it by.
    needles.extend(
        lines
            .iter()
            .skip(1)
            .step_by(211)
            .enumerate()
            .map(|(at, line)| {
                let number = line.split(|byte| *byte == b',').next().unwrap();
                (format!("number {at}"), number.to_vec())
            })
            .filter(|(_, number)| number.len() >= 12),
    );
    needles.extend(
        keys.iter()
            .enumerate()
            .map(|(at, key)| (format!("key {at}"), key.clone())),
    );
    let tar = Bundle::built_in().to_tar();
    needles.extend(
        (2048..tar.len() - 64)
            .step_by(1500)
            .map(|at| (format!("model at {at}"), tar[at..at + 48].to_vec()))
            .filter(|(_, piece)| piece.iter().filter(|byte| **byte != 0).count() > 32),
    );
    needles
}

/// Gets the demo's keys as a guest would: from its broker, started again, by attesting.
fn keys_from(files: &Path) -> Vec<Vec<u8>> {
    let broker = strongroom()
        .args(["broker", "run", "--json", "--listen", "127.0.0.1:0"])
        .arg(files.join("broker"))
        .arg("--development-root")
        .arg(files.join("development-root"))
        .start()
        .unwrap();
    let url = ready(&broker);
    let socket = format!(
        "unix:{}",
        files.parent().unwrap().join("keys.sock").display()
    );
    let guest = strongroom()
        .args([
            "guest",
            "run",
            "--json",
            "--platform",
            "development",
            "--insecure-override-measured-broker",
            "--broker",
            &url,
            "--listen",
            &socket,
            "--initdata",
        ])
        .arg(files.join("cloud/guest-initdata.toml"))
        .arg("--development-root")
        .arg(files.join("development-root"))
        .start()
        .unwrap();
    ready(&guest);
    let keys = [
        "kbs:///default/fraud-dataset/dataset_key",
        "kbs:///default/fraud-model/model_key",
    ]
    .map(|uri| {
        let got = strongroom()
            .args(["get", uri, "--guest", &socket])
            .run()
            .unwrap()
            .expect_success();
        assert_eq!(got.stdout.len(), 32);
        got.stdout
    });
    guest.terminate().unwrap();
    broker.terminate().unwrap();
    keys.to_vec()
}

fn ready(server: &Running) -> String {
    let line = server.wait_for_line("\"ready\"").unwrap();
    let document: Value = serde_json::from_str(&line).unwrap();
    document["url"].as_str().unwrap().to_owned()
}

fn strongroom() -> Program {
    let path = std::env::var_os("STRONGROOM_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_strongroom").into());
    Program::new(path).limit(Duration::from_secs(120))
}
