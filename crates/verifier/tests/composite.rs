//! A CPU's evidence with its devices': what is verified is what the CPU's evidence binds, and no device stands alone.
#![allow(clippy::unwrap_used, missing_docs)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use strongroom_verifier::{
    Binding, Check, Collateral, Evidence, TrustAnchors, VerifiedEvidence, VerifyError, verify,
};
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::kbs::{Nonce, RuntimeData};
use strongroom_wire::tee::Tee;

const NOW: u64 = 1_800_000_000;
const KEY: &str = r#"{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fn runtime_data() -> RuntimeData {
    RuntimeData {
        nonce: Nonce::from_bytes(&[9; 32]),
        tee_pubkey: serde_json::from_str(KEY).unwrap(),
    }
}

fn sample(svn: &str, report_data: &[u8]) -> String {
    json!({"svn": svn, "report_data": STANDARD.encode(report_data)}).to_string()
}

fn device(svn: &str) -> String {
    sample(
        svn,
        &runtime_data().device_report_data(HashAlgorithm::Sha384),
    )
}

fn devices(svn: &str) -> String {
    format!("{{\"sampledevice\":{}}}", device(svn))
}

/// Verifies the devices that were sent beside a CPU whose evidence binds `bound`.
fn with_devices(sent: &str, bound: &str) -> Result<VerifiedEvidence, VerifyError> {
    let runtime = runtime_data();
    let cpu = sample(
        "1",
        &runtime.primary_report_data(bound, HashAlgorithm::Sha384),
    );
    let evidence = Evidence::parse_composite(Tee::Sample, cpu.as_bytes(), sent)?;
    let binding = Binding::new(&runtime, bound, None);
    verify(
        evidence,
        &Collateral::none(),
        &TrustAnchors::none(),
        &binding,
        NOW,
    )
}

#[test]
fn devices_that_the_cpu_binds_are_verified() {
    let verified = with_devices(&devices("2"), &devices("2")).unwrap();
    assert_eq!(verified.tee(), Tee::Sample);
    let platforms: Vec<Tee> = verified.development().collect();
    assert_eq!(platforms, [Tee::Sample, Tee::Sampledevice]);
}

#[test]
fn devices_other_than_those_that_the_cpu_binds_are_refused() {
    for (sent, bound) in [
        (devices("2"), devices("3")),
        (devices("2"), format!("{} ", devices("2"))),
        (devices("2"), String::new()),
        (String::new(), devices("2")),
    ] {
        let error = with_devices(&sent, &bound).unwrap_err();
        assert_eq!(error, VerifyError::AdditionalEvidence, "{sent} for {bound}");
    }
}

#[test]
fn device_platform_that_is_given_twice_is_refused() {
    let twice = format!(
        "{{\"sampledevice\":{},\"sampledevice\":{}}}",
        device("2"),
        device("3")
    );
    let error = with_devices(&twice, &twice).unwrap_err();
    assert_eq!(error.check(), Check::Devices);
    assert!(error.to_string().contains("twice"), "{error}");
}

/// Whoever owns a device can have it sign any nonce: without a CPU's evidence nothing says where the key lies.
#[test]
fn device_alone_is_no_evidence_of_where_a_key_is() {
    let runtime = runtime_data();
    let report_data = runtime.primary_report_data("", HashAlgorithm::Sha384);
    let alone = sample("2", &report_data);
    let evidence = Evidence::parse(Tee::Sampledevice, alone.as_bytes()).unwrap();
    let binding = Binding::new(&runtime, "", None);
    let verified = verify(
        evidence,
        &Collateral::none(),
        &TrustAnchors::none(),
        &binding,
        NOW,
    );
    let error = verified.unwrap_err();
    assert_eq!(error.check(), Check::Devices);
    assert!(error.to_string().contains("sampledevice"), "{error}");
}
