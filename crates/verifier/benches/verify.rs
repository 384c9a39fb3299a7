//! How many pieces of evidence one core verifies in a second, each platform's collateral being at hand.
//!
//! `cargo bench -p strongroom-verifier` prints for each case the median and the best round, and verifications a second
//! by the median. *Cold*: no certificate was seen before. *Warm*: the chain's signatures were verified before, for the
//! same trust anchors. The lines that begin with the library's name are the arithmetic alone, which nothing gets below.

use std::error::Error;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use strongroom_attester::development::DevelopmentRoot;
use strongroom_attester::development::snp::{Forge, Product};
use strongroom_verifier::{Collateral, Evidence, Expected, TrustAnchors, examine};
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
    arithmetic(&mut cases)?;

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
