//! What lies behind missing collateral: a quote under a development root with all that it asks for, one of its parts
//! patched. The first byte picks the platform and the part, each three that follow write one byte at an offset.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use strongroom_attester::development::{DevelopmentRoot, sgx, tdx};
use strongroom_fuzz::NOW;
use strongroom_verifier::{
    Collateral, CollateralItem, Evidence, Expected, TrustAnchors, Wanted, examine,
};
use strongroom_wire::tee::Tee;

struct Good {
    tee: Tee,
    quote: Vec<u8>,
    items: Vec<(Wanted, CollateralItem)>,
}

/// The root stays from run to run, so that what was found is found again.
static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/development-root");
    DevelopmentRoot::open_or_create(&folder, NOW).expect("a folder of the corpus")
});

static ANCHORS: LazyLock<TrustAnchors> = LazyLock::new(|| {
    let anchors = TrustAnchors::none().with_development_root(&ROOT.certificate_pem());
    anchors.expect("a certificate")
});

static GOOD: LazyLock<[Good; 2]> = LazyLock::new(|| {
    let tdx = tdx::Forge::new(&ROOT).quote_bytes().expect("a quote");
    let sgx = sgx::Forge::new(&ROOT).quote_bytes().expect("a quote");
    [good(Tee::Tdx, tdx), good(Tee::Sgx, sgx)]
});

fn good(tee: Tee, quote: Vec<u8>) -> Good {
    let evidence = Evidence::parse_raw(tee, &quote).expect("the quote parses");
    let files = ROOT.collateral().expect("the root's collateral");
    let body = |path: &str| {
        files
            .iter()
            .find(|(name, _)| name == path)
            .map(|(_, b)| b.clone())
    };
    let items: Vec<_> = evidence
        .collateral_request()
        .iter()
        .filter_map(|wanted| {
            let issuer_chain = wanted
                .chain_path()
                .and_then(|path| body(&path))
                .unwrap_or_default();
            let issuer_chain = String::from_utf8(issuer_chain).expect("PEM");
            let body = body(&wanted.path())?;
            Some((wanted.clone(), CollateralItem { body, issuer_chain }))
        })
        .collect();
    let good = Good { tee, quote, items };
    // A target whose unpatched input fails would only ever see the first check.
    assert_eq!(run(&good, evidence), None, "{tee}");
    good
}

fn run(good: &Good, evidence: Evidence) -> Option<String> {
    let mut collateral = Collateral::none();
    for (wanted, item) in &good.items {
        collateral.insert(wanted.clone(), item.clone());
    }
    let seen = examine(evidence, &collateral, &ANCHORS, &Expected::default(), NOW);
    seen.error.map(|error| error.to_string())
}

fn patch(bytes: &mut [u8], patches: &[u8]) {
    for patch in patches.chunks_exact(3) {
        let offset = usize::from(u16::from_le_bytes([patch[0], patch[1]])) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(offset) {
            *byte = patch[2];
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&choice, patches)) = input.split_first() else {
        return;
    };
    let good = &GOOD[usize::from(choice & 1)];
    let mut patched = Good {
        tee: good.tee,
        quote: good.quote.clone(),
        items: good.items.clone(),
    };
    let parts = 2 * patched.items.len() + 1;
    match usize::from(choice >> 1) % parts {
        0 => patch(&mut patched.quote, patches),
        part if part % 2 == 1 => patch(&mut patched.items[part / 2].1.body, patches),
        part => {
            let chain = &mut patched.items[part / 2 - 1].1.issuer_chain;
            let mut bytes = chain.clone().into_bytes();
            patch(&mut bytes, patches);
            *chain = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    if let Ok(evidence) = Evidence::parse_raw(patched.tee, &patched.quote) {
        run(&patched, evidence);
    }
});
