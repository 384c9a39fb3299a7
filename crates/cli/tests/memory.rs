//! Memory stays flat: what a larger file adds to the peak is nothing, whatever its size.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use strongroom_testkit::fixtures::peer;
use strongroom_testkit::process::Program;

/// Prints the child's peak resident set in KiB, as the kernel accounts it.
const MEASURE: &str = "import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

#[test]
fn memory_grows_with_the_file() {
    if peer("python3").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let strongroom = std::env::var_os("STRONGROOM_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_strongroom").into());
    let run = |arguments: &[&str]| {
        Program::new(&strongroom)
            .args(arguments)
            .folder(folder.path())
            .limit(Duration::from_secs(120))
            .run()
            .unwrap()
            .expect_success()
    };
    drop(run(&["keygen", "key"]));
    drop(run(&["keygen", "owner", "--kind", "recipient"]));
    let peak = |rows: &str| -> u64 {
        let (file, results) = (format!("{rows}.csv.enc"), format!("{rows}.results.enc"));
        drop(run(&[
            "generate", "--rows", rows, "--output", &file, "--key", "key",
        ]));
        let score = [
            "score",
            &file,
            "--key",
            "key",
            "--results",
            &results,
            "--results-to",
            "owner.pub.json",
        ];
        let measured = Program::new("python3")
            .args(["-c", MEASURE])
            .arg(&strongroom)
            .args(score)
            .folder(folder.path())
            .limit(Duration::from_secs(120))
            .run()
            .unwrap()
            .expect_success();
        measured.stdout_text().trim().parse().unwrap()
    };
    let (small, large) = (peak("20000"), peak("1000000"));
    assert!(
        large < small + 8 * 1024,
        "20,000 rows take {small} KiB, 1,000,000 rows {large} KiB"
    );
}
