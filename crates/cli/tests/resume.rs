//! A job that is killed and goes on: `score --checkpoint`, several files, and what the owner gets of it.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use support::{Place, document, transactions};

const KILLS: usize = 20;

fn place() -> Place {
    let place = Place::new();
    place.ok(&["keygen", "data.key"]);
    place.ok(&["keygen", "owner.pem", "--kind", "recipient"]);
    // Some megabytes each, so that a kill finds the job within.
    for (name, rows) in [("a.csv", 90_000), ("b.csv", 60_000), ("c.csv", 1)] {
        place.write(name, transactions(rows));
        place.ok(&["encrypt", name, "--key", "data.key"]);
    }
    place
}

const SCORE: [&str; 11] = [
    "score",
    "a.csv.enc",
    "b.csv.enc",
    "c.csv.enc",
    "--key",
    "data.key",
    "--results-to",
    "owner.pem.pub.json",
    "--results-kind",
    "all",
    "--results",
];
const CHECKPOINTS: [&str; 4] = ["--checkpoint", "checkpoints", "--checkpoint-every", "0"];

fn opened(place: &Place, results: &str) -> Vec<u8> {
    place
        .ok(&["decrypt", results, "--identity", "owner.pem", "-o", "-"])
        .stdout
}

#[test]
fn job_that_was_killed_gives_another_result() {
    let place = place();
    let started = Instant::now();
    place.ok(&[&SCORE[..], &["whole.jsonl.enc"]].concat());
    let usual = started.elapsed();
    let whole = opened(&place, "whole.jsonl.enc");
    assert!(whole.len() > 1_000_000);

    let mut random = 17_u64;
    let (mut kills, mut resumed) = (0, 0);
    for round in 0.. {
        let results = format!("killed-{round}.jsonl.enc");
        let args = [&SCORE[..], &[&results], &CHECKPOINTS].concat();
        loop {
            let running = place.program(&args).start().unwrap();
            // A linear congruential generator: moments need not be better than that.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let moment = usual.mul_f64((random >> 33) as f64 / f64::from(u32::MAX / 2) * 1.5);
            std::thread::sleep(moment.max(Duration::from_millis(5)));
            let pid = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::KILL);
            let finished = running.finished().unwrap();
            if finished.status.success() {
                // What a kill cut off while it was written has another name.
                let mut kept = support::listing(&place.join("checkpoints"));
                kept.retain(|name| !name.ends_with(".partial"));
                assert!(kept.is_empty(), "{kept:?}");
                break;
            }
            kills += 1;
            if place.listing().contains(&results) {
                // Killed with the result in its place, before the checkpoints were gone.
                break;
            }
            resumed += usize::from(finished.stderr_text().contains("Going on behind row"));
        }
        assert!(opened(&place, &results) == whole, "round {round}");
        if kills >= KILLS && resumed > 0 {
            break;
        }
    }
}

#[test]
fn several_files_are_mixed_up() {
    let place = place();
    let results = [&SCORE[..], &["results.jsonl.enc", "--json"]].concat();
    let summary = document(&place.ok(&results));
    assert_eq!(summary["rows"], 150_001);
    let lines = String::from_utf8(opened(&place, "results.jsonl.enc")).unwrap();
    for (name, rows) in [
        ("a.csv.enc", 90_000),
        ("b.csv.enc", 60_000),
        ("c.csv.enc", 1),
    ] {
        let of_file = format!("{{\"kind\":\"row\",\"file\":\"{name}\",");
        assert_eq!(
            lines
                .lines()
                .filter(|line| line.starts_with(&of_file))
                .count(),
            rows,
            "{name}"
        );
    }

    // A pattern and a folder mean the same files, in the order of their names.
    let pattern = document(&place.ok(&["score", "?.csv.enc", "--key", "data.key", "--json"]));
    assert_eq!(
        (&pattern["rows"], &pattern["flagged"]),
        (&summary["rows"], &summary["flagged"])
    );
    std::fs::create_dir(place.join("day")).unwrap();
    for name in ["a.csv.enc", "c.csv.enc"] {
        std::fs::copy(place.join(name), place.join("day").join(name)).unwrap();
    }
    let folder = document(&place.ok(&["score", "day/", "--key", "data.key", "--json"]));
    assert_eq!(folder["rows"], 90_001);
    let refusal = place.refused(&["score", "?.parquet"]);
    assert!(refusal.contains("?.parquet"), "{refusal}");
    let refusal = place.refused(&["score", "?.csv.enc", "--key", "data.key", "--name", "x"]);
    assert!(refusal.contains("--name names one file"), "{refusal}");
}

#[test]
fn checkpoint_without_a_key_or_of_standard_input_is_taken() {
    let place = place();
    let plain = [
        "score",
        "a.csv",
        "--results",
        "r.enc",
        "--results-to",
        "owner.pem.pub.json",
    ];
    let refusal = place.refused(&[&plain[..], &CHECKPOINTS].concat());
    assert!(refusal.contains("--checkpoint-key"), "{refusal}");
    place.ok(&[&plain[..], &CHECKPOINTS, &["--checkpoint-key", "data.key"]].concat());
    let piped = [
        "score",
        "-",
        "--key",
        "data.key",
        "--results",
        "s.enc",
        "--results-to",
        "owner.pem.pub.json",
    ];
    let refusal = place.refused(&[&piped[..], &CHECKPOINTS].concat());
    assert!(refusal.contains("cannot be read twice"), "{refusal}");
    assert!(!place.listing().contains(&"s.enc".to_owned()));
}

#[test]
fn checkpoint_of_other_rows_is_taken() {
    let place = place();
    let args = [&SCORE[..], &["results.enc"], &CHECKPOINTS].concat();
    // A last file that cannot be read leaves the checkpoint of the others.
    let whole = place.read("c.csv.enc");
    place.write("c.csv.enc", &whole[..whole.len() - 1]);
    assert!(!place.run(&args).status.success());
    assert!(place.join("checkpoints/state").exists());
    assert!(!place.join("results.enc").exists());
    // The same name, rows encrypted anew.
    place.write("c.csv.enc", &whole);
    place.ok(&["encrypt", "a.csv", "--key", "data.key", "--force"]);
    let refused = place.run(&args);
    assert!(!refused.status.success());
    let refusal = refused.stderr_text();
    assert!(refusal.contains("is of another job"), "{refusal}");
}
