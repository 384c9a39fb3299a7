//! TDX and SGX evidence under a development root: honest evidence passes, and each wrong field fails its own check.
#![allow(clippy::unwrap_used, missing_docs)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use strongroom_attester::development::intel::{Collateral as Pcs, Status};
use strongroom_attester::development::tdx::{Event, Format};
use strongroom_attester::development::{DevelopmentRoot, sgx, tdx};
use strongroom_verifier::{
    Assurance, Check, Collateral, CollateralItem, Evidence, Examination, Expected,
    ExpectedInitdata, StepOutcome, TrustAnchors, Wanted, examine,
};
use strongroom_wire::tee::Tee;

/// 2026-01-01.
const NOW: u64 = 1_767_225_600;
const DAY: u64 = 24 * 60 * 60;

/// What one verification is given: honest as it is made, and every part to change.
struct Case<F> {
    forge: F,
    /// For TCB info, QE identity, PCK list and root list in turn, so that one can be changed alone.
    tcb_info: Pcs,
    qe_identity: Pcs,
    pck_crl: Pcs,
    root_crl: Pcs,
    /// Changes an answer after it was signed; `None` leaves it out.
    answer: fn(Answer, &DevelopmentRoot, CollateralItem) -> Option<CollateralItem>,
    /// Changes the evidence's JSON.
    evidence: fn(&mut Value),
    anchors: TrustAnchors,
    expected: Expected,
    now: u64,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Answer {
    TcbInfo,
    QeIdentity,
    PckCrl,
    RootCrl,
}

trait Forged {
    const TEE: Tee;
    fn root(&self) -> &DevelopmentRoot;
    fn json(&self) -> String;
}

impl Forged for tdx::Forge {
    const TEE: Tee = Tee::Tdx;
    fn root(&self) -> &DevelopmentRoot {
        &self.root
    }
    fn json(&self) -> String {
        self.evidence_json().unwrap()
    }
}

impl Forged for sgx::Forge {
    const TEE: Tee = Tee::Sgx;
    fn root(&self) -> &DevelopmentRoot {
        &self.root
    }
    fn json(&self) -> String {
        self.evidence_json().unwrap()
    }
}

fn new_root() -> DevelopmentRoot {
    DevelopmentRoot::generate(NOW - 100 * DAY).unwrap()
}

impl Case<tdx::Forge> {
    fn tdx(format: Format) -> Self {
        let root = new_root();
        Self::of(tdx::Forge::of(&root, format), &root)
    }
}

impl Case<sgx::Forge> {
    fn sgx() -> Self {
        let root = new_root();
        Self::of(sgx::Forge::new(&root), &root)
    }
}

impl<F: Forged> Case<F> {
    fn of(forge: F, root: &DevelopmentRoot) -> Self {
        let pcs = Pcs::new(root, F::TEE == Tee::Tdx);
        Self {
            forge,
            tcb_info: pcs.clone(),
            qe_identity: pcs.clone(),
            pck_crl: pcs.clone(),
            root_crl: pcs,
            answer: |_, _, item| Some(item),
            evidence: |_| {},
            anchors: TrustAnchors::none()
                .with_development_root(&root.certificate_pem())
                .unwrap(),
            expected: Expected {
                report_data: Some(vec![0; 48]),
                initdata: ExpectedInitdata::None,
            },
            now: NOW,
        }
    }

    fn collateral(&self, evidence: &Evidence) -> Collateral {
        let mut collateral = Collateral::none();
        for wanted in evidence.collateral_request().iter() {
            let (answer, body, issuer_chain) = match wanted {
                Wanted::IntelTcbInfo { .. } => (
                    Answer::TcbInfo,
                    self.tcb_info.tcb_info().unwrap().into_bytes(),
                    self.tcb_info.signing_chain().unwrap(),
                ),
                Wanted::IntelQeIdentity { .. } => (
                    Answer::QeIdentity,
                    self.qe_identity.qe_identity().unwrap().into_bytes(),
                    self.qe_identity.signing_chain().unwrap(),
                ),
                Wanted::IntelPckCrl { platform, .. } => (
                    Answer::PckCrl,
                    self.pck_crl.pck_crl(*platform).unwrap(),
                    self.pck_crl.pck_crl_chain(*platform).unwrap(),
                ),
                Wanted::IntelRootCrl { .. } => (
                    Answer::RootCrl,
                    self.root_crl.root_crl().unwrap(),
                    String::new(),
                ),
                other => panic!("{other}"),
            };
            let item = CollateralItem { body, issuer_chain };
            if let Some(item) = (self.answer)(answer, self.forge.root(), item) {
                collateral.insert(wanted.clone(), item);
            }
        }
        collateral
    }

    fn examine(&self) -> Result<Examination, Check> {
        let mut json: Value = serde_json::from_str(&self.forge.json()).unwrap();
        (self.evidence)(&mut json);
        let evidence =
            Evidence::parse(F::TEE, json.to_string().as_bytes()).map_err(|error| error.check())?;
        let collateral = self.collateral(&evidence);
        Ok(examine(
            evidence,
            &collateral,
            &self.anchors,
            &self.expected,
            self.now,
        ))
    }

    /// The claims, when every check that was made passed.
    fn claims(&self) -> Value {
        let examination = self.examine().unwrap();
        assert_eq!(examination.error, None);
        for step in &examination.steps {
            assert!(!matches!(step.outcome, StepOutcome::Failed(_)), "{step:?}");
        }
        assert_eq!(examination.assurance, Assurance::Development);
        let [(tee, claims)] = <[_; 1]>::try_from(examination.claims).unwrap();
        assert_eq!(tee, F::TEE);
        Value::Object(claims)
    }

    fn assert_refused(&self, check: Check) {
        let examination = match self.examine() {
            Ok(examination) => examination,
            Err(found) => return assert_eq!(found, check),
        };
        let error = examination.error.expect("accepted");
        assert_eq!(error.check(), check, "{error}");
        // The record ends with the check that failed, and names it as failed.
        let (last, before) = examination.steps.split_last().unwrap();
        assert_eq!(last.check, check);
        assert!(matches!(last.outcome, StepOutcome::Failed(_)));
        for step in before {
            assert!(!matches!(step.outcome, StepOutcome::Failed(_)), "{step:?}");
        }
    }
}

/// One test for each field: the case that it changes, how, and the check that refuses it.
macro_rules! refused {
    ($($name:ident: $case:expr, $check:ident, |$c:ident| $change:block)+) => {
        $(
            #[test]
            fn $name() {
                let mut case = $case;
                {
                    let $c = &mut case;
                    $change
                }
                case.assert_refused(Check::$check);
            }
        )+
    };
}

/// Where the parts of a quote of version 4 begin.
const V4_SIGNATURE: usize = 48 + 584 + 4;
const V4_ATTESTATION_KEY: usize = V4_SIGNATURE + 64;
const V4_QE_REPORT: usize = V4_ATTESTATION_KEY + 64 + 2 + 4;
const V4_QE_REPORT_SIGNATURE: usize = V4_QE_REPORT + 384;

fn v4() -> Case<tdx::Forge> {
    Case::tdx(Format::V4)
}

fn v5() -> Case<tdx::Forge> {
    Case::tdx(Format::V5Td15)
}

fn quote_of(value: &Value) -> Vec<u8> {
    STANDARD.decode(value["quote"].as_str().unwrap()).unwrap()
}

fn replaced(item: CollateralItem, from: &str, to: &str) -> CollateralItem {
    let body = String::from_utf8(item.body).unwrap();
    assert!(body.contains(from), "{body}");
    CollateralItem {
        body: body.replacen(from, to, 1).into_bytes(),
        ..item
    }
}

// ---- the quote alone

refused! {
    text_that_is_no_base64: v4(), Structure, |c| {
        c.evidence = |json| json["quote"] = json!("?");
    }
    missing_quote: v4(), Structure, |c| {
        c.evidence = |json| drop(json.as_object_mut().unwrap().remove("quote"));
    }
    quote_that_is_cut: v4(), Structure, |c| {
        c.evidence = |json| {
            let quote = quote_of(json);
            json["quote"] = json!(STANDARD.encode(&quote[..quote.len() - 1]));
        };
    }
    quote_with_bytes_after_it: v4(), Structure, |c| {
        c.evidence = |json| {
            let quote = [quote_of(json), vec![0, 0, 1]].concat();
            json["quote"] = json!(STANDARD.encode(quote));
        };
    }
    quote_of_version_6: v4(), Structure, |c| { c.forge.header.version = 6; }
    quote_of_another_tee: v4(), Structure, |c| { c.forge.header.tee_type = 0x82; }
    body_size_that_is_not_its_types: v5(), Structure, |c| {
        c.forge.tampering = vec![(50, 1)];
    }
    body_of_tdx_said_to_be_sgx: v5(), QuoteTeeType, |c| { c.forge.header.tee_type = 0; }
    other_quoting_enclaves_vendor: v4(), QuoteVendor, |c| { c.forge.header.qe_vendor_id[15] = 8; }
    attestation_key_on_p_384: v4(), QuoteKeyType, |c| { c.forge.header.attestation_key_type = 3; }
    certification_data_without_a_chain: v4(), PckCertificates, |c| {
        c.forge.quoting.certification_type = 4;
    }
    development_root_that_is_not_trusted: v4(), IntelRoot, |c| { c.anchors = TrustAnchors::vendors(); }
    root_of_somebody_else: v4(), IntelRoot, |c| {
        c.anchors = TrustAnchors::none()
            .with_development_root(&new_root().certificate_pem())
            .unwrap();
    }
    pck_certificate_that_expired: v4(), PckChain, |c| { c.forge.pck.not_after = NOW - 1; }
    pck_certificate_of_the_future: v4(), PckChain, |c| { c.forge.pck.not_before = NOW + 1; }
    root_that_expired: v4(), PckChain, |c| { c.now = NOW + 20 * 366 * DAY; }
    root_of_the_future: v4(), PckChain, |c| { c.now = NOW - 200 * DAY; }
    quoting_enclaves_report_changed: v4(), QeReportSignature, |c| {
        c.forge.tampering = vec![(V4_QE_REPORT + 64, 1)];
    }
    quoting_enclaves_signature_changed: v4(), QeReportSignature, |c| {
        c.forge.tampering = vec![(V4_QE_REPORT_SIGNATURE, 1)];
    }
    attestation_key_that_the_quoting_enclave_did_not_bind: v4(), QeReportData, |c| {
        c.forge.quoting.binding = Some([7; 32]);
    }
    attestation_key_changed: v4(), QeReportData, |c| {
        c.forge.tampering = vec![(V4_ATTESTATION_KEY, 1)];
    }
    authentication_data_changed: v4(), QeReportData, |c| {
        c.forge.tampering = vec![(V4_QE_REPORT_SIGNATURE + 64 + 2, 1)];
    }
    quoting_enclaves_report_data_with_more_in_it: v4(), QeReportData, |c| {
        c.forge.quoting.report.report_data[40] = 1;
    }
    signature_changed: v4(), QuoteSignature, |c| { c.forge.tampering = vec![(V4_SIGNATURE, 1)]; }
    report_data_changed: v4(), QuoteSignature, |c| { c.forge.tampering = vec![(48 + 583, 1)]; }
    mr_td_changed: v4(), QuoteSignature, |c| { c.forge.tampering = vec![(48 + 136, 1)]; }
    debug_bit_cleared: v4(), QuoteSignature, |c| {
        c.forge.report.td_attributes[0] = 1;
        c.forge.tampering = vec![(48 + 120, 1)];
    }
    user_data_of_the_header_changed: v4(), QuoteSignature, |c| { c.forge.tampering = vec![(47, 1)]; }
    service_td_of_tdx_1_5_changed: v5(), QuoteSignature, |c| {
        c.forge.tampering = vec![(48 + 6 + 647, 1)];
    }
}

#[test]
fn quote_of_version_3_is_refused_for_a_td() {
    let root = new_root();
    let quote = sgx::Forge::new(&root).quote_bytes().unwrap();
    let mut case = Case::of(tdx::Forge::new(&root), &root);
    case.evidence = |_| {};
    let evidence = json!({ "quote": STANDARD.encode(quote) }).to_string();
    let evidence = Evidence::parse(Tee::Tdx, evidence.as_bytes()).unwrap();
    let collateral = case.collateral(&evidence);
    let found = examine(evidence, &collateral, &case.anchors, &case.expected, NOW);
    assert_eq!(found.error.unwrap().check(), Check::QuoteVersion);
}

#[test]
fn quote_of_version_4_is_refused_for_an_enclave() {
    let root = new_root();
    let quote = tdx::Forge::new(&root).quote_bytes().unwrap();
    let case = Case::of(sgx::Forge::new(&root), &root);
    let evidence = json!({ "quote": STANDARD.encode(quote) }).to_string();
    let evidence = Evidence::parse(Tee::Sgx, evidence.as_bytes()).unwrap();
    let collateral = case.collateral(&evidence);
    let found = examine(evidence, &collateral, &case.anchors, &case.expected, NOW);
    assert_eq!(found.error.unwrap().check(), Check::QuoteVersion);
}

// ---- collateral: what is there, who signed it, until when

refused! {
    no_tcb_info: v4(), Collateral, |c| {
        c.answer = |answer, _, item| (answer != Answer::TcbInfo).then_some(item);
    }
    no_qe_identity: v4(), Collateral, |c| {
        c.answer = |answer, _, item| (answer != Answer::QeIdentity).then_some(item);
    }
    no_pck_list: v4(), Collateral, |c| {
        c.answer = |answer, _, item| (answer != Answer::PckCrl).then_some(item);
    }
    no_root_list: v4(), Collateral, |c| {
        c.answer = |answer, _, item| (answer != Answer::RootCrl).then_some(item);
    }
    oversized_collateral: v4(), Collateral, |c| {
        c.answer = |answer, _, mut item| {
            if answer == Answer::TcbInfo {
                item.body.resize(2 * 1024 * 1024, b' ');
            }
            Some(item)
        };
    }
    root_list_that_is_no_list: v4(), RootCrl, |c| {
        c.answer = |answer, _, mut item| {
            if answer == Answer::RootCrl {
                item.body.truncate(20);
            }
            Some(item)
        };
    }
    root_list_with_a_changed_signature: v4(), RootCrl, |c| {
        c.answer = |answer, _, mut item| {
            if answer == Answer::RootCrl {
                *item.body.last_mut().unwrap() ^= 1;
            }
            Some(item)
        };
    }
    pck_list_in_the_place_of_the_roots: v4(), RootCrl, |c| {
        c.answer = |answer, root, mut item| {
            if answer == Answer::RootCrl {
                item.body = Pcs::new(root, true).pck_crl(true).unwrap();
            }
            Some(item)
        };
    }
    root_list_of_another_root: v4(), RootCrl, |c| { c.root_crl = Pcs::new(&new_root(), true); }
    pck_list_that_expired: v4(), PckCrl, |c| { c.pck_crl.next_update = NOW - 1; }
    pck_list_of_the_future: v4(), PckCrl, |c| { c.pck_crl.issued = NOW + 1; }
    pck_list_with_a_changed_signature: v4(), PckCrl, |c| {
        c.answer = |answer, _, mut item| {
            if answer == Answer::PckCrl {
                *item.body.last_mut().unwrap() ^= 1;
            }
            Some(item)
        };
    }
    pck_list_of_the_other_ca: v4(), PckCrl, |c| {
        c.answer = |answer, root, mut item| {
            if answer == Answer::PckCrl {
                item.body = Pcs::new(root, true).pck_crl(false).unwrap();
            }
            Some(item)
        };
    }
    pck_list_by_another_roots_ca: v4(), PckCrl, |c| { c.pck_crl = Pcs::new(&new_root(), true); }
    revoked_pck_certificate: v4(), PckRevocation, |c| { c.pck_crl.revoked_pck = true; }
    revoked_pck_ca: v4(), PckRevocation, |c| { c.root_crl.revoked_ca = true; }
    tcb_info_signer_of_another_root: v4(), TcbInfoChain, |c| {
        c.tcb_info = Pcs::new(&new_root(), true);
    }
    tcb_info_without_its_signer: v4(), TcbInfoChain, |c| {
        c.answer = |answer, _, mut item| {
            if answer == Answer::TcbInfo {
                item.issuer_chain.clear();
            }
            Some(item)
        };
    }
    tcb_info_signed_by_a_ca: v4(), DcapProcedure, |c| {
        c.answer = |answer, root, mut item| {
            if answer == Answer::TcbInfo {
                item.issuer_chain = Pcs::new(root, true).pck_crl_chain(true).unwrap();
            }
            Some(item)
        };
    }
    qe_identity_signer_of_another_root: v4(), QeIdentityChain, |c| {
        c.qe_identity = Pcs::new(&new_root(), true);
    }
    tcb_info_that_is_no_json: v4(), TcbInfoForm, |c| {
        c.answer = |answer, _, mut item| {
            if answer == Answer::TcbInfo {
                item.body.pop();
            }
            Some(item)
        };
    }
    tcb_info_with_a_short_signature: v4(), TcbInfoForm, |c| {
        c.answer = |answer, _, item| Some(match answer {
            Answer::TcbInfo => replaced(item, "\"signature\":\"", "\"signature\":\"00"),
            _ => item,
        });
    }
    tcb_info_with_a_status_that_there_is_not: v4(), TcbInfoForm, |c| {
        c.tcb_info.levels[0].status.status = "Fine".to_owned();
    }
    tcb_info_that_expired: v4(), TcbInfoCurrent, |c| { c.tcb_info.next_update = NOW - 1; }
    tcb_info_of_the_future: v4(), TcbInfoCurrent, |c| { c.tcb_info.issued = NOW + 1; }
    tcb_info_with_a_better_status: v4(), TcbInfoSignature, |c| {
        c.answer = |answer, _, item| Some(match answer {
            Answer::TcbInfo => replaced(item, "OutOfDate", "UpToDate"),
            _ => item,
        });
    }
    tcb_info_written_anew: v4(), TcbInfoSignature, |c| {
        c.answer = |answer, _, item| Some(match answer {
            Answer::TcbInfo => replaced(item, "\"tcbLevels\":", "\"tcbLevels\": "),
            _ => item,
        });
    }
    qe_identity_that_is_no_json: v4(), QeIdentityForm, |c| {
        c.answer = |answer, _, mut item| {
            if answer == Answer::QeIdentity {
                item.body.pop();
            }
            Some(item)
        };
    }
    qe_identity_with_a_status_that_there_is_not: v4(), QeIdentityForm, |c| {
        c.qe_identity.qe_levels[0].1.status = "Fine".to_owned();
    }
    qe_identity_of_sgx_for_a_td: v4(), QeIdentityForm, |c| { c.qe_identity.tdx = false; }
    qe_identity_that_expired: v4(), QeIdentityCurrent, |c| { c.qe_identity.next_update = NOW - 1; }
    qe_identity_of_the_future: v4(), QeIdentityCurrent, |c| { c.qe_identity.issued = NOW + 1; }
    qe_identity_with_a_better_status: v4(), QeIdentitySignature, |c| {
        c.answer = |answer, _, item| Some(match answer {
            Answer::QeIdentity => replaced(item, "OutOfDate", "UpToDate"),
            _ => item,
        });
    }
}

// ---- what the collateral says of the platform

refused! {
    authentication_data_of_another_length: v4(), QeAuthenticationData, |c| {
        c.forge.quoting.auth_data = vec![0; 16];
    }
    quoting_enclave_of_another_signer: v4(), QeIdentityMatch, |c| {
        c.forge.quoting.report.mr_signer = [1; 32];
    }
    quoting_enclave_that_is_another_product: v4(), QeIdentityMatch, |c| {
        c.forge.quoting.report.isv_prod_id = 9;
    }
    quoting_enclave_with_another_miscselect: v4(), QeIdentityMatch, |c| {
        c.forge.quoting.report.misc_select = 1;
    }
    quoting_enclave_with_other_attributes: v4(), QeIdentityMatch, |c| {
        c.forge.quoting.report.attributes[0] ^= 0x20;
    }
    quoting_enclave_that_can_be_debugged: v4(), QeIdentityMatch, |c| {
        c.forge.quoting.report.attributes[0] |= 2;
    }
    quoting_enclave_below_every_level: v4(), QeTcbLevel, |c| {
        c.qe_identity.qe_levels.truncate(1);
        c.forge.quoting.report.isv_svn -= 1;
    }
    qe_identity_without_levels: v4(), QeTcbLevel, |c| { c.qe_identity.qe_levels.clear(); }
    qe_identity_with_a_platforms_status: v4(), QeTcbLevel, |c| {
        c.qe_identity.qe_levels[0].1.status = "SWHardeningNeeded".to_owned();
    }
    tcb_info_of_another_fmspc: v4(), TcbInfoPlatform, |c| { c.tcb_info.fmspc = [1; 6]; }
    tcb_info_of_sgx_for_a_td: v4(), TcbInfoPlatform, |c| { c.tcb_info.tdx = false; }
    tcb_info_of_another_pce: v4(), TcbInfoPce, |c| { c.tcb_info.pce_id = [0, 1]; }
    platform_below_every_level: v4(), TcbLevel, |c| {
        c.tcb_info.levels.truncate(1);
        c.forge.pck.cpu_svn[0] -= 1;
    }
    pce_below_every_level: v4(), TcbLevel, |c| {
        c.tcb_info.levels.truncate(1);
        c.forge.pck.pce_svn -= 1;
    }
    tdx_components_below_every_level: v4(), TcbLevel, |c| {
        c.tcb_info.levels.truncate(1);
        c.forge.report.tee_tcb_svn[2] -= 1;
    }
    tcb_info_without_levels: v4(), TcbLevel, |c| { c.tcb_info.levels.clear(); }
    tcb_info_with_a_tds_status: v4(), TcbLevel, |c| {
        c.tcb_info.levels[0].status.status = "TDRelaunchAdvised".to_owned();
    }
    tcb_info_with_a_tds_other_status: v4(), TcbLevel, |c| {
        c.tcb_info.levels[0].status.status = "TDRelaunchAdvisedConfigurationNeeded".to_owned();
    }
    current_tcb_below_every_level: v5(), TcbLevel, |c| {
        c.tcb_info.levels.truncate(1);
        c.forge.report.tee_tcb_svn2[2] -= 1;
    }
    tdx_module_of_another_signer: v4(), TdxModule, |c| { c.forge.report.mr_signer_seam[0] = 1; }
    tdx_module_with_attributes: v4(), TdxModule, |c| { c.forge.report.seam_attributes[0] = 1; }
    tdx_module_of_an_unknown_version: v4(), TdxModule, |c| { c.forge.report.tee_tcb_svn[1] = 9; }
    tdx_module_below_every_level: v4(), TdxModule, |c| {
        c.tcb_info.module_levels.truncate(1);
        c.forge.report.tee_tcb_svn[0] -= 1;
    }
    tdx_module_with_a_platforms_status: v4(), TdxModule, |c| {
        c.tcb_info.module_levels[0].1.status = "ConfigurationNeeded".to_owned();
    }
    revoked_level: v4(), TcbNotRevoked, |c| {
        c.tcb_info.levels[0].status.status = "Revoked".to_owned();
    }
    revoked_tdx_module: v4(), TcbNotRevoked, |c| {
        c.tcb_info.module_levels[0].1.status = "Revoked".to_owned();
    }
    revoked_quoting_enclave: v4(), TcbNotRevoked, |c| {
        c.qe_identity.qe_levels[0].1.status = "Revoked".to_owned();
    }
    td_with_a_service_td: v5(), ServiceTd, |c| { c.forge.report.mr_service_td = [1; 48]; }
    td_with_an_extended_service_td: v5(), ServiceTd, |c| { c.forge.report.td_attributes[2] |= 2; }
    td_with_a_reserved_attribute: v4(), TdAttributes, |c| { c.forge.report.td_attributes[1] = 1; }
    td_that_can_migrate: v4(), TdAttributes, |c| { c.forge.report.td_attributes[3] |= 0x20; }
    td_without_sept_ve_disable: v4(), TdAttributes, |c| { c.forge.report.td_attributes[3] = 0; }
}

// ---- what the evidence binds, and the event log

refused! {
    report_data_of_another_session: v4(), ReportData, |c| {
        c.forge.report.report_data[47] = 1;
    }
    report_data_with_more_behind_it: v4(), ReportData, |c| {
        c.forge.report.report_data[63] = 1;
    }
    init_data_that_was_not_launched_with: v4(), InitData, |c| {
        c.expected.initdata = ExpectedInitdata::Digest(vec![1; 48]);
    }
    init_data_that_was_not_sent: v4(), InitData, |c| {
        c.forge.report.mr_config_id = [1; 48];
    }
    event_log_that_is_no_log: v4(), EventLogForm, |c| {
        c.evidence = |json| json["cc_eventlog"] = json!(STANDARD.encode([1; 64]));
    }
    event_log_without_its_last_event: v4(), EventLogRtmrs, |c| {
        c.forge.event_log.as_mut().unwrap().pop();
    }
    event_log_with_one_more_event: v4(), EventLogRtmrs, |c| {
        let last = c.forge.event_log.as_ref().unwrap().last().unwrap().clone();
        c.forge.event_log.as_mut().unwrap().push(last);
    }
    event_log_with_another_event: v4(), EventLogRtmrs, |c| {
        c.forge.event_log.as_mut().unwrap()[0].data = vec![1];
    }
    event_log_in_another_order: v4(), EventLogRtmrs, |c| {
        c.forge.event_log.as_mut().unwrap().swap(2, 3);
    }
    event_log_with_an_event_for_another_register: v4(), EventLogRtmrs, |c| {
        c.forge.event_log.as_mut().unwrap()[3].register = 4;
    }
    event_log_with_an_event_for_no_register: v4(), EventLogRtmrs, |c| {
        c.forge.event_log.as_mut().unwrap().push(Event {
            register: 5,
            event_type: 4,
            data: Vec::new(),
        });
    }
    rtmr_that_no_event_extended: v4(), EventLogRtmrs, |c| { c.forge.report.rtmr[3] = [1; 48]; }
}

// ---- SGX

fn enclave() -> Case<sgx::Forge> {
    Case::sgx()
}

refused! {
    enclave_with_a_changed_signature: enclave(), QuoteSignature, |c| {
        c.forge.tampering = vec![(48 + 384 + 4, 1)];
    }
    enclave_with_a_changed_measurement: enclave(), QuoteSignature, |c| {
        c.forge.tampering = vec![(48 + 64, 1)];
    }
    enclave_said_to_be_a_td: enclave(), QuoteTeeType, |c| { c.forge.header.tee_type = 0x81; }
    enclave_with_a_td_qe_identity: enclave(), QeIdentityForm, |c| { c.qe_identity.tdx = true; }
    enclave_with_a_td_tcb_info: enclave(), TcbInfoPlatform, |c| { c.tcb_info.tdx = true; }
    enclave_of_a_platform_below_every_level: enclave(), TcbLevel, |c| {
        c.tcb_info.levels.truncate(1);
        c.forge.pck.cpu_svn[4] -= 1;
    }
    enclave_of_a_revoked_platform: enclave(), PckRevocation, |c| { c.pck_crl.revoked_pck = true; }
    enclave_of_a_revoked_level: enclave(), TcbNotRevoked, |c| {
        c.tcb_info.levels[0].status.status = "Revoked".to_owned();
    }
    enclave_with_a_quoting_enclave_of_another_signer: enclave(), QeIdentityMatch, |c| {
        c.forge.quoting.report.mr_signer = [1; 32];
    }
    enclave_with_report_data_of_another_session: enclave(), ReportData, |c| {
        c.forge.report.report_data[0] = 1;
    }
    enclave_launched_with_other_init_data: enclave(), InitData, |c| {
        c.expected.initdata = ExpectedInitdata::Digest(vec![1; 48]);
    }
    enclave_whose_init_data_was_not_sent: enclave(), InitData, |c| {
        c.forge.report.config_id[0] = 1;
    }
}

// ---- what passes, and what it says

#[test]
fn honest_quotes_of_every_format_pass() {
    for format in [Format::V4, Format::V5Td10, Format::V5Td15] {
        let case = Case::tdx(format);
        let claims = case.claims();
        assert_eq!(claims["tcb_status"], "UpToDate", "{format:?}");
        assert_eq!(claims["qe_tcb_status"], "UpToDate");
        assert_eq!(claims["collateral_expiration_status"], "0");
        assert_eq!(claims["tcb_age_days"], 101);
        assert_eq!(claims["td_attributes"]["debug"], false);
        assert_eq!(claims["advisory_ids"], json!([]));
        assert_eq!(claims["uefi_event_logs"].as_array().unwrap().len(), 4);
        assert_eq!(
            claims.get("tcb_status_current").is_some(),
            format == Format::V5Td15
        );
    }
}

#[test]
fn processor_ca_vouches_for_a_platform_too() {
    let mut case = v4();
    case.forge.pck.platform = false;
    let claims = case.claims();
    assert!(claims.get("platform_instance_id").is_none());
}

#[test]
fn every_check_of_a_td_is_recorded_as_passed() {
    let mut case = v5();
    case.forge = case.forge.with_initdata(&[3; 48]);
    case.expected.initdata = ExpectedInitdata::Digest(vec![3; 48]);
    let examination = case.examine().unwrap();
    assert_eq!(examination.error, None);
    assert!(
        examination
            .steps
            .iter()
            .all(|step| step.outcome == StepOutcome::Passed)
    );
    assert_eq!(examination.steps.len(), 36);
}

#[test]
fn debug_td_passes_and_says_so() {
    let mut case = v4();
    case.forge.report.td_attributes[0] = 1;
    assert_eq!(case.claims()["td_attributes"]["debug"], true);
}

/// Profiling lets the host see into a TD as debugging does: each bit of the first byte makes it untrusted.
#[test]
fn profiled_td_passes_and_says_that_it_is_debugged() {
    for bit in 4..7 {
        let mut case = v4();
        case.forge.report.td_attributes[0] = 1 << bit;
        assert_eq!(case.claims()["td_attributes"]["debug"], true, "bit {bit}");
    }
}

#[test]
fn evidence_without_an_event_log_skips_its_checks() {
    for value in [json!(null), json!("")] {
        let mut case = v4();
        case.forge.event_log = None;
        case.evidence = match value.is_null() {
            true => |json| json["cc_eventlog"] = json!(null),
            false => |json| json["cc_eventlog"] = json!(""),
        };
        let examination = case.examine().unwrap();
        assert_eq!(examination.error, None);
        for check in [Check::EventLogForm, Check::EventLogRtmrs] {
            let step = examination.steps.iter().find(|step| step.check == check);
            assert!(matches!(step.unwrap().outcome, StepOutcome::Skipped(_)));
        }
    }
}

#[test]
fn lower_level_is_told_with_its_advisories() {
    let mut case = v4();
    case.forge.pck.cpu_svn[0] -= 1;
    let claims = case.claims();
    assert_eq!(claims["tcb_status"], "OutOfDate");
    assert_eq!(claims["advisory_ids"], json!(["INTEL-SA-00001"]));
}

#[test]
fn every_status_of_a_level_is_told() {
    for status in [
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ] {
        let mut case = v4();
        case.tcb_info.levels[0].status = Status::new(status, &["INTEL-SA-00615"], NOW - 10 * DAY);
        let claims = case.claims();
        assert_eq!(claims["tcb_status"], status);
        assert_eq!(claims["advisory_ids"], json!(["INTEL-SA-00615"]));
    }
}

#[test]
fn old_quoting_enclave_makes_the_platform_out_of_date() {
    let mut case = v4();
    case.forge.quoting.report.isv_svn -= 1;
    let claims = case.claims();
    assert_eq!(claims["tcb_status"], "OutOfDate");
    assert_eq!(claims["qe_tcb_status"], "OutOfDate");
}

#[test]
fn age_is_of_a_quoting_enclave_that_is_older_than_its_platform() {
    let mut case = v4();
    case.qe_identity.qe_levels[1].1.date = NOW - 900 * DAY;
    assert_eq!(case.claims()["tcb_age_days"], 101);
    case.forge.quoting.report.isv_svn -= 1;
    assert_eq!(case.claims()["tcb_age_days"], 900);
}

#[test]
fn old_tdx_module_makes_the_platform_out_of_date() {
    let mut case = v4();
    case.forge.report.tee_tcb_svn[0] -= 1;
    assert_eq!(case.claims()["tcb_status"], "OutOfDate");
}

#[test]
fn td_started_before_an_update_of_its_module_should_be_relaunched() {
    let mut case = v5();
    case.forge.report.tee_tcb_svn[0] -= 1;
    let claims = case.claims();
    assert_eq!(claims["tcb_status"], "TDRelaunchAdvised");
    assert_eq!(claims["tcb_status_current"], "UpToDate");
}

#[test]
fn init_data_that_was_launched_with_is_bound() {
    for digest in [vec![5; 32], vec![5; 48], vec![5; 64]] {
        let mut case = v4();
        case.forge = case.forge.with_initdata(&digest);
        case.expected.initdata = ExpectedInitdata::Digest(digest);
        case.claims();
    }
}

#[test]
fn honest_enclave_passes_and_a_debug_one_says_so() {
    let mut case = enclave();
    let claims = case.claims();
    assert_eq!(claims["debug"], false);
    assert_eq!(claims["tcb_status"], "UpToDate");
    assert!(claims.get("tcb_status_current").is_none());
    case.forge.report.attributes[0] |= 2;
    assert_eq!(case.claims()["debug"], true);
}

#[test]
fn enclave_without_key_separation_has_no_register_for_init_data() {
    let mut case = enclave();
    case.forge.report.attributes[0] &= 0x7f;
    case.expected.initdata = ExpectedInitdata::Digest(vec![1; 48]);
    let examination = case.examine().unwrap();
    assert_eq!(examination.error, None);
    let step = examination
        .steps
        .iter()
        .find(|step| step.check == Check::InitData);
    assert!(matches!(step.unwrap().outcome, StepOutcome::Skipped(_)));
}

#[test]
fn init_data_of_an_enclave_is_bound_by_its_config_id() {
    let mut case = enclave();
    case.forge = case.forge.with_initdata(&[5; 48]);
    case.expected.initdata = ExpectedInitdata::Digest(vec![5; 48]);
    case.claims();
}

#[test]
fn quote_without_the_json_around_it_is_evidence_too() {
    let root = new_root();
    let quote = tdx::Forge::new(&root).quote_bytes().unwrap();
    assert!(Evidence::parse_raw(Tee::Tdx, &quote).is_ok());
    let quote = sgx::Forge::new(&root).quote_bytes().unwrap();
    assert!(Evidence::parse_raw(Tee::Sgx, &quote).is_ok());
    let error = Evidence::parse_raw(Tee::Tdx, b"quote").unwrap_err();
    assert_eq!(error.check(), Check::Structure);
}
