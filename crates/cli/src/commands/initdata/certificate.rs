//! The certificate that a guest is told to trust, read for what TLS will make of it (RFC 5280, RFC 9525).

use std::net::IpAddr;

use der::Decode as _;
use rustls::pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};

/// One certificate of a PEM text.
pub(crate) struct Certificate {
    der: Vec<u8>,
    /// The names it is for: DNS names and addresses.
    pub(crate) names: Vec<String>,
    /// The first and the last second at which it is valid, since 1970.
    pub(crate) validity: (u64, u64),
    /// Whether it may sign others: then the broker's own certificate is another one, and the names stand there.
    pub(crate) is_authority: bool,
    /// Its subject.
    pub(crate) subject: String,
}

impl Certificate {
    /// Reads the certificates of a PEM text.
    ///
    /// # Errors
    /// A sentence: what is no certificate.
    pub(crate) fn read_all(pem: &str) -> Result<Vec<Self>, String> {
        let blocks = pem::parse_many(pem).map_err(|error| error.to_string())?;
        if blocks.iter().any(|block| block.tag().contains("PRIVATE")) {
            return Err(PRIVATE_KEY.to_owned());
        }
        let other = blocks.iter().find(|block| block.tag() != "CERTIFICATE");
        match (blocks.len(), other) {
            (0, _) => Err("it has no PEM block".to_owned()),
            (MANY.., _) => Err(format!("it has more than {} PEM blocks", MANY - 1)),
            (_, Some(other)) => Err(format!(
                "it has a PEM block {:?}",
                other.tag().chars().take(64).collect::<String>()
            )),
            (_, None) => blocks
                .into_iter()
                .map(|block| Self::read(block.into_contents()))
                .collect(),
        }
    }

    fn read(der: Vec<u8>) -> Result<Self, String> {
        let parsed = x509_cert::Certificate::from_der(&der).map_err(|error| error.to_string())?;
        let body = parsed.tbs_certificate();
        let names = body.get_extension::<SubjectAltName>();
        let names = names.map_err(|error| error.to_string())?;
        let constraints = body.get_extension::<BasicConstraints>();
        let constraints = constraints.map_err(|error| error.to_string())?;
        let validity = body.validity();
        Ok(Self {
            names: names
                .map(|(_, names)| names.0.iter().filter_map(name).collect())
                .unwrap_or_default(),
            validity: (
                validity.not_before.to_unix_duration().as_secs(),
                validity.not_after.to_unix_duration().as_secs(),
            ),
            is_authority: constraints.is_some_and(|(_, constraints)| constraints.ca),
            subject: body.subject().to_string(),
            der,
        })
    }

    /// Whether TLS takes it for this host.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let der = CertificateDer::from(self.der.as_slice());
        let certificate = EndEntityCert::try_from(&der);
        let host = ServerName::try_from(host);
        match (certificate, host) {
            (Ok(certificate), Ok(host)) => {
                certificate.verify_is_valid_for_subject_name(&host).is_ok()
            }
            _ => false,
        }
    }
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            let sixteen = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
            four.or(sixteen).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// What [`Certificate::read_all`] says of a text with a private key in it.
pub(crate) const PRIVATE_KEY: &str =
    "it holds a private key, which everybody who sees the pod can read";
const MANY: usize = 17;
