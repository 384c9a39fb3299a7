//! `strongroom verify evidence`: which evidence passes, which step says no, and what a skip is worth.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use strongroom_attester::development::{DevelopmentRoot, sgx, snp, tdx};
use strongroom_testkit::fixtures::fixture;
use support::{Place, document, printed};

const NOW: u64 = 1_800_000_000;

/// A genuine Genoa machine's evidence, with the time at which its certificate was good.
const GENOA: &str = "trustee/attestation-service/tests/e2e/evidence.json";
const GENOA_AT: &str = "2025-11-01T00:00:00Z";

#[test]
fn evidence_of_real_hardware_is_not_verified() {
    let Some((place, report_data)) = genoa(|_| {}) else {
        return;
    };
    let finished = place.ok(&[
        "verify",
        "evidence",
        "evidence.json",
        "--at",
        GENOA_AT,
        "--report-data",
        &report_data,
        "--no-initdata",
        "--allow-skipped",
        "SnpRevocation,InitData",
    ]);
    let said = finished.stdout_text();
    assert!(said.ends_with("\nVERIFIED\n"), "{said}");
    assert!(
        said.contains("platform snp, as of 2025-11-01T00:00:00Z"),
        "{said}"
    );
    assert!(
        said.contains(" 1  PASS     the evidence has its platform's form"),
        "{said}"
    );
    assert!(said.contains("[56860, 7.3, SIGNATURE]"), "{said}");
}

#[test]
fn skip_passes_unless_it_is_named() {
    let Some((place, report_data)) = genoa(|_| {}) else {
        return;
    };
    let base = ["verify", "evidence", "evidence.json", "--at", GENOA_AT];
    let finished = place.run(&base);
    assert_eq!(finished.status.code(), Some(1));
    let said = finished.stdout_text();
    let last = said.trim_end().lines().last().unwrap();
    assert_eq!(
        last,
        "NOT VERIFIED: skipped SnpRevocation (--collateral DIR), ReportData (--report-data HEX), InitData (--initdata FILE or --no-initdata)"
    );
    assert!(said.contains("DIR/amd/genoa/crl.der"), "{said}");
    assert!(
        said.contains("strongroom broker collateral fetch"),
        "{said}"
    );
    // One that is not named still counts.
    let args = [&base[..], &["--allow-skipped", "SnpRevocation,InitData"]].concat();
    let finished = place.run(&args);
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.stdout_text().contains("skipped ReportData"));
    let args = [&args[..], &["--report-data", &report_data]].concat();
    place.ok(&args);
}

#[test]
fn changed_evidence_of_real_hardware_fails_at_another_check() {
    for (member, check) in [
        ("measurement", "SnpSignature"),
        ("host_data", "SnpSignature"),
        ("chip_id", "SnpChipId"),
    ] {
        let Some((place, _)) = genoa(|report| {
            let byte = report[member][3].as_u64().unwrap();
            report[member][3] = json!(byte ^ 1);
        }) else {
            return;
        };
        assert_eq!(failing(&place, &["--at", GENOA_AT]), check, "{member}");
    }
    let Some((place, report_data)) = genoa(|_| {}) else {
        return;
    };
    let changed = format!("{}00", &report_data[..126]);
    let at = ["--at", GENOA_AT];
    assert_eq!(
        failing(&place, &[&at[..], &["--report-data", &changed]].concat()),
        "ReportData"
    );
    assert_eq!(
        failing(&place, &["--at", "2050-01-01T00:00:00Z"]),
        "SnpChain"
    );
    // The wrong platform.
    assert_eq!(
        failing(&place, &[&at[..], &["--tee", "tdx"]].concat()),
        "Structure"
    );
}

#[test]
fn development_evidence_is_verified_as_hardware() {
    let place = Place::new();
    let root = DevelopmentRoot::open_or_create(&place.join("root"), NOW).unwrap();
    place.write(
        "initdata.toml",
        "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\nx = \"y\"\n",
    );
    let digest = document(&place.ok(&["--json", "initdata", "digest", "initdata.toml"]));
    let digest = hex::decode(digest["digest"].as_str().unwrap()).unwrap();
    let evidence = snp::Forge::new(&root)
        .with_report_data(b"challenge")
        .with_initdata(&digest)
        .evidence_json()
        .unwrap();
    place.write("evidence.json", evidence);
    place.write("challenge", b"challenge");
    let at = (NOW + 60).to_string();
    let args = [
        "verify",
        "evidence",
        "evidence.json",
        "--at",
        &at,
        "--report-data",
        "@challenge",
        "--initdata",
        "initdata.toml",
        "--development-root",
        "root",
    ];
    let said = place.ok(&args).stdout_text();
    assert!(said.ends_with("\nVERIFIED (DEVELOPMENT)\n"), "{said}");
    assert!(!said.contains("SKIPPED"), "{said}");
    let json = document(&place.ok(&[&["--json"], &args[..]].concat()));
    assert_eq!(json["verdict"], "verified");
    assert_eq!(json["assurance"], "development");
    // The root's certificate alone serves too, and its collateral is then wanting.
    let by_certificate = args.map(|arg| if arg == "root" { "root/root.pem" } else { arg });
    let said = printed(&place.run(&by_certificate));
    assert!(
        said.contains("skipped SnpRevocation (--collateral DIR)"),
        "{said}"
    );
    place.ok(&[&by_certificate[..], &["--collateral", "root/collateral"]].concat());
    // Without the root's name it is nothing.
    assert_eq!(failing(&place, &["--at", &at]), "SnpChain");
}

#[test]
fn quote_without_its_collateral_is_verified() {
    let place = Place::new();
    let root = DevelopmentRoot::open_or_create(&place.join("root"), NOW).unwrap();
    let at = (NOW + 60).to_string();
    for (quote, tee) in [
        (tdx::Forge::new(&root).quote_bytes().unwrap(), "tdx"),
        (sgx::Forge::new(&root).quote_bytes().unwrap(), "sgx"),
    ] {
        place.write("quote.dat", quote);
        let args = [
            "verify",
            "evidence",
            "quote.dat",
            "--at",
            &at,
            "--development-root",
        ];
        let finished = place.run(&[&args[..], &["root/root.pem"]].concat());
        assert_eq!(finished.status.code(), Some(1));
        let said = finished.stdout_text();
        assert!(said.contains(&format!("platform {tee}")), "{said}");
        assert!(
            said.contains(" is missing: it belongs to DIR/intel/"),
            "{said}"
        );
        assert!(
            said.contains("strongroom broker collateral fetch"),
            "{said}"
        );
        let args = [&["--json"], &args[..], &["root"]].concat();
        let json = document(&place.run(&args));
        assert_eq!(json["verdict"], "incomplete", "{json}");
        assert_eq!(json["missing_collateral"], json!([]));
        assert_eq!(json["error"], Value::Null);
    }
}

#[test]
fn sample_evidence_is_more_than_development() {
    let place = Place::new();
    place.write("evidence.json", r#"{"svn":"1","report_data":"YWJj"}"#);
    let args = [
        "verify",
        "evidence",
        "evidence.json",
        "--report-data",
        "616263",
    ];
    let args = [&args[..], &["--no-initdata", "--allow-skipped", "InitData"]].concat();
    let said = place.ok(&args).stdout_text();
    assert!(said.ends_with("\nVERIFIED (DEVELOPMENT)\n"), "{said}");
}

#[test]
fn question_that_cannot_be_answered_is() {
    let place = Place::new();
    place.write("none.json", "{}");
    let said = place.refused(&["verify", "evidence", "none.json"]);
    assert!(said.contains("--tee"), "{said}");
    place.write("evidence.json", r#"{"svn":"1","report_data":"YWJj"}"#);
    for (wrong, why) in [
        (["--report-data", "6162636"], "bytes in hex"),
        (["--at", "yesterday"], "seconds since 1970"),
        (["--allow-skipped", "Everything"], "no check"),
        (["--tee", "toaster"], "toaster"),
    ] {
        let args = [&["verify", "evidence", "evidence.json"], &wrong[..]].concat();
        let finished = place.run(&args);
        assert_eq!(finished.status.code(), Some(2), "{wrong:?}");
        let said = printed(&finished);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn drift_between_two_evidences_goes_unnoticed() {
    let place = Place::new();
    let root = DevelopmentRoot::open_or_create(&place.join("root"), NOW).unwrap();
    let mut forge = snp::Forge::new(&root).with_report_data(b"a");
    place.write("before.json", forge.evidence_json().unwrap());
    forge.report.measurement[0] ^= 1;
    place.write("after.json", forge.evidence_json().unwrap());
    let at = (NOW + 60).to_string();
    let args = [
        "--json",
        "reference-value",
        "diff",
        "before.json",
        "after.json",
        "--at",
        &at,
    ];
    let args = [&args[..], &["--development-root", "root"]].concat();
    let drifts = document(&place.ok(&args));
    assert_eq!(drifts["drifts"].as_array().unwrap().len(), 1, "{drifts}");
    assert_eq!(drifts["drifts"][0]["claim"], "snp.measurement");
    assert_eq!(
        drifts["drifts"][0]["reference_values"],
        json!(["snp_launch_measurement"])
    );
    let same: Vec<&str> = args
        .iter()
        .map(|arg| arg.replace("after", "before"))
        .map(|arg| &*arg.leak())
        .collect();
    assert_eq!(document(&place.ok(&same))["drifts"], json!([]));
    // Evidence that does not verify claims nothing.
    let said = place.refused(&[
        "reference-value",
        "diff",
        "before.json",
        "after.json",
        "--at",
        &at,
    ]);
    assert!(said.contains("does not verify"), "{said}");
}

/// A place with the evidence of a real machine, changed, and its report data.
fn genoa(change: impl FnOnce(&mut Value)) -> Option<(Place, String)> {
    let file = fixture(GENOA)?;
    let mut evidence: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let report = &mut evidence["attestation_report"];
    change(report);
    let bytes: Vec<u8> = serde_json::from_value(report["report_data"].clone()).unwrap();
    let place = Place::new();
    place.write("evidence.json", evidence.to_string());
    Some((place, hex::encode(bytes)))
}

/// The name of the one check that fails.
#[track_caller]
fn failing(place: &Place, args: &[&str]) -> String {
    let base = ["--json", "verify", "evidence", "evidence.json"];
    let finished = place.run(&[&base[..], args].concat());
    assert_eq!(finished.status.code(), Some(1), "{}", printed(&finished));
    let json = document(&finished);
    assert_eq!(json["verdict"], "refused");
    let failed: Vec<&str> = json["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["outcome"] == "FAIL")
        .map(|step| step["check"].as_str().unwrap())
        .collect();
    assert_eq!(failed.len(), 1, "{json}");
    failed[0].to_owned()
}
