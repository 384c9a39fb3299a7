//! `tpm` evidence as JSON, as upstream's attester writes it:
//! `{"ak_public":"<base64 DER>","tpm_quote":{"signature":"<base64 TPMT_SIGNATURE>","message":"<base64 TPMS_ATTEST>","pcrs":["<hex>", …]}}`.
//!
//! Ours may add `"ak_certificates":"<PEM>"`: the attestation key's certificate, then those that lead to a root.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use strongroom_wire::tee::Tee;

use super::quote::{Quote, malformed};
use super::structures::Signature;
use crate::VerifyError;
use crate::x509::{Certificate, PublicKey};

/// `tpm` evidence, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct TpmEvidence {
    /// The attestation key, by its own word.
    pub(crate) ak: PublicKey,
    /// The same as it was sent, which is how policies name it.
    pub(crate) ak_public: String,
    /// Its certificate first; empty when none was sent.
    pub(crate) ak_certificates: Vec<Certificate>,
    pub(crate) quote: Quote,
}

impl TpmEvidence {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, VerifyError> {
        if json.len() > MAX_BYTES {
            return Err(refused(format!(
                "{} bytes, at most {MAX_BYTES}",
                json.len()
            )));
        }
        let text: Text = serde_json::from_slice(json).map_err(|e| refused(e.to_string()))?;
        let ak = PublicKey::from_spki(&decode("ak_public", &text.ak_public)?)
            .map_err(|e| refused(format!("ak_public is no public key: {e}")))?;
        let ak_certificates = match &text.ak_certificates {
            None => Vec::new(),
            Some(pem) => Certificate::from_pem_chain(pem.as_bytes(), MAX_CERTIFICATES)
                .map_err(|e| refused(format!("ak_certificates: {e}")))?,
        };
        let signature = Signature::parse(&decode("signature", &text.tpm_quote.signature)?)
            .map_err(|e| malformed(Tee::Tpm, "signature", &e))?;
        let values = text
            .tpm_quote
            .pcrs
            .iter()
            .map(|value| hex::decode(value).map_err(|e| refused(format!("pcrs: no hex: {e}"))))
            .collect::<Result<_, _>>()?;
        let message = decode("message", &text.tpm_quote.message)?;
        Ok(Self {
            ak,
            ak_public: text.ak_public,
            ak_certificates,
            quote: Quote::new(Tee::Tpm, message, signature, values)?,
        })
    }
}

#[derive(Deserialize)]
struct Text {
    ak_public: String,
    #[serde(default)]
    ak_certificates: Option<String>,
    tpm_quote: TextQuote,
}

#[derive(Deserialize)]
struct TextQuote {
    signature: String,
    message: String,
    pcrs: Vec<String>,
}

fn decode(member: &str, text: &str) -> Result<Vec<u8>, VerifyError> {
    STANDARD
        .decode(text)
        .map_err(|e| refused(format!("{member} is not standard base64: {e}")))
}

fn refused(detail: String) -> VerifyError {
    VerifyError::Malformed {
        tee: Tee::Tpm,
        detail,
    }
}

/// A quote with its PCRs has 3 KiB, a chain of RSA-4096 certificates under 10.
const MAX_BYTES: usize = 64 * 1024;
const MAX_CERTIFICATES: usize = 6;
