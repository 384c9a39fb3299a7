//! Evidence of every platform, forged in its real format under a development root: the verifiers of hardware take it
//! when that root is given to them, say that it is for development, and refuse it without.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;

use strongroom_attester::Attester;
use strongroom_attester::development::{
    DevelopmentAttester, DevelopmentRoot, az_vtpm, sgx, snp, tdx, tpm,
};
use strongroom_verifier::{
    Assurance, Binding, Check, Collateral, CollateralItem, Evidence, Expected, ExpectedInitdata,
    TrustAnchors, VerifiedEvidence, VerifyError, examine, verify,
};
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::initdata::Initdata;
use strongroom_wire::kbs::{Nonce, RuntimeData};
use strongroom_wire::tee::Tee;

const NOW: u64 = 1_800_000_000;

const PLATFORMS: [Tee; 6] = [
    Tee::Snp,
    Tee::Tdx,
    Tee::Sgx,
    Tee::AzSnpVtpm,
    Tee::AzTdxVtpm,
    Tee::Tpm,
];

#[test]
fn forged_evidence_of_every_platform_is_for_development() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    for tee in PLATFORMS {
        let verified = session(tee, &root, &anchors(&root)).unwrap();
        assert_eq!(verified.tee(), tee);
        assert_eq!(verified.assurance(), Assurance::Development, "{tee}");
    }
}

#[test]
fn root_of_somebody_else_is_refused() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let other = DevelopmentRoot::generate(NOW).unwrap();
    for (tee, check) in [
        (Tee::Snp, Check::SnpChain),
        (Tee::Tdx, Check::IntelRoot),
        (Tee::Sgx, Check::IntelRoot),
        (Tee::AzSnpVtpm, Check::SnpChain),
        (Tee::AzTdxVtpm, Check::IntelRoot),
        (Tee::Tpm, Check::TpmAkCertificate),
    ] {
        for anchors in [TrustAnchors::vendors(), anchors(&other)] {
            let error = session(tee, &root, &anchors).unwrap_err();
            assert_eq!(error.check(), check, "{tee}: {error}");
        }
    }
}

#[test]
fn form_that_a_machine_can_send_is_refused() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let mut all = Vec::new();
    for product in snp::Product::ALL {
        let forge = snp::Forge::of(&root, product);
        let mut alone = forge.clone();
        alone.with_certificates = false;
        let vlek = forge.clone().with_vlek();
        for forge in [forge, alone, vlek] {
            all.push((Tee::Snp, forge.with_report_data(b"d").evidence_json()));
        }
    }
    for format in [tdx::Format::V4, tdx::Format::V5Td10, tdx::Format::V5Td15] {
        let forge = tdx::Forge::of(&root, format).with_report_data(b"d");
        let mut without_log = forge.clone();
        without_log.event_log = None;
        all.push((Tee::Tdx, forge.evidence_json()));
        all.push((Tee::Tdx, without_log.evidence_json()));
    }
    for platform in [true, false] {
        let mut forge = sgx::Forge::new(&root).with_report_data(b"d");
        forge.pck.platform = platform;
        all.push((Tee::Sgx, forge.evidence_json()));
    }
    for key in [tpm::KeyKind::Rsa, tpm::KeyKind::Ec] {
        let forge = tpm::Forge::of(&root, key).with_report_data(b"d");
        all.push((Tee::Tpm, forge.evidence_json()));
    }
    for version in [0, 1, 2] {
        for (tee, forge) in [
            (Tee::AzSnpVtpm, az_vtpm::Forge::snp(&root)),
            (Tee::AzTdxVtpm, az_vtpm::Forge::tdx(&root)),
        ] {
            let forge = forge.with_version(version).with_report_data(b"d");
            all.push((tee, forge.evidence_json()));
        }
    }
    for (tee, json) in all {
        let json = json.unwrap();
        let evidence = Evidence::parse(tee, json.as_bytes()).unwrap();
        let collateral = collateral(&root, &evidence);
        let expected = Expected {
            report_data: Some(b"d".to_vec()),
            initdata: ExpectedInitdata::None,
        };
        let seen = examine(evidence, &collateral, &anchors(&root), &expected, NOW);
        assert_eq!(seen.error, None, "{tee}: {:#?}", seen.steps);
        assert_eq!(seen.assurance, Assurance::Development);
    }
}

/// The collateral folder of a root has all that its evidence asks for, at the places where a broker looks.
#[test]
fn evidence_asks_for_what_the_folder_has_not() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let files: BTreeMap<_, _> = root.collateral().unwrap().into_iter().collect();
    for tee in PLATFORMS {
        let attester = Attester::Development(DevelopmentAttester::new(tee, root.clone()).unwrap());
        let json = attester.evidence(&[1; 48]).unwrap();
        let evidence = Evidence::parse(tee, json.get().as_bytes()).unwrap();
        for wanted in evidence.collateral_request().iter() {
            assert!(files.contains_key(&wanted.path()), "{tee}: {wanted}");
        }
        for (wanted, item) in collateral(&root, &evidence).iter() {
            item.check_form(wanted).unwrap();
        }
    }
}

fn anchors(root: &DevelopmentRoot) -> TrustAnchors {
    TrustAnchors::vendors()
        .with_development_root(&root.certificate_pem())
        .unwrap()
}

/// One handshake: a challenge, the attester's evidence with init-data, the verdict.
fn session(
    tee: Tee,
    root: &DevelopmentRoot,
    anchors: &TrustAnchors,
) -> Result<VerifiedEvidence, VerifyError> {
    let runtime_data = RuntimeData {
        nonce: Nonce::from_bytes(&[9; 32]),
        tee_pubkey: serde_json::from_str(KEY).unwrap(),
    };
    let initdata = Initdata::parse(INITDATA).unwrap();
    let attester = Attester::Development(DevelopmentAttester::new(tee, root.clone()).unwrap())
        .with_initdata(&initdata);
    let report_data = runtime_data.primary_report_data("", HashAlgorithm::Sha384);
    let json = attester.evidence(&report_data).unwrap();
    let evidence = Evidence::parse(attester.tee(), json.get().as_bytes())?;
    let collateral = collateral(root, &evidence);
    let binding = Binding::new(&runtime_data, "", Some(&initdata));
    verify(evidence, &collateral, anchors, &binding, NOW)
}

fn collateral(root: &DevelopmentRoot, evidence: &Evidence) -> Collateral {
    let files: BTreeMap<_, _> = root.collateral().unwrap().into_iter().collect();
    let mut collateral = Collateral::none();
    for wanted in evidence.collateral_request().iter() {
        let Some(body) = files.get(&wanted.path()) else {
            continue;
        };
        let issuer_chain = wanted.chain_path().map_or_else(String::new, |path| {
            String::from_utf8(files[&path].clone()).unwrap()
        });
        collateral.insert(
            wanted.clone(),
            CollateralItem {
                body: body.clone(),
                issuer_chain,
            },
        );
    }
    collateral
}

const INITDATA: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
const KEY: &str = r#"{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

#[test]
fn development_root_is_taken_for_a_maker_of_tpms() {
    let pem = DevelopmentRoot::generate(NOW).unwrap().certificate_pem();
    let refused = TrustAnchors::vendors().with_tpm_root(&pem).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("name it as a development root"),
        "{refused}"
    );
}
