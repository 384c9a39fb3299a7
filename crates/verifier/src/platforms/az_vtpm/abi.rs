//! Evidence of Azure's confidential VMs as JSON, in the three forms of upstream's attesters.
//!
//! Version 0 names no version, spells bytes as arrays of numbers and the VCEK as PEM. Versions 1 and 2 spell quotes in
//! hex and the rest in base64url. Version 2 promises that the variable data's `user-data` is the report data.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use strongroom_wire::tee::Tee;

use super::hcl::HclReport;
use crate::dcap::{self, Platform};
use crate::platforms::snp;
use crate::platforms::tpm::quote::Quote;
use crate::platforms::tpm::structures::{ALG_SHA256, Signature};
use crate::x509::{Certificate, X509Error};
use crate::{CollateralRequest, VerifyError};

/// Evidence of an Azure confidential VM, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct AzVtpmEvidence {
    /// The version of the form: 0, 1 or 2.
    pub(crate) version: u8,
    pub(crate) quote: Quote,
    pub(crate) hcl: HclReport,
    pub(crate) hardware: Hardware,
}

/// What the hardware signed.
#[derive(Clone, Debug)]
pub(crate) enum Hardware {
    /// The report lies in the HCL report.
    Snp {
        report: Box<snp::Report>,
        /// The VCEK's certificate first, then what was sent with it.
        certificates: Vec<Certificate>,
    },
    /// The quote was made of the HCL report's TD report by the host's quoting enclave.
    Tdx {
        quote: Box<dcap::Quote>,
        report: Box<dcap::TdReport>,
    },
}

impl Hardware {
    /// What the paravisor had bound.
    pub(crate) fn report_data(&self) -> &[u8; 64] {
        match self {
            Self::Snp { report, .. } => &report.report_data,
            Self::Tdx { report, .. } => &report.report_data,
        }
    }
}

impl AzVtpmEvidence {
    pub(crate) fn parse(tee: Tee, json: &[u8]) -> Result<Self, VerifyError> {
        if json.len() > MAX_BYTES {
            return Err(malformed(
                tee,
                format!("{} bytes, at most {MAX_BYTES}", json.len()),
            ));
        }
        let Version { version } = from_json(tee, json)?;
        let text = match (tee, version) {
            (Tee::AzSnpVtpm, None) => Decoded::from_snp_numbers(tee, from_json(tee, json)?)?,
            (_, None) => Decoded::from_tdx_numbers(from_json(tee, json)?),
            (_, Some(1 | 2)) => Decoded::from_text(tee, from_json(tee, json)?)?,
            (_, Some(other)) => {
                return Err(malformed(tee, format!("version {other}, wanted 1 or 2")));
            }
        };
        let hcl = HclReport::parse(&text.hcl_report)
            .map_err(|detail| malformed(tee, format!("HCL report: {detail}")))?;
        let signature = Signature::RsaSsa {
            hash: ALG_SHA256,
            signature: text.signature,
        };
        let hardware = match tee {
            Tee::AzSnpVtpm => Hardware::Snp {
                report: Box::new(snp::Report::parse(&hcl.hardware_report).map_err(|e| of(tee, e))?),
                certificates: text.certificates,
            },
            _ => {
                let quote = text
                    .td_quote
                    .ok_or_else(|| malformed(tee, "no td_quote".to_owned()))?;
                let quote = dcap::Quote::parse(&quote)
                    .map_err(|e| malformed(tee, format!("td_quote: {e}")))?;
                let report = quote
                    .td_report()
                    .cloned()
                    .ok_or_else(|| malformed(tee, "td_quote: a quote of an enclave".to_owned()))?;
                Hardware::Tdx {
                    quote: Box::new(quote),
                    report: Box::new(report),
                }
            }
        };
        Ok(Self {
            version: version.unwrap_or(0),
            quote: Quote::new(tee, text.message, signature, text.pcrs)?,
            hcl,
            hardware,
        })
    }

    pub(crate) fn tee(&self) -> Tee {
        match self.hardware {
            Hardware::Snp { .. } => Tee::AzSnpVtpm,
            Hardware::Tdx { .. } => Tee::AzTdxVtpm,
        }
    }

    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        match &self.hardware {
            Hardware::Snp {
                report,
                certificates,
            } => report.wanted(!certificates.is_empty()).collect(),
            Hardware::Tdx { quote, .. } => dcap::collateral_request(quote, Platform::Tdx),
        }
    }
}

/// The bytes of any form.
struct Decoded {
    signature: Vec<u8>,
    message: Vec<u8>,
    pcrs: Vec<Vec<u8>>,
    hcl_report: Vec<u8>,
    certificates: Vec<Certificate>,
    td_quote: Option<Vec<u8>>,
}

impl Decoded {
    fn from_snp_numbers(tee: Tee, form: SnpNumbers) -> Result<Self, VerifyError> {
        Ok(Self {
            signature: form.quote.signature,
            message: form.quote.message,
            pcrs: form.quote.pcrs,
            hcl_report: form.report,
            certificates: match form.vcek {
                None => Vec::new(),
                Some(pem) => certificates(
                    tee,
                    Certificate::from_pem_chain(pem.as_bytes(), MAX_CERTIFICATES),
                )?,
            },
            td_quote: None,
        })
    }

    fn from_tdx_numbers(form: TdxNumbers) -> Self {
        Self {
            signature: form.tpm_quote.signature,
            message: form.tpm_quote.message,
            pcrs: form.tpm_quote.pcrs,
            hcl_report: form.hcl_report,
            certificates: Vec::new(),
            td_quote: Some(form.td_quote),
        }
    }

    fn from_text(tee: Tee, form: Text) -> Result<Self, VerifyError> {
        let hex = |member: &str, text: &str| {
            hex::decode(text).map_err(|e| malformed(tee, format!("{member} is not hex: {e}")))
        };
        let base64 = |member: &str, text: &str| {
            URL_SAFE
                .decode(text)
                .map_err(|e| malformed(tee, format!("{member} is not base64url: {e}")))
        };
        let vcek = form
            .vcek
            .filter(|vcek| !vcek.is_empty())
            .map(|vcek| base64("vcek", &vcek))
            .transpose()?;
        Ok(Self {
            signature: hex("signature", &form.tpm_quote.signature)?,
            message: hex("message", &form.tpm_quote.message)?,
            pcrs: form
                .tpm_quote
                .pcrs
                .iter()
                .map(|value| hex("pcrs", value))
                .collect::<Result<_, _>>()?,
            hcl_report: base64("hcl_report", &form.hcl_report)?,
            certificates: match vcek {
                None => Vec::new(),
                Some(der) => certificates(tee, Certificate::from_der(&der).map(|one| vec![one]))?,
            },
            td_quote: form
                .td_quote
                .map(|quote| base64("td_quote", &quote))
                .transpose()?,
        })
    }
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: Option<u8>,
}

#[derive(Deserialize)]
struct SnpNumbers {
    quote: QuoteNumbers,
    report: Vec<u8>,
    #[serde(default)]
    vcek: Option<String>,
}

#[derive(Deserialize)]
struct TdxNumbers {
    tpm_quote: QuoteNumbers,
    hcl_report: Vec<u8>,
    td_quote: Vec<u8>,
}

#[derive(Deserialize)]
struct QuoteNumbers {
    signature: Vec<u8>,
    message: Vec<u8>,
    pcrs: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct Text {
    tpm_quote: QuoteText,
    hcl_report: String,
    #[serde(default)]
    vcek: Option<String>,
    #[serde(default)]
    td_quote: Option<String>,
}

#[derive(Deserialize)]
struct QuoteText {
    signature: String,
    message: String,
    pcrs: Vec<String>,
}

fn from_json<T: DeserializeOwned>(tee: Tee, json: &[u8]) -> Result<T, VerifyError> {
    serde_json::from_slice(json).map_err(|e| malformed(tee, e.to_string()))
}

fn certificates(
    tee: Tee,
    parsed: Result<Vec<Certificate>, X509Error>,
) -> Result<Vec<Certificate>, VerifyError> {
    parsed.map_err(|e| malformed(tee, format!("vcek: {e}")))
}

fn malformed(tee: Tee, detail: String) -> VerifyError {
    VerifyError::Malformed { tee, detail }
}

/// What is wrong with the hardware's own evidence is wrong with this.
fn of(tee: Tee, error: VerifyError) -> VerifyError {
    match error {
        VerifyError::Malformed { detail, .. } => VerifyError::Malformed { tee, detail },
        other => other,
    }
}

/// Version 0 spells each byte with up to five characters: TDX has 8 KiB of them, and a quote may carry some more.
const MAX_BYTES: usize = 128 * 1024;
/// The VCEK's, and those of AMD's two authorities.
const MAX_CERTIFICATES: usize = 3;
