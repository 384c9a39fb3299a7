//! `strongroom broker import` and what `strongroom resource` says of sources, against a running broker.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Place, document};

const SECRET: &str = "hunter2-0123456789";

fn names(list: &Value, member: &str) -> Vec<String> {
    let all = list.as_array().unwrap().iter();
    all.map(|one| one[member].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn import_stores_too_little_or_too_much_or_shows_it() {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    let (broker, url) = place.start_broker();
    let url = url.as_str();

    let store = place.join("trustee/repository");
    fs::create_dir_all(&store).unwrap();
    fs::write(store.join("default\\x2Ffraud\\x2Fkey"), SECRET).unwrap();
    fs::write(store.join("default\\x2Fk8s-secret\\x2Fkey"), SECRET).unwrap();
    fs::write(store.join("..\\x2F..\\x2Fetc"), SECRET).unwrap();
    fs::write(store.join("no\\x2Fname"), SECRET).unwrap();

    let import = |more: &[&str]| {
        let args = [&["--json", "broker", "import"], more, &["--broker", url]].concat();
        let finished = place.program(&args).run().unwrap();
        let (out, err) = (finished.stdout_text(), finished.stderr_text());
        assert!(!out.contains(SECRET) && !err.contains(SECRET), "{out}{err}");
        (finished.status.code().unwrap(), document(&finished))
    };
    let (code, rehearsed) = import(&["--from-localfs", "trustee", "--dry-run"]);
    let both = ["default/fraud/key", "default/k8s-secret/key"];
    assert_eq!(names(&rehearsed["stored"], "resource"), both);
    assert_eq!((code, &rehearsed["dry_run"]), (1, &json!(true)));
    let list = || document(&place.ok(&["--json", "resource", "list", "--broker", url]));
    assert_eq!(list()["resources"], json!([]));

    let (code, first) = import(&["--from-localfs", "trustee"]);
    assert_eq!(names(&first["stored"], "resource"), both);
    // One that is no resource's name is told; what the kubelet would hide is not.
    assert_eq!(
        (code, names(&first["skipped"], "name")),
        (1, vec!["no\\x2Fname".to_owned()])
    );
    let listed = list()["resources"].clone();
    assert_eq!(names(&listed, "path"), both);
    assert_eq!(names(&listed, "source"), ["store", "store"]);

    fs::remove_file(store.join("no\\x2Fname")).unwrap();
    let (code, again) = import(&["--from-localfs", "trustee"]);
    assert_eq!((code, &again["stored"]), (0, &json!([])));
    assert_eq!(names(&again["skipped"], "name"), both);
    let (_, replaced) = import(&["--from-localfs", "trustee", "--replace"]);
    assert_eq!(names(&replaced["stored"], "resource"), both);
    assert_eq!(list()["resources"][0]["version"], 2);

    let text = r#"{"a/b/c":"aHVudGVyMi0wMTIzNDU2Nzg5"}"#;
    fs::write(place.join("store.json"), text).unwrap();
    let args = [
        "broker",
        "import",
        "--from-localjson",
        "store.json",
        "--broker",
        url,
    ];
    let said = place.ok(&args).stdout_text();
    assert!(
        said.contains("stored       kbs:///a/b/c (18 bytes)"),
        "{said}"
    );
    assert!(
        said.contains("still holds these secrets in plaintext"),
        "{said}"
    );
    assert!(said.contains("shred -u 'store.json'"), "{said}");
    let record = document(&place.ok(&["--json", "audit", "--broker", url])).to_string();
    assert_eq!(record.matches("put resource").count(), 5, "{record}");
    broker.terminate().unwrap();
}

#[test]
fn mounted_folder_is_not_listed_or_is_hidden_without_a_word() {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    fs::create_dir_all(place.join("broker/mounted/db")).unwrap();
    fs::write(place.join("broker/mounted/db/key"), SECRET).unwrap();
    let config = fs::read_to_string(place.join("broker/broker.toml")).unwrap();
    let config = format!("{config}\n[sources]\nfolder = \"mounted\"\n");
    fs::write(place.join("broker/broker.toml"), config).unwrap();
    let (broker, url) = place.start_broker();
    let url = url.as_str();
    let list = || {
        place
            .ok(&["resource", "list", "--broker", url])
            .stdout_text()
    };
    let before = list();
    assert!(before.contains("kbs:///default/db/key"), "{before}");
    assert!(
        before.contains("from folder") && before.contains("mounted"),
        "{before}"
    );
    assert!(!before.contains(SECRET));

    fs::write(place.join("other"), "other").unwrap();
    let put = [
        "resource",
        "put",
        "default/db/key",
        "other",
        "--broker",
        url,
    ];
    let refused = place.program(&put).run().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = refused.stderr_text();
    assert!(said.contains("comes from folder"), "{said}");
    place.ok(&[&put[..], &["--shadow"]].concat());
    let after = list();
    assert!(
        after.contains("not used: another of this name goes before it"),
        "{after}"
    );
    broker.terminate().unwrap();
}
