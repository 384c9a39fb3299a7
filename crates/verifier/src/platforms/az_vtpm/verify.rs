//! The checks of Azure's confidential VMs: the quote by the vTPM's attestation key, that key's binding into the
//! hardware's report, and the report itself.

use std::borrow::Cow;

use aws_lc_rs::digest;
use strongroom_wire::tee::Tee;

use super::abi::{AzVtpmEvidence, Hardware};
use super::claims;
use super::hcl::HclReport;
use crate::VerifyError;
use crate::binding::{ReportDataForm, fitted};
use crate::check::Check;
use crate::dcap::{self, Platform};
use crate::platforms::snp::{self, Report};
use crate::platforms::{PlatformVerdict, Verification};
use crate::x509::Certificate;

pub(crate) fn verify(
    evidence: &AzVtpmEvidence,
    verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    let hcl = &evidence.hcl;
    let tee = evidence.tee();
    check_report_type(tee, hcl, verification)?;
    let quote = evidence
        .quote
        .verify(&hcl.ak, ReportDataForm::Exact, verification)?;
    let user_data_bound = check_user_data(evidence.version, hcl, quote.extra_data(), verification)?;
    let initdata_bound = quote.check_initdata(verification)?;
    check_variable_data(evidence, verification)?;
    let (assurance, mut claims) = match &evidence.hardware {
        Hardware::Snp {
            report,
            certificates,
        } => {
            let (vcek, sent) = vcek(report, certificates, verification)?;
            let verified = snp::verify_report(report, &vcek, sent, verification)?;
            (verified.assurance, claims::snp(report, &verified))
        }
        Hardware::Tdx { quote, report } => {
            let verified = dcap::verify(quote, Platform::Tdx, verification)?;
            (verified.assurance, claims::tdx(report, &verified))
        }
    };
    claims::extend(&mut claims, evidence, &quote, user_data_bound);
    Ok(PlatformVerdict {
        tee,
        assurance,
        claims,
        report_data: hex::encode(quote.extra_data()),
        init_data: quote.pcr8().map(hex::encode),
        initdata_bound,
    })
}

fn check_report_type(
    tee: Tee,
    hcl: &HclReport,
    verification: &mut Verification<'_>,
) -> Result<(), VerifyError> {
    let wanted = match tee {
        Tee::AzSnpVtpm => SNP_REPORT,
        _ => TDX_REPORT,
    };
    verification
        .steps
        .equal(Check::AzureReportType, &wanted, &hcl.report_type)?;
    verification
        .steps
        .equal(Check::AzureReportHash, &SHA256, &hcl.hash_type)
}

/// The hardware vouches for the attestation key by the digest of the data that it lies in.
fn check_variable_data(
    evidence: &AzVtpmEvidence,
    verification: &mut Verification<'_>,
) -> Result<(), VerifyError> {
    let wanted = fitted(
        digest::digest(&digest::SHA256, &evidence.hcl.variable_data).as_ref(),
        64,
    );
    verification.steps.equal(
        Check::AzureVariableData,
        &hex::encode(wanted),
        &hex::encode(evidence.hardware.report_data()),
    )
}

/// Since version 2 the guest also has its report data bound by the paravisor. Older forms did not promise it: a claim
/// says whether it holds.
fn check_user_data(
    version: u8,
    hcl: &HclReport,
    report_data: &[u8],
    verification: &mut Verification<'_>,
) -> Result<bool, VerifyError> {
    let wanted = fitted(report_data, USER_DATA);
    let holds = report_data.len() <= USER_DATA && hcl.user_data.as_ref() == Some(&wanted);
    if version < 2 && !holds {
        verification.steps.skip(
            Check::AzureUserData,
            format!("evidence of version {version} does not promise it: user_data_bound is false"),
        );
        return Ok(false);
    }
    verification
        .steps
        .run(Check::AzureUserData, || match holds {
            true => Ok(true),
            false => Err(Check::AzureUserData.failed(
                hex::encode(&wanted),
                hcl.user_data
                    .as_ref()
                    .map_or_else(|| "no user-data".to_owned(), hex::encode),
            )),
        })
}

/// The VCEK's certificate that was sent and what came with it, or else the one that the collateral has.
fn vcek<'a>(
    report: &Report,
    sent: &'a [Certificate],
    verification: &mut Verification<'_>,
) -> Result<(Cow<'a, Certificate>, &'a [Certificate]), VerifyError> {
    if let Some((vcek, others)) = sent.split_first() {
        return Ok((Cow::Borrowed(vcek), others));
    }
    let collateral = verification.collateral;
    verification.steps.run(Check::Collateral, || {
        let product = report.product().ok_or_else(|| {
            Check::Collateral.failed(
                "the VCEK's certificate beside a report that does not name a known product",
                "none",
            )
        })?;
        let wanted = report.wanted_vcek(product);
        match collateral.item(&wanted) {
            Some(item) => Certificate::from_der(&item.body)
                .map(|vcek| (Cow::Owned(vcek), sent))
                .map_err(|e| Check::Collateral.failed(&wanted, e)),
            None => Err(VerifyError::MissingCollateral {
                wanted: Box::new(wanted),
            }),
        }
    })
}

const SNP_REPORT: u32 = 2;
const TDX_REPORT: u32 = 4;
const SHA256: u32 = 1;
const USER_DATA: usize = 64;
