//! Evidence of Azure's confidential VMs, for development: a vTPM's quote, and the hardware's report that vouches for
//! the vTPM's key.
//!
//! The HCL report is what the paravisor writes (Azure guest attestation): a header, the hardware's report, a runtime
//! header and the variable data; little-endian. Evidence comes in the three forms of upstream's attesters.

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::intel::SGX_COMPONENTS;
use super::tdx::TdReport;
use super::tpm::{self, Quote};
use super::{DevelopmentError, DevelopmentRoot, Tampering, sha256, sha384, snp, tamper, tdx};

/// Evidence of one VM: honest as it is made, and every field to change.
#[derive(Clone, Debug)]
pub struct Forge {
    /// The root whose keys sign.
    pub root: DevelopmentRoot,
    /// The form of the evidence: 0, 1 or 2.
    pub version: u8,
    /// What vouches for the vTPM. Its report data is replaced by the binding.
    pub hardware: Hardware,
    /// The vTPM's quote, which an RSA key signs.
    pub quote: Quote,
    /// The variable data's `vm-configuration`.
    pub vm_configuration: Value,
    /// The variable data's `user-data`.
    pub user_data: String,
    /// What stands for SHA-256 over the variable data in the hardware's report, when it is to be wrong.
    pub binding: Option<[u8; 32]>,
    /// Bits of the HCL report that are turned after the hardware signed.
    pub tampering: Tampering,
}

/// The hardware below an Azure confidential VM.
#[derive(Clone, Debug)]
pub enum Hardware {
    /// SNP: the report lies in the HCL report, and the evidence has room for one certificate.
    Snp(Box<snp::Forge>),
    /// TDX: the quote is sent beside.
    Tdx(Box<tdx::Forge>),
}

impl Forge {
    /// A VM on SNP, in the newest form.
    pub fn snp(root: &DevelopmentRoot) -> Self {
        let mut hardware = snp::Forge::new(root);
        hardware.certificate.issuer = snp::CertificateIssuer::Root;
        Self::of(root, Hardware::Snp(Box::new(hardware)))
    }

    /// A VM on TDX, in the newest form. There is no event log, and the registers are zero.
    pub fn tdx(root: &DevelopmentRoot) -> Self {
        let mut hardware = tdx::Forge::new(root).with_event_log(Vec::new());
        hardware.event_log = None;
        Self::of(root, Hardware::Tdx(Box::new(hardware)))
    }

    fn of(root: &DevelopmentRoot, hardware: Hardware) -> Self {
        Self {
            root: root.clone(),
            version: 2,
            hardware,
            quote: Quote::new(root),
            vm_configuration: json!({
                "console-enabled": true,
                "secure-boot": true,
                "tpm-enabled": true,
                "vmUniqueId": "00000000-0000-4000-8000-000000000000",
            }),
            user_data: "0".repeat(128),
            binding: None,
            tampering: Vec::new(),
        }
    }

    /// The report data: the quote's extra data as it is, and in version 2 the variable data's `user-data` too.
    #[must_use]
    pub fn with_report_data(mut self, report_data: &[u8]) -> Self {
        self.quote.extra_data = report_data.to_vec();
        if self.version == 2 {
            self.user_data = hex::encode_upper(super::fitted::<64>(report_data));
        }
        self
    }

    /// The form of the evidence. Before version 2, `user-data` says nothing.
    #[must_use]
    pub fn with_version(mut self, version: u8) -> Self {
        self.version = version;
        if version < 2 {
            self.user_data = "0".repeat(128);
        }
        self
    }

    /// The digest of the init-data, which PCR 8 is extended with.
    ///
    /// # Errors
    /// [`DevelopmentError::Length`], when it has not the 32 bytes of the bank.
    pub fn with_initdata(mut self, digest: &[u8]) -> Result<Self, DevelopmentError> {
        self.quote.extend_pcr8(digest)?;
        Ok(self)
    }

    /// The variable data: the vTPM's keys, the configuration and the user data.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn variable_data(&self) -> Result<Vec<u8>, DevelopmentError> {
        let (modulus, exponent) = tpm::jwk_numbers(&self.root)?;
        // The endorsement key stands there and nothing uses it: a number of its length, which is nobody's modulus.
        let mut endorsement = [1, 2, 3, 4]
            .map(|n| self.root.identity(&format!("EK {n}")))
            .concat();
        if let Some(last) = endorsement.last_mut() {
            *last |= 1;
        }
        if let Some(first) = endorsement.first_mut() {
            *first |= 0x80;
        }
        Ok(json!({
            "keys": [
                { "kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", "e": exponent, "n": modulus },
                {
                    "kid": "HCLEkPub",
                    "key_ops": ["encrypt"],
                    "kty": "RSA",
                    "e": exponent,
                    "n": URL_SAFE_NO_PAD.encode(endorsement),
                },
            ],
            "vm-configuration": self.vm_configuration,
            "user-data": self.user_data,
        })
        .to_string()
        .into_bytes())
    }

    /// The HCL report and, on TDX, the quote of its TD report.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn reports(&self) -> Result<(Vec<u8>, Option<Vec<u8>>), DevelopmentError> {
        let variable_data = self.variable_data()?;
        let binding = self.binding.unwrap_or_else(|| sha256(&variable_data));
        let (kind, hardware_report, td_quote) = match &self.hardware {
            Hardware::Snp(forge) => {
                let bound = forge.as_ref().clone().with_report_data(&binding);
                (2, bound.report_bytes()?, None)
            }
            Hardware::Tdx(forge) => {
                let bound = forge.as_ref().clone().with_report_data(&binding);
                let quote = bound.quote_bytes()?;
                (4, td_report(&bound.report), Some(quote))
            }
        };
        let length = u32::try_from(variable_data.len()).map_err(|_| DevelopmentError::Length {
            field: "the variable data",
            actual: variable_data.len(),
            expected: "less than 4 GiB",
        })?;
        let runtime = length.saturating_add(RUNTIME_HEADER);
        let mut report = b"HCLA".to_vec();
        // Version, size, type of request, and status; then 12 bytes that are reserved.
        let size = runtime.saturating_add(32 + 1184);
        for word in [2, size, 2, 0, 0, 0, 0] {
            report.extend_from_slice(&u32::to_le_bytes(word));
        }
        report.extend_from_slice(&hardware_report);
        report.resize(32 + 1184, 0);
        // Size, version, type of hardware, SHA-256, length.
        for word in [runtime, 1, kind, 1, length] {
            report.extend_from_slice(&u32::to_le_bytes(word));
        }
        report.extend_from_slice(&variable_data);
        // The size of the vTPM's index, unless there is more.
        let padded = report.len().max(2600);
        report.resize(padded, 0);
        tamper(&mut report, &self.tampering);
        Ok((report, td_quote))
    }

    /// The evidence of the KBS protocol's platform `az-snp-vtpm` or `az-tdx-vtpm`.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn evidence_json(&self) -> Result<String, DevelopmentError> {
        let (report, td_quote) = self.reports()?;
        let signature = self.quote.sign_rsa(&self.root, &self.quote.message())?;
        let message = self.quote.tampered_message();
        if self.version == 0 {
            let quote = json!({
                "message": message,
                "pcrs": self.quote.pcrs,
                "signature": signature,
            });
            return Ok(match &self.hardware {
                Hardware::Snp(forge) => json!({
                    "quote": quote,
                    "report": report,
                    "vcek": forge.certificate_pem()?,
                }),
                Hardware::Tdx(_) => json!({
                    "tpm_quote": quote,
                    "hcl_report": report,
                    "td_quote": td_quote,
                }),
            }
            .to_string());
        }
        let mut evidence = json!({
            "version": self.version,
            "tpm_quote": {
                "signature": hex::encode(signature),
                "message": hex::encode(message),
                "pcrs": self.quote.pcrs_hex(),
            },
            "hcl_report": URL_SAFE.encode(report),
        });
        match &self.hardware {
            Hardware::Snp(forge) => {
                evidence["vcek"] = json!(URL_SAFE.encode(forge.certificate_der()?));
            }
            Hardware::Tdx(_) => {
                evidence["td_quote"] = json!(td_quote.map(|quote| URL_SAFE.encode(quote)));
            }
        }
        Ok(evidence.to_string())
    }
}

/// `TDREPORT_STRUCT` (TDX module ABI): what the processor hands the guest, and the quoting enclave quotes. Its MAC is
/// zero: only the processor that made it could check it.
fn td_report(report: &TdReport) -> Vec<u8> {
    let mut tcb_info = vec![0xff, 1, 0, 0, 0, 0, 0, 0];
    tcb_info.extend_from_slice(&report.tee_tcb_svn);
    tcb_info.extend_from_slice(&report.mr_seam);
    tcb_info.extend_from_slice(&report.mr_signer_seam);
    tcb_info.extend_from_slice(&report.seam_attributes);
    tcb_info.resize(239, 0);
    let mut td_info = Vec::new();
    td_info.extend_from_slice(&report.td_attributes);
    td_info.extend_from_slice(&report.xfam);
    td_info.extend_from_slice(&report.mr_td);
    td_info.extend_from_slice(&report.mr_config_id);
    td_info.extend_from_slice(&report.mr_owner);
    td_info.extend_from_slice(&report.mr_owner_config);
    td_info.extend_from_slice(report.rtmr.as_flattened());
    td_info.resize(512, 0);
    let mut out = vec![0x81, 0, 0, 0];
    out.resize(16, 0);
    out.extend_from_slice(&SGX_COMPONENTS);
    out.extend_from_slice(&sha384(&tcb_info));
    out.extend_from_slice(&sha384(&td_info));
    out.extend_from_slice(&report.report_data);
    out.resize(256, 0);
    out.extend_from_slice(&tcb_info);
    out.resize(512, 0);
    out.extend_from_slice(&td_info);
    out
}

const RUNTIME_HEADER: u32 = 20;
