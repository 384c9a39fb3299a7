//! Forged quotes against a verifier that is not ours: dcap-qvl, with the development root as its root.

#![allow(clippy::unwrap_used, missing_docs)]

use aws_lc_rs::digest;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::verify::QuoteVerifier;
use strongroom_attester::development::tdx::{Collateral, Event, Format, Status};
use strongroom_attester::development::{DevelopmentRoot, sgx, tdx};

const NOW: u64 = 1_800_000_000;

struct Provider;

impl Config for Provider {
    type X509 = dcap_qvl::x509::X509CertBackend;
    type SigEncoder = dcap_qvl::signature::DerSigEncoder;
    type Crypto = Self;
}

impl CryptoProvider for Provider {
    fn sig_algo() -> &'static dyn rustls_pki_types::SignatureVerificationAlgorithm {
        webpki::aws_lc_rs::ECDSA_P256_SHA256
    }

    fn sha256(data: &[u8]) -> [u8; 32] {
        digest::digest(&digest::SHA256, data)
            .as_ref()
            .try_into()
            .unwrap()
    }

    fn sha384(data: &[u8]) -> [u8; 48] {
        digest::digest(&digest::SHA384, data)
            .as_ref()
            .try_into()
            .unwrap()
    }
}

#[test]
fn quote_of_every_format_is_up_to_date() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    for format in [Format::V4, Format::V5Td10, Format::V5Td15] {
        let quote = tdx::Forge::of(&root, format).quote_bytes().unwrap();
        assert_eq!(
            verify(&quote, &Collateral::new(&root, true), true),
            Ok("UpToDate".to_owned())
        );
    }
    let mut processor = sgx::Forge::new(&root);
    for platform in [true, false] {
        processor.pck.platform = platform;
        let quote = processor.quote_bytes().unwrap();
        let collateral = Collateral::new(&root, false);
        assert_eq!(
            verify(&quote, &collateral, platform),
            Ok("UpToDate".to_owned())
        );
    }
}

#[test]
fn status_of_the_platform_is_that_of_its_level() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let mut collateral = Collateral::new(&root, true);
    let mut forge = tdx::Forge::new(&root);
    forge.pck.pce_svn = 1;
    let quote = forge.quote_bytes().unwrap();
    assert_eq!(
        verify(&quote, &collateral, true),
        Ok("OutOfDate".to_owned())
    );
    for level in &mut collateral.levels {
        level.status = Status::new("ConfigurationNeeded", &["INTEL-SA-00002"], NOW);
    }
    assert_eq!(
        verify(&quote, &collateral, true),
        Ok("ConfigurationNeeded".to_owned())
    );
    for level in &mut collateral.levels {
        level.status = Status::new("Revoked", &[], NOW);
    }
    assert!(
        verify(&quote, &collateral, true)
            .unwrap_err()
            .contains("Revoked")
    );
}

#[test]
fn each_signature_counts() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let collateral = Collateral::new(&root, true);
    // In the body, in the quote's signature, in the enclave's report and in its signature.
    for (offset, reason) in [
        (200, "ISV enclave report signature"),
        (48 + 584 + 4 + 10, "ISV enclave report signature"),
        (48 + 584 + 4 + 128 + 6 + 70, "qe_report"),
        (48 + 584 + 4 + 128 + 6 + 384 + 10, "qe_report"),
    ] {
        let mut forge = tdx::Forge::new(&root);
        forge.tampering = vec![(offset, 1)];
        let error = verify(&forge.quote_bytes().unwrap(), &collateral, true).unwrap_err();
        assert!(error.contains(reason), "{offset}: {error}");
    }
    let mut forge = tdx::Forge::new(&root);
    forge.quoting.binding = Some([7; 32]);
    let error = verify(&forge.quote_bytes().unwrap(), &collateral, true).unwrap_err();
    assert!(error.contains("hash mismatch"), "{error}");
}

#[test]
fn revoked_certificate_is_refused() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let quote = tdx::Forge::new(&root).quote_bytes().unwrap();
    let mut collateral = Collateral::new(&root, true);
    collateral.revoked_pck = true;
    assert!(
        verify(&quote, &collateral, true)
            .unwrap_err()
            .contains("CertRevoked")
    );
    collateral.revoked_pck = false;
    collateral.revoked_ca = true;
    assert!(
        verify(&quote, &collateral, true)
            .unwrap_err()
            .contains("CertRevoked")
    );
}

#[test]
fn log_replays_to_the_registers() {
    let root = DevelopmentRoot::generate(NOW).unwrap();
    let forge = tdx::Forge::new(&root).with_event_log(Event::boot());
    assert_eq!(forge.report.rtmr, tdx::replay(&Event::boot()));
    assert_eq!(forge.report.rtmr[3], [0; 48]);
    assert_ne!(forge.report.rtmr[2], forge.report.rtmr[1]);
}

fn verify(quote: &[u8], collateral: &Collateral, platform: bool) -> Result<String, String> {
    let (tcb_info, tcb_info_signature) = split(&collateral.tcb_info().unwrap(), "tcbInfo");
    let (qe_identity, qe_identity_signature) =
        split(&collateral.qe_identity().unwrap(), "enclaveIdentity");
    let chain = collateral.signing_chain().unwrap();
    let given = QuoteCollateralV3 {
        pck_crl_issuer_chain: collateral.pck_crl_chain(platform).unwrap(),
        root_ca_crl: collateral.root_crl().unwrap(),
        pck_crl: collateral.pck_crl(platform).unwrap(),
        tcb_info_issuer_chain: chain.clone(),
        tcb_info,
        tcb_info_signature,
        qe_identity_issuer_chain: chain,
        qe_identity,
        qe_identity_signature,
        pck_certificate_chain: None,
    };
    let root = collateral.root.certificate_der().to_vec();
    QuoteVerifier::<Provider>::new_with_config(root)
        .verify(quote, &given, NOW)
        .map(|report| report.status)
        .map_err(|e| format!("{e:#}"))
}

/// The signed text and the signature of a service's answer.
fn split(body: &str, name: &str) -> (String, Vec<u8>) {
    let inner = body.strip_prefix(&format!("{{\"{name}\":")).unwrap();
    let (text, signature) = inner.rsplit_once(",\"signature\":\"").unwrap();
    let signature = hex::decode(signature.strip_suffix("\"}").unwrap()).unwrap();
    (text.to_owned(), signature)
}
