//! Evidence of Azure confidential VMs, forged under a development root, with one field that is wrong: what refuses it,
//! by name.

#![allow(clippy::unwrap_used)]

mod support_tpm;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Value, json};
use strongroom_attester::development::snp::CertificateIssuer;
use strongroom_attester::development::{DevelopmentRoot, sgx, snp, tdx};
use strongroom_verifier::{
    Assurance, Check, Collateral, CollateralItem, Evidence, Examination, Expected,
    ExpectedInitdata, StepOutcome, TrustAnchors, VerifyError, Wanted,
};
use strongroom_wire::tee::Tee;
use support_tpm::*;

const REPORT_DATA: [u8; 48] = [0xAB; 48];

/// An Azure confidential VM: honest as it is made, with every field to change.
struct AzForge {
    tee: Tee,
    root: DevelopmentRoot,
    ak: Ak,
    quote: QuoteForge,
    /// `None` for the honest signature.
    signature: Option<Vec<u8>>,
    /// `None` for the message that was signed.
    message: Option<Vec<u8>>,
    version: Value,
    magic: [u8; 4],
    report_type: u32,
    hash_type: u32,
    /// What the runtime header adds to its true lengths.
    size_error: u32,
    length_error: u32,
    variable_data: Value,
    /// The variable data that the hardware binds; `None` for the one that is sent.
    bound: Option<Value>,
    /// The hardware's report data; `None` for the digest of the bound variable data.
    report_data: Option<Vec<u8>>,
    snp: snp::Forge,
    with_vcek: bool,
    tdx: tdx::Forge,
}

impl AzForge {
    fn new(tee: Tee) -> Self {
        let root = DevelopmentRoot::generate(NOW).unwrap();
        let ak = Ak::rsa();
        let mut snp = snp::Forge::new(&root);
        snp.certificate.issuer = CertificateIssuer::Root;
        Self {
            tee,
            quote: QuoteForge::new(&REPORT_DATA),
            signature: None,
            message: None,
            version: json!(2),
            magic: *b"HCLA",
            report_type: if tee == Tee::AzSnpVtpm { 2 } else { 4 },
            hash_type: 1,
            size_error: 0,
            length_error: 0,
            variable_data: json!({
                "keys": [ak.jwk()],
                "vm-configuration": {"console-enabled": true, "secure-boot": true},
                "user-data": user_data(&REPORT_DATA),
            }),
            bound: None,
            report_data: None,
            snp,
            with_vcek: true,
            tdx: tdx::Forge::new(&root),
            ak,
            root,
        }
    }

    fn snp() -> Self {
        Self::new(Tee::AzSnpVtpm)
    }

    fn tdx() -> Self {
        Self::new(Tee::AzTdxVtpm)
    }

    fn hardware_report_data(&self) -> Vec<u8> {
        let bound = self.bound.as_ref().unwrap_or(&self.variable_data);
        self.report_data.clone().unwrap_or_else(|| {
            digest::digest(&digest::SHA256, bound.to_string().as_bytes())
                .as_ref()
                .to_vec()
        })
    }

    fn hcl_report(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.resize(32, 0);
        if self.tee == Tee::AzSnpVtpm {
            let report = self
                .snp
                .clone()
                .with_report_data(&self.hardware_report_data());
            bytes.extend(report.report_bytes().unwrap());
        }
        bytes.resize(32 + 1184, 0);
        let variable_data = self.variable_data.to_string();
        let length = u32::try_from(variable_data.len()).unwrap();
        for word in [
            length + 20 + self.size_error,
            1,
            self.report_type,
            self.hash_type,
            length + self.length_error,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(variable_data.as_bytes());
        bytes.resize(2600, 0);
        bytes
    }

    fn json(&self) -> Value {
        let signed = self.quote.message(&self.ak);
        let signature = self
            .signature
            .clone()
            .unwrap_or_else(|| self.ak.sign(&signed));
        let message = self.message.clone().unwrap_or(signed);
        let mut json = json!({
            "version": self.version,
            "tpm_quote": {
                "signature": hex::encode(signature),
                "message": hex::encode(message),
                "pcrs": self.quote.sent.iter().map(hex::encode).collect::<Vec<_>>(),
            },
            "hcl_report": URL_SAFE.encode(self.hcl_report()),
        });
        match self.tee {
            Tee::AzSnpVtpm if self.with_vcek => {
                json["vcek"] = json!(URL_SAFE.encode(self.snp.certificate_der().unwrap()));
            }
            Tee::AzSnpVtpm => {}
            _ => json["td_quote"] = json!(URL_SAFE.encode(self.td_quote())),
        }
        json
    }

    fn td_quote(&self) -> Vec<u8> {
        let quote = self
            .tdx
            .clone()
            .with_report_data(&self.hardware_report_data());
        quote.quote_bytes().unwrap()
    }

    /// The same as version 0 spells it.
    fn numbers(&self) -> Value {
        let signed = self.quote.message(&self.ak);
        let quote = json!({
            "signature": self.ak.sign(&signed),
            "message": signed,
            "pcrs": self.quote.sent,
        });
        match self.tee {
            Tee::AzSnpVtpm => json!({
                "quote": quote,
                "report": self.hcl_report(),
                "vcek": self.snp.certificate_pem().unwrap(),
            }),
            _ => json!({
                "tpm_quote": quote,
                "hcl_report": self.hcl_report(),
                "td_quote": self.td_quote(),
            }),
        }
    }

    fn examine(&self) -> Examination {
        self.examine_json(&self.json())
    }

    fn examine_json(&self, json: &Value) -> Examination {
        self.examine_expecting(json, &report_data(&REPORT_DATA))
    }

    fn examine_expecting(&self, json: &Value, expected: &Expected) -> Examination {
        let anchors = TrustAnchors::none()
            .with_development_root(&self.root.certificate_pem())
            .unwrap();
        run(
            self.tee,
            json,
            &self.collateral(json),
            &anchors,
            expected,
            NOW,
        )
    }

    /// What the root answers to what the evidence asks for.
    fn collateral(&self, json: &Value) -> Collateral {
        let mut collateral = Collateral::none();
        let Ok(evidence) = Evidence::parse(self.tee, json.to_string().as_bytes()) else {
            return collateral;
        };
        let files = self.root.collateral().unwrap();
        for wanted in evidence.collateral_request().iter() {
            let name = match wanted {
                Wanted::IntelTcbInfo { fmspc, .. } => {
                    format!("/tdx/tcb_{}.json", hex::encode(fmspc))
                }
                Wanted::IntelQeIdentity { .. } => "/tdx/qe_identity.json".to_owned(),
                Wanted::IntelPckCrl { platform: true, .. } => "/pck_platform.crl".to_owned(),
                Wanted::IntelPckCrl { .. } => "/pck_processor.crl".to_owned(),
                Wanted::IntelRootCrl { .. } => "root.crl".to_owned(),
                _ => continue,
            };
            let file = |name: &str| {
                files
                    .iter()
                    .find(|(path, _)| path.starts_with("intel") && path.ends_with(name))
                    .map(|(_, body)| body.clone())
            };
            collateral.insert(
                wanted.clone(),
                CollateralItem {
                    body: file(&name).unwrap(),
                    issuer_chain: file(&format!("{name}.chain.pem"))
                        .map(|pem| String::from_utf8(pem).unwrap())
                        .unwrap_or_default(),
                },
            );
        }
        collateral
    }
}

/// What the check says of an honest SNP VM with one change.
fn changed(check: Check, change: impl FnOnce(&mut AzForge)) -> VerifyError {
    let mut forge = AzForge::snp();
    change(&mut forge);
    refused(&forge.examine(), check)
}

fn changed_tdx(check: Check, change: impl FnOnce(&mut AzForge)) -> VerifyError {
    let mut forge = AzForge::tdx();
    change(&mut forge);
    refused(&forge.examine(), check)
}

/// As the paravisor writes it: upper case, 64 bytes.
fn user_data(report_data: &[u8]) -> String {
    let mut field = report_data.to_vec();
    field.resize(64, 0);
    hex::encode_upper(field)
}

// --- what is accepted, so that the refusals below mean something

#[test]
fn honest_vms_are_accepted_in_every_form() {
    for tee in [Tee::AzSnpVtpm, Tee::AzTdxVtpm] {
        let mut forge = AzForge::new(tee);
        for (version, json) in [
            (2, forge.json()),
            (0, forge.numbers()),
            (1, {
                forge.version = json!(1);
                forge.json()
            }),
        ] {
            let examination = forge.examine_json(&json);
            accepted(&examination);
            assert_eq!(examination.assurance, Assurance::Development);
            let claims = &examination.claims[0].1;
            assert_eq!(claims["evidence_version"], version);
            assert_eq!(claims["user_data_bound"], true);
            assert_eq!(claims["tpm"]["pcr11"], "4b".repeat(32));
            assert_eq!(claims["vm-configuration"]["secure-boot"], true);
            if tee == Tee::AzTdxVtpm {
                assert_eq!(claims["td_attributes"]["debug"], false);
                assert_eq!(claims["quote"]["header"]["tee_type"], "81000000");
                assert_eq!(claims["tcb_status"], "UpToDate");
            } else {
                assert_eq!(claims["policy_debug_allowed"], "false");
                assert_eq!(claims["reported_tcb_microcode"], "72");
            }
        }
    }
}

#[test]
fn a_vm_that_its_host_may_debug_says_so() {
    let mut forge = AzForge::snp();
    forge.snp.report.policy |= 1 << 19;
    let examination = forge.examine();
    accepted(&examination);
    assert_eq!(examination.claims[0].1["policy_debug_allowed"], "true");

    let mut forge = AzForge::tdx();
    forge.tdx.report.td_attributes[0] |= 1;
    let examination = forge.examine();
    accepted(&examination);
    assert_eq!(examination.claims[0].1["td_attributes"]["debug"], true);
}

#[test]
fn initdata_in_pcr_8_is_bound() {
    let mut forge = AzForge::snp();
    let digest = vec![3; 32];
    let pcr8 = forge.ak.hash(&[vec![0; 32], digest.clone()].concat());
    forge.quote.pcrs[8] = pcr8.clone();
    forge.quote.sent[8] = pcr8;
    let examination = with_initdata(&forge, digest);
    accepted(&examination);
    assert_eq!(
        outcome(&examination, Check::InitData),
        Some(StepOutcome::Passed)
    );
}

#[test]
fn older_evidence_without_user_data_says_so() {
    let mut forge = AzForge::snp();
    forge.version = json!(1);
    forge.variable_data["user-data"] = json!(user_data(&[]));
    let examination = forge.examine();
    accepted(&examination);
    assert_eq!(examination.claims[0].1["user_data_bound"], false);
    assert!(matches!(
        outcome(&examination, Check::AzureUserData),
        Some(StepOutcome::Skipped(_))
    ));
}

#[test]
fn pcrs_that_were_not_quoted_are_not_claimed() {
    let mut forge = AzForge::snp();
    let chosen: Vec<usize> = (0..=10).chain([23]).collect();
    forge.quote.selections = vec![selection(SHA256, &chosen)];
    forge.quote.sent[11] = forge.quote.pcrs[23].clone();
    let examination = forge.examine();
    accepted(&examination);
    let tpm = examination.claims[0].1["tpm"].as_object().unwrap();
    assert_eq!(tpm.len(), 12);
    assert!(!tpm.contains_key("pcr11"));
}

// --- the quote

#[test]
fn another_magic() {
    changed(Check::TpmMagic, |forge| forge.quote.magic = 0);
}

#[test]
fn an_attestation_of_another_kind() {
    changed(Check::TpmQuoteType, |forge| forge.quote.kind = 0x8014);
}

#[test]
fn a_signature_by_another_key() {
    changed(Check::TpmSignature, |forge| {
        forge.signature = Some(Ak::rsa().sign(&forge.quote.message(&forge.ak)));
    });
}

#[test]
fn a_signature_over_another_quote() {
    changed(Check::TpmSignature, |forge| {
        let mut other = forge.quote.clone();
        other.firmware_version += 1;
        forge.message = Some(other.message(&forge.ak));
    });
}

#[test]
fn no_signature() {
    changed(Check::TpmSignature, |forge| {
        forge.signature = Some(Vec::new())
    });
}

#[test]
fn report_data_of_another_session() {
    changed(Check::ReportData, |forge| {
        forge.quote.extra_data = vec![0xAC; 48]
    });
}

#[test]
fn report_data_that_was_padded() {
    changed(Check::ReportData, |forge| {
        forge.quote.extra_data.extend([0; 16])
    });
}

#[test]
fn report_data_that_was_cut() {
    changed(Check::ReportData, |forge| {
        forge.quote.extra_data.truncate(32)
    });
}

#[test]
fn the_sha1_bank() {
    changed(Check::TpmPcrBank, |forge| {
        forge.quote.selections[0].0 = SHA1
    });
}

#[test]
fn the_sha384_bank() {
    changed(Check::TpmPcrBank, |forge| {
        forge.quote.selections[0].0 = SHA384
    });
}

#[test]
fn two_banks() {
    changed(Check::TpmPcrBank, |forge| {
        forge.quote.selections.insert(0, (SHA1, vec![0xff; 3]));
    });
}

#[test]
fn a_selection_of_nothing() {
    changed(Check::TpmPcrSelection, |forge| {
        forge.quote.selections[0].1.fill(0)
    });
}

#[test]
fn pcr_23_passed_as_pcr_11() {
    changed(Check::TpmPcrValues, |forge| {
        let chosen: Vec<usize> = (0..=10).chain([23]).collect();
        forge.quote.selections = vec![selection(SHA256, &chosen)];
        forge.quote.sent = forge.quote.selected();
    });
}

#[test]
fn pcr_9_shifted_to_pcr_8() {
    let mut forge = AzForge::snp();
    let digest = vec![3; 32];
    // The guest extends PCR 9 as PCR 8 should have been, and leaves PCR 8 out.
    forge.quote.pcrs[9] = forge.ak.hash(&[vec![0; 32], digest.clone()].concat());
    let chosen: Vec<usize> = (0..=7).chain(9..24).collect();
    forge.quote.selections = vec![selection(SHA256, &chosen)];
    forge.quote.sent = forge.quote.selected();
    refused(&with_initdata(&forge, digest.clone()), Check::TpmPcrValues);

    // With a value too many at the end, so that there is one for PCR 23.
    forge.quote.sent.push(vec![0; 32]);
    refused(&with_initdata(&forge, digest.clone()), Check::TpmPcrDigest);

    // Each value in its place: true, and of no use.
    forge.quote.sent = forge.quote.pcrs.clone();
    forge.quote.sent[8] = forge.quote.pcrs[9].clone();
    refused(&with_initdata(&forge, digest), Check::InitData);
}

#[test]
fn fewer_values_than_selected() {
    changed(Check::TpmPcrValues, |forge| forge.quote.sent.truncate(8));
}

#[test]
fn a_value_too_many() {
    changed(Check::TpmPcrValues, |forge| {
        forge.quote.sent.push(vec![0; 32])
    });
}

#[test]
fn values_of_another_length() {
    for length in [0, 20, 31, 33, 48, 64] {
        changed(Check::TpmPcrValues, |forge| {
            forge.quote.sent[8] = vec![0; length]
        });
    }
}

#[test]
fn another_value() {
    changed(Check::TpmPcrDigest, |forge| forge.quote.sent[11][0] ^= 0x80);
}

// --- init-data

#[test]
fn initdata_of_another_digest() {
    refused(
        &with_initdata(&AzForge::snp(), vec![1; 32]),
        Check::InitData,
    );
}

#[test]
fn initdata_of_sha384_and_sha512() {
    for length in [48, 64] {
        let error = refused(
            &with_initdata(&AzForge::snp(), vec![1; length]),
            Check::InitData,
        );
        assert!(error.to_string().contains("cannot be extended"), "{error}");
    }
}

#[test]
fn initdata_beside_a_quote_without_pcr_8() {
    let mut forge = AzForge::tdx();
    forge.quote.selections = vec![selection(SHA256, &[0, 11])];
    refused(&with_initdata(&forge, vec![1; 32]), Check::InitData);
}

// --- the HCL report

#[test]
fn a_report_of_another_kind() {
    changed(Check::Structure, |forge| forge.magic = *b"HCLB");
}

#[test]
fn a_report_that_says_tdx_for_snp() {
    changed(Check::AzureReportType, |forge| forge.report_type = 4);
}

#[test]
fn a_report_that_says_snp_for_tdx() {
    changed_tdx(Check::AzureReportType, |forge| forge.report_type = 2);
}

#[test]
fn a_report_of_a_vm_without_isolation() {
    changed(Check::AzureReportType, |forge| forge.report_type = 1);
}

#[test]
fn a_report_with_another_hash() {
    changed(Check::AzureReportHash, |forge| forge.hash_type = 2);
}

#[test]
fn a_runtime_size_that_does_not_fit_its_data() {
    changed(Check::Structure, |forge| forge.size_error = 1);
}

#[test]
fn a_length_beyond_the_report() {
    changed(Check::Structure, |forge| {
        forge.size_error = 1 << 20;
        forge.length_error = 1 << 20;
    });
}

#[test]
fn a_length_that_takes_in_the_padding() {
    changed(Check::Structure, |forge| {
        forge.size_error = 1;
        forge.length_error = 1;
    });
}

#[test]
fn an_attestation_key_that_the_hardware_does_not_bind() {
    changed(Check::AzureVariableData, |forge| {
        let mut honest = forge.variable_data.clone();
        honest["keys"][0] = Ak::rsa().jwk();
        forge.bound = Some(honest);
    });
}

#[test]
fn a_vm_configuration_that_the_hardware_does_not_bind() {
    changed_tdx(Check::AzureVariableData, |forge| {
        let mut honest = forge.variable_data.clone();
        honest["vm-configuration"]["secure-boot"] = json!(false);
        forge.bound = Some(honest);
    });
}

#[test]
fn report_data_with_something_after_the_digest() {
    changed(Check::AzureVariableData, |forge| {
        let mut data = forge.hardware_report_data();
        data.resize(64, 0);
        data[63] = 1;
        forge.report_data = Some(data);
    });
    changed_tdx(Check::AzureVariableData, |forge| {
        let mut data = forge.hardware_report_data();
        data.resize(64, 0);
        data[32] = 1;
        forge.report_data = Some(data);
    });
}

#[test]
fn report_data_of_zeros() {
    changed(Check::AzureVariableData, |forge| {
        forge.report_data = Some(Vec::new())
    });
}

#[test]
fn report_data_by_another_hash() {
    changed(Check::AzureVariableData, |forge| {
        let text = forge.variable_data.to_string();
        let digest = digest::digest(&digest::SHA384, text.as_bytes());
        forge.report_data = Some(digest.as_ref().to_vec());
    });
}

#[test]
fn user_data_of_another_session() {
    changed(Check::AzureUserData, |forge| {
        forge.variable_data["user-data"] = json!(user_data(&[0xAC; 48]));
    });
    changed_tdx(Check::AzureUserData, |forge| {
        forge.variable_data["user-data"] = json!(user_data(&[0xAC; 48]));
    });
}

#[test]
fn user_data_that_is_absent() {
    changed(Check::AzureUserData, |forge| {
        forge
            .variable_data
            .as_object_mut()
            .unwrap()
            .remove("user-data");
    });
}

#[test]
fn user_data_shorter_than_the_report_data() {
    changed(Check::AzureUserData, |forge| {
        forge.variable_data["user-data"] = json!("ABAB");
    });
}

#[test]
fn user_data_without_its_padding() {
    changed(Check::AzureUserData, |forge| {
        forge.variable_data["user-data"] = json!("AB".repeat(48));
    });
}

#[test]
fn user_data_with_something_after_the_report_data() {
    changed(Check::AzureUserData, |forge| {
        let tail = [&REPORT_DATA[..], &[0; 15], &[1]].concat();
        forge.variable_data["user-data"] = json!(user_data(&tail));
    });
}

#[test]
fn user_data_that_is_no_hex() {
    changed(Check::Structure, |forge| {
        forge.variable_data["user-data"] = json!("xyz")
    });
}

#[test]
fn no_attestation_key() {
    changed(Check::Structure, |forge| {
        forge.variable_data["keys"] = json!([])
    });
}

#[test]
fn two_attestation_keys() {
    changed(Check::Structure, |forge| {
        let key = forge.ak.jwk();
        forge.variable_data["keys"] = json!([key, Ak::rsa().jwk()]);
    });
}

#[test]
fn an_attestation_key_under_another_name() {
    changed(Check::Structure, |forge| {
        forge.variable_data["keys"][0]["kid"] = json!("HCLEkPub");
    });
}

#[test]
fn an_attestation_key_of_another_kind() {
    changed(Check::Structure, |forge| {
        forge.variable_data["keys"][0]["kty"] = json!("oct")
    });
}

#[test]
fn an_attestation_key_too_small_to_trust() {
    changed(Check::TpmSignature, |forge| {
        // 1024 bits.
        let modulus = format!("w{}", "A".repeat(169) + "E");
        forge.variable_data["keys"][0]["n"] = json!(modulus);
    });
}

// --- the hardware

#[test]
fn a_vm_at_another_privilege_level() {
    changed(Check::SnpVmpl, |forge| forge.snp.report.vmpl = 1);
}

#[test]
fn a_report_of_version_2() {
    changed(Check::SnpVersion, |forge| {
        forge.snp.report.version = 2;
        forge.snp.report.cpuid_fam_id = 0;
        forge.snp.report.cpuid_mod_id = 0;
        forge.snp.report.cpuid_step = 0;
    });
}

#[test]
fn a_report_of_another_chip() {
    changed(Check::SnpChipId, |forge| forge.snp.report.chip_id[0] ^= 1);
}

#[test]
fn a_report_of_an_older_tcb() {
    changed(Check::SnpTcb, |forge| {
        forge.snp.report.reported_tcb.microcode -= 1
    });
}

#[test]
fn a_report_with_a_bit_turned() {
    changed(Check::SnpSignature, |forge| {
        forge.snp.tampering = vec![(0x90, 1)]
    });
}

#[test]
fn a_vcek_that_has_expired() {
    changed(Check::SnpChain, |forge| {
        forge.snp.certificate.not_after = NOW - 1
    });
}

#[test]
fn a_vcek_by_another_root() {
    let forge = AzForge::snp();
    let anchors = TrustAnchors::vendors();
    let examination = run(
        forge.tee,
        &forge.json(),
        &Collateral::none(),
        &anchors,
        &report_data(&REPORT_DATA),
        NOW,
    );
    refused(&examination, Check::SnpChain);
}

#[test]
fn no_vcek() {
    let error = changed(Check::Collateral, |forge| forge.with_vcek = false);
    assert!(matches!(error, VerifyError::MissingCollateral { .. }));
}

#[test]
fn a_vcek_that_collateral_brings() {
    let mut forge = AzForge::snp();
    forge.with_vcek = false;
    let json = forge.json();
    let evidence = Evidence::parse(forge.tee, json.to_string().as_bytes()).unwrap();
    let mut collateral = Collateral::none();
    let wanted = evidence.collateral_request();
    let wanted = wanted.iter().find(|wanted| wanted.is_required()).unwrap();
    let item = |body| CollateralItem {
        body,
        issuer_chain: String::new(),
    };
    let anchors = TrustAnchors::none()
        .with_development_root(&forge.root.certificate_pem())
        .unwrap();
    let look = |collateral: &Collateral| {
        run(
            forge.tee,
            &json,
            collateral,
            &anchors,
            &report_data(&REPORT_DATA),
            NOW,
        )
    };
    collateral.insert(wanted.clone(), item(forge.snp.certificate_der().unwrap()));
    accepted(&look(&collateral));
    collateral.insert(wanted.clone(), item(b"no certificate".to_vec()));
    refused(&look(&collateral), Check::Collateral);
}

#[test]
fn a_vcek_that_is_no_certificate() {
    let forge = AzForge::snp();
    let mut json = forge.json();
    json["vcek"] = json!("AAAA");
    refused(&forge.examine_json(&json), Check::Structure);
}

#[test]
fn a_quote_of_another_td() {
    let forge = AzForge::tdx();
    let mut json = forge.json();
    json["td_quote"] = AzForge::tdx().json()["td_quote"].clone();
    refused(&forge.examine_json(&json), Check::AzureVariableData);
}

#[test]
fn a_td_quote_with_a_bit_turned() {
    // In MRTD.
    changed_tdx(Check::QuoteSignature, |forge| {
        forge.tdx.tampering = vec![(48 + 136, 1)]
    });
}

#[test]
fn a_td_quote_by_another_root() {
    let forge = AzForge::tdx();
    let json = forge.json();
    let examination = run(
        forge.tee,
        &json,
        &forge.collateral(&json),
        &TrustAnchors::vendors(),
        &report_data(&REPORT_DATA),
        NOW,
    );
    refused(&examination, Check::IntelRoot);
}

#[test]
fn no_collateral_for_a_td() {
    let forge = AzForge::tdx();
    let anchors = TrustAnchors::none()
        .with_development_root(&forge.root.certificate_pem())
        .unwrap();
    let examination = run(
        forge.tee,
        &forge.json(),
        &Collateral::none(),
        &anchors,
        &report_data(&REPORT_DATA),
        NOW,
    );
    let error = refused(&examination, Check::Collateral);
    assert!(matches!(error, VerifyError::MissingCollateral { .. }));
}

#[test]
fn an_enclaves_quote_for_a_tds() {
    let forge = AzForge::tdx();
    let mut json = forge.json();
    let quote = sgx::Forge::new(&forge.root).quote_bytes().unwrap();
    json["td_quote"] = json!(URL_SAFE.encode(quote));
    refused(&forge.examine_json(&json), Check::Structure);
}

// --- the JSON

#[test]
fn evidence_of_one_platform_under_the_name_of_the_other() {
    let (mut snp, mut tdx) = (AzForge::snp(), AzForge::tdx());
    let (snp_json, tdx_json) = (snp.json(), tdx.json());
    (snp.tee, tdx.tee) = (tdx.tee, snp.tee);
    refused(&snp.examine_json(&snp_json), Check::Structure);
    refused(&tdx.examine_json(&tdx_json), Check::AzureReportType);
}

#[test]
fn versions_that_there_are_not() {
    for version in [
        json!(0),
        json!(3),
        json!(256),
        json!(-1),
        json!("2"),
        json!(1.5),
    ] {
        changed(Check::Structure, |forge| forge.version = version);
    }
}

#[test]
fn the_form_of_another_version() {
    let forge = AzForge::snp();
    let mut numbers = forge.numbers();
    numbers["version"] = json!(1);
    refused(&forge.examine_json(&numbers), Check::Structure);
    let mut text = forge.json();
    text.as_object_mut().unwrap().remove("version");
    refused(&forge.examine_json(&text), Check::Structure);
}

#[test]
fn members_of_another_form() {
    let forge = AzForge::snp();
    for (pointer, value) in [
        ("/tpm_quote", json!([])),
        ("/tpm_quote/signature", json!("0")),
        ("/tpm_quote/message", json!("")),
        ("/tpm_quote/message", json!("zz")),
        ("/tpm_quote/pcrs", json!("00")),
        ("/tpm_quote/pcrs/3", json!(0)),
        ("/hcl_report", json!("")),
        ("/hcl_report", json!("+/==")),
        ("/vcek", json!("====")),
    ] {
        let mut json = forge.json();
        *json.pointer_mut(pointer).unwrap() = value;
        refused(&forge.examine_json(&json), Check::Structure);
    }
}

#[test]
fn oversized_evidence_is_refused_before_parsing() {
    let text = " ".repeat(128 * 1024 + 1);
    let error = Evidence::parse(Tee::AzTdxVtpm, text.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");
}

fn with_initdata(forge: &AzForge, digest: Vec<u8>) -> Examination {
    forge.examine_expecting(
        &forge.json(),
        &Expected {
            report_data: Some(REPORT_DATA.to_vec()),
            initdata: ExpectedInitdata::Digest(digest),
        },
    )
}
