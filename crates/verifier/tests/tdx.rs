//! Quotes of real machines: all that they prove without collateral holds, and without it nothing is believed.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use strongroom_verifier::{
    Check, Collateral, Evidence, Expected, RootId, StepOutcome, TrustAnchors, VerifyError, Wanted,
    examine,
};
use strongroom_wire::tee::Tee;

/// 2026-01-01, when every chain of the recorded quotes was valid.
const THEN: u64 = 1_767_225_600;

fn fixture(name: &str) -> Option<Vec<u8>> {
    let root = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/trustee"
    ));
    if !root.is_dir() {
        println!("SKIPPED: no folder of recorded evidence");
        return None;
    }
    Some(std::fs::read(root.join(name)).unwrap())
}

/// A recorded quote: its file, platform and version, and the FMSPC of the machine that made it.
const QUOTES: [(&str, Tee, u16, &str); 5] = [
    ("tdx_quote_4.dat", Tee::Tdx, 4, "50806f000000"),
    ("tdx_quote_5.dat", Tee::Tdx, 5, "90c06f000000"),
    ("tdx_quote_6.dat", Tee::Tdx, 4, "00a06d080000"),
    ("az-tdx-vtpm/td-quote.bin", Tee::Tdx, 4, "00806f050000"),
    ("occlum_quote.dat", Tee::Sgx, 3, "00606a000000"),
];

/// The checks that a quote passes without collateral.
const PROVEN: [Check; 10] = [
    Check::QuoteVersion,
    Check::QuoteTeeType,
    Check::QuoteVendor,
    Check::QuoteKeyType,
    Check::PckCertificates,
    Check::IntelRoot,
    Check::PckChain,
    Check::QeReportSignature,
    Check::QeReportData,
    Check::QuoteSignature,
];

fn refusal(evidence: Evidence, anchors: &TrustAnchors, now: u64) -> (Vec<Check>, VerifyError) {
    let found = examine(
        evidence,
        &Collateral::none(),
        anchors,
        &Expected::default(),
        now,
    );
    assert!(found.claims.is_empty());
    let passed = found
        .steps
        .iter()
        .filter(|step| step.outcome == StepOutcome::Passed)
        .map(|step| step.check)
        .collect();
    (passed, found.error.expect("accepted without collateral"))
}

#[test]
fn recorded_quotes_are_proven_up_to_their_collateral() {
    for (name, tee, version, fmspc) in QUOTES {
        let Some(quote) = fixture(&format!("deps/verifier/test_data/{name}")) else {
            return;
        };
        assert_eq!(quote[..2], version.to_le_bytes(), "{name}");
        let json = json!({ "quote": STANDARD.encode(&quote), "cc_eventlog": null }).to_string();
        for evidence in [
            Evidence::parse(tee, json.as_bytes()).unwrap(),
            Evidence::parse_raw(tee, &quote).unwrap(),
        ] {
            let wanted: Vec<Wanted> = evidence.collateral_request().iter().cloned().collect();
            let root = RootId::INTEL;
            let tdx = tee == Tee::Tdx;
            let fmspc: [u8; 6] = hex::decode(fmspc).unwrap().try_into().unwrap();
            let platform = true;
            assert_eq!(
                wanted,
                [
                    Wanted::IntelTcbInfo { tdx, fmspc, root },
                    Wanted::IntelQeIdentity { tdx, root },
                    Wanted::IntelPckCrl { platform, root },
                    Wanted::IntelRootCrl { root },
                ],
                "{name}"
            );
            let (passed, error) = refusal(evidence, &TrustAnchors::vendors(), THEN);
            assert_eq!(passed, PROVEN, "{name}");
            assert!(
                matches!(&error, VerifyError::MissingCollateral { wanted } if **wanted == Wanted::IntelTcbInfo { tdx, fmspc, root }),
                "{name}: {error}"
            );
        }
    }
}

#[test]
fn recorded_quotes_do_not_outlive_their_certificates() {
    let later = THEN + 10 * 366 * 24 * 60 * 60;
    for (name, tee, ..) in QUOTES {
        let Some(quote) = fixture(&format!("deps/verifier/test_data/{name}")) else {
            return;
        };
        let evidence = Evidence::parse_raw(tee, &quote).unwrap();
        let (_, error) = refusal(evidence, &TrustAnchors::vendors(), later);
        assert_eq!(error.check(), Check::PckChain, "{name}: {error}");
    }
}

#[test]
fn recorded_quotes_are_not_of_the_other_platform() {
    for (name, tee, ..) in QUOTES {
        let Some(quote) = fixture(&format!("deps/verifier/test_data/{name}")) else {
            return;
        };
        let other = if tee == Tee::Tdx { Tee::Sgx } else { Tee::Tdx };
        let evidence = Evidence::parse_raw(other, &quote).unwrap();
        let (_, error) = refusal(evidence, &TrustAnchors::vendors(), THEN);
        assert_eq!(error.check(), Check::QuoteVersion, "{name}: {error}");
    }
}

#[test]
fn recorded_request_of_an_attestation_service_has_sgx_evidence() {
    let Some(request) = fixture("attestation-service/tests/coco-as/request.json") else {
        return;
    };
    let request: Value = serde_json::from_slice(&request).unwrap();
    let request = &request["verification_requests"][0];
    assert_eq!(request["tee"], "sgx");
    let json = URL_SAFE_NO_PAD
        .decode(request["evidence"].as_str().unwrap())
        .unwrap();
    let evidence = Evidence::parse(Tee::Sgx, &json).unwrap();
    let (passed, error) = refusal(evidence, &TrustAnchors::vendors(), THEN);
    assert_eq!(passed, PROVEN);
    assert_eq!(error.check(), Check::Collateral);
}

#[test]
fn malformed_json_is_refused_and_deep_nesting_does_not_overflow() {
    for json in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"quote":1}"#,
        r#"{"quote":""}"#,
        r#"{"quote":"AAAA","cc_eventlog":1}"#,
        &"[".repeat(100_000),
        &" ".repeat(4 * 1024 * 1024),
    ] {
        for tee in [Tee::Tdx, Tee::Sgx] {
            let error = Evidence::parse(tee, json.as_bytes()).unwrap_err();
            assert_eq!(error.check(), Check::Structure);
        }
    }
}
