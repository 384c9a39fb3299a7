//! Evidence of each platform, under a binding that it cannot know.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use strongroom_verifier::{Binding, Collateral, Evidence, TrustAnchors, verify};
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

fuzz_target!(|input: (u8, &[u8])| {
    let (platform, json) = input;
    let tee = PLATFORMS[usize::from(platform) % PLATFORMS.len()];
    if let Ok(evidence) = Evidence::parse(tee, json) {
        evidence.collateral_request();
        verify(
            evidence,
            &Collateral::none(),
            &TrustAnchors::none(),
            &BINDING,
            0,
        )
        .ok();
    }
});

const PLATFORMS: &[Tee] = &[
    Tee::Sample,
    Tee::Sampledevice,
    Tee::Snp,
    Tee::Tdx,
    Tee::Sgx,
    Tee::AzSnpVtpm,
    Tee::AzTdxVtpm,
    Tee::Tpm,
    Tee::Nvidia,
];
