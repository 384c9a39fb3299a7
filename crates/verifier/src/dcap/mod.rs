//! Intel's data center attestation (DCAP) for TDX and SGX: what a quote needs and the checks that it must pass.
//!
//! The checks come in two parts. What the quote and the trusted root decide alone is checked here, step by step, so that
//! it is known before anything is fetched. What needs Intel's collateral is checked by `dcap-qvl` with our cryptography;
//! it makes every check of the first part again. Each of its failures is told as one of our checks ([`failures`]).

mod failures;
mod pck;
mod pcs;
pub(crate) mod provider;
pub(crate) mod quote;
mod tcb;

use aws_lc_rs::digest;
use dcap_qvl::QuotePolicy;
use dcap_qvl::config::{CryptoProvider, EcdsaSigEncoder};
use dcap_qvl::verify::QuoteVerifier;
use serde_json::{Map, Value};

pub(crate) use pck::PckChain;
pub(crate) use quote::{EnclaveReport, Quote, TdReport};

use crate::anchors::{Root, Vendor};
use crate::check::Check;
use crate::collateral::CollateralRequest;
use crate::platforms::Verification;
use crate::x509::Path;
use crate::{Assurance, VerifyError};
use pcs::Pcs;
use provider::{AwsLc, Provider};

/// The platform that a quote is said to come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Platform {
    Tdx,
    Sgx,
}

impl Platform {
    fn is_tdx(self) -> bool {
        self == Self::Tdx
    }

    fn tee_type(self) -> u32 {
        match self {
            Self::Tdx => quote::TEE_TDX,
            Self::Sgx => quote::TEE_SGX,
        }
    }
}

/// A quote whose checks all passed.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedQuote {
    pub(crate) quote: Quote,
    /// The certificates of the platform that made the quote.
    pub(crate) pck: PckChain,
    /// What the root is worth that the quote leads to.
    pub(crate) assurance: Assurance,
    /// What the collateral says of the platform, by the names that policies know.
    pub(crate) tcb_claims: Map<String, Value>,
}

/// What must be fetched to verify a quote: nothing, when it does not say of which platform it is.
pub(crate) fn collateral_request(quote: &Quote, platform: Platform) -> CollateralRequest {
    PckChain::of(quote)
        .map(|pck| pcs::wanted(&pck, platform.is_tdx()).into_iter().collect())
        .unwrap_or_default()
}

/// Every check of a quote: those that need no collateral, then those that do.
pub(crate) fn verify(
    quote: &Quote,
    platform: Platform,
    verification: &mut Verification<'_>,
) -> Result<VerifiedQuote, VerifyError> {
    let (pck, root) = verify_without_collateral(quote, platform, verification)?;
    let pcs = Pcs::of(
        verification.collateral,
        &pck,
        platform.is_tdx(),
        verification.steps,
    )?;
    pcs.check_chains(&pck, &root, verification)?;
    let claims = qvl(quote, platform, &pcs, &root, verification)?;
    verification.steps.equal(
        Check::TcbInfoPce,
        &hex::encode(&pck.extension.pce_id),
        &pcs.pce_id().unwrap_or_default().to_ascii_lowercase(),
    )?;
    let tcb_claims = tcb::claims(&claims, verification.now);
    Ok(VerifiedQuote {
        quote: quote.clone(),
        pck,
        assurance: root.assurance,
        tcb_claims,
    })
}

/// What quote and trusted root decide alone: that a quoting enclave of a platform which the root's owner certified
/// signed this quote. Nothing is said of what that platform is worth today.
pub(crate) fn verify_without_collateral(
    quote: &Quote,
    platform: Platform,
    verification: &mut Verification<'_>,
) -> Result<(PckChain, Root), VerifyError> {
    let header = &quote.header;
    let steps = &mut *verification.steps;
    steps.run(Check::QuoteVersion, || match (platform, header.version) {
        (Platform::Tdx, 4 | 5) | (Platform::Sgx, 3) => Ok(()),
        (Platform::Tdx, other) => Err(Check::QuoteVersion.failed("4 or 5", other)),
        (Platform::Sgx, other) => Err(Check::QuoteVersion.failed("3", other)),
    })?;
    steps.run(Check::QuoteTeeType, || {
        let body = match platform {
            Platform::Tdx => quote.td_report().is_some(),
            Platform::Sgx => quote.enclave_report().is_some(),
        };
        match body && header.tee_type == platform.tee_type() {
            true => Ok(()),
            false => Err(Check::QuoteTeeType.failed(
                format!("{:#x} and its report", platform.tee_type()),
                format!("{:#x}", header.tee_type),
            )),
        }
    })?;
    steps.equal(
        Check::QuoteVendor,
        &hex::encode(dcap_qvl::INTEL_QE_VENDOR_ID),
        &hex::encode(header.vendor_id),
    )?;
    steps.equal(Check::QuoteKeyType, &ECDSA_P256, &header.att_key_type)?;
    let pck = steps.run(Check::PckCertificates, || {
        PckChain::of(quote).map_err(|e| {
            Check::PckCertificates.failed("certification data of type 5, a PCK chain", e)
        })
    })?;
    let root = steps.run(Check::IntelRoot, || {
        verification
            .anchors
            .root(Vendor::Intel, pck.root)
            .cloned()
            .ok_or_else(|| {
                Check::IntelRoot.failed("a trusted root", format!("the root {:?}", pck.root))
            })
    })?;
    steps.run(Check::PckChain, || {
        Path {
            leaf: &pck.leaf,
            intermediates: &pck.intermediates,
            root: &root.certificate,
            known: &[],
        }
        .verify(verification.now, &[], verification.anchors.proven())
        .map_err(|e| Check::PckChain.failed("a path to the root, valid now", e))
    })?;
    let data = &quote.signature;
    steps.run(Check::QeReportSignature, || {
        let key = pck.leaf.public_key();
        let verified = key
            .bits()
            .is_ok_and(|key| check_p256(key, &data.qe_report, &data.qe_report_signature));
        match verified {
            true => Ok(()),
            false => Err(Check::QeReportSignature.failed("a signature by the PCK", "none")),
        }
    })?;
    let mut bound = digest::Context::new(&digest::SHA256);
    bound.update(&data.attestation_key);
    bound.update(&data.qe_authentication_data);
    let mut wanted = bound.finish().as_ref().to_vec();
    // The report data has 64 bytes; what the hash leaves is zero.
    wanted.resize(data.qe_report_data().len(), 0);
    steps.equal(
        Check::QeReportData,
        &hex::encode(wanted),
        &hex::encode(data.qe_report_data()),
    )?;
    steps.run(Check::QuoteSignature, || {
        let key: Vec<u8> = [&[UNCOMPRESSED_POINT], &data.attestation_key[..]].concat();
        match check_p256(&key, quote.signed_bytes(), &data.signature) {
            true => Ok(()),
            false => {
                Err(Check::QuoteSignature.failed("a signature by the attestation key", "none"))
            }
        }
    })?;
    Ok((pck, root))
}

/// The checks of `dcap-qvl`, recorded as ours.
///
/// A debug TD or enclave passes here: its claims say what it is. A TD with service TDs does not.
fn qvl(
    quote: &Quote,
    platform: Platform,
    pcs: &Pcs<'_>,
    root: &Root,
    verification: &mut Verification<'_>,
) -> Result<dcap_qvl::QuoteClaims, VerifyError> {
    let verifier = QuoteVerifier::<Provider>::new_with_config(root.certificate.der().to_vec())
        .allow_debug(true);
    let outcome = verifier.verify_with_policy(
        quote.as_bytes(),
        pcs.to_qvl(),
        verification.now,
        // What its status is worth is the appraisal's to say.
        &QuotePolicy::claims_only(verification.now),
    );
    // The alternate form of an error is its whole chain of causes.
    let outcome = outcome.map_err(|error| format!("{error:#}"));
    failures::record(platform, outcome, verification.steps)
}

fn check_p256(key: &[u8], message: &[u8], signature: &[u8; 64]) -> bool {
    let (r, s) = signature.split_at(32);
    dcap_qvl::signature::DerSigEncoder::encode_ecdsa_sig(r, s).is_ok_and(|signature| {
        AwsLc::sig_algo()
            .verify_signature(key, message, &signature)
            .is_ok()
    })
}

const ECDSA_P256: u16 = 2;
/// SEC 1, 2.3.3.
const UNCOMPRESSED_POINT: u8 = 4;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
