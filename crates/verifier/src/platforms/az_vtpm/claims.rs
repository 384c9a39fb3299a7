//! What a policy sees of an Azure confidential VM: upstream's names and types, and ours beside them.
//!
//! Upstream spells the claims of `az-snp-vtpm` as strings and its measurement in base64, while those of `az-tdx-vtpm`
//! are the ones of `tdx`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::abi::AzVtpmEvidence;
use crate::dcap::{TdReport, VerifiedQuote as VerifiedTdQuote};
use crate::platforms::snp::{self, Report, VerifiedReport};
use crate::platforms::tdx;
use crate::platforms::tpm::quote::VerifiedQuote;

/// The claims of `snp`, each as a string.
pub(crate) fn snp(report: &Report, verified: &VerifiedReport) -> Map<String, Value> {
    let mut claims: Map<String, Value> = snp::claims::claims(report, verified)
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(text) => (name, Value::String(text)),
            other => (name, Value::String(other.to_string())),
        })
        .collect();
    claims.insert(
        "measurement".into(),
        json!(STANDARD.encode(report.measurement)),
    );
    claims
}

/// The claims of `tdx`.
pub(crate) fn tdx(report: &TdReport, verified: &VerifiedTdQuote) -> Map<String, Value> {
    let mut claims = tdx::claims::claims(&verified.quote, report, &verified.pck, None);
    claims.extend(verified.tcb_claims.clone());
    claims
}

/// What is the vTPM's and the paravisor's.
pub(crate) fn extend(
    claims: &mut Map<String, Value>,
    evidence: &AzVtpmEvidence,
    quote: &VerifiedQuote,
    user_data_bound: bool,
) {
    claims.insert("tpm".into(), Value::Object(quote.pcr_claims()));
    claims.insert("tpm_quote".into(), quote.claims());
    claims.insert(
        "vm-configuration".into(),
        Value::Object(evidence.hcl.vm_configuration.clone()),
    );
    claims.insert("user_data_bound".into(), json!(user_data_bound));
    claims.insert("evidence_version".into(), json!(evidence.version));
}
