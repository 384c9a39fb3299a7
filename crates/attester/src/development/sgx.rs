//! Quotes of Intel SGX enclaves (version 3), for development.
//!
//! ECDSA quote library API, appendix A.4.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::intel::{EnclaveReport, Header, PckFields, Quoting, SGX_COMPONENTS};
use super::{DevelopmentError, DevelopmentRoot, Tampering, tamper};

/// One quote of an enclave: honest as it is made, and every field to change.
#[derive(Clone, Debug)]
pub struct Forge {
    /// The root whose keys sign.
    pub root: DevelopmentRoot,
    /// The quote's header.
    pub header: Header,
    /// The enclave.
    pub report: EnclaveReport,
    /// The quoting enclave's part.
    pub quoting: Quoting,
    /// The platform's certificate.
    pub pck: PckFields,
    /// Bits of the quote that are turned after it was signed.
    pub tampering: Tampering,
}

impl Forge {
    /// A quote of version 3.
    pub fn new(root: &DevelopmentRoot) -> Self {
        Self {
            root: root.clone(),
            header: Header::new(3, false),
            report: EnclaveReport {
                cpu_svn: SGX_COMPONENTS,
                misc_select: 0,
                isv_ext_prod_id: [0; 16],
                // INIT, MODE64BIT, KSS; XFRM.
                attributes: [0x85, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0],
                mr_enclave: super::sha256(b"strongroom development enclave"),
                mr_signer: super::sha256(b"strongroom development enclave signer"),
                config_id: [0; 64],
                isv_prod_id: 1,
                isv_svn: 1,
                config_svn: 0,
                isv_family_id: [0; 16],
                report_data: [0; 64],
            },
            quoting: Quoting::new(root, false),
            pck: PckFields::new(root),
            tampering: Vec::new(),
        }
    }

    /// The report data: at most 64 bytes, padded with zeros.
    #[must_use]
    pub fn with_report_data(mut self, report_data: &[u8]) -> Self {
        self.report.report_data = super::fitted(report_data);
        self
    }

    /// The digest of the init-data, fitted into `CONFIGID`.
    #[must_use]
    pub fn with_initdata(mut self, digest: &[u8]) -> Self {
        self.report.config_id = super::fitted(digest);
        self
    }

    /// The quote.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn quote_bytes(&self) -> Result<Vec<u8>, DevelopmentError> {
        let signed = [self.header.to_bytes(), self.report.to_bytes()].concat();
        let mut quote = self.quoting.sign(&self.root, &self.pck, signed, false)?;
        tamper(&mut quote, &self.tampering);
        Ok(quote)
    }

    /// The evidence of the KBS protocol's platform `sgx`.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn evidence_json(&self) -> Result<String, DevelopmentError> {
        Ok(json!({ "quote": STANDARD.encode(self.quote_bytes()?) }).to_string())
    }
}
