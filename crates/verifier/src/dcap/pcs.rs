//! Collateral as Intel's Provisioning Certification Service gives it (PCS API, version 4), and the chains that sign it.

use dcap_qvl::QuoteCollateralV3;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::pck::PckChain;
use crate::VerifyError;
use crate::anchors::Root;
use crate::check::{Check, Steps};
use crate::collateral::{Collateral, CollateralItem, Wanted};
use crate::platforms::Verification;
use crate::x509::{Certificate, Crl, Path};

/// What a quote of this platform is verified with: TCB info, QE identity, PCK CRL and root CRL.
pub(super) fn wanted(pck: &PckChain, tdx: bool) -> [Wanted; 4] {
    let root = pck.root;
    [
        Wanted::IntelTcbInfo {
            tdx,
            fmspc: pck.extension.fmspc,
            root,
        },
        Wanted::IntelQeIdentity { tdx, root },
        Wanted::IntelPckCrl {
            platform: pck.by_platform_ca,
            root,
        },
        Wanted::IntelRootCrl { root },
    ]
}

/// The four answers, found and not believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pcs<'a> {
    tcb_info: Signed<'a>,
    qe_identity: Signed<'a>,
    pck_crl: &'a CollateralItem,
    root_crl: &'a CollateralItem,
}

/// A JSON structure as its signature covers it, and who signed it.
#[derive(Clone, Copy, Debug)]
struct Signed<'a> {
    text: &'a str,
    signature: [u8; 64],
    issuer_chain: &'a str,
}

impl<'a> Pcs<'a> {
    /// Finds what is wanted in the collateral that was given.
    pub(super) fn of(
        collateral: &'a Collateral,
        pck: &PckChain,
        tdx: bool,
        steps: &mut Steps,
    ) -> Result<Self, VerifyError> {
        let find = |wanted: Wanted| match collateral.item(&wanted) {
            Some(item) if item.body.len() <= MAX_BODY && item.issuer_chain.len() <= MAX_CHAIN => {
                Ok(item)
            }
            Some(item) => Err(Check::Collateral.failed(
                format!("at most {MAX_BODY} bytes for {wanted}, and a chain of {MAX_CHAIN}"),
                format!(
                    "{} bytes, and a chain of {}",
                    item.body.len(),
                    item.issuer_chain.len()
                ),
            )),
            None => Err(VerifyError::MissingCollateral {
                wanted: Box::new(wanted),
            }),
        };
        let (tcb_info, qe_identity, pck_crl, root_crl) = steps.run(Check::Collateral, || {
            let [tcb_info, qe_identity, pck_crl, root_crl] = wanted(pck, tdx).map(find);
            Ok((tcb_info?, qe_identity?, pck_crl?, root_crl?))
        })?;
        // That the forms are right is recorded when what they hold was read too.
        let mut formed = |check: Check, signed: Result<Signed<'a>, VerifyError>| match signed {
            Ok(signed) => Ok(signed),
            Err(error) => steps.run(check, || Err(error)),
        };
        Ok(Self {
            tcb_info: formed(
                Check::TcbInfoForm,
                signed::<TcbInfoBody<'_>>(tcb_info, Check::TcbInfoForm),
            )?,
            qe_identity: formed(
                Check::QeIdentityForm,
                signed::<QeIdentityBody<'_>>(qe_identity, Check::QeIdentityForm),
            )?,
            pck_crl,
            root_crl,
        })
    }

    /// The chains and the lists: who may sign collateral, and who was revoked.
    pub(super) fn check_chains(
        &self,
        pck: &PckChain,
        root: &Root,
        verification: &mut Verification<'_>,
    ) -> Result<(), VerifyError> {
        let now = verification.now;
        let proven = verification.anchors.proven();
        let steps = &mut *verification.steps;
        let list = |check: Check, item: &CollateralItem, issuer: &Certificate| {
            let failed = |actual: String| {
                check.failed(format!("a current list by {}", issuer.subject()), actual)
            };
            let crl = Crl::from_der(&item.body).map_err(|e| failed(e.to_string()))?;
            if !crl.is_of(issuer) {
                return Err(failed("a list by somebody else".to_owned()));
            }
            crl.check_current(issuer, now, proven)
                .map_err(|e| failed(e.to_string()))?;
            Ok(crl)
        };
        let root_crl = steps.run(Check::RootCrl, || {
            list(Check::RootCrl, self.root_crl, &root.certificate)
        })?;
        let ca = pck.intermediates.first().unwrap_or(&root.certificate);
        let pck_crl = steps.run(Check::PckCrl, || list(Check::PckCrl, self.pck_crl, ca))?;
        let lists = [root_crl, pck_crl];
        steps.run(Check::PckRevocation, || {
            Path {
                leaf: &pck.leaf,
                intermediates: &pck.intermediates,
                root: &root.certificate,
                known: &[],
            }
            .verify(now, &lists, proven)
            .map_err(|e| Check::PckRevocation.failed("no revoked certificate", e))
        })?;
        let [root_crl, _] = lists;
        for (check, signed) in [
            (Check::TcbInfoChain, &self.tcb_info),
            (Check::QeIdentityChain, &self.qe_identity),
        ] {
            steps.run(check, || {
                let failed =
                    |actual: String| check.failed("a signer that the root itself issued", actual);
                let chain = Certificate::from_pem_chain(signed.issuer_chain.as_bytes(), 2)
                    .map_err(|e| failed(e.to_string()))?;
                let (leaf, above) = chain
                    .split_first()
                    .ok_or_else(|| failed("no certificate".to_owned()))?;
                if let Some(other) = above
                    .iter()
                    .find(|certificate| certificate.root_id() != root.certificate.root_id())
                {
                    return Err(failed(format!("{} above the signer", other.subject())));
                }
                Path {
                    leaf,
                    intermediates: &[],
                    root: &root.certificate,
                    known: &[],
                }
                .verify(now, std::slice::from_ref(&root_crl), proven)
                .map_err(|e| failed(e.to_string()))
            })?;
        }
        Ok(())
    }

    /// The form that `dcap-qvl` takes them in.
    pub(super) fn to_qvl(self) -> QuoteCollateralV3 {
        QuoteCollateralV3 {
            pck_crl_issuer_chain: self.pck_crl.issuer_chain.clone(),
            root_ca_crl: self.root_crl.body.clone(),
            pck_crl: self.pck_crl.body.clone(),
            tcb_info_issuer_chain: self.tcb_info.issuer_chain.to_owned(),
            tcb_info: self.tcb_info.text.to_owned(),
            tcb_info_signature: self.tcb_info.signature.to_vec(),
            qe_identity_issuer_chain: self.qe_identity.issuer_chain.to_owned(),
            qe_identity: self.qe_identity.text.to_owned(),
            qe_identity_signature: self.qe_identity.signature.to_vec(),
            pck_certificate_chain: None,
        }
    }

    /// The PCE that the TCB info is for.
    pub(super) fn pce_id(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct TcbInfo {
            #[serde(rename = "pceId")]
            pce_id: String,
        }
        serde_json::from_str(self.tcb_info.text)
            .ok()
            .map(|info: TcbInfo| info.pce_id)
    }
}

/// A body of the PCS: the structure under its name, and the signature over its bytes as they stand.
trait Body<'a>: Deserialize<'a> {
    fn parts(self) -> (&'a RawValue, String);
}

#[derive(Deserialize)]
struct TcbInfoBody<'a> {
    #[serde(rename = "tcbInfo", borrow)]
    structure: &'a RawValue,
    signature: String,
}

impl<'a> Body<'a> for TcbInfoBody<'a> {
    fn parts(self) -> (&'a RawValue, String) {
        (self.structure, self.signature)
    }
}

#[derive(Deserialize)]
struct QeIdentityBody<'a> {
    #[serde(rename = "enclaveIdentity", borrow)]
    structure: &'a RawValue,
    signature: String,
}

impl<'a> Body<'a> for QeIdentityBody<'a> {
    fn parts(self) -> (&'a RawValue, String) {
        (self.structure, self.signature)
    }
}

fn signed<'a, B: Body<'a>>(
    item: &'a CollateralItem,
    check: Check,
) -> Result<Signed<'a>, VerifyError> {
    let failed = |actual: String| check.failed("the PCS's JSON with its signature", actual);
    let body: B = serde_json::from_slice(&item.body).map_err(|e| failed(e.to_string()))?;
    let (structure, signature) = body.parts();
    let signature = hex::decode(&signature)
        .ok()
        .and_then(|bytes| <[u8; 64]>::try_from(bytes).ok())
        .ok_or_else(|| failed("a signature that is not 64 bytes in hex".to_owned()))?;
    Ok(Signed {
        text: structure.get(),
        signature,
        issuer_chain: &item.issuer_chain,
    })
}

/// Real TCB infos have 3 to 30 kilobytes, lists a few hundred at most.
const MAX_BODY: usize = 1024 * 1024;
const MAX_CHAIN: usize = 64 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::dcap::tests::recorded;

    fn item(name: &str) -> Option<CollateralItem> {
        Some(CollateralItem {
            body: recorded(&format!("verifier/test_data/{name}"))?,
            issuer_chain: String::new(),
        })
    }

    #[test]
    fn recorded_bodies_have_the_services_form() {
        let (Some(tcb_info), Some(qe_identity)) =
            (item("tcbInfo.json"), item("enclaveIdentity.json"))
        else {
            return;
        };
        let tcb_info = signed::<TcbInfoBody<'_>>(&tcb_info, Check::TcbInfoForm).unwrap();
        let qe_identity =
            signed::<QeIdentityBody<'_>>(&qe_identity, Check::QeIdentityForm).unwrap();
        let info: dcap_qvl::TcbInfo = serde_json::from_str(tcb_info.text).unwrap();
        assert_eq!(
            (info.fmspc.as_str(), info.tcb_evaluation_data_number),
            ("00A06D080000", 17)
        );
        let identity: dcap_qvl::QeIdentity = serde_json::from_str(qe_identity.text).unwrap();
        assert_eq!(identity.id, "TD_QE");
        // What is signed is the text as it stands, from brace to brace.
        assert!(tcb_info.text.starts_with("{\"id\":\"TDX\"") && tcb_info.text.ends_with('}'));
    }

    #[test]
    fn one_body_in_the_others_place_is_refused() {
        let Some(tcb_info) = item("tcbInfo.json") else {
            return;
        };
        let error = signed::<QeIdentityBody<'_>>(&tcb_info, Check::QeIdentityForm).unwrap_err();
        assert_eq!(error.check(), Check::QeIdentityForm);
    }
}
