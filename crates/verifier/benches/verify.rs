//! How many pieces of evidence one core verifies in a second, each platform's collateral being at hand.
//!
//! `cargo bench -p strongroom-verifier` prints for each case the median and the best round, and verifications a second
//! by the median. *Cold*: no certificate was seen before. *Warm*: the chain's signatures were verified before, for the
//! same trust anchors. Signatures with Intel's algorithm are remembered by the process, whatever the anchors, so TDX and
//! SGX have other cases: a machine that was never seen, the next quote of one that was, and the same quote again; the
//! collateral was seen before in all three. *Appraise*: the same evidence, graded by the default policy. The lines that
//! begin with a library's name are its work alone: the least that a platform's verification contains. A word after `--`
//! picks the cases whose names contain it.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteCollateralV3, QuotePolicy};
use rustls_pki_types::SignatureVerificationAlgorithm;
use serde_json::Value;
use serde_json::value::RawValue;
use strongroom_attester::Attester;
use strongroom_attester::development::snp::{Forge, Product};
use strongroom_attester::development::{DevelopmentAttester, DevelopmentRoot, sgx, tdx};
use strongroom_verifier::{
    AppraisalPolicies, AppraisalPolicy, Binding, Collateral, CollateralItem, Evidence, Expected,
    ReferenceValue, ReferenceValues, TrustAnchors, VerifiedEvidence, Wanted, appraise, examine,
    verify,
};
use strongroom_wire::canonical::HashAlgorithm;
use strongroom_wire::kbs::{Nonce, RuntimeData};
use strongroom_wire::tee::Tee;

/// A round is so many runs, and so many rounds are made; they take turns, so that a busy machine hits all cases.
const RUNS: usize = 20;
const ROUNDS: usize = 31;

/// 2026-01-15.
const NOW: u64 = 1_768_435_200;

type Fallible<T> = Result<T, Box<dyn Error>>;

fn main() -> Fallible<()> {
    let mut cases = Vec::new();
    platform_snp(&mut cases)?;
    platform_intel(&mut cases, Tee::Tdx)?;
    platform_intel(&mut cases, Tee::Sgx)?;
    let root = DevelopmentRoot::generate(NOW)?;
    for tee in [Tee::AzSnpVtpm, Tee::AzTdxVtpm, Tee::Tpm] {
        platform_vtpm(&mut cases, &root, tee)?;
    }
    platform_nvidia(&mut cases)?;
    for tee in [
        Tee::Snp,
        Tee::Tdx,
        Tee::Sgx,
        Tee::AzSnpVtpm,
        Tee::AzTdxVtpm,
        Tee::Tpm,
    ] {
        appraisal(&mut cases, &root, tee)?;
    }
    arithmetic(&mut cases)?;
    // Cargo itself passes `--bench`.
    if let Some(part) = std::env::args().skip(1).find(|arg| !arg.starts_with('-')) {
        cases.retain(|case| case.name.contains(&part));
    }

    let mut rounds: Vec<Vec<Duration>> = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for (case, rounds) in cases.iter_mut().zip(&mut rounds) {
            rounds.push((case.round)()?);
        }
    }
    println!(
        "{:44} {:>9} {:>9} {:>9}",
        "", "median ms", "best ms", "per s"
    );
    for (case, mut rounds) in cases.iter().zip(rounds) {
        rounds.sort();
        let each = |round: Duration| round.as_secs_f64() / RUNS as f64;
        let (best, median) = (each(rounds[0]), each(rounds[ROUNDS / 2]));
        println!(
            "{:44} {:9.3} {:9.3} {:9.0}",
            case.name,
            median * 1e3,
            best * 1e3,
            1.0 / median
        );
    }
    Ok(())
}

/// One line of the table.
struct Case {
    name: String,
    round: Box<dyn FnMut() -> Fallible<Duration>>,
}

/// Adds evidence twice: with anchors that saw nothing before, and with those that saw this evidence.
fn evidence(
    cases: &mut Vec<Case>,
    name: &str,
    tee: Tee,
    json: Vec<u8>,
    collateral: Collateral,
    anchors: impl Fn() -> Fallible<TrustAnchors> + 'static,
) -> Fallible<()> {
    let verify = move |anchors: &TrustAnchors| -> Fallible<()> {
        let evidence = Evidence::parse(tee, black_box(&json))?;
        let seen = examine(evidence, &collateral, anchors, &Expected::default(), NOW);
        match black_box(seen).error {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    };
    let seen_before = anchors()?;
    verify(&seen_before)?;
    let verify = std::rc::Rc::new(verify);
    let cold = verify.clone();
    cases.push(Case {
        name: format!("{name}, cold"),
        round: Box::new(move || {
            // Anchors are read once in a broker's life: that is not measured.
            let fresh: Vec<_> = (0..RUNS).map(|_| anchors()).collect::<Fallible<_>>()?;
            let start = Instant::now();
            for anchors in &fresh {
                cold(anchors)?;
            }
            Ok(start.elapsed())
        }),
    });
    cases.push(Case {
        name: format!("{name}, warm"),
        round: Box::new(move || {
            let start = Instant::now();
            for _ in 0..RUNS {
                verify(&seen_before)?;
            }
            Ok(start.elapsed())
        }),
    });
    Ok(())
}

fn platform_snp(cases: &mut Vec<Case>) -> Fallible<()> {
    let recorded = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/trustee/attestation-service/tests/e2e/evidence.json"
    ));
    match std::fs::read(recorded) {
        Ok(json) => evidence(
            cases,
            "snp, real Genoa (RSA-4096 chain)",
            Tee::Snp,
            json,
            Collateral::none(),
            || Ok(TrustAnchors::vendors()),
        )?,
        Err(_) => println!("SKIPPED: no recorded evidence beside this checkout"),
    }
    let root = DevelopmentRoot::generate(NOW)?;
    let json = Forge::of(&root, Product::Turin).evidence_json()?;
    evidence(
        cases,
        "snp, development Turin (P-256 root)",
        Tee::Snp,
        json.into_bytes(),
        Collateral::none(),
        move || Ok(TrustAnchors::none().with_development_root(&root.certificate_pem())?),
    )
}

/// Quotes under one development root, and `dcap-qvl` alone on the same, with a P-256 that remembers nothing.
fn platform_intel(cases: &mut Vec<Case>, tee: Tee) -> Fallible<()> {
    let root = DevelopmentRoot::generate(NOW)?;
    let anchors = TrustAnchors::none().with_development_root(&root.certificate_pem())?;
    let forge = move |root: &DevelopmentRoot| -> Fallible<Vec<u8>> {
        Ok(match tee {
            Tee::Tdx => tdx::Forge::new(root).quote_bytes()?,
            _ => sgx::Forge::new(root).quote_bytes()?,
        })
    };
    let quote = forge(&root)?;
    let collateral = development_collateral(&root, &Evidence::parse_raw(tee, &quote)?)?;

    let qvl_collateral = qvl_collateral(&collateral)?;
    let verifier = QuoteVerifier::<Alone>::new_with_config(root.certificate_der().to_vec());
    let bytes = quote.clone();
    cases.push(Case {
        name: format!("dcap-qvl alone, {tee}"),
        round: Box::new(move || {
            let start = Instant::now();
            for _ in 0..RUNS {
                let policy = QuotePolicy::claims_only(NOW);
                let collateral = qvl_collateral.clone();
                black_box(verifier.verify_with_policy(
                    black_box(&bytes),
                    collateral,
                    NOW,
                    &policy,
                )?);
            }
            Ok(start.elapsed())
        }),
    });

    let verify = std::rc::Rc::new(move |quote: &[u8]| -> Fallible<()> {
        let evidence = Evidence::parse_raw(tee, black_box(quote))?;
        match black_box(examine(
            evidence,
            &collateral,
            &anchors,
            &Expected::default(),
            NOW,
        ))
        .error
        {
            None => Ok(()),
            Some(error) => Err(error.into()),
        }
    });
    verify(&quote)?;
    let forge = std::rc::Rc::new(forge);
    // Every forged quote has a PCK certificate of its own, although its key is the same.
    let (made, checked, of) = (forge.clone(), verify.clone(), root.clone());
    cases.push(Case {
        name: format!("{tee}, a machine never seen"),
        round: Box::new(move || {
            let quotes: Vec<_> = (0..RUNS).map(|_| made(&of)).collect::<Fallible<_>>()?;
            let start = Instant::now();
            for quote in &quotes {
                checked(quote)?;
            }
            Ok(start.elapsed())
        }),
    });
    let (checked, known) = (verify.clone(), quote.clone());
    cases.push(Case {
        name: format!("{tee}, the next quote of a known machine"),
        round: Box::new(move || {
            let quotes: Vec<_> = (0..RUNS)
                .map(|_| next_quote(&known, || forge(&root)))
                .collect::<Fallible<_>>()?;
            let start = Instant::now();
            for quote in &quotes {
                checked(quote)?;
            }
            Ok(start.elapsed())
        }),
    });
    cases.push(Case {
        name: format!("{tee}, the same quote again"),
        round: Box::new(move || {
            let start = Instant::now();
            for _ in 0..RUNS {
                verify(&quote)?;
            }
            Ok(start.elapsed())
        }),
    });
    Ok(())
}

/// A new quote with the certificates of a known one, which nothing in a quote signs. They fit where they are as long.
fn next_quote(known: &[u8], forge: impl Fn() -> Fallible<Vec<u8>>) -> Fallible<Vec<u8>> {
    let begins = |quote: &[u8]| {
        let mark = b"-----BEGIN";
        quote.windows(mark.len()).position(|bytes| bytes == mark)
    };
    let at = begins(known).ok_or("a quote without certificates")?;
    loop {
        let mut quote = forge()?;
        if quote.len() == known.len() && begins(&quote) == Some(at) {
            quote.truncate(at);
            quote.extend_from_slice(&known[at..]);
            return Ok(quote);
        }
    }
}

/// `dcap-qvl` with aws-lc-rs and nothing of ours.
struct Alone;

impl Config for Alone {
    type X509 = dcap_qvl::x509::X509CertBackend;
    type SigEncoder = dcap_qvl::signature::DerSigEncoder;
    type Crypto = Self;
}

impl CryptoProvider for Alone {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        webpki::aws_lc_rs::ECDSA_P256_SHA256
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

fn qvl_collateral(collateral: &Collateral) -> Fallible<QuoteCollateralV3> {
    let item = |wanted: fn(&Wanted) -> bool| {
        let mut items = collateral.iter();
        items
            .find(|(name, _)| wanted(name))
            .map(|(_, item)| item.clone())
            .ok_or("the root's collateral is not whole")
    };
    let signed = |item: &CollateralItem, member: &str| -> Fallible<(String, Vec<u8>)> {
        let mut body: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&item.body)?;
        let text = body.remove(member).ok_or("a body without its structure")?;
        let signature = body.remove("signature").ok_or("a body without signature")?;
        let signature: String = serde_json::from_str(signature.get())?;
        Ok((text.get().to_owned(), hex::decode(signature)?))
    };
    let tcb = item(|wanted| matches!(wanted, Wanted::IntelTcbInfo { .. }))?;
    let identity = item(|wanted| matches!(wanted, Wanted::IntelQeIdentity { .. }))?;
    let pck_crl = item(|wanted| matches!(wanted, Wanted::IntelPckCrl { .. }))?;
    let root_crl = item(|wanted| matches!(wanted, Wanted::IntelRootCrl { .. }))?;
    let (tcb_info, tcb_info_signature) = signed(&tcb, "tcbInfo")?;
    let (qe_identity, qe_identity_signature) = signed(&identity, "enclaveIdentity")?;
    Ok(QuoteCollateralV3 {
        pck_crl_issuer_chain: pck_crl.issuer_chain,
        root_ca_crl: root_crl.body,
        pck_crl: pck_crl.body,
        tcb_info_issuer_chain: tcb.issuer_chain,
        tcb_info,
        tcb_info_signature,
        qe_identity_issuer_chain: identity.issuer_chain,
        qe_identity,
        qe_identity_signature,
        pck_certificate_chain: None,
    })
}

/// What the root's own service serves of what evidence asks for.
fn development_collateral(root: &DevelopmentRoot, evidence: &Evidence) -> Fallible<Collateral> {
    let files: BTreeMap<_, _> = root.collateral()?.into_iter().collect();
    let mut collateral = Collateral::none();
    for wanted in evidence.collateral_request().iter() {
        let Some(body) = files.get(&wanted.path()).cloned() else {
            continue;
        };
        let issuer_chain = match wanted.chain_path().and_then(|path| files.get(&path)) {
            Some(chain) => String::from_utf8(chain.clone())?,
            None => String::new(),
        };
        collateral.insert(wanted.clone(), CollateralItem { body, issuer_chain });
    }
    Ok(collateral)
}

fn platform_vtpm(cases: &mut Vec<Case>, root: &DevelopmentRoot, tee: Tee) -> Fallible<()> {
    let attester = Attester::Development(DevelopmentAttester::new(tee, root.clone())?);
    let json = attester.evidence(&[7; 48])?.get().as_bytes().to_vec();
    let collateral = development_collateral(root, &Evidence::parse(tee, &json)?)?;
    let pem = root.certificate_pem();
    evidence(
        cases,
        &format!("{tee}, development"),
        tee,
        json,
        collateral,
        move || Ok(TrustAnchors::none().with_development_root(&pem)?),
    )
}

fn platform_nvidia(cases: &mut Vec<Case>) -> Fallible<()> {
    let folder = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/trustee/deps/verifier/test_data/nvidia"
    ));
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    let (Ok(report), Ok(chain)) = (
        read("hopperAttestationReport.txt"),
        read("hopper_cert_chain_case1.txt"),
    ) else {
        println!("SKIPPED: no recorded NVIDIA evidence beside this checkout");
        return Ok(());
    };
    let json = serde_json::json!({"device_evidence_list": [{
        "arch": "HOPPER",
        "uuid": "1111-2222-33333-444444-555555",
        "evidence": report.trim(),
        "certificate": STANDARD.encode(chain),
    }]});
    let json = json.to_string().into_bytes();
    let anchors = || Ok(TrustAnchors::vendors());
    evidence(
        cases,
        "nvidia, real Hopper",
        Tee::Nvidia,
        json,
        Collateral::none(),
        anchors,
    )
}

/// One evaluation of the shipped policies, with nothing registered, so that the bad grade is explained, and with all
/// that is asked for, so that it is good. Verified evidence is used up by it, so it is verified outside the time.
fn appraisal(cases: &mut Vec<Case>, root: &DevelopmentRoot, tee: Tee) -> Fallible<()> {
    let runtime_data = RuntimeData {
        nonce: Nonce::from_bytes(&[9; 32]),
        tee_pubkey: serde_json::from_str(KEY)?,
    };
    let report_data = runtime_data.primary_report_data("", HashAlgorithm::Sha384);
    let attester = Attester::Development(DevelopmentAttester::new(tee, root.clone())?);
    let json = attester.evidence(&report_data)?.get().as_bytes().to_vec();
    let collateral = development_collateral(root, &Evidence::parse(tee, &json)?)?;
    let anchors = TrustAnchors::none().with_development_root(&root.certificate_pem())?;
    let verified = move || -> Fallible<VerifiedEvidence> {
        let binding = Binding::new(&runtime_data, "", None);
        let evidence = Evidence::parse(tee, &json)?;
        Ok(verify(evidence, &collateral, &anchors, &binding, NOW)?)
    };
    let verified = std::rc::Rc::new(verified);
    let registered = reference_values(tee, &verified()?);
    for (name, values) in [
        ("all registered", registered),
        ("nothing registered", ReferenceValues::default()),
    ] {
        let verified = verified.clone();
        let policies = AppraisalPolicies::shipped();
        let values = Arc::new(values);
        cases.push(Case {
            name: format!("appraise, {tee}, {name}"),
            round: Box::new(move || {
                let verified: Vec<_> = (0..RUNS).map(|_| verified()).collect::<Fallible<_>>()?;
                let start = Instant::now();
                for verified in verified {
                    black_box(appraise(black_box(verified), &values, &policies, NOW)?);
                }
                Ok(start.elapsed())
            }),
        });
    }
    Ok(())
}

/// What the evidence itself says, for every name that the shipped policy asks for.
fn reference_values(tee: Tee, verified: &VerifiedEvidence) -> ReferenceValues {
    let mut values = ReferenceValues::default();
    let expires = NOW + 1;
    values.insert(
        "accept_development_assurance",
        ReferenceValue::new(Value::Bool(true), expires),
    );
    for (name, claims) in AppraisalPolicy::default_cpu().asked_reference_values() {
        for claim in claims {
            let Some(path) = claim.strip_prefix(&format!("{tee}.")) else {
                continue;
            };
            let mut parts = path.split('.');
            let first = parts.next().and_then(|name| verified.claims().get(name));
            let found = parts.try_fold(first, |value, name| Some(value?.get(name)));
            if let Some(value) = found.flatten() {
                values.insert(name.clone(), ReferenceValue::new(value.clone(), expires));
            }
        }
    }
    values
}

/// What the libraries need for the least that a platform's verification contains.
fn arithmetic(cases: &mut Vec<Case>) -> Fallible<()> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)?;
    let report = vec![0x5C; 672];
    let signature = key.sign(&random, &report)?;
    let public = key.public_key().as_ref().to_vec();
    cases.push(Case {
        name: "aws-lc-rs, one P-384 signature".to_owned(),
        round: Box::new(move || {
            let start = Instant::now();
            for _ in 0..RUNS {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &public)
                    .verify(black_box(&report), signature.as_ref())?;
            }
            Ok(start.elapsed())
        }),
    });
    Ok(())
}

const KEY: &str = r#"{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
