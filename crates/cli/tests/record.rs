//! `strongroom audit verify`, `export` and `report` over a real broker's record and over copies of it that somebody changed.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use serde_json::Value;
use strongroom_testkit::process::Running;
use support::{Place, document, listing, printed};

const KEY: &str = "broker/audit.pub";

/// A broker that takes sample evidence, with a secret, and its URL.
fn broker(place: &Place) -> (Running, String) {
    let take = "--insecure-accept-sample-evidence";
    place.ok(&["broker", "init", "broker", take]);
    let (broker, url) = place.start_broker();
    place.write("secret", "s");
    put(place, &url, "default/fraud/key");
    (broker, url)
}

fn put(place: &Place, url: &str, path: &str) {
    place.ok(&["resource", "put", path, "secret", "--broker", url]);
}

/// What `audit verify` says of a copy: it must refuse it.
fn refused(place: &Place, args: &[&str]) -> String {
    let finished = place.run(&[&["audit", "verify", "--key", KEY], args].concat());
    assert_eq!(finished.status.code(), Some(1), "{}", printed(&finished));
    printed(&finished)
}

/// Copies a folder with what is in it.
fn copy(place: &Place, from: &str, to: &str) {
    for name in listing(&place.join(from)) {
        let (from, to) = (place.join(from).join(&name), place.join(to).join(&name));
        if from.is_file() {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }
}

/// The one bundle of entries in a copy of a short record.
fn bundle(place: &Place, folder: &str) -> std::path::PathBuf {
    let names = listing(&place.join(folder));
    let name = names
        .iter()
        .find(|name| name.contains("entries") && place.join(folder).join(name).is_file());
    place.join(folder).join(name.unwrap())
}

#[test]
fn copy_that_was_altered_cut_or_rewritten_verifies() {
    let place = Place::new();
    let (broker, url) = broker(&place);
    let export = |folder: &str| {
        let args = ["--json", "audit", "export", folder, "--broker", &url];
        let lines = ["--jsonl", "lines", "--key", KEY];
        document(&place.ok(&[&args[..], &lines].concat()))
    };
    let exported = export("whole");
    let verified = ["--json", "audit", "verify", "whole", "--key", KEY];
    let verified = document(&place.ok(&verified));
    assert_eq!(verified["holds"], true);
    assert_eq!(verified["entries"], exported["entries"]);
    // As JSON lines: each entry once, in order.
    let lines = String::from_utf8(place.read("lines")).unwrap();
    let numbers: Vec<u64> = lines
        .lines()
        .map(|line| {
            let entry: Value = serde_json::from_str(line).unwrap();
            entry["seq"].as_u64().unwrap()
        })
        .collect();
    let count = exported["entries"].as_u64().unwrap();
    assert!(count >= 2, "{exported}");
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());

    copy(&place, "whole", "altered");
    let path = bundle(&place, "altered");
    let text = fs::read(&path).unwrap();
    let at = text.windows(7).position(|part| part == b"allowed").unwrap();
    let mut changed = text.clone();
    changed[at..at + 7].copy_from_slice(b"ALLOWED");
    fs::write(&path, changed).unwrap();
    let said = refused(&place, &["altered"]);
    assert!(
        said.contains("entry") && said.contains("does not hold"),
        "{said}"
    );

    copy(&place, "whole", "cut");
    fs::write(bundle(&place, "cut"), &text[..text.len() / 2]).unwrap();
    refused(&place, &["cut"]);
    copy(&place, "whole", "missing");
    fs::remove_file(bundle(&place, "missing")).unwrap();
    refused(&place, &["missing"]);

    // Rewritten whole, under another key: it holds by that one, and not by the one that the auditor has.
    place.ok(&["broker", "init", "other"]);
    let (other, other_url) = start(&place, "other");
    let with = ["--dir", "other", "--broker", &other_url];
    let forged = ["audit", "export", "forged", "--key", "other/audit.pub"];
    place.ok(&[&forged[..], &with].concat());
    other.terminate().unwrap();
    let said = refused(&place, &["forged"]);
    assert!(said.contains("does not hold"), "{said}");

    // Another state of the same log: set back to an older store, then written on.
    broker.terminate().unwrap();
    copy(&place, "broker", "older");
    let (broker, url) = place.start_broker();
    put(&place, &url, "default/fraud/kept");
    let keep = ["audit", "verify", "--broker", &url, "--keep", "kept"];
    place.ok(&keep);
    broker.terminate().unwrap();
    fs::remove_dir_all(place.join("broker")).unwrap();
    copy(&place, "older", "broker");
    let (broker, url) = place.start_broker();
    let fewer = refused(&place, &["--broker", &url, "--since", "kept"]);
    assert!(
        fewer.contains("set back") || fewer.contains("rewritten"),
        "{fewer}"
    );
    for number in 0..4 {
        put(&place, &url, &format!("default/fraud/other{number}"));
    }
    let forked = refused(&place, &["--broker", &url, "--since", "kept"]);
    assert!(forked.contains("rewritten since"), "{forked}");
    place.ok(&["audit", "verify", "--broker", &url]);
    broker.terminate().unwrap();
}

/// Starts the broker of another folder.
fn start(place: &Place, folder: &str) -> (Running, String) {
    let listen = ["--listen", "127.0.0.1:0"];
    let broker = place
        .program(&[&["broker", "run", folder, "--json"][..], &listen].concat())
        .start()
        .unwrap();
    let line = broker.wait_for_line("\"ready\"").unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    (broker, ready["url"].as_str().unwrap().to_owned())
}

/// A guest with this init-data asks for the secret.
fn guest_asks(place: &Place, initdata: &str) -> bool {
    let guest = [
        "guest",
        "run",
        "--json",
        "--platform",
        "sample",
        "--initdata",
        initdata,
        "--listen",
        "127.0.0.1:0",
    ];
    let guest = place.program(&guest).start().unwrap();
    let ready = guest.wait_for_line("\"ready\"").unwrap();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let url = ready["url"].as_str().unwrap();
    let got = place.run(&["get", "kbs:///default/fraud/key", "--guest", url]);
    guest.terminate().unwrap();
    got.status.success()
}

#[test]
fn report_confuses_guests_or_leaves_out_who_could_read() {
    let place = Place::new();
    let (broker, url) = broker(&place);
    let cert = ["--broker", &url, "--broker-cert", "broker/tls.crt"];
    let values = [
        r#"launch_digest=["abcde"]"#,
        r#"svn="1""#,
        "major_version=1",
        "minimum_minor_version=4",
        "accept_development_assurance=true",
    ];
    let set = ["reference-value", "set", "--broker", &url];
    place.ok(&[&set[..], &values].concat());
    for name in ["one.toml", "two.toml"] {
        place.ok(&[&["initdata", "new", name], &cert[..]].concat());
    }
    let two = String::from_utf8(place.read("two.toml")).unwrap();
    place.write("two.toml", format!("{two}\n# another\n"));
    let digest = |name: &str| -> String {
        let digests = document(&place.ok(&["--json", "initdata", "digest", name]));
        digests["digest"].as_str().unwrap().to_owned()
    };
    let (one, two) = (digest("one.toml"), digest("two.toml"));
    assert_ne!(one, two);
    let allow = [
        "policy",
        "allow",
        "default/fraud/*",
        "--assurance",
        "development",
        "--broker",
        &url,
    ];
    place.ok(&[&allow[..], &["--initdata", "one.toml"]].concat());
    assert!(guest_asks(&place, "one.toml"));
    assert!(!guest_asks(&place, "two.toml"));
    place.ok(&[&allow[..], &["--initdata", "two.toml"]].concat());
    assert!(guest_asks(&place, "two.toml"));
    assert!(guest_asks(&place, "two.toml"));
    place.ok(&["audit", "explain", "--broker", &url]);

    let report = |from: &str, to: &str| {
        let args = [
            "audit", "report", "--from", from, "--to", to, "--broker", &url,
        ];
        place.ok(&args).stdout_text()
    };
    let text = report("2020-01-01", "2126-01-01");
    let part = |heading: &str| {
        let (_, rest) = text.split_once(&format!("## {heading}")).unwrap();
        rest.split("\n## ").next().unwrap().to_owned()
    };
    let released = part("Released: 3");
    let lines: Vec<&str> = released
        .lines()
        .filter(|line| line.contains("times to"))
        .collect();
    assert_eq!(lines.len(), 2, "{released}");
    for (count, digest) in [(1, &one), (2, &two)] {
        let line = lines.iter().find(|line| line.contains(digest)).unwrap();
        assert!(line.contains(&format!("{count} times")), "{line}");
        assert!(
            line.contains("sample") && line.contains("measurement"),
            "{line}"
        );
    }
    let ends = part("Who could read what, at the end");
    assert!(
        ends.contains("default/fraud/*") && ends.contains("version 2"),
        "{ends}"
    );
    let begins = part("Who could read what, at the beginning");
    assert!(begins.contains("Nobody"), "{begins}");
    assert!(
        part("Who looked at the record").contains("explain event"),
        "{text}"
    );
    // After the period: what was in force then holds at its beginning, and nothing was released in it.
    let later = report("2125-01-01", "2126-01-01");
    assert!(later.contains("## Released: 0"), "{later}");
    let (_, begins) = later.split_once("at the beginning").unwrap();
    assert!(
        begins.split("\n## ").next().unwrap().contains("version 2"),
        "{later}"
    );
    // Who deletes a secret does not delete that it was there.
    let path = "default/fraud/key";
    place.ok(&["resource", "delete", path, "--broker", &url]);
    let history = ["--json", "resource", "history", path, "--broker", &url];
    let history = document(&place.ok(&history));
    let versions = history["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 1, "{history}");
    assert_eq!(versions[0]["deleted_by"], "admin", "{history}");
    assert!(versions[0]["deleted_at"].as_u64() >= versions[0]["stored_at"].as_u64());
    broker.terminate().unwrap();
}
