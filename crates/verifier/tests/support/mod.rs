//! What the tests of SNP evidence share: a report's fields by their place in its bytes, its JSON form, and a forger
//! with a development root.
#![allow(dead_code, unreachable_pub)]

use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, RevokedCertParams, SerialNumber, date_time_ymd,
};
use serde_json::{Value, json};
use strongroom_verifier::TrustAnchors;

/// Reads a recorded file, or says that it is not beside the checkout.
pub fn fixture(name: &str) -> Option<Vec<u8>> {
    let root = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/trustee"
    );
    let file = PathBuf::from(root).join(name);
    match std::fs::read(&file) {
        Ok(bytes) => Some(bytes),
        Err(_) => {
            assert!(
                !std::path::Path::new(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../../../shared/fixtures"
                ))
                .is_dir(),
                "what this test reads is missing from a folder of fixtures that is there"
            );
            println!("SKIPPED: fixture {name} is not beside this checkout");
            None
        }
    }
}

/// Where the fields of a report lie (SEV-SNP Firmware ABI, section 7.3).
pub mod at {
    pub const VERSION: usize = 0x000;
    pub const GUEST_SVN: usize = 0x004;
    pub const POLICY: usize = 0x008;
    pub const FAMILY_ID: usize = 0x010;
    pub const IMAGE_ID: usize = 0x020;
    pub const VMPL: usize = 0x030;
    pub const SIGNATURE_ALGO: usize = 0x034;
    pub const CURRENT_TCB: usize = 0x038;
    pub const PLATFORM_INFO: usize = 0x040;
    pub const KEY_INFO: usize = 0x048;
    pub const REPORT_DATA: usize = 0x050;
    pub const MEASUREMENT: usize = 0x090;
    pub const HOST_DATA: usize = 0x0C0;
    pub const ID_KEY_DIGEST: usize = 0x0E0;
    pub const AUTHOR_KEY_DIGEST: usize = 0x110;
    pub const REPORT_ID: usize = 0x140;
    pub const REPORT_ID_MA: usize = 0x160;
    pub const REPORTED_TCB: usize = 0x180;
    pub const CPUID: usize = 0x188;
    pub const CHIP_ID: usize = 0x1A0;
    pub const COMMITTED_TCB: usize = 0x1E0;
    pub const CURRENT: usize = 0x1E8;
    pub const COMMITTED: usize = 0x1EC;
    pub const LAUNCH_TCB: usize = 0x1F0;
    pub const LAUNCH_MIT_VECTOR: usize = 0x1F8;
    pub const CURRENT_MIT_VECTOR: usize = 0x200;
    pub const SIGNATURE: usize = 0x2A0;
    pub const LENGTH: usize = 0x4A0;
}

pub fn put(report: &mut [u8], at: usize, bytes: &[u8]) {
    report[at..at + bytes.len()].copy_from_slice(bytes);
}

fn ints(report: &[u8], at: usize, length: usize) -> Value {
    json!(report[at..at + length])
}

fn word(report: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(report[at..at + 4].try_into().unwrap())
}

fn long(report: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(report[at..at + 8].try_into().unwrap())
}

/// Spells a report as upstream's attester does.
pub fn report_json(report: &[u8]) -> Value {
    let turin = report[at::CPUID] == 0x1A;
    let tcb = |at: usize| {
        let tcb = &report[at..at + 8];
        match turin {
            true => {
                json!({"fmc": tcb[0], "bootloader": tcb[1], "tee": tcb[2], "snp": tcb[3], "microcode": tcb[7]})
            }
            false => {
                json!({"fmc": null, "bootloader": tcb[0], "tee": tcb[1], "snp": tcb[6], "microcode": tcb[7]})
            }
        }
    };
    let firmware =
        |at: usize| json!({"build": report[at], "minor": report[at + 1], "major": report[at + 2]});
    let mut value = json!({
        "version": word(report, at::VERSION),
        "guest_svn": word(report, at::GUEST_SVN),
        "policy": long(report, at::POLICY),
        "family_id": ints(report, at::FAMILY_ID, 16),
        "image_id": ints(report, at::IMAGE_ID, 16),
        "vmpl": word(report, at::VMPL),
        "sig_algo": word(report, at::SIGNATURE_ALGO),
        "current_tcb": tcb(at::CURRENT_TCB),
        "plat_info": long(report, at::PLATFORM_INFO),
        "key_info": word(report, at::KEY_INFO),
        "report_data": ints(report, at::REPORT_DATA, 64),
        "measurement": ints(report, at::MEASUREMENT, 48),
        "host_data": ints(report, at::HOST_DATA, 32),
        "id_key_digest": ints(report, at::ID_KEY_DIGEST, 48),
        "author_key_digest": ints(report, at::AUTHOR_KEY_DIGEST, 48),
        "report_id": ints(report, at::REPORT_ID, 32),
        "report_id_ma": ints(report, at::REPORT_ID_MA, 32),
        "reported_tcb": tcb(at::REPORTED_TCB),
        "cpuid_fam_id": report[at::CPUID],
        "cpuid_mod_id": report[at::CPUID + 1],
        "cpuid_step": report[at::CPUID + 2],
        "chip_id": ints(report, at::CHIP_ID, 64),
        "committed_tcb": tcb(at::COMMITTED_TCB),
        "current": firmware(at::CURRENT),
        "committed": firmware(at::COMMITTED),
        "launch_tcb": tcb(at::LAUNCH_TCB),
        "signature": {"r": ints(report, at::SIGNATURE, 72), "s": ints(report, at::SIGNATURE + 72, 72)},
    });
    if word(report, at::VERSION) <= 2 {
        for name in ["cpuid_fam_id", "cpuid_mod_id", "cpuid_step"] {
            value[name] = Value::Null;
        }
    }
    if word(report, at::VERSION) >= 5 {
        value["launch_mit_vector"] = json!(long(report, at::LAUNCH_MIT_VECTOR));
        value["current_mit_vector"] = json!(long(report, at::CURRENT_MIT_VECTOR));
    }
    value
}

/// A report with its certificates, as upstream's attester sends them.
pub fn evidence_json(report: &[u8], chain: &[(&str, &[u8])]) -> Vec<u8> {
    let chain: Vec<_> = chain
        .iter()
        .map(|(kind, der)| json!({"cert_type": kind, "data": der}))
        .collect();
    let value = json!({"attestation_report": report_json(report), "cert_chain": chain});
    serde_json::to_vec(&value).unwrap()
}

/// What a forged chain and report are made of. Each test changes one member.
pub struct Forge {
    pub ask: CertificateParams,
    pub leaf: CertificateParams,
    /// The extensions of the leaf by the last arcs of their OIDs under AMD's 1.3.6.1.4.1.3704.1.
    pub extensions: Vec<(Vec<u64>, Vec<u8>)>,
    /// The report, unsigned.
    pub report: Vec<u8>,
    pub leaf_is_p256: bool,
    pub root: Root,
}

/// A development root.
pub struct Root {
    pub params: CertificateParams,
    pub key: KeyPair,
}

impl Root {
    pub fn new() -> Self {
        Self {
            params: params("Development root", Some(KeyUsagePurpose::CrlSign)),
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        }
    }

    pub fn anchors(&self) -> TrustAnchors {
        let pem = self.params.self_signed(&self.key).unwrap().pem();
        TrustAnchors::none().with_development_root(&pem).unwrap()
    }

    /// A list of revoked serial numbers, current from December 2025 to January 2026.
    pub fn crl(&self, revoked: &[u64]) -> Vec<u8> {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 12, 1),
            next_update: date_time_ymd(2026, 2, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|number| RevokedCertParams {
                    serial_number: SerialNumber::from(*number),
                    revocation_time: date_time_ymd(2025, 11, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        list.signed_by(&issuer).unwrap().der().to_vec()
    }
}

pub fn params(name: &str, ca: Option<KeyUsagePurpose>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2032, 1, 1);
    // AMD's leaves have the number 0.
    params.serial_number = Some(SerialNumber::from(0_u64));
    if let Some(also) = ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, also];
        params.serial_number = Some(SerialNumber::from(77_u64));
    }
    params
}

pub const CHIP: [u8; 64] = [0x5C; 64];

impl Forge {
    /// A Milan machine's report, signed by its VCEK.
    pub fn milan() -> Self {
        let mut report = vec![0; at::LENGTH];
        put(&mut report, at::VERSION, &[3]);
        put(&mut report, at::POLICY, &0x3_001F_u64.to_le_bytes());
        put(&mut report, at::SIGNATURE_ALGO, &[1]);
        put(&mut report, at::PLATFORM_INFO, &[0x25]);
        put(&mut report, at::REPORT_DATA, &[0xD1; 48]);
        put(&mut report, at::MEASUREMENT, &[0xA5; 48]);
        put(&mut report, at::REPORT_ID_MA, &[0xFF; 32]);
        put(&mut report, at::CPUID, &[0x19, 0x01, 0x01]);
        put(&mut report, at::CHIP_ID, &CHIP);
        put(&mut report, at::CURRENT, &[29, 55, 1]);
        put(&mut report, at::COMMITTED, &[29, 55, 1]);
        for tcb in [
            at::CURRENT_TCB,
            at::REPORTED_TCB,
            at::COMMITTED_TCB,
            at::LAUNCH_TCB,
        ] {
            put(&mut report, tcb, &[4, 0, 0, 0, 0, 0, 24, 219]);
        }
        let mut ask = params("SEV-Milan", Some(KeyUsagePurpose::DigitalSignature));
        ask.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ask.serial_number = Some(SerialNumber::from(65_537_u64));
        Self {
            ask,
            leaf: params("SEV-VCEK", None),
            extensions: vec![
                (vec![3, 1], vec![2, 1, 4]),
                (vec![3, 2], vec![2, 1, 0]),
                (vec![3, 3], vec![2, 1, 24]),
                (vec![3, 8], vec![2, 2, 0, 219]),
                (vec![4], CHIP.to_vec()),
            ],
            report,
            leaf_is_p256: false,
            root: Root::new(),
        }
    }

    /// A Genoa machine's.
    pub fn genoa() -> Self {
        let mut forge = Self::milan();
        put(&mut forge.report, at::CPUID, &[0x19, 0xA0, 0x02]);
        forge.signed_under("SEV-Genoa")
    }

    /// A Turin machine's, with report version 5: a chip id of 8 bytes, TCB versions with an FMC.
    pub fn turin() -> Self {
        let mut forge = Self::milan();
        put(&mut forge.report, at::VERSION, &[5]);
        put(&mut forge.report, at::CPUID, &[0x1A, 0x02, 0x01]);
        put(
            &mut forge.report,
            at::CHIP_ID,
            &[
                [0x5C; 8], [0; 8], [0; 8], [0; 8], [0; 8], [0; 8], [0; 8], [0; 8],
            ]
            .concat(),
        );
        put(&mut forge.report, at::LAUNCH_MIT_VECTOR, &[3]);
        put(&mut forge.report, at::CURRENT_MIT_VECTOR, &[7]);
        for tcb in [
            at::CURRENT_TCB,
            at::REPORTED_TCB,
            at::COMMITTED_TCB,
            at::LAUNCH_TCB,
        ] {
            put(&mut forge.report, tcb, &[2, 4, 0, 24, 0, 0, 0, 219]);
        }
        forge.extension(&[3, 9], Some(vec![2, 1, 2]));
        forge.extension(&[4], Some(vec![0x5C; 8]));
        forge.signed_under("SEV-Turin")
    }

    /// As a cloud that hides its chips sends it: signed by a VLEK.
    pub fn vlek() -> Self {
        let mut forge = Self::milan();
        put(&mut forge.report, at::CHIP_ID, &[0; 64]);
        put(&mut forge.report, at::KEY_INFO, &[1 << 2]);
        forge.extension(&[4], None);
        forge.extension(&[5], Some(b"\x16\x0aCN=a-cloud".to_vec()));
        forge.leaf.distinguished_name = DistinguishedName::new();
        forge
            .leaf
            .distinguished_name
            .push(DnType::CommonName, "SEV-VLEK");
        forge.signed_under("SEV-VLEK-Milan")
    }

    /// Names the certificate between root and leaf.
    pub fn signed_under(mut self, name: &str) -> Self {
        self.ask.distinguished_name = DistinguishedName::new();
        self.ask.distinguished_name.push(DnType::CommonName, name);
        self
    }

    /// Replaces, adds or removes an extension of the leaf.
    pub fn extension(&mut self, arcs: &[u64], value: Option<Vec<u8>>) {
        self.extensions.retain(|(old, _)| old != arcs);
        if let Some(value) = value {
            self.extensions.push((arcs.to_vec(), value));
        }
    }

    /// Writes into the report before it is signed.
    pub fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        put(&mut self.report, at, bytes);
        self
    }

    /// Makes the certificates and signs the report.
    pub fn make(mut self) -> Forged {
        self.leaf
            .custom_extensions
            .extend(self.extensions.iter().map(|(arcs, value)| {
                let oid: Vec<u64> = [&[1, 3, 6, 1, 4, 1, 3704, 1], arcs.as_slice()].concat();
                CustomExtension::from_oid_content(&oid, value.clone())
            }));
        let ask_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let kind = match self.leaf_is_p256 {
            true => &PKCS_ECDSA_P256_SHA256,
            false => &PKCS_ECDSA_P384_SHA384,
        };
        let leaf_key = KeyPair::generate_for(kind).unwrap();
        let root = Issuer::from_params(&self.root.params, &self.root.key);
        let ask = self.ask.signed_by(&ask_key, &root).unwrap();
        let issuer = Issuer::from_params(&self.ask, &ask_key);
        let leaf = self.leaf.signed_by(&leaf_key, &issuer).unwrap();
        if !self.leaf_is_p256 {
            sign(&mut self.report, &leaf_key);
        }
        let kind = match self.leaf.distinguished_name.get(&DnType::CommonName) {
            Some(rcgen::DnValue::Utf8String(name)) if name.as_str() == "SEV-VLEK" => "VLEK",
            _ => "VCEK",
        };
        Forged {
            report: self.report,
            kind,
            leaf: leaf.der().to_vec(),
            ask: ask.der().to_vec(),
            root: self.root,
        }
    }
}

/// Signs the first 672 bytes and puts R and S, turned around, after them.
fn sign(report: &mut [u8], key: &KeyPair) {
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key.serialize_der()).unwrap();
    let signature = key
        .sign(&SystemRandom::new(), &report[..at::SIGNATURE])
        .unwrap();
    for (half, place) in signature.as_ref().chunks(48).zip([0, 72]) {
        let turned: Vec<u8> = half.iter().rev().copied().collect();
        put(report, at::SIGNATURE + place, &turned);
    }
}

/// A signed report and its certificates. What a test changes here is tampering.
pub struct Forged {
    pub report: Vec<u8>,
    pub kind: &'static str,
    pub leaf: Vec<u8>,
    pub ask: Vec<u8>,
    pub root: Root,
}

impl Forged {
    pub fn json(&self) -> Vec<u8> {
        evidence_json(&self.report, &[(self.kind, &self.leaf), ("ASK", &self.ask)])
    }
}
