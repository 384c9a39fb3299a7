//! Evidence of the platform `tpm` with one field that is wrong: what refuses it, by name.

#![allow(clippy::unwrap_used)]

mod support_tpm;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize,
};
use serde_json::{Value, json};
use strongroom_verifier::{
    AppraisalPolicies, Assurance, Binding, Check, Collateral, CredentialError, EndorsementKey,
    Evidence, Examination, Expected, ExpectedInitdata, ReferenceValue, ReferenceValues,
    StepOutcome, TrustAnchors, VerifyError, appraise, verify,
};
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::ear::Tier;
use strongroom_wire::kbs::{Nonce, RuntimeData};
use strongroom_wire::tee::Tee;
use support_tpm::*;

fn examine(forge: &TpmForge) -> Examination {
    examine_json(forge, &forge.json())
}

fn examine_json(forge: &TpmForge, json: &Value) -> Examination {
    run(
        Tee::Tpm,
        json,
        &Collateral::none(),
        &forge.enrolled(),
        &report_data(&[0xAB; 48]),
        NOW,
    )
}

fn honest() -> TpmForge {
    TpmForge::new(Ak::p256())
}

/// What the check says of an honest quote with one change made before it is signed.
fn changed(check: Check, change: impl FnOnce(&mut QuoteForge)) -> VerifyError {
    let mut forge = honest();
    change(&mut forge.quote);
    refused(&examine(&forge), check)
}

fn malformed(check: impl FnOnce(&mut QuoteForge)) -> String {
    changed(Check::Structure, check).to_string()
}

// --- what is accepted, so that the refusals below mean something

#[test]
fn honest_quotes_by_each_kind_of_key_are_accepted() {
    for ak in [Ak::rsa(), Ak::p256(), Ak::p384()] {
        let forge = TpmForge::new(ak);
        let examination = examine(&forge);
        accepted(&examination);
        assert_eq!(examination.assurance, Assurance::Hardware);
        let (tee, claims) = &examination.claims[0];
        assert_eq!(*tee, Tee::Tpm);
        assert_eq!(claims["pcr11"], "4b".repeat(32));
        assert_eq!(claims["ak_public"], STANDARD.encode(forge.ak.spki()));
        assert_eq!(claims["ak_anchored"], true);
        assert_eq!(claims["ak_anchor"], "enrolled");
        assert_eq!(
            claims["tpm_quote"],
            json!({
                "pcr_bank": "sha256",
                "pcr_selection": (0..24).collect::<Vec<_>>(),
                "qualified_signer": format!("000b{}", "07".repeat(32)),
                "firmware_version": "2020031200120003",
                "clock": 123_456_789,
                "reset_count": 3,
                "restart_count": 1,
                "safe": true,
            })
        );
    }
}

#[test]
fn a_key_that_nobody_vouches_for_is_development() {
    let forge = honest();
    let examination = run(
        Tee::Tpm,
        &forge.json(),
        &Collateral::none(),
        &TrustAnchors::vendors(),
        &report_data(&[0xAB; 48]),
        NOW,
    );
    accepted(&examination);
    assert_eq!(examination.assurance, Assurance::Development);
    let claims = &examination.claims[0].1;
    assert_eq!(claims["ak_anchored"], false);
    assert_eq!(claims["ak_anchor"], "none");
    assert!(matches!(
        outcome(&examination, Check::TpmAkAnchor),
        Some(StepOutcome::Skipped(_))
    ));
}

#[test]
fn pcr_23_in_the_place_of_pcr_11_is_claimed_for_neither_that_was_not_quoted() {
    let mut forge = honest();
    let chosen: Vec<usize> = (0..=10).chain([23]).collect();
    forge.quote.selections = vec![selection(SHA256, &chosen)];
    forge.quote.sent[11] = forge.quote.pcrs[23].clone();
    let examination = examine(&forge);
    accepted(&examination);
    let claims = &examination.claims[0].1;
    assert!(!claims.contains_key("pcr11"));
    assert_eq!(claims["pcr23"], "57".repeat(32));
    assert_eq!(claims["pcr10"], "4a".repeat(32));
}

#[test]
fn leading_zeros_that_a_tpm_leaves_out_of_a_signature_are_put_back() {
    let mut forge = honest();
    let message = forge.quote.message(&forge.ak);
    // One signature in 128 has a number that begins with a zero.
    let numbers = (0..10_000)
        .map(|_| forge.ak.sign(&message))
        .find(|numbers| numbers[0] == 0 || numbers[32] == 0)
        .unwrap();
    let [r, s] = halves(&numbers).map(|number| match number[0] {
        0 => &number[1..],
        _ => number,
    });
    forge.signature = Some(tpmt_signature(ECDSA, SHA256, &[r, s]));
    accepted(&examine(&forge));
}

#[test]
fn initdata_in_pcr_8_is_bound() {
    let mut forge = honest();
    let digest =
        hex::decode("8505e4e25e50a27c5dc8147af88efbece627fbea55291911eff832d9ee127781").unwrap();
    let pcr8 =
        hex::decode("bddaccb9c52249e97a31baea61b7d91be8221a16e703d92148d04fb8e9c1dfdd").unwrap();
    forge.quote.pcrs[8] = pcr8.clone();
    forge.quote.sent[8] = pcr8;
    let examination = examine_initdata(&forge, digest);
    accepted(&examination);
    assert_eq!(
        outcome(&examination, Check::InitData),
        Some(StepOutcome::Passed)
    );
}

// --- the attestation

#[test]
fn another_magic() {
    changed(Check::TpmMagic, |quote| quote.magic = 0xFF54_4348);
}

#[test]
fn an_attestation_of_another_kind() {
    let error = changed(Check::TpmQuoteType, |quote| quote.kind = 0x8017);
    assert!(error.to_string().contains("0x8017"), "{error}");
}

#[test]
fn report_data_of_another_session() {
    changed(Check::ReportData, |quote| quote.extra_data = vec![0xAC; 32]);
}

#[test]
fn report_data_that_was_not_cut() {
    changed(Check::ReportData, |quote| quote.extra_data = vec![0xAB; 48]);
}

#[test]
fn report_data_that_was_cut_short() {
    changed(Check::ReportData, |quote| quote.extra_data = vec![0xAB; 31]);
}

#[test]
fn report_data_of_the_older_form_of_64_bytes() {
    changed(Check::ReportData, |quote| {
        quote.extra_data = [vec![0xAB; 48], vec![0; 16]].concat();
    });
}

#[test]
fn no_report_data() {
    changed(Check::ReportData, |quote| quote.extra_data.clear());
}

// --- banks and selections

#[test]
fn the_sha1_bank() {
    let error = changed(Check::TpmPcrBank, |quote| {
        quote.selections = vec![(SHA1, vec![0xff; 3])];
    });
    assert!(error.to_string().contains("sha1"), "{error}");
}

#[test]
fn the_sha384_bank() {
    changed(Check::TpmPcrBank, |quote| {
        quote.selections = vec![(SHA384, vec![0xff; 3])];
    });
}

#[test]
fn a_second_bank_beside_the_right_one() {
    changed(Check::TpmPcrBank, |quote| {
        quote.selections.push((SHA1, vec![0xff; 3]));
    });
}

#[test]
fn the_right_bank_twice() {
    changed(Check::TpmPcrBank, |quote| {
        quote.selections = vec![
            selection(SHA256, &[0, 1, 2, 3]),
            selection(SHA256, &[11, 23]),
        ];
    });
}

#[test]
fn an_empty_second_selection() {
    changed(Check::TpmPcrBank, |quote| {
        quote.selections.push((SHA1, vec![0; 3]));
    });
}

#[test]
fn no_selection() {
    changed(Check::TpmPcrBank, |quote| quote.selections.clear());
}

#[test]
fn a_selection_of_nothing() {
    changed(Check::TpmPcrSelection, |quote| {
        quote.selections = vec![(SHA256, vec![0; 3])];
    });
}

#[test]
fn a_selection_without_a_bitmap() {
    changed(Check::TpmPcrSelection, |quote| {
        quote.selections = vec![(SHA256, Vec::new())];
    });
}

#[test]
fn a_pcr_that_no_tpm_has() {
    changed(Check::TpmPcrSelection, |quote| {
        quote.selections = vec![(SHA256, vec![1, 0, 0, 1])];
    });
}

// --- values

#[test]
fn pcr_23_passed_as_pcr_11() {
    // What passes where a value's place in the list is its PCR, and the whole list is hashed.
    let error = changed(Check::TpmPcrValues, |quote| {
        let chosen: Vec<usize> = (0..=10).chain([23]).collect();
        quote.selections = vec![selection(SHA256, &chosen)];
        quote.sent = quote.selected();
        assert_eq!(quote.sent.len(), 12);
    });
    assert!(error.to_string().contains("PCR 23"), "{error}");
}

#[test]
fn pcr_9_shifted_to_pcr_8() {
    changed(Check::TpmPcrDigest, |quote| {
        let chosen: Vec<usize> = (0..=7).chain(9..24).collect();
        quote.selections = vec![selection(SHA256, &chosen)];
        quote.sent = quote.selected();
        quote.sent.push(vec![0; 32]);
    });
}

#[test]
fn fewer_values_than_selected() {
    let error = changed(Check::TpmPcrValues, |quote| quote.sent.truncate(23));
    assert!(error.to_string().contains("PCR 23"), "{error}");
}

#[test]
fn no_values() {
    changed(Check::TpmPcrValues, |quote| quote.sent.clear());
}

#[test]
fn a_value_too_many() {
    changed(Check::TpmPcrValues, |quote| quote.sent.push(vec![0; 32]));
}

#[test]
fn a_value_of_31_bytes() {
    changed(Check::TpmPcrValues, |quote| quote.sent[4].truncate(31));
}

#[test]
fn a_value_of_33_bytes() {
    changed(Check::TpmPcrValues, |quote| quote.sent[4].push(0));
}

#[test]
fn a_value_of_the_sha1_bank() {
    changed(Check::TpmPcrValues, |quote| quote.sent[4].truncate(20));
}

#[test]
fn a_value_of_the_sha384_bank() {
    changed(Check::TpmPcrValues, |quote| quote.sent[4] = vec![1; 48]);
}

#[test]
fn an_empty_value() {
    changed(Check::TpmPcrValues, |quote| quote.sent[23].clear());
}

#[test]
fn another_value() {
    changed(Check::TpmPcrDigest, |quote| quote.sent[11][31] ^= 1);
}

#[test]
fn two_values_swapped() {
    changed(Check::TpmPcrDigest, |quote| quote.sent.swap(10, 11));
}

#[test]
fn a_byte_moved_from_one_value_to_the_next() {
    // The concatenation, and so the digest, stays as it was.
    changed(Check::TpmPcrValues, |quote| {
        let byte = quote.sent[3].pop().unwrap();
        quote.sent[4].insert(0, byte);
    });
}

#[test]
fn a_digest_over_more_than_the_selection() {
    changed(Check::TpmPcrDigest, |quote| {
        let all = digest_of(&quote.pcrs);
        quote.selections = vec![selection(SHA256, &[0, 1, 2])];
        quote.pcr_digest = Some(all);
    });
}

#[test]
fn a_digest_over_less_than_the_selection() {
    changed(Check::TpmPcrDigest, |quote| {
        quote.pcr_digest = Some(digest_of(&quote.pcrs[..23]));
    });
}

#[test]
fn a_digest_in_another_order() {
    changed(Check::TpmPcrDigest, |quote| {
        let backwards: Vec<_> = quote.pcrs.iter().rev().cloned().collect();
        quote.pcr_digest = Some(digest_of(&backwards));
    });
}

#[test]
fn an_empty_digest() {
    changed(Check::TpmPcrDigest, |quote| {
        quote.pcr_digest = Some(Vec::new())
    });
}

#[test]
fn a_digest_that_was_cut() {
    changed(Check::TpmPcrDigest, |quote| {
        quote.pcr_digest = Some(digest_of(&quote.pcrs)[..31].to_vec());
    });
}

#[test]
fn a_digest_by_another_hash_than_the_signatures() {
    let mut forge = TpmForge::new(Ak::p384());
    forge.quote.pcr_digest = Some(digest_of(&forge.quote.pcrs));
    refused(&examine(&forge), Check::TpmPcrDigest);
}

// --- init-data

#[test]
fn initdata_of_another_digest() {
    let error = refused(&examine_initdata(&honest(), vec![1; 32]), Check::InitData);
    assert!(matches!(error, VerifyError::Initdata { .. }));
}

#[test]
fn initdata_digests_of_every_other_length() {
    for length in (0..=80).filter(|length| *length != 32) {
        refused(
            &examine_initdata(&honest(), vec![1; length]),
            Check::InitData,
        );
    }
}

#[test]
fn initdata_beside_a_quote_without_pcr_8() {
    let mut forge = honest();
    forge.quote.selections = vec![selection(SHA256, &[0, 1, 7, 9])];
    let error = refused(&examine_initdata(&forge, vec![1; 32]), Check::InitData);
    assert!(error.to_string().contains("sha256:0,1,7,9"), "{error}");
}

// --- the signature

#[test]
fn a_signature_by_another_key() {
    let mut forge = honest();
    let other = Ak::p256();
    let message = forge.quote.message(&forge.ak);
    forge.signature = Some(other.marshalled(&other.sign(&message)));
    refused(&examine(&forge), Check::TpmSignature);
}

#[test]
fn a_signature_over_another_quote() {
    let mut forge = honest();
    let mut other = forge.quote.clone();
    other.firmware_version += 1;
    forge.message = Some(other.message(&forge.ak));
    refused(&examine(&forge), Check::TpmSignature);
}

#[test]
fn a_signature_of_zeros() {
    let mut forge = honest();
    forge.signature = Some(forge.ak.marshalled(&[0; 64]));
    refused(&examine(&forge), Check::TpmSignature);
}

#[test]
fn a_signature_of_empty_numbers() {
    let mut forge = honest();
    forge.signature = Some(forge.ak.marshalled(&[]));
    refused(&examine(&forge), Check::TpmSignature);
}

#[test]
fn a_signature_whose_numbers_are_too_long_for_the_curve() {
    let mut forge = honest();
    let signed = forge.ak.sign(&forge.quote.message(&forge.ak));
    let [r, s] = halves(&signed);
    let long = [&[0], r].concat();
    forge.signature = Some(tpmt_signature(ECDSA, SHA256, &[&long, s]));
    refused(&examine(&forge), Check::TpmSignature);
}

#[test]
fn a_short_rsa_signature() {
    let mut forge = TpmForge::new(Ak::rsa());
    let signed = forge.ak.sign(&forge.quote.message(&forge.ak));
    forge.signature = Some(forge.ak.marshalled(&signed[1..]));
    refused(&examine(&forge), Check::TpmSignature);
}

#[test]
fn the_pss_scheme() {
    let mut forge = TpmForge::new(Ak::rsa());
    forge.signature = Some(tpmt_signature(RSAPSS, SHA256, &[&[1; 256]]));
    let error = refused(&examine(&forge), Check::TpmSignatureScheme);
    assert!(error.to_string().contains("rsapss"), "{error}");
}

#[test]
fn the_null_scheme() {
    let mut forge = honest();
    forge.signature = Some(0x0010_u16.to_be_bytes().to_vec());
    refused(&examine(&forge), Check::TpmSignatureScheme);
}

#[test]
fn an_rsa_signature_that_names_sha1() {
    let mut forge = TpmForge::new(Ak::rsa());
    forge.signature = Some(tpmt_signature(RSASSA, SHA1, &[&[1; 256]]));
    let error = refused(&examine(&forge), Check::TpmSignatureScheme);
    assert!(error.to_string().contains("rsassa with sha1"), "{error}");
}

#[test]
fn a_curves_signature_for_an_rsa_key() {
    let mut forge = TpmForge::new(Ak::rsa());
    forge.signature = Some(tpmt_signature(ECDSA, SHA256, &[&[1; 32], &[1; 32]]));
    refused(&examine(&forge), Check::TpmSignatureScheme);
}

#[test]
fn an_rsa_signature_for_a_curves_key() {
    let mut forge = honest();
    forge.signature = Some(tpmt_signature(RSASSA, SHA256, &[&[1; 256]]));
    refused(&examine(&forge), Check::TpmSignatureScheme);
}

#[test]
fn a_hash_stronger_than_the_curve() {
    let mut forge = honest();
    forge.signature = Some(tpmt_signature(ECDSA, SHA384, &[&[1; 32], &[1; 32]]));
    refused(&examine(&forge), Check::TpmSignatureScheme);
}

#[test]
fn a_key_on_another_curve() {
    let mut forge = honest();
    // secp256k1 in place of P-256.
    let mut spki = forge.ak.spki();
    let at = spki.windows(10).position(|w| w == P256_OID).unwrap();
    spki.splice(at..at + 10, SECP256K1_OID);
    spki[1] -= 3;
    spki[3] -= 3;
    forge.ak_public = Some(spki);
    refused(&examine(&forge), Check::TpmSignatureScheme);
}

// --- the anchor

#[test]
fn a_certificate_by_a_trusted_root_anchors_the_key() {
    let pki = Pki::new();
    let mut examination = pki.examine(&pki.chain());
    accepted(&examination);
    assert_eq!(examination.assurance, Assurance::Hardware);
    assert_eq!(examination.claims[0].1["ak_anchor"], "certificate");

    // With the root at its end too.
    examination = pki.examine(&format!("{}{}", pki.chain(), pki.root_pem));
    accepted(&examination);
}

#[test]
fn a_certificate_by_a_development_root_is_development() {
    let pki = Pki::new();
    let anchors = TrustAnchors::none()
        .with_development_root(&pki.root_pem)
        .unwrap();
    let examination = pki.examine_with(&pki.chain(), &anchors, NOW);
    accepted(&examination);
    assert_eq!(examination.assurance, Assurance::Development);
    assert_eq!(examination.claims[0].1["ak_anchored"], true);
}

#[test]
fn a_certificate_for_another_key() {
    let pki = Pki::new();
    let other = Pki::new();
    let leaf = pki.leaf(&other.ak_key, |_| {});
    refused(
        &pki.examine(&format!("{leaf}{}", pki.intermediate_pem)),
        Check::TpmAkCertificate,
    );
}

#[test]
fn a_certificate_by_an_untrusted_root() {
    let pki = Pki::new();
    let anchors = TrustAnchors::none()
        .with_tpm_root(&Pki::new().root_pem)
        .unwrap();
    refused(
        &pki.examine_with(&pki.chain(), &anchors, NOW),
        Check::TpmAkCertificate,
    );
}

#[test]
fn a_certificate_where_no_root_is_trusted() {
    let pki = Pki::new();
    let error = refused(
        &pki.examine_with(&pki.chain(), &TrustAnchors::vendors(), NOW),
        Check::TpmAkCertificate,
    );
    assert!(error.to_string().contains("no such root"), "{error}");
}

#[test]
fn a_certificate_that_has_expired() {
    let pki = Pki::new();
    refused(
        &pki.examine_with(&pki.chain(), &pki.anchors(), 2_000_000_001),
        Check::TpmAkCertificate,
    );
}

#[test]
fn a_certificate_that_is_not_valid_yet() {
    let pki = Pki::new();
    refused(
        &pki.examine_with(&pki.chain(), &pki.anchors(), 1_000_000_000),
        Check::TpmAkCertificate,
    );
}

#[test]
fn a_chain_without_its_intermediate() {
    let pki = Pki::new();
    refused(
        &pki.examine(&pki.leaf(&pki.ak_key, |_| {})),
        Check::TpmAkCertificate,
    );
}

#[test]
fn a_chain_in_another_order() {
    let pki = Pki::new();
    refused(
        &pki.examine(&format!(
            "{}{}",
            pki.intermediate_pem,
            pki.leaf(&pki.ak_key, |_| {})
        )),
        Check::TpmAkCertificate,
    );
}

#[test]
fn a_certificate_that_signed_itself() {
    let pki = Pki::new();
    let mut params = Pki::leaf_params();
    params.distinguished_name.push(DnType::CommonName, "AK");
    let leaf = params.self_signed(&pki.ak_key).unwrap().pem();
    refused(&pki.examine(&leaf), Check::TpmAkCertificate);
}

#[test]
fn a_certificate_without_extended_key_usage() {
    let error = leaf_refused(|params| params.extended_key_usages.clear());
    assert!(error.to_string().contains("AIKCertificate"), "{error}");
}

#[test]
fn a_certificate_of_a_tls_server() {
    let error = leaf_refused(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert!(error.to_string().contains("1.3.6.1.5.5.7.3.1"), "{error}");
}

#[test]
fn a_certificate_of_a_key_that_may_not_sign() {
    leaf_refused(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
}

#[test]
fn a_certificate_issued_by_one_that_is_no_authority() {
    let pki = Pki::new();
    let below = KeyPair::generate().unwrap();
    let middle = pki.leaf(&below, |_| {});
    let issuer = Issuer::new(Pki::leaf_params(), below);
    let leaf = Pki::leaf_params()
        .signed_by(&pki.ak_key, &issuer)
        .unwrap()
        .pem();
    refused(
        &pki.examine(&format!("{leaf}{middle}{}", pki.intermediate_pem)),
        Check::TpmAkCertificate,
    );
}

#[test]
fn certificates_that_are_none() {
    let pki = Pki::new();
    for text in [
        "",
        "no PEM",
        "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n",
    ] {
        refused(&pki.examine(text), Check::Structure);
    }
}

// --- what the shipped policy makes of it

#[test]
fn a_key_that_a_reference_value_names_and_nobody_vouches_for() {
    let runtime_data = RuntimeData {
        nonce: Nonce::from_bytes(&[1; 32]),
        tee_pubkey: serde_json::from_value(json!({
            "kty": "EC",
            "crv": "P-256",
            "alg": "ECDH-ES+A256KW",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }))
        .unwrap(),
    };
    let mut forge = honest();
    forge.quote.extra_data = runtime_data.primary_report_data("", HashAlgorithm::Sha384);
    forge.quote.extra_data.truncate(32);
    let mut values = ReferenceValues::default();
    for (name, value) in [
        ("tpm_pcr11", json!(["4b".repeat(32)])),
        ("trusted_aks", json!([STANDARD.encode(forge.ak.spki())])),
    ] {
        values.insert(name, ReferenceValue::new(value, NOW + 1));
    }
    let values = Arc::new(values);
    let grade = |anchors: &TrustAnchors| {
        let json = forge.json().to_string();
        let evidence = Evidence::parse(Tee::Tpm, json.as_bytes()).unwrap();
        let binding = Binding::new(&runtime_data, "", None);
        let verified = verify(evidence, &Collateral::none(), anchors, &binding, NOW).unwrap();
        let policies = AppraisalPolicies::shipped();
        let appraised = appraise(verified, &values, &policies, NOW).unwrap();
        appraised.submods()[0].trust_vector().status()
    };
    assert_eq!(grade(&forge.enrolled()), Tier::Affirming);
    assert_eq!(grade(&TrustAnchors::vendors()), Tier::Contraindicated);
}

// --- the endorsement key, at enrolment

/// What becomes of the certificate of an endorsement key with one change.
fn endorsement(
    anchors: impl FnOnce(&Pki) -> TrustAnchors,
    now: u64,
    change: impl FnOnce(&mut CertificateParams),
) -> Result<EndorsementKey, CredentialError> {
    let pki = Pki::new();
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let leaf = pki.leaf(&key, |params| {
        params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
        // tcg-kp-EKCertificate
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        change(params);
    });
    EndorsementKey::verify(
        &format!("{leaf}{}", pki.intermediate_pem),
        &anchors(&pki),
        now,
    )
}

#[test]
fn an_endorsement_keys_certificate_by_a_trusted_root_is_accepted() {
    endorsement(Pki::anchors, NOW, |_| {}).unwrap();
}

#[test]
fn an_endorsement_keys_certificate_by_an_untrusted_root() {
    let error = endorsement(|_| Pki::new().anchors(), NOW, |_| {}).unwrap_err();
    assert!(matches!(error, CredentialError::NoPath(_)), "{error}");
}

/// An enrolled attestation key counts as hardware's: enrolment must not make that of a development root's word.
#[test]
fn an_endorsement_keys_certificate_by_a_development_root() {
    let development = |pki: &Pki| {
        TrustAnchors::none()
            .with_development_root(&pki.root_pem)
            .unwrap()
    };
    let error = endorsement(development, NOW, |_| {}).unwrap_err();
    assert!(
        matches!(&error, CredentialError::NoPath(why) if why.contains("development")),
        "{error}"
    );
}

#[test]
fn an_endorsement_keys_certificate_that_has_expired() {
    let error = endorsement(Pki::anchors, 2_000_000_001, |_| {}).unwrap_err();
    assert!(matches!(error, CredentialError::NoPath(_)), "{error}");
}

#[test]
fn a_certificate_that_is_not_an_endorsement_keys() {
    let error = endorsement(Pki::anchors, NOW, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    })
    .unwrap_err();
    assert!(error.to_string().contains("endorsement key"), "{error}");
}

// --- structure

#[test]
fn bytes_after_the_quote() {
    assert!(malformed(|quote| quote.tail.push(0)).contains("1 bytes follow"));
}

#[test]
fn an_extra_data_that_is_too_long() {
    assert!(malformed(|quote| quote.extra_data = vec![0; 67]).contains("at most 66"));
}

#[test]
fn a_signers_name_that_is_too_long() {
    assert!(malformed(|quote| quote.qualified_signer = vec![0; 67]).contains("at most 66"));
}

#[test]
fn a_bitmap_that_is_too_long() {
    malformed(|quote| quote.selections = vec![(SHA256, vec![0xff; 5])]);
}

#[test]
fn too_many_selections() {
    malformed(|quote| quote.selections = vec![(SHA256, vec![0xff; 3]); 17]);
}

#[test]
fn a_truth_value_that_is_neither() {
    malformed(|quote| quote.safe = 2);
}

#[test]
fn every_truncation_of_a_message_is_refused() {
    let mut forge = honest();
    let whole = forge.quote.message(&forge.ak);
    for length in 0..whole.len() {
        forge.message = Some(whole[..length].to_vec());
        refused(&examine(&forge), Check::Structure);
    }
}

#[test]
fn every_truncation_of_a_signature_is_refused() {
    for ak in [Ak::rsa(), Ak::p256()] {
        let mut forge = TpmForge::new(ak);
        let whole = forge
            .ak
            .marshalled(&forge.ak.sign(&forge.quote.message(&forge.ak)));
        for length in 0..whole.len() {
            forge.signature = Some(whole[..length].to_vec());
            refused(&examine(&forge), Check::Structure);
        }
        forge.signature = Some([whole, vec![0]].concat());
        refused(&examine(&forge), Check::Structure);
    }
}

#[test]
fn huge_lengths_everywhere_are_refused() {
    let mut forge = honest();
    let whole = forge.quote.message(&forge.ak);
    for at in 6..whole.len() - 4 {
        let mut message = whole.clone();
        message[at..at + 4].fill(0xff);
        forge.message = Some(message);
        assert!(examine(&forge).error.is_some(), "at {at}");
    }
}

#[test]
fn any_bit_of_the_signed_message_and_of_the_signature_counts() {
    let mut forge = honest();
    let message = forge.quote.message(&forge.ak);
    let signature = forge.ak.marshalled(&forge.ak.sign(&message));
    for at in 0..message.len() {
        let mut flipped = message.clone();
        flipped[at] ^= 1 << (at % 8);
        forge.message = Some(flipped);
        forge.signature = Some(signature.clone());
        assert!(examine(&forge).error.is_some(), "message at {at}");
    }
    forge.message = None;
    for at in 0..signature.len() {
        let mut flipped = signature.clone();
        flipped[at] ^= 1 << (at % 8);
        forge.signature = Some(flipped);
        assert!(examine(&forge).error.is_some(), "signature at {at}");
    }
}

#[test]
fn members_of_another_form_are_refused() {
    let forge = honest();
    for (pointer, value) in [
        ("/ak_public", json!("%%")),
        ("/ak_public", json!("AAAA")),
        ("/ak_public", json!(7)),
        ("/ak_certificates", json!(["-----BEGIN"])),
        ("/tpm_quote", json!(null)),
        ("/tpm_quote/signature", json!("a")),
        ("/tpm_quote/message", json!([255, 84])),
        ("/tpm_quote/pcrs", json!({"0": "00"})),
        ("/tpm_quote/pcrs/0", json!("zz")),
        ("/tpm_quote/pcrs/0", json!("0")),
    ] {
        let mut json = forge.json();
        if pointer == "/ak_certificates" {
            json["ak_certificates"] = value;
        } else {
            *json.pointer_mut(pointer).unwrap() = value;
        }
        refused(&examine_json(&forge, &json), Check::Structure);
    }
}

#[test]
fn a_member_given_twice_is_refused() {
    let text = honest().json().to_string();
    let twice = text.replacen('{', r#"{"ak_public":"AAAA","#, 1);
    let error = Evidence::parse(Tee::Tpm, twice.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("duplicate"), "{error}");
}

#[test]
fn oversized_evidence_is_refused_before_parsing() {
    let text = " ".repeat(64 * 1024 + 1);
    let error = Evidence::parse(Tee::Tpm, text.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");
}

fn examine_initdata(forge: &TpmForge, digest: Vec<u8>) -> Examination {
    run(
        Tee::Tpm,
        &forge.json(),
        &Collateral::none(),
        &forge.enrolled(),
        &Expected {
            report_data: Some(vec![0xAB; 48]),
            initdata: ExpectedInitdata::Digest(digest),
        },
        NOW,
    )
}

fn digest_of(values: &[Vec<u8>]) -> Vec<u8> {
    Ak::p256().hash(&values.concat())
}

/// A root, an intermediate authority, and an attestation key with its certificate.
struct Pki {
    root_pem: String,
    intermediate: Issuer<'static, KeyPair>,
    intermediate_pem: String,
    ak_key: KeyPair,
}

impl Pki {
    fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params
        };
        let root_key = KeyPair::generate().unwrap();
        let root = authority("TPM root");
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let root = Issuer::new(root, root_key);
        let intermediate = authority("TPM intermediate");
        let key = KeyPair::generate().unwrap();
        let intermediate_pem = intermediate.signed_by(&key, &root).unwrap().pem();
        Self {
            root_pem,
            intermediate: Issuer::new(intermediate, key),
            intermediate_pem,
            ak_key: KeyPair::generate().unwrap(),
        }
    }

    fn leaf_params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // tcg-kp-AIKCertificate
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2033, 5, 18);
        params
    }

    fn leaf(&self, key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = Self::leaf_params();
        change(&mut params);
        params.signed_by(key, &self.intermediate).unwrap().pem()
    }

    fn chain(&self) -> String {
        format!(
            "{}{}",
            self.leaf(&self.ak_key, |_| {}),
            self.intermediate_pem
        )
    }

    fn anchors(&self) -> TrustAnchors {
        TrustAnchors::none().with_tpm_root(&self.root_pem).unwrap()
    }

    fn examine(&self, certificates: &str) -> Examination {
        self.examine_with(certificates, &self.anchors(), NOW)
    }

    fn examine_with(&self, certificates: &str, anchors: &TrustAnchors, now: u64) -> Examination {
        let mut forge = TpmForge::new(Ak::from_pkcs8(&self.ak_key.serialize_der()));
        forge.certificates = Some(certificates.to_owned());
        run(
            Tee::Tpm,
            &forge.json(),
            &Collateral::none(),
            anchors,
            &report_data(&[0xAB; 48]),
            now,
        )
    }
}

fn leaf_refused(change: impl FnOnce(&mut CertificateParams)) -> VerifyError {
    let pki = Pki::new();
    let leaf = pki.leaf(&pki.ak_key, change);
    refused(
        &pki.examine(&format!("{leaf}{}", pki.intermediate_pem)),
        Check::TpmAkCertificate,
    )
}

/// DER, with tag and length.
const P256_OID: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const SECP256K1_OID: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
