//! Evidence of real Azure confidential VMs and of a real TPM: what must pass passes, and what was tampered with is
//! refused for its own reason.

#![allow(clippy::unwrap_used)]

mod support_tpm;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};
use strongroom_verifier::{
    Assurance, Check, Collateral, Evidence, Examination, Expected, ExpectedInitdata, StepOutcome,
    TrustAnchors, VerifyError, Wanted,
};
use strongroom_wire::tee::Tee;
use support_tpm::*;

const CHALLENGE: &[u8] = b"challenge";
const V2: &str = "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef";
const GENOA: &str = "0218488bae25d2509232bf676f1a66a30d7372add909109b36016ef136f2938ca05475f8b46094de6b64270ea35d950f";

/// What a verification of a row must come to.
enum Outcome {
    Accepted,
    Refused(Check),
}

struct Row {
    file: &'static str,
    tee: Tee,
    report_data: Vec<u8>,
    now: u64,
    outcome: Outcome,
    pcr00: &'static str,
}

impl Row {
    fn examine(&self, json: &Value) -> Examination {
        run(
            self.tee,
            json,
            &Collateral::none(),
            &TrustAnchors::vendors(),
            &report_data(&self.report_data),
            self.now,
        )
    }
}

fn rows() -> Vec<Row> {
    let snp = |file, report_data: Vec<u8>, pcr00| Row {
        file,
        tee: Tee::AzSnpVtpm,
        report_data,
        now: NOW,
        outcome: Outcome::Accepted,
        pcr00,
    };
    let tdx = |file| Row {
        file,
        tee: Tee::AzTdxVtpm,
        report_data: CHALLENGE.to_vec(),
        now: NOW,
        // Intel's collateral of that day was not recorded.
        outcome: Outcome::Refused(Check::Collateral),
        pcr00: "782b20b10f55cc46e2142cc2145d548698073e5beb82752c8d7f9279f0d8a273",
    };
    let milan = "e15c44796beabf46abcec7c57e590942041e47497e4ec27571c8b7664f48dced";
    let later = "84275b2f4312cd4fc6cbe6b152ad3c3683e513d9f1e23c34fca160c8cca7a6a7";
    let genoa = "afd689d0bb1c5f36";
    vec![
        snp("az-snp-vtpm/evidence-v0.json", CHALLENGE.to_vec(), milan),
        snp("az-snp-vtpm/evidence-v1.json", CHALLENGE.to_vec(), milan),
        snp(
            "az-snp-vtpm/evidence-v2.json",
            hex::decode(V2).unwrap(),
            later,
        ),
        snp(
            "az-snp-vtpm/evidence-genoa.json",
            hex::decode(GENOA).unwrap(),
            genoa,
        ),
        Row {
            outcome: Outcome::Refused(Check::ReportData),
            ..snp("az-snp-vtpm/evidence-v1.json", b"egnellahc".to_vec(), milan)
        },
        Row {
            // The digest padded, as the platforms with a field of 64 bytes have it.
            outcome: Outcome::Refused(Check::ReportData),
            ..snp(
                "az-snp-vtpm/evidence-v2.json",
                [hex::decode(V2).unwrap(), vec![0; 16]].concat(),
                later,
            )
        },
        Row {
            // After the VCEK's certificate has expired.
            now: 2_000_000_000,
            outcome: Outcome::Refused(Check::SnpChain),
            ..snp("az-snp-vtpm/evidence-v1.json", CHALLENGE.to_vec(), milan)
        },
        tdx("az-tdx-vtpm/evidence-v0.json"),
        tdx("az-tdx-vtpm/evidence-v1.json"),
    ]
}

#[test]
fn recorded_evidence_comes_out_as_it_should() {
    for row in rows() {
        let Some(json) = json_fixture(row.file) else {
            return;
        };
        let examination = row.examine(&json);
        match row.outcome {
            Outcome::Refused(check) => {
                refused(&examination, check);
            }
            Outcome::Accepted => {
                accepted(&examination);
                assert_eq!(examination.assurance, Assurance::Hardware);
                let (tee, claims) = &examination.claims[0];
                assert_eq!(*tee, row.tee);
                let pcr00 = claims["tpm"]["pcr00"].as_str().unwrap();
                assert!(pcr00.starts_with(row.pcr00), "{}: {pcr00}", row.file);
                assert_eq!(claims["tpm"].as_object().unwrap().len(), 24);
                assert_eq!(claims["vm-configuration"]["secure-boot"], true);
                assert_eq!(claims["policy_debug_allowed"], "false");
                assert_eq!(claims["policy_smt_allowed"], "true");
                assert_eq!(claims["vmpl"], "0");
                for name in [
                    "policy_abi_major",
                    "reported_tcb_snp",
                    "reported_tcb_microcode",
                ] {
                    let text = claims[name].as_str().unwrap();
                    assert!(text.parse::<u8>().is_ok(), "{name}: {text}");
                }
                let measurement = claims["measurement"].as_str().unwrap();
                assert_eq!(STANDARD.decode(measurement).unwrap().len(), 48);
                let bound = row.file.contains("v2");
                assert_eq!(claims["user_data_bound"], bound);
                assert_eq!(
                    outcome(&examination, Check::AzureUserData) == Some(StepOutcome::Passed),
                    bound
                );
            }
        }
    }
}

#[test]
fn tdx_evidence_holds_up_to_the_collateral_that_it_asks_for() {
    for file in [
        "az-tdx-vtpm/evidence-v0.json",
        "az-tdx-vtpm/evidence-v1.json",
    ] {
        let Some(bytes) = fixture(file) else { return };
        let evidence = Evidence::parse(Tee::AzTdxVtpm, &bytes).unwrap();
        let request = evidence.collateral_request();
        assert!(request.iter().any(|wanted| matches!(
            wanted,
            Wanted::IntelTcbInfo { tdx: true, fmspc, .. } if fmspc == &[0, 0x80, 0x6f, 5, 0, 0]
        )));
        let row = &rows()[7];
        let examination = row.examine(&serde_json::from_slice(&bytes).unwrap());
        let error = refused(&examination, Check::Collateral);
        assert!(matches!(error, VerifyError::MissingCollateral { .. }));
        for check in [
            Check::TpmSignature,
            Check::TpmPcrDigest,
            Check::ReportData,
            Check::AzureVariableData,
            Check::PckChain,
            Check::QuoteSignature,
        ] {
            assert_eq!(
                outcome(&examination, check),
                Some(StepOutcome::Passed),
                "{check:?}"
            );
        }
    }
}

#[test]
fn evidence_without_its_vcek_asks_for_it() {
    let Some(mut json) = json_fixture("az-snp-vtpm/evidence-v1.json") else {
        return;
    };
    json.as_object_mut().unwrap().remove("vcek");
    let evidence = Evidence::parse(Tee::AzSnpVtpm, json.to_string().as_bytes()).unwrap();
    let request = evidence.collateral_request();
    assert!(
        request
            .iter()
            .any(|wanted| matches!(wanted, Wanted::AmdVcek { .. }))
    );
    let error = refused(&rows()[1].examine(&json), Check::Collateral);
    assert!(matches!(error, VerifyError::MissingCollateral { .. }));
}

#[test]
fn an_older_version_does_not_make_a_promise_that_it_did_not_give() {
    let Some(mut json) = json_fixture("az-snp-vtpm/evidence-v1.json") else {
        return;
    };
    json["version"] = json!(2);
    refused(&rows()[1].examine(&json), Check::AzureUserData);
}

#[test]
fn user_data_that_holds_is_claimed_whatever_the_version() {
    let Some(mut json) = json_fixture("az-snp-vtpm/evidence-v2.json") else {
        return;
    };
    json["version"] = json!(1);
    let examination = rows()[2].examine(&json);
    accepted(&examination);
    assert_eq!(examination.claims[0].1["user_data_bound"], true);
}

#[test]
fn initdata_that_pcr_8_does_not_hold() {
    let Some(json) = json_fixture("az-snp-vtpm/evidence-genoa.json") else {
        return;
    };
    for length in [0, 20, 32, 48, 64] {
        let examination = run(
            Tee::AzSnpVtpm,
            &json,
            &Collateral::none(),
            &TrustAnchors::vendors(),
            &Expected {
                report_data: Some(hex::decode(GENOA).unwrap()),
                initdata: ExpectedInitdata::Digest(vec![9; length]),
            },
            NOW,
        );
        let error = refused(&examination, Check::InitData);
        // The real PCR 8 of that VM.
        assert!(error.to_string().contains("16f09f1e"), "{error}");
    }
}

/// The parts of one VM's evidence, put together as version 1.
fn parts() -> Option<Value> {
    let quote = json_fixture("az-snp-vtpm/tpm-quote-v1.json")?;
    let vcek = pem::parse_many(fixture("az-snp-vtpm/vcek.pem")?).unwrap();
    Some(json!({
        "version": 1,
        "tpm_quote": quote,
        "hcl_report": URL_SAFE.encode(fixture("az-snp-vtpm/hcl-report.bin")?),
        "vcek": URL_SAFE.encode(vcek[0].contents()),
    }))
}

fn examine_parts(json: &Value) -> Examination {
    rows()[1].examine(json)
}

/// Changes bytes of a member in base64url.
fn patch(json: &mut Value, member: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = URL_SAFE.decode(json[member].as_str().unwrap()).unwrap();
    change(&mut bytes);
    json[member] = json!(URL_SAFE.encode(bytes));
}

#[test]
fn a_vm_whose_report_does_not_name_its_processor() {
    // Everything of the vTPM holds; the report is of version 2.
    let Some(json) = parts() else { return };
    let examination = examine_parts(&json);
    refused(&examination, Check::SnpVersion);
    assert_eq!(
        outcome(&examination, Check::AzureVariableData),
        Some(StepOutcome::Passed)
    );
}

#[test]
fn the_vcek_may_come_with_its_authorities() {
    let Some(mut json) = json_fixture("az-snp-vtpm/evidence-v0.json") else {
        return;
    };
    let pem = String::from_utf8(fixture("az-snp-vtpm/vcek.pem").unwrap()).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    let (_, authorities) = pem.split_once(end).unwrap();
    json["vcek"] = json!(format!("{}\n{authorities}", json["vcek"].as_str().unwrap()));
    accepted(&rows()[0].examine(&json));
}

#[test]
fn a_tcb_version_that_was_changed_in_the_report() {
    let Some(mut json) = json_fixture("az-snp-vtpm/evidence-v1.json") else {
        return;
    };
    patch(&mut json, "hcl_report", |hcl| hcl[0x01a6] = 0);
    refused(&rows()[1].examine(&json), Check::SnpTcb);
}

#[test]
fn variable_data_that_was_changed() {
    let Some(mut json) = parts() else { return };
    patch(&mut json, "hcl_report", |hcl| hcl[0x06e0] += 1);
    refused(&examine_parts(&json), Check::AzureVariableData);

    let mut json = json_fixture("az-tdx-vtpm/evidence-v1.json").unwrap();
    patch(&mut json, "hcl_report", |hcl| hcl[0x0880] += 1);
    refused(&rows()[8].examine(&json), Check::AzureVariableData);
}

#[test]
fn an_attestation_key_that_is_broken() {
    let Some(mut json) = parts() else { return };
    patch(&mut json, "hcl_report", |hcl| hcl[0x0540] = 0);
    let error = refused(&examine_parts(&json), Check::Structure);
    assert!(error.to_string().contains("variable data"), "{error}");
}

#[test]
fn a_signature_backwards() {
    let Some(mut json) = parts() else { return };
    let mut signature = hex::decode(json["tpm_quote"]["signature"].as_str().unwrap()).unwrap();
    signature.reverse();
    json["tpm_quote"]["signature"] = json!(hex::encode(signature));
    refused(&examine_parts(&json), Check::TpmSignature);
}

#[test]
fn a_pcr_with_a_bit_turned() {
    let Some(mut json) = parts() else { return };
    let mut pcr = hex::decode(json["tpm_quote"]["pcrs"][0].as_str().unwrap()).unwrap();
    pcr[0] ^= 1;
    json["tpm_quote"]["pcrs"][0] = json!(hex::encode(pcr));
    refused(&examine_parts(&json), Check::TpmPcrDigest);
}

#[test]
fn a_real_quote_of_some_pcrs_beside_the_values_of_another_boot() {
    // It selects PCRs 0 to 7 and 14, and was made before the values that were recorded.
    let Some(mut json) = parts() else { return };
    let Some(message) = fixture("az-snp-vtpm/tpm-quote.msg") else {
        return;
    };
    let signature = fixture("az-snp-vtpm/tpm-quote.sig").unwrap();
    json["tpm_quote"]["message"] = json!(hex::encode(message));
    json["tpm_quote"]["signature"] = json!(hex::encode(signature));
    let error = examine_parts(&json).error.unwrap();
    assert!(
        matches!(error.check(), Check::TpmPcrDigest | Check::TpmSignature),
        "{error}"
    );
}

#[test]
fn a_real_tpms_quote_by_a_key_that_nobody_vouches_for_is_development() {
    let Some(json) = json_fixture("tpm_evidence.json") else {
        return;
    };
    let look = |anchors: &TrustAnchors, expected: &Expected| {
        run(Tee::Tpm, &json, &Collateral::none(), anchors, expected, NOW)
    };
    let examination = look(&TrustAnchors::vendors(), &Expected::default());
    accepted(&examination);
    assert_eq!(examination.assurance, Assurance::Development);
    assert_eq!(examination.claims[0].1["ak_anchored"], false);
    assert_eq!(examination.claims[0].1["ak_public"], json["ak_public"]);

    let spki = STANDARD
        .decode(json["ak_public"].as_str().unwrap())
        .unwrap();
    let anchors = TrustAnchors::none().with_attestation_key(&spki).unwrap();
    assert_eq!(
        look(&anchors, &Expected::default()).assurance,
        Assurance::Hardware
    );

    // Its extraData has the older form of 64 bytes, which nothing can ask for any more.
    let message = STANDARD
        .decode(json["tpm_quote"]["message"].as_str().unwrap())
        .unwrap();
    let extra_data = &message[44..108];
    for expected in [extra_data, &extra_data[..48], &extra_data[..32]] {
        refused(&look(&anchors, &report_data(expected)), Check::ReportData);
    }
}

/// Whatever single bit is turned in what is signed or bound, the evidence is refused.
#[test]
fn any_bit_of_real_evidence_counts() {
    for row in &rows()[1..3] {
        let Some(whole) = json_fixture(row.file) else {
            return;
        };
        accepted(&row.examine(&whole));
        let anchors = TrustAnchors::vendors();
        let look = |json: &Value| {
            run(
                row.tee,
                json,
                &Collateral::none(),
                &anchors,
                &report_data(&row.report_data),
                row.now,
            )
        };
        let mut json = whole.clone();
        let mut count = 0;
        let mut pointers = vec![
            "/tpm_quote/message".to_owned(),
            "/tpm_quote/signature".to_owned(),
        ];
        pointers.extend((0..24).map(|index| format!("/tpm_quote/pcrs/{index}")));
        for pointer in pointers {
            let original = whole.pointer(&pointer).unwrap().clone();
            let bytes = hex::decode(original.as_str().unwrap()).unwrap();
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << ((at * 5 + 3) % 8);
                *json.pointer_mut(&pointer).unwrap() = json!(hex::encode(flipped));
                assert!(
                    look(&json).error.is_some(),
                    "{}: {pointer} at {at}",
                    row.file
                );
                count += 1;
            }
            *json.pointer_mut(&pointer).unwrap() = original;
        }
        let hcl = URL_SAFE
            .decode(whole["hcl_report"].as_str().unwrap())
            .unwrap();
        let length = u32::from_le_bytes(hcl[1232..1236].try_into().unwrap()) as usize;
        // The hardware's report, then the variable data and the words that say how it is read.
        for at in (32..1216).chain(1216..1220).chain(1224..1236 + length) {
            let mut flipped = hcl.clone();
            flipped[at] ^= 1 << ((at * 5 + 3) % 8);
            json["hcl_report"] = json!(URL_SAFE.encode(flipped));
            assert!(
                look(&json).error.is_some(),
                "{}: HCL report at {at}",
                row.file
            );
            count += 1;
        }
        println!("{}: {count} single bits, each refused", row.file);
    }
}

#[test]
fn any_bit_of_a_real_tpms_quote_counts() {
    let Some(whole) = json_fixture("tpm_evidence.json") else {
        return;
    };
    let spki = STANDARD
        .decode(whole["ak_public"].as_str().unwrap())
        .unwrap();
    let anchors = TrustAnchors::none().with_attestation_key(&spki).unwrap();
    let mut json = whole.clone();
    let mut count = 0;
    for (pointer, is_hex) in [
        ("/tpm_quote/message", false),
        ("/tpm_quote/signature", false),
    ]
    .map(|(pointer, is_hex)| (pointer.to_owned(), is_hex))
    .into_iter()
    .chain((0..24).map(|index| (format!("/tpm_quote/pcrs/{index}"), true)))
    {
        let original = whole.pointer(&pointer).unwrap().clone();
        let text = original.as_str().unwrap();
        let bytes = match is_hex {
            true => hex::decode(text).unwrap(),
            false => STANDARD.decode(text).unwrap(),
        };
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << ((at * 5 + 3) % 8);
            *json.pointer_mut(&pointer).unwrap() = match is_hex {
                true => json!(hex::encode(flipped)),
                false => json!(STANDARD.encode(flipped)),
            };
            let expected = Expected::default();
            let seen = run(
                Tee::Tpm,
                &json,
                &Collateral::none(),
                &anchors,
                &expected,
                NOW,
            );
            assert!(seen.error.is_some(), "{pointer} at {at}");
            count += 1;
        }
        *json.pointer_mut(&pointer).unwrap() = original;
    }
    println!("tpm_evidence.json: {count} single bits, each refused");
}

#[test]
fn every_truncation_of_a_real_hcl_report_is_refused() {
    let Some(whole) = parts() else { return };
    let hcl = URL_SAFE
        .decode(whole["hcl_report"].as_str().unwrap())
        .unwrap();
    let end = 1236 + u32::from_le_bytes(hcl[1232..1236].try_into().unwrap()) as usize;
    let mut json = whole;
    for length in 0..end {
        json["hcl_report"] = json!(URL_SAFE.encode(&hcl[..length]));
        let error = Evidence::parse(Tee::AzSnpVtpm, json.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.check(), Check::Structure);
    }
}

#[test]
fn every_truncation_of_real_json_is_refused() {
    for (tee, file) in [
        (Tee::AzSnpVtpm, "az-snp-vtpm/evidence-v2.json"),
        (Tee::AzTdxVtpm, "az-tdx-vtpm/evidence-v1.json"),
        (Tee::Tpm, "tpm_evidence.json"),
    ] {
        let Some(bytes) = fixture(file) else { return };
        let end = bytes.trim_ascii_end().len();
        for length in (0..end).step_by(7) {
            let error = Evidence::parse(tee, &bytes[..length]).unwrap_err();
            assert_eq!(error.check(), Check::Structure, "{file} at {length}");
        }
    }
}
