//! The URL forms of Intel's provisioning certification service, version 4, and of its caching service (PCCS), which has
//! the same under an address of its owner's; and the forms in which both send lists and chains.

use strongroom_verifier::Wanted;

use super::service::{Ask, Service};
use crate::config::{CollateralConfig, IntelKind};

/// The request for something of Intel's; nothing for what is another vendor's.
pub(super) fn ask(config: &CollateralConfig, wanted: &Wanted) -> Option<Ask> {
    let base = config.intel_url.trim_end_matches('/');
    let tee = |tdx: &bool| if *tdx { "tdx" } else { "sgx" };
    let (path, limit, chain_headers): (_, _, &[&str]) = match wanted {
        Wanted::IntelTcbInfo { tdx, fmspc, .. } => (
            format!(
                "{}/certification/v4/tcb?fmspc={}",
                tee(tdx),
                hex::encode(fmspc)
            ),
            super::MAX_JSON,
            &["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"],
        ),
        Wanted::IntelQeIdentity { tdx, .. } => (
            format!("{}/certification/v4/qe/identity", tee(tdx)),
            super::MAX_JSON,
            &["SGX-Enclave-Identity-Issuer-Chain"],
        ),
        Wanted::IntelPckCrl { platform, .. } => (
            format!(
                "sgx/certification/v4/pckcrl?ca={}&encoding=der",
                if *platform { "platform" } else { "processor" }
            ),
            super::MAX_CRL,
            &["SGX-PCK-CRL-Issuer-Chain"],
        ),
        Wanted::IntelRootCrl { .. } => match config.intel_kind {
            IntelKind::Pccs => (
                "sgx/certification/v4/rootcacrl".to_owned(),
                super::MAX_CRL,
                &[],
            ),
            IntelKind::Pcs => {
                return Some(Ask {
                    service: Service::IntelRootCrl,
                    url: config.intel_root_crl_url.clone(),
                    limit: super::MAX_CRL,
                    chain_headers: &[],
                });
            }
        },
        _ => return None,
    };
    Some(Ask {
        service: Service::Intel,
        url: format!("{base}/{path}"),
        limit,
        chain_headers,
    })
}

/// A revocation list as DER: a PCCS may send it in hex.
pub(super) fn crl(body: Vec<u8>) -> Vec<u8> {
    match hex::decode(body.trim_ascii()) {
        Ok(der) if !der.is_empty() => der,
        _ => body,
    }
}

/// PEM from its URL-encoded form (RFC 3986, 2.1). A `+` is one: base64 has them.
pub(super) fn chain(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut decoded = [0];
        let digits = [rest.next(), rest.next()].map(Option::unwrap_or_default);
        hex::decode_to_slice(digits, &mut decoded)
            .map_err(|_| "its issuer chain is not URL-encoded".to_owned())?;
        bytes.extend(decoded);
    }
    String::from_utf8(bytes).map_err(|_| "its issuer chain is no text".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use strongroom_verifier::RootId;

    use super::*;

    const ROOT: RootId = RootId::INTEL;

    #[test]
    fn address_is_not_the_one_that_intel_documents() {
        let mut config = CollateralConfig::default();
        let url = |config: &CollateralConfig, wanted: &Wanted| ask(config, wanted).unwrap().url;
        let base = "https://api.trustedservices.intel.com";
        let tcb = |tdx| Wanted::IntelTcbInfo {
            tdx,
            fmspc: [0, 0xa0, 0x6d, 8, 0, 0],
            root: ROOT,
        };
        let qe = |tdx| Wanted::IntelQeIdentity { tdx, root: ROOT };
        let crl = |platform| Wanted::IntelPckCrl {
            platform,
            root: ROOT,
        };
        let root = Wanted::IntelRootCrl { root: ROOT };
        for (wanted, path) in [
            (tcb(true), "tdx/certification/v4/tcb?fmspc=00a06d080000"),
            (tcb(false), "sgx/certification/v4/tcb?fmspc=00a06d080000"),
            (qe(true), "tdx/certification/v4/qe/identity"),
            (qe(false), "sgx/certification/v4/qe/identity"),
            (
                crl(true),
                "sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            ),
            (
                crl(false),
                "sgx/certification/v4/pckcrl?ca=processor&encoding=der",
            ),
        ] {
            assert_eq!(url(&config, &wanted), format!("{base}/{path}"));
        }
        assert_eq!(
            url(&config, &root),
            "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
        );
        config.intel_kind = IntelKind::Pccs;
        config.intel_url = "https://pccs.example:8081/".to_owned();
        assert_eq!(
            url(&config, &root),
            "https://pccs.example:8081/sgx/certification/v4/rootcacrl"
        );
        assert_eq!(
            url(&config, &qe(true)),
            "https://pccs.example:8081/tdx/certification/v4/qe/identity"
        );
    }

    #[test]
    fn list_in_hex_is_kept_as_text() {
        assert_eq!(crl(b"3000\n".to_vec()), [0x30, 0]);
        assert_eq!(crl(vec![0x30, 0]), [0x30, 0]);
        assert_eq!(crl(Vec::new()), Vec::<u8>::new());
    }

    #[test]
    fn chain_is_decoded_wrongly() {
        assert_eq!(chain("a%0Ab%2Bc+d%20e").unwrap(), "a\nb+c+d e");
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert!(chain(bad).is_err(), "{bad}");
        }
    }
}
