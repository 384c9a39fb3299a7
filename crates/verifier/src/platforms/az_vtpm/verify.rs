//! The checks of Azure's confidential VMs: the quote by the vTPM's attestation key, that key's binding into the
//! hardware's report, and the report itself.

use aws_lc_rs::digest;
use strongroom_wire::tee::Tee;

use super::abi::{AzVtpmEvidence, Hardware};
use super::claims;
use super::hcl::HclReport;
use crate::binding::{ReportDataForm, fitted};
use crate::check::Check;
use crate::platforms::snp::{self, Report};
use crate::platforms::tdx;
use crate::platforms::{PlatformVerdict, Verification};
use crate::x509::Certificate;
use crate::{Assurance, VerifyError};

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
    let user_data_bound =
        check_user_data(evidence.version, hcl, quote.extra_data(), verification)?;
    let initdata_bound = quote.check_initdata(verification)?;
    let (assurance, mut claims) = match &evidence.hardware {
        Hardware::Snp {
            report,
            certificates,
        } => {
            check_variable_data(hcl, &report.report_data, verification)?;
            let (vcek, sent) = vcek(tee, report, certificates, verification)?;
            let verified = snp::verify_report(report, &vcek, sent, verification)?;
            (
                verified.assurance,
                claims::snp(report, &verified),
            )
        }
        Hardware::Tdx { quote, .. } => {
            let verified = tdx::verify_quote(quote, verification)?;
            check_variable_data(hcl, verified.report_data(), verification)?;
            (verified.assurance(), claims::tdx(&verified))
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
    hcl: &HclReport,
    report_data: &[u8],
    verification: &mut Verification<'_>,
) -> Result<(), VerifyError> {
    let wanted = fitted(
        digest::digest(&digest::SHA256, &hcl.variable_data).as_ref(),
        64,
    );
    verification.steps.equal(
        Check::AzureVariableData,
        &hex::encode(wanted),
        &hex::encode(report_data),
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

/// The certificate that was sent and what came with it, or else the one that the collateral has.
fn vcek<'a>(
    report: &Report,
    sent: &'a [Certificate],
    verification: &mut Verification<'_>,
) -> Result<(Cow<'a, Certificate>, &'a [Certificate]), VerifyError> {
    todo!()
}

const SNP_REPORT: u32 = 2;
const TDX_REPORT: u32 = 4;
const SHA256: u32 = 1;
const USER_DATA: usize = 64;
