//! Trust anchors: the roots that a platform's signatures must lead to, and what leading there is worth.
//!
//! The vendors' roots are built in, from the vendors' own publication; `roots/README.md` says where each comes from.
//! A development root is one certificate that its owner made, and whatever rests on it is
//! [`Assurance::Development`].

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;

use crate::Assurance;
use crate::collateral::{RootId, SnpProduct};
use crate::x509::{Certificate, Path, PublicKey, SignatureCache, X509Error};

/// The roots that are trusted, and for what.
#[derive(Clone, Debug, Default)]
pub struct TrustAnchors {
    roots: Vec<Root>,
    attestation_keys: BTreeSet<[u8; 32]>,
    proven: Arc<SignatureCache>,
}

impl TrustAnchors {
    /// No roots at all: nothing that is signed verifies.
    pub fn none() -> Self {
        Self::default()
    }

    /// The roots of the makers of the supported platforms.
    pub fn vendors() -> Self {
        Self {
            roots: builtin(),
            ..Self::default()
        }
    }

    /// Trusts a development root for every platform. What rests on it is never [`Assurance::Hardware`].
    ///
    /// # Errors
    /// [`AnchorError`] when the PEM does not hold exactly one certificate, or a maker's.
    pub fn with_development_root(mut self, pem: &str) -> Result<Self, AnchorError> {
        let root = one_certificate(pem)?;
        if self.has(&root, Assurance::Hardware)? {
            return Err(AnchorError(
                "it is a maker's own root, which is trusted without being named: what rests on it is hardware".to_owned(),
            ));
        }
        let vendors = SnpProduct::ALL.into_iter().map(Vendor::Amd).chain([
            Vendor::Intel,
            Vendor::Nvidia,
            Vendor::NvidiaRim,
            Vendor::Tpm,
        ]);
        self.roots.extend(vendors.map(|vendor| Root {
            vendor,
            assurance: Assurance::Development,
            certificate: root.clone(),
            intermediates: Vec::new(),
        }));
        Ok(self)
    }

    /// Trusts the maker of a TPM, or whoever certifies attestation keys of TPMs.
    ///
    /// # Errors
    /// [`AnchorError`] when the PEM does not hold exactly one certificate, or one that is for development.
    pub fn with_tpm_root(mut self, pem: &str) -> Result<Self, AnchorError> {
        let root = one_certificate(pem)?;
        if self.has(&root, Assurance::Development)? || root.subject().contains(DEVELOPMENT) {
            return Err(AnchorError(
                "it is for development, and what rests on it would pass for hardware: name it as a development root"
                    .to_owned(),
            ));
        }
        self.roots.push(Root {
            vendor: Vendor::Tpm,
            assurance: Assurance::Hardware,
            certificate: root,
            intermediates: Vec::new(),
        });
        Ok(self)
    }

    /// Trusts one attestation key of a TPM, which its owner saw to be that TPM's.
    ///
    /// # Errors
    /// [`AnchorError`] when the bytes are no `SubjectPublicKeyInfo`, in DER or in PEM.
    pub fn with_attestation_key(mut self, bytes: &[u8]) -> Result<Self, AnchorError> {
        let spki = match bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
            true => SubjectPublicKeyInfoDer::from_pem_slice(bytes)
                .map_err(|e| AnchorError(format!("not a public key in PEM: {e}")))?,
            false => bytes.into(),
        };
        let key = PublicKey::from_spki(&spki).map_err(AnchorError::from)?;
        self.attestation_keys.insert(fingerprint(&key)?);
        Ok(self)
    }

    /// The roots of one maker, in the order in which they were trusted.
    pub(crate) fn roots(&self, vendor: Vendor) -> impl Iterator<Item = &Root> {
        self.roots.iter().filter(move |root| root.vendor == vendor)
    }

    /// Verifies a chain, leaf first, that ends in a root of one maker or in what such a root issued. Returns what the
    /// root is worth.
    pub(crate) fn check_chain(
        &self,
        vendor: Vendor,
        chain: &[Certificate],
        now: u64,
    ) -> Result<Assurance, X509Error> {
        let mut why = X509Error::NotAnchored;
        for root in self.roots(vendor) {
            let (intermediates, named) = match chain {
                [] => continue,
                [.., end] if end.issuer() != root.certificate.subject() => continue,
                [leaf] if leaf.der() == root.certificate.der() => continue,
                [_, between @ .., end] if end.der() == root.certificate.der() => (between, true),
                [_, all @ ..] => (all, false),
            };
            let Some(leaf) = chain.first() else { continue };
            let path = Path {
                leaf,
                intermediates,
                root: &root.certificate,
                known: &[],
            };
            match path.verify(now, &[], &self.proven) {
                Ok(()) => return Ok(root.assurance),
                Err(error) if named || why == X509Error::NotAnchored => why = error,
                Err(_) => {}
            }
        }
        Err(why)
    }

    /// The root of one maker that has this fingerprint.
    pub(crate) fn root(&self, vendor: Vendor, id: RootId) -> Option<&Root> {
        self.roots(vendor)
            .find(|root| root.certificate.root_id() == id)
    }

    /// Whether a root with this one's key is worth this already.
    fn has(&self, root: &Certificate, assurance: Assurance) -> Result<bool, AnchorError> {
        let wanted = fingerprint(&root.public_key())?;
        for known in self.roots.iter().filter(|it| it.assurance == assurance) {
            if fingerprint(&known.certificate.public_key())? == wanted {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether this attestation key was enrolled.
    pub(crate) fn is_enrolled(&self, key: &PublicKey) -> bool {
        fingerprint(key).is_ok_and(|key| self.attestation_keys.contains(&key))
    }

    /// The signatures that verified before.
    pub(crate) fn proven(&self) -> &SignatureCache {
        &self.proven
    }
}

/// A trusted certificate, whose it is, and what lies between it and what the platforms send.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    pub(crate) vendor: Vendor,
    pub(crate) assurance: Assurance,
    pub(crate) certificate: Certificate,
    /// Published beside the root and not sent with evidence, such as AMD's ASK and ASVK.
    pub(crate) intermediates: Vec<Certificate>,
}

/// Who makes what a root vouches for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Vendor {
    Amd(SnpProduct),
    Intel,
    Nvidia,
    /// NVIDIA's reference integrity manifests, which have a root of their own.
    NvidiaRim,
    Tpm,
}

/// Why something is no trust anchor.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no trust anchor: {0}")]
pub struct AnchorError(String);

impl From<X509Error> for AnchorError {
    fn from(error: X509Error) -> Self {
        Self(error.to_string())
    }
}

fn one_certificate(pem: &str) -> Result<Certificate, AnchorError> {
    let mut chain = Certificate::from_pem_chain(pem.as_bytes(), 1)?;
    chain
        .pop()
        .ok_or_else(|| AnchorError("no certificate".to_owned()))
}

fn fingerprint(key: &PublicKey) -> Result<[u8; 32], X509Error> {
    use aws_lc_rs::digest;
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, &key.to_spki()?).as_ref());
    Ok(out)
}

fn builtin() -> Vec<Root> {
    let parse = |text: &str| {
        Certificate::from_pem_chain(text.as_bytes(), 3)
            .expect("a built-in root parses, as its test shows")
    };
    let amd = [
        (SnpProduct::Milan, include_str!("roots/amd_milan.pem")),
        (SnpProduct::Genoa, include_str!("roots/amd_genoa.pem")),
        (SnpProduct::Turin, include_str!("roots/amd_turin.pem")),
    ]
    .map(|(product, text)| (Vendor::Amd(product), text));
    let others = [
        (Vendor::Intel, include_str!("roots/intel_sgx.pem")),
        (Vendor::Nvidia, include_str!("roots/nvidia_device.pem")),
        (Vendor::NvidiaRim, include_str!("roots/nvidia_rim.pem")),
    ];
    amd.into_iter()
        .chain(others)
        .map(|(vendor, text)| {
            // Each file has the root first.
            let mut chain = parse(text).into_iter();
            Root {
                vendor,
                assurance: Assurance::Hardware,
                certificate: chain.next().expect("a built-in file is not empty"),
                intermediates: chain.collect(),
            }
        })
        .collect()
}

/// In the names of all certificates that the development platform makes.
const DEVELOPMENT: &str = "O=Strongroom development";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::x509::SignatureCache;

    /// The lines of the table in `roots/README.md`: file, common name, SHA-256, last day.
    fn documented() -> Vec<[String; 4]> {
        include_str!("roots/README.md")
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| {
                let cells: Vec<_> = line
                    .split('|')
                    .map(|cell| cell.trim().trim_matches('`').to_owned())
                    .collect();
                [&cells[1], &cells[2], &cells[3], &cells[4]].map(Clone::clone)
            })
            .collect()
    }

    fn file(vendor: Vendor) -> String {
        match vendor {
            Vendor::Amd(product) => format!("amd_{product}.pem").to_lowercase(),
            Vendor::Intel => "intel_sgx.pem".to_owned(),
            Vendor::Nvidia => "nvidia_device.pem".to_owned(),
            Vendor::NvidiaRim => "nvidia_rim.pem".to_owned(),
            Vendor::Tpm => panic!("no root of a TPM maker is built in"),
        }
    }

    #[test]
    fn built_in_certificates_are_those_of_the_table() {
        let found: Vec<_> = builtin()
            .iter()
            .flat_map(|root| {
                std::iter::once(&root.certificate)
                    .chain(&root.intermediates)
                    .map(|certificate| {
                        let (_, last) = certificate.validity();
                        let last = i64::try_from(last).unwrap();
                        let last = time::OffsetDateTime::from_unix_timestamp(last).unwrap();
                        [
                            file(root.vendor),
                            certificate.common_name().unwrap(),
                            hex::encode(certificate.root_id().0),
                            last.date().to_string(),
                        ]
                    })
            })
            .collect();
        assert_eq!(found, documented());
    }

    #[test]
    fn built_in_roots_signed_themselves_and_what_lies_below_them() {
        for root in builtin() {
            let cache = SignatureCache::default();
            for certificate in std::iter::once(&root.certificate).chain(&root.intermediates) {
                assert!(certificate.is_issued_by_name_of(&root.certificate));
                certificate
                    .check_signed_by(&root.certificate, &cache)
                    .unwrap();
            }
        }
    }

    #[test]
    fn intel_root_has_the_id_that_requests_name() {
        assert!(
            TrustAnchors::vendors()
                .root(Vendor::Intel, RootId::INTEL)
                .is_some()
        );
        assert!(
            TrustAnchors::none()
                .root(Vendor::Intel, RootId::INTEL)
                .is_none()
        );
    }

    #[test]
    fn two_certificates_are_no_development_root() {
        let two = include_str!("roots/intel_sgx.pem").repeat(2);
        assert!(TrustAnchors::none().with_development_root(&two).is_err());
        assert!(TrustAnchors::none().with_development_root("").is_err());
    }

    #[test]
    fn one_root_is_worth_hardware_and_development() {
        let intel = include_str!("roots/intel_sgx.pem");
        let refused = TrustAnchors::vendors().with_development_root(intel);
        assert!(refused.unwrap_err().to_string().contains("maker"));
        let anchors = TrustAnchors::none().with_tpm_root(intel).unwrap();
        assert!(anchors.with_development_root(intel).is_err());
        let anchors = TrustAnchors::none().with_development_root(intel).unwrap();
        assert!(anchors.with_tpm_root(intel).is_err());
        // The same twice is no contradiction.
        let twice = TrustAnchors::none().with_tpm_root(intel).unwrap();
        twice.with_tpm_root(intel).unwrap();
    }

    #[test]
    fn development_root_is_never_worth_hardware() {
        let anchors = TrustAnchors::none()
            .with_development_root(include_str!("roots/nvidia_device.pem"))
            .unwrap();
        for vendor in [
            Vendor::Amd(SnpProduct::Turin),
            Vendor::Intel,
            Vendor::Nvidia,
            Vendor::Tpm,
        ] {
            let found: Vec<_> = anchors.roots(vendor).map(|root| root.assurance).collect();
            assert_eq!(found, [Assurance::Development]);
        }
    }
}
