//! The server's side of TLS: rustls on aws-lc-rs, named explicitly, HTTP/1.1 only.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_cert::der::Decode as _;

use crate::BrokerError;
use crate::config::TlsConfig;
use crate::key_file::{read_certificates, read_private};

/// A certificate and its key, ready to serve.
pub(crate) struct Server {
    pub(crate) config: Arc<ServerConfig>,
    /// When the certificate ends, in seconds since 1970, where that can be read.
    pub(crate) ends: Option<u64>,
    /// The SHA-256 of the certificates, by which another one is told apart.
    pub(crate) digest: [u8; 32],
}

/// Reads certificate and key and checks that they belong together.
pub(crate) fn server_config(tls: &TlsConfig) -> Result<Server, BrokerError> {
    let certificates = read_certificates(&tls.certificate)?;
    let Some(leaf) = certificates.first() else {
        return Err(BrokerError::Config {
            path: tls.certificate.clone(),
            message: "there is no certificate in it".to_owned(),
        });
    };
    let ends = validity(leaf).map(|(_, ends)| ends);
    let mut hash = digest::Context::new(&digest::SHA256);
    certificates.iter().for_each(|one| hash.update(one));
    let mut digest = [0; 32];
    digest.copy_from_slice(hash.finish().as_ref());
    let key =
        PrivateKeyDer::from_pem_slice(read_private(&tls.private_key)?.as_bytes()).map_err(|e| {
            BrokerError::Config {
                path: tls.private_key.clone(),
                message: format!("not a PEM private key: {e}"),
            }
        })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => BrokerError::Config {
                path: tls.certificate.clone(),
                message: format!(
                    "its first certificate is for another key than {}",
                    tls.private_key.display()
                ),
            },
            other => other.into(),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Server {
        config: Arc::new(config),
        ends,
        digest,
    })
}

/// From when and until when a certificate says it is good, in seconds since 1970.
pub(crate) fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let validity = parsed.tbs_certificate().validity();
    let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
    Some((seconds(validity.not_before), seconds(validity.not_after)))
}
