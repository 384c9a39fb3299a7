//! Attestation reports of AMD SEV-SNP and the certificates that vouch for them, for development.
//!
//! SEV Secure Nested Paging Firmware ABI (publication 56860), table 23; VCEK Certificate and KDS Interface
//! (publication 57230) for the certificates. The JSON is that of the `sev` crate, as the KBS protocol carries it.

use rcgen::CustomExtension;
use serde_json::{Value, json};

use super::root::{Profile, Role, to_pem};
use super::{DevelopmentError, DevelopmentRoot, Tampering, der, tamper};
use crate::snp::report_json;

/// One attestation report: honest as it is made, and every field to change.
#[derive(Clone, Debug)]
pub struct Forge {
    /// The root whose keys sign.
    pub root: DevelopmentRoot,
    /// The product line that the certificates name.
    pub product: Product,
    /// The report's fields.
    pub report: ReportFields,
    /// The fields of the certificate of the key that signs the report.
    pub certificate: CertificateFields,
    /// Which key signs. `key_info` in the report says so too and is a field of its own.
    pub signer: Signer,
    /// Bits of the report that are turned after it was signed.
    pub tampering: Tampering,
    /// Whether the evidence brings its certificates.
    pub with_certificates: bool,
}

impl Forge {
    /// A report of version 3 of a Milan processor, signed by a VCEK.
    pub fn new(root: &DevelopmentRoot) -> Self {
        Self::of(root, Product::Milan)
    }

    /// A report of that product line: version 3, of Turin version 5.
    pub fn of(root: &DevelopmentRoot, product: Product) -> Self {
        let tcb = Tcb {
            fmc: (product == Product::Turin).then_some(1),
            bootloader: 3,
            tee: 0,
            snp: 8,
            microcode: 72,
        };
        let mut chip_id = root.identity("chip");
        if product == Product::Turin {
            chip_id.iter_mut().skip(8).for_each(|byte| *byte = 0);
        }
        let (cpuid_fam_id, cpuid_mod_id, cpuid_step) = product.cpuid();
        Self {
            root: root.clone(),
            product,
            report: ReportFields {
                version: if product == Product::Turin { 5 } else { 3 },
                guest_svn: 0,
                // ABI 0.0; SMT is allowed, and the bit that is always 1.
                policy: 0x3_0000,
                family_id: [0; 16],
                image_id: [0; 16],
                vmpl: 0,
                sig_algo: 1,
                current_tcb: tcb,
                // SMT is on, TSME is off.
                plat_info: 1,
                key_info: 0,
                report_data: [0; 64],
                measurement: super::sha384(b"strongroom development guest"),
                host_data: [0; 32],
                id_key_digest: [0; 48],
                author_key_digest: [0; 48],
                report_id: super::sha256(&root.identity("report")),
                report_id_ma: [0xff; 32],
                reported_tcb: tcb,
                cpuid_fam_id,
                cpuid_mod_id,
                cpuid_step,
                chip_id,
                committed_tcb: tcb,
                current: Firmware::DEFAULT,
                committed: Firmware::DEFAULT,
                launch_tcb: tcb,
                launch_mit_vector: 0,
                current_mit_vector: 0,
            },
            certificate: CertificateFields {
                product_name: format!("{product}-B0"),
                tcb,
                hwid: match product {
                    Product::Turin => chip_id.iter().take(8).copied().collect(),
                    _ => chip_id.to_vec(),
                },
                wrapped_hwid: false,
                csp_id: None,
                not_before: root.not_before(),
                not_after: root.not_after(),
                issuer: CertificateIssuer::Intermediate,
            },
            signer: Signer::Vcek,
            tampering: Vec::new(),
            with_certificates: true,
        }
    }

    /// The same, signed by a VLEK, as a cloud provider's machines do: report and certificate then name no chip.
    #[must_use]
    pub fn with_vlek(mut self) -> Self {
        self.signer = Signer::Vlek;
        self.report.key_info = 1 << 2;
        self.report.chip_id = [0; 64];
        self.certificate.hwid = Vec::new();
        self.certificate.csp_id = Some("strongroom-development".to_owned());
        self.certificate.product_name = self.product.to_string();
        self
    }

    /// The report data: at most 64 bytes, padded with zeros.
    #[must_use]
    pub fn with_report_data(mut self, report_data: &[u8]) -> Self {
        self.report.report_data = super::fitted(report_data);
        self
    }

    /// The digest of the init-data, fitted into `HOST_DATA`.
    #[must_use]
    pub fn with_initdata(mut self, digest: &[u8]) -> Self {
        self.report.host_data = super::fitted(digest);
        self
    }

    /// The report: 1184 bytes.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn report_bytes(&self) -> Result<Vec<u8>, DevelopmentError> {
        let mut report = self.report.to_bytes();
        let key = self.root.key(self.signer.role());
        let signature = key.sign(&report)?;
        let (r, s) = signature.split_at(signature.len() / 2);
        for number in [r, s] {
            let mut field = [0; 72];
            for (to, from) in field.iter_mut().zip(number.iter().rev()) {
                *to = *from;
            }
            report.extend_from_slice(&field);
        }
        report.resize(REPORT_LENGTH, 0);
        tamper(&mut report, &self.tampering);
        Ok(report)
    }

    /// The evidence of the KBS protocol's platform `snp`.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn evidence_json(&self) -> Result<String, DevelopmentError> {
        let report = self.report_bytes()?;
        let report = report_json(&report).ok_or(DevelopmentError::Length {
            field: "an attestation report",
            actual: report.len(),
            expected: "1184",
        })?;
        let chain = match self.with_certificates {
            false => Value::Null,
            true => {
                let kind = match self.signer {
                    Signer::Vcek => "VCEK",
                    Signer::Vlek => "VLEK",
                };
                let mut chain = vec![json!({ "cert_type": kind, "data": self.certificate_der()? })];
                if self.certificate.issuer == CertificateIssuer::Intermediate {
                    chain.push(json!({ "cert_type": "ASK", "data": self.ask_der()? }));
                }
                Value::Array(chain)
            }
        };
        Ok(json!({ "attestation_report": report, "cert_chain": chain }).to_string())
    }

    /// The certificate of the key that signs the report.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn certificate_der(&self) -> Result<Vec<u8>, DevelopmentError> {
        let fields = &self.certificate;
        let name = match self.signer {
            Signer::Vcek => "SEV-VCEK",
            Signer::Vlek => "SEV-VLEK",
        };
        let profile = Profile {
            // AMD's certificates all have this number.
            serial: Some(&[0]),
            extensions: fields.extensions(),
            ..Profile::new(name, fields.not_before, fields.not_after)
        };
        let subject = &self.root.key(self.signer.role()).certified;
        match fields.issuer {
            CertificateIssuer::Root => self.root.issue(&profile, subject),
            CertificateIssuer::Intermediate => {
                profile.signed_by(&self.ask_name(), self.root.key(Role::AmdSigning), subject)
            }
        }
    }

    /// The same as PEM.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn certificate_pem(&self) -> Result<String, DevelopmentError> {
        Ok(to_pem(&self.certificate_der()?))
    }

    /// The certificate between: the product line's ASK, or its ASVK for a VLEK.
    ///
    /// # Errors
    /// [`DevelopmentError::Signing`].
    pub fn ask_der(&self) -> Result<Vec<u8>, DevelopmentError> {
        self.root.intermediate(&self.ask_name(), Role::AmdSigning)
    }

    fn ask_name(&self) -> String {
        match self.signer {
            Signer::Vcek => format!("SEV-{}", self.product),
            Signer::Vlek => format!("SEV-VLEK-{}", self.product),
        }
    }
}

/// The product lines that a report can be of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// Every product line.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// Family, model and stepping of one processor of the line.
    fn cpuid(self) -> (u8, u8, u8) {
        match self {
            Self::Milan => (0x19, 0x01, 1),
            Self::Genoa => (0x19, 0x11, 1),
            Self::Turin => (0x1a, 0x02, 1),
        }
    }
}

impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        })
    }
}

/// The key that signs a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Signer {
    /// The versioned chip endorsement key.
    Vcek,
    /// The versioned loaded endorsement key.
    Vlek,
}

impl Signer {
    fn role(self) -> Role {
        match self {
            Self::Vcek => Role::Vcek,
            Self::Vlek => Role::Vlek,
        }
    }
}

/// Who issues the certificate of the signing key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertificateIssuer {
    /// The root, for where evidence has room for one certificate.
    Root,
    /// A certificate between, as AMD does.
    Intermediate,
}

/// `ATTESTATION_REPORT` without its signature (56860, table 23).
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct ReportFields {
    pub version: u32,
    pub guest_svn: u32,
    pub policy: u64,
    pub family_id: [u8; 16],
    pub image_id: [u8; 16],
    pub vmpl: u32,
    pub sig_algo: u32,
    pub current_tcb: Tcb,
    pub plat_info: u64,
    pub key_info: u32,
    pub report_data: [u8; 64],
    pub measurement: [u8; 48],
    pub host_data: [u8; 32],
    pub id_key_digest: [u8; 48],
    pub author_key_digest: [u8; 48],
    pub report_id: [u8; 32],
    pub report_id_ma: [u8; 32],
    pub reported_tcb: Tcb,
    pub cpuid_fam_id: u8,
    pub cpuid_mod_id: u8,
    pub cpuid_step: u8,
    pub chip_id: [u8; 64],
    pub committed_tcb: Tcb,
    pub current: Firmware,
    pub committed: Firmware,
    pub launch_tcb: Tcb,
    /// From version 5 on.
    pub launch_mit_vector: u64,
    /// From version 5 on.
    pub current_mit_vector: u64,
}

impl ReportFields {
    /// The part that is signed: 672 bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(REPORT_LENGTH);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.guest_svn.to_le_bytes());
        out.extend_from_slice(&self.policy.to_le_bytes());
        out.extend_from_slice(&self.family_id);
        out.extend_from_slice(&self.image_id);
        out.extend_from_slice(&self.vmpl.to_le_bytes());
        out.extend_from_slice(&self.sig_algo.to_le_bytes());
        out.extend_from_slice(&self.current_tcb.to_bytes());
        out.extend_from_slice(&self.plat_info.to_le_bytes());
        out.extend_from_slice(&self.key_info.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.report_data);
        out.extend_from_slice(&self.measurement);
        out.extend_from_slice(&self.host_data);
        out.extend_from_slice(&self.id_key_digest);
        out.extend_from_slice(&self.author_key_digest);
        out.extend_from_slice(&self.report_id);
        out.extend_from_slice(&self.report_id_ma);
        out.extend_from_slice(&self.reported_tcb.to_bytes());
        // Version 2 has no CPUID here.
        if self.version >= 3 {
            out.extend_from_slice(&[self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step]);
        }
        out.resize(CHIP_ID, 0);
        out.extend_from_slice(&self.chip_id);
        out.extend_from_slice(&self.committed_tcb.to_bytes());
        out.extend_from_slice(&self.current.to_bytes());
        out.extend_from_slice(&self.committed.to_bytes());
        out.extend_from_slice(&self.launch_tcb.to_bytes());
        if self.version >= 5 {
            out.extend_from_slice(&self.launch_mit_vector.to_le_bytes());
            out.extend_from_slice(&self.current_mit_vector.to_le_bytes());
        }
        out.resize(SIGNED_LENGTH, 0);
        out
    }
}

/// `TCB_VERSION` (56860, tables 3 and 4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Tcb {
    /// On Turin; its presence decides between the two layouts.
    pub fmc: Option<u8>,
    pub bootloader: u8,
    pub tee: u8,
    pub snp: u8,
    pub microcode: u8,
}

impl Tcb {
    fn to_bytes(self) -> [u8; 8] {
        match self.fmc {
            None => [
                self.bootloader,
                self.tee,
                0,
                0,
                0,
                0,
                self.snp,
                self.microcode,
            ],
            Some(fmc) => [
                fmc,
                self.bootloader,
                self.tee,
                self.snp,
                0,
                0,
                0,
                self.microcode,
            ],
        }
    }
}

/// A version of the SNP firmware.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Firmware {
    pub major: u8,
    pub minor: u8,
    pub build: u8,
}

impl Firmware {
    const DEFAULT: Self = Self {
        major: 1,
        minor: 55,
        build: 21,
    };

    fn to_bytes(self) -> [u8; 4] {
        [self.build, self.minor, self.major, 0]
    }
}

/// What the certificate of a signing key says (57230, table 8 and 9).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFields {
    /// The product and its stepping, such as `Milan-B0`; of a VLEK without the stepping.
    pub product_name: String,
    /// The TCB for which the key was derived.
    pub tcb: Tcb,
    /// The chip: 64 bytes, on Turin 8, none for a VLEK.
    pub hwid: Vec<u8>,
    /// Whether the chip is wrapped into an OCTET STRING of its own, as older certificates have it not.
    pub wrapped_hwid: bool,
    /// The cloud provider, for a VLEK.
    pub csp_id: Option<String>,
    /// The first second at which it is valid, since 1970.
    pub not_before: u64,
    /// The last.
    pub not_after: u64,
    /// Who issues it.
    pub issuer: CertificateIssuer,
}

impl CertificateFields {
    fn extensions(&self) -> Vec<CustomExtension> {
        let extension = |arcs: &[u64], content: Vec<u8>| {
            CustomExtension::from_oid_content(&[AMD, arcs].concat(), content)
        };
        let spl = |number: u64, svn: u8| extension(&[3, number], der::integer(u64::from(svn)));
        let mut all = vec![
            extension(&[1], der::integer(u64::from(self.tcb.fmc.is_some()))),
            extension(&[2], der::ia5(&self.product_name)),
            spl(1, self.tcb.bootloader),
            spl(2, self.tcb.tee),
            spl(4, 0),
            spl(5, 0),
            spl(6, 0),
            spl(7, 0),
            spl(3, self.tcb.snp),
            spl(8, self.tcb.microcode),
        ];
        all.extend(self.tcb.fmc.map(|fmc| spl(9, fmc)));
        if !self.hwid.is_empty() {
            let hwid = match self.wrapped_hwid {
                true => der::octets(&self.hwid),
                false => self.hwid.clone(),
            };
            all.push(extension(&[4], hwid));
        }
        all.extend(self.csp_id.iter().map(|csp| extension(&[5], der::ia5(csp))));
        all
    }
}

/// What a folder keeps of AMD's collateral: the default chip's certificate of each product line, and the root's list.
pub(crate) fn collateral(
    root: &DevelopmentRoot,
) -> Result<Vec<(String, Vec<u8>)>, DevelopmentError> {
    let mut files = Vec::new();
    for product in Product::ALL {
        let mut forge = Forge::of(root, product);
        // A key distribution service sends one certificate.
        forge.certificate.issuer = CertificateIssuer::Root;
        let Tcb {
            fmc,
            bootloader,
            tee,
            snp,
            microcode,
        } = forge.certificate.tcb;
        let folder = product.to_string().to_lowercase();
        let fmc = fmc.map_or_else(String::new, |fmc| format!("_fmc{fmc:02}"));
        files.push((
            format!(
                "amd/{folder}/vcek_{}_bl{bootloader:02}_tee{tee:02}_snp{snp:02}_ucode{microcode:02}{fmc}.der",
                hex::encode(&forge.certificate.hwid)
            ),
            forge.certificate_der()?,
        ));
        files.push((format!("amd/{folder}/crl.der"), root.crl(&[])?));
    }
    Ok(files)
}

const AMD: &[u64] = &[1, 3, 6, 1, 4, 1, 3704, 1];
const REPORT_LENGTH: usize = 1184;
const SIGNED_LENGTH: usize = 0x2a0;
const CHIP_ID: usize = 0x1a0;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn report_has_its_fields_where_the_abi_puts_them() {
        let root = DevelopmentRoot::generate(NOW).unwrap();
        let mut forge = Forge::new(&root)
            .with_report_data(b"abc")
            .with_initdata(&[7; 48]);
        forge.report.measurement = [9; 48];
        let report = forge.report_bytes().unwrap();
        assert_eq!(report.len(), 1184);
        assert_eq!(report[0x050..0x054], *b"abc\0");
        assert_eq!(report[0x090..0x0c0], [9; 48]);
        assert_eq!(report[0x0c0..0x0e0], [7; 32]);
        assert_eq!(report[0x180..0x188], [3, 0, 0, 0, 0, 0, 8, 72]);
        assert_eq!(report[0x1a0..0x1e0], forge.report.chip_id);
        assert_eq!(report[0x1f0..0x1f8], [3, 0, 0, 0, 0, 0, 8, 72]);
    }

    #[test]
    fn report_verifies_with_the_certified_key() {
        use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
        use rcgen::PublicKeyData as _;
        let root = DevelopmentRoot::generate(NOW).unwrap();
        for forge in Product::ALL.map(|product| Forge::of(&root, product)) {
            let report = forge.report_bytes().unwrap();
            let (signed, signature) = report.split_at(SIGNED_LENGTH);
            let number = |at: usize| signature[at..at + 48].iter().rev().copied();
            let signature: Vec<u8> = number(0).chain(number(72)).collect();
            let point = root.key(Role::Vcek).certified.der_bytes();
            UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
                .verify(signed, &signature)
                .unwrap();
        }
    }

    #[test]
    fn json_follows_the_bytes_that_were_tampered_with() {
        let root = DevelopmentRoot::generate(NOW).unwrap();
        let mut forge = Forge::of(&root, Product::Turin);
        forge.tampering = vec![(0x090, 1), (0xffff, 1)];
        let json: Value = serde_json::from_str(&forge.evidence_json().unwrap()).unwrap();
        let report = &json["attestation_report"];
        assert_eq!(
            report["measurement"][0],
            json!(forge.report.measurement[0] ^ 1)
        );
        assert_eq!(report["reported_tcb"]["fmc"], json!(1));
        assert_eq!(report["current_mit_vector"], json!(0));
        assert_eq!(json["cert_chain"][1]["cert_type"], json!("ASK"));
    }
}
