//! SEV-SNP evidence of the development builder, honest but for one field: each fault is refused by the check that is
//! there for it, over the JSON form and over the raw report.
//!
//! What the builder does not make, such as odd certificates, is in `snp_forged.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::LazyLock;

use strongroom_attester::development::DevelopmentRoot;
use strongroom_attester::development::snp::{Forge, Product};
use strongroom_verifier::{
    Assurance, Check, Collateral, CollateralItem, Evidence, Examination, Expected,
    ExpectedInitdata, TrustAnchors, VerifyError, Wanted, examine,
};
use strongroom_wire::tee::Tee;

/// 2026-01-15.
const NOW: u64 = 1_768_435_200;
const DAY: u64 = 86_400;

static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| DevelopmentRoot::generate(NOW).unwrap());

fn milan() -> Forge {
    Forge::new(&ROOT).with_report_data(&[0xD1; 48])
}

fn turin() -> Forge {
    Forge::of(&ROOT, Product::Turin).with_report_data(&[0xD1; 48])
}

fn vlek() -> Forge {
    milan().with_vlek()
}

fn expected() -> Expected {
    Expected {
        report_data: Some(vec![0xD1; 48]),
        initdata: ExpectedInitdata::None,
    }
}

fn anchors() -> TrustAnchors {
    TrustAnchors::vendors()
        .with_development_root(&ROOT.certificate_pem())
        .unwrap()
}

fn look(evidence: Evidence, collateral: &Collateral) -> Examination {
    examine(evidence, collateral, &anchors(), &expected(), NOW)
}

/// The JSON form, which brings its certificates.
fn by_json(forge: &Forge) -> Result<Examination, VerifyError> {
    let json = forge.evidence_json().unwrap();
    Ok(look(
        Evidence::parse(Tee::Snp, json.as_bytes())?,
        &Collateral::none(),
    ))
}

/// The raw form, with the certificate as collateral for whatever chip and TCB version the report names. None is ever
/// given out for a VLEK.
fn by_report(forge: &Forge) -> Result<Examination, VerifyError> {
    let mut forge = forge.clone();
    // One certificate is all that the collateral holds.
    forge.certificate.issuer = strongroom_attester::development::snp::CertificateIssuer::Root;
    let evidence = Evidence::parse_raw(Tee::Snp, &forge.report_bytes().unwrap())?;
    let mut collateral = Collateral::none();
    for wanted in evidence.collateral_request().iter() {
        if matches!(wanted, Wanted::AmdVcek { .. }) {
            let item = CollateralItem {
                body: forge.certificate_der().unwrap(),
                issuer_chain: String::new(),
            };
            collateral.insert(wanted.clone(), item);
        }
    }
    Ok(look(evidence, &collateral))
}

fn refused_by(seen: Result<Examination, VerifyError>) -> Option<Check> {
    seen.map_or_else(Some, |seen| seen.error)
        .map(|error| error.check())
}

#[test]
fn honest_evidence_of_every_product_line_passes_in_both_forms() {
    for forge in Product::ALL.map(|product| Forge::of(&ROOT, product).with_report_data(&[0xD1; 48]))
    {
        for seen in [by_json(&forge).unwrap(), by_report(&forge).unwrap()] {
            assert_eq!(seen.error, None, "{:#?}", seen.steps);
            assert_eq!(seen.assurance, Assurance::Development);
        }
    }
    assert_eq!(refused_by(by_json(&vlek())), None);
}

/// What may differ between honest machines.
#[test]
fn differences_between_honest_machines_pass() {
    let differences: [fn(&mut Forge); 9] = [
        |forge| forge.report.guest_svn = 7,
        |forge| forge.report.policy |= 1 << 19,
        |forge| forge.report.plat_info = 0x3F,
        |forge| forge.report.family_id = [1; 16],
        |forge| forge.report.key_info |= 1,
        |forge| forge.report.version = 4,
        |forge| forge.report.launch_tcb.snp += 1,
        |forge| forge.report.current_tcb.microcode += 1,
        |forge| forge.certificate.wrapped_hwid = true,
    ];
    for (index, change) in differences.into_iter().enumerate() {
        let mut forge = milan();
        change(&mut forge);
        assert_eq!(refused_by(by_json(&forge)), None, "{index}");
        assert_eq!(refused_by(by_report(&forge)), None, "{index}");
    }
}

/// One test for each fault: an honest forge, the one change, the check that refuses it.
macro_rules! faults {
    ($($name:ident: $forge:ident, $change:expr => $check:ident;)+) => {$(
        #[test]
        fn $name() {
            let mut forge = $forge();
            let change: fn(&mut Forge) = $change;
            change(&mut forge);
            assert_eq!(refused_by(by_json(&forge)), Some(Check::$check), "as JSON");
            if stringify!($forge) != "vlek" {
                assert_eq!(refused_by(by_report(&forge)), Some(Check::$check), "as a report");
            }
        }
    )+};
}

faults! {
    version_0: milan, |forge| forge.report.version = 0 => SnpVersion;
    version_2: milan, |forge| forge.report.version = 2 => SnpVersion;
    version_6: milan, |forge| forge.report.version = 6 => SnpVersion;
    version_of_all_ones: milan, |forge| forge.report.version = u32::MAX => SnpVersion;
    family_of_naples: milan, |forge| forge.report.cpuid_fam_id = 0x17 => SnpProduct;
    family_zero: milan, |forge| forge.report.cpuid_fam_id = 0 => SnpProduct;
    model_after_genoa: milan, |forge| forge.report.cpuid_mod_id = 0x20 => SnpProduct;
    model_after_siena: milan, |forge| forge.report.cpuid_mod_id = 0xAF => SnpProduct;
    model_after_turin: turin, |forge| forge.report.cpuid_mod_id = 0x12 => SnpProduct;
    algorithm_0: milan, |forge| forge.report.sig_algo = 0 => SnpAlgorithm;
    algorithm_2: milan, |forge| forge.report.sig_algo = 2 => SnpAlgorithm;
    vmpl_1: milan, |forge| forge.report.vmpl = 1 => SnpVmpl;
    vmpl_2: milan, |forge| forge.report.vmpl = 2 => SnpVmpl;
    vmpl_3: milan, |forge| forge.report.vmpl = 3 => SnpVmpl;
    asked_for_by_the_host: milan, |forge| forge.report.vmpl = u32::MAX => SnpVmpl;
    vmpl_1_under_a_vlek: vlek, |forge| forge.report.vmpl = 1 => SnpVmpl;

    signed_by_nothing: milan, |forge| forge.report.key_info = 7 << 2 => SnpSigner;
    signed_by_a_reserved_kind: milan, |forge| forge.report.key_info = 3 << 2 => SnpSigner;
    vlek_said_under_a_vcek: milan, |forge| forge.report.key_info = 1 << 2 => SnpSigner;
    vcek_said_under_a_vlek: vlek, |forge| forge.report.key_info = 0 => SnpSigner;
    vcek_of_a_masked_chip_key: milan, |forge| forge.report.key_info = 1 << 1 => SnpSigner;

    leaf_that_ended: milan, |forge| forge.certificate.not_after = NOW - 1 => SnpChain;
    leaf_that_has_not_begun: milan, |forge| forge.certificate.not_before = NOW + DAY => SnpChain;
    vlek_that_ended: vlek, |forge| forge.certificate.not_after = NOW - 1 => SnpChain;
    leaf_of_another_root: milan, |forge| {
        forge.root = DevelopmentRoot::generate(NOW).unwrap();
    } => SnpChain;
    leaf_of_a_later_root: milan, |forge| {
        forge.root = DevelopmentRoot::generate(NOW + 9 * DAY).unwrap();
    } => SnpChain;

    chip_of_the_report: milan, |forge| forge.report.chip_id[0] ^= 1 => SnpChipId;
    end_of_the_chip_of_the_report: milan, |forge| forge.report.chip_id[63] ^= 0x80 => SnpChipId;
    chip_of_the_certificate: milan, |forge| forge.certificate.hwid[63] ^= 1 => SnpChipId;
    certificate_without_a_chip: milan, |forge| forge.certificate.hwid.clear() => SnpChipId;
    certificate_with_half_a_chip: milan, |forge| forge.certificate.hwid.truncate(32) => SnpChipId;
    certificate_with_a_longer_chip: milan, |forge| forge.certificate.hwid.push(0) => SnpChipId;
    turin_chip_of_the_report: turin, |forge| forge.report.chip_id[7] ^= 1 => SnpChipId;
    turin_chip_with_something_behind: turin, |forge| forge.report.chip_id[8] = 1 => SnpChipId;
    turin_certificate_with_padded_chip: turin, |forge| forge.certificate.hwid.resize(64, 0) => SnpChipId;

    certified_boot_loader: milan, |forge| forge.certificate.tcb.bootloader += 1 => SnpTcb;
    certified_tee: milan, |forge| forge.certificate.tcb.tee += 1 => SnpTcb;
    certified_snp: milan, |forge| forge.certificate.tcb.snp += 1 => SnpTcb;
    certified_microcode: milan, |forge| forge.certificate.tcb.microcode -= 1 => SnpTcb;
    certified_microcode_beyond_a_signed_byte: milan, |forge| forge.certificate.tcb.microcode = 200 => SnpTcb;
    certified_fmc: turin, |forge| forge.certificate.tcb.fmc = Some(2) => SnpTcb;
    no_certified_fmc: turin, |forge| forge.certificate.tcb.fmc = None => SnpTcb;
    vlek_certified_snp: vlek, |forge| forge.certificate.tcb.snp -= 1 => SnpTcb;
    reported_boot_loader: milan, |forge| forge.report.reported_tcb.bootloader -= 1 => SnpTcb;
    reported_tee: milan, |forge| forge.report.reported_tcb.tee += 1 => SnpTcb;
    reported_snp: milan, |forge| forge.report.reported_tcb.snp += 1 => SnpTcb;
    reported_microcode: milan, |forge| forge.report.reported_tcb.microcode += 1 => SnpTcb;
    reported_fmc: turin, |forge| forge.report.reported_tcb.fmc = Some(0) => SnpTcb;

    committed_boot_loader: milan, |forge| forge.report.committed_tcb.bootloader += 1 => SnpTcbOrder;
    committed_tee: milan, |forge| forge.report.committed_tcb.tee += 1 => SnpTcbOrder;
    committed_snp: milan, |forge| forge.report.committed_tcb.snp += 1 => SnpTcbOrder;
    committed_microcode: milan, |forge| forge.report.committed_tcb.microcode += 1 => SnpTcbOrder;
    committed_fmc: turin, |forge| forge.report.committed_tcb.fmc = Some(2) => SnpTcbOrder;
    current_below_what_is_reported: milan, |forge| forge.report.current_tcb.snp -= 1 => SnpTcbOrder;
    committed_major: milan, |forge| forge.report.committed.major += 1 => SnpTcbOrder;
    committed_minor: milan, |forge| forge.report.committed.minor += 1 => SnpTcbOrder;
    committed_build: milan, |forge| forge.report.committed.build += 1 => SnpTcbOrder;
    current_firmware_below_the_committed: milan, |forge| forge.report.current.build -= 1 => SnpTcbOrder;

    tampered_guest_svn: milan, |forge| forge.tampering.push((0x004, 1)) => SnpSignature;
    tampered_debug_bit: milan, |forge| forge.tampering.push((0x00A, 1 << 3)) => SnpSignature;
    tampered_family_id: milan, |forge| forge.tampering.push((0x010, 1)) => SnpSignature;
    tampered_image_id: milan, |forge| forge.tampering.push((0x02A, 1)) => SnpSignature;
    tampered_vmpl: milan, |forge| forge.tampering.push((0x030, 1)) => SnpSignature;
    tampered_current_tcb: milan, |forge| forge.tampering.push((0x038, 4)) => SnpSignature;
    tampered_platform_info: milan, |forge| forge.tampering.push((0x040, 2)) => SnpSignature;
    tampered_author_key_bit: milan, |forge| forge.tampering.push((0x048, 1)) => SnpSignature;
    tampered_report_data: milan, |forge| forge.tampering.push((0x050, 1)) => SnpSignature;
    tampered_measurement: milan, |forge| forge.tampering.push((0x0BF, 0x80)) => SnpSignature;
    tampered_host_data: milan, |forge| forge.tampering.push((0x0C0, 1)) => SnpSignature;
    tampered_id_key_digest: milan, |forge| forge.tampering.push((0x0E0, 1)) => SnpSignature;
    tampered_author_key_digest: milan, |forge| forge.tampering.push((0x110, 1)) => SnpSignature;
    tampered_report_id: milan, |forge| forge.tampering.push((0x140, 1)) => SnpSignature;
    tampered_report_id_ma: milan, |forge| forge.tampering.push((0x160, 1)) => SnpSignature;
    tampered_stepping: milan, |forge| forge.tampering.push((0x18A, 2)) => SnpSignature;
    tampered_committed_tcb: milan, |forge| forge.tampering.push((0x1E0, 1)) => SnpSignature;
    tampered_current_build: milan, |forge| forge.tampering.push((0x1E8, 2)) => SnpSignature;
    tampered_launch_tcb: milan, |forge| forge.tampering.push((0x1F7, 1)) => SnpSignature;
    tampered_mitigations: turin, |forge| forge.tampering.push((0x200, 1)) => SnpSignature;
    tampered_version: turin, |forge| forge.tampering.push((0x000, 1)) => SnpSignature;
    tampered_r: milan, |forge| forge.tampering.push((0x2A0, 1)) => SnpSignature;
    tampered_s: milan, |forge| forge.tampering.push((0x2E8, 1)) => SnpSignature;
    tampered_reported_tcb: milan, |forge| forge.tampering.push((0x180, 1)) => SnpTcb;
    tampered_chip_id: milan, |forge| forge.tampering.push((0x1A0, 1)) => SnpChipId;
    r_of_more_than_384_bits: milan, |forge| forge.tampering.push((0x2A0 + 48, 1)) => Structure;

    report_data_of_another_session: milan, |forge| forge.report.report_data[47] ^= 1 => ReportData;
    report_data_with_something_behind: milan, |forge| forge.report.report_data[48] = 1 => ReportData;
    init_data_that_nobody_sent: milan, |forge| forge.report.host_data[31] = 1 => InitData;
}

#[test]
fn missing_certificate_is_named() {
    let mut forge = milan();
    forge.with_certificates = false;
    assert_eq!(refused_by(by_json(&forge)), Some(Check::Collateral));
}

#[test]
fn hardware_roots_alone_do_not_pass_development_evidence() {
    let json = milan().evidence_json().unwrap();
    let evidence = Evidence::parse(Tee::Snp, json.as_bytes()).unwrap();
    let anchors = TrustAnchors::vendors();
    let seen = examine(evidence, &Collateral::none(), &anchors, &expected(), NOW);
    assert_eq!(refused_by(Ok(seen)), Some(Check::SnpChain));
}
