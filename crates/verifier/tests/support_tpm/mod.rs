//! Quotes of a TPM as the tests want them: honest as they are made, with every field to change before signing.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used)]

use std::path::Path;

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use strongroom_verifier::{
    Assurance, Check, Collateral, Evidence, Examination, Expected, StepOutcome, TrustAnchors,
    VerifyError, examine,
};
use strongroom_wire::tee::Tee;

pub(crate) const SHA1: u16 = 0x0004;
pub(crate) const SHA256: u16 = 0x000B;
pub(crate) const SHA384: u16 = 0x000C;
pub(crate) const RSASSA: u16 = 0x0014;
pub(crate) const RSAPSS: u16 = 0x0016;
pub(crate) const ECDSA: u16 = 0x0018;
/// A time at which every real certificate of the fixtures is valid.
pub(crate) const NOW: u64 = 1_760_000_000;

/// An attestation key.
pub(crate) enum Ak {
    Rsa(Box<rsa::KeyPair>),
    P256(Box<EcdsaKeyPair>),
    P384(Box<EcdsaKeyPair>),
}

impl Ak {
    pub(crate) fn rsa() -> Self {
        Self::Rsa(Box::new(rsa::KeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub(crate) fn p256() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self::P256(Box::new(key))
    }

    pub(crate) fn p384() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self::P384(Box::new(key))
    }

    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Self {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).unwrap();
        Self::P256(Box::new(key))
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Rsa(key) => key.public_key().as_der().unwrap(),
            Self::P256(key) | Self::P384(key) => key.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    /// The key as the JWK of an HCL report.
    pub(crate) fn jwk(&self) -> Value {
        let Self::Rsa(key) = self else {
            panic!("an HCL report has RSA keys")
        };
        let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        json!({
            "kid": "HCLAkPub",
            "key_ops": ["sign"],
            "kty": "RSA",
            "e": url.encode(key.public_key().exponent().big_endian_without_leading_zero()),
            "n": url.encode(key.public_key().modulus().big_endian_without_leading_zero()),
        })
    }

    /// The signature's numbers, big-endian, one after the other.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Self::P256(key) | Self::P384(key) => {
                key.sign(&random, message).unwrap().as_ref().to_vec()
            }
        }
    }

    /// `TPMT_SIGNATURE` around the numbers.
    pub(crate) fn marshalled(&self, numbers: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(_) => tpmt_signature(RSASSA, SHA256, &[numbers]),
            Self::P256(_) => tpmt_signature(ECDSA, SHA256, &halves(numbers)),
            Self::P384(_) => tpmt_signature(ECDSA, SHA384, &halves(numbers)),
        }
    }

    pub(crate) fn hash(&self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::P384(_) => &digest::SHA384,
            _ => &digest::SHA256,
        };
        digest::digest(algorithm, bytes).as_ref().to_vec()
    }
}

pub(crate) fn halves(numbers: &[u8]) -> [&[u8]; 2] {
    let (r, s) = numbers.split_at(numbers.len() / 2);
    [r, s]
}

pub(crate) fn tpmt_signature(scheme: u16, hash: u16, numbers: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [scheme.to_be_bytes(), hash.to_be_bytes()].concat();
    for number in numbers {
        bytes.extend(sized(number));
    }
    bytes
}

/// `TPM2B_*`.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// A bank and its selected PCRs.
pub(crate) fn selection(bank: u16, indices: &[usize]) -> (u16, Vec<u8>) {
    let mut bitmap = vec![0_u8; 3];
    for index in indices {
        bitmap[index / 8] |= 1 << (index % 8);
    }
    (bank, bitmap)
}

/// A quote before it is signed, and the values that are sent with it.
#[derive(Clone)]
pub(crate) struct QuoteForge {
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) qualified_signer: Vec<u8>,
    pub(crate) extra_data: Vec<u8>,
    pub(crate) safe: u8,
    pub(crate) firmware_version: u64,
    pub(crate) selections: Vec<(u16, Vec<u8>)>,
    /// `None` for the digest of the selected values.
    pub(crate) pcr_digest: Option<Vec<u8>>,
    /// The PCRs as the TPM has them.
    pub(crate) pcrs: Vec<Vec<u8>>,
    /// The PCRs as they are sent.
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) tail: Vec<u8>,
}

impl QuoteForge {
    /// A quote of all 24 PCRs of the SHA-256 bank.
    pub(crate) fn new(extra_data: &[u8]) -> Self {
        let pcrs: Vec<Vec<u8>> = (0..24).map(|index| vec![0x40 + index; 32]).collect();
        Self {
            magic: 0xFF54_4347,
            kind: 0x8018,
            qualified_signer: [&SHA256.to_be_bytes()[..], &[7; 32]].concat(),
            extra_data: extra_data.to_vec(),
            safe: 1,
            firmware_version: 0x2020_0312_0012_0003,
            selections: vec![(SHA256, vec![0xff; 3])],
            pcr_digest: None,
            sent: pcrs.clone(),
            pcrs,
            tail: Vec::new(),
        }
    }

    pub(crate) fn message(&self, ak: &Ak) -> Vec<u8> {
        let mut bytes = self.magic.to_be_bytes().to_vec();
        bytes.extend(self.kind.to_be_bytes());
        bytes.extend(sized(&self.qualified_signer));
        bytes.extend(sized(&self.extra_data));
        bytes.extend(123_456_789_u64.to_be_bytes());
        bytes.extend(3_u32.to_be_bytes());
        bytes.extend(1_u32.to_be_bytes());
        bytes.push(self.safe);
        bytes.extend(self.firmware_version.to_be_bytes());
        bytes.extend(u32::try_from(self.selections.len()).unwrap().to_be_bytes());
        for (bank, bitmap) in &self.selections {
            bytes.extend(bank.to_be_bytes());
            bytes.push(u8::try_from(bitmap.len()).unwrap());
            bytes.extend(bitmap);
        }
        let digest = self
            .pcr_digest
            .clone()
            .unwrap_or_else(|| ak.hash(&self.selected().concat()));
        bytes.extend(sized(&digest));
        bytes.extend(&self.tail);
        bytes
    }

    /// The values that the TPM would hash: of each selection in turn, in the order of their numbers.
    pub(crate) fn selected(&self) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        for (_, bitmap) in &self.selections {
            for (index, value) in self.pcrs.iter().enumerate() {
                if bitmap
                    .get(index / 8)
                    .is_some_and(|byte| byte >> (index % 8) & 1 == 1)
                {
                    values.push(value.clone());
                }
            }
        }
        values
    }
}

/// Evidence of the platform `tpm`.
pub(crate) struct TpmForge {
    pub(crate) ak: Ak,
    pub(crate) quote: QuoteForge,
    /// `None` for the key that signs.
    pub(crate) ak_public: Option<Vec<u8>>,
    pub(crate) certificates: Option<String>,
    /// `None` for the honest signature.
    pub(crate) signature: Option<Vec<u8>>,
    /// `None` for the message that was signed.
    pub(crate) message: Option<Vec<u8>>,
}

impl TpmForge {
    pub(crate) fn new(ak: Ak) -> Self {
        Self {
            ak,
            quote: QuoteForge::new(&[0xAB; 32]),
            ak_public: None,
            certificates: None,
            signature: None,
            message: None,
        }
    }

    pub(crate) fn json(&self) -> Value {
        let signed = self.quote.message(&self.ak);
        let signature = self
            .signature
            .clone()
            .unwrap_or_else(|| self.ak.marshalled(&self.ak.sign(&signed)));
        let spki = self.ak_public.clone().unwrap_or_else(|| self.ak.spki());
        let mut json = json!({
            "ak_public": STANDARD.encode(spki),
            "tpm_quote": {
                "signature": STANDARD.encode(signature),
                "message": STANDARD.encode(self.message.clone().unwrap_or(signed)),
                "pcrs": self.quote.sent.iter().map(hex::encode).collect::<Vec<_>>(),
            },
        });
        if let Some(pem) = &self.certificates {
            json["ak_certificates"] = json!(pem);
        }
        json
    }

    /// Anchors that have the signing key enrolled.
    pub(crate) fn enrolled(&self) -> TrustAnchors {
        TrustAnchors::none()
            .with_attestation_key(&self.ak.spki())
            .unwrap()
    }
}

/// Parses and examines; an error of either is the examination's.
pub(crate) fn run(
    tee: Tee,
    json: &Value,
    collateral: &Collateral,
    anchors: &TrustAnchors,
    expected: &Expected,
    now: u64,
) -> Examination {
    match Evidence::parse(tee, json.to_string().as_bytes()) {
        Ok(evidence) => examine(evidence, collateral, anchors, expected, now),
        Err(error) => Examination {
            steps: Vec::new(),
            claims: Vec::new(),
            assurance: Assurance::Development,
            error: Some(error),
        },
    }
}

pub(crate) fn accepted(examination: &Examination) {
    assert_eq!(examination.error, None, "{:#?}", examination.steps);
}

/// The refusal, which must be this check's, and the last step of the record when there is one.
pub(crate) fn refused(examination: &Examination, check: Check) -> VerifyError {
    let error = examination
        .error
        .clone()
        .unwrap_or_else(|| panic!("{check:?} should have refused it"));
    assert_eq!(error.check(), check, "{error}");
    if let Some(last) = examination.steps.last() {
        assert_eq!(last.check, check);
        assert!(matches!(last.outcome, StepOutcome::Failed(_)));
    }
    error
}

pub(crate) fn outcome(examination: &Examination, check: Check) -> Option<StepOutcome> {
    examination
        .steps
        .iter()
        .find(|step| step.check == check)
        .map(|step| step.outcome.clone())
}

pub(crate) fn report_data(bytes: &[u8]) -> Expected {
    Expected {
        report_data: Some(bytes.to_vec()),
        ..Expected::default()
    }
}

/// One fixture, or the word that the test is skipped for want of it.
pub(crate) fn fixture(path: &str) -> Option<Vec<u8>> {
    let full = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/trustee/deps/verifier/test_data"
    ))
    .join(path);
    match std::fs::read(full) {
        Ok(bytes) => Some(bytes),
        Err(_) => {
            assert!(
                !Path::new(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../../../shared/fixtures"
                ))
                .is_dir(),
                "what this test reads is missing from a folder of fixtures that is there"
            );
            println!("SKIPPED: fixture {path} is not beside this checkout");
            None
        }
    }
}

pub(crate) fn json_fixture(path: &str) -> Option<Value> {
    fixture(path).map(|bytes| serde_json::from_slice(&bytes).unwrap())
}
