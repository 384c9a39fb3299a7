//! The checks of `snp` evidence (SEV-SNP Firmware ABI, 56860, section 7.3; VCEK and VLEK certificates, 57230).
//!
//! [`verify_report`] holds what every carrier of a report shares. What a report binds is the platform's to say.

use std::borrow::Cow;

use const_oid::ObjectIdentifier;
use der::Decode;
use der::asn1::OctetString;
use strongroom_wire::tee::Tee;

use super::abi::SnpEvidence;
use super::claims;
use super::report::{Report, Signer};
use crate::anchors::Vendor;
use crate::binding::{Register, ReportDataForm};
use crate::check::Check;
use crate::collateral::{SnpProduct, VcekTcb, Wanted};
use crate::platforms::{PlatformVerdict, Verification};
use crate::x509::{Certificate, Crl, KeyKind, Path};
use crate::{Assurance, VerifyError};

pub(crate) fn verify(
    evidence: &SnpEvidence,
    verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    let report = &evidence.report;
    let product = check_form(report, verification)?;
    let signer = signer_certificate(evidence, product, verification)?;
    let verified = check_signed(
        report,
        product,
        &signer,
        &evidence.intermediates,
        verification,
    )?;
    let expected = verification.expected;
    expected.check_report_data(
        verification.steps,
        ReportDataForm::Padded64,
        &report.report_data,
    )?;
    let initdata_bound =
        expected.check_initdata(verification.steps, Register::Launch(&report.host_data))?;
    Ok(PlatformVerdict {
        tee: Tee::Snp,
        assurance: verified.assurance,
        claims: claims::claims(report, &verified),
        report_data: hex::encode(report.report_data),
        init_data: Some(hex::encode(report.host_data)),
        initdata_bound,
    })
}

/// Verifies a report by the certificate of its signer: its form, the certificate's path to a trusted root of its
/// product line, chip and TCB version against the certificate, the signature, and that the guest's most privileged
/// level asked for it. `sent` are certificates that came with it and may lie on the path.
///
/// The caller still owes the comparison of report data and host data.
pub(crate) fn verify_report(
    report: &Report,
    signer: &Certificate,
    sent: &[Certificate],
    verification: &mut Verification<'_>,
) -> Result<VerifiedReport, VerifyError> {
    let product = check_form(report, verification)?;
    check_signed(report, product, signer, sent, verification)
}

/// What [`verify_report`] established.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedReport {
    /// What the root is worth.
    pub(crate) assurance: Assurance,
    pub(crate) product: SnpProduct,
    /// The kind of key that signed.
    pub(crate) signer: Signer,
    /// Whether the path was compared with a revocation list.
    pub(crate) crl_checked: bool,
}

/// What can be said of a report before its signature.
fn check_form(
    report: &Report,
    verification: &mut Verification<'_>,
) -> Result<SnpProduct, VerifyError> {
    verification
        .steps
        .run(Check::SnpVersion, || match report.version {
            3..=5 => Ok(()),
            other => Err(Check::SnpVersion.failed("3, 4 or 5", other)),
        })?;
    let product = verification.steps.run(Check::SnpProduct, || {
        report.product().ok_or_else(|| {
            let [family, model, _] = report.cpuid;
            Check::SnpProduct.failed(
                "Milan, Genoa or Turin",
                format!("family {family:02x}h, model {model:02x}h"),
            )
        })
    })?;
    verification.steps.equal(
        Check::SnpAlgorithm,
        &ECDSA_P384_SHA384,
        &report.signature_algorithm,
    )?;
    Ok(product)
}

/// The certificate that was sent, or else the one that the collateral has.
fn signer_certificate<'a>(
    evidence: &'a SnpEvidence,
    product: SnpProduct,
    verification: &mut Verification<'_>,
) -> Result<Cow<'a, Certificate>, VerifyError> {
    let report = &evidence.report;
    if let Some(certificate) = &evidence.signer {
        return Ok(Cow::Borrowed(certificate));
    }
    if report.key_info.signer() != Some(Signer::Vcek) {
        return verification.steps.run(Check::SnpSigner, || {
            Err(Check::SnpSigner.failed(
                "the certificate of a report's signer beside it, unless that is a VCEK",
                "none",
            ))
        });
    }
    let collateral = verification.collateral;
    verification.steps.run(Check::Collateral, || {
        let wanted = report.wanted_vcek(product);
        match collateral.item(&wanted) {
            Some(item) => Certificate::from_der(&item.body)
                .map(Cow::Owned)
                .map_err(|e| Check::Collateral.failed(&wanted, e)),
            None => Err(VerifyError::MissingCollateral {
                wanted: Box::new(wanted),
            }),
        }
    })
}

fn check_signed(
    report: &Report,
    product: SnpProduct,
    certificate: &Certificate,
    sent: &[Certificate],
    verification: &mut Verification<'_>,
) -> Result<VerifiedReport, VerifyError> {
    let signer = verification
        .steps
        .run(Check::SnpSigner, || check_signer(report, certificate))?;
    let (assurance, crl_checked) = check_path(product, signer, certificate, sent, verification)?;
    match signer {
        Signer::Vcek => verification
            .steps
            .run(Check::SnpChipId, || check_chip_id(report, certificate))?,
        Signer::Vlek => verification.steps.skip(
            Check::SnpChipId,
            "a VLEK belongs to a cloud provider and names no chip",
        ),
    }
    verification
        .steps
        .run(Check::SnpTcb, || check_tcb(report, product, certificate))?;
    verification
        .steps
        .run(Check::SnpSignature, || check_signature(report, certificate))?;
    verification
        .steps
        .run(Check::SnpTcbOrder, || check_tcb_order(report))?;
    verification.steps.equal(Check::SnpVmpl, &0, &report.vmpl)?;
    Ok(VerifiedReport {
        assurance,
        product,
        signer,
        crl_checked,
    })
}

/// 56860, 7.3, `KEY_INFO`: the report's own word for the kind of its signer, against the certificate's.
fn check_signer(report: &Report, certificate: &Certificate) -> Result<Signer, VerifyError> {
    let info = report.key_info;
    let signer = info.signer().ok_or_else(|| {
        Check::SnpSigner.failed(
            "SIGNING_KEY 0 (VCEK) or 1 (VLEK)",
            format!("SIGNING_KEY {}", info.signing_key()),
        )
    })?;
    if signer == Signer::Vcek && info.mask_chip_key() {
        return Err(Check::SnpSigner.failed(
            "no VCEK's signature while MASK_CHIP_KEY is set",
            "SIGNING_KEY 0 (VCEK)",
        ));
    }
    match Signer::of(certificate) {
        Some(kind) if kind == signer => Ok(signer),
        kind => Err(Check::SnpSigner.failed(
            format!("the certificate of {signer}, as KEY_INFO says"),
            spelled_kind(kind),
        )),
    }
}

fn spelled_kind(kind: Option<Signer>) -> String {
    kind.map_or_else(
        || "a certificate of neither kind".to_owned(),
        |kind| format!("the certificate of {kind}"),
    )
}

/// Finds a path from the signer's certificate to a trusted root of the product line, verifies it, and compares it with
/// the revocation list if there is one.
fn check_path(
    product: SnpProduct,
    signer: Signer,
    leaf: &Certificate,
    sent: &[Certificate],
    verification: &mut Verification<'_>,
) -> Result<(Assurance, bool), VerifyError> {
    let anchors = verification.anchors;
    let now = verification.now;
    let (root, intermediates) = verification.steps.run(Check::SnpChain, || {
        // The last path that was tried tells most: roots for development come last, and only a leaf that names their
        // certificates leads to them.
        let mut error = Check::SnpChain.failed(
            format!("a path to a trusted root of {product}"),
            format!("a certificate issued by {}", leaf.issuer()),
        );
        for root in anchors.roots(Vendor::Amd(product)) {
            let between = root
                .intermediates
                .iter()
                .chain(sent)
                .filter(|one| signer.is_certified_by(one, product));
            for intermediates in paths(leaf, &root.certificate, between) {
                let path = Path {
                    leaf,
                    intermediates: &intermediates,
                    root: &root.certificate,
                    known: &[],
                };
                match path.verify(now, &[], anchors.proven()) {
                    Ok(()) => return Ok((root, intermediates)),
                    Err(e) => {
                        error = Check::SnpChain
                            .failed(format!("a valid path to a trusted root of {product}"), e);
                    }
                }
            }
        }
        Err(error)
    })?;

    let wanted = Wanted::AmdCrl { product };
    let Some(item) = verification.collateral.item(&wanted) else {
        verification
            .steps
            .skip(Check::SnpRevocation, format!("{wanted} was not given"));
        return Ok((root.assurance, false));
    };
    let failed = |e| Check::SnpRevocation.failed(format!("a path that {wanted} leaves valid"), e);
    let crl = Crl::from_der(&item.body);
    if root.assurance == Assurance::Development
        && crl.as_ref().is_ok_and(|crl| !crl.is_of(&root.certificate))
    {
        verification.steps.skip(
            Check::SnpRevocation,
            format!("{wanted} is AMD's, and the root is one for development"),
        );
        return Ok((root.assurance, false));
    }
    verification.steps.run(Check::SnpRevocation, || {
        let crl = crl.map_err(failed)?;
        Path {
            leaf,
            intermediates: &intermediates,
            root: &root.certificate,
            known: &[],
        }
        .verify(now, &[crl], anchors.proven())
        .map_err(failed)
    })?;
    Ok((root.assurance, true))
}

/// The ways from a leaf to a root whose names fit: none, or one certificate between (57230: ARK, ASK or ASVK, leaf).
fn paths<'a>(
    leaf: &Certificate,
    root: &Certificate,
    between: impl Iterator<Item = &'a Certificate>,
) -> Vec<Vec<Certificate>> {
    let mut found = Vec::new();
    if leaf.is_issued_by_name_of(root) {
        found.push(Vec::new());
    }
    for one in between {
        if leaf.is_issued_by_name_of(one)
            && one.is_issued_by_name_of(root)
            && one != root
            && !found.iter().any(|path| path.first() == Some(one))
        {
            found.push(vec![one.clone()]);
        }
    }
    found
}

/// 57230, 3: the extension `hwID` is the chip's id.
fn check_chip_id(report: &Report, certificate: &Certificate) -> Result<(), VerifyError> {
    let extension = extension(Check::SnpChipId, certificate, HWID)?;
    // Older certificates have the bytes themselves, newer ones an OCTET STRING of them.
    let certified = match extension.len() {
        8 | 64 => extension.to_vec(),
        _ => OctetString::from_der(extension)
            .map_err(|e| Check::SnpChipId.failed("hwID as an OCTET STRING", e))?
            .as_bytes()
            .to_vec(),
    };
    let id = report.hardware_id();
    let padding = report.chip_id.get(id.len()..).unwrap_or_default();
    match certified == id && padding.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(Check::SnpChipId.failed(hex::encode(&certified), hex::encode(report.chip_id))),
    }
}

/// 57230, 3: the certificate's security version numbers are those that the report reports.
fn check_tcb(
    report: &Report,
    product: SnpProduct,
    certificate: &Certificate,
) -> Result<(), VerifyError> {
    let certified = certified_tcb(product, certificate)?;
    match certified == report.reported_tcb {
        true => Ok(()),
        false => Err(Check::SnpTcb.failed(spelled(certified), spelled(report.reported_tcb))),
    }
}

fn certified_tcb(product: SnpProduct, certificate: &Certificate) -> Result<VcekTcb, VerifyError> {
    let number = |oid| {
        let value = extension(Check::SnpTcb, certificate, oid)?;
        match value {
            [number] => Ok(*number),
            _ => u8::from_der(value)
                .map_err(|e| Check::SnpTcb.failed(format!("extension {oid} as an INTEGER"), e)),
        }
    };
    Ok(VcekTcb {
        fmc: match product {
            SnpProduct::Turin => Some(number(FMC_SPL)?),
            SnpProduct::Milan | SnpProduct::Genoa => None,
        },
        bootloader: number(BL_SPL)?,
        tee: number(TEE_SPL)?,
        snp: number(SNP_SPL)?,
        microcode: number(UCODE_SPL)?,
    })
}

/// 56860, chapter 10: ECDSA on P-384 with SHA-384 over the report up to its signature.
fn check_signature(report: &Report, certificate: &Certificate) -> Result<(), VerifyError> {
    let failed = |actual: &dyn std::fmt::Display| {
        Check::SnpSignature.failed("a signature by the certified key", actual)
    };
    let key = certificate.public_key();
    match key.kind() {
        Ok(KeyKind::P384) => {}
        Ok(other) => return Err(failed(&format!("a key of kind {other:?}, not P-384"))),
        Err(e) => return Err(failed(&e)),
    }
    key.check_fixed(report.signed(), &report.signature()?)
        .map_err(|e| failed(&e))
}

/// 56860, 2.2 and 8: what is committed cannot be rolled back, so that what runs is at least that; what is reported
/// never claims more than what runs. The launch's TCB has no such bound: what was not committed may be rolled back
/// while a guest runs.
fn check_tcb_order(report: &Report) -> Result<(), VerifyError> {
    let current = report.current_tcb;
    for (name, tcb) in [
        ("COMMITTED_TCB", report.committed_tcb),
        ("REPORTED_TCB", report.reported_tcb),
    ] {
        let at_most = tcb.bootloader <= current.bootloader
            && tcb.tee <= current.tee
            && tcb.snp <= current.snp
            && tcb.microcode <= current.microcode
            && tcb.fmc <= current.fmc;
        if !at_most {
            return Err(Check::SnpTcbOrder.failed(
                format!("{name} at most CURRENT_TCB ({})", spelled(current)),
                spelled(tcb),
            ));
        }
    }
    match report.committed <= report.current {
        true => Ok(()),
        false => Err(Check::SnpTcbOrder.failed(
            format!("COMMITTED at most CURRENT ({})", report.current),
            report.committed,
        )),
    }
}

fn extension(
    check: Check,
    certificate: &Certificate,
    oid: ObjectIdentifier,
) -> Result<&[u8], VerifyError> {
    let wanted = || format!("extension {oid} in the signer's certificate, once");
    certificate
        .extension(oid)
        .map_err(|e| check.failed(wanted(), e))?
        .ok_or_else(|| check.failed(wanted(), "none"))
}

fn spelled(tcb: VcekTcb) -> String {
    let fmc = tcb
        .fmc
        .map_or_else(String::new, |fmc| format!("fmc {fmc}, "));
    format!(
        "{fmc}bootloader {}, tee {}, snp {}, microcode {}",
        tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode
    )
}

/// `SIGNATURE_ALGO` (56860, chapter 10).
const ECDSA_P384_SHA384: u32 = 1;
/// 57230, 3.1: AMD's extensions.
const BL_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const UCODE_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const HWID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

/// The recorded report of version 2 is refused for its version. These tests look at what lies behind that.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::check::Steps;
    use crate::{Collateral, Expected, TrustAnchors};

    /// 2025-11-01.
    const THEN: u64 = 1_761_955_200;

    fn fixture(name: &str) -> Option<Vec<u8>> {
        let root = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/fixtures/trustee/deps/verifier/test_data/snp"
        );
        let bytes = std::fs::read(PathBuf::from(root).join(name)).ok();
        if bytes.is_none() {
            assert!(
                !std::path::Path::new(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../../../shared/fixtures"
                ))
                .is_dir(),
                "what this test reads is missing from a folder of fixtures that is there"
            );
            println!("SKIPPED: fixture {name} is not beside this checkout");
        }
        bytes
    }

    fn milan() -> Option<(Vec<u8>, Certificate)> {
        let vcek = Certificate::from_der(&fixture("test-vcek.der")?).unwrap();
        Some((fixture("test-report.bin")?, vcek))
    }

    /// Runs what needs roots and a time.
    fn with_vendors<T>(work: impl FnOnce(&mut Verification<'_>) -> T) -> T {
        work(&mut Verification {
            collateral: &Collateral::none(),
            anchors: &TrustAnchors::vendors(),
            expected: &Expected::default(),
            now: THEN,
            steps: &mut Steps::default(),
        })
    }

    fn path_of(vcek: &Certificate) -> Result<(Assurance, bool), VerifyError> {
        with_vendors(|verification| {
            check_path(SnpProduct::Milan, Signer::Vcek, vcek, &[], verification)
        })
    }

    #[test]
    fn report_of_version_2_holds_but_for_its_version() {
        let Some((bytes, vcek)) = milan() else { return };
        let report = Report::parse(&bytes).unwrap();
        assert_eq!((report.version, report.product()), (2, None));
        check_signature(&report, &vcek).unwrap();
        check_chip_id(&report, &vcek).unwrap();
        check_tcb(&report, SnpProduct::Milan, &vcek).unwrap();
        check_tcb_order(&report).unwrap();
        assert_eq!(check_signer(&report, &vcek), Ok(Signer::Vcek));
        assert_eq!(path_of(&vcek), Ok((Assurance::Hardware, false)));
        let error = with_vendors(|verification| verify_report(&report, &vcek, &[], verification));
        assert_eq!(error.unwrap_err().check(), Check::SnpVersion);
    }

    #[test]
    fn changed_byte_42_breaks_the_signature() {
        let Some((mut bytes, vcek)) = milan() else {
            return;
        };
        bytes[42] = bytes[42].wrapping_add(1);
        let report = Report::parse(&bytes).unwrap();
        let error = check_signature(&report, &vcek).unwrap_err();
        assert_eq!(error.check(), Check::SnpSignature);
    }

    #[test]
    fn changed_byte_384_is_another_tcb() {
        let Some((mut bytes, vcek)) = milan() else {
            return;
        };
        bytes[384] = bytes[384].wrapping_add(1);
        let report = Report::parse(&bytes).unwrap();
        let error = check_tcb(&report, SnpProduct::Milan, &vcek).unwrap_err();
        assert_eq!(error.check(), Check::SnpTcb);
    }

    #[test]
    fn both_encodings_of_the_extensions_are_read_and_their_signatures_are_refused() {
        for name in ["test-vcek-invalid-legacy.der", "test-vcek-invalid-new.der"] {
            let (Some(der), Some((mut bytes, _))) = (fixture(name), milan()) else {
                return;
            };
            let vcek = Certificate::from_der(&der).unwrap();
            for (place, number) in bytes[0x1A0..0x1E0].iter_mut().zip(0..) {
                *place = number;
            }
            check_chip_id(&Report::parse(&bytes).unwrap(), &vcek).unwrap();
            certified_tcb(SnpProduct::Milan, &vcek).unwrap();
            assert_eq!(
                path_of(&vcek).unwrap_err().check(),
                Check::SnpChain,
                "{name}"
            );
        }
    }

    #[test]
    fn leaf_is_no_intermediate_of_itself() {
        let Some((_, vcek)) = milan() else { return };
        let sent = [vcek.clone(), vcek.clone()];
        let found = with_vendors(|verification| {
            check_path(SnpProduct::Genoa, Signer::Vcek, &vcek, &sent, verification)
        });
        assert_eq!(found.unwrap_err().check(), Check::SnpChain);
    }
}
