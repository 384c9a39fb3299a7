//! What several targets share.

use std::sync::LazyLock;

use strongroom_verifier::{
    Binding, Collateral, Evidence, Expected, TrustAnchors, VerifyError, examine, verify,
};
use strongroom_wire::jwe::DecryptionKey;
use strongroom_wire::kbs::{Nonce, RuntimeData};
use strongroom_wire::tee::Tee;

static BINDING: LazyLock<Binding> = LazyLock::new(|| {
    let key = DecryptionKey::from_p256_scalar(&[7; 32]).expect("a scalar of the curve");
    let runtime_data = RuntimeData {
        nonce: Nonce::from_bytes(&[7; 32]),
        tee_pubkey: key.public().clone(),
    };
    Binding::new(&runtime_data, "", None)
});

static ANCHORS: LazyLock<TrustAnchors> = LazyLock::new(TrustAnchors::vendors);

/// Parses evidence of a platform and runs its checks, under a binding that it cannot know and under none.
pub fn evidence(tee: Tee, json: &[u8]) {
    check(Evidence::parse(tee, json));
}

/// As [`evidence`], of what the hardware itself gives.
pub fn raw_evidence(tee: Tee, bytes: &[u8]) {
    check(Evidence::parse_raw(tee, bytes));
}

fn check(evidence: Result<Evidence, VerifyError>) {
    let Ok(evidence) = evidence else {
        return;
    };
    evidence.collateral_request();
    let none = Collateral::none();
    verify(evidence.clone(), &none, &ANCHORS, &BINDING, NOW).ok();
    examine(evidence, &none, &ANCHORS, &Expected::default(), NOW);
}

/// A time at which the certificates of recorded evidence are valid: 2025-06-01.
pub const NOW: u64 = 1_748_736_000;
