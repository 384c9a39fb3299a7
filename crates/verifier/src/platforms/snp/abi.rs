//! Evidence of the `snp` platform: the JSON that upstream's attester writes, or a report's bytes alone.
//!
//! `{"attestation_report":{...},"cert_chain":[{"cert_type":"VCEK","data":[48,130,...]},...]|null}`, the report spelled
//! field by field. It is put back into the 1184 bytes that were signed, and only those are looked at afterwards.

use std::fmt;

use serde::Deserialize;
use serde::de::{SeqAccess, Visitor};

use super::report::{Report, Signer, malformed, product, tcb_bytes};
use crate::collateral::VcekTcb;
use crate::x509::Certificate;
use crate::{CollateralRequest, VerifyError};

/// Evidence, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct SnpEvidence {
    pub(crate) report: Report,
    /// The certificate of the key that is said to have signed the report.
    pub(crate) signer: Option<Certificate>,
    /// Certificates that may lie between that one and a root.
    pub(crate) intermediates: Vec<Certificate>,
}

impl SnpEvidence {
    /// Parses the JSON form.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, VerifyError> {
        if json.len() > MAX_JSON {
            return Err(malformed(format!(
                "{} bytes, at most {MAX_JSON}",
                json.len()
            )));
        }
        let text: Text = serde_json::from_slice(json).map_err(|e| malformed(e.to_string()))?;
        let mut evidence = Self::from_report(&text.attestation_report.to_bytes()?)?;
        let entries = text.cert_chain.unwrap_or_default();
        if entries.len() > MAX_CERTIFICATES {
            return Err(malformed(format!(
                "cert_chain has {} entries, at most {MAX_CERTIFICATES}",
                entries.len()
            )));
        }
        for entry in entries {
            evidence.add(&entry)?;
        }
        Ok(evidence)
    }

    /// Takes a report as the hardware gives it: 1184 bytes. The certificate of its signer comes from the collateral.
    pub(crate) fn from_report(bytes: &[u8]) -> Result<Self, VerifyError> {
        Ok(Self {
            report: Report::parse(bytes)?,
            signer: None,
            intermediates: Vec::new(),
        })
    }

    pub(crate) fn collateral_request(&self) -> CollateralRequest {
        self.report.wanted(self.signer.is_some()).collect()
    }

    fn add(&mut self, entry: &CertEntry) -> Result<(), VerifyError> {
        let Some(kind) = entry.cert_type.as_str() else {
            // Upstream spells further types, which the host may put into its table, as {"OTHER": "<uuid>"}.
            return Ok(());
        };
        let signer = match kind {
            "VCEK" => Some(Signer::Vcek),
            "VLEK" => Some(Signer::Vlek),
            "ASK" | "ARK" => None,
            "Empty" | "CRL" => return Ok(()),
            other => {
                return Err(malformed(format!(
                    "cert_chain has an entry of type {other:?}"
                )));
            }
        };
        let certificate = Certificate::from_der(&entry.data)
            .map_err(|e| malformed(format!("the {kind} certificate: {e}")))?;
        match signer {
            None => self.intermediates.push(certificate),
            Some(_) if self.signer.is_some() => {
                return Err(malformed(
                    "cert_chain names more than one signer".to_owned(),
                ));
            }
            Some(signer) if Signer::of(&certificate) != Some(signer) => {
                return Err(malformed(format!(
                    "cert_chain has a certificate of {} under {kind}",
                    certificate.subject()
                )));
            }
            Some(_) => self.signer = Some(certificate),
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Text {
    attestation_report: ReportText,
    #[serde(default)]
    cert_chain: Option<Vec<CertEntry>>,
}

#[derive(Deserialize)]
struct CertEntry {
    cert_type: serde_json::Value,
    data: Vec<u8>,
}

#[derive(Deserialize)]
struct ReportText {
    version: u32,
    guest_svn: u32,
    policy: u64,
    family_id: Ints<16>,
    image_id: Ints<16>,
    vmpl: u32,
    sig_algo: u32,
    current_tcb: TcbText,
    plat_info: u64,
    key_info: u32,
    report_data: Ints<64>,
    measurement: Ints<48>,
    host_data: Ints<32>,
    id_key_digest: Ints<48>,
    author_key_digest: Ints<48>,
    report_id: Ints<32>,
    report_id_ma: Ints<32>,
    reported_tcb: TcbText,
    #[serde(default)]
    cpuid_fam_id: Option<u8>,
    #[serde(default)]
    cpuid_mod_id: Option<u8>,
    #[serde(default)]
    cpuid_step: Option<u8>,
    chip_id: Ints<64>,
    committed_tcb: TcbText,
    current: FirmwareText,
    committed: FirmwareText,
    launch_tcb: TcbText,
    #[serde(default)]
    launch_mit_vector: Option<u64>,
    #[serde(default)]
    current_mit_vector: Option<u64>,
    signature: SignatureText,
}

impl ReportText {
    /// The bytes that the hardware gave, of which this is the spelling. Whatever it does not spell was zero.
    fn to_bytes(&self) -> Result<Vec<u8>, VerifyError> {
        let cpuid =
            [self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step].map(Option::unwrap_or_default);
        let product = match self.version {
            ..=2 => None,
            _ => product(cpuid),
        };
        let tcb = |tcb: &TcbText| {
            tcb_bytes(tcb.0, product).ok_or_else(|| {
                malformed(
                    "an FMC version belongs to Turin's TCB versions, and to no other".to_owned(),
                )
            })
        };
        let mut bytes = Vec::with_capacity(Report::LENGTH);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.guest_svn.to_le_bytes());
        bytes.extend(self.policy.to_le_bytes());
        bytes.extend(self.family_id.0);
        bytes.extend(self.image_id.0);
        bytes.extend(self.vmpl.to_le_bytes());
        bytes.extend(self.sig_algo.to_le_bytes());
        bytes.extend(tcb(&self.current_tcb)?);
        bytes.extend(self.plat_info.to_le_bytes());
        bytes.extend(self.key_info.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.report_data.0);
        bytes.extend(self.measurement.0);
        bytes.extend(self.host_data.0);
        bytes.extend(self.id_key_digest.0);
        bytes.extend(self.author_key_digest.0);
        bytes.extend(self.report_id.0);
        bytes.extend(self.report_id_ma.0);
        bytes.extend(tcb(&self.reported_tcb)?);
        bytes.extend(cpuid);
        bytes.extend([0; 21]);
        bytes.extend(self.chip_id.0);
        bytes.extend(tcb(&self.committed_tcb)?);
        for version in [&self.current, &self.committed] {
            bytes.extend([version.build, version.minor, version.major, 0]);
        }
        bytes.extend(tcb(&self.launch_tcb)?);
        for vector in [self.launch_mit_vector, self.current_mit_vector] {
            bytes.extend(vector.unwrap_or_default().to_le_bytes());
        }
        bytes.extend([0; 152]);
        bytes.extend(self.signature.r.0);
        bytes.extend(self.signature.s.0);
        bytes.resize(Report::LENGTH, 0);
        Ok(bytes)
    }
}

struct TcbText(VcekTcb);

impl<'de> Deserialize<'de> for TcbText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Members {
            #[serde(default)]
            fmc: Option<u8>,
            bootloader: u8,
            tee: u8,
            snp: u8,
            microcode: u8,
        }
        let members = Members::deserialize(deserializer)?;
        Ok(Self(VcekTcb {
            fmc: members.fmc,
            bootloader: members.bootloader,
            tee: members.tee,
            snp: members.snp,
            microcode: members.microcode,
        }))
    }
}

#[derive(Deserialize)]
struct FirmwareText {
    major: u8,
    minor: u8,
    build: u8,
}

#[derive(Deserialize)]
struct SignatureText {
    r: Ints<72>,
    s: Ints<72>,
}

/// Exactly `N` bytes, spelled as a list of numbers. A longer list is left after its first number too many.
struct Ints<const N: usize>([u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Ints<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Exactly<const N: usize>;

        impl<'de, const N: usize> Visitor<'de> for Exactly<N> {
            type Value = Ints<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of {N} bytes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                use serde::de::Error as _;
                let mut bytes = [0; N];
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = list
                        .next_element()?
                        .ok_or_else(|| A::Error::invalid_length(index, &self))?;
                }
                match list.next_element::<u8>()? {
                    None => Ok(Ints(bytes)),
                    Some(_) => Err(A::Error::invalid_length(N.saturating_add(1), &self)),
                }
            }
        }

        deserializer.deserialize_seq(Exactly)
    }
}

/// A report and four certificates, spelled with a line for each byte, have some 150 KiB.
const MAX_JSON: usize = 256 * 1024;
/// VCEK, ASK, ARK, and as many that are passed over.
const MAX_CERTIFICATES: usize = 6;
