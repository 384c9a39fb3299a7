//! The cryptography that `dcap-qvl` is given: aws-lc-rs, and a memory of signatures that verified.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use dcap_qvl::config::{Config, CryptoProvider};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

use crate::x509::{SignatureCache, X509Error};

/// `dcap-qvl` with its own parsers and our cryptography.
pub(crate) struct Provider;

impl Config for Provider {
    type X509 = dcap_qvl::x509::X509CertBackend;
    type SigEncoder = dcap_qvl::signature::DerSigEncoder;
    type Crypto = AwsLc;
}

pub(crate) struct AwsLc;

impl CryptoProvider for AwsLc {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        &RememberedP256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
        out
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        let mut out = [0; 48];
        out.copy_from_slice(digest::digest(&digest::SHA384, data).as_ref());
        out
    }
}

/// ECDSA P-256 with SHA-256, which verifies the same key, message and signature once.
///
/// The chains and the collateral are the same for every quote of a platform, and what was true of bytes stays true.
#[derive(Debug)]
pub(crate) struct RememberedP256;

impl SignatureVerificationAlgorithm for RememberedP256 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        PROVEN
            .once(&[public_key, message, signature], || {
                webpki::aws_lc_rs::ECDSA_P256_SHA256
                    .verify_signature(public_key, message, signature)
                    .map_err(|_| X509Error::Signature)
            })
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        webpki::aws_lc_rs::ECDSA_P256_SHA256.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        webpki::aws_lc_rs::ECDSA_P256_SHA256.signature_alg_id()
    }
}

static PROVEN: LazyLock<SignatureCache> = LazyLock::new(SignatureCache::default);
