//! Forged SEV-SNP evidence with faults that the development builder does not make: in certificates, in revocation lists,
//! in the form of the JSON and in reserved bytes. Each must be refused by the check that is there for it.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use rcgen::{
    BasicConstraints, CustomExtension, DistinguishedName, DnType, IsCa, KeyUsagePurpose,
    SerialNumber, date_time_ymd,
};
use serde_json::{Value, json};
use strongroom_verifier::{
    Assurance, Check, Collateral, CollateralItem, Evidence, Examination, Expected,
    ExpectedInitdata, SnpProduct, StepOutcome, TrustAnchors, VerifyError, Wanted, examine,
};
use strongroom_wire::tee::Tee;
use support::{Forge, Forged, Root, at, evidence_json, put};

/// 2026-01-15.
const NOW: u64 = 1_768_435_200;

fn look_with(forged: &Forged, json: &[u8], collateral: &Collateral) -> Examination {
    look_for(forged, json, collateral, &Expected::default())
}

fn look_for(
    forged: &Forged,
    json: &[u8],
    collateral: &Collateral,
    expected: &Expected,
) -> Examination {
    let evidence = Evidence::parse(Tee::Snp, json).unwrap();
    examine(evidence, collateral, &forged.root.anchors(), expected, NOW)
}

fn look(forged: &Forged) -> Examination {
    look_with(forged, &forged.json(), &Collateral::none())
}

#[track_caller]
fn passes(forge: Forge) -> Examination {
    let seen = look(&forge.make());
    assert_eq!(seen.error, None, "{:#?}", seen.steps);
    assert_eq!(seen.assurance, Assurance::Development);
    seen
}

/// What is wrong before the signature is made: the signature verifies.
#[track_caller]
fn refused(forge: Forge, check: Check) -> String {
    refused_forged(&forge.make(), check)
}

/// What is wrong with what was signed.
#[track_caller]
fn refused_forged(forged: &Forged, check: Check) -> String {
    refusal(look(forged).error, check)
}

#[track_caller]
fn refusal(error: Option<VerifyError>, check: Check) -> String {
    let error = error.expect("it passed");
    assert_eq!(error.check(), check, "{error}");
    assert!(
        !matches!(error, VerifyError::Malformed { .. }) || check == Check::Structure,
        "{error}"
    );
    error.to_string()
}

#[track_caller]
fn malformed(json: &Value) -> String {
    let json = serde_json::to_vec(json).unwrap();
    match Evidence::parse(Tee::Snp, &json).unwrap_err() {
        VerifyError::Malformed { detail, .. } => detail,
        other => panic!("{other}"),
    }
}

fn text(forged: &Forged) -> Value {
    serde_json::from_slice(&forged.json()).unwrap()
}

fn list(forged: &Forged, product: SnpProduct, der: Vec<u8>) -> (Examination, Collateral) {
    let mut collateral = Collateral::none();
    let item = CollateralItem {
        body: der,
        issuer_chain: String::new(),
    };
    collateral.insert(Wanted::AmdCrl { product }, item);
    (look_with(forged, &forged.json(), &collateral), collateral)
}

fn named(forge: &mut Forge, name: &str) {
    forge.leaf.distinguished_name = DistinguishedName::new();
    forge.leaf.distinguished_name.push(DnType::CommonName, name);
}

// ---- what must pass, so that the rest shows something

#[test]
fn forged_reports_of_every_kind_pass_as_development() {
    for forge in [
        Forge::milan(),
        Forge::genoa(),
        Forge::vlek(),
        Forge::turin(),
    ] {
        passes(forge);
    }
}

#[test]
fn turin_claims_have_fmc_and_short_chip_id() {
    let seen = passes(Forge::turin());
    let (_, claims) = &seen.claims[0];
    assert_eq!(claims["reported_tcb_fmc"], json!(2));
    assert_eq!(claims["chip_id"], json!("5c5c5c5c5c5c5c5c"));
    assert_eq!(claims["product"], json!("Turin"));
    assert_eq!(
        (&claims["launch_mit_vector"], &claims["current_mit_vector"]),
        (&json!(3), &json!(7))
    );
}

#[test]
fn vlek_claims_name_no_chip() {
    let seen = passes(Forge::vlek());
    let (_, claims) = &seen.claims[0];
    assert_eq!(claims["signer"], json!("vlek"));
    assert!(!claims.contains_key("chip_id"));
    let step = seen
        .steps
        .iter()
        .find(|step| step.check == Check::SnpChipId)
        .unwrap();
    assert!(matches!(step.outcome, StepOutcome::Skipped(_)));
}

#[test]
fn hwid_in_an_octet_string_passes() {
    let mut forge = Forge::milan();
    forge.extension(&[4], Some([&[4, 64][..], &support::CHIP].concat()));
    passes(forge);
}

#[test]
fn tcb_number_as_a_bare_byte_passes() {
    let mut forge = Forge::milan();
    forge.extension(&[3, 8], Some(vec![219]));
    passes(forge);
}

#[test]
fn debug_and_migration_are_claims_and_not_refused_here() {
    let policy: u64 = 0x3_0000 | 1 << 18 | 1 << 19;
    let seen = passes(Forge::milan().with(at::POLICY, &policy.to_le_bytes()));
    let (_, claims) = &seen.claims[0];
    assert_eq!(claims["policy_debug_allowed"], json!(true));
    assert_eq!(claims["policy_migrate_ma"], json!(true));
}

#[test]
fn further_kinds_of_certificates_are_passed_over() {
    let forged = Forge::milan().make();
    let mut json = text(&forged);
    let chain = json["cert_chain"].as_array_mut().unwrap();
    chain
        .push(json!({"cert_type": {"OTHER": "00000000-0000-0000-0000-000000000001"}, "data": [1]}));
    chain.push(json!({"cert_type": "CRL", "data": []}));
    chain.push(json!({"cert_type": "Empty", "data": []}));
    let json = serde_json::to_vec(&json).unwrap();
    assert_eq!(look_with(&forged, &json, &Collateral::none()).error, None);
}

// ---- the signer

#[test]
fn vcek_signature_of_a_host_that_masks_its_chip_key_is_refused() {
    refused(
        Forge::milan().with(at::KEY_INFO, &[1 << 1]),
        Check::SnpSigner,
    );
    passes(Forge::vlek().with(at::KEY_INFO, &[1 << 2 | 1 << 1]));
}

#[test]
fn certificate_of_another_name_is_refused_as_malformed() {
    let mut forge = Forge::milan();
    named(&mut forge, "SEV-Milan");
    let forged = forge.make();
    let error = Evidence::parse(Tee::Snp, &forged.json()).unwrap_err();
    assert_eq!(error.check(), Check::Structure);
}

#[test]
fn vlek_under_the_name_of_a_vcek_is_refused_for_want_of_a_chip() {
    let forge = Forge::vlek().with(at::KEY_INFO, &[0]);
    let mut forge = forge.signed_under("SEV-Milan");
    named(&mut forge, "SEV-VCEK");
    refused(forge, Check::SnpChipId);
}

// ---- the chain

#[test]
fn development_leaf_is_refused_without_a_development_root() {
    let forged = Forge::milan().make();
    let evidence = Evidence::parse(Tee::Snp, &forged.json()).unwrap();
    for anchors in [TrustAnchors::vendors(), TrustAnchors::none()] {
        let none = Collateral::none();
        let seen = examine(evidence.clone(), &none, &anchors, &Expected::default(), NOW);
        refusal(seen.error, Check::SnpChain);
    }
}

#[test]
fn chain_without_its_intermediate_is_refused() {
    let forged = Forge::milan().make();
    let json = evidence_json(&forged.report, &[("VCEK", &forged.leaf)]);
    refusal(
        look_with(&forged, &json, &Collateral::none()).error,
        Check::SnpChain,
    );
}

#[test]
fn chain_over_another_intermediate_of_the_same_name_is_refused() {
    let mut forged = Forge::milan().make();
    let other = Forge::milan().make();
    forged.ask = other.ask;
    refused_forged(&forged, Check::SnpChain);
}

#[test]
fn expired_intermediate_is_refused() {
    let mut forge = Forge::milan();
    forge.ask.not_after = date_time_ymd(2026, 1, 1);
    let text = refused(forge, Check::SnpChain);
    assert!(text.contains("SEV-Milan is valid from"), "{text}");
}

#[test]
fn expired_root_is_refused() {
    let mut forge = Forge::milan();
    forge.root.params.not_after = date_time_ymd(2026, 1, 1);
    refused(forge, Check::SnpChain);
}

#[test]
fn intermediate_that_is_no_ca_is_refused() {
    let mut forge = Forge::milan();
    forge.ask.is_ca = IsCa::ExplicitNoCa;
    refused(forge, Check::SnpChain);
}

#[test]
fn intermediate_whose_key_signs_no_certificates_is_refused() {
    let mut forge = Forge::milan();
    forge.ask.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    refused(forge, Check::SnpChain);
}

#[test]
fn root_that_allows_no_intermediate_is_refused() {
    let mut forge = Forge::milan();
    forge.root.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    refused(forge, Check::SnpChain);
}

#[test]
fn unknown_critical_extension_of_the_leaf_is_refused() {
    let mut forge = Forge::milan();
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 3704, 9], vec![5, 0]);
    extension.set_criticality(true);
    forge.leaf.custom_extensions.push(extension);
    refused(forge, Check::SnpChain);
}

#[test]
fn changed_leaf_is_refused() {
    let forged = Forge::milan().make();
    let mut changed = 0;
    for place in (0..forged.leaf.len()).step_by(7) {
        let mut leaf = forged.leaf.clone();
        leaf[place] ^= 0x10;
        let json = evidence_json(&forged.report, &[("VCEK", &leaf), ("ASK", &forged.ask)]);
        if let Ok(evidence) = Evidence::parse(Tee::Snp, &json) {
            let anchors = forged.root.anchors();
            let seen = examine(
                evidence,
                &Collateral::none(),
                &anchors,
                &Expected::default(),
                NOW,
            );
            assert!(seen.error.is_some(), "byte {place}");
            changed += 1;
        }
    }
    assert!(changed > 20, "{changed}");
}

// ---- revocation

#[test]
fn current_list_is_looked_at_and_claimed() {
    let forged = Forge::milan().make();
    let (seen, _) = list(&forged, SnpProduct::Milan, forged.root.crl(&[1]));
    assert_eq!(seen.error, None);
    assert_eq!(seen.claims[0].1["crl_checked"], json!(true));
}

#[test]
fn revoked_intermediate_is_refused() {
    let forged = Forge::milan().make();
    let (seen, _) = list(&forged, SnpProduct::Milan, forged.root.crl(&[65_537]));
    refusal(seen.error, Check::SnpRevocation);
}

#[test]
fn list_that_is_outdated_is_refused() {
    let forged = Forge::milan().make();
    let (_, collateral) = list(&forged, SnpProduct::Milan, forged.root.crl(&[]));
    let evidence = Evidence::parse(Tee::Snp, &forged.json()).unwrap();
    let anchors = forged.root.anchors();
    let later = NOW + 30 * 86_400;
    let seen = examine(evidence, &collateral, &anchors, &Expected::default(), later);
    refusal(seen.error, Check::SnpRevocation);
}

#[test]
fn list_that_another_key_signed_is_refused() {
    let forged = Forge::milan().make();
    let (seen, _) = list(&forged, SnpProduct::Milan, Root::new().crl(&[]));
    refusal(seen.error, Check::SnpRevocation);
}

#[test]
fn list_that_is_none_is_refused() {
    let forged = Forge::milan().make();
    let (seen, _) = list(&forged, SnpProduct::Milan, b"<html>429</html>".to_vec());
    refusal(seen.error, Check::SnpRevocation);
}

#[test]
fn list_of_amds_root_does_not_concern_a_development_root() {
    let forged = Forge::milan().make();
    let mut amd = Root::new();
    amd.params = support::params("ARK-Milan", Some(KeyUsagePurpose::CrlSign));
    let (seen, _) = list(&forged, SnpProduct::Milan, amd.crl(&[]));
    assert_eq!(seen.error, None);
    assert_eq!(seen.claims[0].1["crl_checked"], json!(false));
}

#[test]
fn list_of_another_product_line_is_not_taken_for_this_ones() {
    let forged = Forge::milan().make();
    let (seen, _) = list(&forged, SnpProduct::Genoa, forged.root.crl(&[65_537]));
    assert_eq!(seen.claims[0].1["crl_checked"], json!(false));
}

// ---- chip and TCB against the certificate

#[test]
fn report_of_a_masked_chip_under_a_vcek_is_refused() {
    refused(Forge::milan().with(at::CHIP_ID, &[0; 64]), Check::SnpChipId);
}

#[test]
fn vcek_with_a_short_chip_id_on_milan_is_refused() {
    for value in [
        vec![0x5C; 8],
        vec![0x5C; 63],
        [&[4, 63][..], &[0x5C; 63]].concat(),
        vec![],
    ] {
        let mut forge = Forge::milan();
        forge.extension(&[4], Some(value));
        refused(forge, Check::SnpChipId);
    }
}

#[test]
fn chip_named_twice_is_refused() {
    let mut forge = Forge::milan();
    forge.extensions.push((vec![4], vec![0; 64]));
    refused(forge, Check::SnpChipId);
}

fn raised(spl: u64, value: &[u8]) -> Forge {
    let mut forge = Forge::milan();
    forge.extension(&[3, spl], Some(value.to_vec()));
    forge
}

#[test]
fn vcek_of_another_microcode_is_refused() {
    let text = refused(raised(8, &[2, 2, 0, 220]), Check::SnpTcb);
    assert!(
        text.contains("microcode 220") && text.contains("microcode 219"),
        "{text}"
    );
}

#[test]
fn turin_vcek_without_an_fmc_is_refused() {
    let mut forge = Forge::turin();
    forge.extension(&[3, 9], None);
    refused(forge, Check::SnpTcb);
}

#[test]
fn vcek_without_a_tcb_number_is_refused() {
    for spl in [1, 2, 3, 8] {
        let mut forge = Forge::milan();
        forge.extension(&[3, spl], None);
        refused(forge, Check::SnpTcb);
    }
}

#[test]
fn tcb_number_beyond_a_byte_or_of_another_type_is_refused() {
    for value in [
        &[2, 2, 1, 4][..],
        &[2, 1, 0x84],
        &[4, 1, 4],
        &[2, 1],
        &[2, 1, 4, 0],
        &[],
    ] {
        refused(raised(1, value), Check::SnpTcb);
    }
}

#[test]
fn tcb_number_named_twice_is_refused() {
    let mut forge = Forge::milan();
    forge.extensions.push((vec![3, 1], vec![2, 1, 9]));
    refused(forge, Check::SnpTcb);
}

#[test]
fn reported_tcb_above_the_current_one_is_refused() {
    let forge = Forge::milan().with(at::CURRENT_TCB, &[4, 0, 0, 0, 0, 0, 23, 219]);
    let text = refused(
        forge.with(at::COMMITTED_TCB, &[4, 0, 0, 0, 0, 0, 23, 219]),
        Check::SnpTcbOrder,
    );
    assert!(text.contains("REPORTED_TCB"), "{text}");
}

#[test]
fn committed_firmware_above_the_current_one_is_refused() {
    let text = refused(
        Forge::milan().with(at::COMMITTED, &[0, 56, 1]),
        Check::SnpTcbOrder,
    );
    assert!(
        text.contains("1.55.29") && text.contains("1.56.0"),
        "{text}"
    );
}

// ---- the signature

#[test]
fn signature_of_zeros_is_refused() {
    let mut forged = Forge::milan().make();
    put(&mut forged.report, at::SIGNATURE, &[0; 144]);
    refused_forged(&forged, Check::SnpSignature);
}

#[test]
fn swapped_r_and_s_are_refused() {
    let mut forged = Forge::milan().make();
    let (r, s) = (at::SIGNATURE, at::SIGNATURE + 72);
    let (first, second) = (
        forged.report[r..s].to_vec(),
        forged.report[s..s + 72].to_vec(),
    );
    put(&mut forged.report, r, &second);
    put(&mut forged.report, s, &first);
    refused_forged(&forged, Check::SnpSignature);
}

#[test]
fn big_endian_signature_is_refused() {
    let mut forged = Forge::milan().make();
    for place in [at::SIGNATURE, at::SIGNATURE + 72] {
        forged.report[place..place + 48].reverse();
    }
    refused_forged(&forged, Check::SnpSignature);
}

#[test]
fn scalar_of_more_than_384_bits_is_refused() {
    for place in [48, 71, 72 + 48, 72 + 71] {
        let mut forged = Forge::milan().make();
        forged.report[at::SIGNATURE + place] = 1;
        let text = refusal_structure(&forged);
        assert!(text.contains("384 bits"), "{text}");
    }
}

#[track_caller]
fn refusal_structure(forged: &Forged) -> String {
    refusal(look(forged).error, Check::Structure)
}

#[test]
fn report_of_one_machine_under_the_vcek_of_its_twin_is_refused() {
    let mut forged = Forge::milan().make();
    let mut twin = Forge::milan();
    twin.root = Root {
        params: forged.root.params.clone(),
        key: rcgen::KeyPair::try_from(forged.root.key.serialize_der()).unwrap(),
    };
    let twin = twin.make();
    forged.leaf = twin.leaf;
    forged.ask = twin.ask;
    refused_forged(&forged, Check::SnpSignature);
}

#[test]
fn vcek_on_another_curve_is_refused() {
    let mut forge = Forge::milan();
    forge.leaf_is_p256 = true;
    refused(forge, Check::SnpSignature);
}

// ---- what the report binds

fn expecting(report_data: &[u8], initdata: ExpectedInitdata) -> Expected {
    Expected {
        report_data: Some(report_data.to_vec()),
        initdata,
    }
}

#[test]
fn report_data_is_padded_and_compared_to_its_last_byte() {
    let forged = Forge::milan().make();
    let look = |expected| look_for(&forged, &forged.json(), &Collateral::none(), &expected).error;
    assert_eq!(look(expecting(&[0xD1; 48], ExpectedInitdata::None)), None);
    refusal(
        look(expecting(&[0xD2; 48], ExpectedInitdata::None)),
        Check::ReportData,
    );
    refusal(
        look(expecting(&[0xD1; 47], ExpectedInitdata::None)),
        Check::ReportData,
    );
    refusal(
        look(expecting(&[0xD1; 49], ExpectedInitdata::None)),
        Check::ReportData,
    );
}

#[test]
fn host_data_is_the_init_data_that_was_sent() {
    let forged = Forge::milan().with(at::HOST_DATA, &[0xE7; 32]).make();
    let look = |initdata| {
        let expected = expecting(&[0xD1; 48], initdata);
        look_for(&forged, &forged.json(), &Collateral::none(), &expected).error
    };
    assert_eq!(look(ExpectedInitdata::Digest(vec![0xE7; 32])), None);
    // A longer digest loses its end.
    assert_eq!(look(ExpectedInitdata::Digest(vec![0xE7; 48])), None);
    refusal(
        look(ExpectedInitdata::Digest(vec![0xE7; 31])),
        Check::InitData,
    );
    refusal(
        look(ExpectedInitdata::Digest(vec![0xE8; 32])),
        Check::InitData,
    );
    refusal(look(ExpectedInitdata::None), Check::InitData);
}

// ---- the VCEK as collateral

fn with_vcek(forged: &Forged, body: Vec<u8>) -> Examination {
    let json = evidence_json(&forged.report, &[("ASK", &forged.ask)]);
    let evidence = Evidence::parse(Tee::Snp, &json).unwrap();
    let mut collateral = Collateral::none();
    for wanted in evidence
        .collateral_request()
        .iter()
        .filter(|wanted| wanted.is_required())
    {
        let item = CollateralItem {
            body: body.clone(),
            issuer_chain: String::new(),
        };
        collateral.insert(wanted.clone(), item);
    }
    look_with(forged, &json, &collateral)
}

#[test]
fn vcek_from_the_collateral_passes_on_every_product_line() {
    for forge in [Forge::milan(), Forge::genoa(), Forge::turin()] {
        let forged = forge.make();
        assert_eq!(with_vcek(&forged, forged.leaf.clone()).error, None);
    }
}

#[test]
fn vcek_that_is_neither_sent_nor_given_is_named() {
    let forged = Forge::turin().make();
    let json = evidence_json(&forged.report, &[("ASK", &forged.ask)]);
    let error = look_with(&forged, &json, &Collateral::none())
        .error
        .unwrap();
    let VerifyError::MissingCollateral { wanted } = &error else {
        panic!("{error}");
    };
    assert!(
        matches!(&**wanted, Wanted::AmdVcek { product: SnpProduct::Turin, chip_id, tcb }
            if chip_id == &[0x5C; 8] && tcb.fmc == Some(2)),
        "{wanted:?}"
    );
    assert_eq!(error.check(), Check::Collateral);
}

#[test]
fn collateral_that_is_no_certificate_is_refused() {
    let forged = Forge::milan().make();
    refusal(
        with_vcek(&forged, b"<html>500</html>".to_vec()).error,
        Check::Collateral,
    );
    refusal(
        with_vcek(&forged, vec![0x30; 100_000]).error,
        Check::Collateral,
    );
}

#[test]
fn vlek_report_without_its_certificate_asks_for_nothing_and_is_refused() {
    let forged = Forge::vlek().make();
    let json = evidence_json(&forged.report, &[]);
    let evidence = Evidence::parse(Tee::Snp, &json).unwrap();
    assert!(
        evidence
            .collateral_request()
            .iter()
            .all(|wanted| !wanted.is_required())
    );
    refusal(
        look_with(&forged, &json, &Collateral::none()).error,
        Check::SnpSigner,
    );
}

#[test]
fn masked_chip_without_a_certificate_is_not_asked_for() {
    let forged = Forge::milan().with(at::CHIP_ID, &[0; 64]).make();
    let evidence = Evidence::parse_raw(Tee::Snp, &forged.report).unwrap();
    assert!(
        evidence
            .collateral_request()
            .iter()
            .all(|wanted| !wanted.is_required())
    );
}

// ---- the form of the JSON

#[test]
fn array_of_another_length_is_refused() {
    let forged = Forge::milan().make();
    for name in [
        "family_id",
        "image_id",
        "report_data",
        "measurement",
        "host_data",
        "id_key_digest",
        "author_key_digest",
        "report_id",
        "report_id_ma",
        "chip_id",
    ] {
        for change in [-1, 1] {
            let mut json = text(&forged);
            let list = json["attestation_report"][name].as_array_mut().unwrap();
            match change {
                1 => list.push(json!(0)),
                _ => drop(list.pop()),
            }
            let detail = malformed(&json);
            assert!(detail.contains("invalid length"), "{name}: {detail}");
        }
    }
    for half in ["r", "s"] {
        let mut json = text(&forged);
        json["attestation_report"]["signature"][half] = json!(vec![0; 48]);
        assert!(malformed(&json).contains("invalid length 48"));
    }
}

#[test]
fn huge_array_is_refused() {
    let mut json = text(&Forge::milan().make());
    json["attestation_report"]["report_data"] = json!(vec![0; 100_000]);
    assert!(malformed(&json).contains("invalid length 65"));
    json["attestation_report"]["report_data"] = json!(vec![0; 1_000_000]);
    assert!(malformed(&json).contains("at most"));
}

#[test]
fn number_beyond_its_field_is_refused() {
    let forged = Forge::milan().make();
    for (name, value) in [
        ("version", json!(1_u64 << 32)),
        ("vmpl", json!(-1)),
        ("policy", json!(1.5)),
        ("policy", json!("196608")),
        ("cpuid_fam_id", json!(256)),
        ("key_info", json!(null)),
    ] {
        let mut json = text(&forged);
        json["attestation_report"][name] = value;
        malformed(&json);
    }
    let mut json = text(&forged);
    json["attestation_report"]["measurement"][7] = json!(256);
    malformed(&json);
    let mut json = text(&forged);
    json["attestation_report"]["reported_tcb"]["snp"] = json!(300);
    malformed(&json);
}

#[test]
fn missing_member_is_refused_by_its_name() {
    let forged = Forge::milan().make();
    let members: Vec<String> = text(&forged)["attestation_report"]
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| !name.starts_with("cpuid"))
        .cloned()
        .collect();
    assert_eq!(members.len(), 24);
    for name in members {
        let mut json = text(&forged);
        json["attestation_report"]
            .as_object_mut()
            .unwrap()
            .remove(&name);
        let detail = malformed(&json);
        assert!(detail.contains(&name), "{name}: {detail}");
    }
}

#[test]
fn member_that_occurs_twice_is_refused() {
    let json = String::from_utf8(Forge::milan().make().json()).unwrap();
    let twice = json.replacen("\"vmpl\":0", "\"vmpl\":0,\"vmpl\":0", 1);
    assert_ne!(json, twice);
    let error = Evidence::parse(Tee::Snp, twice.as_bytes()).unwrap_err();
    assert!(
        error.to_string().contains("duplicate field `vmpl`"),
        "{error}"
    );
}

#[test]
fn report_without_its_processor_is_refused() {
    let forged = Forge::milan().make();
    let mut json = text(&forged);
    json["attestation_report"]["cpuid_fam_id"] = Value::Null;
    let json = serde_json::to_vec(&json).unwrap();
    refusal(
        look_with(&forged, &json, &Collateral::none()).error,
        Check::SnpProduct,
    );
}

#[test]
fn fmc_outside_turin_is_refused() {
    let mut json = text(&Forge::milan().make());
    json["attestation_report"]["launch_tcb"]["fmc"] = json!(0);
    assert!(malformed(&json).contains("FMC"));
}

#[test]
fn turin_without_its_fmc_is_refused() {
    let mut json = text(&Forge::turin().make());
    json["attestation_report"]["launch_tcb"]["fmc"] = Value::Null;
    assert!(malformed(&json).contains("FMC"));
}

#[test]
fn mitigations_before_version_5_are_refused() {
    let mut json = text(&Forge::milan().make());
    json["attestation_report"]["current_mit_vector"] = json!(1);
    assert!(malformed(&json).contains("after LAUNCH_TCB"));
}

#[test]
fn two_signers_are_refused() {
    let forged = Forge::milan().make();
    let chain = [("VCEK", forged.leaf.as_slice()), ("VCEK", &forged.leaf)];
    let json: Value = serde_json::from_slice(&evidence_json(&forged.report, &chain)).unwrap();
    assert!(malformed(&json).contains("more than one signer"));
}

#[test]
fn certificate_under_the_wrong_type_is_refused() {
    let forged = Forge::milan().make();
    let chain = [("VLEK", forged.leaf.as_slice()), ("ASK", &forged.ask)];
    let json: Value = serde_json::from_slice(&evidence_json(&forged.report, &chain)).unwrap();
    assert!(malformed(&json).contains("under VLEK"));
}

#[test]
fn too_many_certificates_are_refused() {
    let forged = Forge::milan().make();
    let chain = vec![("ASK", forged.ask.as_slice()); 7];
    let json: Value = serde_json::from_slice(&evidence_json(&forged.report, &chain)).unwrap();
    assert!(malformed(&json).contains("7 entries"));
}

#[test]
fn unknown_type_of_certificate_is_refused() {
    let forged = Forge::milan().make();
    let json = evidence_json(&forged.report, &[("PEK", &forged.leaf)]);
    assert!(malformed(&serde_json::from_slice(&json).unwrap()).contains("PEK"));
}

#[test]
fn certificate_that_is_none_is_refused() {
    let forged = Forge::milan().make();
    for der in [&[][..], &[0x30, 0x80], &[0xFF; 20_000]] {
        let json = evidence_json(&forged.report, &[("VCEK", der)]);
        assert!(
            malformed(&serde_json::from_slice(&json).unwrap()).contains("the VCEK certificate")
        );
    }
}

#[test]
fn cut_certificate_is_refused() {
    let forged = Forge::milan().make();
    let cut = &forged.leaf[..forged.leaf.len() - 1];
    let json = evidence_json(&forged.report, &[("VCEK", cut)]);
    malformed(&serde_json::from_slice(&json).unwrap());
}

#[test]
fn other_json_is_refused() {
    for json in [
        json!(null),
        json!([]),
        json!({}),
        json!({"attestation_report": {}}),
    ] {
        malformed(&json);
    }
    for bytes in [&b""[..], b"{", &[0xFF; 9], "[".repeat(100_000).as_bytes()] {
        assert!(matches!(
            Evidence::parse(Tee::Snp, bytes),
            Err(VerifyError::Malformed { .. })
        ));
    }
}

// ---- reserved bytes, which only the raw form can carry

#[test]
fn reserved_bytes_of_a_raw_report_must_be_zero() {
    for (place, detail) in [
        (0x04C, "after KEY_INFO"),
        (at::CPUID + 3, "before CHIP_ID"),
        (at::CURRENT + 3, "after a firmware version"),
        (at::COMMITTED + 3, "after a firmware version"),
        (at::LAUNCH_MIT_VECTOR, "after LAUNCH_TCB"),
        (0x208, "before SIGNATURE"),
        (at::SIGNATURE + 144, "after the signature"),
        (at::LENGTH - 1, "after the signature"),
        (at::REPORTED_TCB + 2, "of a TCB version"),
        (at::LAUNCH_TCB + 5, "of a TCB version"),
    ] {
        let forged = Forge::milan().with(place, &[1]).make();
        match Evidence::parse_raw(Tee::Snp, &forged.report).unwrap_err() {
            VerifyError::Malformed { detail: found, .. } => {
                assert!(found.contains(detail), "{place:#x}: {found}");
            }
            other => panic!("{other}"),
        }
    }
    for place in [at::REPORTED_TCB + 4, at::REPORTED_TCB + 6] {
        let forged = Forge::turin().with(place, &[1]).make();
        Evidence::parse_raw(Tee::Snp, &forged.report).unwrap_err();
    }
}

#[test]
fn raw_quote_of_a_platform_that_has_none_is_refused() {
    for tee in [Tee::Sample, Tee::Cca] {
        assert!(matches!(
            Evidence::parse_raw(tee, &[0; 1184]),
            Err(VerifyError::PlatformNotSupported { .. })
        ));
    }
}

#[test]
fn serial_numbers_do_not_matter_to_a_path() {
    let mut forge = Forge::milan();
    forge.leaf.serial_number = Some(SerialNumber::from(9_u64));
    passes(forge);
}

/// AMD's two signing keys of a product line have the same root, and each certifies one kind of key.
#[test]
fn certificate_under_the_signing_key_of_the_other_kind_or_product_is_refused() {
    for (forge, under) in [
        (Forge::milan(), "SEV-VLEK-Milan"),
        (Forge::vlek(), "SEV-Milan"),
        (Forge::milan(), "SEV-Genoa"),
        (Forge::turin(), "SEV-Milan"),
        (Forge::vlek(), "SEV-VLEK-Genoa"),
    ] {
        let error = refused(forge.signed_under(under), Check::SnpChain);
        assert!(error.contains(under), "{error}");
    }
}
