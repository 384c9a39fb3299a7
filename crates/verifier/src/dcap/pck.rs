//! The certificates that a quote carries: the platform's PCK certificate, its CA and the root (SGX PCK Certificate and
//! CRL Profile Specification, 1.3).

use dcap_qvl::intel::PckExtension;

use super::provider::Provider;
use super::quote::Quote;
use crate::collateral::RootId;
use crate::x509::Certificate;

/// A PCK chain, parsed and not believed.
#[derive(Clone, Debug)]
pub(crate) struct PckChain {
    pub(crate) leaf: Certificate,
    /// Those between leaf and root: the CA that issued the leaf comes first.
    pub(crate) intermediates: Vec<Certificate>,
    /// The fingerprint of the last certificate.
    pub(crate) root: RootId,
    /// Whether the Platform CA issued the leaf, else the Processor CA did.
    pub(crate) by_platform_ca: bool,
    /// What the leaf says of the platform.
    pub(crate) extension: PckExtension,
}

impl PckChain {
    /// The chain of a quote, or why it has none.
    pub(crate) fn of(quote: &Quote) -> Result<Self, String> {
        let data = &quote.signature;
        if data.certification_type != PCK_CHAIN {
            return Err(format!(
                "certification data of type {}",
                data.certification_type
            ));
        }
        let mut chain = Certificate::from_pem_chain(&data.certification_data, MOST_CERTIFICATES)
            .map_err(|e| e.to_string())?
            .into_iter();
        let leaf = chain.next().ok_or("no certificate")?;
        let mut intermediates: Vec<_> = chain.collect();
        let root = intermediates
            .pop()
            .ok_or("one certificate, and no root")?
            .root_id();
        let issuer = leaf.issuer();
        let by_platform_ca = match (issuer.contains("Platform"), issuer.contains("Processor")) {
            (true, false) => true,
            (false, true) => false,
            _ => {
                return Err(format!(
                    "a leaf by {issuer}, which is neither a Processor nor a Platform CA"
                ));
            }
        };
        let extension = dcap_qvl::intel::parse_pck_extension_with::<Provider>(leaf.der())
            .map_err(|e| format!("a leaf without the SGX extension: {e:#}"))?;
        Ok(Self {
            leaf,
            intermediates,
            root,
            by_platform_ca,
            extension,
        })
    }

    /// The platform's instance id, which the Platform CA certifies, as the claim spells it: its last byte first.
    pub(crate) fn platform_instance_id(&self) -> Option<String> {
        let id = self.extension.platform_instance_id.as_ref()?;
        Some(hex::encode(id.iter().rev().copied().collect::<Vec<u8>>()))
    }
}

const PCK_CHAIN: u16 = 5;
/// Leaf, CA and root, and one more.
const MOST_CERTIFICATES: usize = 4;
