//! What `deploy/` hands to service managers and containers, held against the program and against systemd itself.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use strongroom_testkit::fixtures::{missing_peer, workspace_root};

use support::{Place, binary, strongroom};

fn read(name: &str) -> String {
    fs::read_to_string(workspace_root().join("deploy").join(name)).unwrap()
}

/// The program of a line of the unit, without the program's name.
fn unit_arguments<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap();
    line.split_whitespace().skip(1).collect()
}

/// The JSON list behind an instruction.
fn container_arguments(file: &str, instruction: &str) -> Vec<String> {
    let line = file
        .lines()
        .find(|line| line.starts_with(instruction))
        .unwrap();
    serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap()
}

#[test]
fn command_that_is_deployed_is_not_one_of_the_programs() {
    let unit = read("systemd/strongroom-broker.service");
    let file = read("container/Containerfile");
    let mut commands: Vec<Vec<String>> = ["ExecStart=", "ExecStartPre="]
        .map(|key| {
            unit_arguments(&unit, key)
                .into_iter()
                .map(str::to_owned)
                .collect()
        })
        .into();
    commands.push(container_arguments(&file, "CMD "));
    commands.push(container_arguments(&file, "HEALTHCHECK ")[1..].to_vec());
    assert_eq!(commands[0], commands[2]);
    for command in commands {
        let help = strongroom().args(&command).arg("--help").run().unwrap();
        assert!(
            help.expect_success().stdout_text().contains("Usage: "),
            "{command:?}"
        );
    }
}

#[test]
fn container_runs_as_root() {
    let file = read("container/Containerfile");
    let stage = file.rsplit("\nFROM ").next().unwrap();
    let user = stage
        .lines()
        .find_map(|line| line.strip_prefix("USER "))
        .unwrap();
    assert!(
        user.split(':').all(|id| id.parse::<u32>().unwrap() > 0),
        "{user}"
    );
}

#[test]
fn build_of_the_image_is_sent_what_it_does_not_need_or_lacks_what_it_needs() {
    let root = workspace_root();
    let list = fs::read_to_string(root.join(".containerignore")).unwrap();
    assert_eq!(
        list,
        fs::read_to_string(root.join(".dockerignore")).unwrap()
    );
    let rules: Vec<&str> = list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert_eq!(rules[0], "*", "what is not allowed is not sent");
    let (allowed, refused): (Vec<&str>, Vec<&str>) =
        rules[1..].iter().partition(|rule| rule.starts_with('!'));
    for needed in [
        "Cargo.toml",
        "Cargo.lock",
        "rust-toolchain.toml",
        "crates",
        "bench/broker-load",
    ] {
        assert!(allowed.contains(&format!("!{needed}").as_str()), "{needed}");
    }
    for rule in &allowed {
        let path = root.join(&rule[1..]);
        assert!(path.exists(), "{rule} allows nothing");
    }
    // The last rule decides, so what is refused stands after what is allowed.
    for never in ["**/target", "**/*.key", "**/*.sqlite*"] {
        assert!(refused.contains(&never), "{never}");
        let at = |rule: &str| rules.iter().position(|known| *known == rule);
        assert!(at(never) > at(allowed[allowed.len() - 1]), "{never}");
    }
}

/// The unit, with the program as it was built, in a folder that systemd looks at.
fn unit(place: &Place) -> Option<std::path::PathBuf> {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        missing_peer("no systemd-analyze here; ./check installs it");
        return None;
    }
    let unit = read("systemd/strongroom-broker.service");
    let unit = unit.replace("/usr/bin/strongroom", binary().to_str().unwrap());
    let path = place.join("strongroom-broker.service");
    fs::write(&path, unit).unwrap();
    Some(path)
}

fn analyze(args: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(args)
        .arg(unit)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn systemd_does_not_understand_the_unit() {
    let place = Place::new();
    let Some(unit) = unit(&place) else { return };
    let (good, said) = analyze(&["verify", "--man=no"], &unit);
    assert!(
        good && !said.contains("strongroom-broker.service"),
        "{said}"
    );
}

#[test]
fn unit_leaves_doors_open() {
    let place = Place::new();
    let Some(unit) = unit(&place) else { return };
    // In tenths: what systemd calls OK ends at 4.0.
    let (good, said) = analyze(
        &["security", "--offline=yes", "--threshold=16", "--no-pager"],
        &unit,
    );
    assert!(good, "{said}");
}
