//! Every check of every platform by its name, and the record of which ran and how each ended.
//!
//! A check is a variant of [`Check`] with the sentence that holds when it passes and the clause it comes from. A
//! platform runs its checks through [`Steps`], so that `verify` and the numbered report of one evidence are one code.

use std::fmt;

use crate::VerifyError;

/// Declares [`Check`]: each variant's sentence and clause, in the order in which they are listed.
macro_rules! checks {
    ($($(#[$group:meta])* $name:ident: $sentence:literal, $clause:literal;)+) => {
        /// One check. Its `Display` is the sentence that holds when it passes.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[non_exhaustive]
        pub enum Check {
            $(#[doc = $sentence] $(#[$group])* $name,)+
        }

        impl Check {
            /// Every check, in the order of this list.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The sentence that holds when the check passes.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)+ }
            }

            /// The clause that asks for the check.
            pub fn clause(self) -> &'static str {
                match self { $(Self::$name => $clause,)+ }
            }

            /// The variant's name: stable, for machines.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

checks! {
    // ---- every platform
    Structure: "the evidence has its platform's form", "KBS protocol 0.4.0, tee-evidence";
    ReportData: "the evidence binds the nonce and the key of this session", "KBS protocol 0.4.0, runtime-data";
    InitData: "the platform's register holds the digest of the init-data that was sent", "CoCo init-data 0.1.0";
    Collateral: "the collateral that the verification needs was given", "the platform's own verification procedure";
    Devices: "the additional evidence is a map from device platforms to evidence", "KBS protocol 0.4.0, additional_evidence";

    // ---- AMD SEV-SNP (SEV Secure Nested Paging Firmware ABI, publication 56860, revision 1.58)
    SnpVersion: "the report has a version that names its processor: 3, 4 or 5", "56860, 7.3, VERSION";
    SnpProduct: "the report's processor is of a product line whose root is known", "56860, 7.3, CPUID_FAM_ID and CPUID_MOD_ID";
    SnpAlgorithm: "the report is signed with ECDSA on P-384 and SHA-384", "56860, 7.3, SIGNATURE_ALGO";
    SnpSigner: "the certificate is of the kind of key that signed the report", "56860, 7.3, KEY_INFO";
    SnpChain: "the signer's certificate leads to a trusted root of the product line", "57230, 2; RFC 5280, 6.1";
    SnpRevocation: "no certificate of the path is revoked", "57230, 4; RFC 5280, 6.3";
    SnpChipId: "the certificate was issued for the chip of the report", "57230, 3.1, hwID";
    SnpTcb: "the certificate was issued for the TCB version that the report reports", "57230, 3.1, spl";
    SnpSignature: "the certified key signed the report", "56860, 7.3, SIGNATURE";
    SnpTcbOrder: "neither the committed nor the reported TCB version is above the current one", "56860, 2.2";
    SnpVmpl: "the report was asked for at the most privileged level of the guest", "56860, 7.3, VMPL";

    // ---- Intel TDX and SGX
    QuoteVersion: "the quote has a version that its platform uses", "Intel TDX DCAP Quoting Library API rev 0.9, A.3; SGX ECDSA QuoteLibReference DCAP API, A.4 (tdx: 4 or 5, sgx: 3)";
    QuoteTeeType: "the quote's TEE type and report are those of its platform", "Intel TDX DCAP Quoting Library API rev 0.9, A.3; SGX ECDSA QuoteLibReference DCAP API, A.4";
    QuoteVendor: "the quote is one of Intel's quoting enclave", "Intel TDX DCAP Quoting Library API rev 0.9, A.3; SGX ECDSA QuoteLibReference DCAP API, A.4";
    QuoteKeyType: "the attestation key is an ECDSA P-256 key", "Intel TDX DCAP Quoting Library API rev 0.9, A.3; SGX ECDSA QuoteLibReference DCAP API, A.4";
    PckCertificates: "the quote carries a PCK certificate and its chain", "Intel TDX DCAP Quoting Library API rev 0.9, A.3; SGX ECDSA QuoteLibReference DCAP API, A.4; SGX PCK Certificate and CRL Profile Specification 1.3";
    IntelRoot: "the chain in the quote ends in a trusted root", "SGX ECDSA QuoteLibReference DCAP API, quote verification";
    PckChain: "the PCK certificate leads to that root, and is valid now", "SGX ECDSA QuoteLibReference DCAP API, quote verification; RFC 5280, 6.1";
    QeReportSignature: "the PCK signed the quoting enclave's report", "SGX ECDSA QuoteLibReference DCAP API, quote verification";
    QeReportData: "the quoting enclave's report binds the attestation key", "SGX ECDSA QuoteLibReference DCAP API, quote verification";
    QuoteSignature: "the attestation key signed the quote", "SGX ECDSA QuoteLibReference DCAP API, quote verification";
    RootCrl: "the root's revocation list is the root's own, and current", "Intel PCS API v4, root CA CRL; RFC 5280, 6.3.3";
    PckCrl: "the PCK revocation list is by the CA that issued the PCK certificate, and current", "Intel PCS API v4, pckcrl; RFC 5280, 6.3.3";
    PckRevocation: "neither the PCK certificate nor its CA is revoked", "SGX ECDSA QuoteLibReference DCAP API, quote verification; RFC 5280, 6.3.3";
    TcbInfoChain: "the signer of the TCB info was issued by the root, is valid now and is not revoked", "Intel PCS API v4, tcb";
    QeIdentityChain: "the signer of the QE identity was issued by the root, is valid now and is not revoked", "Intel PCS API v4, qe/identity";
    TcbInfoForm: "the TCB info has the PCS's form", "Intel PCS API v4, tcb";
    TcbInfoCurrent: "the TCB info is current", "Intel PCS API v4, tcb";
    TcbInfoSignature: "its signer signed the TCB info", "Intel PCS API v4, tcb";
    QeIdentityForm: "the QE identity has the PCS's form and is the platform's", "Intel PCS API v4, qe/identity";
    QeIdentityCurrent: "the QE identity is current", "Intel PCS API v4, qe/identity";
    QeIdentitySignature: "its signer signed the QE identity", "Intel PCS API v4, qe/identity";
    QeAuthenticationData: "the quoting enclave's authentication data has 32 bytes", "SGX ECDSA QuoteLibReference DCAP API, quote verification";
    QeIdentityMatch: "the quoting enclave's report is what the QE identity says", "SGX ECDSA QuoteLibReference DCAP API, quote verification, enclave identity checking";
    QeTcbLevel: "the quoting enclave meets a level of the QE identity", "SGX ECDSA QuoteLibReference DCAP API, quote verification, enclave identity checking";
    TcbInfoPlatform: "the TCB info is for the PCK certificate's FMSPC", "Intel PCS API v4, tcb";
    TdxModule: "the TDX module is what the TCB info says, and meets a level", "Intel PCS API v4, tcb: tdxModule and tdxModuleIdentities";
    TcbLevel: "the platform's SVNs meet a level of the TCB info", "Intel PCS API v4, tcb: determining the TCB level";
    TcbNotRevoked: "the level that the platform meets is not revoked", "Intel PCS API v4, tcb: determining the TCB level";
    ServiceTd: "no service TD is bound to the TD", "Intel TDX Module 1.5 ABI, TDINFO_STRUCT";
    TdAttributes: "the TD's attributes are ones that a verifier may accept", "Intel TDX Module 1.5 ABI, ATTRIBUTES";
    TcbInfoPce: "the TCB info is for the PCK certificate's PCE", "Intel PCS API v4, tcb";
    DcapProcedure: "nothing else in Intel's verification procedure objects", "SGX ECDSA QuoteLibReference DCAP API, quote verification";
    EventLogForm: "the event log has the form that its lengths say", "TCG PC Client Platform Firmware Profile 1.06, 10.2";
    EventLogRtmrs: "the event log, replayed, gives the quote's RTMRs", "UEFI 2.10, 38.4 (CC measurement registers)";

    // ---- TPM 2.0 quotes, Azure's vTPM included
    TpmMagic: "a TPM made the attestation: it begins with the TPM's magic value", "TPM 2.0 Library Part 2, TPM_GENERATED";
    TpmQuoteType: "the attestation is a quote", "TPM 2.0 Library Part 2, TPMI_ST_ATTEST";
    TpmSignatureScheme: "the signature's scheme and hash are those of the attestation key", "TPM 2.0 Library Part 2, 11.3";
    TpmSignature: "the attestation key signed the quote", "TPM 2.0 Library Part 3, TPM2_Quote";
    TpmPcrBank: "the quote covers the SHA-256 bank, and no other", "TPM 2.0 Library Part 2, TPML_PCR_SELECTION";
    TpmPcrSelection: "the quote selects PCRs, all of them below 24", "TPM 2.0 Library Part 2, TPMS_PCR_SELECTION";
    TpmPcrValues: "a value of the bank's length was sent for each selected PCR", "TPM 2.0 Library Part 1, PCR operations";
    TpmPcrDigest: "the values of the selected PCRs, in the order of their numbers, have the digest that was quoted", "TPM 2.0 Library Part 2, TPMS_QUOTE_INFO";
    TpmAkCertificate: "the attestation key's certificate is for this key and for quotes, and leads to a trusted root", "TCG EK and AK credential profiles; RFC 5280, 6.1";
    TpmAkAnchor: "the attestation key is known to be a TPM's", "TCG TPM 2.0 Keys for Device Identity and Attestation";
    AzureReportType: "the HCL report holds the report of the platform that was named", "Azure guest attestation, HCL report";
    AzureReportHash: "the HCL report binds its variable data with SHA-256", "Azure guest attestation, HCL report";
    AzureVariableData: "the hardware's report data is the digest of the variable data, and zeros", "Azure guest attestation, HCL report";
    AzureUserData: "the variable data's user-data is the report data of the quote, and zeros", "Azure guest attestation, HCL report, user-data";

    // ---- NVIDIA
    NvidiaArchitecture: "the device is of an architecture that is verified here", "NVIDIA attestation, device architectures";
    NvidiaChain: "the device's certificates lead to NVIDIA's device identity root and are valid", "RFC 5280, 6.1";
    NvidiaFwid: "the leaf certifies the firmware that the report names", "TCG DICE, CompositeDeviceID (2.23.133.5.4.1)";
    NvidiaSignature: "the leaf's key signed the request and the response", "DMTF DSP0274 1.1, GET_MEASUREMENTS";
    NvidiaDriverRim: "the driver's reference manifest is signed by NVIDIA, current, and of the driver's version", "TCG RIM Information Model 1.01; XML Signature 1.1";
    NvidiaVbiosRim: "the VBIOS's reference manifest is signed by NVIDIA, current, and of the VBIOS's version", "TCG RIM Information Model 1.01; XML Signature 1.1";
    NvidiaMeasurements: "each active measurement is one of those in the reference manifests", "TCG RIM Information Model 1.01, reference measurements";

}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// How one check ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StepOutcome {
    /// It held.
    Passed,
    /// It did not hold; the text says what was expected and what was found.
    Failed(String),
    /// It was not made, and why. A skip is not a pass.
    Skipped(String),
}

/// One check that ran, or that was skipped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// Which one.
    pub check: Check,
    /// How it ended.
    pub outcome: StepOutcome,
}

/// The checks of one verification, in the order in which they ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps(Vec<Step>);

impl Steps {
    /// Runs one check and records how it ended. What it returns is what its work returned.
    pub(crate) fn run<T>(
        &mut self,
        check: Check,
        work: impl FnOnce() -> Result<T, VerifyError>,
    ) -> Result<T, VerifyError> {
        let result = work();
        self.0.push(Step {
            check,
            outcome: match &result {
                Ok(_) => StepOutcome::Passed,
                Err(error) => StepOutcome::Failed(error.to_string()),
            },
        });
        result
    }

    /// Compares two values that print, and records the outcome.
    pub(crate) fn equal<T: PartialEq + fmt::Display>(
        &mut self,
        check: Check,
        expected: &T,
        actual: &T,
    ) -> Result<(), VerifyError> {
        self.run(check, || match expected == actual {
            true => Ok(()),
            false => Err(check.failed(expected, actual)),
        })
    }

    /// Records a check that was not made.
    pub(crate) fn skip(&mut self, check: Check, why: impl Into<String>) {
        self.0.push(Step {
            check,
            outcome: StepOutcome::Skipped(why.into()),
        });
    }

    pub(crate) fn into_list(self) -> Vec<Step> {
        self.0
    }
}

impl Check {
    /// The error of this check: what it expected and what it found.
    pub(crate) fn failed(
        self,
        expected: impl fmt::Display,
        actual: impl fmt::Display,
    ) -> VerifyError {
        VerifyError::Failed {
            check: self,
            expected: expected.to_string(),
            actual: actual.to_string(),
        }
    }
}
