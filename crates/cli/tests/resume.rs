//! A job that is killed and goes on: `score --checkpoint`, several files, each form of rows and results, and what the owner
//! gets of it.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use strongroom_testkit::process::Running;
use strongroom_testkit::storage::{
    AZURITE_ACCOUNT, Step, StorageServer, WebServer, azure_container_sas, azure_create_container,
    request, served,
};

use support::{Place, document, printed, transactions};

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

fn send(running: &Running, signal: Signal) {
    let pid = Pid::from_raw(running.id().try_into().unwrap()).unwrap();
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}

/// Whether a process has ended, though nobody has asked how.
fn has_ended(running: &Running) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.id()));
    stat.is_ok_and(|stat| stat.contains(") Z "))
}

/// Waits for something that a process does, or for its end.
fn wait_for(running: &Running, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() && !has_ended(running) {
        assert!(
            started.elapsed() < Duration::from_secs(100),
            "nothing happens"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn piece(number: usize) -> String {
    format!("results-{number:08}")
}

/// Runs a job that is killed three times, each time with one piece of its results more. It must have gone on.
fn killed(place: &Place, args: &[&str], has_piece: &dyn Fn(usize) -> bool) {
    let mut resumed = 0;
    for kills in 0.. {
        let running = place.program(args).start().unwrap();
        if kills < 3 {
            // With the piece after it, it is in the state.
            wait_for(&running, || has_piece(kills + 1));
            send(&running, Signal::KILL);
        }
        let finished = running.finished().unwrap();
        resumed += usize::from(finished.stderr_text().contains("Going on behind row"));
        if finished.status.success() {
            break;
        }
        assert_eq!(finished.status.signal(), Some(9), "{}", printed(&finished));
    }
    assert!(resumed > 0, "it was never killed in time: {args:?}");
}

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
            send(&running, Signal::KILL);
            let finished = running.finished().unwrap();
            if finished.status.success() {
                let kept = support::listing(&place.join("checkpoints"));
                assert!(kept.is_empty(), "{kept:?}");
                // Nor is anything left of what the kills cut off while it was written.
                let left = place.listing();
                assert!(
                    left.iter().all(|name| !name.ends_with(".partial")),
                    "{left:?}"
                );
                break;
            }
            assert_eq!(finished.status.signal(), Some(9), "{}", printed(&finished));
            kills += 1;
            if place.listing().contains(&results) && !place.join("checkpoints/state").exists() {
                // It had done everything, and was about to say so.
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

/// Makes a Parquet and an Arrow file of a CSV.
const CONVERT: &str = r#"
import pyarrow as pa, pyarrow.csv, pyarrow.parquet as pq
table = pyarrow.csv.read_csv("rows.csv")
pq.write_table(table, "rows.parquet", row_group_size=100_000)
with pa.ipc.new_file("rows.arrow", table.schema) as out:
    out.write_table(table, max_chunksize=40_000)
"#;

/// Rows as CSV, in gzip and, where `PyArrow` is, as Parquet and Arrow, enough for some checkpoints, and what to write of
/// each.
fn forms(place: &Place) -> Vec<(&'static str, &'static str)> {
    place.write("rows.csv", transactions(300_000));
    let file = std::fs::File::create(place.join("rows.csv.gz")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(&place.read("rows.csv")).unwrap();
    gzip.finish().unwrap();
    let mut forms = vec![("rows.csv", "csv"), ("rows.csv.gz", "jsonl")];
    if let Some(python) = support::pyarrow() {
        let converted = Command::new(python)
            .args(["-c", CONVERT])
            .current_dir(place.path())
            .status();
        assert!(converted.unwrap().success());
        forms.extend([("rows.parquet", "parquet"), ("rows.arrow", "csv")]);
    }
    forms
}

#[test]
fn form_of_rows_or_results_goes_on_otherwise() {
    let place = place();
    for (input, format) in forms(&place) {
        let args = |results: &'static str| {
            let mut args = vec![
                "score",
                input,
                "--results-to",
                "owner.pem.pub.json",
                "--force",
            ];
            args.extend([
                "--results-kind",
                "all",
                "--results-format",
                format,
                "--results",
                results,
            ]);
            args
        };
        place.ok(&args("whole.enc"));
        let key = ["--checkpoint-key", "data.key", "--threads", "1"];
        let args = [&args("killed.enc")[..], &CHECKPOINTS, &key].concat();
        let folder = place.join("checkpoints");
        killed(&place, &args, &|number| folder.join(piece(number)).exists());
        assert!(
            opened(&place, "whole.enc") == opened(&place, "killed.enc"),
            "{input}"
        );
        if format != "jsonl" {
            let whole = opened(&place, "whole.manifest.json.enc");
            assert!(
                opened(&place, "killed.manifest.json.enc") == whole,
                "{input}"
            );
        }
        assert_eq!(support::listing(&folder), Vec::<String>::new(), "{input}");
    }
}

#[test]
fn checkpoint_in_a_storage_goes_on_otherwise() {
    let Some(server) = StorageServer::moto() else {
        return;
    };
    let place = place();
    place.write("s3.key", "x");
    assert_eq!(request(&server.url, "PUT", "/bank", &[], b"").0, 200);
    place.ok(&[&SCORE[..], &["whole.enc"]].concat());
    let checkpoints = ["--checkpoint", "s3://bank/kept", "--checkpoint-every", "0"];
    let s3 = ["--s3-access-key-id", "ID", "--s3-secret-key", "s3.key"];
    let endpoint = ["--s3-endpoint", &server.url];
    let args = [&SCORE[..], &["killed.enc"], &checkpoints, &s3, &endpoint].concat();
    let listing = || {
        let (_, listing) = request(&server.url, "GET", "/bank?prefix=kept/", &[], b"");
        String::from_utf8(listing).unwrap()
    };
    killed(&place, &args, &|number| listing().contains(&piece(number)));
    assert!(opened(&place, "whole.enc") == opened(&place, "killed.enc"));
    assert!(!listing().contains("<Key>"), "{}", listing());
}

#[test]
fn job_with_its_results_in_place_is_done_again_or_refused() {
    let Some(server) = StorageServer::azurite() else {
        return;
    };
    let place = place();
    azure_create_container(&server, "kept");
    // Whoever may not remove cannot clear its checkpoints: it ends as one that is killed before it does.
    place.write("kept.sas", azure_container_sas("kept", "rcw"));
    let (folder, endpoint) = (
        format!("az://{AZURITE_ACCOUNT}/kept/job"),
        format!("{}/{AZURITE_ACCOUNT}", server.url),
    );
    let azure = ["--azure-sas", "kept.sas", "--azure-endpoint", &endpoint];
    let table = ["--results-format", "csv", "--checkpoint", &folder];
    let args = [&SCORE[..], &["results.enc"], &table, &azure].concat();
    let names = ["results.enc", "results.manifest.json.enc"];
    let read = || names.map(|name| place.read(name));
    for _ in 0..2 {
        let finished = place.run(&args);
        let said = finished.stderr_text();
        assert!(
            !finished.status.success() && said.contains("cannot be removed"),
            "{said}"
        );
    }
    let results = read();
    // Results that others changed are nobody's of this job.
    let mut changed = results[0].clone();
    *changed.last_mut().unwrap() ^= 1;
    place.write("results.enc", &changed);
    let refusal = place.refused(&args);
    assert!(refusal.contains("exists already"), "{refusal}");
    place.write("results.enc", &results[0]);
    place.write("kept.sas", azure_container_sas("kept", "rcwd"));
    let finished = place.ok(&args);
    let said = finished.stderr_text();
    assert!(said.contains("its results are in place"), "{said}");
    assert!(
        finished.stdout_text().starts_with("150001 rows"),
        "{}",
        printed(&finished)
    );
    assert!(read() == results);
    // The checkpoint is gone, so now it is a job of its own.
    let refusal = place.refused(&args);
    assert!(refusal.contains("exists already"), "{refusal}");
}

#[test]
fn table_that_was_put_in_place_without_its_manifest_stays_so() {
    let place = place();
    let table = ["--results-format", "csv"];
    place.ok(&[&SCORE[..], &["whole.enc"], &table].concat());
    let args = [&SCORE[..], &["results.enc"], &table, &CHECKPOINTS].concat();
    let running = place.program(&args).start().unwrap();
    wait_for(&running, || place.join("checkpoints/state").exists());
    // Its name is taken meanwhile: the table is there, the manifest is not, as after a kill in between.
    place.write("results.manifest.json.enc", "another's");
    let finished = running.finished().unwrap();
    let said = finished.stderr_text();
    assert!(
        !finished.status.success() && said.contains("manifest"),
        "{said}"
    );
    let table = place.read("results.enc");
    let refusal = place.refused(&args);
    assert!(
        refusal.contains("manifest.json.enc exists already"),
        "{refusal}"
    );
    assert_eq!(place.read("results.manifest.json.enc"), b"another's");
    assert!(place.read("results.enc") == table);
    std::fs::remove_file(place.join("results.manifest.json.enc")).unwrap();
    let finished = place.ok(&args);
    assert!(
        finished.stderr_text().contains("Going on behind row"),
        "{}",
        printed(&finished)
    );
    for (whole, results) in [
        ("whole.enc", "results.enc"),
        ("whole.manifest.json.enc", "results.manifest.json.enc"),
    ] {
        assert!(
            opened(&place, whole) == opened(&place, results),
            "{results}"
        );
    }
    assert!(support::listing(&place.join("checkpoints")).is_empty());
}

#[test]
fn two_processes_mix_up_one_job() {
    let place = place();
    place.ok(&[&SCORE[..], &["whole.enc"]].concat());
    let args = [&SCORE[..], &["results.enc"], &CHECKPOINTS[..2]].concat();
    let older = place.program(&args).start().unwrap();
    // The older one has begun, and does not look again before it has something to store.
    wait_for(&older, || place.join("checkpoints/state").exists());
    send(&older, Signal::STOP);
    place.ok(&args);
    let results = place.read("results.enc");
    send(&older, Signal::CONT);
    let older = older.finished().unwrap();
    assert_eq!(older.status.code(), Some(1), "{}", printed(&older));
    let said = older.stderr_text();
    assert!(
        said.contains(
            "another process goes on with this job from the same checkpoint, or has ended it"
        ),
        "{said}"
    );
    assert!(place.read("results.enc") == results);
    assert!(opened(&place, "results.enc") == opened(&place, "whole.enc"));
    let left = place.listing();
    assert!(
        left.iter().all(|name| !name.ends_with(".partial")),
        "{left:?}"
    );
    assert!(support::listing(&place.join("checkpoints")).is_empty());
}

#[test]
fn rows_that_changed_within_a_plain_file_are_mixed_with_the_old_ones() {
    let place = place();
    let plain = [
        "score",
        "a.csv",
        "b.csv",
        "--results-to",
        "owner.pem.pub.json",
    ];
    let more = [
        "--results-kind",
        "all",
        "--results",
        "r.enc",
        "--checkpoint-key",
        "data.key",
    ];
    let args = [&plain[..], &more, &CHECKPOINTS].concat();
    let running = place.program(&args).start().unwrap();
    wait_for(&running, || {
        place.join("checkpoints").join(piece(1)).exists()
    });
    send(&running, Signal::KILL);
    assert_eq!(running.finished().unwrap().status.signal(), Some(9));
    let rows = place.read("a.csv");
    let mut changed = rows.clone();
    let middle = rows.len() / 2;
    let digit = rows[middle..].iter().position(u8::is_ascii_digit).unwrap();
    changed[middle + digit] ^= 1;
    place.write("a.csv", &changed);
    let refusal = place.run(&args);
    assert!(!refusal.status.success());
    assert!(
        refusal.stderr_text().contains("is of another job"),
        "{}",
        printed(&refusal)
    );
}

#[test]
fn file_of_a_server_that_tells_no_tag_is_taken_for_the_same() {
    let place = place();
    place.write("bad.csv", format!("{}x\n", support::HEADER));
    // Without a date all of the file counts; with one, its beginning and its end, and the date.
    for date in ["", "Last-Modified: Mon, 02 Nov 2026 01:00:00 GMT\r\n"] {
        let rows = transactions(4500).into_bytes();
        let middle = rows.len() / 2;
        let object = Arc::new(Mutex::new((rows, date.to_owned())));
        let shared = Arc::clone(&object);
        let server = WebServer::start(move |seen| {
            let (rows, date) = &*shared.lock().unwrap();
            let Step::Send(answer) = served(seen, rows, "x").remove(0) else {
                unreachable!("it answers at once");
            };
            let tag = b"ETag: x\r\n";
            let at = answer.windows(tag.len()).position(|there| there == tag);
            let Some(at) = at else {
                return vec![Step::Send(answer)];
            };
            let (before, behind) = (&answer[..at], &answer[at + tag.len()..]);
            vec![Step::Send([before, date.as_bytes(), behind].concat())]
        });
        let url = format!("{}/a.csv", server.url());
        let args = [
            "score",
            &url,
            "bad.csv",
            "--results-to",
            "owner.pem.pub.json",
        ];
        let key = ["--results", "r.enc", "--checkpoint-key", "data.key"];
        let args = [&args[..], &key, &CHECKPOINTS].concat();
        // The second file ends the job, and the first is in its checkpoint: this very file.
        for _ in 0..2 {
            let refused = place.run(&args);
            let said = refused.stderr_text();
            assert!(said.contains("row 1 (line 2)"), "{said}");
        }
        {
            let (rows, date) = &mut *object.lock().unwrap();
            let digit = rows[middle..].iter().position(u8::is_ascii_digit).unwrap();
            rows[middle + digit] ^= 1;
            *date = date.replace("01:00:00", "01:00:01");
        }
        let refused = place.run(&args);
        let said = refused.stderr_text();
        assert!(said.contains("is of another job"), "{date}: {said}");
        std::fs::remove_dir_all(place.join("checkpoints")).unwrap();
    }
}

#[test]
fn stopped_job_says_nothing_or_leaves_what_it_wrote() {
    let place = place();
    let args = [&SCORE[..], &["results.enc"], &CHECKPOINTS].concat();
    let running = place.program(&args).start().unwrap();
    wait_for(&running, || {
        place.join("checkpoints").join(piece(0)).exists()
    });
    let finished = running.terminate().unwrap();
    assert_eq!(finished.status.code(), Some(143), "{}", printed(&finished));
    let said = finished.stderr_text();
    assert!(
        said.contains("goes on from the last checkpoint in checkpoints"),
        "{said}"
    );
    let partial = |name: &String| name.ends_with(".partial");
    let mut left = place.listing();
    // The checkpoint that was being written is left to the process that goes on.
    left.retain(|name| !name.starts_with("checkpoints/"));
    assert!(!left.iter().any(partial), "{left:?}");
    place.ok(&args);
    let left = place.listing();
    assert!(!left.iter().any(partial), "{left:?}");
    // A limit of the size of files is an error of the write, and no end without a word.
    let scored = format!(
        "ulimit -f 100; exec {} {} limited.enc",
        support::binary().display(),
        SCORE.join(" ")
    );
    let finished = place.script(&scored).run().unwrap();
    assert_eq!(finished.status.code(), Some(1), "{}", printed(&finished));
    let said = finished.stderr_text();
    assert!(said.contains("File too large"), "{said}");
    assert!(place.listing().iter().all(|name| !name.contains("limited")));
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
