//! What to do when a check refused evidence: to whom it matters, and whether it may be an attack.

use strongroom_verifier::Check;

/// What its owner should know of evidence that a check refused. No command lets such evidence in: verification has no
/// exceptions.
#[allow(clippy::too_many_lines)]
pub(super) fn advice(check: Check) -> &'static str {
    use Check as C;
    match check {
        C::ReportData => {
            "The evidence is genuine or not, but it was not made for this handshake: it is an older one played again (a \
             replay), or that of another machine passed on by one in between (a relay). Leave it denied, and look for who \
             sends it. An attester that was changed and hashes something else looks the same: `strongroom verify evidence` \
             shows both values."
        }
        C::InitData => {
            "The machine was started with another init-data than the one that the guest sent, or with none. Start it with \
             the digest of what it is to send (`strongroom initdata digest FILE`); if you did that, somebody changed the \
             file on its way, and it stays denied."
        }
        C::SnpSignature
        | C::QuoteSignature
        | C::QeReportSignature
        | C::QeReportData
        | C::TpmSignature
        | C::TpmPcrDigest
        | C::NvidiaSignature
        | C::NvidiaFwid
        | C::AzureReportHash
        | C::AzureVariableData
        | C::AzureUserData
        | C::EventLogRtmrs => {
            "The evidence is not what the hardware signed: it was changed afterwards, or put together from parts of \
             several. No honest attester makes it; leave it denied, and look at the machine that sent it."
        }
        C::SnpChipId => {
            "The certificate beside the report is another chip's. A cache of certificates that served two hosts does that, \
             and so does somebody who borrows a report; have the host's certificates fetched anew before anything else."
        }
        C::SnpChain
        | C::IntelRoot
        | C::PckChain
        | C::NvidiaChain
        | C::TpmAkCertificate
        | C::TpmAkAnchor => {
            "The signature leads to no root that this broker trusts, or no longer does. Evidence of a development root is \
             taken only where `[development]` names it, a TPM's only where `[anchors]` names its maker or its key; anybody \
             can make a root of his own, so name none that you did not get from its owner."
        }
        C::SnpRevocation | C::PckRevocation | C::TcbNotRevoked => {
            "The maker has revoked this machine, its certificate or its patch level: its keys count as known to others. \
             Leave it denied, and take the machine out of service until it is provisioned again."
        }
        C::SnpTcb => {
            "The certificate is for another firmware than the report: the host's firmware was updated or set back since \
             the certificate was fetched. The VCEK of the reported TCB is wanted (`strongroom broker collateral fetch`, or \
             the host's own cache)."
        }
        C::SnpTcbOrder => {
            "The report speaks of firmware newer than the one that runs: a genuine report cannot. Leave it denied."
        }
        C::Collateral
        | C::RootCrl
        | C::PckCrl
        | C::TcbInfoChain
        | C::TcbInfoForm
        | C::TcbInfoCurrent
        | C::TcbInfoSignature
        | C::TcbInfoPlatform
        | C::TcbInfoPce
        | C::QeIdentityChain
        | C::QeIdentityForm
        | C::QeIdentityCurrent
        | C::QeIdentitySignature
        | C::NvidiaDriverRim
        | C::NvidiaVbiosRim => {
            "Nothing is said against the machine: what its maker publishes about it is missing here, is out of date, or \
             does not belong to it. `strongroom broker collateral list` shows what is there, `strongroom broker collateral \
             fetch` brings it anew, and the guest passes when it attests again."
        }
        C::QeIdentityMatch | C::QeTcbLevel | C::TcbLevel | C::TdxModule => {
            "The platform's firmware, TDX module or quoting enclave is older than any that Intel still rates, or is none \
             of Intel's. Have the host updated; evidence below every rated level is not taken."
        }
        C::SnpVmpl => {
            "The report was asked for from a less privileged level of the guest, which speaks for what runs there and not \
             for the machine. Have the attester ask at VMPL 0."
        }
        C::ServiceTd => {
            "Another TD is bound to this one, and may take it elsewhere or speak for it: leave it denied."
        }
        C::TdAttributes => {
            "The TD was started with attributes that let its host look inside or that nobody knows, as for debugging: \
             leave it denied, and start it without them."
        }
        C::NvidiaMeasurements => {
            "The device runs something that NVIDIA's manifests for its driver and VBIOS do not know. Leave it denied; if \
             driver or VBIOS were updated just now, have the manifests fetched anew (`strongroom broker collateral fetch`)."
        }
        C::TpmMagic | C::TpmQuoteType => {
            "What was signed is no quote by a TPM: a key that signs other things as well can be made to sign anything. \
             Leave it denied."
        }
        C::TpmPcrBank | C::TpmPcrSelection | C::TpmPcrValues => {
            "The quote does not cover the registers that it should, so it says nothing about what was started. Have the \
             attester quote the SHA-256 bank and send each selected register's value."
        }
        C::Devices => {
            "The devices are not those that the machine vouches for, or stand where a machine's own evidence should: a \
             device may have been lent by another machine. Leave it denied unless the attester is known to be at fault."
        }
        C::Structure
        | C::SnpVersion
        | C::SnpProduct
        | C::SnpAlgorithm
        | C::SnpSigner
        | C::QuoteVersion
        | C::QuoteTeeType
        | C::QuoteVendor
        | C::QuoteKeyType
        | C::PckCertificates
        | C::QeAuthenticationData
        | C::DcapProcedure
        | C::EventLogForm
        | C::TpmSignatureScheme
        | C::AzureReportType
        | C::NvidiaArchitecture => {
            "The evidence is not of a form that this version verifies: a guest, firmware or device of another generation, \
             or bytes that nobody's attester wrote. Update whichever is older; `strongroom verify evidence` tells where it \
             ends."
        }
        // The list of checks belongs to the verifier; a test goes through all of it.
        _ => "",
    }
}
