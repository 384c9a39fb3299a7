//! NVIDIA evidence in tests: real reports from beside the checkout, and forged ones with one thing wrong at a time.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SigningKey as _,
};
use serde_json::{Value, json};
use strongroom_wire::tee::Tee;

use super::abi::{NvidiaEvidence, Report, malformed};
use crate::anchors::Vendor;
use crate::platforms::PlatformEvidence;
use crate::rim::forge;
use crate::x509::Certificate;
use crate::{
    Assurance, Check, Collateral, CollateralItem, Evidence, Examination, Expected,
    ExpectedInitdata, StepOutcome, TrustAnchors, VerifyError, Wanted, examine,
};

/// 2025-01-01.
const NOW: u64 = 1_735_689_600;

fn fixture(name: &str) -> Option<String> {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/trustee/deps/verifier/test_data/nvidia/"
    );
    let text = std::fs::read_to_string(format!("{folder}{name}")).ok();
    if text.is_none() {
        assert!(
            !std::path::Path::new(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../shared/fixtures"
            ))
            .is_dir(),
            "what this test reads is missing from a folder of fixtures that is there"
        );
        println!("SKIPPED: no NVIDIA evidence beside the checkout");
    }
    text
}

fn evidence(report: &str, certificates: &str) -> String {
    json!({"device_evidence_list": [{
        "arch": "HOPPER",
        "uuid": "1111-2222-33333-444444-555555",
        "evidence": report,
        "certificate": STANDARD.encode(certificates),
    }]})
    .to_string()
}

fn check(
    json: &str,
    nonce: &[u8],
    collateral: &Collateral,
    anchors: &TrustAnchors,
    now: u64,
) -> Result<Examination, VerifyError> {
    let expected = Expected {
        report_data: Some(nonce.to_vec()),
        initdata: ExpectedInitdata::Unknown,
    };
    let evidence = Evidence::parse(Tee::Nvidia, json.as_bytes())?;
    let examination = examine(evidence, collateral, anchors, &expected, now);
    match examination.error {
        None => Ok(examination),
        Some(error) => Err(error),
    }
}

fn check_real(report: &str, chain: &str, nonce: &str) -> Option<Result<Examination, VerifyError>> {
    Some(check(
        &evidence(fixture(report)?.trim(), &fixture(chain)?),
        &hex::decode(nonce).unwrap(),
        &Collateral::none(),
        &TrustAnchors::vendors(),
        NOW,
    ))
}

const REPORT: &str = "hopperAttestationReport.txt";
const NONCE: &str = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";
const COCO_NONCE: &str = "87d8e24ab336adafe228d49e83d745f6dba4ae505372b6a5704820856b343fec";

#[test]
fn real_reports_end_as_the_manifest_says() {
    for (report, chain, nonce, refused_by) in [
        (REPORT, "hopper_cert_chain_case1.txt", NONCE, None),
        (
            "hopper_coco_report1.txt",
            "hopper_coco_certs1.txt",
            COCO_NONCE,
            None,
        ),
        (
            REPORT,
            "hopper_cert_chain_case2.txt",
            NONCE,
            Some(Check::NvidiaChain),
        ),
        (
            REPORT,
            "hopper_cert_chain_case3.txt",
            NONCE,
            Some(Check::NvidiaChain),
        ),
        (
            REPORT,
            "hopper_cert_chain_case4.txt",
            NONCE,
            Some(Check::NvidiaFwid),
        ),
        // Each device's report under the other's chain, and a nonce of another session.
        (
            REPORT,
            "hopper_coco_certs1.txt",
            NONCE,
            Some(Check::NvidiaFwid),
        ),
        (
            REPORT,
            "hopper_cert_chain_case1.txt",
            COCO_NONCE,
            Some(Check::ReportData),
        ),
    ] {
        let Some(outcome) = check_real(report, chain, nonce) else {
            return;
        };
        let found = outcome.as_ref().err().map(VerifyError::check);
        assert_eq!(found, refused_by, "{report} with {chain}: {outcome:?}");
    }
}

#[test]
fn real_chains_are_refused_for_the_stated_reasons() {
    for (chain, reason) in [
        ("hopper_cert_chain_case2.txt", "leads to no trusted root"),
        ("hopper_cert_chain_case3.txt", "was issued by"),
        ("hopper_cert_chain_case4.txt", "a leaf without a FWID"),
    ] {
        let Some(outcome) = check_real(REPORT, chain, NONCE) else {
            return;
        };
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(reason), "{chain}: {error}");
    }
}

#[test]
fn real_signing_certificate_signed_the_report_and_the_chain_ends_in_the_built_in_root() {
    let (Some(report), Some(signer), Some(chain)) = (
        fixture(REPORT),
        fixture("hopper_signing_cert.pem"),
        fixture("hopper_cert_chain_case1.txt"),
    ) else {
        return;
    };
    let report = Report::parse(&hex::decode(report.trim()).unwrap()).unwrap();
    let signer = Certificate::from_pem_chain(signer.as_bytes(), 1).unwrap();
    let key = signer[0].public_key();
    key.check_fixed(&report.signed, &report.signature).unwrap();
    let chain = Certificate::from_pem_chain(chain.as_bytes(), 5).unwrap();
    let anchors = TrustAnchors::vendors();
    let mut roots = anchors.roots(Vendor::Nvidia);
    assert_eq!(roots.next().unwrap().certificate, chain[4]);
    assert!(roots.next().is_none());
}

#[test]
fn claims_are_those_of_upstream() {
    let Some(outcome) = check_real(REPORT, "hopper_cert_chain_case1.txt", NONCE) else {
        return;
    };
    let outcome = outcome.unwrap();
    assert_eq!(outcome.assurance, Assurance::Hardware);
    let (tee, claims) = &outcome.claims[0];
    assert_eq!(*tee, Tee::Nvidia);
    let wanted: Value =
        serde_json::from_str(&fixture("hopperAttestationReport-claims.txt").unwrap()).unwrap();
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&claims[name], value, "{name}");
    }
    let mut ours: Vec<&str> = claims
        .keys()
        .map(String::as_str)
        .filter(|name| wanted.get(name).is_none())
        .collect();
    ours.sort_unstable();
    assert_eq!(
        ours,
        ["driver_version", "rim_checked", "vbios_version", "verifier"]
    );
    assert_eq!(claims["rim_checked"], json!(false));
    assert_eq!(claims["driver_version"], json!("550.90.07"));
    assert_eq!(claims["vbios_version"], json!("96.00.9f.00.01"));
}

#[test]
fn further_opaque_fields_of_a_newer_driver_are_claims() {
    let Some(outcome) = check_real(
        "hopper_coco_report1.txt",
        "hopper_coco_certs1.txt",
        COCO_NONCE,
    ) else {
        return;
    };
    let outcome = outcome.unwrap();
    let config = &outcome.claims[0].1["config"];
    assert_eq!(config["driver_version"], json!("580.95.05"));
    assert_eq!(config["vbios_version"], json!("96.00.74.00.1a"));
    assert_eq!(config["opaque_data_version"], json!(1));
    assert_eq!(config["feature_flag"], json!("SPT"));
}

#[test]
fn real_manifest_of_another_vbios_is_refused() {
    let rim = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/trustee/rvps/src/extractors/swid/test-rim.b64"
    );
    let (Some(report), Some(chain), Ok(rim)) = (
        fixture("hopper_coco_report1.txt"),
        fixture("hopper_coco_certs1.txt"),
        std::fs::read_to_string(rim),
    ) else {
        return;
    };
    let mut collateral = Collateral::none();
    collateral.insert(
        wanted("NV_GPU_VBIOS_1010_0200_882_960074001A"),
        item(STANDARD.decode(rim.trim()).unwrap()),
    );
    let outcome = check(
        &evidence(&report, &chain),
        &hex::decode(COCO_NONCE).unwrap(),
        &collateral,
        &TrustAnchors::vendors(),
        NOW,
    );
    assert_eq!(
        outcome.unwrap_err(),
        VerifyError::Failed {
            check: Check::NvidiaVbiosRim,
            expected: "96.00.74.00.1a".into(),
            actual: "96.00.74.00.1C".into()
        }
    );
}

#[test]
fn manifests_are_asked_for_by_nvidias_names() {
    let (Some(report), Some(chain)) = (fixture(REPORT), fixture("hopper_cert_chain_case1.txt"))
    else {
        return;
    };
    let evidence = Evidence::parse(Tee::Nvidia, evidence(&report, &chain).as_bytes()).unwrap();
    let request = evidence.collateral_request();
    assert_eq!(
        request.iter().collect::<Vec<_>>(),
        [
            &wanted("NV_GPU_DRIVER_GH100_550.90.07"),
            &wanted("NV_GPU_VBIOS_1010_0200_882_96009F0001")
        ]
    );
    assert!(request.iter().all(|wanted| !wanted.is_required()));
}

#[test]
fn any_flipped_bit_of_the_signed_part_is_refused() {
    for (report, chain, nonce) in [
        (REPORT, "hopper_cert_chain_case1.txt", NONCE),
        (
            "hopper_coco_report1.txt",
            "hopper_coco_certs1.txt",
            COCO_NONCE,
        ),
    ] {
        let (Some(report), Some(chain)) = (fixture(report), fixture(chain)) else {
            return;
        };
        let report = hex::decode(report.trim()).unwrap();
        let nonce = hex::decode(nonce).unwrap();
        let anchors = TrustAnchors::vendors();
        let json = evidence(&hex::encode(&report), &chain);
        let parsed = NvidiaEvidence::parse(json.as_bytes()).unwrap();
        let expected = Expected {
            report_data: Some(nonce),
            initdata: ExpectedInitdata::Unknown,
        };
        // The certificates are parsed once: they are not what is flipped here.
        let outcome = |bytes: &[u8]| {
            let mut changed = parsed.clone();
            changed.devices[0].report = Report::parse(bytes).map_err(malformed)?;
            let evidence = Evidence {
                primary: PlatformEvidence::Nvidia(changed),
                devices: Vec::new(),
                devices_digest: crate::binding::devices_digest(""),
            };
            match examine(evidence, &Collateral::none(), &anchors, &expected, NOW).error {
                None => Ok(()),
                Some(error) => Err(error),
            }
        };
        outcome(&report).unwrap();
        // The zero that a driver appends is not signed.
        let signed = report.len() - usize::from(report.ends_with(&[0]));
        for at in 0..signed {
            let mut flipped = report.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(outcome(&flipped).is_err(), "byte {at}");
        }
        let truncated = (0..signed).step_by(13).chain(signed - 3..signed);
        for length in truncated {
            let error = outcome(&report[..length]).unwrap_err();
            assert!(
                matches!(error, VerifyError::Malformed { .. }),
                "{length}: {error}"
            );
        }
    }
}

fn wanted(id: &str) -> Wanted {
    Wanted::NvidiaRim { id: id.to_owned() }
}

fn item(body: Vec<u8>) -> CollateralItem {
    CollateralItem {
        body,
        issuer_chain: String::new(),
    }
}

/// Keys and certificates of a forged device: made once, for keys take their time.
struct Pki {
    root: rcgen::Certificate,
    authority: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
    /// The authority of another architecture, under the same root.
    other: rcgen::Certificate,
    other_issuer: Issuer<'static, KeyPair>,
    key: KeyPair,
    rim: KeyPair,
    rim_signer: rcgen::Certificate,
}

static PKI: LazyLock<Pki> = LazyLock::new(|| {
    let root_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let root_parameters = parameters("Development Root", true);
    let root = root_parameters.self_signed(&root_key).unwrap();
    let root_issuer = Issuer::new(root_parameters, root_key);
    let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let authority_parameters = parameters("NVIDIA GH100 Identity", true);
    let authority = authority_parameters
        .signed_by(&authority_key, &root_issuer)
        .unwrap();
    let other_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let other_parameters = parameters("NVIDIA GB100 Identity", true);
    let other = other_parameters
        .signed_by(&other_key, &root_issuer)
        .unwrap();
    let rim = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let mut rim_signer = parameters("RIM Signer", false);
    rim_signer.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let rim_signer = rim_signer.signed_by(&rim, &root_issuer).unwrap();
    Pki {
        root,
        authority,
        issuer: Issuer::new(authority_parameters, authority_key),
        other,
        other_issuer: Issuer::new(other_parameters, other_key),
        key: KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        rim,
        rim_signer,
    }
});

fn parameters(name: &str, ca: bool) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    if ca {
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    parameters
}

/// A forged device, whose every part can be made wrong.
struct Forged {
    arch: &'static str,
    head: [u8; 4],
    nonce: Vec<u8>,
    response: [u8; 4],
    blocks: Option<u8>,
    record_length: Option<u32>,
    measurements: Vec<(u8, u8, Vec<u8>)>,
    opaque_length: Option<u16>,
    opaque: Vec<(u16, Vec<u8>)>,
    trailer: Vec<u8>,
    certified_fwid: Vec<u8>,
    fwid_hash: &'static [u8],
    fwid_extension: bool,
    leaf: fn(&mut CertificateParams),
    other_architecture: bool,
    chain: fn(Vec<String>) -> Vec<String>,
    signed_by: Option<KeyPair>,
    signature: fn(&mut Vec<u8>),
    driver_rim: Option<String>,
    vbios_rim: Option<String>,
    now: u64,
}

const FWID: [u8; 48] = [0x5a; 48];
const SHA384_OID: &[u8] = &[
    0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02,
];
const SHA256_OID: &[u8] = &[
    0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
];

impl Forged {
    fn good() -> Self {
        Self {
            arch: "HOPPER",
            head: [0x11, 0xe0, 0x01, 0xff],
            nonce: vec![9; 32],
            response: [0x11, 0x60, 0, 0],
            blocks: None,
            record_length: None,
            measurements: (1..=40).map(|index| (index, 1, vec![index; 48])).collect(),
            opaque_length: None,
            opaque: vec![
                (3, b"550.90.07\0".to_vec()),
                (6, vec![0, 0x9f, 0, 0x96, 1, 0, 0, 0]),
                (11, vec![0xaa]),
                (15, b"882\0".to_vec()),
                (17, b"1010\0".to_vec()),
                (18, b"0200\0".to_vec()),
                (20, FWID.to_vec()),
            ],
            trailer: Vec::new(),
            certified_fwid: FWID.to_vec(),
            fwid_hash: SHA384_OID,
            fwid_extension: true,
            leaf: |_| {},
            other_architecture: false,
            chain: |chain| chain,
            signed_by: None,
            signature: |_| {},
            driver_rim: None,
            vbios_rim: None,
            now: NOW,
        }
    }

    /// With both manifests, each of which lists half of the measurements.
    fn with_manifests() -> Self {
        let mut forged = Self::good();
        forged.driver_rim = Some(driver_rim(&[1; 48]));
        forged.vbios_rim = Some(vbios_rim("96.00.9F.00.01"));
        forged
    }

    fn report(&self) -> Vec<u8> {
        let mut record = Vec::new();
        for (index, specification, value) in &self.measurements {
            let size = u16::try_from(value.len()).unwrap();
            record.extend_from_slice(&[*index, *specification]);
            record.extend_from_slice(&(size + 3).to_le_bytes());
            record.push(1);
            record.extend_from_slice(&size.to_le_bytes());
            record.extend_from_slice(value);
        }
        let mut opaque = Vec::new();
        for (number, value) in &self.opaque {
            opaque.extend_from_slice(&number.to_le_bytes());
            opaque.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
            opaque.extend_from_slice(value);
        }
        let mut report = self.head.to_vec();
        report.extend_from_slice(&self.nonce);
        report.push(0);
        report.extend_from_slice(&self.response);
        report.push(
            self.blocks
                .unwrap_or_else(|| u8::try_from(self.measurements.len()).unwrap()),
        );
        let length = self
            .record_length
            .unwrap_or_else(|| u32::try_from(record.len()).unwrap());
        report.extend_from_slice(&length.to_le_bytes()[..3]);
        report.extend_from_slice(&record);
        report.extend_from_slice(&[7; 32]);
        let length = self
            .opaque_length
            .unwrap_or_else(|| u16::try_from(opaque.len()).unwrap());
        report.extend_from_slice(&length.to_le_bytes());
        report.extend_from_slice(&opaque);
        let key = self.signed_by.as_ref().unwrap_or(&PKI.key);
        let mut signature = forge::fixed(&key.sign(&report).unwrap());
        (self.signature)(&mut signature);
        report.extend_from_slice(&signature);
        report.extend_from_slice(&self.trailer);
        report
    }

    fn certificates(&self) -> String {
        let mut leaf = parameters("Device", false);
        if self.fwid_extension {
            leaf.custom_extensions
                .push(CustomExtension::from_oid_content(
                    &[2, 23, 133, 5, 4, 1],
                    composite_device_id(self.fwid_hash, &self.certified_fwid),
                ));
        }
        (self.leaf)(&mut leaf);
        let (authority, issuer) = match self.other_architecture {
            false => (&PKI.authority, &PKI.issuer),
            true => (&PKI.other, &PKI.other_issuer),
        };
        let leaf = leaf.signed_by(&PKI.key, issuer).unwrap();
        (self.chain)(vec![leaf.pem(), authority.pem(), PKI.root.pem()]).concat()
    }

    fn json(&self) -> String {
        json!({"device_evidence_list": [{
            "arch": self.arch,
            "evidence": hex::encode(self.report()),
            "certificate": STANDARD.encode(self.certificates()),
        }]})
        .to_string()
    }

    fn collateral(&self) -> Collateral {
        let mut collateral = Collateral::none();
        for (id, rim) in [
            ("NV_GPU_DRIVER_GH100_550.90.07", &self.driver_rim),
            ("NV_GPU_VBIOS_1010_0200_882_96009F0001", &self.vbios_rim),
        ] {
            if let Some(rim) = rim {
                collateral.insert(wanted(id), item(rim.clone().into_bytes()));
            }
        }
        collateral
    }

    fn examine(&self) -> Result<Examination, VerifyError> {
        let anchors = TrustAnchors::vendors()
            .with_development_root(&PKI.root.pem())
            .unwrap();
        check(
            &self.json(),
            &[9; 48],
            &self.collateral(),
            &anchors,
            self.now,
        )
    }
}

fn composite_device_id(hash: &[u8], fwid: &[u8]) -> Vec<u8> {
    let tlv = |tag: u8, content: &[u8]| {
        let mut out = vec![tag, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    };
    let fwid = tlv(0x30, &[hash, &tlv(0x04, fwid)].concat());
    tlv(0x30, &[tlv(0x02, &[1]), tlv(0x30, &[]), fwid].concat())
}

fn driver_rim(first: &[u8]) -> String {
    let manifest = forge::manifest(
        "550.90.07",
        &[
            (0, true, &[&[0; 48], first]),
            (1, true, &[&[2; 48]]),
            (2, false, &[&[0; 48]]),
        ],
    );
    sign(&manifest)
}

fn vbios_rim(version: &str) -> String {
    sign(&forge::manifest(
        version,
        &[
            (0, false, &[&[0; 48]]),
            (2, true, &[&[3; 48]]),
            (35, true, &[&[36; 48]]),
        ],
    ))
}

fn sign(manifest: &str) -> String {
    forge::sign(manifest, &PKI.rim, &[PKI.rim_signer.der(), PKI.root.der()])
}

#[test]
fn forged_device_under_a_development_root_is_development() {
    let outcome = Forged::good().examine().unwrap();
    assert_eq!(outcome.assurance, Assurance::Development);
    let skipped: Vec<Check> = outcome
        .steps
        .iter()
        .filter(|step| matches!(step.outcome, StepOutcome::Skipped(_)))
        .map(|step| step.check)
        .collect();
    assert_eq!(
        skipped,
        [
            Check::InitData,
            Check::NvidiaDriverRim,
            Check::NvidiaVbiosRim,
            Check::NvidiaMeasurements
        ]
    );
    assert!(outcome.claims[0].1.get("measurements_match").is_none());
}

#[test]
fn measurements_that_both_manifests_list_match() {
    let outcome = Forged::with_manifests().examine().unwrap();
    assert_eq!(outcome.claims[0].1["rim_checked"], json!(true));
    assert_eq!(outcome.claims[0].1["measurements_match"], json!(true));
}

#[test]
fn one_manifest_alone_does_not_make_the_measurements_match() {
    for missing in 0..2 {
        let mut forged = Forged::with_manifests();
        match missing {
            0 => forged.driver_rim = None,
            _ => forged.vbios_rim = None,
        }
        let outcome = forged.examine().unwrap();
        assert_eq!(outcome.claims[0].1["rim_checked"], json!(false));
    }
}

#[test]
fn manifest_whose_signer_has_expired_is_worth_none() {
    let mut forged = Forged::with_manifests();
    // 2033-05-18.
    forged.now = 2_000_000_000;
    forged.measurements[2].2[0] = 9;
    let outcome = forged.examine().unwrap();
    assert_eq!(outcome.claims[0].1["rim_checked"], json!(false));
    let skipped = |step: &&crate::Step| matches!(&step.outcome, StepOutcome::Skipped(why) if why.contains("not current"));
    assert_eq!(outcome.steps.iter().filter(skipped).count(), 2);
}

#[test]
fn decoder_that_is_off_is_not_compared() {
    let mut forged = Forged::with_manifests();
    forged.measurements[35].2 = vec![1; 48];
    assert_eq!(
        forged.examine().unwrap_err().check(),
        Check::NvidiaMeasurements
    );
    forged.opaque[2].1 = vec![0x55];
    forged.examine().unwrap();
}

#[test]
fn zeros_after_the_signature_are_padding() {
    let mut forged = Forged::good();
    forged.trailer = vec![0; 64];
    forged.examine().unwrap();
}

#[test]
fn chain_may_end_below_the_root() {
    let mut forged = Forged::good();
    forged.chain = |mut chain| {
        chain.pop();
        chain
    };
    forged.examine().unwrap();
}

#[test]
fn one_wrong_field_is_refused_by_its_check() {
    type Change = fn(&mut Forged);
    let cases: &[(&str, Check, Change)] = &[
        // The form.
        ("another architecture", Check::NvidiaArchitecture, |f| {
            f.arch = "BLACKWELL"
        }),
        ("a switch", Check::NvidiaArchitecture, |f| f.arch = "LS10"),
        (
            "certificates of another architecture",
            Check::NvidiaArchitecture,
            |f| f.other_architecture = true,
        ),
        ("lower case", Check::NvidiaArchitecture, |f| {
            f.arch = "hopper"
        }),
        ("request of another version", Check::Structure, |f| {
            f.head[0] = 0x10
        }),
        ("request of another code", Check::Structure, |f| {
            f.head[1] = 0xe1
        }),
        ("request without a signature", Check::Structure, |f| {
            f.head[2] = 0
        }),
        ("request of one measurement", Check::Structure, |f| {
            f.head[3] = 1
        }),
        ("short nonce", Check::Structure, |f| f.nonce = vec![9; 31]),
        ("response of another version", Check::Structure, |f| {
            f.response[0] = 0x12
        }),
        ("response that is an error", Check::Structure, |f| {
            f.response[1] = 0x7f
        }),
        ("more blocks than there are", Check::Structure, |f| {
            f.blocks = Some(41)
        }),
        ("all the blocks there could be", Check::Structure, |f| {
            f.blocks = Some(255)
        }),
        ("fewer blocks than there are", Check::Structure, |f| {
            f.blocks = Some(39)
        }),
        ("no blocks", Check::Structure, |f| f.blocks = Some(0)),
        ("a record of 16 MiB", Check::Structure, |f| {
            f.record_length = Some(0xff_ffff)
        }),
        ("an empty record", Check::Structure, |f| {
            f.record_length = Some(0)
        }),
        ("opaque data of 64 KiB", Check::Structure, |f| {
            f.opaque_length = Some(u16::MAX)
        }),
        ("opaque data cut in a field", Check::Structure, |f| {
            f.opaque_length = Some(7)
        }),
        (
            "measurement of another specification",
            Check::Structure,
            |f| f.measurements[0].1 = 2,
        ),
        ("measurement twice", Check::Structure, |f| {
            f.measurements[1].0 = 1
        }),
        ("opaque field twice", Check::Structure, |f| {
            f.opaque[1].0 = 3
        }),
        ("data after the signature", Check::Structure, |f| {
            f.trailer = vec![0, 1]
        }),
        ("too much padding", Check::Structure, |f| {
            f.trailer = vec![0; 65]
        }),
        ("no certificate", Check::Structure, |f| {
            f.chain = |_| Vec::new()
        }),
        ("eight certificates", Check::Structure, |f| {
            f.chain = |c| vec![c[1].clone(); 8]
        }),
        // The chain.
        ("the root alone", Check::NvidiaChain, |f| {
            f.chain = |c| vec![c[2].clone()]
        }),
        ("no authority", Check::NvidiaChain, |f| {
            f.chain = |c| vec![c[0].clone(), c[2].clone()]
        }),
        ("wrong order", Check::NvidiaChain, |f| {
            f.chain = |c| vec![c[1].clone(), c[0].clone(), c[2].clone()]
        }),
        ("authority twice", Check::NvidiaChain, |f| {
            f.chain = |c| vec![c[0].clone(), c[1].clone(), c[1].clone(), c[2].clone()];
        }),
        ("a root that is not trusted", Check::NvidiaChain, |f| {
            f.chain = |_| {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
                vec![parameters("Nobody", true).self_signed(&key).unwrap().pem()]
            };
        }),
        ("leaf that has expired", Check::NvidiaChain, |f| {
            f.leaf = |leaf| leaf.not_after = rcgen::date_time_ymd(2024, 12, 31);
        }),
        ("leaf of tomorrow", Check::NvidiaChain, |f| {
            f.leaf = |leaf| leaf.not_before = rcgen::date_time_ymd(2025, 1, 2);
        }),
        (
            "critical extension that nobody knows",
            Check::NvidiaChain,
            |f| {
                f.leaf = |leaf| {
                    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
                    extension.set_criticality(true);
                    leaf.custom_extensions.push(extension);
                };
            },
        ),
        // The firmware.
        ("firmware that is not certified", Check::NvidiaFwid, |f| {
            f.certified_fwid[47] ^= 1
        }),
        ("firmware hash cut short", Check::NvidiaFwid, |f| {
            f.certified_fwid.truncate(32)
        }),
        ("firmware of another hash", Check::NvidiaFwid, |f| {
            f.fwid_hash = SHA256_OID
        }),
        ("leaf without firmware", Check::NvidiaFwid, |f| {
            f.fwid_extension = false
        }),
        ("firmware twice", Check::NvidiaFwid, |f| {
            f.leaf = |leaf| {
                leaf.custom_extensions
                    .push(CustomExtension::from_oid_content(
                        &[2, 23, 133, 5, 4, 1],
                        composite_device_id(SHA384_OID, &FWID),
                    ));
            };
        }),
        ("firmware of another form", Check::NvidiaFwid, |f| {
            f.fwid_hash = &[4, 1, 0]
        }),
        ("report without firmware", Check::NvidiaFwid, |f| {
            f.opaque.pop();
        }),
        // The signature and what it binds.
        ("another signer", Check::NvidiaSignature, |f| {
            f.signed_by = Some(KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap());
        }),
        ("signer on another curve", Check::NvidiaSignature, |f| {
            f.signed_by = Some(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
        }),
        ("signature of zeros", Check::NvidiaSignature, |f| {
            f.signature = |s| s.fill(0)
        }),
        ("r and s exchanged", Check::NvidiaSignature, |f| {
            f.signature = |s| s.rotate_left(48)
        }),
        ("signature changed", Check::NvidiaSignature, |f| {
            f.signature = |s| s[95] ^= 1
        }),
        ("nonce of another session", Check::ReportData, |f| {
            f.nonce[31] ^= 1
        }),
        // The manifests.
        (
            "driver's manifest that is none",
            Check::NvidiaDriverRim,
            |f| f.driver_rim = Some("<a/>".into()),
        ),
        (
            "driver's manifest that is empty",
            Check::NvidiaDriverRim,
            |f| f.driver_rim = Some(String::new()),
        ),
        (
            "driver's manifest without a signature",
            Check::NvidiaDriverRim,
            |f| {
                f.driver_rim = Some(forge::manifest("550.90.07", &[(0, true, &[&[1; 48]])]));
            },
        ),
        (
            "driver's manifest changed after it was signed",
            Check::NvidiaDriverRim,
            |f| {
                f.driver_rim =
                    Some(driver_rim(&[8; 48]).replace(&"08".repeat(48), &"01".repeat(48)));
            },
        ),
        (
            "driver's manifest by a signer that is not trusted",
            Check::NvidiaDriverRim,
            |f| {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
                let signer = parameters("Nobody", false).self_signed(&key).unwrap();
                let manifest = forge::manifest("550.90.07", &[(0, true, &[&[1; 48]])]);
                f.driver_rim = Some(forge::sign(&manifest, &key, &[signer.der()]));
            },
        ),
        (
            "driver's manifest without certificates",
            Check::NvidiaDriverRim,
            |f| {
                let manifest = forge::manifest("550.90.07", &[(0, true, &[&[1; 48]])]);
                f.driver_rim = Some(forge::sign(&manifest, &PKI.rim, &[]));
            },
        ),
        (
            "driver's manifest by another key than its certificate's",
            Check::NvidiaDriverRim,
            |f| {
                let manifest = forge::manifest("550.90.07", &[(0, true, &[&[1; 48]])]);
                f.driver_rim = Some(forge::sign(&manifest, &PKI.key, &[PKI.rim_signer.der()]));
            },
        ),
        (
            "driver's manifest signed in part",
            Check::NvidiaDriverRim,
            |f| {
                f.driver_rim = Some(driver_rim(&[1; 48]).replace("URI=\"\"", "URI=\"#a\""));
            },
        ),
        (
            "driver's manifest with a weak digest",
            Check::NvidiaDriverRim,
            |f| {
                f.driver_rim =
                    Some(driver_rim(&[1; 48]).replace("xmldsig-more#sha384", "xmldsig#sha1"));
            },
        ),
        ("manifest of another driver", Check::NvidiaDriverRim, |f| {
            f.driver_rim = Some(sign(&forge::manifest(
                "550.90.08",
                &[(0, true, &[&[1; 48]])],
            )));
        }),
        ("manifest of another VBIOS", Check::NvidiaVbiosRim, |f| {
            f.vbios_rim = Some(vbios_rim("96.00.9F.00.02"))
        }),
        (
            "measurement that no manifest lists",
            Check::NvidiaMeasurements,
            |f| f.measurements[2].2[0] = 9,
        ),
        (
            "measurement that is absent",
            Check::NvidiaMeasurements,
            |f| {
                f.measurements.remove(0);
            },
        ),
        ("measurement cut short", Check::NvidiaMeasurements, |f| {
            f.measurements[0].2.truncate(47)
        }),
        (
            "measurement active in both manifests",
            Check::NvidiaMeasurements,
            |f| {
                f.vbios_rim = Some(sign(&forge::manifest(
                    "96.00.9F.00.01",
                    &[(0, true, &[&[1; 48]])],
                )));
            },
        ),
        (
            "measurement beyond every report",
            Check::NvidiaMeasurements,
            |f| {
                f.vbios_rim = Some(sign(&forge::manifest(
                    "96.00.9F.00.01",
                    &[(u32::MAX, true, &[&[1; 48]])],
                )));
            },
        ),
        (
            "manifests without an active measurement",
            Check::NvidiaMeasurements,
            |f| {
                f.driver_rim = Some(sign(&forge::manifest(
                    "550.90.07",
                    &[(0, false, &[&[1; 48]])],
                )));
                f.vbios_rim = Some(sign(&forge::manifest(
                    "96.00.9F.00.01",
                    &[(0, false, &[&[1; 48]])],
                )));
            },
        ),
    ];
    Forged::with_manifests().examine().unwrap();
    for (name, refused_by, change) in cases {
        let mut forged = Forged::with_manifests();
        change(&mut forged);
        match forged.examine() {
            Ok(_) => panic!("{name}: accepted"),
            Err(error) => assert_eq!(error.check(), *refused_by, "{name}: {error}"),
        }
    }
    assert!(cases.len() >= 60, "{}", cases.len());
}

#[test]
fn version_that_would_leave_its_place_in_a_url_asks_for_no_manifest() {
    for version in [
        &b"../../x"[..],
        b"a/b",
        b"a%2e",
        b"",
        b".",
        &[b'1'; 33],
        b"\xff",
        b"5 5",
    ] {
        let mut forged = Forged::good();
        forged.opaque[0].1 = version.to_vec();
        let evidence = Evidence::parse(Tee::Nvidia, forged.json().as_bytes()).unwrap();
        assert_eq!(
            evidence.collateral_request().iter().count(),
            1,
            "{version:?}"
        );
        assert_eq!(
            forged.examine().unwrap().claims[0].1["rim_checked"],
            json!(false)
        );
    }
}

#[test]
fn lists_of_devices_are_bounded_and_name_each_device_once() {
    let device: Value = serde_json::from_str(&Forged::good().json()).unwrap();
    let device = &device["device_evidence_list"][0];
    let list = |count: usize| json!({"device_evidence_list": vec![device; count]}).to_string();
    for (count, reason) in [
        (0, "0 devices, wanted 1 to 16"),
        (2, "a device is listed twice"),
        (17, "17 devices, wanted 1 to 16"),
    ] {
        let error = Evidence::parse(Tee::Nvidia, list(count).as_bytes()).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn devices_give_verdicts_in_their_order() {
    let mut second = Forged::good();
    second.opaque[0].1 = b"560.1\0".to_vec();
    second.leaf = |leaf| {
        leaf.distinguished_name
            .push(DnType::OrganizationName, "second")
    };
    let mut devices: Vec<Value> = [Forged::good(), second]
        .iter()
        .map(|forged| {
            let json: Value = serde_json::from_str(&forged.json()).unwrap();
            json["device_evidence_list"][0].clone()
        })
        .collect();
    let anchors = TrustAnchors::none()
        .with_development_root(&PKI.root.pem())
        .unwrap();
    for _ in 0..2 {
        let json = json!({"device_evidence_list": devices}).to_string();
        let outcome = check(&json, &[9; 32], &Collateral::none(), &anchors, NOW).unwrap();
        let found: BTreeMap<usize, &Value> = outcome
            .claims
            .iter()
            .map(|(_, claims)| &claims["driver_version"])
            .enumerate()
            .collect();
        let sent = |device: &Value| match device == &devices[0] {
            true => found[&0].clone(),
            false => found[&1].clone(),
        };
        assert_ne!(sent(&devices[0]), sent(&devices[1]));
        devices.reverse();
    }
}

#[test]
fn evidence_of_another_form_is_malformed() {
    for json in [
        "",
        "{}",
        "[]",
        r#"{"device_evidence_list":{}}"#,
        r#"{"device_evidence_list":[{}]}"#,
        r#"{"device_evidence_list":[{"arch":"HOPPER","evidence":"?","certificate":""}]}"#,
        r#"{"device_evidence_list":[{"arch":"HOPPER","evidence":"","certificate":"?"}]}"#,
        r#"{"device_evidence_list":[{"arch":"HOPPER","evidence":"","certificate":""}]}"#,
    ] {
        assert!(
            matches!(
                Evidence::parse(Tee::Nvidia, json.as_bytes()),
                Err(VerifyError::Malformed { .. })
            ),
            "{json}"
        );
    }
    for long in [" ".repeat(1024 * 1024 + 1), "[".repeat(100_000)] {
        assert!(Evidence::parse(Tee::Nvidia, long.as_bytes()).is_err());
    }
    let mut forged: Value = serde_json::from_str(&Forged::good().json()).unwrap();
    forged["device_evidence_list"][0]["uuid"] = json!("u".repeat(129));
    let error = Evidence::parse(Tee::Nvidia, forged.to_string().as_bytes()).unwrap_err();
    assert!(error.to_string().contains("uuid"));
}

#[test]
fn report_may_be_base64() {
    let mut forged: Value = serde_json::from_str(&Forged::good().json()).unwrap();
    let report = hex::decode(
        forged["device_evidence_list"][0]["evidence"]
            .as_str()
            .unwrap(),
    );
    forged["device_evidence_list"][0]["evidence"] = json!(STANDARD.encode(report.unwrap()));
    Evidence::parse(Tee::Nvidia, forged.to_string().as_bytes()).unwrap();
}
