//! What `deploy/` hands to service managers and containers, held against the program and against systemd itself.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use strongroom_testkit::fixtures::workspace_root;

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

/// The unit, with the program as it was built, in a folder that systemd looks at.
fn unit(place: &Place) -> Option<std::path::PathBuf> {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("SKIPPED: systemd-analyze is not installed here");
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
