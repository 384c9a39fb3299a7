//! The checks of `tpm` evidence: the quote, and whether its attestation key is known to be a TPM's.
//!
//! Anybody can make a key and sign what looks like a quote. A key is anchored when its owner enrolled it, or when a
//! certificate for attestation keys leads from it to a trusted root. (A TPM maker's certificate is for an endorsement
//! key, which cannot sign; it serves at enrolment.) A key that is neither verifies as [`Assurance::Development`].

use const_oid::ObjectIdentifier;
use der::Decode;
use strongroom_wire::tee::Tee;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage};

use super::abi::TpmEvidence;
use super::claims;
use crate::anchors::Vendor;
use crate::binding::ReportDataForm;
use crate::check::Check;
use crate::platforms::{PlatformVerdict, Verification};
use crate::x509::{Certificate, Path};
use crate::{Assurance, VerifyError};

pub(crate) fn verify(
    evidence: &TpmEvidence,
    verification: &mut Verification<'_>,
) -> Result<PlatformVerdict, VerifyError> {
    let quote = evidence
        .quote
        .verify(&evidence.ak, ReportDataForm::First32, verification)?;
    let initdata_bound = quote.check_initdata(verification)?;
    let anchor = anchor(evidence, verification)?;
    Ok(PlatformVerdict {
        tee: Tee::Tpm,
        assurance: anchor.assurance(),
        claims: claims::claims(evidence, &quote, anchor),
        report_data: hex::encode(quote.extra_data()),
        init_data: quote.pcr8().map(hex::encode),
        initdata_bound,
    })
}

/// Whose word it is that an attestation key is a TPM's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Anchor {
    /// Its owner's, who enrolled it.
    Enrolled,
    /// A trusted root's, which is worth this much.
    Certificate(Assurance),
    /// Its own.
    None,
}

impl Anchor {
    pub(crate) fn is_anchored(self) -> bool {
        self != Self::None
    }

    /// The claim's value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Certificate(_) => "certificate",
            Self::None => "none",
        }
    }

    fn assurance(self) -> Assurance {
        match self {
            Self::Enrolled => Assurance::Hardware,
            Self::Certificate(assurance) => assurance,
            Self::None => Assurance::Development,
        }
    }
}

/// A certificate that was sent must hold, unless the key was enrolled and needs none.
fn anchor(
    evidence: &TpmEvidence,
    verification: &mut Verification<'_>,
) -> Result<Anchor, VerifyError> {
    if verification.anchors.is_enrolled(&evidence.ak) {
        verification.steps.skip(
            Check::TpmAkCertificate,
            "the attestation key was enrolled, and needs no certificate",
        );
        verification.steps.run(Check::TpmAkAnchor, || Ok(()))?;
        return Ok(Anchor::Enrolled);
    }
    let Some((leaf, above)) = evidence.ak_certificates.split_first() else {
        verification
            .steps
            .skip(Check::TpmAkCertificate, "no certificate was sent");
        verification.steps.skip(
            Check::TpmAkAnchor,
            "the attestation key was not enrolled and has no certificate: ak_anchored is false",
        );
        return Ok(Anchor::None);
    };
    let Verification {
        anchors,
        now,
        steps,
        ..
    } = verification;
    let assurance = steps.run(Check::TpmAkCertificate, || {
        check_is_for_quotes(evidence, leaf)?;
        let mut refusals = Vec::new();
        for root in anchors.roots(Vendor::Tpm) {
            // Some senders end the chain with the root itself.
            let intermediates = match above.split_last() {
                Some((last, between)) if *last == root.certificate => between,
                _ => above,
            };
            let path = Path {
                leaf,
                intermediates,
                root: &root.certificate,
                known: &[SUBJECT_ALTERNATIVE_NAME],
            };
            match path.verify(*now, &[], anchors.proven()) {
                Ok(()) => return Ok(root.assurance),
                Err(error) => refusals.push(error.to_string()),
            }
        }
        Err(Check::TpmAkCertificate.failed(
            "a path to a trusted root for TPMs",
            match refusals.is_empty() {
                true => "no such root is trusted".to_owned(),
                false => refusals.join("; "),
            },
        ))
    })?;
    steps.run(Check::TpmAkAnchor, || Ok(()))?;
    Ok(Anchor::Certificate(assurance))
}

/// The certificate is for the key that signed, and was issued for an attestation key. A root may issue others: the
/// key of a TLS server below it must not pass for a TPM's.
fn check_is_for_quotes(evidence: &TpmEvidence, leaf: &Certificate) -> Result<(), VerifyError> {
    let refused =
        |expected: &str, actual: &str| Err(Check::TpmAkCertificate.failed(expected, actual));
    if leaf.public_key() != evidence.ak {
        return refused(
            "the certificate of ak_public",
            "the certificate of another key",
        );
    }
    let malformed = |e: &dyn std::fmt::Display| Check::TpmAkCertificate.failed("a certificate", e);
    if let Some(usage) = leaf.extension(KEY_USAGE).map_err(|e| malformed(&e))? {
        let usage = KeyUsage::from_der(usage).map_err(|e| malformed(&e))?;
        if !usage.digital_signature() {
            return refused("a key usage of digitalSignature", "a key that may not sign");
        }
    }
    let Some(usage) = leaf
        .extension(EXTENDED_KEY_USAGE)
        .map_err(|e| malformed(&e))?
    else {
        return refused("the extended key usage tcg-kp-AIKCertificate", "none");
    };
    let usage = ExtendedKeyUsage::from_der(usage).map_err(|e| malformed(&e))?;
    match usage.0.contains(&AK_CERTIFICATE) {
        true => Ok(()),
        false => {
            let found: Vec<String> = usage.0.iter().map(ToString::to_string).collect();
            refused(
                "the extended key usage tcg-kp-AIKCertificate",
                &found.join(", "),
            )
        }
    }
}

const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
/// Critical where the subject is empty, as the TCG's profiles allow. It names the TPM, and no name decides anything.
const SUBJECT_ALTERNATIVE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// tcg-kp-AIKCertificate.
const AK_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.8.3");
