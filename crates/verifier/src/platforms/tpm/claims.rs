//! What a policy sees of `tpm` evidence: `pcr00` to `pcr23` (those that were quoted) and `ak_public`, as upstream's
//! verifier emits them; whose word it is that the key is a TPM's; and what else is in the quote.

use serde_json::{Map, Value, json};

use super::abi::TpmEvidence;
use super::quote::VerifiedQuote;
use super::verify::Anchor;

pub(crate) fn claims(
    evidence: &TpmEvidence,
    quote: &VerifiedQuote,
    anchor: Anchor,
) -> Map<String, Value> {
    let mut claims = quote.pcr_claims();
    claims.insert("ak_public".into(), json!(evidence.ak_public));
    claims.insert("ak_anchored".into(), json!(anchor.is_anchored()));
    claims.insert("ak_anchor".into(), json!(anchor.as_str()));
    claims.insert("tpm_quote".into(), quote.claims());
    claims
}
