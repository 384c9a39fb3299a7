//! Real quotes without collateral, and every flipped bit of what they sign.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::TrustAnchors;
use crate::binding::Expected;
use crate::check::Steps;
use crate::collateral::{Collateral, RootId, Wanted};

/// A folder of recorded evidence, when it is there.
pub(crate) fn recorded(path: &str) -> Option<Vec<u8>> {
    let root = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/trustee/deps"
    ));
    if !root.is_dir() {
        eprintln!("SKIPPED: no recorded evidence at {}", root.display());
        return None;
    }
    Some(fs::read(root.join(path)).unwrap())
}

/// 2026-01-01, when every recorded chain was valid.
const NOW: u64 = 1_767_225_600;

const QUOTES: [(&str, Platform, &str, usize); 5] = [
    (
        "verifier/test_data/tdx_quote_4.dat",
        Platform::Tdx,
        "50806f000000",
        632,
    ),
    (
        "verifier/test_data/tdx_quote_5.dat",
        Platform::Tdx,
        "90c06f000000",
        702,
    ),
    (
        "verifier/test_data/tdx_quote_6.dat",
        Platform::Tdx,
        "00a06d080000",
        632,
    ),
    (
        "verifier/test_data/az-tdx-vtpm/td-quote.bin",
        Platform::Tdx,
        "00806f050000",
        632,
    ),
    (
        "verifier/test_data/occlum_quote.dat",
        Platform::Sgx,
        "00606a000000",
        432,
    ),
];

fn with_verification<T>(
    anchors: &TrustAnchors,
    work: impl FnOnce(&mut Verification<'_>) -> T,
) -> (T, Vec<crate::Step>) {
    let mut steps = Steps::default();
    let collateral = Collateral::none();
    let expected = Expected::default();
    let outcome = work(&mut Verification {
        collateral: &collateral,
        anchors,
        expected: &expected,
        now: NOW,
        steps: &mut steps,
    });
    (outcome, steps.into_list())
}

#[test]
fn recorded_quotes_lead_to_intels_root_and_then_want_collateral() {
    let anchors = TrustAnchors::vendors();
    for (path, platform, fmspc, signed) in QUOTES {
        let Some(bytes) = recorded(path) else { return };
        let quote = Quote::parse(&bytes).unwrap();
        assert_eq!(quote.signed_bytes().len(), signed, "{path}");
        let (outcome, steps) = with_verification(&anchors, |verification| {
            verify(&quote, platform, verification)
        });
        assert_eq!(outcome.unwrap_err().check(), Check::Collateral, "{path}");
        let passed: Vec<_> = steps
            .iter()
            .filter(|step| step.outcome == crate::StepOutcome::Passed)
            .map(|step| step.check)
            .collect();
        assert_eq!(
            passed,
            [
                Check::QuoteVersion,
                Check::QuoteTeeType,
                Check::QuoteVendor,
                Check::QuoteKeyType,
                Check::PckCertificates,
                Check::IntelRoot,
                Check::PckChain,
                Check::QeReportSignature,
                Check::QeReportData,
                Check::QuoteSignature,
            ],
            "{path}"
        );
        let wanted: Vec<_> = collateral_request(&quote, platform)
            .iter()
            .cloned()
            .collect();
        let tdx = platform == Platform::Tdx;
        let fmspc: [u8; 6] = hex::decode(fmspc).unwrap().try_into().unwrap();
        let root = RootId::INTEL;
        assert_eq!(
            wanted,
            [
                Wanted::IntelTcbInfo { tdx, fmspc, root },
                Wanted::IntelQeIdentity { tdx, root },
                Wanted::IntelPckCrl {
                    platform: true,
                    root
                },
                Wanted::IntelRootCrl { root },
            ],
            "{path}"
        );
    }
}

#[test]
fn any_flipped_bit_of_what_is_signed_is_refused() {
    let anchors = TrustAnchors::vendors();
    for (path, platform, _, signed) in QUOTES {
        let Some(bytes) = recorded(path) else { return };
        for position in 0..signed {
            let mut flipped = bytes.clone();
            flipped[position] ^= 1 << (position % 8);
            let Ok(quote) = Quote::parse(&flipped) else {
                assert!(
                    position < 54,
                    "{path} at {position}: a field of the body is no form"
                );
                continue;
            };
            let (outcome, _) = with_verification(&anchors, |verification| {
                verify_without_collateral(&quote, platform, verification)
            });
            let check = outcome.err().map(|error| error.check());
            match check {
                Some(Check::QuoteSignature) => {}
                Some(
                    Check::QuoteVersion
                    | Check::QuoteTeeType
                    | Check::QuoteVendor
                    | Check::QuoteKeyType,
                ) if position < 48 => {}
                other => panic!("{path} at {position}: {other:?}"),
            }
        }
    }
}

#[test]
fn quote_that_is_cut_anywhere_is_no_quote() {
    let Some(bytes) = recorded("verifier/test_data/tdx_quote_5.dat") else {
        return;
    };
    for length in 0..bytes.len() {
        assert!(Quote::parse(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn zeros_after_a_quote_are_dropped_and_anything_else_is_refused() {
    let Some(mut bytes) = recorded("verifier/test_data/tdx_quote_4.dat") else {
        return;
    };
    let length = bytes.len();
    bytes.resize(8_192, 0);
    assert_eq!(Quote::parse(&bytes).unwrap().as_bytes().len(), length);
    bytes[8_000] = 1;
    assert_eq!(
        Quote::parse(&bytes).unwrap_err(),
        quote::QuoteError::Trailing(8_192 - length)
    );
}

#[test]
fn oversized_quote_is_refused_before_parsing() {
    assert!(matches!(
        Quote::parse(&vec![0; quote::MAX_QUOTE + 1]),
        Err(quote::QuoteError::TooLong { .. })
    ));
}

#[test]
fn root_that_is_not_trusted_is_named() {
    let Some(bytes) = recorded("verifier/test_data/tdx_quote_4.dat") else {
        return;
    };
    let quote = Quote::parse(&bytes).unwrap();
    let (outcome, _) = with_verification(&TrustAnchors::none(), |verification| {
        verify_without_collateral(&quote, Platform::Tdx, verification)
    });
    assert_eq!(outcome.unwrap_err().check(), Check::IntelRoot);
}
