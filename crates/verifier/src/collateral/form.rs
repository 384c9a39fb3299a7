//! The form of each piece of collateral: what is looked at before it is kept, and until when it says it is good.
//!
//! Nothing here is believed. Signatures are the platforms' business, when they use it.

use const_oid::ObjectIdentifier;
use serde::Deserialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{CollateralItem, Wanted};
use crate::x509::{Certificate, Crl, X509Error};

impl CollateralItem {
    /// Checks that this has the form of what is wanted, and gives the time at which its maker will have published
    /// another, where it says so.
    ///
    /// # Errors
    /// [`CollateralFormError`], saying what it is not.
    pub fn check_form(&self, wanted: &Wanted) -> Result<Option<u64>, CollateralFormError> {
        if wanted.chain_path().is_some() {
            let chain = Certificate::from_pem_chain(self.issuer_chain.as_bytes(), MAX_CHAIN)
                .map_err(|e| CollateralFormError::new("an issuer chain", &e))?;
            if chain.is_empty() {
                return Err(CollateralFormError::new("an issuer chain", "nothing"));
            }
        }
        match wanted {
            Wanted::AmdVcek { chip_id, .. } => vcek(&self.body, chip_id).map(|()| None),
            Wanted::AmdCrl { .. } | Wanted::IntelPckCrl { .. } | Wanted::IntelRootCrl { .. } => {
                let crl = Crl::from_der(&self.body).map_err(|e: X509Error| {
                    CollateralFormError::new("a DER revocation list", &e)
                })?;
                Ok(crl.next_update())
            }
            Wanted::IntelTcbInfo { tdx, fmspc, .. } => tcb_info(&self.body, *tdx, fmspc).map(Some),
            Wanted::IntelQeIdentity { tdx, .. } => qe_identity(&self.body, *tdx).map(Some),
            Wanted::NvidiaRim { .. } => rim(&self.body).map(|()| None),
        }
    }
}

/// What an answer is not.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it is not {expected}: {actual}")]
pub struct CollateralFormError {
    expected: String,
    actual: String,
}

impl CollateralFormError {
    fn new(expected: &str, actual: impl ToString) -> Self {
        Self {
            expected: expected.to_owned(),
            // What a parser says may quote what it read.
            actual: actual
                .to_string()
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(MAX_QUOTED)
                .collect(),
        }
    }
}

/// A certificate that names another chip would be kept for as long as this chip's never changes.
fn vcek(body: &[u8], chip_id: &[u8]) -> Result<(), CollateralFormError> {
    let bad = |e: X509Error| CollateralFormError::new("a DER certificate", &e);
    let certificate = Certificate::from_der(body).map_err(bad)?;
    // Raw, or as an OCTET STRING: older certificates have the second form.
    match certificate.extension(HWID).map_err(bad)? {
        Some(named) if !named.ends_with(chip_id) => Err(CollateralFormError::new(
            "the certificate of this chip",
            "it names another chip",
        )),
        _ => Ok(()),
    }
}

/// Intel PCS v4: `{"tcbInfo": {...}, "signature": "hex"}`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TcbInfoBody<'a> {
    #[serde(borrow)]
    tcb_info: &'a RawValue,
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TcbInfo {
    id: String,
    fmspc: String,
    next_update: String,
}

fn tcb_info(body: &[u8], tdx: bool, fmspc: &[u8; 6]) -> Result<u64, CollateralFormError> {
    let expected = "a TCB info";
    let outer: TcbInfoBody<'_> = json(body, expected)?;
    signature(&outer.signature, expected)?;
    let info: TcbInfo = json(outer.tcb_info.get().as_bytes(), expected)?;
    let id = if tdx { "TDX" } else { "SGX" };
    if info.id != id {
        return Err(CollateralFormError::new(
            &format!("{expected} of {id}"),
            info.id,
        ));
    }
    if !info.fmspc.eq_ignore_ascii_case(&hex::encode(fmspc)) {
        let expected = format!("{expected} of FMSPC {}", hex::encode(fmspc));
        return Err(CollateralFormError::new(&expected, info.fmspc));
    }
    date(&info.next_update)
}

/// Intel PCS v4: `{"enclaveIdentity": {...}, "signature": "hex"}`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QeIdentityBody<'a> {
    #[serde(borrow)]
    enclave_identity: &'a RawValue,
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QeIdentity {
    id: String,
    next_update: String,
}

fn qe_identity(body: &[u8], tdx: bool) -> Result<u64, CollateralFormError> {
    let expected = "a QE identity";
    let outer: QeIdentityBody<'_> = json(body, expected)?;
    signature(&outer.signature, expected)?;
    let identity: QeIdentity = json(outer.enclave_identity.get().as_bytes(), expected)?;
    let id = if tdx { "TD_QE" } else { "QE" };
    if identity.id != id {
        let expected = format!("the identity of the {id}");
        return Err(CollateralFormError::new(&expected, identity.id));
    }
    date(&identity.next_update)
}

fn json<'a, T: Deserialize<'a>>(body: &'a [u8], expected: &str) -> Result<T, CollateralFormError> {
    serde_json::from_slice(body).map_err(|e| CollateralFormError::new(expected, e))
}

/// An ECDSA P-256 signature in hex.
fn signature(text: &str, expected: &str) -> Result<(), CollateralFormError> {
    match hex::decode(text).is_ok_and(|bytes| bytes.len() == 64) {
        true => Ok(()),
        false => Err(CollateralFormError::new(
            &format!("{expected} with a signature"),
            "its signature is not 64 bytes in hex",
        )),
    }
}

fn date(text: &str) -> Result<u64, CollateralFormError> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(|date| u64::try_from(date.unix_timestamp()).ok())
        .ok_or_else(|| CollateralFormError::new("dated (RFC 3339)", text))
}

fn rim(body: &[u8]) -> Result<(), CollateralFormError> {
    let expected = "a SWID tag in XML";
    let text = std::str::from_utf8(body).map_err(|e| CollateralFormError::new(expected, e))?;
    let text = text.trim_start_matches('\u{feff}').trim_start();
    match text.starts_with('<') && text.contains("SoftwareIdentity") {
        true => Ok(()),
        false => Err(CollateralFormError::new(
            expected,
            "there is no SoftwareIdentity in it",
        )),
    }
}

/// Intel's have two.
const MAX_CHAIN: usize = 4;
const MAX_QUOTED: usize = 200;

/// 57230, 3.1: the chip id.
const HWID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::collateral::{RootId, SnpProduct};

    const FMSPC: [u8; 6] = [0x00, 0xa0, 0x6d, 0x08, 0x00, 0x00];
    const TCB: Wanted = Wanted::IntelTcbInfo {
        tdx: true,
        fmspc: FMSPC,
        root: RootId::INTEL,
    };

    fn item(body: &str) -> CollateralItem {
        CollateralItem {
            body: body.as_bytes().to_vec(),
            issuer_chain: include_str!("../roots/intel_sgx.pem").to_owned(),
        }
    }

    fn tcb_body(id: &str, fmspc: &str, next: &str) -> String {
        let signature = "ab".repeat(64);
        format!(
            "{{\"tcbInfo\":{{\"id\":\"{id}\",\"fmspc\":\"{fmspc}\",\"nextUpdate\":\"{next}\"}},\"signature\":\"{signature}\"}}"
        )
    }

    fn refusal(body: &str, wanted: &Wanted) -> String {
        item(body).check_form(wanted).unwrap_err().to_string()
    }

    #[test]
    fn next_update_of_a_tcb_info_is_overlooked() {
        let body = tcb_body("TDX", "00A06D080000", "2025-11-26T13:00:00Z");
        assert_eq!(item(&body).check_form(&TCB), Ok(Some(1_764_162_000)));
    }

    #[test]
    fn tcb_info_of_something_else_is_kept() {
        let next = "2025-11-26T13:00:00Z";
        for (body, said) in [
            (tcb_body("SGX", "00A06D080000", next), "TDX"),
            (tcb_body("TDX", "00A06D080001", next), "00a06d080000"),
            (tcb_body("TDX", "00A06D080000", "soon"), "dated"),
            (
                tcb_body("TDX", "00A06D080000", next).replace("ab", "a"),
                "signature",
            ),
            ("<html>".to_owned(), "a TCB info"),
            (String::new(), "a TCB info"),
        ] {
            let refusal = refusal(&body, &TCB);
            assert!(refusal.contains(said), "{refusal}");
        }
    }

    #[test]
    fn tcb_info_without_its_chain_is_kept() {
        let mut item = item(&tcb_body("TDX", "00a06d080000", "2025-11-26T13:00:00Z"));
        item.issuer_chain.clear();
        assert!(
            item.check_form(&TCB)
                .unwrap_err()
                .to_string()
                .contains("chain")
        );
    }

    #[test]
    fn qe_identity_of_the_other_tee_is_kept() {
        let body = |id: &str| {
            format!(
                "{{\"enclaveIdentity\":{{\"id\":\"{id}\",\"nextUpdate\":\"2025-11-26T13:00:00Z\"}},\"signature\":\"{}\"}}",
                "ab".repeat(64)
            )
        };
        let wanted = |tdx| Wanted::IntelQeIdentity {
            tdx,
            root: RootId::INTEL,
        };
        assert!(item(&body("TD_QE")).check_form(&wanted(true)).is_ok());
        assert!(item(&body("QE")).check_form(&wanted(false)).is_ok());
        assert!(refusal(&body("QE"), &wanted(true)).contains("TD_QE"));
    }

    fn vcek_of(chip_id: &[u8]) -> Wanted {
        Wanted::AmdVcek {
            product: SnpProduct::Milan,
            chip_id: chip_id.to_vec(),
            tcb: crate::collateral::VcekTcb {
                fmc: None,
                bootloader: 3,
                tee: 0,
                snp: 8,
                microcode: 115,
            },
        }
    }

    #[test]
    fn certificate_of_another_chip_is_kept() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        for prefix in [&[][..], &[4, 64]] {
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
                &[1, 3, 6, 1, 4, 1, 3704, 1, 4],
                [prefix, &[7; 64]].concat(),
            )];
            let item = CollateralItem {
                body: params.self_signed(&key).unwrap().der().to_vec(),
                issuer_chain: String::new(),
            };
            item.check_form(&vcek_of(&[7; 64])).unwrap();
            let refused = item.check_form(&vcek_of(&[8; 64])).unwrap_err();
            assert!(refused.to_string().contains("another chip"), "{refused}");
        }
    }

    #[test]
    fn certificate_of_a_real_chip_is_taken_for_anothers() {
        const DATA: &str = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/fixtures/trustee/deps/verifier/test_data/snp"
        );
        let read = |name: &str| std::fs::read(format!("{DATA}/{name}"));
        let (Ok(report), Ok(body)) = (read("test-report.bin"), read("test-vcek.der")) else {
            assert!(
                !std::path::Path::new(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../../../shared/fixtures"
                ))
                .is_dir(),
                "what this test reads is missing from a folder of fixtures that is there"
            );
            println!("SKIPPED: {DATA} is not there");
            return;
        };
        let item = CollateralItem {
            body,
            issuer_chain: String::new(),
        };
        item.check_form(&vcek_of(&report[0x1a0..0x1e0])).unwrap();
        assert!(item.check_form(&vcek_of(&[7; 64])).is_err());
    }

    #[test]
    fn page_of_a_proxy_is_kept_as_anything() {
        let page = "<html><body>Sign in</body></html>";
        for wanted in [
            TCB,
            Wanted::AmdCrl {
                product: SnpProduct::Milan,
            },
            Wanted::IntelRootCrl {
                root: RootId::INTEL,
            },
            Wanted::NvidiaRim { id: "a".to_owned() },
        ] {
            assert!(item(page).check_form(&wanted).is_err(), "{wanted}");
        }
    }

    #[test]
    fn refusal_repeats_control_characters_of_an_answer() {
        let body = tcb_body("\\u001b[2J", "00A06D080000", "2025-11-26T13:00:00Z");
        assert!(!refusal(&body, &TCB).contains('\u{1b}'));
    }
}
