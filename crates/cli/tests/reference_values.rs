//! `strongroom reference-value` at a broker: what a file sets is listed, and what nobody set is named.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{Place, document};

#[test]
fn value_that_was_set_is_not_listed() {
    let place = Place::new();
    place.ok(&["broker", "init", "broker"]);
    let (broker, url) = place.start_broker();
    let url = url.as_str();
    let admin = |args: &[&str]| {
        let args = [&["--json", "reference-value"], args, &["--broker", url]].concat();
        document(&place.ok(&args))
    };
    let empty = admin(&["list"]);
    assert_eq!(empty["reference_values"], json!([]));
    let asked = |list: &Value, platform: &str, name: &str| {
        let names = list["unregistered"][platform].as_array();
        names.is_some_and(|names| names.contains(&json!(name)))
    };
    assert!(asked(&empty, "snp", "snp_launch_measurement"), "{empty}");
    assert!(asked(&empty, "tdx", "rtmr_1"), "{empty}");

    let initdata = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\nx = \"y\"\n";
    place.write("initdata.toml", initdata);
    place.ok(&[
        "reference-value",
        "measure",
        "--initdata",
        "initdata.toml",
        "--output",
        "values.json",
    ]);
    admin(&["set", "--file", "values.json", "snp_launch_measurement=ab"]);
    let list = admin(&["list"]);
    let written: Value = serde_json::from_slice(&place.read("values.json")).unwrap();
    let listed = list["reference_values"].as_array().unwrap();
    let value = |name: &str| {
        let one = listed.iter().find(|one| one["name"] == name);
        one.unwrap_or_else(|| panic!("{name}: {list}"))["value"].clone()
    };
    assert_eq!(listed.len(), 4);
    assert_eq!(value("snp_host_data"), written["snp_host_data"]);
    assert_eq!(value("snp_launch_measurement"), json!(["ab"]));
    assert!(listed.iter().all(|one| one["expires"].is_u64()), "{list}");
    assert!(!asked(&list, "snp", "snp_launch_measurement"), "{list}");
    let text = place
        .ok(&["reference-value", "list", "--broker", url])
        .stdout_text();
    assert!(
        text.contains("snp_launch_measurement = [\"ab\"]\n    until 20"),
        "{text}"
    );
    assert!(text.contains("  tdx "), "{text}");
    broker.terminate().unwrap();
}
