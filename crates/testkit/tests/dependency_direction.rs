//! The arrows between the crates, as `docs/decisions/0001-house.md` draws them, and what a core
//! must never pull in. Read from `cargo metadata`, so that no manifest can say otherwise.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use strongroom_testkit::fixtures::workspace_root;

/// Each crate of the workspace, and the ones of ours that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    // The engine that policies of the broker and of the guest are asked by.
    ("rego", &[]),
    ("cipherfile", &["wire"]),
    ("verifier", &["wire", "rego"]),
    ("client", &["wire"]),
    // Devices of a machine: no core, and below both the broker and what attests.
    ("tpm", &[]),
    ("attester", &["wire", "tpm"]),
    ("broker", &["wire", "verifier", "tpm"]),
    ("guest", &["wire", "rego", "client", "attester"]),
    // Arithmetic on columns of numbers, and nothing of ours below it.
    ("kernel", &[]),
    ("scoring", &["wire", "cipherfile", "client", "kernel"]),
    (
        "cli",
        &[
            "wire",
            "cipherfile",
            "verifier",
            "client",
            "attester",
            "broker",
            "guest",
            "scoring",
            "tpm",
        ],
    ),
    // A tool beside the crates: it speaks to the broker over the wire, as a guest and an admin do.
    ("broker-load", &["wire", "client", "attester"]),
    (
        "testkit",
        &[
            "wire",
            "cipherfile",
            "verifier",
            "client",
            "attester",
            "broker",
            "guest",
            "scoring",
            "tpm",
        ],
    ),
];

/// Crates that run nowhere.
const CORES: &[&str] = &["wire", "rego", "cipherfile", "verifier"];

/// What brings a runtime, a network or a second crypto library. No core reaches them, by any way.
const NOT_IN_A_CORE: &[&str] = &[
    "axum",
    "hyper",
    "mio",
    "openssl",
    "openssl-sys",
    "reqwest",
    "ring",
    "rusqlite",
    "socket2",
    "tokio",
    "tracing",
];

/// May be raised, in a commit of its own that says what came in and why it is worth it.
const MOST_LOCKED_PACKAGES: usize = 487;

#[test]
fn an_arrow_that_is_not_in_the_design() {
    let graph = Graph::of_the_workspace();
    let allowed: BTreeMap<&str, BTreeSet<&str>> = ARROWS
        .iter()
        .map(|(from, to)| (*from, to.iter().copied().collect()))
        .collect();
    let mut wrong = Vec::new();
    for name in &graph.members {
        let Some(may_use) = allowed.get(short(name)) else {
            wrong.push(format!("{name} is not in the design"));
            continue;
        };
        for used in graph.normal_dependencies(name) {
            if graph.members.contains(used) && !may_use.contains(short(used)) {
                wrong.push(format!("{name} -> {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        graph.members.len(),
        ARROWS.len(),
        "the design names a crate that is not there"
    );
}

#[test]
fn the_testkit_in_the_program() {
    let graph = Graph::of_the_workspace();
    for name in graph.members.iter().filter(|name| short(name) != "testkit") {
        let reached = graph.reached_from(name);
        assert!(
            !reached.contains("strongroom-testkit"),
            "{name} reaches the testkit outside its tests"
        );
    }
}

#[test]
fn a_runtime_or_a_network_under_a_core() {
    for core in CORES {
        let name = format!("strongroom-{core}");
        let compiled = compiled_with(&name);
        assert!(
            compiled.contains("serde_json"),
            "{name}: the tree was not read"
        );
        let wrong: Vec<&&str> = NOT_IN_A_CORE
            .iter()
            .filter(|name| compiled.contains(**name))
            .collect();
        assert!(wrong.is_empty(), "{name} reaches {wrong:?}");
    }
}

#[test]
fn broker_and_guest_knowing_each_other() {
    let graph = Graph::of_the_workspace();
    for (from, to) in [
        ("strongroom-broker", "strongroom-guest"),
        ("strongroom-guest", "strongroom-broker"),
    ] {
        let reached = graph.reached_from(from);
        assert!(!reached.contains(to), "{from} reaches {to}");
    }
}

#[test]
fn a_lock_file_that_grew_past_its_ceiling() {
    let lock = std::fs::read_to_string(workspace_root().join("Cargo.lock")).unwrap();
    let packages = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(packages > ARROWS.len(), "the lock file was not read");
    assert!(
        packages <= MOST_LOCKED_PACKAGES,
        "{packages} packages, at most {MOST_LOCKED_PACKAGES}"
    );
}

/// What a crate's normal build compiles. `cargo metadata` also lists what a feature of a dependency only names, as
/// rustls-webpki's does ring; the tree does not.
fn compiled_with(name: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--package", name, "--edges", "normal"])
        .args(["--prefix", "none", "--target", "all"])
        .current_dir(workspace_root())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree: {complaint}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

/// What each crate uses in a normal build on the systems that the project is built for.
struct Graph {
    members: BTreeSet<String>,
    /// Name to names. Two versions of one crate count as one.
    normal: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn of_the_workspace() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(workspace_root())
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo metadata: {complaint}");
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();

        let names: BTreeMap<&str, &str> = array(&metadata["packages"])
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let members = array(&metadata["workspace_members"])
            .map(|id| names[text(id)].to_owned())
            .collect();
        let mut normal: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in array(&metadata["resolve"]["nodes"]) {
            let uses = normal.entry(names[text(&node["id"])].to_owned());
            let uses = uses.or_default();
            for dependency in array(&node["deps"]) {
                let in_a_normal_build =
                    array(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null());
                if in_a_normal_build {
                    uses.insert(names[text(&dependency["pkg"])].to_owned());
                }
            }
        }
        Self { members, normal }
    }

    fn normal_dependencies(&self, name: &str) -> impl Iterator<Item = &String> {
        self.normal.get(name).into_iter().flatten()
    }

    fn reached_from<'a>(&'a self, name: &'a str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut left = vec![name];
        while let Some(name) = left.pop() {
            for used in self.normal_dependencies(name) {
                if reached.insert(used.as_str()) {
                    left.push(used);
                }
            }
        }
        reached
    }
}

fn short(name: &str) -> &str {
    name.trim_start_matches("strongroom-")
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
