//! SEV-SNP evidence of real machines: what must pass passes, and what must not fails for its own reason.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Value, json};
use strongroom_verifier::{
    Assurance, Check, Collateral, CollateralItem, Evidence, Examination, Expected,
    ExpectedInitdata, SnpProduct, StepOutcome, TrustAnchors, VerifyError, Wanted, examine,
};
use strongroom_wire::tee::Tee;
use support::{at, evidence_json, fixture, report_json};

/// One recorded report, and what a change to it must lead to.
struct Row {
    name: &'static str,
    /// Reads the report and the certificates that go with it.
    read: fn() -> Option<Recorded>,
    /// A byte that is changed before the verification, and to what.
    tamper: Option<Tamper>,
    now: u64,
    /// The check that must refuse it; `None` where all must pass.
    refused_by: Option<Check>,
}

/// The place of a byte, and what becomes of it.
type Tamper = (usize, fn(u8) -> u8);

struct Recorded {
    report: Vec<u8>,
    kind: &'static str,
    certificate: Vec<u8>,
}

const ROWS: &[Row] = &[
    row("Genoa, by its VCEK", genoa, None, None),
    row(
        "a byte of the image id",
        genoa,
        Some((42, up)),
        Some(Check::SnpSignature),
    ),
    row(
        "the reported boot loader",
        genoa,
        Some((384, up)),
        Some(Check::SnpTcb),
    ),
    row(
        "Genoa, with a Milan VCEK",
        genoa_with_milan_vcek,
        None,
        Some(Check::SnpChain),
    ),
    row(
        "version 2, by its VCEK",
        milan_v2,
        None,
        Some(Check::SnpVersion),
    ),
    row(
        "version 2, tampered",
        milan_v2,
        Some((42, up)),
        Some(Check::SnpVersion),
    ),
    row(
        "Milan by a VLEK, asked for at VMPL 1",
        vlek,
        None,
        Some(Check::SnpVmpl),
    ),
    row(
        "Milan by a VLEK, tampered",
        vlek,
        Some((42, up)),
        Some(Check::SnpSignature),
    ),
    row(
        "Milan by a VLEK, another TCB",
        vlek,
        Some((384, up)),
        Some(Check::SnpTcb),
    ),
    Row {
        now: AFTER_THE_VLEK,
        ..row(
            "Milan by a VLEK that expired",
            vlek,
            None,
            Some(Check::SnpChain),
        )
    },
    row(
        "VLEK called a VCEK",
        vlek_called_vcek,
        None,
        Some(Check::Structure),
    ),
    row("Milan on Azure", azure_v0, None, None),
    row("Milan on Azure, later form", azure_v1, None, None),
    row("another Milan on Azure", azure_v2, None, None),
    row("Genoa on Azure", azure_genoa, None, None),
    // The offset 0x1A6 of the blob that Azure wraps the report in.
    row(
        "another SNP version",
        azure_v1,
        Some((0x186, zero)),
        Some(Check::SnpTcb),
    ),
    row(
        "VCEK that no AMD key signed, octets",
        invalid_legacy,
        None,
        Some(Check::SnpChain),
    ),
    row(
        "VCEK that no AMD key signed, string",
        invalid_new,
        None,
        Some(Check::SnpChain),
    ),
];

const fn row(
    name: &'static str,
    read: fn() -> Option<Recorded>,
    tamper: Option<Tamper>,
    refused_by: Option<Check>,
) -> Row {
    Row {
        name,
        read,
        tamper,
        now: THEN,
        refused_by,
    }
}

/// 2025-11-01, when every certificate of the recorded evidence was valid.
const THEN: u64 = 1_761_955_200;
/// 2026-01-01: the VLEK's certificate had ended on 2025-12-10.
const AFTER_THE_VLEK: u64 = 1_767_225_600;

fn up(byte: u8) -> u8 {
    byte.wrapping_add(1)
}

fn zero(_: u8) -> u8 {
    0
}

const GENOA: &str = "attestation-service/tests/e2e/evidence.json";
const SNP: &str = "deps/verifier/test_data/snp";
const AZURE: &str = "deps/verifier/test_data/az-snp-vtpm";

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The recorded JSON put back into the bytes of a report, with no code of the verifier's.
fn genoa() -> Option<Recorded> {
    let json: Value = serde_json::from_slice(&fixture(GENOA)?).unwrap();
    let text = &json["attestation_report"];
    let mut report = vec![0; at::LENGTH];
    let number = |name: &str| text[name].as_u64().unwrap();
    let mut put = |at: usize, bytes: &[u8]| support::put(&mut report, at, bytes);
    put(at::VERSION, &number("version").to_le_bytes()[..4]);
    put(at::GUEST_SVN, &number("guest_svn").to_le_bytes()[..4]);
    put(at::POLICY, &number("policy").to_le_bytes());
    put(at::VMPL, &number("vmpl").to_le_bytes()[..4]);
    put(at::SIGNATURE_ALGO, &number("sig_algo").to_le_bytes()[..4]);
    put(at::PLATFORM_INFO, &number("plat_info").to_le_bytes());
    put(at::KEY_INFO, &number("key_info").to_le_bytes()[..4]);
    for (name, place) in [
        ("family_id", at::FAMILY_ID),
        ("image_id", at::IMAGE_ID),
        ("report_data", at::REPORT_DATA),
        ("measurement", at::MEASUREMENT),
        ("host_data", at::HOST_DATA),
        ("id_key_digest", at::ID_KEY_DIGEST),
        ("author_key_digest", at::AUTHOR_KEY_DIGEST),
        ("report_id", at::REPORT_ID),
        ("report_id_ma", at::REPORT_ID_MA),
        ("chip_id", at::CHIP_ID),
    ] {
        put(place, &bytes(&text[name]));
    }
    for (name, place) in [
        ("current_tcb", at::CURRENT_TCB),
        ("reported_tcb", at::REPORTED_TCB),
        ("committed_tcb", at::COMMITTED_TCB),
        ("launch_tcb", at::LAUNCH_TCB),
    ] {
        let part = |part: &str| u8::try_from(text[name][part].as_u64().unwrap()).unwrap();
        put(
            place,
            &[
                part("bootloader"),
                part("tee"),
                0,
                0,
                0,
                0,
                part("snp"),
                part("microcode"),
            ],
        );
    }
    for (name, place) in [("current", at::CURRENT), ("committed", at::COMMITTED)] {
        let part = |part: &str| u8::try_from(text[name][part].as_u64().unwrap()).unwrap();
        put(place, &[part("build"), part("minor"), part("major")]);
    }
    for (offset, name) in ["cpuid_fam_id", "cpuid_mod_id", "cpuid_step"]
        .iter()
        .enumerate()
    {
        put(at::CPUID + offset, &[u8::try_from(number(name)).unwrap()]);
    }
    put(at::SIGNATURE, &bytes(&text["signature"]["r"]));
    put(at::SIGNATURE + 72, &bytes(&text["signature"]["s"]));
    Some(Recorded {
        report,
        kind: "VCEK",
        certificate: bytes(&json["cert_chain"][0]["data"]),
    })
}

fn genoa_with_milan_vcek() -> Option<Recorded> {
    Some(Recorded {
        certificate: fixture(&format!("{SNP}/test-vcek.der"))?,
        ..genoa()?
    })
}

fn milan_v2() -> Option<Recorded> {
    Some(Recorded {
        report: fixture(&format!("{SNP}/test-report.bin"))?,
        kind: "VCEK",
        certificate: fixture(&format!("{SNP}/test-vcek.der"))?,
    })
}

fn vlek() -> Option<Recorded> {
    Some(Recorded {
        report: fixture(&format!("{SNP}/test-vlek-report.bin"))?,
        kind: "VLEK",
        certificate: fixture(&format!("{SNP}/test-vlek.der"))?,
    })
}

fn vlek_called_vcek() -> Option<Recorded> {
    Some(Recorded {
        kind: "VCEK",
        ..vlek()?
    })
}

/// The report of a Milan machine that names its processor, with a certificate that only looks like a VCEK's.
fn invalid(name: &str) -> Option<Recorded> {
    Some(Recorded {
        certificate: fixture(&format!("{SNP}/test-vcek-invalid-{name}.der"))?,
        ..azure_v1()?
    })
}

fn invalid_legacy() -> Option<Recorded> {
    invalid("legacy")
}

fn invalid_new() -> Option<Recorded> {
    invalid("new")
}

/// What is AMD's of Azure's evidence: the report lies behind a header of 32 bytes.
fn azure(version: &str) -> Option<Recorded> {
    let json: Value =
        serde_json::from_slice(&fixture(&format!("{AZURE}/evidence-{version}.json"))?).unwrap();
    let (blob, certificate) = match json.get("hcl_report") {
        Some(blob) => (
            URL_SAFE.decode(blob.as_str().unwrap()).unwrap(),
            URL_SAFE.decode(json["vcek"].as_str().unwrap()).unwrap(),
        ),
        None => (
            bytes(&json["report"]),
            pem::parse(json["vcek"].as_str().unwrap())
                .unwrap()
                .into_contents(),
        ),
    };
    Some(Recorded {
        report: blob[32..32 + at::LENGTH].to_vec(),
        kind: "VCEK",
        certificate,
    })
}

fn azure_v0() -> Option<Recorded> {
    azure("v0")
}

fn azure_v1() -> Option<Recorded> {
    azure("v1")
}

fn azure_v2() -> Option<Recorded> {
    azure("v2")
}

fn azure_genoa() -> Option<Recorded> {
    azure("genoa")
}

fn seen(
    evidence: Result<Evidence, VerifyError>,
    collateral: &Collateral,
    now: u64,
) -> (Option<Check>, Option<Examination>) {
    match evidence {
        Err(error) => (Some(error.check()), None),
        Ok(evidence) => {
            let anchors = TrustAnchors::vendors();
            let seen = examine(evidence, collateral, &anchors, &Expected::default(), now);
            (seen.error.as_ref().map(VerifyError::check), Some(seen))
        }
    }
}

#[test]
fn recorded_reports_pass_or_fail_for_their_reason() {
    for row in ROWS {
        let Some(mut recorded) = (row.read)() else {
            return;
        };
        if let Some((place, change)) = row.tamper {
            let old = recorded.report[place];
            recorded.report[place] = change(old);
            assert_ne!(
                recorded.report[place], old,
                "{}: nothing was changed",
                row.name
            );
        }
        let json = evidence_json(&recorded.report, &[(recorded.kind, &recorded.certificate)]);
        let evidence = Evidence::parse(Tee::Snp, &json);
        let (refused_by, seen) = seen(evidence, &Collateral::none(), row.now);
        assert_eq!(refused_by, row.refused_by, "{}: {seen:#?}", row.name);
        if let Some(seen) = seen
            && refused_by.is_none()
        {
            assert_eq!(seen.assurance, Assurance::Hardware, "{}", row.name);
        }
    }
}

/// As the rows, with the report as bytes and the VCEK from the collateral.
#[test]
fn raw_reports_pass_with_the_vcek_as_collateral() {
    for read in [genoa, azure_v0, azure_v1, azure_v2, azure_genoa] {
        let Some(recorded) = read() else { return };
        let evidence = Evidence::parse_raw(Tee::Snp, &recorded.report).unwrap();
        let collateral = answer(&evidence, &recorded.certificate);
        let (refused_by, seen) = seen(Ok(evidence), &collateral, THEN);
        assert_eq!(refused_by, None, "{seen:#?}");
    }
}

/// Answers a request for a VCEK, whatever its chip and TCB version, with this certificate.
fn answer(evidence: &Evidence, certificate: &[u8]) -> Collateral {
    let mut collateral = Collateral::none();
    for wanted in evidence.collateral_request().iter() {
        if matches!(wanted, Wanted::AmdVcek { .. }) {
            let item = CollateralItem {
                body: certificate.to_vec(),
                issuer_chain: String::new(),
            };
            collateral.insert(wanted.clone(), item);
        }
    }
    collateral
}

#[test]
fn recorded_json_means_the_bytes_that_were_signed() {
    let (Some(json), Some(recorded)) = (fixture(GENOA), genoa()) else {
        return;
    };
    let text: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        report_of(&text),
        report_of(&json!({
            "attestation_report": report_json(&recorded.report),
        }))
    );
    let (refused_by, seen) = seen(Evidence::parse(Tee::Snp, &json), &Collateral::none(), THEN);
    assert_eq!(refused_by, None, "{seen:#?}");
}

/// The members of the report that upstream's attester of that time wrote.
fn report_of(evidence: &Value) -> Value {
    evidence["attestation_report"].clone()
}

#[test]
fn request_names_the_vcek_and_the_list() {
    let Some(recorded) = genoa() else { return };
    let raw = Evidence::parse_raw(Tee::Snp, &recorded.report).unwrap();
    let request: Vec<_> = raw.collateral_request().iter().cloned().collect();
    let [
        Wanted::AmdVcek {
            product,
            chip_id,
            tcb,
        },
        Wanted::AmdCrl { .. },
    ] = request.as_slice()
    else {
        panic!("{request:?}");
    };
    assert_eq!(*product, SnpProduct::Genoa);
    assert_eq!(chip_id, &recorded.report[at::CHIP_ID..at::CHIP_ID + 64]);
    assert_eq!(
        (tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode),
        (None, 10, 0, 23, 25)
    );
    let json = evidence_json(&recorded.report, &[("VCEK", &recorded.certificate)]);
    let sent = Evidence::parse(Tee::Snp, &json).unwrap();
    let request: Vec<_> = sent.collateral_request().iter().cloned().collect();
    assert_eq!(
        request,
        [Wanted::AmdCrl {
            product: SnpProduct::Genoa
        }]
    );
    let (refused_by, seen) = seen(Ok(raw), &Collateral::none(), THEN);
    assert_eq!(refused_by, Some(Check::Collateral));
    assert!(matches!(
        seen.unwrap().error,
        Some(VerifyError::MissingCollateral { .. })
    ));
}

#[test]
fn claims_have_upstream_names_and_types() {
    let Some(json) = fixture(GENOA) else { return };
    let evidence = Evidence::parse(Tee::Snp, &json).unwrap();
    let (_, seen) = seen(Ok(evidence), &Collateral::none(), THEN);
    let seen = seen.unwrap();
    let (tee, claims) = &seen.claims[0];
    assert_eq!(*tee, Tee::Snp);
    let expected = json!({
        "measurement": "6a6519d757e68c2e939c9dbbbc1828498e8de35d2766dd05f1a2cca5059d0cf4ae62a36d75c837974dd50b315506e73e",
        "policy_abi_major": 0,
        "policy_abi_minor": 0,
        "policy_smt_allowed": true,
        "policy_migrate_ma": false,
        "policy_debug_allowed": false,
        "policy_single_socket": false,
        "platform_smt_enabled": true,
        "platform_tsme_enabled": false,
        "reported_tcb_bootloader": 10,
        "reported_tcb_microcode": 25,
        "reported_tcb_snp": 23,
        "reported_tcb_tee": 0,
        "vmpl": 0,
        "product": "Genoa",
        "signer": "vcek",
        "crl_checked": false,
        "guest_svn": 0,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(claims.get(name), Some(value), "{name}");
    }
    let skipped = seen
        .steps
        .iter()
        .filter(|step| matches!(step.outcome, StepOutcome::Skipped(_)));
    let skipped: Vec<_> = skipped.map(|step| step.check).collect();
    assert_eq!(
        skipped,
        [Check::SnpRevocation, Check::ReportData, Check::InitData]
    );
}

#[test]
fn report_data_and_host_data_of_a_real_report_are_compared() {
    let (Some(json), Some(recorded)) = (fixture(GENOA), genoa()) else {
        return;
    };
    let report_data = recorded.report[at::REPORT_DATA..at::REPORT_DATA + 64].to_vec();
    let look = |expected: &Expected| {
        let evidence = Evidence::parse(Tee::Snp, &json).unwrap();
        let anchors = TrustAnchors::vendors();
        examine(evidence, &Collateral::none(), &anchors, expected, THEN).error
    };
    let mut expected = Expected {
        report_data: Some(report_data),
        initdata: ExpectedInitdata::None,
    };
    assert_eq!(look(&expected), None);
    expected.initdata = ExpectedInitdata::Digest(vec![1; 48]);
    assert_eq!(look(&expected).unwrap().check(), Check::InitData);
    expected.initdata = ExpectedInitdata::None;
    expected.report_data.as_mut().unwrap()[63] ^= 1;
    assert_eq!(look(&expected).unwrap().check(), Check::ReportData);
}

/// One bit of every byte, and all eight of every 16th.
#[test]
fn any_flipped_bit_of_a_signed_report_is_refused() {
    let Some(recorded) = genoa() else { return };
    let anchors = TrustAnchors::vendors();
    let mut counts: BTreeMap<Check, usize> = BTreeMap::new();
    let mut flips = 0;
    for place in 0..at::SIGNATURE {
        let bits = match place % 16 {
            0 => 0..8,
            _ => place % 8..place % 8 + 1,
        };
        for bit in bits {
            flips += 1;
            let mut report = recorded.report.clone();
            report[place] ^= 1 << bit;
            let error = match Evidence::parse_raw(Tee::Snp, &report) {
                Err(error) => error,
                Ok(evidence) => {
                    let collateral = answer(&evidence, &recorded.certificate);
                    let expected = Expected::default();
                    examine(evidence, &collateral, &anchors, &expected, THEN)
                        .error
                        .unwrap_or_else(|| panic!("byte {place:#x}, bit {bit} passes"))
                }
            };
            *counts.entry(error.check()).or_default() += 1;
        }
    }
    assert_eq!(flips, at::SIGNATURE + 7 * at::SIGNATURE / 16);
    println!("{flips} flips: {counts:?}");
    assert!(counts[&Check::SnpSignature] > flips / 2, "{counts:?}");
}

#[test]
fn any_flipped_bit_of_a_signature_is_refused() {
    let Some(recorded) = genoa() else { return };
    let anchors = TrustAnchors::vendors();
    for place in at::SIGNATURE..at::LENGTH {
        let mut report = recorded.report.clone();
        report[place] ^= 1 << (place % 8);
        if let Ok(evidence) = Evidence::parse_raw(Tee::Snp, &report) {
            let collateral = answer(&evidence, &recorded.certificate);
            let seen = examine(evidence, &collateral, &anchors, &Expected::default(), THEN);
            assert!(seen.error.is_some(), "byte {place:#x} passes");
        }
    }
}

#[test]
fn cut_or_lengthened_report_is_refused() {
    let Some(recorded) = genoa() else { return };
    let mut longer = recorded.report.clone();
    longer.push(0);
    let cut = (0..at::LENGTH).map(|length| &recorded.report[..length]);
    for report in cut.chain([longer.as_slice()]) {
        let error = Evidence::parse_raw(Tee::Snp, report).unwrap_err();
        assert!(matches!(error, VerifyError::Malformed { .. }), "{error}");
    }
}

#[test]
fn cut_json_is_refused() {
    let Some(json) = fixture(GENOA) else { return };
    let json = json.trim_ascii_end();
    for length in 0..json.len() {
        let error = Evidence::parse(Tee::Snp, &json[..length]).unwrap_err();
        assert!(matches!(error, VerifyError::Malformed { .. }), "{error}");
    }
}
