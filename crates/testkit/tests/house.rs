//! Rules of the house that no compiler knows: cores turn on what keeps them pure, and documents
//! name only what is there.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use strongroom_testkit::fixtures::workspace_root;

/// The crates and modules that run nowhere.
const CORES: &[&str] = &[
    "crates/cipherfile/src/lib.rs",
    "crates/client/src/handshake.rs",
    "crates/client/src/seal.rs",
    "crates/client/src/session.rs",
    "crates/rego/src/lib.rs",
    "crates/verifier/src/lib.rs",
    "crates/wire/src/lib.rs",
];

/// What each of them says, so that clippy refuses the calls that `clippy.toml` lists.
const PURE: &str =
    "#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_macros))]";

#[test]
fn a_core_that_may_read_the_clock() {
    for core in CORES {
        let text = fs::read_to_string(workspace_root().join(core)).unwrap();
        assert!(text.lines().any(|line| line == PURE), "{core} lacks {PURE}");
    }
}

#[test]
fn a_document_that_names_a_file_which_is_not_there() {
    let root = workspace_root();
    let files = files_below(&root);
    let mut documents: Vec<PathBuf> = [
        "ARCHITECTURE.md",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ]
    .map(|name| root.join(name))
    .to_vec();
    documents.extend(
        files
            .iter()
            .filter(|file| file.starts_with("docs/") && file.ends_with(".md"))
            .map(|file| root.join(file)),
    );
    let mut named = 0;
    let mut wrong = Vec::new();
    for document in documents {
        let Ok(text) = fs::read_to_string(&document) else {
            wrong.push(format!("{} is missing", document.display()));
            continue;
        };
        let folder = document.parent().unwrap().strip_prefix(&root).unwrap();
        let here = document.strip_prefix(&root).unwrap().display();
        for path in paths_named_in(&text, folder, &files) {
            named += 1;
            if !is_there(&path, &files) {
                wrong.push(format!("{here} names {path}"));
            }
        }
    }
    assert!(named > 0, "no document names a file: the search is broken");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_decision_that_the_index_forgot() {
    let folder = workspace_root().join("docs/decisions");
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "README.md" || index.contains(&format!("]({name})")),
            "docs/decisions/README.md does not list {name}"
        );
    }
}

#[test]
fn the_search_for_paths_knows_a_path_when_it_sees_one() {
    let files: BTreeSet<String> = ["crates/wire/src/jwe.rs", "docs/decisions/0001-house.md"]
        .map(str::to_owned)
        .into();
    let text = "See [why](0001-house.md) and [the web](https://example.com/x.md), `jwe.rs`, \
                `crates/{wire,gone}/src/jwe.rs`, `/kbs/v0/auth`, `repo/type/tag`, `a_file.rs:12`, \
                `crates/<crate>/tests/` and\n```\ncrates/wire/src/missing.rs then `odd\n```\n`tail.rs`";
    let found = paths_named_in(text, Path::new("docs/decisions"), &files);
    let missing: Vec<&str> = found
        .iter()
        .filter(|path| !is_there(path, &files))
        .map(String::as_str)
        .collect();
    assert_eq!(found.len(), 7, "{found:?}");
    assert_eq!(
        missing,
        [
            "crates/gone/src/jwe.rs",
            "a_file.rs",
            "crates/wire/src/missing.rs",
            "tail.rs"
        ]
    );
}

/// Returns the paths that a document names: the targets of its relative links, and each word in
/// code that begins with a folder of the root or ends with `.rs`.
fn paths_named_in(text: &str, folder: &Path, files: &BTreeSet<String>) -> Vec<String> {
    let top: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| Some(file.split_once('/')?.0))
        .collect();
    let mut paths = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        let code = if in_block {
            vec![line]
        } else {
            paths.extend(link_targets(line).map(|target| joined(folder, target)));
            line.split('`').skip(1).step_by(2).collect()
        };
        for word in code.into_iter().flat_map(str::split_whitespace) {
            let word = word.trim_end_matches(['.', ',', ';', ':', ')', '"', '\'']);
            let word = word.trim_start_matches(['(', '"', '\'']);
            let word = word.strip_prefix("./").unwrap_or(word);
            // `file.rs:12` names a line of file.rs.
            let word = match word.rsplit_once(':') {
                Some((file, line)) if line.bytes().all(|byte| byte.is_ascii_digit()) => file,
                _ => word,
            };
            let in_the_tree = word
                .split_once('/')
                .is_some_and(|(first, _)| top.contains(first));
            let absolute = word.starts_with(['/', '.']) && !in_the_tree;
            let placeholder = word.contains(['<', '*', '$', '=', '…']);
            if (in_the_tree || word.ends_with(".rs")) && !absolute && !placeholder {
                paths.extend(braces_expanded(word));
            }
        }
    }
    paths
}

fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.split('#').next().unwrap())
        .filter(|target| !target.is_empty() && !target.contains(':'))
}

fn joined(folder: &Path, target: &str) -> String {
    let mut parts: Vec<&str> = folder.iter().map(|part| part.to_str().unwrap()).collect();
    for part in target.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// `a/{b,c}.rs` is `a/b.rs` and `a/c.rs`.
fn braces_expanded(word: &str) -> Vec<String> {
    let Some((before, rest)) = word.split_once('{') else {
        return vec![word.to_owned()];
    };
    let Some((inner, after)) = rest.split_once('}') else {
        return vec![word.to_owned()];
    };
    inner
        .split(',')
        .flat_map(|part| braces_expanded(&format!("{before}{part}{after}")))
        .collect()
}

/// A path is a file, a folder, or the end of a file's path (`jwe.rs` for `crates/wire/src/jwe.rs`).
fn is_there(path: &str, files: &BTreeSet<String>) -> bool {
    let path = path.trim_end_matches('/');
    files.contains(path)
        || files.iter().any(|file| {
            file.starts_with(&format!("{path}/")) || file.ends_with(&format!("/{path}"))
        })
}

/// Returns the files of the checkout, relative to its root, without what builds leave behind.
fn files_below(root: &Path) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            if [".git", ".peers", "target"]
                .iter()
                .any(|skip| name == *skip)
            {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else {
                let path = entry.path();
                let path = path.strip_prefix(root).unwrap();
                files.insert(path.to_str().unwrap().to_owned());
            }
        }
    }
    files
}
