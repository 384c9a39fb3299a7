//! SEV-SNP evidence of real machines: what must pass passes, and what must not fails for its own reason.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;

use serde_json::Value;
use strongroom_verifier::{
    Assurance, Check, Collateral, CollateralItem, Evidence, Examination, Expected, SnpProduct,
    StepOutcome, TrustAnchors, VcekTcb, VerifyError, Wanted, examine,
};
use strongroom_wire::tee::Tee;

/// 2025-11-01, when every certificate of the recorded evidence was valid.
const THEN: u64 = 1_761_955_200;

fn fixture(name: &str) -> Option<Vec<u8>> {
    let root = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/trustee"
    ));
    if !root.is_dir() {
        println!("SKIPPED: no folder of recorded evidence");
        return None;
    }
    Some(std::fs::read(root.join(name)).unwrap())
}

fn look(evidence: Evidence, collateral: &Collateral, now: u64) -> Examination {
    let anchors = TrustAnchors::vendors();
    examine(evidence, collateral, &anchors, &Expected::default(), now)
}

const GENOA: &str = "attestation-service/tests/e2e/evidence.json";

#[test]
fn real_genoa_evidence_passes() {
    let Some(json) = fixture(GENOA) else { return };
    let evidence = Evidence::parse(Tee::Snp, &json).unwrap();
    let seen = look(evidence, &Collateral::none(), THEN);
    assert_eq!(seen.error, None, "{:#?}", seen.steps);
    assert_eq!(seen.assurance, Assurance::Hardware);
    println!("{:#?} {:#?}", seen.steps, seen.claims);
}
