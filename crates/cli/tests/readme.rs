//! Runs what the README says, as it is written: every command of its shell blocks, in one shell, in order.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

mod support;

use strongroom_testkit::fixtures::{peer, workspace_root};
use strongroom_testkit::process::Program;

use support::SERVERS;

#[test]
fn a_command_of_the_readme_does_not_work_as_written() {
    for program in ["curl", "openssl"] {
        if peer(program).is_none() {
            return;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let blocks = shell_blocks();
    assert!(
        blocks.len() >= 8,
        "only {} shell blocks found",
        blocks.len()
    );
    let mut script = SERVERS.to_owned();
    for block in &blocks {
        script.push_str(&translated(block));
    }
    // The mending that the README's reader types is the one that explain names.
    let mending = "strongroom reference-value set launch_digest='\"abcde\"'";
    assert!(blocks.iter().any(|block| block.contains(mending)));
    script.push_str(&format!(
        "grep -qF 'to mend it: {}' explained\n",
        mending.replace('\'', r"'\''")
    ));
    // What the README says of the statuses, and of the broker being stopped.
    script.push_str(
        r#"
[ "$(curl -s -o body -w '%{http_code}' http://127.0.0.1:8006/cdh/resource/default/fraud-dataset/dataset_key)" = 200 ]
strongroom resource delete default/fraud-dataset/dataset_key
[ "$(curl -s -o body -w '%{http_code}' http://127.0.0.1:8006/cdh/resource/default/fraud-dataset/dataset_key)" = 404 ]
kill "${pids[0]}"; wait "${pids[0]}" || true
[ "$(curl -s -o body -w '%{http_code}' http://127.0.0.1:8006/cdh/resource/default/fraud-dataset/dataset_key)" = 502 ]
grep -q 127.0.0.1:8080 body
echo "the README holds"
"#,
    );
    let bin = binary();
    let path = format!(
        "{}:{}",
        bin.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let finished = shell(&script)
        .folder(folder.path())
        .env("PATH", path)
        .limit(Duration::from_secs(240))
        .run()
        .unwrap();
    let said = finished.stdout_text();
    assert!(
        finished.status.success(),
        "{script}\n--- stdout\n{said}\n--- stderr\n{}",
        finished.stderr_text()
    );
    assert!(said.contains("the same key"), "{said}");
    // Denied, mended, the same guest gets the key, and then it is denied for good.
    let places: Vec<usize> = [" 403\n", "to mend it: ", "the same key", " 404\n"]
        .iter()
        .map(|text| {
            said.find(text)
                .unwrap_or_else(|| panic!("{text:?} is not in {said}"))
        })
        .collect();
    assert!(places.is_sorted(), "{said}");
    assert_eq!(said.matches(" 403\n").count(), 2, "{said}");
    assert!(said.matches("The record holds").count() >= 2, "{said}");
    assert!(said.contains("\"kind\":\"summary\""), "{said}");
    assert!(said.trim_end().ends_with("the README holds"), "{said}");
}

/// A shell whose loopback is its own where the system allows that: the README's ports may be taken on this one's.
fn shell(script: &str) -> Program {
    let own_network = ["--map-root-user", "--net", "bash", "-c"];
    let probe = Program::new("unshare")
        .args(own_network)
        .arg("ip link set lo up")
        .run();
    if probe.is_ok_and(|probe| probe.status.success()) {
        return Program::new("unshare")
            .args(own_network)
            .arg(format!("ip link set lo up\n{script}"));
    }
    Program::new("bash").args(["-c", script])
}

/// The shell blocks, without those that build or check the project: CI runs these by themselves.
fn shell_blocks() -> Vec<String> {
    let blocks = support::shell_blocks("README.md").into_iter();
    let by_ci = ["cargo run --release -- demo", "./check", "export PATH="];
    let (named, others): (Vec<String>, Vec<String>) = blocks.partition(|block| {
        by_ci
            .iter()
            .any(|line| block.trim_start().starts_with(line))
    });
    assert_eq!(
        named.len(),
        by_ci.len(),
        "the README no longer names the commands that CI runs"
    );
    others
}

/// Servers go to the background, as the README's reader has them in other terminals.
fn translated(block: &str) -> String {
    let mut out = String::new();
    for line in block.lines() {
        match line {
            "strongroom broker run" => out.push_str("server broker.log strongroom broker run"),
            _ if line.starts_with("strongroom guest run") => {
                out.push_str("server guest.log ");
                out.push_str(line);
            }
            _ if line.starts_with("strongroom audit explain") => {
                out.push_str("strongroom audit explain | tee -a explained");
            }
            other => out.push_str(other),
        }
        out.push('\n');
    }
    out
}

fn binary() -> PathBuf {
    let named = std::env::var_os("STRONGROOM_BIN")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_strongroom").into());
    let path = workspace_root().join(Path::new(&named));
    assert_eq!(path.file_name().unwrap(), "strongroom");
    path
}
