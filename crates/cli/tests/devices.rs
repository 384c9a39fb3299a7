//! What the program says of the machine that it runs on.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::strongroom;

/// Whatever this machine is: every place is told, in upstream's order, and the exit code is the answer.
#[test]
fn platform_is_explained_or_its_absence_is() {
    let finished = strongroom().args(["attest", "--explain", "--json"]).run();
    let finished = finished.unwrap();
    let told: Value = serde_json::from_slice(&finished.stdout).unwrap();
    let probes = told["probes"].as_array().unwrap();
    let mut order: Vec<&str> = probes
        .iter()
        .map(|probe| probe["platform"].as_str().unwrap())
        .collect();
    order.dedup();
    assert_eq!(order[..2], ["tdx", "sgx"]);
    assert!(
        order.contains(&"snp") && order.last() == Some(&"tpm"),
        "{order:?}"
    );
    let found: Vec<&Value> = probes
        .iter()
        .filter(|probe| probe["outcome"] == "found")
        .collect();
    match told["platform"].as_str() {
        None => {
            assert_eq!(finished.status.code(), Some(1));
            assert!(found.is_empty());
        }
        Some(platform) => {
            assert_eq!(finished.status.code(), Some(0));
            assert_eq!(found[0]["platform"], platform);
            assert_ne!(platform, "sample");
        }
    }
    let told = strongroom().args(["attest", "--explain"]).run().unwrap();
    let told = told.stdout_text();
    for part in [
        "/sys/kernel/config/tsm/report",
        "/dev/sev-guest",
        "first that is found wins",
    ] {
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn named_platform_is_said_to_have_been_named() {
    let finished = strongroom()
        .args(["attest", "--platform", "sample", "--explain", "--json"])
        .run()
        .unwrap()
        .expect_success();
    let told: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert_eq!(told["platform"], "sample");
    assert_eq!(told["named"], "sample");
    assert_eq!(told["runtime_registers"], false);
    assert_eq!(told["initdata"]["register"], "no register");
}

#[test]
fn hardware_that_was_named_and_is_not_there_is_no_sample() {
    let finished = strongroom()
        .args([
            "attest",
            "--platform",
            "sgx",
            "--broker",
            "http://127.0.0.1:1",
        ])
        .run()
        .unwrap();
    assert_ne!(finished.status.code(), Some(0));
    let said = finished.stderr_text();
    assert!(
        said.contains("platform sgx was named, and this machine is none"),
        "{said}"
    );
}
